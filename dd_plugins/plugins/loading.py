"""Loading plugins: a broken one is withdrawn with all its offers."""

import inspect
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import ModuleType
from typing import Any

import pluggy

from dd_plugins.errors import DDWarning, PluginError, described, one_line
from dd_plugins.plugins.finding import (
    BUILT_IN,
    by_identity,
    found_plugins,
    specifies_hooks,
)
from dd_plugins.plugins.registry import (
    NameConflictError,
    Plugin,
    RecordType,
    Registry,
    record_adder,
)
from dd_plugins.spec import Record, unknown_name

__all__ = ["LoadedPlugins"]


class LoadedPlugins(ABC):
    """The plugins found, registered with pluggy, and their hooks.

    A subclass defines in :meth:`_collect` how a plugin registers its offers.

    Args:
        project: the name of the pluggy project and of the entry-point group.
        specifications: the module of the hook specifications.
        load: names of the entry points or distributions to load; None for all of them.
        extra: further plugin objects to load, by name.
        built_in: the plugins of the library to load, in the form of entry points.

    Attributes:
        manager: the pluggy manager; ``manager.hook`` calls hooks.
        plugins: every plugin found, failed ones included.

    Raises:
        NameConflictError: two plugins register one name.
        PluginError: one of ``extra`` is broken.
    """

    def __init__(
        self,
        project: str,
        specifications: ModuleType,
        load: list[str] | None = None,
        extra: dict[str, object] | None = None,
        built_in: Mapping[str, str] = BUILT_IN,
    ) -> None:
        self.manager = pluggy.PluginManager(project)
        self.manager.add_hookspecs(specifications)
        self.plugins: list[Plugin] = []
        self._specifications = specifications
        self._of_hooks: dict[str, Registry[Any]] = {}
        imported = [
            (plugin, self._import(plugin, load_it))
            for plugin, load_it in found_plugins(project, load, extra or {}, built_in)
        ]
        # Plugins specifying hooks come first: then a plugin implementing one wrongly
        # fails at its own registration, and is blamed alone.
        imported.sort(key=lambda pair: not specifies_hooks(pair[1]))
        for plugin, registered in imported:
            if plugin.error is None:
                self._register(plugin, registered)
        self._check_pending()
        self._check_marks()
        for plugin in self.failures:
            if plugin.distribution is None:  # given by the caller, or built in
                raise PluginError(f"plugin {plugin} is broken: {plugin.error}")

    @abstractmethod
    def _registries(self) -> list[Registry[Any]]:
        """Return the registries of the plugins' offers."""

    @abstractmethod
    def _collect(self, registered: object, plugin: Plugin) -> None:
        """Call this plugin's registration hooks, and no other's."""

    def _import(self, plugin: Plugin, load_it: Callable[[], object]) -> object:
        """Import one plugin; if it fails, withdraw it and return None."""
        self.plugins.append(plugin)
        try:
            return by_identity(load_it())
        except (Exception, SystemExit) as error:  # a plugin may raise anything
            self._withdraw(plugin, error)
            return None

    def _register(self, plugin: Plugin, registered: object) -> None:
        """Register one plugin and collect its offers; if it fails, withdraw it."""
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
        """Record why a plugin failed, and forget all its registrations."""
        plugin.error = described(error)
        plugin.offers.clear()
        for registry in [*self._registries(), *self._of_hooks.values()]:
            registry.discard(plugin)
        if self.manager.has_plugin(str(plugin)):
            self.manager.unregister(name=str(plugin))

    def _only(self, registered: object, hook: str) -> pluggy.HookCaller:
        """Return a hook caller for the implementation of one plugin alone."""
        others = self.manager.get_plugins()
        return self.manager.subset_hook_caller(
            hook, [other for other in others if other is not registered]
        )

    def each(self, hook: str) -> list[tuple[str, pluggy.HookCaller]]:
        """Return the plugins implementing a hook, each with a caller of it alone.

        They are in the calling order of the hook itself.
        """
        found: dict[str, pluggy.HookCaller] = {}
        for implementation in reversed(
            getattr(self.manager.hook, hook).get_hookimpls()
        ):
            name = implementation.plugin_name
            found.setdefault(name, self._only(implementation.plugin, hook))
        return list(found.items())

    def _check_pending(self) -> None:
        """Withdraw plugins with implementations of unspecified hooks."""
        while True:
            try:
                self.manager.check_pending()
            except pluggy.PluginValidationError as error:
                name = self.manager.get_name(error.plugin)
                misspelt = next(each for each in self.plugins if str(each) == name)
                self._withdraw(misspelt, self._unknown_hook(error))
            else:
                return

    def _unknown_hook(self, error: pluggy.PluginValidationError) -> Exception:
        """Return the error for an implementation of an unspecified hook."""
        own = self.manager.get_hookcallers(error.plugin) or []
        unknown = [caller.name for caller in own if not caller.has_spec()]
        known = [
            name
            for name, caller in vars(self.manager.hook).items()
            if not name.startswith("_") and caller.has_spec()
        ]
        return unknown_name("hook", unknown[0], known) if unknown else error

    def _check_marks(self) -> None:
        """Withdraw plugins with an unmarked function named like a hook."""
        hooks = [name for name in vars(self.manager.hook) if name.startswith("dd_")]
        for plugin in self.plugins:
            registered = self.manager.get_plugin(str(plugin))
            for name in hooks:
                function = getattr(registered, name, None)
                marked = any(
                    hasattr(function, f"{self.manager.project_name}_{mark}")
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
        """Return the plugins found but not loaded."""
        return [plugin for plugin in self.plugins if plugin.error is not None]

    def collect_all(self) -> list[Registry[Any]]:
        """Collect and return the records of hooks specified by plugins.

        These hooks take the single argument ``register``. A look-up collects only the
        records it needs; a list of everything needs them all.
        """
        for name, caller in list(vars(self.manager.hook).items()):
            arguments = getattr(getattr(caller, "spec", None), "argnames", None)
            if hasattr(self._specifications, name) or arguments != ("register",):
                continue
            kind = name.removeprefix("dd_register_").removesuffix("s")
            with suppress(PluginError):  # a look-up reports it
                self.records(name, kind, Record)
        return list(self._of_hooks.values())

    def records(
        self, hook: str, kind: str, base: type[RecordType]
    ) -> Registry[type[RecordType]]:
        """Return the records registered through a hook specified by a plugin.

        The hook takes one argument, ``register``, like the library's own.

        Args:
            hook: the name of the hook.
            kind: the kind of record, for messages: ``"attack"``.
            base: the base class of all records.

        Raises:
            PluginError: no plugin specifies the hook, or two plugins register one name,
                or a built-in plugin or one given by the caller is broken. A broken
                installed plugin is withdrawn, with a warning.
        """
        if hook not in self._of_hooks:
            if not hasattr(self.manager.hook, hook):
                raise PluginError(
                    f"no plugin that is loaded specifies {hook}; one must do so by "
                    "dd_register_hookspecs"
                )
            registry = Registry[type[RecordType]](kind)
            for plugin in self.plugins:
                registered = self.manager.get_plugin(str(plugin))
                if registered is None:
                    continue
                try:
                    self._register_by(hook, registered, registry, base, plugin)
                except PluginError:
                    registry.clear()  # it may be requested again
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
        """Let one plugin register its records by a hook; if it fails, withdraw it."""
        own = self._only(registered, hook)
        try:
            own(register=record_adder(registry, base, plugin))
        except NameConflictError:
            raise
        except (Exception, SystemExit) as error:
            what = f"{hook}: {one_line(error)}"
            if plugin.distribution is None:  # given by the caller, or built in
                raise PluginError(f"plugin {plugin} is broken: {what}") from error
            registry.discard(plugin)
            self._withdraw(plugin, error)
            warnings.warn(
                f"plugin {plugin} is withdrawn, with all that it offers: {what}",
                DDWarning,
                stacklevel=4,
            )
