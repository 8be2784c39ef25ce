"""Data sets saved on disk by Hugging Face ``datasets``."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from dd_plugins.data.items import IMAGE_KEYS, LABEL_KEYS
from dd_plugins.data.named import DataOptions, resolved_path
from dd_plugins.data.pixels import pixels_of
from dd_plugins.data.real import RealData
from dd_plugins.data.subsets import every_fifth
from dd_plugins.errors import DataError, MissingExtraError, OptionError, one_line

__all__ = ["load_hugging_face"]


def load_hugging_face(options: DataOptions) -> RealData:
    """Load ``hf:PATH``, a data set saved by ``save_to_disk`` of ``datasets``.

    A ``DatasetDict`` keeps its splits. Of a single ``Dataset``, a fifth of each class,
    always the same, becomes the test set. With ``image_size`` the shorter side is
    resized to it and the centre is cropped.
    """
    if options.argument is None:
        raise OptionError("data set 'hf' needs a path: 'hf:FOLDER'")
    try:
        from datasets import load_from_disk
    except ImportError as error:
        raise MissingExtraError(
            "data set 'hf' needs the package datasets: pip install 'dd-plugins[hf]'"
        ) from error
    path = resolved_path(options.argument, options.root)
    try:
        found = load_from_disk(str(path))
    except Exception as error:  # other folders fail in many ways
        raise DataError(
            f"cannot read a data set in {path}: {one_line(error)}"
        ) from error
    splits = found if isinstance(found, Mapping) else _with_test(found, path)
    return RealData.from_splits(
        {
            split: _Items(each, path, options.image_size)
            for split, each in splits.items()
        },
        name=f"hf:{path}",
        image_size=options.image_size,
    )


def _with_test(found: Any, path: Path) -> dict[str, Any]:
    """Cut a test set from a single ``Dataset``."""
    _, label_key = _columns(found, path)
    try:
        labels = [int(each) for each in found[label_key]]
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{path}: expected whole numbers in the column {label_key!r}: "
            f"{one_line(error)}"
        ) from error
    is_test = every_fifth(labels, _label_names(found, label_key), str(path))
    return {
        "train": found.select((~is_test).nonzero().flatten().tolist()),
        "test": found.select(is_test.nonzero().flatten().tolist()),
    }


def _columns(dataset: Any, path: Path) -> tuple[str, str]:
    """Return the names of the columns of images and labels.

    Raises:
        DataError: there are none, or several candidates.
    """
    features = dataset.features
    found = []
    for kind, known, what in (
        ("Image", IMAGE_KEYS, "images"),
        ("ClassLabel", LABEL_KEYS, "labels"),
    ):
        usual = [key for key in known if key in features]
        of_kind = [key for key, each in features.items() if type(each).__name__ == kind]
        if not usual and len(of_kind) != 1:
            raise DataError(
                f"{path}: expected one column of {what}, called "
                f"{', '.join(known)} or of the kind {kind}, got "
                f"{', '.join(map(repr, features))}; rename one by rename_column"
            )
        found.append(usual[0] if usual else of_kind[0])
    return found[0], found[1]


def _label_names(dataset: Any, label_key: str) -> list[str] | None:
    names = getattr(dataset.features[label_key], "names", None)
    return None if names is None else list(map(str, names))


class _Items(Dataset[tuple[Any, Any]]):
    """Pairs of an image and a label, from the columns of a Hugging Face dataset."""

    def __init__(self, dataset: Any, path: Path, size: int | None) -> None:
        self._dataset = dataset
        self._path = path
        self._size = size

    @cached_property
    def _keys(self) -> tuple[str, str]:
        return _columns(self._dataset, self._path)

    @property
    def classes(self) -> list[str] | None:
        """The names of the classes; None if the labels are plain numbers."""
        return _label_names(self._dataset, self._keys[1])

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        item = self._dataset[index]
        image, label = (item[key] for key in self._keys)
        if isinstance(image, list):  # a column of arrays
            dtype = getattr(self._dataset.features[self._keys[0]], "dtype", None)
            image = np.asarray(image, dtype=dtype)
        elif self._size is not None:
            image = pixels_of(image, size=self._size)
        return image, label
