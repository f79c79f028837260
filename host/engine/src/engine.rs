//! The engine: wasmtime, configured once, and the clock that stops runaways.

use std::{
    fmt, io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use headland_inference::{CpuExecutor, Executor};
use headland_tensor::Limits;
use wasmtime::{
    Config, EngineWeak, InstanceAllocationStrategy, OptLevel, PoolingAllocationConfig,
    component::Component,
};

use crate::{
    code_cache::CodeCache,
    models::{ModelMemory, Models},
    scan::{CompileLimits, ScanError, scan},
};

/// How long a tick of the epoch is: the resolution of a stage's time limit.
pub(crate) const TICK: Duration = Duration::from_millis(1);

/// Ticks without a call after which the clock thread goes to sleep.
const IDLE_TICKS: u32 = 1_000;

/// A message that a component wrote, with control characters replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRecord {
    /// The stage or monitor.
    pub stage: String,
    /// How much it matters.
    pub level: LogLevel,
    /// What it says.
    pub message: String,
}

/// How much a message matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// For the component's author.
    Debug,
    /// Normal.
    Info,
    /// Something is off.
    Warn,
    /// Something failed.
    Error,
}

/// Where components' messages go.
pub type LogSink = Arc<dyn Fn(LogRecord) + Send + Sync>;

/// What runs a package's models, by the `device` of the stage.
#[derive(Clone)]
pub struct Executors {
    /// For `cpu`.
    pub cpu: Arc<dyn Executor>,
    /// For `gpu`; a package that asks for it is refused without one.
    pub gpu: Option<Arc<dyn Executor>>,
    /// For `auto`, which is also what a component's models run on.
    pub auto: Arc<dyn Executor>,
}

impl Default for Executors {
    /// The CPU for all that does not insist on a GPU.
    fn default() -> Self {
        Self { cpu: Arc::new(CpuExecutor), gpu: None, auto: Arc::new(CpuExecutor) }
    }
}

/// What a host decides once.
#[derive(Clone)]
pub struct EngineOptions {
    /// What no stage may exceed, whatever its package asks for.
    pub ceiling: Limits,
    /// Stack of one call into a component, in bytes.
    pub stack_bytes: usize,
    /// What may be compiled.
    pub compile: CompileLimits,
    /// Where compiled code is kept; none compiles at every start.
    pub code_cache: Option<PathBuf>,
    /// Reserve memory for instances in advance where the address space allows.
    pub pooling: bool,
    /// Where components' messages go.
    pub log: LogSink,
    /// What runs models.
    pub executors: Executors,
    /// What models may take.
    pub model_memory: ModelMemory,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            ceiling: Limits::default(),
            stack_bytes: 512 << 10,
            compile: CompileLimits::default(),
            code_cache: None,
            pooling: true,
            log: Arc::new(|_| {}),
            executors: Executors::default(),
            model_memory: ModelMemory::default(),
        }
    }
}

/// Why there is no engine.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// wasmtime refused the configuration on this machine.
    #[error("this machine cannot run the WebAssembly engine: {0}")]
    Wasmtime(String),
    /// The code cache's folder cannot be used.
    #[error("cannot use the code cache in {folder}")]
    CodeCache {
        /// Which folder.
        folder: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No clock thread.
    #[error("cannot start the thread that keeps time limits")]
    Clock(#[source] io::Error),
}

/// Why a component was not compiled.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// Refused before the compiler saw it.
    #[error(transparent)]
    Scan(#[from] ScanError),
    /// Not valid, or with features that this host leaves off.
    #[error("invalid component: {0}")]
    Invalid(String),
}

/// Runs components. Cheap to clone; one a process is enough.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

struct Inner {
    /// For components of the core worlds: synchronous, pooled.
    core: wasmtime::Engine,
    /// For components that import WASI: their host calls may block, so they
    /// run on fibers that can be dropped.
    wasi: wasmtime::Engine,
    clock: Clock,
    cache: Option<CodeCache>,
    models: Models,
    options: EngineOptions,
    pooled: bool,
}

impl Engine {
    /// Configure wasmtime for this machine.
    ///
    /// # Errors
    /// [`EngineError`].
    pub fn new(options: EngineOptions) -> Result<Self, EngineError> {
        let refused = |e: wasmtime::Error| EngineError::Wasmtime(format!("{e:#}"));
        let mut core = config(&options);
        core.concurrency_support(false);
        // Pooling reserves gigabytes of address space a slot, which small
        // boards do not have: try, and do without.
        let pooled = options.pooling.then(|| {
            let mut pooled = core.clone();
            pooled.allocation_strategy(InstanceAllocationStrategy::Pooling(pool(&options)));
            wasmtime::Engine::new(&pooled)
        });
        let (core, pooled) = match pooled {
            Some(Ok(engine)) => (engine, true),
            _ => (wasmtime::Engine::new(&core).map_err(refused)?, false),
        };
        let mut wasi = config(&options);
        wasi.concurrency_support(false);
        wasi.async_stack_size(options.stack_bytes + (1 << 20));
        let wasi = wasmtime::Engine::new(&wasi).map_err(refused)?;
        let cache = match &options.code_cache {
            Some(folder) => Some(
                CodeCache::open(folder)
                    .map_err(|source| EngineError::CodeCache { folder: folder.clone(), source })?,
            ),
            None => None,
        };
        let clock = Clock::start([core.weak(), wasi.weak()]).map_err(EngineError::Clock)?;
        let models = Models::new(options.model_memory);
        Ok(Self { inner: Arc::new(Inner { core, wasi, clock, cache, models, options, pooled }) })
    }

    /// Whether instances come from a pool.
    pub fn is_pooled(&self) -> bool {
        self.inner.pooled
    }

    pub(crate) fn options(&self) -> &EngineOptions {
        &self.inner.options
    }

    pub(crate) fn models(&self) -> &Models {
        &self.inner.models
    }

    /// Compile, or take from the cache.
    pub(crate) fn compile(&self, component: &[u8], wasi: bool) -> Result<Component, CompileError> {
        let engine = if wasi { &self.inner.wasi } else { &self.inner.core };
        if let Some(cached) = self.inner.cache.as_ref().and_then(|c| c.get(engine, component)) {
            return Ok(cached);
        }
        scan(component, &self.inner.options.compile)?;
        let compiled = Component::from_binary(engine, component)
            .map_err(|e| CompileError::Invalid(format!("{e:#}")))?;
        if let Some(cache) = &self.inner.cache
            && let Err(e) = cache.put(engine, component, &compiled)
        {
            (self.inner.options.log)(LogRecord {
                stage: "code-cache".to_owned(),
                level: LogLevel::Warn,
                message: format!("compiled code was not kept: {e}"),
            });
        }
        Ok(compiled)
    }

    /// The epoch advances while the guard is held.
    pub(crate) fn keep_time(&self) -> impl Drop + use<> {
        self.inner.clock.run()
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("pooled", &self.inner.pooled).finish_non_exhaustive()
    }
}

fn config(options: &EngineOptions) -> Config {
    let mut c = Config::new();
    c.cranelift_opt_level(OptLevel::Speed)
        .epoch_interruption(true)
        .max_wasm_stack(options.stack_bytes)
        .wasm_component_model(true)
        // The surface that no component of ours needs stays off.
        .wasm_memory64(false)
        .wasm_multi_memory(false)
        .wasm_relaxed_simd(false)
        .wasm_tail_call(false);
    c
}

fn pool(options: &EngineOptions) -> PoolingAllocationConfig {
    let slots = 256;
    let mut p = PoolingAllocationConfig::default();
    p.total_component_instances(slots)
        .total_core_instances(slots * 4)
        .total_memories(slots)
        .total_tables(slots * 4)
        .table_elements(usize::try_from(options.ceiling.table_elements).unwrap_or(usize::MAX))
        .max_memories_per_component(4)
        .max_tables_per_module(4)
        .max_component_instance_size(1 << 20)
        .max_core_instance_size(1 << 20)
        .max_memory_size(usize::try_from(options.ceiling.memory_bytes).unwrap_or(usize::MAX));
    p
}

/// Advances the engines' epochs once a [`TICK`] while components run, and
/// sleeps when none has run for a while: an idle device is not woken.
struct Clock {
    shared: Arc<ClockState>,
    thread: thread::Thread,
}

struct ClockState {
    /// Calls that are running.
    running: AtomicU64,
    asleep: AtomicBool,
    stop: AtomicBool,
}

impl Clock {
    fn start(engines: [EngineWeak; 2]) -> io::Result<Self> {
        let shared = Arc::new(ClockState {
            running: AtomicU64::new(0),
            asleep: AtomicBool::new(false),
            stop: AtomicBool::new(false),
        });
        let state = Arc::clone(&shared);
        let handle = thread::Builder::new().name("headland-clock".to_owned()).spawn(move || {
            let mut idle = 0;
            let (mut awake, mut ticks) = (Instant::now(), 0);
            while !state.stop.load(Ordering::Acquire) {
                idle = if state.running.load(Ordering::SeqCst) == 0 { idle + 1 } else { 0 };
                if idle > IDLE_TICKS {
                    state.asleep.store(true, Ordering::SeqCst);
                    // A call that began just before saw no sleeper: look again.
                    if state.running.load(Ordering::SeqCst) == 0 {
                        thread::park();
                    }
                    state.asleep.store(false, Ordering::SeqCst);
                    (idle, awake, ticks) = (0, Instant::now(), 0);
                    continue;
                }
                thread::sleep(TICK);
                // A sleep is longer than asked for: tick for what has passed.
                let due = awake.elapsed().as_nanos() / TICK.as_nanos();
                for engine in engines.iter().filter_map(EngineWeak::upgrade) {
                    (ticks..due).for_each(|_| engine.increment_epoch());
                }
                ticks = due;
            }
        })?;
        Ok(Self { shared, thread: handle.thread().clone() })
    }

    fn run(&self) -> Running {
        self.shared.running.fetch_add(1, Ordering::SeqCst);
        if self.shared.asleep.load(Ordering::SeqCst) {
            self.thread.unpark();
        }
        Running(Arc::clone(&self.shared))
    }
}

/// One call that is running.
struct Running(Arc<ClockState>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.thread.unpark();
    }
}
