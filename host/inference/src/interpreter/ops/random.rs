//! Random numbers, of which a host has none of its own: a generator starts from
//! the attribute `seed`, or from a fixed number, so that a model says the same
//! of the same inputs each time. They are not those of another runtime.

use std::f64::consts::TAU;

use headland_tensor::DType;

use super::Op;
use crate::{
    interpreter::{Call, OpError, OpResult, sizes},
    value::{Array, Element, Small, Value, scalar_type},
};

/// The operator of that name.
///
/// # Source
/// <https://onnx.ai/onnx/operators/>
pub(crate) fn find(name: &str) -> Option<Op> {
    Some(match name {
        "Bernoulli" => bernoulli,
        "Dropout" => dropout,
        "Multinomial" => multinomial,
        "RandomNormal" | "RandomNormalLike" => normal,
        "RandomUniform" | "RandomUniformLike" => uniform,
        _ => return None,
    })
}

/// # Source
/// SplitMix64: G. Steele, D. Lea, C. Flood, "Fast splittable pseudorandom
/// number generators", 2014.
struct Generator(u64);

impl Generator {
    /// From the node's seed; without one, from a fixed number and the slots of
    /// the node's outputs, so that two nodes do not draw the same.
    fn new(call: &Call<'_>) -> Self {
        // It is a whole number for `Dropout`, and a float for all others.
        let seed = match call.op() {
            "Dropout" => call.int("seed").map(|seed| seed as u64),
            _ => call.float("seed").map(|seed| seed.to_bits().into()),
        };
        let seed = match seed {
            Some(seed) => seed,
            None => {
                let slots = call.node.outputs.iter().flatten();
                slots.fold(0x4845_4144_4c41_4e44, |seed, &slot| Self(seed ^ slot as u64).next_u64())
            }
        };
        Self(seed)
    }

    fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 up to but without 1.
    fn unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Of mean 0 and deviation 1, by Box and Muller's transform.
    fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        radius * (TAU * self.unit()).cos()
    }
}

/// The element type that the attribute `dtype` says.
fn dtype(call: &Call<'_>, default: Element) -> OpResult<Element> {
    let Some(number) = call.int("dtype") else { return Ok(default) };
    let element = i32::try_from(number).ok().and_then(Element::from_onnx);
    element.ok_or_else(|| OpError::invalid(format!("dtype {number}")))
}

/// As many draws as the result has elements, whose type and shape are those of
/// the attributes or of input 0.
fn filled(call: &Call<'_>, mut draw: impl FnMut(&mut Generator) -> f64) -> OpResult<Vec<Value>> {
    let float = Element::Plain(DType::F32);
    let (element, shape) = if call.op().ends_with("Like") {
        let like = call.array(0)?;
        // What is like whole numbers or text is drawn as f32.
        let default = if like.element().is_float() { like.element() } else { float };
        (dtype(call, default)?, like.shape().to_vec())
    } else {
        let shape = call.ints("shape").ok_or_else(|| OpError::invalid("shape is missing"))?;
        (dtype(call, float)?, sizes(shape)?)
    };
    call.reserve(Element::Plain(DType::F64), &shape)?;
    let count = if shape.contains(&0) { 0 } else { shape.iter().product() };
    let mut generator = Generator::new(call);
    let values: Vec<f64> = (0..count).map(|_| draw(&mut generator)).collect();
    Ok(vec![Array::from_f64s(element, &shape, &values)?.into()])
}

fn normal(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let mean = f64::from(call.float_or("mean", 0.0));
    let scale = f64::from(call.float_or("scale", 1.0));
    filled(call, |generator| mean + scale * generator.normal())
}

fn uniform(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let low = f64::from(call.float_or("low", 0.0));
    let high = f64::from(call.float_or("high", 1.0));
    filled(call, |generator| low + (high - low) * generator.unit())
}

/// 1 with the probability that each element says, else 0.
fn bernoulli(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let array = call.array(0)?;
    let element = dtype(call, array.element())?;
    call.reserve(element, array.shape())?;
    let mut generator = Generator::new(call);
    let drawn: Vec<bool> = array.to_f64s()?.iter().map(|&p| generator.unit() < p).collect();
    let shape = array.shape();
    let made = match element {
        Element::Plain(DType::Bool) => Array::from_bools(shape, &drawn)?,
        element if element.is_float() => {
            let values = drawn.iter().map(|&d| f32::from(u8::from(d))).collect();
            Array::from_f32s(element, shape, values)?
        }
        element => scalar_type!(element, [ints] T => {
            Array::new(shape, drawn.iter().map(|&d| T::from(d)).collect::<Vec<_>>())
        })?,
    };
    Ok(vec![made.into()])
}

/// Classes drawn by their log-probabilities `[batch, classes]`, which need not
/// add up to one: `[batch, sample_size]`.
fn multinomial(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let array = call.array(0)?;
    let &[batch, classes] = array.shape() else {
        return Err(OpError::invalid(format!("log-probabilities {:?}", array.shape())));
    };
    let samples = sizes(&[call.int_or("sample_size", 1)])?[0];
    let element = dtype(call, Element::Plain(DType::I32))?;
    let shape = [batch, samples];
    call.reserve(Element::Plain(DType::I64), &shape)?;
    if classes == 0 {
        return Err(OpError::invalid("no classes to draw from"));
    }
    let mut generator = Generator::new(call);
    let mut drawn: Vec<i64> = Vec::with_capacity(batch * samples);
    for logs in array.to_f64s()?.chunks_exact(classes) {
        let largest = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let mut sum = 0.0;
        let sums: Vec<f64> = logs
            .iter()
            .map(|log| {
                // Not a number is no probability.
                sum += (log - largest).exp().max(0.0);
                sum
            })
            .collect();
        for _ in 0..samples {
            let at = generator.unit() * sum;
            let class = sums.partition_point(|&s| s <= at).min(classes - 1);
            drawn.push(class as i64);
        }
    }
    let made = scalar_type!(element, [ints] T => {
        Array::new(&shape, drawn.iter().map(|&c| c as T).collect())
    })?;
    Ok(vec![made.into()])
}

/// In training, zeros for a part of the elements and the others scaled up;
/// otherwise the elements as they are. The mask says which were kept.
fn dropout(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let array = call.array(0)?;
    let training = match call.optional(2)?.map(Array::bools).transpose()? {
        None => false,
        Some([value]) => *value != 0,
        Some(other) => {
            return Err(OpError::invalid(format!("a training_mode of {} elements", other.len())));
        }
    };
    let ratio = match call.optional(1)?.map(Array::to_f64s).transpose()?.as_deref() {
        None => 0.5,
        Some(&[value]) => value,
        Some(other) => {
            return Err(OpError::invalid(format!("a ratio of {} elements", other.len())));
        }
    };
    if !(0.0..1.0).contains(&ratio) && training {
        return Err(OpError::invalid(format!("a ratio of {ratio}")));
    }
    let drops = training && ratio > 0.0;
    if !drops && !call.wants(1) {
        return Ok(vec![array.clone().into()]);
    }
    let mut generator = Generator::new(call);
    let kept: Vec<bool> = (0..array.len()).map(|_| !drops || generator.unit() >= ratio).collect();
    // The mask was of the elements' own type before it was of bools.
    let mask = if call.opset() >= 10 || !array.element().is_float() {
        Array::from_bools(array.shape(), &kept)?
    } else {
        let ones = kept.iter().map(|&k| f32::from(u8::from(k))).collect();
        Array::from_f32s(array.element(), array.shape(), ones)?
    };
    if !drops {
        return Ok(vec![array.clone().into(), mask.into()]);
    }
    let scale = 1.0 / (1.0 - ratio);
    let scaled = array.to_f64s()?.into_iter().zip(&kept);
    let scaled: Vec<f64> = scaled.map(|(v, &k)| if k { v * scale } else { 0.0 }).collect();
    let made = match array.element() {
        Element::Small(small) => codes(small, array.shape(), &scaled)?,
        element => Array::from_f64s(element, array.shape(), &scaled)?,
    };
    Ok(vec![made.into(), mask.into()])
}

/// Values as small numbers.
fn codes(small: Small, shape: &[usize], values: &[f64]) -> OpResult<Array> {
    Array::from_codes(small, shape, values.iter().map(|&v| small.encode(v as f32, true)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_have_the_moments_they_should() {
        let mut generator = Generator(1);
        let count = 20_000;
        let uniform: f64 = (0..count).map(|_| generator.unit()).sum::<f64>() / f64::from(count);
        assert!((uniform - 0.5).abs() < 0.01);
        let normal: Vec<f64> = (0..count).map(|_| generator.normal()).collect();
        let mean = normal.iter().sum::<f64>() / f64::from(count);
        let square = normal.iter().map(|v| v * v).sum::<f64>() / f64::from(count);
        assert!(mean.abs() < 0.03 && (square - 1.0).abs() < 0.05);
    }
}
