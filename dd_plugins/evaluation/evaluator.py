"""The work of an evaluation: train every network, then read the test set once."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from dd_plugins.data.image_counts import in_proportion
from dd_plugins.data.images import Images, warn_if_trained_on
from dd_plugins.data.real import RealData
from dd_plugins.data.subsets import class_members, random_members
from dd_plugins.errors import DDWarning
from dd_plugins.evaluation.asked_scores import AskedScores
from dd_plugins.evaluation.jobs import Jobs, Kind
from dd_plugins.evaluation.network_files import NetworkFiles
from dd_plugins.evaluation.results import Evaluation, NetworkResult
from dd_plugins.evaluation.robustness import RobustnessScore, score_of_runs
from dd_plugins.evaluation.scoring import NetworkScores, score_networks
from dd_plugins.networks.base import AbstractNetwork
from dd_plugins.runtime import processes
from dd_plugins.runtime.memory import fits_on
from dd_plugins.runtime.randomness import generator_for
from dd_plugins.synthetic.artifact import DistilledSet
from dd_plugins.synthetic.labels import LABEL_KINDS, one_hot
from dd_plugins.synthetic.views import get_views
from dd_plugins.training.outputs import accuracy
from dd_plugins.training.protocols import training_set_of
from dd_plugins.training.recipes import Recipe
from dd_plugins.training.teacher import Teacher
from dd_plugins.training.train import (
    RealLabels,
    TrainingSet,
    Whitened,
)
from dd_plugins.training.view_labels import ViewLabels, hard_labels

__all__ = ["Evaluator"]

Predictor = Callable[[Tensor], Tensor]


@dataclass
class Evaluator:
    """The state of one evaluation: it trains all networks, then reads the test set.

    Attributes:
        distilled: the set.
        data: the real data.
        repeats: the number of fresh networks of each architecture and training set.
        seed: the seed of networks, batches and random images.
        device: the device of all tensors.
        precision: the dtype of the networks' arithmetic.
        recipes: the recipe of each network.
        full_recipe: the recipe of networks on all real images.
        protocol: the name of the protocol behind the recipes.
        teacher: the teacher of the set's views, or None.
        without_teacher: why random images get no labels from a teacher.
        scores: the further scores.
        scored_on: ``"test images"``, or ``"validation images"``.
        kept: the folder for trained networks; None to keep none.
    """

    distilled: DistilledSet
    data: RealData
    repeats: int
    seed: int
    device: torch.device
    precision: torch.dtype
    recipes: Sequence[Recipe]
    full_recipe: Recipe
    protocol: str
    teacher: Teacher | None = None
    without_teacher: str = ""
    scores: AskedScores = field(default_factory=AskedScores)
    scored_on: str = "test images"
    kept: Path | None = None

    @cached_property
    def jobs(self) -> Jobs:
        """The networks to train."""
        files = None
        if self.kept is not None:
            origin = {
                "set": self.distilled.content_hash(),
                "data": f"{self.data.fingerprint} {self.data.value_space}",
            }
            files = NetworkFiles(self.kept, origin)
        return Jobs(
            self.data.image_shape,
            self.data.num_classes,
            self.repeats,
            self.seed,
            self.device,
            self.precision,
            files,
        )

    def add(self, kind: Kind, network: AbstractNetwork, recipe: Recipe) -> None:
        """Add networks to train; those on all images have a recipe of their own."""
        if kind is Kind.FULL:
            recipe = self.full_recipe
        draw = _TRAINING_SETS[kind]
        self.jobs.add(kind, network, recipe, lambda repeat: draw(self, repeat, recipe))

    def regressions(self, baselines: bool) -> dict[Kind, list[Predictor]]:
        """Return the requested kernel regressions, by the kind of their training set.

        Only process 0 makes them: each is a single large computation.
        """
        kernel = self.scores.kernel
        if kernel is None or processes.rank() > 0:
            return {}
        random = range(self.repeats if baselines else 0)
        draws = {Kind.DISTILLED: range(1), Kind.RANDOM: random}
        found: dict[Kind, list[Predictor]] = {}
        for kind, repeats in draws.items():
            draw = _TRAINING_SETS[kind]
            drawn = [draw(self, repeat, self.recipes[0])[0] for repeat in repeats]
            found[kind] = [
                kernel.predictor(each.images[:], each.labels[:], each.label_kind)
                for each in drawn
            ]
        return found

    def test(self, baselines: bool = False) -> Evaluation:
        """Read the test set once, and score every network on it.

        Args:
            baselines: whether to score kernel regression from random real images too.
        """
        regressions = self.regressions(baselines)
        test = self.data.read_test()
        warn_if_trained_on(test, self.data.train)
        scores: dict[int, NetworkScores] = {}
        for part in processes.gather_objects(self._own_scores(test)):
            scores |= part
        results: dict[Kind, list[NetworkResult]] = {kind: [] for kind in Kind}
        for number, job in enumerate(self.jobs.jobs):
            own = [
                scores[self.jobs.number(number, repeat)]
                for repeat in range(self.repeats)
            ]
            result = NetworkResult(
                repr(job.network),
                tuple(each.accuracy for each in own),
                {
                    name: tuple(each.retrieval[name] for each in own)
                    for name in own[0].retrieval
                },
            )
            results[job.kind].append(result)
        kernel, random_kernel = self._kernel_results(regressions, test)
        return Evaluation(
            networks=tuple(results[Kind.DISTILLED]),
            random=tuple(results[Kind.RANDOM]),
            full=tuple(results[Kind.FULL]),
            test_images=len(test.labels),
            protocol=self.protocol,
            recipe=self.recipes[0] if len(set(self.recipes)) == 1 else None,
            kernel=kernel,
            random_kernel=random_kernel,
            hard=tuple(results[Kind.HARD]),
            taught_random=tuple(results[Kind.TAUGHT_RANDOM]),
            without_teacher=self.without_teacher,
            robustness=tuple(self._robustness(results)),
            recipes=tuple(self.recipes),
            full_recipe=self.full_recipe if results[Kind.FULL] else None,
            data=self.data.name,
            scored_on=self.scored_on,
            random_images=sum(_random_counts(self.distilled, self.data)),
        )

    def _robustness(
        self, results: dict[Kind, list[NetworkResult]]
    ) -> Iterator[RobustnessScore]:
        """Yield the robust scores of each network."""
        for number, own in enumerate(results[Kind.DISTILLED]):
            by = {
                kind: found[number].accuracies
                for kind, found in results.items()
                if found
            }
            if self.scores.lrs:
                # Random images get labels from the set's teacher, if it is at hand.
                random = by.get(Kind.TAUGHT_RANDOM, by[Kind.RANDOM])
                behind_full_data = by[Kind.FULL], by[Kind.HARD]
                above_random = by[Kind.DISTILLED], random
                yield score_of_runs("lrs", own.spec, behind_full_data, above_random)
            if self.scores.ars:
                pairs = [
                    (by[Kind.DISTILLED], by[Kind.RANDOM]),
                    (by[Kind.OTHER_VIEW], by[Kind.RANDOM_OTHER_VIEW]),
                ]
                if self.recipes[number].augmentation == "none":
                    pairs.reverse()
                yield score_of_runs("ars", own.spec, *pairs)

    def _kernel_results(
        self, regressions: dict[Kind, list[Predictor]], test: Images
    ) -> tuple[NetworkResult | None, NetworkResult | None]:
        """Return the accuracy of kernel regression from the set and random images."""
        scores = processes.broadcast_object(
            {
                kind: [
                    accuracy(each, test, self.distilled.transform, device=self.device)
                    for each in predictors
                ]
                for kind, predictors in regressions.items()
            }
        )
        distilled, random = (
            NetworkResult(repr(self.scores.kernel), tuple(scores[kind]))
            if scores.get(kind)
            else None
            for kind in (Kind.DISTILLED, Kind.RANDOM)
        )
        return distilled, random

    def _own_scores(self, test: Images) -> dict[int, NetworkScores]:
        """Return the scores of the networks trained by this process, by number.

        Warns:
            DDWarning: the training of a network has diverged.
        """
        found = score_networks(
            list(self.jobs.trained.values()),
            test,
            self.distilled.transform,
            device=self.device,
            precision=self.precision,
            retrieval=self.scores.retrieval,
        )
        for number, scores in zip(self.jobs.trained, found, strict=True):
            if scores.has_diverged:
                warnings.warn(
                    f"the training of a network has diverged "
                    f"({self.jobs.job_of(number)}): its outputs are not finite, and "
                    "such an image counts as wrong; take a smaller learning rate",
                    DDWarning,
                    stacklevel=2,
                )
        return dict(zip(self.jobs.trained, found, strict=True))

    def distilled_set(self, repeat: int, recipe: Recipe) -> tuple[TrainingSet, Recipe]:
        """Return the distilled set."""
        del repeat
        return self._distilled_set, recipe

    @cached_property
    def _distilled_set(self) -> TrainingSet:  # keeps a teacher's labels
        return training_set_of(self.distilled, device=self.device, teacher=self.teacher)

    def hard_set(self, repeat: int, recipe: Recipe) -> tuple[TrainingSet, Recipe]:
        """Return the distilled set, its images or their views with hard labels."""
        del repeat
        classes = torch.tensor(self.distilled.header.initial_classes)
        images = self._distilled_set.images[:]
        if self.distilled.header.views is not None:
            return self._by_class(images, classes, recipe)
        labels = self._real_labels(classes)
        return replace(self._distilled_set, labels=labels), _hard(recipe)

    def other_view(self, repeat: int, recipe: Recipe) -> tuple[TrainingSet, Recipe]:
        """Return the distilled set, and its recipe without augmentation.

        A recipe without augmentation gets DSA's instead.
        """
        return self._otherwise(*self.distilled_set(repeat, recipe))

    def random_other(self, repeat: int, recipe: Recipe) -> tuple[TrainingSet, Recipe]:
        """Return random real images, and the same recipe as for :meth:`other_view`."""
        return self._otherwise(*self.random_set(repeat, recipe))

    @staticmethod
    def _otherwise(images: TrainingSet, recipe: Recipe) -> tuple[TrainingSet, Recipe]:
        if recipe.augmentation == "none":
            return images, replace(recipe, augmentation="dsa")
        return images, replace(recipe, augmentation="none")

    def random_set(self, repeat: int, recipe: Recipe) -> tuple[TrainingSet, Recipe]:
        """Return random real images with as many values as the set stores.

        Each class gets its share, or all its real images if it has fewer. If the set
        has views, networks see these images in the same views.
        """
        images, classes = self._random_images(repeat)
        if self.distilled.header.views is not None:
            return self._by_class(images, classes, recipe)
        training_set = TrainingSet(
            images,
            self._real_labels(classes),
            self.distilled.header.label_kind,
            self.distilled.header.mirror,
        )
        return training_set, _hard(recipe)

    def taught_random(self, repeat: int, recipe: Recipe) -> tuple[TrainingSet, Recipe]:
        """Return the random real images with the teacher's labels of their views."""
        assert self.teacher is not None
        images, classes = self._random_images(repeat)
        mirror = self.distilled.header.mirror
        views = self.teacher.view_labels(mirror=mirror)
        labels = one_hot(classes, self.data.num_classes).to(self.device)
        return TrainingSet(images, labels, "probabilities", mirror, views), recipe

    def _by_class(
        self, images: Tensor, classes: Tensor, recipe: Recipe
    ) -> tuple[TrainingSet, Recipe]:
        """Return a training set of images in the views of the set, with hard labels."""
        record = self.distilled.header.views
        assert record is not None
        views, mirror = get_views(record.views), self.distilled.header.mirror
        labels = one_hot(classes, self.data.num_classes).to(self.device)
        labelled = ViewLabels(views, hard_labels(views, labels), mirror)
        training_set = TrainingSet(images, labels, "probabilities", mirror, labelled)
        return training_set, _hard(recipe)

    def _random_images(self, repeat: int) -> tuple[Tensor, Tensor]:
        """Return random real images in the value space, and their classes."""
        train = self.data.train
        generator = generator_for(self.seed, "random real images", repeat)
        members = class_members(train.labels)
        counts = _random_counts(self.distilled, self.data)
        chosen = random_members(members, counts, generator)
        images = self.distilled.transform(train.images[chosen]).to(self.device)
        images = images.contiguous(memory_format=torch.channels_last)
        return images, train.labels[chosen]

    def full_set(self, repeat: int, recipe: Recipe) -> tuple[TrainingSet, Recipe]:
        """Return all real training images."""
        del repeat
        return self._full_set, recipe

    @cached_property
    def _full_set(self) -> TrainingSet:
        source, transform = self.data.train.images, self.distilled.transform
        images: Tensor | Whitened = Whitened(source, transform, self.device)
        if isinstance(source, Tensor) and fits_on(self.device, 4 * source.numel()):
            images = images[:]
        return TrainingSet(
            images,
            RealLabels(
                self.data.train.labels,
                self.data.num_classes,
                self.distilled.header.label_kind,
                self.device,
            ),
            self.distilled.header.label_kind,
            self.distilled.header.mirror,
        )

    def _real_labels(self, labels: Tensor) -> Tensor:
        """Return labels of the artifact's kind for real images."""
        meaning = LABEL_KINDS[self.distilled.header.label_kind]
        return meaning.targets(labels, self.data.num_classes).to(self.device)


def _random_counts(distilled: DistilledSet, data: RealData) -> list[int]:
    """Return the number of random real images of each class, as a baseline of a set.

    The set's stored values make as many images. They are divided among the classes like
    its own, at least one for each class that it holds. A class has at most all of its
    real images.
    """
    held = torch.tensor(distilled.header.initial_classes)
    own = held.bincount(minlength=data.num_classes).tolist()
    total = max(distilled.budget, sum(count > 0 for count in own))
    real = data.train.labels.bincount(minlength=data.num_classes).tolist()
    return list(map(min, in_proportion(total, own), real))


def _hard(recipe: Recipe) -> Recipe:
    """Return a recipe for hard labels, which have no temperature."""
    return replace(recipe, temperature=1.0)


# Each training set is drawn for a repeat and a recipe.
_TRAINING_SETS: Mapping[
    Kind, Callable[[Evaluator, int, Recipe], tuple[TrainingSet, Recipe]]
] = {
    Kind.DISTILLED: Evaluator.distilled_set,
    Kind.HARD: Evaluator.hard_set,
    Kind.TAUGHT_RANDOM: Evaluator.taught_random,
    Kind.RANDOM: Evaluator.random_set,
    Kind.FULL: Evaluator.full_set,
    Kind.OTHER_VIEW: Evaluator.other_view,
    Kind.RANDOM_OTHER_VIEW: Evaluator.random_other,
}
