"""Holds `headland onnx test` to what scikit-learn, XGBoost and LightGBM say.

    ml_judge.py HEADLAND [NAME...] [--keep DIR]

Trains small models on the data that scikit-learn brings along, exports them to
ONNX, and has the binary run them on rows that they were not trained on. Labels
must be the estimator's own, and floats within 1e-4. Prints one line for each
model and exits 1 when one does not pass. With names, only the models whose name
contains one; `--keep` leaves the cases in a folder, in the layout of ONNX's
backend tests.

Needs onnx, scikit-learn, skl2onnx, onnxmltools, xgboost and lightgbm, and
protobuf below 7, which takes the bools that skl2onnx has for whole numbers.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import warnings

import lightgbm
import numpy as np
import onnx
import onnxmltools
import onnxmltools.convert.common.data_types as mltypes
import skl2onnx
import xgboost
from onnx import numpy_helper
from skl2onnx.common.data_types import FloatTensorType, Int64TensorType, StringTensorType
from sklearn import (
    cluster,
    compose,
    datasets,
    decomposition,
    ensemble,
    feature_extraction,
    impute,
    linear_model,
    naive_bayes,
    neighbors,
    neural_network,
    pipeline,
    preprocessing,
    svm,
    tree,
)
from sklearn.calibration import CalibratedClassifierCV
from sklearn.model_selection import train_test_split

ROWS = 40
CASES = {}


def data(name, targets=1):
    """Rows to learn from, what they are, and rows to judge, of f32 as ONNX has
    them.

    The estimators take the same numbers, so that no threshold of a tree falls
    between a number and its rounding.
    """
    x, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    x = x.astype(np.float32)
    if name == "diabetes":
        # Both sides must hold a target of hundreds to 1e-4 of itself.
        y = (y / 100).astype(np.float32)
    if targets == 2:
        y = np.column_stack([y, x[:, 0] - y])
    x, judged, y, _ = train_test_split(x, y, test_size=ROWS, random_state=0)
    return x, y, judged


def case(name):
    """Register a function that gives a model, its inputs and its outputs."""

    def register(make):
        CASES[name] = make
        return make

    return register


def to_onnx(estimator, rows, options=None):
    types = [("x", FloatTensorType([None, rows.shape[1]]))]
    if options is not None:
        options = {id(estimator): options}
    return skl2onnx.to_onnx(estimator, initial_types=types, options=options)


def classified(estimator, rows):
    return [estimator.predict(rows), estimator.predict_proba(rows)]


def classifier(name, dataset, estimator, texts=False):
    """Cases of a classifier: with scores as a tensor, and as maps."""

    def make(zipmap):
        x, y, rows = data(dataset)
        if texts:
            y = np.array([f"class {label}" for label in y])
        estimator.fit(x, y)
        label, scores = classified(estimator, rows)
        if zipmap:
            classes = [c if texts else int(c) for c in estimator.classes_]
            scores = [dict(zip(classes, row)) for row in scores]
        model = to_onnx(estimator, rows, {"zipmap": zipmap})
        return model, [rows], [label, scores]

    case(name)(lambda: make(False))
    case(f"{name}_zipmap")(lambda: make(True))


def regressor(name, estimator, targets=1):
    @case(name)
    def make():
        x, y, rows = data("diabetes", targets)
        estimator.fit(x, y)
        return to_onnx(estimator, rows), [rows], [estimator.predict(rows).reshape(ROWS, -1)]


def scaled(estimator):
    return pipeline.make_pipeline(preprocessing.StandardScaler(), estimator)


def small(kind, **more):
    return kind(n_estimators=12, max_depth=4, random_state=0, **more)


def platt(kernel):
    return CalibratedClassifierCV(svm.SVC(kernel=kernel), ensemble=False, cv=3)


def registered():
    classifier("logistic_two", "breast_cancer", scaled(linear_model.LogisticRegression()))
    classifier("logistic_three", "iris", linear_model.LogisticRegression(max_iter=1000))
    classifier("logistic_texts", "iris", linear_model.LogisticRegression(max_iter=1000), True)
    for kernel in ("linear", "poly", "rbf", "sigmoid"):
        vectors = svm.SVC(kernel=kernel, probability=True, random_state=0)
        classifier(f"svc_{kernel}", "wine", scaled(vectors))
    vectors = svm.SVC(probability=True, random_state=0)
    classifier("svc_two", "breast_cancer", scaled(vectors))
    classifier("svc_ten", "digits", svm.SVC(probability=True, random_state=0))
    classifier("svc_calibrated", "wine", scaled(platt("rbf")))
    classifier("tree_two", "breast_cancer", tree.DecisionTreeClassifier(max_depth=4, random_state=0))
    classifier("tree_texts", "iris", tree.DecisionTreeClassifier(max_depth=3, random_state=0), True)
    classifier("forest_two", "breast_cancer", small(ensemble.RandomForestClassifier))
    classifier("forest_two_texts", "breast_cancer", small(ensemble.RandomForestClassifier), True)
    classifier("forest_ten", "digits", small(ensemble.RandomForestClassifier))
    classifier("extra_trees", "wine", small(ensemble.ExtraTreesClassifier))
    classifier("boosting_two", "breast_cancer", small(ensemble.GradientBoostingClassifier))
    classifier("boosting_three", "wine", small(ensemble.GradientBoostingClassifier))
    histogram = ensemble.HistGradientBoostingClassifier(max_iter=12)
    classifier("histogram_two", "breast_cancer", histogram)
    classifier("histogram_three", "wine", histogram)
    classifier("ada_boost", "wine", ensemble.AdaBoostClassifier(n_estimators=5, random_state=0))
    classifier("bagging", "wine", ensemble.BaggingClassifier(n_estimators=5, random_state=0))
    classifier("neighbours", "iris", neighbors.KNeighborsClassifier())
    classifier("bayes", "wine", naive_bayes.GaussianNB())
    network = neural_network.MLPClassifier((16, 8), max_iter=300, random_state=0)
    classifier("network", "digits", network)

    regressor("linear", linear_model.LinearRegression())
    regressor("ridge_targets", linear_model.Ridge(), 2)
    regressor("svr", scaled(svm.SVR()))
    regressor("svr_linear", scaled(svm.LinearSVR(random_state=0)))
    regressor("tree_regressor", tree.DecisionTreeRegressor(max_depth=4, random_state=0))
    regressor("tree_targets", tree.DecisionTreeRegressor(max_depth=3, random_state=0), 2)
    regressor("forest_targets", small(ensemble.RandomForestRegressor), 2)
    regressor("forest_regressor", small(ensemble.RandomForestRegressor))
    regressor("boosting_regressor", small(ensemble.GradientBoostingRegressor))
    regressor("histogram_regressor", ensemble.HistGradientBoostingRegressor(max_iter=12))
    regressor("neighbours_regressor", neighbors.KNeighborsRegressor())
    network = neural_network.MLPRegressor(hidden_layer_sizes=(16,), max_iter=300, random_state=0)
    regressor("network_regressor", scaled(network))
    return CASES


@case("svc_scores")
def svc_scores():
    x, y, rows = data("wine")
    estimator = scaled(svm.SVC(decision_function_shape="ovo")).fit(x, y)
    last = estimator.steps[-1][1]
    types = [("x", FloatTensorType([None, rows.shape[1]]))]
    options = {id(last): {"zipmap": False, "raw_scores": True}}
    model = skl2onnx.to_onnx(estimator, initial_types=types, options=options)
    return model, [rows], [estimator.predict(rows), estimator.decision_function(rows)]


@case("svc_linear_scores")
def linear_svc():
    x, y, rows = data("iris")
    estimator = svm.LinearSVC(random_state=0).fit(x, y)
    model = to_onnx(estimator, rows, {"raw_scores": True})
    return model, [rows], [estimator.predict(rows), estimator.decision_function(rows)]


@case("svm_one_class")
def one_class():
    x, _, rows = data("wine")
    estimator = scaled(svm.OneClassSVM(nu=0.3)).fit(x)
    scores = estimator.decision_function(rows).reshape(-1, 1)
    return to_onnx(estimator, rows), [rows], [estimator.predict(rows).reshape(-1, 1), scores]


@case("isolation_forest")
def isolation_forest():
    x, _, rows = data("wine")
    estimator = ensemble.IsolationForest(n_estimators=12, random_state=0).fit(x)
    scores = estimator.decision_function(rows).reshape(-1, 1)
    types = [("x", FloatTensorType([None, rows.shape[1]]))]
    model = skl2onnx.to_onnx(
        estimator, initial_types=types, target_opset={"": 17, "ai.onnx.ml": 3}
    )
    return model, [rows], [estimator.predict(rows).reshape(-1, 1), scores]


@case("histogram_missing")
def histogram_missing():
    x, y, rows = data("diabetes")
    rng = np.random.default_rng(0)
    x[rng.random(x.shape) < 0.2] = np.nan
    rows[rng.random(rows.shape) < 0.2] = np.nan
    estimator = ensemble.HistGradientBoostingRegressor(max_iter=12).fit(x, y)
    return to_onnx(estimator, rows), [rows], [estimator.predict(rows).reshape(-1, 1)]


@case("neighbours_cdist")
def neighbours_cdist():
    """With the operator of com.microsoft for distances."""
    x, y, rows = data("iris")
    estimator = neighbors.KNeighborsClassifier().fit(x, y)
    model = to_onnx(estimator, rows, {"zipmap": False, "optim": "cdist"})
    return model, [rows], classified(estimator, rows)


@case("means")
def means():
    x, _, rows = data("iris")
    estimator = cluster.KMeans(3, n_init=2, random_state=0).fit(x)
    return to_onnx(estimator, rows), [rows], [estimator.predict(rows), estimator.transform(rows)]


@case("components")
def components():
    x, _, rows = data("digits")
    estimator = decomposition.PCA(8, random_state=0).fit(x)
    return to_onnx(estimator, rows), [rows], [estimator.transform(rows)]


def transformer(name, estimator):
    @case(name)
    def make():
        x, _, rows = data("wine")
        estimator.fit(x)
        return to_onnx(estimator, rows), [rows], [estimator.transform(rows).astype(np.float32)]


for norm in ("max", "l1", "l2"):
    transformer(f"normalizer_{norm}", preprocessing.Normalizer(norm))
transformer("binarizer", preprocessing.Binarizer(threshold=2.0))
transformer("scaler_min_max", preprocessing.MinMaxScaler())
transformer("scaler_robust", preprocessing.RobustScaler())
transformer("polynomial", preprocessing.PolynomialFeatures(2))
transformer("bins", preprocessing.KBinsDiscretizer(4, encode="onehot-dense"))


@case("columns")
def columns():
    """Numbers with gaps, whole numbers and text in one pipeline."""
    x, y, rows = data("iris")
    rng = np.random.default_rng(0)

    def table(numbers):
        numbers = numbers.copy()
        colours = np.array(["red", "green", "blue"])[(numbers[:, 0] * 10).astype(int) % 3]
        counts = (numbers[:, 1] * 10).astype(np.int64) % 4
        numbers[rng.random(numbers.shape) < 0.1] = np.nan
        return numbers, counts.reshape(-1, 1), colours.astype(object).reshape(-1, 1)

    def joined(parts):
        return np.hstack([part.astype(object) for part in parts])

    learned, judged = table(x), table(rows)
    numbers = pipeline.make_pipeline(
        impute.SimpleImputer(strategy="median"), preprocessing.StandardScaler()
    )
    prepare = compose.ColumnTransformer(
        [
            ("numbers", numbers, [0, 1, 2, 3]),
            ("counts", preprocessing.OneHotEncoder(handle_unknown="ignore"), [4]),
            ("colours", preprocessing.OneHotEncoder(handle_unknown="ignore"), [5]),
        ]
    )
    estimator = pipeline.make_pipeline(prepare, linear_model.LogisticRegression(max_iter=1000))
    estimator.fit(joined(learned), y)
    types = [
        ("numbers", FloatTensorType([None, 4])),
        ("counts", Int64TensorType([None, 1])),
        ("colours", StringTensorType([None, 1])),
    ]
    options = {id(estimator): {"zipmap": False}}
    model = skl2onnx.to_onnx(estimator, initial_types=types, options=options)
    return model, list(judged), classified(estimator, joined(judged))


TEXTS = [
    "the runtime runs the model at the edge",
    "a model is a graph of nodes",
    "the edge of the graph is not a node",
    "nodes run, and the runtime waits",
    "a tree has leaves and no cycles",
    "leaves of the tree fall at the edge",
]


@case("words")
def words():
    estimator = feature_extraction.text.TfidfVectorizer(token_pattern=r"[a-zA-Z]+").fit(TEXTS)
    types = [("text", StringTensorType([None, 1]))]
    options = {id(estimator): {"tokenexp": "[a-zA-Z]+"}}
    model = skl2onnx.to_onnx(estimator, initial_types=types, options=options)
    # What makes words of a text is not of ONNX: the model gets the words.
    nodes = list(model.graph.node)
    [at] = [at for at, node in enumerate(nodes) if node.op_type == "Tokenizer"]
    del model.graph.node[: at + 1]
    text = onnx.TensorProto.STRING
    tokens = onnx.helper.make_tensor_value_info(nodes[at].output[0], text, [None, 1, None])
    model.graph.input[0].CopyFrom(tokens)
    texts = TEXTS[::-1]
    rows = [text.replace(",", "").split() for text in texts]
    longest = max(map(len, rows))
    rows = [[*row, *["#"] * (longest - len(row))] for row in rows]
    rows = np.array(rows, dtype=object).reshape(len(rows), 1, longest)
    return model, [rows], [estimator.transform(texts).toarray().astype(np.float32)]


@case("label_encoder")
def label_encoder():
    estimator = preprocessing.LabelEncoder().fit(["red", "green", "blue"])
    rows = np.array(["green", "blue", "red", "green"], dtype=object)
    types = [("text", StringTensorType([None]))]
    model = skl2onnx.to_onnx(estimator, initial_types=types)
    return model, [rows], [estimator.transform(rows)]


@case("dictionary")
def dictionary():
    """A map as input."""
    vocabulary = ["a", "b", "c", "d"]
    node = onnx.helper.make_node(
        "DictVectorizer", ["x"], ["y"], domain="ai.onnx.ml", string_vocabulary=vocabulary
    )
    text, number = onnx.TensorProto.STRING, onnx.TensorProto.FLOAT
    value = onnx.helper.make_tensor_type_proto(number, None)
    graph = onnx.helper.make_graph(
        [node],
        "dictionary",
        [onnx.helper.make_value_info("x", onnx.helper.make_map_type_proto(text, value))],
        [onnx.helper.make_tensor_value_info("y", number, [1, 4])],
    )
    opset = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("ai.onnx.ml", 3)]
    model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=9)
    estimator = feature_extraction.DictVectorizer(sparse=False, dtype=np.float32)
    estimator.fit([dict.fromkeys(vocabulary, 1.0)])
    row = {"d": 2.5, "b": -1.0}
    return model, [row], [estimator.transform([row])]


def boosted(name, dataset, estimator, convert):
    @case(name)
    def make():
        x, y, rows = data(dataset)
        estimator.fit(x, y)
        types = [("x", mltypes.FloatTensorType([None, rows.shape[1]]))]
        if not hasattr(estimator, "predict_proba"):
            expected = [estimator.predict(rows).reshape(-1, 1)]
            return convert(estimator, initial_types=types), [rows], expected
        label, scores = classified(estimator, rows)
        model = convert(estimator, initial_types=types)
        output = model.graph.output[1].type
        if output.HasField("sequence_type"):
            scores = [dict(enumerate(row)) for row in scores]
        return model, [rows], [label, scores]


for title, dataset in (("two", "breast_cancer"), ("three", "iris"), ("ten", "digits")):
    boosted(
        f"xgboost_{title}",
        dataset,
        small(xgboost.XGBClassifier),
        onnxmltools.convert_xgboost,
    )
    boosted(
        f"lightgbm_{title}",
        dataset,
        small(lightgbm.LGBMClassifier, verbose=-1),
        onnxmltools.convert_lightgbm,
    )
boosted(
    "xgboost_regressor", "diabetes", small(xgboost.XGBRegressor), onnxmltools.convert_xgboost
)
boosted(
    "lightgbm_regressor",
    "diabetes",
    small(lightgbm.LGBMRegressor, verbose=-1),
    onnxmltools.convert_lightgbm,
)


def tensor(value, info):
    """A tensor of the element type that the model declares."""
    dtype = onnx.helper.tensor_dtype_to_np_dtype(info.tensor_type.elem_type)
    return numpy_helper.from_array(np.asarray(value).astype(dtype))


def map_of(value, info):
    made = onnx.MapProto(key_type=info.map_type.key_type)
    if info.map_type.key_type == onnx.TensorProto.STRING:
        made.string_keys.extend(str(key).encode() for key in value)
    else:
        made.keys.extend(value)
    made.values.elem_type = onnx.SequenceProto.TENSOR
    for each in value.values():
        made.values.tensor_values.append(tensor(each, info.map_type.value_type))
    return made


def proto(value, info):
    """A value as the message of its type."""
    if info.HasField("map_type"):
        return map_of(value, info)
    if info.HasField("sequence_type"):
        inner = info.sequence_type.elem_type
        made = onnx.SequenceProto(elem_type=onnx.SequenceProto.MAP)
        made.map_values.extend(map_of(each, inner) for each in value)
        return made
    return tensor(value, info)


def write(folder, model, inputs, outputs):
    """A case in the layout of ONNX's backend tests."""
    data_set = folder / "test_data_set_0"
    data_set.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    for kind, values, infos in (
        ("input", inputs, model.graph.input),
        ("output", outputs, model.graph.output),
    ):
        if len(values) != len(infos):
            raise ValueError(f"{len(values)} values for {len(infos)} {kind}s")
        for index, (value, info) in enumerate(zip(values, infos)):
            message = proto(value, info.type)
            (data_set / f"{kind}_{index}.pb").write_bytes(message.SerializeToString())


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("headland", type=pathlib.Path)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--keep", type=pathlib.Path)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        folder = args.keep or pathlib.Path(folder)
        for name, make in registered().items():
            if not args.names or any(part in name for part in args.names):
                write(folder / name, *make())
        command = [args.headland, "onnx", "test", "--json", "--rtol", "1e-4", "--atol", "1e-4"]
        # It exits 1 where a case fails.
        done = subprocess.run(
            [*command, folder], stdout=subprocess.PIPE, text=True, check=False
        )
        report = json.loads(done.stdout)
    for result in report["cases"]:
        print(f"{result['verdict']} {result['case']} {result['reason']}".rstrip())
    failed = [result for result in report["cases"] if result["verdict"] != "PASS"]
    print(f"{len(report['cases']) - len(failed)} of {len(report['cases'])} pass")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
