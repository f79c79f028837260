//! `headland keygen`: make a signing key.

use std::{
    ffi::OsStr,
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, bail};
use clap::Args;
use headland_package::SigningKey;

use crate::output::{Output, inline};

/// Make an Ed25519 key pair for signing packages.
///
/// Writes NAME.pem (private, PKCS #8, readable by you alone) and NAME.pub.pem
/// (public, SPKI). An existing file is never overwritten.
#[derive(Debug, Args)]
pub struct Keygen {
    /// Folder to write to
    #[arg(long, default_value = ".", value_name = "DIR")]
    out_dir: PathBuf,

    /// Name of the files
    #[arg(long, default_value = "key", value_name = "NAME")]
    name: String,
}

/// Run the command.
pub fn run(command: &Keygen, out: Output) -> anyhow::Result<ExitCode> {
    let name = &command.name;
    if Path::new(name).file_name() != Some(OsStr::new(name)) {
        bail!("--name {name:?} is no file name; --out-dir says where the files go");
    }
    let mut seed = [0u8; 32];
    getrandom::fill(&mut seed)
        .map_err(|e| anyhow::anyhow!("no randomness from the system: {e}"))?;
    let key = SigningKey::from_seed(seed);
    fs::create_dir_all(&command.out_dir)
        .with_context(|| format!("cannot make {}", command.out_dir.display()))?;
    let private = command.out_dir.join(format!("{name}.pem"));
    let public = command.out_dir.join(format!("{name}.pub.pem"));
    for path in [&private, &public] {
        // A link that leads nowhere is there too.
        if path.symlink_metadata().is_ok() {
            bail!("{} exists already; it is never overwritten", path.display());
        }
    }
    write_new(&private, key.to_pem()?.as_bytes(), 0o600)?;
    write_new(&public, key.public().to_pem()?.as_bytes(), 0o644).inspect_err(|_| {
        // Half a pair is of no use, and would be in the way of the next.
        let _ = fs::remove_file(&private);
    })?;
    let id = key.public().id().to_string();
    out.json(&serde_json::json!({"key_id": id, "private": private, "public": public}))?;
    out.line(format!(
        "key {id}\nprivate {} (keep it off the devices)\npublic  {}",
        inline(&private.display().to_string()),
        inline(&public.display().to_string())
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// Write a file that must not exist yet; what cannot be written whole is
/// removed.
fn write_new(path: &Path, contents: &[u8], mode: u32) -> anyhow::Result<()> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, mode);
    #[cfg(not(unix))]
    let _ = mode;
    let cannot = || format!("cannot write {}", path.display());
    let mut file = options.open(path).with_context(cannot)?;
    let written = file.write_all(contents).and_then(|()| file.sync_all());
    written
        .inspect_err(|_| {
            let _ = fs::remove_file(path);
        })
        .with_context(cannot)
}
