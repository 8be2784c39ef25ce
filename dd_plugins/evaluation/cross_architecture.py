"""How well a distilled set trains architectures it was not distilled with."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset

from dd_plugins.data.real import RealData
from dd_plugins.errors import OptionError
from dd_plugins.evaluation.architectures_of_set import architectures_of
from dd_plugins.evaluation.data_of_set import real_data_of
from dd_plugins.evaluation.evaluate import EvaluationOptions, prepare_evaluation
from dd_plugins.evaluation.method_of_set import method_of
from dd_plugins.evaluation.networks_of_set import own_network
from dd_plugins.evaluation.transfer_results import (
    Difference,
    SetTransfer,
    Transfer,
    difference_of,
    mean_of,
)
from dd_plugins.networks.factory import FactoryNetwork, NetworkLike
from dd_plugins.plugins.manager import Plugins, loaded_plugins
from dd_plugins.runtime import processes
from dd_plugins.runtime.device import Precision
from dd_plugins.runtime.progress import OnProgress
from dd_plugins.spec import parse
from dd_plugins.synthetic.artifact import DistilledSet, as_set
from dd_plugins.training.recipes import Recipe
from dd_plugins.wrappers.base import base_of

__all__ = ["Difference", "SetTransfer", "Transfer", "transfer"]


def transfer(
    sets: DistilledSet | str | Path | Iterable[DistilledSet | str | Path],
    networks: NetworkLike | Iterable[NetworkLike],
    *,
    repeats: int = 5,
    protocol: str | Recipe = "auto",
    baselines: bool = False,
    data: "RealData | str | tuple[Tensor, Tensor] | Dataset[Any] | None" = None,
    data_root: str | Path | None = None,
    download: bool = False,
    validation: bool = False,
    seed: int = 0,
    device: str = "auto",
    precision: Precision = "auto",
    plugins: Plugins | None = None,
    on_progress: OnProgress | None = None,
) -> Transfer:
    """Train networks of several architectures on distilled sets, and compare the sets.

    The architecture a set was distilled with is added if it is not named, unless it is
    a function of Python. For a set shaped by no network, such as KIP's, this is the
    architecture named in the set.

    The role of an architecture is read from the set. *Seen* are all architectures with
    a part in it, compared by name, whatever their width: those of its distiller and
    wrappers, of a teacher, of the sets behind it, and any other built during its run.
    The rest is *held out*. All sets and their data are read and checked before the
    first network is trained.

    Args:
        sets: one or more sets, or the paths of artifacts or of runs' folders; two with
            the same base, distilled from the same data, are compared network by
            network.
        networks: the architectures: one or more specs, or functions returning a fresh
            torch module for ``num_classes``.
        repeats: fresh networks of each architecture; network number i starts from the
            same weights on every set.
        protocol: as for :func:`dd_plugins.evaluate`; ``"family"`` trains each
            architecture as its users would, on all sets alike.
        baselines: whether to train the same networks on as many random real images.
        data: the real data, as for :func:`dd_plugins.evaluate`.
        data_root: the folder of named data sets.
        download: whether a missing data set may be downloaded to that folder.
        validation: whether networks are scored on validation images, as for
            :func:`dd_plugins.evaluate`.
        seed: the seed of networks and batches.
        device: ``"auto"``, ``"cpu"``, ``"cuda"``, ...
        precision: the precision of the networks' arithmetic.
        plugins: where names are looked up; by default all installed plugins.
        on_progress: as for :func:`dd_plugins.evaluate`; the work is that of all sets.

    Raises:
        OptionError: no set is given, or an option is out of its range; or several
            processes of torchrun have not joined in a block of
            :func:`~dd_plugins.api.process_group`.
        UnknownNameError: no plugin registers a name.
        FileError: an artifact cannot be read.
        DataError: the real data cannot be read, or does not fit.
    """
    processes.check_joined("transfer")
    if isinstance(sets, DistilledSet | str | Path):
        sets = [sets]
    given = list(sets)
    if not given:
        raise OptionError("expected at least one distilled set, got none")
    if protocol == "retrieval":
        raise OptionError(
            "transfer compares accuracies: expected another protocol, got "
            f"{protocol!r}; evaluate scores retrieval"
        )
    found = plugins or loaded_plugins()
    chosen = [network.for_evaluation() for network in found.network_list(networks)]
    loaded = [as_set(each) for each in given]
    known: dict[str, RealData] = {}  # sets of the same data share it
    prepared, reports = [], []
    for number, (name, distilled) in enumerate(zip(given, loaded, strict=True)):
        header = distilled.header
        own = found.network(header.evaluation_network)
        trained = [network for network in chosen if repr(network) == repr(own)]
        if not trained and not (isinstance(own, FactoryNetwork) and own.only_named):
            trained = [own_network(distilled, found.network)]
        all_networks = [*trained, *(n for n in chosen if repr(n) != repr(own))]
        distiller = method_of(distilled, found.distiller)
        method = parse(header.distiller).name
        if distiller is not None:
            method = base_of(distiller).name
        took_part = architectures_of(distilled, found.distiller, found.network)
        record = header.dataset.model_dump_json()
        key = f"{record} {header.value_space} {header.mirror}"
        if key not in known:
            known[key] = real_data_of(
                distilled, data, data_root, found.real_data, download=download
            )
        prepared.append(
            prepare_evaluation(
                distilled,
                all_networks,
                EvaluationOptions(
                    repeats=repeats,
                    protocol=protocol,
                    data=known[key],
                    data_root=data_root,
                    validation=validation,
                    seed=seed,
                    device=device,
                    precision=precision,
                    plugins=found,
                    compare_labels=False,
                    compare_random=baselines,
                ),
            )
        )
        reports.append(
            SetTransfer(
                f"set {number + 1}" if isinstance(name, DistilledSet) else str(name),
                header.distiller,
                method,
                tuple(took_part.role(network) for network in all_networks),
                (),
                len(distilled),
                header.dataset.fingerprint or header.dataset.name,
                tuple(network.architecture for network in all_networks),
            )
        )
    seconds = [each.seconds() if on_progress else [] for each in prepared]
    works = [repeats * sum(each) for each in seconds]
    made = []
    for number, (report, evaluation) in enumerate(zip(reports, prepared, strict=True)):
        told = on_progress and _among(on_progress, report, works, number)
        found_here = evaluation(told, seconds[number])
        made.append(
            replace(report, results=found_here.networks, random=found_here.random)
        )
    reason = _reason_not_compared(made)
    return Transfer(
        tuple(made),
        () if reason else _differences(made),
        reason,
        "validation images" if validation else "test images",
    )


def _among(
    on_progress: OnProgress, report: SetTransfer, works: Sequence[float], number: int
) -> OnProgress:
    """Return a callback for one set, reporting its part in the work of all sets."""
    before, all_work = sum(works[:number]), sum(works)

    def on_set(what: str, done: float, total: float) -> None:
        # Several processes share the work of a set; report it as if this one did all.
        share = done / total if total else 1.0
        on_progress(f"{report.path}, {what}", before + share * works[number], all_work)

    return on_set


def _reason_not_compared(reports: Sequence[SetTransfer]) -> str:
    """Return why two sets are not compared; empty if they are, or are not two."""
    if len(reports) != 2:
        return ""
    first, second = reports
    if first.data != second.data:
        return "not compared: the sets were distilled from different data"
    if first.base != second.base:
        return (
            f"not compared: the base is {first.base} in one, {second.base} in the other"
        )
    return ""


def _only(report: SetTransfer, specs: Collection[str]) -> SetTransfer:
    """Return a report restricted to some of its networks."""
    kept = [number for number, r in enumerate(report.results) if r.spec in specs]
    return replace(
        report,
        results=tuple(report.results[number] for number in kept),
        families=tuple(report.families[number] for number in kept),
    )


def _differences(reports: Sequence[SetTransfer]) -> tuple[Difference, ...]:
    """Compare two sets on the architectures common to both."""
    if len(reports) != 2:
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
        rows.append(difference_of(result.spec, result, other))
        if role == other_role == "held out":
            before.append(result)
            after.append(other)
    both = {result.spec for result in first.results} & others.keys()
    one, two = (_only(report, both).by_family() for report in reports)
    rows += [difference_of(one[each].spec, one[each], two[each]) for each in one]
    means = mean_of(before), mean_of(after)
    if means[0] is not None and means[1] is not None:
        rows.append(difference_of("held out", means[0], means[1]))
    return tuple(rows)
