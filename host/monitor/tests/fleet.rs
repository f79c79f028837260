//! One stream of rows, seen by one device or by many.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::convert::Infallible;

use headland_monitor::{
    Digest, Field, Summary,
    privacy::{Filter, Ledger, Policy},
};
use proptest::{collection::vec, prelude::*};
use support::{of_row, seeded};

fn empty() -> Summary {
    Summary::empty("monitor-test", Digest::of(b"reference"))
}

fn merged<'a>(summaries: impl IntoIterator<Item = &'a Summary>) -> Summary {
    let mut whole = empty();
    for summary in summaries {
        // As they would arrive: through their bytes.
        whole.merge(&Summary::parse(&summary.to_bytes()).unwrap()).unwrap();
    }
    whole
}

/// Merge by pairs, as a tree of gateways would.
fn tree(mut summaries: Vec<Summary>) -> Summary {
    while summaries.len() > 1 {
        summaries = summaries.chunks(2).map(merged).collect();
    }
    summaries.pop().unwrap_or_else(empty)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Which of 500 devices sees a row, and in which order and shape what they
    /// saw is merged, changes no byte.
    #[test]
    fn any_split_over_500_devices_gives_the_same_bytes(
        rows in vec(
            (prop_oneof![Just(f64::NAN), Just(0.1), -1e9..1e9, any::<f64>()], 0..9usize, 0..500usize),
            0..400,
        ),
        seed in any::<u64>(),
    ) {
        let whole = merged(&rows.iter().map(|&(x, c, _)| of_row(x, c)).collect::<Vec<_>>());
        let mut devices = vec![empty(); 500];
        for &(x, category, device) in &rows {
            devices[device].merge(&of_row(x, category)).unwrap();
        }
        prop_assert_eq!(merged(&devices).to_bytes(), whole.to_bytes());
        prop_assert_eq!(merged(devices.iter().rev()).to_bytes(), whole.to_bytes());
        let mut random = seeded(seed);
        for i in (1..devices.len()).rev() {
            let mut bytes = [0; 8];
            random(&mut bytes).unwrap();
            devices.swap(i, (u64::from_le_bytes(bytes) % (i as u64 + 1)) as usize);
        }
        prop_assert_eq!(tree(devices).to_bytes(), whole.to_bytes());
        prop_assert_eq!(whole.rows, rows.len() as u64);
    }
}

/// What 500 devices release with noise adds up to what they hold, within the
/// noise that the sum says it has. Cut at nought on each device the empty bins
/// would be hundreds of rows off.
#[test]
fn the_noise_of_500_devices_cancels_and_its_size_is_known() {
    let policy: Policy = toml::from_str(
        r#"
        budget = { epsilon = 1, period-hours = 24 }
        [[rule]]
        monitor = "*"
        fields = ["rows", "c/counts", "x/sums"]
        mechanism = "discrete-laplace"
        epsilon = 1
        max-per-row = 2
        "#,
    )
    .unwrap();
    let filter = Filter::new(&policy).unwrap();
    let mut random = seeded(3);
    let (mut exact, mut released, mut cut) = (Vec::new(), Vec::new(), Vec::new());
    for device in 0..500 {
        let rows: Vec<_> =
            (0..20).map(|i| of_row(f64::from(i % 2), (device + i) as usize % 2)).collect();
        let summary = merged(&rows);
        let plan = filter.plan(&summary.to_bytes(), 20).unwrap();
        let permit =
            Ledger::new(filter.budget(), 0).spend(plan, 0, |_| Ok::<(), Infallible>(())).unwrap();
        let release = permit.release(&mut random).unwrap();
        let release = Summary::parse(&release.summary).unwrap();
        cut.push(release.settled());
        released.push(release);
        exact.push(summary);
    }
    let (exact, cut) = (merged(&exact), merged(&cut));
    let noised = tree(released.clone());
    assert_eq!(noised.to_bytes(), merged(released.iter().rev()).to_bytes());
    let settled = noised.settled();
    let near = |name: &str, got: f64, wanted: f64| {
        let sigma = noised.noise_variance(name).sqrt();
        assert!(sigma > 0.0);
        assert!((got - wanted).abs() < 5.0 * sigma, "{name}: {got} for {wanted} +- {sigma}");
        sigma
    };
    near("rows", settled.rows as f64, exact.rows as f64);
    let sigma = (0..5)
        .map(|i| {
            let (got, wanted) = (settled.counts("c/counts")[i], exact.counts("c/counts")[i]);
            near("c/counts", got as f64, wanted as f64)
        })
        .fold(0.0, f64::max);
    let sums = |s: &Summary| headland_monitor::from_fixed_point(s.sums("x/sums")[0]);
    near("x/sums", sums(&settled), sums(&exact));
    // Bins 2 to 4 are empty on every device.
    assert_eq!(exact.counts("c/counts")[2..], [0, 0, 0]);
    assert!(cut.counts("c/counts")[2..].iter().all(|&n| n as f64 > 5.0 * sigma));
    assert!(matches!(noised.fields["c/counts"], Field::NoisedCounts(_)));
}

/// A device whose policy lets the exact counts out and one whose does not.
#[test]
fn exact_and_noised_summaries_of_a_fleet_merge_in_any_order() {
    let policy = |mechanism: &str| {
        let text = format!(
            "budget = {{ epsilon = 1, period-hours = 24 }}\n[[rule]]\nmonitor = \"*\"\n\
             fields = [\"rows\", \"c/counts\"]\nmechanism = {mechanism}"
        );
        Filter::new(&toml::from_str::<Policy>(&text).unwrap()).unwrap()
    };
    let filters = [policy("\"none\""), policy("\"discrete-laplace\"\nepsilon = 1")];
    let mut random = seeded(8);
    let released: Vec<Summary> = (0..6)
        .map(|i| {
            let filter = &filters[i % 2];
            let plan = filter.plan(&of_row(1.0, i).to_bytes(), 1).unwrap();
            let permit = Ledger::new(filter.budget(), 0)
                .spend(plan, 0, |_| Ok::<(), Infallible>(()))
                .unwrap();
            Summary::parse(&permit.release(&mut random).unwrap().summary).unwrap()
        })
        .collect();
    let whole = merged(&released);
    assert_eq!(whole.to_bytes(), merged(released.iter().rev()).to_bytes());
    assert_eq!(whole.to_bytes(), tree(released).to_bytes());
    // Three devices say exactly one row each, the others are in the field.
    assert_eq!(whole.rows, 3);
    assert!(whole.noise_variance("rows") > 0.0);
}
