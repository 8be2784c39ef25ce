"""Checks of images: their values, and whether they fit the training images."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from dd_plugins.errors import DataError, one_line

__all__ = [
    "are_tensors",
    "as_number_tensor",
    "check_finite",
    "check_fit",
    "check_numbering",
    "check_values",
]


def as_number_tensor(values: Any, what: str) -> Tensor:
    """Return a tensor, an array, a list or a tuple of numbers as a tensor.

    A list of tensors of one shape is stacked.

    Args:
        values: the numbers.
        what: the name of the argument, for the error message.

    Raises:
        DataError: the values are something else.
    """
    try:
        if not isinstance(values, Tensor) and are_tensors(values):
            values = torch.stack(list(values))
        if isinstance(values, Tensor):
            if values.layout != torch.strided:
                raise TypeError(f"one of layout {values.layout}; pass its to_dense()")
            return values
        if not isinstance(values, np.ndarray | list | tuple):
            raise TypeError(f"a {type(values).__name__}")
        return torch.as_tensor(np.array(values))
    except (TypeError, ValueError, RuntimeError) as error:
        reason = one_line(error)
        if isinstance(values, np.ndarray):
            reason = f"an array of {values.dtype}"
        if _has_strings(values):
            reason = "strings"
            if what == "labels":
                reason += "; number the classes from 0, and name them by class_names"
        raise DataError(
            f"{what} must be a tensor or an array of numbers, got {reason}"
        ) from error


def _has_strings(values: Any) -> bool:
    if isinstance(values, np.ndarray):
        values = values.flat
    elif not isinstance(values, list | tuple):
        return False
    return any(isinstance(each, str) for each in values)


def are_tensors(values: Any) -> bool:
    """Tell whether values are a tensor, or a list or a tuple of nothing but tensors."""
    if isinstance(values, list | tuple) and values:
        return all(isinstance(each, Tensor) for each in values)
    return isinstance(values, Tensor)


def check_values(images: Tensor, first: int = 0) -> None:
    """Refuse images that are neither uint8 nor finite and in [0, 1].

    Args:
        images: the images, of any dtype.
        first: the index of the first image, for messages.
    """
    if images.dtype == torch.uint8:
        return
    if not images.is_floating_point():
        raise DataError(
            f"images must be uint8 or floating, got {images.dtype}; divide them by the "
            "largest value that a pixel can have"
        )
    check_finite(images, first)
    low, high = images.aminmax()
    if low < 0 or high > 1:
        raise DataError(
            f"floating images must be in [0, 1], got [{float(low):g}, "
            f"{float(high):g}]; scale them, or pass uint8; a transform such as "
            "Normalize must be left out, since the run normalises the images itself"
        )


def check_finite(images: Tensor, first: int) -> None:
    """Refuse images with values that are not finite."""
    bad = (~torch.isfinite(images).flatten(1).all(dim=1)).nonzero().flatten()
    if len(bad):
        raise DataError(
            f"image values must be finite, got {len(bad)} image(s) with values that "
            f"are not finite, the first is number {first + int(bad[0])}; remove or "
            "mend them"
        )


def check_numbering(largest: int, images: int) -> None:
    """Refuse a label of so many classes that one must be without an image.

    The names of that many classes could fill the memory.

    Args:
        largest: the largest label.
        images: the number of images.

    Raises:
        DataError: the label is not below the number of images.
    """
    if largest >= images:
        raise DataError(
            f"labels go up to {largest}, expected at most {images - 1} for {images} "
            "images; number the classes from 0 without gaps"
        )


def check_fit(
    what: str,
    shape: tuple[int, ...],
    label: int,
    expected_shape: tuple[int, ...],
    num_classes: int,
) -> None:
    """Refuse images that do not fit the training images.

    Args:
        what: the name of the split, for messages.
        shape: the shape of an image: channels, height and width.
        label: the largest label.
        expected_shape: the shape of a training image.
        num_classes: the number of classes of the training images.

    Raises:
        DataError: images have another shape, or the label is negative or too large.
    """
    if shape != tuple(expected_shape):
        raise DataError(
            f"{what} images must have the shape {tuple(expected_shape)} of the "
            f"training images, got {shape}"
        )
    if label < 0:
        raise DataError(f"{what} labels must not be negative, got {label}")
    if label >= num_classes:
        raise DataError(
            f"{what} labels must be at most {num_classes - 1}, as the training "
            f"data has {num_classes} classes, got {label}; number them alike, "
            "from 0"
        )
