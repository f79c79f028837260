//! What a component can reach: one file per interface of the contract.

mod inference;
mod log;
mod tensors;
mod wasi;

pub(crate) use log::clip;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use headland_inference::{Dimension, Model, ModelInfo, Session};
use headland_tensor::{Limits, NamedTensors, Tensor};
use serde::{Deserialize, Serialize};
use wasmtime::{
    ResourceLimiter,
    component::{HasSelf, Linker, Resource, ResourceTable},
};
use wasmtime_wasi::WasiCtx;

use crate::{LogSink, bindings, world::World};

/// Handles that one instance may hold at a time.
const MAX_HANDLES: usize = 1024;

/// Models and sessions that one instance may have open at a time.
const MAX_OPEN: usize = 16;

/// How often, and how many bytes, data was copied over a boundary.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyCount {
    /// Times.
    pub count: u64,
    /// Bytes in all.
    pub bytes: u64,
}

impl CopyCount {
    fn add(&mut self, bytes: usize) {
        self.count += 1;
        self.bytes += bytes as u64;
    }
}

/// Every copy of tensor data that one frame cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Copies {
    /// From the host into a component's memory (`tensor.read`).
    pub into_components: CopyCount,
    /// From a component's memory into the host (`tensor.create`).
    pub out_of_components: CopyCount,
    /// From the host into an executor's own tensors.
    pub into_models: CopyCount,
    /// From an executor's own tensors into the host.
    pub out_of_models: CopyCount,
}

impl Copies {
    /// All copies together.
    pub fn total(&self) -> CopyCount {
        let all =
            [self.into_components, self.out_of_components, self.into_models, self.out_of_models];
        CopyCount {
            count: all.iter().map(|c| c.count).sum(),
            bytes: all.iter().map(|c| c.bytes).sum(),
        }
    }

    /// Count one run of a model.
    pub(crate) fn model_run(&mut self, inputs: &[(String, Tensor)], outputs: &[(String, Tensor)]) {
        for (_, t) in inputs {
            self.into_models.add(t.bytes().len());
        }
        for (_, t) in outputs {
            self.out_of_models.add(t.bytes().len());
        }
    }
}

impl std::ops::AddAssign for Copies {
    fn add_assign(&mut self, other: Self) {
        for (into, from) in [
            (&mut self.into_components, other.into_components),
            (&mut self.out_of_components, other.out_of_components),
            (&mut self.into_models, other.into_models),
            (&mut self.out_of_models, other.out_of_models),
        ] {
            into.count += from.count;
            into.bytes += from.bytes;
        }
    }
}

/// A limit that a component hit; what a trap is traced back to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LimitHit {
    /// Linear memory.
    #[error("memory limit: {wanted_bytes} bytes wanted, {limit_bytes} allowed")]
    Memory {
        /// What the component wanted.
        wanted_bytes: u64,
        /// What it may have.
        limit_bytes: u64,
    },
    /// A table.
    #[error("table limit: {wanted} entries wanted, {limit} allowed")]
    Table {
        /// What the component wanted.
        wanted: u64,
        /// What it may have.
        limit: u64,
    },
    /// Tensors held in the host.
    #[error("tensor limit: {wanted_bytes} bytes of tensors held, {limit_bytes} allowed")]
    Tensors {
        /// What the component would hold.
        wanted_bytes: u64,
        /// What it may hold.
        limit_bytes: u64,
    },
    /// Calls into the host.
    #[error("hostcall limit: more than {0} calls into the host in one call of the stage")]
    Hostcalls(u64),
    /// Runs of models.
    #[error("model call limit: {wanted} runs of models wanted in one call, {limit} allowed")]
    ModelCalls {
        /// What the component would come to with one run more.
        wanted: u64,
        /// What it may have.
        limit: u64,
    },
}

/// Enforces a stage's memory and table limits, and remembers the first one
/// that was hit, so that the abort that follows can be told apart from a bug.
pub(crate) struct ResourceGuard {
    limits: Limits,
    pub(crate) hit: Option<LimitHit>,
    /// The sum over the instance's memories.
    memory_bytes: u64,
    /// What the last growth added, should it fail after all.
    growth_bytes: u64,
}

impl ResourceLimiter for ResourceGuard {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let wanted_bytes = self.memory_bytes - current as u64 + desired as u64;
        if wanted_bytes > self.limits.memory_bytes {
            let limit_bytes = self.limits.memory_bytes;
            self.growth_bytes = 0;
            self.hit.get_or_insert(LimitHit::Memory { wanted_bytes, limit_bytes });
            return Ok(false);
        }
        self.growth_bytes = wanted_bytes - self.memory_bytes;
        self.memory_bytes = wanted_bytes;
        Ok(true)
    }

    fn memory_grow_failed(&mut self, _: wasmtime::Error) -> wasmtime::Result<()> {
        self.memory_bytes -= std::mem::take(&mut self.growth_bytes);
        Ok(())
    }

    fn table_growing(
        &mut self,
        _: usize,
        desired: usize,
        _: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let (wanted, limit) = (desired as u64, self.limits.table_elements);
        if wanted > limit {
            self.hit.get_or_insert(LimitHit::Table { wanted, limit });
        }
        Ok(wanted <= limit)
    }

    fn instances(&self) -> usize {
        self.limits.instances as usize
    }

    fn tables(&self) -> usize {
        self.limits.instances as usize
    }

    fn memories(&self) -> usize {
        self.limits.instances as usize
    }
}

/// What is left of one call's allowance.
struct Budget {
    /// When the call must be over.
    deadline: Instant,
    hostcalls: u64,
    /// Runs of models so far; each row of a batch counts.
    model_calls: u64,
    log_lines: u32,
}

/// The tensor data that an instance has handles to. Handles that share data
/// count once.
#[derive(Default)]
struct Held {
    handles: HashMap<usize, u32>,
    bytes: u64,
}

impl Held {
    fn key(tensor: &Tensor) -> usize {
        tensor.bytes().as_ptr().addr()
    }

    /// What would be held with `tensor`, too.
    fn with(&self, tensor: &Tensor) -> u64 {
        let more =
            if self.handles.contains_key(&Self::key(tensor)) { 0 } else { tensor.bytes().len() };
        self.bytes + more as u64
    }

    fn add(&mut self, tensor: &Tensor) {
        self.bytes = self.with(tensor);
        *self.handles.entry(Self::key(tensor)).or_default() += 1;
    }

    fn remove(&mut self, tensor: &Tensor) {
        let key = Self::key(tensor);
        match self.handles.get_mut(&key) {
            Some(n) if *n > 1 => *n -= 1,
            _ => {
                self.handles.remove(&key);
                self.bytes -= tensor.bytes().len() as u64;
            }
        }
    }
}

/// Everything that an instance of a component has in the host.
pub(crate) struct StageState {
    table: ResourceTable,
    held: Held,
    /// Models and sessions that the instance has open.
    open: usize,
    pub(crate) guard: ResourceGuard,
    limits: Limits,
    /// Runs of models that one call may make.
    pub(crate) max_model_calls: u64,
    budget: Budget,
    pub(crate) copies: Copies,
    models: BTreeMap<String, Arc<dyn Model>>,
    stage: String,
    log: LogSink,
    wasi: Option<WasiCtx>,
}

impl StageState {
    pub(crate) fn new(
        stage: &str,
        limits: Limits,
        models: BTreeMap<String, Arc<dyn Model>>,
        wasi: bool,
        log: LogSink,
    ) -> Self {
        let mut table = ResourceTable::new();
        table.set_max_capacity(MAX_HANDLES);
        Self {
            table,
            held: Held::default(),
            open: 0,
            guard: ResourceGuard { limits, hit: None, memory_bytes: 0, growth_bytes: 0 },
            limits,
            max_model_calls: u64::MAX,
            budget: Budget { deadline: Instant::now(), hostcalls: 0, model_calls: 0, log_lines: 0 },
            copies: Copies::default(),
            models,
            stage: stage.to_owned(),
            log,
            wasi: wasi.then(wasi::closed_context),
        }
    }

    /// Give the instance a fresh allowance for one call.
    pub(crate) fn begin_call(&mut self) {
        self.budget = Budget {
            deadline: Instant::now() + Duration::from_millis(self.limits.time_ms),
            hostcalls: self.limits.hostcalls,
            model_calls: 0,
            log_lines: log::MAX_LINES_PER_CALL,
        };
        self.copies = Copies::default();
        // One that the component got over in an earlier call.
        self.guard.hit = None;
    }

    /// Count one call into the host.
    fn enter(&mut self) -> wasmtime::Result<()> {
        match self.budget.hostcalls.checked_sub(1) {
            Some(left) => {
                self.budget.hostcalls = left;
                Ok(())
            }
            None => {
                let hit = LimitHit::Hostcalls(self.limits.hostcalls);
                self.guard.hit.get_or_insert(hit.clone());
                Err(wasmtime::Error::new(hit))
            }
        }
    }

    /// Count one run of a model, before it is made.
    fn enter_model(&mut self, model: &ModelInfo, inputs: &NamedTensors) -> wasmtime::Result<()> {
        let wanted = self.budget.model_calls.saturating_add(rows(model, inputs));
        if wanted > self.max_model_calls {
            let hit = LimitHit::ModelCalls { wanted, limit: self.max_model_calls };
            self.guard.hit.get_or_insert(hit.clone());
            return Err(wasmtime::Error::new(hit));
        }
        self.budget.model_calls = wanted;
        Ok(())
    }

    /// Runs of models that the last call made.
    pub(crate) fn model_calls(&self) -> u64 {
        self.budget.model_calls
    }

    /// Whether the instance may hold `tensor`, too.
    fn afford(&self, tensor: &Tensor) -> Result<(), LimitHit> {
        let (wanted_bytes, limit_bytes) = (self.held.with(tensor), self.limits.tensor_bytes);
        if wanted_bytes > limit_bytes {
            return Err(LimitHit::Tensors { wanted_bytes, limit_bytes });
        }
        Ok(())
    }

    /// A handle to `tensor`, which the instance can [afford](Self::afford).
    fn push(&mut self, tensor: Tensor) -> wasmtime::Result<Resource<Tensor>> {
        self.held.add(&tensor);
        Ok(self.table.push(tensor)?)
    }

    /// The tensor behind a handle, which is given up.
    fn pop(&mut self, handle: Resource<Tensor>) -> wasmtime::Result<Tensor> {
        let tensor = self.table.delete(handle)?;
        self.held.remove(&tensor);
        Ok(tensor)
    }

    /// Hand tensors to the component.
    pub(crate) fn give(
        &mut self,
        tensors: NamedTensors,
    ) -> wasmtime::Result<Vec<bindings::tensors::NamedTensor>> {
        let mut given = Vec::with_capacity(tensors.len());
        for (name, tensor) in tensors {
            if let Err(hit) = self.afford(&tensor) {
                self.guard.hit.get_or_insert(hit.clone());
                return Err(wasmtime::Error::new(hit));
            }
            given.push(bindings::tensors::NamedTensor { name, tensor: self.push(tensor)? });
        }
        Ok(given)
    }

    /// Take one tensor back from it.
    pub(crate) fn take_one(&mut self, handle: Resource<Tensor>) -> wasmtime::Result<Tensor> {
        self.pop(handle)
    }

    /// Take tensors back from it.
    pub(crate) fn take(
        &mut self,
        tensors: Vec<bindings::tensors::NamedTensor>,
    ) -> wasmtime::Result<NamedTensors> {
        tensors.into_iter().map(|n| Ok((n.name, self.pop(n.tensor)?))).collect()
    }
}

/// What a run of a model counts as: the rows of a batch, where the model leaves
/// the first dimension open.
fn rows(model: &ModelInfo, inputs: &NamedTensors) -> u64 {
    let open = |name: &str| {
        let info = model.inputs.iter().find(|i| i.name == name);
        info.is_some_and(|i| matches!(i.shape.first(), Some(Dimension::Symbolic(_))))
    };
    let batches = inputs.iter().filter(|(name, _)| open(name));
    let rows = batches.filter_map(|(_, tensor)| tensor.shape().dims().first());
    rows.max().map_or(1, |&rows| u64::from(rows.max(1)))
}

/// An open model: the component's handle to a model of the manifest.
pub struct OpenModel(Arc<dyn Model>);

/// An open session of a stateful model.
pub struct OpenSession {
    session: Session,
    model: Arc<dyn Model>,
}

/// Define what a component of `world` may import, and nothing else.
pub(crate) fn add_to_linker(
    linker: &mut Linker<StageState>,
    world: World,
    wasi: bool,
) -> wasmtime::Result<()> {
    bindings::log::add_to_linker::<_, HasSelf<_>>(linker, |s| s)?;
    bindings::types::add_to_linker::<_, HasSelf<_>>(linker, |s| s)?;
    if world.has_tensors() {
        tensors::add_to_linker(linker)?;
    }
    if world.has_inference() {
        bindings::inference::add_to_linker::<_, HasSelf<_>>(linker, |s| s)?;
    }
    if wasi {
        wasmtime_wasi::p2::add_to_linker_async(linker)?;
    }
    Ok(())
}
