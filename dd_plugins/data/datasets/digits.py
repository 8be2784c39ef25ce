"""scikit-learn's digits, available without a download."""

import numpy as np
import torch

from dd_plugins.data.named import DataOptions, refuse_argument
from dd_plugins.data.real import RealData

__all__ = ["load_digits"]

_TEST_PART = 0.2


def load_digits(options: DataOptions) -> RealData:
    """Load scikit-learn's digits: 1,797 real 8x8 images of handwritten digits.

    The set has no test split of its own, so a stratified fifth of it, always the same,
    becomes the test set.
    """
    refuse_argument("digits", options)
    from sklearn.datasets import load_digits as sklearn_digits
    from sklearn.model_selection import train_test_split

    digits = sklearn_digits()
    pixels = (digits.images / 16).astype(np.float32)[:, None]
    train_x, test_x, train_y, test_y = train_test_split(
        pixels,
        digits.target,
        test_size=_TEST_PART,
        stratify=digits.target,
        random_state=0,
    )

    return RealData.from_tensors(
        torch.from_numpy(train_x),
        torch.from_numpy(train_y),
        test=(torch.from_numpy(test_x), torch.from_numpy(test_y)),
        class_names=map(str, digits.target_names),
        name="digits",
        preprocessing="standardize",
        image_size=options.image_size,
    )
