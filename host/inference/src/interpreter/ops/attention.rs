//! Attention and what belongs to it.

use ndarray::{Axis, concatenate};

use super::{
    Op,
    reduce::{Real, permuted, softmax_line},
};
use crate::{
    interpreter::{Call, OpError, OpResult},
    value::{Array, Value, real_type, structural},
};

/// The operator of that name.
///
/// # Source
/// <https://onnx.ai/onnx/operators/>
pub(crate) fn find(name: &str) -> Option<Op> {
    Some(match name {
        "Attention" => attention,
        "RotaryEmbedding" => rotary_embedding,
        _ => return None,
    })
}

fn attention(call: &Call<'_>) -> OpResult<Vec<Value>> {
    real_type!(call.array(0)?.element(), T => attend::<T>(call))
}

/// `[batch, length, heads * size]` or `[batch, heads, length, size]` as the
/// latter. The attribute of that name says how many heads the former has.
fn by_head(call: &Call<'_>, array: &Array, heads: &str) -> OpResult<Array> {
    match *array.shape() {
        [_, _, _, _] => Ok(array.clone()),
        [batch, length, hidden] => {
            let (heads, size) = split_heads(call, heads, hidden)?;
            permuted(&array.reshape(&[batch, length, heads, size])?, &[0, 2, 1, 3])
        }
        ref other => Err(OpError::invalid(format!("shape {other:?} where 3 or 4 dimensions are"))),
    }
}

/// How many heads the attribute says, and what each has of `hidden` values.
fn split_heads(call: &Call<'_>, heads: &str, hidden: usize) -> OpResult<(usize, usize)> {
    let given = call.int_or(heads, 0);
    match usize::try_from(given) {
        Ok(count) if count > 0 && hidden.is_multiple_of(count) => Ok((count, hidden / count)),
        _ => Err(OpError::invalid(format!("{heads} is {given} for {hidden} values"))),
    }
}

/// What is kept from before, and then the new, along the length.
fn after(past: Option<&Array>, new: Array) -> OpResult<Array> {
    match past {
        None => Ok(new),
        Some(past) => {
            structural!(&[past, &new], |views| concatenate(Axis(2), &views).map_err(OpError::from))
        }
    }
}

fn sizes_of(array: &Array) -> OpResult<[usize; 4]> {
    let shape = array.shape();
    shape
        .try_into()
        .map_err(|_| OpError::invalid(format!("shape {shape:?} where 4 dimensions are")))
}

/// What is added to the scores: a mask that broadcasts to `[batch, heads,
/// queries, keys]`.
struct Bias<T> {
    values: Vec<T>,
    /// How far apart batches, heads and queries are; 0 where all have the same.
    strides: [usize; 3],
    /// How many keys a row has.
    len: usize,
}

impl<T: Real> Bias<T> {
    /// `sizes` are what it broadcasts to. From operator set 24 on, keys beyond
    /// the end of a row are masked; before, one may stand for all.
    fn new(call: &Call<'_>, mask: &Array, sizes: [usize; 4]) -> OpResult<Self> {
        let misfit = || OpError::invalid(format!("a mask {:?} for scores {sizes:?}", mask.shape()));
        let mut shape = [1; 4];
        let start = 4usize.checked_sub(mask.rank()).ok_or_else(misfit)?;
        shape[start..].copy_from_slice(mask.shape());
        let mut strides = [0; 3];
        let mut stride = shape[3];
        for axis in (0..3).rev() {
            match shape[axis] {
                1 => {}
                size if size == sizes[axis] => strides[axis] = stride,
                _ => return Err(misfit()),
            }
            stride = stride.saturating_mul(shape[axis]);
        }
        let fits = match call.opset() < 24 {
            true => shape[3] == sizes[3] || shape[3] == 1,
            false => shape[3] <= sizes[3],
        };
        if !fits {
            return Err(misfit());
        }
        let mut values = match mask.bools() {
            Ok(seen) => {
                let bias = |&seen: &u8| if seen == 0 { T::neg_infinity() } else { T::zero() };
                seen.iter().map(bias).collect()
            }
            Err(_) => T::read(mask)?.into_owned(),
        };
        if call.opset() < 24 && shape[3] == 1 && sizes[3] > 1 {
            call.reserve(mask.element(), &[values.len(), sizes[3]])?;
            values = values.into_iter().flat_map(|v| std::iter::repeat_n(v, sizes[3])).collect();
            strides = strides.map(|stride| stride.saturating_mul(sizes[3]));
            shape[3] = sizes[3];
        }
        Ok(Self { values, strides, len: shape[3] })
    }

    /// Add to the scores of one query.
    fn add(&self, [batch, head, query]: [usize; 3], scores: &mut [T]) {
        let [of_batch, of_head, of_query] = self.strides;
        let row = &self.values[batch * of_batch + head * of_head + query * of_query..][..self.len];
        for (score, &bias) in scores.iter_mut().zip(row) {
            *score += bias;
        }
        if let Some(beyond) = scores.get_mut(self.len..) {
            beyond.fill(T::neg_infinity());
        }
    }
}

/// `Attention`: for each query, the values weighted by the softmax of how well
/// their keys match it.
///
/// Where the specification of operator sets 23 and 24 says what cannot be
/// meant, this does as its errata and ONNX Runtime do: masked keys stay masked
/// under `softcap`; causal masks end where the keys that count end; and a query
/// that sees nothing gives 0.
///
/// # Source
/// <https://onnx.ai/onnx/operators/onnx__Attention.html>,
/// <https://github.com/onnx/onnx/pull/7867>, <https://github.com/onnx/onnx/pull/8068>
fn attend<T: Real>(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let (query, key, value) = (call.array(0)?, call.array(1)?, call.array(2)?);
    let element = query.element();
    let flat = query.rank() == 3;
    let query = by_head(call, query, "q_num_heads")?;
    let past = call.optional(4)?;
    let key = after(past, by_head(call, key, "kv_num_heads")?)?;
    let value = after(call.optional(5)?, by_head(call, value, "kv_num_heads")?)?;
    let [batches, heads, queries, size] = sizes_of(&query)?;
    let [key_batches, key_heads, keys, key_size] = sizes_of(&key)?;
    let [value_batches, value_heads, values, value_size] = sizes_of(&value)?;
    if [key_batches, key_heads, key_size] != [batches, value_heads, size]
        || [value_batches, values] != [batches, keys]
        || key_heads == 0
        || !heads.is_multiple_of(key_heads)
    {
        return Err(OpError::invalid(format!(
            "queries {:?}, keys {:?} and values {:?}",
            query.shape(),
            key.shape(),
            value.shape()
        )));
    }
    let scores_shape = [batches, heads, queries, keys];
    let bias = call.optional(3)?.map(|mask| Bias::new(call, mask, scores_shape)).transpose()?;
    let lengths = call.optional(6)?.map(Array::to_i64s).transpose()?;
    if lengths.as_ref().is_some_and(|l| l.len() != batches) {
        return Err(OpError::invalid("nonpad_kv_seqlen is not of the batch's size"));
    }
    let causal = call.flag("is_causal", false);
    let past_len = past.map_or(0, |past| past.shape()[2]);
    // How many keys a query sees.
    let sees = |batch: usize, at: usize| {
        let limit = lengths.as_ref().map_or(keys as i64, |l| l[batch].clamp(0, keys as i64));
        let before = match &lengths {
            Some(_) if past.is_none() => limit - queries as i64,
            _ => past_len as i64,
        };
        let limit = if causal { limit.min(before + at as i64 + 1) } else { limit };
        limit.max(0) as usize
    };
    let scale = call.float("scale").map_or_else(|| (size as f64).sqrt().recip(), f64::from);
    let scale = T::narrow(scale);
    let cap = T::narrow(call.float_or("softcap", 0.0).into());
    let stage = call.int_or("qk_matmul_output_mode", 0);
    let wants_scores = call.wants(3);

    let shape = if flat {
        let hidden = heads.checked_mul(value_size);
        let hidden = hidden.ok_or_else(|| OpError::invalid("too many heads"))?;
        vec![batches, queries, hidden]
    } else {
        vec![batches, heads, queries, value_size]
    };
    call.reserve(element, &shape)?;
    let mut out = vec![T::zero(); shape.iter().product()];
    let mut scores = Vec::new();
    if wants_scores {
        call.reserve(element, &scores_shape)?;
        scores.reserve_exact(scores_shape.iter().product());
    }
    let (query_data, key_data, value_data) = (T::read(&query)?, T::read(&key)?, T::read(&value)?);
    let mut row = Vec::new();
    // Where nothing is made, nothing bounds how many rows there are.
    let idle = out.is_empty() && scores.capacity() == 0;
    let rows = if idle { 0 } else { batches * heads * queries };
    for index in 0..rows {
        call.on_time()?;
        let (batch, head, at) = (index / queries / heads, index / queries % heads, index % queries);
        let shared = batch * key_heads + head / (heads / key_heads);
        let query = &query_data[index * size..][..size];
        let key = &key_data[shared * keys * size..][..keys * size];
        let value = &value_data[shared * keys * value_size..][..keys * value_size];
        let seen = sees(batch, at);
        let scored = if wants_scores { keys } else { seen };
        let mut keep = |now: i64, row: &[T]| {
            if wants_scores && now == stage {
                scores.extend_from_slice(row);
            }
        };
        row.clear();
        row.extend((0..scored).map(|at| dot(query, &key[at * size..][..size]) * scale));
        keep(0, &row);
        if let Some(bias) = &bias {
            bias.add([batch, head, at], &mut row);
        }
        row[seen..].fill(T::neg_infinity());
        keep(1, &row);
        if cap > T::zero() {
            for score in row.iter_mut().filter(|score| **score != T::neg_infinity()) {
                *score = (*score / cap).tanh() * cap;
            }
        }
        keep(2, &row);
        if row.iter().all(|&score| score == T::neg_infinity()) {
            row.fill(T::zero());
        } else {
            softmax_line(&mut row);
        }
        keep(3, &row);
        let place = if flat { (batch * queries + at) * heads + head } else { index };
        let out = &mut out[place * value_size..][..value_size];
        for (at, &weight) in row[..seen].iter().enumerate() {
            for (out, &value) in out.iter_mut().zip(&value[at * value_size..][..value_size]) {
                *out += weight * value;
            }
        }
    }
    let mut made = vec![T::write(element, &shape, out)?.into(), key.into(), value.into()];
    if wants_scores {
        if !(0..=3).contains(&stage) {
            return Err(OpError::invalid(format!("qk_matmul_output_mode is {stage}")));
        }
        made.push(T::write(element, &scores_shape, scores)?.into());
    }
    Ok(made)
}

/// The sum of the products, in several lanes.
fn dot<T: Real>(a: &[T], b: &[T]) -> T {
    const WIDTH: usize = 8;
    let mut lanes = [T::zero(); WIDTH];
    let (a, b) = (a.chunks_exact(WIDTH), b.chunks_exact(WIDTH));
    let rest = a.remainder().iter().zip(b.remainder());
    let rest = rest.fold(T::zero(), |sum, (&a, &b)| sum + a * b);
    for (a, b) in a.zip(b) {
        for (lane, (&a, &b)) in lanes.iter_mut().zip(a.iter().zip(b)) {
            *lane += a * b;
        }
    }
    lanes.into_iter().fold(rest, |sum, lane| sum + lane)
}

fn rotary_embedding(call: &Call<'_>) -> OpResult<Vec<Value>> {
    real_type!(call.array(0)?.element(), T => rotate::<T>(call))
}

/// `RotaryEmbedding`: of `[batch, length, heads * size]` or `[batch, heads,
/// length, size]`, the first values of each head in pairs, each pair turned by
/// the angle of its place.
///
/// # Source
/// <https://onnx.ai/onnx/operators/onnx__RotaryEmbedding.html>
fn rotate<T: Real>(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let array = call.array(0)?;
    let (cosines, sines) = (call.array(1)?, call.array(2)?);
    let (batches, heads, length, size, flat) = match *array.shape() {
        [batches, heads, length, size] => (batches, heads, length, size, false),
        [batches, length, hidden] => {
            let (heads, size) = split_heads(call, "num_heads", hidden)?;
            (batches, heads, length, size, true)
        }
        ref other => {
            return Err(OpError::invalid(format!("shape {other:?} where 3 or 4 dimensions are")));
        }
    };
    let turned = match call.int_or("rotary_embedding_dim", 0) {
        0 => size,
        given => usize::try_from(given)
            .ok()
            .filter(|&turned| turned <= size)
            .ok_or_else(|| OpError::invalid(format!("{given} of {size} values are turned")))?,
    };
    if !turned.is_multiple_of(2) {
        return Err(OpError::invalid(format!("{turned} values do not pair")));
    }
    let half = turned / 2;
    let positions = call.optional(3)?;
    let angles = match positions {
        Some(_) => matches!(*cosines.shape(), [_, width] if width == half),
        None => *cosines.shape() == [batches, length, half],
    };
    let places = positions.is_none_or(|p| *p.shape() == [batches, length]);
    if !angles || !places || cosines.shape() != sines.shape() {
        return Err(OpError::invalid(format!(
            "angles {:?} and {:?} for {half} pairs of {:?}",
            cosines.shape(),
            sines.shape(),
            array.shape()
        )));
    }
    let positions = positions.map(Array::to_i64s).transpose()?;
    let mut data = T::read(array)?.into_owned();
    let (cosines, sines) = (T::read(cosines)?, T::read(sines)?);
    let interleaved = call.flag("interleaved", false);
    let vectors = if half == 0 || data.is_empty() { 0 } else { batches * heads * length };
    for index in 0..vectors {
        let (batch, at) = match flat {
            true => (index / heads / length, index / heads % length),
            false => (index / length / heads, index % length),
        };
        let place = batch * length + at;
        let row = match &positions {
            None => Some(place),
            Some(positions) => usize::try_from(positions[place]).ok(),
        };
        let row = row.filter(|&row| row < cosines.len() / half);
        let row = row.ok_or_else(|| OpError::invalid("a position that has no angles"))?;
        let (cosines, sines) = (&cosines[row * half..][..half], &sines[row * half..][..half]);
        let vector = &mut data[index * size..][..turned];
        for (pair, (&cosine, &sine)) in cosines.iter().zip(sines).enumerate() {
            let (first, second) =
                if interleaved { (2 * pair, 2 * pair + 1) } else { (pair, pair + half) };
            let (x, y) = (vector[first], vector[second]);
            vector[first] = cosine * x - sine * y;
            vector[second] = sine * x + cosine * y;
        }
    }
    Ok(vec![T::write(array.element(), array.shape(), data)?.into()])
}
