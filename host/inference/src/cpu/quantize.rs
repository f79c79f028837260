//! `QuantizeLinear` with ONNX's own arithmetic.
//!
//! tract multiplies by the reciprocal of the scale, which lands on the other
//! side of a half now and then and so moves a value by one step. This divides,
//! as ONNX Runtime does, and takes scales and zero points that are no
//! constants.
//!
//! # Source
//! <https://onnx.ai/onnx/operators/onnx__QuantizeLinear.html>.

use tract_onnx::{model::ParsingContext, pb::NodeProto, tract_hir::internal::*};

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
        Ok(tvec!(
            match self.datum_type {
                DatumType::U8 => self.quantize(&inputs, 0.0, 255.0, |v| v as u8)?,
                DatumType::I8 => self.quantize(&inputs, -128.0, 127.0, |v| v as i8)?,
                DatumType::U16 => self.quantize(&inputs, 0.0, 65_535.0, |v| v as u16)?,
                DatumType::I16 => self.quantize(&inputs, -32_768.0, 32_767.0, |v| v as i16)?,
                other => bail!("quantization to {other:?} is not supported"),
            }
            .into_tvalue()
        ))
    }
}

impl Quantize {
    fn quantize<T: Datum + Copy>(
        &self,
        inputs: &[TValue],
        lowest: f32,
        highest: f32,
        narrow: impl Fn(i32) -> T,
    ) -> TractResult<Tensor> {
        // Adding and taking away 1.5 * 2^23 rounds to an integer, halves to
        // even, for all that is left after clamping; it vectorises where
        // `round_ties_even` is a call.
        const ROUND: f32 = 12_582_912.0;
        let one = |x: f32, scale: f32, zero: f32| {
            let steps = (x / scale).clamp(lowest - zero, highest - zero);
            narrow(((steps + ROUND) - ROUND + zero) as i32)
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
        let out: Vec<T> = if let ([scale], [zero]) = (scales, zeros) {
            x.iter().map(|&x| one(x, *scale, *zero)).collect()
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
            x.chunks(inner.max(1))
                .enumerate()
                .flat_map(|(run, x)| {
                    let (scale, zero) = (scales[run % size], zeros[run % size]);
                    x.iter().map(move |&x| (x, scale, zero))
                })
                .map(|(x, scale, zero)| one(x, scale, zero))
                .collect()
        };
        Tensor::from_shape(shape, &out)
    }
}

impl TypedOp for Quantize {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec!(self.datum_type.fact(inputs[0].shape.clone())))
    }

    as_op!();
}
