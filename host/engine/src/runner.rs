//! Drives one pipeline: the scheduler says what is next, the runner does it.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use headland_inference::InferenceError;
use headland_monitor::MonitorReport;
use headland_pipeline::{
    Cell, Command, DropReason, FailureKind, Row, Scheduler, StageFailure, StageOutcome,
    StageOutput, Stats,
};
use headland_tensor::{Frame, NamedTensors};
use serde::Serialize;

use crate::{
    ComponentError,
    component::StageInstance,
    deployment::{Deployment, StageRunner},
    host::Copies,
    monitors::{MonitorCounts, MonitorStartError, Monitors},
};

/// Why a pipeline did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A stage's component failed.
    #[error("stage {stage:?}")]
    Stage {
        /// Which.
        stage: String,
        /// Why.
        #[source]
        source: ComponentError,
    },
    /// A monitor failed.
    #[error(transparent)]
    Monitor(#[from] MonitorStartError),
}

/// How long a stage took for one frame.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StageTime {
    /// The stage.
    pub stage: String,
    /// From call to result, in nanoseconds.
    pub duration_ns: u64,
    /// What came of it.
    pub outcome: StageOutcome,
}

/// What became of one frame.
#[derive(Debug, Clone)]
pub struct FrameReport {
    /// The frame.
    pub frame: Arc<Frame>,
    /// The pipeline's output, or why there is none.
    pub result: Result<StageOutput, DropReason>,
    /// The stages that ran, in order.
    pub stages: Vec<StageTime>,
    /// Copies of tensor data that it cost.
    pub copies: Copies,
    /// From submission to result, in nanoseconds.
    pub duration_ns: u64,
}

enum Slot {
    Component(Box<StageInstance>),
    Model,
    Scheduler,
}

/// How a stage failed whose model gave this error.
fn kind(e: &InferenceError) -> FailureKind {
    use InferenceError as E;
    match e {
        E::MissingInput { .. }
        | E::UnknownInput { .. }
        | E::DuplicateInput { .. }
        | E::WrongDType { .. }
        | E::WrongShape { .. } => FailureKind::BadInput,
        E::DeadlineExceeded { .. } => FailureKind::Timeout,
        E::OverLimit { .. } => FailureKind::Limit,
        _ => FailureKind::Inference,
    }
}

/// One running pipeline. Frames go in one at a time; run several for more.
pub struct Runner {
    deployment: Arc<Deployment>,
    scheduler: Scheduler,
    slots: Vec<Slot>,
    monitors: Monitors,
    started: Instant,
    next_frame: u64,
    finished: VecDeque<FrameReport>,
    copies: Copies,
    /// The stage whose inputs are kept, and what they were at last.
    tap: Option<(usize, NamedTensors)>,
}

impl Runner {
    pub(crate) fn new(deployment: Arc<Deployment>) -> Result<Self, StartError> {
        let monitors = Monitors::start(&deployment.monitors, &deployment.graph)?;
        Self::with_monitors(deployment, monitors)
    }

    /// A runner that keeps the monitors' rows, for [`Runner::take_rows`].
    pub(crate) fn recording(deployment: Arc<Deployment>) -> Result<Self, StartError> {
        Self::with_monitors(deployment, Monitors::recording())
    }

    /// A runner without monitors and shadows, for [`Runner::run_tapped`].
    pub(crate) fn tapped(deployment: Arc<Deployment>, stage: usize) -> Result<Self, StartError> {
        let graph = Arc::new(deployment.graph.alone());
        let monitors = Monitors::start(&[], &graph)?;
        let runner = Self::with_monitors(deployment, monitors)?;
        let tap = Some((stage, NamedTensors::new()));
        Ok(Self { scheduler: Scheduler::new(graph, 0), tap, ..runner })
    }

    fn with_monitors(deployment: Arc<Deployment>, monitors: Monitors) -> Result<Self, StartError> {
        let mut slots = Vec::with_capacity(deployment.stages.len());
        for (stage, summary) in deployment.stages.iter().zip(deployment.stages()) {
            slots.push(match stage {
                StageRunner::Component(prepared) => {
                    let started = StageInstance::start(Arc::clone(prepared));
                    Slot::Component(Box::new(started.map_err(|source| StartError::Stage {
                        stage: summary.id.clone(),
                        source,
                    })?))
                }
                StageRunner::Model(..) | StageRunner::Absent(_) => Slot::Model,
                StageRunner::Scheduler => Slot::Scheduler,
            });
        }
        let scheduler = Scheduler::new(Arc::clone(&deployment.graph), 0);
        Ok(Self {
            deployment,
            scheduler,
            slots,
            monitors,
            started: Instant::now(),
            next_frame: 0,
            finished: VecDeque::new(),
            copies: Copies::default(),
            tap: None,
        })
    }

    /// The pipeline that runs here.
    pub fn deployment(&self) -> &Deployment {
        &self.deployment
    }

    fn now_ns(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Run one frame to its end. `captured_at_ns` is the source's own time,
    /// in nanoseconds since the Unix epoch. Shadows and monitors come later:
    /// at the next frame, or in [`Runner::settle`].
    pub fn run(
        &mut self,
        inputs: NamedTensors,
        media_type: &str,
        captured_at_ns: u64,
    ) -> FrameReport {
        let frame =
            Frame { id: self.next_frame, captured_at_ns, media_type: media_type.to_owned() };
        self.next_frame += 1;
        self.run_frame(frame, inputs)
    }

    /// Run one frame, and say what the tapped stage took for it: nothing, when
    /// it did not run.
    pub(crate) fn run_tapped(
        &mut self,
        frame: Frame,
        inputs: NamedTensors,
    ) -> (FrameReport, NamedTensors) {
        let report = self.run_frame(frame, inputs);
        let taken = self.tap.as_mut().map(|(_, taken)| std::mem::take(taken));
        (report, taken.unwrap_or_default())
    }

    fn run_frame(&mut self, frame: Frame, inputs: NamedTensors) -> FrameReport {
        self.drain();
        self.copies = Copies::default();
        let now_ns = self.now_ns();
        if let Err(reason) = self.scheduler.submit(frame.clone(), inputs, now_ns) {
            return FrameReport {
                frame: Arc::new(frame),
                result: Err(reason),
                stages: Vec::new(),
                copies: self.copies,
                duration_ns: 0,
            };
        }
        while self.finished.is_empty() {
            if !self.step() {
                break;
            }
        }
        let duration_ns = self.now_ns() - now_ns;
        match self.finished.pop_front() {
            Some(report) => FrameReport { duration_ns, ..report },
            // The scheduler finishes every frame that it admitted.
            None => FrameReport {
                frame: Arc::new(frame),
                result: Err(DropReason::Shutdown),
                stages: Vec::new(),
                copies: self.copies,
                duration_ns,
            },
        }
    }

    /// Do one command; false when there is nothing to do.
    fn step(&mut self) -> bool {
        let Some(command) = self.scheduler.poll(self.now_ns()) else { return false };
        match command {
            Command::Invoke { call, stage, frame, inputs, deadline_ns } => {
                if let Some((tapped, taken)) = &mut self.tap
                    && *tapped == stage
                {
                    taken.clone_from(&inputs);
                }
                let result = self.invoke(stage, &frame, inputs, deadline_ns);
                self.scheduler.complete(call, result, self.now_ns());
            }
            Command::Finished { frame, result, path } => {
                let spec = &self.deployment.graph.spec().stage;
                let took = path.iter().map(|run| run.end_ns.saturating_sub(run.start_ns)).sum();
                self.monitors.stages_took(took);
                let stages = path
                    .into_iter()
                    .filter_map(|run| {
                        Some(StageTime {
                            stage: spec.get(run.stage)?.id.clone(),
                            duration_ns: run.end_ns.saturating_sub(run.start_ns),
                            outcome: run.outcome,
                        })
                    })
                    .collect();
                self.finished.push_back(FrameReport {
                    frame,
                    result,
                    stages,
                    copies: self.copies,
                    duration_ns: 0,
                });
            }
            Command::Observe { monitor, row } => self.monitors.observe(monitor, row),
        }
        true
    }

    fn invoke(
        &mut self,
        stage: usize,
        frame: &Frame,
        inputs: NamedTensors,
        deadline_ns: Option<u64>,
    ) -> Result<StageOutput, StageFailure> {
        match (self.slots.get_mut(stage), self.deployment.stages.get(stage)) {
            (Some(Slot::Component(instance)), _) => {
                Ok(instance.run(frame, inputs, &mut self.copies)?)
            }
            (Some(Slot::Model), Some(StageRunner::Model(model, limit))) => {
                let of_stage = Instant::now().checked_add(*limit);
                let of_frame =
                    deadline_ns.and_then(|ns| self.started.checked_add(Duration::from_nanos(ns)));
                let deadline = of_stage.into_iter().chain(of_frame).min();
                let outputs = model.run_until(&inputs, deadline).map_err(|e| {
                    let kind = match kind(&e) {
                        FailureKind::Timeout if deadline != of_stage => FailureKind::Deadline,
                        kind => kind,
                    };
                    StageFailure { kind, message: e.to_string() }
                })?;
                self.copies.model_run(&inputs, &outputs);
                Ok(StageOutput::Tensors(outputs))
            }
            (Some(Slot::Model), Some(StageRunner::Absent(reason))) => {
                Err(StageFailure { kind: FailureKind::Inference, message: reason.clone() })
            }
            _ => Err(StageFailure {
                kind: FailureKind::Refused,
                message: format!("stage {stage} is not one that is called"),
            }),
        }
    }

    /// Do what is left of earlier frames: shadows, and rows for the monitors.
    fn drain(&mut self) {
        while self.step() {}
        self.finished.clear();
    }

    /// Finish shadows, and wait until the monitors have seen every row.
    pub fn settle(&mut self) {
        self.drain();
        self.monitors.settle();
    }

    /// Settle, then end every monitor's window.
    pub fn close_windows(&mut self) {
        self.drain();
        self.monitors.close_windows();
    }

    /// What was right for an earlier frame, as columns for the monitors whose
    /// rows wait for labels. Gives how many of them it reached: none when the
    /// frame is unknown, has its label already, or had waited long enough.
    pub fn label(&mut self, frame_id: u64, label: &[(String, Cell)]) -> usize {
        self.drain();
        self.monitors.label(frame_id, label)
    }

    /// Rows that wait for the monitors. A source that may wait, such as a
    /// file, settles when it grows; a live one never does.
    pub fn backlog_rows(&self) -> u64 {
        self.monitors.backlog()
    }

    /// What the monitors reported since the last time.
    pub fn take_reports(&mut self) -> Vec<MonitorReport> {
        self.monitors.take_reports()
    }

    /// The rows since the last time, each with the index of its monitor: of a
    /// runner that [`Deployment::start_recording`] gave, and none of others.
    pub fn take_rows(&mut self) -> Vec<(usize, Row)> {
        self.monitors.take_rows()
    }

    /// Rows that each monitor saw and did not see.
    pub fn monitor_counts(&self) -> Vec<MonitorCounts> {
        self.monitors.counts()
    }

    /// Reports of monitors that were not collected in time, and are gone.
    pub fn reports_dropped(&self) -> u64 {
        self.monitors.reports_dropped()
    }

    /// Frames and calls so far.
    pub fn stats(&self) -> &Stats {
        self.scheduler.stats()
    }

    /// Instances that were lost to a trap or limit and made anew.
    pub fn restarts(&self) -> u64 {
        self.slots.iter().map(|s| if let Slot::Component(i) = s { i.restarts } else { 0 }).sum()
    }
}
