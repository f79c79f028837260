//! Monitors as their users meet them: recorded data replayed, summaries of a
//! fleet merged, and other people's numbers.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{
    examples::{EXAMPLES, Example, Trust},
    plugins,
    process::{finish, run},
    setup::{JUDGES, Presence, ensure_present, python},
    tally::Tally,
    test::copy_tree,
    workspace::{Workspace, array},
};

/// `cargo xtask test monitors`.
pub fn test(workspace: &Workspace) -> Result<()> {
    let mut tally = Tally::default();
    let components = plugins::build(workspace)?;
    plugins::check_monitors(&components, &mut tally);
    let judges = ensure_present(workspace, &JUDGES)?;
    checks(workspace, &judges, &mut tally)?;
    tally.close()
}

/// Run every check of monitors.
pub fn checks(workspace: &Workspace, judges: &Presence, tally: &mut Tally) -> Result<()> {
    let folder = workspace.fresh_folder("test-monitors")?;
    let trust = Trust::new(workspace, &folder)?;
    for example in &EXAMPLES {
        let mut package = None;
        tally.check(&format!("{}: replayed, the drift is found and no more", example.name), || {
            let built = example.package(workspace, &trust, &folder)?;
            let replayed = replay(workspace, &trust, &folder, example, &built);
            package = Some(built);
            replayed
        });
        let Some(package) = package else { continue };
        tally.check(&format!("{}: a reference learnt from recorded rows", example.name), || {
            learn(workspace, &trust, &folder, example, &package)
        });
        if example.name == "telemetry-shuttle" {
            tally.check("a fleet's summaries merge in any order to the same bytes", || {
                fleet(workspace, &trust, &folder, &package)
            });
            tally.check("what leaves a device is noised, charged, and then refused", || {
                privacy(workspace, &trust, &folder, &package)
            });
            tally.check("labels that come later are judged with their predictions", || {
                labels(workspace, &trust, &folder)
            });
            tally.check("a reference of another model is refused when it is built", || {
                foreign_reference(workspace, &folder)
            });
        }
    }
    for script in judge_scripts(workspace)? {
        let name = script.strip_prefix(&workspace.root).unwrap_or(&script).display().to_string();
        match judges {
            Presence::Absent(reason) => tally.skip(&name, reason),
            Presence::Present => tally.check(&name, || {
                let examples = workspace.target.join("release/examples");
                let said = run(Command::new(python(workspace)).arg(&script).arg(examples))?;
                println!("        {}", said.lines().next_back().unwrap_or_default());
                Ok(())
            }),
        }
    }
    fs::remove_dir_all(&folder)?;
    Ok(())
}

/// The scripts that compare our numbers with other people's.
fn judge_scripts(workspace: &Workspace) -> Result<Vec<PathBuf>> {
    let mut scripts = Vec::new();
    for parent in ["host", "plugins"] {
        for package in fs::read_dir(workspace.root.join(parent))? {
            let Ok(tests) = fs::read_dir(package?.path().join("tests")) else { continue };
            for entry in tests {
                let path = entry?.path();
                let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
                if name.starts_with("judge") && name.ends_with(".py") {
                    scripts.push(path);
                }
            }
        }
    }
    ensure!(!scripts.is_empty(), "no judge's script found");
    scripts.sort();
    Ok(scripts)
}

/// JSON lines that a command printed.
fn lines(command: &mut Command) -> Result<Vec<Value>> {
    run(command)?
        .lines()
        .map(|line| serde_json::from_str(line).with_context(|| format!("not JSON: {line}")))
        .collect()
}

fn headland(workspace: &Workspace, arguments: &[&str]) -> Command {
    let mut command = Command::new(workspace.headland());
    command.args(arguments);
    command
}

/// The windows that were reported: monitor, first frame, and whether anything
/// was found in it.
fn windows(lines: &[Value]) -> Vec<(String, u64, bool)> {
    let reports = lines.iter().filter(|l| l["kind"] == "report").map(|l| &l["report"]);
    reports
        .filter(|r| r["kind"] == "window")
        .filter_map(|r| {
            let found = array(&r["findings"]).iter().any(|f| f["severity"] != "info");
            Some((r["monitor"].as_str()?.to_owned(), r["frames"][0].as_u64()?, found))
        })
        .collect()
}

/// Replay the example's input, half of which has drifted, and draw it.
fn replay(
    workspace: &Workspace,
    trust: &Trust,
    folder: &Path,
    example: &Example,
    package: &Path,
) -> Result<()> {
    for form in ["svg", "html"] {
        let plot = folder.join(example.name).with_extension(form);
        let said = lines(
            example.replay(workspace, trust, package).arg("--json").arg("--plot").arg(&plot),
        )?;
        let windows = windows(&said);
        let (before, after): (Vec<_>, Vec<_>) =
            windows.iter().partition(|(_, first, _)| *first < example.drift_from);
        ensure!(!before.is_empty() && !after.is_empty(), "windows: {windows:?}");
        let early = before.iter().find(|(_, _, found)| *found);
        ensure!(early.is_none(), "found before the drift: {early:?}");
        let late = after.iter().filter(|(monitor, _, _)| monitor == "drift");
        let missed: Vec<_> = late.filter(|(_, _, found)| !found).collect();
        ensure!(missed.is_empty(), "not found in the drift: {missed:?}");
        let drawn = fs::read_to_string(&plot)?;
        ensure!(
            drawn.contains("</svg>") && drawn.contains("stroke=\"#d64545\""),
            "the picture shows no finding"
        );
    }
    Ok(())
}

/// Record the rows of the drift monitor, learn a reference from those before
/// the drift, and see that they are good by it.
fn learn(
    workspace: &Workspace,
    trust: &Trust,
    folder: &Path,
    example: &Example,
    package: &Path,
) -> Result<()> {
    let rows = folder.join("rows.jsonl");
    run(example
        .command_of(workspace, &["monitor", "record"], trust, package, "--input")
        .args(["--monitor", "drift", "--output"])
        .arg(&rows))?;
    let text = fs::read_to_string(&rows)?;
    let good: Vec<&str> = text.lines().take(example.drift_from as usize).collect();
    ensure!(good.len() as u64 == example.drift_from, "{} rows recorded", good.len());
    let good_rows = folder.join("good.jsonl");
    fs::write(&good_rows, good.join("\n"))?;
    let reference = folder.join("reference.json");
    run(headland(workspace, &["monitor", "fit"]).arg(&good_rows).arg("-o").arg(&reference))?;
    let learnt: Value = serde_json::from_slice(&fs::read(&reference)?)?;
    ensure!(learnt["rows"] == example.drift_from, "learnt from {}", learnt["rows"]);

    let replayed = lines(
        headland(workspace, &["monitor", "replay"])
            .arg(package)
            .arg("--policy")
            .arg(trust.policy())
            .args(["--monitor", "drift", "--rows", "--json", "--data"])
            .arg(&rows),
    )?;
    let found: Vec<u64> =
        windows(&replayed).into_iter().filter(|w| w.2).map(|(_, first, _)| first).collect();
    ensure!(
        !found.is_empty() && found.iter().all(|first| *first >= example.drift_from),
        "rows alone: found in the windows from {found:?} on"
    );
    Ok(())
}

/// Nine devices see good rows, one sees drifted ones: merged in any order, the
/// bytes are the same; the group that drifted is found.
fn fleet(workspace: &Workspace, trust: &Trust, folder: &Path, package: &Path) -> Result<()> {
    let input = workspace.root.join("examples/telemetry-shuttle/inputs/telemetry.csv");
    let text = fs::read_to_string(&input)?;
    let (header, rows) = text.split_once('\n').context("no header")?;
    let rows: Vec<&str> = rows.lines().collect();
    let records = folder.join("records");
    let mut groups = String::new();
    for device in 0..10usize {
        // Device 9 is at the site whose sensors have drifted.
        let (site, of) =
            if device == 9 { ("south", &rows[1000..]) } else { ("north", &rows[..1000]) };
        let seen: Vec<&str> = of.iter().copied().skip(device * 50).take(500).collect();
        let csv = folder.join("device.csv");
        fs::write(&csv, format!("{header}\n{}\n", seen.join("\n")))?;
        let own = folder.join("device");
        let written = lines(
            headland(workspace, &["run"])
                .arg(package)
                .arg("--policy")
                .arg(trust.policy())
                .args(["--summary", "--json", "--label-column", "class", "--input"])
                .arg(&csv)
                .arg("--ledger")
                .arg(folder.join("ledger"))
                .arg("--records")
                .arg(&own),
        )?;
        fs::create_dir_all(&records)?;
        for line in written.iter().filter(|l| l["kind"] == "record") {
            let file = Path::new(line["file"].as_str().context("no file")?);
            let name = file.file_name().and_then(|n| n.to_str()).context("no name")?;
            let name = format!("{device:02}-{name}");
            fs::rename(file, records.join(&name))?;
            groups += &format!("{name},{site}\n");
        }
    }
    let by = folder.join("sites.csv");
    fs::write(&by, groups)?;

    let mut files: Vec<PathBuf> =
        fs::read_dir(&records)?.map(|e| Ok(e?.path())).collect::<Result<_>>()?;
    files.sort();
    ensure!(files.len() >= 20, "{} records of ten devices with two monitors", files.len());
    let merge = |files: &[PathBuf], name: &str| -> Result<(Vec<u8>, Vec<Value>)> {
        let merged = folder.join(name);
        let said = lines(
            headland(workspace, &["monitor", "merge"])
                .arg(package)
                .arg("--policy")
                .arg(trust.policy())
                .args(["--json", "--monitor", "drift", "--by"])
                .arg(&by)
                .arg("-o")
                .arg(&merged)
                .args(files),
        )?;
        Ok((fs::read(merged)?, said))
    };
    let (forth, said) = merge(&files, "forth.cbor")?;
    files.reverse();
    let (back, _) = merge(&files, "back.cbor")?;
    ensure!(forth == back, "the order of merging shows");
    let alarms = |group: &Value| -> usize {
        let of = said.iter().filter(|l| l["kind"] == "group" && &l["group"] == group);
        of.flat_map(|l| array(&l["findings"])).filter(|f| f["severity"] == "alarm").count()
    };
    ensure!(alarms(&"north".into()) == 0, "the good group is alarmed: {said:?}");
    ensure!(alarms(&"south".into()) > 0, "the drifted group is not found: {said:?}");
    Ok(())
}

/// A copy of the telemetry example in `folder`, to change.
fn variant(workspace: &Workspace, folder: &Path, name: &str) -> Result<PathBuf> {
    let copy = folder.join(name);
    copy_tree(&workspace.root.join("examples/telemetry-shuttle"), &copy)?;
    edit(&copy.join("package.toml"), |text| {
        let dist = workspace.root.join("dist").display().to_string();
        text.replace("../../dist", &dist)
    })?;
    Ok(copy)
}

fn edit(path: &Path, change: impl FnOnce(String) -> String) -> Result<()> {
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let changed = change(text.clone());
    ensure!(changed != text, "{} is as it was", path.display());
    Ok(fs::write(path, changed)?)
}

/// With a budget for three windows: three records with noise, then none.
fn privacy(workspace: &Workspace, trust: &Trust, folder: &Path, package: &Path) -> Result<()> {
    let policy = folder.join("private.toml");
    fs::copy(trust.policy(), &policy)?;
    edit(&policy, |text| {
        text + r#"
[host.privacy.budget]
epsilon = 1.5
period-hours = 24

[[host.privacy.rule]]
monitor = "monitor-drift"
fields = ["rows", "V*/bins"]
mechanism = "discrete-laplace"
epsilon = 0.5
"#
    })?;
    let own = folder.join("private");
    let ledger = folder.join("private-ledger");
    let run_once = || {
        lines(
            headland(workspace, &["run"])
                .arg(package)
                .arg("--policy")
                .arg(&policy)
                .args(["--summary", "--json", "--label-column", "class", "--input"])
                .arg(workspace.root.join("examples/telemetry-shuttle/inputs/telemetry.csv"))
                .arg("--ledger")
                .arg(&ledger)
                .arg("--records")
                .arg(&own),
        )
    };
    let said = run_once()?;
    let records: Vec<&Value> = said.iter().filter(|l| l["kind"] == "record").collect();
    ensure!(records.len() == 3, "{} records for a budget of three", records.len());
    ensure!(
        records.iter().all(|r| r["fields_dropped"].as_u64() > Some(0)),
        "fields that no rule names were let out: {records:?}"
    );
    let refused: Vec<&Value> = said.iter().filter(|l| l["kind"] == "no-record").collect();
    let spent = refused.iter().filter(|r| r["error"].to_string().contains("budget is spent"));
    ensure!(spent.count() == 1, "{refused:?}");
    // Another start of the command finds the budget spent.
    let again = run_once()?;
    ensure!(again.iter().all(|l| l["kind"] != "record"), "a restart forgot what was told");

    // A record from the field is judged as it was on the device.
    let file = records[0]["file"].as_str().context("no file")?;
    let merged = lines(
        headland(workspace, &["monitor", "merge"])
            .arg(package)
            .arg("--policy")
            .arg(trust.policy())
            .args(["--json", "--monitor", "drift", file]),
    )?;
    ensure!(merged.iter().any(|l| l["kind"] == "group"), "not judged: {merged:?}");
    Ok(())
}

/// The telemetry example with a monitor that waits for labels.
fn labels(workspace: &Workspace, trust: &Trust, folder: &Path) -> Result<()> {
    let copy = variant(workspace, folder, "with-labels")?;
    edit(&copy.join("pipeline.toml"), |text| {
        text + r#"
[[monitor]]
id = "performance"
component = "monitor-performance"
window-rows = 1000
taps = [{ from = "prediction", columns = ["class", "score"] }]
labels = { wait = 100 }

[monitor.config]
label = "label"
report = true

[monitor.config.classification]
prediction = "class"
classes = ["nominal", "anomaly"]
confidence = "score"
"#
    })?;
    edit(&copy.join("package.toml"), |text| {
        let wasm = workspace.components().join("monitor-performance.wasm");
        format!(
            "{text}\n[[entry]]\nrole = \"component\"\nname = \"monitor-performance\"\npath = {:?}\n",
            wasm.display().to_string()
        )
    })?;
    let package = folder.join("with-labels.tar");
    run(headland(workspace, &["package", "build"]).arg(&copy).arg("-o").arg(&package))?;
    run(headland(workspace, &["package", "sign"]).arg(&package).arg("--key").arg(trust.key()))?;
    let said = lines(
        headland(workspace, &["run"])
            .arg(&package)
            .arg("--policy")
            .arg(trust.policy())
            .args(["--summary", "--json", "--label-column", "class", "--input"])
            .arg(workspace.root.join("examples/telemetry-shuttle/inputs/telemetry.csv")),
    )?;
    let summary = said.last().context("said nothing")?;
    let accuracy = summary["accuracy"].as_f64().context("no accuracy")?;
    let windows: Vec<f64> = said
        .iter()
        .filter(|l| l["report"]["monitor"] == "performance")
        .flat_map(|l| array(&l["report"]["findings"]))
        .filter(|f| f["check"] == "accuracy")
        .filter_map(|f| f["value"].as_f64())
        .collect();
    ensure!(windows.len() == 2, "accuracy of {} windows", windows.len());
    let mean = windows.iter().sum::<f64>() / 2.0;
    ensure!((mean - accuracy).abs() < 1e-9, "{mean} by the monitor, {accuracy} by the command");
    Ok(())
}

/// A reference that says which model it was learnt with, beside another one.
fn foreign_reference(workspace: &Workspace, folder: &Path) -> Result<()> {
    let copy = variant(workspace, folder, "foreign-reference")?;
    let path = copy.join("reference/training-rows.json");
    let mut reference: Value = serde_json::from_slice(&fs::read(&path)?)?;
    reference["models"] = [format!("sha256:{}", "0".repeat(64))].as_slice().into();
    fs::write(&path, reference.to_string())?;
    let built = finish(
        headland(workspace, &["package", "build"]).arg(&copy).arg("-o").arg(folder.join("no.tar")),
    )?;
    ensure!(built.status.code() == Some(1), "ended with {}", built.status);
    ensure!(built.stderr.contains("which the package does not have"), "{}", built.stderr);
    Ok(())
}
