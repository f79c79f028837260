//! Operators on quantised numbers.
//!
//! Whole numbers of up to 16 bits are floats on the device, which hold them, and
//! the products of two of them, exactly; a sum stays exact up to 2^24.
//!
//! # Source
//! <https://onnx.ai/onnx/operators/onnx__QuantizeLinear.html> and its kin.

use burn_backend::{
    Scalar,
    ops::{FloatTensorOps, IntTensorOps},
};
use burn_dispatch::{Dispatch as D, DispatchTensor as T};
use headland_tensor::DType;

use super::{DeviceCall, Op, linear, nn, one};
use crate::{
    gpu::device::{DeviceTensor, Storage},
    interpreter::{OpError, OpResult, axis},
    value::{Element, Value},
};

pub(super) fn find(name: &str) -> Option<Op> {
    Some(match name {
        "QuantizeLinear" => quantize,
        "DequantizeLinear" => dequantize,
        "QLinearConv" => quantized_conv,
        "QLinearMatMul" => quantized_product,
        _ => return None,
    })
}

/// An input that is kept in floats, whatever it stands for.
fn held(call: &DeviceCall<'_>, index: usize) -> OpResult<DeviceTensor> {
    let tensor = call.tensor(index)?;
    if tensor.storage() == Storage::Float {
        return Ok(tensor);
    }
    if tensor.element() == Element::Plain(DType::I32) {
        let float = D::int_into_float(tensor.tensor, burn_backend::FloatDType::F32);
        let float = DeviceTensor::new(float, tensor.element);
        return float.reshape(&tensor.shape);
    }
    Err(OpError::unsupported(format!("{} on the device", tensor.element())))
}

/// A scale or zero point of one element, or one for each of an axis, in a shape
/// that broadcasts with a tensor's.
fn spread(parameter: &DeviceTensor, like: &[usize], along: i64) -> OpResult<T> {
    let count: usize = parameter.shape().iter().product();
    let mut shape = vec![1; like.len()];
    if count != 1 {
        let along = axis(along, like.len())?;
        if parameter.rank() != 1 || like[along] != count {
            let parameter = parameter.shape();
            return Err(OpError::unsupported(format!("scales {parameter:?} for {like:?}")));
        }
        shape[along] = count;
    }
    Ok(parameter.reshape(&shape)?.tensor)
}

/// The least and largest of an element type that is kept in floats.
fn limits(element: Element) -> OpResult<(f64, f64)> {
    Ok(match element {
        Element::Plain(DType::I8) => (-128.0, 127.0),
        Element::Plain(DType::U8) => (0.0, 255.0),
        Element::Plain(DType::I16) => (-32768.0, 32767.0),
        Element::Plain(DType::U16) => (0.0, 65535.0),
        other => return Err(OpError::unsupported(format!("{other} on the device"))),
    })
}

/// Round to the nearest whole number of that type, ties to even.
fn saturated(t: T, element: Element) -> OpResult<T> {
    let (low, high) = limits(element)?;
    Ok(D::float_clamp(D::float_round(t), Scalar::Float(low), Scalar::Float(high)))
}

fn plain(call: &DeviceCall<'_>) -> OpResult<()> {
    if call.int_or("block_size", 0) != 0 || call.int_or("precision", 0) != 0 {
        return Err(OpError::unsupported("quantization in blocks, or in a chosen precision"));
    }
    Ok(())
}

fn quantize(call: &DeviceCall<'_>) -> OpResult<Vec<Value>> {
    plain(call)?;
    let (x, scale) = (call.float(0)?, call.float(1)?);
    if x.element() != scale.element() || x.element() != super::F32 {
        return Err(OpError::unsupported(format!("{} on the device", x.element())));
    }
    let along = call.int_or("axis", 1);
    let zero = call.value(2).map(|_| held(call, 2)).transpose()?;
    let element = match (&zero, call.int_or("output_dtype", 0)) {
        (Some(zero), _) => zero.element(),
        (None, 0) => Element::Plain(DType::U8),
        (None, number) => i32::try_from(number)
            .ok()
            .and_then(Element::from_onnx)
            .ok_or_else(|| OpError::unsupported("an unknown output_dtype"))?,
    };
    limits(element)?;
    let t = D::float_div(x.tensor.clone(), spread(&scale, x.shape(), along)?);
    let t = D::float_round(t);
    let t = match zero {
        Some(zero) => D::float_add(t, spread(&zero, x.shape(), along)?),
        None => t,
    };
    one(saturated(t, element)?, x.shape(), element)
}

fn dequantize(call: &DeviceCall<'_>) -> OpResult<Vec<Value>> {
    plain(call)?;
    let (x, scale) = (held(call, 0)?, call.float(1)?);
    if scale.element() != super::F32 {
        return Err(OpError::unsupported(format!("a scale of {}", scale.element())));
    }
    let along = call.int_or("axis", 1);
    let mut t = x.tensor.clone();
    if call.value(2).is_some() {
        t = D::float_sub(t, spread(&held(call, 2)?, x.shape(), along)?);
    }
    let made = D::float_mul(t, spread(&scale, x.shape(), along)?);
    one(made, x.shape(), scale.element())
}

/// A tensor less its zero point.
fn centred(
    call: &DeviceCall<'_>,
    tensor: usize,
    zero: usize,
    along: i64,
) -> OpResult<DeviceTensor> {
    let x = held(call, tensor)?;
    limits(x.element())?;
    let zero = spread(&held(call, zero)?, x.shape(), along)?;
    DeviceTensor::new(D::float_sub(x.tensor, zero), super::F32).reshape(&x.shape)
}

/// What a quantised product is multiplied by, and then its zero point.
fn requantised(
    call: &DeviceCall<'_>,
    made: T,
    shape: &[usize],
    scales: [usize; 3],
    zero: usize,
    along: i64,
) -> OpResult<Vec<Value>> {
    let [a, b, y] = scales;
    for index in scales {
        if call.float(index)?.element() != super::F32 {
            return Err(OpError::unsupported("a scale that is not f32"));
        }
    }
    let factor = D::float_mul(
        spread(&call.float(a)?, shape, along)?,
        spread(&call.float(b)?, shape, along)?,
    );
    let factor = D::float_div(factor, spread(&call.float(y)?, shape, along)?);
    let zero = held(call, zero)?;
    let t = D::float_round(D::float_mul(made, factor));
    let t = D::float_add(t, spread(&zero, shape, along)?);
    one(saturated(t, zero.element())?, shape, zero.element())
}

fn quantized_conv(call: &DeviceCall<'_>) -> OpResult<Vec<Value>> {
    let x = centred(call, 0, 2, 1)?;
    let w = centred(call, 3, 5, 0)?;
    if x.rank() < 3 || x.rank() != w.rank() {
        return Err(OpError::invalid(format!("weights {:?} for {:?}", w.shape(), x.shape())));
    }
    let (channels, features) = (x.shape()[1], w.shape()[0]);
    let groups = nn::groups(call, channels, features)?;
    if w.shape()[1] * groups != channels {
        return Err(OpError::invalid(format!("weights {:?} for {:?}", w.shape(), x.shape())));
    }
    let windows = nn::windows(call, x.shape(), &w.shape()[2..])?;
    let bias = call.value(8).map(|_| held(call, 8)).transpose()?;
    if bias.as_ref().is_some_and(|b| b.shape() != [features]) {
        return Err(OpError::invalid(format!("a bias for {features} features")));
    }
    let bias = bias.map(|b| b.tensor);
    let mut shape = vec![x.shape()[0], features];
    shape.extend(windows.iter().map(|w| w.count));
    call.reserve(super::F32, &shape)?;
    let made = nn::convolve(x.tensor, w.tensor, bias, &windows, groups)?;
    requantised(call, made, &shape, [1, 4, 6], 7, 1)
}

fn quantized_product(call: &DeviceCall<'_>) -> OpResult<Vec<Value>> {
    let (a, b) = (centred(call, 0, 2, -2)?, centred(call, 3, 5, -1)?);
    if a.rank() < 2 || b.rank() < 2 {
        return Err(OpError::unsupported("a quantised product with a vector"));
    }
    let made = linear::product(call, &a, &b)?;
    requantised(call, made.tensor.clone(), made.shape(), [1, 4, 6], 7, -1)
}
