//! Convolutions, and the windows that they and the pools slide over an image.

use std::{borrow::Cow, ops::Range};

use ndarray::{
    ArrayView2, ArrayViewMut2, Axis, Dimension, IxDyn, LinalgScalar, Slice, indices,
    linalg::general_mat_mul,
};

use super::{Op, resample};
use crate::{
    interpreter::{Call, OpError, OpResult, sizes},
    value::{Array, Element, Scalar, Value, real_type, scalar_type},
};

/// The operator of that name.
///
/// # Source
/// <https://onnx.ai/onnx/operators/>
pub(crate) fn find(name: &str) -> Option<Op> {
    Some(match name {
        "Col2Im" => col2im,
        "Conv" => |call| real_type!(call.array(0)?.element(), T => conv::<T>(call)),
        "ConvTranspose" => {
            |call| real_type!(call.array(0)?.element(), T => conv_transpose::<T>(call))
        }
        "DeformConv" => |call| real_type!(call.array(0)?.element(), T => deform_conv::<T>(call)),
        _ => return None,
    })
}

/// A float that arithmetic is done in: f64 for itself, f32 for the others.
pub(super) trait Real: Scalar + LinalgScalar + PartialOrd + Default {
    /// What nothing is below.
    const LOWEST: Self;

    /// The elements of an array of floats, copied only where they are
    /// narrower.
    fn read(array: &Array) -> OpResult<Cow<'_, [Self]>>;
    /// An array of an element type that is computed in this.
    fn write(element: Element, shape: &[usize], values: Vec<Self>) -> OpResult<Array>;
    /// The nearest to a value.
    fn from_f64(value: f64) -> Self;
    /// As f64, without loss.
    fn to_f64(self) -> f64;
}

macro_rules! reals {
    ($($t:ident $read:ident $write:ident $borrowed:expr),* $(,)?) => {$(
        impl Real for $t {
            const LOWEST: Self = $t::NEG_INFINITY;

            fn read(array: &Array) -> OpResult<Cow<'_, [Self]>> {
                match array.elements() {
                    Ok(elements) => Ok(Cow::Borrowed(elements)),
                    Err(_) => array.$read().map(Cow::Owned),
                }
            }

            fn write(element: Element, shape: &[usize], values: Vec<Self>) -> OpResult<Array> {
                ($borrowed)(element, shape, values)
            }

            fn from_f64(value: f64) -> Self {
                value as $t
            }

            fn to_f64(self) -> f64 {
                self.into()
            }
        }
    )*};
}
reals! {
    f32 to_f32s from_f32s Array::from_f32s,
    f64 to_f64s from_f64s |element, shape: &[usize], values: Vec<f64>| {
        Array::from_f64s(element, shape, &values)
    },
}

/// The largest size, stride, dilation or pad of an axis, so that products of
/// two of them are far from i64's end.
const LARGEST: i64 = 1 << 30;

/// Elements of the scratch that columns are unrolled into.
const SCRATCH: usize = 1 << 20;

/// The windows along one axis of an image.
#[derive(Debug, Clone)]
pub(crate) struct Sweep {
    /// The image's size.
    pub size: usize,
    /// Taps of a window.
    pub kernel: usize,
    /// From one window to the next.
    pub stride: usize,
    /// From one tap of a window to the next.
    pub dilation: usize,
    /// What lies around the image, before and after.
    pub pads: (i64, i64),
    /// How many windows there are.
    pub count: usize,
}

impl Sweep {
    /// One window as large as the image.
    pub fn whole(size: usize) -> Self {
        Self { size, kernel: size, stride: 1, dilation: 1, pads: (0, 0), count: 1 }
    }

    /// Where a window's tap lies in the image, or outside of it.
    pub fn place(&self, window: usize, tap: usize) -> i64 {
        (window * self.stride + tap * self.dilation) as i64 - self.pads.0
    }

    /// The taps of a window that lie in the image.
    pub fn taps(&self, window: usize) -> Range<usize> {
        clip(self.place(window, 0), self.dilation, self.size as i64, self.kernel)
    }

    /// How many taps of a window lie in the image or in its pads.
    pub fn padded_taps(&self, window: usize) -> usize {
        let size = self.pads.0 + self.size as i64 + self.pads.1;
        clip((window * self.stride) as i64, self.dilation, size, self.kernel).len()
    }

    /// The windows of which the tap lies in the image.
    fn windows(&self, tap: usize) -> Range<usize> {
        clip(self.place(0, tap), self.stride, self.size as i64, self.count)
    }
}

/// Those of the first `count` numbers `i` for which `first + i * step` is in
/// `0..size`.
fn clip(first: i64, step: usize, size: i64, count: usize) -> Range<usize> {
    let (step, count) = (step as i64, count as i64);
    if first >= 0 && first + (count - 1) * step < size {
        return 0..count as usize;
    }
    let above = |bound: i64| (bound - first + step - 1).div_euclid(step).clamp(0, count);
    let start = above(0);
    start as usize..above(size).max(start) as usize
}

/// A list attribute of `len` sizes, each from `least` up; `default` where it is
/// left out.
pub(crate) fn per_axis(
    call: &Call<'_>,
    name: &str,
    len: usize,
    least: i64,
    default: i64,
) -> OpResult<Vec<i64>> {
    let values = match call.ints(name) {
        None | Some([]) => return Ok(vec![default; len]),
        Some(values) => values,
    };
    if values.len() != len || values.iter().any(|v| !(least..=LARGEST).contains(v)) {
        return Err(OpError::invalid(format!("{name} are {values:?} for {len}")));
    }
    Ok(values.to_vec())
}

/// The pads before and after an axis that make up a total, as `auto_pad` says:
/// the odd one is after for `SAME_UPPER` and before otherwise.
pub(crate) fn halves(total: i64, auto_pad: &str) -> (i64, i64) {
    let half = total / 2;
    if auto_pad == "SAME_UPPER" { (half, total - half) } else { (total - half, half) }
}

/// The windows of a convolution or pool with a kernel of this shape over an
/// image, by the attributes `strides`, `dilations`, `pads`, `auto_pad` and
/// `ceil_mode`.
///
/// # Source
/// <https://onnx.ai/onnx/operators/onnx__MaxPool.html>
pub(crate) fn sweeps(call: &Call<'_>, image: &[usize], kernel: &[usize]) -> OpResult<Vec<Sweep>> {
    let rank = image.len();
    let fits = |&size: &usize| size as u64 <= LARGEST as u64;
    if rank == 0 || kernel.len() != rank || kernel.contains(&0) {
        return Err(OpError::invalid(format!("a kernel of {kernel:?} over {image:?}")));
    }
    if !image.iter().chain(kernel).all(fits) {
        return Err(OpError::unsupported(format!("a kernel of {kernel:?} over {image:?}")));
    }
    let strides = per_axis(call, "strides", rank, 1, 1)?;
    let dilations = per_axis(call, "dilations", rank, 1, 1)?;
    let pads = per_axis(call, "pads", 2 * rank, -LARGEST, 0)?;
    let auto_pad = call.text_or("auto_pad", "NOTSET");
    let ceil = call.flag("ceil_mode", false);
    let mut sweeps = Vec::with_capacity(rank);
    for axis in 0..rank {
        let (size, stride) = (image[axis] as i64, strides[axis]);
        let window = (kernel[axis] as i64 - 1) * dilations[axis] + 1;
        let (pads, count) = match auto_pad {
            "SAME_UPPER" | "SAME_LOWER" => {
                let count = (size + stride - 1) / stride;
                let total = ((count - 1) * stride + window - size).max(0);
                (halves(total, auto_pad), count)
            }
            "VALID" | "NOTSET" | "" => {
                let explicit = auto_pad != "VALID";
                let pads = if explicit { (pads[axis], pads[rank + axis]) } else { (0, 0) };
                // Less than nothing where the window is larger than the image.
                let room = size + pads.0 + pads.1 - window;
                let mut count = room.div_euclid(stride) + 1;
                if ceil && explicit && room.rem_euclid(stride) > 0 {
                    // One more window hangs over the end, unless it would
                    // start in the padding there.
                    count += i64::from(count * stride < size + pads.0);
                }
                if count < 0 {
                    return Err(OpError::invalid(format!(
                        "a window of {window} over {size} padded by {pads:?}"
                    )));
                }
                (pads, count)
            }
            other => return Err(OpError::invalid(format!("auto_pad is {other:?}"))),
        };
        sweeps.push(Sweep {
            size: image[axis],
            kernel: kernel[axis],
            stride: stride as usize,
            dilation: dilations[axis] as usize,
            pads,
            count: count as usize,
        });
    }
    Ok(sweeps)
}

/// How many windows there are along each axis.
pub(super) fn counts(sweeps: &[Sweep]) -> Vec<usize> {
    sweeps.iter().map(|sweep| sweep.count).collect()
}

/// Windows that follow each other along the last axis, and where one of their
/// taps lies: a stride apart, from `pixel` of the image on.
struct Stretch {
    window: usize,
    pixel: usize,
    len: usize,
}

/// Those of a range of windows, which are counted in row-major order, of which
/// a tap lies in the image. They are counted from the range's start.
fn stretches(sweeps: &[Sweep], tap: &[usize], windows: &Range<usize>) -> Vec<Stretch> {
    let mut found = Vec::new();
    let (Some((last, outer)), Some((&last_tap, outer_taps))) =
        (sweeps.split_last(), tap.split_last())
    else {
        return found;
    };
    if windows.is_empty() {
        return found;
    }
    let inside = last.windows(last_tap);
    'lines: for line in windows.start / last.count..=(windows.end - 1) / last.count {
        let start = line * last.count;
        let from = inside.start.max(windows.start.saturating_sub(start));
        let to = inside.end.min(windows.end - start);
        if from >= to {
            continue;
        }
        let mut pixel = last.place(from, last_tap) as usize;
        let (mut rest, mut step) = (line, last.size);
        for (sweep, &tap) in outer.iter().zip(outer_taps).rev() {
            let place = sweep.place(rest % sweep.count, tap);
            if place < 0 || place >= sweep.size as i64 {
                continue 'lines;
            }
            pixel += place as usize * step;
            (rest, step) = (rest / sweep.count, step * sweep.size);
        }
        found.push(Stretch { window: start + from - windows.start, pixel, len: to - from });
    }
    found
}

/// The taps of a window, in row-major order.
fn taps(sweeps: &[Sweep]) -> impl Iterator<Item = IxDyn> {
    let kernel: Vec<usize> = sweeps.iter().map(|sweep| sweep.kernel).collect();
    indices(IxDyn(&kernel)).into_iter()
}

/// The sizes that a convolution multiplies.
struct Plan {
    sweeps: Vec<Sweep>,
    batch: usize,
    groups: usize,
    /// Channels of the image in a group.
    channels: usize,
    /// Features, which the windows have, in a group.
    features: usize,
    /// Taps of a window.
    taps: usize,
    /// Elements of the image in a channel.
    pixels: usize,
    /// How many windows there are.
    windows: usize,
}

impl Plan {
    /// `channels` and `features` are those of a group. The taps are to be no
    /// more than elements that are in memory, and so are the pixels and the
    /// windows, where there are any elements at all.
    fn new(
        sweeps: Vec<Sweep>,
        batch: usize,
        groups: usize,
        channels: usize,
        features: usize,
    ) -> OpResult<Self> {
        let product = |size: fn(&Sweep) -> usize| {
            sweeps
                .iter()
                .try_fold(1usize, |product, sweep| product.checked_mul(size(sweep)))
                .ok_or_else(|| OpError::unsupported("windows of that size"))
        };
        let (taps, pixels) = (product(|s| s.kernel)?, product(|s| s.size)?);
        let windows = product(|s| s.count)?;
        Ok(Self { sweeps, batch, groups, channels, features, taps, pixels, windows })
    }

    /// Rows of the unrolled image: a channel's taps, channel by channel.
    fn rows(&self) -> usize {
        self.channels * self.taps
    }

    /// The windows in blocks for which that many rows fit the scratch.
    fn blocks(&self, rows: usize) -> impl Iterator<Item = Range<usize>> + use<> {
        let (windows, width) = (self.windows, (SCRATCH / rows.max(1)).max(1));
        (0..windows).step_by(width).map(move |start| start..windows.min(start + width))
    }

    /// Unroll a block of windows: `[channels, pixels]` to
    /// `[channels * taps, block]`, zero outside of the image.
    fn unroll<T: Real>(&self, image: &[T], block: &Range<usize>, columns: &mut Vec<T>) {
        columns.clear();
        columns.resize(self.rows() * block.len(), T::zero());
        self.each_stretch(block, |row, channel, stretch, step| {
            let from = &image[channel * self.pixels..][..self.pixels];
            let to = &mut columns[row * block.len()..][..block.len()];
            let to = &mut to[stretch.window..][..stretch.len];
            if step == 1 {
                to.copy_from_slice(&from[stretch.pixel..][..stretch.len]);
            } else {
                let from = from[stretch.pixel..].iter().step_by(step);
                to.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
            }
        });
    }

    /// Add the columns of a block of windows up, each where it lies in the
    /// image: the transpose of [`Plan::unroll`].
    fn roll<T: Copy>(
        &self,
        columns: &[T],
        block: &Range<usize>,
        image: &mut [T],
        add: impl Fn(T, T) -> T,
    ) {
        self.each_stretch(block, |row, channel, stretch, step| {
            let from = &columns[row * block.len()..][..block.len()];
            let to = &mut image[channel * self.pixels..][..self.pixels];
            let to = to[stretch.pixel..].iter_mut().step_by(step);
            let from = &from[stretch.window..][..stretch.len];
            to.zip(from).for_each(|(to, from)| *to = add(*to, *from));
        });
    }

    /// Visit what a block of windows sees of the image: row of the columns,
    /// channel, stretch, and step in the image.
    fn each_stretch(
        &self,
        block: &Range<usize>,
        mut visit: impl FnMut(usize, usize, &Stretch, usize),
    ) {
        let step = self.sweeps.last().map_or(1, |sweep| sweep.stride);
        for (index, tap) in taps(&self.sweeps).enumerate() {
            let stretches = stretches(&self.sweeps, tap.slice(), block);
            for channel in 0..self.channels {
                for stretch in &stretches {
                    visit(channel * self.taps + index, channel, stretch, step);
                }
            }
        }
    }

    /// Whether columns are the image as it is.
    fn is_pointwise(&self) -> bool {
        self.sweeps
            .iter()
            .all(|s| s.kernel == 1 && s.stride == 1 && s.pads.0 == 0 && s.count == s.size)
    }
}

/// `to += a b`, where `to` is `[features, windows]` and only the block of its
/// columns is meant.
fn multiply_into<T: Real>(
    a: ArrayView2<'_, T>,
    b: ArrayView2<'_, T>,
    to: &mut [T],
    windows: usize,
    block: &Range<usize>,
) -> OpResult<()> {
    let mut to = ArrayViewMut2::from_shape((a.nrows(), windows), to)?;
    general_mat_mul(
        T::one(),
        &a,
        &b,
        T::one(),
        &mut to.slice_axis_mut(Axis(1), Slice::from(block.clone())),
    );
    Ok(())
}

/// Planes of a result, `[batch, channels, plane]`, each full of its channel's
/// bias.
fn biased<T: Real>(
    bias: Option<&Array>,
    batch: usize,
    channels: usize,
    plane: usize,
) -> OpResult<Vec<T>> {
    let bias = bias.map(T::read).transpose()?;
    if bias.as_ref().is_some_and(|bias| bias.len() != channels) {
        return Err(OpError::invalid(format!("a bias that is not of {channels} channels")));
    }
    let len = batch * channels * plane;
    let mut planes = Vec::with_capacity(len);
    if len > 0 {
        for _ in 0..batch {
            for channel in 0..channels {
                let value = bias.as_ref().map_or(T::zero(), |bias| bias[channel]);
                planes.resize(planes.len() + plane, value);
            }
        }
    }
    Ok(planes)
}

/// The image and the weights of a convolution: as many axes, at least one of
/// them spatial, and of one element type with all other inputs.
fn image_and_weights<'a>(call: &'a Call<'_>) -> OpResult<(&'a Array, &'a Array)> {
    let (x, w) = (call.array(0)?, call.array(1)?);
    if x.rank() < 3 || x.rank() != w.rank() {
        let (x, w) = (x.shape(), w.shape());
        return Err(OpError::invalid(format!("weights {w:?} for an image {x:?}")));
    }
    for index in 1..call.input_count() {
        if let Some(other) = call.optional(index)?
            && other.element() != x.element()
        {
            let (x, other) = (x.element(), other.element());
            return Err(OpError::invalid(format!("{x} together with {other}")));
        }
    }
    let kernel = call.ints("kernel_shape").filter(|kernel| !kernel.is_empty());
    if let Some(kernel) = kernel
        && sizes(kernel)? != w.shape()[2..]
    {
        let w = w.shape();
        return Err(OpError::invalid(format!("kernel_shape {kernel:?} for weights {w:?}")));
    }
    Ok((x, w))
}

/// The attribute `group`, which divides the channels.
fn groups(call: &Call<'_>, channels: usize) -> OpResult<usize> {
    let groups = call.int_or("group", 1);
    match usize::try_from(groups) {
        Ok(groups) if groups > 0 && channels.is_multiple_of(groups) => Ok(groups),
        _ => Err(OpError::invalid(format!("{groups} groups of {channels} channels"))),
    }
}

/// How the image and the weights `[features, channels / groups, kernel..]`
/// of a convolution go together.
fn conv_plan(call: &Call<'_>, x: &Array, w: &Array) -> OpResult<Plan> {
    let (x, w) = (x.shape(), w.shape());
    let groups = groups(call, x[1])?;
    if w[1] != x[1] / groups || !w[0].is_multiple_of(groups) {
        return Err(OpError::invalid(format!("weights {w:?} for an image {x:?}, {groups} groups")));
    }
    Plan::new(sweeps(call, &x[2..], &w[2..])?, x[0], groups, w[1], w[0] / groups)
}

/// `[batch, features, windows..]`, where the windows lie along these axes.
fn result_shape(batch: usize, features: usize, windows: &[usize]) -> Vec<usize> {
    [&[batch, features], windows].concat()
}

fn conv<T: Real>(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let (x, w) = image_and_weights(call)?;
    let plan = conv_plan(call, x, w)?;
    let shape = result_shape(plan.batch, w.shape()[0], &counts(&plan.sweeps));
    call.reserve(T::ELEMENT, &shape)?;
    let mut y = biased::<T>(call.optional(2)?, plan.batch, w.shape()[0], plan.windows)?;
    if !y.is_empty() && !w.is_empty() {
        let (x, w) = (T::read(x)?, T::read(w)?);
        // One stretch for each tap and line, for all channels.
        let lines = plan.windows / plan.sweeps.last().map_or(1, |sweep| sweep.count);
        if plan.channels == 1 && plan.taps.saturating_mul(lines) <= SCRATCH {
            depthwise(call, &plan, &x, &w, &mut y)?;
        } else {
            multiply_windows(call, &plan, &x, &w, &mut y)?;
        }
    }
    Ok(vec![T::write(call.array(0)?.element(), &shape, y)?.into()])
}

/// Add to `y` what windows of one channel give, tap by tap.
fn depthwise<T: Real>(call: &Call<'_>, plan: &Plan, x: &[T], w: &[T], y: &mut [T]) -> OpResult<()> {
    let step = plan.sweeps.last().map_or(1, |sweep| sweep.stride);
    let all = 0..plan.windows;
    let stretches: Vec<Vec<Stretch>> =
        taps(&plan.sweeps).map(|tap| stretches(&plan.sweeps, tap.slice(), &all)).collect();
    let features = plan.groups * plan.features;
    for (index, to) in y.chunks_exact_mut(plan.windows).enumerate() {
        let feature = index % features;
        let plane = index / features * plan.groups + feature / plan.features;
        let from = &x[plane * plan.pixels..][..plan.pixels];
        let weights = &w[feature * plan.taps..][..plan.taps];
        for (&weight, stretches) in weights.iter().zip(&stretches) {
            if plan.windows >= SCRATCH {
                call.on_time()?;
            }
            for stretch in stretches {
                let to = &mut to[stretch.window..][..stretch.len];
                let from = &from[stretch.pixel..];
                if step == 1 {
                    let pairs = to.iter_mut().zip(&from[..stretch.len]);
                    pairs.for_each(|(to, from)| *to = *to + weight * *from);
                } else {
                    let pairs = to.iter_mut().zip(from.iter().step_by(step));
                    pairs.for_each(|(to, from)| *to = *to + weight * *from);
                }
            }
        }
        call.on_time()?;
    }
    Ok(())
}

/// Add to `y` the product of the weights and the unrolled image, group by
/// group.
fn multiply_windows<T: Real>(
    call: &Call<'_>,
    plan: &Plan,
    x: &[T],
    w: &[T],
    y: &mut [T],
) -> OpResult<()> {
    let rows = plan.rows();
    let mut columns = Vec::new();
    let images = x.chunks_exact(plan.channels * plan.pixels);
    let results = y.chunks_exact_mut(plan.features * plan.windows);
    for (index, (image, result)) in images.zip(results).enumerate() {
        let weights = &w[index % plan.groups * plan.features * rows..][..plan.features * rows];
        let weights = ArrayView2::from_shape((plan.features, rows), weights)?;
        if plan.is_pointwise() {
            let image = ArrayView2::from_shape((rows, plan.windows), image)?;
            for block in plan.blocks(rows) {
                call.on_time()?;
                let image = image.slice_axis(Axis(1), Slice::from(block.clone()));
                multiply_into(weights, image, result, plan.windows, &block)?;
            }
            continue;
        }
        for block in plan.blocks(rows) {
            call.on_time()?;
            plan.unroll(image, &block, &mut columns);
            let columns = ArrayView2::from_shape((rows, block.len()), &columns)?;
            multiply_into(weights, columns, result, plan.windows, &block)?;
        }
    }
    Ok(())
}

/// The windows of a transposed convolution: they are over its result, and as
/// many as its input has pixels.
///
/// # Source
/// <https://onnx.ai/onnx/operators/onnx__ConvTranspose.html>
pub(crate) fn transposed_sweeps(
    call: &Call<'_>,
    counts: &[usize],
    kernel: &[usize],
) -> OpResult<Vec<Sweep>> {
    let rank = counts.len();
    let fits = |&size: &usize| size as u64 <= LARGEST as u64;
    if kernel.contains(&0) || !counts.iter().chain(kernel).all(fits) {
        return Err(OpError::invalid(format!("a kernel of {kernel:?} over {counts:?}")));
    }
    let strides = per_axis(call, "strides", rank, 1, 1)?;
    let dilations = per_axis(call, "dilations", rank, 1, 1)?;
    let pads = per_axis(call, "pads", 2 * rank, -LARGEST, 0)?;
    let beyond = per_axis(call, "output_padding", rank, 0, 0)?;
    let auto_pad = call.text_or("auto_pad", "NOTSET");
    if !["NOTSET", "", "VALID", "SAME_UPPER", "SAME_LOWER"].contains(&auto_pad) {
        return Err(OpError::invalid(format!("auto_pad is {auto_pad:?}")));
    }
    // Some models name the batch and the channels too.
    let wanted = call.ints("output_shape").filter(|wanted| !wanted.is_empty());
    let wanted = match wanted {
        Some(wanted) if wanted.len() == rank + 2 => Some(sizes(&wanted[2..])?),
        Some(wanted) if wanted.len() == rank => Some(sizes(wanted)?),
        Some(wanted) => return Err(OpError::invalid(format!("output_shape is {wanted:?}"))),
        None => None,
    };
    let mut sweeps = Vec::with_capacity(rank);
    for axis in 0..rank {
        let (stride, count) = (strides[axis], counts[axis] as i64);
        let window = (kernel[axis] as i64 - 1) * dilations[axis] + 1;
        let full = stride * (count - 1) + beyond[axis] + window;
        let same = auto_pad.starts_with("SAME");
        let (pads, size) = match &wanted {
            Some(wanted) => {
                let size = i64::try_from(wanted[axis]).unwrap_or(i64::MAX);
                (halves((full - size.min(full)).max(0), auto_pad), size)
            }
            None if same => {
                let size = count * stride;
                (halves((full - size).max(0), auto_pad), size)
            }
            None if auto_pad == "VALID" => ((0, 0), full),
            None => {
                let pads = (pads[axis], pads[rank + axis]);
                (pads, full - pads.0 - pads.1)
            }
        };
        if !(0..=LARGEST).contains(&size) {
            return Err(OpError::invalid(format!("a result of {size} along axis {axis}")));
        }
        sweeps.push(Sweep {
            size: size as usize,
            kernel: kernel[axis],
            stride: stride as usize,
            dilation: dilations[axis] as usize,
            pads,
            count: counts[axis],
        });
    }
    Ok(sweeps)
}

fn conv_transpose<T: Real>(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let (x, w) = image_and_weights(call)?;
    let groups = groups(call, x.shape()[1])?;
    if w.shape()[0] != x.shape()[1] {
        let (x, w) = (x.shape(), w.shape());
        return Err(OpError::invalid(format!("weights {w:?} for an image {x:?}")));
    }
    let sweeps = transposed_sweeps(call, &x.shape()[2..], &w.shape()[2..])?;
    let image: Vec<usize> = sweeps.iter().map(|sweep| sweep.size).collect();
    let (channels, features) = (w.shape()[1], x.shape()[1] / groups);
    let out_channels = channels
        .checked_mul(groups)
        .ok_or_else(|| OpError::invalid(format!("{groups} groups of {channels} channels")))?;
    let shape = result_shape(x.shape()[0], out_channels, &image);
    call.reserve(T::ELEMENT, &shape)?;
    let plan = Plan::new(sweeps, x.shape()[0], groups, channels, features)?;
    let mut y = biased::<T>(call.optional(2)?, plan.batch, out_channels, plan.pixels)?;
    if !y.is_empty() && !x.is_empty() && !w.is_empty() {
        let (x, w) = (T::read(x)?, T::read(w)?);
        let rows = plan.rows();
        let mut columns = Vec::new();
        let inputs = x.chunks_exact(features * plan.windows);
        let images = y.chunks_exact_mut(channels * plan.pixels);
        for (index, (input, image)) in inputs.zip(images).enumerate() {
            let weights = &w[index % groups * features * rows..][..features * rows];
            let weights = ArrayView2::from_shape((features, rows), weights)?;
            let input = ArrayView2::from_shape((features, plan.windows), input)?;
            for block in plan.blocks(rows) {
                call.on_time()?;
                columns.clear();
                columns.resize(rows * block.len(), T::zero());
                let input = input.slice_axis(Axis(1), Slice::from(block.clone()));
                multiply_into(weights.t(), input, &mut columns, block.len(), &(0..block.len()))?;
                plan.roll(&columns, &block, image, |a, b| a + b);
            }
        }
    }
    Ok(vec![T::write(call.array(0)?.element(), &shape, y)?.into()])
}

/// # Source
/// <https://onnx.ai/onnx/operators/onnx__DeformConv.html>
fn deform_conv<T: Real>(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let (x, w) = image_and_weights(call)?;
    let plan = conv_plan(call, x, w)?;
    let spatial = counts(&plan.sweeps);
    let rank = spatial.len();
    let (all_channels, all_features) = (x.shape()[1], w.shape()[0]);
    let shifts = call.int_or("offset_group", 1);
    let shifts = match usize::try_from(shifts) {
        Ok(shifts) if shifts > 0 && all_channels.is_multiple_of(shifts) => shifts,
        _ => {
            return Err(OpError::invalid(format!("{shifts} offset groups of {all_channels}")));
        }
    };
    let expect = |array: &Array, each: usize| {
        let rows = shifts.checked_mul(plan.taps).and_then(|rows| rows.checked_mul(each));
        let shape = result_shape(plan.batch, rows.unwrap_or(usize::MAX), &spatial);
        if array.shape() != shape {
            let given = array.shape();
            return Err(OpError::invalid(format!("offsets or a mask of {given:?}, not {shape:?}")));
        }
        Ok(())
    };
    let (offsets, mask) = (call.array(2)?, call.optional(4)?);
    expect(offsets, rank)?;
    if let Some(mask) = mask {
        expect(mask, 1)?;
    }
    let shape = result_shape(plan.batch, all_features, &spatial);
    call.reserve(T::ELEMENT, &shape)?;
    let mut y = biased::<T>(call.optional(3)?, plan.batch, all_features, plan.windows)?;
    if !y.is_empty() && !w.is_empty() && !x.is_empty() {
        let deformed = Deformed {
            plan: &plan,
            image: x.shape()[2..].to_vec(),
            shifts,
            offsets: &T::read(offsets)?,
            mask: mask.map(T::read).transpose()?,
        };
        let (x, w) = (T::read(x)?, T::read(w)?);
        let rows = plan.rows();
        let mut columns = Vec::new();
        let images = x.chunks_exact(all_channels * plan.pixels);
        let results = y.chunks_exact_mut(all_features * plan.windows);
        for (batch, (image, result)) in images.zip(results).enumerate() {
            for block in plan.blocks(all_channels * plan.taps) {
                call.on_time()?;
                deformed.unroll(image, batch, &block, &mut columns);
                for group in 0..plan.groups {
                    let weights = &w[group * plan.features * rows..][..plan.features * rows];
                    let weights = ArrayView2::from_shape((plan.features, rows), weights)?;
                    let columns = &columns[group * rows * block.len()..][..rows * block.len()];
                    let columns = ArrayView2::from_shape((rows, block.len()), columns)?;
                    let plane = plan.features * plan.windows;
                    let result = &mut result[group * plane..][..plane];
                    multiply_into(weights, columns, result, plan.windows, &block)?;
                }
            }
        }
    }
    Ok(vec![T::write(call.array(0)?.element(), &shape, y)?.into()])
}

/// A deformable convolution's way to see the image.
struct Deformed<'a, T: Real> {
    plan: &'a Plan,
    /// The image's spatial shape.
    image: Vec<usize>,
    /// Groups of channels that have offsets of their own.
    shifts: usize,
    /// `[batch, shifts, taps, rank, windows]`
    offsets: &'a [T],
    /// `[batch, shifts, taps, windows]`
    mask: Option<Cow<'a, [T]>>,
}

impl<T: Real> Deformed<'_, T> {
    /// As [`Plan::unroll`], of all groups, where each tap of each window is
    /// moved by its offset and what lies there is interpolated.
    fn unroll(&self, image: &[T], batch: usize, block: &Range<usize>, columns: &mut Vec<T>) {
        let plan = self.plan;
        let rank = self.image.len();
        let channels = plan.groups * plan.channels / self.shifts;
        columns.clear();
        columns.resize(plan.groups * plan.rows() * block.len(), T::zero());
        let mut along = vec![Vec::new(); rank];
        let mut corners = Vec::new();
        for shift in 0..self.shifts {
            for (index, tap) in taps(&plan.sweeps).enumerate() {
                let row = (batch * self.shifts + shift) * plan.taps + index;
                for window in block.clone() {
                    let mut rest = window;
                    for axis in (0..rank).rev() {
                        let sweep = &plan.sweeps[axis];
                        let offset = self.offsets[(row * rank + axis) * plan.windows + window];
                        let place = sweep.place(rest % sweep.count, tap.slice()[axis]);
                        rest /= sweep.count;
                        resample::linear_neighbours(
                            place as f64 + offset.to_f64(),
                            self.image[axis],
                            &mut along[axis],
                        );
                    }
                    resample::corners(&along, &self.image, &mut corners);
                    let masked = match &self.mask {
                        Some(mask) => mask[row * plan.windows + window],
                        None => T::one(),
                    };
                    for channel in shift * channels..(shift + 1) * channels {
                        let plane = &image[channel * plan.pixels..][..plan.pixels];
                        let sum = corners.iter().fold(T::zero(), |sum, &(pixel, weight)| {
                            sum + T::from_f64(weight) * plane[pixel]
                        });
                        let to = (channel * plan.taps + index) * block.len();
                        columns[to + window - block.start] = sum * masked;
                    }
                }
            }
        }
    }
}

/// # Source
/// <https://onnx.ai/onnx/operators/onnx__Col2Im.html>
fn col2im(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let x = call.array(0)?;
    let image = sizes(&call.array(1)?.to_i64s()?)?;
    let block = sizes(&call.array(2)?.to_i64s()?)?;
    let sweeps = sweeps(call, &image, &block)?;
    let &[batch, rows, windows] = x.shape() else {
        return Err(OpError::invalid(format!("columns of shape {:?}", x.shape())));
    };
    let plan = Plan::new(sweeps, batch, 1, 0, 0)?;
    if !rows.is_multiple_of(plan.taps) || windows != plan.windows {
        let (shape, windows) = (x.shape(), plan.windows);
        return Err(OpError::invalid(format!(
            "columns of shape {shape:?} for {windows} blocks of {block:?}"
        )));
    }
    let plan = Plan { channels: rows / plan.taps, ..plan };
    let shape = result_shape(batch, plan.channels, &image);
    call.reserve(x.element(), &shape)?;
    let element = x.element();
    let made = if element.is_float() {
        real_type!(element, T => T::write(element, &shape, roll_all(&plan, &T::read(x)?, 0.0, |a, b| a + b)))
    } else {
        scalar_type!(element, [ints] T => {
            Array::new(&shape, roll_all(&plan, x.elements::<T>()?, 0, T::wrapping_add))
        })
    };
    Ok(vec![made?.into()])
}

/// `[batch, channels * taps, windows]` to `[batch, channels, pixels]`.
fn roll_all<T: Copy>(plan: &Plan, columns: &[T], zero: T, add: impl Fn(T, T) -> T) -> Vec<T> {
    let each = plan.channels * plan.pixels;
    let mut images = vec![zero; plan.batch * each];
    if !columns.is_empty() && each > 0 {
        let columns = columns.chunks_exact(plan.rows() * plan.windows);
        for (image, columns) in images.chunks_exact_mut(each).zip(columns) {
            plan.roll(columns, &(0..plan.windows), image, &add);
        }
    }
    images
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sweep() -> Sweep {
        Sweep { size: 5, kernel: 3, stride: 2, dilation: 2, pads: (2, 1), count: 2 }
    }

    #[test]
    fn taps_and_windows_in_the_image() {
        // Windows are at -2, 0, 2 and at 0, 2, 4.
        assert_eq!(sweep().taps(0), 1..3);
        assert_eq!(sweep().taps(1), 0..3);
        assert_eq!(sweep().windows(0), 1..2);
        assert_eq!(sweep().windows(2), 0..2);
        assert_eq!(clip(7, 3, 5, 4), 0..0);
        assert_eq!(clip(-20, 3, 5, 4), 4..4);
    }

    #[test]
    fn stretches_count_from_their_block() {
        let sweeps = [sweep(), sweep()];
        let found = stretches(&sweeps, &[1, 1], &(1..4));
        let found: Vec<_> = found.iter().map(|s| (s.window, s.pixel, s.len)).collect();
        assert_eq!(found, [(0, 2, 1), (1, 10, 2)]);
    }
}
