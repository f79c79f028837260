//! A layout as a directory.

use std::{
    fs::{self, File, Metadata, OpenOptions},
    io::{self, Read as _, Write as _},
    path::Path,
    sync::Arc,
};

use super::{
    Assembly, BLOB_DIR, INDEX_FILE, LAYOUT_FILE, Layout, is_layout_dir, read_shared,
    staging::{StagedDir, io_error, resolve, sync_dir},
};
use crate::{LayoutError, PackageLimits};

pub(super) fn read(root: &Path, limits: &PackageLimits) -> Result<Layout, LayoutError> {
    let mut assembly = Assembly::new(limits);
    read_below(root, "", &mut assembly)?;
    assembly.finish()
}

/// `prefix` is the path of `dir` within the layout.
fn read_below(dir: &Path, prefix: &str, assembly: &mut Assembly<'_>) -> Result<(), LayoutError> {
    for entry in fs::read_dir(dir).map_err(io_error("list", dir))? {
        let entry = entry.map_err(io_error("list", dir))?;
        assembly.count()?;
        let file = entry.path();
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let path = if prefix.is_empty() { name.into_owned() } else { format!("{prefix}/{name}") };
        let metadata = fs::symlink_metadata(&file).map_err(io_error("read", &file))?;
        if metadata.is_dir() && is_layout_dir(&path) {
            read_below(&file, &path, assembly)?;
        } else if metadata.is_dir() {
            return Err(LayoutError::UnexpectedFile(path));
        } else if metadata.is_file() {
            assembly.add(&path, metadata.len(), |size| {
                read_file(&file, &metadata, size).map_err(io_error("read", &file))
            })?;
        } else {
            let kind = if metadata.is_symlink() { "symbolic link" } else { "device or pipe" };
            return Err(LayoutError::NotRegular { path, kind });
        }
    }
    Ok(())
}

/// Read the file that `expected` describes and no other: one that was put in
/// its place since, link or not, is refused.
fn read_file(path: &Path, expected: &Metadata, size: usize) -> io::Result<Arc<[u8]>> {
    let mut file = File::open(path)?;
    let changed = || io::Error::other("the file changed while it was read");
    if !is_same_file(&file.metadata()?, expected) {
        return Err(changed());
    }
    let bytes = read_shared(&mut file, size)?;
    if file.read(&mut [0])? != 0 {
        return Err(changed());
    }
    Ok(bytes)
}

#[cfg(unix)]
fn is_same_file(a: &Metadata, b: &Metadata) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

#[cfg(not(unix))]
fn is_same_file(a: &Metadata, b: &Metadata) -> bool {
    a.is_file() && a.len() == b.len()
}

pub(super) fn write(layout: &Layout, path: &Path) -> Result<(), LayoutError> {
    let target = resolve(path)?;
    if !may_replace(&target)? {
        return Err(LayoutError::WouldReplace(target));
    }
    let staged = StagedDir::create(target)?;
    let blob_dir = staged.path().join(BLOB_DIR);
    fs::create_dir_all(&blob_dir).map_err(io_error("create", &blob_dir))?;
    for (path, bytes) in layout.files()? {
        let path = staged.path().join(path);
        let written =
            OpenOptions::new().write(true).create_new(true).open(&path).and_then(|mut file| {
                file.write_all(&bytes)?;
                file.sync_all()
            });
        written.map_err(io_error("write", &path))?;
    }
    for dir in [blob_dir.as_path(), &staged.path().join("blobs"), staged.path()] {
        sync_dir(dir)?;
    }
    staged.commit()
}

/// Whether nothing stands at `target`, or nothing but a layout: replacing
/// removes what is there.
fn may_replace(target: &Path) -> Result<bool, LayoutError> {
    match fs::symlink_metadata(target) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(true),
        Err(e) => return Err(io_error("read", target)(e)),
        Ok(metadata) if !metadata.is_dir() => return Ok(false),
        Ok(_) => {}
    }
    let (mut has_layout_file, mut is_empty) = (false, true);
    for entry in fs::read_dir(target).map_err(io_error("list", target))? {
        let name = entry.map_err(io_error("list", target))?.file_name();
        if name != LAYOUT_FILE && name != INDEX_FILE && name != "blobs" {
            return Ok(false);
        }
        has_layout_file |= name == LAYOUT_FILE;
        is_empty = false;
    }
    Ok(has_layout_file || is_empty)
}
