//! Runs what depends on constants alone before there is a run.

use super::Run;
use crate::{
    Value,
    graph::{Attribute, Graph, Node},
};

/// The most bytes that the results of a model's folding may take together.
const MAX_BYTES: u64 = 64 << 20;

/// The most bytes that folding a model may read and write.
const MAX_WORK: u64 = 1 << 30;

/// What folding a model may still cost.
struct Budget {
    bytes: u64,
    work: u64,
}

/// Replace the nodes of a graph, and of those within it, that read only
/// constants by what they give.
pub(super) fn graph(graph: &mut Graph, run: &Run<'_>) {
    fold(graph, run, &mut Budget { bytes: MAX_BYTES, work: MAX_WORK });
}

fn fold(graph: &mut Graph, run: &Run<'_>, budget: &mut Budget) {
    let mut values: Vec<Option<Value>> = vec![None; graph.slots];
    for (slot, array) in &graph.constants {
        values[*slot] = Some(array.clone().into());
    }
    let nodes = std::mem::take(&mut graph.nodes);
    for mut node in nodes {
        for attribute in node.attributes.values_mut() {
            if let Attribute::Graph(body) = attribute {
                fold(body, run, budget);
            }
        }
        let known = node.inputs.iter().flatten().all(|slot| values[*slot].is_some());
        if known
            && is_steady(&node)
            && let Some(made) = once(&node, &values, run, budget)
        {
            for (slot, array) in node.outputs.iter().zip(made) {
                if let Some(slot) = slot {
                    values[*slot] = Some(array.clone().into());
                    graph.constants.push((*slot, array));
                }
            }
            continue;
        }
        graph.nodes.push(node);
    }
    // Constants that only folded nodes read would stay for nothing.
    let mut read: Vec<bool> = vec![false; graph.slots];
    graph.outputs.iter().for_each(|slot| read[*slot] = true);
    for node in &graph.nodes {
        node.reads().for_each(|slot| read[slot] = true);
    }
    graph.constants.retain(|(slot, _)| read[*slot]);
}

/// Whether an operator gives something else every time, or is there for
/// training.
pub(crate) fn is_random(op: &str) -> bool {
    op.starts_with("Random") || matches!(op, "Bernoulli" | "Multinomial" | "Dropout")
}

/// What a node gives, if it is within the budget and all of it tensors.
fn once(
    node: &Node,
    values: &[Option<Value>],
    run: &Run<'_>,
    budget: &mut Budget,
) -> Option<Vec<crate::Array>> {
    let inputs = node.inputs.iter().flatten().filter_map(|slot| values[*slot].as_ref());
    // An operator that fails may have looked at all of its inputs, too.
    let read = inputs.map(Value::size_bytes).fold(1 << 10, u64::saturating_add);
    budget.work = budget.work.checked_sub(read)?;
    let made = run.node(node, values).ok()?;
    let bytes = made.iter().map(Value::size_bytes).fold(0, u64::saturating_add);
    budget.work = budget.work.saturating_sub(bytes);
    let arrays = made.iter().map(|v| v.array().ok().cloned()).collect::<Option<Vec<_>>>()?;
    budget.bytes = budget.bytes.checked_sub(bytes)?;
    Some(arrays)
}

/// Whether a node always gives the same, with work in proportion to what it
/// reads and gives: folding has no deadline.
fn is_steady(node: &Node) -> bool {
    node.domain.is_empty()
        && matches!(
            node.op.as_str(),
            "Abs"
                | "Add"
                | "And"
                | "BitShift"
                | "BitwiseAnd"
                | "BitwiseNot"
                | "BitwiseOr"
                | "BitwiseXor"
                | "Cast"
                | "CastLike"
                | "Ceil"
                | "Clip"
                | "Compress"
                | "Concat"
                | "Constant"
                | "ConstantOfShape"
                | "CumSum"
                | "DepthToSpace"
                | "DequantizeLinear"
                | "Div"
                | "Equal"
                | "Exp"
                | "Expand"
                | "EyeLike"
                | "Flatten"
                | "Floor"
                | "Gather"
                | "GatherElements"
                | "GatherND"
                | "Greater"
                | "GreaterOrEqual"
                | "Identity"
                | "IsInf"
                | "IsNaN"
                | "Less"
                | "LessOrEqual"
                | "Log"
                | "Max"
                | "Min"
                | "Mod"
                | "Mul"
                | "Neg"
                | "NonZero"
                | "Not"
                | "OneHot"
                | "Or"
                | "Pad"
                | "Pow"
                | "QuantizeLinear"
                | "Range"
                | "Reciprocal"
                | "ReduceMax"
                | "ReduceMean"
                | "ReduceMin"
                | "ReduceProd"
                | "ReduceSum"
                | "Relu"
                | "Reshape"
                | "Round"
                | "ScatterElements"
                | "ScatterND"
                | "Shape"
                | "Sign"
                | "Size"
                | "Slice"
                | "SpaceToDepth"
                | "Split"
                | "Sqrt"
                | "Squeeze"
                | "Sub"
                | "Sum"
                | "Tile"
                | "Transpose"
                | "Trilu"
                | "Unsqueeze"
                | "Where"
                | "Xor"
        )
}
