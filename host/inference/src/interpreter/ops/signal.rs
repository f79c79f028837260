//! Fourier transforms and windows.

use std::f64::consts::TAU;

use headland_tensor::DType;

use super::Op;
use crate::{
    interpreter::{Call, OpError, OpResult, axis, sizes},
    value::{Array, Element, Value, scalar_type},
};

/// The operator of that name.
///
/// # Source
/// <https://onnx.ai/onnx/operators/>
pub(crate) fn find(name: &str) -> Option<Op> {
    Some(match name {
        "BlackmanWindow" | "HammingWindow" | "HannWindow" => window,
        "DFT" => dft,
        "MelWeightMatrix" => mel_weights,
        "STFT" => stft,
        _ => return None,
    })
}

/// A complex number.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Complex {
    re: f64,
    im: f64,
}

impl Complex {
    /// The point of the unit circle at `turns` of a whole turn.
    fn unit(turns: f64) -> Self {
        let (im, re) = (TAU * turns).sin_cos();
        Self { re, im }
    }

    fn plus(self, other: Self) -> Self {
        Self { re: self.re + other.re, im: self.im + other.im }
    }

    fn minus(self, other: Self) -> Self {
        Self { re: self.re - other.re, im: self.im - other.im }
    }

    fn times(self, other: Self) -> Self {
        Self {
            re: self.re * other.re - self.im * other.im,
            im: self.re * other.im + self.im * other.re,
        }
    }

    fn conjugate(self) -> Self {
        Self { re: self.re, im: -self.im }
    }
}

/// What Fourier transforms of one length share: O(n log n) for every length.
struct Fourier {
    len: usize,
    /// The points of the unit circle that a transform of a power of two turns
    /// by: half as many as its length.
    roots: Vec<Complex>,
    /// For a length that is no power of two.
    bluestein: Option<Bluestein>,
}

/// A transform of any length as a convolution, whose length is a power of two.
///
/// # Source
/// L. Bluestein, "A linear filtering approach to the computation of discrete
/// Fourier transform", 1970.
struct Bluestein {
    /// `exp(-i pi k^2 / n)`
    chirp: Vec<Complex>,
    /// The transform of its conjugate, wrapped around.
    filter: Vec<Complex>,
}

impl Fourier {
    /// For a length whose buffers, and those of every run, are within the
    /// limits.
    fn new(call: &Call<'_>, len: usize) -> OpResult<Self> {
        let size = if len.is_power_of_two() {
            Some(len)
        } else {
            len.checked_mul(2).and_then(usize::checked_next_power_of_two)
        };
        let size = size.ok_or_else(|| OpError::invalid(format!("a length of {len}")))?;
        call.reserve(Element::Plain(DType::F64), &[size, 2])?;
        Ok(Self::sized(len, size))
    }

    /// With buffers of `size`, a power of two.
    fn sized(len: usize, size: usize) -> Self {
        let roots = (0..size / 2).map(|k| Complex::unit(-(k as f64) / size as f64)).collect();
        let mut made = Self { len, roots, bluestein: None };
        if size != len {
            // k^2 modulo 2 n, so that the angle is exact for any k.
            let turns = |k: usize| (k as u128 * k as u128 % (2 * len as u128)) as f64;
            let chirp: Vec<Complex> =
                (0..len).map(|k| Complex::unit(-turns(k) / (2 * len) as f64)).collect();
            let mut filter = vec![Complex::default(); size];
            for (k, value) in chirp.iter().enumerate() {
                filter[k] = value.conjugate();
                filter[(size - k) % size] = value.conjugate();
            }
            made.power_of_two(&mut filter);
            made.bluestein = Some(Bluestein { chirp, filter });
        }
        made
    }

    /// Transform in place; `values` has the length.
    fn transform(&self, values: &mut [Complex]) {
        let Some(Bluestein { chirp, filter }) = &self.bluestein else {
            return self.power_of_two(values);
        };
        let mut buffer = vec![Complex::default(); filter.len()];
        for ((b, &v), &c) in buffer.iter_mut().zip(&*values).zip(chirp) {
            *b = v.times(c);
        }
        self.power_of_two(&mut buffer);
        // The inverse transform is the transform of the conjugate.
        for (b, &f) in buffer.iter_mut().zip(filter) {
            *b = b.times(f).conjugate();
        }
        self.power_of_two(&mut buffer);
        let scale = 1.0 / filter.len() as f64;
        for ((v, &b), &c) in values.iter_mut().zip(&buffer).zip(chirp) {
            let b = b.conjugate().times(c);
            *v = Complex { re: b.re * scale, im: b.im * scale };
        }
    }

    /// The inverse transform in place, with its division by the length.
    fn inverse(&self, values: &mut [Complex]) {
        values.iter_mut().for_each(|v| *v = v.conjugate());
        self.transform(values);
        let scale = 1.0 / self.len as f64;
        for v in values {
            *v = Complex { re: v.re * scale, im: -v.im * scale };
        }
    }

    /// The transform of twice as many values as there are roots, in place.
    fn power_of_two(&self, values: &mut [Complex]) {
        let len = values.len();
        let bits = len.trailing_zeros();
        for i in 1..len {
            let j = i.reverse_bits() >> (usize::BITS - bits);
            if i < j {
                values.swap(i, j);
            }
        }
        let mut half = 1;
        while half < len {
            let stride = len / (2 * half);
            for block in values.chunks_exact_mut(2 * half) {
                let (low, high) = block.split_at_mut(half);
                let roots = self.roots.iter().step_by(stride);
                for ((a, b), &root) in low.iter_mut().zip(high).zip(roots) {
                    let turned = b.times(root);
                    (*a, *b) = (a.plus(turned), a.minus(turned));
                }
            }
            half *= 2;
        }
    }
}

/// The only element, a whole number.
fn whole(array: &Array) -> OpResult<i64> {
    match *array.to_i64s()? {
        [value] => Ok(value),
        ref other => Err(OpError::invalid(format!("{} numbers where one is", other.len()))),
    }
}

/// The only element, as a size above 0.
fn length(array: &Array) -> OpResult<usize> {
    match sizes(&[whole(array)?])?[0] {
        0 => Err(OpError::invalid("a length of 0")),
        length => Ok(length),
    }
}

/// Complex numbers from pairs, or from reals.
fn complex(values: &[f64], parts: usize) -> Vec<Complex> {
    let pairs = values.chunks_exact(parts.max(1));
    pairs.map(|p| Complex { re: p[0], im: p.get(1).copied().unwrap_or(0.0) }).collect()
}

/// How many parts a number of a signal has: 1, or 2 for a complex signal.
fn parts(shape: &[usize]) -> OpResult<usize> {
    match shape.last() {
        Some(&parts @ (1 | 2)) => Ok(parts),
        _ => Err(OpError::invalid(format!("a signal of shape {shape:?}"))),
    }
}

/// The discrete Fourier transform along an axis of `[.., 1]` or `[.., 2]`.
fn dft(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let array = call.array(0)?;
    let parts = parts(array.shape())?;
    let along = match call.optional(2)? {
        Some(given) => whole(given)?,
        None => call.int_or("axis", if call.opset() < 20 { 1 } else { -2 }),
    };
    let along = axis(along, array.rank())?;
    if along + 1 == array.rank() {
        return Err(OpError::invalid("the axis of real and imaginary parts"));
    }
    let size = array.shape()[along];
    let len = match call.optional(1)? {
        Some(given) => length(given)?,
        None => size,
    };
    let kept = if call.flag("onesided", false) { len / 2 + 1 } else { len };
    let mut shape = array.shape().to_vec();
    shape[along] = kept;
    shape[array.rank() - 1] = 2;
    call.reserve(Element::Plain(DType::F64), &shape)?;
    if len == 0 || array.is_empty() {
        return Ok(vec![
            Array::from_f64s(array.element(), &shape, &vec![0.0; shape_len(&shape)])?.into(),
        ]);
    }
    let inner: usize = array.shape()[along + 1..array.rank() - 1].iter().product();
    let outer: usize = array.shape()[..along].iter().product();
    let fourier = Fourier::new(call, len)?;
    let signal = complex(&array.to_f64s()?, parts);
    let mut made = vec![0.0; outer * kept * inner * 2];
    let mut line = vec![Complex::default(); len];
    for lane in 0..outer * inner {
        call.on_time()?;
        let (o, i) = (lane / inner, lane % inner);
        for (k, value) in line.iter_mut().enumerate() {
            *value = if k < size { signal[(o * size + k) * inner + i] } else { Complex::default() };
        }
        if call.flag("inverse", false) {
            fourier.inverse(&mut line);
        } else {
            fourier.transform(&mut line);
        }
        for (k, value) in line[..kept].iter().enumerate() {
            let at = ((o * kept + k) * inner + i) * 2;
            (made[at], made[at + 1]) = (value.re, value.im);
        }
    }
    Ok(vec![Array::from_f64s(array.element(), &shape, &made)?.into()])
}

/// How many elements, for a shape that is within the limits.
fn shape_len(shape: &[usize]) -> usize {
    if shape.contains(&0) { 0 } else { shape.iter().product() }
}

/// Fourier transforms of the windows of a signal `[batch, n, 1]` or
/// `[batch, n, 2]`: `[batch, windows, bins, 2]`.
fn stft(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let array = call.array(0)?;
    let (batch, samples, parts) = match *array.shape() {
        [batch, samples] => (batch, samples, 1),
        [batch, samples, _] => (batch, samples, parts(array.shape())?),
        _ => return Err(OpError::invalid(format!("a signal of shape {:?}", array.shape()))),
    };
    let step = length(call.array(1)?)?;
    let weights = call.optional(2)?.map(Array::to_f64s).transpose()?;
    let len = match (call.optional(3)?, &weights) {
        (Some(given), _) => length(given)?,
        (None, Some(weights)) => weights.len(),
        (None, None) => samples,
    };
    let weights = match weights {
        Some(weights) => weights,
        None => {
            call.reserve(Element::Plain(DType::F64), &[len])?;
            vec![1.0; len]
        }
    };
    if len == 0 || len > samples || weights.len() > len {
        let reason = format!("windows of {} in frames of {len} of {samples}", weights.len());
        return Err(OpError::invalid(reason));
    }
    let frames = (samples - len) / step + 1;
    let kept = if call.flag("onesided", true) { len / 2 + 1 } else { len };
    let shape = [batch, frames, kept, 2];
    call.reserve(Element::Plain(DType::F64), &shape)?;
    let fourier = Fourier::new(call, len)?;
    let signal = complex(&array.to_f64s()?, parts);
    let mut made = Vec::with_capacity(shape_len(&shape));
    let mut line = vec![Complex::default(); len];
    for signal in signal.chunks_exact(samples) {
        for frame in 0..frames {
            line.fill(Complex::default());
            for ((l, v), w) in line.iter_mut().zip(&signal[frame * step..]).zip(&weights) {
                *l = Complex { re: v.re * w, im: v.im * w };
            }
            fourier.transform(&mut line);
            made.extend(line[..kept].iter().flat_map(|v| [v.re, v.im]));
        }
    }
    Ok(vec![Array::from_f64s(array.element(), &shape, &made)?.into()])
}

/// Numbers of the type that the attribute `output_datatype` says; whole ones
/// are rounded towards zero.
fn typed(call: &Call<'_>, shape: &[usize], values: &[f64]) -> OpResult<Array> {
    let element = output_element(call)?;
    if element.is_float() {
        return Array::from_f64s(element, shape, values);
    }
    scalar_type!(element, [ints] T => {
        Array::new(shape, values.iter().map(|&v| v as T).collect())
    })
}

fn output_element(call: &Call<'_>) -> OpResult<Element> {
    let number = call.int_or("output_datatype", 1);
    let element = i32::try_from(number).ok().and_then(Element::from_onnx);
    element.ok_or_else(|| OpError::invalid(format!("output_datatype {number}")))
}

/// A window of cosines: coefficients of the cosine of 0, 1 and 2 turns over the
/// window.
fn window(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let size = sizes(&[whole(call.array(0)?)?])?[0];
    call.reserve(Element::Plain(DType::F64), &[size])?;
    let [constant, once, twice] = match call.op() {
        "HannWindow" => [0.5, -0.5, 0.0],
        "HammingWindow" => [25.0 / 46.0, -21.0 / 46.0, 0.0],
        _ => [0.42, -0.5, 0.08],
    };
    let period = if call.flag("periodic", true) { size } else { size.saturating_sub(1) } as f64;
    let values: Vec<f64> = (0..size)
        .map(|k| {
            // A symmetric window of one is its own middle.
            let turn = if period == 0.0 { 0.5 } else { k as f64 / period };
            once * (TAU * turn).cos() + twice * (2.0 * TAU * turn).cos() + constant
        })
        .collect();
    Ok(vec![typed(call, &[size], &values)?.into()])
}

/// Triangles over the bins of a spectrum, as wide as they are on the mel scale:
/// `[bins, bands]`.
fn mel_weights(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let bands = sizes(&[whole(call.array(0)?)?])?[0];
    let len = sizes(&[whole(call.array(1)?)?])?[0];
    let rate = length(call.array(2)?)? as f64;
    let frequency = |index: usize| match *call.array(index)?.to_f64s()? {
        [value] if value.is_finite() && value >= 0.0 => Ok(value),
        _ => Err(OpError::invalid(format!("input {index} is no frequency"))),
    };
    let mel = |hertz: f64| 2595.0 * (1.0 + hertz / 700.0).log10();
    let (low, high) = (mel(frequency(3)?), mel(frequency(4)?));
    let bins = len / 2 + 1;
    call.reserve(Element::Plain(DType::F64), &[bins, bands])?;
    // With no bins, the bands alone could be too many to count.
    call.reserve(Element::Plain(DType::F64), &[bands])?;
    let edges: Vec<usize> = (0..bands + 2)
        .map(|k| {
            let mel = low + k as f64 * (high - low) / (bands + 2) as f64;
            let hertz = 700.0 * (10f64.powf(mel / 2595.0) - 1.0);
            ((len as f64 + 1.0) * hertz / rate).floor() as usize
        })
        .collect();
    let mut made = vec![0.0; bins * bands];
    for (band, edges) in edges.windows(3).enumerate() {
        let [left, middle, right] = [edges[0], edges[1], edges[2]];
        for bin in left.min(middle)..right.max(middle.saturating_add(1)).min(bins) {
            let weight = if bin < middle {
                (bin - left) as f64 / (middle - left) as f64
            } else if bin == middle {
                1.0
            } else {
                (right - bin) as f64 / (right - middle) as f64
            };
            made[bin * bands + band] = weight;
        }
    }
    Ok(vec![typed(call, &[bins, bands], &made)?.into()])
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// The transform by its definition.
    fn slow(values: &[Complex]) -> Vec<Complex> {
        let len = values.len();
        (0..len)
            .map(|k| {
                values.iter().enumerate().fold(Complex::default(), |sum, (n, v)| {
                    sum.plus(v.times(Complex::unit(-((k * n % len) as f64) / len as f64)))
                })
            })
            .collect()
    }

    #[test]
    fn every_length_is_transformed_and_back() {
        for len in 1..40usize {
            let size = if len.is_power_of_two() { len } else { (2 * len).next_power_of_two() };
            let values: Vec<Complex> = (0..len)
                .map(|k| Complex { re: (k * k % 7) as f64, im: (k * 3 % 5) as f64 - 2.0 })
                .collect();
            let fourier = Fourier::sized(len, size);
            let mut made = values.clone();
            fourier.transform(&mut made);
            let near = |a: &[Complex], b: &[Complex]| {
                a.iter().zip(b).all(|(&a, &b)| {
                    let off = a.minus(b);
                    off.re.abs() + off.im.abs() < 1e-11
                })
            };
            assert!(near(&made, &slow(&values)), "{len}");
            fourier.inverse(&mut made);
            assert!(near(&made, &values), "{len}");
        }
    }
}
