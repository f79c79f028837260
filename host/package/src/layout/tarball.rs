//! A layout as a tar.
//!
//! Headers are taken as they stand: no member may change the meaning of the
//! next. So long names, sparse files and the extended headers that override a
//! path or a size are refused, and no two readers can disagree on what a tar
//! holds. Extended headers with times, owners and the like are skipped.

use std::{
    io::{self, BufWriter, Read, Write},
    path::Path,
};

use tar::{Archive, Builder, EntryType, Header, PaxExtensions};

use super::{Assembly, Layout, is_layout_dir, read_shared, staging::StagedFile};
use crate::{LayoutError, PackageLimits};

/// Zeros that may follow the end marker; tools pad to their blocking factor.
const MAX_PADDING_BYTES: usize = 1 << 20;

pub(super) fn read(
    reader: impl Read,
    len_bytes: u64,
    limits: &PackageLimits,
) -> Result<Layout, LayoutError> {
    let mut archive = Archive::new(reader);
    let mut assembly = Assembly::new(limits);
    for entry in archive.entries().map_err(LayoutError::MalformedTar)?.raw(true) {
        let mut entry = entry.map_err(LayoutError::MalformedTar)?;
        assembly.count()?;
        let path = member_path(&entry.path_bytes())?;
        let size_bytes = entry.size();
        // The declared size buys no memory that the tar does not back.
        let is_cut_off = entry
            .raw_file_position()
            .checked_add(size_bytes)
            .is_none_or(|end_bytes| end_bytes > len_bytes);
        let truncated = || LayoutError::TruncatedTar(path.clone());
        let kind = match entry.header().entry_type() {
            EntryType::Regular => {
                assembly.add(&path, size_bytes, |size| {
                    if is_cut_off {
                        return Err(truncated());
                    }
                    read_shared(&mut entry, size).map_err(LayoutError::MalformedTar)
                })?;
                continue;
            }
            EntryType::Directory if is_layout_dir(&path) && size_bytes == 0 => continue,
            EntryType::Directory => return Err(LayoutError::UnexpectedFile(path)),
            EntryType::XHeader | EntryType::XGlobalHeader => {
                let limit_bytes = limits.max_manifest_bytes;
                let size = match usize::try_from(size_bytes) {
                    _ if is_cut_off => return Err(truncated()),
                    Ok(size) if size_bytes <= limit_bytes => size,
                    _ => return Err(LayoutError::BlobTooLarge { path, size_bytes, limit_bytes }),
                };
                let extensions =
                    read_shared(&mut entry, size).map_err(LayoutError::MalformedTar)?;
                check_extensions(&extensions)?;
                continue;
            }
            EntryType::GNULongName | EntryType::GNULongLink => {
                return Err(LayoutError::TarExtension("GNU long name".to_owned()));
            }
            EntryType::GNUSparse => "sparse file",
            EntryType::Symlink => "symbolic link",
            EntryType::Link => "hard link",
            EntryType::Char | EntryType::Block => "device",
            EntryType::Fifo => "named pipe",
            _ => "member of an unknown type",
        };
        return Err(LayoutError::NotRegular { path, kind });
    }
    check_padding(archive.into_inner())?;
    assembly.finish()
}

/// The path within the layout: `./` before and `/` after it are dropped, as
/// they say nothing.
fn member_path(raw: &[u8]) -> Result<String, LayoutError> {
    let path = String::from_utf8_lossy(raw);
    if path.starts_with('/') || path.split(['/', '\\']).any(|segment| segment == "..") {
        return Err(LayoutError::UnsafePath(path.into_owned()));
    }
    let relative = path.strip_prefix("./").unwrap_or(&path);
    Ok(relative.strip_suffix('/').unwrap_or(relative).to_owned())
}

/// Refuse extended headers that make the next member another one.
fn check_extensions(extensions: &[u8]) -> Result<(), LayoutError> {
    for extension in PaxExtensions::new(extensions) {
        let extension = extension.map_err(LayoutError::MalformedTar)?;
        let key = String::from_utf8_lossy(extension.key_bytes());
        if matches!(&*key, "path" | "linkpath" | "size" | "hdrcharset")
            || key.starts_with("GNU.sparse.")
        {
            return Err(LayoutError::TarExtension(key.into_owned()));
        }
    }
    Ok(())
}

/// After the end marker there is padding only.
fn check_padding(mut reader: impl Read) -> Result<(), LayoutError> {
    let mut padding_bytes = 0;
    let mut buffer = [0; 8192];
    loop {
        let read = match reader.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => read,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(LayoutError::MalformedTar(e)),
        };
        padding_bytes += read;
        if padding_bytes > MAX_PADDING_BYTES || buffer[..read].iter().any(|&b| b != 0) {
            return Err(LayoutError::TrailingData);
        }
    }
}

/// Plain members with one mode, no owner and no time, so that equal layouts
/// give equal tars.
pub(super) fn encode(layout: &Layout, writer: impl Write) -> io::Result<()> {
    let mut builder = Builder::new(writer);
    for (path, bytes) in layout.files().map_err(io::Error::other)? {
        let mut header = Header::new_ustar();
        header.set_path(&path)?;
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(bytes.len() as u64);
        header.set_cksum();
        builder.append(&header, &*bytes)?;
    }
    builder.into_inner()?.flush()
}

pub(super) fn write(layout: &Layout, path: &Path) -> Result<(), LayoutError> {
    let staged = StagedFile::create(path)?;
    staged.write_all(|file| encode(layout, BufWriter::new(file)))?;
    staged.commit()
}
