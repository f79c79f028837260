//! `cargo xtask web` and the browser suite: the runtime as an npm package, the
//! demo page, and what the suite in Chromium is fed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

mod gpu;

use crate::{
    bench,
    examples::{EXAMPLES, Trust},
    plugins,
    process::{finish, run, run_long, step},
    setup::{
        CHROMIUM, JUDGES, NODE, Presence, WASM_BINDGEN, WASM_TARGET, chromium, ensure_present,
        node_modules, python, wasm_bindgen,
    },
    tally::Tally,
    test::copy_tree,
    workspace::{Workspace, cargo},
};

/// What the browser's WebAssembly is built with: every engine has had SIMD
/// since 2023.
const RUSTFLAGS: &str = "-C target-feature=+simd128";

/// Serve the demo page until it is interrupted.
pub fn main(workspace: &Workspace) -> Result<()> {
    plugins::build(workspace)?;
    need(ensure_present(workspace, &NODE)?)?;
    build(workspace)?;
    let trust = packages(workspace)?;
    drop(trust);
    let status = Command::new("node")
        .arg(workspace.root.join("web/demo/serve.mjs"))
        .arg(dist(workspace))
        .status()
        .context("cannot start node")?;
    ensure!(status.success(), "the server ended with {status}");
    Ok(())
}

fn need(presence: Presence) -> Result<()> {
    match presence {
        Presence::Present => Ok(()),
        Presence::Absent(reason) => bail!(reason),
    }
}

fn dist(workspace: &Workspace) -> PathBuf {
    workspace.root.join("dist/web")
}

/// Build the npm package into `dist/web/package`, beside the demo page.
pub fn build(workspace: &Workspace) -> Result<()> {
    ensure_present(workspace, &WASM_TARGET)?;
    need(ensure_present(workspace, &WASM_BINDGEN)?)?;
    let (dist, package) = (dist(workspace), dist(workspace).join("package"));
    if dist.exists() {
        fs::remove_dir_all(&dist).with_context(|| format!("cannot clear {}", dist.display()))?;
    }
    for tier in [Tier::Cpu, Tier::Gpu] {
        tier.build(workspace, &package)?;
    }
    for (from, to) in [("js", "package"), ("demo", "demo")] {
        copy_tree(&workspace.root.join("web").join(from), &dist.join(to))?;
    }
    Ok(())
}

/// The two builds of the runtime: a page starts with the small one, and fetches the
/// other where it puts models on a GPU.
#[derive(Clone, Copy)]
enum Tier {
    Cpu,
    Gpu,
}

impl Tier {
    fn build(self, workspace: &Workspace, package: &Path) -> Result<()> {
        let mut command = Command::new(cargo());
        command
            .args(["build", "--profile", "web", "--target", "wasm32-unknown-unknown"])
            .args(["--package", "headland-web"])
            .env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUSTFLAGS", RUSTFLAGS)
            .current_dir(&workspace.root);
        // A folder of its own: in one, each build would be the other's stale one.
        let (what, name, target) = match self {
            Self::Cpu => ("building the browser runtime", "headland_web", workspace.target.clone()),
            Self::Gpu => (
                "building the browser runtime with its GPU tier",
                "headland_web_gpu",
                workspace.target.join("web-gpu"),
            ),
        };
        command.arg("--target-dir").arg(&target);
        if matches!(self, Self::Gpu) {
            command.args(["--features", "gpu"]);
        }
        step(&format!("{what} (from nothing, tract or burn take a while)"), || {
            run_long(&mut command)
        })?;
        run(Command::new(wasm_bindgen(workspace))
            .args(["--target", "web", "--no-typescript"])
            .args(["--remove-name-section", "--remove-producers-section"])
            .args(["--out-name", name, "--out-dir"])
            .arg(package)
            .arg(target.join("wasm32-unknown-unknown/web/headland_web.wasm")))?;
        Ok(())
    }
}

/// The examples, signed for the page, with what it plays through.
fn packages(workspace: &Workspace) -> Result<Trust> {
    let folder = dist(workspace).join("packages");
    fs::create_dir_all(&folder)?;
    let trust = Trust::new(workspace, &workspace.fresh_folder("web-trust")?)?;
    for example in &EXAMPLES {
        example.package(workspace, &trust, &folder)?;
    }
    fs::copy(trust.policy(), folder.join("trust.toml"))?;
    let samples = dist(workspace).join("samples");
    copy_tree(&workspace.root.join("examples/vision-digits/inputs"), &samples.join("digits"))?;
    fs::copy(
        workspace.root.join("examples/telemetry-shuttle/inputs/telemetry.csv"),
        samples.join("telemetry.csv"),
    )?;
    Ok(trust)
}

/// The browser's tests by themselves.
pub fn test(workspace: &Workspace) -> Result<()> {
    plugins::build(workspace)?;
    let mut tally = Tally::default();
    let judges = ensure_present(workspace, &JUDGES)?;
    checks(workspace, &judges, &mut tally)?;
    tally.close()
}

/// The models of `cargo xtask bench inference` in Chromium, beside ONNX Runtime
/// Web: a table, and the same as JSON and as a picture.
pub fn bench(workspace: &Workspace) -> Result<()> {
    for wanted in [&NODE, &CHROMIUM] {
        need(ensure_present(workspace, wanted)?)?;
    }
    build(workspace)?;
    let modules = node_modules(workspace);
    if !modules.join("onnxruntime-web/package.json").exists() {
        step("getting ONNX Runtime Web", || {
            run(Command::new("npm")
                .args(["install", "--no-audit", "--no-fund", "--ignore-scripts"])
                .arg(format!("onnxruntime-web@{ORT_WEB_VERSION}"))
                .current_dir(modules.parent().unwrap_or(&modules)))
        })?;
    }
    let models = bench::models(workspace)?;
    let folder = workspace.target.join("bench");
    let figures = step(&format!("measuring {} models in Chromium", models.len()), || {
        run(Command::new("node")
            .arg(workspace.root.join("web/tests/bench.mjs"))
            .args([&dist(workspace), &folder])
            .args(models)
            .env("HEADLAND_NODE_MODULES", &modules)
            .env("HEADLAND_CHROMIUM", chromium()))
    })?;
    println!("{figures}");
    for file in ["web.md", "web.svg", "web.json"] {
        println!("{}", folder.join(file).display());
    }
    Ok(())
}

const ORT_WEB_VERSION: &str = "1.30.0";

/// The browser suite, and ONNX's node tests in Chromium.
pub fn checks(workspace: &Workspace, judges: &Presence, tally: &mut Tally) -> Result<()> {
    let nodes = "ONNX's node tests in Chromium";
    for wanted in [&NODE, &CHROMIUM] {
        if let Presence::Absent(reason) = ensure_present(workspace, wanted)? {
            tally.skip("the browser suite", &reason);
            tally.skip(nodes, &reason);
            return Ok(());
        }
    }
    suite(workspace, tally)?;
    match judges {
        Presence::Present => tally.check(nodes, || conformance(workspace)),
        Presence::Absent(reason) => tally.skip(nodes, reason),
    }
    Ok(())
}

fn conformance(workspace: &Workspace) -> Result<()> {
    let judge = || {
        let mut command = Command::new(python(workspace));
        command.arg(workspace.root.join("host/inference/tests/conformance.py"));
        command
    };
    let cases = run(judge().arg("--cases"))?;
    let verdicts = run(Command::new("node")
        .arg(workspace.root.join("web/tests/conformance.mjs"))
        .arg(dist(workspace))
        .arg(cases.trim())
        .env("HEADLAND_NODE_MODULES", node_modules(workspace))
        .env("HEADLAND_CHROMIUM", chromium()))?;
    let file = workspace.fresh_folder("web-conformance")?.join("verdicts.json");
    fs::write(&file, verdicts)?;
    let said = run(judge().args(["--device", "chromium", "--verdicts"]).arg(&file))?;
    println!("        {}", said.lines().next_back().unwrap_or_default());
    Ok(())
}

fn suite(workspace: &Workspace, tally: &mut Tally) -> Result<()> {
    let what = "the browser suite";
    build(workspace)?;
    let trust = packages(workspace)?;
    let fixtures = workspace.fresh_folder("web-fixtures")?;
    step("making the browser suite's fixtures", || {
        native_answers(workspace, &trust, &fixtures)?;
        tampered(workspace, &trust, &fixtures)?;
        hostile(workspace, &trust, &fixtures)
    })?;
    gpu::fixtures(workspace, &trust, &fixtures)?;
    let finished = step("the browser suite, in Chromium", || {
        finish(
            Command::new("node")
                .arg(workspace.root.join("web/tests/browser.mjs"))
                .arg(dist(workspace))
                .arg(&fixtures)
                .env("HEADLAND_NODE_MODULES", node_modules(workspace))
                .env("HEADLAND_CHROMIUM", chromium()),
        )
    })?;
    let counts = finished.stdout.lines().rev().find_map(closing);
    for line in finished.stdout.lines().filter(|line| line.starts_with("FAIL")) {
        println!("  {line}");
    }
    match counts {
        Some((passed, failed, skipped)) if passed > 0 => {
            tally.add(passed, failed, skipped);
            if finished.status.success() && failed == 0 {
                println!("ok      {what}");
                fs::remove_dir_all(&fixtures)?;
            }
        }
        _ => tally.check(what, || bail!("no tests ran\n{}{}", finished.stdout, finished.stderr)),
    }
    Ok(())
}

/// `N passed, M failed, K skipped`
fn closing(line: &str) -> Option<(u64, u64, u64)> {
    let mut counts = line.split(", ").map(|part| part.split_once(' '));
    let mut count = |what: &str| {
        let (n, word) = counts.next()??;
        (word == what).then(|| n.parse().ok()).flatten()
    };
    Some((count("passed")?, count("failed")?, count("skipped")?))
}

/// The packages, and what the native runtime says of the examples' inputs.
fn native_answers(workspace: &Workspace, trust: &Trust, fixtures: &Path) -> Result<()> {
    fs::copy(trust.policy(), fixtures.join("trust.toml"))?;
    for example in &EXAMPLES {
        let file = format!("{}.tar", example.name);
        let package = fixtures.join(&file);
        fs::copy(dist(workspace).join("packages").join(&file), &package)?;
        let lines = run(example.command(workspace, "run", trust, &package).arg("--json"))?;
        let (mut answers, mut windows) = (Vec::new(), Vec::new());
        for line in lines.lines() {
            let text = line;
            let line: Value = serde_json::from_str(text)?;
            if line["report"]["kind"] == "window" {
                // As it was printed: numbers lose their last bit in a `Value`.
                windows.push(text);
            }
            if line["kind"] == "frame" {
                answers.push(json!({
                    "input": Value::Null,
                    "media_type": Value::Null,
                    "prediction": line["prediction"],
                }));
            }
        }
        let given = given(workspace, example.name)?;
        ensure!(given.len() == answers.len(), "{}: {} frames", example.name, answers.len());
        for (answer, (input, media_type)) in answers.iter_mut().zip(given) {
            answer["input"] = input;
            answer["media_type"] = media_type.into();
        }
        ensure!(!answers.is_empty(), "{}: no frame", example.name);
        let write = |what: &str, json: String| {
            fs::write(fixtures.join(format!("{what}-{}.json", example.name)), json)
        };
        write("native", serde_json::to_string(&answers)?)?;
        ensure!(!windows.is_empty(), "{}: no window", example.name);
        write("native-windows", format!("[{}]", windows.join(",")))?;
    }
    let inputs = fixtures.join("inputs");
    copy_tree(&workspace.root.join("examples/vision-digits/inputs"), &inputs.join("digits"))?;
    fs::copy(
        workspace.root.join("examples/telemetry-shuttle/inputs/telemetry.csv"),
        inputs.join("telemetry.csv"),
    )?;
    Ok(())
}

/// What the pipeline of an example is given, frame by frame, as a page gives it:
/// a picture by its place among the fixtures, a row of sensors as JSON.
fn given(workspace: &Workspace, example: &str) -> Result<Vec<(Value, &'static str)>> {
    let inputs = workspace.root.join("examples").join(example).join("inputs");
    if example == "vision-digits" {
        let mut names: Vec<String> = fs::read_dir(&inputs)?
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect::<Result<_>>()?;
        names.sort();
        let picture = |name| (format!("inputs/digits/{name}").into(), "image/png");
        return Ok(names.into_iter().map(picture).collect());
    }
    let csv = fs::read_to_string(inputs.join("telemetry.csv"))?;
    let mut lines = csv.lines();
    let header: Vec<&str> = lines.next().context("an empty table")?.split(',').collect();
    let row = |line: &str| {
        let cell = |text: &str| match text.parse::<f64>() {
            _ if text.is_empty() => Value::Null,
            Ok(number) => json!(number),
            Err(_) => json!(text),
        };
        let cells = header.iter().zip(line.split(',')).filter(|(name, _)| **name != "class");
        let object = cells.map(|(name, text)| ((*name).to_owned(), cell(text)));
        (Value::Object(object.collect()), "application/json")
    };
    Ok(lines.map(row).collect())
}

/// The vision example, changed in every way that the native runtime refuses,
/// each with what that says.
fn tampered(workspace: &Workspace, trust: &Trust, fixtures: &Path) -> Result<()> {
    let whole = fs::read(fixtures.join("vision-digits.tar"))?;
    let mut cases: Vec<(String, Vec<u8>)> = Vec::new();
    for (index, entry) in entries(&whole)?.iter().enumerate() {
        // The index also holds a tag, which anyone may change: nothing is found by it.
        if whole[entry.header..].starts_with(b"blobs/") {
            let mut changed = whole.clone();
            changed[entry.data + entry.len / 2] ^= 1;
            cases.push((format!("one-byte-of-file-{index}"), changed));
        }
        // Without the file: a blob that is missing, or no index at all.
        let end = entry.data + entry.len.next_multiple_of(512);
        let missing = [&whole[..entry.header], &whole[end..]].concat();
        cases.push((format!("without-file-{index}"), missing));
        let twice = [&whole[..end], &whole[entry.header..]].concat();
        cases.push((format!("file-{index}-twice"), twice));
    }
    cases.push(("cut-short".to_owned(), whole[..whole.len() / 2].to_vec()));
    cases.push(("empty".to_owned(), Vec::new()));
    cases.push(("not-a-package".to_owned(), vec![b'x'; 4096]));
    for (case, name) in [("path-traversal", &b"../../evil"[..]), ("absolute-path", b"/etc/evil")] {
        let first = entries(&whole)?.into_iter().next().context("an empty package")?;
        let mut renamed = whole.clone();
        rename(&mut renamed[first.header..first.header + 512], name);
        cases.push((case.to_owned(), renamed));
    }
    let folder = fixtures.join("tampered");
    fs::create_dir_all(&folder)?;
    for (name, bytes) in cases {
        let tar = folder.join(&name).with_extension("tar");
        fs::write(&tar, bytes)?;
        refused(workspace, trust, &tar)?;
    }
    // Signed by somebody else, and by nobody.
    let other = Trust::new(workspace, &workspace.fresh_folder("web-other")?)?;
    let example = EXAMPLES.last().context("there are examples")?;
    let signed = example.package(workspace, &other, &folder)?;
    let stranger = folder.join("another-key.tar");
    fs::rename(signed, &stranger)?;
    refused(workspace, trust, &stranger)?;
    let unsigned = folder.join("unsigned.tar");
    run(Command::new(workspace.headland())
        .args(["package", "build"])
        .arg(workspace.root.join("examples").join(example.name))
        .arg("-o")
        .arg(&unsigned))?;
    refused(workspace, trust, &unsigned)
}

/// Keep the native runtime's words for a refusal beside the package.
fn refused(workspace: &Workspace, trust: &Trust, tar: &Path) -> Result<()> {
    let refusal = finish(
        Command::new(workspace.headland())
            .args(["package", "verify", "--json"])
            .arg(tar)
            .arg("--policy")
            .arg(trust.policy()),
    )?;
    ensure!(refusal.status.code() == Some(1), "{} ended with {}", tar.display(), refusal.status);
    let said: Value = serde_json::from_str(&refusal.stdout)
        .with_context(|| format!("{}: {}{}", tar.display(), refusal.stdout, refusal.stderr))?;
    let reason = said["error"].as_array().and_then(|reasons| reasons.last()?.as_str());
    fs::write(tar.with_extension("error"), reason.context("a refusal has a reason")?)?;
    Ok(())
}

/// A file in a tar: where its header and its data begin, and how long that is.
struct TarEntry {
    header: usize,
    data: usize,
    len: usize,
}

/// The files of a tar that Headland wrote.
fn entries(tar: &[u8]) -> Result<Vec<TarEntry>> {
    let mut found = Vec::new();
    let mut header = 0;
    while let Some(block) = tar.get(header..header + 512).filter(|block| block[0] != 0) {
        let size = std::str::from_utf8(&block[124..135])?.trim_matches(['\0', ' ']);
        let len = usize::from_str_radix(size, 8)?;
        let data = header + 512;
        if block[156] == b'0' {
            found.push(TarEntry { header, data, len });
        }
        header = data + len.next_multiple_of(512);
    }
    Ok(found)
}

/// Give a tar's file another name, with the checksum that goes with it.
fn rename(header: &mut [u8], name: &[u8]) {
    header[..100].fill(0);
    header[..name.len()].copy_from_slice(name);
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// Packages whose one stage attacks, and one whose monitor does: signed, so that
/// only limits stop them.
fn hostile(workspace: &Workspace, trust: &Trust, fixtures: &Path) -> Result<()> {
    let folder = fixtures.join("hostile");
    let sources = workspace.fresh_folder("web-hostile")?;
    fs::create_dir_all(&folder)?;
    let stage = attacker(workspace, &sources, "preprocess")?;
    let package = |source: &Path, name: &str| {
        package(workspace, trust, source, &folder.join(name).with_extension("tar"))
    };
    for attack in ATTACKS {
        let source = sources.join(attack);
        fs::create_dir_all(&source)?;
        fs::copy(&stage, source.join("hostile.wasm"))?;
        fs::write(
            source.join("package.toml"),
            format!(
                "name = \"{attack}\"\nversion = \"1.0.0\"\nrelease = 1\n\
                 [[entry]]\nrole = \"component\"\nname = \"hostile\"\npath = \"hostile.wasm\"\n"
            ),
        )?;
        fs::write(
            source.join("pipeline.toml"),
            format!(
                "schema = 1\nname = \"{attack}\"\noutput = \"victim\"\n\
                 [[stage]]\nid = \"victim\"\ncomponent = \"hostile\"\nworld = \"preprocess\"\n\
                 inputs = [\"source\"]\nconfig = {{ attack = \"{attack}\", times = 1 }}\n\
                 limits = {{ memory-mib = 8, time-ms = 300, tensor-mib = 16, hostcalls = 5000 }}\n"
            ),
        )?;
        package(&source, attack)?;
    }
    // The vision example with a monitor that does not end.
    let source = sources.join("monitor-loop");
    variant(workspace, &source, "vision-digits", &|text| {
        let quality = "[[monitor]]\nid = \"quality\"\n";
        let (before, monitor) = text.split_once(quality).unwrap_or((text, ""));
        let after = monitor.find("\n[[").map_or("", |end| &monitor[end..]);
        format!(
            "{before}{quality}component = \"monitor-quality\"\n\
             reference = \"training-images\"\nconfig = {{ attack = \"infinite-loop\" }}\n\
             taps = [{{ from = \"prediction\" }}]\nlimits.time-ms = 300\n{after}"
        )
    })?;
    let monitor = attacker(workspace, &sources, "monitor")?;
    fs::copy(monitor, source.join("components/monitor-quality.wasm"))?;
    package(&source, "monitor-loop")
}

/// An example with another `pipeline.toml`, in a folder of its own with the
/// components that it names.
fn variant(
    workspace: &Workspace,
    source: &Path,
    example: &str,
    change: &dyn Fn(&str) -> String,
) -> Result<PathBuf> {
    copy_tree(&workspace.root.join("examples").join(example), source)?;
    copy_tree(&workspace.components(), &source.join("components"))?;
    let edit = |file: &str, change: &dyn Fn(&str) -> String| -> Result<()> {
        let path = source.join(file);
        let text = fs::read_to_string(&path)?;
        fs::write(&path, change(&text))?;
        Ok(())
    };
    edit("package.toml", &|text| text.replace("../../dist/components", "components"))?;
    edit("pipeline.toml", change)?;
    Ok(source.to_owned())
}

/// Build a package and sign it.
fn package(workspace: &Workspace, trust: &Trust, source: &Path, tar: &Path) -> Result<()> {
    let headland = || Command::new(workspace.headland());
    run(headland().args(["package", "build"]).arg(source).arg("-o").arg(tar))?;
    run(headland().args(["package", "sign"]).arg(tar).arg("--key").arg(trust.key()))?;
    Ok(())
}

/// The attacker as a component of a world.
fn attacker(workspace: &Workspace, folder: &Path, world: &str) -> Result<PathBuf> {
    run_long(
        Command::new(cargo())
            .args(["build", "--profile", "plugin", "--target", "wasm32-unknown-unknown"])
            .args(["--package", "hostile", "--features", world])
            .current_dir(&workspace.root),
    )?;
    let component = folder.join(world).with_extension("wasm");
    run(Command::new(workspace.headland())
        .args(["plugin", "build", "--wasm"])
        .arg(workspace.target.join("wasm32-unknown-unknown/plugin/hostile.wasm"))
        .arg("-o")
        .arg(&component))?;
    Ok(component)
}

/// What the attacker does; see `host/engine/tests/hostile`.
const ATTACKS: [&str; 10] = [
    "infinite-loop",
    "trap",
    "memory-bomb",
    "stack-overflow",
    "hostcalls",
    "log-flood",
    "huge-list",
    "wrong-length",
    "bad-bool",
    "tensor-flood",
];
