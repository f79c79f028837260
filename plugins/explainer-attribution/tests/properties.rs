//! The axioms of Shapley values, the budget, and what is refused.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::cell::Cell;

use explainer_attribution::{
    Allowance, Config, Contributions, Error, MeanAbsolute, Method, Patches, Subject, explain,
    occlusion,
};
use headland_sdk::StageError;
use proptest::prelude::*;

/// Without a limit, in batches of 7: none of the numbers of rows here is a
/// multiple of it.
const FREE: Allowance = Allowance { batch_rows: 7, calls_per_row: 1, max_calls: u64::MAX };

/// Contributions to `model`, a function of one row, and what they cost.
fn try_explain(
    model: impl Fn(&[f64]) -> f64,
    input: &[f64],
    config: &Config,
    allowance: Allowance,
) -> Result<(Contributions, u64, f64), Error> {
    let ran = Cell::new(0);
    let mut run = |rows: &[f64]| {
        ran.set(ran.get() + rows.len() / input.len());
        Ok(rows.chunks(input.len()).map(&model).collect())
    };
    let mut subject = Subject::new(&mut run, input, allowance, None)?;
    let told = explain(&mut subject, &[1, input.len()], config);
    let (calls, prediction) = (subject.calls(), subject.prediction());
    assert!(calls <= allowance.max_calls);
    let told = told?;
    assert_eq!(calls, ran.get() as u64 * allowance.calls_per_row, "what is told was run");
    Ok((told, calls, prediction))
}

fn values(model: impl Fn(&[f64]) -> f64, input: &[f64], config: &Config) -> Vec<f64> {
    try_explain(model, input, config, FREE).unwrap().0.values
}

fn config(method: Method, background: &[Vec<f64>]) -> Config {
    Config { method, background: background.to_vec(), ..Config::default() }
}

/// A function without any symmetry: pairs and triples interact.
fn tangled(row: &[f64], weights: &[f64]) -> f64 {
    let n = row.len();
    let at = |i: usize| row[i % n] * weights[i % weights.len()];
    (0..n).map(|i| at(i) + at(i) * at(i + 1) + (at(i) * at(i + 2) * at(i + 3)).sin()).sum()
}

/// An input of `n`, three rows of background, and weights.
fn case(n: usize) -> impl Strategy<Value = (Vec<f64>, Vec<Vec<f64>>, Vec<f64>)> {
    let row = move || prop::collection::vec(-2.0..2.0, n);
    (row(), prop::collection::vec(row(), 3), prop::collection::vec(-2.0..2.0, n + 2))
}

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-9 * (1.0 + a.abs().max(b.abs()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn contributions_add_up_to_the_prediction_less_the_base(
        (input, background, w) in (1usize..9).prop_flat_map(case)
    ) {
        for method in [Method::Exact, Method::Kernel] {
            let config = config(method, &background);
            let model = |row: &[f64]| tangled(row, &w);
            let (told, _, prediction) = try_explain(model, &input, &config, FREE).unwrap();
            let base = background.iter().map(|row| tangled(row, &w)).sum::<f64>() / 3.0;
            prop_assert!(close(told.base, base));
            prop_assert!(close(told.base + told.values.iter().sum::<f64>(), prediction));
        }
    }

    #[test]
    fn features_that_are_treated_alike_contribute_alike(
        (mut input, mut background, w) in (3usize..9).prop_flat_map(case)
    ) {
        for row in background.iter_mut().chain([&mut input]) {
            row[1] = row[0];
        }
        // The first two only ever together, the others tangled.
        let model = |row: &[f64]| tangled(&row[2..], &w) * (row[0] + row[1]) + row[0] * row[1];
        for method in [Method::Exact, Method::Kernel] {
            let told = values(model, &input, &config(method, &background));
            prop_assert!(close(told[0], told[1]), "{told:?}");
        }
    }

    #[test]
    fn a_feature_that_the_model_does_not_use_contributes_nothing(
        (input, background, w) in (2usize..9).prop_flat_map(case)
    ) {
        for method in [Method::Exact, Method::Kernel] {
            let told = values(|row| tangled(&row[1..], &w), &input, &config(method, &background));
            prop_assert!(told[0].abs() < 1e-9, "{told:?}");
        }
    }

    #[test]
    fn contributions_to_a_sum_are_the_sums_of_contributions(
        (input, background, w) in (1usize..9).prop_flat_map(case), scale in -3.0..3.0f64
    ) {
        let other = |row: &[f64]| row.iter().map(|v| v * v * scale).product::<f64>();
        for method in [Method::Exact, Method::Kernel] {
            let config = config(method, &background);
            let one = values(|row| tangled(row, &w), &input, &config);
            let two = values(other, &input, &config);
            let both = values(|row| tangled(row, &w) + other(row), &input, &config);
            for i in 0..input.len() {
                prop_assert!(close(one[i] + two[i], both[i]));
            }
        }
    }

    #[test]
    fn all_coalitions_give_the_exact_values(
        (input, background, w) in (1usize..9).prop_flat_map(case)
    ) {
        let exact = values(|row| tangled(row, &w), &input, &config(Method::Exact, &background));
        let kernel = values(|row| tangled(row, &w), &input, &config(Method::Kernel, &background));
        for (a, b) in exact.iter().zip(&kernel) {
            prop_assert!(close(*a, *b), "{exact:?} {kernel:?}");
        }
    }

    /// Of a sum of functions of one feature each, Shapley values are known:
    /// the function's value less its mean over the background.
    #[test]
    fn few_coalitions_do_for_a_model_that_adds(
        (input, background, w) in (11usize..40).prop_flat_map(case), seed: u64
    ) {
        let part = |i: usize, v: f64| (w[i] * v).sin() + v * v;
        let model = |row: &[f64]| row.iter().enumerate().map(|(i, &v)| part(i, v)).sum();
        let few = Config { coalitions: Some(100), seed, ..config(Method::Auto, &background) };
        let (told, calls, prediction) = try_explain(model, &input, &few, FREE).unwrap();
        prop_assert!(calls <= 1 + 3 * 101);
        for (i, &v) in input.iter().enumerate() {
            let mean = background.iter().map(|row| part(i, row[i])).sum::<f64>() / 3.0;
            prop_assert!(close(told.values[i], part(i, v) - mean));
        }
        prop_assert!(close(told.base + told.values.iter().sum::<f64>(), prediction));
    }

    #[test]
    fn the_budget_is_kept_to_the_call(
        (input, background, w) in (1usize..20).prop_flat_map(case),
        max_calls in 0u64..2_000,
        calls_per_row in 1u64..3,
        method in prop::sample::select(vec![Method::Auto, Method::Exact, Method::Kernel]),
    ) {
        let allowance = Allowance { max_calls, calls_per_row, ..FREE };
        let n = input.len() as u64;
        match try_explain(|row| tangled(row, &w), &input, &config(method, &background), allowance) {
            // `try_explain` has held the calls against the allowance.
            Ok(_) => {}
            Err(Error::Budget { needed, allowed }) => {
                prop_assert_eq!(allowed, max_calls);
                prop_assert!(needed > allowed);
                let least = if n == 1 { 1 } else { 1 + 2 * n };
                if method != Method::Exact {
                    prop_assert!(max_calls < (1 + 3 * least) * calls_per_row, "{} would do", needed);
                }
            }
            Err(Error::TooManyFeatures { features, most: 10 }) => {
                prop_assert!(method == Method::Exact && features > 10);
            }
            Err(e) => return Err(TestCaseError::fail(e.to_string())),
        }
    }

    #[test]
    fn a_seed_gives_the_same_again(
        (input, background, w) in (12usize..16).prop_flat_map(case), seed: u64
    ) {
        let few = Config { coalitions: Some(60), seed, ..config(Method::Kernel, &background) };
        let once = values(|row| tangled(row, &w), &input, &few);
        prop_assert_eq!(once, values(|row| tangled(row, &w), &input, &few));
    }

    #[test]
    fn means_are_the_same_however_explanations_are_split_over_devices(
        rows in prop::collection::vec(prop::collection::vec(-10.0..10.0, 4), 0..40),
        device in prop::collection::vec(0usize..5, 40),
        last_first: bool,
    ) {
        let mut whole = MeanAbsolute::new(4);
        let mut devices = vec![MeanAbsolute::new(4); 5];
        for (row, device) in rows.iter().zip(device) {
            prop_assert!(whole.push(row) && devices[device].push(row));
        }
        if last_first {
            devices.reverse();
        }
        let mut merged = MeanAbsolute::new(4);
        prop_assert!(devices.iter().all(|d| merged.merge(d)));
        prop_assert_eq!(&merged, &whole);
        for (i, mean) in whole.means().into_iter().enumerate() {
            let sum: f64 = rows.iter().map(|row: &Vec<f64>| row[i].abs()).sum();
            // Half a unit of 2^-20 a row.
            prop_assert!((mean - sum / rows.len().max(1) as f64).abs() < 1e-6);
        }
    }

    #[test]
    fn groups_share_what_they_contribute_together(
        (input, background, w) in (4usize..9).prop_flat_map(case)
    ) {
        let grouped =
            Config { groups: vec![vec![0, 2], vec![3, 1]], ..config(Method::Exact, &background) };
        let (told, _, prediction) =
            try_explain(|row| tangled(row, &w), &input, &grouped, FREE).unwrap();
        prop_assert_eq!(told.values[0], told.values[2]);
        prop_assert_eq!(told.values[1], told.values[3]);
        prop_assert!(close(told.base + told.values.iter().sum::<f64>(), prediction));
    }
}

#[test]
fn features_that_are_the_backgrounds_are_left_out_of_the_count() {
    let input: Vec<f64> = (0..30).map(f64::from).collect();
    let mut row = input.clone();
    (row[3], row[20]) = (-1.0, -2.0);
    let told = try_explain(
        |row| row.iter().sum(),
        &input,
        &config(Method::Exact, &[row]),
        Allowance { max_calls: 4, ..FREE },
    );
    let (told, calls, _) = told.unwrap();
    assert_eq!(calls, 4, "all coalitions of two features");
    assert_eq!((told.values[3], told.values[20]), (4.0, 22.0));
    assert_eq!(told.values.iter().filter(|v| **v == 0.0).count(), 28);
}

#[test]
fn nothing_differs_from_the_background() {
    let told = try_explain(|row| row[0], &[5.0], &config(Method::Auto, &[vec![5.0]]), FREE);
    let (told, calls, _) = told.unwrap();
    assert_eq!((told.base, told.values, calls), (5.0, vec![0.0], 2));
}

#[test]
fn a_model_that_gives_nan_is_named() {
    for (method, bad) in
        [(Method::Exact, f64::NAN), (Method::Kernel, f64::INFINITY), (Method::Occlusion, f64::NAN)]
    {
        let config = config(method, &[vec![0.0, 0.0]]);
        // For the input itself, and only for a row between.
        for model in
            [|_: &[f64], bad| bad, |row: &[f64], bad| if row[1] == 0.0 { bad } else { 1.0 }]
        {
            let refused = try_explain(|row| model(row, bad), &[1.0, 1.0], &config, FREE);
            let refused = refused.unwrap_err();
            assert!(matches!(refused, Error::NotFinite { .. }), "{refused:?}");
            let told = StageError::from(refused);
            assert!(matches!(told, StageError::InferenceFailed(_)), "{told:?}");
        }
    }
}

#[test]
fn a_model_that_fails_passes_its_reason_on() {
    let failed = || StageError::InferenceFailed("deadline exceeded".to_owned());
    let mut run = |_: &[f64]| Err(failed());
    let refused = Subject::new(&mut run, &[1.0], FREE, None).err();
    assert_eq!(refused, Some(Error::Model(failed())));
}

#[test]
fn a_model_that_gives_too_few_numbers_is_refused() {
    let input = [1.0, 2.0];
    let mut run = |rows: &[f64]| Ok(vec![0.0; if rows.len() > 2 { 1 } else { 2 }]);
    let mut subject = Subject::new(&mut run, &input, FREE, None).unwrap();
    let refused = explain(&mut subject, &[2], &config(Method::Exact, &[vec![0.0, 0.0]]));
    assert!(matches!(refused, Err(Error::Outputs { rows: 3, numbers: 1 })), "{refused:?}");
}

#[test]
fn the_greatest_output_is_explained_unless_one_is_named() {
    let input = [2.0];
    // The second output is greater and falls with the input.
    let outputs = |rows: &[f64]| Ok(rows.iter().flat_map(|&x| [x, 9.0 - x, 9.0 - x]).collect());
    let of = |index| {
        let mut run = outputs;
        let mut subject = Subject::new(&mut run, &input, FREE, index)?;
        explain(&mut subject, &[1], &config(Method::Auto, &[vec![0.0]]))
    };
    assert_eq!(of(None).unwrap(), Contributions { base: 9.0, values: vec![-2.0] });
    assert_eq!(of(Some(0)).unwrap(), Contributions { base: 0.0, values: vec![2.0] });
    assert_eq!(of(Some(3)), Err(Error::NoSuchElement { index: 3, elements: 3 }));
}

#[test]
fn too_many_features_are_told_what_to_do() {
    let input = vec![1.0; 65];
    let refused = try_explain(|row| row[0], &input, &config(Method::Auto, &[vec![0.0; 65]]), FREE);
    let refused = refused.unwrap_err();
    assert_eq!(refused, Error::TooManyFeatures { features: 65, most: 64 });
    assert!(refused.to_string().contains("`groups`"), "{refused}");
    // One group fewer, and it is.
    let groups = vec![vec![0, 1]];
    let config = Config { groups, ..config(Method::Auto, &[vec![0.0; 65]]) };
    let told = values(|row| row.iter().sum(), &input, &config);
    assert!(told.iter().all(|v| close(*v, 1.0)), "{told:?}");
}

#[test]
fn a_background_of_another_width_is_refused() {
    let refused = try_explain(|row| row[0], &[1.0, 2.0], &config(Method::Auto, &[vec![0.0]]), FREE);
    assert_eq!(refused.unwrap_err(), Error::Background { input: 2, row: 1 });
}

/// By hand: 0 1 2 / 3 4 5 with patches of 1x2, one apart, filled with 0; the
/// model is the sum, so a patch takes away the sum of its elements.
#[test]
fn occlusion_is_the_mean_over_the_patches() {
    let input: Vec<f64> = (0..6).map(f64::from).collect();
    let mut run = |rows: &[f64]| Ok(rows.chunks(6).map(|row| row.iter().sum()).collect());
    let mut subject = Subject::new(&mut run, &input, FREE, None).unwrap();
    let patches = Patches::new(&[1, 2, 3], &[1, 2], &[1, 1]);
    let told = occlusion(&mut subject, &patches, 0.0).unwrap();
    assert_eq!(told, Contributions { base: 0.0, values: vec![1.0, 2.0, 3.0, 7.0, 8.0, 9.0] });
    assert_eq!(subject.calls(), 1 + 4 + 1);
    let mut run = |rows: &[f64]| Ok(rows.chunks(6).map(|row| row.iter().sum()).collect());
    let mut subject =
        Subject::new(&mut run, &input, Allowance { max_calls: 5, ..FREE }, None).unwrap();
    let refused = occlusion(&mut subject, &patches, 0.0);
    assert_eq!(refused, Err(Error::Budget { needed: 6, allowed: 5 }));
    assert_eq!(subject.calls(), 1, "nothing was spent on what does not fit");
}

#[test]
fn configurations_that_make_no_sense_are_refused() {
    let refused = |json: &str| {
        let config: Config = serde_json::from_str(json).unwrap();
        match config.check() {
            Err(StageError::BadConfig(why)) => why,
            other => panic!("{json}: {other:?}"),
        }
    };
    for (json, why) in [
        (r#"{"model": "m", "method": "exact"}"#, "need a `background`"),
        (r#"{"model": "m", "method": "kernel"}"#, "need a `background`"),
        (r#"{"model": "m", "background": [[1], [1, 2]]}"#, "not all as long"),
        (r#"{"model": "m", "background": [[]]}"#, "empty rows"),
        (r#"{"model": "m", "groups": [[0], [1, 0]]}"#, "twice"),
        (r#"{"model": "m", "groups": [[]]}"#, "empty group"),
        (r#"{"model": "m", "coalitions": 1}"#, "at least 2"),
        (r#"{"model": "m", "occlusion": {"patch": [2], "stride": [3]}}"#, "skip"),
        (r#"{"model": "m", "occlusion": {"patch": [2], "stride": [1, 1]}}"#, "each axis"),
        (r#"{"model": "m", "occlusion": {"patch": [0]}}"#, "at least 1"),
    ] {
        let said = refused(json);
        assert!(said.contains(why), "{json}: {said}");
    }
    assert!(serde_json::from_str::<Config>(r#"{"model": "m", "lime": true}"#).is_err());
    let beyond = Config { groups: vec![vec![5]], ..config(Method::Auto, &[vec![0.0, 0.0]]) };
    let refused = try_explain(|row| row[0], &[1.0, 2.0], &beyond, FREE).unwrap_err();
    assert!(refused.to_string().contains("element 5"), "{refused}");
}
