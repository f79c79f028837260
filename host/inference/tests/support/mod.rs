//! Small ONNX models, and reading of `.npy` samples.

#![allow(dead_code, clippy::unwrap_used, clippy::expect_used)]

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, Once},
    time::{Duration, Instant},
};

#[cfg(feature = "gpu")]
use headland_inference::gpu;
use headland_inference::{CpuExecutor, Executor, InterpretingExecutor};
use headland_tensor::{DType, Shape, Tensor};
use prost::Message;
use tract_onnx::pb::{
    AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto,
    TensorProto, TensorShapeProto, TypeProto, ValueInfoProto, attribute_proto::AttributeType,
    tensor_proto::DataType, tensor_shape_proto, tensor_shape_proto::dimension::Value, type_proto,
};

/// An input or output; a number for a fixed dimension, a name for a symbol,
/// and `?` for neither.
pub fn value(name: &str, element: DataType, dims: &[&str]) -> ValueInfoProto {
    let dim = dims.iter().map(|d| tensor_shape_proto::Dimension {
        value: match d.parse() {
            Ok(size) => Some(Value::DimValue(size)),
            Err(_) if *d == "?" => None,
            Err(_) => Some(Value::DimParam((*d).to_owned())),
        },
        ..Default::default()
    });
    let tensor = type_proto::Tensor {
        elem_type: element as i32,
        shape: Some(TensorShapeProto { dim: dim.collect() }),
    };
    ValueInfoProto {
        name: name.to_owned(),
        r#type: Some(TypeProto {
            value: Some(type_proto::Value::TensorType(tensor)),
            ..Default::default()
        }),
        ..Default::default()
    }
}

pub fn node(op: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
    NodeProto {
        op_type: op.to_owned(),
        name: format!("{op}-{}", outputs.join("-")),
        input: inputs.iter().map(|s| (*s).to_owned()).collect(),
        output: outputs.iter().map(|s| (*s).to_owned()).collect(),
        ..Default::default()
    }
}

pub fn int(name: &str, i: i64) -> AttributeProto {
    AttributeProto {
        name: name.to_owned(),
        r#type: AttributeType::Int as i32,
        i,
        ..Default::default()
    }
}

pub fn float(name: &str, f: f32) -> AttributeProto {
    AttributeProto {
        name: name.to_owned(),
        r#type: AttributeType::Float as i32,
        f,
        ..Default::default()
    }
}

pub fn ints(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto {
        name: name.to_owned(),
        r#type: AttributeType::Ints as i32,
        ints: values.to_vec(),
        ..Default::default()
    }
}

pub fn tensor(name: &str, value: TensorProto) -> AttributeProto {
    AttributeProto {
        name: name.to_owned(),
        r#type: AttributeType::Tensor as i32,
        t: Some(value),
        ..Default::default()
    }
}

pub fn text(name: &str, value: &str) -> AttributeProto {
    AttributeProto {
        name: name.to_owned(),
        r#type: AttributeType::String as i32,
        s: value.as_bytes().to_vec(),
        ..Default::default()
    }
}

/// `node`, with attributes.
pub fn node_with(
    op: &str,
    inputs: &[&str],
    outputs: &[&str],
    attribute: Vec<AttributeProto>,
) -> NodeProto {
    NodeProto { attribute, ..node(op, inputs, outputs) }
}

pub fn body(name: &str, g: GraphProto) -> AttributeProto {
    AttributeProto {
        name: name.to_owned(),
        r#type: AttributeType::Graph as i32,
        g: Some(g),
        ..Default::default()
    }
}

pub fn i64s(name: &str, dims: &[i64], values: &[i64]) -> TensorProto {
    TensorProto {
        name: name.to_owned(),
        data_type: DataType::Int64 as i32,
        dims: dims.to_vec(),
        int64_data: values.to_vec(),
        ..Default::default()
    }
}

pub fn f32s(name: &str, dims: &[i64], values: &[f32]) -> TensorProto {
    TensorProto {
        name: name.to_owned(),
        data_type: DataType::Float as i32,
        dims: dims.to_vec(),
        raw_data: bytemuck::cast_slice(values).to_vec(),
        ..Default::default()
    }
}

pub fn graph(
    inputs: Vec<ValueInfoProto>,
    outputs: Vec<ValueInfoProto>,
    nodes: Vec<NodeProto>,
    constants: Vec<TensorProto>,
) -> GraphProto {
    GraphProto {
        name: "g".to_owned(),
        input: inputs,
        output: outputs,
        node: nodes,
        initializer: constants,
        ..Default::default()
    }
}

pub fn model(graph: GraphProto) -> ModelProto {
    ModelProto {
        ir_version: 8,
        opset_import: vec![OperatorSetIdProto { domain: String::new(), version: 17 }],
        producer_name: "headland tests".to_owned(),
        graph: Some(graph),
        ..Default::default()
    }
}

pub fn function(
    name: &str,
    input: &[&str],
    output: &[&str],
    node: Vec<NodeProto>,
) -> FunctionProto {
    FunctionProto {
        name: Some(name.to_owned()),
        domain: Some("local".to_owned()),
        input: input.iter().map(|s| (*s).to_owned()).collect(),
        output: output.iter().map(|s| (*s).to_owned()).collect(),
        opset_import: vec![OperatorSetIdProto { domain: String::new(), version: 17 }],
        node,
        ..Default::default()
    }
}

pub fn call(name: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
    NodeProto { domain: "local".to_owned(), ..node(name, inputs, outputs) }
}

/// One node between inputs and an output `y`, all f32 unless said otherwise.
pub fn one_node(op: &str, inputs: Vec<ValueInfoProto>, output: ValueInfoProto) -> Vec<u8> {
    let names: Vec<&str> = inputs.iter().map(|i| i.name.as_str()).collect();
    let node = node(op, &names, &[&output.name]);
    bytes(&model(graph(inputs, vec![output], vec![node], vec![])))
}

/// `y = relu(x w + b)` over f32 [batch,4] to [batch,3].
pub fn dense() -> ModelProto {
    let weights: Vec<f32> = (0..12u8).map(|i| f32::from(i) - 6.0).collect();
    model(graph(
        vec![value("x", DataType::Float, &["batch", "4"])],
        vec![value("y", DataType::Float, &["batch", "3"])],
        vec![
            node("MatMul", &["x", "w"], &["xw"]),
            node("Add", &["xw", "b"], &["xwb"]),
            node("Relu", &["xwb"], &["y"]),
        ],
        vec![f32s("w", &[4, 3], &weights), f32s("b", &[3], &[0.5, 1.0, 1.5])],
    ))
}

pub fn bytes(model: &ModelProto) -> Vec<u8> {
    model.encode_to_vec()
}

pub fn named(name: &str, tensor: Tensor) -> (String, Tensor) {
    (name.to_owned(), tensor)
}

pub fn f32_tensor(shape: &[u32], values: &[f32]) -> Tensor {
    Tensor::from_elements(shape, values).unwrap()
}

/// A folder of the shared test material, which lies beside the checkout.
/// `None`, and a line that says so, where there is none.
pub fn shared(folder: &str) -> Option<PathBuf> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared").join(folder);
    if path.is_dir() {
        return Some(path);
    }
    eprintln!("shared/{folder} is absent beside the checkout; nothing is tested against it");
    None
}

/// Read a version 1 `.npy` file in C order, as all samples are.
pub fn read_npy(path: &std::path::Path) -> Tensor {
    let file = std::fs::read(path).unwrap();
    let header_len = usize::from(u16::from_le_bytes([file[8], file[9]]));
    let header = std::str::from_utf8(&file[10..10 + header_len]).unwrap();
    assert!(header.contains("'fortran_order': False"), "{header}");
    let dtype = [("<f4", DType::F32), ("|u1", DType::U8), ("<i8", DType::I64)]
        .into_iter()
        .find(|(name, _)| header.contains(name))
        .expect("a dtype that the samples use")
        .1;
    let dims = header.split_once('(').unwrap().1.split_once(')').unwrap().0;
    let dims: Vec<u32> = dims.split(',').filter_map(|d| d.trim().parse().ok()).collect();
    Tensor::new(dtype, Shape::new(dims).unwrap(), &file[10 + header_len..]).unwrap()
}

/// Every executor that this build has, by name; the device is burn's own CPU
/// backend.
pub fn executors() -> Vec<(&'static str, Arc<dyn Executor>)> {
    vec![
        ("cpu", Arc::new(CpuExecutor)),
        ("interpreter", Arc::new(InterpretingExecutor)),
        #[cfg(feature = "gpu")]
        ("gpu", Arc::new(gpu::GpuExecutor::new(gpu::Device::burn_cpu().unwrap()))),
    ]
}

/// Where this process has panicked since [`watch_panics`] was first called:
/// messages with their places, also of panics that were caught.
static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Note every panic from now on.
pub fn watch_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let file = info.location().map_or("", |l| l.file());
            PANICS.lock().unwrap().push(info.to_string());
            if file.contains("inference/") {
                before(info);
            }
        }));
    });
}

/// The panics since the last call, and how many of them were in this crate.
pub fn panics() -> (Vec<String>, usize) {
    let panics = std::mem::take(&mut *PANICS.lock().unwrap());
    let own = panics.iter().filter(|p| p.contains("inference/src")).count();
    (panics, own)
}

/// A chain of pseudo-random numbers, the same in every run.
pub struct Xorshift(pub u64);

impl Xorshift {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below `end`, and 0 below nothing.
    pub fn below(&mut self, end: usize) -> usize {
        if end == 0 { 0 } else { (self.next() % end as u64) as usize }
    }
}

/// Run `work` on a thread of its own, with the stack that Rust gives one. What it
/// gives, and how long it took; `None` when that is longer than `limit`.
pub fn timed<T: Send + 'static>(
    limit: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<(T, Duration)> {
    let (done, end) = std::sync::mpsc::channel();
    let start = Instant::now();
    let worker = std::thread::spawn(move || drop(done.send(work())));
    match end.recv_timeout(limit) {
        Ok(made) => Some((made, start.elapsed())),
        Err(std::sync::mpsc::RecvTimeoutError::Timeout) => None,
        Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => {
            std::panic::resume_unwind(worker.join().unwrap_err())
        }
    }
}
