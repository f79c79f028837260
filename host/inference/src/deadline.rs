//! When a run must have ended.

use std::{
    fmt::Display,
    time::{Duration, Instant},
};

use crate::InferenceError;

/// When a run must have ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline {
    end: Instant,
    /// From the start of the run to `end`.
    allowed: Duration,
}

impl Deadline {
    /// The deadline of a run that starts now.
    pub(crate) fn new(end: Instant) -> Self {
        Self { end, allowed: end.saturating_duration_since(Instant::now()) }
    }

    /// Refuse to go on with `next` once the deadline has passed.
    pub(crate) fn check(&self, next: impl Display) -> Result<(), InferenceError> {
        if Instant::now() < self.end {
            return Ok(());
        }
        Err(InferenceError::DeadlineExceeded { allowed: self.allowed, next: next.to_string() })
    }
}
