//! Explainers: components that say why, when somebody asks.
//!
//! Never on a frame's way: an [`Explainer`] has a pipeline of its own, without
//! monitors and shadows, so that asking changes nothing that runs elsewhere.

use std::{sync::Arc, time::Instant};

use headland_pipeline::{DropReason, StageOutcome, StageOutput};
use headland_tensor::{DType, Frame, NamedTensors, Prediction, Tensor};
use wasmtime::component::TypedFunc;

use crate::{
    CallError, ComponentError, StartError,
    bindings::{attributor as wit, tensors::NamedTensor, types},
    component::{Live, Prepared, frame_to_wit},
    deployment::Deployment,
    host::clip,
    runner::Runner,
};

/// An explainer compiled and checked.
pub(crate) struct PreparedExplainer {
    pub(crate) id: String,
    /// The stage that it explains, by index.
    pub(crate) of: usize,
    pub(crate) prepared: Prepared,
    /// How often it may run a model, by the package's word.
    pub(crate) max_model_calls: u32,
}

/// How much each element of an input moved the prediction.
#[derive(Debug, Clone)]
pub struct Attribution {
    /// The input's name.
    pub input: String,
    /// f32, of the input's shape, in the units of what is explained.
    pub values: Tensor,
    /// What the model gives for the baseline.
    pub base_value: f64,
    /// How often the model was run for it, as the component says.
    pub model_calls: u32,
}

/// Why a pipeline said of a frame what it said.
#[derive(Debug, Clone)]
pub struct Explanation {
    /// The explainer's id.
    pub explainer: String,
    /// The id of the stage that is explained.
    pub of: String,
    /// The frame.
    pub frame: Arc<Frame>,
    /// What the pipeline said of it.
    pub result: StageOutput,
    /// What the explained stage took.
    pub inputs: NamedTensors,
    /// What each of them contributed, as far as the explainer says.
    pub attributions: Vec<Attribution>,
    /// How often models were run, as the host counted.
    pub model_calls: u64,
    /// How long the explainer took, in nanoseconds.
    pub duration_ns: u64,
}

/// Why there is no explanation.
#[derive(Debug, thiserror::Error)]
pub enum ExplainError {
    /// The pipeline has no explainer of that id.
    #[error("the pipeline has no explainer {id:?}; it has [{}]", .known.join(", "))]
    Unknown {
        /// The id.
        id: String,
        /// The ids that it has.
        known: Vec<String>,
    },
    /// The pipeline does not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The explainer's component does not start.
    #[error("explainer {explainer:?}")]
    Component {
        /// Which.
        explainer: String,
        /// Why.
        #[source]
        source: ComponentError,
    },
    /// The pipeline said nothing of the frame.
    #[error("the frame was dropped: {0}")]
    Dropped(#[source] DropReason),
    /// The explained stage had no part in the prediction.
    #[error("stage {stage:?}, which explainer {explainer:?} explains, {reason}")]
    NoPart {
        /// The explainer.
        explainer: String,
        /// The stage.
        stage: String,
        /// What became of it.
        reason: String,
    },
    /// The explainer's call gave no result.
    #[error("explainer {explainer:?} failed")]
    Call {
        /// Which.
        explainer: String,
        /// Why.
        #[source]
        source: CallError,
    },
}

type Explain = TypedFunc<
    (types::Frame, Vec<NamedTensor>, types::Prediction, u32),
    (Result<Vec<wit::Attribution>, types::StageError>,),
>;

/// An instance, with what it is called by.
struct Ready {
    live: Live,
    explain: Explain,
}

impl Ready {
    fn new(prepared: &Prepared) -> Result<Self, ComponentError> {
        let mut live = Live::configured(prepared)?;
        let explain = live.export(prepared.world().interface(), "explain")?;
        Ok(Self { live, explain })
    }
}

/// One explainer with a pipeline to get its frames from.
pub struct Explainer {
    spec: Arc<PreparedExplainer>,
    runner: Runner,
    /// Made anew when the last one trapped or ran into a limit.
    ready: Option<Ready>,
}

impl Deployment {
    /// The ids of the explainers, in the pipeline's order.
    pub fn explainers(&self) -> impl Iterator<Item = &str> {
        self.explainers.iter().map(|explainer| explainer.id.as_str())
    }

    /// Instantiate an explainer, and a pipeline for it. Stages that keep a
    /// state begin with their first: a frame is explained as if those before
    /// it that were not given to this explainer had not been.
    ///
    /// # Errors
    /// [`ExplainError::Unknown`], [`ExplainError::Start`],
    /// [`ExplainError::Component`].
    pub fn explainer(self: &Arc<Self>, id: &str) -> Result<Explainer, ExplainError> {
        let spec = self.explainers.iter().find(|e| e.id == id).ok_or_else(|| {
            let known = self.explainers().map(str::to_owned).collect();
            ExplainError::Unknown { id: id.to_owned(), known }
        })?;
        let ready = Ready::new(&spec.prepared)
            .map_err(|source| ExplainError::Component { explainer: spec.id.clone(), source })?;
        let runner = Runner::tapped(Arc::clone(self), spec.of)?;
        Ok(Explainer { spec: Arc::clone(spec), runner, ready: Some(ready) })
    }
}

impl Explainer {
    /// The explainer's id.
    pub fn id(&self) -> &str {
        &self.spec.id
    }

    /// How often it may run a model for one explanation, by the package's word.
    pub fn max_model_calls(&self) -> u32 {
        self.spec.max_model_calls
    }

    /// Run a frame, and say why it came out as it did. Its id decides which way
    /// routers send it, as it does for [`Runner::run`]. With at most `max_model_calls` runs of models, and no more than the
    /// package allows; each row counts of a batch along a first dimension that
    /// the model leaves open. The host counts: a component that runs one more is
    /// stopped.
    ///
    /// # Errors
    /// [`ExplainError`]; the next frame can be explained all the same.
    pub fn explain(
        &mut self,
        frame: Frame,
        inputs: NamedTensors,
        max_model_calls: Option<u32>,
    ) -> Result<Explanation, ExplainError> {
        let (report, taken) = self.runner.run_tapped(frame, inputs);
        let result = report.result.map_err(ExplainError::Dropped)?;
        let stage = self.runner.deployment().spec().stage.get(self.spec.of);
        let stage = stage.map(|stage| stage.id.clone()).unwrap_or_default();
        let no_part = |reason: String| ExplainError::NoPart {
            explainer: self.spec.id.clone(),
            stage: stage.clone(),
            reason,
        };
        let outcome = report.stages.iter().find(|run| run.stage == stage).map(|run| &run.outcome);
        match outcome {
            Some(StageOutcome::Completed) => {}
            Some(StageOutcome::Failed(e)) => {
                return Err(no_part(format!("failed, and its fallback served: {e}")));
            }
            Some(StageOutcome::BreakerOpen) => {
                return Err(no_part("was not called, and its fallback served".to_owned()));
            }
            Some(StageOutcome::Abandoned) | None => {
                return Err(no_part("did not run for this frame".to_owned()));
            }
        }
        let prediction = match &result {
            StageOutput::Prediction(prediction) => prediction_to_wit(prediction),
            StageOutput::Tensors(_) => prediction_to_wit(&Prediction::default()),
        };
        let max = max_model_calls.unwrap_or(u32::MAX).min(self.spec.max_model_calls);
        let begun = Instant::now();
        let frame = frame_to_wit(&report.frame);
        let (attributions, model_calls) = self
            .call(frame, &taken, prediction, max)
            .map_err(|source| ExplainError::Call { explainer: self.spec.id.clone(), source })?;
        Ok(Explanation {
            explainer: self.spec.id.clone(),
            of: stage,
            frame: report.frame,
            result,
            inputs: taken,
            attributions,
            model_calls,
            duration_ns: u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX),
        })
    }

    fn call(
        &mut self,
        frame: types::Frame,
        inputs: &NamedTensors,
        prediction: types::Prediction,
        max_model_calls: u32,
    ) -> Result<(Vec<Attribution>, u64), CallError> {
        let mut ready = match self.ready.take() {
            Some(ready) => ready,
            None => Ready::new(&self.spec.prepared).map_err(|e| match e {
                ComponentError::Configure(e) | ComponentError::Instantiate(e) => e,
                other => CallError::Trap(other.to_string()),
            })?,
        };
        let result = ready.call(frame, inputs, prediction, max_model_calls);
        if result.as_ref().err().is_none_or(|e| !e.is_fatal()) {
            self.ready = Some(ready);
        }
        result
    }
}

impl Ready {
    fn call(
        &mut self,
        frame: types::Frame,
        inputs: &NamedTensors,
        prediction: types::Prediction,
        max_model_calls: u32,
    ) -> Result<(Vec<Attribution>, u64), CallError> {
        let state = self.live.state();
        state.max_model_calls = u64::from(max_model_calls);
        let given = state.give(inputs.clone()).map_err(CallError::of_transfer)?;
        let explain = self.explain;
        let (told,) = self.live.call(&explain, (frame, given, prediction, max_model_calls))?;
        let told = told?;
        // All of them first: what is refused below must not stay behind.
        let mut attributions = Vec::new();
        for a in told {
            let values = self.live.state().take_one(a.values).map_err(CallError::of_transfer)?;
            attributions.push(Attribution {
                input: a.input,
                values,
                base_value: a.base_value,
                model_calls: a.model_calls,
            });
        }
        check(&attributions, inputs).map_err(CallError::BadOutput)?;
        Ok((attributions, self.live.state().model_calls()))
    }
}

/// Whether attributions are what the contract says, of these inputs.
fn check(attributions: &[Attribution], inputs: &NamedTensors) -> Result<(), String> {
    for (i, a) in attributions.iter().enumerate() {
        let name = clip(&a.input);
        let Some((_, input)) = inputs.iter().find(|(input, _)| *input == a.input) else {
            return Err(format!("an attribution of {name:?}, which is no input"));
        };
        if attributions.iter().take(i).any(|earlier| earlier.input == a.input) {
            return Err(format!("two attributions of {name:?}"));
        }
        if a.values.dtype() != DType::F32 || a.values.shape() != input.shape() {
            return Err(format!(
                "the attribution of {name:?} is {:?}, of an input of {:?}",
                a.values, input
            ));
        }
        let values = a.values.to_vec::<f32>().map_err(|e| e.to_string())?;
        if !a.base_value.is_finite() || values.iter().any(|v| !v.is_finite()) {
            return Err(format!("the attribution of {name:?} is not finite"));
        }
    }
    Ok(())
}

fn prediction_to_wit(p: &Prediction) -> types::Prediction {
    let class = |c: &headland_tensor::ClassScore| types::ClassScore {
        index: c.index,
        label: c.label.clone(),
        score: c.score,
    };
    types::Prediction {
        classes: p.classes.iter().map(class).collect(),
        detections: p
            .detections
            .iter()
            .map(|d| types::Detection {
                x_min: d.x_min,
                y_min: d.y_min,
                x_max: d.x_max,
                y_max: d.y_max,
                class: class(&d.class),
            })
            .collect(),
        values: p
            .values
            .iter()
            .map(|v| types::NamedValue { name: v.name.clone(), value: v.value })
            .collect(),
        alarm: p.alarm,
    }
}
