//! JSON whose members are asked for one by one.
//!
//! A derived reader takes a component 2 kB for each struct. This reads any
//! JSON, by whatever reader of serde's there is, and then says what is not
//! there or of another type.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, SeqAccess, Visitor},
};

/// Any JSON but truth values.
#[derive(Debug, Clone, PartialEq)]
pub enum Json {
    /// `null`: as good as not there.
    Null,
    /// A number.
    Number(f64),
    /// A text.
    Text(String),
    /// A list.
    List(Vec<Self>),
    /// An object's members, in their order.
    Object(Vec<(String, Self)>),
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(reader: D) -> Result<Self, D::Error> {
        reader.deserialize_any(JsonVisitor)
    }
}

struct JsonVisitor;

impl<'de> Visitor<'de> for JsonVisitor {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number, a text, a list or an object")
    }

    fn visit_unit<E: Error>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_u64<E: Error>(self, n: u64) -> Result<Json, E> {
        Ok(Json::Number(n as f64))
    }

    fn visit_i64<E: Error>(self, n: i64) -> Result<Json, E> {
        Ok(Json::Number(n as f64))
    }

    fn visit_f64<E: Error>(self, x: f64) -> Result<Json, E> {
        Ok(Json::Number(x))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Json, E> {
        Ok(Json::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Json, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element()? {
            items.push(item);
        }
        Ok(Json::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Json, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = object.next_entry()? {
            members.push(member);
        }
        Ok(Json::Object(members))
    }
}

/// What is wrong, as a sentence about a member.
pub type Read<T> = Result<T, String>;

/// An object whose members are taken one by one.
#[derive(Debug)]
pub struct JsonObject(Vec<(String, Json)>);

/// Every reader fails on a member of another type. One that is there as
/// `null` is not there.
impl JsonObject {
    /// The object that this JSON is.
    pub fn of(json: Json) -> Read<Self> {
        match json {
            Json::Object(members) => Ok(Self(members)),
            _ => Err("is no object".to_owned()),
        }
    }

    /// Whatever is there, or [`Json::Null`].
    pub fn take(&mut self, name: &str) -> Json {
        let at = self.0.iter().position(|(member, _)| member == name);
        at.map_or(Json::Null, |at| self.0.swap_remove(at).1)
    }

    /// A number that must be there.
    pub fn number(&mut self, name: &str) -> Read<f64> {
        number(self.take(name)).ok_or_else(|| format!("`{name}` is no number"))
    }

    /// A whole number of at most 2^53 that must be there.
    pub fn count(&mut self, name: &str) -> Read<u64> {
        count(self.take(name)).ok_or_else(|| format!("`{name}` is no count"))
    }

    /// A text that must be there.
    pub fn text(&mut self, name: &str) -> Read<String> {
        text(self.take(name)).ok_or_else(|| format!("`{name}` is no text"))
    }

    /// What need not be there.
    pub fn optional<T>(&mut self, name: &str, one: fn(Json) -> Option<T>) -> Read<Option<T>> {
        match self.take(name) {
            Json::Null => Ok(None),
            json => one(json).map(Some).ok_or_else(|| format!("`{name}` is of another type")),
        }
    }

    fn list(&mut self, name: &str) -> Read<Vec<Json>> {
        match self.take(name) {
            Json::Null => Ok(Vec::new()),
            Json::List(items) => Ok(items),
            _ => Err(format!("`{name}` is no list")),
        }
    }

    /// A list of numbers.
    pub fn numbers(&mut self, name: &str) -> Read<Vec<f64>> {
        self.all(name, number)
    }

    /// A list of whole numbers.
    pub fn counts(&mut self, name: &str) -> Read<Vec<u64>> {
        self.all(name, count)
    }

    /// A list of texts.
    pub fn texts(&mut self, name: &str) -> Read<Vec<String>> {
        self.all(name, text)
    }

    /// A list, each item read by `one`; empty when it is not there.
    pub fn all<T>(&mut self, name: &str, one: fn(Json) -> Option<T>) -> Read<Vec<T>> {
        let mut items = Vec::new();
        for item in self.list(name)? {
            items.push(one(item).ok_or_else(|| format!("`{name}` has an item of another type"))?);
        }
        Ok(items)
    }

    /// A list of objects, each read by `one`.
    pub fn objects<T>(&mut self, name: &str, one: fn(Self) -> Read<T>) -> Read<Vec<T>> {
        let mut items = Vec::new();
        for item in self.list(name)? {
            let item = Self::of(item).and_then(one).map_err(|why| format!("{name}: {why}"))?;
            items.push(item);
        }
        Ok(items)
    }

    /// What has not been taken does not belong there, which also finds what
    /// is there twice.
    pub fn end(self) -> Read<()> {
        match self.0.first() {
            None => Ok(()),
            Some((name, _)) => Err(format!("`{name}` is unknown, or there twice")),
        }
    }
}

/// The number that this JSON is.
pub fn number(json: Json) -> Option<f64> {
    match json {
        Json::Number(x) => Some(x),
        _ => None,
    }
}

fn count(json: Json) -> Option<u64> {
    // Beyond 2^53 not every whole number is an f64, and nothing counts so far.
    const MAX: f64 = (1u64 << 53) as f64;
    number(json).filter(|x| (0.0..=MAX).contains(x) && x.trunc() == *x).map(|x| x as u64)
}

/// The text that this JSON is.
pub fn text(json: Json) -> Option<String> {
    match json {
        Json::Text(text) => Some(text),
        _ => None,
    }
}
