//! What the runtime costs, each figure beside a peer measured in the same run.
//!
//! - `frame`: preprocess, model, postprocess and monitor on one f32 frame of
//!   1x3x224x224, as components in the engine and as the same Rust functions
//!   called natively; `two-memcpys` is what two copies of the frame cost.
//! - `start`: instantiating a stage; opening a verified package whose code is
//!   in the cache.
//! - `verify`: a package of 10 MB, beside SHA-256 over its bytes alone.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, unreachable_pub)]

#[path = "../tests/support/mod.rs"]
mod support;

use std::{hint::black_box, sync::Arc};

use bench_guest::{Histogram, best, normalise};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use headland_engine::{Engine, EngineOptions};
use headland_inference::{CpuExecutor, Executor, LoadLimits};
use headland_package::{Layout, PackageLimits, Role};
use headland_tensor::Tensor;
use sha2::{Digest, Sha256};

const SHAPE: [u32; 4] = [1, 3, 224, 224];

const PIPELINE: &str = r#"
schema = 1
name = "bench"
output = "best"
[[stage]]
id = "normalise"
inputs = ["source"]
component = "normalise"
world = "preprocess"
[[stage]]
id = "pool"
inputs = ["normalise"]
model = "pool"
[[stage]]
id = "best"
inputs = ["pool"]
component = "best"
world = "postprocess"
[[monitor]]
id = "scores"
component = "scores"
batch-rows = 32
window-rows = 1000000
taps = [{ from = "prediction", columns = ["score"] }]
"#;

/// One protobuf field of bytes.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![number << 3 | 2];
    let mut len = bytes.len();
    while len > 127 {
        out.push(len as u8 | 128);
        len >>= 7;
    }
    out.push(len as u8);
    out.extend(bytes);
    out
}

/// One protobuf field of a number below 128.
fn number(field: u8, value: u8) -> Vec<u8> {
    vec![field << 3, value]
}

/// An ONNX model of one GlobalAveragePool from `x` [1,3,224,224] to `y`.
fn pool() -> Arc<[u8]> {
    let dimension = |d: u32| {
        let varint =
            if d < 128 { vec![8, d as u8] } else { vec![8, d as u8 | 128, (d >> 7) as u8] };
        field(1, &varint)
    };
    let value = |name: &str, shape: &[u32]| {
        let dims: Vec<u8> = shape.iter().flat_map(|&d| dimension(d)).collect();
        let tensor = [number(1, 1), field(2, &dims)].concat();
        [field(1, name.as_bytes()), field(2, &field(1, &tensor))].concat()
    };
    let node = [field(1, b"x"), field(2, b"y"), field(4, b"GlobalAveragePool")].concat();
    let graph = [
        field(1, &node),
        field(2, b"pool"),
        field(11, &value("x", &SHAPE)),
        field(12, &value("y", &[1, 3, 1, 1])),
    ]
    .concat();
    [number(1, 8), field(7, &graph), field(8, &number(2, 13))].concat().into()
}

fn layout() -> Layout {
    support::layout(
        PIPELINE,
        &[
            (Role::Component, "normalise", support::guest("bench-guest", "preprocess")),
            (Role::Component, "best", support::guest("bench-guest", "postprocess")),
            (Role::Component, "scores", support::guest("bench-guest", "monitor")),
            (Role::Model, "pool", pool()),
        ],
    )
}

fn frame(c: &mut Criterion) {
    let values: Vec<f32> = (0..SHAPE.iter().product::<u32>()).map(|i| (i % 256) as f32).collect();
    let payload = Tensor::from_elements(&SHAPE, &values).unwrap();
    let mut group = c.benchmark_group("frame");

    let package = layout().verify(&support::policy(), 0).unwrap();
    let host = headland_package::HostPolicy::default();
    let deployment = Arc::new(support::engine().load(&package, &host).unwrap());
    let mut runner = deployment.start().unwrap();
    group.bench_function("components", |b| {
        b.iter(|| {
            let inputs = vec![("payload".to_owned(), payload.clone())];
            runner.run(inputs, "application/x-npy", 0).result.unwrap()
        });
    });

    let model = CpuExecutor.load(&pool(), &LoadLimits::default()).unwrap();
    let mut histogram = Histogram::default();
    group.bench_function("native", |b| {
        b.iter(|| {
            let mut values = payload.to_vec::<f32>().unwrap();
            normalise(&mut values, 1.0 / 255.0, -0.5);
            let x = Tensor::from_elements(&SHAPE, &values).unwrap();
            let y = model.run(&[("x".to_owned(), x)]).unwrap();
            let scores = y[0].1.to_vec::<f32>().unwrap();
            let (index, score) = best(&scores).unwrap();
            histogram.add(f64::from(score));
            (index, score)
        });
    });

    let mut copies = [payload.bytes().to_vec(), payload.bytes().to_vec()];
    group.bench_function("two-memcpys", |b| {
        b.iter(|| {
            for copy in &mut copies {
                black_box(copy.as_mut_slice()).copy_from_slice(black_box(payload.bytes()));
            }
        });
    });
    group.finish();
}

fn start(c: &mut Criterion) {
    let mut group = c.benchmark_group("start");
    let package = layout().verify(&support::policy(), 0).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let options =
        EngineOptions { code_cache: Some(folder.path().to_owned()), ..EngineOptions::default() };
    let engine = Engine::new(options).unwrap();
    let host = headland_package::HostPolicy::default();
    let deployment = Arc::new(engine.load(&package, &host).unwrap());
    group.bench_function("instantiate-and-configure-2-stages-and-a-monitor", |b| {
        b.iter(|| deployment.start().unwrap());
    });
    let probe = deployment.probe_instantiation(0).expect("the first stage is a component");
    group.bench_function("instantiate-a-stage", |b| b.iter(|| probe.instantiate().unwrap()));
    group.bench_function("open-with-warm-cache", |b| {
        b.iter(|| engine.load(&package, &host).unwrap())
    });
    group.finish();
}

fn verify(c: &mut Criterion) {
    let mut group = c.benchmark_group("verify");
    group.sample_size(20);
    let mut state = 1u64;
    let noise: Vec<u8> = (0..10_000_000)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        })
        .collect();
    let noise: Arc<[u8]> = noise.into();
    let layout = support::layout(PIPELINE, &[(Role::Model, "noise", Arc::clone(&noise))]);
    let tar = layout.to_tar_bytes().unwrap();
    let policy = support::policy();
    group.throughput(Throughput::Bytes(noise.len() as u64));
    group.bench_function("read-and-verify-10-MB", |b| {
        b.iter(|| {
            Layout::from_tar(&tar, &PackageLimits::default()).unwrap().verify(&policy, 0).unwrap()
        });
    });
    group.bench_function("verify-10-MB", |b| b.iter(|| layout.verify(&policy, 0).unwrap()));
    group.bench_function("sha256-10-MB", |b| b.iter(|| Sha256::digest(&noise)));
    group.finish();
}

criterion_group!(benches, frame, start, verify);
criterion_main!(benches);
