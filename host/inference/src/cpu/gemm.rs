//! `Gemm` over any float.
//!
//! tract holds the two factors as f32 and so has no `Gemm` over f16.
//!
//! # Source
//! <https://onnx.ai/onnx/operators/onnx__Gemm.html>.

use tract_onnx::{
    model::ParsingContext,
    pb::NodeProto,
    tract_hir::{
        internal::*,
        ops::binary::wire_rank_broadcast,
        tract_core::ops::{einsum::EinSum, math},
    },
};

/// Read a `Gemm` node.
pub(super) fn build(
    _: &ParsingContext,
    node: &NodeProto,
) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    let factor = |name| Ok::<f32, TractError>(node.get_attr_opt(name)?.unwrap_or(1.0));
    let transposed = |name| Ok::<bool, TractError>(node.get_attr_opt(name)?.unwrap_or(false));
    let gemm = Gemm {
        alpha: factor("alpha")?,
        beta: factor("beta")?,
        trans_a: transposed("transA")?,
        trans_b: transposed("transB")?,
        has_c: node.input.get(2).is_some_and(|name| !name.is_empty()),
    };
    Ok((expand(gemm), vec![]))
}

/// `alpha * a * b + beta * c`.
#[derive(Debug, Clone)]
struct Gemm {
    alpha: f32,
    beta: f32,
    trans_a: bool,
    trans_b: bool,
    has_c: bool,
}

impl Expansion for Gemm {
    fn name(&self) -> StaticName {
        "Gemm".into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        s: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        check_input_arity(inputs, 2 + usize::from(self.has_c))?;
        check_output_arity(outputs, 1)?;
        for input in inputs {
            s.equals(&input.datum_type, &outputs[0].datum_type)?;
        }
        for matrix in [&inputs[0], &inputs[1], &outputs[0]] {
            s.equals(&matrix.rank, 2)?;
        }
        let (rows, inner) = if self.trans_a { (1, 0) } else { (0, 1) };
        let (depth, columns) = if self.trans_b { (1, 0) } else { (0, 1) };
        s.equals(&inputs[0].shape[rows], &outputs[0].shape[0])?;
        s.equals(&inputs[0].shape[inner], &inputs[1].shape[depth])?;
        s.equals(&inputs[1].shape[columns], &outputs[0].shape[1])?;
        Ok(())
    }

    fn wire(
        &self,
        prefix: &str,
        target: &mut TypedModel,
        inputs: &[OutletId],
    ) -> TractResult<TVec<OutletId>> {
        let datum_type = target.outlet_fact(inputs[0])?.datum_type;
        let axes = AxesMapping::for_numpy_matmul(2, self.trans_a, self.trans_b, false)?;
        let product = EinSum::new(axes, datum_type);
        let product = target.wire_node(format!("{prefix}.product"), product, &inputs[..2])?[0];
        let product = scaled(product, self.alpha, &format!("{prefix}.alpha"), target)?;
        let Some(&c) = inputs.get(2) else { return Ok(tvec!(product)) };
        let c = scaled(c, self.beta, &format!("{prefix}.beta"), target)?;
        let sides = wire_rank_broadcast(prefix, target, &[product, c])?;
        target.wire_node(prefix, math::add(), &sides)
    }
}

/// A value times a factor, which is of the value's type.
fn scaled(
    value: OutletId,
    factor: f32,
    name: &str,
    target: &mut TypedModel,
) -> TractResult<OutletId> {
    if factor == 1.0 {
        return Ok(value);
    }
    let fact = target.outlet_fact(value)?;
    let (datum_type, rank) = (fact.datum_type, fact.rank());
    ensure!(datum_type.is_float(), "a factor of {factor} over {datum_type:?}");
    let factor = tensor0(factor).cast_to_dt(datum_type)?.into_owned().broadcast_into_rank(rank)?;
    let factor = target.add_const(format!("{name}.factor"), factor)?;
    Ok(target.wire_node(name, math::mul(), &[factor, value])?[0])
}
