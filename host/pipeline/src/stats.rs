//! What a scheduler counts.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::{breaker::BreakerState, graph::Graph};

/// Counters since the scheduler was made. Once it is idle, `submitted` is
/// `completed` plus everything in `dropped`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Stats {
    /// Frames that the source offered.
    pub submitted: u64,
    /// Frames that were let into the queue.
    pub admitted: u64,
    /// Frames that have a result.
    pub completed: u64,
    /// Frames that have none, by [`DropReason::code`](crate::DropReason::code).
    pub dropped: BTreeMap<&'static str, u64>,
    /// The most frames that ever waited at once.
    pub queue_high_water: usize,
    /// The most frames that were ever under way at once.
    pub under_way_high_water: usize,
    /// Frames whose shadows were let go so as not to fall behind.
    pub shadows_dropped: u64,
    /// Per stage, in the order of the file.
    pub stages: Vec<StageStats>,
    /// Per monitor, in the order of the file.
    pub monitors: Vec<MonitorStats>,
}

/// Counters of one stage.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct StageStats {
    /// Its id.
    pub id: String,
    /// Calls made of it; routers and combiners count each time they work.
    pub calls: u64,
    /// Times that it failed, whether it was called or could not be.
    pub failures: u64,
    /// Times that its fallback ran instead.
    pub fallbacks: u64,
    /// Times that its open breaker kept it from being called.
    pub breaker_open: u64,
    /// Calls whose frame had been dropped by the time that they ended.
    pub late: u64,
    /// Time spent in its calls, in nanoseconds.
    pub busy_ns: u64,
    /// Whether it is called.
    pub breaker: BreakerState,
}

/// Counters of one monitor.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct MonitorStats {
    /// Its id.
    pub id: String,
    /// Rows made for it.
    pub rows: u64,
    /// Rows not made because there was no time to.
    pub rows_dropped: u64,
    /// Values left out because another tap has a column of that name, or
    /// because there are [`MAX_COLUMNS`](crate::MAX_COLUMNS) already.
    pub values_left_out: u64,
    /// Times that a tap could make nothing of what it is on.
    pub taps_failed: u64,
    /// What the last of these failed of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_tap_failure: Option<String>,
}

impl Stats {
    pub(crate) fn new(graph: &Graph) -> Self {
        let stage = |id: &String| StageStats { id: id.clone(), ..StageStats::default() };
        let monitor = |id: &String| MonitorStats { id: id.clone(), ..MonitorStats::default() };
        Self {
            submitted: 0,
            admitted: 0,
            completed: 0,
            dropped: BTreeMap::new(),
            queue_high_water: 0,
            under_way_high_water: 0,
            shadows_dropped: 0,
            stages: graph.stages().iter().map(|s| stage(&s.id)).collect(),
            monitors: graph.monitors().iter().map(|m| monitor(&m.id)).collect(),
        }
    }
}
