//! What the worker's JavaScript talks to.

use std::{rc::Rc, sync::Arc};

use headland_inference::{
    CpuExecutor, Executor, LoadLimits, Model,
    case::{self, DataSet, Outcome, Tolerance},
};
use headland_package::{Layout, PackageLimits, TrustPolicy};
use headland_pipeline::{DropReason, StageOutput};
use headland_tensor::{DType, NamedTensors, Shape, Tensor};
use js_sys::{Array, Reflect, Uint8Array};
use serde::Serialize;
use serde_json::json;
use wasm_bindgen::prelude::*;

use crate::{
    component::host::LogSink,
    monitor::MonitorReport,
    pipeline::{FrameReport, Pipeline as Inner},
};

#[wasm_bindgen(inline_js = "
export function now() { return performance.now(); }
export function log(stage, level, text) { self.headlandLog?.(stage, level, text); }
export function headland_error(code, message, hint) {
    const e = new Error(message);
    e.name = 'HeadlandError';
    e.code = code;
    if (hint) e.hint = hint;
    return e;
}
")]
extern "C" {
    fn now() -> f64;
    fn log(stage: &str, level: &str, text: &str);
    fn headland_error(code: &str, message: &str, hint: &str) -> JsValue;
}

/// Milliseconds of the page's monotonic clock.
pub fn now_ms() -> f64 {
    now()
}

const LEVELS: [&str; 4] = ["debug", "info", "warn", "error"];

/// An error with all that is behind it, on one line.
fn chain(e: &dyn std::error::Error) -> String {
    let mut text = e.to_string();
    let mut source = e.source();
    while let Some(e) = source {
        let next = e.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        source = e.source();
    }
    text
}

/// JSON as a JavaScript value.
fn js(value: &impl Serialize) -> Result<JsValue, JsValue> {
    let text =
        serde_json::to_string(value).map_err(|e| headland_error("internal", &e.to_string(), ""))?;
    js_sys::JSON::parse(&text)
}

fn set(object: &JsValue, key: &str, value: &JsValue) -> Result<(), JsValue> {
    Reflect::set(object, &key.into(), value).map(drop)
}

/// What this page trusts.
#[wasm_bindgen]
pub struct Runtime {
    policy: TrustPolicy,
    log: LogSink,
}

#[wasm_bindgen]
impl Runtime {
    /// Trust what a policy (TOML) says.
    #[wasm_bindgen(constructor)]
    pub fn new(trust: &str) -> Result<Runtime, JsValue> {
        let policy = TrustPolicy::from_toml(trust).map_err(|e| {
            let hint = "the page serves it; check it with `headland trust show`";
            headland_error("bad-policy", &format!("trust policy: {}", chain(&e)), hint)
        })?;
        let log: LogSink = Rc::new(|stage, level, text| {
            log(stage, LEVELS.get(level as usize).copied().unwrap_or("info"), text);
        });
        Ok(Self { policy, log })
    }

    /// Verify a package (a tar file) and start it.
    pub fn load(&self, tar: &[u8], now_unix_s: f64) -> Result<Pipeline, JsValue> {
        let layout = Layout::from_tar(tar, &PackageLimits::default()).map_err(|e| {
            headland_error(e.code(), &format!("package refused: {}", chain(&e)), e.hint())
        })?;
        let package = layout.verify(&self.policy, now_unix_s as u64).map_err(|e| {
            headland_error(e.code(), &format!("package refused: {}", chain(&e)), e.hint())
        })?;
        let inner = Inner::load(&package, self.policy.host(), &self.log)
            .map_err(|e| headland_error(e.code(), &chain(&e), ""))?;
        let signers = package.signers().iter().map(ToString::to_string).collect();
        Ok(Pipeline { inner, signers })
    }
}

/// A package that runs.
#[wasm_bindgen]
pub struct Pipeline {
    inner: Inner,
    signers: Vec<String>,
}

#[wasm_bindgen]
impl Pipeline {
    /// What it is.
    pub fn info(&self) -> Result<JsValue, JsValue> {
        let (inner, spec) = (&self.inner, self.inner.spec());
        js(&json!({
            "name": inner.info.name,
            "version": inner.info.version,
            "release": inner.info.release,
            "digest": inner.digest,
            "signers": self.signers,
            "stages": inner.stages,
            "monitors": spec.monitor.iter().map(|m| &m.id).collect::<Vec<_>>(),
            "media_types": spec.source.as_ref().map(|s| &s.media_types),
            "deadline_ms": spec.deadline_ms,
        }))
    }

    /// Run one frame.
    pub fn run(
        &mut self,
        inputs: &Array,
        media_type: &str,
        captured_at_ns: u64,
    ) -> Result<JsValue, JsValue> {
        let inputs: NamedTensors =
            inputs.iter().map(|input| tensor(&input)).collect::<Result<_, _>>()?;
        report(self.inner.run(inputs, media_type, captured_at_ns))
    }

    /// Shadows and monitors see everything so far.
    pub fn settle(&mut self) {
        self.inner.settle();
    }

    /// Settle, then end every monitor's window.
    #[wasm_bindgen(js_name = closeWindows)]
    pub fn close_windows(&mut self) {
        self.inner.close_windows();
    }

    /// Call a monitor no more: a worker had to be ended for it.
    #[wasm_bindgen(js_name = disableMonitor)]
    pub fn disable_monitor(&mut self, id: &str) {
        self.inner.disable_monitor(id);
    }

    /// What the monitors reported since the last time.
    #[wasm_bindgen(js_name = takeReports)]
    pub fn take_reports(&mut self) -> Result<Array, JsValue> {
        self.inner
            .take_reports()
            .iter()
            .map(|report| {
                let value = js(report)?;
                if let MonitorReport::Window { summary, .. } = report {
                    set(&value, "summary", &Uint8Array::from(&summary[..]))?;
                }
                Ok(value)
            })
            .collect()
    }

    /// Frames and calls so far.
    pub fn stats(&self) -> Result<JsValue, JsValue> {
        js(self.inner.stats())
    }
}

/// An input as the page gives it: `{ name, dtype, shape, data }`.
fn tensor(input: &JsValue) -> Result<(String, Tensor), JsValue> {
    let bad = |what: &str| {
        headland_error("bad-input", what, "an input is { name, dtype, shape, data: Uint8Array }")
    };
    let get = |key: &str| Reflect::get(input, &key.into()).unwrap_or(JsValue::UNDEFINED);
    let name = get("name").as_string().ok_or_else(|| bad("an input has no name"))?;
    let dtype = get("dtype").as_string().unwrap_or_default();
    let dtype: DType =
        dtype.parse().map_err(|_| bad(&format!("input {name:?}: {dtype:?} is no dtype")))?;
    let shape: Vec<u32> = Array::from(&get("shape"))
        .iter()
        .map(|d| match d.as_f64() {
            Some(n) if n >= 0.0 && n <= f64::from(u32::MAX) && n.fract() == 0.0 => Ok(n as u32),
            _ => Err(bad(&format!("input {name:?}: its shape is no list of sizes"))),
        })
        .collect::<Result<_, _>>()?;
    let data: Uint8Array = get("data")
        .dyn_into()
        .map_err(|_| bad(&format!("input {name:?}: its data is no Uint8Array")))?;
    let made = Shape::new(shape).and_then(|shape| Tensor::new(dtype, shape, data.to_vec()));
    made.map(|tensor| (name.clone(), tensor)).map_err(|e| bad(&format!("input {name:?}: {e}")))
}

/// The same for what comes out.
fn tensor_js(name: &str, tensor: &Tensor) -> Result<JsValue, JsValue> {
    let (dtype, shape) = (tensor.dtype().name(), tensor.shape().dims());
    let value = js(&json!({ "name": name, "dtype": dtype, "shape": shape }))?;
    set(&value, "data", &Uint8Array::from(tensor.bytes()))?;
    Ok(value)
}

fn report(report: FrameReport) -> Result<JsValue, JsValue> {
    let FrameReport { frame, result, stages, copies, duration_ns } = report;
    let (result, tensors) = match result {
        Ok(StageOutput::Prediction(p)) => (
            json!({ "prediction": {
                "classes": p.classes, "detections": p.detections, "values": p.values,
                "alarm": p.alarm,
            }}),
            None,
        ),
        Ok(StageOutput::Tensors(tensors)) => (json!({}), Some(tensors)),
        Err(reason) => (dropped(&reason), None),
    };
    let value = js(&json!({
        "frame": frame, "result": result, "stages": stages, "copies": copies,
        "duration_ns": duration_ns,
    }))?;
    if let Some(tensors) = tensors {
        let list = Array::new();
        for (name, tensor) in tensors {
            list.push(&tensor_js(&name, &tensor)?);
        }
        set(&Reflect::get(&value, &"result".into())?, "tensors", &list)?;
    }
    Ok(value)
}

fn dropped(reason: &DropReason) -> serde_json::Value {
    json!({ "dropped": { "code": reason.code(), "message": reason.to_string() } })
}

/// A case of a conformance suite in ONNX's backend-test layout: `sets` are
/// `{ inputs: [Uint8Array], outputs: [Uint8Array] }` in the model's order. Gives
/// `PASS`, or `UNSUPPORTED` or `FAIL` with a reason after a blank.
#[wasm_bindgen(js_name = onnxCase)]
pub fn onnx_case(onnx: &[u8], sets: &Array, rtol: f64, atol: f64) -> String {
    let files = |set: &JsValue, key: &str| -> Vec<Vec<u8>> {
        let list = Reflect::get(set, &key.into()).unwrap_or(JsValue::UNDEFINED);
        Array::from(&list).iter().map(|file| Uint8Array::new(&file).to_vec()).collect()
    };
    let sets: Vec<DataSet> = sets
        .iter()
        .map(|set| DataSet { inputs: files(&set, "inputs"), outputs: files(&set, "outputs") })
        .collect();
    let (limits, tolerance) = (LoadLimits::default(), Tolerance { rtol, atol });
    match case::check(&CpuExecutor, onnx, &sets, &limits, tolerance) {
        Outcome::Pass(_) => "PASS".to_owned(),
        Outcome::Unsupported(reason) => format!("UNSUPPORTED {reason}"),
        Outcome::Fail(reason) => format!("FAIL {reason}"),
    }
}

/// An ONNX model by itself, for those who check and measure the runtime.
#[wasm_bindgen]
pub struct OnnxModel {
    model: Arc<dyn Model>,
}

#[wasm_bindgen]
impl OnnxModel {
    /// Load a model.
    #[wasm_bindgen(constructor)]
    pub fn new(onnx: &[u8]) -> Result<OnnxModel, JsValue> {
        let model = CpuExecutor
            .load(onnx, &LoadLimits::default())
            .map_err(|e| headland_error(e.code(), &e.to_string(), ""))?;
        Ok(Self { model })
    }

    /// What it takes and gives.
    pub fn info(&self) -> Result<JsValue, JsValue> {
        js(self.model.info())
    }

    /// Run it once; inputs and outputs are `{ name, dtype, shape, data }`.
    pub fn run(&self, inputs: &Array) -> Result<Array, JsValue> {
        let inputs: NamedTensors =
            inputs.iter().map(|input| tensor(&input)).collect::<Result<_, _>>()?;
        let outputs =
            self.model.run(&inputs).map_err(|e| headland_error(e.code(), &e.to_string(), ""))?;
        outputs.into_iter().map(|(name, tensor)| tensor_js(&name, &tensor)).collect()
    }
}
