"""Evaluation: train fresh networks on a distilled set, test them on real data, once."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.utils.data import Dataset

from dd_plugins import parallel
from dd_plugins.arguments import as_networks, as_real_data, was_asked_for
from dd_plugins.artifact import DistilledSet, as_set
from dd_plugins.checks import whole_number
from dd_plugins.data import (
    DataOptions,
    Images,
    RealData,
    class_members,
    random_members,
    sampler_of,
)
from dd_plugins.errors import DataError, OptionError, UnknownNameError
from dd_plugins.labels import LABEL_KINDS
from dd_plugins.metric import require_metric_learning, retrieval_scores
from dd_plugins.networks.base import AbstractNetwork, FeatureNetwork, ImageShape
from dd_plugins.plugins import Plugins, loaded_plugins
from dd_plugins.randomness import derive, isolated
from dd_plugins.recipes import (
    Recipe,
    classic_recipe,
    default_recipe,
    frepo_recipe,
    get_recipe,
    real_data_recipe,
)
from dd_plugins.run import (
    Precision,
    Run,
    Task,
    plain_torch,
    resolve_device,
    resolve_precision,
)
from dd_plugins.streamed import fits_in_memory
from dd_plugins.trained import TrainedNetwork, cache_folder
from dd_plugins.training import (
    TrainingSet,
    Whitened,
    part_right,
    real_outputs,
    train_network,
)
from dd_plugins.views import Teacher, ViewLabels, get_views

__all__ = [
    "Evaluation",
    "NetworkResult",
    "Protocol",
    "as_protocol",
    "evaluate",
    "mean_interval",
    "own_network",
    "prepare_evaluation",
    "real_data_of",
    "recipe_for",
    "refuse_huge",
    "training_set_of",
]

Protocol = Literal["auto", "frepo", "classic", "retrieval"]
"""How networks are trained on a distilled set, and what is asked of them."""

_FULL_STEPS = 1_000

_MOST_STEPS = 100_000  # that an artifact may ask for without being asked

# What the network that an artifact names may take; larger ones must be asked for.
_MOST_PARAMETERS = 250_000_000  # 1 GB of weights
_MOST_TENSORS = 10_000
_LARGEST_OPTION = 20_000


def mean_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Return the 95 % interval of the mean (Student's t); None for a single value."""
    if len(values) < 2:
        return None
    from scipy.stats import t

    count, mean = len(values), float(np.mean(values))
    deviation = float(np.std(values, ddof=1))
    half = float(t.ppf(0.975, count - 1)) * deviation / math.sqrt(count)
    return mean - half, mean + half


@dataclass(frozen=True)
class NetworkResult:
    """The accuracies of several networks of one architecture.

    Attributes:
        spec: the spec of the network.
        accuracies: test accuracy of each trained network, in [0, 1].
        retrieval: by the name of a score (see :func:`~dd_plugins.metric.\
retrieval_scores`), that of each network's features, in [0, 1]; empty if not asked for.
    """

    spec: str
    accuracies: tuple[float, ...]
    retrieval: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    @property
    def mean(self) -> float:
        """Return the mean accuracy."""
        return float(np.mean(self.accuracies))

    @property
    def std(self) -> float | None:
        """Return the sample standard deviation; None for a single network."""
        if len(self.accuracies) < 2:
            return None
        return float(np.std(self.accuracies, ddof=1))

    @property
    def ci95(self) -> tuple[float, float] | None:
        """Return the 95 % interval of the mean (Student's t); None for one network."""
        return mean_interval(self.accuracies)

    def as_dict(self) -> dict[str, Any]:
        """Return the form that ``--json`` writes."""
        return {
            "spec": self.spec,
            "accuracy_mean": self.mean,
            "accuracy_std": self.std,
            "accuracy_ci95": None if self.ci95 is None else list(self.ci95),
            "accuracies": list(self.accuracies),
        } | (
            {"retrieval": {name: _figures(scores) for name, scores in retrieval}}
            if (retrieval := self.retrieval.items())
            else {}
        )


def _figures(scores: Sequence[float]) -> dict[str, Any]:
    interval = mean_interval(scores)
    return {
        "mean": float(np.mean(scores)),
        "ci95": None if interval is None else list(interval),
        "scores": list(scores),
    }


@dataclass(frozen=True)
class Evaluation:
    """What :func:`evaluate` found.

    Attributes:
        networks: one result for each architecture, trained on the distilled set.
        random: the same, trained on as many random real images; empty if not asked for.
        full: the same, trained on all real images; empty if not asked for.
        test_images: the number of test images.
        protocol: the one that was asked for; ``"recipe"`` if a recipe was given.
        recipe: how the networks were trained on the distilled set and on random images.
    """

    networks: tuple[NetworkResult, ...]
    random: tuple[NetworkResult, ...] = ()
    full: tuple[NetworkResult, ...] = ()
    test_images: int = 0
    protocol: str = "auto"
    recipe: Recipe | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the form that ``--json`` writes.

        Each baseline has the form of a network's result, that of the first network;
        with several networks its ``networks`` lists all of them.
        """
        found: dict[str, Any] = {
            "networks": [result.as_dict() for result in self.networks],
            "test_images": self.test_images,
            "protocol": self.protocol,
            "recipe": None if self.recipe is None else self.recipe.options(),
        }
        named = {"random": self.random, "full": self.full}
        baselines = {
            name: results[0].as_dict()
            | {"networks": [result.as_dict() for result in results]}
            for name, results in named.items()
            if results
        }
        return found | ({"baselines": baselines} if baselines else {})


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


def training_set_of(
    distilled: DistilledSet,
    *,
    device: torch.device,
    teacher: Callable[[Tensor], Tensor] | None = None,
) -> TrainingSet:
    """Return what networks are trained on for a distilled set.

    Args:
        distilled: the set.
        device: where its tensors are put.
        teacher: labels the views of the images; None if they are stored. Without it a
            set whose teacher is not stored is trained on by the labels of its images.
    """
    images = distilled.images.to(device)
    return TrainingSet(
        images.contiguous(memory_format=torch.channels_last),
        distilled.labels.to(device),
        distilled.header.label_kind,
        distilled.header.mirror,
        _views_of(distilled, device, teacher),
    )


def _views_of(
    distilled: DistilledSet,
    device: torch.device,
    teacher: Callable[[Tensor], Tensor] | None,
) -> ViewLabels | None:
    """Return the labels of a set's views, stored or by its teacher."""
    record, stored = distilled.header.views, distilled.view_labels
    if record is None or (stored is None and teacher is None):
        return None
    return ViewLabels(
        get_views(record.views),
        None if stored is None else stored.to(device),
        teacher,
        distilled.header.mirror,
    )


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
    if recipe.steps > _MOST_STEPS:
        raise OptionError(
            f"the artifact's teacher takes {recipe.steps:,} training steps, expected "
            f"at most {_MOST_STEPS:,}"
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


def as_protocol(protocol: str | Recipe) -> Protocol | Recipe:
    """Return a protocol by its name, or the recipe that a spec stands for.

    Raises:
        OptionError: it is neither, or an option of the recipe is out of its range.

    Example:
        >>> as_protocol("recipe(steps=300)")
        recipe(steps=300)
    """
    if isinstance(protocol, Recipe):
        return protocol
    for name in get_args(Protocol):
        if protocol == name:
            return cast(Protocol, name)
    if not isinstance(protocol, str) or not protocol.startswith(Recipe.name):
        raise OptionError(
            f"protocol: expected {', '.join(get_args(Protocol))} or a recipe, such as "
            f"'recipe(steps=300)', got {protocol!r}"
        )
    return get_recipe(protocol)


def recipe_for(distilled: DistilledSet, protocol: Protocol | Recipe = "auto") -> Recipe:
    """Return how networks are trained on a distilled set.

    Args:
        distilled: the set.
        protocol: ``"frepo"`` or ``"classic"`` (see :mod:`dd_plugins.recipes`);
            ``"auto"`` is the recipe in the set's header, which its method has chosen,
            and so is ``"retrieval"``. A recipe is taken as it is.

    Raises:
        OptionError: the header holds no recipe that this version knows, or one of more
            steps than an artifact may ask for.
    """
    if isinstance(protocol, Recipe):
        return protocol
    count = len(distilled)
    if protocol == "frepo":
        return frepo_recipe(count)
    if protocol == "classic":
        return classic_recipe(count)
    usual = default_recipe(distilled.header.label_kind, count)
    if distilled.header.recipe is None:
        return usual
    own = get_recipe(distilled.header.recipe)
    if own.steps > max(_MOST_STEPS, 10 * usual.steps):
        raise OptionError(
            f"the artifact asks for {own.steps:,} training steps, expected at most "
            f"{max(_MOST_STEPS, 10 * usual.steps):,}; if they are wanted, name its "
            f"recipe by --protocol: {own!r}"
        )
    return own


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


def own_network(distilled: DistilledSet, plugins: Plugins) -> AbstractNetwork:
    """Return the network that a set names for its evaluation.

    An artifact may come from anywhere: a network that would fill the memory is not
    built because the artifact says so.

    Raises:
        OptionError: it is larger than an artifact may ask for, or too deep for the
            images, or its spec is malformed.
        UnknownNameError: no plugin registers it.
    """
    network = plugins.network(distilled.header.evaluation_network)
    refuse_huge(network, distilled)
    return network


def refuse_huge(network: AbstractNetwork, distilled: DistilledSet) -> None:
    """Refuse a network that an artifact names and that would fill the memory.

    Raises:
        OptionError: it is larger than an artifact may ask for, or too deep for the
            images.
    """
    channels, height, width = distilled.images.shape[1:]
    classes = len(distilled.header.class_names)
    if _is_huge(network, (channels, height, width), classes):
        raise OptionError(
            f"the artifact names the network {network!r}, which is larger than an "
            f"artifact may ask for ({_MOST_PARAMETERS:,} parameters); name a network "
            "by --network, or this one if it is wanted"
        )


def _is_huge(network: AbstractNetwork, shape: ImageShape, classes: int) -> bool:
    """Tell whether a network is larger than what an artifact may ask for.

    It is built of tensors without memory, and no further than its size is known.
    """
    options = network.options().values()
    if any(isinstance(each, int) and each > _LARGEST_OPTION for each in options):
        return True
    tensors = parameters = 0

    def count(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal tensors, parameters
        del module, name
        if parameter is not None:
            tensors, parameters = tensors + 1, parameters + parameter.numel()
        if parameters > _MOST_PARAMETERS or tensors > _MOST_TENSORS:
            raise _HugeNetworkError

    generator = derive(0, "size of a network")
    hook = register_module_parameter_registration_hook(count)
    try:
        with isolated(generator), torch.device("meta"):
            built = network.construct(shape, classes, generator=generator)
            sizes = [
                parameter.numel() for parameter in built.parameters()
            ]  # copies too
    except _HugeNetworkError:
        return True
    except OptionError:
        raise
    except Exception:  # a plugin's network that needs values: it is built as it is
        return False
    finally:
        hook.remove()
    return sum(sizes) > _MOST_PARAMETERS or len(sizes) > _MOST_TENSORS


class _HugeNetworkError(Exception):
    """Ends the construction of a network whose size is known well enough."""


def real_data_of(
    distilled: DistilledSet,
    data: Any,
    data_root: str | Path | None,
    plugins: Plugins,
) -> RealData:
    """Return the real data that belongs to a set.

    Args:
        distilled: the set.
        data: the data, if it is at hand, in any form that ``distill`` takes; by default
            found by the name in the artifact.
        data_root: the folder that holds named data sets.
        plugins: where the name is looked up.

    Raises:
        OptionError: the data is of no such form.
        DataError: it cannot be read, or does not fit the set.
    """
    root = None if data_root is None else Path(data_root)
    options = DataOptions(root=root, image_size=distilled.header.dataset.image_size)
    if data is None or isinstance(data, str):
        found = _data_by_name(distilled, data, plugins, options)
    else:
        found = as_real_data(data, options, plugins)
    _check_fit(distilled, found)
    return found


def _data_by_name(
    distilled: DistilledSet, given: str | None, plugins: Plugins, options: DataOptions
) -> RealData:
    """Load the data that a set was distilled from; refuse it if it has changed.

    It comes as it was when the set was distilled: with that preprocessing.
    """
    header, record = distilled.header, distilled.header.dataset
    name = record.name if given is None else given
    if given is None and not was_asked_for(name):
        raise DataError(
            f"the artifact names {name!r} for its real data, which nobody has asked "
            f"for here, so it was not read; if it is yours, say so by --dataset "
            f"{name!r} (data={name!r} in Python), or name the place where the images "
            "are now"
        )
    try:
        data = as_real_data(name, options, plugins)
    except UnknownNameError as error:
        if given is not None:
            raise
        raise DataError(
            f"the set was distilled from {name!r}, which no plugin offers here; "
            "if it was given in Python, pass data=... there"
        ) from error
    except DataError as error:
        if given is not None:
            raise
        raise DataError(
            f"{error}; if the images have moved, name their place by --dataset"
        ) from error
    if data.fingerprint != record.fingerprint:
        raise DataError(
            f"the training images of {name!r} are not those that the set was "
            "distilled from, so test images could be among them; distil again, name "
            "the place of the right ones by --dataset, or pass data=... in Python"
        )
    if data.preprocessing != header.value_space:
        data = data.with_preprocessing(header.value_space)
    return replace(data, mirror=header.mirror)


def _check_fit(distilled: DistilledSet, data: RealData) -> None:
    """Refuse real data of other classes or another shape than the distilled set's."""
    if list(data.class_names) != distilled.header.class_names:
        raise DataError(
            f"the set was distilled for classes {distilled.header.class_names[:5]}..., "
            f"the data has {list(data.class_names[:5])}..."
        )
    if data.image_shape != tuple(distilled.images.shape[1:]):
        raise DataError(
            f"the set has images of shape {tuple(distilled.images.shape[1:])}, "
            f"the data {data.image_shape}"
        )
