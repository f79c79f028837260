"""The UCI handwritten digits: reading them, the split, the normalisation."""

import numpy as np
from sklearn.datasets import load_digits

# scikit-learn ships the 1797 images that the set's authors kept for writers
# who are not in their training part. The labels repeat one sheet of about 130
# digits; a sheet starts here. Cutting between sheets, instead of shuffling,
# tests on handwriting that was not trained on.
HELD_OUT_FROM = 1287

# Of the training images with ink in 0..=1; repeated in pipeline.toml.
MEAN = 0.307
STD = 0.376


def read():
    """Images (1797 x 8 x 8, u8, ink is 255) and their digits."""
    data = load_digits()
    # The set counts ink in 0..=16 per pixel.
    images = np.floor(data.images * 255 / 16 + 0.5).astype(np.uint8)
    return images, data.target.astype(np.int64)


def standardise(images):
    """N x 8 x 8 u8 to N x 1 x 8 x 8 f32, as the network takes it."""
    return ((images.astype(np.float32) / 255 - MEAN) / STD)[:, None]
