//! Runs that are stopped at a deadline, and models that outlive it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use headland_inference::{
    CpuExecutor, Executor, InferenceError, LoadLimits, Model, Session, StateBinding,
};
use headland_tensor::{DType, NamedTensors, Shape, Tensor};
use support::*;
use tract_onnx::pb::{NodeProto, TensorProto, ValueInfoProto, tensor_proto::DataType};

fn load(onnx: &[u8]) -> Arc<dyn Model> {
    CpuExecutor.load(onnx, &LoadLimits::default()).unwrap()
}

fn soon() -> Option<Instant> {
    Some(Instant::now() + Duration::from_millis(1))
}

fn far() -> Option<Instant> {
    Some(Instant::now() + Duration::from_secs(3600))
}

/// What would have come next in a run that was stopped.
#[track_caller]
fn stopped(outcome: Result<NamedTensors, InferenceError>) -> String {
    match outcome {
        Err(InferenceError::DeadlineExceeded { next, .. }) => next,
        other => panic!("not stopped: {:?}", other.map(|_| "outputs")),
    }
}

/// A chain that no machine computes in a millisecond, of nodes that tract does
/// not fuse into one.
const STEPS: usize = 200;
const ROWS: usize = 1024;
const COLUMNS: usize = 64;

/// `last = x w w w ...`, in [`STEPS`] nodes.
fn turns(last: &str) -> Vec<NodeProto> {
    (0..STEPS)
        .map(|i| {
            let from = if i == 0 { "x".to_owned() } else { format!("{last}{}", i - 1) };
            let to = if i + 1 == STEPS { last.to_owned() } else { format!("{last}{i}") };
            node("MatMul", &[&from, "w"], &[&to])
        })
        .collect()
}

/// The matrix that moves every column one to the right.
fn w() -> TensorProto {
    let mut values = vec![0.0; COLUMNS * COLUMNS];
    for from in 0..COLUMNS {
        values[from * COLUMNS + (from + 1) % COLUMNS] = 1.0;
    }
    f32s("w", &[COLUMNS as i64; 2], &values)
}

fn matrix(name: &str) -> ValueInfoProto {
    value(name, DataType::Float, &["n", "64"])
}

fn chain() -> Vec<u8> {
    bytes(&model(graph(vec![matrix("x")], vec![matrix("y")], turns("y"), vec![w()])))
}

/// Rows of 0, 1, 2, ...
fn x(rows: usize) -> (String, Tensor) {
    let values: Vec<f32> = (0..rows * COLUMNS).map(|i| (i % COLUMNS) as f32).collect();
    named("x", f32_tensor(&[rows as u32, COLUMNS as u32], &values))
}

#[track_caller]
fn assert_turned(outputs: &[(String, Tensor)]) {
    let origin = |i: usize| (i + COLUMNS - STEPS % COLUMNS) % COLUMNS;
    let expected: Vec<f32> = (0..ROWS * COLUMNS).map(|i| origin(i) as f32).collect();
    assert_eq!(outputs[0].1.to_vec::<f32>().unwrap(), expected);
}

#[test]
fn a_run_is_stopped_between_nodes_and_the_model_lives_on() {
    let model = load(&chain());
    let x = [x(ROWS)];
    assert_turned(&model.run(&x).unwrap());
    let next = stopped(model.run_until(&x, soon()));
    assert!(next != "planning" && next != "its end", "{next}");
    assert_turned(&model.run_until(&x, far()).unwrap());
    assert_turned(&model.run(&x).unwrap());
}

#[test]
fn a_deadline_that_has_passed_stops_a_run_before_it_plans_or_computes() {
    let model = load(&chain());
    let x = [x(ROWS)];
    let refusal = model.run_until(&x, Some(Instant::now())).unwrap_err();
    assert_eq!(refusal.code(), "deadline-exceeded");
    assert_eq!(
        refusal.to_string(),
        "the run took longer than the 0ns allowed, and was stopped before planning"
    );
    model.run(&x).unwrap();
    let next = stopped(model.run_until(&x, Some(Instant::now())));
    assert_ne!(next, "planning", "there is a plan");
    // What is wrong with the inputs is said all the same.
    let refusal = model.run_until(&[], Some(Instant::now())).unwrap_err();
    assert_eq!(refusal.code(), "missing-input");
}

#[test]
fn planning_counts_and_is_not_done_again() {
    let model = load(&chain());
    // With one row the nodes take no time beside their planning.
    let x = [x(1)];
    stopped(model.run_until(&x, soon()));
    let next = stopped(model.run_until(&x, Some(Instant::now())));
    assert_ne!(next, "planning", "the plan of the run before was kept");
}

#[test]
fn a_run_is_stopped_within_the_branch_taken() {
    let branch = |last: &str| graph(vec![], vec![matrix(last)], turns(last), vec![]);
    let mut choice = node("If", &["c"], &["y"]);
    choice.attribute = vec![body("then_branch", branch("t")), body("else_branch", branch("e"))];
    let model = load(&bytes(&model(graph(
        vec![matrix("x"), value("c", DataType::Bool, &[])],
        vec![matrix("y")],
        vec![choice],
        vec![w()],
    ))));
    for c in [1, 0] {
        let c = Tensor::new(DType::Bool, Shape::default(), vec![c]).unwrap();
        let inputs = [x(ROWS), named("c", c)];
        assert_turned(&model.run(&inputs).unwrap());
        // Were the branch one operator, only the end would come after it.
        assert_ne!(stopped(model.run_until(&inputs, soon())), "its end");
        assert_turned(&model.run_until(&inputs, far()).unwrap());
    }
}

#[test]
fn a_run_is_stopped_between_the_turns_of_a_loop() {
    // next = state + the sum of x, y the negative of each partial sum.
    let turn = graph(
        vec![value("s", DataType::Float, &["1"]), value("e", DataType::Float, &["1"])],
        vec![value("t", DataType::Float, &["1"]), value("u", DataType::Float, &["1"])],
        vec![node("Add", &["s", "e"], &["t"]), node("Neg", &["t"], &["u"])],
        vec![],
    );
    let mut scan = node("Scan", &["state", "x"], &["next", "y"]);
    scan.attribute = vec![body("body", turn), int("num_scan_inputs", 1)];
    let model = load(&bytes(&model(graph(
        vec![value("state", DataType::Float, &["1"]), value("x", DataType::Float, &["n", "1"])],
        vec![value("y", DataType::Float, &["n", "1"]), value("next", DataType::Float, &["1"])],
        vec![scan],
        vec![],
    ))));
    let count = 1u32 << 16;
    let x = named("x", f32_tensor(&[count, 1], &vec![1.0; count as usize]));
    let zero = f32_tensor(&[1], &[0.0]);
    let inputs = [x.clone(), named("state", zero.clone())];
    let sum = |outputs: &[(String, Tensor)]| outputs[1].1.to_vec::<f32>().unwrap()[0];
    assert_eq!(sum(&model.run(&inputs).unwrap()), count as f32);
    assert_ne!(stopped(model.run_until(&inputs, soon())), "its end");
    assert_eq!(sum(&model.run_until(&inputs, far()).unwrap()), count as f32);

    // The step of a session that is stopped leaves the state as it was.
    let bound = StateBinding { input: "state".into(), output: "next".into(), initial: zero };
    let mut session = Session::new(model, vec![bound]).unwrap();
    let last =
        |outputs: &[(String, Tensor)]| *outputs[0].1.to_vec::<f32>().unwrap().last().unwrap();
    let x = [x];
    assert_eq!(last(&session.run_until(&x, far()).unwrap()), -(count as f32));
    stopped(session.run_until(&x, soon()));
    assert_eq!(last(&session.run(&x).unwrap()), -2.0 * count as f32);
}
