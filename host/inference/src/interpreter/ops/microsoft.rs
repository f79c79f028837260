//! Operators of com.microsoft that exporters, optimisers and quantisers emit.

use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI};

use headland_tensor::DType;
use ndarray::{ArrayD, ArrayView2, Axis, IxDyn, Zip};

use super::{
    Op,
    linear::{count, gemm, matrix_product, products, zeros},
    recurrent::Activation,
};
use crate::{
    interpreter::{Call, OpError, OpResult, axes, axis, broadcast_shape, sizes},
    value::{Array, Element, Value, into_parts, scalar_type, structural},
};

/// The operator of that name.
///
/// # Source
/// `docs/ContribOperators.md` of ONNX Runtime.
pub(crate) fn find(name: &str) -> Option<Op> {
    Some(match name {
        "Attention" => attention,
        "BiasAdd" => bias_add,
        "BiasGelu" | "FastGelu" | "Gelu" | "QuickGelu" => gelu,
        "BiasSplitGelu" => split_gelu,
        "DequantizeLinear" => dequantize,
        "DynamicQuantizeMatMul" => dynamic_quantize_matmul,
        "EmbedLayerNormalization" => embed,
        "FusedGemm" => fused_gemm,
        "FusedMatMul" | "FusedMatMulActivation" | "TransposeMatMul" => fused_matmul,
        "GroupQueryAttention" => group_query_attention,
        "MatMulIntegerToFloat" => matmul_integer_to_float,
        "MatMulNBits" => matmul_bits,
        "MultiHeadAttention" => multi_head_attention,
        "QGemm" => quantized_gemm,
        "QLinearAdd" | "QLinearMul" => quantized_pair,
        "QLinearConcat" => quantized_concat,
        "QLinearGlobalAveragePool" => quantized_global_average,
        "QLinearLeakyRelu" | "QLinearSigmoid" => quantized_unary,
        "QLinearReduceMean" => quantized_mean,
        "QLinearSoftmax" => quantized_softmax,
        "QLinearWhere" => quantized_where,
        "QuantizeLinear" => quantize,
        "RotaryEmbedding" => rotary_embedding,
        "LayerNormalization" | "SimplifiedLayerNormalization" => layer_norm,
        "SkipLayerNormalization" | "SkipSimplifiedLayerNormalization" => skip_layer_norm,
        "CDist" => super::ml::cdist,
        _ => return None,
    })
}

/// A tensor as f32, in its shape.
fn floats(array: &Array) -> OpResult<ArrayD<f32>> {
    Ok(ArrayD::from_shape_vec(IxDyn(array.shape()), array.to_f32s()?)?)
}

/// What was computed in f32, as the float type that it should have.
fn made(element: Element, values: ArrayD<f32>) -> OpResult<Array> {
    let (shape, values) = into_parts(values);
    Array::from_f32s(element, &shape, values)
}

/// A function of two tensors that broadcast.
fn spread(
    call: &Call<'_>,
    a: &ArrayD<f32>,
    b: &ArrayD<f32>,
    function: impl Fn(f32, f32) -> f32,
) -> OpResult<ArrayD<f32>> {
    let shape = broadcast_shape(&[a.shape(), b.shape()])?;
    let mut out = zeros::<f32>(call, &shape)?;
    let too_large = || OpError::invalid(format!("a shape of {shape:?}"));
    let a = a.broadcast(IxDyn(&shape)).ok_or_else(too_large)?;
    let b = b.broadcast(IxDyn(&shape)).ok_or_else(too_large)?;
    Zip::from(&mut out).and(&a).and(&b).for_each(|o, &a, &b| *o = function(a, b));
    Ok(out)
}

/// The error function, to the last digits of f64.
///
/// # Source
/// DLMF 7.6.2, a series, and 7.9.1, a continued fraction.
fn erf(x: f64) -> f64 {
    let size = x.abs();
    if size.is_nan() || size > 6.0 {
        return if size.is_nan() { x } else { x.signum() };
    }
    let weight = (-x * x).exp() * FRAC_2_SQRT_PI;
    if size < 2.5 {
        let (mut term, mut sum, mut n) = (size, size, 1.0);
        while term > sum * 1e-17 {
            term *= 2.0 * x * x / (2.0 * n + 1.0);
            sum += term;
            n += 1.0;
        }
        return (weight * sum).copysign(x);
    }
    let fraction = (1..=60).rev().fold(size, |f, n| size + f64::from(n) / 2.0 / f);
    (1.0 - weight / 2.0 / fraction).copysign(x)
}

fn gelu_exact(x: f64) -> f64 {
    0.5 * x * (1.0 + erf(x * FRAC_1_SQRT_2))
}

/// The approximation of GELU by a hyperbolic tangent.
fn gelu_tanh(x: f64) -> f64 {
    0.5 * x * (1.0 + (FRAC_2_SQRT_PI * FRAC_1_SQRT_2 * (x + 0.044_715 * x * x * x)).tanh())
}

/// GELU and its approximations, of the sum of a tensor and an optional bias.
fn gelu(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let array = call.array(0)?;
    let mut values = array.to_f64s()?;
    if let Some(bias) = call.optional(1)? {
        if bias.rank() != 1 || array.shape().last() != bias.shape().first() {
            let (bias, shape) = (bias.shape(), array.shape());
            return Err(OpError::invalid(format!("a bias {bias:?} for {shape:?}")));
        }
        let bias = bias.to_f64s()?;
        values.iter_mut().zip(bias.iter().cycle()).for_each(|(v, b)| *v += b);
    }
    let alpha = f64::from(call.float_or("alpha", 1.702));
    let function: &dyn Fn(f64) -> f64 = match call.op() {
        "FastGelu" => &gelu_tanh,
        "QuickGelu" => &|x| x / (1.0 + (-alpha * x).exp()),
        _ => &gelu_exact,
    };
    values.iter_mut().for_each(|v| *v = function(*v));
    Ok(vec![Array::from_f64s(array.element(), array.shape(), &values)?.into()])
}

/// The sum of a tensor, a bias, and another tensor.
fn bias_add(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let array = call.array(0)?;
    let sum = spread(call, &floats(array)?, &floats(call.array(1)?)?, |a, b| a + b)?;
    let sum = spread(call, &sum, &floats(call.array(2)?)?, |a, b| a + b)?;
    Ok(vec![made(array.element(), sum)?.into()])
}

/// Of the sum with a bias: the left half times GELU of the right half.
fn split_gelu(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let array = call.array(0)?;
    let sum = spread(call, &floats(array)?, &floats(call.array(1)?)?, |a, b| a + b)?;
    let Some(last) = sum.ndim().checked_sub(1) else {
        return Err(OpError::invalid("a scalar has no halves"));
    };
    let half = sum.shape()[last] / 2;
    let (left, right) = sum.view().split_at(Axis(last), half);
    if left.shape() != right.shape() {
        return Err(OpError::invalid(format!("{:?} has no halves", sum.shape())));
    }
    let gated = Zip::from(&left)
        .and(&right)
        .map_collect(|&a, &b| (f64::from(a) * gelu_exact(f64::from(b))) as f32);
    Ok(vec![made(array.element(), gated)?.into()])
}

/// The activation that a fused operator names.
fn activated(call: &Call<'_>, array: &Array) -> OpResult<Array> {
    let Some(name) = call.text("activation") else { return Ok(array.clone()) };
    let (alpha, beta) = (call.float("activation_alpha"), call.float("activation_beta"));
    let activation = Activation::new(name, &mut alpha.iter(), &mut beta.iter())?;
    made(array.element(), floats(array)?.mapv_into(|v| activation.of(v)))
}

fn fused_gemm(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let product = gemm(call)?;
    product.iter().map(|value| Ok(activated(call, value.array()?)?.into())).collect()
}

/// An array whose first axis is moved behind the other batch axes, if `batch`,
/// and whose last two axes are then exchanged, if `swap`.
fn arranged(array: &Array, swap: bool, batch: bool) -> OpResult<Array> {
    let rank = array.rank();
    if rank < 2 || !(swap || batch) {
        return Ok(array.clone());
    }
    let mut order: Vec<usize> = (0..rank).collect();
    if batch {
        order[..rank - 1].rotate_left(1);
    }
    if swap {
        order.swap(rank - 2, rank - 1);
    }
    structural!(&[array], |views| {
        let moved = views[0].view().permuted_axes(order.clone());
        Ok::<_, OpError>(moved.as_standard_layout().into_owned())
    })
}

/// `alpha` times a matrix product whose factors may be transposed.
fn fused_matmul(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let flag = |name| call.flag(name, false);
    let a = arranged(call.array(0)?, flag("transA"), flag("transBatchA"))?;
    let b = arranged(call.array(1)?, flag("transB"), flag("transBatchB"))?;
    let mut product = matrix_product(call, &a, &b)?;
    let alpha = call.float_or("alpha", 1.0);
    if alpha != 1.0 {
        let scaled: Vec<f64> =
            product.to_f64s()?.into_iter().map(|v| v * f64::from(alpha)).collect();
        product = Array::from_f64s(product.element(), product.shape(), &scaled)?;
    }
    Ok(vec![activated(call, &product)?.into()])
}

/// How a tensor is quantised: `real = (code - zero) * scale`.
#[derive(Debug, Clone, Copy)]
struct Scale {
    scale: f32,
    zero: f32,
}

/// The only number of a tensor.
fn single(array: &Array) -> OpResult<f32> {
    match *array.to_f32s()? {
        [value] => Ok(value),
        ref other => Err(OpError::invalid(format!("{} numbers where one is", other.len()))),
    }
}

impl Scale {
    /// From the inputs for the scale and, if it is given, the zero point.
    fn new(call: &Call<'_>, scale: usize, zero: usize) -> OpResult<Self> {
        let zero = call.optional(zero)?.map(single).transpose()?.unwrap_or(0.0);
        Ok(Self { scale: single(call.array(scale)?)?, zero })
    }

    fn real(self, code: f32) -> f32 {
        (code - self.zero) * self.scale
    }

    fn decode(self, array: &Array) -> OpResult<ArrayD<f32>> {
        Ok(floats(array)?.mapv_into(|code| self.real(code)))
    }

    fn encode(self, values: &ArrayD<f32>, element: Element) -> OpResult<Array> {
        encode(values, element, |_| self)
    }
}

/// Values rounded to the nearest code, each by the scale for its flat index.
fn encode(
    values: &ArrayD<f32>,
    element: Element,
    scale: impl Fn(usize) -> Scale,
) -> OpResult<Array> {
    scalar_type!(element, [ints] T => {
        let (low, high) = (T::MIN as f32, T::MAX as f32);
        let codes = values.iter().enumerate().map(|(index, v)| {
            let Scale { scale, zero } = scale(index);
            ((v / scale).round_ties_even() + zero).clamp(low, high) as T
        });
        Array::new(values.shape(), codes.collect())
    })
}

/// For each flat index of input 0, its scale: one for all, or one for each
/// index of an axis.
fn scales(call: &Call<'_>) -> OpResult<impl Fn(usize) -> Scale> {
    let (array, scale) = (call.array(0)?, call.array(1)?);
    let zero = match call.optional(2)? {
        Some(zero) => zero.to_f32s()?,
        None => vec![0.0; scale.len()],
    };
    let scale = scale.to_f32s()?;
    let mut inner = 1;
    if scale.len() != 1 || call.array(1)?.rank() > 0 && call.has("axis") {
        let along = axis(call.int_or("axis", 1), array.rank())?;
        if array.shape()[along] != scale.len() {
            let shape = array.shape();
            return Err(OpError::invalid(format!("{} scales for {shape:?}", scale.len())));
        }
        inner = count(&array.shape()[along + 1..]);
    }
    if zero.len() != scale.len() {
        let (scales, zeros) = (scale.len(), zero.len());
        return Err(OpError::invalid(format!("{scales} scales, {zeros} zero points")));
    }
    Ok(move |index: usize| {
        let at = index / inner.max(1) % scale.len().max(1);
        let of = |values: &[f32]| values.get(at).copied().unwrap_or(0.0);
        Scale { scale: of(&scale), zero: of(&zero) }
    })
}

fn quantize(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let element = call.optional(2)?.map_or(Element::Plain(DType::U8), Array::element);
    Ok(vec![encode(&floats(call.array(0)?)?, element, scales(call)?)?.into()])
}

fn dequantize(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let (array, scale) = (call.array(0)?, scales(call)?);
    // A difference of i32 is exact in f64 alone.
    let values = array.to_f64s()?.into_iter().enumerate().map(|(index, code)| {
        let Scale { scale, zero } = scale(index);
        (code - f64::from(zero)) * f64::from(scale)
    });
    let values: Vec<f64> = values.collect();
    Ok(vec![Array::from_f64s(call.array(1)?.element(), array.shape(), &values)?.into()])
}

/// The sum or product of two quantised tensors.
fn quantized_pair(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let (a, b) = (call.array(0)?, call.array(3)?);
    let out = Scale::new(call, 6, 7)?;
    let (left, right) = (Scale::new(call, 1, 2)?.decode(a)?, Scale::new(call, 4, 5)?.decode(b)?);
    let values = if call.op() == "QLinearAdd" {
        spread(call, &left, &right, |a, b| a + b)?
    } else {
        spread(call, &left, &right, |a, b| a * b)?
    };
    Ok(vec![out.encode(&values, a.element())?.into()])
}

fn quantized_unary(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let array = call.array(0)?;
    let alpha = call.float_or("alpha", 0.01);
    let function = |x: f32| match call.op() {
        "QLinearSigmoid" => 1.0 / (1.0 + (-x).exp()),
        _ if x < 0.0 => alpha * x,
        _ => x,
    };
    let values = Scale::new(call, 1, 2)?.decode(array)?.mapv_into(function);
    Ok(vec![Scale::new(call, 3, 4)?.encode(&values, array.element())?.into()])
}

/// Quantised tensors along an axis, each of its own scale.
fn quantized_concat(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let out = Scale::new(call, 0, 1)?;
    let parts = (2..call.input_count())
        .step_by(3)
        .map(|at| Scale::new(call, at + 1, at + 2)?.decode(call.array(at)?))
        .collect::<OpResult<Vec<_>>>()?;
    let first = parts.first().ok_or_else(|| OpError::invalid("nothing to concatenate"))?;
    let along = axis(call.int_or("axis", 0), first.ndim())?;
    let views: Vec<_> = parts.iter().map(|part| part.view()).collect();
    let values = ndarray::concatenate(Axis(along), &views)?;
    Ok(vec![out.encode(&values, call.array(2)?.element())?.into()])
}

/// The mean over axes of the reals of a quantised tensor; they stay, with size
/// 1. In f64, where the sum of codes is exact.
fn mean(array: &Array, over: &[usize], scale: Scale) -> OpResult<ArrayD<f32>> {
    let mut sums = ArrayD::from_shape_vec(IxDyn(array.shape()), array.to_f64s()?)?;
    let mut count = 1.0;
    for &along in over {
        count *= array.shape()[along] as f64;
        sums = sums.sum_axis(Axis(along)).insert_axis(Axis(along));
    }
    Ok(sums.mapv(|sum| ((sum / count - f64::from(scale.zero)) * f64::from(scale.scale)) as f32))
}

fn quantized_global_average(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let array = call.array(0)?;
    if array.rank() < 3 {
        return Err(OpError::invalid(format!("{:?} has no spatial axes", array.shape())));
    }
    let last = call.flag("channels_last", false);
    let over: Vec<usize> =
        if last { (1..array.rank() - 1).collect() } else { (2..array.rank()).collect() };
    let values = mean(array, &over, Scale::new(call, 1, 2)?)?;
    Ok(vec![Scale::new(call, 3, 4)?.encode(&values, array.element())?.into()])
}

fn quantized_mean(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let array = call.array(0)?;
    let over = match call.ints("axes") {
        Some(over) => axes(over, array.rank())?,
        None => (0..array.rank()).collect(),
    };
    let mut values = mean(array, &over, Scale::new(call, 1, 2)?)?;
    if !call.flag("keepdims", true) {
        let kept = (0..array.rank()).filter(|axis| !over.contains(axis));
        let shape: Vec<usize> = kept.map(|axis| array.shape()[axis]).collect();
        values = values.into_shape_with_order(IxDyn(&shape))?;
    }
    Ok(vec![Scale::new(call, 3, 4)?.encode(&values, array.element())?.into()])
}

/// Softmax over one axis, or, as before operator set 13, over all from it on.
fn quantized_softmax(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let array = call.array(0)?;
    let along = axis(call.int_or("axis", -1), array.rank())?;
    let mut values = Scale::new(call, 1, 2)?.decode(array)?;
    let shape = array.shape().to_vec();
    if call.int_or("opset", 13) < 13 {
        let (outer, inner) = shape.split_at(along);
        values = values.into_shape_with_order(IxDyn(&[count(outer), count(inner)]))?;
        softmax(&mut values, 1);
        values = values.into_shape_with_order(IxDyn(&shape))?;
    } else {
        softmax(&mut values, along);
    }
    Ok(vec![Scale::new(call, 3, 4)?.encode(&values, array.element())?.into()])
}

fn softmax(values: &mut ArrayD<f32>, along: usize) {
    for mut lane in values.lanes_mut(Axis(along)) {
        let largest = lane.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        lane.mapv_inplace(|v| (v - largest).exp());
        let sum = lane.sum();
        lane.mapv_inplace(|v| v / sum);
    }
}

fn quantized_where(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let (x, y) = (call.array(1)?, call.array(4)?);
    let out = Scale::new(call, 7, 8)?;
    let condition: Vec<f32> = call.array(0)?.bools()?.iter().map(|&c| f32::from(c)).collect();
    let condition = ArrayD::from_shape_vec(IxDyn(call.array(0)?.shape()), condition)?;
    // The reals where they are taken; elsewhere, what gives way to the other.
    let taken = |c: f32, v: f32| if c != 0.0 { v } else { f32::NAN };
    let left = spread(call, &condition, &Scale::new(call, 2, 3)?.decode(x)?, taken)?;
    let right = Scale::new(call, 5, 6)?.decode(y)?;
    let values = spread(call, &left, &right, |l, r| if l.is_nan() { r } else { l })?;
    Ok(vec![out.encode(&values, x.element())?.into()])
}

/// Codes less their zero point: one for all, or one for each column.
fn centred(codes: &Array, zero: Option<&Array>) -> OpResult<ArrayD<i32>> {
    let values = codes.to_i64s()?.into_iter().map(|v| v as i32).collect();
    let mut values = ArrayD::from_shape_vec(IxDyn(codes.shape()), values)?;
    if let Some(zero) = zero {
        let zeros = zero.to_i64s()?.into_iter().map(|v| v as i32).collect();
        let shape = if zero.len() == 1 { &[][..] } else { zero.shape() };
        let zeros = ArrayD::from_shape_vec(IxDyn(shape), zeros)?;
        let zeros = zeros.broadcast(values.raw_dim()).ok_or_else(|| {
            OpError::invalid(format!("zero points {:?} for {:?}", zero.shape(), codes.shape()))
        })?;
        values.zip_mut_with(&zeros, |v, &zero| *v = v.wrapping_sub(zero));
    }
    Ok(values)
}

/// The product of centred codes, which whole numbers hold exactly, times scales
/// that broadcast to it, plus an optional bias.
fn scaled_product(
    call: &Call<'_>,
    a: &ArrayD<i32>,
    b: &ArrayD<i32>,
    scale: &ArrayD<f32>,
    bias: Option<&Array>,
) -> OpResult<ArrayD<f32>> {
    let product = products(call, &a.view(), &b.view())?.mapv(|v| v as f32);
    let shape = product.shape().to_vec();
    let mut values = spread(call, &product, scale, |v, scale| v * scale)?;
    if let Some(bias) = bias {
        values = spread(call, &values, &floats(bias)?, |v, bias| v + bias)?;
    }
    if values.shape() != shape {
        return Err(OpError::invalid(format!("scales or a bias beyond {shape:?}")));
    }
    Ok(values)
}

/// The product of quantised matrices as f32.
fn matmul_integer_to_float(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let a = centred(call.array(0)?, call.optional(4)?)?;
    let b = centred(call.array(1)?, call.optional(5)?)?;
    let (of_a, of_b) = (call.array(2)?, call.array(3)?);
    let scale = spread(call, &floats(of_a)?, &floats(of_b)?, |a, b| a * b)?;
    let values = scaled_product(call, &a, &b, &scale, call.optional(6)?)?;
    Ok(vec![made(of_a.element(), values)?.into()])
}

/// The product of a matrix that is quantised here, to u8, and one that is.
fn dynamic_quantize_matmul(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let array = call.array(0)?;
    let values = floats(array)?;
    // 0 must have a code.
    let low = values.iter().copied().fold(0.0, f32::min);
    let high = values.iter().copied().fold(0.0, f32::max);
    let scale = if high == low { 1.0 } else { (high - low) / 255.0 };
    let zero = (-low / scale).round_ties_even().clamp(0.0, 255.0);
    let codes = Scale { scale, zero }.encode(&values, Element::Plain(DType::U8))?;
    let a = centred(&codes, Some(&Array::scalar(zero as u8)))?;
    let b = centred(call.array(1)?, call.optional(3)?)?;
    let scale = floats(call.array(2)?)?.mapv_into(|v| v * scale);
    let values = scaled_product(call, &a, &b, &scale, call.optional(4)?)?;
    Ok(vec![made(array.element(), values)?.into()])
}

/// Gemm of quantised matrices; C is i32, of the scale of the product. Quantised
/// where an output scale is given, else f32.
fn quantized_gemm(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let transposed = |name| call.flag(name, false);
    let a = arranged(call.array(0)?, transposed("transA"), false)?;
    let b = arranged(call.array(3)?, transposed("transB"), false)?;
    let b = centred(&b, call.optional(5)?)?;
    if a.rank() != 2 || b.ndim() != 2 {
        return Err(OpError::invalid(format!("{:?} times {:?}", a.shape(), b.shape())));
    }
    let a = centred(&a, call.optional(2)?)?;
    let mut product = products(call, &a.view(), &b.view())?;
    if let Some(added) = call.optional(6)? {
        let added = centred(added, None)?;
        let added = added.broadcast(product.raw_dim()).ok_or_else(|| {
            OpError::invalid(format!("{:?} is added to {:?}", added.shape(), product.shape()))
        })?;
        product.zip_mut_with(&added, |v, &c| *v = v.wrapping_add(c));
    }
    let scale = single(call.array(1)?)? * call.float_or("alpha", 1.0);
    let scale = floats(call.array(4)?)?.mapv_into(|b| b * scale);
    let values = spread(call, &product.mapv(|v| v as f32), &scale, |v, scale| v * scale)?;
    let made = match (call.optional(7)?, call.optional(8)?) {
        (Some(_), Some(zero)) => Scale::new(call, 7, 8)?.encode(&values, zero.element())?,
        (Some(_), None) => Scale::new(call, 7, 8)?.encode(&values, call.array(0)?.element())?,
        _ => made(Element::Plain(DType::F32), values)?,
    };
    Ok(vec![made.into()])
}

/// The product of `[.., k]` and a matrix whose columns are in blocks of codes of
/// 2, 4 or 8 bits: `[n, blocks, bytes]`, the first code in the lowest bits.
fn matmul_bits(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let size =
        |name: &str, default: i64| Ok::<_, OpError>(sizes(&[call.int_or(name, default)])?[0]);
    let (n, k, block) = (size("N", 0)?, size("K", 0)?, size("block_size", 32)?);
    let bits = size("bits", 4)?;
    if !matches!(bits, 2 | 4 | 8) || !block.is_power_of_two() || block < 8 {
        return Err(OpError::unsupported(format!("{bits} bits in blocks of {block}")));
    }
    if call.int_or("weight_prepacked", 0) != 0 {
        return Err(OpError::unsupported("weights in the layout of a device"));
    }
    let element = call.array(0)?.element();
    let blocks = k.div_ceil(block);
    let bytes = block / 8 * bits;
    let (codes, scales) = (call.array(1)?, call.array(2)?.to_f32s()?);
    call.reserve(Element::Plain(DType::F32), &[n, k])?;
    call.reserve(Element::Plain(DType::F32), &[n])?;
    if Some(codes.len()) != (n * blocks).checked_mul(bytes) || scales.len() != n * blocks {
        let reason = format!("{:?} and {} scales for {n} times {k}", codes.shape(), scales.len());
        return Err(OpError::invalid(reason));
    }
    let codes = codes.elements::<u8>()?;
    let mask = ((1u16 << bits) - 1) as u8;
    let code = |bytes: &[u8], index: usize| {
        let bit = index * bits;
        f32::from(bytes[bit / 8] >> (bit % 8) & mask)
    };
    // A row of zero points begins at a whole byte.
    let row = (blocks * bits).div_ceil(8);
    let zeros: Vec<f32> = match call.optional(3)? {
        None => vec![(1u16 << (bits - 1)).into(); n * blocks],
        Some(zeros) if zeros.element() == Element::Plain(DType::U8) => {
            let bytes = zeros.elements::<u8>()?;
            if bytes.len() != n * row {
                return Err(OpError::invalid(format!("zero points {:?}", zeros.shape())));
            }
            bytes.chunks_exact(row.max(1)).flat_map(|r| (0..blocks).map(|b| code(r, b))).collect()
        }
        Some(zeros) => zeros.to_f32s()?,
    };
    let groups = call.optional(4)?.map(Array::to_i64s).transpose()?;
    let groups = match groups {
        Some(groups) => sizes(&groups)?,
        None => (0..k).map(|k| k / block).collect(),
    };
    if zeros.len() != n * blocks || groups.len() != k || groups.iter().any(|&g| g >= blocks) {
        return Err(OpError::invalid("zero points or groups that do not fit"));
    }
    let mut weights = Vec::with_capacity(n * k);
    for column in 0..n {
        let codes = &codes[column * blocks * bytes..][..blocks * bytes];
        weights.extend(groups.iter().enumerate().map(|(k, &group)| {
            let at = column * blocks + group;
            (code(codes, k) - zeros[at]) * scales[at]
        }));
    }
    let weights = ArrayD::from_shape_vec(IxDyn(&[n, k]), weights)?;
    let a = call.array(0)?;
    let mut values = if a.rank() == 1 {
        let a = floats(a)?.insert_axis(Axis(0));
        products(call, &a.view(), &weights.t())?.index_axis_move(Axis(0), 0)
    } else {
        products(call, &floats(a)?.view(), &weights.t())?
    };
    if let Some(bias) = call.optional(5)? {
        let shape = values.shape().to_vec();
        values = spread(call, &values, &floats(bias)?, |v, bias| v + bias)?;
        if values.shape() != shape {
            return Err(OpError::invalid(format!("a bias {:?} for {shape:?}", bias.shape())));
        }
    }
    Ok(vec![made(element, values)?.into()])
}

/// What [`normalized`] computes.
struct Normalized {
    values: ArrayD<f32>,
    /// Of each row.
    means: Vec<f32>,
    /// One over the deviation of each row.
    inverses: Vec<f32>,
}

/// Rows of `width` elements with mean 0 and variance 1, or, if `simplified`,
/// with a mean square of 1; times `gamma` plus `beta`.
fn normalized(
    call: &Call<'_>,
    mut values: ArrayD<f32>,
    gamma: &Array,
    beta: Option<&Array>,
    simplified: bool,
) -> OpResult<Normalized> {
    let width = gamma.len();
    if width == 0 || !values.len().is_multiple_of(width) || beta.is_some_and(|b| b.len() != width) {
        let shape = values.shape();
        return Err(OpError::invalid(format!("a scale {:?} for {shape:?}", gamma.shape())));
    }
    let gamma = gamma.to_f32s()?;
    let beta = beta.map(Array::to_f32s).transpose()?;
    let epsilon = f64::from(call.float_or("epsilon", 1e-5));
    let (mut means, mut inverses) = (Vec::new(), Vec::new());
    let (shape, mut elements) = into_parts(values);
    for row in elements.chunks_exact_mut(width) {
        let mean =
            |f: &dyn Fn(f64) -> f64| row.iter().map(|&v| f(v.into())).sum::<f64>() / width as f64;
        let middle = if simplified { 0.0 } else { mean(&|v| v) };
        let inverse = 1.0 / (mean(&|v| (v - middle).powi(2)) + epsilon).sqrt();
        for (index, v) in row.iter_mut().enumerate() {
            let scaled = ((f64::from(*v) - middle) * inverse) as f32 * gamma[index];
            *v = scaled + beta.as_ref().map_or(0.0, |beta| beta[index]);
        }
        means.push(middle as f32);
        inverses.push(inverse as f32);
    }
    values = ArrayD::from_shape_vec(shape, elements)?;
    Ok(Normalized { values, means, inverses })
}

/// LayerNormalization from an axis on, and its variant without a mean.
fn layer_norm(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let array = call.array(0)?;
    let simplified = call.op() == "SimplifiedLayerNormalization";
    let along = axis(call.int_or("axis", -1), array.rank())?;
    let gamma = call.array(1)?;
    let width = count(&array.shape()[along..]);
    if gamma.len() != width {
        let shape = array.shape();
        return Err(OpError::invalid(format!("a scale {:?} for {shape:?}", gamma.shape())));
    }
    let beta = if simplified { None } else { call.optional(2)? };
    let done = normalized(call, floats(array)?, gamma, beta, simplified)?;
    let mut shape = array.shape().to_vec();
    shape[along..].fill(1);
    let mut outputs = vec![made(gamma.element(), done.values)?.into()];
    if !simplified {
        outputs.push(Array::new(&shape, done.means)?.into());
    }
    outputs.push(Array::new(&shape, done.inverses)?.into());
    Ok(outputs)
}

/// LayerNormalization of the sum of two tensors and an optional bias, and that
/// sum.
fn skip_layer_norm(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let array = call.array(0)?;
    let simplified = call.op() == "SkipSimplifiedLayerNormalization";
    let (beta, bias) =
        if simplified { (None, call.optional(3)?) } else { (call.optional(3)?, call.optional(4)?) };
    let mut sum = spread(call, &floats(array)?, &floats(call.array(1)?)?, |a, b| a + b)?;
    if let Some(bias) = bias {
        sum = spread(call, &sum, &floats(bias)?, |a, b| a + b)?;
    }
    if sum.shape() != array.shape() {
        let (given, skip) = (array.shape(), call.array(1)?.shape());
        return Err(OpError::invalid(format!("{skip:?} is added to {given:?}")));
    }
    let whole = made(array.element(), sum.clone())?;
    let done = normalized(call, sum, call.array(2)?, beta, simplified)?;
    let mut shape = array.shape().to_vec();
    if let Some(last) = shape.last_mut() {
        *last = 1;
    }
    Ok(vec![
        made(array.element(), done.values)?.into(),
        Array::new(&shape, done.means)?.into(),
        Array::new(&shape, done.inverses)?.into(),
        whole.into(),
    ])
}

/// The row of a table for an index, which may not be beyond it.
fn row(table: &[f32], width: usize, index: i64) -> OpResult<&[f32]> {
    usize::try_from(index)
        .ok()
        .and_then(|index| index.checked_mul(width))
        .and_then(|start| table.get(start..start.checked_add(width)?))
        .ok_or_else(|| OpError::invalid(format!("index {index} of a table")))
}

/// The sum of the embeddings of words, positions and segments, normalised.
fn embed(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let ids = call.array(0)?;
    let words = call.array(2)?;
    let (&[batch, len], &[_, width]) = (ids.shape(), words.shape()) else {
        return Err(OpError::invalid(format!("{:?} of {:?}", ids.shape(), words.shape())));
    };
    let table = |index: usize| -> OpResult<Option<Vec<f32>>> {
        let Some(table) = call.optional(index)? else { return Ok(None) };
        match table.shape() {
            [_, columns] if *columns == width => table.to_f32s().map(Some),
            shape => Err(OpError::invalid(format!("embeddings {shape:?} of width {width}"))),
        }
    };
    let needed = || OpError::invalid("embeddings are missing");
    let (of_words, of_positions) = (table(2)?.ok_or_else(needed)?, table(3)?.ok_or_else(needed)?);
    let of_segments = table(4)?;
    let indices = |index: usize| call.optional(index)?.map(Array::to_i64s).transpose();
    let (segments, positions) = (indices(1)?, indices(8)?);
    let shape = [batch, len, width];
    let mut sum = zeros::<f32>(call, &shape)?;
    let missing = || OpError::invalid("fewer indices than words");
    let words = ids.to_i64s()?;
    if let Some(elements) = sum.as_slice_mut()
        && width > 0
    {
        for (at, out) in elements.chunks_exact_mut(width).enumerate() {
            let mut add = |values: &[f32]| out.iter_mut().zip(values).for_each(|(o, v)| *o += v);
            add(row(&of_words, width, words[at])?);
            let position = match &positions {
                // One row of positions may serve the whole batch.
                Some(p) => {
                    *p.get(if p.len() == len { at % len } else { at }).ok_or_else(missing)?
                }
                None => (at % len) as i64,
            };
            add(row(&of_positions, width, position)?);
            if let (Some(table), Some(segments)) = (&of_segments, &segments) {
                add(row(table, width, *segments.get(at).ok_or_else(missing)?)?);
            }
        }
    }
    let element = call.array(2)?.element();
    let whole = made(element, sum.clone())?;
    let done = normalized(call, sum, call.array(5)?, call.optional(6)?, false)?;
    let counts = match call.optional(7)? {
        Some(mask) => {
            let mask = mask.to_i64s()?;
            let rows = mask.chunks_exact(len.max(1));
            rows.map(|row| row.iter().filter(|&&m| m == 1).count() as i32).collect()
        }
        None => vec![0; batch],
    };
    let counts = Array::new(&[counts.len()], counts)?;
    Ok(vec![made(element, done.values)?.into(), counts.into(), whole.into()])
}

/// Pairs of elements turned by the angle for their position.
fn rotary_embedding(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let array = call.array(0)?;
    let (cos, sin) = (call.array(2)?, call.array(3)?);
    let &[_, half] = cos.shape() else {
        return Err(OpError::invalid(format!("a table {:?}", cos.shape())));
    };
    if sin.shape() != cos.shape() {
        return Err(OpError::invalid(format!("tables {:?} and {:?}", cos.shape(), sin.shape())));
    }
    let heads = sizes(&[call.int_or("num_heads", 0)])?[0];
    // Whether heads come before positions, as in four axes.
    let (batch, len, heads, size, heads_first) = match *array.shape() {
        [batch, heads, len, size] => (batch, len, heads, size, true),
        [batch, len, width] => {
            let whole = call.int_or("rotary_embedding_dim", 0) == 0;
            let size = if whole { half.saturating_mul(2) } else { width / heads.max(1) };
            (batch, len, width / size.max(1), size, false)
        }
        _ => return Err(OpError::invalid(format!("{:?} has no heads", array.shape()))),
    };
    if half * 2 > size || heads * size * len * batch != array.len() {
        let shape = array.shape();
        return Err(OpError::invalid(format!("{half} angles for heads of {size} in {shape:?}")));
    }
    let positions = call.array(1)?.to_i64s()?;
    if positions.len() != 1 && positions.len() != batch * len {
        return Err(OpError::invalid(format!("{} positions", positions.len())));
    }
    let (cos, sin) = (cos.to_f32s()?, sin.to_f32s()?);
    let interleaved = call.flag("interleaved", false);
    let mut values = array.to_f32s()?;
    for (at, head) in values.chunks_exact_mut(size.max(1)).enumerate() {
        let (b, s) = if heads_first {
            (at / (heads * len), at % len)
        } else {
            (at / (heads * len), at / heads % len)
        };
        let position = match *positions {
            [first] => first.wrapping_add(s as i64),
            _ => positions[b * len + s],
        };
        let place = |index| row(index, half, position);
        turn(head, place(&cos)?, place(&sin)?, interleaved);
    }
    Ok(vec![Array::from_f32s(array.element(), array.shape(), values)?.into()])
}

/// Turn pairs of a head's elements: neighbours if `interleaved`, else those of
/// its two halves.
fn turn(head: &mut [f32], cos: &[f32], sin: &[f32], interleaved: bool) {
    let half = cos.len();
    for (k, (cos, sin)) in cos.iter().zip(sin).enumerate() {
        let (i, j) = if interleaved { (2 * k, 2 * k + 1) } else { (k, k + half) };
        let (a, b) = (head[i], head[j]);
        (head[i], head[j]) = (a * cos - b * sin, b * cos + a * sin);
    }
}

/// Heads of attention: `[batch, heads, len, size]`.
struct Heads {
    shape: [usize; 4],
    values: Vec<f32>,
}

/// Where the heads are in the rows of `[batch, len, width]`.
struct Place {
    heads: usize,
    size: usize,
    /// Where the first head begins.
    start: usize,
    /// From one head to the next.
    stride: usize,
}

impl Place {
    /// Heads next to each other from `start` on.
    fn dense(heads: usize, size: usize, start: usize) -> Self {
        Self { heads, size, start, stride: size }
    }
}

impl Heads {
    fn from_rows(rows: &[f32], [batch, len, width]: [usize; 3], place: &Place) -> OpResult<Self> {
        let Place { heads, size, start, stride } = *place;
        let shape = [batch, heads, len, size];
        // Also bounds the loops below, by the elements that there are.
        if size == 0 || heads.checked_mul(stride).is_none_or(|all| all > width) {
            return Err(OpError::invalid(format!("{heads} heads in {width}")));
        }
        if rows.is_empty() {
            return Ok(Self { shape, values: Vec::new() });
        }
        let mut values = Vec::with_capacity(batch * len * heads * size);
        for b in 0..batch {
            for head in 0..heads {
                for s in 0..len {
                    let at = (b * len + s) * width + start + head * stride;
                    let row = rows.get(at..at + size);
                    values.extend(row.ok_or_else(|| OpError::invalid("heads beyond a row"))?);
                }
            }
        }
        Ok(Self { shape, values })
    }

    /// From an array that has heads before positions already.
    fn from_array(array: &Array) -> OpResult<Self> {
        match *array.shape() {
            [batch, heads, len, size] => {
                Ok(Self { shape: [batch, heads, len, size], values: array.to_f32s()? })
            }
            _ => Err(OpError::invalid(format!("{:?} has no heads", array.shape()))),
        }
    }

    /// One head: `[len, size]`.
    fn head(&self, batch: usize, head: usize) -> OpResult<ArrayView2<'_, f32>> {
        let [_, heads, len, size] = self.shape;
        let start = (batch * heads + head) * len * size;
        let values = self.values.get(start..start + len * size);
        let values = values.ok_or_else(|| OpError::invalid("a head that is not there"))?;
        Ok(ArrayView2::from_shape((len, size), values)?)
    }

    /// Behind what came before.
    fn behind(self, call: &Call<'_>, past: &Self) -> OpResult<Self> {
        let ([batch, heads, len, size], [b, h, before, s]) = (self.shape, past.shape);
        if [batch, heads, size] != [b, h, s] {
            return Err(OpError::invalid(format!("{:?} behind {:?}", self.shape, past.shape)));
        }
        let shape = [batch, heads, before + len, size];
        call.reserve(Element::Plain(DType::F32), &shape)?;
        let mut values = Vec::with_capacity(self.values.len() + past.values.len());
        // Without elements, there may be more heads than can be counted.
        let heads = if shape.contains(&0) { 0 } else { batch * heads };
        for at in 0..heads {
            values.extend(&past.values[at * before * size..(at + 1) * before * size]);
            values.extend(&self.values[at * len * size..(at + 1) * len * size]);
        }
        Ok(Self { shape, values })
    }

    fn array(&self, element: Element) -> OpResult<Array> {
        Array::from_f32s(element, &self.shape, self.values.clone())
    }
}

/// What changes the scores of attention, at `[batch, head, query, key]`.
struct Scoring<'a> {
    scale: f32,
    /// From a scaled product to what the softmax sees.
    score: &'a dyn Fn([usize; 4], f32) -> f32,
    /// What a head adds to the sum of the softmax, as a score.
    sink: &'a dyn Fn(usize) -> Option<f32>,
}

/// Attention of each query to all keys: `[batch, queries, heads * size]`. Heads
/// of queries may share one of keys and values.
fn attend(
    call: &Call<'_>,
    [query, key, value]: [&Heads; 3],
    scoring: &Scoring<'_>,
) -> OpResult<ArrayD<f32>> {
    let ([batch, heads, len, size], [b, shared, total, s]) = (query.shape, key.shape);
    let width = value.shape[3];
    let fits = [b, s] == [batch, size]
        && value.shape[..3] == [batch, shared, total]
        && shared > 0
        && heads.is_multiple_of(shared);
    if !fits {
        let shapes = [query.shape, key.shape, value.shape];
        return Err(OpError::invalid(format!("attention over {shapes:?}")));
    }
    call.reserve(Element::Plain(DType::F32), &[len, total])?;
    let mut out = zeros::<f32>(call, &[batch, len, heads, width])?;
    if out.is_empty() {
        return Ok(out.into_shape_with_order(IxDyn(&[batch, len, heads.saturating_mul(width)]))?);
    }
    for b in 0..batch {
        for h in 0..heads {
            let kv = h / (heads / shared);
            let mut scores = query.head(b, h)?.dot(&key.head(b, kv)?.t());
            for (s, mut row) in scores.rows_mut().into_iter().enumerate() {
                for (t, x) in row.iter_mut().enumerate() {
                    *x = (scoring.score)([b, h, s, t], *x * scoring.scale);
                }
                let sink = (scoring.sink)(h);
                let first = sink.unwrap_or(f32::NEG_INFINITY);
                let largest = row.iter().copied().fold(first, f32::max);
                row.mapv_inplace(|x| (x - largest).exp());
                let sum = row.sum() + sink.map_or(0.0, |sink| (sink - largest).exp());
                row.mapv_inplace(|x| x / sum);
            }
            let mut place = out.index_axis_mut(Axis(0), b);
            place.index_axis_mut(Axis(1), h).assign(&scores.dot(&value.head(b, kv)?));
        }
    }
    Ok(out.into_shape_with_order(IxDyn(&[batch, len, heads * width]))?)
}

/// What a mask of keys adds to the scores, at `[batch, head, query, key]`: the
/// lengths of the keys, ends and then starts, a bool for each key, or one for
/// each query and key.
fn masked(
    call: &Call<'_>,
    mask: Option<&Array>,
    [batch, len, total]: [usize; 3],
) -> OpResult<impl Fn([usize; 4]) -> f32> {
    let filter = call.float_or("mask_filter_value", -10_000.0);
    let values = mask.map(Array::to_i64s).transpose()?.unwrap_or_default();
    let shape = mask.map(|mask| mask.shape().to_vec());
    let fits = match shape.as_deref() {
        None => true,
        Some(&[n]) => n == batch || n == 2 * batch,
        Some(&[b, t]) => [b, t] == [batch, total],
        Some(&[b, s, t]) => [b, s, t] == [batch, len, total],
        Some(_) => false,
    };
    if !fits {
        return Err(OpError::unsupported(format!("a mask {shape:?}")));
    }
    Ok(move |[b, _, s, t]: [usize; 4]| {
        let seen = match shape.as_deref() {
            Some([n]) => {
                let start = if *n == batch { 0 } else { values[batch + b] };
                (start..values[b]).contains(&(t as i64))
            }
            Some([_, _]) => values[b * total + t] != 0,
            Some([..]) => values[(b * len + s) * total + t] != 0,
            None => true,
        };
        if seen { 0.0 } else { filter }
    })
}

/// What is added to the scores, whose first two axes broadcast.
fn bias_of(bias: Option<&Array>, shape: [usize; 4]) -> OpResult<impl Fn([usize; 4]) -> f32> {
    let bias = bias.map(floats).transpose()?;
    if let Some(bias) = &bias {
        let [b, h, s, t] = *bias.shape() else {
            return Err(OpError::invalid(format!("attention_bias {:?}", bias.shape())));
        };
        let fits = (b == 1 || b == shape[0]) && (h == 1 || h == shape[1]);
        if !fits || [s, t] != shape[2..] {
            return Err(OpError::invalid(format!("attention_bias {:?}", bias.shape())));
        }
    }
    Ok(move |[b, h, s, t]: [usize; 4]| {
        let Some(bias) = &bias else { return 0.0 };
        let (b, h) = (b.min(bias.shape()[0] - 1), h.min(bias.shape()[1] - 1));
        bias[[b, h, s, t]]
    })
}

/// The number of heads that an attribute says.
fn head_count(call: &Call<'_>, name: &str) -> OpResult<usize> {
    match sizes(&[call.int_or(name, 0)])?[0] {
        0 => Err(OpError::invalid(format!("{name} is missing"))),
        heads => Ok(heads),
    }
}

/// The size of each of so many heads.
fn head_size(width: usize, heads: usize) -> OpResult<usize> {
    if !width.is_multiple_of(heads) {
        return Err(OpError::invalid(format!("{heads} heads in {width}")));
    }
    Ok(width / heads)
}

/// The shape of a tensor with three axes.
fn three(array: &Array) -> OpResult<[usize; 3]> {
    let wrong = |_| OpError::invalid(format!("{:?} where three axes are", array.shape()));
    array.shape().try_into().map_err(wrong)
}

/// Rows `[.., width]` plus the part of a bias that begins at `start`.
fn biased(rows: &Array, bias: Option<&[f32]>, start: usize) -> OpResult<Vec<f32>> {
    let mut values = rows.to_f32s()?;
    if let (Some(bias), Some(&width)) = (bias, rows.shape().last()) {
        let bias = bias.get(start..).and_then(|bias| bias.get(..width));
        let bias = bias.ok_or_else(|| OpError::invalid("a bias that is too short"))?;
        values.iter_mut().zip(bias.iter().cycle()).for_each(|(v, b)| *v += b);
    }
    Ok(values)
}

/// The scale that the node says, or one over the root of the size of a head.
fn attention_scale(call: &Call<'_>, size: usize) -> f32 {
    call.float("scale").filter(|&scale| scale != 0.0).unwrap_or(1.0 / (size as f32).sqrt())
}

/// Attention over given queries, keys and values, with masks that MultiHead and
/// plain attention share. `past` is how many keys came before.
fn masked_attention(
    call: &Call<'_>,
    parts: [&Heads; 3],
    past: usize,
    mask: Option<&Array>,
    bias: Option<&Array>,
) -> OpResult<ArrayD<f32>> {
    let ([batch, heads, len, size], total) = (parts[0].shape, parts[1].shape[2]);
    let mask = masked(call, mask, [batch, len, total])?;
    let bias = bias_of(bias, [batch, heads, len, total])?;
    let causal = call.flag("unidirectional", false);
    let score = |at: [usize; 4], x: f32| {
        let ahead = causal && at[3] > past + at[2];
        // An infinity would make nothing of a row without any key.
        if ahead { f32::MIN } else { x + mask(at) + bias(at) }
    };
    let scale = attention_scale(call, size);
    attend(call, parts, &Scoring { scale, score: &score, sink: &|_| None })
}

fn multi_head_attention(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let heads = head_count(call, "num_heads")?;
    let query = call.array(0)?;
    let element = query.element();
    let bias = call.optional(3)?.map(Array::to_f32s).transpose()?;
    let bias = bias.as_deref();
    let [query, mut key, mut value] = match (query.shape(), call.optional(1)?) {
        (&[batch, len, h, 3, size], None) if h == heads && bias.is_none() => {
            let rows = query.to_f32s()?;
            let part = |index: usize| {
                let place = Place { heads, size, start: index * size, stride: 3 * size };
                Heads::from_rows(&rows, [batch, len, 3 * h * size], &place)
            };
            [part(0)?, part(1)?, part(2)?]
        }
        (_, Some(key)) => {
            let shape = three(query)?;
            let size = head_size(shape[2], heads)?;
            let rows = biased(query, bias, 0)?;
            let query = Heads::from_rows(&rows, shape, &Place::dense(heads, size, 0))?;
            match *key.shape() {
                [batch, len, h, 2, size] if h == heads && bias.is_none() => {
                    let rows = key.to_f32s()?;
                    let part = |index: usize| {
                        let place = Place { heads, size, start: index * size, stride: 2 * size };
                        Heads::from_rows(&rows, [batch, len, 2 * h * size], &place)
                    };
                    [query, part(0)?, part(1)?]
                }
                [_, _, _, _] => {
                    [query, Heads::from_array(key)?, Heads::from_array(call.array(2)?)?]
                }
                _ => {
                    let value = call.array(2)?;
                    let (of_key, of_value) = (three(key)?, three(value)?);
                    let rows = biased(key, bias, shape[2])?;
                    let place = Place::dense(heads, head_size(of_key[2], heads)?, 0);
                    let key = Heads::from_rows(&rows, of_key, &place)?;
                    let rows = biased(value, bias, shape[2] + of_key[2])?;
                    let place = Place::dense(heads, head_size(of_value[2], heads)?, 0);
                    [query, key, Heads::from_rows(&rows, of_value, &place)?]
                }
            }
        }
        (shape, None) => return Err(OpError::unsupported(format!("packed queries {shape:?}"))),
    };
    let mut past = 0;
    if let (Some(past_key), Some(past_value)) = (call.optional(6)?, call.optional(7)?) {
        if call.value(8).is_some() || call.value(9).is_some() {
            return Err(OpError::unsupported("a cache that past and present share"));
        }
        let past_key = Heads::from_array(past_key)?;
        past = past_key.shape[2];
        key = key.behind(call, &past_key)?;
        value = value.behind(call, &Heads::from_array(past_value)?)?;
    }
    let parts = [&query, &key, &value];
    let out = masked_attention(call, parts, past, call.optional(4)?, call.optional(5)?)?;
    Ok(vec![made(element, out)?.into(), key.array(element)?.into(), value.array(element)?.into()])
}

/// Attention with the projections of queries, keys and values.
fn attention(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let heads = head_count(call, "num_heads")?;
    if call.flag("do_rotary", false) || call.flag("past_present_share_buffer", false) {
        return Err(OpError::unsupported("do_rotary or past_present_share_buffer"));
    }
    let array = call.array(0)?;
    let [batch, len, _] = three(array)?;
    let product = matrix_product(call, array, call.array(1)?)?;
    let [_, _, width] = three(&product)?;
    let bias = call.optional(2)?.map(Array::to_f32s).transpose()?;
    let rows = biased(&product, bias.as_deref(), 0)?;
    let widths = match call.ints("qkv_hidden_sizes") {
        Some(widths) => sizes(widths)?,
        None => vec![width / 3; 3],
    };
    let [q, k, v] = *widths else {
        return Err(OpError::invalid(format!("qkv_hidden_sizes {widths:?}")));
    };
    let part = |width: usize, start: usize| {
        let place = Place::dense(heads, head_size(width, heads)?, start);
        Heads::from_rows(&rows, [batch, len, rows.len() / (batch * len).max(1)], &place)
    };
    if q.checked_add(k).and_then(|qk| qk.checked_add(v)) != Some(width) {
        return Err(OpError::invalid(format!("{widths:?} of {width}")));
    }
    let (query, mut key, mut value) = (part(q, 0)?, part(k, q)?, part(v, q + k)?);
    let mut before = 0;
    if let Some(past) = call.optional(4)? {
        let halves = floats(past)?;
        let &[2, b, h, len, size] = past.shape() else {
            return Err(OpError::invalid(format!("past {:?}", past.shape())));
        };
        let half = |index: usize| Heads {
            shape: [b, h, len, size],
            values: halves.index_axis(Axis(0), index).iter().copied().collect(),
        };
        before = len;
        key = key.behind(call, &half(0))?;
        value = value.behind(call, &half(1))?;
    }
    let parts = [&query, &key, &value];
    let out = masked_attention(call, parts, before, call.optional(3)?, call.optional(5)?)?;
    let mut outputs = vec![made(array.element(), out)?.into()];
    if call.wants(1) {
        if key.shape != value.shape {
            return Err(OpError::invalid("keys and values of different sizes"));
        }
        let [batch, heads, len, size] = key.shape;
        let shape = [2, batch, heads, len, size];
        call.reserve(Element::Plain(DType::F32), &shape)?;
        let values = [key.values, value.values].concat();
        outputs.push(Array::from_f32s(array.element(), &shape, values)?.into());
    }
    Ok(outputs)
}

/// Causal attention whose heads of queries share heads of keys and values, with
/// a cache of these.
fn group_query_attention(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let (heads, shared) = (head_count(call, "num_heads")?, head_count(call, "kv_num_heads")?);
    let quantised =
        ["k_quant_type", "v_quant_type"].iter().any(|n| call.text_or(n, "NONE") != "NONE");
    if quantised
        || (12..17).any(|index| call.value(index).is_some())
        || call.flag("sliding_window_cache", false)
    {
        return Err(OpError::unsupported("a quantised or sliding cache, norms, query_seqlens"));
    }
    let array = call.array(0)?;
    let element = array.element();
    let shape = three(array)?;
    let [batch, len, width] = shape;
    let rows = array.to_f32s()?;
    let [mut query, mut key, value] = match (call.optional(1)?, call.optional(2)?) {
        (Some(key), Some(value)) => {
            let (of_key, of_value) = (three(key)?, three(value)?);
            let place =
                |width, heads| Ok::<_, OpError>(Place::dense(heads, head_size(width, heads)?, 0));
            [
                Heads::from_rows(&rows, shape, &place(width, heads)?)?,
                Heads::from_rows(&key.to_f32s()?, of_key, &place(of_key[2], shared)?)?,
                Heads::from_rows(&value.to_f32s()?, of_value, &place(of_value[2], shared)?)?,
            ]
        }
        _ => {
            let all = shared.checked_mul(2).and_then(|kv| kv.checked_add(heads));
            let size = head_size(width, all.ok_or_else(|| OpError::invalid("too many heads"))?)?;
            let part = |heads, start| {
                Heads::from_rows(&rows, shape, &Place::dense(heads, size, start * size))
            };
            [part(heads, 0)?, part(shared, heads)?, part(shared, heads + shared)?]
        }
    };
    let lengths = sizes(&call.array(5)?.to_i64s()?)?;
    let total = match *call.array(6)?.to_i64s()? {
        [total] => sizes(&[total])?[0],
        ref other => return Err(OpError::invalid(format!("{} lengths", other.len()))),
    };
    let size = query.shape[3];
    let fits = [key.shape, value.shape] == [[batch, shared, len, size]; 2];
    if lengths.len() != batch || !fits {
        return Err(OpError::invalid(format!("keys {:?}, lengths {lengths:?}", key.shape)));
    }
    // How many keys each sequence has already.
    let before: Vec<usize> = lengths
        .iter()
        .map(|&last| if total == len { 0 } else { (last + 1).saturating_sub(len) })
        .collect();
    if call.flag("do_rotary", false) {
        let given = call.optional(9)?.map(Array::to_i64s).transpose()?;
        let (cos, sin) = (call.array(7)?, call.array(8)?);
        let half = cos.shape().last().copied().unwrap_or(0);
        if cos.shape() != sin.shape() || half == 0 || half.saturating_mul(2) > size {
            return Err(OpError::invalid(format!("{:?} for heads of {size}", cos.shape())));
        }
        let (cos, sin) = (cos.to_f32s()?, sin.to_f32s()?);
        let interleaved = call.flag("rotary_interleaved", false);
        for part in [&mut query, &mut key] {
            let [_, heads, len, size] = part.shape;
            for (at, head) in part.values.chunks_exact_mut(size.max(1)).enumerate() {
                let (b, s) = (at / (heads * len), at % len);
                let position = match &given {
                    Some(given) if given.len() == batch * len => given[b * len + s],
                    _ => (before[b] + s) as i64,
                };
                turn(head, row(&cos, half, position)?, row(&sin, half, position)?, interleaved);
            }
        }
    }
    let past = |index: usize| call.optional(index)?.map(Heads::from_array).transpose();
    let key = cached(call, &key, past(3)?, &before, total)?;
    let value = cached(call, &value, past(4)?, &before, total)?;
    let window = usize::try_from(call.int_or("local_window_size", -1)).ok();
    let causal = call.flag("causal", true);
    let softcap = call.float_or("softcap", 0.0);
    // The cache may be longer than what the bias is for.
    let bias = bias_of(call.optional(10)?, [batch, heads, len, total])?;
    let score = |at: [usize; 4], x: f32| {
        let [b, _, s, t] = at;
        let position = before[b] + s;
        let seen = if causal {
            t <= position && window.is_none_or(|window| position < t.saturating_add(window))
        } else {
            t <= lengths[b]
        };
        if !seen || t >= total {
            return f32::NEG_INFINITY;
        }
        let x = if softcap > 0.0 { softcap * (x / softcap).tanh() } else { x };
        x + bias(at)
    };
    let sinks = call.optional(11)?.map(Array::to_f32s).transpose()?;
    let smooth = call.flag("smooth_softmax", false);
    let sink = |head: usize| match &sinks {
        Some(sinks) => sinks.get(head).copied(),
        None => smooth.then_some(0.0),
    };
    let scale = attention_scale(call, size);
    let parts = [&query, &key, &value];
    let out = attend(call, parts, &Scoring { scale, score: &score, sink: &sink })?;
    Ok(vec![made(element, out)?.into(), key.array(element)?.into(), value.array(element)?.into()])
}

/// The cache, as long as it was or as all keys are, with the new rows behind
/// those that each sequence has.
fn cached(
    call: &Call<'_>,
    new: &Heads,
    past: Option<Heads>,
    before: &[usize],
    total: usize,
) -> OpResult<Heads> {
    let [batch, heads, len, size] = new.shape;
    let old = past.as_ref().map_or(0, |past| past.shape[2]);
    let shape = [batch, heads, total.max(old), size];
    let long = before.iter().any(|before| before + len > shape[2] || *before > old);
    if long || past.as_ref().is_some_and(|p| p.shape != [batch, heads, old, size]) {
        return Err(OpError::invalid(format!("{:?} behind {before:?} of {old}", new.shape)));
    }
    let (_, mut values) = into_parts(zeros::<f32>(call, &shape)?);
    if values.is_empty() {
        return Ok(Heads { shape, values });
    }
    for (b, &before) in before.iter().enumerate() {
        for h in 0..heads {
            let at = b * heads + h;
            let out = &mut values[at * shape[2] * size..(at + 1) * shape[2] * size];
            if let Some(past) = &past {
                let kept = before * size;
                out[..kept].copy_from_slice(&past.values[at * old * size..][..kept]);
            }
            out[before * size..][..len * size]
                .copy_from_slice(&new.values[at * len * size..][..len * size]);
        }
    }
    Ok(Heads { shape, values })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_function_is_that_of_tables() {
        for (x, y) in [
            (0.0, 0.0),
            (0.5, 0.520_499_877_813_046_5),
            (1.0, 0.842_700_792_949_714_9),
            (2.0, 0.995_322_265_018_952_7),
            (3.0, 0.999_977_909_503_001_4),
            (9.0, 1.0),
        ] {
            assert!((erf(x) - y).abs() < 1e-14 && (erf(-x) + y).abs() < 1e-14, "{x}");
        }
        assert!(erf(f64::NAN).is_nan());
    }
}
