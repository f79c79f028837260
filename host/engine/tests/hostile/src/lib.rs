//! A component that does what its configuration says, all of it bad.
//!
//! The engine's tests load it in each world and check that nothing of it
//! reaches the host or another stage.
// Elsewhere there is no host to attack.
#![cfg(target_arch = "wasm32")]

use headland_sdk::{Result, StageError};
use schemars::JsonSchema;
use serde::Deserialize;

/// Which attack, and on which frame it starts.
#[derive(Deserialize, JsonSchema, Clone)]
#[serde(deny_unknown_fields)]
pub struct Config {
    attack: Attack,
    /// Frames that are served honestly first.
    #[serde(default)]
    after: u64,
    /// Attack this many frames, then be honest again.
    #[serde(default)]
    times: Option<u64>,
}

#[derive(Deserialize, JsonSchema, Clone, Copy, PartialEq)]
#[serde(rename_all = "kebab-case")]
enum Attack {
    None,
    Trap,
    InfiniteLoop,
    MemoryBomb,
    StackOverflow,
    Hostcalls,
    LogFlood,
    /// A list of 4 GiB less one byte, none of which is there.
    HugeList,
    WrongLength,
    TooManyElements,
    BadBool,
    TensorFlood,
    /// One tensor of 1 MiB a frame, never let go.
    HoardOverFrames,
    /// An honest monitor whose destructor does not end.
    EndlessDrop,
    KeepHandles,
    NanStorm,
    UngrantedModel,
    DuplicateOutput,
    Refuse,
    /// One run of a model more than is allowed.
    ModelRuns,
    /// One row more than are allowed, in one run.
    ModelRows,
    /// An attribution of an input that was not given.
    UnknownInput,
    /// An attribution of another shape than the input's.
    WrongShape,
}

#[link(wasm_import_module = "headland:pipeline/log@0.1.0")]
unsafe extern "C" {
    #[link_name = "write"]
    fn raw_log(level: i32, pointer: i32, len: i32);
}

fn dive(depth: u64) -> u64 {
    let pad = std::hint::black_box([depth; 64]);
    if depth == u64::MAX { pad[0] } else { dive(depth + 1) + pad[63] }
}

/// Attacks that need nothing of the host but the log.
fn strike(attack: Attack) -> Result<()> {
    match attack {
        Attack::Trap => panic!("as configured"),
        Attack::InfiniteLoop => loop {
            std::hint::black_box(0);
        },
        Attack::MemoryBomb => {
            let mut hoard: Vec<Vec<u8>> = Vec::new();
            loop {
                hoard.push(std::hint::black_box(vec![1; 1 << 20]));
            }
        }
        Attack::StackOverflow => Err(StageError::failed(dive(0))),
        Attack::LogFlood => {
            for i in 0..1000 {
                headland_sdk::log::write(headland_sdk::log::Level::Info, &format!("\u{1b}[31m{i}"));
            }
            Ok(())
        }
        Attack::HugeList => {
            // SAFETY: none; the host must see that this is not there.
            unsafe { raw_log(0, 16, -1) };
            Ok(())
        }
        Attack::Refuse => Err(StageError::bad_input("`payload`: as configured")),
        _ => Ok(()),
    }
}

/// The attacker's memory between calls.
pub struct Attacker {
    config: Config,
    calls: u64,
    #[cfg(not(any(feature = "monitor", feature = "explainer")))]
    kept: Vec<headland_sdk::Tensor>,
}

impl Attacker {
    fn new(config: Config) -> Self {
        Self {
            config,
            calls: 0,
            #[cfg(not(any(feature = "monitor", feature = "explainer")))]
            kept: Vec::new(),
        }
    }

    /// The attack that this call is to make.
    fn next(&mut self) -> Attack {
        let call = self.calls;
        self.calls += 1;
        let last = self.config.times.map_or(u64::MAX, |n| self.config.after + n);
        if (self.config.after..last).contains(&call) { self.config.attack } else { Attack::None }
    }
}

impl Drop for Attacker {
    fn drop(&mut self) {
        while self.config.attack == Attack::EndlessDrop {
            std::hint::black_box(0);
        }
    }
}

/// Attacks through tensors and models.
#[cfg(not(any(feature = "monitor", feature = "explainer")))]
mod stage {
    use super::*;
    use headland_sdk::{DType, Tensor, Tensors};

    impl Attacker {
        pub(super) fn act(&mut self) -> Result<Tensors> {
            let honest = Tensors::new().with("out", Tensor::from_slice(&[1], &[1f32])?);
            let attack = self.next();
            strike(attack)?;
            match attack {
                Attack::Hostcalls => loop {
                    Tensor::from_slice(&[0], &[0f32; 0])?;
                },
                Attack::WrongLength => drop(Tensor::create(DType::F32, &[4], &[0; 15])?),
                Attack::TooManyElements => drop(Tensor::create(DType::U8, &[u32::MAX; 3], &[])?),
                Attack::HoardOverFrames => {
                    self.kept.push(Tensor::create(DType::U8, &[1 << 20], &[0; 1 << 20])?);
                }
                Attack::BadBool => drop(Tensor::create(DType::Bool, &[2], &[1, 2])?),
                Attack::TensorFlood => {
                    let block = vec![0u8; 1 << 20];
                    loop {
                        self.kept.push(Tensor::create(DType::U8, &[1 << 20], &block)?);
                    }
                }
                Attack::KeepHandles => loop {
                    self.kept.push(Tensor::from_slice(&[1], &[0u8])?);
                },
                Attack::NanStorm => {
                    return Ok(
                        Tensors::new().with("out", Tensor::from_slice(&[4], &[f32::NAN; 4])?)
                    );
                }
                Attack::UngrantedModel => {
                    #[cfg(feature = "model")]
                    headland_sdk::inference::Model::open("somebody-elses")?;
                }
                Attack::DuplicateOutput => {
                    return Ok(honest.with("out", Tensor::from_slice(&[1], &[2f32])?));
                }
                _ => {}
            }
            Ok(honest)
        }
    }
}

#[cfg(feature = "preprocess")]
mod world {
    use super::*;
    use headland_sdk::{Frame, Tensors};

    impl headland_sdk::Preprocess for Attacker {
        type Config = Config;

        fn new(config: Config) -> Result<Self> {
            Ok(Self::new(config))
        }

        fn preprocess(&mut self, _: &Frame, _: Tensors) -> Result<Tensors> {
            self.act()
        }
    }

    headland_sdk::export!(Attacker as preprocess);
}

#[cfg(feature = "model")]
mod world {
    use super::*;
    use headland_sdk::{Frame, Tensors};

    impl headland_sdk::Model for Attacker {
        type Config = Config;

        fn new(config: Config) -> Result<Self> {
            Ok(Self::new(config))
        }

        fn infer(&mut self, _: &Frame, _: Tensors) -> Result<Tensors> {
            self.act()
        }
    }

    headland_sdk::export!(Attacker as model);
}

#[cfg(feature = "postprocess")]
mod world {
    use super::*;
    use headland_sdk::{Frame, NamedValue, Prediction, Tensors};

    impl headland_sdk::Postprocess for Attacker {
        type Config = Config;

        fn new(config: Config) -> Result<Self> {
            Ok(Self::new(config))
        }

        fn postprocess(&mut self, _: &Frame, _: Tensors) -> Result<Prediction> {
            let values = vec![NamedValue { name: "out".to_owned(), value: f64::NAN }];
            self.act().map(|_| Prediction { values, ..Prediction::default() })
        }
    }

    headland_sdk::export!(Attacker as postprocess);
}

/// Explains nothing: every element contributed zero.
#[cfg(feature = "explainer")]
mod world {
    use super::*;
    use headland_sdk::{Attribution, Frame, Prediction, Tensor, Tensors, inference::Model};

    impl Attacker {
        /// Run the model on `rows` times the input.
        fn ask(model: &Model, input: &headland_sdk::Input, rows: u32) -> Result<f64> {
            let one = input.to_vec::<f32>()?;
            let mut shape = input.shape();
            shape[0] = rows;
            let all = Tensor::from_slice(&shape, &one.repeat(rows as usize))?;
            let given = model.run(Tensors::new().with(input.name(), all).into())?;
            Ok(Tensors::from(given).get_or_only(None)?.to_f64()?[0])
        }
    }

    impl headland_sdk::Explainer for Attacker {
        type Config = Config;

        fn new(config: Config) -> Result<Self> {
            if config.attack == Attack::UngrantedModel {
                Model::open("somebody-elses")?;
            }
            Ok(Self::new(config))
        }

        fn explain(
            &mut self,
            _: &Frame,
            inputs: Tensors,
            _: &Prediction,
            max_model_calls: u32,
        ) -> Result<Vec<Attribution>> {
            let attack = self.next();
            strike(attack)?;
            let input = inputs.get_or_only(None)?;
            let model = Model::open("net")?;
            match attack {
                Attack::ModelRuns => {
                    for _ in 0..=max_model_calls {
                        Self::ask(&model, &input, 1)?;
                    }
                }
                Attack::ModelRows => {
                    Self::ask(&model, &input, max_model_calls + 1)?;
                }
                _ => {}
            }
            let mut shape = input.shape();
            if attack == Attack::WrongShape {
                shape.push(1);
            }
            let value = if attack == Attack::NanStorm { f32::NAN } else { 0.0 };
            let name = if attack == Attack::UnknownInput { "elsewhere" } else { input.name() };
            let honest = || -> Result<Attribution> {
                Ok(Attribution {
                    input: name.to_owned(),
                    values: Tensor::from_slice(&shape, &vec![value; input.to_f64()?.len()])?,
                    base_value: Self::ask(&model, &input, 1)?,
                    model_calls: 1,
                })
            };
            let mut told = vec![honest()?];
            if attack == Attack::DuplicateOutput {
                told.push(honest()?);
            }
            Ok(told)
        }
    }

    headland_sdk::export!(Attacker as explainer);
}

#[cfg(feature = "monitor")]
mod world {
    use super::*;
    use headland_sdk::monitor::{Batch, Finding, MonitorError};

    impl headland_sdk::Monitor for Attacker {
        type Config = Config;

        fn open(config: Config, _: &[u8]) -> Result<Self, MonitorError> {
            Ok(Self::new(config))
        }

        fn restore(config: Config, _: &[u8], _: &[u8]) -> Result<Self, MonitorError> {
            Ok(Self::new(config))
        }

        fn observe(&mut self, _: &Batch) -> Result<Vec<Finding>, MonitorError> {
            #[cfg(feature = "greedy")]
            drop(headland_sdk::Tensor::from_slice(&[1], &[0u8]));
            let attack = self.next();
            strike(attack).map_err(|e| MonitorError::BadBatch(format!("{e:?}")))?;
            Ok(Vec::new())
        }

        fn checkpoint(&self) -> Vec<u8> {
            Vec::new()
        }

        fn close_window(&mut self) -> Vec<u8> {
            Vec::new()
        }

        fn merge(_: &[u8], _: &[u8]) -> Result<Vec<u8>, MonitorError> {
            Ok(Vec::new())
        }

        fn evaluate(_: Config, _: &[u8], _: &[u8]) -> Result<Vec<Finding>, MonitorError> {
            Ok(Vec::new())
        }
    }

    headland_sdk::export!(Attacker as monitor);
}
