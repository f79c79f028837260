//! JSON for people: indented, but a list of numbers or texts on one line.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::ser::{CompactFormatter, Formatter, Serializer};

/// `value`, whose lists hold objects, `u64`, `f64` or texts.
pub fn pretty(value: &impl Serialize) -> Vec<u8> {
    let mut json = Vec::new();
    let lines = Lines { depth: 0, held_back: b"" };
    // Texts, numbers and lists always serialise, and a vector takes them.
    let _ = value.serialize(&mut Serializer::with_formatter(&mut json, lines));
    json.push(b'\n');
    json
}

struct Lines {
    depth: usize,
    /// What stands before the next value if it is none that begins a line.
    held_back: &'static [u8],
}

impl Lines {
    fn new_line<W: ?Sized + Write>(&self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b"\n")?;
        (0..self.depth).try_for_each(|_| writer.write_all(b"  "))
    }

    fn same_line<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(std::mem::take(&mut self.held_back))
    }
}

impl Formatter for Lines {
    fn write_u64<W: ?Sized + Write>(&mut self, writer: &mut W, value: u64) -> io::Result<()> {
        self.same_line(writer)?;
        CompactFormatter.write_u64(writer, value)
    }

    fn write_f64<W: ?Sized + Write>(&mut self, writer: &mut W, value: f64) -> io::Result<()> {
        self.same_line(writer)?;
        CompactFormatter.write_f64(writer, value)
    }

    fn begin_string<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.same_line(writer)?;
        writer.write_all(b"\"")
    }

    fn begin_array_value<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        self.held_back = if first { b"" } else { b" " };
        writer.write_all(if first { b"" } else { b"," })
    }

    fn begin_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.same_line(writer)?;
        self.depth += 1;
        writer.write_all(b"{")
    }

    fn end_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.depth -= 1;
        self.new_line(writer)?;
        writer.write_all(b"}")
    }

    fn begin_object_key<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        writer.write_all(if first { b"" } else { b"," })?;
        self.new_line(writer)
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }
}
