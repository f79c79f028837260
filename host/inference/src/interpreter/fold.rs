//! Runs what depends on constants alone before there is a run.

use super::{Run, control};
use crate::graph::{Attribute, Graph};

/// The most bytes that the results of one graph's folding may take.
const MAX_BYTES: u64 = 64 << 20;

/// Replace the nodes of a graph that read only constants by what they give.
pub(super) fn graph(graph: &mut Graph, run: &Run<'_>) {
    let mut values = vec![None; graph.slots];
    for (slot, array) in &graph.constants {
        values[*slot] = Some(array.clone().into());
    }
    let mut spent = 0;
    let nodes = std::mem::take(&mut graph.nodes);
    for mut node in nodes {
        for attribute in node.attributes.values_mut() {
            if let Attribute::Graph(body) = attribute {
                self::graph(body, run);
            }
        }
        let known = node.inputs.iter().flatten().all(|slot| values[*slot].is_some());
        let steady = !control::is_control(&node) && !is_random(&node.op);
        if spent <= MAX_BYTES
            && known
            && steady
            && let Ok(made) = run.node(&node, &values)
        {
            let bytes: u64 = made.iter().map(crate::Value::size_bytes).sum();
            spent += bytes;
            let arrays: Option<Vec<_>> = made.iter().map(|v| v.array().ok().cloned()).collect();
            if spent + bytes <= MAX_BYTES
                && let Some(arrays) = arrays
            {
                spent += bytes;
                for (slot, array) in node.outputs.iter().zip(arrays) {
                    if let Some(slot) = slot {
                        values[*slot] = Some(array.clone().into());
                        graph.constants.push((*slot, array));
                    }
                }
                continue;
            }
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
