//! Values and their types from ONNX's protobufs.

use std::{collections::BTreeMap, fmt, sync::Arc};

use bytemuck::{cast_slice, pod_collect_to_vec};
use prost::Message;
use tract_onnx::pb::TensorProto;

use super::{Array, Element, Key, Lanes, Value};
use crate::{
    Dimension, InferenceError,
    front::tensor::normalise,
    interpreter::{OpError, OpResult},
};

/// The type of a value, as far as a model declares it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Type {
    /// A tensor, of a declared rank or of any.
    Tensor(Element, Option<Vec<Dimension>>),
    /// A sequence.
    Sequence(Box<Type>),
    /// An optional.
    Optional(Box<Type>),
    /// A map to values of that type.
    Map(Box<Type>),
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tensor(element, _) => write!(f, "tensor({element})"),
            Self::Sequence(inner) => write!(f, "seq({inner})"),
            Self::Optional(inner) => write!(f, "optional({inner})"),
            Self::Map(inner) => write!(f, "map({inner})"),
        }
    }
}

/// The messages that tract's own decoder leaves out, as far as they are needed.
///
/// # Source
/// Field numbers from `onnx.proto3` of ONNX 1.19.
mod pb {
    use tract_onnx::pb::{TensorProto, TensorShapeProto};

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Model {
        #[prost(message, optional, tag = "7")]
        pub graph: Option<Graph>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Graph {
        #[prost(message, repeated, tag = "11")]
        pub input: Vec<ValueInfo>,
        #[prost(message, repeated, tag = "12")]
        pub output: Vec<ValueInfo>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct ValueInfo {
        #[prost(string, tag = "1")]
        pub name: String,
        #[prost(message, optional, tag = "2")]
        pub r#type: Option<Type>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Type {
        #[prost(message, optional, tag = "1")]
        pub tensor: Option<TensorType>,
        #[prost(message, optional, boxed, tag = "4")]
        pub sequence: Option<Box<Elements>>,
        #[prost(message, optional, boxed, tag = "5")]
        pub map: Option<Box<MapType>>,
        #[prost(message, optional, boxed, tag = "9")]
        pub optional: Option<Box<Elements>>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct TensorType {
        #[prost(int32, tag = "1")]
        pub elem_type: i32,
        #[prost(message, optional, tag = "2")]
        pub shape: Option<TensorShapeProto>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Elements {
        #[prost(message, optional, boxed, tag = "1")]
        pub elem_type: Option<Box<Type>>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct MapType {
        #[prost(int32, tag = "1")]
        pub key_type: i32,
        #[prost(message, optional, boxed, tag = "2")]
        pub value_type: Option<Box<Type>>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Sequence {
        #[prost(string, tag = "1")]
        pub name: String,
        #[prost(int32, tag = "2")]
        pub elem_type: i32,
        #[prost(message, repeated, tag = "3")]
        pub tensors: Vec<TensorProto>,
        #[prost(message, repeated, tag = "5")]
        pub sequences: Vec<Sequence>,
        #[prost(message, repeated, tag = "6")]
        pub maps: Vec<Map>,
        #[prost(message, repeated, tag = "7")]
        pub optionals: Vec<Optional>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Map {
        #[prost(string, tag = "1")]
        pub name: String,
        #[prost(int32, tag = "2")]
        pub key_type: i32,
        #[prost(int64, repeated, tag = "3")]
        pub keys: Vec<i64>,
        #[prost(string, repeated, tag = "4")]
        pub string_keys: Vec<String>,
        #[prost(message, optional, boxed, tag = "5")]
        pub values: Option<Box<Sequence>>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Optional {
        #[prost(string, tag = "1")]
        pub name: String,
        #[prost(int32, tag = "2")]
        pub elem_type: i32,
        #[prost(message, optional, tag = "3")]
        pub tensor: Option<TensorProto>,
        #[prost(message, optional, boxed, tag = "5")]
        pub sequence: Option<Box<Sequence>>,
        #[prost(message, optional, boxed, tag = "6")]
        pub map: Option<Box<Map>>,
        #[prost(message, optional, boxed, tag = "7")]
        pub optional: Option<Box<Optional>>,
    }
}

/// Inputs and outputs of a model with their types.
pub(crate) type Interface = (Vec<(String, Type)>, Vec<(String, Type)>);

/// What a model's graph takes and gives, of whatever type.
pub(crate) fn interface(onnx: &[u8]) -> Result<Interface, InferenceError> {
    let model = pb::Model::decode(onnx)
        .map_err(|e| InferenceError::malformed(format!("not a protobuf of ONNX: {e}")))?;
    let graph = model.graph.unwrap_or_default();
    let named = |values: Vec<pb::ValueInfo>, role: &str| {
        values
            .into_iter()
            .map(|value| {
                let declared = value.r#type.as_ref().and_then(|t| type_of(t, &value.name));
                let declared = declared.ok_or_else(|| {
                    InferenceError::unsupported(role, &value.name, "has a type of no known kind")
                })?;
                Ok((value.name, declared))
            })
            .collect::<Result<Vec<_>, InferenceError>>()
    };
    Ok((named(graph.input, "input")?, named(graph.output, "output")?))
}

fn type_of(declared: &pb::Type, name: &str) -> Option<Type> {
    let inner = |of: &pb::Elements| type_of(of.elem_type.as_ref()?, name).map(Box::new);
    if let Some(tensor) = &declared.tensor {
        let element = Element::from_onnx(tensor.elem_type)?;
        let shape = tensor.shape.as_ref().map(|s| crate::front::dimensions(s, name));
        return Some(Type::Tensor(element, shape));
    }
    if let Some(sequence) = &declared.sequence {
        return inner(sequence).map(Type::Sequence);
    }
    if let Some(optional) = &declared.optional {
        return inner(optional).map(Type::Optional);
    }
    let map = declared.map.as_ref()?;
    type_of(map.value_type.as_ref()?, name).map(|t| Type::Map(Box::new(t)))
}

/// Read a serialised value of the given type: a `TensorProto`,
/// `SequenceProto`, `MapProto` or `OptionalProto`.
///
/// # Errors
/// [`InferenceError::Malformed`], or [`InferenceError::Unsupported`] for an
/// element type that is not known and for data in another file.
pub fn value_from_onnx(bytes: &[u8], declared: &Type) -> Result<Value, InferenceError> {
    let decode = |e| InferenceError::malformed(format!("not a value of ONNX: {e}"));
    match declared {
        Type::Tensor(..) => TensorProto::decode(bytes).map_err(decode).and_then(tensor),
        Type::Sequence(_) => pb::Sequence::decode(bytes).map_err(decode).and_then(sequence),
        Type::Map(_) => pb::Map::decode(bytes).map_err(decode).and_then(map),
        Type::Optional(_) => pb::Optional::decode(bytes).map_err(decode).and_then(optional),
    }
}

fn tensor(mut proto: TensorProto) -> Result<Value, InferenceError> {
    normalise(&mut proto)?;
    array_from_proto(&proto).map(Value::Array)
}

fn sequence(proto: pb::Sequence) -> Result<Value, InferenceError> {
    let values = (proto.tensors.into_iter().map(tensor))
        .chain(proto.sequences.into_iter().map(sequence))
        .chain(proto.maps.into_iter().map(map))
        .chain(proto.optionals.into_iter().map(optional));
    values.collect::<Result<_, _>>().map(Value::Sequence)
}

fn map(proto: pb::Map) -> Result<Value, InferenceError> {
    let keys =
        (proto.keys.into_iter().map(Key::Int)).chain(proto.string_keys.into_iter().map(Key::Text));
    let Value::Sequence(values) = sequence(proto.values.map(|v| *v).unwrap_or_default())? else {
        return Err(InferenceError::malformed("a map without values"));
    };
    Ok(Value::Map(keys.zip(values).collect::<BTreeMap<_, _>>()))
}

fn optional(proto: pb::Optional) -> Result<Value, InferenceError> {
    let inner = match (proto.tensor, proto.sequence, proto.map, proto.optional) {
        (Some(inner), ..) => Some(tensor(inner)?),
        (_, Some(inner), ..) => Some(sequence(*inner)?),
        (_, _, Some(inner), _) => Some(map(*inner)?),
        (.., Some(inner)) => Some(optional(*inner)?),
        _ => None,
    };
    Ok(Value::Optional(inner.map(Box::new)))
}

/// The array of a tensor whose data [`normalise`] has brought to `raw_data`
/// where it is of the contract.
pub(crate) fn array_from_proto(proto: &TensorProto) -> Result<Array, InferenceError> {
    let Some(element) = Element::from_onnx(proto.data_type) else {
        let reason = format!("has element type number {}", proto.data_type);
        return Err(InferenceError::unsupported("tensor", &proto.name, reason));
    };
    let malformed = |e: OpError| InferenceError::malformed(format!("tensor {:?}: {e}", proto.name));
    let shape: Option<Vec<usize>> = proto.dims.iter().map(|&d| usize::try_from(d).ok()).collect();
    let shape = shape.ok_or_else(|| malformed(OpError::invalid("a negative size")))?;
    array_of(proto, element, &shape).map_err(malformed)
}

fn array_of(proto: &TensorProto, element: Element, shape: &[usize]) -> OpResult<Array> {
    let raw = &proto.raw_data;
    let lanes = match element {
        Element::Plain(dtype) => match dtype.size_bytes() {
            1 => Lanes::One(Arc::new(raw.clone())),
            2 => Lanes::Two(Arc::new(pod_collect_to_vec(raw))),
            4 => Lanes::Four(Arc::new(pod_collect_to_vec(raw))),
            _ => Lanes::Eight(Arc::new(pod_collect_to_vec(raw))),
        },
        Element::Text => {
            let text = |bytes: &Vec<u8>| String::from_utf8_lossy(bytes).into();
            Lanes::Text(Arc::new(proto.string_data.iter().map(text).collect()))
        }
        Element::Small(small) => {
            let packed: Vec<u8> = if raw.is_empty() {
                proto.int32_data.iter().map(|&v| v as u8).collect()
            } else {
                raw.clone()
            };
            let codes = if small.is_nibble() {
                let mut codes: Vec<u8> = packed.iter().flat_map(|b| [b & 0xf, b >> 4]).collect();
                // The last byte of an odd count holds one.
                codes.truncate(shape.iter().product());
                codes
            } else {
                packed
            };
            Lanes::One(Arc::new(codes))
        }
    };
    Array::from_lanes(element, shape, lanes)
}

/// A tensor of that name; `None` for numbers that share bytes in ONNX's storage.
pub(crate) fn proto_from_array(name: &str, array: &Array) -> Option<TensorProto> {
    let mut proto = TensorProto {
        name: name.to_owned(),
        data_type: array.element().to_onnx(),
        dims: array.shape().iter().map(|&d| i64::try_from(d).ok()).collect::<Option<_>>()?,
        ..TensorProto::default()
    };
    match (array.element(), array.lanes()) {
        (Element::Small(_), _) => return None,
        (_, Lanes::Text(texts)) => {
            proto.string_data = texts.iter().map(|t| t.as_bytes().to_vec()).collect();
        }
        (_, Lanes::One(lanes)) => proto.raw_data = lanes.to_vec(),
        (_, Lanes::Two(lanes)) => proto.raw_data = cast_slice(lanes).to_vec(),
        (_, Lanes::Four(lanes)) => proto.raw_data = cast_slice(lanes).to_vec(),
        (_, Lanes::Eight(lanes)) => proto.raw_data = cast_slice(lanes).to_vec(),
    }
    Some(proto)
}
