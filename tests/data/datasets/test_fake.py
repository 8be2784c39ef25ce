"""Made images of any number and size."""

import pytest
import torch

from dd_plugins import get_dataset
from dd_plugins.errors import OptionError
from dd_plugins.testing import DATASET_CHECKS


def test_images_are_a_function_of_their_index() -> None:
    data, again = (get_dataset("fake:10x3x8x6x200") for _ in range(2))
    assert (data.image_shape, data.num_classes) == ((3, 8, 6), 10)
    assert data.fingerprint == again.fingerprint
    assert data.name == "fake:10x3x8x6x200"
    labels = torch.cat([data.train.labels, data.validation.labels])
    assert labels.bincount().tolist() == [20] * 10
    test = data.read_test()
    assert test.labels.bincount().tolist() == [2] * 10
    images = data.train.images
    assert isinstance(images, torch.Tensor)
    assert len(images.flatten(1).unique(dim=0)) == len(images)


def test_a_class_is_known_by_its_colour() -> None:
    data = get_dataset("fake:5x3x8x8x500")
    images = data.train.images
    assert isinstance(images, torch.Tensor)
    colours = images.float().mean((2, 3))
    means = torch.stack([colours[data.train.labels == n].mean(0) for n in range(5)])
    found = torch.cdist(colours, means).argmin(dim=1)
    assert float((found == data.train.labels).float().mean()) > 0.9


def test_images_are_resized() -> None:
    assert get_dataset("fake:2x1x8x8x20", image_size=4).image_shape == (1, 4, 4)


@pytest.mark.parametrize("check", DATASET_CHECKS)
def test_it_is_a_data_set_like_any(check: object) -> None:
    assert callable(check)
    check(lambda: get_dataset("fake:3x1x8x8x60"))


@pytest.mark.parametrize(
    "name", ["fake", "fake:10", "fake:0x3x8x8x10", "fake:axbxcxdxe"]
)
def test_another_form_is_refused(name: str) -> None:
    with pytest.raises(OptionError, match="fake:CLASSESxCHANNELS"):
        get_dataset(name)


def test_fewer_images_than_classes_are_refused() -> None:
    with pytest.raises(OptionError, match="an image of each of 10 classes, got 9"):
        get_dataset("fake:10x3x8x8x9")
