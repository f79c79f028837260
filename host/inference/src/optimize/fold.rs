//! Computes what depends on constants alone.

use tract_onnx::pb::{GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto};

use super::{
    Note, dead,
    surgery::{self, bodies, is},
};
use crate::{
    LoadLimits,
    front::nodes::given,
    interpreter::{evaluate, is_random},
    value::proto_from_array,
};

/// How much larger than what it is made from a result may be: a graph may make
/// gigabytes of a few bytes, and should do so in memory.
const GROWTH_BYTES: usize = 64 << 10;

/// Replace nodes that read only constants by what they give. A node that fails
/// is left for the run to fail on.
///
/// `DequantizeLinear` is left, as it holds weights in a quarter of the bytes;
/// so are nodes with graphs within them.
pub(super) fn constants(proto: &mut ModelProto, limits: &LoadLimits) -> Vec<Note> {
    let Some(mut graph) = proto.graph.take() else { return Vec::new() };
    let mut notes = Vec::new();
    let mut known = surgery::constants(&graph);
    for node in std::mem::take(&mut graph.node) {
        let inputs: Option<Vec<&TensorProto>> = (node.input.iter().filter(|i| !i.is_empty()))
            .map(|i| known.get(i).map(|&index| &graph.initializer[index]))
            .collect();
        let folded = inputs.map_or(Folded::No, |inputs| made(proto, &node, &inputs, limits));
        match folded {
            Folded::Made(tensors) => {
                for tensor in tensors {
                    known.insert(tensor.name.clone(), graph.initializer.len());
                    graph.initializer.push(tensor);
                }
            }
            Folded::TooLarge(bytes) => {
                notes.push(Note::new(&node, format!("would be {bytes} bytes in the file")));
                graph.node.push(node);
            }
            Folded::No => graph.node.push(node),
        }
    }
    dead::constants(&mut graph);
    proto.graph = Some(graph);
    notes
}

enum Folded {
    Made(Vec<TensorProto>),
    TooLarge(usize),
    No,
}

/// What a node gives that reads these constants.
fn made(
    proto: &ModelProto,
    node: &NodeProto,
    inputs: &[&TensorProto],
    limits: &LoadLimits,
) -> Folded {
    if is_random(&node.op_type) || is(node, "DequantizeLinear") || bodies(node).next().is_some() {
        return Folded::No;
    }
    let outputs: Vec<&str> =
        (0..node.output.len()).filter_map(|i| given(&node.output, i)).collect();
    let mut initializer: Vec<TensorProto> = Vec::new();
    for tensor in inputs {
        if initializer.iter().all(|t| t.name != tensor.name) {
            initializer.push((*tensor).clone());
        }
    }
    let read: usize = initializer.iter().map(|t| t.raw_data.len()).sum();
    let alone = GraphProto {
        node: vec![node.clone()],
        initializer,
        output: outputs
            .iter()
            .map(|&name| ValueInfoProto { name: name.to_owned(), ..ValueInfoProto::default() })
            .collect(),
        ..GraphProto::default()
    };
    let alone = ModelProto {
        ir_version: proto.ir_version,
        opset_import: proto.opset_import.clone(),
        graph: Some(alone),
        ..ModelProto::default()
    };
    let Ok(values) = evaluate(&alone, limits) else { return Folded::No };
    let tensors: Option<Vec<TensorProto>> = values
        .iter()
        .zip(&outputs)
        .map(|(value, name)| proto_from_array(name, value.array().ok()?))
        .collect();
    let Some(tensors) = tensors else { return Folded::No };
    let bytes: usize = tensors.iter().map(|t| t.raw_data.len()).sum();
    // A constant's own bytes are in the file already.
    if bytes > read + GROWTH_BYTES && !is(node, "Constant") {
        return Folded::TooLarge(bytes);
    }
    Folded::Made(tensors)
}
