//! The project's chores: `cargo xtask <verb>`.
//!
//! Results go to standard output, progress to standard error.
// What it prints is what it is for.
#![allow(clippy::print_stdout)]

mod authors;
mod bench;
mod budgets;
mod ci;
mod demo;
mod examples;
mod monitors;
mod plugins;
mod process;
mod setup;
mod tally;
mod test;
mod web;
mod workspace;

use std::{env, process::ExitCode};

use anyhow::Result;
use workspace::Workspace;

const USAGE: &str = "\
The project's chores.

Usage: cargo xtask <verb>

  setup    get what the other verbs need: the wasm32 target, the Python judges,
           a Vulkan driver, wasm-bindgen, Node, Chromium
  plugins  build the headland binary and every component, into dist/components
  demo     build, sign, verify and run both examples; tamper with one; report
  web      build the browser runtime and serve its demo page
  test     every test of the workspace, the judges, the examples and the browser
  test monitors
           monitors replayed and merged, and the judges of their numbers
  test web
           the browser's tests alone
  bench    the figures that the README quotes
  bench inference
           models on every device beside ONNX Runtime, as a table and a chart
  bench monitors
           what monitors cost in the engine; false alarms and power
  bench web
           models in Chromium beside ONNX Runtime Web
  ci       formatting, lints, licences, test and demo

A prerequisite that cannot be got is left out with a reason; where CI=true it
is a failure.
";

fn main() -> ExitCode {
    let mut arguments = env::args().skip(1);
    let verb = arguments.next();
    let object = arguments.next();
    let result = match (verb.as_deref(), object.as_deref()) {
        (Some("setup"), None) => with_workspace(setup::main),
        (Some("plugins"), None) => with_workspace(plugins::main),
        (Some("demo"), None) => with_workspace(demo::main),
        (Some("web"), None) => with_workspace(web::main),
        (Some("test"), None) => with_workspace(|w| test::main(&w.for_tests())),
        (Some("test"), Some("monitors")) => with_workspace(|w| monitors::test(&w.for_tests())),
        (Some("test"), Some("web")) => with_workspace(|w| web::test(&w.for_tests())),
        (Some("bench"), None) => with_workspace(bench::main),
        (Some("bench"), Some("inference")) => with_workspace(bench::inference),
        (Some("bench"), Some("monitors")) => with_workspace(budgets::main),
        (Some("bench"), Some("web")) => with_workspace(web::bench),
        (Some("ci"), None) => with_workspace(|w| ci::main(&w.for_tests())),
        (Some("help" | "--help" | "-h"), None) => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn with_workspace(verb: impl FnOnce(&Workspace) -> Result<()>) -> Result<()> {
    verb(&Workspace::find()?)
}
