"""Modules moved since 0.1: found by their old paths as well, until 0.3.

Two are not found: the names of ``arguments`` are methods now, and
``dd_plugins.evaluate`` is the function. Names moved out of a remaining module are in
``dd_plugins.api``.
"""

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

__all__ = ["MOVED", "RENAMED", "install"]

MOVED = {
    "artifact": ("synthetic.artifact", "synthetic.header"),
    "captured": ("runtime.cuda_graphs",),
    "checkpoint": ("engine.checkpoint",),
    "commands": ("cli.commands",),
    "datasets": (
        "data.datasets.offered",
        "data.datasets.digits",
        "data.datasets.folder",
        "data.named",
    ),
    "files": ("runtime.files",),
    "functional.cam": ("networks.activation_maps",),
    "image_folders": ("data.image_folders",),
    "kept": ("runtime.kept_tensors",),
    "lookup": ("plugins.lookup",),
    "meta_features": ("evaluation.attention",),
    "metric": ("wrappers.metric_learning", "evaluation.retrieval"),
    "observers": ("engine.observers",),
    "optimizers": ("training.lamb",),
    "outputs": ("cli.outputs",),
    "parallel": ("runtime.processes",),
    "pictures": ("synthetic.pictures", "evaluation.attention_picture"),
    "pixels": ("data.pixels",),
    "preprocess": ("data.preprocess",),
    "randomness": ("runtime.randomness",),
    "returned": ("distillers.returned",),
    "run_folder": ("engine.run_folder",),
    "signals": ("runtime.signals",),
    "sources": ("training.sources",),
    "streamed": ("data.streamed", "data.items", "runtime.memory"),
    "text": ("runtime.text",),
    "trained": ("training.kept_networks", "runtime.cache"),
    "transfer": ("evaluation.cross_architecture",),
    "wrappers.turned": ("wrappers.rotated",),
}
"""Old path: the modules in which its names are now."""

RENAMED = {
    "Captured": "GraphedFunction",
    "Kept": "TrainingReport",
    "Protocol": "ProtocolName",
    "Turned": "Rotated",
    "alone_in": "folder_lock",
    "derive": "generator_for",
    "isolated": "seeded_globally",
    "turned_labels": "rotated_labels",
}
"""Old name in a moved module: its new name."""

_PACKAGE = "dd_plugins."


class _OldPaths(MetaPathFinder, Loader):
    """Finds a module by its old path: its names are those of the new modules."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        del path, target
        known = fullname.startswith(_PACKAGE) and fullname[len(_PACKAGE) :] in MOVED
        return ModuleSpec(fullname, self) if known else None

    def exec_module(self, module: ModuleType) -> None:
        homes = MOVED[module.__name__[len(_PACKAGE) :]]
        told = " and ".join(_PACKAGE + home for home in homes)
        warnings.warn(
            f"{module.__name__} has moved to {told}; names that plugins need are in "
            "dd_plugins.api",
            DeprecationWarning,
            stacklevel=2,
        )
        found = [import_module(_PACKAGE + home) for home in homes]

        def look_up(name: str) -> object:
            if name == "__all__":
                return [each for home in found for each in home.__all__]
            now = RENAMED.get(name, name)
            for home in found:
                if hasattr(home, now):
                    return getattr(home, now)
            raise AttributeError(f"module {module.__name__!r} has no {name!r}")

        module.__getattr__ = look_up  # type: ignore[method-assign]


def install() -> None:
    """Let the old paths be imported in this process."""
    if not any(isinstance(finder, _OldPaths) for finder in sys.meta_path):
        sys.meta_path.append(_OldPaths())
