//! Where frames come from: files and folders on the command line.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use headland_tensor::{NamedTensors, Shape, Tensor};
use serde_json::{Map, Value};

use crate::{npy, table};

/// The longest input file, in bytes.
const MAX_INPUT_BYTES: u64 = 256 << 20;

/// One frame of a source.
pub struct SourceFrame {
    /// Where it is from, for people: a file, or a file and a line.
    pub origin: String,
    /// What the pipeline is given.
    pub inputs: NamedTensors,
    /// Its media type.
    pub media_type: &'static str,
    /// What it should be predicted as, where that is known.
    pub label: Option<String>,
}

/// How files are turned into frames.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct SourceOptions {
    /// Input: an image, WAV, .npy, .csv, .jsonl or .parquet file, or a folder of them
    #[arg(long = "input", required = true, num_args = 1.., value_name = "FILE")]
    pub inputs: Vec<PathBuf>,

    /// Column (.csv, .jsonl, .parquet) that holds the true label; kept from the
    /// pipeline, given to the monitors that wait for labels
    #[arg(long, value_name = "COLUMN")]
    pub label_column: Option<String>,

    /// CSV of `file,label` lines with the true labels of files
    #[arg(long, value_name = "FILE")]
    pub labels: Option<PathBuf>,

    /// Split .npy files along their first axis, one frame each
    #[arg(long)]
    pub split: bool,
}

/// Every frame that the options name, in order.
pub fn frames(options: &SourceOptions) -> anyhow::Result<Vec<SourceFrame>> {
    let labels = options.labels.as_deref().map(read_labels).transpose()?.unwrap_or_default();
    let mut frames = Vec::new();
    let mut labelled = false;
    for file in files(&options.inputs)? {
        let name = file.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        let label = labels.get(name);
        labelled |= label.is_some();
        read_file(&file, options, label, &mut frames)?;
    }
    if frames.is_empty() {
        bail!("the input holds no frames");
    }
    if let Some(path) = &options.labels
        && !labelled
    {
        bail!("labels {}: no file of the input is named there", path.display());
    }
    Ok(frames)
}

/// The files that `inputs` name: themselves, or what is in a folder, by name
/// and without hidden files.
pub fn files(inputs: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for input in inputs {
        let meta =
            fs::metadata(input).with_context(|| format!("cannot read {}", input.display()))?;
        if !meta.is_dir() {
            files.push(input.clone());
            continue;
        }
        let cannot = || format!("cannot list {}", input.display());
        let mut listed = Vec::new();
        for entry in fs::read_dir(input).with_context(cannot)? {
            let entry = entry.with_context(cannot)?;
            let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
            if !hidden && entry.path().is_file() {
                listed.push(entry.path());
            }
        }
        listed.sort();
        files.extend(listed);
    }
    Ok(files)
}

/// All of a regular file of at most [`MAX_INPUT_BYTES`].
pub fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    let cannot = || format!("cannot read {}", path.display());
    // Asked before it is opened: opening a pipe waits for its writer.
    if !fs::metadata(path).with_context(cannot)?.is_file() {
        bail!("{} is not a regular file", path.display());
    }
    let mut bytes = Vec::new();
    let file = File::open(path).with_context(cannot)?;
    file.take(MAX_INPUT_BYTES + 1).read_to_end(&mut bytes).with_context(cannot)?;
    if bytes.len() as u64 > MAX_INPUT_BYTES {
        bail!("{} is too long for an input: more than {MAX_INPUT_BYTES} bytes", path.display());
    }
    Ok(bytes)
}

/// Labels by file name.
pub fn read_labels(path: &Path) -> anyhow::Result<BTreeMap<String, String>> {
    let bytes = read(path)?;
    let mut reader = csv::ReaderBuilder::new().has_headers(false).from_reader(bytes.as_slice());
    let mut labels = BTreeMap::new();
    for record in reader.records() {
        let record = record.with_context(|| format!("labels {}", path.display()))?;
        let (Some(file), Some(label)) = (record.get(0), record.get(1)) else {
            bail!("labels {}: each line needs `file,label`", path.display());
        };
        if labels.insert(file.to_owned(), label.to_owned()).is_some() {
            bail!("labels {}: {file:?} has two labels", path.display());
        }
    }
    Ok(labels)
}

fn read_file(
    path: &Path,
    options: &SourceOptions,
    label: Option<&String>,
    frames: &mut Vec<SourceFrame>,
) -> anyhow::Result<()> {
    let origin = path.display().to_string();
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or("").to_ascii_lowercase();
    let media_type = match extension.as_str() {
        "csv" => return read_csv(path, options, frames),
        "jsonl" | "ndjson" => return read_json_lines(path, options, frames),
        "parquet" => return read_parquet(path, options, frames),
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "bmp" => "image/bmp",
        "ppm" | "pgm" | "pnm" => "image/x-portable-anymap",
        "wav" => "audio/wav",
        "json" => "application/json",
        "npy" => "application/x-npy",
        _ => "application/octet-stream",
    };
    if let Some(column) = &options.label_column {
        bail!("{origin} has no columns, so no label column {column:?}; --labels is for files");
    }
    let bytes = read(path)?;
    if extension != "npy" {
        let inputs = vec![("payload".to_owned(), Tensor::from_bytes(bytes)?)];
        frames.push(SourceFrame { origin, inputs, media_type, label: label.cloned() });
        return Ok(());
    }
    let tensor = npy::decode(&bytes).with_context(|| format!("cannot read {origin}"))?;
    let slices = if options.split { split(&tensor)? } else { vec![tensor] };
    let many = slices.len() > 1;
    for (i, tensor) in slices.into_iter().enumerate() {
        frames.push(SourceFrame {
            origin: if many { format!("{origin}[{i}]") } else { origin.clone() },
            inputs: vec![("payload".to_owned(), tensor)],
            media_type,
            label: label.cloned(),
        });
    }
    Ok(())
}

/// The tensors along the first axis.
fn split(tensor: &Tensor) -> anyhow::Result<Vec<Tensor>> {
    let Some((&count, rest)) = tensor.shape().dims().split_first() else {
        bail!("--split needs at least one axis, the array is a scalar");
    };
    let shape = Shape::new(rest)?;
    let len = (shape.element_count() * tensor.dtype().size_bytes()) as u64;
    (0..u64::from(count))
        .map(|i| Ok(Tensor::new(tensor.dtype(), shape.clone(), tensor.byte_range(i * len, len)?)?))
        .collect()
}

/// One frame of a row: its JSON object without the label.
fn row(
    origin: String,
    object: Map<String, Value>,
    label: Option<String>,
) -> anyhow::Result<SourceFrame> {
    let payload = serde_json::to_vec(&Value::Object(object))?;
    let inputs = vec![("payload".to_owned(), Tensor::from_bytes(payload)?)];
    Ok(SourceFrame { origin, inputs, media_type: "application/json", label })
}

/// A CSV cell as JSON: empty is missing, what reads as a number is one.
pub fn cell(text: &str) -> Value {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text).as_bytes();
    match digits {
        [] if text.is_empty() => return Value::Null,
        // Part numbers and codes are padded with zeros, numbers are not.
        [b'0', b'0'..=b'9', ..] => return Value::from(text),
        _ => {}
    }
    if let Ok(i) = text.parse::<i64>() {
        return Value::from(i);
    }
    match text.parse::<f64>() {
        // JSON has no NaN: to a pipeline it is a value that is missing.
        Ok(f) if f.is_nan() => Value::Null,
        Ok(f) if f.is_finite() => Value::from(f),
        _ => Value::from(text),
    }
}

fn read_csv(
    path: &Path,
    options: &SourceOptions,
    frames: &mut Vec<SourceFrame>,
) -> anyhow::Result<()> {
    let what = || format!("cannot read {}", path.display());
    let bytes = read(path)?;
    let mut reader = csv::Reader::from_reader(bytes.as_slice());
    let header: Vec<String> =
        reader.headers().with_context(what)?.iter().map(str::to_owned).collect();
    if let Some((_, twice)) = header.iter().enumerate().find(|(i, h)| header[..*i].contains(h)) {
        bail!("{} has two columns {twice:?}", path.display());
    }
    let label_at = match &options.label_column {
        Some(column) => Some(header.iter().position(|h| h == column).with_context(|| {
            format!("{} has no column {column:?}; it has {header:?}", path.display())
        })?),
        None => None,
    };
    for record in reader.records() {
        let record = record.with_context(what)?;
        let line = record.position().map_or(0, csv::Position::line);
        // A label is text, whatever it looks like.
        let label = label_at.and_then(|i| record.get(i)).filter(|l| !l.is_empty());
        let columns = header.iter().zip(&record).enumerate().filter(|(i, _)| Some(*i) != label_at);
        let object = columns.map(|(_, (name, text))| (name.clone(), cell(text))).collect();
        let origin = format!("{}:{line}", path.display());
        frames.push(row(origin, object, label.map(str::to_owned))?);
    }
    Ok(())
}

fn read_json_lines(
    path: &Path,
    options: &SourceOptions,
    frames: &mut Vec<SourceFrame>,
) -> anyhow::Result<()> {
    let text = String::from_utf8(read(path)?)
        .with_context(|| format!("cannot read {}", path.display()))?;
    for (i, line) in text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty()) {
        let origin = format!("{}:{}", path.display(), i + 1);
        let value: Value = serde_json::from_str(line).with_context(|| origin.clone())?;
        let Value::Object(mut object) = value else {
            bail!("{origin}: a line must be a JSON object")
        };
        let label = match &options.label_column {
            Some(column) => match object.remove(column) {
                Some(Value::String(s)) => Some(s),
                Some(Value::Null) => None,
                Some(other) => Some(other.to_string()),
                None => bail!("{origin} has no {column:?}, which --label-column names"),
            },
            None => None,
        };
        frames.push(row(origin, object, label)?);
    }
    Ok(())
}

fn read_parquet(
    path: &Path,
    options: &SourceOptions,
    frames: &mut Vec<SourceFrame>,
) -> anyhow::Result<()> {
    let mut table = table::read(path, &[])?;
    let labels = match &options.label_column {
        Some(column) => table.take_text(column).with_context(|| path.display().to_string())?,
        None => vec![None; table.rows()],
    };
    for (i, (object, label)) in table.objects().zip(labels).enumerate() {
        frames.push(row(format!("{}:{i}", path.display()), object, label)?);
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_numbers_missing_or_text() {
        assert_eq!(cell("12"), Value::from(12));
        assert_eq!(cell("-1.5e3"), Value::from(-1500.0));
        assert_eq!(cell(""), Value::Null);
        assert_eq!(cell("nan"), Value::Null);
        assert_eq!(cell("inf"), Value::from("inf"));
        assert_eq!(cell("pump-3"), Value::from("pump-3"));
    }

    #[test]
    fn padded_codes_are_text() {
        assert_eq!(cell("007"), Value::from("007"));
        assert_eq!(cell("-01.5"), Value::from("-01.5"));
        assert_eq!(cell("0"), Value::from(0));
        assert_eq!(cell("0.5"), Value::from(0.5));
        assert_eq!(cell("-0.5"), Value::from(-0.5));
        assert_eq!(cell("-"), Value::from("-"));
    }

    /// What `options` gives for a folder with `contents` in `name`.
    fn frames_of(
        name: &str,
        contents: &str,
        options: SourceOptions,
    ) -> anyhow::Result<Vec<SourceFrame>> {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(name), contents).unwrap();
        fs::write(folder.path().join(".hidden"), "not a frame").unwrap();
        frames(&SourceOptions { inputs: vec![folder.path().to_owned()], ..options })
    }

    fn label_column(column: &str) -> SourceOptions {
        SourceOptions { label_column: Some(column.to_owned()), ..SourceOptions::default() }
    }

    #[test]
    fn labels_stay_as_they_are_written() {
        let text = "class,x\n01,1\nnan,2\n1e3,3\n,4\n";
        let frames = frames_of("a.csv", text, label_column("class")).unwrap();
        let labels: Vec<Option<&str>> = frames.iter().map(|f| f.label.as_deref()).collect();
        assert_eq!(labels, [Some("01"), Some("nan"), Some("1e3"), None]);
        assert_eq!(frames[0].inputs[0].1.bytes(), br#"{"x":1}"#);
    }

    #[test]
    fn a_label_column_must_be_there() {
        let refused = |name, text| {
            let refused = frames_of(name, text, label_column("class"));
            refused.err().map(|e| e.to_string()).unwrap_or_default()
        };
        assert!(refused("a.csv", "x\n1\n").contains("no column \"class\""));
        assert!(refused("a.jsonl", "{\"class\":1}\n{\"x\":1}\n").contains("a.jsonl:2 has no"));
        assert!(refused("a.bin", "x").contains("has no columns"));
    }

    #[test]
    fn a_column_has_one_name() {
        let refused = frames_of("a.csv", "x,y,x\n1,2,3\n", SourceOptions::default());
        assert!(refused.err().unwrap().to_string().contains("two columns \"x\""));
    }

    #[test]
    fn labels_must_be_of_the_input() {
        let folder = tempfile::tempdir().unwrap();
        let labels = folder.path().join("labels.csv");
        let options = SourceOptions { labels: Some(labels.clone()), ..SourceOptions::default() };
        fs::write(&labels, "a.bin,01\n").unwrap();
        let frames = frames_of("a.bin", "x", options.clone()).unwrap();
        assert_eq!(frames.len(), 1);
        assert_eq!(frames[0].label.as_deref(), Some("01"));
        assert!(frames_of("b.bin", "x", options.clone()).is_err());
        fs::write(&labels, "a.bin,1\na.bin,2\n").unwrap();
        assert!(frames_of("a.bin", "x", options).is_err());
    }

    #[test]
    fn a_file_without_end_is_refused() {
        let long = tempfile::NamedTempFile::new().unwrap();
        long.as_file().set_len(MAX_INPUT_BYTES + 1).unwrap();
        let refused = read(long.path()).unwrap_err().to_string();
        assert!(refused.contains("too long"), "{refused}");
        assert!(refused.contains(&long.path().display().to_string()));
    }

    #[cfg(unix)]
    #[test]
    fn a_device_is_refused() {
        let refused = read(Path::new("/dev/zero")).unwrap_err().to_string();
        assert_eq!(refused, "/dev/zero is not a regular file");
    }

    #[test]
    fn split_takes_the_first_axis() {
        let t = Tensor::from_elements::<f32>(&[2, 3], &[1., 2., 3., 4., 5., 6.]).unwrap();
        let s = split(&t).unwrap();
        assert_eq!(s.len(), 2);
        assert_eq!(s[1].to_vec::<f32>().unwrap(), [4., 5., 6.]);
        assert!(split(&Tensor::from_elements::<f32>(&[], &[1.]).unwrap()).is_err());
    }
}
