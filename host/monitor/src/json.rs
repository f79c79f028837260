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

/// An object whose members are taken one by one.
///
/// Nothing that reads a member fails: what is not there or of another type is
/// noted, the first such thing only, and its place taken by nothing. Whoever
/// reads is told of it by [`JsonObject::read`] at the end, and what was read
/// is dropped. So a reader is a struct's fields in their order, without a way
/// out after each.
#[derive(Debug, Default)]
pub struct JsonObject {
    members: Vec<(String, Json)>,
    problem: Option<String>,
}

impl JsonObject {
    /// What `read` makes of an object.
    ///
    /// # Errors
    /// The first thing that is wrong with it: a member that is missing, of
    /// another type, unknown or there twice.
    pub fn read<T>(json: Json, read: fn(&mut Self) -> T) -> Result<T, String> {
        let mut object = Self::of(json);
        let value = read(&mut object);
        object.end().map_or(Ok(value), Err)
    }

    fn of(json: Json) -> Self {
        match json {
            Json::Object(members) => Self { members, problem: None },
            _ => Self { members: Vec::new(), problem: Some("is no object".to_owned()) },
        }
    }

    /// What is wrong, if anything is: also what has not been taken, which does
    /// not belong there.
    fn end(mut self) -> Option<String> {
        if let Some((name, _)) = self.members.first() {
            let name = name.clone();
            self.note(&name, "is unknown, or there twice");
        }
        self.problem
    }

    #[cold]
    #[inline(never)]
    fn note(&mut self, name: &str, problem: &str) {
        self.problem.get_or_insert_with(|| ["`", name, "` ", problem].concat());
    }

    /// Whatever is there, or [`Json::Null`].
    #[inline(never)]
    fn take(&mut self, name: &str) -> Json {
        let at = self.members.iter().position(|(member, _)| member == name);
        at.map_or(Json::Null, |at| self.members.swap_remove(at).1)
    }

    /// Whether a member is there.
    pub fn has(&self, name: &str) -> bool {
        self.members.iter().any(|(member, value)| member == name && *value != Json::Null)
    }

    /// A number that must be there.
    pub fn number(&mut self, name: &str) -> f64 {
        match self.take(name) {
            Json::Number(x) => x,
            _ => {
                self.note(name, "is no number");
                0.0
            }
        }
    }

    /// A whole number of at most 2^53 that must be there.
    pub fn count(&mut self, name: &str) -> u64 {
        let x = self.number(name);
        count(x).unwrap_or_else(|| {
            self.note(name, "is no count");
            0
        })
    }

    /// A text that must be there.
    pub fn text(&mut self, name: &str) -> String {
        match self.take(name) {
            Json::Text(text) => text,
            _ => {
                self.note(name, "is no text");
                String::new()
            }
        }
    }

    #[inline(never)]
    fn list(&mut self, name: &str) -> Vec<Json> {
        match self.take(name) {
            Json::Null => Vec::new(),
            Json::List(items) => items,
            _ => {
                self.note(name, "is no list");
                Vec::new()
            }
        }
    }

    /// A list of numbers; empty when it is not there, as all lists.
    pub fn numbers(&mut self, name: &str) -> Vec<f64> {
        let mut numbers = Vec::new();
        for item in self.list(name) {
            match item {
                Json::Number(x) => numbers.push(x),
                _ => self.note(name, "has an item that is no number"),
            }
        }
        numbers
    }

    /// A list of whole numbers.
    pub fn counts(&mut self, name: &str) -> Vec<u64> {
        let mut counts = Vec::new();
        for x in self.numbers(name) {
            match count(x) {
                Some(count) => counts.push(count),
                None => self.note(name, "has an item that is no count"),
            }
        }
        counts
    }

    /// A list of texts.
    pub fn texts(&mut self, name: &str) -> Vec<String> {
        let mut texts = Vec::new();
        for item in self.list(name) {
            match item {
                Json::Text(text) => texts.push(text),
                _ => self.note(name, "has an item that is no text"),
            }
        }
        texts
    }

    /// What `read` makes of an object that must be there.
    pub fn object<T>(&mut self, name: &str, read: fn(&mut Self) -> T) -> T {
        let mut object = Self::of(self.take(name));
        let value = read(&mut object);
        self.note_inner(name, object);
        value
    }

    /// A list of objects, each as `read` makes it. A problem with one that has
    /// a `name` is told by that name.
    pub fn objects<T>(&mut self, name: &str, read: fn(&mut Self) -> T) -> Vec<T> {
        let mut values = Vec::new();
        for item in self.list(name) {
            let mut object = Self::of(item);
            let own = object.own_name().unwrap_or_else(|| name.to_owned());
            values.push(read(&mut object));
            self.note_inner(&own, object);
        }
        values
    }

    #[inline(never)]
    fn own_name(&self) -> Option<String> {
        self.members.iter().find_map(|(member, value)| match value {
            Json::Text(name) if member == "name" => Some(name.clone()),
            _ => None,
        })
    }

    #[inline(never)]
    fn note_inner(&mut self, name: &str, object: Self) {
        if let Some(problem) = object.end() {
            self.note(name, &problem);
        }
    }

    /// Note something that is wrong with a member which is of the right type.
    pub fn refuse(&mut self, name: &str, problem: &str) {
        self.note(name, problem);
    }
}

fn count(x: f64) -> Option<u64> {
    // Beyond 2^53 not every whole number is an f64, and nothing counts so far.
    const MAX: f64 = (1u64 << 53) as f64;
    ((0.0..=MAX).contains(&x) && x.trunc() == x).then_some(x as u64)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn read<T>(json: &str, read: fn(&mut JsonObject) -> T) -> Result<T, String> {
        let json = serde_json::from_str(json).map_err(|e| e.to_string())?;
        JsonObject::read(json, read)
    }

    #[test]
    fn members_are_read_by_name_in_any_order() {
        let json = r#"{"c": [1, 2], "b": {"x": 0.5}, "a": "text", "d": null}"#;
        let value = read(json, |o| {
            let inner = o.object("b", |o| o.number("x"));
            (o.text("a"), inner, o.counts("c"), o.has("d"), o.texts("d"))
        });
        assert_eq!(value, Ok(("text".to_owned(), 0.5, vec![1, 2], false, vec![])));
    }

    #[test]
    fn first_problem_is_told_with_its_place() {
        let number = |json| read(json, |o| o.object("a", |o| o.number("x"))).unwrap_err();
        assert_eq!(number("3"), "is no object");
        assert_eq!(number("{}"), "`a` is no object");
        assert_eq!(number(r#"{"a": {}}"#), "`a` `x` is no number");
        assert_eq!(number(r#"{"a": {"x": "1"}}"#), "`a` `x` is no number");
        assert_eq!(number(r#"{"a": {"x": 1, "y": 2}}"#), "`a` `y` is unknown, or there twice");
        assert_eq!(number(r#"{"a": {"x": 1, "x": 2}}"#), "`a` `x` is unknown, or there twice");
        for bad in ["-1", "0.5", "1e16", "\"1\""] {
            let json = [r#"{"n": "#, bad, "}"].concat();
            assert!(read(&json, |o| o.count("n")).is_err(), "{bad}");
            let json = [r#"{"n": [1, "#, bad, "]}"].concat();
            assert!(read(&json, |o| o.counts("n")).is_err(), "{bad}");
        }
        assert!(read(r#"{"n": true}"#, |o| o.has("n")).is_err());
    }
}
