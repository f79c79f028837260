//! A graph in the form that the interpreter walks: names resolved to slots,
//! constants decoded, attributes typed.

use std::collections::{BTreeMap, HashMap};

use tract_onnx::pb::{AttributeProto, GraphProto, ModelProto, NodeProto};

use crate::{
    InferenceError,
    front::label,
    value::{Array, array_from_proto},
};

/// Where a value of one graph is kept while the graph runs.
pub(crate) type Slot = usize;

/// A graph, or the body of a control-flow node.
#[derive(Debug)]
pub(crate) struct Graph {
    /// In an order in which they can run.
    pub nodes: Vec<Node>,
    /// What is fed, in the model's order, constants with the name of an input
    /// left out.
    pub inputs: Vec<Slot>,
    /// What comes out.
    pub outputs: Vec<Slot>,
    /// What is known beforehand.
    pub constants: Vec<(Slot, Array)>,
    /// Values of the graph around this one: their slot there, and here.
    pub captures: Vec<(Slot, Slot)>,
    /// How many slots there are.
    pub slots: usize,
}

/// One operation.
#[derive(Debug)]
pub(crate) struct Node {
    /// The operator.
    pub op: String,
    /// Its domain; empty for ONNX's own.
    pub domain: String,
    /// The version of the domain's operator set that the model imports.
    pub opset: i64,
    /// The node's name, or that of its first output.
    pub label: String,
    /// What it reads; `None` for what is left out.
    pub inputs: Vec<Option<Slot>>,
    /// What it gives; `None` for what nobody wants.
    pub outputs: Vec<Option<Slot>>,
    /// Its attributes.
    pub attributes: BTreeMap<String, Attribute>,
    /// Slots that nothing reads after this node, in order.
    pub last_uses: Vec<Slot>,
}

/// The value of an attribute.
#[derive(Debug)]
pub(crate) enum Attribute {
    Int(i64),
    Float(f32),
    Text(Vec<u8>),
    Array(Array),
    Graph(Graph),
    Ints(Vec<i64>),
    Floats(Vec<f32>),
    Texts(Vec<Vec<u8>>),
    /// One that no operator here reads.
    Other,
}

impl Graph {
    /// The graph of a checked and rewritten model.
    pub(crate) fn new(proto: &ModelProto) -> Result<Self, InferenceError> {
        let opsets = proto.opset_import.iter().map(|o| {
            let domain = if o.domain == "ai.onnx" { "" } else { o.domain.as_str() };
            (domain.to_owned(), o.version)
        });
        let mut builder = Builder { opsets: opsets.collect(), scopes: Vec::new() };
        match &proto.graph {
            Some(graph) => builder.graph(graph),
            None => Err(InferenceError::malformed("the model has no graph")),
        }
    }
}

#[derive(Default)]
struct Scope {
    names: HashMap<String, Slot>,
    captures: Vec<(Slot, Slot)>,
    slots: usize,
}

impl Scope {
    fn define(&mut self, name: &str) -> Slot {
        let slot = self.slots;
        self.slots += 1;
        self.names.insert(name.to_owned(), slot);
        slot
    }
}

struct Builder {
    opsets: HashMap<String, i64>,
    /// The graph being built, last, and those around it.
    scopes: Vec<Scope>,
}

impl Builder {
    fn graph(&mut self, proto: &GraphProto) -> Result<Graph, InferenceError> {
        let mut scope = Scope::default();
        let mut constants = Vec::new();
        for tensor in &proto.initializer {
            constants.push((scope.define(&tensor.name), array_from_proto(tensor)?));
        }
        let mut inputs = Vec::new();
        for input in &proto.input {
            if !scope.names.contains_key(&input.name) {
                inputs.push(scope.define(&input.name));
            }
        }
        self.scopes.push(scope);
        let mut nodes = proto.node.iter().map(|n| self.node(n)).collect::<Result<Vec<_>, _>>()?;
        let level = self.scopes.len() - 1;
        let outputs = proto
            .output
            .iter()
            .map(|output| self.resolve(level, &output.name))
            .collect::<Result<Vec<_>, _>>()?;
        let scope = self.scopes.pop().unwrap_or_default();
        mark_last_uses(&mut nodes, &outputs);
        let Scope { captures, slots, .. } = scope;
        Ok(Graph { nodes, inputs, outputs, constants, captures, slots })
    }

    fn node(&mut self, proto: &NodeProto) -> Result<Node, InferenceError> {
        let level = self.scopes.len() - 1;
        let inputs = proto
            .input
            .iter()
            .map(
                |name| {
                    if name.is_empty() { Ok(None) } else { self.resolve(level, name).map(Some) }
                },
            )
            .collect::<Result<_, _>>()?;
        let attributes = proto
            .attribute
            .iter()
            .map(|a| Ok((a.name.clone(), self.attribute(a)?)))
            .collect::<Result<_, InferenceError>>()?;
        let scope = &mut self.scopes[level];
        let outputs = proto
            .output
            .iter()
            .map(|name| if name.is_empty() { None } else { Some(scope.define(name)) })
            .collect();
        let domain = if proto.domain == "ai.onnx" { "" } else { proto.domain.as_str() };
        Ok(Node {
            op: proto.op_type.clone(),
            domain: domain.to_owned(),
            opset: self.opsets.get(domain).copied().unwrap_or(1),
            label: label(proto),
            inputs,
            outputs,
            attributes,
            last_uses: Vec::new(),
        })
    }

    /// The slot of a name in the graph at `level`, captured from the graphs
    /// around it where it is theirs.
    fn resolve(&mut self, level: usize, name: &str) -> Result<Slot, InferenceError> {
        if let Some(&slot) = self.scopes[level].names.get(name) {
            return Ok(slot);
        }
        if level == 0 {
            return Err(InferenceError::malformed(format!("nothing gives {name:?}")));
        }
        let outer = self.resolve(level - 1, name)?;
        let scope = &mut self.scopes[level];
        let inner = scope.define(name);
        scope.captures.push((outer, inner));
        Ok(inner)
    }

    fn attribute(&mut self, proto: &AttributeProto) -> Result<Attribute, InferenceError> {
        // The numbers of `AttributeProto.AttributeType`; files older than it
        // leave the type out.
        Ok(match proto.r#type {
            1 => Attribute::Float(proto.f),
            2 => Attribute::Int(proto.i),
            3 => Attribute::Text(proto.s.clone()),
            6 => Attribute::Floats(proto.floats.clone()),
            7 => Attribute::Ints(proto.ints.clone()),
            8 => Attribute::Texts(proto.strings.clone()),
            _ => match (&proto.t, &proto.g) {
                (Some(tensor), _) => Attribute::Array(array_from_proto(tensor)?),
                (_, Some(graph)) => Attribute::Graph(self.graph(graph)?),
                _ => Attribute::Other,
            },
        })
    }
}

impl Node {
    /// The slots that the node reads, those that its bodies capture included.
    pub(crate) fn reads(&self) -> impl Iterator<Item = Slot> + '_ {
        let bodies = self.attributes.values().filter_map(|attribute| match attribute {
            Attribute::Graph(graph) => Some(graph),
            _ => None,
        });
        let captured = bodies.flat_map(|graph| graph.captures.iter().map(|(outer, _)| *outer));
        self.inputs.iter().flatten().copied().chain(captured)
    }
}

/// Find for each node the slots that it is the last to read.
fn mark_last_uses(nodes: &mut [Node], outputs: &[Slot]) {
    let mut seen: std::collections::HashSet<Slot> = outputs.iter().copied().collect();
    for node in nodes.iter_mut().rev() {
        let reads: Vec<Slot> = node.reads().collect();
        // What nobody reads at all goes at once.
        let made = node.outputs.iter().flatten().copied();
        node.last_uses = reads.into_iter().chain(made).filter(|slot| seen.insert(*slot)).collect();
        node.last_uses.sort_unstable();
    }
}
