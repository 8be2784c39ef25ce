"""Distilled sets in continual learning with avalanche-lib.

Importing this package needs no Avalanche. The classes for its strategies are imported
at their first use, which raises an error if Avalanche is not installed.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from dd_avalanche.memory import DistilledMemory
from dd_avalanche.replay.conversion import require_avalanche, to_avalanche

if TYPE_CHECKING:
    from dd_avalanche.replay.buffer import DistilledBuffer
    from dd_avalanche.replay.plugins import DistilledGDumb, DistilledReplayPlugin
    from dd_avalanche.replay.stream import restore_stream, save_stream
    from dd_avalanche.replay.targets import LabelLoss, SoftTargets

__all__ = [
    "DistilledBuffer",
    "DistilledGDumb",
    "DistilledMemory",
    "DistilledReplayPlugin",
    "LabelLoss",
    "SoftTargets",
    "restore_stream",
    "save_stream",
    "to_avalanche",
]

_MODULES = {
    "DistilledBuffer": "buffer",
    "DistilledGDumb": "plugins",
    "DistilledReplayPlugin": "plugins",
    "LabelLoss": "targets",
    "SoftTargets": "targets",
    "restore_stream": "stream",
    "save_stream": "stream",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    require_avalanche()
    return getattr(import_module(f"dd_avalanche.replay.{_MODULES[name]}"), name)
