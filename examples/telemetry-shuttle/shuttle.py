"""The Statlog (Shuttle) set: reading it, its split, its standardisation."""

import hashlib
import warnings
from pathlib import Path

import numpy as np
import rdata

# Shuttle.rda of mlbench 2.1-3, as in Debian's r-cran-mlbench 2.1-3-1.
SHA256 = "5b1db218b76a47c83f575f1ff38d7a7d36e569b0e27d8bf4aa92eae6c0bcb826"

# V1 is time in the set's own description. It stays in the telemetry and out
# of the model: the rows were shuffled before the split, so a model that sees
# it could learn when a row was taken instead of what the sensors said.
COLUMNS = [f"V{i}" for i in range(1, 10)]
FEATURES = COLUMNS[1:]
LABELS = ["nominal", "anomaly"]

# StatLog's own split: the rows from here on are for testing.
HELD_OUT_FROM = 43_500


def read(path):
    """Rows (58 000 x 9, f64) and targets (0 `nominal`, 1 `anomaly`).

    `nominal` is the class Rad Flow, about 79 % of the rows; `anomaly` is each
    of the six others.
    """
    data = Path(path).read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    if digest != SHA256:
        raise SystemExit(f"{path}: sha256 is {digest}, expected {SHA256}")
    with warnings.catch_warnings():
        # rdata cannot tell the encoding of the file's strings: all are ASCII.
        warnings.simplefilter("ignore")
        frame = rdata.read_rda(path)["Shuttle"]
    rows = frame[COLUMNS].to_numpy(np.float64)
    return rows, (frame["Class"] != "Rad.Flow").to_numpy(np.int64)


def standardisation(rows):
    """Median, mean and standard deviation of each feature, rounded.

    Mean and deviation are of values held within the 1st and 99th percentile,
    so that a few wild readings do not set the scale.
    """
    x = rows[:, 1:]
    held = np.clip(x, *np.percentile(x, [1, 99], axis=0))
    return {
        name: {
            "median": float(np.median(x[:, i])),
            "mean": round(float(held[:, i].mean()), 4),
            "std": round(float(held[:, i].std()), 4),
        }
        for i, name in enumerate(FEATURES)
    }


def standardise(rows, scale):
    """Features as the model takes them: f32, gaps filled with the median."""
    out = np.empty((len(rows), len(FEATURES)), np.float32)
    for i, name in enumerate(FEATURES):
        s = scale[name]
        value = rows[:, i + 1]
        value = np.where(np.isnan(value), s["median"], value)
        out[:, i] = (value - s["mean"]) / s["std"]
    return out
