"""The method that a set names, if it is installed here."""

from collections.abc import Callable
from typing import Any

from dd_plugins.distillers.base import AbstractDistiller
from dd_plugins.errors import UnknownNameError
from dd_plugins.synthetic.artifact import DistilledSet

__all__ = ["method_of"]


def method_of(
    distilled: DistilledSet, find: Callable[[str], AbstractDistiller[Any]]
) -> AbstractDistiller[Any] | None:
    """Return the distiller that made a set, or None if nothing of its name is here.

    That is so for sets of other codes, and of plugins that are not installed. They are
    evaluated all the same.

    Args:
        distilled: the set.
        find: returns the distiller that a spec stands for.

    Raises:
        OptionError: its spec is malformed, or has an option that is out of its range.
    """
    try:
        return find(distilled.header.distiller)
    except UnknownNameError:
        return None
