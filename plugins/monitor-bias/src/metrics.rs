//! The metrics, as functions of counts.
//!
//! `a` is the advantaged facet, `d` the disadvantaged one. `n` are counts of
//! labels, `n'` of predictions, (1) is positive and (0) negative. A metric
//! with a denominator of nought is undefined.
//!
//! # Source
//! The definitions are those that Amazon SageMaker Clarify documents, in the
//! Developer Guide's "Pre-training Bias Metrics" and "Post-training Data and
//! Model Bias Metrics" (docs.aws.amazon.com/sagemaker/latest/dg, pages
//! `clarify-measure-data-bias` and `clarify-measure-post-training-bias`), for
//! labels that are positive or not. [`Metric`] names the papers.

use crate::counts::{Cells, Counts};

/// A measure of bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metric {
    /// Class imbalance: `(n_a - n_d) / (n_a + n_d)`.
    Ci,
    /// Difference in proportions of labels: `n_a(1)/n_a - n_d(1)/n_d`
    /// (statistical parity: Calders and Verwer, Data Mining and Knowledge
    /// Discovery 21, 2010).
    Dpl,
    /// Kullback-Leibler divergence of the labels of `d` from those of `a`:
    /// `sum(P_a ln(P_a / P_d))`, in nats.
    Kl,
    /// Jensen-Shannon divergence of the labels, in nats; no root is taken
    /// (Lin, IEEE Transactions on Information Theory 37, 1991).
    Js,
    /// The 2-norm of the difference of the labels' distributions.
    Lp,
    /// Total variation distance: half the 1-norm of that difference.
    Tvd,
    /// Kolmogorov-Smirnov: the maximum norm of that difference.
    Ks,
    /// Conditional demographic disparity in labels: `n_d(0)/n(0) -
    /// n_d(1)/n(1)` within each group, weighted by the groups' rows (Wachter,
    /// Mittelstadt and Russell, Computer Law and Security Review 41, 2021).
    /// Groups that lack one of the two labels have no disparity to speak of
    /// and are left out.
    Cddl,
    /// Difference in positive proportions in predicted labels: as `dpl`, of
    /// predictions.
    Dppl,
    /// Disparate impact: `n'_d(1)/n'_d` over `n'_a(1)/n'_a` (Feldman et al.,
    /// KDD 2015; 0.8 is the four-fifths rule of 29 CFR 1607.4).
    Di,
    /// Difference in conditional acceptance: `n_a(1)/n'_a(1) -
    /// n_d(1)/n'_d(1)`.
    Dca,
    /// Difference in conditional rejection: `n_d(0)/n'_d(0) -
    /// n_a(0)/n'_a(0)`.
    Dcr,
    /// Recall difference: `TP_a/n_a(1) - TP_d/n_d(1)` (equality of
    /// opportunity: Hardt, Price and Srebro, NIPS 2016).
    Rd,
    /// Specificity difference: `TN_d/n_d(0) - TN_a/n_a(0)`.
    Sd,
    /// Difference in acceptance rates: `TP_a/n'_a(1) - TP_d/n'_d(1)`.
    Dar,
    /// Difference in rejection rates: `TN_d/n'_d(0) - TN_a/n'_a(0)`.
    Drr,
    /// Accuracy difference: that of `a` less that of `d`.
    Ad,
    /// Conditional demographic disparity in predicted labels: as `cddl`, of
    /// predictions.
    Cddpl,
    /// Treatment equality: `FN_d/FP_d - FN_a/FP_a` (Berk et al., Sociological
    /// Methods and Research 50, 2021).
    Te,
    /// Generalised entropy of order 2 of the benefits `1 + y' - y` of all
    /// rows: `sum((b / mean(b))^2 - 1) / (2 n)` (Speicher et al., KDD 2018).
    Ge,
}

/// What a metric is over.
pub struct Needs {
    /// Labels.
    pub label: bool,
    /// Predictions.
    pub prediction: bool,
    /// Groups.
    pub group: bool,
}

/// A share of rows, by the cells of a facet that are counted: bit
/// `3 * label + prediction`.
#[derive(Clone, Copy)]
pub struct Rate {
    /// The rows that have it.
    pub hits: u16,
    /// The rows that could have it.
    pub of: u16,
    /// What the share is of, for people.
    pub what: &'static str,
    /// Whether the difference is the disadvantaged less the advantaged.
    pub reversed: bool,
}

const TP: u16 = 1 << 0;
const FN: u16 = 1 << 1;
const FP: u16 = 1 << 3;
const TN: u16 = 1 << 4;
const KNOWN: u16 = TP | FN | FP | TN;
const LABEL_POSITIVE: u16 = 0b000_000_111;
const LABEL_NEGATIVE: u16 = 0b000_111_000;
const LABELLED: u16 = LABEL_POSITIVE | LABEL_NEGATIVE;
const PREDICTED_POSITIVE: u16 = 0b001_001_001;
const PREDICTED_NEGATIVE: u16 = 0b010_010_010;
const PREDICTED: u16 = PREDICTED_POSITIVE | PREDICTED_NEGATIVE;
const ALL: u16 = 0b111_111_111;

impl Metric {
    /// All, in the order of the documentation.
    pub const ALL: [Self; 20] = [
        Self::Ci,
        Self::Dpl,
        Self::Kl,
        Self::Js,
        Self::Lp,
        Self::Tvd,
        Self::Ks,
        Self::Cddl,
        Self::Dppl,
        Self::Di,
        Self::Dca,
        Self::Dcr,
        Self::Rd,
        Self::Sd,
        Self::Dar,
        Self::Drr,
        Self::Ad,
        Self::Cddpl,
        Self::Te,
        Self::Ge,
    ];

    /// The metric of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|metric| metric.name() == name)
    }

    /// Its name in configurations and findings.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ci => "ci",
            Self::Dpl => "dpl",
            Self::Kl => "kl",
            Self::Js => "js",
            Self::Lp => "lp",
            Self::Tvd => "tvd",
            Self::Ks => "ks",
            Self::Cddl => "cddl",
            Self::Dppl => "dppl",
            Self::Di => "di",
            Self::Dca => "dca",
            Self::Dcr => "dcr",
            Self::Rd => "rd",
            Self::Sd => "sd",
            Self::Dar => "dar",
            Self::Drr => "drr",
            Self::Ad => "ad",
            Self::Cddpl => "cddpl",
            Self::Te => "te",
            Self::Ge => "ge",
        }
    }

    /// What of its definition its name leaves open.
    pub fn parameters(self) -> &'static str {
        match self {
            Self::Kl => "log=natural,",
            Self::Js => "log=natural,root=none,",
            Self::Lp => "p=2,",
            Self::Ge => "order=2,",
            _ => "",
        }
    }

    /// What it is over.
    pub fn needs(self) -> Needs {
        let of = self.denominator();
        Needs {
            label: of == LABELLED || of & !KNOWN == 0,
            prediction: of == PREDICTED || of & !KNOWN == 0,
            group: matches!(self, Self::Cddl | Self::Cddpl),
        }
    }

    /// The cells of a facet that must not be empty; the metric is over them.
    pub fn denominator(self) -> u16 {
        match self {
            Self::Ci => ALL,
            Self::Dpl | Self::Kl | Self::Js | Self::Lp | Self::Tvd | Self::Ks | Self::Cddl => {
                LABELLED
            }
            Self::Dppl | Self::Di | Self::Cddpl => PREDICTED,
            Self::Dca | Self::Dar => TP | FP,
            Self::Dcr | Self::Drr => TN | FN,
            Self::Rd => TP | FN,
            Self::Sd => TN | FP,
            Self::Te => FP,
            Self::Ad | Self::Ge => KNOWN,
        }
    }

    /// The shares of the two facets that are equal exactly when the metric
    /// finds no bias, for metrics of which there are such.
    pub fn rate(self) -> Option<Rate> {
        let labels = Rate {
            hits: LABEL_POSITIVE,
            of: LABELLED,
            what: "the share of positive labels",
            reversed: false,
        };
        let predictions = Rate {
            hits: PREDICTED_POSITIVE,
            of: PREDICTED,
            what: "the share of positive predictions",
            reversed: false,
        };
        let known = |hits, what, reversed| Rate { hits, of: self.denominator(), what, reversed };
        Some(match self {
            Self::Dpl | Self::Kl | Self::Js | Self::Lp | Self::Tvd | Self::Ks => labels,
            Self::Dppl | Self::Di => predictions,
            Self::Rd => known(TP, "recall", false),
            Self::Sd => known(TN, "specificity", true),
            Self::Dar => known(TP, "precision", false),
            Self::Drr => known(TN, "the share of right ones among negative predictions", true),
            Self::Ad => known(TP | TN, "accuracy", false),
            _ => return None,
        })
    }

    /// The metric of these counts; nothing where it is undefined.
    pub fn value(self, counts: &Counts) -> Option<f64> {
        let [a, d] = [counts.advantaged(), counts.disadvantaged()];
        if let Some(rate) = self.rate() {
            let (p_a, p_d) = (rate.share(a)?, rate.share(d)?);
            return self.of_shares(p_a, p_d, rate.reversed);
        }
        match self {
            Self::Ci => ratio(sum(a, ALL) - sum(d, ALL), sum(a, ALL) + sum(d, ALL)),
            Self::Cddl => counts.disparity(LABEL_POSITIVE, LABEL_NEGATIVE),
            Self::Cddpl => counts.disparity(PREDICTED_POSITIVE, PREDICTED_NEGATIVE),
            Self::Dca => Some(
                ratio(sum(a, TP | FN), sum(a, TP | FP))? - ratio(sum(d, TP | FN), sum(d, TP | FP))?,
            ),
            Self::Dcr => Some(
                ratio(sum(d, TN | FP), sum(d, TN | FN))? - ratio(sum(a, TN | FP), sum(a, TN | FN))?,
            ),
            Self::Te => Some(ratio(sum(d, FN), sum(d, FP))? - ratio(sum(a, FN), sum(a, FP))?),
            Self::Ge => {
                let [twice, none] = [FP, FN].map(|mask| sum(a, mask) + sum(d, mask));
                let rows = sum(a, KNOWN) + sum(d, KNOWN);
                let once = rows - twice - none;
                let mean = ratio(once + 2.0 * twice, rows)?;
                let square = ratio(once + 4.0 * twice, rows)?;
                Some((ratio(square, mean * mean)? - 1.0) / 2.0)
            }
            _ => None,
        }
    }

    /// Those metrics that are functions of one share a facet.
    fn of_shares(self, a: f64, d: f64, reversed: bool) -> Option<f64> {
        let pairs = [(a, d), (1.0 - a, 1.0 - d)];
        Some(match self {
            Self::Di => ratio(d, a)?,
            // Infinite where d lacks a label that a has: undefined.
            Self::Kl => pairs.iter().map(|&(p, q)| relative(p, q)).sum::<Option<f64>>()?,
            Self::Js => {
                let half = |p, q| relative(p, (p + q) / 2.0);
                let sum = |(p, q)| Some(half(p, q)? + half(q, p)?);
                pairs.into_iter().map(sum).sum::<Option<f64>>()? / 2.0
            }
            Self::Lp => pairs.iter().map(|(p, q)| (p - q) * (p - q)).sum::<f64>().sqrt(),
            Self::Tvd => pairs.iter().map(|(p, q)| (p - q).abs()).sum::<f64>() / 2.0,
            Self::Ks => pairs.iter().map(|(p, q)| (p - q).abs()).fold(0.0, f64::max),
            _ if reversed => d - a,
            _ => a - d,
        })
    }
}

impl Rate {
    /// The share of a facet.
    pub fn share(self, facet: &Cells) -> Option<f64> {
        ratio(sum(facet, self.hits), sum(facet, self.of))
    }
}

/// The rows in the cells of a mask.
pub fn sum(facet: &Cells, mask: u16) -> f64 {
    facet.iter().enumerate().filter(|(i, _)| mask >> i & 1 == 1).map(|(_, n)| n).sum()
}

fn ratio(part: f64, whole: f64) -> Option<f64> {
    (whole > 0.0).then(|| part / whole)
}

/// `p ln(p / q)`, with 0 ln 0 = 0; nothing for infinity.
fn relative(p: f64, q: f64) -> Option<f64> {
    match p > 0.0 {
        false => Some(0.0),
        true => (q > 0.0).then(|| p * (p / q).ln()),
    }
}
