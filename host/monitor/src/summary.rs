//! What a window held, as integers that merge exactly.
//!
//! Devices never add floating-point numbers up: counts over the reference's
//! bins, and sums in fixed point, give the same bytes whatever the order and
//! however a stream is split over devices.
//!
//! The canonical form is CBOR (RFC 8949) with core deterministic encoding
//! (section 4.2.1): shortest integers and lengths, map keys in the order of
//! their encoded bytes. Bytes that decode to a summary but are not its
//! canonical form are refused, so that equal summaries have equal digests.
//!
//! ```text
//! {
//!   "v": 1,
//!   "by": "monitor-drift",          the monitor that counted
//!   "rows": 500,
//!   "fields": { name: [kind, ...] },
//!   "reference": h'32 bytes',       SHA-256 of the reference, zeros for none
//! }
//!
//! [0, [n, ...]]      counts: unsigned, added element by element
//! [1, [n, ...]]      sums: signed, in units of 2^-20, added
//! [2, null]          level: no value yet
//! [2, bits]          level: every value has been the f64 of these bits
//! [2, false]         level: values differ
//! [3, [low, high]]   range: smallest and greatest, as order-preserving integers
//! [4, [v, [n, ...]]] counts with noise: signed, added, as is v, see [`Noised`]
//! [5, [v, [n, ...]]] sums with noise: as sums, v as above
//! ```

use std::{collections::BTreeMap, convert::Infallible, fmt};

use minicbor::{Decoder, Encoder, data::Type};
use sha2::{Digest as _, Sha256};

use crate::sorting::sorted_indices;

/// The format's version.
const VERSION: u64 = 1;

/// Counts up to here are exact in f64, and a thousand devices of a row a
/// microsecond do not reach it in a year.
const MAX_ROWS: u64 = 1 << 53;

/// Fields of one summary.
const MAX_FIELDS: usize = 16_384;

/// Elements of one field.
const MAX_ELEMENTS: usize = 65_536;

/// The longest name of a field or monitor, in bytes.
const MAX_NAME_BYTES: usize = 512;

/// Bits after the point in [`Field::Sums`] and in [`Noised::variance`].
pub(crate) const FRACTION_BITS: u32 = 20;

/// The field that holds the rows of summaries whose number of rows has noise;
/// no monitor counts under this name.
pub(crate) const NOISED_ROWS: &str = "rows";

/// A SHA-256 digest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The digest of nothing in particular: of a monitor without a reference.
    pub const NONE: Self = Self([0; 32]);

    /// The digest of a reference; [`Digest::NONE`] of an empty one.
    pub fn of(bytes: &[u8]) -> Self {
        if bytes.is_empty() { Self::NONE } else { Self(Sha256::digest(bytes).into()) }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Whether all values of a column are one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// No value yet.
    None,
    /// All are the f64 of these bits.
    One(u64),
    /// They differ.
    Many,
}

impl Level {
    /// The level of one value. -0 and 0 are one value, and so is every NaN.
    pub fn of(value: f64) -> Self {
        if value.is_nan() {
            Self::One(f64::NAN.to_bits())
        } else {
            Self::One((value + 0.0).to_bits())
        }
    }

    /// Of both: commutative and associative, with `None` as identity.
    #[must_use]
    pub fn join(self, other: Self) -> Self {
        match (self, other) {
            (Self::None, level) | (level, Self::None) => level,
            (Self::One(a), Self::One(b)) if a == b => self,
            _ => Self::Many,
        }
    }

    pub(crate) fn encode(self, e: &mut Encoder<&mut Vec<u8>>) -> Result<(), EncodeError> {
        match self {
            Self::None => e.null()?,
            Self::One(value) => e.u64(value)?,
            Self::Many => e.bool(false)?,
        };
        Ok(())
    }

    pub(crate) fn decode(d: &mut Decoder<'_>) -> Result<Self, minicbor::decode::Error> {
        Ok(match d.datatype()? {
            Type::Null => {
                d.null()?;
                Self::None
            }
            Type::Bool => {
                d.bool()?;
                Self::Many
            }
            _ => Self::One(d.u64()?),
        })
    }
}

/// One thing that was counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Field {
    /// Counts; merged by adding element by element.
    Counts(Vec<u64>),
    /// Sums of numbers in fixed point, see [`fixed_point`]; merged by adding.
    Sums(Vec<i64>),
    /// Whether a column has stopped varying; merged by joining.
    Level(Level),
    /// The smallest and the greatest value seen, by [`Field::range`]; merged
    /// by widening. It tells of single rows, so a privacy filter strips it.
    Range {
        /// The smallest.
        low: i64,
        /// The greatest.
        high: i64,
    },
    /// Counts to which a privacy filter has added noise. They merge with each
    /// other and with exact counts, and are noised then.
    NoisedCounts(Noised),
    /// Sums to which a privacy filter has added noise, in units of 2^-20.
    NoisedSums(Noised),
}

/// Numbers with noise of mean nought.
///
/// They are signed, although a count is not: cut at nought on each device,
/// the noise of many empty bins would add up and not cancel.
/// [`Summary::settled`] cuts once, after all merging.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Noised {
    /// What the variance of each value's noise does not exceed, in squares of
    /// the counted unit (1 for counts, the summed value's own for sums), in
    /// fixed point of 2^-20. Independent noise: merged by adding.
    pub variance: u64,
    /// The values, in the exact field's own unit.
    pub values: Vec<i64>,
}

impl Noised {
    fn of_counts(counts: &[u64]) -> Result<Self, Mismatch> {
        let signed = |&count| i64::try_from(count).map_err(|_| Mismatch::Overflow);
        Ok(Self { variance: 0, values: counts.iter().map(signed).collect::<Result<_, _>>()? })
    }

    fn merge(&mut self, other: &Self) -> Result<(), Mismatch> {
        self.variance = self.variance.checked_add(other.variance).ok_or(Mismatch::Overflow)?;
        add(&mut self.values, &other.values, i64::checked_add)
    }

    fn encode(&self, e: &mut Encoder<&mut Vec<u8>>) -> Result<(), EncodeError> {
        e.array(2)?.u64(self.variance)?.array(self.values.len() as u64)?;
        for &value in &self.values {
            e.i64(value)?;
        }
        Ok(())
    }

    fn decode(d: &mut Decoder<'_>) -> Result<Self, SummaryError> {
        if d.array()? != Some(2) {
            return Err(SummaryError::Malformed("noised numbers are not a pair".to_owned()));
        }
        Ok(Self { variance: d.u64()?, values: elements(d, |d| d.i64())? })
    }
}

/// `a + b`, element by element.
fn add<T: Copy>(
    a: &mut [T],
    b: &[T],
    checked_add: impl Fn(T, T) -> Option<T>,
) -> Result<(), Mismatch> {
    if a.len() != b.len() {
        return Err(Mismatch::Form);
    }
    for (a, b) in a.iter_mut().zip(b) {
        *a = checked_add(*a, *b).ok_or(Mismatch::Overflow)?;
    }
    Ok(())
}

impl Field {
    /// The range of one value that is not NaN.
    pub fn range(value: f64) -> Self {
        let ordered = order(value);
        Self::Range { low: ordered, high: ordered }
    }

    /// The smallest and the greatest value of a range.
    pub fn bounds(&self) -> Option<(f64, f64)> {
        match *self {
            Self::Range { low, high } => Some((unorder(low), unorder(high))),
            _ => None,
        }
    }

    fn merge(&mut self, other: &Self) -> Result<(), Mismatch> {
        // What exact numbers give with noised ones has that noise.
        match (&mut *self, other) {
            (Self::Counts(a), Self::NoisedCounts(b)) => {
                let mut sum = Noised::of_counts(a)?;
                sum.merge(b)?;
                *self = Self::NoisedCounts(sum);
            }
            (Self::NoisedCounts(a), Self::Counts(b)) => a.merge(&Noised::of_counts(b)?)?,
            (Self::Sums(a), Self::NoisedSums(b)) => {
                let mut sum = Noised { variance: 0, values: a.clone() };
                sum.merge(b)?;
                *self = Self::NoisedSums(sum);
            }
            (Self::NoisedSums(a), Self::Sums(b)) => add(&mut a.values, b, i64::checked_add)?,
            (Self::Counts(a), Self::Counts(b)) => add(a, b, u64::checked_add)?,
            (Self::Sums(a), Self::Sums(b)) => add(a, b, i64::checked_add)?,
            (Self::NoisedCounts(a), Self::NoisedCounts(b))
            | (Self::NoisedSums(a), Self::NoisedSums(b)) => a.merge(b)?,
            (Self::Level(a), Self::Level(b)) => *a = a.join(*b),
            (Self::Range { low, high }, Self::Range { low: l, high: h }) => {
                (*low, *high) = ((*low).min(*l), (*high).max(*h));
            }
            _ => return Err(Mismatch::Form),
        }
        Ok(())
    }
}

enum Mismatch {
    Overflow,
    Form,
}

/// `value` in units of 2^-20, rounded to the nearest and cut to what a sum of
/// 2^20 rows has room for; nothing for NaN.
pub fn fixed_point(value: f64) -> Option<i64> {
    const LIMIT: f64 = (1u64 << 42) as f64;
    let scaled = value * f64::from(1u32 << FRACTION_BITS);
    // `as` would cut, too, but at the ends of i64.
    (!value.is_nan()).then(|| scaled.clamp(-LIMIT, LIMIT).round_ties_even() as i64)
}

/// The number that a sum in units of 2^-20 stands for.
pub fn from_fixed_point(sum: i64) -> f64 {
    sum as f64 / f64::from(1u32 << FRACTION_BITS)
}

/// An integer that orders as `value` does (IEEE 754 totalOrder), -0 as 0.
fn order(value: f64) -> i64 {
    let bits = (value + 0.0).to_bits().cast_signed();
    bits ^ ((bits >> 63).cast_unsigned() >> 1).cast_signed()
}

fn unorder(ordered: i64) -> f64 {
    f64::from_bits((ordered ^ ((ordered >> 63).cast_unsigned() >> 1).cast_signed()).cast_unsigned())
}

/// Whether [`order`] gives this for some number that is not NaN.
fn is_order(ordered: i64) -> bool {
    let value = unorder(ordered);
    !value.is_nan() && order(value) == ordered
}

/// Why bytes are no summary, or two summaries do not merge.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SummaryError {
    /// The bytes are not CBOR of this form.
    #[error("no summary: {0}")]
    Malformed(String),
    /// The bytes say the right thing in another than the canonical way.
    #[error("no summary: its CBOR is not in canonical form")]
    NotCanonical,
    /// A version that this code does not know.
    #[error("a summary of version {0}, known is {VERSION}")]
    Version(u64),
    /// Too many, or too long.
    #[error("{what} is {value}, {limit} allowed")]
    TooLarge {
        /// What.
        what: &'static str,
        /// How many.
        value: u64,
        /// How many are allowed.
        limit: u64,
    },
    /// Counted by another monitor.
    #[error("a summary of {ours} and one of {theirs} do not merge")]
    Monitor {
        /// The one monitor.
        ours: String,
        /// The other.
        theirs: String,
    },
    /// Counted over another reference.
    #[error("a summary of reference {ours} and one of {theirs} do not belong together")]
    Reference {
        /// The one reference.
        ours: Digest,
        /// The other.
        theirs: Digest,
    },
    /// A field of both has two kinds or lengths.
    #[error("field `{0}` has another form in the other summary")]
    Form(String),
    /// A count or sum overflows.
    #[error("field `{0}` overflows")]
    Overflow(String),
}

/// What a window held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// The monitor that counted.
    pub by: String,
    /// SHA-256 of the reference that it counted over.
    pub reference: Digest,
    /// Rows seen. A privacy filter takes them out of here, and with noise they
    /// are the [`Field::NoisedCounts`] of name `rows`.
    pub rows: u64,
    /// What was counted, by name.
    pub fields: BTreeMap<String, Field>,
}

impl Summary {
    /// Nothing seen yet: the identity of [`Summary::merge`].
    pub fn empty(by: &str, reference: Digest) -> Self {
        Self { by: by.to_owned(), reference, rows: 0, fields: BTreeMap::new() }
    }

    /// The counts of that name; empty when there are none.
    pub fn counts(&self, name: &str) -> &[u64] {
        match self.fields.get(name) {
            Some(Field::Counts(counts)) => counts,
            _ => &[],
        }
    }

    /// The sums of that name; empty when there are none.
    pub fn sums(&self, name: &str) -> &[i64] {
        match self.fields.get(name) {
            Some(Field::Sums(sums)) => sums,
            _ => &[],
        }
    }

    /// Take what another summary of the same monitor and reference says, too.
    /// Commutative, associative and exact; a field that one of them lacks is
    /// as good as zero.
    ///
    /// # Errors
    /// [`SummaryError`]: another monitor or reference, a field of another
    /// form, a count that overflows. `self` is as it was then.
    pub fn merge(&mut self, other: &Self) -> Result<(), SummaryError> {
        if self.by != other.by {
            return Err(SummaryError::Monitor { ours: self.by.clone(), theirs: other.by.clone() });
        }
        self.is_of(other.reference)?;
        let mut merged = self.clone();
        merged.rows = merged.rows.saturating_add(other.rows);
        for (name, field) in &other.fields {
            match merged.fields.get_mut(name) {
                None => {
                    merged.fields.insert(name.clone(), field.clone());
                }
                Some(ours) => ours.merge(field).map_err(|why| match why {
                    Mismatch::Overflow => SummaryError::Overflow(name.clone()),
                    Mismatch::Form => SummaryError::Form(name.clone()),
                })?,
            }
        }
        merged.check()?;
        *self = merged;
        Ok(())
    }

    /// Whether it was counted over that reference.
    ///
    /// # Errors
    /// [`SummaryError::Reference`].
    pub fn is_of(&self, reference: Digest) -> Result<(), SummaryError> {
        if self.reference == reference {
            return Ok(());
        }
        Err(SummaryError::Reference { ours: self.reference, theirs: reference })
    }

    /// What a noised summary says, as exact fields: noise stays, counts below
    /// nought become nought, and rows are where they belong. To evaluate, not
    /// to merge: cutting at nought is a bias, small once and large when added
    /// up over devices. An exact summary is as it was.
    ///
    /// No equation between fields holds any more: the bins of a column do not
    /// add up to its rows. Whoever evaluates takes a total from the field that
    /// the parts are in, subtracts saturating, and lets [`noise_variance`]
    /// count towards what chance explains.
    ///
    /// [`noise_variance`]: Summary::noise_variance
    #[must_use]
    pub fn settled(&self) -> Self {
        let counts = |noised: &Noised| -> Vec<u64> {
            noised.values.iter().map(|&n| n.max(0).cast_unsigned()).collect()
        };
        let mut settled = Self { rows: self.rows, ..Self::empty(&self.by, self.reference) };
        for (name, field) in &self.fields {
            let field = match field {
                Field::NoisedCounts(rows) if name == NOISED_ROWS => {
                    let noised = rows.values.first().copied().unwrap_or(0);
                    settled.rows = self.rows.saturating_add_signed(noised);
                    continue;
                }
                Field::NoisedCounts(noised) => Field::Counts(counts(noised)),
                Field::NoisedSums(noised) => Field::Sums(noised.values.clone()),
                exact => exact.clone(),
            };
            settled.fields.insert(name.clone(), field);
        }
        settled
    }

    /// What the variance of the noise in each element of a field does not
    /// exceed, in squares of the counted unit; `rows` names the number of
    /// rows. 0 for a field that is exact or not there.
    pub fn noise_variance(&self, name: &str) -> f64 {
        match self.fields.get(name) {
            Some(Field::NoisedCounts(noised) | Field::NoisedSums(noised)) => {
                noised.variance as f64 / f64::from(1u32 << FRACTION_BITS)
            }
            _ => 0.0,
        }
    }

    pub(crate) fn check(&self) -> Result<(), SummaryError> {
        let within = |what, value: u64, limit: u64| {
            if value <= limit { Ok(()) } else { Err(SummaryError::TooLarge { what, value, limit }) }
        };
        within("the number of rows", self.rows, MAX_ROWS)?;
        within("the number of fields", self.fields.len() as u64, MAX_FIELDS as u64)?;
        let names = self.fields.keys().chain([&self.by]);
        let longest = names.map(String::len).max().unwrap_or(0);
        within("the length of a name", longest as u64, MAX_NAME_BYTES as u64)?;
        for field in self.fields.values() {
            let len = match field {
                Field::Counts(counts) => counts.len(),
                Field::Sums(sums) => sums.len(),
                Field::NoisedCounts(noised) | Field::NoisedSums(noised) => noised.values.len(),
                Field::Level(_) | Field::Range { .. } => 1,
            };
            within("the length of a field", len as u64, MAX_ELEMENTS as u64)?;
        }
        Ok(())
    }

    /// The canonical bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        // Writing to a vector cannot fail.
        let _: Result<(), EncodeError> = self.encode(&mut Encoder::new(&mut bytes));
        bytes
    }

    fn encode(&self, e: &mut Encoder<&mut Vec<u8>>) -> Result<(), EncodeError> {
        // Keys by length, then by bytes: the order of their encoded bytes.
        e.map(5)?.str("v")?.u64(VERSION)?;
        e.str("by")?.str(&self.by)?;
        e.str("rows")?.u64(self.rows)?;
        let fields: Vec<(&String, &Field)> = self.fields.iter().collect();
        // They are in the order of their names.
        let order = sorted_indices(fields.len(), &|a, b| fields[a].0.len().cmp(&fields[b].0.len()));
        e.str("fields")?.map(fields.len() as u64)?;
        for (name, field) in order.into_iter().map(|i| fields[i]) {
            e.str(name)?.array(2)?;
            match field {
                Field::Counts(counts) => {
                    e.u8(0)?.array(counts.len() as u64)?;
                    for &count in counts {
                        e.u64(count)?;
                    }
                }
                Field::Sums(sums) => {
                    e.u8(1)?.array(sums.len() as u64)?;
                    for &sum in sums {
                        e.i64(sum)?;
                    }
                }
                Field::Level(level) => {
                    e.u8(2)?;
                    level.encode(e)?;
                }
                Field::Range { low, high } => {
                    e.u8(3)?.array(2)?.i64(*low)?.i64(*high)?;
                }
                Field::NoisedCounts(noised) => noised.encode(e.u8(4)?)?,
                Field::NoisedSums(noised) => noised.encode(e.u8(5)?)?,
            }
        }
        e.str("reference")?.bytes(&self.reference.0)?;
        Ok(())
    }

    /// Read a summary.
    ///
    /// # Errors
    /// [`SummaryError`]: not CBOR of this form and version, not canonical, or
    /// over a limit.
    pub fn parse(bytes: &[u8]) -> Result<Self, SummaryError> {
        let mut d = Decoder::new(bytes);
        let summary = Self::decode(&mut d)?;
        summary.check()?;
        // One comparison holds shortest forms, the order of keys, duplicates
        // and trailing bytes.
        if summary.to_bytes() != bytes {
            return Err(SummaryError::NotCanonical);
        }
        Ok(summary)
    }

    fn decode(d: &mut Decoder<'_>) -> Result<Self, SummaryError> {
        let malformed = |what: &str| SummaryError::Malformed(what.to_owned());
        if d.map()? != Some(5) {
            return Err(malformed("not a map of five"));
        }
        key(d, "v")?;
        match d.u64()? {
            VERSION => {}
            other => return Err(SummaryError::Version(other)),
        }
        key(d, "by")?;
        let by = d.str()?.to_owned();
        key(d, "rows")?;
        let rows = d.u64()?;
        key(d, "fields")?;
        let count = d.map()?.ok_or_else(|| malformed("a map of unknown length"))?;
        if count > MAX_FIELDS as u64 {
            let (what, limit) = ("the number of fields", MAX_FIELDS as u64);
            return Err(SummaryError::TooLarge { what, value: count, limit });
        }
        let mut fields = BTreeMap::new();
        for _ in 0..count {
            let name = d.str()?.to_owned();
            fields.insert(name, field(d)?);
        }
        key(d, "reference")?;
        let reference = d.bytes()?.try_into().map_err(|_| malformed("a digest is 32 bytes"))?;
        Ok(Self { by, reference: Digest(reference), rows, fields })
    }
}

pub(crate) type EncodeError = minicbor::encode::Error<Infallible>;

impl From<minicbor::decode::Error> for SummaryError {
    fn from(_: minicbor::decode::Error) -> Self {
        // Its own message is 3 kB of a component, and says little more.
        Self::Malformed("its CBOR is damaged or of another form".to_owned())
    }
}

fn key(d: &mut Decoder<'_>, wanted: &str) -> Result<(), SummaryError> {
    if d.str()? == wanted {
        return Ok(());
    }
    Err(SummaryError::Malformed(format!("`{wanted}` is not where it belongs")))
}

fn field(d: &mut Decoder<'_>) -> Result<Field, SummaryError> {
    if d.array()? != Some(2) {
        return Err(SummaryError::Malformed("a field is not a pair".to_owned()));
    }
    Ok(match d.u64()? {
        0 => Field::Counts(elements(d, |d| d.u64())?),
        1 => Field::Sums(elements(d, |d| d.i64())?),
        2 => match Level::decode(d)? {
            // One value has one digest: -0 is 0, and one NaN is all of them.
            Level::One(bits) if Level::of(f64::from_bits(bits)) != Level::One(bits) => {
                return Err(SummaryError::NotCanonical);
            }
            level => Field::Level(level),
        },
        3 => {
            let bounds = elements(d, |d| d.i64())?;
            match bounds[..] {
                [low, high] if low <= high && is_order(low) && is_order(high) => {
                    Field::Range { low, high }
                }
                _ => return Err(SummaryError::Malformed("a range is two, rising".to_owned())),
            }
        }
        4 => Field::NoisedCounts(Noised::decode(d)?),
        5 => Field::NoisedSums(Noised::decode(d)?),
        other => return Err(SummaryError::Malformed(format!("a field of unknown kind {other}"))),
    })
}

fn elements<'b, T>(
    d: &mut Decoder<'b>,
    one: impl Fn(&mut Decoder<'b>) -> Result<T, minicbor::decode::Error>,
) -> Result<Vec<T>, SummaryError> {
    let count =
        d.array()?.ok_or_else(|| SummaryError::Malformed("a list of unknown length".to_owned()))?;
    if count > MAX_ELEMENTS as u64 {
        let (what, limit) = ("the length of a field", MAX_ELEMENTS as u64);
        return Err(SummaryError::TooLarge { what, value: count, limit });
    }
    // Not reserved beforehand: the length is the sender's word.
    (0..count).map(|_| Ok(one(d)?)).collect()
}
