//! A summary with what it is of, as it leaves a device.
//!
//! The canonical form is CBOR with core deterministic encoding, as the
//! summary's:
//!
//! ```text
//! {
//!   "v": 1,
//!   "boot": null | epoch | false,   of which boot; false of several
//!   "config": h'32 bytes',          SHA-256 of the monitor's configuration
//!   "models": [h'32 bytes', ...],   SHA-256 of the package's models, sorted
//!   "window": [first, last],        capture times, ns since the Unix epoch
//!   "monitor": "drift",             the monitor's id in the pipeline
//!   "summary": h'...',              the monitor's own summary
//!   "windows": 1,                   how many windows were merged
//!   "component": h'32 bytes',       SHA-256 of the monitor's component
//!   "reference": h'32 bytes',       SHA-256 of its reference, zeros for none
//! }
//! ```

use minicbor::{Decoder, Encoder};

use crate::{Digest, Level, summary::EncodeError};

/// The format's version.
const VERSION: u64 = 1;

/// The longest record, in bytes: a summary of 1 MiB and what it is of.
pub const MAX_RECORD_BYTES: u64 = (1 << 20) + (64 << 10);

/// Models of one package.
const MAX_MODELS: u64 = 256;

/// What a summary is of. Records merge only when it is the same: a count made
/// by another component, over another reference or of another model's
/// predictions means something else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// The monitor's id in the pipeline.
    pub monitor: String,
    /// SHA-256 of the monitor's component.
    pub component: Digest,
    /// SHA-256 of its configuration's JSON.
    pub config: Digest,
    /// SHA-256 of its reference; [`Digest::NONE`] without one.
    pub reference: Digest,
    /// SHA-256 of the models of the pipeline, sorted.
    pub models: Vec<Digest>,
}

/// A window's summary with what it is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// What it is of.
    pub subject: Subject,
    /// The device's boot that it was made in; of several after a merge.
    pub boot: Level,
    /// When the first and the last row were captured, in nanoseconds since
    /// the Unix epoch.
    pub window_ns: (u64, u64),
    /// How many windows it is of.
    pub windows: u64,
    /// The summary, in the monitor's own form.
    pub summary: Vec<u8>,
}

/// Why bytes are no record, or two records do not merge.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The bytes are not CBOR of this form.
    #[error("no record: {0}")]
    Malformed(String),
    /// The bytes say the right thing in another than the canonical way.
    #[error("no record: its CBOR is not in canonical form")]
    NotCanonical,
    /// A version that this code does not know.
    #[error("a record of version {0}, known is {VERSION}")]
    Version(u64),
    /// What they are of differs.
    #[error("records of {what} {ours} and {theirs} do not merge")]
    Subject {
        /// What differs: `monitor`, `component`, `config`, `reference` or
        /// `models`.
        what: &'static str,
        /// In the one.
        ours: String,
        /// In the other.
        theirs: String,
    },
    /// The number of windows overflows.
    #[error("the number of windows overflows")]
    Overflow,
    /// The monitor refused to merge the summaries.
    #[error("monitor `{monitor}`: {why}")]
    Summary {
        /// The monitor.
        monitor: String,
        /// Why.
        why: String,
    },
}

impl Subject {
    /// Whether both are the same.
    ///
    /// # Errors
    /// [`RecordError::Subject`], naming the first that differs.
    pub fn same_as(&self, other: &Self) -> Result<(), RecordError> {
        let differ = |what, ours: String, theirs: String| {
            if ours == theirs { Ok(()) } else { Err(RecordError::Subject { what, ours, theirs }) }
        };
        let models =
            |s: &Self| s.models.iter().map(Digest::to_string).collect::<Vec<_>>().join(", ");
        differ("monitor", self.monitor.clone(), other.monitor.clone())?;
        differ("models", models(self), models(other))?;
        differ("component", self.component.to_string(), other.component.to_string())?;
        differ("config", self.config.to_string(), other.config.to_string())?;
        differ("reference", self.reference.to_string(), other.reference.to_string())
    }
}

impl Record {
    /// What two records say together; `merge` is the component's own.
    ///
    /// # Errors
    /// [`RecordError`]: they are of different things, or the component refuses.
    pub fn merge(
        &self,
        other: &Self,
        merge: impl FnOnce(&[u8], &[u8]) -> Result<Vec<u8>, String>,
    ) -> Result<Self, RecordError> {
        self.subject.same_as(&other.subject)?;
        let summary = merge(&self.summary, &other.summary)
            .map_err(|why| RecordError::Summary { monitor: self.subject.monitor.clone(), why })?;
        Ok(Self {
            subject: self.subject.clone(),
            boot: self.boot.join(other.boot),
            window_ns: (
                self.window_ns.0.min(other.window_ns.0),
                self.window_ns.1.max(other.window_ns.1),
            ),
            windows: self.windows.checked_add(other.windows).ok_or(RecordError::Overflow)?,
            summary,
        })
    }

    /// The canonical bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        // Writing to a vector cannot fail.
        let _: Result<(), EncodeError> = self.encode(&mut Encoder::new(&mut bytes));
        bytes
    }

    fn encode(&self, e: &mut Encoder<&mut Vec<u8>>) -> Result<(), EncodeError> {
        let Subject { monitor, component, config, reference, models } = &self.subject;
        // Keys by length, then by bytes: the order of their encoded bytes.
        e.map(10)?.str("v")?.u64(VERSION)?;
        e.str("boot")?;
        self.boot.encode(e)?;
        e.str("config")?.bytes(&config.0)?;
        e.str("models")?.array(models.len() as u64)?;
        for model in models {
            e.bytes(&model.0)?;
        }
        e.str("window")?.array(2)?.u64(self.window_ns.0)?.u64(self.window_ns.1)?;
        e.str("monitor")?.str(monitor)?;
        e.str("summary")?.bytes(&self.summary)?;
        e.str("windows")?.u64(self.windows)?;
        e.str("component")?.bytes(&component.0)?;
        e.str("reference")?.bytes(&reference.0)?;
        Ok(())
    }

    /// Read a record.
    ///
    /// # Errors
    /// [`RecordError`]: not CBOR of this form and version, or not canonical.
    pub fn parse(bytes: &[u8]) -> Result<Self, RecordError> {
        let record = Self::decode(&mut Decoder::new(bytes))?;
        let sorted = record.subject.models.is_sorted();
        if !sorted || record.to_bytes() != bytes {
            return Err(RecordError::NotCanonical);
        }
        Ok(record)
    }

    fn decode(d: &mut Decoder<'_>) -> Result<Self, RecordError> {
        let malformed = |what: &str| RecordError::Malformed(what.to_owned());
        if d.map()? != Some(10) {
            return Err(malformed("not a map of ten"));
        }
        key(d, "v")?;
        match d.u64()? {
            VERSION => {}
            other => return Err(RecordError::Version(other)),
        }
        key(d, "boot")?;
        let boot = Level::decode(d)?;
        key(d, "config")?;
        let config = digest(d)?;
        key(d, "models")?;
        let count = d.array()?.ok_or_else(|| malformed("a list of unknown length"))?;
        if count > MAX_MODELS {
            return Err(malformed("too many models"));
        }
        let models = (0..count).map(|_| digest(d)).collect::<Result<_, _>>()?;
        key(d, "window")?;
        if d.array()? != Some(2) {
            return Err(malformed("a window is two times"));
        }
        let window_ns = (d.u64()?, d.u64()?);
        if window_ns.0 > window_ns.1 {
            return Err(malformed("a window ends before it begins"));
        }
        key(d, "monitor")?;
        let monitor = d.str()?.to_owned();
        key(d, "summary")?;
        let summary = d.bytes()?.to_vec();
        key(d, "windows")?;
        let windows = d.u64()?;
        key(d, "component")?;
        let component = digest(d)?;
        key(d, "reference")?;
        let reference = digest(d)?;
        let subject = Subject { monitor, component, config, reference, models };
        Ok(Self { subject, boot, window_ns, windows, summary })
    }
}

impl From<minicbor::decode::Error> for RecordError {
    fn from(e: minicbor::decode::Error) -> Self {
        Self::Malformed(e.to_string())
    }
}

fn key(d: &mut Decoder<'_>, wanted: &str) -> Result<(), RecordError> {
    if d.str()? == wanted {
        return Ok(());
    }
    Err(RecordError::Malformed(format!("`{wanted}` is not where it belongs")))
}

fn digest(d: &mut Decoder<'_>) -> Result<Digest, RecordError> {
    let bytes = d.bytes()?.try_into();
    bytes.map(Digest).map_err(|_| RecordError::Malformed("a digest is 32 bytes".to_owned()))
}
