//! Bins that hold rows enough to be compared.

use headland_monitor::sorted_indices;

/// Rows that a bin must be expected to hold in the window, and must hold in
/// the reference: below, a distance is mostly noise and no floor fits.
pub const MIN_EXPECTED: f64 = 20.0;

/// A feature's counts over bins that all have rows enough.
#[derive(Debug, Clone, PartialEq)]
pub struct Pooled {
    /// Of the reference.
    pub expected: Vec<u64>,
    /// Of the window.
    pub seen: Vec<u64>,
    /// Where the bins stand on the axis, in standard deviations of the
    /// reference; 0 for categories.
    pub positions: Vec<f64>,
    /// For each of the original bins, which one it is part of.
    pub part_of: Vec<usize>,
}

/// How many rows there are, and how many there must be.
struct Rows {
    /// In the window.
    n: f64,
    /// In the reference.
    m: f64,
    /// Of the noise on each count of the window.
    variance: f64,
}

impl Rows {
    fn new(expected: &[u64], seen: &[u64], variance: f64) -> Self {
        Self { n: total(seen), m: total(expected), variance }
    }

    /// What must be expected in the window of a bin made of so many: with
    /// noise, as many rows as make the count as sure as 20 are without. It is
    /// `e^2 / (e + noise) = 20`, solved for `e`.
    fn least_expected(&self, members: usize) -> f64 {
        let half = MIN_EXPECTED / 2.0;
        half + (half * half + MIN_EXPECTED * self.variance * members as f64).sqrt()
    }

    /// Whether a bin that holds so many rows of the reference can be compared.
    fn enough(&self, held: f64, members: usize) -> bool {
        held >= MIN_EXPECTED && held * self.n >= self.least_expected(members) * self.m
    }

    /// Values needed so that of two bins made of so many, the one that holds
    /// `rarer` rows of the reference can be compared; nothing when it never
    /// can.
    fn needed(&self, rarer: f64, members: usize) -> Option<u64> {
        let values = self.least_expected(members) * self.m / rarer;
        (rarer >= MIN_EXPECTED).then_some(values.ceil() as u64)
    }
}

fn total(counts: &[u64]) -> f64 {
    counts.iter().map(|&c| c as f64).sum()
}

/// Neighbouring bins of numbers put together until each holds enough.
///
/// # Errors
/// How many values are needed for two bins, when there are too few; nothing
/// when no number of them is enough.
pub fn neighbours(
    expected: &[u64],
    seen: &[u64],
    means: &[f64],
    std: f64,
    variance: f64,
) -> Result<Pooled, Option<u64>> {
    let rows = Rows::new(expected, seen, variance);
    let mut part_of = vec![0; expected.len()];
    // The best that two bins can do, whatever the number of rows.
    let (mut below, mut halves) = (0.0, 0.0f64);
    let (mut bins, mut held, mut width) = (0, 0.0, 0);
    for (part, &count) in part_of.iter_mut().zip(expected) {
        *part = bins;
        held += count as f64;
        width += 1;
        if rows.enough(held, width) {
            bins += 1;
            (held, width) = (0.0, 0);
        }
        below += count as f64;
        halves = halves.max(below.min(rows.m - below));
    }
    if bins < 2 {
        return Err(rows.needed(halves, expected.len()));
    }
    let mut pooled = sum(expected, seen, part_of, bins);
    for (i, &part) in pooled.part_of.iter().enumerate() {
        let share = expected[i] as f64 / pooled.expected[part] as f64;
        pooled.positions[part] += share * means[i] / std;
    }
    Ok(pooled)
}

/// Rare categories put together, with the rarest of the frequent ones if that
/// takes, until each holds enough.
///
/// # Errors
/// As [`neighbours`].
pub fn rare(expected: &[u64], seen: &[u64], variance: f64) -> Result<Pooled, Option<u64>> {
    let rows = Rows::new(expected, seen, variance);
    let order = sorted_indices(expected.len(), &|a, b| expected[b].cmp(&expected[a]));
    let mut part_of = vec![0; expected.len()];
    let (mut bins, mut held, mut width) = (0, 0.0, 0);
    let mut greatest = 0.0f64;
    for i in order {
        let count = expected[i] as f64;
        greatest = greatest.max(count);
        part_of[i] = bins;
        if held == 0.0 && rows.enough(count, 1) {
            bins += 1;
        } else {
            held += count;
            width += 1;
        }
    }
    bins += usize::from(rows.enough(held, width));
    if bins < 2 {
        return Err(rows.needed(greatest.min(rows.m - greatest), expected.len()));
    }
    Ok(sum(expected, seen, part_of, bins))
}

/// Add the bins up by parts; a part too many is what was left over, and goes
/// to the last one.
fn sum(expected: &[u64], seen: &[u64], part_of: Vec<usize>, bins: usize) -> Pooled {
    let mut pooled = Pooled {
        expected: vec![0; bins],
        seen: vec![0; bins],
        positions: vec![0.0; bins],
        part_of,
    };
    for (i, part) in pooled.part_of.iter_mut().enumerate() {
        *part = (*part).min(bins - 1);
        pooled.expected[*part] += expected[i];
        pooled.seen[*part] += seen[i];
    }
    pooled
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const MEANS: [f64; 4] = [0.0, 1.0, 2.0, 4.0];

    #[test]
    fn neighbours_are_pooled_until_each_is_expected_to_hold_twenty() {
        let pool = |seen: &[u64]| neighbours(&[100, 100, 100, 100], seen, &MEANS, 2.0, 0.0);
        let many = pool(&[20, 20, 20, 20]).unwrap();
        assert_eq!(many.positions, [0.0, 0.5, 1.0, 2.0]);
        let few = pool(&[79, 0, 0, 0]).unwrap();
        assert_eq!((few.expected, few.seen), (vec![200, 200], vec![79, 0]));
        assert_eq!(few.positions, [0.25, 1.5]);
        assert_eq!(pool(&[39, 0, 0, 0]), Err(Some(40)));
        assert_eq!(pool(&[0; 4]), Err(Some(40)));
    }

    #[test]
    fn noised_counts_need_more_rows() {
        // 30 expected with a variance of 36 are as sure as 13.6.
        let pool = |variance| neighbours(&[30; 4], &[30; 4], &MEANS, 1.0, variance);
        assert_eq!(pool(0.0).unwrap().expected, [30; 4]);
        assert_eq!(pool(36.0).unwrap().expected, [60; 2]);
        assert_eq!(pool(1e4), Err(Some(1809)));
    }

    #[test]
    fn rest_of_the_last_bin_is_not_lost() {
        let pooled = neighbours(&[40, 40, 15], &[40, 40, 15], &MEANS[..3], 1.0, 0.0).unwrap();
        assert_eq!((pooled.expected, pooled.seen), (vec![40, 55], vec![40, 55]));
    }

    #[test]
    fn reference_of_few_rows_never_has_enough() {
        assert_eq!(neighbours(&[19, 19], &[1000, 1000], &MEANS[..2], 1.0, 0.0), Err(None));
        assert_eq!(rare(&[500, 19], &[1000, 1000], 0.0), Err(None));
        assert_eq!(rare(&[500], &[1000], 0.0), Err(None));
    }

    #[test]
    fn rare_categories_are_pooled_and_unseen_ones_with_them() {
        // The last one is what the reference does not know.
        let pooled = rare(&[300, 5, 600, 95, 0], &[30, 10, 60, 10, 7], 0.0).unwrap();
        assert_eq!(pooled.part_of, [1, 1, 0, 1, 1]);
        assert_eq!((pooled.expected, pooled.seen), (vec![600, 400], vec![60, 57]));
        let more = rare(&[300, 5, 600, 95, 0], &[300, 100, 600, 100, 70], 0.0).unwrap();
        assert_eq!(more.part_of, [1, 2, 0, 2, 2]);
        assert_eq!(rare(&[950, 50], &[100, 7], 0.0), Err(Some(400)));
    }
}
