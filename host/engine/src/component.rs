//! One component: prepared once, instantiated as often as needed, called
//! under its limits.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use headland_inference::Model;
use headland_pipeline::{FailureKind, StageFailure, StageOutput};
use headland_tensor::{Frame, Limits, NamedTensors, Prediction};
use serde::{Deserialize, Serialize};
use wasmtime::{
    Store, Trap,
    component::{
        ComponentExportIndex, ComponentNamedList, Instance, InstancePre, Lift, Linker, Lower,
        TypedFunc,
    },
};

use crate::{
    CompileError, Engine,
    bindings::{tensors::NamedTensor, types},
    engine::TICK,
    host::{self, Copies, LimitHit, StageState, clip},
    schema,
    world::{World, WorldError},
};

/// The longest name of a tensor, in bytes.
const MAX_NAME_BYTES: usize = 256;

/// Classes, detections or values in one prediction.
const MAX_ITEMS: usize = 65_536;

/// What a component says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// Its name.
    pub name: String,
    /// Its own version.
    pub version: String,
    /// One sentence.
    pub summary: String,
    /// JSON Schema of its configuration.
    pub config_schema: serde_json::Value,
}

/// Why a component cannot be used for a stage.
#[derive(Debug, thiserror::Error)]
pub enum ComponentError {
    /// It does not compile.
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// It is of another world or asks for too much.
    #[error(transparent)]
    World(#[from] WorldError),
    /// Its imports or exports have other types than the contract's.
    #[error("its types are not the contract's: {0}")]
    Types(String),
    /// It cannot be instantiated, or failed while it was.
    #[error("it cannot be instantiated")]
    Instantiate(#[source] CallError),
    /// `describe` failed.
    #[error("its describe() failed")]
    Describe(#[source] CallError),
    /// `describe` gave no JSON Schema.
    #[error("its configuration schema is no JSON Schema: {0}")]
    Schema(String),
    /// The configuration does not fit the schema.
    #[error("configuration refused: {}", .0.join("; "))]
    Config(Vec<String>),
    /// `configure` refused or failed.
    #[error("its configure() failed")]
    Configure(#[source] CallError),
}

/// Why a call gave no result.
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
    Limit(LimitHit),
    /// The component ran out of stack.
    #[error("stack limit: the call needs more than {0} bytes of stack")]
    Stack(usize),
    /// The component did not return in time.
    #[error("time limit: no result within {0} ms")]
    Timeout(u64),
    /// The component has a bug.
    #[error("trap: {0}")]
    Trap(String),
}

impl CallError {
    /// Why tensors did not go in or come out.
    pub(crate) fn of_transfer(e: wasmtime::Error) -> Self {
        match e.downcast::<LimitHit>() {
            Ok(hit) => Self::Limit(hit),
            Err(e) => Self::Trap(format!("{e:#}")),
        }
    }

    /// Whether the instance cannot be called again.
    pub(crate) fn is_fatal(&self) -> bool {
        !matches!(self, Self::Refused(_) | Self::BadInput(_))
    }
}

impl From<CallError> for StageFailure {
    fn from(e: CallError) -> Self {
        let kind = match e {
            CallError::BadInput(_) => FailureKind::BadInput,
            CallError::Refused(_) => FailureKind::Refused,
            CallError::BadOutput(_) => FailureKind::BadOutput,
            CallError::Limit(_) | CallError::Stack(_) => FailureKind::Limit,
            CallError::Timeout(_) => FailureKind::Timeout,
            CallError::Trap(_) => FailureKind::Trap,
        };
        Self { kind, message: e.to_string() }
    }
}

impl From<types::StageError> for CallError {
    fn from(e: types::StageError) -> Self {
        match e {
            types::StageError::BadConfig(m) => {
                Self::Refused(format!("bad configuration: {}", clip(&m)))
            }
            types::StageError::BadInput(m) => Self::BadInput(clip(&m)),
            types::StageError::InferenceFailed(m) => {
                Self::Refused(format!("inference failed: {}", clip(&m)))
            }
            types::StageError::Failed(m) => Self::Refused(clip(&m)),
        }
    }
}

/// What a stage is given besides its configuration.
#[derive(Clone)]
pub(crate) struct Grants {
    pub(crate) stage: String,
    pub(crate) limits: Limits,
    pub(crate) models: BTreeMap<String, Arc<dyn Model>>,
    pub(crate) wasi: bool,
}

/// A component compiled, checked and linked for one stage.
pub(crate) struct Prepared {
    engine: Engine,
    pre: InstancePre<StageState>,
    world: World,
    grants: Grants,
    config: String,
}

impl Prepared {
    /// Compile and check `component` as a `world` stage with `config`.
    pub(crate) fn new(
        engine: &Engine,
        component: &[u8],
        world: World,
        grants: Grants,
        config: &serde_json::Value,
    ) -> Result<Self, ComponentError> {
        let prepared = Self::link(engine, component, Some(world), grants, config.to_string())?;
        let schema = prepared.describe()?.config_schema;
        let wrong = schema::check(&schema, config).map_err(ComponentError::Schema)?;
        if !wrong.is_empty() {
            return Err(ComponentError::Config(wrong));
        }
        Ok(prepared)
    }

    fn link(
        engine: &Engine,
        component: &[u8],
        world: Option<World>,
        grants: Grants,
        config: String,
    ) -> Result<Self, ComponentError> {
        let component = engine.compile(component, grants.wasi)?;
        let world = match world.or_else(|| World::of(&component)) {
            Some(world) => world,
            // The error of the first world says what every world needs.
            None => World::Preprocess,
        };
        world.check(&component, grants.wasi)?;
        let types = |e: wasmtime::Error| ComponentError::Types(format!("{e:#}"));
        let mut linker = Linker::new(component.engine());
        host::add_to_linker(&mut linker, world, grants.wasi).map_err(types)?;
        let pre = linker.instantiate_pre(&component).map_err(types)?;
        Ok(Self { engine: engine.clone(), pre, world, grants, config })
    }

    pub(crate) fn world(&self) -> World {
        self.world
    }

    pub(crate) fn config(&self) -> &str {
        &self.config
    }

    /// Ask the component what it is, in an instance of its own.
    pub(crate) fn describe(&self) -> Result<Description, ComponentError> {
        let mut instance = Live::new(self).map_err(ComponentError::Instantiate)?;
        let d = instance
            .export::<(), (types::Description,)>("headland:pipeline/component@0.1.0", "describe")?;
        let (d,) = instance.call(&d, ()).map_err(ComponentError::Describe)?;
        let config_schema =
            schema::parse(&d.config_schema).map_err(|e| ComponentError::Schema(e.to_string()))?;
        Ok(Description {
            name: clip(&d.name),
            version: clip(&d.version),
            summary: clip(&d.summary),
            config_schema,
        })
    }
}

/// Look at a component that its own author is about to package: its world and
/// description. For components of others, load the verified package.
///
/// # Errors
/// [`ComponentError`].
pub fn describe_component(
    engine: &Engine,
    component: &[u8],
    wasi: bool,
) -> Result<(World, Description), ComponentError> {
    let grants = Grants {
        stage: "describe".to_owned(),
        limits: engine.options().ceiling,
        models: BTreeMap::new(),
        wasi,
    };
    let prepared = Prepared::link(engine, component, None, grants, "{}".to_owned())?;
    Ok((prepared.world, prepared.describe()?))
}

/// How an instance is driven.
enum Drive {
    /// Straight calls; the epoch stops runaways.
    Direct,
    /// On a fiber under a timer: a host call that blocks is dropped with it.
    Fiber(tokio::runtime::Runtime),
}

/// An instance with its store.
pub(crate) struct Live {
    engine: Engine,
    store: Store<StageState>,
    instance: Instance,
    drive: Drive,
    limits: Limits,
    stack_bytes: usize,
}

impl Live {
    pub(crate) fn new(prepared: &Prepared) -> Result<Self, CallError> {
        let g = &prepared.grants;
        let stack_bytes = prepared.engine.options().stack_bytes;
        let log = Arc::clone(&prepared.engine.options().log);
        let state = StageState::new(&g.stage, g.limits, g.models.clone(), g.wasi, log);
        let mut store = Store::new(prepared.pre.engine(), state);
        store.limiter(|s| &mut s.guard);
        store.set_hostcall_fuel(usize::try_from(g.limits.hostcall_bytes).unwrap_or(usize::MAX));
        store.data_mut().begin_call();
        let _running = prepared.engine.keep_time();
        let failed = |store: &mut Store<StageState>, e| classify(store, e, &g.limits, stack_bytes);
        let (instance, drive) = if g.wasi {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .build()
                .map_err(|e| CallError::Trap(format!("no runtime: {e}")))?;
            store.set_epoch_deadline(1);
            store.epoch_deadline_async_yield_and_update(1);
            let limit = Duration::from_millis(g.limits.time_ms);
            let made = runtime.block_on(async {
                tokio::time::timeout(limit, prepared.pre.instantiate_async(&mut store)).await
            });
            let made = made.map_err(|_| CallError::Timeout(g.limits.time_ms))?;
            (made.map_err(|e| failed(&mut store, e))?, Drive::Fiber(runtime))
        } else {
            store.set_epoch_deadline(ticks(g.limits.time_ms));
            (
                prepared.pre.instantiate(&mut store).map_err(|e| failed(&mut store, e))?,
                Drive::Direct,
            )
        };
        Ok(Self {
            engine: prepared.engine.clone(),
            store,
            instance,
            drive,
            limits: g.limits,
            stack_bytes,
        })
    }

    /// Instantiate, and set the configuration.
    pub(crate) fn configured(prepared: &Prepared) -> Result<Self, ComponentError> {
        let mut live = Self::new(prepared).map_err(ComponentError::Instantiate)?;
        let configure = live.export::<(String,), (Result<(), types::StageError>,)>(
            "headland:pipeline/configurable@0.1.0",
            "configure",
        )?;
        let (configured,) =
            live.call(&configure, (prepared.config.clone(),)).map_err(ComponentError::Configure)?;
        configured.map_err(|e| ComponentError::Configure(e.into()))?;
        Ok(live)
    }

    /// An exported function; its types are checked here, once.
    pub(crate) fn export<P, R>(
        &mut self,
        interface: &str,
        name: &str,
    ) -> Result<TypedFunc<P, R>, ComponentError>
    where
        P: ComponentNamedList + Lower,
        R: ComponentNamedList + Lift,
    {
        let types = |e: String| ComponentError::Types(e);
        let missing = || types(format!("{interface} lacks {name}"));
        let at =
            |store: &mut Store<StageState>, parent: Option<&ComponentExportIndex>, name: &str| {
                self.instance.get_export_index(store, parent, name)
            };
        let outer = at(&mut self.store, None, interface).ok_or_else(missing)?;
        let inner = at(&mut self.store, Some(&outer), name).ok_or_else(missing)?;
        self.instance
            .get_typed_func::<P, R>(&mut self.store, &inner)
            .map_err(|e| types(format!("{interface}.{name}: {e:#}")))
    }

    /// Call under the limits of the stage.
    pub(crate) fn call<P, R>(&mut self, f: &TypedFunc<P, R>, params: P) -> Result<R, CallError>
    where
        P: ComponentNamedList + Lower + Send + Sync + 'static,
        R: ComponentNamedList + Lift + Send + Sync + 'static,
    {
        self.store.data_mut().begin_call();
        let _running = self.engine.keep_time();
        let result = match &self.drive {
            Drive::Direct => {
                self.store.set_epoch_deadline(ticks(self.limits.time_ms));
                f.call(&mut self.store, params)
            }
            Drive::Fiber(runtime) => {
                self.store.set_epoch_deadline(1);
                let limit = Duration::from_millis(self.limits.time_ms);
                let store = &mut self.store;
                runtime
                    .block_on(async {
                        tokio::time::timeout(limit, f.call_async(store, params)).await
                    })
                    .map_err(|_| CallError::Timeout(self.limits.time_ms))?
            }
        };
        result.map_err(|e| classify(&mut self.store, e, &self.limits, self.stack_bytes))
    }

    pub(crate) fn state(&mut self) -> &mut StageState {
        self.store.data_mut()
    }
}

/// Ticks after which `time_ms` have surely passed.
fn ticks(time_ms: u64) -> u64 {
    Duration::from_millis(time_ms)
        .as_nanos()
        .div_ceil(TICK.as_nanos())
        .try_into()
        .unwrap_or(u64::MAX / 2)
        + 1
}

/// Say which limit or bug is behind an error of wasmtime.
fn classify(
    store: &mut Store<StageState>,
    e: wasmtime::Error,
    limits: &Limits,
    stack_bytes: usize,
) -> CallError {
    if let Some(hit) = store.data_mut().guard.hit.take() {
        return CallError::Limit(hit);
    }
    match e.downcast_ref::<Trap>() {
        Some(Trap::Interrupt) => CallError::Timeout(limits.time_ms),
        Some(Trap::StackOverflow) => CallError::Stack(stack_bytes),
        Some(trap) => CallError::Trap(trap.to_string()),
        None => CallError::Trap(format!("{e:#}")),
    }
}

type TensorStage =
    TypedFunc<(types::Frame, Vec<NamedTensor>), (Result<Vec<NamedTensor>, types::StageError>,)>;
type PredictionStage =
    TypedFunc<(types::Frame, Vec<NamedTensor>), (Result<types::Prediction, types::StageError>,)>;

enum Entry {
    Tensors(TensorStage),
    Prediction(PredictionStage),
}

struct Ready {
    live: Live,
    entry: Entry,
}

/// A stage's component with its instance, which is made anew after a trap.
pub(crate) struct StageInstance {
    prepared: Arc<Prepared>,
    ready: Option<Ready>,
    /// Instances that were lost to a trap or limit.
    pub(crate) restarts: u64,
}

impl StageInstance {
    /// Instantiate and configure.
    pub(crate) fn start(prepared: Arc<Prepared>) -> Result<Self, ComponentError> {
        let ready = Some(Ready::new(&prepared)?);
        Ok(Self { prepared, ready, restarts: 0 })
    }

    /// Run the stage on one frame. Copies that it cost are added to `copies`.
    pub(crate) fn run(
        &mut self,
        frame: &Frame,
        inputs: NamedTensors,
        copies: &mut Copies,
    ) -> Result<StageOutput, CallError> {
        let mut ready = match self.ready.take() {
            Some(ready) => ready,
            None => {
                self.restarts += 1;
                Ready::new(&self.prepared).map_err(|e| match e {
                    ComponentError::Configure(e) | ComponentError::Instantiate(e) => e,
                    other => CallError::Trap(other.to_string()),
                })?
            }
        };
        let result = ready.run(frame, inputs);
        *copies += ready.live.state().copies;
        if result.as_ref().err().is_none_or(|e| !e.is_fatal()) {
            self.ready = Some(ready);
        }
        result
    }
}

impl Ready {
    fn new(prepared: &Prepared) -> Result<Self, ComponentError> {
        let mut live = Live::configured(prepared)?;
        let interface = prepared.world.interface();
        let entry = match prepared.world {
            World::Preprocess => Entry::Tensors(live.export(interface, "preprocess")?),
            World::Model => Entry::Tensors(live.export(interface, "infer")?),
            World::Postprocess => Entry::Prediction(live.export(interface, "postprocess")?),
            World::Monitor | World::Explainer => {
                return Err(ComponentError::World(WorldError::WrongWorld {
                    world: World::Model,
                    missing: World::Model.interface().to_owned(),
                    found: Some(prepared.world),
                }));
            }
        };
        Ok(Self { live, entry })
    }

    fn run(&mut self, frame: &Frame, inputs: NamedTensors) -> Result<StageOutput, CallError> {
        let frame = frame_to_wit(frame);
        let inputs = self.live.state().give(inputs).map_err(CallError::of_transfer)?;
        match &self.entry {
            Entry::Tensors(f) => {
                let f = *f;
                let (result,) = self.live.call(&f, (frame, inputs))?;
                let tensors = self.live.state().take(result?).map_err(CallError::of_transfer)?;
                if let Some((name, _)) = tensors.iter().find(|(n, _)| n.len() > MAX_NAME_BYTES) {
                    let (name, len) = (clip(name), name.len());
                    return Err(CallError::BadOutput(format!(
                        "a tensor's name has {len} bytes, {MAX_NAME_BYTES} allowed: {name:.40}"
                    )));
                }
                Ok(StageOutput::Tensors(tensors))
            }
            Entry::Prediction(f) => {
                let f = *f;
                let (result,) = self.live.call(&f, (frame, inputs))?;
                Ok(StageOutput::Prediction(prediction(result?)?))
            }
        }
    }
}

pub(crate) fn frame_to_wit(frame: &Frame) -> types::Frame {
    types::Frame {
        id: frame.id,
        captured_at_ns: frame.captured_at_ns,
        media_type: frame.media_type.clone(),
    }
}

fn prediction(p: types::Prediction) -> Result<Prediction, CallError> {
    let items = p.classes.len().max(p.detections.len()).max(p.values.len());
    if items > MAX_ITEMS {
        return Err(CallError::BadOutput(format!(
            "a prediction of {items} items, {MAX_ITEMS} allowed"
        )));
    }
    let class = |c: types::ClassScore| headland_tensor::ClassScore {
        index: c.index,
        label: clip(&c.label),
        score: c.score,
    };
    Ok(Prediction {
        classes: p.classes.into_iter().map(class).collect(),
        detections: p
            .detections
            .into_iter()
            .map(|d| headland_tensor::Detection {
                x_min: d.x_min,
                y_min: d.y_min,
                x_max: d.x_max,
                y_max: d.y_max,
                class: class(d.class),
            })
            .collect(),
        values: p
            .values
            .into_iter()
            .map(|v| headland_tensor::NamedValue { name: clip(&v.name), value: v.value })
            .collect(),
        alarm: p.alarm,
    })
}
