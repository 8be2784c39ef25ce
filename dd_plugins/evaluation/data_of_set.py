"""The real data of a distilled set, found again or refused."""

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from dd_plugins.data.named import DataOptions
from dd_plugins.data.real import RealData
from dd_plugins.errors import (
    DataError,
    DDWarning,
    ImageSizeError,
    OptionError,
    UnknownNameError,
)
from dd_plugins.plugins.asked_for import was_requested
from dd_plugins.synthetic.artifact import DistilledSet
from dd_plugins.synthetic.header import Header

__all__ = [
    "dataset_name_of",
    "real_data_of",
    "warn_if_other_images",
    "with_validation_as_test",
]

FindData = Callable[[Any, DataOptions], RealData]


def real_data_of(
    distilled: DistilledSet,
    data: Any,
    data_root: str | Path | None,
    find: FindData,
    *,
    download: bool = False,
) -> RealData:
    """Return the real data of a set.

    Args:
        distilled: the set.
        data: the data, if it is at hand, in any form accepted by ``distill``; by
            default found by the name in the artifact.
        data_root: the folder of named data sets.
        find: returns the data for a name or another form, given its options.
        download: whether a missing data set may be downloaded to that folder.

    Raises:
        OptionError: the data has no such form.
        DataError: the data cannot be read, or does not fit the set.
    """
    root = None if data_root is None else Path(data_root)
    size = distilled.header.dataset.image_size
    options = DataOptions(root=root, download=download, image_size=size)
    if data is None or isinstance(data, str):
        found = _data_by_name(distilled, data, find, options)
    else:
        is_read = isinstance(data, RealData)  # its images have their size already
        found = find(data, DataOptions(root=root) if is_read else options)
    _check_fit(distilled, found)
    return found


def dataset_name_of(header: Header) -> str:
    """Return the name of the real data behind a set.

    Raises:
        DataError: it names a folder or file for which nobody has asked here.
    """
    name = header.dataset.name
    if not was_requested(name):
        raise DataError(
            f"the artifact names {name!r} for its real data, which nobody has asked "
            "for here; only data that was asked for is read: if it is yours, say so by "
            f"--dataset {name!r} (data={name!r} in Python), or name the folder where "
            "the images are now"
        )
    return name


def _data_by_name(
    distilled: DistilledSet, given: str | None, find: FindData, options: DataOptions
) -> RealData:
    """Load the data behind a set; refuse it if it has changed.

    The data gets the preprocessing of the set.
    """
    header, record = distilled.header, distilled.header.dataset
    name = dataset_name_of(header) if given is None else given
    try:
        data = find(name, options)
    except UnknownNameError as error:
        if given is not None:
            raise
        raise DataError(
            f"the real data of the set, {name!r}, is not among those that plugins "
            "offer; pass the images as data=... in Python, or name them by --dataset"
        ) from error
    except ImageSizeError as error:
        raise DataError(
            f"the images of {name!r} have several sizes; those behind the set all had "
            f"one, {tuple(distilled.images.shape[1:])}: name the right ones by "
            "--dataset, or pass data=... in Python"
        ) from error
    except DataError as error:
        if given is not None:
            raise
        raise DataError(
            f"{error}; if the images have moved, name their folder by --dataset"
        ) from error
    if record.fingerprint not in ("", data.fingerprint):  # a private set has none
        raise DataError(
            f"the training images of {name!r} must be those that the set was distilled "
            "from, got others, and test images could be among them; distil again, name "
            "the folder of the right ones by --dataset, or pass data=... in Python"
        )
    if data.preprocessing != header.value_space:
        data = data.with_preprocessing(header.value_space)
    return replace(data, mirror=header.mirror)


def warn_if_other_images(distilled: DistilledSet, data: RealData) -> None:
    """Warn if training images given in Python are others than those behind the set.

    Data given by name is refused then. A set with a context is distilled from several.
    Images held out here may have been trained on there: they are no others.

    Warns:
        DDWarning: the training images are others.
    """
    header = distilled.header
    known = header.dataset.fingerprint  # a private set has none
    if not known or header.context is not None or known == data.fingerprint:
        return
    if known != data.undivided().fingerprint:
        warnings.warn(
            "the training images are not those that the set was distilled from: "
            "baselines are of other images, and test images could be among those "
            "behind the set",
            DDWarning,
            stacklevel=4,
        )


def with_validation_as_test(distilled: DistilledSet, data: RealData) -> RealData:
    """Return the data with its validation images in place of the test set.

    Raises:
        DataError: no images are held out for validation.
        OptionError: the set, or a context of it, was distilled from the validation
            images too.

    Warns:
        DDWarning: the set, or a context of it, was made by other code, or from other
            data, or labelled by a module, perhaps from these images.
    """
    headers = distilled.header.lineage
    others = {each.dataset.fingerprint for each in headers} - {"", data.fingerprint}
    if not len(data.validation.labels):
        raise DataError(f"validation: {data.name} holds no validation images out")
    saw_all = any(each.privacy is not None for each in headers)
    if others:
        saw_all |= len(headers) == 1 or data.undivided().fingerprint in others
    if saw_all:
        raise OptionError(
            "validation: the set was distilled from the validation images too, so "
            "accuracies on them would be too high"
        )
    origin = None
    if any(each.is_imported for each in headers):
        origin = "other code made the set or a context of it"
    elif others:
        origin = "the set or a context of it was distilled from other data"
    elif any(each.views is not None and not each.views.teachers for each in headers):
        origin = "a module labelled the set or a context of it"
    if origin is not None:
        warnings.warn(
            f"{origin}, perhaps from these validation images too; then accuracies on "
            "them are too high",
            DDWarning,
            stacklevel=4,
        )
    return replace(data, read_test=lambda: data.validation)


def _check_fit(distilled: DistilledSet, data: RealData) -> None:
    """Refuse real data of other classes or another shape than the distilled set's."""
    if list(data.class_names) != distilled.header.class_names:
        raise DataError(
            "the data must have the classes of the set, "
            f"{distilled.header.class_names[:5]}..., got "
            f"{list(data.class_names[:5])}..."
        )
    if data.image_shape != tuple(distilled.images.shape[1:]):
        raise DataError(
            "the data must have images of shape "
            f"{tuple(distilled.images.shape[1:])}, as the set, got {data.image_shape}"
        )
