"""Contributions and rankings beside shap's and scikit-learn's.

    judge.py EXAMPLES_DIR

Runs EXAMPLES_DIR/explainer-attribution-judge on seeded cases and compares:

- exact Shapley values, and KernelSHAP over every coalition, with
  shap.explainers.Exact on up to 10 features;
- KernelSHAP over some coalitions of more features: of linear and additive
  models with the known values; of models with interactions with
  shap.explainers.Exact, where its error may be at most that of
  shap.KernelExplainer on as many coalitions, times LEEWAY;
- occlusion with a sliding window in NumPy, written for this;
- the nDCG of rankings, ties among them, with sklearn.metrics.ndcg_score.

That contributions add up is checked of every case. Differences are relative to
the greatest number of the case, or to 1 where that is smaller.
"""

import json
import struct
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import shap
from sklearn.metrics import ndcg_score

TOLERANCE = 1e-9
# What KernelSHAP's error on a model with interactions may be, of its greatest
# value, and how much larger than shap's on average.
SAMPLED = 0.2
LEEWAY = 1.25


def bits(value):
    return struct.pack(">d", value).hex()


def value(text):
    return struct.unpack(">d", bytes.fromhex(text))[0]


def of(model):
    """The model as a function of rows."""

    def f(rows):
        rows = np.asarray(rows, float)
        total = rows @ model["linear"] + np.abs(rows) @ model["absolute"]
        for i, j, b in model["pairs"]:
            total = total + b * rows[:, i] * rows[:, j]
        for i, j, k, b in model["triples"]:
            total = total + b * rows[:, i] * rows[:, j] * rows[:, k]
        return total

    return f


def make_model(rng, n, additive=False, linear=False):
    pick = lambda count, of: [
        (*(int(i) for i in rng.integers(0, n, of)), rng.normal()) for _ in range(count)
    ]
    squares = [(i, i, rng.normal()) for i in range(n)]
    return {
        "linear": rng.normal(size=n),
        "absolute": np.zeros(n) if linear else rng.normal(size=n),
        "pairs": [] if linear else squares if additive else pick(n, 2),
        "triples": [] if linear or additive else pick(n // 2, 3),
    }


def make_case(rng, n, method, rows=3, **kind):
    return {
        "model": make_model(rng, n, **kind),
        "input": rng.normal(size=n),
        "shape": [n],
        "method": method,
        "background": rng.normal(size=(rows, n)),
        "groups": [],
        "coalitions": None,
        "seed": int(rng.integers(0, 2**63)),
        "patch": [],
        "stride": [],
        "fill": 0.0,
    }


def encode(item):
    if isinstance(item, dict):
        return {key: encode(v) for key, v in item.items()}
    if isinstance(item, (list, tuple, np.ndarray)):
        return [encode(v) for v in item]
    return bits(item) if isinstance(item, float) else item


def exact(case):
    background = case["background"]
    masker = shap.maskers.Independent(background, max_samples=len(background))
    explainer = shap.explainers.Exact(of(case["model"]), masker)
    told = explainer(case["input"][None, :], silent=True)
    return told.values[0], told.base_values[0]


def kernel(case, coalitions):
    explainer = shap.KernelExplainer(of(case["model"]), case["background"])
    return explainer.shap_values(
        case["input"][None, :], nsamples=coalitions, l1_reg=False, silent=True
    )[0]


def additive(case):
    """Each feature's function less its mean over the background."""
    model, x, background = case["model"], case["input"], case["background"]

    def parts(rows):
        square = np.zeros(rows.shape[1])
        for i, _, b in model["pairs"]:
            square[i] += b
        return model["linear"] * rows + model["absolute"] * np.abs(rows) + square * rows**2

    of_background = parts(background)
    return parts(x[None, :])[0] - of_background.mean(axis=0), of_background.sum(axis=1).mean()


def occlusion(case):
    """A window over the last axes; an element has the mean of its windows."""
    f, x, shape = of(case["model"]), case["input"].reshape(case["shape"]), case["shape"]
    size = [*shape[: len(shape) - len(case["patch"])], *case["patch"]]
    stride = [*shape[: len(shape) - len(case["patch"])], *case["stride"]]
    full, total, times = f(x.reshape(1, -1))[0], np.zeros(shape), np.zeros(shape)
    starts = [range(0, max(n - s, 0) + step, step) for n, s, step in zip(shape, size, stride)]
    for corner in np.array(np.meshgrid(*starts, indexing="ij")).reshape(len(shape), -1).T:
        window = tuple(slice(c, c + s) for c, s in zip(corner, size))
        covered = x.copy()
        covered[window] = case["fill"]
        total[window] += full - f(covered.reshape(1, -1))[0]
        times[window] += 1
    empty = f(np.full((1, x.size), case["fill"]))[0]
    return (total / times).reshape(-1), empty


def ask(judge, lines):
    run = subprocess.run(
        [judge], input="\n".join(lines), stdout=subprocess.PIPE, text=True, check=True
    )
    return [json.loads(line) for line in run.stdout.splitlines()]


def main():
    warnings.filterwarnings("ignore")
    rng = np.random.default_rng(20)
    cases = []
    for n in range(1, 11):
        for _ in range(3):
            cases.append((exact, TOLERANCE, make_case(rng, n, "exact")))
            cases.append((exact, TOLERANCE, make_case(rng, n, "kernel")))
    for n in [11, 16, 30, 64]:
        for kind in [{"linear": True}, {"additive": True}]:
            case = make_case(rng, n, "auto", **kind)
            case["coalitions"] = 2 * n + 50
            cases.append((additive, TOLERANCE, case))
    for n in [11, 12, 13]:
        for _ in range(8):
            case = make_case(rng, n, "kernel")
            case["coalitions"] = 400
            cases.append((exact, SAMPLED, case))
    for shape, patch, stride in [
        ([1, 2, 6, 7], [2, 3], [1, 2]),
        ([1, 8, 8], [2, 2], [2, 2]),
        ([20], [7], [3]),
        ([5, 4, 3], [2, 2, 3], [2, 2, 3]),
    ]:
        case = make_case(rng, int(np.prod(shape)), "occlusion")
        case |= {"shape": shape, "patch": patch, "stride": stride, "fill": 0.25}
        cases.append((occlusion, TOLERANCE, case))
    ranks = []
    for _ in range(200):
        n = int(rng.integers(2, 12))
        # Few values, so that there are ties.
        ranks.append((rng.integers(1, 5, n) * 0.5, rng.integers(0, 4, n) * 0.25))

    lines = [json.dumps({"contributions": encode(case)}) for _, _, case in cases]
    lines += [json.dumps({"ndcg": {"baseline": encode(a), "live": encode(b)}}) for a, b in ranks]
    said = ask(Path(sys.argv[1]) / "explainer-attribution-judge", lines)
    assert len(said) == len(lines), "not an answer for each case"

    worst = {}
    errors, of_shap = [], []
    for (oracle, tolerance, case), ours in zip(cases, said):
        described = f"{case['method']} of {len(case['input'])} features by {oracle.__name__}"
        if "error" in ours:
            sys.exit(f"{described}: {ours['error']}\n{case}")
        values = np.array([value(v) for v in ours["values"]])
        base, prediction = value(ours["base"]), value(ours["prediction"])
        theirs, their_base = oracle(case)
        scale = max(1.0, np.abs(theirs).max(), abs(their_base))
        difference = max(np.abs(values - theirs).max(), abs(base - their_base)) / scale
        if oracle is not occlusion:
            gap = abs(values.sum() + base - prediction) / scale
            if not gap <= TOLERANCE:
                sys.exit(f"{described}: the sum is {gap:.3g} off\n{case}")
        if tolerance == SAMPLED:
            errors.append(difference)
            theirs_sampled = kernel(case, case["coalitions"])
            of_shap.append(np.abs(theirs_sampled - theirs).max() / scale)
            difference = np.abs(values - theirs).max() / np.abs(theirs).max()
        if not difference <= tolerance:
            sys.exit(f"{described}: {difference:.3g} off, {tolerance} allowed\n{case}")
        kind = (oracle.__name__, tolerance)
        worst[kind] = max(worst.get(kind, 0.0), difference)
    if not np.mean(errors) <= LEEWAY * np.mean(of_shap):
        sys.exit(f"KernelSHAP is {np.mean(errors):.3g} off on average, shap {np.mean(of_shap):.3g}")
    worst_rank = 0.0
    for (baseline, live), ours in zip(ranks, said[len(cases) :]):
        theirs = ndcg_score([baseline], [live])
        difference = abs(value(ours["ndcg"]) - theirs) if "ndcg" in ours else np.inf
        if not difference <= TOLERANCE:
            sys.exit(f"nDCG of {live} by {baseline}: {ours}, scikit-learn says {theirs}")
        worst_rank = max(worst_rank, difference)
    print(
        f"shap {shap.__version__}, NumPy and scikit-learn: {len(cases)} explanations and "
        f"{len(ranks)} rankings; largest differences "
        + ", ".join(f"{name} {by:.1e} of {tol:g}" for (name, tol), by in worst.items())
        + f", nDCG {worst_rank:.1e}; sampled on average {np.mean(errors):.4f}, "
        f"shap {np.mean(of_shap):.4f}"
    )


if __name__ == "__main__":
    main()
