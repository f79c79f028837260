//! Operators on text.

use std::{
    collections::{HashMap, HashSet},
    hash::Hash,
    sync::Arc,
};

use ndarray::IxDyn;
use regex::RegexBuilder;

use super::{
    Op,
    shape::{count, zeros},
};
use crate::{
    interpreter::{Call, OpError, OpResult, broadcast_shape, sizes},
    value::{Array, Element, Scalar, Value, shaped},
};

/// The operator of that name.
///
/// # Source
/// <https://onnx.ai/onnx/operators/>
pub(crate) fn find(name: &str) -> Option<Op> {
    Some(match name {
        "RegexFullMatch" => regex_full_match,
        "StringConcat" => string_concat,
        "StringNormalizer" => string_normalizer,
        "StringSplit" => string_split,
        "TfIdfVectorizer" => tf_idf_vectorizer,
        _ => return None,
    })
}

/// Texts of two arrays that broadcast, one after the other.
fn string_concat(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let (left, right) = (call.array(0)?, call.array(1)?);
    let shape = broadcast_shape(&[left.shape(), right.shape()])?;
    call.reserve(Element::Text, &shape)?;
    let total = count(&shape)?;
    // Each text of an array appears as often as every other.
    let bytes = |array: &Array| -> OpResult<u64> {
        let sum: u64 = array.texts()?.iter().map(|text| text.len() as u64).sum();
        Ok(sum.saturating_mul((total / array.len().max(1)) as u64))
    };
    call.reserve_bytes(bytes(left)?.saturating_add(bytes(right)?))?;
    let (left, right) =
        (shaped(left.shape(), left.texts()?)?, shaped(right.shape(), right.texts()?)?);
    let wide = IxDyn(&shape);
    let (Some(left), Some(right)) = (left.broadcast(wide.clone()), right.broadcast(wide)) else {
        return Err(OpError::invalid(format!("the shapes do not broadcast to {shape:?}")));
    };
    let made = left.iter().zip(&right).map(|(left, right)| [&**left, &**right].concat().into());
    Ok(vec![Array::from_texts(&shape, made.collect())?.into()])
}

/// The parts of each text along a new last axis, which empty texts fill up, and
/// how many parts there are.
fn string_split(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let array = call.array(0)?;
    let delimiter = call.text_or("delimiter", "");
    // One more part than splits; no limit where it is negative.
    let limit = call.int("maxsplit").and_then(|splits| usize::try_from(splits).ok());
    let limit = limit.map_or(usize::MAX, |splits| splits.saturating_add(1));
    let texts = array.texts()?;
    let parts = |text: &Arc<str>| match delimiter {
        "" => text.split_whitespace().count().min(limit),
        delimiter => (text.matches(delimiter).count() + 1).min(limit),
    };
    let counts: Vec<i64> = texts.iter().map(|text| parts(text) as i64).collect();
    let longest = counts.iter().max().map_or(0, |&longest| longest as usize);
    let shape = [array.shape(), &[longest]].concat();
    call.reserve(Element::Text, &shape)?;
    let empty: Arc<str> = "".into();
    let mut made = Vec::with_capacity(count(&shape)?);
    for (index, text) in texts.iter().enumerate() {
        match delimiter {
            "" => made.extend(words(text, limit)),
            delimiter => made.extend(text.splitn(limit, delimiter).map(Arc::from)),
        }
        made.resize((index + 1) * longest, empty.clone());
    }
    Ok(vec![Array::from_texts(&shape, made)?.into(), Array::new(array.shape(), counts)?.into()])
}

/// What white space separates, at most `limit` parts, the last being the rest.
fn words(text: &str, limit: usize) -> Vec<Arc<str>> {
    let mut rest = text.trim();
    let mut parts = Vec::new();
    while !rest.is_empty() {
        let end = match rest.find(char::is_whitespace) {
            Some(end) if parts.len() + 1 < limit => end,
            _ => rest.len(),
        };
        parts.push(rest[..end].into());
        rest = rest[end..].trim_start();
    }
    parts
}

/// The texts that are no stop words, in upper or lower case.
fn string_normalizer(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let array = call.array(0)?;
    let ([_] | [1, _]) = array.shape() else {
        return Err(OpError::invalid(format!("{:?} where [C] or [1, C] is", array.shape())));
    };
    let exact = call.flag("is_case_sensitive", false);
    let key = |text: &str| if exact { text.to_owned() } else { text.to_lowercase() };
    let stops = call.texts("stopwords").unwrap_or_default();
    let stops: HashSet<String> = stops.iter().map(|stop| key(stop)).collect();
    let change: fn(&Arc<str>) -> Arc<str> = match call.text_or("case_change_action", "NONE") {
        "NONE" => Arc::clone,
        "LOWER" => |text| text.to_lowercase().into(),
        "UPPER" => |text| text.to_uppercase().into(),
        other => return Err(OpError::unsupported(format!("case_change_action {other:?}"))),
    };
    let kept = array.texts()?.iter().filter(|text| !stops.contains(&key(text)));
    let made: Vec<Arc<str>> = kept.map(change).collect();
    let mut shape = array.shape().to_vec();
    if let Some(last) = shape.last_mut() {
        *last = made.len().max(1);
    }
    // Where nothing is kept, one empty text is.
    let made = match made.len() {
        0 => zeros(Element::Text, &shape)?,
        _ => Array::from_texts(&shape, made)?,
    };
    Ok(vec![made.into()])
}

/// Bytes that a compiled pattern may take, and what is kept while it runs.
const PATTERN_BYTES: usize = 1 << 20;

/// Whether a pattern matches the whole of each text. The automata of the crate
/// take time linear in the text, as RE2's do.
///
/// # Source
/// <https://github.com/google/re2/wiki/Syntax>
fn regex_full_match(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let array = call.array(0)?;
    let pattern = call.text("pattern").ok_or_else(|| OpError::invalid("there is no pattern"))?;
    let build = |pattern: &str| {
        RegexBuilder::new(pattern)
            .size_limit(PATTERN_BYTES)
            .dfa_size_limit(PATTERN_BYTES)
            .build()
            .map_err(|e| OpError::unsupported(format!("the pattern: {e}")))
    };
    let pattern = from_re2(pattern);
    // By itself first: "a)(b" would pass within a group.
    build(&pattern)?;
    let whole = build(&format!(r"\A(?:{pattern})\z"))?;
    let made: Vec<bool> = array.texts()?.iter().map(|text| whole.is_match(text)).collect();
    Ok(vec![Array::from_bools(array.shape(), &made)?.into()])
}

/// A pattern of RE2 as this crate writes it: there the classes of one letter
/// are ASCII, `\Q` quotes up to `\E`, and brackets, `&&`, `--` and `~~` are
/// nothing special within a class.
fn from_re2(pattern: &str) -> String {
    let mut made = String::with_capacity(pattern.len());
    let mut rest = pattern;
    // Where the elements of the class that this is in begin.
    let mut class = None;
    while let Some(next) = rest.chars().next() {
        let mut taken = next.len_utf8();
        match next {
            '\\' => {
                let escaped = rest[1..].chars().next();
                taken += escaped.map_or(0, char::len_utf8);
                match escaped {
                    Some('d') => made.push_str("[0-9]"),
                    Some('D') => made.push_str("[^0-9]"),
                    Some('w') => made.push_str("[0-9A-Za-z_]"),
                    Some('W') => made.push_str("[^0-9A-Za-z_]"),
                    Some('s') => made.push_str(r"[\t\n\f\r\x20]"),
                    Some('S') => made.push_str(r"[^\t\n\f\r\x20]"),
                    Some('b') if class.is_none() => made.push_str(r"(?-u:\b)"),
                    Some('B') if class.is_none() => made.push_str(r"(?-u:\B)"),
                    Some('Q') => {
                        let quoted = &rest[taken..];
                        let (quoted, end) = match quoted.find(r"\E") {
                            Some(end) => (&quoted[..end], end + 2),
                            None => (quoted, quoted.len()),
                        };
                        made.push_str(&regex::escape(quoted));
                        taken += end;
                    }
                    Some(plain @ ('<' | '>')) => made.push(plain),
                    _ => made.push_str(&rest[..taken]),
                }
            }
            '[' if class.is_none() => {
                // A bracket that closes is an element where it is the first.
                let open = ["[^]", "[]", "[^", "["].into_iter().find(|o| rest.starts_with(o));
                let open = open.unwrap_or("[");
                taken = open.len();
                made.push_str(open);
                class = Some(made.len());
            }
            '[' if rest.starts_with("[:") => {
                taken = rest.find(":]").map_or(2, |end| end + 2);
                made.push_str(&rest[..taken]);
            }
            ']' if class.is_some() => {
                class = None;
                made.push(']');
            }
            '[' | '&' | '~' if class.is_some() => made.extend(['\\', next]),
            // At either end of a class it is an element, or else of a range.
            '-' if class.is_some_and(|at| at == made.len()) || rest.starts_with("-]") => {
                made.push_str(r"\-");
            }
            '-' if class.is_some() && rest.starts_with("--") => {
                taken = 2;
                made.push_str(r"-\-");
            }
            _ => made.push(next),
        }
        rest = &rest[taken..];
    }
    made
}

/// How often n-grams of a pool appear in each row, with weights.
fn tf_idf_vectorizer(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let array = call.array(0)?;
    if let Some(pool) = call.texts("pool_strings") {
        let pool: Vec<&str> = pool.iter().map(String::as_str).collect();
        let tokens: Vec<&str> = array.texts()?.iter().map(|text| &**text).collect();
        return vectors(call, array.shape(), &pool, &tokens);
    }
    let pool = call.ints("pool_int64s").ok_or_else(|| OpError::invalid("there is no pool"))?;
    vectors(call, array.shape(), pool, &array.to_i64s()?)
}

/// [`tf_idf_vectorizer`], with tokens of any type.
fn vectors<T: Copy + Eq + Hash>(
    call: &Call<'_>,
    shape: &[usize],
    pool: &[T],
    tokens: &[T],
) -> OpResult<Vec<Value>> {
    let (rows, width) = match *shape {
        [width] => (1, width),
        [rows, width] => (rows, width),
        _ => return Err(OpError::invalid(format!("{shape:?} where [C] or [N, C] is"))),
    };
    let columns = sizes(call.ints("ngram_indexes").unwrap_or_default())?;
    let starts = sizes(call.ints("ngram_counts").unwrap_or_default())?;
    let weights = call.floats("weights").unwrap_or_default();
    if !weights.is_empty() && weights.len() != columns.len() {
        let (weights, grams) = (weights.len(), columns.len());
        return Err(OpError::invalid(format!("{weights} weights for {grams} n-grams")));
    }
    let (shortest, longest) =
        (call.int_or("min_gram_length", 1), call.int_or("max_gram_length", 1));
    let lengths = match sizes(&[shortest, longest])?[..] {
        [shortest, longest] if shortest > 0 => (shortest, longest.min(starts.len())),
        _ => return Err(OpError::invalid(format!("n-grams of {shortest} tokens"))),
    };

    // Which n-gram of the pool each is.
    let mut grams = HashMap::new();
    let mut next = 0;
    for (index, &start) in starts.iter().enumerate() {
        let end = starts.get(index + 1).copied().unwrap_or(pool.len());
        let bad = || OpError::invalid(format!("n-grams from {start} to {end} of {}", pool.len()));
        for gram in pool.get(start..end).ok_or_else(bad)?.chunks_exact(index + 1) {
            grams.insert(gram, next);
            next += 1;
        }
    }
    if next > columns.len() {
        return Err(OpError::invalid(format!("{next} n-grams with {} indices", columns.len())));
    }

    let wide = columns.iter().max().map_or(0, |last| last.saturating_add(1));
    let made_shape = if shape.len() == 1 { vec![wide] } else { vec![rows, wide] };
    call.reserve(f32::ELEMENT, &made_shape)?;
    let mut made = vec![0f32; count(&made_shape)?];
    let weight = |gram: usize| weights.get(gram).copied().unwrap_or(1.0);
    let found: fn(&mut f32, f32) = match call.text_or("mode", "TF") {
        "TF" => |count, _| *count += 1.0,
        "IDF" => |count, weight| *count = weight,
        "TFIDF" => |count, weight| *count += weight,
        other => return Err(OpError::unsupported(format!("mode {other:?}"))),
    };
    let skips = usize::try_from(call.int_or("max_skip_count", 0)).unwrap_or(0).min(width);
    let mut gram = Vec::new();
    for (row, made) in tokens.chunks(width.max(1)).zip(made.chunks_mut(wide.max(1))) {
        for step in 1..=skips + 1 {
            // Single tokens have nothing between them to skip.
            let shortest = if step == 1 { lengths.0 } else { lengths.0.max(2) };
            for start in 0..row.len() {
                gram.clear();
                for &token in row[start..].iter().step_by(step).take(lengths.1) {
                    gram.push(token);
                    if gram.len() < shortest {
                        continue;
                    }
                    if let Some(&index) = grams.get(gram.as_slice()) {
                        found(&mut made[columns[index]], weight(index));
                    }
                }
            }
        }
    }
    Ok(vec![Array::new(&made_shape, made)?.into()])
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn patterns_mean_what_they_mean_to_re2() {
        for (pattern, text, matches) in [
            (r"\d+", "12", true),
            (r"\d", "\u{0663}", false),
            (r"[\w.]+@\w+", "a.b@c", true),
            (r"[^\d]", "é", true),
            (r".", "é", true),
            (r"[[x]+", "[x", true),
            (r"[]a]+", "]a", true),
            (r"[^]a]", "]", false),
            (r"[a&&b]+", "a&b", true),
            (r"[a--]+", "a", false),
            (r"[+--]+", "+,-", true),
            (r"[a-]+", "a-", true),
            (r"[-a]+", "a-", true),
            (r"[[:alpha:]-]+", "a-b", true),
            (r"\Qa.b\E+", "a.bb", true),
            (r"\Qa.b\E+", "axb", false),
            (r"\bx\b", "x", true),
        ] {
            let ours = from_re2(pattern);
            let whole = regex::Regex::new(&format!(r"\A(?:{ours})\z"));
            let found = whole.is_ok_and(|whole| whole.is_match(text));
            assert_eq!(found, matches, "{pattern} as {ours}");
        }
    }

    #[test]
    fn words_end_with_the_rest() {
        assert_eq!(words("  a b  c ", usize::MAX), ["a".into(), "b".into(), "c".into()]);
        assert_eq!(words("  a b  c ", 2), ["a".into(), "b  c".into()]);
        assert!(words("  ", 1).is_empty());
    }
}
