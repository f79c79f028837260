//! What the stage can be told.

use schemars::JsonSchema;
use serde::Deserialize;

/// Where the signal comes from and what is made of it.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Config {
    /// The input that holds the signal: a WAVE file as u8 `[N]`, or f32 or
    /// i16 samples as `[N]` or, a row a channel, `[C,N]`.
    #[serde(default = "default_input")]
    pub input: String,
    /// The name of the output.
    #[serde(default = "default_output")]
    pub output: String,
    /// Samples a second. A WAVE file of another rate is refused.
    pub sample_rate_hz: f64,
    /// The channel that is looked at; without it the mean of all.
    pub channel: Option<u32>,
    /// Look at this many of the latest samples, over as many frames as they
    /// came in; before the first frame they are 0. Without it a frame is
    /// looked at by itself.
    pub history_samples: Option<u32>,
    /// What is made of the samples.
    pub features: Features,
}

fn default_input() -> String {
    "payload".to_owned()
}

fn default_output() -> String {
    "input".to_owned()
}

/// What is made of the samples.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(
    tag = "kind",
    rename_all = "kebab-case",
    rename_all_fields = "kebab-case",
    deny_unknown_fields
)]
pub enum Features {
    /// The samples themselves: `[1, N]`.
    Waveform {},
    /// The short-time Fourier transform without its phase.
    Spectrogram {
        /// How the signal is cut.
        frames: Frames,
        /// Whether magnitudes or their squares are given.
        #[serde(default)]
        values: Values,
        /// Whether the logarithm is given.
        log: Option<Log>,
        /// The order of the dimensions.
        #[serde(default)]
        layout: Layout,
    },
    /// The power spectrogram, summed over the triangles of a mel filter bank,
    /// as a logarithm.
    LogMel {
        /// How the signal is cut.
        frames: Frames,
        /// The filter bank.
        mel: Mel,
        /// The logarithm.
        log: Log,
        /// The order of the dimensions.
        #[serde(default)]
        layout: Layout,
    },
    /// Numbers that say how a machine shakes: `[1, K]`.
    Summary {
        /// Which, in the order of the model's columns.
        #[schemars(length(min = 1))]
        statistics: Vec<Statistic>,
    },
}

/// How a signal is cut into frames. There are
/// `1 + (samples - length) / hop` of them.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Frames {
    /// Samples of one frame.
    #[schemars(range(min = 2, max = 65_536))]
    pub length: u32,
    /// Samples from one frame's start to the next one's.
    #[schemars(range(min = 1))]
    pub hop: u32,
    /// Points of the transform; frames are padded with 0 at their end. The
    /// frame's length without it.
    #[schemars(range(min = 2, max = 65_536))]
    pub fft_length: Option<u32>,
    /// What the frame is multiplied with.
    #[serde(default)]
    pub window: Window,
    /// Whether `length / 2` zeros go before and behind the signal, so that
    /// frame `t` is centred at sample `t * hop`.
    #[serde(default)]
    pub centre: bool,
}

/// Periodic windows of N samples, as for spectral analysis.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Window {
    /// `0.5 - 0.5 cos(2 pi n / N)`.
    #[default]
    Hann,
    /// `0.54 - 0.46 cos(2 pi n / N)`.
    Hamming,
    /// 1.
    Rectangular,
}

/// What a spectrogram holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Values {
    /// `|X|`.
    Magnitude,
    /// `|X|^2`.
    #[default]
    Power,
}

/// A logarithm that stays finite.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Log {
    /// Which.
    pub base: LogBase,
    /// Smaller values are taken as this one, above 0.
    pub floor: f32,
}

/// Which logarithm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LogBase {
    /// `ln(x)`.
    Natural,
    /// `log10(x)`.
    Ten,
    /// `10 log10(x)`: decibel when `x` is a power.
    Decibel,
}

/// A mel filter bank.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Mel {
    /// How many filters.
    #[schemars(range(min = 1, max = 1024))]
    pub filters: u32,
    /// Where the first begins.
    #[serde(default)]
    pub min_hz: f64,
    /// Where the last ends; half the sample rate without it.
    pub max_hz: Option<f64>,
    /// How frequency becomes pitch.
    #[serde(default)]
    pub scale: MelScale,
    /// How the triangles are weighted.
    #[serde(default)]
    pub norm: MelNorm,
}

/// How frequency becomes pitch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum MelScale {
    /// Linear up to 1 kHz, 27 steps to a factor of 6.4 above (Slaney, Auditory
    /// Toolbox, 1998): librosa's default.
    #[default]
    Slaney,
    /// `2595 log10(1 + f / 700)`: HTK's and torchaudio's default.
    Htk,
}

/// How the triangles are weighted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum MelNorm {
    /// Each of area 1 in Hz: librosa's default.
    #[default]
    Slaney,
    /// Each of height 1: torchaudio's default.
    None,
}

/// The order of the dimensions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Layout {
    /// `[1, bins, frames]`.
    #[default]
    BinsFirst,
    /// `[1, frames, bins]`.
    FramesFirst,
}

/// One number about a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Statistic {
    /// The arithmetic mean.
    Mean,
    /// The square root of the mean square.
    Rms,
    /// The standard deviation of the population.
    Std,
    /// The greatest magnitude.
    Peak,
    /// The greatest sample less the smallest.
    PeakToPeak,
    /// Peak over RMS; 0 for silence.
    CrestFactor,
    /// The third standardised moment of the population; 0 when constant.
    Skewness,
    /// The fourth standardised moment of the population, 3 for a normal
    /// distribution; 0 when constant.
    Kurtosis,
    /// The frequency of the strongest bin of the Fourier transform of all
    /// samples less their mean, in Hz; 0 when constant.
    PeakFrequency,
}

/// The longest frame, and transform, in samples.
const MAX_FRAME: u32 = 65_536;

/// The most filters.
const MAX_FILTERS: u32 = 1_024;

/// Four minutes at 16 kHz.
const MAX_HISTORY: u32 = 1 << 22;

impl Frames {
    /// Points of the transform.
    pub fn fft_len(&self) -> usize {
        self.fft_length.unwrap_or(self.length) as usize
    }

    fn check(&self) -> Result<(), String> {
        if !(2..=MAX_FRAME).contains(&self.length) {
            return Err(format!("a frame's length is 2..={MAX_FRAME}, not {}", self.length));
        }
        if self.hop == 0 {
            return Err("a hop of 0 never ends".to_owned());
        }
        if let Some(fft) = self.fft_length
            && !(self.length..=MAX_FRAME).contains(&fft)
        {
            return Err(format!("fft-length {fft} is not within {}..={MAX_FRAME}", self.length));
        }
        Ok(())
    }
}

impl Config {
    /// That the configuration makes sense.
    ///
    /// # Errors
    /// What does not.
    pub fn check(&self) -> Result<(), String> {
        let rate = self.sample_rate_hz;
        if !(rate > 0.0 && rate.is_finite()) {
            return Err(format!("sample-rate-hz {rate} is no rate"));
        }
        if let Some(n) = self.history_samples
            && !(1..=MAX_HISTORY).contains(&n)
        {
            return Err(format!("history-samples is 1..={MAX_HISTORY}, not {n}"));
        }
        let floor = |log: &Log| {
            if log.floor > 0.0 && log.floor.is_finite() {
                return Ok(());
            }
            Err(format!("the logarithm's floor {} is not above 0", log.floor))
        };
        match &self.features {
            Features::Waveform {} => Ok(()),
            Features::Spectrogram { frames, log, .. } => {
                log.as_ref().map_or(Ok(()), floor)?;
                frames.check()
            }
            Features::LogMel { frames, mel, log, .. } => {
                floor(log)?;
                if !(1..=MAX_FILTERS).contains(&mel.filters) {
                    return Err(format!("mel filters are 1..={MAX_FILTERS}, not {}", mel.filters));
                }
                let max = mel.max_hz.unwrap_or(rate / 2.0);
                if !(mel.min_hz >= 0.0 && mel.min_hz < max && max <= rate / 2.0) {
                    return Err(format!(
                        "mel filters of {}..{max} Hz do not lie within 0..{} Hz",
                        mel.min_hz,
                        rate / 2.0
                    ));
                }
                frames.check()
            }
            Features::Summary { statistics } if statistics.is_empty() => {
                Err("a summary has at least one statistic".to_owned())
            }
            Features::Summary { .. } => Ok(()),
        }
    }
}
