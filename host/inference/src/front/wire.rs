//! Bounds what decoding an ONNX protobuf may allocate.
//!
//! A decoded message takes hundreds of bytes however short it is on the wire:
//! two bytes make an empty node. A walk over the wire format, which allocates
//! nothing, counts the messages before any is decoded.
//!
//! # Source
//! <https://protobuf.dev/programming-guides/encoding/>; field numbers from
//! `onnx.proto3` of ONNX 1.19.

use crate::InferenceError;

/// Messages nest at most this deep, as in the decoder.
const MAX_DEPTH: usize = 100;

/// A message of ONNX, as far as its fields hold messages or repeat strings.
#[derive(Clone, Copy)]
enum Kind {
    Model,
    Graph,
    Node,
    Attribute,
    Tensor,
    SparseTensor,
    ValueInfo,
    Type,
    TensorType,
    Nested,
    Shape,
    Training,
    Function,
    Annotation,
    /// Counted, and holds nothing that counts. Also what repeats strings.
    Leaf,
}

impl Kind {
    /// What the field of that number holds; `None` for scalars, and for
    /// fields that the decoder skips.
    fn field(self, number: u64) -> Option<Self> {
        Some(match (self, number) {
            (Self::Model, 7) => Self::Graph,
            (Self::Model, 20) => Self::Training,
            (Self::Model, 25) => Self::Function,
            (Self::Graph, 1) | (Self::Function, 7) => Self::Node,
            (Self::Graph, 5) | (Self::Attribute, 5 | 10) => Self::Tensor,
            (Self::Graph, 15) | (Self::Attribute, 22 | 23) => Self::SparseTensor,
            (Self::Graph, 11..=13) => Self::ValueInfo,
            (Self::Graph, 14) => Self::Annotation,
            (Self::Node, 5) => Self::Attribute,
            (Self::Attribute, 6 | 11) | (Self::Training, 1 | 2) => Self::Graph,
            (Self::Attribute, 15) | (Self::ValueInfo, 2) => Self::Type,
            (Self::SparseTensor, 1 | 2) => Self::Tensor,
            (Self::Type, 1) => Self::TensorType,
            // Sequences, maps and optionals: a type within a type.
            (Self::Type, 4 | 5 | 9) => Self::Nested,
            (Self::Nested, 1 | 2) => Self::Type,
            (Self::TensorType, 2) => Self::Shape,
            (Self::Model, 8 | 14)
            | (Self::Node, 1 | 2)
            | (Self::Attribute, 9)
            | (Self::Tensor, 3 | 6 | 13)
            | (Self::Shape, 1)
            | (Self::Training, 3 | 4)
            | (Self::Function, 4..=6 | 9)
            | (Self::Annotation, 2) => Self::Leaf,
            _ => return None,
        })
    }
}

/// Refuse a model of more than `max_messages` messages and repeated strings.
pub(super) fn bound(onnx: &[u8], max_messages: u64) -> Result<(), InferenceError> {
    let mut count = 0;
    walk(onnx, Kind::Model, 0, &mut count, max_messages)
}

/// The messages and repeated strings of an encoded function.
pub(super) fn messages_of_function(encoded: &[u8]) -> u64 {
    messages(encoded, Kind::Function)
}

/// The messages and repeated strings of an encoded attribute.
pub(super) fn messages_of_attribute(encoded: &[u8]) -> u64 {
    messages(encoded, Kind::Attribute)
}

/// Of what was encoded here, so that nothing is wrong with it.
fn messages(encoded: &[u8], kind: Kind) -> u64 {
    let mut count = 0;
    match walk(encoded, kind, 0, &mut count, u64::MAX) {
        Ok(()) => count,
        Err(_) => u64::MAX,
    }
}

fn walk(
    mut rest: &[u8],
    kind: Kind,
    depth: usize,
    count: &mut u64,
    max: u64,
) -> Result<(), InferenceError> {
    if depth > MAX_DEPTH {
        return Err(InferenceError::over("nesting of messages", depth as u64, MAX_DEPTH as u64));
    }
    let truncated = || InferenceError::malformed("the protobuf is truncated or damaged");
    while !rest.is_empty() {
        let tag = varint(&mut rest).ok_or_else(truncated)?;
        let skip = match tag & 7 {
            0 => {
                varint(&mut rest).ok_or_else(truncated)?;
                0
            }
            1 => 8,
            5 => 4,
            2 => {
                let len = varint(&mut rest).ok_or_else(truncated)?;
                let len = usize::try_from(len).map_err(|_| truncated())?;
                let body = rest.get(..len).ok_or_else(truncated)?;
                if let Some(kind) = kind.field(tag >> 3) {
                    *count += 1;
                    if *count > max {
                        return Err(InferenceError::over("max_messages", *count, max));
                    }
                    if !matches!(kind, Kind::Leaf) {
                        walk(body, kind, depth + 1, count, max)?;
                    }
                }
                len
            }
            // Groups, which no version of ONNX uses.
            _ => return Err(truncated()),
        };
        rest = rest.get(skip..).ok_or_else(truncated)?;
    }
    Ok(())
}

/// A base-128 varint of at most ten bytes.
fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, tail) = rest.split_first()?;
        *rest = tail;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}
