"""Folders of images: a subfolder for each class, perhaps in splits."""

from collections.abc import Mapping
from pathlib import Path

from dd_plugins.checks import check_image_size
from dd_plugins.data.datasets.image_files import ImageFiles
from dd_plugins.data.image_folders import find_images, find_splits
from dd_plugins.data.named import DataOptions, resolved_path
from dd_plugins.data.real import RealData
from dd_plugins.data.subsets import every_fifth
from dd_plugins.errors import OptionError

__all__ = ["data_of_folder", "load_folder"]


def load_folder(options: DataOptions) -> RealData:
    """Load a folder of images: one subfolder for each class.

    Splits for training, validation and testing are recognised (:func:`find_splits`).
    Without them a fifth of each class, always the same, becomes the test set, and at
    least one image of a class with two. With ``image_size`` the shorter side is resized
    to it and the centre is cropped. Images of any mode become RGB.
    """
    if options.argument is None:
        raise OptionError("data set 'folder' needs a path: 'folder:PATH'")
    path = resolved_path(options.argument, options.root)
    return data_of_folder(path, f"folder:{path}", image_size=options.image_size)


def data_of_folder(
    path: Path,
    name: str,
    *,
    image_size: int | None,
    mirror: bool = False,
    class_names: Mapping[str, str] | None = None,
) -> RealData:
    """Load the images of a folder.

    Args:
        path: the folder.
        name: the name of the data set.
        image_size: side in pixels of the resized images, or None.
        mirror: whether mirrored images keep their class.
        class_names: class names by the names of folders; by default the same names.

    Raises:
        OptionError: the image size is below 1.
        DataError: the folder has no classes of images, or its splits differ in classes.
    """
    check_image_size(image_size)
    splits = find_splits(path)
    found = find_images(splits.train)
    if splits.test is not None:
        training = ImageFiles(found.samples, image_size)
        test = ImageFiles(find_images(splits.test).samples, image_size)
    else:
        test_part = every_fifth(found.labels, found.classes, str(found.path))
        training, test = (
            ImageFiles(
                [
                    each
                    for each, is_in in zip(found.samples, part, strict=True)
                    if is_in
                ],
                image_size,
            )
            for part in (~test_part, test_part)
        )
    validation = None
    if splits.validation is not None:
        validation = ImageFiles(find_images(splits.validation).samples, image_size)
    names = class_names or {}
    data = RealData.from_dataset(
        training,
        test=test if len(test) else None,
        validation=validation,
        class_names=[names.get(each, each) for each in found.classes],
        name=name,
        mirror=mirror,
        image_size=image_size,
    )
    if splits.test is None:
        _, height, width = data.image_shape
        test.check_sizes((height, width))
    return data
