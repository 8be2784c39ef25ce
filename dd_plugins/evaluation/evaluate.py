"""Evaluation: train fresh networks on a distilled set, test them on real data, once."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from dd_plugins.checks import whole_number
from dd_plugins.data.real import RealData
from dd_plugins.errors import DDError, OptionError
from dd_plugins.evaluation.asked_scores import AskedScores, asked_scores
from dd_plugins.evaluation.data_of_set import real_data_of
from dd_plugins.evaluation.evaluator import Evaluator
from dd_plugins.evaluation.kernel_score import settled
from dd_plugins.evaluation.method_of_set import method_of
from dd_plugins.evaluation.networks_of_set import own_network
from dd_plugins.evaluation.results import Evaluation
from dd_plugins.evaluation.teacher_of_set import teacher_of
from dd_plugins.functional.kernel_predictor import check_kernel
from dd_plugins.networks.factory import NetworkLike
from dd_plugins.plugins.manager import Plugins, loaded_plugins
from dd_plugins.runtime.device import (
    Precision,
    plain_torch,
    resolve_device,
    resolve_precision,
)
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
    seed: int = 0,
    device: str = "auto",
    precision: Precision = "auto",
    plugins: Plugins | None = None,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> Evaluation:
    """Train fresh networks on a distilled set and test them on real data.

    All networks are trained before the test set is read; it is read once. All that can
    be checked without reading its images is checked before.

    Much of what a teacher's labels give, they give to any images. So for a set whose
    views a teacher labels, networks are also trained on the same views with hard
    labels, and on as many random real images, with hard labels and with those of the
    teacher.

    Args:
        distilled: the set, or the path of an artifact or of a run's folder.
        networks: one spec, or several, or functions that return a fresh torch module
            for ``num_classes``; by default the network that the set was distilled
            with, without normalisation if it is FRePo's.
        repeats: fresh networks for each spec, at least 1.
        protocol: how networks are trained: a name (see :func:`recipe_for`), or a
            :class:`~dd_plugins.training.recipes.Recipe` or its spec. ``"retrieval"``
            also scores how well a network's features find images of the same class, and
            turns ``baselines`` on; it needs pytorch-metric-learning.
        baselines: whether to train on as many random real images, drawn anew for each
            network, and on all real images as well.
        scores: further scores, separated by commas. ``"lrs"`` and ``"ars"`` are
            DD-Ranking's label and augmentation robust scores (see
            :mod:`dd_plugins.evaluation.robustness`), and train what they need;
            ``"hard"`` is the accuracy with hard labels; ``"retrieval"`` scores the
            features of networks; ``"kernel"`` the accuracy of kernel regression from
            the set, which is KIP's own figure, or ``"kernel(of=conv(depth=3))"`` (see
            :class:`~dd_plugins.evaluation.kernel_score.KernelScore`).
        data: the real data, in any form that :func:`~dd_plugins.distill` takes; by
            default found by the name in the artifact. Data that is given by name, such
            as the ``"folder:PATH"`` to which a folder was moved, must hold the images
            that the set was distilled from.
        data_root: the folder that holds named data sets.
        seed: of networks, batches and random images.
        device: ``"auto"``, ``"cpu"``, ``"cuda"``, ...
        precision: of the networks' arithmetic.
        plugins: where names are looked up; by default all that is installed.
        on_progress: called with what is trained, the number done, and the total.

    Raises:
        OptionError: an option is out of its range.
        UnknownNameError: no plugin registers a name.
        FileError: the artifact cannot be read.
        DataError: the real data cannot be read, or does not fit the artifact, or has no
            test set.

    Example:
        >>> import dd_plugins
        >>> distilled = dd_plugins.distill("digits", steps=2)
        >>> found = dd_plugins.evaluate(distilled, "mlp(width=8)", repeats=2)
        >>> [round(result.mean) in (0, 1) for result in found.networks]
        [True]
    """
    return prepare_evaluation(
        distilled,
        networks,
        repeats=repeats,
        protocol=protocol,
        baselines=baselines,
        scores=scores,
        data=data,
        data_root=data_root,
        seed=seed,
        device=device,
        precision=precision,
        plugins=plugins,
        on_progress=on_progress,
    )()


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
    seed: int,
    device: str,
    precision: Precision,
    plugins: Plugins | None,
    on_progress: Callable[[str, int, int], None] | None,
    compare_labels: bool = True,
) -> Callable[[], Evaluation]:
    """Check all that an evaluation needs, and return the function that makes it.

    Arguments and errors are those of :func:`evaluate`; but a transfer report leaves out
    the comparison of labels (``compare_labels``).
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
    data = real_data_of(distilled, data, data_root, found.real_data)
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
        on_progress or (lambda kind, done, total: None),
        recipe_for(distilled, protocol),
        "recipe" if isinstance(protocol, Recipe) else protocol,
        teacher,
        without_teacher,
        asked_for,
    )

    by_label = compare_labels and distilled.header.views is not None

    @plain_torch()
    def run() -> Evaluation:
        for network in chosen:
            evaluator.train("distilled", network, evaluator.distilled_set)
            if by_label or asked_for.hard or asked_for.lrs:
                evaluator.train("hard", network, evaluator.hard_set)
            if by_label and teacher is not None:
                evaluator.train("taught random", network, evaluator.taught_random)
            if baselines or by_label or asked_for.lrs or asked_for.ars:
                evaluator.train("random", network, evaluator.random_set)
            if baselines or asked_for.lrs:
                evaluator.train("full", network, evaluator.full_set)
            if asked_for.ars:
                evaluator.train("other view", network, evaluator.other_view)
                evaluator.train("random, other view", network, evaluator.random_other)
        found = evaluator.test(baselines)
        evaluator.trained.clear()  # several evaluations may be prepared at once
        return found

    return run


def _check_scores(asked: AskedScores, distilled: DistilledSet) -> None:
    """Refuse a score that the set cannot have.

    Raises:
        OptionError: a set whose views a teacher labels has no score of augmentation.
    """
    if asked.ars and distilled.header.views is not None:
        raise OptionError(
            "scores: ars compares training with and without augmentation, but this "
            "set has labels for its own views; leave it out"
        )


def _teacher(
    distilled: DistilledSet, data: RealData, plugins: Plugins, device: torch.device
) -> tuple[Teacher | None, str]:
    """Return the teacher of a set, and else why random images get no labels of it.

    Raises:
        OptionError: the set needs its teacher, which is not kept here.
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
