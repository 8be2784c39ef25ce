"""The offers of plugins by name, each with its plugin."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from keyword import iskeyword
from typing import Any, Generic, TypeVar

from dd_plugins.errors import PluginError
from dd_plugins.spec import Record, is_record, unknown_name

__all__ = [
    "LOAD_VARIABLE",
    "NO_RECORD",
    "NameConflictError",
    "Plugin",
    "RecordType",
    "Registry",
    "record_adder",
]

LOAD_VARIABLE = "DD_PLUGINS_LOAD"
"""Environment variable: the only entry points to load, by comma; empty means none."""

Item = TypeVar("Item")


NO_RECORD = (
    "without that its own options would be neither checked nor saved; decorate it with "
    "@dd_plugins.record"
)
"""Why a class must be decorated itself, for messages."""

RecordType = TypeVar("RecordType", bound=Record)


@dataclass
class Plugin:
    """A plugin, loaded or not.

    Attributes:
        name: the name of its entry point, or the caller's name for it.
        distribution: its distribution, or None.
        version: of that distribution, or None.
        error: why it was not loaded, or None.
        hooks: the hooks it implements.
        offers: the names it registered, by kind.
        missing_extra: the extra to install before it can be used, or None.
        built_in: whether it is a part of dd-plugins itself.
    """

    name: str
    distribution: str | None = None
    version: str | None = None
    error: str | None = None
    hooks: list[str] = field(default_factory=list)
    offers: dict[str, list[str]] = field(default_factory=dict)
    missing_extra: str | None = None
    built_in: bool = False

    def __str__(self) -> str:
        origin = "built in" if self.built_in else self.distribution
        return f"{self.name} ({origin})" if origin else self.name


@dataclass(frozen=True)
class _Offer(Generic[Item]):
    item: Item
    plugin: Plugin


class NameConflictError(PluginError):
    """Two plugins offer one name; only the user can choose between them."""


class Registry(Generic[Item]):
    """Items of one kind by name, each with its plugin.

    Args:
        kind: the kind of item, for messages: ``"distiller"``.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._offers: dict[str, _Offer[Item]] = {}
        self._aliases: dict[str, str] = {}

    def add(
        self, name: str, item: Item, plugin: Plugin, aliases: Iterable[str] = ()
    ) -> None:
        """Add an item.

        Args:
            name: the name by which it is listed.
            item: the item.
            plugin: its plugin.
            aliases: its earlier names, still valid in look-ups.

        Raises:
            NameConflictError: another plugin has the name; the message names both.
            PluginError: the name is built in.
            ValueError: this plugin has registered the name already.
        """
        self.check_free(name, plugin)
        self._offers[name] = _Offer(item, plugin)
        plugin.offers.setdefault(self.kind, []).append(name)
        for alias in aliases:
            self.check_free(alias, plugin)
            self._aliases[alias] = name

    def check_free(self, name: str, plugin: Plugin) -> None:
        """Refuse a taken name, as :meth:`add` does."""
        taken = self._offers.get(self._aliases.get(name, name))
        if taken is not None and taken.plugin is plugin:
            raise ValueError(
                f"{self.kind} {name!r} is registered twice; a name must be registered "
                "only once"
            )
        if taken is not None and taken.plugin.built_in:
            raise PluginError(
                f"{self.kind} {name!r} is built in; a plugin's needs another name"
            )
        if taken is not None:
            raise NameConflictError(
                f"{self.kind} {name!r} is registered by two plugins, {taken.plugin} "
                f"and {plugin}; only one of them can be loaded: uninstall the other, "
                f"or name those to load in {LOAD_VARIABLE}"
            )

    def discard(self, plugin: Plugin) -> None:
        """Forget the offers of one plugin."""
        self._offers = {
            name: offer
            for name, offer in self._offers.items()
            if offer.plugin is not plugin
        }
        self._aliases = {
            alias: name for alias, name in self._aliases.items() if name in self._offers
        }

    def clear(self) -> None:
        """Forget everything, including each plugin's list of offers."""
        for offer in self._offers.values():
            offer.plugin.offers.pop(self.kind, None)
        self._offers, self._aliases = {}, {}

    def names(self) -> list[str]:
        """Return all names, sorted."""
        return sorted(self._offers)

    def get(self, name: str) -> Item:
        """Return the item of a name.

        Raises:
            UnknownNameError: the name is not registered; the message lists the nearest.
        """
        found = self._offers.get(self._aliases.get(name, name))
        if found is None:
            raise unknown_name(self.kind, name, self.names())
        return found.item

    def origin(self, item: object) -> Plugin | None:
        """Return the plugin of an item, or None if it has none."""
        offers = self._offers.values()
        return next((offer.plugin for offer in offers if offer.item is item), None)

    def __contains__(self, name: object) -> bool:
        return name in self._offers or name in self._aliases


def record_adder(
    registry: Registry[Any], base: type[Record], plugin: Plugin
) -> Callable[[type[Record]], None]:
    """Return a plugin's callback for offering records of one kind."""

    def register(cls: type[Record]) -> None:
        if not (isinstance(cls, type) and issubclass(cls, base)):
            raise TypeError(f"expected a subclass of {base.__name__}, got {cls!r}")
        name = cls.__dict__.get("name")
        if not (isinstance(name, str) and name.isidentifier()) or iskeyword(name):
            raise TypeError(
                f"{cls.__name__}.name must be an identifier, for specs, got {name!r}"
            )
        registry.check_free(name, plugin)
        if not is_record(cls):
            raise TypeError(f"{cls.__name__} must be a record itself: {NO_RECORD}")
        missing = sorted(getattr(cls, "__abstractmethods__", ()))
        if missing:
            raise TypeError(
                f"{cls.__name__} is abstract; it must define {', '.join(missing)}"
            )
        registry.add(name, cls, plugin, cls.__dict__.get("aliases", ()))

    return register
