"""Holds monitor-performance against scikit-learn, and against the published
formulas of what scikit-learn lacks.

    python judge.py EXAMPLES_DIR

Rows are made from fixed seeds, seen by several devices, and merged. Oracles:

- accuracy, precision, recall, F1: scikit-learn, to 1e-12;
- ROC-AUC: scikit-learn over the scores' bins to 1e-12, and over the scores
  themselves within the bound that goes with the value;
- log loss and Brier score: scikit-learn, to 2^-21, the rounding of a term;
- calibration error: NumPy, to 2^-21;
- estimates without labels: the formulas of NannyML's documentation in NumPy,
  to what the rounding of terms by 2^-21 makes of a quotient, and NannyML's
  own functions where it is installed (0.13);
- MAE, RMSE: scikit-learn, bias: NumPy, to 2^-21 units (RMSE in its square);
- standard errors: of averages by numerical derivatives over the counts, to 1e-6
  of the value; of ROC-AUC by DeLong's definition over all pairs, to 1e-9.
"""

import json
import struct
import subprocess
import sys
import warnings

import numpy as np
from sklearn import metrics as sk

try:
    from nannyml.performance_estimation.confidence_based import metrics as nanny
except ImportError:
    nanny = None

warnings.simplefilter("ignore")
ROUNDING = 2.0**-21
EXACT = 1e-12


def pack(x):
    return {"f": struct.pack(">d", x).hex()}


def unpack(text):
    return struct.unpack(">d", bytes.fromhex(text))[0]


def column(values):
    if values.dtype == object:
        return list(values)
    return [None if np.isnan(x) else pack(x) for x in values]


def classified(rng, form):
    """Rows of a classifier that is about right, some without a label, some of
    classes that are not configured."""
    k = 2 if form in ("score", "confidence-2") else int(rng.integers(3 if form == "confidence" else 2, 7))
    n = int(rng.integers(60, 1500))
    classes = np.array([f"c{i}" if rng.random() < 0.5 else str(i) for i in range(k)], dtype=object)
    logits = rng.normal(size=(n, k)) * rng.uniform(0.5, 3.0)
    p = np.exp(logits)
    p /= p.sum(axis=1, keepdims=True)
    truth = np.array([rng.choice(k, p=row) for row in p])
    guess = p.argmax(axis=1)
    if rng.random() < 0.5:  # not calibrated
        p = p ** rng.uniform(0.4, 2.5)
        p /= p.sum(axis=1, keepdims=True)
    label, prediction = classes[truth], classes[guess]
    if form not in ("score", "confidence-2") and rng.random() < 0.5:
        label[rng.random(n) < 0.05] = "unheard-of"
        prediction[rng.random(n) < 0.05] = "unheard-of"
        prediction[rng.random(n) < 0.02] = "another"
    label[rng.random(n) < 0.2] = None
    config = {"prediction": "class", "classes": list(classes)}
    columns = {"label": column(label), "class": column(prediction)}
    if form == "score":
        config |= {"score": "s", "positive": classes[0]}
        columns["s"] = column(p[:, 0])
    elif form.startswith("confidence"):
        config["confidence"] = "s"
        columns["s"] = column(p[np.arange(n), guess])
    elif form == "scores":
        config["scores"] = [f"s{i}" for i in range(k)]
        columns |= {f"s{i}": column(p[:, i]) for i in range(k)}
    case = {"config": {"classification": config}, "columns": columns, "parts": int(rng.integers(1, 6))}
    if rng.random() < 0.5 and form != "none":
        bins = int(rng.integers(5, 21))
        names = {"score": [classes[0]], "confidence-2": [classes[1]], "confidence": [None]}
        calibration = []
        for name in names.get(form, classes):
            rows = rng.integers(0, 40, bins)
            one = {"rows": rows.tolist(), "positives": rng.binomial(rows, (np.arange(bins) + 0.5) / bins).tolist()}
            calibration.append(one if name is None else one | {"class": name})
        case["reference"] = {"version": 1, "calibration": calibration}
    return case, (classes, label, prediction, p, guess)


class Judge:
    def __init__(self):
        self.compared = 0
        self.worst = 0.0
        self.nanny = 0

    def close(self, case, what, ours, theirs, tolerance):
        self.compared += 1
        difference = abs(ours - theirs)
        self.worst = max(self.worst, difference if tolerance == EXACT else 0.0)
        if not difference <= tolerance:
            print(json.dumps(case))
            sys.exit(f"{what}: {ours!r} here, {theirs!r} there, {tolerance} allowed")

    def classification(self, case, rows, answer):
        classes, label, prediction, p, guess = rows
        found = {(m["metric"], m["class"], m["estimated"]): m for m in answer["measured"]}

        def check(name, index, theirs, tolerance, estimated=False):
            m = found.get((name, index, estimated))
            if m is None:
                print(json.dumps(case))
                sys.exit(f"{name} of {index} is not there")
            self.close(case, f"{name} of {index}", unpack(m["value"]), theirs, tolerance)
            return m

        known = np.array([x is not None for x in label])
        self.close(case, "unlabelled", answer["unlabelled"], int((~known).sum()), 0)
        y, g = label[known].astype(str), prediction[known].astype(str)
        check("accuracy", None, sk.accuracy_score(y, g), EXACT)
        there = [c for c in classes if c in y or c in g]
        each = sk.precision_recall_fscore_support(y, g, labels=there, zero_division=0)
        for name, values in zip(("precision", "recall", "f1"), each):
            for c, value in zip(there, values):
                check(name, list(classes).index(c), value, EXACT)
        for average in ("macro", "weighted"):
            means = sk.precision_recall_fscore_support(y, g, labels=there, average=average, zero_division=0)
            for name, value in zip(("precision", "recall", "f1"), means):
                m = check(f"{average}-{name}", None, value, EXACT)
                error = self.delta(y, g, classes, average, name)
                self.close(case, f"error of {average}-{name}", unpack(m["error"]), error, 1e-6 * max(error, 1e-3))

        config = case["config"]["classification"]
        k = len(classes)
        of_classes = prediction != "unheard-of"
        of_classes &= prediction != "another"
        index = {c: i for i, c in enumerate(classes)}
        guess = np.array([index.get(c, k) for c in prediction])
        true = np.array([index.get(c, k) for c in np.where(known, label, "")])
        scored = np.ones(len(label), bool)
        if "score" in config:
            events = [(0, p[:, 0], true == 0, guess == 0)]
        elif "scores" in config:
            events = [(i, p[:, i], true == i, guess == i) for i in range(k)]
        elif "confidence" in config:
            confidence = p[np.arange(len(p)), rows[4]]
            if k == 2:
                events = [(1, np.where(guess == 1, confidence, 1 - confidence), true == 1, guess == 1)]
            else:
                events = [(None, confidence, label == prediction, np.ones(len(p), bool))]
        else:
            return
        stand_for = []
        for i, s, _, _ in events:
            name = None if i is None else classes[i]
            entries = case.get("reference", {}).get("calibration", [])
            calibration = [c for c in entries if c.get("class") == name]
            stand_for.append(self.calibrated(s, calibration[0]) if calibration else s)
        stand_for = np.array(stand_for)
        if len(events) == k:
            stand_for = stand_for / stand_for.sum(axis=0)

        for (i, s, event, guessed), q in zip(events, stand_for):
            bins = np.minimum((s * 50).astype(int), 49)
            t, u = event[known], s[known]
            if 0 < t.sum() < len(t):
                m = check("roc-auc", i, sk.roc_auc_score(t, bins[known]), EXACT)
                self.close(case, "roc-auc without bins", unpack(m["value"]), sk.roc_auc_score(t, u),
                           unpack(m["bound"]) + EXACT)
                self.close(case, "error of roc-auc", unpack(m["error"]), delong(t, bins[known]), 1e-9)
            coarse = np.minimum((u * 10).astype(int), 9)
            ece = sum(abs(t[coarse == b].sum() - u[coarse == b].sum()) for b in range(10)) / len(t)
            check("ece", i, ece, ROUNDING + EXACT)
            n, right, total = len(q), q[guessed].sum(), q.sum()
            if i is not None:
                for name, part, whole in (("precision", right, guessed.sum()), ("recall", right, total),
                                          ("f1", 2 * right, guessed.sum() + total)):
                    if guessed.sum() + total > 0:
                        check(name, i, part / whole if whole else 0.0,
                              2 * n * ROUNDING / max(whole, 1e-9) + EXACT, True)
            m = check("roc-auc", i, binned_area(q, bins),
                      4 * n * ROUNDING / max(min(total, n - total), 1e-9) + EXACT, True)
            if nanny:
                # NannyML rounds its rates to five decimals.
                self.close(case, "roc-auc of NannyML", unpack(m["value"]), nanny.estimate_roc_auc(q, s),
                           unpack(m["bound"]) + 1e-3)
                if i is not None:
                    for name in ("precision", "recall", "f1"):
                        theirs = getattr(nanny, f"estimate_{name}")(guessed.astype(int), q)
                        check(name, i, theirs, 2 * n * ROUNDING / max(min(total, guessed.sum()), 1e-9), True)
                        self.nanny += 1
        q = stand_for
        if len(events) == k:
            inside = guess < k
            accuracy = q[guess[inside], np.flatnonzero(inside)].sum() / len(guess)
            average = np.mean([2 * q[i][guess == i].sum() / ((guess == i).sum() + q[i].sum()) for i in range(k)])
            check("macro-f1", None, average, 2.0**-15, True)
        elif events[0][0] is None:
            accuracy = q[0].mean()
        else:
            accuracy = np.where(events[0][3], q[0], 1 - q[0]).mean()
            if nanny:
                check("accuracy", None, nanny.estimate_accuracy(events[0][3].astype(int), q[0]), 4 * ROUNDING, True)
                self.nanny += 1
        check("accuracy", None, accuracy, 4 * ROUNDING + EXACT, True)

        if events[0][0] is None:
            return
        if len(events) == k:
            use = known & (true < k)
            loss = sk.log_loss(true[use], p[use], labels=range(k))
            brier = sk.brier_score_loss(true[use], p[use] if k > 2 else p[use, 1], labels=range(k))
        else:
            t, s = events[-1][2][known], events[-1][1][known]
            loss, brier = sk.log_loss(t, s, labels=[False, True]), sk.brier_score_loss(t, s)
        check("log-loss", None, loss, ROUNDING + EXACT)
        check("brier", None, brier, ROUNDING + EXACT)

    @staticmethod
    def calibrated(s, calibration):
        rows, positives = np.array(calibration["rows"]), np.array(calibration["positives"])
        b = np.minimum((s * len(rows)).astype(int), len(rows) - 1)
        return np.where(rows[b] > 0, positives[b] / np.maximum(rows[b], 1), s)

    @staticmethod
    def delta(y, g, classes, average, name):
        """The standard error of an average by central differences over the
        cells of the confusion matrix, which are multinomial."""
        k = len(classes)
        index = {c: i for i, c in enumerate(classes)}
        cells = np.zeros((k + 1, k + 1))
        np.add.at(cells, ([index.get(c, k) for c in y], [index.get(c, k) for c in g]), 1)

        def wholes(m):
            labels, guesses = m.sum(axis=1)[:k], m.sum(axis=0)[:k]
            return {"precision": guesses, "recall": labels, "f1": (labels + guesses) / 2}[name]

        there = (cells.sum(axis=1) + cells.sum(axis=0))[:k] > 0
        none = there & (wholes(cells) == 0)

        def value(m):
            each = np.divide(np.diag(m)[:k], wholes(m), out=np.zeros(k), where=wholes(cells) > 0)
            weights = m.sum(axis=1)[:k] if average == "weighted" else there
            return (each * weights).sum() / weights.sum()

        slopes = np.zeros_like(cells)
        for at in np.ndindex(*cells.shape):
            h = 1e-4 * max(cells[at], 1.0)
            moved = [cells.copy(), cells.copy()]
            moved[0][at] += h
            moved[1][at] -= h
            slopes[at] = (value(moved[0]) - value(moved[1])) / (2 * h)
        assert abs((cells * slopes).sum()) < 1e-6
        # Of a share of no rows, one row more makes all the difference.
        weights = cells.sum(axis=1)[:k] if average == "weighted" else there
        slopes[range(k), range(k)] += none * weights / weights.sum()
        # One right row and one wrong one more for each class.
        more = np.full_like(cells, 1 / k)
        np.fill_diagonal(more, 1)
        return np.sqrt(((cells + more) * slopes**2).sum())

    def regression(self, case, label, value, unit, answer):
        use = ~np.isnan(label) & ~np.isnan(value)
        error = (value - label)[use] / unit
        self.close(case, "clipped", answer["clipped"], int((abs(error) > 32).sum()), 0)
        error = np.clip(error, -32, 32)
        zero = np.zeros(len(error))
        found = {m["metric"]: unpack(m["value"]) for m in answer["measured"]}
        errors = {m["metric"]: unpack(m["error"]) for m in answer["measured"]}
        self.close(case, "mae", found["mae"] / unit, sk.mean_absolute_error(zero, error), ROUNDING + 1e-9)
        self.close(case, "bias", found["bias"] / unit, error.mean(), ROUNDING + 1e-9)
        mse = sk.root_mean_squared_error(zero, error) ** 2
        self.close(case, "rmse", (found["rmse"] / unit) ** 2, mse, ROUNDING + 1e-9)
        n = len(error)
        self.close(case, "error of bias", errors["bias"] / unit, error.std() / np.sqrt(n), 1e-4)
        self.close(case, "error of rmse", errors["rmse"] / unit,
                   (error**2).std() / np.sqrt(n) / (2 * np.sqrt(mse)), 1e-4 * (1 + mse))


def binned_area(q, bins):
    t = np.bincount(bins, q, 50)
    f = np.bincount(bins, 1 - q, 50)
    below = np.cumsum(f) - f
    return (t * (below + f / 2)).sum() / (t.sum() * f.sum())


def delong(event, score):
    a, b = score[event], score[~event]
    wins = (a[:, None] > b).astype(float) + 0.5 * (a[:, None] == b)
    if min(len(a), len(b)) < 20:
        return np.sqrt(0.25 / min(len(a), len(b)))
    of_trues, of_falses = wins.mean(axis=1), wins.mean(axis=0)
    area = wins.mean()
    variance = ((of_trues - area) ** 2).sum() / (len(a) * (len(a) - 1))
    variance += ((of_falses - area) ** 2).sum() / (len(b) * (len(b) - 1))
    return np.sqrt(variance)


def main():
    cases, checks = [], []
    judge = Judge()
    for seed in range(40):
        for form in ("none", "score", "scores", "confidence", "confidence-2"):
            case, rows = classified(np.random.default_rng([seed, len(form)]), form)
            cases.append(case)
            checks.append(lambda answer, case=case, rows=rows: judge.classification(case, rows, answer))
    for seed in range(40):
        rng = np.random.default_rng([7, seed])
        n, unit = int(rng.integers(20, 2000)), float(10.0 ** rng.integers(-3, 4))
        label = rng.normal(size=n) * 10 * unit
        value = label + rng.standard_t(2, size=n) * unit * rng.uniform(0.1, 3) + rng.normal() * unit
        label[rng.random(n) < 0.1] = np.nan
        value[rng.random(n) < 0.1] = np.nan
        case = {"config": {"regression": {"unit": unit}}, "parts": int(rng.integers(1, 6)),
                "columns": {"label": column(label), "value": column(value)}}
        cases.append(case)
        checks.append(lambda answer, case=case, rows=(label, value, unit): judge.regression(case, *rows, answer))
    run = subprocess.run([f"{sys.argv[1]}/monitor-performance-judge"], text=True, capture_output=True,
                         input="\n".join(map(json.dumps, cases)))
    if run.returncode:
        sys.exit(run.stderr)
    answers = [json.loads(line) for line in run.stdout.splitlines()]
    assert len(answers) == len(cases)
    for answer, check in zip(answers, checks):
        check(answer)
    beside = f", NannyML in {judge.nanny} comparisons" if nanny else ""
    print(f"scikit-learn{beside}: {len(cases)} cases, {judge.compared} numbers, exact ones differ by at most "
          f"{judge.worst:.1e}; {max(a['bytes'] for a in answers)} bytes the largest summary")


main()
