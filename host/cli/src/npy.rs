//! NumPy's `.npy` files, versions 1 to 3.
//!
//! # Source
//! <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail, ensure};
use headland_tensor::{DType, Shape, Tensor};

const MAGIC: &[u8] = b"\x93NUMPY";
/// The data starts at a multiple of this.
const ALIGNMENT: usize = 64;

/// Read a tensor from a file.
///
/// # Errors
/// A file that cannot be read, or that [`decode`] refuses; both with its path.
pub fn read(path: &Path) -> anyhow::Result<Tensor> {
    let bytes = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    decode(&bytes).with_context(|| format!("{} is not a .npy file we can read", path.display()))
}

/// Write a tensor to a file, which is there either whole or not at all.
///
/// # Errors
/// A file that cannot be written, with its path.
pub fn write(path: &Path, tensor: &Tensor) -> anyhow::Result<()> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(format!(".{}.partial", std::process::id()));
    let partial = PathBuf::from(partial);
    let written = fs::File::create(&partial)
        .and_then(|mut file| file.write_all(&encode(tensor)).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&partial, path));
    if written.is_err() {
        // The error that counts is the first one.
        let _ = fs::remove_file(&partial);
    }
    written.with_context(|| format!("writing {}", path.display()))
}

/// A tensor as a version 1 file, little-endian, in C order.
pub fn encode(tensor: &Tensor) -> Vec<u8> {
    let dims: Vec<String> = tensor.shape().dims().iter().map(|d| format!("{d},")).collect();
    let header = format!(
        "{{'descr': '{}', 'fortran_order': False, 'shape': ({}), }}",
        descr(tensor.dtype()),
        dims.join(" ")
    );
    let prefix = MAGIC.len() + 4;
    let padded = (prefix + header.len() + 1).next_multiple_of(ALIGNMENT) - prefix;
    let mut file = Vec::with_capacity(prefix + padded + tensor.bytes().len());
    file.extend_from_slice(MAGIC);
    file.extend_from_slice(&[1, 0]);
    // Sixteen dimensions of ten digits are far below 64 KiB.
    file.extend_from_slice(&(padded as u16).to_le_bytes());
    file.extend_from_slice(header.as_bytes());
    file.resize(prefix + padded - 1, b' ');
    file.push(b'\n');
    file.extend_from_slice(tensor.bytes());
    file
}

/// Read a file's bytes.
///
/// # Errors
/// Anything but a dense little-endian array of a dtype of the contract, whose
/// data is exactly as long as its header says.
pub fn decode(file: &[u8]) -> anyhow::Result<Tensor> {
    let rest = file.strip_prefix(MAGIC).context("the magic number is missing")?;
    let (&[major, _minor], rest) = rest.split_first_chunk().context("the header is truncated")?;
    let (header_len, rest) = match major {
        1 => {
            let (len, rest) = rest.split_first_chunk().context("the header is truncated")?;
            (usize::from(u16::from_le_bytes(*len)), rest)
        }
        2 | 3 => {
            let (len, rest) = rest.split_first_chunk().context("the header is truncated")?;
            (usize::try_from(u32::from_le_bytes(*len))?, rest)
        }
        _ => bail!("format version {major} is unknown"),
    };
    let (header, data) = rest.split_at_checked(header_len).context("the header is truncated")?;
    let header = std::str::from_utf8(header).context("the header is not text")?;
    let header = Header::parse(header)?;
    let shape = Shape::new(header.shape)?;
    let expected = shape.element_count() * header.dtype.size_bytes();
    ensure!(
        data.len() == expected,
        "{} {shape} takes {expected} bytes, but {} follow the header",
        header.dtype,
        data.len()
    );
    if header.fortran_order {
        let data = to_c_order(data, &shape.to_usize(), header.dtype.size_bytes());
        Ok(Tensor::new(header.dtype, shape, data)?)
    } else {
        Ok(Tensor::new(header.dtype, shape, data)?)
    }
}

/// NumPy's name for a dtype. NumPy itself has no bf16; the `ml_dtypes`
/// package, which adds it, saves it as two opaque bytes.
fn descr(dtype: DType) -> &'static str {
    match dtype {
        DType::Bool => "|b1",
        DType::U8 => "|u1",
        DType::I8 => "|i1",
        DType::U16 => "<u2",
        DType::I16 => "<i2",
        DType::U32 => "<u4",
        DType::I32 => "<i4",
        DType::U64 => "<u8",
        DType::I64 => "<i8",
        DType::F16 => "<f2",
        DType::BF16 => "<V2",
        DType::F32 => "<f4",
        DType::F64 => "<f8",
    }
}

/// Elements stored with the first index running fastest, rearranged so that
/// the last one does.
fn to_c_order(data: &[u8], dims: &[usize], element: usize) -> Vec<u8> {
    let mut strides = Vec::with_capacity(dims.len());
    let mut stride = element;
    for &dim in dims {
        strides.push(stride);
        stride = stride.saturating_mul(dim);
    }
    let mut out = Vec::with_capacity(data.len());
    let mut index = vec![0usize; dims.len()];
    while out.len() < data.len() {
        let at: usize = index.iter().zip(&strides).map(|(i, s)| i * s).sum();
        out.extend_from_slice(&data[at..at + element]);
        for (i, &dim) in index.iter_mut().zip(dims).rev() {
            *i += 1;
            if *i < dim {
                break;
            }
            *i = 0;
        }
    }
    out
}

/// The header: a Python dictionary with exactly these keys.
struct Header {
    dtype: DType,
    fortran_order: bool,
    shape: Vec<u32>,
}

impl Header {
    fn parse(text: &str) -> anyhow::Result<Self> {
        let mut rest = Text(text);
        let (mut dtype, mut fortran_order, mut shape) = (None, None, None);
        rest.expect('{')?;
        while !rest.accept('}') {
            let key = rest.string()?;
            rest.expect(':')?;
            let twice = match key {
                "descr" => {
                    let name = rest.string().context("a structured dtype is not supported")?;
                    let found = DType::ALL.into_iter().find(|&d| {
                        // Byte order means nothing to a dtype of one byte.
                        descr(d)[1..] == *name.get(1..).unwrap_or_default()
                            && (name.starts_with(['<', '|']) || (d.size_bytes() == 1))
                    });
                    let found = found.with_context(|| {
                        format!("dtype {name:?} is not a little-endian number we know")
                    })?;
                    dtype.replace(found).is_some()
                }
                "fortran_order" => fortran_order.replace(rest.boolean()?).is_some(),
                "shape" => shape.replace(rest.tuple()?).is_some(),
                _ => bail!("the header has the unknown key {key:?}"),
            };
            ensure!(!twice, "the header has {key:?} twice");
            if !rest.accept(',') {
                rest.expect('}')?;
                break;
            }
        }
        ensure!(rest.0.trim().is_empty(), "the header goes on after its dictionary");
        Ok(Self {
            dtype: dtype.context("the header has no 'descr'")?,
            fortran_order: fortran_order.context("the header has no 'fortran_order'")?,
            shape: shape.context("the header has no 'shape'")?,
        })
    }
}

/// What is left to parse.
struct Text<'a>(&'a str);

impl<'a> Text<'a> {
    fn accept(&mut self, token: char) -> bool {
        let rest = self.0.trim_start();
        self.0 = rest.strip_prefix(token).unwrap_or(rest);
        self.0.len() < rest.len()
    }

    fn expect(&mut self, token: char) -> anyhow::Result<()> {
        ensure!(self.accept(token), "the header lacks {token:?}");
        Ok(())
    }

    fn string(&mut self) -> anyhow::Result<&'a str> {
        let quote = if self.accept('"') { '"' } else { '\'' };
        if quote == '\'' {
            self.expect('\'')?;
        }
        let (string, rest) = self.0.split_once(quote).context("the header has an open string")?;
        self.0 = rest;
        Ok(string)
    }

    fn boolean(&mut self) -> anyhow::Result<bool> {
        let rest = self.0.trim_start();
        for (word, value) in [("True", true), ("False", false)] {
            if let Some(rest) = rest.strip_prefix(word) {
                self.0 = rest;
                return Ok(value);
            }
        }
        bail!("'fortran_order' is neither True nor False")
    }

    fn tuple(&mut self) -> anyhow::Result<Vec<u32>> {
        self.expect('(')?;
        let mut sizes = Vec::new();
        while !self.accept(')') {
            let rest = self.0.trim_start();
            let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            let size = rest[..end].parse().ok().with_context(|| {
                let size: String = rest.chars().take_while(|c| !",)".contains(*c)).collect();
                format!("'shape' has the size {size:?}")
            })?;
            sizes.push(size);
            self.0 = &rest[end..];
            if !self.accept(',') {
                self.expect(')')?;
                break;
            }
        }
        Ok(sizes)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn file(version: u8, header: &str, data: &[u8]) -> Vec<u8> {
        let mut file = MAGIC.to_vec();
        file.extend_from_slice(&[version, 0]);
        if version == 1 {
            file.extend_from_slice(&(header.len() as u16).to_le_bytes());
        } else {
            file.extend_from_slice(&(header.len() as u32).to_le_bytes());
        }
        file.extend_from_slice(header.as_bytes());
        file.extend_from_slice(data);
        file
    }

    fn refusal(header: &str, data: &[u8]) -> String {
        format!("{:#}", decode(&file(1, header, data)).unwrap_err())
    }

    #[test]
    fn every_dtype_and_rank_comes_back() {
        for dtype in DType::ALL {
            for dims in [vec![], vec![3], vec![2, 3], vec![0, 4], vec![1; 16]] {
                let shape = Shape::new(dims).unwrap();
                let data: Vec<u8> =
                    (0..shape.element_count() * dtype.size_bytes()).map(|i| i as u8 % 2).collect();
                let tensor = Tensor::new(dtype, shape, data).unwrap();
                let file = encode(&tensor);
                assert_eq!(decode(&file).unwrap(), tensor);
                assert_eq!((file.len() - tensor.bytes().len()) % ALIGNMENT, 0);
            }
        }
    }

    #[test]
    fn versions_two_and_three_and_double_quotes_are_read() {
        let header = r#"{"descr": "<i2", "fortran_order": False, "shape": (2,)}"#;
        for version in [2, 3] {
            let tensor = decode(&file(version, header, &[1, 0, 2, 0])).unwrap();
            assert_eq!(tensor.to_vec::<i16>().unwrap(), [1, 2]);
        }
    }

    #[test]
    fn fortran_order_is_turned_into_c_order() {
        // numpy.save of numpy.asfortranarray(numpy.arange(6, dtype='u1').reshape(1, 2, 3)).
        let header = "{'descr': '|u1', 'fortran_order': True, 'shape': (1, 2, 3), }";
        let tensor = decode(&file(1, header, &[0, 3, 1, 4, 2, 5])).unwrap();
        assert_eq!(tensor.to_vec::<u8>().unwrap(), [0, 1, 2, 3, 4, 5]);
        let empty = "{'descr': '|u1', 'fortran_order': True, 'shape': (0, 3), }";
        assert_eq!(decode(&file(1, empty, &[])).unwrap().shape().dims(), [0, 3]);
    }

    #[test]
    fn hostile_headers_are_refused_by_name() {
        let ok = "{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }";
        assert!(decode(&file(1, ok, &[0; 4])).is_ok());
        assert!(refusal(ok, &[0; 3]).contains("takes 4 bytes, but 3 follow"));
        assert!(refusal(ok, &[0; 5]).contains("takes 4 bytes, but 5 follow"));
        let cases = [
            ("{'descr': '>f4', 'fortran_order': False, 'shape': (1,), }", "\">f4\""),
            ("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", "\"|O\""),
            ("{'descr': '<', 'fortran_order': False, 'shape': (1,), }", "\"<\""),
            ("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,), }", "structured"),
            ("{'descr': '<f4', 'fortran_order': 0, 'shape': (1,), }", "neither True nor False"),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }", "size \"-1\""),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296,), }", "size"),
            (
                "{'descr': '<f4', 'fortran_order': False, 'shape': (4294967295, 4294967295), }",
                "too many elements",
            ),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (1 2), }", "lacks ')'"),
            ("{'descr': '<f4', 'fortran_order': False, }", "no 'shape'"),
            ("{'descr': '<f4', 'descr': '<f4', }", "\"descr\" twice"),
            ("{'shape': (1,), 'x': 1}", "unknown key \"x\""),
            ("{'descr': '<f4", "open string"),
            ("__import__('os')", "lacks '{'"),
        ];
        for (header, says) in cases {
            let refusal = refusal(header, &[0; 4]);
            assert!(refusal.contains(says), "{header}: {refusal}");
        }
        let dims = "1, ".repeat(17);
        let deep = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({dims})}}");
        assert!(refusal(&deep, &[0; 4]).contains("17 dimensions"));
    }

    #[test]
    fn truncation_at_every_byte_is_refused() {
        let whole = encode(&Tensor::from_elements::<f32>(&[2], &[1.0, 2.0]).unwrap());
        for len in 0..whole.len() {
            assert!(decode(&whole[..len]).is_err(), "{len} bytes of {}", whole.len());
        }
        assert!(decode(&[MAGIC, &[9, 0, 0, 0]].concat()).is_err());
        assert!(decode(&[MAGIC, &[2, 0, 0xff, 0xff, 0xff, 0xff]].concat()).is_err());
    }
}
