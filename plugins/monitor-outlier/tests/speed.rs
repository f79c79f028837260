//! How long a row takes: `cargo test --release -p monitor-outlier --test speed
//! -- --ignored --nocapture`.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::{hint::black_box, time::Instant};

use headland_monitor::{Column, ColumnValues};
use monitor_outlier::{Method, Scorer, Threshold, fit};

#[test]
#[ignore = "a measurement"]
fn nanoseconds_per_row() {
    let mut state = 1u64;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 11) as f64 / (1u64 << 53) as f64
    };
    for d in [4, 30] {
        let names: Vec<String> = (0..d).map(|i| format!("c{i}")).collect();
        let columns: Vec<Column> = names
            .iter()
            .map(|name| Column {
                name: name.clone(),
                values: ColumnValues::Numeric((0..2_000).map(|_| uniform()).collect()),
            })
            .collect();
        let rows: Vec<Vec<f64>> = (0..1_000).map(|_| (0..d).map(|_| uniform()).collect()).collect();
        for method in [Method::Mahalanobis, Method::Nearest { k: 5, max_points: 100, seed: 0 }] {
            let reference = fit(&columns, &names, &method, Threshold::Quantile(0.99)).unwrap();
            let mut scorer = Scorer::new(&reference);
            let begin = Instant::now();
            for row in rows.iter().cycle().take(100_000) {
                black_box(scorer.score(black_box(row)));
            }
            let ns = begin.elapsed().as_nanos() as f64 / 100_000.0;
            println!("{}: {ns:.0} ns a row", reference.statistic());
        }
    }
}
