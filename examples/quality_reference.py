"""The reference of monitor-quality, learnt from training rows.

The plugin itself does the learning; this hands it the rows.
"""

import json
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FIT = ["cargo", "run", "--release", "--quiet", "-p", "monitor-quality", "--example", "fit"]


def write(path, columns):
    """Learn from `columns`, a list or array of values by name, into `path`."""
    values = [list(v) for v in columns.values()]
    rows = (json.dumps(dict(zip(columns, row))) for row in zip(*values, strict=True))
    said = subprocess.run(
        FIT, cwd=ROOT, input="\n".join(rows), stdout=subprocess.PIPE, text=True, check=True
    )
    path.write_text(said.stdout)
