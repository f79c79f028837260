//! What an operator sees of the node that it runs for.

use headland_tensor::MAX_RANK;

use super::{OpError, OpResult, Run};
use crate::{
    graph::{Attribute, Graph, Node},
    value::{Array, Element, Value},
};

/// One execution of a node: its attributes, its inputs, and the run's limits.
pub(crate) struct Call<'a> {
    pub(super) node: &'a Node,
    pub(super) inputs: Vec<Option<Value>>,
    pub(super) run: &'a Run<'a>,
}

impl<'a> Call<'a> {
    /// The same node with other inputs.
    #[cfg(feature = "gpu")]
    pub fn with_inputs(&self, inputs: Vec<Option<Value>>) -> Call<'a> {
        Call { node: self.node, inputs, run: self.run }
    }

    /// The operator, for what serves several.
    pub fn op(&self) -> &str {
        &self.node.op
    }

    /// The operator's domain; empty for ONNX's own.
    pub fn domain(&self) -> &str {
        &self.node.domain
    }

    /// The node's name, or that of its first output.
    pub fn label(&self) -> &str {
        &self.node.label
    }

    /// What tells the node from the others of its model, while that is loaded.
    #[cfg(feature = "gpu")]
    pub fn node_id(&self) -> usize {
        std::ptr::from_ref(self.node).addr()
    }

    /// The inputs as they are; `None` for what is left out.
    #[cfg(feature = "gpu")]
    pub fn inputs(&self) -> &[Option<Value>] {
        &self.inputs
    }

    /// The inputs that are given.
    pub fn values(&self) -> impl Iterator<Item = &Value> {
        self.inputs.iter().flatten()
    }

    /// The version of the operator set that the model imports for the node's
    /// domain.
    pub fn opset(&self) -> i64 {
        self.node.opset
    }

    /// How many inputs the node names, those that are left out included.
    pub fn input_count(&self) -> usize {
        self.inputs.len()
    }

    /// How many outputs the node names, those that nobody wants included.
    pub fn output_count(&self) -> usize {
        self.node.outputs.len()
    }

    /// Whether somebody reads that output.
    pub fn wants(&self, output: usize) -> bool {
        self.node.outputs.get(output).is_some_and(Option::is_some)
    }

    /// An input, if it is given.
    pub fn value(&self, index: usize) -> Option<&Value> {
        self.inputs.get(index)?.as_ref()
    }

    /// An input that the operator needs.
    pub fn need(&self, index: usize) -> OpResult<&Value> {
        self.value(index).ok_or_else(|| OpError::invalid(format!("input {index} is missing")))
    }

    /// A tensor that the operator needs.
    pub fn array(&self, index: usize) -> OpResult<&Array> {
        self.need(index)?.array()
    }

    /// A tensor that may be left out.
    pub fn optional(&self, index: usize) -> OpResult<Option<&Array>> {
        self.value(index).map(Value::array).transpose()
    }

    /// All inputs, each a tensor that is given.
    pub fn arrays(&self) -> OpResult<Vec<&Array>> {
        (0..self.inputs.len()).map(|index| self.array(index)).collect()
    }

    /// An attribute, if the node has it, as `read` understands it. One that it
    /// does not understand counts as left out here, and the node then fails.
    fn attribute<'b, T>(
        &'b self,
        name: &str,
        read: impl FnOnce(&'b Attribute) -> Option<T>,
    ) -> Option<T> {
        let value = read(self.node.attributes.get(name)?);
        if value.is_none() {
            *self.run.misread.borrow_mut() = Some(name.to_owned());
        }
        value
    }

    /// Refuse to go on once the run's deadline has passed: for operators whose
    /// work is out of proportion to their inputs and outputs, from time to time.
    pub fn on_time(&self) -> OpResult<()> {
        match &self.run.deadline {
            Some(deadline) => Ok(deadline.check(format_args!("the end of {:?}", self.label()))?),
            None => Ok(()),
        }
    }

    /// Whether the node has the attribute.
    pub fn has(&self, name: &str) -> bool {
        self.node.attributes.contains_key(name)
    }

    /// An integer attribute, if the node has it.
    pub fn int(&self, name: &str) -> Option<i64> {
        self.attribute(name, |attribute| match attribute {
            Attribute::Int(value) => Some(*value),
            _ => None,
        })
    }

    /// An integer attribute with its default.
    pub fn int_or(&self, name: &str, default: i64) -> i64 {
        self.int(name).unwrap_or(default)
    }

    /// An integer attribute that says yes or no, with its default.
    pub fn flag(&self, name: &str, default: bool) -> bool {
        self.int(name).map_or(default, |value| value != 0)
    }

    /// A float attribute, if the node has it.
    pub fn float(&self, name: &str) -> Option<f32> {
        self.attribute(name, |attribute| match attribute {
            Attribute::Float(value) => Some(*value),
            _ => None,
        })
    }

    /// A float attribute with its default.
    pub fn float_or(&self, name: &str, default: f32) -> f32 {
        self.float(name).unwrap_or(default)
    }

    /// A text attribute, if the node has it and it is UTF-8.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.attribute(name, |attribute| match attribute {
            Attribute::Text(value) => std::str::from_utf8(value).ok(),
            _ => None,
        })
    }

    /// A text attribute with its default.
    pub fn text_or<'b>(&'b self, name: &str, default: &'b str) -> &'b str {
        self.text(name).unwrap_or(default)
    }

    /// A list of integers, if the node has it.
    pub fn ints(&self, name: &str) -> Option<&[i64]> {
        self.attribute(name, |attribute| match attribute {
            Attribute::Ints(values) => Some(values.as_slice()),
            _ => None,
        })
    }

    /// A list of floats, if the node has it.
    pub fn floats(&self, name: &str) -> Option<&[f32]> {
        self.attribute(name, |attribute| match attribute {
            Attribute::Floats(values) => Some(values.as_slice()),
            _ => None,
        })
    }

    /// A list of texts, if the node has it; what is not UTF-8 is replaced.
    pub fn texts(&self, name: &str) -> Option<Vec<String>> {
        self.attribute(name, |attribute| match attribute {
            Attribute::Texts(values) => {
                Some(values.iter().map(|v| String::from_utf8_lossy(v).into_owned()).collect())
            }
            _ => None,
        })
    }

    /// A tensor attribute, if the node has it.
    pub fn tensor(&self, name: &str) -> Option<&Array> {
        self.attribute(name, |attribute| match attribute {
            Attribute::Array(array) => Some(array),
            _ => None,
        })
    }

    /// A graph attribute that the operator needs.
    pub fn body(&self, name: &str) -> OpResult<&Graph> {
        match self.node.attributes.get(name) {
            Some(Attribute::Graph(graph)) => Ok(graph),
            _ => Err(OpError::invalid(format!("attribute {name:?} is missing"))),
        }
    }

    /// Refuse a result of this type and shape that would pass the limit for one
    /// tensor. Every operator whose result may be larger than its inputs says
    /// so here before it allocates.
    pub fn reserve(&self, element: Element, shape: &[usize]) -> OpResult<()> {
        let bytes = shape
            .iter()
            .try_fold(element.size_bytes() as u64, |bytes, &d| bytes.checked_mul(d as u64))
            .unwrap_or(u64::MAX);
        self.reserve_bytes(bytes)
    }

    /// As [`Call::reserve`], for so many bytes.
    pub fn reserve_bytes(&self, bytes: u64) -> OpResult<()> {
        let allowed = self.run.limits.max_tensor_bytes;
        if bytes > allowed {
            let what = format!("max_tensor_bytes: the result of {:?}", self.node.label);
            return Err(crate::InferenceError::over(what, bytes, allowed).into());
        }
        Ok(())
    }
}

/// An axis as an index, where a negative one counts from the last.
pub(crate) fn axis(axis: i64, rank: usize) -> OpResult<usize> {
    let index = if axis < 0 { axis + rank as i64 } else { axis };
    match usize::try_from(index) {
        Ok(index) if index < rank => Ok(index),
        _ => Err(OpError::invalid(format!("axis {axis} of a tensor of rank {rank}"))),
    }
}

/// Refuse more dimensions than a tensor may have.
pub(crate) fn check_rank(rank: usize) -> OpResult<()> {
    if rank > MAX_RANK {
        return Err(OpError::invalid(format!("{rank} dimensions, more than {MAX_RANK}")));
    }
    Ok(())
}

/// Axes as indices, as [`axis`]; each once.
pub(crate) fn axes(axes: &[i64], rank: usize) -> OpResult<Vec<usize>> {
    check_rank(rank)?;
    let mut indices = Vec::new();
    for &a in axes {
        let index = axis(a, rank)?;
        if indices.contains(&index) {
            return Err(OpError::invalid(format!("axis {a} twice")));
        }
        indices.push(index);
    }
    Ok(indices)
}

/// Sizes as indices, none of them negative.
pub(crate) fn sizes(sizes: &[i64]) -> OpResult<Vec<usize>> {
    sizes
        .iter()
        .map(|&s| usize::try_from(s).map_err(|_| OpError::invalid(format!("a size of {s}"))))
        .collect()
}

/// The shape that these shapes broadcast to.
///
/// # Source
/// <https://onnx.ai/onnx/repo-docs/Broadcasting.html>
pub(crate) fn broadcast_shape(shapes: &[&[usize]]) -> OpResult<Vec<usize>> {
    let rank = shapes.iter().map(|s| s.len()).max().unwrap_or(0);
    let mut out = vec![1; rank];
    for shape in shapes {
        for (o, &d) in out[rank - shape.len()..].iter_mut().zip(*shape) {
            match (*o, d) {
                (_, 1) => {}
                (1, d) => *o = d,
                (o, d) if o == d => {}
                _ => {
                    return Err(OpError::invalid(format!("shapes {shapes:?} do not broadcast")));
                }
            }
        }
    }
    Ok(out)
}

/// The shape that `Reshape` asks for: -1 is what is left, and 0 what the tensor
/// has there unless `keep_zero`.
#[cfg(feature = "gpu")]
pub(crate) fn reshaped(shape: &[usize], wanted: &[i64], keep_zero: bool) -> OpResult<Vec<usize>> {
    let mut target = Vec::with_capacity(wanted.len());
    let mut free = None;
    for (index, &size) in wanted.iter().enumerate() {
        target.push(match size {
            -1 if free.replace(index).is_none() => 1,
            0 if !keep_zero => *shape.get(index).ok_or_else(|| {
                OpError::invalid(format!("{wanted:?} keeps a size that {shape:?} has not"))
            })?,
            size => sizes(&[size])?[0],
        });
    }
    let product = |sizes: &[usize]| sizes.iter().try_fold(1usize, |p, &s| p.checked_mul(s));
    let misfit = || OpError::invalid(format!("{shape:?} as {wanted:?}"));
    let (total, rest) = (product(shape).ok_or_else(misfit)?, product(&target).ok_or_else(misfit)?);
    match free {
        Some(_) if rest == 0 || !total.is_multiple_of(rest) => Err(misfit()),
        Some(index) => {
            target[index] = total / rest;
            Ok(target)
        }
        None if rest != total => Err(misfit()),
        None => Ok(target),
    }
}
