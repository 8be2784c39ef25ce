"""The command line."""

from dd_plugins.cli.entry import command_line, main

__all__ = ["command_line", "main"]
