//! Conversions between element types.

use std::sync::Arc;

use headland_tensor::DType;

use super::Op;
use crate::{
    interpreter::{Call, OpError, OpResult},
    value::{Array, Element, Lanes, Scalar, Small, Value, scalar_type},
};

/// The operator of that name.
///
/// # Source
/// <https://onnx.ai/onnx/operators/onnx__Cast.html>
pub(crate) fn find(name: &str) -> Option<Op> {
    Some(match name {
        "Cast" => cast_to,
        "CastLike" => cast_like,
        _ => return None,
    })
}

fn cast_to(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let number = call.int("to").ok_or_else(|| OpError::invalid("attribute \"to\" is missing"))?;
    let to = i32::try_from(number).ok().and_then(Element::from_onnx);
    let to = to.ok_or_else(|| OpError::unsupported(format!("element type number {number}")))?;
    converted(call, to)
}

fn cast_like(call: &Call<'_>) -> OpResult<Vec<Value>> {
    converted(call, call.array(1)?.element())
}

/// Input 0 as elements of another type, as the call's attributes say.
fn converted(call: &Call<'_>, to: Element) -> OpResult<Vec<Value>> {
    let array = call.array(0)?;
    call.reserve(to, array.shape())?;
    let overflow =
        Overflow { saturate: call.flag("saturate", true), round: call.text_or("round_mode", "up") };
    Ok(vec![cast(array, to, &overflow)?.into()])
}

/// What becomes of a value that a small float does not have.
pub(super) struct Overflow<'a> {
    /// Whether the largest value stands for what is beyond it.
    saturate: bool,
    /// How the powers of two round: `up`, `down` or `nearest`.
    round: &'a str,
}

/// An array as elements of another type.
///
/// Whole numbers lose their higher bits where the other type has fewer. What
/// the specification leaves open, floats beyond a whole number's range, is as
/// numpy and ONNX Runtime have it on x86: see [`Truncated`].
pub(super) fn cast(array: &Array, to: Element, overflow: &Overflow<'_>) -> OpResult<Array> {
    let (from, shape) = (array.element(), array.shape());
    if from == to {
        return Ok(array.clone());
    }
    let whole = from.is_integer()
        || matches!(from, Element::Plain(DType::Bool) | Element::Small(Small::I4 | Small::U4));
    match to {
        Element::Text => Array::from_texts(shape, written(array, whole)?),
        _ if from == Element::Text => read(array, to, overflow),
        Element::Plain(DType::Bool) => {
            let truths: Vec<u8> = if whole {
                array.to_i64s()?.iter().map(|&v| u8::from(v != 0)).collect()
            } else {
                array.to_f64s()?.iter().map(|&v| u8::from(v != 0.0)).collect()
            };
            Array::from_lanes(to, shape, Lanes::One(Arc::new(truths)))
        }
        Element::Plain(DType::F64) => Array::from_f64s(to, shape, &array.to_f64s()?),
        _ if to.is_float() => match from {
            Element::Plain(DType::F64) => Array::from_f64s(to, shape, &array.to_f64s()?),
            // Not by way of f64, which would round twice.
            _ if from.is_integer() => {
                scalar_type!(from, [ints] T => {
                    let floats = array.elements::<T>()?.iter().map(|&v| v as f32);
                    Array::from_f32s(to, shape, floats.collect())
                })
            }
            _ => Array::from_f32s(to, shape, array.to_f32s()?),
        },
        Element::Small(small @ (Small::I4 | Small::U4)) => {
            let codes = if whole {
                array.to_i64s()?.into_iter().map(|v| v as u8 & 0xf).collect()
            } else {
                array.to_f64s()?.into_iter().map(|v| i32::truncated(v) as u8 & 0xf).collect()
            };
            Array::from_codes(small, shape, codes)
        }
        Element::Small(small) => {
            let floats = array.to_f32s()?.into_iter();
            let codes = match small {
                Small::F8E8M0 => floats.map(|v| overflow.power(v)).collect::<OpResult<_>>()?,
                _ => floats.map(|v| small.encode(v, overflow.saturate)).collect(),
            };
            Array::from_codes(small, shape, codes)
        }
        _ if whole => {
            let numbers = array.to_i64s()?;
            scalar_type!(to, [ints] T => {
                Array::new(shape, numbers.into_iter().map(|v| v as T).collect::<Vec<_>>())
            })
        }
        _ => {
            let floats = array.to_f64s()?;
            scalar_type!(to, [ints] T => {
                Array::new(shape, floats.into_iter().map(T::truncated).collect::<Vec<_>>())
            })
        }
    }
}

/// A whole number from a float, rounded towards zero.
///
/// Beyond the range, x86's conversions give the smallest number of the
/// register that they work in, of which the narrower types keep the lower bits:
/// 32 bits for those of 8 and 16 and for i32, 64 bits for the others. u64 has
/// one such range below 2^63 and one above.
trait Truncated: Scalar {
    fn truncated(value: f64) -> Self;
}

impl Truncated for i64 {
    fn truncated(value: f64) -> Self {
        // What is no number fails both comparisons.
        if value >= i64::MIN as f64 && value < -(i64::MIN as f64) { value as i64 } else { i64::MIN }
    }
}

impl Truncated for i32 {
    fn truncated(value: f64) -> Self {
        i32::try_from(i64::truncated(value)).unwrap_or(i32::MIN)
    }
}

impl Truncated for u64 {
    fn truncated(value: f64) -> Self {
        const HALF: f64 = (1u64 << 63) as f64;
        if value >= HALF {
            i64::truncated(value - HALF) as u64 ^ 1 << 63
        } else {
            i64::truncated(value) as u64
        }
    }
}

macro_rules! truncated {
    ($($t:ty as $register:ty),*) => {$(
        impl Truncated for $t {
            fn truncated(value: f64) -> Self {
                <$register>::truncated(value) as $t
            }
        }
    )*};
}
truncated!(u32 as i64, i16 as i32, u16 as i32, i8 as i32, u8 as i32);

impl Overflow<'_> {
    /// The code of a power of two near `value`, as [`Small::F8E8M0`] has it.
    fn power(&self, value: f32) -> OpResult<u8> {
        let bits = value.abs().to_bits();
        // 2^(code - 127) is the float of that exponent; 2^-127 is half of the
        // smallest that is written with one.
        let (code, rest) = ((bits >> 23) as u8, bits & 0x7f_ffff);
        let half = 0x40_0000;
        let up = match self.round {
            "up" if code == 0 => rest > half,
            "up" => rest > 0,
            "down" => false,
            // Halfway goes up; below the smallest float with an exponent of its
            // own, halfway between 2^-127 and 2^-126 is at three quarters.
            "nearest" if code == 0 => rest >= half + half / 2,
            "nearest" => rest >= half,
            other => return Err(OpError::invalid(format!("round_mode {other:?}"))),
        };
        Ok(match code {
            0xff if value.is_nan() => 0xff,
            0xff | 0xfe if code == 0xff || up => 0xff - u8::from(self.saturate),
            code => code + u8::from(up),
        })
    }
}

/// Numbers as text: the fewest digits that tell them apart from their
/// neighbours, and what is no number or infinite as `Cast` reads it.
fn written(array: &Array, whole: bool) -> OpResult<Vec<Arc<str>>> {
    if array.element() == Element::Plain(DType::U64) {
        return Ok(array.elements::<u64>()?.iter().map(|v| v.to_string().into()).collect());
    }
    if whole {
        return Ok(array.to_i64s()?.iter().map(|v| v.to_string().into()).collect());
    }
    if array.element() == Element::Plain(DType::F64) {
        let floats = array.elements::<f64>()?.iter();
        return Ok(floats.map(|v| decimal(*v, format!("{v}"), format!("{v:e}"))).collect());
    }
    let floats = array.to_f32s()?.into_iter();
    Ok(floats.map(|v| decimal(v.into(), format!("{v}"), format!("{v:e}"))).collect())
}

/// One of a float's two notations, as C chooses between them.
fn decimal(value: f64, plain: String, scientific: String) -> Arc<str> {
    let size = value.abs();
    if value.is_nan() {
        "NaN".into()
    } else if value.is_infinite() {
        if value > 0.0 { "INF".into() } else { "-INF".into() }
    } else if size == 0.0 || (1e-4..1e16).contains(&size) {
        plain.into()
    } else {
        // An exponent has a sign and at least two digits.
        let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
        let sign = if exponent.starts_with('-') { '-' } else { '+' };
        format!("{digits}e{sign}{:0>2}", exponent.trim_start_matches('-')).into()
    }
}

/// Text as numbers.
fn read(array: &Array, to: Element, overflow: &Overflow<'_>) -> OpResult<Array> {
    let texts = array.texts()?.iter().map(|text| text.trim());
    let refused = |text: &str| OpError::invalid(format!("{text:?} is no {to}"));
    // Rust reads the names of the infinities and of NaN in any case.
    let float = |text: &str| text.parse::<f64>().map_err(|_| refused(text));
    match to {
        Element::Plain(DType::F32) => {
            let floats = texts.map(|text| text.parse::<f32>().map_err(|_| refused(text)));
            Array::new(array.shape(), floats.collect::<OpResult<Vec<_>>>()?)
        }
        Element::Plain(dtype) if !to.is_float() && dtype != DType::Bool => {
            // Digits exactly; anything else as the float that it is.
            let numbers = texts.map(|text| match text.parse::<i128>() {
                Ok(number) => Ok(number as i64),
                Err(_) => float(text).and_then(|value| {
                    if value.is_finite() { Ok(i64::truncated(value)) } else { Err(refused(text)) }
                }),
            });
            cast(&Array::new(array.shape(), numbers.collect::<OpResult<Vec<_>>>()?)?, to, overflow)
        }
        _ => {
            let floats = texts.map(float).collect::<OpResult<Vec<_>>>()?;
            cast(&Array::new(array.shape(), floats)?, to, overflow)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_beyond_whole_numbers() {
        assert_eq!(u8::truncated(300.7), 44);
        assert_eq!(u8::truncated(-1.5), 255);
        assert_eq!(i16::truncated(3e9), 0);
        assert_eq!(i32::truncated(3e9), i32::MIN);
        assert_eq!(u32::truncated(3e9), 3_000_000_000);
        assert_eq!(u32::truncated(f64::NAN), 0);
        assert_eq!(i64::truncated(f64::INFINITY), i64::MIN);
        assert_eq!(u64::truncated(1e19), 10_000_000_000_000_000_000);
        assert_eq!(u64::truncated(-1.5), u64::MAX);
        assert_eq!(u64::truncated(f64::INFINITY), 0);
    }

    #[test]
    fn floats_as_text() {
        let text = |v: f64| decimal(v, format!("{v}"), format!("{v:e}"));
        assert_eq!(&*text(0.1), "0.1");
        assert_eq!(&*text(100.0), "100");
        assert_eq!(&*text(1e-7), "1e-07");
        assert_eq!(&*text(-1.5e120), "-1.5e+120");
        assert_eq!(&*text(f64::NEG_INFINITY), "-INF");
    }

    #[test]
    fn powers_of_two() {
        let code = |value, saturate, round| Overflow { saturate, round }.power(value);
        assert_eq!(code(1.0, true, "up"), Ok(127));
        assert_eq!(code(1.1, true, "up"), Ok(128));
        assert_eq!(code(1.9, true, "down"), Ok(127));
        assert_eq!(code(1.5, true, "nearest"), Ok(128));
        assert_eq!(code(1.4, true, "nearest"), Ok(127));
        assert_eq!(code(f32::MAX, true, "up"), Ok(0xfe));
        assert_eq!(code(f32::MAX, false, "up"), Ok(0xff));
        assert_eq!(code(f32::INFINITY, true, "up"), Ok(0xfe));
        assert_eq!(code(0.0, true, "up"), Ok(0));
        assert!(code(1.0, true, "sideways").is_err());
    }
}
