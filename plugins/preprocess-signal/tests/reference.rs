//! Features against NumPy and SciPy, and signals that are no good.
//! `tests/reference.py` writes the numbers.
#![allow(clippy::unwrap_used)]

use preprocess_signal::{Config, Signal, read_wav};
use serde_json::{Value, json};

fn stage(config: &Value) -> Signal {
    Signal::from_config(serde_json::from_value::<Config>(config.clone()).unwrap()).unwrap()
}

#[test]
fn features_agree_with_numpy_and_scipy() {
    let reference: Value = serde_json::from_str(include_str!("reference.json")).unwrap();
    let samples: Vec<f32> = serde_json::from_value(reference["samples"].clone()).unwrap();
    let cases = reference["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 6);
    for case in cases {
        let config =
            json!({"sample-rate-hz": reference["sample-rate-hz"], "features": case["features"]});
        let (shape, values) = stage(&config).features(&vec![samples.clone()]).unwrap();
        assert_eq!(json!(shape), case["shape"]);
        let expected: Vec<f32> = serde_json::from_value(case["values"].clone()).unwrap();
        assert_eq!(values.len(), expected.len());
        // The transform is of single precision: what counts is the error
        // against the strongest bin.
        let strongest = expected.iter().fold(1f32, |m, e| m.max(e.abs()));
        for (a, b) in values.iter().zip(&expected) {
            let error = (a - b).abs();
            assert!(error <= 2e-5 * strongest, "{}: {a} is not {b}", case["features"]);
        }
    }
}

#[test]
fn history_joins_frames_and_starts_at_zero() {
    let config =
        json!({"sample-rate-hz": 10, "history-samples": 5, "features": {"kind": "waveform"}});
    let mut stage = stage(&config);
    let mut of = |samples: &[f32]| stage.features(&vec![samples.to_vec()]).unwrap().1;
    assert_eq!(of(&[1.0, 2.0]), [0.0, 0.0, 0.0, 1.0, 2.0]);
    assert_eq!(of(&[3.0, 4.0]), [0.0, 1.0, 2.0, 3.0, 4.0]);
    assert_eq!(of(&[5.0, 6.0, 7.0, 8.0, 9.0, 10.0]), [6.0, 7.0, 8.0, 9.0, 10.0]);
}

#[test]
fn channels_are_mixed_or_picked() {
    let stereo = vec![vec![1.0, 2.0], vec![3.0, 6.0]];
    let of = |channel: Value| {
        stage(&json!({"sample-rate-hz": 10, "channel": channel, "features": {"kind": "waveform"}}))
            .features(&stereo)
    };
    assert_eq!(of(Value::Null).unwrap().1, [2.0, 4.0]);
    assert_eq!(of(json!(1)).unwrap().1, [3.0, 6.0]);
    assert_eq!(of(json!(2)).unwrap_err(), "has 2 channels, none of index 2");
}

#[test]
fn silence_has_finite_statistics() {
    let config = json!({"sample-rate-hz": 10, "features": {"kind": "summary", "statistics":
        ["crest-factor", "kurtosis", "skewness", "peak-frequency"]}});
    assert_eq!(stage(&config).features(&vec![vec![0.0; 9]]).unwrap().1, [0.0; 4]);
    assert_eq!(stage(&config).features(&vec![vec![0.0]]).unwrap().1, [0.0; 4]);
    assert_eq!(stage(&config).features(&vec![vec![0.25; 9]]).unwrap().1, [1.0, 0.0, 0.0, 0.0]);
}

#[test]
fn nan_storm_and_short_signals_are_refused_and_not_remembered() {
    let config = json!({"sample-rate-hz": 10, "history-samples": 3, "features":
        {"kind": "waveform"}});
    let mut remembering = stage(&config);
    let error = remembering.features(&vec![vec![1.0, f32::NAN]]).unwrap_err();
    assert_eq!(error, "sample 1 is NaN");
    assert_eq!(remembering.features(&vec![vec![2.0]]).unwrap().1, [0.0, 0.0, 2.0]);
    let mut framed = stage(&json!({"sample-rate-hz": 10, "features":
        {"kind": "spectrogram", "frames": {"length": 8, "hop": 1}}}));
    let error = framed.features(&vec![vec![0.0; 7]]).unwrap_err();
    assert_eq!(error, "has 7 samples, a frame needs 8");
}

#[test]
fn memory_bomb_of_a_long_transform_is_refused() {
    let mut stage = stage(&json!({"sample-rate-hz": 10, "features":
        {"kind": "summary", "statistics": ["peak-frequency"]}}));
    let error = stage.features(&vec![vec![0.0; 300_000]]).unwrap_err();
    assert!(error.starts_with("has 300000 samples, "), "{error}");
}

/// A hop of one over wide frames would take gigabytes.
#[test]
fn memory_bomb_of_overlapping_frames_is_refused() {
    let mut stage = stage(&json!({"sample-rate-hz": 10, "features":
        {"kind": "spectrogram", "frames": {"length": 2, "hop": 1, "fft-length": 65536}}}));
    let error = stage.features(&vec![vec![0.0; 100_000]]).unwrap_err();
    assert_eq!(error, "99999 frames of 32769 bins are too many");
}

fn wav(tag: u16, bits: u16, channels: u16, data: &[u8]) -> Vec<u8> {
    let mut file = b"RIFF\0\0\0\0WAVELIST\x03\0\0\0abc\0fmt \x10\0\0\0".to_vec();
    file.extend(tag.to_le_bytes());
    file.extend(channels.to_le_bytes());
    file.extend(16_000u32.to_le_bytes());
    file.extend([0; 6]);
    file.extend(bits.to_le_bytes());
    file.extend(b"data");
    file.extend((data.len() as u32).to_le_bytes());
    file.extend(data);
    file
}

#[test]
fn wave_files_read_as_samples() {
    let stereo = [-32768i16, 16384, 1, 0, 5].iter().flat_map(|s| s.to_le_bytes());
    let (rate, channels) = read_wav(&wav(1, 16, 2, &stereo.collect::<Vec<_>>())).unwrap();
    assert_eq!(rate, 16_000.0);
    assert_eq!(channels, [vec![-1.0, 1.0 / 32768.0], vec![0.5, 0.0]]);
    let (_, channels) = read_wav(&wav(3, 32, 1, &0.75f32.to_le_bytes())).unwrap();
    assert_eq!(channels, [[0.75]]);
}

#[test]
fn corrupt_wave_files_are_refused_and_never_panic() {
    assert_eq!(read_wav(b"RIFX").unwrap_err(), "is no WAVE file");
    assert!(read_wav(&wav(1, 24, 1, &[0; 6])).unwrap_err().starts_with("has format 1 of 24 bits"));
    assert_eq!(read_wav(&wav(1, 16, 0, &[])).unwrap_err(), "has 0 channels at 16000 Hz");
    let good = wav(1, 16, 1, &[1, 2, 3, 4]);
    for i in 0..good.len() {
        assert!(read_wav(&good[..i]).is_err());
        for bit in [0x01, 0x80, 0xff] {
            let mut bad = good.clone();
            bad[i] ^= bit;
            let _ = read_wav(&bad);
        }
    }
}

#[test]
fn configurations_that_make_no_sense_are_refused() {
    let frames = |f: Value| json!({"kind": "spectrogram", "frames": f});
    let mel = |m: Value| {
        json!({"kind": "log-mel", "frames": {"length": 8, "hop": 1}, "mel": m,
            "log": {"base": "ten", "floor": 1}})
    };
    for (features, why) in [
        (frames(json!({"length": 1, "hop": 1})), "a frame's length is 2..=65536, not 1"),
        (frames(json!({"length": 8, "hop": 0})), "a hop of 0 never ends"),
        (
            frames(json!({"length": 8, "hop": 1, "fft-length": 4})),
            "fft-length 4 is not within 8..=65536",
        ),
        (mel(json!({"filters": 0})), "mel filters are 1..=1024, not 0"),
        (
            mel(json!({"filters": 4, "max-hz": 9})),
            "mel filters of 0..9 Hz do not lie within 0..5 Hz",
        ),
        (json!({"kind": "summary", "statistics": []}), "a summary has at least one statistic"),
    ] {
        let config: Config =
            serde_json::from_value(json!({"sample-rate-hz": 10, "features": features})).unwrap();
        assert_eq!(config.check().unwrap_err(), why);
    }
    let misspelt = json!({"sample-rate-hz": 10, "features":
        {"kind": "spectrogram", "frames": {"length": 8, "hop": 1, "overlap": 2}}});
    assert!(serde_json::from_value::<Config>(misspelt).is_err());
}
