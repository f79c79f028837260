//! `cargo xtask bench monitors`: what monitors cost in the engine, and how often
//! they are wrong.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::{
    examples::{EXAMPLES, Trust},
    plugins,
    process::{run, step},
    setup::{JUDGES, Presence, ensure_present, python},
    workspace::{Workspace, array, cargo},
};

/// Rows of the made-up table.
const ROWS: usize = 20_000;

/// Its columns.
const FEATURES: usize = 30;

/// The monitors over it.
const MADE_UP: [&str; 5] = ["quality", "drift", "adwin", "page-hinkley", "kswin"];

/// Measure and print. Nothing is held against a limit here.
pub fn main(workspace: &Workspace) -> Result<()> {
    let components = plugins::build(workspace)?;
    let folder = workspace.fresh_folder("bench-monitors")?;
    let trust = Trust::new(workspace, &folder)?;
    println!("Components\n\n| monitor | component | memory |\n|---|---|---|");
    for component in components.iter().filter(|c| c.world() == "monitor") {
        println!(
            "| {} | {} | {} |",
            component.name(),
            kib(component.len_bytes()),
            kib(component.memory_bytes())
        );
    }

    let package = made_up(workspace, &trust, &folder)?;
    let rows = folder.join("rows.csv");
    println!("\nTime in the engine, {FEATURES} features, {ROWS} rows, batches of 256\n");
    println!("| monitor | a row |\n|---|---|");
    for monitor in MADE_UP {
        let headland = || Command::new(workspace.headland());
        let said = run(headland()
            .args(["monitor", "replay"])
            .arg(&package)
            .arg("--policy")
            .arg(trust.policy())
            .args(["--rows", "--json", "--monitor", monitor, "--data"])
            .arg(&rows))?;
        println!("| {monitor} | {:.0} ns |", row_ns(&said).context("no time")?);
    }
    let run_of_rows = ["--summary", "--json", "--label-column", "label", "--records"];
    last_line(
        Command::new(workspace.headland())
            .arg("run")
            .arg(&package)
            .arg("--policy")
            .arg(trust.policy())
            .args(run_of_rows)
            .arg(folder.join("records"))
            .arg("--ledger")
            .arg(folder.join("ledger"))
            .arg("--input")
            .arg(&rows),
    )?;
    println!("\nWhat leaves the device a window, in bytes\n");
    print_records(&folder.join("records"))?;

    for example in &EXAMPLES {
        let package = example.package(workspace, &trust, &folder)?;
        let figures = last_line(
            example.command(workspace, "run", &trust, &package).args(["--summary", "--json"]),
        )?;
        println!("\nTime in the engine, {}\n", example.name);
        print_times(&figures);
    }

    let script = workspace.root.join("plugins/monitor-drift/tests/false_alarms.py");
    match ensure_present(workspace, &JUDGES)? {
        Presence::Absent(reason) => println!("\nNo table of false alarms: {reason}"),
        Presence::Present => {
            run(Command::new(cargo())
                .args(["build", "--release", "--package", "monitor-drift", "--examples"])
                .current_dir(&workspace.root))?;
            let table = step("false alarms and power (minutes)", || {
                run(Command::new(python(workspace))
                    .arg(script)
                    .arg(workspace.target.join("release/examples")))
            })?;
            println!("\nFalse alarms and power\n\n{table}");
        }
    }
    fs::remove_dir_all(&folder)?;
    Ok(())
}

fn kib(bytes: u64) -> String {
    format!("{:.0} KiB", bytes as f64 / 1024.0)
}

/// The summary that `headland run --json` ends with.
fn last_line(command: &mut Command) -> Result<Value> {
    let said = run(command)?;
    let line = said.lines().next_back().context("said nothing")?;
    serde_json::from_str(line).with_context(|| format!("not JSON: {line}"))
}

/// Nanoseconds a row, of what `headland monitor replay --rows --json` said.
fn row_ns(said: &str) -> Option<f64> {
    let lines = said.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let time = lines.into_iter().find(|line| line["kind"] == "time")?;
    Some(time["took_ns"].as_f64()? / time["rows"].as_f64()?)
}

fn print_times(summary: &Value) {
    let stages_ns = summary["stages_ns"].as_f64().unwrap_or(0.0);
    println!("| monitor | a row | of the stages' time | rows sampled out |\n|---|---|---|---|");
    for monitor in array(&summary["monitors"]) {
        let number = |key: &str| monitor[key].as_f64().unwrap_or(0.0);
        let rows = number("rows_seen").max(1.0);
        let share = match stages_ns {
            0.0 => String::new(),
            ns => format!("{:.1} %", 100.0 * number("busy_ns") / ns),
        };
        println!(
            "| {} | {:.0} ns | {share} | {} |",
            monitor["monitor"].as_str().unwrap_or_default(),
            number("busy_ns") / rows,
            number("rows_sampled_out"),
        );
    }
}

fn print_records(folder: &Path) -> Result<()> {
    let mut largest: Vec<(String, u64)> = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let monitor = name.rsplitn(3, '-').nth(2).unwrap_or(&name).to_owned();
        let len = entry.metadata()?.len();
        match largest.iter_mut().find(|(m, _)| *m == monitor) {
            Some((_, most)) => *most = len.max(*most),
            None => largest.push((monitor, len)),
        }
    }
    largest.sort();
    println!("| monitor | largest record |\n|---|---|");
    largest.iter().for_each(|(monitor, len)| println!("| {monitor} | {len} |"));
    Ok(())
}

/// A package of one stage and every monitor that fits a table of numbers, and
/// that table.
fn made_up(workspace: &Workspace, trust: &Trust, folder: &Path) -> Result<PathBuf> {
    let names: Vec<String> = (1..=FEATURES).map(|i| format!("x{i}")).collect();
    let mut csv = format!("{},score,label\n", names.join(","));
    let mut state = 1u64;
    // Sums of uniform numbers: near enough to normal ones for a benchmark.
    let mut normal = || {
        let sum: f64 = (0..12)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 11) as f64 / (1u64 << 53) as f64
            })
            .sum();
        sum - 6.0
    };
    for _ in 0..ROWS {
        let row: Vec<String> = (0..FEATURES).map(|_| format!("{:.6}", normal())).collect();
        let score = 0.5 + 0.1 * normal();
        let label = if normal() < 0.0 { "good" } else { "bad" };
        let _ = writeln!(csv, "{},{score:.6},{label}", row.join(","));
    }
    let rows = folder.join("rows.csv");
    fs::write(&rows, &csv)?;
    let reference = folder.join("reference.json");
    run(Command::new(workspace.headland())
        .args(["monitor", "fit"])
        .arg(&rows)
        .arg("--columns")
        .arg(names.join(","))
        .arg("-o")
        .arg(&reference))?;

    let columns: Vec<String> = names.iter().map(|n| format!("{n:?}")).collect();
    let columns = columns.join(", ");
    let features: Vec<String> =
        names.iter().map(|n| format!("{{ name = {n:?}, kind = \"numeric\" }}")).collect();
    let head = format!(
        "schema = 1\nname = \"made-up\"\noutput = \"features\"\n\n[[stage]]\nid = \"features\"\n\
         component = \"preprocess-tabular\"\nworld = \"preprocess\"\ninputs = [\"source\"]\n\
         config = {{ output = \"features\", features = [{}] }}\n",
        features.join(", ")
    );
    let monitor = |id: &str, component: &str, columns: &str, more: &str| {
        format!(
            "\n[[monitor]]\nid = {id:?}\ncomponent = {component:?}\nbatch-rows = 256\n\
             window-rows = 2000\nqueue = 4096\ntaps = [{{ from = \"source\", columns = [{columns}] }}]\n{more}"
        )
    };
    let with_reference = "reference = \"rows\"\n";
    let change = |detector: &str| {
        format!("config = {{ detectors = [{{ column = \"score\", method = \"{detector}\" }}] }}\n")
    };
    let pipeline = [
        head,
        monitor("quality", "monitor-quality", &columns, with_reference),
        monitor("drift", "monitor-drift", &columns, with_reference),
        monitor("adwin", "monitor-change", "\"score\"", &change("adwin")),
        monitor("page-hinkley", "monitor-change", "\"score\"", &change("page-hinkley")),
        monitor("kswin", "monitor-change", "\"score\"", &change("kswin")),
    ]
    .concat();
    fs::write(folder.join("pipeline.toml"), pipeline)?;
    fs::write(folder.join("card.md"), "# Made up\n\nTo measure monitors with.\n")?;
    let entry = |role: &str, name: &str, path: &Path| {
        format!(
            "[[entry]]\nrole = {role:?}\nname = {name:?}\npath = {:?}\n\n",
            path.display().to_string()
        )
    };
    let mut package = "name = \"made-up\"\nversion = \"0.1.0\"\nrelease = 1\n\
                       description = \"Monitors over a made-up table\"\nlicense = \"MIT\"\n\n"
        .to_owned();
    for component in ["preprocess-tabular", "monitor-quality", "monitor-drift", "monitor-change"] {
        let path = workspace.components().join(component).with_extension("wasm");
        package += &entry("component", component, &path);
    }
    package += &entry("reference", "rows", &reference);
    fs::write(folder.join("package.toml"), package)?;
    let built = folder.join("made-up.tar");
    let headland = || Command::new(workspace.headland());
    run(headland().args(["package", "build"]).arg(folder).arg("-o").arg(&built))?;
    run(headland().args(["package", "sign"]).arg(&built).arg("--key").arg(trust.key()))?;
    Ok(built)
}
