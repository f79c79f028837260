//! Models and inputs that are meant to do harm: each is refused by name or
//! run to an end, and never panics.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "support/hostile.rs"]
mod hostile;
mod support;

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use headland_inference::{CpuExecutor, Executor, InferenceError, LoadLimits, Model};
use headland_tensor::{Shape, Tensor};
use support::*;
use tract_onnx::pb::{ModelProto, NodeProto, TensorProto, tensor_proto::DataType};

/// The longest that any attack may keep a thread busy.
const PATIENCE: Duration = Duration::from_secs(10);

/// The most memory that any attack may take beyond its own, in MiB.
const MEMORY: u64 = 3 << 10;

/// One table at a time, so that peaks of memory are one attack's own.
static ALONE: Mutex<()> = Mutex::new(());

/// This process's peak of resident memory since the last call, in MiB, where the
/// system says.
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    std::fs::write("/proc/self/clear_refs", "5").ok()?;
    Some(kib >> 10)
}

/// Every hostile model on one executor: none may take long, take much memory, or
/// panic, and each must come to its end.
fn attack(name: &str) {
    support::watch_panics();
    let _alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
    let executors = executors();
    let (_, executor) = executors.iter().find(|(n, _)| *n == name).expect("an executor");
    let in_interpreter = name == "interpreter";
    let mut wrong = Vec::new();
    for attack in hostile::attacks() {
        panics();
        peak_memory();
        let executor = Arc::clone(executor);
        let hostile::Attack { name, onnx, limits, inputs, allowed, fate } = attack;
        let outcome = timed(PATIENCE, move || {
            let model = executor.load(&onnx, &limits)?;
            model.run_until(&inputs, allowed.map(|allowed| Instant::now() + allowed))
        });
        let Some((outcome, took)) = outcome else {
            // What still runs would slow all others down.
            panic!("{name}: still running; before it: {wrong:#?}");
        };
        let fault = match (&outcome, fate) {
            (Ok(made), hostile::Fate::Runs(right)) if right(made) => None,
            (Ok(_), hostile::Fate::Harmless(_)) => None,
            (Ok(made), _) => {
                let shapes: Vec<_> =
                    made.iter().map(|(_, made)| made.shape().to_string()).collect();
                Some(format!("it ran, and gave {shapes:?}"))
            }
            (Err(e), hostile::Fate::Refused(codes, says)) => {
                let text = e.to_string();
                let apt = codes.contains(&e.code()) && says.iter().all(|s| text.contains(s));
                (!apt).then(|| format!("{text} ({}), not {codes:?} {says:?}", e.code()))
            }
            (Err(e), hostile::Fate::Harmless(label)) => {
                let text = e.to_string();
                let named = text.contains(&label) || text.contains("is declared");
                (!named).then(|| format!("{text} does not name {label:?}"))
            }
            (Err(e), hostile::Fate::Runs(_)) => Some(e.to_string()),
        };
        wrong.extend(fault.map(|fault| format!("{name}: {fault}")));
        let (panics, own) = panics();
        // tract and burn panic on some of these; that is caught.
        if own > 0 || (in_interpreter && !panics.is_empty()) {
            wrong.push(format!("{name}: {panics:?}"));
        }
        if let Some(peak) = peak_memory().filter(|peak| *peak > MEMORY) {
            wrong.push(format!("{name}: {peak} MiB"));
        }
        if took > Duration::from_secs(2) {
            eprintln!("{name}: {took:?}");
        }
    }
    assert!(wrong.is_empty(), "{} went wrong: {wrong:#?}", wrong.len());
}

#[test]
fn hostile_models_on_the_cpu() {
    attack("cpu");
}

#[test]
fn hostile_models_in_the_interpreter() {
    attack("interpreter");
}

#[cfg(feature = "gpu")]
#[test]
fn hostile_models_on_a_device() {
    attack("gpu");
}

#[test]
fn truncated_at_every_length() {
    let whole = bytes(&dense());
    for (name, executor) in executors() {
        for cut in 0..whole.len() {
            let refused = executor.load(&whole[..cut], &LoadLimits::default());
            let refused = refused.err().unwrap_or_else(|| panic!("{name} loads {cut} bytes"));
            assert_eq!(refused.code(), "malformed", "{name}, {cut} bytes: {refused}");
        }
    }
}

fn load_within(onnx: &[u8], limits: &LoadLimits) -> Result<Arc<dyn Model>, InferenceError> {
    CpuExecutor.load(onnx, limits)
}

fn load(onnx: &[u8]) -> Result<Arc<dyn Model>, InferenceError> {
    load_within(onnx, &LoadLimits::default())
}

/// The error of a model that must not load.
fn refusal(proto: &ModelProto) -> InferenceError {
    match load(&bytes(proto)) {
        Ok(_) => panic!("the model was loaded"),
        Err(e) => e,
    }
}

#[track_caller]
fn assert_refused(error: &InferenceError, code: &str, says: &str) {
    assert_eq!(error.code(), code, "{error}");
    assert!(error.to_string().contains(says), "{error}");
}

fn row() -> [(String, Tensor); 1] {
    [named("x", f32_tensor(&[1, 4], &[1.0, 2.0, 3.0, 4.0]))]
}

/// Load it, and run it if it loads. Only panics and hangs count.
fn try_out(onnx: &[u8]) {
    let limits = LoadLimits {
        max_tensor_bytes: 1 << 20,
        max_run_bytes: 4 << 20,
        max_initializer_bytes: 1 << 20,
        ..LoadLimits::default()
    };
    if let Ok(model) = load_within(onnx, &limits) {
        let _ = model.run(&row());
    }
}

#[test]
fn bytes_that_are_no_model() {
    for bytes in [&b"\0asm\x01\0\0\0"[..], b"", &[0xff; 4096], &[0x0a; 4096], &[0x3a, 0xff, 0xff]] {
        assert_eq!(load(bytes).err().unwrap().code(), "malformed");
    }
}

#[test]
fn name_defined_twice() {
    let mut proto = dense();
    proto.graph.as_mut().unwrap().node[1].output[0] = "xw".to_owned();
    assert_refused(&refusal(&proto), "malformed", "defines \"xw\" twice");
    let mut proto = dense();
    proto.graph.as_mut().unwrap().initializer[1].name = "w".to_owned();
    assert_refused(&refusal(&proto), "malformed", "defines \"w\" twice");
}

#[test]
fn no_graph_and_no_operator_set() {
    let mut proto = dense();
    proto.graph = None;
    assert_refused(&refusal(&proto), "malformed", "no graph");
    let mut proto = dense();
    proto.opset_import.clear();
    assert_refused(&refusal(&proto), "malformed", "no operator set");
}

#[test]
fn input_of_the_wrong_name_dtype_rank_or_size() {
    let model = load(&bytes(&dense())).unwrap();
    let x = || f32_tensor(&[1, 4], &[0.0; 4]);
    let refused = |inputs: &[(String, Tensor)]| model.run(inputs).unwrap_err();
    assert_refused(&refused(&[]), "missing-input", "\"x\" is missing");
    let unknown = refused(&[named("x", x()), named("y", x())]);
    assert_refused(&unknown, "unknown-input", "no input \"y\"; it has x");
    let twice = refused(&[named("x", x()), named("x", x())]);
    assert_refused(&twice, "duplicate-input", "given twice");
    let whole = Tensor::from_elements::<i32>(&[1, 4], &[0; 4]).unwrap();
    assert_refused(&refused(&[named("x", whole)]), "wrong-dtype", "is f32, got i32");
    let flat = refused(&[named("x", f32_tensor(&[4], &[0.0; 4]))]);
    assert_refused(&flat, "wrong-shape", "shape [batch,4], got [4]");
    let wide = refused(&[named("x", f32_tensor(&[1, 5], &[0.0; 5]))]);
    assert_refused(&wide, "wrong-shape", "shape [batch,4], got [1,5]");
}

#[test]
fn one_symbol_of_two_sizes() {
    let onnx = one_node(
        "Add",
        vec![value("a", DataType::Float, &["n"]), value("b", DataType::Float, &["n"])],
        value("y", DataType::Float, &["n"]),
    );
    let model = load(&onnx).unwrap();
    let inputs = [named("a", f32_tensor(&[1], &[0.0])), named("b", f32_tensor(&[3], &[0.0; 3]))];
    assert_refused(&model.run(&inputs).unwrap_err(), "wrong-shape", "n is 1 in input \"a\"");
}

#[test]
fn nan_storm() {
    let model = load(&bytes(&dense())).unwrap();
    for special in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::from_bits(1)] {
        for _ in 0..50 {
            let x = f32_tensor(&[8, 4], &[special; 32]);
            let out = model.run(&[named("x", x)]).unwrap();
            assert_eq!(out[0].1.shape().dims(), [8, 3]);
        }
    }
    model.run(&row()).unwrap();
}

#[test]
fn zero_size_tensors() {
    let model = load(&bytes(&dense())).unwrap();
    let out = model.run(&[named("x", f32_tensor(&[0, 4], &[]))]).unwrap();
    assert_eq!(out[0].1.shape().dims(), [0, 3]);
    let mut proto = dense();
    proto.graph.as_mut().unwrap().initializer[1] = f32s("b", &[0], &[]);
    try_out(&bytes(&proto));
}

#[test]
fn largest_of_no_elements_is_an_infinity() {
    for (op, of_some, of_none) in
        [("ReduceMax", 3.0, f32::NEG_INFINITY), ("ReduceMin", 1.0, f32::INFINITY)]
    {
        let onnx = one_node(
            op,
            vec![value("x", DataType::Float, &["n", "4"])],
            value("y", DataType::Float, &["1", "1"]),
        );
        let model = load(&onnx).unwrap();
        let some = model.run(&[named("x", f32_tensor(&[1, 4], &[1.0, 3.0, 2.0, 1.0]))]).unwrap();
        assert_eq!(some[0].1.to_vec::<f32>().unwrap(), [of_some]);
        let none = model.run(&[named("x", f32_tensor(&[0, 4], &[]))]).unwrap();
        assert_eq!(none[0].1.to_vec::<f32>().unwrap(), [of_none]);
    }
}

/// A model of one node that makes a tensor out of a shape, and the shape.
fn maker(op: &str, shape: &[i64]) -> ModelProto {
    let dims: Vec<&str> = vec!["?"; shape.len()];
    let mut inputs = vec!["shape"];
    let mut constants = vec![i64s("shape", &[shape.len() as i64], shape)];
    match op {
        "ConstantOfShape" => {}
        _ => {
            inputs.insert(0, "one");
            constants.push(f32s("one", &vec![1; shape.len()], &[1.0]));
        }
    }
    model(graph(
        vec![value("x", DataType::Float, &["1", "4"])],
        vec![value("y", DataType::Float, &dims)],
        vec![node(op, &inputs, &["y"])],
        constants,
    ))
}

#[test]
fn huge_tensor_from_a_small_constant() {
    for op in ["ConstantOfShape", "Expand", "Tile"] {
        for shape in [&[1i64 << 40][..], &[1 << 20, 1 << 20], &[1 << 31, 1 << 31, 1 << 31]] {
            match load(&bytes(&maker(op, shape))) {
                Ok(model) => {
                    let refusal = model.run(&row()).unwrap_err();
                    assert!(["over-limit", "unsupported"].contains(&refusal.code()), "{refusal}");
                }
                Err(e) => assert!(["over-limit", "unsupported"].contains(&e.code()), "{e}"),
            }
        }
    }
    assert!(load(&bytes(&maker("Expand", &[16, 16]))).is_ok());
}

#[test]
fn huge_tensor_from_an_input() {
    let onnx = one_node(
        "ConstantOfShape",
        vec![value("shape", DataType::Int64, &["2"])],
        value("y", DataType::Float, &["?", "?"]),
    );
    let model = load(&onnx).unwrap();
    let run = |a: i64, b: i64| {
        let shape = Tensor::from_elements::<i64>(&[2], &[a, b]).unwrap();
        model.run(&[named("shape", shape)])
    };
    assert_eq!(run(2, 3).unwrap()[0].1.shape().dims(), [2, 3]);
    for (a, b) in [(1 << 20, 1 << 20), (i64::MAX, 2), (-1, 5), (1 << 40, 1)] {
        run(a, b).unwrap_err();
    }
    assert_eq!(run(1, 1).unwrap()[0].1.shape().dims(), [1, 1]);
}

#[test]
fn many_large_tensors_at_once() {
    // Sixteen results of 64 MiB each, all read at the end.
    let names: Vec<String> = (0..16).map(|i| format!("t{i}")).collect();
    let mut nodes: Vec<NodeProto> = names.iter().map(|name| node("Exp", &["x"], &[name])).collect();
    let all: Vec<&str> = names.iter().map(String::as_str).collect();
    nodes.push(node("Concat", &all, &["c"]));
    nodes.last_mut().unwrap().attribute.push(int("axis", 0));
    nodes.push(node("ReduceMax", &["c"], &["y"]));
    let proto = model(graph(
        vec![value("x", DataType::Float, &["n"])],
        vec![value("y", DataType::Float, &["1"])],
        nodes,
        vec![],
    ));
    let limits =
        LoadLimits { max_tensor_bytes: 1 << 30, max_run_bytes: 1 << 20, ..LoadLimits::default() };
    let model = load_within(&bytes(&proto), &limits).unwrap();
    let x = |n: usize| [named("x", f32_tensor(&[n as u32], &vec![0.0; n]))];
    assert_refused(&model.run(&x(1 << 16)).unwrap_err(), "over-limit", "max_run_bytes");
    assert_eq!(model.run(&x(16)).unwrap()[0].1.to_vec::<f32>().unwrap(), [1.0]);
}

#[test]
fn input_over_the_limit() {
    let limits = LoadLimits { max_tensor_bytes: 64, ..LoadLimits::default() };
    let model = load_within(&bytes(&dense()), &limits).unwrap();
    let x = f32_tensor(&[5, 4], &[0.0; 20]);
    assert_refused(&model.run(&[named("x", x)]).unwrap_err(), "over-limit", "input \"x\"");
}

#[test]
fn model_over_each_limit() {
    let onnx = bytes(&dense());
    let whole = LoadLimits::default();
    let refused = |limits: LoadLimits| load_within(&onnx, &limits).err().unwrap().to_string();
    let e = refused(LoadLimits { max_model_bytes: 100, ..whole });
    assert!(e.contains("max_model_bytes"), "{e}");
    let e = refused(LoadLimits { max_nodes: 2, ..whole });
    assert!(e.contains("max_nodes would take 3, more than the 2 allowed"), "{e}");
    let e = refused(LoadLimits { max_initializer_bytes: 59, ..whole });
    assert!(e.contains("max_initializer_bytes would take 60"), "{e}");
    let e = refused(LoadLimits { max_messages: 10, ..whole });
    assert!(e.contains("max_messages"), "{e}");
}

/// `depth` graphs, each in a branch of the one around it.
fn nested(depth: usize) -> ModelProto {
    let result = |name: &str| value(name, DataType::Float, &["1", "4"]);
    let mut inner = graph(vec![], vec![result("r0")], vec![node("Relu", &["x"], &["r0"])], vec![]);
    for level in 1..=depth {
        let name = format!("r{level}");
        let mut branch = node("If", &["c"], &[&name]);
        let other = graph(vec![], vec![result("o")], vec![node("Relu", &["x"], &["o"])], vec![]);
        branch.attribute = vec![body("then_branch", inner), body("else_branch", other)];
        inner = graph(vec![], vec![result(&name)], vec![branch], vec![]);
    }
    inner.input = vec![value("x", DataType::Float, &["1", "4"])];
    inner.initializer = vec![TensorProto {
        name: "c".to_owned(),
        data_type: DataType::Bool as i32,
        raw_data: vec![1],
        ..Default::default()
    }];
    model(inner)
}

#[test]
fn graphs_nested_too_deep() {
    assert_refused(&refusal(&nested(9)), "over-limit", "max_graph_depth");
    // Deeper than a protobuf may be.
    assert!(load(&bytes(&nested(60))).is_err());
    assert!(load(&bytes(&nested(3))).is_ok());
}

#[test]
fn huge_tensor_in_a_branch() {
    let mut proto = nested(1);
    let outer = proto.graph.as_mut().unwrap();
    let inner = outer.node[0].attribute[0].g.as_mut().unwrap();
    inner.initializer = vec![i64s("huge", &[2], &[1 << 20, 1 << 20])];
    inner.node = vec![
        node("ConstantOfShape", &["huge"], &["h"]),
        node("ReduceMax", &["h"], &["m"]),
        node("Add", &["x", "m"], &["r0"]),
    ];
    match load(&bytes(&proto)) {
        Ok(model) => drop(model.run(&row()).unwrap_err()),
        Err(e) => assert!(["over-limit", "unsupported"].contains(&e.code()), "{e}"),
    }
}

#[test]
fn million_empty_nodes() {
    // Two bytes each on the wire, a hundred times that when decoded.
    let mut graph = Vec::new();
    for _ in 0..1_500_000 {
        graph.extend_from_slice(&[0x0a, 0x00]);
    }
    let mut onnx = vec![0x3a];
    prost::encode_length_delimiter(graph.len(), &mut onnx).unwrap();
    onnx.extend_from_slice(&graph);
    assert_refused(&load(&onnx).err().unwrap(), "over-limit", "max_messages");
}

#[test]
fn function_call_with_too_many_arguments() {
    let mut proto = dense();
    proto.graph.as_mut().unwrap().node[2] = call("f", &["xwb", "xw"], &["y"]);
    proto.functions = vec![function("f", &["a"], &["b"], vec![node("Relu", &["a"], &["b"])])];
    assert_refused(&refusal(&proto), "malformed", "more inputs or outputs");
}

#[test]
fn input_of_no_rank_and_of_an_impossible_size() {
    let mut proto = dense();
    let Some(tract_onnx::pb::type_proto::Value::TensorType(t)) =
        proto.graph.as_mut().unwrap().input[0].r#type.as_mut().unwrap().value.as_mut()
    else {
        panic!("not a tensor")
    };
    t.shape = None;
    assert_refused(&refusal(&proto), "unsupported", "no declared rank");
    let mut proto = dense();
    proto.graph.as_mut().unwrap().input[0] = value("x", DataType::Float, &["4294967296"]);
    assert_refused(&refusal(&proto), "over-limit", "dimension 0 of input \"x\"");
    let mut proto = dense();
    let dims = vec!["1"; 17];
    proto.graph.as_mut().unwrap().input[0] = value("x", DataType::Float, &dims);
    assert_refused(&refusal(&proto), "over-limit", "rank");
    assert!(Shape::new(vec![1; 17]).is_err());
}
