//! Inputs for many runs.

use headland_tensor::{DType, NamedTensors, Shape, Tensor};

use crate::{Array, Element, InferenceError, ModelInfo, OpError};

/// One tensor for each input of a model; each index of their first axis is one
/// sample.
#[derive(Debug, Clone)]
pub struct Samples {
    inputs: Vec<Input>,
    len: usize,
}

#[derive(Debug, Clone)]
struct Input {
    name: String,
    tensor: Tensor,
    /// The shape of one sample as the model takes it.
    shape: Shape,
    bytes: usize,
}

impl Samples {
    /// Samples for a model. A sample with one dimension less than the input gets
    /// a batch of one in front; whole numbers become f32 where that is what the
    /// model takes.
    ///
    /// # Errors
    /// [`InferenceError::MissingInput`], and [`InferenceError::Failed`] for
    /// tensors that hold no samples, or not equally many. Whether a sample fits
    /// the model shows when it runs.
    pub fn new(info: &ModelInfo, tensors: NamedTensors) -> Result<Self, InferenceError> {
        let failed = |reason: String| InferenceError::Failed { reason };
        let mut len = None;
        let mut inputs = Vec::new();
        for input in &info.inputs {
            let name = &input.name;
            let (_, tensor) = tensors
                .iter()
                .find(|(given, _)| given == name)
                .ok_or_else(|| InferenceError::MissingInput { name: name.clone() })?;
            let (&count, sample) = match tensor.shape().dims().split_first() {
                Some((count, sample)) if *count > 0 => (count, sample),
                _ => {
                    let shape = tensor.shape();
                    return Err(failed(format!("samples for {name:?} of shape {shape}: none")));
                }
            };
            let others = *len.get_or_insert(count);
            if others != count {
                let reason =
                    format!("{count} samples for {name:?}, but {others} for another input");
                return Err(failed(reason));
            }
            let mut dims = sample.to_vec();
            if dims.len() + 1 == input.shape.len() {
                dims.insert(0, 1);
            }
            let tensor = if tensor.dtype() != input.dtype && input.dtype == DType::F32 {
                as_f32(tensor).map_err(|e| failed(format!("samples for {name:?}: {e}")))?
            } else {
                tensor.clone()
            };
            let shape = Shape::new(dims)?;
            let bytes = shape.element_count() * tensor.dtype().size_bytes();
            inputs.push(Input { name: name.clone(), tensor, shape, bytes });
        }
        Ok(Self { inputs, len: len.unwrap_or(0) as usize })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none, which is so only of a model without inputs.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The inputs of one run.
    ///
    /// # Errors
    /// [`InferenceError::Failed`] past the last sample.
    pub fn get(&self, index: usize) -> Result<NamedTensors, InferenceError> {
        let of = |input: &Input| {
            let start = index * input.bytes;
            let bytes = input.tensor.bytes().get(start..start + input.bytes).ok_or_else(|| {
                InferenceError::Failed { reason: format!("there is no sample {index}") }
            })?;
            let tensor = Tensor::new(input.tensor.dtype(), input.shape.clone(), bytes)?;
            Ok((input.name.clone(), tensor))
        };
        self.inputs.iter().map(of).collect()
    }
}

fn as_f32(tensor: &Tensor) -> Result<Tensor, OpError> {
    let array = Array::from_tensor(tensor)?;
    let wide = Array::from_f32s(Element::Plain(DType::F32), array.shape(), array.to_f32s()?)?;
    wide.to_tensor().ok_or_else(|| OpError::invalid("too large"))
}
