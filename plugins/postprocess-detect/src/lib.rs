//! `postprocess-detect`: boxes and scores to detections.
//!
//! # Inputs
//! `boxes`: `[N,4]` or `[1,N,4]`; `scores`: `[N,C]` or `[1,N,C]`, of any
//! dtype, under the names that the configuration gives them. With `geometry`
//! also what `preprocess-image` says in its `geometry-output`.
//!
//! # Output
//! `detections`, the most certain first, in fractions of the original
//! picture, cut at its edges; what lies outside of it is left out. `alarm`,
//! present when configured.

use headland_sdk::{
    ClassScore, Detection, Frame, Input, Postprocess, Prediction, Result, StageError, Tensors,
};
use schemars::JsonSchema;
use serde::Deserialize;

/// How boxes are read and which are kept.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Config {
    /// The input that holds the boxes.
    #[serde(default = "default_boxes")]
    pub boxes: String,
    /// The input that holds the scores.
    #[serde(default = "default_scores")]
    pub scores: String,
    /// The input that says where the model's picture lies in the original;
    /// without it the model is taken to have seen all of it.
    pub geometry: Option<String>,
    /// What the four numbers of a box are.
    pub format: Format,
    /// The size of the model's picture where boxes are in pixels; fractions
    /// otherwise.
    pub pixels: Option<Pixels>,
    /// The class that stands for nothing, left out.
    pub background: Option<u32>,
    /// The classes' labels in the model's order, background included; without
    /// them a class is called by its index.
    #[serde(default)]
    pub labels: Vec<String>,
    /// Boxes of a lower score are left out.
    #[serde(default = "half")]
    pub min_score: f64,
    /// Of two boxes of one class that overlap more than this (intersection
    /// over union), the one of the lower score is left out.
    #[serde(default = "half")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub max_iou: f64,
    /// How many detections are given at most.
    #[serde(default = "default_max_detections")]
    #[schemars(range(min = 1))]
    pub max_detections: u32,
    /// How many boxes, the best first, are held against each other.
    #[serde(default = "default_max_candidates")]
    #[schemars(range(min = 1, max = 10_000))]
    pub max_candidates: u32,
    /// When a detection raises the alarm.
    pub alarm: Option<Alarm>,
}

fn default_boxes() -> String {
    "boxes".to_owned()
}

fn default_scores() -> String {
    "scores".to_owned()
}

fn half() -> f64 {
    0.5
}

fn default_max_detections() -> u32 {
    100
}

fn default_max_candidates() -> u32 {
    1_000
}

/// Comparing is quadratic in the candidates.
const MAX_CANDIDATES: u32 = 10_000;

/// What the four numbers of a box are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// Left, upper, right, lower edge.
    Xyxy,
    /// Left and upper edge, width, height.
    Xywh,
    /// Middle, width, height.
    Cxcywh,
}

/// A size in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Pixels {
    /// In pixels.
    #[schemars(range(min = 1))]
    pub width: u32,
    /// In pixels.
    #[schemars(range(min = 1))]
    pub height: u32,
}

/// When a detection raises the alarm.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Alarm {
    /// The labels that do; without labels, their indices as text.
    #[schemars(length(min = 1))]
    pub labels: Vec<String>,
    /// From which score on; never below the configuration's `min-score`.
    #[serde(default)]
    pub min_score: f64,
}

/// Where the model's picture lies in the original: an original position is
/// `position * scale + offset`, in fractions, per axis.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Geometry {
    /// `[x, y]`.
    pub scale: [f64; 2],
    /// `[x, y]`.
    pub offset: [f64; 2],
}

impl Geometry {
    /// The model saw all of the original.
    pub const WHOLE: Self = Self { scale: [1.0; 2], offset: [0.0; 2] };
}

/// Left, upper, right, lower edge.
type Edges = [f64; 4];

/// The intersection over the union of two boxes; 0 when both are empty.
pub fn iou(a: Edges, b: Edges) -> f64 {
    let area = |e: Edges| (e[2] - e[0]).max(0.0) * (e[3] - e[1]).max(0.0);
    let both = area([a[0].max(b[0]), a[1].max(b[1]), a[2].min(b[2]), a[3].min(b[3])]);
    let union = area(a) + area(b) - both;
    if union > 0.0 { both / union } else { 0.0 }
}

impl Config {
    /// That the configuration makes sense.
    ///
    /// # Errors
    /// What does not.
    pub fn check(&self) -> Result<(), String> {
        if !(0.0..=1.0).contains(&self.max_iou) {
            return Err(format!("max-iou {} is not within 0..=1", self.max_iou));
        }
        if !self.min_score.is_finite() {
            return Err(format!("min-score {} is no score", self.min_score));
        }
        if self.max_detections == 0 {
            return Err("max-detections 0 leaves none".to_owned());
        }
        if !(1..=MAX_CANDIDATES).contains(&self.max_candidates) {
            return Err(format!("max-candidates is 1..={MAX_CANDIDATES}"));
        }
        if let Some(Pixels { width, height }) = self.pixels
            && (width == 0 || height == 0)
        {
            return Err(format!("a picture of {width}x{height} pixels is empty"));
        }
        if let Some(alarm) = &self.alarm
            && !self.labels.is_empty()
            && let Some(l) = alarm.labels.iter().find(|l| !self.labels.contains(l))
        {
            return Err(format!("the alarm's label `{l}` is none of the model's"));
        }
        Ok(())
    }

    /// The detections of `boxes` (`[N,4]`) and `scores` (`[N,classes]`), both
    /// row-major, and whether they raise the alarm.
    ///
    /// # Errors
    /// What is wrong: lengths that do not fit, a number that is not finite,
    /// or a class count other than the labels'.
    pub fn detect(
        &self,
        boxes: &[f64],
        scores: &[f64],
        classes: usize,
        geometry: Geometry,
    ) -> Result<(Vec<Detection>, Option<bool>), String> {
        if !self.labels.is_empty() && self.labels.len() != classes {
            return Err(format!("{classes} classes, but {} labels", self.labels.len()));
        }
        if !boxes.len().is_multiple_of(4) || boxes.len() / 4 * classes != scores.len() {
            return Err(format!(
                "{} box numbers and {} scores of {classes} classes do not fit",
                boxes.len(),
                scores.len()
            ));
        }
        for (what, numbers) in [("box", boxes), ("score", scores)] {
            if let Some(i) = numbers.iter().position(|n| !n.is_finite()) {
                return Err(format!("{what} number {i} is {}", numbers[i]));
            }
        }
        let kept = self.suppress(boxes, self.candidates(scores, classes));
        let detections: Vec<Detection> = kept
            .into_iter()
            .filter_map(|(edges, class, score)| self.detection(edges, class, score, geometry))
            .take(self.max_detections as usize)
            .collect();
        let alarm = self.alarm.as_ref().map(|a| {
            let raises = |d: &Detection| {
                f64::from(d.class.score) >= a.min_score && a.labels.contains(&d.class.label)
            };
            detections.iter().any(raises)
        });
        Ok((detections, alarm))
    }

    /// Box, class and score, the best first; ties by box, then by class.
    fn candidates(&self, scores: &[f64], classes: usize) -> Vec<(usize, usize, f64)> {
        let background = self.background.map(|b| b as usize);
        let mut candidates: Vec<(usize, usize, f64)> = scores
            .iter()
            .enumerate()
            .filter(|(_, s)| **s >= self.min_score)
            .map(|(i, &s)| (i / classes, i % classes, s))
            .filter(|&(_, class, _)| Some(class) != background)
            .collect();
        candidates.sort_by(|a, b| b.2.total_cmp(&a.2).then((a.0, a.1).cmp(&(b.0, b.1))));
        candidates.truncate(self.max_candidates as usize);
        candidates
    }

    /// Greedy non-maximum suppression within each class.
    fn suppress(
        &self,
        boxes: &[f64],
        candidates: Vec<(usize, usize, f64)>,
    ) -> Vec<(Edges, usize, f64)> {
        let mut kept: Vec<(Edges, usize, f64)> = Vec::new();
        for (i, class, score) in candidates {
            let edges = self.edges(&boxes[i * 4..i * 4 + 4]);
            let hidden = |&(other, c, _): &(Edges, usize, f64)| {
                c == class && iou(edges, other) > self.max_iou
            };
            if !kept.iter().any(hidden) {
                kept.push((edges, class, score));
            }
        }
        kept
    }

    /// The edges in fractions of the model's picture.
    fn edges(&self, numbers: &[f64]) -> Edges {
        let [a, b, c, d] = [numbers[0], numbers[1], numbers[2], numbers[3]];
        let [x0, y0, x1, y1] = match self.format {
            Format::Xyxy => [a, b, c, d],
            Format::Xywh => [a, b, a + c, b + d],
            Format::Cxcywh => [a - c / 2.0, b - d / 2.0, a + c / 2.0, b + d / 2.0],
        };
        let (w, h) = self.pixels.map_or((1.0, 1.0), |p| (p.width.into(), p.height.into()));
        [x0 / w, y0 / h, x1 / w, y1 / h]
    }

    /// What is left of a box within the original picture.
    fn detection(
        &self,
        edges: Edges,
        class: usize,
        score: f64,
        geometry: Geometry,
    ) -> Option<Detection> {
        let Geometry { scale, offset } = geometry;
        let at = |axis: usize, v: f64| (v * scale[axis] + offset[axis]).clamp(0.0, 1.0) as f32;
        let (x_min, y_min) = (at(0, edges[0]), at(1, edges[1]));
        let (x_max, y_max) = (at(0, edges[2]), at(1, edges[3]));
        let label = self.labels.get(class).cloned().unwrap_or_else(|| class.to_string());
        let class = ClassScore { index: class as u32, label, score: score as f32 };
        (x_min < x_max && y_min < y_max).then_some(Detection { x_min, y_min, x_max, y_max, class })
    }
}

/// The stage.
pub struct Detect {
    config: Config,
}

impl Postprocess for Detect {
    type Config = Config;

    fn new(config: Config) -> Result<Self> {
        config.check().map_err(StageError::BadConfig)?;
        Ok(Self { config })
    }

    fn postprocess(&mut self, _: &Frame, inputs: Tensors) -> Result<Prediction> {
        let boxes = inputs.get(&self.config.boxes)?;
        let scores = inputs.get(&self.config.scores)?;
        if rows(&boxes)?[1] != 4 {
            return Err(boxes.refuse(format!("needs 4 numbers a box, is {:?}", boxes.shape())));
        }
        let classes = rows(&scores)?[1] as usize;
        let geometry = match &self.config.geometry {
            None => Geometry::WHOLE,
            Some(name) => {
                let input = inputs.get(name)?;
                match input.to_f64()?.as_slice() {
                    &[sx, sy, ox, oy] => Geometry { scale: [sx, sy], offset: [ox, oy] },
                    other => {
                        return Err(input.refuse(format!("needs 4 numbers, has {}", other.len())));
                    }
                }
            }
        };
        let (detections, alarm) = self
            .config
            .detect(&boxes.to_f64()?, &scores.to_f64()?, classes, geometry)
            .map_err(StageError::BadInput)?;
        Ok(Prediction { detections, alarm, ..Prediction::default() })
    }
}

/// The shape `[N, numbers a row]` of one frame's rows.
fn rows(input: &Input<'_>) -> Result<[u32; 2]> {
    match *input.shape().as_slice() {
        [n, c] | [1, n, c] if c > 0 => Ok([n, c]),
        ref shape => Err(input.refuse(format!("needs shape [N,C] or [1,N,C], is {shape:?}"))),
    }
}

headland_sdk::export!(Detect as postprocess);

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn config(json: &str) -> Config {
        let config: Config = serde_json::from_str(json).unwrap();
        config.check().unwrap();
        config
    }

    fn numbers(value: &Value) -> Vec<f64> {
        serde_json::from_value(value.clone()).unwrap()
    }

    /// ONNX Runtime's NonMaxSuppression keeps the same boxes.
    #[test]
    fn suppression_agrees_with_onnx_runtime() {
        let reference: Value =
            serde_json::from_str(include_str!("../tests/reference.json")).unwrap();
        let boxes = numbers(&reference["boxes"]);
        let scores = numbers(&reference["scores"]);
        for case in reference["cases"].as_array().unwrap() {
            let config = config(&format!(
                r#"{{"format": "xyxy", "min-score": {}, "max-iou": {}}}"#,
                case["min-score"], case["max-iou"]
            ));
            let (detections, _) = config.detect(&boxes, &scores, 3, Geometry::WHOLE).unwrap();
            let mut kept: Vec<(u32, Vec<f32>)> = detections
                .iter()
                .map(|d| (d.class.index, vec![d.x_min, d.y_min, d.x_max, d.y_max]))
                .collect();
            let expected: Vec<(u32, usize)> = serde_json::from_value(case["kept"].clone()).unwrap();
            let mut expected: Vec<(u32, Vec<f32>)> = expected
                .into_iter()
                .map(|(class, i)| {
                    (class, boxes[i * 4..i * 4 + 4].iter().map(|&v| v as f32).collect())
                })
                .collect();
            kept.sort_by(|a, b| a.partial_cmp(b).unwrap());
            expected.sort_by(|a, b| a.partial_cmp(b).unwrap());
            assert!(expected.len() > 3 && expected.len() < 90);
            assert_eq!(kept, expected);
        }
    }

    #[test]
    fn formats_and_pixels_mean_the_same_box() {
        for (format, numbers) in [
            ("xyxy", [10.0, 40.0, 30.0, 80.0]),
            ("xywh", [10.0, 40.0, 20.0, 40.0]),
            ("cxcywh", [20.0, 60.0, 20.0, 40.0]),
        ] {
            let c = config(&format!(
                r#"{{"format": "{format}", "pixels": {{"width": 100, "height": 200}}}}"#
            ));
            let (found, _) = c.detect(&numbers, &[0.9], 1, Geometry::WHOLE).unwrap();
            let d = &found[0];
            assert_eq!([d.x_min, d.y_min, d.x_max, d.y_max], [0.1, 0.2, 0.3, 0.4], "{format}");
        }
    }

    #[test]
    fn geometry_undoes_a_letterbox_and_cuts_at_the_edges() {
        // A picture twice as wide as high, in the middle of a square.
        let geometry = Geometry { scale: [1.0, 2.0], offset: [0.0, -0.5] };
        let c = config(r#"{"format": "xyxy"}"#);
        let boxes = [0.25, 0.25, 0.5, 0.5, 0.5, 0.1, 2.0, 0.5, 0.0, 0.0, 1.0, 0.2];
        let (found, _) = c.detect(&boxes, &[0.9, 0.8, 0.7], 1, geometry).unwrap();
        let edges: Vec<_> = found.iter().map(|d| [d.x_min, d.y_min, d.x_max, d.y_max]).collect();
        assert_eq!(edges, [[0.25, 0.0, 0.5, 0.5], [0.5, 0.0, 1.0, 0.5]]);
    }

    #[test]
    fn background_is_left_out_and_labels_raise_the_alarm() {
        let c = config(
            r#"{"format": "xyxy", "background": 0, "labels": ["nothing", "crack", "dent"],
                "alarm": {"labels": ["crack"], "min-score": 0.7}}"#,
        );
        let boxes = [0.0, 0.0, 0.5, 0.5];
        let (found, alarm) = c.detect(&boxes, &[0.99, 0.6, 0.8], 3, Geometry::WHOLE).unwrap();
        let labels: Vec<&str> = found.iter().map(|d| d.class.label.as_str()).collect();
        assert_eq!((labels, alarm), (vec!["dent", "crack"], Some(false)));
        let (_, alarm) = c.detect(&boxes, &[0.0, 0.75, 0.8], 3, Geometry::WHOLE).unwrap();
        assert_eq!(alarm, Some(true));
    }

    #[test]
    fn limits_hold() {
        let boxes: Vec<f64> = (0..50)
            .flat_map(|i| [f64::from(i) / 50.0, 0.0, f64::from(i + 1) / 50.0, 1.0])
            .collect();
        let scores: Vec<f64> = (0..50).map(|i| 0.5 + f64::from(i) / 100.0).collect();
        let few = config(r#"{"format": "xyxy", "max-detections": 3}"#);
        let (found, _) = few.detect(&boxes, &scores, 1, Geometry::WHOLE).unwrap();
        assert_eq!(found.iter().map(|d| d.class.score).collect::<Vec<_>>(), [0.99, 0.98, 0.97]);
        let candidates = config(r#"{"format": "xyxy", "max-candidates": 7}"#);
        assert_eq!(candidates.detect(&boxes, &scores, 1, Geometry::WHOLE).unwrap().0.len(), 7);
    }

    #[test]
    fn inputs_that_do_not_fit_are_refused() {
        let c = config(r#"{"format": "xyxy", "labels": ["a"]}"#);
        let refused = |boxes: &[f64], scores: &[f64], classes| {
            c.detect(boxes, scores, classes, Geometry::WHOLE).unwrap_err()
        };
        assert_eq!(refused(&[0.0; 4], &[f64::NAN], 1), "score number 0 is NaN");
        assert_eq!(refused(&[0.0, 0.0, f64::INFINITY, 0.0], &[1.0], 1), "box number 2 is inf");
        assert_eq!(refused(&[0.0; 4], &[0.5, 0.5], 2), "2 classes, but 1 labels");
        assert!(refused(&[0.0; 4], &[0.5, 0.5], 1).ends_with("do not fit"));
        assert_eq!(c.detect(&[], &[], 1, Geometry::WHOLE).unwrap().0, []);
    }

    #[test]
    fn configurations_that_make_no_sense_are_refused() {
        for (json, why) in [
            (r#"{"format": "xyxy", "max-iou": 1.5}"#, "max-iou 1.5 is not within 0..=1"),
            (r#"{"format": "xyxy", "max-detections": 0}"#, "max-detections 0 leaves none"),
            (r#"{"format": "xyxy", "max-candidates": 20000}"#, "max-candidates is 1..=10000"),
            (
                r#"{"format": "xyxy", "labels": ["a"], "alarm": {"labels": ["b"]}}"#,
                "the alarm's label `b` is none of the model's",
            ),
        ] {
            let config: Config = serde_json::from_str(json).unwrap();
            assert_eq!(config.check().unwrap_err(), why);
        }
        assert!(serde_json::from_str::<Config>(r#"{"format": "xyxy", "iou": 1}"#).is_err());
    }
}
