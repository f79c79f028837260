//! Element types of ONNX.

use std::fmt;

use headland_tensor::DType;

/// An element type of ONNX: those of the contract, and those that a graph
/// uses between them.
///
/// # Source
/// `TensorProto.DataType` of ONNX 1.19; the encodings of the small floats are
/// those of <https://onnx.ai/onnx/technical/float8.html> and `float4.html`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Element {
    /// An element type of the contract.
    Plain(DType),
    /// UTF-8 text.
    Text,
    /// A small number.
    Small(Small),
}

/// A number of eight bits or fewer that arithmetic does not take as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Small {
    /// 1 sign, 4 exponent, 3 mantissa bits, bias 7; finite and NaN.
    F8E4M3Fn,
    /// As above with bias 8 and no negative zero.
    F8E4M3Fnuz,
    /// 1 sign, 5 exponent, 2 mantissa bits, bias 15; with infinities.
    F8E5M2,
    /// As above with bias 16, no infinities and no negative zero.
    F8E5M2Fnuz,
    /// 8 exponent bits: a power of two.
    F8E8M0,
    /// 1 sign, 2 exponent, 1 mantissa bit, bias 1; finite.
    F4E2M1,
    /// Unsigned, four bits.
    U4,
    /// Two's complement, four bits.
    I4,
}

/// Elements by ONNX's number and name.
const TABLE: [(i32, &str, Element); 22] = [
    (1, "float", Element::Plain(DType::F32)),
    (2, "uint8", Element::Plain(DType::U8)),
    (3, "int8", Element::Plain(DType::I8)),
    (4, "uint16", Element::Plain(DType::U16)),
    (5, "int16", Element::Plain(DType::I16)),
    (6, "int32", Element::Plain(DType::I32)),
    (7, "int64", Element::Plain(DType::I64)),
    (8, "string", Element::Text),
    (9, "bool", Element::Plain(DType::Bool)),
    (10, "float16", Element::Plain(DType::F16)),
    (11, "double", Element::Plain(DType::F64)),
    (12, "uint32", Element::Plain(DType::U32)),
    (13, "uint64", Element::Plain(DType::U64)),
    (16, "bfloat16", Element::Plain(DType::BF16)),
    (17, "float8e4m3fn", Element::Small(Small::F8E4M3Fn)),
    (18, "float8e4m3fnuz", Element::Small(Small::F8E4M3Fnuz)),
    (19, "float8e5m2", Element::Small(Small::F8E5M2)),
    (20, "float8e5m2fnuz", Element::Small(Small::F8E5M2Fnuz)),
    (21, "uint4", Element::Small(Small::U4)),
    (22, "int4", Element::Small(Small::I4)),
    (23, "float4e2m1", Element::Small(Small::F4E2M1)),
    (24, "float8e8m0", Element::Small(Small::F8E8M0)),
];

impl Element {
    /// The element type of an ONNX number, where it is one of these.
    pub fn from_onnx(number: i32) -> Option<Self> {
        TABLE.iter().find(|row| row.0 == number).map(|row| row.2)
    }

    /// ONNX's number.
    pub fn to_onnx(self) -> i32 {
        TABLE.iter().find(|row| row.2 == self).map_or(0, |row| row.0)
    }

    /// ONNX's name, in lower case.
    pub fn name(self) -> &'static str {
        TABLE.iter().find(|row| row.2 == self).map_or("undefined", |row| row.1)
    }

    /// The contract's dtype, where it has one.
    pub fn dtype(self) -> Option<DType> {
        match self {
            Self::Plain(dtype) => Some(dtype),
            _ => None,
        }
    }

    /// Bytes that an element takes in memory; for text, that of a reference.
    pub fn size_bytes(self) -> usize {
        match self {
            Self::Plain(dtype) => dtype.size_bytes(),
            Self::Text => 16,
            Self::Small(_) => 1,
        }
    }

    /// Whether it is a float of 16 bits or more.
    pub fn is_float(self) -> bool {
        matches!(self, Self::Plain(DType::F16 | DType::BF16 | DType::F32 | DType::F64))
    }

    /// Whether it is a whole number of 8 bits or more.
    pub fn is_integer(self) -> bool {
        self.dtype().is_some_and(|d| d != DType::Bool) && !self.is_float()
    }
}

impl From<DType> for Element {
    fn from(dtype: DType) -> Self {
        Self::Plain(dtype)
    }
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Small {
    /// Bits of sign, exponent and mantissa, and the exponent's bias; `None`
    /// for the integers and for `F8E8M0`.
    const fn layout(self) -> Option<(u32, u32, i32)> {
        match self {
            Self::F8E4M3Fn => Some((4, 3, 7)),
            Self::F8E4M3Fnuz => Some((4, 3, 8)),
            Self::F8E5M2 => Some((5, 2, 15)),
            Self::F8E5M2Fnuz => Some((5, 2, 16)),
            Self::F4E2M1 => Some((2, 1, 1)),
            Self::F8E8M0 | Self::U4 | Self::I4 => None,
        }
    }

    /// Whether two elements share a byte in ONNX's storage.
    pub const fn is_nibble(self) -> bool {
        matches!(self, Self::F4E2M1 | Self::U4 | Self::I4)
    }

    /// The value of a code. A nibble's code is in the low four bits.
    pub fn decode(self, code: u8) -> f32 {
        let Some((exponent_bits, mantissa_bits, bias)) = self.layout() else {
            return match self {
                Self::U4 => f32::from(code & 0xf),
                Self::I4 => f32::from(((code << 4) as i8) >> 4),
                // 2^(code - 127), and 255 is NaN.
                _ if code == 0xff => f32::NAN,
                _ => (f64::from(code) - 127.0).exp2() as f32,
            };
        };
        let magnitude = code & ((1 << (exponent_bits + mantissa_bits)) - 1);
        let negative = code >> (exponent_bits + mantissa_bits) & 1 == 1;
        let special = match self {
            Self::F8E4M3Fn if magnitude == 0x7f => Some(f32::NAN),
            Self::F8E4M3Fnuz | Self::F8E5M2Fnuz if code == 0x80 => Some(f32::NAN),
            Self::F8E5M2 if magnitude == 0x7c => Some(f32::INFINITY),
            Self::F8E5M2 if magnitude > 0x7c => Some(f32::NAN),
            _ => None,
        };
        let value = special.unwrap_or_else(|| {
            let exponent = i32::from(magnitude >> mantissa_bits);
            let mantissa = f64::from(magnitude & ((1 << mantissa_bits) - 1));
            let scale = f64::from(1 << mantissa_bits);
            let value = if exponent == 0 {
                mantissa / scale * f64::from(1 - bias).exp2()
            } else {
                (1.0 + mantissa / scale) * f64::from(exponent - bias).exp2()
            };
            value as f32
        });
        if negative { -value } else { value }
    }

    /// The code nearest to a value, ties to even. Beyond the largest value the
    /// result is that value where `saturate`, or else infinity or NaN; the
    /// integers and `F4E2M1` always saturate.
    pub fn encode(self, value: f32, saturate: bool) -> u8 {
        let Some((exponent_bits, mantissa_bits, _)) = self.layout() else {
            return match self {
                Self::U4 => value.round_ties_even().clamp(0.0, 15.0) as u8,
                Self::I4 => value.round_ties_even().clamp(-8.0, 7.0) as i8 as u8 & 0xf,
                _ if value.is_nan() => 0xff,
                // The scale of a block: the next power of two up, as ONNX
                // rounds it.
                _ => encode_power(value, saturate),
            };
        };
        let sign_bit = 1u8 << (exponent_bits + mantissa_bits);
        let sign = if value.is_sign_negative() { sign_bit } else { 0 };
        let unsigned_zero = matches!(self, Self::F8E4M3Fnuz | Self::F8E5M2Fnuz);
        let nan = match self {
            Self::F8E4M3Fn | Self::F8E5M2 => sign | 0x7f,
            Self::F8E4M3Fnuz | Self::F8E5M2Fnuz => 0x80,
            // It has no NaN; ONNX's own data have negative zero.
            _ if value.is_nan() => return sign_bit,
            _ => return self.nearest(value.abs()) | sign,
        };
        let largest = match self {
            Self::F8E4M3Fn => 0x7e,
            Self::F8E5M2 => 0x7b,
            _ => 0x7f,
        };
        let overflow = match self {
            _ if saturate => sign | largest,
            Self::F8E5M2 => sign | 0x7c,
            _ => nan,
        };
        if value.is_nan() {
            return nan;
        }
        if value.is_infinite() {
            return overflow;
        }
        let code = self.nearest(value.abs());
        if code > largest {
            overflow
        } else if code == 0 && unsigned_zero {
            0
        } else {
            sign | code
        }
    }

    /// The magnitude nearest to `value` as if exponents went on for ever; one
    /// past the largest for what would round beyond it.
    fn nearest(self, value: f32) -> u8 {
        let (last, mantissa_bits, bias) = match (self, self.layout()) {
            (Self::F4E2M1, Some((_, m, b))) => (0x7, m, b),
            (Self::F8E4M3Fn, Some((_, m, b))) => (0x7e, m, b),
            (Self::F8E5M2, Some((_, m, b))) => (0x7b, m, b),
            (_, Some((_, m, b))) => (0x7f, m, b),
            _ => return 0,
        };
        // The exponent that the value is written with, and steps of that size;
        // infinity has the exponent after the last.
        let exponent = (value.to_bits() >> 23) as i32 - 127;
        let exponent = exponent.max(1 - bias);
        let step = f64::from(exponent - mantissa_bits as i32).exp2();
        let steps = (f64::from(value) / step).round_ties_even();
        // Steps within one exponent carry over into the next by themselves.
        let code = steps + f64::from((exponent - (1 - bias)) << mantissa_bits);
        if code > f64::from(last) {
            // F4E2M1 saturates; the others say that they overflow.
            return if matches!(self, Self::F4E2M1) { last } else { last + 1 };
        }
        code as u8
    }
}

fn encode_power(value: f32, saturate: bool) -> u8 {
    let value = value.abs();
    if value.is_infinite() {
        return if saturate { 0xfe } else { 0xff };
    }
    let bits = value.to_bits();
    let (exponent, mantissa) = ((bits >> 23) as u8, bits & 0x7f_ffff);
    // Round up, as the default `round_mode` says.
    let up = mantissa > 0 && !(exponent == 0 && mantissa <= 0x40_0000);
    match exponent.saturating_add(u8::from(up)) {
        0xff => {
            if saturate {
                0xfe
            } else {
                0xff
            }
        }
        code => code,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_decodes_and_encodes_to_itself() {
        for small in [
            Small::F8E4M3Fn,
            Small::F8E4M3Fnuz,
            Small::F8E5M2,
            Small::F8E5M2Fnuz,
            Small::F4E2M1,
            Small::U4,
            Small::I4,
        ] {
            let codes = if small.is_nibble() { 0..=15u8 } else { 0..=255 };
            for code in codes {
                let value = small.decode(code);
                let back = small.encode(value, false);
                if value.is_nan() {
                    assert!(small.decode(back).is_nan(), "{small:?} {code:#x}");
                } else {
                    assert_eq!(back, code, "{small:?} {code:#x} is {value}");
                }
            }
        }
    }

    #[test]
    fn values_of_the_specification() {
        assert_eq!(Small::F8E4M3Fn.decode(0x7e), 448.0);
        assert_eq!(Small::F8E4M3Fnuz.decode(0x7f), 240.0);
        assert_eq!(Small::F8E5M2.decode(0x7b), 57344.0);
        assert_eq!(Small::F8E5M2Fnuz.decode(0x7f), 57344.0);
        assert_eq!(Small::F4E2M1.decode(0x7), 6.0);
        assert_eq!(Small::F8E4M3Fn.decode(0x01), 0.001_953_125);
        assert_eq!(Small::F8E4M3Fn.encode(1e6, true), 0x7e);
        assert!(Small::F8E4M3Fn.decode(Small::F8E4M3Fn.encode(1e6, false)).is_nan());
        assert_eq!(Small::F8E5M2.encode(-1e6, false), 0xfc);
        assert_eq!(Small::F8E4M3Fn.encode(0.479_687_5, true), 0x2f);
    }
}
