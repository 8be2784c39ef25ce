"""Checks of single arguments."""

import operator
import os
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import SupportsIndex, TypeVar

from dd_plugins.errors import OptionError

__all__ = [
    "check_channels",
    "check_image_size",
    "number",
    "one_of",
    "path_of",
    "picture_path",
    "truth",
    "whole_number",
]

Value = TypeVar("Value")


def whole_number(name: str, value: object, *, least: int | None = None) -> int:
    """Return an int, a numpy integer or a one-element tensor as a Python int.

    Args:
        name: the name of the argument, for the error message.
        value: the argument; True and False do not count as numbers.
        least: the smallest allowed number; None for no bound.

    Raises:
        OptionError: the value is not a whole number, or is too small.

    Example:
        >>> import numpy
        >>> whole_number("repeats", numpy.int64(3), least=1)
        3
    """
    found = None
    if isinstance(value, SupportsIndex) and not _is_logical(value):
        with suppress(TypeError, ValueError, RuntimeError):
            found = operator.index(value)
    if found is None or (least is not None and found < least):
        start = "" if least is None else f" from {least}"
        raise OptionError(f"{name} must be a whole number{start}, got {value!r}")
    return found


def number(name: str, value: object) -> float:
    """Return a Python, NumPy or torch number as a Python float.

    Raises:
        OptionError: the value is text, a truth value, or not a single number.
    """
    try:
        if _is_logical(value) or isinstance(value, str | bytes):
            raise TypeError
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError, RuntimeError):
        raise OptionError(f"{name} must be a number, got {value!r}") from None


def truth(name: str, value: object) -> bool:
    """Return a truth value of Python, NumPy or torch as a Python bool.

    Raises:
        OptionError: the value is something else, such as text.
    """
    if not _is_logical(value):
        raise OptionError(f"{name} must be True or False, got {value!r}")
    return bool(value)


def path_of(name: str, value: object) -> Path:
    """Return the path in a string or a path.

    Raises:
        OptionError: the value is something else.
    """
    if not isinstance(value, str | os.PathLike):
        raise OptionError(f"{name} must be a path, got {value!r}")
    return Path(value)


def picture_path(name: str, value: object) -> Path:
    """Return the path of a PNG file that will be written.

    Raises:
        OptionError: the value is no path, or its name has another ending than ``.png``.

    Example:
        >>> picture_path("out", "images.svg")
        Traceback (most recent call last):
            ...
        dd_plugins.errors.OptionError: out must end in .png, got images.svg
    """
    path = path_of(name, value)
    if path.suffix.lower() not in ("", ".png"):
        raise OptionError(f"{name} must end in .png, got {path}")
    return path


def one_of(name: str, value: Value, known: Collection[str]) -> Value:
    """Return a value that is one of the known words.

    Raises:
        OptionError: the value is another.

    Example:
        >>> one_of("store", "packed", ["packed", "float32"])
        'packed'
    """
    if value not in known:
        raise OptionError(f"{name} must be one of {', '.join(known)}, got {value!r}")
    return value


def check_image_size(size: int | None) -> int | None:
    """Return a size to which images can be resized, as a Python int, or None.

    Raises:
        OptionError: the size is no whole number from 1.
    """
    return None if size is None else whole_number("image_size", size, least=1)


def check_channels(place: str | None) -> None:
    """Refuse an unknown position of the channels; None leaves it to the sizes.

    Raises:
        OptionError: it is neither ``"first"`` nor ``"last"``.
    """
    if place is not None:
        one_of("channels", place, ["first", "last"])


def _is_logical(value: object) -> bool:
    """Tell whether a value is a truth value of Python, NumPy or torch."""
    dtype = str(getattr(value, "dtype", ""))
    return isinstance(value, bool) or dtype in ("bool", "torch.bool")
