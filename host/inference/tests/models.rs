//! Real models give ONNX Runtime's answers, and the accuracy they are known for.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use headland_inference::{CpuExecutor, Executor, LoadLimits};
use headland_tensor::{DType, Tensor};
use support::{f32_tensor, read_npy, shared};

/// One classifier, the samples it reads, and how many of twelve it gets right.
struct Classifier {
    model: &'static str,
    samples: &'static str,
    labels: &'static str,
    /// Samples are u8 [12,32,32,3]; the model may want them channels first.
    channels_first: bool,
    correct: usize,
}

/// The counts are ONNX Runtime's own on these samples; over the whole sets both
/// image models score 24 of 25 and the keyword model 22 of 25.
const CLASSIFIERS: [Classifier; 3] = [
    Classifier {
        model: "tiny-ic-resnet-f32",
        samples: "ic_images_u8.npy",
        labels: "ic_labels_i64.npy",
        channels_first: true,
        correct: 11,
    },
    Classifier {
        model: "tiny-ic-resnet-int8",
        samples: "ic_images_u8.npy",
        labels: "ic_labels_i64.npy",
        channels_first: false,
        correct: 11,
    },
    Classifier {
        model: "tiny-kws-dscnn-int8",
        samples: "kws_mfcc_f32.npy",
        labels: "kws_labels_i64.npy",
        channels_first: false,
        correct: 11,
    },
];

/// The samples one by one, as f32.
fn rows(tensor: &Tensor) -> Vec<Vec<f32>> {
    let count = tensor.shape().dims()[0] as usize;
    let values: Vec<f32> = match tensor.dtype() {
        DType::U8 => tensor.to_vec::<u8>().unwrap().into_iter().map(f32::from).collect(),
        _ => tensor.to_vec().unwrap(),
    };
    values.chunks_exact(values.len() / count).map(<[f32]>::to_vec).collect()
}

/// Height, width, channel to channel, height, width.
fn channels_first(pixels: &[f32]) -> Vec<f32> {
    (0..3).flat_map(|channel| pixels.iter().skip(channel).step_by(3).copied()).collect()
}

fn top(scores: &[f32]) -> i64 {
    let best = scores.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).unwrap();
    best.0 as i64
}

#[test]
fn classifiers_agree_with_onnx_runtime_and_with_the_labels() {
    let (Some(models), Some(samples)) = (shared("models"), shared("samples")) else { return };
    for case in CLASSIFIERS {
        let onnx = std::fs::read(models.join(format!("{}.onnx", case.model))).unwrap();
        let model = CpuExecutor.load(&onnx, &LoadLimits::default()).unwrap();
        let input = &model.info().inputs[0];
        let shape: Vec<u32> = input.shape.iter().map(|d| d.to_string().parse().unwrap()).collect();
        let expected = read_npy(&samples.join(format!("{}.ort-output_f32.npy", case.model)));
        let labels: Vec<i64> = read_npy(&samples.join(case.labels)).to_vec().unwrap();
        let mut correct = 0;
        let samples = rows(&read_npy(&samples.join(case.samples)));
        assert_eq!(samples.len(), 12);
        for ((sample, expected), label) in samples.iter().zip(rows(&expected)).zip(labels) {
            let sample = if case.channels_first { channels_first(sample) } else { sample.clone() };
            let fed = [(input.name.clone(), f32_tensor(&shape, &sample))];
            let outputs = model.run(&fed).unwrap();
            let actual: Vec<f32> = outputs[0].1.to_vec().unwrap();
            assert_eq!(actual.len(), expected.len());
            for (a, e) in actual.iter().zip(&expected) {
                assert!((a - e).abs() <= 1e-4, "{}: {actual:?} {expected:?}", case.model);
            }
            correct += usize::from(top(&actual) == label);
        }
        assert_eq!(correct, case.correct, "{}", case.model);
    }
}

#[test]
fn every_model_that_the_cpu_runs_loads_and_says_what_it_takes() {
    let Some(models) = shared("models") else { return };
    for (name, input, parameters) in [
        ("tiny-ad-autoencoder-int8", "[1,640]", 265_948),
        ("tiny-vww-mobilenet-f32", "[1,3,96,96]", 210_852),
        ("face-slim-320", "[1,3,240,320]", 257_940),
        ("mnist-cnn", "[1,1,28,28]", 5_998),
    ] {
        let onnx = std::fs::read(models.join(format!("{name}.onnx"))).unwrap();
        let model = CpuExecutor.load(&onnx, &LoadLimits::default()).unwrap();
        let info = model.info();
        assert_eq!(info.inputs.len(), 1, "{name}");
        assert_eq!(info.inputs[0].shape_text(), input, "{name}");
        assert_eq!(info.inputs[0].dtype, DType::F32, "{name}");
        assert_eq!(info.parameters, parameters, "{name}");
    }
}
