//! Inline model-local functions.
//!
//! # Source
//! <https://onnx.ai/onnx/repo-docs/IR.html#functions>.

use std::collections::HashMap;

use prost::Message;
use tract_onnx::pb::{AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto};

use crate::{InferenceError, LoadLimits};

/// Put a function's body in the place of every node that calls it.
///
/// Functions may call functions; a function that comes to call itself is
/// refused. What the bodies add is counted against the limits before each is
/// copied, as functions that call each other twice double at every level.
pub(super) fn inline(proto: &mut ModelProto, limits: &LoadLimits) -> Result<(), InferenceError> {
    if proto.functions.is_empty() {
        return Ok(());
    }
    let functions = std::mem::take(&mut proto.functions);
    let mut inliner = Inliner { functions: &functions, limits, calls: 0, nodes: 0, bytes: 0 };
    if let Some(graph) = &mut proto.graph {
        inliner.graph(graph, &mut Vec::new())?;
    }
    Ok(())
}

struct Inliner<'a> {
    functions: &'a [FunctionProto],
    limits: &'a LoadLimits,
    /// Calls so far; makes the names of each body its own.
    calls: u64,
    /// Nodes of all bodies copied so far.
    nodes: u64,
    /// Their size, in bytes.
    bytes: u64,
}

impl<'a> Inliner<'a> {
    /// Inline the calls in a graph. `open` are the functions whose bodies are
    /// being inlined around it.
    fn graph(
        &mut self,
        graph: &mut GraphProto,
        open: &mut Vec<&'a FunctionProto>,
    ) -> Result<(), InferenceError> {
        let nodes = std::mem::take(&mut graph.node);
        self.nodes(nodes, &mut graph.node, open)
    }

    fn nodes(
        &mut self,
        nodes: Vec<NodeProto>,
        into: &mut Vec<NodeProto>,
        open: &mut Vec<&'a FunctionProto>,
    ) -> Result<(), InferenceError> {
        for mut node in nodes {
            for attribute in &mut node.attribute {
                for nested in attribute.g.iter_mut().chain(&mut attribute.graphs) {
                    self.graph(nested, open)?;
                }
            }
            let callee = self
                .functions
                .iter()
                .find(|f| f.name() == node.op_type && f.domain() == node.domain);
            let Some(callee) = callee else {
                into.push(node);
                continue;
            };
            if open.iter().any(|f| std::ptr::eq(*f, callee)) {
                let name = callee.name();
                return Err(InferenceError::malformed(format!("function {name:?} calls itself")));
            }
            self.calls += 1;
            self.nodes += callee.node.len() as u64;
            if self.nodes > self.limits.max_nodes {
                let (needed, allowed) = (self.nodes, self.limits.max_nodes);
                return Err(InferenceError::over("max_nodes: functions", needed, allowed));
            }
            self.bytes = self.bytes.saturating_add(callee.encoded_len() as u64);
            if self.bytes > self.limits.max_model_bytes {
                let (needed, allowed) = (self.bytes, self.limits.max_model_bytes);
                return Err(InferenceError::over("max_model_bytes: functions", needed, allowed));
            }
            let body = self.body(callee, &node)?;
            open.push(callee);
            self.nodes(body, into, open)?;
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
        let scope = Scope { names, prefix: format!("{}::call{}::", function.name(), self.calls) };
        Ok(function.node.iter().map(|node| scope.node(node, &call.attribute)).collect())
    }
}

/// How the names of one body become those of the graph around the call.
struct Scope<'a> {
    names: HashMap<&'a str, String>,
    prefix: String,
}

impl Scope<'_> {
    fn name(&self, name: &str) -> String {
        match self.names.get(name) {
            Some(actual) => actual.clone(),
            None if name.is_empty() => String::new(),
            None => format!("{}{name}", self.prefix),
        }
    }

    fn node(&self, node: &NodeProto, arguments: &[AttributeProto]) -> NodeProto {
        let mut node = node.clone();
        if !node.name.is_empty() {
            node.name.insert_str(0, &self.prefix);
        }
        self.rename(&mut node.input);
        self.rename(&mut node.output);
        node.attribute.retain_mut(|attribute| self.attribute(attribute, arguments));
        node
    }

    fn rename(&self, names: &mut [String]) {
        names.iter_mut().for_each(|name| *name = self.name(name));
    }

    /// Give an attribute that refers to one of the function's the value of
    /// the call; false when the call leaves it out.
    fn attribute(&self, attribute: &mut AttributeProto, arguments: &[AttributeProto]) -> bool {
        if !attribute.ref_attr_name.is_empty() {
            let Some(argument) = arguments.iter().find(|a| a.name == attribute.ref_attr_name)
            else {
                return false;
            };
            let name = std::mem::take(&mut attribute.name);
            *attribute = AttributeProto { name, ..argument.clone() };
            // The argument's own graphs speak of the names around the call.
            return true;
        }
        for graph in attribute.g.iter_mut().chain(&mut attribute.graphs) {
            self.graph(graph, arguments);
        }
        true
    }

    fn graph(&self, graph: &mut GraphProto, arguments: &[AttributeProto]) {
        for value in graph.input.iter_mut().chain(&mut graph.output).chain(&mut graph.value_info) {
            value.name = self.name(&value.name);
        }
        for constant in &mut graph.initializer {
            constant.name = self.name(&constant.name);
        }
        for node in &mut graph.node {
            *node = self.node(node, arguments);
        }
    }
}
