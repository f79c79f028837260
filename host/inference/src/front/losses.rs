//! Write the loss operators in terms of simpler ones.
//!
//! # Source
//! <https://onnx.ai/onnx/operators/onnx__NegativeLogLikelihoodLoss.html>,
//! <https://onnx.ai/onnx/operators/onnx__SoftmaxCrossEntropyLoss.html>.

use tract_onnx::pb::{GraphProto, NodeProto};

use super::nodes::{Writer, given, int, replace, string};

/// Rewrite `NegativeLogLikelihoodLoss` and `SoftmaxCrossEntropyLoss`, for
/// operator set 13 or later.
pub(super) fn expand(graph: &mut GraphProto) {
    replace(graph, &|node| match node.op_type.as_str() {
        "NegativeLogLikelihoodLoss" => {
            let mut writer = Writer::in_place_of(node);
            let scores = node.input.first()?.clone();
            negative_log_likelihood(&mut writer, node, &scores)?;
            Some(writer.finish())
        }
        "SoftmaxCrossEntropyLoss" => {
            let mut writer = Writer::in_place_of(node);
            let scores = node.input.first()?;
            let log_probability = match given(&node.output, 1) {
                Some(output) => {
                    writer.add_as("LogSoftmax", &[scores], &[("axis", 1)], output);
                    output.to_owned()
                }
                None => writer.add("LogSoftmax", &[scores], &[("axis", 1)]),
            };
            negative_log_likelihood(&mut writer, node, &log_probability)?;
            Some(writer.finish())
        }
        _ => None,
    });
}

/// The loss of the log probabilities `scores` [N,C,d1,..] for the classes
/// [N,d1,..] in the node's second input, weighted by class where the third is
/// given. Classes equal to `ignore_index` count for nothing.
fn negative_log_likelihood(writer: &mut Writer, node: &NodeProto, scores: &str) -> Option<()> {
    let classes = given(&node.input, 1)?;
    let weights = given(&node.input, 2);
    let output = given(&node.output, 0)?;
    let ignored = int(node, "ignore_index");
    let channel = writer.i64s(&[1], &[1]);
    let mut index = writer.add("Unsqueeze", &[classes, &channel], &[]);
    let mask = ignored.map(|class| {
        let class = writer.i64s(&[], &[class]);
        let class = writer.add("CastLike", &[&class, classes], &[]);
        let mask = writer.add("Equal", &[&index, &class], &[]);
        // Any class that exists, as the ignored one need not.
        let first = writer.i64s(&[], &[0]);
        let first = writer.add("CastLike", &[&first, classes], &[]);
        index = writer.add("Where", &[&mask, &first, &index], &[]);
        mask
    });
    let picked = writer.add("GatherElements", &[scores, &index], &[("axis", 1)]);
    let mut loss = writer.add("Neg", &[&picked], &[]);
    // The weight of each element; none when all weigh 1.
    let mut weight = weights.map(|weights| writer.add("Gather", &[weights, &index], &[]));
    if let Some(mask) = &mask {
        let zero = writer.f32(0.0);
        let zero = writer.add("CastLike", &[&zero, scores], &[]);
        let counted = weight.unwrap_or_else(|| {
            let one = writer.f32(1.0);
            writer.add("CastLike", &[&one, scores], &[])
        });
        weight = Some(writer.add("Where", &[mask, &zero, &counted], &[]));
        loss = writer.add("Where", &[mask, &zero, &loss], &[]);
    }
    if let Some(weight) = &weight {
        loss = writer.add("Mul", &[&loss, weight], &[]);
    }
    match (string(node, "reduction").unwrap_or(b"mean"), weight) {
        (b"none", _) => writer.add_as("Squeeze", &[&loss, &channel], &[], output),
        (b"sum", _) => writer.add_as("ReduceSum", &[&loss], &[("keepdims", 0)], output),
        (b"mean", None) => writer.add_as("ReduceMean", &[&loss], &[("keepdims", 0)], output),
        (b"mean", Some(weight)) => {
            let loss = writer.add("ReduceSum", &[&loss], &[("keepdims", 0)]);
            let weight = writer.add("ReduceSum", &[&weight], &[("keepdims", 0)]);
            writer.add_as("Div", &[&loss, &weight], &[], output);
        }
        _ => return None,
    }
    Some(())
}
