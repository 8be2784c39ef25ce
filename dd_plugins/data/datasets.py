"""The named data sets that come with the library; each is registered by the hook."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from dd_plugins.data.image_folders import ImageFolder, find_images, find_splits
from dd_plugins.data.images import Images
from dd_plugins.data.named import DataOptions, DatasetLoader
from dd_plugins.data.pixels import open_image, pixels_of, size_of
from dd_plugins.data.preprocess import Preprocessing
from dd_plugins.data.real import RealData
from dd_plugins.errors import DataError, DDWarning, OptionError
from dd_plugins.runtime.text import one_line

__all__ = ["DATASETS", "load_digits", "load_folder"]

_DIGITS_TEST_PART = 0.2
_TEST_EVERY = 5  # of a folder without a test split


def load_digits(options: DataOptions) -> RealData:
    """Load scikit-learn's digits: 1,797 real 8x8 images of handwritten digits.

    The set has no test split of its own, so a stratified fifth of it, always the same,
    becomes the test set.
    """
    _refuse_unused("digits", options)
    from sklearn.datasets import load_digits as sklearn_digits
    from sklearn.model_selection import train_test_split

    digits = sklearn_digits()
    pixels = (digits.images / 16).astype(np.float32)[:, None]
    train_x, test_x, train_y, test_y = train_test_split(
        pixels,
        digits.target,
        test_size=_DIGITS_TEST_PART,
        stratify=digits.target,
        random_state=0,
    )
    return RealData.from_tensors(
        torch.from_numpy(train_x),
        torch.from_numpy(train_y),
        test=(torch.from_numpy(test_x), torch.from_numpy(test_y)),
        class_names=map(str, digits.target_names),
        name="digits",
        preprocessing="standardize",
    )


def _refuse_unused(name: str, options: DataOptions) -> None:
    """Refuse the options that only a folder takes."""
    if options.argument is not None:
        raise OptionError(
            f"data set {name!r} takes no argument after a colon, got "
            f"{options.argument!r}"
        )
    if options.image_size is not None:
        raise OptionError(
            f"data set {name!r} has images of one size and takes no image_size, got "
            f"{options.image_size}; drop image_size"
        )


@dataclass(frozen=True)
class _Torchvision:
    """A data set of torchvision, loaded by the name of its class."""

    name: str
    class_name: Literal["MNIST", "FashionMNIST", "CIFAR10", "CIFAR100"]
    preprocessing: Preprocessing
    mirror: bool

    def __call__(self, options: DataOptions) -> RealData:
        _refuse_unused(self.name, options)
        if options.root is None:
            raise OptionError(
                f"data set {self.name!r} needs a folder: pass --data-root DIR (or set "
                "DD_DATA), and --download to fetch it there"
            )
        root = options.root
        train = self._read(root, train=True, download=options.download)
        return RealData.from_tensors(
            *_tensors(train),
            test=lambda: Images(
                *_tensors(self._read(root, train=False, download=False))
            ),
            class_names=train.classes,
            name=self.name,
            preprocessing=self.preprocessing,
            mirror=self.mirror,
        )

    def _read(self, root: Path, *, train: bool, download: bool) -> Any:
        from torchvision import datasets

        try:
            return getattr(datasets, self.class_name)(
                str(root), train=train, download=download
            )
        except Exception as error:  # torchvision does not foresee damaged files
            todo = "" if download else "; pass --download to fetch it"
            raise DataError(
                f"cannot read data set {self.name!r} under {root}: "
                f"{one_line(error)}{todo}"
            ) from error


def _tensors(dataset: Any) -> tuple[Tensor, Tensor]:
    """Return what a torchvision data set holds: uint8, channels first."""
    pixels: Tensor = torch.as_tensor(dataset.data)
    channels_first = pixels[:, None] if pixels.ndim == 3 else pixels.movedim(-1, 1)
    return channels_first.contiguous(), torch.as_tensor(dataset.targets)


def load_folder(options: DataOptions) -> RealData:
    """Load a folder of images: one subfolder for each class.

    A training and a test split are recognised (:func:`find_splits`); else a fifth of
    each class, always the same, becomes the test set: at least one image of a class
    that has two. With ``image_size`` the shorter side is resized to it and the centre
    is cropped. Images of any mode become RGB (:func:`pixels_of`).
    """
    if options.argument is None:
        raise OptionError("data set 'folder' needs a path: 'folder:PATH'")
    path = _resolved(options.argument, options.root)
    size = options.image_size
    if size is not None and size < 1:
        raise OptionError(f"image_size must be at least 1 pixel, got {size}")
    splits = find_splits(path)
    found = find_images(splits.train)
    if splits.test is not None:
        training = _FolderItems(found.samples, size)
        test = _FolderItems(find_images(splits.test).samples, size)
    else:
        test_part = _test_part(found)
        training, test = (
            _FolderItems(
                [
                    each
                    for each, is_in in zip(found.samples, part, strict=True)
                    if is_in
                ],
                size,
            )
            for part in (~test_part, test_part)
        )
    data = RealData.from_dataset(
        training,
        test=test if len(test) else None,
        class_names=found.classes,
        name=f"folder:{path}",
        image_size=size,
    )
    if splits.test is None:
        _, height, width = data.image_shape
        test.check_sizes((height, width))
    return data


def _resolved(argument: str, root: Path | None) -> Path:
    """Return the absolute path of a folder.

    A relative path that does not exist is looked up in the folder of data sets.
    """
    try:
        path = Path(argument).expanduser()
        if root is not None and not path.is_absolute() and not path.exists():
            path = root / path
        return path.resolve(strict=True)
    except (
        OSError,
        RuntimeError,
    ) as error:  # a loop of links, a user that is not known
        reason = getattr(error, "strerror", None) or one_line(error)
        raise DataError(f"cannot read images under {argument}: {reason}") from error


def _test_part(found: ImageFolder) -> Tensor:
    """Return a mask of every fifth image of each class, in order of names.

    A class of two to four images gives its last one; a class of one image gives none.
    """
    labels = torch.tensor(found.labels)
    mask = torch.zeros(len(labels), dtype=torch.bool)
    untested = []
    for label, name in enumerate(found.classes):
        members = (labels == label).nonzero().flatten()
        if len(members) == 1:
            untested.append(name)
        elif len(members) < _TEST_EVERY:
            mask[members[-1]] = True
        else:
            mask[members[_TEST_EVERY - 1 :: _TEST_EVERY]] = True
    if untested:
        warnings.warn(
            f"{found.path}: the only image of class "
            f"{', '.join(map(repr, untested[:5]))} is trained on, so the class has no "
            f"test image ({len(untested)} such classes)",
            DDWarning,
            stacklevel=2,
        )
    return mask


class _FolderItems(Dataset[tuple[Tensor, int]]):
    """Image files with their labels, as colour images: uint8, perhaps resized."""

    def __init__(self, samples: list[tuple[Path, int]], size: int | None) -> None:
        self._samples = samples
        self._size = size
        self.targets = [label for _, label in samples]

    def __len__(self) -> int:
        return len(self._samples)

    def check_sizes(self, size: tuple[int, int]) -> None:
        """Refuse files of another height and width, by their headers."""
        if self._size is not None:
            return
        for file, _ in self._samples:
            try:
                found = size_of(file)
            except Exception as error:  # PIL raises many kinds for damaged files
                raise _cannot_read(file, error) from error
            if found != size:
                raise DataError(
                    f"images must all have one size: {file} is {found[0]}x{found[1]}, "
                    f"others are {size[0]}x{size[1]}; resize them to one by "
                    "--image-size"
                )

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        file, label = self._samples[index]
        try:
            with open_image(file, resized=self._size is not None) as image:
                return pixels_of(image, channels=3, size=self._size), label
        except DataError as error:
            raise DataError(f"image {file} {error}") from error
        except Exception as error:  # PIL raises many kinds for damaged files
            raise _cannot_read(file, error) from error


def _cannot_read(file: Path, error: Exception) -> DataError:
    return DataError(f"cannot read image {file}: {one_line(error)}")


DATASETS: dict[str, DatasetLoader] = {
    "digits": load_digits,
    "mnist": _Torchvision("mnist", "MNIST", "standardize", mirror=False),
    "fashion-mnist": _Torchvision(
        "fashion-mnist", "FashionMNIST", "standardize", mirror=False
    ),
    "cifar10": _Torchvision("cifar10", "CIFAR10", "zca", mirror=True),
    "cifar100": _Torchvision("cifar100", "CIFAR100", "zca", mirror=True),
    "folder": load_folder,
}
