//! Loads verified packages, limits their components and calls them.
//!
//! The only crate that knows wasmtime. [`Engine::load`] takes nothing but a
//! `Verified<Package>` and gives a [`Deployment`]: every component compiled,
//! checked against its world and its configuration, every model planned.
//! [`Deployment::start`] gives a [`Runner`], which takes frames.
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
mod host;
mod models;
mod monitors;
mod runner;
mod scan;
mod schema;
mod world;

pub use component::{CallError, ComponentError, Description, describe_component};
pub use deployment::{Deployment, InstantiationProbe, LoadError, StageSummary};
pub use engine::{
    CompileError, Engine, EngineError, EngineOptions, Executors, LogLevel, LogRecord, LogSink,
};
pub use host::{Copies, CopyCount, LimitHit};
pub use models::ModelMemory;
pub use monitors::{Finding, MonitorCounts, MonitorReport, MonitorStartError, Severity};
pub use runner::{FrameReport, Runner, StageTime, StartError};
pub use scan::{CompileLimits, ScanError};
pub use world::{CONTRACT, World, WorldError};
