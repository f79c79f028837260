"""Train the two models of this example and write them to `models/`.

    python train.py --data Shuttle.rda              # train, write, evaluate
    python train.py --data Shuttle.rda --evaluate   # evaluate what is there

`models/shuttle-mlp.onnx` is the pipeline's model; the trees that it falls back
to are the last section of `pipeline.toml`. Both take the eight standardised
sensors and give the probabilities of `nominal` and `anomaly`; both are
evaluated on the 14 500 rows that StatLog set aside for it, which nothing here
trains on. What the monitor compares with, `reference/training-rows.json`, is
of the training rows and of what the network says of them.
"""

import argparse
import json
import sys
import tomllib
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, roc_auc_score
from sklearn.neural_network import MLPClassifier

import shuttle

HERE = Path(__file__).resolve().parent
sys.path += [str(HERE.parent), str(HERE.parent.parent / "plugins" / "model-trees")]
import quality_reference
from convert import convert

MLP = HERE / "models" / "shuttle-mlp.onnx"
PIPELINE = HERE / "pipeline.toml"
REFERENCE = HERE / "reference" / "training-rows.json"

# What follows this line in `pipeline.toml` is written here.
TREES_MARK = "# The trees, as train.py writes them.\n"

# Standardised values are clamped here inside the model: the set has readings
# hundreds of standard deviations out, and what is that far out is saturated.
CLAMP = 8.0


def train_mlp(x, y):
    """A 8-24-16-1 perceptron with rectified units, as an ONNX graph."""
    mlp = MLPClassifier(
        hidden_layer_sizes=(24, 16), early_stopping=True, max_iter=80, random_state=20
    ).fit(np.clip(x, -CLAMP, CLAMP), y)

    # The logistic output p becomes two columns, (1 - p, p), as the softmax of
    # (0, logit): a zero column is put before the last layer's only one.
    weights = [w.astype(np.float32) for w in mlp.coefs_]
    biases = [b.astype(np.float32) for b in mlp.intercepts_]
    weights[-1] = np.hstack([np.zeros_like(weights[-1]), weights[-1]])
    biases[-1] = np.concatenate([np.zeros_like(biases[-1]), biases[-1]])

    nodes = [helper.make_node("Clip", ["features", "low", "high"], ["clamped"])]
    constants = [
        numpy_helper.from_array(np.float32(-CLAMP), "low"),
        numpy_helper.from_array(np.float32(CLAMP), "high"),
    ]
    flow = "clamped"
    for i, (w, b) in enumerate(zip(weights, biases), start=1):
        constants += [
            numpy_helper.from_array(w, f"w{i}"),
            numpy_helper.from_array(b, f"b{i}"),
        ]
        nodes.append(helper.make_node("Gemm", [flow, f"w{i}", f"b{i}"], [f"z{i}"]))
        flow = f"z{i}"
        if i < len(weights):
            nodes.append(helper.make_node("Relu", [flow], [f"h{i}"]))
            flow = f"h{i}"
    nodes.append(helper.make_node("Softmax", [flow], ["probabilities"], axis=1))

    graph = helper.make_graph(
        nodes,
        "shuttle-mlp",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", 8])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", 2])],
        constants,
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], producer_name="train.py"
    )
    model.ir_version = 8
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, MLP)


def predict_mlp(x):
    """Probability of `anomaly`, by ONNX Runtime."""
    session = onnxruntime.InferenceSession(MLP, providers=["CPUExecutionProvider"])
    return session.run(None, {"features": x})[0][:, 1]


def train_trees(x, y):
    """Twelve gradient-boosted trees of depth 3, as configuration of model-trees."""
    trees = GradientBoostingClassifier(
        n_estimators=12, max_depth=3, learning_rate=0.4, random_state=20
    ).fit(x, y)
    config = convert(trees) | {"output": "probabilities"}
    lines = [f"{key} = {json.dumps(value)}" for key, value in config.items() if key != "trees"]
    lines.append("trees = [")
    for tree in config["trees"]:
        # Six digits: the sensors are whole numbers, so a threshold lies half
        # a step from the nearest standardised value.
        rounded = {
            key: [round(v, 6) if isinstance(v, float) else v for v in value]
            if isinstance(value, list)
            else value
            for key, value in tree.items()
        }
        body = ", ".join(f"{key} = {json.dumps(value)}" for key, value in rounded.items())
        lines.append(f"  {{ {body} }},")
    lines.append("]\n")
    kept, _, _ = PIPELINE.read_text().partition(TREES_MARK)
    PIPELINE.write_text(kept + TREES_MARK + "[stage.config]\n" + "\n".join(lines))


def stage_config(stage):
    stages = tomllib.loads(PIPELINE.read_text())["stage"]
    return next(s["config"] for s in stages if s["id"] == stage)


def predict_trees(x):
    """Probability of `anomaly`, by the trees as they stand in `pipeline.toml`."""
    config = stage_config("trees")
    raw = np.full(len(x), config["base"][0])
    for tree in config["trees"]:
        feature, threshold, left, right = (
            np.array(tree[key]) for key in ["feature", "threshold", "left", "right"]
        )
        leaf_index = np.cumsum(feature < 0) - 1
        at = np.zeros(len(x), int)
        while (inner := feature[at] >= 0).any():
            goes_left = x[np.arange(len(x)), np.maximum(feature[at], 0)] <= threshold[at]
            step = np.where(goes_left, left[at], right[at])
            at = np.where(inner, step, at)
        raw += np.array(tree["leaves"])[leaf_index[at]]
    return 1 / (1 + np.exp(-raw))


def check_pipeline(scale):
    """Fail unless `pipeline.toml` standardises as the models were trained."""
    wanted = [
        {
            "name": name,
            "kind": "numeric",
            "missing": {"impute": s["median"]},
            "scale": {"kind": "standard", "mean": s["mean"], "scale": s["std"]},
        }
        for name, s in scale.items()
    ]
    if stage_config("features")["features"] != wanted:
        raise SystemExit("pipeline.toml needs these features:\n" + json.dumps(wanted, indent=1))


def check_background(x, y):
    """Fail unless the explainer's background in `pipeline.toml` is this: 16
    rows without an anomaly, evenly spaced over those trained on."""
    nominal = x[y == 0]
    wanted = nominal[:: len(nominal) // 16][:16].astype(float).round(3).tolist()
    (explainer,) = tomllib.loads(PIPELINE.read_text())["explainer"]
    if explainer["config"]["background"] != wanted:
        rows = "".join(f"  {json.dumps(row)},\n" for row in wanted)
        raise SystemExit(f"pipeline.toml needs this:\nbackground = [\n{rows}]")


def write_reference(rows, score):
    columns = {name: rows[:, i] for i, name in enumerate(shuttle.COLUMNS) if i > 0}
    columns["prediction.class"] = [shuttle.LABELS[int(s >= 0.5)] for s in score]
    quality_reference.write(REFERENCE, columns, MLP)


def report(name, truth, score):
    guess = score >= 0.5
    (tn, fp), (fn, tp) = confusion_matrix(truth, guess)
    print(f"{name}: {len(truth)} held-out rows, {truth.sum()} of them anomalies")
    print(f"  accuracy  {accuracy_score(truth, guess):.4f}")
    print(f"  F1        {f1_score(truth, guess):.4f}   of `anomaly`")
    print(f"  ROC-AUC   {roc_auc_score(truth, score):.5f}")
    print(f"  missed {fn} anomalies of {fn + tp}, raised {fp} false alarms in {tn + fp}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="Shuttle.rda; README.md says where from")
    parser.add_argument("--evaluate", action="store_true", help="do not train")
    arguments = parser.parse_args()

    rows, y = shuttle.read(arguments.data)
    split = shuttle.HELD_OUT_FROM
    scale = shuttle.standardisation(rows[:split])
    check_pipeline(scale)
    x = shuttle.standardise(rows, scale)
    check_background(x[:split], y[:split])
    if not arguments.evaluate:
        train_mlp(x[:split], y[:split])
        train_trees(x[:split], y[:split])
        write_reference(rows[:split], predict_mlp(x[:split]))
    report("shuttle-mlp", y[split:], predict_mlp(x[split:]))
    report("trees", y[split:], predict_trees(x[split:]))


if __name__ == "__main__":
    main()
