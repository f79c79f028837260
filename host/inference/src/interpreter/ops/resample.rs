//! Resampling: resizing, and sampling at points of a grid.

use headland_tensor::DType;
use ndarray::{ArrayD, IxDyn};

use super::{Op, conv::Real};
use crate::{
    interpreter::{Call, OpError, OpResult, axes, sizes},
    value::{Array, Element, Value, real_type, scalar_type, structural},
};

/// The operator of that name.
///
/// # Source
/// <https://onnx.ai/onnx/operators/>
pub(crate) fn find(name: &str) -> Option<Op> {
    Some(match name {
        "AffineGrid" => affine_grid,
        "GridSample" => grid_sample,
        "Resize" | "Upsample" => resize,
        _ => return None,
    })
}

/// Pixels along an axis and what each of them weighs.
pub(crate) type Weights = Vec<(usize, f64)>;

/// Convolution with a cubic, at a distance.
///
/// # Source
/// Keys, Cubic convolution interpolation for digital image processing, 1981,
/// equation 4.
fn cubic(distance: f64, a: f64) -> f64 {
    let x = distance.abs();
    if x <= 1.0 {
        ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        ((a * x - 5.0 * a) * x + 8.0 * a) * x - 4.0 * a
    } else {
        0.0
    }
}

/// The pixels on both sides of a place along an axis, as far as they are inside.
pub(super) fn linear_neighbours(at: f64, size: usize, to: &mut Weights) {
    to.clear();
    let low = at.clamp(-2.0, size as f64 + 1.0).floor();
    for (pixel, weight) in [(low, low + 1.0 - at), (low + 1.0, at - low)] {
        if pixel >= 0.0 && pixel < size as f64 {
            to.push((pixel as usize, weight));
        }
    }
}

/// The pixels of an image of that shape with weights along each axis, and the
/// products of their weights.
pub(super) fn corners(along: &[Weights], shape: &[usize], to: &mut Weights) {
    to.clear();
    to.push((0, 1.0));
    for (weights, &size) in along.iter().zip(shape) {
        let before = to.len();
        for index in 0..before {
            let (pixel, weight) = to[index];
            to.extend(weights.iter().map(|&(at, by)| (pixel * size + at, weight * by)));
        }
        to.drain(..before);
    }
}

/// An axis of a resize.
#[derive(Debug, Clone, Copy)]
struct Axis {
    size: usize,
    resized: usize,
    scale: f32,
    /// The size before it is rounded to `resized`.
    exact: f32,
    /// Start and end of the region that is resized, from 0 to 1.
    region: (f32, f32),
}

impl Axis {
    fn scaled(size: usize, scale: f32) -> OpResult<Self> {
        if !(scale.is_finite() && scale > 0.0) {
            return Err(OpError::invalid(format!("a scale of {scale}")));
        }
        let exact = size as f32 * scale;
        // A factor of one keeps sizes that f32 has not.
        let resized = if scale == 1.0 { size } else { exact as usize };
        Ok(Self { size, resized, scale, exact, region: (0.0, 1.0) })
    }

    fn sized(size: usize, resized: usize) -> OpResult<Self> {
        if size == 0 && resized > 0 {
            return Err(OpError::invalid(format!("a size of {resized} for one of 0")));
        }
        let scale = if size == resized { 1.0 } else { resized as f32 / size as f32 };
        Ok(Self { size, resized, scale, exact: resized as f32, region: (0.0, 1.0) })
    }

    /// Where a pixel of the result lies in the image, by ONNX's name of the
    /// transformation; `None` where it is outside of the region's image.
    fn place(&self, pixel: usize, transformation: &str) -> OpResult<Option<f32>> {
        let (x, last) = (pixel as f32, self.size as f32 - 1.0);
        let half_pixel = (x + 0.5) / self.scale - 0.5;
        Ok(Some(match transformation {
            "half_pixel" => half_pixel,
            "pytorch_half_pixel" if self.resized > 1 => half_pixel,
            "pytorch_half_pixel" => 0.0,
            "half_pixel_symmetric" => {
                let adjustment = self.resized as f32 / self.exact;
                self.size as f32 / 2.0 * (1.0 - adjustment) + half_pixel
            }
            "align_corners" if self.exact == 1.0 => 0.0,
            "align_corners" => x * last / (self.exact - 1.0),
            "asymmetric" => x / self.scale,
            "tf_half_pixel_for_nn" => (x + 0.5) / self.scale,
            "tf_crop_and_resize" => {
                let (start, end) = self.region;
                let at = if self.resized > 1 {
                    start * last + x * (end - start) * last / (self.exact - 1.0)
                } else {
                    0.5 * (start + end) * last
                };
                return Ok((0.0..=last).contains(&at).then_some(at));
            }
            other => {
                return Err(OpError::unsupported(format!(
                    "coordinate_transformation_mode {other:?}"
                )));
            }
        }))
    }
}

/// How the value at a place comes from pixels around it.
#[derive(Debug, Clone, Copy)]
enum Filter {
    /// The nearest pixel, by this rounding.
    Nearest(fn(f32) -> f32),
    /// The nearest pixel, as before opset 11: rounded away from the image's
    /// start where the axis shrinks, and else towards it.
    Simple,
    Linear,
    /// Cubic, with its coefficient.
    Cubic(f64),
}

/// What a resize does with each axis.
struct Resampling<'a> {
    filter: Filter,
    transformation: &'a str,
    antialias: bool,
    exclude_outside: bool,
}

impl Resampling<'_> {
    /// The weights of the image's pixels for each pixel of the result; none
    /// for those outside of the image.
    fn rows(&self, call: &Call<'_>, axis: &Axis) -> OpResult<Vec<Weights>> {
        // A filter for smaller results is as much wider.
        let shrink = if self.antialias { f64::from(axis.scale.min(1.0)) } else { 1.0 };
        let reach = match self.filter {
            Filter::Nearest(_) | Filter::Simple => 0.0,
            Filter::Linear => 1.0 / shrink,
            Filter::Cubic(_) => 2.0 / shrink,
        };
        let each = size_of::<Weights>() + (2.0 * reach + 2.0) as usize * size_of::<(usize, f64)>();
        call.reserve(Element::Plain(DType::U8), &[each, axis.resized])?;
        let last = axis.size as f64 - 1.0;
        let mut rows = Vec::with_capacity(axis.resized);
        for pixel in 0..axis.resized {
            let Some(at) = axis.place(pixel, self.transformation)? else {
                rows.push(Vec::new());
                continue;
            };
            let nearest = match self.filter {
                Filter::Nearest(round) => Some(round(at)),
                Filter::Simple => Some(if axis.scale < 1.0 { at.ceil() } else { at.floor() }),
                _ => None,
            };
            if let Some(nearest) = nearest {
                rows.push(vec![(f64::from(nearest).clamp(0.0, last) as usize, 1.0)]);
                continue;
            }
            let at = f64::from(at);
            let weigh = |distance: f64| match self.filter {
                Filter::Cubic(a) => cubic(distance * shrink, a),
                _ => (1.0 - (distance * shrink).abs()).max(0.0),
            };
            let mut row: Weights = Vec::new();
            let (mut neighbour, end) = ((at - reach).ceil(), (at + reach).floor());
            while neighbour <= end {
                let weight = weigh(neighbour - at);
                let inside = neighbour.clamp(0.0, last);
                if weight != 0.0 && (inside == neighbour || !self.exclude_outside) {
                    match row.last_mut() {
                        Some(before) if before.0 == inside as usize => before.1 += weight,
                        _ => row.push((inside as usize, weight)),
                    }
                }
                neighbour += 1.0;
            }
            let sum: f64 = row.iter().map(|(_, weight)| weight).sum();
            if row.is_empty() || sum == 0.0 {
                row = vec![(at.clamp(0.0, last).round() as usize, 1.0)];
            } else {
                row.iter_mut().for_each(|(_, weight)| *weight /= sum);
            }
            rows.push(row);
        }
        Ok(rows)
    }
}

/// A resize's axes, from its inputs.
fn resize_axes(call: &Call<'_>, shape: &[usize]) -> OpResult<Vec<Axis>> {
    let rank = shape.len();
    let old = call.op() == "Upsample" || call.opset() < 11;
    let chosen = match call.ints("axes") {
        Some(chosen) => axes(chosen, rank)?,
        None => (0..rank).collect(),
    };
    let given = |index: usize| {
        let array = call.optional(index)?.filter(|array| !array.is_empty());
        Ok::<_, OpError>(array)
    };
    let expect = |what: &str, len: usize, wanted: usize| {
        if len == wanted {
            return Ok(());
        }
        Err(OpError::invalid(format!("{len} {what} for {wanted} axes")))
    };
    let scales = match call.floats("scales") {
        Some(scales) if call.op() == "Upsample" => Some(scales.to_vec()),
        _ => given(if old { 1 } else { 2 })?.map(Array::to_f32s).transpose()?,
    };
    let resized = if old { None } else { given(3)? };
    let mut plan: Vec<Axis> =
        shape.iter().map(|&size| Axis::sized(size, size)).collect::<OpResult<_>>()?;
    if let Some(resized) = resized {
        let resized = sizes(&resized.to_i64s()?)?;
        expect("sizes", resized.len(), chosen.len())?;
        let wanted = chosen.iter().zip(&resized);
        let wanted = wanted.map(|(&axis, &resized)| Axis::sized(shape[axis], resized));
        let wanted = wanted.collect::<OpResult<Vec<_>>>()?;
        let scales = wanted.iter().map(|axis| axis.scale);
        let common = match call.text_or("keep_aspect_ratio_policy", "stretch") {
            "stretch" => None,
            "not_larger" => scales.reduce(f32::min),
            "not_smaller" => scales.reduce(f32::max),
            other => {
                return Err(OpError::invalid(format!("keep_aspect_ratio_policy is {other:?}")));
            }
        };
        for (&index, mut axis) in chosen.iter().zip(wanted) {
            if let Some(scale) = common {
                let exact = scale * axis.size as f32;
                axis = Axis { scale, exact, resized: (exact + 0.5).floor() as usize, ..axis };
            }
            plan[index] = axis;
        }
    } else if let Some(scales) = scales {
        expect("scales", scales.len(), chosen.len())?;
        for (&axis, &scale) in chosen.iter().zip(&scales) {
            plan[axis] = Axis::scaled(shape[axis], scale)?;
        }
    } else if rank > 0 {
        return Err(OpError::invalid("neither scales nor sizes"));
    }
    if call.text("coordinate_transformation_mode") == Some("tf_crop_and_resize") {
        let region = call.array(1)?.to_f32s()?;
        expect("ends of a region", region.len(), 2 * chosen.len())?;
        for (index, &axis) in chosen.iter().enumerate() {
            plan[axis].region = (region[index], region[chosen.len() + index]);
        }
    }
    Ok(plan)
}

/// What a resize does along each axis: which pixels, by which weights, make each
/// pixel of the result. An axis that stays as it is has no table.
pub(crate) struct ResizePlan {
    /// The result's shape.
    pub shape: Vec<usize>,
    /// The weights for each pixel of an axis of the result; none for pixels
    /// outside of the image.
    pub tables: Vec<Option<Vec<Weights>>>,
    antialias: bool,
}

impl ResizePlan {
    /// Whether every pixel of the result is one of the image.
    pub fn is_nearest(&self) -> bool {
        let nearest = |row: &Weights| matches!(row.as_slice(), [(_, weight)] if *weight == 1.0);
        self.tables.iter().flatten().flatten().all(nearest)
    }
}

/// The plan of a resize of an image of this shape; without tables where image or
/// result has no pixels.
///
/// # Source
/// <https://onnx.ai/onnx/operators/onnx__Resize.html>; before opset 11 as ONNX
/// Runtime has it, since the specification did not say.
pub(crate) fn resize_plan(
    call: &Call<'_>,
    image: &[usize],
    element: Element,
) -> OpResult<ResizePlan> {
    let plan = resize_axes(call, image)?;
    let old = call.op() == "Upsample" || call.opset() < 11;
    let filter = match call.text_or("mode", "nearest") {
        "nearest" if old => Filter::Simple,
        "nearest" => Filter::Nearest(match call.text_or("nearest_mode", "round_prefer_floor") {
            "round_prefer_floor" => |at| (at - 0.5).ceil(),
            "round_prefer_ceil" => |at| (at + 0.5).floor(),
            "floor" => f32::floor,
            "ceil" => f32::ceil,
            other => return Err(OpError::invalid(format!("nearest_mode is {other:?}"))),
        }),
        "linear" | "bilinear" => Filter::Linear,
        "cubic" => Filter::Cubic(call.float_or("cubic_coeff_a", -0.75).into()),
        other => return Err(OpError::unsupported(format!("mode {other:?}"))),
    };
    let resampling = Resampling {
        filter,
        transformation: if old {
            "asymmetric"
        } else {
            call.text_or("coordinate_transformation_mode", "half_pixel")
        },
        antialias: call.flag("antialias", false),
        exclude_outside: call.flag("exclude_outside", false),
    };
    let shape: Vec<usize> = plan.iter().map(|axis| axis.resized).collect();
    call.reserve(element, &shape)?;
    let mut tables = Vec::with_capacity(plan.len());
    if !shape.contains(&0) && !image.contains(&0) {
        for axis in &plan {
            let unchanged = axis.scale == 1.0
                && axis.size == axis.resized
                && resampling.transformation != "tf_crop_and_resize";
            tables.push(if unchanged { None } else { Some(resampling.rows(call, axis)?) });
        }
    }
    Ok(ResizePlan { shape, tables, antialias: resampling.antialias })
}

fn resize(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let x = call.array(0)?;
    let plan = resize_plan(call, x.shape(), x.element())?;
    let nearest = plan.is_nearest();
    let ResizePlan { shape, tables, antialias } = plan;
    if shape.contains(&0) || x.is_empty() {
        if !shape.contains(&0) {
            return Err(OpError::invalid(format!("an image of shape {:?}", x.shape())));
        }
        let made = structural!(&[x], |views| {
            let none = views[0].iter().take(0).cloned().collect();
            ArrayD::from_shape_vec(IxDyn(&shape), none).map_err(OpError::from)
        })?;
        return Ok(vec![made.into()]);
    }
    let element = x.element();
    let made = if nearest {
        structural!(&[x], |views| {
            let elements = views[0].iter().cloned().collect();
            let made =
                along_axes(call, x.shape(), &tables, elements, |to, from, row| match (to, row) {
                    ([to], [(at, _)]) => *to = from[*at].clone(),
                    (to, [(at, _)]) => to.clone_from_slice(&from[*at * to.len()..][..to.len()]),
                    _ => {}
                })?;
            ArrayD::from_shape_vec(IxDyn(&shape), made).map_err(OpError::from)
        })?
    } else if element.is_float() {
        real_type!(element, T => {
            T::write(element, &shape, interpolate(call, x, &tables, T::read(x)?.into_owned())?)
        })?
    } else {
        call.reserve(Element::Plain(DType::F64), x.shape())?;
        let mut made = interpolate::<f64>(call, x, &tables, x.to_f64s()?)?;
        if antialias {
            made.iter_mut().for_each(|value| *value = value.round());
        }
        whole(element, &shape, &made)?
    };
    Ok(vec![made.into()])
}

/// Weighted sums along each axis, and the extrapolation value where there are
/// no weights.
fn interpolate<T: Real>(
    call: &Call<'_>,
    x: &Array,
    tables: &[Option<Vec<Weights>>],
    elements: Vec<T>,
) -> OpResult<Vec<T>> {
    let mut made = along_axes(call, x.shape(), tables, elements, |to, from, row| {
        if let [to] = to {
            *to = row
                .iter()
                .fold(T::zero(), |sum, &(at, weight)| sum + T::from_f64(weight) * from[at]);
            return;
        }
        to.fill(T::zero());
        for &(at, weight) in row {
            let weight = T::from_f64(weight);
            let from = &from[at * to.len()..][..to.len()];
            to.iter_mut().zip(from).for_each(|(to, from)| *to = *to + weight * *from);
        }
    })?;
    let outside = T::from_f64(call.float_or("extrapolation_value", 0.0).into());
    let mut inner = 1;
    for (&size, rows) in x.shape().iter().zip(tables).rev() {
        let Some(rows) = rows else {
            inner *= size;
            continue;
        };
        if rows.iter().any(Vec::is_empty) {
            for (line, row) in made.chunks_exact_mut(inner).zip(rows.iter().cycle()) {
                if row.is_empty() {
                    line.fill(outside);
                }
            }
        }
        inner *= rows.len();
    }
    Ok(made)
}

/// Values without their fractions, where one is more than what rounding of the
/// weights may leave.
fn whole(element: Element, shape: &[usize], values: &[f64]) -> OpResult<Array> {
    let near = |value: f64| {
        let nearest = value.round();
        if (value - nearest).abs() < 1e-4 { nearest } else { value }
    };
    scalar_type!(element, [ints] T => {
        Array::new(shape, values.iter().map(|&value| near(value) as T).collect::<Vec<T>>())
    })
}

/// Replace each axis that has a table by as many lines as the table has rows:
/// `make` makes a line, with the lines of the axis and its row. Axes that
/// shrink come first.
fn along_axes<T: Clone + Default>(
    call: &Call<'_>,
    shape: &[usize],
    tables: &[Option<Vec<Weights>>],
    mut elements: Vec<T>,
    make: impl Fn(&mut [T], &[T], &[(usize, f64)]),
) -> OpResult<Vec<T>> {
    let mut shape = shape.to_vec();
    let mut order: Vec<(usize, &Vec<Weights>)> =
        tables.iter().enumerate().filter_map(|(a, rows)| Some((a, rows.as_ref()?))).collect();
    order.sort_by_key(|(axis, rows)| rows.len() > shape[*axis]);
    for (axis, rows) in order {
        let size = shape[axis];
        let inner: usize = shape[axis + 1..].iter().product();
        shape[axis] = rows.len();
        call.reserve(Element::Plain(DType::U8), &[&[size_of::<T>()], shape.as_slice()].concat())?;
        let mut made = vec![T::default(); shape.iter().product()];
        for (line, lines) in made.chunks_exact_mut(rows.len() * inner).enumerate() {
            let from = &elements[line * size * inner..][..size * inner];
            for (to, row) in lines.chunks_exact_mut(inner).zip(rows) {
                make(to, from, row);
            }
        }
        elements = made;
    }
    Ok(elements)
}

/// What lies around an image.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Padding {
    Zeros,
    Border,
    Reflection,
}

/// Mirror a place into the borders, as often as it takes.
fn reflect(at: f64, low: f64, high: f64) -> f64 {
    let range = high - low;
    if range <= 0.0 {
        return low;
    }
    let (beyond, forward) = if at < low {
        (low - at, true)
    } else if at > high {
        (at - high, false)
    } else {
        return at;
    };
    let rest = beyond % range;
    let even = (beyond / range).trunc() % 2.0 == 0.0;
    if even == forward { low + rest } else { high - rest }
}

/// How points of a grid see an axis of an image.
struct Sampling {
    filter: Filter,
    padding: Padding,
    align_corners: bool,
    /// Whether coordinates are rounded to f32 at each step.
    single: bool,
}

impl Sampling {
    /// The pixels at a coordinate from -1 to 1, with their weights.
    fn neighbours(&self, coordinate: f64, size: usize, to: &mut Weights) {
        let narrow = |v: f64| if self.single { f64::from(v as f32) } else { v };
        let (length, last) = (size as f64, size as f64 - 1.0);
        let shifted = narrow(coordinate + 1.0);
        let (mut at, low, high) = if self.align_corners {
            (narrow(shifted / 2.0 * last), 0.0, last)
        } else {
            (narrow(narrow(shifted * length) - 1.0) / 2.0, -0.5, length - 0.5)
        };
        if matches!(self.filter, Filter::Nearest(_)) {
            at = at.round_ties_even();
        }
        // Far from where the sum with an offset would be lost.
        let at = at.clamp(-1e9, 1e9);
        let first = at.floor();
        let rest = at - first;
        to.clear();
        let mut push = |offset: f64, weight: f64| {
            let pixel = first + offset;
            let pixel = match self.padding {
                Padding::Zeros if pixel < 0.0 || pixel > last => return,
                Padding::Zeros | Padding::Border => pixel,
                Padding::Reflection => reflect(pixel, low, high),
            };
            to.push((pixel.clamp(0.0, last) as usize, weight));
        };
        match self.filter {
            Filter::Linear => {
                push(0.0, 1.0 - rest);
                push(1.0, rest);
            }
            Filter::Cubic(a) => {
                for offset in [-1.0, 0.0, 1.0, 2.0] {
                    push(offset, cubic(offset - rest, a));
                }
            }
            Filter::Nearest(_) | Filter::Simple => push(0.0, 1.0),
        }
    }
}

/// # Source
/// <https://onnx.ai/onnx/operators/onnx__GridSample.html>
fn grid_sample(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let (x, grid) = (call.array(0)?, call.array(1)?);
    let rank = x.rank().saturating_sub(2);
    // Cubic sampling sees 4^rank pixels for each point.
    let fits = (1..=6).contains(&rank)
        && grid.rank() == rank + 2
        && grid.shape()[0] == x.shape()[0]
        && grid.shape()[rank + 1] == rank;
    if !fits {
        let (x, grid) = (x.shape(), grid.shape());
        return Err(OpError::invalid(format!("a grid {grid:?} over an image {x:?}")));
    }
    let sampling = Sampling {
        filter: match call.text_or("mode", "linear") {
            "linear" | "bilinear" => Filter::Linear,
            "cubic" | "bicubic" => Filter::Cubic(-0.75),
            "nearest" => Filter::Nearest(f32::round_ties_even),
            other => return Err(OpError::invalid(format!("mode is {other:?}"))),
        },
        padding: match call.text_or("padding_mode", "zeros") {
            "zeros" => Padding::Zeros,
            "border" => Padding::Border,
            "reflection" => Padding::Reflection,
            other => return Err(OpError::invalid(format!("padding_mode is {other:?}"))),
        },
        align_corners: call.flag("align_corners", false),
        single: grid.element() != DType::F64.into(),
    };
    let shape = [&x.shape()[..2], &grid.shape()[1..=rank]].concat();
    call.reserve(x.element(), &shape)?;
    if !shape.contains(&0) && x.is_empty() {
        return Err(OpError::invalid(format!("an image of shape {:?}", x.shape())));
    }
    call.reserve(Element::Plain(DType::F64), grid.shape())?;
    let grid = grid.to_f64s()?;
    let element = x.element();
    let made = if let Filter::Nearest(_) = sampling.filter {
        structural!(&[x], |views| {
            let image = views[0].as_slice().unwrap_or(&[]);
            let made = sample(&sampling, x.shape(), &grid, &shape, image, |plane, corners| {
                corners.first().map_or_else(Default::default, |&(at, _)| plane[at].clone())
            });
            ArrayD::from_shape_vec(IxDyn(&shape), made).map_err(OpError::from)
        })?
    } else if element.is_float() {
        real_type!(element, T => {
            let made = sample(&sampling, x.shape(), &grid, &shape, &T::read(x)?, weigh::<T>);
            T::write(element, &shape, made)
        })?
    } else {
        call.reserve(Element::Plain(DType::F64), x.shape())?;
        let made = sample(&sampling, x.shape(), &grid, &shape, &x.to_f64s()?, weigh::<f64>);
        whole(element, &shape, &made)?
    };
    Ok(vec![made.into()])
}

fn weigh<T: Real>(plane: &[T], corners: &[(usize, f64)]) -> T {
    corners.iter().fold(T::zero(), |sum, &(at, weight)| sum + T::from_f64(weight) * plane[at])
}

/// Sample an image `[batch, channels, size..]` at the points of a grid
/// `[batch, points, rank]`: `value` makes a value of a plane's pixels and their
/// weights.
fn sample<T: Clone + Default>(
    sampling: &Sampling,
    image: &[usize],
    grid: &[f64],
    shape: &[usize],
    elements: &[T],
    value: impl Fn(&[T], &[(usize, f64)]) -> T,
) -> Vec<T> {
    if shape.contains(&0) {
        return Vec::new();
    }
    let (channels, sizes) = (image[1], &image[2..]);
    let pixels: usize = sizes.iter().product();
    let points: usize = shape[2..].iter().product();
    let mut made = vec![T::default(); shape.iter().product()];
    let mut along = vec![Vec::new(); sizes.len()];
    let mut corner_weights = Vec::new();
    for (index, coordinates) in grid.chunks_exact(sizes.len()).enumerate() {
        let (batch, point) = (index / points, index % points);
        // A point's coordinates are innermost axis first.
        for ((&coordinate, &size), to) in coordinates.iter().rev().zip(sizes).zip(along.iter_mut())
        {
            sampling.neighbours(coordinate, size, to);
        }
        corners(&along, sizes, &mut corner_weights);
        for plane in batch * channels..(batch + 1) * channels {
            let pixels = &elements[plane * pixels..][..pixels];
            made[plane * points + point] = value(pixels, &corner_weights);
        }
    }
    made
}

/// # Source
/// <https://onnx.ai/onnx/operators/onnx__AffineGrid.html>
fn affine_grid(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let theta = call.array(0)?;
    let size = sizes(&call.array(1)?.to_i64s()?)?;
    let rank = size.len().saturating_sub(2);
    if rank == 0 || theta.shape() != [size[0], rank, rank + 1] {
        let theta = theta.shape();
        return Err(OpError::invalid(format!("matrices {theta:?} for an image {size:?}")));
    }
    let align_corners = call.flag("align_corners", false);
    let image = &size[2..];
    let shape = [&size[..1], image, &[rank]].concat();
    call.reserve(theta.element(), &shape)?;
    call.reserve(Element::Plain(DType::F64), &shape)?;
    let mut points = Vec::with_capacity(shape.iter().product());
    let coordinate = |at: usize, size: usize| {
        let (at, size) = (at as f64, size as f64);
        match align_corners {
            true if size > 1.0 => 2.0 * at / (size - 1.0) - 1.0,
            true => -1.0,
            false => (2.0 * at + 1.0) / size - 1.0,
        }
    };
    if !shape.contains(&0) {
        let pixels: usize = image.iter().product();
        let mut position = vec![1.0; rank + 1];
        for matrix in theta.to_f64s()?.chunks_exact(rank * (rank + 1)) {
            for pixel in 0..pixels {
                let mut rest = pixel;
                // A position is innermost axis first.
                for (to, &size) in position.iter_mut().zip(image.iter().rev()) {
                    *to = coordinate(rest % size, size);
                    rest /= size;
                }
                points.extend(
                    matrix
                        .chunks_exact(rank + 1)
                        .map(|row| row.iter().zip(&position).map(|(a, b)| a * b).sum::<f64>()),
                );
            }
        }
    }
    Ok(vec![Array::from_f64s(theta.element(), &shape, &points)?.into()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_mirrored_into_the_borders() {
        assert_eq!(reflect(-3.5, -1.0, 1.0), 0.5);
        assert_eq!(reflect(-1.0, -0.5, 3.5), 0.0);
        assert_eq!(reflect(4.0, -0.5, 3.5), 3.0);
        assert_eq!(reflect(9.0, 0.0, 3.0), 3.0);
        assert_eq!(reflect(7.0, 2.0, 2.0), 2.0);
    }

    #[test]
    fn corners_are_products() {
        let along = [vec![(0, 0.25), (1, 0.75)], vec![(2, 1.0)]];
        let mut found = Vec::new();
        corners(&along, &[2, 3], &mut found);
        assert_eq!(found, [(2, 0.25), (5, 0.75)]);
    }
}
