//! Inline model-local functions.
//!
//! # Source
//! <https://onnx.ai/onnx/repo-docs/IR.html#functions>.

use std::{cell::Cell, collections::HashMap};

use prost::Message;
use tract_onnx::pb::{AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto};

use super::wire;
use crate::{InferenceError, LoadLimits};

/// Functions call functions at most this deep.
const MAX_CALL_DEPTH: usize = 64;

/// Put a function's body in the place of every node that calls it.
///
/// Functions may call functions; a function that comes to call itself is
/// refused. What the bodies add is counted against the limits before each is
/// copied, as functions that call each other twice double at every level, and
/// so is what a call adds to its body: arguments and the names around it.
pub(super) fn inline(proto: &mut ModelProto, limits: &LoadLimits) -> Result<(), InferenceError> {
    if proto.functions.is_empty() {
        return Ok(());
    }
    let protos = std::mem::take(&mut proto.functions);
    let mut functions = HashMap::new();
    for function in &protos {
        let key = (function.domain(), function.name());
        functions.entry(key).or_insert_with(|| Function::new(function));
    }
    let spent = Spent { limits, messages: Cell::new(0), bytes: Cell::new(0) };
    let mut inliner = Inliner { functions: &functions, spent, calls: 0, nodes: 0 };
    if let Some(graph) = &mut proto.graph {
        inliner.graph(graph, &mut Vec::new(), 0)?;
    }
    Ok(())
}

/// A function, and what a copy of its body takes.
struct Function<'a> {
    proto: &'a FunctionProto,
    /// Nodes, those of nested graphs included.
    nodes: u64,
    messages: u64,
    bytes: u64,
}

impl<'a> Function<'a> {
    fn new(proto: &'a FunctionProto) -> Self {
        fn nodes(of: &[NodeProto]) -> u64 {
            let nested = of.iter().flat_map(|node| &node.attribute);
            let nested = nested.flat_map(|a| a.g.iter().chain(&a.graphs));
            of.len() as u64 + nested.map(|graph| nodes(&graph.node)).sum::<u64>()
        }
        let encoded = proto.encode_to_vec();
        let (messages, bytes) = (wire::messages_of_function(&encoded), encoded.len() as u64);
        Self { proto, nodes: nodes(&proto.node), messages, bytes }
    }
}

/// What all copies together have taken.
struct Spent<'a> {
    limits: &'a LoadLimits,
    messages: Cell<u64>,
    bytes: Cell<u64>,
}

impl Spent<'_> {
    fn add(&self, messages: u64, bytes: u64) -> Result<(), InferenceError> {
        let (max_messages, max_bytes) = (self.limits.max_messages, self.limits.max_model_bytes);
        for (spent, more, what, allowed) in [
            (&self.messages, messages, "max_messages: functions", max_messages),
            (&self.bytes, bytes, "max_model_bytes: functions", max_bytes),
        ] {
            spent.set(spent.get().saturating_add(more));
            if spent.get() > allowed {
                return Err(InferenceError::over(what, spent.get(), allowed));
            }
        }
        Ok(())
    }
}

struct Inliner<'a> {
    /// By domain and name.
    functions: &'a HashMap<(&'a str, &'a str), Function<'a>>,
    spent: Spent<'a>,
    /// Calls so far; makes the names of each body its own.
    calls: u64,
    /// Nodes of all bodies copied so far.
    nodes: u64,
}

impl<'a> Inliner<'a> {
    /// Inline the calls in a graph. `open` are the functions whose bodies are
    /// being inlined around it, `depth` the graphs that it is in.
    fn graph(
        &mut self,
        graph: &mut GraphProto,
        open: &mut Vec<&'a FunctionProto>,
        depth: u64,
    ) -> Result<(), InferenceError> {
        let allowed = self.spent.limits.max_graph_depth;
        if depth > allowed {
            return Err(InferenceError::over("max_graph_depth", depth, allowed));
        }
        let nodes = std::mem::take(&mut graph.node);
        self.nodes(nodes, &mut graph.node, open, depth)
    }

    fn nodes(
        &mut self,
        nodes: Vec<NodeProto>,
        into: &mut Vec<NodeProto>,
        open: &mut Vec<&'a FunctionProto>,
        depth: u64,
    ) -> Result<(), InferenceError> {
        for mut node in nodes {
            for attribute in &mut node.attribute {
                for nested in attribute.g.iter_mut().chain(&mut attribute.graphs) {
                    self.graph(nested, open, depth + 1)?;
                }
            }
            let functions = self.functions;
            let Some(callee) = functions.get(&(node.domain.as_str(), node.op_type.as_str())) else {
                into.push(node);
                continue;
            };
            let name = callee.proto.name();
            if open.iter().any(|f| std::ptr::eq(*f, callee.proto)) {
                return Err(InferenceError::malformed(format!("function {name:?} calls itself")));
            }
            if open.len() >= MAX_CALL_DEPTH {
                let what = format!("calls within calls, at function {name:?},");
                return Err(InferenceError::over(
                    what,
                    open.len() as u64 + 1,
                    MAX_CALL_DEPTH as u64,
                ));
            }
            self.calls += 1;
            self.nodes = self.nodes.saturating_add(callee.nodes);
            let max_nodes = self.spent.limits.max_nodes;
            if self.nodes > max_nodes {
                return Err(InferenceError::over("max_nodes: functions", self.nodes, max_nodes));
            }
            self.spent.add(callee.messages, callee.bytes)?;
            let body = self.body(callee.proto, &node)?;
            open.push(callee.proto);
            self.nodes(body, into, open, depth)?;
            open.pop();
        }
        Ok(())
    }

    /// A function's nodes as one call needs them.
    fn body(
        &self,
        function: &FunctionProto,
        call: &NodeProto,
    ) -> Result<Vec<NodeProto>, InferenceError> {
        if call.input.len() > function.input.len() || call.output.len() > function.output.len() {
            return Err(InferenceError::malformed(format!(
                "a call of function {:?} has more inputs or outputs than the function",
                function.name()
            )));
        }
        let mut names = HashMap::new();
        for (formal, actual) in [(&function.input, &call.input), (&function.output, &call.output)] {
            for (index, name) in formal.iter().enumerate() {
                let actual = actual.get(index).filter(|a| !a.is_empty());
                // An input that is left out has no name; an output still needs one.
                match actual {
                    Some(actual) => names.insert(name.as_str(), actual.clone()),
                    None if std::ptr::eq(formal, &function.input) => {
                        names.insert(name.as_str(), String::new())
                    }
                    None => None,
                };
            }
        }
        let prefix = format!("{}::call{}::", function.name(), self.calls);
        let arguments = call.attribute.iter().map(Argument::new).collect();
        let scope = Scope { names, prefix, arguments, spent: &self.spent };
        function.node.iter().map(|node| scope.node(node)).collect()
    }
}

/// An attribute that a call gives, and what a copy of it takes.
struct Argument<'a> {
    proto: &'a AttributeProto,
    messages: u64,
    bytes: u64,
}

impl<'a> Argument<'a> {
    fn new(proto: &'a AttributeProto) -> Self {
        let encoded = proto.encode_to_vec();
        let messages = wire::messages_of_attribute(&encoded);
        Self { proto, messages, bytes: encoded.len() as u64 }
    }
}

/// How one body becomes part of the graph around the call.
struct Scope<'a> {
    /// What the names of the function's inputs and outputs are there.
    names: HashMap<&'a str, String>,
    /// Makes all other names the body's own.
    prefix: String,
    arguments: Vec<Argument<'a>>,
    spent: &'a Spent<'a>,
}

impl Scope<'_> {
    fn name(&self, name: &mut String) -> Result<(), InferenceError> {
        let actual = match self.names.get(name.as_str()) {
            Some(actual) => actual,
            None if name.is_empty() => return Ok(()),
            None => {
                self.spent.add(0, self.prefix.len() as u64)?;
                name.insert_str(0, &self.prefix);
                return Ok(());
            }
        };
        self.spent.add(0, actual.len() as u64)?;
        name.clone_from(actual);
        Ok(())
    }

    fn node(&self, node: &NodeProto) -> Result<NodeProto, InferenceError> {
        let mut node = node.clone();
        self.rename(&mut node)?;
        Ok(node)
    }

    fn rename(&self, node: &mut NodeProto) -> Result<(), InferenceError> {
        if !node.name.is_empty() {
            self.spent.add(0, self.prefix.len() as u64)?;
            node.name.insert_str(0, &self.prefix);
        }
        node.input.iter_mut().chain(&mut node.output).try_for_each(|name| self.name(name))?;
        for mut attribute in std::mem::take(&mut node.attribute) {
            if self.attribute(&mut attribute)? {
                node.attribute.push(attribute);
            }
        }
        Ok(())
    }

    /// Give an attribute that refers to one of the function's the value of
    /// the call; false when the call leaves it out.
    fn attribute(&self, attribute: &mut AttributeProto) -> Result<bool, InferenceError> {
        if !attribute.ref_attr_name.is_empty() {
            let argument = self.arguments.iter().find(|a| a.proto.name == attribute.ref_attr_name);
            let Some(argument) = argument else { return Ok(false) };
            self.spent.add(argument.messages, argument.bytes)?;
            let name = std::mem::take(&mut attribute.name);
            *attribute = AttributeProto { name, ..argument.proto.clone() };
            // The argument's own graphs speak of the names around the call.
            return Ok(true);
        }
        for graph in attribute.g.iter_mut().chain(&mut attribute.graphs) {
            self.graph(graph)?;
        }
        Ok(true)
    }

    fn graph(&self, graph: &mut GraphProto) -> Result<(), InferenceError> {
        let values = graph.input.iter_mut().chain(&mut graph.output).chain(&mut graph.value_info);
        let names = values.map(|value| &mut value.name);
        let names = names.chain(graph.initializer.iter_mut().map(|constant| &mut constant.name));
        names.into_iter().try_for_each(|name| self.name(name))?;
        graph.node.iter_mut().try_for_each(|node| self.rename(node))
    }
}
