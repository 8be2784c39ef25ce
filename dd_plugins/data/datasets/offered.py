"""The table of named data sets, registered by the built-in plugin."""

from dd_plugins.data.datasets.cifar10_1 import load_cifar10_1
from dd_plugins.data.datasets.cub200 import load_cub200
from dd_plugins.data.datasets.digits import load_digits
from dd_plugins.data.datasets.fake import load_fake
from dd_plugins.data.datasets.folder import load_folder
from dd_plugins.data.datasets.hugging_face import load_hugging_face
from dd_plugins.data.datasets.imagenet64 import load_imagenet64
from dd_plugins.data.datasets.imagenette import load_imagenette
from dd_plugins.data.datasets.npz import load_npz
from dd_plugins.data.datasets.tiny_imagenet import load_tiny_imagenet
from dd_plugins.data.datasets.torchvision_sets import (
    BY_SPLIT,
    TorchvisionSet,
    load_cifar100,
    load_emnist,
)
from dd_plugins.data.named import DatasetLoader

__all__ = ["DATASETS"]

_TORCHVISION = (
    TorchvisionSet("mnist", "MNIST", mirror=False, preprocessing="standardize"),
    TorchvisionSet(
        "fashion-mnist", "FashionMNIST", mirror=False, preprocessing="standardize"
    ),
    TorchvisionSet("cifar10", "CIFAR10", mirror=True, preprocessing="zca"),
    TorchvisionSet("svhn", "SVHN", mirror=False, splits=BY_SPLIT, channels_last=False),
    TorchvisionSet("stl10", "STL10", mirror=True, splits=BY_SPLIT, channels_last=False),
)

DATASETS: dict[str, DatasetLoader] = {
    **{each.name: each for each in _TORCHVISION},
    "cifar10.1": load_cifar10_1,
    "cifar100": load_cifar100,
    "cub200": load_cub200,
    "digits": load_digits,
    "emnist": load_emnist,
    "fake": load_fake,
    "folder": load_folder,
    "hf": load_hugging_face,
    "imagenet64": load_imagenet64,
    "imagenette": load_imagenette,
    "npz": load_npz,
    "tiny-imagenet": load_tiny_imagenet,
}
