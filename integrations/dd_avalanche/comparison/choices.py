"""Choices for the options of a comparison: light to import."""

from typing import Literal, get_args

__all__ = ["BENCHMARKS", "MemoryUse", "Scenario", "Whitening"]

Scenario = Literal["split", "task-split", "permuted", "rotated"]
"""The change from experience to experience: new classes (``split``, ``task-split``), or
all classes with other pixels (``permuted``, ``rotated``). With ``task-split`` a test
knows the experience, and chooses among its classes alone.
"""

_DATASETS = ("digits", "mnist", "fashion-mnist", "cifar10", "cifar100")

BENCHMARKS: dict[str, tuple[Scenario, str]] = {
    f"{scenario}-{dataset}": (scenario, dataset)
    for scenario in get_args(Scenario)
    for dataset in _DATASETS
}
"""The benchmarks: the change from experience to experience, and the data set."""

MemoryUse = Literal["replay", "scratch"]
"""How a network is trained on the memory: mixed with current data, or on it alone."""

Whitening = Literal["none", "first"]
"""The space of the model: standardised, or ZCA-whitened by the first experience."""
