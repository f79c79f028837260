//! `QuantizeLinear` with ONNX's own arithmetic.
//!
//! tract multiplies by the reciprocal of the scale, which lands on the other
//! side of a half now and then and so moves a value by one step. This divides,
//! as ONNX Runtime does, and takes scales and zero points that are no
//! constants.
//!
//! A model that was quantised keeps its activations between a `QuantizeLinear`
//! and the `DequantizeLinear` that alone reads it. tract computes in f32 in
//! between anyway, so the two become one node, [`FakeQuantize`], which gives the same
//! numbers without the integers.
//!
//! # Source
//! <https://onnx.ai/onnx/operators/onnx__QuantizeLinear.html>.

use tract_onnx::{
    model::ParsingContext,
    pb::NodeProto,
    tract_hir::{
        internal::*,
        tract_core::ops::{
            element_wise::{ElementWiseMiniOp, ElementWiseOp},
            quant::DequantizeLinearF32,
        },
    },
};

/// Read a `QuantizeLinear` node.
pub(super) fn build(
    _: &ParsingContext,
    node: &NodeProto,
) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    let block_size = node.get_attr_opt::<i64>("block_size")?.unwrap_or(0);
    ensure!(block_size == 0, "quantization in blocks is not supported");
    let has_zero_point = node.input.get(2).is_some_and(|name| !name.is_empty());
    let datum_type = match node.get_attr_opt::<i64>("output_dtype")?.unwrap_or(0) {
        0 if has_zero_point => None,
        0 | 2 => Some(DatumType::U8),
        3 => Some(DatumType::I8),
        4 => Some(DatumType::U16),
        5 => Some(DatumType::I16),
        other => bail!("quantization to element type {other} is not supported"),
    };
    let axis = node.get_attr_opt("axis")?.unwrap_or(1);
    Ok((expand(QuantizeLinear { axis, datum_type, has_zero_point }), vec![]))
}

/// The node as ONNX has it.
#[derive(Debug, Clone)]
struct QuantizeLinear {
    axis: i64,
    /// `None` when the zero point says.
    datum_type: Option<DatumType>,
    has_zero_point: bool,
}

impl Expansion for QuantizeLinear {
    fn name(&self) -> StaticName {
        "QuantizeLinear".into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        s: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        check_input_arity(inputs, 2 + usize::from(self.has_zero_point))?;
        check_output_arity(outputs, 1)?;
        s.equals(&inputs[0].shape, &outputs[0].shape)?;
        if self.has_zero_point {
            s.equals(&inputs[2].datum_type, &outputs[0].datum_type)?;
        }
        if let Some(datum_type) = self.datum_type {
            s.equals(&outputs[0].datum_type, datum_type)?;
        }
        Ok(())
    }

    fn wire(
        &self,
        prefix: &str,
        target: &mut TypedModel,
        inputs: &[OutletId],
    ) -> TractResult<TVec<OutletId>> {
        let datum_type = match inputs.get(2) {
            Some(&zero_point) => target.outlet_fact(zero_point)?.datum_type,
            None => self.datum_type.unwrap_or(DatumType::U8),
        };
        let rank = target.outlet_fact(inputs[0])?.rank() as i64;
        let axis = if self.axis < 0 { self.axis + rank } else { self.axis };
        let axis = usize::try_from(axis).context("quantization axis")?;
        target.wire_node(prefix, Quantize { axis, datum_type }, inputs)
    }
}

/// `saturate(round_half_to_even(x / scale) + zero_point)`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Quantize {
    /// Where scales and zero points run, when there is more than one.
    axis: usize,
    datum_type: DatumType,
}

impl Op for Quantize {
    fn name(&self) -> StaticName {
        "Quantize".into()
    }

    op_as_typed_op!();
}

impl EvalOp for Quantize {
    op_out_of_plan!();

    fn eval(&self, _: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let bounds = bounds(self.datum_type)?;
        Ok(tvec!(
            match self.datum_type {
                DatumType::U8 => self.quantize(&inputs, bounds, |v| v as u8)?,
                DatumType::I8 => self.quantize(&inputs, bounds, |v| v as i8)?,
                DatumType::U16 => self.quantize(&inputs, bounds, |v| v as u16)?,
                DatumType::I16 => self.quantize(&inputs, bounds, |v| v as i16)?,
                other => bail!("quantization to {other:?} is not supported"),
            }
            .into_tvalue()
        ))
    }
}

/// The lowest and the highest value of a type.
fn bounds(datum_type: DatumType) -> TractResult<(f32, f32)> {
    Ok(match datum_type {
        DatumType::U8 => (0.0, 255.0),
        DatumType::I8 => (-128.0, 127.0),
        DatumType::U16 => (0.0, 65_535.0),
        DatumType::I16 => (-32_768.0, 32_767.0),
        other => bail!("quantization to {other:?} is not supported"),
    })
}

/// Added to a number of at most 2^22 and taken away again, 1.5 * 2^23 rounds it
/// to an integer, halves to even. It vectorises where `round_ties_even` is a
/// call.
const ROUND: f32 = 12_582_912.0;

/// `x` in steps of the scale, within bounds, plus [`ROUND`]: the last bits are
/// those of the integer. NaN is the lowest, as in ONNX Runtime.
///
/// Without a branch, and without a cast, which would have to look for NaN: so it
/// vectorises.
#[inline(always)]
fn steps(x: f32, scale: f32, lowest: f32, highest: f32) -> f32 {
    let steps = x / scale;
    let steps = if steps > lowest { steps } else { lowest };
    let steps = if steps < highest { steps } else { highest };
    steps + ROUND
}

impl Quantize {
    fn quantize<T: Datum + Copy>(
        &self,
        inputs: &[TValue],
        (lowest, highest): (f32, f32),
        narrow: impl Fn(i32) -> T,
    ) -> TractResult<Tensor> {
        let run = |out: &mut [T], x: &[f32], scale: f32, zero: f32| {
            let (lowest, highest) = (lowest - zero, highest - zero);
            // The bits that ROUND adds, taken away together with adding the
            // zero point.
            let offset = (zero as i32).wrapping_sub(ROUND.to_bits() as i32);
            for (out, &x) in out.iter_mut().zip(x) {
                let bits = steps(x, scale, lowest, highest).to_bits() as i32;
                *out = narrow(bits.wrapping_add(offset));
            }
        };
        let x = inputs[0].cast_to::<f32>()?;
        let scales = inputs[1].cast_to::<f32>()?;
        let zeros = match inputs.get(2) {
            Some(zeros) => zeros.cast_to::<f32>()?.into_owned(),
            None => Tensor::zero::<f32>(scales.shape())?,
        };
        let shape = x.shape();
        let (x, scales) = (x.try_as_plain_ram()?, scales.try_as_plain_ram()?);
        let zeros = zeros.try_as_plain_ram()?;
        let (x, scales) = (x.as_slice::<f32>()?, scales.as_slice::<f32>()?);
        let zeros = zeros.as_slice::<f32>()?;
        ensure!(
            scales.len() == zeros.len(),
            "{} scales, but {} zero points",
            scales.len(),
            zeros.len()
        );
        let mut made = Tensor::zero_dt(T::datum_type(), shape)?;
        let mut plain = made.try_as_plain_ram_mut()?;
        let out = plain.as_slice_mut::<T>()?;
        if let ([scale], [zero]) = (scales, zeros) {
            run(out, x, *scale, *zero);
        } else {
            let size = shape.get(self.axis).copied().unwrap_or(0);
            ensure!(
                size == scales.len(),
                "{} scales for axis {} of {shape:?}",
                scales.len(),
                self.axis
            );
            let inner: usize = shape[self.axis + 1..].iter().product();
            // Elements of one scale lie together; an empty tensor has none.
            let runs = out.chunks_mut(inner.max(1)).zip(x.chunks(inner.max(1)));
            for (index, (out, x)) in runs.enumerate() {
                run(out, x, scales[index % size], zeros[index % size]);
            }
        }
        Ok(made)
    }

    /// What to round to, and what to make of it, where one `DequantizeLinear`
    /// reads this node and both have one constant scale and zero point.
    fn in_one(&self, model: &TypedModel, node: &TypedNode) -> TractResult<Option<FakeQuantize>> {
        let Some(next) = model.single_succ(node.id)? else { return Ok(None) };
        let Some(back) = next.op_as::<DequantizeLinearF32>() else { return Ok(None) };
        let constant = |input: usize| -> TractResult<Option<f32>> {
            let fact = model.outlet_fact(node.inputs[input])?;
            let Some(value) = fact.konst.as_ref().filter(|v| v.len() == 1) else {
                return Ok(None);
            };
            Ok(value.cast_to::<f32>()?.try_as_plain_ram()?.as_slice::<f32>()?.first().copied())
        };
        let zero = if node.inputs.len() > 2 { constant(2)? } else { Some(0.0) };
        let (Some(scale), Some(zero)) = (constant(1)?, zero) else { return Ok(None) };
        let is_read_elsewhere = model.outputs.contains(&node.id.into());
        if is_read_elsewhere || model.outlet_fact(node.inputs[0])?.datum_type != f32::datum_type() {
            return Ok(None);
        }
        let (lowest, highest) = bounds(self.datum_type)?;
        Ok(Some(FakeQuantize {
            scale,
            lowest: lowest - zero,
            highest: highest - zero,
            // Both are integers of at most 16 bits.
            shift: zero - back.zero_point as f32,
            back: back.scale,
        }))
    }
}

impl TypedOp for Quantize {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec!(self.datum_type.fact(inputs[0].shape.clone())))
    }

    fn declutter(
        &self,
        model: &TypedModel,
        node: &TypedNode,
    ) -> TractResult<Option<TypedModelPatch>> {
        let Some(both) = self.in_one(model, node)? else { return Ok(None) };
        let Some(next) = model.single_succ(node.id)? else { return Ok(None) };
        let mut patch = TypedModelPatch::default();
        let x = patch.tap_model(model, node.inputs[0])?;
        let op = ElementWiseOp(Box::new(both), None);
        let out = patch.wire_node(&next.name, op, &[x])?;
        patch.shunt_outside(model, next.id.into(), out[0])?;
        Ok(Some(patch))
    }

    as_op!();
}

/// `QuantizeLinear` and `DequantizeLinear` in one, f32 to f32:
/// `(saturate(round_half_to_even(x / scale) + zero) - back's zero) * back's scale`.
#[derive(Debug, Clone, PartialEq)]
struct FakeQuantize {
    scale: f32,
    /// The integer type's bounds, less the zero point.
    lowest: f32,
    highest: f32,
    /// The zero point, less that of the way back.
    shift: f32,
    /// The scale of the way back.
    back: f32,
}

impl Eq for FakeQuantize {}

impl ElementWiseMiniOp for FakeQuantize {
    fn name(&self) -> String {
        "FakeQuantize".to_owned()
    }

    fn eval_in_place(&self, t: &mut Tensor, _: Option<DatumType>) -> TractResult<()> {
        // Integers in f32: none of the sums is rounded, and none is -0.
        for x in t.try_as_plain_ram_mut()?.as_slice_mut::<f32>()? {
            let steps = steps(*x, self.scale, self.lowest, self.highest) - ROUND;
            *x = (steps + self.shift) * self.back;
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// A quantised number as the specification has it, in f64.
    fn quantized(x: f32, scale: f32, zero: i32, (lowest, highest): (f32, f32)) -> i32 {
        let steps = f64::from(x / scale).round_ties_even() + f64::from(zero);
        steps.max(f64::from(lowest)).min(f64::from(highest)) as i32
    }

    fn xs(scale: f32) -> Vec<f32> {
        // Every half on both sides of the bounds of eight bits, and their
        // neighbours.
        let mut xs: Vec<f32> = (-600..600)
            .map(|half| half as f32 * 0.5 * scale)
            .flat_map(|x| [x.next_down(), x, x.next_up()])
            .collect();
        xs.extend([f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.0, 0.0, 1e30, -1e30, 1e-40]);
        xs
    }

    fn constant(datum_type: DatumType, value: i32) -> Tensor {
        tensor0(value).cast_to_dt(datum_type).unwrap().into_owned()
    }

    fn run(model: TypedModel, x: &[f32]) -> Tensor {
        let plan = model.into_runnable().unwrap();
        plan.run(tvec!(tensor1(x).into_tvalue())).unwrap().remove(0).into_tensor()
    }

    /// `DequantizeLinear(QuantizeLinear(x))`.
    fn there_and_back(
        len: usize,
        datum_type: DatumType,
        (scale, zero): (f32, i32),
        (back, back_zero): (f32, i32),
    ) -> TypedModel {
        let mut model = TypedModel::default();
        let x = model.add_source("x", f32::fact([len])).unwrap();
        let scale = model.add_const("scale", tensor0(scale)).unwrap();
        let zero = model.add_const("zero", constant(datum_type, zero)).unwrap();
        let there =
            model.wire_node("q", Quantize { axis: 0, datum_type }, &[x, scale, zero]).unwrap();
        let op = DequantizeLinearF32::new(back, back_zero);
        let back = model.wire_node("dq", op, &there).unwrap();
        model.select_output_outlets(&back).unwrap();
        model
    }

    #[test]
    fn halves_bounds_and_nan_are_quantised_as_specified() {
        for (datum_type, zero) in [
            (DatumType::U8, 128),
            (DatumType::I8, 0),
            (DatumType::U16, 40_000),
            (DatumType::I16, -7),
        ] {
            for scale in [1.0, 0.1, 0.006_283_178_5] {
                let xs = xs(scale);
                let inputs = tvec!(
                    tensor1(&xs).into_tvalue(),
                    tensor0(scale).into_tvalue(),
                    constant(datum_type, zero).into_tvalue()
                );
                let op = Quantize { axis: 0, datum_type };
                let made = op.eval_out_of_plan(inputs).unwrap().unwrap().remove(0);
                assert_eq!(made.datum_type(), datum_type);
                let made = made.cast_to::<i32>().unwrap().into_owned();
                let made = made.try_as_plain_ram().unwrap();
                for (x, made) in xs.iter().zip(made.as_slice::<i32>().unwrap()) {
                    let expected = quantized(*x, scale, zero, bounds(datum_type).unwrap());
                    assert_eq!(*made, expected, "{x} in steps of {scale}, to {datum_type:?}");
                }
            }
        }
    }

    #[test]
    fn there_and_back_in_one_gives_the_same_bits() {
        for (there, back) in [
            ((0.1, 0), (0.1, 0)),
            ((0.006_283_178_5, 3), (0.006_283_178_5, 3)),
            ((0.5, 100), (0.25, 90)),
        ] {
            for datum_type in [DatumType::U8, DatumType::I8] {
                let xs = xs(there.0);
                let model = there_and_back(xs.len(), datum_type, there, back);
                let as_one = model.clone().into_decluttered().unwrap();
                assert!(as_one.nodes().iter().any(|n| n.op.name() == "FakeQuantize"), "{as_one}");
                assert!(!as_one.nodes().iter().any(|n| n.op_is::<Quantize>()), "{as_one}");
                assert_eq!(run(as_one, &xs).as_bytes(), run(model, &xs).as_bytes());
            }
        }
    }

    #[test]
    fn integers_that_are_read_elsewhere_are_made() {
        let mut model = there_and_back(4, DatumType::U8, (0.1, 0), (0.1, 0));
        let outputs: TVec<OutletId> =
            ["q", "dq"].iter().map(|n| model.node_id_by_name(n).unwrap().into()).collect();
        model.select_output_outlets(&outputs).unwrap();
        let decluttered = model.into_decluttered().unwrap();
        assert!(decluttered.nodes().iter().any(|n| n.op_is::<Quantize>()), "{decluttered}");
    }
}
