//! How long a row takes: `cargo test --release -p monitor-change --test speed
//! -- --ignored --nocapture`.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::{hint::black_box, time::Instant};

use monitor_change::{Detector, DetectorConfig};

const ROWS: usize = 1_000_000;

#[test]
#[ignore = "a measurement"]
fn nanoseconds_per_row() {
    let mut state = 1u64;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 11) as f64 / (1u64 << 53) as f64
    };
    // Sums of four are near enough to normal.
    let values: Vec<f64> = (0..ROWS).map(|_| (0..4).map(|_| uniform()).sum()).collect();
    let errors: Vec<f64> = values.iter().map(|&x| f64::from(u8::from(x > 2.8))).collect();
    for (json, values) in [
        (r#"{"column": "x", "method": "adwin"}"#, &values),
        (r#"{"column": "x", "method": "page-hinkley"}"#, &values),
        (r#"{"column": "x", "method": "ddm"}"#, &errors),
        (r#"{"column": "x", "method": "kswin"}"#, &values),
        (r#"{"column": "x", "method": "kswin", "stride": 10}"#, &values),
        (r#"{"column": "x", "method": "kswin", "window-size": 1000, "stat-size": 300}"#, &values),
    ] {
        let config: DetectorConfig = serde_json::from_str(json).unwrap();
        let mut detector = Detector::new(&config.parameters().unwrap());
        let begin = Instant::now();
        let found = values.iter().filter(|x| detector.update(black_box(**x)).is_some()).count();
        let ns = begin.elapsed().as_nanos() as f64 / ROWS as f64;
        println!("{json}: {ns:.1} ns a row, {found} signals");
    }
}
