//! The GPU executor: the interpreter's walk, with burn's tensors on a device in
//! place of arrays in host memory.
//!
//! Floats of a model's inputs go to the device when a run starts, constants when
//! they are first used there, once; intermediate results stay, and only what
//! the model gives comes back. Shapes, axes and the arithmetic on them stay in
//! host memory, where they came from. What the device cannot run, the
//! interpreter runs on the host, and a [`Placement`] says for each node where it
//! ran and why; [`GpuExecutor::strict`] refuses instead.

mod device;
mod ops;
mod resident;

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use headland_tensor::{NamedTensors, Tensor};
use serde::Serialize;

use device::guard;
pub use device::{Adapter, Device, DeviceTensor};
pub use resident::{Residents, Started};

use crate::{
    Engine, Executor, InferenceError, Interpreted, LoadLimits, Model, ModelInfo, State,
    StateBinding, Value,
    deadline::Deadline,
    front,
    interpreter::{Call, OpError, OpResult, from_tensors, ops as host_ops, to_tensors},
    session::Held,
    value::{Array, Element, Lanes},
};

/// Runs models on a device of burn's: a GPU through wgpu, or burn's own CPU
/// backend.
#[derive(Debug, Clone)]
pub struct GpuExecutor {
    device: Device,
    strict: bool,
}

impl GpuExecutor {
    /// Run on this device; nodes that it does not run go to the host.
    pub fn new(device: Device) -> Self {
        Self { device, strict: false }
    }

    /// Run on this device, and refuse models with a node that it does not run.
    pub fn strict(device: Device) -> Self {
        Self { device, strict: true }
    }
}

impl Executor for GpuExecutor {
    fn name(&self) -> &'static str {
        "gpu"
    }

    fn load(&self, onnx: &[u8], limits: &LoadLimits) -> Result<Arc<dyn Model>, InferenceError> {
        self.load_placed(onnx, limits).map(|model| model as Arc<dyn Model>)
    }

    fn run_wide(
        &self,
        model: &Interpreted,
        inputs: Vec<Value>,
    ) -> Result<Vec<Value>, InferenceError> {
        let lane = Lane::new(self.device.clone(), self.strict, model);
        let made = lane.run(model, inputs, None)?;
        lane.outputs(made)
    }
}

impl GpuExecutor {
    /// As [`Executor::load`], and the model can say where its nodes run.
    ///
    /// # Errors
    /// As [`Executor::load`].
    pub fn load_placed(
        &self,
        onnx: &[u8],
        limits: &LoadLimits,
    ) -> Result<Arc<GpuModel>, InferenceError> {
        let (mut proto, info) = front::open(onnx, limits)?;
        front::rewrite(&mut proto);
        let model = Interpreted::new(onnx, &proto, limits)?;
        let lane = Lane::new(self.device.clone(), self.strict, &model);
        Ok(Arc::new(GpuModel { info, model, lane }))
    }
}

/// A model on a device.
pub struct GpuModel {
    info: ModelInfo,
    model: Interpreted,
    lane: Lane,
}

impl GpuModel {
    /// Where each node ran in the runs so far, in the order of their first.
    pub fn placements(&self) -> Vec<Placement> {
        self.lane.lock().placements.clone()
    }

    /// As [`Model::run`] where nothing may wait, as in a browser: the device is
    /// told all there is to do at once, and its outputs are awaited. A model with
    /// a node that the device does not run is refused by name there.
    ///
    /// # Errors
    /// As [`Model::run_until`].
    pub async fn run_async(
        self: &Arc<Self>,
        inputs: &[(String, Tensor)],
    ) -> Result<NamedTensors, InferenceError> {
        self.start(inputs, &Residents::default())?.read().await
    }

    /// Tell the device all there is to do for one run, and wait for nothing.
    /// Inputs that are stand-ins of `residents` are there already.
    ///
    /// # Errors
    /// As [`run_async`](Self::run_async), but for what only shows when outputs
    /// are read.
    pub fn start(
        self: &Arc<Self>,
        inputs: &[(String, Tensor)],
        residents: &Residents,
    ) -> Result<Started, InferenceError> {
        let bound = self.info.bind(inputs)?;
        let fed = bound.iter().map(|tensor| residents.value(tensor)).collect::<OpResult<_>>();
        let fed = fed.map_err(OpError::outside)?;
        let made = self.lane.run(&self.model, fed, None)?;
        Ok(Started::new(Arc::clone(self), made))
    }

    /// Run once on zeros and await the end of it, so that shaders are compiled
    /// before they are needed; see [`Model::warm_up`].
    ///
    /// # Errors
    /// As [`run_async`](Self::run_async): what refuses zeros of the declared
    /// shapes may take something real, but for [`InferenceError::Unsupported`] and
    /// [`InferenceError::Device`] there is no hope.
    pub async fn warm_up_async(self: &Arc<Self>) -> Result<(), InferenceError> {
        match self.info.zeros() {
            Some(zeros) => self.run_async(&zeros).await.map(drop),
            None => Ok(()),
        }
    }

    /// Copies between host and device in the runs so far.
    pub fn transfers(&self) -> Transfers {
        self.lane.lock().transfers
    }
}

impl Model for GpuModel {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn engine(&self) -> Engine {
        let placements = self.placements();
        let count = |place| placements.iter().filter(|p| p.place == place).count();
        let (on_device, on_host) = (count(Place::Device), count(Place::Host));
        let device = self.lane.device.name();
        let name = match on_host {
            0 => format!("gpu, {device}"),
            1 => format!("gpu, {device}, 1 node on the host"),
            count => format!("gpu, {device}, {count} nodes on the host"),
        };
        Engine { name, on_device, on_host }
    }

    fn run_until(
        &self,
        inputs: &[(String, Tensor)],
        deadline: Option<Instant>,
    ) -> Result<NamedTensors, InferenceError> {
        let fed = from_tensors(&self.info.bind(inputs)?)?;
        let made = self.lane.run(&self.model, fed, deadline.map(Deadline::new))?;
        to_tensors(&self.info.outputs, self.lane.outputs(made)?)
    }

    /// The state stays on the device from step to step.
    fn step(
        &self,
        inputs: &[(String, Tensor)],
        bindings: &[StateBinding],
        state: &mut State,
        deadline: Option<Instant>,
    ) -> Result<NamedTensors, InferenceError> {
        // Bound inputs have been checked when the session began; their initial
        // values stand in for the state in the check of the others, and are it
        // at the first step.
        let mut all = inputs.to_vec();
        all.extend(bindings.iter().map(|b| (b.input.clone(), b.initial.clone())));
        let mut fed = from_tensors(&self.info.bind(&all)?)?;
        for (info, value) in self.info.inputs.iter().zip(&mut fed) {
            let held = bindings.iter().position(|b| b.input == info.name).map(|i| &state.0[i]);
            if let Some(Held::Device(resident)) = held {
                *value = (**resident).clone();
            }
        }
        let made = self.lane.run(&self.model, fed, deadline.map(Deadline::new))?;
        let (mut next, mut free) = (state.0.clone(), Vec::new());
        let mut infos = Vec::new();
        for (info, value) in self.info.outputs.iter().zip(made) {
            match bindings.iter().position(|b| b.output == info.name) {
                Some(index) => next[index] = Held::Device(Box::new(value)),
                None => {
                    infos.push(info);
                    free.push(value);
                }
            }
        }
        let free = to_tensors(infos, self.lane.outputs(free)?)?;
        state.0 = next;
        Ok(free)
    }
}

/// Where a node runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Place {
    /// On the device.
    Device,
    /// On the host, on values that are there anyway: shapes, axes, text.
    Shape,
    /// On the host, though its values are on the device, because the device
    /// does not run it.
    Host,
}

/// Where one node ran, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Placement {
    /// The node's name, or that of its first output.
    pub node: String,
    /// Its operator.
    pub op: String,
    /// Where it ran.
    pub place: Place,
    /// Why not on the device; empty there.
    pub reason: String,
}

/// Copies between host and device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Transfers {
    /// To the device, constants included.
    pub uploads: u64,
    /// From the device, for the model's outputs.
    pub outputs: u64,
    /// From the device, for nodes that run on the host.
    pub readbacks: u64,
}

/// What a model keeps for its runs on a device.
pub(crate) struct Lane {
    device: Device,
    strict: bool,
    /// Constants of the model, by where their elements are.
    constants: HashSet<usize>,
    state: Mutex<Kept>,
}

/// What runs leave behind.
#[derive(Default)]
struct Kept {
    /// Constants that are on the device already.
    resident: HashMap<usize, DeviceTensor>,
    placements: Vec<Placement>,
    /// The nodes in `placements`, by [`Call::node_id`].
    placed: HashSet<(usize, Place)>,
    transfers: Transfers,
}

/// Where an array's elements are; two arrays that share them have one.
fn identity(array: &Array) -> usize {
    match array.lanes() {
        Lanes::One(v) => Arc::as_ptr(v) as usize,
        Lanes::Two(v) => Arc::as_ptr(v) as usize,
        Lanes::Four(v) => Arc::as_ptr(v) as usize,
        Lanes::Eight(v) => Arc::as_ptr(v) as usize,
        Lanes::Text(v) => Arc::as_ptr(v) as usize,
    }
}

impl Lane {
    fn new(device: Device, strict: bool, model: &Interpreted) -> Self {
        let mut constants = HashSet::new();
        model.for_each_constant(&mut |array| {
            constants.insert(identity(array));
        });
        Self { device, strict, constants, state: Mutex::default() }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(
        &self,
        model: &Interpreted,
        inputs: Vec<Value>,
        deadline: Option<Deadline>,
    ) -> Result<Vec<Value>, InferenceError> {
        let fed = inputs
            .into_iter()
            .map(|value| match value {
                Value::Array(array) if starts_on_device(&array) => {
                    self.upload(&array).map(Value::Device)
                }
                other => Ok(other),
            })
            .collect::<OpResult<_>>()
            .map_err(OpError::outside)?;
        model.run_on(fed, deadline, Some(self))
    }

    /// What a run gave, in host memory.
    fn outputs(&self, made: Vec<Value>) -> Result<Vec<Value>, InferenceError> {
        made.into_iter().map(|value| self.output(value).map_err(OpError::outside)).collect()
    }

    /// A value that the model gives, in host memory.
    fn output(&self, value: Value) -> OpResult<Value> {
        Ok(match value {
            Value::Device(tensor) => {
                self.lock().transfers.outputs += 1;
                self.device.download(&tensor)?.into()
            }
            Value::Sequence(values) => Value::Sequence(
                values.into_iter().map(|v| self.output(v)).collect::<OpResult<_>>()?,
            ),
            Value::Optional(Some(inner)) => Value::Optional(Some(Box::new(self.output(*inner)?))),
            other => other,
        })
    }

    /// An array on the device: once, if it is a constant of the model.
    pub(crate) fn upload(&self, array: &Array) -> OpResult<DeviceTensor> {
        let identity = identity(array);
        let constant = self.constants.contains(&identity);
        if constant
            && let Some(resident) = self.lock().resident.get(&identity)
            && resident.element() == array.element()
        {
            return resident.reshape(array.shape());
        }
        let tensor = self.device.upload(array)?;
        let mut state = self.lock();
        state.transfers.uploads += 1;
        if constant {
            state.resident.insert(identity, tensor.clone());
        }
        Ok(tensor)
    }

    /// A tensor that the model gives, in host memory when it is there.
    async fn read(&self, tensor: &DeviceTensor) -> Result<Array, InferenceError> {
        self.lock().transfers.outputs += 1;
        self.device.download_async(tensor).await.map_err(OpError::outside)
    }

    /// A value in host memory, for what runs there.
    pub(crate) fn host(&self, value: &Value) -> OpResult<Value> {
        Ok(match value {
            Value::Device(tensor) => {
                self.lock().transfers.readbacks += 1;
                self.device.download(tensor)?.into()
            }
            Value::Sequence(values) => {
                Value::Sequence(values.iter().map(|v| self.host(v)).collect::<OpResult<_>>()?)
            }
            Value::Optional(Some(inner)) => Value::Optional(Some(Box::new(self.host(inner)?))),
            other => other.clone(),
        })
    }

    /// Run a node where it belongs.
    pub(crate) fn node(&self, call: &Call<'_>) -> OpResult<Vec<Value>> {
        let on_device = call.values().any(on_device);
        let mut reason = String::new();
        if on_device {
            match ops::run(call, self) {
                Ok(made) => {
                    self.place(call, Place::Device, "");
                    return Ok(made);
                }
                Err(OpError::Unsupported(why)) => reason = why,
                Err(e) => return Err(e),
            }
            if self.strict && !reason.is_empty() {
                let reason = format!("the device does not run it: {reason}");
                return Err(OpError::Unsupported(reason));
            }
        }
        let Some(op) = host_ops::find(call.domain(), call.op()) else {
            return Err(OpError::unsupported("there is no such operator here"));
        };
        let inputs = call
            .inputs()
            .iter()
            .map(|input| input.as_ref().map(|value| self.host(value)).transpose())
            .collect::<OpResult<_>>()?;
        let made = op(&call.with_inputs(inputs))?;
        self.place(call, if on_device { Place::Host } else { Place::Shape }, &reason);
        Ok(made)
    }

    /// The part at `index` of axis `along`, which is gone from the result.
    pub(crate) fn pick(
        &self,
        tensor: &DeviceTensor,
        along: usize,
        index: usize,
    ) -> OpResult<Value> {
        guard("taking a part", || ops::part_at(tensor, along, index))?.map(Value::Device)
    }

    /// Tensors of one shape, along a new axis.
    pub(crate) fn stack(&self, values: &[Value], along: usize) -> OpResult<Value> {
        let tensors = values
            .iter()
            .map(|value| match value {
                Value::Device(tensor) => Ok(tensor.clone()),
                other => self.upload(other.array()?),
            })
            .collect::<OpResult<Vec<_>>>()?;
        guard("stacking", || ops::stack(&tensors, along))?.map(Value::Device)
    }

    fn place(&self, call: &Call<'_>, place: Place, reason: &str) {
        let mut state = self.lock();
        if state.placed.insert((call.node_id(), place)) {
            state.placements.push(Placement {
                node: call.label().to_owned(),
                op: call.op().to_owned(),
                place,
                reason: reason.to_owned(),
            });
        }
    }
}

/// Floats that the device computes with start there.
fn starts_on_device(array: &Array) -> bool {
    use headland_tensor::DType::{F16, F32};
    matches!(array.element(), Element::Plain(F32 | F16)) && !array.is_empty()
}

fn on_device(value: &Value) -> bool {
    match value {
        Value::Device(_) => true,
        Value::Sequence(values) => values.iter().any(on_device),
        Value::Optional(Some(inner)) => on_device(inner),
        _ => false,
    }
}
