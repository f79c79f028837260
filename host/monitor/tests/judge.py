"""Holds the statistics of headland-monitor against SciPy's.

    python judge.py EXAMPLES_DIR        (SciPy 1.17 or newer)

Tails, quantiles and p-values agree to 1e-9 of their value, distances to 1e-12.
"""

import json
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
from scipy import stats
from scipy.spatial.distance import jensenshannon

TAILS = 1e-9  # relative
DISTANCES = 1e-12  # absolute, of values near 1


def bits(x):
    return struct.unpack("<Q", struct.pack("<d", float(x)))[0]


def from_bits(n):
    return struct.unpack("<d", struct.pack("<Q", n))[0]


def numbers(f, args, expected, tolerance=TAILS):
    return {"f": f, "numbers": [bits(a) for a in args]}, [float(expected)], tolerance, True


def counts(f, a, b, expected, args=()):
    case = {"f": f, "numbers": [bits(x) for x in args]}
    case["counts"] = [[int(x) for x in a], [int(x) for x in b]]
    return case, [float(x) for x in np.atleast_1d(expected)], DISTANCES, False


def tails():
    for n, p in [(1, 0.5), (20, 0.3), (500, 0.01), (10_000, 0.004), (1_000_000, 0.05)]:
        some = {0, 1, int(n * p), int(n * p * 1.2) + 3, int(n * p * 1.5) + 9, n}
        for k in sorted(k for k in some if k <= n):
            if (sf := stats.binom.sf(k - 1, n, p)) > 1e-280:
                yield numbers("binomial_upper_tail", (k, n, p), sf)
            if (cdf := stats.binom.cdf(k, n, p)) > 1e-280:
                yield numbers("binomial_lower_tail", (k, n, p), cdf)
            for c in [0.95, 0.999]:
                upper = stats.beta.ppf(c, k + 1, n - k) if k < n else 1
                lower = stats.beta.ppf(1 - c, k, n - k + 1) if k > 0 else 0
                yield numbers("clopper_pearson_upper", (k, n, c), upper)
                yield numbers("clopper_pearson_lower", (k, n, c), lower)
    for n in [2, 10, 500, 43_500]:
        yield numbers("wilks_outside_range", (n, 0.99), stats.beta.ppf(0.99, 2, n - 1))
    for k in [0.3, 1, 2, 3.7, 9, 40, 999, 100_000]:
        for x in k * np.array([0.01, 0.5, 0.99, 1.01, 1.3, 2, 5]):
            if (sf := stats.chi2.sf(x, k)) > 1e-280:
                yield numbers("chi2_upper_tail", (x, k), sf)
        for a in [0.9, 0.05, 1e-3, 1e-9]:
            yield numbers("chi2_upper_quantile", (a, k), stats.chi2.isf(a, k))
    for z in [-8, -1.5, -1e-5, 0, 1e-9, 0.3, 1, 1.22474487, 1.5, 4, 12, 37]:
        yield numbers("normal_upper_tail", (z,), stats.norm.sf(z))
    for a in [1e-300, 1e-12, 0.001, 0.025, 0.4, 0.6, 0.975, 0.999]:
        yield numbers("normal_upper_quantile", (a,), stats.norm.isf(a))
    for x in [0.05, 0.3, 0.5, 0.9, 0.999999, 1, 1.0001, 1.36, 2, 5, 15]:
        yield numbers("kolmogorov_upper_tail", (x,), stats.kstwobign.sf(x))
    for a in [0.999, 0.5, 0.05, 1e-3, 1e-12]:
        yield numbers("kolmogorov_upper_quantile", (a,), stats.kstwobign.isf(a))


def psi(a, b, floor):
    p, q = np.maximum(a / a.sum(), floor), np.maximum(b / b.sum(), floor)
    return ((p - q) * np.log(p / q)).sum()


def distances(rng):
    for _ in range(300):
        bins = int(rng.integers(2, 40))
        a = rng.multinomial(int(10 ** rng.uniform(1, 6)), rng.dirichlet(np.full(bins, 2.0)))
        b = rng.multinomial(int(10 ** rng.uniform(1, 6)), rng.dirichlet(np.full(bins, 2.0)))
        at = np.sort(rng.normal(size=bins))
        p, q = a / a.sum(), b / b.sum()
        floor = 10 ** rng.uniform(-6, -3)
        base = rng.choice([2.0, np.e, 10.0])
        yield counts("psi", a, b, psi(a, b, floor), [floor])
        yield counts("jensen_shannon", a, b, jensenshannon(p, q, base), [base])
        hellinger = np.linalg.norm(np.sqrt(p) - np.sqrt(q)) / np.sqrt(2)
        yield counts("hellinger", a, b, hellinger)
        yield counts("total_variation", a, b, np.abs(p - q).sum() / 2)
        yield counts("ks_binned", a, b, np.abs(np.cumsum(p) - np.cumsum(q)).max())
        w1 = stats.wasserstein_distance(at, at, a, b)
        yield counts("wasserstein_binned", a, b, w1, at)
        used = a + b > 0
        table = stats.chi2_contingency([a[used], b[used]], correction=False)
        yield test("chi_square_homogeneity", a, b, table.statistic, table.dof, table.pvalue)
        positive = a + 1
        expected = positive / positive.sum() * b.sum()
        fit = stats.chisquare(b, expected)
        yield test("chi_square_goodness", positive, b, fit.statistic, bins - 1, fit.pvalue)


def test(f, a, b, *expected):
    case, _, _, _ = counts(f, a, b, 0)
    return case, [float(x) for x in expected], TAILS, True


def two_samples(rng):
    sizes = [(1, 1), (2, 5), (30, 30), (30, 70), (100, 99), (500, 320), (12_000, 900)]
    for m, n in sizes * 20:
        shift = rng.choice([0, 0.1, 1])
        a, b = rng.normal(size=m), rng.normal(shift, size=n)
        if rng.random() < 0.3:  # equal values
            a, b = a.round(1), b.round(1)
        d, p = stats.ks_2samp(a, b)
        if max(m, n) > 10_000:
            # SciPy goes on to another approximation there; ours is the limit.
            p = stats.kstwobign.sf(np.sqrt(m * n / (m + n)) * d)
        if p > 1e-280:
            samples = [[bits(x) for x in a], [bits(x) for x in b]]
            yield {"f": "ks_two_sample", "samples": samples}, [d, p], TAILS, True


def main():
    rng = np.random.default_rng(20)
    cases = [*tails(), *distances(rng), *two_samples(rng)]
    program = Path(sys.argv[1]) / "headland-monitor-judge"
    asked = "\n".join(json.dumps(case) for case, *_ in cases)
    said = subprocess.run(program, input=asked, stdout=subprocess.PIPE, text=True, check=True)
    answers = [[from_bits(n) for n in json.loads(line)] for line in said.stdout.splitlines()]
    largest = {TAILS: 0.0, DISTANCES: 0.0}
    for (case, expected, tolerance, relative), answer in zip(cases, answers, strict=True):
        for ours, theirs in zip(answer, expected, strict=True):
            difference = abs(ours - theirs)
            if relative and theirs != 0:
                difference /= abs(theirs)
            if not difference <= tolerance:
                print(f"{json.dumps(case)[:2000]}\n  ours {answer}, SciPy's {expected}")
                raise SystemExit(1)
            largest[tolerance] = max(largest[tolerance], difference)
    print(
        f"headland-monitor: SciPy agrees on {len(cases)} cases, tails and p-values to"
        f" {largest[TAILS]:.1e} relative, distances to {largest[DISTANCES]:.1e}"
    )


if __name__ == "__main__":
    main()
