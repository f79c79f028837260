//! From counts to metrics, each with how far chance may have moved it.

use std::ops::RangeInclusive;

use headland_monitor::from_fixed_point;
use serde::Serialize;

use crate::{
    config::{Config, Event},
    window::{Counted, ScoreCounts},
};

/// A measure of performance.
///
/// # Source
/// The definitions are scikit-learn's, with averages over the classes of the
/// configuration that are labelled or predicted in the window, and 0 for a
/// share of no rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Metric {
    /// The share of predictions that are right.
    Accuracy,
    /// Of a class: the share of its predictions that are right.
    Precision,
    /// Of a class: the share of its labels that are predicted.
    Recall,
    /// Of a class: the harmonic mean of precision and recall.
    F1,
    /// The mean of the classes' precisions.
    MacroPrecision,
    /// The mean of the classes' recalls.
    MacroRecall,
    /// The mean of the classes' F1.
    MacroF1,
    /// The mean of the classes' precisions, weighted by their labels.
    WeightedPrecision,
    /// The mean of the classes' recalls, likewise.
    WeightedRecall,
    /// The mean of the classes' F1, likewise.
    WeightedF1,
    /// Of a class against the rest, or of confidence in right predictions
    /// against that in wrong ones: the area under the receiver operating
    /// characteristic, from bins.
    RocAuc,
    /// The mean of `-ln` of the probability of what was right.
    LogLoss,
    /// The mean squared distance of the probabilities from what was right;
    /// halved for two classes.
    Brier,
    /// Expected calibration error: of a class against the rest (Kull et al.,
    /// NeurIPS 2019), or of confidence (Guo et al., ICML 2017), the mean
    /// distance of scores from frequencies over bins of equal width.
    Ece,
    /// Mean absolute error.
    Mae,
    /// Root of the mean squared error.
    Rmse,
    /// Mean error: prediction less label.
    Bias,
}

impl Metric {
    /// All, in the order of the documentation.
    pub const ALL: [Self; 17] = [
        Self::Accuracy,
        Self::Precision,
        Self::Recall,
        Self::F1,
        Self::MacroPrecision,
        Self::MacroRecall,
        Self::MacroF1,
        Self::WeightedPrecision,
        Self::WeightedRecall,
        Self::WeightedF1,
        Self::RocAuc,
        Self::LogLoss,
        Self::Brier,
        Self::Ece,
        Self::Mae,
        Self::Rmse,
        Self::Bias,
    ];

    /// The metric of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|metric| metric.name() == name)
    }

    /// The values that it may have.
    pub fn range(self) -> RangeInclusive<f64> {
        match self {
            Self::Bias => f64::MIN..=f64::MAX,
            Self::LogLoss | Self::Brier | Self::Mae | Self::Rmse => 0.0..=f64::MAX,
            _ => 0.0..=1.0,
        }
    }

    /// Its name in references and findings.
    pub fn name(self) -> &'static str {
        match self {
            Self::Accuracy => "accuracy",
            Self::Precision => "precision",
            Self::Recall => "recall",
            Self::F1 => "f1",
            Self::MacroPrecision => "macro-precision",
            Self::MacroRecall => "macro-recall",
            Self::MacroF1 => "macro-f1",
            Self::WeightedPrecision => "weighted-precision",
            Self::WeightedRecall => "weighted-recall",
            Self::WeightedF1 => "weighted-f1",
            Self::RocAuc => "roc-auc",
            Self::LogLoss => "log-loss",
            Self::Brier => "brier",
            Self::Ece => "ece",
            Self::Mae => "mae",
            Self::Rmse => "rmse",
            Self::Bias => "bias",
        }
    }

    /// Whether it is between 0 and 1, so that differences are judged as they
    /// are and not as shares of the baseline.
    pub fn is_share(self) -> bool {
        self.is_better_high() || self == Self::Ece
    }

    /// Whether more of it is better.
    pub fn is_better_high(self) -> bool {
        !matches!(
            self,
            Self::LogLoss | Self::Brier | Self::Ece | Self::Mae | Self::Rmse | Self::Bias
        )
    }
}

/// A metric of a window.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    /// Which.
    pub metric: Metric,
    /// The class that it is of, by its index in the configuration.
    pub class: Option<usize>,
    /// Whether it was estimated without labels.
    pub is_estimated: bool,
    /// Its value.
    pub value: f64,
    /// Rows that it was computed from.
    pub rows: u64,
    /// How far chance may move it.
    pub spread: Spread,
    /// How far at most the value is from that without bins, or with sums
    /// that are not rounded.
    pub bound: f64,
    /// The variance that a privacy filter's noise adds, about.
    pub noise: f64,
}

/// How a metric varies from one window of the same process to the next.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Spread {
    /// It is a share of as many rows.
    Share(f64),
    /// It is `2 j / (1 + j)` of a share `j` of as many rows.
    F1(f64),
    /// About normally, with a standard error, around a value that is greater
    /// than the true one by as much.
    Normal {
        /// The standard error.
        error: f64,
        /// The mean excess.
        excess: f64,
    },
}

impl Spread {
    /// How many rows a share is of, 0 for no share.
    pub fn trials(self) -> u64 {
        match self {
            Self::Share(of) | Self::F1(of) => of as u64,
            Self::Normal { .. } => 0,
        }
    }

    /// The standard deviation of a value.
    fn deviation(self, value: f64) -> f64 {
        match self {
            Self::Share(of) => ratio(value * (1.0 - value), of).sqrt(),
            Self::F1(of) => {
                let j = value / (2.0 - value);
                ratio(j * (1.0 - j), of).sqrt() * 2.0 / ((1.0 + j) * (1.0 + j))
            }
            Self::Normal { error, .. } => error,
        }
    }

    /// The standard error, 0 for a share.
    pub fn standard_error(self) -> f64 {
        match self {
            Self::Share(_) | Self::F1(_) => 0.0,
            Self::Normal { error, .. } => error,
        }
    }
}

/// All metrics that a window gives: those that labels say, then those that
/// are estimated without them.
pub fn measure(config: &Config, window: &Counted) -> Vec<Measured> {
    let mut measured = Vec::new();
    if let Some(classification) = &config.classification {
        let classes = classification.classes.len();
        if window.labelled() > 0 {
            Matrix::new(window, classes).measure(&mut measured);
        }
        for score in &window.scores {
            measured.extend(roc_auc(score, window.noise));
            measured.extend(ece(score, window.noise));
        }
        for (metric, sums) in [(Metric::LogLoss, window.log_loss), (Metric::Brier, window.brier)] {
            measured.extend(mean(metric, window.loss_rows, sums, window.noise));
        }
        estimate(window, classes, &mut measured);
    }
    if let Some(regression) = &config.regression {
        errors(window, regression.unit, &mut measured);
    }
    measured
}

/// Half a unit of what sums are rounded to.
const RESOLUTION: f64 = 0.5 / (1u32 << 20) as f64;

fn ratio(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}

fn floats(counts: &[u64]) -> Vec<f64> {
    let mut floats = Vec::new();
    for &count in counts {
        floats.push(count as f64);
    }
    floats
}

fn indicator(is_so: bool) -> f64 {
    f64::from(u8::from(is_so))
}

/// A confusion matrix in floats, which hold the counts exactly.
struct Matrix {
    /// By label, then by prediction; `other` last.
    cells: Vec<f64>,
    /// Classes, with `other`.
    size: usize,
    labels: Vec<f64>,
    predictions: Vec<f64>,
    rows: f64,
    correct: f64,
    noise: f64,
}

/// A class's precision, recall or F1: its right predictions, over the weighted
/// sum of its labels and its predictions, times the weights' sum.
struct Of {
    labels: f64,
    predictions: f64,
    /// Of a class, and averaged without and with the labels as weights.
    metrics: [Metric; 3],
}

const OF_CLASSES: [Of; 3] = [
    Of {
        labels: 0.0,
        predictions: 1.0,
        metrics: [Metric::Precision, Metric::MacroPrecision, Metric::WeightedPrecision],
    },
    Of {
        labels: 1.0,
        predictions: 0.0,
        metrics: [Metric::Recall, Metric::MacroRecall, Metric::WeightedRecall],
    },
    Of {
        labels: 1.0,
        predictions: 1.0,
        metrics: [Metric::F1, Metric::MacroF1, Metric::WeightedF1],
    },
];

impl Of {
    fn weights(&self) -> f64 {
        self.labels + self.predictions
    }

    /// The weighted sum.
    fn whole(&self, labels: f64, predictions: f64) -> f64 {
        self.labels * labels + self.predictions * predictions
    }

    fn value(&self, right: f64, labels: f64, predictions: f64) -> f64 {
        ratio(self.weights() * right, self.whole(labels, predictions))
    }

    /// Of as many rows it is a share, or a function of one.
    fn spread(&self, right: f64, labels: f64, predictions: f64) -> Spread {
        let whole = self.whole(labels, predictions);
        // True and false positives, and false negatives.
        if self.weights() > 1.0 { Spread::F1(whole - right) } else { Spread::Share(whole) }
    }
}

impl Matrix {
    fn new(window: &Counted, classes: usize) -> Self {
        let (cells, size) = (floats(&window.confusion), classes + 1);
        let (mut labels, mut predictions) = (vec![0.0; size], vec![0.0; size]);
        let (mut rows, mut correct) = (0.0, window.other_correct as f64);
        for (i, n) in cells.iter().enumerate() {
            let (label, prediction) = (i / size, i % size);
            labels[label] += n;
            predictions[prediction] += n;
            rows += n;
            if label == prediction && label < classes {
                correct += n;
            }
        }
        Self { cells, size, labels, predictions, rows, correct, noise: window.noise[0] }
    }

    fn measure(&self, measured: &mut Vec<Measured>) {
        // A filter's noise may leave more that is right than there is.
        let accuracy = (self.correct / self.rows).min(1.0);
        let (_, noise) = self
            .variances(|label, prediction| (indicator(label == prediction) - accuracy) / self.rows);
        let rows = Spread::Share(self.rows);
        measured.push(self.measured(Metric::Accuracy, None, accuracy, rows, noise));
        for of in &OF_CLASSES {
            for class in 0..self.size - 1 {
                let [right, labels, predictions] = self.of(class);
                if labels + predictions > 0.0 {
                    let value = of.value(right, labels, predictions);
                    let spread = of.spread(right, labels, predictions);
                    let slope = |label, prediction| self.slope(of, class, label, prediction);
                    let (_, noise) = self.variances(slope);
                    let metric = of.metrics[0];
                    measured.push(self.measured(metric, Some(class), value, spread, noise));
                }
            }
            self.average(of, false, measured);
            self.average(of, true, measured);
        }
    }

    fn measured(
        &self,
        metric: Metric,
        class: Option<usize>,
        value: f64,
        spread: Spread,
        noise: f64,
    ) -> Measured {
        let rows = match spread {
            Spread::Normal { .. } => self.rows as u64,
            share => share.trials(),
        };
        let value = value.min(1.0);
        Measured { metric, class, is_estimated: false, value, rows, spread, bound: 0.0, noise }
    }

    /// A class's right predictions, labels and predictions.
    fn of(&self, class: usize) -> [f64; 3] {
        [self.cells[class * self.size + class], self.labels[class], self.predictions[class]]
    }

    /// By how much a row more of a label and prediction moves a class's
    /// metric.
    fn slope(&self, of: &Of, class: usize, label: usize, prediction: usize) -> f64 {
        let [right, labels, predictions] = self.of(class);
        let (is_label, is_prediction) = (indicator(label == class), indicator(prediction == class));
        let moved = of.weights() * is_label * is_prediction
            - of.value(right, labels, predictions) * of.whole(is_label, is_prediction);
        // Where there is no row yet, one more makes all the difference.
        moved / of.whole(labels, predictions).max(1.0)
    }

    /// The variance of a metric with these slopes over the cells: that of
    /// independent rows, and that of a filter's noise. So that the few rows of
    /// a rare class are no certainty, each class is taken with one right and
    /// one wrong prediction more.
    ///
    /// # Source
    /// The delta method over a multinomial. The metrics do not change when
    /// all counts are multiplied, so that the slopes' mean is 0. One row more
    /// of each kind: Agresti and Caffo, The American Statistician 54 (2000).
    fn variances(&self, slope: impl Fn(usize, usize) -> f64) -> (f64, f64) {
        let wrong = 1.0 / (self.size - 1) as f64;
        let (mut sampling, mut noise) = (0.0, 0.0);
        for (i, n) in self.cells.iter().enumerate() {
            let (label, prediction) = (i / self.size, i % self.size);
            let squared = slope(label, prediction).powi(2);
            sampling += (n + if label == prediction { 1.0 } else { wrong }) * squared;
            noise += self.noise * squared;
        }
        (sampling, noise)
    }

    /// The mean over the classes that are there, weighted by their labels or
    /// not.
    fn average(&self, of: &Of, is_weighted: bool, measured: &mut Vec<Measured>) {
        let (mut values, mut weights) = (vec![0.0; self.size], vec![0.0; self.size]);
        let (mut sum, mut whole) = (0.0, 0.0);
        for class in 0..self.size - 1 {
            let [right, labels, predictions] = self.of(class);
            values[class] = of.value(right, labels, predictions);
            weights[class] =
                if is_weighted { labels } else { indicator(labels + predictions > 0.0) };
            sum += weights[class] * values[class];
            whole += weights[class];
        }
        if whole == 0.0 {
            return;
        }
        let value = sum / whole;
        let (sampling, noise) = self.variances(|label, prediction| {
            // A cell is in the row of one class and in the column of another;
            // `other` has no weight.
            let moved = |class| weights[class] * self.slope(of, class, label, prediction);
            let mut slope = moved(label);
            if prediction != label {
                slope += moved(prediction);
            }
            if is_weighted && label < self.size - 1 {
                slope += values[label] - value;
            }
            slope / whole
        });
        let spread = Spread::Normal { error: sampling.sqrt(), excess: 0.0 };
        let metric = of.metrics[if is_weighted { 2 } else { 1 }];
        measured.push(self.measured(metric, None, value, spread, noise));
    }
}

/// The area under the receiver operating characteristic of two histograms
/// over the same bins.
struct Curve {
    area: f64,
    /// How far at most that is from the area of the values in the bins: those
    /// within a bin count as equal, and each pair of equals as half.
    bound: f64,
    error: f64,
    /// The squared slopes of the area over the counts, summed.
    moved: f64,
}

/// Rows of each kind from which on the area's variance is estimated from them;
/// with fewer, it is taken to be as great as it can be.
const MIN_OF_EACH_KIND: f64 = 20.0;

impl Curve {
    /// # Source
    /// The standard error: DeLong, DeLong and Clarke-Pearson, Biometrics 44
    /// (1988); at most `sqrt(area (1 - area) / rarer)`, after Birnbaum and
    /// Klose, Annals of Mathematical Statistics 28 (1957).
    fn of(trues: &[f64], falses: &[f64]) -> Option<Self> {
        let (t, f) = (trues.iter().sum::<f64>(), falses.iter().sum::<f64>());
        if t <= 0.0 || f <= 0.0 {
            return None;
        }
        let (mut below, mut area, mut ties) = (0.0, 0.0, 0.0);
        for (t, f) in trues.iter().zip(falses) {
            area += t * (below + f / 2.0);
            ties += t * f;
            below += f;
        }
        let area = area / (t * f);
        // Of each row: which share of the other kind it is on the right side
        // of.
        let (mut below, mut above) = (0.0, t);
        let (mut of_trues, mut of_falses, mut moved) = (0.0, 0.0, 0.0);
        for (true_rows, false_rows) in trues.iter().zip(falses) {
            above -= true_rows;
            let from_true = (below + false_rows / 2.0) / f - area;
            let from_false = (above + true_rows / 2.0) / t - area;
            of_trues += true_rows * from_true * from_true;
            of_falses += false_rows * from_false * from_false;
            moved += (from_true / t).powi(2) + (from_false / f).powi(2);
            below += false_rows;
        }
        let rarer = t.min(f);
        let variance = if rarer < MIN_OF_EACH_KIND {
            0.25 / rarer
        } else {
            of_trues / (t * (t - 1.0)) + of_falses / (f * (f - 1.0))
        };
        Some(Self { area, bound: ties / (2.0 * t * f), error: variance.sqrt(), moved })
    }
}

fn roc_auc(score: &ScoreCounts, noise: [f64; 2]) -> Option<Measured> {
    let (trues, falses) = (floats(&score.trues), floats(&score.falses));
    let curve = Curve::of(&trues, &falses)?;
    Some(Measured {
        metric: Metric::RocAuc,
        class: score.event.class(),
        is_estimated: false,
        value: curve.area,
        rows: (trues.iter().sum::<f64>() + falses.iter().sum::<f64>()) as u64,
        spread: Spread::Normal { error: curve.error, excess: 0.0 },
        bound: curve.bound,
        noise: noise[0] * curve.moved,
    })
}

/// Expected calibration error: the mean of each row's distance between label
/// and score, with the sign that its bin's sum has. It is above 0 by chance
/// even where scores are right: the sum in a bin is then about half-normal, and
/// the excess is the sum of their means.
fn ece(score: &ScoreCounts, noise: [f64; 2]) -> Option<Measured> {
    const HALF_NORMAL_MEAN: f64 = 0.797_884_560_802_865_4;
    let (bins, width) = (score.sums.len(), score.trues.len() / score.sums.len().max(1));
    let (mut rows, mut distance, mut excess, mut squares) = (0.0, 0.0, 0.0, 0.0);
    for (i, &sum) in score.sums.iter().enumerate() {
        let (mut t, mut n) = (0.0, 0.0);
        for fine in i * width..(i + 1) * width {
            t += score.trues[fine] as f64;
            n += score.trues[fine] as f64 + score.falses[fine] as f64;
        }
        let sum = from_fixed_point(sum);
        let (mean, p) = (ratio(sum, n), (t + 1.0) / (n + 2.0));
        rows += n;
        distance += (t - sum).abs();
        // Of a count of trues, taken with one row more of each kind.
        excess += (n * p * (1.0 - p)).sqrt() * HALF_NORMAL_MEAN;
        // Of 1 less the score where it was true, and of the score elsewhere.
        squares += t * (1.0 - 2.0 * mean) + n * mean * mean;
    }
    if rows <= 0.0 {
        return None;
    }
    let value = distance / rows;
    let variance = (squares / rows - value * value).max(0.0) / rows;
    let of_filter = noise[0] * (2 * score.trues.len()) as f64 + noise[1] * bins as f64;
    Some(Measured {
        metric: Metric::Ece,
        class: score.event.class(),
        is_estimated: false,
        value,
        rows: rows as u64,
        spread: Spread::Normal { error: variance.sqrt(), excess: excess / rows },
        bound: RESOLUTION,
        noise: of_filter / (rows * rows),
    })
}

/// The mean of what was summed, with the sum of its squares.
fn mean(metric: Metric, rows: u64, [sum, squares]: [i64; 2], noise: [f64; 2]) -> Option<Measured> {
    let n = rows as f64;
    if rows == 0 {
        return None;
    }
    let value = from_fixed_point(sum) / n;
    let variance = (from_fixed_point(squares) / n - value * value).max(0.0);
    Some(Measured {
        metric,
        class: None,
        is_estimated: false,
        value,
        rows,
        spread: Spread::Normal { error: (variance / n).sqrt(), excess: 0.0 },
        bound: RESOLUTION,
        noise: (noise[1] + value * value * noise[0]) / (n * n),
    })
}

/// The errors of a regression, in the labels' own unit.
fn errors(window: &Counted, unit: f64, measured: &mut Vec<Measured>) {
    let [error, absolute, square, fourth] = window.errors;
    let of = [
        (Metric::Mae, [absolute, square]),
        (Metric::Bias, [error, square]),
        (Metric::Rmse, [square, fourth]),
    ];
    for (metric, sums) in of {
        let Some(mut m) = mean(metric, window.error_rows, sums, window.noise) else { continue };
        let mut slope = unit;
        if metric == Metric::Rmse {
            // A root's slope is one over twice the root.
            m.value = m.value.max(0.0).sqrt();
            slope = ratio(unit, 2.0 * m.value);
        }
        m.value *= unit;
        m.spread = Spread::Normal { error: m.spread.standard_error() * slope, excess: 0.0 };
        m.bound *= slope;
        m.noise *= slope * slope;
        measured.push(m);
    }
}

/// Confidence-based performance estimation: what the metrics would be if each
/// prediction were right as often as its score says.
///
/// It holds where scores, after the reference's calibration, are the
/// probabilities that they stand for, on these rows as well; so not where the
/// relation of inputs to labels has changed, of which scores know nothing.
///
/// Spreads are taken as those of shares, which are no narrower: a probability
/// varies less than the 0 or 1 that it is the chance of. An average's is the
/// mean of the classes' standard deviations, which no correlation exceeds.
///
/// # Source
/// NannyML's documentation, "Confidence-based Performance Estimation (CBPE)";
/// with more than two classes, each against the rest.
fn estimate(window: &Counted, classes: usize, measured: &mut Vec<Measured>) {
    let [of_counts, of_sums] = window.noise;
    let mut push = |metric, class, value: f64, spread, rows: f64, bound: f64, noise: f64| {
        measured.push(Measured {
            metric,
            class,
            is_estimated: true,
            value: value.clamp(0.0, 1.0),
            rows: rows as u64,
            spread,
            bound: bound + RESOLUTION,
            noise,
        });
    };
    // Over the classes that are there: how many, and the sums of their metrics
    // and of their standard deviations.
    let (mut there, mut averages) = (0.0, [(0.0, 0.0); 3]);
    // How many predictions are right, of all.
    let (mut rows, mut right_in_all) = (0.0, 0.0);
    for score in &window.scores {
        let bins = score.expected.len();
        let (mut expected, mut rest) = (vec![0.0; bins], vec![0.0; bins]);
        let mut total = 0.0;
        rows = 0.0;
        for (i, &sum) in score.expected.iter().enumerate() {
            let n = score.trues[i] as f64 + score.falses[i] as f64 + score.unlabelled[i] as f64;
            expected[i] = from_fixed_point(sum);
            rest[i] = (n - expected[i]).max(0.0);
            total += expected[i];
            rows += n;
        }
        let class = score.event.class();
        let (predicted, right) =
            (score.predicted as f64, from_fixed_point(score.expected_predicted));
        right_in_all += right;
        if window.scores.len() == 1 && class.is_some() {
            // What is neither expected nor predicted is right, too.
            right_in_all += rows - predicted - (total - right);
        }
        if class.is_some() && predicted + total > 0.0 {
            there += 1.0;
            for (of, (values, deviations)) in OF_CLASSES.iter().zip(&mut averages) {
                let value = of.value(right, total, predicted);
                let spread = of.spread(right, total, predicted);
                let whole = spread.trials() as f64;
                let noise = ratio(of_counts + of_sums * (1 + bins) as f64, whole * whole);
                push(of.metrics[0], class, value, spread, whole, 0.0, noise);
                *values += value;
                *deviations += spread.deviation(value);
            }
        }
        if let Some(curve) = Curve::of(&expected, &rest) {
            let spread = Spread::Normal { error: curve.error, excess: 0.0 };
            let noise = (of_counts + of_sums) * curve.moved;
            push(Metric::RocAuc, class, curve.area, spread, rows, curve.bound, noise);
        }
    }
    if rows <= 0.0 {
        return;
    }
    let noise = (of_counts + of_sums * (1 + classes) as f64) / (rows * rows);
    // One class against the rest says only of two classes which is right.
    let is_of_all = match &window.scores[..] {
        [ScoreCounts { event: Event::Class(_), .. }] => classes == 2,
        _ => true,
    };
    if is_of_all {
        let spread = Spread::Share(rows);
        push(Metric::Accuracy, None, right_in_all / rows, spread, rows, 0.0, noise);
    }
    if window.scores.len() == classes && there > 0.0 {
        for (of, (values, deviations)) in OF_CLASSES.iter().zip(averages) {
            let spread = Spread::Normal { error: deviations / there, excess: 0.0 };
            push(of.metrics[1], None, values / there, spread, rows, 0.0, noise);
        }
    }
}
