//! Drop shape hints that cannot be checked.

use tract_onnx::pb::{
    GraphProto, ModelProto, TensorShapeProto, ValueInfoProto, tensor_shape_proto::dimension::Value,
    type_proto,
};

/// Remove what a model claims of its intermediate results, and symbols in the
/// interfaces of nested graphs. Plans are made for concrete input shapes, from
/// which every other shape follows; a claim adds nothing, and a wrong one
/// makes a good model fail.
pub(super) fn drop_shapes(proto: &mut ModelProto) {
    if let Some(graph) = &mut proto.graph {
        graph.value_info.clear();
        for node in &mut graph.node {
            for attribute in &mut node.attribute {
                attribute.g.iter_mut().chain(&mut attribute.graphs).for_each(drop_nested);
            }
        }
    }
}

fn drop_nested(graph: &mut GraphProto) {
    graph.value_info.clear();
    graph.input.iter_mut().chain(&mut graph.output).filter_map(shape_of).for_each(|shape| {
        for dim in &mut shape.dim {
            if matches!(dim.value, Some(Value::DimParam(_))) {
                dim.value = None;
            }
        }
    });
    for node in &mut graph.node {
        for attribute in &mut node.attribute {
            attribute.g.iter_mut().chain(&mut attribute.graphs).for_each(drop_nested);
        }
    }
}

fn shape_of(value: &mut ValueInfoProto) -> Option<&mut TensorShapeProto> {
    let type_proto::Value::TensorType(tensor) = value.r#type.as_mut()?.value.as_mut()?;
    tensor.shape.as_mut()
}
