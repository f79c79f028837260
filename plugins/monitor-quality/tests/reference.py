"""Writes reference.json: SciPy's numbers for src/stats.rs.

    python reference.py > reference.json        (SciPy 1.17 or newer)
"""

import json

from scipy.stats import beta, binom, chi2

tails = [(k, n, p) for n, p in [(20, 0.3), (500, 0.01), (10_000, 0.004), (1_000_000, 0.05)]
         for k in {1, int(n * p) or 1, int(n * p * 1.2) + 3, int(n * p * 1.5) + 9}]
bounds = [(0, 100, 0.99), (3, 100, 0.99), (50, 100, 0.95), (99, 100, 0.99), (0, 100_000, 0.99),
          (1234, 100_000, 0.999)]
quantiles = [(a, k) for a in (0.05, 1e-3, 1e-6) for k in (1, 2, 5, 9, 40)]
ranges = [(n, c) for n in (2, 10, 500, 43_500) for c in (0.95, 0.99)]


def cases(args, f):
    return [{"args": list(a), "value": float(f(*a))} for a in args]


print(json.dumps({
    "binom.sf": cases(tails, lambda k, n, p: binom.sf(k - 1, n, p)),
    "beta.ppf": cases(bounds, lambda k, n, c: beta.ppf(c, k + 1, n - k)),
    "chi2.isf": cases(quantiles, lambda a, k: chi2.isf(a, k)),
    "beta.ppf(2,n-1)": cases(ranges, lambda n, c: beta.ppf(c, 2, n - 1)),
}, indent=1))
