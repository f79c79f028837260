//! Recurrent layers, step by step on the device.
//!
//! # Source
//! <https://onnx.ai/onnx/operators/onnx__LSTM.html>, `GRU`, `RNN`; gates in
//! ONNX's order (LSTM: input, output, forget, cell; GRU: update, reset, hidden).

use burn_backend::{
    Scalar,
    ops::{ActivationOps, FloatTensorOps},
};
use burn_dispatch::{Dispatch as D, DispatchTensor as T};

use super::{
    DeviceCall, Op, alike, elementwise::tanh, linear::product, part_at, permute, shape::range,
    stack,
};
use crate::{
    gpu::device::{DeviceTensor, float_type},
    interpreter::{OpError, OpResult},
    value::Value,
};

pub(super) fn find(name: &str) -> Option<Op> {
    Some(match name {
        "LSTM" | "GRU" | "RNN" => recurrent,
        _ => return None,
    })
}

/// One direction's weights: W [G * H, I] and R [G * H, H] turned for products,
/// and the biases [G * H], if there are any.
struct Weights {
    w: DeviceTensor,
    r: DeviceTensor,
    input_bias: Option<DeviceTensor>,
    hidden_bias: Option<DeviceTensor>,
}

/// Added, with the second in a shape that broadcasts.
fn add(a: &DeviceTensor, b: &Option<DeviceTensor>) -> OpResult<DeviceTensor> {
    let Some(b) = b else { return Ok(a.clone()) };
    let b = b.reshape(&[1, b.shape().iter().product()])?;
    Ok(DeviceTensor::new(D::float_add(a.tensor.clone(), b.tensor), a.element()))
}

fn recurrent(call: &DeviceCall<'_>) -> OpResult<Vec<Value>> {
    let (x, w, r) = (call.float(0)?, call.float(1)?, call.float(2)?);
    let gates = match call.op() {
        "LSTM" => 4,
        "GRU" => 3,
        _ => 1,
    };
    let unusual = ["clip", "activations", "activation_alpha", "activation_beta"];
    if unusual.iter().any(|name| call.has(name))
        || call.flag("layout", false)
        || call.flag("input_forget", false)
        || call.value(4).is_some()
        || (gates == 4 && call.value(7).is_some())
    {
        return Err(OpError::unsupported(
            "clipping, other activations, lengths, peepholes or batches first",
        ));
    }
    let (&[steps, batch, input], &[directions, rows, hidden]) = (x.shape(), r.shape()) else {
        return Err(OpError::invalid(format!("X {:?} and R {:?}", x.shape(), r.shape())));
    };
    let direction = call.text_or("direction", "forward");
    let wanted = if direction == "bidirectional" { 2 } else { 1 };
    if directions != wanted || Some(rows) != hidden.checked_mul(gates) {
        return Err(OpError::invalid(format!("R {:?} for {direction}", r.shape())));
    }
    if w.shape() != [directions, rows, input] {
        return Err(OpError::invalid(format!("W {:?} for X {:?}", w.shape(), x.shape())));
    }
    let bias = call.optional_float(3)?;
    if bias.as_ref().is_some_and(|b| {
        Some(b.shape())
            != rows.checked_mul(2).map(|rows| [directions, rows]).as_ref().map(|shape| &shape[..])
    }) {
        return Err(OpError::invalid(format!("B for R {:?}", r.shape())));
    }
    alike(&[&x, &w, &r])?;
    let start = |index: usize| -> OpResult<Option<DeviceTensor>> {
        let state = call.optional_float(index)?;
        match &state {
            Some(s) if s.element() != x.element() => {
                Err(OpError::unsupported("a state of another type"))
            }
            Some(s) if s.shape() != [directions, batch, hidden] => {
                Err(OpError::invalid(format!("a state of shape {:?}", s.shape())))
            }
            _ => Ok(state),
        }
    };
    let (h0, c0) = (start(5)?, if gates == 4 { start(6)? } else { None });
    let nothing = || -> OpResult<DeviceTensor> {
        let zeros = D::float_full(
            [batch, hidden].into(),
            Scalar::Float(0.0),
            &call.device().handle,
            float_type(&x.tensor),
        );
        DeviceTensor::new(zeros, x.element()).reshape(&[batch, hidden])
    };
    let (mut all, mut last_h, mut last_c) = (Vec::new(), Vec::new(), Vec::new());
    for way in 0..directions {
        let both = bias.as_ref().map(|b| part_at(b, 0, way)).transpose()?;
        let half = |from: usize| both.as_ref().map(|b| range(b, 0, from, rows)).transpose();
        let weights = Weights {
            w: permute(&part_at(&w, 0, way)?, &[1, 0]),
            r: permute(&part_at(&r, 0, way)?, &[1, 0]),
            input_bias: half(0)?,
            hidden_bias: half(rows)?,
        };
        let state = |s: &Option<DeviceTensor>| match s {
            Some(s) => part_at(s, 0, way),
            None => nothing(),
        };
        let (mut h, mut c) = (state(&h0)?, state(&c0)?);
        // The inputs' share of every step in one product.
        let flat = x.reshape(&[steps * batch, input])?;
        let inputs = add(&product(call, &flat, &weights.w)?, &weights.input_bias)?;
        let inputs = inputs.reshape(&[steps, batch, rows])?;
        let backwards = direction == "reverse" || way == 1;
        let mut outputs = Vec::with_capacity(steps);
        for step in 0..steps {
            call.on_time()?;
            let at = if backwards { steps - 1 - step } else { step };
            let gate_inputs = part_at(&inputs, 0, at)?;
            (h, c) = match call.op() {
                "LSTM" => lstm(call, &gate_inputs, &h, &c, &weights, hidden)?,
                "GRU" => {
                    let before_reset = call.flag("linear_before_reset", false);
                    (gru(call, &gate_inputs, &h, &weights, hidden, before_reset)?, c)
                }
                _ => {
                    let sum = add(&product(call, &h, &weights.r)?, &weights.hidden_bias)?;
                    let sum = D::float_add(gate_inputs.tensor, sum.tensor);
                    (DeviceTensor::new(tanh(sum), x.element()), c)
                }
            };
            outputs.push(h.clone());
        }
        if backwards {
            outputs.reverse();
        }
        all.push(stack(&outputs, 0)?);
        last_h.push(h);
        last_c.push(c);
    }
    // [directions, steps, batch, hidden] to [steps, directions, batch, hidden]
    let y = stack(&all, 1)?;
    let mut made = vec![Value::Device(y), Value::Device(stack(&last_h, 0)?)];
    if gates == 4 {
        made.push(Value::Device(stack(&last_c, 0)?));
    }
    Ok(made)
}

/// One gate of [B, G * H].
fn gate(all: &DeviceTensor, index: usize, hidden: usize) -> OpResult<T> {
    Ok(range(all, 1, index * hidden, hidden)?.tensor)
}

fn lstm(
    call: &DeviceCall<'_>,
    inputs: &DeviceTensor,
    h: &DeviceTensor,
    c: &DeviceTensor,
    weights: &Weights,
    hidden: usize,
) -> OpResult<(DeviceTensor, DeviceTensor)> {
    let recurrent = add(&product(call, h, &weights.r)?, &weights.hidden_bias)?;
    let sum = D::float_add(inputs.tensor.clone(), recurrent.tensor);
    let sum = DeviceTensor::new(sum, inputs.element());
    let input = D::sigmoid(gate(&sum, 0, hidden)?);
    let output = D::sigmoid(gate(&sum, 1, hidden)?);
    let forget = D::sigmoid(gate(&sum, 2, hidden)?);
    let cell = tanh(gate(&sum, 3, hidden)?);
    let kept = D::float_mul(forget, c.tensor.clone());
    let c = D::float_add(kept, D::float_mul(input, cell));
    let h = D::float_mul(output, tanh(c.clone()));
    Ok((DeviceTensor::new(h, inputs.element()), DeviceTensor::new(c, inputs.element())))
}

fn gru(
    call: &DeviceCall<'_>,
    inputs: &DeviceTensor,
    h: &DeviceTensor,
    weights: &Weights,
    hidden: usize,
    before_reset: bool,
) -> OpResult<DeviceTensor> {
    // Update and reset gates, and the hidden gate's own.
    let split = |t: &DeviceTensor, along: usize| -> OpResult<(DeviceTensor, DeviceTensor)> {
        Ok((range(t, along, 0, 2 * hidden)?, range(t, along, 2 * hidden, hidden)?))
    };
    let (r_gates, r_hidden) = split(&weights.r, 1)?;
    let (bias_gates, bias_hidden) = match &weights.hidden_bias {
        Some(bias) => {
            let (gates, own) = split(bias, 0)?;
            (Some(gates), Some(own))
        }
        None => (None, None),
    };
    let (in_gates, in_hidden) = split(inputs, 1)?;
    let gates = add(&product(call, h, &r_gates)?, &bias_gates)?;
    let gates = D::sigmoid(D::float_add(in_gates.tensor, gates.tensor));
    let gates = DeviceTensor::new(gates, h.element());
    let (update, reset) = (gate(&gates, 0, hidden)?, gate(&gates, 1, hidden)?);
    let candidate = if before_reset {
        let own = add(&product(call, h, &r_hidden)?, &bias_hidden)?;
        D::float_mul(reset, own.tensor)
    } else {
        let kept = DeviceTensor::new(D::float_mul(reset, h.tensor.clone()), h.element());
        add(&product(call, &kept, &r_hidden)?, &bias_hidden)?.tensor
    };
    let candidate = tanh(D::float_add(in_hidden.tensor, candidate));
    // (1 - z) * candidate + z * h, with one product less.
    let change = D::float_mul(update, D::float_sub(h.tensor.clone(), candidate.clone()));
    Ok(DeviceTensor::new(D::float_add(candidate, change), h.element()))
}
