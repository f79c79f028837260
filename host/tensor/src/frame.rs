//! What goes through a pipeline: frames in, predictions out.

use serde::{Deserialize, Serialize};

use crate::Tensor;

/// Tensors under the names by which a stage or model knows them, in order.
pub type NamedTensors = Vec<(String, Tensor)>;

/// What the host knows of one frame.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frame {
    /// Unique within one run of a pipeline; rises by one a frame.
    pub id: u64,
    /// When the source captured it, in nanoseconds since the Unix epoch.
    pub captured_at_ns: u64,
    /// The payload's media type, for example `image/png`.
    pub media_type: String,
}

/// One class and how much the model holds with it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClassScore {
    /// The class's index in the model's output.
    pub index: u32,
    /// The class's label; the decimal index when none is known.
    pub label: String,
    /// A probability, or the model's own score.
    pub score: f32,
}

/// One object found in an image; coordinates are fractions of the original
/// image's width and height, origin at the top left.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Detection {
    /// Left edge, 0..=1.
    pub x_min: f32,
    /// Upper edge, 0..=1.
    pub y_min: f32,
    /// Right edge, 0..=1.
    pub x_max: f32,
    /// Lower edge, 0..=1.
    pub y_max: f32,
    /// What it is.
    pub class: ClassScore,
}

/// A number under a name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NamedValue {
    /// The name, for example `anomaly-score`.
    pub name: String,
    /// The value.
    pub value: f64,
}

/// What a pipeline says of one frame. Lists that do not apply are empty.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Prediction {
    /// Classes, the best first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub classes: Vec<ClassScore>,
    /// Objects, the most certain first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub detections: Vec<Detection>,
    /// Named numbers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<NamedValue>,
    /// Whether a threshold was crossed; absent when the stage has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alarm: Option<bool>,
}
