//! Windows, spectra and mel filter banks.

use std::f64::consts::TAU;

use crate::{
    config::{Frames, Log, LogBase, Mel, MelNorm, MelScale, Values, Window},
    fft::Fft,
};

/// More would not leave a model room in a component's memory.
const MAX_ELEMENTS: usize = 1 << 22;

impl Window {
    /// The window of `n` samples.
    pub fn samples(self, n: usize) -> Vec<f64> {
        let raised_cosine =
            |a: f64| (0..n).map(|i| a - (1.0 - a) * (TAU * i as f64 / n as f64).cos()).collect();
        match self {
            Self::Hann => raised_cosine(0.5),
            Self::Hamming => raised_cosine(0.54),
            Self::Rectangular => vec![1.0; n],
        }
    }
}

impl Log {
    /// The logarithm of each value.
    pub fn apply(self, values: &mut [f32]) {
        values.iter_mut().for_each(|v| {
            let x = v.max(self.floor);
            *v = match self.base {
                LogBase::Natural => x.ln(),
                LogBase::Ten => x.log10(),
                LogBase::Decibel => 10.0 * x.log10(),
            }
        });
    }
}

/// The short-time Fourier transform of one configuration.
pub struct Stft {
    frames: Frames,
    window: Vec<f64>,
    fft: Fft,
}

impl Stft {
    /// Plan it.
    pub fn new(frames: Frames) -> Self {
        Self {
            frames,
            window: frames.window.samples(frames.length as usize),
            fft: Fft::new(frames.fft_len()),
        }
    }

    /// Bins of one frame: from 0 to half the sample rate.
    pub fn bins(&self) -> usize {
        self.frames.fft_len() / 2 + 1
    }

    /// Magnitudes or powers, `[frames, bins]` row-major.
    ///
    /// # Errors
    /// That there are too few samples for one frame, or too many for memory.
    pub fn spectra(&mut self, samples: &[f32], values: Values) -> Result<Vec<f32>, String> {
        let (length, hop) = (self.frames.length as usize, self.frames.hop as usize);
        let padded;
        let samples = if self.frames.centre {
            let zeros = vec![0.0; length / 2];
            padded = [&zeros, samples, &zeros].concat();
            &padded
        } else {
            samples
        };
        if samples.len() < length {
            return Err(format!("has {} samples, a frame needs {length}", samples.len()));
        }
        let count = 1 + (samples.len() - length) / hop;
        if count * self.bins() > MAX_ELEMENTS {
            return Err(format!("{count} frames of {} bins are too many", self.bins()));
        }
        let mut spectra = Vec::with_capacity(count * self.bins());
        for frame in samples.windows(length).step_by(hop) {
            let windowed = frame.iter().zip(&self.window).map(|(&s, w)| f64::from(s) * w);
            spectra.extend(self.fft.powers(windowed).map(|power| match values {
                Values::Magnitude => power.sqrt() as f32,
                Values::Power => power as f32,
            }));
        }
        Ok(spectra)
    }
}

/// The index of the strongest bin of all samples less their mean; 0 when they
/// are constant. `fft` is of as many samples.
pub fn strongest_bin(samples: &[f32], fft: &mut Fft) -> usize {
    let mean = samples.iter().map(|&s| f64::from(s)).sum::<f64>() / samples.len() as f64;
    if samples.iter().all(|s| *s == samples[0]) {
        return 0;
    }
    let powers = fft.powers(samples.iter().map(|&s| f64::from(s) - mean)).enumerate();
    powers.skip(1).max_by(|a, b| a.1.total_cmp(&b.1).then(b.0.cmp(&a.0))).map_or(0, |(i, _)| i)
}

/// Triangles that overlap by half, evenly spaced in pitch.
pub struct MelBank {
    /// Per filter, its first bin and the weights from there on.
    filters: Vec<(usize, Vec<f32>)>,
    bins: usize,
}

impl MelScale {
    const LINEAR_HZ: f64 = 200.0 / 3.0;
    const BREAK_HZ: f64 = 1000.0;

    fn log_step() -> f64 {
        6.4f64.ln() / 27.0
    }

    /// The pitch of a frequency.
    pub fn mel(self, hz: f64) -> f64 {
        match self {
            Self::Htk => 2595.0 * (1.0 + hz / 700.0).log10(),
            Self::Slaney if hz < Self::BREAK_HZ => hz / Self::LINEAR_HZ,
            Self::Slaney => {
                Self::BREAK_HZ / Self::LINEAR_HZ + (hz / Self::BREAK_HZ).ln() / Self::log_step()
            }
        }
    }

    /// The frequency of a pitch.
    pub fn hz(self, mel: f64) -> f64 {
        let break_mel = Self::BREAK_HZ / Self::LINEAR_HZ;
        match self {
            Self::Htk => 700.0 * (10f64.powf(mel / 2595.0) - 1.0),
            Self::Slaney if mel < break_mel => mel * Self::LINEAR_HZ,
            Self::Slaney => Self::BREAK_HZ * ((mel - break_mel) * Self::log_step()).exp(),
        }
    }
}

impl MelBank {
    /// The filters over the bins of a transform of `fft_len` points.
    pub fn new(mel: &Mel, sample_rate_hz: f64, fft_len: usize) -> Self {
        let (low, high) =
            (mel.scale.mel(mel.min_hz), mel.scale.mel(mel.max_hz.unwrap_or(sample_rate_hz / 2.0)));
        let corners: Vec<f64> = (0..mel.filters + 2)
            .map(|i| low + (high - low) * f64::from(i) / f64::from(mel.filters + 1))
            .map(|m| mel.scale.hz(m))
            .collect();
        let bins = fft_len / 2 + 1;
        let filters = corners
            .windows(3)
            .map(|c| {
                let height = match mel.norm {
                    MelNorm::None => 1.0,
                    MelNorm::Slaney => 2.0 / (c[2] - c[0]),
                };
                let weight = |bin: usize| {
                    let hz = bin as f64 * sample_rate_hz / fft_len as f64;
                    let rise = (hz - c[0]) / (c[1] - c[0]);
                    let fall = (c[2] - hz) / (c[2] - c[1]);
                    (rise.min(fall).max(0.0) * height) as f32
                };
                let first = (0..bins).find(|&b| weight(b) > 0.0).unwrap_or(bins);
                (first, (first..bins).map(weight).take_while(|w| *w > 0.0).collect())
            })
            .collect();
        Self { filters, bins }
    }

    /// How many there are.
    pub fn filters(&self) -> usize {
        self.filters.len()
    }

    /// `[frames, bins]` powers to `[frames, filters]`.
    pub fn apply(&self, powers: &[f32]) -> Vec<f32> {
        let of = |frame: &[f32], (first, weights): &(usize, Vec<f32>)| {
            weights.iter().zip(&frame[*first..]).map(|(w, p)| w * p).sum()
        };
        powers
            .chunks_exact(self.bins)
            .flat_map(|frame| self.filters.iter().map(move |f| of(frame, f)))
            .collect()
    }
}
