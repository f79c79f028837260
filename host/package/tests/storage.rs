//! Attacks on the way a layout is stored, and what is left after a failure.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::{fs, path::Path};

use headland_package::{Layout, LayoutError, PackageLimits};
use support::{Files, NOW, append, blob_path, policy, signed_by};
use tar::EntryType;

fn from_tar(tar: &[u8]) -> Result<Layout, LayoutError> {
    Layout::from_tar(tar, &PackageLimits::default())
}

fn code(result: Result<Layout, LayoutError>) -> &'static str {
    result.expect_err("the layout is read").code()
}

/// A good tar with one more member, before the others.
fn tar_with(path: &str, kind: EntryType, bytes: &[u8]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    append(&mut tar, path, kind, bytes);
    for (path, bytes) in &Files::signed().0 {
        append(&mut tar, path, EntryType::Regular, bytes);
    }
    tar.into_inner().unwrap()
}

fn written(dir: &Path) -> std::path::PathBuf {
    let path = dir.join("package");
    signed_by(&[1]).write_dir(&path).unwrap();
    path
}

fn from_dir(path: &Path) -> Result<Layout, LayoutError> {
    Layout::open(path, &PackageLimits::default())
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<_> =
        entries.map(|e| e.unwrap().file_name().to_str().unwrap().to_owned()).collect();
    names.sort();
    names
}

// Good ones.

#[test]
fn a_layout_survives_tar_and_directory() {
    let dir = tempfile::tempdir().unwrap();
    let layout = signed_by(&[1, 2]);
    let (tar, folder) = (dir.path().join("p.tar"), dir.path().join("p"));
    layout.write_tar(&tar).unwrap();
    layout.write_dir(&folder).unwrap();
    assert_eq!(from_dir(&tar).unwrap(), layout);
    assert_eq!(from_dir(&folder).unwrap(), layout);
    assert_eq!(fs::read(&tar).unwrap(), layout.to_tar_bytes().unwrap());
    assert!(from_dir(&folder).unwrap().verify(&policy(2), NOW).is_ok());
    assert_eq!(names(dir.path()), ["p", "p.tar"]);
}

#[test]
fn tars_of_other_tools_are_read() {
    // `./`, directories, and extended headers with times, as GNU tar writes
    // with `--format=pax`.
    let mut tar = tar::Builder::new(Vec::new());
    for dir in ["./", "./blobs/", "./blobs/sha256/"] {
        append(&mut tar, dir, EntryType::Directory, b"");
    }
    for (path, bytes) in &Files::signed().0 {
        append(&mut tar, "x", EntryType::XHeader, b"20 mtime=1700000000\n");
        append(&mut tar, &format!("./{path}"), EntryType::Regular, bytes);
    }
    assert_eq!(from_tar(&tar.into_inner().unwrap()).unwrap(), signed_by(&[1]));
}

#[test]
fn writing_again_replaces_a_layout_and_leaves_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let path = written(dir.path());
    let mut layout = from_dir(&path).unwrap();
    layout.sign(&support::key(2)).unwrap();
    layout.write_dir(&path).unwrap();
    assert_eq!(from_dir(&path).unwrap(), layout);
    assert_eq!(names(dir.path()), ["package"]);

    let tar = dir.path().join("package.tar");
    signed_by(&[1]).write_tar(&tar).unwrap();
    layout.write_tar(&tar).unwrap();
    assert_eq!(from_dir(&tar).unwrap(), layout);
    assert_eq!(names(dir.path()), ["package", "package.tar"]);
}

// Tars.

#[test]
fn path_traversal_in_a_tar() {
    let blob = blob_path(&Files::signed().envelope());
    for path in ["../evil", "blobs/../../evil", &format!("../{blob}"), "..\\evil", "blobs/.."] {
        assert_eq!(
            code(from_tar(&tar_with(path, EntryType::Regular, b"x"))),
            "unsafe-path",
            "{path}"
        );
    }
}

#[test]
fn absolute_path_in_a_tar() {
    for path in ["/etc/passwd", "//index.json", "/index.json"] {
        assert_eq!(
            code(from_tar(&tar_with(path, EntryType::Regular, b"x"))),
            "unsafe-path",
            "{path}"
        );
    }
}

#[test]
fn links_and_devices_in_a_tar() {
    let blob = blob_path(&Files::signed().envelope());
    for kind in [
        EntryType::Symlink,
        EntryType::Link,
        EntryType::Char,
        EntryType::Block,
        EntryType::Fifo,
        EntryType::Continuous,
        EntryType::new(b'V'),
    ] {
        assert_eq!(code(from_tar(&tar_with(&blob, kind, b""))), "not-regular", "{kind:?}");
    }
}

#[test]
fn duplicate_names_in_a_tar() {
    for path in
        ["index.json", "./index.json", "oci-layout", &blob_path(&Files::signed().envelope())]
    {
        assert_eq!(
            code(from_tar(&tar_with(path, EntryType::Regular, b"x"))),
            "duplicate-path",
            "{path}"
        );
    }
}

#[test]
fn tar_extensions_that_rename_or_resize_the_next_member() {
    for (kind, body) in [
        (EntryType::XHeader, "22 path=oci-layout-2\n\n"),
        (EntryType::XHeader, "10 size=5\n"),
        (EntryType::XGlobalHeader, "10 size=5\n"),
        (EntryType::XHeader, "22 GNU.sparse.major=1\n"),
        (EntryType::GNULongName, "index.json"),
        (EntryType::GNULongLink, "index.json"),
    ] {
        let code = code(from_tar(&tar_with("x", kind, body.as_bytes())));
        assert!(matches!(code, "tar-extension" | "malformed-tar"), "{body:?}: {code}");
    }
}

#[test]
fn tar_bomb_of_a_huge_declared_size() {
    let blob = blob_path(&Files::signed().envelope());
    let mut header = tar::Header::new_ustar();
    header.set_path(&blob).unwrap();
    header.set_entry_type(EntryType::Regular);
    // Within the limits, but more than the tar has: no memory is taken for it.
    for (size, expected) in
        [(1 << 29, "truncated-tar"), (1 << 40, "blob-too-large"), (u64::MAX / 2, "blob-too-large")]
    {
        header.set_size(size);
        header.set_cksum();
        assert_eq!(code(from_tar(header.as_bytes())), expected, "{size}");
    }
}

#[test]
fn tar_bomb_of_a_sparse_member() {
    let mut header = tar::Header::new_gnu();
    header.set_path(blob_path(&Files::signed().envelope())).unwrap();
    header.set_entry_type(EntryType::GNUSparse);
    header.set_size(0);
    // Eleven octal digits: 8 GiB of nothing.
    header.as_gnu_mut().unwrap().realsize = *b"77777777777\0";
    header.set_cksum();
    assert_eq!(code(from_tar(header.as_bytes())), "not-regular");
}

#[test]
fn truncated_tar() {
    let tar = signed_by(&[1]).to_tar_bytes().unwrap();
    let end_marker_bytes = 1024;
    for len in (0..tar.len() - end_marker_bytes).step_by(64) {
        let read = from_tar(&tar[..len]);
        // Cut between two members, it is a shorter tar that lacks some.
        let refused = read.map_err(Into::into).and_then(|l| l.verify(&policy(1), NOW));
        let code = refused.expect_err("a truncated tar is accepted").code();
        let expected = ["truncated-tar", "malformed-tar", "missing-file", "missing-blob"];
        assert!(expected.contains(&code), "{len}: {code}");
    }
}

#[test]
fn data_hidden_after_the_end_of_a_tar() {
    let mut tar = signed_by(&[1]).to_tar_bytes().unwrap();
    tar.extend([0; 10_240]);
    assert!(from_tar(&tar).is_ok(), "padding is no data");
    let hidden = [tar.clone(), signed_by(&[2]).to_tar_bytes().unwrap()].concat();
    assert_eq!(code(from_tar(&hidden)), "trailing-data");
    tar.resize(tar.len() + (2 << 20), 0);
    assert_eq!(code(from_tar(&tar)), "trailing-data");
}

#[test]
fn what_is_no_tar() {
    assert_eq!(code(from_tar(b"")), "missing-file");
    assert_eq!(code(from_tar(&[0x1f; 600])), "malformed-tar");
    assert_eq!(code(from_tar(b"short")), "malformed-tar");
}

// Directories.

#[cfg(unix)]
#[test]
fn symlink_in_a_directory() {
    use std::os::unix::fs::symlink;
    let dir = tempfile::tempdir().unwrap();
    for file in ["index.json", "oci-layout", &blob_path(&Files::signed().envelope())] {
        let path = written(dir.path());
        fs::rename(path.join(file), dir.path().join("elsewhere")).unwrap();
        symlink(dir.path().join("elsewhere"), path.join(file)).unwrap();
        assert_eq!(code(from_dir(&path)), "not-regular", "{file}");
        fs::remove_dir_all(&path).unwrap();
    }
    for folder in ["blobs", "blobs/sha256"] {
        let path = written(dir.path());
        let elsewhere = dir.path().join(folder.replace('/', "-"));
        fs::rename(path.join(folder), &elsewhere).unwrap();
        symlink(&elsewhere, path.join(folder)).unwrap();
        assert_eq!(code(from_dir(&path)), "not-regular", "{folder}");
        fs::remove_dir_all(&path).unwrap();
    }
}

/// A hard link is a regular file, so its bytes count for what they are; the
/// other name cannot change what was read, and writing does not go through it.
#[cfg(unix)]
#[test]
fn hard_link_in_a_directory() {
    let dir = tempfile::tempdir().unwrap();
    let path = written(dir.path());
    let inside = path.join(blob_path(&Files::signed().layer("anomaly.onnx")));
    let outside = dir.path().join("outside");
    fs::hard_link(&inside, &outside).unwrap();
    let layout = from_dir(&path).unwrap();
    fs::write(&outside, b"changed").unwrap();
    assert!(layout.verify(&policy(1), NOW).is_ok());
    let changed = from_dir(&path).unwrap().verify(&policy(1), NOW).unwrap_err();
    assert_eq!(changed.code(), "size-mismatch");
    layout.write_dir(&path).unwrap();
    assert_eq!(fs::read(&outside).unwrap(), b"changed");
    assert!(from_dir(&path).unwrap().verify(&policy(1), NOW).is_ok());
}

#[cfg(unix)]
#[test]
fn socket_in_a_directory() {
    let dir = tempfile::tempdir().unwrap();
    let path = written(dir.path());
    let _socket = std::os::unix::net::UnixListener::bind(path.join("blobs/sha256/s")).unwrap();
    assert_eq!(code(from_dir(&path)), "not-regular");
}

#[test]
fn extra_file_or_folder_in_a_directory() {
    let dir = tempfile::tempdir().unwrap();
    for file in ["notes.txt", "blobs/notes.txt", "blobs/sha256/notes.txt", ".index.json.0.partial"]
    {
        let path = written(dir.path());
        fs::write(path.join(file), b"").unwrap();
        assert_eq!(code(from_dir(&path)), "unexpected-file", "{file}");
        fs::remove_dir_all(&path).unwrap();
    }
    let path = written(dir.path());
    fs::create_dir(path.join("blobs/sha512")).unwrap();
    assert_eq!(code(from_dir(&path)), "unexpected-file");
}

#[test]
fn no_such_path_and_no_layout() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(code(from_dir(&dir.path().join("absent"))), "io");
    assert_eq!(code(from_dir(dir.path())), "missing-file");
    if cfg!(unix) {
        assert_eq!(code(from_dir(Path::new("/dev/null"))), "not-a-layout");
    }
}

// Limits, in tar and directory alike.

#[test]
fn over_each_limit() {
    let dir = tempfile::tempdir().unwrap();
    let path = written(dir.path());
    let tar = signed_by(&[1]).to_tar_bytes().unwrap();
    let fits = PackageLimits::default();
    for (limits, expected) in [
        // The model has 1500 bytes.
        (PackageLimits { max_blob_bytes: 1500, ..fits }, None),
        (PackageLimits { max_blob_bytes: 1499, ..fits }, Some("blob-too-large")),
        (PackageLimits { max_total_bytes: 1500, ..fits }, Some("total-too-large")),
        (PackageLimits { max_entries: 11, ..fits }, Some("too-many-entries")),
        (PackageLimits { max_manifest_bytes: 30, ..fits }, Some("blob-too-large")),
        (PackageLimits { max_manifest_bytes: 1200, ..fits }, Some("document-too-large")),
        (PackageLimits { max_name_len: 14, ..fits }, Some("bad-name")),
        (PackageLimits { max_signatures: 0, ..fits }, Some("too-many-signatures")),
    ] {
        for layout in [Layout::from_tar(&tar, &limits), Layout::from_dir(&path, &limits)] {
            let verified = layout.map_err(Into::into).and_then(|l| l.verify(&policy(1), NOW));
            assert_eq!(verified.err().map(|e| e.code()), expected, "{limits:?}");
        }
    }
}

// Failing to write.

#[test]
fn a_failed_write_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let layout = signed_by(&[1]);
    fs::write(dir.path().join("file"), b"kept").unwrap();
    fs::create_dir(dir.path().join("folder")).unwrap();
    fs::write(dir.path().join("folder/file"), b"kept").unwrap();
    let before = names(dir.path());

    let check = |what: &str, result: Result<(), LayoutError>, expected: &str| {
        assert_eq!(result.expect_err(what).code(), expected, "{what}");
        assert_eq!(names(dir.path()), before, "{what}");
        assert_eq!(fs::read(dir.path().join("file")).unwrap(), b"kept");
        assert_eq!(names(&dir.path().join("folder")), ["file"]);
    };
    let at = |path: &str| dir.path().join(path);
    check("no such parent, tar", layout.write_tar(&at("absent/p.tar")), "io");
    check("no such parent, directory", layout.write_dir(&at("absent/p")), "io");
    check("parent is a file, tar", layout.write_tar(&at("file/p.tar")), "io");
    check("parent is a file, directory", layout.write_dir(&at("file/p")), "io");
    // Fails only when the finished tar is moved to its place.
    check("a folder in a tar's place", layout.write_tar(&at("folder")), "io");
    check("a file in a directory's place", layout.write_dir(&at("file")), "would-replace");
    check("someone's folder", layout.write_dir(&at("folder")), "would-replace");
    check("no name", layout.write_tar(&at("..")), "would-replace");
}

/// The system lets no file grow over a kilobyte, so that writing fails in the
/// middle of the model.
#[cfg(unix)]
#[test]
fn a_write_cut_short_by_the_system_leaves_nothing() {
    const TARGET: &str = "HEADLAND_TEST_TARGET";
    if let Some(dir) = std::env::var_os(TARGET) {
        let (tar, folder) = (Path::new(&dir).join("p.tar"), Path::new(&dir).join("p"));
        let layout = signed_by(&[1]);
        for result in [layout.write_tar(&tar), layout.write_dir(&folder)] {
            let error = result.expect_err("it was written");
            assert!(error.to_string().starts_with("cannot write"), "{error}");
        }
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let output = std::process::Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 1; exec \"$0\" --exact \"$1\""])
        .arg(std::env::current_exe().unwrap())
        .arg("a_write_cut_short_by_the_system_leaves_nothing")
        .env(TARGET, dir.path())
        .output()
        .unwrap();
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && shown.contains("1 passed"), "{shown}");
    assert_eq!(names(dir.path()), [""; 0]);
}

#[test]
fn an_empty_directory_is_filled() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("empty");
    fs::create_dir(&path).unwrap();
    signed_by(&[1]).write_dir(&path).unwrap();
    assert_eq!(from_dir(&path).unwrap(), signed_by(&[1]));
    assert_eq!(names(dir.path()), ["empty"]);
}

#[cfg(unix)]
#[test]
fn a_link_to_the_target_stays_a_link() {
    let dir = tempfile::tempdir().unwrap();
    let path = written(dir.path());
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    let layout = signed_by(&[1, 2]);
    layout.write_dir(&link).unwrap();
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(from_dir(&path).unwrap(), layout);
}
