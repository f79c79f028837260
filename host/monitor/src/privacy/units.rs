//! Privacy losses, as integers that add up exactly.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{PolicyError, Ratio};
use crate::summary::FRACTION_BITS;

/// Steps of an epsilon.
pub(super) const EPSILON_STEPS: u64 = 1_000_000;

/// Steps of a rho.
pub(super) const RHO_STEPS: u64 = 1_000_000_000_000;

/// Steps of a delta.
const DELTA_STEPS: f64 = 1e15;

/// The greatest epsilon: what is greater is no privacy.
const MAX_EPSILON: f64 = 100.0;

/// The loss of pure differential privacy, in steps of a millionth: above 0,
/// at most 100.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Epsilon(u64);

/// The probability with which the loss may be greater, in steps of 10^-15:
/// above 0, below 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Delta(u64);

/// How much one row may contribute to a field, in steps of 2^-20, rounded up:
/// above 0, at most 2^22, where [`fixed_point`](crate::fixed_point) cuts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct MaxPerRow(u64);

fn out_of_range(what: &'static str, value: f64, allowed: &'static str) -> PolicyError {
    PolicyError::OutOfRange { what, value: value.to_string(), allowed }
}

impl Epsilon {
    /// The step nearest to `value`.
    ///
    /// # Errors
    /// [`PolicyError::OutOfRange`]: below a millionth, above 100, or NaN.
    pub fn new(value: f64) -> Result<Self, PolicyError> {
        // The range is checked first: NaN and infinities end here.
        if !(1.0 / EPSILON_STEPS as f64..=MAX_EPSILON).contains(&value) {
            return Err(out_of_range("epsilon", value, "0.000001..=100"));
        }
        Ok(Self((value * EPSILON_STEPS as f64).round() as u64))
    }

    /// As a number.
    pub fn get(self) -> f64 {
        self.0 as f64 / EPSILON_STEPS as f64
    }

    pub(super) fn steps(self) -> u64 {
        self.0
    }

    pub(super) fn ratio(self) -> Ratio {
        Ratio::new(self.0.into(), EPSILON_STEPS.into()).unwrap_or(Ratio::ONE)
    }
}

impl Delta {
    /// The step nearest to `value`.
    ///
    /// # Errors
    /// [`PolicyError::OutOfRange`]: not above 0 and below 1.
    pub fn new(value: f64) -> Result<Self, PolicyError> {
        let steps = value * DELTA_STEPS;
        if !(1.0..=DELTA_STEPS - 1.0).contains(&steps) {
            return Err(out_of_range("delta", value, "above 0 and below 1"));
        }
        Ok(Self(steps.round() as u64))
    }

    /// As a number.
    pub fn get(self) -> f64 {
        self.0 as f64 / DELTA_STEPS
    }
}

impl MaxPerRow {
    /// The step next above `value`.
    ///
    /// # Errors
    /// [`PolicyError::OutOfRange`]: not above 0, or above 2^22.
    pub fn new(value: f64) -> Result<Self, PolicyError> {
        if !(value > 0.0 && value <= f64::from(1 << 22)) {
            return Err(out_of_range("max-per-row", value, "above 0, at most 4194304"));
        }
        Ok(Self((value * f64::from(1 << FRACTION_BITS)).ceil() as u64))
    }

    /// As a number.
    pub fn get(self) -> f64 {
        self.0 as f64 / f64::from(1 << FRACTION_BITS)
    }

    /// In units of a sum.
    pub(super) fn of_sums(self) -> u64 {
        self.0
    }

    /// In units of a count.
    pub(super) fn of_counts(self) -> u64 {
        self.0.div_ceil(1 << FRACTION_BITS)
    }
}

impl Default for MaxPerRow {
    /// One row counts once.
    fn default() -> Self {
        Self(1 << FRACTION_BITS)
    }
}

macro_rules! as_f64 {
    ($($unit:ty),*) => {$(
        impl TryFrom<f64> for $unit {
            type Error = PolicyError;

            fn try_from(value: f64) -> Result<Self, PolicyError> {
                Self::new(value)
            }
        }

        impl From<$unit> for f64 {
            fn from(unit: $unit) -> f64 {
                unit.get()
            }
        }
    )*};
}

as_f64!(Epsilon, Delta, MaxPerRow);

/// What releases cost together: pure epsilon of Laplace noise and of
/// randomised responses, rho of Gaussian noise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cost {
    /// In steps of a millionth.
    pub(super) epsilon: u64,
    /// Of zero-concentrated differential privacy, in steps of 10^-12.
    pub(super) rho: u64,
}

impl Cost {
    /// Of nothing.
    pub const NONE: Self = Self { epsilon: 0, rho: 0 };

    /// Of one release of pure differential privacy.
    pub fn pure(epsilon: Epsilon) -> Self {
        Self { epsilon: epsilon.0, rho: 0 }
    }

    /// Of one release of Gaussian noise that is (epsilon, delta)-private by
    /// itself: the greatest rho that is, `(sqrt(L + epsilon) - sqrt(L))^2` with
    /// `L = ln(1/delta)`; nothing when it is below a step.
    ///
    /// # Source
    /// Bun and Steinke, "Concentrated Differential Privacy", TCC 2016,
    /// proposition 1.3, solved for rho.
    pub fn concentrated(epsilon: Epsilon, delta: Delta) -> Option<Self> {
        let (epsilon, l) = (epsilon.get(), -delta.get().ln());
        // The difference of the roots, without the cancellation.
        let root = epsilon / ((l + epsilon).sqrt() + l.sqrt());
        let rho = (root * root * RHO_STEPS as f64).floor() as u64;
        (rho > 0).then_some(Self { epsilon: 0, rho })
    }

    /// The rho of its Gaussian part.
    pub fn rho(self) -> f64 {
        self.rho as f64 / RHO_STEPS as f64
    }

    /// The epsilon of all of it at that delta; infinite where there was
    /// Gaussian noise and no delta allows for it.
    ///
    /// Basic composition: the pure part's, and `rho + 2 sqrt(rho ln(1/delta))`.
    ///
    /// # Source
    /// Bun and Steinke, proposition 1.3 and lemma 2.3.
    pub fn epsilon(self, delta: Option<Delta>) -> f64 {
        let pure = self.epsilon as f64 / EPSILON_STEPS as f64;
        match (self.rho, delta) {
            (0, _) => pure,
            (_, None) => f64::INFINITY,
            (_, Some(delta)) => {
                let rho = self.rho();
                pure + rho + 2.0 * (-rho * delta.get().ln()).sqrt()
            }
        }
    }

    /// Of both, one after the other.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        // At the end of u64 every budget is long spent.
        Self {
            epsilon: self.epsilon.saturating_add(other.epsilon),
            rho: self.rho.saturating_add(other.rho),
        }
    }

    /// Of that many of the same.
    #[must_use]
    pub fn times(self, n: u64) -> Self {
        Self { epsilon: self.epsilon.saturating_mul(n), rho: self.rho.saturating_mul(n) }
    }
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pure = self.epsilon as f64 / EPSILON_STEPS as f64;
        match (self.epsilon, self.rho) {
            (_, 0) => write!(f, "epsilon {pure}"),
            (0, _) => write!(f, "rho {}", self.rho()),
            _ => write!(f, "epsilon {pure} and rho {}", self.rho()),
        }
    }
}
