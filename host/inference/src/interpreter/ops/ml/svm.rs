//! Support vector machines.

use headland_tensor::DType;

use super::{Labels, Transform, batch, dot, floats, largest, logistic};
use crate::{
    interpreter::{Call, OpError, OpResult, sizes},
    value::{Array, Element, Value},
};

/// How alike two vectors are.
///
/// # Source
/// C.-C. Chang and C.-J. Lin, "LIBSVM: a library for support vector machines",
/// section 2.
enum Kernel {
    Linear,
    Poly { gamma: f64, coef0: f64, degree: f64 },
    Rbf { gamma: f64 },
    Sigmoid { gamma: f64, coef0: f64 },
}

impl Kernel {
    fn new(call: &Call<'_>) -> OpResult<Self> {
        let parameters = floats(call, "kernel_params");
        let at = |index: usize| parameters.get(index).copied().map_or(0.0, f64::from);
        let (gamma, coef0, degree) = (at(0), at(1), at(2));
        Ok(match call.text_or("kernel_type", "LINEAR") {
            "LINEAR" => Self::Linear,
            "POLY" => Self::Poly { gamma, coef0, degree },
            "RBF" => Self::Rbf { gamma },
            "SIGMOID" => Self::Sigmoid { gamma, coef0 },
            other => return Err(OpError::unsupported(format!("kernel_type {other:?}"))),
        })
    }

    fn of(&self, a: &[f32], b: &[f32]) -> f64 {
        match *self {
            Self::Linear => dot(a, b),
            Self::Poly { gamma, coef0, degree } => (gamma * dot(a, b) + coef0).powf(degree),
            Self::Rbf { gamma } => {
                let squares = a.iter().zip(b).map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2));
                (-gamma * squares.sum::<f64>()).exp()
            }
            Self::Sigmoid { gamma, coef0 } => (gamma * dot(a, b) + coef0).tanh(),
        }
    }
}

/// Support vectors `[count, features]`, and the input `[rows, features]`.
struct Vectors<'a> {
    kernel: Kernel,
    support: &'a [f32],
    features: usize,
    rows: usize,
    values: Vec<f32>,
}

impl<'a> Vectors<'a> {
    fn new(call: &'a Call<'_>, kernel: Kernel, support: &'a [f32], count: usize) -> OpResult<Self> {
        let input = call.array(0)?;
        let (rows, features) = batch(input)?;
        if count.checked_mul(features) != Some(support.len()) {
            return Err(OpError::invalid(format!(
                "{} numbers for {count} vectors of {features} features",
                support.len()
            )));
        }
        Ok(Self { kernel, support, features, rows, values: input.to_f32s()? })
    }

    /// The kernel of a row with each support vector.
    fn kernels(&self, row: usize) -> Vec<f64> {
        let row = &self.values[row * self.features..(row + 1) * self.features];
        match self.features {
            0 => Vec::new(),
            features => self.support.chunks(features).map(|v| self.kernel.of(row, v)).collect(),
        }
    }
}

/// `SVMRegressor`: `[n, f]` to `[n, 1]`, or to 1 and -1 for what is in the one
/// class and what is not.
pub(super) fn regressor(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let count = sizes(&[call.int_or("n_supports", 0)])?[0];
    let coefficients = floats(call, "coefficients");
    if Transform::new(call)? != Transform::None {
        return Err(OpError::unsupported("a post_transform of the one score"));
    }
    let rho = floats(call, "rho").first().copied().unwrap_or(0.0);
    let linear = count == 0;
    if !linear && coefficients.len() != count {
        let given = coefficients.len();
        return Err(OpError::invalid(format!("{given} coefficients for {count} vectors")));
    }
    let vectors = if linear {
        // As liblinear has it: the coefficients are the one vector.
        Vectors::new(call, Kernel::Linear, coefficients, 1)?
    } else {
        Vectors::new(call, Kernel::new(call)?, floats(call, "support_vectors"), count)?
    };
    call.reserve(Element::Plain(DType::F64), &[vectors.rows])?;
    let one_class = call.flag("one_class", false);
    let mut made = Vec::with_capacity(vectors.rows);
    for row in 0..vectors.rows {
        let kernels = vectors.kernels(row);
        let sum: f64 = if linear {
            kernels.iter().sum()
        } else {
            kernels.iter().zip(coefficients).map(|(k, &c)| k * f64::from(c)).sum()
        };
        made.push(match (sum + f64::from(rho)) as f32 {
            score if !one_class => score,
            score if score > 0.0 => 1.0,
            _ => -1.0,
        });
    }
    Ok(vec![Array::new(&[made.len(), 1], made)?.into()])
}

/// `SVMClassifier`: `[n, f]` to labels `[n]` and scores: probabilities
/// `[n, classes]` where the model has their coefficients, or else what tells
/// each pair of classes apart, `[n, classes * (classes - 1) / 2]`, and for two
/// classes `[n, 2]`.
pub(super) fn classifier(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let labels = Labels::new(call, "classlabels_ints", "classlabels_strings")?;
    let counts = sizes(call.ints("vectors_per_class").unwrap_or_default())?;
    if counts.iter().all(|&count| count == 0) {
        linear_classifier(call, &labels)
    } else {
        pair_classifier(call, &labels, &counts)
    }
}

/// As liblinear has it: a vector `[features]` for each class.
fn linear_classifier(call: &Call<'_>, labels: &Labels) -> OpResult<Vec<Value>> {
    let classes = labels.len();
    let coefficients = floats(call, "coefficients");
    let transform = Transform::new(call)?;
    let rho = f64::from(floats(call, "rho").first().copied().unwrap_or(0.0));
    let vectors = Vectors::new(call, Kernel::Linear, coefficients, classes)?;
    call.reserve(labels.element(), &[vectors.rows])?;
    call.reserve(Element::Plain(DType::F32), &[vectors.rows, classes])?;
    let all_positive = coefficients.iter().all(|&c| c >= 0.0);
    let mut picks = Vec::with_capacity(vectors.rows);
    let mut made = Vec::with_capacity(vectors.rows * classes);
    for row in 0..vectors.rows {
        let mut scores: Vec<f64> = vectors.kernels(row).iter().map(|k| k + rho).collect();
        scores.resize(classes, rho);
        let best = largest(scores.iter().copied());
        let enough = if all_positive { scores[best] >= 0.5 } else { scores[best] > 0.0 };
        picks.push(if classes == 2 && enough { 1 } else { best });
        transform.apply(&mut scores);
        made.extend(scores.iter().map(|&s| s as f32));
    }
    let shape = [vectors.rows, classes];
    Ok(vec![labels.at(&picks)?.into(), Array::new(&shape, made)?.into()])
}

/// As libsvm has it: each pair of classes is told apart by the support vectors
/// of both, and the class that wins most often is it.
///
/// The coefficients are `[classes - 1, vectors]`: for a vector of class i, the
/// row for class j is j, less one where j is behind i.
fn pair_classifier(call: &Call<'_>, labels: &Labels, counts: &[usize]) -> OpResult<Vec<Value>> {
    let classes = labels.len();
    let total = counts.iter().try_fold(0usize, |sum, &count| sum.checked_add(count));
    let total = total.ok_or_else(|| OpError::invalid("too many vectors"))?;
    let (coefficients, rho) = (floats(call, "coefficients"), floats(call, "rho"));
    let (slopes, offsets) = (floats(call, "prob_a"), floats(call, "prob_b"));
    let pairs = classes.saturating_mul(classes - 1) / 2;
    let fits = classes > 1
        && counts.len() == classes
        && total.checked_mul(classes - 1).is_some_and(|needed| coefficients.len() >= needed)
        && rho.len() >= pairs
        && slopes.len() == offsets.len()
        && (slopes.is_empty() || slopes.len() >= pairs);
    if !fits {
        return Err(OpError::invalid(format!(
            "{classes} classes with {} counts, {total} vectors, {} coefficients, {} rho, {} prob_a \
             and {} prob_b",
            counts.len(),
            coefficients.len(),
            rho.len(),
            slopes.len(),
            offsets.len()
        )));
    }
    let with_probabilities = !slopes.is_empty();
    if with_probabilities {
        call.reserve(Element::Plain(DType::F64), &[2, classes, classes])?;
    }
    let columns = match (with_probabilities, classes) {
        (true, _) | (_, 2) => classes,
        _ => pairs,
    };
    let transform = Transform::new(call)?;
    let kernel = Kernel::new(call)?;
    let vectors = Vectors::new(call, kernel, floats(call, "support_vectors"), total)?;
    call.reserve(labels.element(), &[vectors.rows])?;
    call.reserve(Element::Plain(DType::F32), &[vectors.rows, columns])?;
    let mut starts = vec![0];
    for (class, count) in counts.iter().enumerate() {
        starts.push(starts[class] + count);
    }
    // What the vectors of one class say about it and another.
    let side = |kernels: &[f64], class: usize, other: usize| -> f64 {
        let row = if other > class { other - 1 } else { other } * total;
        let range = starts[class]..starts[class + 1];
        let coefficients = &coefficients[row + range.start..row + range.end];
        kernels[range].iter().zip(coefficients).map(|(k, &c)| k * f64::from(c)).sum()
    };

    let mut picks = Vec::with_capacity(vectors.rows);
    let mut made = Vec::with_capacity(vectors.rows * columns);
    for row in 0..vectors.rows {
        let mut kernels = vectors.kernels(row);
        kernels.resize(total, 0.0);
        let mut votes = vec![0.0; classes];
        let mut scores = Vec::with_capacity(pairs);
        for i in 0..classes {
            for j in i + 1..classes {
                let score = side(&kernels, i, j) + side(&kernels, j, i);
                let score = score + f64::from(rho[scores.len()]);
                votes[if score > 0.0 { i } else { j }] += 1.0;
                scores.push(score);
            }
        }
        picks.push(largest(votes));
        if with_probabilities {
            scores = probabilities(&scores, slopes, offsets, classes);
            transform.apply(&mut scores);
        } else if classes > 2 {
            transform.apply(&mut scores);
        } else if transform == Transform::None {
            scores.insert(0, -scores[0]);
        } else {
            scores = transform.pair(scores[0]).to_vec();
        }
        made.extend(scores.iter().map(|&s| s as f32));
    }
    let shape = [vectors.rows, columns];
    Ok(vec![labels.at(&picks)?.into(), Array::new(&shape, made)?.into()])
}

/// The probabilities of the classes from what tells each pair of them apart:
/// each score becomes the probability of the first of its pair, and then those
/// of the classes are found that fit them best.
///
/// # Source
/// T.-F. Wu, C.-J. Lin and R. C. Weng, "Probability Estimates for Multi-class
/// Classification by Pairwise Coupling", 2004: algorithm 2, with the bounds of
/// LIBSVM.
fn probabilities(scores: &[f64], slopes: &[f32], offsets: &[f32], classes: usize) -> Vec<f64> {
    let k = classes;
    // r[i][j]: the probability of i where it is i or j.
    let mut r = vec![0.0; k * k];
    let mut pair = 0;
    for i in 0..k {
        for j in i + 1..k {
            let score = scores[pair] * f64::from(slopes[pair]) + f64::from(offsets[pair]);
            let p = (1.0 - logistic(score)).clamp(1e-7, 1.0 - 1e-7);
            (r[i * k + j], r[j * k + i]) = (p, 1.0 - p);
            pair += 1;
        }
    }
    let mut q = vec![0.0; k * k];
    for i in 0..k {
        for j in (0..k).filter(|&j| j != i) {
            q[i * k + i] += r[j * k + i] * r[j * k + i];
            q[i * k + j] = -r[j * k + i] * r[i * k + j];
        }
    }
    let mut p = vec![1.0 / k as f64; k];
    let enough = 0.005 / k as f64;
    for _ in 0..k.max(100) {
        let mut qp: Vec<f64> = (0..k).map(|i| (0..k).map(|j| q[i * k + j] * p[j]).sum()).collect();
        let mut pqp: f64 = p.iter().zip(&qp).map(|(p, qp)| p * qp).sum();
        if qp.iter().all(|qp| (qp - pqp).abs() < enough) {
            break;
        }
        for i in 0..k {
            let diag = q[i * k + i];
            let step = (pqp - qp[i]) / diag;
            p[i] += step;
            pqp = (pqp + step * (step * diag + 2.0 * qp[i])) / (1.0 + step).powi(2);
            for (qp, q) in qp.iter_mut().zip(&q[i * k..]) {
                *qp = (*qp + step * q) / (1.0 + step);
            }
            p.iter_mut().for_each(|p| *p /= 1.0 + step);
        }
    }
    p
}
