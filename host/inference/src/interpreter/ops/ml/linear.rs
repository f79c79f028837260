//! Linear models.

use headland_tensor::DType;

use super::{Labels, Transform, batch, dot, floats, largest};
use crate::{
    interpreter::{Call, OpError, OpResult, sizes},
    value::{Array, Element, Value},
};

/// `x · wᵀ + b` for a batch `[n, f]` and weights `[targets, f]`: a score for
/// each row and target.
fn scores(call: &Call<'_>, targets: usize, intercepts: &[f32]) -> OpResult<(usize, Vec<f64>)> {
    let input = call.array(0)?;
    let (rows, features) = batch(input)?;
    let weights = floats(call, "coefficients");
    if targets.checked_mul(features) != Some(weights.len()) {
        return Err(OpError::invalid(format!(
            "{} coefficients for {targets} targets and {features} features",
            weights.len()
        )));
    }
    call.reserve(Element::Plain(DType::F64), &[rows, targets.saturating_mul(2)])?;
    let values = input.to_f32s()?;
    let mut made = Vec::with_capacity(rows * targets);
    for row in 0..rows {
        let row = &values[row * features..(row + 1) * features];
        for target in 0..targets {
            let weights = &weights[target * features..(target + 1) * features];
            let intercept = intercepts.get(target).copied().unwrap_or(0.0);
            made.push(dot(row, weights) + f64::from(intercept));
        }
    }
    Ok((rows, made))
}

/// `LinearRegressor`: `[n, f]` to `[n, targets]`.
pub(super) fn regressor(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let targets = sizes(&[call.int_or("targets", 1)])?[0];
    if targets == 0 {
        return Err(OpError::invalid("targets is 0"));
    }
    let transform = Transform::new(call)?;
    let intercepts = floats(call, "intercepts");
    let intercepts = if intercepts.len() == targets { intercepts } else { &[] };
    let (rows, mut made) = scores(call, targets, intercepts)?;
    made.chunks_mut(targets).for_each(|row| transform.apply(row));
    let made = made.into_iter().map(|s| s as f32).collect::<Vec<_>>();
    Ok(vec![Array::new(&[rows, targets], made)?.into()])
}

/// `LinearClassifier`: `[n, f]` to labels `[n]` and scores `[n, classes]`. One
/// set of coefficients tells two classes apart.
pub(super) fn classifier(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let labels = Labels::new(call, "classlabels_ints", "classlabels_strings")?;
    let transform = Transform::new(call)?;
    let intercepts = floats(call, "intercepts");
    let classes = if intercepts.is_empty() { labels.len() } else { intercepts.len() };
    let (rows, mut made) = scores(call, classes, intercepts)?;
    call.reserve(labels.element(), &[rows])?;
    if classes != 1 {
        let mut picks = Vec::with_capacity(rows);
        for row in made.chunks_mut(classes) {
            picks.push(largest(row.iter().copied()));
            transform.apply(row);
        }
        let made = made.into_iter().map(|s| s as f32).collect::<Vec<_>>();
        return Ok(vec![labels.at(&picks)?.into(), Array::new(&[rows, classes], made)?.into()]);
    }
    let picks: Vec<usize> = made.iter().map(|&score| usize::from(score > 0.0)).collect();
    let (picked, made) = if labels.len() == 2 {
        (labels.at(&picks)?, made.into_iter().flat_map(|s| transform.pair(s)).collect())
    } else {
        made.chunks_mut(1).for_each(|row| transform.apply(row));
        (labels.no_and_yes().at(&picks)?, made)
    };
    let made: Vec<f32> = made.into_iter().map(|s| s as f32).collect();
    let columns = if labels.len() == 2 { 2 } else { 1 };
    Ok(vec![picked.into(), Array::new(&[rows, columns], made)?.into()])
}
