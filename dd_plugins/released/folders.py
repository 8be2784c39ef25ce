"""Released sets as folders of images: those of SRe2L and RDED."""

from collections.abc import Sequence
from pathlib import Path

import torch

from dd_plugins.data.image_folders import find_images
from dd_plugins.data.pixels import pixels_of
from dd_plugins.errors import DataError, FileError
from dd_plugins.released.contents import Released

__all__ = ["read_folder"]


def read_folder(folder: Path, class_names: Sequence[str], *, colour: bool) -> Released:
    """Return the set in a folder of images, with a subfolder for each class.

    Subfolders have the names of classes, or different numbers in their names: the
    indices of classes from 0, as SRe2L and RDED write them, or all of them from 1.
    Others are taken in their order if there is one for each class.

    Args:
        folder: the folder.
        class_names: the class names of the real data.
        colour: whether the real data are in colour; then grey files become colour too.

    Raises:
        FileError: images cannot be read, or differ in size.
        DataError: the subfolders do not match these classes.
    """
    from PIL import Image

    found = find_images(folder)
    index_of = _classes(folder, found.classes, class_names)
    images, labels = [], []
    for file, label in found.samples:
        try:
            with Image.open(file) as opened:
                images.append(pixels_of(opened, channels=3 if colour else None))
        except (
            OSError,
            ValueError,
            SyntaxError,
            Image.DecompressionBombError,
        ) as error:
            raise FileError(f"{file}: expected an image: {error}") from error
        labels.append(index_of[label])
    sizes = {tuple(image.shape) for image in images}
    if len(sizes) > 1:
        raise FileError(
            f"{folder}: expected images of one size, got {sorted(sizes)[0]} and "
            f"{sorted(sizes)[1]}"
        )
    order = torch.tensor(labels).argsort(stable=True)
    return Released(
        "a folder of images",
        torch.stack(images)[order],
        torch.tensor(labels)[order],
        "pixels",
    )


def _classes(
    folder: Path, found: Sequence[str], class_names: Sequence[str]
) -> list[int]:
    """Return the class of each subfolder.

    Raises:
        DataError: a class cannot be determined.
    """
    if set(found) <= set(class_names):
        return [list(class_names).index(name) for name in found]
    digits = ["".join(filter(str.isdecimal, name)) for name in found]
    if all(digits) and len({int(each) for each in digits}) == len(found):
        numbers = [int(each) for each in digits]
        if sorted(numbers) == list(range(1, len(class_names) + 1)):
            return [number - 1 for number in numbers]
        if max(numbers) < len(class_names):
            return numbers
        in_order = numbers == sorted(numbers)  # as identifiers of WordNet are
    else:
        in_order = True
    if in_order and len(found) == len(class_names):
        return list(range(len(found)))
    raise DataError(
        f"{folder}: expected subfolders called like the {len(class_names)} classes of "
        f"the data, or numbered from 0, got {', '.join(found[:5])}, ..."
    )
