"""The real data of a set is found again as it was, or refused."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import dd_plugins
from dd_plugins import DistilledSet, RealData
from dd_plugins.api import DataOptions
from dd_plugins.data.preprocess import Transform
from dd_plugins.errors import (
    DataError,
    DDWarning,
    ImageSizeError,
    OptionError,
    UnknownNameError,
)
from dd_plugins.evaluation.data_of_set import real_data_of, warn_if_other_images
from dd_plugins.plugins.asked_for import remember
from dd_plugins.testing import toy_data


@pytest.fixture(scope="module")
def distilled() -> DistilledSet:
    return dd_plugins.distill(
        replace(toy_data(), mirror=True), "random", steps=1, network="mlp(width=2)"
    )


@pytest.fixture(autouse=True)
def _nobody_has_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DD_CACHE", str(tmp_path / "cache"))


class Found:
    """Finds the same data whatever is asked for, and tells what was."""

    def __init__(self, data: RealData | Exception) -> None:
        self.data = data
        self.asked: list[tuple[Any, DataOptions]] = []

    def __call__(self, given: Any, options: DataOptions) -> RealData:
        self.asked.append((given, options))
        if isinstance(self.data, Exception):
            raise self.data
        return self.data


def with_record(distilled: DistilledSet, **changed: Any) -> DistilledSet:
    record = distilled.header.dataset.model_copy(update=changed)
    header = distilled.header.model_copy(update={"dataset": record})
    return replace(distilled, header=header)


def test_data_is_looked_for_where_and_as_the_set_says(distilled: DistilledSet) -> None:
    find = Found(toy_data())
    resized = with_record(distilled, image_size=8)
    real_data_of(resized, None, "some/where", find)
    real_data_of(distilled, "moved:there", None, find)
    real_data_of(distilled, None, "some/where", find, download=True)
    assert find.asked == [
        ("toy", DataOptions(root=Path("some/where"), image_size=8)),
        ("moved:there", DataOptions()),
        ("toy", DataOptions(root=Path("some/where"), download=True)),
    ]


@pytest.mark.parametrize("given", [None, "elsewhere"])
def test_data_by_name_has_the_mirror_and_value_space_of_the_set(
    distilled: DistilledSet, given: str | None
) -> None:
    kept = toy_data().with_transform(Transform.identity(1))
    found = real_data_of(distilled, given, None, Found(kept.with_preprocessing("zca")))
    assert (found.preprocessing, found.mirror) == ("standardize", True)
    assert found.transform is None


def test_data_in_hand_is_taken_as_it_is(distilled: DistilledSet) -> None:
    """Other training images, a subset say, are taken; an evaluation warns of them."""
    images, labels = torch.rand(20, 1, 8, 8), torch.arange(20) % 2
    other = RealData.from_tensors(images, labels, preprocessing="zca")
    find = Found(other)
    assert other.fingerprint != distilled.header.dataset.fingerprint
    assert real_data_of(distilled, (images, labels), None, find) is other
    with pytest.warns(DDWarning, match="not those that the set was distilled from"):
        warn_if_other_images(distilled, other)
    warn_if_other_images(distilled, toy_data())
    whole = dd_plugins.distill(
        toy_data(validation=0), "random", steps=1, network="mlp(width=2)"
    )
    warn_if_other_images(whole, toy_data())  # a part of the images is held out here
    assert (other.preprocessing, other.mirror) == ("zca", False)


def one_label(data: RealData) -> RealData:
    labels = data.train.labels.clone()
    labels[0] = 1 - labels[0]
    return replace(data, train=data.train._replace(labels=labels))


def one_pixel(data: RealData) -> RealData:
    images = data.train.images.clone()
    images[5, 0, 7, 7] += 1e-3
    return replace(data, train=data.train._replace(images=images))


def other_split(data: RealData) -> RealData:
    return replace(data, train_indices=data.train_indices.flip(0))


@pytest.mark.parametrize("given", [None, "toy"])
@pytest.mark.parametrize("change", [one_label, one_pixel, other_split])
def test_data_that_has_changed_is_refused_with_its_name(
    distilled: DistilledSet, change: Callable[[RealData], RealData], given: str | None
) -> None:
    with pytest.raises(DataError, match=r"'toy'.*--dataset"):
        real_data_of(distilled, given, None, Found(change(toy_data())))


@pytest.mark.parametrize("data", [None, "toy", toy_data()])
def test_other_classes_are_refused_however_data_comes(
    distilled: DistilledSet, data: Any
) -> None:
    named = replace(toy_data(), class_names=("cat", "dog"))
    with pytest.raises(DataError, match=r"'0', '1'.*'cat', 'dog'"):
        real_data_of(distilled, data, None, Found(named))


def test_classes_in_another_order_are_other_classes() -> None:
    data = replace(toy_data(), class_names=("cat", "dog"))
    made = dd_plugins.distill(data, "random", steps=1, network="mlp(width=2)")
    turned = replace(data, class_names=("dog", "cat"))
    with pytest.raises(DataError, match="classes"):
        real_data_of(made, data, None, Found(turned))


@pytest.mark.parametrize("given", [None, "toy"])
def test_images_of_many_sizes_are_not_those_behind_the_set(
    distilled: DistilledSet, given: str | None
) -> None:
    error = ImageSizeError("images must all have one size; by --image-size N")
    with pytest.raises(DataError, match=r"'toy' have several sizes.*--dataset") as seen:
        real_data_of(distilled, given, None, Found(error))
    assert "--image-size" not in str(seen.value), "evaluate has no such option"


@pytest.mark.parametrize("name", ["folder:/etc", "folder:", "toy:x:y"])
def test_a_name_with_an_argument_is_followed_if_somebody_gave_it(
    distilled: DistilledSet, name: str
) -> None:
    foreign, find = with_record(distilled, name=name), Found(toy_data())
    remember("folder:/et")
    with pytest.raises(DataError, match=rf"{name}.*--dataset"):
        real_data_of(foreign, None, None, find)
    assert find.asked == [], "nothing was read"
    remember(name)
    assert real_data_of(foreign, None, None, find).num_classes == 2


@pytest.mark.parametrize(
    ("error", "unasked", "told"),
    [
        (UnknownNameError("unknown data set"), DataError, "'toy'"),
        (DataError("the folder is not there"), DataError, "not there.*--dataset"),
        (OptionError("a folder is needed"), OptionError, "needed"),
    ],
)
def test_what_cannot_be_found_is_said_to_whom_it_concerns(
    distilled: DistilledSet, error: Exception, unasked: type[Exception], told: str
) -> None:
    with pytest.raises(unasked, match=told):
        real_data_of(distilled, None, None, Found(error))
    with pytest.raises(type(error)) as raised:
        real_data_of(distilled, "toy", None, Found(error))
    assert raised.value is error, "a name that the caller gave is the caller's"
