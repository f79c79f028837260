//! What monitors say on its way off the device.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    io,
    sync::Arc,
};

use headland_monitor::{
    Finding, MonitorReport, Record,
    privacy::{Filter, FilterError, Ledger, SpendError},
};

use crate::{CallError, ComponentError, Deployment, Judge};

/// Why a window's summary does not leave the device. The monitor goes on, and
/// the next window is asked for anew.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The filter cannot say what is in the summary.
    #[error("monitor {monitor:?}: the privacy filter refuses its summary")]
    Filter {
        /// The monitor.
        monitor: String,
        /// Why.
        #[source]
        source: FilterError,
    },
    /// The budget does not cover it, or the ledger cannot be stored.
    #[error("monitor {monitor:?}")]
    Ledger {
        /// The monitor.
        monitor: String,
        /// Why.
        #[source]
        source: SpendError<io::Error>,
    },
    /// No random bytes, and so no noise.
    #[error("monitor {monitor:?}: no randomness for the privacy filter")]
    Random {
        /// The monitor.
        monitor: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The monitor cannot say what the filtered summary means.
    #[error("monitor {monitor:?} does not judge what the privacy filter left")]
    Judge {
        /// The monitor.
        monitor: String,
        /// Why.
        #[source]
        source: CallError,
    },
    /// The monitor does not start.
    #[error("monitor {monitor:?} does not start")]
    Start {
        /// The monitor.
        monitor: String,
        /// Why.
        #[source]
        source: ComponentError,
    },
}

/// A window as it leaves the device.
#[derive(Debug, Clone, PartialEq)]
pub struct Export {
    /// The filtered summary, and what it is of.
    pub record: Record,
    /// What the filtered summary means: judged anew, so that no finding tells
    /// more than the summary does.
    pub findings: Vec<Finding>,
    /// Fields that no rule of the policy lets out.
    pub dropped: u64,
    /// Fields that were stripped, since they tell of single rows.
    pub stripped: u64,
}

/// What an [`Exporter`] asks of the machine that it runs on.
pub trait Machine: Send {
    /// Seconds since the Unix epoch.
    fn now_s(&self) -> u64;

    /// Fill `bytes` from the operating system's source of randomness.
    ///
    /// # Errors
    /// When there is none: nothing leaves then.
    fn random(&mut self, bytes: &mut [u8]) -> io::Result<()>;

    /// Store the privacy ledger durably before returning.
    ///
    /// # Errors
    /// When it is not stored: nothing leaves then.
    fn store_ledger(&mut self, ledger: &[u8]) -> io::Result<()>;
}

/// The one way for summaries off a device: through the privacy filter of the
/// host's policy.
pub struct Exporter {
    deployment: Arc<Deployment>,
    filter: Filter,
    ledger: Ledger,
    boot: u64,
    judges: BTreeMap<String, Judge>,
}

impl Exporter {
    /// Let the deployment's summaries through `filter`, charged to `ledger`.
    /// `boot` tells this device's boots apart.
    pub fn new(deployment: Arc<Deployment>, filter: Filter, ledger: Ledger, boot: u64) -> Self {
        Self { deployment, filter, ledger, boot, judges: BTreeMap::new() }
    }

    /// What has been told so far.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Let a window's summary out; nothing for other reports, and where the
    /// policy lets out no field of it.
    ///
    /// # Errors
    /// [`ExportError`]; nothing leaves then.
    pub fn export(
        &mut self,
        report: &MonitorReport,
        machine: &mut dyn Machine,
    ) -> Result<Option<Export>, ExportError> {
        let Some(mut record) = self.deployment.record(report, self.boot) else { return Ok(None) };
        let MonitorReport::Window { rows, frames, .. } = report else { return Ok(None) };
        let monitor = || record.subject.monitor.clone();
        let plan = self
            .filter
            .plan(&record.summary, *rows)
            .map_err(|source| ExportError::Filter { monitor: monitor(), source })?;
        let now_s = machine.now_s();
        let permit = self
            .ledger
            .spend(plan, now_s, |bytes| machine.store_ledger(bytes))
            .map_err(|source| ExportError::Ledger { monitor: monitor(), source })?;
        let release = permit
            .release(|bytes| machine.random(bytes))
            .map_err(|source| ExportError::Random { monitor: monitor(), source })?;
        if release.fields == 0 {
            return Ok(None);
        }
        record.window_ns = self.filter.window_ns(record.window_ns);
        record.summary = release.summary;
        let id = &record.subject.monitor;
        let judge = match self.judges.entry(id.clone()) {
            Entry::Occupied(judge) => judge.into_mut(),
            Entry::Vacant(slot) => {
                let start = |source| ExportError::Start { monitor: id.clone(), source };
                let Some(judge) = self.deployment.judge(id).map_err(start)? else {
                    return Ok(None);
                };
                slot.insert(judge)
            }
        };
        let findings = match judge.evaluate(&record.summary) {
            Ok(findings) => findings,
            Err(source) => {
                let monitor = id.clone();
                // What failed may not be called again.
                self.judges.remove(&monitor);
                return Err(ExportError::Judge { monitor, source });
            }
        };
        let findings = findings.into_iter().map(|f| Finding { frames: *frames, ..f }).collect();
        let (dropped, stripped) = (release.dropped, release.stripped);
        Ok(Some(Export { record, findings, dropped, stripped }))
    }
}
