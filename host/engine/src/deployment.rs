//! A verified package, ready to run.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use headland_inference::{Dimension, InferenceError, LoadLimits, Model, ModelSet};
use headland_package::{HostPolicy, Package, PackageInfo, Role, Verified};
use headland_pipeline::{Device, Graph, GraphError, PipelineSpec, SpecError, StageKind};
use headland_tensor::{Limits, NamedTensors, Shape, Tensor};
use serde::Serialize;

use crate::{
    CallError, ComponentError, Description, Engine,
    component::{Grants, Live, Prepared},
    monitors::PreparedMonitor,
    runner::{Runner, StartError},
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
        /// The stage or monitor.
        user: String,
        /// What it should be.
        role: &'static str,
        /// Its name.
        name: String,
    },
    /// A stage or monitor's component is refused.
    #[error("{user}: component {component:?}")]
    Component {
        /// The stage or monitor.
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
    /// A stage asks for WASI, which the host's policy does not grant.
    #[error("{user} asks for WASI, which the trust policy does not grant to package {package:?}")]
    WasiNotGranted {
        /// The stage or monitor.
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
    info: PackageInfo,
    summaries: Vec<StageSummary>,
    models: ModelSet,
}

/// Finds what stages name in the package, and makes it ready once.
struct Loader<'a> {
    engine: &'a Engine,
    package: &'a Verified<Package>,
    host: &'a HostPolicy,
    models: ModelSet,
}

impl Loader<'_> {
    fn entry(
        &self,
        user: &str,
        role: Role,
        what: &'static str,
        name: &str,
    ) -> Result<Arc<[u8]>, LoadError> {
        let found = self.package.entries().iter().any(|e| e.name == name && e.role == role);
        found.then(|| self.package.blob(name)).flatten().ok_or_else(|| LoadError::MissingEntry {
            user: user.to_owned(),
            role: what,
            name: name.to_owned(),
        })
    }

    fn model(&self, user: &str, name: &str, device: Device) -> Result<Arc<dyn Model>, LoadError> {
        let executors = &self.engine.options().executors;
        let executor = match device {
            Device::Auto => &executors.auto,
            Device::Cpu => &executors.cpu,
            Device::Gpu => {
                executors.gpu.as_ref().ok_or_else(|| LoadError::NoGpu { user: user.to_owned() })?
            }
        };
        let key = format!("{name} on {}", executor.name());
        if let Some(model) = self.models.get(&key) {
            return Ok(model);
        }
        let bytes = self.entry(user, Role::Model, "model", name)?;
        let model = self
            .models
            .load(key, &**executor, &bytes, &LoadLimits::default())
            .map_err(|source| LoadError::Model { model: name.to_owned(), source })?;
        warm_up(&*model);
        Ok(model)
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
        let bytes = self.entry(user, Role::Component, "component", component)?;
        Prepared::new(self.engine, &bytes, world, grants, config).map_err(|source| {
            LoadError::Component { user: user.to_owned(), component: component.to_owned(), source }
        })
    }
}

/// Run a model once on zeros, with 1 for each size that it leaves open, so
/// that it is planned before the first frame. A model that cannot run on that
/// says so when it is given something real.
fn warm_up(model: &dyn Model) {
    const MAX_BYTES: usize = 16 << 20;
    let mut inputs = NamedTensors::new();
    let mut left_bytes = MAX_BYTES;
    for input in &model.info().inputs {
        let sizes: Vec<u32> = input
            .shape
            .iter()
            .map(|d| match d {
                Dimension::Fixed(n) => *n,
                Dimension::Symbolic(_) => 1,
            })
            .collect();
        let Ok(shape) = Shape::new(sizes) else { return };
        let bytes = shape.element_count().saturating_mul(input.dtype.size_bytes());
        let Some(left) = left_bytes.checked_sub(bytes) else { return };
        left_bytes = left;
        let Ok(zeros) = Tensor::new(input.dtype, shape, vec![0; bytes]) else { return };
        inputs.push((input.name.clone(), zeros));
    }
    let _ = model.run(&inputs);
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
        let loader = Loader { engine: self, package, host, models: ModelSet::default() };

        let (mut stages, mut summaries) = (Vec::new(), Vec::new());
        for stage in &graph.spec().stage {
            let user = format!("stage {:?}", stage.id);
            let limits = stage.limits(ceiling);
            let (runner, runs) = match &stage.kind {
                StageKind::Component { component, world, config, models, wasi } => {
                    let mut granted = BTreeMap::new();
                    for name in models {
                        granted.insert(name.clone(), loader.model(&user, name, Device::Auto)?);
                    }
                    let grants =
                        Grants { stage: stage.id.clone(), limits, models: granted, wasi: *wasi };
                    let prepared =
                        loader.component(&user, component, (*world).into(), grants, config)?;
                    (StageRunner::Component(Arc::new(prepared)), format!("component {component}"))
                }
                StageKind::Model { model, device } => {
                    let loaded = loader.model(&user, model, *device)?;
                    let runs = format!("model {model} on {}", loaded.engine().name);
                    (StageRunner::Model(loaded, Duration::from_millis(limits.time_ms)), runs)
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
                Some(name) => loader.entry(&user, Role::Reference, "reference", name)?,
                None => Arc::from([]),
            };
            let config = &monitor.config;
            monitors.push(Arc::new(PreparedMonitor {
                id: monitor.id.clone(),
                prepared: loader.component(
                    &user,
                    &monitor.component,
                    World::Monitor,
                    grants,
                    config,
                )?,
                reference,
                window_rows: u64::from(monitor.window_rows),
                queue_rows: monitor.queue as usize,
            }));
        }
        let models = loader.models;
        Ok(Deployment { graph: Arc::new(graph), stages, monitors, info, summaries, models })
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
        self.models.names()
    }

    /// What each component says of itself, by stage or monitor.
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
        Ok(all)
    }

    /// Instantiate every stage and monitor. A deployment may have many
    /// runners at a time, each with instances of its own.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn start(self: &Arc<Self>) -> Result<Runner, StartError> {
        Runner::new(Arc::clone(self))
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
