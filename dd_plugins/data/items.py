"""Items of a map-style dataset: checked, read into memory, or surveyed."""

import math
import operator
import warnings
from collections import Counter
from collections.abc import Mapping, Sized
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from dd_plugins.checks import check_channels
from dd_plugins.data.checks import check_values
from dd_plugins.data.pixels import Axes, channels_first, resized
from dd_plugins.data.streamed import ImageSource, StreamedImages, read_items
from dd_plugins.errors import (
    DataError,
    DDWarning,
    ImageSizeError,
    described,
    one_line,
)
from dd_plugins.runtime.memory import fits_in_memory

__all__ = [
    "IMAGE_KEYS",
    "LABEL_KEYS",
    "Items",
    "has_room",
    "mixed_sizes",
    "read_dataset",
    "survey",
    "warn_if_random",
]

IMAGE_KEYS = ("image", "img", "pixel_values")
LABEL_KEYS = ("label", "labels", "target", "class")
_SURVEYED = 64  # images at a time
_FLOAT_BYTES = 4
_READ_AGAIN = 8  # items: a random flip is missed once in 256 times


class Items(Dataset[tuple[Tensor, int]]):
    """The ``(image, label)`` pairs of a map-style dataset, checked one by one.

    Args:
        dataset: images are tensors, PIL images or arrays; labels are whole numbers, or
            arrays of one. An item may be a mapping with an image under ``image``,
            ``img`` or ``pixel_values`` and a label under ``label``, ``labels``,
            ``target`` or ``class``.
        channels: the position of the channels in arrays and tensors; by default
            inferred from their sizes (see
            :func:`~dd_plugins.data.pixels.channels_first`).
        image_size: the side of the images in pixels: the shorter side is resized to it,
            and the centre cropped; None for the images as they are.

    Raises:
        DataError: the dataset has no length, is empty, or an item is not such a pair.
        OptionError: there is no such position of the channels.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        channels: Axes | None = None,
        image_size: int | None = None,
    ) -> None:
        check_channels(channels)
        if isinstance(dataset, IterableDataset) or not isinstance(dataset, Sized):
            raise DataError(
                "expected a map-style dataset with a length, got "
                f"{type(dataset).__name__}; collect a stream first"
            )
        if len(dataset) == 0:
            raise DataError(
                f"expected a dataset of at least one item, got an empty "
                f"{type(dataset).__name__}"
            )
        self._dataset = dataset
        self._channels = channels
        self._image_size = image_size

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        try:
            item = self._dataset[index]
        except DataError:
            raise
        except Exception as error:  # a user's dataset may raise anything
            raise DataError(
                f"item {index} cannot be read: {described(error)}"
            ) from error
        not_a_pair = f"item {index} is not an (image, label) pair with an integer label"
        try:
            image, label = _pair(item)
            number = _number(label)
        except DataError as error:
            raise DataError(f"{not_a_pair}: {error}") from error
        try:
            pixels = channels_first(image, self._channels)
        except DataError as error:
            raise DataError(f"image {index} {error}") from error
        except Exception as error:
            raise DataError(
                f"{not_a_pair}: expected a tensor, an array or a PIL image, got "
                f"{type(image).__name__} ({one_line(error)})"
            ) from error
        return resized(pixels[None], self._image_size)[0], number


def _pair(item: Any) -> tuple[Any, Any]:
    """Return the image and the label of an item."""
    if isinstance(item, Mapping):
        found = [
            next((item[key] for key in keys if key in item), None)
            for keys in (IMAGE_KEYS, LABEL_KEYS)
        ]
        if any(each is None for each in found):
            raise DataError(
                f"expected an image under one of {', '.join(IMAGE_KEYS)} and a label "
                f"under one of {', '.join(LABEL_KEYS)}, got keys "
                f"{', '.join(map(str, item))}"
            )
        return found[0], found[1]
    if not isinstance(item, tuple | list):
        raise DataError(
            f"expected a tuple, a list or a mapping, got {type(item).__name__}"
        )
    if len(item) != 2:
        raise DataError(
            f"expected two elements, got {type(item).__name__} of {len(item)}"
        )
    return item[0], item[1]


def _number(label: Any) -> int:
    """Return a label, or the one element of an array, as a whole number."""
    shape = tuple(getattr(label, "shape", ()))
    if math.prod(shape) != 1:
        raise DataError(
            f"expected one label, got labels of shape {shape}; multi-label data are "
            "not supported"
        )
    try:
        number = operator.index(label.item() if shape else label)
    except TypeError as error:
        raise DataError(
            f"expected a whole number for a label, got {type(label).__name__}"
        ) from error
    if number < 0:
        raise DataError(f"labels must not be negative, got {number}")
    if number >= 2**63:
        raise DataError(f"expected a label below 2**63, got {number}")
    return number


def read_dataset(items: Items) -> tuple[Tensor, Tensor]:
    """Read every ``(image, label)`` pair into memory.

    Raises:
        DataError: an item is not such a pair, or the images differ in size or dtype.
    """
    images, labels = torch.empty(0), torch.empty(len(items), dtype=torch.int64)
    shapes = Counter[tuple[int, ...]]()
    for index in range(len(items)):
        image, labels[index] = items[index]
        shapes[tuple(image.shape)] += 1
        if len(shapes) > 1:
            raise mixed_sizes(shapes)
        if index == 0:
            images = torch.empty((len(items), *image.shape), dtype=image.dtype)
        if image.dtype != images.dtype:
            raise _mixed_dtypes(images.dtype, image.dtype, index)
        images[index] = image
    return images, labels


def _mixed_dtypes(one: torch.dtype, other: torch.dtype, number: int) -> DataError:
    return DataError(
        f"images must all have one dtype: image number {number} is of {other}, those "
        f"before it of {one}; convert all to one"
    )


def survey(items: Items, workers: int) -> tuple[StreamedImages, Tensor]:
    """Check every pair of a map-style dataset once, without keeping the images."""
    numbers = torch.arange(len(items))
    labels: list[int] = []
    shapes = Counter[tuple[int, ...]]()
    dtype = items[0][0].dtype
    parts = (part.tolist() for part in torch.split(numbers, _SURVEYED))
    for read, classes in read_items(items, parts, workers):
        first = len(labels)
        labels += classes
        shapes.update(tuple(image.shape) for image in read)
        if len(shapes) > 1:
            raise mixed_sizes(shapes)
        for offset, image in enumerate(read):
            if image.dtype != dtype:
                raise _mixed_dtypes(dtype, image.dtype, first + offset)
        assert isinstance(read, Tensor)
        check_values(read, first)
    (shape,) = shapes
    images = StreamedImages(items, shape, numbers, workers=workers)
    return images, torch.tensor(labels, dtype=torch.int64)


def has_room(items: Items) -> bool:
    """Return whether memory has room for a dataset's images, as read and whitened."""
    image, _ = items[0]
    return fits_in_memory(len(items) * (image.nbytes + _FLOAT_BYTES * image.numel()))


def warn_if_random(items: Items, images: ImageSource) -> None:
    """Warn if any of the first images differs when it is read again.

    Args:
        items: the dataset.
        images: its images as they were read.
    """
    for index in range(min(_READ_AGAIN, len(items))):
        first = images[index : index + 1][0]
        again, _ = items[index]
        if torch.equal(first, again):
            continue
        kept = isinstance(images, Tensor)
        warnings.warn(
            f"image {index} of the dataset is another when it is read again, so a "
            "transform draws at random: "
            + (
                "one random view of each image is kept for the whole run"
                if kept
                else "the images change at every reading, and no run can be repeated"
            )
            + "; leave random transforms out, since methods augment the images "
            "themselves",
            DDWarning,
            stacklevel=4,
        )
        return


def mixed_sizes(shapes: Counter[tuple[int, ...]]) -> DataError:
    """Return the error for images of several sizes; it lists the commonest first."""
    listed = ", ".join(f"{shape} x{count}" for shape, count in shapes.most_common(4))
    sizes, channels = {shape[1:] for shape in shapes}, {shape[0] for shape in shapes}
    if len(sizes) == 1:
        numbers = " and ".join(map(str, sorted(channels)))
        return DataError(
            f"images must all have one number of channels, got {numbers} (channels, "
            f"height, width): {listed}; convert all to RGB, or all to grey"
        )
    return ImageSizeError(
        f"images must all have one size, got {len(shapes)} sizes among the first "
        f"{shapes.total():,} (channels, height, width): {listed}; resize them to one, "
        "by image_size=N in Python or by --image-size N"
    )
