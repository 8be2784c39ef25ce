"""Distilled sets for continual learning with avalanche-lib.

Importing this package does not need Avalanche. The classes for Avalanche's strategies
are imported on first use; without Avalanche they raise an error.
"""

from typing import TYPE_CHECKING, Any

from dd_plugins.api import lazy_names

if TYPE_CHECKING:
    from dd_avalanche.memory import DistilledMemory
    from dd_avalanche.replay.buffer import DistilledBuffer
    from dd_avalanche.replay.conversion import to_avalanche
    from dd_avalanche.replay.plugins import DistilledGDumb, DistilledReplayPlugin
    from dd_avalanche.replay.stream import restore_stream, save_stream
    from dd_avalanche.replay.targets import LabelLoss, SoftTargets
else:
    _look_up = lazy_names(__name__)

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

_WITHOUT_AVALANCHE = ("DistilledMemory", "to_avalanche")


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """Import a name on first use, after checking for Avalanche if it needs it."""
        if name in __all__ and name not in _WITHOUT_AVALANCHE:
            from dd_avalanche.replay.conversion import require_avalanche

            require_avalanche()
        return _look_up(name)
