//! Arrays in host memory, of any element type of ONNX.

use std::sync::Arc;

use bytemuck::{Pod, cast_slice, cast_vec};
use half::{bf16, f16};
use headland_tensor::{DType, Shape, Tensor};
use ndarray::{ArrayD, ArrayViewD, IxDyn};

use super::{Element, Small};
use crate::interpreter::{OpError, OpResult, check_rank};

/// A dense, row-major array. Cloning and reshaping share the elements.
#[derive(Debug, Clone, PartialEq)]
pub struct Array {
    element: Element,
    shape: Vec<usize>,
    lanes: Lanes,
}

/// Elements by their width. What moves elements without looking at them
/// (slicing, gathering, transposing) is written once for each width, not once
/// for each type: see [`structural!`].
#[derive(Debug, Clone, PartialEq)]
pub enum Lanes {
    /// bool, u8, i8 and the small numbers, one code a byte.
    One(Arc<Vec<u8>>),
    /// u16, i16, f16, bf16.
    Two(Arc<Vec<u16>>),
    /// u32, i32, f32.
    Four(Arc<Vec<u32>>),
    /// u64, i64, f64.
    Eight(Arc<Vec<u64>>),
    /// Text.
    Text(Arc<Vec<Arc<str>>>),
}

/// A Rust type that is the element of some array. Bools are not among them:
/// see [`Array::bools`].
pub trait Scalar: Pod + PartialEq + Send + Sync {
    /// The element type.
    const ELEMENT: Element;

    /// Elements as lanes, without a copy.
    fn into_lanes(elements: Vec<Self>) -> Lanes;
    /// Lanes as elements; `None` for lanes of another width.
    fn of(lanes: &Lanes) -> Option<&[Self]>;
}

macro_rules! scalars {
    ($($t:ty => $d:ident $lane:ident),* $(,)?) => {$(
        impl Scalar for $t {
            const ELEMENT: Element = Element::Plain(DType::$d);

            fn into_lanes(elements: Vec<Self>) -> Lanes {
                Lanes::$lane(Arc::new(cast_vec(elements)))
            }

            fn of(lanes: &Lanes) -> Option<&[Self]> {
                match lanes {
                    Lanes::$lane(lanes) => Some(cast_slice(lanes.as_slice())),
                    _ => None,
                }
            }
        }
    )*};
}
scalars! {
    u8 => U8 One, i8 => I8 One,
    u16 => U16 Two, i16 => I16 Two, f16 => F16 Two, bf16 => BF16 Two,
    u32 => U32 Four, i32 => I32 Four, f32 => F32 Four,
    u64 => U64 Eight, i64 => I64 Eight, f64 => F64 Eight,
}

impl Array {
    /// An array of a type that Rust has.
    ///
    /// # Errors
    /// [`OpError::Invalid`] when there are not as many elements as `shape`
    /// says.
    pub fn new<T: Scalar>(shape: &[usize], elements: Vec<T>) -> OpResult<Self> {
        Self::from_lanes(T::ELEMENT, shape, T::into_lanes(elements))
    }

    /// An array of no dimensions.
    pub fn scalar<T: Scalar>(value: T) -> Self {
        Self { element: T::ELEMENT, shape: Vec::new(), lanes: T::into_lanes(vec![value]) }
    }

    /// An array of bools.
    ///
    /// # Errors
    /// As [`Array::new`].
    pub fn from_bools(shape: &[usize], bools: &[bool]) -> OpResult<Self> {
        let bytes = bools.iter().map(|&b| u8::from(b)).collect();
        Self::from_lanes(Element::Plain(DType::Bool), shape, Lanes::One(Arc::new(bytes)))
    }

    /// An array of text.
    ///
    /// # Errors
    /// As [`Array::new`].
    pub fn from_texts(shape: &[usize], texts: Vec<Arc<str>>) -> OpResult<Self> {
        Self::from_lanes(Element::Text, shape, Lanes::Text(Arc::new(texts)))
    }

    /// An array of small numbers, one code an element.
    ///
    /// # Errors
    /// As [`Array::new`].
    pub fn from_codes(small: Small, shape: &[usize], codes: Vec<u8>) -> OpResult<Self> {
        Self::from_lanes(Element::Small(small), shape, Lanes::One(Arc::new(codes)))
    }

    /// An array of any type, from lanes of its width.
    ///
    /// # Errors
    /// As [`Array::new`], and for lanes of another width.
    pub fn from_lanes(element: Element, shape: &[usize], lanes: Lanes) -> OpResult<Self> {
        let (width, len) = match &lanes {
            Lanes::One(v) => (1, v.len()),
            Lanes::Two(v) => (2, v.len()),
            Lanes::Four(v) => (4, v.len()),
            Lanes::Eight(v) => (8, v.len()),
            Lanes::Text(v) => (16, v.len()),
        };
        check_rank(shape.len())?;
        if Some(len) != element_count(shape) || width != element.size_bytes() {
            return Err(OpError::invalid(format!("{len} elements for {element} {shape:?}")));
        }
        Ok(Self { element, shape: shape.to_vec(), lanes })
    }

    /// The element type.
    pub fn element(&self) -> Element {
        self.element
    }

    /// The size of each dimension, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// How many dimensions.
    pub fn rank(&self) -> usize {
        self.shape.len()
    }

    /// How many elements.
    pub fn len(&self) -> usize {
        match &self.lanes {
            Lanes::One(v) => v.len(),
            Lanes::Two(v) => v.len(),
            Lanes::Four(v) => v.len(),
            Lanes::Eight(v) => v.len(),
            Lanes::Text(v) => v.len(),
        }
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes that the elements take.
    pub fn size_bytes(&self) -> u64 {
        let text = match &self.lanes {
            Lanes::Text(texts) => texts.iter().map(|t| t.len() as u64).sum(),
            _ => 0,
        };
        text + (self.len() * self.element.size_bytes()) as u64
    }

    /// The elements by their width.
    pub fn lanes(&self) -> &Lanes {
        &self.lanes
    }

    /// The elements.
    ///
    /// # Errors
    /// [`OpError::Unsupported`] when the array is of another type.
    pub fn elements<T: Scalar>(&self) -> OpResult<&[T]> {
        if T::ELEMENT != self.element {
            return Err(OpError::unsupported(format!("{} where {} is", self.element, T::ELEMENT)));
        }
        T::of(&self.lanes).ok_or_else(|| OpError::invalid("lanes of another width"))
    }

    /// The elements, in their shape.
    ///
    /// # Errors
    /// As [`Array::elements`].
    pub fn view<T: Scalar>(&self) -> OpResult<ArrayViewD<'_, T>> {
        shaped(&self.shape, self.elements()?)
    }

    /// The bytes of an array of bools, 0 or 1 each.
    ///
    /// # Errors
    /// As [`Array::elements`].
    pub fn bools(&self) -> OpResult<&[u8]> {
        match (&self.lanes, self.element) {
            (Lanes::One(bytes), Element::Plain(DType::Bool)) => Ok(bytes),
            _ => Err(OpError::unsupported(format!("{} where bool is", self.element))),
        }
    }

    /// The elements of an array of text.
    ///
    /// # Errors
    /// As [`Array::elements`].
    pub fn texts(&self) -> OpResult<&[Arc<str>]> {
        match &self.lanes {
            Lanes::Text(texts) => Ok(texts),
            _ => Err(OpError::unsupported(format!("{} where string is", self.element))),
        }
    }

    /// Whole numbers of any width, and bools, as i64: for shapes, axes and
    /// indices.
    ///
    /// # Errors
    /// [`OpError::Unsupported`] for other types.
    pub fn to_i64s(&self) -> OpResult<Vec<i64>> {
        fn wide<T: Scalar + Into<i64>>(array: &Array) -> OpResult<Vec<i64>> {
            Ok(array.elements::<T>()?.iter().map(|&v| v.into()).collect())
        }
        match self.element {
            Element::Plain(DType::Bool) => Ok(self.bools()?.iter().map(|&v| v.into()).collect()),
            Element::Plain(DType::I64) => Ok(self.elements::<i64>()?.to_vec()),
            Element::Plain(DType::I32) => wide::<i32>(self),
            Element::Plain(DType::I16) => wide::<i16>(self),
            Element::Plain(DType::I8) => wide::<i8>(self),
            Element::Plain(DType::U32) => wide::<u32>(self),
            Element::Plain(DType::U16) => wide::<u16>(self),
            Element::Plain(DType::U8) => wide::<u8>(self),
            Element::Plain(DType::U64) => {
                Ok(self.elements::<u64>()?.iter().map(|&v| v as i64).collect())
            }
            Element::Small(small @ (Small::I4 | Small::U4)) => {
                Ok(self.codes()?.iter().map(|&c| small.decode(c) as i64).collect())
            }
            other => Err(OpError::unsupported(format!("{other} where a whole number is"))),
        }
    }

    /// Numbers of any type as f64; u64 and i64 beyond 2^53 lose their last
    /// digits. Bools are 0 and 1.
    ///
    /// # Errors
    /// [`OpError::Unsupported`] for text.
    pub fn to_f64s(&self) -> OpResult<Vec<f64>> {
        Ok(match self.element {
            Element::Plain(DType::F32) => {
                self.elements::<f32>()?.iter().map(|&v| v.into()).collect()
            }
            Element::Plain(DType::F64) => self.elements::<f64>()?.to_vec(),
            Element::Plain(DType::F16) => {
                self.elements::<f16>()?.iter().map(|v| v.to_f64()).collect()
            }
            Element::Plain(DType::BF16) => {
                self.elements::<bf16>()?.iter().map(|v| v.to_f64()).collect()
            }
            Element::Plain(DType::U64) => {
                self.elements::<u64>()?.iter().map(|&v| v as f64).collect()
            }
            Element::Small(small) => {
                self.codes()?.iter().map(|&c| small.decode(c).into()).collect()
            }
            Element::Text => return Err(OpError::unsupported("string where a number is")),
            _ => self.to_i64s()?.into_iter().map(|v| v as f64).collect(),
        })
    }

    /// Numbers of any type as f32, rounded once.
    ///
    /// # Errors
    /// [`OpError::Unsupported`] for text.
    pub fn to_f32s(&self) -> OpResult<Vec<f32>> {
        Ok(match self.element {
            Element::Plain(DType::F32) => self.elements::<f32>()?.to_vec(),
            Element::Plain(DType::F16) => {
                self.elements::<f16>()?.iter().map(|v| v.to_f32()).collect()
            }
            Element::Plain(DType::BF16) => {
                self.elements::<bf16>()?.iter().map(|v| v.to_f32()).collect()
            }
            _ => self.to_f64s()?.into_iter().map(|v| v as f32).collect(),
        })
    }

    /// The codes of an array of small numbers.
    ///
    /// # Errors
    /// As [`Array::elements`].
    pub fn codes(&self) -> OpResult<&[u8]> {
        match (&self.lanes, self.element) {
            (Lanes::One(codes), Element::Small(_)) => Ok(codes),
            _ => Err(OpError::unsupported(format!("{} where a small number is", self.element))),
        }
    }

    /// Floats rounded once to `element`, which is a float.
    ///
    /// # Errors
    /// As [`Array::new`], and [`OpError::Unsupported`] for another element.
    pub fn from_f64s(element: Element, shape: &[usize], values: &[f64]) -> OpResult<Self> {
        match element {
            Element::Plain(DType::F64) => Self::new(shape, values.to_vec()),
            Element::Plain(DType::F32) => {
                Self::new(shape, values.iter().map(|&v| v as f32).collect::<Vec<_>>())
            }
            Element::Plain(DType::F16) => {
                Self::new(shape, values.iter().map(|&v| f16::from_f64(v)).collect::<Vec<_>>())
            }
            Element::Plain(DType::BF16) => {
                Self::new(shape, values.iter().map(|&v| bf16::from_f64(v)).collect::<Vec<_>>())
            }
            other => Err(OpError::unsupported(format!("{other} where a float is"))),
        }
    }

    /// As [`Array::from_f64s`], from f32.
    ///
    /// # Errors
    /// As [`Array::from_f64s`].
    pub fn from_f32s(element: Element, shape: &[usize], values: Vec<f32>) -> OpResult<Self> {
        match element {
            Element::Plain(DType::F32) => Self::new(shape, values),
            Element::Plain(DType::F64) => {
                Self::new(shape, values.into_iter().map(f64::from).collect::<Vec<_>>())
            }
            Element::Plain(DType::F16) => {
                Self::new(shape, values.into_iter().map(f16::from_f32).collect::<Vec<_>>())
            }
            Element::Plain(DType::BF16) => {
                Self::new(shape, values.into_iter().map(bf16::from_f32).collect::<Vec<_>>())
            }
            other => Err(OpError::unsupported(format!("{other} where a float is"))),
        }
    }

    /// The same elements in another shape.
    ///
    /// # Errors
    /// [`OpError::Invalid`] when the element counts differ.
    pub fn reshape(&self, shape: &[usize]) -> OpResult<Self> {
        Self::from_lanes(self.element, shape, self.lanes.clone())
    }

    /// An array of the contract's types, copied.
    pub fn from_tensor(tensor: &Tensor) -> OpResult<Self> {
        use bytemuck::pod_collect_to_vec as copy;
        let bytes = tensor.bytes();
        let lanes = match tensor.dtype().size_bytes() {
            1 => Lanes::One(Arc::new(bytes.to_vec())),
            2 => Lanes::Two(Arc::new(copy(bytes))),
            4 => Lanes::Four(Arc::new(copy(bytes))),
            _ => Lanes::Eight(Arc::new(copy(bytes))),
        };
        Self::from_lanes(tensor.dtype().into(), &tensor.shape().to_usize(), lanes)
    }

    /// As a tensor of the contract, copied; `None` for an element type that
    /// the contract does not have, or too large a shape.
    pub fn to_tensor(&self) -> Option<Tensor> {
        let dtype = self.element.dtype()?;
        let shape = Shape::from_usize(&self.shape).ok()?;
        let bytes: &[u8] = match &self.lanes {
            Lanes::One(v) => v,
            Lanes::Two(v) => cast_slice(v),
            Lanes::Four(v) => cast_slice(v),
            Lanes::Eight(v) => cast_slice(v),
            Lanes::Text(_) => return None,
        };
        Tensor::new(dtype, shape, bytes).ok()
    }
}

/// How many elements a shape has, unless they are too many to count. That goes
/// for a shape with a size of nought too, so that any part of a shape that an
/// array has can be counted.
fn element_count(shape: &[usize]) -> Option<usize> {
    let sizes = shape.iter().filter(|&&size| size > 0);
    let count = sizes.copied().try_fold(1usize, usize::checked_mul)?;
    isize::try_from(count).ok()?;
    Some(if shape.contains(&0) { 0 } else { count })
}

/// A slice in a shape.
pub(crate) fn shaped<'a, T>(shape: &[usize], elements: &'a [T]) -> OpResult<ArrayViewD<'a, T>> {
    ArrayViewD::from_shape(IxDyn(shape), elements).map_err(|e| OpError::invalid(e.to_string()))
}

/// The elements of an array, in row-major order, and its shape.
pub(crate) fn into_parts<T: Clone>(array: ArrayD<T>) -> (Vec<usize>, Vec<T>) {
    let shape = array.shape().to_vec();
    let elements = if array.is_standard_layout() {
        let (elements, offset) = array.into_raw_vec_and_offset();
        let start = offset.unwrap_or(0);
        let len: usize = shape.iter().product();
        if start == 0 && elements.len() == len {
            elements
        } else {
            elements[start..start + len].to_vec()
        }
    } else {
        array.iter().cloned().collect()
    };
    (shape, elements)
}

/// Run a body that moves elements without looking at them, once for the width
/// of the arrays, which are of one element type.
///
/// `structural!(&[a, b], |views| body)`: `views` is a `Vec` of `ArrayViewD<T>`
/// for some `T: Clone`, and the body gives an `OpResult<ArrayD<T>>`; the whole
/// gives an `OpResult<Array>` of that element type.
macro_rules! structural {
    ($arrays:expr, |$views:ident| $body:expr) => {{
        let arrays: &[&$crate::value::Array] = $arrays;
        let first = arrays[0];
        if let Some(other) = arrays.iter().find(|a| a.element() != first.element()) {
            return Err($crate::interpreter::OpError::invalid(format!(
                "{} together with {}",
                first.element(),
                other.element()
            )));
        }
        structural!(@lanes arrays, first, $views, $body, One Two Four Eight Text)
    }};
    (@lanes $arrays:ident, $first:ident, $views:ident, $body:expr, $($lane:ident)*) => {
        match $first.lanes() {
            $($crate::value::Lanes::$lane(_) => {
                let $views = $arrays
                    .iter()
                    .map(|array| match array.lanes() {
                        $crate::value::Lanes::$lane(lanes) => {
                            $crate::value::shaped(array.shape(), lanes.as_slice())
                        }
                        _ => Err($crate::interpreter::OpError::invalid("lanes of another width")),
                    })
                    .collect::<$crate::interpreter::OpResult<Vec<_>>>()?;
                let made = $body?;
                let (shape, elements) = $crate::value::into_parts(made);
                $crate::value::Array::from_lanes(
                    $first.element(),
                    &shape,
                    $crate::value::Lanes::$lane(std::sync::Arc::new(elements)),
                )
            })*
        }
    };
}
pub(crate) use structural;

/// Run a body with `$T` as the Rust type of an element type, for those in the
/// list; other element types are refused by name.
///
/// `scalar_type!(element, [floats] T => body)`; the lists are `floats` (f32,
/// f64), `ints` (i8 to u64), `numbers` (both), and `all` (f16 and bf16, too).
/// Arithmetic on those two is done in f32: see [`real_type!`].
macro_rules! scalar_type {
    ($element:expr, [floats] $T:ident => $body:expr) => {
        scalar_type!(@match $element, $T, $body, F32 f32, F64 f64)
    };
    ($element:expr, [ints] $T:ident => $body:expr) => {
        scalar_type!(@match $element, $T, $body,
            I8 i8, U8 u8, I16 i16, U16 u16, I32 i32, U32 u32, I64 i64, U64 u64)
    };
    ($element:expr, [numbers] $T:ident => $body:expr) => {
        scalar_type!(@match $element, $T, $body, F32 f32, F64 f64,
            I8 i8, U8 u8, I16 i16, U16 u16, I32 i32, U32 u32, I64 i64, U64 u64)
    };
    ($element:expr, [all] $T:ident => $body:expr) => {
        scalar_type!(@match $element, $T, $body, F16 half::f16, BF16 half::bf16, F32 f32, F64 f64,
            I8 i8, U8 u8, I16 i16, U16 u16, I32 i32, U32 u32, I64 i64, U64 u64)
    };
    (@match $element:expr, $T:ident, $body:expr, $($d:ident $t:ty),*) => {
        match $element {
            $($crate::value::Element::Plain(headland_tensor::DType::$d) => {
                type $T = $t;
                $body
            })*
            other => Err($crate::interpreter::OpError::unsupported(format!("element type {other}"))),
        }
    };
}
pub(crate) use scalar_type;

/// Run a body with `$T` as the type that floats of an element type are computed
/// in: f64 for itself, f32 for the others. Other element types are refused by
/// name.
macro_rules! real_type {
    ($element:expr, $T:ident => $body:expr) => {
        match $element {
            $crate::value::Element::Plain(headland_tensor::DType::F64) => {
                type $T = f64;
                $body
            }
            element if element.is_float() => {
                type $T = f32;
                $body
            }
            other => {
                Err($crate::interpreter::OpError::unsupported(format!("element type {other}")))
            }
        }
    };
}
pub(crate) use real_type;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn tensors_go_in_and_out_unchanged() {
        for dtype in DType::ALL {
            let bytes: Vec<u8> = (0..6 * dtype.size_bytes()).map(|i| (i % 2) as u8).collect();
            let tensor = Tensor::new(dtype, Shape::new([2, 3]).unwrap(), bytes).unwrap();
            let array = Array::from_tensor(&tensor).unwrap();
            assert_eq!(array.shape(), [2, 3]);
            assert_eq!(array.to_tensor().unwrap(), tensor);
        }
    }

    #[test]
    fn a_structural_body_serves_every_width() {
        fn transpose(array: &Array) -> OpResult<Array> {
            structural!(&[array], |views| Ok::<_, OpError>(views[0].t().to_owned()))
        }
        let numbers = Array::new(&[2, 3], vec![1i64, 2, 3, 4, 5, 6]).unwrap();
        assert_eq!(transpose(&numbers).unwrap().to_i64s().unwrap(), [1, 4, 2, 5, 3, 6]);
        let texts = Array::from_texts(&[1, 2], vec!["a".into(), "b".into()]).unwrap();
        assert_eq!(transpose(&texts).unwrap().shape(), [2, 1]);
    }

    #[test]
    fn a_wrong_count_or_type_is_refused() {
        assert!(Array::new(&[2], vec![1f32]).is_err());
        assert!(Array::scalar(1f32).elements::<f64>().is_err());
        assert!(Array::scalar(1f32).to_i64s().is_err());
    }
}
