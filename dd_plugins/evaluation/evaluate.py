"""Evaluation: train fresh networks on a distilled set, test them on real data, once."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from dd_plugins.checks import whole_number
from dd_plugins.data.real import RealData
from dd_plugins.errors import DDError, OptionError
from dd_plugins.evaluation.asked_scores import AskedScores, asked_scores
from dd_plugins.evaluation.data_of_set import (
    real_data_of,
    scored_on_validation,
    warn_of_others,
)
from dd_plugins.evaluation.evaluator import Evaluator
from dd_plugins.evaluation.kernel_score import settled
from dd_plugins.evaluation.method_of_set import method_of
from dd_plugins.evaluation.networks_of_set import own_network
from dd_plugins.evaluation.results import Evaluation
from dd_plugins.evaluation.teacher_of_set import teacher_of
from dd_plugins.functional.kernel_predictor import check_kernel
from dd_plugins.networks.factory import NetworkLike
from dd_plugins.plugins.manager import Plugins, loaded_plugins
from dd_plugins.runtime import processes
from dd_plugins.runtime.device import (
    Precision,
    plain_torch,
    resolve_device,
    resolve_precision,
)
from dd_plugins.runtime.progress import OnProgress
from dd_plugins.runtime.randomness import generator_for
from dd_plugins.synthetic.artifact import DistilledSet, as_set
from dd_plugins.training.protocols import as_protocol, recipe_for
from dd_plugins.training.recipes import Recipe
from dd_plugins.training.teacher import Teacher
from dd_plugins.wrappers.metric_learning import require_metric_learning

__all__ = ["evaluate", "prepare_evaluation"]


def evaluate(
    distilled: DistilledSet | str | Path,
    networks: NetworkLike | Iterable[NetworkLike] = (),
    *,
    repeats: int = 5,
    protocol: str | Recipe = "auto",
    baselines: bool = False,
    scores: str | None = None,
    data: "RealData | str | tuple[Tensor, Tensor] | Dataset[Any] | None" = None,
    data_root: str | Path | None = None,
    download: bool = False,
    validation: bool = False,
    seed: int = 0,
    device: str = "auto",
    precision: Precision = "auto",
    plugins: Plugins | None = None,
    on_progress: OnProgress | None = None,
) -> Evaluation:
    """Train fresh networks on a distilled set and test them on real data.

    All networks are trained before the test set is read; it is read once. Everything
    that needs no test images is checked beforehand.

    A teacher's labels help with any images. So if a teacher labels the views of a set,
    networks are also trained on the same views with hard labels, and on as many random
    real images, with hard labels and with the teacher's.

    Args:
        distilled: the set, or the path of an artifact or of a run's folder.
        networks: one or more specs, or functions returning a fresh torch module for
            ``num_classes``; by default the network of the distillation, without
            normalisation if it is FRePo's.
        repeats: fresh networks for each spec, at least 1.
        protocol: how networks are trained: a name (see :func:`recipe_for`), or a
            :class:`~dd_plugins.training.recipes.Recipe` or its spec. ``"retrieval"``
            also scores the retrieval of images of the same class by a network's
            features, and turns ``baselines`` on; it needs pytorch-metric-learning.
        baselines: whether to train networks on as many random real images, redrawn for
            each network, and on all real images too.
        scores: further scores, separated by commas. ``"lrs"`` and ``"ars"`` are
            DD-Ranking's label and augmentation robust scores (see
            :mod:`dd_plugins.evaluation.robustness`), and train further networks;
            ``"hard"`` is the accuracy with hard labels; ``"retrieval"`` scores the
            features of networks; ``"kernel"`` the accuracy of kernel regression from
            the set (KIP's own figure), or ``"kernel(of=conv(depth=3))"`` (see
            :class:`~dd_plugins.evaluation.kernel_score.KernelScore`).
        data: the real data, in any form accepted by :func:`~dd_plugins.distill`; by
            default found by the name in the artifact. Data given by name, such as the
            ``"folder:PATH"`` of a moved folder, must hold the images behind the set.
        data_root: the folder of named data sets.
        download: whether a missing data set may be downloaded to that folder.
        validation: whether networks are scored on validation images, which ``distill``
            holds out of the training images. Choose between sets and options by these;
            the test set stays unread.
        seed: the seed of networks, batches and random images.
        device: ``"auto"``, ``"cpu"``, ``"cuda"``, ...
        precision: the precision of the networks' arithmetic.
        plugins: where names are looked up; by default all installed plugins.
        on_progress: called after each training step with the networks in training, the
            work done and all work, in seconds, estimated from a few timed steps of
            each.

    Raises:
        OptionError: an option is out of its range, or ``validation`` is asked for, and
            the set was distilled from the validation images too, as private sets are;
            or several processes of torchrun have not joined in a block of
            :func:`~dd_plugins.api.process_group`.
        UnknownNameError: no plugin registers a name.
        FileError: the artifact cannot be read.
        DataError: the real data cannot be read, or does not fit the artifact, or has no
            test set, or no validation images.

    Warns:
        DDWarning: the training images are others than those behind the set, or half of
            the test images are training images; or other code made the set, perhaps
            from the validation images.

    Example:
        >>> import dd_plugins
        >>> distilled = dd_plugins.distill("digits", steps=2)
        >>> found = dd_plugins.evaluate(distilled, "mlp(width=8)", repeats=2)
        >>> [round(result.mean) in (0, 1) for result in found.networks]
        [True]
    """
    processes.check_joined("evaluate")
    return prepare_evaluation(
        distilled,
        networks,
        repeats=repeats,
        protocol=protocol,
        baselines=baselines,
        scores=scores,
        data=data,
        data_root=data_root,
        download=download,
        validation=validation,
        seed=seed,
        device=device,
        precision=precision,
        plugins=plugins,
    )(on_progress)


@plain_torch()
def prepare_evaluation(
    distilled: DistilledSet | str | Path,
    networks: NetworkLike | Iterable[NetworkLike],
    *,
    repeats: int,
    protocol: str | Recipe,
    baselines: bool,
    scores: str | None = None,
    data: Any,
    data_root: str | Path | None,
    download: bool = False,
    validation: bool = False,
    seed: int,
    device: str,
    precision: Precision,
    plugins: Plugins | None,
    compare_labels: bool = True,
    compare_random: bool = False,
) -> "PreparedEvaluation":
    """Check everything an evaluation needs, and return it ready to run.

    Arguments and errors are those of :func:`evaluate`. But a transfer report leaves out
    the comparison of labels (``compare_labels``), and may have random real images as
    its only baseline (``compare_random``).
    """
    repeats = whole_number("repeats", repeats, least=1)
    seed = whole_number("seed", seed)
    protocol = as_protocol(protocol)
    asked_for = asked_scores(scores)
    if protocol == "retrieval":
        asked_for, baselines = replace(asked_for, retrieval=True), True
    if asked_for.retrieval:
        require_metric_learning()
    found = plugins or loaded_plugins()
    distilled = as_set(distilled)
    _check_scores(asked_for, distilled)
    asked = found.network_list(networks) or [own_network(distilled, found.network)]
    chosen = [network.for_evaluation() for network in asked]
    names = [repr(network) for network in chosen]
    if len(set(names)) < len(names):
        raise OptionError(
            f"networks must differ, got {', '.join(names)}; name each once"
        )
    if asked_for.kernel is not None:
        kernel = settled(asked_for.kernel, method_of(distilled, found.distiller))
        assert kernel.of is not None
        largest = max(len(distilled), distilled.budget)
        check_kernel("kernel", kernel.of, largest, *distilled.images.shape[-2:])
        asked_for = replace(asked_for, kernel=kernel)
    target = resolve_device(device)
    dtype = resolve_precision(precision, target)
    data = real_data_of(distilled, data, data_root, found.real_data, download=download)
    warn_of_others(distilled, data)
    if validation:
        data = scored_on_validation(distilled, data)
    data.check_test()
    for network in chosen:  # one that is too deep for the images fails now
        network.build(
            data.image_shape, data.num_classes, generator=generator_for(seed, "")
        )
    teacher, without_teacher = _teacher(distilled, data, found, target)
    evaluator = Evaluator(
        distilled,
        data,
        repeats,
        seed,
        target,
        dtype,
        [recipe_for(distilled, protocol, network) for network in chosen],
        "recipe" if isinstance(protocol, Recipe) else protocol,
        teacher,
        without_teacher,
        asked_for,
        "validation images" if validation else "test images",
    )

    by_label = compare_labels and distilled.header.views is not None
    wanted = {
        "distilled": True,
        "hard": by_label or asked_for.hard or asked_for.lrs,
        "taught random": by_label and teacher is not None,
        "random": (
            baselines or compare_random or by_label or asked_for.lrs or asked_for.ars
        ),
        "full": baselines or asked_for.lrs,
        "other view": asked_for.ars,
        "random, other view": asked_for.ars,
    }
    for network, recipe in zip(chosen, evaluator.recipes, strict=True):
        for kind in (kind for kind, asked in wanted.items() if asked):
            evaluator.add(kind, network, recipe)
    return PreparedEvaluation(evaluator, baselines)


@dataclass(frozen=True)
class PreparedEvaluation:
    """An evaluation whose options and data are checked."""

    evaluator: Evaluator
    baselines: bool

    @plain_torch()
    def seconds(self) -> list[float]:
        """Return the estimated seconds for training one network of each job."""
        return self.evaluator.jobs.seconds()

    @plain_torch()
    def __call__(
        self, on_progress: OnProgress | None = None, seconds: Sequence[float] = ()
    ) -> Evaluation:
        """Train every network, then read the test set.

        Args:
            on_progress: as for :func:`evaluate`.
            seconds: the result of :meth:`seconds`, if it is known.
        """
        evaluator = self.evaluator
        if on_progress is not None:
            seconds = seconds or evaluator.jobs.seconds()
        evaluator.jobs.train(on_progress, seconds)
        found = evaluator.test(self.baselines)
        evaluator.jobs.trained.clear()  # several evaluations may be prepared at once
        return found


def _check_scores(asked: AskedScores, distilled: DistilledSet) -> None:
    """Refuse a score undefined for the set.

    Raises:
        OptionError: a score of augmentation is asked for, and a teacher labels the
            views.
    """
    if asked.ars and distilled.header.views is not None:
        raise OptionError(
            "scores: ars compares training with and without augmentation, but this "
            "set has labels for its own views; leave it out"
        )


def _teacher(
    distilled: DistilledSet, data: RealData, plugins: Plugins, device: torch.device
) -> tuple[Teacher | None, str]:
    """Return the teacher of a set, or why random images get no labels from it.

    Raises:
        OptionError: the set needs its teacher, and it is not kept here.
    """
    stored = distilled.view_labels is not None
    try:
        teacher = teacher_of(distilled, data, plugins.network, device)
    except DDError as error:
        if not stored:
            raise
        return None, str(error)
    if teacher is None and stored:
        return None, "the file holds labels, and does not say whose they are"
    return teacher, ""
