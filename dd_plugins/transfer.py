"""How distilled data serves architectures that it was not distilled with."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dd_plugins.artifact import DistilledSet
from dd_plugins.data import RealData
from dd_plugins.errors import OptionError
from dd_plugins.evaluate import NetworkResult, Protocol, evaluate, mean_interval
from dd_plugins.networks.base import AbstractNetwork
from dd_plugins.plugins import Plugins, loaded_plugins
from dd_plugins.run import Precision
from dd_plugins.training import Recipe
from dd_plugins.wrappers.base import AbstractWrapper

__all__ = ["Difference", "SetTransfer", "Transfer", "transfer"]

Role = Literal["distilled with", "seen", "held out"]


@dataclass(frozen=True)
class SetTransfer:
    """What one distilled set gave.

    Attributes:
        path: the artifact, or the number of the set.
        distiller: its spec.
        base: the name of the distiller inside all wrappers.
        roles: what each architecture was to the set, in the order of the results.
        results: the accuracies on each architecture.
    """

    path: str
    distiller: str
    base: str
    roles: tuple[Role, ...]
    results: tuple[NetworkResult, ...]

    def held_out(self) -> NetworkResult | None:
        """Return the mean over the held-out architectures, network by network."""
        return _mean_of(
            [
                result
                for result, role in zip(self.results, self.roles, strict=True)
                if role == "held out"
            ]
        )


@dataclass(frozen=True)
class Difference:
    """A paired difference of two sets: the second less the first.

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
    """The report: each set by itself, and two sets of one base against each other.

    Attributes:
        sets: one for each artifact.
        differences: by architecture, and over all that both sets hold out; empty
            unless there are two sets of the same base.
    """

    sets: tuple[SetTransfer, ...]
    differences: tuple[Difference, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the form that ``--json`` writes."""
        return {
            "sets": [
                {
                    "path": found.path,
                    "distiller": found.distiller,
                    "base": found.base,
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
        }


def transfer(
    sets: Sequence[DistilledSet | str | Path],
    networks: Sequence[str | AbstractNetwork],
    *,
    repeats: int = 5,
    protocol: Protocol | Recipe = "auto",
    data: RealData | None = None,
    data_root: str | Path | None = None,
    seed: int = 0,
    device: str = "auto",
    precision: Precision = "auto",
    plugins: Plugins | None = None,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> Transfer:
    """Train networks of several architectures on distilled sets; test and compare.

    The architecture that a set was distilled with is added where it is not named. What
    an architecture was to a set is read from the set: *seen* are those of its wrappers
    and of its distiller, by name, whatever their width; the rest is *held out*.

    Args:
        sets: artifacts; two of the same base are compared in pairs.
        networks: the architectures: specs.
        repeats: fresh networks of each; network number i begins alike on every set.
        protocol: as for :func:`dd_plugins.evaluate`.
        data: as there; and so are the others.
        data_root: the folder that holds named data sets.
        seed: of networks and batches.
        device: ``"auto"``, ``"cpu"``, ``"cuda"``, ...
        precision: of the networks' arithmetic.
        plugins: where names are looked up; by default all that is installed.
        on_progress: called with what is trained, how many are done, and of how many.

    Raises:
        OptionError: no set is given, or an option is out of its range.
        UnknownNameError: no plugin registers a name.
        FileError: an artifact cannot be read.
        DataError: the real data cannot be read, or does not fit.
    """
    if not sets:
        raise OptionError("no distilled set is given; name at least one artifact")
    if protocol == "retrieval":
        raise OptionError("transfer compares accuracies; evaluate scores retrieval")
    found = plugins or loaded_plugins()
    chosen = [found.network(spec).for_evaluation() for spec in networks]
    reports = []
    for number, given in enumerate(sets):
        distilled = (
            given if isinstance(given, DistilledSet) else DistilledSet.load(given)
        )
        own = found.network(distilled.header.evaluation_network)
        all_networks = [own, *(n for n in chosen if repr(n) != repr(own))]
        distiller = found.distiller(distilled.header.distiller)
        seen = {network.name for network in distiller.architectures}
        evaluation = evaluate(
            distilled,
            all_networks,
            repeats=repeats,
            protocol=protocol,
            data=data,
            data_root=data_root,
            seed=seed,
            device=device,
            precision=precision,
            plugins=found,
            on_progress=on_progress,
        )
        reports.append(
            SetTransfer(
                f"set {number + 1}" if isinstance(given, DistilledSet) else str(given),
                distilled.header.distiller,
                _base(distiller).name,
                tuple(_role(network, own, seen) for network in all_networks),
                evaluation.networks,
            )
        )
    return Transfer(tuple(reports), _differences(reports))


def _base(distiller: Any) -> Any:
    while isinstance(distiller, AbstractWrapper):
        distiller = distiller.base
    return distiller


def _role(network: AbstractNetwork, own: AbstractNetwork, seen: set[str]) -> Role:
    if network.name == own.name:
        return "distilled with"
    return "seen" if network.name in seen else "held out"


def _mean_of(results: Sequence[NetworkResult]) -> NetworkResult | None:
    if not results:
        return None
    means = np.mean([result.accuracies for result in results], axis=0)
    return NetworkResult("held out", tuple(float(mean) for mean in means))


def _differences(reports: Sequence[SetTransfer]) -> tuple[Difference, ...]:
    """Compare two sets of one base on the architectures that both were tried on."""
    if len(reports) != 2 or reports[0].base != reports[1].base:
        return ()
    first, second = reports
    others = {
        result.spec: (result, role)
        for result, role in zip(second.results, second.roles, strict=True)
    }
    rows, before, after = [], [], []
    for result, role in zip(first.results, first.roles, strict=True):
        if result.spec not in others:
            continue
        other, other_role = others[result.spec]
        rows.append(_difference(result.spec, result, other))
        if role == other_role == "held out":
            before.append(result)
            after.append(other)
    means = _mean_of(before), _mean_of(after)
    if means[0] is not None and means[1] is not None:
        rows.append(_difference("held out", means[0], means[1]))
    return tuple(rows)


def _difference(spec: str, one: NetworkResult, other: NetworkResult) -> Difference:
    gains = [
        after - before
        for before, after in zip(one.accuracies, other.accuracies, strict=True)
    ]
    return Difference(spec, float(np.mean(gains)), mean_interval(gains))
