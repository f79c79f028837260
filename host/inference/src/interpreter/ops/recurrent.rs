//! Recurrent layers.

use headland_tensor::DType;
use ndarray::{ArrayD, ArrayView2, ArrayView3, ArrayViewMut2, Axis, Ix3};

use super::{
    Op,
    linear::{Number, finished, narrowed, widened, zeros},
};
use crate::{
    interpreter::{Call, OpError, OpResult},
    value::{Array, Element, Value, into_parts, scalar_type},
};

/// The operator of that name.
///
/// # Source
/// <https://onnx.ai/onnx/operators/onnx__LSTM.html>, `GRU`, `RNN`.
pub(crate) fn find(name: &str) -> Option<Op> {
    Some(match name {
        "GRU" | "LSTM" | "RNN" => recurrent,
        _ => return None,
    })
}

/// What the activations need of a float.
trait Real: Number + PartialOrd {
    fn from_f32(value: f32) -> Self;
    fn sigmoid(self) -> Self;
    fn apply(self, activation: &Activation) -> Self;
    fn within(self, clip: Self) -> Self;
    fn minus(self, other: Self) -> Self;
    fn times(self, other: Self) -> Self;
}

macro_rules! reals {
    ($($t:ty)*) => {$(
        impl Real for $t {
            fn from_f32(value: f32) -> Self {
                value.into()
            }

            fn sigmoid(self) -> Self {
                1.0 / (1.0 + (-self).exp())
            }

            fn apply(self, activation: &Activation) -> Self {
                let (alpha, beta): ($t, $t) = (activation.alpha.into(), activation.beta.into());
                match activation.function {
                    Function::Affine => alpha * self + beta,
                    Function::Elu => if self >= 0.0 { self } else { alpha * self.exp_m1() },
                    Function::HardSigmoid => (alpha * self + beta).clamp(0.0, 1.0),
                    Function::LeakyRelu => if self >= 0.0 { self } else { alpha * self },
                    Function::Relu => self.max(0.0),
                    Function::ScaledTanh => alpha * (beta * self).tanh(),
                    Function::Sigmoid => self.sigmoid(),
                    // Without overflow for large values.
                    Function::Softplus => self.max(0.0) + (-self.abs()).exp().ln_1p(),
                    Function::Softsign => self / (1.0 + self.abs()),
                    Function::Tanh => self.tanh(),
                    Function::ThresholdedRelu => if self >= alpha { self } else { 0.0 },
                }
            }

            fn within(self, clip: Self) -> Self {
                self.min(clip).max(-clip)
            }

            fn minus(self, other: Self) -> Self {
                self - other
            }

            fn times(self, other: Self) -> Self {
                self * other
            }
        }
    )*};
}
reals!(f32 f64);

#[derive(Debug, Clone, Copy)]
enum Function {
    Affine,
    Elu,
    HardSigmoid,
    LeakyRelu,
    Relu,
    ScaledTanh,
    Sigmoid,
    Softplus,
    Softsign,
    Tanh,
    ThresholdedRelu,
}

/// An activation with its factors.
#[derive(Debug, Clone, Copy)]
pub(super) struct Activation {
    function: Function,
    alpha: f32,
    beta: f32,
}

impl Activation {
    /// By name, with the next of the factors where the function has any.
    pub fn new<'a>(
        name: &str,
        alphas: &mut impl Iterator<Item = &'a f32>,
        betas: &mut impl Iterator<Item = &'a f32>,
    ) -> OpResult<Self> {
        let (function, alpha, beta) = match &*name.to_ascii_lowercase() {
            "affine" => (Function::Affine, Some(1.0), Some(0.0)),
            "elu" => (Function::Elu, Some(1.0), None),
            "hardsigmoid" => (Function::HardSigmoid, Some(0.2), Some(0.5)),
            "leakyrelu" => (Function::LeakyRelu, Some(0.01), None),
            "relu" => (Function::Relu, None, None),
            "scaledtanh" => (Function::ScaledTanh, Some(1.0), Some(1.0)),
            "sigmoid" => (Function::Sigmoid, None, None),
            "softplus" => (Function::Softplus, None, None),
            "softsign" => (Function::Softsign, None, None),
            "tanh" => (Function::Tanh, None, None),
            "thresholdedrelu" => (Function::ThresholdedRelu, Some(1.0), None),
            _ => return Err(OpError::unsupported(format!("activation {name:?}"))),
        };
        let next = |default: Option<f32>, given: &mut dyn Iterator<Item = &'a f32>| {
            default.map_or(0.0, |default| given.next().copied().unwrap_or(default))
        };
        Ok(Self { function, alpha: next(alpha, alphas), beta: next(beta, betas) })
    }

    /// Of one value.
    pub fn of(&self, value: f32) -> f32 {
        value.apply(self)
    }
}

/// Which of the three layers.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Rnn,
    Gru,
    Lstm,
}

impl Kind {
    fn gates(self) -> usize {
        match self {
            Self::Rnn => 1,
            Self::Gru => 3,
            Self::Lstm => 4,
        }
    }

    /// The activations of one direction, where the node names none.
    fn activations(self) -> &'static [&'static str] {
        match self {
            Self::Rnn => &["Tanh"],
            Self::Gru => &["Sigmoid", "Tanh"],
            Self::Lstm => &["Sigmoid", "Tanh", "Tanh"],
        }
    }
}

/// The sizes and attributes of a node.
struct Layer {
    kind: Kind,
    steps: usize,
    batch: usize,
    hidden: usize,
    directions: usize,
    /// Whether the first direction goes backwards.
    reverse: bool,
    /// How many steps each sequence of the batch has.
    lengths: Vec<usize>,
    /// For each direction in turn.
    activations: Vec<Activation>,
    clip: Option<f32>,
    input_forget: bool,
    linear_before_reset: bool,
}

/// The parameters of one direction.
struct Weights<'a, T> {
    /// `[gates * hidden, input]`
    w: ArrayView2<'a, T>,
    /// `[gates * hidden, hidden]`
    r: ArrayView2<'a, T>,
    /// `[gates * hidden]` each, of the input and of the state.
    bias: (Vec<T>, Vec<T>),
    /// `[3 * hidden]`, for the input, the output and the forget gate.
    peepholes: Option<&'a [T]>,
}

/// The states of one direction, `[batch * hidden]` each.
struct States<T> {
    h: Vec<T>,
    c: Vec<T>,
}

/// An optional input, whose shape must be as said.
fn part(call: &Call<'_>, index: usize, shape: &[usize]) -> OpResult<Option<Array>> {
    let Some(array) = call.optional(index)? else { return Ok(None) };
    if array.shape() != shape {
        let given = array.shape();
        return Err(OpError::invalid(format!("input {index} is {given:?} for {shape:?}")));
    }
    widened(array).map(Some)
}

fn recurrent(call: &Call<'_>) -> OpResult<Vec<Value>> {
    let kind = match call.op() {
        "RNN" => Kind::Rnn,
        "GRU" => Kind::Gru,
        _ => Kind::Lstm,
    };
    let (x, w, r) = (call.array(0)?, call.array(1)?, call.array(2)?);
    let element = x.element();
    let batch_first = call.flag("layout", false);
    let (&[outer, inner, input], &[directions, _, hidden]) = (x.shape(), r.shape()) else {
        return Err(OpError::invalid(format!("X {:?} and R {:?}", x.shape(), r.shape())));
    };
    let (steps, batch) = if batch_first { (inner, outer) } else { (outer, inner) };
    let (one_way, reverse) = match call.text_or("direction", "forward") {
        "forward" => (true, false),
        "reverse" => (true, true),
        "bidirectional" => (false, false),
        other => return Err(OpError::invalid(format!("direction {other:?}"))),
    };
    let rows = hidden.checked_mul(kind.gates());
    let fits = directions == if one_way { 1 } else { 2 }
        && rows.is_some_and(|rows| {
            w.shape() == [directions, rows, input] && r.shape() == [directions, rows, hidden]
        })
        && call.int("hidden_size").is_none_or(|size| usize::try_from(size) == Ok(hidden));
    if !fits {
        let reason = format!("W {:?} and R {:?} for X {:?}", w.shape(), r.shape(), x.shape());
        return Err(OpError::invalid(reason));
    }
    let rows = rows.unwrap_or(0);
    call.reserve(Element::Plain(DType::I64), &[batch, rows.max(1)])?;
    let lengths = match call.optional(4)? {
        None => vec![steps; batch],
        Some(lengths) => {
            let lengths = crate::interpreter::sizes(&lengths.to_i64s()?)?;
            if lengths.len() != batch || lengths.iter().any(|&l| l > steps) {
                return Err(OpError::invalid(format!("sequence_lens {lengths:?}")));
            }
            lengths
        }
    };
    let names = call.texts("activations").unwrap_or_else(|| {
        kind.activations().repeat(directions).into_iter().map(str::to_owned).collect()
    });
    if names.len() != kind.activations().len() * directions {
        return Err(OpError::invalid(format!("activations {names:?}")));
    }
    let mut alphas = call.floats("activation_alpha").unwrap_or_default().iter();
    let mut betas = call.floats("activation_beta").unwrap_or_default().iter();
    let activations = names
        .iter()
        .map(|name| Activation::new(name, &mut alphas, &mut betas))
        .collect::<OpResult<Vec<_>>>()?;
    let layer = Layer {
        kind,
        steps,
        batch,
        hidden,
        directions,
        reverse,
        lengths,
        activations,
        clip: call.float("clip").filter(|&clip| clip > 0.0),
        input_forget: call.flag("input_forget", false),
        linear_before_reset: call.flag("linear_before_reset", false),
    };
    let state = if batch_first { [batch, directions, hidden] } else { [directions, batch, hidden] };
    let lstm = kind == Kind::Lstm;
    let inputs = Inputs {
        x: widened(x)?,
        w: widened(w)?,
        r: widened(r)?,
        bias: part(call, 3, &[directions, 2 * rows])?,
        h: part(call, 5, &state)?,
        c: if lstm { part(call, 6, &state)? } else { None },
        peepholes: if lstm { part(call, 7, &[directions, 3 * hidden])? } else { None },
        batch_first,
    };
    let made = scalar_type!(inputs.x.element(), [floats] T => run::<T>(call, &layer, &inputs))?;
    made.into_iter().map(|array| Ok(narrowed(array, element)?.into())).collect()
}

/// The tensors of a node.
struct Inputs {
    x: Array,
    w: Array,
    r: Array,
    bias: Option<Array>,
    h: Option<Array>,
    c: Option<Array>,
    peepholes: Option<Array>,
    batch_first: bool,
}

/// All directions of a layer: Y, Y_h, and for an LSTM Y_c.
fn run<T: Real>(call: &Call<'_>, layer: &Layer, inputs: &Inputs) -> OpResult<Vec<Array>> {
    let Layer { steps, batch, hidden, directions, .. } = *layer;
    let rows = layer.kind.gates() * hidden;
    // What one direction computes of its input for all steps.
    call.reserve(T::ELEMENT, &[steps, batch, rows])?;
    let mut x = inputs.x.view::<T>()?.into_dimensionality::<Ix3>()?;
    if inputs.batch_first {
        x.swap_axes(0, 1);
    }
    let w = inputs.w.view::<T>()?.into_dimensionality::<Ix3>()?;
    let r = inputs.r.view::<T>()?.into_dimensionality::<Ix3>()?;
    let (shape, mut y) = into_parts(zeros::<T>(call, &[steps, directions, batch, hidden])?);
    let mut last_h = zeros::<T>(call, &[directions, batch, hidden])?;
    let mut last_c = last_h.clone();
    let initial = |given: &Option<Array>, direction: usize| -> OpResult<Vec<T>> {
        let Some(given) = given else { return Ok(vec![T::ZERO; batch * hidden]) };
        let along = Axis(usize::from(inputs.batch_first));
        Ok(given.view::<T>()?.index_axis(along, direction).iter().copied().collect())
    };
    for direction in 0..directions {
        let (of_input, of_state) = match &inputs.bias {
            Some(bias) => {
                let bias = &bias.elements::<T>()?[direction * 2 * rows..][..2 * rows];
                (bias[..rows].to_vec(), bias[rows..].to_vec())
            }
            None => (vec![T::ZERO; rows], vec![T::ZERO; rows]),
        };
        let peepholes = match &inputs.peepholes {
            Some(all) => Some(&all.elements::<T>()?[direction * 3 * hidden..][..3 * hidden]),
            None => None,
        };
        let weights = Weights {
            w: w.index_axis(Axis(0), direction),
            r: r.index_axis(Axis(0), direction),
            bias: (of_input, of_state),
            peepholes,
        };
        let mut states =
            States { h: initial(&inputs.h, direction)?, c: initial(&inputs.c, direction)? };
        let per_direction = layer.activations.len() / directions;
        let activations = &layer.activations[direction * per_direction..][..per_direction];
        let backwards = layer.reverse || direction == 1;
        // A sequence of no steps has no last state: zero, as in ONNX Runtime.
        for (b, _) in layer.lengths.iter().enumerate().filter(|&(_, &length)| length == 0) {
            states.h[b * hidden..][..hidden].fill(T::ZERO);
            states.c[b * hidden..][..hidden].fill(T::ZERO);
        }
        one_direction(layer, activations, &weights, &x, backwards, &mut states, |t, b, h| {
            y[((t * directions + direction) * batch + b) * hidden..][..hidden].copy_from_slice(h);
            call.on_time()
        })?;
        let write = |all: &mut ArrayD<T>, state: &[T]| {
            let mut all = all.index_axis_mut(Axis(0), direction);
            all.iter_mut().zip(state).for_each(|(all, &state)| *all = state);
        };
        write(&mut last_h, &states.h);
        write(&mut last_c, &states.c);
    }
    let mut y = ArrayD::from_shape_vec(shape, y)?;
    if inputs.batch_first {
        y = y.permuted_axes(vec![2, 0, 1, 3]);
        last_h.swap_axes(0, 1);
        last_c.swap_axes(0, 1);
    }
    let mut made = vec![finished(y)?, finished(last_h)?];
    if layer.kind == Kind::Lstm {
        made.push(finished(last_c)?);
    }
    Ok(made)
}

/// One direction over all steps; `emit` gets the step of X, the index in the
/// batch, and the new state there.
fn one_direction<'a, T: Real>(
    layer: &'a Layer,
    activations: &'a [Activation],
    weights: &'a Weights<'a, T>,
    x: &ArrayView3<'_, T>,
    backwards: bool,
    states: &mut States<T>,
    mut emit: impl FnMut(usize, usize, &[T]) -> OpResult<()>,
) -> OpResult<()> {
    let Layer { steps, batch, hidden, .. } = *layer;
    let rows = layer.kind.gates() * hidden;
    if batch * rows == 0 {
        return Ok(());
    }
    // What comes of the input, for all steps at once.
    let mut of_input = vec![T::ZERO; steps * batch * rows];
    let flat = x.to_shape((steps * batch, x.shape()[2]))?;
    times_transposed(&flat.view(), &weights.w, &mut of_input)?;
    for gates in of_input.chunks_exact_mut(rows) {
        gates.iter_mut().zip(&weights.bias.0).for_each(|(gate, &bias)| *gate = gate.plus(bias));
    }
    let mut of_state = vec![T::ZERO; batch * rows];
    let cell = Cell { layer, activations, weights };
    // What the gate for the candidate of a GRU sees of the state.
    let mut reset = vec![T::ZERO; batch * hidden];
    let mut candidate = vec![T::ZERO; batch * hidden];
    for step in 0..layer.lengths.iter().copied().max().unwrap_or(0) {
        let h = ArrayView2::from_shape((batch, hidden), &states.h)?;
        times_transposed(&h, &weights.r, &mut of_state)?;
        let at = |b: usize| {
            let length = layer.lengths[b];
            let t = if backwards { length.checked_sub(step + 1)? } else { step };
            (t < length).then_some((t, (t * batch + b) * rows))
        };
        if layer.kind == Kind::Gru {
            for b in 0..batch {
                let Some((_, place)) = at(b) else { continue };
                cell.gru_gates(
                    &of_input[place..place + rows],
                    &mut of_state[b * rows..][..rows],
                    &states.h[b * hidden..][..hidden],
                    &mut reset[b * hidden..][..hidden],
                );
            }
            if !layer.linear_before_reset {
                let reset = ArrayView2::from_shape((batch, hidden), &reset)?;
                let r = weights.r.split_at(Axis(0), 2 * hidden).1;
                times_transposed(&reset, &r, &mut candidate)?;
            }
        }
        for b in 0..batch {
            let Some((t, place)) = at(b) else { continue };
            let gates = &of_input[place..place + rows];
            let state = &of_state[b * rows..][..rows];
            let h = &mut states.h[b * hidden..][..hidden];
            match layer.kind {
                Kind::Rnn => cell.rnn(gates, state, h),
                Kind::Gru => cell.gru(gates, state, &candidate[b * hidden..][..hidden], h),
                Kind::Lstm => cell.lstm(gates, state, h, &mut states.c[b * hidden..][..hidden]),
            }
            emit(t, b, h)?;
        }
    }
    Ok(())
}

/// `out`, `[m, n]`, becomes `a` `[m, k]` times the transpose of `b` `[n, k]`.
fn times_transposed<T: Number>(
    a: &ArrayView2<'_, T>,
    b: &ArrayView2<'_, T>,
    out: &mut [T],
) -> OpResult<()> {
    let mut out = ArrayViewMut2::from_shape((a.nrows(), b.nrows()), out)?;
    T::multiply(a, &b.t(), &mut out);
    Ok(())
}

/// What one step of one sequence does. Gates are `[gates * hidden]`: what came
/// of the input, and of the state.
struct Cell<'a, T> {
    layer: &'a Layer,
    activations: &'a [Activation],
    weights: &'a Weights<'a, T>,
}

impl<T: Real> Cell<'_, T> {
    /// The activation at `index` of the clipped value.
    fn activate(&self, index: usize, value: T) -> T {
        let value = self.layer.clip.map_or(value, |clip| value.within(T::from_f32(clip)));
        value.apply(&self.activations[index])
    }

    /// `h = f(x W + h R + b)`
    fn rnn(&self, gates: &[T], state: &[T], h: &mut [T]) {
        for (k, h) in h.iter_mut().enumerate() {
            *h = self.activate(0, gates[k].plus(state[k]).plus(self.weights.bias.1[k]));
        }
    }

    /// The update and the reset gate, which replace what came of the state; and
    /// the state that the reset gate lets through.
    fn gru_gates(&self, gates: &[T], state: &mut [T], h: &[T], reset: &mut [T]) {
        let hidden = h.len();
        for (k, state) in state.iter_mut().take(2 * hidden).enumerate() {
            *state = self.activate(0, gates[k].plus(*state).plus(self.weights.bias.1[k]));
        }
        for (k, reset) in reset.iter_mut().enumerate() {
            *reset = state[hidden + k].times(h[k]);
        }
    }

    /// `h = (1 - z) g(..) + z h`, after [`Cell::gru_gates`]
    fn gru(&self, gates: &[T], state: &[T], candidate: &[T], h: &mut [T]) {
        let hidden = h.len();
        for (k, h) in h.iter_mut().enumerate() {
            let bias = self.weights.bias.1[2 * hidden + k];
            let (update, reset) = (state[k], state[hidden + k]);
            let of_state = if self.layer.linear_before_reset {
                reset.times(state[2 * hidden + k].plus(bias))
            } else {
                candidate[k].plus(bias)
            };
            let new = self.activate(1, gates[2 * hidden + k].plus(of_state));
            *h = T::from_f32(1.0).minus(update).times(new).plus(update.times(*h));
        }
    }

    /// `c = f c + i g(..)` and `h = o h(c)`
    fn lstm(&self, gates: &[T], state: &[T], h: &mut [T], c: &mut [T]) {
        let hidden = h.len();
        let gate = |index: usize, k: usize| {
            let k = index * hidden + k;
            gates[k].plus(state[k]).plus(self.weights.bias.1[k])
        };
        let peep = |index: usize, k: usize, c: T| {
            self.weights.peepholes.map_or(T::ZERO, |p| p[index * hidden + k].times(c))
        };
        for (k, (h, c)) in h.iter_mut().zip(c).enumerate() {
            let input = self.activate(0, gate(0, k).plus(peep(0, k, *c)));
            let forget = if self.layer.input_forget {
                T::from_f32(1.0).minus(input)
            } else {
                self.activate(0, gate(2, k).plus(peep(2, k, *c)))
            };
            let new = self.activate(1, gate(3, k));
            *c = forget.times(*c).plus(input.times(new));
            let output = self.activate(0, gate(1, k).plus(peep(1, k, *c)));
            // The clip is for the gates alone, as in ONNX Runtime.
            *h = output.times(c.apply(&self.activations[2]));
        }
    }
}
