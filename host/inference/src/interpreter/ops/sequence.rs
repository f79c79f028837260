//! Sequences and optionals.

use super::{
    Op,
    shape::{join, part, pick, stack},
};
use crate::{
    interpreter::{Call, OpError, OpResult, axis, sizes},
    value::{Array, Value},
};

/// The operator of that name.
///
/// # Source
/// <https://onnx.ai/onnx/operators/>
pub(crate) fn find(name: &str) -> Option<Op> {
    Some(match name {
        "ConcatFromSequence" => concat,
        "Optional" => optional,
        "OptionalGetElement" => get,
        "OptionalHasElement" => has,
        "SequenceAt" => at,
        "SequenceConstruct" => construct,
        "SequenceEmpty" => |_| Ok(vec![Value::Sequence(Vec::new())]),
        "SequenceErase" => erase,
        "SequenceInsert" => insert,
        "SequenceLength" => length,
        "SplitToSequence" => split,
        _ => return None,
    })
}

fn construct(call: &Call<'_>) -> OpResult<Vec<Value>> {
    call.reserve_bytes(call.values().map(Value::size_bytes).fold(0, u64::saturating_add))?;
    let values = (0..call.input_count()).map(|index| call.need(index).cloned());
    Ok(vec![Value::Sequence(values.collect::<OpResult<_>>()?)])
}

/// Which of so many places in a sequence of `len` an input says, if it is given;
/// a negative one counts from the end.
fn place(call: &Call<'_>, input: usize, len: usize, places: usize) -> OpResult<Option<usize>> {
    let Some(position) = call.optional(input)? else {
        return Ok(None);
    };
    let [position] = *position.to_i64s()? else {
        return Err(OpError::invalid(format!("a position of {} elements", position.len())));
    };
    let from_front = if position < 0 { position.saturating_add(len as i64) } else { position };
    match usize::try_from(from_front) {
        Ok(place) if place < places => Ok(Some(place)),
        _ => Err(OpError::invalid(format!("position {position} of a sequence of {len}"))),
    }
}

fn at(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let values = call.need(0)?.sequence()?;
    let place = place(call, 1, values.len(), values.len())?;
    let value = place.and_then(|place| values.get(place));
    Ok(vec![value.cloned().ok_or_else(|| OpError::invalid("there is no position"))?])
}

/// The sequence without the value at a place, or the last.
fn erase(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let mut values = call.need(0)?.sequence()?.to_vec();
    let place = place(call, 1, values.len(), values.len())?;
    match place.or(values.len().checked_sub(1)) {
        Some(place) => values.remove(place),
        None => return Err(OpError::invalid("the sequence is empty")),
    };
    Ok(vec![Value::Sequence(values)])
}

/// The sequence with a value before a place, or at its end.
fn insert(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let mut values = call.need(0)?.sequence()?.to_vec();
    let value = call.need(1)?.clone();
    let place = place(call, 2, values.len(), values.len() + 1)?;
    values.insert(place.unwrap_or(values.len()), value);
    Ok(vec![Value::Sequence(values)])
}

fn length(call: &Call<'_>) -> OpResult<Vec<Value>> {
    Ok(vec![Array::scalar(call.need(0)?.sequence()?.len() as i64).into()])
}

/// Parts along an axis: of the given lengths, or all of one length but the
/// last, or single ones.
fn split(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let array = call.array(0)?;
    let along = axis(call.int_or("axis", 0), array.rank())?;
    let len = array.shape()[along];
    let given = call.optional(1)?;
    let lengths = given.map(|given| sizes(&given.to_i64s()?)).transpose()?;
    let keep = given.is_some() || call.flag("keepdims", true);
    let lengths = match lengths {
        Some(lengths) if given.is_some_and(|given| given.rank() > 0) => lengths,
        other => {
            let each = other.and_then(|each| each.first().copied()).unwrap_or(1);
            if each == 0 {
                return Err(OpError::invalid("parts of length 0"));
            }
            let parts = len.div_ceil(each);
            call.reserve_bytes((parts as u64).saturating_mul(size_of::<Value>() as u64))?;
            (0..parts).map(|index| each.min(len - index * each)).collect()
        }
    };
    if lengths.iter().try_fold(0usize, |sum, &l| sum.checked_add(l)) != Some(len) {
        return Err(OpError::invalid(format!("an axis of {len} in parts of {lengths:?}")));
    }
    let mut start = 0;
    let mut values = Vec::with_capacity(lengths.len());
    for len in lengths {
        let value = if keep { part(array, along, start, len)? } else { pick(array, along, start)? };
        values.push(value.into());
        start += len;
    }
    Ok(vec![Value::Sequence(values)])
}

fn concat(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let values = call.need(0)?.sequence()?;
    let arrays = values.iter().map(Value::array).collect::<OpResult<Vec<_>>>()?;
    let first = arrays.first().ok_or_else(|| OpError::invalid("the sequence is empty"))?;
    let along =
        call.int("axis").ok_or_else(|| OpError::invalid("attribute \"axis\" is missing"))?;
    let made = if call.flag("new_axis", false) {
        call.reserve_bytes(arrays.iter().map(|a| a.size_bytes()).fold(0, u64::saturating_add))?;
        stack(&arrays, axis(along, first.rank() + 1)?)?
    } else {
        join(call, &arrays, axis(along, first.rank())?)?
    };
    Ok(vec![made.into()])
}

/// An optional with the input, or with nothing.
fn optional(call: &Call<'_>) -> OpResult<Vec<Value>> {
    Ok(vec![Value::Optional(call.value(0).cloned().map(Box::new))])
}

/// What an optional holds; anything else as it is.
fn get(call: &Call<'_>) -> OpResult<Vec<Value>> {
    match call.need(0)? {
        Value::Optional(Some(inner)) => Ok(vec![(**inner).clone()]),
        Value::Optional(None) => Err(OpError::invalid("the optional is empty")),
        other => Ok(vec![other.clone()]),
    }
}

fn has(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let has = !matches!(call.value(0), None | Some(Value::Optional(None)));
    Ok(vec![Array::from_bools(&[], &[has])?.into()])
}
