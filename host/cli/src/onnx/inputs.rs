//! Inputs for a model that is run to see how it runs: given, or made up.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::PathBuf,
};

use anyhow::{Context, ensure};
use clap::Args;
use headland_inference::{Dimension, LoadLimits, ModelInfo, TensorInfo};
use headland_tensor::{DType, NamedTensors, Shape, Tensor};

use crate::{draw::Draw, npy};

/// The seed that inputs are drawn by.
const SEED: u64 = 1;

/// The inputs that the user gives, and the sizes of those that are made up.
#[derive(Debug, Clone, Args)]
pub struct Inputs {
    /// An input's name in the model and its file; inputs that are not given
    /// are made up.
    #[arg(long = "input", value_name = "NAME=FILE.npy", value_parser = parse_file)]
    files: Vec<(String, PathBuf)>,
    /// The size of a symbolic dimension of inputs that are made up, by the name
    /// that `onnx inspect` prints or as INPUT.AXIS; 1 where it is not given.
    #[arg(long = "size", value_name = "SYMBOL=N", value_parser = parse_size)]
    sizes: Vec<(String, u32)>,
}

/// What inputs that are not given are filled with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fill {
    /// Zeros.
    Zeros,
    /// Numbers that are the same in every run and suit most models: floats of
    /// 1 to 2 with either sign, integers of 0 and 1.
    Drawn,
}

impl Inputs {
    /// Every input of a model.
    ///
    /// # Errors
    /// A name or symbol that the model's inputs do not have, a file that cannot
    /// be read, and sizes that make a tensor larger than the limits allow.
    pub fn of(
        &self,
        info: &ModelInfo,
        limits: &LoadLimits,
        fill: Fill,
    ) -> anyhow::Result<NamedTensors> {
        let names: Vec<&str> = info.inputs.iter().map(|i| i.name.as_str()).collect();
        for (name, _) in &self.files {
            ensure!(
                names.contains(&name.as_str()),
                "the model has no input {name:?}; it has {}",
                names.join(", ")
            );
        }
        let sizes = self.sizes_of(info)?;
        let mut draw = Draw::new(SEED);
        let named = |input: &TensorInfo| {
            let file = self.files.iter().find(|(name, _)| *name == input.name);
            let tensor = match file {
                Some((_, file)) => npy::read(file)?,
                None => made_up(input, &sizes, limits, fill, &mut draw)
                    .with_context(|| format!("making up input {:?}", input.name))?,
            };
            Ok((input.name.clone(), tensor))
        };
        info.inputs.iter().map(named).collect()
    }

    /// The sizes that are given, by symbol.
    fn sizes_of<'a>(&self, info: &'a ModelInfo) -> anyhow::Result<HashMap<&'a str, u32>> {
        let mut places: BTreeMap<String, &str> = BTreeMap::new();
        for input in &info.inputs {
            for (axis, dimension) in input.shape.iter().enumerate() {
                if let Dimension::Symbolic(symbol) = dimension {
                    places.insert(format!("{}.{axis}", input.name), symbol);
                }
            }
        }
        let symbols: BTreeSet<&str> = places.values().copied().collect();
        let mut sizes = HashMap::new();
        for (given, size) in &self.sizes {
            let symbol = symbols.get(given.as_str()).or_else(|| places.get(given));
            let symbol = *symbol.with_context(|| {
                let known: Vec<&str> = symbols.iter().copied().collect();
                let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                format!("the inputs have no symbolic dimension {given:?}; they have {known}")
            })?;
            if let Some(other) = sizes.insert(symbol, *size) {
                ensure!(other == *size, "{symbol:?} is given the sizes {other} and {size}");
            }
        }
        Ok(sizes)
    }
}

fn made_up(
    input: &TensorInfo,
    sizes: &HashMap<&str, u32>,
    limits: &LoadLimits,
    fill: Fill,
    draw: &mut Draw,
) -> anyhow::Result<Tensor> {
    let size = |d: &Dimension| match d {
        Dimension::Fixed(size) => *size,
        Dimension::Symbolic(symbol) => sizes.get(symbol.as_str()).copied().unwrap_or(1),
    };
    let shape = Shape::new(input.shape.iter().map(size).collect::<Vec<u32>>())?;
    let (count, element) = (shape.element_count(), input.dtype.size_bytes());
    let len_bytes = (count as u64).saturating_mul(element as u64);
    ensure!(
        len_bytes <= limits.max_tensor_bytes,
        "{shape} takes {len_bytes} bytes, more than the {} allowed",
        limits.max_tensor_bytes
    );
    let mut bytes = vec![0u8; count * element];
    if fill == Fill::Drawn {
        for slot in bytes.chunks_exact_mut(element) {
            let number = drawn(input.dtype, draw.bits()).to_le_bytes();
            slot.copy_from_slice(&number[..element]);
        }
    }
    Ok(Tensor::new(input.dtype, shape, bytes)?)
}

/// A number's bits, of random ones: for floats, sign and fraction are random
/// and the exponent is that of 1.
fn drawn(dtype: DType, bits: u64) -> u64 {
    match dtype {
        DType::F16 => (bits & 0x83ff) | 0x3c00,
        DType::BF16 => (bits & 0x807f) | 0x3f80,
        DType::F32 => (bits & 0x807f_ffff) | 0x3f80_0000,
        DType::F64 => (bits & 0x800f_ffff_ffff_ffff) | 0x3ff0_0000_0000_0000,
        _ => bits & 1,
    }
}

/// `NAME=FILE`.
pub fn parse_file(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, file)) if !name.is_empty() && !file.is_empty() => {
            Ok((name.to_owned(), PathBuf::from(file)))
        }
        _ => Err("expected NAME=FILE.npy".to_owned()),
    }
}

/// `SYMBOL=N`. The symbol is all before the last `=`: it may be an expression.
fn parse_size(text: &str) -> Result<(String, u32), String> {
    let (symbol, size) = text.rsplit_once('=').unwrap_or_default();
    match size.parse() {
        Ok(size) if !symbol.is_empty() => Ok((symbol.to_owned(), size)),
        _ => Err("expected SYMBOL=N, N a size of at most 4294967295".to_owned()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn info() -> ModelInfo {
        let input = |name: &str, dtype, shape: &[Dimension]| TensorInfo {
            name: name.to_owned(),
            dtype,
            shape: shape.to_vec(),
        };
        let batch = Dimension::Symbolic("batch".to_owned());
        ModelInfo {
            inputs: vec![
                input("x", DType::F32, &[batch.clone(), Dimension::Fixed(100)]),
                input("half", DType::F16, &[Dimension::Fixed(100)]),
                input("ids", DType::I64, &[batch, Dimension::Symbolic("ids.1".to_owned())]),
            ],
            outputs: Vec::new(),
            ir_version: 10,
            opsets: BTreeMap::new(),
            producer: String::new(),
            operators: BTreeMap::new(),
            parameters: 0,
            parameter_bytes: 0,
        }
    }

    fn inputs(sizes: &[&str]) -> Inputs {
        Inputs { files: Vec::new(), sizes: sizes.iter().map(|s| parse_size(s).unwrap()).collect() }
    }

    fn refusal(sizes: &[&str]) -> String {
        let limits = LoadLimits::default();
        format!("{:#}", inputs(sizes).of(&info(), &limits, Fill::Zeros).unwrap_err())
    }

    #[test]
    fn sizes_hold_wherever_their_symbol_stands() {
        let made = inputs(&["batch=3"]).of(&info(), &LoadLimits::default(), Fill::Zeros).unwrap();
        let shapes: Vec<&[u32]> = made.iter().map(|(_, t)| t.shape().dims()).collect();
        assert_eq!(shapes, [&[3, 100][..], &[100], &[3, 1]]);
        assert!(made.iter().all(|(_, t)| t.bytes().iter().all(|b| *b == 0)));
    }

    #[test]
    fn an_axis_of_an_input_stands_for_its_symbol() {
        let limits = LoadLimits::default();
        let of = |sizes: &[&str]| inputs(sizes).of(&info(), &limits, Fill::Zeros).unwrap();
        assert_eq!(of(&["ids.0=3"]), of(&["batch=3"]));
        assert_eq!(of(&["ids.0=3", "x.0=3"]), of(&["batch=3"]));
        assert!(refusal(&["ids.0=3", "x.0=2"]).contains("the sizes 3 and 2"));
    }

    #[test]
    fn what_is_drawn_is_the_same_every_time_and_in_its_range() {
        let sizes = inputs(&["ids.1=50"]);
        let draw = || sizes.of(&info(), &LoadLimits::default(), Fill::Drawn).unwrap();
        let made = draw();
        assert_eq!(made, draw());
        for (name, range) in [("x", 1.0..2.0), ("half", 1.0..2.0), ("ids", 0.0..1.5)] {
            let values = made.iter().find(|(n, _)| n == name).unwrap().1.to_f64();
            assert!(values.iter().all(|v| range.contains(&v.abs())), "{name}: {values:?}");
            assert!(values.iter().any(|v| *v != values[0]), "{name}");
        }
    }

    #[test]
    fn what_does_not_fit_the_model_is_refused_by_name() {
        assert!(refusal(&["seq=2"]).contains("\"seq\"; they have batch, ids.1"));
        assert!(refusal(&["x.1=100"]).contains("\"x.1\""), "its size is fixed");
        assert!(refusal(&["batch=4000000"]).contains("input \"x\""));
        assert!(refusal(&["ids.1=4294967295"]).contains("more than the"));
        let limits = LoadLimits::default();
        let files = Inputs { files: vec![parse_file("y=y.npy").unwrap()], sizes: Vec::new() };
        let refusal = files.of(&info(), &limits, Fill::Zeros).unwrap_err().to_string();
        assert_eq!(refusal, "the model has no input \"y\"; it has x, half, ids");
    }

    #[test]
    fn a_size_is_a_number_after_the_last_equals_sign() {
        assert_eq!(parse_size("input.1=576"), Ok(("input.1".to_owned(), 576)));
        assert_eq!(parse_size("a=b=2"), Ok(("a=b".to_owned(), 2)));
        for bad in ["a", "=3", "a=", "a=-1", "a=4294967296"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }
}
