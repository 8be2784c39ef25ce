"""scikit-learn's digits."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from dd_plugins import get_dataset
from dd_plugins.errors import OptionError


def test_digits_are_those_of_scikit_learn_each_in_one_split() -> None:
    data = get_dataset("digits")
    assert data.image_shape == (1, 8, 8)
    assert data.class_names == tuple("0123456789")
    assert (data.preprocessing, data.mirror) == ("standardize", False)
    parts = [data.train, data.validation, data.read_test()]
    assert [len(part.labels) for part in parts] == [1298, 139, 360]
    found = [
        (int(label), image.numpy().tobytes())
        for part in parts
        for image, label in zip(*part, strict=True)
    ]
    digits = load_digits()
    expected = [
        (int(label), (image / 16).astype(np.float32).tobytes())
        for image, label in zip(digits.images, digits.target, strict=True)
    ]
    assert sorted(found) == sorted(expected)


def test_digits_are_split_evenly_and_always_alike() -> None:
    first = get_dataset("digits")
    state = np.random.get_state()
    try:
        np.random.seed(5)
        torch.manual_seed(5)
        second = get_dataset("digits")
    finally:
        np.random.set_state(state)
    assert first.fingerprint == second.fingerprint
    first_test, second_test = first.read_test(), second.read_test()
    assert torch.equal(first_test.images, second_test.images)
    counts = torch.bincount(first_test.labels)
    assert (counts.min(), counts.max()) == (35, 37)


def test_digits_are_enlarged_by_an_image_size() -> None:
    data = get_dataset("digits", image_size=16)
    assert (data.image_shape, data.image_size) == ((1, 16, 16), 16)
    assert tuple(data.read_test().images.shape) == (360, 1, 16, 16)
    small = get_dataset("digits").train.images
    shrunk = torch.nn.functional.avg_pool2d(data.train.images, 2)
    assert float((shrunk - small).abs().mean()) < 0.1  # interpolation smooths edges


@pytest.mark.parametrize("size", [0, -3])
def test_an_image_size_without_pixels_is_refused(size: int) -> None:
    with pytest.raises(OptionError, match="image_size must be a whole number from 1"):
        get_dataset("digits", image_size=size)


def test_an_argument_that_is_not_taken_is_refused() -> None:
    with pytest.raises(OptionError, match="digits"):
        get_dataset("digits:3")
