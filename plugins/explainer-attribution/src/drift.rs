//! Whether features still matter as they did.

use headland_monitor::{fixed_point, from_fixed_point};

/// Why a ranking cannot be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RankError {
    /// The two are not of the same features.
    Lengths {
        /// Features of the baseline.
        baseline: usize,
        /// Features now.
        live: usize,
    },
    /// An attribution is negative, NaN or infinite.
    NotAMean,
    /// The baseline has no feature that contributes: there is no ranking.
    NoBaseline,
}

/// How much of the baseline's ranking of the features is left, from 0 to 1:
/// the normalised discounted cumulative gain of the features in the order of
/// `live`, where a feature's gain is its attribution in `baseline`. Both are
/// mean absolute attributions, one a feature. Amazon SageMaker Clarify alarms
/// below 0.9.
///
/// Features that have the same value in `live` share the discounts of their
/// places, so that the order of the features in the file decides nothing.
///
/// # Errors
/// [`RankError`].
///
/// # Source
/// SageMaker Clarify's documentation, Feature attribution drift for models in
/// production; ties as McSherry and Najork, Computing information retrieval
/// performance measures efficiently in the presence of tied scores, ECIR 2008.
pub fn ndcg(baseline: &[f64], live: &[f64]) -> Result<f64, RankError> {
    if baseline.len() != live.len() {
        return Err(RankError::Lengths { baseline: baseline.len(), live: live.len() });
    }
    if baseline.iter().chain(live).any(|a| !(a.is_finite() && *a >= 0.0)) {
        return Err(RankError::NotAMean);
    }
    let best = discounted(baseline, baseline);
    if best <= 0.0 {
        return Err(RankError::NoBaseline);
    }
    Ok(discounted(baseline, live) / best)
}

/// The sum over the ranks, from 1 on, of the gain there over log2(rank + 1).
fn discounted(gains: &[f64], scores: &[f64]) -> f64 {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_unstable_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    let mut rank = 0;
    let mut sum = 0.0;
    for tied in order.chunk_by(|&a, &b| scores[a] == scores[b]) {
        let discounts: f64 = tied
            .iter()
            .map(|_| {
                rank += 1;
                1.0 / f64::from(rank + 1).log2()
            })
            .sum();
        let gain: f64 = tied.iter().map(|&i| gains[i]).sum();
        sum += gain / tied.len() as f64 * discounts;
    }
    sum
}

/// Mean absolute attributions over explanations, as integers: what devices
/// counted apart comes to the same when it is put together in any order.
///
/// The sums are those of a summary's `Sums`: in units of 2^-20, and cut to
/// 2^22 a value.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MeanAbsolute {
    rows: u64,
    sums: Vec<i64>,
}

impl MeanAbsolute {
    /// None seen yet, of so many features.
    pub fn new(features: usize) -> Self {
        Self { rows: 0, sums: vec![0; features] }
    }

    /// See one explanation. Gives whether it was taken: one with another number
    /// of features or a NaN is not, nor one for which a sum has no room.
    pub fn push(&mut self, values: &[f64]) -> bool {
        let of = |value: &f64| fixed_point(value.abs());
        let Some(units) = values.iter().map(of).collect::<Option<Vec<i64>>>() else { return false };
        self.merge(&Self { rows: 1, sums: units })
    }

    /// Put two together. Gives whether they were: not where they are of other
    /// features, or a sum has no room.
    pub fn merge(&mut self, other: &Self) -> bool {
        if self.sums.len() != other.sums.len() {
            return false;
        }
        let sums = self.sums.iter().zip(&other.sums).map(|(a, b)| a.checked_add(*b));
        match (self.rows.checked_add(other.rows), sums.collect::<Option<Vec<i64>>>()) {
            (Some(rows), Some(sums)) => {
                *self = Self { rows, sums };
                true
            }
            _ => false,
        }
    }

    /// Explanations seen.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// The mean absolute attribution of each feature; zeros when none was seen.
    pub fn means(&self) -> Vec<f64> {
        self.sums.iter().map(|&sum| from_fixed_point(sum) / self.rows.max(1) as f64).collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// SageMaker Clarify's own case in words: the ranking is the same, so 1;
    /// turned round, by hand: (1/log2(2) + 2/log2(3) + 3/log2(4)) over
    /// (3/log2(2) + 2/log2(3) + 1/log2(4)).
    #[test]
    fn a_ranking_turned_round() {
        assert_eq!(ndcg(&[3.0, 2.0, 1.0], &[30.0, 20.0, 10.0]), Ok(1.0));
        let two_of_log3 = 2.0 / 3f64.log2();
        let by_hand = (1.0 + two_of_log3 + 1.5) / (3.0 + two_of_log3 + 0.5);
        assert!((ndcg(&[3.0, 2.0, 1.0], &[1.0, 2.0, 3.0]).unwrap() - by_hand).abs() < 1e-15);
    }

    #[test]
    fn ties_do_not_depend_on_the_order_of_the_features() {
        let a = ndcg(&[3.0, 2.0, 1.0], &[1.0, 1.0, 1.0]).unwrap();
        let b = ndcg(&[1.0, 3.0, 2.0], &[1.0, 1.0, 1.0]).unwrap();
        assert!((a - b).abs() < 1e-15 && a < 1.0);
    }

    #[test]
    fn what_is_no_ranking_is_refused() {
        assert_eq!(ndcg(&[1.0], &[]), Err(RankError::Lengths { baseline: 1, live: 0 }));
        assert_eq!(ndcg(&[1.0], &[f64::NAN]), Err(RankError::NotAMean));
        assert_eq!(ndcg(&[f64::INFINITY], &[1.0]), Err(RankError::NotAMean));
        assert_eq!(ndcg(&[-1.0], &[1.0]), Err(RankError::NotAMean));
        assert_eq!(ndcg(&[0.0, 0.0], &[1.0, 2.0]), Err(RankError::NoBaseline));
        assert_eq!(ndcg(&[], &[]), Err(RankError::NoBaseline));
    }

    #[test]
    fn means_of_what_is_not_a_row_are_as_before() {
        let mut means = MeanAbsolute::new(2);
        assert_eq!(means.means(), [0.0, 0.0]);
        assert!(means.push(&[-1.0, 0.5]));
        assert!(!means.push(&[f64::NAN, 0.5]));
        assert!(!means.push(&[1.0]));
        assert!(means.push(&[3.0, -0.5]));
        assert_eq!((means.rows(), means.means()), (2, vec![2.0, 0.5]));
        let full = MeanAbsolute { rows: 1, sums: vec![i64::MAX; 2] };
        assert!(!means.merge(&full), "overflow");
        assert_eq!(means.rows(), 2);
    }
}
