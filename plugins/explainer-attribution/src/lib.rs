//! `explainer-attribution`: what each element of an input contributed to what
//! a model says of it.
//!
//! # Input
//! One of the tensors that the explained stage took, of dtype f32 or f64. An
//! input whose first dimension is 1 is run in batches where the model's first
//! dimension is open and the model takes nothing else.
//!
//! # Output
//! One attribution, in the units of the explained element of the model's
//! output. Shapley values add up to what the model says of the input less the
//! base value, to rounding: f32's in the tensor, f64's before. Those of
//! occlusion need not.
//!
//! # Methods
//! | method | runs of the model | features |
//! |---|---|---|
//! | `exact` | 1 + (2^n - 1) a row of the background | n up to 10 |
//! | `kernel` | 1 + (1 + coalitions) a row of the background, at least 2n coalitions | n up to 64 |
//! | `occlusion` | 2 and one a patch | any |
//!
//! n counts the features that differ from the background; the others have
//! contributed nothing. Each row of a batch counts as a run. A batch is three
//! calls into the host, and so is each run of a model that takes none: mind the
//! limit `hostcalls` there.
//!
//! Whether the features still matter as they did is told by [`ndcg`], over
//! [`MeanAbsolute`] contributions.

mod config;
mod drift;
mod error;
mod exact;
mod game;
mod kernel;
mod occlusion;
mod subject;

pub use config::{Config, Method, Occlusion};
pub use drift::{MeanAbsolute, RankError, ndcg};
pub use error::Error;
pub use exact::exact;
pub use game::{Contributions, Game};
pub use kernel::kernel;
pub use occlusion::{Patches, occlusion};
pub use subject::{Allowance, Run, Subject};

use headland_sdk::{
    Attribution, DType, Explainer, Frame, Prediction, Result, StageError, Tensor, Tensors,
    decode_f64,
    inference::{self, Dimension, TensorInfo},
};

/// Rows of a batch; more make no model faster that runs on a device's CPU.
const BATCH_ROWS: usize = 256;

/// Explain an input of `shape`: what `config` says of the method, within the
/// subject's allowance.
///
/// # Errors
/// [`Error`].
pub fn explain(
    subject: &mut Subject,
    shape: &[usize],
    config: &Config,
) -> std::result::Result<Contributions, Error> {
    let occlude = match config.method {
        Method::Occlusion => true,
        Method::Auto => config.background.is_empty(),
        Method::Exact | Method::Kernel => false,
    };
    if occlude {
        let sizes = |sizes: &[u32]| sizes.iter().map(|&n| n as usize).collect::<Vec<_>>();
        let patch = match sizes(&config.occlusion.patch) {
            // Single elements.
            none if none.is_empty() => vec![1; shape.len()],
            patch => patch,
        };
        let stride = match sizes(&config.occlusion.stride) {
            none if none.is_empty() => patch.clone(),
            stride => stride,
        };
        let patches = Patches::new(shape, &patch, &stride);
        return occlusion(subject, &patches, config.occlusion.fill);
    }
    let features = config.features(subject.input().len()).map_err(Error::Model)?;
    let mut game = Game::new(subject, &config.background, &features)?;
    let is_exact = match config.method {
        Method::Exact => true,
        Method::Kernel => false,
        Method::Auto | Method::Occlusion => {
            game.players() <= exact::MAX_PLAYERS
                && exact::coalitions_needed(game.players()) <= game.coalitions_left()
        }
    };
    if is_exact {
        return exact(&mut game);
    }
    let coalitions = config.coalitions.map(|n| n as usize);
    let coalitions = coalitions.unwrap_or_else(|| kernel::default_coalitions(game.players()));
    kernel(&mut game, coalitions, config.seed)
}

/// The explainer: one open model.
pub struct Attributor {
    config: Config,
    model: inference::Model,
    /// The model's inputs.
    inputs: Vec<TensorInfo>,
    /// The one that takes what is explained, where the configuration or a
    /// model of one input says so.
    model_input: Option<String>,
    output: TensorInfo,
}

impl Explainer for Attributor {
    type Config = Config;

    fn new(mut config: Config) -> Result<Self> {
        config.check()?;
        let model = inference::Model::open(&config.model)?;
        let (inputs, outputs) = (model.inputs(), model.outputs());
        let model_input = match (&config.model_input, inputs.as_slice()) {
            (Some(name), _) => Some(named(&config.model, "input", &inputs, name)?.name.clone()),
            (None, [only]) => Some(only.name.clone()),
            (None, _) => None,
        };
        let output = match (&config.output, outputs.first()) {
            (Some(name), _) => named(&config.model, "output", &outputs, name)?,
            (None, Some(first)) => first,
            (None, None) => return Err(StageError::bad_config("the model has no output")),
        };
        // As the model will see them, so that a value of the background that
        // is the input's is known to be.
        let narrow = |info: &TensorInfo| info.dtype == DType::F32;
        if inputs.iter().any(narrow) {
            for value in config.background.iter_mut().flatten() {
                *value = f64::from(*value as f32);
            }
        }
        Ok(Self { output: output.clone(), config, model, inputs, model_input })
    }

    fn explain(
        &mut self,
        _: &Frame,
        inputs: Tensors,
        _: &Prediction,
        max_model_calls: u32,
    ) -> Result<Vec<Attribution>> {
        let explained = inputs.get_or_only(self.config.input.as_deref())?;
        let dtype = explained.dtype();
        if !matches!(dtype, DType::F32 | DType::F64) {
            return Err(explained
                .refuse(format!("only f32 and f64 can be explained, it is {}", dtype.name())));
        }
        let shape = explained.shape();
        let values = explained.to_f64()?;
        if !self.config.names.is_empty() && self.config.names.len() != values.len() {
            return Err(StageError::bad_config(format!(
                "`names` has {} names, the input {} elements",
                self.config.names.len(),
                values.len()
            )));
        }
        let feed = Feed::new(self, &inputs, explained.name(), &shape)?;
        let allowance = Allowance {
            batch_rows: if feed.takes_batches() { BATCH_ROWS } else { 1 },
            calls_per_row: feed.calls_per_row(),
            max_calls: u64::from(max_model_calls),
        };
        let mut run = |rows: &[f64]| feed.run(&self.model, dtype, rows, values.len());
        let index = self.config.index.map(|i| i as usize);
        let mut subject = Subject::new(&mut run, &values, allowance, index)?;
        let dims: Vec<usize> = shape.iter().map(|&n| n as usize).collect();
        let contributions = explain(&mut subject, &dims, &self.config)?;
        let model_calls = u32::try_from(subject.calls()).unwrap_or(u32::MAX);
        let told: Vec<f32> = contributions.values.iter().map(|&v| v as f32).collect();
        Ok(vec![Attribution {
            input: explained.name().to_owned(),
            values: Tensor::from_slice(&shape, &told)?,
            base_value: contributions.base,
            model_calls,
        }])
    }
}

/// What the model calls `name`.
fn named<'a>(
    model: &str,
    kind: &str,
    infos: &'a [TensorInfo],
    name: &str,
) -> Result<&'a TensorInfo> {
    infos.iter().find(|i| i.name == name).ok_or_else(|| {
        let names: Vec<&str> = infos.iter().map(|i| i.name.as_str()).collect();
        let has = names.join(", ");
        StageError::bad_config(format!("model `{model}` has no {kind} `{name}`; it has [{has}]"))
    })
}

/// What one run of the model is given.
struct Feed<'a> {
    shape: &'a [u32],
    /// The model's input that varies.
    input: &'a TensorInfo,
    output: &'a TensorInfo,
    /// The model's other inputs, the same in every run.
    constant: Vec<(&'a TensorInfo, Tensor)>,
}

impl<'a> Feed<'a> {
    fn new(of: &'a Attributor, given: &Tensors, explained: &str, shape: &'a [u32]) -> Result<Self> {
        let name = of.model_input.as_deref().unwrap_or(explained);
        let input = named(&of.config.model, "input", &of.inputs, name)?;
        let others = of.inputs.iter().filter(|i| i.name != input.name);
        let constant =
            others.map(|i| Ok((i, Tensor::clone(&*given.get(&i.name)?)))).collect::<Result<_>>()?;
        Ok(Self { shape, input, output: &of.output, constant })
    }

    fn takes_batches(&self) -> bool {
        is_open(self.input) && self.constant.is_empty() && self.shape.first() == Some(&1)
    }

    /// What the host counts a run on one row as: the first dimension, where the
    /// model leaves it open.
    fn calls_per_row(&self) -> u64 {
        let first = |info: &TensorInfo, shape: &[u32]| match shape.first() {
            Some(&n) if is_open(info) => u64::from(n),
            _ => 1,
        };
        let constant = self.constant.iter().map(|(info, t)| first(info, &t.shape()));
        constant.chain([first(self.input, self.shape)]).max().unwrap_or(1)
    }

    fn run(
        &self,
        model: &inference::Model,
        dtype: DType,
        rows: &[f64],
        width: usize,
    ) -> Result<Vec<f64>> {
        let mut shape = self.shape.to_vec();
        if let (true, Some(first)) = (self.takes_batches(), shape.first_mut()) {
            *first = u32::try_from(rows.len() / width.max(1)).unwrap_or(u32::MAX);
        }
        let tensor = if dtype == DType::F64 {
            Tensor::from_slice(&shape, rows)?
        } else {
            let rows: Vec<f32> = rows.iter().map(|&v| v as f32).collect();
            Tensor::from_slice(&shape, &rows)?
        };
        let constant = self.constant.iter();
        let inputs: Tensors =
            constant.map(|(info, tensor)| (info.name.clone(), tensor.clone())).collect();
        let outputs: Tensors = model.run(inputs.with(&self.input.name, tensor).into())?.into();
        Ok(decode_f64(self.output.dtype, &outputs.get(&self.output.name)?.read()?))
    }
}

/// Whether the model leaves the first dimension open.
fn is_open(info: &TensorInfo) -> bool {
    matches!(info.shape.first(), Some(Dimension::Symbolic(_)))
}

headland_sdk::export!(Attributor as explainer, schema = "config.schema.json");
