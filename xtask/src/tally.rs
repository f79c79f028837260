//! Counting what passed.

use std::time::Instant;

use anyhow::Result;

use crate::process::seconds;

/// What ran and how it ended.
#[derive(Default)]
pub struct Tally {
    passed: u64,
    failed: u64,
    skipped: u64,
}

impl Tally {
    /// Run a check, say how it ended, and count it.
    pub fn check(&mut self, name: &str, work: impl FnOnce() -> Result<()>) {
        let start = Instant::now();
        match work() {
            Ok(()) => {
                self.passed += 1;
                println!("ok      {name} ({})", seconds(start.elapsed()));
            }
            Err(e) => {
                self.failed += 1;
                println!("FAILED  {name}: {e:#}");
            }
        }
    }

    /// Count a check that is left out.
    pub fn skip(&mut self, name: &str, reason: &str) {
        self.skipped += 1;
        println!("skipped {name}: {reason}");
    }

    /// Add what another program counted.
    pub fn add(&mut self, passed: u64, failed: u64, skipped: u64) {
        self.passed += passed;
        self.failed += failed;
        self.skipped += skipped;
    }

    /// The closing line, and an error when something failed.
    pub fn close(&self) -> Result<()> {
        println!("{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped);
        anyhow::ensure!(self.failed == 0, "{} failed", self.failed);
        Ok(())
    }
}
