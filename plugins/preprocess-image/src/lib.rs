//! `preprocess-image`: a picture to a model's tensor.
//!
//! # Input
//! `payload` (or `input`), u8: a PNG, JPEG, BMP or PNM file as `[N]`, or
//! samples as `[H,W]`, `[H,W,C]` or `[1,H,W,C]`.
//!
//! # Output
//! `input` (or `output`): u8 or f32, `[1,C,H,W]` or `[1,H,W,C]`, and with
//! `geometry-output` where it lies in the original. The steps are decode,
//! colour, resize, crop, normalise; up to the last the samples are of 8 bits,
//! as they are in the libraries that models are trained with. An f32 element
//! is `(sample * scale - mean) / std`.

mod config;
mod picture;
mod resample;

pub use config::{Colour, Config, Dtype, Filter, Layout, Mode, Resize, Size};
use headland_sdk::{DType, Frame, Preprocess, Result, StageError, Tensor, Tensors};
pub use picture::Picture;
pub use resample::{Geometry, crop, resize};

/// The stage.
pub struct Image {
    config: Config,
    /// What becomes of each of the 256 samples, by channel.
    normalised: Vec<[f32; 256]>,
}

impl Image {
    /// The stage, from a configuration that makes sense.
    ///
    /// # Errors
    /// [`StageError::BadConfig`].
    pub fn from_config(config: Config) -> Result<Self> {
        config.check().map_err(StageError::BadConfig)?;
        let of = |values: &[f32], c: usize, default: f32| match values {
            [] => default,
            [one] => *one,
            all => all[c],
        };
        let scale = config.scale.unwrap_or(1.0);
        let normalised = (0..config.colour.channels())
            .map(|c| {
                let (mean, std) = (of(&config.mean, c, 0.0), of(&config.std, c, 1.0));
                std::array::from_fn(|sample| (sample as f32 * scale - mean) / std)
            })
            .collect();
        Ok(Self { config, normalised })
    }

    /// All steps after decoding.
    ///
    /// # Errors
    /// That the picture is smaller than the crop.
    pub fn transform(&self, picture: Picture) -> Result<(Picture, Geometry), String> {
        let picture = picture.to_colour(self.config.colour);
        let (picture, geometry) = match &self.config.resize {
            Some(to) => resize(&picture, to),
            None => (picture, Geometry::WHOLE),
        };
        match self.config.crop {
            Some(to) => crop(picture, geometry, to),
            None => Ok((picture, geometry)),
        }
    }

    /// The output's shape and bytes.
    pub fn lay_out(&self, picture: &Picture) -> ([u32; 4], Vec<u8>) {
        let (h, w, channels) = (picture.height, picture.width, picture.channels);
        let plane = |c: usize| picture.samples[c..].iter().step_by(channels).copied();
        let shape = match self.config.layout {
            Layout::Nchw => [1, channels as u32, h, w],
            Layout::Nhwc => [1, h, w, channels as u32],
        };
        let bytes = match (self.config.dtype, self.config.layout) {
            (Dtype::U8, Layout::Nhwc) => picture.samples.clone(),
            (Dtype::U8, Layout::Nchw) => (0..channels).flat_map(plane).collect(),
            (Dtype::F32, layout) => {
                let mut bytes = Vec::with_capacity(picture.samples.len() * 4);
                match layout {
                    Layout::Nchw => (0..channels).for_each(|c| {
                        let table = &self.normalised[c];
                        plane(c).for_each(|s| bytes.extend(table[usize::from(s)].to_le_bytes()));
                    }),
                    Layout::Nhwc => picture.samples.chunks_exact(channels).for_each(|pixel| {
                        for (table, &s) in self.normalised.iter().zip(pixel) {
                            bytes.extend(table[usize::from(s)].to_le_bytes());
                        }
                    }),
                }
                bytes
            }
        };
        (shape, bytes)
    }
}

impl Preprocess for Image {
    type Config = Config;

    fn new(config: Config) -> Result<Self> {
        Self::from_config(config)
    }

    fn preprocess(&mut self, _: &Frame, inputs: Tensors) -> Result<Tensors> {
        let input = inputs.get(&self.config.input)?;
        let (shape, bytes, max) = (input.shape(), input.to_vec::<u8>()?, self.config.max_pixels);
        let picture = match shape.len() {
            1 => Picture::decode(&bytes, max),
            _ => Picture::from_samples(&shape, bytes, max),
        };
        let (picture, geometry) =
            picture.and_then(|p| self.transform(p)).map_err(|why| input.refuse(why))?;
        let (shape, bytes) = self.lay_out(&picture);
        let dtype = match self.config.dtype {
            Dtype::U8 => DType::U8,
            Dtype::F32 => DType::F32,
        };
        let outputs =
            Tensors::new().with(&self.config.output, Tensor::create(dtype, &shape, &bytes)?);
        let Some(name) = &self.config.geometry_output else { return Ok(outputs) };
        let Geometry { scale: [sx, sy], offset: [ox, oy] } = geometry;
        let geometry = Tensor::from_slice(&[4], &[sx, sy, ox, oy].map(|v| v as f32))?;
        Ok(outputs.with(name, geometry))
    }
}

headland_sdk::export!(Image as preprocess);
