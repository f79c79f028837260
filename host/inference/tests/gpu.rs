//! The GPU executor: what it keeps where, what it copies, what it refuses. On
//! burn's CPU backend everywhere, and on an adapter where there is one.

#![cfg(feature = "gpu")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::{
    pin::pin,
    sync::Arc,
    task::{Context, Poll},
};

use headland_inference::{
    CpuExecutor, Executor, InferenceError, LoadLimits, Model, Session, StateBinding,
    gpu::{Device, GpuExecutor, GpuModel, Place, Residents, Transfers},
};
use headland_tensor::Tensor;
use support::*;
use tract_onnx::pb::{ModelProto, tensor_proto::DataType};

fn load(model: &ModelProto) -> Arc<GpuModel> {
    let device = Device::burn_cpu().unwrap();
    GpuExecutor::new(device).load_placed(&bytes(model), &LoadLimits::default()).unwrap()
}

/// What comes of a future, however often it must be asked.
fn awaited<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    loop {
        let mut context = Context::from_waker(std::task::Waker::noop());
        if let Poll::Ready(made) = future.as_mut().poll(&mut context) {
            return made;
        }
        std::thread::yield_now();
    }
}

/// `y = relu(x w) + b` for `x` [batch,4], all of it for a device.
fn layer() -> ModelProto {
    model(graph(
        vec![value("x", DataType::Float, &["batch", "4"])],
        vec![value("y", DataType::Float, &["batch", "2"])],
        vec![
            node("MatMul", &["x", "w"], &["xw"]),
            node("Relu", &["xw"], &["r"]),
            node("Add", &["r", "b"], &["y"]),
        ],
        vec![
            f32s("w", &[4, 2], &[1., -1., 2., -2., 3., -3., 4., -4.]),
            f32s("b", &[2], &[0.5, 0.25]),
        ],
    ))
}

#[test]
fn weights_go_up_once_and_only_outputs_come_back() {
    let model = load(&layer());
    let x = f32_tensor(&[1, 4], &[1., 1., 1., 1.]);
    for run in 1..=3 {
        let out = model.run(&[named("x", x.clone())]).unwrap();
        assert_eq!(out[0].1.to_vec::<f32>().unwrap(), [10.5, 0.25]);
        // Two constants once, and the input of each run.
        let expected = Transfers { uploads: 2 + run, outputs: run, readbacks: 0 };
        assert_eq!(model.transfers(), expected);
    }
    assert_eq!((model.engine().on_device, model.engine().on_host), (3, 0));
}

/// A model with a node that has no operator for a device: `Det`.
fn with_a_determinant() -> ModelProto {
    model(graph(
        vec![value("x", DataType::Float, &["2", "2"])],
        vec![value("y", DataType::Float, &[])],
        vec![node("Neg", &["x"], &["n"]), node("Det", &["n"], &["y"])],
        vec![],
    ))
}

#[test]
fn a_node_that_the_device_does_not_run_goes_to_the_host_and_says_why() {
    let model = load(&with_a_determinant());
    let out = model.run(&[named("x", f32_tensor(&[2, 2], &[1., 2., 3., 4.]))]).unwrap();
    assert_eq!(out[0].1.to_vec::<f32>().unwrap(), [-2.]);
    let placements = model.placements();
    assert_eq!(placements[0].place, Place::Device);
    assert_eq!((placements[1].op.as_str(), placements[1].place), ("Det", Place::Host));
    assert!(placements[1].reason.contains("no such operator for the device"));
    assert_eq!(model.transfers().readbacks, 1);
    assert!(model.engine().name.ends_with("1 node on the host"), "{}", model.engine().name);
}

#[test]
fn strict_refuses_a_node_that_the_device_does_not_run_by_name() {
    let executor = GpuExecutor::strict(Device::burn_cpu().unwrap());
    let model = executor.load(&bytes(&with_a_determinant()), &LoadLimits::default()).unwrap();
    let e = model.run(&[named("x", f32_tensor(&[2, 2], &[1., 2., 3., 4.]))]).unwrap_err();
    let InferenceError::Unsupported { op, node, reason } = e else { panic!("{e}") };
    assert_eq!((op.as_str(), node.as_str()), ("Det (opset 17)", "Det-y"));
    assert!(reason.contains("the device does not run it"), "{reason}");
}

#[test]
fn shapes_are_computed_on_the_host_without_a_readback() {
    // Flatten by hand: the shape of x, its first size, and -1.
    let onnx = model(graph(
        vec![value("x", DataType::Float, &["n", "2", "3"])],
        vec![value("y", DataType::Float, &["n", "6"])],
        vec![
            node("Shape", &["x"], &["s"]),
            node("Gather", &["s", "zero"], &["n"]),
            node("Concat", &["n", "rest"], &["target"]).with(int("axis", 0)),
            node("Reshape", &["x", "target"], &["y"]),
        ],
        vec![i64s("zero", &[1], &[0]), i64s("rest", &[1], &[-1])],
    ));
    let model = load(&onnx);
    let x: Vec<f32> = (0..12).map(|v| v as f32).collect();
    let out = model.run(&[named("x", f32_tensor(&[2, 2, 3], &x))]).unwrap();
    assert_eq!(out[0].1.shape().dims(), [2, 6]);
    assert_eq!(model.transfers(), Transfers { uploads: 1, outputs: 1, readbacks: 0 });
    let places: Vec<Place> = model.placements().iter().map(|p| p.place).collect();
    assert_eq!(places, [Place::Device, Place::Shape, Place::Shape, Place::Device]);
}

#[test]
fn between_two_models_a_tensor_stays_on_the_device_and_is_read_when_it_is_asked_for() {
    let first = load(&layer());
    let second = load(&model(graph(
        vec![value("x", DataType::Float, &["batch", "2"])],
        vec![value("z", DataType::Float, &["batch", "2"])],
        vec![node("Neg", &["x"], &["z"])],
        vec![],
    )));
    let mut residents = Residents::default();
    let x = [named("x", f32_tensor(&[1, 4], &[1., 1., 1., 1.]))];
    let kept = first.start(&x, &residents).unwrap();
    let y = awaited(kept.keep(&mut residents)).unwrap().remove(0).1;
    assert_eq!(first.transfers(), Transfers { uploads: 3, outputs: 0, readbacks: 0 });
    assert!(residents.has(&y) && !residents.has(&x[0].1));

    // The stand-in is of the right type and shape, or this would be refused.
    let fed = [named("x", y.clone())];
    let z = awaited(second.start(&fed, &residents).unwrap().read()).unwrap();
    assert_eq!(z[0].1.to_vec::<f32>().unwrap(), [-10.5, -0.25]);
    assert_eq!(second.transfers(), Transfers { uploads: 0, outputs: 1, readbacks: 0 });

    // In another shape too, as a component that passes it on may give it.
    let flat = y.reshape(headland_tensor::Shape::new([2]).unwrap()).unwrap();
    let read = awaited(residents.read(&flat)).unwrap();
    assert_eq!((read.shape().dims(), read.to_vec::<f32>().unwrap()), (&[2][..], vec![10.5, 0.25]));
    assert_eq!(first.transfers().outputs, 1);
    assert_eq!(awaited(residents.read(&x[0].1)).unwrap(), x[0].1);

    residents.clear();
    assert!(!residents.has(&y));
}

trait With {
    fn with(self, attribute: tract_onnx::pb::AttributeProto) -> Self;
}

impl With for tract_onnx::pb::NodeProto {
    fn with(mut self, attribute: tract_onnx::pb::AttributeProto) -> Self {
        self.attribute.push(attribute);
        self
    }
}

#[test]
fn the_state_of_a_session_stays_on_the_device() {
    let onnx = model(graph(
        vec![
            value("x", DataType::Float, &["1", "2"]),
            value("state", DataType::Float, &["1", "2"]),
        ],
        vec![value("y", DataType::Float, &["1", "2"]), value("next", DataType::Float, &["1", "2"])],
        vec![node("Add", &["x", "state"], &["next"]), node("Neg", &["next"], &["y"])],
        vec![],
    ));
    let model = load(&onnx);
    let bindings = vec![StateBinding {
        input: "state".to_owned(),
        output: "next".to_owned(),
        initial: f32_tensor(&[1, 2], &[0., 10.]),
    }];
    let mut session = Session::new(Arc::clone(&model) as Arc<dyn Model>, bindings).unwrap();
    let x = [named("x", f32_tensor(&[1, 2], &[1., 1.]))];
    for step in 1..=4u64 {
        let out = session.run(&x).unwrap();
        let step_f = step as f32;
        assert_eq!(out[0].1.to_vec::<f32>().unwrap(), [-step_f, -10. - step_f]);
        // The initial state once, then an input up and an output down a step.
        let expected = Transfers { uploads: 1 + step, outputs: step, readbacks: 0 };
        assert_eq!(model.transfers(), expected);
    }
    session.reset();
    let out = session.run(&x).unwrap();
    assert_eq!(out[0].1.to_vec::<f32>().unwrap(), [-1., -11.]);
}

#[test]
fn a_step_that_fails_leaves_the_state_as_it_was() {
    let onnx = model(graph(
        vec![value("i", DataType::Int64, &[]), value("state", DataType::Float, &["2"])],
        vec![value("y", DataType::Float, &[]), value("next", DataType::Float, &["2"])],
        vec![node("Gather", &["state", "i"], &["y"]), node("Neg", &["state"], &["next"])],
        vec![],
    ));
    let bindings = vec![StateBinding {
        input: "state".to_owned(),
        output: "next".to_owned(),
        initial: f32_tensor(&[2], &[1., 2.]),
    }];
    let mut session = Session::new(load(&onnx) as Arc<dyn Model>, bindings).unwrap();
    let at = |i: i64| [named("i", Tensor::from_elements(&[], &[i]).unwrap())];
    assert_eq!(session.run(&at(0)).unwrap()[0].1.to_vec::<f32>().unwrap(), [1.]);
    let e = session.run(&at(7)).unwrap_err();
    assert!(e.to_string().contains("index 7 of 2"), "{e}");
    assert_eq!(session.run(&at(0)).unwrap()[0].1.to_vec::<f32>().unwrap(), [-1.]);
}

#[test]
fn an_adapter_that_is_not_there_is_refused_by_its_selector() {
    for selector in ["discrete:99", "nonsense", "virtual:x", ""] {
        let e = Device::open(selector).unwrap_err();
        assert_eq!(e.code(), "device-failed", "{selector}");
    }
    let e = Device::open("nonsense").unwrap_err().to_string();
    assert!(e.contains("\"nonsense\" names no adapter"), "{e}");
}

/// Run on an adapter, then take it away. One test, as an adapter is opened once
/// in a process.
#[test]
fn an_adapter_gives_the_cpus_answers_and_a_lost_one_a_clear_error() {
    if Device::adapters().is_empty() {
        eprintln!("skipped: no adapter on this machine");
        assert!(std::env::var_os("CI").is_none(), "CI has a Vulkan driver in software");
        return;
    }
    let device = Device::open("default").unwrap();
    let onnx = bytes(&layer());
    let limits = LoadLimits::default();
    let on_gpu = GpuExecutor::new(device.clone()).load_placed(&onnx, &limits).unwrap();
    let on_cpu = CpuExecutor.load(&onnx, &limits).unwrap();
    let x: Vec<f32> = (0..32).map(|v| (v as f32 * 0.37).sin()).collect();
    let fed = [named("x", f32_tensor(&[8, 4], &x))];
    let (given, expected) = (on_gpu.run(&fed).unwrap(), on_cpu.run(&fed).unwrap());
    for (g, e) in given[0].1.to_f64().iter().zip(expected[0].1.to_f64()) {
        assert!((g - e).abs() <= 1e-5, "{g} {e}");
    }
    // As a browser would.
    assert_eq!(awaited(on_gpu.run_async(&fed)).unwrap(), given);
    device.close();
    let e = on_gpu.run(&fed).unwrap_err();
    assert_eq!(e.code(), "device-failed", "{e}");
}
