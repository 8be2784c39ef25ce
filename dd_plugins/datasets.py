"""The named data sets that come with the library; each is registered by the hook."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from dd_plugins.data import (
    DataOptions,
    DatasetLoader,
    Images,
    RealData,
    mixed_sizes,
)
from dd_plugins.errors import DataError, OptionError
from dd_plugins.preprocess import Preprocessing

__all__ = ["DATASETS", "load_digits", "load_folder"]

_DIGITS_TEST_PART = 0.2


def load_digits(options: DataOptions) -> RealData:
    """Load scikit-learn's digits: 1,797 real 8x8 images of handwritten digits.

    The set has no test split of its own; a fifth, stratified and always the same, is
    it.
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
    """Refuse what only a folder takes."""
    if options.argument is not None:
        raise OptionError(f"data set {name!r} takes no argument after a colon")
    if options.image_size is not None:
        raise OptionError(f"data set {name!r} has images of one size; drop image_size")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


@dataclass(frozen=True)
class _Torchvision:
    """A data set of torchvision, by its class there."""

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
            test=lambda: _tensors(self._read(root, train=False, download=False)),
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
                f"{_one_line(error)}{todo}"
            ) from error


def _tensors(dataset: Any) -> Images:
    """Return what a torchvision data set holds: uint8, channels first."""
    pixels: Tensor = torch.as_tensor(dataset.data)
    channels_first = pixels[:, None] if pixels.ndim == 3 else pixels.movedim(-1, 1)
    return Images(channels_first.contiguous(), torch.as_tensor(dataset.targets))


def load_folder(options: DataOptions) -> RealData:
    """Load a folder of images: one subfolder for each class.

    ``PATH/train`` and ``PATH/test``, if both are there, are the two splits; else a
    fifth of each class, always the same, is the test set. With ``image_size`` the
    shorter side is resized to it and the centre is cropped.
    """
    if options.argument is None:
        raise OptionError("data set 'folder' needs a path: 'folder:PATH'")
    path = Path(options.argument).expanduser().resolve()
    size = options.image_size
    if size is not None and size < 1:
        raise OptionError(f"image_size must be at least 1 pixel, got {size}")
    if (path / "train").is_dir() and not (path / "test").is_dir():
        raise DataError(
            f"{path} holds 'train', but no 'test': add it, or name the training folder "
            "itself to have a test split cut from it"
        )
    name = f"folder:{path}"
    if (path / "train").is_dir() and (path / "test").is_dir():
        data, names = _read_folder(path / "train", size)

        def read_test() -> Images:
            test, test_names = _read_folder(path / "test", size)
            if test_names != names:
                raise DataError(f"{path}: train and test hold different class folders")
            return test

        return RealData.from_tensors(
            *data, test=read_test, class_names=names, name=name, image_size=size
        )
    data, names = _read_folder(path, size)
    test_part = _every(data.labels, round(1 / _DIGITS_TEST_PART))
    return RealData.from_tensors(
        data.images[~test_part],
        data.labels[~test_part],
        test=(data.images[test_part], data.labels[test_part]),
        class_names=names,
        name=name,
        image_size=size,
    )


def _every(labels: Tensor, nth: int) -> Tensor:
    """Return a mask of every ``nth`` image of each class, in order of names."""
    mask = torch.zeros(len(labels), dtype=torch.bool)
    for label in range(int(labels.max()) + 1):
        mask[(labels == label).nonzero().flatten()[nth - 1 :: nth]] = True
    return mask


def _read_folder(path: Path, size: int | None) -> tuple[Images, list[str]]:
    """Read an image folder as torchvision finds it; all images must be of one size."""
    from torchvision.datasets import ImageFolder
    from torchvision.transforms.v2 import functional as transforms

    try:
        found = ImageFolder(str(path))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataError(
            f"cannot read images under {path}: {_one_line(error)}"
        ) from error
    images, shapes = [], Counter[tuple[int, ...]]()
    for file, _ in found.samples:
        try:
            image = found.loader(file)
        except Exception as error:  # PIL raises many kinds for damaged files
            raise DataError(f"cannot read image {file}: {_one_line(error)}") from error
        if size is not None:
            image = transforms.center_crop(
                transforms.resize(image, [size], antialias=True), [size, size]
            )
        tensor = transforms.pil_to_tensor(image)
        shapes[tuple(tensor.shape)] += 1
        images.append(tensor)
    if len(shapes) > 1:
        raise mixed_sizes(shapes)
    labels = torch.tensor([label for _, label in found.samples])
    return Images(torch.stack(images), labels), found.classes


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
