//! Operators that move elements without looking at them.

// What serves elements of every width serves text too, which is no `Copy`.
#![allow(clippy::clone_on_copy)]

use std::{ops::Range, sync::Arc};

use headland_tensor::DType;
use ndarray::{ArrayD, ArrayViewD, Axis, IxDyn, Slice};

use super::Op;
use crate::{
    interpreter::{Call, OpError, OpResult, axes, axis, broadcast_shape, sizes},
    value::{Array, Element, Lanes, Value, scalar_type, structural},
};

/// The operator of that name.
///
/// # Source
/// <https://onnx.ai/onnx/operators/>
pub(crate) fn find(name: &str) -> Option<Op> {
    Some(match name {
        "CenterCropPad" => center_crop_pad,
        "Concat" => concat,
        "Constant" => constant,
        "ConstantOfShape" => constant_of_shape,
        "DepthToSpace" => depth_to_space,
        "Expand" => expand,
        "EyeLike" => eye_like,
        "Flatten" => flatten,
        "Identity" => identity,
        "Pad" => pad,
        "Range" => range,
        "Reshape" => reshape,
        "ReverseSequence" => reverse_sequence,
        "Shape" => shape,
        "Size" => size,
        "Slice" => slice,
        "SpaceToDepth" => space_to_depth,
        "Split" => split,
        "Squeeze" => squeeze,
        "Tile" => tile,
        "Transpose" => transpose,
        "Trilu" => trilu,
        "Unsqueeze" => unsqueeze,
        _ => return None,
    })
}

/// How many elements a shape has, where all that are not zero multiplied can be
/// counted: then so can any part of the shape.
pub(super) fn count(shape: &[usize]) -> OpResult<usize> {
    let whole = shape.iter().filter(|&&d| d > 0).try_fold(1usize, |n, &d| n.checked_mul(d));
    match whole {
        Some(_) if shape.contains(&0) => Ok(0),
        Some(n) if isize::try_from(n).is_ok() => Ok(n),
        _ => Err(OpError::invalid(format!("{shape:?} is too large"))),
    }
}

/// How many elements are before, along, and within one step of an axis of
/// `shape`.
pub(super) fn around(shape: &[usize], along: usize) -> OpResult<(usize, usize, usize)> {
    count(shape)?;
    Ok((shape[..along].iter().product(), shape[along], shape[along + 1..].iter().product()))
}

/// Elements in a shape.
pub(super) fn filled<T>(shape: &[usize], elements: Vec<T>) -> OpResult<ArrayD<T>> {
    Ok(ArrayD::from_shape_vec(IxDyn(shape), elements)?)
}

/// The elements of a view in row-major order, which those of `structural!` are
/// in.
pub(super) fn flat<'a, T>(view: &'a ArrayViewD<'_, T>) -> OpResult<&'a [T]> {
    view.as_slice().ok_or_else(|| OpError::invalid("elements that are not in order"))
}

/// Zeros, false or empty text.
pub(super) fn zeros(element: Element, shape: &[usize]) -> OpResult<Array> {
    let len = count(shape)?;
    let lanes = match element {
        Element::Text => Lanes::Text(Arc::new(vec!["".into(); len])),
        other => match other.size_bytes() {
            1 => Lanes::One(Arc::new(vec![0; len])),
            2 => Lanes::Two(Arc::new(vec![0; len])),
            4 => Lanes::Four(Arc::new(vec![0; len])),
            _ => Lanes::Eight(Arc::new(vec![0; len])),
        },
    };
    Array::from_lanes(element, shape, lanes)
}

/// The same elements in another shape, which is checked.
fn reshaped(array: &Array, shape: &[usize]) -> OpResult<Array> {
    if count(shape)? != array.len() {
        return Err(OpError::invalid(format!("{:?} as {shape:?}", array.shape())));
    }
    array.reshape(shape)
}

/// The axes of a dense array, outermost first: how many steps each has, and how
/// many elements a step goes on.
fn strides(shape: &[usize]) -> OpResult<Vec<(usize, isize)>> {
    count(shape)?;
    let mut stride = 1;
    let mut axes = vec![(0, 0); shape.len()];
    for (axis, &size) in axes.iter_mut().zip(shape).rev() {
        *axis = (size, stride);
        stride *= size.max(1) as isize;
    }
    Ok(axes)
}

/// The elements of an array that walking `axes` from `start` on passes, in the
/// shape `shape`.
fn walked(
    array: &Array,
    start: usize,
    axes: &[(usize, isize)],
    shape: &[usize],
) -> OpResult<Array> {
    let total = count(shape)?;
    if total == 0 {
        return zeros(array.element(), shape);
    }
    // An axis that goes on where the one within it ends is one with it.
    let mut merged: Vec<(usize, isize)> = Vec::with_capacity(axes.len());
    for &(len, stride) in axes.iter().filter(|axis| axis.0 != 1) {
        match merged.last_mut() {
            Some(outer) if outer.1 == len as isize * stride => *outer = (outer.0 * len, stride),
            _ => merged.push((len, stride)),
        }
    }
    structural!(&[array], |views| {
        let mut made = Vec::with_capacity(total);
        walk(&mut made, flat(&views[0])?, start, &merged);
        filled(shape, made)
    })
}

fn walk<T: Clone>(made: &mut Vec<T>, source: &[T], start: usize, axes: &[(usize, isize)]) {
    let at = |step: usize, stride: isize| start.wrapping_add_signed(step as isize * stride);
    match *axes {
        [] => made.push(source[start].clone()),
        [(len, 1)] => made.extend_from_slice(&source[start..start + len]),
        [(len, 0)] => made.extend(std::iter::repeat_n(&source[start], len).cloned()),
        [(len, stride)] => made.extend((0..len).map(|step| source[at(step, stride)].clone())),
        [(len, stride), ref rest @ ..] => {
            for step in 0..len {
                walk(made, source, at(step, stride), rest);
            }
        }
    }
}

/// The part at `index` of axis `along`, which is gone from the result.
pub(crate) fn pick(array: &Array, along: usize, index: usize) -> OpResult<Array> {
    let one = part(array, along, index, 1)?;
    let mut shape = one.shape().to_vec();
    shape.remove(along);
    one.reshape(&shape)
}

/// The `len` parts from `start` on of axis `along`.
pub(super) fn part(array: &Array, along: usize, start: usize, len: usize) -> OpResult<Array> {
    let mut shape = array.shape().to_vec();
    if start.checked_add(len).is_none_or(|end| end > shape[along]) {
        return Err(OpError::invalid(format!(
            "{len} from {start} on of axis {along} of {shape:?}"
        )));
    }
    let mut axes = strides(&shape)?;
    let first = start * axes[along].1 as usize;
    axes[along].0 = len;
    shape[along] = len;
    walked(array, first, &axes, &shape)
}

/// Arrays of one shape, along a new axis.
pub(crate) fn stack(arrays: &[&Array], along: usize) -> OpResult<Array> {
    let one = |array: &&Array| {
        let mut shape = array.shape().to_vec();
        shape.insert(along.min(shape.len()), 1);
        array.reshape(&shape)
    };
    let arrays = arrays.iter().map(one).collect::<OpResult<Vec<_>>>()?;
    joined(&arrays.iter().collect::<Vec<_>>(), along)
}

/// Arrays that differ in the size of one axis only, along it.
pub(super) fn join(call: &Call<'_>, arrays: &[&Array], along: usize) -> OpResult<Array> {
    call.reserve_bytes(arrays.iter().map(|a| a.size_bytes()).fold(0, u64::saturating_add))?;
    joined(arrays, along)
}

fn joined(arrays: &[&Array], along: usize) -> OpResult<Array> {
    let Some(first) = arrays.first() else {
        return Err(OpError::invalid("nothing to concatenate"));
    };
    let mut shape = first.shape().to_vec();
    shape[along] = 0;
    for array in arrays {
        let same = |(index, (a, b))| index == along || a == b;
        if array.rank() != first.rank()
            || !array.shape().iter().zip(first.shape()).enumerate().all(same)
        {
            let (first, other) = (first.shape(), array.shape());
            return Err(OpError::invalid(format!("{first:?} with {other:?} along axis {along}")));
        }
        shape[along] = shape[along].saturating_add(array.shape()[along]);
    }
    let (outer, _, inner) = around(&shape, along)?;
    let total = count(&shape)?;
    if total == 0 {
        return zeros(first.element(), &shape);
    }
    structural!(arrays, |views| {
        let mut made = Vec::with_capacity(total);
        let sources = views.iter().map(flat).collect::<OpResult<Vec<_>>>()?;
        for index in 0..outer {
            for (source, array) in sources.iter().zip(arrays) {
                let block = array.shape()[along] * inner;
                made.extend_from_slice(&source[index * block..(index + 1) * block]);
            }
        }
        filled(&shape, made)
    })
}

fn identity(call: &Call<'_>) -> OpResult<Vec<Value>> {
    Ok(vec![call.value(0).cloned().unwrap_or(Value::Optional(None))])
}

fn constant(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let array = if let Some(array) = call.tensor("value") {
        array.clone()
    } else if let Some(value) = call.float("value_float") {
        Array::scalar(value)
    } else if let Some(values) = call.floats("value_floats") {
        Array::new(&[values.len()], values.to_vec())?
    } else if let Some(value) = call.int("value_int") {
        Array::scalar(value)
    } else if let Some(values) = call.ints("value_ints") {
        Array::new(&[values.len()], values.to_vec())?
    } else if let Some(value) = call.text("value_string") {
        Array::from_texts(&[], vec![value.into()])?
    } else if let Some(values) = call.texts("value_strings") {
        Array::from_texts(&[values.len()], values.iter().map(|v| v.as_str().into()).collect())?
    } else {
        return Err(OpError::unsupported("a constant that is no dense tensor"));
    };
    Ok(vec![array.into()])
}

fn concat(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let arrays = call.arrays()?;
    let first = arrays.first().ok_or_else(|| OpError::invalid("nothing to concatenate"))?;
    let along = axis(call.int_or("axis", 1), first.rank())?;
    Ok(vec![join(call, &arrays, along)?.into()])
}

fn shape(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let shape = call.array(0)?.shape();
    let rank = shape.len() as i64;
    let bound = |name, default| {
        let at = call.int_or(name, default);
        (if at < 0 { at + rank } else { at }).clamp(0, rank) as usize
    };
    let (start, end) = (bound("start", 0), bound("end", rank));
    let part = shape.get(start..end).unwrap_or(&[]);
    Ok(vec![Array::new(&[part.len()], part.iter().map(|&d| d as i64).collect::<Vec<_>>())?.into()])
}

fn reshape(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let array = call.array(0)?;
    let wanted = match call.ints("shape") {
        Some(wanted) => wanted.to_vec(),
        None => call.array(1)?.to_i64s()?,
    };
    let keep_zero = call.flag("allowzero", false);
    let mut target = Vec::with_capacity(wanted.len());
    let mut free = None;
    for (index, &size) in wanted.iter().enumerate() {
        target.push(match size {
            -1 if free.replace(index).is_none() => 1,
            0 if !keep_zero => *array.shape().get(index).ok_or_else(|| {
                OpError::invalid(format!(
                    "{wanted:?} keeps a size that {:?} has not",
                    array.shape()
                ))
            })?,
            size => sizes(&[size])?[0],
        });
    }
    if let Some(index) = free {
        let rest = count(&target)?;
        if rest == 0 || !array.len().is_multiple_of(rest) {
            return Err(OpError::invalid(format!("{:?} as {wanted:?}", array.shape())));
        }
        target[index] = array.len() / rest;
    }
    Ok(vec![reshaped(array, &target)?.into()])
}

fn size(call: &Call<'_>) -> OpResult<Vec<Value>> {
    Ok(vec![Array::scalar(call.array(0)?.len() as i64).into()])
}

/// Two dimensions: those before `axis`, and the others.
fn flatten(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let array = call.array(0)?;
    let shape = array.shape();
    // The end is an axis here too, which a tensor of one more dimension has.
    let at = match call.int_or("axis", 1) {
        at if at < 0 => axis(at, shape.len())?,
        at => axis(at, shape.len() + 1)?,
    };
    let target = [count(&shape[..at])?, count(&shape[at..])?];
    Ok(vec![reshaped(array, &target)?.into()])
}

/// The axes that are an attribute before operator set 13, and input 1 since.
fn given_axes(call: &Call<'_>) -> OpResult<Option<Vec<i64>>> {
    match call.ints("axes") {
        Some(axes) => Ok(Some(axes.to_vec())),
        None => call.optional(1)?.map(Array::to_i64s).transpose(),
    }
}

fn squeeze(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let array = call.array(0)?;
    let shape = array.shape();
    let gone = match given_axes(call)? {
        Some(given) => axes(&given, shape.len())?,
        None => (0..shape.len()).filter(|&index| shape[index] == 1).collect(),
    };
    if let Some(index) = gone.iter().find(|&&index| shape[index] != 1) {
        return Err(OpError::invalid(format!("axis {index} of {shape:?} is not of size 1")));
    }
    let kept = (0..shape.len()).filter(|index| !gone.contains(index));
    let target: Vec<usize> = kept.map(|index| shape[index]).collect();
    Ok(vec![reshaped(array, &target)?.into()])
}

fn unsqueeze(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let array = call.array(0)?;
    let given = given_axes(call)?.ok_or_else(|| OpError::invalid("there are no axes"))?;
    let rank = array.rank() + given.len();
    let new = axes(&given, rank)?;
    let mut old = array.shape().iter().copied();
    let target: Vec<usize> = (0..rank)
        .map(|index| if new.contains(&index) { 1 } else { old.next().unwrap_or(1) })
        .collect();
    Ok(vec![reshaped(array, &target)?.into()])
}

/// An array seen in the shape `fine`, its axes reordered, and what comes of it
/// in the shape `shape`.
fn reordered(array: &Array, fine: &[usize], order: &[usize], shape: &[usize]) -> OpResult<Array> {
    let axes = strides(fine)?;
    let axes: Vec<_> = order.iter().map(|&from| axes[from]).collect();
    walked(array, 0, &axes, shape)
}

fn transpose(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let array = call.array(0)?;
    let order = match call.ints("perm") {
        Some(order) => axes(order, array.rank())?,
        None => (0..array.rank()).rev().collect(),
    };
    if order.len() != array.rank() {
        return Err(OpError::invalid(format!(
            "perm {order:?} of a tensor of rank {}",
            array.rank()
        )));
    }
    let shape: Vec<usize> = order.iter().map(|&from| array.shape()[from]).collect();
    Ok(vec![reordered(array, array.shape(), &order, &shape)?.into()])
}

/// Batches, channels, rows and columns of an image, and `blocksize`.
fn blocks(call: &Call<'_>, array: &Array) -> OpResult<([usize; 4], usize)> {
    let block = call.int_or("blocksize", 0);
    let shape = <[usize; 4]>::try_from(array.shape())
        .map_err(|_| OpError::invalid(format!("{:?} where 4 dimensions are", array.shape())))?;
    match usize::try_from(block) {
        Ok(size) if size > 0 && size.checked_mul(size).is_some() => Ok((shape, size)),
        _ => Err(OpError::invalid(format!("a blocksize of {block}"))),
    }
}

/// `[n, b * b * c, h, w]` to `[n, c, h * b, w * b]`.
fn depth_to_space(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let array = call.array(0)?;
    let ([n, depth, h, w], b) = blocks(call, array)?;
    let c = depth / (b * b);
    if c * b * b != depth {
        return Err(OpError::invalid(format!("{depth} channels in blocks of {b} by {b}")));
    }
    let (fine, order) = match call.text_or("mode", "DCR") {
        "DCR" => ([n, b, b, c, h, w], [0, 3, 4, 1, 5, 2]),
        "CRD" => ([n, c, b, b, h, w], [0, 1, 4, 2, 5, 3]),
        other => return Err(OpError::unsupported(format!("mode {other:?}"))),
    };
    let shape = [n, c, h.saturating_mul(b), w.saturating_mul(b)];
    Ok(vec![reordered(array, &fine, &order, &shape)?.into()])
}

/// `[n, c, h * b, w * b]` to `[n, b * b * c, h, w]`.
fn space_to_depth(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let array = call.array(0)?;
    let ([n, c, height, width], b) = blocks(call, array)?;
    let (h, w) = (height / b, width / b);
    if h * b != height || w * b != width {
        return Err(OpError::invalid(format!("{height} by {width} in blocks of {b} by {b}")));
    }
    let fine = [n, c, h, b, w, b];
    let shape = [n, c.saturating_mul(b * b), h, w];
    Ok(vec![reordered(array, &fine, &[0, 3, 5, 1, 2, 4], &shape)?.into()])
}

fn expand(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let array = call.array(0)?;
    let wanted = sizes(&call.array(1)?.to_i64s()?)?;
    let shape = broadcast_shape(&[array.shape(), &wanted])?;
    Ok(vec![broadcast(call, array, array.shape(), &shape, &shape)?.into()])
}

fn tile(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let array = call.array(0)?;
    let repeats = sizes(&call.array(1)?.to_i64s()?)?;
    if repeats.len() != array.rank() {
        let rank = array.rank();
        return Err(OpError::invalid(format!("repeats {repeats:?} of a tensor of rank {rank}")));
    }
    // Each axis has one before it, which is what repeats.
    let fine: Vec<usize> = array.shape().iter().flat_map(|&d| [1, d]).collect();
    let wide: Vec<usize> = repeats.iter().zip(array.shape()).flat_map(|(&r, &d)| [r, d]).collect();
    let shape: Vec<usize> =
        repeats.iter().zip(array.shape()).map(|(&r, &d)| r.saturating_mul(d)).collect();
    Ok(vec![broadcast(call, array, &fine, &wide, &shape)?.into()])
}

/// An array seen in the shape `fine`, broadcast to the shape `wide`, and what
/// comes of it in the shape `shape`.
fn broadcast(
    call: &Call<'_>,
    array: &Array,
    fine: &[usize],
    wide: &[usize],
    shape: &[usize],
) -> OpResult<Array> {
    call.reserve(array.element(), shape)?;
    let mut axes = strides(fine)?;
    // Axes that the array has not are in front, of size 1.
    axes.splice(..0, vec![(1, 0); wide.len().saturating_sub(fine.len())]);
    for (axis, &size) in axes.iter_mut().zip(wide) {
        if axis.0 != size {
            *axis = (size, 0);
        }
    }
    walked(array, 0, &axes, shape)
}

/// Parts along an axis: of the given lengths, or as equal as they go, the last
/// being shorter.
fn split(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let array = call.array(0)?;
    let along = axis(call.int_or("axis", 0), array.rank())?;
    let len = array.shape()[along];
    let lengths = match call.ints("split") {
        Some(lengths) => Some(lengths.to_vec()),
        None => call.optional(1)?.map(Array::to_i64s).transpose()?,
    };
    let lengths = match lengths {
        Some(lengths) => {
            let lengths = sizes(&lengths)?;
            let sum = lengths.iter().try_fold(0usize, |sum, &l| sum.checked_add(l));
            if sum != Some(len) {
                return Err(OpError::invalid(format!("an axis of {len} in parts of {lengths:?}")));
            }
            lengths
        }
        None => {
            let parts = call.int_or("num_outputs", call.output_count() as i64);
            let parts = usize::try_from(parts)
                .ok()
                .filter(|&parts| parts > 0)
                .ok_or_else(|| OpError::invalid(format!("{parts} parts")))?;
            let each = len.div_ceil(parts);
            if each.saturating_mul(parts - 1) > len {
                return Err(OpError::invalid(format!("an axis of {len} in {parts} parts")));
            }
            let at = |index: usize| index.saturating_mul(each).min(len);
            (0..parts.min(call.output_count())).map(|i| at(i + 1) - at(i)).collect()
        }
    };
    let mut start = 0;
    let mut parts = Vec::new();
    for len in lengths {
        parts.push(part(array, along, start, len)?.into());
        start += len;
    }
    Ok(parts)
}

/// From `starts` to before `ends` by `steps` along `axes`, which are attributes
/// before operator set 10, and inputs since.
fn slice(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let array = call.array(0)?;
    let given = |name, input| match call.ints(name) {
        Some(values) => Ok(Some(values.to_vec())),
        None => call.optional(input)?.map(Array::to_i64s).transpose(),
    };
    let starts = given("starts", 1)?.ok_or_else(|| OpError::invalid("there are no starts"))?;
    let ends = given("ends", 2)?.ok_or_else(|| OpError::invalid("there are no ends"))?;
    let along = match given("axes", 3)? {
        Some(given) => axes(&given, array.rank())?,
        None => axes(&(0..starts.len() as i64).collect::<Vec<_>>(), array.rank())?,
    };
    let steps = given("steps", 4)?.unwrap_or_else(|| vec![1; starts.len()]);
    if [ends.len(), along.len(), steps.len()] != [starts.len(); 3] {
        return Err(OpError::invalid(format!(
            "{} starts, {} ends, {} axes and {} steps",
            starts.len(),
            ends.len(),
            along.len(),
            steps.len()
        )));
    }
    let mut shape = array.shape().to_vec();
    let mut walks = strides(&shape)?;
    let mut start = 0;
    for (index, &along) in along.iter().enumerate() {
        let (first, len, step) = bounds(shape[along], starts[index], ends[index], steps[index])?;
        let (size, stride) = &mut walks[along];
        start += first * *stride as usize;
        (*size, *stride) = (len, *stride * step);
        shape[along] = len;
    }
    Ok(vec![walked(array, start, &walks, &shape)?.into()])
}

/// Of an axis of `len`: the first index that a slice takes, how many it takes,
/// and the step to the next.
fn bounds(len: usize, start: i64, end: i64, step: i64) -> OpResult<(usize, usize, isize)> {
    let len = len as i64;
    let from_front = |at: i64| if at < 0 { at.saturating_add(len) } else { at };
    let (start, end) = (from_front(start), from_front(end));
    // A step beyond the axis takes its first element, as one of its length.
    let step = step.clamp(-len.max(1), len.max(1));
    let last = (len - 1).max(0);
    let (start, distance) = match step {
        0 => return Err(OpError::invalid("a step of 0")),
        1.. => (start.clamp(0, len), end.clamp(0, len) - start.clamp(0, len)),
        _ => (start.clamp(0, last), start.clamp(0, last) - end.clamp(-1, last)),
    };
    let taken =
        if len == 0 { 0 } else { distance.max(0).unsigned_abs().div_ceil(step.unsigned_abs()) };
    Ok((start as usize, taken as usize, step as isize))
}

fn pad(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let array = call.array(0)?;
    let (element, rank) = (array.element(), array.rank());
    let (given, fill) = if call.opset() < 11 {
        let given = call.ints("pads").ok_or_else(|| OpError::invalid("there are no pads"))?;
        let value = call.float_or("value", 0.0);
        (given.to_vec(), Array::from_f32s(element, &[], vec![value])?)
    } else {
        let fill = match call.optional(2)? {
            Some(fill) if fill.len() == 1 => fill.clone(),
            Some(fill) => {
                return Err(OpError::invalid(format!("a constant value of {:?}", fill.shape())));
            }
            None => zeros(element, &[])?,
        };
        (call.array(1)?.to_i64s()?, fill)
    };
    let along = match call.optional(3)? {
        Some(given) => axes(&given.to_i64s()?, rank)?,
        None => (0..rank).collect(),
    };
    if given.len() != 2 * along.len() {
        return Err(OpError::invalid(format!("pads {given:?} of {} axes", along.len())));
    }
    let mut pads = vec![(0, 0); rank];
    for (index, &axis) in along.iter().enumerate() {
        pads[axis] = (given[index], given[along.len() + index]);
    }
    let made = match call.text_or("mode", "constant") {
        "constant" => pad_constant(call, array, &pads, &fill)?,
        "edge" => pad_repeated(call, array, &pads, |at, len| at.clamp(0, len - 1))?,
        "wrap" => pad_repeated(call, array, &pads, |at, len| at.rem_euclid(len))?,
        "reflect" => pad_repeated(call, array, &pads, |at, len| {
            let period = (2 * (len - 1)).max(1);
            let at = at.rem_euclid(period);
            at.min(period - at)
        })?,
        other => return Err(OpError::unsupported(format!("mode {other:?}"))),
    };
    Ok(vec![made.into()])
}

/// Places before and after an axis; where negative, so many are gone.
type Pads = (i64, i64);

fn padded_shape(shape: &[usize], pads: &[Pads]) -> OpResult<Vec<usize>> {
    let padded = |(&len, &(before, after)): (&usize, &Pads)| {
        let sum = i128::from(before) + i128::from(after) + len as i128;
        usize::try_from(sum)
            .map_err(|_| OpError::invalid(format!("pads {before} and {after} of an axis of {len}")))
    };
    shape.iter().zip(pads).map(padded).collect()
}

/// An array with `fill` around it.
fn pad_constant(call: &Call<'_>, array: &Array, pads: &[Pads], fill: &Array) -> OpResult<Array> {
    let shape = padded_shape(array.shape(), pads)?;
    call.reserve(array.element(), &shape)?;
    let len = count(&shape)?;
    structural!(&[array, fill], |views| {
        let value = views[1].first().ok_or_else(|| OpError::invalid("nothing to pad with"))?;
        let mut made = filled(&shape, vec![value.clone(); len])?;
        let (mut source, mut target) = (views[0].view(), made.view_mut());
        for (axis, &(before, _)) in pads.iter().enumerate() {
            let (old, new) = (array.shape()[axis] as i64, shape[axis] as i64);
            let start = before.saturating_neg().clamp(0, old);
            let end = new.saturating_sub(before).clamp(start, old);
            let to = if start == end { 0 } else { start + before };
            let range = |start, end| Slice::new(start as isize, Some(end as isize), 1);
            source.slice_axis_inplace(Axis(axis), range(start, end));
            target.slice_axis_inplace(Axis(axis), range(to, to + (end - start)));
        }
        target.assign(&source);
        Ok::<_, OpError>(made)
    })
}

/// An array with elements of its own around it: those that `from` gives for a
/// place, which may be outside, and the length of its axis. What negative pads
/// take away is gone before.
fn pad_repeated(
    call: &Call<'_>,
    array: &Array,
    pads: &[Pads],
    from: fn(i64, i64) -> i64,
) -> OpResult<Array> {
    if pads.iter().any(|&(before, after)| before < 0 || after < 0) {
        let cut: Vec<_> = pads.iter().map(|&(b, a)| (b.min(0), a.min(0))).collect();
        let rest: Vec<_> = pads.iter().map(|&(b, a)| (b.max(0), a.max(0))).collect();
        let array = pad_constant(call, array, &cut, &zeros(array.element(), &[])?)?;
        return pad_repeated(call, &array, &rest, from);
    }
    let shape = padded_shape(array.shape(), pads)?;
    call.reserve(array.element(), &shape)?;
    let len = count(&shape)?;
    if len == 0 || array.is_empty() {
        return match len {
            0 => zeros(array.element(), &shape),
            _ => Err(OpError::invalid(format!("{:?} has nothing to pad with", array.shape()))),
        };
    }
    // What is within the last padded axis moves in whole blocks.
    let last = pads.iter().rposition(|&pads| pads != (0, 0)).map_or(0, |last| last + 1);
    let axes: Vec<_> =
        (0..last).map(|axis| (array.shape()[axis], shape[axis], pads[axis].0)).collect();
    structural!(&[array], |views| {
        let mut made = Vec::with_capacity(len);
        repeat_into(&mut made, flat(&views[0])?, &axes, from);
        filled(&shape, made)
    })
}

/// Append `source`, padded: an axis is its length, that in the result, and how
/// many places come before.
fn repeat_into<T: Clone>(
    made: &mut Vec<T>,
    source: &[T],
    axes: &[(usize, usize, i64)],
    from: fn(i64, i64) -> i64,
) {
    let Some((&(old, new, before), rest)) = axes.split_first() else {
        return made.extend_from_slice(source);
    };
    let (old, new) = (old as i64, new as i64);
    let block = source.len() / old as usize;
    let places = |made: &mut Vec<T>, places: Range<i64>| {
        for at in places {
            let index = from(at, old) as usize;
            repeat_into(made, &source[index * block..(index + 1) * block], rest, from);
        }
    };
    places(made, -before..0);
    if rest.is_empty() {
        made.extend_from_slice(source);
    } else {
        places(made, 0..old);
    }
    places(made, old..new - before);
}

/// The middle of an array, or an array in the middle of zeros.
fn center_crop_pad(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let array = call.array(0)?;
    let along = match call.ints("axes") {
        Some(given) => axes(given, array.rank())?,
        None => (0..array.rank()).collect(),
    };
    let wanted = sizes(&call.array(1)?.to_i64s()?)?;
    if wanted.len() != along.len() {
        return Err(OpError::invalid(format!("shape {wanted:?} of {} axes", along.len())));
    }
    let mut pads = vec![(0, 0); array.rank()];
    for (&axis, &wanted) in along.iter().zip(&wanted) {
        let more = wanted as i64 - array.shape()[axis] as i64;
        // Of an odd one, the smaller half is before.
        pads[axis] = (more / 2, more - more / 2);
    }
    let fill = zeros(array.element(), &[])?;
    Ok(vec![pad_constant(call, array, &pads, &fill)?.into()])
}

/// `start`, `start + delta` and so on, to before `limit`.
fn range(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let scalar = |index| {
        let array = call.array(index)?;
        match array.len() {
            1 => Ok(array),
            len => Err(OpError::invalid(format!("input {index} has {len} elements"))),
        }
    };
    let (start, limit, delta) = (scalar(0)?, scalar(1)?, scalar(2)?);
    let element = start.element();
    if [limit.element(), delta.element()] != [element; 2] {
        let (limit, delta) = (limit.element(), delta.element());
        return Err(OpError::invalid(format!("from {element} to {limit} by {delta}")));
    }
    let made = if element.is_float() {
        let (start, limit, delta) = (start.to_f64s()?[0], limit.to_f64s()?[0], delta.to_f64s()?[0]);
        let turns = ((limit - start) / delta).ceil();
        if !turns.is_finite() {
            return Err(OpError::invalid(format!("from {start} to {limit} by {delta}")));
        }
        let len = turns.max(0.0) as usize;
        call.reserve(Element::Plain(DType::F64), &[len])?;
        let values: Vec<f64> = (0..len).map(|turn| start + turn as f64 * delta).collect();
        Array::from_f64s(element, &[len], &values)?
    } else {
        scalar_type!(element, [ints] T => {
            let one = |array: &Array| Ok::<_, OpError>(i128::from(array.elements::<T>()?[0]));
            let (start, limit, delta) = (one(start)?, one(limit)?, one(delta)?);
            if delta == 0 {
                return Err(OpError::invalid("a delta of 0"));
            }
            let (way, step) = ((limit - start) * delta.signum(), delta.abs());
            let len = usize::try_from((way.max(0) + step - 1) / step).unwrap_or(usize::MAX);
            call.reserve(element, &[len])?;
            let values = (0..len).map(|turn| (start + turn as i128 * delta) as T);
            Array::new(&[len], values.collect::<Vec<T>>())
        })?
    };
    Ok(vec![made.into()])
}

/// The one element of `value`, everywhere.
fn constant_of_shape(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let shape = sizes(&call.array(0)?.to_i64s()?)?;
    let zero = Array::scalar(0f32);
    let value = call.tensor("value").unwrap_or(&zero);
    call.reserve(value.element(), &shape)?;
    let len = count(&shape)?;
    let made = structural!(&[value], |views| match flat(&views[0])? {
        [value] => filled(&shape, vec![value.clone(); len]),
        other => Err(OpError::invalid(format!("a value of {} elements", other.len()))),
    })?;
    Ok(vec![made.into()])
}

/// One, or true.
fn one(element: Element) -> OpResult<Array> {
    match element {
        Element::Plain(DType::Bool) => Array::from_bools(&[], &[true]),
        float if float.is_float() => Array::from_f32s(float, &[], vec![1.0]),
        other => scalar_type!(other, [ints] T => Ok(Array::scalar(1 as T))),
    }
}

/// Ones on a diagonal.
fn eye_like(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let array = call.array(0)?;
    let &[rows, columns] = array.shape() else {
        return Err(OpError::invalid(format!("{:?} where 2 dimensions are", array.shape())));
    };
    let element = match call.int("dtype") {
        Some(number) => i32::try_from(number)
            .ok()
            .and_then(Element::from_onnx)
            .ok_or_else(|| OpError::unsupported(format!("dtype {number}")))?,
        None => array.element(),
    };
    call.reserve(element, &[rows, columns])?;
    let above = call.int_or("k", 0);
    let made = structural!(&[&zeros(element, &[])?, &one(element)?], |views| {
        let (zero, one) = (&flat(&views[0])?[0], &flat(&views[1])?[0]);
        let mut made = vec![zero.clone(); count(&[rows, columns])?];
        if columns > 0 {
            for (row, elements) in made.chunks_exact_mut(columns).enumerate() {
                let column = usize::try_from(above.saturating_add(row as i64)).ok();
                if let Some(element) = column.and_then(|column| elements.get_mut(column)) {
                    *element = one.clone();
                }
            }
        }
        filled(&[rows, columns], made)
    })?;
    Ok(vec![made.into()])
}

/// Matrices with zeros below the diagonal, or above.
fn trilu(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let array = call.array(0)?;
    let &[.., rows, columns] = array.shape() else {
        return Err(OpError::invalid(format!("{:?} is no matrix", array.shape())));
    };
    if array.is_empty() {
        return Ok(vec![array.clone().into()]);
    }
    let above = match call.optional(1)? {
        Some(k) => {
            *k.to_i64s()?.first().ok_or_else(|| OpError::invalid("a diagonal of no elements"))?
        }
        None => 0,
    };
    let upper = call.flag("upper", true);
    let made = structural!(&[array, &zeros(array.element(), &[])?], |views| {
        let zero = &flat(&views[1])?[0];
        let mut made = flat(&views[0])?.to_vec();
        for (index, elements) in made.chunks_exact_mut(columns).enumerate() {
            let diagonal = above.saturating_add((index % rows) as i64);
            let gone = if upper {
                0..diagonal.clamp(0, columns as i64) as usize
            } else {
                diagonal.saturating_add(1).clamp(0, columns as i64) as usize..columns
            };
            elements[gone].fill(zero.clone());
        }
        filled(array.shape(), made)
    })?;
    Ok(vec![made.into()])
}

/// The first steps of each sequence backwards, as many as input 1 says.
fn reverse_sequence(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let array = call.array(0)?;
    let lens = sizes(&call.array(1)?.to_i64s()?)?;
    let (batch, time) = (call.int_or("batch_axis", 1), call.int_or("time_axis", 0));
    let (batch, time) = (axis(batch, array.rank())?, axis(time, array.rank())?);
    let (batches, steps) = (array.shape()[batch], array.shape()[time]);
    if batch == time || lens.len() != batches || lens.iter().any(|&len| len > steps) {
        return Err(OpError::invalid(format!(
            "{:?} with sequences along axis {time} of lengths {lens:?} along axis {batch}",
            array.shape()
        )));
    }
    let made = structural!(&[array], |views| {
        let mut made = views[0].to_owned();
        // An axis that is taken away moves those after it.
        let time = Axis(if batch < time { time - 1 } else { time });
        for (index, &len) in lens.iter().enumerate() {
            let backwards = Slice::new(0, Some(len as isize), -1);
            let source = views[0].index_axis(Axis(batch), index);
            let mut target = made.index_axis_mut(Axis(batch), index);
            target
                .slice_axis_mut(time, Slice::from(0..len))
                .assign(&source.slice_axis(time, backwards));
        }
        Ok::<_, OpError>(made)
    })?;
    Ok(vec![made.into()])
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// The indices of an axis that a slice takes.
    fn taken(len: usize, start: i64, end: i64, step: i64) -> Vec<i64> {
        let (first, taken, step) = bounds(len, start, end, step).unwrap();
        (0..taken as i64).map(|index| first as i64 + index * step as i64).collect()
    }

    #[test]
    fn slices_are_clamped_and_go_both_ways() {
        assert_eq!(taken(5, 1, 4, 2), [1, 3]);
        assert_eq!(taken(5, -2, i64::MAX, 1), [3, 4]);
        assert_eq!(taken(5, i64::MAX, i64::MIN, -2), [4, 2, 0]);
        assert_eq!(taken(5, -1, -4, -1), [4, 3, 2]);
        assert_eq!(taken(5, 3, 1, 1), [0; 0]);
        assert_eq!(taken(5, 1, 3, -1), [0; 0]);
        assert_eq!(taken(5, i64::MIN, 3, -1), [0; 0]);
        assert_eq!(taken(5, i64::MIN, i64::MIN, -1), [0]);
        assert_eq!(taken(5, 1, 5, i64::MAX), [1]);
        assert_eq!(taken(5, 3, i64::MIN, i64::MIN), [3]);
        assert_eq!(taken(0, 0, 1, -1), [0; 0]);
        assert!(bounds(5, 0, 5, 0).is_err());
    }

    #[test]
    fn only_shapes_that_can_be_counted_pass() {
        assert_eq!(count(&[]).unwrap(), 1);
        assert_eq!(count(&[2, 0, 3]).unwrap(), 0);
        assert!(count(&[usize::MAX, 2]).is_err());
        assert!(count(&[usize::MAX, 0, 2]).is_err());
    }
}
