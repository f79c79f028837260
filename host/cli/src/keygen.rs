//! `headland keygen`: make a signing key.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context;
use clap::Args;
use headland_package::SigningKey;

use crate::output::Output;

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
    let mut seed = [0u8; 32];
    getrandom::fill(&mut seed)
        .map_err(|e| anyhow::anyhow!("no randomness from the system: {e}"))?;
    let key = SigningKey::from_seed(seed);
    fs::create_dir_all(&command.out_dir)
        .with_context(|| format!("cannot make {}", command.out_dir.display()))?;
    let private = command.out_dir.join(format!("{}.pem", command.name));
    let public = command.out_dir.join(format!("{}.pub.pem", command.name));
    write_new(&private, key.to_pem()?.as_bytes(), 0o600)?;
    write_new(&public, key.public().to_pem()?.as_bytes(), 0o644)?;
    let id = key.public().id().to_string();
    out.json(&serde_json::json!({"key_id": id, "private": private, "public": public}))?;
    out.line(format!(
        "key {id}\nprivate {} (keep it off the devices)\npublic  {}",
        private.display(),
        public.display()
    ));
    Ok(ExitCode::SUCCESS)
}

/// Write a file that must not exist yet.
fn write_new(path: &Path, contents: &[u8], mode: u32) -> anyhow::Result<()> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, mode);
    #[cfg(not(unix))]
    let _ = mode;
    let written = options.open(path).and_then(|mut f| {
        f.write_all(contents)?;
        f.sync_all()
    });
    written.with_context(|| format!("cannot write {}", path.display()))
}
