//! Operators that treat each element alike, with broadcasting.

use half::{bf16, f16};
use headland_tensor::DType;

use super::Op;
use crate::{
    interpreter::{Call, OpError, OpResult, broadcast_shape},
    value::{Array, Element, Lanes, Scalar, Value, scalar_type, structural},
};

/// Each float of input 0 by itself, with `$T` as f32 or f64; the half floats
/// are computed as f32.
macro_rules! each_float {
    ($call:expr, $T:ident, |$x:ident| $body:expr) => {{
        let array = $call.array(0)?;
        let made = match array.element() {
            Element::Plain(DType::F64) => {
                type $T = f64;
                let elements = array.elements::<$T>()?;
                Array::new(array.shape(), elements.iter().map(|&$x| $body).collect::<Vec<$T>>())
            }
            Element::Plain(DType::F32) => {
                type $T = f32;
                let elements = array.elements::<$T>()?;
                Array::new(array.shape(), elements.iter().map(|&$x| $body).collect::<Vec<$T>>())
            }
            half if half.is_float() => {
                type $T = f32;
                let elements: Vec<$T> = array.to_f32s()?.into_iter().map(|$x| $body).collect();
                Array::from_f32s(half, array.shape(), elements)
            }
            other => Err(OpError::unsupported(format!("element type {other}"))),
        };
        Ok(vec![made?.into()])
    }};
}

/// Each number of input 0 by itself.
macro_rules! each_number {
    ($call:expr, |$x:ident| $body:expr) => {{
        let array = $call.array(0)?;
        scalar_type!(array.element(), [all] T => {
            let made = array.elements::<T>()?.iter().map(|&$x: &T| -> T { $body });
            Ok(vec![Array::new(array.shape(), made.collect::<Vec<T>>())?.into()])
        })
    }};
}

/// Inputs 0 and 1, numbers of one type, to numbers of that type.
macro_rules! both_numbers {
    ($call:expr, |$x:ident, $y:ident| $body:expr) => {{
        let (a, b) = ($call.array(0)?, $call.array(1)?);
        scalar_type!(a.element(), [all] T => {
            Ok(vec![zip_arrays($call, a, b, |&$x: &T, &$y: &T| -> T { $body })?.into()])
        })
    }};
}

/// As [`both_numbers`], for whole numbers alone.
macro_rules! both_integers {
    ($call:expr, $T:ident, |$x:ident, $y:ident| $body:expr) => {{
        let (a, b) = ($call.array(0)?, $call.array(1)?);
        scalar_type!(a.element(), [ints] $T => {
            Ok(vec![zip_arrays($call, a, b, |&$x: &$T, &$y: &$T| -> $T { $body })?.into()])
        })
    }};
}

/// Inputs 0 and 1, numbers of one type, to bools.
macro_rules! compare_numbers {
    ($call:expr, |$x:ident, $y:ident| $body:expr) => {{
        let (a, b) = ($call.array(0)?, $call.array(1)?);
        scalar_type!(a.element(), [all] T => test($call, a, b, a.elements::<T>()?, b.elements()?, |$x, $y| $body))
    }};
}

/// The operator of that name.
///
/// # Source
/// <https://onnx.ai/onnx/operators/>
pub(crate) fn find(name: &str) -> Option<Op> {
    let op: Op = match name {
        "Abs" => |call| each_number!(call, |x| x.magnitude()),
        "Neg" => |call| each_number!(call, |x| x.negative()),
        "Sign" => |call| each_number!(call, |x| x.sign()),
        "Relu" => |call| each_number!(call, |x| if x < Number::ZERO { Number::ZERO } else { x }),
        "Shrink" => shrink,
        "Clip" => clip,

        "Exp" => |call| each_float!(call, T, |x| x.exp()),
        "Log" => |call| each_float!(call, T, |x| x.ln()),
        "Sqrt" => |call| each_float!(call, T, |x| x.sqrt()),
        "Reciprocal" => |call| each_float!(call, T, |x| x.recip()),
        "Floor" => |call| each_float!(call, T, |x| x.floor()),
        "Ceil" => |call| each_float!(call, T, |x| x.ceil()),
        "Round" => |call| each_float!(call, T, |x| x.round_ties_even()),
        "Erf" => |call| each_float!(call, T, |x| erf(x.into()) as T),
        "Sin" => |call| each_float!(call, T, |x| x.sin()),
        "Cos" => |call| each_float!(call, T, |x| x.cos()),
        "Tan" => |call| each_float!(call, T, |x| x.tan()),
        "Asin" => |call| each_float!(call, T, |x| x.asin()),
        "Acos" => |call| each_float!(call, T, |x| x.acos()),
        "Atan" => |call| each_float!(call, T, |x| x.atan()),
        "Sinh" => |call| each_float!(call, T, |x| x.sinh()),
        "Cosh" => |call| each_float!(call, T, |x| x.cosh()),
        "Tanh" => |call| each_float!(call, T, |x| x.tanh()),
        "Asinh" => |call| each_float!(call, T, |x| x.asinh()),
        "Acosh" => |call| each_float!(call, T, |x| x.acosh()),
        "Atanh" => |call| each_float!(call, T, |x| x.atanh()),

        "Sigmoid" => |call| each_float!(call, T, |x| sigmoid!(x)),
        "Softplus" => |call| each_float!(call, T, |x| softplus!(x)),
        "Softsign" => |call| each_float!(call, T, |x| x / (1.0 + x.abs())),
        "Mish" => |call| each_float!(call, T, |x| x * softplus!(x).tanh()),
        "HardSwish" => |call| each_float!(call, T, |x| x * (x / 6.0 + 0.5).clamp(0.0, 1.0)),
        "LeakyRelu" | "Elu" | "Selu" | "Celu" | "Gelu" | "HardSigmoid" | "Swish"
        | "ThresholdedRelu" => activation,

        "Add" => |call| both_numbers!(call, |x, y| x.plus(y)),
        "Sub" => |call| both_numbers!(call, |x, y| x.minus(y)),
        "Mul" => |call| both_numbers!(call, |x, y| x.times(y)),
        "Div" => div,
        "Mod" => modulo,
        "Pow" => pow,
        "PRelu" => prelu,
        "Max" => |call| fold(call, &Larger),
        "Min" => |call| fold(call, &Smaller),
        "Sum" => |call| fold(call, &Plus),
        "Mean" => mean,

        "BitShift" => shift,
        "BitwiseAnd" => |call| both_integers!(call, T, |x, y| x & y),
        "BitwiseOr" => |call| both_integers!(call, T, |x, y| x | y),
        "BitwiseXor" => |call| both_integers!(call, T, |x, y| x ^ y),
        "BitwiseNot" => bitwise_not,

        "And" => |call| both_bools(call, |&x, &y| x & y != 0),
        "Or" => |call| both_bools(call, |&x, &y| x | y != 0),
        "Xor" => |call| both_bools(call, |&x, &y| x ^ y != 0),
        "Not" => not,
        "Equal" => equal,
        "Less" => |call| compare_numbers!(call, |x, y| x < y),
        "Greater" => |call| compare_numbers!(call, |x, y| x > y),
        "LessOrEqual" => |call| compare_numbers!(call, |x, y| x <= y),
        "GreaterOrEqual" => |call| compare_numbers!(call, |x, y| x >= y),
        "Where" => select,
        "IsNaN" => is_nan,
        "IsInf" => is_inf,
        _ => return None,
    };
    Some(op)
}

// ---------------------------------------------------------------------------
// Broadcasting

/// Goes through inputs that broadcast to `out` run by run, in row-major order.
///
/// `visit` gets where the run starts in each input, which inputs move along it,
/// and how many elements it has. Axes are merged as far as every input moves
/// along all of them or along none, so that inputs of one shape, and a scalar
/// beside a tensor, are a single run.
pub(super) fn runs<const N: usize>(
    shapes: [&[usize]; N],
    out: &[usize],
    mut visit: impl FnMut([usize; N], [bool; N], usize),
) {
    if out.contains(&0) {
        return;
    }
    let mut groups: Vec<(usize, [bool; N])> = Vec::new();
    for (from_last, &size) in out.iter().rev().enumerate() {
        let moves = shapes.map(|s| s.iter().rev().nth(from_last).is_some_and(|&d| d != 1));
        match groups.last_mut() {
            _ if size == 1 => {}
            Some((len, merged)) if *merged == moves => *len *= size,
            _ => groups.push((size, moves)),
        }
    }
    let mut groups = groups.into_iter();
    let (len, moves) = groups.next().unwrap_or((1, [true; N]));
    let mut strides = moves.map(|m| if m { len } else { 1 });
    let outer: Vec<(usize, [usize; N])> = groups
        .map(|(size, moves)| {
            let mut steps = [0; N];
            for n in 0..N {
                if moves[n] {
                    steps[n] = strides[n];
                    strides[n] *= size;
                }
            }
            (size, steps)
        })
        .collect();
    let mut at = vec![0; outer.len()];
    let mut starts = [0; N];
    loop {
        visit(starts, moves, len);
        let mut group = 0;
        loop {
            let Some((size, steps)) = outer.get(group) else { return };
            at[group] += 1;
            if at[group] < *size {
                for n in 0..N {
                    starts[n] += steps[n];
                }
                break;
            }
            at[group] = 0;
            for n in 0..N {
                starts[n] -= steps[n] * (size - 1);
            }
            group += 1;
        }
    }
}

/// A shape and its elements, in row-major order.
pub(super) type Part<'a, T> = (&'a [usize], &'a [T]);

/// Two inputs, broadcast, to elements of type `element`, and their shape.
pub(super) fn zip<A, B, R>(
    call: &Call<'_>,
    element: Element,
    a: Part<'_, A>,
    b: Part<'_, B>,
    f: impl Fn(&A, &B) -> R,
) -> OpResult<(Vec<usize>, Vec<R>)> {
    let shape = broadcast_shape(&[a.0, b.0])?;
    call.reserve(element, &shape)?;
    let mut made = Vec::with_capacity(shape.iter().product());
    runs([a.0, b.0], &shape, |[i, j], moves, len| match moves {
        [true, true] => {
            made.extend(a.1[i..i + len].iter().zip(&b.1[j..j + len]).map(|(x, y)| f(x, y)));
        }
        [true, false] => made.extend(a.1[i..i + len].iter().map(|x| f(x, &b.1[j]))),
        [false, true] => made.extend(b.1[j..j + len].iter().map(|y| f(&a.1[i], y))),
        [false, false] => made.extend((0..len).map(|_| f(&a.1[i], &b.1[j]))),
    });
    Ok((shape, made))
}

fn zip_arrays<T: Scalar>(
    call: &Call<'_>,
    a: &Array,
    b: &Array,
    f: impl Fn(&T, &T) -> T,
) -> OpResult<Array> {
    let (x, y) = ((a.shape(), a.elements()?), (b.shape(), b.elements()?));
    let (shape, made) = zip(call, T::ELEMENT, x, y, f)?;
    Array::new(&shape, made)
}

/// A truth about each pair.
fn test<T>(
    call: &Call<'_>,
    a: &Array,
    b: &Array,
    x: &[T],
    y: &[T],
    f: impl Fn(&T, &T) -> bool,
) -> OpResult<Vec<Value>> {
    let bools = Element::Plain(DType::Bool);
    let (shape, made) = zip(call, bools, (a.shape(), x), (b.shape(), y), |x, y| u8::from(f(x, y)))?;
    Ok(vec![Array::from_lanes(bools, &shape, Lanes::One(made.into()))?.into()])
}

// ---------------------------------------------------------------------------
// Arithmetic over every type of number

/// A number that arithmetic takes as it is. Whole numbers wrap.
pub(super) trait Number: Scalar + PartialOrd {
    const ZERO: Self;
    fn narrow(value: f64) -> Self;
    fn wide(self) -> f64;
    fn plus(self, other: Self) -> Self;
    fn minus(self, other: Self) -> Self;
    fn times(self, other: Self) -> Self;
    /// Whole numbers are rounded towards zero; they must not be divided by
    /// zero.
    fn over(self, other: Self) -> Self;
    /// What is left of a division, with the dividend's sign.
    fn rest(self, other: Self) -> Self;
    fn magnitude(self) -> Self;
    fn negative(self) -> Self;
    /// -1, 0 or 1.
    fn sign(self) -> Self;
    /// Whether it is no number.
    fn undefined(self) -> bool;

    /// The larger one; what is no number wins.
    fn larger(self, other: Self) -> Self {
        if self > other || self.undefined() { self } else { other }
    }

    /// The smaller one; what is no number wins.
    fn smaller(self, other: Self) -> Self {
        if self < other || self.undefined() { self } else { other }
    }
}

macro_rules! float_numbers {
    ($($t:ty: $zero:expr, $of:expr, $wide:expr, $magnitude:expr;)*) => {$(
        impl Number for $t {
            const ZERO: Self = $zero;
            fn narrow(value: f64) -> Self { $of(value) }
            fn wide(self) -> f64 { $wide(self) }
            fn plus(self, other: Self) -> Self { self + other }
            fn minus(self, other: Self) -> Self { self - other }
            fn times(self, other: Self) -> Self { self * other }
            fn over(self, other: Self) -> Self { self / other }
            fn rest(self, other: Self) -> Self { self % other }
            fn magnitude(self) -> Self { $magnitude(self) }
            fn negative(self) -> Self { -self }
            fn sign(self) -> Self {
                if self > Self::ZERO {
                    Self::narrow(1.0)
                } else if self < Self::ZERO {
                    Self::narrow(-1.0)
                } else {
                    self
                }
            }
            fn undefined(self) -> bool { self.is_nan() }
        }
    )*};
}
float_numbers! {
    f32: 0.0, |v| v as f32, f64::from, f32::abs;
    f64: 0.0, |v| v, |v| v, f64::abs;
    f16: f16::ZERO, f16::from_f64, f16::to_f64, |v: f16| f16::from_bits(v.to_bits() & 0x7fff);
    bf16: bf16::ZERO, bf16::from_f64, bf16::to_f64, |v: bf16| bf16::from_bits(v.to_bits() & 0x7fff);
}

macro_rules! whole_numbers {
    ($($t:ty: $magnitude:expr;)*) => {$(
        impl Number for $t {
            const ZERO: Self = 0;
            fn narrow(value: f64) -> Self { value as $t }
            fn wide(self) -> f64 { self as f64 }
            fn plus(self, other: Self) -> Self { self.wrapping_add(other) }
            fn minus(self, other: Self) -> Self { self.wrapping_sub(other) }
            fn times(self, other: Self) -> Self { self.wrapping_mul(other) }
            fn over(self, other: Self) -> Self { self.checked_div(other).unwrap_or(self) }
            fn rest(self, other: Self) -> Self { self.checked_rem(other).unwrap_or(0) }
            fn magnitude(self) -> Self { $magnitude(self) }
            fn negative(self) -> Self { self.wrapping_neg() }
            #[allow(unused_comparisons)]
            fn sign(self) -> Self {
                if self < 0 { Self::ZERO.wrapping_sub(1) } else { (self > 0).into() }
            }
            fn undefined(self) -> bool { false }
        }
    )*};
}
whole_numbers! {
    i8: i8::wrapping_abs;
    i16: i16::wrapping_abs;
    i32: i32::wrapping_abs;
    i64: i64::wrapping_abs;
    u8: |v| v;
    u16: |v| v;
    u32: |v| v;
    u64: |v| v;
}

/// Refuse a division of whole numbers by zero.
fn check_divisor<T: Number>(divisor: &[T]) -> OpResult<()> {
    if T::ELEMENT.is_integer() && divisor.contains(&T::ZERO) {
        return Err(OpError::invalid("a division of whole numbers by zero"));
    }
    Ok(())
}

fn div(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let (a, b) = (call.array(0)?, call.array(1)?);
    scalar_type!(a.element(), [all] T => {
        check_divisor(b.elements::<T>()?)?;
        Ok(vec![zip_arrays(call, a, b, |&x: &T, &y: &T| x.over(y))?.into()])
    })
}

/// `Mod`: with the dividend's sign where `fmod` says so, or else, for whole
/// numbers, with the divisor's.
fn modulo(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let (a, b) = (call.array(0)?, call.array(1)?);
    let like_dividend = call.flag("fmod", false);
    if !like_dividend && a.element().is_float() {
        return Err(OpError::invalid("floats need fmod = 1"));
    }
    scalar_type!(a.element(), [all] T => {
        check_divisor(b.elements::<T>()?)?;
        let made = zip_arrays(call, a, b, |&x: &T, &y: &T| {
            let rest = x.rest(y);
            let other_side = rest != T::ZERO && (rest < T::ZERO) != (y < T::ZERO);
            if !like_dividend && other_side { rest.plus(y) } else { rest }
        })?;
        Ok(vec![made.into()])
    })
}

/// `Pow`: the result is of the base's type, whatever the exponent's is.
fn pow(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let (a, b) = (call.array(0)?, call.array(1)?);
    let (base, exponent) = (a.element(), b.element());
    let made = if base.is_integer() && exponent.is_integer() {
        let (x, y) = (a.to_i64s()?, b.to_i64s()?);
        let unsigned = exponent == Element::Plain(DType::U64);
        let (shape, made) = zip(call, i64::ELEMENT, (a.shape(), &x), (b.shape(), &y), |&x, &y| {
            if y < 0 && !unsigned { inverse_power(x, y) } else { power(x, y as u64) }
        })?;
        // Powers wrap to the base's width by themselves.
        scalar_type!(base, [ints] T => {
            Array::new(&shape, made.into_iter().map(|v| v as T).collect::<Vec<_>>())
        })?
    } else if base != Element::Plain(DType::F64)
        && base.is_float()
        && exponent != Element::Plain(DType::F64)
        && (exponent.is_float() || b.len() == 1)
    {
        let (x, y) = (a.to_f32s()?, b.to_f32s()?);
        let (x, y) = ((a.shape(), x.as_slice()), (b.shape(), y.as_slice()));
        let element = f32::ELEMENT;
        // The exponents that normalisations are written with.
        let (shape, made) = match y.1 {
            [2.0] => zip(call, element, x, y, |x, _| x * x),
            [3.0] => zip(call, element, x, y, |x, _| x * x * x),
            [0.5] => zip(call, element, x, y, |x, _| x.sqrt()),
            _ => zip(call, element, x, y, |x, &y| x.powf(y)),
        }?;
        Array::from_f32s(base, &shape, made)?
    } else {
        let (x, y) = (a.to_f64s()?, b.to_f64s()?);
        let (shape, made) =
            zip(call, f64::ELEMENT, (a.shape(), &x), (b.shape(), &y), |x, &y| x.powf(y))?;
        scalar_type!(base, [all] T => {
            Array::new(&shape, made.into_iter().map(T::narrow).collect::<Vec<_>>())
        })?
    };
    Ok(vec![made.into()])
}

/// `base` to the power of `exponent`, wrapping.
fn power(mut base: i64, mut exponent: u64) -> i64 {
    let mut made = 1i64;
    while exponent > 0 {
        if exponent & 1 == 1 {
            made = made.wrapping_mul(base);
        }
        base = base.wrapping_mul(base);
        exponent >>= 1;
    }
    made
}

/// A negative power, towards zero; 0 where it has no value.
fn inverse_power(base: i64, exponent: i64) -> i64 {
    match base {
        1 => 1,
        -1 if exponent % 2 == 0 => 1,
        -1 => -1,
        _ => 0,
    }
}

fn prelu(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let (x, slope) = (call.array(0)?, call.array(1)?);
    if broadcast_shape(&[x.shape(), slope.shape()])? != x.shape() {
        let reason = format!("a slope of {:?} for {:?}", slope.shape(), x.shape());
        return Err(OpError::invalid(reason));
    }
    both_numbers!(call, |x, slope| if x < Number::ZERO { x.times(slope) } else { x })
}

/// What [`fold`] folds with, for every type of number.
trait Fold {
    fn apply<T: Number>(&self, x: T, y: T) -> T;
}
struct Larger;
struct Smaller;
struct Plus;
impl Fold for Larger {
    fn apply<T: Number>(&self, x: T, y: T) -> T {
        x.larger(y)
    }
}
impl Fold for Smaller {
    fn apply<T: Number>(&self, x: T, y: T) -> T {
        x.smaller(y)
    }
}
impl Fold for Plus {
    fn apply<T: Number>(&self, x: T, y: T) -> T {
        x.plus(y)
    }
}

/// All inputs, one after the other, into one.
fn fold(call: &Call<'_>, fold: &impl Fold) -> OpResult<Vec<Value>> {
    let arrays = call.arrays()?;
    let Some((first, others)) = arrays.split_first() else {
        return Err(OpError::invalid("no inputs"));
    };
    let mut made = (*first).clone();
    scalar_type!(first.element(), [all] T => {
        for other in others {
            made = zip_arrays(call, &made, other, |&x: &T, &y: &T| fold.apply(x, y))?;
        }
        Ok::<_, OpError>(())
    })?;
    Ok(vec![made.into()])
}

fn mean(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let count = call.input_count();
    let sums = fold(call, &Plus)?;
    let sum = sums.first().ok_or_else(|| OpError::invalid("no inputs"))?.array()?;
    scalar_type!(sum.element(), [all] T => {
        let count = T::narrow(count as f64);
        let made: Vec<T> = sum.elements::<T>()?.iter().map(|x| x.over(count)).collect();
        Ok(vec![Array::new(sum.shape(), made)?.into()])
    })
}

/// `Clip`: the bounds are attributes before operator set 11, inputs since.
/// Where they cross, the upper one holds.
fn clip(call: &Call<'_>) -> OpResult<Vec<Value>> {
    /// A bound of the clipped type, where there is one.
    fn bound<T: Number>(call: &Call<'_>, name: &str, index: usize) -> OpResult<Option<T>> {
        if call.opset() < 11 {
            return Ok(call.float(name).map(|v| T::narrow(v.into())));
        }
        match call.optional(index)?.map(Array::elements::<T>).transpose()? {
            None => Ok(None),
            Some([bound]) => Ok(Some(*bound)),
            Some(other) => Err(OpError::invalid(format!("{name} has {} elements", other.len()))),
        }
    }
    let array = call.array(0)?;
    scalar_type!(array.element(), [all] T => {
        let (low, high) = (bound::<T>(call, "min", 1)?, bound::<T>(call, "max", 2)?);
        let clipped = array.elements::<T>()?.iter().map(|&x| {
            let x = low.map_or(x, |low| if x < low { low } else { x });
            high.map_or(x, |high| if x > high { high } else { x })
        });
        Ok(vec![Array::new(array.shape(), clipped.collect::<Vec<_>>())?.into()])
    })
}

fn shrink(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let bias = f64::from(call.float_or("bias", 0.0));
    let lambda = f64::from(call.float_or("lambd", 0.5));
    each_number!(call, |x| {
        let x = x.wide();
        Number::narrow(if x < -lambda {
            x + bias
        } else if x > lambda {
            x - bias
        } else {
            0.0
        })
    })
}

// ---------------------------------------------------------------------------
// Floats by themselves

/// 1 / (1 + e^-x).
macro_rules! sigmoid {
    ($x:expr) => {
        1.0 / (1.0 + (-$x).exp())
    };
}
use sigmoid;

/// ln(1 + e^x), in a form that does not overflow.
macro_rules! softplus {
    ($x:expr) => {
        $x.max(0.0) + (-$x.abs()).exp().ln_1p()
    };
}
use softplus;

/// The activations that have attributes.
fn activation(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let alpha = |default| call.float_or("alpha", default);
    match call.op() {
        "LeakyRelu" => {
            let alpha = alpha(0.01);
            each_float!(call, T, |x| if x < 0.0 { x * T::from(alpha) } else { x })
        }
        "Elu" => {
            let alpha = alpha(1.0);
            each_float!(call, T, |x| if x < 0.0 { T::from(alpha) * x.exp_m1() } else { x })
        }
        "Selu" => {
            let alpha = alpha(1.673_263_2);
            let gamma = call.float_or("gamma", 1.050_701);
            each_float!(call, T, |x| {
                T::from(gamma) * if x <= 0.0 { T::from(alpha) * x.exp_m1() } else { x }
            })
        }
        "Celu" => {
            let alpha = alpha(1.0);
            each_float!(call, T, |x| {
                let alpha = T::from(alpha);
                if x < 0.0 { alpha * (x / alpha).exp_m1() } else { x }
            })
        }
        "Gelu" => match call.text_or("approximate", "none") {
            "none" => each_float!(call, T, |x| {
                let x = f64::from(x);
                (0.5 * x * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2))) as T
            }),
            "tanh" => each_float!(call, T, |x| {
                let inner = 0.797_884_560_802_865_4 * (x + 0.044715 * x * x * x);
                0.5 * x * (1.0 + inner.tanh())
            }),
            other => Err(OpError::unsupported(format!("approximate {other:?}"))),
        },
        "HardSigmoid" => {
            let (alpha, beta) = (alpha(0.2), call.float_or("beta", 0.5));
            each_float!(call, T, |x| (T::from(alpha) * x + T::from(beta)).clamp(0.0, 1.0))
        }
        "Swish" => {
            let alpha = alpha(1.0);
            each_float!(call, T, |x| x * sigmoid!(T::from(alpha) * x))
        }
        _ => {
            let alpha = alpha(1.0);
            each_float!(call, T, |x| if x > T::from(alpha) { x } else { 0.0 })
        }
    }
}

/// The error function, to about 1e-16.
///
/// # Source
/// W. J. Cody, "Rational Chebyshev Approximations for the Error Function",
/// Mathematics of Computation 23 (1969); coefficients as in his CALERF.
pub(super) fn erf(x: f64) -> f64 {
    /// Numerators and denominators, the highest power first.
    fn ratio(x: f64, over: &[f64], under: &[f64]) -> f64 {
        let horner = |c: &[f64]| c.iter().fold(0.0, |sum, c| sum * x + c);
        horner(over) / horner(under)
    }
    const NEAR: ([f64; 5], [f64; 5]) = (
        [
            1.857_777_061_846_031_5e-1,
            3.161_123_743_870_565_6,
            1.138_641_541_510_501_6e2,
            3.774_852_376_853_02e2,
            3.209_377_589_138_469_5e3,
        ],
        [
            1.0,
            2.360_129_095_234_412e1,
            2.440_246_379_344_441_7e2,
            1.282_616_526_077_372_3e3,
            2.844_236_833_439_171e3,
        ],
    );
    const MIDDLE: ([f64; 9], [f64; 9]) = (
        [
            2.153_115_354_744_038_5e-8,
            5.641_884_969_886_7e-1,
            8.883_149_794_388_376,
            6.611_919_063_714_163e1,
            2.986_351_381_974_001_3e2,
            8.819_522_212_417_69e2,
            1.712_047_612_634_070_6e3,
            2.051_078_377_826_071_5e3,
            1.230_339_354_797_997_2e3,
        ],
        [
            1.0,
            1.574_492_611_070_983_5e1,
            1.176_939_508_913_125e2,
            5.371_811_018_620_099e2,
            1.621_389_574_566_690_2e3,
            3.290_799_235_733_459_6e3,
            4.362_619_090_143_247e3,
            3.439_367_674_143_721_6e3,
            1.230_339_354_803_749_4e3,
        ],
    );
    const FAR: ([f64; 6], [f64; 6]) = (
        [
            1.631_538_713_730_209_8e-2,
            3.053_266_349_612_323_4e-1,
            3.603_448_999_498_044_4e-1,
            1.257_817_261_112_292_5e-1,
            1.608_378_514_874_227_7e-2,
            6.587_491_615_298_378e-4,
        ],
        [
            1.0,
            2.568_520_192_289_822_4,
            1.872_952_849_923_460_4,
            5.279_051_029_514_284e-1,
            6.051_834_131_244_132e-2,
            2.335_204_976_268_691_8e-3,
        ],
    );
    let size = x.abs();
    if size <= 0.46875 {
        return x * ratio(x * x, &NEAR.0, &NEAR.1);
    }
    let rest = if size <= 4.0 {
        (-x * x).exp() * ratio(size, &MIDDLE.0, &MIDDLE.1)
    } else if size < 6.0 {
        let square = 1.0 / (x * x);
        let tail = square * ratio(square, &FAR.0, &FAR.1);
        (-x * x).exp() * (0.5 * std::f64::consts::FRAC_2_SQRT_PI - tail) / size
    } else if x.is_nan() {
        return x;
    } else {
        0.0
    };
    (1.0 - rest).copysign(x)
}

// ---------------------------------------------------------------------------
// Bits and bools

fn shift(call: &Call<'_>) -> OpResult<Vec<Value>> {
    // A shift by the width or more leaves nothing.
    match call.text_or("direction", "") {
        "LEFT" => both_integers!(call, T, |x, y| {
            u32::try_from(y).ok().and_then(|y| x.checked_shl(y)).unwrap_or(0)
        }),
        "RIGHT" => both_integers!(call, T, |x, y| {
            u32::try_from(y).ok().and_then(|y| x.checked_shr(y)).unwrap_or(0)
        }),
        other => Err(OpError::invalid(format!("direction {other:?}"))),
    }
}

fn bitwise_not(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let array = call.array(0)?;
    scalar_type!(array.element(), [ints] T => {
        let made: Vec<T> = array.elements::<T>()?.iter().map(|x| !x).collect();
        Ok(vec![Array::new(array.shape(), made)?.into()])
    })
}

fn both_bools(call: &Call<'_>, f: impl Fn(&u8, &u8) -> bool) -> OpResult<Vec<Value>> {
    let (a, b) = (call.array(0)?, call.array(1)?);
    test(call, a, b, a.bools()?, b.bools()?, f)
}

/// Bools of `array`'s shape.
fn bools(array: &Array, truths: impl Iterator<Item = bool>) -> OpResult<Vec<Value>> {
    let bytes: Vec<u8> = truths.map(u8::from).collect();
    let made =
        Array::from_lanes(Element::Plain(DType::Bool), array.shape(), Lanes::One(bytes.into()))?;
    Ok(vec![made.into()])
}

fn not(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let array = call.array(0)?;
    bools(array, array.bools()?.iter().map(|&x| x == 0))
}

fn equal(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let (a, b) = (call.array(0)?, call.array(1)?);
    match a.element() {
        Element::Text => test(call, a, b, a.texts()?, b.texts()?, |x, y| x == y),
        Element::Plain(DType::Bool) => both_bools(call, |x, y| x == y),
        _ => compare_numbers!(call, |x, y| x == y),
    }
}

/// `Where`: moves elements without looking at them.
fn select(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let (condition, a, b) = (call.array(0)?, call.array(1)?, call.array(2)?);
    let truths = condition.bools()?;
    let shapes = [condition.shape(), a.shape(), b.shape()];
    let shape = broadcast_shape(&shapes)?;
    call.reserve(a.element(), &shape)?;
    let made = structural!(&[a, b], |views| {
        let (Some(x), Some(y)) = (views[0].as_slice(), views[1].as_slice()) else {
            return Err(OpError::invalid("an array that is not row-major"));
        };
        let mut made = Vec::with_capacity(shape.iter().product());
        runs(shapes, &shape, |[i, j, k], [moves_i, moves_j, moves_k], len| {
            let (step_i, step_j, step_k) = (moves_i.into(), moves_j.into(), moves_k.into());
            let step = |start: usize, step: usize, at: usize| start + step * at;
            made.extend((0..len).map(|at| {
                if truths[step(i, step_i, at)] != 0 {
                    x[step(j, step_j, at)].clone()
                } else {
                    y[step(k, step_k, at)].clone()
                }
            }));
        });
        ndarray::ArrayD::from_shape_vec(shape.as_slice(), made).map_err(OpError::from)
    })?;
    Ok(vec![made.into()])
}

fn is_nan(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let array = call.array(0)?;
    bools(array, wide_floats(array)?.iter().map(|x| x.is_nan()))
}

fn is_inf(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let array = call.array(0)?;
    let positive = call.flag("detect_positive", true);
    let negative = call.flag("detect_negative", true);
    let found = |&x: &f64| x.is_infinite() && if x > 0.0 { positive } else { negative };
    bools(array, wide_floats(array)?.iter().map(found))
}

/// Floats of any width as f64.
fn wide_floats(array: &Array) -> OpResult<Vec<f64>> {
    match array.element() {
        Element::Small(_) => array.to_f64s(),
        element if element.is_float() => array.to_f64s(),
        other => Err(OpError::unsupported(format!("{other} where a float is"))),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn runs_cover_every_element_in_order() {
        let seen = |a: &[usize], b: &[usize]| {
            let out = broadcast_shape(&[a, b]).unwrap();
            let (mut pairs, mut count) = (Vec::new(), 0);
            runs([a, b], &out, |[i, j], [p, q], len| {
                count += 1;
                pairs.extend((0..len).map(|n| (i + n * usize::from(p), j + n * usize::from(q))));
            });
            (pairs, count)
        };
        assert_eq!(seen(&[2, 3], &[2, 3]).1, 1);
        assert_eq!(seen(&[2, 3], &[]).1, 1);
        assert_eq!(seen(&[2, 3], &[1, 1, 1]).1, 1);
        assert_eq!(seen(&[], &[]).0, [(0, 0)]);
        assert_eq!(seen(&[2, 0], &[2, 1]).1, 0);
        assert_eq!(seen(&[2, 1], &[3]).0, [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]);
        let (pairs, count) = seen(&[2, 3, 2, 2], &[3, 1, 1]);
        assert_eq!(count, 6);
        assert!(pairs.iter().enumerate().all(|(n, &(i, j))| i == n && j == n / 4 % 3));
    }

    #[test]
    fn the_error_function() {
        for (x, wanted) in [
            (0.0, 0.0),
            (0.25, 0.276_326_390_168_236_9),
            (-0.7, -0.677_801_193_837_418_4),
            (1.0, 0.842_700_792_949_714_9),
            (3.5, 0.999_999_256_901_627_7),
            (4.5, 0.999_999_999_803_384),
            (30.0, 1.0),
        ] {
            assert!((erf(x) - wanted).abs() < 1e-15, "erf({x}) is {}", erf(x));
        }
        assert!(erf(f64::NAN).is_nan());
    }

    #[test]
    fn powers_wrap() {
        assert_eq!(power(3, 4), 81);
        assert_eq!(power(2, 64), 0);
        assert_eq!(power(-2, 3), -8);
        assert_eq!(inverse_power(-1, -3), -1);
    }
}
