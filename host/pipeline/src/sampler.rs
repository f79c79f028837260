//! Which rows a monitor is shown when all would cost too much.

/// Rows between two looks at the time: few enough to react within a second of
/// a camera, enough for a call's cost to be spread over its batch.
const LOOK_ROWS: u32 = 128;

/// The thinnest sample, one row in 2^10.
const MAX_LEVEL: u32 = 10;

/// Keeps a monitor under its share of the stages' time.
///
/// Of the rows, one in 1, 2, 4 ... is kept, by a hash of the frame's id: which
/// ones does not depend on what is in them, so what is counted over the sample
/// estimates what would be counted over all.
#[derive(Debug, Clone)]
pub struct Sampler {
    max_share: f64,
    /// One row in 2^level is kept.
    level: u32,
    rows: u32,
    /// Time that the stages and the monitor had taken at the last look, in ns.
    last: (u64, u64),
}

impl Sampler {
    /// Keep to `max_percent` of the stages' time.
    pub fn new(max_percent: u32) -> Self {
        Self { max_share: f64::from(max_percent) / 100.0, level: 0, rows: 0, last: (0, 0) }
    }

    /// Whether to show a frame's row. The times are what the stages and the
    /// monitor have taken so far, in nanoseconds.
    pub fn keeps(&mut self, frame_id: u64, stages_ns: u64, monitor_ns: u64) -> bool {
        self.rows += 1;
        if self.rows >= LOOK_ROWS {
            let stages = stages_ns.saturating_sub(self.last.0) as f64;
            let monitor = monitor_ns.saturating_sub(self.last.1) as f64;
            (self.rows, self.last) = (0, (stages_ns, monitor_ns));
            if monitor > self.max_share * stages {
                self.level = (self.level + 1).min(MAX_LEVEL);
            } else if monitor < 0.4 * self.max_share * stages {
                // Twice the rows would still be under the share.
                self.level = self.level.saturating_sub(1);
            }
        }
        mix(frame_id) & ((1 << self.level) - 1) == 0
    }

    /// One row in how many is kept now.
    pub fn one_in(&self) -> u32 {
        1 << self.level
    }
}

/// SplitMix64's finaliser (Steele, Lea and Flood, OOPSLA 2014).
pub(crate) fn mix(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a monitor's share comes to when each row costs it so much, and the
    /// stages 1000 ns a frame.
    fn share(row_ns: u64, max_percent: u32) -> (f64, u64) {
        let mut sampler = Sampler::new(max_percent);
        let (mut monitor, mut shown, mut settled) = (0u64, 0u64, (0u64, 0u64));
        for frame in 0..100_000u64 {
            if frame == 10_000 {
                settled = (frame, monitor);
            }
            if sampler.keeps(frame, frame * 1000, monitor) {
                monitor += row_ns;
                shown += 1;
            }
        }
        let stages = (100_000 - settled.0) * 1000;
        ((monitor - settled.1) as f64 / stages as f64, shown)
    }

    #[test]
    fn a_cheap_monitor_sees_every_row() {
        assert_eq!(share(20, 5).1, 100_000);
    }

    #[test]
    fn a_dear_monitor_sees_a_sample_and_keeps_to_its_share() {
        let (share, shown) = share(1000, 5);
        assert!(share < 0.06, "{share}");
        assert!(shown > 1_000, "{shown}");
    }

    #[test]
    fn a_hopeless_monitor_still_sees_some_rows() {
        let (_, shown) = share(1_000_000, 1);
        assert!(shown > 50, "{shown}");
    }
}
