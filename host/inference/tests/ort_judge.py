"""Runs ONNX Runtime and `headland onnx run` on the same seeded inputs.

    ort_judge.py HEADLAND MODEL.onnx... [--device cpu] [--rtol 1e-4] [--atol 1e-4]

Prints one line for each model and exits 1 when the binary refuses a model, or an
output differs by more than `atol + rtol * |expected|`, or, for a model with
quantised arithmetic, by more than a step of its last quantisation: two
accumulations may round to either side of a half. A symbolic dimension is given
the sizes 1, 2, 3 in turn. A streaming model runs for 100 steps in one session,
its state fed back. Needs numpy, onnx and onnxruntime.
"""

import argparse
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import onnx
import onnxruntime as ort

ort.set_default_logger_severity(3)

DTYPES = {
    "tensor(bool)": np.bool_,
    "tensor(uint8)": np.uint8,
    "tensor(int8)": np.int8,
    "tensor(uint16)": np.uint16,
    "tensor(int16)": np.int16,
    "tensor(uint32)": np.uint32,
    "tensor(int32)": np.int32,
    "tensor(uint64)": np.uint64,
    "tensor(int64)": np.int64,
    "tensor(float16)": np.float16,
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
}

# Inputs that a random number would not suit: the sample rate of Silero VAD.
FIXED = {("silero-vad-16k", "sr"): np.array(16000, dtype=np.int64)}
# Axes without a size in the file, where the model takes only one.
SIZES = {("silero-vad-16k", "input", 1): 576}

# Inputs that are fed back: the output that gives their next value, the input
# that goes along the steps, and its size.
STREAMS = {"silero-vad-16k": ("state", "stateN", "input", 576)}


def seeded_input(model, info, run, rng):
    if (model, info.name) in FIXED:
        return FIXED[model, info.name]
    shape = [
        d if isinstance(d, int) else SIZES.get((model, info.name, axis), run + 1)
        for axis, d in enumerate(info.shape)
    ]
    dtype = DTYPES[info.type]
    if model in STREAMS and info.name == STREAMS[model][0]:
        # What a recurrent layer gave is within 1.
        return rng.uniform(-1, 1, shape).astype(dtype)
    if np.issubdtype(dtype, np.floating):
        # Images of 0..255 and normalised values both occur among the models.
        return (rng.standard_normal(shape) * (1, 16, 64)[run % 3]).astype(dtype)
    return rng.integers(0, 2, shape).astype(dtype)


STEPS = 100


def last_step(path):
    """The scale of the last quantisation of each output, 0 without one."""
    model = onnx.load(path)
    made = {output: node for node in model.graph.node for output in node.output}
    constants = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            constants[node.output[0]] = onnx.numpy_helper.to_array(node.attribute[0].t)
    steps = {}
    for output in model.graph.output:
        node = made.get(output.name)
        # Operators after it that shrink differences rather than widen them.
        while node is not None and node.op_type in ("Softmax", "Reshape", "Identity", "Flatten"):
            node = made.get(node.input[0])
        quantised = node is not None and node.op_type == "DequantizeLinear"
        steps[output.name] = float(np.max(constants[node.input[1]])) if quantised else 0.0
    return steps


def run_headland(headland, path, inputs, infos, args, folder, extra=()):
    """Headland's outputs in the order of `infos`, or its error as text."""
    command = [headland, "onnx", "run", path, "--device", args.device, "--output-dir", folder / "out"]
    for index, (name, value) in enumerate(inputs.items()):
        np.save(folder / f"{index}.npy", value)
        command += ["--input", f"{name}={folder / f'{index}.npy'}"]
    done = subprocess.run([*command, *extra], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return " ".join(done.stderr.split())
    return [np.load(folder / "out" / (info.name.replace("/", "_") + ".npy")) for info in infos]


def stream(headland, path, session, args):
    """100 steps of a streaming model, in one session on both sides."""
    state, next_state, fed, size = STREAMS[path.stem]
    rng = np.random.default_rng(0)
    steps = rng.standard_normal((STEPS, 1, size)).astype(np.float32) * 0.1
    inputs = {i.name: seeded_input(path.stem, i, 0, rng) for i in session.get_inputs()}
    inputs[state] = np.zeros_like(inputs[state])
    infos = [o for o in session.get_outputs() if o.name != next_state]
    names = [o.name for o in infos] + [next_state]
    expected, current = [], inputs[state]
    for step in steps:
        *made, current = session.run(names, {**inputs, fed: step, state: current})
        expected.append(made)
    with tempfile.TemporaryDirectory() as folder:
        extra = ["--each", fed, "--state", f"{state}={next_state}"]
        actual = run_headland(
            headland, path, {**inputs, fed: steps}, infos, args, pathlib.Path(folder), extra
        )
    if isinstance(actual, str):
        return "REFUSED", actual
    for index, (info, made) in enumerate(zip(infos, actual)):
        wanted = np.stack([e[index] for e in expected])
        worst = float(np.max(np.abs(made - wanted)))
        if made.shape != wanted.shape or not np.allclose(made, wanted, args.rtol, args.atol):
            return "DIFFERS", f"{info.name} by {worst:.3g} within {STEPS} steps"
    return "AGREES", f"within {worst:.3g} over {STEPS} steps with its state"


def judge(headland, path, args):
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    quantisation = last_step(path)
    worst = 0.0
    for run in range(args.runs):
        rng = np.random.default_rng(run)
        inputs = {i.name: seeded_input(path.stem, i, run, rng) for i in session.get_inputs()}
        expected = session.run(None, inputs)
        with tempfile.TemporaryDirectory() as folder:
            outputs = session.get_outputs()
            made = run_headland(headland, path, inputs, outputs, args, pathlib.Path(folder))
        if isinstance(made, str):
            return "REFUSED", made
        for info, value, actual in zip(outputs, expected, made):
            if actual.dtype != value.dtype or actual.shape != value.shape:
                return "DIFFERS", (
                    f"{info.name} is {actual.dtype} {actual.shape}, "
                    f"expected {value.dtype} {value.shape}"
                )
            if value.size:
                gap = np.abs(actual.astype(np.float64) - value.astype(np.float64))
                worst = max(worst, float(np.max(gap)))
            # A step, and what rounding adds to it.
            atol = max(args.atol, quantisation[info.name] * 1.001)
            if not np.allclose(actual, value, args.rtol, atol, equal_nan=True):
                return "DIFFERS", f"{info.name} by {worst:.3g} in run {run}"
    if path.stem in STREAMS:
        return stream(headland, path, session, args)
    return "AGREES", f"within {worst:.3g} in {args.runs} runs"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("headland", type=pathlib.Path)
    parser.add_argument("models", nargs="+", type=pathlib.Path)
    parser.add_argument("--rtol", type=float, default=1e-4)
    parser.add_argument("--atol", type=float, default=1e-4)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    failed = False
    for path in args.models:
        verdict, detail = judge(args.headland, path, args)
        print(f"{verdict} {path.stem}: {detail}")
        failed |= verdict != "AGREES"
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
