"""What ONNX Runtime says of an example's input: `expected/predictions.csv`.

    python expect.py telemetry-shuttle vision-digits           # write it
    python expect.py telemetry-shuttle vision-digits --check   # compare

Reads what the pipeline reads, does in NumPy and Pillow what its preprocessing
is configured to do, and runs the committed model. Needs neither the training
data nor Headland. `--check` fails unless what is there is what it says.
"""

import argparse
import tomllib
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image

SCORE_TOLERANCE = 1e-5


def stage_config(example, stage):
    pipeline = tomllib.loads((example / "pipeline.toml").read_text())
    return next(s["config"] for s in pipeline["stage"] if s["id"] == stage)


def run(example, model, inputs):
    path = example / "models" / f"{model}.onnx"
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (name,) = [i.name for i in session.get_inputs()]
    return session.run(None, {name: inputs})[0]


def telemetry_shuttle(example):
    """Probabilities of every row: impute, standardise, run."""
    features = stage_config(example, "features")["features"]
    header, *lines = (example / "inputs" / "telemetry.csv").read_text().splitlines()
    columns = header.split(",")
    x = np.empty((len(lines), len(features)), np.float32)
    for i, line in enumerate(lines):
        row = dict(zip(columns, line.split(",")))
        for j, feature in enumerate(features):
            value = float(row[feature["name"]] or feature["missing"]["impute"])
            x[i, j] = (value - feature["scale"]["mean"]) / feature["scale"]["scale"]
    return run(example, "shuttle-mlp", x)


def vision_digits(example):
    """Probabilities of every image: decode, normalise, run, softmax."""
    config = stage_config(example, "image")
    images = [np.asarray(Image.open(p)) for p in sorted((example / "inputs").glob("*.png"))]
    x = (np.stack(images) * config["scale"] - config["mean"][0]) / config["std"][0]
    x = x[:, None].astype(np.float32)
    logits = run(example, "digits-cnn", x).astype(np.float64)
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return odds / odds.sum(axis=1, keepdims=True)


EXAMPLES = {"telemetry-shuttle": telemetry_shuttle, "vision-digits": vision_digits}


def lines_for(name):
    example = Path(__file__).parent / name
    labels = stage_config(example, "classify")["classes"]["labels"]
    yield "frame,label,score"
    for frame, row in enumerate(EXAMPLES[name](example)):
        best = int(row.argmax())
        yield f"{frame},{labels[best]},{row[best]:.6f}"


def same(committed, computed):
    """Whether a line says the same, its score within the tolerance."""
    if committed == computed:
        return True
    *old, old_score = committed.split(",")
    *new, new_score = computed.split(",")
    return old == new and abs(float(old_score) - float(new_score)) <= SCORE_TOLERANCE


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("examples", nargs="+", choices=EXAMPLES)
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    arguments = parser.parse_args()
    for name in arguments.examples:
        path = Path(__file__).parent / name / "expected" / "predictions.csv"
        computed = list(lines_for(name))
        if not arguments.check:
            path.write_text("\n".join(computed) + "\n")
            continue
        committed = path.read_text().splitlines()
        if len(committed) != len(computed):
            raise SystemExit(f"{path}: {len(committed)} lines instead of {len(computed)}")
        for old, new in zip(committed, computed):
            if not same(old, new):
                raise SystemExit(f"{path}: {old!r} instead of {new!r}")


if __name__ == "__main__":
    main()
