//! Output that appears whole or not at all: it is written beside its place,
//! made durable, and renamed into it.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io,
    path::{Path, PathBuf},
};

use crate::LayoutError;

/// Names that a sibling may take before the directory is given up as full of
/// what earlier, killed writers left.
const MAX_SIBLINGS: u32 = 1000;

pub(super) fn io_error<'p>(
    action: &'static str,
    path: &'p Path,
) -> impl FnOnce(io::Error) -> LayoutError + 'p {
    move |source| LayoutError::Io { action, path: path.to_owned(), source }
}

/// Where `path` leads if it is a link, so that the link stays and what it
/// names is replaced.
pub(super) fn resolve(path: &Path) -> Result<PathBuf, LayoutError> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_symlink() => {
            fs::canonicalize(path).map_err(io_error("resolve", path))
        }
        _ => Ok(path.to_owned()),
    }
}

/// Make a new file or directory beside `path`, with a name that no other
/// writer has.
pub(super) fn create_sibling<T>(
    path: &Path,
    create: impl Fn(&Path) -> io::Result<T>,
) -> Result<(PathBuf, T), LayoutError> {
    let name = path.file_name().ok_or_else(|| LayoutError::WouldReplace(path.to_owned()))?;
    for attempt in 0..MAX_SIBLINGS {
        let mut sibling = OsString::from(".");
        sibling.push(name);
        sibling.push(format!(".{attempt}.partial"));
        let sibling = path.with_file_name(sibling);
        match create(&sibling) {
            Ok(created) => return Ok((sibling, created)),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(io_error("create", &sibling)(e)),
        }
    }
    Err(io_error("create a file beside", path)(io::ErrorKind::AlreadyExists.into()))
}

/// Make the renaming of `path` durable.
pub(super) fn sync_parent(path: &Path) -> Result<(), LayoutError> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    sync_dir(parent)
}

/// Make the entries of a directory durable, where the system lets one open it.
pub(super) fn sync_dir(dir: &Path) -> Result<(), LayoutError> {
    if cfg!(unix) {
        File::open(dir).and_then(|d| d.sync_all()).map_err(io_error("sync", dir))?;
    }
    Ok(())
}

/// A file on its way to its place; removed if it does not get there.
pub(super) struct StagedFile {
    target: PathBuf,
    staged: PathBuf,
    file: File,
}

impl StagedFile {
    pub(super) fn create(target: &Path) -> Result<Self, LayoutError> {
        let target = resolve(target)?;
        let (staged, file) =
            create_sibling(&target, |p| OpenOptions::new().write(true).create_new(true).open(p))?;
        Ok(Self { target, staged, file })
    }

    pub(super) fn write_all(
        &self,
        write: impl FnOnce(&File) -> io::Result<()>,
    ) -> Result<(), LayoutError> {
        write(&self.file)
            .and_then(|()| self.file.sync_all())
            .map_err(io_error("write", &self.staged))
    }

    pub(super) fn commit(self) -> Result<(), LayoutError> {
        fs::rename(&self.staged, &self.target).map_err(io_error("replace", &self.target))?;
        sync_parent(&self.target)
    }
}

impl Drop for StagedFile {
    fn drop(&mut self) {
        // After a commit nothing is left under this name.
        let _ = fs::remove_file(&self.staged);
    }
}

/// A directory on its way to its place; removed if it does not get there.
pub(super) struct StagedDir {
    target: PathBuf,
    staged: PathBuf,
}

impl StagedDir {
    /// `target` must be what [`resolve`] gave.
    pub(super) fn create(target: PathBuf) -> Result<Self, LayoutError> {
        let (staged, ()) = create_sibling(&target, |p| fs::create_dir(p))?;
        Ok(Self { target, staged })
    }

    pub(super) fn path(&self) -> &Path {
        &self.staged
    }

    /// Take the target's place, and put back what was there if that fails.
    pub(super) fn commit(self) -> Result<(), LayoutError> {
        let replace_error = io_error("replace", &self.target);
        if fs::symlink_metadata(&self.target).is_err() {
            fs::rename(&self.staged, &self.target).map_err(replace_error)?;
            return sync_parent(&self.target);
        }
        let (aside, ()) = create_sibling(&self.target, |p| fs::create_dir(p))?;
        let replaced = aside.join("replaced");
        let swapped = fs::rename(&self.target, &replaced).and_then(|()| {
            fs::rename(&self.staged, &self.target)
                .inspect_err(|_| drop(fs::rename(&replaced, &self.target)))
        });
        if swapped.is_err() {
            // Only if it is empty: what could not be put back stays.
            let _ = fs::remove_dir(&aside);
        }
        swapped.map_err(replace_error)?;
        sync_parent(&self.target)?;
        fs::remove_dir_all(&aside).map_err(io_error("remove", &aside))
    }
}

impl Drop for StagedDir {
    fn drop(&mut self) {
        // After a commit nothing is left under this name.
        let _ = fs::remove_dir_all(&self.staged);
    }
}
