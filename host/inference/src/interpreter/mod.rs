//! Runs a graph node by node.
//!
//! Every operator of ONNX that an inference graph may hold, over every element
//! type, with shapes that need not be known before the run. It is plain rather
//! than fast: the CPU executor uses it for the models that tract cannot plan.
//! Operators are functions from a [`Call`] to values, one file of them for each
//! family, found by name in [`ops::find`].

mod call;
mod control;
mod error;
mod fold;
pub(crate) mod ops;

pub(crate) use fold::is_random;

use std::{
    any::Any,
    cell::{Cell, RefCell},
    collections::HashSet,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Instant,
};

use headland_tensor::{NamedTensors, Tensor};

#[cfg(feature = "gpu")]
pub(crate) use call::reshaped;
pub(crate) use call::{Call, axes, axis, broadcast_shape, check_rank, sizes};
pub use error::{OpError, OpResult};

use crate::{
    Engine, Executor, InferenceError, LoadLimits, Model, ModelInfo, TensorInfo,
    deadline::Deadline,
    front,
    graph::{Attribute, Graph, Node, Slot},
    value::{Array, Type, Value, interface},
};

/// Runs models with the interpreter alone: what it says is the yardstick for
/// the other executors.
#[derive(Debug, Clone, Copy, Default)]
pub struct InterpretingExecutor;

impl Executor for InterpretingExecutor {
    fn name(&self) -> &'static str {
        "interpreter"
    }

    fn load(&self, onnx: &[u8], limits: &LoadLimits) -> Result<Arc<dyn Model>, InferenceError> {
        let (mut proto, info) = front::open(onnx, limits)?;
        front::rewrite(&mut proto);
        Ok(Arc::new(TensorModel { info, model: Interpreted::new(onnx, &proto, limits)? }))
    }
}

/// An interpreted model of which all inputs and outputs are tensors of the
/// contract.
pub(crate) struct TensorModel {
    info: ModelInfo,
    model: Interpreted,
}

impl Model for TensorModel {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn engine(&self) -> Engine {
        Engine::host("interpreter")
    }

    fn run_until(
        &self,
        inputs: &[(String, Tensor)],
        deadline: Option<Instant>,
    ) -> Result<NamedTensors, InferenceError> {
        let inputs = self.info.bind(inputs)?;
        self.model.run_tensors(&self.info, &inputs, deadline.map(Deadline::new))
    }
}

/// A model that the interpreter runs. Unlike a [`Model`](crate::Model), it may
/// take and give sequences, optionals, maps and element types that the contract
/// does not have.
pub struct Interpreted {
    graph: Graph,
    inputs: Vec<(String, Type)>,
    outputs: Vec<(String, Type)>,
    limits: LoadLimits,
}

impl Interpreted {
    /// Check, rewrite and read a model.
    ///
    /// # Errors
    /// As [`Executor::load`](crate::Executor::load).
    pub fn load(onnx: &[u8], limits: &LoadLimits) -> Result<Self, InferenceError> {
        let (mut proto, _) = front::decode(onnx, limits)?;
        front::rewrite(&mut proto);
        Self::new(onnx, &proto, limits)
    }

    /// As [`Interpreted::load`], from a model that has been checked and
    /// rewritten already.
    pub(crate) fn new(
        onnx: &[u8],
        proto: &tract_onnx::pb::ModelProto,
        limits: &LoadLimits,
    ) -> Result<Self, InferenceError> {
        let graph = Graph::new(proto)?;
        check_operators(&graph)?;
        let (mut inputs, outputs) = interface(onnx)?;
        if let Some(proto) = &proto.graph {
            let constants: HashSet<&str> =
                proto.initializer.iter().map(|t| t.name.as_str()).collect();
            inputs.retain(|(name, _)| !constants.contains(name.as_str()));
        }
        let mut model = Self { graph, inputs, outputs, limits: *limits };
        model.fold_constants();
        Ok(model)
    }

    /// What it takes, in the model's order.
    pub fn inputs(&self) -> &[(String, Type)] {
        &self.inputs
    }

    /// What it gives, in the model's order.
    pub fn outputs(&self) -> &[(String, Type)] {
        &self.outputs
    }

    /// Run on the inputs in the model's order; gives the outputs in theirs.
    ///
    /// # Errors
    /// [`InferenceError::Failed`], [`InferenceError::Unsupported`] where only
    /// these values show that an operator cannot run, and
    /// [`InferenceError::OverLimit`].
    pub fn run(&self, inputs: Vec<Value>) -> Result<Vec<Value>, InferenceError> {
        self.run_until(inputs, None)
    }

    /// Run on tensors of the contract, which are of `info`'s types.
    pub(crate) fn run_tensors(
        &self,
        info: &ModelInfo,
        inputs: &[Tensor],
        deadline: Option<Deadline>,
    ) -> Result<NamedTensors, InferenceError> {
        to_tensors(&info.outputs, self.run_until(from_tensors(inputs)?, deadline)?)
    }

    pub(crate) fn run_until(
        &self,
        inputs: Vec<Value>,
        deadline: Option<Deadline>,
    ) -> Result<Vec<Value>, InferenceError> {
        self.run_on(inputs, deadline, None)
    }

    /// As [`Interpreted::run_until`], what a device can run on that device.
    pub(crate) fn run_on(
        &self,
        inputs: Vec<Value>,
        deadline: Option<Deadline>,
        lane: Option<&Lane>,
    ) -> Result<Vec<Value>, InferenceError> {
        if inputs.len() != self.inputs.len() {
            return Err(InferenceError::Failed {
                reason: format!("{} inputs for {}", inputs.len(), self.inputs.len()),
            });
        }
        for ((name, _), value) in self.inputs.iter().zip(&inputs) {
            let (bytes, allowed) = (value.size_bytes(), self.limits.max_tensor_bytes);
            if bytes > allowed {
                let what = format!("max_tensor_bytes: input {name:?}");
                return Err(InferenceError::over(what, bytes, allowed));
            }
        }
        Run::new(&self.limits, deadline, lane).graph(&self.graph, inputs, &|_| None)
    }

    /// Run what depends on constants alone, once, here. What fails or would take
    /// much memory is left for the run.
    fn fold_constants(&mut self) {
        let run = Run::new(&self.limits, None, None);
        fold::graph(&mut self.graph, &run);
    }

    /// Look at every constant, those of nested graphs included.
    #[cfg(feature = "gpu")]
    pub(crate) fn for_each_constant(&self, look: &mut dyn FnMut(&Array)) {
        fn visit(graph: &Graph, look: &mut dyn FnMut(&Array)) {
            graph.constants.iter().for_each(|(_, array)| look(array));
            for node in &graph.nodes {
                for attribute in node.attributes.values() {
                    match attribute {
                        Attribute::Graph(body) => visit(body, look),
                        Attribute::Array(array) => look(array),
                        _ => {}
                    }
                }
            }
        }
        visit(&self.graph, look);
    }
}

/// Tensors of the contract as values, copied.
pub(crate) fn from_tensors(tensors: &[Tensor]) -> Result<Vec<Value>, InferenceError> {
    let values = tensors.iter().map(|tensor| Array::from_tensor(tensor).map(Value::Array));
    values.collect::<OpResult<_>>().map_err(OpError::outside)
}

/// A model's outputs as tensors of the contract, of the types that it declares.
pub(crate) fn to_tensors<'a>(
    infos: impl IntoIterator<Item = &'a TensorInfo>,
    made: Vec<Value>,
) -> Result<NamedTensors, InferenceError> {
    infos
        .into_iter()
        .zip(made)
        .map(|(info, value)| {
            let array = value.array().map_err(OpError::outside)?;
            let tensor = array.to_tensor().filter(|t| t.dtype() == info.dtype);
            let tensor = tensor.ok_or_else(|| InferenceError::Failed {
                reason: format!(
                    "output {:?} is declared {}, but {} was made",
                    info.name,
                    info.dtype,
                    array.element()
                ),
            })?;
            Ok((info.name.clone(), tensor))
        })
        .collect()
}

#[cfg(feature = "gpu")]
pub(crate) use crate::gpu::Lane;

/// There is no device without the `gpu` feature.
#[cfg(not(feature = "gpu"))]
pub(crate) enum Lane {}

/// What a graph gives that is fed nothing.
pub(crate) fn evaluate(
    proto: &tract_onnx::pb::ModelProto,
    limits: &LoadLimits,
) -> Result<Vec<Value>, InferenceError> {
    let graph = Graph::new(proto)?;
    check_operators(&graph)?;
    let run = Run::new(limits, None, None);
    run.graph(&graph, Vec::new(), &|_| None)
}

/// Refuse the first operator that the interpreter has not, by name.
fn check_operators(graph: &Graph) -> Result<(), InferenceError> {
    for node in &graph.nodes {
        if !control::is_control(node) && ops::find(&node.domain, &node.op).is_none() {
            return Err(OpError::unsupported("there is no such operator here").at(node));
        }
        for attribute in node.attributes.values() {
            if let Attribute::Graph(body) = attribute {
                check_operators(body)?;
            }
        }
    }
    Ok(())
}

/// What a panic said.
pub(crate) fn panic_message(payload: &(dyn Any + Send)) -> String {
    let message = payload
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| payload.downcast_ref::<&str>().copied())
        .unwrap_or("no message");
    message.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(300).collect()
}

/// One run of a model.
pub(crate) struct Run<'a> {
    pub limits: &'a LoadLimits,
    pub deadline: Option<Deadline>,
    /// The device, where there is one.
    #[cfg_attr(not(feature = "gpu"), allow(dead_code))]
    pub lane: Option<&'a Lane>,
    /// Bytes of all values in slots; what two slots share counts twice.
    live_bytes: Cell<u64>,
    /// An attribute that the node at work has, and that is not of the type that
    /// its operator reads.
    misread: RefCell<Option<String>>,
}

/// The values of one graph while it runs.
struct Slots<'a> {
    values: Vec<Option<Value>>,
    /// What each slot adds to the bytes that live; constants and what the graph
    /// around owns add nothing.
    bytes: Vec<u64>,
    live_bytes: &'a Cell<u64>,
}

impl Slots<'_> {
    fn set(&mut self, slot: Slot, value: Value) {
        self.bytes[slot] = value.size_bytes();
        self.live_bytes.set(self.live_bytes.get().saturating_add(self.bytes[slot]));
        self.values[slot] = Some(value);
    }

    fn clear(&mut self, slot: Slot) {
        self.values[slot] = None;
        let bytes = std::mem::take(&mut self.bytes[slot]);
        self.live_bytes.set(self.live_bytes.get().saturating_sub(bytes));
    }
}

impl Drop for Slots<'_> {
    fn drop(&mut self) {
        for slot in 0..self.values.len() {
            self.clear(slot);
        }
    }
}

impl<'a> Run<'a> {
    fn new(limits: &'a LoadLimits, deadline: Option<Deadline>, lane: Option<&'a Lane>) -> Self {
        Self { limits, deadline, lane, live_bytes: Cell::new(0), misread: RefCell::default() }
    }

    /// Refuse to go on with more alive than allowed.
    fn check_live(&self, node: &Node) -> Result<(), InferenceError> {
        let (live, allowed) = (self.live_bytes.get(), self.limits.max_run_bytes);
        if live > allowed {
            let what = format!("max_run_bytes: all that lives at {:?}", node.label);
            return Err(InferenceError::over(what, live, allowed));
        }
        Ok(())
    }

    /// Run a graph on values for its inputs. `outer` gives the values of the
    /// graph around it.
    fn graph(
        &self,
        graph: &Graph,
        inputs: Vec<Value>,
        outer: &dyn Fn(Slot) -> Option<Value>,
    ) -> Result<Vec<Value>, InferenceError> {
        if inputs.len() != graph.inputs.len() {
            let (given, wanted) = (inputs.len(), graph.inputs.len());
            let reason = format!("a graph with {wanted} inputs is given {given}");
            return Err(InferenceError::Failed { reason });
        }
        let values = vec![None; graph.slots];
        let bytes = vec![0; graph.slots];
        let mut slots = Slots { values, bytes, live_bytes: &self.live_bytes };
        for (slot, array) in &graph.constants {
            slots.values[*slot] = Some(array.clone().into());
        }
        for (outside, inside) in &graph.captures {
            slots.values[*inside] = outer(*outside);
        }
        for (slot, value) in graph.inputs.iter().zip(inputs) {
            slots.set(*slot, value);
        }
        for node in &graph.nodes {
            if let Some(deadline) = &self.deadline {
                deadline.check(format_args!("{:?}", node.label))?;
            }
            let made = self.node(node, &slots.values)?;
            for slot in &node.last_uses {
                slots.clear(*slot);
            }
            for (slot, value) in node.outputs.iter().zip(made) {
                if let Some(slot) = slot
                    && node.last_uses.binary_search(slot).is_err()
                {
                    slots.set(*slot, value);
                }
            }
            self.check_live(node)?;
        }
        if let Some(deadline) = &self.deadline {
            deadline.check("its end")?;
        }
        graph
            .outputs
            .iter()
            .map(|&slot| {
                slots.values[slot].clone().ok_or_else(|| InferenceError::Failed {
                    reason: "an output was not made".to_owned(),
                })
            })
            .collect()
    }

    fn node(&self, node: &Node, values: &[Option<Value>]) -> Result<Vec<Value>, InferenceError> {
        let inputs = node.inputs.iter().map(|slot| values[(*slot)?].clone()).collect();
        let call = Call { node, inputs, run: self };
        let made = if control::is_control(node) {
            control::run(&call, &|slot| values[slot].clone())
        } else {
            // Operators check what they are given. Should one overlook
            // something, it takes neither the host nor another model with it.
            catch_unwind(AssertUnwindSafe(|| self.operate(&call))).unwrap_or_else(|payload| {
                Err(OpError::invalid(format!("panic: {}", panic_message(&*payload))))
            })
        };
        let misread = self.misread.take();
        let made = made.map_err(|e| e.at(node))?;
        if let Some(name) = misread {
            let reason = format!("attribute {name:?} is not of the type that the operator has");
            return Err(OpError::invalid(reason).at(node));
        }
        for value in &made {
            if value.depth() > Value::MAX_DEPTH {
                let reason = format!("values within values, more than {} deep", Value::MAX_DEPTH);
                return Err(OpError::invalid(reason).at(node));
            }
            let bytes = value.size_bytes();
            if bytes > self.limits.max_tensor_bytes {
                let what = format!("max_tensor_bytes: the result of {:?}", node.label);
                return Err(InferenceError::over(what, bytes, self.limits.max_tensor_bytes));
            }
        }
        if made.len() < node.outputs.len() {
            let missing = &node.outputs[made.len()..];
            if missing.iter().any(Option::is_some) {
                let reason = format!("it gives {} outputs", made.len());
                return Err(OpError::unsupported(reason).at(node));
            }
        }
        Ok(made)
    }

    fn operate(&self, call: &Call<'_>) -> OpResult<Vec<Value>> {
        #[cfg(feature = "gpu")]
        if let Some(lane) = self.lane {
            return lane.node(call);
        }
        match ops::find(call.domain(), call.op()) {
            Some(op) => op(call),
            None => Err(OpError::unsupported("there is no such operator here")),
        }
    }

    /// A value in host memory.
    fn host(&self, value: &Value) -> OpResult<Value> {
        #[cfg(feature = "gpu")]
        if let Some(lane) = self.lane {
            return lane.host(value);
        }
        Ok(value.clone())
    }
}
