//! Operators that run graphs of their own.
//!
//! # Source
//! <https://onnx.ai/onnx/operators/onnx__If.html>, `Loop`, `Scan`,
//! `SequenceMap`.

use super::{Call, OpError, OpResult, Run, axis, ops::shape};
use crate::{
    graph::{Node, Slot},
    value::{Array, Value},
};

/// Whether the operator runs a graph of its own.
pub(super) fn is_control(node: &Node) -> bool {
    node.domain.is_empty() && matches!(&*node.op, "If" | "Loop" | "Scan" | "SequenceMap")
}

/// Run it. `outer` gives the values of the graph that the node is in.
pub(super) fn run(call: &Call<'_>, outer: &dyn Fn(Slot) -> Option<Value>) -> OpResult<Vec<Value>> {
    match call.op() {
        "If" => {
            let taken = truth(call.run, call.need(0)?)?;
            let body = call.body(if taken { "then_branch" } else { "else_branch" })?;
            Ok(call.run.graph(body, Vec::new(), outer)?)
        }
        "Loop" => repeat(call, outer),
        "Scan" if call.opset() < 9 => scan_batches(call, outer),
        "Scan" => {
            let inputs: Vec<Value> = call.inputs.iter().flatten().cloned().collect();
            scan(call, inputs, outer)
        }
        _ => map(call, outer),
    }
}

/// A condition, which decides here even where it was made on a device.
fn truth(run: &Run<'_>, condition: &Value) -> OpResult<bool> {
    match run.host(condition)?.array()?.bools()? {
        [value] => Ok(*value != 0),
        other => Err(OpError::invalid(format!("a condition of {} elements", other.len()))),
    }
}

/// `Loop`: at most as many turns as input 0 says, while the condition holds.
fn repeat(call: &Call<'_>, outer: &dyn Fn(Slot) -> Option<Value>) -> OpResult<Vec<Value>> {
    let body = call.body("body")?;
    let trips = call.value(0).map(|v| call.run.host(v)?.array()?.to_i64s()).transpose()?;
    let trips = trips.map(|t| t.first().copied().unwrap_or(0));
    let mut going = call.value(1).map(|v| truth(call.run, v)).transpose()?.unwrap_or(true);
    let mut carried: Vec<Value> =
        call.inputs.iter().skip(2).map(|v| v.clone().unwrap_or(Value::Optional(None))).collect();
    let count = carried.len();
    let mut stacks = Stacks::new(call.run, call.output_count().saturating_sub(count));
    let mut turn = 0i64;
    while going && trips.is_none_or(|trips| turn < trips) {
        let mut fed =
            vec![Value::from(Array::scalar(turn)), Value::from(Array::from_bools(&[], &[going])?)];
        fed.append(&mut carried);
        let mut made = call.run.graph(body, fed, outer)?.into_iter();
        let condition = made.next().ok_or_else(|| OpError::invalid("the body gives nothing"))?;
        going = truth(call.run, &condition)?;
        carried = made.by_ref().take(count).collect();
        stacks.keep(call, made)?;
        turn += 1;
    }
    for values in stacks.take() {
        carried.push(stacked(call.run, values, 0)?);
    }
    Ok(carried)
}

/// `Scan` from operator set 9 on: states, then inputs that are gone through
/// along an axis.
fn scan(
    call: &Call<'_>,
    inputs: Vec<Value>,
    outer: &dyn Fn(Slot) -> Option<Value>,
) -> OpResult<Vec<Value>> {
    let body = call.body("body")?;
    let scanned = usize::try_from(call.int_or("num_scan_inputs", 0)).unwrap_or(0);
    if scanned == 0 || scanned > inputs.len() {
        return Err(OpError::invalid(format!("num_scan_inputs is {scanned}")));
    }
    let mut states = inputs;
    let sources = states.split_off(states.len() - scanned);
    let at = |list: &str, index: usize| {
        call.ints(list).and_then(|values| values.get(index)).copied().unwrap_or(0)
    };
    let directions = if call.opset() < 9 { "directions" } else { "scan_input_directions" };
    let mut axes = Vec::new();
    let mut turns = None;
    for (index, source) in sources.iter().enumerate() {
        let shape = source.shape()?;
        let along = axis(at("scan_input_axes", index), shape.len())?;
        let len = shape[along];
        if *turns.get_or_insert(len) != len {
            return Err(OpError::invalid("inputs of different lengths"));
        }
        axes.push(along);
    }
    let count = states.len();
    let mut stacks = Stacks::new(call.run, call.output_count().saturating_sub(count));
    let turns = turns.unwrap_or(0);
    for turn in 0..turns {
        let mut fed = std::mem::take(&mut states);
        for (index, source) in sources.iter().enumerate() {
            let at = if at(directions, index) == 1 { turns - 1 - turn } else { turn };
            fed.push(call.run.pick(source, axes[index], at)?);
        }
        let mut made = call.run.graph(body, fed, outer)?.into_iter();
        states = made.by_ref().take(count).collect();
        stacks.keep(call, made)?;
    }
    for (index, mut values) in stacks.take().into_iter().enumerate() {
        if at("scan_output_directions", index) == 1 {
            values.reverse();
        }
        states.push(stacked(call.run, values, at("scan_output_axes", index))?);
    }
    Ok(states)
}

/// `Scan` of operator set 8: everything has a batch in front, and input 0 may
/// say how long each sequence is.
fn scan_batches(call: &Call<'_>, outer: &dyn Fn(Slot) -> Option<Value>) -> OpResult<Vec<Value>> {
    if call.value(0).is_some() {
        return Err(OpError::unsupported("sequence_lens"));
    }
    let inputs: Vec<&Value> = call.inputs.iter().skip(1).flatten().collect();
    let batches = match inputs.first() {
        Some(input) => input.shape()?.first().copied().unwrap_or(0),
        None => 0,
    };
    let mut outputs = Stacks::new(call.run, call.output_count());
    for batch in 0..batches {
        let one = inputs
            .iter()
            .map(|input| call.run.pick(input, 0, batch))
            .collect::<OpResult<Vec<_>>>()?;
        outputs.keep(call, scan(call, one, outer)?)?;
    }
    outputs.take().into_iter().map(|values| stacked(call.run, values, 0)).collect()
}

/// `SequenceMap`: the body for each element of the first sequence; others are
/// gone through with it, tensors are given as they are.
fn map(call: &Call<'_>, outer: &dyn Fn(Slot) -> Option<Value>) -> OpResult<Vec<Value>> {
    let body = call.body("body")?;
    let first = call.need(0)?.sequence()?;
    let mut outputs = Stacks::new(call.run, call.output_count());
    for index in 0..first.len() {
        let fed = call
            .inputs
            .iter()
            .flatten()
            .map(|input| match input {
                Value::Sequence(values) => values
                    .get(index)
                    .cloned()
                    .ok_or_else(|| OpError::invalid("sequences of different lengths")),
                other => Ok(other.clone()),
            })
            .collect::<OpResult<Vec<_>>>()?;
        outputs.keep(call, call.run.graph(body, fed, outer)?)?;
    }
    Ok(outputs.take().into_iter().map(Value::Sequence).collect())
}

/// What the turns of a loop gave so far, which is alive while the loop runs.
struct Stacks<'a> {
    run: &'a Run<'a>,
    /// For each output, values and their bytes.
    outputs: Vec<(Vec<Value>, u64)>,
}

impl<'a> Stacks<'a> {
    fn new(run: &'a Run<'a>, outputs: usize) -> Self {
        Self { run, outputs: vec![(Vec::new(), 0); outputs] }
    }

    /// Keep what a turn gave, as far as one value may be made of all turns.
    fn keep(&mut self, call: &Call<'_>, made: impl IntoIterator<Item = Value>) -> OpResult<()> {
        for ((values, bytes), value) in self.outputs.iter_mut().zip(made) {
            // Values of a few bytes take memory too.
            let more = value.size_bytes() + size_of::<Value>() as u64;
            *bytes += more;
            self.run.live_bytes.set(self.run.live_bytes.get().saturating_add(more));
            call.reserve_bytes(*bytes)?;
            self.run.check_live(call.node)?;
            values.push(value);
        }
        Ok(())
    }

    /// What all turns gave.
    fn take(mut self) -> Vec<Vec<Value>> {
        self.outputs.iter_mut().map(|(values, _)| std::mem::take(values)).collect()
    }
}

impl Drop for Stacks<'_> {
    fn drop(&mut self) {
        let bytes = self.outputs.iter().map(|(_, bytes)| bytes).sum();
        self.run.live_bytes.set(self.run.live_bytes.get().saturating_sub(bytes));
    }
}

/// What each turn gave, along a new axis.
fn stacked(run: &Run<'_>, values: Vec<Value>, along: i64) -> OpResult<Value> {
    let Some(first) = values.first() else {
        return Err(OpError::unsupported("no turn was made, so what it gives has no type"));
    };
    let along = axis(along, first.shape()?.len() + 1)?;
    #[cfg(feature = "gpu")]
    if let (Some(lane), Value::Device(_)) = (run.lane, first) {
        return lane.stack(&values, along);
    }
    let values = values.iter().map(|v| run.host(v)).collect::<OpResult<Vec<_>>>()?;
    let arrays = values.iter().map(Value::array).collect::<OpResult<Vec<_>>>()?;
    Ok(shape::stack(&arrays, along)?.into())
}

impl Run<'_> {
    /// The part at `index` of axis `along`, which is gone from the result.
    fn pick(&self, value: &Value, along: usize, index: usize) -> OpResult<Value> {
        #[cfg(feature = "gpu")]
        if let (Some(lane), Value::Device(tensor)) = (self.lane, value) {
            return lane.pick(tensor, along, index);
        }
        shape::pick(value.array()?, along, index).map(Value::from)
    }
}
