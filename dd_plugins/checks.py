"""Checks of single arguments."""

import operator
from contextlib import suppress
from typing import SupportsIndex

from dd_plugins.errors import OptionError

__all__ = ["whole_number"]


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
    number = None
    dtype = str(getattr(value, "dtype", ""))
    logical = isinstance(value, bool) or dtype in ("bool", "torch.bool")
    if isinstance(value, SupportsIndex) and not logical:
        with suppress(TypeError, ValueError, RuntimeError):
            number = operator.index(value)
    if number is None or (least is not None and number < least):
        start = "" if least is None else f" from {least}"
        raise OptionError(f"{name} must be a whole number{start}, got {value!r}")
    return number
