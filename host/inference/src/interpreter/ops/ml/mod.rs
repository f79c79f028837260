//! Classical machine learning: the domain ai.onnx.ml.
//!
//! Where the specification leaves a result open, it is ONNX Runtime's: what
//! exporters write has been checked against that.
//!
//! # Source
//! <https://onnx.ai/onnx/operators/index_classlist.html#ai-onnx-ml>

mod features;
mod labels;
mod linear;
mod svm;
mod trees;

use std::sync::Arc;

pub(crate) use features::cdist;

use super::Op;
use crate::{
    interpreter::{Call, OpError, OpResult},
    value::{Array, Element},
};

/// The operator of that name.
pub(crate) fn find(name: &str) -> Option<Op> {
    Some(match name {
        "ArrayFeatureExtractor" => features::array_feature_extractor,
        "Binarizer" => features::binarizer,
        "CastMap" => labels::cast_map,
        "CategoryMapper" => labels::category_mapper,
        "DictVectorizer" => labels::dict_vectorizer,
        "FeatureVectorizer" => features::feature_vectorizer,
        "Imputer" => features::imputer,
        "LabelEncoder" => labels::label_encoder,
        "LinearClassifier" => linear::classifier,
        "LinearRegressor" => linear::regressor,
        "Normalizer" => features::normalizer,
        "OneHotEncoder" => features::one_hot_encoder,
        "SVMClassifier" => svm::classifier,
        "SVMRegressor" => svm::regressor,
        "Scaler" => features::scaler,
        "TreeEnsemble" => trees::ensemble,
        "TreeEnsembleClassifier" => trees::classifier,
        "TreeEnsembleRegressor" => trees::regressor,
        "ZipMap" => labels::zip_map,
        _ => return None,
    })
}

/// Rows and columns of a batch `[n, f]`; `[f]` is one row.
fn batch(array: &Array) -> OpResult<(usize, usize)> {
    match *array.shape() {
        [columns] => Ok((1, columns)),
        [rows, columns] => Ok((rows, columns)),
        _ => Err(OpError::invalid(format!("a batch of shape {:?}", array.shape()))),
    }
}

/// Floats of an attribute; none where the node has it not.
fn floats<'a>(call: &'a Call<'_>, name: &str) -> &'a [f32] {
    call.floats(name).unwrap_or_default()
}

/// The sum of the products of two slices, of the shorter one's length.
fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}

/// The largest of the scores: the first of those that are equal.
fn largest(scores: impl IntoIterator<Item = f64>) -> usize {
    let mut best = (0, f64::NEG_INFINITY);
    for (index, score) in scores.into_iter().enumerate() {
        if score > best.1 {
            best = (index, score);
        }
    }
    best.0
}

/// The names of classes.
enum Labels {
    Ints(Vec<i64>),
    Texts(Vec<Arc<str>>),
}

impl Labels {
    /// The labels of a node; text goes before whole numbers where it has both.
    fn new(call: &Call<'_>, ints: &str, texts: &str) -> OpResult<Self> {
        match (call.texts(texts).unwrap_or_default(), call.ints(ints)) {
            (texts, _) if !texts.is_empty() => {
                Ok(Self::Texts(texts.iter().map(|t| t.as_str().into()).collect()))
            }
            (_, Some(ints)) if !ints.is_empty() => Ok(Self::Ints(ints.to_vec())),
            _ => Err(OpError::invalid(format!("neither {texts:?} nor {ints:?}"))),
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Ints(labels) => labels.len(),
            Self::Texts(labels) => labels.len(),
        }
    }

    /// Those for no and yes, in the kind of these.
    fn no_and_yes(&self) -> Self {
        match self {
            Self::Ints(_) => Self::Ints(vec![0, 1]),
            Self::Texts(_) => Self::Texts(vec!["0".into(), "1".into()]),
        }
    }

    /// An array of the labels at these indices.
    fn at(&self, indices: &[usize]) -> OpResult<Array> {
        fn each<T: Clone>(labels: &[T], indices: &[usize]) -> OpResult<Vec<T>> {
            let label = |&index: &usize| {
                let label = labels.get(index).cloned();
                label.ok_or_else(|| OpError::invalid(format!("class {index} has no label")))
            };
            indices.iter().map(label).collect()
        }
        match self {
            Self::Ints(labels) => Array::new(&[indices.len()], each(labels, indices)?),
            Self::Texts(labels) => Array::from_texts(&[indices.len()], each(labels, indices)?),
        }
    }

    fn element(&self) -> Element {
        match self {
            Self::Ints(_) => Element::Plain(headland_tensor::DType::I64),
            Self::Texts(_) => Element::Text,
        }
    }
}

/// What is done to scores at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Transform {
    None,
    Softmax,
    Logistic,
    SoftmaxZero,
    Probit,
}

impl Transform {
    /// The attribute `post_transform` as text.
    fn new(call: &Call<'_>) -> OpResult<Self> {
        Ok(match call.text_or("post_transform", "NONE") {
            "NONE" => Self::None,
            "SOFTMAX" => Self::Softmax,
            "LOGISTIC" => Self::Logistic,
            "SOFTMAX_ZERO" => Self::SoftmaxZero,
            "PROBIT" => Self::Probit,
            other => return Err(OpError::unsupported(format!("post_transform {other:?}"))),
        })
    }

    /// The attribute `post_transform` as a number.
    fn numbered(call: &Call<'_>) -> OpResult<Self> {
        Ok(match call.int_or("post_transform", 0) {
            0 => Self::None,
            1 => Self::Softmax,
            2 => Self::Logistic,
            3 => Self::SoftmaxZero,
            4 => Self::Probit,
            other => return Err(OpError::unsupported(format!("post_transform {other}"))),
        })
    }

    /// Transform the scores of one row. A score that is alone is none of
    /// several classes: only PROBIT changes it, as in ONNX Runtime.
    fn apply(self, scores: &mut [f64]) {
        let alone = scores.len() < 2;
        match self {
            Self::Probit => scores.iter_mut().for_each(|s| *s = probit(*s)),
            Self::Logistic if !alone => scores.iter_mut().for_each(|s| *s = logistic(*s)),
            Self::Softmax if !alone => softmax(scores, |_| true),
            // Scores of zero are of classes that nothing voted for.
            Self::SoftmaxZero if !alone => softmax(scores, |score| score.abs() > 1e-7),
            _ => {}
        }
    }

    /// The scores of two classes from that of the second, which is its
    /// probability where no other transform makes it one.
    fn pair(self, score: f64) -> [f64; 2] {
        match self {
            Self::Logistic => [logistic(-score), logistic(score)],
            Self::Probit => [1.0 - probit(score), probit(score)],
            _ => [1.0 - score, score],
        }
    }
}

fn logistic(score: f64) -> f64 {
    1.0 / (1.0 + (-score).exp())
}

/// Exponentials that sum to one, of the scores that `counts` picks; the others
/// keep their sign and are scaled alike.
fn softmax(scores: &mut [f64], counts: impl Fn(f64) -> bool) {
    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let mut sum = 0.0;
    for score in scores.iter_mut() {
        if counts(*score) {
            *score = (*score - max).exp();
            sum += *score;
        } else {
            *score *= (-max).exp();
        }
    }
    scores.iter_mut().for_each(|score| *score /= sum);
}

/// The quantile of the normal distribution, by Winitzki's approximation of the
/// inverse of erf, in f32 and with the constants that ONNX Runtime has: it is
/// off by up to 0.2 %, which a better one would not reproduce.
///
/// # Source
/// S. Winitzki, "A handy approximation for the error function and its
/// inverse", 2008.
fn probit(p: f64) -> f64 {
    const A: f32 = 0.147;
    let x = 2.0 * p as f32 - 1.0;
    let log = ((1.0 - x) * (1.0 + x)).ln();
    #[allow(clippy::approx_constant, reason = "ONNX Runtime's own pi, for its own digits")]
    const PI: f32 = 3.141_59;
    let half = 2.0 / (PI * A) + 0.5 * log;
    let erf = (-half + (half * half - log / A).sqrt()).sqrt();
    f64::from(std::f32::consts::SQRT_2 * if x < 0.0 { -erf } else { erf })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_equal_scores_is_the_largest() {
        assert_eq!(largest([1.0, 3.0, 3.0]), 1);
        assert_eq!(largest([f64::NAN, -1.0]), 1);
        assert_eq!(largest([]), 0);
    }

    #[test]
    fn probit_is_the_normal_quantile() {
        for (p, z) in [(0.5, 0.0), (0.975, 1.959_964), (0.025, -1.959_964), (0.9, 1.281_552)] {
            assert!((probit(p) - z).abs() < 1e-2, "{p}");
        }
    }

    #[test]
    fn softmax_sums_to_one() {
        let mut scores = [1000.0, 999.0, 0.0];
        Transform::Softmax.apply(&mut scores);
        assert!((scores.iter().sum::<f64>() - 1.0).abs() < 1e-12);
        let mut scores = [1.0, 2.0, 0.0];
        Transform::SoftmaxZero.apply(&mut scores);
        assert_eq!(scores[2], 0.0);
    }
}
