"""The plugin manager, and look-up by name."""

from typing import TYPE_CHECKING

from dd_plugins.runtime.lazy import lazy_names

if TYPE_CHECKING:
    from dd_plugins.plugins.manager import Plugins, loaded_plugins
    from dd_plugins.plugins.registry import Plugin, Registry
else:
    __getattr__ = lazy_names(__name__)

__all__ = ["Plugin", "Plugins", "Registry", "loaded_plugins"]
