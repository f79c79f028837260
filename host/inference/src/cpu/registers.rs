//! Vector registers left in good order.
//!
//! tract's AVX-512 kernels return with the upper halves of registers in use.
//! From then on every SSE instruction, which is what most of a program is
//! compiled to, keeps those halves and so waits for whatever wrote its register
//! last: loops after a matrix product, our caller's among them, take several
//! times as long. The instruction that ends this, `vzeroupper`, is at the end
//! of every function that a compiler makes with AVX.

use std::hint::black_box;

use half::{f16, slice::HalfFloatSliceExt};
use tract_onnx::tract_hir::{
    internal::TypedNode,
    tract_core::ops::{logic::IfThenElse, matmul::optimized::OptMatMul, scan::OptScan},
};

/// Whether a node runs tract's kernels for matrix products.
pub(super) fn are_left_in_use_by(node: &TypedNode) -> bool {
    node.op_is::<OptMatMul>() || node.op_is::<OptScan>() || node.op_is::<IfThenElse>()
}

/// Clear the upper halves, where there are any. Takes some tens of nanoseconds.
pub(super) fn clear() {
    if cfg!(target_arch = "x86_64") {
        // On processors with F16C, eight numbers at a time are converted by a
        // function made with AVX. One without it has no upper halves that
        // kernels would use.
        let mut wide = [0f32; 8];
        black_box(&[f16::ONE; 8]).convert_to_f32_slice(&mut wide);
        black_box(wide);
    }
}
