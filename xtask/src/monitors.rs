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
    process::run,
    setup::{JUDGES, Presence, ensure_present, python},
    tally::Tally,
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
