//! `model-onnx`: runs an ONNX model of the package through the host's
//! inference.
//!
//! # Inputs
//! The model's inputs, under the model's own names or as `inputs` maps them.
//! Where both the model and the stage have a single one, their names need not
//! agree. Tensors that the model does not take are left aside.
//!
//! # Outputs
//! The model's outputs, under the model's own names or as `outputs` maps
//! them; with a map, only those in it.
//!
//! A model with `state` runs in a session: each named output is fed back to
//! its input at the next frame, without leaving the host's device.

use std::collections::BTreeMap;

use headland_sdk::{
    DType, Frame, Model, Result, StageError, Tensor, Tensors,
    inference::{self, Dimension, TensorInfo},
};
use schemars::JsonSchema;
use serde::Deserialize;

/// Which model, and how its names map to the pipeline's.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The model's name in the package's manifest.
    pub model: String,
    /// For a model input, the name of the stage's input that it takes. An
    /// input that is not listed takes the stage's input of its own name.
    #[serde(default)]
    pub inputs: BTreeMap<String, String>,
    /// For a model output, the name under which it is given on. When empty,
    /// every output is given on under its own name.
    #[serde(default)]
    pub outputs: BTreeMap<String, String>,
    /// Model inputs that are the same in every frame.
    #[serde(default)]
    pub constants: BTreeMap<String, Constant>,
    /// Outputs that are fed back at the next frame.
    #[serde(default)]
    pub state: Vec<State>,
}

/// The value of a constant input, in the dtype that the model asks for.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Constant {
    /// The size of each dimension; empty for a scalar.
    pub shape: Vec<u32>,
    /// The elements in row-major order.
    pub values: Vec<f64>,
}

/// An output that is fed back. The state before the first frame is zero.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// The model's input that takes the state.
    pub input: String,
    /// The model's output that gives the next one.
    pub output: String,
    /// The state's shape; needed where the model does not fix it.
    pub shape: Option<Vec<u32>>,
}

/// Which stage input each of the model's free inputs takes: those that are
/// neither constant nor state.
///
/// # Errors
/// [`StageError::BadConfig`] for a name that the model does not have, or an
/// input that is given twice.
pub fn free_inputs(
    config: &Config,
    inputs: &[TensorInfo],
    outputs: &[TensorInfo],
) -> Result<Vec<(String, String)>> {
    let known = |kind: &str, infos: &[TensorInfo], name: &str| {
        if infos.iter().any(|i| i.name == name) {
            return Ok(());
        }
        let names: Vec<&str> = infos.iter().map(|i| i.name.as_str()).collect();
        Err(StageError::bad_config(format!(
            "model `{}` has no {kind} `{name}`; it has [{}]",
            config.model,
            names.join(", ")
        )))
    };
    for name in config.inputs.keys().chain(config.constants.keys()) {
        known("input", inputs, name)?;
    }
    for name in config.outputs.keys() {
        known("output", outputs, name)?;
    }
    for (i, state) in config.state.iter().enumerate() {
        known("input", inputs, &state.input)?;
        known("output", outputs, &state.output)?;
        if config.state[..i].iter().any(|s| s.input == state.input) {
            return Err(StageError::bad_config(format!(
                "state input `{}` is bound twice",
                state.input
            )));
        }
    }
    let mut free = Vec::new();
    for info in inputs {
        let constant = config.constants.contains_key(&info.name);
        let state = config.state.iter().any(|s| s.input == info.name);
        let mapped = config.inputs.get(&info.name);
        match [constant, state, mapped.is_some()].iter().filter(|&&b| b).count() {
            0 | 1 => {}
            _ => {
                return Err(StageError::bad_config(format!(
                    "model input `{}` is given by more than one of inputs, constants and state",
                    info.name
                )));
            }
        }
        if !constant && !state {
            free.push((info.name.clone(), mapped.unwrap_or(&info.name).clone()));
        }
    }
    Ok(free)
}

/// The bytes of `values` in `dtype`, little-endian.
///
/// # Errors
/// [`StageError::BadConfig`] for a value that `dtype` cannot hold exactly, or
/// a dtype that a constant cannot have.
pub fn constant_bytes(dtype: DType, values: &[f64]) -> Result<Vec<u8>> {
    macro_rules! whole {
        ($t:ty) => {{
            let mut bytes = Vec::with_capacity(size_of::<$t>() * values.len());
            for &v in values {
                let element = v as $t;
                if element as f64 != v {
                    return Err(StageError::bad_config(format!(
                        "constant {v} is no {}",
                        dtype.name()
                    )));
                }
                bytes.extend(element.to_le_bytes());
            }
            bytes
        }};
    }
    Ok(match dtype {
        DType::U8 => whole!(u8),
        DType::I8 => whole!(i8),
        DType::U16 => whole!(u16),
        DType::I16 => whole!(i16),
        DType::U32 => whole!(u32),
        DType::I32 => whole!(i32),
        DType::U64 => whole!(u64),
        DType::I64 => whole!(i64),
        DType::F32 => values.iter().flat_map(|&v| (v as f32).to_le_bytes()).collect(),
        DType::F64 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        DType::Bool => {
            if let Some(v) = values.iter().find(|&&v| v != 0.0 && v != 1.0) {
                return Err(StageError::bad_config(format!("constant {v} is no bool")));
            }
            values.iter().map(|&v| v as u8).collect()
        }
        DType::F16 | DType::Bf16 => {
            return Err(StageError::bad_config(format!("a constant cannot be {}", dtype.name())));
        }
    })
}

/// The shape of a state: the configuration's, or the model's where all of it
/// is fixed.
///
/// # Errors
/// [`StageError::BadConfig`] when neither says.
pub fn state_shape(state: &State, info: &TensorInfo) -> Result<Vec<u32>> {
    if let Some(shape) = &state.shape {
        return Ok(shape.clone());
    }
    info.shape
        .iter()
        .map(|d| match d {
            Dimension::Fixed(size) => Ok(*size),
            Dimension::Symbolic(symbol) => Err(StageError::bad_config(format!(
                "state input `{}` has the open dimension `{symbol}`: give its `shape`",
                state.input
            ))),
        })
        .collect()
}

enum Runner {
    Model(inference::Model),
    Session(inference::Session),
}

/// The stage: one open model.
pub struct OnnxModel {
    config: Config,
    runner: Runner,
    free: Vec<(String, String)>,
    constants: Vec<(String, Tensor)>,
}

impl Model for OnnxModel {
    type Config = Config;

    fn new(config: Config) -> Result<Self> {
        let model = inference::Model::open(&config.model)?;
        let inputs = model.inputs();
        let free = free_inputs(&config, &inputs, &model.outputs())?;
        let info = |name: &str| {
            inputs
                .iter()
                .find(|i| i.name == name)
                .ok_or_else(|| StageError::bad_config(format!("no model input `{name}`")))
        };
        let mut constants = Vec::new();
        for (name, constant) in &config.constants {
            let dtype = info(name)?.dtype;
            let bytes = constant_bytes(dtype, &constant.values)?;
            constants.push((name.clone(), Tensor::create(dtype, &constant.shape, &bytes)?));
        }
        let mut state = Vec::new();
        for s in &config.state {
            let input = info(&s.input)?;
            let shape = state_shape(s, input)?;
            state.push(inference::StateBinding {
                input: s.input.clone(),
                output: s.output.clone(),
                initial: zeros(input.dtype, &shape)?,
            });
        }
        let runner = if state.is_empty() {
            Runner::Model(model)
        } else {
            Runner::Session(model.open_session(state)?)
        };
        Ok(Self { config, runner, free, constants })
    }

    fn infer(&mut self, _: &Frame, mut inputs: Tensors) -> Result<Tensors> {
        let mut feed: Tensors =
            self.constants.iter().map(|(n, t)| (n.clone(), t.clone())).collect();
        if let [(name, _)] = self.free.as_slice()
            && !self.config.inputs.contains_key(name)
            && inputs.iter().count() == 1
        {
            feed = inputs.into_iter().fold(feed, |feed, (_, only)| feed.with(name, only));
        } else {
            for (name, from) in &self.free {
                feed = feed.with(name, inputs.take(from)?);
            }
        }
        let outputs: Tensors = match &self.runner {
            Runner::Model(model) => model.run(feed.into())?,
            Runner::Session(session) => session.run(feed.into())?,
        }
        .into();
        if self.config.outputs.is_empty() {
            return Ok(outputs);
        }
        Ok(outputs
            .into_iter()
            .filter_map(|(name, t)| Some((self.config.outputs.get(&name)?.clone(), t)))
            .collect())
    }
}

/// A tensor of zeros.
fn zeros(dtype: DType, shape: &[u32]) -> Result<Tensor> {
    let elements = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d as usize));
    let bytes = elements
        .and_then(|n| n.checked_mul(dtype.size_bytes()))
        .filter(|&n| n <= MAX_STATE_BYTES)
        .ok_or_else(|| StageError::bad_config(format!("state of shape {shape:?} is too large")))?;
    Ok(Tensor::create(dtype, shape, &vec![0; bytes])?)
}

/// No streaming model in use carries more between two frames.
const MAX_STATE_BYTES: usize = 16 << 20;

headland_sdk::export!(OnnxModel as model);

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn info(name: &str, shape: Vec<Dimension>) -> TensorInfo {
        TensorInfo { name: name.into(), dtype: DType::F32, shape }
    }

    fn config(json: &str) -> Config {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn free_inputs_leave_out_constants_and_state() {
        let vad = [info("input", vec![]), info("state", vec![]), info("sr", vec![])];
        let outputs = [info("output", vec![]), info("stateN", vec![])];
        let c = config(
            r#"{"model": "vad", "inputs": {"input": "window"},
                "constants": {"sr": {"shape": [], "values": [16000]}},
                "state": [{"input": "state", "output": "stateN", "shape": [2, 1, 128]}]}"#,
        );
        assert_eq!(
            free_inputs(&c, &vad, &outputs).unwrap(),
            [("input".to_owned(), "window".to_owned())]
        );
    }

    #[test]
    fn unknown_and_doubly_given_names_are_refused() {
        let x = [info("x", vec![])];
        let refused = |json: &str| free_inputs(&config(json), &x, &x).unwrap_err();
        assert_eq!(
            refused(r#"{"model": "m", "inputs": {"y": "a"}}"#),
            StageError::BadConfig("model `m` has no input `y`; it has [x]".into())
        );
        assert_eq!(
            refused(r#"{"model": "m", "outputs": {"y": "a"}}"#),
            StageError::BadConfig("model `m` has no output `y`; it has [x]".into())
        );
        let twice =
            r#"{"model": "m", "inputs": {"x": "a"}, "state": [{"input": "x", "output": "x"}]}"#;
        assert!(matches!(refused(twice), StageError::BadConfig(m) if m.contains("more than one")));
        let bound = r#"{"model": "m", "state": [{"input": "x", "output": "x"}, {"input": "x", "output": "x"}]}"#;
        assert!(matches!(refused(bound), StageError::BadConfig(m) if m.contains("bound twice")));
    }

    #[test]
    fn constants_are_exact_in_their_dtype() {
        assert_eq!(constant_bytes(DType::I64, &[16000.0]).unwrap(), 16000i64.to_le_bytes());
        assert_eq!(constant_bytes(DType::F32, &[0.5]).unwrap(), 0.5f32.to_le_bytes());
        assert_eq!(constant_bytes(DType::Bool, &[1.0, 0.0]).unwrap(), [1, 0]);
        assert!(constant_bytes(DType::U8, &[256.0]).is_err());
        assert!(constant_bytes(DType::I32, &[0.5]).is_err());
        assert!(constant_bytes(DType::I64, &[f64::NAN]).is_err());
        assert!(constant_bytes(DType::Bool, &[2.0]).is_err());
    }

    #[test]
    fn open_state_dimension_needs_a_shape() {
        let open = info("state", vec![Dimension::Fixed(2), Dimension::Symbolic("batch".into())]);
        let state = |shape| State { input: "state".into(), output: "s".into(), shape };
        assert!(matches!(
            state_shape(&state(None), &open).unwrap_err(),
            StageError::BadConfig(m) if m.contains("`batch`")
        ));
        assert_eq!(state_shape(&state(Some(vec![2, 1])), &open).unwrap(), [2, 1]);
        let fixed = info("state", vec![Dimension::Fixed(2), Dimension::Fixed(3)]);
        assert_eq!(state_shape(&state(None), &fixed).unwrap(), [2, 3]);
    }

    #[test]
    fn misspelt_key_is_refused() {
        assert!(serde_json::from_str::<Config>(r#"{"model": "m", "input": {}}"#).is_err());
    }
}
