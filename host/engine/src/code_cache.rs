//! Compiled code, kept by this host for itself.
//!
//! Compiling a component takes milliseconds to seconds, mapping code that was
//! compiled before takes microseconds. An entry is named by the digest of the
//! component and of everything that the code depends on, and carries an HMAC
//! (RFC 2104, SHA-256) under a key that only this host has, so that code that
//! someone else wrote into the folder is never run. Entries are never shipped.
#![allow(unsafe_code)]

use std::{
    fs,
    hash::{Hash, Hasher},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use wasmtime::{Engine, component::Component};

const TAG_BYTES: usize = 32;
const KEY_FILE: &str = "key";

/// What the folder may hold; the entries that were made first go first.
const MAX_FOLDER_BYTES: u64 = 1 << 30;

/// A folder of compiled code and the key that authenticates it.
pub(crate) struct CodeCache {
    folder: PathBuf,
    key: [u8; 32],
}

/// Feeds a `Hash` value into SHA-256, so that the name does not depend on how
/// the standard library happens to hash in one release.
struct Sha256Hasher(Sha256);

impl Hasher for Sha256Hasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        0
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

impl CodeCache {
    /// Open the cache in `folder`, making folder and key when they are not
    /// there. A folder that others can write, or a key that others can read
    /// or made, would let them have code run here: both are refused.
    pub(crate) fn open(folder: &Path) -> io::Result<Self> {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(folder)?;
        let path = folder.join(KEY_FILE);
        if !path.exists() {
            let mut key = [0u8; 32];
            getrandom::fill(&mut key).map_err(|e| io::Error::other(e.to_string()))?;
            write_atomically(&path, &[&key])?;
        }
        // Of two that start at once the later rename wins: read what stands.
        check_owner(folder, &path)?;
        let key = fs::read(&path)?;
        let key = key.try_into().map_err(|_| refused(&path, "it is not of 32 bytes; remove it"))?;
        Ok(Self { folder: folder.to_owned(), key })
    }

    fn entry(&self, engine: &Engine, component: &[u8]) -> PathBuf {
        let mut hasher = Sha256Hasher(Sha256::new());
        engine.precompile_compatibility_hash().hash(&mut hasher);
        hasher.0.update(Sha256::digest(component));
        self.folder.join(format!("{}.cwasm", hex(&hasher.0.finalize())))
    }

    /// The tag binds the code to its name, so that entries cannot be swapped.
    fn mac(&self, path: &Path) -> Option<Hmac<Sha256>> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.key).ok()?;
        mac.update(path.file_name()?.as_encoded_bytes());
        Some(mac)
    }

    /// The code of `component`, if this host compiled it before. Anything
    /// that is not whole and authentic is as good as not there.
    pub(crate) fn get(&self, engine: &Engine, component: &[u8]) -> Option<Component> {
        let path = self.entry(engine, component);
        let bytes = fs::read(&path).ok()?;
        let (tag, code) = bytes.split_at_checked(TAG_BYTES)?;
        let mut mac = self.mac(&path)?;
        mac.update(code);
        mac.verify_slice(tag).ok()?;
        // SAFETY: `deserialize` runs what it is given as machine code. The tag
        // shows that these bytes were serialised by `put` under this host's
        // key, for a component of this digest and an engine of this version
        // and configuration. They were checked in memory and are handed over
        // from the same memory, so nobody can change them in between.
        unsafe { Component::deserialize(engine, code) }.ok()
    }

    /// Keep the code of `component`. Best effort: without the entry the next
    /// start compiles again.
    pub(crate) fn put(
        &self,
        engine: &Engine,
        component: &[u8],
        compiled: &Component,
    ) -> io::Result<()> {
        let path = self.entry(engine, component);
        let code = compiled.serialize().map_err(|e| io::Error::other(e.to_string()))?;
        let Some(mut mac) = self.mac(&path) else { return Ok(()) };
        mac.update(&code);
        let tag = mac.finalize().into_bytes();
        self.make_room((TAG_BYTES + code.len()) as u64, MAX_FOLDER_BYTES)?;
        write_atomically(&path, &[&tag, &code])
    }

    /// Remove entries, the oldest first, until `wanted_bytes` more fit. Left
    /// over temporary files count as entries; files of other names are not
    /// ours to remove.
    fn make_room(&self, wanted_bytes: u64, limit_bytes: u64) -> io::Result<()> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            // One that is gone by now was removed by another process.
            let Ok(meta) = entry.metadata() else { continue };
            if meta.is_file() && is_entry(Path::new(&entry.file_name())) {
                entries.push((meta.modified()?, meta.len(), entry.path()));
            }
        }
        entries.sort();
        let mut total_bytes: u64 = entries.iter().map(|(_, len, _)| len).sum();
        for (_, len, path) in entries {
            if total_bytes.saturating_add(wanted_bytes) <= limit_bytes {
                break;
            }
            match fs::remove_file(path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => total_bytes -= len,
            }
        }
        Ok(())
    }
}

/// Whether a file's name is one that this cache gives: a digest, then
/// `.cwasm` or what [`write_atomically`] makes of it.
fn is_entry(name: &Path) -> bool {
    let extension = name.extension().and_then(|e| e.to_str());
    let name = name.to_str().unwrap_or_default();
    let digest = name.split('.').next().unwrap_or_default();
    let hex = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
    digest.len() == 64 && digest.chars().all(hex) && matches!(extension, Some("cwasm" | "tmp"))
}

fn refused(path: &Path, why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, format!("{}: {why}", path.display()))
}

/// Refuse a folder or key that somebody else has a hand in.
#[cfg(unix)]
fn check_owner(folder: &Path, key: &Path) -> io::Result<()> {
    use std::os::unix::fs::MetadataExt;
    // The user that this process runs as is the one that its files are of.
    let probe = folder.join(format!("probe.{}.tmp", std::process::id()));
    write_atomically(&probe, &[])?;
    let own = fs::symlink_metadata(&probe).map(|m| m.uid());
    fs::remove_file(&probe)?;
    let own = own?;
    let (f, k) = (fs::symlink_metadata(folder)?, fs::symlink_metadata(key)?);
    if !f.is_dir() || f.uid() != own || f.mode() & 0o022 != 0 {
        return Err(refused(folder, "it must be a folder of this user that nobody else can write"));
    }
    if !k.is_file() || k.uid() != own || k.mode() & 0o077 != 0 {
        return Err(refused(key, "it must be a file of this user that nobody else can read"));
    }
    Ok(())
}

/// Elsewhere a folder in the user's own profile is that user's by default.
#[cfg(not(unix))]
fn check_owner(_: &Path, _: &Path) -> io::Result<()> {
    Ok(())
}

/// Write a file under another name, then rename it into place.
fn write_atomically(path: &Path, parts: &[&[u8]]) -> io::Result<()> {
    static UNIQUE: AtomicU64 = AtomicU64::new(0);
    let n = UNIQUE.fetch_add(1, Ordering::Relaxed);
    let temporary = path.with_extension(format!("{}-{n}.tmp", std::process::id()));
    let write = || {
        let mut options = fs::OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(&temporary)?;
        for part in parts {
            file.write_all(part)?;
        }
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().inspect_err(|_| {
        let _ = fs::remove_file(&temporary);
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// The empty component: a preamble and nothing else.
    const EMPTY: &[u8] = b"\0asm\x0d\0\x01\0";

    fn only_entry(folder: &Path) -> PathBuf {
        let mut entries = fs::read_dir(folder)
            .unwrap()
            .map(|e| e.unwrap().path())
            .filter(|p| p.extension().is_some_and(|e| e == "cwasm"));
        let entry = entries.next().unwrap();
        assert!(entries.next().is_none());
        entry
    }

    #[test]
    fn code_comes_back_and_nothing_else_does() {
        let folder = tempfile::tempdir().unwrap();
        let engine = Engine::default();
        let cache = CodeCache::open(folder.path()).unwrap();
        assert!(cache.get(&engine, EMPTY).is_none());
        cache.put(&engine, EMPTY, &Component::from_binary(&engine, EMPTY).unwrap()).unwrap();
        assert!(cache.get(&engine, EMPTY).is_some());
        assert!(cache.get(&engine, b"another component").is_none());
        assert!(CodeCache::open(folder.path()).unwrap().get(&engine, EMPTY).is_some());
    }

    #[test]
    fn flipped_byte_truncation_and_foreign_key_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let engine = Engine::default();
        let cache = CodeCache::open(folder.path()).unwrap();
        cache.put(&engine, EMPTY, &Component::from_binary(&engine, EMPTY).unwrap()).unwrap();
        let path = only_entry(folder.path());
        let whole = fs::read(&path).unwrap();
        for at in [0, TAG_BYTES, whole.len() - 1] {
            let mut bad = whole.clone();
            bad[at] ^= 1;
            fs::write(&path, &bad).unwrap();
            assert!(cache.get(&engine, EMPTY).is_none(), "byte {at} flipped");
        }
        fs::write(&path, &whole[..10]).unwrap();
        assert!(cache.get(&engine, EMPTY).is_none());
        fs::write(&path, &whole).unwrap();
        assert!(cache.get(&engine, EMPTY).is_some());
        fs::write(folder.path().join(KEY_FILE), [7u8; 32]).unwrap();
        assert!(CodeCache::open(folder.path()).unwrap().get(&engine, EMPTY).is_none());
    }

    #[test]
    fn oldest_entries_make_room_and_foreign_files_stay() {
        let folder = tempfile::tempdir().unwrap();
        let cache = CodeCache::open(&folder.path().join("code")).unwrap();
        let day = std::time::Duration::from_secs(86_400);
        let entry = |c: &str, extension: &str| format!("{}.{extension}", c.repeat(64));
        let (old, middle, new) = (entry("a", "cwasm"), entry("b", "7-0.tmp"), entry("c", "cwasm"));
        let names = ["holiday.mp4", &old, &middle, &new];
        for (i, name) in names.into_iter().enumerate() {
            let file = fs::File::create(cache.folder.join(name)).unwrap();
            file.set_len(100).unwrap();
            file.set_modified(std::time::UNIX_EPOCH + day * (i as u32 + 1)).unwrap();
        }
        cache.make_room(100, 200).unwrap();
        let left = names.map(|n| cache.folder.join(n).exists());
        assert_eq!(left, [true, false, false, true]);
        assert!(cache.folder.join(KEY_FILE).exists());
    }

    #[cfg(unix)]
    #[test]
    fn key_that_others_can_read_and_folder_that_others_can_write_are_refused() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let code = folder.path().join("code");
        CodeCache::open(&code).unwrap();
        let set =
            |p: &Path, mode| fs::set_permissions(p, fs::Permissions::from_mode(mode)).unwrap();
        set(&code.join(KEY_FILE), 0o644);
        assert!(
            CodeCache::open(&code).is_err_and(|e| e.to_string().contains("nobody else can read"))
        );
        set(&code.join(KEY_FILE), 0o600);
        set(&code, 0o777);
        assert!(
            CodeCache::open(&code).is_err_and(|e| e.to_string().contains("nobody else can write"))
        );
    }

    #[cfg(unix)]
    #[test]
    fn key_and_code_are_for_this_user_alone() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("code");
        CodeCache::open(&inner).unwrap();
        let mode = |p: &Path| fs::metadata(p).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&inner), 0o700);
        assert_eq!(mode(&inner.join(KEY_FILE)), 0o600);
    }
}
