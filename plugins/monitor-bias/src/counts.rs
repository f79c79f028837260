//! What was seen: rows by facet, label and prediction, in all and by group.

use std::collections::BTreeMap;

use headland_monitor::{Digest, Field, Summary};
use headland_sdk::{
    json,
    monitor::{Batch, ColumnValues},
};

use crate::{
    config::{Config, Group, OTHER, Split},
    metrics::sum,
};

/// Who counted, in a summary.
pub const NAME: &str = "monitor-bias";

/// Cells of one facet.
const CELLS: usize = 9;

const FACETS: [&str; 2] = ["advantaged", "disadvantaged"];
const OUTCOMES: [&str; 3] = ["positive", "negative", "none"];

/// Rows whose facet is not known.
const FACET_MISSING: &str = "facet-missing";

/// Rows of one facet: by label, and within it by prediction, each positive,
/// negative or none.
pub type Cells = [f64; CELLS];

/// Rows of both facets, the advantaged one first.
pub type Facets = [Cells; 2];

/// The counts of a window. Whole numbers up to 2^53, which f64 holds exactly;
/// with a privacy filter's noise nothing that adds up needs to.
#[derive(Debug, Clone, PartialEq)]
pub struct Counts {
    /// All rows whose facet is known.
    pub all: Facets,
    /// Those of each group of the configuration, and of all others last;
    /// empty without groups.
    pub groups: Vec<Facets>,
    /// What the variance of a privacy filter's noise in each count does not
    /// exceed.
    pub noise_variance: f64,
}

impl Counts {
    /// Those of the advantaged facet.
    pub fn advantaged(&self) -> &Cells {
        &self.all[0]
    }

    /// Those of the disadvantaged facet.
    pub fn disadvantaged(&self) -> &Cells {
        &self.all[1]
    }

    /// Conditional demographic disparity by the outcomes of two masks.
    pub fn disparity(&self, positive: u16, negative: u16) -> Option<f64> {
        let (mut rows, mut weighted) = (0.0, 0.0);
        for [a, d] in &self.groups {
            let [n1, n0] = [positive, negative].map(|mask| sum(a, mask) + sum(d, mask));
            if n1 > 0.0 && n0 > 0.0 {
                rows += n1 + n0;
                weighted += (n1 + n0) * (sum(d, negative) / n0 - sum(d, positive) / n1);
            }
        }
        (rows > 0.0).then(|| weighted / rows)
    }

    /// What a summary says under a configuration.
    ///
    /// # Errors
    /// That it was not counted under that configuration: a field too many or
    /// in another form. A field that is not there counted nothing.
    pub fn of(config: &Config, summary: &Summary) -> Result<Self, String> {
        let noise = summary.fields.keys().map(|name| summary.noise_variance(name));
        let noise_variance = noise.fold(0.0, f64::max);
        let summary = summary.settled();
        let mut counts = Self { all: Facets::default(), groups: Vec::new(), noise_variance };
        let mut known = 0;
        for (facet, cells) in FACETS.iter().zip(&mut counts.all) {
            for (cell, count) in cells.iter_mut().enumerate() {
                let mut one = [0.0];
                known += usize::from(read(&summary, &cell_name(facet, cell), &mut one)?);
                *count = one[0];
            }
        }
        for group in group_names(config) {
            let mut cells = [0.0; 2 * CELLS];
            known += usize::from(read(&summary, &group_name(group), &mut cells)?);
            let (a, d) = cells.split_at(CELLS);
            let mut facets = Facets::default();
            facets[0].copy_from_slice(a);
            facets[1].copy_from_slice(d);
            counts.groups.push(facets);
        }
        known += usize::from(read(&summary, FACET_MISSING, &mut [0.0])?);
        if known < summary.fields.len() {
            return Err("has fields that this configuration does not count".to_owned());
        }
        Ok(counts)
    }
}

fn cell_name(facet: &str, cell: usize) -> String {
    let (label, prediction) = (OUTCOMES[cell / 3], OUTCOMES[cell % 3]);
    format!("counts/{facet}/{label}/{prediction}")
}

fn group_name(group: &str) -> String {
    format!("group/{group}")
}

fn group_names(config: &Config) -> impl Iterator<Item = &str> {
    let named = config.group.iter().flat_map(|group| group.values.iter().map(String::as_str));
    named.chain(config.group.iter().map(|_| OTHER))
}

/// The counts of a field, and whether it is there.
fn read(summary: &Summary, name: &str, counts: &mut [f64]) -> Result<bool, String> {
    match summary.fields.get(name) {
        None => Ok(false),
        Some(Field::Counts(seen)) if seen.len() == counts.len() => {
            counts.iter_mut().zip(seen).for_each(|(to, &from)| *to = from as f64);
            Ok(true)
        }
        Some(_) => Err(format!("field `{name}` has another form")),
    }
}

/// Why a column cannot be read; its rows count as missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Problem {
    /// The batch lacks it.
    Missing,
    /// It holds numbers where names are needed, or the other way round.
    WrongType,
}

/// Counts batches under a configuration.
pub struct Counter {
    facet: Sides,
    label: Option<Sides>,
    prediction: Option<Sides>,
    group: Option<Matcher>,
    names: Vec<String>,
}

impl Counter {
    /// For a configuration that has been checked.
    pub fn new(config: &Config) -> Self {
        Self {
            facet: Sides::new(&config.facet),
            label: config.label.as_ref().map(Sides::new),
            prediction: config.prediction.as_ref().map(Sides::new),
            group: config
                .group
                .as_ref()
                .map(|Group { column, values }| Matcher::new(column, values)),
            names: group_names(config).map(group_name).collect(),
        }
    }

    /// A window with nothing in it. It has every field that a window can
    /// have, so that which fields there are tells nothing of the rows.
    pub fn empty(&self) -> Summary {
        self.summary(0, &[0; 2 * CELLS], 0, &vec![[0; 2 * CELLS]; self.names.len()])
    }

    /// What a batch holds.
    ///
    /// # Errors
    /// A column whose length is not the batch's, or a name that is there
    /// twice.
    pub fn count(&self, batch: &Batch) -> Result<Summary, String> {
        check(batch)?;
        let rows = batch.frame_ids.len();
        let facet = self.facet.over(batch);
        let label = self.label.as_ref().map(|sides| sides.over(batch));
        let prediction = self.prediction.as_ref().map(|sides| sides.over(batch));
        let group = self.group.as_ref().and_then(|group| group.over(batch).ok());
        let mut all = [0; 2 * CELLS];
        let mut groups = vec![[0; 2 * CELLS]; self.names.len()];
        let mut facet_missing = 0;
        for row in 0..rows {
            // The named values are those of the disadvantaged.
            let Some(is_disadvantaged) = facet.is_in(row) else {
                facet_missing += 1;
                continue;
            };
            let outcome = |side: &Option<Side<'_>>| match side.as_ref().and_then(|s| s.is_in(row)) {
                Some(true) => 0,
                Some(false) => 1,
                None => 2,
            };
            let cell =
                usize::from(is_disadvantaged) * CELLS + 3 * outcome(&label) + outcome(&prediction);
            all[cell] += 1;
            if let Some(group) = group.as_ref().and_then(|group| group.index(row)) {
                groups[group][cell] += 1;
            }
        }
        Ok(self.summary(rows as u64, &all, facet_missing, &groups))
    }

    /// The columns that a batch lacks or has in another type. A missing label
    /// is none of them: labels come late.
    pub fn problems(&self, batch: &Batch) -> Vec<(&str, Problem)> {
        let mut problems = Vec::new();
        let sides = [Some(&self.facet), self.prediction.as_ref(), self.label.as_ref()];
        for sides in sides.into_iter().flatten() {
            if let Side::None(problem) = sides.over(batch) {
                problems.push((sides.column(), problem));
            }
        }
        if let Some(group) = &self.group
            && let Err(problem) = group.over(batch)
        {
            problems.push((&group.column, problem));
        }
        let label = self.label.as_ref().map(Sides::column);
        problems.retain(|&(name, problem)| !(problem == Problem::Missing && Some(name) == label));
        problems
    }

    fn summary(
        &self,
        rows: u64,
        all: &[u64; 2 * CELLS],
        facet_missing: u64,
        groups: &[[u64; 2 * CELLS]],
    ) -> Summary {
        let mut fields = BTreeMap::new();
        for (i, &count) in all.iter().enumerate() {
            let name = cell_name(FACETS[i / CELLS], i % CELLS);
            fields.insert(name, Field::Counts(vec![count]));
        }
        for (name, counts) in self.names.iter().zip(groups) {
            fields.insert(name.clone(), Field::Counts(counts.to_vec()));
        }
        fields.insert(FACET_MISSING.to_owned(), Field::Counts(vec![facet_missing]));
        Summary { rows, fields, ..Summary::empty(NAME, Digest::NONE) }
    }
}

/// What every count relies on.
fn check(batch: &Batch) -> Result<(), String> {
    let rows = batch.frame_ids.len();
    if batch.captured_at_ns.len() != rows {
        let times = batch.captured_at_ns.len();
        return Err(format!("{rows} frame ids have {times} times of capture"));
    }
    for (i, column) in batch.columns.iter().enumerate() {
        let has = match &column.values {
            ColumnValues::Numeric(values) => values.len(),
            ColumnValues::Categorical(values) => values.len(),
        };
        if has != rows {
            return Err(format!("column `{}` has {has} rows, the batch {rows}", column.name));
        }
        if batch.columns.iter().take(i).any(|c| c.name == column.name) {
            return Err(format!("column `{}` is there twice", column.name));
        }
    }
    Ok(())
}

fn values<'a>(batch: &'a Batch, column: &str) -> Result<&'a ColumnValues, Problem> {
    let found = batch.columns.iter().find(|c| c.name == column);
    found.map(|c| &c.values).ok_or(Problem::Missing)
}

/// A column that is split in two.
enum Sides {
    Named(Matcher),
    Above(String, f64),
}

impl Sides {
    fn new(split: &Split) -> Self {
        match split.above {
            Some(above) => Self::Above(split.column.clone(), above),
            None => Self::Named(Matcher::new(&split.column, &split.values)),
        }
    }

    fn column(&self) -> &str {
        match self {
            Self::Named(Matcher { column, .. }) | Self::Above(column, _) => column,
        }
    }

    fn over<'a>(&'a self, batch: &'a Batch) -> Side<'a> {
        match self {
            Self::Named(matcher) => match matcher.over(batch) {
                Ok(matched) => Side::Named(matched),
                Err(problem) => Side::None(problem),
            },
            Self::Above(column, above) => match values(batch, column) {
                Ok(ColumnValues::Numeric(values)) => Side::Above(values, *above),
                Ok(ColumnValues::Categorical(_)) => Side::None(Problem::WrongType),
                Err(problem) => Side::None(problem),
            },
        }
    }
}

/// The values of a split column in a batch.
enum Side<'a> {
    Named(Matched<'a>),
    Above(&'a [f64], f64),
    None(Problem),
}

impl Side<'_> {
    /// Whether the row's value is among those meant; nothing for none.
    fn is_in(&self, row: usize) -> Option<bool> {
        match self {
            Self::Named(matched) => matched.index(row).map(|i| i < matched.of.values.len()),
            Self::Above(values, above) => {
                values.get(row).filter(|x| !x.is_nan()).map(|x| x > above)
            }
            Self::None(_) => None,
        }
    }
}

/// Finds a value among the named ones.
struct Matcher {
    column: String,
    values: Vec<String>,
    /// The values as numbers, for a column of numbers; nothing where one is
    /// none.
    numbers: Option<Vec<f64>>,
}

impl Matcher {
    fn new(column: &str, values: &[String]) -> Self {
        let numbers = values.iter().map(|value| json::from_str(value).ok()).collect();
        Self { column: column.to_owned(), values: values.to_vec(), numbers }
    }

    fn over<'a>(&'a self, batch: &'a Batch) -> Result<Matched<'a>, Problem> {
        let values = values(batch, &self.column)?;
        match values {
            ColumnValues::Numeric(_) if self.numbers.is_none() => Err(Problem::WrongType),
            _ => Ok(Matched { of: self, values }),
        }
    }
}

struct Matched<'a> {
    of: &'a Matcher,
    values: &'a ColumnValues,
}

impl Matched<'_> {
    /// Which of the named values the row has, as many as there are for
    /// another one; nothing for none.
    fn index(&self, row: usize) -> Option<usize> {
        let found = match self.values {
            ColumnValues::Numeric(values) => {
                let x = values.get(row).filter(|x| !x.is_nan())?;
                self.of.numbers.as_ref()?.iter().position(|number| number == x)
            }
            ColumnValues::Categorical(values) => {
                let x = values.get(row)?.as_ref()?;
                self.of.values.iter().position(|value| value == x)
            }
        };
        Some(found.unwrap_or(self.of.values.len()))
    }
}
