//! Operators on quantised numbers.

use half::{bf16, f16};
use headland_tensor::DType;

use super::{Op, elementwise::zip};
use crate::{
    interpreter::{Call, OpError, OpResult, axis, broadcast_shape, sizes},
    value::{Array, Element, Small, Value, scalar_type},
};

/// The operator of that name.
///
/// # Source
/// <https://onnx.ai/onnx/operators/>
pub(crate) fn find(name: &str) -> Option<Op> {
    Some(match name {
        "QuantizeLinear" => quantize_linear,
        "DequantizeLinear" => dequantize_linear,
        "DynamicQuantizeLinear" => dynamic_quantize_linear,
        "MatMulInteger" => matmul_integer,
        "QLinearMatMul" => qlinear_matmul,
        "ConvInteger" => conv_integer,
        "QLinearConv" => qlinear_conv,
        _ => return None,
    })
}

// ---------------------------------------------------------------------------
// Numbers to codes and back

/// Which scale and zero point each element of a tensor has.
struct Grain {
    len: usize,
    inner: usize,
    /// How many neighbours along the axis share a scale; `None` where each
    /// index of the axis has one for all that is across it.
    block: Option<usize>,
}

impl Grain {
    /// From a call's `axis` and `block_size`, and a scale's shape.
    fn new(call: &Call<'_>, shape: &[usize], scale: &[usize]) -> OpResult<Self> {
        // Nothing has no scale, and its sizes may have no product.
        if shape.contains(&0) {
            return Ok(Self { len: 0, inner: 0, block: None });
        }
        let block = call.int_or("block_size", 0);
        if block == 0 && scale.iter().product::<usize>() == 1 {
            let inner = shape.iter().product();
            return Ok(Self { len: 1, inner, block: None });
        }
        let along = axis(call.int_or("axis", 1), shape.len())?;
        let grain = Self {
            len: shape[along],
            inner: shape[along + 1..].iter().product(),
            block: match usize::try_from(block) {
                Ok(0) => None,
                Ok(block) => Some(block),
                Err(_) => return Err(OpError::invalid(format!("block_size {block}"))),
            },
        };
        let fits = match grain.block {
            None => scale == [grain.len],
            Some(block) => {
                let mut wanted = shape.to_vec();
                wanted[along] = grain.len.div_ceil(block);
                scale == wanted
            }
        };
        if fits {
            Ok(grain)
        } else {
            Err(OpError::invalid(format!("a scale of {scale:?} for {shape:?}")))
        }
    }

    /// Each element with its scale and zero point.
    fn map<X: Copy, Y>(
        &self,
        elements: &[X],
        scales: &[f32],
        zeros: &[f32],
        f: impl Fn(X, f32, f32) -> Y,
    ) -> Vec<Y> {
        let mut made = Vec::with_capacity(elements.len());
        if elements.is_empty() {
            return made;
        }
        for (index, row) in elements.chunks(self.inner).enumerate() {
            let (block, at) = (index / self.len, index % self.len);
            match self.block {
                None => {
                    let (scale, zero) = (scales[at], zeros[at]);
                    made.extend(row.iter().map(|&x| f(x, scale, zero)));
                }
                Some(size) => {
                    let start = (block * self.len.div_ceil(size) + at / size) * self.inner;
                    let scales = scales[start..].iter().zip(&zeros[start..]);
                    made.extend(row.iter().zip(scales).map(|(&x, (&s, &z))| f(x, s, z)));
                }
            }
        }
        made
    }
}

/// Scales, and as many zero points; 0 where there are none.
fn scales_and_zeros(scale: &Array, zero: Option<&Array>) -> OpResult<(Vec<f32>, Vec<f32>)> {
    let scales = scale.to_f32s()?;
    let zeros = match zero {
        Some(zero) => zero.to_f32s()?,
        None => vec![0.0; scales.len()],
    };
    if zeros.len() != scales.len() {
        let reason = format!("{} zero points for {} scales", zeros.len(), scales.len());
        return Err(OpError::invalid(reason));
    }
    Ok((scales, zeros))
}

/// A value to the nearest whole number, ties to even, where its size is below
/// 2^22: there is no room behind the point beside 1.5 * 2^23.
fn nearest(value: f32) -> f32 {
    const SHIFT: f32 = 12_582_912.0;
    (value + SHIFT) - SHIFT
}

/// `value` rounded, with the zero point, within a type's bounds. The bounds
/// come first, as they are whole numbers and keep the rounding in range.
fn saturated(value: f32, zero: f32, low: f32, high: f32) -> f32 {
    nearest(value.max(low - zero).min(high - zero)) + zero
}

/// The bounds of a quantised type of whole numbers.
fn bounds(element: Element) -> Option<(f32, f32)> {
    Some(match element {
        Element::Plain(DType::U8) => (0.0, 255.0),
        Element::Plain(DType::I8) => (-128.0, 127.0),
        Element::Plain(DType::U16) => (0.0, 65535.0),
        Element::Plain(DType::I16) => (-32768.0, 32767.0),
        Element::Small(Small::U4) => (0.0, 15.0),
        Element::Small(Small::I4) => (-8.0, 7.0),
        _ => return None,
    })
}

/// Whole numbers within a type's bounds as an array of it.
fn whole(element: Element, shape: &[usize], values: Vec<f32>) -> OpResult<Array> {
    match element {
        Element::Small(small) => {
            Array::from_codes(small, shape, values.iter().map(|&v| v as i8 as u8 & 0xf).collect())
        }
        _ => scalar_type!(element, [ints] T => {
            Array::new(shape, values.iter().map(|&v| v as T).collect::<Vec<_>>())
        }),
    }
}

/// A float type that an attribute names by number.
fn float_attribute(call: &Call<'_>, name: &str) -> OpResult<Option<Element>> {
    let Some(number) = call.int(name).filter(|&n| n != 0) else { return Ok(None) };
    match i32::try_from(number).ok().and_then(Element::from_onnx) {
        Some(element) => Ok(Some(element)),
        None => Err(OpError::invalid(format!("{name} is {number}"))),
    }
}

/// `QuantizeLinear`: saturate(round(x / scale) + zero point).
fn quantize_linear(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let (x, scale, zero) = (call.array(0)?, call.array(1)?, call.optional(2)?);
    let wanted = float_attribute(call, "output_dtype")?;
    let element = match (zero.map(Array::element), wanted) {
        (Some(zero), Some(wanted)) if zero != wanted => {
            let reason = format!("a zero point of {zero} for an output of {wanted}");
            return Err(OpError::invalid(reason));
        }
        (Some(element), _) | (None, Some(element)) => element,
        (None, None) => Element::Plain(DType::U8),
    };
    let (scales, zeros) = scales_and_zeros(scale, zero)?;
    let grain = Grain::new(call, x.shape(), scale.shape())?;
    let shape = x.shape();
    // The quotient is of the scale's type since operator set 23.
    let precision = match float_attribute(call, "precision")? {
        None if call.opset() >= 23 => scale.element(),
        None => Element::Plain(DType::F32),
        Some(precision) => precision,
    };
    let half: Option<fn(f32) -> f32> = match precision {
        Element::Plain(DType::F16) => Some(|v| f16::from_f32(v).to_f32()),
        Element::Plain(DType::BF16) => Some(|v| bf16::from_f32(v).to_f32()),
        _ => None,
    };
    let x = x.to_f32s()?;
    let made = match (element, bounds(element)) {
        (_, Some((low, high))) => {
            let values = match half {
                Some(half) => {
                    grain.map(&x, &scales, &zeros, |x, s, z| saturated(half(x / s), z, low, high))
                }
                None => grain.map(&x, &scales, &zeros, |x, s, z| saturated(x / s, z, low, high)),
            };
            whole(element, shape, values)
        }
        (Element::Small(small), _) if small != Small::F8E8M0 => {
            let saturate = call.flag("saturate", true);
            let half = half.unwrap_or(|v| v);
            let codes =
                grain.map(&x, &scales, &zeros, |x, s, z| small.encode(half(x / s) + z, saturate));
            Array::from_codes(small, shape, codes)
        }
        _ => Err(OpError::unsupported(format!("an output of {element}"))),
    };
    Ok(vec![made?.into()])
}

/// `DequantizeLinear`: (x - zero point) * scale.
fn dequantize_linear(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let (x, scale, zero) = (call.array(0)?, call.array(1)?, call.optional(2)?);
    let element = float_attribute(call, "output_dtype")?.unwrap_or(scale.element());
    if let Some(zero) = zero
        && zero.element() != x.element()
    {
        let reason = format!("a zero point of {} for {}", zero.element(), x.element());
        return Err(OpError::invalid(reason));
    }
    let (scales, zeros) = scales_and_zeros(scale, zero)?;
    let grain = Grain::new(call, x.shape(), scale.shape())?;
    call.reserve(Element::Plain(DType::F32), x.shape())?;
    call.reserve(element, x.shape())?;
    let made = match x.element() {
        Element::Small(small) => {
            let values: [f32; 256] = std::array::from_fn(|code| small.decode(code as u8));
            grain.map(x.codes()?, &scales, &zeros, |x, s, z| (values[usize::from(x)] - z) * s)
        }
        other => scalar_type!(other, [ints] T => {
            Ok(grain.map(x.elements::<T>()?, &scales, &zeros, |x, s, z| (x as f32 - z) * s))
        })?,
    };
    Ok(vec![Array::from_f32s(element, x.shape(), made)?.into()])
}

/// `DynamicQuantizeLinear`: to u8, with the scale that just holds all values
/// and zero.
fn dynamic_quantize_linear(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let array = call.array(0)?;
    let x = array.elements::<f32>()?;
    let largest = x.iter().fold(0f32, |m, &v| m.max(v));
    let smallest = x.iter().fold(0f32, |m, &v| m.min(v));
    let scale = if largest == smallest { 1.0 } else { (largest - smallest) / 255.0 };
    let zero = (0.0 - smallest / scale).clamp(0.0, 255.0).round_ties_even();
    let codes: Vec<u8> = x.iter().map(|x| saturated(x / scale, zero, 0.0, 255.0) as u8).collect();
    Ok(vec![
        Array::new(array.shape(), codes)?.into(),
        Array::scalar(scale).into(),
        Array::scalar(zero as u8).into(),
    ])
}

// ---------------------------------------------------------------------------
// Matrix products

/// What a matrix product adds up: whole numbers, which wrap at 32 bits, or
/// small floats.
trait Sum: Copy + PartialEq + Default {
    fn add_product(self, a: Self, b: Self) -> Self;
    fn minus(self, zero: Self) -> Self;
}

impl Sum for i32 {
    fn add_product(self, a: Self, b: Self) -> Self {
        self.wrapping_add(a.wrapping_mul(b))
    }
    fn minus(self, zero: Self) -> Self {
        self.wrapping_sub(zero)
    }
}

impl Sum for f32 {
    fn add_product(self, a: Self, b: Self) -> Self {
        self + a * b
    }
    fn minus(self, zero: Self) -> Self {
        self - zero
    }
}

/// Whole numbers of 8 bits, or i32, as i32.
fn to_i32s(array: &Array) -> OpResult<Vec<i32>> {
    Ok(match array.element() {
        Element::Plain(DType::U8) => array.elements::<u8>()?.iter().map(|&v| v.into()).collect(),
        Element::Plain(DType::I8) => array.elements::<i8>()?.iter().map(|&v| v.into()).collect(),
        _ => array.elements::<i32>()?.to_vec(),
    })
}

/// `sums` [m, n] plus `a` [m, k] times `b` [k, n].
fn add_product<S: Sum>(sums: &mut [S], a: &[S], b: &[S], k: usize, n: usize) {
    if k == 0 || n == 0 {
        return;
    }
    for (sums, a) in sums.chunks_exact_mut(n).zip(a.chunks_exact(k)) {
        for (&a, b) in a.iter().zip(b.chunks_exact(n)) {
            // Much of what a rectifier leaves is zero.
            if a != S::default() {
                for (sum, &b) in sums.iter_mut().zip(b) {
                    *sum = sum.add_product(a, b);
                }
            }
        }
    }
}

/// A matrix, or a stack of them, less its zero points.
///
/// One zero point serves all; several are one for each row, or for each column
/// where `columns` is set, and have either that one axis or the matrix's rank.
fn less_zero<S: Sum>(
    call: &Call<'_>,
    array: &Array,
    zero: Option<&Array>,
    columns: bool,
    read: impl Fn(&Array) -> OpResult<Vec<S>>,
) -> OpResult<Vec<S>> {
    let elements = read(array)?;
    let Some(zero) = zero else { return Ok(elements) };
    let shape = spread(zero, columns);
    let zeros = read(zero)?;
    let (x, y) = ((array.shape(), elements.as_slice()), (shape.as_slice(), zeros.as_slice()));
    let (made_shape, made) = zip(call, Element::Plain(DType::I32), x, y, |a, b| a.minus(*b))?;
    if made_shape != array.shape() {
        let reason = format!("zero points of {:?} for {:?}", zero.shape(), array.shape());
        return Err(OpError::invalid(reason));
    }
    Ok(made)
}

/// The shape in which scales or zero points broadcast to their matrix: a vector
/// of those of the rows stands upright.
fn spread(array: &Array, columns: bool) -> Vec<usize> {
    match array.shape() {
        [1] => Vec::new(),
        [rows] if !columns => vec![*rows, 1],
        other => other.to_vec(),
    }
}

/// The product of stacks of matrices, as numpy's `matmul`.
fn matmul<S: Sum>(
    call: &Call<'_>,
    (a_shape, a): (&[usize], &[S]),
    (b_shape, b): (&[usize], &[S]),
) -> OpResult<(Vec<usize>, Vec<S>)> {
    let refused = || OpError::invalid(format!("{a_shape:?} times {b_shape:?}"));
    // A vector is a row on the left and a column on the right.
    let (a_stack, m, k) = match a_shape {
        [] => return Err(refused()),
        [k] => (&[][..], 1, *k),
        [stack @ .., m, k] => (stack, *m, *k),
    };
    let (b_stack, b_k, n) = match b_shape {
        [] => return Err(refused()),
        [k] => (&[][..], *k, 1),
        [stack @ .., k, n] => (stack, *k, *n),
    };
    if k != b_k {
        return Err(refused());
    }
    let stack = broadcast_shape(&[a_stack, b_stack])?;
    let mut shape = stack.clone();
    shape.extend((a_shape.len() > 1).then_some(m));
    shape.extend((b_shape.len() > 1).then_some(n));
    call.reserve(Element::Plain(DType::I32), &shape)?;
    let mut made = vec![S::default(); shape.iter().product()];
    if made.is_empty() {
        return Ok((shape, made));
    }
    let mut products = made.chunks_exact_mut(m * n);
    let mut on_time = Ok(());
    super::elementwise::runs([a_stack, b_stack], &stack, |[i, j], [moves_i, moves_j], len| {
        for at in 0..len {
            on_time = on_time.clone().and_then(|()| call.on_time());
            if on_time.is_err() {
                return;
            }
            let (i, j) = (i + at * usize::from(moves_i), j + at * usize::from(moves_j));
            if let Some(sums) = products.next() {
                add_product(sums, &a[i * m * k..][..m * k], &b[j * k * n..][..k * n], k, n);
            }
        }
    });
    on_time?;
    Ok((shape, made))
}

fn matmul_integer(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let (a, b) = (call.array(0)?, call.array(1)?);
    let left = less_zero(call, a, call.optional(2)?, false, to_i32s)?;
    let right = less_zero(call, b, call.optional(3)?, true, to_i32s)?;
    let (shape, made) = matmul(call, (a.shape(), &left), (b.shape(), &right))?;
    Ok(vec![Array::new(&shape, made)?.into()])
}

/// `QLinearMatMul`: the product, times both scales over that of the result.
fn qlinear_matmul(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let (a, b, y_zero) = (call.array(0)?, call.array(3)?, call.array(7)?);
    let (a_zero, b_zero) = (call.optional(2)?, call.optional(5)?);
    let small = |array: &Array| matches!(array.element(), Element::Small(_));
    let (shape, sums): (_, Vec<f32>) = if small(a) || small(b) {
        let left = less_zero(call, a, a_zero, false, Array::to_f32s)?;
        let right = less_zero(call, b, b_zero, true, Array::to_f32s)?;
        matmul(call, (a.shape(), &left), (b.shape(), &right))?
    } else {
        let left = less_zero(call, a, a_zero, false, to_i32s)?;
        let right = less_zero(call, b, b_zero, true, to_i32s)?;
        let (shape, sums) = matmul(call, (a.shape(), &left), (b.shape(), &right))?;
        (shape, sums.into_iter().map(|v| v as f32).collect())
    };
    let (a_scale, b_scale, y_scale) = (call.array(1)?, call.array(4)?, call.array(6)?);
    let scale =
        |array: &Array, columns| Ok::<_, OpError>((spread(array, columns), array.to_f32s()?));
    let (a_scale, b_scale, y_scale) =
        (scale(a_scale, false)?, scale(b_scale, true)?, scale(y_scale, false)?);
    let float = Element::Plain(DType::F32);
    let both = zip(call, float, (&a_scale.0, &a_scale.1), (&b_scale.0, &b_scale.1), |a, b| a * b)?;
    let factor = zip(call, float, (&both.0, &both.1), (&y_scale.0, &y_scale.1), |x, y| x / y)?;
    let scaled = zip(call, float, (&shape, &sums), (&factor.0, &factor.1), |sum, f| sum * f)?;
    if scaled.0 != shape {
        return Err(OpError::invalid(format!("scales of {:?} for {shape:?}", factor.0)));
    }
    Ok(vec![requantized(call, y_zero, &shape, &scaled.1)?.into()])
}

/// Scaled values as the result's type, with its zero points: one, or one for
/// each row.
fn requantized(call: &Call<'_>, zero: &Array, shape: &[usize], values: &[f32]) -> OpResult<Array> {
    let element = zero.element();
    let zeros = (spread(zero, false), zero.to_f32s()?);
    let (x, y) = ((shape, values), (zeros.0.as_slice(), zeros.1.as_slice()));
    match (element, bounds(element)) {
        (_, Some((low, high))) => {
            let (made_shape, made) = zip(call, element, x, y, |&x, &z| saturated(x, z, low, high))?;
            whole(element, &made_shape, made)
        }
        (Element::Small(small), None) => {
            let (made_shape, made) = zip(call, element, x, y, |x, z| small.encode(x + z, true))?;
            Array::from_codes(small, &made_shape, made)
        }
        _ => Err(OpError::unsupported(format!("an output of {element}"))),
    }
}

// ---------------------------------------------------------------------------
// Convolutions

/// One spatial axis of a convolution.
struct Window {
    input: usize,
    kernel: usize,
    output: usize,
    stride: usize,
    dilation: usize,
    /// Elements before the first.
    before: usize,
}

/// The spatial axes of a convolution of `x` [n, c, ..] with `w` [m, c / group,
/// ..], from the call's attributes.
fn windows(call: &Call<'_>, x: &[usize], w: &[usize]) -> OpResult<Vec<Window>> {
    let rank = x.len().saturating_sub(2);
    let refused = |what: &str| OpError::invalid(format!("{what} for {x:?} and {w:?}"));
    if rank == 0 || w.len() != x.len() {
        return Err(refused("a convolution"));
    }
    let list = |name: &str, default: usize, len: usize| {
        let values = match call.ints(name).filter(|v| !v.is_empty()) {
            Some(values) => sizes(values)?,
            None => vec![default; len],
        };
        if values.len() == len { Ok(values) } else { Err(refused(name)) }
    };
    let (strides, dilations) = (list("strides", 1, rank)?, list("dilations", 1, rank)?);
    let pads = list("pads", 0, 2 * rank)?;
    let auto_pad = call.text_or("auto_pad", "NOTSET");
    if let Some(kernel) = call.ints("kernel_shape")
        && sizes(kernel)? != w[2..]
    {
        return Err(refused("kernel_shape"));
    }
    let mut windows = Vec::with_capacity(rank);
    for index in 0..rank {
        let (input, kernel) = (x[index + 2], w[index + 2]);
        let (stride, dilation) = (strides[index], dilations[index]);
        if stride == 0 || dilation == 0 || kernel == 0 {
            return Err(refused("a stride, dilation or kernel of 0"));
        }
        let span = (kernel - 1).checked_mul(dilation).and_then(|s| s.checked_add(1));
        let span = span.ok_or_else(|| refused("dilations"))?;
        let (before, after) = match auto_pad {
            "NOTSET" | "" => (pads[index], pads[index + rank]),
            "VALID" => (0, 0),
            "SAME_UPPER" | "SAME_LOWER" => {
                // The last window starts inside the input.
                let last = input.div_ceil(stride).saturating_sub(1) * stride;
                let missing = last
                    .checked_add(span)
                    .ok_or_else(|| refused("dilations"))?
                    .saturating_sub(input);
                let (less, more) = (missing / 2, missing - missing / 2);
                if auto_pad == "SAME_UPPER" { (less, more) } else { (more, less) }
            }
            other => return Err(OpError::invalid(format!("auto_pad {other:?}"))),
        };
        let padded = input.checked_add(before).and_then(|s| s.checked_add(after));
        let padded = padded.ok_or_else(|| refused("pads"))?;
        let output = padded.checked_sub(span).map_or(0, |rest| rest / stride + 1);
        windows.push(Window { input, kernel, output, stride, dilation, before });
    }
    Ok(windows)
}

/// The sums of a convolution [n, m, ..] of whole numbers, from `x` and `w` less
/// their zero points, so that padding is 0.
///
/// For so many output positions at a time as stay in the cache, the elements
/// under each window become a column, and the weights times these are the sums.
fn convolved(
    call: &Call<'_>,
    (x_shape, x): (&[usize], &[i32]),
    (w_shape, w): (&[usize], &[i32]),
) -> OpResult<(Vec<usize>, Vec<i32>)> {
    let windows = windows(call, x_shape, w_shape)?;
    let (batches, channels) = (x_shape[0], x_shape[1]);
    let (maps, per_group) = (w_shape[0], w_shape[1]);
    let groups = usize::try_from(call.int_or("group", 1)).unwrap_or(0);
    if groups == 0
        || per_group.checked_mul(groups) != Some(channels)
        || !maps.is_multiple_of(groups)
    {
        let reason = format!("{groups} groups of {channels} channels, weights {w_shape:?}");
        return Err(OpError::invalid(reason));
    }
    let mut shape = vec![batches, maps];
    shape.extend(windows.iter().map(|w| w.output));
    call.reserve(Element::Plain(DType::I32), &shape)?;
    let mut sums = vec![0; shape.iter().product()];
    if sums.is_empty() || per_group == 0 {
        return Ok((shape, sums));
    }
    let inputs: usize = x_shape[2..].iter().product();
    let outputs: usize = shape[2..].iter().product();
    let taps: usize = w_shape[2..].iter().product();
    let (rows, maps_per_group) = (per_group * taps, maps / groups);
    let tile = ((1 << 18) / rows).clamp(16, 1024).min(outputs);
    let mut columns = vec![0; rows * tile];
    let mut products = vec![0; maps_per_group * tile];
    for start in (0..outputs).step_by(tile) {
        call.on_time()?;
        let width = tile.min(outputs - start);
        let places: Vec<Vec<Option<usize>>> = (0..taps)
            .map(|tap| (start..start + width).map(|at| place(&windows, tap, at)).collect())
            .collect();
        for batch in 0..batches {
            for group in 0..groups {
                let columns = &mut columns[..rows * width];
                for (row, column) in columns.chunks_exact_mut(width).enumerate() {
                    let channel = batch * channels + group * per_group + row / taps;
                    let x = &x[channel * inputs..][..inputs];
                    for (value, place) in column.iter_mut().zip(&places[row % taps]) {
                        *value = place.map_or(0, |at| x[at]);
                    }
                }
                let products = &mut products[..maps_per_group * width];
                products.fill(0);
                let first = group * maps_per_group;
                let w = &w[first * rows..][..maps_per_group * rows];
                add_product(products, w, columns, rows, width);
                for (map, product) in products.chunks_exact(width).enumerate() {
                    let at = (batch * maps + first + map) * outputs + start;
                    sums[at..at + width].copy_from_slice(product);
                }
            }
        }
    }
    Ok((shape, sums))
}

/// Where in a channel a tap of the kernel lies for an output position; `None`
/// in the padding.
fn place(windows: &[Window], mut tap: usize, mut output: usize) -> Option<usize> {
    let (mut at, mut stride) = (0, 1);
    for window in windows.iter().rev() {
        let (k, o) = (tap % window.kernel, output % window.output);
        tap /= window.kernel;
        output /= window.output;
        let index = (o * window.stride + k * window.dilation).checked_sub(window.before)?;
        if index >= window.input {
            return None;
        }
        at += index * stride;
        stride *= window.input;
    }
    Some(at)
}

/// A convolution's input or weights, less the zero point: one, or one for each
/// output map of the weights.
fn less_map_zero(call: &Call<'_>, array: &Array, zero: Option<&Array>) -> OpResult<Vec<i32>> {
    let Some(zero) = zero else { return to_i32s(array) };
    let zero = match zero.shape() {
        [1] => zero.reshape(&[])?,
        [maps] => {
            let mut shape = vec![1; array.rank()];
            if let Some(first) = shape.first_mut() {
                *first = *maps;
            }
            zero.reshape(&shape)?
        }
        _ => zero.clone(),
    };
    less_zero(call, array, Some(&zero), true, to_i32s)
}

fn conv_integer(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let (x, w) = (call.array(0)?, call.array(1)?);
    let left = less_map_zero(call, x, call.optional(2)?)?;
    let right = less_map_zero(call, w, call.optional(3)?)?;
    let (shape, sums) = convolved(call, (x.shape(), &left), (w.shape(), &right))?;
    Ok(vec![Array::new(&shape, sums)?.into()])
}

/// `QLinearConv`: the sums and the bias, times the scales of input and weights
/// over that of the result; weights may have one scale for each output map.
fn qlinear_conv(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let (x, w, y_zero) = (call.array(0)?, call.array(3)?, call.array(7)?);
    let left = less_map_zero(call, x, call.optional(2)?)?;
    let right = less_map_zero(call, w, call.optional(5)?)?;
    let (shape, sums) = convolved(call, (x.shape(), &left), (w.shape(), &right))?;
    let one = |index: usize| match *call.array(index)?.to_f32s()? {
        [value] => Ok(value),
        _ => Err(OpError::invalid(format!("input {index} is not one number"))),
    };
    let (x_scale, y_scale, w_scale) = (one(1)?, one(6)?, call.array(4)?.to_f32s()?);
    one(7)?;
    let bias = call.optional(8)?.map(Array::elements::<i32>).transpose()?;
    let maps = shape[1];
    if ![1, maps].contains(&w_scale.len()) || bias.is_some_and(|bias| bias.len() != maps) {
        return Err(OpError::invalid(format!("scales or bias of other than {maps} maps")));
    }
    let mut scaled = Vec::with_capacity(sums.len());
    if !sums.is_empty() {
        let outputs = shape[2..].iter().product::<usize>();
        for (index, sums) in sums.chunks_exact(outputs).enumerate() {
            let map = index % maps;
            let bias = bias.map_or(0, |bias| bias[map]);
            let factor = x_scale * w_scale[map % w_scale.len()] / y_scale;
            scaled.extend(sums.iter().map(|sum| sum.wrapping_add(bias) as f32 * factor));
        }
    }
    Ok(vec![requantized(call, y_zero, &shape, &scaled)?.into()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_and_saturation() {
        assert_eq!(nearest(2.5), 2.0);
        assert_eq!(nearest(-3.5), -4.0);
        assert_eq!(saturated(0.5, 1.0, 0.0, 255.0), 1.0);
        assert_eq!(saturated(1e30, 128.0, 0.0, 255.0), 255.0);
        assert_eq!(saturated(f32::NEG_INFINITY, -3.0, -128.0, 127.0), -128.0);
    }

    #[test]
    fn products_wrap() {
        let mut sums = [1, 0, 0, 0];
        add_product(&mut sums, &[1, 2, 3, 4], &[5, 6, 7, i32::MAX], 2, 2);
        assert_eq!(sums, [20, 4, 43, 14]);
    }
}
