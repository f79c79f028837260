"""Write the telemetry of the demo: `inputs/telemetry.csv`.

    python make_input.py --data Shuttle.rda

The first 2 000 held-out rows, in the set's own order. From row 1 000 on two
sensors age, as they do on a machine: V3 drifts away, its gain by 5 % and its
offset by 12 units, reached after 100 rows; V7 loses one reading in ten. The
last column, `class`, is the truth; `headland run --label-column class` keeps
it from the pipeline.
"""

import argparse
from pathlib import Path

import numpy as np

import shuttle

INPUT = Path(__file__).parent / "inputs" / "telemetry.csv"

ROWS = 2_000
DRIFT_FROM = 1_000
SEED = 7

RAMP_ROWS = 100
V3_GAIN = 0.05
V3_OFFSET = 12.0
V7_MISSING = 0.10


def drift(rows):
    """The rows with both faults; a missing reading is NaN."""
    rows = rows.copy()
    late = rows[DRIFT_FROM:]
    amount = np.minimum(np.arange(1, len(late) + 1) / RAMP_ROWS, 1.0)
    v3 = shuttle.COLUMNS.index("V3")
    late[:, v3] = np.round(late[:, v3] * (1 + V3_GAIN * amount) + V3_OFFSET * amount, 2)
    lost = np.random.default_rng(SEED).random(len(late)) < V7_MISSING
    late[lost, shuttle.COLUMNS.index("V7")] = np.nan
    return rows


def cell(value):
    return "" if np.isnan(value) else f"{value:g}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="Shuttle.rda; README.md says where from")
    rows, truth = shuttle.read(parser.parse_args().data)
    chosen = slice(shuttle.HELD_OUT_FROM, shuttle.HELD_OUT_FROM + ROWS)
    lines = [",".join([*shuttle.COLUMNS, "class"])]
    for row, label in zip(drift(rows[chosen]), truth[chosen]):
        lines.append(",".join([*map(cell, row), shuttle.LABELS[label]]))
    INPUT.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
