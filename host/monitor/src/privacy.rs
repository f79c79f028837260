//! What may leave a device, and with how much noise.
//!
//! The filter stands between the monitors and whatever takes their summaries
//! away. It runs in the host, so that no monitor gets around it, and lets out
//! what a policy names: every other field is dropped, and so are smallest and
//! greatest values and constant columns, which tell of single rows.
//!
//! ```text
//! Filter::plan(summary) -> Plan        what may go, and what it costs
//! Ledger::spend(plan)   -> Permit      charged, and the charge stored
//! Permit::release()     -> Release     noise added; the permit is used up
//! ```
//!
//! # What is promised
//! The summaries of one device and one period are (epsilon, delta)-differentially
//! private for one contributor: with or without the rows of one person, machine
//! or source, what leaves the device looks nearly the same, provided that
//!
//! - the contributor adds no more to a field in one window than the rule's
//!   [`max_per_row`](Rule::max_per_row), and to no more fields than its
//!   [`fields_per_row`](Rule::fields_per_row). The filter sees counts and no
//!   rows: it refuses a field that holds more than all rows together may have
//!   given, and takes the rest on the policy's word;
//! - what fields there are, their names and lengths do not depend on the data.
//!   Where they do, because a field is made when first needed, a
//!   [`min_count`](Rule::min_count) with noise hides fields of few rows, but
//!   for a chance that the budget's delta does not count;
//! - rules with the mechanism `none` let out nothing that needs hiding.
//!
//! When a window closed, and of which frames it was, is not the summary's to
//! say; [`Filter::window_ns`] blurs the times that go with it.
//!
//! # Source
//! Dwork, McSherry, Nissim and Smith, "Calibrating Noise to Sensitivity in
//! Private Data Analysis", TCC 2006; the noise after Canonne, Kamath and
//! Steinke, NeurIPS 2020; the Gaussian's accounting after Bun and Steinke, TCC
//! 2016.

mod ledger;
mod response;
mod sample;
mod units;

use serde::{Deserialize, Serialize};

pub use ledger::{Budget, Charged, Ledger, LedgerError, Permit, SpendError};
pub use response::{ResponseError, Responses, estimate_counts};
pub use sample::{Noise, Ratio};
pub use units::{Cost, Delta, Epsilon, MaxPerRow};

use crate::{
    Field, Noised, Summary, SummaryError,
    summary::{FRACTION_BITS, NOISED_ROWS},
};
use sample::Random;
use units::{EPSILON_STEPS, RHO_STEPS};

/// What may leave a device: `[host.privacy]` of a trust policy. Without a rule
/// that names it nothing does.
///
/// ```
/// # use headland_monitor::privacy::{Filter, Policy};
/// let policy: Policy = toml::from_str(r#"
///     round-times-s = 60
///
///     [budget]
///     epsilon = 4.0
///     delta = 1e-6
///     period-hours = 24
///
///     [[rule]]
///     monitor = "monitor-drift"
///     fields = ["rows", "*/bins", "*/missing"]
///     mechanism = "discrete-laplace"
///     epsilon = 0.5
///
///     [[rule]]
///     monitor = "monitor-performance"
///     fields = ["confusion/*"]
///     mechanism = "discrete-gaussian"
///     epsilon = 1.0
///     delta = 1e-6
///     fields-per-row = 1
/// "#)?;
/// let filter = Filter::new(&policy)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct Policy {
    /// The times of a summary's first and last row are widened to multiples
    /// of this many seconds; 0 leaves them as they are.
    pub round_times_s: u32,
    /// What noised releases may cost together. Rules with noise need one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget: Option<Budget>,
    /// What may leave, and how. The first rule that names a field holds.
    #[serde(rename = "rule", skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<Rule>,
}

impl Policy {
    /// Every monitor's counts and sums as they are, and nothing that tells of
    /// single rows: what holds where a host's policy says nothing.
    pub fn counts() -> Self {
        let every = Rule {
            monitor: "*".to_owned(),
            fields: vec!["*".to_owned()],
            mechanism: Mechanism::None,
            epsilon: None,
            delta: None,
            max_per_row: MaxPerRow::default(),
            fields_per_row: None,
            strip: true,
            min_count: 0,
        };
        Self { rules: vec![every], ..Self::default() }
    }
}

/// Lets some fields of some monitors out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Rule {
    /// The monitors, by the name that they count under; `*` stands for any
    /// run of characters. The name is the component's own word, as are its
    /// counts: the signature on its package vouches for both.
    pub monitor: String,
    /// The fields, by name; `*` stands for any run of characters, `/` among
    /// them. The number of rows has the name `rows`; without it a release has
    /// none, and can be merged but hardly evaluated.
    pub fields: Vec<String>,
    /// The noise.
    pub mechanism: Mechanism,
    /// What one release costs: all fields of one summary that the rule lets
    /// out, together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epsilon: Option<Epsilon>,
    /// With Gaussian noise, the delta at which it costs `epsilon`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delta: Option<Delta>,
    /// How much one contributor may add to a field in one window, in the
    /// field's unit: the sizes of what it adds to each element, summed up. 1
    /// where a contributor is a row that is counted once; as many as a source
    /// has rows in a window, where the contributor is the source.
    #[serde(default)]
    pub max_per_row: MaxPerRow,
    /// How many of the rule's fields one contributor may add to. Without it,
    /// all that the summary has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fields_per_row: Option<u32>,
    /// Whether smallest and greatest values and constant columns are dropped
    /// though named. Only a rule without noise may let them out.
    #[serde(default = "yes")]
    pub strip: bool,
    /// Counts below this become 0, after noise; a field of counts of which
    /// nothing is left is dropped. It hides what few rows gave, and is a bias
    /// towards fewer. Without noise it is no proof of anything: a count that is
    /// the difference of two others is still there.
    #[serde(default)]
    pub min_count: u64,
}

fn yes() -> bool {
    true
}

/// How a rule's fields are noised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mechanism {
    /// As they are.
    None,
    /// Discrete Laplace noise: private without a delta.
    DiscreteLaplace,
    /// Discrete Gaussian noise: less of it where many fields leave together.
    DiscreteGaussian,
}

/// Why a policy is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// A number that cannot be meant.
    #[error("{what} is {value}, allowed is {allowed}")]
    OutOfRange {
        /// Which.
        what: &'static str,
        /// The number.
        value: String,
        /// What is allowed.
        allowed: &'static str,
    },
    /// A rule that does not hold together.
    #[error("privacy rule {rule} {why}")]
    Rule {
        /// Which, from 1.
        rule: usize,
        /// What is wrong with it.
        why: &'static str,
    },
}

/// Why a summary is not released. Nothing of it leaves the device then, and
/// neither should this: what is refused depends on the data, without noise.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// Not a summary of this project's form: of what is in it nothing can be
    /// said, and so nothing is let out.
    #[error("a summary in a form of its own cannot pass the privacy filter")]
    Form(#[from] SummaryError),
    /// More rows than the monitor was given.
    #[error("the summary is of {has} rows, the monitor was given {given}")]
    Rows {
        /// Rows by the summary.
        has: u64,
        /// Rows by the host.
        given: u64,
    },
    /// The summary has been through a filter already.
    #[error("field `{0}` has noise already")]
    Noised(String),
    /// A monitor's field of the name that is kept for the number of rows.
    #[error("field `rows` is the filter's own, and monitor `{0}` has one")]
    Reserved(String),
    /// The policy understates what one contributor adds, so that its noise
    /// would hide too little.
    #[error("field `{field}` holds {total}, more than the {allowed} that max-per-row allows")]
    MaxPerRow {
        /// The field.
        field: String,
        /// What it holds, in its own unit.
        total: u128,
        /// What all rows together may give.
        allowed: u128,
    },
    /// A number that noise could carry past the end of i64.
    #[error("field `{0}` overflows")]
    Overflow(String),
    /// Noise that leaves nothing of what it is added to.
    #[error("the noise of field `{0}` has a standard deviation of more than a million")]
    TooWide(String),
}

/// A policy, checked.
#[derive(Debug, Clone)]
pub struct Filter {
    budget: Option<Budget>,
    round_times_s: u32,
    rules: Vec<(Rule, Treatment)>,
}

/// The noise of a rule, and its price.
#[derive(Debug, Clone, Copy)]
enum Treatment {
    Exact,
    Laplace(Epsilon),
    /// Priced by rho alone.
    Gaussian(Cost),
}

impl Treatment {
    fn cost(self) -> Cost {
        match self {
            Self::Exact => Cost::NONE,
            Self::Laplace(epsilon) => Cost::pure(epsilon),
            Self::Gaussian(cost) => cost,
        }
    }

    /// Noise that hides changes of `per_field` in each of `fields` fields;
    /// nothing where there is none, or where it is too wide to be drawn.
    fn noise(self, per_field: u64, fields: u64) -> Option<Noise> {
        let (per_field, fields) = (u128::from(per_field), u128::from(fields));
        match self {
            Self::Exact => None,
            // Each field costs epsilon / fields.
            Self::Laplace(epsilon) => {
                let steps = fields * per_field * u128::from(EPSILON_STEPS);
                Noise::laplace(Ratio::new(steps, epsilon.steps().into())?)
            }
            // Each field costs per_field^2 / (2 variance) = rho / fields.
            Self::Gaussian(Cost { rho, .. }) => {
                let steps = fields * u128::from(RHO_STEPS);
                let steps = steps.checked_mul(per_field * per_field)?;
                Noise::gaussian(Ratio::new(steps, 2 * u128::from(rho))?)
            }
        }
    }
}

impl Filter {
    /// Check a policy.
    ///
    /// # Errors
    /// [`PolicyError`].
    pub fn new(policy: &Policy) -> Result<Self, PolicyError> {
        if policy.budget.is_some_and(|budget| budget.period_hours == 0) {
            let (what, allowed) = ("period-hours", "1 and more");
            return Err(PolicyError::OutOfRange { what, value: "0".to_owned(), allowed });
        }
        let rules = policy.rules.iter().enumerate().map(|(i, rule)| {
            let treatment = rule
                .treatment(policy.budget)
                .map_err(|why| PolicyError::Rule { rule: i + 1, why })?;
            Ok((rule.clone(), treatment))
        });
        Ok(Self {
            budget: policy.budget,
            round_times_s: policy.round_times_s,
            rules: rules.collect::<Result<_, _>>()?,
        })
    }

    /// The budget that a ledger is to hold.
    pub fn budget(&self) -> Option<Budget> {
        self.budget
    }

    /// The times of a summary's first and last row, in nanoseconds since the
    /// Unix epoch, widened as the policy says.
    pub fn window_ns(&self, (first, last): (u64, u64)) -> (u64, u64) {
        let step = u64::from(self.round_times_s) * 1_000_000_000;
        if step == 0 {
            return (first, last);
        }
        (first - first % step, last.checked_next_multiple_of(step).unwrap_or(u64::MAX))
    }

    /// What may leave of a summary, and what that costs. Nothing is drawn and
    /// nothing spent yet.
    ///
    /// `rows` is how many rows the host gave to the monitor for it.
    ///
    /// # Errors
    /// [`FilterError`].
    pub fn plan(&self, summary: &[u8], rows: u64) -> Result<Plan, FilterError> {
        let summary = Summary::parse(summary)?;
        if summary.rows > rows {
            return Err(FilterError::Rows { has: summary.rows, given: rows });
        }
        if summary.fields.contains_key(NOISED_ROWS) {
            return Err(FilterError::Reserved(summary.by));
        }
        let mut plan = Plan {
            exact: Summary::empty(&summary.by, summary.reference),
            noised: Vec::new(),
            cost: Cost::NONE,
            dropped: 0,
            stripped: 0,
        };
        let mut let_out = vec![Vec::new(); self.rules.len()];
        let row_count = (NOISED_ROWS.to_owned(), Field::Counts(vec![summary.rows]));
        for (name, field) in summary.fields.into_iter().chain([row_count]) {
            let rule = self.rules.iter().position(|(rule, _)| rule.names(&summary.by, &name));
            let Some(rule) = rule else {
                plan.dropped += 1;
                continue;
            };
            match field {
                Field::NoisedCounts(_) | Field::NoisedSums(_) => {
                    return Err(FilterError::Noised(name));
                }
                Field::Level(_) | Field::Range { .. } if self.rules[rule].0.strip => {
                    plan.stripped += 1;
                }
                field => let_out[rule].push((name, field)),
            }
        }
        for ((rule, treatment), fields) in self.rules.iter().zip(let_out) {
            plan.add(rule, *treatment, fields, rows)?;
        }
        plan.exact.check()?;
        Ok(plan)
    }
}

impl Rule {
    fn names(&self, monitor: &str, field: &str) -> bool {
        matches(&self.monitor, monitor) && self.fields.iter().any(|f| matches(f, field))
    }

    /// # Errors
    /// What is wrong with the rule.
    fn treatment(&self, budget: Option<Budget>) -> Result<Treatment, &'static str> {
        if self.fields.is_empty() {
            return Err("names no fields");
        }
        if self.fields_per_row == Some(0) {
            return Err("has fields-per-row 0, and then nothing to hide");
        }
        let treatment = match (self.mechanism, self.epsilon, self.delta) {
            (Mechanism::None, None, None) => return Ok(Treatment::Exact),
            (Mechanism::None, ..) => return Err("has an epsilon or delta and no noise"),
            (_, None, _) => return Err("has noise and no epsilon"),
            (Mechanism::DiscreteLaplace, Some(epsilon), None) => Treatment::Laplace(epsilon),
            (Mechanism::DiscreteLaplace, ..) => return Err("has a delta, and Laplace noise none"),
            (Mechanism::DiscreteGaussian, _, None) => {
                return Err("has Gaussian noise and no delta");
            }
            (Mechanism::DiscreteGaussian, Some(epsilon), Some(delta)) => {
                let cost = Cost::concentrated(epsilon, delta);
                Treatment::Gaussian(cost.ok_or("has an epsilon too small for Gaussian noise")?)
            }
        };
        if !self.strip {
            return Err("has noise, which hides no smallest and greatest values: strip them");
        }
        let budget = budget.ok_or("has noise, and the policy no budget")?;
        if !budget.covers(treatment.cost()) {
            return Err("costs more than the whole budget");
        }
        Ok(treatment)
    }
}

/// Whether a pattern, in which `*` stands for any run of characters, is of all
/// of `text`.
fn matches(pattern: &str, text: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut text) = text.strip_prefix(first) else { return false };
    let (middle, last) = rest.rsplit_once('*').unwrap_or(("", rest));
    // The earliest place for each part leaves the most room for the next.
    for part in middle.split('*') {
        match text.split_once(part) {
            Some((_, after)) => text = after,
            None => return false,
        }
    }
    text.ends_with(last)
}

/// What may leave of a summary. It costs; [`Ledger::spend`] makes a permit of
/// it.
#[derive(Debug, Clone)]
pub struct Plan {
    exact: Summary,
    noised: Vec<(String, NoisedField)>,
    cost: Cost,
    dropped: u64,
    stripped: u64,
}

#[derive(Debug, Clone)]
struct NoisedField {
    noise: Noise,
    /// Bound of the noise's variance, as [`Noised::variance`].
    variance: u64,
    /// Elements below become 0; of counts alone.
    min_count: u64,
    sums: bool,
    values: Vec<i64>,
}

impl Charged for Plan {
    fn cost(&self) -> Cost {
        self.cost
    }
}

impl Plan {
    /// How many fields no rule names; the number of rows is one.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    fn add(
        &mut self,
        rule: &Rule,
        treatment: Treatment,
        fields: Vec<(String, Field)>,
        rows: u64,
    ) -> Result<(), FilterError> {
        let touched = rule.fields_per_row.map_or(fields.len() as u64, u64::from);
        if !fields.is_empty() {
            self.cost = self.cost.and(treatment.cost());
        }
        for (name, field) in fields {
            match treatment {
                Treatment::Exact => self.keep(name, field, rule.min_count),
                _ => {
                    let noised = NoisedField::of(&name, &field, rule, treatment, touched, rows)?;
                    self.noised.push((name, noised));
                }
            }
        }
        Ok(())
    }

    /// Let a field out as it is, but for counts that are too small.
    fn keep(&mut self, name: String, mut field: Field, min_count: u64) {
        if let Field::Counts(counts) = &mut field {
            if name == NOISED_ROWS {
                let rows = counts.first().copied().unwrap_or(0);
                self.exact.rows = if rows < min_count { 0 } else { rows };
                return;
            }
            if suppress(counts, min_count) {
                self.dropped += 1;
                return;
            }
        }
        self.exact.fields.insert(name, field);
    }
}

/// Make counts below `min_count` nought; whether nothing is left, where there
/// is a `min_count` at all.
fn suppress<T: Copy + Default + PartialOrd>(counts: &mut [T], min_count: T) -> bool {
    if min_count == T::default() {
        return false;
    }
    for count in counts.iter_mut().filter(|count| **count < min_count) {
        *count = T::default();
    }
    counts.iter().all(|&count| count == T::default())
}

impl NoisedField {
    /// # Errors
    /// [`FilterError`]: more than the rule allows, or numbers or noise that
    /// are too large.
    fn of(
        name: &str,
        field: &Field,
        rule: &Rule,
        treatment: Treatment,
        touched: u64,
        rows: u64,
    ) -> Result<Self, FilterError> {
        /// Noise below adds to no more than i64 holds.
        const MAX_VALUE: u64 = 1 << 62;
        /// In units of [`Noised::variance`]: millions of devices add up.
        const MAX_VARIANCE: f64 = (1u64 << (2 * 20 + FRACTION_BITS)) as f64;

        let (sizes, per_row): (Vec<u64>, u64) = match field {
            Field::Counts(counts) => (counts.clone(), rule.max_per_row.of_counts()),
            Field::Sums(sums) => {
                // Each element of what a row adds is rounded by itself.
                let rounding = if sums.len() > 1 { sums.len() as u64 } else { 0 };
                let sizes = sums.iter().map(|sum| sum.unsigned_abs()).collect();
                (sizes, rule.max_per_row.of_sums() + rounding)
            }
            // Rules with noise strip what is neither.
            _ => return Err(FilterError::Noised(name.to_owned())),
        };
        let total = sizes.iter().map(|&size| u128::from(size)).sum();
        let allowed = u128::from(rows) * u128::from(per_row);
        if total > allowed {
            return Err(FilterError::MaxPerRow { field: name.to_owned(), total, allowed });
        }
        if sizes.iter().any(|&size| size > MAX_VALUE) {
            return Err(FilterError::Overflow(name.to_owned()));
        }
        let sums = matches!(field, Field::Sums(_));
        let too_wide = || FilterError::TooWide(name.to_owned());
        let noise = treatment.noise(per_row, touched).ok_or_else(too_wide)?;
        let unit = f64::from(1u32 << FRACTION_BITS);
        let of_one = if sums { noise.variance() / unit / unit } else { noise.variance() };
        // Rounded up by more than the arithmetic above can be off.
        let variance = (of_one * unit * (1.0 + 1e-9)).ceil();
        if variance > MAX_VARIANCE {
            return Err(too_wide());
        }
        let values = match field {
            Field::Sums(sums) => sums.clone(),
            _ => sizes.iter().map(|&size| size.cast_signed()).collect(),
        };
        let (variance, min_count) = (variance as u64, if sums { 0 } else { rule.min_count });
        Ok(Self { noise, variance, min_count, sums, values })
    }
}

/// What leaves the device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    /// The summary's bytes.
    pub summary: Vec<u8>,
    /// How many fields it has; 0 when nothing was let out.
    pub fields: u64,
    /// How many fields were dropped: no rule names them, or all counts were
    /// too small.
    pub dropped: u64,
    /// How many fields were dropped for their kind: they tell of single rows.
    pub stripped: u64,
}

impl Permit<Plan> {
    /// Add the noise that has been paid for.
    ///
    /// `source` fills a slice with random bytes of cryptographic quality, the
    /// operating system's: who can guess them can take the noise off again. On
    /// one that says the same for ever a draw need not end.
    ///
    /// # Errors
    /// Those of the source; the permit is used up, and nothing leaves.
    pub fn release<E>(self, source: impl FnMut(&mut [u8]) -> Result<(), E>) -> Result<Release, E> {
        let Plan { exact: mut summary, noised, mut dropped, stripped, .. } = self.into_inner();
        let random = &mut Random::new(source);
        for (name, field) in noised {
            let NoisedField { noise, variance, min_count, sums, mut values } = field;
            for value in &mut values {
                let noised = i128::from(*value) + noise.sample(random)?;
                // Cutting comes after the noise, and so tells nothing; noise
                // that wide does not come.
                *value = noised.clamp(i64::MIN.into(), i64::MAX.into()) as i64;
            }
            let min_count = i64::try_from(min_count).unwrap_or(i64::MAX);
            if suppress(&mut values, min_count) && name != NOISED_ROWS {
                dropped += 1;
                continue;
            }
            let noised = Noised { variance, values };
            let field = if sums { Field::NoisedSums(noised) } else { Field::NoisedCounts(noised) };
            summary.fields.insert(name, field);
        }
        let fields = summary.fields.len() as u64;
        Ok(Release { summary: summary.to_bytes(), fields, dropped, stripped })
    }
}
