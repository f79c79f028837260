//! A graph made ready for inputs of given shapes.

use headland_tensor::{DType, MAX_RANK, NamedTensors, Shape, Tensor};
use tract_onnx::tract_hir::{
    infer::Factoid,
    internal::{
        DatumType, InferenceFact, InferenceModel, InferenceModelExt, IntoArcTensor, IntoRunnable,
        OutletId, TValue, TVec, ToDim, TypedFact, TypedModel, TypedRunnableModel,
    },
    ops::konst::Const,
    tract_core::ops::{logic::IfThenElse, nn::Softmax, scan::Scan},
};

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use super::{
    branch, chain, contained, deadline, refused,
    tensor::{datum_type, from_tract, to_tract},
};
use crate::{
    InferenceError, LoadLimits, TensorInfo, deadline::Deadline, interpreter::broadcast_shape,
};

/// Which inputs become constants of a plan.
///
/// Some graphs have no plan until certain inputs are known: a `Reshape` whose
/// target is an input has an output of unknown rank. Such inputs are taken as
/// constants, and the plan then serves runs that give the same values. What
/// is folded grows step by step, from what usually decides shapes to
/// everything, and a model keeps to the step that it needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fold {
    /// None: the plan serves any values of the same shapes.
    Nothing,
    /// Integers and bools of at most 64 elements: shapes, axes, indices.
    Sizes,
    /// Also other numbers of at most 64 elements: scales, limits, ratios.
    Parameters,
    /// Every input, up to 1 MiB: graphs whose shapes depend on their data.
    Everything,
}

impl Fold {
    /// From the least to the most.
    pub(super) const ALL: [Self; 4] =
        [Self::Nothing, Self::Sizes, Self::Parameters, Self::Everything];

    /// Which inputs to fold; `None` when that is no more than the step before.
    pub(super) fn of(self, inputs: &[Tensor]) -> Option<Vec<bool>> {
        let folded = self.up_to(inputs);
        let before = match self {
            Self::Nothing => return Some(folded),
            Self::Sizes => Self::Nothing,
            Self::Parameters => Self::Sizes,
            Self::Everything => Self::Parameters,
        };
        (folded != before.up_to(inputs)).then_some(folded)
    }

    /// Which inputs to fold.
    pub(super) fn up_to(self, inputs: &[Tensor]) -> Vec<bool> {
        // The shape of an empty tensor already says all there is to know.
        let filled = |t: &Tensor| t.shape().element_count() > 0;
        let small = |t: &Tensor| filled(t) && t.shape().element_count() <= 64;
        let integer =
            |t: &Tensor| !matches!(t.dtype(), DType::F16 | DType::BF16 | DType::F32 | DType::F64);
        let bytes: usize = inputs.iter().map(|t| t.bytes().len()).sum();
        let folds = |t: &Tensor| match self {
            Self::Nothing => false,
            Self::Sizes => small(t) && integer(t),
            Self::Parameters => small(t),
            Self::Everything => small(t) || (filled(t) && bytes <= 1 << 20),
        };
        inputs.iter().map(folds).collect()
    }
}

/// A graph made ready for inputs of given shapes, some of given values.
pub(super) struct Plan {
    shapes: Vec<Shape>,
    /// The values of the inputs that are constants of the plan.
    values: Vec<Option<Tensor>>,
    runnable: Arc<TypedRunnableModel>,
}

impl Plan {
    /// Plan for inputs of these shapes and dtypes, and for the values of
    /// those that `folded` marks.
    pub(super) fn new(
        graph: &InferenceModel,
        infos: &[TensorInfo],
        inputs: &[Tensor],
        folded: &[bool],
        limits: &LoadLimits,
    ) -> Result<Self, InferenceError> {
        let shapes = inputs.iter().map(|t| t.shape().clone()).collect();
        let values = inputs.iter().zip(folded).map(|(t, &fold)| fold.then(|| t.clone())).collect();
        Self::build(graph, infos, shapes, values, limits)
    }

    /// Plan for inputs of these shapes and any values.
    pub(super) fn of_shapes(
        graph: &InferenceModel,
        infos: &[TensorInfo],
        shapes: &[Shape],
        limits: &LoadLimits,
    ) -> Result<Self, InferenceError> {
        Self::build(graph, infos, shapes.to_vec(), vec![None; shapes.len()], limits)
    }

    fn build(
        graph: &InferenceModel,
        infos: &[TensorInfo],
        shapes: Vec<Shape>,
        values: Vec<Option<Tensor>>,
        limits: &LoadLimits,
    ) -> Result<Self, InferenceError> {
        let runnable = contained("planning", || {
            let mut graph = specialise(graph, infos, &shapes, &values)?;
            let budget = Budget::new(limits);
            branch::set_budget(&mut graph, &budget);
            analyse(&mut graph, &budget)?;
            compile(graph, limits)
        })
        .unwrap_or_else(|panic| Err(InferenceError::unsupported("graph", "", panic.to_string())))?;
        Ok(Self { shapes, values, runnable })
    }

    /// Whether this plan is for these inputs.
    pub(super) fn serves(&self, inputs: &[Tensor]) -> bool {
        inputs.iter().zip(&self.shapes).all(|(tensor, shape)| tensor.shape() == shape)
            && inputs
                .iter()
                .zip(&self.values)
                .all(|(tensor, value)| value.as_ref().is_none_or(|v| v == tensor))
    }

    /// Run on inputs that the plan [serves](Self::serves), until the deadline.
    pub(super) fn run(
        &self,
        inputs: &[Tensor],
        outputs: &[TensorInfo],
        deadline: Option<Deadline>,
    ) -> Result<NamedTensors, InferenceError> {
        let fed: Result<TVec<TValue>, _> = inputs
            .iter()
            .zip(&self.values)
            .filter(|(_, value)| value.is_none())
            .map(|(tensor, _)| to_tract(tensor).map(TValue::from))
            .collect();
        let fed = fed?;
        let made = contained("running", || deadline::run(&self.runnable, fed, deadline))?.map_err(
            |e| match e.downcast_ref::<InferenceError>() {
                Some(ours @ InferenceError::DeadlineExceeded { .. }) => ours.clone(),
                _ => InferenceError::Failed { reason: chain(&e) },
            },
        )?;
        outputs
            .iter()
            .zip(made.iter())
            .map(|(info, tensor)| Ok((info.name.clone(), from_tract(tensor, info)?)))
            .collect()
    }
}

/// A copy of the graph with its inputs' shapes set, and constants in place of
/// the inputs that have values.
fn specialise(
    graph: &InferenceModel,
    infos: &[TensorInfo],
    shapes: &[Shape],
    values: &[Option<Tensor>],
) -> Result<InferenceModel, InferenceError> {
    let failed = |e| InferenceError::Failed { reason: chain(&e) };
    let mut graph = graph.clone();
    let sources = graph.inputs.clone();
    let mut open: Vec<OutletId> = Vec::new();
    for (((&source, info), shape), value) in sources.iter().zip(infos).zip(shapes).zip(values) {
        let fact = if let Some(value) = value {
            let constant = to_tract(value)?.into_arc_tensor();
            graph.node_mut(source.node).op =
                Box::new(Const::new(Arc::clone(&constant)).map_err(failed)?);
            InferenceFact {
                value: Arc::clone(&constant).into(),
                ..InferenceFact::dt_shape_from_tensor(&constant)
            }
        } else {
            open.push(source);
            let dims: TVec<_> = shape.dims().iter().map(|&d| (d as usize).to_dim()).collect();
            let datum_type = datum_type(info.dtype).unwrap_or(DatumType::F32);
            InferenceFact::dt_shape(datum_type, dims)
        };
        graph.set_outlet_fact(source, fact).map_err(failed)?;
    }
    graph.inputs = open;
    Ok(graph)
}

/// Find every tensor's dtype and shape.
///
/// tract computes what depends on constants only as it goes, so a few bytes
/// of model could ask for any amount of memory. Each node's output shapes are
/// therefore looked at before tract may compute them. tract analyses the graph
/// again, without such a look: this goes on until there is little left to find.
pub(super) fn analyse(graph: &mut InferenceModel, budget: &Budget) -> Result<(), InferenceError> {
    let mut order = graph.eval_order().map_err(|e| InferenceError::malformed(chain(&e)))?;
    // Nodes that no output needs come last; tract looks at them too.
    let mut needed = vec![false; graph.nodes().len()];
    order.iter().for_each(|&id| needed[id] = true);
    order.extend((0..needed.len()).filter(|&id| !needed[id]));
    for _ in 0..MAX_PASSES {
        let mut changed = false;
        for &id in &order {
            changed |= infer_node(graph, id, budget)?;
        }
        if !changed {
            break;
        }
    }
    Ok(())
}

/// How often a graph is gone through to find its shapes; once is enough for
/// most.
const MAX_PASSES: usize = 4;

/// What one plan may take, its nested graphs included.
#[derive(Debug, Clone, Default)]
pub(super) struct Budget {
    limits: LoadLimits,
    /// Bytes that have been computed from constants. The plan keeps them.
    computed: Arc<AtomicU64>,
}

impl Budget {
    fn new(limits: &LoadLimits) -> Self {
        Self { limits: *limits, computed: Arc::default() }
    }

    /// Count what `node` is about to compute from constants.
    fn compute(&self, bytes: u64, node: &str) -> Result<(), InferenceError> {
        let before = self.computed.fetch_add(bytes, Ordering::Relaxed);
        let (needed, allowed) = (before.saturating_add(bytes), self.limits.max_run_bytes);
        if needed > allowed {
            let what = format!("max_run_bytes: what constants up to {node:?} give");
            return Err(InferenceError::over(what, needed, allowed));
        }
        Ok(())
    }
}

/// Infer what one node says of its inputs, its outputs and what it observes;
/// whether that is news.
fn infer_node(
    graph: &mut InferenceModel,
    id: usize,
    budget: &Budget,
) -> Result<bool, InferenceError> {
    let limits = &budget.limits;
    let node = graph.node(id);
    let (op_name, name) = (node.op.name(), node.name.clone());
    let unsupported = |e| refused(&op_name, &name, &e);
    let outlets: Vec<OutletId> = (node.inputs.iter().copied())
        .chain((0..node.outputs.len()).map(|slot| OutletId::new(id, slot)))
        .chain(node.op.observe_outlets(graph, node).map_err(unsupported)?)
        .collect();
    let facts: Vec<InferenceFact> = outlets
        .iter()
        .map(|&outlet| graph.outlet_fact(outlet).cloned())
        .collect::<Result<_, _>>()
        .map_err(unsupported)?;
    let (inputs, rest) = facts.split_at(node.inputs.len());
    let (outputs, observed) = rest.split_at(node.outputs.len());
    if !outputs.is_empty() && outputs.iter().all(|fact| fact.value.is_concrete()) {
        return Ok(false);
    }
    check_ranks(&op_name, inputs, outputs, &name)?;
    match &*op_name {
        "ConstantOfShape" | "MultiBroadcastTo" | "Reshape" | "Tile" => {
            check_sizes_given(inputs.last(), &name)?;
        }
        "Pad" => check_pads(inputs, &name, limits)?,
        "Pow" => check_broadcast(inputs, &name)?,
        "Mul" => check_factors(inputs, &name)?,
        _ => {}
    }
    // An `If` looks at what its branches give, node by node; to look at it twice
    // here would be to look at those within them ever more often.
    let known = !inputs.is_empty()
        && inputs.iter().all(|fact| fact.value.is_concrete())
        && node.op_as::<branch::Branch>().is_none();
    let op = &mut graph.node_mut(id).op;
    if known
        && let Ok((_, outputs, _)) =
            op.clone().infer_facts(refs(inputs), refs(outputs), refs(observed))
    {
        for fact in &outputs {
            budget.compute(check_size(fact, &name, limits)?, &name)?;
        }
    }
    let (inputs, outputs, observed) =
        op.infer(refs(inputs), refs(outputs), refs(observed)).map_err(unsupported)?;
    for fact in &outputs {
        check_size(fact, &name, limits)?;
    }
    if op_name.starts_with("Reduce")
        && is_empty(inputs.first()) == Some(true)
        && is_empty(outputs.first()) == Some(false)
    {
        // ONNX wants an infinity or an integer's own limit of the largest and
        // smallest; tract gives the largest finite number.
        let reason = "a reduction of no elements";
        return Err(InferenceError::unsupported(op_name, name, reason));
    }
    let mut changed = false;
    for (outlet, fact) in outlets.into_iter().zip(inputs.into_iter().chain(outputs).chain(observed))
    {
        let old = graph.outlet_fact(outlet).map_err(unsupported)?;
        let new = old.unify(&fact).map_err(unsupported)?;
        changed |= new != *old;
        graph.set_outlet_fact(outlet, new).map_err(unsupported)?;
    }
    Ok(changed)
}

/// Refuse tensors of fewer dimensions than the operator needs, and lists of more
/// axes or sizes than a tensor has: tract computes with them, reads past its
/// memory, or goes on for ever.
fn check_ranks(
    op: &str,
    inputs: &[InferenceFact],
    outputs: &[InferenceFact],
    node: &str,
) -> Result<(), InferenceError> {
    let least = match op {
        "ConvHir" | "ConvTranspose" | "GroupNorm" | "InstanceNorm" | "MaxPool"
        | "OnnxMaxPoolIndices" | "SumPool" => 3,
        "BatchNorm" | "Dft" | "Dft17" | "GlobalAvgPool" | "GlobalMaxPool" | "Lrn" | "STFT" => 2,
        op if op.starts_with("GlobalL") => 2,
        "GatherNd" | "LayerHardmax" | "LayerLogSoftmax" | "LayerNorm" | "LayerSoftmax"
        | "LpNorm" | "RmsNormalization" | "ScatterNd" | "Topk" => 1,
        _ => 0,
    };
    // Where operators keep the rank, the result may be known before the input.
    let keeps = op.starts_with("Layer") || matches!(op, "LpNorm" | "RmsNormalization" | "Topk");
    let indexed = matches!(op, "GatherNd" | "ScatterNd");
    let looked_at = (inputs.first().into_iter())
        .chain(inputs.get(1).filter(|_| indexed))
        .chain(outputs.first().filter(|_| keeps));
    let mut ranks = looked_at.filter_map(|fact| fact.shape.rank().concretize());
    if let Some(rank) = ranks.find(|rank| *rank < least) {
        let reason = format!("a tensor of rank {rank}, at least {least} is needed");
        return Err(InferenceError::unsupported(op, node, reason));
    }
    let list = match op {
        "ConstantOfShape" => inputs.first(),
        "MultiBroadcastTo" | "Reduce13" | "Reshape" | "Squeeze13" | "Tile" | "Unsqueeze13" => {
            inputs.get(1)
        }
        _ => None,
    };
    match list.and_then(|fact| Some(fact.value.concretize()?.len())) {
        Some(len) if len > MAX_RANK => {
            let reason = format!("{len} axes or sizes, more than {MAX_RANK}");
            Err(InferenceError::unsupported(op, node, reason))
        }
        _ => Ok(()),
    }
}

/// Refuse pads that would make more than one tensor may be: where everything is
/// known, tract pads before it says what shape comes of it.
fn check_pads(
    inputs: &[InferenceFact],
    node: &str,
    limits: &LoadLimits,
) -> Result<(), InferenceError> {
    let numbers = |fact: &InferenceFact| -> Option<Vec<i64>> {
        let value = fact.value.concretize()?;
        let whole = value.cast_to::<i64>().ok()?;
        Some(bytemuck::pod_collect_to_vec(whole.as_bytes()))
    };
    let (Some(data), Some(pads)) = (inputs.first(), inputs.get(1).and_then(numbers)) else {
        return Ok(());
    };
    let dims = data.shape.concretize().unwrap_or_default();
    let mut sizes: Vec<i64> = dims.iter().filter_map(|dim| dim.to_i64().ok()).collect();
    // The fill is one number, the axes are a list; both may be left out.
    let list = inputs[2..].iter().find(|fact| fact.shape.rank().concretize() == Some(1));
    let axes = list.and_then(numbers).unwrap_or_else(|| (0..sizes.len() as i64).collect());
    let refuse = |reason: String| Err(InferenceError::unsupported("Pad", node, reason));
    if pads.len() != axes.len() * 2 {
        return refuse(format!("{} pads for {} axes", pads.len(), axes.len()));
    }
    for (index, axis) in axes.iter().enumerate() {
        let at = if *axis < 0 { axis.saturating_add(sizes.len() as i64) } else { *axis };
        let Some(size) = usize::try_from(at).ok().and_then(|at| sizes.get_mut(at)) else {
            return refuse(format!("axis {axis} of a tensor of rank {}", dims.len()));
        };
        let (before, after) = (pads[index], pads[axes.len() + index]);
        if before < 0 || after < 0 {
            return refuse(format!("pads of {before} and {after}"));
        }
        *size = size.saturating_add(before).saturating_add(after);
    }
    let width = data.datum_type.concretize().map_or(1, |dt| dt.size_of()) as i64;
    let bytes = sizes.iter().fold(width, |bytes, &size| bytes.saturating_mul(size));
    if bytes.unsigned_abs() > limits.max_tensor_bytes {
        let what = format!("max_tensor_bytes: the result of {node:?}");
        return Err(InferenceError::over(what, bytes.unsigned_abs(), limits.max_tensor_bytes));
    }
    Ok(())
}

/// Refuse factors beyond i32: tract turns powers of two into shifts of 32 bits.
fn check_factors(facts: &[InferenceFact], node: &str) -> Result<(), InferenceError> {
    for fact in facts {
        let value = fact.value.concretize().filter(|v| v.datum_type().is_integer());
        let Some(value) = value else { continue };
        let Ok(value) = value.cast_to::<i64>() else { continue };
        let whole: Vec<i64> = bytemuck::pod_collect_to_vec(value.as_bytes());
        if let Some(factor) = whole.iter().find(|v| i32::try_from(**v).is_err()) {
            let reason = format!("a factor of {factor}");
            return Err(InferenceError::unsupported("Mul", node, reason));
        }
    }
    Ok(())
}

/// Refuse shapes that do not broadcast. tract does not look at that of an
/// exponent whose elements are all the same.
fn check_broadcast(facts: &[InferenceFact], node: &str) -> Result<(), InferenceError> {
    let sizes = |fact: &InferenceFact| -> Option<Vec<usize>> {
        fact.shape.concretize()?.iter().map(|d| usize::try_from(d.to_i64().ok()?).ok()).collect()
    };
    let Some(shapes) = facts.iter().map(sizes).collect::<Option<Vec<_>>>() else { return Ok(()) };
    let shapes: Vec<&[usize]> = shapes.iter().map(Vec::as_slice).collect();
    match broadcast_shape(&shapes) {
        Ok(_) => Ok(()),
        Err(e) => Err(InferenceError::unsupported("Pow", node, e.to_string())),
    }
}

/// Refuse sizes beyond i32, and below -1, where they are given as a tensor: tract
/// would cut them to i32, and go on with what is left.
fn check_sizes_given(fact: Option<&InferenceFact>, node: &str) -> Result<(), InferenceError> {
    let Some(sizes) = fact.and_then(|fact| fact.value.concretize()) else { return Ok(()) };
    let Ok(sizes) = sizes.cast_to::<i64>() else { return Ok(()) };
    let sizes: Vec<i64> = bytemuck::pod_collect_to_vec(sizes.as_bytes());
    if let Some(size) = sizes.iter().find(|size| **size < -1) {
        let reason = format!("a size of {size}");
        return Err(InferenceError::unsupported("graph", node, reason));
    }
    match sizes.iter().copied().max() {
        Some(size) if size > i64::from(i32::MAX) => {
            let what = format!("a size given to {node:?}");
            Err(InferenceError::over(what, size.unsigned_abs(), i32::MAX as u64))
        }
        _ => Ok(()),
    }
}

/// Whether a tensor has no elements, where that is known.
fn is_empty(fact: Option<&InferenceFact>) -> Option<bool> {
    Some(fact?.shape.concretize()?.iter().any(|d| *d == 0.to_dim()))
}

fn refs(facts: &[InferenceFact]) -> TVec<&InferenceFact> {
    facts.iter().collect()
}

/// The bytes of a tensor, as far as they are known, if they are within the
/// limit.
fn check_size(
    fact: &InferenceFact,
    node: &str,
    limits: &LoadLimits,
) -> Result<u64, InferenceError> {
    let Some(dims) = fact.shape.concretize() else { return Ok(0) };
    if let Some(size) = dims.iter().filter_map(|dim| dim.to_i64().ok()).find(|size| *size < 0) {
        let reason = format!("a size of {size}");
        return Err(InferenceError::unsupported("graph", node, reason));
    }
    let size = fact.datum_type.concretize().map_or(1, |dt| dt.size_of()) as u64;
    let bytes = dims.iter().try_fold(size, |bytes, dim| {
        Some(bytes.saturating_mul(u64::try_from(dim.to_i64().ok()?).ok()?))
    });
    match bytes {
        Some(bytes) if bytes > limits.max_tensor_bytes => {
            let what = format!("max_tensor_bytes: the result of {node:?}");
            Err(InferenceError::over(what, bytes, limits.max_tensor_bytes))
        }
        bytes => Ok(bytes.unwrap_or(0)),
    }
}

/// To typed operators, simplified, and in order of evaluation.
fn compile(
    graph: InferenceModel,
    limits: &LoadLimits,
) -> Result<Arc<TypedRunnableModel>, InferenceError> {
    let unsupported = |e| refused("graph", "", &e);
    let typed: TypedModel = graph.into_typed().map_err(unsupported)?;
    check_softmax_axes(&typed)?;
    check_sizes_known(&typed)?;
    check_memory(&typed, limits)?;
    typed.into_optimized().and_then(|m| m.into_runnable()).map_err(unsupported)
}

/// Refuse a softmax over an axis that there is not: to tract it is one over
/// none. That is final, as with known inputs tract computes it unseen.
fn check_softmax_axes(model: &TypedModel) -> Result<(), InferenceError> {
    for node in model.nodes() {
        let (Some(softmax), Some(output)) = (node.op_as::<Softmax>(), node.outputs.first()) else {
            continue;
        };
        let rank = output.fact.rank();
        if let Some(axis) = softmax.axes.iter().find(|axis| **axis >= rank) {
            let name = &node.name;
            return Err(InferenceError::malformed(format!(
                "the softmax {name:?} has axis {axis} of a tensor of rank {rank}"
            )));
        }
    }
    Ok(())
}

/// Refuse what makes a tensor of a size that only a run knows, and that its
/// inputs do not bound: tract makes it, whatever the size.
fn check_sizes_known(model: &TypedModel) -> Result<(), InferenceError> {
    for node in model.nodes() {
        let op = node.op.name();
        let open = |fact: &TypedFact| fact.shape.as_concrete().is_none();
        if matches!(&*op, "DynTile" | "Range") && node.outputs.iter().any(|o| open(&o.fact)) {
            let reason = "the size of its result depends on data";
            return Err(InferenceError::unsupported(op, &node.name, reason));
        }
        if let Some(branch) = node.op_as::<IfThenElse>() {
            check_sizes_known(&branch.then_body)?;
            check_sizes_known(&branch.else_body)?;
        }
        if let Some(scan) = node.op_as::<Scan>() {
            check_sizes_known(&scan.body)?;
        }
    }
    Ok(())
}

/// Refuse a graph whose results would take more memory than allowed, one of
/// them or those that live at the same time. Sizes that depend on data count
/// for nothing here.
fn check_memory(model: &TypedModel, limits: &LoadLimits) -> Result<(), InferenceError> {
    let order = model.eval_order().map_err(|e| InferenceError::malformed(chain(&e)))?;
    let mut sizes = vec![0u64; model.nodes().len()];
    let mut readers: Vec<usize> = vec![0; model.nodes().len()];
    for node in model.nodes() {
        readers[node.id] = node.outputs.iter().map(|o| o.successors.len()).sum();
        for output in &node.outputs {
            let bytes = output.fact.mem_size().to_i64().unwrap_or(0).unsigned_abs();
            if bytes > limits.max_tensor_bytes {
                let what = format!("max_tensor_bytes: the result of {:?}", node.name);
                return Err(InferenceError::over(what, bytes, limits.max_tensor_bytes));
            }
            sizes[node.id] = sizes[node.id].saturating_add(bytes);
        }
    }
    let mut live = 0u64;
    for id in order {
        live = live.saturating_add(sizes[id]);
        if live > limits.max_run_bytes {
            let what = format!("max_run_bytes: all that lives at {:?}", model.node(id).name);
            return Err(InferenceError::over(what, live, limits.max_run_bytes));
        }
        for input in &model.node(id).inputs {
            readers[input.node] = readers[input.node].saturating_sub(1);
            // Outputs of the model never reach zero: nobody reads them last.
            if readers[input.node] == 0 && !model.outputs.iter().any(|o| o.node == input.node) {
                live = live.saturating_sub(sizes[input.node]);
            }
        }
    }
    Ok(())
}
