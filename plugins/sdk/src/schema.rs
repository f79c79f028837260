//! The schema of a configuration, in JSON Schema's draft 2020-12.

use schemars::{JsonSchema, schema_for};

/// The schema of `C`.
pub fn derive<C: JsonSchema>() -> String {
    schema_for!(C).as_value().to_string()
}

/// Hold the file at `path` against the schema of `C`; with `UPDATE_SCHEMA` in
/// the environment, write it.
///
/// # Errors
/// That the file is not the schema, or cannot be written.
#[cfg(not(target_arch = "wasm32"))]
pub fn check<C: JsonSchema>(path: &str) -> Result<(), String> {
    let schema = schema_for!(C);
    if std::env::var_os("UPDATE_SCHEMA").is_some() {
        // Without spaces: the component holds the file as it is.
        let text = format!("{}\n", schema.as_value());
        return std::fs::write(path, text).map_err(|e| format!("cannot write {path}: {e}"));
    }
    let file = std::fs::read_to_string(path).map_err(|e| e.to_string());
    // As values: the order of names is another one where some other crate of a
    // build asks serde_json to keep it.
    let is_current = file.and_then(|text| {
        let found: schemars::Schema = crate::json::from_str(&text).map_err(|e| e.to_string())?;
        if found == schema { Ok(()) } else { Err("it is another one".to_owned()) }
    });
    is_current.map_err(|why| {
        format!(
            "{path} is not the schema of the configuration: {why}; \
             `UPDATE_SCHEMA=1 cargo test config_schema` writes it"
        )
    })
}
