"""Writes reference.json: a signal, configurations of preprocess-signal, and
the features that NumPy and SciPy give for them. The mel filter bank follows
the published formulas in double precision.

    python reference.py > reference.json        (NumPy 2, SciPy 1.17 or newer)
"""

import json

import numpy as np
from scipy import signal, stats

rate = 8000
t = np.arange(2000) / rate
random = np.random.default_rng(11)
x = 0.4 * np.sin(2 * np.pi * 440 * t) + 0.2 * np.sin(2 * np.pi * 1830 * t + 1)
x = (x + 0.05 * random.standard_normal(len(t))).round(4).astype(np.float32)


def frames(c):
    y = x.astype(np.float64)
    if c.get("centre"):
        y = np.pad(y, c["length"] // 2)
    cut = np.lib.stride_tricks.sliding_window_view(y, c["length"])[:: c["hop"]]
    name = {"rectangular": "boxcar"}.get(c.get("window", "hann"), c.get("window", "hann"))
    return cut * signal.get_window(name, c["length"])


def power(c):
    return np.abs(np.fft.rfft(frames(c), c.get("fft-length", c["length"]))) ** 2


def to_mel(hz, scale):
    hz = np.asarray(hz, float)
    if scale == "htk":
        return 2595 * np.log10(1 + hz / 700)
    return np.where(hz < 1000, 3 * hz / 200,
                    15 + 27 * np.log(np.maximum(hz, 1) / 1000) / np.log(6.4))


def mel_bank(c, points):
    """Corners by inverting the scale numerically, triangles by interpolation."""
    grid = np.linspace(0, rate / 2, 2_000_001)
    scale = c.get("scale", "slaney")
    low, high = to_mel([c.get("min-hz", 0), c.get("max-hz", rate / 2)], scale)
    corners = np.interp(np.linspace(low, high, c["filters"] + 2), to_mel(grid, scale), grid)
    hz = np.fft.rfftfreq(points, 1 / rate)
    bank = np.array([np.interp(hz, corners[i : i + 3], [0, 1, 0], 0, 0)
                     for i in range(c["filters"])])
    if c.get("norm", "slaney") == "slaney":
        bank *= 2 / (corners[2:] - corners[:-2])[:, None]
    return bank


def log(values, c):
    values = np.maximum(values, c["floor"])
    return {"natural": np.log(values), "ten": np.log10(values),
            "decibel": 10 * np.log10(values)}[c["base"]]


def features(c):
    if c["kind"] == "summary":
        y = x.astype(np.float64)
        spectrum = np.abs(np.fft.rfft(y - y.mean()))
        rms = np.sqrt((y**2).mean())
        known = {
            "mean": y.mean(), "rms": rms, "std": y.std(), "peak": np.abs(y).max(),
            "peak-to-peak": np.ptp(y), "crest-factor": np.abs(y).max() / rms,
            "skewness": stats.skew(y), "kurtosis": stats.kurtosis(y, fisher=False),
            "peak-frequency": np.fft.rfftfreq(len(y), 1 / rate)[spectrum.argmax()],
        }
        return np.array([known[s] for s in c["statistics"]])
    values = power(c["frames"])
    if c["kind"] == "log-mel":
        points = c["frames"].get("fft-length", c["frames"]["length"])
        values = log(values @ mel_bank(c["mel"], points).T, c["log"])
    else:
        values = np.sqrt(values) if c.get("values") == "magnitude" else values
        values = log(values, c["log"]) if "log" in c else values
    return values if c.get("layout") == "frames-first" else values.T


configurations = [
    {"kind": "spectrogram", "frames": {"length": 128, "hop": 400}, "values": "magnitude"},
    {"kind": "spectrogram", "frames": {"length": 100, "hop": 500, "fft-length": 150,
                                       "window": "hamming"},
     "log": {"base": "decibel", "floor": 1e-6}, "layout": "frames-first"},
    {"kind": "spectrogram", "frames": {"length": 64, "hop": 333, "window": "rectangular",
                                       "centre": True}},
    {"kind": "log-mel", "frames": {"length": 256, "hop": 300, "centre": True},
     "mel": {"filters": 20}, "log": {"base": "natural", "floor": 1e-8}},
    {"kind": "log-mel", "frames": {"length": 200, "hop": 400, "fft-length": 256},
     "mel": {"filters": 16, "min-hz": 60, "max-hz": 3600, "scale": "htk", "norm": "none"},
     "log": {"base": "ten", "floor": 1e-6}, "layout": "frames-first"},
    {"kind": "summary", "statistics": ["mean", "rms", "std", "peak", "peak-to-peak",
                                       "crest-factor", "skewness", "kurtosis", "peak-frequency"]},
]
print(json.dumps({
    "sample-rate-hz": rate,
    "samples": [round(float(v), 4) for v in x],
    "cases": [{"features": c, "shape": [1, *features(c).shape],
               "values": [float(f"{v:.7g}") for v in features(c).flatten()]}
              for c in configurations],
}, separators=(",", ":")))
