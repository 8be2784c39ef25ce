"""Datasets read into memory or on access, and a test set when it is needed."""

from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from dd_plugins.data.checks import check_fit
from dd_plugins.data.images import Images, checked_images, checked_pair
from dd_plugins.data.items import Items, has_room, read_dataset, survey
from dd_plugins.data.pixels import Axes
from dd_plugins.errors import DataError

__all__ = ["UnreadTestSet", "images_of", "values_have_no_test"]


def images_of(items: Items, workers: int, *, stream: bool | None = None) -> Images:
    """Read a map-style dataset into memory, or survey it.

    Args:
        items: the dataset.
        workers: processes for reading ahead while streaming.
        stream: whether the images stay in the dataset; None if they do where memory has
            no room for them.

    Raises:
        DataError: an item is not a pair, or the images differ in size or dtype.
    """
    if stream or (stream is None and not has_room(items)):
        return Images(*survey(items, workers))
    return checked_images(*read_dataset(items), "first")


@dataclass(frozen=True)
class UnreadTestSet:
    """A test set read when called; :meth:`check` finds faults beforehand.

    Attributes:
        test: images and labels, a dataset, a function reading them, or None.
        channels: the position of the channels, if stated.
        image_size: side in pixels of the resized images, or None.
        shape: the shape of a training image.
        num_classes: the number of classes of the training images.
        workers: processes for reading a dataset ahead if memory has no room for it.
    """

    test: Any
    channels: Axes | None = None
    image_size: int | None = None
    shape: tuple[int, ...] = ()
    num_classes: int = 0
    workers: int = 0

    def fitting(self, shape: torch.Size, num_classes: int) -> "UnreadTestSet":
        """Return a reader with checks against the training data; check tensors now."""
        reader = replace(self, shape=tuple(shape), num_classes=num_classes)
        if self._is_pair():
            reader()
        return reader

    def __call__(self) -> Images:
        """Read the test set, and check it.

        Raises:
            DataError: there is none, it is no pair of images and labels, or it does
                not fit the training images.
        """
        if self.test is None:
            raise no_test_set()
        if self._is_pair() or self._is_function():
            pair = self.test if self._is_pair() else self.test()
            checked = checked_pair(pair, "test", self.channels, self.image_size)
        else:
            checked = images_of(self._items(), self.workers)
        self._check_fit(tuple(checked.images.shape[1:]), int(checked.labels.max()))
        return checked

    def _items(self) -> Items:
        return Items(self.test, self.channels, self.image_size)

    def _is_pair(self) -> bool:
        """Tell whether these are images and labels; a list is one of pairs."""
        if isinstance(self.test, list) and len(self.test) == 2:
            return all(isinstance(each, Tensor | np.ndarray) for each in self.test)
        return isinstance(self.test, tuple)

    def _is_function(self) -> bool:
        return callable(self.test) and not hasattr(self.test, "__getitem__")

    def check(self) -> None:
        """Refuse an unfit test set, as far as can be seen without reading it."""
        if self.test is None:
            raise no_test_set()
        if self._is_pair() or self._is_function():
            return
        if isinstance(self.test, HasSizes):
            self.test.check_sizes((self.shape[1], self.shape[2]))
        image, label = self._items()[0]
        self._check_fit(tuple(image.shape), label)

    def _check_fit(self, shape: tuple[int, ...], label: int) -> None:
        check_fit("test", shape, label, self.shape, self.num_classes)


@runtime_checkable
class HasSizes(Protocol):
    """A dataset that knows the sizes of its images without reading them."""

    def check_sizes(self, size: tuple[int, int]) -> None:
        """Refuse images of another height or width.

        Raises:
            DataError: an image has another size.
        """
        ...


def no_test_set() -> DataError:
    """Return the error for data without a test set."""
    return DataError(
        "this data has no test set; pass one: data={'train': ..., 'test': ...} for "
        "datasets, or RealData.from_tensors(..., test=...) for tensors and arrays"
    )


def values_have_no_test() -> Images:
    """Refuse to read a test set of data from :meth:`RealData.from_values`."""
    raise DataError(
        "expected data with a test set, got data from RealData.from_values, which has "
        "no test set; pass other data"
    )
