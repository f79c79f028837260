//! RIFF WAVE files of 16-bit or float samples.

use crate::Channels;

/// PCM, IEEE float, and the format that hides one of them in a GUID.
const PCM: u16 = 1;
const FLOAT: u16 = 3;
const EXTENSIBLE: u16 = 0xfffe;

/// Read a WAVE file: its rate in Hz, and its samples, 16-bit ones divided by
/// 32768.
///
/// # Errors
/// What is wrong with it.
///
/// # Source
/// Multimedia Programming Interface and Data Specifications 1.0 (IBM and
/// Microsoft, 1991), "Waveform Audio File Format".
pub fn read(bytes: &[u8]) -> Result<(f64, Channels), String> {
    if bytes.get(..4) != Some(b"RIFF") || bytes.get(8..12) != Some(b"WAVE") {
        return Err("is no WAVE file".to_owned());
    }
    let mut rest = &bytes[12..];
    let mut format = None;
    loop {
        let (id, len) = match rest {
            [a, b, c, d, l0, l1, l2, l3, ..] => {
                ([*a, *b, *c, *d], u32::from_le_bytes([*l0, *l1, *l2, *l3]) as usize)
            }
            _ => return Err("ends without samples".to_owned()),
        };
        let chunk =
            rest[8..].get(..len).ok_or_else(|| format!("a chunk of {len} bytes is cut off"))?;
        match &id {
            b"fmt " => format = Some(Format::read(chunk)?),
            b"data" => {
                let format = format.ok_or("has samples before their format")?;
                return Ok((f64::from(format.rate_hz), format.samples(chunk)));
            }
            _ => {}
        }
        // Chunks start at even offsets.
        rest = rest[8..].get(len + len % 2..).unwrap_or_default();
    }
}

struct Format {
    float: bool,
    channels: usize,
    rate_hz: u32,
}

impl Format {
    fn read(chunk: &[u8]) -> Result<Self, String> {
        let u16_at = |i: usize| chunk.get(i..i + 2).map(|b| u16::from_le_bytes([b[0], b[1]]));
        let header = || {
            let rate = chunk.get(4..8)?;
            let rate = u32::from_le_bytes([rate[0], rate[1], rate[2], rate[3]]);
            Some((u16_at(0)?, u16_at(2)?, rate, u16_at(14)?))
        };
        let (tag, channels, rate_hz, bits) = header().ok_or("has a format chunk cut off")?;
        let tag = if tag == EXTENSIBLE { u16_at(24).unwrap_or(tag) } else { tag };
        let float = match (tag, bits) {
            (PCM, 16) => false,
            (FLOAT, 32) => true,
            _ => {
                return Err(format!(
                    "has format {tag} of {bits} bits; known are PCM of 16 and float of 32"
                ));
            }
        };
        if channels == 0 || rate_hz == 0 {
            return Err(format!("has {channels} channels at {rate_hz} Hz"));
        }
        Ok(Self { float, channels: channels.into(), rate_hz })
    }

    fn samples(&self, data: &[u8]) -> Channels {
        let interleaved: Vec<f32> = if self.float {
            headland_sdk::decode::<f32>(data)
        } else {
            headland_sdk::decode::<i16>(data).into_iter().map(|s| f32::from(s) / 32768.0).collect()
        };
        // A last sample that some channel lacks is left out.
        let whole = interleaved.len() / self.channels * self.channels;
        (0..self.channels)
            .map(|c| interleaved[..whole].iter().skip(c).step_by(self.channels).copied().collect())
            .collect()
    }
}
