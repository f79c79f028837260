//! Operators that move elements without looking at them.

use burn_backend::{
    Slice,
    ops::{BoolTensorOps, FloatTensorOps, IntTensorOps},
};
use burn_dispatch::{Dispatch as D, DispatchTensor as T};

use super::{DeviceCall, Op, expand, one, permute, value};
use crate::{
    gpu::device::{DeviceTensor, Storage},
    interpreter::{OpError, OpResult, axes, axis, broadcast_shape, reshaped, sizes},
    value::{Array, Value},
};

pub(super) fn find(name: &str) -> Option<Op> {
    Some(match name {
        "Identity" => identity,
        "Shape" | "Size" => shape,
        "Reshape" => reshape,
        "Flatten" => flatten,
        "Squeeze" => squeeze,
        "Unsqueeze" => unsqueeze,
        "Transpose" => transpose,
        "Concat" => concat,
        "Split" => split,
        "Slice" => slice,
        "Expand" => broadcast,
        "Tile" => tile,
        "Pad" => pad,
        "Gather" => gather,
        "GatherElements" => gather_elements,
        "DepthToSpace" => depth_to_space,
        "SpaceToDepth" => space_to_depth,
        "Trilu" => trilu,
        _ => return None,
    })
}

fn identity(call: &DeviceCall<'_>) -> OpResult<Vec<Value>> {
    Ok(vec![call.need(0)?.clone()])
}

/// The shape is known here, wherever the tensor is.
fn shape(call: &DeviceCall<'_>) -> OpResult<Vec<Value>> {
    let shape = call.shape_of(0)?;
    if call.op() == "Size" {
        return Ok(vec![Array::scalar(shape.iter().product::<usize>() as i64).into()]);
    }
    let rank = shape.len() as i64;
    let bound = |name, default| {
        let at = call.int_or(name, default);
        (if at < 0 { at.saturating_add(rank) } else { at }).clamp(0, rank) as usize
    };
    let part = shape.get(bound("start", 0)..bound("end", rank)).unwrap_or(&[]);
    Ok(vec![Array::new(&[part.len()], part.iter().map(|&d| d as i64).collect::<Vec<_>>())?.into()])
}

fn moved(tensor: DeviceTensor) -> OpResult<Vec<Value>> {
    Ok(vec![Value::Device(tensor)])
}

fn reshape(call: &DeviceCall<'_>) -> OpResult<Vec<Value>> {
    let x = call.tensor(0)?;
    let wanted = match call.ints("shape") {
        Some(wanted) => wanted.to_vec(),
        None => call.known(1)?.to_i64s()?,
    };
    let target = reshaped(x.shape(), &wanted, call.flag("allowzero", false))?;
    moved(x.reshape(&target)?)
}

fn flatten(call: &DeviceCall<'_>) -> OpResult<Vec<Value>> {
    let x = call.tensor(0)?;
    let at = call.int_or("axis", 1);
    let rank = x.rank() as i64;
    let at = if at < 0 { at.saturating_add(rank) } else { at };
    if !(0..=rank).contains(&at) {
        return Err(OpError::invalid(format!("axis {at} of a tensor of rank {rank}")));
    }
    let (outer, inner) = x.shape().split_at(at as usize);
    moved(x.reshape(&[outer.iter().product(), inner.iter().product()])?)
}

/// The axes of `Squeeze` and `Unsqueeze`: an attribute, and from operator set 13
/// on an input.
fn given_axes(call: &DeviceCall<'_>) -> OpResult<Option<Vec<i64>>> {
    match call.ints("axes") {
        Some(axes) => Ok(Some(axes.to_vec())),
        None => call.optional_known(1)?.map(Array::to_i64s).transpose(),
    }
}

fn squeeze(call: &DeviceCall<'_>) -> OpResult<Vec<Value>> {
    let x = call.tensor(0)?;
    let gone = match given_axes(call)? {
        Some(list) => axes(&list, x.rank())?,
        None => (0..x.rank()).filter(|&d| x.shape()[d] == 1).collect(),
    };
    if let Some(&d) = gone.iter().find(|&&d| x.shape()[d] != 1) {
        return Err(OpError::invalid(format!("axis {d} of {:?} is not 1", x.shape())));
    }
    let kept = x.shape().iter().enumerate().filter(|(d, _)| !gone.contains(d));
    moved(x.reshape(&kept.map(|(_, &size)| size).collect::<Vec<_>>())?)
}

fn unsqueeze(call: &DeviceCall<'_>) -> OpResult<Vec<Value>> {
    let x = call.tensor(0)?;
    let list = given_axes(call)?.ok_or_else(|| OpError::invalid("axes are missing"))?;
    let rank = x.rank() + list.len();
    let new = axes(&list, rank)?;
    let mut old = x.shape().iter();
    let shape: Vec<usize> = (0..rank)
        .map(|d| if new.contains(&d) { 1 } else { old.next().copied().unwrap_or(1) })
        .collect();
    moved(x.reshape(&shape)?)
}

fn transpose(call: &DeviceCall<'_>) -> OpResult<Vec<Value>> {
    let x = call.tensor(0)?;
    let order = match call.ints("perm") {
        Some(order) => axes(order, x.rank())?,
        None => (0..x.rank()).rev().collect(),
    };
    if order.len() != x.rank() {
        return Err(OpError::invalid(format!("perm {order:?} of a tensor of rank {}", x.rank())));
    }
    if x.rank() < 2 {
        return moved(x);
    }
    moved(permute(&x, &order))
}

/// Tensors of one element type after another along an axis.
pub(super) fn join(tensors: &[DeviceTensor], along: usize) -> OpResult<DeviceTensor> {
    let first = tensors.first().ok_or_else(|| OpError::invalid("nothing to concatenate"))?;
    let mut shape = first.shape().to_vec();
    shape[along] = 0;
    for tensor in tensors {
        let fits = tensor.rank() == first.rank()
            && tensor.element() == first.element()
            && tensor.shape().iter().enumerate().all(|(d, &s)| d == along || s == shape[d]);
        if !fits {
            let (a, b) = (first.shape(), tensor.shape());
            return Err(OpError::invalid(format!("{a:?} and {b:?} along axis {along}")));
        }
        shape[along] += tensor.shape()[along];
    }
    let parts: Vec<T> = tensors.iter().map(|t| t.tensor.clone()).collect();
    let made = match first.storage() {
        Storage::Float => D::float_cat(parts, along),
        Storage::Int => D::int_cat(parts, along),
        Storage::Bool => D::bool_cat(parts, along),
    };
    DeviceTensor::new(made, first.element()).reshape(&shape)
}

fn concat(call: &DeviceCall<'_>) -> OpResult<Vec<Value>> {
    let mut tensors = Vec::new();
    for index in 0..call.input_count() {
        // What has no elements adds none, and is not kept on the device.
        if call.shape_of(index)?.contains(&0) {
            continue;
        }
        tensors.push(call.tensor(index)?);
    }
    let rank = tensors.first().map_or(0, DeviceTensor::rank);
    moved(join(&tensors, axis(call.int_or("axis", 1), rank)?)?)
}

/// A part: for each dimension a first index, a count, and a step, which may be
/// negative.
pub(super) fn part(x: &DeviceTensor, parts: &[(usize, usize, isize)]) -> OpResult<DeviceTensor> {
    let shape: Vec<usize> = parts.iter().map(|p| p.1).collect();
    if shape.contains(&0) {
        return Err(OpError::unsupported("a tensor without elements"));
    }
    let mut flipped = Vec::new();
    let slices: Vec<Slice> = parts
        .iter()
        .enumerate()
        .map(|(d, &(first, count, step))| {
            let span = (count - 1) * step.unsigned_abs();
            // Backwards is forwards over the same elements, turned round.
            let start = if step < 0 { first - span } else { first };
            if step < 0 {
                flipped.push(d);
            }
            Slice::new(start as isize, Some((start + span + 1) as isize), step.abs())
        })
        .collect();
    let t = x.tensor.clone();
    let mut made = match x.storage() {
        Storage::Float => D::float_slice(t, &slices),
        Storage::Int => D::int_slice(t, &slices),
        Storage::Bool => D::bool_slice(t, &slices),
    };
    if !flipped.is_empty() {
        made = match x.storage() {
            Storage::Float => D::float_flip(made, &flipped),
            Storage::Int => D::int_flip(made, &flipped),
            Storage::Bool => D::bool_flip(made, &flipped),
        };
    }
    DeviceTensor::new(made, x.element()).reshape(&shape)
}

/// Indices `from..from + count` of one dimension.
pub(super) fn range(
    x: &DeviceTensor,
    along: usize,
    from: usize,
    count: usize,
) -> OpResult<DeviceTensor> {
    let mut parts: Vec<(usize, usize, isize)> = x.shape().iter().map(|&s| (0, s, 1)).collect();
    parts[along] = (from, count, 1);
    part(x, &parts)
}

fn split(call: &DeviceCall<'_>) -> OpResult<Vec<Value>> {
    let x = call.tensor(0)?;
    let along = axis(call.int_or("axis", 0), x.rank())?;
    let whole = x.shape()[along];
    let counts = match (call.ints("split"), call.optional_known(1)?) {
        (Some(list), _) => sizes(list)?,
        (None, Some(list)) => sizes(&list.to_i64s()?)?,
        (None, None) => {
            let count = call.int_or("num_outputs", call.output_count() as i64).max(1) as usize;
            if count > call.output_count() {
                return Err(OpError::unsupported(format!("{count} parts")));
            }
            let each = whole.div_ceil(count);
            (0..count).map(|i| each.min(whole.saturating_sub(i * each))).collect()
        }
    };
    if counts.iter().fold(0usize, |sum, &count| sum.saturating_add(count)) != whole {
        return Err(OpError::invalid(format!("{counts:?} of {whole} along axis {along}")));
    }
    let mut from = 0;
    let mut outputs = Vec::new();
    for count in counts {
        outputs.push(Value::Device(range(&x, along, from, count)?));
        from += count;
    }
    Ok(outputs)
}

fn ceil_div(span: i64, step: i64) -> i64 {
    (span + step - 1) / step
}

fn slice(call: &DeviceCall<'_>) -> OpResult<Vec<Value>> {
    let x = call.tensor(0)?;
    let list = |name: &str, index: usize| -> OpResult<Option<Vec<i64>>> {
        match call.call.ints(name) {
            Some(list) => Ok(Some(list.to_vec())),
            None => call.optional_known(index)?.map(Array::to_i64s).transpose(),
        }
    };
    let missing = || OpError::invalid("starts or ends are missing");
    let starts = list("starts", 1)?.ok_or_else(missing)?;
    let ends = list("ends", 2)?.ok_or_else(missing)?;
    let along = match list("axes", 3)? {
        Some(along) => axes(&along, x.rank())?,
        None => (0..starts.len().min(x.rank())).collect(),
    };
    let steps = list("steps", 4)?.unwrap_or_else(|| vec![1; starts.len()]);
    if [ends.len(), along.len(), steps.len()].iter().any(|&len| len != starts.len()) {
        return Err(OpError::invalid("starts, ends, axes and steps of different lengths"));
    }
    let mut parts: Vec<(usize, usize, isize)> = x.shape().iter().map(|&s| (0, s, 1)).collect();
    for (index, &d) in along.iter().enumerate() {
        let (size, step) = (x.shape()[d] as i64, steps[index]);
        let place = |at: i64| if at < 0 { at.saturating_add(size) } else { at };
        let (start, end) = (place(starts[index]), place(ends[index]));
        let (start, count) = match step {
            0 => return Err(OpError::invalid("a step of 0")),
            1.. => {
                let (start, end) = (start.clamp(0, size), end.clamp(0, size));
                (start, ceil_div((end - start).max(0), step.min(size.max(1))))
            }
            _ => {
                let (start, end) = (start.clamp(-1, size - 1), end.clamp(-1, size - 1));
                let step = step.saturating_abs().min(size.max(1));
                (start, ceil_div((start - end).max(0), step))
            }
        };
        let step = step.clamp(-size.max(1), size.max(1));
        parts[d] = (start.max(0) as usize, count as usize, step as isize);
    }
    moved(part(&x, &parts)?)
}

fn broadcast(call: &DeviceCall<'_>) -> OpResult<Vec<Value>> {
    let x = call.tensor(0)?;
    let wanted = sizes(&call.known(1)?.to_i64s()?)?;
    let shape = broadcast_shape(&[x.shape(), &wanted])?;
    call.reserve(x.element(), &shape)?;
    if shape.contains(&0) {
        return Err(OpError::unsupported("a tensor without elements"));
    }
    one(expand(&x, &shape)?, &shape, x.element())
}

fn tile(call: &DeviceCall<'_>) -> OpResult<Vec<Value>> {
    let x = call.tensor(0)?;
    let repeats = sizes(&call.known(1)?.to_i64s()?)?;
    if repeats.len() != x.rank() || repeats.contains(&0) {
        return Err(OpError::unsupported(format!("{repeats:?} repeats of {:?}", x.shape())));
    }
    let shape: Vec<usize> =
        x.shape().iter().zip(&repeats).map(|(&s, &r)| s.saturating_mul(r)).collect();
    call.reserve(x.element(), &shape)?;
    let mut t = x.tensor.clone();
    for (d, &times) in repeats.iter().enumerate().filter(|(_, times)| **times > 1) {
        t = match x.storage() {
            Storage::Float => D::float_repeat_dim(t, d, times),
            Storage::Int => D::int_repeat_dim(t, d, times),
            Storage::Bool => D::bool_repeat_dim(t, d, times),
        };
    }
    one(t, &shape, x.element())
}

/// A float tensor with `before` and `after` elements of `fill` around each
/// dimension.
pub(super) fn surround(
    x: &DeviceTensor,
    around: &[(usize, usize)],
    fill: f32,
) -> OpResult<DeviceTensor> {
    let mut whole = x.clone();
    for (d, &(before, after)) in around.iter().enumerate() {
        if before == 0 && after == 0 {
            continue;
        }
        let block = |count: usize| -> OpResult<DeviceTensor> {
            let mut shape = whole.shape().to_vec();
            shape[d] = count;
            let filled = D::float_full(
                shape.clone().into(),
                burn_backend::Scalar::Float(fill.into()),
                &burn_backend::TensorMetadata::device(&whole.tensor),
                crate::gpu::device::float_type(&whole.tensor),
            );
            DeviceTensor::new(filled, whole.element()).reshape(&shape)
        };
        let mut parts = Vec::new();
        if before > 0 {
            parts.push(block(before)?);
        }
        parts.push(whole.clone());
        if after > 0 {
            parts.push(block(after)?);
        }
        whole = join(&parts, d)?;
    }
    Ok(whole)
}

fn pad(call: &DeviceCall<'_>) -> OpResult<Vec<Value>> {
    let x = call.tensor(0)?;
    if x.storage() != Storage::Float {
        return Err(OpError::unsupported(format!("{} on the device", x.element())));
    }
    let mode = call.text_or("mode", "constant");
    let list = match call.ints("pads") {
        Some(pads) => pads.to_vec(),
        None => call.known(1)?.to_i64s()?,
    };
    let along = match call.optional_known(3)? {
        Some(list) => axes(&list.to_i64s()?, x.rank())?,
        None => (0..x.rank()).collect(),
    };
    if list.len() != along.len() * 2 {
        return Err(OpError::invalid(format!("{} pads for {} axes", list.len(), along.len())));
    }
    let fill = match call.optional_known(2)? {
        Some(value) => value.to_f32s()?.first().copied().unwrap_or(0.0),
        None => call.float_or("value", 0.0),
    };
    let mut around = vec![(0usize, 0usize); x.rank()];
    let mut shape = x.shape().to_vec();
    let mut kept: Vec<(usize, usize, isize)> = x.shape().iter().map(|&s| (0, s, 1)).collect();
    for (index, &d) in along.iter().enumerate() {
        let (before, after) = (list[index], list[along.len() + index]);
        let size = x.shape()[d] as i64;
        // What is negative is cut off first.
        let (cut_before, cut_after) =
            (before.min(0).saturating_neg(), after.min(0).saturating_neg());
        let left = size.saturating_sub(cut_before).saturating_sub(cut_after);
        if left <= 0 {
            return Err(OpError::unsupported("pads that leave no elements"));
        }
        kept[d] = (cut_before as usize, left as usize, 1);
        around[d] = (before.max(0) as usize, after.max(0) as usize);
        shape[d] = (left as usize).saturating_add(around[d].0).saturating_add(around[d].1);
    }
    call.reserve(x.element(), &shape)?;
    let x = part(&x, &kept)?;
    if mode == "constant" {
        return moved(surround(&x, &around, fill)?);
    }
    // Every element of the result is one of the tensor: pick it by index.
    let mut whole = x;
    for (d, &(before, after)) in around.iter().enumerate() {
        if before == 0 && after == 0 {
            continue;
        }
        let size = whole.shape()[d] as i64;
        let indices = (-(before as i64)..size + after as i64).map(|at| match mode {
            "edge" => at.clamp(0, size - 1),
            "wrap" => at.rem_euclid(size),
            _ if size == 1 => 0,
            _ => {
                let period = 2 * (size - 1);
                let at = at.rem_euclid(period);
                at.min(period - at)
            }
        });
        whole = pick(call, &whole, d, &indices.collect::<Vec<_>>())?;
    }
    moved(whole)
}

/// The elements at these indices of one dimension, which are within it.
pub(super) fn pick(
    call: &DeviceCall<'_>,
    x: &DeviceTensor,
    along: usize,
    indices: &[i64],
) -> OpResult<DeviceTensor> {
    let mut shape = x.shape().to_vec();
    shape[along] = indices.len();
    let list = call.device().upload(&Array::new(&[indices.len()], indices.to_vec())?)?;
    let t = x.tensor.clone();
    let made = match x.storage() {
        Storage::Float => D::float_select(t, along, list.tensor),
        Storage::Int => D::int_select(t, along, list.tensor),
        Storage::Bool => D::bool_select(t, along, list.tensor),
    };
    DeviceTensor::new(made, x.element()).reshape(&shape)
}

/// Indices given as a tensor, negative ones counted from the end; refused where
/// they are out of range.
fn wrapped(indices: &Array, size: usize) -> OpResult<Vec<i64>> {
    let size = size as i64;
    indices
        .to_i64s()?
        .into_iter()
        .map(|at| match if at < 0 { at.saturating_add(size) } else { at } {
            index if (0..size).contains(&index) => Ok(index),
            _ => Err(OpError::invalid(format!("index {at} of {size}"))),
        })
        .collect()
}

fn gather(call: &DeviceCall<'_>) -> OpResult<Vec<Value>> {
    let x = call.tensor(0)?;
    let along = axis(call.int_or("axis", 0), x.rank())?;
    let places = call.shape_of(1)?;
    let shape = [&x.shape()[..along], &places, &x.shape()[along + 1..]].concat();
    call.reserve(x.element(), &shape)?;
    if shape.contains(&0) {
        return Err(OpError::unsupported("a tensor without elements"));
    }
    let picked = match call.need(1)? {
        // What is on the device may point anywhere; only here can it be checked.
        indices @ Value::Device(_) => {
            let indices = call.lane.host(indices)?;
            pick(call, &x, along, &wrapped(indices.array()?, x.shape()[along])?)?
        }
        indices => pick(call, &x, along, &wrapped(indices.array()?, x.shape()[along])?)?,
    };
    moved(picked.reshape(&shape)?)
}

fn gather_elements(call: &DeviceCall<'_>) -> OpResult<Vec<Value>> {
    let x = call.tensor(0)?;
    let along = axis(call.int_or("axis", 0), x.rank())?;
    let indices = call.known(1)?;
    let shape = indices.shape().to_vec();
    let fits = shape.len() == x.rank()
        && shape.iter().zip(x.shape()).enumerate().all(|(d, (i, s))| d == along || i == s);
    if !fits || shape.contains(&0) {
        return Err(OpError::unsupported(format!("indices {shape:?} into {:?}", x.shape())));
    }
    let list = wrapped(indices, x.shape()[along])?;
    let list = call.device().upload(&Array::new(&shape, list)?)?.tensor;
    let t = x.tensor.clone();
    let made = match x.storage() {
        Storage::Float => D::float_gather(along, t, list),
        Storage::Int => D::int_gather(along, t, list),
        Storage::Bool => D::bool_gather(along, t, list),
    };
    one(made, &shape, x.element())
}

fn image(x: &DeviceTensor, block: i64) -> OpResult<([usize; 4], usize)> {
    match (x.shape(), usize::try_from(block)) {
        (&[n, c, h, w], Ok(block)) if block > 0 => Ok(([n, c, h, w], block)),
        (shape, _) => Err(OpError::invalid(format!("blocks of {block} in {shape:?}"))),
    }
}

fn depth_to_space(call: &DeviceCall<'_>) -> OpResult<Vec<Value>> {
    let x = call.tensor(0)?;
    let ([n, c, h, w], b) = image(&x, call.int_or("blocksize", 0))?;
    if b > c || c % (b * b) != 0 {
        return Err(OpError::invalid(format!("{c} channels in blocks of {b}")));
    }
    let depth = c / (b * b);
    let made = if call.text_or("mode", "DCR") == "DCR" {
        permute(&x.reshape(&[n, b, b, depth, h, w])?, &[0, 3, 4, 1, 5, 2])
    } else {
        permute(&x.reshape(&[n, depth, b, b, h, w])?, &[0, 1, 4, 2, 5, 3])
    };
    moved(made.reshape(&[n, depth, h * b, w * b])?)
}

fn space_to_depth(call: &DeviceCall<'_>) -> OpResult<Vec<Value>> {
    let x = call.tensor(0)?;
    let ([n, c, h, w], b) = image(&x, call.int_or("blocksize", 0))?;
    if h % b != 0 || w % b != 0 {
        return Err(OpError::invalid(format!("{h}x{w} in blocks of {b}")));
    }
    let made = permute(&x.reshape(&[n, c, h / b, b, w / b, b])?, &[0, 3, 5, 1, 2, 4]);
    moved(made.reshape(&[n, c * b * b, h / b, w / b])?)
}

/// The upper or lower triangle of the last two dimensions, nought elsewhere.
fn trilu(call: &DeviceCall<'_>) -> OpResult<Vec<Value>> {
    let x = call.float(0)?;
    let &[.., rows, columns] = x.shape() else {
        return Err(OpError::invalid(format!("a triangle of {:?}", x.shape())));
    };
    let offset = match call.optional_known(1)? {
        Some(k) => k.to_i64s()?.first().copied().unwrap_or(0),
        None => 0,
    };
    let upper = call.flag("upper", true);
    let kept: Vec<bool> = (0..rows * columns)
        .map(|at| {
            let beyond = (at % columns) as i64 - (at / columns) as i64;
            if upper { beyond >= offset } else { beyond <= offset }
        })
        .collect();
    let gone: Vec<bool> = kept.iter().map(|k| !k).collect();
    let mask = call.device().upload(&Array::from_bools(&[rows, columns], &gone)?)?;
    let mask = expand(&mask, x.shape())?;
    let made = D::float_mask_fill(x.tensor.clone(), mask, burn_backend::Scalar::Float(0.0));
    Ok(vec![value(made, x.shape(), x.element())?])
}
