//! Takes out nodes that give what they are given.

use std::collections::{HashMap, HashSet};

use tract_onnx::pb::{GraphProto, ModelProto, NodeProto};

use super::{
    Note,
    surgery::{bodies, bodies_mut, is},
};
use crate::front::nodes::given;

/// Take out `Identity` and inference's `Dropout`. One between an input or a
/// constant and an output stays: both names are the model's interface.
pub(super) fn remove(proto: &mut ModelProto) -> Vec<Note> {
    if let Some(graph) = &mut proto.graph {
        remove_from(graph);
    }
    Vec::new()
}

fn remove_from(graph: &mut GraphProto) {
    graph.node.iter_mut().flat_map(bodies_mut).for_each(remove_from);
    // A body that gives a name of its own to something would be misread after
    // renaming; ONNX forbids it, and no writer does it.
    let mut inner = HashSet::new();
    graph.node.iter().flat_map(bodies).for_each(|body| defined_within(body, &mut inner));
    let mut outputs: HashSet<String> = graph.output.iter().map(|o| o.name.clone()).collect();
    let mut made = HashMap::new();
    for (index, node) in graph.node.iter().enumerate() {
        made.extend(node.output.iter().map(|o| (o.clone(), index)));
    }
    // From the name of what was taken out to that of what it gave on.
    let mut renamed: HashMap<String, String> = HashMap::new();
    let mut gone = HashSet::new();
    for index in 0..graph.node.len() {
        let node = &graph.node[index];
        let Some((from, to)) = passes_on(node) else { continue };
        let source = resolve(&renamed, from).to_owned();
        let to = to.to_owned();
        if inner.contains(&source) || inner.contains(&to) {
            continue;
        }
        if !outputs.contains(&to) {
            renamed.insert(to, source);
        } else if !outputs.contains(&source)
            && let Some(&maker) = made.get(&source)
        {
            // What made the source gives the output itself.
            for output in &mut graph.node[maker].output {
                if *output == source {
                    output.clone_from(&to);
                }
            }
            made.insert(to.clone(), maker);
            outputs.insert(to.clone());
            renamed.insert(source, to);
        } else {
            continue;
        }
        gone.insert(index);
    }
    let mut index = 0;
    graph.node.retain(|_| {
        index += 1;
        !gone.contains(&(index - 1))
    });
    rename(graph, &renamed);
}

/// The value that a node gives on unchanged, and the name it gives it.
fn passes_on(node: &NodeProto) -> Option<(&str, &str)> {
    let identity = is(node, "Identity");
    // The mask, and a third input that may turn training on, keep it.
    let dropout = is(node, "Dropout") && given(&node.output, 1).is_none();
    let training = given(&node.input, 2).is_some();
    if identity || (dropout && !training) {
        Some((given(&node.input, 0)?, given(&node.output, 0)?))
    } else {
        None
    }
}

fn resolve<'a>(renamed: &'a HashMap<String, String>, name: &'a str) -> &'a str {
    let mut name = name;
    // Each name is renamed once, to one from before it, or by a maker to the
    // output that follows it: no chain comes back to where it was.
    while let Some(next) = renamed.get(name) {
        name = next;
    }
    name
}

fn rename(graph: &mut GraphProto, renamed: &HashMap<String, String>) {
    for node in &mut graph.node {
        for input in &mut node.input {
            if renamed.contains_key(input) {
                *input = resolve(renamed, input).to_owned();
            }
        }
        bodies_mut(node).for_each(|body| {
            for output in &mut body.output {
                if renamed.contains_key(&output.name) {
                    output.name = resolve(renamed, &output.name).to_owned();
                }
            }
            rename(body, renamed);
        });
    }
}

fn defined_within(graph: &GraphProto, names: &mut HashSet<String>) {
    names.extend(graph.input.iter().map(|i| i.name.clone()));
    names.extend(graph.initializer.iter().map(|t| t.name.clone()));
    for node in &graph.node {
        names.extend(node.output.iter().cloned());
        bodies(node).for_each(|body| defined_within(body, names));
    }
}
