"""The results of training several architectures on distilled sets."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from dd_plugins.evaluation.results import NetworkResult
from dd_plugins.functional.statistics import mean_interval

__all__ = ["Difference", "Role", "SetTransfer", "Transfer", "difference_of", "mean_of"]

Role = Literal["distilled with", "seen", "held out"]


@dataclass(frozen=True)
class SetTransfer:
    """The results of one distilled set.

    Attributes:
        path: the path of the artifact, or the number of the set.
        distiller: the spec of its distiller.
        base: the name of the distiller inside all wrappers.
        roles: the role of each architecture for the set, in the order of the results.
        results: the accuracies on each architecture.
        images: the number of its synthetic images.
        data: the fingerprint of its real data; their name for a private set, whose
            header has no fingerprint.
        families: the name of each architecture, whatever its size, in the order of the
            results.
        random: the accuracies of the same networks trained on as many random real
            images; empty if not asked for.
        random_images: the number of these images; fewer than ``images`` if a stored
            image of the set holds several.
    """

    path: str
    distiller: str
    base: str
    roles: tuple[Role, ...]
    results: tuple[NetworkResult, ...]
    images: int = 0
    data: str = ""
    families: tuple[str, ...] = ()
    random: tuple[NetworkResult, ...] = ()
    random_images: int = 0

    def over_random(self) -> tuple["Difference", ...]:
        """Return the gain of each architecture over random real images, in pairs."""
        return tuple(
            difference_of(result.spec, real, result)
            for result, real in zip(self.results, self.random, strict=False)
        )

    def by_family(
        self, among: Collection[str] | None = None
    ) -> dict[str, NetworkResult]:
        """Return the mean over the sizes of each family with several, by its name.

        Args:
            among: the specs of the architectures that count; all by default.
        """
        found: dict[str, list[NetworkResult]] = {}
        for family, result in zip(self.families, self.results, strict=False):
            if among is None or result.spec in among:
                found.setdefault(family, []).append(result)
        return {
            family: replace(mean, spec=f"{family}, {len(sizes)} sizes")
            for family, sizes in found.items()
            if len(sizes) > 1 and (mean := mean_of(sizes)) is not None
        }

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
    """A paired difference of two results: the second minus the first.

    Networks are paired by their seed: both were trained from the same initial weights.

    Attributes:
        spec: the architecture; or a family, for the mean over its sizes; or
            ``"held out"``, for the mean over all networks held out.
        mean: mean difference in accuracy.
        ci95: its 95 % interval (Student's t over the pairs); None for one pair.
    """

    spec: str
    mean: float
    ci95: tuple[float, float] | None

    def as_dict(self) -> dict[str, Any]:
        """Return the form written by ``--json``."""
        interval = None if self.ci95 is None else list(self.ci95)
        return {"spec": self.spec, "mean": self.mean, "ci95": interval}


@dataclass(frozen=True)
class Transfer:
    """The report: the results of each set, and the differences of two sets.

    Attributes:
        sets: one for each artifact.
        differences: by architecture, and over all held out by both sets; empty unless
            there are two sets of the same base, distilled from the same data.
        not_compared: why two sets are not compared; empty if they are.
        scored_on: ``"test images"``, or ``"validation images"``.
    """

    sets: tuple[SetTransfer, ...]
    differences: tuple[Difference, ...]
    not_compared: str = ""
    scored_on: str = "test images"

    def as_dict(self) -> dict[str, Any]:
        """Return the form written by ``--json``."""
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
                    "families": [
                        mean.as_dict() | {"family": family}
                        for family, mean in found.by_family().items()
                    ],
                    "random": [result.as_dict() for result in found.random],
                    "random_images": found.random_images,
                    "over_random": [each.as_dict() for each in found.over_random()],
                    "held_out": (
                        None
                        if (mean := found.held_out()) is None
                        else mean.as_dict() | {"spec": "held out"}
                    ),
                }
                for found in self.sets
            ],
            "differences": [each.as_dict() for each in self.differences],
            "not_compared": self.not_compared,
            "scored_on": self.scored_on,
        }


def difference_of(spec: str, one: NetworkResult, other: NetworkResult) -> Difference:
    """Return the second result minus the first, network by network."""
    gains = [
        after - before
        for before, after in zip(one.accuracies, other.accuracies, strict=True)
    ]
    return Difference(spec, float(np.mean(gains)), mean_interval(gains))


def mean_of(results: Sequence[NetworkResult]) -> NetworkResult | None:
    """Return the mean over architectures, network by network; None without any."""
    if not results:
        return None
    means = np.mean([result.accuracies for result in results], axis=0)
    return NetworkResult("held out", tuple(float(mean) for mean in means))
