//! Normalisations and losses.

use std::borrow::Cow;

use super::{
    Op,
    reduce::{Lines, Real, count, log_softmax_line, permuted, sum},
};
use crate::{
    interpreter::{Call, OpError, OpResult, axes, axis},
    value::{Array, Element, Value, real_type, shaped},
};

/// The operator of that name.
///
/// # Source
/// <https://onnx.ai/onnx/operators/>
pub(crate) fn find(name: &str) -> Option<Op> {
    Some(match name {
        "BatchNormalization" => |call| real_type!(call.array(0)?.element(), T => batch::<T>(call)),
        "InstanceNormalization" | "GroupNormalization" => {
            |call| real_type!(call.array(0)?.element(), T => group::<T>(call))
        }
        "LayerNormalization" => |call| real_type!(call.array(0)?.element(), T => layer::<T>(call)),
        "RMSNormalization" => |call| real_type!(call.array(0)?.element(), T => rms::<T>(call)),
        "LpNormalization" => |call| real_type!(call.array(0)?.element(), T => lp::<T>(call)),
        "LRN" => |call| real_type!(call.array(0)?.element(), T => local_response::<T>(call)),
        "MeanVarianceNormalization" => {
            |call| real_type!(call.array(0)?.element(), T => mean_variance::<T>(call))
        }
        "NegativeLogLikelihoodLoss" => {
            |call| real_type!(call.array(0)?.element(), T => negative_log_likelihood::<T>(call))
        }
        "SoftmaxCrossEntropyLoss" => {
            |call| real_type!(call.array(0)?.element(), T => softmax_cross_entropy::<T>(call))
        }
        _ => return None,
    })
}

/// The mean of some numbers and their variance around it.
fn moments<T: Real>(values: &[T]) -> (f64, f64) {
    let len = values.len() as f64;
    let mean = sum(values, T::wide) / len;
    let variance = sum(values, |value: T| (value.wide() - mean).powi(2)) / len;
    (mean, variance)
}

/// `(x - mean) / sqrt(variance + epsilon)` of each row of so many elements; gives
/// each row's mean and the factor.
fn standardise<T: Real>(data: &mut [T], row: usize, epsilon: f64) -> Vec<(f64, f64)> {
    let rows = if data.is_empty() { data.chunks_exact_mut(1) } else { data.chunks_exact_mut(row) };
    let row = |row: &mut [T]| {
        let (mean, variance) = moments(row);
        let factor = (variance + epsilon).sqrt().recip();
        let (shift, scale) = (T::narrow(mean), T::narrow(factor));
        row.iter_mut().for_each(|value| *value = (*value - shift) * scale);
        (mean, factor)
    };
    rows.map(row).collect()
}

/// `x * scale + bias`, with a scale and a bias for `inner` elements at a time,
/// over and over.
fn rescale<T: Real>(data: &mut [T], inner: usize, scale: &[T], bias: &[T]) {
    if data.is_empty() {
        return;
    }
    for block in data.chunks_exact_mut(inner * scale.len()) {
        let factors = scale.iter().zip(bias);
        if inner == 1 {
            for (value, (&scale, &bias)) in block.iter_mut().zip(factors) {
                *value = *value * scale + bias;
            }
        } else {
            for (part, (&scale, &bias)) in block.chunks_exact_mut(inner).zip(factors) {
                part.iter_mut().for_each(|value| *value = *value * scale + bias);
            }
        }
    }
}

/// An input of one number for each of `len` things.
fn vector<'a, T: Real>(call: &'a Call<'_>, index: usize, len: usize) -> OpResult<Cow<'a, [T]>> {
    let array = call.array(index)?;
    if array.len() != len {
        let shape = array.shape();
        return Err(OpError::invalid(format!("input {index} of shape {shape:?} for {len}")));
    }
    T::read(array)
}

fn epsilon(call: &Call<'_>) -> f64 {
    call.float_or("epsilon", 1e-5).into()
}

/// How many channels `[batch, channel, ..]` has, and how many elements of each
/// lie together; what has one axis has one channel.
fn channels(shape: &[usize]) -> (usize, usize) {
    match shape {
        [_, channels, inner @ ..] => (*channels, count(inner)),
        _ => (1, 1),
    }
}

/// `BatchNormalization`: each channel by the statistics that are given, or in
/// training by its own, which then move the given ones.
fn batch<T: Real>(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let array = call.array(0)?;
    let (mut channels, mut inner) = channels(array.shape());
    if !call.flag("spatial", true) {
        (channels, inner) = (channels.saturating_mul(inner), 1);
    }
    let wide = |index| -> OpResult<Vec<f64>> { Ok(vector(call, index, channels)?.into_owned()) };
    let (scale, bias, mean, variance) = (wide(1)?, wide(2)?, wide(3)?, wide(4)?);
    let training = match call.opset() < 14 {
        true => (1..5).any(|output| call.wants(output)),
        false => call.flag("training_mode", false),
    };
    let mut data = T::read(array)?.into_owned();
    let (used_mean, used_variance) = if training {
        let own = |channel: usize| channel_moments(&data, channels, inner, channel);
        (0..channels).map(own).unzip()
    } else {
        (mean.clone(), variance.clone())
    };
    let epsilon = epsilon(call);
    let narrow = |values: &mut dyn Iterator<Item = f64>| values.map(T::narrow).collect::<Vec<_>>();
    let factors = || scale.iter().zip(&used_variance).map(|(s, v)| s / (v + epsilon).sqrt());
    let shifts = factors().zip(&used_mean).zip(&bias).map(|((f, m), b)| b - m * f);
    rescale(&mut data, inner, &narrow(&mut factors()), &narrow(&mut { shifts }));
    let mut made = vec![T::write(array.element(), array.shape(), data)?.into()];
    if training {
        let momentum = f64::from(call.float_or("momentum", 0.9));
        let moved = |before: &[f64], now: &[f64]| -> Vec<f64> {
            before.iter().zip(now).map(|(b, n)| b * momentum + n * (1.0 - momentum)).collect()
        };
        let statistics = [
            (3, moved(&mean, &used_mean)),
            (4, moved(&variance, &used_variance)),
            (3, used_mean),
            (4, used_variance),
        ];
        for (index, values) in statistics {
            let like = call.array(index)?;
            made.push(Array::from_f64s(like.element(), like.shape(), &values)?.into());
        }
    }
    Ok(made)
}

/// [`moments`] of a channel of `[batch, channels, inner]`.
fn channel_moments<T: Real>(
    data: &[T],
    channels: usize,
    inner: usize,
    channel: usize,
) -> (f64, f64) {
    if data.is_empty() {
        return (f64::NAN, f64::NAN);
    }
    let parts = || data.chunks_exact(inner).skip(channel).step_by(channels);
    let len = (data.len() / channels) as f64;
    let mean = parts().map(|part| sum(part, T::wide)).sum::<f64>() / len;
    let square = |value: T| (value.wide() - mean).powi(2);
    (mean, parts().map(|part| sum(part, square)).sum::<f64>() / len)
}

/// `InstanceNormalization` and `GroupNormalization`: for each element of the
/// batch, each group of channels by its own statistics. Scale and bias are for
/// each channel; for `GroupNormalization` before operator set 21, for each group.
fn group<T: Real>(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let array = call.array(0)?;
    if array.rank() < 2 {
        return Err(OpError::invalid(format!("shape {:?} has no channels", array.shape())));
    }
    let (channels, inner) = channels(array.shape());
    let instance = call.op() == "InstanceNormalization";
    let groups = match call.int("num_groups") {
        _ if instance => channels,
        Some(groups) => usize::try_from(groups).unwrap_or(0),
        None => return Err(OpError::invalid("attribute \"num_groups\" is missing")),
    };
    if !instance && (groups == 0 || !channels.is_multiple_of(groups)) {
        return Err(OpError::invalid(format!("{channels} channels in {groups} groups")));
    }
    let mut data = T::read(array)?.into_owned();
    let row = if data.is_empty() { 1 } else { channels / groups * inner };
    let (scales, scaled) = match instance || call.opset() >= 21 {
        true => (channels, inner),
        false => (groups, row),
    };
    let (scale, bias) = (vector(call, 1, scales)?, vector(call, 2, scales)?);
    standardise(&mut data, row, epsilon(call));
    rescale(&mut data, scaled, &scale, &bias);
    Ok(vec![T::write(array.element(), array.shape(), data)?.into()])
}

/// How many elements lie from the axis of the attribute on, and the shape with
/// those axes 1.
fn rows(call: &Call<'_>, array: &Array) -> OpResult<(usize, Vec<usize>)> {
    let mut shape = array.shape().to_vec();
    let along = axis(call.int_or("axis", -1), shape.len())?;
    let row = count(&shape[along..]);
    shape[along..].fill(1);
    Ok((row, shape))
}

/// A scale or bias that broadcasts to `shape`: for one row of so many elements
/// if all have the same, else for all elements.
fn spread<'a, T: Real>(array: &'a Array, shape: &[usize], row: usize) -> OpResult<Cow<'a, [T]>> {
    let values = T::read(array)?;
    let own = array.shape();
    let leading = own.iter().take_while(|&&d| d == 1).count();
    if values.len() == row && shape.ends_with(&own[leading..]) {
        return Ok(values);
    }
    let all = shaped(own, &values)?;
    match all.broadcast(shape) {
        Some(all) => Ok(all.iter().copied().collect()),
        None => Err(OpError::invalid(format!("shape {own:?} does not broadcast to {shape:?}"))),
    }
}

fn layer<T: Real>(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let array = call.array(0)?;
    let (row, statistics) = rows(call, array)?;
    let stash = Element::from_onnx(i32::try_from(call.int_or("stash_type", 1)).unwrap_or(0));
    let stash = stash.filter(|element| element.is_float());
    let stash = stash.ok_or_else(|| OpError::unsupported("a stash_type that is no float"))?;
    let mut data = T::read(array)?.into_owned();
    let scale = spread::<T>(call.array(1)?, array.shape(), row)?;
    let bias = call.optional(2)?;
    let bias = bias.map(|bias| spread::<T>(bias, array.shape(), row)).transpose()?;
    let factors = standardise(&mut data, row, epsilon(call));
    match bias {
        Some(bias) if bias.len() == scale.len() => rescale(&mut data, 1, &scale, &bias),
        bias => {
            rescale(&mut data, 1, &scale, &vec![T::zero(); scale.len()]);
            if let Some(bias) = bias {
                rescale(&mut data, 1, &vec![T::one(); bias.len()], &bias);
            }
        }
    }
    let (means, factors): (Vec<f64>, Vec<f64>) = match data.is_empty() {
        true => {
            call.reserve(stash, &statistics)?;
            vec![(f64::NAN, f64::NAN); count(&statistics)].into_iter().unzip()
        }
        false => factors.into_iter().unzip(),
    };
    Ok(vec![
        T::write(array.element(), array.shape(), data)?.into(),
        Array::from_f64s(stash, &statistics, &means)?.into(),
        Array::from_f64s(stash, &statistics, &factors)?.into(),
    ])
}

/// `RMSNormalization`; gives the type of the scale.
fn rms<T: Real>(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let array = call.array(0)?;
    let (row, _) = rows(call, array)?;
    let mut data = T::read(array)?.into_owned();
    let scale = spread::<T>(call.array(1)?, array.shape(), row)?;
    let epsilon = epsilon(call);
    Lines { len: row, inner: 1 }.each(&mut data, |row| {
        let mean = sum(row, |value: T| value.wide().powi(2)) / row.len() as f64;
        let factor = T::narrow((mean + epsilon).sqrt().recip());
        row.iter_mut().for_each(|value| *value *= factor);
    });
    rescale(&mut data, 1, &scale, &vec![T::zero(); scale.len()]);
    Ok(vec![T::write(call.array(1)?.element(), array.shape(), data)?.into()])
}

/// `LpNormalization`: each line over its norm. A line of zeros is 0 / 0.
fn lp<T: Real>(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let array = call.array(0)?;
    let lines = Lines::along(array.shape(), axis(call.int_or("axis", -1), array.rank())?);
    let norm: fn(&[T]) -> f64 = match call.int_or("p", 2) {
        1 => |line| sum(line, |value| value.wide().abs()),
        2 => |line| sum(line, |value| value.wide().powi(2)).sqrt(),
        other => return Err(OpError::unsupported(format!("p is {other}"))),
    };
    let mut data = T::read(array)?.into_owned();
    lines.each(&mut data, |line| {
        let norm = T::narrow(norm(line));
        line.iter_mut().for_each(|value| *value /= norm);
    });
    Ok(vec![T::write(array.element(), array.shape(), data)?.into()])
}

/// `LRN`: each element by the squares in its place of the channels around it.
fn local_response<T: Real>(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let array = call.array(0)?;
    if array.rank() < 2 {
        return Err(OpError::invalid(format!("shape {:?} has no channels", array.shape())));
    }
    let size = call.int("size").filter(|&size| size > 0);
    let size =
        size.ok_or_else(|| OpError::invalid("attribute \"size\" is missing or not positive"))?;
    let (before, after) = ((size - 1) as usize / 2, (size - 1) as usize - (size - 1) as usize / 2);
    let scale = f64::from(call.float_or("alpha", 1e-4)) / size as f64;
    let beta = T::narrow(call.float_or("beta", 0.75).into());
    let bias = T::narrow(call.float_or("bias", 1.0).into());
    let scale = T::narrow(scale);
    let lines = Lines::along(array.shape(), 1);
    let mut data = T::read(array)?.into_owned();
    let mut squares = Vec::new();
    lines.each(&mut data, |line| {
        squares.clear();
        squares.extend(line.iter().map(|&value| value * value));
        for (channel, value) in line.iter_mut().enumerate() {
            let end = channel.saturating_add(after).saturating_add(1).min(squares.len());
            let around = &squares[channel.saturating_sub(before)..end];
            let sum = around.iter().fold(T::zero(), |sum, &square| sum + square);
            *value /= (bias + scale * sum).powf(beta);
        }
    });
    Ok(vec![T::write(array.element(), array.shape(), data)?.into()])
}

/// `MeanVarianceNormalization`: by the statistics over the axes.
///
/// # Source
/// The function body in ONNX's operator set 13 adds 1e-9 to the deviation.
fn mean_variance<T: Real>(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let array = call.array(0)?;
    let rank = array.rank();
    let mut normalised = axes(call.ints("axes").unwrap_or(&[0, 2, 3]), rank)?;
    let len = normalised.iter().fold(1, |len: usize, &a| len.saturating_mul(array.shape()[a]));
    let mut order: Vec<usize> = (0..rank).filter(|a| !normalised.contains(a)).collect();
    order.append(&mut normalised);
    let mut back = vec![0; rank];
    order.iter().enumerate().for_each(|(to, &from)| back[from] = to);
    let moved = permuted(array, &order)?;
    let mut data = T::read(&moved)?.into_owned();
    Lines { len, inner: 1 }.each(&mut data, |row| {
        let (mean, variance) = moments(row);
        let (shift, scale) = (T::narrow(mean), T::narrow((variance.sqrt() + 1e-9).recip()));
        row.iter_mut().for_each(|value| *value = (*value - shift) * scale);
    });
    let made = T::write(array.element(), moved.shape(), data)?;
    Ok(vec![permuted(&made, &back)?.into()])
}

fn negative_log_likelihood<T: Real>(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let array = call.array(0)?;
    Ok(vec![loss(call, &T::read(array)?)?.into()])
}

/// `SoftmaxCrossEntropyLoss`; its second output is the logarithm of the softmax.
fn softmax_cross_entropy<T: Real>(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let array = call.array(0)?;
    if array.rank() < 2 {
        return Err(OpError::invalid(format!("shape {:?} has no classes", array.shape())));
    }
    let mut scores = T::read(array)?.into_owned();
    Lines::along(array.shape(), 1).each(&mut scores, log_softmax_line);
    let loss = loss(call, &scores)?;
    Ok(vec![loss.into(), T::write(array.element(), array.shape(), scores)?.into()])
}

/// The loss of the logarithms of probabilities, in input 0's shape `[batch,
/// class, ..]`, for the classes `[batch, ..]` of input 1, weighted by class
/// where input 2 is given. What is of the class to ignore counts for nothing.
fn loss<T: Real>(call: &Call<'_>, scores: &[T]) -> OpResult<Array> {
    let (array, classes) = (call.array(0)?, call.array(1)?);
    let (count, inner) = channels(array.shape());
    let fits = match (array.shape(), classes.shape()) {
        ([batch, _, inner @ ..], [of, around @ ..]) => of == batch && around == inner,
        _ => false,
    };
    if !fits {
        let (scores, classes) = (array.shape(), classes.shape());
        return Err(OpError::invalid(format!("scores {scores:?} for classes {classes:?}")));
    }
    let weights = match call.value(2) {
        Some(_) => Some(vector::<T>(call, 2, count)?),
        None => None,
    };
    let ignored = call.int("ignore_index");
    let mut weight_sum = 0.0;
    let mut losses = Vec::with_capacity(classes.len());
    for (at, class) in classes.to_i64s()?.into_iter().enumerate() {
        if Some(class) == ignored {
            losses.push(T::zero());
            continue;
        }
        let index = usize::try_from(class).ok().filter(|&class| class < count);
        let index = index.ok_or_else(|| OpError::invalid(format!("class {class} of {count}")))?;
        let weight = weights.as_ref().map_or(T::one(), |weights| weights[index]);
        weight_sum += weight.wide();
        losses.push(-scores[(at / inner * count + index) * inner + at % inner] * weight);
    }
    let element = array.element();
    let total = || sum(&losses, T::wide);
    match call.text_or("reduction", "mean") {
        "none" => T::write(element, classes.shape(), losses),
        "sum" => T::write(element, &[], vec![T::narrow(total())]),
        "mean" => T::write(element, &[], vec![T::narrow(total() / weight_sum)]),
        other => Err(OpError::unsupported(format!("reduction {other:?}"))),
    }
}
