//! The graph of stages as a sans-I/O state machine.
//!
//! [`PipelineSpec`] is a `pipeline.toml` as it is written, [`Graph`] one that
//! makes sense, and [`Scheduler`] drives frames through a graph: events and
//! the time go in, commands come out. Nothing here knows a clock, a file, a
//! thread or WebAssembly, so that the same code decides in a server, on a
//! device and in a browser, and a test can replay any of its decisions.
//! [`Batcher`] gathers what monitors see.
//!
//! # `pipeline.toml`
//!
//! A pipeline takes frames from a source, one by one, and says something of
//! each. What it does is a graph of stages:
//!
//! ```
//! # let text = r#"
//! schema = 1                          # the format; this page describes 1
//! name = "bearing-wear"
//! deadline-ms = 200                   # per frame; for ever when absent
//! output = "decide"                   # the stage whose result is the pipeline's
//!
//! [queue]                             # where frames wait until they start
//! capacity = 16                       # default 8
//! on-full = "drop-oldest"             # the default; or "drop-newest"
//!
//! [source]                            # optional: what the source gives
//! media-types = ["application/json"]  # all others are dropped; "image/*" works
//!
//! [[stage]]                           # a component of the package
//! id = "features"
//! component = "preprocess-tabular"
//! world = "preprocess"                # or "model", "postprocess"
//! inputs = ["source"]
//! config = { columns = ["rpm", "temperature", "load"], impute = "median" }
//! limits = { memory-mib = 16, time-ms = 20 }
//!
//! [[stage]]                           # a router: one branch for each frame
//! id = "canary"
//! inputs = ["features"]
//! router = [{ to = "forest", weight = 95 }, { to = "network", weight = 5 }]
//!
//! [[stage]]
//! id = "forest"
//! component = "model-trees"
//! world = "model"
//! inputs = ["canary"]
//! fallback = "rules"                  # runs instead when this one fails
//! breaker = { failures = 3, open-ms = 5000 }  # the defaults
//!
//! [[stage]]                           # an ONNX model of the package, directly
//! id = "network"
//! model = "wear-v2"
//! device = "auto"                     # the default; or "cpu", "gpu"
//! inputs = ["canary"]
//! fallback = "rules"
//!
//! [[stage]]
//! id = "rules"
//! component = "model-rules"
//! world = "model"
//! inputs = ["features"]
//!
//! [[stage]]
//! id = "decide"
//! component = "postprocess-threshold"
//! world = "postprocess"
//! inputs = ["forest", "network"]      # the one that ran
//! config = { alarm-above = 0.8 }
//!
//! [[stage]]                           # a shadow: runs beside, with no say
//! id = "candidate"
//! shadow = true
//! component = "model-onnx"
//! world = "model"
//! models = ["wear-v3"]                # the ONNX models that it may open
//! inputs = ["features"]
//!
//! [[monitor]]                         # sees each frame after its result is out
//! id = "drift"
//! component = "monitor-drift"
//! reference = "wear-reference"        # a package entry; optional
//! config = { bins = 10 }
//! batch-rows = 32                     # the default
//! window-rows = 256                   # the default
//! queue = 1024                        # rows; the default
//! taps = [
//!     { from = "source", columns = ["rpm", "temperature"] },
//!     { from = "features", reduce = "stats" },
//!     { from = "candidate.wear", columns = ["wear"], prefix = "candidate." },
//!     { from = "prediction" },
//! ]
//!
//! [[explainer]]                       # says why, when it is asked
//! id = "why"
//! component = "explainer-attribution"
//! of = "network"                      # explains from what this stage took
//! models = ["wear-v2"]                # the ONNX models that it may open
//! max-model-calls = 10000             # an explanation; the default
//! config = { model = "wear-v2", background = [[0.0, 0.0, 0.0]] }
//! # "#;
//! # let spec = headland_pipeline::PipelineSpec::from_toml(text)?;
//! # assert_eq!((spec.stage.len(), spec.monitor.len(), spec.explainer.len()), (7, 1, 1));
//! # headland_pipeline::Graph::new(spec)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A key that is not described here is refused, and so is one that means
//! nothing where it stands.
//!
//! ## The head
//!
//! | key | type | default | meaning |
//! |---|---|---|---|
//! | `schema` | integer | | the version of this format: 1 |
//! | `name` | string | | for people and telemetry |
//! | `output` | stage id | | the stage whose result is the pipeline's: a prediction of a `postprocess` component, or tensors |
//! | `deadline-ms` | integer | none | from submission to the result; a frame whose time is up is dropped wherever it is |
//! | `queue.capacity` | integer | 8 | frames that may wait to start |
//! | `queue.on-full` | string | `"drop-oldest"` | which frame goes when one more comes: `"drop-oldest"` or `"drop-newest"` |
//! | `source.media-types` | strings | any | the media types that are let in; parameters and case do not count, `image/*` and `*` match what they look like |
//!
//! ## Stages
//!
//! Every `[[stage]]` has these keys:
//!
//! | key | type | default | meaning |
//! |---|---|---|---|
//! | `id` | string | | a to z, 0 to 9 and inner hyphens; not `source` or `prediction` |
//! | `inputs` | strings | | what it takes: `"source"`, a stage's id, or `"stage.tensor"` for one tensor of a stage |
//! | `fallback` | stage id | none | the stage that runs instead when this one fails |
//! | `shadow` | boolean | false | runs after the frame's result is out, and has no say in it |
//!
//! and exactly one of `component`, `model`, `router` and `combine`:
//!
//! | key | beside | type | default | meaning |
//! |---|---|---|---|---|
//! | `component` | | string | | runs the package's component of that name |
//! | `world` | `component` | string | | which world it implements: `"preprocess"`, `"model"` or `"postprocess"` |
//! | `config` | `component` | table | `{}` | its configuration, given to it as JSON; dates become strings |
//! | `models` | `component` | strings | `[]` | the package's ONNX models that it may open; only for the world `"model"` |
//! | `wasi` | `component` | boolean | false | asks for a WASI context, in which everything is denied that the host does not grant |
//! | `model` | | string | | runs the package's ONNX model of that name |
//! | `device` | `model`, `models` | string | `"auto"` | where models run: `"auto"`, `"cpu"` or `"gpu"`; see [below](#devices) |
//! | `batch` | `model` | table | none | see [below](#batches) |
//! | `breaker` | `component`, `model` | table | | see [below](#failures) |
//! | `limits` | `component`, `model` | table | | see [below](#limits) |
//! | `router` | | tables | | see [below](#routers) |
//! | `combine` | | string | | see [below](#combiners) |
//!
//! A stage takes the tensors of all its inputs together. No two of them may
//! have one name: at run time that is a failure of the stage that takes them.
//! The source gives one u8 tensor named `payload`, or the named tensors that
//! the caller submitted.
//!
//! The graph must have no cycle, and every stage must lead to the output, be
//! the fallback of one that does, or be a shadow. A prediction ends its path:
//! no stage can take it. At most 64 stages and 16 monitors.
//!
//! ### Routers
//!
//! `router = [{ to = "a", weight = 9 }, { to = "b", weight = 1 }]` sends nine
//! frames in ten to `a` and the others to `b`. Each branch is a stage that
//! has the router among its inputs, and gets what the router took. The choice
//! is a hash of the scheduler's seed, the router's id and the frame's id: the
//! same frame goes the same way on every host. A weight of 0 turns a branch
//! off.
//!
//! Stages that are only below branches not taken do not run. A stage below
//! several branches runs when any of them did, and takes what came. However
//! the routers choose, the output must be reached; all ways together, at most
//! 4096, are tried when the graph is checked.
//!
//! ### Combiners
//!
//! | `combine` | gives |
//! |---|---|
//! | `"mean"` | for each name, the elementwise mean of the inputs' tensors, which must be floats of one dtype and shape; computed in f64, rounded once |
//! | `"max"` | the same with the maximum; a NaN stays one |
//! | `"vote"` | under the first input's tensor name, an f32 tensor of the inputs' shape with each class's share of the votes. Each input gives one tensor `[..., classes]` and votes, row by row, for its largest score; of equal ones for the first. A row with a NaN is no vote |
//! | `"concat"` | all tensors, which must have different names |
//!
//! Inputs that were routed away do not count. Combiners and routers are pure
//! and run inside the scheduler.
//!
//! ### Devices
//!
//! `"auto"` answers on the CPU and measures beside it whether the GPU is
//! faster for the model and its shapes; `"cpu"` and `"gpu"` pin it. A host that
//! has no GPU, or none that holds the model, refuses a stage pinned to it,
//! unless the stage has a `fallback`: that serves instead, and the host says so.
//!
//! ### Batches
//!
//! `batch = { max = 8, delay-ms = 2, queue = 256 }` are the defaults. Runs of
//! the model that several runners of one package ask for at about the same time
//! become one: of at most `max` rows, and for which none waits longer than
//! `delay-ms`. It takes a model whose first dimension is open in every input
//! and output; any other runs frame by frame. A frame whose `deadline-ms`
//! leaves no time to wait runs at once.
//!
//! ### Failures
//!
//! A stage fails when it returns an error, traps, runs into a limit, or gets
//! inputs that do not fit together. Then its `fallback` runs, and what it
//! gives takes the stage's place for all that take from it. Without one, the
//! frame is dropped and the reason names the stage.
//!
//! A fallback takes from the source and from stages upstream of the one that
//! it stands in for, gives the same (tensors or a prediction), and does
//! nothing else in the pipeline. It may have a fallback itself, and may stand
//! in for several stages.
//!
//! `breaker = { failures = 3, open-ms = 5000 }` are the defaults. After that
//! many failures in a row, the stage is not called for that long and counts
//! as failed at once; then one frame tries it, and opens or closes the
//! breaker by how that goes. That a stage found its input unusable is no
//! failure in this count: otherwise a few bad frames would shut out the good.
//!
//! ### Shadows
//!
//! A shadow runs after the frame's result is out, when no frame needs
//! anything else. It may take from any stage, but only shadows can take from
//! it, and it has no fallback. It gets as much time as `deadline-ms` gives the
//! frame. Its output can be tapped; it goes nowhere else.
//!
//! ### Limits
//!
//! What a stage or monitor asks for. The host has a ceiling, and the smaller
//! of the two holds.
//!
//! | key | default | of |
//! |---|---|---|
//! | `memory-mib` | 64 | linear memory of one instance |
//! | `time-ms` | 1000 | wall-clock time of one call |
//! | `table-elements` | 20000 | entries of any one table |
//! | `instances` | 16 | core instances, memories and tables, each |
//! | `hostcall-mib` | 64 | what one call into the host may carry |
//! | `hostcalls` | 10000 | calls into the host in one call of the stage |
//! | `tensor-mib` | 256 | tensors made in one call of the stage |
//!
//! ## Monitors
//!
//! | key | type | default | meaning |
//! |---|---|---|---|
//! | `id` | string | | as a stage's, and different from all of them |
//! | `component` | string | | the package's component of that name, of the world `monitor` |
//! | `config` | table | `{}` | its configuration, given to it as JSON |
//! | `reference` | string | none | the package's entry with its reference data |
//! | `taps` | tables | | what it sees |
//! | `batch-rows` | integer | 32 | rows that one call of it is given |
//! | `window-rows` | integer | 256 | rows that make a window, at whose end its findings are reported |
//! | `queue` | integer | 1024 | rows that may wait for it; the oldest go when more come |
//! | `max-percent` | integer | none | the most time that it may take, in percent of the stages' time, 1 to 100: beyond, it is shown every second, fourth and so on of the rows, by a hash of the frame's id |
//! | `labels` | table | none | see [below](#labels) |
//! | `limits` | table | | as a stage's |
//!
//! A monitor sees one row of each frame that started, once the frame is
//! finished, also when it was dropped: what taps then have nothing is
//! missing. Nothing that a monitor does changes a result.
//!
//! | tap key | default | meaning |
//! |---|---|---|
//! | `from` | | `"source"`, a stage's id, `"stage.tensor"`, or `"prediction"` |
//! | `columns` | all | of tensors, the names of all elements in their order; of a JSON payload or a prediction, the columns to take |
//! | `prefix` | `""` | put before each column's name |
//! | `reduce` | `"none"` | `"stats"`: of each tensor only mean, population standard deviation, minimum and maximum of the elements that are not NaN |
//!
//! | a tap on | gives |
//! |---|---|
//! | the source, for the media type `application/json` | a column per key of the object: numbers numeric, strings and booleans categorical, null missing; nested values are left out |
//! | tensors | a numeric column per element, named `tensor[i]` unless `columns` names them; with `reduce = "stats"` the columns `tensor.mean`, `tensor.std`, `tensor.min` and `tensor.max` |
//! | a prediction, or a stage that gives one | `class` (categorical) and `score` of the best class, a numeric column per named value, and `alarm` (categorical) |
//!
//! ### Labels
//!
//! What was right is often known only later. A monitor with
//! `labels = { wait = 1000 }` (the default of `wait`) sees a frame's row when
//! the frame's label comes, with the label's columns added, or without them
//! once `wait` later frames have come. A label whose row has gone is refused.
//!
//! A monitor has at most 1024 columns; a category has at most 256 bytes and a
//! JSON payload at most 1 MiB. What goes beyond is left out and counted.
//!
//! ## Explainers
//!
//! | key | type | default | meaning |
//! |---|---|---|---|
//! | `id` | string | | as a stage's, and different from all others |
//! | `component` | string | | the package's component of that name, of the world `explainer` |
//! | `of` | stage id | | the stage that it explains: a component or a model, and no shadow |
//! | `config` | table | `{}` | its configuration, given to it as JSON |
//! | `models` | strings | `[]` | the package's ONNX models that it may open |
//! | `device` | string | `"auto"` | where they run, as a stage's |
//! | `max-model-calls` | integer | 10000 | how often it may run a model for one explanation; each row counts of a batch along a first dimension that the model leaves open |
//! | `limits` | table | | as a stage's |
//!
//! An explainer is loaded and checked with the package, and called only when
//! somebody asks why: never on a frame's way. It is given the tensors that the
//! stage `of` took for the frame, and the pipeline's prediction where that is
//! one. Where a fallback stood in for the stage, or a router passed it by,
//! there is nothing to explain. At most 16 explainers.

mod breaker;
mod combine;
mod graph;
mod labels;
mod row;
mod sampler;
mod scheduler;
mod spec;
mod stats;

pub use breaker::BreakerState;
pub use graph::{
    Graph, GraphError, MAX_BATCH_DELAY_MS, MAX_BATCH_ROWS, MAX_EXPLAINERS, MAX_ID_BYTES,
    MAX_MONITORS, MAX_QUEUE_FRAMES, MAX_QUEUE_ROWS, MAX_ROUTES, MAX_STAGES,
};
pub use headland_monitor::{Batch, Column, ColumnValues};
pub use labels::{LabelJoin, MAX_WAITING_ROWS};
pub use row::{Batcher, Cell, MAX_CATEGORY_BYTES, MAX_COLUMNS, MAX_JSON_BYTES, Row};
pub use sampler::Sampler;
pub use scheduler::{
    CallId, Command, DropReason, FailureKind, MAX_AFTERMATH_BYTES, MAX_AFTERMATH_FRAMES, Scheduler,
    StageFailure, StageOutcome, StageOutput, StageRun,
};
pub use spec::{
    BatchSpec, Branch, BreakerSpec, Combine, Device, ExplainerSpec, LabelsSpec, LimitsSpec,
    MAX_SPEC_BYTES, MonitorSpec, OnFull, PipelineSpec, QueueSpec, Reduce, SCHEMA, SourceSpec,
    SpecError, StageKind, StageSpec, TapSpec, World,
};
pub use stats::{MonitorStats, StageStats, Stats};
