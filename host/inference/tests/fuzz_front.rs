//! Small models with mistakes in them, by chance but the same in every run: each
//! is refused with a reason or run to an end, in time, and never panics.
//!
//! Cases have numbers: `HEADLAND_FUZZ_FROM` is the first, `HEADLAND_FUZZ_CASES`
//! how many, and `HEADLAND_FUZZ_TRACE` a file for the number of the case at work,
//! with its model beside it, should one take the process with it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use headland_inference::{Dimension, InferenceError, LoadLimits, Model};
use headland_tensor::{Shape, Tensor};
use prost::Message;
use support::*;
use tract_onnx::pb::{
    AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, attribute_proto::AttributeType,
    tensor_proto::DataType,
};

/// Cases for each executor.
const CASES: u64 = 4_000;

/// The longest that one model may take, to load and to run.
const PATIENCE: Duration = Duration::from_secs(10);

/// No run may take longer than this between two looks at the clock, and some.
const DEADLINE: Duration = Duration::from_millis(300);

fn limits() -> LoadLimits {
    LoadLimits {
        max_tensor_bytes: 1 << 20,
        max_run_bytes: 8 << 20,
        max_initializer_bytes: 4 << 20,
        ..LoadLimits::default()
    }
}

/// Small models that between them use every family of operators.
fn seeds() -> Vec<ModelProto> {
    let f32 = DataType::Float;
    let f = |name: &str, dims: &[i64]| {
        let count = dims.iter().product::<i64>() as usize;
        f32s(name, dims, &(0..count).map(|i| (i as f32 * 0.37).sin()).collect::<Vec<_>>())
    };
    let i = |name: &str, values: &[i64]| i64s(name, &[values.len() as i64], values);
    let made = |dims: &[&str], rank: usize, nodes: Vec<NodeProto>, constants: Vec<TensorProto>| {
        let mut made = model(graph(
            vec![value("x", f32, dims)],
            vec![value("y", f32, &vec!["?"; rank])],
            nodes,
            constants,
        ));
        made.opset_import[0].version = 18;
        made
    };
    let mut branch = node("If", &["c"], &["y"]);
    let taken = |op: &str, name: &str| {
        graph(vec![], vec![value(name, f32, &["?", "?"])], vec![node(op, &["x"], &[name])], vec![])
    };
    branch.attribute =
        vec![body("then_branch", taken("Relu", "t")), body("else_branch", taken("Neg", "e"))];
    let condition = vec![
        node_with("ReduceSum", &["x"], &["total"], vec![int("keepdims", 0)]),
        node("Greater", &["total", "zero"], &["c"]),
        branch,
    ];
    let turn = graph(
        vec![
            value("i", DataType::Int64, &[]),
            value("go", DataType::Bool, &[]),
            value("s", f32, &["1", "4"]),
        ],
        vec![
            value("on", DataType::Bool, &[]),
            value("t", f32, &["1", "4"]),
            value("k", f32, &["1", "4"]),
        ],
        vec![
            node("Identity", &["go"], &["on"]),
            node("Add", &["s", "x"], &["t"]),
            node("Relu", &["s"], &["k"]),
        ],
        vec![],
    );
    let mut seeds = vec![
        dense(),
        made(
            &["1", "2", "6", "6"],
            2,
            vec![
                node_with(
                    "Conv",
                    &["x", "w", "b"],
                    &["c"],
                    vec![
                        ints("kernel_shape", &[3, 3]),
                        ints("pads", &[1, 1, 1, 1]),
                        ints("strides", &[2, 2]),
                    ],
                ),
                node("BatchNormalization", &["c", "b", "b", "b", "v"], &["n"]),
                node_with("MaxPool", &["n"], &["p"], vec![ints("kernel_shape", &[2, 2])]),
                node("GlobalAveragePool", &["p"], &["g"]),
                node_with("Flatten", &["g"], &["y"], vec![int("axis", 1)]),
            ],
            vec![f("w", &[3, 2, 3, 3]), f("b", &[3]), f32s("v", &[3], &[1.0; 3])],
        ),
        made(
            &["2", "3"],
            2,
            vec![
                node("Shape", &["x"], &["s"]),
                node_with("Gather", &["s", "one"], &["n"], vec![int("axis", 0)]),
                node_with("Concat", &["n", "two"], &["r"], vec![int("axis", 0)]),
                node("Reshape", &["x", "r"], &["a"]),
                node_with("Transpose", &["a"], &["b"], vec![ints("perm", &[1, 0])]),
                node("Slice", &["b", "nought", "one", "nought"], &["d"]),
                node("Expand", &["d", "four"], &["e"]),
                node("Tile", &["e", "twice"], &["f"]),
                node("Pad", &["f", "pads"], &["y"]),
            ],
            vec![
                i("nought", &[0]),
                i("one", &[1]),
                i("two", &[2]),
                i("four", &[2, 1]),
                i("twice", &[1, 2]),
                i("pads", &[0, 1, 1, 0]),
            ],
        ),
        made(
            &["3", "1", "4"],
            4,
            vec![node_with(
                "LSTM",
                &["x", "w", "r", "b"],
                &["y", "h", "c"],
                vec![int("hidden_size", 2)],
            )],
            vec![f("w", &[1, 8, 4]), f("r", &[1, 8, 2]), f("b", &[1, 16])],
        ),
        made(
            &["3", "1", "4"],
            4,
            vec![node_with(
                "GRU",
                &["x", "w", "r"],
                &["y"],
                vec![int("hidden_size", 2), text("direction", "reverse")],
            )],
            vec![f("w", &[1, 6, 4]), f("r", &[1, 6, 2])],
        ),
        made(&["?", "?"], 2, condition, vec![f32s("zero", &[], &[0.0])]),
        made(
            &["1", "4"],
            3,
            vec![node_with("Loop", &["trips", "", "x"], &["last", "y"], vec![body("body", turn)])],
            vec![i64s("trips", &[], &[3])],
        ),
        made(
            &["1", "1", "4", "4"],
            4,
            vec![
                node_with("Resize", &["x", "", "scales"], &["a"], vec![text("mode", "linear")]),
                node_with("DepthToSpace", &["d"], &["e"], vec![int("blocksize", 2)]),
                node_with("ConvTranspose", &["a", "w"], &["t"], vec![ints("strides", &[2, 2])]),
                node_with(
                    "AveragePool",
                    &["t"],
                    &["p"],
                    vec![ints("kernel_shape", &[3, 3]), ints("pads", &[1, 1, 1, 1])],
                ),
                node("InstanceNormalization", &["p", "s", "s"], &["y"]),
            ],
            vec![
                f32s("scales", &[4], &[1.0, 1.0, 2.0, 1.5]),
                f("d", &[1, 4, 2, 2]),
                f("w", &[1, 1, 2, 2]),
                f("s", &[1]),
            ],
        ),
        made(
            &["2", "6"],
            2,
            vec![
                node_with("QuantizeLinear", &["x", "scale", "zp"], &["q"], vec![]),
                node_with("DequantizeLinear", &["q", "scale", "zp"], &["d"], vec![]),
                node_with("Softmax", &["d"], &["s"], vec![int("axis", -1)]),
                node("TopK", &["s", "k"], &["v", "places"]),
                node_with("LayerNormalization", &["v", "g"], &["l"], vec![float("epsilon", 1e-3)]),
                node_with("Cast", &["places"], &["f"], vec![int("to", 1)]),
                node("Add", &["l", "f"], &["m"]),
                node_with("ReduceMean", &["m"], &["y"], vec![int("keepdims", 1)]),
            ],
            vec![
                f32s("scale", &[], &[0.1]),
                TensorProto {
                    data_type: DataType::Uint8 as i32,
                    raw_data: vec![3],
                    int64_data: vec![],
                    ..i64s("zp", &[], &[])
                },
                i("k", &[2]),
                f("g", &[2]),
            ],
        ),
        made(
            &["2", "3"],
            2,
            vec![
                node_with("ArgMax", &["x"], &["at"], vec![int("axis", 1), int("keepdims", 0)]),
                node("OneHot", &["at", "depth", "values"], &["o"]),
                node_with("Gather", &["table", "at"], &["g"], vec![]),
                node_with("Einsum", &["o", "g"], &["e"], vec![text("equation", "ij,ik->jk")]),
                node("Unique", &["e"], &["u"]),
                node("NonZero", &["u"], &["z"]),
                node_with(
                    "Split",
                    &["e"],
                    &["a", "b"],
                    vec![int("axis", 1), int("num_outputs", 2)],
                ),
                node("Where", &["w", "a", "b"], &["c"]),
                node("ScatterND", &["c", "spot", "put"], &["d"]),
                node_with("CumSum", &["d", "axis"], &["f"], vec![int("reverse", 1)]),
                node("SequenceConstruct", &["f", "d"], &["list"]),
                node_with("ConcatFromSequence", &["list"], &["y"], vec![int("axis", 0)]),
            ],
            vec![
                i64s("depth", &[], &[3]),
                f32s("values", &[2], &[0.0, 1.0]),
                f("table", &[3, 2]),
                TensorProto {
                    data_type: DataType::Bool as i32,
                    raw_data: vec![1, 0, 1],
                    int64_data: vec![],
                    ..i64s("w", &[3, 1], &[])
                },
                i64s("spot", &[1, 2], &[0, 0]),
                f32s("put", &[1], &[5.0]),
                i64s("axis", &[], &[0]),
            ],
        ),
    ];
    let mut called = dense();
    called.graph.as_mut().unwrap().node[2] = call("act", &["xwb"], &["y"]);
    let referred = AttributeProto {
        name: "alpha".to_owned(),
        ref_attr_name: "slope".to_owned(),
        r#type: AttributeType::Float as i32,
        ..Default::default()
    };
    called.graph.as_mut().unwrap().node[2].attribute = vec![float("slope", 0.2)];
    let leaky = node_with("LeakyRelu", &["a"], &["b"], vec![referred]);
    called.functions = vec![function("act", &["a"], &["b"], vec![leaky])];
    seeds.push(called);
    if let Some(models) = shared("models") {
        let files = std::fs::read_dir(models).unwrap().map(|file| file.unwrap().path());
        let mut files: Vec<_> =
            files.filter(|path| path.extension().is_some_and(|e| e == "onnx")).collect();
        files.sort_by_key(|path| (std::fs::metadata(path).unwrap().len(), path.clone()));
        let small = files.iter().filter(|path| std::fs::metadata(path).unwrap().len() < 64 << 10);
        seeds.extend(
            small.take(3).map(|path| ModelProto::decode(&*std::fs::read(path).unwrap()).unwrap()),
        );
    }
    seeds
}

/// Bytes that are wrong in a few places.
fn scrambled(mut bytes: Vec<u8>, other: &[u8], chance: &mut Xorshift) -> Vec<u8> {
    match chance.below(6) {
        0 => bytes.truncate(chance.below(bytes.len())),
        1 => {
            // A part of another model.
            let from = chance.below(other.len());
            let len = chance.below((other.len() - from).min(64));
            let at = chance.below(bytes.len());
            let end = (at + chance.below(64)).min(bytes.len());
            bytes.splice(at..end, other[from..from + len].iter().copied());
        }
        2 => {
            // A part again.
            let from = chance.below(bytes.len());
            let part = bytes[from..(from + 1 + chance.below(48)).min(bytes.len())].to_vec();
            let at = chance.below(bytes.len());
            bytes.splice(at..at, part);
        }
        _ => {
            for _ in 0..1 + chance.below(4) {
                let at = chance.below(bytes.len());
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << chance.below(8);
                }
            }
        }
    }
    bytes
}

/// A whole number that is seldom meant.
fn extreme(chance: &mut Xorshift) -> i64 {
    const NUMBERS: [i64; 18] = [
        0,
        1,
        -1,
        2,
        3,
        -2,
        -3,
        7,
        64,
        1 << 16,
        1 << 31,
        (1 << 31) - 1,
        1 << 32,
        1 << 40,
        i64::MAX,
        i64::MIN,
        i64::MAX / 2,
        -(1 << 31),
    ];
    NUMBERS[chance.below(NUMBERS.len())]
}

fn special(chance: &mut Xorshift) -> f32 {
    const NUMBERS: [f32; 9] =
        [0.0, -0.0, 1.0, -1.0, 1e-30, 1e30, f32::NAN, f32::INFINITY, f32::NEG_INFINITY];
    NUMBERS[chance.below(NUMBERS.len())]
}

/// Any one of a slice.
fn any<'a, T>(of: &'a mut [T], chance: &mut Xorshift) -> Option<&'a mut T> {
    let at = chance.below(of.len());
    of.get_mut(at)
}

/// A model that is well-formed, and wrong in a few places.
fn mistaken(mut proto: ModelProto, chance: &mut Xorshift) -> ModelProto {
    for _ in 0..1 + chance.below(3) {
        match proto.graph.as_mut() {
            Some(graph) => mistake(graph, chance),
            None => break,
        }
    }
    if chance.below(16) == 0 {
        proto.opset_import[0].version = chance.below(26) as i64;
    }
    proto
}

fn mistake(graph: &mut GraphProto, chance: &mut Xorshift) {
    const OPS: [&str; 40] = [
        "Add",
        "MatMul",
        "Conv",
        "Concat",
        "Reshape",
        "Transpose",
        "Softmax",
        "Gather",
        "Slice",
        "Split",
        "ReduceSum",
        "ReduceMax",
        "ArgMin",
        "TopK",
        "Resize",
        "Pad",
        "Expand",
        "Tile",
        "Where",
        "Cast",
        "OneHot",
        "LSTM",
        "GRU",
        "If",
        "Loop",
        "Scan",
        "Squeeze",
        "Unsqueeze",
        "Identity",
        "NonZero",
        "Range",
        "ConstantOfShape",
        "Gemm",
        "LayerNormalization",
        "CumSum",
        "Compress",
        "GatherND",
        "ScatterElements",
        "DFT",
        "NonMaxSuppression",
    ];
    const ATTRIBUTES: [&str; 16] = [
        "axis",
        "axes",
        "perm",
        "kernel_shape",
        "strides",
        "pads",
        "dilations",
        "group",
        "keepdims",
        "to",
        "mode",
        "blocksize",
        "k",
        "epsilon",
        "direction",
        "hidden_size",
    ];
    let names: Vec<String> = (graph.node.iter().flat_map(|n| n.output.clone()))
        .chain(graph.initializer.iter().map(|t| t.name.clone()))
        .chain(graph.input.iter().map(|v| v.name.clone()))
        .collect();
    let kind = chance.below(15);
    match kind {
        0..=2 => {
            // A constant's values, its shape, or its type.
            let Some(tensor) = any(&mut graph.initializer, chance) else { return };
            match chance.below(5) {
                0 => {
                    let size = extreme(chance).clamp(-1, 1 << 12);
                    if let Some(dim) = any(&mut tensor.dims, chance) {
                        *dim = size;
                    }
                }
                1 => tensor.dims.insert(0, 1),
                2 => tensor.dims = vec![],
                3 => tensor.data_type = chance.below(24) as i32,
                _ => {
                    let number = extreme(chance);
                    let float = special(chance);
                    if let Some(value) = any(&mut tensor.int64_data, chance) {
                        *value = number;
                    }
                    if tensor.data_type == DataType::Float as i32 && tensor.raw_data.len() >= 4 {
                        let at = chance.below(tensor.raw_data.len() / 4) * 4;
                        tensor.raw_data[at..at + 4].copy_from_slice(&float.to_le_bytes());
                    }
                }
            }
            // As many data as the shape wants, so that it is not all refused.
            if chance.below(4) > 0 {
                let count: i64 = tensor.dims.iter().product();
                if let Ok(count @ 0..4096) = usize::try_from(count) {
                    tensor
                        .raw_data
                        .resize(if tensor.raw_data.is_empty() { 0 } else { count * 4 }, 0);
                    if !tensor.int64_data.is_empty() {
                        tensor.int64_data.resize(count, 1);
                    }
                }
            }
        }
        3..=4 => {
            let dim = ["0", "1", "2", "5", "n", "?"][chance.below(6)];
            let rank = chance.below(5);
            let kinds = [DataType::Float, DataType::Int64, DataType::Float16, DataType::Bool];
            let element =
                if chance.below(3) > 0 { DataType::Float } else { kinds[chance.below(4)] };
            let changed = if chance.below(3) > 0 { &mut graph.input } else { &mut graph.output };
            if let Some(port) = any(changed, chance) {
                *port = value(&port.name, element, &vec![dim; rank]);
            }
        }
        5 => {
            let copy = any(&mut graph.node, chance).cloned();
            if let Some(mut copy) = copy {
                for output in &mut copy.output {
                    output.push('2');
                }
                let at = chance.below(graph.node.len() + 1);
                graph.node.insert(at, copy);
            }
        }
        6 => {
            let at = chance.below(graph.node.len());
            if at < graph.node.len() {
                graph.node.remove(at);
            }
        }
        kind => {
            let Some(node) = any(&mut graph.node, chance) else { return };
            match kind {
                7 => node.op_type = OPS[chance.below(OPS.len())].to_owned(),
                8 => {
                    let name = names.get(chance.below(names.len())).cloned().unwrap_or_default();
                    if let Some(input) = any(&mut node.input, chance) {
                        *input = name;
                    }
                }
                9 => {
                    if let Some(input) = any(&mut node.input, chance) {
                        input.clear();
                    }
                }
                10 => node.input.truncate(chance.below(node.input.len())),
                11 => {
                    let name = ATTRIBUTES[chance.below(ATTRIBUTES.len())];
                    let values: Vec<i64> = (0..chance.below(5)).map(|_| extreme(chance)).collect();
                    node.attribute.push(match chance.below(4) {
                        0 => ints(name, &values),
                        1 => float(name, special(chance)),
                        2 => text(name, "linear"),
                        _ => int(name, extreme(chance)),
                    });
                }
                _ => {
                    let (number, fraction) = (extreme(chance), special(chance));
                    let Some(attribute) = any(&mut node.attribute, chance) else { return };
                    if let Some(body) = attribute.g.as_mut().filter(|_| chance.below(4) > 0) {
                        return mistake(body, chance);
                    }
                    match chance.below(6) {
                        0 => attribute.r#type = chance.below(12) as i32,
                        1 => attribute.ints.push(number),
                        2 => attribute.ints.truncate(1),
                        _ => {
                            attribute.i = number;
                            attribute.f = fraction;
                            if let Some(value) = any(&mut attribute.ints, chance) {
                                *value = number;
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Inputs that the model says it takes; open sizes are small.
fn inputs(model: &dyn Model, chance: &mut Xorshift) -> Vec<(String, Tensor)> {
    let open = chance.below(4) as u32;
    let mut fed = Vec::new();
    for input in &model.info().inputs {
        let size = |d: &Dimension| match d {
            Dimension::Fixed(size) => *size,
            Dimension::Symbolic(_) => open,
        };
        let shape = Shape::new(input.shape.iter().map(size).collect::<Vec<_>>());
        let Ok(shape) = shape else { continue };
        let bytes = shape.element_count().saturating_mul(input.dtype.size_bytes());
        if bytes > 1 << 20 {
            continue;
        }
        let mut data = vec![0u8; bytes];
        data.iter_mut().for_each(|byte| *byte = (chance.next() & 1) as u8);
        if input.dtype == headland_tensor::DType::F32 {
            for chunk in data.chunks_exact_mut(4) {
                let value = if chance.below(50) == 0 {
                    special(chance)
                } else {
                    chance.below(9) as f32 - 4.0
                };
                chunk.copy_from_slice(&value.to_le_bytes());
            }
        }
        fed.push((input.name.clone(), Tensor::new(input.dtype, shape, data).unwrap()));
    }
    fed
}

/// One executor at a time, so that a panic is its own.
static ALONE: Mutex<()> = Mutex::new(());

fn fuzz(name: &str) {
    watch_panics();
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let executors = executors();
    let executor = &executors.iter().find(|(n, _)| *n == name).expect("an executor").1;
    let seeds = seeds();
    let encoded: Vec<Vec<u8>> = seeds.iter().map(bytes).collect();
    for (seed, onnx) in encoded.iter().enumerate() {
        // What is mistaken later is right before.
        let model = executor.load(onnx, &LoadLimits::default());
        let model = model.unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        if seed < 11 {
            let fed = inputs(&*model, &mut Xorshift(0x5eed_0003));
            model.run(&fed).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        }
    }
    let set = |name: &str| std::env::var(name).ok().and_then(|v| v.parse::<u64>().ok());
    let first = set("HEADLAND_FUZZ_FROM").unwrap_or(1);
    let wanted = set("HEADLAND_FUZZ_CASES").unwrap_or(CASES);
    let (mut cases, mut loaded, mut ran, mut caught) = (0u64, 0, 0, 0);
    let mut wrong = Vec::new();
    panics();
    while cases < wanted && wrong.len() < 20 {
        let case = first + cases;
        cases += 1;
        // Every case can be had again by its number.
        let mut chance = Xorshift(case.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let at = chance.below(seeds.len());
        let onnx = if chance.below(4) == 0 {
            let other = chance.below(encoded.len());
            scrambled(encoded[at].clone(), &encoded[other], &mut chance)
        } else {
            bytes(&mistaken(seeds[at].clone(), &mut chance))
        };
        if let Some(file) = std::env::var_os("HEADLAND_FUZZ_TRACE") {
            std::fs::write(&file, format!("{case} {at}")).unwrap();
            std::fs::write(format!("{}.onnx", file.to_string_lossy()), &onnx).unwrap();
        }
        let executor = Arc::clone(executor);
        let outcome = timed(PATIENCE, move || {
            let model = executor.load(&onnx, &limits())?;
            let fed = inputs(&*model, &mut chance);
            let made = model.run_until(&fed, Some(Instant::now() + DEADLINE));
            Ok((made.is_ok(), made.err()))
        });
        let Some((outcome, _)) = outcome else {
            panic!("{name}, case {case} of model {at} goes on and on; before it: {wrong:#?}");
        };
        let refusal = match outcome {
            Ok((went, refusal)) => {
                loaded += 1;
                ran += u64::from(went);
                refusal
            }
            Err(e) => Some(e),
        };
        let (panics, own) = panics();
        caught += panics.len();
        let text = refusal.map(|e: InferenceError| e.to_string());
        let silent = text.as_ref().is_some_and(|text| text.trim().is_empty());
        // The interpreter calls nobody else's code that panics.
        if own > 0 || silent || (name == "interpreter" && !panics.is_empty()) {
            wrong.push(format!("case {case} of model {at}: {panics:?} {text:?}"));
        }
    }
    eprintln!(
        "{name}: {cases} cases, {loaded} loaded, {ran} ran, {caught} panics of others caught"
    );
    assert!(wrong.is_empty(), "{name}: {wrong:#?}");
    assert!(ran > cases / 50, "only {ran} of {cases} ran");
}

#[test]
fn mistaken_models_on_the_cpu() {
    fuzz("cpu");
}

#[test]
fn mistaken_models_in_the_interpreter() {
    fuzz("interpreter");
}

#[cfg(feature = "gpu")]
#[test]
fn mistaken_models_on_a_device() {
    fuzz("gpu");
}
