//! What a device has already told.

use minicbor::{Decoder, Encoder};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{Cost, Delta, Epsilon};
use crate::summary::EncodeError;

/// The format's version.
const VERSION: u64 = 1;

/// What a device may tell in a period.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Budget {
    /// The epsilon of all releases of a period together.
    pub epsilon: Epsilon,
    /// The delta at which Gaussian noise is counted; without it there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delta: Option<Delta>,
    /// How long a period is, in hours, at least 1.
    pub period_hours: u32,
}

impl Budget {
    pub(super) fn covers(&self, cost: Cost) -> bool {
        match cost.rho {
            0 => cost.epsilon <= self.epsilon.steps(),
            _ => cost.epsilon(self.delta) <= self.epsilon.get(),
        }
    }

    fn period_s(&self) -> u64 {
        u64::from(self.period_hours.max(1)) * 3600
    }
}

/// Something that tells of data, and is done with a [`Permit`] only.
pub trait Charged {
    /// What it costs.
    fn cost(&self) -> Cost;
}

/// What the ledger has been charged for, once.
#[derive(Debug)]
#[must_use = "it has been paid for"]
pub struct Permit<T>(T);

impl<T> Permit<T> {
    pub(super) fn into_inner(self) -> T {
        self.0
    }
}

/// Why nothing was spent, or nothing may be released.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SpendError<E> {
    /// The budget does not cover it.
    #[error(
        "the privacy budget is spent: epsilon {budget} a period, of which {spent} is spent and \
         {asked} more is asked for"
    )]
    Spent {
        /// The budget's epsilon.
        budget: f64,
        /// The epsilon of the period so far, at the budget's delta.
        spent: f64,
        /// The epsilon of what was asked for, by itself.
        asked: f64,
    },
    /// The ledger could not be stored. What was asked for counts as spent, for
    /// the store may hold it all the same.
    #[error("the privacy ledger could not be stored")]
    Store(#[source] E),
}

/// Why bytes are no ledger to go on from.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LedgerError {
    /// Not a ledger, or not what was stored.
    #[error("the privacy ledger is corrupt: {0}")]
    Corrupt(String),
    /// A version that this code does not know.
    #[error("a privacy ledger of version {0}, known is {VERSION}")]
    Version(u64),
    /// Older than the host knows it to be.
    #[error("the privacy ledger was rolled back: it is at {counter}, and has been at {known}")]
    RolledBack {
        /// Where it is.
        counter: u64,
        /// Where it has been.
        known: u64,
    },
}

/// What a device has told in the present period.
///
/// One for all that is released on a device, whichever monitor counted it. The
/// guarantee is for one contributor (see [`Rule::max_per_row`]) over a period,
/// however many windows it is in; one row is in one window, whose monitors'
/// summaries leave in at most two periods.
///
/// # Time
/// A new period begins when the host's clock has reached it. A clock that goes
/// back begins none, and neither does it when it comes forward again. Whoever
/// sets the clock forward gets a new budget early: the host's clock is trusted.
///
/// # Rollback
/// A ledger put back to what it was has a budget again. It cannot tell itself;
/// its counter rises with each spend, and a host that keeps the last one where
/// it cannot be put back (a TPM, a server) gives it to [`Ledger::parse`].
///
/// [`Rule::max_per_row`]: super::Rule::max_per_row
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ledger {
    budget: Option<Budget>,
    /// Spends so far, in all periods.
    counter: u64,
    /// When the period began, in seconds since the Unix epoch.
    period_s: u64,
    spent: Cost,
}

impl Ledger {
    /// One of which nothing is spent. Without a budget it allows what costs
    /// nothing.
    pub fn new(budget: Option<Budget>, now_s: u64) -> Self {
        Self { budget, counter: 0, period_s: now_s, spent: Cost::NONE }
    }

    /// One whose present period is spent, for a host that has lost count:
    /// `known` is the last counter that it knows of.
    pub fn closed(budget: Option<Budget>, now_s: u64, known: u64) -> Self {
        let spent = Cost { epsilon: u64::MAX, rho: 0 };
        Self { budget, counter: known, period_s: now_s, spent }
    }

    /// Spends so far; rises for ever.
    pub fn counter(&self) -> u64 {
        self.counter
    }

    /// What has been spent in the present period.
    pub fn spent(&self) -> Cost {
        self.spent
    }

    /// Charge what something costs, and permit it.
    ///
    /// `store` writes the ledger's new bytes durably, and must not return
    /// before they are: the permit comes after it, so that a power cut loses a
    /// release and never the record of one. What costs nothing is not stored.
    ///
    /// # Errors
    /// [`SpendError`].
    pub fn spend<T: Charged, E>(
        &mut self,
        what: T,
        now_s: u64,
        store: impl FnOnce(&[u8]) -> Result<(), E>,
    ) -> Result<Permit<T>, SpendError<E>> {
        let cost = what.cost();
        if cost == Cost::NONE {
            return Ok(Permit(what));
        }
        let mut next = self.clone();
        if let Some(budget) = self.budget {
            let periods = now_s.saturating_sub(self.period_s) / budget.period_s();
            if periods > 0 {
                next.period_s = self.period_s.saturating_add(periods * budget.period_s());
                next.spent = Cost::NONE;
            }
        }
        let after = next.spent.and(cost);
        if !self.budget.is_some_and(|budget| budget.covers(after)) {
            let delta = self.budget.and_then(|b| b.delta);
            return Err(SpendError::Spent {
                budget: self.budget.map_or(0.0, |b| b.epsilon.get()),
                spent: next.spent.epsilon(delta),
                asked: cost.epsilon(delta),
            });
        }
        next.spent = after;
        next.counter = next.counter.saturating_add(1);
        *self = next;
        store(&self.to_bytes()).map_err(SpendError::Store)?;
        Ok(Permit(what))
    }

    /// The canonical bytes: CBOR with core deterministic encoding, as the
    /// summary's.
    ///
    /// ```text
    /// {
    ///   "v": 1,
    ///   "rho": 0,               of the period, in steps of 10^-12
    ///   "period": 1790000000,   when it began, s since the Unix epoch
    ///   "counter": 42,          spends so far
    ///   "epsilon": 500000,      of the period, in steps of 10^-6
    ///   "checksum": h'...',     SHA-256 of the bytes up to this key
    /// }
    /// ```
    ///
    /// The budget is the policy's and is not in it.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        // Writing to a vector cannot fail.
        let _: Result<(), EncodeError> = self.encode(&mut bytes);
        bytes
    }

    fn encode(&self, bytes: &mut Vec<u8>) -> Result<(), EncodeError> {
        // Keys by length, then by bytes: the order of their encoded bytes.
        Encoder::new(&mut *bytes)
            .map(6)?
            .str("v")?
            .u64(VERSION)?
            .str("rho")?
            .u64(self.spent.rho)?
            .str("period")?
            .u64(self.period_s)?
            .str("counter")?
            .u64(self.counter)?
            .str("epsilon")?
            .u64(self.spent.epsilon)?;
        let checksum = Sha256::digest(&*bytes);
        Encoder::new(bytes).str("checksum")?.bytes(&checksum)?;
        Ok(())
    }

    /// Read a ledger. `known` is the last counter that the host knows of, 0
    /// when it keeps none.
    ///
    /// # Errors
    /// [`LedgerError`]; [`Ledger::closed`] is then the safe way on.
    pub fn parse(bytes: &[u8], budget: Option<Budget>, known: u64) -> Result<Self, LedgerError> {
        let ledger = Self::decode(&mut Decoder::new(bytes), budget)?;
        if ledger.to_bytes() != bytes {
            return Err(LedgerError::Corrupt("the checksum is another's".to_owned()));
        }
        if ledger.counter < known {
            return Err(LedgerError::RolledBack { counter: ledger.counter, known });
        }
        Ok(ledger)
    }

    fn decode(d: &mut Decoder<'_>, budget: Option<Budget>) -> Result<Self, LedgerError> {
        if d.map()? != Some(6) {
            return Err(LedgerError::Corrupt("not a map of six".to_owned()));
        }
        let version = number(d, "v")?;
        if version != VERSION {
            return Err(LedgerError::Version(version));
        }
        let rho = number(d, "rho")?;
        let period_s = number(d, "period")?;
        let counter = number(d, "counter")?;
        let epsilon = number(d, "epsilon")?;
        Ok(Self { budget, counter, period_s, spent: Cost { epsilon, rho } })
    }
}

impl From<minicbor::decode::Error> for LedgerError {
    fn from(e: minicbor::decode::Error) -> Self {
        Self::Corrupt(e.to_string())
    }
}

fn number(d: &mut Decoder<'_>, key: &str) -> Result<u64, LedgerError> {
    if d.str()? == key {
        return Ok(d.u64()?);
    }
    Err(LedgerError::Corrupt(format!("`{key}` is not where it belongs")))
}
