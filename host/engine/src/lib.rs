//! Loads verified packages, limits their components and calls them.
//!
//! The only crate that knows wasmtime. [`Engine::load`] takes nothing but a
//! `Verified<Package>` and gives a [`Deployment`]: every component compiled,
//! checked against its world and its configuration, every model planned.
//! [`Deployment::start`] gives a [`Runner`], which takes frames, and
//! [`Deployment::explainer`] an [`Explainer`], which says why they came out as
//! they did.
//!
//! What stops a component: linear memory, tables and instances by a
//! [limiter](headland_tensor::Limits); time by an epoch that a clock thread
//! advances (and, for components that import WASI, a timer over the fiber
//! that they run on); calls and bytes into the host by counters; stack by
//! wasmtime. A stage that was stopped gets a fresh instance.

mod bindings;
mod code_cache;
mod component;
mod deployment;
mod engine;
mod explain;
mod export;
mod host;
mod models;
mod monitors;
mod runner;
mod scan;
mod schema;
mod watch;
mod world;

pub use component::{CallError, ComponentError, Description, describe_component};
pub use deployment::{Deployment, InstantiationProbe, LoadError, StageSummary};
pub use engine::{
    CompileError, Engine, EngineError, EngineOptions, Executors, LogLevel, LogRecord, LogSink,
};
pub use explain::{Attribution, ExplainError, Explainer, Explanation};
pub use export::{Export, ExportError, Exporter, Machine};
pub use headland_monitor::{Finding, MonitorReport, Severity};
pub use host::{Copies, CopyCount, LimitHit};
pub use models::ModelMemory;
pub use monitors::{MonitorCounts, MonitorStartError};
pub use runner::{FrameReport, Runner, StageTime, StartError};
pub use scan::{CompileLimits, ScanError};
pub use watch::{Judge, MergeError, Replay};
pub use world::{CONTRACT, World, WorldError};
