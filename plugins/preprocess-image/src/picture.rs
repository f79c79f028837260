//! Pictures of 8 bits a sample, and how they are read.

use std::io::Cursor;

use image::{DynamicImage, ImageDecoder, ImageReader, Limits};

use crate::config::Colour;

/// What a decoder may need beside the picture itself: tables, one row.
const DECODER_BYTES: u64 = 1 << 20;

/// Samples of 8 bits, row by row, the channels of a pixel side by side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    /// In pixels.
    pub width: u32,
    /// In pixels.
    pub height: u32,
    /// 1 or 3.
    pub channels: usize,
    /// `height * width * channels` samples.
    pub samples: Vec<u8>,
}

impl Picture {
    /// Read a PNG, JPEG, BMP or PNM (PBM, PGM, PPM, PAM). Samples of 16 bits
    /// are scaled to 8, alpha is left aside, grey is repeated as RGB. An EXIF
    /// orientation is not applied.
    ///
    /// # Errors
    /// What is wrong with it. More than `max_pixels` is refused by the header
    /// alone, before any pixel is decoded.
    pub fn decode(bytes: &[u8], max_pixels: u32) -> Result<Self, String> {
        let mut reader = ImageReader::new(Cursor::new(bytes))
            .with_guessed_format()
            .map_err(|e| format!("cannot be read: {e}"))?;
        if reader.format().is_none() {
            return Err("is no PNG, JPEG, BMP or PNM".to_owned());
        }
        let mut limits = Limits::no_limits();
        // No format has more than four samples of 16 bits a pixel.
        limits.max_alloc = Some(u64::from(max_pixels) * 8 + DECODER_BYTES);
        reader.limits(limits);
        let decoder = reader.into_decoder().map_err(|e| e.to_string())?;
        let (width, height) = decoder.dimensions();
        check_size(width, height, max_pixels)?;
        let rgb = DynamicImage::from_decoder(decoder).map_err(|e| e.to_string())?.into_rgb8();
        Ok(Self { width, height, channels: 3, samples: rgb.into_raw() })
    }

    /// Take over the samples of a u8 tensor `[H,W]`, `[H,W,C]` or
    /// `[1,H,W,C]`, where C is 1 for grey, 3 for RGB or 4 for RGB with an
    /// alpha that is left aside.
    ///
    /// # Errors
    /// That the shape is none of these, empty, or of more than `max_pixels`.
    pub fn from_samples(shape: &[u32], samples: Vec<u8>, max_pixels: u32) -> Result<Self, String> {
        let (height, width, channels) = match *shape {
            [h, w] => (h, w, 1),
            [h, w, c] | [1, h, w, c] if matches!(c, 1 | 3 | 4) => (h, w, c as usize),
            _ => {
                return Err(format!(
                    "needs shape [N] (encoded), [H,W], [H,W,C] or [1,H,W,C] with C 1, 3 or 4, \
                     is {shape:?}"
                ));
            }
        };
        check_size(width, height, max_pixels)?;
        let expected = width as usize * height as usize * channels;
        if samples.len() != expected {
            return Err(format!("has {} samples where {shape:?} needs {expected}", samples.len()));
        }
        let (channels, samples) = match channels {
            4 => (3, samples.chunks_exact(4).flat_map(|p| [p[0], p[1], p[2]]).collect()),
            c => (c, samples),
        };
        Ok(Self { width, height, channels, samples })
    }

    /// The picture in the channels and order of `colour`. Grey is ITU-R
    /// BT.601 luma, `0.299 R + 0.587 G + 0.114 B`, rounded.
    #[must_use]
    pub fn to_colour(self, colour: Colour) -> Self {
        let Self { width, height, channels, samples } = self;
        let samples = match (channels, colour) {
            (1, Colour::Gray) | (3, Colour::Rgb) => samples,
            (1, _) => samples.iter().flat_map(|&l| [l; 3]).collect(),
            (_, Colour::Gray) => samples.chunks_exact(3).map(|p| luma(p[0], p[1], p[2])).collect(),
            (_, _) => samples.chunks_exact(3).flat_map(|p| [p[2], p[1], p[0]]).collect(),
        };
        Self { width, height, channels: colour.channels(), samples }
    }
}

/// BT.601 luma in fixed point of 16 bits.
fn luma(r: u8, g: u8, b: u8) -> u8 {
    let sum = 19_595 * u32::from(r) + 38_470 * u32::from(g) + 7_471 * u32::from(b);
    ((sum + 0x8000) >> 16) as u8
}

fn check_size(width: u32, height: u32, max_pixels: u32) -> Result<(), String> {
    let pixels = u64::from(width) * u64::from(height);
    if pixels == 0 {
        return Err(format!("is empty: {width}x{height}"));
    }
    if pixels > u64::from(max_pixels) {
        return Err(format!("is {width}x{height}, more than the {max_pixels} pixels allowed"));
    }
    Ok(())
}
