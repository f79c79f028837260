//! Computes what `tests/judge.py` compares: JSON lines in, a case each; JSON
//! lines out, our numbers. Every f64 is the hexadecimal of its bits.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::io::stdin;

use explainer_attribution::{
    Allowance, Config, Contributions, Error, Method, Occlusion, Subject, explain, ndcg,
};
use serde::Deserialize;
use serde_json::{Value, json};

/// A number as the hexadecimal of its bits.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(try_from = "String")]
struct Bits(f64);

impl TryFrom<String> for Bits {
    type Error = std::num::ParseIntError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        u64::from_str_radix(&text, 16).map(|bits| Self(f64::from_bits(bits)))
    }
}

fn told(value: f64) -> Value {
    json!(format!("{:016x}", value.to_bits()))
}

fn numbers(bits: &[Bits]) -> Vec<f64> {
    bits.iter().map(|b| b.0).collect()
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Case {
    Contributions(Box<Explained>),
    Ndcg { baseline: Vec<Bits>, live: Vec<Bits> },
}

#[derive(Deserialize)]
struct Explained {
    model: Model,
    input: Vec<Bits>,
    shape: Vec<usize>,
    method: Method,
    background: Vec<Vec<Bits>>,
    groups: Vec<Vec<u32>>,
    coalitions: Option<u32>,
    seed: u64,
    patch: Vec<u32>,
    stride: Vec<u32>,
    fill: Bits,
}

/// `sum a_i x_i + c_i |x_i|`, and products of two and of three elements.
#[derive(Deserialize)]
struct Model {
    linear: Vec<Bits>,
    absolute: Vec<Bits>,
    pairs: Vec<(usize, usize, Bits)>,
    triples: Vec<(usize, usize, usize, Bits)>,
}

impl Model {
    fn of(&self, x: &[f64]) -> f64 {
        let linear = self.linear.iter().zip(x).map(|(a, x)| a.0 * x);
        let absolute = self.absolute.iter().zip(x).map(|(c, x)| c.0 * x.abs());
        let pairs = self.pairs.iter().map(|&(i, j, b)| b.0 * x[i] * x[j]);
        let triples = self.triples.iter().map(|&(i, j, k, b)| b.0 * x[i] * x[j] * x[k]);
        linear.chain(absolute).chain(pairs).chain(triples).sum()
    }
}

impl Explained {
    fn contributions(&self) -> Result<(Contributions, u64, f64), Error> {
        let config = Config {
            method: self.method,
            background: self.background.iter().map(|row| numbers(row)).collect(),
            groups: self.groups.clone(),
            coalitions: self.coalitions,
            seed: self.seed,
            occlusion: Occlusion {
                patch: self.patch.clone(),
                stride: self.stride.clone(),
                fill: self.fill.0,
            },
            ..Config::default()
        };
        config.check().map_err(Error::Model)?;
        let input = numbers(&self.input);
        let mut run =
            |rows: &[f64]| Ok(rows.chunks(input.len()).map(|row| self.model.of(row)).collect());
        let allowance = Allowance { batch_rows: 64, calls_per_row: 1, max_calls: u64::MAX };
        let mut subject = Subject::new(&mut run, &input, allowance, None)?;
        let contributions = explain(&mut subject, &self.shape, &config)?;
        Ok((contributions, subject.calls(), subject.prediction()))
    }
}

fn main() {
    for line in stdin().lines() {
        let said = match serde_json::from_str(&line.unwrap()).unwrap() {
            Case::Contributions(case) => match case.contributions() {
                Ok((c, calls, prediction)) => json!({
                    "base": told(c.base),
                    "values": c.values.into_iter().map(told).collect::<Vec<_>>(),
                    "prediction": told(prediction),
                    "calls": calls,
                }),
                Err(e) => json!({"error": e.to_string()}),
            },
            Case::Ndcg { baseline, live } => match ndcg(&numbers(&baseline), &numbers(&live)) {
                Ok(value) => json!({"ndcg": told(value)}),
                Err(e) => json!({"error": format!("{e:?}")}),
            },
        };
        println!("{said}");
    }
}
