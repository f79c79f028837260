//! From JSON to a reference.

use super::{
    Bins, CategoricalReference, ColumnReference, EmbeddingReference, GroupCounts, NumericReference,
    Reference, ReferenceError, ValuesReference,
};
use crate::json::{Json, JsonObject};

impl Reference {
    /// The reference that JSON holds, which a component reads by itself.
    ///
    /// # Errors
    /// What is wrong with it, with the column's name.
    pub fn from_json(json: Json) -> Result<Self, ReferenceError> {
        let reference = JsonObject::read(json, reference).map_err(ReferenceError::Malformed)?;
        reference.check()?;
        Ok(reference)
    }
}

fn reference(json: &mut JsonObject) -> Reference {
    Reference {
        version: json.count("version").min(u32::MAX.into()) as u32,
        models: json.texts("models"),
        rows: json.count("rows"),
        by: json.has("by").then(|| json.text("by")),
        max_incomplete_rate: json.number("max-incomplete-rate"),
        max_repeat_rate: json.has("max-repeat-rate").then(|| json.number("max-repeat-rate")),
        columns: json.objects("columns", column),
        embeddings: json.objects("embeddings", embedding),
    }
}

fn column(json: &mut JsonObject) -> ColumnReference {
    ColumnReference {
        name: json.text("name"),
        max_missing_rate: json.number("max-missing-rate"),
        values: json.object("values", values),
    }
}

fn values(json: &mut JsonObject) -> ValuesReference {
    if json.has("numeric") {
        ValuesReference::Numeric(json.object("numeric", numeric))
    } else {
        ValuesReference::Categorical(json.object("categorical", categorical))
    }
}

fn numeric(json: &mut JsonObject) -> NumericReference {
    NumericReference {
        min: json.number("min"),
        max: json.number("max"),
        max_out_of_range_rate: json.number("max-out-of-range-rate"),
        max_mode_rate: json.number("max-mode-rate"),
        mean: json.number("mean"),
        std: json.number("std"),
        bins: json.has("bins").then(|| json.object("bins", bins)),
    }
}

fn bins(json: &mut JsonObject) -> Bins {
    Bins {
        edges: json.numbers("edges"),
        counts: json.counts("counts"),
        means: json.numbers("means"),
        groups: json.objects("groups", group),
    }
}

fn categorical(json: &mut JsonObject) -> CategoricalReference {
    CategoricalReference {
        categories: json.texts("categories"),
        counts: json.counts("counts"),
        max_unseen_rate: json.number("max-unseen-rate"),
        groups: json.objects("groups", group),
    }
}

fn group(json: &mut JsonObject) -> GroupCounts {
    GroupCounts { name: json.text("name"), counts: json.counts("counts") }
}

fn embedding(json: &mut JsonObject) -> EmbeddingReference {
    EmbeddingReference {
        name: json.text("name"),
        prefix: json.text("prefix"),
        rows: json.count("rows"),
        mean: json.numbers("mean"),
        // Of any other number, none is a trace.
        traces: json.numbers("traces").try_into().unwrap_or_default(),
    }
}
