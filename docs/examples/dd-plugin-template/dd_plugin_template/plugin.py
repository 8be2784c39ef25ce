"""The hooks that dd-plugins calls: this module is the entry point."""

from dd_plugin_template.command import labels
from dd_plugin_template.distiller import PixelMeans
from dd_plugin_template.network import Linear
from dd_plugins.api import hookimpl


@hookimpl
def dd_register_distillers(register):
    register(PixelMeans)


@hookimpl
def dd_register_networks(register):
    register(Linear)


@hookimpl
def dd_register_commands(register):
    register(labels)
