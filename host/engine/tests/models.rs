//! Models in a pipeline: devices and what stands in for them, budgets,
//! batches, and time.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::{
    sync::{
        Arc, Barrier, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use headland_engine::{
    Deployment, Engine, EngineOptions, Executors, FrameReport, LoadError, ModelMemory, Runner,
};
use headland_inference::{
    CpuExecutor, Executor, InferenceError, LoadLimits, Model, ModelInfo,
    gpu::{Device, GpuExecutor},
};
use headland_package::{HostPolicy, Package, Role, Verified};
use headland_pipeline::{DropReason, FailureKind, StageOutput};
use headland_tensor::{NamedTensors, Tensor};
use support::{chain, package};

const SHUTTLE: &[u8] =
    include_bytes!("../../../examples/telemetry-shuttle/models/shuttle-mlp.onnx");
const DIGITS: &[u8] = include_bytes!("../../../examples/vision-digits/models/digits-cnn.onnx");

/// A package of these stages, the last of which is the output.
fn of(head: &str, stages: &[&str], models: &[(&str, &[u8])]) -> Verified<Package> {
    let mut text = format!("schema = 1\nname = \"models\"\noutput = \"out\"\n{head}\n");
    for stage in stages {
        text += &format!("[[stage]]\ninputs = [\"source\"]\n{stage}\n");
    }
    let entries: Vec<(Role, &str, Arc<[u8]>)> =
        models.iter().map(|(name, onnx)| (Role::Model, *name, Arc::from(*onnx))).collect();
    package(&text, &entries)
}

fn shuttle(stage: &str) -> Verified<Package> {
    of("", &[&format!("id = \"out\"\nmodel = \"net\"\n{stage}")], &[("net", SHUTTLE)])
}

/// A stage on the GPU with a twin on the CPU.
fn with_twin() -> Verified<Package> {
    let twin = "id = \"twin\"\nmodel = \"net\"\ndevice = \"cpu\"";
    let gpu = "id = \"out\"\nmodel = \"net\"\ndevice = \"gpu\"\nfallback = \"twin\"";
    of("", &[twin, gpu], &[("net", SHUTTLE)])
}

fn engine(options: EngineOptions) -> Engine {
    Engine::new(options).unwrap()
}

fn with_gpu(gpu: impl Executor + 'static) -> EngineOptions {
    let executors = Executors { gpu: Some(Arc::new(gpu)), ..Executors::default() };
    EngineOptions { executors, ..EngineOptions::default() }
}

/// The device code on burn's CPU backend.
fn burn_cpu() -> GpuExecutor {
    GpuExecutor::strict(Device::burn_cpu().unwrap())
}

/// A device that can be lost.
#[derive(Clone, Default)]
struct Losable(Arc<AtomicBool>);

impl Losable {
    fn lose(&self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl Executor for Losable {
    fn name(&self) -> &'static str {
        "losable"
    }

    fn load(&self, onnx: &[u8], limits: &LoadLimits) -> Result<Arc<dyn Model>, InferenceError> {
        Ok(Arc::new(LosableModel(CpuExecutor.load(onnx, limits)?, self.clone())))
    }
}

struct LosableModel(Arc<dyn Model>, Losable);

impl Model for LosableModel {
    fn info(&self) -> &ModelInfo {
        self.0.info()
    }

    fn engine(&self) -> headland_inference::Engine {
        self.0.engine()
    }

    fn run_until(
        &self,
        inputs: &[(String, Tensor)],
        deadline: Option<Instant>,
    ) -> Result<NamedTensors, InferenceError> {
        if self.1.0.load(Ordering::SeqCst) {
            return Err(InferenceError::Device { reason: "the adapter is lost".to_owned() });
        }
        self.0.run_until(inputs, deadline)
    }
}

fn load(engine: &Engine, package: &Verified<Package>) -> Result<Arc<Deployment>, LoadError> {
    engine.load(package, &HostPolicy::default()).map(Arc::new)
}

fn refusal(engine: &Engine, package: &Verified<Package>) -> String {
    load(engine, package).map(drop).map_err(|e| chain(&e)).unwrap_err()
}

/// A row of eight numbers.
fn features(first: f32) -> NamedTensors {
    let row: Vec<f32> = (0..8u8).map(|i| first + f32::from(i) * 0.25).collect();
    vec![("features".to_owned(), Tensor::from_elements(&[1, 8], &row).unwrap())]
}

fn run(runner: &mut Runner, first: f32) -> FrameReport {
    runner.run(features(first), "application/x-tensor", 0)
}

fn scores(report: &FrameReport) -> Vec<f32> {
    match &report.result {
        Ok(StageOutput::Tensors(tensors)) => tensors[0].1.to_vec().unwrap(),
        other => panic!("{other:?}"),
    }
}

/// What the model says of the row, by itself.
fn expected(first: f32) -> Vec<f32> {
    let model = CpuExecutor.load(SHUTTLE, &LoadLimits::default()).unwrap();
    model.run(&features(first)).unwrap()[0].1.to_vec().unwrap()
}

fn close(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 1e-5)
}

#[test]
fn a_stage_pinned_to_the_gpu_runs_there() {
    let engine = engine(with_gpu(burn_cpu()));
    let deployment = load(&engine, &shuttle("device = \"gpu\"")).unwrap();
    let runs = &deployment.stages()[0].runs;
    assert!(runs.starts_with("model net on gpu"), "{runs}");
    let report = run(&mut deployment.start().unwrap(), 0.5);
    assert!(close(&scores(&report), &expected(0.5)));
}

#[test]
fn a_host_without_a_gpu_refuses_a_stage_pinned_to_it() {
    let refusal = refusal(&engine(EngineOptions::default()), &shuttle("device = \"gpu\""));
    assert_eq!(
        refusal,
        "stage \"out\" asks for the GPU, and this host runs models on the CPU alone"
    );
}

#[test]
fn the_cpu_twin_serves_on_a_host_without_a_gpu_and_the_host_says_so() {
    let said = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&said);
    let log = Arc::new(move |record: headland_engine::LogRecord| {
        log.lock().unwrap().push(record.message);
    });
    let engine = engine(EngineOptions { log, ..EngineOptions::default() });
    let deployment = load(&engine, &with_twin()).unwrap();
    assert_eq!(deployment.stages()[1].runs, "nothing: this host has no GPU");
    assert_eq!(*said.lock().unwrap(), ["its fallback serves: this host has no GPU"]);
    let mut runner = deployment.start().unwrap();
    for _ in 0..5 {
        assert!(close(&scores(&run(&mut runner, 1.5)), &expected(1.5)));
    }
}

#[test]
fn the_cpu_twin_serves_when_the_device_is_lost() {
    let device = Losable::default();
    let engine = engine(with_gpu(device.clone()));
    let mut runner = load(&engine, &with_twin()).unwrap().start().unwrap();
    let report = run(&mut runner, 0.0);
    assert_eq!(report.stages.len(), 1);
    device.lose();
    let report = run(&mut runner, 0.0);
    let ran: Vec<&str> = report.stages.iter().map(|s| s.stage.as_str()).collect();
    assert_eq!(ran, ["out", "twin"]);
    assert!(close(&scores(&report), &expected(0.0)));
}

#[test]
fn a_stage_without_a_twin_says_that_its_device_is_lost() {
    let device = Losable::default();
    let engine = engine(with_gpu(device.clone()));
    let mut runner = load(&engine, &shuttle("device = \"gpu\"")).unwrap().start().unwrap();
    device.lose();
    match run(&mut runner, 0.0).result {
        Err(DropReason::StageFailed { kind: FailureKind::Inference, message, .. }) => {
            assert!(message.contains("the adapter is lost"), "{message}");
        }
        other => panic!("{other:?}"),
    }
}

/// Constants, a row of eight and one of two, in f32.
const SHUTTLE_BYTES: u64 = 2608 + (8 + 2) * 4;

fn with_memory(host_bytes: u64) -> EngineOptions {
    let model_memory = ModelMemory { host_bytes: Some(host_bytes), device_bytes: None };
    EngineOptions { model_memory, ..EngineOptions::default() }
}

#[test]
fn a_model_over_the_hosts_budget_is_refused_by_its_name() {
    let refusal = refusal(&engine(with_memory(1000)), &shuttle(""));
    assert_eq!(
        refusal,
        "model \"net\": model \"net\" needs 2648 bytes; 1000 of the budget of 1000 are free"
    );
}

#[test]
fn a_model_on_the_gpu_takes_of_the_devices_budget() {
    let mut options = with_gpu(burn_cpu());
    options.model_memory = ModelMemory { host_bytes: None, device_bytes: Some(1000) };
    let engine = engine(options);
    load(&engine, &shuttle("device = \"cpu\"")).unwrap();
    let refusal = refusal(&engine, &shuttle("device = \"gpu\""));
    assert!(refusal.contains("needs 2648 bytes; 1000 of the budget of 1000"), "{refusal}");
    // With a twin in main memory, that one serves.
    let mut runner = load(&engine, &with_twin()).unwrap().start().unwrap();
    assert!(close(&scores(&run(&mut runner, 2.0)), &expected(2.0)));
}

#[test]
fn deployments_share_a_model_and_give_its_memory_back() {
    let engine = engine(with_memory(SHUTTLE_BYTES + 100));
    let first = load(&engine, &shuttle("")).unwrap();
    let second = load(&engine, &shuttle("limits.time-ms = 500")).unwrap();
    let digits = of("", &["id = \"out\"\nmodel = \"digits\""], &[("digits", DIGITS)]);
    assert!(refusal(&engine, &digits).contains("model \"digits\" needs"));
    // A refusal in the middle of a package leaves nothing of it.
    let both = of(
        "",
        &["id = \"out\"\nmodel = \"digits\"\nfallback = \"net\"", "id = \"net\"\nmodel = \"net\""],
        &[("net", SHUTTLE), ("digits", DIGITS)],
    );
    drop((first, second));
    assert!(refusal(&engine, &both).contains("model \"digits\" needs"));
    let other = shuttle("device = \"cpu\"");
    let mut runner = load(&engine, &other).unwrap().start().unwrap();
    // The runner holds what it runs, though nobody else does.
    assert!(close(&scores(&run(&mut runner, 1.0)), &expected(1.0)));
    assert!(refusal(&engine, &digits).contains("100 of the budget"));
}

#[test]
fn frames_of_several_runners_share_a_run() {
    let engine = engine(EngineOptions::default());
    let stage = "batch = { max = 4, delay-ms = 200 }\nlimits.time-ms = 60000";
    let deployment = load(&engine, &shuttle(stage)).unwrap();
    let together = Barrier::new(4);
    thread::scope(|scope| {
        for lane in 0..4u8 {
            let (deployment, together) = (&deployment, &together);
            scope.spawn(move || {
                let mut runner = deployment.start().unwrap();
                for round in 0..20u8 {
                    let first = f32::from(lane) - f32::from(round) * 0.1;
                    together.wait();
                    let report = run(&mut runner, first);
                    assert!(close(&scores(&report), &expected(first)));
                }
            });
        }
    });
    let batches = deployment.batches();
    let (stage, statistics) = &batches[0];
    assert_eq!((stage.as_str(), statistics.failed), ("out", 0));
    assert!(statistics.batches > 0 && statistics.mean_rows() >= 2.0, "{statistics:?}");
}

#[test]
fn a_frame_without_the_time_to_wait_is_not_batched() {
    let engine = engine(EngineOptions::default());
    let stage =
        "id = \"out\"\nmodel = \"net\"\nbatch = { delay-ms = 50000 }\nlimits.time-ms = 60000";
    let package = of("deadline-ms = 20000", &[stage], &[("net", SHUTTLE)]);
    let deployment = load(&engine, &package).unwrap();
    let begun = Instant::now();
    let report = run(&mut deployment.start().unwrap(), 3.0);
    assert!(close(&scores(&report), &expected(3.0)));
    assert!(begun.elapsed() < Duration::from_secs(10));
    assert_eq!(deployment.batches()[0].1.alone, 1);
}

/// Models that take as long as they may.
struct Slow;

impl Executor for Slow {
    fn name(&self) -> &'static str {
        "slow"
    }

    fn load(&self, onnx: &[u8], limits: &LoadLimits) -> Result<Arc<dyn Model>, InferenceError> {
        Ok(Arc::new(SlowModel(ModelInfo::from_onnx(onnx, limits)?)))
    }
}

struct SlowModel(ModelInfo);

impl Model for SlowModel {
    fn info(&self) -> &ModelInfo {
        &self.0
    }

    fn engine(&self) -> headland_inference::Engine {
        headland_inference::Engine::default()
    }

    fn run_until(
        &self,
        _: &[(String, Tensor)],
        deadline: Option<Instant>,
    ) -> Result<NamedTensors, InferenceError> {
        // The warm-up has all the time in the world.
        let Some(deadline) = deadline else { return Ok(NamedTensors::new()) };
        let allowed = deadline.saturating_duration_since(Instant::now());
        thread::sleep(allowed);
        Err(InferenceError::DeadlineExceeded { allowed, next: "the rest".to_owned() })
    }
}

fn slow() -> EngineOptions {
    let executors = Executors { cpu: Arc::new(Slow), ..Executors::default() };
    EngineOptions { executors, ..EngineOptions::default() }
}

#[test]
fn a_model_is_stopped_at_its_stages_time_limit() {
    let package = shuttle("device = \"cpu\"\nlimits.time-ms = 60\nbreaker.failures = 2");
    let mut runner = load(&engine(slow()), &package).unwrap().start().unwrap();
    for _ in 0..2 {
        match run(&mut runner, 0.0).result {
            Err(DropReason::StageFailed { kind: FailureKind::Timeout, message, .. }) => {
                assert!(message.contains("the rest"), "{message}");
            }
            other => panic!("{other:?}"),
        }
    }
    let reason = run(&mut runner, 0.0).result.unwrap_err();
    assert_eq!(reason, DropReason::BreakerOpen { stage: "out".to_owned() });
}

#[test]
fn a_model_is_stopped_at_the_frames_deadline_which_is_not_its_fault() {
    let stage = "id = \"out\"\nmodel = \"net\"\ndevice = \"cpu\"\nbreaker.failures = 1";
    let package = of("deadline-ms = 40", &[stage], &[("net", SHUTTLE)]);
    let mut runner = load(&engine(slow()), &package).unwrap().start().unwrap();
    for _ in 0..3 {
        let begun = Instant::now();
        let reason = run(&mut runner, 0.0).result.unwrap_err();
        assert_eq!(reason.code(), "deadline");
        assert!(begun.elapsed() < Duration::from_millis(900), "it had the stage's whole second");
    }
}
