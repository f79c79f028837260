//! Dependencies point one way, and each backend is known to one crate.
//!
//! What counts is what a crate is built with (normal and build
//! dependencies); its tests may use what they like.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

/// A crate of the workspace.
struct Member {
    /// Whether it is of a runtime: one of `host/*`, or `web`.
    is_host: bool,
    /// What it is built with.
    dependencies: BTreeSet<String>,
}

fn members() -> BTreeMap<String, Member> {
    // As cargo says it now: checkouts that share a target directory share this
    // binary, too.
    let here = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("run by cargo"));
    let output = Command::new(env::var_os("CARGO").expect("run by cargo"))
        .args(["metadata", "--no-deps", "--format-version", "1"])
        .current_dir(&here)
        .output()
        .expect("cargo starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let root = here.parent().unwrap().to_owned();
    let text = |v: &Value| v.as_str().unwrap().to_owned();
    metadata["packages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|package| {
            let dependencies = package["dependencies"]
                .as_array()
                .unwrap()
                .iter()
                .filter(|d| d["kind"] != "dev")
                .map(|d| text(&d["name"]))
                .collect();
            let manifest = text(&package["manifest_path"]);
            let folder = Path::new(&manifest).parent().unwrap();
            let is_host = folder.parent() == Some(&root.join("host")) || folder == root.join("web");
            (text(&package["name"]), Member { is_host, dependencies })
        })
        .collect()
}

/// The crates whose dependencies satisfy `is_used`.
fn users(members: &BTreeMap<String, Member>, is_used: impl Fn(&str) -> bool) -> Vec<&str> {
    members
        .iter()
        .filter(|(_, m)| m.dependencies.iter().any(|d| is_used(d)))
        .map(|(name, _)| name.as_str())
        .collect()
}

#[test]
fn host_crates_depend_one_way() {
    let may_use: BTreeMap<&str, &[&str]> = BTreeMap::from([
        ("headland-tensor", &[][..]),
        ("headland-monitor", &[]),
        ("headland-package", &["headland-tensor", "headland-monitor"]),
        ("headland-inference", &["headland-tensor"]),
        ("headland-pipeline", &["headland-tensor", "headland-monitor"]),
        (
            "headland-engine",
            &[
                "headland-tensor",
                "headland-monitor",
                "headland-package",
                "headland-inference",
                "headland-pipeline",
            ],
        ),
        (
            "headland-cli",
            &[
                "headland-tensor",
                "headland-monitor",
                "headland-package",
                "headland-inference",
                "headland-pipeline",
                "headland-engine",
            ],
        ),
        (
            "headland-web",
            &[
                "headland-tensor",
                "headland-monitor",
                "headland-package",
                "headland-inference",
                "headland-pipeline",
            ],
        ),
    ]);
    let members = members();
    for (name, member) in members.iter().filter(|(_, m)| m.is_host) {
        let ours = member.dependencies.iter().filter(|d| members.contains_key(*d));
        let allowed = may_use.get(name.as_str()).copied().unwrap_or_default();
        for dependency in ours {
            assert!(
                allowed.contains(&dependency.as_str()),
                "{name} must not depend on {dependency}"
            );
        }
    }
    for name in may_use.keys() {
        assert!(members.contains_key(*name), "{name} is gone: the map above is out of date");
    }
}

#[test]
fn only_the_engine_knows_wasmtime() {
    let members = members();
    assert_eq!(users(&members, |d| d.starts_with("wasmtime")), ["headland-engine"]);
}

#[test]
fn only_inference_knows_tract() {
    let members = members();
    assert_eq!(users(&members, |d| d.starts_with("tract")), ["headland-inference"]);
}

#[test]
fn sans_io_crates_have_no_runtime_and_no_socket() {
    const CORE: [&str; 5] = [
        "headland-tensor",
        "headland-monitor",
        "headland-package",
        "headland-inference",
        "headland-pipeline",
    ];
    const RUNTIMES: [&str; 8] =
        ["tokio", "async-std", "smol", "futures", "mio", "socket2", "hyper", "reqwest"];
    let members = members();
    for name in CORE {
        let found: Vec<_> =
            members[name].dependencies.iter().filter(|d| RUNTIMES.contains(&d.as_str())).collect();
        assert!(found.is_empty(), "{name} depends on {found:?}");
    }
}

#[test]
fn components_know_only_the_sdk_and_what_monitors_share() {
    let members = members();
    let guests = members.iter().filter(|(name, m)| !m.is_host && *name != "xtask");
    let mut with_sdk = 0;
    for (name, guest) in guests {
        for dependency in guest.dependencies.iter().filter(|d| members.contains_key(*d)) {
            let known = ["headland-sdk", "headland-monitor"];
            assert!(known.contains(&dependency.as_str()), "{name} depends on {dependency}");
            with_sdk += usize::from(dependency == "headland-sdk");
        }
    }
    assert!(with_sdk > 0, "no component depends on the SDK");
}
