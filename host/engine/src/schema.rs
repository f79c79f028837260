//! Configurations held against the schema that their component exports.
//!
//! The schema comes from a guest, and validation runs outside of its limits:
//! what may be validated is bounded instead.

use std::collections::HashMap;

use jsonschema::PatternOptions;
use serde_json::Value;

/// The longest schema, in bytes.
const MAX_SCHEMA_BYTES: usize = 256 << 10;

/// The most values that a schema may have once its references are followed.
const MAX_UNROLLED: u64 = 100_000;

/// How deep values and references may be nested.
const MAX_DEPTH: usize = 128;

/// Parse a schema that is not too long.
pub(crate) fn parse(text: &str) -> Result<Value, String> {
    if text.len() > MAX_SCHEMA_BYTES {
        return Err(format!("it has {} bytes, {MAX_SCHEMA_BYTES} allowed", text.len()));
    }
    serde_json::from_str(text).map_err(|e| e.to_string())
}

/// What is wrong with `config` by `schema`, each with its place.
pub(crate) fn check(schema: &Value, config: &Value) -> Result<Vec<String>, String> {
    let size = unrolled(schema, schema, 0, &mut HashMap::new())?;
    if size > MAX_UNROLLED {
        return Err(format!("its references unroll to over {MAX_UNROLLED} values"));
    }
    let validator = jsonschema::options()
        .with_pattern_options(PatternOptions::regex())
        .build(schema)
        .map_err(|e| e.to_string())?;
    let errors = validator.iter_errors(config).map(|e| match e.instance_path().to_string() {
        path if path.is_empty() => e.to_string(),
        path => format!("{path}: {e}"),
    });
    Ok(errors.collect())
}

/// How many values `at` has with every reference replaced by what it names;
/// one that is within itself counts as one there. Only references within the
/// schema by JSON pointer are followed.
fn unrolled<'s>(
    root: &'s Value,
    at: &'s Value,
    depth: usize,
    known: &mut HashMap<&'s str, Option<u64>>,
) -> Result<u64, String> {
    if depth > MAX_DEPTH {
        return Err(format!("it is nested more than {MAX_DEPTH} deep"));
    }
    let mut size = 1u64;
    match at {
        Value::Array(items) => {
            for item in items {
                size = size.saturating_add(unrolled(root, item, depth + 1, known)?);
            }
        }
        Value::Object(members) => {
            for (key, value) in members {
                let more = match value {
                    Value::String(to) if key == "$ref" || key == "$dynamicRef" => {
                        reference(root, to, depth + 1, known)?
                    }
                    _ => unrolled(root, value, depth + 1, known)?,
                };
                size = size.saturating_add(more);
            }
        }
        _ => {}
    }
    Ok(size)
}

fn reference<'s>(
    root: &'s Value,
    to: &'s str,
    depth: usize,
    known: &mut HashMap<&'s str, Option<u64>>,
) -> Result<u64, String> {
    match known.get(to) {
        Some(Some(size)) => return Ok(*size),
        // Being measured further up.
        Some(None) => return Ok(1),
        None => {}
    }
    let pointer = to.strip_prefix('#').filter(|p| p.is_empty() || p.starts_with('/'));
    let target = pointer
        .and_then(|p| root.pointer(p))
        .ok_or_else(|| format!("it refers to {to:?}, which is not in it"))?;
    known.insert(to, None);
    let size = unrolled(root, target, depth, known)?;
    known.insert(to, Some(size));
    Ok(size)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn errors_name_the_place() {
        let schema = json!({
            "$defs": {"ratio": {"type": "number", "maximum": 1}},
            "properties": {"a": {"$ref": "#/$defs/ratio"}},
            "additionalProperties": false,
        });
        let wrong = check(&schema, &json!({"a": 2, "b": 1})).unwrap();
        assert_eq!(wrong.len(), 2, "{wrong:?}");
        assert!(wrong.iter().any(|w| w.starts_with("/a: ")), "{wrong:?}");
        assert!(check(&schema, &json!({"a": 0.5})).unwrap().is_empty());
    }

    #[test]
    fn schema_bomb_is_refused() {
        let mut defs = serde_json::Map::new();
        for i in 0..30 {
            let next = json!({"$ref": format!("#/$defs/a{}", i + 1)});
            defs.insert(format!("a{i}"), json!({"allOf": [next, next]}));
        }
        defs.insert("a30".to_owned(), json!({"type": "object"}));
        let bomb = json!({"$defs": defs, "$ref": "#/$defs/a0"});
        assert!(check(&bomb, &json!({})).unwrap_err().contains("unroll"));
    }

    #[test]
    fn recursive_schema_is_fine_and_a_remote_one_is_not() {
        let tree = json!({"properties": {"left": {"$ref": "#"}, "right": {"$ref": "#"}}});
        assert!(check(&tree, &json!({"left": {"right": {}}})).unwrap().is_empty());
        let remote = json!({"$ref": "https://example.com/schema.json"});
        assert!(check(&remote, &json!({})).unwrap_err().contains("not in it"));
    }

    #[test]
    fn oversize_schema_is_refused() {
        assert!(parse(&" ".repeat(MAX_SCHEMA_BYTES + 1)).is_err());
    }
}
