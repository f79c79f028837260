//! How a detector's memory is stored.
//!
//! The canonical form is CBOR (RFC 8949):
//!
//! ```text
//! [
//!   1,                  the format's version
//!   "x/adwin(...)...",  the detectors with their parameters, a line each
//!   h'...',             the window's summary
//!   [word, ...]         the detectors' states, one after the other
//! ]
//! ```
//!
//! Words are unsigned integers of 64 bits; a number that is not whole is the
//! bits of an f64, so that it comes back as it was. Bytes that are not the
//! canonical form of what they say are refused.

use std::convert::Infallible;

use headland_monitor::SummaryError;
use minicbor::{Decoder, Encoder};

/// The format's version.
pub const VERSION: u64 = 1;

/// Where a checkpoint is written to. Writing to a vector cannot fail.
pub type Writer<'a> = Encoder<&'a mut Vec<u8>>;

/// What writing gives.
pub type Written = Result<(), minicbor::encode::Error<Infallible>>;

/// Why bytes are no checkpoint of this monitor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    /// The bytes are not CBOR of this form.
    #[error("no checkpoint: {0}")]
    Malformed(String),
    /// The bytes say the right thing in another than the canonical way.
    #[error("no checkpoint: its CBOR is not in canonical form")]
    NotCanonical,
    /// A version that this code does not know.
    #[error("a checkpoint of version {0}, known is {VERSION}")]
    Version(u64),
    /// It is of other detectors than the configuration has.
    #[error("a checkpoint of other detectors, or of other parameters, than the configuration's")]
    Detectors,
    /// Words contradict each other.
    #[error("no checkpoint: the state of a detector contradicts itself")]
    State,
    /// Its summary is damaged.
    #[error(transparent)]
    Summary(#[from] SummaryError),
}

impl From<minicbor::decode::Error> for CheckpointError {
    fn from(_: minicbor::decode::Error) -> Self {
        // Its own message is 3 kB of a component, and says little more.
        Self::Malformed("its CBOR is damaged or of another form".to_owned())
    }
}

/// The states of detectors: words to be put and taken one after the other. By
/// calls, for there are many, and none is in a hurry.
#[derive(Default)]
pub struct Words {
    words: Vec<u64>,
    taken: usize,
}

impl Words {
    /// Put one.
    #[inline(never)]
    pub fn put(&mut self, word: u64) {
        self.words.push(word);
    }

    /// Put a number.
    pub fn put_number(&mut self, x: f64) {
        self.put(x.to_bits());
    }

    /// Take the next one.
    #[inline(never)]
    pub fn take(&mut self) -> Option<u64> {
        let word = self.words.get(self.taken).copied();
        self.taken += 1;
        word
    }

    /// Take the next one, which is at most `most`.
    #[inline(never)]
    pub fn take_at_most(&mut self, most: u64) -> Option<u64> {
        self.take().filter(|&word| word <= most)
    }

    /// Take the next one, which is a finite number.
    #[inline(never)]
    pub fn take_number(&mut self) -> Option<f64> {
        self.take().map(f64::from_bits).filter(|x| x.is_finite())
    }

    /// Write them as a list.
    pub fn write(&self, e: &mut Writer<'_>) -> Written {
        e.array(self.words.len() as u64)?;
        for &word in &self.words {
            e.u64(word)?;
        }
        Ok(())
    }

    /// Read a list of words.
    ///
    /// # Errors
    /// [`CheckpointError`]: it is no list, or not of words.
    pub fn read(d: &mut Decoder<'_>) -> Result<Self, CheckpointError> {
        let length = d.array()?.ok_or(CheckpointError::NotCanonical)?;
        let mut words = Self::default();
        // Not reserved beforehand: the length is the sender's word.
        for _ in 0..length {
            words.put(d.u64()?);
        }
        Ok(words)
    }
}
