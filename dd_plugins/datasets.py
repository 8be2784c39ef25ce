"""The named data sets that come with the library; each is registered by the hook."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset

from dd_plugins.data import (
    DataOptions,
    DatasetLoader,
    Images,
    RealData,
    has_room,
    read_dataset,
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
                f"{_one_line(error)}{todo}"
            ) from error


def _tensors(dataset: Any) -> tuple[Tensor, Tensor]:
    """Return what a torchvision data set holds: uint8, channels first."""
    pixels: Tensor = torch.as_tensor(dataset.data)
    channels_first = pixels[:, None] if pixels.ndim == 3 else pixels.movedim(-1, 1)
    return channels_first.contiguous(), torch.as_tensor(dataset.targets)


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
    split = (path / "train").is_dir()
    training = _FolderItems(path / "train" if split else path, size)
    if not has_room(training):
        return _stream_folder(training, path / "test" if split else None, name)
    if split:
        data, names = _read_folder(path / "train", size)

        def read_test() -> Images:
            test, test_names = _read_folder(path / "test", size)
            if test_names != names:
                raise _other_classes(path)
            return Images(*test)

        return RealData.from_tensors(
            *data, test=read_test, class_names=names, name=name, image_size=size
        )
    (images, labels), names = _read_folder(path, size)
    test_part = _every(labels, round(1 / _DIGITS_TEST_PART))
    return RealData.from_tensors(
        images[~test_part],
        labels[~test_part],
        test=(images[test_part], labels[test_part]),
        class_names=names,
        name=name,
        image_size=size,
    )


def _stream_folder(
    training: "_FolderItems", test_path: Path | None, name: str
) -> RealData:
    """Leave the images of a folder that memory cannot hold where they are."""
    kept: Dataset[Any] = training
    if test_path is not None:
        test_items = _FolderItems(test_path, training.size)
        if test_items.found.classes != training.found.classes:
            raise _other_classes(test_path.parent)
        test: Dataset[Any] = test_items
    else:
        labels = torch.tensor(training.found.targets)
        test_part = _every(labels, round(1 / _DIGITS_TEST_PART))
        kept, test = (
            Subset(training, part.nonzero().flatten().tolist())
            for part in (~test_part, test_part)
        )
    return RealData.from_dataset(
        kept,
        test=test,
        stream=True,
        class_names=training.found.classes,
        name=name,
        image_size=training.size,
    )


def _other_classes(path: Path) -> DataError:
    return DataError(f"{path}: train and test hold different class folders")


def _every(labels: Tensor, nth: int) -> Tensor:
    """Return a mask of every ``nth`` image of each class, in order of names."""
    mask = torch.zeros(len(labels), dtype=torch.bool)
    for label in range(int(labels.max()) + 1):
        mask[(labels == label).nonzero().flatten()[nth - 1 :: nth]] = True
    return mask


class _FolderItems(Dataset[tuple[Tensor, int]]):
    """The images of a folder as torchvision finds them: uint8, perhaps resized."""

    def __init__(self, path: Path, size: int | None) -> None:
        from torchvision.datasets import ImageFolder

        try:
            self.found = ImageFolder(str(path))
        except (FileNotFoundError, NotADirectoryError) as error:
            raise DataError(
                f"cannot read images under {path}: {_one_line(error)}"
            ) from error
        self.size = size

    def __len__(self) -> int:
        return len(self.found.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        from torchvision.transforms.v2 import functional as transforms

        file, label = self.found.samples[index]
        try:
            image = self.found.loader(file)
        except Exception as error:  # PIL raises many kinds for damaged files
            raise DataError(f"cannot read image {file}: {_one_line(error)}") from error
        if self.size is not None:
            image = transforms.center_crop(
                transforms.resize(image, [self.size], antialias=True), [self.size] * 2
            )
        return transforms.pil_to_tensor(image), label


def _read_folder(
    path: Path, size: int | None
) -> tuple[tuple[Tensor, Tensor], list[str]]:
    """Read an image folder into memory; all images must be of one size."""
    items = _FolderItems(path, size)
    return read_dataset(items), items.found.classes


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
