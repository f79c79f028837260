//! KSWIN: the newest rows against a sample of those before.

use crate::{Change, KswinConfig, checkpoint::Words, mersenne::Mersenne};

/// What the distance must exceed, however small the p-value.
pub const MIN_DISTANCE: f64 = 0.1;

/// Kolmogorov-Smirnov windowing.
///
/// Of a window of `window_size` rows, the newest `stat_size` are held against
/// as many drawn from the rest. There is a change when the two-sample
/// Kolmogorov-Smirnov test gives a p-value of at most `alpha`, and a distance
/// above 0.1. The test is repeated at every row over almost the same rows, so
/// that false alarms are far more frequent than `alpha` sounds.
///
/// # Source
/// Raab, Heusinger and Schleif, "Reactive soft prototype computing for concept
/// drift streams", Neurocomputing 416 (2020), in the form of river 0.26.1,
/// whose samples it draws, too: Python's generator, seeded with `seed` at the
/// start and after every change.
#[derive(Debug, Clone)]
pub struct Kswin {
    config: KswinConfig,
    /// The smallest distance, in units of `1 / stat_size`, that is a change.
    critical: u32,
    /// Rows to let pass before the next test.
    until_test: u32,
    /// The newest rows; the oldest of them is at `oldest` once there are
    /// `window_size`, and at the beginning before.
    window: Vec<f64>,
    oldest: usize,
    /// The newest `stat_size` rows of the window, sorted.
    newest: Vec<f64>,
    random: Mersenne,
    scratch: Scratch,
}

/// Room to work in that means nothing from one row to the next.
#[derive(Debug, Clone, Default)]
struct Scratch {
    pool: Vec<u32>,
    drawn: Vec<u32>,
    sample: Vec<f64>,
}

impl Kswin {
    /// Before the first row.
    pub fn new(config: KswinConfig) -> Self {
        Self {
            critical: critical_distance(config.stat_size, config.alpha),
            until_test: 0,
            window: Vec::new(),
            oldest: 0,
            newest: Vec::new(),
            random: Mersenne::new(config.seed),
            scratch: Scratch::default(),
            config,
        }
    }

    /// See a row, finite. After a change the detector begins anew.
    pub fn update(&mut self, x: f64) -> Option<Change> {
        self.push(x);
        if self.window.len() < self.config.window_size as usize {
            return None;
        }
        if self.until_test > 0 {
            self.until_test -= 1;
            return None;
        }
        self.until_test = self.config.stride - 1;
        let KswinConfig { window_size, stat_size, .. } = self.config;
        let Scratch { pool, drawn, sample } = &mut self.scratch;
        self.random.sample(window_size - stat_size, stat_size, pool, drawn);
        sample.clear();
        for &i in drawn.iter() {
            let i = (self.oldest + i as usize) % self.window.len();
            insert(sample, self.window[i]);
        }
        let distance = distance(sample, &self.newest);
        if distance < self.critical {
            return None;
        }
        let mean = |values: &[f64]| values.iter().sum::<f64>() / f64::from(stat_size);
        let change = Change {
            value: f64::from(distance) / f64::from(stat_size),
            threshold: f64::from(self.critical - 1) / f64::from(stat_size),
            rows: u64::from(window_size),
            before: mean(sample),
            after: mean(&self.newest),
        };
        self.window.clear();
        self.oldest = 0;
        self.newest.clear();
        self.until_test = 0;
        self.random = Mersenne::new(self.config.seed);
        Some(change)
    }

    fn push(&mut self, x: f64) {
        // Adding 0 makes -0 and 0 one value, as they are for the test.
        let x = x + 0.0;
        let (size, len) = (self.config.window_size as usize, self.window.len());
        // Which row is no longer among the newest, if there was one.
        if let Some(i) = len.checked_sub(self.config.stat_size as usize) {
            let old = self.window[(self.oldest + i) % len];
            let i = self.newest.partition_point(|&y| y < old);
            self.newest.remove(i);
        }
        insert(&mut self.newest, x);
        if len < size {
            self.window.push(x);
        } else {
            self.window[self.oldest] = x;
            self.oldest = (self.oldest + 1) % size;
        }
    }

    /// Rows in the window.
    pub fn rows(&self) -> u64 {
        self.window.len() as u64
    }

    pub(crate) fn put(&self, words: &mut Words) {
        words.put(self.until_test.into());
        words.put(self.window.len() as u64);
        for i in 0..self.window.len() {
            words.put_number(self.window[(self.oldest + i) % self.window.len()]);
        }
        self.random.put(words);
    }

    pub(crate) fn take(config: KswinConfig, words: &mut Words) -> Option<Self> {
        let mut detector = Self::new(config);
        detector.until_test = words.take_at_most(u64::from(config.stride) - 1)? as u32;
        for _ in 0..words.take_at_most(config.window_size.into())? {
            detector.push(words.take_number()?);
        }
        detector.random = Mersenne::take(words)?;
        Some(detector)
    }
}

/// Into sorted values, of which there are few.
fn insert(sorted: &mut Vec<f64>, x: f64) {
    let i = sorted.partition_point(|&y| y < x);
    sorted.insert(i, x);
}

/// The greatest distance of the distributions of two sorted samples of `n`, in
/// units of `1 / n`.
fn distance(a: &[f64], b: &[f64]) -> u32 {
    let (mut i, mut j, mut greatest) = (0, 0, 0u32);
    while let (Some(&x), Some(&y)) = (a.get(i), b.get(j)) {
        // Equal values are one step of both.
        let least = if x < y { x } else { y };
        while a.get(i).is_some_and(|&x| x == least) {
            i += 1;
        }
        while b.get(j).is_some_and(|&y| y == least) {
            j += 1;
        }
        greatest = greatest.max(i.abs_diff(j) as u32);
    }
    greatest
}

/// The p-value of the two-sided two-sample Kolmogorov-Smirnov test on samples
/// of `n` each, `h / n` apart: exact, whatever the distribution.
///
/// # Source
/// Gnedenko and Korolyuk (1951): paths of `2 n` steps that leave the band of
/// `h`, `2 sum((-1)^(k-1) binom(2n, n - k h)) / binom(2n, n)` for `k >= 1`;
/// each term as a product over the one before, so that nothing cancels, in
/// SciPy's order.
pub fn ks_p_value(n: u32, h: u32) -> f64 {
    if h == 0 {
        return 1.0;
    }
    let (of, step) = (f64::from(n), f64::from(h));
    let mut outside = 0.0;
    for k in (0..=n / h).rev().map(f64::from) {
        let ratio = (0..h)
            .map(f64::from)
            .fold(1.0, |r, j| (of - k * step - j) * r / (of + k * step + j + 1.0));
        outside = ratio * (1.0 - outside);
    }
    (2.0 * outside).min(1.0)
}

/// The smallest distance of two samples of `n`, in units of `1 / n`, that is a
/// change; `n + 1` if none is.
fn critical_distance(n: u32, alpha: f64) -> u32 {
    let (mut low, mut high) = (1, n + 1);
    while low < high {
        let middle = low + (high - low) / 2;
        if ks_p_value(n, middle) <= alpha { high = middle } else { low = middle + 1 }
    }
    (low..=n).find(|&h| f64::from(h) / f64::from(n) > MIN_DISTANCE).unwrap_or(n + 1)
}
