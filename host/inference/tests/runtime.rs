//! Loading, running, sessions and model sets.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::{sync::Arc, thread};

use headland_inference::{
    CpuExecutor, Dimension, Executor, InferenceError, LoadLimits, Model, ModelInfo, ModelSet,
    Session, StateBinding, tensor_from_onnx,
};
use headland_tensor::{DType, Shape, Tensor};
use prost::Message;
use support::*;
use tract_onnx::pb::{
    NodeProto, TensorProto, attribute_proto::AttributeType, tensor_proto::DataType,
};

fn load(onnx: &[u8]) -> Arc<dyn Model> {
    CpuExecutor.load(onnx, &LoadLimits::default()).unwrap()
}

fn floats(tensors: &[(String, Tensor)]) -> Vec<f32> {
    tensors[0].1.to_vec().unwrap()
}

#[test]
fn a_model_says_what_it_is() {
    let info = ModelInfo::from_onnx(&bytes(&dense()), &LoadLimits::default()).unwrap();
    assert_eq!(info.inputs[0].name, "x");
    assert_eq!(info.inputs[0].dtype, DType::F32);
    let batch = Dimension::Symbolic("batch".to_owned());
    assert_eq!(info.inputs[0].shape, [batch, Dimension::Fixed(4)]);
    assert_eq!(info.outputs[0].shape_text(), "[batch,3]");
    assert_eq!(info.opsets["ai.onnx"], 17);
    assert_eq!(info.producer, "headland tests");
    assert_eq!(info.operators["MatMul"], 1);
    assert_eq!((info.parameters, info.parameter_bytes), (15, 60));
}

#[test]
fn a_symbolic_batch_takes_every_size() {
    let model = load(&bytes(&dense()));
    // x w + b for the row [1,0,0,0] is [-5.5,-4,-2.5], for [0,0,0,1] [3.5,5,6.5].
    for batch in [1u32, 7, 0, 3, 64, 2, 5, 4, 9, 10, 11, 1] {
        let rows: Vec<f32> = (0..batch)
            .flat_map(|r| if r % 2 == 0 { [1., 0., 0., 0.] } else { [0., 0., 0., 1.] })
            .collect();
        let out = model.run(&[named("x", f32_tensor(&[batch, 4], &rows))]).unwrap();
        assert_eq!(out[0].1.shape().dims(), [batch, 3]);
        let expected: Vec<f32> = (0..batch)
            .flat_map(|r| if r % 2 == 0 { [0., 0., 0.] } else { [3.5, 5., 6.5] })
            .collect();
        assert_eq!(floats(&out), expected, "batch {batch}");
    }
}

#[test]
fn every_dtype_of_the_contract_goes_through_the_cpu() {
    for (dtype, element) in [
        (DType::Bool, DataType::Bool),
        (DType::U8, DataType::Uint8),
        (DType::I8, DataType::Int8),
        (DType::U16, DataType::Uint16),
        (DType::I16, DataType::Int16),
        (DType::U32, DataType::Uint32),
        (DType::I32, DataType::Int32),
        (DType::U64, DataType::Uint64),
        (DType::I64, DataType::Int64),
        (DType::F16, DataType::Float16),
        (DType::BF16, DataType::Bfloat16),
        (DType::F32, DataType::Float),
        (DType::F64, DataType::Double),
    ] {
        let mut transpose = node("Transpose", &["x"], &["y"]);
        transpose.attribute.push(tract_onnx::pb::AttributeProto {
            name: "perm".to_owned(),
            r#type: AttributeType::Ints as i32,
            ints: vec![1, 0],
            ..Default::default()
        });
        let onnx = bytes(&model(graph(
            vec![value("x", element, &["2", "3"])],
            vec![value("y", element, &["3", "2"])],
            vec![transpose],
            vec![],
        )));
        let size = dtype.size_bytes();
        let data: Vec<u8> = match dtype {
            DType::Bool => vec![1, 0, 1, 1, 0, 0],
            _ => (0..6 * size).map(|i| i as u8).collect(),
        };
        let x = Tensor::new(dtype, Shape::new([2, 3]).unwrap(), data.clone()).unwrap();
        let out = load(&onnx).run(&[named("x", x)]).unwrap();
        let expected: Vec<u8> =
            [0, 3, 1, 4, 2, 5].iter().flat_map(|i| data[i * size..][..size].to_vec()).collect();
        assert_eq!(out[0].1.dtype(), dtype);
        assert_eq!(out[0].1.bytes(), expected, "{dtype}");
    }
    let bf16 = one_node(
        "Relu",
        vec![value("x", DataType::Bfloat16, &["2"])],
        value("y", DataType::Bfloat16, &["2"]),
    );
    // -1.5 and 2.5
    let x =
        Tensor::new(DType::BF16, Shape::new([2]).unwrap(), vec![0xc0, 0xbf, 0x20, 0x40]).unwrap();
    let out = load(&bf16).run(&[named("x", x)]).unwrap();
    assert_eq!((out[0].1.dtype(), out[0].1.to_f64()), (DType::BF16, vec![0.0, 2.5]));
}

/// A model whose output's rank is known only from the value of an input.
fn reshape() -> Vec<u8> {
    one_node(
        "Reshape",
        vec![value("x", DataType::Float, &["n", "4"]), value("shape", DataType::Int64, &["rank"])],
        value("y", DataType::Float, &["?", "?"]),
    )
}

#[test]
fn an_input_that_decides_shapes_may_change_from_run_to_run() {
    let model = load(&reshape());
    let values: Vec<f32> = (0..8u8).map(f32::from).collect();
    let x = f32_tensor(&[2, 4], &values);
    for shape in [vec![4i64, 2], vec![8], vec![2, 2, 2], vec![-1, 8], vec![8], vec![4, 2]] {
        let target = Tensor::from_elements(&[shape.len() as u32], &shape).unwrap();
        let out = model.run(&[named("x", x.clone()), named("shape", target)]).unwrap();
        let expected: Vec<u32> = shape.iter().map(|&d| if d < 0 { 1 } else { d as u32 }).collect();
        assert_eq!(out[0].1.shape().dims(), expected);
        assert_eq!(floats(&out), values);
    }
    // A target that the data cannot take is an error, and the model lives on.
    let target = Tensor::from_elements::<i64>(&[1], &[7]).unwrap();
    model.run(&[named("x", x.clone()), named("shape", target)]).unwrap_err();
    let target = Tensor::from_elements::<i64>(&[1], &[8]).unwrap();
    model.run(&[named("x", x), named("shape", target)]).unwrap();
}

#[test]
fn functions_of_the_model_are_inlined() {
    let mut scale = node("LeakyRelu", &["v"], &["scaled"]);
    scale.attribute.push(tract_onnx::pb::AttributeProto {
        name: "alpha".to_owned(),
        ref_attr_name: "slope".to_owned(),
        r#type: AttributeType::Float as i32,
        ..Default::default()
    });
    let twice = |x: &str, y: &str, slope: f32| NodeProto {
        attribute: vec![float("slope", slope)],
        ..call("Twice", &[x], &[y])
    };
    let mut proto = model(graph(
        vec![value("x", DataType::Float, &["2"])],
        vec![value("y", DataType::Float, &["2"])],
        vec![twice("x", "t", 0.5), twice("t", "y", 0.25)],
        vec![],
    ));
    let body = vec![scale, call("Sum2", &["scaled", "scaled"], &["out"])];
    proto.functions = vec![
        function("Twice", &["v"], &["out"], body),
        function("Sum2", &["a", "b"], &["c"], vec![node("Add", &["a", "b"], &["c"])]),
    ];
    let model = load(&bytes(&proto));
    let out = model.run(&[named("x", f32_tensor(&[2], &[3.0, -4.0]))]).unwrap();
    // 3 -> 6 -> 12; -4 -> -2 doubled -> -4 -> -1 doubled -> -2.
    assert_eq!(floats(&out), [12.0, -2.0]);
    assert_eq!(model.info().operators["LeakyRelu"], 2);
}

#[test]
fn losses_are_computed_by_their_definition() {
    let mut loss = node("NegativeLogLikelihoodLoss", &["x", "t"], &["y"]);
    loss.attribute.push(int("ignore_index", -1));
    let onnx = bytes(&model(graph(
        vec![value("x", DataType::Float, &["3", "2"]), value("t", DataType::Int64, &["3"])],
        vec![value("y", DataType::Float, &[])],
        vec![loss],
        vec![],
    )));
    let x = f32_tensor(&[3, 2], &[-0.5, -1.0, -2.0, -4.0, -8.0, -16.0]);
    let t = Tensor::from_elements::<i64>(&[3], &[1, -1, 0]).unwrap();
    let out = load(&onnx).run(&[named("x", x), named("t", t)]).unwrap();
    // The second row is ignored: (1 + 8) / 2.
    assert_eq!(floats(&out), [4.5]);
}

/// `y = x` [2,1] without its last dimension if `c`, else `x + x`.
fn branches(condition: &str, c: DataType) -> Vec<u8> {
    let out = |name: &str| value(name, DataType::Float, &["?"]);
    let then = graph(
        vec![],
        vec![out("t")],
        vec![node("Squeeze", &["x", "axes"], &["t"])],
        vec![i64s("axes", &[1], &[1])],
    );
    let otherwise = graph(vec![], vec![out("e")], vec![node("Add", &["x", "x"], &["e"])], vec![]);
    let mut branch = node("If", &[condition], &["y"]);
    branch.attribute = vec![body("then_branch", then), body("else_branch", otherwise)];
    bytes(&model(graph(
        vec![value("x", DataType::Float, &["2", "n"]), value("c", c, &[])],
        vec![value("y", DataType::Float, &["?"])],
        vec![
            node("Shape", &["x"], &["s"]),
            node("Gather", &["s", "one"], &["n"]),
            node("Equal", &["n", "one"], &["single"]),
            branch,
        ],
        vec![i64s("one", &[], &[1])],
    )))
}

#[test]
fn a_branch_that_does_not_fit_the_shapes_is_not_planned() {
    let model = load(&branches("single", DataType::Bool));
    let unused = || named("c", Tensor::new(DType::Bool, Shape::default(), vec![0]).unwrap());
    let one = [named("x", f32_tensor(&[2, 1], &[1., 2.])), unused()];
    let three = [named("x", f32_tensor(&[2, 3], &[1., 2., 3., 4., 5., 6.])), unused()];
    for _ in 0..2 {
        let out = model.run(&one).unwrap();
        assert_eq!((out[0].1.shape().dims(), floats(&out)), (&[2][..], vec![1., 2.]));
        let out = model.run(&three).unwrap();
        assert_eq!(out[0].1.shape().dims(), [2, 3]);
        assert_eq!(floats(&out), [2., 4., 6., 8., 10., 12.]);
    }
}

#[test]
fn a_condition_that_is_an_input_chooses_at_every_run() {
    let model = load(&branches("c", DataType::Bool));
    for (c, dims, expected) in
        [(1, vec![2], vec![1., 2.]), (0, vec![2, 1], vec![2., 4.]), (1, vec![2], vec![1., 2.])]
    {
        let c = Tensor::new(DType::Bool, Shape::default(), vec![c]).unwrap();
        let out = model.run(&[named("x", f32_tensor(&[2, 1], &[1., 2.])), named("c", c)]).unwrap();
        assert_eq!((out[0].1.shape().dims(), floats(&out)), (&dims[..], expected));
    }
}

/// `next = state + x`, `y = next * 10`.
fn accumulator() -> Arc<dyn Model> {
    load(&bytes(&model(graph(
        vec![value("x", DataType::Float, &["1"]), value("state", DataType::Float, &["1"])],
        vec![value("y", DataType::Float, &["1"]), value("next", DataType::Float, &["1"])],
        vec![node("Add", &["state", "x"], &["next"]), node("Mul", &["next", "ten"], &["y"])],
        vec![f32s("ten", &[1], &[10.0])],
    ))))
}

fn binding(input: &str, output: &str, initial: Tensor) -> StateBinding {
    StateBinding { input: input.to_owned(), output: output.to_owned(), initial }
}

#[test]
fn a_session_carries_its_state_and_forgets_it_on_reset() {
    let bound = vec![binding("state", "next", f32_tensor(&[1], &[1.0]))];
    let mut session = Session::new(accumulator(), bound).unwrap();
    let step = |session: &mut Session, x: f32| {
        session.run(&[named("x", f32_tensor(&[1], &[x]))]).map(|out| {
            assert_eq!(out.len(), 1);
            assert_eq!(out[0].0, "y");
            floats(&out)[0]
        })
    };
    assert_eq!(step(&mut session, 2.0).unwrap(), 30.0);
    assert_eq!(step(&mut session, 4.0).unwrap(), 70.0);
    // A step that fails changes nothing.
    session.run(&[]).unwrap_err();
    assert_eq!(step(&mut session, 1.0).unwrap(), 80.0);
    session.reset();
    assert_eq!(step(&mut session, 2.0).unwrap(), 30.0);
    let twice = [named("x", f32_tensor(&[1], &[0.0])), named("state", f32_tensor(&[1], &[0.0]))];
    assert_eq!(session.run(&twice).unwrap_err().code(), "duplicate-input");
}

#[test]
fn a_session_with_a_binding_that_does_not_fit_is_refused() {
    let zero = || f32_tensor(&[1], &[0.0]);
    let refusal = |bindings| match Session::new(accumulator(), bindings) {
        Ok(_) => panic!("the session was opened"),
        Err(e) => e.code(),
    };
    assert_eq!(refusal(vec![binding("no", "next", zero())]), "unknown-input");
    assert_eq!(refusal(vec![binding("state", "no", zero())]), "malformed");
    let twice = vec![binding("state", "next", zero()), binding("state", "y", zero())];
    assert_eq!(refusal(twice), "duplicate-input");
    let twice = vec![binding("state", "next", zero()), binding("x", "next", zero())];
    assert_eq!(refusal(twice), "malformed");
    let long = f32_tensor(&[2], &[0.0, 0.0]);
    assert_eq!(refusal(vec![binding("state", "next", long)]), "wrong-shape");
    let whole = Tensor::from_elements::<i32>(&[1], &[0]).unwrap();
    assert_eq!(refusal(vec![binding("state", "next", whole)]), "wrong-dtype");
}

#[test]
fn models_come_and_go_while_others_run() {
    let set = ModelSet::new();
    let limits = LoadLimits::default();
    set.load("dense", &CpuExecutor, &bytes(&dense()), &limits).unwrap();
    assert_eq!(set.resident_bytes(), 60);
    let x = [named("x", f32_tensor(&[1, 4], &[0.0, 0.0, 0.0, 1.0]))];
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let held = set.get("dense").unwrap();
                for _ in 0..50 {
                    assert_eq!(floats(&held.run(&x).unwrap()), [3.5, 5.0, 6.5]);
                }
            });
        }
        scope.spawn(|| {
            for _ in 0..20 {
                set.load("other", &CpuExecutor, &bytes(&dense()), &limits).unwrap();
                set.unload("other").unwrap();
            }
        });
    });
    assert_eq!(set.names(), ["dense"]);
    // A model that does not load leaves the old one in place.
    set.load("dense", &CpuExecutor, b"no model", &limits).map(drop).unwrap_err();
    let held = set.get("dense").unwrap();
    set.unload("dense").unwrap();
    assert!(set.get("dense").is_none());
    assert_eq!(set.resident_bytes(), 0);
    assert_eq!(floats(&held.run(&x).unwrap()), [3.5, 5.0, 6.5]);
    let gone = set.unload("dense").unwrap_err();
    assert_eq!(gone, InferenceError::UnknownModel { name: "dense".to_owned() });
}

#[test]
fn a_tensor_is_read_from_both_encodings() {
    let typed = TensorProto {
        name: "t".to_owned(),
        data_type: DataType::Uint32 as i32,
        dims: vec![2],
        uint64_data: vec![1, u64::from(u32::MAX)],
        ..Default::default()
    };
    let raw = TensorProto {
        uint64_data: vec![],
        raw_data: vec![1, 0, 0, 0, 255, 255, 255, 255],
        ..typed.clone()
    };
    let expected = Tensor::from_elements::<u32>(&[2], &[1, u32::MAX]).unwrap();
    for proto in [typed, raw] {
        let (name, tensor) = tensor_from_onnx(&proto.encode_to_vec()).unwrap();
        assert_eq!((name.as_str(), &tensor), ("t", &expected));
    }
    let bits = TensorProto {
        data_type: DataType::Bfloat16 as i32,
        dims: vec![1],
        int32_data: vec![0x3fc0],
        ..Default::default()
    };
    assert_eq!(tensor_from_onnx(&bits.encode_to_vec()).unwrap().1.to_f64(), [1.5]);
}

#[test]
fn a_convolution_is_taken_from_a_constant_and_not_the_other_way_round() {
    let graph = graph(
        vec![value("x", DataType::Float, &["1", "1", "2", "2"])],
        vec![value("y", DataType::Float, &["1", "2", "2", "2"])],
        vec![node("Conv", &["x", "w"], &["c"]), node("Sub", &["k", "c"], &["y"])],
        vec![f32s("w", &[2, 1, 1, 1], &[1.0, 2.0]), f32s("k", &[2, 1, 1], &[10.0, 20.0])],
    );
    let model = load(&bytes(&model(graph)));
    let x = [named("x", f32_tensor(&[1, 1, 2, 2], &[1.0, 2.0, 3.0, 4.0]))];
    assert_eq!(floats(&model.run(&x).unwrap()), [9.0, 8.0, 7.0, 6.0, 18.0, 16.0, 14.0, 12.0]);
    assert_eq!(model.engine().name, "cpu, by tract");
}

#[test]
fn gemm_is_planned_over_float16() {
    let mut gemm = node("Gemm", &["x16", "w", "b"], &["y16"]);
    gemm.attribute = vec![float("alpha", 0.5), float("beta", 2.0), int("transB", 1)];
    let mut down = node("Cast", &["x"], &["x16"]);
    down.attribute = vec![int("to", DataType::Float16 as i64)];
    let mut up = node("Cast", &["y16"], &["y"]);
    up.attribute = vec![int("to", DataType::Float as i64)];
    let halves = |name: &str, dims: &[i64], values: &[f32]| TensorProto {
        name: name.to_owned(),
        data_type: DataType::Float16 as i32,
        dims: dims.to_vec(),
        raw_data: values.iter().flat_map(|&v| half::f16::from_f32(v).to_le_bytes()).collect(),
        ..Default::default()
    };
    let graph = graph(
        vec![value("x", DataType::Float, &["1", "2"])],
        vec![value("y", DataType::Float, &["1", "3"])],
        vec![down, gemm, up],
        vec![
            halves("w", &[3, 2], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]),
            halves("b", &[3], &[0.5, 1.0, 1.5]),
        ],
    );
    let model = load(&bytes(&model(graph)));
    let outputs = model.run(&[named("x", f32_tensor(&[1, 2], &[2.0, 4.0]))]).unwrap();
    assert_eq!(floats(&outputs), [6.0, 13.0, 20.0]);
    assert_eq!(model.engine().name, "cpu, by tract");
}
