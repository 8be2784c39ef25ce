"""The items of an experience: their parts, and how a buffer reads them."""

import operator
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from dd_avalanche.memory import untouched_randomness
from dd_plugins.api import DataError

__all__ = [
    "TASK_LABELS",
    "ExperienceContent",
    "LabelledImages",
    "Layout",
    "content_of",
    "read_images",
]

TASK_LABELS = "targets_task_labels"
"""Avalanche's name for the attribute of task labels."""


class Layout(NamedTuple):
    """The parts of a data set's items; a buffer's items must have the same ones.

    Attributes:
        tasks: ``"in items"`` if the third part is a task label, as in ``nc_benchmark``;
            ``"beside"`` if the data set has task labels outside of its items;
            ``"none"`` if there are none.
        label: shape and dtype of a class given as a tensor; None for a number.
        dtype: the dtype of the images.
    """

    tasks: Literal["none", "in items", "beside"] = "none"
    label: "tuple[tuple[int, ...], torch.dtype] | None" = None
    dtype: torch.dtype = torch.float32

    @classmethod
    def of(cls, dataset: Any) -> "Layout":
        """Return the layout of an Avalanche data set; the default one if it is empty.

        Raises:
            DataError: an item is not an image tensor and a class.
        """
        items = dataset.eval()
        if not len(items):
            return cls()
        return cls.of_item(dataset, items[0], mixed=False)

    @classmethod
    def of_item(cls, dataset: Any, item: Any, *, mixed: bool) -> "Layout":
        """Return the layout of a data set, read from one of its items.

        Raises:
            DataError: the item is not an image tensor and a class; or it has parts
                beyond these and a task label, and will be mixed with others.
        """
        image, label, *further = _parts(item)
        _check_image(image)
        _as_class(label)
        attribute = getattr(dataset, TASK_LABELS, None)
        inside = bool(getattr(attribute, "use_in_getitem", False))
        if mixed and len(further) > inside:
            raise DataError(
                "expected items of an image, a class and perhaps Avalanche's task "
                f"label, got {2 + len(further)} parts; leave the others out "
                "(use_in_getitem=False of a data attribute), or replay by "
                "DistilledReplayPlugin, which mixes no items"
            )
        tasks: Any = "none"
        if attribute is not None:
            tasks = "in items" if inside else "beside"
        tensor = isinstance(label, Tensor)
        about = (tuple(label.shape), label.dtype) if tensor else None
        return cls(tasks, about, image.dtype)


class LabelledImages(NamedTuple):
    """The images of an experience, or of a part of one.

    Attributes:
        images: float32 of shape ``(n, channels, height, width)``.
        labels: int64, their classes.
        tasks: int64, their tasks.
        layout: the layout of the items behind them.
    """

    images: Tensor
    labels: Tensor
    tasks: Tensor
    layout: Layout


def read_images(dataset: Any, *, mixed: bool) -> LabelledImages:
    """Read a data set under its evaluation transform.

    Args:
        dataset: a data set of Avalanche; it may be empty.
        mixed: whether batches will mix its items with those of a buffer.

    Raises:
        DataError: an item is not an image tensor and a class; images differ in shape;
            or the items will be mixed, and have further parts.
    """
    items = dataset.eval()
    count = len(items)
    images, labels = torch.empty(count, 0, 0, 0), torch.zeros(count, dtype=torch.int64)
    layout = Layout()
    with untouched_randomness():  # an evaluation transform may draw
        for index in range(count):
            item = items[index]
            image, label, *_ = _parts(item)
            if index == 0:
                layout = Layout.of_item(dataset, item, mixed=mixed)
                images = torch.empty(count, *image.shape)
            _check_image(image)
            if image.shape != images.shape[1:]:
                raise DataError(
                    "the images of an experience must have one shape, got "
                    f"{sorted({tuple(images.shape[1:]), tuple(image.shape)})}; resize "
                    "them in its evaluation transform"
                )
            images[index] = image
            labels[index] = _as_class(label)
    tasks = getattr(dataset, TASK_LABELS, None)
    numbers = [0] * count if tasks is None else [int(task) for task in tasks]
    return LabelledImages(
        images, labels, torch.tensor(numbers, dtype=torch.int64), layout
    )


class ExperienceContent(NamedTuple):
    """What an experience has.

    Attributes:
        classes: its classes, sorted.
        images: the number of its images.
    """

    classes: list[int]
    images: int


def content_of(dataset: Any) -> ExperienceContent:
    """Return the classes and the number of images of an experience's data set.

    The classes are its targets; no image is read. A data set without targets has none.
    """
    targets = getattr(dataset, "targets", ())
    classes = sorted({int(target) for target in targets})
    return ExperienceContent(classes, len(dataset))


def _parts(item: Any) -> Sequence[Any]:
    """Return the parts of an item: an image, a class, and perhaps others.

    Raises:
        DataError: it has no such parts.
    """
    if isinstance(item, tuple | list) and len(item) >= 2:
        return item
    kind = type(item).__name__
    if isinstance(item, dict):
        kind = f"dictionaries with {', '.join(map(repr, list(item)[:5]))}"
    elif isinstance(item, tuple | list):
        kind = f"sequences of {len(item)} part(s)"
    raise DataError(
        f"the experience gives items as {kind}; expected (image, class); let its data "
        "set return tuples"
    )


def _check_image(image: Any) -> None:
    """Refuse anything but an image.

    Raises:
        DataError: it is not a float tensor with three axes.
    """
    if not isinstance(image, Tensor) or not image.is_floating_point():
        kind = image.dtype if isinstance(image, Tensor) else type(image).__name__
        raise DataError(
            f"the experience gives images as {kind}; its benchmark needs an "
            "evaluation transform that ends in a float tensor, such as ToTensor()"
        )
    if image.ndim != 3:
        raise DataError(
            "the experience gives images of shape "
            f"{tuple(image.shape)}, expected (channels, height, width)"
        )


def _as_class(label: Any) -> int:
    """Return a label as a class number.

    Raises:
        DataError: it is not a single whole number.
    """
    shape = tuple(getattr(label, "shape", ()))
    if shape not in ((), (1,)):
        raise DataError(
            f"the experience labels images with vectors of shape {shape}, expected "
            "classes"
        )
    try:
        value = label.item() if hasattr(label, "item") else label
        return operator.index(value)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"the experience labels images with {label!r}, expected whole numbers; "
            "number its classes from 0"
        ) from error
