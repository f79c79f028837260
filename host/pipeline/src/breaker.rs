//! The circuit breaker of one stage.

use serde::{Deserialize, Serialize};

use crate::spec::BreakerSpec;

/// Whether a stage is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BreakerState {
    /// It is called.
    #[default]
    Closed,
    /// It failed too often and is not called for a while.
    Open,
    /// It is called once, to see whether it has recovered.
    HalfOpen,
}

/// Counts a stage's failures in a row. A stage handles one call at a time, so
/// that half-open lets one call through needs no further bookkeeping.
#[derive(Debug, Clone)]
pub(crate) struct Breaker {
    spec: BreakerSpec,
    state: BreakerState,
    failures_in_a_row: u32,
    open_until_ns: u64,
}

impl Breaker {
    pub(crate) fn new(spec: BreakerSpec) -> Self {
        Self { spec, state: BreakerState::Closed, failures_in_a_row: 0, open_until_ns: 0 }
    }

    pub(crate) fn state(&self) -> BreakerState {
        self.state
    }

    /// Whether the stage may be called now.
    pub(crate) fn admits(&mut self, now_ns: u64) -> bool {
        if self.state == BreakerState::Open && now_ns >= self.open_until_ns {
            self.state = BreakerState::HalfOpen;
        }
        self.state != BreakerState::Open
    }

    pub(crate) fn succeeded(&mut self) {
        self.state = BreakerState::Closed;
        self.failures_in_a_row = 0;
    }

    pub(crate) fn failed(&mut self, now_ns: u64) {
        self.failures_in_a_row = self.failures_in_a_row.saturating_add(1);
        // Only a success resets the count, so a failed trial is over it, too.
        if self.failures_in_a_row >= self.spec.failures {
            self.state = BreakerState::Open;
            let open_ns = self.spec.open_ms.saturating_mul(1_000_000);
            self.open_until_ns = now_ns.saturating_add(open_ns);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn breaker() -> Breaker {
        Breaker::new(BreakerSpec { failures: 3, open_ms: 10 })
    }

    fn opened() -> Breaker {
        let mut breaker = breaker();
        (0..3).for_each(|_| breaker.failed(100 * MS));
        breaker
    }

    #[test]
    fn opens_at_the_third_failure_in_a_row_and_not_before() {
        let mut breaker = breaker();
        breaker.failed(0);
        breaker.failed(0);
        assert!(breaker.admits(0));
        breaker.succeeded();
        breaker.failed(0);
        breaker.failed(0);
        assert_eq!(breaker.state(), BreakerState::Closed, "a success must reset the count");
        breaker.failed(0);
        assert_eq!(breaker.state(), BreakerState::Open);
        assert!(!breaker.admits(0));
    }

    #[test]
    fn lets_one_through_exactly_when_its_time_is_up() {
        let mut breaker = opened();
        assert!(!breaker.admits(110 * MS - 1));
        assert_eq!(breaker.state(), BreakerState::Open);
        assert!(breaker.admits(110 * MS));
        assert_eq!(breaker.state(), BreakerState::HalfOpen);
    }

    #[test]
    fn a_trial_that_fails_opens_it_again_at_once_and_for_the_whole_time() {
        let mut breaker = opened();
        assert!(breaker.admits(110 * MS));
        breaker.failed(115 * MS);
        assert!(!breaker.admits(125 * MS - 1));
        assert!(breaker.admits(125 * MS));
    }

    #[test]
    fn a_trial_that_succeeds_closes_it_and_the_count_starts_over() {
        let mut breaker = opened();
        assert!(breaker.admits(110 * MS));
        breaker.succeeded();
        assert_eq!(breaker.state(), BreakerState::Closed);
        breaker.failed(0);
        breaker.failed(0);
        assert!(breaker.admits(0));
    }

    #[test]
    fn the_end_of_time_does_not_overflow() {
        let mut breaker = Breaker::new(BreakerSpec { failures: 1, open_ms: u64::MAX });
        breaker.failed(u64::MAX - 1);
        assert!(!breaker.admits(u64::MAX - 1));
    }
}
