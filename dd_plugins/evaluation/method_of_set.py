"""The method of a set, if it is installed here."""

from collections.abc import Callable
from typing import Any

from dd_plugins.distillers.base import AbstractDistiller
from dd_plugins.errors import OptionError, UnknownNameError
from dd_plugins.spec import parse
from dd_plugins.synthetic.artifact import DistilledSet
from dd_plugins.synthetic.header import Header

__all__ = ["distiller_of", "method_of"]


def method_of(
    distilled: DistilledSet, find: Callable[[str], AbstractDistiller[Any]]
) -> AbstractDistiller[Any] | None:
    """Return the distiller of a set, or None if it cannot be made here.

    Sets made by other codes or by missing plugins have none, and so have sets of older
    versions whose options are refused today. They are evaluated all the same.

    Args:
        distilled: the set.
        find: returns the distiller of a spec.

    Raises:
        OptionError: its spec is malformed.
    """
    return distiller_of(distilled.header, find)


def distiller_of(
    header: Header, find: Callable[[str], AbstractDistiller[Any]]
) -> AbstractDistiller[Any] | None:
    """Return the distiller of a header; see :func:`method_of`."""
    parse(header.distiller)
    try:
        return find(header.distiller)
    except (UnknownNameError, OptionError):
        return None
