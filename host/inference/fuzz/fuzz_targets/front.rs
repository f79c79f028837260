//! Any bytes as a model: refused with a reason, or read and run to an end by the
//! interpreter.

#![no_main]

use std::time::{Duration, Instant};

use headland_inference::{Dimension, Executor, InferenceError, InterpretingExecutor, LoadLimits};
use headland_tensor::{Shape, Tensor};
use libfuzzer_sys::fuzz_target;

/// Small, so that what takes long or takes much is a finding.
const LIMITS: LoadLimits = LoadLimits {
    max_model_bytes: 1 << 20,
    max_messages: 20_000,
    max_nodes: 2_000,
    max_graph_depth: 8,
    max_initializer_bytes: 1 << 20,
    max_tensor_bytes: 1 << 20,
    max_run_bytes: 8 << 20,
    max_plans: 1,
};

fuzz_target!(|onnx: &[u8]| {
    if let Err(e) = run(onnx) {
        // A panic ends the process here, also one that would be caught.
        assert!(!e.to_string().is_empty());
    }
});

fn run(onnx: &[u8]) -> Result<(), InferenceError> {
    let model = InterpretingExecutor.load(onnx, &LIMITS)?;
    let mut inputs = Vec::new();
    for input in &model.info().inputs {
        let sizes = input.shape.iter().map(|dimension| match dimension {
            Dimension::Fixed(size) => *size,
            Dimension::Symbolic(_) => 2,
        });
        let shape = Shape::new(sizes.collect::<Vec<_>>())?;
        let bytes = shape.element_count().saturating_mul(input.dtype.size_bytes());
        if bytes > 1 << 16 {
            return Ok(());
        }
        inputs.push((input.name.clone(), Tensor::new(input.dtype, shape, vec![1; bytes])?));
    }
    model.run_until(&inputs, Some(Instant::now() + Duration::from_secs(1))).map(drop)
}
