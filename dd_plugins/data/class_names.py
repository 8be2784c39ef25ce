"""The names of classes: given, or read from a dataset."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Subset

from dd_plugins.data.checks import check_numbering
from dd_plugins.data.items import LABEL_KEYS
from dd_plugins.errors import DataError

__all__ = ["as_names", "checked_names", "names_of_dataset"]


def as_names(class_names: Iterable[Any]) -> tuple[str, ...]:
    """Return given class names as text.

    Raises:
        DataError: they are one string, or no series of names.
    """
    is_text = isinstance(class_names, str)
    if is_text or not isinstance(class_names, Iterable):
        kind = "string" if is_text else type(class_names).__name__
        raise DataError(
            f"class_names must be a list of names, got one {kind}, {class_names!r}; "
            "pass a list"
        )
    return tuple(map(str, class_names))


def checked_names(class_names: Iterable[str] | None, labels: Tensor) -> tuple[str, ...]:
    """Return a name for each class.

    Raises:
        DataError: names are no list, missing or not printable; or a class has no
            image; or there are fewer than two classes.
    """
    classes = int(labels.max()) + 1
    check_numbering(classes - 1, len(labels))
    names = as_names(range(classes) if class_names is None else class_names)
    if classes > len(names):
        raise DataError(
            f"labels go up to {classes - 1}, expected {classes} class names, got "
            f"{len(names)}"
        )
    for name_of_class in names:
        if not name_of_class.isprintable():
            raise DataError(
                f"class names must be printable text, got {name_of_class!r}"
            )
    counts = torch.bincount(labels, minlength=len(names))
    if not bool(counts.all()):
        empty = [names[index] for index in (counts == 0).nonzero().flatten()]
        if class_names is None and empty == ["0"]:
            raise DataError(
                "expected labels from 0, got labels from 1; subtract 1 from each"
            )
        raise DataError(
            "expected a training image of each class, found none of class "
            f"{', '.join(map(repr, empty[:5]))}; remove the class or number the "
            "labels without gaps"
        )
    if len(names) < 2:
        raise DataError(f"expected at least 2 classes, found {len(names)}")
    return names


def names_of_dataset(dataset: Any, classes: int) -> list[str] | None:
    """Return the class names of a dataset; None unless it has one for each class."""
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    names = getattr(dataset, "classes", None)
    if names is None:  # Hugging Face describes a column with its class names
        features = getattr(dataset, "features", None)
        columns = features if isinstance(features, Mapping) else {}
        label = next((columns[key] for key in LABEL_KEYS if key in columns), None)
        names = getattr(label, "names", None)
    if not isinstance(names, list | tuple) or len(names) != classes:
        return None
    return list(map(str, names)) if all(map(_is_name, names)) else None


def _is_name(name: Any) -> bool:
    return isinstance(name, str) and name.isprintable()
