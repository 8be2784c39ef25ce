"""How well a distilled set trains architectures it was not distilled with."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset

from dd_plugins.data.real import RealData
from dd_plugins.errors import OptionError
from dd_plugins.evaluation.architectures_of_set import architectures_of
from dd_plugins.evaluation.data_of_set import real_data_of
from dd_plugins.evaluation.evaluate import (
    EvaluationOptions,
    PreparedEvaluation,
    prepare_evaluation,
)
from dd_plugins.evaluation.method_of_set import method_of
from dd_plugins.evaluation.networks_of_set import own_network
from dd_plugins.evaluation.results import Evaluation
from dd_plugins.evaluation.transfer_results import (
    Difference,
    Role,
    SetTransfer,
    Transfer,
    difference_of,
    mean_of,
)
from dd_plugins.networks.base import AbstractNetwork
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
    kept: str | Path | None = None,
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
        kept: a folder for trained networks, as for :func:`dd_plugins.evaluate`.
        plugins: where names are looked up; by default all installed plugins.
        on_progress: as for :func:`dd_plugins.evaluate`; the work is that of all sets.

    Raises:
        OptionError: no set is given, or an option is out of its range; or several
            processes of torchrun have not joined in a block of
            :func:`~dd_plugins.api.process_group`.
        UnknownNameError: no plugin registers a name.
        FileError: an artifact cannot be read; or a kept network is damaged or cannot be
            written.
        DataError: the real data cannot be read, or does not fit.
    """
    processes.check_joined("transfer")
    asked: Any = sets
    single = isinstance(asked, DistilledSet | str) or not isinstance(asked, Iterable)
    given = [asked] if single else list(asked)
    if not given:
        raise OptionError("expected at least one distilled set, got none")
    if protocol == "retrieval":
        raise OptionError(
            "transfer compares accuracies: expected another protocol, got "
            f"{protocol!r}; evaluate scores retrieval"
        )
    plugins = plugins or loaded_plugins()
    chosen = [network.for_evaluation() for network in plugins.network_list(networks)]
    loaded = [as_set(each) for each in given]
    options = EvaluationOptions(
        repeats=repeats,
        protocol=protocol,
        data=data,
        data_root=data_root,
        download=download,
        validation=validation,
        seed=seed,
        device=device,
        precision=precision,
        kept=kept,
        plugins=plugins,
        compare_labels=False,
        compare_random=baselines,
    )
    known: dict[str, RealData] = {}
    planned = []
    for number, (one, distilled) in enumerate(zip(given, loaded, strict=True), 1):
        trained = _networks_for(distilled, chosen, plugins)
        base = _name_of_base(distilled, plugins)
        took_part = architectures_of(distilled, plugins.distiller, plugins.network)
        shared = _shared_data(distilled, options, plugins, known)
        evaluation = prepare_evaluation(
            distilled, trained, replace(options, data=shared)
        )
        planned.append(
            _Planned(
                name=f"set {number}" if isinstance(one, DistilledSet) else str(one),
                distilled=distilled,
                base=base,
                roles=tuple(took_part.role(network) for network in trained),
                families=tuple(network.architecture for network in trained),
                evaluation=evaluation,
            )
        )
    seconds = [each.evaluation.seconds() if on_progress else [] for each in planned]
    works = [repeats * sum(each) for each in seconds]
    made = []
    for number, each in enumerate(planned):
        told = on_progress and _among(on_progress, each.name, works, number)
        made.append(each.report(each.evaluation(told, seconds[number])))
    reason = _reason_not_compared(made)
    return Transfer(
        tuple(made),
        () if reason else _differences(made),
        reason,
        "validation images" if validation else "test images",
    )


@dataclass(frozen=True)
class _Planned:
    """A set whose evaluation is ready to run.

    Attributes:
        name: the path of the artifact, or the number of the set.
        distilled: the set.
        base: the name of its distiller inside all wrappers.
        roles: the role of each architecture for the set.
        families: the name of each architecture, whatever its size.
        evaluation: the checked evaluation.
    """

    name: str
    distilled: DistilledSet
    base: str
    roles: tuple[Role, ...]
    families: tuple[str, ...]
    evaluation: PreparedEvaluation

    def report(self, found: Evaluation) -> SetTransfer:
        """Return the results of the set."""
        header = self.distilled.header
        return SetTransfer(
            path=self.name,
            distiller=header.distiller,
            base=self.base,
            roles=self.roles,
            results=found.networks,
            images=len(self.distilled),
            data=header.dataset.fingerprint or header.dataset.name,
            families=self.families,
            random=found.random,
            random_images=found.random_images if found.random else 0,
        )


def _networks_for(
    distilled: DistilledSet, chosen: Sequence[AbstractNetwork], plugins: Plugins
) -> list[AbstractNetwork]:
    """Return the networks for a set: its own first, then the other chosen ones."""
    own = plugins.network(distilled.header.evaluation_network)
    trained = [network for network in chosen if repr(network) == repr(own)]
    if not trained and not (isinstance(own, FactoryNetwork) and own.only_named):
        trained = [own_network(distilled, plugins.network)]
    return [*trained, *(each for each in chosen if repr(each) != repr(own))]


def _name_of_base(distilled: DistilledSet, plugins: Plugins) -> str:
    """Return the name of a set's distiller inside all wrappers, if it is installed."""
    name = parse(distilled.header.distiller).name
    distiller = method_of(distilled, plugins.distiller)
    return name if distiller is None else base_of(distiller).name


def _shared_data(
    distilled: DistilledSet,
    options: EvaluationOptions,
    plugins: Plugins,
    known: dict[str, RealData],
) -> RealData:
    """Return the real data of a set, read once for all sets of the same data."""
    header = distilled.header
    record = header.dataset.model_dump_json()
    key = f"{record} {header.value_space} {header.mirror}"
    if key not in known:
        known[key] = real_data_of(
            distilled,
            options.data,
            options.data_root,
            plugins.real_data,
            download=options.download,
        )
    return known[key]


def _among(
    on_progress: OnProgress, name: str, works: Sequence[float], number: int
) -> OnProgress:
    """Return a callback for one set, reporting its part in the work of all sets."""
    before, all_work = sum(works[:number]), sum(works)

    def on_set(what: str, done: float, total: float) -> None:
        # Several processes share the work of a set; report it as if this one did all.
        share = done / total if total else 1.0
        on_progress(f"{name}, {what}", before + share * works[number], all_work)

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
    one, two = (report.by_family(both) for report in reports)
    rows += [difference_of(one[each].spec, one[each], two[each]) for each in one]
    means = mean_of(before), mean_of(after)
    if means[0] is not None and means[1] is not None:
        rows.append(difference_of("held out", means[0], means[1]))
    return tuple(rows)
