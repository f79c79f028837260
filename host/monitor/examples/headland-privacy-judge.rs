//! Answers questions on the privacy filter, one JSON line each, for
//! `tests/judge_privacy.py` to hold against OpenDP and SciPy.
//!
//! Numbers that must make the trip exactly are integers; those of privacy
//! losses are printed by Rust, whose shortest form reads back as the same f64.

#![allow(clippy::print_stdout)]

use std::{
    collections::BTreeMap,
    convert::Infallible,
    error::Error,
    io::{BufRead, stdin},
};

use headland_monitor::{
    Digest, Field, Summary, fixed_point,
    privacy::{
        Budget, Cost, Delta, Epsilon, Filter, Ledger, Noise, Policy, Ratio, Responses,
        estimate_counts,
    },
};
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
#[serde(tag = "ask", rename_all = "kebab-case")]
enum Question {
    /// Draws of noise, as a histogram.
    Draw { mechanism: String, num: u64, den: u64, draws: u64, seed: u64 },
    /// The noise that a rule gives to counts or sums: its variance, and what
    /// came out for a zero.
    Rule { rule: String, fields: usize, sums: bool },
    /// What Gaussian noise costs, and what several such cost together.
    Rho { epsilon: f64, delta: f64, times: u64, at: f64 },
    /// Randomised responses, as a histogram of what is told.
    Respond { value: u32, categories: u32, epsilon: f64, draws: u64, seed: u64 },
    /// True counts from told ones.
    Estimate { told: Vec<u64>, epsilon: f64 },
}

/// SplitMix64, that a case can be replayed.
fn seeded(mut state: u64) -> impl FnMut(&mut [u8]) -> Result<(), Infallible> {
    move |bytes| {
        for chunk in bytes.chunks_mut(8) {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            chunk.copy_from_slice(&(z ^ (z >> 31)).to_le_bytes()[..chunk.len()]);
        }
        Ok(())
    }
}

fn answer(question: Question) -> Result<Value, Box<dyn Error>> {
    Ok(match question {
        Question::Draw { mechanism, num, den, draws, seed } => {
            let ratio = Ratio::new(num.into(), den.into()).ok_or("a ratio of nought")?;
            let noise = match mechanism.as_str() {
                "laplace" => Noise::laplace(ratio),
                _ => Noise::gaussian(ratio),
            };
            let noise = noise.ok_or("no such noise")?;
            let mut random = seeded(seed);
            let mut seen = BTreeMap::<i128, u64>::new();
            for _ in 0..draws {
                *seen.entry(noise.draw(&mut random)?).or_default() += 1;
            }
            json!({"variance": noise.variance(), "seen": seen})
        }
        Question::Rule { rule, fields, sums } => {
            let policy: Policy = toml::from_str(&rule)?;
            let filter = Filter::new(&policy)?;
            let mut summary = Summary::empty("m", Digest::NONE);
            for i in 0..fields {
                let one = if sums { Field::Sums(vec![0]) } else { Field::Counts(vec![0]) };
                summary.fields.insert(format!("f{i}"), one);
            }
            let plan = filter.plan(&summary.to_bytes(), 0)?;
            let mut ledger = Ledger::new(filter.budget(), 0);
            let permit = ledger.spend(plan, 0, |_| Ok::<(), Infallible>(()))?;
            let release = permit.release(seeded(1))?;
            let spent = ledger.spent();
            json!({
                "variance": Summary::parse(&release.summary)?.noise_variance("f0"),
                "epsilon": spent.epsilon(filter.budget().and_then(|b| b.delta)),
                "rho": spent.rho(),
                "unit": fixed_point(1.0),
            })
        }
        Question::Rho { epsilon, delta, times, at } => {
            let one = Cost::concentrated(Epsilon::new(epsilon)?, Delta::new(delta)?);
            let one = one.ok_or("too small")?;
            json!({"rho": one.rho(), "epsilon": one.times(times).epsilon(Some(Delta::new(at)?))})
        }
        Question::Respond { value, categories, epsilon, draws, seed } => {
            let mut random = seeded(seed);
            let epsilon = Epsilon::new(epsilon)?;
            let budget = Budget { epsilon: Epsilon::new(100.0)?, delta: None, period_hours: 1 };
            let mut told = vec![0u64; categories as usize];
            for _ in 0..draws {
                let response = Responses::new(vec![value], categories, epsilon)?;
                let permit = Ledger::new(Some(budget), 0)
                    .spend(response, 0, |_| Ok::<(), Infallible>(()))?;
                for answer in permit.randomise(&mut random)? {
                    *told.get_mut(answer as usize).ok_or("no such category")? += 1;
                }
            }
            json!({"told": told})
        }
        Question::Estimate { told, epsilon } => {
            json!({"counts": estimate_counts(&told, Epsilon::new(epsilon)?)})
        }
    })
}

fn main() -> Result<(), Box<dyn Error>> {
    for line in stdin().lock().lines() {
        println!("{}", answer(serde_json::from_str(&line?)?)?);
    }
    Ok(())
}
