"""CIFAR-10.1: new test images for CIFAR-10."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from dd_plugins.data.datasets.archives import check_md5, download_file
from dd_plugins.data.datasets.torchvision_sets import TorchvisionSet
from dd_plugins.data.images import Images
from dd_plugins.data.named import DataOptions, data_root_of, refuse_argument
from dd_plugins.data.reading import UnreadTestSet
from dd_plugins.data.real import RealData
from dd_plugins.errors import DataError, one_line

__all__ = ["load_cifar10_1"]

_WHERE = "https://github.com/modestyachts/CIFAR-10.1/raw/master/datasets/"
_IMAGES, _LABELS = "cifar10.1_v6_data.npy", "cifar10.1_v6_labels.npy"
_LABELS_MD5 = "09a97fb7c430502fcbd69d95093a3f85"


def load_cifar10_1(options: DataOptions) -> RealData:
    """Load CIFAR-10 with the 2,000 images of CIFAR-10.1 (v6) as its test set.

    Recht et al., "Do CIFAR-10 Classifiers Generalize to CIFAR-10?", 2018. The
    training images are those of CIFAR-10, so a set distilled from ``cifar10`` can be
    evaluated with ``--dataset cifar10.1``.
    """
    refuse_argument("cifar10.1", options)
    root = data_root_of("cifar10.1", options)
    cifar10 = TorchvisionSet("cifar10", "CIFAR10", mirror=True, preprocessing="zca")
    data = cifar10(options)
    files = root / _IMAGES, root / _LABELS
    for file in files:
        if options.download and not file.exists():
            download_file("cifar10.1", f"{_WHERE}{file.name}", file, None)
        if not file.exists():
            raise DataError(
                f"cannot read data set 'cifar10.1' under {root}: expected {file.name}; "
                "pass --download to fetch it"
            )
    test = UnreadTestSet(lambda: _read(*files), "first", options.image_size)
    shape = torch.Size(data.image_shape)
    return replace(
        data, name="cifar10.1", read_test=test.fitting(shape, data.num_classes)
    )


def _read(images: Path, labels: Path) -> Images:
    """Read the test images.

    Raises:
        DataError: a file is damaged, or is not the published one.
    """
    check_md5(labels, _LABELS_MD5, "or use 'cifar10'")
    try:
        pixels = torch.from_numpy(np.load(images, allow_pickle=False))
        numbers = torch.from_numpy(np.load(labels, allow_pickle=False))
    except (OSError, ValueError, EOFError, TypeError) as error:
        raise DataError(f"cannot read {images}: {one_line(error)}") from error
    if pixels.ndim != 4 or len(pixels) != len(numbers):
        raise DataError(
            f"{images} must hold an image for each of {len(numbers)} labels, "
            f"got {tuple(pixels.shape)}"
        )
    return Images(pixels.movedim(-1, 1).contiguous(), numbers)
