"""The names of data sets, and the options for finding one."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from dd_plugins.checks import check_image_size
from dd_plugins.data.real import RealData
from dd_plugins.errors import DataError, ImageSizeError, OptionError, one_line

__all__ = [
    "DATASET_NAME",
    "ROOT_VARIABLE",
    "DataOptions",
    "DatasetLoader",
    "data_root_of",
    "needs_image_size",
    "refuse_argument",
    "resolved_path",
    "split_name",
    "usual_name",
]


@dataclass(frozen=True)
class DataOptions:
    """Options for finding a named data set.

    Attributes:
        argument: the text after the colon of ``folder:PATH``, or None.
        root: the folder of data sets; None for the folder named by ``DD_DATA``, if any.
        download: whether a missing data set may be downloaded to ``root``.
        image_size: side in pixels of the resized and cropped images, or None.
    """

    argument: str | None = None
    root: Path | None = None
    download: bool = False
    image_size: int | None = None

    def __post_init__(self) -> None:
        """Refuse a size to which images cannot be resized.

        Raises:
            OptionError: the size is no whole number from 1.
        """
        object.__setattr__(self, "image_size", check_image_size(self.image_size))


class DatasetLoader(Protocol):
    """A loader for ``dd_register_datasets``: a function returning real data."""

    def __call__(self, options: DataOptions) -> "RealData":
        """Load the data, but leave the test set to ``read_test``."""
        ...


ROOT_VARIABLE = "DD_DATA"
"""The environment variable that names the folder of data sets."""

DATASET_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]*")
"""The form of a data set's name."""


def split_name(name: str) -> tuple[str, str | None]:
    """Split ``"folder:PATH"`` into the registered name and its argument.

    Raises:
        OptionError: the name is not of this form.
    """
    registered, colon, argument = name.partition(":")
    if not DATASET_NAME.fullmatch(registered) or (colon and not argument):
        raise OptionError(
            f"data set {name!r}: expected a name such as 'cifar10' or 'folder:PATH'"
        )
    return registered, argument or None


def usual_name(name: str, known: Iterable[str]) -> str:
    """Return the registered form of a name, if it is written in another common way.

    Args:
        name: the name as a caller writes it, perhaps with an argument.
        known: the registered names.

    Example:
        >>> usual_name("FashionMNIST", ["mnist", "fashion-mnist"])
        'fashion-mnist'
        >>> usual_name("Folder:My_Photos", ["folder"])
        'folder:My_Photos'
    """
    given, colon, argument = name.partition(":")
    names = list(known)
    if given in names or not DATASET_NAME.fullmatch(given.lower()):
        return name
    alike = [each for each in names if _letters(each) == _letters(given)]
    return f"{alike[0]}{colon}{argument}" if len(alike) == 1 else name


def _letters(name: str) -> str:
    return "".join(filter(str.isalnum, name.lower()))


def refuse_argument(name: str, options: DataOptions) -> None:
    """Refuse an argument for a data set that takes none.

    Raises:
        OptionError: there is an argument.
    """
    if options.argument is not None:
        raise OptionError(
            f"data set {name!r} takes no argument after a colon, got "
            f"{options.argument!r}"
        )


def data_root_of(name: str, options: DataOptions) -> Path:
    """Return the folder of data sets.

    Raises:
        OptionError: none is given.
        DataError: there is no such folder, and nothing is to be fetched into it.
    """
    if options.root is None:
        raise OptionError(
            f"data set {name!r} needs a folder: pass --data-root DIR (or set "
            "DD_DATA), and --download to fetch it there"
        )
    if not options.download and not options.root.is_dir():
        raise DataError(
            f"cannot read data set {name!r}: the folder {options.root} does not exist; "
            "check --data-root (or DD_DATA), or pass --download to fetch it there"
        )
    return options.root


def needs_image_size(name: str, options: DataOptions) -> int:
    """Return the size of the resized images.

    Raises:
        ImageSizeError: none is given.
    """
    if options.image_size is None:
        raise ImageSizeError(
            f"data set {name!r} has images of many sizes: pass --image-size N (in "
            "Python: image_size=N) to resize and crop them to NxN pixels"
        )
    return options.image_size


def resolved_path(argument: str, root: Path | None) -> Path:
    """Return the absolute path given as the argument of a data set's name.

    A relative path that does not exist is looked up in the folder of data sets.

    Raises:
        DataError: there is no such file or folder.
    """
    places = argument
    try:
        path = Path(argument).expanduser()
        if root is not None and not path.is_absolute() and not path.exists():
            path = root / path
            places = f"{argument} or {path}"
        return path.resolve(strict=True)
    except FileNotFoundError as error:
        raise DataError(
            f"{places} does not exist: give a path from {Path.cwd()}, or from the "
            "folder of data sets (--data-root)"
        ) from error
    except (OSError, RuntimeError) as error:  # a loop of links, an unknown user
        reason = getattr(error, "strerror", None) or one_line(error)
        raise DataError(f"cannot read {places}: {reason}") from error
