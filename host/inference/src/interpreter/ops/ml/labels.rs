//! Operators that map labels, and those on maps.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use headland_tensor::DType;
use ndarray::{ArrayD, IxDyn};

use super::{Labels, batch};
use crate::{
    interpreter::{Call, OpError, OpResult, sizes},
    value::{Array, Element, Key, Value, structural},
};

const F32: Element = Element::Plain(DType::F32);
const I64: Element = Element::Plain(DType::I64);

/// What an element is looked up by.
#[derive(PartialEq, Eq, Hash)]
enum Lookup {
    Int(i64),
    /// The bits of a float, where all NaN are one, and both zeros.
    Float(u64),
    Text(Arc<str>),
}

/// The keys of all elements.
fn lookups(array: &Array) -> OpResult<Vec<Lookup>> {
    let bits = |v: f64| if v.is_nan() { f64::NAN.to_bits() } else { (v + 0.0).to_bits() };
    Ok(match array.element() {
        Element::Text => array.texts()?.iter().cloned().map(Lookup::Text).collect(),
        element if element.is_float() => {
            array.to_f64s()?.into_iter().map(|v| Lookup::Float(bits(v))).collect()
        }
        _ => array.to_i64s()?.into_iter().map(Lookup::Int).collect(),
    })
}

fn text_array<S: AsRef<str>>(texts: &[S]) -> OpResult<Array> {
    Array::from_texts(&[texts.len()], texts.iter().map(|t| t.as_ref().into()).collect())
}

/// The list that is one of `{name}_int64s`, `{name}_floats`, `{name}_strings`
/// and `{name}_tensor`.
fn list(call: &Call<'_>, name: &str) -> OpResult<Array> {
    if let Some(tensor) = call.tensor(&format!("{name}_tensor")) {
        tensor.reshape(&[tensor.len()])
    } else if let Some(values) = call.ints(&format!("{name}_int64s")) {
        Array::new(&[values.len()], values.to_vec())
    } else if let Some(values) = call.floats(&format!("{name}_floats")) {
        Array::new(&[values.len()], values.to_vec())
    } else if let Some(values) = call.texts(&format!("{name}_strings")) {
        text_array(&values)
    } else {
        Err(OpError::invalid(format!("no \"{name}_*\"")))
    }
}

/// What stands for elements that are not found, `[1]`.
fn default(call: &Call<'_>, element: Element) -> OpResult<Array> {
    if let Some(tensor) = call.tensor("default_tensor") {
        return tensor.reshape(&[1]);
    }
    match element {
        Element::Text => text_array(&[call.text_or("default_string", "_Unused")]),
        I64 => Array::new(&[1], vec![call.int_or("default_int64", -1)]),
        Element::Plain(DType::I32) => Array::new(&[1], vec![-1i32]),
        Element::Plain(DType::I16) => Array::new(&[1], vec![-1i16]),
        float => Array::from_f32s(float, &[1], vec![call.float_or("default_float", -0.0)]),
    }
}

/// Each element of the input replaced by the value that has its key's place,
/// the last where a key is there twice.
fn mapped(call: &Call<'_>, keys: &Array, values: &Array, default: &Array) -> OpResult<Vec<Value>> {
    let input = call.array(0)?;
    if keys.len() != values.len() {
        let (keys, values) = (keys.len(), values.len());
        return Err(OpError::invalid(format!("{keys} keys for {values} values")));
    }
    let places: HashMap<Lookup, usize> = lookups(keys)?.into_iter().zip(0..).collect();
    let places: Vec<Option<usize>> =
        lookups(input)?.iter().map(|key| places.get(key).copied()).collect();
    call.reserve(values.element(), input.shape())?;
    let made = structural!(&[values, default], |views| {
        let pick = |place: &Option<usize>| match place {
            Some(place) => views[0][[*place].as_slice()].clone(),
            None => views[1][[0].as_slice()].clone(),
        };
        let made = places.iter().map(pick).collect();
        ArrayD::from_shape_vec(IxDyn(input.shape()), made).map_err(OpError::from)
    })?;
    Ok(vec![made.into()])
}

/// `LabelEncoder`, all versions: in the first, a text's place in a list, and
/// back.
pub(super) fn label_encoder(call: &Call<'_>) -> OpResult<Vec<Value>> {
    if let Some(texts) = call.texts("classes_strings") {
        let places = Array::new(&[texts.len()], (0..texts.len() as i64).collect())?;
        return text_or_int(call, &text_array(&texts)?, &places);
    }
    let (keys, values) = (list(call, "keys")?, list(call, "values")?);
    mapped(call, &keys, &values, &default(call, values.element())?)
}

/// `CategoryMapper`: text to whole numbers, and back.
pub(super) fn category_mapper(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let texts = text_array(&call.texts("cats_strings").unwrap_or_default())?;
    let whole = call.ints("cats_int64s").unwrap_or_default();
    text_or_int(call, &texts, &Array::new(&[whole.len()], whole.to_vec())?)
}

/// From text to whole numbers where the input is text, else the other way.
fn text_or_int(call: &Call<'_>, texts: &Array, whole: &Array) -> OpResult<Vec<Value>> {
    if call.array(0)?.element() == Element::Text {
        mapped(call, texts, whole, &default(call, I64)?)
    } else {
        mapped(call, whole, texts, &default(call, Element::Text)?)
    }
}

/// `ZipMap`: `[n, classes]` to a sequence of n maps from the labels.
pub(super) fn zip_map(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let input = call.array(0)?;
    let (rows, columns) = batch(input)?;
    let keys: Vec<Key> = match Labels::new(call, "classlabels_int64s", "classlabels_strings")? {
        Labels::Ints(labels) => labels.into_iter().map(Key::Int).collect(),
        Labels::Texts(labels) => labels.iter().map(|t| Key::Text(t.to_string())).collect(),
    };
    if keys.len() != columns {
        return Err(OpError::invalid(format!("{} labels for {columns} columns", keys.len())));
    }
    // A map, and a value with its key, take far more than an element.
    let each = keys.iter().map(|key| match key {
        Key::Int(_) => 160,
        Key::Text(text) => 160 + text.len() as u64,
    });
    call.reserve_bytes((64 + each.sum::<u64>()).saturating_mul(rows as u64))?;
    let values = input.elements::<f32>()?;
    let map = |row: usize| {
        let values = &values[row * columns..(row + 1) * columns];
        let entries = keys.iter().cloned().zip(values.iter().map(|&v| Array::scalar(v).into()));
        Value::Map(entries.collect())
    };
    Ok(vec![Value::Sequence((0..rows).map(map).collect())])
}

/// The map that an input is.
fn map<'a>(call: &'a Call<'_>) -> OpResult<&'a BTreeMap<Key, Value>> {
    match call.need(0)? {
        Value::Map(map) => Ok(map),
        other => Err(OpError::invalid(format!("a {} where a map is", other.kind()))),
    }
}

/// The one element of a map's value.
fn single(value: &Value) -> OpResult<&Array> {
    match value.array()? {
        array if array.len() == 1 => Ok(array),
        array => Err(OpError::invalid(format!("a map to tensors of {:?}", array.shape()))),
    }
}

/// `CastMap`: the values of a map in the order of its keys, or at the places
/// that its keys are, as `[1, n]`.
pub(super) fn cast_map(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let map = map(call)?;
    let mut places = Vec::with_capacity(map.len());
    let len = match call.text_or("map_form", "DENSE") {
        "DENSE" => {
            places.extend(0..map.len());
            map.len()
        }
        "SPARSE" => {
            let len = sizes(&[call.int_or("max_map", 1)])?[0];
            for key in map.keys() {
                match key {
                    Key::Int(place) if (0..len as i64).contains(place) => {
                        places.push(*place as usize);
                    }
                    other => return Err(OpError::invalid(format!("key {other:?} of {len}"))),
                }
            }
            len
        }
        other => return Err(OpError::unsupported(format!("map_form {other:?}"))),
    };
    let values = map.values().map(single).collect::<OpResult<Vec<_>>>()?;
    let shape = [1, len];
    call.reserve(Element::Text, &shape)?;
    let text = |array: &Array| match array.element() {
        Element::Text => Ok::<Arc<str>, OpError>(array.texts()?[0].clone()),
        _ => Ok(format!("{:.6}", array.to_f64s()?[0]).into()),
    };
    let number = |array: &Array| match array.element() {
        Element::Text => {
            let text = &array.texts()?[0];
            text.trim()
                .parse::<f64>()
                .map_err(|_| OpError::invalid(format!("{text:?} is no number")))
        }
        _ => Ok(array.to_f64s()?[0]),
    };
    fn placed<T: Clone>(
        len: usize,
        pad: T,
        places: &[usize],
        values: &[&Array],
        of: impl Fn(&Array) -> OpResult<T>,
    ) -> OpResult<Vec<T>> {
        let mut made = vec![pad; len];
        for (&place, value) in places.iter().zip(values) {
            made[place] = of(value)?;
        }
        Ok(made)
    }
    let made = match call.text_or("cast_to", "TO_FLOAT") {
        "TO_FLOAT" => {
            Array::new(&shape, placed(len, 0f32, &places, &values, |a| Ok(number(a)? as f32))?)
        }
        "TO_INT64" => {
            Array::new(&shape, placed(len, 0i64, &places, &values, |a| Ok(number(a)? as i64))?)
        }
        "TO_STRING" => {
            Array::from_texts(&shape, placed(len, "0.f".into(), &places, &values, text)?)
        }
        other => Err(OpError::unsupported(format!("cast_to {other:?}"))),
    };
    Ok(vec![made?.into()])
}

/// `DictVectorizer`: the values of a map at the places of its keys in the
/// vocabulary, as `[1, vocabulary]`, and zero or no text beside.
pub(super) fn dict_vectorizer(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let map = map(call)?;
    let keys: Vec<Key> = match Labels::new(call, "int64_vocabulary", "string_vocabulary")? {
        Labels::Ints(labels) => labels.into_iter().map(Key::Int).collect(),
        Labels::Texts(labels) => labels.iter().map(|t| Key::Text(t.to_string())).collect(),
    };
    let shape = [1, keys.len()];
    let element = match map.values().next() {
        Some(value) => single(value)?.element(),
        None => F32,
    };
    let nothing = match element {
        Element::Text => text_array(&[""])?,
        I64 => Array::scalar(0i64),
        float => Array::from_f32s(float, &[], vec![0.0])?,
    };
    call.reserve(element, &shape)?;
    let found = keys.iter().map(|key| map.get(key).map_or(Ok(&nothing), single));
    let found = found.map(|array| array?.reshape(&[])).collect::<OpResult<Vec<_>>>()?;
    if found.is_empty() {
        return Err(OpError::invalid("an empty vocabulary"));
    }
    let made = super::super::shape::stack(&found.iter().collect::<Vec<_>>(), 0)?;
    Ok(vec![made.reshape(&shape)?.into()])
}
