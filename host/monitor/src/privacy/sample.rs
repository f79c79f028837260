//! Noise, drawn exactly.
//!
//! A floating-point sampler leaves gaps between the numbers it can give, and
//! the gaps tell what the noise was added to (Mironov, "On Significance of the
//! Least Significant Bits for Differential Privacy", CCS 2012). Here are
//! integers and ratios of integers only.
//!
//! How long a draw takes depends on what is drawn. Whoever can time a release
//! on the device to the microsecond learns something of its noise; what leaves
//! the device carries no such time.
//!
//! # Source
//! Canonne, Kamath and Steinke, "The Discrete Gaussian for Differential
//! Privacy", NeurIPS 2020, algorithms 1 to 3.

/// Random bytes from outside, drawn in blocks.
pub(super) struct Random<F> {
    source: F,
    block: [u8; 128],
    used: usize,
}

/// A ratio of integers that is not negative.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ratio {
    num: u128,
    den: u128,
}

impl Ratio {
    /// `num / den` in lowest terms; nothing for a `den` of 0.
    pub fn new(num: u128, den: u128) -> Option<Self> {
        let (mut a, mut b) = (num, den);
        while b != 0 {
            (a, b) = (b, a % b);
        }
        (den != 0).then(|| Self { num: num / a, den: den / a })
    }

    pub(super) const ONE: Self = Self { num: 1, den: 1 };

    /// Above and below the line.
    pub fn parts(self) -> (u128, u128) {
        (self.num, self.den)
    }

    /// Whether the products below stay within u128.
    fn is_small(self) -> bool {
        self.num <= 1 << 112 && self.den <= 1 << 112
    }

    fn value(self) -> f64 {
        self.num as f64 / self.den as f64
    }

    /// The whole part, and what is left.
    fn split(self) -> (u128, Self) {
        (self.num / self.den, Self { num: self.num % self.den, den: self.den })
    }
}

/// Noise of mean nought over the integers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Noise {
    /// `P(x)` proportional to `exp(-|x| / scale)`.
    DiscreteLaplace {
        /// The scale.
        scale: Ratio,
    },
    /// `P(x)` proportional to `exp(-x^2 / (2 variance))`.
    DiscreteGaussian {
        /// The variance, but for a rounding that makes it smaller.
        variance: Ratio,
    },
}

/// The scale or standard deviation from which on noise is too wide to be
/// drawn: far beyond what leaves anything of a count.
const MAX_SCALE: u128 = 1 << 48;

impl Noise {
    /// Laplace noise of that scale; nothing for a scale of 0 or one that is
    /// too wide to be drawn.
    pub fn laplace(scale: Ratio) -> Option<Self> {
        let fits = scale.is_small() && scale.num / scale.den < MAX_SCALE;
        (scale.num > 0 && fits).then_some(Self::DiscreteLaplace { scale })
    }

    /// Gaussian noise of that variance; nothing for a variance of 0 or one
    /// that is too wide to be drawn.
    pub fn gaussian(variance: Ratio) -> Option<Self> {
        let fits = variance.is_small() && variance.num / variance.den < MAX_SCALE * MAX_SCALE;
        (variance.num > 0 && fits).then_some(Self::DiscreteGaussian { variance })
    }

    /// What the variance does not exceed: that of the continuous Laplace, and
    /// of the continuous Gaussian (corollary 9 of the paper).
    pub fn variance(self) -> f64 {
        match self {
            Self::DiscreteLaplace { scale } => 2.0 * scale.value() * scale.value(),
            Self::DiscreteGaussian { variance } => variance.value(),
        }
    }

    /// One draw.
    ///
    /// # Errors
    /// Those of the source of randomness.
    pub fn draw<E>(self, source: impl FnMut(&mut [u8]) -> Result<(), E>) -> Result<i128, E> {
        self.sample(&mut Random::new(source))
    }

    pub(super) fn sample<E, F>(self, random: &mut Random<F>) -> Result<i128, E>
    where
        F: FnMut(&mut [u8]) -> Result<(), E>,
    {
        match self {
            Self::DiscreteLaplace { scale } => random.laplace(scale),
            Self::DiscreteGaussian { variance } => random.gaussian(variance),
        }
    }
}

impl<E, F: FnMut(&mut [u8]) -> Result<(), E>> Random<F> {
    pub fn new(source: F) -> Self {
        let block = [0; 128];
        Self { source, used: block.len(), block }
    }

    fn byte(&mut self) -> Result<u8, E> {
        if self.used == self.block.len() {
            (self.source)(&mut self.block)?;
            self.used = 0;
        }
        self.used += 1;
        Ok(self.block[self.used - 1])
    }

    /// Uniform over `0..n`; `n` is not 0.
    pub fn below(&mut self, n: u128) -> Result<u128, E> {
        let bits = u128::BITS - (n - 1).leading_zeros();
        let mask = if bits == u128::BITS { u128::MAX } else { (1 << bits) - 1 };
        loop {
            let mut drawn = 0;
            for _ in 0..bits.div_ceil(8) {
                drawn = drawn << 8 | u128::from(self.byte()?);
            }
            // A remainder would favour the small; what is too great is drawn anew.
            if drawn & mask < n {
                return Ok(drawn & mask);
            }
        }
    }

    /// True with probability `p`, which is at most 1.
    fn bernoulli(&mut self, p: Ratio) -> Result<bool, E> {
        Ok(self.below(p.den)? < p.num)
    }

    /// True with probability `exp(-x)`.
    pub fn exp_minus(&mut self, x: Ratio) -> Result<bool, E> {
        self.exp_minus_product(x, Ratio::ONE)
    }

    /// True with probability `exp(-x y)`, without the product being formed,
    /// which would not fit: a series of whole and broken parts for algorithm
    /// 1's one.
    fn exp_minus_product(&mut self, x: Ratio, y: Ratio) -> Result<bool, E> {
        let (x_whole, x_rest) = x.split();
        let (y_whole, y_rest) = y.split();
        let factors = [
            (x_whole.saturating_mul(y_whole), Ratio::ONE, Ratio::ONE),
            (x_whole, Ratio::ONE, y_rest),
            (y_whole, x_rest, Ratio::ONE),
            (1, x_rest, y_rest),
        ];
        for (times, x, y) in factors {
            // Most draws end in the first few of many rounds.
            let times = if x.num == 0 || y.num == 0 { 0 } else { times };
            for _ in 0..times {
                if !self.exp_minus_unit(x, y)? {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// The same for an `x` and a `y` of at most 1: algorithm 1, in which a
    /// success of probability `x y / k` is one of each of `x`, `y` and `1/k`.
    fn exp_minus_unit(&mut self, x: Ratio, y: Ratio) -> Result<bool, E> {
        let mut k = 1;
        while self.bernoulli(Ratio { num: 1, den: k })?
            && self.bernoulli(x)?
            && self.bernoulli(y)?
        {
            k += 1;
        }
        Ok(k % 2 == 1)
    }

    /// Algorithm 2, of a scale `t / s`.
    fn laplace(&mut self, Ratio { num: t, den: s }: Ratio) -> Result<i128, E> {
        loop {
            let u = self.below(t)?;
            if !self.exp_minus(Ratio { num: u, den: t })? {
                continue;
            }
            let mut v = 0u128;
            while self.exp_minus(Ratio::ONE)? {
                v += 1;
            }
            let size = u.saturating_add(t.saturating_mul(v)) / s;
            let negative = self.below(2)? == 1;
            // Nought has one sign only.
            if negative && size == 0 {
                continue;
            }
            let size = i128::try_from(size).unwrap_or(i128::MAX);
            return Ok(if negative { -size } else { size });
        }
    }

    /// Algorithm 3, of a variance `n / d`.
    fn gaussian(&mut self, Ratio { num: n, den: d }: Ratio) -> Result<i128, E> {
        let t = (n / d).isqrt() + 1;
        loop {
            let y = self.laplace(Ratio { num: t, den: 1 })?;
            // (|y| - n/(d t))^2 / (2 n/d) = (a / 2n) (a / (d t^2)) with
            // a = |y| d t - n. A draw so far out that a does not fit does not
            // come: that takes |y| of 2^14 scales.
            let a = y.unsigned_abs().saturating_mul(d.saturating_mul(t)).abs_diff(n);
            let far = Ratio { num: a, den: 2 * n };
            let wide = Ratio { num: a, den: d.saturating_mul(t * t) };
            if self.exp_minus_product(far, wide)? {
                return Ok(y);
            }
        }
    }
}
