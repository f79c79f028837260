//! Operators that go along an axis: reductions, order, accumulation.

use std::{borrow::Cow, cmp::Ordering};

use half::{bf16, f16};
use headland_tensor::DType;
use ndarray::NdFloat;

use super::Op;
use crate::{
    interpreter::{Call, OpError, OpResult, axes, axis},
    value::{Array, Element, Lanes, Scalar, Value, real_type, scalar_type, structural},
};

/// The operator of that name.
///
/// # Source
/// <https://onnx.ai/onnx/operators/>
pub(crate) fn find(name: &str) -> Option<Op> {
    Some(match name {
        "ReduceSum" | "ReduceMean" | "ReduceMax" | "ReduceMin" | "ReduceProd" | "ReduceL1"
        | "ReduceL2" | "ReduceLogSum" | "ReduceLogSumExp" | "ReduceSumSquare" => reduce,
        "ArgMax" | "ArgMin" => arg_extreme,
        "CumSum" | "CumProd" => accumulate,
        "TopK" => top_k,
        "Softmax" | "LogSoftmax" | "Hardmax" => softmax,
        _ => return None,
    })
}

/// A float type to compute in. f16 and bf16 are computed in f32.
pub(super) trait Real: NdFloat + Scalar {
    /// The numbers of an array of any type but text.
    fn read(array: &Array) -> OpResult<Cow<'_, [Self]>>;
    /// An array of floats of type `element`.
    fn write(element: Element, shape: &[usize], values: Vec<Self>) -> OpResult<Array>;
    /// As f64.
    fn wide(self) -> f64;
    /// From f64, rounded once.
    fn narrow(value: f64) -> Self;
}

impl Real for f32 {
    fn read(array: &Array) -> OpResult<Cow<'_, [Self]>> {
        match array.elements() {
            Ok(elements) => Ok(Cow::Borrowed(elements)),
            Err(_) => array.to_f32s().map(Cow::Owned),
        }
    }

    fn write(element: Element, shape: &[usize], values: Vec<Self>) -> OpResult<Array> {
        Array::from_f32s(element, shape, values)
    }

    fn wide(self) -> f64 {
        self.into()
    }

    fn narrow(value: f64) -> Self {
        value as Self
    }
}

impl Real for f64 {
    fn read(array: &Array) -> OpResult<Cow<'_, [Self]>> {
        match array.elements() {
            Ok(elements) => Ok(Cow::Borrowed(elements)),
            Err(_) => array.to_f64s().map(Cow::Owned),
        }
    }

    fn write(element: Element, shape: &[usize], values: Vec<Self>) -> OpResult<Array> {
        Array::from_f64s(element, shape, &values)
    }

    fn wide(self) -> f64 {
        self
    }

    fn narrow(value: f64) -> Self {
        value
    }
}

/// A type of which elements are compared but not computed with.
trait Ordered: Scalar + PartialOrd {
    /// The largest of no elements.
    const LOWEST: Self;
    /// The smallest of no elements.
    const HIGHEST: Self;

    fn is_nan(self) -> bool {
        self.partial_cmp(&self).is_none()
    }

    /// The order of numbers, with NaN as the largest.
    fn order(self, other: Self) -> Ordering {
        self.partial_cmp(&other).unwrap_or_else(|| self.is_nan().cmp(&other.is_nan()))
    }

    /// Whether it is picked rather than `other`: NaN before all numbers.
    fn beats(self, other: Self, largest: bool) -> bool {
        match self.partial_cmp(&other) {
            Some(order) => order == if largest { Ordering::Greater } else { Ordering::Less },
            None => !other.is_nan(),
        }
    }
}

macro_rules! ordered {
    (floats $($f:ident)*, ints $($i:ident)*) => {
        $(impl Ordered for $f {
            const LOWEST: Self = $f::NEG_INFINITY;
            const HIGHEST: Self = $f::INFINITY;
        })*
        $(impl Ordered for $i {
            const LOWEST: Self = $i::MIN;
            const HIGHEST: Self = $i::MAX;
        })*
    };
}
ordered!(floats f16 bf16 f32 f64, ints u8 i8 u16 i16 u32 i32 u64 i64);

/// How many elements a shape has; for a shape without any, where the other
/// sizes may be anything, what is part of it may be too many to count.
pub(super) fn count(shape: &[usize]) -> usize {
    shape.iter().fold(1, |count: usize, &d| count.saturating_mul(d))
}

/// Lines of `len` elements, each `inner` apart, `inner` of them side by side:
/// the middle axis of `[outer, len, inner]`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lines {
    pub len: usize,
    pub inner: usize,
}

impl Lines {
    /// The lines along an axis.
    pub fn along(shape: &[usize], axis: usize) -> Self {
        Self { len: shape[axis], inner: count(&shape[axis + 1..]) }
    }

    /// Give each line to `f`, which may change it.
    pub fn each<T: Copy>(self, data: &mut [T], mut f: impl FnMut(&mut [T])) {
        let Some(&any) = data.first() else { return };
        let Self { len, inner } = self;
        if inner == 1 {
            return data.chunks_exact_mut(len).for_each(f);
        }
        // Side by side, lines share cache lines, so several go at once.
        const TOGETHER: usize = 16;
        let mut lines = vec![any; len * TOGETHER.min(inner)];
        for slab in data.chunks_exact_mut(len * inner) {
            for start in (0..inner).step_by(TOGETHER) {
                let columns = start..inner.min(start + TOGETHER);
                let lines = &mut lines[..len * columns.len()];
                for (at, row) in slab.chunks_exact(inner).enumerate() {
                    for (line, &value) in lines.chunks_exact_mut(len).zip(&row[columns.clone()]) {
                        line[at] = value;
                    }
                }
                lines.chunks_exact_mut(len).for_each(&mut f);
                for (at, row) in slab.chunks_exact_mut(inner).enumerate() {
                    for (line, value) in lines.chunks_exact(len).zip(&mut row[columns.clone()]) {
                        *value = line[at];
                    }
                }
            }
        }
    }
}

/// The sum of what `f` gives for each element, in several lanes, as one would
/// wait for each addition.
pub(super) fn sum<T: Copy>(values: &[T], f: impl Fn(T) -> f64) -> f64 {
    gather(values, 0.0, f, |a, b| a + b)
}

/// What `combine` makes of what `lift` gives for each element, in any order.
fn gather<T: Copy, A: Copy>(
    values: &[T],
    identity: A,
    lift: impl Fn(T) -> A,
    combine: impl Fn(A, A) -> A,
) -> A {
    const WIDTH: usize = 8;
    let mut lanes = [identity; WIDTH];
    let chunks = values.chunks_exact(WIDTH);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, &value) in lanes.iter_mut().zip(chunk) {
            *lane = combine(*lane, lift(value));
        }
    }
    for (lane, &value) in lanes.iter_mut().zip(rest) {
        *lane = combine(*lane, lift(value));
    }
    lanes.into_iter().fold(identity, combine)
}

/// What a reduction goes through: an array whose reduced axes are neighbours,
/// and the shape of the result.
struct Reduction {
    array: Array,
    lines: Lines,
    shape: Vec<usize>,
}

impl Reduction {
    /// Of input 0, over the axes of the attribute or of input 1.
    fn of(call: &Call<'_>) -> OpResult<Self> {
        let array = call.array(0)?;
        let rank = array.rank();
        let wanted = match call.ints("axes") {
            Some(wanted) => wanted.to_vec(),
            None => call.optional(1)?.map(Array::to_i64s).transpose()?.unwrap_or_default(),
        };
        let mut reduced = axes(&wanted, rank)?;
        if reduced.is_empty() && !call.flag("noop_with_empty_axes", false) {
            reduced = (0..rank).collect();
        }
        reduced.sort_unstable();
        let sizes = array.shape();
        let keep = call.flag("keepdims", true);
        let shape = (0..rank).filter_map(|a| match reduced.contains(&a) {
            false => Some(sizes[a]),
            true => keep.then_some(1),
        });
        let shape: Vec<usize> = shape.collect();
        call.reserve(array.element(), &shape)?;
        let (Some(&first), Some(&last)) = (reduced.first(), reduced.last()) else {
            return Ok(Self { array: array.clone(), lines: Lines { len: 1, inner: 1 }, shape });
        };
        if last - first + 1 == reduced.len() {
            let lines =
                Lines { len: count(&sizes[first..=last]), inner: count(&sizes[last + 1..]) };
            return Ok(Self { array: array.clone(), lines, shape });
        }
        let len = reduced.iter().fold(1, |len: usize, &a| len.saturating_mul(sizes[a]));
        let mut order: Vec<usize> = (0..rank).filter(|a| !reduced.contains(a)).collect();
        order.append(&mut reduced);
        Ok(Self { array: permuted(array, &order)?, lines: Lines { len, inner: 1 }, shape })
    }

    /// For each line, what `finish` makes of what `combine` makes of what
    /// `lift` gives for its elements. The functions know which line it is.
    fn fold<T: Copy, A: Copy, R>(
        &self,
        data: &[T],
        identity: A,
        lift: impl Fn(T, usize) -> A,
        combine: impl Fn(A, A) -> A,
        finish: impl Fn(A, usize) -> R,
    ) -> Vec<R> {
        let Lines { len, inner } = self.lines;
        let results = count(&self.shape);
        if data.is_empty() {
            return (0..results).map(|line| finish(identity, line)).collect();
        }
        if inner == 1 {
            let lines = data.chunks_exact(len).enumerate();
            let fold = |(line, values)| {
                finish(gather(values, identity, |value| lift(value, line), &combine), line)
            };
            return lines.map(fold).collect();
        }
        let mut made = Vec::with_capacity(results);
        let mut columns = vec![identity; inner];
        for slab in data.chunks_exact(len * inner) {
            let start = made.len();
            columns.fill(identity);
            for row in slab.chunks_exact(inner) {
                for (at, (column, &value)) in columns.iter_mut().zip(row).enumerate() {
                    *column = combine(*column, lift(value, start + at));
                }
            }
            made.extend(columns.iter().enumerate().map(|(at, &c)| finish(c, start + at)));
        }
        made
    }
}

/// The array with its axes in another order.
pub(super) fn permuted(array: &Array, order: &[usize]) -> OpResult<Array> {
    structural!(&[array], |views| {
        let moved = views[0].view().permuted_axes(order.to_vec());
        Ok::<_, OpError>(moved.as_standard_layout().into_owned())
    })
}

fn reduce(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let reduction = Reduction::of(call)?;
    let Reduction { array, shape, .. } = &reduction;
    let element = array.element();
    let op = call.op();
    let made = if matches!(op, "ReduceMax" | "ReduceMin") {
        let largest = op == "ReduceMax";
        if element == Element::Plain(DType::Bool) {
            // A byte that is no bool has no place here.
            let extremes = extreme(&reduction, array.bools()?, largest);
            let bytes = extremes.into_iter().map(|v: u8| v.min(1)).collect::<Vec<_>>();
            Array::from_lanes(element, shape, Lanes::One(bytes.into()))?
        } else {
            scalar_type!(element, [all] T => {
                Array::new(shape, extreme::<T>(&reduction, array.elements()?, largest))
            })?
        }
    } else if element.is_float() {
        real_type!(element, T => {
            T::write(element, shape, reduce_reals(op, &reduction, &T::read(array)?)?)
        })?
    } else if matches!(op, "ReduceL2" | "ReduceLogSum" | "ReduceLogSumExp") {
        let reals = reduce_reals(op, &reduction, &array.to_f64s()?)?;
        scalar_type!(element, [ints] T => {
            Array::new(shape, reals.into_iter().map(|v| v as T).collect())
        })?
    } else {
        scalar_type!(element, [ints] T => {
            let whole = reduce_whole::<T>(op, &reduction, array.elements()?)?;
            Array::new(shape, whole.into_iter().map(|v| v as T).collect())
        })?
    };
    Ok(vec![made.into()])
}

/// The largest or smallest element of each line; NaN where there is one.
fn extreme<T: Ordered>(reduction: &Reduction, data: &[T], largest: bool) -> Vec<T> {
    let (id, done) = (|value: T, _| value, |value: T, _| value);
    if largest {
        let pick = |a: T, b: T| if b > a || b.is_nan() { b } else { a };
        reduction.fold(data, T::LOWEST, id, pick, done)
    } else {
        let pick = |a: T, b: T| if b < a || b.is_nan() { b } else { a };
        reduction.fold(data, T::HIGHEST, id, pick, done)
    }
}

fn reduce_reals<T: Real>(op: &str, reduction: &Reduction, data: &[T]) -> OpResult<Vec<T>> {
    let plus = |a: f64, b: f64| a + b;
    let sums = |lift: fn(f64) -> f64, finish: fn(f64) -> f64| {
        reduction.fold(data, 0.0, |x, _| lift(x.wide()), plus, |sum, _| T::narrow(finish(sum)))
    };
    Ok(match op {
        "ReduceSum" => sums(|x| x, |sum| sum),
        "ReduceL1" => sums(f64::abs, |sum| sum),
        "ReduceL2" => sums(|x| x * x, f64::sqrt),
        "ReduceSumSquare" => sums(|x| x * x, |sum| sum),
        "ReduceLogSum" => sums(|x| x, f64::ln),
        "ReduceMean" => {
            let len = reduction.lines.len as f64;
            reduction.fold(data, 0.0, |x, _| x.wide(), plus, |sum, _| T::narrow(sum / len))
        }
        "ReduceProd" => reduction.fold(
            data,
            1.0,
            |x, _| x.wide(),
            |a, b| a * b,
            |product, _| T::narrow(product),
        ),
        "ReduceLogSumExp" => {
            // exp of what is at most 0 does not overflow.
            let shift = |top: f64, _| if top.is_finite() { top } else { 0.0 };
            let tops = reduction.fold(data, f64::NEG_INFINITY, |x, _| x.wide(), f64::max, shift);
            let exp = |x: T, line: usize| (x.wide() - tops[line]).exp();
            reduction.fold(data, 0.0, exp, plus, |sum, line| T::narrow(sum.ln() + tops[line]))
        }
        other => return Err(OpError::unsupported(other)),
    })
}

/// Sums and products modulo 2^64, of which the result is the lowest bits, and
/// means.
fn reduce_whole<T: Scalar + Into<i128>>(
    op: &str,
    reduction: &Reduction,
    data: &[T],
) -> OpResult<Vec<u64>> {
    let sums = |lift: fn(i128) -> u64| {
        reduction.fold(data, 0, |x, _| lift(x.into()), u64::wrapping_add, |sum, _| sum)
    };
    Ok(match op {
        "ReduceSum" => sums(|x| x as u64),
        "ReduceL1" => sums(|x| x.unsigned_abs() as u64),
        "ReduceSumSquare" => sums(|x| (x as u64).wrapping_mul(x as u64)),
        "ReduceProd" => {
            reduction.fold(data, 1, |x, _| x.into() as u64, u64::wrapping_mul, |product, _| product)
        }
        "ReduceMean" => {
            let len = reduction.lines.len as i128;
            if len == 0 {
                return Err(OpError::invalid("the mean of no whole numbers"));
            }
            let mean = |sum: i128, _| (sum / len) as u64;
            reduction.fold(data, 0, |x, _| x.into(), i128::wrapping_add, mean)
        }
        other => return Err(OpError::unsupported(other)),
    })
}

fn arg_extreme(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let array = call.array(0)?;
    let along = axis(call.int_or("axis", 0), array.rank())?;
    let mut shape = array.shape().to_vec();
    let lines = Lines::along(&shape, along);
    if call.flag("keepdims", true) {
        shape[along] = 1;
    } else {
        shape.remove(along);
    }
    call.reserve(Element::Plain(DType::I64), &shape)?;
    if array.is_empty() && count(&shape) > 0 {
        return Err(OpError::invalid("the place of the extreme of no elements"));
    }
    let (largest, last) = (call.op() == "ArgMax", call.flag("select_last_index", false));
    let made = scalar_type!(array.element(), [all] T => {
        Ok::<_, OpError>(arg_extremes::<T>(array.elements()?, lines, largest, last))
    })?;
    Ok(vec![Array::new(&shape, made)?.into()])
}

/// Where each line has its extreme; where it has several, the first or last.
fn arg_extremes<T: Ordered>(data: &[T], lines: Lines, largest: bool, last: bool) -> Vec<i64> {
    let mut made = Vec::new();
    if data.is_empty() {
        return made;
    }
    for slab in data.chunks_exact(lines.len * lines.inner) {
        let (first, rest) = slab.split_at(lines.inner);
        let mut best: Vec<(T, i64)> = first.iter().map(|&value| (value, 0)).collect();
        for (row, at) in rest.chunks_exact(lines.inner).zip(1..) {
            for (best, &value) in best.iter_mut().zip(row) {
                let better = match last {
                    false => value.beats(best.0, largest),
                    true => !best.0.beats(value, largest),
                };
                if better {
                    *best = (value, at);
                }
            }
        }
        made.extend(best.iter().map(|best| best.1));
    }
    made
}

/// `CumSum` and `CumProd`.
fn accumulate(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let array = call.array(0)?;
    let along = match call.array(1)?.to_i64s()?[..] {
        [along] => axis(along, array.rank())?,
        ref other => return Err(OpError::invalid(format!("{} axes", other.len()))),
    };
    let lines = Lines::along(array.shape(), along);
    let run = Accumulation {
        lines,
        exclusive: call.flag("exclusive", false),
        reverse: call.flag("reverse", false),
    };
    let sum = call.op() == "CumSum";
    let (element, shape) = (array.element(), array.shape());
    let made = if element.is_float() {
        real_type!(element, T => {
            let data = T::read(array)?.into_owned();
            T::write(element, shape, match sum {
                true => run.over(data, 0.0, |a, b| a + b),
                false => run.over(data, 1.0, |a, b| a * b),
            })
        })?
    } else {
        scalar_type!(element, [ints] T => {
            let data = array.elements::<T>()?.to_vec();
            Array::new(shape, match sum {
                true => run.over(data, 0, T::wrapping_add),
                false => run.over(data, 1, T::wrapping_mul),
            })
        })?
    };
    Ok(vec![made.into()])
}

struct Accumulation {
    lines: Lines,
    /// Whether an element does not count for its own place.
    exclusive: bool,
    /// Whether to begin at the end.
    reverse: bool,
}

impl Accumulation {
    fn over<T: Copy>(&self, mut data: Vec<T>, start: T, combine: impl Fn(T, T) -> T) -> Vec<T> {
        self.lines.each(&mut data, |line| {
            let mut so_far = start;
            let step = |value: &mut T| {
                let next = combine(so_far, *value);
                *value = if self.exclusive { so_far } else { next };
                so_far = next;
            };
            if self.reverse {
                line.iter_mut().rev().for_each(step);
            } else {
                line.iter_mut().for_each(step);
            }
        });
        data
    }
}

fn top_k(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let array = call.array(0)?;
    let along = axis(call.int_or("axis", -1), array.rank())?;
    let wanted = match call.int("k") {
        Some(k) => vec![k],
        None => call.array(1)?.to_i64s()?,
    };
    let mut shape = array.shape().to_vec();
    let lines = Lines::along(&shape, along);
    let k = match wanted[..] {
        [k] => usize::try_from(k).ok().filter(|&k| k <= lines.len),
        _ => None,
    };
    let k = k.ok_or_else(|| OpError::invalid(format!("the best {wanted:?} of {}", lines.len)))?;
    shape[along] = k;
    call.reserve(Element::Plain(DType::I64), &shape)?;
    let largest = call.flag("largest", true);
    let (values, indices) = scalar_type!(array.element(), [all] T => {
        let (values, indices) = best::<T>(array.elements()?, lines, k, largest);
        Ok::<_, OpError>((Array::new(&shape, values)?, Array::new(&shape, indices)?))
    })?;
    Ok(vec![values.into(), indices.into()])
}

/// The `k` best of each line, the best first, and where they are in it; of equal
/// ones the first.
fn best<T: Ordered>(data: &[T], lines: Lines, k: usize, largest: bool) -> (Vec<T>, Vec<i64>) {
    let Lines { len, inner } = lines;
    if data.is_empty() || k == 0 {
        return Default::default();
    }
    let order = |a: &(T, usize), b: &(T, usize)| {
        let order = if largest { b.0.order(a.0) } else { a.0.order(b.0) };
        order.then(a.1.cmp(&b.1))
    };
    let results = data.len() / len * k;
    let (mut values, mut indices) = (data[..1].repeat(results), vec![0; results]);
    let mut line = Vec::with_capacity(len);
    for (from, into) in (0..data.len()).step_by(len * inner).zip((0..).step_by(k * inner)) {
        for column in 0..inner {
            line.clear();
            line.extend((0..len).map(|at| (data[from + at * inner + column], at)));
            if k < len {
                line.select_nth_unstable_by(k, order);
            }
            let line = &mut line[..k];
            line.sort_unstable_by(order);
            for (at, &(value, index)) in line.iter().enumerate() {
                values[into + at * inner + column] = value;
                indices[into + at * inner + column] = index as i64;
            }
        }
    }
    (values, indices)
}

/// `Softmax`, `LogSoftmax` and `Hardmax`. Before operator set 13 a line is all
/// from the axis on.
fn softmax(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let array = call.array(0)?;
    let shape = array.shape();
    let flat = call.opset() < 13;
    let along = axis(call.int_or("axis", if flat { 1 } else { -1 }), shape.len())?;
    let lines = match flat {
        true => Lines { len: count(&shape[along..]), inner: 1 },
        false => Lines::along(shape, along),
    };
    let element = array.element();
    let made = real_type!(element, T => {
        let mut data = T::read(array)?.into_owned();
        lines.each(&mut data, match call.op() {
            "Softmax" => softmax_line::<T>,
            "LogSoftmax" => log_softmax_line::<T>,
            _ => hardmax_line::<T>,
        });
        T::write(element, shape, data)
    })?;
    Ok(vec![made.into()])
}

fn largest<T: Real>(line: &[T]) -> T {
    gather(line, T::neg_infinity(), |value| value, |a, b| if b > a { b } else { a })
}

/// `exp` of each, over the sum of them all.
pub(super) fn softmax_line<T: Real>(line: &mut [T]) {
    let top = largest(line);
    line.iter_mut().for_each(|value| *value = (*value - top).exp());
    let whole = T::narrow(sum(line, T::wide).recip());
    line.iter_mut().for_each(|value| *value *= whole);
}

/// The logarithm of what [`softmax_line`] gives.
pub(super) fn log_softmax_line<T: Real>(line: &mut [T]) {
    let top = largest(line);
    let whole = T::narrow(sum(line, |value: T| (value - top).exp().wide()).ln());
    line.iter_mut().for_each(|value| *value = *value - top - whole);
}

/// 1 for the first of the largest, 0 for the rest.
fn hardmax_line<T: Real>(line: &mut [T]) {
    let top = largest(line);
    let at = line.iter().position(|&value| value == top).unwrap_or(0);
    line.fill(T::zero());
    if let Some(value) = line.get_mut(at) {
        *value = T::one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_side_by_side_are_each_seen_once() {
        // [2, 3, 37]: more lines than go at once, and not a multiple of that.
        let mut data: Vec<usize> = (0..2 * 3 * 37).collect();
        let mut seen = Vec::new();
        Lines { len: 3, inner: 37 }.each(&mut data, |line| {
            assert_eq!((line[1] - line[0], line[2] - line[1]), (37, 37));
            seen.push(line[0]);
            line.reverse();
        });
        let first: Vec<usize> = (0..37).chain(111..148).collect();
        assert_eq!(seen, first);
        assert_eq!((data[0], data[37], data[74], data[221]), (74, 37, 0, 147));
    }

    #[test]
    fn an_extreme_is_nan_where_there_is_one() {
        let array = Array::scalar(0f32);
        let lines = Lines { len: 3, inner: 1 };
        let reduction = Reduction { array, lines, shape: vec![2] };
        let data = [1.0, f32::NAN, 2.0, 1.0, 3.0, 2.0];
        let most = extreme(&reduction, &data, true);
        assert!(most[0].is_nan());
        assert_eq!(most[1], 3.0);
        assert_eq!(arg_extremes(&data, lines, true, false), [1, 1]);
        assert_eq!(arg_extremes(&data, lines, false, true), [1, 0]);
        let (_, order) = best(&data, lines, 3, true);
        assert_eq!(order, [1, 2, 0, 1, 2, 0]);
    }
}
