"""The plugin manager: the plugins' offers, and objects built from specs."""

import math
import os
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any, cast, get_args

import click
import numpy as np
from torch import Tensor

from dd_plugins import hookspecs
from dd_plugins.data.named import (
    ROOT_VARIABLE,
    DataOptions,
    DatasetLoader,
    split_name,
    usual_name,
)
from dd_plugins.data.real import RealData
from dd_plugins.decoders.base import AbstractDecoder
from dd_plugins.distillers.base import AbstractDistiller, InitialImages
from dd_plugins.errors import DDError, OptionError, PluginError, UnknownNameError
from dd_plugins.networks.base import AbstractNetwork
from dd_plugins.networks.factory import FactoryNetwork, NetworkLike, is_factory
from dd_plugins.plugins.asked_for import remember
from dd_plugins.plugins.finding import requested_plugins
from dd_plugins.plugins.lazy_command import offer_command
from dd_plugins.plugins.loading import LoadedPlugins
from dd_plugins.plugins.offers import (
    checked_dataset,
    checked_object,
    not_a_spec,
    not_a_value,
)
from dd_plugins.plugins.registry import (
    Plugin,
    RecordType,
    Registry,
    record_adder,
)
from dd_plugins.runtime.files import folder_lock
from dd_plugins.spec import (
    Call,
    Record,
    build_part,
    parse,
    takes_text,
    unknown_name,
)
from dd_plugins.synthetic.parametrizations.base import AbstractParametrization
from dd_plugins.tracking.base import AbstractObserver
from dd_plugins.wrappers.base import AbstractWrapper

__all__ = ["Plugins", "loaded_plugins"]


class Plugins(LoadedPlugins):
    """All loaded plugins, and the objects built from names and specs.

    Args:
        load: names of the entry points or distributions to load; None for all of them.
        extra: further plugin objects to load, by name; for tests, and for scripts with
            a plugin of their own.

    Attributes:
        manager: the pluggy manager; ``manager.hook`` calls hooks.
        plugins: every plugin found, failed ones included.

    Raises:
        NameConflictError: two plugins register one name.
        PluginError: one of ``extra`` is broken.
    """

    def __init__(
        self, load: list[str] | None = None, extra: dict[str, object] | None = None
    ) -> None:
        self.distillers = Registry[type[AbstractDistiller[Any]]]("distiller")
        self.networks = Registry[type[AbstractNetwork]]("network")
        self.parametrizations = Registry[type[AbstractParametrization]](
            "parametrization"
        )
        self.decoders = Registry[type[AbstractDecoder]]("decoder")
        self.observers = Registry[type[AbstractObserver]]("observer")
        self.datasets = Registry[DatasetLoader]("data set")
        self.commands = Registry[click.Command]("command")
        # Records of these may stand within a spec.
        self._nestable = (self.distillers, self.networks, self.decoders)
        super().__init__(hookspecs.PROJECT, hookspecs, load, extra)

    @property
    def record_registries(self) -> list[Registry[Any]]:
        """The registries of records, built from specs."""
        return [
            self.distillers,
            self.networks,
            self.parametrizations,
            self.decoders,
            self.observers,
        ]

    def _registries(self) -> list[Registry[Any]]:
        """Return the registries of the plugins' offers."""
        return [*self.record_registries, self.datasets, self.commands]

    def _collect(self, registered: object, plugin: Plugin) -> None:
        """Call this plugin's registration hooks, and no other's."""
        only = partial(self._only, registered)
        only("dd_register_hookspecs")(register=self.manager.add_hookspecs)
        bases: list[tuple[str, Registry[Any], type[Record]]] = [
            ("dd_register_distillers", self.distillers, AbstractDistiller),
            ("dd_register_wrappers", self.distillers, AbstractWrapper),
            ("dd_register_networks", self.networks, AbstractNetwork),
            (
                "dd_register_parametrizations",
                self.parametrizations,
                AbstractParametrization,
            ),
            ("dd_register_decoders", self.decoders, AbstractDecoder),
            ("dd_register_observers", self.observers, AbstractObserver),
        ]
        for hook, registry, base in bases:
            only(hook)(register=record_adder(registry, base, plugin))
        only("dd_register_datasets")(
            register=lambda name, loader: self.datasets.add(
                *checked_dataset(name, loader), plugin
            )
        )
        only("dd_register_commands")(
            register=lambda command: offer_command(self.commands, command, plugin)
        )
        missing = only("dd_missing_extra")()
        if missing and not isinstance(missing[0], str):
            raise TypeError(
                f"dd_missing_extra must return text or None, got {missing[0]!r}"
            )
        plugin.missing_extra = missing[0] if missing else None

    def names(self) -> dict[str, list[str]]:
        """Return all names for specs, ``--dataset`` and shell completion, by kind."""
        return {
            registry.kind: registry.names()
            for registry in self._registries()
            if registry is not self.commands
        }

    def distiller(self, spec: "str | AbstractDistiller[Any]") -> AbstractDistiller[Any]:
        """Build the distiller of a spec; return an object as it is.

        Raises:
            OptionError: the spec is malformed, or an option is out of its range.
            UnknownNameError: a name in it is not registered.
        """
        return self._object(
            spec, AbstractDistiller, self.distillers, "frepo(pool_size=20)"
        )

    def network(self, spec: NetworkLike) -> AbstractNetwork:
        """Build the network of a spec; return an object as it is.

        A function that makes torch modules becomes a network.

        Raises:
            OptionError: the spec is malformed, or an option is out of its range, or a
                torch module is given.
            UnknownNameError: a name in it is not registered.
        """
        if is_factory(spec):
            return FactoryNetwork(function=spec)
        other = cast(str | AbstractNetwork, spec)
        return self._object(other, AbstractNetwork, self.networks, "conv(width=32)")

    def network_list(
        self, given: "NetworkLike | Iterable[NetworkLike]"
    ) -> list[AbstractNetwork]:
        """Build the networks of specs; one spec is a list of one.

        Raises:
            OptionError: a spec is malformed, or a value is no spec.
            UnknownNameError: no plugin registers a name.
        """
        single = isinstance(given, str | AbstractNetwork) or is_factory(given)
        if not single and not isinstance(given, Iterable):
            raise OptionError(
                "networks must be specs such as 'mlp(width=64)', networks of "
                "dd-plugins, or functions that make torch modules, got "
                f"{type(given).__name__}"
            )
        specs: list[Any] = [given] if single else list(given)  # type: ignore[arg-type]
        for spec in specs:
            if not (isinstance(spec, str | AbstractNetwork) or is_factory(spec)):
                raise OptionError(
                    "a network must be a spec such as 'mlp(width=64)', a network of "
                    "dd-plugins, or a function that makes torch modules, got "
                    f"{type(spec).__name__}"
                )
        return [self.network(spec) for spec in specs]

    def decoder(self, spec: str | AbstractDecoder) -> AbstractDecoder:
        """Build the decoder of a spec; return an object as it is.

        Raises:
            OptionError: the spec is malformed, or an option is out of its range.
            UnknownNameError: a name in it is not registered.
        """
        return self._object(
            spec, AbstractDecoder, self.decoders, "conv_decoder(width=64)"
        )

    def observer(self, spec: str | AbstractObserver) -> AbstractObserver:
        """Build the observer of a spec; return an object as it is.

        Raises:
            OptionError: the spec is malformed, or an option is out of its range.
            UnknownNameError: a name in it is not registered.
        """
        return self._object(spec, AbstractObserver, self.observers, "tensorboard")

    def parametrization(
        self, spec: str | AbstractParametrization
    ) -> AbstractParametrization:
        """Build the parametrization of a spec; return an object as it is.

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
        """Build the record of a spec from a registry; return an object as it is.

        Args:
            spec: the spec, or a record.
            base: the base class of all records in the registry.
            registry: where names are looked up.
            example: a spec, for the error message.
        """
        if isinstance(spec, base):
            return checked_object(cast(RecordType, spec))
        if not isinstance(spec, str):
            raise not_a_spec(spec, registry.kind, example)
        built: RecordType = self._build(registry, parse(spec))
        return built

    def initial_images(self, spec: str) -> InitialImages | AbstractDistiller[Any]:
        """Return the kind of initial images, or build the coreset of a spec.

        Raises:
            OptionError: the spec is neither.
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
                f"or a core set such as herding, got {spec!r}"
            )
        return chosen

    def dataset(self, name: str, options: DataOptions) -> RealData:
        """Load a named data set; the text after a colon is its argument.

        Capitals, hyphens and underscores may differ: ``"CIFAR10"`` is ``"cifar10"``.
        The data gets the requested name, so an evaluation finds it again. But a name
        with an argument completed by the loader, such as a path, is kept.

        Raises:
            OptionError: the name is malformed.
            UnknownNameError: no plugin registers it.
            DataError: its data is missing or not usable.
            PluginError: its loader does not return RealData of the requested size.
        """
        name = usual_name(name, self.datasets.names())
        registered, argument = split_name(name)
        try:
            loader = self.datasets.get(registered)
        except UnknownNameError as error:
            if not Path(name).exists():
                raise
            form = "npz" if Path(name).suffix == ".npz" else "folder"
            raise UnknownNameError(
                f"{error}; if you mean the {form} of this name: '{form}:{name}'"
            ) from error
        root = options.root
        if root is None and os.environ.get(ROOT_VARIABLE):
            root = Path(os.environ[ROOT_VARIABLE])
        source = f"data set {registered!r} (plugin {self.datasets.origin(loader)})"
        alone: AbstractContextManager[None] = nullcontext()
        if options.download and root is not None:  # the others find what one fetches
            alone = folder_lock(root, patience=math.inf)
        try:
            with alone:
                found = loader(
                    DataOptions(argument, root, options.download, options.image_size)
                )
        except Exception as error:
            if not isinstance(error, DDError):
                error.add_note(f"loading {source}")
            raise
        if not isinstance(found, RealData):
            raise PluginError(
                f"the loader of {source} must return RealData, got "
                f"{type(found).__name__}"
            )
        size, shape = options.image_size, found.image_shape[1:]
        if size and shape != (size, size):
            raise PluginError(
                f"the loader of {source} must return images of image_size={size}, got "
                f"{shape[0]}x{shape[1]}"
            )
        if found.name == name or found.name.startswith(f"{registered}:"):
            return found
        return replace(found, name=name)

    def real_data(self, given: Any, options: DataOptions) -> RealData:
        """Return real data given in any accepted form.

        Args:
            given: the name of a data set; or ``RealData``; or images and labels,
                tensors or numpy arrays; or a map-style dataset, or a list, of
                ``(image, label)`` pairs or of mappings; or such datasets by the names
                of their splits.
            options: how a named data set is found, and the size of its images.

        Raises:
            OptionError: ``given`` is none of these, or the name is malformed.
            UnknownNameError: no plugin registers the name.
            DataError: the data is missing or not usable.
        """
        found, size = None, options.image_size
        match given:
            case str():
                found = self.dataset(given, options)
            case RealData():
                if size and given.image_shape[1:] != (size, size):
                    raise OptionError(
                        f"image_size={size} resizes data as it is read, and RealData "
                        f"has images of {given.image_shape[1:]} pixels already; pass "
                        "image_size where it is made"
                    )
                found = given
            case (
                Tensor() | np.ndarray() as images,
                Tensor() | np.ndarray() | list() as labels,
            ):
                return RealData.from_tensors(images, labels, image_size=size)
            case Mapping():
                return RealData.from_splits(given, image_size=size)
            case tuple():
                pass  # refused below
            case _ if hasattr(given, "__getitem__"):
                return RealData.from_dataset(given, image_size=size)
        if found is None:
            raise OptionError(
                "data must be the name of a data set, RealData, a pair of tensors or "
                "of numpy arrays, a map-style dataset or a list of (image, label) "
                "pairs, or such datasets by the names of their splits, got "
                f"{type(given).__name__}"
            )
        remember(found.name)
        return found

    def versions(self, *used: Record) -> dict[str, str]:
        """Return the version of each distribution offering some of these records.

        Records inside these records count too. The library's own records, and those of
        a plugin object without a distribution, have none.
        """
        found = {}
        for record in used:
            kind = type(record)
            origins = (registry.origin(kind) for registry in self.record_registries)
            origin = next(filter(None, origins), None)
            if origin is not None and origin.distribution and origin.version:
                found[origin.distribution] = origin.version
            for value in record.options().values():
                values = value if isinstance(value, tuple) else (value,)
                within = [each for each in values if isinstance(each, Record)]
                found |= self.versions(*within)
        return found

    def record(self, registry: Registry[type[RecordType]], spec: str) -> RecordType:
        """Build the record of a spec from a registry.

        Raises:
            OptionError: the spec is malformed, or an option is out of its range.
            UnknownNameError: a name in it is not registered.
        """
        found: RecordType = self._build(registry, parse(spec))
        return found

    def _build(self, registry: Registry[type[Any]], call: Call) -> Any:
        """Build a record, and the records of nested specs before it."""
        cls = registry.get(call.name)
        by_place = zip(cls.positional, call.arguments, strict=False)
        for name, value in (*by_place, *call.options.items()):
            if isinstance(value, Call) and takes_text(cls, name):
                raise not_a_value(call, name, value)
        first = next(iter(call.arguments), None)
        has_base = cls.positional[:1] == ("base",)
        if has_base and isinstance(first, Call) and not self._registry_of(first.name):
            self.distillers.get(first.name)  # raises the error
        arguments = tuple(self._value(value) for value in call.arguments)
        options = {}
        for name, value in call.options.items():
            if isinstance(value, Call) and name in cls.parts:
                options[name] = build_part(cls, name, value)
                continue
            if isinstance(value, Call) and not self._registry_of(value.name):
                raise not_a_value(call, name, value)
            options[name] = self._value(value)
        return cls(*arguments, **options)

    def _registry_of(self, name: str) -> Registry[Any] | None:
        """Return the registry of a record within a spec, if there is one."""
        return next((each for each in self._nestable if name in each), None)

    def _value(self, value: Any) -> Any:
        """Return a literal as it is, or the record of a nested spec."""
        if isinstance(value, tuple):
            return tuple(self._value(item) for item in value)
        if not isinstance(value, Call):
            return value
        if registry := self._registry_of(value.name):
            return self._build(registry, value)
        known = [name for registry in self._nestable for name in registry.names()]
        raise unknown_name("name", value.name, known)


@cache
def loaded_plugins() -> Plugins:
    """Return the plugins of this process, loaded at the first call.

    Raises:
        PluginError: two plugins register one name.
    """
    return Plugins(load=requested_plugins())
