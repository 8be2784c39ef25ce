"""Memories of distilled images; nothing here needs Avalanche."""

from dd_avalanche.memory.memory import DistilledMemory
from dd_avalanche.memory.options import (
    DISTILLER,
    INITIAL_IMAGES,
    NETWORK,
    STEPS,
    Context,
    Shrink,
)
from dd_avalanche.memory.randomness import untouched_randomness
from dd_avalanche.memory.saved import MEMORY_NAME
from dd_avalanche.memory.stored import (
    ClassImages,
    ImageGroups,
    Store,
    TaskClass,
    spread_labels,
)

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
