//! What this host is: whom it trusts, its limits, its clock, its code cache.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::Context;
use clap::Args;
use headland_engine::{Engine, EngineError, EngineOptions, LogLevel, LogRecord, ModelMemory};
use headland_package::{HostPolicy, Layout, Package, PackageLimits, TrustPolicy, Verified};

use crate::output::{Output, inline};

/// How this host trusts and runs packages.
#[derive(Debug, Clone, Args)]
pub struct HostOptions {
    /// Trust policy (TOML): keys, threshold, revocations, grants
    #[arg(long, value_name = "TRUST")]
    pub policy: PathBuf,

    /// Folder for compiled code [default: the user's cache folder]
    #[arg(long, value_name = "DIR")]
    pub code_cache: Option<PathBuf>,

    /// Compile at every start, and keep no compiled code
    #[arg(long, conflicts_with = "code_cache")]
    pub no_code_cache: bool,
}

impl HostOptions {
    /// Make the engine that this host's policy allows.
    pub fn engine(&self, host: &HostPolicy, out: Output) -> anyhow::Result<Engine> {
        let options = engine_options(host, out);
        match &self.code_cache {
            _ if self.no_code_cache => Ok(Engine::new(options)?),
            Some(folder) => {
                Ok(Engine::new(EngineOptions { code_cache: Some(folder.clone()), ..options })?)
            }
            None => engine_of_user(options, out),
        }
    }
}

/// Options under the ceiling that `host` sets, with components' messages on
/// standard error.
pub fn engine_options(host: &HostPolicy, out: Output) -> EngineOptions {
    let log = Arc::new(move |r: LogRecord| {
        if r.level >= LogLevel::Info {
            out.note(&format!("{}: {}", inline(&r.stage), inline(&r.message)));
        }
    });
    let executors = crate::devices::executors();
    let model_memory =
        ModelMemory { host_bytes: host.model_bytes, device_bytes: host.device_model_bytes };
    EngineOptions { ceiling: host.limits, log, executors, model_memory, ..EngineOptions::default() }
}

/// Make an engine that keeps compiled code in the user's cache folder. Nobody
/// asked for that folder: where it cannot be used, the engine does without.
pub fn engine_of_user(options: EngineOptions, out: Output) -> anyhow::Result<Engine> {
    let code_cache = user_cache().map(|folder| folder.join("code"));
    match Engine::new(EngineOptions { code_cache, ..options.clone() }) {
        Err(error @ EngineError::CodeCache { .. }) => {
            let error = anyhow::Error::new(error);
            out.note(&format!("{error:#}; every start compiles"));
            Ok(Engine::new(options)?)
        }
        made => Ok(made?),
    }
}

/// This user's folder for what can be made again, if there is one.
pub fn user_cache() -> Option<PathBuf> {
    let var = |name: &str| std::env::var_os(name).map(PathBuf::from);
    cache_folder(var("XDG_CACHE_HOME"), var("HOME"))
}

/// Where the XDG base directory specification wants a user's caches: it has
/// applications ignore folders that are not absolute.
fn cache_folder(xdg_cache_home: Option<PathBuf>, home: Option<PathBuf>) -> Option<PathBuf> {
    let base = xdg_cache_home
        .filter(|p| p.is_absolute())
        .or_else(|| home.filter(|p| p.is_absolute()).map(|h| h.join(".cache")))?;
    Some(base.join("headland"))
}

/// Seconds since the Unix epoch.
pub fn now_unix_s() -> anyhow::Result<u64> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    Ok(now
        .context("this machine's clock is before 1970; set it, validity depends on it")?
        .as_secs())
}

/// Read a trust policy.
pub fn read_policy(path: &Path) -> anyhow::Result<TrustPolicy> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read trust policy {}", path.display()))?;
    TrustPolicy::from_toml(&text).with_context(|| format!("trust policy {}", path.display()))
}

/// Open a package without trusting it.
pub fn open(package: &Path) -> anyhow::Result<Layout> {
    Layout::open(package, &PackageLimits::default())
        .with_context(|| format!("package {}", package.display()))
}

/// Open a package and check it against `policy`.
pub fn open_verified(package: &Path, policy: &TrustPolicy) -> anyhow::Result<Verified<Package>> {
    open(package)?
        .verify(policy, now_unix_s()?)
        .with_context(|| format!("package {} refused", package.display()))
}

#[cfg(test)]
mod tests {
    use headland_tensor::Limits;

    use super::*;

    #[test]
    fn a_policy_raises_the_ceiling() {
        let limits =
            Limits { memory_bytes: Limits::default().memory_bytes * 4, ..Limits::default() };
        let host = HostPolicy { limits, ..HostPolicy::default() };
        assert_eq!(engine_options(&host, Output::new(false)).ceiling, limits);
    }

    #[test]
    fn relative_cache_folders_are_ignored() {
        let path = |p: &str| Some(PathBuf::from(p));
        let home = path("/home/a/.cache/headland");
        assert_eq!(cache_folder(path("/c"), None), path("/c/headland"));
        assert_eq!(cache_folder(path("c"), path("/home/a")), home);
        assert_eq!(cache_folder(path(""), path("/home/a")), home);
        assert_eq!(cache_folder(None, None), None);
    }
}
