"""Evaluation: train fresh networks on a distilled set, test them on real data, once."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from dd_plugins.checks import path_of, whole_number
from dd_plugins.data.real import RealData
from dd_plugins.errors import DDError, OptionError
from dd_plugins.evaluation.asked_scores import AskedScores, asked_scores
from dd_plugins.evaluation.data_of_set import (
    real_data_of,
    warn_if_other_images,
    with_validation_as_test,
)
from dd_plugins.evaluation.evaluator import Evaluator
from dd_plugins.evaluation.jobs import Kind
from dd_plugins.evaluation.method_of_set import method_of
from dd_plugins.evaluation.networks_of_set import own_network
from dd_plugins.evaluation.results import Evaluation
from dd_plugins.evaluation.teacher_of_set import teacher_of
from dd_plugins.functional.kernel_predictor import check_kernel
from dd_plugins.networks.base import AbstractNetwork
from dd_plugins.networks.factory import NetworkLike
from dd_plugins.plugins.manager import Plugins, loaded_plugins
from dd_plugins.runtime import processes
from dd_plugins.runtime.device import (
    Precision,
    plain_torch,
    resolve_device,
    resolve_precision,
)
from dd_plugins.runtime.files import check_writable
from dd_plugins.runtime.progress import OnProgress
from dd_plugins.runtime.randomness import generator_for
from dd_plugins.synthetic.artifact import DistilledSet, as_set
from dd_plugins.training.protocols import as_protocol, recipe_for
from dd_plugins.training.recipes import Recipe, real_data_recipe
from dd_plugins.training.teacher import Teacher
from dd_plugins.wrappers.metric_learning import require_metric_learning

__all__ = ["EvaluationOptions", "PreparedEvaluation", "evaluate", "prepare_evaluation"]

_FULL_STEPS = 1_000  # of networks on all real images


def evaluate(
    distilled: DistilledSet | str | Path,
    networks: NetworkLike | Iterable[NetworkLike] = (),
    *,
    repeats: int = 5,
    protocol: str | Recipe = "auto",
    baselines: bool = False,
    full_steps: int | None = None,
    scores: str | None = None,
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
        full_steps: the training steps of networks on all real images, at least 1; by
            default 1,000. This is short for large data: 50,000 images are seen two and
            a half times, and ``lrs`` comes out too high.
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
        kept: a folder for each network as soon as it is trained. If an evaluation was
            stopped, the same call reads these and trains the others. It is yours to
            remove. By default no network is kept.
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
        FileError: the artifact cannot be read; or a kept network is damaged or cannot
            be written.
        DataError: the real data cannot be read, or does not fit the artifact, or has no
            test set, or no validation images.

    Warns:
        DDWarning: the training images are others than those behind the set, or half of
            the test images are training images; or the set, or a context of it, was
            made by other code or from other data, perhaps from the validation images.

    Example:
        >>> import dd_plugins
        >>> distilled = dd_plugins.distill("digits", steps=2)
        >>> found = dd_plugins.evaluate(distilled, "mlp(width=8)", repeats=2)
        >>> [round(result.mean) in (0, 1) for result in found.networks]
        [True]
    """
    processes.check_joined("evaluate")
    options = EvaluationOptions(
        repeats=repeats,
        protocol=protocol,
        baselines=baselines,
        full_steps=full_steps,
        scores=scores,
        data=data,
        data_root=data_root,
        download=download,
        validation=validation,
        seed=seed,
        device=device,
        precision=precision,
        kept=kept,
        plugins=plugins,
    )
    return prepare_evaluation(distilled, networks, options)(on_progress)


@dataclass(frozen=True, kw_only=True, eq=False)
class EvaluationOptions:
    """The options of :func:`evaluate`, and two for reports of fewer networks.

    Attributes:
        repeats: fresh networks for each spec, at least 1.
        protocol: how networks are trained: a name, or a recipe or its spec.
        baselines: whether networks are trained on random and all real images too.
        full_steps: the training steps of networks on all real images; None for 1,000.
        scores: further scores, separated by commas.
        data: the real data; by default found by the name in the artifact.
        data_root: the folder of named data sets.
        download: whether a missing data set may be downloaded to that folder.
        validation: whether networks are scored on validation images.
        seed: the seed of networks, batches and random images.
        device: ``"auto"``, ``"cpu"``, ``"cuda"``, ...
        precision: the precision of the networks' arithmetic.
        kept: the folder for trained networks; None to keep none.
        plugins: where names are looked up; by default all installed plugins.
        compare_labels: whether hard labels are compared with those of a teacher.
        compare_random: whether random real images are the only baseline.
    """

    repeats: int = 5
    protocol: str | Recipe = "auto"
    baselines: bool = False
    full_steps: int | None = None
    scores: str | None = None
    data: Any = None
    data_root: str | Path | None = None
    download: bool = False
    validation: bool = False
    seed: int = 0
    device: str = "auto"
    precision: Precision = "auto"
    kept: str | Path | None = None
    plugins: Plugins | None = None
    compare_labels: bool = True
    compare_random: bool = False


@plain_torch()
def prepare_evaluation(
    distilled: DistilledSet | str | Path,
    networks: NetworkLike | Iterable[NetworkLike],
    options: EvaluationOptions,
) -> "PreparedEvaluation":
    """Check everything an evaluation needs, and return it ready to run.

    Errors are those of :func:`evaluate`.
    """
    repeats = whole_number("repeats", options.repeats, least=1)
    full_steps = _FULL_STEPS
    if options.full_steps is not None:
        full_steps = whole_number("full_steps", options.full_steps, least=1)
    seed = whole_number("seed", options.seed)
    protocol = as_protocol(options.protocol)
    scores = _requested_scores(options.scores, protocol)
    kept = None if options.kept is None else path_of("kept", options.kept)
    if kept is not None:
        check_writable(kept / "network.safetensors")
    plugins = options.plugins or loaded_plugins()
    distilled = as_set(distilled)
    _check_scores(scores, distilled)
    chosen = _chosen_networks(networks, distilled, plugins)
    device = resolve_device(options.device)
    scores = _with_kernel(scores, distilled, plugins, device)
    precision = resolve_precision(options.precision, device)
    data = _checked_data(distilled, options, plugins)
    for network in chosen:  # one that is too deep for the images fails now
        network.build(
            data.image_shape, data.num_classes, generator=generator_for(seed, "")
        )
    teacher, without_teacher = _teacher(distilled, data, plugins, device)
    evaluator = Evaluator(
        distilled=distilled,
        data=data,
        repeats=repeats,
        seed=seed,
        device=device,
        precision=precision,
        recipes=[recipe_for(distilled, protocol, network) for network in chosen],
        full_recipe=real_data_recipe(full_steps),
        protocol="recipe" if isinstance(protocol, Recipe) else protocol,
        teacher=teacher,
        without_teacher=without_teacher,
        scores=scores,
        scored_on="validation images" if options.validation else "test images",
        kept=kept,
    )
    baselines = options.baselines or protocol == "retrieval"
    kinds = _kinds_to_train(evaluator, baselines, options)
    if options.full_steps is not None and Kind.FULL not in kinds:
        raise OptionError(
            "full_steps needs networks on all real images: ask for baselines or for "
            "the score lrs too"
        )
    for network, recipe in zip(chosen, evaluator.recipes, strict=True):
        for kind in kinds:
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


def _requested_scores(scores: str | None, protocol: str | Recipe) -> AskedScores:
    """Return the scores in a list, and that of retrieval if the protocol has it."""
    asked = asked_scores(scores)
    if protocol == "retrieval":
        asked = replace(asked, retrieval=True)
    if asked.retrieval:
        require_metric_learning()
    return asked


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


def _chosen_networks(
    networks: NetworkLike | Iterable[NetworkLike],
    distilled: DistilledSet,
    plugins: Plugins,
) -> list[AbstractNetwork]:
    """Return the networks to train: the named ones, or that of the distillation.

    Raises:
        OptionError: one is named twice.
    """
    asked = plugins.network_list(networks) or [own_network(distilled, plugins.network)]
    chosen = [network.for_evaluation() for network in asked]
    names = [repr(network) for network in chosen]
    if len(set(names)) < len(names):
        raise OptionError(
            f"networks must differ, got {', '.join(names)}; name each once"
        )
    return chosen


def _with_kernel(
    scores: AskedScores,
    distilled: DistilledSet,
    plugins: Plugins,
    device: torch.device,
) -> AskedScores:
    """Return the scores with the kernel settled for the set, if it is asked for.

    Raises:
        OptionError: the kernel does not suit the number or the size of the images, or
            does not fit on the device.
    """
    if scores.kernel is None:
        return scores
    kernel = scores.kernel.settled_for(method_of(distilled, plugins.distiller))
    assert kernel.of is not None
    largest = max(len(distilled), distilled.budget)
    _, _, height, width = distilled.images.shape
    check_kernel("kernel", kernel.of, largest, height, width, device)
    return replace(scores, kernel=kernel)


def _checked_data(
    distilled: DistilledSet, options: EvaluationOptions, plugins: Plugins
) -> RealData:
    """Return the real data of a set, with images to score networks on.

    Raises:
        DataError: the data does not fit the set, or has no such images.
    """
    data = real_data_of(
        distilled,
        options.data,
        options.data_root,
        plugins.real_data,
        download=options.download,
    )
    warn_if_other_images(distilled, data)
    if options.validation:
        data = with_validation_as_test(distilled, data)
    elif distilled.header.privacy is not None:  # its method saw all images
        data = data.undivided()
    data.check_test()
    return data


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


def _kinds_to_train(
    evaluator: Evaluator, baselines: bool, options: EvaluationOptions
) -> list[Kind]:
    """Return the kinds of training sets needed for the scores and comparisons."""
    scores = evaluator.scores
    has_views = evaluator.distilled.header.views is not None
    by_label = options.compare_labels and has_views
    random = baselines or options.compare_random or by_label
    wanted = {
        Kind.DISTILLED: True,
        Kind.HARD: by_label or scores.hard or scores.lrs,
        Kind.TAUGHT_RANDOM: by_label and evaluator.teacher is not None,
        Kind.RANDOM: random or scores.lrs or scores.ars,
        Kind.FULL: baselines or scores.lrs,
        Kind.OTHER_VIEW: scores.ars,
        Kind.RANDOM_OTHER_VIEW: scores.ars,
    }
    return [kind for kind, asked in wanted.items() if asked]
