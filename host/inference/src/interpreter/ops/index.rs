//! Operators that pick and place elements by index.

// What serves elements of every width serves text too, which is no `Copy`.
#![allow(clippy::clone_on_copy)]

use std::cmp::Ordering;

use half::{bf16, f16};
use headland_tensor::DType;

use super::{
    Op,
    shape::{around, count, filled, flat, zeros},
};
use crate::{
    interpreter::{Call, OpError, OpResult, axis},
    value::{Array, Element, Lanes, Scalar, Value, scalar_type, structural},
};

/// The operator of that name.
///
/// # Source
/// <https://onnx.ai/onnx/operators/>
pub(crate) fn find(name: &str) -> Option<Op> {
    Some(match name {
        "Compress" => compress,
        "Gather" => gather,
        "GatherElements" => gather_elements,
        "GatherND" => gather_nd,
        "NonZero" => non_zero,
        "OneHot" => one_hot,
        "Scatter" | "ScatterElements" => scatter_elements,
        "ScatterND" => scatter_nd,
        "TensorScatter" => tensor_scatter,
        "Unique" => unique,
        _ => return None,
    })
}

/// An index into an axis of `len`, where a negative one counts from the end.
fn place(index: i64, len: usize) -> OpResult<usize> {
    let from_front = if index < 0 { index.saturating_add(len as i64) } else { index };
    match usize::try_from(from_front) {
        Ok(place) if place < len => Ok(place),
        _ => Err(OpError::invalid(format!("index {index} of an axis of {len}"))),
    }
}

/// The parts of axis `along` at `places`, which are within it; in the result
/// the shape `instead` is in the axis's place.
fn take(
    call: &Call<'_>,
    array: &Array,
    along: usize,
    places: &[usize],
    instead: &[usize],
) -> OpResult<Array> {
    let (outer, len, inner) = around(array.shape(), along)?;
    let shape = [&array.shape()[..along], instead, &array.shape()[along + 1..]].concat();
    call.reserve(array.element(), &shape)?;
    let total = count(&shape)?;
    if total == 0 {
        return zeros(array.element(), &shape);
    }
    structural!(&[array], |views| {
        let source = flat(&views[0])?;
        let mut made = Vec::with_capacity(total);
        for part in (0..outer).map(|index| &source[index * len * inner..][..len * inner]) {
            if inner == 1 {
                made.extend(places.iter().map(|&place| part[place].clone()));
                continue;
            }
            for &place in places {
                made.extend_from_slice(&part[place * inner..(place + 1) * inner]);
            }
        }
        filled(&shape, made)
    })
}

fn gather(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let (array, indices) = (call.array(0)?, call.array(1)?);
    let along = axis(call.int_or("axis", 0), array.rank())?;
    let len = array.shape()[along];
    let places = indices.to_i64s()?.into_iter().map(|index| place(index, len));
    let places = places.collect::<OpResult<Vec<_>>>()?;
    Ok(vec![take(call, array, along, &places, indices.shape())?.into()])
}

/// For each element of `indices`, where in an array of `shape` its own place
/// is, with the index along one axis.
fn element_offsets(shape: &[usize], indices: &Array, along: usize) -> OpResult<Vec<usize>> {
    let fits = |(axis, (i, d))| axis == along || i <= d;
    if indices.rank() != shape.len() || !indices.shape().iter().zip(shape).enumerate().all(fits) {
        let indices = indices.shape();
        return Err(OpError::invalid(format!("indices {indices:?} along {along} of {shape:?}")));
    }
    count(shape)?;
    let mut stride = 1;
    let mut strides = vec![0; shape.len()];
    for (axis, &size) in shape.iter().enumerate().rev() {
        strides[axis] = stride;
        stride *= size.max(1);
    }
    let step = strides[along];
    // What the other axes add, counted up as an odometer is.
    strides[along] = 0;
    let mut at = vec![0; shape.len()];
    let mut base = 0;
    let mut offsets = Vec::with_capacity(indices.len());
    for index in indices.to_i64s()? {
        offsets.push(base + place(index, shape[along])? * step);
        for axis in (0..shape.len()).rev() {
            at[axis] += 1;
            base += strides[axis];
            if at[axis] < indices.shape()[axis] {
                break;
            }
            base -= at[axis] * strides[axis];
            at[axis] = 0;
        }
    }
    Ok(offsets)
}

fn gather_elements(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let (array, indices) = (call.array(0)?, call.array(1)?);
    let along = axis(call.int_or("axis", 0), array.rank())?;
    let offsets = element_offsets(array.shape(), indices, along)?;
    call.reserve(array.element(), indices.shape())?;
    let made = structural!(&[array], |views| {
        let source = flat(&views[0])?;
        filled(indices.shape(), offsets.iter().map(|&at| source[at].clone()).collect())
    })?;
    Ok(vec![made.into()])
}

/// For each tuple along the last axis of `indices`, where its block is in an
/// array of `shape`, and how large blocks are. The first `batches` axes are
/// common to both and not indexed.
fn block_offsets(
    shape: &[usize],
    indices: &Array,
    batches: usize,
) -> OpResult<(Vec<usize>, usize)> {
    let bad = || {
        let indices = indices.shape();
        OpError::invalid(format!("indices {indices:?} of {shape:?} with {batches} batch axes"))
    };
    let (&width, outer) = indices.shape().split_last().ok_or_else(bad)?;
    let last = batches.checked_add(width).filter(|&last| last <= shape.len()).ok_or_else(bad)?;
    if width == 0 || batches > outer.len() || outer[..batches] != shape[..batches] {
        return Err(bad());
    }
    count(shape)?;
    count(indices.shape())?;
    let block: usize = shape[last..].iter().product();
    let per_batch: usize = shape[batches..].iter().product();
    let tuples: usize = outer[batches..].iter().product();
    let places = indices.to_i64s()?;
    let mut offsets = Vec::with_capacity(places.len() / width);
    for (index, tuple) in places.chunks_exact(width).enumerate() {
        let mut at = 0;
        for (&index, &len) in tuple.iter().zip(&shape[batches..last]) {
            at = at * len + place(index, len)?;
        }
        offsets.push(index / tuples * per_batch + at * block);
    }
    Ok((offsets, block))
}

fn gather_nd(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let (array, indices) = (call.array(0)?, call.array(1)?);
    let batches = call.int_or("batch_dims", 0);
    let batches =
        usize::try_from(batches).map_err(|_| OpError::invalid(format!("{batches} batch axes")))?;
    let (offsets, block) = block_offsets(array.shape(), indices, batches)?;
    let (&width, outer) = indices.shape().split_last().unwrap_or((&0, &[]));
    let shape = [outer, &array.shape()[batches + width..]].concat();
    call.reserve(array.element(), &shape)?;
    let total = count(&shape)?;
    let made = structural!(&[array], |views| {
        let source = flat(&views[0])?;
        let mut made = Vec::with_capacity(total);
        for &at in &offsets {
            made.extend_from_slice(&source[at..at + block]);
        }
        filled(&shape, made)
    })?;
    Ok(vec![made.into()])
}

fn scatter_elements(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let (array, indices, updates) = (call.array(0)?, call.array(1)?, call.array(2)?);
    let along = axis(call.int_or("axis", 0), array.rank())?;
    let offsets = element_offsets(array.shape(), indices, along)?;
    if updates.shape() != indices.shape() {
        let (updates, indices) = (updates.shape(), indices.shape());
        return Err(OpError::invalid(format!("updates {updates:?} for indices {indices:?}")));
    }
    Ok(vec![scatter(call, array, updates, &offsets, 1)?.into()])
}

fn scatter_nd(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let (array, indices, updates) = (call.array(0)?, call.array(1)?, call.array(2)?);
    let (offsets, block) = block_offsets(array.shape(), indices, 0)?;
    let (&width, outer) = indices.shape().split_last().unwrap_or((&0, &[]));
    if updates.shape() != [outer, &array.shape()[width..]].concat() {
        return Err(OpError::invalid(format!(
            "updates {:?} for indices {:?} of {:?}",
            updates.shape(),
            indices.shape(),
            array.shape()
        )));
    }
    Ok(vec![scatter(call, array, updates, &offsets, block)?.into()])
}

/// Put the blocks of `updates` where `offsets` say, joined to what is there as
/// `reduction` says.
fn scatter(
    call: &Call<'_>,
    array: &Array,
    updates: &Array,
    offsets: &[usize],
    block: usize,
) -> OpResult<Array> {
    let reduction = match call.text_or("reduction", "none") {
        "none" => {
            return structural!(&[array, updates], |views| {
                let mut made = flat(&views[0])?.to_vec();
                let source = flat(&views[1])?;
                for (index, &at) in offsets.iter().enumerate() {
                    let from = &source[index * block..(index + 1) * block];
                    made[at..at + block].clone_from_slice(from);
                }
                filled(array.shape(), made)
            });
        }
        "add" => Reduction::Add,
        "mul" => Reduction::Mul,
        "min" => Reduction::Min,
        "max" => Reduction::Max,
        other => return Err(OpError::unsupported(format!("reduction {other:?}"))),
    };
    if array.element() != updates.element() {
        let (to, from) = (array.element(), updates.element());
        return Err(OpError::invalid(format!("updates of {from} to {to}")));
    }
    /// The elements after the updates.
    fn joined<T: Number>(
        elements: &[T],
        updates: &[T],
        offsets: &[usize],
        block: usize,
        reduction: Reduction,
    ) -> Vec<T> {
        let mut made = elements.to_vec();
        for (index, &at) in offsets.iter().enumerate() {
            let from = &updates[index * block..(index + 1) * block];
            for (to, &from) in made[at..at + block].iter_mut().zip(from) {
                *to = to.join(from, reduction);
            }
        }
        made
    }
    if let Element::Plain(DType::Bool) = array.element() {
        // A sum of bools is "or", as their maximum; a product is "and".
        let reduction = match reduction {
            Reduction::Add | Reduction::Max => Reduction::Max,
            Reduction::Mul | Reduction::Min => Reduction::Min,
        };
        let made = joined(array.bools()?, updates.bools()?, offsets, block, reduction);
        return Array::from_lanes(array.element(), array.shape(), Lanes::One(made.into()));
    }
    scalar_type!(array.element(), [all] T => {
        let (elements, updates) = (array.elements::<T>()?, updates.elements::<T>()?);
        Array::new(array.shape(), joined(elements, updates, offsets, block, reduction))
    })
}

/// How an update joins what is there.
#[derive(Clone, Copy)]
enum Reduction {
    Add,
    Mul,
    Min,
    Max,
}

/// A number that updates join and that has an order.
trait Number: Scalar {
    /// The sum, product, smaller or larger of two: integers wrap, and NaN
    /// stays.
    fn join(self, other: Self, reduction: Reduction) -> Self;
    /// The order, where NaN is the largest and equal to itself.
    fn order(&self, other: &Self) -> Ordering;
}

macro_rules! integers {
    ($($t:ty)*) => {$(
        impl Number for $t {
            fn join(self, other: Self, reduction: Reduction) -> Self {
                match reduction {
                    Reduction::Add => self.wrapping_add(other),
                    Reduction::Mul => self.wrapping_mul(other),
                    Reduction::Min => self.min(other),
                    Reduction::Max => self.max(other),
                }
            }

            fn order(&self, other: &Self) -> Ordering {
                self.cmp(other)
            }
        }
    )*};
}
integers!(u8 i8 u16 i16 u32 i32 u64 i64);

macro_rules! floats {
    ($($t:ty)*) => {$(
        impl Number for $t {
            fn join(self, other: Self, reduction: Reduction) -> Self {
                match reduction {
                    Reduction::Add => self + other,
                    Reduction::Mul => self * other,
                    _ if self.is_nan() => self,
                    _ if other.is_nan() => other,
                    Reduction::Min => if other < self { other } else { self },
                    Reduction::Max => if other > self { other } else { self },
                }
            }

            fn order(&self, other: &Self) -> Ordering {
                self.partial_cmp(other).unwrap_or(self.is_nan().cmp(&other.is_nan()))
            }
        }
    )*};
}
floats!(f16 bf16 f32 f64);

/// `values[1]` where the index along a new axis is that of the element, and
/// `values[0]` elsewhere.
fn one_hot(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let (indices, depth, values) = (call.array(0)?, call.array(1)?, call.array(2)?);
    let whole = |array: &Array| match array.element() {
        float if float.is_float() => Ok(array.to_f64s()?.into_iter().map(|v| v as i64).collect()),
        _ => array.to_i64s(),
    };
    let depth = match *whole(depth)? {
        [depth] => usize::try_from(depth).ok().filter(|&depth| depth > 0),
        _ => None,
    };
    let depth = depth.ok_or_else(|| OpError::invalid("depth is no positive number"))?;
    let along = axis(call.int_or("axis", -1), indices.rank() + 1)?;
    let mut shape = indices.shape().to_vec();
    shape.insert(along, depth);
    call.reserve(values.element(), &shape)?;
    let total = count(&shape)?;
    let (_, _, inner) = around(&shape, along)?;
    // Negative indices count from the end from operator set 11 on.
    let known = |index: &i64| *index >= 0 || call.opset() >= 11;
    let indices: Vec<_> =
        whole(indices)?.iter().map(|i| place(*i, depth).ok().filter(|_| known(i))).collect();
    let made = structural!(&[values], |views| {
        let [off, on] = flat(&views[0])? else {
            let shape = values.shape();
            return Err(OpError::invalid(format!("values {shape:?} where off and on are")));
        };
        let mut made = vec![off.clone(); total];
        for (index, at) in indices.iter().enumerate() {
            if let Some(at) = at {
                made[(index / inner * depth + at) * inner + index % inner] = on.clone();
            }
        }
        filled(&shape, made)
    })?;
    Ok(vec![made.into()])
}

/// The indices of all elements that are not zero: `[rank, found]`.
fn non_zero(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let array = call.array(0)?;
    let found: Vec<usize> = match array.element() {
        Element::Text => positions(array.texts()?, |text| !text.is_empty()),
        Element::Plain(DType::Bool) => positions(array.bools()?, |&v| v != 0),
        Element::Small(_) => positions(&array.to_f64s()?, |&v| v != 0.0),
        element => scalar_type!(element, [all] T => {
            let zero = <T as bytemuck::Zeroable>::zeroed();
            Ok(positions(array.elements::<T>()?, |v| *v != zero))
        })?,
    };
    let shape = [array.rank(), found.len()];
    call.reserve(i64::ELEMENT, &shape)?;
    let mut made = Vec::with_capacity(count(&shape)?);
    for axis in 0..array.rank() {
        let (_, len, inner) = around(array.shape(), axis)?;
        made.extend(found.iter().map(|at| (at / inner % len) as i64));
    }
    Ok(vec![Array::new(&shape, made)?.into()])
}

fn positions<T>(elements: &[T], wanted: impl Fn(&T) -> bool) -> Vec<usize> {
    elements.iter().enumerate().filter(|(_, v)| wanted(v)).map(|(index, _)| index).collect()
}

/// The parts of an axis, or of all elements in a row, where the condition
/// holds.
fn compress(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let array = call.array(0)?;
    let places = positions(call.array(1)?.bools()?, |&v| v != 0);
    let (array, along) = in_a_row(array, call.int("axis"))?;
    let len = array.shape()[along];
    if let Some(last) = places.last().filter(|&&last| last >= len) {
        return Err(OpError::invalid(format!("index {last} of an axis of {len}")));
    }
    Ok(vec![take(call, &array, along, &places, &[places.len()])?.into()])
}

/// An array and the axis to work along: without one, all elements in a row.
fn in_a_row(array: &Array, along: Option<i64>) -> OpResult<(Array, usize)> {
    match along {
        Some(along) => Ok((array.clone(), axis(along, array.rank())?)),
        None => Ok((array.reshape(&[count(array.shape())?])?, 0)),
    }
}

/// The different elements, or parts along an axis; for each, where it is first;
/// for each place, which it is; and how many there are of each.
fn unique(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let (array, along) = in_a_row(call.array(0)?, call.int("axis"))?;
    let (outer, len, inner) = around(array.shape(), along)?;
    call.reserve(i64::ELEMENT, &[len])?;
    // The elements of two parts, pair by pair.
    let pairs = |a: usize, b: usize| {
        (0..outer).flat_map(move |o| {
            let at = move |part| (o * len + part) * inner;
            (0..inner).map(move |i| (at(a) + i, at(b) + i))
        })
    };
    fn compare<T>(
        elements: &[T],
        mut pairs: impl Iterator<Item = (usize, usize)>,
        order: fn(&T, &T) -> Ordering,
    ) -> Ordering {
        let unequal = |(a, b): (usize, usize)| {
            let order = order(&elements[a], &elements[b]);
            order.is_ne().then_some(order)
        };
        pairs.find_map(unequal).unwrap_or(Ordering::Equal)
    }
    // Places by what is there, and how many of each are the same.
    let sorted = |compare: &dyn Fn(usize, usize) -> Ordering| {
        let mut order: Vec<usize> = (0..len).collect();
        order.sort_by(|&a, &b| compare(a, b));
        let lens = order.chunk_by(|&a, &b| compare(a, b).is_eq()).map(<[usize]>::len);
        let lens = lens.collect::<Vec<_>>();
        (order, lens)
    };
    let (order, lens) = match array.element() {
        // Parts of no elements are all the same.
        _ if array.is_empty() => sorted(&|_, _| Ordering::Equal),
        Element::Text => {
            let texts = array.texts()?;
            sorted(&|a, b| compare(texts, pairs(a, b), Ord::cmp))
        }
        Element::Plain(DType::Bool) => {
            let bools = array.bools()?;
            sorted(&|a, b| compare(bools, pairs(a, b), Ord::cmp))
        }
        element => scalar_type!(element, [all] T => {
            let elements = array.elements::<T>()?;
            Ok(sorted(&|a, b| compare(elements, pairs(a, b), T::order)))
        })?,
    };
    let mut rest = order.as_slice();
    let mut groups: Vec<&[usize]> = Vec::with_capacity(lens.len());
    for len in lens {
        let (group, others) = rest.split_at(len);
        groups.push(group);
        rest = others;
    }
    // The sort is stable, so that a group's first is its first place.
    if !call.flag("sorted", true) {
        groups.sort_by_key(|group| group[0]);
    }
    let firsts: Vec<usize> = groups.iter().map(|group| group[0]).collect();
    let mut which = vec![0; len];
    for (index, group) in groups.iter().enumerate() {
        for &place in *group {
            which[place] = index as i64;
        }
    }
    let found = firsts.len();
    let counts: Vec<i64> = groups.iter().map(|group| group.len() as i64).collect();
    Ok(vec![
        take(call, &array, along, &firsts, &[found])?.into(),
        Array::new(&[found], firsts.iter().map(|&place| place as i64).collect())?.into(),
        Array::new(&[len], which)?.into(),
        Array::new(&[found], counts)?.into(),
    ])
}

/// A cache with the updates along an axis from each batch's own place on.
fn tensor_scatter(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let (cache, updates) = (call.array(0)?, call.array(1)?);
    let along = axis(call.int_or("axis", -2), cache.rank())?;
    let (outer, len, inner) = around(cache.shape(), along)?;
    let steps = updates.shape().get(along).copied().unwrap_or(0);
    let mut wanted = cache.shape().to_vec();
    wanted[along] = steps;
    if along == 0 || updates.shape() != wanted || steps > len {
        let (cache, updates) = (cache.shape(), updates.shape());
        return Err(OpError::invalid(format!("updates {updates:?} of {cache:?} along {along}")));
    }
    let batches = cache.shape()[0];
    let circular = match call.text_or("mode", "linear") {
        "linear" => false,
        "circular" => true,
        other => return Err(OpError::unsupported(format!("mode {other:?}"))),
    };
    let starts = match call.optional(2)? {
        Some(starts) if starts.len() == batches => starts.to_i64s()?,
        Some(starts) => {
            let starts = starts.len();
            return Err(OpError::invalid(format!("{starts} write indices of {batches} batches")));
        }
        None => Vec::new(),
    };
    if updates.is_empty() {
        return Ok(vec![cache.clone().into()]);
    }
    let start = |row: usize| {
        let start = starts.get(row / (outer / batches)).copied().unwrap_or(0);
        if circular {
            return Ok(start.rem_euclid(len as i64) as usize);
        }
        match usize::try_from(start) {
            Ok(start) if start <= len - steps => Ok(start),
            _ => Err(OpError::invalid(format!("{steps} updates from {start} on of {len}"))),
        }
    };
    let made = structural!(&[cache, updates], |views| {
        let mut made = flat(&views[0])?.to_vec();
        let source = flat(&views[1])?;
        for row in 0..outer {
            let start = start(row)?;
            for step in 0..steps {
                let to = (row * len + (start + step) % len) * inner;
                let from = (row * steps + step) * inner;
                made[to..to + inner].clone_from_slice(&source[from..from + inner]);
            }
        }
        filled(cache.shape(), made)
    })?;
    Ok(vec![made.into()])
}
