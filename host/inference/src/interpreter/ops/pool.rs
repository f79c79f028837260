//! Pools: one number for each window of an image, or for each region of it.

use headland_tensor::DType;
use ndarray::{ArrayD, IxDyn};

use super::{
    Op,
    conv::{Real, Sweep, counts, per_axis, sweeps},
};
use crate::{
    interpreter::{Call, OpError, OpResult, sizes},
    value::{Array, Element, Scalar, Value, real_type, scalar_type, structural},
};

/// The operator of that name.
///
/// # Source
/// <https://onnx.ai/onnx/operators/>
pub(crate) fn find(name: &str) -> Option<Op> {
    Some(match name {
        "AveragePool" => |call| real_type!(call.array(0)?.element(), T => average_pool::<T>(call)),
        // Sums of a whole image are long.
        "GlobalAveragePool" => average_pool::<f64>,
        "GlobalLpPool" => lp_pool::<f64>,
        "LpPool" => |call| real_type!(call.array(0)?.element(), T => lp_pool::<T>(call)),
        "MaxPool" | "GlobalMaxPool" => max_pool,
        "MaxRoiPool" => |call| real_type!(call.array(0)?.element(), T => max_roi_pool::<T>(call)),
        "MaxUnpool" => max_unpool,
        "RoiAlign" => |call| real_type!(call.array(0)?.element(), T => roi_align::<T>(call)),
        _ => return None,
    })
}

/// An image `[batch, channels, size..]` and the windows over it; for a global
/// pool, one as large as the image.
struct Pooled<'a> {
    x: &'a Array,
    sweeps: Vec<Sweep>,
    /// The result's.
    shape: Vec<usize>,
}

impl<'a> Pooled<'a> {
    fn new(call: &'a Call<'_>) -> OpResult<Self> {
        let x = call.array(0)?;
        let global = call.op().starts_with("Global");
        let Some(image) = x.shape().get(2..).filter(|image| global || !image.is_empty()) else {
            return Err(OpError::invalid(format!("an image of shape {:?}", x.shape())));
        };
        let sweeps = if global {
            if image.contains(&0) {
                return Err(OpError::invalid(format!("an image of shape {:?}", x.shape())));
            }
            image.iter().map(|&size| Sweep::whole(size)).collect()
        } else {
            let kernel = call
                .ints("kernel_shape")
                .ok_or_else(|| OpError::invalid("kernel_shape is missing"))?;
            sweeps(call, image, &sizes(kernel)?)?
        };
        let shape = [&x.shape()[..2], &counts(&sweeps)].concat();
        call.reserve(x.element(), &shape)?;
        Ok(Self { x, sweeps, shape })
    }

    /// Fold what each window sees, axis by axis: the innermost first, so that
    /// of equals the first in row-major order comes first. `finish` takes what
    /// a window along an axis made, with that window's `weight`.
    fn fold<E: Copy, W>(
        &self,
        call: &Call<'_>,
        mut data: Vec<E>,
        empty: E,
        step: impl Fn(E, E) -> E,
        weight: impl Fn(&Sweep, usize) -> W,
        finish: impl Fn(E, &W) -> E,
    ) -> OpResult<Vec<E>> {
        if self.shape.contains(&0) {
            return Ok(Vec::new());
        }
        let mut inner = 1;
        for (axis, sweep) in self.sweeps.iter().enumerate().rev() {
            let outer: usize = self.x.shape()[..axis + 2].iter().product();
            let bytes = [size_of::<E>(), outer, sweep.count, inner];
            call.reserve(Element::Plain(DType::U8), &bytes)?;
            // Where each window begins, how many taps it has, and its weight.
            let bytes = [size_of::<(usize, usize, W)>(), sweep.count];
            call.reserve(Element::Plain(DType::U8), &bytes)?;
            let window = |window: usize| {
                let taps = sweep.taps(window);
                let start = if taps.is_empty() { 0 } else { sweep.place(window, taps.start) };
                (start as usize, taps.len(), weight(sweep, window))
            };
            let windows: Vec<_> = (0..sweep.count).map(window).collect();
            let mut folded = vec![empty; outer * sweep.count * inner];
            for (line, lines) in folded.chunks_exact_mut(sweep.count * inner).enumerate() {
                call.on_time()?;
                let from = &data[line * sweep.size * inner..][..sweep.size * inner];
                for (to, (start, taps, weight)) in lines.chunks_exact_mut(inner).zip(&windows) {
                    if taps.saturating_mul(inner) >= LONG {
                        call.on_time()?;
                    }
                    let places = (0..*taps).map(|tap| start + tap * sweep.dilation);
                    if let [to] = to {
                        *to = finish(places.fold(*to, |to, at| step(to, from[at])), weight);
                        continue;
                    }
                    for at in places {
                        let from = &from[at * inner..][..inner];
                        to.iter_mut().zip(from).for_each(|(to, from)| *to = step(*to, *from));
                    }
                    to.iter_mut().for_each(|to| *to = finish(*to, weight));
                }
            }
            (data, inner) = (folded, inner * sweep.count);
        }
        Ok(data)
    }

    /// The largest of each window, and where it is: `[Y, Indices]`.
    fn max<T: Scalar + PartialOrd>(
        &self,
        call: &Call<'_>,
        elements: Vec<T>,
        lowest: T,
        write: impl Fn(Vec<T>) -> OpResult<Array>,
    ) -> OpResult<Vec<Value>> {
        let larger = |a: T, b: T| if b > a { b } else { a };
        if !call.wants(1) {
            return Ok(vec![
                write(self.fold(call, elements, lowest, larger, |_, _| (), |a, ()| a)?)?.into(),
            ]);
        }
        call.reserve(Element::Plain(DType::I64), self.x.shape())?;
        let placed = elements.into_iter().zip(0i64..).collect();
        let step = |a: (T, i64), b: (T, i64)| if a.1 < 0 || b.0 > a.0 { b } else { a };
        let largest = self.fold(call, placed, (lowest, -1), step, |_, _| (), |a, ()| a)?;
        let (values, mut places): (Vec<T>, Vec<i64>) = largest.into_iter().unzip();
        if call.int_or("storage_order", 0) != 0 {
            let image = &self.x.shape()[2..];
            places.iter_mut().for_each(|place| *place = column_major(*place, image));
        }
        Ok(vec![write(values)?.into(), Array::new(&self.shape, places)?.into()])
    }
}

/// A place in planes of that shape, with the first axis of a plane as the
/// innermost.
fn column_major(place: i64, image: &[usize]) -> i64 {
    let plane = image.iter().product::<usize>() as i64;
    if place < 0 || plane == 0 {
        return place;
    }
    let (mut rest, mut within, mut step) = (place % plane, 0, plane);
    for &size in image.iter().rev() {
        step /= size as i64;
        within += rest % size as i64 * step;
        rest /= size as i64;
    }
    place / plane * plane + within
}

fn max_pool(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let pooled = Pooled::new(call)?;
    let element = pooled.x.element();
    if element.is_float() {
        real_type!(element, T => {
            let write = |values| T::write(element, &pooled.shape, values);
            pooled.max(call, T::read(pooled.x)?.into_owned(), T::LOWEST, write)
        })
    } else {
        scalar_type!(element, [ints] T => {
            let write = |values| Array::new(&pooled.shape, values);
            pooled.max(call, pooled.x.elements::<T>()?.to_vec(), T::MIN, write)
        })
    }
}

fn average_pool<T: Real>(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let pooled = Pooled::new(call)?;
    let with_pads = call.flag("count_include_pad", false);
    let taps = |sweep: &Sweep, window: usize| {
        let taps = if with_pads { sweep.padded_taps(window) } else { sweep.taps(window).len() };
        T::from_f64(taps.max(1) as f64)
    };
    call.reserve(T::ELEMENT, pooled.x.shape())?;
    let elements = T::read(pooled.x)?.into_owned();
    let add = |a: T, b: T| a + b;
    let averages = pooled.fold(call, elements, T::zero(), add, taps, |sum, taps| sum / *taps)?;
    Ok(vec![T::write(pooled.x.element(), &pooled.shape, averages)?.into()])
}

fn lp_pool<T: Real>(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let pooled = Pooled::new(call)?;
    let p = call.int_or("p", 2);
    if p < 1 {
        return Err(OpError::invalid(format!("p is {p}")));
    }
    let power = |x: &mut T, p: f64| *x = T::from_f64(x.to_f64().abs().powf(p));
    call.reserve(T::ELEMENT, pooled.x.shape())?;
    let mut powers = T::read(pooled.x)?.into_owned();
    powers.iter_mut().for_each(|x| power(x, p as f64));
    let add = |a: T, b: T| a + b;
    let mut norms = pooled.fold(call, powers, T::zero(), add, |_, _| (), |sum, ()| sum)?;
    norms.iter_mut().for_each(|x| power(x, (p as f64).recip()));
    Ok(vec![T::write(pooled.x.element(), &pooled.shape, norms)?.into()])
}

/// The taps of a window that are worth a look at the clock.
const LONG: usize = 1 << 14;

/// The place along each axis of what is at `index` of a shape.
fn unravel(mut index: usize, shape: &[usize]) -> Option<Vec<usize>> {
    let mut places = vec![0; shape.len()];
    for (place, &size) in places.iter_mut().zip(shape).rev() {
        *place = index.checked_rem(size)?;
        index /= size;
    }
    (index == 0).then_some(places)
}

/// Each element where the largest of its window was, and zero elsewhere.
///
/// # Source
/// <https://onnx.ai/onnx/operators/onnx__MaxUnpool.html>
fn max_unpool(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let (x, places) = (call.array(0)?, call.array(1)?);
    if x.rank() < 3 || places.shape() != x.shape() {
        let (x, places) = (x.shape(), places.shape());
        return Err(OpError::invalid(format!("indices {places:?} for an image {x:?}")));
    }
    let rank = x.rank() - 2;
    let kernel = per_axis(call, "kernel_shape", rank, 1, 1)?;
    let strides = per_axis(call, "strides", rank, 1, 1)?;
    let pads = per_axis(call, "pads", 2 * rank, 0, 0)?;
    let mut pooled = x.shape()[..2].to_vec();
    for axis in 0..rank {
        let steps = (x.shape()[axis + 2] as i64 - 1).checked_mul(strides[axis]);
        let size = steps.map(|steps| steps - pads[axis] - pads[rank + axis] + kernel[axis]);
        let size = size.and_then(|size| usize::try_from(size).ok());
        pooled.push(size.ok_or_else(|| OpError::invalid("windows larger than the image"))?);
    }
    let shape = match call.optional(2)? {
        Some(shape) => sizes(&shape.to_i64s()?)?,
        None => pooled.clone(),
    };
    call.reserve(x.element(), &shape)?;
    if shape.len() != x.rank() || shape[..2] != x.shape()[..2] {
        return Err(OpError::invalid(format!("output_shape {shape:?} for {:?}", x.shape())));
    }
    let places = places.to_i64s()?;
    let at = |place: i64, shape: &[usize]| unravel(usize::try_from(place).ok()?, shape);
    // The indices count through the image that was pooled. That is the result,
    // unless an index would then lie outside of its window: then it is the
    // smallest image that has as many windows.
    let in_window = |index: usize, place: i64| {
        let (window, at) = unravel(index, x.shape()).zip(at(place, &shape))?;
        let inside = window[..2] == at[..2]
            && (0..rank).all(|axis| {
                let start = window[axis + 2] as i64 * strides[axis] - pads[axis];
                (start..start + kernel[axis]).contains(&(at[axis + 2] as i64))
            });
        inside.then_some(())
    };
    let counted = if places.iter().enumerate().all(|(i, &place)| in_window(i, place).is_some()) {
        &shape
    } else {
        &pooled
    };
    let mut targets = Vec::with_capacity(places.len());
    for &place in &places {
        let at = at(place, counted).filter(|at| at.iter().zip(&shape).all(|(at, size)| at < size));
        let at = at.ok_or_else(|| {
            OpError::invalid(format!("index {place} into {counted:?} for {shape:?}"))
        })?;
        targets.push(at.iter().zip(&shape).fold(0, |index, (at, size)| index * size + at));
    }
    let made = structural!(&[x], |views| {
        let mut unpooled = vec![Default::default(); shape.iter().product()];
        for (value, &target) in views[0].iter().zip(&targets) {
            unpooled[target] = value.clone();
        }
        ArrayD::from_shape_vec(IxDyn(&shape), unpooled).map_err(OpError::from)
    })?;
    Ok(vec![made.into()])
}

/// The image `[batch, channels, height, width]` that regions are of.
fn region_image<'a>(call: &'a Call<'_>) -> OpResult<(&'a Array, [usize; 4])> {
    let x = call.array(0)?;
    match *x.shape() {
        [n, c, h, w] if h > 0 && w > 0 => Ok((x, [n, c, h, w])),
        _ => Err(OpError::invalid(format!("an image of shape {:?}", x.shape()))),
    }
}

/// The largest of each bin of each region.
///
/// # Source
/// <https://arxiv.org/abs/1504.08083>
fn max_roi_pool<T: Real>(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let (array, [batch, channels, height, width]) = region_image(call)?;
    let regions = call.array(1)?;
    let (count, pooled) = match (regions.shape(), call.ints("pooled_shape")) {
        (&[count, 5], Some(pooled @ [_, _])) => (count, sizes(pooled)?),
        (shape, pooled) => {
            let reason = format!("regions {shape:?} with pooled_shape {pooled:?}");
            return Err(OpError::invalid(reason));
        }
    };
    let scale = f64::from(call.float_or("spatial_scale", 1.0));
    let shape = [count, channels, pooled[0], pooled[1]];
    call.reserve(T::ELEMENT, &shape)?;
    let regions = regions.to_f64s()?;
    let x = T::read(array)?;
    let mut y = Vec::with_capacity(shape.iter().product());
    // What a bin covers of an axis: from the first pixel to past the last.
    let bin = |index: usize, bins: usize, start: f64, end: f64, size: usize| {
        let each = (end - start + 1.0).max(1.0) / bins as f64;
        let clamp = |at: f64| (at + start).clamp(0.0, size as f64) as usize;
        clamp((index as f64 * each).floor())..clamp(((index + 1) as f64 * each).ceil())
    };
    if !shape.contains(&0) {
        for region in regions.chunks_exact(5) {
            let image = image_index(region[0] as i64, batch)?;
            let [left, top, right, bottom] =
                [1, 2, 3, 4].map(|index| (region[index] * scale).round());
            for channel in 0..channels {
                let plane = &x[(image * channels + channel) * height * width..][..height * width];
                for row in 0..pooled[0] {
                    let rows = bin(row, pooled[0], top, bottom, height);
                    for column in 0..pooled[1] {
                        let columns = bin(column, pooled[1], left, right, width);
                        let largest = rows
                            .clone()
                            .flat_map(|r| plane.get(r * width..)?.get(columns.clone()))
                            .flatten()
                            .copied()
                            .reduce(|a, b| if b > a { b } else { a });
                        y.push(largest.unwrap_or(T::zero()));
                    }
                }
            }
        }
    }
    Ok(vec![T::write(array.element(), &shape, y)?.into()])
}

fn image_index(index: i64, batch: usize) -> OpResult<usize> {
    usize::try_from(index)
        .ok()
        .filter(|&index| index < batch)
        .ok_or_else(|| OpError::invalid(format!("a region of image {index} of {batch}")))
}

/// The two pixels around a sample along an axis, with their weights.
#[derive(Clone, Copy)]
struct Around {
    pixels: [usize; 2],
    weights: [f64; 2],
}

/// The samples of all bins of a region along an axis, `grid` of them in each;
/// `None` for those outside of the image.
fn bin_samples(
    start: f64,
    each: f64,
    bins: usize,
    grid: usize,
    size: usize,
) -> Vec<Option<Around>> {
    let sample = |index: usize| {
        let (bin, step) = ((index / grid) as f64, (index % grid) as f64);
        let at = start + bin * each + (step + 0.5) * each / grid as f64;
        // NaN is outside too.
        if !(-1.0..=size as f64).contains(&at) {
            return None;
        }
        let at = at.max(0.0);
        let low = (at as usize).min(size - 1);
        let high = (low + 1).min(size - 1);
        let rest = if high == low { 0.0 } else { at - low as f64 };
        Some(Around { pixels: [low, high], weights: [1.0 - rest, rest] })
    };
    (0..bins * grid).map(sample).collect()
}

/// The average or largest of samples in each bin of each region.
///
/// # Source
/// <https://onnx.ai/onnx/operators/onnx__RoiAlign.html>
fn roi_align<T: Real>(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let (array, [batch, channels, height, width]) = region_image(call)?;
    let (regions, images) = (call.array(1)?, call.array(2)?.to_i64s()?);
    if regions.shape() != [images.len(), 4] {
        let (shape, count) = (regions.shape(), images.len());
        return Err(OpError::invalid(format!("regions {shape:?} for {count} image indices")));
    }
    let bins = sizes(&[call.int_or("output_height", 1), call.int_or("output_width", 1)])?;
    let ratio = call.int_or("sampling_ratio", 0);
    let scale = f64::from(call.float_or("spatial_scale", 1.0));
    let default = if call.opset() < 16 { "output_half_pixel" } else { "half_pixel" };
    let half = match call.text_or("coordinate_transformation_mode", default) {
        "half_pixel" => 0.5,
        "output_half_pixel" => 0.0,
        other => return Err(OpError::invalid(format!("coordinates are {other:?}"))),
    };
    let average = match call.text_or("mode", "avg") {
        "avg" => true,
        "max" => false,
        other => return Err(OpError::invalid(format!("mode is {other:?}"))),
    };
    let shape = [images.len(), channels, bins[0], bins[1]];
    call.reserve(T::ELEMENT, &shape)?;
    let mut y = Vec::with_capacity(shape.iter().product());
    if shape.contains(&0) {
        return Ok(vec![T::write(array.element(), &shape, y)?.into()]);
    }
    let x = T::read(array)?;
    let mut samples = 0usize;
    let narrow = |value: f64| T::from_f64(value).to_f64();
    for (region, &image) in regions.to_f64s()?.chunks_exact(4).zip(&images) {
        let image = image_index(image, batch)?;
        let corners = [0, 1, 2, 3].map(|index| narrow(narrow(region[index] * scale) - half));
        let along = |axis: usize, size: usize| {
            // The corners are x and y; the axes are y and x.
            let (start, end) = (corners[1 - axis], corners[3 - axis]);
            // Backward compatible: no region is smaller than a pixel.
            let span = if half == 0.0 { (end - start).max(1.0) } else { end - start };
            let each = narrow(narrow(span) / bins[axis] as f64);
            let grid = if ratio > 0 { ratio as usize } else { each.ceil() as usize };
            (start, each, bins[axis], grid, size)
        };
        let (down, across) = (along(0, height), along(1, width));
        let (grid_down, grid_across) = (down.3, across.3);
        // Samples are bounded as if they were all kept.
        let (down_samples, across_samples) =
            (bins[0].saturating_mul(grid_down), bins[1].saturating_mul(grid_across));
        samples = samples.saturating_add(down_samples.saturating_mul(across_samples));
        call.reserve(Element::Plain(DType::F32), &[samples])?;
        call.reserve(Element::Plain(DType::F64), &[5, down_samples])?;
        call.reserve(Element::Plain(DType::F64), &[5, across_samples])?;
        let rows = bin_samples(down.0, down.1, down.2, down.3, down.4);
        let columns = bin_samples(across.0, across.1, across.2, across.3, across.4);
        let each = (grid_down * grid_across).max(1) as f64;
        for channel in 0..channels {
            let plane = &x[(image * channels + channel) * height * width..][..height * width];
            // The four weighted pixels around a sample.
            let weighted = |row: Option<Around>, column: Option<Around>| {
                let (Some(row), Some(column)) = (row, column) else { return [0.0; 4] };
                [(0, 0), (0, 1), (1, 0), (1, 1)].map(|(i, j)| {
                    let pixel = plane[row.pixels[i] * width + column.pixels[j]];
                    row.weights[i] * column.weights[j] * pixel.to_f64()
                })
            };
            for row in 0..bins[0] {
                let rows = &rows[row * grid_down..][..grid_down];
                for column in 0..bins[1] {
                    let columns = &columns[column * grid_across..][..grid_across];
                    let values = rows.iter().flat_map(|&row| {
                        columns.iter().flat_map(move |&column| weighted(row, column))
                    });
                    let value = if average {
                        values.sum::<f64>() / each
                    } else {
                        values.reduce(f64::max).unwrap_or(0.0)
                    };
                    y.push(T::from_f64(value));
                }
            }
        }
    }
    Ok(vec![T::write(array.element(), &shape, y)?.into()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_by_column() {
        // [[0, 1, 2], [3, 4, 5]] is 0, 3, 1, 4, 2, 5 by columns.
        let places: Vec<i64> = (6..12).map(|place| column_major(place, &[2, 3])).collect();
        assert_eq!(places, [6, 8, 10, 7, 9, 11]);
        assert_eq!(unravel(5, &[2, 3]), Some(vec![1, 2]));
        assert_eq!(unravel(6, &[2, 3]), None);
    }
}
