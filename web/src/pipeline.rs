//! One running pipeline: the scheduler says what is next, this does it.

use std::{
    cell::RefCell,
    collections::{BTreeMap, VecDeque},
    rc::Rc,
    sync::Arc,
};

use headland_inference::{InferenceError, Model};
use headland_package::{HostPolicy, Package, PackageInfo, Role, Verified};
use headland_pipeline::{
    Command, Device, DropReason, FailureKind, Graph, GraphError, PipelineSpec, Scheduler,
    SpecError, StageFailure, StageKind, StageOutcome, StageOutput, StageSpec, Stats,
};
use headland_tensor::{ClassScore, Detection, Frame, Limits, NamedTensors, NamedValue, Prediction};
use serde::Serialize;

use crate::{
    component::{
        World, WorldError,
        abi::Value,
        contract::{CONFIGURE, Export, INFER, POSTPROCESS, PREPROCESS},
        host::{CallError, Copies, HostState, LogSink, clip},
        instance::{Compiled, Instance, Watched},
    },
    gpu::GpuTensors,
    models::{Models, NoModel, Placed, Placement, RunError, StageModel},
    monitor::{Monitor, MonitorReport},
    residency::stays_on_gpu,
};

/// A call's longest time, a day: what a package asks for beyond is cut.
const MAX_TIME_MS: u64 = 86_400_000;

/// Classes, detections or values in one prediction.
const MAX_ITEMS: usize = 65_536;

/// The level of a warning, of a [`LogSink`].
const WARN: u32 = 2;

/// The longest name of a tensor, in bytes.
const MAX_NAME_BYTES: usize = 256;

/// Why a verified package cannot run in this page.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// `pipeline.toml` does not parse.
    #[error("pipeline.toml: {0}")]
    Spec(#[from] SpecError),
    /// The stages do not make a pipeline.
    #[error("pipeline.toml: {0}")]
    Graph(#[from] GraphError),
    /// A stage names something that the package does not have.
    #[error("{user} needs {name:?}, which the package does not have")]
    MissingEntry { user: String, name: String },
    /// A component is not one of its world.
    #[error("{user}: component {component:?}: {source}")]
    World { user: String, component: String, source: WorldError },
    /// A component does not start.
    #[error("{user}: component {component:?}: {source}")]
    Component { user: String, component: String, source: CallError },
    /// A model is refused.
    #[error("model {model:?}: {source}")]
    Model { model: String, source: InferenceError },
    /// A stage asks for WASI.
    #[error("{user} asks for WASI, which no component is given in a page")]
    Wasi { user: String },
    /// A stage is pinned to the GPU, and there is none here.
    #[error("{user} asks for the GPU, and there is none here")]
    NoGpu { user: String },
    /// The models of a component are pinned to the GPU.
    #[error("{user} asks for the GPU for its component, which cannot wait for one in a page")]
    GpuForComponent { user: String },
}

impl LoadError {
    /// A stable code, for machines.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Spec(_) | Self::Graph(_) | Self::MissingEntry { .. } => "bad-pipeline",
            Self::World { .. } => "unknown-world",
            Self::Component { .. } => "component",
            Self::Model { .. } => "model",
            Self::Wasi { .. } => "wasi",
            Self::NoGpu { .. } | Self::GpuForComponent { .. } => "no-gpu",
        }
    }

    /// What to do about it; empty where that says nothing more.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NoGpu { .. } => {
                "load it with device \"gpu\" or \"auto\" in a browser with WebGPU, or give the \
                 stage a `fallback` in pipeline.toml"
            }
            Self::GpuForComponent { .. } => {
                "leave the stage's `device` open, or run the model in a stage of its own"
            }
            _ => "",
        }
    }
}

/// A component prepared for one stage or monitor.
pub struct Prepared {
    pub id: String,
    pub compiled: Rc<Compiled>,
    pub limits: Limits,
    pub config: String,
    models: BTreeMap<String, Arc<dyn Model>>,
    log: LogSink,
}

impl Prepared {
    /// Instantiate.
    pub fn instantiate(&self) -> Result<Instance, CallError> {
        let state =
            HostState::new(&self.id, self.limits, self.models.clone(), Rc::clone(&self.log));
        Instance::new(Rc::clone(&self.compiled), state)
    }
}

struct Stage {
    prepared: Prepared,
    run: Export,
    gives_prediction: bool,
    /// None after a trap, until it is called again.
    instance: Option<Instance>,
}

enum Runner {
    Component(Box<Stage>),
    /// A model run directly.
    Model(ModelStage),
    /// A model whose device this page does not have: its fallback serves.
    Absent(String),
    Scheduler,
}

struct ModelStage {
    model: StageModel,
    /// For how long at most.
    time_ms: u64,
    /// Whether its outputs stay on the GPU.
    keeps: bool,
}

/// One line about a stage, for people.
#[derive(Debug, Clone, Serialize)]
pub struct StageSummary {
    pub id: String,
    pub runs: String,
    pub limits: Limits,
}

/// How long a stage took for one frame.
#[derive(Debug, Clone, Serialize)]
pub struct StageTime {
    pub stage: String,
    pub duration_ns: u64,
    pub outcome: StageOutcome,
}

/// What became of one frame.
pub struct FrameReport {
    pub frame: u64,
    pub result: Result<StageOutput, DropReason>,
    pub stages: Vec<StageTime>,
    pub copies: Copies,
    pub duration_ns: u64,
    /// Whether a stage failed because the GPU is lost, or out of memory.
    pub has_lost_gpu: bool,
}

impl FrameReport {
    /// Whether a stage failed on the way, or was not called because it had.
    pub fn has_failure(&self) -> bool {
        self.stages.iter().any(|stage| stage.outcome != StageOutcome::Completed)
    }
}

/// How a package is loaded.
#[derive(Debug, Clone, Copy)]
pub struct LoadOptions {
    pub placement: Placement,
    /// Whether its monitors watch.
    pub monitors: bool,
}

/// What a package asks of a GPU.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct GpuWish {
    /// Stages that are pinned to it.
    pub pinned: usize,
    /// Stages whose models may run there.
    pub open: usize,
    /// Stages whose models do run there.
    pub here: usize,
}

/// A running pipeline.
pub struct Pipeline {
    pub info: PackageInfo,
    pub digest: String,
    pub stages: Vec<StageSummary>,
    pub gpu: GpuWish,
    graph: Arc<Graph>,
    scheduler: Scheduler,
    runners: Vec<Runner>,
    monitors: Vec<Monitor>,
    reports: RefCell<Vec<MonitorReport>>,
    finished: VecDeque<FrameReport>,
    copies: Copies,
    on_gpu: GpuTensors,
    has_lost_gpu: bool,
    next_frame: u64,
}

/// The page's own clock, in nanoseconds.
fn now_ns() -> u64 {
    (crate::facade::now_ms() * 1e6) as u64
}

impl Pipeline {
    /// Compile, check and start a verified package.
    ///
    /// # Errors
    /// [`LoadError`].
    pub async fn load(
        package: &Verified<Package>,
        host: &HostPolicy,
        log: &LogSink,
        options: LoadOptions,
    ) -> Result<Self, LoadError> {
        let graph = Arc::new(Graph::new(PipelineSpec::from_toml(package.pipeline_toml())?)?);
        let mut ceiling = host.limits;
        ceiling.time_ms = ceiling.time_ms.min(MAX_TIME_MS);
        let mut loader = Loader { package, log, models: Models::new(options.placement) };
        let (mut runners, mut stages, mut gpu) = (Vec::new(), Vec::new(), GpuWish::default());
        for stage in graph.stages() {
            let user = format!("stage {:?}", stage.id);
            let limits = stage.limits(ceiling);
            let (runner, runs) = match &stage.kind {
                StageKind::Component { component, world, config, models, device, wasi } => {
                    if *wasi {
                        return Err(LoadError::Wasi { user });
                    }
                    if *device == Device::Gpu {
                        return Err(LoadError::GpuForComponent { user });
                    }
                    let mut granted = BTreeMap::new();
                    for name in models {
                        granted.insert(name.clone(), loader.host_model(&user, name)?);
                    }
                    let on = if models.is_empty() { "" } else { ", its models on cpu" };
                    let (world, run) = match world {
                        headland_pipeline::World::Preprocess => (World::Preprocess, PREPROCESS),
                        headland_pipeline::World::Model => (World::Model, INFER),
                        headland_pipeline::World::Postprocess => (World::Postprocess, POSTPROCESS),
                    };
                    let config = config.to_string();
                    let prepared = loader
                        .component(&stage.id, &user, component, world, limits, config, granted)?;
                    let mut made = Stage {
                        prepared,
                        run,
                        gives_prediction: world == World::Postprocess,
                        instance: None,
                    };
                    made.start().map_err(|source| LoadError::Component {
                        user,
                        component: component.clone(),
                        source,
                    })?;
                    (Runner::Component(Box::new(made)), format!("component {component}{on}"))
                }
                StageKind::Model { model: name, device, .. } => {
                    match device {
                        Device::Gpu => gpu.pinned += 1,
                        Device::Auto => gpu.open += 1,
                        Device::Cpu => {}
                    }
                    match loader.stage_model(stage, name, *device).await? {
                        Ok(Placed { model, on }) => {
                            gpu.here += usize::from(matches!(model, StageModel::Gpu(_)));
                            let runs = format!("model {name} on {on}");
                            let time_ms = limits.time_ms;
                            (Runner::Model(ModelStage { model, time_ms, keeps: false }), runs)
                        }
                        Err(reason) => {
                            let runs = format!("nothing: {reason}");
                            (Runner::Absent(reason), runs)
                        }
                    }
                }
                StageKind::Router { .. } => (Runner::Scheduler, "router".to_owned()),
                StageKind::Combine { .. } => (Runner::Scheduler, "combiner".to_owned()),
            };
            runners.push(runner);
            stages.push(StageSummary { id: stage.id.clone(), runs, limits });
        }
        let is_on_gpu = |runner: &Runner| {
            matches!(runner, Runner::Model(ModelStage { model: StageModel::Gpu(_), .. }))
        };
        let on_gpu: Vec<bool> = runners.iter().map(is_on_gpu).collect();
        for (index, runner) in runners.iter_mut().enumerate() {
            if let Runner::Model(stage) = runner {
                stage.keeps = on_gpu[index] && stays_on_gpu(&graph, index, &on_gpu);
            }
        }
        let mut monitors = Vec::new();
        let watched = if options.monitors { graph.monitors() } else { &[] };
        for (index, spec) in watched.iter().enumerate() {
            let user = format!("monitor {:?}", spec.id);
            let prepared = loader.component(
                &spec.id,
                &user,
                &spec.component,
                World::Monitor,
                spec.limits(ceiling),
                spec.config.to_string(),
                BTreeMap::new(),
            )?;
            let reference = match &spec.reference {
                Some(name) => loader.entry(&user, Role::Reference, name)?,
                None => Arc::from([]),
            };
            let monitor = Monitor::open(prepared, reference, &graph, index);
            monitors.push(monitor.map_err(|source| LoadError::Component {
                user,
                component: spec.component.clone(),
                source,
            })?);
        }
        Ok(Self {
            info: package.info().clone(),
            digest: package.digest().to_string(),
            stages,
            gpu,
            scheduler: Scheduler::new(Arc::clone(&graph), 0),
            graph,
            runners,
            monitors,
            reports: RefCell::default(),
            finished: VecDeque::new(),
            copies: Copies::default(),
            on_gpu: GpuTensors::default(),
            has_lost_gpu: false,
            next_frame: 0,
        })
    }

    /// The pipeline as it was written.
    pub fn spec(&self) -> &PipelineSpec {
        self.graph.spec()
    }

    /// The counters.
    pub fn stats(&self) -> &Stats {
        self.scheduler.stats()
    }

    /// Number the next frame so, and those after it from there: another instance
    /// of this pipeline had the ones before.
    pub fn continue_at(&mut self, frame: u64) {
        self.next_frame = self.next_frame.max(frame);
    }

    /// Run one frame to its end. Shadows and monitors come later, in
    /// [`settle`](Self::settle) or before the next frame.
    ///
    /// Nothing is waited for but the GPU.
    pub async fn run(
        &mut self,
        inputs: NamedTensors,
        media_type: &str,
        captured_at_ns: u64,
    ) -> FrameReport {
        self.drain().await;
        self.copies = Copies::default();
        self.has_lost_gpu = false;
        let id = self.next_frame;
        self.next_frame += 1;
        let frame = Frame { id, captured_at_ns, media_type: media_type.to_owned() };
        let began = now_ns();
        let dropped = |reason, copies| FrameReport {
            frame: id,
            result: Err(reason),
            stages: Vec::new(),
            copies,
            duration_ns: now_ns() - began,
            has_lost_gpu: false,
        };
        if let Err(reason) = self.scheduler.submit(frame, inputs, began) {
            return dropped(reason, self.copies);
        }
        while self.finished.is_empty() && self.step().await {}
        match self.finished.pop_front() {
            Some(report) => FrameReport { duration_ns: now_ns() - began, ..report },
            // The scheduler finishes every frame that it admitted.
            None => dropped(DropReason::Shutdown, self.copies),
        }
    }

    /// Do one command; false when there is nothing to do.
    async fn step(&mut self) -> bool {
        let Some(command) = self.scheduler.poll(now_ns()) else { return false };
        match command {
            Command::Invoke { call, stage, frame, inputs, .. } => {
                let result = self.invoke(stage, &frame, inputs).await;
                self.scheduler.complete(call, result, now_ns());
            }
            Command::Finished { frame, result, path } => {
                let stages = path.into_iter().filter_map(|run| {
                    Some(StageTime {
                        stage: self.graph.stages().get(run.stage)?.id.clone(),
                        duration_ns: run.end_ns.saturating_sub(run.start_ns),
                        outcome: run.outcome,
                    })
                });
                let stages = stages.collect();
                let result = match result {
                    Ok(StageOutput::Tensors(tensors)) => self.given(tensors).await,
                    other => other,
                };
                self.finished.push_back(FrameReport {
                    frame: frame.id,
                    result,
                    stages,
                    copies: self.copies,
                    duration_ns: 0,
                    has_lost_gpu: self.has_lost_gpu,
                });
            }
            Command::Observe { monitor, row } => {
                if let Some(monitor) = self.monitors.get_mut(monitor) {
                    monitor.offer(row);
                }
            }
        }
        true
    }

    /// What the pipeline gives, in host memory: a router at its end hands on what a
    /// stage on the GPU gave.
    async fn given(&mut self, tensors: NamedTensors) -> Result<StageOutput, DropReason> {
        self.read_back(tensors).await.map(StageOutput::Tensors).map_err(|failure| {
            let output = self.graph.stages().get(self.graph.output());
            DropReason::StageFailed {
                stage: output.map(|stage| stage.id.clone()).unwrap_or_default(),
                kind: failure.kind,
                message: failure.message,
            }
        })
    }

    async fn read_back(&mut self, tensors: NamedTensors) -> Result<NamedTensors, StageFailure> {
        match self.on_gpu.read_back(tensors, &mut self.copies).await {
            Ok(tensors) => Ok(tensors),
            Err(e) => Err(self.model_failed(e.into())),
        }
    }

    fn model_failed(&mut self, e: RunError) -> StageFailure {
        self.has_lost_gpu |= e.is_of_device();
        e.into()
    }

    async fn invoke(
        &mut self,
        stage: usize,
        frame: &Frame,
        inputs: NamedTensors,
    ) -> Result<StageOutput, StageFailure> {
        if let Some(Runner::Model(ModelStage { model: StageModel::Gpu(model), time_ms, keeps })) =
            self.runners.get(stage)
        {
            let copies = &mut self.copies;
            let made = self.on_gpu.run(model, &inputs, *keeps, *time_ms, copies).await;
            return match made {
                Ok(outputs) => Ok(StageOutput::Tensors(outputs)),
                Err(e) => Err(self.model_failed(e)),
            };
        }
        let inputs = self.read_back(inputs).await?;
        match self.runners.get_mut(stage) {
            Some(Runner::Component(stage)) => {
                let (result, copies) = stage.run(frame, inputs);
                for (all, one) in [
                    (&mut self.copies.into_components, copies.into_components),
                    (&mut self.copies.out_of_components, copies.out_of_components),
                    (&mut self.copies.into_models, copies.into_models),
                    (&mut self.copies.out_of_models, copies.out_of_models),
                ] {
                    *all += one;
                }
                result.map_err(failure)
            }
            Some(Runner::Model(ModelStage { model: StageModel::Cpu(model), time_ms, .. })) => {
                let id = self.graph.stages().get(stage).map_or("", |stage| &stage.id);
                let _watched = Watched::start(id, *time_ms);
                let outputs = model.run(&inputs).map_err(RunError::Inference)?;
                self.copies.model_run(inputs.len(), outputs.len());
                Ok(StageOutput::Tensors(outputs))
            }
            Some(Runner::Absent(reason)) => {
                Err(StageFailure { kind: FailureKind::Inference, message: reason.clone() })
            }
            _ => Err(StageFailure {
                kind: FailureKind::Refused,
                message: format!("stage {stage} is not one that is called"),
            }),
        }
    }

    async fn drain(&mut self) {
        while self.step().await {}
        self.finished.clear();
        self.on_gpu.clear();
    }

    /// Finish shadows, and have the monitors see every row so far.
    pub async fn settle(&mut self) {
        self.drain().await;
        for monitor in &mut self.monitors {
            monitor.work(self.reports.get_mut());
        }
    }

    /// Settle, then end every monitor's window.
    pub async fn close_windows(&mut self) {
        self.settle().await;
        for monitor in &mut self.monitors {
            monitor.close_window(self.reports.get_mut());
        }
    }

    /// Call a monitor no more: a worker had to be ended for it.
    pub fn disable_monitor(&mut self, id: &str) {
        self.monitors.iter_mut().filter(|m| m.id() == id).for_each(Monitor::turn_off);
    }

    /// What the monitors reported since the last time.
    pub fn take_reports(&mut self) -> Vec<MonitorReport> {
        std::mem::take(self.reports.get_mut())
    }
}

/// Finds what stages name in the package, and makes it ready once.
struct Loader<'a> {
    package: &'a Verified<Package>,
    log: &'a LogSink,
    models: Models,
}

impl Loader<'_> {
    fn entry(&self, user: &str, role: Role, name: &str) -> Result<Arc<[u8]>, LoadError> {
        let found = self.package.entries().iter().any(|e| e.name == name && e.role == role);
        found
            .then(|| self.package.blob(name))
            .flatten()
            .ok_or_else(|| LoadError::MissingEntry { user: user.to_owned(), name: name.to_owned() })
    }

    /// A model that a component is granted: its calls cannot wait for a GPU.
    fn host_model(&mut self, user: &str, name: &str) -> Result<Arc<dyn Model>, LoadError> {
        let bytes = self.entry(user, Role::Model, name)?;
        let refused = |source| LoadError::Model { model: name.to_owned(), source };
        self.models.host(name, &bytes).map_err(refused)
    }

    /// The model of a stage that runs it directly, or why its fallback serves.
    async fn stage_model(
        &mut self,
        stage: &StageSpec,
        name: &str,
        device: Device,
    ) -> Result<Result<Placed, String>, LoadError> {
        let user = format!("stage {:?}", stage.id);
        let bytes = self.entry(&user, Role::Model, name)?;
        let error = match self.models.stage(name, device, &bytes).await {
            Ok(placed) => return Ok(Ok(placed)),
            Err(NoModel::NoGpu) => LoadError::NoGpu { user },
            Err(NoModel::Refused(source)) => LoadError::Model { model: name.to_owned(), source },
        };
        let reason = match &error {
            LoadError::NoGpu { .. } => "there is no GPU here".to_owned(),
            LoadError::Model { source, .. }
                if matches!(
                    source,
                    InferenceError::Device { .. } | InferenceError::Unsupported { .. }
                ) =>
            {
                source.to_string()
            }
            _ => return Err(error),
        };
        // As natively: only what the device lacks is forgiven, and only where the
        // package says what is to run instead.
        if device != Device::Gpu || stage.fallback.is_none() {
            return Err(error);
        }
        (self.log)(&stage.id, WARN, &format!("its fallback serves: {reason}"));
        Ok(Err(reason))
    }

    #[allow(clippy::too_many_arguments)]
    fn component(
        &self,
        id: &str,
        user: &str,
        component: &str,
        world: World,
        limits: Limits,
        config: String,
        models: BTreeMap<String, Arc<dyn Model>>,
    ) -> Result<Prepared, LoadError> {
        let bytes = self.entry(user, Role::Component, component)?;
        let plan = world.read(&bytes).map_err(|source| LoadError::World {
            user: user.to_owned(),
            component: component.to_owned(),
            source,
        })?;
        let compiled = Compiled::new(&bytes, plan, limits.memory_bytes).map_err(|source| {
            LoadError::Component { user: user.to_owned(), component: component.to_owned(), source }
        })?;
        Ok(Prepared {
            id: id.to_owned(),
            compiled: Rc::new(compiled),
            limits,
            config,
            models,
            log: Rc::clone(self.log),
        })
    }
}

fn failure(e: CallError) -> StageFailure {
    let kind = match e {
        CallError::BadInput(_) => FailureKind::BadInput,
        CallError::Refused(_) => FailureKind::Refused,
        CallError::BadOutput(_) => FailureKind::BadOutput,
        CallError::Limit(_) => FailureKind::Limit,
        CallError::Trap(_) => FailureKind::Trap,
    };
    StageFailure { kind, message: e.to_string() }
}

/// The error of a stage, as the component says it.
fn stage_error(e: Value) -> CallError {
    let Value::Variant(case, Some(text)) = e else { return broken() };
    let Value::String(text) = *text else { return broken() };
    let text = clip(&text);
    match case {
        0 => CallError::Refused(format!("bad configuration: {text}")),
        1 => CallError::BadInput(text),
        2 => CallError::Refused(format!("inference failed: {text}")),
        _ => CallError::Refused(text),
    }
}

pub fn broken() -> CallError {
    CallError::Trap("the component gave another type than the contract's".to_owned())
}

/// A `result` of the contract.
pub fn result(value: Value) -> Result<Option<Value>, Value> {
    match value {
        Value::Variant(0, ok) => Ok(ok.map(|v| *v)),
        Value::Variant(_, Some(e)) => Err(*e),
        other => Err(other),
    }
}

impl Stage {
    /// Instantiate and configure.
    fn start(&mut self) -> Result<&Instance, CallError> {
        let instance = self.prepared.instantiate()?;
        let configured =
            instance.call(&CONFIGURE, &[Value::String(self.prepared.config.clone())])?;
        result(configured).map_err(stage_error)?;
        Ok(self.instance.insert(instance))
    }

    fn run(
        &mut self,
        frame: &Frame,
        inputs: NamedTensors,
    ) -> (Result<StageOutput, CallError>, Copies) {
        if self.instance.is_none()
            && let Err(e) = self.start()
        {
            return (Err(e), Copies::default());
        }
        let Some(instance) = &self.instance else { return (Err(broken()), Copies::default()) };
        let outcome = self.call(instance, frame, inputs);
        let copies = instance.host().copies;
        if let Err(CallError::BadOutput(_) | CallError::Limit(_) | CallError::Trap(_)) = &outcome {
            self.instance = None;
        }
        (outcome, copies)
    }

    fn call(
        &self,
        instance: &Instance,
        frame: &Frame,
        inputs: NamedTensors,
    ) -> Result<StageOutput, CallError> {
        let given = instance.host().give(inputs)?;
        let frame = Value::Record(vec![
            Value::U64(frame.id),
            Value::U64(frame.captured_at_ns),
            Value::String(frame.media_type.clone()),
        ]);
        let value = instance.call(&self.run, &[frame, given])?;
        let value = result(value).map_err(stage_error)?.ok_or_else(broken)?;
        if self.gives_prediction {
            return prediction(value).map(StageOutput::Prediction);
        }
        let tensors = instance.host().take(value)?;
        match tensors.iter().find(|(name, _)| name.len() > MAX_NAME_BYTES) {
            Some((name, _)) => Err(CallError::BadOutput(format!(
                "a tensor's name has {} bytes, {MAX_NAME_BYTES} allowed",
                name.len()
            ))),
            None => Ok(StageOutput::Tensors(tensors)),
        }
    }
}

fn prediction(value: Value) -> Result<Prediction, CallError> {
    let Value::Record(fields) = value else { return Err(broken()) };
    let Ok([Value::List(classes), Value::List(detections), Value::List(values), alarm]) =
        <[Value; 4]>::try_from(fields)
    else {
        return Err(broken());
    };
    let items = classes.len().max(detections.len()).max(values.len());
    if items > MAX_ITEMS {
        return Err(CallError::BadOutput(format!(
            "a prediction of {items} items, {MAX_ITEMS} allowed"
        )));
    }
    let class = |value: Value| match value {
        Value::Record(fields) => match &fields[..] {
            [Value::U32(index), Value::String(label), Value::F32(score)] => {
                Ok(ClassScore { index: *index, label: clip(label), score: *score })
            }
            _ => Err(broken()),
        },
        _ => Err(broken()),
    };
    let detection = |value: Value| {
        let Value::Record(fields) = value else { return Err(broken()) };
        let Ok([Value::F32(x_min), Value::F32(y_min), Value::F32(x_max), Value::F32(y_max), of]) =
            <[Value; 5]>::try_from(fields)
        else {
            return Err(broken());
        };
        Ok(Detection { x_min, y_min, x_max, y_max, class: class(of)? })
    };
    let named = |value: Value| match value {
        Value::Record(fields) => match &fields[..] {
            [Value::String(name), Value::F64(value)] => {
                Ok(NamedValue { name: clip(name), value: *value })
            }
            _ => Err(broken()),
        },
        _ => Err(broken()),
    };
    let alarm = match alarm {
        Value::Variant(0, None) => None,
        Value::Variant(1, Some(value)) => match *value {
            Value::Bool(alarm) => Some(alarm),
            _ => return Err(broken()),
        },
        _ => return Err(broken()),
    };
    Ok(Prediction {
        classes: classes.into_iter().map(class).collect::<Result<_, _>>()?,
        detections: detections.into_iter().map(detection).collect::<Result<_, _>>()?,
        values: values.into_iter().map(named).collect::<Result<_, _>>()?,
        alarm,
    })
}
