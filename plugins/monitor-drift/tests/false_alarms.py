"""False alarms and power of drift rules, on the same numbers.

    python false_alarms.py EXAMPLES_DIR [--windows N]

Rules, each with its defaults, for one numeric column:

- Evidently: the Wasserstein distance over the reference's standard deviation is
  at least 0.1 (more than 1000 rows of reference);
- NannyML: the univariate Jensen-Shannon distance is above the mean of that of
  the reference's own chunks plus three standard deviations. A reference that is
  one chunk has a deviation of 0 and makes an alarm of everything;
- ours: `false-alarms --judge`, monitor-drift's own code.

The reference and the windows are standard normal, the windows of some tables
shifted. Evidently and NannyML are the real packages where they can be imported
(`pip install evidently==0.7.23 nannyml==0.13.1 "pandas<3"`); otherwise their
documented rules, and the table says so. Both packages report their use to their
makers unless they are told not to; they are.
"""

import argparse
import os
import struct
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np

os.environ["NML_DISABLE_USAGE_LOGGING"] = "1"
os.environ["DO_NOT_TRACK"] = "1"

REFERENCE_ROWS = 5_000
REFERENCES = 10
WINDOW_ROWS = [50, 100, 200, 500, 1_000, 2_000, 5_000]
SHIFTS = [0.0, 0.1, 0.3, 0.5]


def evidently():
    """A rule and what it is called."""
    try:
        import pandas as pd
        from evidently import __version__
        from evidently.legacy.calculations.stattests.registry import get_stattest
        from evidently.legacy.core import ColumnType

        def alarms(reference, windows):
            reference = pd.Series(reference)
            numeric = ColumnType.Numerical
            for window in map(pd.Series, windows):
                test = get_stattest(reference, window, numeric, None)
                yield bool(test(reference, window, numeric, None).drifted)

        return f"Evidently {__version__}", alarms
    except ImportError as why:
        from scipy.stats import wasserstein_distance

        def alarms(reference, windows):
            for window in windows:
                distance = wasserstein_distance(reference, window)
                yield distance / max(np.std(reference), 0.001) >= 0.1

        print(f"Evidently is not there: {why}")
        return "Evidently, as documented", alarms


def nannyml():
    """A rule and what it is called."""
    try:
        import pandas as pd
        from nannyml import UnivariateDriftCalculator, __version__

        def alarms(reference, windows):
            rows = windows.shape[1]
            calculator = UnivariateDriftCalculator(column_names=["x"], chunk_size=rows)
            calculator.fit(pd.DataFrame({"x": reference}))
            said = calculator.calculate(pd.DataFrame({"x": windows.ravel()}))
            said = said.filter(period="analysis").to_df()
            return said["x", "jensen_shannon", "alert"].tolist()

        return f"NannyML {__version__}", alarms
    except ImportError as why:
        from scipy.spatial.distance import jensenshannon

        def alarms(reference, windows):
            rows = windows.shape[1]
            edges = np.histogram_bin_edges(reference, "doane")
            p = np.histogram(reference, edges)[0] / len(reference)

            def distance(window):
                q = np.histogram(window, edges)[0] / len(window)
                return jensenshannon(np.append(p, 0), np.append(q, max(0, 1 - q.sum())), 2)

            chunks = reference[: len(reference) // rows * rows].reshape(-1, rows)
            usual = [distance(chunk) for chunk in chunks]
            threshold = np.mean(usual) + 3 * np.std(usual)
            return [distance(window) > threshold for window in windows]

        print(f"NannyML is not there: {why}")
        return "NannyML, as documented", alarms


def ours(program):
    def alarms(reference, windows):
        count, rows = windows.shape
        header = struct.pack("<QQQ", len(reference), rows, count)
        asked = header + reference.astype("<f8").tobytes() + windows.astype("<f8").tobytes()
        said = subprocess.run([program, "--judge"], input=asked, stdout=subprocess.PIPE, check=True)
        return [answer == ord("1") for answer in said.stdout.strip()]

    return "monitor-drift", alarms


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("examples", type=Path, help="target/release/examples")
    parser.add_argument("--windows", type=int, default=400, help="of each size and shift")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    rules = [ours(arguments.examples / "false-alarms"), evidently(), nannyml()]
    each = max(1, arguments.windows // REFERENCES)
    started = time.monotonic()
    print(
        f"Share of windows that raise an alarm: {each * REFERENCES} windows a number, of"
        f" {REFERENCES} references of {REFERENCE_ROWS} rows; all rules see the same numbers."
    )
    print(f"{'rule':<28} {'rows':>5}  no shift " + "".join(f"{s:>9} s" for s in SHIFTS[1:]))
    rng = np.random.default_rng(20)
    for rows in WINDOW_ROWS:
        found = {(name, shift): [] for name, _ in rules for shift in SHIFTS}
        for _ in range(REFERENCES):
            reference = rng.normal(size=REFERENCE_ROWS)
            for shift in SHIFTS:
                windows = rng.normal(shift, size=(each, rows))
                for name, rule in rules:
                    answers = list(rule(reference, windows))
                    if len(answers) != each:
                        sys.exit(f"{name} gave {len(answers)} answers for {each} windows")
                    found[name, shift] += answers
        for name, _ in rules:
            rates = [100 * np.mean(found[name, shift]) for shift in SHIFTS]
            print(f"{name:<28.28} {rows:>5}" + "".join(f"{rate:>9.1f} %" for rate in rates))
    print(f"{time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
