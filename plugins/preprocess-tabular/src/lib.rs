//! `preprocess-tabular`: one JSON row to one f32 feature vector.
//!
//! # Input
//! `payload` (or `input`): u8, the UTF-8 text of one JSON object, key by
//! feature name. Keys that no feature asks for are left aside.
//!
//! # Output
//! `input` (or `output`): f32 of shape `[1, F]`, the features in the order of
//! the configuration. A numeric feature takes one column, and one more right
//! behind it, 1 for missing and 0 otherwise, with `missing-indicator`. A
//! categorical feature takes one column when `ordinal`, one a category when
//! `one-hot`.

use headland_sdk::{Frame, Preprocess, Result, StageError, Tensor, Tensors};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value};

/// The features, in the order of the model's columns.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Config {
    /// The features, in the order of the model's columns.
    #[schemars(length(min = 1))]
    pub features: Vec<Feature>,
    /// The input that holds the row.
    #[serde(default = "default_input")]
    pub input: String,
    /// The name of the output.
    #[serde(default = "default_output")]
    pub output: String,
}

fn default_input() -> String {
    "payload".to_owned()
}

fn default_output() -> String {
    "input".to_owned()
}

/// How one key of the row becomes columns.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(
    tag = "kind",
    rename_all = "kebab-case",
    rename_all_fields = "kebab-case",
    deny_unknown_fields
)]
pub enum Feature {
    /// A JSON number, or a bool as 0 or 1. First imputed, then clipped, then
    /// scaled.
    Numeric {
        /// The key in the row.
        name: String,
        /// What stands for an absent key or a null.
        #[serde(default)]
        missing: MissingNumber,
        /// Values beyond are moved to the nearer limit.
        clip: Option<Limits>,
        /// How the value is brought to the model's scale.
        scale: Option<Scale>,
        /// Add a column that is 1 where the value is missing.
        #[serde(default)]
        missing_indicator: bool,
    },
    /// A JSON string; a number or bool is taken as its JSON text.
    Categorical {
        /// The key in the row.
        name: String,
        /// The categories, in the order of their codes.
        #[schemars(length(min = 1))]
        categories: Vec<String>,
        /// How a category becomes numbers.
        encoding: Encoding,
        /// What stands for an absent key or a null.
        #[serde(default)]
        missing: MissingCategory,
        /// What becomes of a category that is not listed.
        #[serde(default)]
        unknown: Unknown,
    },
}

/// What stands for a missing number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum MissingNumber {
    /// Nothing: the row is refused.
    #[default]
    Error,
    /// NaN, for models that know it.
    Nan,
    /// This value, for example the training mean.
    Impute(f64),
}

/// What stands for a missing category.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum MissingCategory {
    /// Nothing: the row is refused.
    #[default]
    Error,
    /// No category: all zeros when one-hot, -1 when ordinal.
    None,
    /// This category.
    Impute(String),
}

/// What becomes of an unknown category.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Unknown {
    /// The row is refused.
    #[default]
    Error,
    /// No category: all zeros when one-hot, -1 when ordinal.
    None,
}

/// How a category becomes numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Encoding {
    /// One column a category, 1 in the value's own and 0 in the others.
    OneHot,
    /// One column: the category's index.
    Ordinal,
}

/// A closed interval.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// The lower limit.
    pub min: f64,
    /// The upper limit.
    pub max: f64,
}

/// How a number is brought to the model's scale.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Scale {
    /// `(x - mean) / scale`.
    Standard {
        /// The training mean.
        mean: f64,
        /// The training standard deviation; not 0.
        scale: f64,
    },
    /// `(x - min) / (max - min)`.
    MinMax {
        /// What becomes 0.
        min: f64,
        /// What becomes 1.
        max: f64,
    },
}

/// The stage.
pub struct Tabular {
    config: Config,
}

impl Tabular {
    /// The stage, from a configuration that makes sense.
    ///
    /// # Errors
    /// [`StageError::BadConfig`] for no features, a name or category that is
    /// there twice, empty limits, a scale of 0, or a value that is not finite.
    pub fn from_config(config: Config) -> Result<Self> {
        if config.features.is_empty() {
            return Err(StageError::bad_config("no features"));
        }
        for (i, feature) in config.features.iter().enumerate() {
            let name = feature.name();
            let bad = |why: String| StageError::bad_config(format!("feature `{name}`: {why}"));
            if config.features[..i].iter().any(|f| f.name() == name) {
                return Err(bad("is there twice".to_owned()));
            }
            feature.check().map_err(bad)?;
        }
        Ok(Self { config })
    }

    /// How many columns a row takes.
    pub fn columns(&self) -> usize {
        self.config.features.iter().map(Feature::columns).sum()
    }

    /// The columns of one row.
    ///
    /// # Errors
    /// What is wrong with the row, with the feature's name.
    pub fn row(&self, json: &[u8]) -> Result<Vec<f32>, String> {
        let row: Map<String, Value> =
            serde_json::from_slice(json).map_err(|e| format!("no JSON object: {e}"))?;
        let mut columns = Vec::with_capacity(self.columns());
        for feature in &self.config.features {
            let value = row.get(feature.name()).filter(|v| !v.is_null());
            feature
                .encode(value, &mut columns)
                .map_err(|why| format!("feature `{}`: {why}", feature.name()))?;
        }
        Ok(columns)
    }
}

impl Feature {
    fn name(&self) -> &str {
        match self {
            Self::Numeric { name, .. } | Self::Categorical { name, .. } => name,
        }
    }

    fn columns(&self) -> usize {
        match self {
            Self::Numeric { missing_indicator, .. } => 1 + usize::from(*missing_indicator),
            Self::Categorical { encoding: Encoding::Ordinal, .. } => 1,
            Self::Categorical { encoding: Encoding::OneHot, categories, .. } => categories.len(),
        }
    }

    fn check(&self) -> Result<(), String> {
        match self {
            Self::Numeric { clip, scale, .. } => {
                if let Some(Limits { min, max }) = clip
                    && (min > max || min.is_nan() || max.is_nan())
                {
                    return Err(format!("clip limits {min}..{max} are empty"));
                }
                let divisor = match *scale {
                    Some(Scale::Standard { scale, .. }) => scale,
                    Some(Scale::MinMax { min, max }) => max - min,
                    None => 1.0,
                };
                if divisor == 0.0 || !divisor.is_finite() {
                    return Err(format!("its scale divides by {divisor}"));
                }
            }
            Self::Categorical { categories, missing, .. } => {
                if categories.is_empty() {
                    return Err("has no categories".to_owned());
                }
                if let Some((_, c)) =
                    categories.iter().enumerate().find(|(i, c)| categories[..*i].contains(c))
                {
                    return Err(format!("category `{c}` is there twice"));
                }
                if let MissingCategory::Impute(c) = missing
                    && !categories.contains(c)
                {
                    return Err(format!("imputes `{c}`, which is not one of its categories"));
                }
            }
        }
        Ok(())
    }

    fn encode(&self, value: Option<&Value>, columns: &mut Vec<f32>) -> Result<(), String> {
        match self {
            Self::Numeric { missing, clip, scale, missing_indicator, .. } => {
                let x = match (value, *missing) {
                    (Some(value), _) => number(value)?,
                    (None, MissingNumber::Error) => return Err("is missing".to_owned()),
                    (None, MissingNumber::Nan) => f64::NAN,
                    (None, MissingNumber::Impute(x)) => x,
                };
                let x = clip.map_or(x, |c| x.clamp(c.min, c.max));
                let x = match *scale {
                    None => x,
                    Some(Scale::Standard { mean, scale }) => (x - mean) / scale,
                    Some(Scale::MinMax { min, max }) => (x - min) / (max - min),
                };
                let column = x as f32;
                if column.is_infinite() {
                    return Err(format!("{x:e} does not fit f32"));
                }
                columns.push(column);
                if *missing_indicator {
                    columns.push(if value.is_none() { 1.0 } else { 0.0 });
                }
            }
            Self::Categorical { categories, encoding, missing, unknown, .. } => {
                let text = value.map(category).transpose()?;
                let category = match (&text, missing) {
                    (Some(text), _) => Some(text.as_str()),
                    (None, MissingCategory::Error) => return Err("is missing".to_owned()),
                    (None, MissingCategory::None) => None,
                    (None, MissingCategory::Impute(c)) => Some(c.as_str()),
                };
                let code = category.and_then(|c| categories.iter().position(|k| k == c));
                if let (Some(c), None, Unknown::Error) = (category, code, unknown) {
                    return Err(format!("unknown category `{c}`"));
                }
                match encoding {
                    Encoding::Ordinal => columns.push(code.map_or(-1.0, |c| c as f32)),
                    Encoding::OneHot => columns.extend(
                        (0..categories.len()).map(|i| if code == Some(i) { 1.0 } else { 0.0 }),
                    ),
                }
            }
        }
        Ok(())
    }
}

/// A JSON value as a number.
fn number(value: &Value) -> Result<f64, String> {
    match value {
        Value::Number(n) => n.as_f64().ok_or_else(|| format!("{n} does not fit f64")),
        Value::Bool(b) => Ok(f64::from(u8::from(*b))),
        other => Err(format!("needs a number, is {}", kind(other))),
    }
}

/// A JSON value as the name of a category.
fn category(value: &Value) -> Result<String, String> {
    match value {
        Value::String(s) => Ok(s.clone()),
        Value::Number(n) => Ok(n.to_string()),
        Value::Bool(b) => Ok(b.to_string()),
        other => Err(format!("needs a string, is {}", kind(other))),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a bool",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

impl Preprocess for Tabular {
    type Config = Config;

    fn new(config: Config) -> Result<Self> {
        Self::from_config(config)
    }

    fn preprocess(&mut self, _: &Frame, inputs: Tensors) -> Result<Tensors> {
        let payload = inputs.get(&self.config.input)?;
        let columns = self.row(&payload.to_vec::<u8>()?).map_err(|why| payload.refuse(why))?;
        let shape = [1, columns.len() as u32];
        Ok(Tensors::new().with(&self.config.output, Tensor::from_slice(&shape, &columns)?))
    }
}

headland_sdk::export!(Tabular as preprocess);

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn stage(features: &str) -> Result<Tabular> {
        Tabular::from_config(
            serde_json::from_str(&format!(r#"{{"features": {features}}}"#)).unwrap(),
        )
    }

    fn row(features: &str, row: &str) -> Result<Vec<f32>, String> {
        stage(features).unwrap().row(row.as_bytes())
    }

    /// scikit-learn 1.7: `SimpleImputer(add_indicator=True)`,
    /// `StandardScaler`, `MinMaxScaler`, `OneHotEncoder` and `OrdinalEncoder`
    /// on the same rows; `tests/reference.py` prints the numbers.
    #[test]
    fn agrees_with_scikit_learn() {
        let reference: Value =
            serde_json::from_str(include_str!("../tests/reference.json")).unwrap();
        let config = serde_json::from_value(reference["config"].clone()).unwrap();
        let stage = Tabular::from_config(config).unwrap();
        let rows = reference["rows"].as_array().unwrap();
        assert!(rows.len() > 3);
        for (row, expected) in rows.iter().zip(reference["features"].as_array().unwrap()) {
            let got = stage.row(row.to_string().as_bytes()).unwrap();
            let expected: Vec<f32> = serde_json::from_value(expected.clone()).unwrap();
            assert_eq!(got.len(), stage.columns());
            for (g, e) in got.iter().zip(&expected) {
                assert!((g - e).abs() <= 1e-6 * e.abs().max(1.0), "{got:?} is not {expected:?}");
            }
        }
    }

    #[test]
    fn clip_comes_before_scale() {
        let f = r#"[{"kind": "numeric", "name": "x", "clip": {"min": 0, "max": 10},
                     "scale": {"kind": "min-max", "min": 0, "max": 20}}]"#;
        assert_eq!(row(f, r#"{"x": 1e9}"#).unwrap(), [0.5]);
        assert_eq!(row(f, r#"{"x": -4}"#).unwrap(), [0.0]);
    }

    #[test]
    fn missing_number_is_refused_imputed_or_nan() {
        let of = |missing: &str| {
            format!(
                r#"[{{"kind": "numeric", "name": "x", "missing": {missing}, "missing-indicator": true}}]"#
            )
        };
        assert_eq!(row(&of(r#""error""#), "{}").unwrap_err(), "feature `x`: is missing");
        assert_eq!(row(&of(r#"{"impute": 2.5}"#), r#"{"x": null}"#).unwrap(), [2.5, 1.0]);
        let nan = row(&of(r#""nan""#), "{}").unwrap();
        assert!(nan[0].is_nan() && nan[1] == 1.0);
        assert_eq!(row(&of(r#""nan""#), r#"{"x": true}"#).unwrap(), [1.0, 0.0]);
    }

    #[test]
    fn unknown_and_missing_categories_as_configured() {
        let of = |encoding: &str, rest: &str| {
            format!(
                r#"[{{"kind": "categorical", "name": "c", "categories": ["a", "b", "3"],
                         "encoding": "{encoding}"{rest}}}]"#
            )
        };
        let none = r#", "missing": "none", "unknown": "none""#;
        assert_eq!(row(&of("one-hot", none), r#"{"c": "z"}"#).unwrap(), [0.0; 3]);
        assert_eq!(row(&of("ordinal", none), r#"{}"#).unwrap(), [-1.0]);
        assert_eq!(row(&of("ordinal", ""), r#"{"c": 3}"#).unwrap(), [2.0]);
        assert_eq!(
            row(&of("ordinal", ""), r#"{"c": "z"}"#).unwrap_err(),
            "feature `c`: unknown category `z`"
        );
        assert_eq!(row(&of("ordinal", ""), "{}").unwrap_err(), "feature `c`: is missing");
        let impute = r#", "missing": {"impute": "b"}"#;
        assert_eq!(row(&of("one-hot", impute), "{}").unwrap(), [0.0, 1.0, 0.0]);
    }

    #[test]
    fn rows_that_are_no_object_of_scalars_are_refused() {
        let f = r#"[{"kind": "numeric", "name": "x"}]"#;
        assert!(row(f, "[1]").unwrap_err().starts_with("no JSON object"));
        assert!(row(f, "{\"x\": 1").unwrap_err().starts_with("no JSON object"));
        assert!(row(f, "\u{0}").unwrap_err().starts_with("no JSON object"));
        assert_eq!(
            row(f, r#"{"x": "1"}"#).unwrap_err(),
            "feature `x`: needs a number, is a string"
        );
        assert_eq!(row(f, r#"{"x": 1e300}"#).unwrap_err(), "feature `x`: 1e300 does not fit f32");
        let deep = "[".repeat(100_000);
        assert!(row(f, &format!("{{\"x\": {deep}")).unwrap_err().contains("recursion limit"));
    }

    #[test]
    fn configurations_that_make_no_sense_are_refused() {
        for (features, why) in [
            ("[]", "no features"),
            (
                r#"[{"kind": "numeric", "name": "x"}, {"kind": "numeric", "name": "x"}]"#,
                "feature `x`: is there twice",
            ),
            (
                r#"[{"kind": "numeric", "name": "x", "clip": {"min": 2, "max": 1}}]"#,
                "feature `x`: clip limits 2..1 are empty",
            ),
            (
                r#"[{"kind": "numeric", "name": "x", "scale": {"kind": "standard", "mean": 1, "scale": 0}}]"#,
                "feature `x`: its scale divides by 0",
            ),
            (
                r#"[{"kind": "categorical", "name": "c", "categories": ["a", "a"], "encoding": "ordinal"}]"#,
                "feature `c`: category `a` is there twice",
            ),
            (
                r#"[{"kind": "categorical", "name": "c", "categories": ["a"], "encoding": "ordinal", "missing": {"impute": "b"}}]"#,
                "feature `c`: imputes `b`, which is not one of its categories",
            ),
        ] {
            assert_eq!(stage(features).err().unwrap(), StageError::BadConfig(why.into()));
        }
    }

    #[test]
    fn misspelt_keys_are_refused_at_every_level() {
        for config in [
            r#"{"features": [], "feature": []}"#,
            r#"{"features": [{"kind": "numeric", "name": "x", "impute": 1}]}"#,
            r#"{"features": [{"kind": "numeric", "name": "x", "clip": {"min": 1, "max": 2, "by": 3}}]}"#,
            r#"{"features": [{"kind": "numeric", "name": "x", "scale": {"kind": "standard", "mean": 1, "std": 2}}]}"#,
        ] {
            assert!(serde_json::from_str::<Config>(config).is_err(), "{config}");
        }
    }
}
