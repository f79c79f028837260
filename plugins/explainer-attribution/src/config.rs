//! What is explained, and how.

use headland_sdk::{Result, StageError};
use schemars::JsonSchema;
use serde::Deserialize;

/// The most rows of a background. The rows are averaged over, so the model is
/// run as many times for each coalition.
const MAX_BACKGROUND_ROWS: usize = 1_000;

/// What to explain, and how.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Config {
    /// The model's name in the package's manifest.
    pub model: String,
    /// The tensor that is explained, of those that the explained stage took;
    /// the only one when absent.
    pub input: Option<String>,
    /// The model's input that takes it; when absent the one of the same name,
    /// or the model's only one. The model's other inputs take the stage's
    /// tensors of their names, as they are.
    pub model_input: Option<String>,
    /// The model's output that is explained; the first when absent.
    pub output: Option<String>,
    /// The element of the output that is explained, a class for example; when
    /// absent the greatest for the input at hand.
    pub index: Option<u32>,
    /// How contributions are computed.
    #[serde(default)]
    pub method: Method,
    /// Rows that a feature's value is replaced from, each with as many
    /// elements as the input: a sample of the training data, or a single
    /// baseline. Needed for the methods `exact` and `kernel`.
    #[serde(default)]
    #[schemars(length(max = 1000))]
    pub background: Vec<Vec<f64>>,
    /// Elements that count as one feature, and share its contribution evenly.
    /// An element that is in none is a feature by itself.
    #[serde(default)]
    pub groups: Vec<Vec<u32>>,
    /// The features' names, one for each element of the input; for people.
    #[serde(default)]
    pub names: Vec<String>,
    /// The most coalitions that `kernel` asks for beside the empty one; when
    /// absent 2048 and two for each feature.
    #[schemars(range(min = 2))]
    pub coalitions: Option<u32>,
    /// What the draws of `kernel` begin with.
    #[serde(default)]
    pub seed: u64,
    /// What `occlusion` covers.
    #[serde(default)]
    pub occlusion: Occlusion,
}

/// How contributions are computed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// `occlusion` without a background; with one `exact` where it does, and
    /// otherwise `kernel`.
    #[default]
    Auto,
    /// Shapley values from every coalition: up to 10 features that differ from
    /// the background.
    Exact,
    /// Shapley values estimated from some coalitions: up to 64 features that
    /// differ from the background.
    Kernel,
    /// The fall of the output when a patch is covered.
    Occlusion,
}

/// What `occlusion` covers.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Occlusion {
    /// The patch's size along the input's last axes; axes before those are
    /// covered whole. Single elements when absent.
    #[serde(default)]
    pub patch: Vec<u32>,
    /// From one patch to the next along the same axes; the patch's size when
    /// absent.
    #[serde(default)]
    pub stride: Vec<u32>,
    /// What the covered elements are set to.
    #[serde(default)]
    pub fill: f64,
}

impl Config {
    /// Check what the schema cannot say.
    ///
    /// # Errors
    /// [`StageError::BadConfig`].
    pub fn check(&self) -> Result<()> {
        let bad = |why: &str| Err(StageError::bad_config(why));
        let width = self.background.first().map_or(0, Vec::len);
        if self.background.len() > MAX_BACKGROUND_ROWS {
            return bad("`background` has more than 1000 rows");
        }
        if !self.background.is_empty() && width == 0 {
            return bad("`background` has empty rows");
        }
        if self.background.iter().any(|row| row.len() != width) {
            return bad("the rows of `background` are not all as long");
        }
        if self.background.is_empty() && matches!(self.method, Method::Exact | Method::Kernel) {
            return bad("the methods `exact` and `kernel` need a `background`");
        }
        if self.coalitions.is_some_and(|n| n < 2) {
            return bad("`coalitions` must be at least 2");
        }
        let mut grouped: Vec<u32> = self.groups.iter().flatten().copied().collect();
        let count = grouped.len();
        grouped.sort_unstable();
        grouped.dedup();
        if grouped.len() != count {
            return bad("an element is in `groups` twice");
        }
        if self.groups.iter().any(Vec::is_empty) {
            return bad("`groups` has an empty group");
        }
        let Occlusion { patch, stride, fill } = &self.occlusion;
        if !stride.is_empty() && stride.len() != patch.len() {
            return bad("`occlusion` needs a stride for each axis of the patch, or none");
        }
        if patch.contains(&0) || stride.contains(&0) {
            return bad("the patch and stride of `occlusion` must be at least 1");
        }
        if stride.iter().zip(patch).any(|(stride, patch)| stride > patch) {
            return bad(
                "a stride of `occlusion` is longer than the patch, and would skip elements",
            );
        }
        if !fill.is_finite() {
            return bad("`occlusion.fill` is not finite");
        }
        Ok(())
    }

    /// The elements of each feature, of an input of `elements`.
    ///
    /// # Errors
    /// [`StageError::BadConfig`] for a group with an element that the input
    /// does not have.
    pub(crate) fn features(&self, elements: usize) -> Result<Vec<Vec<usize>>> {
        let mut features = Vec::new();
        let mut is_grouped = vec![false; elements];
        for group in &self.groups {
            let group: Vec<usize> = group.iter().map(|&e| e as usize).collect();
            for &e in &group {
                *is_grouped.get_mut(e).ok_or_else(|| {
                    StageError::bad_config(format!(
                        "`groups` names element {e}, the input has {elements}"
                    ))
                })? = true;
            }
            features.push(group);
        }
        features.extend((0..elements).filter(|&e| !is_grouped[e]).map(|e| vec![e]));
        Ok(features)
    }
}
