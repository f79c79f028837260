//! Hostile models, each with what must come of it.

use std::time::Duration;

use headland_inference::LoadLimits;
use headland_tensor::{NamedTensors, Tensor};
use tract_onnx::pb::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto,
    TensorProto, ValueInfoProto,
    attribute_proto::AttributeType,
    tensor_proto::{DataLocation, DataType},
};

use crate::support::*;

/// A hostile model.
pub struct Attack {
    pub name: String,
    pub onnx: Vec<u8>,
    pub limits: LoadLimits,
    pub inputs: NamedTensors,
    /// How long a run may take.
    pub allowed: Option<Duration>,
    pub fate: Fate,
}

/// What must come of a model.
pub enum Fate {
    /// Refused when loaded or when run, with one of these codes, and with all
    /// these words in the message.
    Refused(&'static [&'static str], Vec<String>),
    /// Run to the end, with outputs of which this is true.
    Runs(fn(&NamedTensors) -> bool),
    /// Either: run to the end, or refused at the node of this label, or for what
    /// it gives.
    Harmless(String),
}

/// For what does not fit together: the codes by which it may be refused.
const UNFIT: &[&str] = &["failed", "unsupported", "malformed", "over-limit"];
const OVER: &[&str] = &["over-limit"];
const MALFORMED: &[&str] = &["malformed"];
const LATE: &[&str] = &["deadline-exceeded"];

/// The label of the node that is at fault, in models of one such node.
const CULPRIT: &str = "culprit";

impl Attack {
    fn new(name: impl Into<String>, proto: &ModelProto, fate: Fate) -> Self {
        let x = f32_tensor(&[1, 4], &[1.0, 2.0, 3.0, 4.0]);
        Self {
            name: name.into(),
            onnx: bytes(proto),
            limits: LoadLimits::default(),
            inputs: vec![named("x", x)],
            allowed: None,
            fate,
        }
    }

    fn within(mut self, limits: LoadLimits) -> Self {
        self.limits = limits;
        self
    }

    fn written(mut self, onnx: Vec<u8>) -> Self {
        self.onnx = onnx;
        self
    }

    fn fed(mut self, inputs: Vec<(&str, Tensor)>) -> Self {
        self.inputs = inputs.into_iter().map(|(name, tensor)| named(name, tensor)).collect();
        self
    }

    fn until(mut self, millis: u64) -> Self {
        self.allowed = Some(Duration::from_millis(millis));
        self
    }
}

fn refused(codes: &'static [&'static str], says: &[&str]) -> Fate {
    Fate::Refused(codes, says.iter().map(|s| (*s).to_owned()).collect())
}

fn harmless() -> Fate {
    Fate::Harmless(CULPRIT.to_owned())
}

fn x() -> ValueInfoProto {
    value("x", DataType::Float, &["1", "4"])
}

fn y(rank: usize) -> ValueInfoProto {
    value("y", DataType::Float, &vec!["?"; rank])
}

/// A model that gives `y` and takes an `x` [1,4].
fn made_of(nodes: Vec<NodeProto>, constants: Vec<TensorProto>, rank: usize) -> ModelProto {
    model(graph(vec![x()], vec![y(rank)], nodes, constants))
}

fn culprit(op: &str, inputs: &[&str], attributes: Vec<AttributeProto>) -> NodeProto {
    NodeProto { name: CULPRIT.to_owned(), ..node_with(op, inputs, &["y"], attributes) }
}

fn shape(values: &[i64]) -> TensorProto {
    i64s("shape", &[values.len() as i64], values)
}

fn scalar(name: &str, value: i64) -> TensorProto {
    i64s(name, &[], &[value])
}

fn typed(tensor: TensorProto, data_type: DataType, raw: Vec<u8>) -> TensorProto {
    TensorProto { data_type: data_type as i32, raw_data: raw, int64_data: Vec::new(), ..tensor }
}

/// All of them.
pub fn attacks() -> Vec<Attack> {
    let mut all = Vec::new();
    all.extend(structure());
    all.extend(functions());
    all.extend(declarations());
    all.extend(misfits());
    all.extend(sizes());
    all.extend(numbers());
    all.extend(emptiness());
    all.extend(quantities());
    all.extend(nesting());
    all.extend(loops());
    all
}

/// Graphs that are none.
fn structure() -> Vec<Attack> {
    let dense = |change: fn(&mut GraphProto)| {
        let mut proto = dense();
        change(proto.graph.as_mut().unwrap());
        proto
    };
    let entry = |key: &str, value: &str| StringStringEntryProto {
        key: key.to_owned(),
        value: value.to_owned(),
    };
    let mut external = dense(|_| {});
    external.graph.as_mut().unwrap().initializer[0] = TensorProto {
        raw_data: vec![],
        data_location: Some(DataLocation::External as i32),
        external_data: vec![entry("location", "../../secret"), entry("length", "48")],
        ..f32s("w", &[4, 3], &[])
    };
    let mut nowhere = dense(|_| {});
    nowhere.opset_import.clear();
    let unknown = |op: &str, domain: &str| {
        let mut proto = made_of(vec![culprit(op, &["x"], vec![])], vec![], 2);
        proto.graph.as_mut().unwrap().node[0].domain = domain.to_owned();
        proto.opset_import.push(OperatorSetIdProto { domain: "evil".to_owned(), version: 3 });
        proto
    };
    vec![
        Attack::new(
            "a graph that reads what it gives",
            &dense(|g| g.node[0].input[0] = "y".to_owned()),
            refused(MALFORMED, &["MatMul node \"MatMul-xw\" reads \"y\""]),
        ),
        Attack::new(
            "a node that reads itself",
            &dense(|g| g.node[1].input[0] = "xwb".to_owned()),
            refused(MALFORMED, &["Add node \"Add-xwb\" reads \"xwb\""]),
        ),
        Attack::new(
            "a name given twice",
            &dense(|g| g.node[1].output[0] = "xw".to_owned()),
            refused(MALFORMED, &["defines \"xw\" twice"]),
        ),
        Attack::new(
            "an output that nothing gives",
            &dense(|g| g.output[0].name = "z".to_owned()),
            refused(MALFORMED, &["nothing gives output \"z\""]),
        ),
        Attack::new("no operator set", &nowhere, refused(MALFORMED, &["no operator set"])),
        Attack::new(
            "data in another file",
            &external,
            refused(&["unsupported"], &["\"w\"", "in another file, \"../../secret\""]),
        ),
        Attack::new(
            "an unknown operator",
            &unknown("LaunchMissiles", ""),
            refused(&["unsupported"], &["LaunchMissiles", "opset 17", CULPRIT]),
        ),
        Attack::new(
            "an unknown domain",
            &unknown("Relu", "evil"),
            refused(&["unsupported"], &["Relu of evil (3)", CULPRIT]),
        ),
    ]
}

/// Functions that grow.
fn functions() -> Vec<Attack> {
    let calling = |first: NodeProto, functions: Vec<_>| {
        let mut proto = made_of(vec![first], vec![], 2);
        proto.functions = functions;
        proto
    };
    let relu = || node("Relu", &["a"], &["b"]);
    let itself = calling(
        call("A", &["x"], &["y"]),
        vec![
            function("A", &["a"], &["b"], vec![call("B", &["a"], &["b"])]),
            function("B", &["a"], &["b"], vec![call("A", &["a"], &["b"])]),
        ],
    );
    // Each calls the next one, `count` deep; `width` times.
    let chain = |count: usize, width: usize| {
        let mut functions: Vec<_> = (0..count)
            .map(|level| {
                let next = format!("f{}", level + 1);
                let name = |i: usize| match i {
                    0 => "a".to_owned(),
                    i if i == width => "b".to_owned(),
                    i => format!("m{i}"),
                };
                let nodes = (0..width).map(|i| call(&next, &[&name(i)], &[&name(i + 1)]));
                function(&format!("f{level}"), &["a"], &["b"], nodes.collect())
            })
            .collect();
        functions.push(function(&format!("f{count}"), &["a"], &["b"], vec![relu()]));
        calling(call("f0", &["x"], &["y"]), functions)
    };
    // Each is in a branch of the one before.
    let mut branches: Vec<_> = (0..40)
        .map(|level| {
            let next = call(&format!("f{}", level + 1), &["a"], &["r"]);
            let taken = || graph(vec![], vec![value("r", DataType::Float, &[])], vec![], vec![]);
            let taken = || GraphProto { node: vec![next.clone()], ..taken() };
            let branch = node_with("If", &["c"], &["b"], vec![body("then_branch", taken())]);
            let truth = node_with(
                "Constant",
                &[],
                &["c"],
                vec![tensor("value", typed(scalar("", 0), DataType::Bool, vec![1]))],
            );
            function(&format!("f{level}"), &["a"], &["b"], vec![truth, branch])
        })
        .collect();
    branches.push(function("f40", &["a"], &["b"], vec![relu()]));
    // A few bytes to copy an argument of a megabyte.
    let reference = |i: usize| {
        let value = AttributeProto {
            name: "value".to_owned(),
            ref_attr_name: "big".to_owned(),
            r#type: AttributeType::Tensor as i32,
            ..Default::default()
        };
        node_with("Constant", &[], &[&format!("c{i}")], vec![value])
    };
    let mut nodes: Vec<_> = (0..10_000).map(reference).collect();
    nodes.push(relu());
    let mut argument = call("big", &["x"], &["y"]);
    argument.attribute = vec![tensor("big", f32s("", &[1 << 18], &vec![0.0; 1 << 18]))];
    let argument = calling(argument, vec![function("big", &["a"], &["b"], nodes)]);
    // The same, of a name.
    let mut nodes: Vec<_> =
        (0..10_000).map(|i| node("Relu", &["a"], &[&format!("r{i}")])).collect();
    nodes.push(relu());
    let long = "n".repeat(1 << 20);
    let name = calling(node("Relu", &["x"], &[&long]), vec![function("f", &["a"], &["b"], nodes)]);
    let mut name = name;
    name.graph.as_mut().unwrap().node.push(call("f", &[&long], &["y"]));
    // One node that is called often, and within it very many messages.
    let mut idle = node("Relu", &["a"], &["b"]);
    idle.attribute = vec![AttributeProto::default(); 10_000];
    let mut nodes: Vec<_> = (0..15_000).map(|i| call("f", &["x"], &[&format!("t{i}")])).collect();
    nodes.push(call("f", &["x"], &["y"]));
    let mut messages = made_of(nodes, vec![], 2);
    messages.functions = vec![function("f", &["a"], &["b"], vec![idle])];
    vec![
        Attack::new(
            "a function that comes to call itself",
            &itself,
            refused(MALFORMED, &["function \"A\" calls itself"]),
        ),
        Attack::new(
            "functions that double at every level",
            &chain(40, 2),
            refused(OVER, &["max_nodes: functions"]),
        ),
        Attack::new(
            "functions that call each other 15,000 deep",
            &chain(15_000, 1),
            refused(OVER, &["calls within calls", "64 allowed"]),
        ),
        Attack::new(
            "functions within branches within functions",
            &calling(call("f0", &["x"], &["y"]), branches),
            refused(OVER, &["max_graph_depth"]),
        ),
        Attack::new(
            "an argument that is copied 10,000 times",
            &argument,
            refused(OVER, &["max_model_bytes: functions"]),
        ),
        Attack::new(
            "a long name that is copied 10,000 times",
            &name,
            refused(OVER, &["max_model_bytes: functions"]),
        ),
        Attack::new(
            "empty messages that are copied 15,000 times",
            &messages,
            refused(OVER, &["max_messages: functions"]),
        ),
    ]
}

/// Interfaces and constants that lie.
fn declarations() -> Vec<Attack> {
    let constant = |tensor: TensorProto| {
        let mut proto = dense();
        proto.graph.as_mut().unwrap().initializer[0] = tensor;
        proto
    };
    let declared = |element: DataType, op: &str| {
        let mut proto = made_of(vec![culprit(op, &["x"], vec![])], vec![], 2);
        proto.graph.as_mut().unwrap().output[0] = value("y", element, &["?", "?"]);
        proto
    };
    let mut many = dense();
    let whole = many.graph.as_mut().unwrap();
    for i in 0..100_000 {
        whole.initializer.push(f32s(&format!("i{i}"), &[0], &[]));
        whole.input.push(value(&format!("i{}", 99_999 - i), DataType::Float, &["0"]));
    }
    let mut rank = dense();
    rank.graph.as_mut().unwrap().input[0] = value("x", DataType::Float, &["1"; 17]);
    let mut size = dense();
    size.graph.as_mut().unwrap().input[0] = value("x", DataType::Float, &["4294967296"]);
    // A graph of an input more, which decoding adds to the other.
    let field = |number: u8, content: &[u8]| {
        let mut encoded = vec![number << 3 | 2];
        prost::encode_length_delimiter(content.len(), &mut encoded).unwrap();
        encoded.extend_from_slice(content);
        encoded
    };
    let deep = (0..90).fold(Vec::new(), |inner, _| field(4, &field(1, &inner)));
    let input = [field(1, b"deep"), field(2, &deep)].concat();
    let mut nested = bytes(&dense());
    nested.extend(field(7, &field(11, &input)));
    let lies = [
        (f32s("w", &[4, 3], &[0.0; 11]), "48 bytes, but its data has 44"),
        (f32s("w", &[4, 3], &[0.0; 13]), "48 bytes, but its data has 52"),
        (f32s("w", &[-4, 3], &[]), "shape [-4, 3]"),
        (f32s("w", &[1 << 40], &[]), "shape [1099511627776]"),
        (f32s("w", &[1 << 31, 1 << 31], &[0.0]), "too many elements"),
        (f32s("w", &[1; 17], &[0.0]), "17 dimensions"),
        (typed(i64s("w", &[4, 3], &[]), DataType::Double, vec![0; 48]), "96 bytes, but its data"),
    ];
    let lies = lies.map(|(tensor, says)| {
        Attack::new(
            format!("a constant whose data is not its own: {says}"),
            &constant(tensor),
            refused(MALFORMED, &["\"w\"", says]),
        )
    });
    let mut all: Vec<Attack> = lies.into();
    all.extend([
        Attack::new(
            "an output of another type than declared",
            &declared(DataType::Int64, "Relu"),
            refused(UNFIT, &["\"y\"", "i64"]),
        ),
        Attack::new(
            "an output of another size than declared",
            &declared(DataType::Double, "Abs"),
            refused(UNFIT, &["\"y\"", "f64"]),
        ),
        Attack::new(
            "a bool that is declared a float",
            &declared(DataType::Float, "IsNaN"),
            refused(UNFIT, &["\"y\"", "f32"]),
        ),
        Attack::new(
            "100,000 constants that are inputs, in the other order",
            &many,
            Fate::Runs(|made| made[0].1.shape().dims() == [1, 3]),
        ),
        Attack::new("an input of 17 dimensions", &rank, refused(OVER, &["rank", "\"x\""])),
        Attack::new("an input beyond 32 bits", &size, refused(OVER, &["dimension 0", "\"x\""])),
        Attack::new("a type within 90 types", &dense(), refused(OVER, &["nesting of messages"]))
            .written(nested),
    ]);
    all
}

/// What does not fit together.
fn misfits() -> Vec<Attack> {
    let f = |name: &str, dims: &[i64]| {
        f32s(name, dims, &vec![0.5; dims.iter().product::<i64>() as usize])
    };
    let i = |name: &str, values: &[i64]| i64s(name, &[values.len() as i64], values);
    let image = || f("image", &[1, 2, 4, 4]);
    let seven = || f("seven", &[7]);
    type Case = (&'static str, Vec<&'static str>, Vec<AttributeProto>, Vec<TensorProto>);
    let unfit: Vec<Case> = vec![
        ("MatMul", vec!["x", "w"], vec![], vec![f("w", &[3, 3])]),
        ("MatMul", vec!["x", "w"], vec![], vec![f("w", &[])]),
        ("Gemm", vec!["x", "w"], vec![], vec![f("w", &[3, 3])]),
        ("Gemm", vec!["x", "w", "c"], vec![], vec![f("w", &[4, 3]), f("c", &[2, 2, 2])]),
        ("Add", vec!["x", "w"], vec![], vec![f("w", &[3])]),
        ("Add", vec!["x"], vec![], vec![]),
        ("Add", vec!["x", ""], vec![], vec![]),
        ("Add", vec![], vec![], vec![]),
        ("Add", vec!["x", "w"], vec![], vec![i("w", &[1])]),
        ("Pow", vec!["x", "w"], vec![], vec![f("w", &[5])]),
        ("Max", vec!["x", "w"], vec![], vec![f("w", &[3])]),
        ("Where", vec!["x", "x", "x"], vec![], vec![]),
        ("Not", vec!["x"], vec![], vec![]),
        ("Concat", vec!["x", "w"], vec![int("axis", 0)], vec![f("w", &[1, 3])]),
        ("Concat", vec!["x"], vec![int("axis", 2)], vec![]),
        ("Concat", vec!["x"], vec![int("axis", i64::MIN)], vec![]),
        ("Reshape", vec!["x", "s"], vec![], vec![i("s", &[3, 3])]),
        ("Reshape", vec!["x", "s"], vec![], vec![i("s", &[-1, -1])]),
        ("Reshape", vec!["x", "s"], vec![], vec![i("s", &[-1, 0, 0, 0])]),
        ("Reshape", vec!["x", "s"], vec![], vec![i("s", &[i64::MAX, i64::MAX])]),
        ("Reshape", vec!["x", "s"], vec![], vec![i("s", &[i64::MIN, 4])]),
        ("Transpose", vec!["x"], vec![ints("perm", &[0, 0])], vec![]),
        ("Transpose", vec!["x"], vec![ints("perm", &[0])], vec![]),
        ("Transpose", vec!["x"], vec![ints("perm", &[0, 9])], vec![]),
        ("Squeeze", vec!["x", "a"], vec![], vec![i("a", &[1])]),
        ("Unsqueeze", vec!["x", "a"], vec![], vec![i("a", &[i64::MAX])]),
        ("Unsqueeze", vec!["x", "a"], vec![], vec![i("a", &[0, 0])]),
        ("Softmax", vec!["x"], vec![int("axis", 2)], vec![]),
        ("Softmax", vec!["x"], vec![int("axis", i64::MIN)], vec![]),
        ("LogSoftmax", vec!["x"], vec![int("axis", i64::MAX)], vec![]),
        ("Hardmax", vec!["x"], vec![int("axis", -3)], vec![]),
        ("Flatten", vec!["x"], vec![int("axis", 5)], vec![]),
        ("Flatten", vec!["x"], vec![int("axis", i64::MIN)], vec![]),
        ("ReduceSum", vec!["x", "a"], vec![], vec![i("a", &[2])]),
        ("ReduceMax", vec!["x"], vec![ints("axes", &[i64::MIN])], vec![]),
        ("ArgMax", vec!["x"], vec![int("axis", 7)], vec![]),
        ("TopK", vec!["x", "k"], vec![], vec![i("k", &[5])]),
        ("TopK", vec!["x", "k"], vec![], vec![i("k", &[i64::MAX])]),
        ("CumSum", vec!["x", "a"], vec![], vec![scalar("a", 2)]),
        ("Gather", vec!["x", "i"], vec![int("axis", 1)], vec![i("i", &[4])]),
        ("Gather", vec!["x", "i"], vec![int("axis", 1)], vec![i("i", &[i64::MIN])]),
        ("Gather", vec!["x", "i"], vec![int("axis", 3)], vec![i("i", &[0])]),
        ("GatherElements", vec!["x", "i"], vec![], vec![i64s("i", &[1, 4], &[0, 1, 2, 9])]),
        ("GatherND", vec!["x", "i"], vec![], vec![i64s("i", &[1, 3], &[0, 0, 0])]),
        ("GatherND", vec!["x", "i"], vec![], vec![i64s("i", &[1, 2], &[0, -9])]),
        ("ScatterND", vec!["x", "i", "u"], vec![], vec![i64s("i", &[1, 2], &[7, 7]), f("u", &[1])]),
        ("ScatterElements", vec!["x", "i", "x"], vec![], vec![i64s("i", &[1, 4], &[9; 4])]),
        ("Slice", vec!["x", "s", "s", "a"], vec![], vec![i("s", &[0]), i("a", &[9])]),
        ("Slice", vec!["x", "s", "s", "a", "s"], vec![], vec![i("s", &[0]), i("a", &[1])]),
        ("Split", vec!["x", "s"], vec![int("axis", 1)], vec![i("s", &[i64::MAX, i64::MAX])]),
        ("Split", vec!["x", "s"], vec![int("axis", 1)], vec![i("s", &[9])]),
        ("Conv", vec!["image", "w"], vec![], vec![image(), f("w", &[2, 3, 3, 3])]),
        ("Conv", vec!["image", "w"], vec![int("group", 0)], vec![image(), f("w", &[2, 2, 3, 3])]),
        ("Conv", vec!["image", "w"], vec![int("group", -1)], vec![image(), f("w", &[2, 2, 3, 3])]),
        (
            "Conv",
            vec!["image", "w"],
            vec![ints("strides", &[0, 0])],
            vec![image(), f("w", &[2, 2, 3, 3])],
        ),
        (
            "Conv",
            vec!["image", "w"],
            vec![ints("pads", &[i64::MAX; 4])],
            vec![image(), f("w", &[2, 2, 3, 3])],
        ),
        (
            "Conv",
            vec!["image", "w"],
            vec![ints("dilations", &[i64::MAX; 2])],
            vec![image(), f("w", &[2, 2, 3, 3])],
        ),
        (
            "Conv",
            vec!["image", "w", "seven"],
            vec![],
            vec![image(), f("w", &[2, 2, 3, 3]), seven()],
        ),
        ("ConvTranspose", vec!["image", "w"], vec![], vec![image(), f("w", &[3, 3, 3, 3])]),
        (
            "ConvTranspose",
            vec!["image", "w", "seven"],
            vec![],
            vec![image(), f("w", &[2, 2, 3, 3]), seven()],
        ),
        ("MaxPool", vec!["image"], vec![], vec![image()]),
        ("MaxPool", vec!["image"], vec![ints("kernel_shape", &[0, 0])], vec![image()]),
        ("AveragePool", vec!["image"], vec![ints("kernel_shape", &[-1, 2])], vec![image()]),
        (
            "BatchNormalization",
            vec!["image", "seven", "seven", "seven", "seven"],
            vec![],
            vec![image(), seven()],
        ),
        ("InstanceNormalization", vec!["image", "seven", "seven"], vec![], vec![image(), seven()]),
        ("LayerNormalization", vec!["x", "seven"], vec![], vec![seven()]),
        ("LayerNormalization", vec!["x", "w"], vec![], vec![f("w", &[2, 2, 2, 4])]),
        ("DepthToSpace", vec!["image"], vec![int("blocksize", 1 << 40)], vec![image()]),
        ("SpaceToDepth", vec!["image"], vec![int("blocksize", 3)], vec![image()]),
        ("LSTM", vec!["x", "x", "x"], vec![int("hidden_size", 4)], vec![]),
        (
            "LSTM",
            vec!["s", "w", "w"],
            vec![int("hidden_size", i64::MAX)],
            vec![f("s", &[2, 1, 4]), f("w", &[1, 16, 4])],
        ),
        (
            "GRU",
            vec!["s", "w", "w", "seven"],
            vec![int("hidden_size", 4)],
            vec![f("s", &[2, 1, 4]), f("w", &[1, 12, 4]), seven()],
        ),
        ("QuantizeLinear", vec!["x", "seven"], vec![int("axis", 1)], vec![seven()]),
        ("Resize", vec!["image", "", "s"], vec![], vec![image(), f("s", &[3])]),
        ("Einsum", vec!["x"], vec![text("equation", "ij,jk->ik")], vec![]),
        ("Einsum", vec!["x", "w"], vec![text("equation", "ij,jk->ik")], vec![f("w", &[3, 2])]),
        ("Cast", vec!["x"], vec![int("to", 999)], vec![]),
        ("Cast", vec!["x"], vec![], vec![]),
        ("Constant", vec![], vec![], vec![]),
        ("If", vec!["x"], vec![], vec![]),
        ("Loop", vec!["", "", "x"], vec![], vec![]),
        ("Scan", vec!["x"], vec![int("num_scan_inputs", 9)], vec![]),
        // Attributes of another type than the operator has.
        ("Softmax", vec!["x"], vec![float("axis", 0.0)], vec![]),
        ("Gather", vec!["x", "i"], vec![ints("axis", &[1])], vec![i("i", &[0])]),
        ("LeakyRelu", vec!["x"], vec![int("alpha", 1)], vec![]),
        ("Transpose", vec!["x"], vec![int("perm", 1)], vec![]),
        ("Gelu", vec!["x"], vec![int("approximate", 1)], vec![]),
        ("Cast", vec!["x"], vec![float("to", 1.0)], vec![]),
        ("If", vec!["x"], vec![int("then_branch", 1), int("else_branch", 1)], vec![]),
    ];
    unfit
        .into_iter()
        .enumerate()
        .map(|(index, (op, inputs, attributes, constants))| {
            let what: Vec<String> = attributes.iter().map(|a| a.name.clone()).collect();
            let name = format!("misfit {index}: {op} {inputs:?} {what:?}");
            let mut proto = made_of(vec![culprit(op, &inputs, attributes)], constants, 2);
            // As many opsets as operators of the list need.
            proto.opset_import[0].version = if op == "Gelu" { 20 } else { 17 };
            Attack::new(name, &proto, refused(UNFIT, &[CULPRIT]))
        })
        .collect()
}

/// Sizes that a few bytes ask for: by a constant, and by what is computed from
/// the input's shape and values.
fn sizes() -> Vec<Attack> {
    let i = |name: &str, values: &[i64]| i64s(name, &[values.len() as i64], values);
    let f = |name: &str, values: &[f32]| f32s(name, &[values.len() as i64], values);
    let one = |rank: usize| f32s("one", &vec![1; rank], &[1.0]);
    let image = || f32s("image", &[1, 1, 2, 2], &[1.0; 4]);
    let mut all = Vec::new();
    let huge: [&[i64]; 5] = [
        &[1 << 40],
        &[1 << 20, 1 << 20],
        &[1 << 31, 1 << 31, 1 << 31],
        &[i64::MAX, i64::MAX],
        &[70_000, 70_000],
    ];
    for dims in huge {
        for op in ["ConstantOfShape", "Expand", "Tile"] {
            let inputs = if op == "ConstantOfShape" { vec!["shape"] } else { vec!["one", "shape"] };
            let proto = made_of(
                vec![culprit(op, &inputs, vec![])],
                vec![shape(dims), one(dims.len())],
                dims.len(),
            );
            let name = format!("{op} to {dims:?}");
            all.push(Attack::new(name, &proto, refused(UNFIT, &[CULPRIT])));
            // The same from a shape that only a run knows.
            let nodes = vec![
                node("Cast", &["n"], &["k"]),
                node("Mul", &["k", "shape"], &["s"]),
                culprit(op, &if inputs.len() == 1 { vec!["s"] } else { vec!["one", "s"] }, vec![]),
            ];
            let mut nodes = nodes;
            nodes[0].attribute = vec![int("to", 7)];
            let proto = model(graph(
                vec![value("n", DataType::Float, &["1"])],
                vec![y(dims.len())],
                nodes,
                vec![shape(dims), one(dims.len())],
            ));
            all.push(
                Attack::new(format!("{op} to a computed {dims:?}"), &proto, refused(UNFIT, &[]))
                    .fed(vec![("n", f32_tensor(&[1], &[1.0]))]),
            );
        }
    }
    type Case = (&'static str, Vec<&'static str>, Vec<AttributeProto>, Vec<TensorProto>, usize);
    let cases: Vec<Case> = vec![
        ("Pad", vec!["x", "p"], vec![], vec![i("p", &[0, 0, 0, 1 << 40])], 2),
        ("Pad", vec!["x", "p"], vec![], vec![i("p", &[i64::MAX; 4])], 2),
        ("Pad", vec!["x", "p"], vec![], vec![i("p", &[i64::MIN; 4])], 2),
        ("Pad", vec!["x", "p"], vec![text("mode", "reflect")], vec![i("p", &[1 << 20; 4])], 2),
        ("Pad", vec!["x", "p"], vec![text("mode", "edge")], vec![i("p", &[1 << 20; 4])], 2),
        (
            "Range",
            vec!["a", "b", "c"],
            vec![],
            vec![scalar("a", 0), scalar("b", i64::MAX), scalar("c", 1)],
            1,
        ),
        (
            "Range",
            vec!["a", "b", "c"],
            vec![],
            vec![scalar("a", i64::MIN), scalar("b", i64::MAX), scalar("c", 0)],
            1,
        ),
        (
            "Range",
            vec!["a", "b", "c"],
            vec![],
            vec![f32s("a", &[], &[0.0]), f32s("b", &[], &[f32::INFINITY]), f32s("c", &[], &[1.0])],
            1,
        ),
        (
            "Range",
            vec!["a", "b", "c"],
            vec![],
            vec![f32s("a", &[], &[0.0]), f32s("b", &[], &[f32::NAN]), f32s("c", &[], &[f32::NAN])],
            1,
        ),
        ("Resize", vec!["image", "", "s"], vec![], vec![image(), f("s", &[1.0, 1.0, 1e9, 1e9])], 4),
        (
            "Resize",
            vec!["image", "", "s"],
            vec![],
            vec![image(), f("s", &[f32::NAN, f32::INFINITY, -1.0, 0.0])],
            4,
        ),
        (
            "Resize",
            vec!["image", "", "", "s"],
            vec![],
            vec![image(), i("s", &[1, 1, i64::MAX, 1 << 40])],
            4,
        ),
        (
            "Resize",
            vec!["image", "", "", "s"],
            vec![text("mode", "linear")],
            vec![image(), i("s", &[1, 1, 1 << 20, 1 << 20])],
            4,
        ),
        (
            "OneHot",
            vec!["i", "d", "v"],
            vec![],
            vec![i("i", &[0; 64]), scalar("d", 1 << 50), f("v", &[0.0, 1.0])],
            2,
        ),
        (
            "OneHot",
            vec!["i", "d", "v"],
            vec![],
            vec![i("i", &[i64::MIN]), scalar("d", -1), f("v", &[0.0, 1.0])],
            2,
        ),
        ("EyeLike", vec!["x"], vec![int("k", i64::MIN)], vec![], 2),
        ("Trilu", vec!["x", "k"], vec![], vec![scalar("k", i64::MIN)], 2),
        ("RandomNormal", vec![], vec![ints("shape", &[1 << 40])], vec![], 1),
        ("RandomUniform", vec![], vec![ints("shape", &[-1, 4])], vec![], 2),
        ("Multinomial", vec!["x"], vec![int("sample_size", 1 << 50)], vec![], 2),
        (
            "ConvTranspose",
            vec!["image", "w"],
            vec![ints("strides", &[1 << 30; 2])],
            vec![image(), f32s("w", &[1, 1, 1, 1], &[1.0])],
            4,
        ),
        (
            "ConvTranspose",
            vec!["image", "w"],
            vec![ints("output_padding", &[1 << 40; 2])],
            vec![image(), f32s("w", &[1, 1, 1, 1], &[1.0])],
            4,
        ),
        (
            "Conv",
            vec!["image", "w"],
            vec![ints("pads", &[1 << 20; 4])],
            vec![image(), f32s("w", &[1, 1, 1, 1], &[1.0])],
            4,
        ),
        (
            "MaxPool",
            vec!["image"],
            vec![ints("kernel_shape", &[1 << 20; 2]), ints("pads", &[1 << 20; 4])],
            vec![image()],
            4,
        ),
        ("MaxPool", vec!["image"], vec![ints("kernel_shape", &[9, 9])], vec![image()], 4),
        (
            "AveragePool",
            vec!["image"],
            vec![ints("kernel_shape", &[3, 3]), ints("pads", &[i64::MAX / 2; 4])],
            vec![image()],
            4,
        ),
        (
            "LpPool",
            vec!["image"],
            vec![ints("kernel_shape", &[3, 3]), ints("dilations", &[i64::MAX; 2])],
            vec![image()],
            4,
        ),
        ("LRN", vec!["image"], vec![int("size", i64::MAX)], vec![image()], 4),
        ("DepthToSpace", vec!["image"], vec![int("blocksize", i64::MAX)], vec![image()], 4),
        (
            "Slice",
            vec!["x", "a", "b", "c", "d"],
            vec![],
            vec![i("a", &[i64::MIN]), i("b", &[i64::MAX]), i("c", &[1]), i("d", &[i64::MIN])],
            2,
        ),
        ("Shape", vec!["x"], vec![int("start", i64::MIN), int("end", i64::MAX)], vec![], 1),
        ("Split", vec!["x"], vec![int("num_outputs", i64::MAX), int("axis", 1)], vec![], 2),
        ("Gather", vec!["x", "i"], vec![], vec![i64s("i", &[1 << 16], &vec![0; 1 << 16])], 2),
        ("BlackmanWindow", vec!["n"], vec![], vec![scalar("n", i64::MAX)], 1),
        ("HannWindow", vec!["n"], vec![], vec![scalar("n", i64::MIN)], 1),
        (
            "MelWeightMatrix",
            vec!["n", "n", "n", "l", "h"],
            vec![],
            vec![scalar("n", i64::MAX), f32s("l", &[], &[f32::NAN]), f32s("h", &[], &[1e30])],
            2,
        ),
        (
            "DFT",
            vec!["s", "n"],
            vec![],
            vec![f32s("s", &[1, 4, 1], &[1.0; 4]), scalar("n", i64::MAX)],
            3,
        ),
        (
            "STFT",
            vec!["s", "n"],
            vec![],
            vec![f32s("s", &[1, 4, 1], &[1.0; 4]), scalar("n", i64::MIN)],
            4,
        ),
        (
            "AffineGrid",
            vec!["t", "s"],
            vec![],
            vec![f32s("t", &[1, 2, 3], &[1.0; 6]), i("s", &[1, 1, 1 << 30, 1 << 30])],
            4,
        ),
        (
            "Col2Im",
            vec!["c", "s", "s"],
            vec![],
            vec![f32s("c", &[1, 4, 1], &[1.0; 4]), i("s", &[1 << 40, 1 << 40])],
            4,
        ),
        ("CenterCropPad", vec!["x", "s"], vec![], vec![i("s", &[1 << 40, i64::MAX])], 2),
        (
            "MaxUnpool",
            vec!["image", "i", "s"],
            vec![ints("kernel_shape", &[2, 2])],
            vec![
                image(),
                i64s("i", &[1, 1, 2, 2], &[i64::MAX, i64::MIN, 0, 1]),
                i("s", &[1, 1, 1 << 40, 1]),
            ],
            4,
        ),
        (
            "RoiAlign",
            vec!["image", "r", "b"],
            vec![int("output_height", 1 << 40), int("sampling_ratio", i64::MAX)],
            vec![image(), f32s("r", &[1, 4], &[0.0, 0.0, 1e30, f32::NAN]), i("b", &[7])],
            4,
        ),
        ("ReverseSequence", vec!["x", "l"], vec![], vec![i("l", &[i64::MAX])], 2),
        ("CumSum", vec!["x", "a"], vec![], vec![scalar("a", i64::MIN)], 2),
        (
            "ScatterElements",
            vec!["x", "i", "x"],
            vec![],
            vec![i64s("i", &[1, 4], &[i64::MIN; 4])],
            2,
        ),
        (
            "NonMaxSuppression",
            vec!["b", "s", "m", "t"],
            vec![],
            vec![
                f32s("b", &[1, 2, 4], &[f32::NAN; 8]),
                f32s("s", &[1, 1, 2], &[f32::NAN; 2]),
                scalar("m", i64::MAX),
                f32s("t", &[1], &[f32::NAN]),
            ],
            2,
        ),
        (
            "BitShift",
            vec!["a", "b"],
            vec![text("direction", "LEFT")],
            vec![
                typed(i64s("a", &[1], &[]), DataType::Uint8, vec![255]),
                typed(i64s("b", &[1], &[]), DataType::Uint8, vec![255]),
            ],
            1,
        ),
        ("Div", vec!["a", "b"], vec![], vec![i("a", &[i64::MIN, 1]), i("b", &[-1, 0])], 1),
        ("Mod", vec!["a", "b"], vec![], vec![i("a", &[i64::MIN, 1]), i("b", &[-1, 0])], 1),
        ("Abs", vec!["a"], vec![], vec![i("a", &[i64::MIN])], 1),
        ("Neg", vec!["a"], vec![], vec![i("a", &[i64::MIN])], 1),
        ("Mul", vec!["a", "a"], vec![], vec![i("a", &[i64::MIN])], 1),
        ("Pow", vec!["a", "b"], vec![], vec![i("a", &[i64::MAX, 0]), i("b", &[i64::MAX, -1])], 1),
        ("ReduceProd", vec!["a"], vec![], vec![i("a", &[i64::MAX; 3])], 1),
        ("Cast", vec!["a"], vec![int("to", 7)], vec![f("a", &[f32::NAN, f32::INFINITY, 1e30])], 1),
    ];
    all.extend(cases.into_iter().enumerate().map(
        |(index, (op, inputs, attributes, constants, rank))| {
            let what: Vec<String> = attributes.iter().map(|a| a.name.clone()).collect();
            let name = format!("size {index}: {op} {inputs:?} {what:?}");
            let mut proto = made_of(vec![culprit(op, &inputs, attributes)], constants, rank);
            proto.opset_import[0].version = if op == "Multinomial" { 22 } else { 18 };
            let int =
                ["Range", "Shape", "Div", "Mod", "Abs", "Neg", "Mul", "Pow", "ReduceProd", "Cast"];
            if int.contains(&op) && (op != "Range" || index < 7) {
                let element = DataType::Int64;
                proto.graph.as_mut().unwrap().output[0] = value("y", element, &vec!["?"; rank]);
            }
            Attack::new(name, &proto, harmless())
        },
    ));
    // Broadcasting two small tensors to a large one, on the device too.
    for op in ["Add", "Pow", "Max", "Less", "MatMul"] {
        let nodes = vec![
            node("Expand", &["x", "across"], &["a"]),
            node("Expand", &["x", "down"], &["b"]),
            culprit(op, &["a", "b"], vec![]),
        ];
        let constants = vec![i("across", &[1, 100_000]), i("down", &[100_000, 1])];
        let mut proto = model(graph(
            vec![value("x", DataType::Float, &["1", "1"])],
            vec![y(2)],
            nodes,
            constants,
        ));
        if op == "MatMul" {
            proto.graph.as_mut().unwrap().node[2].input = vec!["b".to_owned(), "a".to_owned()];
        }
        all.push(
            Attack::new(
                format!("{op} of a long row and a long column"),
                &proto,
                refused(OVER, &[]),
            )
            .fed(vec![("x", f32_tensor(&[1, 1], &[1.0]))]),
        );
    }
    // More dimensions than a tensor may have.
    let many = made_of(
        vec![culprit("Reshape", &["x", "s"], vec![])],
        vec![i("s", &[&[4][..], &vec![1; 100_000]].concat())],
        2,
    );
    all.push(Attack::new("a shape of 100,001 dimensions", &many, refused(UNFIT, &[CULPRIT])));
    let axes: Vec<i64> = (0..200_000).collect();
    let many = made_of(vec![culprit("Unsqueeze", &["x", "s"], vec![])], vec![i("s", &axes)], 2);
    all.push(Attack::new("200,000 new axes", &many, refused(UNFIT, &[CULPRIT])));
    // Text that doubles.
    let mut nodes = vec![node_with(
        "Constant",
        &[],
        &["t0"],
        vec![text("value_string", "boom"), int("ignored", 0)],
    )];
    for i in 0..60 {
        let (from, to) = (format!("t{i}"), format!("t{}", i + 1));
        nodes.push(node("StringConcat", &[&from, &from], &[&to]));
    }
    nodes.push(node("Shape", &["t60"], &["z"]));
    nodes.push(node_with("Cast", &["z"], &["y"], vec![int("to", 1)]));
    let mut doubled = made_of(nodes, vec![], 1);
    doubled.opset_import[0].version = 20;
    all.push(
        Attack::new("text that doubles 60 times", &doubled, refused(OVER, &["max_tensor_bytes"]))
            .within(LoadLimits { max_tensor_bytes: 16 << 20, ..LoadLimits::default() }),
    );
    all
}

/// Weights that are no numbers.
fn numbers() -> Vec<Attack> {
    let mut all = Vec::new();
    for (special, name) in [(f32::NAN, "NaN"), (f32::INFINITY, "infinity")] {
        let proto = made_of(
            vec![node("MatMul", &["x", "w"], &["m"]), node("Sub", &["m", "m"], &["y"])],
            vec![f32s("w", &[4, 3], &[special; 12])],
            2,
        );
        all.push(Attack::new(
            format!("weights of {name}"),
            &proto,
            Fate::Runs(|made| {
                made[0].1.to_vec::<f32>().unwrap().iter().all(|v| v.is_nan())
                    && made[0].1.shape().dims() == [1, 3]
            }),
        ));
        let unary = [
            "Softmax",
            "LogSoftmax",
            "Hardmax",
            "Erf",
            "Gamma",
            "Ceil",
            "Sign",
            "Asin",
            "Log",
            "Sqrt",
            "Softplus",
            "Elu",
            "Selu",
            "HardSigmoid",
            "HardSwish",
            "Mish",
            "ReduceMax",
            "ReduceLogSumExp",
            "ReduceL2",
            "GlobalMaxPool",
            "LpNormalization",
            "Unique",
            "NonZero",
            "Relu",
            "Clip",
            "IsInf",
            "Round",
            "MeanVarianceNormalization",
        ];
        for op in unary {
            let proto = made_of(
                vec![node("Mul", &["x", "w"], &["m"]), culprit(op, &["m"], vec![])],
                vec![f32s("w", &[1], &[special])],
                2,
            );
            all.push(Attack::new(format!("{op} of {name}"), &proto, harmless()));
        }
        for op in ["ArgMax", "ArgMin", "TopK", "Max", "Min", "Equal", "Less", "Mod", "Pow"] {
            let mut inputs = vec!["m"];
            match op {
                "TopK" => inputs.push("k"),
                "ArgMax" | "ArgMin" => {}
                _ => inputs.push("m"),
            }
            let attributes = if op == "Mod" { vec![int("fmod", 1)] } else { vec![] };
            let proto = made_of(
                vec![node("Mul", &["x", "w"], &["m"]), culprit(op, &inputs, attributes)],
                vec![f32s("w", &[1], &[special]), i64s("k", &[1], &[2])],
                2,
            );
            all.push(Attack::new(format!("{op} among {name}"), &proto, harmless()));
        }
    }
    all
}

/// Tensors without elements, and of no dimensions.
fn emptiness() -> Vec<Attack> {
    let ops = [
        "Relu",
        "Softmax",
        "LogSoftmax",
        "Hardmax",
        "ReduceSum",
        "ReduceMean",
        "ReduceMax",
        "ReduceMin",
        "ReduceProd",
        "ReduceLogSumExp",
        "ArgMax",
        "ArgMin",
        "Transpose",
        "Flatten",
        "Squeeze",
        "NonZero",
        "Unique",
        "Shape",
        "Size",
        "Identity",
        "Exp",
        "Neg",
        "GlobalMaxPool",
        "GlobalAveragePool",
        "LpNormalization",
        "MeanVarianceNormalization",
        "CumSum",
        "TopK",
        "Concat",
        "Add",
        "MatMul",
        "Gemm",
        "Where",
        "Expand",
        "Gather",
        "Split",
        "Trilu",
        "Det",
        "DynamicQuantizeLinear",
        "EyeLike",
        "Dropout",
        "Clip",
        "IsNaN",
        "Sum",
        "Mean",
        "LRN",
    ];
    let mut all = Vec::new();
    for op in ops {
        for dims in [&[0u32, 4][..], &[4, 0], &[], &[0], &[1]] {
            let mut inputs = vec!["x"];
            match op {
                "Concat" | "Add" | "MatMul" | "Gemm" | "Sum" | "Mean" => inputs.push("x"),
                "CumSum" | "TopK" | "Expand" | "Gather" => inputs.push("one"),
                "Where" => inputs = vec!["yes", "x", "x"],
                _ => {}
            }
            let attributes = match op {
                "Concat" => vec![int("axis", 0)],
                "LRN" => vec![int("size", 3)],
                _ => vec![],
            };
            let declared: Vec<String> = dims.iter().map(u32::to_string).collect();
            let declared: Vec<&str> = declared.iter().map(String::as_str).collect();
            for open in [false, true] {
                let declared = if open { vec!["?"; dims.len()] } else { declared.clone() };
                let element = match op {
                    "Shape" | "Size" | "ArgMax" | "ArgMin" | "NonZero" => DataType::Int64,
                    "IsNaN" => DataType::Bool,
                    _ => DataType::Float,
                };
                let proto = model(graph(
                    vec![value("x", DataType::Float, &declared)],
                    vec![value("y", element, &["?"])],
                    vec![culprit(op, &inputs, attributes.clone())],
                    vec![
                        i64s("one", &[1], &[1]),
                        typed(i64s("yes", &[1], &[]), DataType::Bool, vec![1]),
                    ],
                ));
                let count = dims.iter().product::<u32>() as usize;
                let x = f32_tensor(dims, &vec![1.0; count]);
                let name = format!("{op} of {dims:?}{}", if open { ", declared open" } else { "" });
                all.push(Attack::new(name, &proto, harmless()).fed(vec![("x", x)]));
            }
        }
    }
    all
}

/// Very many of something.
fn quantities() -> Vec<Attack> {
    let chain = |count: usize| {
        let nodes = (0..count).map(|i| {
            let input = if i == 0 { "x".to_owned() } else { format!("t{i}") };
            let output = if i + 1 == count { "y".to_owned() } else { format!("t{}", i + 1) };
            node("Relu", &[&input], &[&output])
        });
        made_of(nodes.collect(), vec![], 2)
    };
    let whole: fn(&NamedTensors) -> bool =
        |made| made[0].1.to_vec::<f32>().unwrap() == [1.0, 2.0, 3.0, 4.0];
    // `count` nodes that each make `elements` of nothing, and a sum of their
    // shapes, so that all are used.
    let makers = |count: usize, elements: i64, in_branches: bool| {
        let mut nodes = Vec::new();
        for i in 0..count {
            let (made, size) = (format!("m{i}"), format!("s{i}"));
            let maker = node("ConstantOfShape", &["shape"], &[&made]);
            if in_branches {
                let taken = |name: &str| {
                    let maker = node("ConstantOfShape", &["shape"], &[name]);
                    graph(vec![], vec![value(name, DataType::Float, &["?"])], vec![maker], vec![])
                };
                let branches =
                    vec![body("then_branch", taken("a")), body("else_branch", taken("b"))];
                nodes.push(node_with("If", &["yes"], &[&made], branches));
            } else {
                nodes.push(maker);
            }
            nodes.push(node("ReduceMax", &[&made], &[&size]));
        }
        let sizes: Vec<String> = (0..count).map(|i| format!("s{i}")).collect();
        let mut sum: Vec<&str> = sizes.iter().map(String::as_str).collect();
        sum.push("x");
        nodes.push(node("Sum", &sum, &["y"]));
        let yes = typed(scalar("yes", 0), DataType::Bool, vec![1]);
        made_of(nodes, vec![shape(&[elements]), yes], 2)
    };
    let any = || Fate::Harmless(String::new());
    // A constant that is read through and through, again and again.
    let mut nodes: Vec<NodeProto> = (0..19_000)
        .map(|i| node_with("ReduceSum", &["big"], &[&format!("r{i}")], vec![int("keepdims", 0)]))
        .collect();
    nodes.push(node("Add", &["x", "r0"], &["y"]));
    let readers = made_of(nodes, vec![f32s("big", &[4 << 20], &vec![0.0; 4 << 20])], 2);
    // Outputs that nobody reads.
    let names: Vec<String> = (0..200_000).map(|i| format!("o{i}")).collect();
    let mut outputs: Vec<&str> = names.iter().map(String::as_str).collect();
    outputs.push("y");
    let split = model(graph(
        vec![value("x", DataType::Float, &["200001"])],
        vec![y(1)],
        vec![node("Split", &["x"], &outputs)],
        vec![],
    ));
    let x = f32_tensor(&[200_001], &vec![1.0; 200_001]);
    let unread = Attack::new("200,000 outputs that nobody reads", &split, any());
    let more = LoadLimits { max_nodes: 200_000, ..LoadLimits::default() };
    vec![
        Attack::new("a chain of 100,000 nodes", &chain(100_000), refused(OVER, &["max_nodes"])),
        Attack::new("a chain of 20,000 nodes", &chain(20_000), Fate::Runs(whole)),
        Attack::new("a chain of 100,000 nodes, allowed", &chain(100_000), Fate::Runs(whole))
            .within(more),
        Attack::new("9,900 constants of 4 MiB", &makers(9_900, 1 << 20, false), any()),
        Attack::new("9,900 constants of 200 MiB", &makers(9_900, 50 << 20, false), any()),
        Attack::new("9,900 constants of 1 KiB", &makers(9_900, 256, false), any()),
        Attack::new("4,900 branches with constants", &makers(4_900, 1 << 20, true), any()),
        Attack::new("a constant that is read 19,000 times", &readers, any()),
        unread.fed(vec![("x", x)]),
    ]
    .into_iter()
    .map(|attack| match &attack.fate {
        // What is not refused is not all computed either.
        Fate::Harmless(_) => attack.until(1_000),
        _ => attack,
    })
    .collect()
}

/// `depth` graphs, each in a branch of the one around it, `width` in each.
fn nested(depth: usize, width: usize, known: bool) -> ModelProto {
    fn level(depth: usize, width: usize, name: &str) -> GraphProto {
        let result = value(name, DataType::Float, &["1", "4"]);
        if depth == 0 {
            return graph(vec![], vec![result], vec![node("Relu", &["x"], &[name])], vec![]);
        }
        let parts: Vec<String> = (0..width).map(|i| format!("{name}_{i}")).collect();
        let mut nodes: Vec<NodeProto> = parts
            .iter()
            .map(|part| {
                let then = level(depth - 1, width, &format!("{part}t"));
                let other = level(0, width, &format!("{part}e"));
                let branches = vec![body("then_branch", then), body("else_branch", other)];
                node_with("If", &["c"], &[part], branches)
            })
            .collect();
        let all: Vec<&str> = parts.iter().map(String::as_str).collect();
        nodes.push(node("Max", &all, &[name]));
        graph(vec![], vec![result], nodes, vec![])
    }
    let mut outer = level(depth, width, "y");
    outer.input = vec![x()];
    if known {
        outer.initializer = vec![typed(scalar("c", 0), DataType::Bool, vec![1])];
    } else {
        outer.input.push(value("c", DataType::Bool, &[]));
    }
    model(outer)
}

/// Graphs within graphs.
fn nesting() -> Vec<Attack> {
    let truth = || Tensor::new(headland_tensor::DType::Bool, Default::default(), vec![1]).unwrap();
    let x = || f32_tensor(&[1, 4], &[1.0, 2.0, 3.0, 4.0]);
    let whole: fn(&NamedTensors) -> bool =
        |made| made[0].1.to_vec::<f32>().unwrap() == [1.0, 2.0, 3.0, 4.0];
    // Loops within loops, of a million turns each.
    let mut inner = graph(
        vec![
            value("i0", DataType::Int64, &[]),
            value("c0", DataType::Bool, &[]),
            value("s0", DataType::Float, &["1", "4"]),
        ],
        vec![value("d0", DataType::Bool, &[]), value("r0", DataType::Float, &["1", "4"])],
        vec![node("Identity", &["c0"], &["d0"]), node("Relu", &["s0"], &["r0"])],
        vec![],
    );
    for level in 1..=7 {
        let name = |letter: &str| format!("{letter}{level}");
        let turns =
            node_with("Loop", &["turns", "", &name("s")], &[&name("r")], vec![body("body", inner)]);
        inner = graph(
            vec![
                value(&name("i"), DataType::Int64, &[]),
                value(&name("c"), DataType::Bool, &[]),
                value(&name("s"), DataType::Float, &["1", "4"]),
            ],
            vec![
                value(&name("d"), DataType::Bool, &[]),
                value(&name("r"), DataType::Float, &["1", "4"]),
            ],
            vec![node("Identity", &[&name("c")], &[&name("d")]), turns],
            vec![],
        );
    }
    let outer = node_with("Loop", &["turns", "", "x"], &["y"], vec![body("body", inner)]);
    let loops = made_of(vec![outer], vec![scalar("turns", 1_000_000)], 2);
    vec![
        Attack::new("9 graphs deep", &nested(9, 1, true), refused(OVER, &["max_graph_depth"])),
        Attack::new("25 graphs deep", &nested(25, 1, true), refused(OVER, &["max_graph_depth"])),
        Attack::new(
            "60 graphs deep, which no protobuf is",
            &nested(60, 1, true),
            refused(OVER, &["nesting of messages"]),
        ),
        Attack::new("8 graphs deep", &nested(8, 1, true), Fate::Runs(whole)),
        Attack::new("25 graphs deep, allowed", &nested(25, 1, true), Fate::Runs(whole))
            .within(LoadLimits { max_graph_depth: 30, ..LoadLimits::default() }),
        Attack::new("255 branches", &nested(7, 2, true), Fate::Runs(whole)),
        Attack::new(
            "255 branches for a condition to come",
            &nested(7, 2, false),
            Fate::Runs(whole),
        )
        .fed(vec![("x", x()), ("c", truth())]),
        Attack::new("8 loops within each other", &loops, refused(LATE, &[])).until(300),
    ]
}

/// Loops that do not end, or that grow.
fn loops() -> Vec<Attack> {
    // What bodies declare is not looked at.
    let of = |name: &str| ValueInfoProto { name: name.to_owned(), ..Default::default() };
    // A loop over `start`, whose body makes `t` of `s`, and `x` besides.
    let turning = |start: &str, work: Vec<NodeProto>, scans: &[&str]| {
        let mut nodes = vec![node("Identity", &["c"], &["d"])];
        nodes.extend(work);
        let mut outputs = vec![value("d", DataType::Bool, &[]), of("t")];
        outputs.extend(scans.iter().map(|name| of(name)));
        let turn = graph(
            vec![value("i", DataType::Int64, &[]), value("c", DataType::Bool, &[]), of("s")],
            outputs,
            nodes,
            vec![],
        );
        let kept: Vec<String> = (0..scans.len()).map(|i| format!("kept{i}")).collect();
        let mut given = vec!["last"];
        given.extend(kept.iter().map(String::as_str));
        let mut outer = vec![node("SequenceConstruct", &["x"], &["list"])];
        outer.push(node("SequenceConstruct", &["none"], &["empties"]));
        outer.push(node_with("Loop", &["turns", "", start], &given, vec![body("body", turn)]));
        outer.push(node("Relu", &["x"], &["y"]));
        made_of(outer, vec![scalar("turns", i64::MAX), f32s("none", &[0], &[])], 2)
    };
    let small =
        LoadLimits { max_run_bytes: 8 << 20, max_tensor_bytes: 4 << 20, ..LoadLimits::default() };
    let identity = || node("Identity", &["s"], &["t"]);
    let scans: Vec<String> = (0..100).map(|i| format!("k{i}")).collect();
    let scan_names: Vec<&str> = scans.iter().map(String::as_str).collect();
    let mut many = vec![identity()];
    many.extend(scans.iter().map(|name| node("Relu", &["x"], &[name])));
    let endless = turning("x", vec![identity()], &[]);
    let huge = LoadLimits { max_run_bytes: u64::MAX, max_tensor_bytes: u64::MAX, ..small };
    vec![
        Attack::new("a loop of 2^63 turns", &endless, refused(LATE, &[])).until(200),
        Attack::new(
            "a sequence that grows with every turn",
            &turning("list", vec![node("SequenceInsert", &["s", "x"], &["t"])], &[]),
            refused(OVER, &["max_"]),
        )
        .within(LoadLimits { max_run_bytes: 1 << 18, ..small }),
        Attack::new(
            "a sequence that grows by tensors without elements",
            &turning("empties", vec![node("SequenceInsert", &["s", "none"], &["t"])], &[]),
            refused(OVER, &["max_"]),
        )
        .within(LoadLimits { max_run_bytes: 1 << 18, ..small }),
        Attack::new(
            "a tensor that doubles with every turn",
            &turning(
                "x",
                vec![node_with("Concat", &["s", "s"], &["t"], vec![int("axis", 0)])],
                &[],
            ),
            refused(OVER, &["max_"]),
        )
        .within(small),
        Attack::new(
            "a result kept from every turn",
            &turning("x", vec![identity(), node("Relu", &["x"], &["k"])], &["k"]),
            refused(OVER, &["max_"]),
        )
        .within(small),
        Attack::new(
            "100 results kept from every turn",
            &turning("x", many, &scan_names),
            refused(OVER, &["max_run_bytes"]),
        )
        .within(small),
        Attack::new(
            "values within values, one more with every turn",
            &turning("x", vec![node("Optional", &["s"], &["t"])], &[]),
            refused(&["failed"], &["values within values"]),
        )
        .within(huge),
        Attack::new(
            "sequences within sequences, one more with every turn",
            &turning("list", vec![node("SequenceConstruct", &["s", "s"], &["t"])], &[]),
            refused(UNFIT, &[]),
        )
        .within(small),
    ]
}
