//! Holds a decoded model against the ONNX specification and the limits.
//!
//! # Source
//! <https://onnx.ai/onnx/repo-docs/IR.html>: names, scopes, order of nodes.

use std::collections::{BTreeMap, HashSet};

use tract_onnx::pb::{GraphProto, ModelProto, NodeProto};

use super::tensor;
use crate::{InferenceError, LoadLimits};

/// What a model is made of, counted over all its graphs.
#[derive(Default)]
pub(crate) struct Census {
    pub(crate) operators: BTreeMap<String, u64>,
    pub(crate) parameters: u64,
    pub(crate) parameter_bytes: u64,
    pub(crate) nodes: u64,
}

/// Check a model; move every constant's data to `raw_data`.
pub(crate) fn model(proto: &mut ModelProto, limits: &LoadLimits) -> Result<Census, InferenceError> {
    if proto.opset_import.is_empty() {
        return Err(InferenceError::malformed("the model imports no operator set"));
    }
    let Some(graph) = &mut proto.graph else {
        return Err(InferenceError::malformed("the model has no graph"));
    };
    let mut census = Census::default();
    check_graph(graph, &mut HashSet::new(), 0, limits, &mut census)?;
    if graph.output.is_empty() {
        return Err(InferenceError::malformed("the graph has no output"));
    }
    Ok(census)
}

/// Check a graph. `scope` holds the names of the graphs around it, and holds
/// them again afterwards.
fn check_graph(
    graph: &mut GraphProto,
    scope: &mut HashSet<String>,
    depth: u64,
    limits: &LoadLimits,
    census: &mut Census,
) -> Result<(), InferenceError> {
    if depth > limits.max_graph_depth {
        return Err(InferenceError::over("max_graph_depth", depth, limits.max_graph_depth));
    }
    if let Some(sparse) = graph.sparse_initializer.first() {
        let name = sparse.values.as_ref().map_or("", |v| v.name.as_str());
        let reason = "the model stores it as a sparse tensor";
        return Err(InferenceError::unsupported("sparse initializer", name, reason));
    }
    let graph_name = graph.name.clone();
    let twice = |name: &str| {
        InferenceError::malformed(format!("graph {graph_name:?} defines {name:?} twice"))
    };
    let mut inputs = HashSet::new();
    for input in &graph.input {
        if !inputs.insert(input.name.clone()) {
            return Err(twice(&input.name));
        }
    }
    let mut constants = HashSet::new();
    for constant in &mut graph.initializer {
        if !constants.insert(constant.name.clone()) {
            return Err(twice(&constant.name));
        }
        count_tensor(constant, limits, census)?;
    }
    let mut produced = inputs;
    produced.extend(constants);
    let mut entered = Vec::new();
    let mut enter = |name: &String, scope: &mut HashSet<String>| {
        if scope.insert(name.clone()) {
            entered.push(name.clone());
        }
    };
    produced.iter().for_each(|name| enter(name, scope));
    for node in &mut graph.node {
        census.nodes += 1;
        if census.nodes > limits.max_nodes {
            return Err(InferenceError::over("max_nodes", census.nodes, limits.max_nodes));
        }
        *census.operators.entry(node.op_type.clone()).or_default() += 1;
        let at = label(node);
        for input in node.input.iter().filter(|name| !name.is_empty()) {
            if !scope.contains(input) {
                return Err(InferenceError::malformed(format!(
                    "{} node {at:?} reads {input:?}, which nothing before it gives",
                    node.op_type
                )));
            }
        }
        for attribute in &mut node.attribute {
            for constant in attribute.t.iter_mut().chain(&mut attribute.tensors) {
                count_tensor(constant, limits, census)?;
            }
            for nested in attribute.g.iter_mut().chain(&mut attribute.graphs) {
                check_graph(nested, scope, depth + 1, limits, census)?;
            }
        }
        for output in node.output.iter().filter(|name| !name.is_empty()) {
            if !produced.insert(output.clone()) {
                return Err(twice(output));
            }
            enter(output, scope);
        }
    }
    for output in &graph.output {
        if !scope.contains(&output.name) {
            return Err(InferenceError::malformed(format!(
                "nothing gives output {:?} of graph {graph_name:?}",
                output.name
            )));
        }
    }
    for name in entered {
        scope.remove(&name);
    }
    Ok(())
}

/// Check one constant and add it to the census.
fn count_tensor(
    constant: &mut tract_onnx::pb::TensorProto,
    limits: &LoadLimits,
    census: &mut Census,
) -> Result<(), InferenceError> {
    let (elements, bytes) = tensor::normalise(constant)?;
    census.parameters += elements;
    census.parameter_bytes += bytes;
    if census.parameter_bytes > limits.max_initializer_bytes {
        let (needed, allowed) = (census.parameter_bytes, limits.max_initializer_bytes);
        return Err(InferenceError::over("max_initializer_bytes", needed, allowed));
    }
    Ok(())
}

/// What to call a node: its name, or else that of its first output.
pub(crate) fn label(node: &NodeProto) -> String {
    match node.output.iter().find(|o| !o.is_empty()) {
        Some(output) if node.name.is_empty() => output.clone(),
        _ => node.name.clone(),
    }
}
