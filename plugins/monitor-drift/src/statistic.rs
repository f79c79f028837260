//! How far apart two distributions are, and how far apart two samples of one
//! distribution come by chance.

use headland_monitor::stats::{
    PSI_FLOOR, chi_square_homogeneity, chi2_upper_quantile, chi2_upper_tail, hellinger,
    jensen_shannon, kolmogorov_upper_quantile, kolmogorov_upper_tail, ks_binned, psi,
    total_variation, wasserstein_binned,
};
use schemars::JsonSchema;

use crate::{config::Thresholds, pool::Pooled};

/// A statistic of two histograms over the same bins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Statistic {
    /// Population stability index.
    Psi,
    /// Jensen-Shannon distance, base 2.
    JensenShannon,
    /// Hellinger distance.
    Hellinger,
    /// Total variation distance.
    TotalVariation,
    /// Wasserstein-1 distance; total variation where categories have no
    /// order.
    Wasserstein,
    /// Kolmogorov-Smirnov statistic at the bins' edges; total variation where
    /// categories have no order.
    KolmogorovSmirnov,
    /// Pearson's chi-squared statistic for two samples.
    ChiSquare,
}

/// What two samples of one distribution are compared with.
#[derive(Debug, Clone, Copy)]
pub struct Noise {
    /// `1/n + 1/m` for windows of exact counts, more for noised ones.
    pub scale: f64,
    /// Degrees of freedom: one less than bins.
    pub degrees: f64,
}

/// # Noise
/// All but one are held against the same event. Let `c` be what
/// `sum((p - q)^2 / q)` of two samples of one distribution exceeds with
/// probability `alpha`: a chi-squared quantile of one degree of freedom less
/// than bins, times `1/n + 1/m`. To second order the PSI is that sum
/// (Yurdakul and Naranjo, Journal of Risk Model Validation 14, 2020), and the
/// squares of the Hellinger distance and of the Jensen-Shannon distance in
/// nats are an eighth of it. By Cauchy and Schwarz, total variation is at most
/// half its root, and the Wasserstein-1 distance at most its root times the
/// standard deviation: a function of Lipschitz constant 1 varies no more than
/// its argument. These two floors are higher than they need be. The
/// Kolmogorov-Smirnov statistic has its own limit distribution, which for
/// binned values is high, too.
impl Statistic {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Psi,
        Self::JensenShannon,
        Self::Hellinger,
        Self::TotalVariation,
        Self::Wasserstein,
        Self::KolmogorovSmirnov,
        Self::ChiSquare,
    ];

    /// What a configuration calls it.
    pub fn key(self) -> &'static str {
        match self {
            Self::Psi => "psi",
            Self::JensenShannon => "jensen-shannon",
            Self::Hellinger => "hellinger",
            Self::TotalVariation => "total-variation",
            Self::Wasserstein => "wasserstein",
            Self::KolmogorovSmirnov => "kolmogorov-smirnov",
            Self::ChiSquare => "chi-square",
        }
    }

    /// The statistic that is meant for a feature of this kind.
    pub fn of(self, has_order: bool) -> Self {
        match self {
            Self::Wasserstein | Self::KolmogorovSmirnov if !has_order => Self::TotalVariation,
            other => other,
        }
    }

    /// Its value for a feature's counts.
    pub fn value(self, counts: &Pooled) -> f64 {
        let Pooled { expected, seen, positions, .. } = counts;
        match self {
            Self::Psi => psi(expected, seen, PSI_FLOOR),
            Self::JensenShannon => jensen_shannon(expected, seen, 2.0),
            Self::Hellinger => hellinger(expected, seen),
            Self::TotalVariation => total_variation(expected, seen),
            Self::Wasserstein => wasserstein_binned(expected, seen, positions),
            Self::KolmogorovSmirnov => ks_binned(expected, seen),
            Self::ChiSquare => chi_square_homogeneity(expected, seen).statistic,
        }
    }

    /// The value from which on it matters; of the chi-squared statistic, whose
    /// value grows with the rows, for counts with `1/n + 1/m` of `sampling`.
    pub fn practical(self, thresholds: &Thresholds, sampling: f64) -> f64 {
        match self {
            Self::Psi => thresholds.psi,
            Self::JensenShannon => thresholds.jensen_shannon,
            Self::Hellinger => thresholds.hellinger,
            Self::TotalVariation => thresholds.total_variation,
            Self::Wasserstein => thresholds.wasserstein,
            Self::KolmogorovSmirnov => thresholds.kolmogorov_smirnov,
            Self::ChiSquare => thresholds.chi_square.powi(2) / sampling,
        }
    }

    /// The probability that two samples of one distribution give `value` or
    /// more; an upper bound for those whose floor is high.
    pub fn p_value(self, value: f64, sampling: f64, noise: Noise) -> f64 {
        if self == Self::KolmogorovSmirnov {
            return kolmogorov_upper_tail(value / noise.scale.sqrt());
        }
        let squares = match self.per_squares(sampling) {
            (factor, true) => value.powi(2) / factor,
            (factor, false) => value / factor,
        };
        chi2_upper_tail(squares / noise.scale, noise.degrees)
    }

    /// What two samples of one distribution exceed with a probability of at
    /// most `alpha`.
    pub fn floor(self, alpha: f64, sampling: f64, noise: Noise) -> f64 {
        if self == Self::KolmogorovSmirnov {
            return kolmogorov_upper_quantile(alpha) * noise.scale.sqrt();
        }
        let squares = chi2_upper_quantile(alpha, noise.degrees) * noise.scale;
        match self.per_squares(sampling) {
            (factor, true) => (squares * factor).sqrt(),
            (factor, false) => squares * factor,
        }
    }

    /// The value, or its square where that is said, over the sum of squares
    /// `sum((p - q)^2 / q)`.
    fn per_squares(self, sampling: f64) -> (f64, bool) {
        match self {
            Self::Psi => (1.0, false),
            Self::JensenShannon => (0.125 / std::f64::consts::LN_2, true),
            Self::Hellinger => (0.125, true),
            Self::TotalVariation => (0.25, true),
            Self::Wasserstein | Self::KolmogorovSmirnov => (1.0, true),
            Self::ChiSquare => (1.0 / sampling, false),
        }
    }

    /// What its value depends on beside the number of bins.
    pub fn parameters(self) -> &'static str {
        match self {
            Self::Psi => ",floor=1e-4,log=natural",
            Self::JensenShannon => ",root=yes,log=2",
            Self::Hellinger | Self::TotalVariation | Self::KolmogorovSmirnov => "",
            Self::Wasserstein => ",order=1,at=reference-bin-means,unit=reference-std",
            Self::ChiSquare => ",test=homogeneity",
        }
    }

    /// What people call it.
    pub fn title(self) -> &'static str {
        match self {
            Self::Psi => "PSI",
            Self::JensenShannon => "Jensen-Shannon distance",
            Self::Hellinger => "Hellinger distance",
            Self::TotalVariation => "total variation",
            Self::Wasserstein => "Wasserstein distance",
            Self::KolmogorovSmirnov => "Kolmogorov-Smirnov statistic",
            Self::ChiSquare => "chi-squared statistic",
        }
    }
}
