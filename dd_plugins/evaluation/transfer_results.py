"""The results of a test on other architectures."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from dd_plugins.evaluation.results import NetworkResult

__all__ = ["Difference", "Role", "SetTransfer", "Transfer", "mean_of"]

Role = Literal["distilled with", "seen", "held out"]


@dataclass(frozen=True)
class SetTransfer:
    """The results of one distilled set.

    Attributes:
        path: the artifact, or the number of the set.
        distiller: the spec of its distiller.
        base: the name of the distiller inside all wrappers.
        roles: what each architecture was to the set, in the order of the results.
        results: the accuracies on each architecture.
        images: the number of its synthetic images.
        data: the fingerprint of the data set that it was distilled from; the name of
            that of a private set.
    """

    path: str
    distiller: str
    base: str
    roles: tuple[Role, ...]
    results: tuple[NetworkResult, ...]
    images: int = 0
    data: str = ""

    def held_out(self) -> NetworkResult | None:
        """Return the mean over the held-out architectures, network by network."""
        return mean_of(
            [
                result
                for result, role in zip(self.results, self.roles, strict=True)
                if role == "held out"
            ]
        )


@dataclass(frozen=True)
class Difference:
    """A paired difference of two sets: the second minus the first.

    Networks are paired by their seed: both were trained from the same initial weights.

    Attributes:
        spec: the architecture, or ``"held out"`` for the mean over all of these.
        mean: mean difference in accuracy.
        ci95: its 95 % interval (Student's t over the pairs); None for one pair.
    """

    spec: str
    mean: float
    ci95: tuple[float, float] | None


@dataclass(frozen=True)
class Transfer:
    """The report: the results of each set, and the differences of two sets.

    Attributes:
        sets: one for each artifact.
        differences: by architecture, and over all that both sets hold out; empty
            unless there are two sets of the same base, distilled from the same data.
        not_compared: why two sets are not compared; empty if they are.
    """

    sets: tuple[SetTransfer, ...]
    differences: tuple[Difference, ...]
    not_compared: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return the form that ``--json`` writes."""
        return {
            "sets": [
                {
                    "path": found.path,
                    "distiller": found.distiller,
                    "base": found.base,
                    "images": found.images,
                    "networks": [
                        result.as_dict() | {"role": role}
                        for result, role in zip(found.results, found.roles, strict=True)
                    ],
                    "held_out": (
                        None
                        if (mean := found.held_out()) is None
                        else mean.as_dict() | {"spec": "held out"}
                    ),
                }
                for found in self.sets
            ],
            "differences": [
                {
                    "spec": difference.spec,
                    "mean": difference.mean,
                    "ci95": (
                        None if difference.ci95 is None else list(difference.ci95)
                    ),
                }
                for difference in self.differences
            ],
            "not_compared": self.not_compared,
        }


def mean_of(results: Sequence[NetworkResult]) -> NetworkResult | None:
    """Return the mean over architectures, network by network; None without any."""
    if not results:
        return None
    means = np.mean([result.accuracies for result in results], axis=0)
    return NetworkResult("held out", tuple(float(mean) for mean in means))
