//! What every executor offers, and the checks that are the same for all.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::Arc,
    time::Instant,
};

use headland_tensor::{DType, NamedTensors, Shape, Tensor};
use serde::Serialize;

use crate::{
    InferenceError, Interpreted, LoadLimits, StateBinding, Value, front,
    session::{State, step_on_host},
};

/// Turns ONNX bytes into a model that runs on one kind of device.
pub trait Executor: Send + Sync {
    /// The executor's name, for example `cpu`.
    fn name(&self) -> &'static str;

    /// Check, rewrite and compile a model.
    ///
    /// # Errors
    /// [`InferenceError::Malformed`], [`InferenceError::OverLimit`], and
    /// [`InferenceError::Unsupported`] for what this executor cannot run.
    fn load(&self, onnx: &[u8], limits: &LoadLimits) -> Result<Arc<dyn Model>, InferenceError>;

    /// Run a model whose inputs and outputs are not all tensors of the
    /// contract.
    ///
    /// # Errors
    /// As [`Interpreted::run`].
    fn run_wide(
        &self,
        model: &Interpreted,
        inputs: Vec<Value>,
    ) -> Result<Vec<Value>, InferenceError> {
        model.run(inputs)
    }
}

/// What runs a model.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Engine {
    /// The executor, and within it the part that took the model on, for people
    /// to read: `cpu, by tract`.
    pub name: String,
    /// Nodes that have run on a device.
    pub on_device: usize,
    /// Nodes that have run on the host although their values were on a device,
    /// because the device does not run them.
    pub on_host: usize,
}

impl Engine {
    /// An engine without a device.
    pub(crate) fn host(name: &str) -> Self {
        Self { name: name.to_owned(), ..Self::default() }
    }
}

/// A loaded model. Runs share nothing that changes, so any number of threads
/// may run one model at once.
pub trait Model: Send + Sync {
    /// What it takes and gives.
    fn info(&self) -> &ModelInfo;

    /// What runs it.
    fn engine(&self) -> Engine;

    /// Run once, for as long as it takes. Needs every input, in any order;
    /// gives every output, in the model's order.
    ///
    /// # Errors
    /// As [`run_until`](Self::run_until) without a deadline.
    fn run(&self, inputs: &[(String, Tensor)]) -> Result<NamedTensors, InferenceError> {
        self.run_until(inputs, None)
    }

    /// As [`run`](Self::run), but stopped at the deadline.
    ///
    /// A run that plans for new shapes spends its time on that too. Neither
    /// planning nor an operator is interrupted: a run may outlast its deadline
    /// by the longest of them, and is then refused all the same. One operator
    /// here is also what an executor fuses into one, and one turn of a loop
    /// (`Loop`, `Scan`, `LSTM`). What was planned is kept, so the next run for
    /// these shapes can get further.
    ///
    /// Where [`Instant::now`] is not available, as on wasm32-unknown-unknown,
    /// the deadline must be `None`.
    ///
    /// # Errors
    /// An input that [`ModelInfo::bind`] refuses, [`InferenceError::OverLimit`]
    /// for a run that would take too much memory,
    /// [`InferenceError::Unsupported`] where only these shapes show that the
    /// model cannot run, [`InferenceError::DeadlineExceeded`],
    /// [`InferenceError::Failed`].
    fn run_until(
        &self,
        inputs: &[(String, Tensor)],
        deadline: Option<Instant>,
    ) -> Result<NamedTensors, InferenceError>;

    /// Run once on [zeros](ModelInfo::zeros), so that the model is planned before
    /// it is needed. One that cannot run on that is left as it is: it says what is
    /// wrong when it is given something real.
    fn warm_up(&self) {
        if let Some(zeros) = self.info().zeros() {
            let _ = self.run(&zeros);
        }
    }

    /// One step of a [`Session`](crate::Session): run on the inputs that are not
    /// bound and on the state, leave the next state, and give the outputs that
    /// are not bound. A step that fails leaves the state as it was.
    ///
    /// # Errors
    /// As [`run_until`](Self::run_until).
    fn step(
        &self,
        inputs: &[(String, Tensor)],
        bindings: &[StateBinding],
        state: &mut State,
        deadline: Option<Instant>,
    ) -> Result<NamedTensors, InferenceError> {
        step_on_host(self, inputs, bindings, state, deadline)
    }
}

/// One dimension of a model's input or output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Dimension {
    /// Always this size.
    Fixed(u32),
    /// Any size; the same symbol stands for the same size in one run. A
    /// dimension that the model leaves without a name is called after its
    /// tensor and axis, for example `image.0`.
    Symbolic(String),
}

impl fmt::Display for Dimension {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(size) => write!(f, "{size}"),
            Self::Symbolic(name) => f.write_str(name),
        }
    }
}

/// What a model takes or gives under a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TensorInfo {
    /// The name in the model.
    pub name: String,
    /// The element type.
    pub dtype: DType,
    /// The dimensions, outermost first.
    pub shape: Vec<Dimension>,
}

impl TensorInfo {
    /// The shape as text, for example `[batch,3,224,224]`.
    pub fn shape_text(&self) -> String {
        let dims: Vec<String> = self.shape.iter().map(Dimension::to_string).collect();
        format!("[{}]", dims.join(","))
    }
}

/// What is known of a model without running it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ModelInfo {
    /// What it takes, in the model's order. Inputs with a default in the
    /// model are constants and not listed.
    pub inputs: Vec<TensorInfo>,
    /// What it gives, in the model's order.
    pub outputs: Vec<TensorInfo>,
    /// Version of the file format.
    pub ir_version: i64,
    /// Version of each operator set, by domain; the default domain is
    /// `ai.onnx`.
    pub opsets: BTreeMap<String, i64>,
    /// The tool that wrote the model, and its version; often empty.
    pub producer: String,
    /// How often each operator occurs, nested graphs included.
    pub operators: BTreeMap<String, u64>,
    /// Elements of the model's constants.
    pub parameters: u64,
    /// Bytes of the model's constants.
    pub parameter_bytes: u64,
}

impl ModelInfo {
    /// Read a model's description. Needs no executor, so it also describes
    /// models that none can run.
    ///
    /// # Errors
    /// [`InferenceError::Malformed`], [`InferenceError::OverLimit`], and
    /// [`InferenceError::Unsupported`] for inputs and outputs that are not
    /// tensors of the contract.
    pub fn from_onnx(onnx: &[u8], limits: &LoadLimits) -> Result<Self, InferenceError> {
        front::open(onnx, limits).map(|(_, info)| info)
    }

    /// Inputs of zeros, with 1 for each size that is left open; none where they
    /// would take more than 16 MiB.
    pub(crate) fn zeros(&self) -> Option<NamedTensors> {
        const MAX_BYTES: usize = 16 << 20;
        let mut left_bytes = MAX_BYTES;
        let zeros = self.inputs.iter().map(|input| {
            let size = |dimension: &Dimension| match dimension {
                Dimension::Fixed(size) => *size,
                Dimension::Symbolic(_) => 1,
            };
            let shape = Shape::new(input.shape.iter().map(size).collect::<Vec<_>>()).ok()?;
            let bytes = shape.element_count().saturating_mul(input.dtype.size_bytes());
            left_bytes = left_bytes.checked_sub(bytes)?;
            let zeros = Tensor::new(input.dtype, shape, vec![0; bytes]).ok()?;
            Some((input.name.clone(), zeros))
        });
        zeros.collect()
    }

    /// Put a run's inputs into the model's order, checked: every name once,
    /// the model's dtypes, ranks and fixed sizes, and one size for each
    /// symbol.
    ///
    /// # Errors
    /// [`InferenceError::MissingInput`], [`InferenceError::UnknownInput`],
    /// [`InferenceError::DuplicateInput`], [`InferenceError::WrongDType`],
    /// [`InferenceError::WrongShape`].
    pub fn bind(&self, given: &[(String, Tensor)]) -> Result<Vec<Tensor>, InferenceError> {
        let mut slots: Vec<Option<&Tensor>> = vec![None; self.inputs.len()];
        for (name, tensor) in given {
            let index = self.inputs.iter().position(|i| i.name == *name).ok_or_else(|| {
                InferenceError::UnknownInput {
                    name: name.clone(),
                    known: self.inputs.iter().map(|i| i.name.clone()).collect(),
                }
            })?;
            if slots[index].replace(tensor).is_some() {
                return Err(InferenceError::DuplicateInput { name: name.clone() });
            }
        }
        let mut symbols = HashMap::new();
        self.inputs
            .iter()
            .zip(slots)
            .map(|(info, slot)| {
                let tensor =
                    slot.ok_or_else(|| InferenceError::MissingInput { name: info.name.clone() })?;
                info.check(tensor, &mut symbols)?;
                Ok(tensor.clone())
            })
            .collect()
    }
}

impl TensorInfo {
    /// Check dtype, rank and sizes. `symbols` holds the sizes that symbols
    /// have had so far in this run, and the input that set them.
    fn check<'a>(
        &'a self,
        tensor: &Tensor,
        symbols: &mut HashMap<&'a str, (u32, &'a str)>,
    ) -> Result<(), InferenceError> {
        if tensor.dtype() != self.dtype {
            return Err(InferenceError::WrongDType {
                input: self.name.clone(),
                expected: self.dtype,
                actual: tensor.dtype(),
            });
        }
        let wrong = |detail| InferenceError::WrongShape {
            input: self.name.clone(),
            expected: self.shape_text(),
            actual: tensor.shape().clone(),
            detail,
        };
        let dims = tensor.shape().dims();
        if dims.len() != self.shape.len() {
            return Err(wrong(None));
        }
        for (expected, &actual) in self.shape.iter().zip(dims) {
            match expected {
                Dimension::Fixed(size) if *size != actual => return Err(wrong(None)),
                Dimension::Fixed(_) => {}
                Dimension::Symbolic(symbol) => {
                    let (size, setter) =
                        *symbols.entry(symbol).or_insert((actual, self.name.as_str()));
                    if size != actual {
                        let detail = format!("{symbol} is {size} in input {setter:?}");
                        return Err(wrong(Some(detail)));
                    }
                }
            }
        }
        Ok(())
    }
}
