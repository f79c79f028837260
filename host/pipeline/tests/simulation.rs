//! Random pipelines under random latencies, failures and overload, from
//! seeds. A seed that fails is printed; to replay it alone:
//! `HEADLAND_SIMULATION_SEED=n cargo test -p headland-pipeline --test simulation`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    panic,
    sync::Arc,
};

use headland_pipeline::{
    Branch, BreakerSpec, CallId, Combine, Command, Device, DropReason, FailureKind, Graph,
    LimitsSpec, MonitorSpec, OnFull, PipelineSpec, QueueSpec, Reduce, Scheduler, StageFailure,
    StageKind, StageOutcome, StageOutput, StageRun, StageSpec, TapSpec, World,
};
use headland_tensor::{ClassScore, Frame, NamedTensors, Prediction, Tensor};

const MS: u64 = 1_000_000;
const FRAMES: u64 = 24;
const SEEDS: u64 = 2_000;

/// SplitMix64.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len() as u64) as usize]
    }
}

/// A number that depends on all of these and nothing else.
fn hash(seed: u64, words: &[&str], frame: u64) -> u64 {
    let mut h = Rng(seed ^ frame.rotate_left(32)).next();
    for byte in words.iter().flat_map(|word| word.bytes().chain([0])) {
        h = Rng(h ^ u64::from(byte)).next();
    }
    h
}

/// A pipeline, and how its stages behave.
#[derive(Clone)]
struct Scene {
    seed: u64,
    spec: PipelineSpec,
    /// The name of the tensor that a stage gives, where it is not its id.
    names: BTreeMap<String, String>,
    /// In a thousand calls.
    failures: u64,
}

mod generate {
    use super::*;

    pub fn world(seed: u64) -> Scene {
        let rng = &mut Rng(seed);
        let mut maker = Maker { stages: vec![], names: BTreeMap::new(), next: 0 };
        let mut last = vec!["source".to_owned()];
        for _ in 0..=rng.below(4) {
            last = maker.segment(rng, &last);
        }
        let post = rng.one_in(2);
        let kind = if post { postprocess() } else { model() };
        let output = maker.stage("out", &last, kind);
        maker.fallbacks(rng);
        maker.shadows(rng);
        let monitor = (0..rng.below(3)).map(|i| maker.monitor(rng, i, post)).collect();
        let spec = PipelineSpec {
            schema: 1,
            name: format!("seed-{seed}"),
            deadline_ms: (!rng.one_in(4)).then(|| 5 + rng.below(80)),
            queue: QueueSpec {
                capacity: 1 + rng.below(4) as u32,
                on_full: *rng.pick(&[OnFull::DropOldest, OnFull::DropNewest]),
            },
            source: None,
            output,
            stage: maker.stages,
            monitor,
            explainer: Vec::new(),
        };
        Scene { seed, spec, names: maker.names, failures: *rng.pick(&[0, 50, 300]) }
    }

    fn model() -> StageKind {
        StageKind::Model { model: "m".into(), device: Device::Auto, batch: None }
    }

    fn postprocess() -> StageKind {
        StageKind::Component {
            component: "c".into(),
            world: World::Postprocess,
            config: serde_json::json!({}),
            models: vec![],
            device: Device::Auto,
            wasi: false,
        }
    }

    struct Maker {
        stages: Vec<StageSpec>,
        names: BTreeMap<String, String>,
        next: u32,
    }

    impl Maker {
        fn stage(&mut self, id: &str, inputs: &[String], kind: StageKind) -> String {
            self.next += 1;
            let id = if id == "out" { id.to_owned() } else { format!("{id}{}", self.next) };
            self.stages.push(StageSpec {
                id: id.clone(),
                inputs: inputs.to_vec(),
                fallback: None,
                breaker: BreakerSpec::default(),
                shadow: false,
                limits: LimitsSpec::default(),
                kind,
            });
            id
        }

        /// A piece of the pipeline that takes from `last`; what the next one
        /// is to take from.
        fn segment(&mut self, rng: &mut Rng, last: &[String]) -> Vec<String> {
            match rng.below(3) {
                0 => vec![self.stage("s", last, model())],
                1 => {
                    let count = 2 + rng.below(2);
                    let parts: Vec<String> =
                        (0..count).map(|_| self.stage("p", last, model())).collect();
                    match rng.below(4) {
                        0 => parts,
                        how => {
                            let combine = [Combine::Concat, Combine::Mean, Combine::Max];
                            let combine = combine[how as usize - 1];
                            if combine != Combine::Concat {
                                let of_one_name = parts.iter().map(|p| (p.clone(), "x".into()));
                                self.names.extend(of_one_name);
                            }
                            vec![self.stage("c", &parts, StageKind::Combine { combine })]
                        }
                    }
                }
                _ => {
                    let router = self.stage("r", last, StageKind::Router { branches: vec![] });
                    let at = self.stages.len() - 1;
                    let mut branches = vec![];
                    let mut tails = vec![];
                    for _ in 0..=rng.below(3) {
                        let head = self.stage("b", std::slice::from_ref(&router), model());
                        let weight = 1 + rng.below(9) as u32;
                        branches.push(Branch { to: head.clone(), weight });
                        let longer = rng.one_in(2);
                        tails.push(if longer { self.stage("t", &[head], model()) } else { head });
                    }
                    self.stages[at].kind = StageKind::Router { branches };
                    tails
                }
            }
        }

        fn fallbacks(&mut self, rng: &mut Rng) {
            let mut at = 0;
            let mut shared: Option<String> = None;
            // Over the fallbacks, too, so that there are chains.
            while at < self.stages.len() {
                let stage = &mut self.stages[at];
                stage.breaker =
                    BreakerSpec { failures: 1 + rng.below(4) as u32, open_ms: 1 + rng.below(60) };
                let StageSpec { id, inputs, kind, .. } = stage.clone();
                at += 1;
                let is_invoked = self.stages[at - 1].is_invoked();
                if !is_invoked || self.stages.len() > 40 || !rng.one_in(3) {
                    continue;
                }
                let is_model = matches!(kind, StageKind::Model { .. });
                let fallback = match &shared {
                    Some(shared) if is_model && !id.starts_with('f') && rng.one_in(2) => {
                        shared.clone()
                    }
                    _ => {
                        let from_source = rng.one_in(2);
                        let inputs = if from_source { vec!["source".to_owned()] } else { inputs };
                        let fallback = self.stage("f", &inputs, kind);
                        let name = self.names.get(&id).unwrap_or(&id).clone();
                        self.names.insert(fallback.clone(), name);
                        if from_source && is_model {
                            shared = Some(fallback.clone());
                        }
                        fallback
                    }
                };
                self.stages[at - 1].fallback = Some(fallback);
            }
        }

        fn shadows(&mut self, rng: &mut Rng) {
            let mut from: Vec<String> = self
                .stages
                .iter()
                .filter(|stage| {
                    !stage.gives_prediction()
                        && !stage.id.starts_with('f')
                        && !matches!(stage.kind, StageKind::Router { .. })
                })
                .map(|stage| stage.id.clone())
                .chain(["source".to_owned()])
                .collect();
            for _ in 0..rng.below(4) {
                let first = self.stages.len();
                let inputs = [rng.pick(&from).clone()];
                let id = if rng.one_in(3) {
                    let router = self.stage("r", &inputs, StageKind::Router { branches: vec![] });
                    let to =
                        [(); 2].map(|()| self.stage("h", std::slice::from_ref(&router), model()));
                    let branch = |to: &String| Branch { to: to.clone(), weight: 1 };
                    self.stages[first].kind =
                        StageKind::Router { branches: to.iter().map(branch).collect() };
                    to[0].clone()
                } else {
                    self.stage("h", &inputs, model())
                };
                self.stages[first..].iter_mut().for_each(|stage| stage.shadow = true);
                from.push(id);
            }
        }

        fn monitor(&mut self, rng: &mut Rng, index: u64, post: bool) -> MonitorSpec {
            let mut from: Vec<String> = self.stages.iter().map(|stage| stage.id.clone()).collect();
            from.extend(post.then(|| "prediction".to_owned()));
            let tap = |from: &str, i| TapSpec {
                from: from.to_owned(),
                columns: None,
                prefix: format!("{i}."),
                reduce: Reduce::None,
            };
            let mut taps = vec![tap("source", 0)];
            taps.extend((1..=rng.below(4)).map(|i| tap(rng.pick::<String>(&from), i)));
            MonitorSpec {
                id: format!("monitor-{index}"),
                component: "c".into(),
                config: serde_json::json!({}),
                reference: None,
                taps,
                batch_rows: 1,
                window_rows: 1,
                queue: 1,
                max_percent: None,
                labels: None,
                limits: LimitsSpec::default(),
            }
        }
    }
}

impl Scene {
    fn payload(&self, frame: u64) -> NamedTensors {
        let value = (hash(self.seed, &["payload"], frame) % 1000) as f32;
        vec![("payload".into(), Tensor::from_elements(&[1], &[value]).unwrap())]
    }

    fn latency_ns(&self, stage: &str, frame: u64) -> u64 {
        let h = hash(self.seed, &["latency", stage], frame);
        let spread = if h.is_multiple_of(20) { 200 * MS } else { 15 * MS };
        (h >> 8) % spread
    }

    fn gap_ns(&self, frame: u64) -> u64 {
        let spread = 1 + hash(self.seed, &["pace"], 0) % (30 * MS);
        hash(self.seed, &["gap"], frame) % spread
    }

    fn failure(&self, stage: &str, frame: u64) -> Option<StageFailure> {
        let h = hash(self.seed, &["failure", stage], frame);
        let kinds = [FailureKind::Trap, FailureKind::Timeout, FailureKind::BadInput];
        let kind = kinds[(h >> 32) as usize % kinds.len()];
        (h % 1000 < self.failures).then(|| StageFailure { kind, message: format!("{h:x}") })
    }

    /// What a stage makes of its inputs: different for any other input.
    fn output(&self, stage: &StageSpec, inputs: &NamedTensors) -> StageOutput {
        let told: String =
            inputs.iter().map(|(name, tensor)| format!("{name}={:?}", tensor.to_f64())).collect();
        let h = hash(self.seed, &[&stage.id, &told], 0);
        if stage.gives_prediction() {
            let class = ClassScore { index: 0, label: format!("{h:x}"), score: 0.0 };
            return StageOutput::Prediction(Prediction {
                classes: vec![class],
                ..Prediction::default()
            });
        }
        let values = [(h % 1000) as f32, (h >> 32) as f32];
        let name = self.names.get(&stage.id).unwrap_or(&stage.id);
        StageOutput::Tensors(vec![(name.clone(), Tensor::from_elements(&[2], &values).unwrap())])
    }

    fn stage(&self, id: &str) -> &StageSpec {
        self.spec.stage.iter().find(|stage| stage.id == id).unwrap()
    }

    /// The same without shadows and monitors.
    fn without_onlookers(&self) -> Self {
        let mut world = self.clone();
        world.spec.monitor.clear();
        world.spec.stage.retain(|stage| !stage.shadow);
        world
    }

    /// The same without anything that depends on the time.
    fn without_time(&self) -> Self {
        let mut world = self.clone();
        world.spec.deadline_ms = None;
        world.spec.queue.capacity = FRAMES as u32;
        for stage in &mut world.spec.stage {
            stage.breaker.failures = u32::MAX;
        }
        world
    }
}

/// What came of a frame.
#[derive(Debug, Clone, PartialEq)]
struct End {
    frame: u64,
    result: Result<StageOutput, DropReason>,
    /// Stage, outcome, start and end.
    path: Vec<(String, StageOutcome, u64, u64)>,
    at_ns: u64,
}

/// Everything that a scheduler did.
#[derive(Debug, PartialEq)]
struct Record {
    ends: Vec<End>,
    log: Vec<String>,
}

impl Record {
    /// Without the time, and without which of two failing stages was first.
    fn results(&self) -> BTreeMap<u64, Result<&StageOutput, &'static str>> {
        self.ends
            .iter()
            .map(|end| (end.frame, end.result.as_ref().map_err(DropReason::code)))
            .collect()
    }
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Complete { call: CallId, stage: usize, frame: u64 },
    Submit { frame: u64 },
    Wake,
}

/// How many calls can be worked on at once.
#[derive(Clone, Copy, PartialEq)]
enum Workers {
    One,
    Many,
}

/// Drives a scheduler and holds it to its word.
struct Run<'a> {
    world: &'a Scene,
    scheduler: Scheduler,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    next_event: u64,
    now: u64,
    workers: Workers,
    running: BTreeMap<usize, (CallId, StageOutputOrFailure)>,
    last_frame: BTreeMap<usize, u64>,
    admitted: BTreeMap<u64, u64>,
    started: BTreeSet<u64>,
    finished: BTreeSet<u64>,
    rows: BTreeSet<(usize, u64)>,
    record: Record,
}

type StageOutputOrFailure = Result<StageOutput, StageFailure>;

macro_rules! hold {
    ($holds:expr, $($said:tt)*) => {
        if !$holds {
            return Err(format!($($said)*));
        }
    };
}

impl<'a> Run<'a> {
    fn new(world: &'a Scene, workers: Workers) -> Self {
        let graph = Graph::new(world.spec.clone()).unwrap_or_else(|e| panic!("{e}"));
        let mut run = Self {
            world,
            scheduler: Scheduler::new(Arc::new(graph), world.seed),
            events: BinaryHeap::new(),
            next_event: 0,
            now: 0,
            workers,
            running: BTreeMap::new(),
            last_frame: BTreeMap::new(),
            admitted: BTreeMap::new(),
            started: BTreeSet::new(),
            finished: BTreeSet::new(),
            rows: BTreeSet::new(),
            record: Record { ends: vec![], log: vec![] },
        };
        let mut at = 0;
        for frame in 0..FRAMES {
            at += world.gap_ns(frame);
            run.at(at, Event::Submit { frame });
        }
        run
    }

    fn at(&mut self, at_ns: u64, event: Event) {
        self.events.push(Reverse((at_ns, self.next_event, event)));
        self.next_event += 1;
    }

    fn finish(mut self) -> Result<Record, String> {
        while let Some(Reverse((at_ns, _, event))) = self.events.pop() {
            self.now = at_ns;
            match event {
                Event::Submit { frame } => self.submit(frame)?,
                Event::Complete { call, stage, frame } => {
                    let (open, result) = self.running.remove(&stage).unwrap();
                    hold!(open == call, "stage {stage} was called again before {frame} was done");
                    self.scheduler.complete(call, result, self.now);
                }
                Event::Wake => {}
            }
            // A single worker polls only once it is free again.
            if self.workers == Workers::One && !self.running.is_empty() {
                continue;
            }
            while let Some(command) = self.scheduler.poll(self.now) {
                let is_call = matches!(command, Command::Invoke { .. });
                self.obey(command)?;
                if is_call && self.workers == Workers::One {
                    break;
                }
            }
            if let Some(deadline) = self.scheduler.next_deadline_ns() {
                hold!(deadline > self.now, "a deadline of {deadline} is left at {}", self.now);
                self.at(deadline, Event::Wake);
            }
        }
        self.check_end()
    }

    fn submit(&mut self, frame: u64) -> Result<(), String> {
        let offered = Frame { id: frame, captured_at_ns: self.now, media_type: String::new() };
        match self.scheduler.submit(offered, self.world.payload(frame), self.now) {
            Ok(()) => {
                self.admitted.insert(frame, self.now);
            }
            Err(reason) => {
                let queue = self.world.spec.queue;
                hold!(reason == DropReason::QueueFull, "frame {frame} refused: {reason}");
                hold!(queue.on_full == OnFull::DropNewest, "frame {frame} refused by DropOldest");
                self.record.ends.push(End {
                    frame,
                    result: Err(reason),
                    path: vec![],
                    at_ns: self.now,
                });
            }
        }
        Ok(())
    }

    fn obey(&mut self, command: Command) -> Result<(), String> {
        self.record.log.push(format!("{} {command:?}", self.now));
        let world = self.world;
        let deadline = |since: u64| world.spec.deadline_ms.map(|ms| since + ms * MS);
        match command {
            Command::Invoke { call, stage, frame, inputs, deadline_ns } => {
                let spec = &self.scheduler.graph().stages()[stage];
                let id = spec.id.as_str();
                hold!(spec.is_invoked(), "{id} is not for calling");
                hold!(!self.running.contains_key(&stage), "{id} is called twice at once");
                let earlier = self.last_frame.insert(stage, frame.id);
                hold!(
                    earlier.is_none_or(|earlier| earlier < frame.id),
                    "{id} gets frame {} after {earlier:?}",
                    frame.id
                );
                if spec.shadow {
                    hold!(self.finished.contains(&frame.id), "shadow {id} before the result");
                } else {
                    hold!(!self.finished.contains(&frame.id), "{id} called for a finished frame");
                    let expected = deadline(self.admitted[&frame.id]);
                    hold!(deadline_ns == expected, "{id} was told another deadline");
                }
                hold!(deadline_ns.is_none_or(|at| at > self.now), "{id} called past the deadline");
                self.started.insert(frame.id);
                let result = match world.failure(id, frame.id) {
                    Some(failure) => Err(failure),
                    None => Ok(world.output(spec, &inputs)),
                };
                let done = self.now + world.latency_ns(id, frame.id);
                self.running.insert(stage, (call, result));
                self.at(done, Event::Complete { call, stage, frame: frame.id });
            }
            Command::Finished { frame, result, path } => {
                let id = frame.id;
                hold!(self.finished.insert(id), "frame {id} finished twice");
                let due = deadline(self.admitted[&id]);
                if self.workers == Workers::Many {
                    hold!(due.is_none_or(|due| self.now <= due), "frame {id} after its deadline");
                }
                if result.is_ok() {
                    let late = path.iter().any(|run| due.is_some_and(|due| run.end_ns >= due));
                    hold!(!late, "frame {id} has a result of a stage that was too late");
                }
                if result == Err(DropReason::Deadline) {
                    hold!(due.is_some_and(|due| self.now >= due), "frame {id} dropped early");
                }
                self.check_path(id, &result, &path)?;
                let told = |run: StageRun| {
                    let stage = self.scheduler.graph().stages()[run.stage].id.clone();
                    (stage, run.outcome, run.start_ns, run.end_ns)
                };
                let path = path.into_iter().map(told).collect();
                self.record.ends.push(End { frame: id, result, path, at_ns: self.now });
            }
            Command::Observe { monitor, row } => {
                let id = row.frame_id;
                hold!(self.finished.contains(&id), "frame {id} observed before its result");
                let later = self.rows.range((monitor, id)..=(monitor, u64::MAX)).next();
                hold!(later.is_none(), "frame {id} observed after {later:?}");
                self.rows.insert((monitor, id));
            }
        }
        let waiting = self
            .admitted
            .keys()
            .filter(|&id| !self.started.contains(id) && !self.finished.contains(id))
            .count();
        let bound = world.spec.queue.capacity as usize + world.spec.stage.len();
        hold!(waiting <= bound, "{waiting} frames are waiting");
        Ok(())
    }

    /// Work the result out again, from the path alone and the long way.
    fn check_path(
        &self,
        frame: u64,
        result: &Result<StageOutput, DropReason>,
        path: &[StageRun],
    ) -> Result<(), String> {
        let mut outcomes: BTreeMap<&str, &StageOutcome> = BTreeMap::new();
        for run in path {
            let id = self.scheduler.graph().stages()[run.stage].id.as_str();
            hold!(run.start_ns <= run.end_ns, "{id} ended before it began");
            hold!(outcomes.insert(id, &run.outcome).is_none(), "{id} ran twice for {frame}");
            hold!(!self.world.stage(id).shadow, "shadow {id} is in the path");
        }
        match result {
            Ok(output) => {
                let oracle = Oracle { world: self.world, frame, outcomes };
                let expected = oracle.value(&self.world.spec.output)?;
                hold!(
                    expected.as_ref() == Some(output),
                    "frame {frame}: {output:?} where {expected:?} is right"
                );
            }
            Err(DropReason::StageFailed { stage, message, .. }) => {
                let failed = outcomes.get(stage.as_str());
                let is_told = matches!(failed, Some(StageOutcome::Failed(failure)) if failure.message == *message);
                hold!(is_told, "the path does not tell of the failure of {stage}");
                hold!(self.world.stage(stage).fallback.is_none(), "{stage} has a fallback");
            }
            Err(DropReason::BreakerOpen { stage }) => {
                let found = outcomes.get(stage.as_str());
                hold!(found == Some(&&StageOutcome::BreakerOpen), "{stage} was not passed over");
                hold!(self.world.stage(stage).fallback.is_none(), "{stage} has a fallback");
            }
            Err(DropReason::Deadline) => {}
            Err(DropReason::Evicted) => hold!(path.is_empty(), "evicted after it had started"),
            Err(other) => return Err(format!("frame {frame} dropped: {other}")),
        }
        Ok(())
    }

    fn check_end(self) -> Result<Record, String> {
        hold!(self.scheduler.is_idle(), "something is left");
        let admitted: BTreeSet<u64> = self.admitted.keys().copied().collect();
        hold!(admitted == self.finished, "admitted {admitted:?}, finished {:?}", self.finished);
        let stats = self.scheduler.stats();
        let dropped: u64 = stats.dropped.values().sum();
        hold!(stats.submitted == FRAMES, "{} frames counted", stats.submitted);
        hold!(stats.completed + dropped == FRAMES, "{} + {dropped}", stats.completed);
        let capacity = self.world.spec.queue.capacity as usize;
        hold!(stats.queue_high_water <= capacity, "{} waited", stats.queue_high_water);
        for (index, monitor) in stats.monitors.iter().enumerate() {
            hold!(monitor.rows_dropped == 0, "rows dropped");
            // Every monitor taps the source, so it has a row of every frame
            // that was worked on.
            let missed = self.started.iter().find(|&&id| !self.rows.contains(&(index, id)));
            hold!(missed.is_none(), "monitor {index} never saw frame {missed:?}");
        }
        Ok(self.record)
    }
}

/// What a frame's result should be, given only which of its stages failed:
/// from the output backwards, with none of the scheduler's bookkeeping.
struct Oracle<'a> {
    world: &'a Scene,
    frame: u64,
    outcomes: BTreeMap<&'a str, &'a StageOutcome>,
}

impl Oracle<'_> {
    fn value(&self, id: &str) -> Result<Option<StageOutput>, String> {
        let stage = self.world.stage(id);
        match self.outcomes.get(id) {
            None => return Ok(None),
            Some(StageOutcome::Completed) => {}
            Some(StageOutcome::Abandoned) => return Err(format!("{id} was abandoned")),
            Some(StageOutcome::Failed(_) | StageOutcome::BreakerOpen) => {
                let fallback = stage.fallback.as_ref().ok_or(format!("{id} failed"))?;
                return self.value(fallback);
            }
        }
        let mut inputs: Vec<NamedTensors> = vec![];
        for input in &stage.inputs {
            if input == "source" {
                inputs.push(self.world.payload(self.frame));
                continue;
            }
            if let StageKind::Router { branches } = &self.world.stage(input).kind {
                let tried: Vec<&Branch> = branches
                    .iter()
                    .filter(|branch| self.outcomes.contains_key(branch.to.as_str()))
                    .collect();
                hold!(tried.len() == 1, "{input} chose {tried:?}");
            }
            match self.value(input)? {
                Some(StageOutput::Tensors(tensors)) => inputs.push(tensors),
                Some(StageOutput::Prediction(_)) => return Err(format!("{id} took a prediction")),
                None => {}
            }
        }
        hold!(!inputs.is_empty(), "{id} ran on nothing");
        let reduce = |f: fn(f64, f64) -> f64, scale: f64| {
            let values = inputs.iter().map(|tensors| tensors[0].1.to_f64());
            let all = values.reduce(|a, b| a.iter().zip(&b).map(|(&a, &b)| f(a, b)).collect());
            let all: Vec<f32> =
                all.unwrap_or_default().iter().map(|&v| (v * scale) as f32).collect();
            let name = inputs[0][0].0.clone();
            StageOutput::Tensors(vec![(name, Tensor::from_elements(&[2], &all).unwrap())])
        };
        Ok(Some(match &stage.kind {
            StageKind::Combine { combine: Combine::Mean } => {
                reduce(|a, b| a + b, 1.0 / inputs.len() as f64)
            }
            StageKind::Combine { combine: Combine::Max } => reduce(f64::max, 1.0),
            StageKind::Combine { .. } | StageKind::Router { .. } => {
                StageOutput::Tensors(inputs.concat())
            }
            StageKind::Component { .. } | StageKind::Model { .. } => {
                self.world.output(stage, &inputs.concat())
            }
        }))
    }
}

fn check(seed: u64) -> Result<Record, String> {
    let world = generate::world(seed);
    let record = Run::new(&world, Workers::Many).finish()?;
    let alone = Run::new(&world.without_onlookers(), Workers::Many).finish()?;
    hold!(record.ends == alone.ends, "shadows or monitors changed something");

    // Once the time does not matter, neither does how much is done at once,
    // nor who looks on.
    let world = world.without_time();
    let many = Run::new(&world, Workers::Many).finish()?;
    let one = Run::new(&world, Workers::One).finish()?;
    hold!(many.results() == one.results(), "one worker gives other results than many");
    let alone = Run::new(&world.without_onlookers(), Workers::One).finish()?;
    hold!(one.results() == alone.results(), "one worker is not alone with its work");
    Ok(record)
}

#[test]
fn random_pipelines_keep_every_promise() {
    let only = std::env::var("HEADLAND_SIMULATION_SEED").ok();
    let seeds = match &only {
        Some(seed) => {
            let seed = seed.parse().expect("a number");
            seed..seed + 1
        }
        None => 0..SEEDS,
    };
    let mut reached: BTreeMap<&str, u64> = BTreeMap::new();
    for seed in seeds {
        let record = match panic::catch_unwind(|| check(seed)) {
            Ok(Ok(record)) => record,
            Ok(Err(broken)) => {
                panic!(
                    "HEADLAND_SIMULATION_SEED={seed}: {broken}\n{:#?}",
                    generate::world(seed).spec
                )
            }
            Err(panicked) => {
                eprintln!("HEADLAND_SIMULATION_SEED={seed}: panicked");
                panic::resume_unwind(panicked)
            }
        };
        for end in &record.ends {
            let what = end.result.as_ref().map_or_else(DropReason::code, |_| "completed");
            *reached.entry(what).or_default() += 1;
            for (_, outcome, ..) in &end.path {
                let what = match outcome {
                    StageOutcome::Completed => "stage completed",
                    StageOutcome::Failed(_) => "stage failed",
                    StageOutcome::BreakerOpen => "stage passed over",
                    StageOutcome::Abandoned => "stage abandoned",
                };
                *reached.entry(what).or_default() += 1;
            }
        }
    }
    // A simulation that never gets anywhere would keep every promise, too.
    if only.is_none() {
        for what in [
            "completed",
            "queue-full",
            "evicted",
            "deadline",
            "stage-failed",
            "breaker-open",
            "stage completed",
            "stage failed",
            "stage passed over",
            "stage abandoned",
        ] {
            assert!(reached.get(what).is_some_and(|&n| n > 500), "{what}: {reached:?}");
        }
    }
}

#[test]
fn a_seed_replays_exactly() {
    for seed in 0..50 {
        let world = generate::world(seed);
        let run = || Run::new(&world, Workers::Many).finish().unwrap();
        assert_eq!(run(), run(), "seed {seed}");
    }
}
