//! How much of a model's weights is next to nothing.

use serde::Serialize;

use super::{
    channels::Channels,
    surgery::{constants, floats},
};
use crate::{InferenceError, LoadLimits, front, front::nodes::given};

/// What of one constant is next to nothing: what pruning could take.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Sparsity {
    /// The constant.
    pub name: String,
    /// Its elements.
    pub elements: usize,
    /// The share of its elements that are nought.
    pub zeros: f64,
    /// The share of its elements below a thousandth of the largest.
    pub small: f64,
    /// Output channels, where it holds a linear operator's weights.
    pub channels: Option<usize>,
    /// Those of a norm below the share of the largest channel's that was asked
    /// for, by index.
    pub weak_channels: Vec<usize>,
}

/// An element is small below this share of the largest.
const SMALL: f32 = 1e-3;

/// Look at every f32 constant of a model's own graph. An output channel is weak
/// when its weights' Euclidean norm is below `share` of the strongest channel's.
///
/// # Errors
/// As [`ModelInfo::from_onnx`](crate::ModelInfo::from_onnx).
pub fn sparsity(
    onnx: &[u8],
    share: f64,
    limits: &LoadLimits,
) -> Result<Vec<Sparsity>, InferenceError> {
    let (proto, _) = front::open(onnx, limits)?;
    let Some(graph) = &proto.graph else { return Ok(Vec::new()) };
    let constants = constants(graph);
    let mut channels: Vec<Option<Channels>> = vec![None; graph.initializer.len()];
    for node in &graph.node {
        if let Some(&index) = given(&node.input, 1).and_then(|name| constants.get(name)) {
            let dims = &graph.initializer[index].dims;
            channels[index] = channels[index].or_else(|| Channels::of(node, dims));
        }
    }
    let of = |(tensor, channels): (&tract_onnx::pb::TensorProto, Option<Channels>)| {
        let values = floats(tensor).filter(|v| !v.is_empty())?;
        let largest = values.iter().fold(0f32, |m, v| m.max(v.abs()));
        let part = |small: &dyn Fn(f32) -> bool| {
            values.iter().filter(|v| small(v.abs())).count() as f64 / values.len() as f64
        };
        Some(Sparsity {
            name: tensor.name.clone(),
            elements: values.len(),
            zeros: part(&|v| v == 0.0),
            small: part(&|v| v < largest * SMALL || v == 0.0),
            channels: channels.map(|c| c.count),
            weak_channels: channels.map_or_else(Vec::new, |c| weak(&values, &c, share)),
        })
    };
    Ok(graph.initializer.iter().zip(channels).filter_map(of).collect())
}

fn weak(values: &[f32], channels: &Channels, share: f64) -> Vec<usize> {
    let mut squares = vec![0f64; channels.count];
    for (i, &v) in values.iter().enumerate() {
        squares[channels.at(i)] += f64::from(v) * f64::from(v);
    }
    let strongest = squares.iter().copied().fold(0.0, f64::max).sqrt();
    let is_weak = |&i: &usize| squares[i].sqrt() < share * strongest || squares[i] == 0.0;
    (0..channels.count).filter(is_weak).collect()
}
