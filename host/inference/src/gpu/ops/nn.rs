//! Convolutions, pools, and resampling.

use burn_backend::ops::{ConvOptions, ConvTransposeOptions, FloatTensorOps, ModuleOps};
use burn_dispatch::{Dispatch as D, DispatchTensor as T};

use super::{
    DeviceCall, Op, alike, linear::product, one, permute, reduce::along, shape::part, shape::pick,
    shape::surround,
};
use crate::{
    gpu::device::{DeviceTensor, Storage},
    interpreter::{
        OpError, OpResult,
        ops::{
            conv::{Sweep, sweeps, transposed_sweeps},
            resample::resize_plan,
        },
    },
    value::{Array, Value},
};

pub(super) fn find(name: &str) -> Option<Op> {
    Some(match name {
        "Conv" => conv,
        "ConvTranspose" => conv_transpose,
        "MaxPool" => max_pool,
        "AveragePool" => average_pool,
        "GlobalAveragePool" | "GlobalMaxPool" => global_pool,
        "Resize" | "Upsample" => resize,
        _ => return None,
    })
}

/// The windows of a kernel over the spatial dimensions of an image [N, C, ..].
pub(super) fn windows(
    call: &DeviceCall<'_>,
    image: &[usize],
    kernel: &[usize],
) -> OpResult<Vec<Sweep>> {
    let space = image.get(2..).filter(|space| !space.is_empty());
    let space = space.ok_or_else(|| OpError::invalid(format!("an image of shape {image:?}")))?;
    let windows = sweeps(call, space, kernel)?;
    if windows.iter().any(|w| w.count == 0) {
        return Err(OpError::unsupported("a result without elements"));
    }
    if windows.iter().any(|w| w.pads.0 < 0 || w.pads.1 < 0) {
        return Err(OpError::unsupported("negative pads"));
    }
    Ok(windows)
}

fn fixed<const N: usize, U: Copy>(windows: &[Sweep], f: impl Fn(&Sweep) -> U) -> [U; N] {
    std::array::from_fn(|axis| f(&windows[axis]))
}

/// The convolution of an image [N, C, ..] with weights [M, C / groups, ..].
pub(super) fn convolve(
    x: T,
    w: T,
    bias: Option<T>,
    windows: &[Sweep],
    groups: usize,
) -> OpResult<T> {
    fn options<const N: usize>(windows: &[Sweep], groups: usize) -> ConvOptions<N> {
        ConvOptions::new_with_padding(
            fixed(windows, |w| w.stride),
            fixed(windows, |w| (w.pads.0 as usize, w.pads.1 as usize)),
            fixed(windows, |w| w.dilation),
            groups,
        )
    }
    Ok(match windows.len() {
        1 => D::conv1d(x, w, bias, options(windows, groups)),
        2 => D::conv2d(x, w, bias, options(windows, groups)),
        3 => D::conv3d(x, w, bias, options(windows, groups)),
        rank => return Err(OpError::unsupported(format!("{rank} spatial dimensions"))),
    })
}

/// The groups of a convolution, which divide both kinds of channels.
pub(super) fn groups(call: &DeviceCall<'_>, channels: usize, features: usize) -> OpResult<usize> {
    match usize::try_from(call.int_or("group", 1)) {
        Ok(groups)
            if groups > 0 && channels.is_multiple_of(groups) && features.is_multiple_of(groups) =>
        {
            Ok(groups)
        }
        _ => Err(OpError::invalid(format!(
            "{} groups of {channels} and {features} channels",
            call.int_or("group", 1)
        ))),
    }
}

fn conv(call: &DeviceCall<'_>) -> OpResult<Vec<Value>> {
    let (x, w) = (call.float(0)?, call.float(1)?);
    let misfit = || OpError::invalid(format!("weights {:?} for {:?}", w.shape(), x.shape()));
    if x.rank() < 3 || x.rank() != w.rank() || x.element() != w.element() {
        return Err(misfit());
    }
    let (batch, channels, features) = (x.shape()[0], x.shape()[1], w.shape()[0]);
    let groups = groups(call, channels, features)?;
    if w.shape()[1] * groups != channels {
        return Err(misfit());
    }
    let windows = windows(call, x.shape(), &w.shape()[2..])?;
    let bias = call.optional_float(2)?;
    if bias.as_ref().is_some_and(|b| b.shape() != [features] || b.element() != x.element()) {
        return Err(OpError::unsupported(format!("a bias for {features} features")));
    }
    let mut shape = vec![batch, features];
    shape.extend(windows.iter().map(|w| w.count));
    call.reserve(x.element(), &shape)?;
    let made =
        convolve(x.tensor.clone(), w.tensor.clone(), bias.map(|b| b.tensor), &windows, groups)?;
    one(made, &shape, x.element())
}

fn conv_transpose(call: &DeviceCall<'_>) -> OpResult<Vec<Value>> {
    let (x, w) = (call.float(0)?, call.float(1)?);
    alike(&[&x, &w])?;
    if x.rank() < 3 || x.rank() != w.rank() || w.shape()[0] != x.shape()[1] {
        return Err(OpError::invalid(format!("weights {:?} for {:?}", w.shape(), x.shape())));
    }
    let groups = groups(call, x.shape()[1], x.shape()[1])?;
    let (batch, features) = (x.shape()[0], w.shape()[1].saturating_mul(groups));
    let windows = transposed_sweeps(call, &x.shape()[2..], &w.shape()[2..])?;
    let mut shape = vec![batch, features];
    shape.extend(windows.iter().map(|w| w.size));
    call.reserve(x.element(), &shape)?;
    if shape.contains(&0) || windows.iter().any(|w| w.pads.0 < 0) {
        return Err(OpError::unsupported("negative pads"));
    }
    // What the windows cover, and what is cut off it or comes after it.
    let whole = |w: &Sweep| (w.count - 1) * w.stride + (w.kernel - 1) * w.dilation + 1;
    let mut made_shape = vec![batch, features];
    made_shape.extend(windows.iter().map(|w| whole(w).max(w.pads.0 as usize + w.size)));
    call.reserve(x.element(), &made_shape)?;
    let after = |w: &Sweep| (w.pads.0 as usize + w.size).saturating_sub(whole(w));
    fn options<const N: usize>(
        windows: &[Sweep],
        groups: usize,
        after: impl Fn(&Sweep) -> usize,
    ) -> ConvTransposeOptions<N> {
        let stride = fixed(windows, |w| w.stride);
        let dilation = fixed(windows, |w| w.dilation);
        ConvTransposeOptions::new(stride, [0; N], fixed(windows, after), dilation, groups)
    }
    let (t, weights) = (x.tensor.clone(), w.tensor.clone());
    let bias = call.optional_float(2)?;
    if bias.as_ref().is_some_and(|b| b.shape() != [features] || b.element() != x.element()) {
        return Err(OpError::unsupported(format!("a bias for {features} features")));
    }
    let bias = bias.map(|b| b.tensor);
    let made = match windows.len() {
        1 => D::conv_transpose1d(t, weights, bias, options(&windows, groups, after)),
        2 => D::conv_transpose2d(t, weights, bias, options(&windows, groups, after)),
        3 => D::conv_transpose3d(t, weights, bias, options(&windows, groups, after)),
        rank => return Err(OpError::unsupported(format!("{rank} spatial dimensions"))),
    };
    let made = DeviceTensor::new(made, x.element());
    let mut parts = vec![(0, batch, 1), (0, features, 1)];
    parts.extend(windows.iter().map(|w| (w.pads.0 as usize, w.size, 1)));
    Ok(vec![Value::Device(part(&made, &parts)?)])
}

/// A pool's windows, and its image with all that the windows reach around it.
fn pooled(call: &DeviceCall<'_>, x: &DeviceTensor, fill: f32) -> OpResult<(Vec<Sweep>, T)> {
    let kernel = crate::interpreter::sizes(call.ints("kernel_shape").unwrap_or(&[]))?;
    let windows = windows(call, x.shape(), &kernel)?;
    if windows.len() > 2 {
        return Err(OpError::unsupported(format!("{} spatial dimensions", windows.len())));
    }
    let mut around = vec![(0, 0); x.rank()];
    let mut used: Vec<(usize, usize, isize)> = x.shape().iter().map(|&s| (0, s, 1)).collect();
    for (axis, w) in windows.iter().enumerate() {
        let before = w.pads.0 as usize;
        let reach = (w.count - 1) * w.stride + (w.kernel - 1) * w.dilation + 1;
        around[axis + 2] = (before, reach.saturating_sub(before + w.size));
        used[axis + 2].1 = reach;
    }
    let around_all = around.iter().zip(x.shape());
    let whole: Vec<usize> = around_all.map(|(a, s)| s.saturating_add(a.0 + a.1)).collect();
    call.reserve(x.element(), &whole)?;
    let mut shape = x.shape()[..2].to_vec();
    shape.extend(windows.iter().map(|w| w.count));
    call.reserve(x.element(), &shape)?;
    let whole = surround(x, &around, fill)?;
    let exact = whole.shape().iter().zip(&used).all(|(size, used)| *size == used.1);
    Ok((windows, if exact { whole.tensor } else { part(&whole, &used)?.tensor }))
}

fn max_pool(call: &DeviceCall<'_>) -> OpResult<Vec<Value>> {
    let x = call.tensor(0)?;
    if x.storage() != Storage::Float || call.wants(1) {
        return Err(OpError::unsupported("the indices of MaxPool, or wide whole numbers"));
    }
    let lowest = if x.element() == super::F16 { -65504.0 } else { f32::MIN };
    let (windows, t) = pooled(call, &x, lowest)?;
    let made = match windows.as_slice() {
        [w] => D::max_pool1d(t, w.kernel, w.stride, 0, w.dilation, false),
        two => D::max_pool2d(
            t,
            fixed(two, |w| w.kernel),
            fixed(two, |w| w.stride),
            [0, 0],
            fixed(two, |w| w.dilation),
            false,
        ),
    };
    let mut shape = x.shape()[..2].to_vec();
    shape.extend(windows.iter().map(|w| w.count));
    one(made, &shape, x.element())
}

fn average_pool(call: &DeviceCall<'_>) -> OpResult<Vec<Value>> {
    let x = call.float(0)?;
    let (windows, t) = pooled(call, &x, 0.0)?;
    if windows.iter().any(|w| w.dilation != 1) {
        return Err(OpError::unsupported("a dilated average"));
    }
    let made = match windows.as_slice() {
        [w] => D::avg_pool1d(t, w.kernel, w.stride, 0, true, false),
        two => {
            let (kernel, stride) = (fixed(two, |w| w.kernel), fixed(two, |w| w.stride));
            D::avg_pool2d(t, kernel, stride, [0, 0], true, false)
        }
    };
    let mut shape = x.shape()[..2].to_vec();
    shape.extend(windows.iter().map(|w| w.count));
    // The mean is over all taps; where fewer count, it is to be larger.
    let padded = call.flag("count_include_pad", false);
    let factors: Vec<Vec<f32>> = windows
        .iter()
        .map(|w| {
            let counted = |i| if padded { w.padded_taps(i) } else { w.taps(i).len() };
            (0..w.count).map(|i| w.kernel as f32 / counted(i).max(1) as f32).collect()
        })
        .collect();
    if factors.iter().flatten().all(|&f| f == 1.0) {
        return one(made, &shape, x.element());
    }
    let mut factor = vec![1.0f32];
    for along in &factors {
        factor = factor.iter().flat_map(|f| along.iter().map(move |a| f * a)).collect();
    }
    let mut space = vec![1, 1];
    space.extend(&shape[2..]);
    let factor = Array::from_f32s(x.element(), &space, factor)?;
    let factor = call.device().upload(&factor)?.tensor;
    let made = DeviceTensor::new(made, x.element()).reshape(&shape)?.tensor;
    one(D::float_mul(made, factor), &shape, x.element())
}

fn global_pool(call: &DeviceCall<'_>) -> OpResult<Vec<Value>> {
    let x = call.float(0)?;
    let &[batch, channels, ref space @ ..] = x.shape() else {
        return Err(OpError::invalid(format!("an image of shape {:?}", x.shape())));
    };
    let flat = x.reshape(&[batch, channels, space.iter().product()])?;
    let reduce: fn(T, usize) -> T =
        if call.op() == "GlobalMaxPool" { D::float_max_dim } else { D::float_mean_dim };
    let made = along(&flat, &[2], reduce).tensor;
    let mut shape = vec![1; x.rank()];
    shape[..2].copy_from_slice(&[batch, channels]);
    one(made, &shape, x.element())
}

/// Axis by axis: the nearest pixel by its index, all else as a product with the
/// matrix of the weights.
fn resize(call: &DeviceCall<'_>) -> OpResult<Vec<Value>> {
    let x = call.float(0)?;
    for index in 1..call.input_count() {
        call.optional_known(index)?;
    }
    let plan = resize_plan(call, x.shape(), x.element())?;
    if plan.shape.contains(&0) {
        return Err(OpError::unsupported("a result without elements"));
    }
    let mut made = x.clone();
    for (axis, rows) in plan.tables.iter().enumerate() {
        let Some(rows) = rows else { continue };
        if rows.iter().any(Vec::is_empty) {
            return Err(OpError::unsupported("pixels outside of the image"));
        }
        let alone = |row: &Vec<(usize, f64)>| matches!(row.as_slice(), [(_, w)] if *w == 1.0);
        if rows.iter().all(alone) {
            let indices: Vec<i64> = rows.iter().map(|row| row[0].0 as i64).collect();
            made = pick(call, &made, axis, &indices)?;
            continue;
        }
        let size = made.shape()[axis];
        call.reserve(x.element(), &[size, rows.len()])?;
        let mut weights = vec![0f32; size * rows.len()];
        for (pixel, row) in rows.iter().enumerate() {
            for &(at, weight) in row {
                weights[at * rows.len() + pixel] += weight as f32;
            }
        }
        let weights = Array::from_f32s(x.element(), &[size, rows.len()], weights)?;
        let weights = call.device().upload(&weights)?;
        // The axis last, so that the product goes along it.
        let last = made.rank() - 1;
        let mut order: Vec<usize> = (0..made.rank()).collect();
        order.swap(axis, last);
        let turned = permute(&made, &order);
        let mut shape = turned.shape().to_vec();
        let lines: usize = shape[..last].iter().product();
        let product = product(call, &turned.reshape(&[lines, size])?, &weights)?;
        shape[last] = rows.len();
        made = permute(&product.reshape(&shape)?, &order);
    }
    one(made.tensor, &plan.shape, x.element())
}
