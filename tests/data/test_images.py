"""Labelled images and their checks, beside what test_real.py shows of them."""

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from dd_plugins import RealData
from dd_plugins.data.checks import as_number_tensor, check_finite, check_values
from dd_plugins.data.images import (
    Images,
    checked_images,
    take,
    warn_if_trained_on,
)
from dd_plugins.data.items import Items
from dd_plugins.data.streamed import StreamedImages
from dd_plugins.errors import DataError, DDWarning

IMAGES = torch.rand(5, 1, 2, 3, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 2, 1, 0, 1])


@pytest.mark.parametrize(
    "values", [[[1, 2], [3, 4]], ((1, 2), (3, 4)), np.array([[1, 2], [3, 4]])]
)
def test_numbers_may_be_held_in_any_form(values: Any) -> None:
    found = as_number_tensor(values, "labels")
    assert found.tolist() == [[1, 2], [3, 4]]
    tensor = torch.ones(2)
    assert as_number_tensor(tensor, "labels") is tensor


def test_a_list_of_tensors_has_its_channels_first_as_a_tensor_has() -> None:
    images = torch.rand(5, 1, 4, 4)
    for listed in (list(images), tuple(image[0] for image in images)):
        found = checked_images(listed, list(LABELS))
        assert torch.equal(found.images, images)
        assert torch.equal(found.labels, LABELS)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ([torch.ones(2), torch.ones(3)], "labels"),
        (torch.ones(2, 2).to_sparse(), "sparse_coo; pass its to_dense"),
        ([[1, 2], [3]], "labels"),
        (["a", "b"], "labels"),
        ({1, 2}, "set"),
        (3, "int"),
        (np.array(["a"]), "strings"),
        (np.array([object()]), "object"),
    ],
)
def test_what_no_numbers_are_is_refused_by_its_kind(values: Any, named: str) -> None:
    with pytest.raises(DataError, match=named) as refused:
        as_number_tensor(values, "labels")
    assert str(refused.value).isprintable()


def test_the_first_image_that_is_not_finite_is_counted_from_the_whole() -> None:
    images = IMAGES.clone()
    images[3, 0, 1, 2] = float("inf")
    images[4] = float("nan")
    for check in (check_values, check_finite):
        with pytest.raises(DataError, match=r"\b2\b.*\b103\b"):
            check(images, 100)
    check_finite(100 * IMAGES - 50, 0)  # of any range


@pytest.mark.parametrize("value", [-0.001, 1.001])
def test_values_must_be_in_the_unit_range_its_ends_included(value: float) -> None:
    ends = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1)
    check_values(ends)
    check_values((255 * ends).to(torch.uint8))
    with pytest.raises(DataError, match=rf"{value:g}"):
        check_values(torch.cat([ends, torch.full((1, 1, 1, 1), value)]))


def test_checked_images_share_no_graph_and_have_working_dtypes() -> None:
    images = IMAGES.double().requires_grad_()
    found = checked_images(images, LABELS.to(torch.int16)[:, None])
    assert not found.images.requires_grad  # type: ignore[union-attr]
    assert torch.equal(found.images[:], IMAGES)
    assert (found.images[:].dtype, found.labels.dtype) == (torch.float32, torch.int64)
    assert torch.equal(found.labels, LABELS)


def test_channels_may_be_stated_against_what_sizes_tell() -> None:
    images = np.arange(2 * 3 * 4 * 3, dtype=np.uint8).reshape(2, 3, 4, 3)
    for channels, shape in (
        (None, (3, 3, 4)),
        ("last", (3, 3, 4)),
        ("first", (3, 4, 3)),
    ):
        found = checked_images(images, [0, 1], channels)  # type: ignore[arg-type]
        assert found.images.shape == (2, *shape)
    grey = checked_images(images[..., 0], [0, 1], "last")
    assert grey.images.shape == (2, 1, 3, 4), "an axis that is not there is not moved"


@pytest.mark.parametrize(
    ("labels", "named"),
    [
        (LABELS[:, None, None], r"\(5,\).*\(5, 1, 1\)"),
        (LABELS[:4, None], r"\(5,\).*\(4,\)"),
        (LABELS.bool().float(), "float32"),
        (LABELS - 7, "-7"),
    ],
)
def test_labels_are_told_by_what_they_are(labels: Any, named: str) -> None:
    with pytest.raises(DataError, match=named):
        checked_images(IMAGES, labels)


def test_some_of_the_images_are_taken_without_reading_them() -> None:
    class Unread(torch.utils.data.Dataset[Any]):
        read: list[int] = []  # noqa: RUF012

        def __len__(self) -> int:
            return 5

        def __getitem__(self, index: int) -> Any:
            self.read.append(index)
            return IMAGES[index], int(LABELS[index])

    items = Items(Unread())
    streamed = StreamedImages(items, (1, 2, 3), torch.arange(5), workers=0)
    chosen = torch.tensor([4, 1, 1])
    part = take(Images(streamed, LABELS), chosen)
    again = take(part, torch.tensor([2, 0]))
    assert Unread.read == []
    in_memory = take(take(Images(IMAGES, LABELS), chosen), torch.tensor([2, 0]))
    assert torch.equal(again.images[:], in_memory.images[:])
    assert Unread.read == [1, 4]
    assert again.labels.tolist() == in_memory.labels.tolist() == [2, 1]


@pytest.mark.parametrize(("shared", "told"), [(0, None), (9, None), (10, 10), (20, 20)])
def test_training_images_in_a_test_set_are_told(shared: int, told: int | None) -> None:
    values = torch.arange(60, dtype=torch.uint8)[:, None, None, None].repeat(1, 1, 2, 3)
    train = Images(values[:40], torch.arange(40) % 2)
    test = Images(values[40 - shared : 60 - shared], torch.arange(20) % 2)
    with warnings.catch_warnings(record=True) as given:
        warnings.simplefilter("always")
        warn_if_trained_on(test, train)
    found = [str(each.message) for each in given if each.category is DDWarning]
    assert len(found) == (told is not None)
    if told is not None:
        assert f"of 20 different test images compared, {told} are training" in found[0]


def test_the_advice_for_channels_that_come_last_names_the_axis() -> None:
    images, labels = torch.zeros(4, 6, 6, 3), torch.arange(4) % 2
    with pytest.raises(DataError, match=r"each image is a .*movedim\(-1, 1\)"):
        RealData.from_tensors(images, labels)
    with pytest.raises(DataError, match=r"image 0 is a .*movedim\(-1, 0\)"):
        RealData.from_dataset(TensorDataset(images, labels))
