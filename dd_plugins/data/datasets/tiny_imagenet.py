"""Tiny-ImageNet: 200 classes of ImageNet at 64x64."""

from collections import Counter
from pathlib import Path

from dd_plugins.data.datasets.archives import Archive, unpacked
from dd_plugins.data.datasets.image_files import ImageFiles
from dd_plugins.data.named import DataOptions, refuse_argument
from dd_plugins.data.real import RealData
from dd_plugins.errors import DataError, described

__all__ = ["load_tiny_imagenet"]

_ARCHIVE = Archive(
    "tiny-imagenet-200.zip",
    "tiny-imagenet-200",
    md5="90528d7ca1a48142e341f4ef8d21d0de",
    url="http://cs231n.stanford.edu/tiny-imagenet-200.zip",
)


def load_tiny_imagenet(options: DataOptions) -> RealData:
    """Load Tiny-ImageNet (Stanford CS231n): 100,000 images of 200 classes, 3x64x64.

    The published validation images, with the classes of ``val_annotations.txt``, are
    the test set, since the classes of the test images are not published. Classes are
    numbered in the order of their WordNet identifiers, as by ``ImageFolder``.
    """
    refuse_argument("tiny-imagenet", options)
    folder = unpacked("tiny-imagenet", options, _ARCHIVE)
    try:
        identifiers = sorted(path.name for path in (folder / "train").iterdir())
        names = _class_names(folder, identifiers)
        number = {identifier: n for n, identifier in enumerate(identifiers)}
        training = [
            (file, number[identifier])
            for identifier in identifiers
            for file in sorted((folder / "train" / identifier / "images").iterdir())
        ]
        lines = (folder / "val" / "val_annotations.txt").read_text().splitlines()
        testing = [
            (folder / "val" / "images" / words[0], number[words[1]])
            for words in (line.split("\t") for line in lines)
        ]
    except (OSError, KeyError, IndexError, UnicodeDecodeError) as error:
        raise DataError(
            f"{folder} does not hold Tiny-ImageNet as it is published "
            f"({described(error)}); remove it and unpack the archive anew"
        ) from error
    return RealData.from_dataset(
        ImageFiles(training, options.image_size),
        test=ImageFiles(testing, options.image_size),
        class_names=names,
        name="tiny-imagenet",
        mirror=True,
        image_size=options.image_size,
    )


def _class_names(folder: Path, identifiers: list[str]) -> list[str]:
    """Return the first name of each class, with its identifier if two share it."""
    words = dict(
        line.split("\t", 1)
        for line in (folder / "words.txt").read_text().splitlines()
        if "\t" in line
    )
    first = [words.get(each, each).split(",")[0].strip() for each in identifiers]
    count = Counter(first)
    return [
        name if count[name] == 1 else f"{name} ({identifier})"
        for name, identifier in zip(first, identifiers, strict=True)
    ]
