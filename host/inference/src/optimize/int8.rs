//! Quantises to eight bits, after training.
//!
//! Weights of `Conv`, `Gemm` and `MatMul` become int8 with a scale for each
//! output channel and no zero point; what they read becomes eight bits wide with
//! one scale and zero point for the whole tensor, from the range that is seen on
//! samples; biases become int32 with the product of both scales. The graph says
//! so in `QuantizeLinear` and `DequantizeLinear` (QDQ), and every runtime is free
//! to compute in integers between them.
//!
//! # Source
//! <https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html>,
//! for the form that it takes up.

use std::collections::{HashMap, HashSet};

use tract_onnx::pb::{GraphProto, ModelProto, NodeProto, TensorProto, tensor_proto::DataType};

use super::{
    Note, Samples,
    channels::Channels,
    dead,
    fuse::spread,
    observe::Observer,
    opset,
    surgery::{self, Names, constant, constants, floats, is, set_int},
};
use crate::{
    InferenceError, LoadLimits,
    front::{
        label,
        nodes::{float, given},
    },
};

/// How to quantise.
#[derive(Debug, Clone, Copy)]
pub struct Int8<'a> {
    /// What to see the ranges of values on.
    pub samples: &'a Samples,
    /// Which of the values seen count.
    pub range: Range,
    /// What becomes of the values between nodes.
    pub activations: Activations,
    /// Nodes to leave as they are, by name, or by first output where they have
    /// none.
    pub keep: &'a [String],
}

/// The range that eight bits are spread over.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Range {
    /// From the least to the greatest value seen.
    MinMax,
    /// What holds this share of the values seen, in percent; of the rest, half
    /// is cut off on each side.
    Percentile(f64),
}

/// The element type of quantised values between nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activations {
    /// 0 to 255.
    U8,
    /// -128 to 127.
    I8,
}

/// Weights go from minus this to this: without -128, their range is symmetric.
const WEIGHT_STEPS: f32 = 127.0;
/// Steps between the ends of an activation's range.
const ACTIVATION_STEPS: f32 = 255.0;
/// The least scale: products of two are well above f32's smallest normal number.
const LEAST_SCALE: f32 = 1e-15;
/// A bias takes up to this many steps, half of what int32 has.
const BIAS_STEPS: f32 = (1 << 30) as f32;

/// Quantise a model.
pub(super) fn quantize(
    proto: &mut ModelProto,
    options: &Int8<'_>,
    limits: &LoadLimits,
) -> Result<Vec<Note>, InferenceError> {
    opset::raise(proto)?;
    let Some(graph) = &proto.graph else { return Ok(Vec::new()) };
    let kept: HashSet<&str> = options.keep.iter().map(String::as_str).collect();
    let labels: HashSet<String> = graph.node.iter().map(label).collect();
    if let Some(unknown) = options.keep.iter().find(|name| !labels.contains(*name)) {
        let reason = format!("there is no node {unknown:?} to keep");
        return Err(InferenceError::Failed { reason });
    }
    let (targets, notes) = choose(graph, &kept);
    let mut values: Vec<String> = Vec::new();
    for target in targets.iter().flatten() {
        if !values.contains(&target.input) {
            values.push(target.input.clone());
        }
    }
    let ranges = ranges(proto, values, options, limits)?;
    if let Some(graph) = &mut proto.graph {
        write(graph, &targets, &ranges, options.activations);
        dead::constants(graph);
    }
    Ok(notes)
}

/// A node to quantise.
struct Target {
    /// The value that it reads.
    input: String,
    /// Where its weights are among the constants.
    weights: usize,
    channels: Channels,
}

/// The nodes to quantise, by position, and why others are not.
fn choose(graph: &GraphProto, kept: &HashSet<&str>) -> (Vec<Option<Target>>, Vec<Note>) {
    let constants = constants(graph);
    let mut notes = Vec::new();
    let targets = graph.node.iter().map(|node| {
        if !["Conv", "Gemm", "MatMul"].iter().any(|op| is(node, op)) {
            return None;
        }
        match target(graph, &constants, node) {
            _ if kept.contains(label(node).as_str()) => {
                notes.push(Note::new(node, "kept, as asked"));
                None
            }
            Ok(target) => Some(target),
            Err(reason) => {
                notes.push(Note::new(node, reason));
                None
            }
        }
    });
    (targets.collect(), notes)
}

fn target(
    graph: &GraphProto,
    constants: &HashMap<String, usize>,
    node: &NodeProto,
) -> Result<Target, &'static str> {
    let input = given(&node.input, 0).ok_or("it has no input")?;
    let weights = given(&node.input, 1).and_then(|name| constants.get(name));
    let &weights = weights.ok_or("its weights are no constant")?;
    let tensor = &graph.initializer[weights];
    let values = floats(tensor).ok_or("its weights are not f32")?;
    if !values.iter().all(|v| v.is_finite()) {
        return Err("its weights are not all finite");
    }
    let channels = Channels::of(node, &tensor.dims).ok_or("its weights do not fit it")?;
    if constants.contains_key(input) {
        return Err("all it reads is constant");
    }
    Ok(Target { input: input.to_owned(), weights, channels })
}

/// What one value is quantised by.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Steps {
    scale: f32,
    /// Of u8.
    zero: u8,
}

impl Steps {
    /// Spread over a range, and over nought, which padding and `Relu` need
    /// exactly.
    fn over(low: f32, high: f32) -> Self {
        let (low, high) = (low.min(0.0), high.max(0.0));
        let scale = high / ACTIVATION_STEPS - low / ACTIVATION_STEPS;
        if scale < LEAST_SCALE {
            return Self { scale: 1.0, zero: 0 };
        }
        Self { scale, zero: (-low / scale).round_ties_even().clamp(0.0, ACTIVATION_STEPS) as u8 }
    }
}

/// Names longer than this, in bytes, are not built upon.
const LONG_NAME: usize = 32;

/// Bins of a histogram.
const BINS: usize = 1 << 14;

/// Run the model on the samples to see how far each value goes.
fn ranges(
    proto: &ModelProto,
    names: Vec<String>,
    options: &Int8<'_>,
    limits: &LoadLimits,
) -> Result<HashMap<String, Steps>, InferenceError> {
    let observer = Observer::new(proto, names.clone(), limits)?;
    let mut ends = vec![(f32::INFINITY, f32::NEG_INFINITY); names.len()];
    observer.run(options.samples, &mut |value, elements| {
        let (low, high) = &mut ends[value];
        for &element in elements {
            if !element.is_finite() {
                let reason = format!("value {:?} is {element} on a sample", names[value]);
                return Err(InferenceError::Failed { reason });
            }
            *low = low.min(element);
            *high = high.max(element);
        }
        Ok(())
    })?;
    if let Range::Percentile(share) = options.range {
        if !(share > 0.0 && share <= 100.0) {
            let reason = format!("{share} is no percentile");
            return Err(InferenceError::Failed { reason });
        }
        // A second run of everything, as bins need the ends.
        let mut bins = vec![vec![0u64; BINS]; names.len()];
        observer.run(options.samples, &mut |value, elements| {
            let (low, high) = ends[value];
            let width = (f64::from(high) - f64::from(low)) / BINS as f64;
            for &element in elements {
                let bin = (f64::from(element) - f64::from(low)) / width;
                // Not a number where all elements are the same: the first bin.
                bins[value][(bin as usize).min(BINS - 1)] += 1;
            }
            Ok(())
        })?;
        for (ends, bins) in ends.iter_mut().zip(&bins) {
            *ends = cut(*ends, bins, share / 100.0);
        }
    }
    let steps = |(low, high): (f32, f32)| match low <= high {
        true => Steps::over(low, high),
        // It was always empty, or there was no sample.
        false => Steps::over(0.0, 0.0),
    };
    Ok(names.into_iter().zip(ends.into_iter().map(steps)).collect())
}

/// The ends of what holds `share` of a histogram's counts.
fn cut((low, high): (f32, f32), bins: &[u64], share: f64) -> (f32, f32) {
    let total: u64 = bins.iter().sum();
    let aside = (total as f64 * (1.0 - share) / 2.0).floor() as u64;
    let width = (f64::from(high) - f64::from(low)) / bins.len() as f64;
    // How many whole bins hold no more than what is cut off.
    let beyond = |counts: &mut dyn Iterator<Item = &u64>| {
        let mut seen = 0u64;
        counts
            .take_while(|&&count| {
                seen = seen.saturating_add(count);
                seen <= aside
            })
            .count()
    };
    let (below, above) = (beyond(&mut bins.iter()), beyond(&mut bins.iter().rev()));
    let cut_low = f64::from(low) + below as f64 * width;
    let cut_high = f64::from(high) - above as f64 * width;
    if cut_low < cut_high { (cut_low as f32, cut_high as f32) } else { (low, high) }
}

/// Write the quantised graph.
fn write(
    graph: &mut GraphProto,
    targets: &[Option<Target>],
    ranges: &HashMap<String, Steps>,
    activations: Activations,
) {
    let mut writer = QdqWriter {
        names: Names::of(graph),
        constants: constants(graph),
        activations,
        values: HashMap::new(),
        weights: HashMap::new(),
        nodes: Vec::new(),
        made: Vec::new(),
    };
    let nodes = std::mem::take(&mut graph.node);
    for (mut node, target) in nodes.into_iter().zip(targets) {
        if let Some(target) = target
            && let Some(&steps) = ranges.get(&target.input)
        {
            writer.wrap(graph, &mut node, target, steps);
        }
        writer.nodes.push(node);
    }
    graph.node = writer.nodes;
    graph.initializer.extend(writer.made);
}

struct QdqWriter {
    names: Names,
    constants: HashMap<String, usize>,
    activations: Activations,
    /// The dequantised name of each value that is quantised.
    values: HashMap<String, String>,
    /// Quantised weights, by the constant and the axis of its channels: their
    /// scales, and the dequantised name.
    weights: HashMap<(usize, usize), (Vec<f32>, String)>,
    nodes: Vec<NodeProto>,
    made: Vec<TensorProto>,
}

impl QdqWriter {
    /// Have a node read quantised values, weights and bias.
    fn wrap(&mut self, graph: &GraphProto, node: &mut NodeProto, target: &Target, steps: Steps) {
        let Some(mut weights) = floats(&graph.initializer[target.weights]) else { return };
        let factor = |node: &NodeProto, name| {
            if is(node, "Gemm") { float(node, name).unwrap_or(1.0) } else { 1.0 }
        };
        // The factors of a Gemm go into the numbers that they multiply.
        let (alpha, beta) = (factor(node, "alpha"), factor(node, "beta"));
        weights.iter_mut().for_each(|w| *w *= alpha);
        let channels = &target.channels;
        let bias = given(&node.input, 2).and_then(|name| {
            let tensor = &graph.initializer[*self.constants.get(name)?];
            let bias = spread(&tensor.dims, &floats(tensor)?, 2, 1, channels.count)?;
            let bias: Vec<f32> = bias.into_iter().map(|b| b as f32 * beta).collect();
            bias.iter().all(|b| b.is_finite()).then_some((name.to_owned(), bias))
        });
        let scales =
            weight_scales(&weights, channels, steps, bias.as_ref().map(|b| b.1.as_slice()));
        node.input[0] = self.value(&target.input, steps);
        node.input[1] = self.weights(&graph.initializer[target.weights], &weights, target, &scales);
        node.attribute.retain(|a| a.name != "alpha");
        if let Some((name, bias)) = bias {
            let scales: Vec<f32> = scales.iter().map(|s| s * steps.scale).collect();
            node.input[2] = self.bias(&name, &bias, &scales);
            node.attribute.retain(|a| a.name != "beta");
        }
    }

    /// A new name for what belongs to a value. A long name is not repeated, as
    /// five times that of each value may be more than the weights.
    fn name(&mut self, value: &str, part: &str) -> String {
        let stem = if value.len() <= LONG_NAME { value } else { "int8" };
        self.names.fresh(&format!("{stem}::{part}"))
    }

    /// Quantise and dequantise a value where it is first read.
    fn value(&mut self, name: &str, steps: Steps) -> String {
        if let Some(known) = self.values.get(name) {
            return known.clone();
        }
        let quantised = self.name(name, "q");
        let (scale, zero) = (self.name(name, "scale"), self.name(name, "zero"));
        let back = self.name(name, "dq");
        self.made.push(constant(&scale, DataType::Float, &[], &[steps.scale]));
        self.made.push(match self.activations {
            Activations::U8 => constant(&zero, DataType::Uint8, &[], &[steps.zero]),
            // The same steps, 128 lower.
            Activations::I8 => constant(&zero, DataType::Int8, &[], &[steps.zero ^ 0x80]),
        });
        self.nodes.push(surgery::node("QuantizeLinear", &[name, &scale, &zero], &quantised));
        self.nodes.push(surgery::node("DequantizeLinear", &[&quantised, &scale, &zero], &back));
        self.values.insert(name.to_owned(), back.clone());
        back
    }

    fn weights(
        &mut self,
        tensor: &TensorProto,
        weights: &[f32],
        target: &Target,
        scales: &[f32],
    ) -> String {
        let key = (target.weights, target.channels.axis);
        if let Some((known, name)) = self.weights.get(&key)
            && known == scales
        {
            return name.clone();
        }
        let steps: Vec<i8> = (weights.iter().enumerate())
            .map(|(i, w)| {
                let steps = (w / scales[target.channels.at(i)]).round_ties_even();
                steps.clamp(-WEIGHT_STEPS, WEIGHT_STEPS) as i8
            })
            .collect();
        let quantised = self.name(&tensor.name, "q");
        self.made.push(constant(&quantised, DataType::Int8, &tensor.dims, &steps));
        let zeros = vec![0i8; scales.len()];
        let name =
            self.dequantise(&tensor.name, &quantised, scales, target.channels.axis, &|name| {
                constant(name, DataType::Int8, &[zeros.len() as i64], &zeros)
            });
        self.weights.insert(key, (scales.to_vec(), name.clone()));
        name
    }

    fn bias(&mut self, name: &str, bias: &[f32], scales: &[f32]) -> String {
        let steps: Vec<i32> = (bias.iter().zip(scales))
            .map(|(b, s)| (b / s).round_ties_even().clamp(i32::MIN as f32, i32::MAX as f32) as i32)
            .collect();
        let quantised = self.name(name, "q");
        self.made.push(constant(&quantised, DataType::Int32, &[steps.len() as i64], &steps));
        let zeros = vec![0i32; scales.len()];
        self.dequantise(name, &quantised, scales, 0, &|name| {
            constant(name, DataType::Int32, &[zeros.len() as i64], &zeros)
        })
    }

    /// Dequantise a constant with a scale for each channel.
    fn dequantise(
        &mut self,
        name: &str,
        quantised: &str,
        scales: &[f32],
        axis: usize,
        zeros: &dyn Fn(&str) -> TensorProto,
    ) -> String {
        let (scale, zero) = (self.name(name, "scale"), self.name(name, "zero"));
        let back = self.name(name, "dq");
        self.made.push(constant(&scale, DataType::Float, &[scales.len() as i64], scales));
        self.made.push(zeros(&zero));
        let mut node = surgery::node("DequantizeLinear", &[quantised, &scale, &zero], &back);
        set_int(&mut node, "axis", axis as i64);
        self.nodes.push(node);
        back
    }
}

/// A scale for each channel: the largest weight is the last step, unless the
/// bias, whose scale follows from it, then does not fit.
fn weight_scales(
    weights: &[f32],
    channels: &Channels,
    steps: Steps,
    bias: Option<&[f32]>,
) -> Vec<f32> {
    let mut largest = vec![0f32; channels.count];
    for (i, w) in weights.iter().enumerate() {
        let largest = &mut largest[channels.at(i)];
        *largest = largest.max(w.abs());
    }
    let mut scales: Vec<f32> = largest.into_iter().map(|l| l / WEIGHT_STEPS).collect();
    if let Some(bias) = bias {
        for (scale, bias) in scales.iter_mut().zip(bias) {
            *scale = scale.max(bias.abs() / (steps.scale * BIAS_STEPS));
        }
    }
    scales.iter_mut().for_each(|scale| *scale = scale.max(LEAST_SCALE));
    scales
}
