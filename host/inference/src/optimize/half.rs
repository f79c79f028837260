//! Stores weights and computes in float16.
//!
//! `Conv`, `ConvTranspose`, `Gemm` and `MatMul` go to float16, and what follows
//! them stays there as long as it only moves numbers or keeps their size. What
//! sums, divides or raises to a power, and what is not known to keep its answer,
//! stays in f32, with a `Cast` on each side.

use std::collections::{HashMap, HashSet};

use half::f16;
use tract_onnx::pb::{GraphProto, ModelProto, NodeProto, TensorProto, tensor_proto::DataType};

use super::{
    Note, dead,
    facts::Facts,
    opset,
    surgery::{self, Names, bodies, constant, floats, is_onnx, node_reads, set_int},
};
use crate::{InferenceError, front::nodes::given};

/// How an operator takes float16.
enum Role {
    /// It holds the weights and does the work.
    Linear,
    /// It stays in float16 after another.
    Follows,
    /// It needs the range of f32.
    Wide,
    /// It is not known to keep its answer.
    Unknown,
}

fn role(node: &NodeProto) -> Role {
    if !is_onnx(node) || bodies(node).next().is_some() {
        return Role::Unknown;
    }
    match node.op_type.as_str() {
        "Conv" | "ConvTranspose" | "Gemm" | "MatMul" => Role::Linear,
        "Relu" | "LeakyRelu" | "PRelu" | "Clip" | "Sigmoid" | "HardSigmoid" | "HardSwish"
        | "Tanh" | "Elu" | "Add" | "Sub" | "Mul" | "Max" | "Min" | "MaxPool" | "GlobalMaxPool"
        | "Reshape" | "Transpose" | "Concat" | "Flatten" | "Squeeze" | "Unsqueeze" | "Slice"
        | "Split" | "Gather" | "Expand" | "Tile" | "Pad" | "Identity" | "DepthToSpace"
        | "SpaceToDepth" | "Where" => Role::Follows,
        "Softmax"
        | "LogSoftmax"
        | "Exp"
        | "Log"
        | "Pow"
        | "Sqrt"
        | "Div"
        | "Reciprocal"
        | "Softplus"
        | "Erf"
        | "AveragePool"
        | "GlobalAveragePool"
        | "LpPool"
        | "CumSum"
        | "BatchNormalization"
        | "InstanceNormalization"
        | "LayerNormalization"
        | "GroupNormalization"
        | "LpNormalization"
        | "LRN"
        | "Mean"
        | "Sum" => Role::Wide,
        op if op.starts_with("Reduce") => Role::Wide,
        _ => Role::Unknown,
    }
}

/// The inputs of a node of [`Role::Linear`] or [`Role::Follows`] that are of the
/// element type of its result.
fn floats_at(node: &NodeProto) -> Vec<usize> {
    let positions: &[usize] = match node.op_type.as_str() {
        "Reshape" | "Squeeze" | "Unsqueeze" | "Slice" | "Split" | "Gather" | "Expand" | "Tile" => {
            &[0]
        }
        "Pad" => &[0, 2],
        "Where" => &[1, 2],
        _ => return (0..node.input.len()).filter(|&i| !node.input[i].is_empty()).collect(),
    };
    positions.iter().copied().filter(|&i| given(&node.input, i).is_some()).collect()
}

/// The outputs of a node of [`Role::Linear`] or [`Role::Follows`] that are of
/// that element type.
fn floats_from(node: &NodeProto) -> usize {
    if node.op_type == "Split" { node.output.len() } else { node.output.len().min(1) }
}

/// Convert a model, inputs and outputs left as they are.
pub(super) fn convert(proto: &mut ModelProto) -> Result<Vec<Note>, InferenceError> {
    opset::check(proto)?;
    let Some(graph) = &mut proto.graph else { return Ok(Vec::new()) };
    let (chosen, notes) = choose(graph);
    write(graph, &chosen);
    dead::constants(graph);
    Ok(notes)
}

enum Choice {
    Convert,
    /// For a reason to tell.
    Refuse(String),
    /// It has nothing to do with float16.
    Leave,
}

/// Which nodes compute in float16, and why the others do not.
fn choose(graph: &GraphProto) -> (Vec<bool>, Vec<Note>) {
    let facts = Facts::of(graph);
    let constants = surgery::constants(graph);
    let mut narrow: HashSet<&str> = HashSet::new();
    let mut too_large: HashMap<&str, Option<f32>> = HashMap::new();
    let mut notes = Vec::new();
    let mut chosen = Vec::with_capacity(graph.node.len());
    for node in &graph.node {
        let of_f32 = node.input.iter().any(|name| facts.is_f32(name));
        let choice = match role(node) {
            _ if !of_f32 => Choice::Leave,
            Role::Wide => Choice::Refuse("needs the range of f32".to_owned()),
            Role::Unknown => Choice::Refuse("not known to keep its answer in float16".to_owned()),
            role => {
                let inputs = floats_at(node);
                let mut inputs = inputs.iter().map(|&i| node.input[i].as_str());
                let known = inputs.clone().all(|name| facts.is_f32(name));
                let after = inputs.clone().any(|name| narrow.contains(name));
                let over = inputs.find_map(|name| {
                    let &index = constants.get(name)?;
                    let tensor = &graph.initializer[index];
                    let over = *too_large.entry(name).or_insert_with(|| largest_over(tensor));
                    over.map(|value| (name, value))
                });
                match (over, role) {
                    // Nothing before it is in float16.
                    (_, Role::Follows) if !after => Choice::Leave,
                    (Some((name, value)), _) => Choice::Refuse(format!(
                        "{name:?} holds {value:e}, and float16 ends at {}",
                        f16::MAX.to_f32()
                    )),
                    (None, _) if !known => {
                        Choice::Refuse("reads what is not known to be f32".to_owned())
                    }
                    (None, _) => Choice::Convert,
                }
            }
        };
        chosen.push(matches!(choice, Choice::Convert));
        match choice {
            Choice::Convert => {
                narrow.extend(node.output.iter().take(floats_from(node)).map(String::as_str));
            }
            Choice::Refuse(reason) => notes.push(Note::new(node, reason)),
            Choice::Leave => {}
        }
    }
    (chosen, notes)
}

/// A finite value that float16 would make infinite.
fn largest_over(tensor: &TensorProto) -> Option<f32> {
    let values = floats(tensor)?;
    let over = |v: &f32| v.is_finite() && f16::from_f32(*v).is_infinite();
    values.into_iter().filter(over).max_by(|a, b| a.abs().total_cmp(&b.abs()))
}

/// Make the chosen nodes compute in float16. A value that is needed in both
/// element types has two names, and a `Cast` between them.
fn write(graph: &mut GraphProto, chosen: &[bool]) {
    let mut names = Names::of(graph);
    let constants = surgery::constants(graph);
    let mut needed_wide: HashSet<String> = graph.output.iter().map(|o| o.name.clone()).collect();
    for (node, chosen) in graph.node.iter().zip(chosen) {
        let floats = if *chosen { floats_at(node) } else { Vec::new() };
        let mut see = |name: &str| {
            needed_wide.insert(name.to_owned());
        };
        if floats.is_empty() {
            node_reads(node, &mut see);
        } else {
            let others = node.input.iter().enumerate().filter(|(i, _)| !floats.contains(i));
            others.for_each(|(_, name)| see(name));
        }
    }
    // The name in float16 of what has one.
    let mut narrow: HashMap<String, String> = HashMap::new();
    let nodes = std::mem::take(&mut graph.node);
    for (mut node, chosen) in nodes.into_iter().zip(chosen) {
        if !chosen {
            graph.node.push(node);
            continue;
        }
        for index in floats_at(&node) {
            let name = node.input[index].clone();
            if !narrow.contains_key(&name) {
                let half = names.fresh(&format!("{name}::f16"));
                match constants.get(&name) {
                    Some(&constant) => {
                        let tensor = narrowed(&graph.initializer[constant], &half);
                        graph.initializer.extend(tensor);
                    }
                    None => graph.node.push(cast(&name, &half, DataType::Float16)),
                }
                narrow.insert(name.clone(), half);
            }
            node.input[index].clone_from(&narrow[&name]);
        }
        let mut widened = Vec::new();
        let outputs = floats_from(&node);
        for output in node.output.iter_mut().take(outputs) {
            if output.is_empty() {
                continue;
            }
            let half = names.fresh(&format!("{output}::f16"));
            if needed_wide.contains(output) {
                widened.push(cast(&half, output, DataType::Float));
            }
            narrow.insert(output.clone(), half.clone());
            *output = half;
        }
        graph.node.push(node);
        graph.node.extend(widened);
    }
}

fn narrowed(tensor: &TensorProto, name: &str) -> Option<TensorProto> {
    let values: Vec<f16> = floats(tensor)?.into_iter().map(f16::from_f32).collect();
    Some(constant(name, DataType::Float16, &tensor.dims, &values))
}

fn cast(from: &str, to: &str, element: DataType) -> NodeProto {
    let mut node = surgery::node("Cast", &[from], to);
    set_int(&mut node, "to", element as i64);
    node
}
