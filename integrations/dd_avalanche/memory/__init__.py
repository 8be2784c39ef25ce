"""Memories of distilled images; nothing here needs Avalanche."""

from typing import TYPE_CHECKING

from dd_plugins.api import lazy_names

if TYPE_CHECKING:
    from dd_avalanche.memory.choices import (
        DISTILLER,
        INITIAL_IMAGES,
        NETWORK,
        STEPS,
        Context,
        Shrink,
        Store,
    )
    from dd_avalanche.memory.memory import DistilledMemory
    from dd_avalanche.memory.randomness import untouched_randomness
    from dd_avalanche.memory.saved import MEMORY_NAME
    from dd_avalanche.memory.stored import (
        ClassImages,
        ImageGroups,
        TaskClass,
        spread_labels,
    )
else:
    __getattr__ = lazy_names(__name__)

__all__ = [
    "DISTILLER",
    "INITIAL_IMAGES",
    "MEMORY_NAME",
    "NETWORK",
    "STEPS",
    "ClassImages",
    "Context",
    "DistilledMemory",
    "ImageGroups",
    "Shrink",
    "Store",
    "TaskClass",
    "spread_labels",
    "untouched_randomness",
]
