//! Reading and changing a graph of ONNX.

use std::collections::{HashMap, HashSet};

use bytemuck::{cast_slice, pod_collect_to_vec};
use tract_onnx::pb::{AttributeProto, GraphProto, NodeProto, TensorProto, tensor_proto::DataType};

/// The graphs within a node.
pub(super) fn bodies(node: &NodeProto) -> impl Iterator<Item = &GraphProto> {
    node.attribute.iter().flat_map(|a| a.g.iter().chain(&a.graphs))
}

/// The graphs within a node, to change.
pub(super) fn bodies_mut(node: &mut NodeProto) -> impl Iterator<Item = &mut GraphProto> {
    node.attribute.iter_mut().flat_map(|a: &mut AttributeProto| a.g.iter_mut().chain(&mut a.graphs))
}

/// Call `see` for every name that a graph reads, its outputs and the graphs
/// within it included. A name may be the graph's own or of a graph around it.
pub(super) fn each_read<'a>(graph: &'a GraphProto, see: &mut dyn FnMut(&'a str)) {
    for node in &graph.node {
        node_reads(node, see);
    }
    graph.output.iter().for_each(|output| see(&output.name));
}

/// As [`each_read`], for one node.
pub(super) fn node_reads<'a>(node: &'a NodeProto, see: &mut dyn FnMut(&'a str)) {
    node.input.iter().filter(|i| !i.is_empty()).for_each(|i| see(i));
    bodies(node).for_each(|body| each_read(body, see));
}

/// How often each value is read.
pub(super) fn read_counts(graph: &GraphProto) -> HashMap<String, usize> {
    let mut counts = HashMap::new();
    each_read(graph, &mut |name| *counts.entry(name.to_owned()).or_default() += 1);
    counts
}

/// Every name in a graph, for new ones to differ from.
pub(super) struct Names {
    taken: HashSet<String>,
    /// How often each name was wanted, so that none is counted up to twice.
    wanted: HashMap<String, u32>,
}

impl Names {
    pub(super) fn of(graph: &GraphProto) -> Self {
        fn add(graph: &GraphProto, names: &mut HashSet<String>) {
            let values = graph.input.iter().chain(&graph.output);
            names.extend(values.map(|v| v.name.clone()));
            names.extend(graph.initializer.iter().map(|t| t.name.clone()));
            for node in &graph.node {
                names.extend(node.input.iter().chain(&node.output).cloned());
                bodies(node).for_each(|body| add(body, names));
            }
        }
        let mut taken = HashSet::new();
        add(graph, &mut taken);
        Self { taken, wanted: HashMap::new() }
    }

    /// A name that nothing has, near the one that is wanted.
    pub(super) fn fresh(&mut self, wanted: &str) -> String {
        let times = self.wanted.entry(wanted.to_owned()).or_default();
        let mut name = wanted.to_owned();
        loop {
            *times += 1;
            if *times > 1 {
                name = format!("{wanted}.{times}");
            }
            if self.taken.insert(name.clone()) {
                return name;
            }
        }
    }
}

/// Where each constant of a graph is, by name.
pub(super) fn constants(graph: &GraphProto) -> HashMap<String, usize> {
    graph.initializer.iter().enumerate().map(|(i, t)| (t.name.clone(), i)).collect()
}

/// The elements of an f32 tensor whose data is in `raw_data`.
pub(super) fn floats(tensor: &TensorProto) -> Option<Vec<f32>> {
    (tensor.data_type == DataType::Float as i32).then(|| pod_collect_to_vec(&tensor.raw_data))
}

/// A tensor of plain elements.
pub(super) fn constant<T: bytemuck::NoUninit>(
    name: &str,
    data_type: DataType,
    dims: &[i64],
    elements: &[T],
) -> TensorProto {
    TensorProto {
        name: name.to_owned(),
        data_type: data_type as i32,
        dims: dims.to_vec(),
        raw_data: cast_slice(elements).to_vec(),
        ..TensorProto::default()
    }
}

/// A node of ONNX's own domain. It has no name, as names of nodes must differ
/// and a name of a value may be another node's.
pub(super) fn node(op: &str, inputs: &[&str], output: &str) -> NodeProto {
    NodeProto {
        op_type: op.to_owned(),
        input: inputs.iter().map(|i| (*i).to_owned()).collect(),
        output: vec![output.to_owned()],
        ..NodeProto::default()
    }
}

/// Whether a node is of ONNX's own domain and that operator.
pub(super) fn is(node: &NodeProto, op: &str) -> bool {
    is_onnx(node) && node.op_type == op
}

/// Whether a node is of ONNX's own domain.
pub(super) fn is_onnx(node: &NodeProto) -> bool {
    matches!(node.domain.as_str(), "" | "ai.onnx")
}

/// Set an integer attribute.
pub(super) fn set_int(node: &mut NodeProto, name: &str, i: i64) {
    node.attribute.retain(|a| a.name != name);
    node.attribute.push(AttributeProto {
        name: name.to_owned(),
        r#type: tract_onnx::pb::attribute_proto::AttributeType::Int as i32,
        i,
        ..AttributeProto::default()
    });
}
