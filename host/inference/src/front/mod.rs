//! From ONNX bytes to a checked graph that executors understand.
//!
//! In order: [`wire`] bounds what decoding may allocate, the protobuf is
//! decoded, [`check`] holds the graph against the specification and the
//! limits, and the rewrites bring it into the form that executors take, one
//! file for each rewrite.

mod check;
mod defaults;
mod functions;
mod hints;
mod losses;
pub(crate) mod nodes;
pub(crate) mod tensor;
mod wire;

pub(crate) use check::{Census, label, model as check};

use std::collections::{BTreeMap, HashSet};

use prost::Message;
use tract_onnx::pb::{
    ModelProto, TensorShapeProto, ValueInfoProto, tensor_shape_proto,
    tensor_shape_proto::dimension::Value as Size, type_proto,
};

use crate::{Dimension, InferenceError, LoadLimits, ModelInfo, TensorInfo};

/// Decode and check a model, and describe it in the contract's terms.
pub(crate) fn open(
    onnx: &[u8],
    limits: &LoadLimits,
) -> Result<(ModelProto, ModelInfo), InferenceError> {
    let (proto, census) = decode(onnx, limits)?;
    let Some(graph) = &proto.graph else {
        return Err(InferenceError::malformed("the model has no graph"));
    };
    let constants: HashSet<&str> = graph.initializer.iter().map(|t| t.name.as_str()).collect();
    let inputs = graph.input.iter().filter(|i| !constants.contains(i.name.as_str()));
    let mut opsets = BTreeMap::new();
    for import in &proto.opset_import {
        let domain = if import.domain.is_empty() { "ai.onnx" } else { &import.domain };
        opsets.insert(domain.to_owned(), import.version);
    }
    let info = ModelInfo {
        inputs: inputs.map(|i| describe(i, "input")).collect::<Result<_, _>>()?,
        outputs: graph.output.iter().map(|o| describe(o, "output")).collect::<Result<_, _>>()?,
        ir_version: proto.ir_version,
        opsets,
        producer: format!("{} {}", proto.producer_name, proto.producer_version).trim().to_owned(),
        operators: census.operators,
        parameters: census.parameters,
        parameter_bytes: census.parameter_bytes,
    };
    Ok((proto, info))
}

/// Decode and check a model.
pub(crate) fn decode(
    onnx: &[u8],
    limits: &LoadLimits,
) -> Result<(ModelProto, Census), InferenceError> {
    let len_bytes = onnx.len() as u64;
    if len_bytes > limits.max_model_bytes {
        return Err(InferenceError::over("max_model_bytes", len_bytes, limits.max_model_bytes));
    }
    wire::bound(onnx, limits.max_messages)?;
    let mut proto = ModelProto::decode(onnx)
        .map_err(|e| InferenceError::malformed(format!("not a protobuf of ONNX: {e}")))?;
    functions::inline(&mut proto, limits)?;
    let census = check::model(&mut proto, limits)?;
    Ok((proto, census))
}

/// Bring a checked model into the form that executors take.
pub(crate) fn rewrite(proto: &mut ModelProto) {
    let opset = proto.opset_import.iter().find(|o| matches!(&*o.domain, "" | "ai.onnx"));
    let opset = opset.map_or(0, |o| o.version);
    hints::drop_shapes(proto);
    if let Some(graph) = &mut proto.graph {
        defaults::write_out(graph);
        if opset >= 13 {
            losses::expand(graph);
        }
    }
}

/// An input or output in the contract's terms; `role` says which, in errors.
fn describe(value: &ValueInfoProto, role: &str) -> Result<TensorInfo, InferenceError> {
    let name = &value.name;
    let declared = value.r#type.as_ref().and_then(|t| t.value.as_ref());
    let Some(type_proto::Value::TensorType(declared)) = declared else {
        let reason = "is a sequence, an optional or a map; only tensors are supported";
        return Err(InferenceError::unsupported(role, name, reason));
    };
    let dtype = tensor::dtype(declared.elem_type).ok_or_else(|| {
        let element = tensor::element_name(declared.elem_type);
        InferenceError::unsupported(role, name, format!("has element type {element}"))
    })?;
    let Some(shape) = &declared.shape else {
        return Err(InferenceError::unsupported(role, name, "has no declared rank"));
    };
    if shape.dim.len() > headland_tensor::MAX_RANK {
        let allowed = headland_tensor::MAX_RANK as u64;
        let what = format!("the rank of {role} {name:?}");
        return Err(InferenceError::over(what, shape.dim.len() as u64, allowed));
    }
    for (axis, dim) in shape.dim.iter().enumerate() {
        if let Some(Size::DimValue(size)) = dim.value
            && size > i64::from(u32::MAX)
        {
            let what = format!("dimension {axis} of {role} {name:?}");
            return Err(InferenceError::over(what, size.unsigned_abs(), u64::from(u32::MAX)));
        }
    }
    Ok(TensorInfo { name: name.clone(), dtype, shape: dimensions(shape, name) })
}

/// The declared dimensions of value `name`.
pub(crate) fn dimensions(shape: &TensorShapeProto, name: &str) -> Vec<Dimension> {
    let dimension = |(axis, dim): (usize, &tensor_shape_proto::Dimension)| match &dim.value {
        Some(Size::DimValue(size)) if u32::try_from(*size).is_ok() => {
            Dimension::Fixed(*size as u32)
        }
        Some(Size::DimParam(symbol)) if !symbol.is_empty() && symbol != "?" => {
            Dimension::Symbolic(symbol.clone())
        }
        _ => Dimension::Symbolic(format!("{name}.{axis}")),
    };
    shape.dim.iter().enumerate().map(dimension).collect()
}
