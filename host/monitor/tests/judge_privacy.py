"""Holds the privacy filter against OpenDP's privacy maps and exact distributions.

    python judge_privacy.py EXAMPLES_DIR        (OpenDP 0.16, SciPy 1.17 or newer)

Losses agree with OpenDP's to 1e-6 of their value. Draws are tested by
chi-squared against the exact probabilities and, as two samples, against
OpenDP's own draws; a p-value below 1e-6 is a disagreement. Ours are seeded.
OpenDP's cannot be, so that one run in about 70 000 disagrees by chance.
"""

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import opendp.prelude as dp
from scipy import stats

LOSS = 1e-6  # relative
P_VALUE = 1e-6
DRAWS = 200_000

dp.enable_features("contrib")
INTS = dp.vector_domain(dp.atom_domain(T="i64"))


def laplace(scale):
    return dp.m.make_laplace(INTS, dp.l1_distance(T="i64"), scale)


def gaussian(scale):
    return dp.m.make_gaussian(INTS, dp.l2_distance(T="f64"), scale)


def pooled(expected, *observed):
    """Neighbouring bins put together until each is expected to hold 20."""
    out, part = [], np.zeros(1 + len(observed))
    for column in zip(expected, *observed):
        part = part + column
        if part[0] >= 20:
            out.append(part)
            part = np.zeros(1 + len(observed))
    out[-1] = out[-1] + part
    return np.array(out).T


class Judge:
    def __init__(self, program):
        self.program = program
        self.cases = 0
        self.loss = 0.0
        self.p_value = 1.0

    def ask(self, questions):
        text = "".join(json.dumps(q) + "\n" for q in questions)
        run = subprocess.run([self.program], input=text, capture_output=True, text=True)
        if run.returncode != 0:
            sys.exit(f"{self.program}: {run.stderr}")
        answers = [json.loads(line) for line in run.stdout.splitlines()]
        if len(answers) != len(questions):
            sys.exit(f"{len(answers)} answers to {len(questions)} questions")
        return answers

    def same(self, case, ours, theirs, tolerance=LOSS):
        self.cases += 1
        off = abs(ours - theirs) / abs(theirs)
        if not off <= tolerance:
            sys.exit(f"{case}: {ours}, the oracle has {theirs}")
        self.loss = max(self.loss, off)

    def likely(self, case, p_value):
        self.cases += 1
        if not p_value >= P_VALUE:
            sys.exit(f"{case}: the draws have a p-value of {p_value}")
        self.p_value = min(self.p_value, p_value)

    def draws(self):
        shapes = [("laplace", num, den) for num, den in [(1, 2), (1, 1), (10, 3), (60, 1)]]
        shapes += [("gaussian", num, den) for num, den in [(1, 3), (1, 1), (17, 2), (2500, 1)]]
        questions = [
            {"ask": "draw", "mechanism": mechanism, "num": num, "den": den, "draws": DRAWS,
             "seed": 40 + i}
            for i, (mechanism, num, den) in enumerate(shapes)
        ]
        for case, answer in zip(questions, self.ask(questions)):
            ratio = case["num"] / case["den"]
            seen = {int(x): n for x, n in answer["seen"].items()}
            if sum(seen.values()) != DRAWS:
                sys.exit(f"{case}: {sum(seen.values())} draws")
            if case["mechanism"] == "laplace":
                reach, log_weight = int(60 * ratio) + 20, lambda x: -np.abs(x) / ratio
                theirs = laplace(ratio)([0] * DRAWS)
            else:
                reach, log_weight = int(20 * ratio**0.5) + 20, lambda x: -(x**2) / (2 * ratio)
                theirs = gaussian(ratio**0.5)([0] * DRAWS)
            x = np.arange(-reach, reach + 1)
            weight = np.exp(log_weight(x.astype(float)))
            expected = weight / weight.sum() * DRAWS
            if max(map(abs, seen)) > reach:
                sys.exit(f"{case}: a draw of {max(map(abs, seen))}")
            # What the field says of its variance is a bound, and a close one.
            exact = (weight / weight.sum() * x.astype(float) ** 2).sum()
            self.cases += 1
            if not exact <= answer["variance"] * (1 + 1e-12):
                sys.exit(f"{case}: variance {exact}, stated at most {answer['variance']}")
            ours = np.array([seen.get(int(i), 0) for i in x])
            other = np.bincount(np.clip(np.array(theirs), -reach, reach) + reach,
                                minlength=len(x))
            bins, observed, of_other = pooled(expected, ours, other)
            self.likely(case, stats.chisquare(observed, bins).pvalue)
            self.likely(f"{case} beside OpenDP's",
                        stats.chi2_contingency([observed, of_other]).pvalue)

    def rules(self):
        base = ('budget = { epsilon = 50, delta = 1e-6, period-hours = 1 }\n'
                '[[rule]]\nmonitor = "*"\nfields = ["f*"]\n')
        cases, questions = [], []
        for sums in (False, True):
            for fields, touched, per_row, epsilon in [
                (1, None, 1, 0.5), (30, None, 1, 1.0), (30, 2, 3, 0.1), (7, None, 2.5, 3.25),
                (61, 61, 40, 2.0), (2, 1, 0.125, 0.01),
            ]:
                for mechanism in ("laplace", "gaussian"):
                    rule = f'{base}mechanism = "discrete-{mechanism}"\nepsilon = {epsilon}\n'
                    rule += f"max-per-row = {per_row}\n"
                    rule += "delta = 1e-7\n" if mechanism == "gaussian" else ""
                    rule += f"fields-per-row = {touched}\n" if touched else ""
                    # A count moves by whole numbers.
                    change = per_row if sums else int(np.ceil(per_row))
                    cases.append((mechanism, sums, touched or fields, change, epsilon))
                    questions.append({"ask": "rule", "rule": rule, "fields": fields, "sums": sums})
        for case, answer in zip(cases, self.ask(questions)):
            mechanism, sums, fields, change, epsilon = case
            # OpenDP's noise is over integers: in the unit of a sum.
            unit = answer["unit"] if sums else 1
            change, variance = round(change * unit), answer["variance"] * unit**2
            # The stated variance is rounded up to 2^-20 of the field's unit.
            step = max(LOSS, 2**-20 / answer["variance"])
            if mechanism == "laplace":
                loss = laplace((variance / 2) ** 0.5).map(fields * change)
                self.same(case, answer["epsilon"], epsilon, 1e-12)
                self.same(case, loss, epsilon, step)
            else:
                loss = gaussian(variance**0.5).map(fields**0.5 * change)
                self.same(case, loss, answer["rho"], step)

    def concentrated(self):
        cases = [
            {"ask": "rho", "epsilon": epsilon, "delta": delta, "times": times, "at": at}
            for epsilon in (0.01, 0.3, 1.0, 4.0)
            for delta in (1e-5, 1e-9)
            for times, at in [(1, delta), (1, 1e-7), (50, 1e-6)]
        ]
        for case, answer in zip(cases, self.ask(cases)):
            l = np.log(1 / case["at"])
            rho = answer["rho"] * case["times"]
            self.same(case, answer["epsilon"], rho + 2 * np.sqrt(rho * l), 1e-9)
            if case["times"] == 1 and case["at"] == case["delta"]:
                # Rounded down, by a step of 10^-12 of rho.
                self.same(case, answer["epsilon"], case["epsilon"], 1e-4)
                self.cases += 1
                if answer["epsilon"] > case["epsilon"]:
                    sys.exit(f"{case}: costs {answer['epsilon']}")
            # OpenDP converts more tightly, by up to half: ours must never promise more.
            noise = gaussian((1 / (2 * rho)) ** 0.5)
            tight = dp.c.make_zCDP_to_approxDP(noise).map(1.0).epsilon(case["at"])
            self.cases += 1
            if not tight <= answer["epsilon"] <= 2.2 * tight:
                sys.exit(f"{case}: {answer['epsilon']}, OpenDP has {tight}")

    def responses(self):
        cases = [
            {"ask": "respond", "value": value, "categories": k, "epsilon": epsilon,
             "draws": DRAWS, "seed": 70 + k}
            for value, k, epsilon in [(1, 2, 0.1), (0, 2, 3.0), (2, 5, 1.0), (19, 20, 2.5)]
        ]
        for case, answer in zip(cases, self.ask(cases)):
            k, epsilon = case["categories"], case["epsilon"]
            p = np.exp(epsilon) / (np.exp(epsilon) + k - 1)
            theirs = dp.m.make_randomized_response(list(range(k)), prob=float(p))
            self.same(case, theirs.map(1), epsilon, 1e-9)
            expected = np.full(k, (1 - p) / (k - 1) * DRAWS)
            expected[case["value"]] = p * DRAWS
            self.likely(case, stats.chisquare(answer["told"], expected).pvalue)
        random = np.random.default_rng(3)
        cases = [
            {"ask": "estimate", "told": [int(n) for n in random.integers(0, 10_000, k)],
             "epsilon": epsilon}
            for k in (2, 3, 10) for epsilon in (0.05, 1.0, 8.0, 100.0)
        ]
        for case, answer in zip(cases, self.ask(cases)):
            k, e = len(case["told"]), np.exp(-case["epsilon"])
            channel = (np.full((k, k), e) + (1 - e) * np.eye(k)) / (1 + (k - 1) * e)
            expected = np.linalg.solve(channel, case["told"])
            scale = np.abs(expected).max()
            for ours, theirs in zip(answer["counts"], expected):
                self.same(case, ours / scale + 2, theirs / scale + 2, 1e-9)


judge = Judge(Path(sys.argv[1]) / "headland-privacy-judge")
judge.draws()
judge.rules()
judge.concentrated()
judge.responses()
print(f"privacy: {judge.cases} cases beside OpenDP {version('opendp')} and exact "
      f"distributions; losses differ by at most {judge.loss:.1e}, smallest p-value of "
      f"{DRAWS} draws {judge.p_value:.1e}")
