//! `model-trees`: an ensemble of decision trees, evaluated by the component
//! itself. `convert.py` beside this crate writes its configuration from a
//! scikit-learn estimator.
//!
//! # Input
//! The only one, or the one that `input` names: f32 of shape `[N, F]`, or
//! `[F]` for one row.
//!
//! # Output
//! `scores` (or `output`): f32 of shape `[N, K]`; K is the number of outputs,
//! and 2 for `logistic` of one output: the probabilities of the negative and
//! of the positive class.

use headland_sdk::{Frame, Model, Result, StageError, Tensor, Tensors};
use schemars::JsonSchema;
use serde::Deserialize;

/// The ensemble. Node 0 of a tree is its root.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Config {
    /// The input that holds the rows.
    pub input: Option<String>,
    /// The name of the output.
    #[serde(default = "default_output")]
    pub output: String,
    /// How many features a row has.
    pub features: u32,
    /// How many numbers the ensemble gives a row, before `transform`.
    #[schemars(range(min = 1))]
    pub outputs: u32,
    /// What each output starts at: one number an output, 0 without.
    #[serde(default)]
    pub base: Vec<f64>,
    /// How the trees' leaves become one.
    pub aggregate: Aggregate,
    /// What is done to the outputs of a row in the end.
    #[serde(default)]
    pub transform: Transform,
    /// The trees.
    #[schemars(length(min = 1))]
    pub trees: Vec<Tree>,
}

fn default_output() -> String {
    "scores".to_owned()
}

/// How the trees' leaves become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Aggregate {
    /// `base + sum(leaves)`: boosting.
    Sum,
    /// `base + sum(leaves) / trees`: bagging.
    Mean,
}

/// What is done to the outputs of a row in the end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Transform {
    /// Nothing.
    #[default]
    None,
    /// `p = 1 / (1 + exp(-x))` of the only output, given as `1 - p, p`.
    Logistic,
    /// `exp(x - max) / sum(exp(x - max))`.
    Softmax,
    /// `2^(-x / average-path-length)`: the anomaly score of an isolation
    /// forest whose leaves hold path lengths (Liu, Ting and Zhou, ICDM 2008).
    Isolation {
        /// The average path length of a tree over the training sample.
        #[serde(rename = "average-path-length")]
        average_path_length: f64,
    },
}

/// One tree, an array a property, an element a node.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Tree {
    /// The feature that a node looks at; -1 for a leaf.
    pub feature: Vec<i32>,
    /// A row goes left when its feature is at most this. Of a leaf: ignored.
    pub threshold: Vec<f64>,
    /// The node for rows that go left, of a greater index. Of a leaf: ignored.
    pub left: Vec<u32>,
    /// The node for rows that go right, of a greater index. Of a leaf:
    /// ignored.
    pub right: Vec<u32>,
    /// Whether a missing feature (NaN) goes left. When empty, a NaN that a
    /// node looks at is refused.
    #[serde(default)]
    pub missing_left: Vec<bool>,
    /// The leaves' values in the order of the nodes: one number an output, or
    /// one number with `output`.
    pub leaves: Vec<f64>,
    /// The one output that the tree adds to; all without.
    pub output: Option<u32>,
}

/// What a row does at a node.
#[derive(Debug, Clone, Copy)]
enum Node {
    Split {
        feature: usize,
        threshold: f64,
        left: usize,
        right: usize,
        missing: Missing,
    },
    /// Where the leaf's values start in the tree's.
    Leaf(usize),
}

#[derive(Debug, Clone, Copy)]
enum Missing {
    Left,
    Right,
    Refused,
}

struct CheckedTree {
    nodes: Vec<Node>,
    leaves: Vec<f64>,
    /// The outputs that a leaf's values are added to.
    outputs: std::ops::Range<usize>,
}

/// The stage: an ensemble whose every walk ends in a leaf.
pub struct Ensemble {
    input: Option<String>,
    output: String,
    features: usize,
    outputs: usize,
    base: Vec<f64>,
    weight: f64,
    transform: Transform,
    trees: Vec<CheckedTree>,
}

impl CheckedTree {
    fn new(tree: &Tree, features: usize, outputs: usize) -> Result<Self, String> {
        let n = tree.feature.len();
        let lengths = [
            ("threshold", tree.threshold.len()),
            ("left", tree.left.len()),
            ("right", tree.right.len()),
        ];
        if let Some((what, len)) = lengths.into_iter().find(|(_, len)| *len != n) {
            return Err(format!("{n} nodes have {len} of {what}"));
        }
        if !tree.missing_left.is_empty() && tree.missing_left.len() != n {
            return Err(format!("{n} nodes have {} of missing-left", tree.missing_left.len()));
        }
        if n == 0 {
            return Err("has no nodes".to_owned());
        }
        let to = match tree.output {
            None => 0..outputs,
            Some(o) if (o as usize) < outputs => o as usize..o as usize + 1,
            Some(o) => return Err(format!("adds to output {o} of {outputs}")),
        };
        let mut leaves = 0;
        let mut nodes = Vec::with_capacity(n);
        for i in 0..n {
            if tree.feature[i] < 0 {
                nodes.push(Node::Leaf(leaves));
                leaves += to.len();
                continue;
            }
            let feature = tree.feature[i] as usize;
            if feature >= features {
                return Err(format!("node {i} looks at feature {feature} of {features}"));
            }
            if tree.threshold[i].is_nan() {
                return Err(format!("node {i} has threshold NaN"));
            }
            // Walks only go up in index, so every one of them ends.
            let child = |c: u32| match c as usize {
                c if c > i && c < n => Ok(c),
                c => Err(format!("node {i} leads to node {c} of {n}, it must lead onwards")),
            };
            let missing = match tree.missing_left.get(i) {
                None => Missing::Refused,
                Some(true) => Missing::Left,
                Some(false) => Missing::Right,
            };
            nodes.push(Node::Split {
                feature,
                threshold: tree.threshold[i],
                left: child(tree.left[i])?,
                right: child(tree.right[i])?,
                missing,
            });
        }
        if tree.leaves.len() != leaves {
            return Err(format!("its leaves need {leaves} values, have {}", tree.leaves.len()));
        }
        if let Some(v) = tree.leaves.iter().find(|v| !v.is_finite()) {
            return Err(format!("a leaf holds {v}"));
        }
        Ok(Self { nodes, leaves: tree.leaves.clone(), outputs: to })
    }

    fn leaf(&self, row: &[f32]) -> Result<&[f64], String> {
        let mut at = 0;
        loop {
            match self.nodes[at] {
                Node::Leaf(start) => return Ok(&self.leaves[start..start + self.outputs.len()]),
                Node::Split { feature, threshold, left, right, missing } => {
                    let x = f64::from(row[feature]);
                    let go_left = match missing {
                        _ if !x.is_nan() => x <= threshold,
                        Missing::Left => true,
                        Missing::Right => false,
                        Missing::Refused => {
                            return Err(format!(
                                "feature {feature} is NaN, which the ensemble does not know"
                            ));
                        }
                    };
                    at = if go_left { left } else { right };
                }
            }
        }
    }
}

impl Ensemble {
    /// The stage, from an ensemble that holds together.
    ///
    /// # Errors
    /// What does not, with the tree's index.
    pub fn from_config(config: Config) -> Result<Self, String> {
        let (features, outputs) = (config.features as usize, config.outputs as usize);
        if outputs == 0 {
            return Err("an ensemble has at least one output".to_owned());
        }
        if config.trees.is_empty() {
            return Err("an ensemble has at least one tree".to_owned());
        }
        if !config.base.is_empty() && config.base.len() != outputs {
            return Err(format!("base has {} numbers for {outputs} outputs", config.base.len()));
        }
        match config.transform {
            Transform::Logistic if outputs != 1 => {
                return Err(format!("logistic needs one output, there are {outputs}"));
            }
            Transform::Isolation { average_path_length: c } if !(c > 0.0 && c.is_finite()) => {
                return Err(format!("average-path-length {c} is not above 0"));
            }
            _ => {}
        }
        let trees: Vec<CheckedTree> = config
            .trees
            .iter()
            .enumerate()
            .map(|(i, t)| {
                CheckedTree::new(t, features, outputs).map_err(|why| format!("tree {i}: {why}"))
            })
            .collect::<Result<_, _>>()?;
        Ok(Self {
            input: config.input,
            output: config.output,
            features,
            outputs,
            base: if config.base.is_empty() { vec![0.0; outputs] } else { config.base },
            weight: match config.aggregate {
                Aggregate::Sum => 1.0,
                Aggregate::Mean => 1.0 / trees.len() as f64,
            },
            transform: config.transform,
            trees,
        })
    }

    /// The scores of one row.
    ///
    /// # Errors
    /// That the row has another number of features, or a NaN where the
    /// ensemble knows none.
    pub fn row(&self, row: &[f32]) -> Result<Vec<f64>, String> {
        if row.len() != self.features {
            return Err(format!("has {} features, the ensemble {}", row.len(), self.features));
        }
        let mut sums = vec![0.0; self.outputs];
        for tree in &self.trees {
            let leaf = tree.leaf(row)?;
            sums[tree.outputs.clone()].iter_mut().zip(leaf).for_each(|(s, l)| *s += l);
        }
        let mut scores: Vec<f64> =
            sums.iter().zip(&self.base).map(|(s, b)| b + s * self.weight).collect();
        match self.transform {
            Transform::None => {}
            Transform::Logistic => {
                let p = 1.0 / (1.0 + (-scores[0]).exp());
                scores = vec![1.0 - p, p];
            }
            Transform::Softmax => {
                let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                scores.iter_mut().for_each(|s| *s = (*s - max).exp());
                let sum: f64 = scores.iter().sum();
                scores.iter_mut().for_each(|s| *s /= sum);
            }
            Transform::Isolation { average_path_length } => {
                scores.iter_mut().for_each(|s| *s = (-*s / average_path_length).exp2());
            }
        }
        Ok(scores)
    }
}

impl Model for Ensemble {
    type Config = Config;

    fn new(config: Config) -> Result<Self> {
        Self::from_config(config).map_err(StageError::BadConfig)
    }

    fn infer(&mut self, _: &Frame, inputs: Tensors) -> Result<Tensors> {
        let input = inputs.get_or_only(self.input.as_deref())?;
        let shape = input.shape();
        if !matches!(shape.len(), 1 | 2) || shape.last() != Some(&(self.features as u32)) {
            let f = self.features;
            return Err(input.refuse(format!("needs shape [N,{f}] or [{f}], is {shape:?}")));
        }
        let rows = input.to_vec::<f32>()?;
        let mut scores = Vec::new();
        let mut count = 0u32;
        for row in rows.chunks_exact(self.features) {
            let row = self.row(row).map_err(|why| input.refuse(why))?;
            scores.extend(row.into_iter().map(|s| s as f32));
            count += 1;
        }
        let columns = if self.transform == Transform::Logistic { 2 } else { self.outputs as u32 };
        Ok(Tensors::new().with(&self.output, Tensor::from_slice(&[count, columns], &scores)?))
    }
}

headland_sdk::export!(Ensemble as model);

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn ensemble(config: Value) -> Result<Ensemble, String> {
        Ensemble::from_config(serde_json::from_value(config).unwrap())
    }

    /// scikit-learn's own predictions, through `convert.py`.
    #[test]
    fn agrees_with_scikit_learn() {
        let cases: Vec<Value> =
            serde_json::from_str(include_str!("../tests/reference.json")).unwrap();
        assert!(cases.len() >= 7);
        for case in cases {
            let ensemble = ensemble(case["config"].clone()).unwrap();
            let rows: Vec<Vec<Option<f32>>> = serde_json::from_value(case["rows"].clone()).unwrap();
            let expected: Vec<Vec<f64>> = serde_json::from_value(case["scores"].clone()).unwrap();
            assert!(rows.len() >= 20);
            for (row, expected) in rows.iter().zip(expected) {
                let row: Vec<f32> = row.iter().map(|x| x.unwrap_or(f32::NAN)).collect();
                let scores = ensemble.row(&row).unwrap();
                assert_eq!(scores.len(), expected.len());
                for (a, b) in scores.iter().zip(&expected) {
                    let name = &case["name"];
                    assert!(
                        (a - b).abs() <= 1e-9 * b.abs().max(1.0),
                        "{name}: {scores:?} is not {expected:?}"
                    );
                }
            }
        }
    }

    fn stump() -> Value {
        json!({"features": 2, "outputs": 1, "aggregate": "sum", "trees": [
            {"feature": [1, -1, -1], "threshold": [0.5, 0, 0], "left": [1, 0, 0],
             "right": [2, 0, 0], "leaves": [10, 20]}]})
    }

    #[test]
    fn equal_to_the_threshold_goes_left() {
        let ensemble = ensemble(stump()).unwrap();
        assert_eq!(ensemble.row(&[9.0, 0.5]).unwrap(), [10.0]);
        assert_eq!(ensemble.row(&[9.0, 0.500_001]).unwrap(), [20.0]);
        assert_eq!(ensemble.row(&[f32::NAN, f32::INFINITY]).unwrap(), [20.0]);
    }

    #[test]
    fn nan_goes_where_the_tree_says_or_is_refused() {
        let refused = ensemble(stump()).unwrap().row(&[0.0, f32::NAN]).unwrap_err();
        assert_eq!(refused, "feature 1 is NaN, which the ensemble does not know");
        for (left, value) in [(true, 10.0), (false, 20.0)] {
            let mut config = stump();
            config["trees"][0]["missing-left"] = json!([left, false, false]);
            assert_eq!(ensemble(config).unwrap().row(&[0.0, f32::NAN]).unwrap(), [value]);
        }
        let short = ensemble(stump()).unwrap().row(&[0.0]).unwrap_err();
        assert_eq!(short, "has 1 features, the ensemble 2");
    }

    /// A tree that loops would never end.
    #[test]
    fn looping_and_escaping_trees_are_refused() {
        for (key, value, why) in [
            ("left", json!([0, 0, 0]), "tree 0: node 0 leads to node 0 of 3, it must lead onwards"),
            (
                "right",
                json!([3, 0, 0]),
                "tree 0: node 0 leads to node 3 of 3, it must lead onwards",
            ),
            ("feature", json!([2, -1, -1]), "tree 0: node 0 looks at feature 2 of 2"),
            ("leaves", json!([1]), "tree 0: its leaves need 2 values, have 1"),
            ("threshold", json!([1]), "tree 0: 3 nodes have 1 of threshold"),
            ("missing-left", json!([true]), "tree 0: 3 nodes have 1 of missing-left"),
            ("output", json!(1), "tree 0: adds to output 1 of 1"),
            ("feature", json!([]), "tree 0: 0 nodes have 3 of threshold"),
        ] {
            let mut config = stump();
            config["trees"][0][key] = value;
            assert_eq!(ensemble(config).err().unwrap(), why);
        }
    }

    #[test]
    fn configurations_that_make_no_sense_are_refused() {
        for (key, value, why) in [
            ("trees", json!([]), "an ensemble has at least one tree"),
            ("outputs", json!(0), "an ensemble has at least one output"),
            ("base", json!([1, 2]), "base has 2 numbers for 1 outputs"),
            (
                "transform",
                json!({"isolation": {"average-path-length": 0}}),
                "average-path-length 0 is not above 0",
            ),
        ] {
            let mut config = stump();
            config[key] = value;
            assert_eq!(ensemble(config).err().unwrap(), why);
        }
        let mut misspelt = stump();
        misspelt["trees"][0]["value"] = json!([]);
        assert!(serde_json::from_value::<Config>(misspelt).is_err());
    }
}
