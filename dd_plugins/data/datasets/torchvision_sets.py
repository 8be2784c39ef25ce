"""Data sets read and downloaded by torchvision."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from dd_plugins.data.datasets.npz import data_of_npz
from dd_plugins.data.images import Images
from dd_plugins.data.named import DataOptions, data_root_of, refuse_argument
from dd_plugins.data.preprocess import Preprocessing
from dd_plugins.data.real import RealData
from dd_plugins.errors import DataError, OptionError, one_line

__all__ = ["TorchvisionSet", "load_cifar100", "load_emnist"]

_ADVICE = ". You can use download=True to download it"  # in torchvision's errors
_BY_TRAIN = ({"train": True}, {"train": False})
BY_SPLIT = ({"split": "train"}, {"split": "test"})


@dataclass(frozen=True)
class TorchvisionSet:
    """Loads a torchvision data set whole into memory.

    Attributes:
        name: the registered name of the data set.
        class_name: its class in ``torchvision.datasets``.
        mirror: whether mirrored images keep their class.
        preprocessing: the value space; by default ``"zca"`` for images of at most 4,800
            values.
        splits: the arguments of the class for the training and for the test images.
        channels_last: whether its arrays have the channels in their last axis.
    """

    name: str
    class_name: str
    mirror: bool
    preprocessing: Preprocessing | None = None
    splits: tuple[Mapping[str, Any], Mapping[str, Any]] = field(default=_BY_TRAIN)
    channels_last: bool = True

    def __call__(self, options: DataOptions) -> RealData:
        """Read the training images now, and the test images when they are needed."""
        refuse_argument(self.name, options)
        for_training, for_testing = self.splits
        train = self.read(options, for_training)
        return RealData.from_tensors(
            *self.tensors(train),
            test=lambda: Images(*self.tensors(self.read(options, for_testing))),
            class_names=getattr(train, "classes", None),
            name=self.name,
            preprocessing=self.preprocessing,
            mirror=self.mirror,
            image_size=options.image_size,
        )

    def read(self, options: DataOptions, arguments: Mapping[str, Any]) -> Any:
        """Return a data set of torchvision.

        Raises:
            OptionError: there is no folder to read from.
            DataError: it is missing there, or damaged.
        """
        from torchvision import datasets

        root = data_root_of(self.name, options)
        try:
            return getattr(datasets, self.class_name)(
                str(root), **arguments, download=options.download
            )
        except Exception as error:  # torchvision does not expect damaged files
            told = one_line(error).removesuffix(_ADVICE)
            todo = "" if options.download else "; pass --download to fetch it"
            raise DataError(
                f"cannot read data set {self.name!r} under {root}: {told}{todo}"
            ) from error

    def tensors(self, dataset: Any) -> tuple[Tensor, Tensor]:
        """Return images, uint8 with their channels first, and labels."""
        pixels: Tensor = torch.as_tensor(dataset.data)
        if pixels.ndim == 3:
            pixels = pixels[:, None]
        elif self.channels_last:
            pixels = pixels.movedim(-1, 1)
        found = dataset.labels if hasattr(dataset, "labels") else dataset.targets
        return pixels.contiguous(), torch.as_tensor(found)


_CIFAR100 = TorchvisionSet("cifar100", "CIFAR100", mirror=True, preprocessing="zca")


def load_cifar100(options: DataOptions) -> RealData:
    """Load CIFAR-100, from ``cifar100.npz`` if only this file is there.

    The images in the file are in another order, so a set distilled from one source
    is refused on the other.
    """
    refuse_argument("cifar100", options)
    root = data_root_of("cifar100", options)
    file = root / "cifar100.npz"
    if file.exists() and not (root / "cifar-100-python").exists():
        return data_of_npz(file, "cifar100", options, mirror=True, preprocessing="zca")
    return _CIFAR100(options)


def load_emnist(options: DataOptions) -> RealData:
    """Load a split of EMNIST: ``emnist:letters``, ``emnist:balanced`` or another.

    The published images are transposed; here they stand upright. Letters are numbered
    from 0.
    """
    from torchvision.datasets import EMNIST

    split = options.argument
    if split not in EMNIST.splits:
        listed = ", ".join(f"emnist:{each}" for each in EMNIST.splits)
        raise OptionError(f"data set 'emnist' has the splits {listed}; got {split!r}")
    reader = TorchvisionSet(f"emnist:{split}", "EMNIST", mirror=False)

    def read(*, train: bool) -> tuple[Tensor, Tensor, list[str]]:
        found = reader.read(options, {"split": split, "train": train})
        pixels, labels = reader.tensors(found)
        names = list(found.classes)
        if split == "letters":  # whose class 0 is empty
            labels, names = labels - 1, names[1:]
        return pixels.transpose(2, 3).contiguous(), labels, names

    *train, names = read(train=True)
    return RealData.from_tensors(
        *train,
        test=lambda: Images(*read(train=False)[:2]),
        class_names=names,
        name=reader.name,
        preprocessing="standardize",
        image_size=options.image_size,
    )
