"""Writes the configuration of model-trees from a scikit-learn estimator.

    python convert.py model.joblib > trees.json      (scikit-learn 1.6 or newer)

Knows RandomForest, ExtraTrees, GradientBoosting and HistGradientBoosting, each
as classifier and regressor, and IsolationForest. A classifier's scores are
those of `predict_proba`, in the order of `classes_`; a regressor's those of
`predict`; an isolation forest's are `-score_samples`: the higher, the odder.
Loading a joblib file runs what is in it: convert only your own.
"""

import json
import sys

import numpy as np
from sklearn import ensemble


def thresholds(leaf, threshold):
    """A threshold of infinity parts the missing from the rest; JSON has none,
    and the largest number does the same to all but an infinite feature."""
    largest = np.finfo(np.float64).max
    return np.where(leaf, 0.0, threshold).clip(-largest, largest).tolist()


def tree(t, leaf_values, output=None):
    """One tree of scikit-learn's `tree_`, with `leaf_values[node]` as leaves."""
    leaf = t.children_left < 0
    out = {
        "feature": np.where(leaf, -1, t.feature).tolist(),
        "threshold": thresholds(leaf, t.threshold),
        "left": np.where(leaf, 0, t.children_left).tolist(),
        "right": np.where(leaf, 0, t.children_right).tolist(),
        "leaves": np.asarray(leaf_values)[leaf].flatten().tolist(),
    }
    missing = getattr(t, "missing_go_to_left", None)
    if missing is not None and np.any(missing):
        out["missing-left"] = np.where(leaf, False, missing != 0).tolist()
    return out if output is None else out | {"output": output}


def forest(e):
    if e.n_outputs_ != 1:
        raise ValueError("only one target is known")
    outputs = len(e.classes_) if hasattr(e, "classes_") else 1
    trees = []
    for member in e.estimators_:
        t = member.tree_
        values = t.value[:, 0, :]
        if outputs > 1:
            values = values / values.sum(axis=1, keepdims=True)
        trees.append(tree(t, values))
    return {"features": e.n_features_in_, "outputs": outputs, "aggregate": "mean", "trees": trees}


def boosting(e):
    classifier = hasattr(e, "classes_")
    outputs = e.estimators_.shape[1]
    raw = e.decision_function if classifier else e.predict
    trees = [
        tree(member.tree_, member.tree_.value[:, 0, 0] * e.learning_rate, output)
        for stage in e.estimators_
        for output, member in enumerate(stage)
    ]
    # What the ensemble starts at is what is left of its answer without trees.
    bases = []
    for row in (np.zeros((1, e.n_features_in_)), np.ones((1, e.n_features_in_))):
        boosted = np.zeros(outputs)
        for stage in e.estimators_:
            boosted += [e.learning_rate * member.predict(row)[0] for member in stage]
        bases.append(np.atleast_1d(raw(row)[0]) - boosted)
    if not np.allclose(*bases):
        raise ValueError("an `init` that depends on the row is not known")
    transform = ("logistic" if outputs == 1 else "softmax") if classifier else "none"
    return {"features": e.n_features_in_, "outputs": outputs, "aggregate": "sum",
            "base": bases[0].tolist(), "transform": transform, "trees": trees}


def hist_boosting(e):
    if e.is_categorical_ is not None and np.any(e.is_categorical_):
        raise ValueError("categorical features are not known; encode them first")
    classifier = hasattr(e, "classes_")
    if not classifier and e.loss in ("poisson", "gamma"):
        raise ValueError(f"the loss {e.loss} is not known")
    trees = []
    for stage in e._predictors:
        for output, predictor in enumerate(stage):
            n = predictor.nodes
            leaf = n["is_leaf"].astype(bool)
            trees.append({
                "feature": np.where(leaf, -1, n["feature_idx"].astype(int)).tolist(),
                "threshold": thresholds(leaf, n["num_threshold"]),
                "left": np.where(leaf, 0, n["left"].astype(int)).tolist(),
                "right": np.where(leaf, 0, n["right"].astype(int)).tolist(),
                "missing-left": np.where(leaf, False, n["missing_go_to_left"] != 0).tolist(),
                "leaves": n["value"][leaf].tolist(),
                "output": output,
            })
    base = np.asarray(e._baseline_prediction, float).flatten()
    transform = ("logistic" if len(base) == 1 else "softmax") if classifier else "none"
    return {"features": e.n_features_in_, "outputs": len(base), "aggregate": "sum",
            "base": base.tolist(), "transform": transform, "trees": trees}


def average_path_length(n):
    """Of an unsuccessful search in a binary search tree of n (Liu et al. 2008)."""
    n = np.asarray(n, float)
    deep = 2.0 * (np.log(np.maximum(n, 3) - 1.0) + np.euler_gamma) - 2.0 * (n - 1.0) / np.maximum(n, 1)
    return np.where(n <= 1, 0.0, np.where(n == 2, 1.0, deep))


def isolation_forest(e):
    trees = []
    for member, features in zip(e.estimators_, e.estimators_features_):
        t = member.tree_
        depth = np.zeros(t.node_count)
        for node in np.flatnonzero(t.children_left >= 0):
            depth[[t.children_left[node], t.children_right[node]]] = depth[node] + 1
        out = tree(t, depth + average_path_length(t.n_node_samples))
        out["feature"] = [int(features[f]) if f >= 0 else -1 for f in out["feature"]]
        trees.append(out)
    normaliser = float(average_path_length(e.max_samples_))
    return {"features": e.n_features_in_, "outputs": 1, "aggregate": "mean",
            "transform": {"isolation": {"average-path-length": normaliser}}, "trees": trees}


CONVERTERS = [
    ((ensemble.IsolationForest,), isolation_forest),
    ((ensemble.RandomForestClassifier, ensemble.RandomForestRegressor,
      ensemble.ExtraTreesClassifier, ensemble.ExtraTreesRegressor), forest),
    ((ensemble.GradientBoostingClassifier, ensemble.GradientBoostingRegressor), boosting),
    ((ensemble.HistGradientBoostingClassifier, ensemble.HistGradientBoostingRegressor),
     hist_boosting),
]


def convert(estimator):
    """The configuration of model-trees for a fitted estimator, as a dict."""
    for kinds, converter in CONVERTERS:
        if isinstance(estimator, kinds):
            return converter(estimator)
    raise TypeError(f"{type(estimator).__name__} is not known")


if __name__ == "__main__":
    import joblib

    if len(sys.argv) != 2:
        sys.exit(__doc__)
    json.dump(convert(joblib.load(sys.argv[1])), sys.stdout)
    print()
