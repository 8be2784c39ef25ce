"""Checks of single values that callers give."""

import operator
from contextlib import suppress
from typing import SupportsIndex

import torch

from dd_plugins.errors import OptionError

__all__ = ["whole_number"]


def whole_number(name: str, value: object, *, least: int | None = None) -> int:
    """Return a whole number that Python, numpy or a tensor of one number holds.

    Args:
        name: of the argument, for the message.
        value: what was given; True and False are no numbers here.
        least: the smallest that is taken; by default there is none.

    Raises:
        OptionError: it is no whole number, or is too small.

    Example:
        >>> import numpy
        >>> whole_number("repeats", numpy.int64(3), least=1)
        3
    """
    number = None
    logical = isinstance(value, bool) or getattr(value, "dtype", None) == torch.bool
    if isinstance(value, SupportsIndex) and not logical:
        with suppress(TypeError, ValueError, RuntimeError):
            number = operator.index(value)
    if number is None or (least is not None and number < least):
        start = "" if least is None else f" from {least}"
        raise OptionError(f"{name} must be a whole number{start}, got {value!r}")
    return number
