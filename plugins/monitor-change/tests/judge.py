"""Detections against river's and p-values against SciPy's, which must be the same.

    python3 tests/judge.py EXAMPLES_DIR

Streams: those of river's own tests and documentation with the detections that
these state, and seeded ones of many kinds under many parameters. Tolerance:
none for detections, warnings, ADWIN's window and the mean after its changes;
1e-14, relative, for p-values.
"""

import json
import random
import struct
import subprocess
import sys
import warnings

import numpy as np
import scipy
from river import __version__ as river_version
from river import drift
from scipy.stats import ks_2samp


def bits(x):
    return struct.unpack("<Q", struct.pack("<d", float(x)))[0]


def number(b):
    return struct.unpack("<d", struct.pack("<Q", b))[0]


def our_detector(method):
    [(name, config)] = method.items()
    config = dict(config)
    mode = config.pop("mode", None)
    return {"column": "x", "method": f"{name}-{mode}" if mode else name, **config}


def river_detector(method):
    [(name, config)] = method.items()
    config = {key.replace("-", "_"): value for key, value in config.items()}
    kind = {
        "adwin": drift.ADWIN,
        "page-hinkley": drift.PageHinkley,
        "kswin": lambda **c: drift.KSWIN(**{"seed": 0, **c}),
        "ddm": drift.binary.DDM,
    }
    return kind[name](**config)


def expected(method, values):
    """What river says of every row."""
    detector = river_detector(method)
    answer = {"changes": [], "warnings": [], "after": [], "windows": []}
    warned = False
    for row, x in enumerate(values):
        detector.update(x)
        warns = getattr(detector, "warning_detected", False)
        if warns and not warned:
            answer["warnings"].append(row)
        # A change ends the warning; with the next row the zone is entered anew.
        warned = warns
        if detector.drift_detected:
            answer["changes"].append(row)
        if "adwin" in method:
            if detector.drift_detected:
                answer["after"].append(bits(detector.estimation))
                # river keeps the cut window until the next row comes.
                answer["windows"].append([0, bits(0.0), bits(0.0)])
            else:
                window = [int(detector.width), bits(detector.total), bits(detector.variance)]
                answer["windows"].append(window)
    return answer


def known():
    """Streams and detections as river's tests and documentation state them."""
    np.random.seed(12345)
    integers = np.concatenate((np.random.randint(2, size=1000), np.random.randint(8, size=1000)))
    np.random.seed(12345)
    errors = [np.random.binomial(1, p) for p in [0.2] * 1000 + [0.8] * 1000]
    kswin = {"alpha": 0.0001, "window-size": 200, "stat-size": 100, "seed": 42}
    yield {"adwin": {}}, integers, [1023]
    yield {"page-hinkley": {}}, integers, [1020, 1397, 1548, 1988]
    yield {"kswin": kswin}, integers, [1042]
    yield {"ddm": {}}, errors, None
    rng = random.Random(12345)
    documented = rng.choices([0, 1], k=1000) + rng.choices(range(4, 8), k=1000)
    yield {"adwin": {}}, documented, [1023]
    yield {"page-hinkley": {}}, documented, [1006]
    yield {"kswin": {"alpha": 0.0001, "seed": 42}}, documented, [1016]
    rng = random.Random(42)
    documented = rng.choices([0, 1], k=1000)
    documented += rng.choices([0, 1], k=1000, weights=[0.3, 0.7])
    yield {"ddm": {}}, documented, [1334]


def streams(rng, rows):
    """Seeded streams: shifts, steps of spread, slopes, ties, extremes, none."""
    half = rows // 2
    normal = rng.normal(size=rows)
    step = np.arange(rows) >= half
    yield normal
    yield normal + 3.0 * step
    yield normal - 0.7 * step
    yield normal * (1.0 + 4.0 * step)
    yield normal + np.linspace(0.0, 4.0, rows)
    yield np.sin(np.arange(rows) / 40.0) * 3.0 + 0.1 * normal
    yield 1e9 + 1e-3 * normal + 5e-3 * step
    yield 1e-12 * (normal + 2.0 * step)
    yield rng.standard_cauchy(size=rows)
    yield rng.lognormal(sigma=2.0, size=rows) * (1.0 + step)
    yield rng.integers(0, 3, size=rows) + 1.0 * step
    yield np.full(rows, 0.1)
    yield np.where(step, 0.3, 0.1)
    yield np.round(normal + step, 1) * rng.choice([1.0, -0.0], size=rows)


def errors(rng, rows):
    for before, after in [(0.1, 0.1), (0.1, 0.3), (0.5, 0.2), (0.02, 0.9), (0.0, 0.2), (1.0, 1.0)]:
        rate = np.where(np.arange(rows) < rows // 2, before, after)
        yield (rng.random(rows) < rate).astype(float)


def cases():
    rng = np.random.default_rng(20261124)
    adwin = [
        {},
        {"delta": 0.3, "clock": 1},
        {"delta": 1e-6, "clock": 7, "max-buckets": 2},
        {"max-buckets": 13, "min-window-length": 1, "grace-period": 0, "clock": 3},
    ]
    page_hinkley = [
        {},
        {"threshold": 5.0, "mode": "up"},
        {"threshold": 5.0, "mode": "down", "delta": 0.1},
        {"threshold": 2.0, "alpha": 0.95, "min-instances": 1},
        {"threshold": 8.0, "delta": 0.0, "alpha": 1.0},
    ]
    kswin = [
        {},
        {"alpha": 0.0001, "seed": 42},
        {"alpha": 0.01, "window-size": 60, "stat-size": 30, "seed": 2**31 + 11},
        {"window-size": 200, "stat-size": 5, "alpha": 0.02, "seed": 7},
        {"window-size": 150, "stat-size": 60, "seed": 2**32 - 1},
    ]
    ddm = [
        {},
        {"warm-start": 5, "warning-threshold": 1.0, "drift-threshold": 1.5},
        {"warm-start": 100, "drift-threshold": 4.0},
    ]
    for _ in range(3):
        for values in streams(rng, 3000):
            yield from (({"adwin": c}, values, None) for c in adwin)
            yield from (({"page-hinkley": c}, values, None) for c in page_hinkley)
    for i, values in enumerate(streams(rng, 260)):
        yield {"kswin": kswin[i % len(kswin)]}, values, None
        yield {"kswin": kswin[(i + 2) % len(kswin)]}, values, None
    for _ in range(4):
        for values in errors(rng, 2000):
            yield from (({"ddm": c}, values, None) for c in ddm)


def judge(examples, lines):
    run = subprocess.run(
        [f"{examples}/monitor-change-judge"],
        input="\n".join(json.dumps(line) for line in lines) + "\n",
        capture_output=True,
        text=True,
    )
    if run.returncode != 0:
        sys.exit(f"monitor-change-judge failed: {run.stderr}")
    return [json.loads(line) for line in run.stdout.splitlines()]


def main():
    examples = sys.argv[1]
    todo = [(method, [float(x) for x in values], at) for method, values, at in known()]
    todo += [(method, [float(x) for x in values], at) for method, values, at in cases()]
    lines = [
        {"detector": our_detector(method), "values": [bits(x) for x in values]}
        for method, values, _ in todo
    ]
    tests = [(n, h) for n in (1, 5, 30, 100, 500) for h in range(0, n + 1, max(1, n // 40))]
    lines += [{"ks": test} for test in tests]
    answers = judge(examples, lines)
    assert len(answers) == len(lines)

    changes = rows = 0
    for (method, values, at), ours in zip(todo, answers):
        theirs = expected(method, values)
        if at is not None and theirs["changes"] != at:
            sys.exit(f"river itself: {method} finds {theirs['changes']}, its documentation {at}")
        for what in ("changes", "warnings") + (("after", "windows") if "adwin" in method else ()):
            if ours[what] == theirs[what]:
                continue
            pairs = enumerate(zip(ours[what] + [None], theirs[what] + [None]))
            first = next(f"at {i} {a}, river {b}" for i, (a, b) in pairs if a != b)
            sys.exit(f"{method} on {values[:4]}...: {what}: {first}")
        changes += len(theirs["changes"])
        rows += len(values)

    # SciPy says where p would come out above 1.
    warnings.simplefilter("ignore", RuntimeWarning)
    worst = 0.0
    for (n, h), ours in zip(tests, answers[len(todo) :]):
        a = np.arange(float(n))
        p = ks_2samp(a, a + h - 0.5 if h > 0 else a).pvalue
        ours = number(ours["p"])
        difference = abs(ours - p) / p
        worst = max(worst, difference)
        if difference > 1e-14:
            sys.exit(f"two samples of {n} that are {h} apart: p is {ours}, SciPy has {p}")
    print(
        f"river {river_version}: {len(todo)} streams, {rows} rows, the same {changes} changes; "
        f"SciPy {scipy.__version__}: {len(tests)} p-values, largest relative difference {worst:.1e}"
    )


if __name__ == "__main__":
    main()
