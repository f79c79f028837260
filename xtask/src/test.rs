//! `cargo xtask test`: the workspace's tests, other people's answers, the
//! examples, and the commands that the READMEs tell people to type.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result, ensure};

use crate::{
    authors,
    examples::{EXAMPLES, Trust},
    monitors, plugins,
    process::{finish, run, step},
    setup::{JUDGES, Presence, VULKAN, ensure_present, python},
    tally::Tally,
    web,
    workspace::{Workspace, cargo},
};

/// Run everything and print the closing line.
pub fn main(workspace: &Workspace) -> Result<()> {
    let mut tally = Tally::default();
    run_all(workspace, &mut tally)?;
    tally.close()
}

/// Run everything. An error is a run that could not go on; what merely failed
/// is in the tally.
pub fn run_all(workspace: &Workspace, tally: &mut Tally) -> Result<()> {
    let components = plugins::build(workspace)?;
    plugins::check_monitors(&components, tally);
    let judges = ensure_present(workspace, &JUDGES)?;
    // Before the workspace's tests: some look for an adapter.
    let vulkan = ensure_present(workspace, &VULKAN)?;
    workspace_tests(workspace, tally)?;
    examples(workspace, tally)?;
    quick_starts(workspace, tally)?;
    authors::checks(workspace, &judges, tally)?;
    monitors::checks(workspace, &judges, tally)?;
    web::checks(workspace, &judges, tally)?;
    match judges {
        Presence::Present => ask_judges(workspace, &vulkan, tally)?,
        Presence::Absent(reason) => tally.skip("the judges", &reason),
    }
    Ok(())
}

/// `cargo test`, its own counts added to ours.
fn workspace_tests(workspace: &Workspace, tally: &mut Tally) -> Result<()> {
    let finished = step("cargo test --release --workspace", || {
        finish(
            Command::new(cargo())
                .args(["test", "--release", "--workspace", "--no-fail-fast"])
                .current_dir(&workspace.root),
        )
    })?;
    let mut ran = false;
    for line in finished.stdout.lines() {
        if let Some((passed, failed, skipped)) = test_counts(line) {
            tally.add(passed, failed, skipped);
            ran = true;
        }
    }
    if finished.status.success() && ran {
        println!("ok      the workspace's tests");
    } else {
        let failure = |line: &&str| {
            line.ends_with("FAILED") || line.contains("panicked at") || line.starts_with("error")
        };
        for line in finished.stdout.lines().chain(finished.stderr.lines()).filter(failure) {
            println!("  {line}");
        }
        tally.check("the workspace's tests", || {
            anyhow::bail!("cargo test ended with {}", finished.status)
        });
    }
    Ok(())
}

/// Passed, failed and ignored, from the line that ends a test binary's run.
fn test_counts(line: &str) -> Option<(u64, u64, u64)> {
    let counts = line.strip_prefix("test result: ")?.split_once(". ")?.1;
    let count = |what: &str| {
        counts.split(';').find_map(|c| c.trim().strip_suffix(what)?.trim().parse::<u64>().ok())
    };
    Some((count("passed")?, count("failed")?, count("ignored")?))
}

/// Both examples, from folder to findings.
fn examples(workspace: &Workspace, tally: &mut Tally) -> Result<()> {
    let folder = workspace.fresh_folder("test-examples")?;
    let trust = Trust::new(workspace, &folder)?;
    for example in &EXAMPLES {
        let mut outcome = None;
        tally.check(&format!("{}: builds, verifies and runs", example.name), || {
            let package = example.package(workspace, &trust, &folder)?;
            outcome = Some(example.run(workspace, &trust, &package)?);
            Ok(())
        });
        for (check, result) in outcome.iter().flat_map(|o| example.checks(workspace, o)) {
            tally.check(&check, || result);
        }
        tally.check(&format!("{}: says why of every frame", example.name), || {
            example.explain(workspace, &trust, &folder.join(example.name).with_extension("tar"))
        });
    }
    fs::remove_dir_all(&folder)?;
    Ok(())
}

/// The shell blocks of every README that are marked `sh quick-start`, run as
/// they stand in a copy of the examples, with the built binary at hand.
fn quick_starts(workspace: &Workspace, tally: &mut Tally) -> Result<()> {
    if cfg!(windows) {
        tally.skip("the READMEs' commands", "they are written for a POSIX shell");
        return Ok(());
    }
    let mut readmes = vec![workspace.root.join("README.md")];
    readmes.extend(
        EXAMPLES.iter().map(|e| workspace.root.join("examples").join(e.name).join("README.md")),
    );
    for readme in readmes.iter().filter(|r| r.exists()) {
        let shown = readme.strip_prefix(&workspace.root).unwrap_or(readme).display();
        tally.check(&format!("{shown}: its commands work"), || {
            let commands = shell_blocks(&fs::read_to_string(readme)?, "```sh quick-start");
            ensure!(!commands.is_empty(), "no block is marked `sh quick-start`");
            let folder = workspace.fresh_folder("test-readme")?;
            for part in ["examples", "dist"] {
                copy_tree(&workspace.root.join(part), &folder.join(part))?;
            }
            let binaries = workspace.headland().parent().map(Path::to_owned).unwrap_or_default();
            let path = std::env::var_os("PATH").unwrap_or_default();
            let path =
                std::env::join_paths([binaries].into_iter().chain(std::env::split_paths(&path)))?;
            run(Command::new("sh")
                .args(["-eu", "-c", &commands])
                .env("PATH", path)
                .current_dir(&folder))?;
            fs::remove_dir_all(&folder)?;
            Ok(())
        });
    }
    Ok(())
}

/// The lines within fences that open with `fence`.
pub fn shell_blocks(markdown: &str, fence: &str) -> String {
    let mut inside = false;
    let mut commands = String::new();
    for line in markdown.lines() {
        if line.starts_with("```") {
            inside = line == fence;
        } else if inside {
            commands.push_str(line);
            commands.push('\n');
        }
    }
    commands
}

/// Copy a folder with all that is in it.
pub fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_tree(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

/// What models run on, by `--device`: the runtimes that one suite is for.
const RUNTIMES: [&str; 4] = ["cpu", "interpreter", "burn-cpu", "gpu"];

/// Checks whose answers come from other people's programs.
fn ask_judges(workspace: &Workspace, vulkan: &Presence, tally: &mut Tally) -> Result<()> {
    tally.check("the examples' expected predictions are ONNX Runtime's", || {
        run(Command::new(python(workspace))
            .arg(workspace.root.join("examples/expect.py"))
            .args(EXAMPLES.iter().map(|e| e.name))
            .arg("--check"))
        .map(drop)
    });
    let judge = |script: &str| {
        let mut command = Command::new(python(workspace));
        command
            .arg(workspace.root.join("host/inference/tests").join(script))
            .arg(workspace.headland());
        if std::env::var_os("XDG_RUNTIME_DIR").is_none() {
            // Mesa's driver complains of its absence, on a machine without a display.
            command.env("XDG_RUNTIME_DIR", std::env::temp_dir());
        }
        command
    };
    let models = workspace.shared_models()?;
    for device in RUNTIMES {
        let nodes = format!("ONNX's node tests on {device}");
        let wild = format!("models in the wild agree with ONNX Runtime on {device}");
        if let ("gpu", Presence::Absent(reason)) = (device, vulkan) {
            tally.skip(&nodes, reason);
            tally.skip(&wild, reason);
            continue;
        }
        tally.check(&nodes, || {
            let said = run(judge("conformance.py").args(["--device", device]))?;
            println!("        {}", said.lines().next_back().unwrap_or_default());
            Ok(())
        });
        if models.is_empty() {
            tally.skip(&wild, "shared/models is not beside the checkout");
            continue;
        }
        tally.check(&wild, || {
            let said = run(judge("ort_judge.py").args(["--device", device]).args(&models))?;
            said.lines().for_each(|line| println!("        {line}"));
            Ok(())
        });
    }
    tally.check("scikit-learn, XGBoost and LightGBM predict the same", || {
        let said = run(&mut judge("ml_judge.py"))?;
        println!("        {}", said.lines().next_back().unwrap_or_default());
        Ok(())
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read_from_the_harness() {
        let line = "test result: ok. 12 passed; 0 failed; 3 ignored; 0 measured; 1 filtered out; finished in 0.02s";
        assert_eq!(test_counts(line), Some((12, 0, 3)));
        let line = "test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s";
        assert_eq!(test_counts(line), Some((1, 2, 0)));
        assert_eq!(test_counts("test result: who knows"), None);
    }

    #[test]
    fn only_marked_blocks_are_run() {
        let text = "```sh\nrm -r .\n```\n\n```sh quick-start\nls\n# all\n```\nls -l\n```sh quick-start\npwd\n```\n";
        assert_eq!(shell_blocks(text, "```sh quick-start"), "ls\n# all\npwd\n");
    }
}
