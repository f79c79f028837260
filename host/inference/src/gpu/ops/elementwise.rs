//! Operators that treat each element alike, with broadcasting.

use burn_backend::{
    Scalar,
    ops::{ActivationOps, BoolTensorOps, FloatTensorOps, IntTensorOps},
};
use burn_dispatch::{Dispatch as D, DispatchTensor as T};
use headland_tensor::DType;

use super::{BOOL, DeviceCall, Op, align, alike, common_shape, expand, one, value};
use crate::{
    gpu::device::{DeviceTensor, INDEX, Storage},
    interpreter::{OpError, OpResult},
    value::{Element, Value},
};

pub(super) fn find(name: &str) -> Option<Op> {
    Some(match name {
        "Abs" | "Neg" | "Sign" | "Exp" | "Log" | "Sqrt" | "Reciprocal" | "Floor" | "Ceil"
        | "Round" | "Erf" | "Sin" | "Cos" | "Tan" | "Asin" | "Acos" | "Atan" | "Sinh" | "Cosh"
        | "Tanh" | "Asinh" | "Acosh" | "Atanh" | "Relu" | "Sigmoid" | "Softplus" | "Softsign"
        | "Mish" | "HardSwish" | "LeakyRelu" | "Elu" | "Selu" | "Celu" | "Gelu" | "HardSigmoid"
        | "ThresholdedRelu" | "Shrink" | "Swish" => unary,
        "IsNaN" => is_nan,
        "IsInf" => is_inf,
        "Add" | "Sub" | "Mul" | "Div" | "Pow" | "PRelu" | "Mod" => binary,
        "Max" | "Min" | "Sum" | "Mean" => variadic,
        "Equal" | "Less" | "Greater" | "LessOrEqual" | "GreaterOrEqual" => compare,
        "And" | "Or" | "Xor" | "Not" => logic,
        "Where" => select,
        "Clip" => clip,
        "Cast" | "CastLike" => cast,
        "Dropout" => dropout,
        _ => return None,
    })
}

fn scalar(value: f32) -> Scalar {
    Scalar::Float(value.into())
}

/// The hyperbolic tangent. A browser may compute it by exponentials, which give NaN
/// far out (Chromium on SwiftShader does); in f32, it is 1 from 9.02 on.
pub(super) fn tanh(t: T) -> T {
    D::float_tanh(if cfg!(target_family = "wasm") {
        D::float_clamp(t, scalar(-10.0), scalar(10.0))
    } else {
        t
    })
}

fn unary(call: &DeviceCall<'_>) -> OpResult<Vec<Value>> {
    let x = call.float(0)?;
    let t = x.tensor.clone();
    let made = match call.op() {
        "Abs" => D::float_abs(t),
        "Neg" => D::float_neg(t),
        "Sign" => D::float_sign(t),
        "Exp" => D::float_exp(t),
        "Log" => D::float_log(t),
        "Sqrt" => D::float_sqrt(t),
        "Reciprocal" => D::float_recip(t),
        "Floor" => D::float_floor(t),
        "Ceil" => D::float_ceil(t),
        "Round" => D::float_round(t),
        "Erf" => D::float_erf(t),
        "Sin" => D::float_sin(t),
        "Cos" => D::float_cos(t),
        "Tan" => D::float_tan(t),
        "Asin" => D::float_asin(t),
        "Acos" => D::float_acos(t),
        "Atan" => D::float_atan(t),
        "Sinh" => D::float_sinh(t),
        "Cosh" => D::float_cosh(t),
        "Tanh" => tanh(t),
        "Asinh" => D::float_asinh(t),
        "Acosh" => D::float_acosh(t),
        "Atanh" => D::float_atanh(t),
        "Relu" => D::relu(t),
        "Sigmoid" => D::sigmoid(t),
        "Softplus" => softplus(t),
        "Softsign" => {
            let below = D::float_add_scalar(D::float_abs(t.clone()), scalar(1.0));
            D::float_div(t, below)
        }
        "Mish" => D::float_mul(t.clone(), tanh(softplus(t))),
        "HardSwish" => {
            let gate = D::hard_sigmoid(t.clone(), Scalar::Float(1.0 / 6.0), scalar(0.5));
            D::float_mul(t, gate)
        }
        "Swish" => {
            let inner = D::float_mul_scalar(t.clone(), scalar(call.float_or("alpha", 1.0)));
            D::float_mul(t, D::sigmoid(inner))
        }
        "LeakyRelu" => D::leaky_relu(t, scalar(call.float_or("alpha", 0.01))),
        "HardSigmoid" => D::hard_sigmoid(
            t,
            scalar(call.float_or("alpha", 0.2)),
            scalar(call.float_or("beta", 0.5)),
        ),
        "Elu" => exponential(t, call.float_or("alpha", 1.0), 1.0, 1.0),
        "Celu" => {
            let alpha = call.float_or("alpha", 1.0);
            exponential(t, alpha, 1.0, 1.0 / alpha)
        }
        "Selu" => {
            let alpha = call.float_or("alpha", 1.673_263_2);
            let gamma = call.float_or("gamma", 1.050_701);
            exponential(t, alpha, gamma, 1.0)
        }
        "Gelu" if call.text_or("approximate", "none") == "tanh" => {
            let cube = D::float_mul(t.clone(), D::float_mul(t.clone(), t.clone()));
            let inner = D::float_add(t.clone(), D::float_mul_scalar(cube, scalar(0.044_715)));
            // sqrt(2 / pi)
            let inner = D::float_mul_scalar(inner, Scalar::Float(0.797_884_560_802_865_4));
            let gate = D::float_add_scalar(tanh(inner), scalar(1.0));
            D::float_mul_scalar(D::float_mul(t, gate), scalar(0.5))
        }
        "Gelu" => {
            let inner = D::float_mul_scalar(t.clone(), Scalar::Float(0.5f64.sqrt()));
            let gate = D::float_add_scalar(D::float_erf(inner), scalar(1.0));
            D::float_mul_scalar(D::float_mul(t, gate), scalar(0.5))
        }
        "ThresholdedRelu" => {
            let alpha = scalar(call.float_or("alpha", 1.0));
            let below = D::float_lower_equal_elem(t.clone(), alpha, call.device().bools());
            D::float_mask_fill(t, below, scalar(0.0))
        }
        "Shrink" => {
            let (bias, lambd) = (call.float_or("bias", 0.0), call.float_or("lambd", 0.5));
            let bools = call.device().bools();
            let above = D::float_greater_elem(t.clone(), scalar(lambd), bools);
            let below = D::float_lower_elem(t.clone(), scalar(-lambd), bools);
            let zero = D::float_mul_scalar(t.clone(), scalar(0.0));
            let high = D::float_sub_scalar(t.clone(), scalar(bias));
            let low = D::float_add_scalar(t, scalar(bias));
            D::float_mask_where(D::float_mask_where(zero, above, high), below, low)
        }
        other => return Err(OpError::unsupported(other.to_owned())),
    };
    one(made, x.shape(), x.element())
}

/// `ln(1 + e^x)` as `max(x, 0) + ln(1 + e^-|x|)`, which does not overflow.
fn softplus(t: T) -> T {
    let tail = D::float_log1p(D::float_exp(D::float_neg(D::float_abs(t.clone()))));
    D::float_add(D::relu(t), tail)
}

/// `gamma * x` above nought, `gamma * alpha * (e^(x * inner) - 1)` below.
fn exponential(t: T, alpha: f32, gamma: f32, inner: f32) -> T {
    let negative = D::float_clamp_max(t.clone(), scalar(0.0));
    let curve = D::float_exp(D::float_mul_scalar(negative, scalar(inner)));
    let curve = D::float_mul_scalar(D::float_sub_scalar(curve, scalar(1.0)), scalar(alpha));
    let sum = D::float_add(D::relu(t), curve);
    if gamma == 1.0 { sum } else { D::float_mul_scalar(sum, scalar(gamma)) }
}

fn is_nan(call: &DeviceCall<'_>) -> OpResult<Vec<Value>> {
    let x = call.float(0)?;
    one(D::float_is_nan(x.tensor.clone(), call.device().bools()), x.shape(), BOOL)
}

fn is_inf(call: &DeviceCall<'_>) -> OpResult<Vec<Value>> {
    let x = call.float(0)?;
    let (positive, negative) =
        (call.flag("detect_positive", true), call.flag("detect_negative", true));
    if !(positive && negative) {
        return Err(OpError::unsupported("one sign of infinity"));
    }
    one(D::float_is_inf(x.tensor.clone(), call.device().bools()), x.shape(), BOOL)
}

/// Two inputs in the rank of their broadcast shape, and that shape.
fn pair(call: &DeviceCall<'_>, a: &DeviceTensor, b: &DeviceTensor) -> OpResult<(T, T, Vec<usize>)> {
    alike(&[a, b])?;
    let shape = common_shape(call, &[a, b])?;
    Ok((align(a, shape.len())?.tensor, align(b, shape.len())?.tensor, shape))
}

fn binary(call: &DeviceCall<'_>) -> OpResult<Vec<Value>> {
    let (a, b) = (call.float(0)?, call.float(1)?);
    let (x, y, shape) = pair(call, &a, &b)?;
    let made = match call.op() {
        "Add" => D::float_add(x, y),
        "Sub" => D::float_sub(x, y),
        "Mul" => D::float_mul(x, y),
        "Div" => D::float_div(x, y),
        "Pow" => D::float_powf(x, y),
        "PRelu" => {
            let negative = D::float_clamp_max(x.clone(), scalar(0.0));
            D::float_add(D::relu(x), D::float_mul(negative, y))
        }
        // The remainder with the sign of the dividend.
        "Mod" => {
            let turns = D::float_trunc(D::float_div(x.clone(), y.clone()));
            D::float_sub(x, D::float_mul(turns, y))
        }
        other => return Err(OpError::unsupported(other.to_owned())),
    };
    one(made, &shape, a.element())
}

fn variadic(call: &DeviceCall<'_>) -> OpResult<Vec<Value>> {
    let count = call.input_count();
    let mut total = call.float(0)?;
    for index in 1..count {
        let next = call.float(index)?;
        let (x, y, shape) = pair(call, &total, &next)?;
        let made = match call.op() {
            "Max" | "Min" => {
                // Where either is NaN, so is the result.
                let bools = call.device().bools();
                let (x, y) = (expand(&total, &shape)?, expand(&next, &shape)?);
                let first = if call.op() == "Max" {
                    D::float_greater(x.clone(), y.clone(), bools)
                } else {
                    D::float_lower(x.clone(), y.clone(), bools)
                };
                let nan = D::float_is_nan(x.clone(), bools);
                D::float_mask_where(y, D::bool_or(first, nan), x)
            }
            _ => D::float_add(x, y),
        };
        total = DeviceTensor::new(made, total.element()).reshape(&shape)?;
    }
    if call.op() == "Mean" {
        let mean = D::float_mul_scalar(total.tensor.clone(), Scalar::Float(1.0 / count as f64));
        return one(mean, total.shape(), total.element());
    }
    Ok(vec![Value::Device(total)])
}

fn compare(call: &DeviceCall<'_>) -> OpResult<Vec<Value>> {
    let (a, b) = (call.tensor(0)?, call.tensor(1)?);
    let (x, y, shape) = pair(call, &a, &b)?;
    let bools = call.device().bools();
    let made = match (a.storage(), call.op()) {
        (Storage::Float, "Equal") => D::float_equal(x, y, bools),
        (Storage::Float, "Less") => D::float_lower(x, y, bools),
        (Storage::Float, "Greater") => D::float_greater(x, y, bools),
        (Storage::Float, "LessOrEqual") => D::float_lower_equal(x, y, bools),
        (Storage::Float, "GreaterOrEqual") => D::float_greater_equal(x, y, bools),
        (Storage::Int, "Equal") => D::int_equal(x, y, bools),
        (Storage::Int, "Less") => D::int_lower(x, y, bools),
        (Storage::Int, "Greater") => D::int_greater(x, y, bools),
        (Storage::Int, "LessOrEqual") => D::int_lower_equal(x, y, bools),
        (Storage::Int, "GreaterOrEqual") => D::int_greater_equal(x, y, bools),
        (Storage::Bool, "Equal") => D::bool_equal(expand(&a, &shape)?, expand(&b, &shape)?),
        (_, other) => return Err(OpError::unsupported(other.to_owned())),
    };
    one(made, &shape, BOOL)
}

fn bool_of(call: &DeviceCall<'_>, index: usize) -> OpResult<DeviceTensor> {
    let tensor = call.tensor(index)?;
    match tensor.storage() {
        Storage::Bool => Ok(tensor),
        _ => Err(OpError::unsupported(format!("{} where bool is", tensor.element()))),
    }
}

fn logic(call: &DeviceCall<'_>) -> OpResult<Vec<Value>> {
    let a = bool_of(call, 0)?;
    if call.op() == "Not" {
        return one(D::bool_not(a.tensor.clone()), a.shape(), BOOL);
    }
    let b = bool_of(call, 1)?;
    let shape = common_shape(call, &[&a, &b])?;
    let (x, y) = (expand(&a, &shape)?, expand(&b, &shape)?);
    let made = match call.op() {
        "And" => D::bool_and(x, y),
        "Or" => D::bool_or(x, y),
        _ => D::bool_xor(x, y),
    };
    one(made, &shape, BOOL)
}

fn select(call: &DeviceCall<'_>) -> OpResult<Vec<Value>> {
    let condition = bool_of(call, 0)?;
    let (yes, no) = (call.tensor(1)?, call.tensor(2)?);
    alike(&[&yes, &no])?;
    let shape = common_shape(call, &[&yes, &no, &condition])?;
    let (mask, a, b) = (expand(&condition, &shape)?, expand(&yes, &shape)?, expand(&no, &shape)?);
    let made = match yes.storage() {
        Storage::Float => D::float_mask_where(b, mask, a),
        Storage::Int => D::int_mask_where(b, mask, a),
        Storage::Bool => D::bool_mask_where(b, mask, a),
    };
    one(made, &shape, yes.element())
}

fn clip(call: &DeviceCall<'_>) -> OpResult<Vec<Value>> {
    let x = call.float(0)?;
    let bound = |name: &str, index: usize| -> OpResult<Option<f64>> {
        if let Some(bound) = call.call.float(name) {
            return Ok(Some(bound.into()));
        }
        let given = call.optional_known(index)?.map(|a| a.to_f64s()).transpose()?;
        Ok(given.and_then(|values| values.first().copied()))
    };
    let (low, high) = (bound("min", 1)?, bound("max", 2)?);
    let mut t = x.tensor.clone();
    // The upper bound last: it wins where the two cross.
    if let Some(low) = low.filter(|low| low.is_finite()) {
        t = D::float_clamp_min(t, Scalar::Float(low));
    }
    if let Some(high) = high.filter(|high| high.is_finite()) {
        t = D::float_clamp_max(t, Scalar::Float(high));
    }
    one(t, x.shape(), x.element())
}

fn cast(call: &DeviceCall<'_>) -> OpResult<Vec<Value>> {
    let x = call.tensor(0)?;
    let target = if call.op() == "Cast" {
        i32::try_from(call.int_or("to", 0)).ok().and_then(Element::from_onnx)
    } else {
        Some(match call.need(1)? {
            Value::Device(like) => like.element(),
            other => other.array()?.element(),
        })
    };
    let target = target.ok_or_else(|| OpError::unsupported("a cast to an unknown type"))?;
    if target == x.element() {
        return Ok(vec![Value::Device(x)]);
    }
    let refuse = || OpError::unsupported(format!("a cast from {} to {target}", x.element()));
    let Element::Plain(dtype) = target else { return Err(refuse()) };
    let float = match dtype {
        DType::F32 => Some(burn_backend::FloatDType::F32),
        DType::F16 if call.device().has_f16() => Some(burn_backend::FloatDType::F16),
        _ => None,
    };
    let t = x.tensor.clone();
    let made = match (x.storage(), float) {
        // Small whole numbers are kept as floats already.
        (Storage::Float, Some(to)) => D::float_cast(t, to),
        (Storage::Int, Some(to)) => D::int_into_float(t, to),
        (Storage::Bool, Some(to)) => D::bool_into_float(t, to),
        (Storage::Bool, None) if matches!(dtype, DType::I32 | DType::I64) => {
            D::bool_into_int(t, INDEX)
        }
        (Storage::Int, None) if dtype == DType::I64 => t,
        (Storage::Float, None) if dtype == DType::Bool => {
            D::float_not_equal_elem(t, scalar(0.0), call.device().bools())
        }
        (Storage::Int, None) if dtype == DType::Bool => {
            D::int_not_equal_elem(t, Scalar::Int(0), call.device().bools())
        }
        // Float to whole number: beyond 32 bits the device cannot say.
        _ => return Err(refuse()),
    };
    one(made, x.shape(), target)
}

/// At inference, the identity.
fn dropout(call: &DeviceCall<'_>) -> OpResult<Vec<Value>> {
    let training = match call.optional_known(2)? {
        Some(mode) => mode.to_i64s()?.first().is_some_and(|&m| m != 0),
        None => false,
    };
    if training || call.wants(1) {
        return Err(OpError::unsupported("Dropout in training, or its mask"));
    }
    let x = call.tensor(0)?;
    Ok(vec![value(x.tensor.clone(), x.shape(), x.element())?])
}
