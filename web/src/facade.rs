//! What the worker's JavaScript talks to.

use std::{
    cell::RefCell,
    ops::{Deref, DerefMut},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use headland_inference::{
    CpuExecutor, Executor, InferenceError, LoadLimits, ModelInfo,
    case::{self, DataSet, Outcome, Tolerance},
};
use headland_package::{Layout, Package, PackageLimits, TrustPolicy, Verified};
use headland_pipeline::{DropReason, StageOutput};
use headland_tensor::{DType, NamedTensors, Shape, Tensor};
use js_sys::{Array, Promise, Reflect, Uint8Array};
use serde::Serialize;
use serde_json::json;
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::future_to_promise;

use crate::{
    component::host::LogSink,
    measure,
    models::{Placement, StageModel},
    monitor::MonitorReport,
    pipeline::{FrameReport, LoadError, LoadOptions, Pipeline as Inner},
};

#[wasm_bindgen(inline_js = "
export function now() { return performance.now(); }
export function log(stage, level, text) { self.headlandLog?.(stage, level, text); }
export function sleep(ms) { return new Promise((resolve) => setTimeout(resolve, ms)); }
export function device_lost(reason) { self.headlandDeviceLost?.(reason); }
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
    /// Resolves after so many milliseconds.
    #[cfg_attr(not(feature = "gpu"), allow(dead_code))]
    pub fn sleep(ms: f64) -> Promise;
    /// Tell the page that the adapter is lost.
    #[cfg_attr(not(feature = "gpu"), allow(dead_code))]
    pub fn device_lost(reason: &str);
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

/// What comes of a future: at once where it waits for nothing, as on the CPU, and
/// else a promise of it.
fn now_or_promise(
    future: impl Future<Output = Result<JsValue, JsValue>> + 'static,
) -> Result<JsValue, JsValue> {
    let mut future: Pin<Box<dyn Future<Output = Result<JsValue, JsValue>>>> = Box::pin(future);
    match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(made) => made,
        Poll::Pending => Ok(future_to_promise(future).into()),
    }
}

fn inference_error(e: &InferenceError) -> JsValue {
    headland_error(e.code(), &e.to_string(), "")
}

fn load_error(e: &LoadError) -> JsValue {
    headland_error(e.code(), &chain(e), e.hint())
}

/// Open the browser's adapter, before anything is put on it; `name` is what the
/// page calls it.
#[cfg(feature = "gpu")]
#[wasm_bindgen(js_name = openGpu)]
pub async fn open_gpu(name: String) -> Result<(), JsValue> {
    // Panics are rare and end the worker: say what they were.
    std::panic::set_hook(Box::new(|info| log("runtime", "error", &info.to_string())));
    crate::gpu::open(name).await.map_err(|e| {
        let hint = "another tab may hold it, or its driver was reset: run on the CPU, or try later";
        headland_error("no-adapter", &format!("the adapter does not open: {e}"), hint)
    })
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

    /// Verify a package (a tar file) and start it: a [`Pipeline`], or a promise of
    /// one. `placement` says which models go to the GPU: `cpu` none, `pinned` those
    /// whose stage asks for it, `gpu` those whose stage leaves it open, too.
    pub fn load(&self, tar: &[u8], now_unix_s: f64, placement: &str) -> Result<JsValue, JsValue> {
        let package = self.verify(tar, now_unix_s)?;
        let placement = Placement::named(placement).ok_or_else(|| {
            headland_error("internal", &format!("{placement:?} is no placement"), "")
        })?;
        let (host, log) = (self.policy.host().clone(), Rc::clone(&self.log));
        now_or_promise(async move {
            let options = LoadOptions { placement, monitors: true };
            let inner = Inner::load(&package, &host, &log, options).await;
            let inner = Box::new(inner.map_err(|e| load_error(&e))?);
            let signers = package.signers().iter().map(ToString::to_string).collect();
            Ok(Pipeline { home: Rc::new(RefCell::new(Some(inner))), signers }.into())
        })
    }

    /// What a frame of a package takes on the CPU and on the GPU, by instances of
    /// their own that no monitor watches: a promise of `{ cpu_us, gpu_us }`, where
    /// `gpu_us` is null if the GPU does not run it or gives another answer.
    pub fn measure(
        &self,
        tar: &[u8],
        now_unix_s: f64,
        inputs: &Array,
        media_type: String,
    ) -> Result<JsValue, JsValue> {
        let (package, host) = (self.verify(tar, now_unix_s)?, self.policy.host().clone());
        let inputs = tensors(inputs)?;
        now_or_promise(async move {
            let measured = measure::both(&package, &host, &inputs, &media_type).await;
            js(&measured.map_err(|e| load_error(&e))?)
        })
    }

    fn verify(&self, tar: &[u8], now_unix_s: f64) -> Result<Verified<Package>, JsValue> {
        let layout = Layout::from_tar(tar, &PackageLimits::default()).map_err(|e| {
            headland_error(e.code(), &format!("package refused: {}", chain(&e)), e.hint())
        })?;
        layout.verify(&self.policy, now_unix_s as u64).map_err(|e| {
            headland_error(e.code(), &format!("package refused: {}", chain(&e)), e.hint())
        })
    }
}

/// A package that runs.
#[wasm_bindgen]
pub struct Pipeline {
    /// Empty while a call that waits for the GPU has it.
    home: Rc<RefCell<Option<Box<Inner>>>>,
    signers: Vec<String>,
}

/// A pipeline while a call has it, which comes back when the call is over.
struct Taken {
    inner: Option<Box<Inner>>,
    home: Rc<RefCell<Option<Box<Inner>>>>,
}

impl Deref for Taken {
    type Target = Inner;

    #[allow(clippy::expect_used)]
    fn deref(&self) -> &Inner {
        self.inner.as_deref().expect("there until it is dropped")
    }
}

impl DerefMut for Taken {
    #[allow(clippy::expect_used)]
    fn deref_mut(&mut self) -> &mut Inner {
        self.inner.as_deref_mut().expect("there until it is dropped")
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        *self.home.borrow_mut() = self.inner.take();
    }
}

impl Pipeline {
    fn take(&self) -> Result<Taken, JsValue> {
        let inner = self.home.borrow_mut().take();
        if inner.is_none() {
            let message = "the pipeline is in another call, which waits for the GPU";
            return Err(headland_error("busy", message, "wait for the call's promise"));
        }
        Ok(Taken { inner, home: Rc::clone(&self.home) })
    }
}

#[wasm_bindgen]
impl Pipeline {
    /// What it is.
    pub fn info(&self) -> Result<JsValue, JsValue> {
        let inner = self.take()?;
        let spec = inner.spec();
        js(&json!({
            "name": inner.info.name,
            "version": inner.info.version,
            "release": inner.info.release,
            "digest": inner.digest,
            "signers": self.signers,
            "stages": inner.stages,
            "gpu": inner.gpu,
            "monitors": spec.monitor.iter().map(|m| &m.id).collect::<Vec<_>>(),
            "media_types": spec.source.as_ref().map(|s| &s.media_types),
            "deadline_ms": spec.deadline_ms,
        }))
    }

    /// Number the next frame so: another worker had the ones before.
    #[wasm_bindgen(js_name = continueAt)]
    pub fn continue_at(&self, frame: f64) -> Result<(), JsValue> {
        self.take()?.continue_at(frame as u64);
        Ok(())
    }

    /// Run one frame: its report, or a promise of it.
    pub fn run(
        &self,
        inputs: &Array,
        media_type: String,
        captured_at_ns: u64,
    ) -> Result<JsValue, JsValue> {
        let inputs = tensors(inputs)?;
        let mut inner = self.take()?;
        now_or_promise(async move { report(inner.run(inputs, &media_type, captured_at_ns).await) })
    }

    /// Shadows and monitors see everything so far; a promise where they wait.
    pub fn settle(&self) -> Result<JsValue, JsValue> {
        let mut inner = self.take()?;
        now_or_promise(async move {
            inner.settle().await;
            Ok(JsValue::UNDEFINED)
        })
    }

    /// Settle, then end every monitor's window.
    #[wasm_bindgen(js_name = closeWindows)]
    pub fn close_windows(&self) -> Result<JsValue, JsValue> {
        let mut inner = self.take()?;
        now_or_promise(async move {
            inner.close_windows().await;
            Ok(JsValue::UNDEFINED)
        })
    }

    /// Call a monitor no more: a worker had to be ended for it.
    #[wasm_bindgen(js_name = disableMonitor)]
    pub fn disable_monitor(&self, id: &str) -> Result<(), JsValue> {
        self.take()?.disable_monitor(id);
        Ok(())
    }

    /// What the monitors reported since the last time.
    #[wasm_bindgen(js_name = takeReports)]
    pub fn take_reports(&self) -> Result<Array, JsValue> {
        self.take()?
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
        js(self.take()?.stats())
    }
}

fn tensors(inputs: &Array) -> Result<NamedTensors, JsValue> {
    inputs.iter().map(|input| tensor(&input)).collect()
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
    let FrameReport { frame, result, stages, copies, duration_ns, has_lost_gpu } = report;
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
        "duration_ns": duration_ns, "has_lost_gpu": has_lost_gpu,
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
    model: StageModel,
}

#[wasm_bindgen]
impl OnnxModel {
    /// Load a model on the CPU.
    #[wasm_bindgen(constructor)]
    pub fn new(onnx: &[u8]) -> Result<OnnxModel, JsValue> {
        let model = CpuExecutor.load(onnx, &LoadLimits::default());
        Ok(Self { model: StageModel::Cpu(model.map_err(|e| inference_error(&e))?) })
    }

    /// Load a model on the GPU that [`open_gpu`] opened.
    #[cfg(feature = "gpu")]
    #[wasm_bindgen(js_name = onGpu)]
    pub async fn on_gpu(onnx: Vec<u8>) -> Result<OnnxModel, JsValue> {
        let model = crate::gpu::OnGpu::load(&onnx).await;
        Ok(Self { model: StageModel::Gpu(model.map_err(|e| inference_error(&e))?) })
    }

    /// What it takes and gives.
    pub fn info(&self) -> Result<JsValue, JsValue> {
        let info: &ModelInfo = match &self.model {
            StageModel::Cpu(model) => model.info(),
            StageModel::Gpu(model) => model.info(),
        };
        js(info)
    }

    /// Run it once; inputs and outputs are `{ name, dtype, shape, data }`. On the
    /// GPU, a promise of the outputs.
    pub fn run(&self, inputs: &Array) -> Result<JsValue, JsValue> {
        let (inputs, model) = (tensors(inputs)?, self.model.clone());
        now_or_promise(async move {
            let outputs = match model {
                StageModel::Cpu(model) => model.run(&inputs),
                StageModel::Gpu(model) => model.run(&inputs).await,
            };
            let outputs = outputs.map_err(|e| inference_error(&e))?.into_iter();
            let outputs = outputs.map(|(name, tensor)| tensor_js(&name, &tensor));
            Ok(outputs.collect::<Result<Array, JsValue>>()?.into())
        })
    }
}
