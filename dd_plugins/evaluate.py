"""Evaluation: train fresh networks on a distilled set, test them on real data, once."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from dd_plugins import parallel
from dd_plugins.arguments import as_networks
from dd_plugins.artifact import DistilledSet, as_set
from dd_plugins.checks import whole_number
from dd_plugins.data import Images, RealData, class_members, random_members
from dd_plugins.data_of_set import real_data_of
from dd_plugins.errors import OptionError
from dd_plugins.labels import LABEL_KINDS
from dd_plugins.metric import require_metric_learning, retrieval_scores
from dd_plugins.networks.base import AbstractNetwork, FeatureNetwork
from dd_plugins.networks_of_set import own_network, refuse_huge
from dd_plugins.plugins import Plugins, loaded_plugins
from dd_plugins.protocols import MOST_STEPS, as_protocol, recipe_for, training_set_of
from dd_plugins.randomness import derive
from dd_plugins.recipes import (
    Recipe,
    get_recipe,
    real_data_recipe,
)
from dd_plugins.results import Evaluation, NetworkResult
from dd_plugins.run import (
    Precision,
    Run,
    Task,
    plain_torch,
    resolve_device,
    resolve_precision,
)
from dd_plugins.sampler import sampler_of
from dd_plugins.streamed import fits_in_memory
from dd_plugins.trained import TrainedNetwork, cache_folder
from dd_plugins.training import (
    TrainingSet,
    Whitened,
    part_right,
    real_outputs,
    train_network,
)
from dd_plugins.views import Teacher, get_views

__all__ = ["Evaluation", "NetworkResult", "evaluate", "prepare_evaluation"]

_FULL_STEPS = 1_000


@dataclass
class _Evaluator:
    """The state of one evaluation: trains everything first, then reads the test set."""

    distilled: DistilledSet
    data: RealData
    repeats: int
    seed: int
    device: torch.device
    precision: torch.dtype
    on_progress: Callable[[str, int, int], None]
    recipe: Recipe
    protocol: str
    teacher: Callable[[Tensor], Tensor] | None = None
    asked: list[tuple[str, str]] = field(default_factory=list)  # kind and network
    trained: dict[int, FeatureNetwork] = field(default_factory=dict)  # by job

    def train(
        self,
        kind: str,
        network: AbstractNetwork,
        draw: Callable[[int], tuple[TrainingSet, Recipe]],
    ) -> None:
        """Train ``repeats`` fresh networks, each on what ``draw`` gives it.

        They are dealt out to the processes.
        """
        first = len(self.asked) * self.repeats
        self.asked.append((kind, repr(network)))
        for repeat in range(self.repeats):
            if (first + repeat) % parallel.world_size() != parallel.rank():
                continue
            self.on_progress(f"{kind}: {network!r}", repeat, self.repeats)
            module = network.build(
                self.data.image_shape,
                self.data.num_classes,
                generator=derive(self.seed, "evaluation network", repeat),
            ).to(device=self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
            generator = derive(self.seed, f"evaluation of {kind}", repeat)
            train_network(
                module, *draw(repeat), generator=generator, precision=self.precision
            )
            self.trained[first + repeat] = module
        self.on_progress(f"{kind}: {network!r}", self.repeats, self.repeats)

    def test(self) -> Evaluation:
        """Read the test set, once, and score every network on it."""
        test = self.data.read_test()
        own_scores = {
            job: self._scores(module, test) for job, module in self.trained.items()
        }
        scores: dict[int, dict[str, float]] = {}
        for part in parallel.gather_objects(own_scores):
            scores |= part
        results: dict[str, list[NetworkResult]] = {
            "distilled": [],
            "random": [],
            "full": [],
        }
        for number, (kind, spec) in enumerate(self.asked):
            first = number * self.repeats
            own = [scores[job] for job in range(first, first + self.repeats)]
            by_name = {name: tuple(found[name] for found in own) for name in own[0]}
            accuracies = by_name.pop("accuracy")
            results[kind].append(NetworkResult(spec, accuracies, by_name))
        return Evaluation(
            tuple(results["distilled"]),
            tuple(results["random"]),
            tuple(results["full"]),
            len(test.labels),
            self.protocol,
            self.recipe,
        )

    def _scores(self, module: FeatureNetwork, test: Images) -> dict[str, float]:
        """Return the accuracy of a network, and its retrieval scores if asked for."""
        on_test = partial(
            real_outputs,
            data=test,
            transform=self.distilled.transform,
            device=self.device,
            precision=self.precision,
        )
        found = {"accuracy": part_right(on_test(module), test.labels)}
        if self.protocol == "retrieval":
            found |= retrieval_scores(on_test(module.features), test.labels)
        return found

    def distilled_set(self, repeat: int) -> tuple[TrainingSet, Recipe]:
        """Return the distilled set."""
        del repeat
        training_set = training_set_of(
            self.distilled, device=self.device, teacher=self.teacher
        )
        return training_set, self.recipe

    def random_set(self, repeat: int) -> tuple[TrainingSet, Recipe]:
        """Return random real images of as many values as the set stores.

        Of each class its share, or all real ones if it has fewer.
        """
        held = torch.tensor(self.distilled.header.initial_classes)
        counts = held.bincount(minlength=self.data.num_classes)
        if self.distilled.budget != len(held):
            share = self.distilled.budget / len(held)
            counts = (counts * share).round().to(torch.int64)
            counts[held] = counts[held].clamp(min=1)
        train = self.data.train
        generator = derive(self.seed, "random real images", repeat)
        members = class_members(train.labels)
        chosen = random_members(members, counts.tolist(), generator)
        images = self.distilled.transform(train.images[chosen]).to(self.device)
        labels = self._real_labels(train.labels[chosen])
        training_set = TrainingSet(
            images.contiguous(memory_format=torch.channels_last),
            labels,
            self.distilled.header.label_kind,
            self.distilled.header.mirror,
        )
        return training_set, self.recipe

    def full_set(self, repeat: int) -> tuple[TrainingSet, Recipe]:
        """Return all real training images."""
        del repeat
        return self._full_set, real_data_recipe(_FULL_STEPS)

    @cached_property
    def _full_set(self) -> TrainingSet:
        source, transform = self.data.train.images, self.distilled.transform
        images: Tensor | Whitened = Whitened(source, transform, self.device)
        if isinstance(source, Tensor) and fits_in_memory(4 * source.numel()):
            images = images[:]
        return TrainingSet(
            images,
            self._real_labels(self.data.train.labels),
            self.distilled.header.label_kind,
            self.distilled.header.mirror,
        )

    def _real_labels(self, labels: Tensor) -> Tensor:
        """Return labels of the artifact's kind for real images."""
        meaning = LABEL_KINDS[self.distilled.header.label_kind]
        return meaning.targets(labels, self.data.num_classes).to(self.device)


def _kept_teacher(
    distilled: DistilledSet,
    data: RealData,
    plugins: Plugins,
    device: torch.device,
    precision: torch.dtype,
) -> Callable[[Tensor], Tensor] | None:
    """Return the teacher that a header names, from where it is kept or trained anew.

    Raises:
        OptionError: the artifact asks for more than it may.
    """
    record = distilled.header.views
    if record is None or record.teacher is None:
        return None
    network = plugins.network(record.teacher.network)
    refuse_huge(network, distilled)
    recipe = get_recipe(record.teacher.recipe)
    if recipe.steps > MOST_STEPS:
        raise OptionError(
            f"the artifact's teacher takes {recipe.steps:,} training steps, expected "
            f"at most {MOST_STEPS:,}"
        )
    _, real = sampler_of(
        data,
        seed=0,
        device=device,
        precision=precision,
        transform=distilled.transform,
    )
    task = Task(data.name, data.image_shape, data.num_classes, 1, None, data.mirror)
    run = Run(task, "", network, recipe.steps, 0, device, precision)
    module = TrainedNetwork(network, recipe).obtain(run, real, cache_folder())
    views, temperature = get_views(record.views), record.temperature
    return Teacher(module, views, temperature).label


def evaluate(
    distilled: DistilledSet | str | Path,
    networks: str | AbstractNetwork | Iterable[str | AbstractNetwork] = (),
    *,
    repeats: int = 5,
    protocol: str | Recipe = "auto",
    baselines: bool = False,
    data: "RealData | str | tuple[Tensor, Tensor] | Dataset[Any] | None" = None,
    data_root: str | Path | None = None,
    seed: int = 0,
    device: str = "auto",
    precision: Precision = "auto",
    plugins: Plugins | None = None,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> Evaluation:
    """Train fresh networks on a distilled set and test them on real data.

    All networks are trained before the test set is read; it is read once. What can be
    known of it without reading its images is checked before.

    Args:
        distilled: the set, or the path of an artifact or of a run's folder.
        networks: one spec, or several; by default the network that the set was
            distilled with, without normalisation if it is FRePo's.
        repeats: fresh networks for each spec, at least 1.
        protocol: how networks are trained: a name (see :func:`recipe_for`), or a
            :class:`~dd_plugins.training.Recipe` or its spec. ``"retrieval"`` asks also
            how well images of a class are found by a network's features, and turns
            ``baselines`` on; it needs pytorch-metric-learning.
        baselines: whether to train on as many random real images, drawn anew for each
            network, and on all real images as well.
        data: the real data, in any form that :func:`~dd_plugins.distill` takes; by
            default found by the name in the artifact. What is given by name, such as
            the ``"folder:PATH"`` to which a folder was moved, must hold the images that
            the set was distilled from.
        data_root: the folder that holds named data sets.
        seed: of networks, batches and random images.
        device: ``"auto"``, ``"cpu"``, ``"cuda"``, ...
        precision: of the networks' arithmetic.
        plugins: where names are looked up; by default all that is installed.
        on_progress: called with what is trained, how many are done, and of how many.

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
    networks: str | AbstractNetwork | Iterable[str | AbstractNetwork],
    *,
    repeats: int,
    protocol: str | Recipe,
    baselines: bool,
    data: Any,
    data_root: str | Path | None,
    seed: int,
    device: str,
    precision: Precision,
    plugins: Plugins | None,
    on_progress: Callable[[str, int, int], None] | None,
) -> Callable[[], Evaluation]:
    """Check all that an evaluation needs, and return what makes it.

    Arguments and errors are those of :func:`evaluate`.
    """
    repeats = whole_number("repeats", repeats, least=1)
    seed = whole_number("seed", seed)
    protocol = as_protocol(protocol)
    if protocol == "retrieval":
        require_metric_learning()
        baselines = True
    found = plugins or loaded_plugins()
    distilled = as_set(distilled)
    asked = as_networks(networks, found) or [own_network(distilled, found)]
    chosen = [network.for_evaluation() for network in asked]
    if len(set(map(repr, chosen))) < len(chosen):
        raise OptionError("a network is given twice; name each once")
    target = resolve_device(device)
    dtype = resolve_precision(precision, target)
    data = real_data_of(distilled, data, data_root, found)
    data.check_test()
    for network in chosen:  # whoever is too deep for the images says so now
        network.build(data.image_shape, data.num_classes, generator=derive(seed, ""))
    evaluator = _Evaluator(
        distilled,
        data,
        repeats,
        seed,
        target,
        dtype,
        on_progress or (lambda kind, done, total: None),
        recipe_for(distilled, protocol),
        "recipe" if isinstance(protocol, Recipe) else protocol,
        _kept_teacher(distilled, data, found, target, dtype),
    )

    @plain_torch()
    def run() -> Evaluation:
        for network in chosen:
            evaluator.train("distilled", network, evaluator.distilled_set)
            if baselines:
                evaluator.train("random", network, evaluator.random_set)
                evaluator.train("full", network, evaluator.full_set)
        found = evaluator.test()
        evaluator.trained.clear()  # several evaluations may be prepared at once
        return found

    return run
