"""The command for listing plugins."""

import json

import click

from dd_plugins.cli.printing import say
from dd_plugins.plugins.registry import Plugin

__all__ = ["plugins_command"]


@click.command("plugins")
@click.option("--all", "with_built_in", is_flag=True, help="The built-ins as well.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def plugins_command(with_built_in: bool, as_json: bool) -> None:
    """List plugins with their distributions, hooks, offers and loading errors."""
    from dd_plugins.plugins.manager import loaded_plugins

    loaded_plugins().collect_all()
    found = [
        plugin
        for plugin in loaded_plugins().plugins
        if with_built_in or not plugin.built_in
    ]
    if as_json:
        click.echo(json.dumps([vars(plugin) for plugin in found], indent=1))
        return
    for plugin in found:
        version = f" {plugin.version}" if plugin.version else ""
        say(f"{plugin}{version}: {_state(plugin)}")
        for kind, names in plugin.offers.items():
            say(f"    {kind}: {', '.join(names)}")
        if plugin.hooks:
            say(f"    hooks: {', '.join(plugin.hooks)}")


def _state(plugin: Plugin) -> str:
    if plugin.error is not None:
        return f"failed: {plugin.error}"
    if plugin.missing_extra is not None:
        return f"needs {plugin.missing_extra}"
    return "loaded"
