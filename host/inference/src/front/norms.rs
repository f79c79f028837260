//! Write a normalisation in terms of simpler operators.

use tract_onnx::pb::{AttributeProto, GraphProto, attribute_proto::AttributeType};

use super::nodes::{Writer, int, replace};

/// `LpNormalization` as its formula, `x / |x|`: tract has an exception of its
/// own for a vector of no length, for which the formula gives NaN.
///
/// # Source
/// <https://onnx.ai/onnx/operators/onnx__LpNormalization.html>
pub(super) fn expand(graph: &mut GraphProto, opset: i64) {
    replace(graph, &|node| {
        if node.op_type != "LpNormalization" {
            return None;
        }
        let (x, y) = (node.input.first()?, node.output.first()?);
        let axis = int(node, "axis").unwrap_or(-1);
        let op = match int(node, "p").unwrap_or(2) {
            1 => "ReduceL1",
            2 => "ReduceL2",
            _ => return None,
        };
        let mut writer = Writer::in_place_of(node);
        // The axes became an input with operator set 18.
        let length = if opset >= 18 {
            let axes = writer.i64s(&[1], &[axis]);
            writer.add(op, &[x, &axes], &[("keepdims", 1)])
        } else {
            let length = writer.add(op, &[x], &[("keepdims", 1)]);
            writer.with(AttributeProto {
                name: "axes".to_owned(),
                r#type: AttributeType::Ints as i32,
                ints: vec![axis],
                ..AttributeProto::default()
            });
            length
        };
        writer.add_as("Div", &[x, &length], &[], y);
        Some(writer.finish())
    });
}
