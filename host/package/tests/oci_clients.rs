//! Ordinary OCI clients copy packages and their signatures.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::{path::Path, process::Command};

use headland_package::{Digest, Layout, PackageLimits};
use support::{Files, NOW, PACKAGE_TYPE, SIGNATURE_TYPE, info, policy, signed_by};

/// Standard output, or none where the program is not installed.
fn run(program: &str, arguments: &[&str]) -> Option<Vec<u8>> {
    match Command::new(program).args(arguments).output() {
        Ok(output) => {
            let error = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{program} {arguments:?}: {error}");
            Some(output.stdout)
        }
        Err(e) => {
            eprintln!("skipped: {program} does not run here: {e}");
            None
        }
    }
}

fn verify(path: &Path) -> Result<Digest, String> {
    let layout = Layout::open(path, &PackageLimits::default()).map_err(|e| e.to_string())?;
    layout.verify(&policy(1), NOW).map(|p| p.digest()).map_err(|e| e.code().to_owned())
}

#[test]
fn skopeo_copies_a_package_and_its_signature() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    signed_by(&[1]).write_dir(&from).unwrap();
    let files = Files::signed();
    let package = files.manifest_of(PACKAGE_TYPE);
    let signature = files.manifest_of(SIGNATURE_TYPE);

    let version = info().version;
    let reference = |path: &Path, name: &str| format!("oci:{}:{name}", path.display());
    let Some(raw) = run("skopeo", &["inspect", "--raw", &reference(&from, &version)]) else {
        return;
    };
    assert_eq!(Digest::of(&raw).to_string(), package);

    let copy = |name: &str| {
        run(
            "skopeo",
            &[
                "copy",
                "--insecure-policy",
                "--preserve-digests",
                &reference(&from, name),
                &reference(&to, name),
            ],
        )
    };
    copy(&version);
    assert_eq!(verify(&to), Err("unsigned".to_owned()));
    copy(&format!("{}.sig", signature.replace(':', "-")));
    assert_eq!(verify(&to).unwrap().to_string(), package);
}

#[test]
fn gnu_tar_unpacks_and_packs_a_package() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    signed_by(&[1]).write_tar(Path::new(&at("p.tar"))).unwrap();
    std::fs::create_dir(at("unpacked")).unwrap();
    if run("tar", &["-xf", &at("p.tar"), "-C", &at("unpacked")]).is_none() {
        return;
    }
    let package = verify(Path::new(&at("p.tar"))).unwrap();
    assert_eq!(verify(Path::new(&at("unpacked"))), Ok(package));
    for format in ["--format=gnu", "--format=ustar", "--format=pax"] {
        run("tar", &[format, "-cf", &at("again.tar"), "-C", &at("unpacked"), "."]);
        assert_eq!(verify(Path::new(&at("again.tar"))), Ok(package), "{format}");
    }
}
