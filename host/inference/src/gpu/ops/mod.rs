//! The operators that run on a device, by family.
//!
//! An operator says [`OpError::Unsupported`] for what it does not do there, with
//! the reason; the node then runs on the host. Shapes are checked before burn
//! sees them, because burn panics on shapes that do not fit.

mod elementwise;
mod linear;
mod nn;
mod norm;
mod quantize;
mod recurrent;
mod reduce;
mod shape;

use burn_backend::{
    Shape,
    ops::{BoolTensorOps, FloatTensorOps, IntTensorOps},
};
use burn_dispatch::{Dispatch, DispatchTensor};
use headland_tensor::DType;

use super::{
    Lane,
    device::{Device, DeviceTensor, Storage, guard},
};
use crate::{
    interpreter::{Call, OpError, OpResult, broadcast_shape},
    value::{Array, Element, Value},
};

/// What an operator does on a device.
type Op = fn(&DeviceCall<'_>) -> OpResult<Vec<Value>>;

const FAMILIES: [fn(&str) -> Option<Op>; 8] = [
    elementwise::find,
    linear::find,
    shape::find,
    nn::find,
    reduce::find,
    norm::find,
    quantize::find,
    recurrent::find,
];

/// Run a node on the device.
pub(super) fn run(call: &Call<'_>, lane: &Lane) -> OpResult<Vec<Value>> {
    let op = match call.domain() {
        "" => FAMILIES.iter().find_map(|family| family(call.op())),
        _ => None,
    };
    let op = op.ok_or_else(|| OpError::unsupported("no such operator for the device"))?;
    // Whatever burn panics on, the host has its own answer to. If it is that the
    // device is lost, fetching the inputs from there says so.
    guard("running on the device", || op(&DeviceCall { call, lane }))
        .unwrap_or_else(|e| Err(OpError::unsupported(e.to_string())))
}

/// The part at `index` of axis `along`, which is gone from the result.
pub(super) fn part_at(x: &DeviceTensor, along: usize, index: usize) -> OpResult<DeviceTensor> {
    let part = shape::range(x, along, index, 1)?;
    let mut shape = x.shape().to_vec();
    shape.remove(along);
    part.reshape(&shape)
}

/// Tensors of one shape, along a new axis.
pub(super) fn stack(tensors: &[DeviceTensor], along: usize) -> OpResult<DeviceTensor> {
    let widened = tensors
        .iter()
        .map(|tensor| {
            let mut shape = tensor.shape().to_vec();
            shape.insert(along, 1);
            tensor.reshape(&shape)
        })
        .collect::<OpResult<Vec<_>>>()?;
    shape::join(&widened, along)
}

/// One execution of a node on the device.
struct DeviceCall<'a> {
    call: &'a Call<'a>,
    lane: &'a Lane,
}

impl<'a> std::ops::Deref for DeviceCall<'a> {
    type Target = Call<'a>;

    fn deref(&self) -> &Call<'a> {
        self.call
    }
}

impl DeviceCall<'_> {
    fn device(&self) -> &Device {
        &self.lane.device
    }

    /// An input on the device, brought there if need be.
    fn tensor(&self, index: usize) -> OpResult<DeviceTensor> {
        self.on_device(self.call.need(index)?)
    }

    fn on_device(&self, value: &Value) -> OpResult<DeviceTensor> {
        match value {
            Value::Device(tensor) => Ok(tensor.clone()),
            Value::Optional(Some(inner)) => self.on_device(inner),
            other => self.lane.upload(other.array()?),
        }
    }

    /// As [`tensor`](Self::tensor), for an input that may be left out.
    fn optional_tensor(&self, index: usize) -> OpResult<Option<DeviceTensor>> {
        self.call.value(index).map(|value| self.on_device(value)).transpose()
    }

    /// An input that the device holds in floats that stand for themselves.
    fn float(&self, index: usize) -> OpResult<DeviceTensor> {
        self.as_float(self.tensor(index)?)
    }

    /// As [`float`](Self::float), for an input that may be left out.
    fn optional_float(&self, index: usize) -> OpResult<Option<DeviceTensor>> {
        self.optional_tensor(index)?.map(|t| self.as_float(t)).transpose()
    }

    fn as_float(&self, tensor: DeviceTensor) -> OpResult<DeviceTensor> {
        if tensor.storage() == Storage::Float && tensor.element().is_float() {
            Ok(tensor)
        } else {
            Err(OpError::unsupported(format!("{} on the device", tensor.element())))
        }
    }

    /// An input in host memory: sizes, axes, bounds. One that is on the device
    /// is not fetched for it.
    fn known(&self, index: usize) -> OpResult<&Array> {
        match self.call.need(index)? {
            Value::Device(_) => Err(OpError::unsupported(format!(
                "input {index} decides sizes, and is on the device"
            ))),
            other => other.array(),
        }
    }

    /// As [`known`](Self::known), for an input that may be left out.
    fn optional_known(&self, index: usize) -> OpResult<Option<&Array>> {
        self.call.value(index).map(|_| self.known(index)).transpose()
    }

    /// The shape of an input, wherever it is.
    fn shape_of(&self, index: usize) -> OpResult<Vec<usize>> {
        match self.call.need(index)? {
            Value::Device(tensor) => Ok(tensor.shape().to_vec()),
            other => Ok(other.array()?.shape().to_vec()),
        }
    }
}

/// A result on the device.
fn one(tensor: DispatchTensor, shape: &[usize], element: Element) -> OpResult<Vec<Value>> {
    Ok(vec![value(tensor, shape, element)?])
}

/// A result on the device, in this shape.
fn value(tensor: DispatchTensor, shape: &[usize], element: Element) -> OpResult<Value> {
    DeviceTensor::new(tensor, element).reshape(shape).map(Value::Device)
}

/// Refuse, for the device, tensors of different element types.
fn alike(tensors: &[&DeviceTensor]) -> OpResult<()> {
    let elements = tensors.iter().map(|tensor| tensor.element());
    match elements.clone().zip(elements.skip(1)).find(|(a, b)| a != b) {
        Some((a, b)) => Err(OpError::unsupported(format!("{a} with {b}"))),
        None => Ok(()),
    }
}

/// The shape that these broadcast to, within the limit.
fn common_shape(call: &DeviceCall<'_>, tensors: &[&DeviceTensor]) -> OpResult<Vec<usize>> {
    let shapes: Vec<&[usize]> = tensors.iter().map(|tensor| tensor.shape()).collect();
    let shape = broadcast_shape(&shapes)?;
    if let Some(first) = tensors.first() {
        call.reserve(first.element(), &shape)?;
    }
    Ok(shape)
}

/// A tensor that broadcasts to the shape, with as many dimensions.
fn within(tensor: &DeviceTensor, shape: &[usize]) -> OpResult<DispatchTensor> {
    if broadcast_shape(&[tensor.shape(), shape])? != shape {
        let own = tensor.shape();
        return Err(OpError::invalid(format!("{own:?} does not broadcast to {shape:?}")));
    }
    Ok(align(tensor, shape.len())?.tensor)
}

/// Spread a tensor over a shape that it broadcasts to.
fn expand(tensor: &DeviceTensor, shape: &[usize]) -> OpResult<DispatchTensor> {
    let aligned = align(tensor, shape.len())?;
    if aligned.shape() == shape && !shape.is_empty() {
        return Ok(aligned.tensor);
    }
    let target = Shape::from(if shape.is_empty() { vec![1] } else { shape.to_vec() });
    Ok(match aligned.storage() {
        Storage::Float => Dispatch::float_expand(aligned.tensor, target),
        Storage::Int => Dispatch::int_expand(aligned.tensor, target),
        Storage::Bool => Dispatch::bool_expand(aligned.tensor, target),
    })
}

/// A tensor with dimensions of one in front, as broadcasting adds them.
fn align(tensor: &DeviceTensor, rank: usize) -> OpResult<DeviceTensor> {
    let mut shape = vec![1; rank.saturating_sub(tensor.rank())];
    shape.extend(tensor.shape());
    tensor.reshape(&shape)
}

/// The dimensions in another order.
fn permute(tensor: &DeviceTensor, order: &[usize]) -> DeviceTensor {
    let moved = tensor.tensor.clone();
    let moved = match tensor.storage() {
        Storage::Float => Dispatch::float_permute(moved, order),
        Storage::Int => Dispatch::int_permute(moved, order),
        Storage::Bool => Dispatch::bool_permute(moved, order),
    };
    DeviceTensor::new(moved, tensor.element())
}

const BOOL: Element = Element::Plain(DType::Bool);
const I64: Element = Element::Plain(DType::I64);
const F32: Element = Element::Plain(DType::F32);
const F16: Element = Element::Plain(DType::F16);
