//! What a component can reach in the host: tensors, models, the log. The same
//! contract and limits as the native engine's, without its clock.

use std::{
    collections::{BTreeMap, HashMap},
    rc::Rc,
    sync::Arc,
};

use headland_inference::{Dimension, InferenceError, Model, Session, StateBinding, TensorInfo};
use headland_tensor::{DType, Limits, NamedTensors, Shape, Tensor, TensorError};

use super::{abi::Value, contract::Import};

/// Handles that one instance may hold at a time.
const MAX_HANDLES: usize = 1024;

/// Models and sessions that one instance may have open at a time.
const MAX_OPEN: usize = 16;

/// Messages that one call of a stage may write; the rest is dropped.
const MAX_LINES_PER_CALL: u32 = 64;

/// Characters of a component's text that are kept.
const MAX_CHARS: usize = 1024;

/// A component's text as it may be stored and shown: not longer than a page,
/// and with nothing in it that a terminal would obey.
pub fn clip(text: &str) -> String {
    let shown = |c: char| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c };
    text.chars().take(MAX_CHARS).map(shown).collect()
}

/// Why a call into a component ended without a result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The component cannot use what it was given.
    #[error("bad input: {0}")]
    BadInput(String),
    /// The component said no.
    #[error("{0}")]
    Refused(String),
    /// The component gave more than anything could use.
    #[error("bad output: {0}")]
    BadOutput(String),
    /// The component ran into one of its limits.
    #[error("{0}")]
    Limit(String),
    /// The component has a bug.
    #[error("trap: {0}")]
    Trap(String),
}

/// Copies of tensor data, by way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Copies {
    /// From the host into components.
    pub into_components: u64,
    /// From components into the host.
    pub out_of_components: u64,
    /// Into models.
    pub into_models: u64,
    /// Out of models.
    pub out_of_models: u64,
    /// Of those out of models, the ones that came from the GPU.
    pub readbacks: u64,
}

impl Copies {
    /// Count one run of a model.
    pub fn model_run(&mut self, inputs: usize, outputs: usize) {
        self.into_models += inputs as u64;
        self.out_of_models += outputs as u64;
    }
}

/// Where messages go: the stage, the level from 0 (debug) to 3 (error), the text.
pub type LogSink = Rc<dyn Fn(&str, u32, &str)>;

/// What a handle of a component stands for.
enum Entry {
    Tensor(Tensor),
    Model(Arc<dyn Model>),
    Session(Box<Session>),
    /// A resource of the component's own, by its representation.
    Own(u32),
}

/// Everything that an instance of a component has in the host.
pub struct HostState {
    stage: String,
    limits: Limits,
    models: BTreeMap<String, Arc<dyn Model>>,
    log: LogSink,
    entries: Vec<Option<Entry>>,
    /// Tensor data that handles share, by where it is, with its handles.
    held: HashMap<usize, u32>,
    held_bytes: u64,
    open: usize,
    hostcalls: u64,
    log_lines: u32,
    /// Copies in the calls so far.
    pub copies: Copies,
    /// Why the instance was stopped, told apart from a bug.
    pub stopped: Option<CallError>,
}

type Called = Result<Option<Value>, CallError>;

fn ok(value: Option<Value>) -> Value {
    Value::Variant(0, value.map(Box::new))
}

fn error(case: u32, carried: Value) -> Value {
    Value::Variant(1, Some(Box::new(Value::Variant(case, Some(Box::new(carried))))))
}

fn broken() -> CallError {
    CallError::Trap("a call into the host has other types than the contract's".to_owned())
}

impl HostState {
    pub fn new(
        stage: &str,
        limits: Limits,
        models: BTreeMap<String, Arc<dyn Model>>,
        log: LogSink,
    ) -> Self {
        Self {
            stage: stage.to_owned(),
            limits,
            models,
            log,
            entries: Vec::new(),
            held: HashMap::new(),
            held_bytes: 0,
            open: 0,
            hostcalls: limits.hostcalls,
            log_lines: MAX_LINES_PER_CALL,
            copies: Copies::default(),
            stopped: None,
        }
    }

    /// Give the instance a fresh allowance for one call.
    pub fn begin_call(&mut self) {
        self.hostcalls = self.limits.hostcalls;
        self.log_lines = MAX_LINES_PER_CALL;
        self.copies = Copies::default();
        self.stopped = None;
    }

    /// The stage.
    pub fn stage(&self) -> &str {
        &self.stage
    }

    /// Its limits.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    fn push(&mut self, entry: Entry) -> Result<u32, CallError> {
        if let Entry::Tensor(tensor) = &entry {
            let bytes = self.held_with(tensor);
            if bytes > self.limits.tensor_bytes {
                return Err(CallError::Limit(over_tensors(bytes, self.limits.tensor_bytes)));
            }
            self.held_bytes = bytes;
            *self.held.entry(key(tensor)).or_default() += 1;
        }
        // Handles begin with 1.
        let free = self.entries.iter().position(Option::is_none);
        let index = match free {
            Some(index) => index,
            None if self.entries.len() < MAX_HANDLES => {
                self.entries.push(None);
                self.entries.len() - 1
            }
            None => return Err(CallError::Trap(format!("more than {MAX_HANDLES} handles"))),
        };
        self.entries[index] = Some(entry);
        Ok(index as u32 + 1)
    }

    fn slot(&mut self, handle: u32) -> Option<&mut Option<Entry>> {
        self.entries.get_mut((handle as usize).checked_sub(1)?)
    }

    fn remove(&mut self, handle: u32) -> Result<Entry, CallError> {
        let entry = self.slot(handle).and_then(Option::take).ok_or_else(|| no_handle(handle))?;
        match &entry {
            Entry::Tensor(tensor) => {
                let key = key(tensor);
                match self.held.get_mut(&key) {
                    Some(n) if *n > 1 => *n -= 1,
                    _ => {
                        self.held.remove(&key);
                        self.held_bytes -= tensor.bytes().len() as u64;
                    }
                }
            }
            Entry::Model(_) | Entry::Session(_) => self.open -= 1,
            Entry::Own(_) => {}
        }
        Ok(entry)
    }

    fn held_with(&self, tensor: &Tensor) -> u64 {
        let more = if self.held.contains_key(&key(tensor)) { 0 } else { tensor.bytes().len() };
        self.held_bytes + more as u64
    }

    fn tensor(&mut self, handle: u32) -> Result<Tensor, CallError> {
        match self.slot(handle) {
            Some(Some(Entry::Tensor(tensor))) => Ok(tensor.clone()),
            _ => Err(no_handle(handle)),
        }
    }

    fn model(&mut self, handle: u32) -> Result<Arc<dyn Model>, CallError> {
        match self.slot(handle) {
            Some(Some(Entry::Model(model))) => Ok(Arc::clone(model)),
            _ => Err(no_handle(handle)),
        }
    }

    /// A handle for a resource of the component's own.
    pub fn own_new(&mut self, representation: u32) -> Result<u32, CallError> {
        self.push(Entry::Own(representation))
    }

    /// What is behind one.
    pub fn own_representation(&mut self, handle: u32) -> Result<u32, CallError> {
        match self.slot(handle) {
            Some(Some(Entry::Own(representation))) => Ok(*representation),
            _ => Err(no_handle(handle)),
        }
    }

    /// Give a handle up; gives the representation of a resource of the
    /// component's own, which it is to end.
    pub fn drop_handle(&mut self, handle: u32) -> Result<Option<u32>, CallError> {
        match self.remove(handle)? {
            Entry::Own(representation) => Ok(Some(representation)),
            _ => Ok(None),
        }
    }

    /// Hand tensors to the component.
    pub fn give(&mut self, tensors: NamedTensors) -> Result<Value, CallError> {
        let given = tensors.into_iter().map(|(name, tensor)| {
            let handle = self.push(Entry::Tensor(tensor))?;
            Ok(Value::Record(vec![Value::String(name), Value::Handle(handle)]))
        });
        Ok(Value::List(given.collect::<Result<_, CallError>>()?))
    }

    /// Take tensors back from it.
    pub fn take(&mut self, value: Value) -> Result<NamedTensors, CallError> {
        let Value::List(items) = value else { return Err(broken()) };
        items
            .into_iter()
            .map(|item| {
                let Value::Record(fields) = item else { return Err(broken()) };
                let [Value::String(name), Value::Handle(handle)] = &fields[..] else {
                    return Err(broken());
                };
                match self.remove(*handle)? {
                    Entry::Tensor(tensor) => Ok((name.clone(), tensor)),
                    _ => Err(no_handle(*handle)),
                }
            })
            .collect()
    }

    /// One call into the host.
    ///
    /// # Errors
    /// [`CallError`] that ends the instance.
    pub fn call(&mut self, import: Import, params: Vec<Value>) -> Called {
        match self.hostcalls.checked_sub(1) {
            Some(left) => self.hostcalls = left,
            None => {
                return Err(CallError::Limit(format!(
                    "hostcall limit: more than {} calls into the host in one call of the stage",
                    self.limits.hostcalls
                )));
            }
        }
        let mut params = params.into_iter();
        let mut next = || params.next().ok_or_else(broken);
        let handle = |value: Value| match value {
            Value::Handle(handle) => Ok(handle),
            _ => Err(broken()),
        };
        Ok(Some(match import {
            Import::Log => {
                let (Value::Variant(level, _), Value::String(text)) = (next()?, next()?) else {
                    return Err(broken());
                };
                if let Some(left) = self.log_lines.checked_sub(1) {
                    self.log_lines = left;
                    (self.log)(&self.stage, level, &clip(&text));
                }
                return Ok(None);
            }
            Import::TensorCreate => {
                let (Value::Variant(dtype, _), Value::U32s(shape), Value::Bytes(data)) =
                    (next()?, next()?, next()?)
                else {
                    return Err(broken());
                };
                self.copies.out_of_components += 1;
                let dtype = DTYPES.get(dtype as usize).copied().ok_or_else(broken)?;
                let made = Shape::new(shape).and_then(|shape| Tensor::new(dtype, shape, data));
                self.keep(made)?
            }
            Import::TensorDtype => {
                let dtype = self.tensor(handle(next()?)?)?.dtype();
                Value::Variant(dtype_case(dtype), None)
            }
            Import::TensorShape => {
                Value::U32s(self.tensor(handle(next()?)?)?.shape().dims().to_vec())
            }
            Import::TensorLenBytes => {
                Value::U64(self.tensor(handle(next()?)?)?.bytes().len() as u64)
            }
            Import::TensorRead => {
                let tensor = self.tensor(handle(next()?)?)?;
                self.copies.into_components += 1;
                ok(Some(Value::Bytes(tensor.shared_bytes())))
            }
            Import::TensorReadRange => {
                let tensor = self.tensor(handle(next()?)?)?;
                let (Value::U64(offset), Value::U64(len)) = (next()?, next()?) else {
                    return Err(broken());
                };
                match tensor.byte_range(offset, len) {
                    Ok(bytes) => {
                        self.copies.into_components += 1;
                        ok(Some(Value::Bytes(bytes.into())))
                    }
                    Err(e) => tensor_error(e),
                }
            }
            Import::TensorClone => {
                let tensor = self.tensor(handle(next()?)?)?;
                Value::Handle(self.push(Entry::Tensor(tensor))?)
            }
            Import::TensorReshape => {
                let tensor = self.tensor(handle(next()?)?)?;
                let Value::U32s(shape) = next()? else { return Err(broken()) };
                let made = Shape::new(shape).and_then(|shape| tensor.reshape(shape));
                self.keep(made)?
            }
            Import::ModelOpen => {
                let Value::String(name) = next()? else { return Err(broken()) };
                match self.models.get(&name) {
                    _ if self.open == MAX_OPEN => too_many_open(),
                    Some(model) => {
                        let entry = Entry::Model(Arc::clone(model));
                        self.open += 1;
                        ok(Some(Value::Handle(self.push(entry)?)))
                    }
                    None => {
                        let granted: Vec<&String> = self.models.keys().collect();
                        let why = format!(
                            "stage {:?} is granted no model {name:?}; granted are {granted:?}",
                            self.stage
                        );
                        error(0, Value::String(why))
                    }
                }
            }
            Import::ModelInputs => infos(&self.model(handle(next()?)?)?.info().inputs),
            Import::ModelOutputs => infos(&self.model(handle(next()?)?)?.info().outputs),
            Import::ModelBatchHint => {
                let model = self.model(handle(next()?)?)?;
                let dynamic =
                    |t: &TensorInfo| matches!(t.shape.first(), Some(Dimension::Symbolic(_)));
                match model.info().inputs.iter().any(dynamic) {
                    true => Value::Variant(1, Some(Box::new(Value::U32(1)))),
                    false => Value::Variant(0, None),
                }
            }
            Import::ModelRun => {
                let model = self.model(handle(next()?)?)?;
                let inputs = self.take(next()?)?;
                let made = model.run(&inputs);
                self.finish(inputs.len(), made)?
            }
            Import::ModelOpenSession => {
                let model = self.model(handle(next()?)?)?;
                let Value::List(items) = next()? else { return Err(broken()) };
                let mut bindings = Vec::with_capacity(items.len());
                for item in items {
                    let Value::Record(fields) = item else { return Err(broken()) };
                    let [Value::String(input), Value::String(output), Value::Handle(initial)] =
                        &fields[..]
                    else {
                        return Err(broken());
                    };
                    let Entry::Tensor(initial) = self.remove(*initial)? else {
                        return Err(no_handle(*initial));
                    };
                    let (input, output) = (input.clone(), output.clone());
                    bindings.push(StateBinding { input, output, initial });
                }
                if self.open == MAX_OPEN {
                    return Ok(Some(too_many_open()));
                }
                match Session::new(model, bindings) {
                    Ok(session) => {
                        self.open += 1;
                        ok(Some(Value::Handle(self.push(Entry::Session(Box::new(session)))?)))
                    }
                    Err(e) => inference_error(&e),
                }
            }
            Import::SessionRun => {
                let session = handle(next()?)?;
                let inputs = self.take(next()?)?;
                let made = match self.slot(session) {
                    Some(Some(Entry::Session(session))) => session.run(&inputs),
                    _ => return Err(no_handle(session)),
                };
                self.finish(inputs.len(), made)?
            }
            Import::SessionReset => {
                let session = handle(next()?)?;
                match self.slot(session) {
                    Some(Some(Entry::Session(session))) => session.reset(),
                    _ => return Err(no_handle(session)),
                }
                return Ok(None);
            }
        }))
    }

    fn keep(&mut self, made: Result<Tensor, TensorError>) -> Result<Value, CallError> {
        Ok(match made {
            Ok(tensor) => {
                let bytes = self.held_with(&tensor);
                if bytes > self.limits.tensor_bytes {
                    error(4, Value::String(over_tensors(bytes, self.limits.tensor_bytes)))
                } else {
                    ok(Some(Value::Handle(self.push(Entry::Tensor(tensor))?)))
                }
            }
            Err(e) => tensor_error(e),
        })
    }

    fn finish(
        &mut self,
        inputs: usize,
        made: Result<NamedTensors, InferenceError>,
    ) -> Result<Value, CallError> {
        Ok(match made {
            Ok(outputs) => {
                self.copies.model_run(inputs, outputs.len());
                ok(Some(self.give(outputs)?))
            }
            Err(e) => inference_error(&e),
        })
    }
}

fn key(tensor: &Tensor) -> usize {
    tensor.bytes().as_ptr().addr()
}

fn no_handle(handle: u32) -> CallError {
    CallError::Trap(format!("there is no such handle: {handle}"))
}

fn over_tensors(wanted: u64, limit: u64) -> String {
    format!("tensor limit: {wanted} bytes of tensors held, {limit} allowed")
}

fn too_many_open() -> Value {
    error(5, Value::String(format!("{MAX_OPEN} models and sessions are open already")))
}

/// The contract's element types, in its order.
const DTYPES: [DType; 13] = [
    DType::Bool,
    DType::U8,
    DType::I8,
    DType::U16,
    DType::I16,
    DType::U32,
    DType::I32,
    DType::U64,
    DType::I64,
    DType::F16,
    DType::BF16,
    DType::F32,
    DType::F64,
];

fn dtype_case(dtype: DType) -> u32 {
    DTYPES.iter().position(|d| *d == dtype).unwrap_or_default() as u32
}

fn tensor_error(e: TensorError) -> Value {
    match e {
        TensorError::WrongLength { expected_bytes, actual_bytes, .. } => {
            let lengths = [expected_bytes, actual_bytes].map(|n| Value::U64(n as u64));
            error(0, Value::Record(lengths.to_vec()))
        }
        TensorError::BadShape(_) => error(1, Value::String(e.to_string())),
        TensorError::BadBool { .. } | TensorError::WrongDType { .. } => {
            error(2, Value::String(e.to_string()))
        }
        TensorError::OutOfRange { .. } => error(3, Value::String(e.to_string())),
    }
}

fn inference_error(e: &InferenceError) -> Value {
    let case = match e {
        InferenceError::UnknownModel { .. } => 0,
        InferenceError::Unsupported { .. } => 1,
        InferenceError::MissingInput { .. }
        | InferenceError::UnknownInput { .. }
        | InferenceError::DuplicateInput { .. } => 2,
        InferenceError::WrongDType { .. } => 3,
        InferenceError::WrongShape { .. } => 4,
        InferenceError::OverLimit { .. } | InferenceError::OverBudget { .. } => 5,
        _ => 7,
    };
    error(case, Value::String(e.to_string()))
}

fn infos(infos: &[TensorInfo]) -> Value {
    let info = |t: &TensorInfo| {
        let shape = t.shape.iter().map(|d| match d {
            Dimension::Fixed(n) => Value::Variant(0, Some(Box::new(Value::U32(*n)))),
            Dimension::Symbolic(s) => Value::Variant(1, Some(Box::new(Value::String(s.clone())))),
        });
        Value::Record(vec![
            Value::String(t.name.clone()),
            Value::Variant(dtype_case(t.dtype), None),
            Value::List(shape.collect()),
        ])
    };
    Value::List(infos.iter().map(info).collect())
}
