//! Tensors that stay on a device between the models that run there.
//!
//! A pipeline hands tensors in host memory from stage to stage. Where the next
//! stage is a model on the same device, a copy to the host and back would be in
//! vain: what is handed on instead is a stand-in of the same type and shape, whose
//! data is nobody's, and [`Residents`] finds the tensor on the device by it.

use std::{collections::HashMap, sync::Arc};

use headland_tensor::{DType, NamedTensors, Shape, Tensor};

use super::{DeviceTensor, GpuModel};
use crate::{
    InferenceError, TensorInfo, Value,
    interpreter::{OpResult, to_tensors},
    value::{Array, Element},
};

/// A run that the device has been told of.
pub struct Started {
    model: Arc<GpuModel>,
    made: Vec<Value>,
}

impl Started {
    pub(super) fn new(model: Arc<GpuModel>, made: Vec<Value>) -> Self {
        Self { model, made }
    }

    /// How many of its outputs are on the device.
    pub fn on_device(&self) -> usize {
        self.made.iter().filter(|value| matches!(value, Value::Device(_))).count()
    }

    /// What the run gives, in host memory, when it is there.
    ///
    /// # Errors
    /// [`InferenceError::Device`] where the device is lost or out of memory, and
    /// [`InferenceError::Failed`] for an output that is not of the type that the
    /// model declares.
    pub async fn read(self) -> Result<NamedTensors, InferenceError> {
        let Self { model, made } = self;
        let mut outputs = Vec::with_capacity(made.len());
        for value in made {
            outputs.push(match value {
                Value::Device(tensor) => model.lane.read(&tensor).await?.into(),
                other => other,
            });
        }
        to_tensors(&model.info.outputs, outputs)
    }

    /// What the run gives, floats left on the device: a stand-in for each of them.
    /// Other outputs, which a model takes from host memory, are read. Where there
    /// are none, nothing is waited for, and a device that fails at this run says so
    /// when something is read from it.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub async fn keep(self, residents: &mut Residents) -> Result<NamedTensors, InferenceError> {
        let Self { model, made } = self;
        let mut outputs = NamedTensors::with_capacity(made.len());
        for (info, value) in model.info.outputs.iter().zip(made) {
            let value = match value {
                Value::Device(tensor) if stays(info, &tensor) => {
                    outputs.push((info.name.clone(), residents.insert(tensor, info, &model)?));
                    continue;
                }
                Value::Device(tensor) => model.lane.read(&tensor).await?.into(),
                other => other,
            };
            outputs.extend(to_tensors([info], vec![value])?);
        }
        Ok(outputs)
    }
}

/// Whether the next model takes it on the device, as a float.
fn stays(info: &TensorInfo, tensor: &DeviceTensor) -> bool {
    matches!(info.dtype, DType::F32 | DType::F16) && tensor.element() == Element::Plain(info.dtype)
}

/// Tensors on a device, by their stand-ins in host memory.
#[derive(Default)]
pub struct Residents {
    /// By where the stand-in's data is, which is no one else's while it is kept.
    kept: HashMap<usize, Resident>,
}

struct Resident {
    /// Keeps the place from being given to another tensor.
    _stand_in: Tensor,
    tensor: DeviceTensor,
    /// Whose output it is: the device is its model's.
    model: Arc<GpuModel>,
}

impl Residents {
    fn insert(
        &mut self,
        tensor: DeviceTensor,
        info: &TensorInfo,
        model: &Arc<GpuModel>,
    ) -> Result<Tensor, InferenceError> {
        let shape = Shape::from_usize(tensor.shape())?;
        let bytes = shape.element_count() * info.dtype.size_bytes();
        let stand_in = Tensor::new(info.dtype, shape, vec![0; bytes])?;
        let resident = Resident { _stand_in: stand_in.clone(), tensor, model: Arc::clone(model) };
        self.kept.insert(place(&stand_in), resident);
        Ok(stand_in)
    }

    /// What a model is fed for a tensor: what is on the device where it is a
    /// stand-in.
    pub(super) fn value(&self, tensor: &Tensor) -> OpResult<Value> {
        match self.kept.get(&place(tensor)) {
            Some(resident) => {
                resident.tensor.reshape(&tensor.shape().to_usize()).map(Value::Device)
            }
            None => Array::from_tensor(tensor).map(Value::Array),
        }
    }

    /// Whether a tensor is a stand-in.
    pub fn has(&self, tensor: &Tensor) -> bool {
        self.kept.contains_key(&place(tensor))
    }

    /// What a stand-in stands for, in host memory when it is there; any other
    /// tensor as it is.
    ///
    /// # Errors
    /// [`InferenceError::Device`] where the device is lost or out of memory.
    pub async fn read(&self, tensor: &Tensor) -> Result<Tensor, InferenceError> {
        let Some(resident) = self.kept.get(&place(tensor)) else { return Ok(tensor.clone()) };
        let array: Array = resident.model.lane.read(&resident.tensor).await?;
        let read = array.to_tensor().ok_or_else(|| InferenceError::Failed {
            reason: format!("the device gave {}", array.element()),
        })?;
        Ok(read.reshape(tensor.shape().clone())?)
    }

    /// Let go of them all. Their stand-ins must not be used any more.
    pub fn clear(&mut self) {
        self.kept.clear();
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.kept.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }
}

fn place(tensor: &Tensor) -> usize {
    tensor.bytes().as_ptr().addr()
}
