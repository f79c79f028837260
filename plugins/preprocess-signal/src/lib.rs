//! `preprocess-signal`: a signal to a model's features.
//!
//! # Input
//! `payload` (or `input`): a WAVE file (16-bit PCM or 32-bit float) as u8
//! `[N]`, or samples as f32 or i16 of shape `[N]` or, a row a channel,
//! `[C,N]`. 16-bit samples are divided by 32768.
//!
//! # Output
//! `input` (or `output`): f32, of the shape that the features say.

mod config;
mod fft;
mod spectrum;
mod wav;

pub use config::{
    Config, Features, Frames, Layout, Log, LogBase, Mel, MelNorm, MelScale, Statistic, Values,
    Window,
};
use fft::Fft;
use headland_sdk::{DType, Frame, Input, Preprocess, Result, StageError, Tensor, Tensors};
use spectrum::{MelBank, Stft, strongest_bin};
pub use wav::read as read_wav;

/// Samples, a list a channel.
pub type Channels = Vec<Vec<f32>>;

enum Plan {
    Waveform,
    Spectrogram {
        stft: Stft,
        values: Values,
        log: Option<Log>,
        layout: Layout,
    },
    LogMel {
        stft: Stft,
        bank: MelBank,
        log: Log,
        layout: Layout,
    },
    /// With the transform of the length that came last.
    Summary {
        statistics: Vec<Statistic>,
        fft: Option<Fft>,
    },
}

/// The most samples whose peak frequency is looked for: a second at 192 kHz,
/// and 40 MB of work.
const MAX_PEAK_SAMPLES: usize = 1 << 18;

/// The stage.
pub struct Signal {
    config: Config,
    plan: Plan,
    /// The latest samples, oldest first; empty without `history-samples`.
    history: Vec<f32>,
}

impl Signal {
    /// The stage, from a configuration that makes sense.
    ///
    /// # Errors
    /// [`StageError::BadConfig`].
    pub fn from_config(config: Config) -> Result<Self> {
        config.check().map_err(StageError::BadConfig)?;
        let plan = match config.features.clone() {
            Features::Waveform {} => Plan::Waveform,
            Features::Spectrogram { frames, values, log, layout } => {
                Plan::Spectrogram { stft: Stft::new(frames), values, log, layout }
            }
            Features::LogMel { frames, mel, log, layout } => Plan::LogMel {
                bank: MelBank::new(&mel, config.sample_rate_hz, frames.fft_len()),
                stft: Stft::new(frames),
                log,
                layout,
            },
            Features::Summary { statistics } => Plan::Summary { statistics, fft: None },
        };
        let history = vec![0.0; config.history_samples.unwrap_or(0) as usize];
        Ok(Self { config, plan, history })
    }

    /// The features of one frame's channels: their shape and elements.
    ///
    /// # Errors
    /// What is wrong with the samples; the history is as it was before.
    pub fn features(&mut self, channels: &Channels) -> Result<(Vec<u32>, Vec<f32>), String> {
        let samples = self.mono(channels)?;
        if let Some(i) = samples.iter().position(|s| !s.is_finite()) {
            return Err(format!("sample {i} is {}", samples[i]));
        }
        if self.history.is_empty() {
            return self.of(samples);
        }
        let kept = self.history.len();
        self.history.extend(samples);
        self.history.drain(..self.history.len() - kept);
        self.of(self.history.clone())
    }

    fn mono(&self, channels: &Channels) -> Result<Vec<f32>, String> {
        let one = match (self.config.channel, channels.as_slice()) {
            (Some(c), all) => all
                .get(c as usize)
                .ok_or_else(|| format!("has {} channels, none of index {c}", all.len()))?,
            (None, [one]) => one,
            (None, []) => return Err("has no channel".to_owned()),
            (None, all) => {
                let n = all.len() as f32;
                return Ok((0..all[0].len())
                    .map(|i| all.iter().map(|c| c[i]).sum::<f32>() / n)
                    .collect());
            }
        };
        Ok(one.clone())
    }

    fn of(&mut self, samples: Vec<f32>) -> Result<(Vec<u32>, Vec<f32>), String> {
        if samples.is_empty() {
            return Err("has no samples".to_owned());
        }
        match &mut self.plan {
            Plan::Waveform => Ok((vec![1, samples.len() as u32], samples)),
            Plan::Spectrogram { stft, values, log, layout } => {
                let mut spectra = stft.spectra(&samples, *values)?;
                if let Some(log) = log {
                    log.apply(&mut spectra);
                }
                Ok(lay_out(spectra, stft.bins(), *layout))
            }
            Plan::LogMel { stft, bank, log, layout } => {
                let mut mels = bank.apply(&stft.spectra(&samples, Values::Power)?);
                log.apply(&mut mels);
                Ok(lay_out(mels, bank.filters(), *layout))
            }
            Plan::Summary { statistics, fft } => {
                let rate = self.config.sample_rate_hz;
                let numbers: Vec<f32> = statistics
                    .iter()
                    .map(|statistic| Ok(statistic.of(&samples, rate, fft)? as f32))
                    .collect::<Result<_, String>>()?;
                Ok((vec![1, numbers.len() as u32], numbers))
            }
        }
    }
}

/// `[frames, bins]` in the order of `layout`, with its shape.
fn lay_out(values: Vec<f32>, bins: usize, layout: Layout) -> (Vec<u32>, Vec<f32>) {
    let frames = values.len() / bins;
    match layout {
        Layout::FramesFirst => (vec![1, frames as u32, bins as u32], values),
        Layout::BinsFirst => {
            let transposed =
                (0..bins).flat_map(|b| values[b..].iter().step_by(bins).copied()).collect();
            (vec![1, bins as u32, frames as u32], transposed)
        }
    }
}

/// The frequency of the strongest bin, in Hz.
fn peak_frequency(
    samples: &[f32],
    sample_rate_hz: f64,
    fft: &mut Option<Fft>,
) -> Result<f64, String> {
    if samples.len() > MAX_PEAK_SAMPLES {
        return Err(format!(
            "has {} samples, a peak frequency is looked for in at most {MAX_PEAK_SAMPLES}",
            samples.len()
        ));
    }
    let fft = match fft {
        Some(fft) if fft.len() == samples.len() => fft,
        other => other.insert(Fft::new(samples.len())),
    };
    Ok(strongest_bin(samples, fft) as f64 * sample_rate_hz / samples.len() as f64)
}

impl Statistic {
    /// The number, of at least one sample.
    fn of(
        self,
        samples: &[f32],
        sample_rate_hz: f64,
        fft: &mut Option<Fft>,
    ) -> Result<f64, String> {
        let n = samples.len() as f64;
        let all = || samples.iter().map(|&s| f64::from(s));
        let mean = all().sum::<f64>() / n;
        let moment = |order| all().map(|s| (s - mean).powi(order)).sum::<f64>() / n;
        let rms = (all().map(|s| s * s).sum::<f64>() / n).sqrt();
        let peak = all().map(f64::abs).fold(0.0, f64::max);
        let ratio = |a: f64, b: f64| if b > 0.0 { a / b } else { 0.0 };
        Ok(match self {
            Self::Mean => mean,
            Self::Rms => rms,
            Self::Std => moment(2).sqrt(),
            Self::Peak => peak,
            Self::PeakToPeak => {
                all().fold(f64::NEG_INFINITY, f64::max) - all().fold(f64::INFINITY, f64::min)
            }
            Self::CrestFactor => ratio(peak, rms),
            Self::Skewness => ratio(moment(3), moment(2).powf(1.5)),
            Self::Kurtosis => ratio(moment(4), moment(2).powi(2)),
            Self::PeakFrequency => return peak_frequency(samples, sample_rate_hz, fft),
        })
    }
}

impl Preprocess for Signal {
    type Config = Config;

    fn new(config: Config) -> Result<Self> {
        Self::from_config(config)
    }

    fn preprocess(&mut self, _: &Frame, inputs: Tensors) -> Result<Tensors> {
        let input = inputs.get(&self.config.input)?;
        let channels = self.read(&input)?;
        let (shape, elements) = self.features(&channels).map_err(|why| input.refuse(why))?;
        Ok(Tensors::new().with(&self.config.output, Tensor::from_slice(&shape, &elements)?))
    }
}

impl Signal {
    fn read(&self, input: &Input<'_>) -> Result<Channels> {
        let shape = input.shape();
        let samples = match input.dtype() {
            DType::U8 if shape.len() == 1 => {
                let (rate, channels) =
                    read_wav(&input.to_vec::<u8>()?).map_err(|why| input.refuse(why))?;
                if rate != self.config.sample_rate_hz {
                    let needed = self.config.sample_rate_hz;
                    return Err(input.refuse(format!("has {rate} Hz, {needed} are needed")));
                }
                return Ok(channels);
            }
            DType::F32 => input.to_vec::<f32>()?,
            DType::I16 => {
                input.to_vec::<i16>()?.into_iter().map(|s| f32::from(s) / 32768.0).collect()
            }
            other => {
                return Err(input.refuse(format!(
                    "needs f32 or i16 samples, or a WAVE file as u8 [N], is {} {shape:?}",
                    other.name()
                )));
            }
        };
        match *shape.as_slice() {
            [_] => Ok(vec![samples]),
            [_, n] if n > 0 => Ok(samples.chunks_exact(n as usize).map(<[f32]>::to_vec).collect()),
            _ => Err(input.refuse(format!("needs shape [N] or [C,N], is {shape:?}"))),
        }
    }
}

headland_sdk::export!(Signal as preprocess);
