//! What was seen in a window, as integers.

use headland_monitor::{
    Digest, Field, Level, Reference, Summary, ValuesReference, check_batch, sorted_indices,
};
use headland_sdk::monitor::{Batch, ColumnValues};

/// The monitor's name in its summaries.
pub const NAME: &str = "monitor-quality";

/// Counts up to here are exact in f64.
const MAX_ROWS: u64 = 1 << 53;

/// A feature of the reference, ready to be counted.
pub struct Feature {
    /// The column.
    pub name: String,
    /// What its values are held against.
    pub kind: Kind,
}

/// What a feature's values are held against.
pub enum Kind {
    /// Numbers from the first to the second.
    Numeric(f64, f64),
    /// Categories, in the order of their bytes.
    Categorical(Vec<String>),
}

impl Feature {
    /// The features of a reference.
    pub fn all(reference: &Reference) -> Vec<Self> {
        let feature = |column: &headland_monitor::ColumnReference| Self {
            name: column.name.clone(),
            kind: match &column.values {
                ValuesReference::Numeric(numeric) => Kind::Numeric(numeric.min, numeric.max),
                ValuesReference::Categorical(categorical) => {
                    let names = &categorical.categories;
                    let order = sorted_indices(names.len(), &|a, b| names[a].cmp(&names[b]));
                    Kind::Categorical(order.into_iter().map(|i| names[i].clone()).collect())
                }
            },
        };
        reference.columns.iter().map(feature).collect()
    }

    /// Whether a column has the type that its reference has.
    pub fn is_of_type(&self, values: &ColumnValues) -> bool {
        matches!(
            (&self.kind, values),
            (Kind::Numeric(..), ColumnValues::Numeric(_))
                | (Kind::Categorical(_), ColumnValues::Categorical(_))
        )
    }

    /// The name of one of the feature's fields in a summary.
    pub fn field(&self, what: &str) -> String {
        format!("{}/{what}", self.name)
    }

    /// The name of the field of values that the reference does not allow.
    pub fn beyond(&self) -> &'static str {
        match self.kind {
            Kind::Numeric(..) => "out-of-range",
            Kind::Categorical(_) => "unseen",
        }
    }
}

/// A window's counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    rows: u64,
    incomplete: u64,
    repeats: u64,
    columns: Vec<Counts>,
    /// What the row before the next one held; of no window, so that a repeat
    /// is seen wherever a window ends.
    last: Option<u64>,
}

/// The counts of one column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Counts {
    missing: u64,
    wrong_type: u64,
    beyond: u64,
    level: Level,
}

const NOTHING: Counts = Counts { missing: 0, wrong_type: 0, beyond: 0, level: Level::None };

impl Window {
    /// Nothing seen yet.
    pub fn empty(features: &[Feature]) -> Self {
        Self {
            rows: 0,
            incomplete: 0,
            repeats: 0,
            columns: vec![NOTHING; features.len()],
            last: None,
        }
    }

    /// Begin the next window; gives the one that ended.
    pub fn close(&mut self) -> Self {
        let next = Self {
            last: self.last,
            columns: vec![NOTHING; self.columns.len()],
            ..Self::empty(&[])
        };
        std::mem::replace(self, next)
    }

    /// Count a batch.
    ///
    /// # Errors
    /// What is wrong with it; nothing is counted then.
    pub fn count(&mut self, features: &[Feature], batch: &Batch) -> Result<(), String> {
        let columns = batch.columns.iter().map(|c| match &c.values {
            ColumnValues::Numeric(values) => (c.name.as_str(), values.len()),
            ColumnValues::Categorical(values) => (c.name.as_str(), values.len()),
        });
        let rows = batch.frame_ids.len();
        check_batch(rows, batch.captured_at_ns.len(), columns).map_err(|e| e.to_string())?;
        let total = self.rows.saturating_add(rows as u64);
        if total > MAX_ROWS {
            return Err("the number of rows overflows".to_owned());
        }
        self.rows = total;
        let mut marks = Rows { missing: vec![false; rows], fingerprints: vec![START; rows] };
        for (i, (feature, counts)) in features.iter().zip(&mut self.columns).enumerate() {
            let values = column(batch, i, &feature.name);
            match (&feature.kind, values) {
                (Kind::Numeric(min, max), Some(ColumnValues::Numeric(values))) => {
                    counts.numbers(values, *min, *max, &mut marks);
                }
                (Kind::Categorical(categories), Some(ColumnValues::Categorical(values))) => {
                    counts.categories(values, categories, &mut marks);
                }
                (_, values) => {
                    let count =
                        if values.is_some() { &mut counts.wrong_type } else { &mut counts.missing };
                    *count += rows as u64;
                    marks.missing.fill(true);
                }
            }
        }
        self.incomplete += marks.missing.iter().filter(|missing| **missing).count() as u64;
        for fingerprint in marks.fingerprints {
            self.repeats += u64::from(self.last == Some(fingerprint));
            self.last = Some(fingerprint);
        }
        Ok(())
    }

    /// The window as a summary: every field, also those of nothing, so that
    /// equal streams give equal bytes however they are split.
    pub fn to_summary(&self, features: &[Feature], reference: Digest) -> Summary {
        let mut summary = Summary::empty(NAME, reference);
        summary.rows = self.rows;
        let mut count = |name: String, count: u64| {
            summary.fields.insert(name, Field::Counts(vec![count]));
        };
        count("incomplete".to_owned(), self.incomplete);
        count("repeats".to_owned(), self.repeats);
        for (feature, counts) in features.iter().zip(&self.columns) {
            count(feature.field("missing"), counts.missing);
            count(feature.field("wrong-type"), counts.wrong_type);
            count(feature.field(feature.beyond()), counts.beyond);
        }
        for (feature, counts) in features.iter().zip(&self.columns) {
            if let Kind::Numeric(..) = feature.kind {
                summary.fields.insert(feature.field("level"), Field::Level(counts.level));
            }
        }
        summary
    }

    /// The window that a summary was made from.
    ///
    /// # Errors
    /// That it is none, or lacks a field.
    fn from_summary(
        features: &[Feature],
        reference: Digest,
        summary: &Summary,
    ) -> Result<Self, String> {
        check_summary(features, reference, summary)?;
        let count = |name: String| summary.counts(&name).first().copied().unwrap_or(0);
        let columns = features.iter().map(|feature| Counts {
            missing: count(feature.field("missing")),
            wrong_type: count(feature.field("wrong-type")),
            beyond: count(feature.field(feature.beyond())),
            level: level(summary, feature).unwrap_or(Level::None),
        });
        let window = Self {
            rows: summary.rows,
            incomplete: count("incomplete".to_owned()),
            repeats: count("repeats".to_owned()),
            columns: columns.collect(),
            last: None,
        };
        if window.to_summary(features, reference) != *summary {
            return Err("it lacks some of its fields".to_owned());
        }
        let add_up = window.columns.iter().zip(features).all(|(counts, feature)| {
            let present = counts
                .missing
                .checked_add(counts.wrong_type)
                .and_then(|gone| window.rows.checked_sub(gone));
            let has_level = counts.level != Level::None;
            present.is_some_and(|present| {
                counts.beyond <= present
                    && (matches!(feature.kind, Kind::Categorical(_)) || has_level == (present > 0))
            })
        });
        if !add_up || window.incomplete > window.rows || window.repeats > window.rows {
            return Err("its counts do not add up".to_owned());
        }
        Ok(window)
    }

    /// The state: what the last row held, as a byte that says whether there is
    /// one and eight of a hash, then the summary so far.
    pub fn to_checkpoint(&self, features: &[Feature], reference: Digest) -> Vec<u8> {
        let mut bytes = vec![u8::from(self.last.is_some())];
        bytes.extend(self.last.unwrap_or(0).to_le_bytes());
        bytes.extend(self.to_summary(features, reference).to_bytes());
        bytes
    }

    /// The state that a checkpoint holds.
    ///
    /// # Errors
    /// That it is none of this reference.
    pub fn from_checkpoint(
        features: &[Feature],
        reference: Digest,
        bytes: &[u8],
    ) -> Result<Self, String> {
        let (has_last, rest) = bytes.split_first().ok_or("it is empty")?;
        let (last, summary) = rest.split_first_chunk::<8>().ok_or("it is cut off")?;
        let last = match (has_last, u64::from_le_bytes(*last)) {
            (0, 0) => None,
            (1, last) => Some(last),
            _ => return Err("it does not begin with a row".to_owned()),
        };
        let summary = Summary::parse(summary).map_err(|e| e.to_string())?;
        Ok(Self { last, ..Self::from_summary(features, reference, &summary)? })
    }
}

/// Whether a summary is of this reference, with no field of another name or
/// form. It may lack fields: a privacy filter takes some away.
///
/// # Errors
/// What is wrong with it.
pub fn check_summary(
    features: &[Feature],
    reference: Digest,
    summary: &Summary,
) -> Result<(), String> {
    if summary.by != NAME {
        return Err(format!("it is of `{}`", summary.by));
    }
    summary.is_of(reference).map_err(|e| e.to_string())?;
    let form = Window::empty(features).to_summary(features, reference);
    for (name, field) in &summary.fields {
        let fits = match (form.fields.get(name), field) {
            (Some(Field::Counts(_)), Field::Counts(counts)) => counts.len() == 1,
            (Some(Field::Level(_)), Field::Level(_)) => true,
            _ => false,
        };
        if !fits {
            return Err(format!("its field `{name}` is not of this reference"));
        }
    }
    Ok(())
}

/// Whether a feature has stopped varying; nothing where the summary does not
/// say.
pub fn level(summary: &Summary, feature: &Feature) -> Option<Level> {
    match summary.fields.get(&feature.field("level")) {
        Some(Field::Level(level)) => Some(*level),
        _ => None,
    }
}

/// What is gathered about the rows of a batch, column by column.
struct Rows {
    missing: Vec<bool>,
    fingerprints: Vec<u64>,
}

/// The fingerprint of a row without columns: FNV's offset basis.
const START: u64 = 0xcbf2_9ce4_8422_2325;

impl Rows {
    fn see(&mut self, row: usize, value: u64) {
        let fingerprint = &mut self.fingerprints[row];
        // One round of SplitMix64's finaliser a value: equal rows have equal
        // fingerprints, others differ but once in 2^64.
        let mut z = (*fingerprint ^ value).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z ^= z >> 29;
        *fingerprint = z.wrapping_add(START).rotate_left(23);
    }

    fn miss(&mut self, row: usize) {
        self.missing[row] = true;
        // The bits of a number that no value has: -0 is counted as 0.
        self.see(row, (-0.0f64).to_bits());
    }
}

impl Counts {
    fn numbers(&mut self, values: &[f64], min: f64, max: f64, rows: &mut Rows) {
        for (row, &x) in values.iter().enumerate() {
            if x.is_nan() {
                self.missing += 1;
                rows.miss(row);
                continue;
            }
            self.beyond += u64::from(!(min..=max).contains(&x));
            if self.level != Level::Many {
                self.level = self.level.join(Level::of(x));
            }
            rows.see(row, (x + 0.0).to_bits());
        }
    }

    fn categories(&mut self, values: &[Option<String>], known: &[String], rows: &mut Rows) {
        for (row, value) in values.iter().enumerate() {
            let Some(value) = value else {
                self.missing += 1;
                rows.miss(row);
                continue;
            };
            self.beyond += u64::from(known.binary_search(value).is_err());
            // FNV-1a.
            let hash = value
                .bytes()
                .fold(START, |hash, b| (hash ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
            rows.see(row, hash);
        }
    }
}

/// The column of that name, which is most likely at that place.
pub fn column<'a>(batch: &'a Batch, place: usize, name: &str) -> Option<&'a ColumnValues> {
    let there = batch.columns.get(place).filter(|c| c.name == name);
    there.or_else(|| batch.columns.iter().find(|c| c.name == name)).map(|c| &c.values)
}
