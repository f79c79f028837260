//! The state machine: frames and results in, calls and results out.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use headland_tensor::{Frame, NamedTensors, Prediction};
use serde::{Deserialize, Serialize};

use crate::{
    breaker::Breaker,
    combine::{self, Given},
    graph::{Graph, Monitor, Port, SOURCE, StageSet, Tap, Wire},
    row::{Row, RowMaker, Tapped},
    sampler::mix,
    spec::{OnFull, StageKind},
    stats::Stats,
};

/// The most finished frames that are kept for shadows and monitors.
pub const MAX_AFTERMATH_FRAMES: usize = 1_024;
/// The most that is kept of finished frames for shadows and monitors, in
/// bytes of tensors.
pub const MAX_AFTERMATH_BYTES: usize = 64 << 20;

/// One call of a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId(u64);

/// What the caller of a [`Scheduler`] is to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// Run a stage, and hand what comes of it to [`Scheduler::complete`],
    /// always: until then the stage is not called again.
    Invoke {
        /// The call.
        call: CallId,
        /// The stage's index in [`Graph::stages`].
        stage: usize,
        /// The frame.
        frame: Arc<Frame>,
        /// What the stage takes.
        inputs: NamedTensors,
        /// When nobody will want the result any more, on the clock of
        /// `now_ns`.
        deadline_ns: Option<u64>,
    },
    /// A frame is through: the one and only word on it.
    Finished {
        /// The frame.
        frame: Arc<Frame>,
        /// What the pipeline says of it, or why it says nothing.
        result: Result<StageOutput, DropReason>,
        /// What ran for it, by start.
        path: Vec<StageRun>,
    },
    /// A row for a monitor, of a frame that is finished.
    Observe {
        /// The monitor's index in [`Graph::monitors`].
        monitor: usize,
        /// The row.
        row: Row,
    },
}

/// What a stage gives.
#[derive(Debug, Clone, PartialEq)]
pub enum StageOutput {
    /// Named tensors.
    Tensors(NamedTensors),
    /// A prediction, which only a component of the world `postprocess` gives.
    Prediction(Prediction),
}

/// How a stage failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureKind {
    /// It, or the scheduler for it, found the inputs unusable. That is no
    /// fault of the stage, so its breaker does not count it.
    BadInput,
    /// It returned another error.
    Refused,
    /// It trapped.
    Trap,
    /// It ran out of time.
    Timeout,
    /// It was stopped because the frame's deadline passed. That is no fault of
    /// the stage, so its breaker does not count it.
    Deadline,
    /// It ran into another limit.
    Limit,
    /// A model run directly failed.
    Inference,
    /// It gave what its world does not allow.
    BadOutput,
}

/// Why a call of a stage failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct StageFailure {
    /// How.
    pub kind: FailureKind,
    /// Why, for people.
    pub message: String,
}

/// Why a frame has no result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(tag = "code", rename_all = "kebab-case")]
pub enum DropReason {
    /// The queue was full when it came.
    #[error("the queue was full")]
    QueueFull,
    /// The queue was full when a newer one came.
    #[error("a newer frame took its place in the queue")]
    Evicted,
    /// Its media type is none that the pipeline takes.
    #[error("the pipeline does not take {media_type:?}")]
    MediaType {
        /// What it is.
        media_type: String,
    },
    /// Its time was up.
    #[error("its deadline passed")]
    Deadline,
    /// A stage failed that has no fallback left.
    #[error("stage {stage:?} failed: {message}")]
    StageFailed {
        /// The stage's id.
        stage: String,
        /// How.
        kind: FailureKind,
        /// Why.
        message: String,
    },
    /// A stage was not called that has no fallback left.
    #[error("stage {stage:?} has failed too often and is not called for now")]
    BreakerOpen {
        /// The stage's id.
        stage: String,
    },
    /// The scheduler was shut down.
    #[error("the pipeline was shut down")]
    Shutdown,
}

impl DropReason {
    /// A short name that stays: for counters and telemetry.
    pub fn code(&self) -> &'static str {
        match self {
            Self::QueueFull => "queue-full",
            Self::Evicted => "evicted",
            Self::MediaType { .. } => "media-type",
            Self::Deadline => "deadline",
            Self::StageFailed { .. } => "stage-failed",
            Self::BreakerOpen { .. } => "breaker-open",
            Self::Shutdown => "shutdown",
        }
    }
}

/// What came of a stage for a frame.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StageOutcome {
    /// It gave its output.
    Completed,
    /// It failed.
    Failed(StageFailure),
    /// Its breaker was open, so it was not called.
    BreakerOpen,
    /// It was still at it when the frame was dropped.
    Abandoned,
}

/// One stage's part in a frame. Routers and combiners take no time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageRun {
    /// The stage's index in [`Graph::stages`].
    pub stage: usize,
    /// What came of it.
    pub outcome: StageOutcome,
    /// When it was called, on the clock of `now_ns`.
    pub start_ns: u64,
    /// When it was done.
    pub end_ns: u64,
}

/// Where a stage stands with a frame.
#[derive(Debug)]
enum Slot {
    /// It is a fallback, and not needed so far.
    Idle,
    Waiting,
    /// It was called; its run is the path's entry of that index.
    Running {
        run: usize,
    },
    /// It has its output; a router also the branch that it chose.
    Done {
        output: StageOutput,
        to: Option<usize>,
    },
    /// Its inputs were routed away.
    Skipped,
    /// It failed, and the fallback of that index stands in.
    Replaced(usize),
    /// It failed for good.
    Failed,
}

/// A frame under way.
#[derive(Debug)]
struct Flight {
    /// Rises by one a flight.
    number: u64,
    frame: Arc<Frame>,
    source: NamedTensors,
    deadline_ns: Option<u64>,
    slots: Vec<Slot>,
    path: Vec<StageRun>,
    dropped: Option<DropReason>,
}

/// What comes down a wire.
enum Arrival<'a> {
    Pending,
    Absent,
    Failed,
    Present(&'a NamedTensors),
}

/// Whether a stage can run for a frame.
enum Readiness {
    Pending,
    Skip,
    Failed,
    Ready,
}

impl Flight {
    fn slot(&self, stage: usize) -> &Slot {
        match &self.slots[stage] {
            Slot::Replaced(fallback) => self.slot(*fallback),
            slot => slot,
        }
    }

    fn output(&self, stage: usize) -> Option<&StageOutput> {
        match self.slot(stage) {
            Slot::Done { output, .. } => Some(output),
            _ => None,
        }
    }

    fn arrival(&self, graph: &Graph, wire: &Wire, at: usize) -> Arrival<'_> {
        let Port::Stage(input) = wire.port else { return Arrival::Present(&self.source) };
        match self.slot(input) {
            Slot::Done { to: Some(branch), .. }
                if *branch != at && !graph.fallbacks.contains(at) =>
            {
                Arrival::Absent
            }
            Slot::Done { output: StageOutput::Tensors(tensors), .. } => Arrival::Present(tensors),
            // The graph lets no stage take a prediction.
            Slot::Done { output: StageOutput::Prediction(_), .. } | Slot::Skipped => {
                Arrival::Absent
            }
            Slot::Failed => Arrival::Failed,
            Slot::Idle | Slot::Waiting | Slot::Running { .. } | Slot::Replaced(_) => {
                Arrival::Pending
            }
        }
    }

    fn readiness(&self, graph: &Graph, stage: usize) -> Readiness {
        let node = &graph.nodes[stage];
        for wire in &node.wires {
            match self.arrival(graph, wire, stage) {
                Arrival::Pending => return Readiness::Pending,
                Arrival::Failed => return Readiness::Failed,
                Arrival::Absent | Arrival::Present(_) => {}
            }
        }
        let carries = |wire: &Wire| matches!(self.arrival(graph, wire, stage), Arrival::Present(_));
        if node.runs(carries) { Readiness::Ready } else { Readiness::Skip }
    }

    /// What a stage that is ready takes, wire by wire.
    fn given<'a>(&'a self, graph: &'a Graph, stage: usize) -> Result<Vec<Given<'a>>, String> {
        let mut given = Vec::with_capacity(graph.nodes[stage].wires.len());
        for wire in &graph.nodes[stage].wires {
            let Arrival::Present(tensors) = self.arrival(graph, wire, stage) else { continue };
            let from = match wire.port {
                Port::Source => SOURCE,
                Port::Stage(input) => &graph.stages()[input].id,
            };
            let tensors: Vec<_> = tensors
                .iter()
                .filter(|(name, _)| wire.tensor.as_ref().is_none_or(|picked| picked == name))
                .collect();
            if let (Some(picked), true) = (&wire.tensor, tensors.is_empty()) {
                return Err(format!("{from:?} gave no tensor {picked:?}"));
            }
            given.push(Given { from, tensors });
        }
        Ok(given)
    }

    /// Whether the stage can no longer be called for this frame.
    fn is_past(&self, graph: &Graph, stage: usize) -> bool {
        match &self.slots[stage] {
            Slot::Done { .. } | Slot::Skipped | Slot::Replaced(_) | Slot::Failed => true,
            Slot::Waiting | Slot::Running { .. } => false,
            Slot::Idle => {
                graph.nodes[stage].serves.iter().all(|served| self.is_past(graph, served))
            }
        }
    }

    /// The stages that may still be called for this frame.
    fn ahead(&self, graph: &Graph, scope: StageSet) -> StageSet {
        scope.iter().filter(|&stage| !self.is_past(graph, stage)).collect()
    }

    fn begin(&mut self, stage: usize, now_ns: u64) -> usize {
        self.path.push(StageRun {
            stage,
            outcome: StageOutcome::Abandoned,
            start_ns: now_ns,
            end_ns: now_ns,
        });
        self.path.len() - 1
    }

    fn end(&mut self, run: usize, outcome: StageOutcome, now_ns: u64) {
        if let Some(run) = self.path.get_mut(run) {
            run.outcome = outcome;
            run.end_ns = now_ns;
        }
    }
}

/// A finished frame that shadows or monitors have yet to see.
#[derive(Debug)]
struct Aftermath {
    flight: Flight,
    /// The monitors that have yet to see it.
    monitors: VecDeque<usize>,
    len_bytes: usize,
}

/// A frame that has not started.
#[derive(Debug)]
struct Waiting {
    frame: Arc<Frame>,
    inputs: NamedTensors,
    deadline_ns: Option<u64>,
}

#[derive(Debug)]
struct Call {
    flight: u64,
    stage: usize,
    start_ns: u64,
}

/// What came of an attempt to call a stage.
enum Start {
    Nothing,
    /// A stage failed without being called; look again.
    Failed,
    Invoke(Command),
}

/// The stages, across all frames.
#[derive(Debug)]
struct Stages {
    graph: Arc<Graph>,
    seed: u64,
    now_ns: u64,
    breakers: Vec<Breaker>,
    /// The stages that are handling a call.
    busy: StageSet,
    calls: HashMap<CallId, Call>,
    next_call: u64,
    stats: Stats,
}

impl Stages {
    /// Do for a frame what needs no call: skip what was routed away, run
    /// routers and combiners.
    fn settle(&mut self, flight: &mut Flight, scope: StageSet) {
        let graph = Arc::clone(&self.graph);
        loop {
            let mut changed = false;
            for &stage in graph.order.iter().filter(|&&stage| scope.contains(stage)) {
                if !matches!(flight.slots[stage], Slot::Waiting) {
                    continue;
                }
                match flight.readiness(&graph, stage) {
                    Readiness::Pending => continue,
                    Readiness::Skip => flight.slots[stage] = Slot::Skipped,
                    Readiness::Failed => flight.slots[stage] = Slot::Failed,
                    Readiness::Ready => {
                        if graph.stages()[stage].is_invoked() {
                            continue;
                        }
                        self.run_inside(&graph, flight, stage);
                    }
                }
                changed = true;
            }
            if !changed || flight.dropped.is_some() {
                return;
            }
        }
    }

    /// Run a router or a combiner.
    fn run_inside(&mut self, graph: &Graph, flight: &mut Flight, stage: usize) {
        self.stats.stages[stage].calls += 1;
        let run = flight.begin(stage, self.now_ns);
        let spec = &graph.stages()[stage];
        let (output, to) = match &spec.kind {
            StageKind::Combine { combine } => {
                let combine = |given: Vec<_>| combine::combine(*combine, &given);
                (flight.given(graph, stage).and_then(combine), None)
            }
            _ => {
                let branches = &graph.nodes[stage].branches;
                let to = choose(self.seed, flight.frame.id, &spec.id, branches);
                (flight.given(graph, stage).and_then(|given| combine::concat(&given)), to)
            }
        };
        match output {
            Ok(tensors) => {
                flight.end(run, StageOutcome::Completed, self.now_ns);
                flight.slots[stage] = Slot::Done { output: StageOutput::Tensors(tensors), to };
            }
            Err(message) => {
                let failure = StageFailure { kind: FailureKind::BadInput, message };
                self.fail(flight, stage, run, StageOutcome::Failed(failure));
            }
        }
    }

    /// Call the first stage of a frame that can be called. `ahead` are the
    /// stages that an earlier frame may still call.
    fn start(&mut self, flight: &mut Flight, scope: StageSet, ahead: StageSet) -> Start {
        let graph = Arc::clone(&self.graph);
        let callable = scope.minus(ahead).minus(self.busy);
        for &stage in graph.order.iter().filter(|&&stage| callable.contains(stage)) {
            let is_next = matches!(flight.slots[stage], Slot::Waiting)
                && graph.stages()[stage].is_invoked()
                && matches!(flight.readiness(&graph, stage), Readiness::Ready);
            if !is_next {
                continue;
            }
            let run = flight.begin(stage, self.now_ns);
            let admits = self.breakers[stage].admits(self.now_ns);
            self.stats.stages[stage].breaker = self.breakers[stage].state();
            if !admits {
                self.fail(flight, stage, run, StageOutcome::BreakerOpen);
                return Start::Failed;
            }
            let given = flight.given(&graph, stage);
            let inputs = match given.and_then(|given| combine::concat(&given)) {
                Ok(inputs) => inputs,
                Err(message) => {
                    let failure = StageFailure { kind: FailureKind::BadInput, message };
                    self.fail(flight, stage, run, StageOutcome::Failed(failure));
                    return Start::Failed;
                }
            };
            let call = CallId(self.next_call);
            self.next_call += 1;
            self.calls.insert(call, Call { flight: flight.number, stage, start_ns: self.now_ns });
            self.busy.insert(stage);
            self.stats.stages[stage].calls += 1;
            flight.slots[stage] = Slot::Running { run };
            return Start::Invoke(Command::Invoke {
                call,
                stage,
                frame: Arc::clone(&flight.frame),
                inputs,
                deadline_ns: flight.deadline_ns,
            });
        }
        Start::Nothing
    }

    /// A stage has no output for a frame: its fallback, or the end.
    fn fail(&mut self, flight: &mut Flight, stage: usize, run: usize, outcome: StageOutcome) {
        let spec = &self.graph.stages()[stage];
        let stats = &mut self.stats.stages[stage];
        let reason = match &outcome {
            StageOutcome::Failed(failure) => {
                stats.failures += 1;
                DropReason::StageFailed {
                    stage: spec.id.clone(),
                    kind: failure.kind,
                    message: failure.message.clone(),
                }
            }
            _ => {
                stats.breaker_open += 1;
                DropReason::BreakerOpen { stage: spec.id.clone() }
            }
        };
        flight.end(run, outcome, self.now_ns);
        match self.graph.nodes[stage].fallback {
            Some(fallback) => {
                stats.fallbacks += 1;
                flight.slots[stage] = Slot::Replaced(fallback);
                // It may have stood in for another stage already.
                if matches!(flight.slots[fallback], Slot::Idle) {
                    flight.slots[fallback] = Slot::Waiting;
                }
            }
            None => {
                flight.slots[stage] = Slot::Failed;
                if !spec.shadow {
                    flight.dropped = Some(reason);
                }
            }
        }
    }

    /// Note the end of a call, and check what it gave.
    fn end_call(
        &mut self,
        call: &Call,
        result: Result<StageOutput, StageFailure>,
    ) -> Result<StageOutput, StageFailure> {
        let result = result.and_then(|output| {
            check_output(self.graph.stages()[call.stage].gives_prediction(), &output)?;
            Ok(output)
        });
        self.busy.remove(call.stage);
        let breaker = &mut self.breakers[call.stage];
        match &result {
            Ok(_) => breaker.succeeded(),
            Err(StageFailure { kind: FailureKind::BadInput | FailureKind::Deadline, .. }) => {}
            Err(_) => breaker.failed(self.now_ns),
        }
        let stats = &mut self.stats.stages[call.stage];
        stats.breaker = breaker.state();
        stats.busy_ns = stats.busy_ns.saturating_add(self.now_ns.saturating_sub(call.start_ns));
        result
    }

    /// Give a frame what came of its call.
    fn deliver(
        &mut self,
        flight: &mut Flight,
        stage: usize,
        result: Result<StageOutput, StageFailure>,
    ) {
        let Slot::Running { run } = flight.slots[stage] else {
            self.lose(stage, result);
            return;
        };
        match result {
            Ok(output) => {
                flight.end(run, StageOutcome::Completed, self.now_ns);
                flight.slots[stage] = Slot::Done { output, to: None };
            }
            Err(failure) => self.fail(flight, stage, run, StageOutcome::Failed(failure)),
        }
    }

    /// Nobody waits for the call any more.
    fn lose(&mut self, stage: usize, result: Result<StageOutput, StageFailure>) {
        let stats = &mut self.stats.stages[stage];
        stats.late += 1;
        stats.failures += u64::from(result.is_err());
    }
}

fn check_output(gives_prediction: bool, output: &StageOutput) -> Result<(), StageFailure> {
    let problem = match (output, gives_prediction) {
        (StageOutput::Prediction(_), true) => None,
        (StageOutput::Prediction(_), false) => Some("it gave a prediction, not tensors".to_owned()),
        (StageOutput::Tensors(_), true) => Some("it gave tensors, not a prediction".to_owned()),
        (StageOutput::Tensors(tensors), false) => tensors
            .iter()
            .enumerate()
            .find(|(i, (name, _))| tensors[..*i].iter().any(|(earlier, _)| earlier == name))
            .map(|(_, (name, _))| format!("it gave tensor {name:?} twice")),
    };
    match problem {
        Some(message) => Err(StageFailure { kind: FailureKind::BadOutput, message }),
        None => Ok(()),
    }
}

/// A router's branch for a frame: a hash of seed, router and frame, so that
/// the choice is the same on every host and however else the frames fall.
///
/// # Source
/// The mixing function of SplitMix64: Steele, Lea, Flood, "Fast splittable
/// pseudorandom number generators", OOPSLA 2014; the router's name goes in
/// through FNV-1a.
fn choose(seed: u64, frame_id: u64, router: &str, branches: &[(usize, u32)]) -> Option<usize> {
    let name = router.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let hash = mix(mix(mix(seed) ^ name) ^ frame_id);
    let total: u64 = branches.iter().map(|&(_, weight)| u64::from(weight)).sum();
    // The hash as a fraction of 2^64, times the total: less than the total.
    let mut ticket = ((u128::from(hash) * u128::from(total)) >> 64) as u64;
    for &(branch, weight) in branches {
        match ticket.checked_sub(weight.into()) {
            Some(rest) => ticket = rest,
            None => return Some(branch),
        }
    }
    None
}

/// Drives frames through a [`Graph`].
///
/// It runs nothing and knows no clock: the caller says what happened and when
/// ([`submit`](Self::submit), [`complete`](Self::complete)) and does what
/// [`poll`](Self::poll) asks for, until it asks for nothing.
///
/// # Units
/// Every `now_ns` and `deadline_ns` is of one monotonic clock of the caller's,
/// in nanoseconds. A `now_ns` before an earlier one counts as that one.
///
/// # Order
/// A stage handles one call at a time, and gets the frames in the order in
/// which they were submitted; so does a monitor. `poll` asks first for what
/// the oldest frame needs, then for what monitors see, and for shadows last.
/// A frame whose fallback takes its time may finish after a later one.
#[derive(Debug)]
pub struct Scheduler {
    stages: Stages,
    queue: VecDeque<Waiting>,
    flights: VecDeque<Flight>,
    next_flight: u64,
    aftermaths: VecDeque<Aftermath>,
    aftermath_bytes: usize,
    finished: VecDeque<Command>,
    row_makers: Vec<RowMaker>,
    is_shut_down: bool,
}

impl Scheduler {
    /// A scheduler with nothing to do. The seed is what routers choose by:
    /// the same seed, frame id and router give the same branch.
    pub fn new(graph: Arc<Graph>, seed: u64) -> Self {
        Self {
            queue: VecDeque::new(),
            flights: VecDeque::new(),
            next_flight: 0,
            aftermaths: VecDeque::new(),
            aftermath_bytes: 0,
            finished: VecDeque::new(),
            row_makers: vec![RowMaker::default(); graph.monitors().len()],
            is_shut_down: false,
            stages: Stages {
                seed,
                now_ns: 0,
                breakers: graph.stages().iter().map(|stage| Breaker::new(stage.breaker)).collect(),
                busy: StageSet::default(),
                calls: HashMap::new(),
                next_call: 0,
                stats: Stats::new(&graph),
                graph,
            },
        }
    }

    /// The graph.
    pub fn graph(&self) -> &Arc<Graph> {
        &self.stages.graph
    }

    /// Offer a frame: what the source gave is one u8 tensor of one dimension
    /// named `payload`, or named tensors. Its deadline is counted from now.
    ///
    /// Where a full queue drops its oldest frame, this one is let in, and
    /// that one comes out of `poll` with [`DropReason::Evicted`].
    ///
    /// # Errors
    /// The reason that the frame is not let in: [`DropReason::QueueFull`],
    /// [`DropReason::MediaType`] or [`DropReason::Shutdown`]. No `Finished`
    /// comes of it then.
    pub fn submit(
        &mut self,
        frame: Frame,
        inputs: NamedTensors,
        now_ns: u64,
    ) -> Result<(), DropReason> {
        self.advance(now_ns);
        let now_ns = self.stages.now_ns;
        self.stages.stats.submitted += 1;
        let spec = self.stages.graph.spec();
        let queue = spec.queue;
        let deadline_ns =
            spec.deadline_ms.map(|ms| now_ns.saturating_add(ms.saturating_mul(1_000_000)));
        let is_taken = spec.source.as_ref().is_none_or(|source| source.accepts(&frame.media_type));
        let is_full = self.queue.len() >= queue.capacity as usize;
        let refusal = if self.is_shut_down {
            Some(DropReason::Shutdown)
        } else if !is_taken {
            Some(DropReason::MediaType { media_type: frame.media_type.clone() })
        } else if is_full && queue.on_full == OnFull::DropNewest {
            Some(DropReason::QueueFull)
        } else {
            None
        };
        if let Some(reason) = refusal {
            self.count_dropped(&reason);
            return Err(reason);
        }
        if is_full && let Some(oldest) = self.queue.pop_front() {
            self.drop_waiting(oldest, DropReason::Evicted);
        }
        self.queue.push_back(Waiting { frame: Arc::new(frame), inputs, deadline_ns });
        let stats = &mut self.stages.stats;
        stats.admitted += 1;
        stats.queue_high_water = stats.queue_high_water.max(self.queue.len());
        Ok(())
    }

    /// What to do next; nothing until something happens or
    /// [`next_deadline_ns`](Self::next_deadline_ns) comes.
    pub fn poll(&mut self, now_ns: u64) -> Option<Command> {
        self.advance(now_ns);
        loop {
            if let Some(finished) = self.finished.pop_front() {
                return Some(finished);
            }
            match self.start_main() {
                Start::Invoke(command) => return Some(command),
                Start::Failed => {
                    self.settle_main();
                    continue;
                }
                Start::Nothing => {}
            }
            if self.take_from_queue() {
                self.settle_main();
                continue;
            }
            if let Some(observe) = self.observe() {
                return Some(observe);
            }
            match self.start_shadows() {
                Start::Invoke(command) => return Some(command),
                Start::Failed => continue,
                Start::Nothing => return None,
            }
        }
    }

    /// Say what came of a call. Of a call that is not open, nothing.
    pub fn complete(
        &mut self,
        call: CallId,
        result: Result<StageOutput, StageFailure>,
        now_ns: u64,
    ) {
        // First, so that a result that comes too late is too late.
        self.advance(now_ns);
        let Some(call) = self.stages.calls.remove(&call) else { return };
        let result = self.stages.end_call(&call, result);
        let under_way = self.flights.iter_mut();
        let finished = self.aftermaths.iter_mut().map(|aftermath| &mut aftermath.flight);
        match under_way.chain(finished).find(|flight| flight.number == call.flight) {
            Some(flight) => self.stages.deliver(flight, call.stage, result),
            None => self.stages.lose(call.stage, result),
        }
        self.settle_main();
    }

    /// When to poll next though nothing has happened; absent when there is
    /// no need to.
    pub fn next_deadline_ns(&self) -> Option<u64> {
        let graph = &self.stages.graph;
        let shadowing = self
            .aftermaths
            .iter()
            .map(|aftermath| &aftermath.flight)
            .filter(|flight| !flight.ahead(graph, graph.shadows).is_empty());
        let queued = self.queue.front().and_then(|waiting| waiting.deadline_ns);
        self.flights.iter().chain(shadowing).filter_map(|f| f.deadline_ns).chain(queued).min()
    }

    /// Drop all frames that are not finished, and refuse any more. Rows of
    /// frames that are finished still come.
    pub fn shut_down(&mut self, now_ns: u64) {
        self.advance(now_ns);
        self.is_shut_down = true;
        while !self.flights.is_empty() {
            self.finish(0, Err(DropReason::Shutdown));
        }
        while let Some(waiting) = self.queue.pop_front() {
            self.drop_waiting(waiting, DropReason::Shutdown);
        }
        let shadows = self.stages.graph.shadows;
        for aftermath in &mut self.aftermaths {
            shadows.iter().for_each(|shadow| give_up(&mut aftermath.flight, shadow));
        }
    }

    /// Whether nothing is waiting, under way, or left to be polled.
    pub fn is_idle(&self) -> bool {
        self.queue.is_empty()
            && self.flights.is_empty()
            && self.finished.is_empty()
            && self.aftermaths.is_empty()
            && self.stages.calls.is_empty()
    }

    /// The counters.
    pub fn stats(&self) -> &Stats {
        &self.stages.stats
    }

    /// Let time pass: drop what is past its deadline.
    fn advance(&mut self, now_ns: u64) {
        self.stages.now_ns = self.stages.now_ns.max(now_ns);
        let now_ns = self.stages.now_ns;
        let is_past = |deadline_ns: Option<u64>| deadline_ns.is_some_and(|at| now_ns >= at);
        let mut at = 0;
        let mut any_dropped = false;
        while at < self.flights.len() {
            if is_past(self.flights[at].deadline_ns) {
                self.finish(at, Err(DropReason::Deadline));
                any_dropped = true;
            } else {
                at += 1;
            }
        }
        // The queue is in the order of submission, so of deadlines, too.
        while let Some(waiting) = self.queue.pop_front_if(|w| is_past(w.deadline_ns)) {
            self.drop_waiting(waiting, DropReason::Deadline);
        }
        let shadows = self.stages.graph.shadows;
        for aftermath in self.aftermaths.iter_mut().filter(|a| is_past(a.flight.deadline_ns)) {
            shadows.iter().for_each(|shadow| give_up(&mut aftermath.flight, shadow));
        }
        if any_dropped {
            self.settle_main();
        }
    }

    /// Bring every frame as far as it gets without a call.
    fn settle_main(&mut self) {
        let Graph { main, output, .. } = *self.stages.graph;
        let mut at = 0;
        while at < self.flights.len() {
            let flight = &mut self.flights[at];
            self.stages.settle(flight, main);
            if let Some(reason) = flight.dropped.take() {
                self.finish(at, Err(reason));
            } else if let Some(output) = flight.output(output).cloned() {
                self.finish(at, Ok(output));
            } else {
                at += 1;
            }
        }
    }

    fn start_main(&mut self) -> Start {
        let graph = Arc::clone(&self.stages.graph);
        let mut ahead = StageSet::default();
        for flight in &mut self.flights {
            match self.stages.start(flight, graph.main, ahead) {
                Start::Nothing => ahead = ahead.union(flight.ahead(&graph, graph.main)),
                started => return started,
            }
        }
        Start::Nothing
    }

    /// Start the next waiting frame if there is a stage for it.
    fn take_from_queue(&mut self) -> bool {
        let graph = &self.stages.graph;
        let taken = self
            .flights
            .iter()
            .fold(self.stages.busy, |set, flight| set.union(flight.ahead(graph, graph.main)));
        let has_room = self.flights.len() < graph.depth()
            && (graph.entries.is_empty() || !graph.entries.minus(taken).is_empty());
        if !has_room {
            return false;
        }
        let Some(waiting) = self.queue.pop_front() else { return false };
        let slot = |stage| match graph.fallbacks.contains(stage) {
            true => Slot::Idle,
            false => Slot::Waiting,
        };
        self.flights.push_back(Flight {
            number: self.next_flight,
            frame: waiting.frame,
            source: waiting.inputs,
            deadline_ns: waiting.deadline_ns,
            slots: (0..graph.nodes.len()).map(slot).collect(),
            path: Vec::new(),
            dropped: None,
        });
        self.next_flight += 1;
        let stats = &mut self.stages.stats;
        stats.under_way_high_water = stats.under_way_high_water.max(self.flights.len());
        true
    }

    fn count_dropped(&mut self, reason: &DropReason) {
        *self.stages.stats.dropped.entry(reason.code()).or_default() += 1;
    }

    fn drop_waiting(&mut self, waiting: Waiting, reason: DropReason) {
        self.count_dropped(&reason);
        self.finished.push_back(Command::Finished {
            frame: waiting.frame,
            result: Err(reason),
            path: Vec::new(),
        });
    }

    /// A frame under way is through.
    fn finish(&mut self, at: usize, result: Result<StageOutput, DropReason>) {
        let Some(mut flight) = self.flights.remove(at) else { return };
        for slot in &flight.slots {
            if let Slot::Running { run } = *slot
                && let Some(run) = flight.path.get_mut(run)
            {
                run.end_ns = self.stages.now_ns;
            }
        }
        match &result {
            Ok(_) => self.stages.stats.completed += 1,
            Err(reason) => self.count_dropped(reason),
        }
        let has_result = result.is_ok();
        let is_observed = !matches!(result, Err(DropReason::Shutdown));
        self.finished.push_back(Command::Finished {
            frame: Arc::clone(&flight.frame),
            result,
            path: std::mem::take(&mut flight.path),
        });
        if is_observed {
            self.keep_aftermath(flight, has_result);
        }
    }

    /// Keep of a finished frame what shadows and monitors are to see.
    fn keep_aftermath(&mut self, mut flight: Flight, has_result: bool) {
        let graph = Arc::clone(&self.stages.graph);
        if graph.monitors.is_empty() && (graph.shadows.is_empty() || !has_result) {
            return;
        }
        let mut kept = StageSet::default();
        for mut stage in graph.kept.iter() {
            kept.insert(stage);
            while let Slot::Replaced(fallback) = flight.slots[stage] {
                stage = fallback;
                kept.insert(stage);
            }
        }
        for stage in graph.main.iter() {
            let is_kept = kept.contains(stage)
                && matches!(flight.slots[stage], Slot::Done { .. } | Slot::Replaced(_));
            if !is_kept {
                flight.slots[stage] = Slot::Skipped;
            }
        }
        if !graph.keeps_source {
            flight.source.clear();
        }
        if !has_result {
            graph.shadows.iter().for_each(|shadow| give_up(&mut flight, shadow));
        }
        // Shadows get as much time as the frame had.
        flight.deadline_ns = graph
            .spec()
            .deadline_ms
            .map(|ms| self.stages.now_ns.saturating_add(ms.saturating_mul(1_000_000)));
        let tensors = flight.slots.iter().filter_map(|slot| match slot {
            Slot::Done { output: StageOutput::Tensors(tensors), .. } => Some(tensors),
            _ => None,
        });
        let len_bytes =
            tensors.chain([&flight.source]).flatten().map(|(_, tensor)| tensor.bytes().len()).sum();
        self.aftermath_bytes += len_bytes;
        // Frames can overtake each other where a fallback takes its time.
        let at = self.aftermaths.partition_point(|a| a.flight.number < flight.number);
        self.aftermaths.insert(
            at,
            Aftermath { flight, monitors: (0..graph.monitors.len()).collect(), len_bytes },
        );
        while self.aftermaths.len() > MAX_AFTERMATH_FRAMES
            || self.aftermath_bytes > MAX_AFTERMATH_BYTES
        {
            let Some(oldest) = self.aftermaths.pop_front() else { return };
            self.aftermath_bytes -= oldest.len_bytes;
            let stats = &mut self.stages.stats;
            for monitor in oldest.monitors {
                stats.monitors[monitor].rows_dropped += 1;
            }
            let has_shadows = !oldest.flight.ahead(&graph, graph.shadows).is_empty();
            stats.shadows_dropped += u64::from(has_shadows);
        }
    }

    /// How many finished frames have no earlier frame under way, so that
    /// shadows and monitors, too, get frames in order.
    fn aftermaths_in_order(&self) -> usize {
        let oldest = self.flights.front().map_or(u64::MAX, |flight| flight.number);
        self.aftermaths.partition_point(|aftermath| aftermath.flight.number < oldest)
    }

    /// The next row, and away with the frames that everyone has seen.
    fn observe(&mut self) -> Option<Command> {
        let graph = Arc::clone(&self.stages.graph);
        let up_to = self.aftermaths_in_order();
        let mut behind = vec![false; graph.monitors.len()];
        for aftermath in self.aftermaths.range_mut(..up_to) {
            let flight = &aftermath.flight;
            let ahead = flight.ahead(&graph, graph.shadows);
            let mut at = 0;
            while let Some(&monitor) = aftermath.monitors.get(at) {
                let Monitor { taps, shadows, .. } = &graph.monitors[monitor];
                if behind[monitor] || !shadows.intersect(ahead).is_empty() {
                    behind[monitor] = true;
                    at += 1;
                    continue;
                }
                aftermath.monitors.remove(at);
                let of = |tap: &Tap| match tap.port {
                    Port::Source => Some(Tapped::Source(&flight.source)),
                    Port::Stage(stage) => match flight.output(stage)? {
                        StageOutput::Tensors(tensors) => Some(Tapped::Tensors(tensors)),
                        StageOutput::Prediction(said) => Some(Tapped::Prediction(said)),
                    },
                };
                let stats = &mut self.stages.stats.monitors[monitor];
                let maker = &mut self.row_makers[monitor];
                if let Some(row) = maker.row(&flight.frame, taps, of, stats) {
                    return Some(Command::Observe { monitor, row });
                }
            }
        }
        let bytes = &mut self.aftermath_bytes;
        self.aftermaths.retain(|aftermath| {
            let is_needed = !aftermath.monitors.is_empty()
                || !aftermath.flight.ahead(&graph, graph.shadows).is_empty();
            if !is_needed {
                *bytes -= aftermath.len_bytes;
            }
            is_needed
        });
        None
    }

    fn start_shadows(&mut self) -> Start {
        let graph = Arc::clone(&self.stages.graph);
        let up_to = self.aftermaths_in_order();
        let mut ahead = StageSet::default();
        for aftermath in self.aftermaths.range_mut(..up_to) {
            let flight = &mut aftermath.flight;
            let before = flight.ahead(&graph, graph.shadows);
            self.stages.settle(flight, graph.shadows);
            match self.stages.start(flight, graph.shadows, ahead) {
                Start::Nothing => {}
                started => return started,
            }
            let after = flight.ahead(&graph, graph.shadows);
            if after != before {
                // A monitor may have waited for this.
                return Start::Failed;
            }
            ahead = ahead.union(after);
        }
        Start::Nothing
    }
}

/// Leave a shadow be.
fn give_up(flight: &mut Flight, shadow: usize) {
    if !matches!(flight.slots[shadow], Slot::Done { .. } | Slot::Skipped) {
        flight.slots[shadow] = Slot::Failed;
    }
}
