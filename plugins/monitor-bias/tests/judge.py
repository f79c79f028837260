"""Holds monitor-bias against the definitions, written down anew in NumPy over
rows, and against smclarify 0.5 where that is installed.

    python judge.py EXAMPLES_DIR

Rows are made from fixed seeds, seen by several devices, and merged. Metrics
agree to 1e-12. Of the intervals, Wilson's is SciPy's to 1e-12, and Newcombe's
is put together from SciPy's two.
"""

import json
import struct
import subprocess
import sys

import numpy as np
from scipy.stats import binomtest, norm

try:
    import pandas as pd
    from smclarify.bias.metrics import posttraining, pretraining
except ImportError:
    pretraining = None

TOLERANCE = 1e-12


def unpack(text):
    return struct.unpack(">d", bytes.fromhex(text))[0]


def make(rng):
    n = int(rng.integers(20, 600))
    d = rng.random(n) < rng.uniform(0.1, 0.9)
    y = rng.random(n) < np.where(d, rng.random(), rng.random())
    p = np.where(rng.random(n) < rng.uniform(0.5, 1.0), y, rng.random(n) < 0.5)
    group = rng.integers(0, 4, n)
    labelled = rng.random(n) < rng.choice([0.7, 1.0])
    predicted = rng.random(n) < rng.choice([0.9, 1.0])
    known = rng.random(n) < 0.95
    age = np.where(d, 60.5, 20.0) + rng.integers(0, 30, n)
    by_number = rng.random() < 0.5
    facet = [float(a) if k else None for a, k in zip(age, known)]
    if not by_number:
        facet = [None if a is None else ("old" if a > 60 else "young") for a in facet]
    config = {
        "facet": {"column": "f", "above": 60.0} if by_number else {"column": "f", "values": ["old"]},
        "label": {"column": "y", "values": ["yes", "sure"]},
        "prediction": {"column": "p", "values": ["1"]},
        "group": {"column": "g", "values": ["0", "1", "2"]},
    }
    columns = {
        "f": facet,
        "y": [str(rng.choice(["yes", "sure"] if v else ["no", "never"])) if k else None for v, k in zip(y, labelled)],
        "p": [float(v) if k else None for v, k in zip(p, predicted)],
        "g": [str(g) for g in group],
    }
    z = float(norm.isf(rng.uniform(1e-4, 0.05)))
    case = {"config": config, "columns": columns, "parts": int(rng.integers(1, 6)), "z": z}
    d = age > 60
    return case, [x[known] for x in (d, y, p, group, labelled, predicted)]


def ratio(a, b):
    return a / b if b else np.nan


def disparity(d, outcome, group):
    """Over groups that have both outcomes."""
    total, weights = 0.0, 0
    for g in np.unique(group):
        of = group == g
        rejected, accepted = of & ~outcome, of & outcome
        if rejected.any() and accepted.any():
            total += of.sum() * ((rejected & d).sum() / rejected.sum() - (accepted & d).sum() / accepted.sum())
            weights += of.sum()
    return total / weights if weights else np.nan


def definitions(d, y, p, group, labelled, predicted):
    a = ~d
    both = labelled & predicted
    out = {"ci": (a.sum() - d.sum()) / len(d)}
    with np.errstate(divide="ignore", invalid="ignore"):
        P = [np.array([(y & f & labelled).sum(), (~y & f & labelled).sum()]) / (f & labelled).sum() for f in (a, d)]
        mix = (P[0] + P[1]) / 2

        def kl(u, v):
            return np.where(u > 0, u * np.log(u / v), 0.0).sum()

        out |= {
            "dpl": P[0][0] - P[1][0],
            "kl": kl(P[0], P[1]),
            "js": (kl(P[0], mix) + kl(P[1], mix)) / 2,
            "lp": np.linalg.norm(P[0] - P[1], 2),
            "tvd": np.linalg.norm(P[0] - P[1], 1) / 2,
            "ks": np.linalg.norm(P[0] - P[1], np.inf),
        }
    out["cddl"] = disparity(d[labelled], y[labelled], group[labelled])
    out["cddpl"] = disparity(d[predicted], p[predicted], group[predicted])
    q = [ratio((p & f & predicted).sum(), (f & predicted).sum()) for f in (a, d)]
    out |= {"dppl": q[0] - q[1], "di": ratio(q[1], q[0])}
    c = [{"tp": (f & both & y & p).sum(), "fn": (f & both & y & ~p).sum(), "fp": (f & both & ~y & p).sum(),
          "tn": (f & both & ~y & ~p).sum()} for f in (a, d)]

    def difference(of, reverse=False):
        u, v = (of(m["tp"], m["fn"], m["fp"], m["tn"]) for m in c)
        return v - u if reverse else u - v

    benefit = (1 + p.astype(int) - y.astype(int))[both]
    mean = benefit.mean() if both.any() else 0
    out |= {
        "dca": difference(lambda tp, fn, fp, tn: ratio(tp + fn, tp + fp)),
        "dcr": difference(lambda tp, fn, fp, tn: ratio(tn + fp, tn + fn), True),
        "rd": difference(lambda tp, fn, fp, tn: ratio(tp, tp + fn)),
        "sd": difference(lambda tp, fn, fp, tn: ratio(tn, tn + fp), True),
        "dar": difference(lambda tp, fn, fp, tn: ratio(tp, tp + fp)),
        "drr": difference(lambda tp, fn, fp, tn: ratio(tn, tn + fn), True),
        "ad": difference(lambda tp, fn, fp, tn: ratio(tp + tn, tp + fn + fp + tn)),
        "te": difference(lambda tp, fn, fp, tn: ratio(fn, fp), True),
        "ge": np.mean((benefit / mean) ** 2 - 1) / 2 if mean else np.nan,
    }
    return out


def clarify(d, y, p, group, labelled, predicted):
    """What smclarify says of the rows that have all that a metric is over,
    where nothing is divided by 0: there it says 0 or 1e12."""
    out = {}

    def run(name, metric, use, *columns):
        series = [pd.Series(c[use]).reset_index(drop=True) for c in columns]
        out[name] = metric(series[0], *series) if name != "ge" else metric(*series)

    def counts(use, *outcomes):
        return all(((f & use & o & w).any()) for f in (d, ~d) for o in (outcomes[0], ~outcomes[0])
                   for w in ((outcomes[1], ~outcomes[1]) if len(outcomes) > 1 else (use,)))

    both = labelled & predicted
    every = np.ones(len(d), bool)
    run("ci", lambda f, s: pretraining.CI(f, s), every, d)
    if counts(labelled, y):
        run("dpl", lambda f, s, l: pretraining.DPL(f, s, l), labelled, d, y)
        for name in ("kl", "js", "lp", "tvd", "ks"):
            run(name, lambda f, s, l, m=getattr(pretraining, name.upper()): m(l, s), labelled, d, y)
        if all((labelled & (group == g) & o).any() for g in np.unique(group[labelled]) for o in (y, ~y)):
            run("cddl", pretraining.CDDL, labelled, d, y, group)
    if counts(predicted, p):
        run("dppl", posttraining.DPPL, predicted, d, p)
        run("di", posttraining.DI, predicted, d, p)
        if all((predicted & (group == g) & o).any() for g in np.unique(group[predicted]) for o in (p, ~p)):
            run("cddpl", posttraining.CDDPL, predicted, d, p, group)
    if counts(both, y, p):
        for name in ("dca", "dcr", "rd", "sd", "dar", "drr", "ad", "te"):
            run(name, getattr(posttraining, name.upper()), both, d, y, p)
        run("ge", lambda l, q: posttraining.GE(l, q), both, y, p)
    return out


def main():
    made = [make(np.random.default_rng(seed)) for seed in range(400)]
    run = subprocess.run([f"{sys.argv[1]}/monitor-bias-judge"], text=True, capture_output=True,
                         input="\n".join(json.dumps(case) for case, _ in made))
    if run.returncode:
        sys.exit(run.stderr)
    answers = [json.loads(line) for line in run.stdout.splitlines()]
    assert len(answers) == len(made)
    compared, beside, undefined, worst = 0, 0, 0, 0.0

    def check(case, what, ours, theirs):
        nonlocal compared, worst
        compared += 1
        worst = max(worst, abs(ours - theirs))
        if not abs(ours - theirs) <= TOLERANCE:
            print(json.dumps(case))
            sys.exit(f"{what}: {ours!r} here, {theirs!r} there, {TOLERANCE} allowed")

    for (case, rows), answer in zip(made, answers):
        values = {name: unpack(text) for name, text in answer["values"].items()}
        theirs = definitions(*rows)
        for name, value in theirs.items():
            if np.isfinite(value):
                check(case, name, values.get(name, np.nan), value)
            else:
                undefined += 1
                if name in values:
                    print(json.dumps(case))
                    sys.exit(f"{name}: {values[name]!r} here, undefined there")
        if pretraining:
            for name, value in clarify(*rows).items():
                check(case, f"{name} of smclarify", values[name], value)
                beside += 1
        d, _, p, _, _, predicted = rows
        confidence = 1 - 2 * norm.sf(case["z"])
        shares, wilson = [], []
        for f in (~d, d):
            k, n = int((p & f & predicted).sum()), int((f & predicted).sum())
            if n == 0:
                break
            ci = binomtest(k, n).proportion_ci(confidence, method="wilson")
            shares.append(k / n)
            wilson.append((ci.low, ci.high))
        if len(shares) < 2:
            continue
        (al, ah), (dl, dh) = wilson
        low = shares[0] - shares[1] - np.hypot(shares[0] - al, dh - shares[1])
        high = shares[0] - shares[1] + np.hypot(ah - shares[0], shares[1] - dl)
        for (ours_low, ours_high), (low, high) in zip(answer["intervals"], [*wilson, (low, high)]):
            check(case, "interval", unpack(ours_low), low)
            check(case, "interval", unpack(ours_high), high)
    also = f", smclarify in {beside}" if beside else ""
    print(f"NumPy and SciPy{also}: {len(made)} cases, {compared} numbers, {undefined} undefined, differing by at most "
          f"{worst:.1e}; {max(a['bytes'] for a in answers)} bytes the largest summary")


main()
