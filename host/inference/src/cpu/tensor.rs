//! Tensors to tract's and back.

use headland_tensor::{DType, Shape, Tensor};
use tract_onnx::tract_hir::internal::{DatumType, Tensor as TractTensor};

use super::chain;
use crate::{InferenceError, TensorInfo};

/// Refuse a dtype that tract does not compute with.
pub(super) fn check_dtype(value: &TensorInfo) -> Result<(), InferenceError> {
    datum_type(value.dtype).map(drop).ok_or_else(|| {
        let reason = "tract has no bf16";
        InferenceError::unsupported("bf16", &value.name, reason)
    })
}

/// tract's name for a dtype, where it has one.
pub(super) fn datum_type(dtype: DType) -> Option<DatumType> {
    Some(match dtype {
        DType::Bool => DatumType::Bool,
        DType::U8 => DatumType::U8,
        DType::I8 => DatumType::I8,
        DType::U16 => DatumType::U16,
        DType::I16 => DatumType::I16,
        DType::U32 => DatumType::U32,
        DType::I32 => DatumType::I32,
        DType::U64 => DatumType::U64,
        DType::I64 => DatumType::I64,
        DType::F16 => DatumType::F16,
        DType::F32 => DatumType::F32,
        DType::F64 => DatumType::F64,
        DType::BF16 => return None,
    })
}

/// A copy of a tensor in tract's aligned storage.
pub(super) fn to_tract(tensor: &Tensor) -> Result<TractTensor, InferenceError> {
    let failed = |e| InferenceError::Failed { reason: chain(&e) };
    let shape = tensor.shape().to_usize();
    let Some(datum_type) = datum_type(tensor.dtype()) else {
        let reason = "the CPU executor has no such dtype";
        return Err(InferenceError::unsupported(tensor.dtype().name(), "", reason));
    };
    let mut copy = TractTensor::zero_dt(datum_type, &shape).map_err(failed)?;
    copy.as_bytes_mut().copy_from_slice(tensor.bytes());
    Ok(copy)
}

/// A copy of a tensor that tract made, under the dtype that `info` declares.
///
/// tract carries sizes as symbolic integers and quantised values under types
/// of their own; both are the declared integers underneath.
pub(super) fn from_tract(
    tensor: &TractTensor,
    info: &TensorInfo,
) -> Result<Tensor, InferenceError> {
    let failed = |e| InferenceError::Failed { reason: chain(&e) };
    let declared = datum_type(info.dtype);
    let actual = tensor.datum_type();
    let values = if actual == DatumType::TDim {
        tensor.cast_to::<i64>().map_err(failed)?
    } else {
        std::borrow::Cow::Borrowed(tensor)
    };
    if declared != Some(values.datum_type().unquantized()) {
        let reason =
            format!("output {:?} is declared {}, but tract made {actual:?}", info.name, info.dtype);
        return Err(InferenceError::Failed { reason });
    }
    let shape = Shape::from_usize(values.shape())?;
    Ok(Tensor::new(info.dtype, shape, values.as_bytes())?)
}
