//! JSON in few bytes.
//!
//! A component reads JSON: its configuration, and often its reference data.
//! [serde_json](https://docs.rs/serde_json) does it for whoever has the room;
//! in a component it takes 45 kB, most of them to print the numbers that its
//! messages quote. This reader says where and what, and quotes no number. It
//! takes what serde_json takes, with three exceptions: a struct is an object
//! and never a list, values nest at most 64 deep, and a number of at most 19
//! digits is the nearest f64.
//!
//! ```
//! #[derive(serde::Deserialize)]
//! struct Range {
//!     min: f64,
//!     max: f64,
//! }
//!
//! let range: Range = headland_sdk::json::from_str(r#"{"min": -0.5, "max": 1e3}"#)?;
//! assert_eq!((range.min, range.max), (-0.5, 1000.0));
//!
//! let error = headland_sdk::json::from_str::<Range>(r#"{"min": true}"#).err().unwrap();
//! assert_eq!(error.to_string(), "line 1, column 9: found a boolean, needs f64");
//! # Ok::<(), headland_sdk::json::Error>(())
//! ```
//!
//! # Source
//! The grammar is that of RFC 8259.

mod float;

use std::{
    borrow::Cow,
    fmt::{self, Display},
};

use serde::{
    Deserialize, Deserializer,
    de::{
        self, DeserializeSeed, EnumAccess, Expected, IntoDeserializer, MapAccess, SeqAccess,
        Unexpected, VariantAccess, Visitor,
    },
    forward_to_deserialize_any,
};

/// How deep lists and objects may nest: far from the end of a stack of 64 KiB.
const MAX_DEPTH: u32 = 64;

/// What is wrong with a text, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error(String);

type Result<T> = std::result::Result<T, Error>;

impl Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Error {}

/// Serde's own messages for the first two quote the value, and with it bring
/// everything that prints floats.
impl de::Error for Error {
    fn invalid_type(found: Unexpected<'_>, needed: &dyn Expected) -> Self {
        found_instead(kind(&found), needed)
    }

    fn invalid_value(found: Unexpected<'_>, needed: &dyn Expected) -> Self {
        found_instead(kind(&found), needed)
    }

    fn custom<T: Display>(message: T) -> Self {
        Self(message.to_string())
    }
}

fn found_instead(found: &str, needed: &dyn Expected) -> Error {
    Error(format!("found {found}, needs {needed}"))
}

fn kind(found: &Unexpected<'_>) -> &'static str {
    match found {
        Unexpected::Bool(_) => "a boolean",
        Unexpected::Unsigned(_) | Unexpected::Signed(_) => "a whole number",
        Unexpected::Float(_) => "a number that is not whole",
        Unexpected::Str(_) | Unexpected::Char(_) | Unexpected::Bytes(_) => "a string",
        Unexpected::Seq => "a list",
        Unexpected::Map => "an object",
        Unexpected::Unit | Unexpected::Option => "null",
        _ => "something else",
    }
}

/// Read a value from a whole text.
///
/// # Errors
/// What is wrong with the text, or what in it does not fit `T`, with its line
/// and column, both from 1.
pub fn from_str<'de, T: Deserialize<'de>>(text: &'de str) -> Result<T> {
    let mut reader = Reader { text, at: 0, depth: 0 };
    let value = T::deserialize(&mut reader).and_then(|value| reader.end().map(|()| value));
    // Nothing is read after a failure, so that the reader stands where it was.
    value.map_err(|e| reader.locate(e))
}

/// As [`from_str`], from UTF-8.
///
/// # Errors
/// As [`from_str`], and that the bytes are not UTF-8.
pub fn from_slice<'de, T: Deserialize<'de>>(bytes: &'de [u8]) -> Result<T> {
    match std::str::from_utf8(bytes) {
        Ok(text) => from_str(text),
        Err(_) => Err(Error("is not UTF-8".to_owned())),
    }
}

/// A place in a text.
///
/// What serde instantiates for every type is kept to a few calls; the work is
/// in methods that exist once.
struct Reader<'de> {
    text: &'de str,
    /// In bytes, always between two characters.
    at: usize,
    depth: u32,
}

enum Number {
    Unsigned(u64),
    Signed(i64),
    Float(f64),
}

impl<'de> Reader<'de> {
    #[cold]
    fn locate(&self, e: Error) -> Error {
        let before = self.text.get(..self.at).unwrap_or(self.text);
        let line = 1 + before.bytes().filter(|&b| b == b'\n').count();
        let column = 1 + before.chars().rev().take_while(|&c| c != '\n').count();
        Error(format!("line {line}, column {column}: {}", e.0))
    }

    /// The byte that comes, white space or not.
    fn byte(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// The byte that comes after white space.
    #[inline(never)]
    fn peek(&mut self) -> Option<u8> {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.byte() {
            self.at += 1;
        }
        self.byte()
    }

    /// Go past `byte` if it comes at once.
    fn take(&mut self, byte: u8) -> bool {
        let comes = self.byte() == Some(byte);
        self.at += usize::from(comes);
        comes
    }

    #[cold]
    #[inline(never)]
    fn needs<T>(&self, what: &str) -> Result<T> {
        Err(Error(format!("needs {what}")))
    }

    /// That the value that comes is of another type than `needed`.
    #[cold]
    #[inline(never)]
    fn mismatch<T>(&mut self, needed: &dyn Expected) -> Result<T> {
        let found = match self.peek() {
            Some(b'"') => "a string",
            Some(b'[') => "a list",
            Some(b'{') => "an object",
            Some(b't' | b'f') => "a boolean",
            Some(b'n') => "null",
            Some(b'-' | b'0'..=b'9') => "a number",
            _ => return self.needs("a value"),
        };
        Err(found_instead(found, needed))
    }

    #[inline(never)]
    fn end(&mut self) -> Result<()> {
        if self.peek().is_some() { self.needs("nothing more") } else { Ok(()) }
    }

    /// Into a list or an object.
    #[inline(never)]
    fn open(&mut self, bracket: u8, needed: &dyn Expected) -> Result<()> {
        if self.peek() != Some(bracket) {
            return self.mismatch(needed);
        }
        if self.depth == MAX_DEPTH {
            return self.needs("fewer values within values");
        }
        self.depth += 1;
        self.at += 1;
        Ok(())
    }

    /// Whether another item comes in a list or an object.
    #[inline(never)]
    fn another(&mut self, is_first: &mut bool, bracket: u8) -> Result<bool> {
        if self.peek() == Some(bracket) {
            return Ok(false);
        }
        if !std::mem::take(is_first) {
            if !self.take(b',') {
                return self.needs("`,` or the end of the list or object");
            }
            if self.peek() == Some(bracket) {
                return self.needs("a value after `,`");
            }
        }
        Ok(true)
    }

    /// Out of a list or an object whose items have been read.
    #[inline(never)]
    fn close(&mut self, bracket: u8) -> Result<()> {
        self.peek();
        if !self.take(bracket) {
            return self.needs("fewer items");
        }
        self.depth -= 1;
        Ok(())
    }

    /// The name of another member of an object.
    #[inline(never)]
    fn name(&mut self, is_first: &mut bool) -> Result<Option<Cow<'de, str>>> {
        if !self.another(is_first, b'}')? {
            return Ok(None);
        }
        if self.peek() != Some(b'"') {
            return self.needs("a name in quotes");
        }
        self.string(&"a name").map(Some)
    }

    #[inline(never)]
    fn colon(&mut self) -> Result<()> {
        self.peek();
        if self.take(b':') { Ok(()) } else { self.needs("`:`") }
    }

    #[inline(never)]
    fn word(&mut self, word: &str, needed: &dyn Expected) -> Result<()> {
        self.peek();
        let rest = self.text.as_bytes().get(self.at..).unwrap_or_default();
        if !rest.starts_with(word.as_bytes()) {
            return self.mismatch(needed);
        }
        self.at += word.len();
        Ok(())
    }

    #[inline(never)]
    fn boolean(&mut self, needed: &dyn Expected) -> Result<bool> {
        let value = self.peek() == Some(b't');
        self.word(if value { "true" } else { "false" }, needed)?;
        Ok(value)
    }

    #[inline(never)]
    fn number(&mut self, needed: &dyn Expected) -> Result<Number> {
        if !matches!(self.peek(), Some(b'-' | b'0'..=b'9')) {
            return self.mismatch(needed);
        }
        let is_negative = self.take(b'-');
        let mut digits = Digits::default();
        if !self.take(b'0') && self.digits(|d| digits.push(d, false)) == 0 {
            return self.needs("a digit");
        }
        if self.take(b'.') {
            digits.is_whole = false;
            if self.digits(|d| digits.push(d, true)) == 0 {
                return self.needs("a digit after the point");
            }
        }
        if self.take(b'e') || self.take(b'E') {
            digits.is_whole = false;
            let is_negative = self.take(b'-');
            if !is_negative {
                self.take(b'+');
            }
            let mut exponent = 0i32;
            let push = |d| exponent = exponent.saturating_mul(10).saturating_add(i32::from(d));
            if self.digits(push) == 0 {
                return self.needs("a digit of the exponent");
            }
            let exponent = if is_negative { -exponent } else { exponent };
            digits.exponent = digits.exponent.saturating_add(exponent);
        }
        if digits.is_whole {
            if !is_negative {
                return Ok(Number::Unsigned(digits.significand));
            }
            // -0 is no integer: its sign would be lost.
            match 0i64.checked_sub_unsigned(digits.significand) {
                Some(n) if n < 0 => return Ok(Number::Signed(n)),
                _ => {}
            }
        }
        let value = float::from_decimal(digits.significand, digits.exponent);
        if value.is_infinite() {
            return self.needs("a number that f64 holds");
        }
        Ok(Number::Float(if is_negative { -value } else { value }))
    }

    /// Go past digits, and say how many there were.
    fn digits(&mut self, mut push: impl FnMut(u8)) -> usize {
        let start = self.at;
        while let Some(digit @ b'0'..=b'9') = self.byte() {
            push(digit - b'0');
            self.at += 1;
        }
        self.at - start
    }

    #[inline(never)]
    fn string(&mut self, needed: &dyn Expected) -> Result<Cow<'de, str>> {
        if self.peek() != Some(b'"') {
            return self.mismatch(needed);
        }
        self.at += 1;
        let mut start = self.at;
        let mut unescaped = String::new();
        loop {
            match self.byte() {
                Some(b'"') => break,
                Some(b'\\') => {
                    unescaped.push_str(self.since(start));
                    self.at += 1;
                    unescaped.push(self.escape()?);
                    start = self.at;
                }
                Some(0..0x20) => return self.needs("an escape instead of a control character"),
                Some(_) => self.at += 1,
                None => return self.needs("`\"`"),
            }
        }
        let rest = self.since(start);
        self.at += 1;
        Ok(if unescaped.is_empty() {
            Cow::Borrowed(rest)
        } else {
            unescaped.push_str(rest);
            Cow::Owned(unescaped)
        })
    }

    /// The text from `start`, which is between two characters, as `at` is.
    fn since(&self, start: usize) -> &'de str {
        self.text.get(start..self.at).unwrap_or_default()
    }

    /// What comes after a backslash.
    fn escape(&mut self) -> Result<char> {
        let Some(byte) = self.byte() else { return self.needs("an escape") };
        let character = match byte {
            b'"' | b'\\' | b'/' => char::from(byte),
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                self.at += 1;
                return self.escape_by_number();
            }
            _ => return self.needs("an escape that JSON knows"),
        };
        self.at += 1;
        Ok(character)
    }

    /// What comes after `\u`: one unit of UTF-16, or two that belong together.
    fn escape_by_number(&mut self) -> Result<char> {
        let mut code = self.four_digits()?;
        if (0xd800..0xdc00).contains(&code) && self.take(b'\\') && self.take(b'u') {
            let low = self.four_digits()?;
            if !(0xdc00..0xe000).contains(&low) {
                return self.needs("the second half of a surrogate pair");
            }
            code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
        }
        match char::from_u32(code) {
            Some(character) => Ok(character),
            None => self.needs("both halves of a surrogate pair"),
        }
    }

    fn four_digits(&mut self) -> Result<u32> {
        let mut code = 0;
        for _ in 0..4 {
            let digit = self.byte().and_then(|b| char::from(b).to_digit(16));
            let Some(digit) = digit else { return self.needs("four hexadecimal digits") };
            code = code * 16 + digit;
            self.at += 1;
        }
        Ok(code)
    }
}

/// A number that is being read: `significand * 10^exponent`.
struct Digits {
    significand: u64,
    exponent: i32,
    /// Neither a point nor an exponent, and no digit lost.
    is_whole: bool,
    /// The significand takes no more digits.
    is_full: bool,
}

impl Default for Digits {
    fn default() -> Self {
        Self { significand: 0, exponent: 0, is_whole: true, is_full: false }
    }
}

impl Digits {
    fn push(&mut self, digit: u8, after_point: bool) {
        let longer = self.significand.checked_mul(10).and_then(|s| s.checked_add(u64::from(digit)));
        match longer.filter(|_| !self.is_full) {
            Some(longer) => {
                self.significand = longer;
                self.exponent = self.exponent.saturating_sub(i32::from(after_point));
            }
            None => {
                self.is_full = true;
                self.is_whole = false;
                self.exponent = self.exponent.saturating_add(i32::from(!after_point));
            }
        }
    }
}

impl<'de> Deserializer<'de> for &mut Reader<'de> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        match self.peek() {
            Some(b'{') => self.deserialize_map(visitor),
            Some(b'[') => self.deserialize_seq(visitor),
            Some(b'"') => self.deserialize_str(visitor),
            Some(b't' | b'f') => self.deserialize_bool(visitor),
            Some(b'n') => self.deserialize_unit(visitor),
            _ => match self.number(&visitor)? {
                Number::Unsigned(n) => visitor.visit_u64(n),
                Number::Signed(n) => visitor.visit_i64(n),
                Number::Float(n) => visitor.visit_f64(n),
            },
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        let value = self.boolean(&visitor)?;
        visitor.visit_bool(value)
    }

    fn deserialize_u64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        match self.number(&visitor)? {
            Number::Unsigned(n) => visitor.visit_u64(n),
            Number::Signed(n) => visitor.visit_i64(n),
            Number::Float(n) => Err(de::Error::invalid_type(Unexpected::Float(n), &visitor)),
        }
    }

    fn deserialize_u8<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        self.deserialize_u64(visitor)
    }

    fn deserialize_u16<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        self.deserialize_u64(visitor)
    }

    fn deserialize_u32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        self.deserialize_u64(visitor)
    }

    fn deserialize_i8<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        self.deserialize_u64(visitor)
    }

    fn deserialize_i16<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        self.deserialize_u64(visitor)
    }

    fn deserialize_i32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        self.deserialize_u64(visitor)
    }

    fn deserialize_i64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        self.deserialize_u64(visitor)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        let value = match self.number(&visitor)? {
            Number::Unsigned(n) => n as f64,
            Number::Signed(n) => n as f64,
            Number::Float(n) => n,
        };
        visitor.visit_f64(value)
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        match self.string(&visitor)? {
            Cow::Borrowed(text) => visitor.visit_borrowed_str(text),
            Cow::Owned(text) => visitor.visit_string(text),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        let text = self.string(&visitor)?;
        visitor.visit_string(text.into_owned())
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        let text = self.string(&visitor)?;
        visitor.visit_str(&text)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        if self.peek() != Some(b'n') {
            return visitor.visit_some(self);
        }
        self.word("null", &visitor)?;
        visitor.visit_none()
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        self.word("null", &visitor)?;
        visitor.visit_unit()
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value> {
        self.deserialize_unit(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        self.open(b'[', &visitor)?;
        let value = visitor.visit_seq(Items { reader: self, is_first: true })?;
        self.close(b']')?;
        Ok(value)
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: usize,
        visitor: V,
    ) -> Result<V::Value> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        self.open(b'{', &visitor)?;
        let value = visitor.visit_map(Items { reader: self, is_first: true })?;
        self.close(b'}')?;
        Ok(value)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value> {
        self.deserialize_map(visitor)
    }

    /// `"name"` for a variant without data, `{"name": data}` for one with.
    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value> {
        if self.peek() == Some(b'"') {
            let name = self.string(&visitor)?;
            return Name(&name).deserialize_enum("", &[], visitor);
        }
        self.open(b'{', &visitor)?;
        let value = visitor.visit_enum(&mut *self)?;
        self.close(b'}')?;
        Ok(value)
    }

    forward_to_deserialize_any! { i128 u128 char bytes byte_buf ignored_any }
}

/// The name of a member of an object, or of a variant.
struct Name<'a>(&'a str);

impl<'de> Deserializer<'de> for Name<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        visitor.visit_str(self.0)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value> {
        visitor.visit_enum(self.0.into_deserializer())
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf
        option unit unit_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}

/// What is left of a list or an object.
struct Items<'a, 'de> {
    reader: &'a mut Reader<'de>,
    is_first: bool,
}

impl<'de> SeqAccess<'de> for Items<'_, 'de> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>> {
        if !self.reader.another(&mut self.is_first, b']')? {
            return Ok(None);
        }
        seed.deserialize(&mut *self.reader).map(Some)
    }
}

impl<'de> MapAccess<'de> for Items<'_, 'de> {
    type Error = Error;

    fn next_key_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>> {
        let name = self.reader.name(&mut self.is_first)?;
        name.map(|name| seed.deserialize(Name(&name))).transpose()
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value> {
        self.reader.colon()?;
        seed.deserialize(&mut *self.reader)
    }
}

impl<'de> EnumAccess<'de> for &mut Reader<'de> {
    type Error = Error;
    type Variant = Self;

    fn variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<(T::Value, Self)> {
        let variant = seed.deserialize(&mut *self)?;
        self.colon()?;
        Ok((variant, self))
    }
}

impl<'de> VariantAccess<'de> for &mut Reader<'de> {
    type Error = Error;

    fn unit_variant(self) -> Result<()> {
        Deserialize::deserialize(self)
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value> {
        seed.deserialize(self)
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value> {
        self.deserialize_seq(visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value> {
        self.deserialize_map(visitor)
    }
}

#[cfg(test)]
mod tests;
