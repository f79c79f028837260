//! What the stage can be told.

use schemars::JsonSchema;
use serde::Deserialize;

/// The steps, in their order: decode, colour, resize, crop, normalise.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Config {
    /// The input that holds the picture: u8, an encoded file as `[N]`, or
    /// samples as `[H,W]`, `[H,W,C]` or `[1,H,W,C]`.
    #[serde(default = "default_input")]
    pub input: String,
    /// The name of the output.
    #[serde(default = "default_output")]
    pub output: String,
    /// The channels and their order.
    #[serde(default)]
    pub colour: Colour,
    /// Bring every picture to one size.
    pub resize: Option<Resize>,
    /// Keep the middle only.
    pub crop: Option<Size>,
    /// The element type.
    #[serde(default)]
    pub dtype: Dtype,
    /// The order of the dimensions.
    #[serde(default)]
    pub layout: Layout,
    /// What a sample of 0..=255 is multiplied with; f32 only.
    pub scale: Option<f32>,
    /// What is then subtracted: one number, or one a channel; f32 only.
    #[serde(default)]
    pub mean: Vec<f32>,
    /// What it is then divided by: one number, or one a channel; f32 only.
    #[serde(default)]
    pub std: Vec<f32>,
    /// Pictures of more pixels are refused before they are decoded.
    #[serde(default = "default_max_pixels")]
    pub max_pixels: u32,
    /// The name of a second output, f32 of shape `[4]`: `x-scale, y-scale,
    /// x-offset, y-offset` that bring a position in the output, as a fraction
    /// of its width and height, back to the original picture as
    /// `position * scale + offset`.
    pub geometry_output: Option<String>,
}

fn default_input() -> String {
    "payload".to_owned()
}

fn default_output() -> String {
    "input".to_owned()
}

/// 2048 x 2048 RGB with a decoder's working memory fits the memory that a
/// stage has by default.
fn default_max_pixels() -> u32 {
    2048 * 2048
}

/// Channels and their order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Colour {
    /// Red, green, blue.
    #[default]
    Rgb,
    /// Blue, green, red: OpenCV's order.
    Bgr,
    /// One channel: BT.601 luma.
    Gray,
}

impl Colour {
    /// How many channels it has.
    pub fn channels(self) -> usize {
        if self == Self::Gray { 1 } else { 3 }
    }
}

/// A size in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Size {
    /// In pixels.
    #[schemars(range(min = 1, max = 8192))]
    pub width: u32,
    /// In pixels.
    #[schemars(range(min = 1, max = 8192))]
    pub height: u32,
}

/// How a picture is brought to one size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Resize {
    /// In pixels.
    #[schemars(range(min = 1, max = 8192))]
    pub width: u32,
    /// In pixels.
    #[schemars(range(min = 1, max = 8192))]
    pub height: u32,
    /// What becomes of the aspect ratio.
    #[serde(default)]
    pub mode: Mode,
    /// How the samples are computed.
    #[serde(default)]
    pub filter: Filter,
    /// The sample around a picture that is fitted.
    #[serde(default)]
    pub pad: u8,
}

/// What becomes of the aspect ratio.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// It is lost: all of the picture fills all of the size.
    #[default]
    Stretch,
    /// All of the picture is kept, in the middle, with `pad` around it
    /// (letterbox); an odd pixel is at the right or bottom.
    Fit,
    /// All of the size is filled with the greatest window of the picture's
    /// middle.
    Fill,
}

/// How samples are computed. Pixels are squares: the middle of pixel `i` is
/// at `i + 0.5` (half-pixel centres) for every filter. The result is rounded
/// to 8 bits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Filter {
    /// The pixel that the middle falls into. Pillow's NEAREST, OpenCV's
    /// INTER_NEAREST_EXACT.
    Nearest,
    /// Between the two nearest middles on each axis, also when shrinking.
    /// OpenCV's INTER_LINEAR, ONNX Resize `linear` with `half_pixel`.
    #[default]
    Bilinear,
    /// The triangle widens with the factor when shrinking. Pillow's BILINEAR,
    /// and so torchvision's default.
    BilinearAntialias,
    /// The mean over the area that the pixel covers. OpenCV's INTER_AREA and
    /// Pillow's BOX when shrinking by whole factors.
    Area,
}

/// Element types that a picture can be given in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Dtype {
    /// 0..=255, not normalised.
    U8,
    /// Normalised.
    #[default]
    F32,
}

/// Orders of the dimensions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Layout {
    /// `[1, C, H, W]`.
    #[default]
    Nchw,
    /// `[1, H, W, C]`.
    Nhwc,
}

/// The largest side that a picture is resized to.
const MAX_SIDE: u32 = 8192;

impl Config {
    /// That the configuration makes sense.
    ///
    /// # Errors
    /// What does not.
    pub fn check(&self) -> Result<(), String> {
        let resize = self.resize.map(|r| Size { width: r.width, height: r.height });
        for (what, size) in [("resize", resize), ("crop", self.crop)] {
            let side = 1..=MAX_SIDE;
            if let Some(Size { width, height }) = size
                && !(side.contains(&width) && side.contains(&height))
            {
                return Err(format!("{what} to {width}x{height}: a side is 1..={MAX_SIDE} pixels"));
            }
        }
        if let (Some(from), Some(to)) = (resize, self.crop)
            && (from.width < to.width || from.height < to.height)
        {
            return Err(format!(
                "crop {}x{} does not fit into {}x{}",
                to.width, to.height, from.width, from.height
            ));
        }
        if self.dtype == Dtype::U8
            && (self.scale.is_some() || !self.mean.is_empty() || !self.std.is_empty())
        {
            return Err("scale, mean and std are for dtype f32".to_owned());
        }
        let channels = self.colour.channels();
        for (what, values) in [("mean", &self.mean), ("std", &self.std)] {
            if !matches!(values.len(), 0 | 1) && values.len() != channels {
                return Err(format!("{what} has {} numbers for {channels} channels", values.len()));
            }
        }
        if let Some(s) = self.std.iter().find(|s| **s == 0.0) {
            return Err(format!("std divides by {s}"));
        }
        if let Some(v) =
            self.scale.iter().chain(&self.mean).chain(&self.std).find(|v| !v.is_finite())
        {
            return Err(format!("scale, mean and std must be finite, one is {v}"));
        }
        Ok(())
    }
}
