"""The reference of an example's monitors, learnt from training rows.

`headland monitor fit` does the learning; this hands it the rows.
"""

import json
import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FIT = ["cargo", "run", "--release", "--quiet", "-p", "headland-cli", "--", "monitor", "fit"]


def write(path, columns, model):
    """Learn from `columns`, a list or array of values by name, into `path`.

    The rows are in no order, and those of outputs are of `model`.
    """
    values = [list(v) for v in columns.values()]
    rows = (json.dumps(dict(zip(columns, row))) for row in zip(*values, strict=True))
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
        file.write("\n".join(rows) + "\n")
        file.flush()
        options = ["--unordered", "--model", str(model.resolve())]
        options += ["--columns", ",".join(columns), "--output", str(path.resolve())]
        subprocess.run([*FIT, file.name, *options], cwd=ROOT, check=True)
