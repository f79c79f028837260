//! Where frames come from: files and folders on the command line.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use headland_tensor::{NamedTensors, Shape, Tensor};
use serde_json::{Map, Value};

use crate::npy;

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
    /// Input: an image, WAV, .npy, .csv or .jsonl file, or a folder of them
    #[arg(long = "input", required = true, num_args = 1.., value_name = "FILE")]
    pub inputs: Vec<PathBuf>,

    /// Column (.csv, .jsonl) that holds the true label; kept from the pipeline
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
    let labels = match &options.labels {
        Some(path) => read_labels(path)?,
        None => Vec::new(),
    };
    let mut frames = Vec::new();
    for input in &options.inputs {
        let meta =
            fs::metadata(input).with_context(|| format!("cannot read {}", input.display()))?;
        if !meta.is_dir() {
            read_file(input, options, &labels, &mut frames)?;
            continue;
        }
        let listing =
            fs::read_dir(input).with_context(|| format!("cannot list {}", input.display()))?;
        let mut files = Vec::new();
        for entry in listing {
            let path = entry.with_context(|| format!("cannot list {}", input.display()))?.path();
            if path.is_file() {
                files.push(path);
            }
        }
        files.sort();
        for file in files {
            read_file(&file, options, &labels, &mut frames)?;
        }
    }
    if frames.is_empty() {
        bail!("the input holds no frames");
    }
    Ok(frames)
}

fn read_labels(path: &Path) -> anyhow::Result<Vec<(String, String)>> {
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .from_path(path)
        .with_context(|| format!("cannot read labels {}", path.display()))?;
    let mut labels = Vec::new();
    for record in reader.records() {
        let record = record.with_context(|| format!("labels {}", path.display()))?;
        match (record.get(0), record.get(1)) {
            (Some(file), Some(label)) => labels.push((file.to_owned(), label.to_owned())),
            _ => bail!("labels {}: each line needs `file,label`", path.display()),
        }
    }
    Ok(labels)
}

fn read_file(
    path: &Path,
    options: &SourceOptions,
    labels: &[(String, String)],
    frames: &mut Vec<SourceFrame>,
) -> anyhow::Result<()> {
    let origin = path.display().to_string();
    let read = || fs::read(path).with_context(|| format!("cannot read {origin}"));
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or("").to_ascii_lowercase();
    let media_type = match extension.as_str() {
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "bmp" => "image/bmp",
        "ppm" | "pgm" | "pnm" => "image/x-portable-anymap",
        "wav" => "audio/wav",
        "json" => "application/json",
        "csv" => return read_csv(path, options, frames),
        "jsonl" | "ndjson" => return read_json_lines(path, options, frames),
        "npy" => "application/x-npy",
        _ => "application/octet-stream",
    };
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    let label = labels.iter().find(|(file, _)| file == name).map(|(_, label)| label.clone());
    if extension != "npy" {
        let inputs = vec![("payload".to_owned(), Tensor::from_bytes(read()?)?)];
        frames.push(SourceFrame { origin, inputs, media_type, label });
        return Ok(());
    }
    let tensor = npy::decode(&read()?).with_context(|| format!("cannot read {origin}"))?;
    let slices = if options.split { split(&tensor)? } else { vec![tensor] };
    let many = slices.len() > 1;
    for (i, tensor) in slices.into_iter().enumerate() {
        frames.push(SourceFrame {
            origin: if many { format!("{origin}[{i}]") } else { origin.clone() },
            inputs: vec![("payload".to_owned(), tensor)],
            media_type,
            label: label.clone(),
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
    mut object: Map<String, Value>,
    options: &SourceOptions,
) -> anyhow::Result<SourceFrame> {
    let label = match &options.label_column {
        Some(column) => match object.remove(column) {
            Some(Value::String(s)) => Some(s),
            Some(Value::Null) | None => None,
            Some(other) => Some(other.to_string()),
        },
        None => None,
    };
    let payload = serde_json::to_vec(&Value::Object(object))?;
    let inputs = vec![("payload".to_owned(), Tensor::from_bytes(payload)?)];
    Ok(SourceFrame { origin, inputs, media_type: "application/json", label })
}

/// A CSV cell as JSON: empty is missing, what reads as a number is one.
fn cell(text: &str) -> Value {
    if text.is_empty() {
        return Value::Null;
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
    let mut reader = csv::Reader::from_path(path).with_context(what)?;
    let header = reader.headers().with_context(what)?.clone();
    if let Some(column) = &options.label_column
        && !header.iter().any(|h| h == column)
    {
        bail!(
            "{} has no column {column:?}; it has {:?}",
            path.display(),
            header.iter().collect::<Vec<_>>()
        );
    }
    for record in reader.records() {
        let record = record.with_context(what)?;
        let line = record.position().map_or(0, csv::Position::line);
        let object = header.iter().map(str::to_owned).zip(record.iter().map(cell)).collect();
        frames.push(row(format!("{}:{line}", path.display()), object, options)?);
    }
    Ok(())
}

fn read_json_lines(
    path: &Path,
    options: &SourceOptions,
    frames: &mut Vec<SourceFrame>,
) -> anyhow::Result<()> {
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    for (i, line) in text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty()) {
        let origin = format!("{}:{}", path.display(), i + 1);
        let value: Value = serde_json::from_str(line).with_context(|| origin.clone())?;
        let Value::Object(object) = value else { bail!("{origin}: a line must be a JSON object") };
        frames.push(row(origin, object, options)?);
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
    fn split_takes_the_first_axis() {
        let t = Tensor::from_elements::<f32>(&[2, 3], &[1., 2., 3., 4., 5., 6.]).unwrap();
        let s = split(&t).unwrap();
        assert_eq!(s.len(), 2);
        assert_eq!(s[1].to_vec::<f32>().unwrap(), [4., 5., 6.]);
        assert!(split(&Tensor::from_elements::<f32>(&[], &[1.]).unwrap()).is_err());
    }
}
