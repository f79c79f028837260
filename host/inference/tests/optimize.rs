//! Every pass leaves a model that gives the same answers, as nearly as it says.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use half::f16;
use headland_inference::{
    CpuExecutor, Executor, InferenceError, InterpretingExecutor, LoadLimits, ModelInfo,
    optimize::{
        Activations, Int8, Metric, Optimizer, Pass, PassReport, Range, Samples, compare, sparsity,
    },
};
use headland_tensor::Tensor;
use prost::Message;
use support::{
    body, bytes, f32_tensor, f32s, float, graph, i64s, int, model, named, node, read_npy, shared,
    value,
};
use tract_onnx::pb::{GraphProto, ModelProto, NodeProto, TensorProto, tensor_proto::DataType};

const F32: DataType = DataType::Float;

/// Numbers from -1 to 1, the same every time.
fn noise(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut draw = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..len).map(|_| draw()).collect()
}

fn weights(name: &str, dims: &[i64], seed: u64) -> TensorProto {
    f32s(name, dims, &noise(seed, dims.iter().product::<i64>() as usize))
}

/// As [`weights`], from a half to one and a half: for variances and divisors.
fn positive(name: &str, dims: &[i64], seed: u64) -> TensorProto {
    let len = dims.iter().product::<i64>() as usize;
    f32s(name, dims, &noise(seed, len).iter().map(|v| v / 2.0 + 1.0).collect::<Vec<_>>())
}

fn run(executor: &dyn Executor, onnx: &[u8], x: &Tensor) -> Vec<f32> {
    let model = executor.load(onnx, &LoadLimits::default()).unwrap();
    let name = model.info().inputs[0].name.clone();
    model.run(&[named(&name, x.clone())]).unwrap()[0].1.to_vec().unwrap()
}

/// The first output of a model on `x`, by the yardstick.
fn answer(onnx: &[u8], x: &Tensor) -> Vec<f32> {
    run(&InterpretingExecutor, onnx, x)
}

/// How far a changed model's answer is from the model's own, on the CPU or by
/// the yardstick, whichever is farther.
fn change(onnx: &[u8], made: &ModelProto, x: &Tensor) -> f32 {
    let (before, made) = (answer(onnx, x), bytes(made));
    let on_cpu = farthest(&before, &run(&CpuExecutor, &made, x));
    on_cpu.max(farthest(&before, &answer(&made, x)))
}

fn farthest(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// Apply passes; gives the model and what they said.
fn optimized(onnx: &[u8], passes: &[Pass<'_>]) -> (ModelProto, Vec<PassReport>) {
    let mut optimizer = Optimizer::open(onnx, &LoadLimits::default()).unwrap();
    for pass in passes {
        optimizer.apply(pass).unwrap();
    }
    let reports = optimizer.reports().to_vec();
    (ModelProto::decode(optimizer.to_onnx().as_slice()).unwrap(), reports)
}

fn ops(model: &ModelProto) -> Vec<&str> {
    model.graph.as_ref().unwrap().node.iter().map(|n| n.op_type.as_str()).collect()
}

fn constant<'a>(model: &'a ModelProto, name: &str) -> &'a TensorProto {
    let constants = &model.graph.as_ref().unwrap().initializer;
    constants.iter().find(|t| t.name == name).unwrap_or_else(|| panic!("no constant {name:?}"))
}

fn f32s_of(tensor: &TensorProto) -> Vec<f32> {
    assert_eq!(tensor.data_type, F32 as i32);
    bytemuck::pod_collect_to_vec(&tensor.raw_data)
}

fn maker<'a>(model: &'a ModelProto, output: &str) -> &'a NodeProto {
    let nodes = &model.graph.as_ref().unwrap().node;
    nodes.iter().find(|n| n.output.iter().any(|o| o == output)).unwrap()
}

fn with(mut node: NodeProto, attributes: Vec<tract_onnx::pb::AttributeProto>) -> NodeProto {
    node.attribute = attributes;
    node
}

fn one_input(
    dims: &[&str],
    output: &[&str],
    nodes: Vec<NodeProto>,
    constants: Vec<TensorProto>,
) -> Vec<u8> {
    let graph = graph(vec![value("x", F32, dims)], vec![value("y", F32, output)], nodes, constants);
    bytes(&model(graph))
}

#[test]
fn what_depends_on_constants_alone_is_folded() {
    let onnx = one_input(
        &["2", "3"],
        &["2", "3"],
        vec![
            node("Mul", &["a", "b"], &["ab"]),
            node("Sqrt", &["ab"], &["root"]),
            node("Add", &["x", "root"], &["y"]),
        ],
        vec![positive("a", &[2, 3], 1), positive("b", &[3], 2)],
    );
    let (folded, reports) = optimized(&onnx, &[Pass::Fold]);
    assert_eq!(ops(&folded), ["Add"]);
    assert_eq!((reports[0].before.nodes, reports[0].after.nodes), (3, 1));
    assert_eq!((reports[0].before.parameters, reports[0].after.parameters), (9, 6));
    let x = f32_tensor(&[2, 3], &noise(3, 6));
    assert!(change(&onnx, &folded, &x) < 1e-5);
}

#[test]
fn folding_makes_no_large_file_of_a_small_one() {
    let onnx = one_input(
        &["1"],
        &["400", "400"],
        vec![node("Expand", &["a", "shape"], &["large"]), node("Add", &["x", "large"], &["y"])],
        vec![weights("a", &[1], 1), i64s("shape", &[2], &[400, 400])],
    );
    let (folded, reports) = optimized(&onnx, &[Pass::Fold]);
    assert_eq!(ops(&folded), ["Expand", "Add"]);
    assert!(reports[0].notes[0].reason.contains("640000 bytes"), "{:?}", reports[0].notes);
}

#[test]
fn quantised_weights_stay_quantised() {
    let mut q = i64s("q", &[3], &[]);
    q.data_type = DataType::Int8 as i32;
    q.int64_data.clear();
    q.raw_data = vec![1, 2, 3];
    let mut zero = q.clone();
    "zero".clone_into(&mut zero.name);
    (zero.dims, zero.raw_data) = (vec![], vec![0]);
    let onnx = one_input(
        &["3"],
        &["3"],
        vec![
            node("DequantizeLinear", &["q", "s", "zero"], &["w"]),
            node("Add", &["x", "w"], &["y"]),
        ],
        vec![q, f32s("s", &[], &[0.5]), zero],
    );
    let (folded, _) = optimized(&onnx, &[Pass::Fold]);
    assert_eq!(ops(&folded), ["DequantizeLinear", "Add"]);
}

#[test]
fn identities_go_and_names_of_the_interface_stay() {
    // A body reads what an identity gives, and one gives an output.
    let branch = |value: &str, name: &str| GraphProto {
        name: name.to_owned(),
        node: vec![node("Neg", &[value], &[name])],
        output: vec![self::value(name, F32, &["2"])],
        ..GraphProto::default()
    };
    let onnx = one_input(
        &["2"],
        &["2"],
        vec![
            node("Identity", &["x"], &["x1"]),
            node("Dropout", &["x1"], &["x2"]),
            node("ReduceSum", &["x2"], &["sum"]),
            node("Greater", &["sum", "zero"], &["positive"]),
            node("Relu", &["x2"], &["r"]),
            node("Identity", &["r"], &["r1"]),
            with(
                node("If", &["positive"], &["chosen"]),
                vec![
                    body("then_branch", branch("x2", "then")),
                    body("else_branch", branch("r1", "else")),
                ],
            ),
            node("Add", &["chosen", "r"], &["a"]),
            node("Identity", &["a"], &["y"]),
        ],
        vec![f32s("zero", &[], &[0.0])],
    );
    let mut nodes = ModelProto::decode(onnx.as_slice()).unwrap();
    // ReduceSum gives one element, which If takes.
    nodes.graph.as_mut().unwrap().node[2].attribute.push(int("keepdims", 0));
    let onnx = bytes(&nodes);
    let (made, _) = optimized(&onnx, &[Pass::Identities]);
    assert_eq!(ops(&made), ["ReduceSum", "Greater", "Relu", "If", "Add"]);
    assert_eq!(made.graph.as_ref().unwrap().output[0].name, "y");
    for x in [[1.0, 2.0], [-1.0, 0.5]] {
        let x = f32_tensor(&[2], &x);
        assert_eq!(change(&onnx, &made, &x), 0.0);
    }
}

#[test]
fn an_identity_between_two_names_of_the_interface_stays() {
    let onnx = one_input(&["2"], &["2"], vec![node("Identity", &["x"], &["y"])], vec![]);
    let (made, _) = optimized(&onnx, &[Pass::Identities, Pass::Fold, Pass::Fuse, Pass::Dead]);
    assert_eq!(ops(&made), ["Identity"]);
}

#[test]
fn dead_nodes_and_unused_constants_go() {
    let onnx = one_input(
        &["2"],
        &["2"],
        vec![
            node("Relu", &["x"], &["y"]),
            node("Neg", &["x"], &["dead"]),
            node("Add", &["dead", "unused"], &["deader"]),
        ],
        vec![weights("unused", &[2], 1)],
    );
    let (made, reports) = optimized(&onnx, &[Pass::Dead]);
    assert_eq!(ops(&made), ["Relu"]);
    assert_eq!(made.graph.as_ref().unwrap().initializer, []);
    assert_eq!(reports[0].after.parameter_bytes, 0);
}

fn normalised(op: &str, weight_dims: &[i64], channels: i64, group: i64) -> Vec<u8> {
    one_input(
        &["2", "4", "6", "6"],
        &["n", "c", "h", "w"],
        vec![
            with(node(op, &["x", "w", "b"], &["c"]), vec![int("group", group)]),
            with(
                node("BatchNormalization", &["c", "gamma", "beta", "mean", "var"], &["n"]),
                vec![float("epsilon", 1e-3)],
            ),
            node("Mul", &["factor", "n"], &["m"]),
            node("Sub", &["term", "m"], &["s"]),
            node("Div", &["s", "one"], &["d"]),
            node("Relu", &["d"], &["y"]),
        ],
        vec![
            weights("w", weight_dims, 1),
            weights("b", &[channels], 2),
            positive("gamma", &[channels], 3),
            weights("beta", &[channels], 4),
            weights("mean", &[channels], 5),
            positive("var", &[channels], 6),
            weights("factor", &[1, channels, 1, 1], 7),
            weights("term", &[channels, 1, 1], 8),
            positive("one", &[1], 9),
        ],
    )
}

#[test]
fn what_follows_a_convolution_goes_into_its_weights() {
    let x = f32_tensor(&[2, 4, 6, 6], &noise(10, 288));
    for (op, dims, channels, group) in [
        ("Conv", [6, 4, 3, 3], 6, 1),
        ("Conv", [6, 2, 3, 3], 6, 2),
        ("ConvTranspose", [4, 3, 3, 3], 3, 1),
        ("ConvTranspose", [4, 3, 2, 2], 6, 2),
    ] {
        let onnx = normalised(op, &dims, channels, group);
        let (made, reports) = optimized(&onnx, &[Pass::Fuse]);
        assert_eq!(ops(&made), [op, "Relu"], "{op} {dims:?}");
        assert_eq!(reports[0].before.operators["BatchNormalization"], 1);
        assert!(!reports[0].after.operators.contains_key("BatchNormalization"));
        let far = change(&onnx, &made, &x);
        assert!(far < 1e-5, "{op} {dims:?} in {group} groups: {far}");
    }
}

#[test]
fn what_is_read_twice_is_not_changed() {
    let onnx = one_input(
        &["1", "2", "3", "3"],
        &["n", "c", "h", "w"],
        vec![
            node("Conv", &["x", "w"], &["c"]),
            node("Mul", &["c", "k"], &["m"]),
            node("Add", &["m", "c"], &["s"]),
            node("Conv", &["s", "w"], &["d"]),
            node("Mul", &["d", "k"], &["y"]),
        ],
        vec![weights("w", &[2, 2, 1, 1], 1), weights("k", &[2, 1, 1], 2)],
    );
    let (made, _) = optimized(&onnx, &[Pass::Fuse]);
    assert_eq!(ops(&made), ["Conv", "Mul", "Add", "Conv", "Mul"]);
}

#[test]
fn a_constant_along_another_axis_stays() {
    // [3] runs along the last axis of [1,3,3,3], not along the channels.
    let onnx = one_input(
        &["1", "2", "3", "3"],
        &["n", "c", "h", "w"],
        vec![node("Conv", &["x", "w"], &["c"]), node("Add", &["c", "k"], &["y"])],
        vec![weights("w", &[3, 2, 1, 1], 1), weights("k", &[3], 2)],
    );
    let (made, _) = optimized(&onnx, &[Pass::Fuse]);
    assert_eq!(ops(&made), ["Conv", "Add"]);
}

#[test]
fn a_product_and_a_sum_become_gemm_where_they_are_of_two_dimensions() {
    let dense = |dims: &[&str], attributes, op| {
        one_input(
            dims,
            &["?", "?"],
            vec![
                with(node(op, &["x", "w"], &["xw"]), attributes),
                node("Add", &["b", "xw"], &["s"]),
                node("Mul", &["s", "k"], &["y"]),
            ],
            vec![weights("w", &[3, 3], 1), weights("b", &[1, 3], 2), weights("k", &[3], 3)],
        )
    };
    let x = f32_tensor(&[2, 3], &noise(4, 6));
    for (op, attributes) in [
        ("MatMul", vec![]),
        ("Gemm", vec![int("transB", 1), float("alpha", 0.5)]),
        ("Gemm", vec![float("beta", 3.0)]),
    ] {
        let onnx = dense(&["batch", "3"], attributes, op);
        let (made, _) = optimized(&onnx, &[Pass::Fuse]);
        assert_eq!(ops(&made), ["Gemm"]);
        assert!(change(&onnx, &made, &x) < 1e-5);
    }
    let deep = dense(&["1", "2", "3"], vec![], "MatMul");
    assert_eq!(ops(&optimized(&deep, &[Pass::Fuse]).0), ["MatMul", "Add", "Mul"]);
}

#[test]
fn a_gemm_keeps_the_factor_of_its_own_bias() {
    let onnx = one_input(
        &["2", "3"],
        &["2", "4"],
        vec![
            with(node("Gemm", &["x", "w", "c"], &["g"]), vec![float("beta", 2.0)]),
            node("Add", &["g", "b"], &["y"]),
        ],
        vec![weights("w", &[3, 4], 1), weights("c", &[4], 2), weights("b", &[4], 3)],
    );
    let (made, _) = optimized(&onnx, &[Pass::Fuse]);
    assert_eq!(ops(&made), ["Gemm"]);
    let x = f32_tensor(&[2, 3], &noise(4, 6));
    assert!(change(&onnx, &made, &x) < 1e-5);
}

/// Convolution, ReLU, flatten, dense layer, softmax.
fn network() -> Vec<u8> {
    one_input(
        &["1", "2", "6", "6"],
        &["1", "5"],
        vec![
            node("Conv", &["x", "w1", "b1"], &["c"]),
            node("Relu", &["c"], &["r"]),
            node("Flatten", &["r"], &["f"]),
            with(node("Gemm", &["f", "w2", "b2"], &["g"]), vec![int("transB", 1)]),
            node("Softmax", &["g"], &["y"]),
        ],
        vec![
            weights("w1", &[3, 2, 3, 3], 1),
            weights("b1", &[3], 2),
            weights("w2", &[5, 48], 3),
            weights("b2", &[5], 4),
        ],
    )
}

#[test]
fn weights_go_to_float16_and_the_interface_does_not() {
    let onnx = network();
    let (made, reports) = optimized(&onnx, &[Pass::Half]);
    assert_eq!(
        ops(&made),
        ["Cast", "Conv", "Relu", "Flatten", "Gemm", "Cast", "Softmax"],
        "casts stand where f32 ends and begins"
    );
    assert_eq!(reports[0].after.parameter_bytes * 2, reports[0].before.parameter_bytes);
    let wide = &reports[0].notes;
    assert_eq!(wide.len(), 1);
    assert_eq!(
        (wide[0].op.as_str(), wide[0].reason.as_str()),
        ("Softmax", "needs the range of f32")
    );
    let limits = LoadLimits::default();
    let (before, after) =
        (ModelInfo::from_onnx(&onnx, &limits), ModelInfo::from_onnx(&bytes(&made), &limits));
    assert_eq!(before.clone().unwrap().inputs, after.clone().unwrap().inputs);
    assert_eq!(before.unwrap().outputs, after.unwrap().outputs);
    let x = f32_tensor(&[1, 2, 6, 6], &noise(5, 72));
    let far = change(&onnx, &made, &x);
    assert!(far > 0.0 && far < 1e-2, "{far}");
}

#[test]
fn weights_that_float16_does_not_hold_stay_and_are_named() {
    let mut proto = ModelProto::decode(network().as_slice()).unwrap();
    let graph = proto.graph.as_mut().unwrap();
    graph.initializer[3] = f32s("b2", &[5], &[0.0, 1e5, 2e5, 0.0, 0.0]);
    let (made, reports) = optimized(&bytes(&proto), &[Pass::Half]);
    let note = reports[0].notes.iter().find(|n| n.op == "Gemm").unwrap();
    assert!(note.reason.contains("\"b2\" holds 2e5"), "{}", note.reason);
    assert_eq!(f32s_of(constant(&made, "w2")).len(), 240);
    assert!(maker(&made, "c::f16").input.iter().any(|i| i == "w1::f16"));
    assert_eq!(constant(&made, "w1::f16").data_type, DataType::Float16 as i32);
    let stored: Vec<f16> = bytemuck::pod_collect_to_vec(&constant(&made, "w1::f16").raw_data);
    assert_eq!(stored[0], f16::from_f32(noise(1, 1)[0]));
}

fn samples(onnx: &[u8], dims: &[u32], values: &[f32]) -> Samples {
    let info = ModelInfo::from_onnx(onnx, &LoadLimits::default()).unwrap();
    Samples::new(&info, vec![named("x", f32_tensor(dims, values))]).unwrap()
}

fn int8(samples: &Samples) -> Int8<'_> {
    Int8 { samples, range: Range::MinMax, activations: Activations::U8, keep: &[] }
}

#[test]
fn quantised_nodes_read_eight_bits_and_say_so() {
    let onnx = network();
    let calibration = samples(&onnx, &[8, 2, 6, 6], &noise(5, 576));
    for activations in [Activations::U8, Activations::I8] {
        let options = Int8 { activations, ..int8(&calibration) };
        let (made, reports) = optimized(&onnx, &[Pass::Int8(options)]);
        let count = |op: &str| ops(&made).iter().filter(|o| **o == op).count();
        // A value, weights and a bias for each of two nodes.
        assert_eq!((count("QuantizeLinear"), count("DequantizeLinear")), (2, 6));
        assert!(reports[0].after.parameter_bytes * 2 < reports[0].before.parameter_bytes);
        for (output, weights, dims, channels) in
            [("c", "w1", vec![3, 2, 3, 3], 3), ("g", "w2", vec![5, 48], 5)]
        {
            let [x, w, b] = maker(&made, output).input.as_slice() else { panic!("three inputs") };
            let [x, w, b] = [x, w, b].map(|name| maker(&made, name));
            assert!([x, w, b].iter().all(|n| n.op_type == "DequantizeLinear"));
            assert_eq!(maker(&made, &x.input[0]).op_type, "QuantizeLinear");
            let quantised = constant(&made, &w.input[0]);
            assert_eq!(quantised.data_type, DataType::Int8 as i32, "{weights}");
            assert_eq!(quantised.dims, dims);
            assert!(quantised.raw_data.iter().all(|&b| b != 0x80), "symmetric");
            assert!(quantised.raw_data.iter().any(|&b| (b as i8).unsigned_abs() == 127));
            assert_eq!(w.attribute[0].i, 0, "channels are along the first axis");
            let scales = f32s_of(constant(&made, &w.input[1]));
            assert_eq!(scales.len(), channels);
            let of_value = f32s_of(constant(&made, &x.input[1]))[0];
            let of_bias = f32s_of(constant(&made, &b.input[1]));
            let product: Vec<f32> = scales.iter().map(|s| s * of_value).collect();
            assert_eq!(of_bias, product);
            assert_eq!(constant(&made, &b.input[0]).data_type, DataType::Int32 as i32);
        }
        let input = f32_tensor(&[1, 2, 6, 6], &noise(5, 72));
        let far = change(&onnx, &made, &input);
        assert!(far > 0.0 && far < 0.05, "probabilities differ by {far}");
    }
}

#[test]
fn columns_of_a_product_have_scales_of_their_own() {
    let onnx = one_input(
        &["2", "4"],
        &["2", "3"],
        vec![node("MatMul", &["x", "w"], &["y"])],
        vec![f32s("w", &[4, 3], &[1.0, 100.0, 0.01].repeat(4))],
    );
    let calibration = samples(&onnx, &[8, 2, 4], &noise(5, 64));
    let (made, _) = optimized(&onnx, &[Pass::Int8(int8(&calibration))]);
    let w = maker(&made, &maker(&made, "y").input[1]);
    assert_eq!(w.attribute[0].i, 1);
    let scales = f32s_of(constant(&made, &w.input[1]));
    assert!(farthest(&scales, &[1.0 / 127.0, 100.0 / 127.0, 0.01 / 127.0]) < 1e-6);
    let input = f32_tensor(&[2, 4], &noise(5, 8));
    let (before, after) = (answer(&onnx, &input), answer(&bytes(&made), &input));
    for (b, a) in before.iter().zip(&after) {
        assert!((b - a).abs() < b.abs() * 0.02 + 1e-4, "{before:?} {after:?}");
    }
}

#[test]
fn the_factors_of_a_gemm_go_into_its_numbers() {
    let onnx = one_input(
        &["2", "4"],
        &["2", "3"],
        vec![with(
            node("Gemm", &["x", "w", "b"], &["y"]),
            vec![float("alpha", 0.25), float("beta", 4.0)],
        )],
        vec![weights("w", &[4, 3], 1), weights("b", &[1, 3], 2)],
    );
    let calibration = samples(&onnx, &[8, 2, 4], &noise(5, 64));
    let (made, _) = optimized(&onnx, &[Pass::Int8(int8(&calibration))]);
    assert!(maker(&made, "y").attribute.is_empty());
    let input = f32_tensor(&[2, 4], &noise(5, 8));
    let far = change(&onnx, &made, &input);
    assert!(far < 0.02, "{far}");
}

#[test]
fn a_channel_of_nothing_but_bias_keeps_its_bias() {
    let mut proto = ModelProto::decode(network().as_slice()).unwrap();
    let graph = proto.graph.as_mut().unwrap();
    graph.initializer[0] = f32s("w1", &[3, 2, 3, 3], &[[0.0; 18], [1.0; 18], [0.0; 18]].concat());
    graph.initializer[1] = f32s("b1", &[3], &[2.0, 1.0, 0.0]);
    graph.output = vec![value("c", F32, &["1", "3", "4", "4"])];
    let onnx = bytes(&proto);
    let calibration = samples(&onnx, &[8, 2, 6, 6], &noise(5, 576));
    let (made, _) = optimized(&onnx, &[Pass::Dead, Pass::Int8(int8(&calibration))]);
    let x = f32_tensor(&[1, 2, 6, 6], &noise(5, 72));
    let (before, after) = (answer(&onnx, &x), answer(&bytes(&made), &x));
    assert!(farthest(&before[..16], &after[..16]) < 1e-5, "{:?}", &after[..16]);
    assert!(farthest(&before, &after) < 0.1);
}

#[test]
fn nodes_are_kept_when_asked_and_unknown_ones_are_refused() {
    let onnx = network();
    let calibration = samples(&onnx, &[1, 2, 6, 6], &noise(5, 72));
    let keep = ["Conv-c".to_owned()];
    let (made, reports) =
        optimized(&onnx, &[Pass::Int8(Int8 { keep: &keep, ..int8(&calibration) })]);
    assert_eq!(maker(&made, "c").input, ["x", "w1", "b1"]);
    assert_eq!(reports[0].notes[0].reason, "kept, as asked");
    let keep = ["nobody".to_owned()];
    let mut optimizer = Optimizer::open(&onnx, &LoadLimits::default()).unwrap();
    let refused = optimizer.apply(&Pass::Int8(Int8 { keep: &keep, ..int8(&calibration) }));
    assert!(refused.unwrap_err().to_string().contains("\"nobody\""));
}

#[test]
fn a_percentile_cuts_off_what_is_rare() {
    let onnx = network();
    let mut values = noise(5, 72 * 100);
    values[0] = 1000.0;
    let calibration = samples(&onnx, &[100, 2, 6, 6], &values);
    let scale = |range| {
        let (made, _) = optimized(&onnx, &[Pass::Int8(Int8 { range, ..int8(&calibration) })]);
        f32s_of(constant(&made, "x::scale"))[0]
    };
    assert!((scale(Range::MinMax) - 1001.0 / 255.0).abs() < 1e-2);
    // One of 7200 is less than 0.05 %, half of what is cut off.
    let cut = scale(Range::Percentile(99.9));
    assert!(cut < 2.2 / 255.0, "{cut}");
    assert!(cut > 1.8 / 255.0, "{cut}");
}

#[test]
fn values_that_are_no_numbers_are_refused_by_name() {
    let onnx = network();
    let calibration = samples(&onnx, &[1, 2, 6, 6], &[f32::NAN; 72]);
    let mut optimizer = Optimizer::open(&onnx, &LoadLimits::default()).unwrap();
    let refused = optimizer.apply(&Pass::Int8(int8(&calibration))).unwrap_err().to_string();
    assert!(refused.contains("value \"x\" is NaN"), "{refused}");
}

/// Operators that mean something else, or are written otherwise, since version
/// 13.
#[test]
fn older_operator_sets_are_raised_and_keep_their_meaning() {
    let floats = |name: &str, values: &[f32]| tract_onnx::pb::AttributeProto {
        name: name.to_owned(),
        r#type: 6,
        floats: values.to_vec(),
        ..Default::default()
    };
    let ints = |name: &str, values: &[i64]| tract_onnx::pb::AttributeProto {
        name: name.to_owned(),
        r#type: 7,
        ints: values.to_vec(),
        ..Default::default()
    };
    let graph = graph(
        vec![value("x", F32, &["1", "2", "4", "4"])],
        vec![value("y", F32, &["?", "?", "?", "?"])],
        vec![
            node("Conv", &["x", "w"], &["c"]),
            with(node("Softmax", &["c"], &["s"]), vec![int("axis", 1)]),
            with(node("Clip", &["s"], &["k"]), vec![float("min", 0.001), float("max", 0.9)]),
            with(node("Upsample", &["k"], &["u"]), vec![floats("scales", &[1.0, 1.0, 2.0, 2.0])]),
            with(
                node("Pad", &["u"], &["p"]),
                vec![ints("pads", &[0, 0, 1, 0, 0, 0, 0, 1]), float("value", 0.5)],
            ),
            with(
                node("Slice", &["p"], &["t"]),
                vec![ints("axes", &[2]), ints("starts", &[0]), ints("ends", &[5])],
            ),
            with(node("ReduceSum", &["t"], &["r"]), vec![ints("axes", &[3]), int("keepdims", 0)]),
            with(node("Unsqueeze", &["r"], &["y"]), vec![ints("axes", &[0])]),
        ],
        vec![weights("w", &[3, 2, 1, 1], 1)],
    );
    let mut proto = model(graph);
    proto.opset_import[0].version = 8;
    proto.ir_version = 3;
    // The third version of the file format has every constant among the inputs.
    proto.graph.as_mut().unwrap().input.push(value("w", F32, &["3", "2", "1", "1"]));
    let onnx = bytes(&proto);
    let calibration = samples(&onnx, &[4, 2, 4, 4], &noise(5, 128));
    let (made, _) = optimized(&onnx, &[Pass::Int8(int8(&calibration))]);
    assert_eq!(made.opset_import[0].version, 13);
    assert!(made.ir_version >= 7);
    let x = f32_tensor(&[1, 2, 4, 4], &noise(5, 32));
    let far = change(&onnx, &made, &x);
    assert!(far < 0.01, "{far}");
}

#[test]
fn a_model_before_broadcasting_is_refused() {
    let mut proto = ModelProto::decode(network().as_slice()).unwrap();
    proto.opset_import[0].version = 6;
    let mut optimizer = Optimizer::open(&bytes(&proto), &LoadLimits::default()).unwrap();
    let refused = optimizer.apply(&Pass::Half).unwrap_err();
    assert!(matches!(&refused, InferenceError::Unsupported { reason, .. } if reason.contains("6")));
}

#[test]
fn a_type_that_would_be_lost_is_refused_and_an_open_one_is_not() {
    let mut branch = GraphProto {
        name: "branch".to_owned(),
        node: vec![node("Neg", &["x"], &["inner"])],
        output: vec![tract_onnx::pb::ValueInfoProto {
            name: "inner".to_owned(),
            r#type: Some(tract_onnx::pb::TypeProto::default()),
            ..Default::default()
        }],
        ..GraphProto::default()
    };
    let whole = |branch: &GraphProto| {
        let branches =
            vec![body("then_branch", branch.clone()), body("else_branch", branch.clone())];
        one_input(
            &["2"],
            &["2"],
            vec![with(node("If", &["c"], &["y"]), branches)],
            vec![TensorProto {
                name: "c".to_owned(),
                data_type: DataType::Bool as i32,
                raw_data: vec![1],
                ..TensorProto::default()
            }],
        )
    };
    let limits = LoadLimits::default();
    let open = whole(&branch);
    Optimizer::open(&open, &limits).unwrap();
    // A sequence type: field 4, of no length. The decoder skips it, so a
    // denotation of as many bytes is written and overwritten.
    branch.output[0].r#type.as_mut().unwrap().denotation = String::from("\u{1}\u{2}");
    let mut closed = whole(&branch);
    let marks: Vec<usize> =
        (0..closed.len() - 4).filter(|&at| closed[at..at + 4] == [0x32, 2, 1, 2]).collect();
    assert_eq!(marks.len(), 2);
    for at in marks {
        closed[at..at + 4].copy_from_slice(&[0x22, 2, 0x0a, 0]);
    }
    let refused = Optimizer::open(&closed, &limits).map(drop).unwrap_err().to_string();
    assert!(refused.contains("\"inner\""), "{refused}");
}

#[test]
fn a_worse_model_is_past_the_tolerance() {
    let onnx = network();
    let mut proto = ModelProto::decode(onnx.as_slice()).unwrap();
    // The last layer upside down.
    let upside_down: Vec<f32> = noise(3, 240).iter().map(|v| -v).collect();
    proto.graph.as_mut().unwrap().initializer[2] = f32s("w2", &[5, 48], &upside_down);
    let worse = bytes(&proto);
    let values = noise(5, 72 * 6);
    let labelled = samples(&onnx, &[6, 2, 6, 6], &values);
    let limits = LoadLimits::default();
    let answers: Vec<Vec<f32>> =
        values.chunks(72).map(|x| answer(&onnx, &f32_tensor(&[1, 2, 6, 6], x))).collect();
    let labels: Vec<i64> = answers
        .iter()
        .map(|a| (0..5).max_by(|&i, &j| a[i].total_cmp(&a[j])).unwrap() as i64)
        .collect();
    let labels = Tensor::from_elements(&[6], &labels).unwrap();
    let score = |after: &[u8], labels: &Tensor, metric| {
        compare(&onnx, after, &labelled, labels, metric, &limits).unwrap()
    };
    let same = score(&onnx, &labels, Metric::Top1);
    assert_eq!((same.before, same.after, same.drop), (1.0, 1.0, 0.0));
    assert!(same.within(0.0));
    let top1 = score(&worse, &labels, Metric::Top1);
    assert!(top1.after < 0.5 && !top1.within(0.01), "{top1:?}");
    let right = f32_tensor(&[6, 5], &answers.concat());
    let mae = score(&worse, &right, Metric::Mae);
    assert!(mae.before < 1e-6 && mae.after > 0.05 && !mae.within(0.01), "{mae:?}");
    let few = Tensor::from_elements(&[2], &[0i64, 1]).unwrap();
    let refused = compare(&onnx, &worse, &labelled, &few, Metric::Top1, &limits).unwrap_err();
    assert!(refused.to_string().contains("2 labels for 6 samples"), "{refused}");
}

#[test]
fn a_stamp_is_in_the_metadata_once() {
    let mut optimizer = Optimizer::open(&network(), &LoadLimits::default()).unwrap();
    optimizer.stamp("source", "sha256:00");
    optimizer.stamp("source", "sha256:11");
    let made = ModelProto::decode(optimizer.to_onnx().as_slice()).unwrap();
    let [entry] = made.metadata_props.as_slice() else { panic!("one entry") };
    assert_eq!(
        (entry.key.as_str(), entry.value.as_str()),
        ("headland.optimize.source", "sha256:11")
    );
}

#[test]
fn weights_that_are_next_to_nothing_are_counted() {
    let mut proto = ModelProto::decode(network().as_slice()).unwrap();
    let mut values = vec![0.0; 18];
    values.extend([[1.0; 18], [1e-4; 18]].concat());
    proto.graph.as_mut().unwrap().initializer[0] = f32s("w1", &[3, 2, 3, 3], &values);
    let rows = sparsity(&bytes(&proto), 0.05, &LoadLimits::default()).unwrap();
    let row = rows.iter().find(|r| r.name == "w1").unwrap();
    assert_eq!((row.elements, row.channels), (54, Some(3)));
    assert!((row.zeros - 1.0 / 3.0).abs() < 1e-9 && (row.small - 2.0 / 3.0).abs() < 1e-9);
    assert_eq!(row.weak_channels, [0, 2]);
    assert!(rows.iter().find(|r| r.name == "b1").unwrap().channels.is_none());
}

#[test]
fn samples_that_do_not_fit_are_refused() {
    let info = ModelInfo::from_onnx(&network(), &LoadLimits::default()).unwrap();
    let missing = Samples::new(&info, vec![]).unwrap_err();
    assert!(matches!(missing, InferenceError::MissingInput { .. }));
    let empty = Samples::new(&info, vec![named("x", f32_tensor(&[0, 2, 6, 6], &[]))]).unwrap_err();
    assert!(empty.to_string().contains("none"), "{empty}");
    // What the model does not take shows when it runs.
    let narrow = Samples::new(&info, vec![named("x", f32_tensor(&[2, 2, 6, 5], &[0.0; 120]))]);
    let narrow = narrow.unwrap();
    let mut optimizer = Optimizer::open(&network(), &LoadLimits::default()).unwrap();
    let refused = optimizer.apply(&Pass::Int8(int8(&narrow))).unwrap_err();
    assert!(matches!(refused, InferenceError::WrongShape { .. }));
}

/// Eight bits cost the image classifier none of its answers on the samples.
#[test]
fn a_real_classifier_keeps_its_answers() {
    let (Some(models), Some(folder)) = (shared("models"), shared("samples")) else { return };
    let onnx = std::fs::read(models.join("tiny-ic-resnet-f32.onnx")).unwrap();
    let limits = LoadLimits::default();
    let info = ModelInfo::from_onnx(&onnx, &limits).unwrap();
    let images: Vec<u8> = read_npy(&folder.join("ic_images_u8.npy")).to_vec().unwrap();
    // Height, width, channel to channel, height, width.
    let pixels: Vec<f32> = images
        .chunks_exact(32 * 32 * 3)
        .flat_map(|image| {
            (0..3).flat_map(move |c| image.iter().skip(c).step_by(3).map(|&p| f32::from(p)))
        })
        .collect();
    let images = named("input_1", f32_tensor(&[12, 3, 32, 32], &pixels));
    let images = Samples::new(&info, vec![images]).unwrap();
    let labels = read_npy(&folder.join("ic_labels_i64.npy"));
    let exact = [Pass::Identities, Pass::Fold, Pass::Fuse, Pass::Dead];
    for last in [None, Some(Pass::Half), Some(Pass::Int8(int8(&images)))] {
        let passes: Vec<Pass<'_>> = exact.into_iter().chain(last).collect();
        let (made, reports) = optimized(&onnx, &passes);
        let made = bytes(&made);
        let score = compare(&onnx, &made, &images, &labels, Metric::Top1, &limits).unwrap();
        assert!((score.before - 11.0 / 12.0).abs() < 1e-9);
        assert!(score.within(0.0), "{score:?}");
        let bytes = reports.last().unwrap().after.parameter_bytes as f64
            / reports[0].before.parameter_bytes as f64;
        match last {
            None => assert!(bytes <= 1.0),
            Some(Pass::Half) => assert!(bytes < 0.51, "{bytes}"),
            _ => assert!(bytes < 0.3, "{bytes}"),
        }
    }
}
