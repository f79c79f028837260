"""Scores, thresholds and rates against scikit-learn's and SciPy's.

    python3 tests/judge.py EXAMPLES_DIR

Mahalanobis distances against EmpiricalCovariance, learnt from the rows that
`fit` learns from (every other one that is complete); distances of the k-th
neighbour against NearestNeighbors, over the points that `fit` kept, which must
be rows that it learns from; thresholds against NumPy's quantiles
(`inverted_cdf`) and SciPy's chi-squared; rates against SciPy's beta (Clopper
and Pearson) and binomial. Tolerance: 1e-9, relative.
"""

import json
import struct
import subprocess
import sys

import numpy as np
import scipy
import sklearn
from scipy.stats import beta, binom, chi2
from sklearn.covariance import EmpiricalCovariance
from sklearn.neighbors import NearestNeighbors

TOLERANCE = 1e-9
QUANTILES = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99]
CONFIDENCE = 0.99


def bits(values):
    return [struct.unpack("<Q", struct.pack("<d", float(x)))[0] for x in values]


def numbers(values):
    return np.array([struct.unpack("<d", struct.pack("<Q", b))[0] for b in values])


class Comparison:
    def __init__(self):
        self.count, self.worst = 0, 0.0

    def close(self, what, ours, theirs):
        ours, theirs = np.atleast_1d(ours), np.atleast_1d(theirs)
        if ours.shape != theirs.shape:
            sys.exit(f"{what}: {ours.shape} numbers, {theirs.shape} expected")
        difference = np.abs(ours - theirs) / np.maximum(np.abs(theirs), 1e-12)
        worst = int(np.argmax(difference))
        self.count += ours.size
        self.worst = max(self.worst, float(difference[worst]))
        # Written so that NaN fails, too.
        if not np.all(difference <= TOLERANCE):
            sys.exit(f"{what}: number {worst} is {ours[worst]!r}, not {theirs[worst]!r}")


def data(rng, rows, d):
    """Correlated columns of very different units, some values missing."""
    mix = rng.normal(size=(d, d)) + np.eye(d)
    x = rng.standard_t(5, size=(rows, d)) @ mix * 10.0 ** rng.integers(-4, 5, size=d)
    x = x + rng.normal(size=d) * 10.0 ** rng.integers(-2, 3, size=d)
    x[rng.random(size=x.shape) < 0.002] = np.nan
    return x


def fits(rng):
    for rows, d in [(200, 1), (400, 3), (1000, 8), (700, 30)]:
        for threshold in (["quantile", 0.99], ["quantile", 0.95], ["chi2", 0.01]):
            yield {"method": "mahalanobis", "threshold": threshold}, data(rng, rows, d)
        for k, points in [(1, 50), (5, 10_000), (32, 100)]:
            case = {"method": "nearest", "threshold": ["quantile", 0.98], "k": k, "seed": k}
            yield {**case, "max_points": min(points, 4096 // d)}, data(rng, rows, d)
    yield {"method": "reconstruction", "threshold": ["quantile", 0.99]}, np.abs(data(rng, 500, 1))
    for d in (1, 4):
        yield {"method": "squeezing", "threshold": ["quantile", 0.9]}, data(rng, 600, 2 * d)


def check_fit(compare, case, x, fresh, answer):
    what = f"{case['method']} over {x.shape}, {case['threshold']}"
    ours = {name: numbers(values) for name, values in answer["numbers"].items()}
    complete = x[~np.isnan(x).any(axis=1)]
    learnt, judged = complete[0::2], complete[1::2]
    if case["method"] == "mahalanobis":
        # The distance does not depend on units; scikit-learn's pseudo-inverse
        # drops what is small in them. Powers of two round nothing.
        unit = 2.0 ** np.round(np.log2(learnt.std(axis=0)))
        covariance = EmpiricalCovariance().fit(learnt / unit)
        compare.close(f"{what}: mean", ours["mean"], covariance.location_ * unit)

        def score(rows):
            return covariance.mahalanobis(rows / unit)

    elif case["method"] == "nearest":
        points = ours["points"].reshape(-1, x.shape[1])
        scaled = learnt / learnt.std(axis=0)
        compare.close(f"{what}: scale", ours["scale"], learnt.std(axis=0))
        neighbours = NearestNeighbors(n_neighbors=case["k"], algorithm="brute").fit(points)
        # The points are rows that were learnt from, none twice.
        gaps = np.stack([np.abs(scaled - point).max(axis=1) for point in points])
        wanted, of = min(case["max_points"], len(learnt)), gaps.argmin(axis=1)
        if len(points) != wanted or gaps.min(axis=1).max() > 1e-9 or len(set(of)) != wanted:
            sys.exit(f"{what}: the points are not {wanted} different rows")

        # Differences first: scikit-learn's own distances cancel.
        def score(rows):
            rows = rows / ours["scale"]
            of = neighbours.kneighbors(rows, return_distance=False)
            return np.linalg.norm(rows[:, None, :] - points[of], axis=2).max(axis=1)
    elif case["method"] == "reconstruction":
        judged, score = complete, lambda rows: rows[:, 0]
    else:
        half = x.shape[1] // 2
        judged, score = complete, lambda rows: np.abs(rows[:, :half] - rows[:, half:]).sum(axis=1)

    compare.close(f"{what}: scores", numbers(answer["scores"]), score(fresh))
    scores = score(judged)
    kind, of = case["threshold"]
    if kind == "chi2":
        threshold = chi2.isf(of, x.shape[1])
    else:
        threshold = np.quantile(scores, of, method="inverted_cdf")
    compare.close(f"{what}: threshold", ours["threshold"], threshold)
    # Over our own threshold: a quantile is one of the scores.
    outliers = int((scores > threshold * (1 + 1e-12)).sum())
    upper = beta.ppf(CONFIDENCE, outliers + 1, len(judged) - outliers)
    compare.close(f"{what}: max-outlier-rate", ours["max-outlier-rate"], upper)
    missing = len(x) - len(complete)
    upper = beta.ppf(CONFIDENCE, missing + 1, len(x) - missing)
    compare.close(f"{what}: max-unscored-rate", ours["max-unscored-rate"], upper)
    edges = np.unique(np.quantile(scores, QUANTILES, method="inverted_cdf"))
    compare.close(f"{what}: edges", ours["edges"], edges[edges > scores.min()])
    counts = answer["reference"]["scores"]["counts"]
    binned = np.searchsorted(edges * (1 - 1e-12), scores, side="right")
    if counts != np.bincount(binned, minlength=len(edges) + 1).tolist():
        sys.exit(f"{what}: counts of bins are {counts}")


def check_rate(compare, case, answer):
    """The threshold is the greatest count that chance explains."""
    n, alpha = case["scored"], case["alpha"] / 3
    chance = int(binom.isf(alpha, n, case["good"]))
    # isf is of the rounding kind: step to where it is exact.
    while binom.sf(chance, n, case["good"]) > alpha:
        chance += 1
    while chance > 0 and binom.sf(chance - 1, n, case["good"]) <= alpha:
        chance -= 1
    threshold = max(chance / n, case["good"])
    if (case["outliers"] / n > threshold) != (answer["threshold"] is not None):
        sys.exit(f"{case}: an alarm, or none, against a threshold of {threshold}")
    if answer["threshold"] is not None:
        compare.close(str(case), numbers([answer["threshold"]]), threshold)


def main():
    rng = np.random.default_rng(20261124)
    todo = []
    for case, x in fits(rng):
        half = x.shape[1] // 2 if case["method"] == "squeezing" else 0
        names = [f"c{i}" for i in range(x.shape[1])]
        defaults = {"k": 1, "max_points": 1, "seed": 0}
        fresh = data(rng, 60, x.shape[1])
        fresh = np.nan_to_num(np.vstack([fresh, x[:60] * 1.5]))
        line = {**defaults, **case, "squeezed": names[x.shape[1] - half :] if half else []}
        line["columns"] = [[name, bits(x[:, i])] for i, name in enumerate(names)]
        line["rows"] = [bits(row) for row in fresh]
        todo.append((line, check_fit, (case, x, fresh)))
    for good in (0.0, 0.001, 0.02, 0.3):
        for scored in (50, 500, 20_000):
            for excess in (0, 1, 3, 10, 40):
                outliers = min(scored, int(good * scored) + excess * (1 + scored // 1000))
                case = {"good": good, "scored": scored, "outliers": outliers, "alpha": 0.01}
                todo.append((case, check_rate, (case,)))
    run = subprocess.run(
        [f"{sys.argv[1]}/monitor-outlier-judge"],
        input="".join(json.dumps(line) + "\n" for line, _, _ in todo),
        capture_output=True,
        text=True,
    )
    if run.returncode != 0:
        sys.exit(f"monitor-outlier-judge failed: {run.stderr}")
    answers = [json.loads(line) for line in run.stdout.splitlines()]
    if len(answers) != len(todo):
        sys.exit(f"{len(answers)} answers to {len(todo)} cases")
    compare = Comparison()
    for (_, check, arguments), answer in zip(todo, answers):
        check(compare, *arguments, answer)
    print(
        f"scikit-learn {sklearn.__version__}, SciPy {scipy.__version__}: {len(todo)} cases, "
        f"{compare.count} numbers, largest relative difference {compare.worst:.1e}"
    )


if __name__ == "__main__":
    main()
