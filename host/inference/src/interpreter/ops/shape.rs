//! Operators that move elements without looking at them.

use ndarray::{Axis, concatenate, stack as stack_views};

use super::Op;
use crate::{
    interpreter::{Call, OpError, OpResult, axis, sizes},
    value::{Array, Value, structural},
};

/// The operator of that name.
///
/// # Source
/// <https://onnx.ai/onnx/operators/>
pub(crate) fn find(name: &str) -> Option<Op> {
    Some(match name {
        "Concat" => concat,
        "Constant" => constant,
        "Identity" => identity,
        "Reshape" => reshape,
        "Shape" => shape,
        "Transpose" => transpose,
        _ => return None,
    })
}

/// The part at `index` of axis `along`, which is gone from the result.
pub(crate) fn pick(array: &Array, along: usize, index: usize) -> OpResult<Array> {
    structural!(&[array], |views| {
        Ok::<_, OpError>(views[0].index_axis(Axis(along), index).to_owned())
    })
}

/// Arrays of one shape, along a new axis.
pub(crate) fn stack(arrays: &[&Array], along: usize) -> OpResult<Array> {
    structural!(arrays, |views| stack_views(Axis(along), &views).map_err(OpError::from))
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
    let made =
        structural!(&arrays, |views| concatenate(Axis(along), &views).map_err(OpError::from))?;
    Ok(vec![made.into()])
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
        let rest: usize = target.iter().product();
        if rest == 0 || !array.len().is_multiple_of(rest) {
            return Err(OpError::invalid(format!("{:?} as {wanted:?}", array.shape())));
        }
        target[index] = array.len() / rest;
    }
    Ok(vec![array.reshape(&target)?.into()])
}

fn transpose(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let array = call.array(0)?;
    let order = match call.ints("perm") {
        Some(order) => crate::interpreter::axes(order, array.rank())?,
        None => (0..array.rank()).rev().collect(),
    };
    if order.len() != array.rank() {
        return Err(OpError::invalid(format!(
            "perm {order:?} of a tensor of rank {}",
            array.rank()
        )));
    }
    let made = structural!(&[array], |views| {
        let moved = views[0].view().permuted_axes(order.clone());
        Ok::<_, OpError>(moved.as_standard_layout().into_owned())
    })?;
    Ok(vec![made.into()])
}
