//! Operators that go along an axis: reductions, order, accumulation.

use burn_backend::ops::{ActivationOps, FloatTensorOps};
use burn_dispatch::{Dispatch as D, DispatchTensor as T};

use super::{DeviceCall, I64, Op, one, value};
use crate::{
    gpu::device::{DeviceTensor, INDEX},
    interpreter::{OpError, OpResult, axes, axis},
    value::{Array, Value},
};

pub(super) fn find(name: &str) -> Option<Op> {
    Some(match name {
        "ReduceSum" | "ReduceMean" | "ReduceMax" | "ReduceMin" | "ReduceProd" | "ReduceL1"
        | "ReduceL2" | "ReduceLogSum" | "ReduceLogSumExp" | "ReduceSumSquare" => reduce,
        "ArgMax" | "ArgMin" => arg,
        "Softmax" | "LogSoftmax" => softmax,
        "CumSum" => accumulate,
        "TopK" => top,
        _ => return None,
    })
}

/// `reduce` along each of these axes; sizes become 1.
pub(super) fn along(x: &DeviceTensor, axes: &[usize], reduce: fn(T, usize) -> T) -> DeviceTensor {
    let made = axes.iter().fold(x.tensor.clone(), |t, &d| reduce(t, d));
    DeviceTensor::new(made, x.element())
}

fn reduce(call: &DeviceCall<'_>) -> OpResult<Vec<Value>> {
    let x = call.float(0)?;
    let list = match call.ints("axes") {
        Some(list) => Some(list.to_vec()),
        None => call.optional_known(1)?.map(Array::to_i64s).transpose()?,
    };
    let over: Vec<usize> = match list.filter(|list| !list.is_empty()) {
        Some(list) => axes(&list, x.rank())?,
        None if call.flag("noop_with_empty_axes", false) => Vec::new(),
        None => (0..x.rank()).collect(),
    };
    let square = |x: &DeviceTensor| {
        let t = x.tensor.clone();
        DeviceTensor::new(D::float_mul(t.clone(), t), x.element())
    };
    let absolute =
        |x: &DeviceTensor| DeviceTensor::new(D::float_abs(x.tensor.clone()), x.element());
    let sum: fn(T, usize) -> T = D::float_sum_dim;
    // A tensor of no dimensions has one on the device, which is reduced to itself.
    let made = match call.op() {
        "ReduceSum" => along(&x, &over, sum).tensor,
        "ReduceMean" => along(&x, &over, D::float_mean_dim).tensor,
        "ReduceMax" => along(&x, &over, D::float_max_dim).tensor,
        "ReduceMin" => along(&x, &over, D::float_min_dim).tensor,
        "ReduceProd" => along(&x, &over, D::float_prod_dim).tensor,
        "ReduceL1" => along(&absolute(&x), &over, sum).tensor,
        "ReduceSumSquare" => along(&square(&x), &over, sum).tensor,
        "ReduceL2" => D::float_sqrt(along(&square(&x), &over, sum).tensor),
        "ReduceLogSum" => D::float_log(along(&x, &over, sum).tensor),
        "ReduceLogSumExp" => {
            // Less the largest first, so that nothing overflows.
            let top = along(&x, &over, D::float_max_dim);
            let less = D::float_exp(D::float_sub(x.tensor.clone(), top.tensor.clone()));
            let total = along(&DeviceTensor::new(less, x.element()), &over, sum);
            D::float_add(D::float_log(total.tensor), top.tensor)
        }
        other => return Err(OpError::unsupported(other.to_owned())),
    };
    let keep = call.flag("keepdims", true);
    let shape: Vec<usize> = x
        .shape()
        .iter()
        .enumerate()
        .filter(|(d, _)| keep || !over.contains(d))
        .map(|(d, &s)| if over.contains(&d) { 1 } else { s })
        .collect();
    one(made, &shape, x.element())
}

fn arg(call: &DeviceCall<'_>) -> OpResult<Vec<Value>> {
    let x = call.float(0)?;
    if call.flag("select_last_index", false) {
        return Err(OpError::unsupported("select_last_index"));
    }
    let over = axis(call.int_or("axis", 0), x.rank())?;
    let t = x.tensor.clone();
    let made = if call.op() == "ArgMax" {
        D::float_argmax(t, over, INDEX)
    } else {
        D::float_argmin(t, over, INDEX)
    };
    let mut shape = x.shape().to_vec();
    shape[over] = 1;
    if !call.flag("keepdims", true) {
        shape.remove(over);
    }
    one(made, &shape, I64)
}

fn softmax(call: &DeviceCall<'_>) -> OpResult<Vec<Value>> {
    let x = call.float(0)?;
    let flat = call.opset() < 13;
    let over = axis(call.int_or("axis", if flat { 1 } else { -1 }), x.rank())?;
    // Before operator set 13, over all dimensions from the axis on.
    let (work, over) = if flat {
        let (outer, inner) = x.shape().split_at(over);
        (x.reshape(&[outer.iter().product(), inner.iter().product()])?, 1)
    } else {
        (x.clone(), over)
    };
    let t = work.tensor;
    let made = if call.op() == "Softmax" { D::softmax(t, over) } else { D::log_softmax(t, over) };
    one(made, x.shape(), x.element())
}

fn accumulate(call: &DeviceCall<'_>) -> OpResult<Vec<Value>> {
    let x = call.float(0)?;
    let over = call.known(1)?.to_i64s()?;
    let over = axis(over.first().copied().unwrap_or(0), x.rank())?;
    let reverse = call.flag("reverse", false);
    let turn = |t: T| if reverse { D::float_flip(t, &[over]) } else { t };
    let t = turn(x.tensor.clone());
    let mut made = D::float_cumsum(t.clone(), over);
    if call.flag("exclusive", false) {
        made = D::float_sub(made, t);
    }
    one(turn(made), x.shape(), x.element())
}

fn top(call: &DeviceCall<'_>) -> OpResult<Vec<Value>> {
    let x = call.float(0)?;
    let over = axis(call.int_or("axis", -1), x.rank())?;
    let count = match call.int("k") {
        Some(k) => k,
        None => call.known(1)?.to_i64s()?.first().copied().unwrap_or(0),
    };
    let size = x.shape()[over];
    let count = usize::try_from(count).ok().filter(|&k| k > 0 && k <= size);
    let count = count.ok_or_else(|| OpError::unsupported("a k of 0 or beyond the axis"))?;
    if !call.flag("largest", true) {
        return Err(OpError::unsupported("the smallest"));
    }
    let (values, indices) = D::float_topk_with_indices(x.tensor.clone(), over, count, INDEX);
    let mut shape = x.shape().to_vec();
    shape[over] = count;
    Ok(vec![value(values, &shape, x.element())?, value(indices, &shape, I64)?])
}
