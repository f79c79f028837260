//! What holds of a graph's values in every run: which are f32, and of how many
//! dimensions they are.
//!
//! Both follow from the inputs and constants by each operator's rule; of an
//! operator without a rule here nothing is known. Claims that a model makes
//! about its intermediate results are not used, as they may be wrong.

use std::collections::{HashMap, HashSet};

use tract_onnx::pb::{
    AttributeProto, GraphProto, NodeProto, TensorProto, ValueInfoProto, tensor_proto::DataType,
    type_proto,
};

use super::surgery::is_onnx;
use crate::front::nodes::{given, int};

const F32: i32 = DataType::Float as i32;

/// What is known of the values of a graph.
pub(super) struct Facts {
    f32s: HashSet<String>,
    ranks: HashMap<String, usize>,
}

impl Facts {
    pub(super) fn of(graph: &GraphProto) -> Self {
        let mut facts = Self { f32s: HashSet::new(), ranks: HashMap::new() };
        for input in &graph.input {
            if let Some((element, rank)) = declared(input) {
                facts.set(&input.name, element == F32, rank);
            }
        }
        let mut shapes: HashMap<&str, &TensorProto> = HashMap::new();
        for tensor in &graph.initializer {
            facts.set(&tensor.name, tensor.data_type == F32, Some(tensor.dims.len()));
            shapes.insert(&tensor.name, tensor);
        }
        for node in &graph.node {
            let rank = facts.rank_after(node, &shapes);
            let is_f32 = facts.gives_f32(node);
            if let Some(output) = given(&node.output, 0) {
                facts.set(output, is_f32, rank);
            }
            if is_onnx(node) && node.op_type == "Split" {
                node.output.iter().skip(1).for_each(|output| facts.set(output, is_f32, rank));
            }
        }
        facts
    }

    /// Whether a value is known to be f32.
    pub(super) fn is_f32(&self, name: &str) -> bool {
        self.f32s.contains(name)
    }

    /// How many dimensions a value has, where that is known.
    pub(super) fn rank(&self, name: &str) -> Option<usize> {
        self.ranks.get(name).copied()
    }

    fn set(&mut self, name: &str, is_f32: bool, rank: Option<usize>) {
        if is_f32 {
            self.f32s.insert(name.to_owned());
        }
        if let Some(rank) = rank {
            self.ranks.insert(name.to_owned(), rank);
        }
    }

    /// Whether a node's first output is known to be f32.
    fn gives_f32(&self, node: &NodeProto) -> bool {
        let input = |index| given(&node.input, index).is_some_and(|name| self.is_f32(name));
        let attribute = |name: &str| node.attribute.iter().find(|a| a.name == name);
        let tensor = |a: &AttributeProto| a.t.as_ref().is_some_and(|t| t.data_type == F32);
        if !is_onnx(node) {
            return false;
        }
        match node.op_type.as_str() {
            "Cast" => int(node, "to") == Some(i64::from(F32)),
            "Constant" => node
                .attribute
                .iter()
                .any(|a| matches!(a.name.as_str(), "value_float" | "value_floats") || tensor(a)),
            "ConstantOfShape" => attribute("value").is_none_or(tensor),
            "Where" => input(1),
            "OneHot" => input(2),
            "DequantizeLinear" => input(1),
            op => gives_its_first(op) && input(0),
        }
    }

    /// The rank of a node's first output, where it is known.
    fn rank_after(&self, node: &NodeProto, known: &HashMap<&str, &TensorProto>) -> Option<usize> {
        let input = |index| given(&node.input, index).and_then(|name| self.rank(name));
        let length = |index| {
            let tensor = known.get(given(&node.input, index)?)?;
            usize::try_from(*tensor.dims.first()?).ok()
        };
        let axes = || {
            let attribute = node.attribute.iter().find(|a| a.name == "axes");
            attribute.map(|a| a.ints.len()).or_else(|| length(1))
        };
        if !is_onnx(node) {
            return None;
        }
        match node.op_type.as_str() {
            "Reshape" => length(1),
            "Flatten" | "Gemm" | "NonZero" => Some(2),
            "Shape" => Some(1),
            "Constant" => node.attribute.iter().find_map(|a| a.t.as_ref()).map(|t| t.dims.len()),
            "Unsqueeze" => Some(input(0)? + axes()?),
            "Squeeze" => input(0)?.checked_sub(axes()?),
            "Gather" => (input(0)? + input(1)?).checked_sub(1),
            "MatMul" => match (input(0)?, input(1)?) {
                (a, b) if a >= 2 && b >= 2 => Some(a.max(b)),
                _ => None,
            },
            "Add" | "Sub" | "Mul" | "Div" | "Pow" | "Max" | "Min" | "Sum" | "Mean" | "Where" => {
                let ranks: Option<Vec<usize>> = (0..node.input.len()).map(input).collect();
                ranks?.into_iter().max()
            }
            op if op.starts_with("Reduce") => {
                (int(node, "keepdims").unwrap_or(1) == 1).then(|| input(0))?
            }
            op if keeps_rank(op) => input(0),
            _ => None,
        }
    }
}

/// The element type and rank that an input declares.
fn declared(value: &ValueInfoProto) -> Option<(i32, Option<usize>)> {
    match value.r#type.as_ref()?.value.as_ref()? {
        type_proto::Value::TensorType(tensor) => {
            Some((tensor.elem_type, tensor.shape.as_ref().map(|s| s.dim.len())))
        }
    }
}

/// Operators of which the first output has as many dimensions as the first
/// input.
fn keeps_rank(op: &str) -> bool {
    is_elementwise(op)
        || matches!(
            op,
            "Conv"
                | "ConvTranspose"
                | "MaxPool"
                | "AveragePool"
                | "GlobalAveragePool"
                | "GlobalMaxPool"
                | "LpPool"
                | "BatchNormalization"
                | "InstanceNormalization"
                | "LayerNormalization"
                | "LpNormalization"
                | "LRN"
                | "Softmax"
                | "LogSoftmax"
                | "Hardmax"
                | "Transpose"
                | "Pad"
                | "Concat"
                | "Slice"
                | "Split"
                | "Tile"
                | "Resize"
                | "Upsample"
                | "DepthToSpace"
                | "SpaceToDepth"
                | "CumSum"
                | "TopK"
                | "QuantizeLinear"
                | "DequantizeLinear"
                | "Cast"
        )
}

/// Operators on each element by itself.
fn is_elementwise(op: &str) -> bool {
    matches!(
        op,
        "Identity"
            | "Dropout"
            | "Relu"
            | "LeakyRelu"
            | "PRelu"
            | "ThresholdedRelu"
            | "Elu"
            | "Selu"
            | "Celu"
            | "Gelu"
            | "Mish"
            | "Clip"
            | "Sigmoid"
            | "HardSigmoid"
            | "HardSwish"
            | "Softplus"
            | "Softsign"
            | "Tanh"
            | "Erf"
            | "Exp"
            | "Log"
            | "Sqrt"
            | "Reciprocal"
            | "Abs"
            | "Neg"
            | "Sign"
            | "Floor"
            | "Ceil"
            | "Round"
            | "Sin"
            | "Cos"
            | "Tan"
            | "Not"
    )
}

/// Operators of which the first output has the element type of the first input.
fn gives_its_first(op: &str) -> bool {
    is_elementwise(op)
        || (keeps_rank(op) && !matches!(op, "Cast" | "QuantizeLinear" | "DequantizeLinear"))
        || op.starts_with("Reduce")
        || matches!(
            op,
            "Add"
                | "Sub"
                | "Mul"
                | "Div"
                | "Pow"
                | "Mod"
                | "Max"
                | "Min"
                | "Sum"
                | "Mean"
                | "Gemm"
                | "MatMul"
                | "Reshape"
                | "Flatten"
                | "Squeeze"
                | "Unsqueeze"
                | "Expand"
                | "Gather"
                | "GatherElements"
                | "GatherND"
                | "ScatterElements"
                | "ScatterND"
                | "Compress"
                | "Einsum"
                | "LSTM"
                | "GRU"
                | "RNN"
                | "Range"
        )
}
