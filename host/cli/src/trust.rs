//! `headland trust`: whom a host believes.

use std::{fs, io::Write, path::PathBuf, process::ExitCode};

use anyhow::Context;
use clap::Subcommand;
use headland_package::{HostPolicy, PublicKey, TrustPolicy, TrustedKey};

use crate::{
    host::read_policy,
    output::{Output, inline},
};

/// `headland trust ...`.
#[derive(Debug, Subcommand)]
pub enum Trust {
    /// Write a trust policy for some public keys
    ///
    /// Edit the file to add expiry, revocations, roll-back floors, a list of
    /// allowed packages or other limits; `trust show` checks it.
    New {
        /// Public keys (PEM), as `headland keygen` writes them
        #[arg(long = "key", required = true, num_args = 1.., value_name = "FILE")]
        keys: Vec<PathBuf>,

        /// How many of the keys must have signed a package
        #[arg(long, default_value_t = 1, value_name = "N")]
        threshold: usize,

        /// Let components that ask for it import WASI, with nothing behind it
        #[arg(long)]
        wasi: bool,

        /// Where to write it; must not exist
        #[arg(long, short, value_name = "FILE")]
        output: PathBuf,
    },
    /// Check a trust policy and say what it means
    Show {
        /// The trust policy
        policy: PathBuf,
    },
}

/// Run the command.
pub fn run(command: &Trust, out: Output) -> anyhow::Result<ExitCode> {
    match command {
        Trust::New { keys, threshold, wasi, output } => {
            let mut trusted = Vec::with_capacity(keys.len());
            for path in keys {
                let pem = fs::read_to_string(path)
                    .with_context(|| format!("cannot read key {}", path.display()))?;
                let key =
                    PublicKey::from_pem(&pem).with_context(|| format!("key {}", path.display()))?;
                let name = path.file_name().and_then(|n| n.to_str()).unwrap_or("key");
                trusted.push(TrustedKey::new(name.trim_end_matches(".pub.pem"), key));
            }
            let mut policy = TrustPolicy::new(*threshold, trusted)?;
            policy.set_host(HostPolicy { wasi: *wasi, ..policy.host().clone() });
            let text = policy.to_toml()?;
            fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .open(output)
                .and_then(|mut f| f.write_all(text.as_bytes()))
                .with_context(|| format!("cannot write {}", output.display()))?;
            let trusted: Vec<_> = policy
                .keys()
                .map(|k| serde_json::json!({"name": k.name, "id": k.public_key.id().to_string()}))
                .collect();
            out.json(&serde_json::json!({
                "policy": output,
                "threshold": threshold,
                "keys": trusted,
            }))?;
            out.line(format!(
                "{}: {threshold} of {} key(s) must sign",
                inline(&output.display().to_string()),
                keys.len()
            ))?;
        }
        Trust::Show { policy } => {
            let policy = read_policy(policy)?;
            let keys: Vec<_> = policy
                .keys()
                .map(|k| {
                    serde_json::json!({
                        "name": k.name,
                        "id": k.public_key.id().to_string(),
                        "revoked": policy.is_key_revoked(&k.public_key.id()),
                        "not_before": k.not_before,
                        "expires": k.expires,
                    })
                })
                .collect();
            out.json(&serde_json::json!({
                "threshold": policy.threshold(),
                "keys": keys,
                "host": policy.host(),
            }))?;
            out.line(format!("{} of these keys must have signed a package:", policy.threshold()))?;
            for k in policy.keys() {
                let id = k.public_key.id();
                let revoked = if policy.is_key_revoked(&id) { "  (revoked)" } else { "" };
                out.line(format!("  {}  {id}{revoked}", inline(&k.name)))?;
            }
            out.line(format!(
                "WASI {}",
                if policy.host().wasi { "granted to stages that ask" } else { "denied" }
            ))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
