//! `headland:pipeline/inference`.

use std::sync::Arc;

use headland_inference::{Dimension, InferenceError, Session, StateBinding, TensorInfo};
use headland_tensor::NamedTensors;
use wasmtime::component::Resource;

use super::{MAX_OPEN, OpenModel, OpenSession, StageState};
use crate::bindings::{inference as wit, tensors::NamedTensor};

impl From<InferenceError> for wit::InferenceError {
    fn from(e: InferenceError) -> Self {
        let message = e.to_string();
        match e {
            InferenceError::UnknownModel { .. } => Self::UnknownModel(message),
            InferenceError::Unsupported { .. } => Self::Unsupported(message),
            InferenceError::MissingInput { .. }
            | InferenceError::UnknownInput { .. }
            | InferenceError::DuplicateInput { .. } => Self::BadInput(message),
            InferenceError::WrongDType { .. } => Self::WrongDtype(message),
            InferenceError::WrongShape { .. } => Self::WrongShape(message),
            InferenceError::OverLimit { .. } | InferenceError::OverBudget { .. } => {
                Self::OutOfMemory(message)
            }
            InferenceError::DeadlineExceeded { .. } => Self::DeadlineExceeded,
            _ => Self::Failed(message),
        }
    }
}

fn info(t: &TensorInfo) -> wit::TensorInfo {
    wit::TensorInfo {
        name: t.name.clone(),
        dtype: t.dtype.into(),
        shape: t
            .shape
            .iter()
            .map(|d| match d {
                Dimension::Fixed(n) => wit::Dimension::Fixed(*n),
                Dimension::Symbolic(s) => wit::Dimension::Symbolic(s.clone()),
            })
            .collect(),
    }
}

fn too_many_open() -> wit::InferenceError {
    wit::InferenceError::OutOfMemory(format!("{MAX_OPEN} models and sessions are open already"))
}

impl wit::Host for StageState {}

type Outputs = Result<Vec<NamedTensor>, wit::InferenceError>;

impl StageState {
    fn finish(
        &mut self,
        inputs: &NamedTensors,
        result: Result<NamedTensors, InferenceError>,
    ) -> wasmtime::Result<Outputs> {
        match result {
            Ok(outputs) => {
                self.copies.model_run(inputs, &outputs);
                Ok(Ok(self.give(outputs)?))
            }
            Err(e) => Ok(Err(e.into())),
        }
    }
}

impl wit::HostModel for StageState {
    fn open(
        &mut self,
        name: String,
    ) -> wasmtime::Result<Result<Resource<OpenModel>, wit::InferenceError>> {
        self.enter()?;
        if self.open == MAX_OPEN {
            return Ok(Err(too_many_open()));
        }
        match self.models.get(&name) {
            Some(model) => {
                let model = OpenModel(Arc::clone(model));
                self.open += 1;
                Ok(Ok(self.table.push(model)?))
            }
            None => Ok(Err(wit::InferenceError::UnknownModel(format!(
                "stage {:?} is granted no model {name:?}; granted are {:?}",
                self.stage,
                self.models.keys().collect::<Vec<_>>()
            )))),
        }
    }

    fn inputs(&mut self, this: Resource<OpenModel>) -> wasmtime::Result<Vec<wit::TensorInfo>> {
        self.enter()?;
        Ok(self.table.get(&this)?.0.info().inputs.iter().map(info).collect())
    }

    fn outputs(&mut self, this: Resource<OpenModel>) -> wasmtime::Result<Vec<wit::TensorInfo>> {
        self.enter()?;
        Ok(self.table.get(&this)?.0.info().outputs.iter().map(info).collect())
    }

    fn batch_hint(&mut self, this: Resource<OpenModel>) -> wasmtime::Result<Option<u32>> {
        self.enter()?;
        let model = &self.table.get(&this)?.0;
        let dynamic = |t: &TensorInfo| matches!(t.shape.first(), Some(Dimension::Symbolic(_)));
        Ok(model.info().inputs.iter().any(dynamic).then_some(1))
    }

    fn run(
        &mut self,
        this: Resource<OpenModel>,
        inputs: Vec<NamedTensor>,
    ) -> wasmtime::Result<Outputs> {
        self.enter()?;
        let inputs = self.take(inputs)?;
        let model = Arc::clone(&self.table.get(&this)?.0);
        self.enter_model(model.info(), &inputs)?;
        let deadline = Some(self.budget.deadline);
        let result = model.run_until(&inputs, deadline);
        self.finish(&inputs, result)
    }

    fn open_session(
        &mut self,
        this: Resource<OpenModel>,
        state: Vec<wit::StateBinding>,
    ) -> wasmtime::Result<Result<Resource<OpenSession>, wit::InferenceError>> {
        self.enter()?;
        let mut bindings = Vec::with_capacity(state.len());
        for s in state {
            let initial = self.pop(s.initial)?;
            bindings.push(StateBinding { input: s.input, output: s.output, initial });
        }
        if self.open == MAX_OPEN {
            return Ok(Err(too_many_open()));
        }
        let model = Arc::clone(&self.table.get(&this)?.0);
        match Session::new(Arc::clone(&model), bindings) {
            Ok(session) => {
                self.open += 1;
                Ok(Ok(self.table.push(OpenSession { session, model })?))
            }
            Err(e) => Ok(Err(e.into())),
        }
    }

    fn drop(&mut self, this: Resource<OpenModel>) -> wasmtime::Result<()> {
        self.table.delete(this)?;
        self.open -= 1;
        Ok(())
    }
}

impl wit::HostSession for StageState {
    fn run(
        &mut self,
        this: Resource<OpenSession>,
        inputs: Vec<NamedTensor>,
    ) -> wasmtime::Result<Outputs> {
        self.enter()?;
        let inputs = self.take(inputs)?;
        let model = Arc::clone(&self.table.get(&this)?.model);
        self.enter_model(model.info(), &inputs)?;
        let deadline = Some(self.budget.deadline);
        let result = self.table.get_mut(&this)?.session.run_until(&inputs, deadline);
        self.finish(&inputs, result)
    }

    fn reset(&mut self, this: Resource<OpenSession>) -> wasmtime::Result<()> {
        self.enter()?;
        self.table.get_mut(&this)?.session.reset();
        Ok(())
    }

    fn drop(&mut self, this: Resource<OpenSession>) -> wasmtime::Result<()> {
        self.table.delete(this)?;
        self.open -= 1;
        Ok(())
    }
}
