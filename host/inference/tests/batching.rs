//! Runs that share a batch, runs that wait for each other, and models that
//! share a budget.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::{
    num::NonZeroUsize,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use headland_inference::{
    BatchOptions, Batcher, CpuExecutor, Engine, Executor, Gate, InferenceError, LoadLimits, Model,
    ModelInfo, ModelSet, Parallel,
};
use headland_tensor::{NamedTensors, Tensor};
use prost::Message;
use support::*;
use tract_onnx::pb::{
    ModelProto, tensor_proto::DataType, tensor_shape_proto::dimension::Value, type_proto,
};

/// Longer than any test takes.
const LONG: Duration = Duration::from_secs(600);

/// A value on which a [`Probe`] can be told to fail.
const BAD: f32 = 666.0;

type Fault = dyn Fn(&[(String, Tensor)], Option<Instant>) -> Option<InferenceError> + Send + Sync;

/// A model that keeps the rows and deadline of each run, and fails on demand.
struct Probe {
    model: Arc<dyn Model>,
    seen: Mutex<Vec<(u32, Option<Instant>)>>,
    fault: Box<Fault>,
}

impl Probe {
    fn new(
        onnx: &[u8],
        fault: impl Fn(&[(String, Tensor)], Option<Instant>) -> Option<InferenceError>
        + Send
        + Sync
        + 'static,
    ) -> Arc<Self> {
        Arc::new(Self { model: load(onnx), seen: Mutex::default(), fault: Box::new(fault) })
    }

    /// The rows of each run so far, sorted.
    fn rows(&self) -> Vec<u32> {
        let mut rows: Vec<u32> = self.seen.lock().unwrap().iter().map(|(rows, _)| *rows).collect();
        rows.sort_unstable();
        rows
    }
}

impl Model for Probe {
    fn info(&self) -> &ModelInfo {
        self.model.info()
    }

    fn engine(&self) -> Engine {
        self.model.engine()
    }

    fn run_until(
        &self,
        inputs: &[(String, Tensor)],
        deadline: Option<Instant>,
    ) -> Result<NamedTensors, InferenceError> {
        self.seen.lock().unwrap().push((rows_of(inputs), deadline));
        match (self.fault)(inputs, deadline) {
            Some(e) => Err(e),
            None => self.model.run_until(inputs, deadline),
        }
    }
}

fn load(onnx: &[u8]) -> Arc<dyn Model> {
    CpuExecutor.load(onnx, &LoadLimits::default()).unwrap()
}

fn batcher(model: Arc<dyn Model>, max_batch: u32, max_delay: Duration) -> Batcher {
    Batcher::new(model, BatchOptions { max_batch, max_delay, ..BatchOptions::default() }).unwrap()
}

fn rows_of(inputs: &[(String, Tensor)]) -> u32 {
    inputs[0].1.shape().dims().first().copied().unwrap_or(1)
}

fn is_bad(inputs: &[(String, Tensor)]) -> bool {
    inputs[0].1.to_f64().contains(&f64::from(BAD))
}

fn failed(reason: &str) -> InferenceError {
    InferenceError::Failed { reason: reason.to_owned() }
}

/// `rows` rows for [`dense`] that begin with `first`. Eighths of small whole
/// numbers: sums of them are exact, in whichever order a kernel adds.
fn x(rows: u32, first: f32) -> [(String, Tensor); 1] {
    let values: Vec<f32> = (0..rows * 4).map(|i| first + (i as f32) / 8.0).collect();
    [named("x", f32_tensor(&[rows, 4], &values))]
}

/// Run on each input from a thread of its own; `None` for a panic.
#[allow(clippy::type_complexity)]
fn together(
    model: &dyn Model,
    calls: &[(&[(String, Tensor)], Option<Instant>)],
) -> Vec<Option<Result<NamedTensors, InferenceError>>> {
    thread::scope(|scope| {
        let threads: Vec<_> = calls
            .iter()
            .map(|(inputs, deadline)| scope.spawn(|| model.run_until(inputs, *deadline)))
            .collect();
        threads.into_iter().map(|thread| thread.join().ok()).collect()
    })
}

/// Four calls of one row from four threads, each answered as by `alone`.
#[track_caller]
fn assert_four_right(model: &dyn Model, alone: &dyn Model) {
    let inputs: Vec<_> = (0..4u8).map(|i| x(1, f32::from(i))).collect();
    let calls: Vec<_> = inputs.iter().map(|inputs| (&inputs[..], None)).collect();
    for (outputs, inputs) in together(model, &calls).into_iter().zip(&inputs) {
        assert_eq!(outputs.unwrap().unwrap(), alone.run(inputs).unwrap());
    }
}

fn wait_for(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(60), "waited in vain for {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn no_caller_gets_the_rows_of_another() {
    let alone = load(&bytes(&dense()));
    let batched = batcher(load(&bytes(&dense())), 8, Duration::from_millis(2));
    thread::scope(|scope| {
        for thread in 0..16u16 {
            let (alone, batched) = (&alone, &batched);
            scope.spawn(move || {
                for call in 0..50u16 {
                    let inputs = x(u32::from(call % 3) + 1, f32::from(thread * 50 + call));
                    let (expected, given) = (alone.run(&inputs), batched.run(&inputs));
                    assert_eq!(given.unwrap(), expected.unwrap(), "thread {thread}, call {call}");
                }
            });
        }
    });
    let statistics = batched.statistics();
    // The first two are checked, and so answered by runs alone.
    assert!(statistics.batches > 2, "{statistics:?}");
    assert!(statistics.mean_rows() >= 2.0, "{statistics:?}");
    assert_eq!(statistics.alone + statistics.batched_calls, 16 * 50);
    assert_eq!((statistics.failed, statistics.refused, statistics.late), (0, 0, 0));
    assert_eq!((statistics.waiting, statistics.max_batch), (0, 8));
}

#[test]
fn a_full_batch_does_not_wait_for_its_delay() {
    let alone = load(&bytes(&dense()));
    let probe = Probe::new(&bytes(&dense()), |_, _| None);
    let batched = batcher(Arc::clone(&probe) as _, 4, LONG);
    for _ in 0..3 {
        assert_four_right(&batched, &*alone);
    }
    // Batches one and two are checked, the third is not.
    assert_eq!(probe.rows(), [1, 1, 1, 1, 1, 1, 1, 1, 4, 4, 4]);
    assert_eq!(batched.statistics().mean_rows(), 4.0);
    // What fills a batch by itself, or has nothing to put into one, is not
    // kept waiting.
    for rows in [4, 5, 0] {
        let inputs = x(rows, 1.0);
        assert_eq!(batched.run(&inputs).unwrap(), alone.run(&inputs).unwrap());
    }
    assert_eq!((batched.statistics().batches, batched.statistics().alone), (3, 3));
}

#[test]
fn a_batch_that_does_not_fill_ends_its_wait_and_is_padded() {
    let delay = Duration::from_secs(1);
    let alone = load(&bytes(&dense()));
    let probe = Probe::new(&bytes(&dense()), |_, _| None);
    let batched = batcher(Arc::clone(&probe) as _, 8, delay);
    for _ in 0..3 {
        let inputs = [x(1, 1.0), x(2, 2.0), x(2, 3.0)];
        let calls: Vec<_> = inputs.iter().map(|inputs| (&inputs[..], None)).collect();
        let start = Instant::now();
        let outputs = together(&batched, &calls);
        assert!(start.elapsed() >= delay);
        for (outputs, inputs) in outputs.into_iter().zip(&inputs) {
            assert_eq!(outputs.unwrap().unwrap(), alone.run(inputs).unwrap());
        }
    }
    assert_eq!(probe.rows(), [1, 1, 2, 2, 2, 2, 8, 8, 8]);
    assert_eq!(batched.statistics().batched_rows, 15);
    // A call that stays the only one runs alone after its delay.
    let start = Instant::now();
    batched.run(&x(3, 1.0)).unwrap();
    assert!(start.elapsed() >= delay);
    assert_eq!(batched.statistics().alone, 1);
}

#[test]
fn a_deadline_too_tight_to_wait_does_not_wait() {
    let batched = batcher(load(&bytes(&dense())), 8, LONG);
    let end = Instant::now() + LONG / 2;
    batched.run_until(&x(1, 1.0), Some(end)).unwrap();
    let late = batched.run_until(&x(1, 1.0), Some(Instant::now())).unwrap_err();
    assert_eq!(late.code(), "deadline-exceeded");
    assert_eq!((batched.statistics().batches, batched.statistics().alone), (0, 2));
}

#[test]
fn a_call_behind_a_slow_batch_gives_up_at_its_deadline() {
    let held = Arc::new((Mutex::new(true), Condvar::new()));
    let holds = Arc::clone(&held);
    let probe = Probe::new(&bytes(&dense()), move |inputs, _| {
        if rows_of(inputs) == 2 {
            let held = holds.0.lock().unwrap();
            let most = Duration::from_secs(30);
            drop(holds.1.wait_timeout_while(held, most, |held| *held).unwrap());
        }
        None
    });
    let batched = batcher(Arc::clone(&probe) as _, 2, Duration::from_millis(500));
    thread::scope(|scope| {
        let first = scope.spawn(|| batched.run(&x(1, 1.0)));
        let second = scope.spawn(|| batched.run(&x(1, 2.0)));
        wait_for("the batch", || probe.rows() == [2]);
        let end = Instant::now() + Duration::from_secs(2);
        let late = batched.run_until(&x(1, 3.0), Some(end)).unwrap_err();
        assert!(Instant::now() >= end);
        let InferenceError::DeadlineExceeded { next, allowed } = late else { panic!("{late}") };
        assert_eq!(next, "its batch");
        assert!(allowed > Duration::from_secs(1), "{allowed:?}");
        *held.0.lock().unwrap() = false;
        held.1.notify_all();
        first.join().unwrap().unwrap();
        second.join().unwrap().unwrap();
    });
    wait_for("the late call to be counted", || batched.statistics().late == 1);
}

#[test]
fn the_tightest_deadline_ends_a_batch_but_not_the_calls_of_others() {
    let probe = Probe::new(&bytes(&dense()), |inputs, deadline| {
        let late = rows_of(inputs) > 1 && deadline.is_some();
        let (allowed, next) = (Duration::ZERO, "the test".to_owned());
        late.then_some(InferenceError::DeadlineExceeded { allowed, next })
    });
    let batched = batcher(Arc::clone(&probe) as _, 4, Duration::from_secs(60));
    let tight = Instant::now() + LONG;
    let inputs = x(1, 1.0);
    let deadlines = [None, Some(tight + LONG), Some(tight), None];
    let outcomes = together(&batched, &deadlines.map(|deadline| (&inputs[..], deadline)));
    assert!(outcomes.into_iter().all(|outcome| outcome.unwrap().is_ok()));
    let seen = probe.seen.lock().unwrap();
    assert_eq!(seen[0], (4, Some(tight)));
    assert_eq!(seen.iter().filter(|run| **run == (1, None)).count(), 2);
    assert!(seen.contains(&(1, Some(tight))) && seen.contains(&(1, Some(tight + LONG))));
    // It says nothing of batches of that size.
    assert_eq!((batched.statistics().failed, batched.statistics().max_batch), (1, 4));
}

#[test]
fn a_call_that_fails_fails_alone() {
    let alone = load(&bytes(&dense()));
    let probe = Probe::new(&bytes(&dense()), |inputs, _| is_bad(inputs).then(|| failed("bad")));
    let batched = batcher(probe, 4, LONG);
    let inputs = [x(1, 1.0), x(1, BAD), x(1, 2.0), x(1, 3.0)];
    let calls: Vec<_> = inputs.iter().map(|inputs| (&inputs[..], None)).collect();
    for _ in 0..3 {
        let outcomes = together(&batched, &calls);
        for (outcome, inputs) in outcomes.into_iter().zip(&inputs) {
            let expected = if is_bad(inputs) { Err(failed("bad")) } else { alone.run(inputs) };
            assert_eq!(outcome.unwrap(), expected);
        }
    }
    // The size was not at fault.
    assert_eq!((batched.statistics().failed, batched.statistics().max_batch), (3, 4));
    assert_four_right(&batched, &*alone);
    assert_eq!(batched.statistics().batches, 1);
}

#[test]
fn a_panic_reaches_the_caller_that_brings_it_and_nobody_hangs() {
    let alone = load(&bytes(&dense()));
    let probe = Probe::new(&bytes(&dense()), |inputs, _| {
        assert!(!is_bad(inputs), "the panic of the test");
        None
    });
    let batched = batcher(probe, 4, LONG);
    let inputs = [x(1, 1.0), x(1, BAD), x(1, 2.0), x(1, 3.0)];
    let calls: Vec<_> = inputs.iter().map(|inputs| (&inputs[..], None)).collect();
    let outcomes = together(&batched, &calls);
    for (outcome, inputs) in outcomes.into_iter().zip(&inputs) {
        match outcome {
            Some(outputs) => assert_eq!(outputs.unwrap(), alone.run(inputs).unwrap()),
            None => assert!(is_bad(inputs)),
        }
    }
    assert_four_right(&batched, &*alone);
    assert_eq!((batched.statistics().failed, batched.statistics().batches), (1, 1));
}

#[test]
fn rows_that_depend_on_each_other_end_batching_before_a_wrong_answer() {
    // Running sums down the batch.
    let onnx = bytes(&model(graph(
        vec![value("x", DataType::Float, &["batch", "4"])],
        vec![value("y", DataType::Float, &["batch", "4"])],
        vec![node("CumSum", &["x", "axis"], &["y"])],
        vec![i64s("axis", &[], &[0])],
    )));
    let (alone, batched) = (load(&onnx), batcher(load(&onnx), 4, LONG));
    assert_four_right(&batched, &*alone);
    assert_eq!((batched.statistics().batches, batched.statistics().max_batch), (1, 1));
    assert_four_right(&batched, &*alone);
    assert_eq!((batched.statistics().batches, batched.statistics().alone), (1, 4));
}

#[test]
fn a_model_that_gives_something_else_than_rows_is_not_cut_up() {
    // For one row the output is one row; for four it is one, too, of sixteen.
    let onnx = bytes(&model(graph(
        vec![value("x", DataType::Float, &["batch", "4"])],
        vec![value("y", DataType::Float, &["batch", "width"])],
        vec![node("Reshape", &["x", "shape"], &["y"])],
        vec![i64s("shape", &[2], &[1, -1])],
    )));
    let (alone, batched) = (load(&onnx), batcher(load(&onnx), 4, LONG));
    // A size that fails where its calls do not is halved, down to none.
    for max_batch in [2, 1, 1] {
        assert_four_right(&batched, &*alone);
        let statistics = batched.statistics();
        assert_eq!((statistics.batches, statistics.max_batch), (0, max_batch));
    }
}

#[test]
fn calls_of_other_inner_shapes_do_not_share_a_batch() {
    let onnx = bytes(&model(graph(
        vec![
            value("a", DataType::Float, &["batch", "n"]),
            value("b", DataType::Float, &["batch", "n"]),
        ],
        vec![value("y", DataType::Float, &["batch", "n"])],
        vec![node("Sub", &["a", "b"], &["y"])],
        vec![],
    )));
    let batched = batcher(load(&onnx), 2, LONG);
    let inputs: Vec<_> = [2u8, 3, 2, 3]
        .into_iter()
        .zip(1u8..)
        .map(|(n, i)| {
            let row = |v: f32| f32_tensor(&[1, n.into()], &vec![v; n.into()]);
            [named("a", row(f32::from(10 * i))), named("b", row(f32::from(i)))]
        })
        .collect();
    let calls: Vec<_> = inputs.iter().map(|inputs| (&inputs[..], None)).collect();
    for _ in 0..3 {
        for (outputs, (inputs, i)) in
            together(&batched, &calls).into_iter().zip(inputs.iter().zip(1u8..))
        {
            let y = &outputs.unwrap().unwrap()[0].1;
            assert_eq!(y.shape(), inputs[0].1.shape());
            assert!(y.to_f64().iter().all(|v| *v == f64::from(9 * i)), "{:?}", y.to_f64());
        }
    }
    assert_eq!((batched.statistics().batches, batched.statistics().batched_calls), (6, 12));
}

#[test]
fn a_model_without_one_symbol_for_its_rows_is_never_batched() {
    // Inputs with the shape that each is fed, and the output.
    type Declared = &'static [(&'static [&'static str], &'static [u32])];
    let models: [(Declared, &[&str]); 6] = [
        (&[(&["1", "4"], &[1, 4])], &["1", "4"]),
        (&[(&["n", "4"], &[1, 4])], &["m", "4"]),
        (&[(&["?", "4"], &[1, 4])], &["?", "4"]),
        (&[(&["n", "n"], &[1, 1])], &["n", "n"]),
        (&[(&["n", "4"], &[1, 4]), (&[], &[])], &["n", "4"]),
        (&[(&["n", "4"], &[1, 4]), (&["1", "4"], &[1, 4])], &["n", "4"]),
    ];
    for (inputs, output) in models {
        let op = if inputs.len() == 1 { "Relu" } else { "Add" };
        let (declared, fed): (Vec<_>, Vec<_>) = inputs
            .iter()
            .zip(["a", "b"])
            .map(|((dims, shape), name)| {
                let ones = vec![1.0; shape.iter().product::<u32>() as usize];
                (value(name, DataType::Float, dims), named(name, f32_tensor(shape, &ones)))
            })
            .unzip();
        let onnx = one_node(op, declared, value("y", DataType::Float, output));
        let batched = batcher(load(&onnx), 8, LONG);
        assert_eq!(batched.statistics().max_batch, 1, "{inputs:?}");
        batched.run(&fed).unwrap();
        assert_eq!(batched.statistics().alone, 1);
    }
}

#[test]
fn inputs_that_do_not_fit_are_refused_before_they_wait() {
    let batched = batcher(load(&bytes(&dense())), 8, LONG);
    let wide = [named("x", f32_tensor(&[1, 5], &[0.0; 5]))];
    assert_eq!(batched.run(&wide).unwrap_err().code(), "wrong-shape");
    let whole = [named("x", Tensor::from_elements::<i32>(&[1, 4], &[0; 4]).unwrap())];
    assert_eq!(batched.run(&whole).unwrap_err().code(), "wrong-dtype");
    assert_eq!(batched.run(&[]).unwrap_err().code(), "missing-input");
}

#[test]
fn a_full_queue_refuses_and_a_closed_one_lets_go() {
    let options = BatchOptions { max_batch: 8, max_delay: LONG, max_queue: 2 };
    let batched = Batcher::new(load(&bytes(&dense())), options).unwrap();
    thread::scope(|scope| {
        let waiting: Vec<_> =
            (0..2).map(|_| scope.spawn(|| batched.run(&x(1, 1.0)).unwrap_err())).collect();
        wait_for("two calls", || batched.statistics().waiting == 2);
        let refusal = batched.run(&x(1, 1.0)).unwrap_err();
        assert_eq!(refusal.code(), "over-limit");
        assert_eq!(
            refusal.to_string(),
            "max_queue: calls that wait for a batch would take 3, more than the 2 allowed"
        );
        assert_eq!(batched.statistics().refused, 1);
        batched.close();
        for call in waiting {
            assert_eq!(call.join().unwrap(), failed("the batcher is closed"));
        }
    });
    assert_eq!(batched.statistics().waiting, 0);
    assert_eq!(batched.run(&x(1, 1.0)).unwrap_err(), failed("the batcher is closed"));
}

#[test]
fn a_dropped_batcher_leaves_no_thread_that_holds_the_model() {
    let model = load(&bytes(&dense()));
    let seen = Arc::downgrade(&model);
    let batched = batcher(model, 8, LONG);
    assert!(seen.upgrade().is_some());
    drop(batched);
    assert!(seen.upgrade().is_none());
}

#[test]
fn a_real_model_gives_onnx_runtimes_answers_in_batches() {
    let (Some(models), Some(samples)) = (shared("models"), shared("samples")) else { return };
    let onnx = std::fs::read(models.join("tiny-ic-resnet-f32.onnx")).unwrap();
    let mut proto = ModelProto::decode(&*onnx).unwrap();
    let graph = proto.graph.as_mut().unwrap();
    // It was exported for one image; nothing in it needs that.
    for value in graph.input.iter_mut().chain(&mut graph.output) {
        let declared = value.r#type.as_mut().unwrap().value.as_mut().unwrap();
        let type_proto::Value::TensorType(tensor) = declared;
        let rows = &mut tensor.shape.as_mut().unwrap().dim[0];
        rows.value = Some(Value::DimParam("batch".to_owned()));
    }
    let batched = batcher(load(&bytes(&proto)), 4, LONG);
    let input = batched.info().inputs[0].name.clone();
    let images: Vec<u8> = read_npy(&samples.join("ic_images_u8.npy")).to_vec().unwrap();
    let expected = read_npy(&samples.join("tiny-ic-resnet-f32.ort-output_f32.npy"));
    let expected: Vec<f32> = expected.to_vec().unwrap();
    let images: Vec<_> = images
        .chunks_exact(32 * 32 * 3)
        .map(|image| {
            let channel = |c| image.iter().skip(c).step_by(3).map(|v| f32::from(*v));
            let planes: Vec<f32> = (0..3).flat_map(channel).collect();
            [named(&input, f32_tensor(&[1, 3, 32, 32], &planes))]
        })
        .collect();
    for (images, expected) in images.chunks_exact(4).zip(expected.chunks_exact(40)) {
        let calls: Vec<_> = images.iter().map(|inputs| (&inputs[..], None)).collect();
        for (outputs, expected) in together(&batched, &calls).into_iter().zip(expected.chunks(10)) {
            let scores: Vec<f32> = outputs.unwrap().unwrap()[0].1.to_vec().unwrap();
            assert!(
                scores.iter().zip(expected).all(|(s, e)| (s - e).abs() <= 1e-4),
                "{scores:?} {expected:?}"
            );
        }
    }
    assert_eq!((batched.statistics().batches, batched.statistics().mean_rows()), (3, 4.0));
}

fn one_at_a_time(model: Arc<dyn Model>) -> Parallel {
    Parallel::new(model, Arc::new(Gate::new(NonZeroUsize::MIN)))
}

#[test]
fn no_more_runs_go_on_at_once_than_allowed() {
    let now = Arc::new((AtomicUsize::new(0), AtomicUsize::new(0)));
    let counts = Arc::clone(&now);
    let probe = Probe::new(&bytes(&dense()), move |_, _| {
        let running = counts.0.fetch_add(1, Ordering::SeqCst) + 1;
        counts.1.fetch_max(running, Ordering::SeqCst);
        thread::sleep(Duration::from_millis(20));
        counts.0.fetch_sub(1, Ordering::SeqCst);
        None
    });
    let gate = Arc::new(Gate::new(NonZeroUsize::new(2).unwrap()));
    let parallel = Parallel::new(Arc::clone(&probe) as _, Arc::clone(&gate));
    let inputs = x(1, 1.0);
    let expected = probe.model.run(&inputs).unwrap();
    for outputs in together(&parallel, &[(&inputs[..], None); 12]) {
        assert_eq!(outputs.unwrap().unwrap(), expected);
    }
    assert_eq!(now.1.load(Ordering::SeqCst), 2);
    // Runs of another model behind the gate count, too.
    let other = Parallel::new(Arc::clone(&probe) as _, gate);
    now.1.store(0, Ordering::SeqCst);
    thread::scope(|scope| {
        for parallel in [&parallel, &other] {
            scope.spawn(|| together(parallel, &[(&inputs[..], None); 6]));
        }
    });
    assert_eq!(now.1.load(Ordering::SeqCst), 2);
    assert_eq!(Gate::of_cores().max_runs(), thread::available_parallelism().unwrap());
}

#[test]
fn a_run_without_a_place_by_its_deadline_is_refused_and_keeps_none() {
    let held = Arc::new((Mutex::new(true), Condvar::new()));
    let holds = Arc::clone(&held);
    let probe = Probe::new(&bytes(&dense()), move |_, _| {
        let held = holds.0.lock().unwrap();
        let most = Duration::from_secs(30);
        drop(holds.1.wait_timeout_while(held, most, |held| *held).unwrap());
        None
    });
    let parallel = one_at_a_time(Arc::clone(&probe) as _);
    thread::scope(|scope| {
        let first = scope.spawn(|| parallel.run(&x(1, 1.0)));
        wait_for("the first run", || probe.rows() == [1]);
        let end = Instant::now() + Duration::from_millis(100);
        let late = parallel.run_until(&x(1, 1.0), Some(end)).unwrap_err();
        assert!(Instant::now() >= end);
        assert!(late.to_string().ends_with("its turn among the runs"), "{late}");
        assert_eq!(probe.rows(), [1]);
        let next = scope.spawn(|| parallel.run(&x(2, 1.0)));
        *held.0.lock().unwrap() = false;
        held.1.notify_all();
        first.join().unwrap().unwrap();
        next.join().unwrap().unwrap();
    });
    assert_eq!(probe.rows(), [1, 2]);
}

#[test]
fn a_run_that_panics_gives_its_place_back() {
    let probe = Probe::new(&bytes(&dense()), |inputs, _| {
        assert!(!is_bad(inputs), "the panic of the test");
        None
    });
    let parallel = one_at_a_time(probe);
    let bad = x(1, BAD);
    assert!(together(&parallel, &[(&bad[..], None)])[0].is_none());
    let end = Instant::now() + Duration::from_secs(60);
    parallel.run_until(&x(1, 1.0), Some(end)).unwrap();
}

/// An executor that counts what reaches it, and loads none before so many have.
struct Counting {
    loads: AtomicUsize,
    together: usize,
}

impl Counting {
    fn new(together: usize) -> Self {
        Self { loads: AtomicUsize::new(0), together }
    }
}

impl Executor for Counting {
    fn name(&self) -> &'static str {
        "counting"
    }

    fn load(&self, onnx: &[u8], limits: &LoadLimits) -> Result<Arc<dyn Model>, InferenceError> {
        self.loads.fetch_add(1, Ordering::SeqCst);
        wait_for("the other loads", || self.loads.load(Ordering::SeqCst) >= self.together);
        CpuExecutor.load(onnx, limits)
    }
}

/// What [`dense`] takes: 15 constants, a row of four and one of three, in f32.
const DENSE: u64 = (15 + 4 + 3) * 4;

#[test]
fn a_model_over_the_budget_is_refused_before_the_executor_sees_it() {
    let executor = Counting::new(1);
    let limits = LoadLimits::default();
    let onnx = bytes(&dense());
    let set = ModelSet::with_budget(2 * DENSE + 10);
    set.load("a", &executor, &onnx, &limits).unwrap();
    set.load("b", &executor, &onnx, &limits).unwrap();
    let refusal = set.load("c", &executor, &onnx, &limits).map(drop).unwrap_err();
    assert_eq!(refusal.code(), "over-budget");
    assert_eq!(refusal.to_string(), "model \"c\" needs 88 bytes; 10 of the budget of 186 are free");
    assert_eq!(executor.loads.load(Ordering::SeqCst), 2);
    assert_eq!(set.names(), ["a", "b"]);
    // What a model takes that is to be replaced is free.
    set.load("b", &executor, &onnx, &limits).unwrap();
    // What did not load is given back, and so is what is unloaded.
    set.unload("b").unwrap();
    let mut broken = dense();
    broken.graph.as_mut().unwrap().node[2].op_type = "NoSuchOperator".to_owned();
    set.load("b", &executor, &bytes(&broken), &limits).map(drop).unwrap_err();
    set.load("b", &executor, &onnx, &limits).unwrap();
    set.load("c", &executor, &onnx, &limits).map(drop).unwrap_err();
}

#[test]
fn models_that_load_at_once_do_not_share_the_same_free_bytes() {
    // The first to come to the executor waits there for a second.
    let executor = Counting::new(2);
    let (limits, onnx) = (LoadLimits::default(), bytes(&dense()));
    let set = ModelSet::with_budget(2 * DENSE);
    let loaded = thread::scope(|scope| {
        let threads: Vec<_> = (0..6)
            .map(|i| {
                let (set, executor, onnx) = (&set, &executor, &onnx);
                scope.spawn(move || set.load(format!("m{i}"), executor, onnx, &limits).is_ok())
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).filter(|ok| *ok).count()
    });
    assert_eq!((loaded, set.names().len()), (2, 2));
}

#[test]
fn an_unloaded_model_that_is_still_held_takes_its_bytes() {
    let (limits, onnx) = (LoadLimits::default(), bytes(&dense()));
    let set = ModelSet::with_budget(DENSE);
    let held = set.load("a", &CpuExecutor, &onnx, &limits).unwrap();
    set.unload("a").unwrap();
    let refusal = set.load("b", &CpuExecutor, &onnx, &limits).map(drop).unwrap_err();
    let expected = InferenceError::OverBudget {
        model: "b".to_owned(),
        needed: DENSE,
        available: 0,
        budget: DENSE,
    };
    assert_eq!(refusal, expected);
    drop(held);
    set.load("b", &CpuExecutor, &onnx, &limits).unwrap();
}

#[test]
fn an_idle_model_is_evicted_in_its_time_and_no_other() {
    let (limits, onnx) = (LoadLimits::default(), bytes(&dense()));
    let set = ModelSet::with_budget(3 * DENSE);
    for name in ["fetched", "held", "idle"] {
        set.load(name, &CpuExecutor, &onnx, &limits).unwrap();
    }
    let held = set.get("held").unwrap();
    let start = Instant::now();
    let minute = Duration::from_secs(60);
    let none: [&str; 0] = [];
    assert_eq!(set.evict_idle(start, minute), none);
    assert_eq!(set.evict_idle(start + minute / 2, minute), none);
    drop(set.get("fetched"));
    assert_eq!(set.evict_idle(start + minute, minute), ["idle"]);
    assert_eq!(set.names(), ["fetched", "held"]);
    // Its bytes are free again.
    set.load("new", &CpuExecutor, &onnx, &limits).unwrap();
    assert_eq!(set.evict_idle(start + minute * 2, minute), ["fetched"]);
    drop(held);
    assert_eq!(set.evict_idle(start + minute * 3 - Duration::from_nanos(1), minute), none);
    assert_eq!(set.evict_idle(start + minute * 3, minute), ["held", "new"]);
    assert_eq!(set.names(), none);
}
