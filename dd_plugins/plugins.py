"""The plugin manager: guarded loading, and look-up by name."""

import inspect
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache, partial
from importlib.metadata import Distribution, EntryPoint, distributions
from keyword import iskeyword
from typing import Any, Generic, TypeVar, cast, get_args

import click
import pluggy

from dd_plugins import hookspecs
from dd_plugins.data import (
    DATASET_NAME,
    DataOptions,
    DatasetLoader,
    RealData,
    split_name,
)
from dd_plugins.distillers.base import AbstractDistiller, InitialImages
from dd_plugins.errors import DDWarning, OptionError, PluginError, UnknownNameError
from dd_plugins.networks.base import AbstractNetwork
from dd_plugins.parametrizations import AbstractParametrization
from dd_plugins.spec import Call, Record, build, is_record, parse, unknown_name
from dd_plugins.wrappers.base import AbstractWrapper

__all__ = ["Plugin", "Plugins", "Registry", "loaded_plugins"]

BUILT_IN = {
    "built_in": "dd_plugins.built_in",
    "progress_display": "dd_plugins.engine.observers:progress_display",
    "metrics_log": "dd_plugins.engine.observers:metrics_log",
    "image_snapshots": "dd_plugins.engine.observers:image_snapshots",
}
"""The plugins that come with the library, in the form of entry points."""

LOAD_VARIABLE = "DD_PLUGINS_LOAD"
"""Environment variable: the only entry points to load, by comma; empty means none."""

_NO_RECORD = (
    "is no record, though a class above it may be: its options would be neither "
    "checked nor saved; decorate it with @dd_plugins.record"
)

Item = TypeVar("Item")
RecordType = TypeVar("RecordType", bound=Record)


@dataclass
class Plugin:
    """A plugin that was found, loaded or not.

    Attributes:
        name: the name of its entry point, or the one that the caller gave it.
        distribution: the distribution that brings it, or None.
        version: of that distribution, or None.
        error: why it was not loaded, or None.
        hooks: the hooks it implements.
        offers: what it registered, by kind.
        missing_extra: what must be installed for it to be of use, or None.
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
    """Two plugins offer one name; which of them is meant only a person can say."""


class Registry(Generic[Item]):
    """Things of one kind by name, each remembered with the plugin that offers it.

    Args:
        kind: what the things are, for messages: ``"distiller"``.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._offers: dict[str, _Offer[Item]] = {}

    def add(self, name: str, item: Item, plugin: Plugin) -> None:
        """Add a thing.

        Raises:
            NameConflictError: another plugin has taken it; the message names both.
            ValueError: this plugin has registered it already.
        """
        self.check_free(name, plugin)
        self._offers[name] = _Offer(item, plugin)
        plugin.offers.setdefault(self.kind, []).append(name)

    def check_free(self, name: str, plugin: Plugin) -> None:
        """Refuse a name that is taken, as :meth:`add` does."""
        taken = self._offers.get(name)
        if taken is not None and taken.plugin is plugin:
            raise ValueError(f"{self.kind} {name!r} is registered twice")
        if taken is not None:
            raise NameConflictError(
                f"{self.kind} {name!r} is registered by two plugins, {taken.plugin} "
                f"and {plugin}; uninstall one, or name those to load in "
                f"{LOAD_VARIABLE}"
            )

    def discard(self, plugin: Plugin) -> None:
        """Forget what one plugin offered."""
        self._offers = {
            name: offer
            for name, offer in self._offers.items()
            if offer.plugin is not plugin
        }

    def names(self) -> list[str]:
        """Return all names, sorted."""
        return sorted(self._offers)

    def get(self, name: str) -> Item:
        """Return the thing of that name.

        Raises:
            UnknownNameError: there is none; the message lists those known.
        """
        if name not in self._offers:
            raise unknown_name(self.kind, name, self.names())
        return self._offers[name].item

    def origin(self, item: object) -> Plugin | None:
        """Return the plugin that offers a thing, or None if none does."""
        offers = self._offers.values()
        return next((offer.plugin for offer in offers if offer.item is item), None)

    def __contains__(self, name: object) -> bool:
        return name in self._offers


class Plugins:
    """All that is loaded, and the objects that names and specs stand for.

    Args:
        load: names of the entry points or distributions to load; None for all of them.
        extra: plugin objects to load besides, by name; for tests and for scripts that
            bring a plugin of their own.

    Attributes:
        manager: the pluggy manager; ``manager.hook`` calls hooks.
        plugins: every plugin that was found, also those that failed.

    Raises:
        NameConflictError: two plugins register one name.
        PluginError: one of ``extra`` is broken.
    """

    def __init__(
        self, load: list[str] | None = None, extra: dict[str, object] | None = None
    ) -> None:
        self.manager = pluggy.PluginManager(hookspecs.PROJECT)
        self.manager.add_hookspecs(hookspecs)
        self.plugins: list[Plugin] = []
        self.distillers = Registry[type[AbstractDistiller[Any]]]("distiller")
        self.networks = Registry[type[AbstractNetwork]]("network")
        self.parametrizations = Registry[type[AbstractParametrization]](
            "parametrization"
        )
        self.datasets = Registry[DatasetLoader]("data set")
        self.commands = Registry[click.Command]("command")
        self._of_hooks: dict[str, Registry[Any]] = {}
        imported = [
            (plugin, self._import(plugin, load_it))
            for plugin, load_it in _found(load, extra or {})
        ]
        # First those that specify hooks: then whoever implements one wrongly is found
        # out when it is registered itself.
        imported.sort(key=lambda pair: not _specifies_hooks(pair[1]))
        for plugin, registered in imported:
            if plugin.error is None:
                self._register(plugin, registered)
        self._check_pending()
        self._check_marks()
        for plugin in self.failures:
            if plugin.distribution is None:  # in the caller's hands, not a stranger's
                raise PluginError(f"plugin {plugin} is broken: {plugin.error}")

    def _import(self, plugin: Plugin, load_it: Callable[[], object]) -> object:
        """Import one plugin under a guard."""
        self.plugins.append(plugin)
        try:
            return _by_identity(load_it())
        except (Exception, SystemExit) as error:  # a stranger's plugin may do anything
            self._withdraw(plugin, error)
            return None

    def _register(self, plugin: Plugin, registered: object) -> None:
        """Register one plugin under a guard, and let it register what it offers."""
        try:
            self.manager.register(registered, name=str(plugin))
            hook_callers = self.manager.get_hookcallers(registered) or []
            plugin.hooks = sorted(caller.name for caller in hook_callers)
            self._collect(registered, plugin)
        except NameConflictError:
            raise
        except (Exception, SystemExit) as error:
            self._withdraw(plugin, error)

    def _withdraw(self, plugin: Plugin, error: BaseException) -> None:
        """Record why a plugin failed, and forget all that it registered."""
        plugin.error = f"{type(error).__name__}: {' '.join(str(error).split())}"
        plugin.offers.clear()
        registries: list[Registry[Any]] = [
            self.distillers,
            self.networks,
            self.parametrizations,
            self.datasets,
            self.commands,
            *self._of_hooks.values(),
        ]
        for registry in registries:
            registry.discard(plugin)
        if self.manager.has_plugin(str(plugin)):
            self.manager.unregister(name=str(plugin))

    def _collect(self, registered: object, plugin: Plugin) -> None:
        """Call this plugin's registration hooks, and no other's."""
        only = partial(self._only, registered)
        only("dd_register_hookspecs")(register=self.manager.add_hookspecs)
        distillers = _record_adder(self.distillers, AbstractDistiller, plugin)
        wrappers = _record_adder(self.distillers, AbstractWrapper, plugin)
        networks = _record_adder(self.networks, AbstractNetwork, plugin)
        only("dd_register_distillers")(register=distillers)
        only("dd_register_wrappers")(register=wrappers)
        only("dd_register_networks")(register=networks)
        only("dd_register_parametrizations")(
            register=_record_adder(
                self.parametrizations, AbstractParametrization, plugin
            )
        )
        only("dd_register_datasets")(
            register=lambda name, loader: self.datasets.add(
                *_checked_dataset(name, loader), plugin
            )
        )
        only("dd_register_commands")(
            register=lambda command: self.commands.add(
                _checked_command_name(command), command, plugin
            )
        )
        missing = only("dd_missing_extra")()
        if missing and not isinstance(missing[0], str):
            raise TypeError(
                f"dd_missing_extra must return text or None: {missing[0]!r}"
            )
        plugin.missing_extra = missing[0] if missing else None

    def _only(self, registered: object, hook: str) -> pluggy.HookCaller:
        """Return what calls one plugin's implementation of a hook, and no other's."""
        others = self.manager.get_plugins()
        return self.manager.subset_hook_caller(
            hook, [other for other in others if other is not registered]
        )

    def each(self, hook: str) -> list[tuple[str, pluggy.HookCaller]]:
        """Return the plugins that implement a hook, each with what calls it alone.

        They stand in the order in which the hook itself calls them.
        """
        found: dict[str, pluggy.HookCaller] = {}
        for implementation in reversed(
            getattr(self.manager.hook, hook).get_hookimpls()
        ):
            name = implementation.plugin_name
            found.setdefault(name, self._only(implementation.plugin, hook))
        return list(found.items())

    def _check_pending(self) -> None:
        """Withdraw plugins that implement hooks which nobody specifies."""
        while True:
            try:
                self.manager.check_pending()
            except pluggy.PluginValidationError as error:
                name = self.manager.get_name(error.plugin)
                misspelt = next(each for each in self.plugins if str(each) == name)
                self._withdraw(misspelt, error)
            else:
                return

    def _check_marks(self) -> None:
        """Withdraw plugins with a function that is named like a hook, but unmarked."""
        hooks = [name for name in vars(self.manager.hook) if name.startswith("dd_")]
        for plugin in self.plugins:
            registered = self.manager.get_plugin(str(plugin))
            for name in hooks:
                function = getattr(registered, name, None)
                marked = any(
                    hasattr(function, f"{hookspecs.PROJECT}_{mark}")
                    for mark in ("impl", "spec")
                )
                if inspect.isroutine(function) and not marked:
                    unmarked = PluginError(
                        f"{name} is not marked, and would never be called; decorate it "
                        "with dd_plugins.hookimpl"
                    )
                    self._withdraw(plugin, unmarked)
                    break

    @property
    def failures(self) -> list[Plugin]:
        """Return the plugins that were found but not loaded."""
        return [plugin for plugin in self.plugins if plugin.error is not None]

    def distiller(self, spec: "str | AbstractDistiller[Any]") -> AbstractDistiller[Any]:
        """Return the distiller that a spec stands for; an object stays itself.

        Raises:
            OptionError: the spec is malformed, or an option is out of its range.
            UnknownNameError: a name in it is not registered.
        """
        return self._object(
            spec, AbstractDistiller, self.distillers, "frepo(pool_size=20)"
        )

    def network(self, spec: str | AbstractNetwork) -> AbstractNetwork:
        """Return the network that a spec stands for; an object stays itself.

        Raises:
            OptionError: the spec is malformed, or an option is out of its range.
            UnknownNameError: a name in it is not registered.
        """
        return self._object(spec, AbstractNetwork, self.networks, "conv(width=32)")

    def parametrization(
        self, spec: str | AbstractParametrization
    ) -> AbstractParametrization:
        """Return the parametrization that a spec stands for; an object stays itself.

        Raises:
            OptionError: the spec is malformed, or an option is out of its range.
            UnknownNameError: a name in it is not registered.
        """
        return self._object(
            spec, AbstractParametrization, self.parametrizations, "packed(factor=2)"
        )

    def _object(
        self,
        spec: str | RecordType,
        base: type[Any],
        registry: Registry[type[RecordType]],
        example: str,
    ) -> RecordType:
        """Return the record of a registry that a spec stands for, or an object itself.

        Args:
            spec: the spec, or a record.
            base: the class that all records of the registry extend.
            registry: where names are looked up.
            example: a spec, for the message.
        """
        if isinstance(spec, base):
            return _checked_object(cast(RecordType, spec))
        if not isinstance(spec, str):
            raise _no_spec(spec, registry.kind, example)
        built: RecordType = self._build(registry, parse(spec))
        return built

    def initial_images(self, spec: str) -> InitialImages | AbstractDistiller[Any]:
        """Return what a set begins as: a word, or the core set that a spec stands for.

        Raises:
            OptionError: it is neither.
        """
        for word in get_args(InitialImages):
            if spec == word:
                return cast(InitialImages, word)
        try:
            chosen = self.distiller(spec)
        except UnknownNameError:
            chosen = None
        if chosen is None or chosen.moves_images:
            raise OptionError(
                f"initial_images must be one of {', '.join(get_args(InitialImages))}, "
                f"or a core set such as herding; got {spec!r}"
            )
        return chosen

    def dataset(self, name: str, options: DataOptions) -> RealData:
        """Load the data set of that name; what follows a colon is its argument.

        It gets the name that was asked for, under which an evaluation finds it again,
        unless its loader has settled the argument: a path, say.

        Raises:
            OptionError: the name is malformed.
            UnknownNameError: no plugin registers it.
            DataError: its data is not there or not usable.
            PluginError: its loader returns something else than data.
        """
        registered, argument = split_name(name)
        loader = self.datasets.get(registered)
        found = loader(
            DataOptions(argument, options.root, options.download, options.image_size)
        )
        if not isinstance(found, RealData):
            raise PluginError(
                f"the loader of data set {registered!r} (plugin "
                f"{self.datasets.origin(loader)}) must return RealData, got "
                f"{type(found).__name__}"
            )
        if found.name == name or found.name.startswith(f"{registered}:"):
            return found
        return replace(found, name=name)

    def versions(self, *used: Record) -> dict[str, str]:
        """Return the version of each distribution that offers some of these.

        Distillers, wrappers and networks, and those within them; what comes with the
        library, or from a plugin object without a distribution, has none of its own.
        """
        found = {}
        for record in used:
            origins = (
                registry.origin(type(record))
                for registry in (self.distillers, self.networks, self.parametrizations)
            )
            origin = next(filter(None, origins), None)
            if origin is not None and origin.distribution and origin.version:
                found[origin.distribution] = origin.version
            for value in record.options().values():
                values = value if isinstance(value, tuple) else (value,)
                within = [each for each in values if isinstance(each, Record)]
                found |= self.versions(*within)
        return found

    def collect_all(self) -> None:
        """Let plugins register what else is registered when it is looked up: for lists.

        By hooks that plugins have specified, of one argument ``register``.
        """
        for name, caller in list(vars(self.manager.hook).items()):
            arguments = getattr(getattr(caller, "spec", None), "argnames", None)
            if hasattr(hookspecs, name) or arguments != ("register",):
                continue
            kind = name.removeprefix("dd_register_").removesuffix("s")
            with suppress(PluginError):  # whoever looks it up is told
                self.records(name, kind, Record)

    def records(
        self, hook: str, kind: str, base: type[RecordType]
    ) -> Registry[type[RecordType]]:
        """Return what plugins register through a hook that a plugin has specified.

        The hook has one argument, ``register``, like those that come with the library.

        Args:
            hook: its name.
            kind: what is registered, for messages: ``"attack"``.
            base: the class that all of them extend.

        Raises:
            PluginError: nobody specifies the hook, or a plugin in the caller's hands is
                broken, or registers a name that another one has. An installed one that
                is broken is withdrawn, with a warning.
        """
        if hook not in self._of_hooks:
            if not hasattr(self.manager.hook, hook):
                raise PluginError(f"no plugin that is loaded specifies {hook}")
            registry = Registry[type[RecordType]](kind)
            for plugin in self.plugins:
                registered = self.manager.get_plugin(str(plugin))
                if registered is None:
                    continue
                try:
                    self._register_by(hook, registered, registry, base, plugin)
                except PluginError:
                    registry.discard(plugin)  # it may be asked for once more
                    raise
            self._of_hooks[hook] = registry
        return self._of_hooks[hook]

    def _register_by(
        self,
        hook: str,
        registered: object,
        registry: Registry[type[RecordType]],
        base: type[RecordType],
        plugin: Plugin,
    ) -> None:
        """Let one plugin register its records by a hook, under a guard."""
        own = self._only(registered, hook)
        try:
            own(register=_record_adder(registry, base, plugin))
        except NameConflictError:
            raise
        except (Exception, SystemExit) as error:
            what = f"{hook}: {' '.join(str(error).split())}"
            if plugin.distribution is None:  # in the caller's hands, or our own
                raise PluginError(f"plugin {plugin} is broken: {what}") from error
            registry.discard(plugin)
            self._withdraw(plugin, error)
            warnings.warn(
                f"plugin {plugin} is withdrawn, with all that it offers: {what}",
                DDWarning,
                stacklevel=4,
            )

    def record(self, registry: Registry[type[RecordType]], spec: str) -> RecordType:
        """Return the record of a registry that a spec stands for.

        Raises:
            OptionError: the spec is malformed, or an option is out of its range.
            UnknownNameError: a name in it is not registered.
        """
        found: RecordType = self._build(registry, parse(spec))
        return found

    def _build(self, registry: Registry[type[Any]], call: Call) -> Any:
        """Build a record; nested specs are built first."""
        cls = registry.get(call.name)
        arguments = tuple(self._value(value) for value in call.arguments)
        for name, value in call.options.items():
            if isinstance(value, Call) and not self._is_known(value):
                raise OptionError(
                    f"{call.name}: {name}={value.name} is neither a value nor a known "
                    f"distiller or network; quote text ({value.name!r}), and write "
                    "True, False or None with a capital"
                )
        options = {name: self._value(value) for name, value in call.options.items()}
        return build(cls, Call(call.name, arguments, options))

    def _is_known(self, call: Call) -> bool:
        return call.name in self.distillers or call.name in self.networks

    def _value(self, value: Any) -> Any:
        """Return a literal as it is, and build a nested spec of whatever kind."""
        if isinstance(value, tuple):
            return tuple(self._value(item) for item in value)
        if not isinstance(value, Call):
            return value
        if value.name in self.networks and value.name not in self.distillers:
            return self._build(self.networks, value)
        return self._build(self.distillers, value)


@cache
def loaded_plugins() -> Plugins:
    """Return the plugins of this process, loaded at the first call.

    Raises:
        PluginError: two plugins register one name.
    """
    variable = os.environ.get(LOAD_VARIABLE)
    if variable is None:
        return Plugins()
    return Plugins(load=[name.strip() for name in variable.split(",") if name.strip()])


def _found(
    load: list[str] | None, extra: dict[str, object]
) -> Iterator[tuple[Plugin, Callable[[], object]]]:
    """Yield every plugin there is, and how it is imported: built-ins first."""
    for name, value in BUILT_IN.items():
        entry_point = EntryPoint(name, value, hookspecs.PROJECT)
        yield Plugin(name, built_in=True), entry_point.load
    for name, given in extra.items():
        yield Plugin(name), partial(_identity, given)
    for distribution, entry_point in _entry_points(load):
        origin = _name_and_version(distribution)
        yield Plugin(entry_point.name, *origin), entry_point.load


def _entry_points(load: list[str] | None) -> list[tuple[Distribution, EntryPoint]]:
    """Return the entry points to load, with the distribution that brings each."""
    found: dict[tuple[str, str], tuple[Distribution, EntryPoint]] = {}
    for distribution in distributions():
        try:
            entry_points = distribution.entry_points
        except Exception:  # a damaged installation is not for us to mend
            continue
        for entry_point in entry_points:
            if entry_point.group == hookspecs.PROJECT:
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
    return [found[key] for key in found if load and set(key) & set(load)]


def _name_and_version(distribution: Distribution) -> tuple[str, str]:
    """Return the name and version of a distribution, whose metadata may be damaged."""
    name: str | None = None
    version: str | None = None
    with suppress(Exception):
        name, version = distribution.metadata["Name"], distribution.version
    return name or "a distribution without a name", version or "unknown"


def _record_adder(
    registry: Registry[Any], base: type[Record], plugin: Plugin
) -> Callable[[type[Record]], None]:
    """Return the callback with which a plugin offers records of one kind."""

    def register(cls: type[Record]) -> None:
        if not (isinstance(cls, type) and issubclass(cls, base)):
            raise TypeError(f"{cls!r} is not a subclass of {base.__name__}")
        name = cls.__dict__.get("name")
        if not (isinstance(name, str) and name.isidentifier()) or iskeyword(name):
            raise TypeError(
                f"{cls.__name__}.name must be an identifier, for specs; got {name!r}"
            )
        registry.check_free(name, plugin)
        if not is_record(cls):
            raise TypeError(f"{cls.__name__} {_NO_RECORD}")
        missing = sorted(getattr(cls, "__abstractmethods__", ()))
        if missing:
            raise TypeError(
                f"{cls.__name__} is abstract; it must define {', '.join(missing)}"
            )
        registry.add(name, cls, plugin)

    return register


def _specifies_hooks(plugin: object) -> bool:
    try:
        return hasattr(plugin, "dd_register_hookspecs")
    except Exception:  # hasattr passes on all but AttributeError
        return False


def _identity(plugin: object) -> object:
    return plugin


class _ByIdentity:
    """The functions of a plugin object, compared as the object it is.

    pluggy keeps plugins in sets and looks them up by ``==``: a dataclass object has no
    hash, and two of the same content would be one. It looks for marked functions
    without asking ``__getattr__``.
    """

    def __init__(self, plugin: object) -> None:
        for name in dir(plugin):
            if not name.startswith("__") and inspect.isroutine(
                inspect.getattr_static(plugin, name)  # no property is computed
            ):
                setattr(self, name, getattr(plugin, name))


def _by_identity(plugin: object) -> object:
    """Return a plugin, in a shell if its class compares objects by their content."""
    kind = type(plugin)
    plain = kind.__eq__ is object.__eq__ and kind.__hash__ is object.__hash__
    return plugin if plain else _ByIdentity(plugin)


def _no_spec(spec: object, kind: str, example: str) -> OptionError:
    """Return the error for what is neither text nor a record of its kind.

    Such as a module of torch.
    """
    got = spec.__name__ if isinstance(spec, type) else type(spec).__name__
    return OptionError(
        f"a {kind} is a spec such as {example!r}, or an object of a subclass of "
        f"Abstract{kind.capitalize()}, got {got}; docs/writing-a-plugin.md shows "
        "how to make one"
    )


def _checked_object(record: RecordType) -> RecordType:
    """Return a record that was given as an object.

    A class that adds methods alone needs no decorator for that.

    Raises:
        OptionError: its class declares options, and was not made by ``record``.
    """
    for cls in type(record).__mro__:
        if is_record(cls):
            break
        if any(
            "ClassVar" not in str(kind)
            for kind in inspect.get_annotations(cls).values()
        ):
            raise OptionError(f"{type(record).__name__} {_NO_RECORD}")
    return record


def _checked_command_name(command: click.Command) -> str:
    if not isinstance(command, click.Command) or not command.name:
        raise TypeError(f"{command!r} is not a click command with a name")
    return command.name


def _checked_dataset(name: str, loader: DatasetLoader) -> tuple[str, DatasetLoader]:
    if not DATASET_NAME.fullmatch(name):
        raise ValueError(
            f"data set name {name!r}: expected lower-case letters, digits, '-' and '_'"
        )
    if not callable(loader):
        raise TypeError(f"the loader of data set {name!r} cannot be called")
    return name, loader
