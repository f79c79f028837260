//! Normalisations.

use burn_backend::{Scalar, ops::FloatTensorOps};
use burn_dispatch::{Dispatch as D, DispatchTensor as T};

use super::{DeviceCall, Op, alike, one, reduce::along, within};
use crate::{
    gpu::device::DeviceTensor,
    interpreter::{OpError, OpResult, axes, axis},
    value::Value,
};

pub(super) fn find(name: &str) -> Option<Op> {
    Some(match name {
        "BatchNormalization" => batch,
        "InstanceNormalization" => instance,
        "GroupNormalization" => group,
        "LayerNormalization" => layer,
        "RMSNormalization" => root_mean_square,
        "LpNormalization" => length,
        "LRN" => local,
        "MeanVarianceNormalization" => mean_variance,
        _ => return None,
    })
}

/// The largest window of `LRN` on the device, which makes a tensor for each step.
const MAX_WINDOW: usize = 64;

fn scalar(value: f32) -> Scalar {
    Scalar::Float(value.into())
}

/// A tensor [C] in the shape [1, C, 1, ..] of a tensor [N, C, ..].
fn by_channel(call: &DeviceCall<'_>, index: usize, like: &DeviceTensor) -> OpResult<T> {
    let tensor = call.float(index)?;
    alike(&[like, &tensor])?;
    let &[_, channels, ..] = like.shape() else {
        return Err(OpError::invalid(format!("no channels in {:?}", like.shape())));
    };
    let mut shape = vec![1; like.rank()];
    shape[1] = channels;
    Ok(tensor.reshape(&shape)?.tensor)
}

/// `(x - mean) / sqrt(variance + epsilon)` over these axes.
fn standardised(x: &DeviceTensor, over: &[usize], epsilon: f32) -> T {
    let mean = along(x, over, D::float_mean_dim).tensor;
    let centred = D::float_sub(x.tensor.clone(), mean);
    let squares = DeviceTensor::new(D::float_mul(centred.clone(), centred.clone()), x.element());
    let variance = along(&squares, over, D::float_mean_dim).tensor;
    D::float_div(centred, D::float_sqrt(D::float_add_scalar(variance, scalar(epsilon))))
}

fn batch(call: &DeviceCall<'_>) -> OpResult<Vec<Value>> {
    let x = call.float(0)?;
    if call.flag("training_mode", false) || call.wants(1) || !call.flag("spatial", true) {
        return Err(OpError::unsupported("BatchNormalization in training"));
    }
    if x.rank() < 2 {
        return Err(OpError::unsupported("BatchNormalization of one dimension"));
    }
    let (scale, bias) = (by_channel(call, 1, &x)?, by_channel(call, 2, &x)?);
    let (mean, variance) = (by_channel(call, 3, &x)?, by_channel(call, 4, &x)?);
    let epsilon = scalar(call.float_or("epsilon", 1e-5));
    // One product and one sum over the tensor; the rest is by channel.
    let factor = D::float_div(scale, D::float_sqrt(D::float_add_scalar(variance, epsilon)));
    let offset = D::float_sub(bias, D::float_mul(mean, factor.clone()));
    let made = D::float_add(D::float_mul(x.tensor.clone(), factor), offset);
    one(made, x.shape(), x.element())
}

fn instance(call: &DeviceCall<'_>) -> OpResult<Vec<Value>> {
    let x = call.float(0)?;
    if x.rank() < 3 {
        return Err(OpError::unsupported("InstanceNormalization without spatial dimensions"));
    }
    let over: Vec<usize> = (2..x.rank()).collect();
    let made = standardised(&x, &over, call.float_or("epsilon", 1e-5));
    let made = D::float_mul(made, by_channel(call, 1, &x)?);
    one(D::float_add(made, by_channel(call, 2, &x)?), x.shape(), x.element())
}

fn group(call: &DeviceCall<'_>) -> OpResult<Vec<Value>> {
    let x = call.float(0)?;
    let groups = usize::try_from(call.int_or("num_groups", 0)).unwrap_or(0);
    let &[batch, channels, ref space @ ..] = x.shape() else {
        return Err(OpError::invalid(format!("no channels in {:?}", x.shape())));
    };
    if groups == 0 || channels % groups != 0 {
        return Err(OpError::invalid(format!("{channels} channels in {groups} groups")));
    }
    let inner = channels / groups * space.iter().product::<usize>();
    let grouped = x.reshape(&[batch, groups, inner])?;
    let made = standardised(&grouped, &[2], call.float_or("epsilon", 1e-5));
    let made = DeviceTensor::new(made, x.element());
    if call.opset() < 21 {
        // Scale and bias are one for each group.
        let (scale, bias) = (call.float(1)?, call.float(2)?);
        alike(&[&x, &scale, &bias])?;
        let shape = [1, groups, 1];
        let made = D::float_mul(made.tensor, scale.reshape(&shape)?.tensor);
        let made = D::float_add(made, bias.reshape(&shape)?.tensor);
        return one(made, x.shape(), x.element());
    }
    let made = made.reshape(x.shape())?.tensor;
    let made = D::float_mul(made, by_channel(call, 1, &x)?);
    one(D::float_add(made, by_channel(call, 2, &x)?), x.shape(), x.element())
}

fn layer(call: &DeviceCall<'_>) -> OpResult<Vec<Value>> {
    let x = call.float(0)?;
    if call.wants(1) || call.wants(2) {
        return Err(OpError::unsupported("the mean and deviation of LayerNormalization"));
    }
    let from = axis(call.int_or("axis", -1), x.rank())?;
    let over: Vec<usize> = (from..x.rank()).collect();
    let mut made = standardised(&x, &over, call.float_or("epsilon", 1e-5));
    let scale = call.float(1)?;
    alike(&[&x, &scale])?;
    made = D::float_mul(made, within(&scale, x.shape())?);
    if let Some(bias) = call.optional_float(2)? {
        alike(&[&x, &bias])?;
        made = D::float_add(made, within(&bias, x.shape())?);
    }
    one(made, x.shape(), x.element())
}

fn root_mean_square(call: &DeviceCall<'_>) -> OpResult<Vec<Value>> {
    let x = call.float(0)?;
    let from = axis(call.int_or("axis", -1), x.rank())?;
    let over: Vec<usize> = (from..x.rank()).collect();
    let squares = D::float_mul(x.tensor.clone(), x.tensor.clone());
    let mean = along(&DeviceTensor::new(squares, x.element()), &over, D::float_mean_dim).tensor;
    let epsilon = scalar(call.float_or("epsilon", 1e-5));
    let made = D::float_div(x.tensor.clone(), D::float_sqrt(D::float_add_scalar(mean, epsilon)));
    let scale = call.float(1)?;
    alike(&[&x, &scale])?;
    one(D::float_mul(made, within(&scale, x.shape())?), x.shape(), x.element())
}

fn length(call: &DeviceCall<'_>) -> OpResult<Vec<Value>> {
    let x = call.float(0)?;
    let over = [axis(call.int_or("axis", -1), x.rank())?];
    let t = x.tensor.clone();
    let length = match call.int_or("p", 2) {
        1 => {
            along(&DeviceTensor::new(D::float_abs(t.clone()), x.element()), &over, D::float_sum_dim)
                .tensor
        }
        2 => {
            let squares = DeviceTensor::new(D::float_mul(t.clone(), t.clone()), x.element());
            D::float_sqrt(along(&squares, &over, D::float_sum_dim).tensor)
        }
        p => return Err(OpError::unsupported(format!("p = {p}"))),
    };
    one(D::float_div(t, length), x.shape(), x.element())
}

/// Local response normalisation, across channels.
fn local(call: &DeviceCall<'_>) -> OpResult<Vec<Value>> {
    let x = call.float(0)?;
    let size = usize::try_from(call.int_or("size", 0)).unwrap_or(0);
    let &[_, channels, ..] = x.shape() else {
        return Err(OpError::invalid(format!("no channels in {:?}", x.shape())));
    };
    if size == 0 || size > channels.saturating_mul(2) || size > MAX_WINDOW {
        return Err(OpError::unsupported(format!("a window of {size}")));
    }
    let t = x.tensor.clone();
    let squares = DeviceTensor::new(D::float_mul(t.clone(), t.clone()), x.element());
    let mut around = vec![(0, 0); x.rank()];
    around[1] = ((size - 1) / 2, size / 2);
    let mut shape = x.shape().to_vec();
    shape[1] += size - 1;
    call.reserve(x.element(), &shape)?;
    let padded = super::shape::surround(&squares, &around, 0.0)?;
    let mut sum: Option<T> = None;
    for from in 0..size {
        let part = super::shape::range(&padded, 1, from, channels)?.tensor;
        sum = Some(match sum {
            Some(sum) => D::float_add(sum, part),
            None => part,
        });
    }
    let sum = sum.ok_or_else(|| OpError::invalid("an empty window"))?;
    let alpha = call.float_or("alpha", 1e-4) / size as f32;
    let base = D::float_mul_scalar(sum, scalar(alpha));
    let base = D::float_add_scalar(base, scalar(call.float_or("bias", 1.0)));
    let scale = D::float_powf_scalar(base, scalar(call.float_or("beta", 0.75)));
    one(D::float_div(t, scale), x.shape(), x.element())
}

fn mean_variance(call: &DeviceCall<'_>) -> OpResult<Vec<Value>> {
    let x = call.float(0)?;
    let over = axes(call.ints("axes").unwrap_or(&[0, 2, 3]), x.rank())?;
    let mean = along(&x, &over, D::float_mean_dim).tensor;
    let centred = D::float_sub(x.tensor.clone(), mean);
    let squares = DeviceTensor::new(D::float_mul(centred.clone(), centred.clone()), x.element());
    let deviation = D::float_sqrt(along(&squares, &over, D::float_mean_dim).tensor);
    let deviation = D::float_add_scalar(deviation, Scalar::Float(1e-9));
    one(D::float_div(centred, deviation), x.shape(), x.element())
}
