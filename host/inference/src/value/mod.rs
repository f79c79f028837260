//! What flows between the nodes of an ONNX graph.

mod array;
mod element;
mod onnx;

use std::collections::BTreeMap;

pub use array::{Array, Lanes, Scalar};
pub(crate) use array::{into_parts, real_type, scalar_type, shaped, structural};
pub use element::{Element, Small};
pub use onnx::{Type, value_from_onnx};
pub(crate) use onnx::{array_from_proto, interface, proto_from_array};

use crate::interpreter::{OpError, OpResult};

/// A value of an ONNX graph.
#[cfg_attr(
    feature = "gpu",
    allow(clippy::large_enum_variant, reason = "burn's handle is large, and values are few")
)]
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A tensor.
    Array(Array),
    /// A sequence.
    Sequence(Vec<Value>),
    /// An optional: something, or nothing.
    Optional(Option<Box<Value>>),
    /// A map from text or whole numbers.
    Map(BTreeMap<Key, Value>),
    /// A tensor on a device.
    #[cfg(feature = "gpu")]
    Device(crate::gpu::DeviceTensor),
}

/// A key of a map.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// A whole number.
    Int(i64),
    /// Text.
    Text(String),
}

impl Value {
    /// The array that this is.
    ///
    /// # Errors
    /// [`OpError::Invalid`] for anything else.
    pub fn array(&self) -> OpResult<&Array> {
        match self {
            Self::Array(array) => Ok(array),
            Self::Optional(Some(inner)) => inner.array(),
            other => Err(OpError::invalid(format!("a {} where a tensor is", other.kind()))),
        }
    }

    /// The shape of the tensor that this is, wherever it is.
    ///
    /// # Errors
    /// [`OpError::Invalid`] for anything else.
    pub fn shape(&self) -> OpResult<&[usize]> {
        match self {
            #[cfg(feature = "gpu")]
            Self::Device(tensor) => Ok(tensor.shape()),
            other => other.array().map(Array::shape),
        }
    }

    /// The sequence that this is.
    ///
    /// # Errors
    /// [`OpError::Invalid`] for anything else.
    pub fn sequence(&self) -> OpResult<&[Value]> {
        match self {
            Self::Sequence(values) => Ok(values),
            Self::Optional(Some(inner)) => inner.sequence(),
            other => Err(OpError::invalid(format!("a {} where a sequence is", other.kind()))),
        }
    }

    /// What kind of value, for messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Array(_) => "tensor",
            Self::Sequence(_) => "sequence",
            Self::Optional(_) => "optional",
            Self::Map(_) => "map",
            #[cfg(feature = "gpu")]
            Self::Device(_) => "tensor on the device",
        }
    }

    /// How many values may be within each other; ONNX's types have four at
    /// most.
    pub(crate) const MAX_DEPTH: usize = 8;

    /// How many values are within each other: none in a tensor.
    pub(crate) fn depth(&self) -> usize {
        let inner = match self {
            Self::Sequence(values) => values.iter().map(Self::depth).max(),
            Self::Optional(inner) => inner.as_ref().map(|value| value.depth()),
            Self::Map(map) => map.values().map(Self::depth).max(),
            _ => return 0,
        };
        1 + inner.unwrap_or(0)
    }

    /// Bytes that it takes in memory, where its elements are.
    pub fn size_bytes(&self) -> u64 {
        match self {
            Self::Array(array) => array.size_bytes(),
            // Values of a few bytes take memory too.
            Self::Sequence(values) => {
                let own = (values.len() * size_of::<Self>()) as u64;
                values.iter().map(Self::size_bytes).sum::<u64>() + own
            }
            Self::Optional(inner) => inner.as_ref().map_or(0, |v| v.size_bytes()),
            Self::Map(map) => map.values().map(|v| v.size_bytes() + 32).sum(),
            #[cfg(feature = "gpu")]
            Self::Device(tensor) => tensor.size_bytes(),
        }
    }
}

impl From<Array> for Value {
    fn from(array: Array) -> Self {
        Self::Array(array)
    }
}
