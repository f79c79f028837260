"""Holds `headland onnx test` to the table of node tests that pass.

    conformance.py HEADLAND [--update]

Runs the node tests of the installed `onnx` package, which must be 1.19.1, and
exits 1 when a test of `conformance/cpu.txt` does not pass. `--update` writes
the table anew.
"""

import argparse
import json
import pathlib
import subprocess
import sys

import onnx
import onnx.backend.test

TABLE = pathlib.Path(__file__).parent.parent / "conformance" / "cpu.txt"
ONNX = "1.19.1"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("headland", type=pathlib.Path)
    parser.add_argument("--update", action="store_true")
    args = parser.parse_args()
    if onnx.__version__ != ONNX:
        sys.exit(f"the table is for onnx {ONNX}, but {onnx.__version__} is installed")
    cases = pathlib.Path(onnx.backend.test.__file__).parent / "data" / "node"
    command = [args.headland, "onnx", "test", "--json", cases]
    # It exits 1 where a case fails; the table decides here.
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    report = json.loads(done.stdout)
    verdicts = {case["case"]: case for case in report["cases"]}
    passed = sorted(name for name, case in verdicts.items() if case["verdict"] == "PASS")
    print(", ".join(f"{word} {count}" for word, count in report["counts"].items()))
    if args.update:
        TABLE.write_text("".join(f"{name}\n" for name in passed))
        return 0
    table = set(TABLE.read_text().split())
    lost = sorted(table - set(passed))
    for name in lost:
        case = verdicts.get(name, {"verdict": "ABSENT", "reason": ""})
        print(f"LOST {name}: {case['verdict']} {case['reason']}")
    for name in sorted(set(passed) - table):
        print(f"NEW {name}: add it with --update")
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
