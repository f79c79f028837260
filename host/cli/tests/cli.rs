//! The binary as a user meets it: what it prints, writes and ends with.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    fs,
    path::Path,
    process::{Command, Output, Stdio},
};

use serde_json::Value;
use tempfile::TempDir;

/// The binary, in `folder` and with its caches there.
fn headland(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_headland"));
    command.current_dir(folder).env("XDG_CACHE_HOME", folder.join("cache"));
    command
}

fn run(folder: &Path, args: &[&str]) -> Output {
    headland(folder).args(args).output().unwrap()
}

fn ok(folder: &Path, args: &[&str]) -> String {
    let output = run(folder, args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn json(folder: &Path, args: &[&str]) -> Vec<Value> {
    ok(folder, args).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// A signed package that gives the mean of its source alone, `a.npy` with three frames for
/// it, and the policy that trusts it.
fn package() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let write = |name: &str, text: &str| fs::write(at.join(name), text).unwrap();
    fs::create_dir(at.join("src")).unwrap();
    write("src/package.toml", "name = \"pass\"\nversion = \"0.1.0\"\nrelease = 1\n");
    write(
        "src/pipeline.toml",
        "schema = 1\nname = \"pass\"\noutput = \"pass\"\n\n[[stage]]\nid = \"pass\"\n\
         inputs = [\"source\"]\ncombine = \"mean\"\n",
    );
    let mut npy = b"\x93NUMPY\x01\x00\x76\x00".to_vec();
    npy.extend(
        format!("{:<117}\n", "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 2), }").bytes(),
    );
    npy.extend([1.0f32; 6].iter().flat_map(|v| v.to_le_bytes()));
    fs::write(at.join("a.npy"), npy).unwrap();
    ok(at, &["keygen"]);
    ok(at, &["trust", "new", "--key", "key.pub.pem", "-o", "trust.toml"]);
    ok(at, &["package", "build", "src", "-o", "p.tar"]);
    ok(at, &["package", "sign", "p.tar", "--key", "key.pem"]);
    folder
}

const RUN: [&str; 7] = ["run", "p.tar", "--policy", "trust.toml", "--split", "--input", "a.npy"];

#[test]
fn a_cache_that_nobody_asked_for_may_be_missing() {
    let folder = package();
    let output = headland(folder.path()).args(RUN).env("XDG_CACHE_HOME", "/dev/null").output();
    let output = output.unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(stderr.contains("/dev/null/headland/code"), "{stderr}");
    let asked = run(folder.path(), &[&RUN[..], &["--code-cache", "/dev/null/code"]].concat());
    assert_eq!(asked.status.code(), Some(1));
}

#[test]
fn every_json_line_has_one_kind() {
    let folder = package();
    let lines = json(folder.path(), &[&RUN[..], &["--json"]].concat());
    let kinds: Vec<&str> = lines.iter().map(|l| l["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["package", "frame", "frame", "frame", "summary"]);
    assert_eq!(lines[4]["stats"]["completed"], 3);
    let refused =
        run(folder.path(), &["run", "none", "--policy", "none", "--input", "x", "--json"]);
    let said: Value = serde_json::from_slice(&refused.stdout).unwrap();
    assert_eq!((refused.status.code(), &said["kind"]), (Some(1), &Value::from("error")));
}

#[test]
fn bench_compiles_anew_and_fails_without_a_result() {
    let folder = package();
    let mut args = RUN;
    args[0] = "bench";
    let args = [&args[..], &["--seconds", "0.01", "--json"]].concat();
    let measured = &json(folder.path(), &args)[0];
    assert_eq!(measured["code_cache"], "empty");
    assert!(measured["summary"]["completed"].as_u64() > Some(0));
    // There is no mean of bytes: every frame is dropped.
    fs::write(folder.path().join("a.bin"), "x").unwrap();
    let args: Vec<&str> = args.iter().map(|a| if *a == "a.npy" { "a.bin" } else { a }).collect();
    let failed = run(folder.path(), &args);
    assert_eq!(failed.status.code(), Some(1));
    let lines = String::from_utf8(failed.stdout).unwrap();
    let lines: Vec<Value> = lines.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(lines[0]["summary"]["completed"], 0);
    assert_eq!(lines[1]["error"][0], "no frame came through: stage-failed");
}

#[cfg(unix)]
#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let folder = package();
    for args in [&RUN[..], &["completions", "bash"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = headland(folder.path())
            .args(args)
            .stdout(writer)
            .stderr(Stdio::piped())
            .spawn()
            .and_then(|child| child.wait_with_output())
            .unwrap();
        assert!(output.status.success(), "{args:?}");
        assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[cfg(target_os = "linux")]
#[test]
fn output_that_is_lost_is_a_failure() {
    let folder = package();
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = headland(folder.path()).args(RUN).stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("standard output"));
}

#[test]
fn every_verb_speaks_json() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let key = json(at, &["keygen", "--json"]).remove(0);
    let trust = json(at, &["trust", "new", "--key", "key.pub.pem", "-o", "t.toml", "--json"]);
    assert_eq!(trust[0]["keys"][0]["id"], key["key_id"]);
    assert_eq!(trust[0]["policy"], "t.toml");
    assert_eq!(json(at, &["man", "--out-dir", "man", "--json"])[0]["manual_pages"], "man");
    assert!(at.join("man/headland.1").is_file());
    let completions = json(at, &["completions", "bash", "--json"]);
    assert!(completions[0]["script"].as_str().unwrap().contains("_headland"));
}

#[test]
fn keygen_makes_a_pair_or_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    fs::write(at.join("key.pub.pem"), "mine").unwrap();
    assert_eq!(run(at, &["keygen"]).status.code(), Some(1));
    assert!(!at.join("key.pem").exists());
    assert_eq!(fs::read(at.join("key.pub.pem")).unwrap(), b"mine");
    for name in ["../key", "a/b", "", ".."] {
        assert_eq!(run(at, &["keygen", "--name", name]).status.code(), Some(1), "{name:?}");
    }
}

#[test]
fn a_component_cannot_be_named_what_cargo_refuses() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["headland-sdk", "fn", "test", "serde"] {
        let made = run(folder.path(), &["plugin", "new", name, "--kind", "model"]);
        assert_eq!(made.status.code(), Some(1), "{name}");
        assert!(!folder.path().join(name).exists());
    }
}

#[test]
fn a_missing_input_is_said_before_anything_is_compiled() {
    let folder = package();
    let at = folder.path();
    let args = ["run", "p.tar", "--policy", "trust.toml", "--input", "none.csv"];
    let refused = run(at, &args);
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("cannot read none.csv"));
    assert!(refused.stdout.is_empty());
}

/// An f32 `.npy` file.
fn npy(path: &Path, shape: &str, values: &[f32]) {
    let mut file = b"\x93NUMPY\x01\x00\x76\x00".to_vec();
    let header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({shape}), }}");
    file.extend(format!("{header:<117}\n").bytes());
    file.extend(values.iter().flat_map(|v| v.to_le_bytes()));
    fs::write(path, file).unwrap();
}

#[test]
fn what_cannot_be_explained_is_said() {
    let folder = package();
    let mut args = RUN;
    args[0] = "explain";
    let refused = |more: &[&str]| {
        let refused = run(folder.path(), &[&args[..], more].concat());
        assert_eq!(refused.status.code(), Some(1));
        String::from_utf8(refused.stderr).unwrap()
    };
    let none = refused(&[]);
    assert!(none.contains("package pass has no [[explainer]] in its pipeline"), "{none}");
    let unknown = refused(&["--explainer", "why"]);
    assert!(unknown.contains("no explainer \"why\"; it has []"), "{unknown}");
    let two = refused(&["--frame", "0", "--frame", "1", "--plot", "p.svg"]);
    assert!(two.contains("--plot draws one frame, 2 are"), "{two}");
    assert!(!folder.path().join("p.svg").exists());
}

#[test]
fn a_model_is_optimised_within_a_tolerance_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let model =
        concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/vision-digits/models/digits-cnn.onnx");
    let input = &json(at, &["onnx", "inspect", model, "--json"])[0]["inputs"][0];
    let dims: Vec<u64> =
        input["shape"].as_array().unwrap().iter().map(|d| d.as_u64().unwrap_or(1)).collect();
    let len: u64 = dims.iter().product();
    let sample: Vec<String> = dims.iter().skip(1).map(u64::to_string).collect();
    let values: Vec<f32> = (0..4 * len).map(|i| (i * 37 % 101) as f32 / 101.0).collect();
    npy(&at.join("x.npy"), &format!("4, {}", sample.join(", ")), &values);
    // What float16 gives is not right to the last digit.
    npy(&at.join("zeros.npy"), "40,", &[0.0; 40]);
    let optimize = |last: &[&str]| {
        let shared = ["onnx", "optimize", model, "-o", "small.onnx", "--json"];
        run(at, &[&shared[..], last].concat())
    };
    let gate = ["--f16", "--labelled", "x.npy", "--labels", "zeros.npy", "--metric", "mae"];
    let refused = optimize(&[&gate[..], &["--max-drop", "-1000"]].concat());
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8(refused.stdout).unwrap();
    assert!(said.contains("not written"), "{said}");
    assert_eq!(fs::read_dir(at).unwrap().count(), 2, "nothing was written");

    let made = optimize(&[&gate[..], &["--max-drop", "1"]].concat());
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let report: Value = serde_json::from_slice(&made.stdout).unwrap();
    let passes: Vec<&str> =
        report["passes"].as_array().unwrap().iter().map(|p| p["pass"].as_str().unwrap()).collect();
    assert_eq!(passes, ["identities", "fold", "fuse", "dead", "f16"]);
    assert!(report["output_bytes"].as_u64().unwrap() < report["source_bytes"].as_u64().unwrap());
    let first = fs::read(at.join("small.onnx")).unwrap();
    let source = report["source"].as_str().unwrap();
    for said in ["headland.optimize.source", source, "headland.optimize.delta"] {
        assert!(first.windows(said.len()).any(|w| w == said.as_bytes()), "{said}");
    }

    let int8 = ["--int8", "--calibrate", "x.npy"];
    let there = optimize(&int8);
    assert_eq!(there.status.code(), Some(1));
    assert_eq!(fs::read(at.join("small.onnx")).unwrap(), first);
    assert!(optimize(&[&int8[..], &["--force"]].concat()).status.success());
    let operators = &json(at, &["onnx", "inspect", "small.onnx", "--json"])[0]["operators"];
    assert!(operators["QuantizeLinear"].as_u64().unwrap() > 0, "{operators}");
}

#[test]
fn pruning_is_reported_and_writes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let model =
        concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/vision-digits/models/digits-cnn.onnx");
    let args = ["onnx", "optimize", model, "--prune-report", "--json"];
    let report = &json(folder.path(), &args)[0];
    let rows = report["pruning"].as_array().unwrap();
    assert!(rows.iter().any(|row| row["channels"].is_u64()), "{rows:?}");
    assert!(report["output"].is_null());
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_model_is_measured_on_inputs_that_fit_it() {
    let model =
        concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/vision-digits/models/digits-cnn.onnx");
    let folder = tempfile::tempdir().unwrap();
    let bench = ["onnx", "bench", model, "--runs", "3", "--json"];
    let measured = &json(folder.path(), &bench)[0];
    assert_eq!(measured["runs"], 3);
    let us = |field: &str| measured[field].as_f64().unwrap();
    assert!(0.0 < us("min_us") && us("min_us") <= us("median_us"), "{measured}");
    assert!(us("median_us") <= us("p95_us"), "{measured}");
    let refused = run(folder.path(), &[&bench[..], &["--size", "nothing=2"]].concat());
    let said: Value = serde_json::from_slice(&refused.stdout).unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert!(said["error"].to_string().contains("nothing"), "{said}");
}
