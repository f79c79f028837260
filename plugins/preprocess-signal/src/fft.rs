//! The discrete Fourier transform of real samples, of any length.
//!
//! A planner of a library covers every length with code of its own, half a
//! megabyte of it; a component wants to be small.

use std::f64::consts::PI;

/// A complex number: its real and its imaginary part.
type Complex = [f64; 2];

fn times(a: Complex, b: Complex) -> Complex {
    [a[0] * b[0] - a[1] * b[1], a[0] * b[1] + a[1] * b[0]]
}

/// `exp(-i pi turn)`.
fn turned(half_turns: f64) -> Complex {
    let (sin, cos) = (PI * half_turns).sin_cos();
    [cos, -sin]
}

/// A transform of one length, planned.
pub struct Fft {
    len: usize,
    /// `exp(-2 pi i k / m)` for the first half of the `m` points of the
    /// transform that is computed.
    twiddles: Vec<Complex>,
    chirp: Option<Chirp>,
    buffer: Vec<Complex>,
}

/// What a length that is no power of two needs: the transform as a
/// convolution with a chirp, of a power of two.
///
/// # Source
/// Bluestein, IEEE Transactions on Audio and Electroacoustics 18 (1970).
struct Chirp {
    /// `exp(-i pi k^2 / len)`.
    samples: Vec<Complex>,
    /// The transform of its conjugate, wrapped around.
    spectrum: Vec<Complex>,
}

impl Fft {
    /// Plan a transform of `len` samples, at least 1.
    pub fn new(len: usize) -> Self {
        let points = if len.is_power_of_two() { len } else { (2 * len - 1).next_power_of_two() };
        let twiddles: Vec<Complex> =
            (0..points / 2).map(|k| turned(2.0 * k as f64 / points as f64)).collect();
        let chirp = (!len.is_power_of_two()).then(|| {
            // k^2 modulo 2 len: the angle is exact however long the signal.
            let square = |k: usize| (k as u64 * k as u64 % (2 * len as u64)) as f64;
            let samples: Vec<Complex> = (0..len).map(|k| turned(square(k) / len as f64)).collect();
            let mut spectrum = vec![[0.0; 2]; points];
            for (k, &[re, im]) in samples.iter().enumerate() {
                spectrum[k] = [re, -im];
                spectrum[(points - k) % points] = [re, -im];
            }
            transform(&mut spectrum, &twiddles);
            Chirp { samples, spectrum }
        });
        Self { len, twiddles, chirp, buffer: vec![[0.0; 2]; points] }
    }

    /// How many samples it is planned for.
    pub fn len(&self) -> usize {
        self.len
    }

    /// `|X|^2` of the bins `0..=len / 2`. Samples that are missing at the end
    /// are 0.
    pub fn powers(&mut self, samples: impl Iterator<Item = f64>) -> impl Iterator<Item = f64> {
        self.buffer.fill([0.0; 2]);
        let input = self.buffer.iter_mut().zip(samples.take(self.len));
        let mut scale = 1.0;
        match &self.chirp {
            None => {
                input.for_each(|(b, s)| *b = [s, 0.0]);
                transform(&mut self.buffer, &self.twiddles);
            }
            Some(chirp) => {
                input.zip(&chirp.samples).for_each(|((b, s), c)| *b = [s * c[0], s * c[1]]);
                transform(&mut self.buffer, &self.twiddles);
                // Back again: the conjugate of the transform of the conjugate,
                // of which only the magnitude matters here.
                for (b, c) in self.buffer.iter_mut().zip(&chirp.spectrum) {
                    let [re, im] = times(*b, *c);
                    *b = [re, -im];
                }
                transform(&mut self.buffer, &self.twiddles);
                scale = (self.buffer.len() as f64).powi(-2);
            }
        }
        self.buffer[..=self.len / 2].iter().map(move |[re, im]| (re * re + im * im) * scale)
    }
}

/// The transform of a power of two of points, in place.
///
/// # Source
/// Cooley and Tukey, Mathematics of Computation 19 (1965).
fn transform(points: &mut [Complex], twiddles: &[Complex]) {
    let n = points.len();
    if n < 2 {
        return;
    }
    let shift = usize::BITS - n.trailing_zeros();
    for i in 0..n {
        let j = i.reverse_bits() >> shift;
        if i < j {
            points.swap(i, j);
        }
    }
    let mut half = 1;
    while half < n {
        let step = n / (2 * half);
        for block in points.chunks_exact_mut(2 * half) {
            let (low, high) = block.split_at_mut(half);
            for ((a, b), w) in low.iter_mut().zip(high).zip(twiddles.iter().step_by(step)) {
                let turned = times(*b, *w);
                *b = [a[0] - turned[0], a[1] - turned[1]];
                *a = [a[0] + turned[0], a[1] + turned[1]];
            }
        }
        half *= 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition, term by term.
    #[test]
    fn agrees_with_the_sum_at_every_length() {
        for len in (1..40).chain([64, 97, 100, 128, 255]) {
            let samples: Vec<f64> =
                (0..len).map(|i| ((i * i) as f64 * 0.37).sin() + i as f64 * 0.01).collect();
            let mut fft = Fft::new(len);
            for _ in 0..2 {
                let powers: Vec<f64> = fft.powers(samples.iter().copied()).collect();
                assert_eq!(powers.len(), len / 2 + 1);
                for (k, power) in powers.iter().enumerate() {
                    let sum = samples.iter().enumerate().fold([0.0; 2], |sum, (i, s)| {
                        let [re, im] = turned(2.0 * (i * k % len) as f64 / len as f64);
                        [sum[0] + s * re, sum[1] + s * im]
                    });
                    let expected = sum[0] * sum[0] + sum[1] * sum[1];
                    let error = (power - expected).abs();
                    assert!(error < 1e-10 * expected.max(1.0), "{len} samples, bin {k}");
                }
            }
        }
    }
}
