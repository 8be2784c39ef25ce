"""Imagenette: ten easy classes of ImageNet."""

import math

from dd_plugins.data.datasets.archives import Archive, unpacked
from dd_plugins.data.datasets.folder import data_of_folder
from dd_plugins.data.named import DataOptions, needs_image_size, refuse_argument
from dd_plugins.data.real import RealData

__all__ = ["load_imagenette"]

_WHERE = "https://s3.amazonaws.com/fast-ai-imageclas/"
_BY_SIDE = {  # the shorter side of the images
    160: ("imagenette2-160", "e793b78cc4c9e9a4ccc0c1155377a412"),
    320: ("imagenette2-320", "3df6f0d01a2c9592104656642f5e78a3"),
    math.inf: ("imagenette2", "fe2fc210e6bb7c5664d602c3cd71e612"),
}
_NAMES = {
    "n01440764": "tench",
    "n02102040": "English springer",
    "n02979186": "cassette player",
    "n03000684": "chain saw",
    "n03028079": "church",
    "n03394916": "French horn",
    "n03417042": "garbage truck",
    "n03425413": "gas pump",
    "n03445777": "golf ball",
    "n03888257": "parachute",
}


def load_imagenette(options: DataOptions) -> RealData:
    """Load Imagenette (fast.ai): ten classes, 9,469 training and 3,925 test images.

    The smallest published version with a shorter side of at least ``image_size`` pixels
    is read, or a larger one if only this is present. Its ``val`` is the test set.
    """
    refuse_argument("imagenette", options)
    size = needs_image_size("imagenette", options)
    folder = unpacked(
        "imagenette",
        options,
        *(
            Archive(f"{name}.tgz", name, md5=md5, url=f"{_WHERE}{name}.tgz")
            for side, (name, md5) in _BY_SIDE.items()
            if side >= size
        ),
    )
    return data_of_folder(
        folder, "imagenette", image_size=size, mirror=True, class_names=_NAMES
    )
