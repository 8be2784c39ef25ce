"""The auxiliary networks of MetaDD: frozen ones, and ones in training."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dd_plugins.data.sampler import RealSampler
from dd_plugins.distillers.online_models import Pool, PoolState
from dd_plugins.distillers.state import AbstractState
from dd_plugins.errors import OptionError
from dd_plugins.functional.augment import random_augmentation
from dd_plugins.networks.activation_maps import map_layer
from dd_plugins.networks.base import (
    AbstractNetwork,
    FeatureNetwork,
    features_in_chunks,
)
from dd_plugins.run import Run
from dd_plugins.synthetic.labels import LabelKind
from dd_plugins.training.kept_networks import TrainedNetwork
from dd_plugins.training.obtaining import obtained
from dd_plugins.training.recipes import real_data_recipe
from dd_plugins.wrappers.base import WrappedState
from dd_plugins.wrappers.metadd.agreement import Auxiliary, FeatureStatistics

__all__ = [
    "EPSILON",
    "LARGEST_BATCH",
    "FrozenState",
    "LearningAuxiliaries",
    "LearningState",
    "check_maps",
    "frozen_auxiliary",
    "trained_networks",
]

EPSILON = 1e-12
_PROJECTED = 128  # dimensions of the space in which features are compared
_UNDER_ONE_OPERATION = 4  # real images that share one augmentation
_MEASURED = 256  # real images of a class whose features make its mean
_MOST_UPDATES = 100  # of a learning network, as in FRePo's pool
_LEARNING_RATE = 1e-3
LARGEST_BATCH = 1000
"""The most images of a training step of a learning network, as in FRePo."""


def frozen_auxiliary(
    module: FeatureNetwork, number: int, run: Run, real: RealSampler, *, augment: bool
) -> Auxiliary:
    """Measure the features of the real data in a trained network.

    Args:
        module: the network; it has maps (see :func:`check_maps`).
        number: the number of its architecture; each has its own projection.
        run: the run.
        real: all training images.
        augment: whether the statistics are of augmented images.
    """
    layer = map_layer(module.cpu(), run.task.image_shape)
    module.to(run.device)
    means, variances = {}, []
    for label in real.classes:
        images = real.class_batch(0, label, _MEASURED, shared=True).images
        with torch.no_grad():
            view = _real_view(run, images, label) if augment else images
            features = features_in_chunks(module, view).float()
        means[label] = features.mean(dim=0)
        variances.append(features.var(dim=0, correction=0).mean())
    generator = run.generator("metadd projection", number)
    absent = torch.zeros_like(next(iter(means.values())))
    projection = torch.randn(len(absent), _PROJECTED, generator=generator)
    known = FeatureStatistics(
        projection.to(run.device) / _PROJECTED**0.5,
        torch.stack([means.get(n, absent) for n in range(run.task.num_classes)]),
        torch.tensor([n in means for n in range(run.task.num_classes)]).to(run.device),
        torch.stack(variances).mean() + EPSILON,
    )
    return Auxiliary(module.cpu(), layer, known)


def trained_networks(
    wanted: Sequence[tuple[AbstractNetwork, int, int]], run: Run, real: RealSampler
) -> Iterator[FeatureNetwork]:
    """Yield networks trained on the real data, loaded if they are kept.

    Args:
        wanted: the architecture, the number of training steps, and the seed of each.
        run: the run.
        real: all training images.
    """
    return obtained(
        [
            TrainedNetwork(network, real_data_recipe(stage), seed)
            for network, stage, seed in wanted
        ],
        run,
        real,
        "train",
        what="network",
        refusal=_refusal,
    )


def _refusal(count: int, folder: Path) -> OptionError:
    return OptionError(f"metadd: {count} networks are missing in {folder}")


def check_maps(network: AbstractNetwork, run: Run) -> None:
    """Refuse an architecture without maps, before it is trained.

    Raises:
        OptionError: the architecture has no maps, or does not accept such images.
    """
    shape, classes = run.task.image_shape, run.task.num_classes
    fresh = network.build(shape, classes, generator=run.generator("auxiliary shape"))
    try:
        map_layer(fresh, shape)
    except OptionError as error:
        raise OptionError(f"metadd: {network!r} cannot be used: {error}") from error


def _real_view(run: Run, images: Tensor, label: int) -> Tensor:
    """Return real images of a class, a few under each of many augmentations.

    One random augmentation applies one operation to a whole batch, but the mean of the
    features must be over many operations.
    """
    generator = run.generator("metadd real augmentation", label)
    return torch.cat(
        [
            random_augmentation(part, generator=generator, mirror=run.task.mirror)
            for part in torch.split(images, _UNDER_ONE_OPERATION)
        ]
    )


@dataclass
class LearningAuxiliaries(PoolState):
    """Networks of several architectures in training on the set while it is learned.

    The slots of the pool take the architectures in turn. At each step of the run one
    network takes a training step or, after a hundred of them, is replaced by a fresh
    one. All processes train the same networks.

    Attributes:
        recipe: the architectures, and how fresh networks are made.
    """

    recipe: Pool

    @classmethod
    def of(
        cls, run: Run, architectures: Sequence[AbstractNetwork], seeds: int
    ) -> "LearningAuxiliaries":
        """Return fresh networks whose ages are staggered.

        Args:
            run: the run.
            architectures: the architectures of the networks.
            seeds: the number of networks of each.
        """
        pool, size = (
            Pool(tuple(architectures), _LEARNING_RATE),
            seeds * len(architectures),
        )
        return cls(
            run,
            {
                slot: pool.fresh_model(run, slot, -1, slot * _MOST_UPDATES // size)
                for slot in range(size)
            },
            pool,
        )

    def merge(self, parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return the networks of the first process: all processes have the same."""
        return AbstractState.merge(self, parts)

    def auxiliary(self, architecture: int, draw: int) -> Auxiliary:
        """Return one of the networks of an architecture, with the layer of its maps."""
        network = self.network(architecture, draw)
        return Auxiliary(network, map_layer(network, self.run.task.image_shape))

    def network(self, architecture: int, draw: int) -> FeatureNetwork:
        """Return one of the networks of an architecture, in evaluation mode.

        Args:
            architecture: the number of the architecture.
            draw: a number of any size, to choose among its networks.
        """
        count = len(self.recipe.architectures)
        slots = range(architecture, len(self.pool), count)
        return self.pool[slots[draw % len(slots)]].network.eval()

    def learn(
        self,
        pixels: Tensor,
        labels: Tensor,
        kind: LabelKind,
        step: int,
        *,
        augment: bool,
    ) -> None:
        """Train one network on the set by a step, or replace it.

        Args:
            pixels: the images.
            labels: their labels, as the set is saved.
            kind: the kind of the labels.
            step: the step of the run.
            augment: whether the network sees a random augmentation of the images.
        """
        slot = step % len(self.pool)
        model = self.pool[slot]
        if model.updates >= _MOST_UPDATES:
            self.pool[slot] = self.recipe.fresh_model(self.run, slot, step, 0)
            return
        view, labels = pixels.detach(), labels.detach()
        if len(view) > LARGEST_BATCH:
            generator = self.run.generator("metadd learning batch", step)
            order = torch.randperm(len(view), generator=generator)
            chosen = order[:LARGEST_BATCH].to(view.device)
            view, labels = view[chosen], labels[chosen]
        if augment:
            generator = self.run.generator("metadd learning", step)
            view = random_augmentation(
                view, generator=generator, mirror=self.run.task.mirror
            ).contiguous(memory_format=torch.channels_last)
        layers = self.run.generator("layers of metadd learning", step)
        with self.run.layers_drawing_from(layers):
            model.train(self.run, view, labels, kind)
        model.updates += 1


@dataclass
class FrozenState(WrappedState):
    """The base's state, and networks trained on the real data beforehand.

    Attributes:
        auxiliaries: the networks, by architecture, then stage and seed.
        teacher: a network of the run's architecture; of ``variant="paper"`` alone.
    """

    auxiliaries: list[list[Auxiliary]]
    teacher: FeatureNetwork | None

    def chosen(
        self, picks: Sequence[tuple[int, int]]
    ) -> tuple[list[Auxiliary], FeatureNetwork | None]:
        """Return networks and the teacher.

        Args:
            picks: the number of an architecture, and of a network among its own.
        """
        return [self.auxiliaries[number][pick] for number, pick in picks], self.teacher


@dataclass
class LearningState(WrappedState):
    """The base's state, and networks in training on the set.

    Attributes:
        learning: the networks. The architecture of the teacher is the first, if there
            is one.
        has_teacher: whether there is one: for ``variant="paper"`` alone.
    """

    learning: LearningAuxiliaries
    has_teacher: bool

    def chosen(
        self, picks: Sequence[tuple[int, int]]
    ) -> tuple[list[Auxiliary], FeatureNetwork | None]:
        """Return networks and a teacher, as :meth:`FrozenState.chosen`."""
        if not self.has_teacher:
            return [self.learning.auxiliary(*pick) for pick in picks], None
        found = [self.learning.auxiliary(1 + number, pick) for number, pick in picks]
        return found, self.learning.network(0, picks[0][1])

    def state_dict(self) -> dict[str, Any]:
        """Return the states of the base and of the networks."""
        return {"base": super().state_dict(), "learning": self.learning.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a result of :meth:`state_dict`."""
        self.learning.load_state_dict(state["learning"])
        super().load_state_dict(state["base"])

    def merge(self, parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Merge the states of the base and of the networks."""
        return {
            "base": super().merge([part["base"] for part in parts]),
            "learning": self.learning.merge([part["learning"] for part in parts]),
        }
