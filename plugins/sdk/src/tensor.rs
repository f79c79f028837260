//! Typed reads and writes of the host's tensors.

use std::ops::{Deref, DerefMut};

use crate::{
    DType, Result, StageError, Tensor, bindings::imports::headland::pipeline::tensors::NamedTensor,
};

/// A Rust type that is the element of some dtype. Its bytes are taken as they
/// are: WebAssembly is little-endian, as the contract is.
pub trait Element: bytemuck::Pod {
    /// The dtype.
    const DTYPE: DType;
}

macro_rules! elements {
    ($($t:ty => $d:ident),*) => {$(
        impl Element for $t {
            const DTYPE: DType = DType::$d;
        }
    )*};
}
elements!(u8 => U8, i8 => I8, u16 => U16, i16 => I16, u32 => U32, i32 => I32,
          u64 => U64, i64 => I64, f32 => F32, f64 => F64);

impl DType {
    /// The dtype's name, as the contract spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bool => "bool",
            Self::U8 => "u8",
            Self::I8 => "i8",
            Self::U16 => "u16",
            Self::I16 => "i16",
            Self::U32 => "u32",
            Self::I32 => "i32",
            Self::U64 => "u64",
            Self::I64 => "i64",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::F32 => "f32",
            Self::F64 => "f64",
        }
    }

    /// Bytes an element takes.
    pub fn size_bytes(self) -> usize {
        match self {
            Self::Bool | Self::U8 | Self::I8 => 1,
            Self::U16 | Self::I16 | Self::F16 | Self::Bf16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 => 8,
        }
    }
}

impl Tensor {
    /// Make a tensor from its elements in row-major order.
    ///
    /// # Errors
    /// [`StageError::Failed`] when the elements are not as many as `shape`
    /// says, or when the host has no memory left for this stage.
    pub fn from_slice<T: Element>(shape: &[u32], elements: &[T]) -> Result<Self> {
        Ok(Self::create(T::DTYPE, shape, bytemuck::cast_slice(elements))?)
    }
}

/// The elements of little-endian bytes; bytes that are not a whole element
/// at the end are left out.
pub fn decode<T: Element>(bytes: &[u8]) -> Vec<T> {
    let whole = bytes.len() - bytes.len() % size_of::<T>();
    bytemuck::pod_collect_to_vec(&bytes[..whole])
}

/// The elements of little-endian bytes of any dtype, as f64. u64 and i64
/// beyond 2^53 lose their last digits.
pub fn decode_f64(dtype: DType, bytes: &[u8]) -> Vec<f64> {
    fn all<T: Element>(bytes: &[u8], f: impl Fn(T) -> f64) -> Vec<f64> {
        decode(bytes).into_iter().map(f).collect()
    }
    match dtype {
        DType::Bool | DType::U8 => all::<u8>(bytes, f64::from),
        DType::I8 => all::<i8>(bytes, f64::from),
        DType::U16 => all::<u16>(bytes, f64::from),
        DType::I16 => all::<i16>(bytes, f64::from),
        DType::U32 => all::<u32>(bytes, f64::from),
        DType::I32 => all::<i32>(bytes, f64::from),
        DType::U64 => all::<u64>(bytes, |v| v as f64),
        DType::I64 => all::<i64>(bytes, |v| v as f64),
        DType::F16 => all::<u16>(bytes, f16_to_f64),
        DType::Bf16 => all::<u16>(bytes, |v| f64::from(f32::from_bits(u32::from(v) << 16))),
        DType::F32 => all::<f32>(bytes, f64::from),
        DType::F64 => all::<f64>(bytes, |v| v),
    }
}

/// The value of an IEEE 754 binary16.
fn f16_to_f64(bits: u16) -> f64 {
    let sign = if bits >> 15 == 0 { 1.0 } else { -1.0 };
    let exponent = i32::from(bits >> 10 & 0x1f);
    let fraction = f64::from(bits & 0x3ff) / 1024.0;
    match exponent {
        0 => sign * fraction * 2f64.powi(-14),
        31 if fraction == 0.0 => sign * f64::INFINITY,
        31 => f64::NAN,
        _ => sign * (1.0 + fraction) * 2f64.powi(exponent - 15),
    }
}

/// Tensors under their names, in order: what a stage is given and gives.
#[derive(Debug, Default)]
pub struct Tensors(pub(crate) Vec<NamedTensor>);

impl Tensors {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// These and one more.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, tensor: Tensor) -> Self {
        self.0.push(NamedTensor { name: name.into(), tensor });
        self
    }

    /// The tensor called `name`.
    ///
    /// # Errors
    /// [`StageError::BadInput`] when there is none.
    pub fn get(&self, name: &str) -> Result<Input<'_>> {
        self.iter().find(|i| i.name == name).ok_or_else(|| self.missing(name))
    }

    /// The tensor called `name`, out of these.
    ///
    /// # Errors
    /// [`StageError::BadInput`] when there is none.
    pub fn take(&mut self, name: &str) -> Result<Tensor> {
        match self.0.iter().position(|n| n.name == name) {
            Some(i) => Ok(self.0.remove(i).tensor),
            None => Err(self.missing(name)),
        }
    }

    /// The tensor called `name`; without a name the only one there is.
    ///
    /// # Errors
    /// [`StageError::BadInput`] when there is no such tensor, or without a
    /// name when there is more than one.
    pub fn get_or_only(&self, name: Option<&str>) -> Result<Input<'_>> {
        match (name, self.0.as_slice()) {
            (Some(name), _) => self.get(name),
            (None, [only]) => Ok(Input { name: &only.name, tensor: &only.tensor }),
            (None, _) => Err(StageError::bad_input(format!(
                "exactly one input is needed where the configuration names none; there are [{}]",
                self.names()
            ))),
        }
    }

    /// Each tensor with its name.
    pub fn iter(&self) -> impl Iterator<Item = Input<'_>> {
        self.0.iter().map(|n| Input { name: &n.name, tensor: &n.tensor })
    }

    fn missing(&self, name: &str) -> StageError {
        StageError::bad_input(format!("no input `{name}`; there are [{}]", self.names()))
    }

    fn names(&self) -> String {
        let names: Vec<&str> = self.0.iter().map(|n| n.name.as_str()).collect();
        names.join(", ")
    }
}

impl IntoIterator for Tensors {
    type Item = (String, Tensor);
    type IntoIter = std::iter::Map<std::vec::IntoIter<NamedTensor>, fn(NamedTensor) -> Self::Item>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter().map(|n| (n.name, n.tensor))
    }
}

impl FromIterator<(String, Tensor)> for Tensors {
    fn from_iter<I: IntoIterator<Item = (String, Tensor)>>(tensors: I) -> Self {
        Self(tensors.into_iter().map(|(name, tensor)| NamedTensor { name, tensor }).collect())
    }
}

impl From<Vec<NamedTensor>> for Tensors {
    fn from(tensors: Vec<NamedTensor>) -> Self {
        Self(tensors)
    }
}

impl From<Tensors> for Vec<NamedTensor> {
    fn from(tensors: Tensors) -> Self {
        tensors.0
    }
}

/// The elements of a tensor, read. To be used and changed as a slice.
#[derive(Debug, Clone)]
pub struct Elements<T>(Bytes<T>);

#[derive(Debug, Clone)]
enum Bytes<T> {
    /// As the host wrote them: the allocator happened to align them for `T`,
    /// as the ones we know always do.
    Cast(Vec<u8>),
    Copied(Vec<T>),
}

impl<T: Element> Elements<T> {
    fn new(bytes: Vec<u8>) -> Self {
        Self(match bytemuck::try_cast_slice::<u8, T>(&bytes) {
            Ok(_) => Bytes::Cast(bytes),
            Err(_) => Bytes::Copied(decode(&bytes)),
        })
    }
}

impl<T: Element> Deref for Elements<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match &self.0 {
            Bytes::Cast(bytes) => bytemuck::cast_slice(bytes),
            Bytes::Copied(elements) => elements,
        }
    }
}

impl<T: Element> DerefMut for Elements<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        match &mut self.0 {
            Bytes::Cast(bytes) => bytemuck::cast_slice_mut(bytes),
            Bytes::Copied(elements) => elements,
        }
    }
}

/// A tensor that a stage was given, with the name that its errors carry.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    name: &'a str,
    tensor: &'a Tensor,
}

impl Input<'_> {
    /// The name.
    pub fn name(&self) -> &str {
        self.name
    }

    /// A [`StageError::BadInput`] that names this input.
    pub fn refuse(&self, why: impl std::fmt::Display) -> StageError {
        StageError::bad_input(format!("input `{}`: {why}", self.name))
    }

    /// All elements, in row-major order, in the bytes that the host wrote.
    ///
    /// # Errors
    /// [`StageError::BadInput`] when `T` is not the tensor's dtype.
    pub fn elements<T: Element>(&self) -> Result<Elements<T>> {
        let dtype = self.tensor.dtype();
        if dtype != T::DTYPE {
            return Err(self.refuse(format!(
                "needs dtype {}, is {} of shape {:?}",
                T::DTYPE.name(),
                dtype.name(),
                self.tensor.shape()
            )));
        }
        Ok(Elements::new(self.tensor.read()?))
    }

    /// As [`Input::elements`], copied into a vector of their own.
    ///
    /// # Errors
    /// [`StageError::BadInput`] when `T` is not the tensor's dtype.
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>> {
        Ok(self.elements()?.to_vec())
    }

    /// All elements of any dtype as f64, in row-major order; u64 and i64
    /// beyond 2^53 lose their last digits.
    ///
    /// # Errors
    /// [`StageError::Failed`] when the host cannot read the tensor.
    pub fn to_f64(&self) -> Result<Vec<f64>> {
        Ok(decode_f64(self.tensor.dtype(), &self.tensor.read()?))
    }
}

impl Deref for Input<'_> {
    type Target = Tensor;

    fn deref(&self) -> &Tensor {
        self.tensor
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_little_endian() {
        assert_eq!(decode::<f32>(&[0, 0, 128, 63, 0, 0, 32, 192]), [1.0, -2.5]);
        assert_eq!(decode::<i64>(&[0, 0, 0, 0, 0, 0, 0, 128]), [i64::MIN]);
        assert_eq!(decode::<u16>(&[1, 0, 2]), [1]);
    }

    /// The values are those of IEEE 754-2019, table 3.5 parameters.
    #[test]
    fn every_kind_of_half_reads_as_f64() {
        let bits = [0x3c00u16, 0xc000, 0x7bff, 0x0001, 0x0400, 0x8000, 0x7c00, 0xfc00];
        let values = [1.0, -2.0, 65504.0, 2f64.powi(-24), 2f64.powi(-14), -0.0];
        let read = decode_f64(DType::F16, bytemuck::cast_slice(&bits));
        assert_eq!(read[..6], values);
        assert_eq!(read[6..], [f64::INFINITY, f64::NEG_INFINITY]);
        assert!(decode_f64(DType::F16, &[0x00, 0x7e])[0].is_nan());
        assert_eq!(decode_f64(DType::Bf16, &[0xc0, 0x3f]), [1.5]);
        assert_eq!(decode_f64(DType::I8, &[0xff]), [-1.0]);
    }

    #[test]
    fn elements_are_those_of_the_bytes_wherever_they_lie() {
        let mut elements = Elements::<f32>::new(vec![0, 0, 128, 63, 0, 0, 32, 192]);
        elements[0] = 4.0;
        assert_eq!(*elements, [4.0, -2.5]);
        // Not a whole number of elements: read as far as they go.
        assert_eq!(*Elements::<u32>::new(vec![1, 0, 0, 0, 9]), [1]);
    }

    #[test]
    fn missing_input_is_named_with_what_there_is() {
        assert_eq!(
            Tensors::new().get("image").unwrap_err(),
            StageError::BadInput("no input `image`; there are []".into())
        );
    }
}
