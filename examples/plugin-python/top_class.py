"""A Headland postprocess component in Python: softmax over logits, best class.

Built with componentize-py against wit/; see README.md.
"""

import json
import math
import struct

from componentize_py_types import Err
from wit_world import exports
from wit_world.imports import tensors
from wit_world.imports.types import (
    ClassScore,
    Description,
    Prediction,
    StageError_BadConfig,
    StageError_BadInput,
)

SCHEMA = {
    "type": "object",
    "additionalProperties": False,
    "required": ["labels"],
    "properties": {
        "labels": {
            "type": "array",
            "items": {"type": "string"},
            "minItems": 1,
            "description": "One label a class, in the order of the logits",
        }
    },
}

labels: list[str] = []


class Component(exports.Component):
    def describe(self) -> Description:
        return Description(
            "top-class",
            "0.1.0",
            "Names the class with the largest logit, with its softmax probability.",
            json.dumps(SCHEMA),
        )


class Configurable(exports.Configurable):
    def configure(self, config: str) -> None:
        global labels
        labels = json.loads(config)["labels"]
        if len(set(labels)) != len(labels):
            raise Err(StageError_BadConfig("a label is there twice"))


class Postprocessor(exports.Postprocessor):
    def postprocess(self, frame, inputs) -> Prediction:
        if len(inputs) != 1:
            raise Err(StageError_BadInput(f"one input is needed, got {len(inputs)}"))
        name, tensor = inputs[0].name, inputs[0].tensor
        if tensor.dtype() != tensors.Dtype.F32:
            raise Err(StageError_BadInput(f"`{name}` is {tensor.dtype().name.lower()}, not f32"))
        data = tensor.read()
        logits = struct.unpack(f"<{len(data) // 4}f", data)
        if len(logits) != len(labels):
            raise Err(
                StageError_BadInput(
                    f"`{name}` has {len(logits)} logits, there are {len(labels)} labels"
                )
            )
        peak = max(logits)
        weights = [math.exp(x - peak) for x in logits]
        total = sum(weights)
        order = sorted(range(len(logits)), key=lambda i: -weights[i])
        classes = [ClassScore(i, labels[i], weights[i] / total) for i in order]
        return Prediction(classes, [], [], None)
