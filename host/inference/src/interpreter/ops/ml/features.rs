//! Operators that prepare features.

use std::collections::HashMap;

use headland_tensor::DType;
use ndarray::Axis;

use super::{batch, floats};
use crate::{
    interpreter::{Call, OpError, OpResult, sizes},
    value::{Array, Element, Scalar, Value, scalar_type, structural},
};

const F32: Element = Element::Plain(DType::F32);
const F64: Element = Element::Plain(DType::F64);

/// The size of the last axis.
fn columns(array: &Array) -> OpResult<usize> {
    array.shape().last().copied().ok_or_else(|| OpError::invalid("a tensor of rank 0"))
}

/// What an attribute has for a column: one for each, or the same for all.
fn for_columns<'a, T: Copy>(
    name: &str,
    values: &'a [T],
    columns: usize,
) -> OpResult<impl Fn(usize) -> T + 'a> {
    if values.is_empty() || (values.len() != columns && values.len() != 1) {
        let len = values.len();
        return Err(OpError::invalid(format!("{len} {name:?} for {columns} columns")));
    }
    Ok(move |column: usize| values[if values.len() == 1 { 0 } else { column }])
}

/// Elements of a tensor with the columns they are in.
fn with_columns<T: Copy>(values: Vec<T>, columns: usize) -> impl Iterator<Item = (usize, T)> {
    values.into_iter().enumerate().map(move |(index, value)| (index % columns.max(1), value))
}

/// `Scaler`: `(x - offset) * scale`, as f32.
pub(super) fn scaler(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let input = call.array(0)?;
    let columns = columns(input)?;
    let offset = for_columns("offset", call.floats("offset").unwrap_or(&[0.0]), columns)?;
    let scale = for_columns("scale", call.floats("scale").unwrap_or(&[1.0]), columns)?;
    let made: Vec<f32> = if input.element() == F64 {
        let scaled =
            |(c, v): (usize, f64)| ((v - f64::from(offset(c))) * f64::from(scale(c))) as f32;
        with_columns(input.to_f64s()?, columns).map(scaled).collect()
    } else {
        let scaled = |(c, v): (usize, f32)| (v - offset(c)) * scale(c);
        with_columns(input.to_f32s()?, columns).map(scaled).collect()
    };
    Ok(vec![Array::new(input.shape(), made)?.into()])
}

/// `Normalizer`: each row by its norm, as f32; a row whose norm is zero stays.
pub(super) fn normalizer(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let input = call.array(0)?;
    let columns = columns(input)?;
    let norm: fn(&[f64]) -> f64 = match call.text_or("norm", "MAX") {
        "MAX" => |row| row.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        "L1" => |row| row.iter().map(|v| v.abs()).sum(),
        "L2" => |row| row.iter().map(|v| v * v).sum::<f64>().sqrt(),
        other => return Err(OpError::unsupported(format!("norm {other:?}"))),
    };
    let mut values = input.to_f64s()?;
    for row in values.chunks_mut(columns.max(1)) {
        let norm = norm(row);
        if norm != 0.0 {
            row.iter_mut().for_each(|v| *v /= norm);
        }
    }
    Ok(vec![Array::from_f64s(F32, input.shape(), &values)?.into()])
}

/// `Imputer`: what equals one value becomes another, each column its own.
pub(super) fn imputer(call: &Call<'_>) -> OpResult<Vec<Value>> {
    fn impute<T: Scalar>(input: &Array, imputed: &[T], old: impl Fn(T) -> bool) -> OpResult<Array> {
        let columns = columns(input)?;
        let imputed = for_columns("imputed_value", imputed, columns)?;
        let values = with_columns(input.elements::<T>()?.to_vec(), columns);
        let made = values.map(|(column, v)| if old(v) { imputed(column) } else { v });
        Array::new(input.shape(), made.collect())
    }
    let input = call.array(0)?;
    let imputed = floats(call, "imputed_value_floats");
    let replaced = call.float_or("replaced_value_float", 0.0);
    let whole = call.ints("imputed_value_int64s").unwrap_or_default();
    let old = call.int_or("replaced_value_int64", 0);
    let made = match input.element() {
        F32 => impute(input, imputed, |v: f32| v == replaced || (v.is_nan() && replaced.is_nan())),
        F64 => {
            let imputed: Vec<f64> = imputed.iter().map(|&v| v.into()).collect();
            let replaced = f64::from(replaced);
            impute(input, &imputed, |v: f64| v == replaced || (v.is_nan() && replaced.is_nan()))
        }
        Element::Plain(DType::I64) => impute(input, whole, |v: i64| v == old),
        Element::Plain(DType::I32) => {
            let whole = whole.iter().map(|&v| i32::try_from(v)).collect::<Result<Vec<_>, _>>();
            let whole = whole.map_err(|_| OpError::invalid("an imputed value beyond int32"))?;
            impute(input, &whole, |v: i32| i64::from(v) == old)
        }
        other => Err(OpError::unsupported(format!("element type {other}"))),
    };
    Ok(vec![made?.into()])
}

/// `Binarizer`: 1 for what is above the threshold, else 0, in the same type.
pub(super) fn binarizer(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let input = call.array(0)?;
    let threshold = f64::from(call.float_or("threshold", 0.0));
    let above: Vec<bool> = input.to_f64s()?.into_iter().map(|v| v > threshold).collect();
    let made = scalar_type!(input.element(), [numbers] T => {
        Array::new(input.shape(), above.into_iter().map(T::from).collect::<Vec<T>>())
    })?;
    Ok(vec![made.into()])
}

/// `OneHotEncoder`: a new last axis, 1 at the element's category and 0 beside.
pub(super) fn one_hot_encoder(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let input = call.array(0)?;
    let whole = call.ints("cats_int64s").unwrap_or_default();
    let texts = call.texts("cats_strings").unwrap_or_default();
    let places: Vec<Option<usize>> = if input.element() == Element::Text {
        let places: HashMap<&str, usize> =
            texts.iter().enumerate().map(|(place, text)| (text.as_str(), place)).collect();
        input.texts()?.iter().map(|text| places.get(&**text).copied()).collect()
    } else {
        let places: HashMap<i64, usize> =
            whole.iter().enumerate().map(|(place, &value)| (value, place)).collect();
        let values = match input.element() {
            element if element.is_float() => {
                input.to_f64s()?.into_iter().map(|v| v as i64).collect()
            }
            _ => input.to_i64s()?,
        };
        values.iter().map(|value| places.get(value).copied()).collect()
    };
    let categories = whole.len().max(texts.len());
    let mut shape = input.shape().to_vec();
    shape.push(categories);
    call.reserve(F32, &shape)?;
    let mut made = vec![0f32; places.len() * categories];
    for (index, place) in places.into_iter().enumerate() {
        match place {
            Some(place) => made[index * categories + place] = 1.0,
            None if call.flag("zeros", true) => {}
            None => return Err(OpError::invalid(format!("element {index} is of no category"))),
        }
    }
    Ok(vec![Array::new(&shape, made)?.into()])
}

/// `ArrayFeatureExtractor`: these indices of the last axis. `[f]` gives
/// `[1, indices]`.
pub(super) fn array_feature_extractor(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let (input, indices) = (call.array(0)?, call.array(1)?);
    let columns = columns(input)?;
    let indices = sizes(&indices.to_i64s()?)?;
    if let Some(index) = indices.iter().find(|&&index| index >= columns) {
        return Err(OpError::invalid(format!("index {index} of {columns}")));
    }
    let mut shape = input.shape().to_vec();
    shape[input.rank() - 1] = indices.len();
    call.reserve(input.element(), &shape)?;
    let made = structural!(&[input], |views| {
        Ok::<_, OpError>(views[0].select(Axis(input.rank() - 1), &indices))
    })?;
    let made = if input.rank() == 1 { made.reshape(&[1, indices.len()])? } else { made };
    Ok(vec![made.into()])
}

/// `FeatureVectorizer`: the columns of all inputs side by side, as f32; each
/// cut, or filled with zeros, to its size in `inputdimensions`.
pub(super) fn feature_vectorizer(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let arrays = call.arrays()?;
    let batches = arrays.iter().map(|array| batch(array)).collect::<OpResult<Vec<_>>>()?;
    let widths = match call.ints("inputdimensions") {
        Some(widths) => sizes(widths)?,
        None => batches.iter().map(|b| b.1).collect(),
    };
    let rows = batches.first().map_or(0, |b| b.0);
    if widths.len() != arrays.len() || batches.iter().any(|b| b.0 != rows) {
        return Err(OpError::invalid(format!("widths {widths:?} for inputs of {batches:?}")));
    }
    let total = widths.iter().try_fold(0usize, |sum, &width| sum.checked_add(width));
    let total = total.ok_or_else(|| OpError::invalid("too many columns"))?;
    call.reserve(F32, &[rows, total])?;
    let mut made = vec![0f32; rows * total];
    let mut start = 0;
    for ((array, (_, columns)), width) in arrays.iter().zip(batches).zip(widths) {
        let values = array.to_f32s()?;
        let kept = columns.min(width);
        // Rows of no columns may be more than anybody can count.
        for row in 0..if kept == 0 { 0 } else { rows } {
            made[row * total + start..][..kept]
                .copy_from_slice(&values[row * columns..row * columns + kept]);
        }
        start += width;
    }
    Ok(vec![Array::new(&[rows, total], made)?.into()])
}

/// `CDist` of com.microsoft: the distance of each row of `[m, k]` to each of
/// `[n, k]`, as `[m, n]`.
pub(crate) fn cdist(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let (a, b) = (call.array(0)?, call.array(1)?);
    let ((m, k), (n, other)) = (batch(a)?, batch(b)?);
    if k != other {
        return Err(OpError::invalid(format!("rows of {k} and of {other}")));
    }
    let finish: fn(f64) -> f64 = match call.text_or("metric", "sqeuclidean") {
        "sqeuclidean" => |sum| sum,
        "euclidean" => f64::sqrt,
        other => return Err(OpError::unsupported(format!("metric {other:?}"))),
    };
    call.reserve(F64, &[m, n])?;
    let (x, y) = (a.to_f64s()?, b.to_f64s()?);
    let mut made = Vec::with_capacity(m * n);
    for index in 0..m * n {
        let (i, j) = (index / n, index % n);
        let pairs = x[i * k..(i + 1) * k].iter().zip(&y[j * k..(j + 1) * k]);
        made.push(finish(pairs.map(|(x, y)| (x - y) * (x - y)).sum()));
    }
    Ok(vec![Array::from_f64s(a.element(), &[m, n], &made)?.into()])
}
