//! The checked graph.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    labels::MAX_WAITING_ROWS,
    row::MAX_COLUMNS,
    spec::{ExplainerSpec, MonitorSpec, PipelineSpec, Reduce, StageKind, StageSpec},
};

/// The most stages that a pipeline may have.
pub const MAX_STAGES: usize = 64;
/// The most monitors that a pipeline may have.
pub const MAX_MONITORS: usize = 16;
/// The most explainers that a pipeline may have.
pub const MAX_EXPLAINERS: usize = 16;
/// The most ways that all routers of a pipeline together may have.
pub const MAX_ROUTES: usize = 4_096;
/// The most frames that may wait.
pub const MAX_QUEUE_FRAMES: u64 = 65_536;
/// The most rows that may wait for a monitor, or go to it in one batch.
pub const MAX_QUEUE_ROWS: u64 = 1 << 20;
/// The longest id of a stage, monitor or explainer, in bytes.
pub const MAX_ID_BYTES: usize = 64;
/// The most rows of a batch.
pub const MAX_BATCH_ROWS: u64 = 4_096;
/// The longest that a run waits for others, in milliseconds.
pub const MAX_BATCH_DELAY_MS: u64 = 60_000;

/// What stands for the source among the inputs and taps.
pub(crate) const SOURCE: &str = "source";
/// What stands for the pipeline's result among the taps.
pub(crate) const PREDICTION: &str = "prediction";

/// A set of stages, by index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct StageSet(u64);

const _: () = assert!(MAX_STAGES <= u64::BITS as usize);

impl StageSet {
    pub(crate) fn contains(self, stage: usize) -> bool {
        self.0 & (1 << stage) != 0
    }

    pub(crate) fn insert(&mut self, stage: usize) {
        self.0 |= 1 << stage;
    }

    pub(crate) fn remove(&mut self, stage: usize) {
        self.0 &= !(1 << stage);
    }

    pub(crate) fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(crate) fn minus(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    pub(crate) fn intersect(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(crate) fn iter(self) -> impl Iterator<Item = usize> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let next = (rest != 0).then(|| rest.trailing_zeros() as usize)?;
            rest &= rest - 1;
            Some(next)
        })
    }
}

impl FromIterator<usize> for StageSet {
    fn from_iter<I: IntoIterator<Item = usize>>(stages: I) -> Self {
        let mut set = Self::default();
        stages.into_iter().for_each(|stage| set.insert(stage));
        set
    }
}

/// Where tensors come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Port {
    Source,
    Stage(usize),
}

/// One input of a stage.
#[derive(Debug, Clone)]
pub(crate) struct Wire {
    pub(crate) port: Port,
    /// The one tensor that is taken; all when absent.
    pub(crate) tensor: Option<String>,
    /// Whether a router stands anywhere up this wire, so that nothing may
    /// come down it.
    pub(crate) routed: bool,
}

/// What the scheduler needs to know of a stage beside its spec.
#[derive(Debug, Clone, Default)]
pub(crate) struct Node {
    pub(crate) wires: Vec<Wire>,
    pub(crate) fallback: Option<usize>,
    /// The stages whose fallback this one is.
    pub(crate) serves: StageSet,
    /// A router's branches that are not turned off, with their weights.
    pub(crate) branches: Vec<(usize, u32)>,
}

impl Node {
    /// Whether the stage runs for a frame, given which of its wires carry
    /// something: a stage below routers runs when anything came down a
    /// routed wire, any other stage always runs.
    pub(crate) fn runs(&self, mut carries: impl FnMut(&Wire) -> bool) -> bool {
        let mut routed = self.wires.iter().filter(|wire| wire.routed).peekable();
        routed.peek().is_none() || routed.any(&mut carries)
    }
}

/// One tap of a monitor.
#[derive(Debug, Clone)]
pub(crate) struct Tap {
    pub(crate) port: Port,
    pub(crate) tensor: Option<String>,
    pub(crate) columns: Option<Vec<String>>,
    pub(crate) prefix: String,
    pub(crate) reduce: Reduce,
}

/// What the scheduler needs to know of a monitor.
#[derive(Debug, Clone)]
pub(crate) struct Monitor {
    pub(crate) taps: Vec<Tap>,
    /// The shadow stages that it taps.
    pub(crate) shadows: StageSet,
    /// The numeric columns that the taps name.
    pub(crate) declared: Vec<String>,
}

/// A pipeline that makes sense: every reference resolves, nothing runs in a
/// circle, the output is reached however the routers choose, and neither a
/// shadow nor a monitor has a say in it.
#[derive(Debug, Clone)]
pub struct Graph {
    spec: PipelineSpec,
    pub(crate) nodes: Vec<Node>,
    /// Every stage after its inputs.
    pub(crate) order: Vec<usize>,
    pub(crate) output: usize,
    /// The stages that lead to the output, with their fallbacks.
    pub(crate) main: StageSet,
    pub(crate) shadows: StageSet,
    /// The fallbacks.
    pub(crate) fallbacks: StageSet,
    /// The invoked stages that a frame starts with.
    pub(crate) entries: StageSet,
    /// The main stages whose results shadows or monitors read.
    pub(crate) kept: StageSet,
    /// Whether shadows or monitors read what the source gave.
    pub(crate) keeps_source: bool,
    pub(crate) monitors: Vec<Monitor>,
    /// The stage that each explainer explains.
    explained: Vec<usize>,
}

impl Graph {
    /// Check a pipeline.
    ///
    /// # Errors
    /// [`GraphError`], the first that is found.
    pub fn new(spec: PipelineSpec) -> Result<Self, GraphError> {
        check_names(&spec)?;
        check_values(&spec)?;
        let mut nodes = resolve(&spec)?;
        let order = topological_order(&spec.stage, &nodes)?;
        mark_routed(&spec.stage, &mut nodes, &order);
        let upstream = upstream(&nodes, &order);
        let output = find(&spec.stage, &spec.output)
            .ok_or_else(|| GraphError::UnknownOutput { output: spec.output.clone() })?;

        let shadows: StageSet = indices(&spec.stage, |stage| stage.shadow);
        let fallbacks: StageSet = nodes.iter().filter_map(|node| node.fallback).collect();
        check_routers(&spec.stage, &nodes, fallbacks)?;
        check_fallbacks(&spec, &nodes, &upstream, output)?;
        check_shadows(&spec.stage, &nodes, output)?;
        check_predictions(&spec.stage, &nodes)?;

        let mut main = upstream[output];
        main.insert(output);
        for stage in main.iter() {
            main = main.union(fallback_chain(&nodes, stage).collect());
        }
        let all: StageSet = (0..nodes.len()).collect();
        if let Some(unused) = all.minus(main).minus(shadows).iter().next() {
            return Err(GraphError::Unused {
                stage: spec.stage[unused].id.clone(),
                output: spec.output.clone(),
            });
        }
        check_routes(&spec.stage, &nodes, &order, output)?;

        let monitors = spec
            .monitor
            .iter()
            .map(|monitor| resolve_monitor(&spec, monitor, output, shadows))
            .collect::<Result<Vec<_>, _>>()?;
        let explained = spec
            .explainer
            .iter()
            .map(|explainer| resolve_explainer(&spec.stage, explainer))
            .collect::<Result<Vec<_>, _>>()?;

        let invoked = indices(&spec.stage, StageSpec::is_invoked);
        let entries = invoked
            .intersect(main)
            .minus(fallbacks)
            .iter()
            .filter(|&stage| upstream[stage].intersect(invoked).is_empty())
            .collect();
        let taps = monitors.iter().flat_map(|monitor| &monitor.taps).map(|tap| tap.port);
        let wires = shadows.iter().flat_map(|s| &nodes[s].wires).map(|wire| wire.port);
        let read: BTreeSet<Port> = taps.chain(wires).collect();
        let kept = read
            .iter()
            .filter_map(|port| match port {
                Port::Stage(stage) if main.contains(*stage) => Some(*stage),
                _ => None,
            })
            .collect();
        let keeps_source = read.contains(&Port::Source);
        Ok(Self {
            spec,
            nodes,
            order,
            output,
            main,
            shadows,
            fallbacks,
            entries,
            kept,
            keeps_source,
            monitors,
            explained,
        })
    }

    /// The same pipeline without monitors and shadows, for a run that nobody is
    /// to see. Stages have the same indices.
    pub fn alone(&self) -> Self {
        let mut alone = self.clone();
        alone.spec.monitor.clear();
        alone.monitors.clear();
        alone.shadows = StageSet::default();
        alone.kept = StageSet::default();
        alone.keeps_source = false;
        alone
    }

    /// The pipeline as it was given.
    pub fn spec(&self) -> &PipelineSpec {
        &self.spec
    }

    /// The stages; a command's `stage` is an index into them.
    pub fn stages(&self) -> &[StageSpec] {
        &self.spec.stage
    }

    /// The monitors; a command's `monitor` is an index into them.
    pub fn monitors(&self) -> &[MonitorSpec] {
        &self.spec.monitor
    }

    /// The explainers, each with the index of the stage that it explains.
    pub fn explainers(&self) -> impl Iterator<Item = (&ExplainerSpec, usize)> {
        self.spec.explainer.iter().zip(self.explained.iter().copied())
    }

    /// The index of the stage whose result is the pipeline's.
    pub fn output(&self) -> usize {
        self.output
    }

    /// How many frames may be under way at once: one for each stage that can
    /// work on one.
    pub(crate) fn depth(&self) -> usize {
        self.main.iter().filter(|&s| self.spec.stage[s].is_invoked()).count().max(1)
    }
}

fn find(stages: &[StageSpec], id: &str) -> Option<usize> {
    stages.iter().position(|stage| stage.id == id)
}

fn indices(stages: &[StageSpec], is_in: impl Fn(&StageSpec) -> bool) -> StageSet {
    stages.iter().enumerate().filter(|(_, stage)| is_in(stage)).map(|(i, _)| i).collect()
}

/// The stage's fallback, the fallback's fallback, and so on. The chain must
/// be known to end.
fn fallback_chain(nodes: &[Node], stage: usize) -> impl Iterator<Item = usize> {
    std::iter::successors(nodes[stage].fallback, |&fallback| nodes[fallback].fallback)
}

fn check_names(spec: &PipelineSpec) -> Result<(), GraphError> {
    if spec.stage.is_empty() {
        return Err(GraphError::NoStages);
    }
    if spec.stage.len() > MAX_STAGES {
        return Err(GraphError::TooManyStages { stages: spec.stage.len() });
    }
    if spec.monitor.len() > MAX_MONITORS {
        return Err(GraphError::TooManyMonitors { monitors: spec.monitor.len() });
    }
    if spec.explainer.len() > MAX_EXPLAINERS {
        return Err(GraphError::TooManyExplainers { explainers: spec.explainer.len() });
    }
    let mut seen = BTreeSet::new();
    let stage_ids = spec.stage.iter().map(|stage| &stage.id);
    let monitor_ids = spec.monitor.iter().map(|monitor| &monitor.id);
    let explainer_ids = spec.explainer.iter().map(|explainer| &explainer.id);
    for id in stage_ids.chain(monitor_ids).chain(explainer_ids) {
        if id == SOURCE || id == PREDICTION {
            return Err(GraphError::ReservedId { id: id.clone() });
        }
        let well_formed = !id.is_empty()
            && id.len() <= MAX_ID_BYTES
            && id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !id.starts_with('-')
            && !id.ends_with('-');
        if !well_formed {
            return Err(GraphError::BadId { id: id.clone() });
        }
        if !seen.insert(id) {
            return Err(GraphError::DuplicateId { id: id.clone() });
        }
    }
    let entry = |place: String, key, name: &str| match name {
        "" => Err(GraphError::EmptyName { place, key }),
        _ => Ok(()),
    };
    entry("pipeline".to_owned(), "name", &spec.name)?;
    for stage in &spec.stage {
        let place = || format!("stage {:?}", stage.id);
        match &stage.kind {
            StageKind::Component { component, models, .. } => {
                entry(place(), "component", component)?;
                models.iter().try_for_each(|model| entry(place(), "models", model))?;
            }
            StageKind::Model { model, .. } => entry(place(), "model", model)?,
            StageKind::Router { .. } | StageKind::Combine { .. } => {}
        }
    }
    for monitor in &spec.monitor {
        let place = || format!("monitor {:?}", monitor.id);
        entry(place(), "component", &monitor.component)?;
        monitor.reference.iter().try_for_each(|name| entry(place(), "reference", name))?;
    }
    for explainer in &spec.explainer {
        let place = || format!("explainer {:?}", explainer.id);
        entry(place(), "component", &explainer.component)?;
        explainer.models.iter().try_for_each(|model| entry(place(), "models", model))?;
    }
    Ok(())
}

fn check_values(spec: &PipelineSpec) -> Result<(), GraphError> {
    fn range(place: &str, key: &'static str, value: u64, max: u64) -> Result<(), GraphError> {
        if (1..=max).contains(&value) {
            return Ok(());
        }
        Err(GraphError::OutOfRange { place: place.to_owned(), key, value, max })
    }
    if let Some(deadline_ms) = spec.deadline_ms {
        range("pipeline", "deadline-ms", deadline_ms, u64::MAX)?;
    }
    if spec.source.as_ref().is_some_and(|source| source.media_types.is_empty()) {
        return Err(GraphError::NoMediaTypes);
    }
    range("pipeline", "queue.capacity", spec.queue.capacity.into(), MAX_QUEUE_FRAMES)?;
    for stage in &spec.stage {
        let place = format!("stage {:?}", stage.id);
        range(&place, "breaker.failures", stage.breaker.failures.into(), u64::MAX)?;
        for (key, asked) in stage.limits.asked() {
            range(&place, key, asked, u64::MAX)?;
        }
        if let StageKind::Model { batch: Some(batch), .. } = &stage.kind {
            range(&place, "batch.max", batch.max.into(), MAX_BATCH_ROWS)?;
            range(&place, "batch.delay-ms", batch.delay_ms.into(), MAX_BATCH_DELAY_MS)?;
            range(&place, "batch.queue", batch.queue.into(), MAX_QUEUE_FRAMES)?;
        }
    }
    for monitor in &spec.monitor {
        let place = format!("monitor {:?}", monitor.id);
        range(&place, "queue", monitor.queue.into(), MAX_QUEUE_ROWS)?;
        range(&place, "batch-rows", monitor.batch_rows.into(), monitor.queue.into())?;
        range(&place, "window-rows", monitor.window_rows.into(), u64::MAX)?;
        if let Some(percent) = monitor.max_percent {
            range(&place, "max-percent", percent.into(), 100)?;
        }
        if let Some(labels) = monitor.labels {
            range(&place, "labels.wait", labels.wait.into(), MAX_WAITING_ROWS.into())?;
        }
        for (key, asked) in monitor.limits.asked() {
            range(&place, key, asked, u64::MAX)?;
        }
    }
    for explainer in &spec.explainer {
        let place = format!("explainer {:?}", explainer.id);
        range(&place, "max-model-calls", explainer.max_model_calls.into(), u64::MAX)?;
        for (key, asked) in explainer.limits.asked() {
            range(&place, key, asked, u64::MAX)?;
        }
    }
    Ok(())
}

/// Split `stage.tensor`; a tensor's name may itself hold dots.
fn split_reference(reference: &str) -> (&str, Option<String>) {
    match reference.split_once('.') {
        Some((id, tensor)) => (id, Some(tensor.to_owned())),
        None => (reference, None),
    }
}

/// Names to indices.
fn resolve(spec: &PipelineSpec) -> Result<Vec<Node>, GraphError> {
    let mut nodes = vec![Node::default(); spec.stage.len()];
    for (index, stage) in spec.stage.iter().enumerate() {
        let stage_id = || stage.id.clone();
        if stage.inputs.is_empty() {
            return Err(GraphError::NoInputs { stage: stage_id() });
        }
        let mut taken: BTreeMap<Port, Vec<Option<String>>> = BTreeMap::new();
        for input in &stage.inputs {
            let (id, tensor) = split_reference(input);
            let port = match id {
                SOURCE => Port::Source,
                _ => Port::Stage(find(&spec.stage, id).ok_or_else(|| {
                    GraphError::UnknownInput { stage: stage_id(), input: input.clone() }
                })?),
            };
            let already = taken.entry(port).or_default();
            let overlaps = already.iter().any(|other| match (other, &tensor) {
                (Some(other), Some(tensor)) => other == tensor,
                _ => true,
            });
            if overlaps {
                return Err(GraphError::DuplicateInput { stage: stage_id(), input: input.clone() });
            }
            already.push(tensor.clone());
            nodes[index].wires.push(Wire { port, tensor, routed: false });
        }
        if let Some(id) = &stage.fallback {
            let fallback = find(&spec.stage, id).ok_or_else(|| GraphError::UnknownFallback {
                stage: stage_id(),
                fallback: id.clone(),
            })?;
            nodes[index].fallback = Some(fallback);
            nodes[fallback].serves.insert(index);
        }
        if let StageKind::Router { branches } = &stage.kind {
            let mut seen = StageSet::default();
            for branch in branches {
                let to = find(&spec.stage, &branch.to).ok_or_else(|| {
                    GraphError::UnknownBranch { router: stage_id(), to: branch.to.clone() }
                })?;
                if seen.contains(to) {
                    return Err(GraphError::DuplicateBranch {
                        router: stage_id(),
                        to: branch.to.clone(),
                    });
                }
                seen.insert(to);
                if branch.weight > 0 {
                    nodes[index].branches.push((to, branch.weight));
                }
            }
        }
    }
    Ok(nodes)
}

/// Every stage after its inputs, and otherwise in the order of the file.
fn topological_order(stages: &[StageSpec], nodes: &[Node]) -> Result<Vec<usize>, GraphError> {
    fn visit(
        stage: usize,
        stages: &[StageSpec],
        nodes: &[Node],
        path: &mut Vec<usize>,
        order: &mut Vec<usize>,
    ) -> Result<(), GraphError> {
        if order.contains(&stage) {
            return Ok(());
        }
        if let Some(start) = path.iter().position(|&on_path| on_path == stage) {
            // The path goes from a stage to its inputs; told in the direction
            // of the data, it reads backwards.
            let mut cycle: Vec<usize> = path[start..].to_vec();
            cycle.push(stage);
            cycle.reverse();
            return Err(GraphError::Cycle { cycle: arrows(stages, &cycle) });
        }
        path.push(stage);
        for wire in &nodes[stage].wires {
            if let Port::Stage(input) = wire.port {
                visit(input, stages, nodes, path, order)?;
            }
        }
        path.pop();
        order.push(stage);
        Ok(())
    }
    let mut order = Vec::with_capacity(nodes.len());
    for stage in 0..nodes.len() {
        visit(stage, stages, nodes, &mut Vec::new(), &mut order)?;
    }
    Ok(order)
}

fn arrows(stages: &[StageSpec], path: &[usize]) -> String {
    path.iter().map(|&stage| stages[stage].id.as_str()).collect::<Vec<_>>().join(" -> ")
}

fn is_router(stages: &[StageSpec], stage: usize) -> bool {
    matches!(stages[stage].kind, StageKind::Router { .. })
}

fn mark_routed(stages: &[StageSpec], nodes: &mut [Node], order: &[usize]) {
    for &stage in order {
        let routed: Vec<bool> = nodes[stage]
            .wires
            .iter()
            .map(|wire| match wire.port {
                Port::Source => false,
                Port::Stage(input) => {
                    is_router(stages, input) || nodes[input].wires.iter().any(|w| w.routed)
                }
            })
            .collect();
        for (wire, routed) in nodes[stage].wires.iter_mut().zip(routed) {
            wire.routed = routed;
        }
    }
}

/// For each stage, the stages that its inputs come from, all the way up.
fn upstream(nodes: &[Node], order: &[usize]) -> Vec<StageSet> {
    let mut upstream = vec![StageSet::default(); nodes.len()];
    for &stage in order {
        for wire in &nodes[stage].wires {
            if let Port::Stage(input) = wire.port {
                upstream[stage] = upstream[stage].union(upstream[input]);
                upstream[stage].insert(input);
            }
        }
    }
    upstream
}

fn check_routers(
    stages: &[StageSpec],
    nodes: &[Node],
    fallbacks: StageSet,
) -> Result<(), GraphError> {
    let takes = |stage: usize, input: usize| {
        nodes[stage].wires.iter().any(|wire| wire.port == Port::Stage(input))
    };
    for (router, stage) in stages.iter().enumerate() {
        let StageKind::Router { branches } = &stage.kind else { continue };
        if branches.is_empty() {
            return Err(GraphError::NoBranches { router: stage.id.clone() });
        }
        if nodes[router].branches.is_empty() {
            return Err(GraphError::ZeroWeights { router: stage.id.clone() });
        }
        for (other, taker) in stages.iter().enumerate() {
            let is_branch = branches.iter().any(|branch| branch.to == taker.id);
            if is_branch && !takes(other, router) {
                return Err(GraphError::BranchNotWired {
                    router: stage.id.clone(),
                    to: taker.id.clone(),
                });
            }
            // A branch's fallback may take what its branch was to take.
            if takes(other, router) && !is_branch && !fallbacks.contains(other) {
                return Err(GraphError::NotABranch {
                    router: stage.id.clone(),
                    stage: taker.id.clone(),
                });
            }
        }
    }
    Ok(())
}

fn check_fallbacks(
    spec: &PipelineSpec,
    nodes: &[Node],
    upstream: &[StageSet],
    output: usize,
) -> Result<(), GraphError> {
    let stages = &spec.stage;
    for start in 0..nodes.len() {
        let mut path = vec![start];
        while let Some(next) = nodes[path[path.len() - 1]].fallback {
            let comes_back = path.contains(&next);
            path.push(next);
            if comes_back {
                return Err(GraphError::FallbackCycle { cycle: arrows(stages, &path) });
            }
        }
    }
    for (stage, node) in nodes.iter().enumerate() {
        let Some(fallback) = node.fallback else { continue };
        let (stage_id, fallback_id) = (|| stages[stage].id.clone(), || stages[fallback].id.clone());
        if is_router(stages, stage) || is_router(stages, fallback) {
            return Err(GraphError::FallbackRouter { stage: stage_id(), fallback: fallback_id() });
        }
        if stages[stage].shadow || stages[fallback].shadow {
            return Err(GraphError::FallbackShadow { stage: stage_id(), fallback: fallback_id() });
        }
        if stages[stage].gives_prediction() != stages[fallback].gives_prediction() {
            return Err(GraphError::FallbackKind { stage: stage_id(), fallback: fallback_id() });
        }
        let used = |by: String| GraphError::FallbackUsed { fallback: fallback_id(), by };
        if fallback == output {
            return Err(used("the output".to_owned()));
        }
        for (other, taker) in stages.iter().enumerate() {
            if nodes[other].wires.iter().any(|wire| wire.port == Port::Stage(fallback)) {
                return Err(used(format!("an input of stage {:?}", taker.id)));
            }
            if let StageKind::Router { branches } = &taker.kind
                && branches.iter().any(|branch| branch.to == stages[fallback].id)
            {
                return Err(used(format!("a branch of router {:?}", taker.id)));
            }
        }
        // What has run by the time that the stage, or any stage that it
        // stands in for, fails.
        let mut available = upstream[stage];
        let mut served = node.serves;
        while let Some(original) = served.iter().next() {
            available = available.union(upstream[original]);
            served.remove(original);
            served = served.union(nodes[original].serves);
        }
        let missing = nodes[fallback].wires.iter().position(|wire| match wire.port {
            Port::Source => false,
            Port::Stage(input) => !available.contains(input),
        });
        if let Some(missing) = missing {
            return Err(GraphError::FallbackInput {
                stage: stage_id(),
                fallback: fallback_id(),
                input: stages[fallback].inputs[missing].clone(),
            });
        }
    }
    Ok(())
}

fn check_shadows(stages: &[StageSpec], nodes: &[Node], output: usize) -> Result<(), GraphError> {
    if stages[output].shadow {
        return Err(GraphError::ShadowOutput { output: stages[output].id.clone() });
    }
    for (stage, node) in stages.iter().zip(nodes).filter(|(stage, _)| !stage.shadow) {
        for wire in &node.wires {
            if let Port::Stage(input) = wire.port
                && stages[input].shadow
            {
                return Err(GraphError::ShadowAsInput {
                    stage: stage.id.clone(),
                    shadow: stages[input].id.clone(),
                });
            }
        }
    }
    Ok(())
}

fn check_predictions(stages: &[StageSpec], nodes: &[Node]) -> Result<(), GraphError> {
    for (stage, node) in stages.iter().zip(nodes) {
        for wire in &node.wires {
            if let Port::Stage(input) = wire.port
                && stages[input].gives_prediction()
            {
                return Err(GraphError::PredictionAsInput {
                    stage: stage.id.clone(),
                    input: stages[input].id.clone(),
                });
            }
        }
    }
    Ok(())
}

/// Try every way that the routers can choose.
fn check_routes(
    stages: &[StageSpec],
    nodes: &[Node],
    order: &[usize],
    output: usize,
) -> Result<(), GraphError> {
    let routers: Vec<usize> =
        (0..nodes.len()).filter(|&stage| !nodes[stage].branches.is_empty()).collect();
    let routes = routers
        .iter()
        .try_fold(1_usize, |product, &router| product.checked_mul(nodes[router].branches.len()))
        .filter(|&routes| routes <= MAX_ROUTES)
        .ok_or(GraphError::TooManyRoutes)?;
    for mut route in 0..routes {
        let mut chosen = vec![None; nodes.len()];
        for &router in &routers {
            let branches = &nodes[router].branches;
            chosen[router] = Some(branches[route % branches.len()].0);
            route /= branches.len();
        }
        let mut ran = StageSet::default();
        for &stage in order {
            let stands_in = !nodes[stage].serves.is_empty();
            let runs = nodes[stage].runs(|wire| match wire.port {
                Port::Source => true,
                Port::Stage(input) => {
                    ran.contains(input)
                        && (stands_in || chosen[input].is_none_or(|branch| branch == stage))
                }
            });
            if runs {
                ran.insert(stage);
            }
        }
        let told = || {
            let choice = |&router: &usize| {
                let to = chosen[router]?;
                Some(format!("{:?} sends to {:?}", stages[router].id, stages[to].id))
            };
            routers.iter().filter_map(choice).collect::<Vec<_>>().join(" and ")
        };
        if !ran.contains(output) {
            return Err(GraphError::OutputNotOnRoute {
                output: stages[output].id.clone(),
                route: told(),
            });
        }
        for stage in ran.iter().filter(|&stage| nodes[stage].serves.is_empty()) {
            if let Some(fallback) = fallback_chain(nodes, stage).find(|&f| !ran.contains(f)) {
                return Err(GraphError::FallbackNotOnRoute {
                    stage: stages[stage].id.clone(),
                    fallback: stages[fallback].id.clone(),
                    route: told(),
                });
            }
        }
    }
    Ok(())
}

fn resolve_monitor(
    spec: &PipelineSpec,
    monitor: &MonitorSpec,
    output: usize,
    shadows: StageSet,
) -> Result<Monitor, GraphError> {
    let id = || monitor.id.clone();
    if monitor.taps.is_empty() {
        return Err(GraphError::NoTaps { monitor: id() });
    }
    let mut resolved = Monitor {
        taps: Vec::with_capacity(monitor.taps.len()),
        shadows: StageSet::default(),
        declared: Vec::new(),
    };
    let mut names = BTreeSet::new();
    for tap in &monitor.taps {
        let (from, tensor) = split_reference(&tap.from);
        let port =
            match from {
                SOURCE => Port::Source,
                PREDICTION if tensor.is_none() => Port::Stage(output),
                _ => Port::Stage(find(&spec.stage, from).ok_or_else(|| {
                    GraphError::UnknownTap { monitor: id(), from: tap.from.clone() }
                })?),
            };
        let of_prediction = match port {
            Port::Source => false,
            Port::Stage(stage) => spec.stage[stage].gives_prediction(),
        };
        if from == PREDICTION && !of_prediction {
            return Err(GraphError::NoPrediction { monitor: id(), output: spec.output.clone() });
        }
        if of_prediction && (tensor.is_some() || tap.reduce != Reduce::None) {
            return Err(GraphError::TapOfPrediction { monitor: id(), from: tap.from.clone() });
        }
        let columns = tap.columns.as_deref();
        if columns.is_some_and(|columns| columns.is_empty() || columns.len() > MAX_COLUMNS) {
            return Err(GraphError::TapColumns {
                monitor: id(),
                from: tap.from.clone(),
                columns: columns.map_or(0, <[_]>::len),
            });
        }
        // Two taps that give predictions without saying which columns would
        // give the same ones.
        let unsaid = ["class".to_owned()];
        let named = columns.unwrap_or(if of_prediction { &unsaid } else { &[] });
        for name in named {
            let name = format!("{}{name}", tap.prefix);
            if !names.insert(name.clone()) {
                return Err(GraphError::DuplicateColumn { monitor: id(), column: name });
            }
            if let Port::Stage(_) = port
                && !of_prediction
            {
                resolved.declared.push(name);
            }
        }
        if let Port::Stage(stage) = port
            && shadows.contains(stage)
        {
            resolved.shadows.insert(stage);
        }
        resolved.taps.push(Tap {
            port,
            tensor,
            columns: tap.columns.clone(),
            prefix: tap.prefix.clone(),
            reduce: tap.reduce,
        });
    }
    if names.len() > MAX_COLUMNS {
        return Err(GraphError::TooManyColumns { monitor: id(), columns: names.len() });
    }
    Ok(resolved)
}

/// The stage that an explainer explains.
fn resolve_explainer(stages: &[StageSpec], explainer: &ExplainerSpec) -> Result<usize, GraphError> {
    let id = || explainer.id.clone();
    let of = || explainer.of.clone();
    if explainer.device.is_some() && explainer.models.is_empty() {
        return Err(GraphError::ExplainerDevice { explainer: id() });
    }
    let stage = find(stages, &explainer.of)
        .ok_or_else(|| GraphError::UnknownExplained { explainer: id(), of: of() })?;
    // What the scheduler does itself is no model's work, and a shadow has no
    // part in the prediction.
    let reason = match &stages[stage] {
        shadow if shadow.shadow => "it is a shadow",
        StageSpec { kind: StageKind::Router { .. }, .. } => "it is a router",
        StageSpec { kind: StageKind::Combine { .. }, .. } => "it is a combiner",
        _ => return Ok(stage),
    };
    Err(GraphError::NotExplained { explainer: id(), of: of(), reason })
}

/// Why a pipeline makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GraphError {
    /// No stage at all.
    #[error("the pipeline has no stage")]
    NoStages,
    /// More than [`MAX_STAGES`].
    #[error("the pipeline has {stages} stages, more than the {MAX_STAGES} allowed")]
    TooManyStages {
        /// How many.
        stages: usize,
    },
    /// More than [`MAX_MONITORS`].
    #[error("the pipeline has {monitors} monitors, more than the {MAX_MONITORS} allowed")]
    TooManyMonitors {
        /// How many.
        monitors: usize,
    },
    /// More than [`MAX_EXPLAINERS`].
    #[error("the pipeline has {explainers} explainers, more than the {MAX_EXPLAINERS} allowed")]
    TooManyExplainers {
        /// How many.
        explainers: usize,
    },
    /// An id that means something else.
    #[error("no stage or monitor can be called {id:?}: inputs and taps use the word")]
    ReservedId {
        /// The id.
        id: String,
    },
    /// An id with other characters.
    #[error("{id:?} is no id: use a to z, 0 to 9 and inner hyphens, at most {MAX_ID_BYTES}")]
    BadId {
        /// The id.
        id: String,
    },
    /// Two of the same id.
    #[error("two stages, monitors or explainers are called {id:?}")]
    DuplicateId {
        /// The id.
        id: String,
    },
    /// An empty name.
    #[error("{place}: `{key}` has an empty name")]
    EmptyName {
        /// Whose.
        place: String,
        /// The key.
        key: &'static str,
    },
    /// A number that is 0 or too large.
    #[error("{place}: `{key}` is {value}; it must be at least 1 and at most {max}")]
    OutOfRange {
        /// Whose.
        place: String,
        /// The key.
        key: &'static str,
        /// What it is.
        value: u64,
        /// What it may be at most.
        max: u64,
    },
    /// A source that nothing can come from.
    #[error("pipeline: `source.media-types` is empty, so no frame would be let in")]
    NoMediaTypes,
    /// A stage that takes nothing.
    #[error("stage {stage:?} has no inputs; name a stage or \"source\"")]
    NoInputs {
        /// The stage.
        stage: String,
    },
    /// An input that names no stage.
    #[error("stage {stage:?} has the input {input:?}, which is neither a stage nor \"source\"")]
    UnknownInput {
        /// The stage.
        stage: String,
        /// Its input.
        input: String,
    },
    /// The same tensors taken twice.
    #[error("stage {stage:?} takes the input {input:?} a second time")]
    DuplicateInput {
        /// The stage.
        stage: String,
        /// Its input.
        input: String,
    },
    /// A fallback that names no stage.
    #[error("stage {stage:?} has the fallback {fallback:?}, which is no stage")]
    UnknownFallback {
        /// The stage.
        stage: String,
        /// Its fallback.
        fallback: String,
    },
    /// A branch that names no stage.
    #[error("router {router:?} has a branch to {to:?}, which is no stage")]
    UnknownBranch {
        /// The router.
        router: String,
        /// The branch.
        to: String,
    },
    /// Two branches to one stage.
    #[error("router {router:?} has two branches to {to:?}")]
    DuplicateBranch {
        /// The router.
        router: String,
        /// The branch.
        to: String,
    },
    /// Stages that wait for each other.
    #[error("the stages feed each other in a cycle: {cycle}")]
    Cycle {
        /// The stages in the direction of the data, the first again last.
        cycle: String,
    },
    /// An output that names no stage.
    #[error("the pipeline's output is {output:?}, which is no stage")]
    UnknownOutput {
        /// The output.
        output: String,
    },
    /// A router without branches.
    #[error("router {router:?} has no branches")]
    NoBranches {
        /// The router.
        router: String,
    },
    /// A router that chooses nothing.
    #[error("router {router:?} has only branches of weight 0")]
    ZeroWeights {
        /// The router.
        router: String,
    },
    /// A branch that does not take what the router gives.
    #[error("router {router:?} has a branch to {to:?}, whose inputs do not name the router")]
    BranchNotWired {
        /// The router.
        router: String,
        /// The branch.
        to: String,
    },
    /// A stage that takes from a router that has no branch to it.
    #[error("stage {stage:?} takes from router {router:?}, which has no branch to it")]
    NotABranch {
        /// The router.
        router: String,
        /// The stage.
        stage: String,
    },
    /// Fallbacks that stand in for each other.
    #[error("the fallbacks lead back to themselves: {cycle}")]
    FallbackCycle {
        /// The stages, each before its fallback.
        cycle: String,
    },
    /// A router as a fallback, or with one.
    #[error("stage {stage:?} cannot fall back to {fallback:?}: one of them is a router")]
    FallbackRouter {
        /// The stage.
        stage: String,
        /// Its fallback.
        fallback: String,
    },
    /// A shadow as a fallback, or with one.
    #[error("stage {stage:?} cannot fall back to {fallback:?}: one of them is a shadow")]
    FallbackShadow {
        /// The stage.
        stage: String,
        /// Its fallback.
        fallback: String,
    },
    /// A prediction in place of tensors, or the other way round.
    #[error(
        "stage {stage:?} cannot fall back to {fallback:?}: \
         one gives a prediction and the other tensors"
    )]
    FallbackKind {
        /// The stage.
        stage: String,
        /// Its fallback.
        fallback: String,
    },
    /// A fallback that is something else, too.
    #[error("stage {fallback:?} is a fallback, so it cannot be {by}, too")]
    FallbackUsed {
        /// The fallback.
        fallback: String,
        /// What else it is.
        by: String,
    },
    /// A fallback whose input may not be there when it is needed.
    #[error(
        "stage {stage:?} falls back to {fallback:?}, whose input {input:?} \
         need not have run when {stage:?} fails"
    )]
    FallbackInput {
        /// The stage.
        stage: String,
        /// Its fallback.
        fallback: String,
        /// The fallback's input.
        input: String,
    },
    /// A fallback whose inputs are all routed away.
    #[error("stage {stage:?} falls back to {fallback:?}, which gets no input when router {route}")]
    FallbackNotOnRoute {
        /// The stage.
        stage: String,
        /// Its fallback.
        fallback: String,
        /// What the routers choose then.
        route: String,
    },
    /// A shadow as the pipeline's output.
    #[error("the pipeline's output {output:?} is a shadow")]
    ShadowOutput {
        /// The output.
        output: String,
    },
    /// A shadow that would have a say.
    #[error("stage {stage:?} takes from the shadow {shadow:?}, but is none itself")]
    ShadowAsInput {
        /// The stage.
        stage: String,
        /// The shadow.
        shadow: String,
    },
    /// A prediction is the end of its path.
    #[error("stage {stage:?} takes from {input:?}, which gives a prediction, not tensors")]
    PredictionAsInput {
        /// The stage.
        stage: String,
        /// Its input.
        input: String,
    },
    /// A stage that does nothing for the output.
    #[error("stage {stage:?} does not lead to the output {output:?}; is it a shadow?")]
    Unused {
        /// The stage.
        stage: String,
        /// The output.
        output: String,
    },
    /// More than [`MAX_ROUTES`].
    #[error("the routers together have more than the {MAX_ROUTES} routes allowed")]
    TooManyRoutes,
    /// An output that some frames would never reach.
    #[error("the output {output:?} is not reached when router {route}")]
    OutputNotOnRoute {
        /// The output.
        output: String,
        /// What the routers choose then.
        route: String,
    },
    /// A monitor that sees nothing.
    #[error("monitor {monitor:?} has no taps")]
    NoTaps {
        /// The monitor.
        monitor: String,
    },
    /// A tap that names no stage.
    #[error(
        "monitor {monitor:?} taps {from:?}, which is neither a stage, \"source\" nor \"prediction\""
    )]
    UnknownTap {
        /// The monitor.
        monitor: String,
        /// The tap.
        from: String,
    },
    /// A tap on a prediction that is none.
    #[error("monitor {monitor:?} taps the prediction, but the output {output:?} gives tensors")]
    NoPrediction {
        /// The monitor.
        monitor: String,
        /// The output.
        output: String,
    },
    /// A tap that would treat a prediction as a tensor.
    #[error("monitor {monitor:?} taps {from:?} as a tensor, but it is a prediction")]
    TapOfPrediction {
        /// The monitor.
        monitor: String,
        /// The tap.
        from: String,
    },
    /// A tap with no columns or too many.
    #[error(
        "monitor {monitor:?} names {columns} columns of {from:?}; 1 to {MAX_COLUMNS} are allowed"
    )]
    TapColumns {
        /// The monitor.
        monitor: String,
        /// The tap.
        from: String,
        /// How many.
        columns: usize,
    },
    /// Two columns of one name.
    #[error("monitor {monitor:?} has two columns {column:?}; give one tap a `prefix`")]
    DuplicateColumn {
        /// The monitor.
        monitor: String,
        /// The column.
        column: String,
    },
    /// An explainer of no stage.
    #[error("explainer {explainer:?} is `of` {of:?}, which is no stage")]
    UnknownExplained {
        /// The explainer.
        explainer: String,
        /// What it is of.
        of: String,
    },
    /// An explainer of a stage that runs nothing, or has no say.
    #[error("explainer {explainer:?} cannot explain stage {of:?}: {reason}")]
    NotExplained {
        /// The explainer.
        explainer: String,
        /// The stage.
        of: String,
        /// Why not.
        reason: &'static str,
    },
    /// A device for an explainer that runs no model.
    #[error("explainer {explainer:?} has `device`, which means nothing without `models`")]
    ExplainerDevice {
        /// The explainer.
        explainer: String,
    },
    /// More than [`MAX_COLUMNS`] over all taps.
    #[error("monitor {monitor:?} names {columns} columns, more than the {MAX_COLUMNS} allowed")]
    TooManyColumns {
        /// The monitor.
        monitor: String,
        /// How many.
        columns: usize,
    },
}
