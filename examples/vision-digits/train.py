"""Train this example's network and write it to `models/digits-cnn.onnx`.

    python train.py              # train, write, evaluate
    python train.py --evaluate   # evaluate what is there

A convolutional network of 3 706 weights, trained in plain NumPy and written
with `onnx.helper`; evaluated with ONNX Runtime on sheets of handwriting that
it was not trained on. What the monitor compares with,
`reference/training-images.json`, is of the training images and of what the
network says of them.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.lib.stride_tricks import sliding_window_view
from onnx import TensorProto, helper, numpy_helper
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score

import digits

sys.path.append(str(Path(__file__).resolve().parent.parent))
import quality_reference

HERE = Path(__file__).parent
MODEL = HERE / "models" / "digits-cnn.onnx"
REFERENCE = HERE / "reference" / "training-images.json"

EPOCHS = 60
BATCH = 32
PEAK_RATE = 2e-3
WEIGHT_DECAY = 1e-4


def convolve(x, w, b):
    """3x3 convolution, padding 1. `x` is N,C,H,W; `w` is O,C,3,3.

    Also gives the patches, which the gradient needs: N,H,W,C*9.
    """
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    patches = sliding_window_view(padded, (3, 3), axis=(2, 3)).transpose(0, 2, 3, 1, 4, 5)
    patches = patches.reshape(*patches.shape[:3], -1)
    out = patches @ w.reshape(len(w), -1).T + b
    return out.transpose(0, 3, 1, 2), patches


def convolve_gradient(grad, patches, w):
    """Gradients of the input, the weights and the bias of `convolve`."""
    n, out_channels, height, width = grad.shape
    flat = grad.transpose(0, 2, 3, 1).reshape(-1, out_channels)
    grad_w = (flat.T @ patches.reshape(len(flat), -1)).reshape(w.shape)
    # Convolving the gradient with the kernels turned by 180 degrees.
    turned = w[:, :, ::-1, ::-1].transpose(1, 0, 2, 3)
    grad_x, _ = convolve(grad, turned, np.zeros(len(turned), grad.dtype))
    return grad_x, grad_w, flat.sum(axis=0)


def pool(x):
    """2x2 maximum, stride 2, and where it was (ties share the gradient)."""
    n, c, h, w = x.shape
    tiles = x.reshape(n, c, h // 2, 2, w // 2, 2)
    top = tiles.max(axis=(3, 5), keepdims=True)
    where = tiles == top
    share = where / where.sum(axis=(3, 5), keepdims=True, dtype=x.dtype)
    return top.squeeze((3, 5)), share


def pool_gradient(grad, share):
    n, c, h, _, w, _ = share.shape
    return (share * grad[:, :, :, None, :, None]).reshape(n, c, h * 2, w * 2)


def initial_parameters(rng):
    def kaiming(*shape):
        fan_in = int(np.prod(shape[1:]))
        return rng.normal(0, np.sqrt(2 / fan_in), shape).astype(np.float32)

    zeros = lambda n: np.zeros(n, np.float32)
    return {
        "conv1.weight": kaiming(12, 1, 3, 3), "conv1.bias": zeros(12),
        "conv2.weight": kaiming(24, 12, 3, 3), "conv2.bias": zeros(24),
        "dense.weight": kaiming(10, 24 * 2 * 2), "dense.bias": zeros(10),
    }  # fmt: skip


def loss_gradient(p, x, target):
    """Gradients of the mean cross-entropy over a batch."""
    z1, patches1 = convolve(x, p["conv1.weight"], p["conv1.bias"])
    h1, share1 = pool(np.maximum(z1, 0))
    z2, patches2 = convolve(h1, p["conv2.weight"], p["conv2.bias"])
    h2, share2 = pool(np.maximum(z2, 0))
    flat = h2.reshape(len(x), -1)
    logits = flat @ p["dense.weight"].T + p["dense.bias"]

    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    grad = odds / odds.sum(axis=1, keepdims=True)
    grad[np.arange(len(x)), target] -= 1
    grad /= len(x)

    g = {"dense.weight": grad.T @ flat, "dense.bias": grad.sum(axis=0)}
    back = pool_gradient((grad @ p["dense.weight"]).reshape(h2.shape), share2) * (z2 > 0)
    back, g["conv2.weight"], g["conv2.bias"] = convolve_gradient(back, patches2, p["conv2.weight"])
    back = pool_gradient(back, share1) * (z1 > 0)
    _, g["conv1.weight"], g["conv1.bias"] = convolve_gradient(back, patches1, p["conv1.weight"])
    return g


def shifted(x, rng):
    """Each image moved by -1, 0 or 1 pixel along both axes."""
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=x.min())
    out = np.empty_like(x)
    for i, (dy, dx) in enumerate(rng.integers(0, 3, (len(x), 2))):
        out[i] = padded[i, :, dy : dy + 8, dx : dx + 8]
    return out


def train(x, y):
    """Adam with decoupled weight decay and a one-cycle cosine rate."""
    rng = np.random.default_rng(20)
    p = initial_parameters(rng)
    mean = {k: np.zeros_like(v) for k, v in p.items()}
    square = {k: np.zeros_like(v) for k, v in p.items()}
    steps = EPOCHS * (len(x) // BATCH)
    step = 0
    for _ in range(EPOCHS):
        order = rng.permutation(len(x))
        for start in range(0, len(x) - BATCH + 1, BATCH):
            step += 1
            at = order[start : start + BATCH]
            rate = PEAK_RATE * (1 + np.cos(np.pi * step / steps)) / 2
            for k, g in loss_gradient(p, shifted(x[at], rng), y[at]).items():
                mean[k] = 0.9 * mean[k] + 0.1 * g
                square[k] = 0.999 * square[k] + 0.001 * g * g
                move = mean[k] / (1 - 0.9**step)
                move /= np.sqrt(square[k] / (1 - 0.999**step)) + 1e-8
                p[k] = (p[k] - rate * (move + WEIGHT_DECAY * p[k])).astype(np.float32)
    return p


def write(p):
    conv = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    halve = {"kernel_shape": [2, 2], "strides": [2, 2]}
    node = helper.make_node
    graph = helper.make_graph(
        [
            node("Conv", ["image", "conv1.weight", "conv1.bias"], ["z1"], **conv),
            node("Relu", ["z1"], ["a1"]),
            node("MaxPool", ["a1"], ["h1"], **halve),
            node("Conv", ["h1", "conv2.weight", "conv2.bias"], ["z2"], **conv),
            node("Relu", ["z2"], ["a2"]),
            node("MaxPool", ["a2"], ["h2"], **halve),
            node("Flatten", ["h2"], ["flat"], axis=1),
            node("Gemm", ["flat", "dense.weight", "dense.bias"], ["logits"], transB=1),
        ],
        "digits-cnn",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 10])],
        [numpy_helper.from_array(value, name) for name, value in p.items()],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], producer_name="train.py"
    )
    model.ir_version = 8
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, MODEL)


def predict(x):
    """The digit of each image, by ONNX Runtime."""
    session = onnxruntime.InferenceSession(MODEL, providers=["CPUExecutionProvider"])
    return session.run(None, {"image": x})[0].argmax(axis=1)


def write_reference(x):
    flat = x.reshape(len(x), -1).astype(np.float64)
    columns = {"image.mean": flat.mean(axis=1), "image.std": flat.std(axis=1)}
    columns["prediction.class"] = [str(digit) for digit in predict(x)]
    quality_reference.write(REFERENCE, columns, MODEL)


def evaluate(x, y):
    guess = predict(x)
    print(f"held-out images   {len(y)}")
    print(f"accuracy          {accuracy_score(y, guess):.4f}")
    print(f"F1 (macro)        {f1_score(y, guess, average='macro'):.4f}")
    print("confusion (rows: truth, columns: prediction)")
    print(confusion_matrix(y, guess))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--evaluate", action="store_true", help="do not train")
    arguments = parser.parse_args()
    images, labels = digits.read()
    x = digits.standardise(images)
    split = digits.HELD_OUT_FROM
    if not arguments.evaluate:
        write(train(x[:split], labels[:split]))
        write_reference(x[:split])
    evaluate(x[split:], labels[split:])


if __name__ == "__main__":
    main()
