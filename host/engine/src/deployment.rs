//! A verified package, ready to run.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use headland_inference::{BatchStatistics, Batcher as ModelBatcher, InferenceError, Model};
use headland_monitor::{Digest as MonitorDigest, Level, MonitorReport, Record, Subject};
use headland_package::{Digest, HostPolicy, Package, PackageInfo, Role, Verified};
use headland_pipeline::{
    BatchSpec, Batcher, Device, Graph, GraphError, PipelineSpec, SpecError, StageKind, StageSpec,
};
use headland_tensor::Limits;
use serde::{Deserialize, Serialize};

use crate::{
    CallError, ComponentError, Description, Engine,
    component::{Grants, Live, Prepared},
    engine::{LogLevel, LogRecord},
    explain::PreparedExplainer,
    models::{self, NoModel},
    runner::{Runner, StartError},
    watch::{Judge, PreparedMonitor, Replay},
    world::World,
};

/// Why a verified package cannot be run here.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// `pipeline.toml` does not parse.
    #[error("pipeline.toml of package {package:?}")]
    Spec {
        /// The package.
        package: String,
        /// Why.
        #[source]
        source: SpecError,
    },
    /// The stages do not make a pipeline.
    #[error("the pipeline of package {package:?}")]
    Graph {
        /// The package.
        package: String,
        /// Why.
        #[source]
        source: GraphError,
    },
    /// A stage names something that the package does not have.
    #[error("{user} needs {role} {name:?}, which the package does not have")]
    MissingEntry {
        /// The stage, monitor or explainer.
        user: String,
        /// What it should be.
        role: &'static str,
        /// Its name.
        name: String,
    },
    /// A stage or monitor's component is refused.
    #[error("{user}: component {component:?}")]
    Component {
        /// The stage, monitor or explainer.
        user: String,
        /// The entry's name.
        component: String,
        /// Why.
        #[source]
        source: ComponentError,
    },
    /// A model is refused.
    #[error("model {model:?}")]
    Model {
        /// The entry's name.
        model: String,
        /// Why.
        #[source]
        source: InferenceError,
    },
    /// A monitor's reference was learnt with a model that the package lacks.
    #[error("{user}: reference {reference:?} is of model {model}, which the package does not have")]
    ForeignReference {
        /// The monitor.
        user: String,
        /// The entry's name.
        reference: String,
        /// The digest that it names.
        model: String,
    },
    /// A stage asks for WASI, which the host's policy does not grant.
    #[error("{user} asks for WASI, which the trust policy does not grant to package {package:?}")]
    WasiNotGranted {
        /// The stage, monitor or explainer.
        user: String,
        /// The package.
        package: String,
    },
    /// A stage asks for a device that this host has no executor for.
    #[error("{user} asks for the GPU, and this host runs models on the CPU alone")]
    NoGpu {
        /// The stage.
        user: String,
    },
}

/// A day: longer than that no call may take, and no sum of times overflows.
const MAX_TIME_MS: u64 = 86_400_000;

/// How a stage is run.
pub(crate) enum StageRunner {
    /// A component.
    Component(Arc<Prepared>),
    /// A model of the package, run directly, and for how long at most.
    Model(Arc<dyn Model>, Duration),
    /// A model whose device this host does not have, and why: the stage's
    /// fallback serves.
    Absent(String),
    /// Done by the scheduler itself.
    Scheduler,
}

/// One line about a stage, for people.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StageSummary {
    /// The stage's id.
    pub id: String,
    /// What it runs.
    pub runs: String,
    /// The limits that hold.
    pub limits: Limits,
}

/// A verified package with every component compiled and every model planned.
pub struct Deployment {
    pub(crate) graph: Arc<Graph>,
    pub(crate) stages: Vec<StageRunner>,
    pub(crate) monitors: Vec<Arc<PreparedMonitor>>,
    pub(crate) explainers: Vec<Arc<PreparedExplainer>>,
    info: PackageInfo,
    summaries: Vec<StageSummary>,
    batchers: Vec<(String, Arc<ModelBatcher>)>,
    models: BTreeSet<String>,
    /// Last, so that it finds the models let go.
    _tidy: Tidy,
}

/// Has the engine unload what nothing holds.
struct Tidy(Engine);

impl Drop for Tidy {
    fn drop(&mut self) {
        self.0.models().tidy();
    }
}

/// Finds what stages name in the package, and makes it ready once.
struct Loader<'a> {
    engine: &'a Engine,
    package: &'a Verified<Package>,
    host: &'a HostPolicy,
}

impl Loader<'_> {
    fn entry(
        &self,
        user: &str,
        role: Role,
        what: &'static str,
        name: &str,
    ) -> Result<(Digest, Arc<[u8]>), LoadError> {
        let mut entries = self.package.entries().iter();
        let entry = entries.find(|e| e.name == name && e.role == role);
        entry.and_then(|e| Some((e.digest, self.package.blob(name)?))).ok_or_else(|| {
            LoadError::MissingEntry { user: user.to_owned(), role: what, name: name.to_owned() }
        })
    }

    fn model(&self, user: &str, name: &str, device: Device) -> Result<Arc<dyn Model>, LoadError> {
        let (digest, bytes) = self.entry(user, Role::Model, "model", name)?;
        let executors = &self.engine.options().executors;
        self.engine.models().load(executors, device, name, digest, &bytes).map_err(|e| match e {
            NoModel::NoDevice => LoadError::NoGpu { user: user.to_owned() },
            NoModel::Refused(source) => LoadError::Model { model: name.to_owned(), source },
        })
    }

    /// The models that a component may open.
    fn granted(
        &self,
        user: &str,
        names: &[String],
        device: Device,
    ) -> Result<BTreeMap<String, Arc<dyn Model>>, LoadError> {
        names.iter().map(|name| Ok((name.clone(), self.model(user, name, device)?))).collect()
    }

    /// The model of a stage that runs it directly, or why its fallback serves.
    fn model_stage(
        &self,
        stage: &StageSpec,
        name: &str,
        device: Device,
    ) -> Result<Result<Arc<dyn Model>, String>, LoadError> {
        let user = format!("stage {:?}", stage.id);
        let error = match self.model(&user, name, device) {
            Ok(model) => return Ok(Ok(model)),
            Err(error) => error,
        };
        let reason = match &error {
            LoadError::NoGpu { .. } => "this host has no GPU".to_owned(),
            LoadError::Model { source, .. }
                if matches!(
                    source,
                    InferenceError::Device { .. }
                        | InferenceError::OverBudget { .. }
                        | InferenceError::Unsupported { .. }
                ) =>
            {
                source.to_string()
            }
            _ => return Err(error),
        };
        // Only what the device lacks is forgiven, and only where the package
        // says what is to run instead.
        if device != Device::Gpu || stage.fallback.is_none() {
            return Err(error);
        }
        (self.engine.options().log)(LogRecord {
            stage: stage.id.clone(),
            level: LogLevel::Warn,
            message: format!("its fallback serves: {reason}"),
        });
        Ok(Err(reason))
    }

    /// The digests of the package's models, sorted.
    fn models_of_package(&self) -> Vec<MonitorDigest> {
        let models = self.package.entries().iter().filter(|e| e.role == Role::Model);
        let mut digests: Vec<_> = models.map(|e| MonitorDigest(*e.digest.as_bytes())).collect();
        digests.sort_unstable();
        digests
    }

    /// A reference may name the models that it was learnt with (`models`, a
    /// list of digests, in a JSON object): then the package has those.
    fn check_reference(&self, user: &str, name: &str, bytes: &[u8]) -> Result<(), LoadError> {
        #[derive(Deserialize)]
        struct Head {
            #[serde(default)]
            models: Vec<String>,
        }
        // A reference in another form is the monitor's business alone.
        let Ok(head) = serde_json::from_slice::<Head>(bytes) else { return Ok(()) };
        let models: BTreeSet<String> =
            self.models_of_package().iter().map(ToString::to_string).collect();
        match head.models.into_iter().find(|model| !models.contains(model)) {
            None => Ok(()),
            Some(model) => Err(LoadError::ForeignReference {
                user: user.to_owned(),
                reference: name.to_owned(),
                model,
            }),
        }
    }

    fn component(
        &self,
        user: &str,
        component: &str,
        world: World,
        grants: Grants,
        config: &serde_json::Value,
    ) -> Result<Prepared, LoadError> {
        if grants.wasi && !self.host.wasi {
            return Err(LoadError::WasiNotGranted {
                user: user.to_owned(),
                package: self.package.info().name.clone(),
            });
        }
        let (_, bytes) = self.entry(user, Role::Component, "component", component)?;
        Prepared::new(self.engine, &bytes, world, grants, config).map_err(|source| {
            LoadError::Component { user: user.to_owned(), component: component.to_owned(), source }
        })
    }
}

fn batched(
    name: &str,
    model: Arc<dyn Model>,
    spec: &BatchSpec,
) -> Result<Arc<ModelBatcher>, LoadError> {
    models::batched(model, spec)
        .map_err(|source| LoadError::Model { model: name.to_owned(), source })
}

impl Engine {
    /// Make a verified package ready to run, with what `host` grants it.
    ///
    /// # Errors
    /// [`LoadError`]; nothing of the package stays behind.
    pub fn load(
        &self,
        package: &Verified<Package>,
        host: &HostPolicy,
    ) -> Result<Deployment, LoadError> {
        let info = package.info().clone();
        let spec = PipelineSpec::from_toml(package.pipeline_toml())
            .map_err(|source| LoadError::Spec { package: info.name.clone(), source })?;
        let graph = Graph::new(spec)
            .map_err(|source| LoadError::Graph { package: info.name.clone(), source })?;
        let mut ceiling = self.options().ceiling.min(host.limits);
        ceiling.time_ms = ceiling.time_ms.min(MAX_TIME_MS);
        let loader = Loader { engine: self, package, host };
        // Before the stages, so that it outlives them should one be refused.
        let tidy = Tidy(self.clone());

        let (mut stages, mut summaries) = (Vec::new(), Vec::new());
        let (mut batchers, mut models_used) = (Vec::new(), BTreeSet::new());
        for stage in &graph.spec().stage {
            let user = format!("stage {:?}", stage.id);
            let limits = stage.limits(ceiling);
            let (runner, runs) = match &stage.kind {
                StageKind::Component { component, world, config, models, device, wasi } => {
                    let granted = loader.granted(&user, models, *device)?;
                    models_used.extend(models.iter().cloned());
                    let grants =
                        Grants { stage: stage.id.clone(), limits, models: granted, wasi: *wasi };
                    let prepared =
                        loader.component(&user, component, (*world).into(), grants, config)?;
                    (StageRunner::Component(Arc::new(prepared)), format!("component {component}"))
                }
                StageKind::Model { model: name, device, batch } => {
                    models_used.insert(name.clone());
                    match loader.model_stage(stage, name, *device)? {
                        Ok(model) => {
                            let runs = format!("model {name} on {}", model.engine().name);
                            let model = match batch {
                                Some(spec) => {
                                    let batcher = batched(name, model, spec)?;
                                    batchers.push((stage.id.clone(), Arc::clone(&batcher)));
                                    batcher
                                }
                                None => model,
                            };
                            let limit = Duration::from_millis(limits.time_ms);
                            (StageRunner::Model(model, limit), runs)
                        }
                        Err(reason) => {
                            let runs = format!("nothing: {reason}");
                            (StageRunner::Absent(reason), runs)
                        }
                    }
                }
                StageKind::Router { .. } => (StageRunner::Scheduler, "router".to_owned()),
                StageKind::Combine { .. } => (StageRunner::Scheduler, "combiner".to_owned()),
            };
            stages.push(runner);
            summaries.push(StageSummary { id: stage.id.clone(), runs, limits });
        }

        let mut monitors = Vec::new();
        for monitor in &graph.spec().monitor {
            let user = format!("monitor {:?}", monitor.id);
            let grants = Grants {
                stage: monitor.id.clone(),
                limits: monitor.limits(ceiling),
                models: BTreeMap::new(),
                wasi: false,
            };
            let reference = match &monitor.reference {
                Some(name) => {
                    let (_, reference) = loader.entry(&user, Role::Reference, "reference", name)?;
                    loader.check_reference(&user, name, &reference)?;
                    reference
                }
                None => Arc::from([]),
            };
            let (component, _) =
                loader.entry(&user, Role::Component, "component", &monitor.component)?;
            let world = World::Monitor;
            let prepared =
                loader.component(&user, &monitor.component, world, grants, &monitor.config)?;
            monitors.push(Arc::new(PreparedMonitor {
                id: monitor.id.clone(),
                subject: Subject {
                    monitor: monitor.id.clone(),
                    component: MonitorDigest(*component.as_bytes()),
                    config: MonitorDigest::of(prepared.config().as_bytes()),
                    reference: MonitorDigest::of(&reference),
                    models: loader.models_of_package(),
                },
                prepared,
                reference,
                window_rows: u64::from(monitor.window_rows),
                queue_rows: monitor.queue as usize,
            }));
        }

        let mut explainers = Vec::new();
        for (explainer, of) in graph.explainers() {
            let user = format!("explainer {:?}", explainer.id);
            let device = explainer.device.unwrap_or_default();
            let models = loader.granted(&user, &explainer.models, device)?;
            models_used.extend(explainer.models.iter().cloned());
            let limits = explainer.limits(ceiling);
            let grants = Grants { stage: explainer.id.clone(), limits, models, wasi: false };
            let (component, config) = (&explainer.component, &explainer.config);
            explainers.push(Arc::new(PreparedExplainer {
                id: explainer.id.clone(),
                of,
                prepared: loader.component(&user, component, World::Explainer, grants, config)?,
                max_model_calls: explainer.max_model_calls,
            }));
        }
        Ok(Deployment {
            graph: Arc::new(graph),
            stages,
            monitors,
            explainers,
            info,
            summaries,
            batchers,
            models: models_used,
            _tidy: tidy,
        })
    }
}

impl Deployment {
    /// Who the package is.
    pub fn info(&self) -> &PackageInfo {
        &self.info
    }

    /// The pipeline.
    pub fn spec(&self) -> &PipelineSpec {
        self.graph.spec()
    }

    /// One line about each stage, in the pipeline's order.
    pub fn stages(&self) -> &[StageSummary] {
        &self.summaries
    }

    /// The names of the loaded models.
    pub fn models(&self) -> Vec<String> {
        self.models.iter().cloned().collect()
    }

    /// What batching has done, by the stage that asks for it.
    pub fn batches(&self) -> Vec<(String, BatchStatistics)> {
        self.batchers.iter().map(|(stage, b)| (stage.clone(), b.statistics())).collect()
    }

    /// What each component says of itself, by stage, monitor or explainer.
    ///
    /// # Errors
    /// [`ComponentError`] when a component fails to say it.
    pub fn describe(&self) -> Result<Vec<(String, Description)>, ComponentError> {
        let mut all = Vec::new();
        for (summary, stage) in self.summaries.iter().zip(&self.stages) {
            if let StageRunner::Component(prepared) = stage {
                all.push((summary.id.clone(), prepared.describe()?));
            }
        }
        for monitor in &self.monitors {
            all.push((monitor.id.clone(), monitor.prepared.describe()?));
        }
        for explainer in &self.explainers {
            all.push((explainer.id.clone(), explainer.prepared.describe()?));
        }
        Ok(all)
    }

    fn monitor(&self, id: &str) -> Option<(usize, &Arc<PreparedMonitor>)> {
        self.monitors.iter().enumerate().find(|(_, monitor)| monitor.id == id)
    }

    /// The ids of the monitors, in the pipeline's order.
    pub fn monitors(&self) -> impl Iterator<Item = &str> {
        self.monitors.iter().map(|monitor| monitor.id.as_str())
    }

    /// An instance of a monitor that merges summaries and says what they mean;
    /// nothing when the pipeline has no monitor of that id.
    ///
    /// # Errors
    /// [`ComponentError`] when it does not start.
    pub fn judge(&self, monitor: &str) -> Result<Option<Judge>, ComponentError> {
        self.monitor(monitor).map(|(_, spec)| Judge::new(spec)).transpose()
    }

    /// A session of a monitor for recorded rows; nothing when the pipeline has
    /// no monitor of that id.
    ///
    /// # Errors
    /// [`ComponentError`] when it does not start.
    pub fn replay(&self, monitor: &str) -> Result<Option<Replay>, ComponentError> {
        self.monitor(monitor)
            .map(|(i, spec)| Replay::new(spec, Batcher::new(&self.graph, i)))
            .transpose()
    }

    /// The record of a window that a monitor reported, as it may leave the
    /// device; nothing for other reports. `boot` tells this device's boots
    /// apart.
    pub fn record(&self, report: &MonitorReport, boot: u64) -> Option<Record> {
        let MonitorReport::Window { monitor, captured_at_ns, summary, .. } = report else {
            return None;
        };
        Some(Record {
            subject: self.monitor(monitor)?.1.subject.clone(),
            boot: Level::One(boot),
            window_ns: *captured_at_ns,
            windows: 1,
            summary: summary.clone(),
        })
    }

    /// Instantiate every stage and monitor. A deployment may have many
    /// runners at a time, each with instances of its own.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn start(self: &Arc<Self>) -> Result<Runner, StartError> {
        Runner::new(Arc::clone(self))
    }

    /// As [`Deployment::start`], with nobody to watch: the rows that monitors
    /// would see are kept for [`Runner::take_rows`].
    ///
    /// # Errors
    /// [`StartError`].
    pub fn start_recording(self: &Arc<Self>) -> Result<Runner, StartError> {
        Runner::recording(Arc::clone(self))
    }

    /// The cost of one instance of a stage's component, for benchmarks. None
    /// when the stage is no component.
    pub fn probe_instantiation(&self, stage: usize) -> Option<InstantiationProbe> {
        match self.stages.get(stage) {
            Some(StageRunner::Component(prepared)) => {
                Some(InstantiationProbe(Arc::clone(prepared)))
            }
            _ => None,
        }
    }
}

/// Makes an instance of a stage's component and drops it.
pub struct InstantiationProbe(Arc<Prepared>);

impl InstantiationProbe {
    /// Instantiate once.
    ///
    /// # Errors
    /// [`CallError`].
    pub fn instantiate(&self) -> Result<(), CallError> {
        Live::new(&self.0).map(drop)
    }
}
