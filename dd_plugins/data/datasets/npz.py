"""Data sets in one file of numpy arrays: of MedMNIST, of Keras, or your own."""

import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from dd_plugins.data.images import Images, checked_images, take
from dd_plugins.data.named import DataOptions, resolved_path
from dd_plugins.data.preprocess import Preprocessing
from dd_plugins.data.real import RealData
from dd_plugins.data.subsets import every_fifth
from dd_plugins.errors import DataError, OptionError, one_line

__all__ = ["data_of_npz", "load_npz"]

_SPLITS = ("train", "val", "test")
_NAMINGS = (("{}_images", "{}_labels"), ("x_{}", "y_{}"))


def load_npz(options: DataOptions) -> RealData:
    """Load ``npz:PATH``, a file of numpy arrays.

    See :func:`data_of_npz` for the format.
    """
    if options.argument is None:
        raise OptionError("data set 'npz' needs a path: 'npz:FILE.npz'")
    path = resolved_path(options.argument, options.root)
    return data_of_npz(path, f"npz:{path}", options)


def data_of_npz(
    path: Path,
    name: str,
    options: DataOptions,
    *,
    mirror: bool = False,
    preprocessing: Preprocessing | None = None,
) -> RealData:
    """Load the data in a file of numpy arrays.

    The arrays are ``train_images`` and ``train_labels``, and optionally ``val_images``,
    ``val_labels``, ``test_images``, ``test_labels`` (MedMNIST); or ``x_train``,
    ``y_train``, ``x_test`` and ``y_test`` (Keras). Images are uint8, or floating in
    [0, 1], of shape ``(n, height, width)``, ``(n, height, width, channels)`` or
    ``(n, channels, height, width)``; labels are whole numbers of shape ``(n,)`` or
    ``(n, 1)``. Without validation images, some training images are held out. Without
    test images, a fifth of each class, always the same, becomes the test set. An array
    ``class_names`` may name the classes.

    Args:
        path: the file.
        name: the name of the data set.
        options: its ``image_size`` resizes the images.
        mirror: whether mirrored images keep their class.
        preprocessing: the value space; by default ``"zca"`` for images of at most 4,800
            values.

    Raises:
        DataError: the file is damaged, or does not hold such arrays.
    """
    keys = _keys(path)
    splits = _splits(path, keys)

    def read(split: str) -> Images:
        images, labels = (_array(path, key) for key in splits[split])
        try:
            return checked_images(images, labels, image_size=options.image_size)
        except DataError as error:
            raise DataError(f"{path}, {split} split: {error}") from error

    train = read("train")
    names = None
    if "class_names" in keys:
        names = [
            each.decode() if isinstance(each, bytes) else str(each)
            for each in _array(path, "class_names").ravel()
        ]
    validation = read("val") if "val" in splits else None
    held_out = None
    if "test" not in splits:
        is_test = every_fifth(train.labels.tolist(), names, str(path))
        if not is_test.any():
            raise DataError(
                f"{path}: expected a test split, or at least two images of a class to "
                "take one from"
            )
        held_out = take(train, is_test.nonzero().flatten())
        train = take(train, (~is_test).nonzero().flatten())

    def read_test() -> Images:
        return read("test") if held_out is None else held_out

    assert isinstance(train.images, Tensor)
    return RealData.from_tensors(
        train.images,
        train.labels,
        test=read_test,
        class_names=names,
        name=name,
        preprocessing=preprocessing,
        mirror=mirror,
        image_size=options.image_size,
        channels="first",
        validation=validation,
    )


def _keys(path: Path) -> list[str]:
    """Return the names of the arrays in a file."""
    try:
        with path.open("rb") as file:  # numpy leaves a damaged one open
            found = np.load(file, allow_pickle=False)
            if not hasattr(found, "files"):
                raise ValueError("expected an archive of arrays, got one array")
            return list(found.files)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise _cannot_read(path, error) from error


def _splits(path: Path, keys: list[str]) -> Mapping[str, tuple[str, str]]:
    """Return the names of the image and label arrays of each split in the file."""
    for naming in _NAMINGS:
        images, labels = naming
        found = {
            split: (images.format(split), labels.format(split))
            for split in _SPLITS
            if images.format(split) in keys
        }
        if "train" not in found:
            continue
        used = {key for pair in found.values() for key in pair}
        known = {
            key.format(split) for pair in _NAMINGS for key in pair for split in _SPLITS
        }
        if unused := sorted(known & set(keys) - used):
            raise DataError(
                f"{path}: {', '.join(map(repr, unused))} beside {sorted(found)} of the "
                f"form {images.format('train')!r}: give each split images and labels, "
                "all in one form"
            )
        missing = [label for _, label in found.values() if label not in keys]
        if missing:
            raise DataError(f"{path}: expected labels in {missing[0]!r}, found none")
        return found
    raise DataError(
        f"{path}: expected arrays 'train_images' and 'train_labels', or 'x_train' and "
        f"'y_train', got {', '.join(map(repr, sorted(keys)[:8])) or 'none'}"
    )


def _array(path: Path, key: str) -> "NDArray[np.generic]":
    """Read one array of a file, leaving the others unread."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as found:
            array: NDArray[np.generic] = found[key]
            return array
    except Exception as error:  # a damaged archive can fail in many ways
        raise _cannot_read(path, error) from error


def _cannot_read(path: Path, error: Exception) -> DataError:
    return DataError(f"cannot read arrays of {path}: {one_line(error)}")
