//! Raises a model to a later operator set.
//!
//! # Source
//! The "Changelog" of each operator in
//! <https://github.com/onnx/onnx/blob/main/docs/Changelog.md>, versions 7 to 13.

use tract_onnx::pb::{
    AttributeProto, GraphProto, ModelProto, NodeProto, attribute_proto::AttributeType,
    tensor_proto::DataType,
};

use super::{
    facts::Facts,
    surgery::{bodies_mut, constant, is_onnx, set_int},
};
use crate::{
    InferenceError,
    front::{
        self,
        nodes::{Writer, float, given, int},
    },
};

/// The first version with a scale for each channel in `DequantizeLinear`.
pub(super) const TARGET: i64 = 13;
/// The first version of the file format that has [`TARGET`].
const IR_VERSION: i64 = 7;
/// The first version whose arithmetic broadcasts as it does today.
pub(super) const OLDEST: i64 = 7;

/// The version of ONNX's own operators that a model imports.
pub(super) fn version(proto: &ModelProto) -> i64 {
    let own = proto.opset_import.iter().find(|o| matches!(o.domain.as_str(), "" | "ai.onnx"));
    own.map_or(1, |o| o.version)
}

/// Refuse a model from before [`OLDEST`].
pub(super) fn check(proto: &ModelProto) -> Result<(), InferenceError> {
    match version(proto) {
        old if old < OLDEST => {
            let reason = format!("it is of version {old}, and {OLDEST} is the oldest that is read");
            Err(InferenceError::unsupported("operator set", "", reason))
        }
        _ => Ok(()),
    }
}

/// Raise a model to [`TARGET`], if it is older: every operator is written as
/// that version has it.
pub(super) fn raise(proto: &mut ModelProto) -> Result<(), InferenceError> {
    check(proto)?;
    let from = version(proto);
    if from >= TARGET {
        return Ok(());
    }
    if let Some(graph) = &mut proto.graph {
        raise_graph(graph, from)?;
    }
    for import in &mut proto.opset_import {
        if matches!(import.domain.as_str(), "" | "ai.onnx") {
            import.version = TARGET;
        }
    }
    proto.ir_version = proto.ir_version.max(IR_VERSION);
    Ok(())
}

fn raise_graph(graph: &mut GraphProto, from: i64) -> Result<(), InferenceError> {
    let facts = Facts::of(graph);
    let nodes = std::mem::take(&mut graph.node);
    for mut node in nodes {
        for body in bodies_mut(&mut node) {
            raise_graph(body, from)?;
        }
        if is_onnx(&node) {
            let mut writer = Writer::in_place_of(&node);
            raise_node(node, from, &facts, &mut writer)?;
            graph.node.extend(writer.finish());
        } else {
            graph.node.push(node);
        }
    }
    Ok(())
}

/// Write one node as [`TARGET`] has it.
fn raise_node(
    mut node: NodeProto,
    from: i64,
    facts: &Facts,
    writer: &mut Writer,
) -> Result<(), InferenceError> {
    match node.op_type.as_str() {
        "Softmax" | "LogSoftmax" | "Hardmax" => {
            let rank = given(&node.input, 0).and_then(|name| facts.rank(name));
            return coerced(node, rank, writer);
        }
        "Squeeze" | "Unsqueeze" | "ReduceSum" => ints_to_input(&mut node, "axes", 1, writer),
        "Split" => ints_to_input(&mut node, "split", 1, writer),
        "Clip" if from < 11 => {
            let (low, high) = (float(&node, "min"), float(&node, "max"));
            node.attribute.clear();
            for (index, bound) in [(1, low), (2, high)] {
                if let Some(bound) = bound {
                    let bound = writer.f32(bound);
                    set_input(&mut node, index, bound);
                }
            }
        }
        "Pad" if from < 11 => {
            let value = float(&node, "value").unwrap_or(0.0);
            node.attribute.retain(|a| a.name != "value");
            ints_to_input(&mut node, "pads", 1, writer);
            let value = writer.f32(value);
            set_input(&mut node, 2, value);
        }
        "Slice" if from < 10 => {
            ints_to_input(&mut node, "starts", 1, writer);
            ints_to_input(&mut node, "ends", 2, writer);
            ints_to_input(&mut node, "axes", 3, writer);
        }
        "TopK" if from < 10 => {
            let k = writer.i64s(&[1], &[int(&node, "k").unwrap_or(0)]);
            node.attribute.retain(|a| a.name != "k");
            set_input(&mut node, 1, k);
        }
        "Upsample" => {
            let scales = node.attribute.iter().position(|a| a.name == "scales");
            if let Some(scales) = scales {
                let scales = node.attribute.remove(scales).floats;
                let scales = floats(&scales, writer);
                set_input(&mut node, 1, scales);
            }
            as_resize(&mut node);
        }
        "Resize" if from < 11 => as_resize(&mut node),
        "Dropout" if from < 12 => node.attribute.retain(|a| a.name != "ratio"),
        "Scatter" => "ScatterElements".clone_into(&mut node.op_type),
        "BatchNormalization" if from < 9 => {
            if int(&node, "spatial") == Some(0) {
                return Err(cannot(&node, "it normalises each element by itself"));
            }
            node.attribute.retain(|a| a.name != "spatial");
        }
        "Scan" if from < 9 => return Err(cannot(&node, "its batch is an axis of its own")),
        "Cast" if from < 9 && node.attribute.iter().any(|a| !a.s.is_empty()) => {
            return Err(cannot(&node, "it names its type"));
        }
        _ => {}
    }
    writer.push(node);
    Ok(())
}

fn cannot(node: &NodeProto, reason: &str) -> InferenceError {
    let reason = format!("{reason}, which version {TARGET} of the operator set does not have");
    InferenceError::unsupported(&node.op_type, front::label(node), reason)
}

/// Up to version 12 everything from an axis on was one vector. Where that is not
/// the last axis alone, flatten, and bring the shape back.
fn coerced(
    mut node: NodeProto,
    rank: Option<usize>,
    writer: &mut Writer,
) -> Result<(), InferenceError> {
    let (Some(input), Some(output)) = (given(&node.input, 0), given(&node.output, 0)) else {
        return Err(cannot(&node, "it has no input or no output"));
    };
    let (input, output) = (input.to_owned(), output.to_owned());
    let axis = int(&node, "axis").unwrap_or(1);
    set_int(&mut node, "axis", -1);
    if axis == -1 || rank.is_some_and(|rank| axis + 1 == rank as i64) {
        writer.push(node);
        return Ok(());
    }
    let shape = writer.add("Shape", &[&input], &[]);
    let flat = writer.add("Flatten", &[&input], &[("axis", axis)]);
    let made = format!("{output}::flat");
    node.input = vec![flat];
    node.output = vec![made.clone()];
    writer.push(node);
    writer.add_as("Reshape", &[&made, &shape], &[], &output);
    Ok(())
}

/// Make an attribute of integers, where there is one, an input.
fn ints_to_input(node: &mut NodeProto, name: &str, index: usize, writer: &mut Writer) {
    if let Some(at) = node.attribute.iter().position(|a| a.name == name) {
        let ints = node.attribute.remove(at).ints;
        let input = writer.i64s(&[ints.len() as i64], &ints);
        set_input(node, index, input);
    }
}

fn set_input(node: &mut NodeProto, index: usize, name: String) {
    if node.input.len() <= index {
        node.input.resize(index + 1, String::new());
    }
    node.input[index] = name;
}

/// `Upsample`, and `Resize` before version 11, as `Resize` has it since.
fn as_resize(node: &mut NodeProto) {
    "Resize".clone_into(&mut node.op_type);
    let scales = given(&node.input, 1).unwrap_or_default().to_owned();
    node.input.truncate(1);
    node.input.extend([String::new(), scales]);
    for (name, value) in
        [("coordinate_transformation_mode", "asymmetric"), ("nearest_mode", "floor")]
    {
        node.attribute.push(AttributeProto {
            name: name.to_owned(),
            r#type: AttributeType::String as i32,
            s: value.as_bytes().to_vec(),
            ..AttributeProto::default()
        });
    }
}

/// A constant vector of f32.
fn floats(values: &[f32], writer: &mut Writer) -> String {
    let output = writer.add("Constant", &[], &[]);
    let tensor = constant("", DataType::Float, &[values.len() as i64], values);
    writer.give("value", tensor);
    output
}
