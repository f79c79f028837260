//! Matrix products.

use burn_backend::{Scalar, ops::FloatTensorOps};
use burn_dispatch::Dispatch as D;

use super::{DeviceCall, Op, align, alike, expand, one, permute, within};
use crate::{
    gpu::device::DeviceTensor,
    interpreter::{OpError, OpResult, broadcast_shape},
    value::Value,
};

pub(super) fn find(name: &str) -> Option<Op> {
    Some(match name {
        "MatMul" => matmul,
        "Gemm" => gemm,
        _ => return None,
    })
}

/// The product of `[.., M, K]` and `[.., K, N]`, leading dimensions broadcast.
pub(super) fn product(
    call: &DeviceCall<'_>,
    a: &DeviceTensor,
    b: &DeviceTensor,
) -> OpResult<DeviceTensor> {
    alike(&[a, b])?;
    let rank = a.rank().max(b.rank());
    let (a, b) = (align(a, rank)?, align(b, rank)?);
    let (rows, inner) = (a.shape()[rank - 2], a.shape()[rank - 1]);
    let (same, columns) = (b.shape()[rank - 2], b.shape()[rank - 1]);
    if inner != same {
        let (a, b) = (a.shape(), b.shape());
        return Err(OpError::invalid(format!("the product of {a:?} and {b:?}")));
    }
    let mut shape = broadcast_shape(&[&a.shape()[..rank - 2], &b.shape()[..rank - 2]])?;
    let with = |last: [usize; 2]| [shape.as_slice(), &last].concat();
    for last in [[rows, inner], [inner, columns], [rows, columns]] {
        call.reserve(a.element(), &with(last))?;
    }
    let x = expand(&a, &with([rows, inner]))?;
    let y = expand(&b, &with([inner, columns]))?;
    shape.extend([rows, columns]);
    DeviceTensor::new(D::float_matmul(x, y), a.element()).reshape(&shape)
}

fn matmul(call: &DeviceCall<'_>) -> OpResult<Vec<Value>> {
    let (a, b) = (call.float(0)?, call.float(1)?);
    if a.rank() == 0 || b.rank() == 0 {
        return Err(OpError::invalid("a product with a scalar"));
    }
    // One dimension counts as a row on the left and as a column on the right.
    let (vector_a, vector_b) = (a.rank() == 1, b.rank() == 1);
    let a = if vector_a { a.reshape(&[1, a.shape()[0]])? } else { a };
    let b = if vector_b { b.reshape(&[b.shape()[0], 1])? } else { b };
    let made = product(call, &a, &b)?;
    let mut shape = made.shape().to_vec();
    if vector_a {
        shape.remove(shape.len() - 2);
    }
    if vector_b {
        shape.pop();
    }
    Ok(vec![Value::Device(made.reshape(&shape)?)])
}

fn gemm(call: &DeviceCall<'_>) -> OpResult<Vec<Value>> {
    let (a, b) = (call.float(0)?, call.float(1)?);
    if a.rank() != 2 || b.rank() != 2 {
        return Err(OpError::invalid("Gemm of tensors that are no matrices"));
    }
    let a = if call.flag("transA", false) { permute(&a, &[1, 0]) } else { a };
    let b = if call.flag("transB", false) { permute(&b, &[1, 0]) } else { b };
    let made = product(call, &a, &b)?;
    let mut sum = made.tensor.clone();
    let alpha = call.call.float_or("alpha", 1.0);
    if alpha != 1.0 {
        sum = D::float_mul_scalar(sum, Scalar::Float(alpha.into()));
    }
    if let Some(c) = call.optional_float(2)? {
        alike(&[&c, &made])?;
        let mut added = within(&c, made.shape())?;
        let beta = call.call.float_or("beta", 1.0);
        if beta != 1.0 {
            added = D::float_mul_scalar(added, Scalar::Float(beta.into()));
        }
        sum = D::float_add(sum, added);
    }
    one(sum, made.shape(), a.element())
}
