"""Generated images of any number and size, for measuring runs."""

import re

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from dd_plugins.data.named import DataOptions
from dd_plugins.data.real import RealData
from dd_plugins.errors import OptionError

__all__ = ["load_fake"]

_FORM = re.compile(r"(\d{1,9})x(\d{1,9})x(\d{1,9})x(\d{1,9})x(\d{1,9})")
_TEST_IMAGES = 2  # of each class


def load_fake(options: DataOptions) -> RealData:
    """Generate images: ``fake:CLASSESxCHANNELSxHEIGHTxWIDTHxIMAGES``.

    Each class has a mean colour, and each image is noise around it. Images and labels
    are functions of the index, and are generated on access, without disk space. They
    stand in for absent data, above all in ``dd-plugins estimate``.
    """
    found = _FORM.fullmatch(options.argument or "")
    numbers = [] if found is None else [int(each) for each in found.groups()]
    if len(numbers) != 5 or min(numbers) < 1:
        raise OptionError(
            "data set 'fake' needs numbers from 1: "
            "'fake:CLASSESxCHANNELSxHEIGHTxWIDTHxIMAGES', such as "
            f"'fake:1000x3x64x64x20000', got {options.argument!r}"
        )
    classes, *shape, count = numbers
    if count < classes:
        raise OptionError(
            f"data set 'fake' needs an image of each of {classes} classes, got {count}"
        )
    return RealData.from_dataset(
        _Fake(classes, tuple(shape), count, first=0),
        test=_Fake(classes, tuple(shape), _TEST_IMAGES * classes, first=count),
        class_names=map(str, range(classes)),
        name=f"fake:{options.argument}",
        channels="first",
        image_size=options.image_size,
    )


class _Fake(Dataset[tuple[Tensor, int]]):
    """Noise around the mean colour of a class, generated when it is read."""

    def __init__(
        self, classes: int, shape: tuple[int, ...], count: int, *, first: int
    ) -> None:
        self._shape, self._count, self._first = shape, count, first
        drawn = np.random.default_rng(0).integers(128, size=(classes, shape[0], 1, 1))
        self._colours = drawn.astype(np.uint8)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        label = index % len(self._colours)
        generator = np.random.default_rng(self._first + index)
        noise = generator.integers(128, size=self._shape, dtype=np.uint8)
        return torch.from_numpy(noise + self._colours[label]), label
