//! One running pipeline: the scheduler says what is next, this does it.

use std::{
    cell::RefCell,
    collections::{BTreeMap, VecDeque},
    rc::Rc,
    sync::Arc,
};

use headland_inference::{CpuExecutor, Executor, InferenceError, LoadLimits, Model};
use headland_package::{HostPolicy, Package, PackageInfo, Role, Verified};
use headland_pipeline::{
    Command, Device, DropReason, FailureKind, Graph, GraphError, PipelineSpec, Scheduler,
    SpecError, StageFailure, StageKind, StageOutcome, StageOutput, Stats,
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
    monitor::{Monitor, MonitorReport},
};

/// A call's longest time, a day: what a package asks for beyond is cut.
const MAX_TIME_MS: u64 = 86_400_000;

/// Classes, detections or values in one prediction.
const MAX_ITEMS: usize = 65_536;

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
    /// A stage is pinned to the GPU.
    #[error("{user} asks for the GPU, and this build runs models on the CPU alone")]
    NoGpu { user: String },
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
            Self::NoGpu { .. } => "no-gpu",
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
    /// A model run directly, and for how long at most, in milliseconds.
    Model(Arc<dyn Model>, u64),
    /// A model whose device this page does not have: its fallback serves.
    Absent(String),
    Scheduler,
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
}

/// A running pipeline.
pub struct Pipeline {
    pub info: PackageInfo,
    pub digest: String,
    pub stages: Vec<StageSummary>,
    graph: Arc<Graph>,
    scheduler: Scheduler,
    runners: Vec<Runner>,
    monitors: Vec<Monitor>,
    reports: RefCell<Vec<MonitorReport>>,
    finished: VecDeque<FrameReport>,
    copies: Copies,
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
    pub fn load(
        package: &Verified<Package>,
        host: &HostPolicy,
        log: &LogSink,
    ) -> Result<Self, LoadError> {
        let graph = Arc::new(Graph::new(PipelineSpec::from_toml(package.pipeline_toml())?)?);
        let mut ceiling = host.limits;
        ceiling.time_ms = ceiling.time_ms.min(MAX_TIME_MS);
        let mut loader = Loader { package, log, models: BTreeMap::new() };
        let (mut runners, mut stages) = (Vec::new(), Vec::new());
        for stage in graph.stages() {
            let user = format!("stage {:?}", stage.id);
            let limits = stage.limits(ceiling);
            let (runner, runs) = match &stage.kind {
                StageKind::Component { component, world, config, models, device, wasi } => {
                    if *wasi {
                        return Err(LoadError::Wasi { user });
                    }
                    let mut granted = BTreeMap::new();
                    for name in models {
                        granted.insert(name.clone(), loader.model(&user, name, *device)?);
                    }
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
                    (Runner::Component(Box::new(made)), format!("component {component}"))
                }
                StageKind::Model { model, device, .. } => match loader.model(&user, model, *device)
                {
                    Ok(loaded) => {
                        let runs = format!("model {model} on {}", loaded.engine().name);
                        (Runner::Model(loaded, limits.time_ms), runs)
                    }
                    Err(e @ LoadError::NoGpu { .. }) if stage.fallback.is_some() => {
                        (Runner::Absent(e.to_string()), format!("nothing: {e}"))
                    }
                    Err(e) => return Err(e),
                },
                StageKind::Router { .. } => (Runner::Scheduler, "router".to_owned()),
                StageKind::Combine { .. } => (Runner::Scheduler, "combiner".to_owned()),
            };
            runners.push(runner);
            stages.push(StageSummary { id: stage.id.clone(), runs, limits });
        }
        let mut monitors = Vec::new();
        for (index, spec) in graph.monitors().iter().enumerate() {
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
            scheduler: Scheduler::new(Arc::clone(&graph), 0),
            graph,
            runners,
            monitors,
            reports: RefCell::default(),
            finished: VecDeque::new(),
            copies: Copies::default(),
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

    /// Run one frame to its end. Shadows and monitors come later, in
    /// [`settle`](Self::settle) or before the next frame.
    pub fn run(
        &mut self,
        inputs: NamedTensors,
        media_type: &str,
        captured_at_ns: u64,
    ) -> FrameReport {
        self.drain();
        self.copies = Copies::default();
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
        };
        if let Err(reason) = self.scheduler.submit(frame, inputs, began) {
            return dropped(reason, self.copies);
        }
        while self.finished.is_empty() && self.step() {}
        match self.finished.pop_front() {
            Some(report) => FrameReport { duration_ns: now_ns() - began, ..report },
            // The scheduler finishes every frame that it admitted.
            None => dropped(DropReason::Shutdown, self.copies),
        }
    }

    /// Do one command; false when there is nothing to do.
    fn step(&mut self) -> bool {
        let Some(command) = self.scheduler.poll(now_ns()) else { return false };
        match command {
            Command::Invoke { call, stage, frame, inputs, .. } => {
                let result = self.invoke(stage, &frame, inputs);
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
                self.finished.push_back(FrameReport {
                    frame: frame.id,
                    result,
                    stages: stages.collect(),
                    copies: self.copies,
                    duration_ns: 0,
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

    fn invoke(
        &mut self,
        stage: usize,
        frame: &Frame,
        inputs: NamedTensors,
    ) -> Result<StageOutput, StageFailure> {
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
            Some(Runner::Model(model, time_ms)) => {
                let id = self.graph.stages().get(stage).map_or("", |stage| &stage.id);
                let _watched = Watched::start(id, *time_ms);
                let outputs = model.run(&inputs).map_err(|e| StageFailure {
                    kind: model_failure(&e),
                    message: e.to_string(),
                })?;
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

    fn drain(&mut self) {
        while self.step() {}
        self.finished.clear();
    }

    /// Finish shadows, and have the monitors see every row so far.
    pub fn settle(&mut self) {
        self.drain();
        for monitor in &mut self.monitors {
            monitor.work(self.reports.get_mut());
        }
    }

    /// Settle, then end every monitor's window.
    pub fn close_windows(&mut self) {
        self.settle();
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
    models: BTreeMap<String, Arc<dyn Model>>,
}

impl Loader<'_> {
    fn entry(&self, user: &str, role: Role, name: &str) -> Result<Arc<[u8]>, LoadError> {
        let found = self.package.entries().iter().any(|e| e.name == name && e.role == role);
        found
            .then(|| self.package.blob(name))
            .flatten()
            .ok_or_else(|| LoadError::MissingEntry { user: user.to_owned(), name: name.to_owned() })
    }

    fn model(
        &mut self,
        user: &str,
        name: &str,
        device: Device,
    ) -> Result<Arc<dyn Model>, LoadError> {
        if device == Device::Gpu {
            return Err(LoadError::NoGpu { user: user.to_owned() });
        }
        if let Some(model) = self.models.get(name) {
            return Ok(Arc::clone(model));
        }
        let bytes = self.entry(user, Role::Model, name)?;
        let model = CpuExecutor
            .load(&bytes, &LoadLimits::default())
            .map_err(|source| LoadError::Model { model: name.to_owned(), source })?;
        model.warm_up();
        self.models.insert(name.to_owned(), Arc::clone(&model));
        Ok(model)
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

fn model_failure(e: &InferenceError) -> FailureKind {
    use InferenceError as E;
    match e {
        E::MissingInput { .. }
        | E::UnknownInput { .. }
        | E::DuplicateInput { .. }
        | E::WrongDType { .. }
        | E::WrongShape { .. } => FailureKind::BadInput,
        E::OverLimit { .. } => FailureKind::Limit,
        _ => FailureKind::Inference,
    }
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
