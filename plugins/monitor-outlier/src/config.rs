//! What the monitor can be told.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What is worth an alarm. What an outlier is, the reference says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Config {
    /// One row in so many is scored, by its frame's id; 1 for all. For what
    /// costs: nearest neighbours, or a shadow stage.
    #[schemars(range(min = 1))]
    pub sample_every: u32,
    /// Of the choice of rows, where not all are scored.
    pub seed: u64,
    /// The probability that a window of good rows raises any alarm at all.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub alpha: f64,
    /// Windows with fewer scored rows are not judged.
    pub min_rows: u64,
    /// By how much a rate must exceed the reference's to matter.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub min_excess_rate: f64,
    /// The population stability index from which on a shift of the scores
    /// matters.
    #[schemars(range(min = 0.0))]
    pub min_psi: f64,
    /// So many outliers of a window are reported at once, row by row, at
    /// severity `info`: single outliers are in the nature of things.
    pub report_rows: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            sample_every: 1,
            seed: 0,
            alpha: 0.01,
            min_rows: 50,
            min_excess_rate: 0.01,
            min_psi: 0.1,
            report_rows: 0,
        }
    }
}

impl Config {
    /// Check what the schema cannot say.
    ///
    /// # Errors
    /// What makes no sense.
    pub fn check(&self) -> Result<(), &'static str> {
        let rules = [
            (self.sample_every >= 1, "sample-every is 0"),
            (self.alpha > 0.0 && self.alpha < 1.0, "alpha is not between 0 and 1"),
            ((0.0..=1.0).contains(&self.min_excess_rate), "min-excess-rate is not within 0..=1"),
            (self.min_psi >= 0.0 && self.min_psi.is_finite(), "min-psi is no PSI"),
        ];
        rules.iter().find(|(holds, _)| !holds).map_or(Ok(()), |(_, why)| Err(why))
    }

    /// Whether the row of that frame is scored. It depends on the frame alone,
    /// so that rows are the same however a stream is split, and is spread by
    /// SplitMix64, so that it does not beat with what is periodic.
    ///
    /// # Source
    /// The finaliser of Steele, Lea and Flood, "Fast splittable pseudorandom
    /// number generators", OOPSLA 2014.
    pub fn samples(&self, frame_id: u64) -> bool {
        if self.sample_every <= 1 {
            return true;
        }
        split_mix(frame_id ^ self.seed).is_multiple_of(u64::from(self.sample_every))
    }
}

/// The output of SplitMix64 for the state before its step.
pub(crate) fn split_mix(state: u64) -> u64 {
    let mut z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
