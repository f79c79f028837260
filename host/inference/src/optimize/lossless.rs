//! Refuses a model that the decoder would not give back whole.
//!
//! It skips types other than tensors, without a trace: a type that a model
//! leaves open looks the same. So this looks at the bytes.
//!
//! # Source
//! Field numbers from `onnx.proto3` of ONNX 1.19.

use prost::Message;

use crate::InferenceError;

#[derive(Clone, PartialEq, prost::Message)]
struct Model {
    #[prost(message, optional, tag = "7")]
    graph: Option<Graph>,
    #[prost(message, repeated, tag = "25")]
    functions: Vec<Function>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Function {
    #[prost(message, repeated, tag = "7")]
    node: Vec<Node>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Graph {
    #[prost(message, repeated, tag = "1")]
    node: Vec<Node>,
    #[prost(message, repeated, tag = "11")]
    input: Vec<ValueInfo>,
    #[prost(message, repeated, tag = "12")]
    output: Vec<ValueInfo>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Node {
    #[prost(string, tag = "4")]
    op_type: String,
    #[prost(message, repeated, tag = "5")]
    attribute: Vec<Attribute>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Attribute {
    #[prost(message, optional, tag = "6")]
    g: Option<Graph>,
    #[prost(message, repeated, tag = "11")]
    graphs: Vec<Graph>,
    #[prost(message, optional, tag = "14")]
    tp: Option<Type>,
    #[prost(message, repeated, tag = "15")]
    type_protos: Vec<Type>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ValueInfo {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    r#type: Option<Type>,
}

/// The kinds of type that the decoder skips.
#[derive(Clone, PartialEq, prost::Message)]
struct Type {
    #[prost(message, optional, tag = "4")]
    sequence: Option<Anything>,
    #[prost(message, optional, tag = "5")]
    map: Option<Anything>,
    #[prost(message, optional, tag = "7")]
    opaque: Option<Anything>,
    #[prost(message, optional, tag = "8")]
    sparse: Option<Anything>,
    #[prost(message, optional, tag = "9")]
    optional: Option<Anything>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Anything {}

/// Refuse a model with a type that would be lost.
pub(super) fn check(onnx: &[u8]) -> Result<(), InferenceError> {
    let model = Model::decode(onnx)
        .map_err(|e| InferenceError::malformed(format!("not a protobuf of ONNX: {e}")))?;
    model.functions.iter().try_for_each(|function| nodes(&function.node))?;
    model.graph.as_ref().map_or(Ok(()), graph)
}

fn graph(of: &Graph) -> Result<(), InferenceError> {
    for value in of.input.iter().chain(&of.output) {
        if value.r#type.as_ref().is_some_and(|t| *t != Type::default()) {
            let reason = "is no dense tensor, and would not be written back";
            return Err(InferenceError::unsupported("value", &value.name, reason));
        }
    }
    nodes(&of.node)
}

fn nodes(of: &[Node]) -> Result<(), InferenceError> {
    for node in of {
        for attribute in &node.attribute {
            if attribute.tp.is_some() || !attribute.type_protos.is_empty() {
                let reason = "has an attribute that is a type, which would not be written back";
                return Err(InferenceError::unsupported(&node.op_type, "", reason));
            }
            attribute.g.iter().chain(&attribute.graphs).try_for_each(graph)?;
        }
    }
    Ok(())
}
