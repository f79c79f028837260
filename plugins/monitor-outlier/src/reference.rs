//! What the monitor holds rows against: learnt once from good rows.

use serde::{Deserialize, Serialize};

/// Columns of a reference: a row costs their square at most.
pub(crate) const MAX_COLUMNS: usize = 64;

/// Numbers in the points of [`Kind::Nearest`], rows times columns: 32 KiB.
pub(crate) const MAX_POINT_VALUES: usize = 4096;

/// Neighbours of [`Kind::Nearest`].
pub(crate) const MAX_NEIGHBOURS: u32 = 32;

/// The reference data of a package, as JSON.
///
/// ```json
/// {
///   "version": 1,
///   "columns": ["x", "y"],
///   "kind": { "mahalanobis": { "mean": [0.1, 2.0], "factor": [1.0, 0.3, 0.8] } },
///   "threshold": 9.21,
///   "rows": 500,
///   "max-outlier-rate": 0.02,
///   "max-unscored-rate": 0.01,
///   "scores": { "edges": [0.2, 1.4, 4.6], "counts": [50, 200, 200, 50] }
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Reference {
    /// The format's version, 1.
    pub version: u32,
    /// The columns of numbers that a score is made of.
    pub columns: Vec<String>,
    /// How it is made.
    pub kind: Kind,
    /// The score above which a row is an outlier.
    pub threshold: f64,
    /// Good rows that the rates and bins are of; none of them took part in
    /// learning `kind`.
    pub rows: u64,
    /// The share of outliers that is still good.
    pub max_outlier_rate: f64,
    /// The share of rows without a score that is still good.
    pub max_unscored_rate: f64,
    /// The distribution of the scores of good rows, over their quantiles.
    pub scores: Scores,
}

/// A histogram of scores: bin `i` holds `edges[i - 1] <= s < edges[i]`, the
/// first and the last are open.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Scores {
    /// The inner edges, rising.
    pub edges: Vec<f64>,
    /// Good rows in each bin: one more than the edges.
    pub counts: Vec<u64>,
}

impl Scores {
    /// The bin of a score, which is not NaN.
    pub fn bin(&self, score: f64) -> usize {
        self.edges.partition_point(|&e| e <= score)
    }
}

/// How a row is scored. The greater the score, the less the row is like good
/// ones.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", rename_all_fields = "kebab-case", deny_unknown_fields)]
pub enum Kind {
    /// The squared Mahalanobis distance from the mean of good rows.
    Mahalanobis {
        /// The mean, a number a column.
        mean: Vec<f64>,
        /// The covariance's lower Cholesky factor, row by row without the
        /// zeros: `d (d + 1) / 2` numbers for `d` columns.
        factor: Vec<f64>,
    },
    /// The error with which an autoencoder reconstructs the row: the one
    /// column itself, which a stage of the pipeline gives.
    Reconstruction {},
    /// The Euclidean distance from the `k`-th nearest of some good rows.
    Nearest {
        /// Which neighbour counts.
        k: u32,
        /// What each column is divided by, so that units do not matter.
        scale: Vec<f64>,
        /// Good rows, one after the other, each divided by `scale`.
        points: Vec<f64>,
    },
    /// How far a prediction moves when the input is squeezed (fewer bits,
    /// smoothed): the L1 distance between the columns and their counterparts,
    /// which a shadow stage gives that saw the squeezed input.
    Squeezing {
        /// The counterparts, in the order of the columns.
        squeezed: Vec<String>,
    },
}

impl Kind {
    /// Its name, as the reference spells it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Mahalanobis { .. } => "mahalanobis",
            Self::Reconstruction {} => "reconstruction",
            Self::Nearest { .. } => "nearest",
            Self::Squeezing { .. } => "squeezing",
        }
    }
}

impl Reference {
    /// Check what the types cannot say.
    ///
    /// # Errors
    /// What makes no sense.
    pub fn check(&self) -> Result<(), String> {
        if self.version != 1 {
            return Err(format!("version is {}, known is 1", self.version));
        }
        let d = self.columns.len();
        let names: Vec<&String> = self.names().collect();
        let twice = names.iter().enumerate().find(|(i, name)| names[..*i].contains(name));
        if let Some((_, name)) = twice {
            return Err(format!("column `{name}` is there twice"));
        }
        let rate = |r: f64| (0.0..=1.0).contains(&r);
        let Scores { edges, counts } = &self.scores;
        let rules = [
            ((1..=MAX_COLUMNS).contains(&d), "there are no columns, or more than 64"),
            (self.threshold.is_finite(), "threshold is no score"),
            (self.rows >= 1, "there are no rows"),
            (rate(self.max_outlier_rate), "max-outlier-rate is not within 0..=1"),
            (rate(self.max_unscored_rate), "max-unscored-rate is not within 0..=1"),
            (edges.len() < 64, "there are more than 64 bins"),
            (counts.len() == edges.len() + 1, "bins are not one more than their edges"),
            (edges.iter().all(|e| e.is_finite()), "an edge is not finite"),
            (edges.windows(2).all(|e| e[0] < e[1]), "the edges do not rise"),
            (
                counts.iter().try_fold(0u64, |sum, &c| sum.checked_add(c)) == Some(self.rows),
                "the bins' counts do not add up to the rows",
            ),
        ];
        if let Some((_, why)) = rules.iter().find(|(holds, _)| !holds) {
            return Err((*why).to_owned());
        }
        self.kind.check(d).map_err(|why| format!("{}: {why}", self.kind.name()))
    }

    /// The columns, and those that they are held against.
    pub fn names(&self) -> impl Iterator<Item = &String> {
        let squeezed = match &self.kind {
            Kind::Squeezing { squeezed } => squeezed.as_slice(),
            _ => &[],
        };
        self.columns.iter().chain(squeezed)
    }

    /// The score's name with its parameters, as findings say it.
    pub fn statistic(&self) -> String {
        let d = self.columns.len();
        match &self.kind {
            Kind::Mahalanobis { .. } => format!("mahalanobis-squared(columns={d})"),
            Kind::Reconstruction {} => "reconstruction-error".to_owned(),
            Kind::Nearest { k, points, .. } => {
                format!("nearest(k={k},points={},columns={d},metric=euclidean)", points.len() / d)
            }
            Kind::Squeezing { .. } => format!("squeezing(columns={d},metric=l1)"),
        }
    }
}

impl Kind {
    fn check(&self, d: usize) -> Result<(), &'static str> {
        let finite = |numbers: &[f64]| numbers.iter().all(|x| x.is_finite());
        let rules: &[(bool, &str)] = match self {
            Self::Mahalanobis { mean, factor } => {
                let diagonal = (0..d).map(|i| factor.get(i * (i + 3) / 2));
                &[
                    (mean.len() == d, "the mean is not of one number a column"),
                    (factor.len() == d * (d + 1) / 2, "the factor has another size"),
                    (finite(mean) && finite(factor), "a number is not finite"),
                    (diagonal.flatten().all(|x| *x > 0.0), "the factor's diagonal is not positive"),
                ]
            }
            Self::Reconstruction {} => &[(d == 1, "the error is one column")],
            Self::Nearest { k, scale, points } => {
                let (n, rest) = (points.len() / d, points.len() % d);
                &[
                    (points.len() <= MAX_POINT_VALUES, "more than 4096 numbers"),
                    (rest == 0, "the points are not of one number a column"),
                    ((1..=MAX_NEIGHBOURS).contains(k), "k is not within 1..=32"),
                    (*k as usize <= n, "there are fewer points than k"),
                    (scale.len() == d, "the scale is not of one number a column"),
                    (scale.iter().all(|s| *s > 0.0), "the scale is not positive"),
                    (finite(points) && finite(scale), "a number is not finite"),
                ]
            }
            Self::Squeezing { squeezed } => {
                &[(squeezed.len() == d, "columns and squeezed ones differ in number")]
            }
        };
        rules.iter().find(|(holds, _)| !holds).map_or(Ok(()), |(_, why)| Err(why))
    }
}
