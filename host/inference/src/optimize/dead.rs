//! Takes out what no output depends on.

use std::collections::HashSet;

use tract_onnx::pb::{GraphProto, ModelProto};

use super::{
    Note,
    surgery::{bodies_mut, each_read, node_reads},
};

/// Take out nodes and constants that no output depends on.
pub(super) fn remove(proto: &mut ModelProto) -> Vec<Note> {
    if let Some(graph) = &mut proto.graph {
        nodes(graph);
        constants(graph);
    }
    Vec::new()
}

/// Bodies first: what only a dead node of a body reads is dead too.
fn nodes(graph: &mut GraphProto) {
    graph.node.iter_mut().flat_map(bodies_mut).for_each(nodes);
    let mut live: HashSet<String> = graph.output.iter().map(|o| o.name.clone()).collect();
    let mut kept = Vec::with_capacity(graph.node.len());
    for node in std::mem::take(&mut graph.node).into_iter().rev() {
        if node.output.iter().any(|o| live.contains(o)) {
            node_reads(&node, &mut |name| {
                live.insert(name.to_owned());
            });
            kept.push(node);
        }
    }
    kept.reverse();
    graph.node = kept;
}

/// Take out constants that nothing reads.
pub(super) fn constants(graph: &mut GraphProto) {
    graph.node.iter_mut().flat_map(bodies_mut).for_each(constants);
    let mut read = HashSet::new();
    each_read(graph, &mut |name| {
        read.insert(name.to_owned());
    });
    graph.initializer.retain(|tensor| read.contains(&tensor.name));
}
