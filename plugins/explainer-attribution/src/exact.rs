//! Shapley values by their definition, from every coalition.

use crate::{
    error::Error,
    game::{Contributions, Game},
};

/// The most players: 1024 coalitions.
pub const MAX_PLAYERS: usize = 10;

/// Coalitions that [`exact`] asks for.
pub fn coalitions_needed(players: usize) -> u64 {
    ((1 << players.min(63)) - 1u64).max(1)
}

/// The Shapley value of each player:
/// `sum over S without i of |S|! (n - |S| - 1)! / n! (v(S + i) - v(S))`.
///
/// # Errors
/// [`Error::TooManyFeatures`] for more than [`MAX_PLAYERS`], and as
/// [`Game::worths`].
///
/// # Source
/// Shapley, A value for n-person games, 1953.
pub fn exact(game: &mut Game) -> Result<Contributions, Error> {
    let n = game.players();
    if n > MAX_PLAYERS {
        return Err(Error::TooManyFeatures { features: n, most: MAX_PLAYERS });
    }
    let everyone = (1u64 << n) - 1;
    // The empty one also where it is everyone; of all others what everyone is
    // worth is known already.
    let coalitions: Vec<u64> = (0..everyone.max(1)).collect();
    let mut worth = game.worths(&coalitions)?;
    let base = worth[0];
    worth.resize(1 << n, game.whole());
    // What a coalition's size without the player weighs.
    let weights: Vec<f64> = (0..n)
        .scan(1.0 / n as f64, |weight, size| {
            let this = *weight;
            *weight *= (size + 1) as f64 / (n - size).saturating_sub(1).max(1) as f64;
            Some(this)
        })
        .collect();
    let value = |player: usize| -> f64 {
        (0..=everyone)
            .filter(|s| s >> player & 1 == 0)
            .map(|s| {
                let with = worth[(s | 1 << player) as usize];
                weights[s.count_ones() as usize] * (with - worth[s as usize])
            })
            .sum()
    };
    let shares: Vec<f64> = (0..n).map(value).collect();
    Ok(game.contributions(base, &shares))
}
