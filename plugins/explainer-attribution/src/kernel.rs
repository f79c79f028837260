//! KernelSHAP: Shapley values as the solution of a weighted least-squares
//! problem over some of the coalitions.

use crate::{
    error::Error,
    game::{Contributions, Game},
};

/// Coalitions that are asked for unless the configuration says otherwise.
pub fn default_coalitions(players: usize) -> usize {
    2 * players + 2_048
}

/// Shapley values, estimated from at most `max_coalitions` coalitions beside
/// the empty and the full one, and as many as the subject's allowance has room
/// for. Exact where these are all there are, and, whatever they are, for a
/// model that is a sum of functions of one player each. They always add up to
/// what the model says less the base.
///
/// Coalitions are taken in pairs with their complements, from the sizes that
/// weigh most: whole sizes for as long as the allowance would give each of
/// their coalitions a turn, then draws by weight. `seed` decides the draws, by
/// SplitMix64.
///
/// # Errors
/// [`Error::Budget`] when there is no room for each player alone and left out,
/// [`Error::Singular`], and as [`Game::worths`].
///
/// # Source
/// Lundberg and Lee, NeurIPS 2017, section 4.1; paired draws and the
/// constrained solution: Covert and Lee, Improving KernelSHAP: practical
/// Shapley value estimation using linear regression, AISTATS 2021.
pub fn kernel(game: &mut Game, max_coalitions: usize, seed: u64) -> Result<Contributions, Error> {
    let n = game.players();
    let room = game.coalitions_left().saturating_sub(1);
    let room = usize::try_from(room).unwrap_or(usize::MAX).min(max_coalitions.max(2 * n));
    let chosen = if n < 2 { Vec::new() } else { choose(n, room, seed) };
    // Also the check of the allowance: too little room and `choose` still
    // takes the first size.
    let coalitions: Vec<u64> = std::iter::once(0).chain(chosen.iter().map(|c| c.members)).collect();
    let worth = game.worths(&coalitions)?;
    let base = worth[0];
    let whole = game.whole() - base;
    let shares = match n {
        0 => Vec::new(),
        1 => vec![whole],
        _ => solve(n, &chosen, &worth[1..], base, whole)?,
    };
    Ok(game.contributions(base, &shares))
}

/// A coalition and how much it counts.
struct Weighted {
    members: u64,
    weight: f64,
}

/// `room` coalitions of `n` players, in pairs; those of one player and of all
/// but one in any case.
fn choose(n: usize, room: usize, seed: u64) -> Vec<Weighted> {
    let everyone = u64::MAX >> (64 - n);
    // What all coalitions of a size weigh together: the Shapley kernel times
    // their number, which is (n - 1) / (size (n - size)).
    let kernel = |size: usize| 1.0 / (size * (n - size)) as f64;
    let total: f64 = (1..n).map(kernel).sum();
    // A size stands for itself and for n - size.
    let is_middle = |size: usize| 2 * size == n;
    let pair_weight = |size: usize| kernel(size) / total * if is_middle(size) { 1.0 } else { 2.0 };
    let sizes = 1..=n / 2;

    let mut chosen = Vec::new();
    let mut weight_left = 1.0;
    let mut next = 1;
    for size in sizes.clone() {
        let subsets = binomial(n, size);
        let count = if is_middle(size) { subsets } else { 2.0 * subsets };
        let left = room.saturating_sub(chosen.len()) as f64;
        let deserves = left * pair_weight(size) / weight_left;
        // Within rounding: the last size of all has all the weight that is left.
        let fits = count <= left && deserves * (1.0 + 1e-9) >= count;
        if size > 1 && !fits {
            break;
        }
        let weight = pair_weight(size) / count;
        let mut members = everyone >> (n - size);
        for _ in 0..subsets as u64 {
            chosen.push(Weighted { members, weight });
            if !is_middle(size) {
                chosen.push(Weighted { members: everyone & !members, weight });
            }
            members = next_of_size(members);
        }
        weight_left -= pair_weight(size);
        next = size + 1;
    }

    let pairs = room.saturating_sub(chosen.len()) / 2;
    let drawn_sizes: Vec<usize> = sizes.skip(next - 1).collect();
    if pairs == 0 || drawn_sizes.is_empty() {
        return chosen;
    }
    // Pairs by their smaller half, in order, with how often they were drawn.
    let mut drawn: Vec<(u64, u32)> = Vec::new();
    let mut random = Random(seed);
    let of_sizes: f64 = drawn_sizes.iter().map(|&s| pair_weight(s)).sum();
    let mut draws = 0;
    // Draws that repeat themselves would go on for ever where few pairs are
    // left; four for each place is what shap allows itself, too.
    while drawn.len() < pairs && draws < 4 * pairs {
        draws += 1;
        let mut at = random.unit() * of_sizes;
        let size = drawn_sizes.iter().copied().find(|&s| {
            at -= pair_weight(s);
            at < 0.0
        });
        let size = size.unwrap_or(n / 2);
        let members = random.subset(n, size);
        let half = members.min(everyone & !members);
        match drawn.binary_search_by_key(&half, |d| d.0) {
            Ok(at) => drawn[at].1 += 1,
            Err(at) => drawn.insert(at, (half, 1)),
        }
    }
    for (members, times) in drawn {
        let weight = weight_left * f64::from(times) / draws as f64 / 2.0;
        chosen.push(Weighted { members, weight });
        chosen.push(Weighted { members: everyone & !members, weight });
    }
    chosen
}

/// How many subsets of `size` out of `n` there are; exact up to 2^53.
fn binomial(n: usize, size: usize) -> f64 {
    (0..size).fold(1.0, |count, i| count * (n - i) as f64 / (i + 1) as f64).round()
}

/// The next greater number with as many bits; after the last, anything.
///
/// # Source
/// Beeler, Gosper and Schroeppel, HAKMEM, 1972, item 175.
fn next_of_size(members: u64) -> u64 {
    let lowest = members & members.wrapping_neg();
    let ripple = members.wrapping_add(lowest);
    ripple | ((members ^ ripple) >> 2).checked_div(lowest).unwrap_or(0)
}

/// SplitMix64.
///
/// # Source
/// Steele, Lea and Flood, Fast splittable pseudorandom number generators,
/// OOPSLA 2014.
struct Random(u64);

impl Random {
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 to below 1.
    fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// `size` of `n` players, each set as likely as any other.
    ///
    /// # Source
    /// Bentley and Floyd, Programming pearls: a sample of brilliance,
    /// Communications of the ACM 30(9), 1987.
    fn subset(&mut self, n: usize, size: usize) -> u64 {
        (n - size..n).fold(0, |set, last| {
            let player = (self.unit() * (last + 1) as f64) as usize;
            set | 1 << if set >> player & 1 == 0 { player } else { last }
        })
    }
}

/// The shares that fit the worths best and add up to `whole`.
fn solve(
    n: usize,
    coalitions: &[Weighted],
    worths: &[f64],
    base: f64,
    whole: f64,
) -> Result<Vec<f64>, Error> {
    // The normal equations A x = b; A is symmetric and, as each player is
    // alone in one coalition, positive definite.
    let mut a = vec![0.0; n * n];
    let mut b = vec![0.0; n];
    for (Weighted { members, weight }, worth) in coalitions.iter().zip(worths) {
        let present = (0..n).filter(|p| members >> p & 1 == 1);
        for i in present.clone() {
            b[i] += weight * (worth - base);
            present.clone().take_while(|&j| j <= i).for_each(|j| a[i * n + j] += weight);
        }
    }
    cholesky(&mut a, n)?;
    // The multiplier of the constraint that the shares add up.
    let mut ones = vec![1.0; n];
    substitute(&a, &mut b);
    substitute(&a, &mut ones);
    let excess = (b.iter().sum::<f64>() - whole) / ones.iter().sum::<f64>();
    Ok(b.iter().zip(ones).map(|(x, one)| x - one * excess).collect())
}

/// `A = L L'` in place, of A's lower triangle.
fn cholesky(a: &mut [f64], n: usize) -> Result<(), Error> {
    for j in 0..n {
        for i in j..n {
            let dot: f64 = (0..j).map(|k| a[i * n + k] * a[j * n + k]).sum();
            let rest = a[i * n + j] - dot;
            if i > j {
                a[i * n + j] = rest / a[j * n + j];
            } else if rest > 0.0 {
                a[j * n + j] = rest.sqrt();
            } else {
                return Err(Error::Singular);
            }
        }
    }
    Ok(())
}

/// Solve `L L' x = b` in place.
fn substitute(l: &[f64], b: &mut [f64]) {
    let n = b.len();
    for i in 0..n {
        let dot: f64 = (0..i).map(|k| l[i * n + k] * b[k]).sum();
        b[i] = (b[i] - dot) / l[i * n + i];
    }
    for i in (0..n).rev() {
        let dot: f64 = (i + 1..n).map(|k| l[k * n + i] * b[k]).sum();
        b[i] = (b[i] - dot) / l[i * n + i];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coalitions_are_all_of_a_size_once() {
        for (n, size) in [(5, 2), (10, 3), (64, 1), (64, 2)] {
            let mut members = u64::MAX >> (64 - size);
            let mut seen = vec![members];
            for _ in 1..binomial(n, size) as u64 {
                members = next_of_size(members);
                seen.push(members);
            }
            assert!(seen.is_sorted_by(|a, b| a < b), "{n} {size}");
            assert!(seen.iter().all(|m| m.count_ones() as usize == size));
            assert_eq!(seen.last().map(|m| m.leading_zeros() as usize), Some(64 - n));
        }
    }

    #[test]
    fn all_coalitions_are_taken_where_there_is_room() {
        for n in 2..=12 {
            let all = (1usize << n) - 2;
            let mut chosen = choose(n, all, 7);
            chosen.sort_by_key(|c| c.members);
            let members: Vec<u64> = chosen.iter().map(|c| c.members).collect();
            assert_eq!(members, (1..=all as u64).collect::<Vec<_>>());
            let total: f64 = chosen.iter().map(|c| c.weight).sum();
            assert!((total - 1.0).abs() < 1e-12, "{total}");
        }
    }

    #[test]
    fn coalitions_come_in_pairs_within_the_room() {
        for (n, room) in [(12, 24), (12, 31), (20, 500), (40, 2_128), (64, 300)] {
            let chosen = choose(n, room, 3);
            let everyone = u64::MAX >> (64 - n);
            let total: f64 = chosen.iter().map(|c| c.weight).sum();
            assert!(chosen.len() <= room, "{} of {room}", chosen.len());
            assert!(total <= 1.0 + 1e-12);
            for c in &chosen {
                let complement = everyone & !c.members;
                let other = chosen.iter().find(|o| o.members == complement);
                assert_eq!(other.map(|o| o.weight), Some(c.weight));
            }
        }
    }

    /// The chance of each of the 15 pairs of 6 is 1/15: of 15 000 draws, 1000
    /// with a standard deviation of 31.
    #[test]
    fn every_subset_is_as_likely() {
        let mut random = Random(1);
        let mut counts = std::collections::BTreeMap::new();
        for _ in 0..15_000 {
            *counts.entry(random.subset(6, 2)).or_insert(0u32) += 1;
        }
        assert_eq!(counts.len(), 15);
        assert!(counts.values().all(|n| n.abs_diff(1_000) < 5 * 31), "{counts:?}");
    }
}
