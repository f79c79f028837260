"""Writes the fixtures of tests/reference.rs: one small picture in each format,
and what Pillow and ONNX's reference implementation make of it.

    python reference.py        (Pillow 12, onnx 1.19 or newer)
"""

import json
import pathlib

import numpy as np
import onnx
from onnx import helper
from onnx.reference import ReferenceEvaluator
from PIL import Image, ImageOps

here = pathlib.Path(__file__).parent / "data"
here.mkdir(exist_ok=True)

y, x = np.mgrid[0:17, 0:23]
rgb = np.stack([x * 11, y * 15, 127 + 120 * np.sin(x / 3.0) * np.cos(y / 2.0)], -1)
rgb = rgb.clip(0, 255).astype(np.uint8)
picture = Image.fromarray(rgb)
picture.save(here / "gradient.png")
picture.save(here / "gradient.bmp")
picture.save(here / "gradient.ppm")
picture.save(here / "gradient.jpg", quality=95, subsampling=0)
alpha = np.dstack([rgb, np.full(rgb.shape[:2], 9, np.uint8)])
Image.fromarray(alpha, "RGBA").save(here / "alpha.png")
Image.fromarray((rgb[..., 0].astype(np.uint16) * 257)).save(here / "gray16.png")


def onnx_linear(width, height):
    """ONNX Resize, mode linear, half_pixel, no antialiasing."""
    node = helper.make_node("Resize", ["x", "", "", "sizes"], ["y"], mode="linear",
                            coordinate_transformation_mode="half_pixel")
    graph = helper.make_graph(
        [node], "resize",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 3, None, None]),
         helper.make_tensor_value_info("sizes", onnx.TensorProto.INT64, [4])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 3, None, None])])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)])
    planes = rgb.transpose(2, 0, 1)[None].astype(np.float32)
    sizes = np.array([1, 3, height, width], np.int64)
    (y,) = ReferenceEvaluator(model).run(None, {"x": planes, "sizes": sizes})
    return np.asarray(y)[0].transpose(1, 2, 0)


cases = []


def case(resize, expected, tolerance):
    expected = np.asarray(expected, np.float64)
    cases.append({"resize": resize, "tolerance": tolerance,
                  "samples": [round(v, 2) for v in expected.flatten().tolist()]})


filters = {"nearest": Image.Resampling.NEAREST, "area": Image.Resampling.BOX,
           "bilinear-antialias": Image.Resampling.BILINEAR}
for width, height in [(8, 5), (31, 20), (10, 24)]:
    size = {"width": width, "height": height}
    case(size | {"filter": "bilinear"}, onnx_linear(width, height), 0.51)
    case(size | {"filter": "nearest"}, picture.resize((width, height), filters["nearest"]), 0)
    case(size | {"filter": "bilinear-antialias"},
         picture.resize((width, height), filters["bilinear-antialias"]), 1)
case({"width": 8, "height": 6, "filter": "nearest", "mode": "fill"},
     ImageOps.fit(picture, (8, 6), filters["nearest"]), 0)
for width, height in [(9, 13), (15, 4)]:
    case({"width": width, "height": height, "filter": "bilinear-antialias", "mode": "fill"},
         ImageOps.fit(picture, (width, height), filters["bilinear-antialias"]), 1)
    case({"width": width, "height": height, "filter": "bilinear-antialias", "mode": "fit", "pad": 7},
         ImageOps.pad(picture, (width, height), filters["bilinear-antialias"], color=(7, 7, 7)), 1)

reference = {
    "rgb": rgb.flatten().tolist(),
    "jpeg": np.asarray(Image.open(here / "gradient.jpg")).flatten().tolist(),
    "gray": np.asarray(picture.convert("L")).flatten().tolist(),
    "resized": cases,
}
(here / "reference.json").write_text(json.dumps(reference, separators=(",", ":")) + "\n")
