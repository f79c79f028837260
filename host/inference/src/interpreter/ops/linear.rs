//! Matrix products, sums of products, determinants.

use headland_tensor::DType;
use ndarray::{
    ArrayD, ArrayView2, ArrayViewD, ArrayViewMut2, Axis, IxDyn, Zip, linalg::general_mat_mul,
};

use super::Op;
use crate::{
    interpreter::{Call, OpError, OpResult, broadcast_shape},
    value::{Array, Element, Scalar, Value, into_parts, scalar_type},
};

/// The operator of that name.
///
/// # Source
/// <https://onnx.ai/onnx/operators/>
pub(crate) fn find(name: &str) -> Option<Op> {
    Some(match name {
        "Det" => determinant,
        "Einsum" => einsum,
        "Gemm" => gemm,
        "MatMul" => matmul,
        _ => return None,
    })
}

/// A number that matrices are made of. Whole numbers wrap.
pub(super) trait Number: Scalar + Default {
    /// Nothing.
    const ZERO: Self;
    /// The sum.
    fn plus(self, other: Self) -> Self;
    /// The product with a factor; whole numbers are rounded towards zero.
    fn scaled(self, factor: f32) -> Self;
    /// `out` becomes the product of `a` and `b`; it is zero before.
    fn multiply(
        a: &ArrayView2<'_, Self>,
        b: &ArrayView2<'_, Self>,
        out: &mut ArrayViewMut2<'_, Self>,
    );
}

macro_rules! floats {
    ($($t:ty)*) => {$(
        impl Number for $t {
            const ZERO: Self = 0.0;

            fn plus(self, other: Self) -> Self {
                self + other
            }

            fn scaled(self, factor: f32) -> Self {
                self * <$t>::from(factor)
            }

            fn multiply(
                a: &ArrayView2<'_, Self>,
                b: &ArrayView2<'_, Self>,
                out: &mut ArrayViewMut2<'_, Self>,
            ) {
                general_mat_mul(1.0, a, b, 0.0, out);
            }
        }
    )*};
}
floats!(f32 f64);

macro_rules! ints {
    ($($t:ty)*) => {$(
        impl Number for $t {
            const ZERO: Self = 0;

            fn plus(self, other: Self) -> Self {
                self.wrapping_add(other)
            }

            fn scaled(self, factor: f32) -> Self {
                // 1 is by far the most frequent, and exact.
                if factor == 1.0 { self } else { (self as f64 * f64::from(factor)) as $t }
            }

            fn multiply(
                a: &ArrayView2<'_, Self>,
                b: &ArrayView2<'_, Self>,
                out: &mut ArrayViewMut2<'_, Self>,
            ) {
                for (mut out, a) in out.rows_mut().into_iter().zip(a.rows()) {
                    for (&x, b) in a.iter().zip(b.rows()) {
                        Zip::from(&mut out)
                            .and(&b)
                            .for_each(|o, &y| *o = o.wrapping_add(x.wrapping_mul(y)));
                    }
                }
            }
        }
    )*};
}
ints!(i8 u8 i16 u16 i32 u32 i64 u64);

/// The 16-bit floats as f32, which arithmetic is done in; others as they are.
pub(super) fn widened(array: &Array) -> OpResult<Array> {
    match array.element() {
        Element::Plain(DType::F16 | DType::BF16) => Array::new(array.shape(), array.to_f32s()?),
        _ => Ok(array.clone()),
    }
}

/// What was made from [`widened`] arrays, in their element type again.
pub(super) fn narrowed(array: Array, element: Element) -> OpResult<Array> {
    if array.element() == element {
        return Ok(array);
    }
    Array::from_f32s(element, array.shape(), array.to_f32s()?)
}

/// An array of what was computed.
pub(super) fn finished<T: Scalar>(made: ArrayD<T>) -> OpResult<Array> {
    let (shape, elements) = into_parts(made);
    Array::new(&shape, elements)
}

/// How many products of numbers go between two looks at the clock.
const STRETCH: usize = 1 << 28;

/// For each place in `to`, which `from` broadcasts to, the flat index in
/// `from`.
fn broadcast_indices(from: &[usize], to: &[usize]) -> Vec<usize> {
    let mut indices = vec![0];
    let mut stride = from.iter().product::<usize>();
    for (axis, &size) in to.iter().enumerate() {
        // Axes that `from` lacks are in front, and stand still.
        let own = (axis + from.len()).checked_sub(to.len()).map_or(1, |axis| from[axis]);
        stride /= own.max(1);
        let step = if own == 1 { 0 } else { stride };
        indices = indices.iter().flat_map(|&i| (0..size).map(move |j| i + j * step)).collect();
    }
    indices
}

/// The products of matrices `[.., m, k]` and `[.., k, n]`, whose leading axes
/// broadcast.
pub(super) fn products<T: Number>(
    call: &Call<'_>,
    a: &ArrayViewD<'_, T>,
    b: &ArrayViewD<'_, T>,
) -> OpResult<ArrayD<T>> {
    let ([a_batch @ .., m, k], [b_batch @ .., rows, n]) = (a.shape(), b.shape()) else {
        return Err(OpError::invalid("a matrix has two axes at least"));
    };
    if k != rows {
        let (a, b) = (a.shape(), b.shape());
        return Err(OpError::invalid(format!("{a:?} times {b:?}")));
    }
    let (m, k, n) = (*m, *k, *n);
    let batch = broadcast_shape(&[a_batch, b_batch])?;
    let shape = [&batch[..], &[m, n]].concat();
    let mut made = zeros::<T>(call, &shape)?;
    if made.is_empty() || k == 0 {
        return Ok(made);
    }
    let a_count: usize = a_batch.iter().product();
    let b_count: usize = b_batch.iter().product();
    let count: usize = batch.iter().product();
    if b_count == 1 && a_count == count {
        // One product of all rows, as many at a time as take no long time.
        let a = a.to_shape((count * m, k))?;
        let b = b.to_shape((k, n))?;
        let mut out = made.view_mut().into_shape_with_order((count * m, n))?;
        let rows = (STRETCH / k.saturating_mul(n).max(1)).max(1);
        let a = a.axis_chunks_iter(Axis(0), rows);
        for (mut out, a) in out.axis_chunks_iter_mut(Axis(0), rows).zip(a) {
            call.on_time()?;
            T::multiply(&a, &b.view(), &mut out);
        }
    } else {
        let a = a.to_shape((a_count, m, k))?;
        let b = b.to_shape((b_count, k, n))?;
        let a_indices = broadcast_indices(a_batch, &batch);
        let b_indices = broadcast_indices(b_batch, &batch);
        let mut outs = made.view_mut().into_shape_with_order((count, m, n))?;
        for ((mut out, &i), &j) in outs.outer_iter_mut().zip(&a_indices).zip(&b_indices) {
            call.on_time()?;
            T::multiply(&a.index_axis(Axis(0), i), &b.index_axis(Axis(0), j), &mut out);
        }
    }
    Ok(made)
}

/// Zeros in a shape that is within the limits.
pub(super) fn zeros<T: Number>(call: &Call<'_>, shape: &[usize]) -> OpResult<ArrayD<T>> {
    call.reserve(T::ELEMENT, shape)?;
    // An array of no elements may still have sizes beyond what can be counted.
    let sizes = shape.iter().filter(|&&d| d != 0);
    if sizes.map(|&d| d as f64).product::<f64>() >= isize::MAX as f64 {
        return Err(OpError::invalid(format!("a shape of {shape:?}")));
    }
    Ok(ArrayD::from_elem(IxDyn(shape), T::ZERO))
}

/// How many elements a shape has: the sizes of an array without elements may
/// have a product beyond all counts.
pub(super) fn count(shape: &[usize]) -> usize {
    shape.iter().fold(1, |count: usize, &size| count.saturating_mul(size))
}

/// Refuse arrays of different element types.
fn alike(arrays: &[&Array]) -> OpResult<Element> {
    let first = arrays.first().ok_or_else(|| OpError::invalid("no inputs"))?.element();
    match arrays.iter().find(|a| a.element() != first) {
        Some(other) => Err(OpError::invalid(format!("{first} together with {}", other.element()))),
        None => Ok(first),
    }
}

/// The matrix product as numpy has it: a vector is a row on the left and a
/// column on the right, and the result lacks that axis.
pub(super) fn matrix_product(call: &Call<'_>, a: &Array, b: &Array) -> OpResult<Array> {
    let element = alike(&[a, b])?;
    if a.rank() == 0 || b.rank() == 0 {
        return Err(OpError::invalid("a matrix product with a scalar"));
    }
    let (a, b) = (widened(a)?, widened(b)?);
    let made = scalar_type!(a.element(), [numbers] T => {
        let (mut left, mut right) = (a.view::<T>()?, b.view::<T>()?);
        if a.rank() == 1 {
            left = left.insert_axis(Axis(0));
        }
        if b.rank() == 1 {
            right = right.insert_axis(Axis(1));
        }
        let mut made = products(call, &left, &right)?;
        let rank = made.ndim();
        if b.rank() == 1 {
            made = made.index_axis_move(Axis(rank - 1), 0);
        }
        if a.rank() == 1 {
            made = made.index_axis_move(Axis(rank - 2), 0);
        }
        finished(made)
    })?;
    narrowed(made, element)
}

fn matmul(call: &Call<'_>) -> OpResult<Vec<Value>> {
    Ok(vec![matrix_product(call, call.array(0)?, call.array(1)?)?.into()])
}

/// `alpha` times the product of matrices, plus `beta` times what broadcasts to
/// it.
pub(super) fn gemm(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let (a, b) = (call.array(0)?, call.array(1)?);
    let element = alike(&[a, b])?;
    let beta = call.float_or("beta", 1.0);
    let added = call.optional(2)?.filter(|_| beta != 0.0);
    if let Some(added) = added {
        alike(&[a, added])?;
    }
    if a.rank() != 2 || b.rank() != 2 {
        return Err(OpError::invalid(format!("{:?} times {:?}", a.shape(), b.shape())));
    }
    let alpha = call.float_or("alpha", 1.0);
    let (a, b) = (widened(a)?, widened(b)?);
    let added = added.map(widened).transpose()?;
    let made = scalar_type!(a.element(), [numbers] T => {
        let (mut left, mut right) = (a.view::<T>()?, b.view::<T>()?);
        if call.flag("transA", false) {
            left.swap_axes(0, 1);
        }
        if call.flag("transB", false) {
            right.swap_axes(0, 1);
        }
        let mut made = products(call, &left, &right)?;
        if alpha != 1.0 {
            made.mapv_inplace(|v| v.scaled(alpha));
        }
        if let Some(added) = &added {
            let view = added.view::<T>()?;
            let view = view.broadcast(made.raw_dim()).ok_or_else(|| {
                OpError::invalid(format!("{:?} is added to {:?}", added.shape(), made.shape()))
            })?;
            made.zip_mut_with(&view, |o, c| *o = o.plus(c.scaled(beta)));
        }
        finished(made)
    })?;
    Ok(vec![narrowed(made, element)?.into()])
}

/// The determinant of each matrix `[.., n, n]`.
fn determinant(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let array = call.array(0)?;
    let [batch @ .., n, columns] = array.shape() else {
        return Err(OpError::invalid("a matrix has two axes at least"));
    };
    if n != columns {
        return Err(OpError::invalid(format!("the determinant of {:?}", array.shape())));
    }
    call.reserve(array.element(), batch)?;
    let mut elements = array.to_f64s()?;
    let size = if array.is_empty() { 0 } else { n * n };
    let count: usize = batch.iter().product();
    let determinants: Vec<f64> = (0..count)
        .map(|i| elements.get_mut(i * size..(i + 1) * size).map_or(1.0, |m| eliminate(m, *n)))
        .collect();
    Ok(vec![Array::from_f64s(array.element(), batch, &determinants)?.into()])
}

/// The determinant of a matrix `[n, n]`, by elimination with the largest pivot
/// of each column.
fn eliminate(matrix: &mut [f64], n: usize) -> f64 {
    let mut determinant = 1.0;
    for column in 0..n {
        let size = |row: &usize| matrix[row * n + column].abs();
        let pivot = (column..n).max_by(|a, b| size(a).total_cmp(&size(b))).unwrap_or(column);
        if pivot != column {
            determinant = -determinant;
            for j in 0..n {
                matrix.swap(pivot * n + j, column * n + j);
            }
        }
        let (above, below) = matrix.split_at_mut((column + 1) * n);
        let top = &above[column * n..];
        determinant *= top[column];
        if top[column] == 0.0 {
            return determinant;
        }
        for row in below.chunks_exact_mut(n) {
            let factor = row[column] / top[column];
            for (x, y) in row[column..].iter_mut().zip(&top[column..]) {
                *x -= factor * y;
            }
        }
    }
    determinant
}

/// An index of a sum of products: a letter, or an axis that an ellipsis stands
/// for, counted from the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Label {
    Letter(char),
    Rest(usize),
}

/// One operand of a sum of products: an axis for each label, no label twice.
struct Factor<T> {
    labels: Vec<Label>,
    array: ArrayD<T>,
}

/// The labels of a term for a tensor of `rank`, or, without one, for the
/// result, where an ellipsis stands for `rest` axes.
fn labels(term: &str, rank: Option<usize>, rest: usize) -> OpResult<Vec<Label>> {
    let bad = || OpError::invalid(format!("term {term:?} for a tensor of rank {rank:?}"));
    let letters = |part: &str| -> OpResult<Vec<Label>> {
        part.chars()
            .map(|c| if c.is_ascii_alphabetic() { Ok(Label::Letter(c)) } else { Err(bad()) })
            .collect()
    };
    let labels = match term.split_once("...") {
        Some((before, after)) => {
            let (before, after) = (letters(before)?, letters(after)?);
            let named = before.len() + after.len();
            let rest = match rank {
                Some(rank) => rank.checked_sub(named).ok_or_else(bad)?,
                None => rest,
            };
            let rest: Vec<Label> = (0..rest).rev().map(Label::Rest).collect();
            [before, rest, after].concat()
        }
        None => letters(term)?,
    };
    if rank.is_some_and(|rank| labels.len() != rank) {
        return Err(bad());
    }
    Ok(labels)
}

/// The sum of products that an equation describes.
fn einsum(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let arrays = call.arrays()?;
    let element = alike(&arrays)?;
    let equation =
        call.text("equation").ok_or_else(|| OpError::invalid("equation is missing"))?.to_owned();
    let equation: String = equation.chars().filter(|c| !c.is_whitespace()).collect();
    let (left, right) = match equation.split_once("->") {
        Some((left, right)) => (left, Some(right)),
        None => (&*equation, None),
    };
    let terms: Vec<&str> = left.split(',').collect();
    if terms.len() != arrays.len() {
        let reason = format!("{} terms for {} tensors", terms.len(), arrays.len());
        return Err(OpError::invalid(reason));
    }
    let ins = terms
        .iter()
        .zip(&arrays)
        .map(|(term, array)| labels(term, Some(array.rank()), 0))
        .collect::<OpResult<Vec<_>>>()?;
    let all = ins.concat();
    let rest = all
        .iter()
        .map(|label| if let Label::Rest(axis) = label { axis + 1 } else { 0 })
        .max()
        .unwrap_or(0);
    let out = match right {
        Some(term) => labels(term, None, rest)?,
        None => {
            let mut once: Vec<char> = ('A'..='Z').chain('a'..='z').collect();
            once.retain(|&c| all.iter().filter(|&&l| l == Label::Letter(c)).count() == 1);
            (0..rest).rev().map(Label::Rest).chain(once.into_iter().map(Label::Letter)).collect()
        }
    };
    for (index, label) in out.iter().enumerate() {
        if !all.contains(label) || out[..index].contains(label) {
            return Err(OpError::invalid(format!("the result of {equation:?}")));
        }
    }
    let arrays = arrays.into_iter().map(widened).collect::<OpResult<Vec<_>>>()?;
    let made = scalar_type!(arrays[0].element(), [numbers] T => {
        let factors = arrays
            .iter()
            .zip(ins)
            .map(|(array, labels)| diagonal(&array.view::<T>()?, labels))
            .collect::<OpResult<Vec<_>>>()?;
        finished(contract(call, factors, &out)?)
    })?;
    Ok(vec![narrowed(made, element)?.into()])
}

/// An operand whose labels may repeat, reduced to where those axes have one
/// index.
fn diagonal<T: Number>(array: &ArrayViewD<'_, T>, mut labels: Vec<Label>) -> OpResult<Factor<T>> {
    let mut array = array.to_owned();
    let mut axis = 0;
    while axis < labels.len() {
        let again = labels[axis + 1..].iter().position(|l| *l == labels[axis]);
        let Some(other) = again.map(|at| axis + 1 + at) else {
            axis += 1;
            continue;
        };
        let size = array.shape()[axis];
        if array.shape()[other] != size {
            let shape = array.shape();
            return Err(OpError::invalid(format!("axes {axis} and {other} of {shape:?}")));
        }
        let mut shape = array.shape().to_vec();
        shape.remove(other);
        let mut taken = ArrayD::from_elem(IxDyn(&shape), T::ZERO);
        for index in 0..size {
            let picked = array.index_axis(Axis(other), index);
            taken.index_axis_mut(Axis(axis), index).assign(&picked.index_axis(Axis(axis), index));
        }
        array = taken;
        labels.remove(other);
    }
    Ok(Factor { labels, array })
}

/// The sum over all labels but those of `out` of the product of all factors.
/// Two at a time are made into one by a matrix product, the one next that
/// leaves the smallest result.
fn contract<T: Number>(
    call: &Call<'_>,
    mut factors: Vec<Factor<T>>,
    out: &[Label],
) -> OpResult<ArrayD<T>> {
    stretch(&mut factors)?;
    let mut made = factors.pop().ok_or_else(|| OpError::invalid("no inputs"))?;
    while !factors.is_empty() {
        let cost = |index: usize| {
            let next = &factors[index];
            let new = next.labels.iter().zip(next.array.shape());
            let new = new.filter(|(l, _)| !made.labels.contains(l)).map(|(_, &d)| d);
            let gone = made.labels.iter().zip(made.array.shape());
            let gone = gone.filter(|(l, _)| next.labels.contains(l) && !out.contains(l));
            new.fold(1.0, |cost, d| cost * d as f64)
                / gone.map(|(_, &d)| d as f64).product::<f64>().max(1.0)
        };
        let best = (0..factors.len()).min_by(|&a, &b| cost(a).total_cmp(&cost(b))).unwrap_or(0);
        let next = factors.swap_remove(best);
        let kept =
            |label: &Label| out.contains(label) || factors.iter().any(|f| f.labels.contains(label));
        made = pair(call, made, next, &kept)?;
    }
    let made = summed(made, &|label| out.contains(label));
    let order: Vec<usize> =
        out.iter().filter_map(|label| made.labels.iter().position(|l| l == label)).collect();
    if order.len() != out.len() || order.len() != made.array.ndim() {
        return Err(OpError::invalid("a label of the result that no factor has"));
    }
    Ok(made.array.permuted_axes(order))
}

/// Drop the axes of size 1 whose label has another size elsewhere, so that all
/// axes of a label have one size.
fn stretch<T: Number>(factors: &mut [Factor<T>]) -> OpResult<()> {
    let mut sizes: Vec<(Label, usize)> = Vec::new();
    for factor in &*factors {
        for (&label, &size) in factor.labels.iter().zip(factor.array.shape()) {
            match sizes.iter_mut().find(|s| s.0 == label) {
                None => sizes.push((label, size)),
                Some(known) if known.1 == 1 => known.1 = size,
                Some(known) if size == 1 || known.1 == size => {}
                Some(known) => {
                    let reason = format!("{label:?} is {size} here and {} there", known.1);
                    return Err(OpError::invalid(reason));
                }
            }
        }
    }
    for factor in factors {
        for axis in (0..factor.labels.len()).rev() {
            let wide = sizes.iter().any(|s| s.0 == factor.labels[axis] && s.1 != 1);
            if wide && factor.array.shape()[axis] == 1 {
                factor.labels.remove(axis);
                let array = std::mem::take(&mut factor.array);
                factor.array = array.index_axis_move(Axis(axis), 0);
            }
        }
    }
    Ok(())
}

/// The sum over the labels that are not kept.
fn summed<T: Number>(mut factor: Factor<T>, kept: &dyn Fn(&Label) -> bool) -> Factor<T> {
    for axis in (0..factor.labels.len()).rev() {
        if !kept(&factor.labels[axis]) {
            factor.array = factor.array.fold_axis(Axis(axis), T::ZERO, |&a, &b| a.plus(b));
            factor.labels.remove(axis);
        }
    }
    factor
}

/// The product of two factors, summed over the labels that are not kept.
fn pair<T: Number>(
    call: &Call<'_>,
    a: Factor<T>,
    b: Factor<T>,
    kept: &dyn Fn(&Label) -> bool,
) -> OpResult<Factor<T>> {
    let a = summed(a, &|label| kept(label) || b.labels.contains(label));
    let b = summed(b, &|label| kept(label) || a.labels.contains(label));
    let both = |label: &&Label| a.labels.contains(label) && b.labels.contains(label);
    let batch: Vec<Label> = a.labels.iter().filter(both).filter(|l| kept(l)).copied().collect();
    let gone: Vec<Label> = a.labels.iter().filter(both).filter(|l| !kept(l)).copied().collect();
    let only = |of: &Factor<T>, other: &Factor<T>| -> Vec<Label> {
        of.labels.iter().filter(|l| !other.labels.contains(l)).copied().collect()
    };
    let (a_only, b_only) = (only(&a, &b), only(&b, &a));
    let sizes = |labels: &[Label], of: &Factor<T>| -> Vec<usize> {
        let place = |label| of.labels.iter().position(|l| l == label);
        labels.iter().filter_map(place).map(|axis| of.array.shape()[axis]).collect()
    };
    let shape = [sizes(&batch, &a), sizes(&a_only, &a), sizes(&b_only, &b)].concat();
    call.reserve(T::ELEMENT, &shape)?;
    let group = |labels: &[Label], of: &Factor<T>| count(&sizes(labels, of));
    let (rows, columns, inner) = (group(&a_only, &a), group(&b_only, &b), group(&gone, &a));
    let groups = group(&batch, &a);
    let ordered = |of: &Factor<T>, parts: [&[Label]; 3]| {
        let place = |label: &Label| of.labels.iter().position(|l| l == label);
        let order: Vec<usize> = parts.concat().iter().filter_map(place).collect();
        of.array.view().permuted_axes(order).as_standard_layout().into_owned()
    };
    let left = ordered(&a, [&batch, &a_only, &gone]);
    let right = ordered(&b, [&batch, &gone, &b_only]);
    let left = left.into_shape_with_order(IxDyn(&[groups, rows, inner]))?;
    let right = right.into_shape_with_order(IxDyn(&[groups, inner, columns]))?;
    let made = products(call, &left.view(), &right.view())?;
    let array = made.into_shape_with_order(IxDyn(&shape))?;
    Ok(Factor { labels: [batch, a_only, b_only].concat(), array })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn indices_stand_still_where_axes_broadcast() {
        assert_eq!(broadcast_indices(&[2, 1], &[3, 2, 2]), [0, 0, 1, 1, 0, 0, 1, 1, 0, 0, 1, 1]);
        assert_eq!(broadcast_indices(&[], &[2]), [0, 0]);
        assert_eq!(broadcast_indices(&[2, 2], &[2, 2]), [0, 1, 2, 3]);
    }

    #[test]
    fn a_row_exchange_turns_the_sign() {
        assert_eq!(eliminate(&mut [0.0, 2.0, 3.0, 4.0], 2), -6.0);
        assert_eq!(eliminate(&mut [1.0, 2.0, 2.0, 4.0], 2), 0.0);
        assert_eq!(eliminate(&mut [], 0), 1.0);
    }

    #[test]
    fn an_ellipsis_takes_what_is_left() {
        let rest = labels("b...x", Some(4), 0).unwrap();
        assert_eq!(rest, [Label::Letter('b'), Label::Rest(1), Label::Rest(0), Label::Letter('x')]);
        assert!(labels("ab", Some(3), 0).is_err());
        assert!(labels("a.b", Some(3), 0).is_err());
    }
}
