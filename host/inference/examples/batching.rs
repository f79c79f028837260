//! Rows a second of a model whose first dimension is a symbol, from many
//! threads: as it is, at most so many at once, and in batches.
//!
//! `cargo run --release -p headland-inference --example batching -- model.onnx`

#![allow(clippy::print_stdout)]

use std::{
    env, error, fs,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use headland_inference::{
    BatchOptions, Batcher, CpuExecutor, Dimension, Executor, Gate, LoadLimits, Model, Parallel,
};
use headland_tensor::{NamedTensors, Shape, Tensor};

/// Threads that each run one row after the other.
const CALLERS: usize = 16;

fn main() -> Result<(), Box<dyn error::Error>> {
    let path = env::args().nth(1).ok_or("which model?")?;
    let onnx = fs::read(path)?;
    let load = || CpuExecutor.load(&onnx, &LoadLimits::default());
    let plain = load()?;
    measure("as it is", &*plain)?;
    measure("as many as cores", &Parallel::new(load()?, Arc::new(Gate::of_cores())))?;
    for max_batch in [4, 8, 16] {
        let options = BatchOptions { max_batch, ..BatchOptions::default() };
        let batched = Batcher::new(load()?, options)?;
        measure(&format!("batches of {max_batch}"), &batched)?;
        println!(
            "    {:.1} rows a batch; {:?}",
            batched.statistics().mean_rows(),
            batched.statistics()
        );
    }
    Ok(())
}

/// Inputs of one row of zeros, with 1 for each size left open.
fn one_row(model: &dyn Model) -> Result<NamedTensors, Box<dyn error::Error>> {
    let inputs = model.info().inputs.iter().map(|input| {
        let size = |dimension: &Dimension| match dimension {
            Dimension::Fixed(size) => *size,
            Dimension::Symbolic(_) => 1,
        };
        let shape = Shape::new(input.shape.iter().map(size).collect::<Vec<_>>())?;
        let bytes = vec![0; shape.element_count() * input.dtype.size_bytes()];
        Ok((input.name.clone(), Tensor::new(input.dtype, shape, bytes)?))
    });
    inputs.collect()
}

/// Print the rows a second, and the longest that one of them took.
fn measure(how: &str, model: &dyn Model) -> Result<(), Box<dyn error::Error>> {
    let inputs = one_row(model)?;
    let (rows, longest) = (AtomicU64::new(0), AtomicU64::new(0));
    let run_for = |time: Duration| {
        let end = Instant::now() + time;
        thread::scope(|scope| {
            for _ in 0..CALLERS {
                scope.spawn(|| {
                    while Instant::now() < end {
                        let start = Instant::now();
                        if model.run(&inputs).is_ok() {
                            rows.fetch_add(1, Ordering::Relaxed);
                        }
                        let took_us = start.elapsed().as_micros() as u64;
                        longest.fetch_max(took_us, Ordering::Relaxed);
                    }
                });
            }
        });
    };
    // Plans are made in the first second, which does not count.
    run_for(Duration::from_secs(1));
    rows.store(0, Ordering::Relaxed);
    longest.store(0, Ordering::Relaxed);
    let start = Instant::now();
    run_for(Duration::from_secs(3));
    let rate = rows.load(Ordering::Relaxed) as f64 / start.elapsed().as_secs_f64();
    let longest_ms = longest.load(Ordering::Relaxed) as f64 / 1e3;
    println!("{how}: {rate:.0} rows a second, the longest in {longest_ms:.1} ms");
    Ok(())
}
