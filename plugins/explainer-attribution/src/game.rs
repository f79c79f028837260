//! Prediction as a cooperative game: features are players, and a coalition is
//! worth what the model gives when only its players have the input's values.

use crate::{error::Error, subject::Subject};

/// What each feature contributed.
#[derive(Debug, Clone, PartialEq)]
pub struct Contributions {
    /// What the model gives for the baseline.
    pub base: f64,
    /// One value for each element of the input, in the output's units.
    pub values: Vec<f64>,
}

/// The most players of one game: a coalition is the bits of a u64.
pub const MAX_PLAYERS: usize = 64;

/// The game of one input against a background.
///
/// The players that are not in a coalition take their values from the rows of
/// the background, and the worth is the mean over those rows: the marginal, or
/// interventional, expectation.
///
/// # Source
/// Lundberg and Lee, A unified approach to interpreting model predictions,
/// NeurIPS 2017; Janzing, Minorics and Bloebaum, Feature relevance
/// quantification in explainable AI: a causal problem, AISTATS 2020, on why
/// the marginal expectation.
pub struct Game<'a, 's> {
    subject: &'a mut Subject<'s>,
    background: &'a [Vec<f64>],
    players: Vec<&'a [usize]>,
}

impl<'a, 's> Game<'a, 's> {
    /// `groups` are the elements that each player stands for. A group that has
    /// the same values in every row of the background as in the input does not
    /// play: it contributes nothing, by the axiom of the dummy.
    ///
    /// # Errors
    /// [`Error::Background`] when a row is not as long as the input,
    /// [`Error::TooManyFeatures`].
    pub fn new(
        subject: &'a mut Subject<'s>,
        background: &'a [Vec<f64>],
        groups: &'a [Vec<usize>],
    ) -> Result<Self, Error> {
        let input = subject.input();
        if let Some(row) = background.iter().find(|row| row.len() != input.len()) {
            return Err(Error::Background { input: input.len(), row: row.len() });
        }
        let varies = |group: &&[usize]| {
            group.iter().any(|&e| background.iter().any(|row| row[e] != input[e]))
        };
        let players: Vec<&[usize]> = groups.iter().map(Vec::as_slice).filter(varies).collect();
        if players.len() > MAX_PLAYERS {
            return Err(Error::TooManyFeatures { features: players.len(), most: MAX_PLAYERS });
        }
        Ok(Self { subject, background, players })
    }

    /// How many play.
    pub fn players(&self) -> usize {
        self.players.len()
    }

    /// Rows that it takes to know what a coalition is worth.
    pub fn rows_per_coalition(&self) -> u64 {
        self.background.len() as u64
    }

    /// How many more coalitions can be asked for.
    pub fn coalitions_left(&self) -> u64 {
        self.subject.rows_left() / self.rows_per_coalition().max(1)
    }

    /// What all players together are worth.
    pub fn whole(&self) -> f64 {
        self.subject.prediction()
    }

    /// What each coalition is worth, the lowest bit for the first player.
    ///
    /// # Errors
    /// As [`Subject::each`].
    pub fn worths(&mut self, coalitions: &[u64]) -> Result<Vec<f64>, Error> {
        let Self { subject, background, players } = self;
        let rows = background.len();
        let mut sums = vec![0.0; coalitions.len()];
        subject.each(
            coalitions.len() * rows,
            |i, row| {
                let absent = players.iter().enumerate();
                let absent = absent.filter(|(p, _)| coalitions[i / rows] >> p & 1 == 0);
                for &e in absent.flat_map(|(_, elements)| *elements) {
                    row[e] = background[i % rows][e];
                }
            },
            |i, worth| sums[i / rows] += worth,
        )?;
        sums.iter_mut().for_each(|sum| *sum /= rows as f64);
        Ok(sums)
    }

    /// What each player contributed, told of the elements: those of a group
    /// share evenly, so that all elements together still come to the sum.
    pub fn contributions(&self, base: f64, shares: &[f64]) -> Contributions {
        let mut values = vec![0.0; self.subject.input().len()];
        for (elements, share) in self.players.iter().zip(shares) {
            elements.iter().for_each(|&e| values[e] = share / elements.len() as f64);
        }
        Contributions { base, values }
    }
}
