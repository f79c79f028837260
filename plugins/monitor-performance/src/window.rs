//! What a window held, as integers that merge exactly.

use headland_monitor::{Digest, Field, Summary, fixed_point};
use headland_sdk::{
    json,
    monitor::{Batch, Column, ColumnValues},
};

use crate::{
    config::{Classification, Config, Event, OTHER, Regression},
    reference::Reference,
};

/// Who counted, in a summary.
pub const NAME: &str = "monitor-performance";

/// Errors are cut to as many units, so that their fourth powers have room.
pub const MAX_ERROR_UNITS: f64 = 32.0;

/// By how much a probability may be above 1: a softmax in f32 may round up.
const MAX_EXCESS: f64 = 1e-6;

/// The counts of a window, or of a batch.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Counted {
    /// Rows.
    pub rows: u64,
    /// Rows without a prediction; they are counted nowhere else.
    pub unpredicted: u64,
    /// Predicted rows without a label.
    pub unlabelled: u64,
    /// Predicted rows without a usable score, where there is one to be had.
    pub unscored: u64,
    /// Predicted and labelled rows, by label and within it by prediction, in
    /// the order of the classes, the class `other` last.
    pub confusion: Vec<u64>,
    /// Rows of the class `other` whose label and prediction are the same.
    pub other_correct: u64,
    /// Rows that the two losses are summed over.
    pub loss_rows: u64,
    /// The log loss and its square, summed in units of 2^-20.
    pub log_loss: [i64; 2],
    /// The Brier score and its square, likewise.
    pub brier: [i64; 2],
    /// By score, in the order of [`Classification::events`].
    pub scores: Vec<ScoreCounts>,
    /// Rows that the errors are summed over.
    pub error_rows: u64,
    /// Those of them whose error was cut.
    pub clipped: u64,
    /// The error (prediction less label), its absolute value, its square and
    /// its fourth power, in the configuration's unit, summed in units of
    /// 2^-20.
    pub errors: [i64; 4],
    /// What the variance of a privacy filter's noise in each count, and in
    /// each sum, does not exceed.
    pub noise: [f64; 2],
}

/// What is counted of a score.
#[derive(Debug, Clone, PartialEq)]
pub struct ScoreCounts {
    /// What it is the probability of.
    pub event: Event,
    /// Labelled rows where it was true, by bins of the score.
    pub trues: Vec<u64>,
    /// Labelled rows where it was not.
    pub falses: Vec<u64>,
    /// Rows without a label.
    pub unlabelled: Vec<u64>,
    /// The score, summed over labelled rows in units of 2^-20, by bins of the
    /// calibration.
    pub sums: Vec<i64>,
    /// The probability that the score stands for, summed over all rows.
    pub expected: Vec<i64>,
    /// Rows whose prediction is the class that the score is of; of all
    /// predictions for [`Event::Correct`].
    pub predicted: u64,
    /// The probability that the score stands for, summed over those.
    pub expected_predicted: i64,
}

enum Slot<'a> {
    Counts(&'a mut [u64]),
    Sums(&'a mut [i64]),
}

impl Counted {
    /// Nothing seen yet.
    pub fn empty(config: &Config) -> Self {
        let Some(classification) = &config.classification else { return Self::default() };
        let classes = classification.classes.len() + 1;
        let bins = classification.score_bins as usize;
        let mut counted = Self { confusion: vec![0; classes * classes], ..Self::default() };
        for event in classification.events() {
            counted.scores.push(ScoreCounts {
                event,
                trues: vec![0; bins],
                falses: vec![0; bins],
                unlabelled: vec![0; bins],
                sums: vec![0; classification.calibration_bins as usize],
                expected: vec![0; bins],
                predicted: 0,
                expected_predicted: 0,
            });
        }
        counted
    }

    /// Rows that have a prediction and a label.
    pub fn labelled(&self) -> u64 {
        self.confusion.iter().fold(self.error_rows, |rows, &n| rows.saturating_add(n))
    }

    /// Every field of a summary, whether anything was counted or not: which
    /// fields there are tells nothing of the rows.
    fn visit(&mut self, config: &Config, visit: &mut dyn FnMut(&str, Slot<'_>)) {
        let one = std::slice::from_mut::<u64>;
        visit("unpredicted", Slot::Counts(one(&mut self.unpredicted)));
        visit("unlabelled", Slot::Counts(one(&mut self.unlabelled)));
        let Some(classification) = &config.classification else {
            visit("errors", Slot::Counts(one(&mut self.error_rows)));
            visit("clipped", Slot::Counts(one(&mut self.clipped)));
            visit("error", Slot::Sums(&mut self.errors));
            return;
        };
        let classes = &classification.classes;
        let names = classes.iter().map(String::as_str).chain([OTHER]);
        for (name, row) in names.zip(self.confusion.chunks_mut(classes.len() + 1)) {
            visit(&format!("confusion/{name}"), Slot::Counts(row));
        }
        visit("other-correct", Slot::Counts(one(&mut self.other_correct)));
        if self.scores.is_empty() {
            return;
        }
        visit("unscored", Slot::Counts(one(&mut self.unscored)));
        if !matches!(self.scores[..], [ScoreCounts { event: Event::Correct, .. }]) {
            visit("losses", Slot::Counts(one(&mut self.loss_rows)));
            visit("log-loss", Slot::Sums(&mut self.log_loss));
            visit("brier", Slot::Sums(&mut self.brier));
        }
        for score in &mut self.scores {
            let mut name = match classification.name(score.event.class()) {
                Some(class) => format!("score/{class}"),
                None => "confidence".to_owned(),
            };
            let of = name.len();
            let name = &mut name;
            visit(part(name, of, "/true"), Slot::Counts(&mut score.trues));
            visit(part(name, of, "/false"), Slot::Counts(&mut score.falses));
            visit(part(name, of, "/unlabelled"), Slot::Counts(&mut score.unlabelled));
            visit(part(name, of, "/sum"), Slot::Sums(&mut score.sums));
            visit(part(name, of, "/expected"), Slot::Sums(&mut score.expected));
            visit(part(name, of, "/predicted"), Slot::Counts(one(&mut score.predicted)));
            let predicted = std::slice::from_mut(&mut score.expected_predicted);
            visit(part(name, of, "/expected-predicted"), Slot::Sums(predicted));
        }
    }

    /// The summary that says this.
    pub fn into_summary(mut self, config: &Config, reference: Digest) -> Summary {
        let mut summary = Summary { rows: self.rows, ..Summary::empty(NAME, reference) };
        self.visit(config, &mut |name, slot| {
            let field = match slot {
                Slot::Counts(counts) => Field::Counts(counts.to_vec()),
                Slot::Sums(sums) => Field::Sums(sums.to_vec()),
            };
            summary.fields.insert(name.to_owned(), field);
        });
        summary
    }

    /// What a summary says under a configuration.
    ///
    /// # Errors
    /// That it was not counted under that configuration: a field too many or
    /// in another form. A field that is not there counted nothing.
    pub fn of(config: &Config, summary: &Summary) -> Result<Self, String> {
        let mut counted = Self::empty(config);
        for (name, field) in &summary.fields {
            let kind = usize::from(matches!(field, Field::NoisedSums(_)));
            counted.noise[kind] = counted.noise[kind].max(summary.noise_variance(name));
        }
        let summary = summary.settled();
        counted.rows = summary.rows;
        let mut known = 0;
        let mut problem = None;
        counted.visit(config, &mut |name, slot| {
            let Some(field) = summary.fields.get(name) else { return };
            known += 1;
            match (slot, field) {
                (Slot::Counts(to), Field::Counts(from)) if to.len() == from.len() => {
                    to.copy_from_slice(from);
                }
                (Slot::Sums(to), Field::Sums(from)) if to.len() == from.len() => {
                    to.copy_from_slice(from);
                }
                _ => problem = Some(format!("field `{name}` has another form")),
            }
        });
        match problem {
            Some(problem) => Err(problem),
            None if known < summary.fields.len() => {
                Err("has fields that this configuration does not count".to_owned())
            }
            None => Ok(counted),
        }
    }
}

/// The name that begins with the first `of` bytes of `name`.
fn part<'a>(name: &'a mut String, of: usize, part: &str) -> &'a str {
    name.truncate(of);
    name.push_str(part);
    name
}

/// Which of `bins` bins of equal width over 0..=1 a score falls into: bin `i`
/// holds `i / bins <= score < (i + 1) / bins`, the last one 1 as well.
pub fn bin(score: f64, bins: usize) -> usize {
    // Of a number that is not negative, `as` takes the whole part.
    ((score * bins as f64) as usize).min(bins.saturating_sub(1))
}

/// Why a column cannot be read; its rows count as missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Problem {
    /// The batch lacks it.
    Missing,
    /// It holds numbers where names are needed, or the other way round.
    WrongType,
}

/// Counts batches under a configuration and a reference.
pub struct Counter {
    config: Config,
    reference: Reference,
    events: Vec<Event>,
    /// The classes as numbers, for columns of numbers; nothing where one is
    /// none.
    numbers: Option<Vec<f64>>,
}

impl Counter {
    /// For a configuration and a reference that have been checked.
    pub fn new(config: Config, reference: Reference) -> Self {
        let (mut events, mut numbers) = (Vec::new(), Some(Vec::new()));
        if let Some(classification) = &config.classification {
            events = classification.events();
            for class in &classification.classes {
                match (&mut numbers, json::from_str(class)) {
                    (Some(numbers), Ok(number)) => numbers.push(number),
                    _ => numbers = None,
                }
            }
        }
        Self { config, reference, events, numbers }
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// What a batch holds.
    ///
    /// # Errors
    /// A column whose length is not the batch's, a name that is there twice,
    /// or more than fits.
    pub fn count(&self, batch: &Batch) -> Result<Counted, String> {
        check(batch)?;
        let mut counted = Counted::empty(&self.config);
        counted.rows = batch.frame_ids.len() as u64;
        if let Some(classification) = &self.config.classification {
            self.count_classes(classification, batch, &mut counted)?;
        }
        if let Some(regression) = &self.config.regression {
            self.count_errors(regression, batch, &mut counted)?;
        }
        Ok(counted)
    }

    /// The columns that a batch lacks or has in another type. A missing label
    /// is none of them: labels come late.
    pub fn problems(&self, batch: &Batch) -> Vec<(&str, Problem)> {
        let label = self.config.label.as_str();
        let mut problems = Vec::new();
        let mut note = |name, problem: Option<Problem>| match problem {
            Some(Problem::Missing) if name == label => {}
            Some(problem) => problems.push((name, problem)),
            None => {}
        };
        if let Some(classification) = &self.config.classification {
            for name in [classification.prediction.as_str(), label] {
                note(name, self.classes(batch, name, classification).err());
            }
            for name in classification.score_columns() {
                note(name, numbers(batch, name).err());
            }
        }
        if let Some(regression) = &self.config.regression {
            for name in [regression.value.as_str(), label] {
                note(name, numbers(batch, name).err());
            }
        }
        problems
    }

    fn count_classes(
        &self,
        classification: &Classification,
        batch: &Batch,
        counted: &mut Counted,
    ) -> Result<(), String> {
        let other = classification.classes.len();
        let prediction = self.classes(batch, &classification.prediction, classification).ok();
        let label = self.classes(batch, &self.config.label, classification).ok();
        // Of a column that cannot be read, all are missing.
        let mut columns: Vec<&[f64]> = Vec::new();
        for name in classification.score_columns() {
            columns.push(numbers(batch, name).unwrap_or_default());
        }
        let mut given = vec![0.0; columns.len()];
        let mut stands_for = vec![0.0; self.events.len()];
        for row in 0..batch.frame_ids.len() {
            let Some(predicted) = prediction.as_ref().and_then(|p| p.index(row)) else {
                counted.unpredicted += 1;
                continue;
            };
            let labelled = label.as_ref().and_then(|l| l.index(row));
            let is_correct = match (labelled, &prediction, &label) {
                (Some(labelled), Some(p), Some(l)) if labelled == predicted => {
                    labelled < other || p.same(l, row)
                }
                _ => false,
            };
            match labelled {
                Some(labelled) => {
                    counted.confusion[labelled * (other + 1) + predicted] += 1;
                    counted.other_correct += u64::from(is_correct && labelled == other);
                }
                None => counted.unlabelled += 1,
            }
            if self.events.is_empty() {
                continue;
            }
            let mut is_scored = true;
            for (score, column) in given.iter_mut().zip(&columns) {
                *score = column.get(row).copied().unwrap_or(f64::NAN);
                is_scored &= (0.0..=1.0 + MAX_EXCESS).contains(score);
            }
            if !is_scored || !self.orient(classification, predicted, &mut given) {
                counted.unscored += 1;
                continue;
            }
            self.calibrate(classification, &given, &mut stands_for);
            for (i, counts) in counted.scores.iter_mut().enumerate() {
                let (truth, is_predicted) = match counts.event {
                    Event::Class(class) => (labelled.map(|l| l == class), predicted == class),
                    Event::Correct => (labelled.map(|_| is_correct), true),
                };
                counts.count(given[i], stands_for[i], truth, is_predicted)?;
            }
            if let Some(labelled) = labelled {
                counted.count_losses(&self.events, &given, labelled, other)?;
            }
        }
        Ok(())
    }

    /// The confidence of a classifier of two classes, as the probability of
    /// the positive one. Whether that can be said: the prediction must be one
    /// of the two.
    fn orient(&self, classification: &Classification, predicted: usize, given: &mut [f64]) -> bool {
        for score in given.iter_mut() {
            *score = score.min(1.0);
        }
        match (&classification.confidence, &self.events[..], given) {
            (Some(_), [Event::Class(positive)], [score]) => {
                if predicted != *positive {
                    *score = 1.0 - *score;
                }
                predicted < classification.classes.len()
            }
            _ => true,
        }
    }

    /// The probabilities that scores stand for: by the reference's
    /// calibration, and those of all classes made to add up to 1.
    fn calibrate(&self, classification: &Classification, given: &[f64], stands_for: &mut [f64]) {
        for ((event, &score), probability) in self.events.iter().zip(given).zip(&mut *stands_for) {
            let class = classification.name(event.class());
            *probability = self.reference.calibration(class).map_or(score, |c| c.of(score));
        }
        if stands_for.len() == classification.classes.len() {
            let sum: f64 = stands_for.iter().sum();
            let even = 1.0 / stands_for.len() as f64;
            stands_for.iter_mut().for_each(|p| *p = if sum > 0.0 { *p / sum } else { even });
        }
    }

    fn count_errors(
        &self,
        regression: &Regression,
        batch: &Batch,
        counted: &mut Counted,
    ) -> Result<(), String> {
        let values = numbers(batch, &regression.value).ok();
        let labels = numbers(batch, &self.config.label).ok();
        let at = |column: Option<&[f64]>, row: usize| {
            column.and_then(|c| c.get(row)).copied().unwrap_or(f64::NAN)
        };
        for row in 0..batch.frame_ids.len() {
            let (value, label) = (at(values, row), at(labels, row));
            if value.is_nan() {
                counted.unpredicted += 1;
                continue;
            }
            if !label.is_finite() {
                counted.unlabelled += 1;
                continue;
            }
            let error = (value - label) / regression.unit;
            let cut = error.clamp(-MAX_ERROR_UNITS, MAX_ERROR_UNITS);
            counted.error_rows += 1;
            counted.clipped += u64::from(cut != error);
            let powers = [cut, cut.abs(), cut * cut, cut * cut * cut * cut];
            add_all(&mut counted.errors, powers)?;
        }
        Ok(())
    }

    fn classes<'a>(
        &'a self,
        batch: &'a Batch,
        column: &str,
        classification: &'a Classification,
    ) -> Result<Classes<'a>, Problem> {
        let values = values(batch, column)?;
        let numbers = match (values, &self.numbers) {
            (ColumnValues::Numeric(_), None) => return Err(Problem::WrongType),
            (_, numbers) => numbers.as_deref().unwrap_or_default(),
        };
        Ok(Classes { names: &classification.classes, numbers, values })
    }
}

impl Counted {
    fn count_losses(
        &mut self,
        events: &[Event],
        given: &[f64],
        labelled: usize,
        other: usize,
    ) -> Result<(), String> {
        // Of a class's probability against the rest, or of all classes'.
        let (truth, brier) = match (events, given) {
            ([Event::Class(class)], &[score]) => {
                let is_true = labelled == *class;
                let truth = if is_true { score } else { 1.0 - score };
                (truth, (1.0 - truth) * (1.0 - truth))
            }
            ([Event::Correct], _) | ([], _) => return Ok(()),
            // What is not named has no probability.
            _ if labelled == other => return Ok(()),
            _ => {
                let mut brier = 0.0;
                for (class, &score) in given.iter().enumerate() {
                    let off = if class == labelled { 1.0 - score } else { score };
                    brier += off * off;
                }
                (given[labelled], if given.len() == 2 { brier / 2.0 } else { brier })
            }
        };
        let log_loss = -truth.clamp(f64::EPSILON, 1.0 - f64::EPSILON).ln();
        self.loss_rows += 1;
        add_all(&mut self.log_loss, [log_loss, log_loss * log_loss])?;
        add_all(&mut self.brier, [brier, brier * brier])
    }
}

impl ScoreCounts {
    fn count(
        &mut self,
        score: f64,
        probability: f64,
        truth: Option<bool>,
        is_predicted: bool,
    ) -> Result<(), String> {
        let i = bin(score, self.trues.len());
        match truth {
            Some(true) => self.trues[i] += 1,
            Some(false) => self.falses[i] += 1,
            None => self.unlabelled[i] += 1,
        }
        if truth.is_some() {
            let coarse = bin(score, self.sums.len());
            add(&mut self.sums[coarse], score)?;
        }
        add(&mut self.expected[i], probability)?;
        if is_predicted {
            self.predicted += 1;
            add(&mut self.expected_predicted, probability)?;
        }
        Ok(())
    }
}

fn add(sum: &mut i64, value: f64) -> Result<(), String> {
    let longer = fixed_point(value).and_then(|value| sum.checked_add(value));
    *sum = longer.ok_or("a sum overflows")?;
    Ok(())
}

fn add_all<const N: usize>(sums: &mut [i64; N], values: [f64; N]) -> Result<(), String> {
    sums.iter_mut().zip(values).try_for_each(|(sum, value)| add(sum, value))
}

/// What every count relies on.
fn check(batch: &Batch) -> Result<(), String> {
    let rows = batch.frame_ids.len();
    if batch.captured_at_ns.len() != rows {
        return Err("not every frame id has a time of capture".to_owned());
    }
    for (i, Column { name, values }) in batch.columns.iter().enumerate() {
        let has = match values {
            ColumnValues::Numeric(values) => values.len(),
            ColumnValues::Categorical(values) => values.len(),
        };
        if has != rows || batch.columns.iter().take(i).any(|c| c.name == *name) {
            return Err(format!("column `{name}` is there twice, or has not one value a row"));
        }
    }
    Ok(())
}

fn values<'a>(batch: &'a Batch, column: &str) -> Result<&'a ColumnValues, Problem> {
    let found = batch.columns.iter().find(|c| c.name == column);
    found.map(|c| &c.values).ok_or(Problem::Missing)
}

fn numbers<'a>(batch: &'a Batch, column: &str) -> Result<&'a [f64], Problem> {
    match values(batch, column)? {
        ColumnValues::Numeric(values) => Ok(values),
        ColumnValues::Categorical(_) => Err(Problem::WrongType),
    }
}

/// A column of classes.
struct Classes<'a> {
    names: &'a [String],
    numbers: &'a [f64],
    values: &'a ColumnValues,
}

impl Classes<'_> {
    /// Which class the row has, as many as there are for another one; nothing
    /// for none.
    fn index(&self, row: usize) -> Option<usize> {
        let found = match self.values {
            ColumnValues::Numeric(values) => {
                let x = values.get(row).filter(|x| !x.is_nan())?;
                self.numbers.iter().position(|number| number == x)
            }
            ColumnValues::Categorical(values) => {
                let x = values.get(row)?.as_ref()?;
                self.names.iter().position(|name| name == x)
            }
        };
        Some(found.unwrap_or(self.names.len()))
    }

    /// Whether the row has the same value in another column.
    fn same(&self, other: &Self, row: usize) -> bool {
        match (self.values, other.values) {
            (ColumnValues::Numeric(a), ColumnValues::Numeric(b)) => a.get(row) == b.get(row),
            (ColumnValues::Categorical(a), ColumnValues::Categorical(b)) => {
                a.get(row) == b.get(row)
            }
            _ => false,
        }
    }
}
