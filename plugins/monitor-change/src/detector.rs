//! What all detectors have in common.

use crate::{Adwin, Ddm, Kswin, Method, PageHinkley, checkpoint::Words};

/// A change, as a detector saw it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Change {
    /// The statistic.
    pub value: f64,
    /// The greatest that would have been no change.
    pub threshold: f64,
    /// Rows that the detector had in mind.
    pub rows: u64,
    /// The mean of the rows that it takes to be before the change.
    pub before: f64,
    /// The mean of those after.
    pub after: f64,
}

impl Change {
    /// By how much the mean moved.
    pub fn effect(&self) -> f64 {
        (self.after - self.before).abs()
    }
}

/// What a detector says of a row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Signal {
    /// It may be about to change.
    Warning(Change),
    /// It has changed.
    Change(Change),
}

/// A detector of any method.
#[derive(Debug, Clone)]
pub enum Detector {
    /// See [`Adwin`].
    Adwin(Adwin),
    /// See [`PageHinkley`].
    PageHinkley(PageHinkley),
    /// See [`Kswin`].
    Kswin(Kswin),
    /// See [`Ddm`].
    Ddm(Ddm),
}

impl Detector {
    /// Before the first row. The parameters have been checked.
    pub fn new(method: &Method) -> Self {
        match method {
            Method::Adwin(c) => Self::Adwin(Adwin::new(*c)),
            Method::PageHinkley(c) => Self::PageHinkley(PageHinkley::new(*c)),
            Method::Kswin(c) => Self::Kswin(Kswin::new(*c)),
            Method::Ddm(c) => Self::Ddm(Ddm::new(*c)),
        }
    }

    /// Whether a number is one that it can take: not so great that its square,
    /// summed, would overflow; for errors, 0 or 1.
    pub fn takes(&self, x: f64) -> bool {
        match self {
            Self::Ddm(_) => x == 0.0 || x == 1.0,
            _ => x.abs() <= 1e100,
        }
    }

    /// See a row that it [`takes`](Self::takes). After a change it begins
    /// anew.
    pub fn update(&mut self, x: f64) -> Option<Signal> {
        match self {
            Self::Adwin(d) => d.update(x).map(Signal::Change),
            Self::PageHinkley(d) => d.update(x).map(Signal::Change),
            Self::Kswin(d) => d.update(x).map(Signal::Change),
            Self::Ddm(d) => d.update(x),
        }
    }

    /// Rows since it began, as far as that matters to
    /// [`Method::warm_up_rows`].
    pub fn rows(&self) -> u64 {
        match self {
            Self::Adwin(d) => d.width(),
            Self::PageHinkley(d) => d.rows(),
            Self::Kswin(d) => d.rows(),
            Self::Ddm(d) => d.rows(),
        }
    }

    /// The state, as [`Detector::take`] takes it.
    pub(crate) fn put(&self, words: &mut Words) {
        match self {
            Self::Adwin(d) => d.put(words),
            Self::PageHinkley(d) => d.put(words),
            Self::Kswin(d) => d.put(words),
            Self::Ddm(d) => d.put(words),
        }
    }

    /// From what [`Detector::put`] gave; nothing if it cannot have.
    pub(crate) fn take(method: &Method, words: &mut Words) -> Option<Self> {
        Some(match method {
            Method::Adwin(c) => Self::Adwin(Adwin::take(*c, words)?),
            Method::PageHinkley(c) => Self::PageHinkley(PageHinkley::take(*c, words)?),
            Method::Kswin(c) => Self::Kswin(Kswin::take(*c, words)?),
            Method::Ddm(c) => Self::Ddm(Ddm::take(*c, words)?),
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{DetectorConfig, mersenne::Mersenne};

    /// The stream of river's documentation, whose detections are stated there:
    /// Python's `random.Random(12345)`, a thousand of 0 and 1, a thousand of
    /// 4 to 7.
    #[test]
    fn change_is_found_at_the_row_that_rivers_documentation_states() {
        let mut random = Mersenne::new(12345);
        let stream: Vec<f64> = (0..2_000)
            .map(|i| {
                let uniform = random.uniform();
                if i < 1_000 { (2.0 * uniform).floor() } else { 4.0 + (4.0 * uniform).floor() }
            })
            .collect();
        for (method, expected) in [
            (r#"{"column": "x", "method": "adwin"}"#, 1_023),
            (r#"{"column": "x", "method": "page-hinkley"}"#, 1_006),
            (r#"{"column": "x", "method": "kswin", "alpha": 0.0001, "seed": 42}"#, 1_016),
        ] {
            let config: DetectorConfig = serde_json::from_str(method).unwrap();
            let mut detector = Detector::new(&config.parameters().unwrap());
            let found: Vec<usize> =
                (0..stream.len()).filter(|&i| detector.update(stream[i]).is_some()).collect();
            assert_eq!(found, [expected], "{method}");
        }
    }
}
