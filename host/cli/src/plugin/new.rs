//! `headland plugin new`: a project that builds, is signed and runs as it is.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, bail};
use clap::Args;
use headland_tensor::Tensor;
use include_dir::{Dir, include_dir};

use super::Kind;
use crate::{
    npy,
    output::{Output, inline},
};

/// The SDK and the contract that it is generated from: a new project gets its
/// own copy, so that it builds the same wherever it is.
static SDK: Dir = include_dir!("$CARGO_MANIFEST_DIR/../../plugins/sdk");
static WIT: Dir = include_dir!("$CARGO_MANIFEST_DIR/../../wit");
const WORKSPACE: &str = include_str!("../../../../Cargo.toml");
const CARGO_CONFIG: &str = include_str!("../../../../.cargo/config.toml");

/// Start a component: a Rust project that builds, is signed and runs as it is.
///
/// The project holds the component's source with a test, a package that runs
/// it over a sample, and its own copy of the SDK. Its README has the commands.
#[derive(Debug, Args)]
pub struct New {
    /// Name of the component: a-z, 0-9 and inner hyphens
    name: String,

    /// What it is
    #[arg(long, value_enum)]
    kind: Kind,

    /// Folder to make [default: the name]
    #[arg(long, value_name = "DIR")]
    path: Option<PathBuf>,
}

/// Run the command.
pub fn run(command: &New, out: Output) -> anyhow::Result<ExitCode> {
    let name = &command.name;
    let is_inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if !name.starts_with(|c: char| c.is_ascii_lowercase())
        || !name.chars().all(is_inner)
        || name.ends_with('-')
    {
        bail!(
            "{name:?} is no name for a component: it needs a-z, 0-9 and inner hyphens, and starts with a letter"
        );
    }
    if let Some(why) = reserved(name) {
        bail!("{name:?} is no name for a component: {why}");
    }
    let folder = command.path.clone().unwrap_or_else(|| PathBuf::from(name));
    if folder.exists() {
        bail!("{} exists already; choose another name or --path", folder.display());
    }
    write_project(&folder, name, command.kind).inspect_err(|_| {
        // Nothing half-made stays; it is ours, it was not there before.
        let _ = fs::remove_dir_all(&folder);
    })?;
    out.json(&serde_json::json!({"project": folder, "name": name}))?;
    out.line(format!(
        "{} is ready; its README.md says how to build, sign and run it",
        inline(&folder.display().to_string())
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// Why a crate cannot have the name that otherwise fits, if it cannot.
fn reserved(name: &str) -> Option<&'static str> {
    match name {
        // The words that may be a name here, of the Rust reference's strict
        // and reserved keywords up to edition 2024.
        "abstract" | "as" | "async" | "await" | "become" | "box" | "break" | "const"
        | "continue" | "crate" | "do" | "dyn" | "else" | "enum" | "extern" | "false" | "final"
        | "fn" | "for" | "gen" | "if" | "impl" | "in" | "let" | "loop" | "macro" | "match"
        | "mod" | "move" | "mut" | "override" | "priv" | "pub" | "ref" | "return" | "self"
        | "static" | "struct" | "super" | "trait" | "true" | "try" | "type" | "typeof"
        | "unsafe" | "unsized" | "use" | "virtual" | "where" | "while" | "yield" => {
            Some("it is a keyword of Rust")
        }
        "test" | "core" | "std" | "alloc" | "proc-macro" => Some("it is a crate of Rust's own"),
        "headland-sdk" | "schemars" | "serde" | "serde-json" => {
            Some("the project depends on a crate of that name")
        }
        _ => None,
    }
}

fn write(path: &Path, contents: &[u8]) -> anyhow::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    fs::write(path, contents).with_context(|| format!("cannot write {}", path.display()))
}

fn copy(dir: &Dir, from: &Path, to: &Path) -> anyhow::Result<()> {
    for file in dir.files() {
        write(&to.join(file.path().strip_prefix(from)?), file.contents())?;
    }
    dir.dirs().try_for_each(|d| copy(d, from, to))
}

/// What differs by kind.
struct Sample {
    source: &'static str,
    /// The `[[stage]]` and `[[monitor]]` tables.
    wiring: String,
    file: &'static str,
    contents: Vec<u8>,
}

fn sample(kind: Kind, name: &str) -> anyhow::Result<Sample> {
    let stage = |world: &str, config: &str| {
        format!(
            "output = \"{name}\"\n\n[[stage]]\nid = \"{name}\"\ninputs = [\"source\"]\ncomponent = \"{name}\"\n\
             world = \"{world}\"\nconfig = {config}\nlimits = {{ memory-mib = 16, time-ms = 100 }}\n"
        )
    };
    let floats = |values: &[f32]| -> anyhow::Result<Vec<u8>> {
        Ok(npy::encode(&Tensor::from_elements(&[u32::try_from(values.len())?], values)?))
    };
    Ok(match kind {
        Kind::Preprocess => Sample {
            source: include_str!("templates/preprocess.rs"),
            wiring: stage("preprocess", "{ full_scale = 255.0 }"),
            file: "sample.bin",
            contents: vec![0, 51, 102, 153, 204, 255],
        },
        Kind::Model => Sample {
            source: include_str!("templates/model.rs"),
            wiring: stage("model", "{ weights = [0.5, -1.0, 2.0], bias = 0.1 }"),
            file: "sample.npy",
            contents: floats(&[1.0, 2.0, 3.0])?,
        },
        Kind::Postprocess => Sample {
            source: include_str!("templates/postprocess.rs"),
            wiring: stage("postprocess", "{ labels = [\"idle\", \"running\", \"faulty\"] }"),
            file: "sample.npy",
            contents: floats(&[0.1, 0.7, 0.2])?,
        },
        Kind::Monitor => Sample {
            source: include_str!("templates/monitor.rs"),
            wiring: format!(
                "output = \"pass\"\n\n# A pipeline needs a stage; this one passes the source on.\n[[stage]]\n\
                 id = \"pass\"\ninputs = [\"source\"]\ncombine = \"concat\"\n\n[[monitor]]\nid = \"{name}\"\n\
                 component = \"{name}\"\nconfig = {{ column = \"temperature\", limit = 80.0 }}\n\
                 taps = [{{ from = \"source\" }}]\nlimits = {{ memory-mib = 16, time-ms = 100 }}\n"
            ),
            file: "sample.csv",
            contents: b"temperature,pressure\n71.5,1.0\n84.2,1.1\n79.9,1.0\n".to_vec(),
        },
    })
}

/// The project's Cargo.toml: a workspace of its own, with the keys that the
/// SDK's manifest inherits.
fn manifest(name: &str) -> anyhow::Result<String> {
    let ours: toml::Table = toml::from_str(WORKSPACE)?;
    let sdk_manifest = SDK.get_file("Cargo.toml").and_then(|f| f.contents_utf8());
    let sdk: toml::Table = toml::from_str(sdk_manifest.context("the SDK has no Cargo.toml")?)?;
    let workspace =
        ours.get("workspace").and_then(toml::Value::as_table).context("no [workspace]")?;
    let all =
        workspace.get("dependencies").and_then(toml::Value::as_table).context("no dependencies")?;
    // The SDK's own tests, too: cargo resolves them with the project.
    let of_targets = sdk.get("target").and_then(toml::Value::as_table);
    let tables: Vec<&toml::Table> = of_targets
        .into_iter()
        .flat_map(|targets| targets.values().filter_map(toml::Value::as_table))
        .chain([&sdk])
        .flat_map(|t| ["dependencies", "dev-dependencies"].into_iter().filter_map(|k| t.get(k)))
        .filter_map(toml::Value::as_table)
        .collect();
    let used = |name: &str| tables.iter().any(|t| t.contains_key(name));
    let dependencies: toml::Table =
        all.iter().filter(|(k, _)| used(k)).map(|(k, v)| (k.clone(), v.clone())).collect();
    let mut tables = toml::Table::new();
    for key in ["package", "lints"] {
        if let Some(table) = workspace.get(key) {
            tables.insert(key.to_owned(), table.clone());
        }
    }
    tables.insert("dependencies".to_owned(), toml::Value::Table(dependencies));
    let mut nested = toml::Table::new();
    nested.insert("workspace".to_owned(), toml::Value::Table(tables));
    let profiles = ours.get("profile").and_then(toml::Value::as_table);
    let mut kept = toml::Table::new();
    for key in ["plugin", "release"] {
        if let Some(toml::Value::Table(profile)) = profiles.and_then(|p| p.get(key)) {
            // Overrides for packages of ours mean nothing there.
            let own =
                profile.iter().filter(|(k, _)| !matches!(k.as_str(), "package" | "build-override"));
            kept.insert(
                key.to_owned(),
                own.map(|(k, v)| (k.clone(), v.clone())).collect::<toml::Table>().into(),
            );
        }
    }
    nested.insert("profile".to_owned(), toml::Value::Table(kept));
    Ok(format!(
        "[package]\nname = \"{name}\"\nversion = \"0.1.0\"\ndescription = \"Says what {name} does in one sentence.\"\n\
         edition = \"2024\"\npublish = false\n\n[lib]\ncrate-type = [\"cdylib\", \"rlib\"]\n\n[dependencies]\n\
         headland-sdk = {{ path = \"vendor/headland/plugins/sdk\" }}\nschemars.workspace = true\n\
         serde.workspace = true\nserde_json.workspace = true\n\n{}",
        toml::to_string(&nested)?
    ))
}

/// How components are built and linked: as this repository's are.
fn cargo_config() -> anyhow::Result<String> {
    let mut ours: toml::Table = toml::from_str(CARGO_CONFIG)?;
    ours.retain(|table, _| table == "target");
    Ok(toml::to_string(&ours)?)
}

fn write_project(folder: &Path, name: &str, kind: Kind) -> anyhow::Result<()> {
    let sample = sample(kind, name)?;
    let vendor = folder.join("vendor/headland");
    copy(&SDK, Path::new(""), &vendor.join("plugins/sdk"))?;
    copy(&WIT, Path::new(""), &vendor.join("wit"))?;
    write(&folder.join("Cargo.toml"), manifest(name)?.as_bytes())?;
    write(&folder.join("src/lib.rs"), sample.source.as_bytes())?;
    write(&folder.join(".gitignore"), b"/target\n/build\n*.pem\n")?;
    write(&folder.join(".cargo/config.toml"), cargo_config()?.as_bytes())?;
    let package = folder.join("package");
    let entry = format!(
        "name = \"{name}-demo\"\nversion = \"0.1.0\"\nrelease = 1\n\n[[entry]]\nrole = \"component\"\n\
         name = \"{name}\"\npath = \"../build/{name}.wasm\"\n"
    );
    write(&package.join("package.toml"), entry.as_bytes())?;
    let pipeline = format!("schema = 1\nname = \"{name}-demo\"\n{}", sample.wiring);
    write(&package.join("pipeline.toml"), pipeline.as_bytes())?;
    let card =
        format!("# {name}\n\nWhat it is for, what it is not for, and what it was tested with.\n");
    write(&package.join("card.md"), card.as_bytes())?;
    write(&folder.join(sample.file), &sample.contents)?;
    let readme = format!(
        "# {name}\n\nA Headland component. Build, package, sign and run it:\n\n```sh\n\
         headland plugin build . -o build/{name}.wasm\n\
         headland package build package -o build/{name}.tar\n\
         headland keygen --out-dir build\n\
         headland trust new --key build/key.pub.pem -o build/trust.toml\n\
         headland package sign build/{name}.tar --key build/key.pem\n\
         headland run build/{name}.tar --policy build/trust.toml --input {}\n```\n\n\
         `cargo test` runs its tests. The SDK in `vendor/` is a copy: keep it as it is.\n\n\
         Where the component is too large: the documentation of `headland_sdk::export!` says how \
         its configuration's schema\nbecomes a file, which takes 95 kB off.\n",
        sample.file
    );
    write(&folder.join("README.md"), readme.as_bytes())
}
