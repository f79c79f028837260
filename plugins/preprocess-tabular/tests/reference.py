"""Writes reference.json: rows, a configuration of preprocess-tabular, and the
features that scikit-learn's transformers give for them.

    python reference.py > reference.json        (scikit-learn 1.7 or newer)
"""

import json

import numpy as np
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import MinMaxScaler, OneHotEncoder, OrdinalEncoder, StandardScaler

rows = [
    {"temperature": 21.5, "pressure": 3.0, "mode": "idle", "line": "B"},
    {"temperature": None, "pressure": 4.5, "mode": "cut", "line": "A"},
    {"temperature": 35.25, "pressure": -1.0, "mode": "drill", "line": "C"},
    {"temperature": 18.0, "pressure": 0.125, "mode": "stuck", "line": "A"},
    {"temperature": 1e3, "pressure": 7.75, "mode": "cut", "line": "B"},
]
temperature = np.array([[np.nan if r["temperature"] is None else r["temperature"]] for r in rows])
pressure = np.array([[r["pressure"]] for r in rows])
mode = np.array([[r["mode"]] for r in rows])
line = np.array([[r["line"]] for r in rows])

imputer = SimpleImputer(strategy="mean", add_indicator=True).fit(temperature)
imputed = imputer.transform(temperature)
standard = StandardScaler().fit(imputed[:, :1])
min_max = MinMaxScaler().fit(pressure)
modes, lines = ["cut", "drill", "idle"], ["A", "B", "C"]
one_hot = OneHotEncoder(categories=[modes], handle_unknown="ignore", sparse_output=False).fit(mode)
ordinal = OrdinalEncoder(categories=[lines]).fit(line)

features = np.hstack(
    [
        standard.transform(imputed[:, :1]),
        imputed[:, 1:],
        min_max.transform(pressure),
        one_hot.transform(mode),
        ordinal.transform(line),
    ]
)
config = {
    "features": [
        {
            "kind": "numeric",
            "name": "temperature",
            "missing": {"impute": imputer.statistics_[0]},
            "missing-indicator": True,
            "scale": {"kind": "standard", "mean": standard.mean_[0], "scale": standard.scale_[0]},
        },
        {
            "kind": "numeric",
            "name": "pressure",
            "scale": {"kind": "min-max", "min": min_max.data_min_[0], "max": min_max.data_max_[0]},
        },
        {
            "kind": "categorical",
            "name": "mode",
            "categories": modes,
            "encoding": "one-hot",
            "unknown": "none",
        },
        {"kind": "categorical", "name": "line", "categories": lines, "encoding": "ordinal"},
    ]
}
print(json.dumps({"config": config, "rows": rows, "features": features.tolist()}, indent=1))
