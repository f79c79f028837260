"""Runs ONNX Runtime and `headland onnx run` on the same seeded inputs.

    ort_judge.py HEADLAND MODEL.onnx... [--rtol 1e-4] [--atol 1e-4] [--runs 3]

Prints one line for each model and exits 1 when an output differs by more than
`atol + rtol * |expected|`, or when the binary refuses a model that ONNX
Runtime runs and that `--may-refuse NAME` does not name. A symbolic dimension
is given the sizes 1, 2, 3 in turn. Needs numpy and onnxruntime.
"""

import argparse
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
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


def seeded_input(model, info, run, rng):
    if (model, info.name) in FIXED:
        return FIXED[model, info.name]
    shape = [
        d if isinstance(d, int) else SIZES.get((model, info.name, axis), run + 1)
        for axis, d in enumerate(info.shape)
    ]
    dtype = DTYPES[info.type]
    if np.issubdtype(dtype, np.floating):
        # Images of 0..255 and normalised values both occur among the models.
        return (rng.standard_normal(shape) * (1, 16, 64)[run % 3]).astype(dtype)
    return rng.integers(0, 2, shape).astype(dtype)


def judge(headland, path, args):
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    worst = 0.0
    for run in range(args.runs):
        rng = np.random.default_rng(run)
        inputs = {i.name: seeded_input(path.stem, i, run, rng) for i in session.get_inputs()}
        expected = session.run(None, inputs)
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            command = [headland, "onnx", "run", path, "--device", "cpu", "--output-dir", folder / "out"]
            for index, (name, value) in enumerate(inputs.items()):
                np.save(folder / f"{index}.npy", value)
                command += ["--input", f"{name}={folder / f'{index}.npy'}"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                return "REFUSED", " ".join(done.stderr.split())
            for info, value in zip(session.get_outputs(), expected):
                actual = np.load(folder / "out" / (info.name.replace("/", "_") + ".npy"))
                if actual.dtype != value.dtype or actual.shape != value.shape:
                    return "DIFFERS", (
                        f"{info.name} is {actual.dtype} {actual.shape}, "
                        f"expected {value.dtype} {value.shape}"
                    )
                if value.size:
                    gap = np.abs(actual.astype(np.float64) - value.astype(np.float64))
                    worst = max(worst, float(np.max(gap)))
                if not np.allclose(actual, value, args.rtol, args.atol, equal_nan=True):
                    return "DIFFERS", f"{info.name} by {worst:.3g} in run {run}"
    return "AGREES", f"within {worst:.3g} in {args.runs} runs"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("headland", type=pathlib.Path)
    parser.add_argument("models", nargs="+", type=pathlib.Path)
    parser.add_argument("--rtol", type=float, default=1e-4)
    parser.add_argument("--atol", type=float, default=1e-4)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--may-refuse", action="append", default=[], metavar="NAME")
    args = parser.parse_args()
    failed = False
    for path in args.models:
        verdict, detail = judge(args.headland, path, args)
        print(f"{verdict} {path.stem}: {detail}")
        failed |= verdict == "DIFFERS"
        failed |= verdict == "REFUSED" and path.stem not in args.may_refuse
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
