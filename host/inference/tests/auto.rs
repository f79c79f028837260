//! Choosing between CPU and device by measurement. burn's CPU backend stands for
//! the device.

#![cfg(feature = "gpu")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use headland_inference::{
    AutoExecutor, Executor, LoadLimits, Measurement, Memory, Model, gpu::Device,
};
use support::*;

/// Measurements in a map; `answer` is what it recalls for any key.
#[derive(Default)]
struct Notebook {
    answer: Option<Measurement>,
    kept: Mutex<HashMap<String, Measurement>>,
}

impl Memory for Notebook {
    fn recall(&self, _: &str) -> Option<Measurement> {
        self.answer
    }

    fn keep(&self, key: &str, measurement: Measurement) {
        self.kept.lock().unwrap().insert(key.to_owned(), measurement);
    }
}

fn load(device: bool, notebook: &Arc<Notebook>) -> Arc<dyn Model> {
    let open = move || device.then(|| Device::burn_cpu().unwrap());
    AutoExecutor::new(open)
        .with_memory(Arc::clone(notebook) as Arc<dyn Memory>)
        .load(&bytes(&dense()), &LoadLimits::default())
        .unwrap()
}

/// The answer for the row [0,0,0,1], which is [3.5,5,6.5] wherever it is made.
fn run(model: &dyn Model) {
    let out = model.run(&[named("x", f32_tensor(&[1, 4], &[0., 0., 0., 1.]))]).unwrap();
    assert_eq!(out[0].1.to_vec::<f32>().unwrap(), [3.5, 5., 6.5]);
}

/// Wait for what another thread does.
fn wait_for(what: &str, done: impl Fn() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(60), "{what} does not come");
        thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn what_was_measured_is_kept_by_model_adapter_and_shapes() {
    let notebook = Arc::new(Notebook::default());
    let model = load(true, &notebook);
    run(&*model);
    wait_for("a measurement", || !notebook.kept.lock().unwrap().is_empty());
    let kept = notebook.kept.lock().unwrap().clone();
    let (key, measured) = kept.iter().next().unwrap();
    assert!(key.ends_with(" on burn on the CPU for x[1,4]"), "{key}");
    // The digest of the model, in hexadecimal.
    assert_eq!(key.split(' ').next().unwrap().len(), 64);
    assert!(measured.gpu_us.is_some(), "the device gives the CPU's answer and is timed");
    run(&*model);
}

#[test]
fn the_device_runs_what_it_was_faster_at_and_the_first_run_does_not_wait() {
    let faster = Measurement { cpu_us: 1_000, gpu_us: Some(1) };
    let notebook = Arc::new(Notebook { answer: Some(faster), ..Notebook::default() });
    let model = load(true, &notebook);
    assert_eq!(model.engine().name, "auto: cpu, by tract");
    run(&*model);
    wait_for("the choice", || model.engine().name == "auto: gpu, burn on the CPU");
    run(&*model);
    assert!(model.engine().on_device > 0, "it ran there");
    assert!(notebook.kept.lock().unwrap().is_empty(), "what is known is not measured again");
}

#[test]
fn the_cpu_keeps_what_the_device_was_slower_at_or_got_wrong() {
    for gpu_us in [Some(2_000), None] {
        let slower = Measurement { cpu_us: 1_000, gpu_us };
        assert!(!slower.prefers_gpu());
        let notebook = Arc::new(Notebook { answer: Some(slower), ..Notebook::default() });
        let model = load(true, &notebook);
        for _ in 0..5 {
            run(&*model);
            thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(model.engine().name, "auto: cpu, by tract");
    }
}

#[test]
fn without_a_device_nothing_is_measured() {
    let notebook = Arc::new(Notebook::default());
    let model = load(false, &notebook);
    for _ in 0..5 {
        run(&*model);
        thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(model.engine().name, "auto: cpu, by tract");
    assert!(notebook.kept.lock().unwrap().is_empty());
}
