"""Every hook of dd-plugins, and the markers for specifications and plugins.

A plugin is a module or an object. Its functions marked with :data:`hookimpl` implement
the hooks of the same names below. A function may take fewer arguments than the hook
passes. Hooks are stable: arguments may be added, but never removed or renamed.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import pluggy

if TYPE_CHECKING:
    import click

    from dd_plugins.data.named import DatasetLoader
    from dd_plugins.decoders.base import AbstractDecoder
    from dd_plugins.distillers.base import AbstractDistiller
    from dd_plugins.networks.base import AbstractNetwork
    from dd_plugins.run import Run
    from dd_plugins.spec import Record
    from dd_plugins.synthetic.artifact import DistilledSet
    from dd_plugins.synthetic.parametrizations.base import AbstractParametrization
    from dd_plugins.wrappers.base import AbstractWrapper

__all__ = ["PROJECT", "hookimpl", "hookspec"]

PROJECT = "dd_plugins"
"""The name of the pluggy project and of the entry-point group."""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


class RegisterDistiller(Protocol):
    """Offers a distiller class under its ``name``."""

    def __call__(self, distiller: "type[AbstractDistiller[Any]]") -> None: ...


class RegisterWrapper(Protocol):
    """Offers a wrapper class under its ``name``."""

    def __call__(self, wrapper: "type[AbstractWrapper]") -> None: ...


class RegisterNetwork(Protocol):
    """Offers a network class under its ``name``."""

    def __call__(self, network: "type[AbstractNetwork]") -> None: ...


class RegisterParametrization(Protocol):
    """Offers a parametrization class under its ``name``."""

    def __call__(self, parametrization: "type[AbstractParametrization]") -> None: ...


class RegisterDecoder(Protocol):
    """Offers a decoder class under its ``name``."""

    def __call__(self, decoder: "type[AbstractDecoder]") -> None: ...


class RegisterDataset(Protocol):
    """Offers a data set: its name, and its loader."""

    def __call__(self, name: str, loader: "DatasetLoader") -> None: ...


class RegisterObserver(Protocol):
    """Offers a subclass of ``AbstractObserver`` under its name."""

    def __call__(self, observer: "type[Record]") -> None: ...


class RegisterCommand(Protocol):
    """Offers a click command under its name."""

    def __call__(self, command: "click.Command") -> None: ...


class RegisterHookspecs(Protocol):
    """Offers a module or class whose functions are marked with ``hookspec``."""

    def __call__(self, namespace: object) -> None: ...


@hookspec
def dd_register_distillers(register: RegisterDistiller) -> None:
    """Offer distillers.

    Called once for each plugin, when plugins are loaded.

    Args:
        register: call it with a subclass of ``AbstractDistiller``, a record class. If
            another plugin offers the name already, an error names both plugins.
    """


@hookspec
def dd_register_wrappers(register: RegisterWrapper) -> None:
    """Offer wrappers: distillers around another distiller.

    Called once for each plugin, when plugins are loaded. Wrappers and distillers share
    one namespace.

    Args:
        register: call it with a subclass of ``AbstractWrapper``, a record class.
    """


@hookspec
def dd_register_networks(register: RegisterNetwork) -> None:
    """Offer network architectures.

    Called once for each plugin, when plugins are loaded.

    Args:
        register: call it with a subclass of ``AbstractNetwork``, a record class.
    """


@hookspec
def dd_register_parametrizations(register: RegisterParametrization) -> None:
    """Offer parametrizations of images, learned and stored in place of pixels.

    Called once for each plugin, when plugins are loaded.

    Args:
        register: call it with a subclass of ``AbstractParametrization``, a record
            class.
    """


@hookspec
def dd_register_decoders(register: RegisterDecoder) -> None:
    """Offer decoder architectures; ``generator`` learns sets in their latent spaces.

    Called once for each plugin, when plugins are loaded.

    Args:
        register: call it with a subclass of ``AbstractDecoder``, a record class.
    """


@hookspec
def dd_register_datasets(register: RegisterDataset) -> None:
    """Offer named data sets.

    Called once for each plugin, when plugins are loaded. The loader is called when the
    data set is requested.

    Args:
        register: call it with a name in lower case and a function from ``DataOptions``
            to ``RealData``.
    """


@hookspec
def dd_register_observers(register: RegisterObserver) -> None:
    """Offer observers, used by runs on request.

    Called once for each plugin, when plugins are loaded. An observer of every run
    implements ``dd_before_run``, ``dd_after_step`` and ``dd_after_run`` instead.

    Args:
        register: call it with a record class that extends ``AbstractObserver``.
    """


@hookspec
def dd_register_commands(register: RegisterCommand) -> None:
    """Offer commands for ``dd-plugins``.

    Called once for each plugin, when plugins are loaded. Import heavy libraries inside
    the command.

    Args:
        register: call it with a named ``click.Command`` (or group).
    """


@hookspec
def dd_register_hookspecs(register: RegisterHookspecs) -> None:
    """Add the plugin's own hook specifications, for other plugins to implement.

    Called once for each plugin, before implementations are checked, so a plugin may
    implement a hook specified by a later plugin.

    Args:
        register: call it with a module or class whose functions are marked with
            ``hookspec``.
    """


@hookspec
def dd_missing_extra() -> str | None:
    """Name the optional dependency this plugin lacks.

    Called once for each plugin, when plugins are loaded. The list of plugins shows the
    result.

    Returns:
        The extra to install, such as ``"dd-plugins[privacy]"``; None if nothing is
        missing.
    """


@hookspec
def dd_before_run(run: "Run", first_step: int) -> None:
    """Observe the start of a run, before its first step.

    Args:
        run: the run; the same object is passed to the other observer hooks.
        first_step: 0, or the next step of a resumed run.
    """


@hookspec
def dd_after_step(
    run: "Run", step: int, metrics: Mapping[str, float], distilled: "LazySet"
) -> None:
    """Observe the end of a step.

    Observers must not change the run, or draw from a global random generator.

    Args:
        run: the run.
        step: the number of finished steps, from 1.
        metrics: the distiller's figures, with ``loss``; ``validation_accuracy`` in
            [0, 1] at the steps of its measurements; and ``seconds``, the duration of
            all steps so far, including those before an interruption.
        distilled: call it to get the set at this step; only a call builds the set.
    """


@hookspec
def dd_after_run(run: "Run", distilled: "DistilledSet | None") -> None:
    """Observe the end of a run, even if it failed or was interrupted.

    Args:
        run: the run.
        distilled: the result; None if the run did not reach its end.
    """


class LazySet(Protocol):
    """Builds the set as it is at this step."""

    def __call__(self) -> "DistilledSet": ...
