//! Works what follows a linear operator into its weights.

use std::collections::{HashMap, HashSet};

use bytemuck::cast_slice;
use tract_onnx::pb::{GraphProto, ModelProto, NodeProto, tensor_proto::DataType};

use super::{
    Note,
    channels::Channels,
    dead,
    facts::Facts,
    surgery::{Names, constant, constants, floats, is, read_counts},
};
use crate::front::nodes::{float, given, int};

/// Work `BatchNormalization` and arithmetic with constants into the `Conv`,
/// `ConvTranspose`, `Gemm` or two-dimensional `MatMul` before them, which
/// becomes `Gemm`.
///
/// What something else reads too stays: the linear operator's result, and its
/// weights.
pub(super) fn linear(proto: &mut ModelProto) -> Vec<Note> {
    if let Some(graph) = &mut proto.graph {
        Fuser::new(graph).run(graph);
        dead::constants(graph);
    }
    Vec::new()
}

struct Fuser {
    facts: Facts,
    names: Names,
    constants: HashMap<String, usize>,
    reads: HashMap<String, usize>,
    /// The nodes of the graph itself that read a value.
    readers: HashMap<String, Vec<usize>>,
}

/// `y * scale + shift`, one of each for each channel.
struct Affine {
    scale: Vec<f64>,
    shift: Vec<f64>,
}

impl Fuser {
    fn new(graph: &GraphProto) -> Self {
        let mut readers: HashMap<String, Vec<usize>> = HashMap::new();
        for (index, node) in graph.node.iter().enumerate() {
            for input in &node.input {
                readers.entry(input.clone()).or_default().push(index);
            }
        }
        Self {
            facts: Facts::of(graph),
            names: Names::of(graph),
            constants: constants(graph),
            reads: read_counts(graph),
            readers,
        }
    }

    fn run(&mut self, graph: &mut GraphProto) {
        let mut gone = HashSet::new();
        for index in 0..graph.node.len() {
            while let Some(next) = self.fuse(graph, index) {
                gone.insert(next);
            }
        }
        let mut index = 0;
        graph.node.retain(|_| {
            index += 1;
            !gone.contains(&(index - 1))
        });
    }

    /// Work the node after the one at `index` into it; gives that node's index.
    fn fuse(&mut self, graph: &mut GraphProto, index: usize) -> Option<usize> {
        let node = &graph.node[index];
        let weights = *self.constants.get(given(&node.input, 1)?)?;
        let dims = &graph.initializer[weights].dims;
        let channels = Channels::of(node, dims)?;
        let is_matmul = is(node, "MatMul");
        if is_matmul && (dims.len() != 2 || self.facts.rank(given(&node.input, 0)?) != Some(2)) {
            return None;
        }
        let output = given(&node.output, 0)?;
        if self.reads.get(output) != Some(&1) {
            return None;
        }
        let &[next] = self.readers.get(output)?.as_slice() else { return None };
        let rank = dims.len();
        let affine = self.affine(graph, &graph.node[next], output, channels.count, rank)?;
        let scales = affine.scale.iter().any(|&s| s != 1.0);
        if scales && self.reads.get(&graph.initializer[weights].name) != Some(&1) {
            return None;
        }
        let before = floats(&graph.initializer[weights])?;
        let mut bias = self.bias(graph, node, channels.count)?;
        for ((bias, scale), shift) in bias.iter_mut().zip(&affine.scale).zip(&affine.shift) {
            *bias = *bias * scale + shift;
        }
        let after: Vec<f32> = (before.iter().enumerate())
            .map(|(i, &w)| (f64::from(w) * affine.scale[channels.at(i)]) as f32)
            .collect();
        let bias: Vec<f32> = bias.into_iter().map(|b| b as f32).collect();
        if !after.iter().chain(&bias).all(|v| v.is_finite()) {
            return None;
        }
        if scales {
            graph.initializer[weights].raw_data = cast_slice(&after).to_vec();
        }
        let name = self.names.fresh(&format!("{output}::bias"));
        self.constants.insert(name.clone(), graph.initializer.len());
        self.reads.insert(name.clone(), 1);
        let dims = [bias.len() as i64];
        graph.initializer.push(constant(&name, DataType::Float, &dims, &bias));
        let output = graph.node[next].output[0].clone();
        let node = &mut graph.node[index];
        if is_matmul {
            "Gemm".clone_into(&mut node.op_type);
        }
        node.attribute.retain(|a| a.name != "beta");
        node.input.resize(2, String::new());
        node.input.push(name);
        node.output = vec![output];
        Some(next)
    }

    /// The bias that a node adds now, one for each channel; zeros where it adds
    /// none.
    fn bias(&self, graph: &GraphProto, node: &NodeProto, channels: usize) -> Option<Vec<f64>> {
        let Some(name) = given(&node.input, 2) else { return Some(vec![0.0; channels]) };
        let tensor = &graph.initializer[*self.constants.get(name)?];
        let beta = if is(node, "Gemm") { float(node, "beta").unwrap_or(1.0) } else { 1.0 };
        let bias = spread(&tensor.dims, &floats(tensor)?, 2, 1, channels)?;
        Some(bias.into_iter().map(|b| b * f64::from(beta)).collect())
    }

    /// What a node does to `y`, a value of that rank whose channels are along
    /// its second axis; `None` for what is not the same all over a channel.
    fn affine(
        &self,
        graph: &GraphProto,
        node: &NodeProto,
        y: &str,
        channels: usize,
        rank: usize,
    ) -> Option<Affine> {
        if node.output.iter().filter(|o| !o.is_empty()).count() != 1 || node.output[0].is_empty() {
            return None;
        }
        let at = |index: usize| {
            let tensor = &graph.initializer[*self.constants.get(given(&node.input, index)?)?];
            spread(&tensor.dims, &floats(tensor)?, rank, 1, channels)
        };
        let first = given(&node.input, 0) == Some(y);
        if is(node, "BatchNormalization") {
            if !first || int(node, "training_mode") == Some(1) || int(node, "spatial") == Some(0) {
                return None;
            }
            let parameter = |index: usize| {
                let tensor = &graph.initializer[*self.constants.get(given(&node.input, index)?)?];
                let values = floats(tensor).filter(|v| v.len() == channels)?;
                Some(values.into_iter().map(f64::from).collect::<Vec<f64>>())
            };
            let epsilon = f64::from(float(node, "epsilon").unwrap_or(1e-5));
            let (gamma, beta) = (parameter(1)?, parameter(2)?);
            let (mean, variance) = (parameter(3)?, parameter(4)?);
            let scale: Vec<f64> =
                gamma.iter().zip(&variance).map(|(g, v)| g / (v + epsilon).sqrt()).collect();
            let shift = (beta.iter().zip(&mean).zip(&scale)).map(|((b, m), s)| b - m * s).collect();
            return Some(Affine { scale, shift });
        }
        let operand = at(if first { 1 } else { 0 })?;
        let (ones, zeros) = (vec![1.0; channels], vec![0.0; channels]);
        let negative = |values: Vec<f64>| values.into_iter().map(|v| -v).collect::<Vec<f64>>();
        if is(node, "Add") {
            Some(Affine { scale: ones, shift: operand })
        } else if is(node, "Mul") {
            Some(Affine { scale: operand, shift: zeros })
        } else if is(node, "Sub") && first {
            Some(Affine { scale: ones, shift: negative(operand) })
        } else if is(node, "Sub") {
            Some(Affine { scale: negative(ones), shift: operand })
        } else if is(node, "Div") && first {
            let scale = operand.into_iter().map(f64::recip).collect();
            Some(Affine { scale, shift: zeros })
        } else {
            None
        }
    }
}

/// One value for each channel, from a constant that broadcasts against a tensor
/// of that rank and is the same all over each channel; `None` for any other.
pub(super) fn spread(
    dims: &[i64],
    values: &[f32],
    rank: usize,
    axis: usize,
    channels: usize,
) -> Option<Vec<f64>> {
    let lead = rank.checked_sub(dims.len())?;
    let alone = dims.iter().enumerate().all(|(i, &d)| d == 1 || i + lead == axis);
    if !alone {
        return None;
    }
    match values {
        [value] => Some(vec![f64::from(*value); channels]),
        _ if values.len() == channels => Some(values.iter().map(|&v| f64::from(v)).collect()),
        _ => None,
    }
}
