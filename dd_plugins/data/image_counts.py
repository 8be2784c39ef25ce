"""The number of synthetic images of each class, equal or not."""

from collections.abc import Sequence
from typing import Annotated

import pydantic
import torch
from torch import Tensor

from dd_plugins.checks import whole_number
from dd_plugins.errors import OptionError
from dd_plugins.spec import Record, read, record

__all__ = [
    "ImagesPerClass",
    "Proportional",
    "counts_of_classes",
    "in_proportion",
    "parsed_counts",
]

ImagesPerClass = int | str | Sequence[int]
"""A number for every class; or one for each class, a sequence or a text such as
``"1, 2, 5"``; or ``"proportional(total=100)"``."""

_DIGITS = 9  # of a number, at most
_EXAMPLE = "proportional(total=100)"


@record
class Proportional(Record):
    """Images of each class in proportion to its training images, at least one.

    Args:
        total: the number of images of all classes.
    """

    name = "proportional"

    total: Annotated[int, pydantic.Field(ge=1)]


def in_proportion(total: int, sizes: Sequence[int]) -> tuple[int, ...]:
    """Divide images among classes in proportion to their sizes, at least one for each.

    A class without real images gets none. Any other gets its share, rounded down, but
    at least one. Images left over go to the classes furthest below their shares. If
    there are too many, they are taken from the classes furthest above.

    Args:
        total: the number of images of all classes.
        sizes: the number of real images of each class.

    Raises:
        OptionError: there are fewer images than classes with real images.

    Example:
        >>> in_proportion(10, [98, 1, 1, 0])
        (8, 1, 1, 0)
    """
    has_images = torch.tensor(sizes) > 0
    least = int(has_images.sum())
    if total < least:
        raise OptionError(
            f"total must be at least {least}, an image for each class, got {total}"
        )
    share = total * torch.tensor(sizes).double() / sum(sizes)
    counts = share.floor().clamp_min(1).long() * has_images
    while (missing := total - int(counts.sum())) != 0:  # a few rounds
        one = 1 if missing > 0 else -1
        lacking = one * (share - counts)
        if one < 0:
            lacking[counts <= 1] = -torch.inf
        counts[int(lacking.argmax())] += one
    return tuple(counts.tolist())


def parsed_counts(asked: object) -> int | tuple[int, ...] | Proportional:
    """Parse the requested numbers of images, before the data is known.

    Args:
        asked: an :data:`ImagesPerClass`.

    Raises:
        OptionError: the request has another form, or a number is below 1.

    Example:
        >>> parsed_counts(10), parsed_counts("1, 2"), parsed_counts([3, 3])
        (10, (1, 2), (3, 3))
    """
    if isinstance(asked, str):
        if "(" in asked:
            return read(Proportional, asked, _EXAMPLE)
        words = [word.strip() for word in asked.split(",")]
        if not all(word.isdecimal() and len(word) <= _DIGITS for word in words):
            raise OptionError(
                f"images_per_class must be a number, one for each class (1, 2, 5), or "
                f"{_EXAMPLE}, got {asked!r}"
            )
        asked = int(words[0]) if len(words) == 1 else [int(word) for word in words]
    if hasattr(asked, "tolist"):  # an array or a tensor
        asked = asked.tolist()
    if not isinstance(asked, list | tuple | range):
        return whole_number("images_per_class", asked, least=1)
    counts = tuple(whole_number("images_per_class", each, least=1) for each in asked)
    if not counts:
        raise OptionError(
            "images_per_class: expected a number for each class, got none"
        )
    return counts


def counts_of_classes(
    asked: ImagesPerClass | Proportional, labels: Tensor, num_classes: int
) -> int | tuple[int, ...]:
    """Return the number of images of each class; one number if all are equal.

    A class without real images has the number 1, though a run makes none of it.

    Args:
        asked: an :data:`ImagesPerClass`, or the result of :func:`parsed_counts`.
        labels: the labels of the training images, int64.
        num_classes: the number of classes.

    Raises:
        OptionError: there are not as many numbers as classes, or too few images.

    Example:
        >>> counts_of_classes("proportional(total=8)", torch.tensor([0] * 9 + [1]), 2)
        (7, 1)
    """
    if not isinstance(asked, Proportional):
        asked = parsed_counts(asked)
    if isinstance(asked, Proportional):
        sizes = labels.bincount(minlength=num_classes).tolist()
        asked = tuple(max(1, count) for count in in_proportion(asked.total, sizes))
    if isinstance(asked, int):
        return asked
    if len(asked) != num_classes:
        raise OptionError(
            "images per class (--ipc): expected one number, or a number for each of "
            f"{num_classes} classes, got {len(asked)}"
        )
    return asked[0] if len(set(asked)) == 1 else asked
