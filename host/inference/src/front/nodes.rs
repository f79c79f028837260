//! Writing nodes, for rewrites.

use tract_onnx::pb::{
    AttributeProto, GraphProto, NodeProto, TensorProto, attribute_proto::AttributeType,
    tensor_proto::DataType,
};

/// Apply `rewrite` to every node of a graph and of the graphs within it. A
/// rewrite gives the nodes that take a node's place, or `None` to keep it.
pub(super) fn replace(
    graph: &mut GraphProto,
    rewrite: &dyn Fn(&NodeProto) -> Option<Vec<NodeProto>>,
) {
    for mut node in std::mem::take(&mut graph.node) {
        for attribute in &mut node.attribute {
            for nested in attribute.g.iter_mut().chain(&mut attribute.graphs) {
                replace(nested, rewrite);
            }
        }
        match rewrite(&node) {
            Some(nodes) => graph.node.extend(nodes),
            None => graph.node.push(node),
        }
    }
}

/// An attribute that holds a tensor.
pub(crate) fn tensor(name: &str, value: TensorProto) -> AttributeProto {
    AttributeProto {
        name: name.to_owned(),
        r#type: AttributeType::Tensor as i32,
        t: Some(value),
        ..AttributeProto::default()
    }
}

/// An integer attribute, if the node has it.
pub(crate) fn int(node: &NodeProto, name: &str) -> Option<i64> {
    node.attribute.iter().find(|a| a.name == name).map(|a| a.i)
}

/// A float attribute, if the node has it.
pub(crate) fn float(node: &NodeProto, name: &str) -> Option<f32> {
    node.attribute.iter().find(|a| a.name == name).map(|a| a.f)
}

/// A string attribute, if the node has it.
pub(crate) fn string<'a>(node: &'a NodeProto, name: &str) -> Option<&'a [u8]> {
    node.attribute.iter().find(|a| a.name == name).map(|a| a.s.as_slice())
}

/// An optional input or output: given, and not left out with an empty name.
pub(crate) fn given(names: &[String], index: usize) -> Option<&str> {
    names.get(index).map(String::as_str).filter(|name| !name.is_empty())
}

/// Writes the nodes that take the place of one. Values in between are called
/// after the node's first output, which no other node shares.
pub(crate) struct Writer {
    prefix: String,
    nodes: Vec<NodeProto>,
}

impl Writer {
    pub(crate) fn in_place_of(node: &NodeProto) -> Self {
        let output = node.output.iter().find(|o| !o.is_empty());
        Self { prefix: output.cloned().unwrap_or_default(), nodes: Vec::new() }
    }

    /// Add a node under a name of its own; gives the name of its output.
    pub(crate) fn add(&mut self, op: &str, inputs: &[&str], attributes: &[(&str, i64)]) -> String {
        let output = format!("{}::{}", self.prefix, self.nodes.len());
        self.add_as(op, inputs, attributes, &output);
        output
    }

    /// Add a node whose output is named `output`.
    pub(crate) fn add_as(
        &mut self,
        op: &str,
        inputs: &[&str],
        attributes: &[(&str, i64)],
        output: &str,
    ) {
        let attribute = |(name, i): &(&str, i64)| AttributeProto {
            name: (*name).to_owned(),
            r#type: AttributeType::Int as i32,
            i: *i,
            ..AttributeProto::default()
        };
        self.nodes.push(NodeProto {
            op_type: op.to_owned(),
            input: inputs.iter().map(|i| (*i).to_owned()).collect(),
            output: vec![output.to_owned()],
            attribute: attributes.iter().map(attribute).collect(),
            ..NodeProto::default()
        });
    }

    /// Add an i64 constant; no dimensions make a scalar.
    pub(crate) fn i64s(&mut self, dims: &[i64], values: &[i64]) -> String {
        self.constant(DataType::Int64, dims, bytemuck::cast_slice(values))
    }

    /// Add an f32 scalar.
    pub(crate) fn f32(&mut self, value: f32) -> String {
        self.constant(DataType::Float, &[], &value.to_le_bytes())
    }

    fn constant(&mut self, data_type: DataType, dims: &[i64], raw: &[u8]) -> String {
        let output = self.add("Constant", &[], &[]);
        let data_type = data_type as i32;
        let (dims, raw_data) = (dims.to_vec(), raw.to_vec());
        self.give("value", TensorProto { dims, data_type, raw_data, ..TensorProto::default() });
        output
    }

    /// Give the node added last an attribute that holds a tensor.
    pub(crate) fn give(&mut self, name: &str, value: TensorProto) {
        if let Some(node) = self.nodes.last_mut() {
            node.attribute.push(tensor(name, value));
        }
    }

    /// Add a node as it is.
    pub(crate) fn push(&mut self, node: NodeProto) {
        self.nodes.push(node);
    }

    pub(crate) fn finish(self) -> Vec<NodeProto> {
        self.nodes
    }
}
