//! Single values, told with deniability.

use super::{Charged, Cost, Epsilon, Permit, Ratio, sample::Random};

/// Categories of one value.
const MAX_CATEGORIES: u32 = 1 << 16;

/// Categorical values, of `0..categories`, that are to leave a device one by
/// one: delayed labels, flags. A boolean is a value of two categories.
///
/// With k categories each is told truthfully with probability
/// `e^epsilon / (e^epsilon + k - 1)`, and as any other one with
/// `1 / (e^epsilon + k - 1)`, which is epsilon-private for each value without
/// anyone else being trusted. All are taken to be of one contributor, and cost
/// epsilon each.
///
/// # Source
/// Warner, Journal of the American Statistical Association 60 (1965); of k
/// categories Kairouz, Oh and Viswanath, "Extremal Mechanisms for Local
/// Differential Privacy", JMLR 17 (2016).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Responses {
    values: Vec<u32>,
    categories: u32,
    epsilon: Epsilon,
}

/// Why values cannot be told so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResponseError {
    /// With one category there is nothing to tell; with too many, nothing to
    /// learn.
    #[error("{0} categories, 2 to {MAX_CATEGORIES} allowed")]
    Categories(u32),
    /// A value that is none of the categories.
    #[error("value {value} is none of {categories} categories")]
    Value {
        /// The value.
        value: u32,
        /// How many categories there are.
        categories: u32,
    },
}

impl Responses {
    /// Values to tell at epsilon each.
    ///
    /// # Errors
    /// [`ResponseError`].
    pub fn new(values: Vec<u32>, categories: u32, epsilon: Epsilon) -> Result<Self, ResponseError> {
        if !(2..=MAX_CATEGORIES).contains(&categories) {
            return Err(ResponseError::Categories(categories));
        }
        if let Some(&value) = values.iter().find(|&&value| value >= categories) {
            return Err(ResponseError::Value { value, categories });
        }
        Ok(Self { values, categories, epsilon })
    }
}

impl Charged for Responses {
    fn cost(&self) -> Cost {
        Cost::pure(self.epsilon).times(self.values.len() as u64)
    }
}

impl Permit<Responses> {
    /// The values as they may be told.
    ///
    /// # Errors
    /// Those of the source of randomness; the permit is used up.
    pub fn randomise<E>(
        self,
        source: impl FnMut(&mut [u8]) -> Result<(), E>,
    ) -> Result<Vec<u32>, E> {
        let Responses { values, categories, epsilon } = self.into_inner();
        let epsilon = epsilon.ratio();
        let random = &mut Random::new(source);
        values.iter().map(|&value| respond(value, categories, epsilon, random)).collect()
    }
}

/// Exact without e^epsilon, which is no ratio: candidates are drawn uniformly,
/// and one that is not the truth is kept with probability e^-epsilon only.
fn respond<E, F: FnMut(&mut [u8]) -> Result<(), E>>(
    value: u32,
    categories: u32,
    epsilon: Ratio,
    random: &mut Random<F>,
) -> Result<u32, E> {
    loop {
        let candidate = random.below(u128::from(categories))? as u32;
        if candidate == value || random.exp_minus(epsilon)? {
            return Ok(candidate);
        }
    }
}

/// How many values were truly of each category, by how many were told to be:
/// an estimate without bias, which may be below nought.
pub fn estimate_counts(told: &[u64], epsilon: Epsilon) -> Vec<f64> {
    let all: f64 = told.iter().map(|&count| count as f64).sum();
    // (told - all q) / (p - q) with p and q as above, by e^-epsilon, which
    // does not overflow.
    let small = (-epsilon.get()).exp();
    let scale = 1.0 + (told.len() as f64 - 1.0) * small;
    let gain = -(-epsilon.get()).exp_m1();
    told.iter().map(|&count| (count as f64 * scale - all * small) / gain).collect()
}
