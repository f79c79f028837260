"""Write the images of the demo, `inputs/000.png` and on, and `labels.csv`.

    python make_input.py

500 held-out digits in a seeded order, as 8x8 greyscale PNG. From image 250 on
the camera is not what it was: its lens is soiled (a veil of light and a blur)
and its sensor noisy.
"""

from pathlib import Path

import numpy as np
from PIL import Image

import digits

HERE = Path(__file__).parent
INPUTS = HERE / "inputs"
LABELS = HERE / "labels.csv"

IMAGES = 500
DRIFT_FROM = 250
SEED = 7

BLUR = np.array([0.25, 0.5, 0.25])
VEIL = 70.0
CONTRAST = 0.65
NOISE_STD = 18.0


def degrade(images, rng):
    """Blur, contrast, veil and noise on N x 8 x 8 images in 0..=255."""
    x = images.astype(np.float64)
    for axis in (1, 2):
        x = np.apply_along_axis(lambda line: np.convolve(line, BLUR, mode="same"), axis, x)
    x = x * CONTRAST + VEIL + rng.normal(0, NOISE_STD, x.shape)
    return np.clip(np.round(x), 0, 255).astype(np.uint8)


def select(images, labels):
    """The demo's images, the second half degraded, and their digits."""
    rng = np.random.default_rng(SEED)
    chosen = digits.HELD_OUT_FROM + rng.permutation(len(images) - digits.HELD_OUT_FROM)[:IMAGES]
    out = images[chosen]
    out[DRIFT_FROM:] = degrade(out[DRIFT_FROM:], rng)
    return out, labels[chosen]


def main():
    INPUTS.mkdir(exist_ok=True)
    images, labels = select(*digits.read())
    names = [f"{i:03}.png" for i in range(len(images))]
    for name, image in zip(names, images):
        Image.fromarray(image).save(INPUTS / name, optimize=True)
    LABELS.write_text("".join(f"{n},{digit}\n" for n, digit in zip(names, labels)))


if __name__ == "__main__":
    main()
