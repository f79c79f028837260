//! What detectors end with.

use super::Op;
use crate::{
    interpreter::{Call, OpError, OpResult},
    value::{Array, Value},
};

/// The operator of that name.
pub(crate) fn find(name: &str) -> Option<Op> {
    (name == "NonMaxSuppression").then_some(non_max_suppression as Op)
}

/// A box by its corners, and its area.
#[derive(Clone, Copy)]
struct Corners {
    low: [f32; 2],
    high: [f32; 2],
    area: f32,
}

impl Corners {
    /// From [y1, x1, y2, x2], in which either corner may come first, or from
    /// [x centre, y centre, width, height].
    fn new(numbers: &[f32], by_centre: bool) -> Self {
        let &[a, b, c, d] = numbers else {
            return Self { low: [0.0; 2], high: [0.0; 2], area: 0.0 };
        };
        let (low, high) = if by_centre {
            ([b - d / 2.0, a - c / 2.0], [b + d / 2.0, a + c / 2.0])
        } else {
            ([a.min(c), b.min(d)], [a.max(c), b.max(d)])
        };
        Self { low, high, area: (high[0] - low[0]) * (high[1] - low[1]) }
    }

    /// The share of the area of both that both cover.
    fn overlap(&self, other: &Self) -> f32 {
        let side =
            |d: usize| (self.high[d].min(other.high[d]) - self.low[d].max(other.low[d])).max(0.0);
        let shared = side(0) * side(1);
        let union = self.area + other.area - shared;
        if union > 0.0 { shared / union } else { 0.0 }
    }
}

/// For each batch and class, the boxes by falling score that overlap none taken
/// before by more than a threshold: boxes [B, N, 4] and scores [B, C, N] to
/// [taken, 3], each of batch, class, box.
///
/// # Source
/// <https://onnx.ai/onnx/operators/onnx__NonMaxSuppression.html>
fn non_max_suppression(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let (boxes, scores) = (call.array(0)?, call.array(1)?);
    let (&[batches, count, 4], &[same, classes, each]) = (boxes.shape(), scores.shape()) else {
        let (boxes, scores) = (boxes.shape(), scores.shape());
        return Err(OpError::invalid(format!("boxes {boxes:?} and scores {scores:?}")));
    };
    if batches != same || count != each {
        let (boxes, scores) = (boxes.shape(), scores.shape());
        return Err(OpError::invalid(format!("boxes {boxes:?} and scores {scores:?}")));
    }
    let most = match call.optional(2)? {
        Some(most) => most.to_i64s()?.first().copied().unwrap_or(0),
        None => 0,
    };
    let most = usize::try_from(most).unwrap_or(0);
    let threshold = |index: usize| -> OpResult<Option<f32>> {
        Ok(call.optional(index)?.map(Array::to_f32s).transpose()?.and_then(|v| v.first().copied()))
    };
    let (overlap, least) = (threshold(3)?.unwrap_or(0.0), threshold(4)?);
    let by_centre = call.int_or("center_point_box", 0) == 1;
    let corners: Vec<Corners> =
        boxes.to_f32s()?.chunks_exact(4).map(|b| Corners::new(b, by_centre)).collect();
    let scores = scores.to_f32s()?;
    let mut taken: Vec<i64> = Vec::new();
    for batch in 0..batches {
        let corners = &corners[batch * count..][..count];
        for class in 0..classes {
            let scores = &scores[(batch * classes + class) * count..][..count];
            let mut order: Vec<usize> =
                (0..count).filter(|&i| least.is_none_or(|least| scores[i] > least)).collect();
            order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
            let mut kept: Vec<usize> = Vec::new();
            for candidate in order {
                if kept.len() >= most {
                    break;
                }
                if kept.iter().all(|&k| corners[k].overlap(&corners[candidate]) <= overlap) {
                    kept.push(candidate);
                }
            }
            taken.extend(kept.iter().flat_map(|&k| [batch as i64, class as i64, k as i64]));
        }
    }
    Ok(vec![Array::new(&[taken.len() / 3, 3], taken)?.into()])
}
