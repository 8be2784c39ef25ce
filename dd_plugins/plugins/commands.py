"""The commands of plugins, listed without importing their modules."""

from functools import cache

import click

from dd_plugins import hookspecs
from dd_plugins.plugins.finding import COMMANDS, requested_plugins
from dd_plugins.plugins.lazy_command import offer_command
from dd_plugins.plugins.loading import LoadedPlugins
from dd_plugins.plugins.registry import Plugin, Registry

__all__ = ["Commands", "installed_commands"]


class Commands(LoadedPlugins):
    """The commands of all plugins, without their other offers.

    Args:
        load: names of the entry points or distributions to load; None for all of them.
        extra: further plugin objects to load, by name.

    Attributes:
        commands: the commands by name.

    Raises:
        NameConflictError: two plugins register one command.
        PluginError: one of ``extra`` is broken.
    """

    def __init__(
        self, load: list[str] | None = None, extra: dict[str, object] | None = None
    ) -> None:
        self.commands = Registry[click.Command]("command")
        super().__init__(hookspecs.PROJECT, hookspecs, load, extra, built_in=COMMANDS)

    def _registries(self) -> list[Registry[click.Command]]:
        return [self.commands]

    def _collect(self, registered: object, plugin: Plugin) -> None:
        self._only(registered, "dd_register_hookspecs")(
            register=self.manager.add_hookspecs
        )
        self._only(registered, "dd_register_commands")(
            register=lambda command: offer_command(self.commands, command, plugin)
        )


@cache
def installed_commands() -> Commands:
    """Return the commands of this installation, collected at the first call.

    Raises:
        PluginError: two plugins register one command.
    """
    return Commands(requested_plugins())
