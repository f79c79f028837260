//! JSON objects, read field by field.
//!
//! What serde derives to read the configuration and the reference takes a
//! tenth of the bytes that a component may have; one visitor for any value
//! and a few functions that look fields up take a third of that.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// Any JSON value.
pub enum Value {
    Null,
    Flag(bool),
    /// Whole numbers up to 2^53 are exact.
    Number(f64),
    Text(String),
    List(Vec<Value>),
    Object(Fields),
}

/// The fields of an object. Each is taken once; what is wrong with any of them
/// [`Fields::end`] says, so that what is taken before stands for nothing.
#[derive(Default)]
pub struct Fields {
    fields: Vec<(String, Value)>,
    problem: Option<String>,
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Any)
    }
}

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::Object(fields) => Ok(fields),
            _ => Err(D::Error::custom("needs an object")),
        }
    }
}

struct Any;

impl<'de> Visitor<'de> for Any {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Flag(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value as f64))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value as f64))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Number(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut fields = Vec::new();
        while let Some(name) = entries.next_key()? {
            fields.push((name, entries.next_value()?));
        }
        Ok(Value::Object(Fields { fields, problem: None }))
    }
}

impl Fields {
    /// # Errors
    /// The first of the fields that holds something else than it should, or
    /// that was not taken: it is unknown, or there twice.
    pub fn end(self) -> Result<(), String> {
        match (self.problem, self.fields.first()) {
            (Some(problem), _) => Err(problem),
            (None, Some((name, _))) => Err(format!("{name} is unknown here, or there twice")),
            (None, None) => Ok(()),
        }
    }

    /// The field of that name; null is as good as none.
    fn take(&mut self, name: &str) -> Value {
        match self.fields.iter().position(|(field, _)| field == name) {
            Some(at) => self.fields.swap_remove(at).1,
            None => Value::Null,
        }
    }

    fn refuse(&mut self, name: &str, needs: &str) {
        if self.problem.is_none() {
            self.problem = Some(format!("{name} needs {needs}"));
        }
    }

    pub fn number(&mut self, name: &str, default: f64) -> f64 {
        match self.take(name) {
            Value::Number(value) => return value,
            Value::Null => {}
            _ => self.refuse(name, "a number"),
        }
        default
    }

    pub fn count(&mut self, name: &str, default: u64) -> u64 {
        let value = self.number(name, default as f64);
        self.whole(name, value)
    }

    pub fn flag(&mut self, name: &str) -> bool {
        match self.take(name) {
            Value::Flag(value) => return value,
            Value::Null => {}
            _ => self.refuse(name, "true or false"),
        }
        false
    }

    pub fn text(&mut self, name: &str) -> Option<String> {
        match self.take(name) {
            Value::Text(value) => return Some(value),
            Value::Null => {}
            _ => self.refuse(name, "a string"),
        }
        None
    }

    pub fn object(&mut self, name: &str) -> Option<Self> {
        match self.take(name) {
            Value::Object(fields) => return Some(fields),
            Value::Null => {}
            _ => self.refuse(name, "an object"),
        }
        None
    }

    /// Empty where there is none; as for all that follow.
    fn list(&mut self, name: &str) -> Vec<Value> {
        match self.take(name) {
            Value::List(values) => return values,
            Value::Null => {}
            _ => self.refuse(name, "a list"),
        }
        Vec::new()
    }

    pub fn texts(&mut self, name: &str) -> Vec<String> {
        let mut texts = Vec::new();
        for value in self.list(name) {
            match value {
                Value::Text(text) => texts.push(text),
                _ => self.refuse(name, "strings"),
            }
        }
        texts
    }

    pub fn counts(&mut self, name: &str) -> Vec<u64> {
        let mut counts = Vec::new();
        for value in self.list(name) {
            let value = if let Value::Number(value) = value { value } else { f64::NAN };
            counts.push(self.whole(name, value));
        }
        counts
    }

    pub fn objects(&mut self, name: &str) -> Vec<Self> {
        let mut objects = Vec::new();
        for value in self.list(name) {
            match value {
                Value::Object(fields) => objects.push(fields),
                _ => self.refuse(name, "objects"),
            }
        }
        objects
    }

    fn whole(&mut self, name: &str, value: f64) -> u64 {
        const LIMIT: f64 = (1u64 << 53) as f64;
        if !((0.0..=LIMIT).contains(&value) && value.fract() == 0.0) {
            self.refuse(name, "whole numbers from 0 to 2^53");
        }
        value as u64
    }
}
