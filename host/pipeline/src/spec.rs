//! The types of `pipeline.toml`. The crate's front page is their reference.

use headland_tensor::Limits;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The version of the format that this crate reads.
pub const SCHEMA: u32 = 1;

/// The longest `pipeline.toml` that is read, in bytes.
pub const MAX_SPEC_BYTES: usize = 1 << 20;

/// A whole `pipeline.toml`.
///
/// It is well formed, no more: [`Graph::new`](crate::Graph::new) checks that
/// it makes sense.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct PipelineSpec {
    /// The format's version: [`SCHEMA`].
    pub schema: u32,
    /// The pipeline's name, for people and telemetry.
    pub name: String,
    /// How long a frame may take from submission to its result, in
    /// milliseconds; for ever when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u64>,
    /// Where frames wait until they start.
    #[serde(default)]
    pub queue: QueueSpec,
    /// What the source gives; anything when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<SourceSpec>,
    /// The id of the stage whose result is the pipeline's.
    pub output: String,
    /// The stages, in any order.
    #[serde(default)]
    pub stage: Vec<StageSpec>,
    /// The monitors.
    #[serde(default)]
    pub monitor: Vec<MonitorSpec>,
    /// The explainers.
    #[serde(default)]
    pub explainer: Vec<ExplainerSpec>,
}

/// Where frames wait until they start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct QueueSpec {
    /// How many frames may wait.
    pub capacity: u32,
    /// Which frame is dropped when one more comes.
    pub on_full: OnFull,
}

impl Default for QueueSpec {
    fn default() -> Self {
        Self { capacity: 8, on_full: OnFull::DropOldest }
    }
}

/// Which frame a full queue drops.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnFull {
    /// The one that has waited longest: fresh data matters most.
    DropOldest,
    /// The one that comes: what was accepted is done.
    DropNewest,
}

/// What the source gives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct SourceSpec {
    /// The media types that frames may have, for example `image/png` or
    /// `image/*`. Parameters and case do not count.
    pub media_types: Vec<String>,
}

impl SourceSpec {
    /// Whether a frame of this media type is let in.
    pub fn accepts(&self, media_type: &str) -> bool {
        let given = essence(media_type);
        self.media_types.iter().any(|allowed| {
            let allowed = essence(allowed);
            match allowed.strip_suffix('*') {
                Some(prefix) => given.starts_with(prefix),
                None => given == allowed,
            }
        })
    }
}

/// A media type without its parameters, in lower case.
pub(crate) fn essence(media_type: &str) -> String {
    media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// One `[[stage]]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "StageKeys", into = "StageKeys")]
pub struct StageSpec {
    /// The stage's name in this file: a to z, 0 to 9 and inner hyphens.
    pub id: String,
    /// What it takes: `source`, a stage's id, or `stage.tensor` for one
    /// tensor of a stage.
    pub inputs: Vec<String>,
    /// The id of the stage that runs instead when this one fails.
    pub fallback: Option<String>,
    /// When to stop calling a stage that keeps failing.
    pub breaker: BreakerSpec,
    /// Whether it runs beside the pipeline, after the frame's result is out,
    /// and without a say in it.
    pub shadow: bool,
    /// What it asks to use.
    pub limits: LimitsSpec,
    /// What it is.
    pub kind: StageKind,
}

impl StageSpec {
    /// What the stage may use: what it asks for, under the host's ceiling.
    pub fn limits(&self, host_ceiling: Limits) -> Limits {
        self.limits.resolve(host_ceiling)
    }

    /// Whether it runs outside the scheduler, which routers and combiners
    /// do not.
    pub fn is_invoked(&self) -> bool {
        matches!(self.kind, StageKind::Component { .. } | StageKind::Model { .. })
    }

    /// Whether it gives a prediction rather than tensors.
    pub fn gives_prediction(&self) -> bool {
        matches!(self.kind, StageKind::Component { world: World::Postprocess, .. })
    }
}

/// What a stage is.
#[derive(Debug, Clone, PartialEq)]
pub enum StageKind {
    /// A component of the package.
    Component {
        /// The component's name in the package.
        component: String,
        /// The world that it implements.
        world: World,
        /// Its configuration: a JSON object.
        config: Value,
        /// The package's ONNX models that it may open.
        models: Vec<String>,
        /// Where to run them.
        device: Device,
        /// Whether it asks for a WASI context, in which everything is denied
        /// that the host's policy does not grant.
        wasi: bool,
    },
    /// An ONNX model of the package, run directly.
    Model {
        /// The model's name in the package.
        model: String,
        /// Where to run it.
        device: Device,
        /// How runs of several runners share one; none runs each alone.
        batch: Option<BatchSpec>,
    },
    /// Sends each frame down one of its branches, chosen by the frame's id.
    Router {
        /// The branches.
        branches: Vec<Branch>,
    },
    /// Makes one set of tensors of several.
    Combine {
        /// How.
        combine: Combine,
    },
}

/// A world of the contract whose components can be stages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum World {
    /// Payloads to tensors.
    Preprocess,
    /// Tensors to tensors, with the host's inference at hand.
    Model,
    /// Tensors to a prediction.
    Postprocess,
}

/// Where a model runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Device {
    /// Wherever it is measured to be fastest.
    #[default]
    Auto,
    /// On the CPU.
    Cpu,
    /// On the GPU.
    Gpu,
}

/// How runs that come at about the same time share one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct BatchSpec {
    /// Rows of a batch.
    pub max: u32,
    /// How long a run waits for others, in milliseconds.
    pub delay_ms: u32,
    /// Runs that wait at once; one more fails.
    pub queue: u32,
}

impl Default for BatchSpec {
    fn default() -> Self {
        Self { max: 8, delay_ms: 2, queue: 256 }
    }
}

/// One way out of a router.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Branch {
    /// The id of the stage that runs when this branch is chosen.
    pub to: String,
    /// Its share of the frames, relative to the sum of the weights. 0 turns
    /// the branch off.
    pub weight: u32,
}

/// How a combiner makes one set of tensors of several.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Combine {
    /// The elementwise mean of float tensors of the same name.
    Mean,
    /// The elementwise maximum of float tensors of the same name.
    Max,
    /// The share of votes of each class, where each input votes for the
    /// largest score along the last axis of its one tensor.
    Vote,
    /// All tensors, which must have different names.
    Concat,
}

/// When to stop calling a stage that keeps failing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct BreakerSpec {
    /// This many failures in a row open the breaker.
    pub failures: u32,
    /// How long it stays open before one call is let through to try, in
    /// milliseconds.
    pub open_ms: u64,
}

impl Default for BreakerSpec {
    fn default() -> Self {
        Self { failures: 3, open_ms: 5_000 }
    }
}

/// What a stage, monitor or explainer asks to use; a key that is absent asks for the
/// default of [`Limits`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct LimitsSpec {
    /// Linear memory of one instance, in MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_mib: Option<u64>,
    /// Wall-clock time of one call, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_ms: Option<u64>,
    /// Entries in any one table of an instance.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub table_elements: Option<u64>,
    /// Core instances, memories and tables, each.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instances: Option<u32>,
    /// What one call into the host may carry, in MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostcall_mib: Option<u64>,
    /// Calls into the host during one call of the stage.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostcalls: Option<u64>,
    /// Tensors made during one call, in MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tensor_mib: Option<u64>,
}

impl LimitsSpec {
    /// What holds: what is asked for, under the host's ceiling.
    pub fn resolve(&self, host_ceiling: Limits) -> Limits {
        let mib = |n: Option<u64>, default| n.map_or(default, |n| n.saturating_mul(1 << 20));
        let default = Limits::default();
        let asked = Limits {
            memory_bytes: mib(self.memory_mib, default.memory_bytes),
            time_ms: self.time_ms.unwrap_or(default.time_ms),
            table_elements: self.table_elements.unwrap_or(default.table_elements),
            instances: self.instances.unwrap_or(default.instances),
            hostcall_bytes: mib(self.hostcall_mib, default.hostcall_bytes),
            hostcalls: self.hostcalls.unwrap_or(default.hostcalls),
            tensor_bytes: mib(self.tensor_mib, default.tensor_bytes),
        };
        asked.min(host_ceiling)
    }

    /// The keys with what was asked for.
    pub(crate) fn asked(&self) -> impl Iterator<Item = (&'static str, u64)> {
        [
            ("limits.memory-mib", self.memory_mib),
            ("limits.time-ms", self.time_ms),
            ("limits.table-elements", self.table_elements),
            ("limits.instances", self.instances.map(u64::from)),
            ("limits.hostcall-mib", self.hostcall_mib),
            ("limits.hostcalls", self.hostcalls),
            ("limits.tensor-mib", self.tensor_mib),
        ]
        .into_iter()
        .filter_map(|(key, asked)| Some((key, asked?)))
    }
}

/// One `[[monitor]]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct MonitorSpec {
    /// The monitor's name in this file.
    pub id: String,
    /// The component's name in the package.
    pub component: String,
    /// Its configuration: a JSON object.
    #[serde(default = "no_config", deserialize_with = "config")]
    pub config: Value,
    /// The package's entry with its reference data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// What it sees.
    pub taps: Vec<TapSpec>,
    /// How many rows one call of it is given.
    #[serde(default = "batch_rows")]
    pub batch_rows: u32,
    /// How many rows make a window, at whose end its findings are reported.
    #[serde(default = "window_rows")]
    pub window_rows: u32,
    /// How many rows may wait for it; the oldest go when more come.
    #[serde(default = "queue_rows")]
    pub queue: u32,
    /// The most time that it may take, in percent of the stages' time; beyond,
    /// it is shown a sample of the rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_percent: Option<u32>,
    /// Whether its rows wait for labels that come later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<LabelsSpec>,
    /// What it asks to use.
    #[serde(default)]
    pub limits: LimitsSpec,
}

/// A monitor's wait for labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct LabelsSpec {
    /// After how many later frames a row goes without its label.
    #[serde(default = "wait_rows")]
    pub wait: u32,
}

impl MonitorSpec {
    /// What the monitor may use: what it asks for, under the host's ceiling.
    pub fn limits(&self, host_ceiling: Limits) -> Limits {
        self.limits.resolve(host_ceiling)
    }
}

fn batch_rows() -> u32 {
    32
}

fn window_rows() -> u32 {
    256
}

fn queue_rows() -> u32 {
    1024
}

fn wait_rows() -> u32 {
    1000
}

/// One `[[explainer]]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ExplainerSpec {
    /// The explainer's name in this file.
    pub id: String,
    /// The component's name in the package.
    pub component: String,
    /// The id of the stage that it explains: it is given what that stage took.
    pub of: String,
    /// Its configuration: a JSON object.
    #[serde(default = "no_config", deserialize_with = "config")]
    pub config: Value,
    /// The package's ONNX models that it may open.
    #[serde(default)]
    pub models: Vec<String>,
    /// Where to run them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<Device>,
    /// How often it may run a model for one explanation; each row of a batch
    /// counts.
    #[serde(default = "max_model_calls")]
    pub max_model_calls: u32,
    /// What it asks to use.
    #[serde(default)]
    pub limits: LimitsSpec,
}

impl ExplainerSpec {
    /// What the explainer may use: what it asks for, under the host's ceiling.
    pub fn limits(&self, host_ceiling: Limits) -> Limits {
        self.limits.resolve(host_ceiling)
    }
}

fn max_model_calls() -> u32 {
    10_000
}

/// One thing that a monitor sees of each frame.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct TapSpec {
    /// `source`, a stage's id, `stage.tensor`, or `prediction`.
    pub from: String,
    /// Of tensors, the names of the elements in their order; of a JSON
    /// payload or a prediction, the columns to take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub columns: Option<Vec<String>>,
    /// Put before each column's name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub prefix: String,
    /// What is made of tensors first.
    #[serde(default)]
    pub reduce: Reduce,
}

/// What a tap makes of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reduce {
    /// A column per element.
    #[default]
    None,
    /// Mean, population standard deviation, minimum and maximum of the
    /// elements that are not NaN: four columns.
    Stats,
}

/// The keys of a `[[stage]]` as they stand in the file, before it is known
/// which kind of stage they make.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct StageKeys {
    id: String,
    inputs: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    fallback: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    breaker: Option<BreakerSpec>,
    #[serde(default)]
    shadow: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    limits: Option<LimitsSpec>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    component: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    world: Option<World>,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "some_config")]
    config: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    models: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    wasi: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    model: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    device: Option<Device>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    batch: Option<BatchSpec>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    router: Option<Vec<Branch>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    combine: Option<Combine>,
}

impl TryFrom<StageKeys> for StageSpec {
    type Error = SpecError;

    fn try_from(keys: StageKeys) -> Result<Self, SpecError> {
        let given = |pairs: &[(&'static str, bool)]| -> Vec<&'static str> {
            pairs.iter().filter(|(_, is_given)| *is_given).map(|(key, _)| *key).collect()
        };
        let kinds = given(&[
            ("component", keys.component.is_some()),
            ("model", keys.model.is_some()),
            ("router", keys.router.is_some()),
            ("combine", keys.combine.is_some()),
        ]);
        let kind = match kinds[..] {
            [kind] => kind,
            [] => return Err(SpecError::NoKind { stage: keys.id }),
            [..] => return Err(SpecError::TwoKinds { stage: keys.id, keys: kinds.join(", ") }),
        };
        let component_only = [
            ("world", keys.world.is_some()),
            ("config", keys.config.is_some()),
            ("models", keys.models.is_some()),
            ("wasi", keys.wasi.is_some()),
        ];
        let model_only = [("batch", keys.batch.is_some())];
        let invoked_only = [
            ("device", keys.device.is_some()),
            ("breaker", keys.breaker.is_some()),
            ("limits", keys.limits.is_some()),
        ];
        let misplaced = match kind {
            "component" => given(&model_only),
            "model" => given(&component_only),
            _ => given(&[&component_only[..], &model_only, &invoked_only].concat()),
        };
        if let Some(&key) = misplaced.first() {
            return Err(SpecError::KeyOfOtherKind { stage: keys.id, key, kind });
        }

        let kind = match (keys.component, keys.model, keys.router, keys.combine) {
            (Some(component), ..) => {
                let Some(world) = keys.world else {
                    return Err(SpecError::NoWorld { stage: keys.id });
                };
                let models = keys.models.unwrap_or_default();
                if world != World::Model && !models.is_empty() {
                    return Err(SpecError::ModelsOutsideModelWorld { stage: keys.id });
                }
                if models.is_empty() && keys.device.is_some() {
                    return Err(SpecError::DeviceWithoutModel { stage: keys.id });
                }
                StageKind::Component {
                    component,
                    world,
                    config: keys.config.unwrap_or_else(no_config),
                    models,
                    device: keys.device.unwrap_or_default(),
                    wasi: keys.wasi.unwrap_or(false),
                }
            }
            (_, Some(model), ..) => StageKind::Model {
                model,
                device: keys.device.unwrap_or_default(),
                batch: keys.batch,
            },
            (_, _, Some(branches), _) => StageKind::Router { branches },
            (_, _, _, Some(combine)) => StageKind::Combine { combine },
            (None, None, None, None) => return Err(SpecError::NoKind { stage: keys.id }),
        };
        Ok(Self {
            id: keys.id,
            inputs: keys.inputs,
            fallback: keys.fallback,
            breaker: keys.breaker.unwrap_or_default(),
            shadow: keys.shadow,
            limits: keys.limits.unwrap_or_default(),
            kind,
        })
    }
}

impl From<StageSpec> for StageKeys {
    fn from(stage: StageSpec) -> Self {
        let invoked = stage.is_invoked();
        let mut keys = Self {
            id: stage.id,
            inputs: stage.inputs,
            fallback: stage.fallback,
            breaker: invoked.then_some(stage.breaker),
            shadow: stage.shadow,
            limits: invoked.then_some(stage.limits),
            component: None,
            world: None,
            config: None,
            models: None,
            wasi: None,
            model: None,
            device: None,
            batch: None,
            router: None,
            combine: None,
        };
        match stage.kind {
            StageKind::Component { component, world, config, models, device, wasi } => {
                keys.component = Some(component);
                keys.world = Some(world);
                keys.config = Some(config);
                keys.device = (!models.is_empty()).then_some(device);
                keys.models = Some(models);
                keys.wasi = Some(wasi);
            }
            StageKind::Model { model, device, batch } => {
                keys.model = Some(model);
                keys.device = Some(device);
                keys.batch = batch;
            }
            StageKind::Router { branches } => keys.router = Some(branches),
            StageKind::Combine { combine } => keys.combine = Some(combine),
        }
        keys
    }
}

fn no_config() -> Value {
    Value::Object(serde_json::Map::new())
}

/// A configuration: a TOML table as the JSON object that a component gets.
fn config<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Value, D::Error> {
    let table = toml::Table::deserialize(d)?;
    json(toml::Value::Table(table), "config").map_err(serde::de::Error::custom)
}

fn some_config<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Option<Value>, D::Error> {
    config(d).map(Some)
}

/// TOML as JSON, which lacks dates (they become their RFC 3339 text) and the
/// floats that are no numbers (they are refused).
fn json(value: toml::Value, path: &str) -> Result<Value, String> {
    Ok(match value {
        toml::Value::String(s) => Value::String(s),
        toml::Value::Integer(i) => Value::from(i),
        toml::Value::Boolean(b) => Value::Bool(b),
        toml::Value::Float(f) => match serde_json::Number::from_f64(f) {
            Some(n) => Value::Number(n),
            None => return Err(format!("`{path}` is {f}, which JSON cannot hold")),
        },
        toml::Value::Datetime(at) => Value::String(at.to_string()),
        toml::Value::Array(items) => Value::Array(
            items
                .into_iter()
                .enumerate()
                .map(|(i, item)| json(item, &format!("{path}[{i}]")))
                .collect::<Result<_, _>>()?,
        ),
        toml::Value::Table(table) => Value::Object(
            table
                .into_iter()
                .map(|(key, item)| {
                    let item = json(item, &format!("{path}.{key}"))?;
                    Ok((key, item))
                })
                .collect::<Result<_, String>>()?,
        ),
    })
}

impl PipelineSpec {
    /// Read a `pipeline.toml`.
    ///
    /// # Errors
    /// [`SpecError`], which names the stage, monitor or explainer and the key.
    pub fn from_toml(text: &str) -> Result<Self, SpecError> {
        if text.len() > MAX_SPEC_BYTES {
            return Err(SpecError::TooLong { len_bytes: text.len() });
        }
        let mut document: toml::Table = text.parse().map_err(SpecError::Syntax)?;
        // The version first: a later one may well have keys unknown here.
        match document.get("schema") {
            Some(toml::Value::Integer(found)) if *found == i64::from(SCHEMA) => {}
            Some(found) => return Err(SpecError::Schema { found: found.to_string() }),
            None => return Err(SpecError::NoSchema),
        }
        // The tables one by one, so that an error can say whose it is.
        let stage = tables(&mut document, "stage")?
            .into_iter()
            .map(|(place, table)| StageSpec::try_from(read::<StageKeys>(place, table)?))
            .collect::<Result<_, _>>()?;
        let monitor = tables(&mut document, "monitor")?
            .into_iter()
            .map(|(place, table)| read(place, table))
            .collect::<Result<_, _>>()?;
        let explainer = tables(&mut document, "explainer")?
            .into_iter()
            .map(|(place, table)| read(place, table))
            .collect::<Result<_, _>>()?;
        let head: Self = read("pipeline".to_owned(), toml::Value::Table(document))?;
        Ok(Self { stage, monitor, explainer, ..head })
    }
}

/// Take `[[key]]` out of the document: each table with the name that errors
/// call it by.
fn tables(
    document: &mut toml::Table,
    key: &'static str,
) -> Result<Vec<(String, toml::Value)>, SpecError> {
    let tables = match document.remove(key) {
        None => Vec::new(),
        Some(toml::Value::Array(tables)) => tables,
        Some(_) => return Err(SpecError::NotTables { key }),
    };
    let place = |(i, table): (usize, toml::Value)| {
        let place = match table.get("id").and_then(toml::Value::as_str) {
            Some(id) => format!("{key} {id:?}"),
            None => format!("{key} number {}", i + 1),
        };
        (place, table)
    };
    Ok(tables.into_iter().enumerate().map(place).collect())
}

fn read<T: for<'de> Deserialize<'de>>(place: String, value: toml::Value) -> Result<T, SpecError> {
    value.try_into().map_err(|e: toml::de::Error| SpecError::Key {
        place,
        problem: e.to_string().trim_end().replace('\n', " "),
    })
}

/// Why a text is no `pipeline.toml`.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SpecError {
    /// Longer than [`MAX_SPEC_BYTES`].
    #[error("pipeline.toml has {len_bytes} bytes, more than the {MAX_SPEC_BYTES} allowed")]
    TooLong {
        /// Its length.
        len_bytes: usize,
    },
    /// Not TOML; the source says where.
    #[error("pipeline.toml is not TOML")]
    Syntax(#[source] toml::de::Error),
    /// No `schema`.
    #[error("pipeline.toml does not say its format; begin it with `schema = {SCHEMA}`")]
    NoSchema,
    /// Another format.
    #[error("pipeline.toml has `schema = {found}`; this version reads {SCHEMA}")]
    Schema {
        /// What it says.
        found: String,
    },
    /// A plain `stage`, `monitor` or `explainer` key where tables belong.
    #[error("`{key}` must be tables: write `[[{key}]]`")]
    NotTables {
        /// The key.
        key: &'static str,
    },
    /// A key is missing, unknown, or of a wrong type.
    #[error("{place}: {problem}")]
    Key {
        /// The stage, monitor or explainer, or `pipeline` for the file's head.
        place: String,
        /// What is wrong, naming the key.
        problem: String,
    },
    /// A stage that does nothing.
    #[error("stage {stage:?} needs one of `component`, `model`, `router` and `combine`")]
    NoKind {
        /// The stage.
        stage: String,
    },
    /// A stage that would do two things.
    #[error("stage {stage:?} has {keys}; a stage has only one of these")]
    TwoKinds {
        /// The stage.
        stage: String,
        /// The keys.
        keys: String,
    },
    /// A key that means nothing in this kind of stage.
    #[error("stage {stage:?} has `{key}`, which means nothing beside `{kind}`")]
    KeyOfOtherKind {
        /// The stage.
        stage: String,
        /// The key.
        key: &'static str,
        /// What the stage is.
        kind: &'static str,
    },
    /// A component without its world.
    #[error("stage {stage:?} needs `world`: \"preprocess\", \"model\" or \"postprocess\"")]
    NoWorld {
        /// The stage.
        stage: String,
    },
    /// A device for a component that runs no model.
    #[error("stage {stage:?} has `device`, which means nothing without `models`")]
    DeviceWithoutModel {
        /// The stage.
        stage: String,
    },
    /// Models granted to a component that cannot open one.
    #[error("stage {stage:?} has `models`, which only a component of the world \"model\" can open")]
    ModelsOutsideModelWorld {
        /// The stage.
        stage: String,
    },
}
