//! Cases of a conformance suite: a model, what it is fed, and what it must
//! give.
//!
//! # Source
//! The layout of ONNX's backend tests:
//! <https://github.com/onnx/onnx/blob/main/docs/OnnxBackendTest.md>.

use headland_tensor::Tensor;
use tract_onnx::pb::NodeProto;

use crate::{
    Array, Element, Engine, Executor, InferenceError, Interpreted, LoadLimits, Type, Value,
    value_from_onnx,
};

/// How close floats must be: `|actual - expected| <= atol + rtol * |expected|`.
#[derive(Debug, Clone, Copy)]
pub struct Tolerance {
    /// Relative to the expected value.
    pub rtol: f64,
    /// Absolute.
    pub atol: f64,
}

/// Serialised inputs and outputs of one run, in the model's order.
#[derive(Debug, Clone, Default)]
pub struct DataSet {
    /// What is fed; fewer than the model has where those at the end are left
    /// out.
    pub inputs: Vec<Vec<u8>>,
    /// What must come out.
    pub outputs: Vec<Vec<u8>>,
}

/// How a case went.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// Every output is as expected. What ran it, unless it was for values that
    /// are no tensors of the contract.
    Pass(Option<Engine>),
    /// The executor does not do this, and says why.
    Unsupported(String),
    /// It does something else.
    Fail(String),
}

/// Run a case and compare.
pub fn check(
    executor: &dyn Executor,
    onnx: &[u8],
    sets: &[DataSet],
    limits: &LoadLimits,
    tolerance: Tolerance,
) -> Outcome {
    let outcome = run(executor, onnx, sets, limits, tolerance);
    match outcome {
        Ok(Ok(engine)) => Outcome::Pass(engine),
        Ok(Err(difference)) => Outcome::Fail(difference),
        Err(e @ InferenceError::Unsupported { .. }) => Outcome::Unsupported(e.to_string()),
        Err(e) => Outcome::Fail(e.to_string()),
    }
}

/// What ran the case when all is as expected, or else the first difference.
fn run(
    executor: &dyn Executor,
    onnx: &[u8],
    sets: &[DataSet],
    limits: &LoadLimits,
    tolerance: Tolerance,
) -> Result<Result<Option<Engine>, String>, InferenceError> {
    // The types come from the model; only the interpreter knows those that the
    // contract does not have.
    let wide = Interpreted::load(onnx, limits);
    let (inputs, outputs) = crate::value::interface(onnx)?;
    let plain = |types: &[(String, Type)]| {
        types.iter().all(|(_, t)| matches!(t, Type::Tensor(Element::Plain(_), Some(_))))
    };
    let model =
        if plain(&inputs) && plain(&outputs) { Some(executor.load(onnx, limits)?) } else { None };
    for set in sets {
        let fed = read(&set.inputs, &inputs)?;
        let expected = read(&set.outputs, &outputs)?;
        let actual: Vec<Value> = match &model {
            Some(model) => {
                let named = inputs.iter().zip(fed).filter_map(|((name, _), value)| {
                    Some((name.clone(), value.array().ok()?.to_tensor()?))
                });
                let made = model.run(&named.collect::<Vec<_>>())?;
                made.iter().map(|(_, tensor)| tensor_value(tensor)).collect::<Result<_, _>>()?
            }
            None => match &wide {
                Ok(model) => executor.run_wide(model, fed)?,
                Err(e) => return Err(e.clone()),
            },
        };
        for ((name, _), (actual, expected)) in outputs.iter().zip(actual.iter().zip(&expected)) {
            if let Some(difference) = difference(actual, expected, tolerance) {
                return match drawn_by(onnx, limits) {
                    Some((op, node)) if same_kind(actual, expected) => {
                        let reason = "the expected numbers are another random generator's";
                        Err(InferenceError::unsupported(op, node, reason))
                    }
                    _ => Ok(Err(format!("output {name:?} {difference}"))),
                };
            }
        }
    }
    Ok(Ok(model.map(|model| model.engine())))
}

/// The operator of the model that draws random numbers and its node, if there
/// is one: what it gives is right when it has the right element type and shape,
/// and what a suite expects of it is what another generator gave.
fn drawn_by(onnx: &[u8], limits: &LoadLimits) -> Option<(String, String)> {
    let (model, _) = crate::front::open(onnx, limits).ok()?;
    let random = |node: &&NodeProto| match node.op_type.as_str() {
        "Bernoulli" | "Multinomial" | "RandomNormal" | "RandomNormalLike" | "RandomUniform"
        | "RandomUniformLike" => true,
        // Its third input says that it is to drop something.
        "Dropout" => node.input.get(2).is_some_and(|name| !name.is_empty()),
        _ => false,
    };
    let graph = model.graph?;
    let label = |node: &NodeProto| match node.name.as_str() {
        "" => node.output.first().cloned().unwrap_or_default(),
        name => name.to_owned(),
    };
    graph.node.iter().find(random).map(|node| (node.op_type.clone(), label(node)))
}

/// Whether two arrays have one element type and one shape.
fn same_kind(actual: &Value, expected: &Value) -> bool {
    match (actual, expected) {
        (Value::Array(a), Value::Array(e)) => a.element() == e.element() && a.shape() == e.shape(),
        _ => false,
    }
}

fn tensor_value(tensor: &Tensor) -> Result<Value, InferenceError> {
    Array::from_tensor(tensor)
        .map(Value::Array)
        .map_err(|e| InferenceError::malformed(e.to_string()))
}

fn read(files: &[Vec<u8>], types: &[(String, Type)]) -> Result<Vec<Value>, InferenceError> {
    files.iter().zip(types).map(|(bytes, (_, t))| value_from_onnx(bytes, t)).collect()
}

/// How two values differ; `None` when they are the same, floats as
/// `numpy.testing.assert_allclose` takes it: NaN equals NaN, infinities equal
/// those of their sign. All else must be equal.
pub fn difference(actual: &Value, expected: &Value, tolerance: Tolerance) -> Option<String> {
    match (actual, expected) {
        (Value::Array(actual), Value::Array(expected)) => arrays(actual, expected, tolerance),
        (Value::Sequence(actual), Value::Sequence(expected)) => {
            if actual.len() != expected.len() {
                let (actual, expected) = (actual.len(), expected.len());
                return Some(format!("has {actual} elements, expected {expected}"));
            }
            let mut pairs = actual.iter().zip(expected);
            pairs.find_map(|(actual, expected)| difference(actual, expected, tolerance))
        }
        (Value::Optional(None), Value::Optional(None)) => None,
        (Value::Optional(Some(actual)), expected) => difference(actual, expected, tolerance),
        (actual, Value::Optional(Some(expected))) => difference(actual, expected, tolerance),
        (Value::Map(actual), Value::Map(expected)) => {
            if !actual.keys().eq(expected.keys()) {
                return Some("has other keys".to_owned());
            }
            let mut pairs = actual.values().zip(expected.values());
            pairs.find_map(|(actual, expected)| difference(actual, expected, tolerance))
        }
        _ => Some(format!("is a {}, expected a {}", actual.kind(), expected.kind())),
    }
}

fn arrays(actual: &Array, expected: &Array, tolerance: Tolerance) -> Option<String> {
    let (is, should) = (actual.element(), expected.element());
    if is != should {
        return Some(format!("is {is}, expected {should}"));
    }
    if actual.shape() != expected.shape() {
        return Some(format!("has shape {:?}, expected {:?}", actual.shape(), expected.shape()));
    }
    if !should.is_float() {
        let equal = actual.lanes() == expected.lanes() || same_nan(actual, expected);
        return (!equal).then(|| match (actual.to_f64s(), expected.to_f64s()) {
            (Ok(a), Ok(e)) => {
                let wrong = a.iter().zip(&e).filter(|(a, e)| a != e).count();
                format!("has {wrong} of {} elements that differ", e.len())
            }
            _ => format!("is {:?}, expected {:?}", actual.lanes(), expected.lanes()),
        });
    }
    let (Ok(actual), Ok(expected)) = (actual.to_f64s(), expected.to_f64s()) else {
        return Some("is no number".to_owned());
    };
    let close = |a: f64, e: f64| {
        a == e
            || (a.is_nan() && e.is_nan())
            || (e.is_finite() && (a - e).abs() <= tolerance.atol + tolerance.rtol * e.abs())
    };
    let mut wrong =
        actual.iter().zip(&expected).enumerate().filter(|(_, (a, e))| !close(**a, **e)).peekable();
    let (index, (a, e)) = wrong.peek().map(|(index, (a, e))| (*index, (**a, **e)))?;
    let (count, total) = (wrong.count(), expected.len());
    Some(format!("has {count} of {total} elements that differ, first at {index}: {a} is not {e}"))
}

/// Small floats that are NaN have several codes.
fn same_nan(actual: &Array, expected: &Array) -> bool {
    let Element::Small(small) = expected.element() else { return false };
    let (Ok(actual), Ok(expected)) = (actual.codes(), expected.codes()) else { return false };
    actual
        .iter()
        .zip(expected)
        .all(|(&a, &e)| a == e || (small.decode(a).is_nan() && small.decode(e).is_nan()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const NUMPY: Tolerance = Tolerance { rtol: 1e-3, atol: 1e-5 };

    fn differs(actual: &[f32], expected: &[f32]) -> bool {
        let value = |v: &[f32]| Value::from(Array::new(&[v.len()], v.to_vec()).unwrap());
        difference(&value(actual), &value(expected), NUMPY).is_some()
    }

    #[test]
    fn floats_compare_as_numpy_does() {
        let (nan, inf) = (f32::NAN, f32::INFINITY);
        assert!(!differs(&[1.0009, 0.000_009], &[1.0, 0.0]));
        assert!(differs(&[1.002], &[1.0]));
        assert!(differs(&[0.000_02], &[0.0]));
        assert!(!differs(&[nan, inf, -inf], &[nan, inf, -inf]));
        assert!(differs(&[nan], &[0.0]));
        assert!(differs(&[0.0], &[nan]));
        assert!(differs(&[inf], &[-inf]));
        assert!(differs(&[f32::MAX], &[inf]));
        assert!(differs(&[inf], &[f32::MAX]));
    }

    #[test]
    fn dtype_shape_and_integers_must_be_the_same() {
        let i = |v: &[i32], shape: &[usize]| Value::from(Array::new(shape, v.to_vec()).unwrap());
        assert!(difference(&i(&[1, 2], &[2]), &i(&[1, 2], &[2]), NUMPY).is_none());
        assert!(difference(&i(&[1000, 2], &[2]), &i(&[1001, 2], &[2]), NUMPY).is_some());
        assert!(difference(&i(&[1, 2], &[2]), &i(&[1, 2], &[1, 2]), NUMPY).is_some());
        let f = Value::from(Array::new(&[1], vec![1f32]).unwrap());
        let d = Value::from(Array::new(&[1], vec![1f64]).unwrap());
        assert!(difference(&f, &d, NUMPY).is_some());
        assert!(difference(&f, &Value::Sequence(vec![f.clone()]), NUMPY).is_some());
    }
}
