//! Records: monitors' summaries as they leave the device, in files.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::Context;
use clap::Args;
use headland_engine::{Deployment, Exporter, Machine, MonitorReport};
use headland_monitor::privacy::{Budget, Ledger};
use headland_package::HostPolicy;
use serde_json::json;

use crate::output::{Output, inline};

/// Where monitors' summaries go.
#[derive(Debug, Clone, Args)]
pub struct RecordOptions {
    /// Folder for each window's summary as it may leave this device: through
    /// the privacy filter of the trust policy's `[host.privacy]`
    #[arg(long, value_name = "DIR")]
    records: Option<PathBuf>,

    /// File of the privacy ledger: what this device has told already
    /// [default: in the user's state folder]
    #[arg(long, value_name = "FILE", requires = "records")]
    ledger: Option<PathBuf>,
}

impl RecordOptions {
    /// Open what was asked for.
    ///
    /// # Errors
    /// A folder that cannot be made, a ledger that is damaged.
    pub fn open(
        &self,
        deployment: &Arc<Deployment>,
        host: &HostPolicy,
    ) -> anyhow::Result<Option<Records>> {
        let Some(folder) = &self.records else { return Ok(None) };
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let filter = host.privacy_filter().context("[host.privacy]")?;
        let ledger = match &self.ledger {
            Some(path) => path.clone(),
            None => user_state().context("no home folder for the privacy ledger: name --ledger")?,
        };
        let machine = ThisMachine { ledger };
        let state = machine.read_ledger(filter.budget())?;
        // No boot counter here: the time at which the command started tells
        // its runs apart.
        let boot = machine.now_s();
        let exporter = Exporter::new(Arc::clone(deployment), filter, state, boot);
        Ok(Some(Records { folder: folder.clone(), exporter, machine, boot, written: 0 }))
    }
}

/// This user's file for what has been told.
fn user_state() -> Option<PathBuf> {
    let var = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    let base = var("XDG_STATE_HOME").or_else(|| var("HOME").map(|h| h.join(".local/state")))?;
    Some(base.join("headland/privacy-ledger.cbor"))
}

/// Writes records.
pub struct Records {
    folder: PathBuf,
    exporter: Exporter,
    machine: ThisMachine,
    boot: u64,
    written: u64,
}

impl Records {
    /// Write the record of a window; says what does not leave, and why.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn write(&mut self, report: &MonitorReport, out: Output) -> anyhow::Result<()> {
        let export = match self.exporter.export(report, &mut self.machine) {
            Ok(Some(export)) => export,
            Ok(None) => return Ok(()),
            Err(error) => {
                let error = format!("{:#}", anyhow::Error::new(error));
                out.note(&format!("no record: {}", inline(&error)));
                return out.json(&json!({"kind": "no-record", "error": error}));
            }
        };
        let name = format!("{}-{}-{}.cbor", export.record.subject.monitor, self.boot, self.written);
        self.written += 1;
        let path = self.folder.join(name);
        let bytes = export.record.to_bytes();
        write_durably(&path, &bytes).with_context(|| format!("cannot write {}", path.display()))?;
        out.json(&json!({
            "kind": "record",
            "file": path,
            "bytes": bytes.len(),
            "findings": export.findings,
            "fields_dropped": export.dropped,
            "fields_stripped": export.stripped,
        }))
    }
}

/// The machine that the command runs on.
struct ThisMachine {
    ledger: PathBuf,
}

impl ThisMachine {
    /// The ledger as it was stored; a new one when there is none.
    fn read_ledger(&self, budget: Option<Budget>) -> anyhow::Result<Ledger> {
        match fs::read(&self.ledger) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Ledger::new(budget, self.now_s())),
            read => read
                .map_err(anyhow::Error::new)
                .and_then(|bytes| Ok(Ledger::parse(&bytes, budget, 0)?))
                .with_context(|| format!("privacy ledger {}", self.ledger.display())),
        }
    }
}

impl Machine for ThisMachine {
    fn now_s(&self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
    }

    fn random(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        getrandom::fill(bytes).map_err(io::Error::other)
    }

    fn store_ledger(&mut self, ledger: &[u8]) -> io::Result<()> {
        if let Some(folder) = self.ledger.parent() {
            fs::create_dir_all(folder)?;
        }
        write_durably(&self.ledger, ledger)
    }
}

/// Write a file that is there either whole or as it was, also after a power
/// cut.
fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(format!(".{}.partial", std::process::id()));
    let partial = PathBuf::from(partial);
    let written = File::create(&partial)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&partial, path))
        .and_then(|()| sync_folder(path));
    if written.is_err() {
        // The error that counts is the first one.
        let _ = fs::remove_file(&partial);
    }
    written
}

/// Make a rename in a file's folder durable.
#[cfg(unix)]
fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(not(unix))]
fn sync_folder(_: &Path) -> io::Result<()> {
    Ok(())
}
