"""Writes reference.json: small ensembles as convert.py gives them, rows, and
scikit-learn's own predictions for those.

    python reference.py > reference.json        (scikit-learn 1.7 or newer)
"""

import json
import pathlib
import sys

import numpy as np
from sklearn import ensemble
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))
from convert import convert  # noqa: E402

small = {"n_estimators": 4, "max_depth": 3, "random_state": 0}
hist = {"max_iter": 4, "max_leaf_nodes": 6, "random_state": 0}
iris, cancer, diabetes = load_iris(), load_breast_cancer(), load_diabetes()


def with_holes(x):
    x = x.copy()
    x[np.random.default_rng(3).uniform(size=x.shape) < 0.15] = np.nan
    return x


cases = []


def case(name, estimator, x, y, columns=4):
    x = x[:, :columns].astype(np.float32)
    estimator.fit(x, y)
    rows = x[:: max(1, len(x) // 24)][:24]
    if hasattr(estimator, "predict_proba"):
        scores = estimator.predict_proba(rows)
    elif y is None:
        scores = -estimator.score_samples(rows)[:, None]
    else:
        scores = estimator.predict(rows)[:, None]
    cases.append({
        "name": name, "config": convert(estimator), "scores": scores.tolist(),
        "rows": [[None if np.isnan(v) else float(v) for v in row] for row in rows],
    })


case("forest of three classes", ensemble.RandomForestClassifier(**small), iris.data, iris.target)
case("forest with missing values", ensemble.RandomForestClassifier(**small),
     with_holes(iris.data), iris.target)
case("forest regressor", ensemble.RandomForestRegressor(**small), diabetes.data, diabetes.target)
case("boosting of two classes", ensemble.GradientBoostingClassifier(**small),
     cancer.data, cancer.target)
case("boosting of three classes", ensemble.GradientBoostingClassifier(**small),
     iris.data, iris.target)
case("boosting regressor", ensemble.GradientBoostingRegressor(**small),
     diabetes.data, diabetes.target)
case("histogram boosting of two classes", ensemble.HistGradientBoostingClassifier(**hist),
     with_holes(cancer.data), cancer.target)
case("histogram boosting of three classes", ensemble.HistGradientBoostingClassifier(**hist),
     iris.data, iris.target)
case("histogram boosting regressor", ensemble.HistGradientBoostingRegressor(**hist),
     diabetes.data, diabetes.target)
case("isolation forest", ensemble.IsolationForest(n_estimators=4, max_samples=16, random_state=0),
     cancer.data, None)
print("[" + ",\n".join(json.dumps(c, separators=(",", ":")) for c in cases) + "]")
