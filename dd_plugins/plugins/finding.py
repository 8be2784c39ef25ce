"""Finding plugins: the library's own, and installed ones."""

import inspect
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from importlib.metadata import Distribution, EntryPoint, distributions

from dd_plugins.errors import OptionError
from dd_plugins.plugins.registry import LOAD_VARIABLE, Plugin
from dd_plugins.spec import unknown_name

__all__ = [
    "BUILT_IN",
    "COMMANDS",
    "by_identity",
    "found_plugins",
    "requested_plugins",
    "specifies_hooks",
]

COMMANDS = {"commands": "dd_plugins.cli.commands"}
"""The plugin with the built-in commands, in the form of an entry point."""

BUILT_IN = {
    "built_in": "dd_plugins.built_in",
    **COMMANDS,
    "progress_display": "dd_plugins.engine.observers:progress_display",
    "metrics_log": "dd_plugins.engine.observers:metrics_log",
    "image_snapshots": "dd_plugins.engine.observers:image_snapshots",
}
"""The library's own plugins, in the form of entry points."""


def requested_plugins() -> list[str] | None:
    """Return the plugins named by the environment; None for all of them."""
    variable = os.environ.get(LOAD_VARIABLE)
    if variable is None:
        return None
    return [name.strip() for name in variable.split(",") if name.strip()]


def found_plugins(
    project: str,
    load: list[str] | None,
    extra: dict[str, object],
    built_in: Mapping[str, str] = BUILT_IN,
) -> Iterator[tuple[Plugin, Callable[[], object]]]:
    """Yield every plugin with its import function, built-ins first."""
    for name, value in built_in.items():
        entry_point = EntryPoint(name, value, project)
        yield Plugin(name, built_in=True), entry_point.load
    for name, given in extra.items():
        yield Plugin(name), partial(_identity, given)
    for distribution, entry_point in _entry_points(project, load):
        origin = _name_and_version(distribution)
        yield Plugin(entry_point.name, *origin), entry_point.load


def _entry_points(
    project: str, load: list[str] | None
) -> list[tuple[Distribution, EntryPoint]]:
    """Return the entry points of a group to load, each with its distribution."""
    if load == []:
        return []  # to read what is installed takes a while
    found: dict[tuple[str, str], tuple[Distribution, EntryPoint]] = {}
    for distribution in distributions():
        try:
            entry_points = distribution.entry_points
        except Exception:  # a damaged installation is skipped
            continue
        for entry_point in entry_points:
            if entry_point.group == project:
                # The same distribution may be found twice, on two entries of sys.path.
                key = (_name_and_version(distribution)[0], entry_point.name)
                found.setdefault(key, (distribution, entry_point))
    if load is None:
        return list(found.values())
    known = {name for key in found for name in key}
    for name in load:
        if name not in known:
            raise OptionError(
                f"{LOAD_VARIABLE}: {unknown_name('plugin', name, sorted(known))}"
            )
    return [found[key] for key in found if set(key) & set(load)]


def _name_and_version(distribution: Distribution) -> tuple[str, str]:
    """Return the name and version of a distribution, whose metadata may be damaged."""
    name: str | None = None
    version: str | None = None
    with suppress(Exception):
        name, version = distribution.metadata["Name"], distribution.version
    return name or "a distribution without a name", version or "unknown"


def specifies_hooks(plugin: object) -> bool:
    """Return whether a plugin specifies hooks of its own."""
    try:
        return hasattr(plugin, "dd_register_hookspecs")
    except Exception:  # hasattr passes on all but AttributeError
        return False


def _identity(plugin: object) -> object:
    return plugin


class _ByIdentity:
    """The functions of a plugin object, in an object compared by identity.

    pluggy keeps plugins in sets and looks them up by ``==``. But a dataclass object has
    no hash, and two with equal fields would count as one plugin. Functions are copied,
    because pluggy does not use ``__getattr__`` to find marked ones.
    """

    def __init__(self, plugin: object) -> None:
        for name in dir(plugin):
            if not name.startswith("__") and inspect.isroutine(
                inspect.getattr_static(plugin, name)  # no property is computed
            ):
                setattr(self, name, getattr(plugin, name))


def by_identity(plugin: object) -> object:
    """Return a plugin, wrapped if its class compares objects by their content."""
    kind = type(plugin)
    plain = kind.__eq__ is object.__eq__ and kind.__hash__ is object.__hash__
    return plugin if plain else _ByIdentity(plugin)
