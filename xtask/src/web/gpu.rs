//! What the browser suite's tests of the GPU tier are fed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{package, variant};
use crate::{
    bench,
    examples::Trust,
    process::{run, step},
    workspace::{Workspace, array},
};

/// Packages that ask for the GPU in different ways, and models with what the native
/// CPU makes of them.
pub(super) fn fixtures(workspace: &Workspace, trust: &Trust, fixtures: &Path) -> Result<()> {
    packages(workspace, trust, &fixtures.join("gpu"))?;
    step("running models natively, for the browser to agree with", || {
        answers(workspace, &fixtures.join("models"))
    })
}

/// Pin the models of stages that name one to the GPU.
fn pinned(pipeline: &str) -> String {
    let mut is_stage = false;
    each_line(pipeline, |line| {
        if line.starts_with('[') {
            is_stage = line == "[[stage]]";
        }
        match is_stage && line.starts_with("model = ") {
            true => format!("{line}\ndevice = \"gpu\"\n"),
            false => format!("{line}\n"),
        }
    })
}

/// The time that a GPU in software takes.
fn unhurried(pipeline: &str) -> String {
    each_line(pipeline, |line| {
        if line.starts_with("deadline-ms") {
            String::new()
        } else if line.starts_with("time-ms") {
            "time-ms = 60000\n".to_owned()
        } else {
            format!("{line}\n")
        }
    })
}

fn each_line(text: &str, change: impl FnMut(&str) -> String) -> String {
    text.lines().map(change).collect()
}

fn packages(workspace: &Workspace, trust: &Trust, folder: &Path) -> Result<()> {
    let sources = workspace.fresh_folder("web-gpu-packages")?;
    fs::create_dir_all(folder)?;
    let make = |example: &str, name: &str, change: &dyn Fn(&str) -> String| -> Result<()> {
        let source = variant(workspace, &sources.join(name), example, change)?;
        package(workspace, trust, &source, &folder.join(name).with_extension("tar"))
    };
    for example in ["vision-digits", "telemetry-shuttle"] {
        make(example, example, &unhurried)?;
    }
    make("vision-digits", "pinned", &|text| pinned(&unhurried(text)))?;
    // The picture is read in time; the network is on a GPU that takes half a second.
    make("vision-digits", "hurried", &|text| {
        let limits = "inputs = [\"image\"]\n\n[stage.limits]\ntime-ms = ";
        unhurried(text).replace(&format!("{limits}60000"), &format!("{limits}50"))
    })?;
    // Its network has a fallback on the CPU.
    make("telemetry-shuttle", "pinned-fallback", &|text| pinned(&unhurried(text)))?;
    // Three models in a row: the logits, negated twice.
    let source = variant(workspace, &sources.join("chain"), "vision-digits", &|text| {
        let negate = |id: &str, model: &str, input: &str| {
            format!(
                "[[stage]]\nid = \"{id}\"\nmodel = \"{model}\"\ninputs = [\"{input}\"]\n\
                 limits.time-ms = 60000\n\n"
            )
        };
        let more = negate("negate", "negate", "network") + &negate("again", "again", "negate");
        let text = unhurried(text).replace("inputs = [\"network\"]", "inputs = [\"again\"]");
        text.replace("[[stage]]\nid = \"classify\"", &format!("{more}[[stage]]\nid = \"classify\""))
    })?;
    for (name, input, output) in [("negate", "logits", "negated"), ("again", "negated", "logits")] {
        fs::write(source.join(format!("models/{name}.onnx")), negation(input, output))?;
        let path = source.join("package.toml");
        let entry = format!(
            "\n[[entry]]\nrole = \"model\"\nname = \"{name}\"\npath = \"models/{name}.onnx\"\n"
        );
        fs::write(&path, fs::read_to_string(&path)? + &entry)?;
    }
    package(workspace, trust, &source, &folder.join("chain.tar"))
}

/// An ONNX model of one node: `output = -input`, f32 [batch,10].
///
/// # Source
/// <https://github.com/onnx/onnx/blob/main/onnx/onnx.proto>
fn negation(input: &str, output: &str) -> Vec<u8> {
    const FLOAT: u64 = 1;
    let dims = [field(1, &field(2, b"batch")), field(1, &number(1, 10))].concat();
    let tensor = [number(1, FLOAT), field(2, &dims)].concat();
    let value = |name: &str| [field(1, name.as_bytes()), field(2, &field(1, &tensor))].concat();
    let node = [field(1, input.as_bytes()), field(2, output.as_bytes()), field(4, b"Neg")].concat();
    let graph = [
        field(1, &node),
        field(2, b"negation"),
        field(11, &value(input)),
        field(12, &value(output)),
    ];
    let opset = number(2, 17);
    [number(1, 8), field(7, &graph.concat()), field(8, &opset)].concat()
}

/// A length-delimited field of protobuf; short ones alone.
fn field(tag: u8, bytes: &[u8]) -> Vec<u8> {
    let len = u8::try_from(bytes.len()).unwrap_or(u8::MAX);
    let len = if len < 0x80 { vec![len] } else { vec![len | 0x80, (bytes.len() >> 7) as u8] };
    [&[tag << 3 | 2], &len[..], bytes].concat()
}

/// A number of protobuf, below 128.
fn number(tag: u8, value: u64) -> Vec<u8> {
    vec![tag << 3, value as u8]
}

/// Run each model on the CPU; a folder a model with `model.onnx`, its inputs and
/// outputs as .npy files, and `case.json`, which names them.
fn answers(workspace: &Workspace, folder: &Path) -> Result<()> {
    let mut names = Vec::new();
    for model in bench::models(workspace)? {
        let name = model.file_stem().context("a model has a name")?.to_string_lossy().into_owned();
        answer(workspace, &model, &folder.join(&name))?;
        names.push(name);
    }
    fs::write(folder.join("index.json"), serde_json::to_vec(&names)?)?;
    Ok(())
}

fn answer(workspace: &Workspace, model: &Path, folder: &PathBuf) -> Result<()> {
    fs::create_dir_all(folder)?;
    fs::copy(model, folder.join("model.onnx"))?;
    let headland = || Command::new(workspace.headland());
    let info = run(headland().args(["onnx", "inspect", "--json"]).arg(model))?;
    let info: Value = serde_json::from_str(&info)?;
    let mut command = headland();
    command.args(["onnx", "run", "--device", "cpu"]).arg(model);
    command.arg("--output-dir").arg(folder.join("outputs"));
    let mut inputs = Vec::new();
    for (index, input) in array(&info["inputs"]).iter().enumerate() {
        let name = input["name"].as_str().context("an input has a name")?;
        let mut shape: Vec<u64> =
            array(&input["shape"]).iter().map(|size| size.as_u64().unwrap_or(1)).collect();
        // The one model that leaves more open takes chunks of 512 samples.
        if name == "input" && shape == [1, 1] {
            shape[1] = 512;
        }
        let file = folder.join(format!("input-{index}.npy"));
        fs::write(&file, npy(input["dtype"].as_str().unwrap_or_default(), &shape)?)?;
        command.arg("--input").arg(format!("{name}={}", file.display()));
        inputs.push(json!({ "name": name, "file": format!("input-{index}.npy") }));
    }
    run(&mut command)?;
    let outputs: Vec<Value> = array(&info["outputs"])
        .iter()
        .filter_map(|output| output["name"].as_str())
        .map(|name| json!({ "name": name, "file": format!("outputs/{}.npy", name.replace('/', "_")) }))
        .collect();
    // Quantised inside, whatever its interface says.
    let is_quantised = info["operators"].get("DequantizeLinear").is_some();
    let case = json!({ "inputs": inputs, "outputs": outputs, "quantised": is_quantised });
    fs::write(folder.join("case.json"), serde_json::to_vec(&case)?)?;
    Ok(())
}

/// A sine over the elements, or a sample rate for the one input of whole numbers.
///
/// # Source
/// <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>
fn npy(dtype: &str, shape: &[u64]) -> Result<Vec<u8>> {
    let count = shape.iter().product::<u64>();
    let (descr, data): (&str, Vec<u8>) = match dtype {
        "f32" => {
            let sine = (0..count).map(|i| (i as f32 * 0.37).sin());
            ("<f4", sine.flat_map(f32::to_le_bytes).collect())
        }
        "i64" => ("<i8", (0..count).flat_map(|_| 16000i64.to_le_bytes()).collect()),
        other => anyhow::bail!("no numbers of {other}"),
    };
    let sizes: String = shape.iter().map(|size| format!("{size}, ")).collect();
    let mut header =
        format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({sizes}), }}");
    // Magic, version, length and header fill up blocks of 64 bytes.
    while !(10 + header.len() + 1).is_multiple_of(64) {
        header.push(' ');
    }
    header.push('\n');
    let len = u16::try_from(header.len())?.to_le_bytes();
    Ok([b"\x93NUMPY\x01\x00", &len[..], header.as_bytes(), &data].concat())
}
