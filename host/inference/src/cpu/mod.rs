//! The CPU executor: tract behind our own checks, and the interpreter for what
//! tract does not plan.
//!
//! tract reports what it cannot do as an error, but on some models it panics.
//! Every call into it goes through [`contained`], so that a model can take
//! neither the host nor another model with it.

mod branch;
mod deadline;
mod gemm;
mod minus;
mod plan;
mod quantize;
mod registers;
mod tensor;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use headland_tensor::{MAX_RANK, NamedTensors, Tensor};
use tract_onnx::{
    Onnx,
    pb::{AttributeProto, GraphProto, ModelProto, NodeProto},
    tract_hir::internal::{InferenceModel, TractError},
};

use crate::{
    Dimension, Engine, Executor, InferenceError, Interpreted, LoadLimits, Model, ModelInfo,
    deadline::Deadline, front, interpreter::panic_message,
};
use plan::{Fold, Plan};

/// The longest model that is kept in case that a run of its plan fails, in
/// bytes.
const MAX_KEPT: usize = 1 << 20;

/// The most nodes that tract gets to plan: its time for them grows faster than
/// their number.
const MAX_NODES: u64 = 20_000;

/// The most outputs of one node that tract gets to plan.
const MAX_OUTPUTS: usize = 1_000;

/// Runs models on the CPU, with tract.
#[derive(Debug, Clone, Copy, Default)]
pub struct CpuExecutor;

impl Executor for CpuExecutor {
    fn name(&self) -> &'static str {
        "cpu"
    }

    fn load(&self, onnx: &[u8], limits: &LoadLimits) -> Result<Arc<dyn Model>, InferenceError> {
        let (mut proto, info) = front::open(onnx, limits)?;
        front::rewrite(&mut proto);
        let nodes = info.operators.values().sum::<u64>();
        let taken = info
            .inputs
            .iter()
            .chain(&info.outputs)
            .try_for_each(tensor::check_dtype)
            .and_then(|()| check_length(nodes));
        let refused = match taken.and_then(|()| TractModel::new(&proto, &info, limits)) {
            Ok(model) => {
                // What has a plan for its only shapes needs nothing else, but
                // where a run of it fails, the interpreter knows better why.
                let keep = !model.is_planned() || onnx.len() <= MAX_KEPT;
                let bytes = keep.then(|| onnx.into());
                let fallback = Mutex::new(Fallback::Unused(bytes));
                let model = CpuModel { info, tract: Some(model), fallback, limits: *limits };
                return Ok(Arc::new(model));
            }
            Err(e @ (InferenceError::Unsupported { .. } | InferenceError::Failed { .. })) => e,
            Err(e) => return Err(e),
        };
        let fallback = match Interpreted::new(onnx, &proto, limits) {
            Ok(model) => Fallback::Used(Arc::new(model)),
            Err(InferenceError::Unsupported { op, node, reason }) => {
                let reason = format!("{reason}; tract: {refused}");
                return Err(InferenceError::Unsupported { op, node, reason });
            }
            Err(e) => return Err(e),
        };
        Ok(Arc::new(CpuModel {
            info,
            tract: None,
            fallback: Mutex::new(fallback),
            limits: *limits,
        }))
    }
}

/// A model on the CPU: tract runs it, or the interpreter where tract does not
/// plan it.
struct CpuModel {
    info: ModelInfo,
    tract: Option<TractModel>,
    fallback: Mutex<Fallback>,
    limits: LoadLimits,
}

/// The interpreter, for shapes and values that tract turns out not to plan.
enum Fallback {
    /// Not needed so far; the model's bytes, where it may come to be.
    Unused(Option<Box<[u8]>>),
    /// Every run goes there.
    Used(Arc<Interpreted>),
}

impl Model for CpuModel {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn engine(&self) -> Engine {
        Engine::host(match &*self.fallback() {
            Fallback::Unused(_) => "cpu, by tract",
            Fallback::Used(_) => "cpu, by the interpreter",
        })
    }

    fn run_until(
        &self,
        inputs: &[(String, Tensor)],
        deadline: Option<Instant>,
    ) -> Result<NamedTensors, InferenceError> {
        let deadline = deadline.map(Deadline::new);
        let inputs = self.info.bind(inputs)?;
        for (tensor, info) in inputs.iter().zip(&self.info.inputs) {
            let len_bytes = tensor.bytes().len() as u64;
            if len_bytes > self.limits.max_tensor_bytes {
                let what = format!("max_tensor_bytes: input {:?}", info.name);
                return Err(InferenceError::over(what, len_bytes, self.limits.max_tensor_bytes));
            }
        }
        let interpreted = match &*self.fallback() {
            Fallback::Used(model) => Some(Arc::clone(model)),
            Fallback::Unused(_) => None,
        };
        match (&self.tract, interpreted) {
            (_, Some(model)) => self.interpret(&model, &inputs, deadline),
            (Some(tract), None) => match tract.run(&self.info, &inputs, deadline) {
                Err(
                    refused @ (InferenceError::Unsupported { .. } | InferenceError::Failed { .. }),
                ) => {
                    let Some(model) = self.fall_back()? else { return Err(refused) };
                    let outputs = self.interpret(&model, &inputs, deadline)?;
                    *self.fallback() = Fallback::Used(model);
                    Ok(outputs)
                }
                outcome => outcome,
            },
            (None, None) => Err(InferenceError::Failed { reason: "nothing runs it".to_owned() }),
        }
    }
}

impl CpuModel {
    fn fallback(&self) -> MutexGuard<'_, Fallback> {
        self.fallback.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The model for the interpreter, where its bytes were kept.
    fn fall_back(&self) -> Result<Option<Arc<Interpreted>>, InferenceError> {
        match &*self.fallback() {
            Fallback::Used(model) => Ok(Some(Arc::clone(model))),
            Fallback::Unused(Some(onnx)) => {
                Interpreted::load(onnx, &self.limits).map(|model| Some(Arc::new(model)))
            }
            Fallback::Unused(None) => Ok(None),
        }
    }

    fn interpret(
        &self,
        model: &Interpreted,
        inputs: &[Tensor],
        deadline: Option<Deadline>,
    ) -> Result<NamedTensors, InferenceError> {
        contained("running", || model.run_tensors(&self.info, inputs, deadline))?
    }
}

/// A model that tract has parsed. Plans are made for the shapes that come.
struct TractModel {
    graph: InferenceModel,
    limits: LoadLimits,
    plans: Mutex<Plans>,
}

struct Plans {
    /// The least folding that has been enough so far.
    fold: Fold,
    /// The plans last used, the latest last.
    recent: Vec<Arc<Plan>>,
}

impl TractModel {
    fn new(
        proto: &ModelProto,
        info: &ModelInfo,
        limits: &LoadLimits,
    ) -> Result<Self, InferenceError> {
        let mut tract = tract_onnx::onnx().with_ignore_value_info(true);
        tract.op_register.insert("If", branch::build);
        tract.op_register.insert("Gemm", gemm::build);
        tract.op_register.insert("QuantizeLinear", quantize::build);
        tract.op_register.insert("Sub", minus::build);
        // It has an exception of its own for a vector without length, for which
        // ONNX's formula gives NaN.
        tract.op_register.0.remove("LpNormalization");
        check_operators(proto, &tract)?;
        let parsed = contained("reading the graph", || tract.parse(proto, None))?
            .map_err(|e| InferenceError::unsupported("graph", "", chain(&e)))?;
        if let Some(name) = parsed.unresolved_inputs.first() {
            return Err(InferenceError::malformed(format!("nothing gives {name:?}")));
        }
        let model = Self {
            graph: parsed.model,
            limits: *limits,
            plans: Mutex::new(Plans { fold: Fold::Nothing, recent: Vec::new() }),
        };
        model.plan_ahead(info)?;
        Ok(model)
    }

    /// Whether it has been planned for the only shapes that it takes.
    fn is_planned(&self) -> bool {
        !self.lock().recent.is_empty()
    }

    fn run(
        &self,
        info: &ModelInfo,
        inputs: &[Tensor],
        deadline: Option<Deadline>,
    ) -> Result<NamedTensors, InferenceError> {
        let start = match self.recent(inputs) {
            Ok(plan) => match plan.run(inputs, &info.outputs, deadline) {
                Err(InferenceError::Failed { .. }) => self.lock().fold,
                outcome => return outcome,
            },
            Err(fold) => fold,
        };
        self.plan_and_run(info, inputs, start, deadline)
    }

    /// Make the plan of a model whose inputs all have fixed shapes, so that
    /// what cannot run is refused when it is loaded.
    fn plan_ahead(&self, info: &ModelInfo) -> Result<(), InferenceError> {
        let mut shapes = Vec::new();
        for input in &info.inputs {
            let dims = input.shape.iter().map(|d| match d {
                Dimension::Fixed(size) => Some(*size),
                Dimension::Symbolic(_) => None,
            });
            match dims.collect::<Option<Vec<u32>>>() {
                Some(dims) => shapes.push(headland_tensor::Shape::new(dims)?),
                None => return Ok(()),
            }
        }
        match Plan::of_shapes(&self.graph, &info.inputs, &shapes, &self.limits) {
            Ok(plan) => {
                self.keep(Arc::new(plan), Fold::Nothing);
                Ok(())
            }
            // Values of the inputs may yet make the difference.
            Err(InferenceError::Unsupported { .. }) if !info.inputs.is_empty() => Ok(()),
            Err(e) => Err(e),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Plans> {
        self.plans.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A recent plan that serves these inputs, or else the folding to start
    /// planning with.
    fn recent(&self, inputs: &[Tensor]) -> Result<Arc<Plan>, Fold> {
        let mut plans = self.lock();
        let index = plans.recent.iter().rposition(|p| p.serves(inputs)).ok_or(plans.fold)?;
        let plan = plans.recent.remove(index);
        plans.recent.push(Arc::clone(&plan));
        Ok(plan)
    }

    /// Plan with as little folding as will do, and run. Some graphs show only
    /// when they run that they need a value, so a failed run folds more too.
    fn plan_and_run(
        &self,
        info: &ModelInfo,
        inputs: &[Tensor],
        start: Fold,
        deadline: Option<Deadline>,
    ) -> Result<NamedTensors, InferenceError> {
        let mut refusal = InferenceError::unsupported("graph", "", "no plan");
        for fold in Fold::ALL.into_iter().filter(|f| *f >= start) {
            // The step that was enough before may add nothing to its
            // predecessor for these inputs.
            let Some(folded) =
                fold.of(inputs).or_else(|| (fold == start).then(|| fold.up_to(inputs)))
            else {
                continue;
            };
            if let Some(deadline) = &deadline {
                deadline.check("planning")?;
            }
            // Planning takes long, and so holds no lock.
            let outcome = Plan::new(&self.graph, &info.inputs, inputs, &folded, &self.limits)
                .and_then(|plan| match plan.run(inputs, &info.outputs, deadline) {
                    // As far as it got, the plan has served; without it the
                    // next run would spend its time on planning again.
                    outcome @ (Ok(_) | Err(InferenceError::DeadlineExceeded { .. })) => {
                        self.keep(Arc::new(plan), fold);
                        outcome
                    }
                    failed => failed,
                });
            match outcome {
                Err(
                    e @ (InferenceError::OverLimit { .. }
                    | InferenceError::DeadlineExceeded { .. }
                    | InferenceError::Malformed { .. }),
                ) => return Err(e),
                Err(e) => refusal = e,
                outputs => return outputs,
            }
        }
        Err(refusal)
    }

    fn keep(&self, plan: Arc<Plan>, fold: Fold) {
        let mut plans = self.lock();
        plans.fold = plans.fold.max(fold);
        if plans.recent.len() >= self.limits.max_plans.max(1) {
            plans.recent.remove(0);
        }
        plans.recent.push(plan);
    }
}

/// Refuse more nodes than tract plans in a time to wait for.
fn check_length(nodes: u64) -> Result<(), InferenceError> {
    if nodes > MAX_NODES {
        let reason = format!("{nodes} nodes, more than the {MAX_NODES} that tract plans");
        return Err(InferenceError::unsupported("graph", "", reason));
    }
    Ok(())
}

/// Refuse the first operator that tract has not, by name.
fn check_operators(proto: &ModelProto, tract: &Onnx) -> Result<(), InferenceError> {
    fn check(graph: &GraphProto, tract: &Onnx) -> Result<(), InferenceError> {
        for node in &graph.node {
            // tract reads some operators of other domains, not all of them as
            // ONNX Runtime does; the interpreter has them all.
            let own = matches!(&*node.domain, "" | "ai.onnx");
            if !own || !tract.op_register.0.contains_key(&node.op_type) {
                let reason = if own {
                    "tract does not have this operator".to_owned()
                } else {
                    format!("tract is not asked for operators of {}", node.domain)
                };
                return Err(InferenceError::unsupported(&node.op_type, front::label(node), reason));
            }
            if node.output.len() > MAX_OUTPUTS {
                let reason = format!("{} outputs", node.output.len());
                return Err(InferenceError::unsupported(&node.op_type, front::label(node), reason));
            }
            check_attributes(node)?;
            for attribute in &node.attribute {
                attribute.g.iter().chain(&attribute.graphs).try_for_each(|g| check(g, tract))?;
            }
        }
        Ok(())
    }
    proto.graph.as_ref().map_or(Ok(()), |graph| check(graph, tract))
}

/// Refuse attributes that tract does not come to an end with, or takes for
/// something else: a `perm` that is no permutation, and sizes, pads and axes
/// beyond all bounds. The interpreter judges them.
fn check_attributes(node: &NodeProto) -> Result<(), InferenceError> {
    const BOUND: i64 = 1 << 20;
    const LISTS: [&str; 7] =
        ["axes", "dilations", "kernel_shape", "pads", "perm", "shape", "strides"];
    let refuse = |attribute: &AttributeProto| {
        let reason = format!("attribute {:?} out of bounds", attribute.name);
        Err(InferenceError::unsupported(&node.op_type, front::label(node), reason))
    };
    // These take any number for what it is.
    let any = matches!(node.op_type.as_str(), "Constant" | "Slice" | "Shape" | "Trilu")
        || node.op_type.starts_with("Random");
    for attribute in &node.attribute {
        let mut numbers = attribute.ints.iter().chain([&attribute.i]);
        if !any && numbers.any(|number| !(-BOUND..=BOUND).contains(number)) {
            return refuse(attribute);
        }
        if LISTS.contains(&attribute.name.as_str()) && attribute.ints.len() > 2 * MAX_RANK {
            return refuse(attribute);
        }
        if node.op_type == "Transpose" && attribute.name == "perm" {
            let mut sorted = attribute.ints.clone();
            sorted.sort_unstable();
            if !sorted.iter().copied().eq(0..sorted.len() as i64) {
                return refuse(attribute);
            }
        }
    }
    Ok(())
}

/// Call into tract, and turn a panic there into [`InferenceError::Failed`].
///
/// What unwinds through is dropped or rebuilt by the caller, and no lock of
/// ours is held, so nothing half-changed can be seen afterwards. On
/// wasm32-unknown-unknown a panic still ends the instance.
fn contained<T>(doing: &str, call: impl FnOnce() -> T) -> Result<T, InferenceError> {
    catch_unwind(AssertUnwindSafe(call)).map_err(|payload| {
        let reason = format!("panic while {doing}: {}", panic_message(&*payload));
        InferenceError::Failed { reason }
    })
}

/// An error of tract's with its causes, on one line.
fn chain(error: &TractError) -> String {
    one_line(&format!("{error:#}"))
}

/// What to make of an error of tract's at a node. One of our own that went
/// through tract comes out as it was.
fn refused(op: &str, node: &str, error: &TractError) -> InferenceError {
    match error.downcast_ref::<InferenceError>() {
        Some(ours @ InferenceError::OverLimit { .. }) => ours.clone(),
        _ => InferenceError::unsupported(op, node, chain(error)),
    }
}

/// At most 400 characters, white space collapsed.
fn one_line(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(400) {
        Some((cut, _)) => format!("{}...", &line[..cut]),
        None => line,
    }
}
