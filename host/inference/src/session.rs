//! Runs of a streaming model over time.

use std::{sync::Arc, time::Instant};

use headland_tensor::{NamedTensors, Tensor};

use crate::{Dimension, InferenceError, Model, TensorInfo};

/// An output that a session hands back to an input at the next run.
#[derive(Debug, Clone, PartialEq)]
pub struct StateBinding {
    /// The input that takes the state.
    pub input: String,
    /// The output that gives the next state.
    pub output: String,
    /// The state before the first run.
    pub initial: Tensor,
}

/// A model whose bound outputs are fed back to its bound inputs.
///
/// A model on a device keeps the state there.
pub struct Session {
    model: Arc<dyn Model>,
    bindings: Vec<StateBinding>,
    initial: State,
    state: State,
}

/// The current state of a session: one value a binding, in the bindings' order,
/// wherever the model keeps it.
#[derive(Debug, Clone)]
pub struct State(pub(crate) Vec<Held>);

/// Where a session's state is.
#[derive(Debug, Clone)]
pub(crate) enum Held {
    Host(Tensor),
    #[cfg(feature = "gpu")]
    Device(Box<crate::Value>),
}

impl State {
    /// The bindings' initial state.
    fn initial(bindings: &[StateBinding]) -> Self {
        Self(bindings.iter().map(|b| Held::Host(b.initial.clone())).collect())
    }
}

/// One step of a session in host memory, for models that keep no state of their
/// own.
pub(crate) fn step_on_host<M: Model + ?Sized>(
    model: &M,
    inputs: &[(String, Tensor)],
    bindings: &[StateBinding],
    state: &mut State,
    deadline: Option<Instant>,
) -> Result<NamedTensors, InferenceError> {
    let mut all = inputs.to_vec();
    for (binding, held) in bindings.iter().zip(&state.0) {
        match held {
            Held::Host(tensor) => all.push((binding.input.clone(), tensor.clone())),
            #[cfg(feature = "gpu")]
            Held::Device(_) => {
                let reason = format!("the state for {:?} is on a device", binding.input);
                return Err(InferenceError::Failed { reason });
            }
        }
    }
    let (bound, free): (NamedTensors, NamedTensors) = model
        .run_until(&all, deadline)?
        .into_iter()
        .partition(|(name, _)| bindings.iter().any(|b| b.output == *name));
    for (name, tensor) in bound {
        if let Some(index) = bindings.iter().position(|b| b.output == name) {
            state.0[index] = Held::Host(tensor);
        }
    }
    Ok(free)
}

impl Session {
    /// Start a session in the bindings' initial state.
    ///
    /// # Errors
    /// [`InferenceError::UnknownInput`] and [`InferenceError::DuplicateInput`]
    /// for names of inputs; [`InferenceError::WrongDType`] and
    /// [`InferenceError::WrongShape`] where the initial state or the bound
    /// output does not fit the input; [`InferenceError::Malformed`] for an
    /// output that the model does not have, or bound twice.
    pub fn new(model: Arc<dyn Model>, bindings: Vec<StateBinding>) -> Result<Self, InferenceError> {
        let info = model.info();
        for (index, binding) in bindings.iter().enumerate() {
            let input = info.inputs.iter().find(|i| i.name == binding.input).ok_or_else(|| {
                InferenceError::UnknownInput {
                    name: binding.input.clone(),
                    known: info.inputs.iter().map(|i| i.name.clone()).collect(),
                }
            })?;
            let output =
                info.outputs.iter().find(|o| o.name == binding.output).ok_or_else(|| {
                    InferenceError::malformed(format!(
                        "the model has no output {:?}",
                        binding.output
                    ))
                })?;
            let earlier = &bindings[..index];
            if earlier.iter().any(|b| b.input == binding.input) {
                return Err(InferenceError::DuplicateInput { name: binding.input.clone() });
            }
            if earlier.iter().any(|b| b.output == binding.output) {
                return Err(InferenceError::malformed(format!(
                    "output {:?} is bound twice",
                    binding.output
                )));
            }
            check_fit(input, output, &binding.initial)?;
        }
        let initial = State::initial(&bindings);
        Ok(Self { model, bindings, state: initial.clone(), initial })
    }

    /// The model that runs.
    pub fn model(&self) -> &Arc<dyn Model> {
        &self.model
    }

    /// Run one step. Takes every input that is not bound, gives every output
    /// that is not bound. A step that fails leaves the state as it was.
    ///
    /// # Errors
    /// As [`Model::run`]; a bound input that is given counts as given twice.
    pub fn run(&mut self, inputs: &[(String, Tensor)]) -> Result<NamedTensors, InferenceError> {
        self.run_until(inputs, None)
    }

    /// As [`run`](Self::run), but stopped at the deadline, as
    /// [`Model::run_until`] says. A step that is stopped leaves the state as it
    /// was.
    ///
    /// # Errors
    /// As [`Model::run_until`]; a bound input that is given counts as given
    /// twice.
    pub fn run_until(
        &mut self,
        inputs: &[(String, Tensor)],
        deadline: Option<Instant>,
    ) -> Result<NamedTensors, InferenceError> {
        self.model.step(inputs, &self.bindings, &mut self.state, deadline)
    }

    /// Back to the initial state.
    pub fn reset(&mut self) {
        self.state = self.initial.clone();
    }
}

/// Whether `initial` and every value of `output` can be an `input`.
fn check_fit(
    input: &TensorInfo,
    output: &TensorInfo,
    initial: &Tensor,
) -> Result<(), InferenceError> {
    for actual in [initial.dtype(), output.dtype] {
        if actual != input.dtype {
            return Err(InferenceError::WrongDType {
                input: input.name.clone(),
                expected: input.dtype,
                actual,
            });
        }
    }
    let dims = initial.shape().dims();
    let fits = dims.len() == input.shape.len()
        && dims
            .iter()
            .zip(&input.shape)
            .all(|(actual, expected)| !matches!(expected, Dimension::Fixed(d) if d != actual));
    if fits {
        Ok(())
    } else {
        Err(InferenceError::WrongShape {
            input: input.name.clone(),
            expected: input.shape_text(),
            actual: initial.shape().clone(),
            detail: None,
        })
    }
}
