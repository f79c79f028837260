//! What somebody who writes a component does: `headland plugin new` for each
//! kind, and a component in Python, by the commands of their own READMEs.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use crate::{
    process::run,
    setup::{Presence, python},
    tally::Tally,
    test::{copy_tree, shell_blocks},
    workspace::Workspace,
};

/// Each kind of component, and what the run of its sample must say.
const KINDS: [(&str, &str); 4] = [
    ("preprocess", "input Tensor(f32 [1,6])"),
    ("model", "score Tensor(f32 [1])"),
    ("postprocess", "running 0.700"),
    ("monitor", "1 of 3 rows of temperature are over the limit"),
];

/// Do it, and count it.
pub fn checks(workspace: &Workspace, judges: &Presence, tally: &mut Tally) -> Result<()> {
    if cfg!(windows) {
        tally.skip("the plugin projects", "their READMEs are written for a POSIX shell");
        return Ok(());
    }
    let folder = workspace.fresh_folder("test-authors")?;
    for (kind, said) in KINDS {
        tally.check(&format!("a new {kind} plugin builds, is signed and runs"), || {
            let project = folder.join(kind);
            run(Command::new(workspace.headland())
                .args(["plugin", "new", &format!("my-{kind}"), "--kind", kind, "--path"])
                .arg(&project))?;
            // One target folder for all four: they share their dependencies.
            let target = folder.join("target");
            run(Command::new("cargo")
                .args(["test", "--quiet"])
                .env("CARGO_TARGET_DIR", &target)
                .current_dir(&project))?;
            follow_readme(workspace, &project, &[("CARGO_TARGET_DIR", &target)], said)
        });
    }
    let name = "a component in Python builds, is signed and runs";
    match judges {
        Presence::Absent(reason) => tally.skip(name, reason),
        Presence::Present => tally.check(name, || {
            let project = folder.join("examples/plugin-python");
            copy_tree(&workspace.root.join("examples/plugin-python"), &project)?;
            copy_tree(&workspace.root.join("wit"), &folder.join("wit"))?;
            follow_readme(workspace, &project, &[], "running 0.834")?;
            blocking_call_is_cut_off(workspace, &project)
        }),
    }
    fs::remove_dir_all(&folder)?;
    Ok(())
}

/// Type the README's commands in `project`, and look for `said` in what they
/// say.
fn follow_readme(
    workspace: &Workspace,
    project: &Path,
    env: &[(&str, &Path)],
    said: &str,
) -> Result<()> {
    let readme = fs::read_to_string(project.join("README.md"))?;
    // What pip installs is in the judges' environment already.
    let commands: String = shell_blocks(&readme, "```sh")
        .lines()
        .filter(|l| !l.starts_with("pip install"))
        .map(|l| format!("{l}\n"))
        .collect();
    ensure!(!commands.is_empty(), "the README has no commands");
    let out = run(Command::new("sh")
        .args(["-eu", "-c", &commands])
        .env("PATH", path(workspace)?)
        .envs(env.iter().copied())
        .current_dir(project))?;
    ensure!(out.contains(said), "nothing says {said:?}:\n{out}");
    Ok(())
}

/// The search path with the built binary and the judges' programs in front.
fn path(workspace: &Workspace) -> Result<std::ffi::OsString> {
    let folder = |file: PathBuf| file.parent().map(Path::to_owned).unwrap_or_default();
    let first = [folder(workspace.headland()), folder(python(workspace))];
    let rest = std::env::var_os("PATH").unwrap_or_default();
    Ok(std::env::join_paths(first.into_iter().chain(std::env::split_paths(&rest)))?)
}

/// The same component, but it sleeps for a quarter of an hour in a call into
/// WASI: the stage's time limit holds there, too.
fn blocking_call_is_cut_off(workspace: &Workspace, project: &Path) -> Result<()> {
    let source = project.join("top_class.py");
    let honest = fs::read_to_string(&source)?;
    let first = "        if len(inputs) != 1:";
    ensure!(honest.contains(first), "top_class.py has changed; this check needs to follow");
    let sleepy =
        honest.replace(first, &format!("        import time\n        time.sleep(900)\n{first}"));
    fs::write(&source, sleepy)?;
    for file in ["key.pem", "key.pub.pem", "trust.toml"] {
        fs::remove_file(project.join("build").join(file))?;
    }
    let error = follow_readme(workspace, project, &[], "").err().context("it was not cut off")?;
    ensure!(format!("{error:#}").contains("time limit: no result within 1000 ms"), "{error:#}");
    Ok(())
}
