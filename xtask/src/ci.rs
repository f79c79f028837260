//! `cargo xtask ci`: what has to hold before a change is merged.

use std::process::Command;

use anyhow::Result;

use crate::{
    demo,
    process::{run, step},
    setup::{CARGO_DENY, LINTERS, Presence, WASM_TARGET, cargo_deny, ensure_present},
    tally::Tally,
    test,
    workspace::{Workspace, cargo},
};

/// Run all of it, cheapest first, and print the closing line.
pub fn main(workspace: &Workspace) -> Result<()> {
    let mut tally = Tally::default();
    ensure_present(workspace, &LINTERS)?;
    let mut lint = |name: &str, arguments: &[&str]| {
        tally.check(name, || {
            let mut command = Command::new(cargo());
            step(name, || run(command.args(arguments).current_dir(&workspace.root)).map(drop))
        });
    };
    lint("cargo fmt", &["fmt", "--all", "--check"]);
    lint(
        "cargo clippy",
        &["clippy", "--release", "--workspace", "--all-targets", "--", "-D", "warnings"],
    );
    ensure_present(workspace, &WASM_TARGET)?;
    lint(
        "cargo clippy for a page",
        &[
            "clippy",
            "--profile",
            "web",
            "--target",
            "wasm32-unknown-unknown",
            "--package",
            "headland-web",
            "--",
            "-D",
            "warnings",
        ],
    );
    match ensure_present(workspace, &CARGO_DENY)? {
        Presence::Present => tally.check("cargo deny", || {
            run(Command::new(cargo_deny(workspace))
                .args(["--workspace", "check", "bans", "licenses", "sources"])
                .current_dir(&workspace.root))
            .map(drop)
        }),
        Presence::Absent(reason) => tally.skip("cargo deny", &reason),
    }
    test::run_all(workspace, &mut tally)?;
    tally.check("cargo xtask demo", || demo::main(workspace));
    tally.close()
}
