"""Labelled images, and their checks."""

import warnings
from collections.abc import Sized
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dd_plugins.checks import check_channels
from dd_plugins.data.checks import (
    are_tensors,
    as_number_tensor,
    check_finite,
    check_values,
)
from dd_plugins.data.pixels import Axes, resized, where_channels_are
from dd_plugins.data.streamed import ImageSource, StreamedImages, chunks
from dd_plugins.errors import DataError, DDWarning

__all__ = [
    "Images",
    "checked_images",
    "checked_pair",
    "checked_values",
    "joined",
    "put_back",
    "take",
    "warn_if_trained_on",
]

_CHECKED = 64  # images at a time
_COMPARED = 256  # test images, approximately


class Images(NamedTuple):
    """Labelled images.

    Attributes:
        images: uint8, or float32 in [0, 1], of shape ``(n, channels, height, width)``:
            a tensor, or images read on access.
        labels: int64 of shape ``(n,)``.
    """

    images: ImageSource
    labels: Tensor


def checked_images(
    images: Any,
    labels: Any,
    channels: Axes | None = None,
    image_size: int | None = None,
) -> Images:
    """Return images and labels in their working dtypes.

    Args:
        images: as for :meth:`dd_plugins.RealData.from_tensors`.
        labels: likewise.
        channels: the position of the channels; by default inferred from the sizes.
        image_size: the side of the images in pixels: the shorter side is resized to it,
            and the centre cropped; None for the images as they are.

    Raises:
        DataError: shapes, dtypes or values are not those of labelled images.
        OptionError: there is no such position of the channels.
    """
    check_channels(channels)
    is_tensor = are_tensors(images)
    images, labels = (
        as_number_tensor(images, "images"),
        as_number_tensor(labels, "labels"),
    )
    if images.ndim == 3:  # grey, without an axis for the channel
        images, channels = images[:, None], "first"
    if images.ndim != 4 or 0 in images.shape:
        raise DataError(
            "images must have shape (n, channels, height, width), none of them 0; "
            f"got {tuple(images.shape)}"
        )
    try:
        where = channels or where_channels_are(
            tuple(images.shape[1:]), is_tensor=is_tensor, axis=1
        )
    except DataError as error:
        raise DataError(f"each image {error}") from error
    images = images.movedim(-1, 1).contiguous() if where == "last" else images
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim == 2 and len(labels) == len(images):
        raise DataError(
            f"labels must have shape ({len(images)},), one for each image; "
            f"got {tuple(labels.shape)}, and multi-label data are not supported"
        )
    if labels.shape != images.shape[:1]:
        raise DataError(
            f"labels must have shape ({len(images)},), one for each image; "
            f"got {tuple(labels.shape)}"
        )
    if labels.is_floating_point() or labels.is_complex():
        raise DataError(f"labels must be integers, got {labels.dtype}")
    images, labels = images.detach(), labels.long()
    if labels.min() < 0:
        raise DataError(f"labels must not be negative, got {int(labels.min())}")
    check_values(images)
    if images.dtype != torch.uint8:
        images = images.float()
    return Images(resized(images.cpu(), image_size), labels.cpu())


def checked_pair(
    pair: Any, what: str, channels: Axes | None, image_size: int | None
) -> Images:
    """Return a pair of images and labels as :func:`checked_images` does.

    Args:
        pair: a tuple or a list of images and labels.
        what: the name of the split, for the error message.
        channels: as for :func:`checked_images`.
        image_size: likewise.

    Raises:
        DataError: it is no such pair.
    """
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        size = f" of {len(pair)}" if isinstance(pair, Sized) else ""
        raise DataError(
            f"{what} must be a pair of images and labels, got a "
            f"{type(pair).__name__}{size}"
        )
    images, labels = pair
    return checked_images(images, labels, channels, image_size)


def checked_values(images: Any, labels: Any) -> Images:
    """Return images in a value space, and their labels, in their working dtypes.

    Args:
        images: as for :meth:`dd_plugins.RealData.from_values`.
        labels: likewise.

    Raises:
        DataError: shapes, dtypes or values are not those of labelled images.
    """
    if not isinstance(images, StreamedImages):
        images = as_number_tensor(images, "images")
    labels = as_number_tensor(labels, "labels")
    if len(images.shape) != 4 or 0 in images.shape:
        raise DataError(
            "images must have shape (n, channels, height, width), none of them 0; "
            f"got {tuple(images.shape)}"
        )
    floating = labels.is_floating_point() or labels.is_complex()
    if floating or labels.shape != images.shape[:1]:
        raise DataError(
            f"labels must be integers of shape ({len(images)},), one for each image; "
            f"got {labels.dtype} of shape {tuple(labels.shape)}"
        )
    first = 0
    for part in chunks(images, _CHECKED):
        if not part.is_floating_point():
            raise DataError(
                f"images in a value space must be floating, got {part.dtype}; pass "
                "plain images to from_tensors"
            )
        check_finite(part, first)
        first += len(part)
    if isinstance(images, Tensor):
        images = images.detach().float().cpu()
    return Images(images, labels.long().cpu())


def joined(first: Images, second: Images) -> Images:
    """Join two parts of one data set, without reading streamed images."""
    images: ImageSource
    if isinstance(first.images, Tensor):
        assert isinstance(second.images, Tensor)
        images = torch.cat([first.images, second.images])
    else:
        assert not isinstance(second.images, Tensor)
        images = first.images.joined(second.images)
    return Images(images, torch.cat([first.labels, second.labels]))


def put_back(
    train: Images, kept: Tensor, validation: Images, cut: Tensor | None
) -> Images | None:
    """Join the two parts of a split, in the order of the images before it.

    A private method does without a split: the choice of held-out images reveals the
    number of images of each class.

    Args:
        train: the kept images.
        kept: int64, the index of each kept image before the split.
        validation: the images held out, or given.
        cut: int64, the index of each held-out image before the split; None if
            validation images were given.

    Returns:
        All images; None if none were held out, or if the two parts are only some of
        the images.
    """
    if cut is None or not len(cut):
        return None
    places = torch.cat([kept, cut])
    if not torch.equal(places.sort().values, torch.arange(len(places))):
        return None  # these are some images of a larger set
    return take(joined(train, validation), places.argsort())


def take(data: Images, indices: Tensor) -> Images:
    """Select images by index, without reading streamed ones."""
    images = data.images
    chosen = images[indices] if isinstance(images, Tensor) else images.select(indices)
    return Images(chosen, data.labels[indices])


def warn_if_trained_on(test: Images, train: Images) -> None:
    """Warn if half of the test images or more are training images too.

    Some hundred test images are compared, pixel by pixel. Training images read on
    access are not compared: all of them would be read.

    Warns:
        DDWarning: at least half of the compared images are training images.
    """
    if not isinstance(test.images, Tensor) or not isinstance(train.images, Tensor):
        return
    some = test.images[:: max(1, len(test.images) // _COMPARED)]
    wanted = {_content(image) for image in some}
    seen = wanted.intersection(map(_content, train.images))
    if 2 * len(seen) >= len(wanted):
        warnings.warn(
            f"of {len(wanted)} different test images compared, {len(seen)} are "
            "training images too: test accuracy needs images that no set has seen",
            DDWarning,
            stacklevel=3,
        )


def _content(image: Tensor) -> bytes:
    return image.numpy().tobytes()
