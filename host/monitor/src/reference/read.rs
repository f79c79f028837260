//! From JSON to a reference.

use super::{
    Bins, CategoricalReference, ColumnReference, EmbeddingReference, GroupCounts, NumericReference,
    Reference, ReferenceError, ValuesReference,
};
use crate::json::{Json, JsonObject, Read, number, text};

impl Reference {
    /// The reference that JSON holds, which a component reads by itself.
    ///
    /// # Errors
    /// What is wrong with it, with the column's name.
    pub fn from_json(json: Json) -> Result<Self, ReferenceError> {
        let reference =
            JsonObject::of(json).and_then(reference).map_err(ReferenceError::Malformed)?;
        reference.check()?;
        Ok(reference)
    }
}

fn reference(mut json: JsonObject) -> Read<Reference> {
    let reference = Reference {
        version: json.count("version")?.min(u32::MAX.into()) as u32,
        models: json.texts("models")?,
        rows: json.count("rows")?,
        by: json.optional("by", text)?,
        max_incomplete_rate: json.number("max-incomplete-rate")?,
        max_repeat_rate: json.optional("max-repeat-rate", number)?,
        columns: json.objects("columns", column)?,
        embeddings: json.objects("embeddings", embedding)?,
    };
    json.end()?;
    Ok(reference)
}

fn column(mut json: JsonObject) -> Read<ColumnReference> {
    let name = json.text("name")?;
    let within = |why: String| format!("`{name}`: {why}");
    let max_missing_rate = json.number("max-missing-rate").map_err(within)?;
    let values = JsonObject::of(json.take("values")).and_then(values).map_err(within)?;
    json.end().map_err(within)?;
    Ok(ColumnReference { name, max_missing_rate, values })
}

fn values(mut json: JsonObject) -> Read<ValuesReference> {
    let values = match json.take("numeric") {
        Json::Null => {
            let inner = JsonObject::of(json.take("categorical"));
            let inner = inner.map_err(|_| "is neither numeric nor categorical".to_owned())?;
            ValuesReference::Categorical(categorical(inner)?)
        }
        numbers => ValuesReference::Numeric(numeric(JsonObject::of(numbers)?)?),
    };
    json.end()?;
    Ok(values)
}

fn numeric(mut json: JsonObject) -> Read<NumericReference> {
    let bins = match json.take("bins") {
        Json::Null => None,
        inner => Some(bins(JsonObject::of(inner)?)?),
    };
    let numeric = NumericReference {
        min: json.number("min")?,
        max: json.number("max")?,
        max_out_of_range_rate: json.number("max-out-of-range-rate")?,
        max_mode_rate: json.number("max-mode-rate")?,
        mean: json.number("mean")?,
        std: json.number("std")?,
        bins,
    };
    json.end()?;
    Ok(numeric)
}

fn bins(mut json: JsonObject) -> Read<Bins> {
    let bins = Bins {
        edges: json.numbers("edges")?,
        counts: json.counts("counts")?,
        means: json.numbers("means")?,
        groups: json.objects("groups", group)?,
    };
    json.end()?;
    Ok(bins)
}

fn categorical(mut json: JsonObject) -> Read<CategoricalReference> {
    let categorical = CategoricalReference {
        categories: json.texts("categories")?,
        counts: json.counts("counts")?,
        max_unseen_rate: json.number("max-unseen-rate")?,
        groups: json.objects("groups", group)?,
    };
    json.end()?;
    Ok(categorical)
}

fn group(mut json: JsonObject) -> Read<GroupCounts> {
    let group = GroupCounts { name: json.text("name")?, counts: json.counts("counts")? };
    json.end()?;
    Ok(group)
}

fn embedding(mut json: JsonObject) -> Read<EmbeddingReference> {
    let embedding = EmbeddingReference {
        name: json.text("name")?,
        prefix: json.text("prefix")?,
        rows: json.count("rows")?,
        mean: json.numbers("mean")?,
        traces: json.numbers("traces")?.try_into().map_err(|_| "`traces` are not three")?,
    };
    json.end()?;
    Ok(embedding)
}
