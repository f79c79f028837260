//! The privacy filter: what it lets out, what it costs, and how it refuses.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::{collections::BTreeMap, convert::Infallible};

use headland_monitor::{
    Digest, Field, Level, Summary, SummaryError, fixed_point,
    privacy::{
        Budget, Charged, Cost, Delta, Epsilon, Filter, FilterError, Ledger, LedgerError, MaxPerRow,
        Noise, Permit, Plan, Policy, PolicyError, Ratio, Release, ResponseError, Responses,
        SpendError, estimate_counts,
    },
};
use proptest::prelude::*;
use support::seeded;

const BUDGET: &str = "budget = { epsilon = 10, delta = 1e-6, period-hours = 24 }\n";

fn policy(rules: &str) -> Policy {
    toml::from_str(&format!("{BUDGET}{rules}")).unwrap()
}

fn filter(rules: &str) -> Filter {
    Filter::new(&policy(rules)).unwrap()
}

fn epsilon(value: f64) -> Epsilon {
    Epsilon::new(value).unwrap()
}

fn stored(_: &[u8]) -> Result<(), Infallible> {
    Ok(())
}

/// A permit for what is planned, out of a ledger of its own.
fn permit(filter: &Filter, plan: Plan) -> Permit<Plan> {
    Ledger::new(filter.budget(), 0).spend(plan, 0, stored).unwrap()
}

fn release(filter: &Filter, summary: &Summary, seed: u64) -> (Summary, Release) {
    let plan = filter.plan(&summary.to_bytes(), summary.rows).unwrap();
    let release = permit(filter, plan).release(seeded(seed)).unwrap();
    (Summary::parse(&release.summary).unwrap(), release)
}

fn summary(fields: impl IntoIterator<Item = (&'static str, Field)>) -> Summary {
    let mut summary = Summary::empty("monitor-test", Digest::of(b"reference"));
    summary.rows = 100;
    summary.fields = fields.into_iter().map(|(name, field)| (name.to_owned(), field)).collect();
    summary
}

fn counts(counts: &[u64]) -> Field {
    Field::Counts(counts.to_vec())
}

const LAPLACE: &str = r#"
    [[rule]]
    monitor = "monitor-*"
    fields = ["rows", "*/counts", "*/sums"]
    mechanism = "discrete-laplace"
    epsilon = 1
    "#;

mod policies {
    use super::*;

    #[test]
    fn without_rules_nothing_leaves_but_that_there_was_a_window() {
        let (out, release) = release(&filter(""), &summary([("x/counts", counts(&[1, 2]))]), 0);
        assert_eq!(out, Summary::empty("monitor-test", Digest::of(b"reference")));
        assert_eq!((release.fields, release.dropped, release.stripped), (0, 2, 0));
    }

    #[test]
    fn what_is_not_on_the_list_is_dropped_and_counted() {
        let filter = filter(
            r#"
            [[rule]]
            monitor = "monitor-test"
            fields = ["x/*", "rows"]
            mechanism = "none"
            [[rule]]
            monitor = "monitor-other"
            fields = ["*"]
            mechanism = "none"
            "#,
        );
        let fields = [("x/counts", counts(&[1])), ("y/counts", counts(&[2])), ("x", counts(&[3]))];
        let (out, release) = release(&filter, &summary(fields), 0);
        assert_eq!(out, summary([("x/counts", counts(&[1]))]));
        assert_eq!((release.fields, release.dropped), (1, 2));
    }

    #[test]
    fn a_star_stands_for_any_run_of_characters_and_nothing_else_does() {
        let lets = |pattern: &str, name: &'static str| {
            let rule = "[[rule]]\nmonitor = \"*\"\nmechanism = \"none\"\n";
            let filter = filter(&format!("{rule}fields = [\"{pattern}\"]"));
            release(&filter, &summary([(name, counts(&[1]))]), 0).0.fields.contains_key(name)
        };
        for (pattern, name) in [
            ("x", "x"),
            ("*", ""),
            ("*", "x/y"),
            ("x*", "x"),
            ("*x", "x"),
            ("a*c", "abbc"),
            ("a*b*c", "abbc"),
            ("**b**", "b"),
            ("*ab*ab", "abab"),
            ("é*", "é/é"),
        ] {
            assert!(lets(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [
            ("x", "xy"),
            ("", "x"),
            ("x*", "yx"),
            ("a*a", "a"),
            ("*ab*ab", "ab"),
            ("a*b*b", "ab"),
            ("x?", "xy"),
            ("[x]", "x"),
            (".*", "x"),
        ] {
            assert!(!lets(pattern, name), "{pattern} {name}");
        }
    }

    #[test]
    fn the_first_rule_that_names_a_field_holds() {
        let filter = filter(
            r#"
            [[rule]]
            monitor = "*"
            fields = ["x/*"]
            mechanism = "none"
            [[rule]]
            monitor = "*"
            fields = ["*"]
            mechanism = "discrete-laplace"
            epsilon = 0.1
            "#,
        );
        let (out, _) =
            release(&filter, &summary([("x/c", counts(&[5])), ("y/c", counts(&[5]))]), 3);
        assert_eq!(out.fields["x/c"], counts(&[5]));
        assert!(matches!(out.fields["y/c"], Field::NoisedCounts(_)));
        assert!(matches!(out.fields["rows"], Field::NoisedCounts(_)));
        assert_eq!(out.rows, 0);
    }

    #[test]
    fn levels_and_ranges_are_stripped_unless_a_rule_without_noise_says_not() {
        let rule = "[[rule]]\nmonitor = \"*\"\nfields = [\"*\"]\nmechanism = \"none\"\n";
        let fields = [("l", Field::Level(Level::of(1.0))), ("r", Field::range(1.0))];
        let (out, stripped) = release(&filter(rule), &summary(fields.clone()), 0);
        assert_eq!(out, summary([]));
        assert_eq!((stripped.fields, stripped.dropped, stripped.stripped), (0, 0, 2));
        let (out, kept) = release(&filter(&format!("{rule}strip = false")), &summary(fields), 0);
        assert_eq!(out.fields.len(), 2);
        assert_eq!((kept.fields, kept.stripped), (2, 0));
        let fields = [("x/counts", Field::range(1.0)), ("y/counts", Field::Level(Level::Many))];
        let (out, noised) = release(&filter(LAPLACE), &summary(fields), 0);
        assert_eq!(out.fields.keys().collect::<Vec<_>>(), ["rows"]);
        assert_eq!(noised.stripped, 2);
    }

    #[test]
    fn small_counts_are_suppressed() {
        let rule = "[[rule]]\nmonitor = \"*\"\nfields = [\"*\"]\nmechanism = \"none\"\n";
        let fields =
            [("a", counts(&[4, 5, 0, 6])), ("b", counts(&[4, 1])), ("c", Field::Sums(vec![1]))];
        let (out, release) = release(&filter(&format!("{rule}min-count = 5")), &summary(fields), 0);
        assert_eq!(
            out.fields,
            summary([("a", counts(&[0, 5, 0, 6])), ("c", Field::Sums(vec![1]))]).fields
        );
        assert_eq!(out.rows, 100);
        assert_eq!(release.dropped, 1);
    }

    /// Noise comes first: what is suppressed tells no more than the noise does.
    #[test]
    fn small_counts_are_suppressed_after_the_noise() {
        let filter = filter(&format!("{LAPLACE}min-count = 6\n"));
        let mut small = 0;
        for seed in 0..200 {
            let (out, _) = release(&filter, &summary([("x/counts", counts(&[5, 90]))]), seed);
            let Field::NoisedCounts(noised) = &out.fields["x/counts"] else { panic!() };
            assert!(noised.values.iter().all(|&n| n == 0 || n >= 6));
            small += usize::from(noised.values[0] == 0);
        }
        assert!((50..150).contains(&small), "{small} of 200 were suppressed");
    }

    #[test]
    fn times_are_widened_and_never_narrowed() {
        let mut policy = policy("");
        assert_eq!(Filter::new(&policy).unwrap().window_ns((7, 9)), (7, 9));
        policy.round_times_s = 60;
        let filter = Filter::new(&policy).unwrap();
        let s = 1_000_000_000;
        assert_eq!(filter.window_ns((61 * s, 61 * s + 1)), (60 * s, 120 * s));
        assert_eq!(filter.window_ns((60 * s, 120 * s)), (60 * s, 120 * s));
        assert_eq!(filter.window_ns((0, u64::MAX)), (0, u64::MAX));
    }

    #[test]
    fn a_policy_is_written_as_it_was_read() {
        let text = format!(
            "{LAPLACE}max-per-row = 2.5\nfields-per-row = 3\nmin-count = 4\n\
             [[rule]]\nmonitor = \"m\"\nfields = [\"f\"]\nmechanism = \"none\"\nstrip = false\n"
        );
        let policy = Policy { round_times_s: 60, ..policy(&text) };
        let again: Policy = toml::from_str(&toml::to_string(&policy).unwrap()).unwrap();
        assert_eq!(again, policy);
        assert_eq!(toml::from_str::<Policy>("").unwrap(), Policy::default());
    }

    #[test]
    fn epsilon_of_nought_negative_nan_or_huge_is_refused() {
        for value in [0.0, -0.0, -1.0, f64::NAN, f64::INFINITY, 1e9, 100.1, 1e-7, f64::MIN] {
            let refused = Epsilon::new(value);
            assert!(
                matches!(refused, Err(PolicyError::OutOfRange { what: "epsilon", .. })),
                "{value}: {refused:?}"
            );
        }
        for text in ["0", "-1", "nan", "inf", "-inf", "1e9", "\"1\""] {
            let rule = format!(
                "[[rule]]\nmonitor = \"m\"\nfields = [\"f\"]\nmechanism = \"discrete-laplace\"\n\
                 epsilon = {text}"
            );
            assert!(toml::from_str::<Policy>(&rule).is_err(), "{text}");
        }
        assert_eq!(epsilon(0.1).get(), 0.1);
        assert_eq!(epsilon(100.0).get(), 100.0);
    }

    #[test]
    fn delta_and_max_per_row_out_of_range_are_refused() {
        for value in [0.0, -1e-6, 1.0, 2.0, f64::NAN, f64::INFINITY, 1e-16] {
            assert!(Delta::new(value).is_err(), "delta {value}");
        }
        for value in [0.0, -1.0, f64::NAN, f64::INFINITY, 5e6] {
            assert!(MaxPerRow::new(value).is_err(), "max-per-row {value}");
        }
        assert_eq!(Delta::new(1e-6).unwrap().get(), 1e-6);
        // Rounded up: a bound must not get smaller.
        assert!(MaxPerRow::new(0.1).unwrap().get() > 0.1);
    }

    #[test]
    fn a_rule_that_does_not_hold_together_is_refused() {
        let refused = |rule: &str, why: &str| {
            let rule = format!("{LAPLACE}[[rule]]\nmonitor = \"m\"\n{rule}");
            match Filter::new(&policy(&rule)) {
                Err(PolicyError::Rule { rule: 2, why: said }) => {
                    assert!(said.contains(why), "{said}: {why}");
                }
                other => panic!("{why}: {other:?}"),
            }
        };
        let laplace = "fields = [\"f\"]\nmechanism = \"discrete-laplace\"\n";
        let gaussian = "fields = [\"f\"]\nmechanism = \"discrete-gaussian\"\n";
        refused("fields = []\nmechanism = \"none\"", "no fields");
        refused("fields = [\"f\"]\nmechanism = \"none\"\nepsilon = 1", "no noise");
        refused("fields = [\"f\"]\nmechanism = \"none\"\ndelta = 1e-6", "no noise");
        refused(laplace, "no epsilon");
        refused(&format!("{laplace}epsilon = 1\ndelta = 1e-6"), "a delta");
        refused(&format!("{laplace}epsilon = 1\nstrip = false"), "strip them");
        refused(&format!("{laplace}epsilon = 1\nfields-per-row = 0"), "fields-per-row 0");
        refused(&format!("{laplace}epsilon = 10.1"), "more than the whole budget");
        refused(&format!("{gaussian}epsilon = 1"), "no delta");
        refused(&format!("{gaussian}epsilon = 0.000001\ndelta = 1e-6"), "too small");
        refused(&format!("{gaussian}epsilon = 11\ndelta = 1e-6"), "more than the whole budget");
        for unknown in ["epsilom = 1", "mechanism = \"laplace\""] {
            assert!(toml::from_str::<Policy>(&format!("{LAPLACE}{unknown}")).is_err());
        }
    }

    #[test]
    fn noise_without_a_budget_is_refused() {
        let without = Policy { budget: None, ..policy(LAPLACE) };
        let refused = Filter::new(&without).unwrap_err();
        assert!(refused.to_string().contains("no budget"), "{refused}");
        let mut timeless = policy(LAPLACE);
        timeless.budget = timeless.budget.map(|b| Budget { period_hours: 0, ..b });
        assert!(Filter::new(&timeless).is_err());
        // A budget without a delta has no room for Gaussian noise.
        let mut pure = policy(
            "[[rule]]\nmonitor = \"m\"\nfields = [\"f\"]\nmechanism = \"discrete-gaussian\"\n\
             epsilon = 1\ndelta = 1e-6",
        );
        assert!(Filter::new(&pure).is_ok());
        pure.budget = pure.budget.map(|b| Budget { delta: None, ..b });
        assert!(Filter::new(&pure).is_err());
    }
}

mod refusals {
    use super::*;

    fn refused(summary: &Summary, rows: u64) -> FilterError {
        filter(LAPLACE).plan(&summary.to_bytes(), rows).unwrap_err()
    }

    #[test]
    fn a_summary_in_a_form_of_its_own_is_refused() {
        for rules in ["", LAPLACE] {
            for bytes in [&b""[..], b"{\"rows\":3}", &[0xa0], &[0xff; 40]] {
                let refused = filter(rules).plan(bytes, 100).unwrap_err();
                assert!(matches!(refused, FilterError::Form(SummaryError::Malformed(_))));
            }
        }
    }

    #[test]
    fn a_field_of_an_unknown_kind_is_refused() {
        let mut bytes = summary([("x/counts", counts(&[7]))]).to_bytes();
        let at = bytes.windows(4).position(|w| w == [0x82, 0x00, 0x81, 0x07]).unwrap();
        bytes[at + 1] = 9;
        let refused = filter(LAPLACE).plan(&bytes, 100).unwrap_err();
        assert_eq!(
            refused,
            FilterError::Form(SummaryError::Malformed("a field of unknown kind 9".to_owned()))
        );
    }

    #[test]
    fn more_rows_than_the_monitor_was_given_are_refused() {
        assert_eq!(refused(&summary([]), 99), FilterError::Rows { has: 100, given: 99 });
    }

    #[test]
    fn a_field_of_the_name_of_the_rows_is_refused() {
        let refused = refused(&summary([("rows", counts(&[1]))]), 100);
        assert_eq!(refused, FilterError::Reserved("monitor-test".to_owned()));
    }

    #[test]
    fn a_summary_is_not_noised_twice() {
        let filter = filter(LAPLACE);
        let rows = summary([("x/counts", counts(&[5]))]);
        let (mut once, _) = release(&filter, &rows, 0);
        once.fields.remove("rows");
        let refused = filter.plan(&once.to_bytes(), 100).unwrap_err();
        assert_eq!(refused, FilterError::Noised("x/counts".to_owned()));
    }

    /// The monitor counts rows twice and the policy says once: the noise would
    /// be half of what is needed.
    #[test]
    fn a_policy_that_understates_what_a_row_adds_is_refused() {
        let twice = summary([("x/counts", counts(&[100, 101]))]);
        assert_eq!(
            refused(&twice, 100),
            FilterError::MaxPerRow { field: "x/counts".to_owned(), total: 201, allowed: 100 }
        );
        let negative = summary([("x/sums", Field::Sums(vec![-(101 << 20), 100 << 20]))]);
        assert!(matches!(refused(&negative, 100), FilterError::MaxPerRow { .. }));
        let fair = filter(&format!("{LAPLACE}max-per-row = 2.01\n"));
        assert!(fair.plan(&twice.to_bytes(), 101).is_ok());
        assert!(fair.plan(&negative.to_bytes(), 101).is_ok());
    }

    #[test]
    fn an_overflow_is_refused() {
        let mut huge = summary([("x/sums", Field::Sums(vec![i64::MIN]))]);
        huge.rows = 1 << 53;
        let filter = filter(&format!("{LAPLACE}max-per-row = 4194304\n"));
        let refused = filter.plan(&huge.to_bytes(), 1 << 53).unwrap_err();
        assert_eq!(refused, FilterError::Overflow("x/sums".to_owned()));
        let huge = Summary { fields: summary([("x/counts", counts(&[u64::MAX]))]).fields, ..huge };
        let refused = filter.plan(&huge.to_bytes(), 1 << 53).unwrap_err();
        assert_eq!(refused, FilterError::Overflow("x/counts".to_owned()));
    }

    #[test]
    fn noise_that_leaves_nothing_is_refused() {
        let wide = LAPLACE.replace("epsilon = 1", "epsilon = 0.000001");
        let bytes = summary([("x/counts", counts(&[1]))]).to_bytes();
        for fields in [1_000, u32::MAX] {
            let filter = filter(&format!("{wide}fields-per-row = {fields}\n"));
            let refused = filter.plan(&bytes, 100).unwrap_err();
            assert!(matches!(refused, FilterError::TooWide(_)), "{refused:?}");
        }
        let gaussian = wide
            .replace("laplace", "gaussian")
            .replace("epsilon = 0.000001", "epsilon = 0.0001\ndelta = 1e-6");
        let filter =
            filter(&format!("{gaussian}fields-per-row = 4294967295\nmax-per-row = 4194304\n"));
        let refused = filter.plan(&bytes, 100).unwrap_err();
        assert!(matches!(refused, FilterError::TooWide(_)), "{refused:?}");
    }

    #[test]
    fn without_randomness_nothing_leaves() {
        let filter = filter(LAPLACE);
        let plan = filter.plan(&summary([]).to_bytes(), 100).unwrap();
        let refused = permit(&filter, plan).release(|_| Err("no entropy"));
        assert_eq!(refused, Err("no entropy"));
    }
}

mod noise {
    use super::*;

    fn ratio(num: u128, den: u128) -> Ratio {
        Ratio::new(num, den).unwrap()
    }

    /// Pearson's statistic of draws against a distribution, pooled to at least
    /// 20 expected, has a p-value above 1e-6.
    fn fits(noise: Noise, n: usize, weight: impl Fn(f64) -> f64) {
        let mut source = seeded(1);
        let mut seen = BTreeMap::new();
        for _ in 0..n {
            *seen.entry(noise.draw(&mut source).unwrap()).or_insert(0u64) += 1;
        }
        let reach = (noise.variance().sqrt() * 40.0) as i128 + 10;
        let total: f64 = (-reach..=reach).map(|x| weight(x as f64)).sum();
        let (mut statistic, mut bins) = (0.0, 0u32);
        let (mut expected, mut observed) = (0.0, 0.0);
        let mut close = |expected: &mut f64, observed: &mut f64| {
            statistic += (*observed - *expected).powi(2) / *expected;
            bins += 1;
            (*expected, *observed) = (0.0, 0.0);
        };
        for x in -reach..=reach {
            expected += weight(x as f64) / total * n as f64;
            observed += seen.remove(&x).unwrap_or(0) as f64;
            if expected >= 20.0 {
                close(&mut expected, &mut observed);
            }
        }
        close(&mut expected, &mut observed);
        assert!(seen.is_empty(), "draws beyond 40 standard deviations: {seen:?}");
        let limit = headland_monitor::stats::chi2_upper_quantile(1e-6, f64::from(bins - 1));
        assert!(statistic < limit, "{noise:?}: chi-squared {statistic} of {bins} bins");
    }

    #[test]
    fn laplace_draws_have_the_laplace_distribution() {
        for (t, s) in [(1, 3), (1, 1), (7, 2), (50, 1)] {
            let scale = ratio(t, s);
            let noise = Noise::laplace(scale).unwrap();
            fits(noise, 20_000, |x| (-x.abs() * s as f64 / t as f64).exp());
        }
    }

    #[test]
    fn gaussian_draws_have_the_gaussian_distribution() {
        for (n, d) in [(1, 5), (1, 1), (17, 3), (1000, 1), (1_000_000_007, 1_000_003)] {
            let noise = Noise::gaussian(ratio(n, d)).unwrap();
            fits(noise, 20_000, |x| (-x * x * d as f64 / (2.0 * n as f64)).exp());
        }
    }

    /// Scales of many digits, where products no longer fit u128, give noise of
    /// the variance that they should.
    #[test]
    fn wide_scales_draw_in_proportion() {
        let unit = 1u128 << 40;
        for (wide, narrow) in [
            (Noise::laplace(ratio(3 * unit, 1)), Noise::laplace(ratio(3, 1))),
            (Noise::gaussian(ratio(9 * unit * unit, 1)), Noise::gaussian(ratio(9, 1))),
        ] {
            let spread = |noise: Noise| {
                let mut source = seeded(5);
                let draws = (0..4_000).map(|_| noise.draw(&mut source).unwrap());
                draws.map(|x| (x as f64).powi(2)).sum::<f64>() / 4_000.0 / noise.variance()
            };
            let (wide, narrow) = (spread(wide.unwrap()), spread(narrow.unwrap()));
            assert!((wide - 1.0).abs() < 0.12, "{wide}");
            assert!((narrow - 1.0).abs() < 0.12, "{narrow}");
        }
    }

    #[test]
    fn noise_of_no_or_too_wide_a_scale_is_refused() {
        assert_eq!(Ratio::new(1, 0), None);
        assert_eq!(ratio(6, 4).parts(), (3, 2));
        let zero = ratio(0, 5);
        assert_eq!((Noise::laplace(zero), Noise::gaussian(zero)), (None, None));
        assert_eq!(Noise::laplace(ratio(1 << 48, 1)), None);
        assert_eq!(Noise::gaussian(ratio(1 << 96, 1)), None);
        assert_eq!(Noise::laplace(ratio((1 << 120) + 1, 1 << 119)), None);
        for noise in [
            Noise::laplace(ratio((1 << 48) - 1, 1)),
            Noise::laplace(ratio(1, 1 << 112)),
            Noise::gaussian(ratio((1 << 96) - 1, 1)),
            Noise::gaussian(ratio((1 << 112) - 1, (1 << 16) + 1)),
            Noise::gaussian(ratio(1, 1 << 112)),
        ] {
            noise.unwrap().draw(seeded(1)).unwrap();
        }
    }

    #[test]
    fn the_same_bytes_give_the_same_release() {
        let filter = filter(LAPLACE);
        let rows = summary([("x/counts", counts(&[5, 90]))]);
        assert_eq!(release(&filter, &rows, 1), release(&filter, &rows, 1));
        assert_ne!(release(&filter, &rows, 1), release(&filter, &rows, 2));
    }

    /// Through the whole filter: with and without one contributor, that is in
    /// two fields, no outcome is e^epsilon times as likely.
    #[test]
    fn neighbours_are_told_apart_by_no_more_than_epsilon() {
        let with = summary([("x/counts", counts(&[5, 9])), ("y/counts", counts(&[3]))]);
        let without = summary([("x/counts", counts(&[5, 8])), ("y/counts", counts(&[2]))]);
        let rule = LAPLACE.replace("\"rows\", ", "");
        let filter = filter(&rule);
        let outcomes = |summary: &Summary, seed| {
            let mut seen = BTreeMap::new();
            let plan = filter.plan(&summary.to_bytes(), 100).unwrap();
            let mut source = seeded(seed);
            for _ in 0..100_000 {
                let release = permit(&filter, plan.clone()).release(&mut source).unwrap();
                let out = Summary::parse(&release.summary).unwrap();
                let value = |name: &str, i: usize| match &out.fields[name] {
                    Field::NoisedCounts(noised) => noised.values[i],
                    _ => panic!(),
                };
                *seen.entry((value("x/counts", 1), value("y/counts", 0))).or_insert(0u32) += 1;
            }
            seen
        };
        let (a, b) = (outcomes(&with, 1), outcomes(&without, 2));
        let mut worst = f64::NEG_INFINITY;
        for (outcome, &n) in a.iter().filter(|(_, n)| **n > 1_000) {
            let m = f64::from(b[outcome]);
            let n = f64::from(n);
            let four_sigma = 4.0 * (1.0 / n + 1.0 / m).sqrt();
            let loss = (n / m).ln();
            assert!(loss < 1.0 + four_sigma, "{outcome:?}: {loss} > 1 + {four_sigma}");
            worst = worst.max(loss);
        }
        // The bound is reached, so that a noise of half the scale would break it.
        assert!(worst > 0.8, "{worst}");
    }

    /// What a contributor may add is scaled by the fields that it is in.
    #[test]
    fn the_noise_follows_max_per_row_fields_and_unit() {
        let rows = summary([
            ("x/counts", counts(&[5, 9])),
            ("x/sums", Field::Sums(vec![fixed_point(1.5).unwrap()])),
        ]);
        let variance = |extra: &str, name: &str| {
            let (out, _) = release(&filter(&format!("{LAPLACE}{extra}\n")), &rows, 0);
            out.noise_variance(name)
        };
        let near = |a: f64, b: f64| assert!((a / b - 1.0).abs() < 1e-5, "{a} {b}");
        // Three fields, rows among them: a scale of 3, and twice its square.
        near(variance("", "x/counts"), 18.0);
        near(variance("", "rows"), 18.0);
        near(variance("", "x/sums"), 18.0);
        near(variance("fields-per-row = 1", "x/counts"), 2.0);
        near(variance("fields-per-row = 5", "x/counts"), 50.0);
        near(variance("fields-per-row = 1\nmax-per-row = 4", "x/sums"), 32.0);
        // A count is a whole number.
        near(variance("fields-per-row = 1\nmax-per-row = 3.5", "x/counts"), 32.0);
        near(variance("fields-per-row = 1\nmax-per-row = 3.5", "x/sums"), 24.5);
        // Of Gaussian noise: fields max-per-row^2 / (2 rho).
        let gaussian = LAPLACE.replace("laplace", "gaussian") + "delta = 1e-6\n";
        let variance = |extra: &str, name: &str| {
            release(&filter(&format!("{gaussian}{extra}\n")), &rows, 0).0.noise_variance(name)
        };
        let rho = Cost::concentrated(epsilon(1.0), Delta::new(1e-6).unwrap()).unwrap().rho();
        near(variance("", "x/counts"), 3.0 / (2.0 * rho));
        near(variance("fields-per-row = 2\nmax-per-row = 3", "x/sums"), 9.0 / rho);
        near(variance("fields-per-row = 2\nmax-per-row = 2.5", "x/counts"), 9.0 / rho);
    }
}

mod ledgers {
    use super::*;

    #[derive(Debug)]
    struct Of(Cost);

    impl Charged for Of {
        fn cost(&self) -> Cost {
            self.0
        }
    }

    fn budget(epsilon: f64, delta: Option<f64>) -> Option<Budget> {
        let delta = delta.map(|delta| Delta::new(delta).unwrap());
        Some(Budget { epsilon: Epsilon::new(epsilon).unwrap(), delta, period_hours: 1 })
    }

    fn pure(value: f64) -> Of {
        Of(Cost::pure(epsilon(value)))
    }

    #[test]
    fn a_spent_ledger_refuses_and_says_what_of_what() {
        let mut ledger = Ledger::new(budget(1.0, None), 0);
        // Ten tenths are one: integers, not floats.
        for _ in 0..10 {
            let _ = ledger.spend(pure(0.1), 0, stored).unwrap();
        }
        let before = ledger.clone();
        let refused = ledger
            .spend(pure(0.25), 0, |_| -> Result<(), Infallible> { panic!("stored a refusal") })
            .unwrap_err();
        assert_eq!(refused, SpendError::Spent { budget: 1.0, spent: 1.0, asked: 0.25 });
        assert_eq!(
            refused.to_string(),
            "the privacy budget is spent: epsilon 1 a period, of which 1 is spent and 0.25 more \
             is asked for"
        );
        assert_eq!(ledger, before);
    }

    #[test]
    fn gaussian_noise_is_counted_in_rho() {
        let cost = Cost::concentrated(epsilon(1.0), Delta::new(1e-6).unwrap()).unwrap();
        let mut ledger = Ledger::new(budget(4.0, Some(1e-6)), 0);
        let mut releases = 0;
        while ledger.spend(Of(cost), 0, stored).is_ok() {
            releases += 1;
        }
        // Of basic composition it would be four.
        assert_eq!(releases, 14);
        assert!(ledger.spent().epsilon(Delta::new(1e-6).ok()) <= 4.0);
        let mut pure = Ledger::new(budget(4.0, None), 0);
        let refused = pure.spend(Of(cost), 0, stored).unwrap_err();
        assert!(matches!(refused, SpendError::Spent { asked, .. } if asked.is_infinite()));
    }

    #[test]
    fn without_a_budget_only_what_costs_nothing_is_permitted() {
        let mut ledger = Ledger::new(None, 0);
        let _ = ledger
            .spend(Of(Cost::NONE), 0, |_| -> Result<(), &str> { panic!("nothing to store") })
            .unwrap();
        assert!(ledger.spend(pure(1e-6), 0, stored).is_err());
        assert_eq!(ledger.counter(), 0);
    }

    #[test]
    fn a_new_period_has_a_new_budget_and_a_clock_that_goes_back_has_none() {
        let start = 1_000_000;
        let mut ledger = Ledger::new(budget(1.0, None), start);
        let _ = ledger.spend(pure(1.0), start, stored).unwrap();
        for now in [start + 3599, start, start - 1, 0] {
            assert!(ledger.spend(pure(0.1), now, stored).is_err(), "{now}");
        }
        // Periods follow one another whatever the time of the first spend.
        let _ = ledger.spend(pure(1.0), start + 2 * 3600 + 17, stored).unwrap();
        for now in [start + 3600, start + 3 * 3600 - 1] {
            assert!(ledger.spend(pure(0.1), now, stored).is_err(), "{now}");
        }
        let _ = ledger.spend(pure(1.0), start + 3 * 3600, stored).unwrap();
        assert!(ledger.spend(pure(1.0), u64::MAX, stored).is_ok());
        assert_eq!(ledger.counter(), 4);
    }

    #[test]
    fn the_charge_is_stored_before_there_is_a_permit() {
        let mut ledger = Ledger::new(budget(1.0, None), 0);
        let mut store = Vec::new();
        let permit = ledger.spend(pure(0.75), 0, |bytes| {
            store = bytes.to_vec();
            Ok::<(), Infallible>(())
        });
        assert!(permit.is_ok());
        assert_eq!(Ledger::parse(&store, budget(1.0, None), 1), Ok(ledger));
    }

    #[test]
    fn what_could_not_be_stored_counts_as_spent_and_is_not_permitted() {
        let mut ledger = Ledger::new(budget(1.0, None), 0);
        let refused = ledger.spend(pure(0.75), 0, |_| Err("disk full")).unwrap_err();
        assert_eq!(refused, SpendError::Store("disk full"));
        assert!(ledger.spend(pure(0.75), 0, stored).is_err());
        assert_eq!(ledger.counter(), 1);
    }

    #[test]
    fn a_ledger_survives_being_stored() {
        let both = Of(Cost::concentrated(epsilon(1.0), Delta::new(1e-6).unwrap())
            .unwrap()
            .and(Cost::pure(epsilon(0.5))));
        let mut ledger = Ledger::new(budget(4.0, Some(1e-6)), 77);
        let _ = ledger.spend(both, 80, stored).unwrap();
        assert_eq!(Ledger::parse(&ledger.to_bytes(), budget(4.0, Some(1e-6)), 0), Ok(ledger));
    }

    #[test]
    fn a_corrupt_ledger_is_refused() {
        let mut ledger = Ledger::new(budget(4.0, None), 1_790_000_000);
        let _ = ledger.spend(pure(0.5), 1_790_000_000, stored).unwrap();
        let mut bytes = ledger.to_bytes();
        for at in 0..bytes.len() {
            let was = bytes[at];
            for change in 1..=255 {
                bytes[at] = was ^ change;
                assert!(Ledger::parse(&bytes, None, 0).is_err(), "byte {at} ^ {change:02x}");
            }
            bytes[at] = was;
        }
        for cut in 0..bytes.len() {
            assert!(matches!(Ledger::parse(&bytes[..cut], None, 0), Err(LedgerError::Corrupt(_))));
        }
        assert!(Ledger::parse(&[bytes.clone(), vec![0]].concat(), None, 0).is_err());
        bytes[3] = 2;
        assert_eq!(Ledger::parse(&bytes, None, 0), Err(LedgerError::Version(2)));
    }

    #[test]
    fn a_ledger_that_was_rolled_back_is_refused_where_the_host_knows_better() {
        let mut ledger = Ledger::new(budget(4.0, None), 0);
        let old = ledger.to_bytes();
        let _ = ledger.spend(pure(0.5), 0, stored).unwrap();
        assert!(Ledger::parse(&old, None, 0).is_ok());
        let known = ledger.counter();
        assert_eq!(
            Ledger::parse(&old, None, known),
            Err(LedgerError::RolledBack { counter: 0, known: 1 })
        );
        assert!(Ledger::parse(&ledger.to_bytes(), None, known).is_ok());
    }

    #[test]
    fn a_closed_ledger_opens_with_the_next_period() {
        let mut ledger = Ledger::closed(budget(100.0, Some(1e-6)), 500, 41);
        assert!(ledger.spend(pure(1e-6), 500 + 3599, stored).is_err());
        let _ = ledger.spend(pure(100.0), 500 + 3600, stored).unwrap();
        assert_eq!(ledger.counter(), 42);
    }

    proptest! {
        /// However the spends fall, a period's sum is within its budget.
        #[test]
        fn no_period_spends_more_than_its_budget(
            spends in proptest::collection::vec((1..400u32, any::<bool>(), 0..2000u64), 1..60),
        ) {
            let delta = Delta::new(1e-6).unwrap();
            let mut ledger = Ledger::new(budget(1.0, Some(1e-6)), 0);
            let (mut now, mut sums) = (0, BTreeMap::<u64, Cost>::new());
            for (millis, gaussian, later) in spends {
                now += later;
                let epsilon = epsilon(f64::from(millis) / 1000.0);
                let cost = match Cost::concentrated(epsilon, delta) {
                    Some(cost) if gaussian => cost,
                    _ => Cost::pure(epsilon),
                };
                if ledger.spend(Of(cost), now, stored).is_ok() {
                    let sum = sums.entry(now / 3600).or_default();
                    *sum = sum.and(cost);
                }
            }
            for (period, sum) in sums {
                prop_assert!(sum.epsilon(Some(delta)) <= 1.0 + 1e-12, "{period}: {sum}");
            }
        }
    }
}

mod responses {
    use super::*;

    #[test]
    fn values_and_categories_out_of_range_are_refused() {
        let new = |values: &[u32], categories| {
            Responses::new(values.to_vec(), categories, epsilon(1.0)).map(|_| ())
        };
        assert_eq!(new(&[0], 1), Err(ResponseError::Categories(1)));
        assert_eq!(new(&[0], 0), Err(ResponseError::Categories(0)));
        assert_eq!(new(&[0], 70_000), Err(ResponseError::Categories(70_000)));
        assert_eq!(new(&[0, 3], 3), Err(ResponseError::Value { value: 3, categories: 3 }));
        assert_eq!(new(&[0, 2], 3), Ok(()));
    }

    #[test]
    fn each_value_costs_epsilon() {
        let responses = Responses::new(vec![1; 30], 2, epsilon(0.1)).unwrap();
        assert_eq!(responses.cost(), Cost::pure(epsilon(3.0)));
        assert_eq!(Responses::new(vec![], 2, epsilon(1.0)).unwrap().cost(), Cost::NONE);
    }

    /// True with e^epsilon / (e^epsilon + k - 1), to five standard deviations.
    #[test]
    fn the_truth_is_told_as_often_as_stated_and_estimated_without_bias() {
        let n = 60_000u32;
        for (categories, eps) in [(2u32, 0.5f64), (5, 1.0), (3, 2.25)] {
            let budget = Budget { epsilon: epsilon(100.0), delta: None, period_hours: 1 };
            let mut told = vec![0u64; categories as usize];
            let mut truths = 0;
            let mut source = seeded(9);
            // A third are 1, the others 0, told in parts that the budget covers.
            for i in 0..n / 30 {
                let values: Vec<u32> = (0..30).map(|j| u32::from(j % 3 == 0)).collect();
                let responses = Responses::new(values.clone(), categories, epsilon(eps)).unwrap();
                let mut ledger = Ledger::new(Some(budget), 0);
                let permit = ledger.spend(responses, i.into(), stored).unwrap();
                for (value, answer) in
                    values.into_iter().zip(permit.randomise(&mut source).unwrap())
                {
                    told[answer as usize] += 1;
                    truths += u32::from(answer == value);
                }
            }
            let p = eps.exp() / (eps.exp() + f64::from(categories) - 1.0);
            let n = f64::from(n);
            let sigma = (n * p * (1.0 - p)).sqrt();
            assert!((f64::from(truths) - n * p).abs() < 5.0 * sigma, "{truths} of {}", n * p);
            let estimate = estimate_counts(&told, epsilon(eps));
            let q = (1.0 - p) / (f64::from(categories) - 1.0);
            let sigma = (n / 4.0).sqrt() / (p - q);
            for (i, share) in [2.0 / 3.0, 1.0 / 3.0, 0.0, 0.0, 0.0].into_iter().enumerate() {
                if let Some(got) = estimate.get(i) {
                    assert!((got - n * share).abs() < 5.0 * sigma, "{i}: {got}");
                }
            }
            assert!((estimate.iter().sum::<f64>() - n).abs() < 1e-6);
        }
    }
}
