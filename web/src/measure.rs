//! What a frame takes on either side.

use headland_package::{HostPolicy, Package, Verified};
use headland_pipeline::StageOutput;
use headland_tensor::NamedTensors;
use serde::Serialize;

use crate::{
    component::host::LogSink,
    facade::now_ms,
    models::Placement,
    pipeline::{LoadError, LoadOptions, Pipeline},
};

/// Samples on each side; the median counts.
const SAMPLES: usize = 5;

/// A sample lasts at least so long, over as many frames as that takes: a page's
/// clock is coarse.
const SAMPLE_MS: f64 = 5.0;

/// What a frame takes on each side, as the native runtime keeps it for a model.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Measurement {
    /// On the CPU, in microseconds.
    cpu_us: f64,
    /// On the GPU; none where it did not run every frame, or gave other answers.
    gpu_us: Option<f64>,
}

/// Run one frame on both sides, time and again.
///
/// # Errors
/// [`LoadError`] of a side that does not start.
pub async fn both(
    package: &Verified<Package>,
    host: &HostPolicy,
    inputs: &NamedTensors,
    media_type: &str,
) -> Result<Measurement, LoadError> {
    let log: LogSink = std::rc::Rc::new(|_, _, _| {});
    let on = |placement| LoadOptions { placement, monitors: false };
    let mut cpu = Pipeline::load(package, host, &log, on(Placement::Cpu)).await?;
    let expected = cpu.run(inputs.clone(), media_type, 0).await.result;
    let cpu_us = median_us(&mut cpu, inputs, media_type).await;
    let mut gpu = Pipeline::load(package, host, &log, on(Placement::Gpu)).await?;
    // The first frame may still compile shaders.
    drop(gpu.run(inputs.clone(), media_type, 0).await);
    let given = gpu.run(inputs.clone(), media_type, 0).await.result;
    let gpu_us = match (expected, given) {
        (Ok(expected), Ok(given)) if agree(&expected, &given) => {
            median_us(&mut gpu, inputs, media_type).await
        }
        _ => None,
    };
    Ok(Measurement { cpu_us: cpu_us.unwrap_or(f64::MAX), gpu_us })
}

async fn median_us(
    pipeline: &mut Pipeline,
    inputs: &NamedTensors,
    media_type: &str,
) -> Option<f64> {
    let mut samples = Vec::with_capacity(SAMPLES);
    for _ in 0..SAMPLES {
        let (began, mut frames) = (now_ms(), 0);
        while frames == 0 || now_ms() - began < SAMPLE_MS {
            let report = pipeline.run(inputs.clone(), media_type, 0).await;
            // What a fallback served says nothing of the stage that failed.
            if report.result.is_err() || report.has_failure() {
                return None;
            }
            frames += 1;
        }
        samples.push((now_ms() - began) * 1e3 / f64::from(frames));
    }
    samples.sort_by(f64::total_cmp);
    samples.get(SAMPLES / 2).copied()
}

/// Whether two answers are the same within what two devices may differ by: labels
/// alike, and numbers to 1e-2 of the largest.
fn agree(expected: &StageOutput, given: &StageOutput) -> bool {
    let near = |expected: &[f64], given: &[f64]| {
        let finite = expected.iter().filter(|v| v.is_finite());
        let scale = finite.fold(1e-6f64, |m, v| m.max(v.abs()));
        let close = |(e, g): (&f64, &f64)| {
            e == g || (e.is_nan() && g.is_nan()) || (e - g).abs() <= 1e-2 * scale
        };
        expected.len() == given.len() && expected.iter().zip(given).all(close)
    };
    match (expected, given) {
        (StageOutput::Tensors(e), StageOutput::Tensors(g)) => {
            e.len() == g.len()
                && e.iter().zip(g).all(|((_, e), (_, g))| near(&e.to_f64(), &g.to_f64()))
        }
        (StageOutput::Prediction(e), StageOutput::Prediction(g)) => {
            let labels = |p: &headland_tensor::Prediction| {
                let found = p.detections.iter().map(|d| &d.class);
                p.classes.iter().chain(found).map(|c| c.label.clone()).collect::<Vec<_>>()
            };
            let numbers = |p: &headland_tensor::Prediction| {
                let classes = p.classes.iter().map(|c| f64::from(c.score));
                let found = p.detections.iter().flat_map(|d| {
                    [d.x_min, d.y_min, d.x_max, d.y_max, d.class.score].map(f64::from)
                });
                let values = p.values.iter().map(|v| v.value);
                classes.chain(found).chain(values).collect::<Vec<_>>()
            };
            e.alarm == g.alarm && labels(e) == labels(g) && near(&numbers(e), &numbers(g))
        }
        _ => false,
    }
}
