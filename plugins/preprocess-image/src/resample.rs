//! Resizing a window of a picture, axis by axis.

use crate::{
    config::{Filter, Mode, Resize, Size},
    picture::Picture,
};

/// A stretch of one axis, in pixels of the source.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Span {
    start: f64,
    len: f64,
}

/// Where the result lies in the original picture: per axis, the scale and
/// offset that bring a fraction of the result to a fraction of the original.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Geometry {
    /// `[x, y]`.
    pub scale: [f64; 2],
    /// `[x, y]`.
    pub offset: [f64; 2],
}

impl Geometry {
    /// All of the original.
    pub const WHOLE: Self = Self { scale: [1.0; 2], offset: [0.0; 2] };

    /// The geometry of a window of this result: fractions of the window to
    /// fractions of the original.
    fn window(self, offset: [f64; 2], scale: [f64; 2]) -> Self {
        Self {
            scale: [0, 1].map(|a| self.scale[a] * scale[a]),
            offset: [0, 1].map(|a| self.offset[a] + self.scale[a] * offset[a]),
        }
    }
}

/// Bring a picture to the size of `to`.
pub fn resize(picture: &Picture, to: &Resize) -> (Picture, Geometry) {
    let source = [f64::from(picture.width), f64::from(picture.height)];
    let target = [f64::from(to.width), f64::from(to.height)];
    let factor = [target[0] / source[0], target[1] / source[1]];
    match to.mode {
        Mode::Stretch => {
            let spans = source.map(|len| Span { start: 0.0, len });
            (resample(picture, spans, [to.width, to.height], to.filter), Geometry::WHOLE)
        }
        Mode::Fill => {
            // The window is taken from the source, so that a picture of 1 by
            // a million pixels is not blown up first.
            let factor = factor[0].max(factor[1]);
            let spans = [0, 1].map(|a| {
                let len = (target[a] / factor).min(source[a]);
                Span { start: (source[a] - len) / 2.0, len }
            });
            let geometry = Geometry::WHOLE.window(
                [0, 1].map(|a| spans[a].start / source[a]),
                [0, 1].map(|a| spans[a].len / source[a]),
            );
            (resample(picture, spans, [to.width, to.height], to.filter), geometry)
        }
        Mode::Fit => {
            let factor = factor[0].min(factor[1]);
            let size = [0, 1].map(|a| (source[a] * factor).round().clamp(1.0, target[a]) as u32);
            let spans = source.map(|len| Span { start: 0.0, len });
            let inner = resample(picture, spans, size, to.filter);
            let start = [(to.width - size[0]) / 2, (to.height - size[1]) / 2];
            let geometry = Geometry::WHOLE.window(
                [0, 1].map(|a| -f64::from(start[a]) / f64::from(size[a])),
                [0, 1].map(|a| target[a] / f64::from(size[a])),
            );
            (pad(&inner, start, [to.width, to.height], to.pad), geometry)
        }
    }
}

/// The middle of a picture; an odd pixel is left off at the right or bottom.
///
/// # Errors
/// That the picture is smaller.
pub fn crop(picture: Picture, geometry: Geometry, to: Size) -> Result<(Picture, Geometry), String> {
    let (width, height) = (picture.width, picture.height);
    if to.width > width || to.height > height {
        return Err(format!(
            "is {width}x{height}, smaller than the crop of {}x{}",
            to.width, to.height
        ));
    }
    if (to.width, to.height) == (width, height) {
        return Ok((picture, geometry));
    }
    let start = [(width - to.width) / 2, (height - to.height) / 2];
    let row_len = width as usize * picture.channels;
    let keep = to.width as usize * picture.channels;
    let first = start[0] as usize * picture.channels;
    let samples = picture
        .samples
        .chunks_exact(row_len)
        .skip(start[1] as usize)
        .take(to.height as usize)
        .flat_map(|row| &row[first..first + keep])
        .copied()
        .collect();
    let source = [f64::from(width), f64::from(height)];
    let geometry = geometry.window(
        [0, 1].map(|a| f64::from(start[a]) / source[a]),
        [f64::from(to.width) / source[0], f64::from(to.height) / source[1]],
    );
    Ok((Picture { width: to.width, height: to.height, samples, ..picture }, geometry))
}

fn pad(inner: &Picture, start: [u32; 2], [width, height]: [u32; 2], sample: u8) -> Picture {
    let channels = inner.channels;
    let mut samples = vec![sample; width as usize * height as usize * channels];
    let row_len = width as usize * channels;
    let inner_len = inner.width as usize * channels;
    let first = start[0] as usize * channels;
    for (to, from) in samples
        .chunks_exact_mut(row_len)
        .skip(start[1] as usize)
        .zip(inner.samples.chunks_exact(inner_len))
    {
        to[first..first + inner_len].copy_from_slice(from);
    }
    Picture { width, height, channels, samples }
}

/// The source pixels that one target pixel is made of, and their weights.
struct Taps {
    start: usize,
    weights: Vec<f32>,
}

/// The taps of each of `target` pixels over `span` of `source` pixels.
fn taps(filter: Filter, source: u32, span: Span, target: u32) -> Vec<Taps> {
    let scale = span.len / f64::from(target);
    let last = source as usize - 1;
    let weighted = |low: f64, high: f64, weight: &dyn Fn(f64) -> f64| {
        let start = (low.floor().max(0.0) as usize).min(last);
        let end = (high.ceil().max(0.0) as usize).clamp(start + 1, last + 1);
        let weights: Vec<f64> = (start..end).map(|i| weight(i as f64)).collect();
        let sum: f64 = weights.iter().sum();
        Taps { start, weights: weights.iter().map(|w| (w / sum) as f32).collect() }
    };
    (0..target)
        .map(|i| {
            let middle = span.start + (f64::from(i) + 0.5) * scale;
            match filter {
                Filter::Nearest => Taps { start: (middle as usize).min(last), weights: vec![1.0] },
                Filter::Bilinear => {
                    let at = (middle - 0.5).clamp(0.0, last as f64);
                    let start = (at as usize).min(last);
                    let second = (at - start as f64) as f32;
                    let mut weights = vec![1.0 - second];
                    if start < last {
                        weights.push(second);
                    }
                    Taps { start, weights }
                }
                Filter::BilinearAntialias => {
                    let reach = scale.max(1.0);
                    weighted(middle - reach, middle + reach, &|i| {
                        (1.0 - ((i + 0.5 - middle) / reach).abs()).max(0.0)
                    })
                }
                Filter::Area => {
                    let (low, high) = (middle - scale / 2.0, middle + scale / 2.0);
                    weighted(low, high, &|i| (high.min(i + 1.0) - low.max(i)).max(0.0))
                }
            }
        })
        .collect()
}

/// Both axes, the rows first, with one rounding at the end.
fn resample(picture: &Picture, spans: [Span; 2], size: [u32; 2], filter: Filter) -> Picture {
    let c = picture.channels;
    let columns = taps(filter, picture.width, spans[0], size[0]);
    let rows = taps(filter, picture.height, spans[1], size[1]);
    let source_len = picture.width as usize * c;
    let target_len = size[0] as usize * c;
    let mut samples = Vec::with_capacity(target_len * size[1] as usize);
    // A target row needs a run of source rows, and the runs only move down:
    // each source row is resampled once and kept while it is needed.
    let mut kept: std::collections::VecDeque<Vec<f32>> = std::collections::VecDeque::new();
    let mut first_kept = 0;
    let mut sum = vec![0f32; target_len];
    for row in &rows {
        while first_kept < row.start && kept.pop_front().is_some() {
            first_kept += 1;
        }
        first_kept = first_kept.max(row.start);
        while first_kept + kept.len() < row.start + row.weights.len() {
            let y = first_kept + kept.len();
            let source = &picture.samples[y * source_len..(y + 1) * source_len];
            kept.push_back(resample_row(source, &columns, c));
        }
        sum.fill(0.0);
        for (weight, values) in row.weights.iter().zip(&kept) {
            sum.iter_mut().zip(values).for_each(|(s, v)| *s += weight * v);
        }
        samples.extend(sum.iter().map(|s| s.round() as u8));
    }
    Picture { width: size[0], height: size[1], channels: c, samples }
}

fn resample_row(source: &[u8], columns: &[Taps], channels: usize) -> Vec<f32> {
    let mut row = Vec::with_capacity(columns.len() * channels);
    for taps in columns {
        let pixels = &source[taps.start * channels..];
        for channel in 0..channels {
            let values = pixels[channel..].iter().step_by(channels);
            row.push(taps.weights.iter().zip(values).map(|(w, &v)| w * f32::from(v)).sum());
        }
    }
    row
}
