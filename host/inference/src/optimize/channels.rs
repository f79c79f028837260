//! Which output channel each weight of a linear operator belongs to.

use tract_onnx::pb::NodeProto;

use super::surgery::is;
use crate::front::nodes::int;

/// The output channels of a constant second input of `Conv`, `ConvTranspose`,
/// `Gemm` or `MatMul`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Channels {
    /// How many there are.
    pub count: usize,
    /// The axis of the weights along which they run.
    pub axis: usize,
    size: usize,
    inner: usize,
    /// Weights of one group of a `ConvTranspose`, whose channels follow one
    /// another along the first axis; for others, all weights.
    per_group: usize,
}

impl Channels {
    /// `None` for other operators, and for weights that do not fit the node.
    pub(super) fn of(node: &NodeProto, dims: &[i64]) -> Option<Self> {
        let dims: Vec<usize> =
            dims.iter().map(|&d| usize::try_from(d).ok()).collect::<Option<_>>()?;
        let rank = dims.len();
        let len = dims.iter().try_fold(1usize, |len, &d| len.checked_mul(d)).filter(|&l| l > 0)?;
        let mut groups = 1;
        let axis = if is(node, "Conv") && rank >= 3 {
            0
        } else if is(node, "ConvTranspose") && rank >= 3 {
            groups = usize::try_from(int(node, "group").unwrap_or(1)).ok().filter(|&g| g > 0)?;
            1
        } else if is(node, "Gemm") && rank == 2 {
            usize::from(int(node, "transB").unwrap_or(0) == 0)
        } else if is(node, "MatMul") && rank >= 2 {
            rank - 1
        } else {
            return None;
        };
        if groups > 1 && !dims[0].is_multiple_of(groups) {
            return None;
        }
        let count = dims[axis].checked_mul(groups)?;
        let inner = dims[axis + 1..].iter().product();
        Some(Self { count, axis, size: dims[axis], inner, per_group: len / groups })
    }

    /// The channel of the weight at `index` in row-major order.
    pub(super) fn at(&self, index: usize) -> usize {
        index / self.per_group * self.size + index / self.inner % self.size
    }
}
