//! `headland:pipeline/log`.

use super::StageState;
use crate::{LogLevel, LogRecord, bindings::log as wit};

/// Messages that one call of a stage may write; the rest is dropped.
pub(super) const MAX_LINES_PER_CALL: u32 = 64;

/// Characters of a guest's text that are kept.
const MAX_CHARS: usize = 1024;

/// A guest's text as it may be stored and shown: not longer than a page, and
/// with nothing in it that a terminal would obey.
pub(crate) fn clip(text: &str) -> String {
    let shown = |c: char| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c };
    text.chars().take(MAX_CHARS).map(shown).collect()
}

impl wit::Host for StageState {
    fn write(&mut self, level: wit::Level, message: String) -> wasmtime::Result<()> {
        self.enter()?;
        let Some(left) = self.budget.log_lines.checked_sub(1) else { return Ok(()) };
        self.budget.log_lines = left;
        let level = match level {
            wit::Level::Debug => LogLevel::Debug,
            wit::Level::Info => LogLevel::Info,
            wit::Level::Warn => LogLevel::Warn,
            wit::Level::Error => LogLevel::Error,
        };
        let message = clip(&message);
        (self.log)(LogRecord { stage: self.stage.clone(), level, message });
        Ok(())
    }
}
