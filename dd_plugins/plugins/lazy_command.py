"""Commands imported only when they run."""

from importlib import import_module

import click

from dd_plugins.plugins.registry import Plugin, Registry

__all__ = ["PLUGINS_SECTION", "LazyCommand", "offer_command"]

PLUGINS_SECTION = "Commands of plugins"
"""Where a command is listed that names no section."""


class LazyCommand(click.Command):
    """A command whose module is imported when it runs, not when it is listed.

    ``dd-plugins --help`` shows its name and ``short_help``, and imports nothing heavy.

    Args:
        name: the name of the command on the command line.
        target: the place of the click command, written as in an entry point:
            ``"package.module:audit_command"``.
        short_help: a short sentence for the list of commands.
        section: the heading above the command in this list.
    """

    def __init__(
        self,
        name: str,
        target: str,
        short_help: str,
        section: str = PLUGINS_SECTION,
    ) -> None:
        super().__init__(name, short_help=short_help)
        self.target = target
        self.section = section

    def resolve(self) -> click.Command:
        """Import and return the command itself."""
        module, _, attribute = self.target.partition(":")
        found = getattr(import_module(module), attribute)
        if not isinstance(found, click.Command):
            raise TypeError(f"{self.target}: expected a click command, got {found!r}")
        return found


def offer_command(
    registry: Registry[click.Command], command: click.Command, plugin: Plugin
) -> None:
    """Add the command of a plugin, after checking its type and name."""
    if not isinstance(command, click.Command) or not command.name:
        raise TypeError(f"expected a click command with a name, got {command!r}")
    registry.add(command.name, command, plugin)
