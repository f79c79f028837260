//! Occlusion: what becomes of the prediction when a patch is covered.

use std::ops::Range;

use crate::{error::Error, game::Contributions, subject::Subject};

/// Where patches lie: one entry for each axis of the input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Patches {
    shape: Vec<usize>,
    size: Vec<usize>,
    stride: Vec<usize>,
}

impl Patches {
    /// Patches of `size` on the last axes of `shape`, `stride` apart; axes
    /// before those are covered whole. The last patch along an axis ends at
    /// its end, smaller than the others where it must be. Strides are at least
    /// 1 and at most the size, so that every element is covered.
    pub fn new(shape: &[usize], size: &[usize], stride: &[usize]) -> Self {
        let leading = shape.len().saturating_sub(size.len());
        let on_all = |trailing: &[usize]| -> Vec<usize> {
            let cut = trailing.len().saturating_sub(shape.len());
            shape[..leading].iter().chain(&trailing[cut..]).map(|&n| n.max(1)).collect()
        };
        Self { shape: shape.to_vec(), size: on_all(size), stride: on_all(stride) }
    }

    /// How many there are along an axis.
    fn along(&self, axis: usize) -> usize {
        self.shape[axis].saturating_sub(self.size[axis]).div_ceil(self.stride[axis]) + 1
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        (0..self.shape.len()).fold(1, |n, axis| n.saturating_mul(self.along(axis)))
    }

    /// Call `each` with the elements of patch `index`, a run at a time, the
    /// patches in row-major order.
    fn elements(&self, mut index: usize, mut each: impl FnMut(Range<usize>)) {
        let axes = self.shape.len();
        let mut ranges = vec![0..1; axes];
        for axis in (0..axes).rev() {
            let start = index % self.along(axis) * self.stride[axis];
            ranges[axis] = start..(start + self.size[axis]).min(self.shape[axis]);
            index /= self.along(axis);
        }
        let Some((last, outer)) = ranges.split_last() else { return each(0..1) };
        let mut at: Vec<usize> = outer.iter().map(|r| r.start).collect();
        loop {
            let row = at.iter().zip(&self.shape).fold(0, |offset, (i, len)| offset * len + i);
            let row = row * self.shape[axes - 1];
            each(row + last.start..row + last.end);
            // Odometer: the first outer axis from the right that has room.
            let Some(axis) = (0..outer.len()).rev().find(|&a| at[a] + 1 < outer[a].end) else {
                return;
            };
            at[axis] += 1;
            for a in axis + 1..outer.len() {
                at[a] = outer[a].start;
            }
        }
    }
}

/// By how much the output falls when each patch is set to `fill`. An element
/// that several patches cover has their mean. The base is what the model gives
/// for an input of nothing but `fill`; the values need not add up to it.
///
/// # Errors
/// As [`Subject::each`].
///
/// # Source
/// Zeiler and Fergus, Visualizing and understanding convolutional networks,
/// ECCV 2014, section 4.2.
pub fn occlusion(
    subject: &mut Subject,
    patches: &Patches,
    fill: f64,
) -> Result<Contributions, Error> {
    let len = subject.input().len();
    let mut values = vec![0.0; len];
    if len == 0 {
        return Ok(Contributions { base: subject.prediction(), values });
    }
    let prediction = subject.prediction();
    let mut covers = vec![0u32; len];
    let mut base = prediction;
    let count = patches.count();
    // The one beyond the patches is the base.
    subject.each(
        count.saturating_add(1),
        |i, row| match i {
            _ if i == count => row.fill(fill),
            _ => patches.elements(i, |run| row[run].fill(fill)),
        },
        |i, given| match i {
            _ if i == count => base = given,
            _ => patches.elements(i, |run| {
                for e in run {
                    values[e] += prediction - given;
                    covers[e] += 1;
                }
            }),
        },
    )?;
    for (value, covers) in values.iter_mut().zip(covers) {
        *value /= f64::from(covers.max(1));
    }
    Ok(Contributions { base, values })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(patches: &Patches, index: usize) -> Vec<usize> {
        let mut elements = Vec::new();
        patches.elements(index, |run| elements.extend(run));
        elements
    }

    #[test]
    fn leading_axes_are_covered_whole() {
        let patches = Patches::new(&[1, 2, 3, 4], &[2, 2], &[2, 2]);
        assert_eq!(patches.count(), 4);
        assert_eq!(of(&patches, 0), [0, 1, 4, 5, 12, 13, 16, 17]);
        assert_eq!(of(&patches, 3), [10, 11, 22, 23], "the last row of patches is cut");
    }

    #[test]
    fn every_element_is_covered() {
        for (shape, size, stride) in [
            (vec![7], vec![3], vec![2]),
            (vec![1, 5, 9], vec![2, 4], vec![2, 3]),
            (vec![2, 2], vec![5, 5], vec![1, 1]),
            (vec![4, 3, 2], vec![1, 1, 1], vec![1, 1, 1]),
            (vec![6], vec![9, 2], vec![9, 2]),
        ] {
            let patches = Patches::new(&shape, &size, &stride);
            let mut covered: Vec<usize> =
                (0..patches.count()).flat_map(|i| of(&patches, i)).collect();
            covered.sort_unstable();
            covered.dedup();
            assert_eq!(covered, (0..shape.iter().product()).collect::<Vec<_>>(), "{shape:?}");
        }
        assert_eq!(of(&Patches::new(&[], &[2], &[2]), 0), [0], "a scalar is one element");
    }
}
