//! Write out defaults that executors take to be something else.

use tract_onnx::pb::{GraphProto, TensorProto, tensor_proto::DataType};

use super::nodes::{replace, tensor};

/// `ConstantOfShape` without a value makes zeros of f32; tract makes them of
/// f64.
pub(super) fn write_out(graph: &mut GraphProto) {
    replace(graph, &|node| {
        let value_left_out = node.op_type == "ConstantOfShape" && node.attribute.is_empty();
        value_left_out.then(|| {
            let mut node = node.clone();
            node.attribute.push(tensor(
                "value",
                TensorProto {
                    dims: vec![1],
                    data_type: DataType::Float as i32,
                    raw_data: vec![0; 4],
                    ..TensorProto::default()
                },
            ));
            vec![node]
        })
    });
}
