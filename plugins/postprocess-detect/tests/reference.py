"""Writes reference.json: boxes, scores of three classes, and what ONNX
Runtime's NonMaxSuppression keeps of them.

    python reference.py > reference.json        (onnxruntime 1.20 or newer)
"""

import json

import numpy as np
import onnxruntime
from onnx import TensorProto, helper

random = np.random.default_rng(7)
corner = random.uniform(0, 0.7, (60, 2))
boxes = np.hstack([corner, corner + random.uniform(0.05, 0.3, (60, 2))]).round(4).astype(np.float32)
scores = random.uniform(0, 1, (60, 3)).round(4).astype(np.float32)

inputs = [helper.make_tensor_value_info("boxes", TensorProto.FLOAT, [1, 60, 4]),
          helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 3, 60]),
          helper.make_tensor_value_info("max", TensorProto.INT64, [1]),
          helper.make_tensor_value_info("iou", TensorProto.FLOAT, [1]),
          helper.make_tensor_value_info("score", TensorProto.FLOAT, [1])]
node = helper.make_node("NonMaxSuppression", [i.name for i in inputs], ["kept"])
kept = helper.make_tensor_value_info("kept", TensorProto.INT64, [None, 3])
model = helper.make_model(helper.make_graph([node], "nms", inputs, [kept]),
                          opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
session = onnxruntime.InferenceSession(model.SerializeToString())

cases = []
for min_score, max_iou in [(0.5, 0.5), (0.3, 0.25), (0.7, 0.05)]:
    (out,) = session.run(None, {
        "boxes": boxes[None], "scores": scores.T[None], "max": np.array([60], np.int64),
        "iou": np.array([max_iou], np.float32), "score": np.array([min_score], np.float32)})
    cases.append({"min-score": min_score, "max-iou": max_iou,
                  "kept": [[int(c), int(i)] for _, c, i in out]})
numbers = {"boxes": [round(float(v), 4) for v in boxes.flatten()],
           "scores": [round(float(v), 4) for v in scores.flatten()]}
print(json.dumps(numbers | {"cases": cases}))
