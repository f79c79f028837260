//! Combiners: pure functions of the tensors of several stages.

use half::{bf16, f16};
use headland_tensor::{DType, NamedTensors, Tensor, TensorError};

use crate::spec::Combine;

/// What came down one wire: the id of the stage that gave it, and what is
/// taken of it.
pub(crate) struct Given<'a> {
    pub(crate) from: &'a str,
    pub(crate) tensors: Vec<&'a (String, Tensor)>,
}

/// Make one set of tensors of several.
///
/// # Errors
/// A sentence that names the tensor and the stages.
pub(crate) fn combine(how: Combine, given: &[Given]) -> Result<NamedTensors, String> {
    match how {
        Combine::Concat => concat(given),
        Combine::Vote => vote(given).map(|tensor| vec![tensor]),
        Combine::Mean => {
            elementwise(given, |columns| columns.iter().sum::<f64>() / columns.len() as f64)
        }
        // Not `f64::max`, which would hide a NaN.
        Combine::Max => elementwise(given, |columns| {
            columns
                .iter()
                .copied()
                .reduce(|a, b| if a.is_nan() || a > b { a } else { b })
                .unwrap_or(f64::NAN)
        }),
    }
}

/// All tensors, in order.
///
/// # Errors
/// As [`combine`], for two of one name.
pub(crate) fn concat(given: &[Given]) -> Result<NamedTensors, String> {
    let mut all: NamedTensors = Vec::new();
    for (index, input) in given.iter().enumerate() {
        for &(name, tensor) in &input.tensors {
            if all.iter().any(|(taken, _)| taken == name) {
                let first = given[..=index]
                    .iter()
                    .find(|other| other.tensors.iter().any(|(taken, _)| taken == name))
                    .map_or(input.from, |other| other.from);
                return Err(format!(
                    "tensor {name:?} is given twice: by {first:?} and by {:?}",
                    input.from
                ));
            }
            all.push((name.clone(), tensor.clone()));
        }
    }
    Ok(all)
}

/// Apply `f` to the values that each input has for an element.
fn elementwise(given: &[Given], f: impl Fn(&[f64]) -> f64) -> Result<NamedTensors, String> {
    let Some((first, others)) = given.split_first() else { return Ok(Vec::new()) };
    for other in others {
        let extra = other
            .tensors
            .iter()
            .find(|(name, _)| first.tensors.iter().all(|(known, _)| known != name));
        if let Some((name, _)) = extra {
            return Err(format!(
                "{:?} gives tensor {name:?}, but {:?} does not",
                other.from, first.from
            ));
        }
    }
    let combine_one = |&(name, tensor): &&(String, Tensor)| {
        let (dtype, shape) = (tensor.dtype(), tensor.shape());
        if !matches!(dtype, DType::F16 | DType::BF16 | DType::F32 | DType::F64) {
            return Err(format!("tensor {name:?} is {dtype}, not of floats"));
        }
        let mut values = vec![tensor.to_f64()];
        for other in others {
            let Some((_, theirs)) = other.tensors.iter().find(|(known, _)| known == name) else {
                return Err(format!(
                    "{:?} gives tensor {name:?}, but {:?} does not",
                    first.from, other.from
                ));
            };
            if (theirs.dtype(), theirs.shape()) != (dtype, shape) {
                return Err(format!(
                    "tensor {name:?} is {dtype} {shape} from {:?}, but {} {} from {:?}",
                    first.from,
                    theirs.dtype(),
                    theirs.shape(),
                    other.from
                ));
            }
            values.push(theirs.to_f64());
        }
        let mut column = vec![0.0; values.len()];
        let combined: Vec<f64> = (0..shape.element_count())
            .map(|element| {
                for (slot, values) in column.iter_mut().zip(&values) {
                    *slot = values[element];
                }
                f(&column)
            })
            .collect();
        let combined =
            floats(dtype, shape.dims(), &combined).map_err(|e| format!("tensor {name:?}: {e}"))?;
        Ok((name.clone(), combined))
    };
    first.tensors.iter().map(combine_one).collect()
}

/// Round to the float dtype.
fn floats(dtype: DType, shape: &[u32], values: &[f64]) -> Result<Tensor, TensorError> {
    fn of<T: headland_tensor::Element>(
        shape: &[u32],
        values: &[f64],
        round: impl Fn(f64) -> T,
    ) -> Result<Tensor, TensorError> {
        Tensor::from_elements(shape, &values.iter().map(|&v| round(v)).collect::<Vec<T>>())
    }
    match dtype {
        DType::F16 => of(shape, values, f16::from_f64),
        DType::BF16 => of(shape, values, bf16::from_f64),
        DType::F32 => of(shape, values, |v| v as f32),
        _ => Tensor::from_elements(shape, values),
    }
}

/// The share of votes of each class, as f32, under the first input's name.
fn vote(given: &[Given]) -> Result<(String, Tensor), String> {
    let mut first: Option<&(String, Tensor)> = None;
    let mut shares: Vec<f32> = Vec::new();
    for input in given {
        let &[ballot] = &input.tensors[..] else {
            return Err(format!(
                "{:?} gives {} tensors; a vote needs one of each, so pick it: \"{}.NAME\"",
                input.from,
                input.tensors.len(),
                input.from
            ));
        };
        let (name, scores) = ballot;
        let (_, expected) = first.get_or_insert(ballot);
        if scores.shape() != expected.shape() {
            return Err(format!(
                "tensor {name:?} of {:?} has shape {}, but the first voter's has {}",
                input.from,
                scores.shape(),
                expected.shape()
            ));
        }
        let Some(&classes) = scores.shape().dims().last().filter(|&&classes| classes > 0) else {
            return Err(format!("tensor {name:?} of {:?} has no classes", input.from));
        };
        shares.resize(scores.shape().element_count(), 0.0);
        let rows = scores.to_f64();
        let rows = rows.chunks_exact(classes as usize);
        for (row, shares) in rows.zip(shares.chunks_exact_mut(classes as usize)) {
            if let Some(class) = argmax(row) {
                shares[class] += 1.0;
            }
        }
    }
    let Some((name, scores)) = first else { return Err("nobody votes".to_owned()) };
    shares.iter_mut().for_each(|share| *share /= given.len() as f32);
    let shares = Tensor::from_elements(scores.shape().dims(), &shares)
        .map_err(|e| format!("tensor {name:?}: {e}"))?;
    Ok((name.clone(), shares))
}

/// The first of the largest; nothing when there is a NaN.
fn argmax(row: &[f64]) -> Option<usize> {
    if row.iter().any(|value| value.is_nan()) {
        return None;
    }
    let first_largest = |best: usize, next: usize| if row[next] > row[best] { next } else { best };
    (0..row.len()).reduce(first_largest)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn f32s(name: &str, shape: &[u32], values: &[f32]) -> (String, Tensor) {
        (name.to_owned(), Tensor::from_elements(shape, values).unwrap())
    }

    fn run(how: Combine, given: &[&[(String, Tensor)]]) -> Result<NamedTensors, String> {
        let given: Vec<Given> = given
            .iter()
            .zip(["a", "b", "c", "d"])
            .map(|(tensors, from)| Given { from, tensors: tensors.iter().collect() })
            .collect();
        combine(how, &given)
    }

    #[test]
    fn mean_of_three() {
        let a = [f32s("x", &[2, 2], &[1.0, -2.0, 0.5, 100.0])];
        let b = [f32s("x", &[2, 2], &[2.0, -4.0, 0.25, 200.0])];
        let c = [f32s("x", &[2, 2], &[6.0, 9.0, 0.0, 0.0])];
        let got = run(Combine::Mean, &[&a, &b, &c]).unwrap();
        assert_eq!(got, [f32s("x", &[2, 2], &[3.0, 1.0, 0.25, 100.0])]);
    }

    #[test]
    fn mean_of_one_is_that_one_bit_by_bit() {
        let odd = [f32s("x", &[3], &[-0.0, f32::MIN_POSITIVE / 2.0, f32::INFINITY])];
        let got = run(Combine::Mean, &[&odd]).unwrap();
        assert_eq!(got[0].1.bytes()[4..], odd[0].1.bytes()[4..]);
        assert_eq!(got[0].1.to_f64(), [0.0, f64::from(f32::MIN_POSITIVE / 2.0), f64::INFINITY]);
    }

    #[test]
    fn mean_does_not_overflow_where_a_sum_of_f32_would() {
        let big = [f32s("x", &[1], &[f32::MAX])];
        let got = run(Combine::Mean, &[&big, &big]).unwrap();
        assert_eq!(got, big);
    }

    #[test]
    fn mean_of_halves_rounds_to_halves() {
        let a = [("x".to_owned(), Tensor::from_elements(&[1], &[f16::from_f32(1.0)]).unwrap())];
        let b = [("x".to_owned(), Tensor::from_elements(&[1], &[f16::from_f32(2.0)]).unwrap())];
        let got = run(Combine::Mean, &[&a, &b]).unwrap();
        assert_eq!(got[0].1.to_vec::<f16>().unwrap(), [f16::from_f32(1.5)]);
        let a = [("x".to_owned(), Tensor::from_elements(&[1], &[bf16::from_f32(1.0)]).unwrap())];
        let got = run(Combine::Max, &[&a]).unwrap();
        assert_eq!(got[0].1.to_vec::<bf16>().unwrap(), [bf16::from_f32(1.0)]);
    }

    #[test]
    fn names_are_matched_and_not_positions() {
        let a = [f32s("x", &[1], &[1.0]), f32s("y", &[1], &[10.0])];
        let b = [f32s("y", &[1], &[30.0]), f32s("x", &[1], &[3.0])];
        let got = run(Combine::Mean, &[&a, &b]).unwrap();
        assert_eq!(got, [f32s("x", &[1], &[2.0]), f32s("y", &[1], &[20.0])]);
    }

    #[test]
    fn max_takes_the_larger_and_keeps_a_nan() {
        let a = [f32s("x", &[4], &[1.0, -1.0, f32::NAN, 1.0])];
        let b = [f32s("x", &[4], &[2.0, -3.0, 1.0, f32::NAN])];
        let got = run(Combine::Max, &[&a, &b]).unwrap()[0].1.to_vec::<f32>().unwrap();
        assert_eq!(got[..2], [2.0, -1.0]);
        assert!(got[2].is_nan() && got[3].is_nan());
    }

    #[test]
    fn vote_counts_the_argmax_of_each_row() {
        let a = [f32s("p", &[2, 3], &[0.9, 0.1, 0.0, 0.2, 0.3, 0.5])];
        let b = [f32s("q", &[2, 3], &[0.4, 0.5, 0.1, 0.1, 0.1, 0.8])];
        let c = [f32s("r", &[2, 3], &[0.6, 0.3, 0.1, 0.9, 0.1, 0.0])];
        let d = [f32s("s", &[2, 3], &[0.5, 0.5, 0.0, f32::NAN, 1.0, 0.0])];
        let got = run(Combine::Vote, &[&a, &b, &c, &d]).unwrap();
        // Row 0: a, c and d (a tie goes to the lower class) for 0, b for 1.
        // Row 1: a and b for 2, c for 0, d has a NaN and no vote.
        assert_eq!(got, [f32s("p", &[2, 3], &[0.75, 0.25, 0.0, 0.25, 0.0, 0.5])]);
    }

    #[test]
    fn concat_is_the_union_in_order() {
        let a = [f32s("x", &[1], &[1.0])];
        let b = [f32s("y", &[2], &[2.0, 3.0])];
        let got = run(Combine::Concat, &[&a, &b]).unwrap();
        assert_eq!(got, [a[0].clone(), b[0].clone()]);
    }

    #[test]
    fn what_does_not_fit_is_refused_by_name() {
        let x = [f32s("x", &[2], &[1.0, 2.0])];
        let longer = [f32s("x", &[3], &[1.0, 2.0, 3.0])];
        let y = [f32s("y", &[2], &[1.0, 2.0])];
        let two = [x[0].clone(), y[0].clone()];
        let ints = [("x".to_owned(), Tensor::from_elements(&[1], &[1_i32]).unwrap())];
        let scalar = [f32s("x", &[], &[1.0])];
        let refused = |how, given: &[&[(String, Tensor)]]| run(how, given).unwrap_err();
        assert_eq!(
            refused(Combine::Mean, &[&x, &longer]),
            r#"tensor "x" is f32 [2] from "a", but f32 [3] from "b""#
        );
        assert_eq!(refused(Combine::Max, &[&x, &y]), r#""b" gives tensor "y", but "a" does not"#);
        assert_eq!(refused(Combine::Max, &[&two, &x]), r#""a" gives tensor "y", but "b" does not"#);
        assert_eq!(refused(Combine::Mean, &[&ints]), r#"tensor "x" is i32, not of floats"#);
        assert_eq!(
            refused(Combine::Concat, &[&x, &y, &x]),
            r#"tensor "x" is given twice: by "a" and by "c""#
        );
        assert_eq!(
            refused(Combine::Vote, &[&x, &two]),
            r#""b" gives 2 tensors; a vote needs one of each, so pick it: "b.NAME""#
        );
        assert_eq!(
            refused(Combine::Vote, &[&x, &longer]),
            r#"tensor "x" of "b" has shape [3], but the first voter's has [2]"#
        );
        assert_eq!(refused(Combine::Vote, &[&scalar]), r#"tensor "x" of "a" has no classes"#);
    }
}
