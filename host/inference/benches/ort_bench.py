"""Measures `headland onnx bench` beside ONNX Runtime on the same seeded inputs.

    ort_bench.py HEADLAND MODEL.onnx... [--out DIR] [--device D]... [--rounds 5]

The two take turns: in each round ONNX Runtime on one thread runs for a while,
then Headland in a process of its own, so that what else the machine does falls
on both. A ratio is of two medians of one round, and the one that is reported is
the median of the rounds'. ONNX Runtime also runs with as many threads as it
takes by itself, and on CUDA where it has that. Headland runs on the CPU, and on
a GPU where `headland devices` lists an adapter; one that is in software says so.

Prints a table in Markdown and writes inference.json, inference.md and
inference.svg to the folder. Needs numpy and onnxruntime.
"""

import argparse
import html
import json
import math
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
import onnxruntime as ort

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "tests"))
from ort_judge import seeded_input

# The ways in which ONNX Runtime is set up, as the JSON calls them.
ONE_THREAD = "ort_one_thread"
DEFAULT = "ort_default"
CUDA = "ort_cuda"

# Adapters, the best first, by how their selectors begin.
KINDS = ("discrete", "integrated", "virtual", "other", "software")


class Peer:
    """ONNX Runtime on one model and one set of inputs, bound ahead."""

    def __init__(self, path, kind, inputs):
        options = ort.SessionOptions()
        if kind == ONE_THREAD:
            options.intra_op_num_threads = 1
            options.inter_op_num_threads = 1
        provider = "CUDAExecutionProvider" if kind == CUDA else "CPUExecutionProvider"
        self.session = ort.InferenceSession(path, options, providers=[provider])
        self.binding = self.session.io_binding()
        for name, value in inputs.items():
            self.binding.bind_cpu_input(name, value)
        for output in self.session.get_outputs():
            self.binding.bind_output(output.name)

    def timed(self):
        start = time.perf_counter_ns()
        self.session.run_with_iobinding(self.binding)
        self.binding.synchronize_outputs()
        return (time.perf_counter_ns() - start) / 1e3

    def median_us(self, args):
        """As `headland onnx bench` measures."""
        limit = time.perf_counter() + args.seconds / 4
        for _ in range(args.warmup):
            self.timed()
            if time.perf_counter() >= limit:
                break
        limit = time.perf_counter() + args.seconds
        samples = [self.timed()]
        while len(samples) < args.runs and time.perf_counter() < limit:
            samples.append(self.timed())
        return statistics.median(samples)


def headland(args, path, device, files):
    command = [args.headland, "onnx", "bench", path, "--json", "--device", device]
    command += ["--runs", str(args.runs), "--warmup", str(args.warmup)]
    command += ["--seconds", str(args.seconds)]
    for name, file in files.items():
        command += ["--input", f"{name}={file}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        said = json.loads(done.stdout)
    except ValueError:
        raise RuntimeError(done.stderr.strip() or f"ended with {done.returncode}") from None
    if done.returncode != 0:
        raise RuntimeError(": ".join(said["error"]))
    return said


def measure(args, path, device):
    """One row: a model on a device, in rounds with its peers."""
    rng = np.random.default_rng(0)
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    inputs = {i.name: seeded_input(path.stem, i, 0, rng) for i in session.get_inputs()}
    kinds = [ONE_THREAD, DEFAULT]
    if "CUDAExecutionProvider" in ort.get_available_providers():
        kinds.append(CUDA)
    peers = {kind: Peer(path, kind, inputs) for kind in kinds}
    ours, theirs = [], {kind: [] for kind in kinds}
    with tempfile.TemporaryDirectory() as folder:
        files = {}
        for index, (name, value) in enumerate(inputs.items()):
            files[name] = pathlib.Path(folder) / f"{index}.npy"
            np.save(files[name], value)
        for _ in range(args.rounds):
            theirs[ONE_THREAD].append(peers[ONE_THREAD].median_us(args))
            ours.append(headland(args, path, device, files))
            for kind in kinds[1:]:
                theirs[kind].append(peers[kind].median_us(args))
    middle = lambda field: statistics.median(r[field] for r in ours)
    row = {
        "model": path.stem,
        "device": device,
        "engine": ours[-1]["engine"],
        "median_us": middle("median_us"),
        "p95_us": middle("p95_us"),
        "min_us": min(r["min_us"] for r in ours),
        "load_ms": middle("load_ms"),
        "first_run_ms": middle("first_run_ms"),
        "runs": sum(r["runs"] for r in ours),
    }
    for kind in kinds:
        ratios = [mine["median_us"] / peer for mine, peer in zip(ours, theirs[kind])]
        row[kind] = {
            "median_us": statistics.median(theirs[kind]),
            "ratio": statistics.median(ratios),
            "lowest_ratio": min(ratios),
            "highest_ratio": max(ratios),
        }
    return row


def devices(args):
    """What to run on, and what to call it."""
    said = subprocess.run([args.headland, "devices", "--json"], capture_output=True, check=True)
    adapters = json.loads(said.stdout)["adapters"]
    by_selector = {f"gpu:{a['selector']}": a for a in reversed(adapters)}
    wanted = args.device
    if not wanted:
        rank = lambda device: KINDS.index(device.split(":")[1])
        wanted = ["cpu", *sorted(by_selector, key=rank)[:1]]
    labels = {}
    for device in wanted:
        adapter = by_selector.get(device)
        software = ", in software" if device == "gpu:software" else ""
        labels[device] = f"{adapter['name']}{software}" if adapter else device
    return labels


def cpu_name():
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        return next(l.split(":", 1)[1].strip() for l in lines if l.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def us(value):
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def times(ratio):
    return f"{ratio:.2f}" if ratio < 10 else f"{ratio:.0f}"


def markdown(report):
    kinds = [(ONE_THREAD, "one thread"), (DEFAULT, "its default"), (CUDA, "CUDA")]
    kinds = [(k, label) for k, label in kinds if any(k in row for row in report["rows"])]
    head = ["model", "on", "Headland us"]
    for _, label in kinds:
        head += [f"ONNX Runtime, {label}, us", "ratio"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * 2 + "---:|" * (len(head) - 2)]
    for row in report["rows"]:
        cells = [row["model"], row["device"], us(row["median_us"])]
        for kind, _ in kinds:
            cells += [us(row[kind]["median_us"]), times(row[kind]["ratio"])]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


INK, QUIET, GRID = "#1f2933", "#66727f", "#e3e8ed"
# One colour a device, in the order of the rows.
COLOURS = ("#2f6fb3", "#d9822b", "#4d9a5b", "#8a5fb0")
SANS = 'font-family="Inter, Helvetica, Arial, sans-serif"'


def svg(report):
    """Bars from 1 to each ratio on one thread, on a logarithmic axis."""
    rows, labels = report["rows"], report["devices"]
    models = list(dict.fromkeys(row["model"] for row in rows))
    bar, between, top, foot = 16, 16, 96, 64
    left, right, width = 216, 64, 880
    shown = [min(row[ONE_THREAD]["lowest_ratio"] for row in rows),
             max(row[ONE_THREAD]["highest_ratio"] for row in rows)]
    low, high = math.log10(min(shown[0], 1) / 1.5), math.log10(max(shown[1], 1) * 1.5)
    x = lambda ratio: left + (math.log10(ratio) - low) / (high - low) * (width - left - right)
    parts = []

    def text(at, y, what, size=13, fill=INK, anchor="start", weight="400"):
        parts.append(
            f'<text x="{at:.1f}" y="{y:.1f}" font-size="{size}" fill="{fill}" '
            f'text-anchor="{anchor}" font-weight="{weight}">{html.escape(what)}</text>'
        )

    heights = [sum(r["model"] == m for r in rows) * (bar + 3) + between for m in models]
    bottom = top + sum(heights)
    # Every power of ten, and between them what leaves room for the digits.
    steps = (1, 2, 5) if high - low < 2.5 else (1, 3) if high - low < 4 else (1,)
    for exponent in range(math.floor(low), math.ceil(high) + 1):
        for step in steps:
            tick = step * 10**exponent
            if not low <= math.log10(tick) <= high:
                continue
            one = tick == 1
            parts.append(
                f'<line x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="{top - 6}" y2="{bottom}" '
                f'stroke="{INK if one else GRID}" stroke-width="{1.5 if one else 1}"/>'
            )
            text(x(tick), bottom + 18, f"{tick:g}×", 12, INK if one else QUIET, "middle")
    text(x(1) - 10, top - 14, "← faster", 12, QUIET, "end")
    text(x(1) + 10, top - 14, "slower →", 12, QUIET)
    y = top + between / 2
    for model, height in zip(models, heights):
        own = [r for r in rows if r["model"] == model]
        text(left - 14, y + len(own) * (bar + 3) / 2 + 3, model, 13, INK, "end")
        for row in own:
            told = row[ONE_THREAD]
            colour = COLOURS[list(labels).index(row["device"]) % len(COLOURS)]
            ends = sorted((x(1), x(told["ratio"])))
            middle = y + bar / 2
            parts.append(
                f'<rect x="{ends[0]:.1f}" y="{y:.1f}" width="{max(ends[1] - ends[0], 1):.1f}" '
                f'height="{bar}" rx="2" fill="{colour}"/>'
            )
            spread = sorted((x(told["lowest_ratio"]), x(told["highest_ratio"])))
            parts.append(
                f'<line x1="{spread[0]:.1f}" x2="{spread[1]:.1f}" y1="{middle:.1f}" '
                f'y2="{middle:.1f}" stroke="{INK}" stroke-width="1.2"/>'
            )
            value = f'{times(told["ratio"])}×'
            if told["ratio"] < 1:
                text(min(ends[0], spread[0]) - 6, middle + 4, value, 12, INK, "end", "600")
            else:
                text(max(ends[1], spread[1]) + 6, middle + 4, value, 12, INK, "start", "600")
            y += bar + 3
        y += between
    text(24, 32, "Time of a run, as a multiple of ONNX Runtime's on one thread", 17, INK,
         weight="600")
    at = 24
    for index, (device, label) in enumerate(labels.items()):
        name = label if label == device else f"{device}, {label}"
        parts.append(
            f'<rect x="{at}" y="46" width="12" height="12" rx="2" '
            f'fill="{COLOURS[index % len(COLOURS)]}"/>'
        )
        text(at + 18, 56, name, 12, QUIET)
        at += 18 + 7 * len(name) + 24
    text(24, bottom + foot - 16,
         f"{report['cpu']}, {report['cores']} cores; ONNX Runtime {report['onnxruntime']}; median of {report['rounds']} "
         "rounds, the line from the lowest to the highest; logarithmic", 11, QUIET)
    total = bottom + foot
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{total:.0f}" '
        f'viewBox="0 0 {width} {total:.0f}" {SANS}>\n'
        f'<rect width="100%" height="100%" fill="#ffffff"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("headland", type=pathlib.Path)
    parser.add_argument("models", nargs="+", type=pathlib.Path)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("target/bench"))
    parser.add_argument("--device", action="append", default=[])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--warmup", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=0.5)
    args = parser.parse_args()
    ort.set_default_logger_severity(3)
    labels = devices(args)
    rows, refused = [], []
    for path in args.models:
        for device in labels:
            print(f"  {path.stem} on {device}", file=sys.stderr, flush=True)
            try:
                rows.append(measure(args, path, device))
            except RuntimeError as error:
                refused.append({"model": path.stem, "device": device, "reason": str(error)})
    report = {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "onnxruntime": ort.__version__,
        "devices": labels,
        "rounds": args.rounds,
        "rows": rows,
        "refused": refused,
    }
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "inference.json").write_text(json.dumps(report, indent=1) + "\n")
    if rows:
        (args.out / "inference.md").write_text(markdown(report) + "\n")
        (args.out / "inference.svg").write_text(svg(report))
        print(markdown(report))
    for each in refused:
        print(f"\nREFUSED {each['model']} on {each['device']}: {each['reason']}")
    return 0 if rows else 1


if __name__ == "__main__":
    sys.exit(main())
