//! The models of one host.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
};

use crate::{Executor, InferenceError, LoadLimits, Model};

/// Models by name, loaded and unloaded at run time from any thread.
///
/// A model that is running, or that a [`Session`](crate::Session) holds,
/// outlives its unloading until the last reference goes.
#[derive(Default)]
pub struct ModelSet {
    models: RwLock<BTreeMap<String, Arc<dyn Model>>>,
}

impl ModelSet {
    /// An empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Load a model under a name. One that already has the name is replaced,
    /// but only once the new one has loaded.
    ///
    /// # Errors
    /// As [`Executor::load`].
    pub fn load(
        &self,
        name: impl Into<String>,
        executor: &dyn Executor,
        onnx: &[u8],
        limits: &LoadLimits,
    ) -> Result<Arc<dyn Model>, InferenceError> {
        let model = executor.load(onnx, limits)?;
        let mut models = self.models.write().unwrap_or_else(PoisonError::into_inner);
        models.insert(name.into(), Arc::clone(&model));
        Ok(model)
    }

    /// Forget a model.
    ///
    /// # Errors
    /// [`InferenceError::UnknownModel`].
    pub fn unload(&self, name: &str) -> Result<(), InferenceError> {
        let mut models = self.models.write().unwrap_or_else(PoisonError::into_inner);
        match models.remove(name) {
            Some(_) => Ok(()),
            None => Err(InferenceError::UnknownModel { name: name.to_owned() }),
        }
    }

    /// The model of that name.
    pub fn get(&self, name: &str) -> Option<Arc<dyn Model>> {
        self.models.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// The names, sorted.
    pub fn names(&self) -> Vec<String> {
        self.models.read().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }

    /// Bytes of the constants of all models in the set.
    pub fn resident_bytes(&self) -> u64 {
        let models = self.models.read().unwrap_or_else(PoisonError::into_inner);
        models.values().map(|m| m.info().parameter_bytes).sum()
    }
}
