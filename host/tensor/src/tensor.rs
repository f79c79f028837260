//! Immutable tensors in host memory.

use std::{fmt, sync::Arc};

use half::{bf16, f16};
use serde::{Deserialize, Serialize};

use crate::DType;

/// The most dimensions that a tensor may have.
pub const MAX_RANK: usize = 16;

/// The size of each dimension, outermost first. At most [`MAX_RANK`]
/// dimensions, and an element count that fits in memory: checked once, here.
#[derive(Clone, PartialEq, Eq, Hash, Default, Serialize)]
#[serde(transparent)]
pub struct Shape(Box<[u32]>);

impl Shape {
    /// Check and keep `dims`.
    ///
    /// # Errors
    /// [`TensorError::BadShape`] for too many dimensions, or for an element
    /// count over `u32::MAX * 8`, beyond which no device of ours goes.
    pub fn new(dims: impl Into<Box<[u32]>>) -> Result<Self, TensorError> {
        let dims = dims.into();
        if dims.len() > MAX_RANK {
            return Err(TensorError::BadShape(format!(
                "{} dimensions, more than the {MAX_RANK} allowed",
                dims.len()
            )));
        }
        // A zero anywhere makes the product 0, but the rest must still fit.
        let mut product: u64 = 1;
        for &d in dims.iter().filter(|&&d| d != 0) {
            product = product
                .checked_mul(u64::from(d))
                .filter(|&p| p <= u64::from(u32::MAX) * 8)
                .ok_or_else(|| {
                TensorError::BadShape(format!("{dims:?} has too many elements"))
            })?;
        }
        usize::try_from(product)
            .map_err(|_| TensorError::BadShape(format!("{dims:?} does not fit this machine")))?;
        Ok(Self(dims))
    }

    /// As [`Shape::new`], from sizes.
    ///
    /// # Errors
    /// As [`Shape::new`], and for a size over `u32::MAX`.
    pub fn from_usize(dims: &[usize]) -> Result<Self, TensorError> {
        let sizes: Result<Vec<u32>, _> = dims.iter().map(|&d| u32::try_from(d)).collect();
        let sizes =
            sizes.map_err(|_| TensorError::BadShape(format!("{dims:?} has a size over u32")))?;
        Self::new(sizes)
    }

    /// The sizes.
    pub fn dims(&self) -> &[u32] {
        &self.0
    }

    /// The sizes, as indices.
    pub fn to_usize(&self) -> Vec<usize> {
        self.0.iter().map(|&d| d as usize).collect()
    }

    /// How many elements a tensor of this shape has; 1 for a scalar.
    pub fn element_count(&self) -> usize {
        self.0.iter().map(|&d| d as usize).product()
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (i, d) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            write!(f, "{d}")?;
        }
        f.write_str("]")
    }
}

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Self::new(Vec::<u32>::deserialize(d)?).map_err(serde::de::Error::custom)
    }
}

/// Why a tensor could not be made or read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TensorError {
    /// The data's length is not what dtype and shape say.
    #[error("{dtype} tensor of shape {shape} needs {expected_bytes} bytes, got {actual_bytes}")]
    WrongLength {
        /// The element type.
        dtype: DType,
        /// The shape.
        shape: Shape,
        /// What both ask for, in bytes.
        expected_bytes: usize,
        /// What was given, in bytes.
        actual_bytes: usize,
    },
    /// Too many dimensions or elements.
    #[error("bad shape: {0}")]
    BadShape(String),
    /// A bool byte that is neither 0 nor 1.
    #[error("bool tensor has byte {value} at element {index}; only 0 and 1 are bools")]
    BadBool {
        /// Where.
        index: usize,
        /// What stood there.
        value: u8,
    },
    /// The range does not lie within the tensor.
    #[error("bytes {offset}..{offset}+{len} are not within a tensor of {actual_bytes} bytes")]
    OutOfRange {
        /// First byte.
        offset: u64,
        /// How many.
        len: u64,
        /// How many there are.
        actual_bytes: usize,
    },
    /// The tensor has another dtype than the caller asked for.
    #[error("tensor is {actual}, not {expected}")]
    WrongDType {
        /// What was asked for.
        expected: DType,
        /// What it is.
        actual: DType,
    },
}

/// A Rust type that is the element of some dtype.
pub trait Element: bytemuck::Pod + PartialEq {
    /// The dtype.
    const DTYPE: DType;
}

macro_rules! elements {
    ($($t:ty => $d:ident),* $(,)?) => {$(
        impl Element for $t { const DTYPE: DType = DType::$d; }
    )*};
}
elements! {
    u8 => U8, i8 => I8, u16 => U16, i16 => I16, u32 => U32, i32 => I32,
    u64 => U64, i64 => I64, f16 => F16, bf16 => BF16, f32 => F32, f64 => F64,
}

/// An immutable, row-major (C order), densely packed, little-endian array.
///
/// Cloning and reshaping share the bytes.
#[derive(Clone, PartialEq)]
pub struct Tensor {
    dtype: DType,
    shape: Shape,
    data: Arc<[u8]>,
}

impl Tensor {
    /// Make a tensor of `dtype` and `shape` from its bytes.
    ///
    /// # Errors
    /// [`TensorError::WrongLength`] when the length is not
    /// `shape.element_count() * dtype.size_bytes()`, [`TensorError::BadBool`]
    /// for a bool byte other than 0 and 1.
    pub fn new(
        dtype: DType,
        shape: Shape,
        data: impl Into<Arc<[u8]>>,
    ) -> Result<Self, TensorError> {
        let data = data.into();
        let expected_bytes = shape.element_count() * dtype.size_bytes();
        if data.len() != expected_bytes {
            return Err(TensorError::WrongLength {
                dtype,
                shape,
                expected_bytes,
                actual_bytes: data.len(),
            });
        }
        if dtype == DType::Bool
            && let Some((index, &value)) = data.iter().enumerate().find(|(_, b)| **b > 1)
        {
            return Err(TensorError::BadBool { index, value });
        }
        Ok(Self { dtype, shape, data })
    }

    /// Make a tensor from elements.
    ///
    /// # Errors
    /// As [`Tensor::new`].
    pub fn from_elements<T: Element>(shape: &[u32], elements: &[T]) -> Result<Self, TensorError> {
        Self::new(T::DTYPE, Shape::new(shape)?, bytemuck::cast_slice::<T, u8>(elements))
    }

    /// A one-dimensional u8 tensor that takes over `bytes`: a frame's payload.
    ///
    /// # Errors
    /// [`TensorError::BadShape`] over 4 GiB.
    pub fn from_bytes(bytes: impl Into<Arc<[u8]>>) -> Result<Self, TensorError> {
        let bytes = bytes.into();
        Self::new(DType::U8, Shape::from_usize(&[bytes.len()])?, bytes)
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The size of each dimension.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The data.
    pub fn bytes(&self) -> &[u8] {
        &self.data
    }

    /// A second reference to the data, without copying it.
    pub fn shared_bytes(&self) -> Arc<[u8]> {
        Arc::clone(&self.data)
    }

    /// `len` bytes from byte `offset` on.
    ///
    /// # Errors
    /// [`TensorError::OutOfRange`].
    pub fn byte_range(&self, offset: u64, len: u64) -> Result<&[u8], TensorError> {
        let range = || {
            let start = usize::try_from(offset).ok()?;
            let end = start.checked_add(usize::try_from(len).ok()?)?;
            self.data.get(start..end)
        };
        range().ok_or(TensorError::OutOfRange { offset, len, actual_bytes: self.data.len() })
    }

    /// The same data under another shape of the same element count.
    ///
    /// # Errors
    /// [`TensorError::WrongLength`] when the element counts differ.
    pub fn reshape(&self, shape: Shape) -> Result<Self, TensorError> {
        Self::new(self.dtype, shape, Arc::clone(&self.data))
    }

    /// The elements.
    ///
    /// # Errors
    /// [`TensorError::WrongDType`] when `T` is not this tensor's dtype.
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>, TensorError> {
        if T::DTYPE != self.dtype {
            return Err(TensorError::WrongDType { expected: T::DTYPE, actual: self.dtype });
        }
        Ok(bytemuck::pod_collect_to_vec(&self.data))
    }

    /// The elements as f64; u64 and i64 beyond 2^53 lose their last digits.
    pub fn to_f64(&self) -> Vec<f64> {
        fn all<T: Element>(data: &[u8], f: impl Fn(T) -> f64) -> Vec<f64> {
            data.chunks_exact(size_of::<T>()).map(|c| f(bytemuck::pod_read_unaligned(c))).collect()
        }
        let d = &*self.data;
        match self.dtype {
            DType::Bool | DType::U8 => all::<u8>(d, f64::from),
            DType::I8 => all::<i8>(d, f64::from),
            DType::U16 => all::<u16>(d, f64::from),
            DType::I16 => all::<i16>(d, f64::from),
            DType::U32 => all::<u32>(d, f64::from),
            DType::I32 => all::<i32>(d, f64::from),
            DType::U64 => all::<u64>(d, |v| v as f64),
            DType::I64 => all::<i64>(d, |v| v as f64),
            DType::F16 => all::<f16>(d, f64::from),
            DType::BF16 => all::<bf16>(d, f64::from),
            DType::F32 => all::<f32>(d, f64::from),
            DType::F64 => all::<f64>(d, |v| v),
        }
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tensor({} {})", self.dtype, self.shape)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn wrong_length_is_refused_with_both_lengths() {
        let e = Tensor::new(DType::F32, Shape::new([2, 3]).unwrap(), vec![0u8; 23]).unwrap_err();
        assert_eq!(e.to_string(), "f32 tensor of shape [2,3] needs 24 bytes, got 23");
    }

    #[test]
    fn huge_shape_is_refused_even_with_a_zero_dimension() {
        assert!(Shape::new([u32::MAX, u32::MAX]).is_err());
        assert!(Shape::new([0, u32::MAX, u32::MAX]).is_err());
        assert!(Shape::new(vec![1; MAX_RANK + 1]).is_err());
        assert_eq!(Shape::new([0, 5]).unwrap().element_count(), 0);
        assert_eq!(Shape::new([]).unwrap().element_count(), 1);
    }

    #[test]
    fn bool_bytes_are_checked() {
        let e = Tensor::new(DType::Bool, Shape::new([3]).unwrap(), vec![0, 1, 2]).unwrap_err();
        assert_eq!(e, TensorError::BadBool { index: 2, value: 2 });
    }

    #[test]
    fn range_overflow_is_refused() {
        let t = Tensor::from_bytes(vec![1, 2, 3]).unwrap();
        assert_eq!(t.byte_range(1, 2).unwrap(), &[2, 3]);
        assert!(t.byte_range(u64::MAX, 2).is_err());
        assert!(t.byte_range(2, 2).is_err());
    }

    #[test]
    fn clone_and_reshape_share_the_bytes() {
        let t = Tensor::from_elements::<f32>(&[2, 2], &[1., 2., 3., 4.]).unwrap();
        let r = t.reshape(Shape::new([4]).unwrap()).unwrap();
        assert!(Arc::ptr_eq(&t.shared_bytes(), &r.shared_bytes()));
        assert_eq!(r.to_vec::<f32>().unwrap(), [1., 2., 3., 4.]);
        assert!(t.reshape(Shape::new([5]).unwrap()).is_err());
        assert!(t.to_vec::<i32>().is_err());
    }

    #[test]
    fn every_dtype_reads_as_f64() {
        assert_eq!(
            Tensor::from_elements::<f16>(&[1], &[f16::from_f32(1.5)]).unwrap().to_f64(),
            [1.5]
        );
        assert_eq!(Tensor::from_elements::<i64>(&[1], &[-7]).unwrap().to_f64(), [-7.0]);
        assert_eq!(Tensor::from_elements::<u16>(&[1], &[65535]).unwrap().to_f64(), [65535.0]);
        for d in DType::ALL {
            assert_eq!(d.name().parse::<DType>().unwrap(), d);
        }
    }
}
