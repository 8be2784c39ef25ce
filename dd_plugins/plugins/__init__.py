"""The plugin manager, and look-up by name."""

from dd_plugins.plugins.manager import Plugins, loaded_plugins
from dd_plugins.plugins.registry import Plugin, Registry

__all__ = ["Plugin", "Plugins", "Registry", "loaded_plugins"]
