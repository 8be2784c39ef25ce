"""The names of data sets, and the options for finding one."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from dd_plugins.data.real import RealData
from dd_plugins.errors import OptionError

__all__ = ["DATASET_NAME", "DataOptions", "DatasetLoader", "split_name"]


@dataclass(frozen=True)
class DataOptions:
    """Options for finding a named data set.

    Attributes:
        argument: what stands after the colon of ``folder:PATH``, or None.
        root: the folder that holds data sets, or None.
        download: whether a missing data set may be downloaded to ``root``.
        image_size: side in pixels to which images are resized and cropped, or None.
    """

    argument: str | None = None
    root: Path | None = None
    download: bool = False
    image_size: int | None = None


class DatasetLoader(Protocol):
    """What ``dd_register_datasets`` registers: a function that makes real data."""

    def __call__(self, options: DataOptions) -> "RealData":
        """Load the data, but leave the test set to ``read_test``."""
        ...


DATASET_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")
"""The form of a data set's name."""


def split_name(name: str) -> tuple[str, str | None]:
    """Split ``"folder:PATH"`` into the registered name and its argument.

    Raises:
        OptionError: the name is not of that form.
    """
    registered, colon, argument = name.partition(":")
    if not DATASET_NAME.fullmatch(registered) or (colon and not argument):
        raise OptionError(
            f"data set {name!r}: expected a name such as 'cifar10' or 'folder:PATH'"
        )
    return registered, argument or None
