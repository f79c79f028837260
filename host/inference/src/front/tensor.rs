//! ONNX tensors.

use bytemuck::{Pod, cast_slice};
use headland_tensor::{DType, Shape, Tensor};
use prost::Message;
use tract_onnx::pb::{TensorProto, tensor_proto::DataLocation, tensor_proto::DataType};

use crate::InferenceError;

/// Read a serialised ONNX `TensorProto`: its name, and the tensor.
///
/// # Errors
/// [`InferenceError::Malformed`], or [`InferenceError::Unsupported`] for an
/// element type that the contract does not have and for data in another file.
pub fn tensor_from_onnx(bytes: &[u8]) -> Result<(String, Tensor), InferenceError> {
    let mut proto = TensorProto::decode(bytes)
        .map_err(|e| InferenceError::malformed(format!("not a TensorProto: {e}")))?;
    let dtype = dtype(proto.data_type).ok_or_else(|| {
        let reason = format!("has element type {}", element_name(proto.data_type));
        InferenceError::unsupported("tensor", &proto.name, reason)
    })?;
    normalise(&mut proto)?;
    let dims: Vec<u32> = proto.dims.iter().filter_map(|&d| u32::try_from(d).ok()).collect();
    let tensor = Tensor::new(dtype, Shape::new(dims)?, proto.raw_data)?;
    Ok((proto.name, tensor))
}

/// The contract's dtype for an ONNX element type, where it has one.
pub(crate) fn dtype(element: i32) -> Option<DType> {
    Some(match DataType::try_from(element).ok()? {
        DataType::Bool => DType::Bool,
        DataType::Uint8 => DType::U8,
        DataType::Int8 => DType::I8,
        DataType::Uint16 => DType::U16,
        DataType::Int16 => DType::I16,
        DataType::Uint32 => DType::U32,
        DataType::Int32 => DType::I32,
        DataType::Uint64 => DType::U64,
        DataType::Int64 => DType::I64,
        DataType::Float16 => DType::F16,
        DataType::Bfloat16 => DType::BF16,
        DataType::Float => DType::F32,
        DataType::Double => DType::F64,
        _ => return None,
    })
}

/// ONNX's name for an element type.
pub(crate) fn element_name(element: i32) -> String {
    match DataType::try_from(element) {
        Ok(known) => known.as_str_name().to_lowercase(),
        Err(_) => format!("number {element}"),
    }
}

/// Check a tensor's data against its dtype and shape, and move the data to
/// `raw_data`, which every executor reads alike. Gives the element count and
/// the bytes of data.
///
/// Elements that the contract does not have keep their encoding, and their
/// count is not checked.
pub(crate) fn normalise(tensor: &mut TensorProto) -> Result<(u64, u64), InferenceError> {
    let name = tensor.name.clone();
    if tensor.data_location == Some(DataLocation::External as i32)
        || !tensor.external_data.is_empty()
    {
        let location = tensor.external_data.iter().find(|e| e.key == "location");
        let location = location.map_or("", |e| e.value.as_str());
        let reason = format!("its data is in another file, {location:?}; store it in the model");
        return Err(InferenceError::unsupported("external data", name, reason));
    }
    if tensor.segment.is_some() {
        return Err(InferenceError::unsupported("tensor", name, "it is stored in segments"));
    }
    let malformed = |reason: String| InferenceError::malformed(format!("tensor {name:?} {reason}"));
    let dims: Result<Vec<u32>, _> = tensor.dims.iter().map(|&d| u32::try_from(d)).collect();
    let dims = dims.map_err(|_| malformed(format!("has shape {:?}", tensor.dims)))?;
    let count = Shape::new(dims).map_err(|e| malformed(e.to_string()))?.element_count();
    let Some(dtype) = dtype(tensor.data_type) else {
        return Ok((count as u64, tensor.encoded_len() as u64));
    };
    let expected = count * dtype.size_bytes();
    let mut raw = std::mem::take(&mut tensor.raw_data);
    if raw.is_empty() {
        raw = match dtype {
            DType::Bool => tensor.int32_data.iter().map(|&v| u8::from(v != 0)).collect(),
            DType::U8 => narrow(&tensor.int32_data, |v| v as u8),
            DType::I8 => narrow(&tensor.int32_data, |v| v as i8),
            DType::U16 | DType::F16 | DType::BF16 => narrow(&tensor.int32_data, |v| v as u16),
            DType::I16 => narrow(&tensor.int32_data, |v| v as i16),
            DType::I32 => cast_slice(&tensor.int32_data).to_vec(),
            DType::U32 => narrow(&tensor.uint64_data, |v| v as u32),
            DType::U64 => cast_slice(&tensor.uint64_data).to_vec(),
            DType::I64 => cast_slice(&tensor.int64_data).to_vec(),
            DType::F32 => cast_slice(&tensor.float_data).to_vec(),
            DType::F64 => cast_slice(&tensor.double_data).to_vec(),
        };
    } else if dtype == DType::Bool {
        raw.iter_mut().for_each(|b| *b = u8::from(*b != 0));
    }
    if raw.len() != expected {
        let shape = &tensor.dims;
        let actual = raw.len();
        return Err(malformed(format!(
            "is {dtype} {shape:?}, {expected} bytes, but its data has {actual}"
        )));
    }
    tensor.raw_data = raw;
    tensor.int32_data = Vec::new();
    tensor.int64_data = Vec::new();
    tensor.uint64_data = Vec::new();
    tensor.float_data = Vec::new();
    tensor.double_data = Vec::new();
    Ok((count as u64, expected as u64))
}

/// Elements that ONNX widens for its encoding, back in their own width.
fn narrow<W: Copy, N: Pod>(wide: &[W], f: impl Fn(W) -> N) -> Vec<u8> {
    let narrow: Vec<N> = wide.iter().map(|&v| f(v)).collect();
    cast_slice(&narrow).to_vec()
}
