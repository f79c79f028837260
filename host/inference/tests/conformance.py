"""Holds `headland onnx test` to the tables of ONNX's node tests.

    conformance.py HEADLAND [--device cpu] [--update]
    conformance.py --verdicts FILE --device chromium [--update]

Runs the node tests of the installed `onnx` package, which must be 1.19.1, on one
runtime, or takes what another program says of them, in the same JSON. Every case either passes and is in that runtime's table,
`conformance/DEVICE.txt`, or is in `conformance/ignored.txt` with the reason.
Exits 1 when one of the table does not pass, when one passes that is not in it,
or when one that does not pass has no reason. `--update` writes the table anew;
it may only grow, and reasons are written by hand.

A line of a table is a case's name and, for a runtime with a device, what of it
ran there: `device` for all of it but shapes, `host` where the device does not
run one of its nodes, `shape` where it has nothing for a device.
"""

import argparse
import collections
import fnmatch
import json
import pathlib
import subprocess
import sys

import onnx
import onnx.backend.test

FOLDER = pathlib.Path(__file__).parent.parent / "conformance"
ONNX = "1.19.1"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("headland", type=pathlib.Path, nargs="?")
    parser.add_argument("--verdicts", type=pathlib.Path)
    parser.add_argument("--cases", action="store_true", help="say where the cases are")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--update", action="store_true")
    args = parser.parse_args()
    if onnx.__version__ != ONNX:
        sys.exit(f"the tables are for onnx {ONNX}, but {onnx.__version__} is installed")
    cases = pathlib.Path(onnx.backend.test.__file__).parent / "data" / "node"
    if args.cases:
        print(cases)
        return 0
    if args.verdicts:
        report = json.loads(args.verdicts.read_text())
    else:
        command = [args.headland, "onnx", "test", "--json", "--device", args.device, cases]
        # It exits 1 where a case fails; the tables decide here.
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        report = json.loads(done.stdout)
    verdicts = {case["case"]: case for case in report["cases"]}
    passed = {n: place(c, args.device) for n, c in verdicts.items() if c["verdict"] == "PASS"}
    path = FOLDER / f"{args.device}.txt"
    if args.update:
        path.write_text("".join(f"{' '.join([n, p]).strip()}\n" for n, p in sorted(passed.items())))
    lines = (line.partition(" ") for line in path.read_text().splitlines())
    table = {name: where for name, _, where in lines}
    ignored = reasons(args.device)
    problems = []
    for name, where in sorted(table.items()):
        if name not in passed:
            case = verdicts.get(name, {"verdict": "ABSENT", "reason": ""})
            problems.append(f"LOST {name}: {case['verdict']} {case['reason']}")
        elif passed[name] != where:
            problems.append(f"MOVED {name}: ran on {passed[name]}, was {where}; see --update")
    problems += [f"NEW {name}: add it with --update" for name in sorted(set(passed) - set(table))]
    for name in sorted(set(verdicts) - set(passed)):
        if name not in ignored:
            case = verdicts[name]
            problems.append(f"NO REASON {name}: {case['verdict']} {case['reason']}")
    print("\n".join(problems + [summary(args.device, report["counts"], passed)]))
    return 1 if problems else 0


def place(case, device):
    """What of a case ran on the device; nothing for a runtime without one."""
    if device in ("cpu", "interpreter", "chromium"):
        return ""
    engine = case["engine"]
    if engine is None:
        return "shape"
    if engine["on_host"]:
        return "host"
    return "device" if engine["on_device"] else "shape"


def reasons(device):
    """The cases that need not pass on a device: `DEVICES PATTERN: reason` lines,
    where a pattern may end with `*`, and DEVICES is `all` or names with commas."""
    ignored = {}
    names = [p.name for p in (pathlib.Path(onnx.backend.test.__file__).parent / "data/node").iterdir()]
    for line in (FOLDER / "ignored.txt").read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        where, _, rest = line.partition(" ")
        pattern, _, reason = rest.partition(": ")
        if where != "all" and device not in where.split(","):
            continue
        for name in fnmatch.filter(names, pattern):
            ignored[name] = reason
    return ignored


def summary(device, counts, passed):
    line = ", ".join(f"{word} {count}" for word, count in counts.items())
    places = collections.Counter(filter(None, passed.values()))
    detail = ", ".join(f"{count} {where}" for where, count in sorted(places.items()))
    return f"{device}: {line}" + (f" (of those that pass: {detail})" if detail else "")


if __name__ == "__main__":
    sys.exit(main())
