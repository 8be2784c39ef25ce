"""The data of a class-incremental stream, and the networks that are trained on it."""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

import dd_plugins
from dd_avalanche.comparison.experiment import Experiment
from dd_plugins.api import (
    AbstractNetwork,
    Images,
    TrainingSet,
    Transform,
    Whitened,
    accuracy,
    centred_targets,
    generator_for,
    real_data_recipe,
    resolve_device,
    resolve_precision,
    train_network,
)

__all__ = ["ClassStream"]

_JOINT_STEPS = 500


class ClassStream:
    """The data of one order of classes, in the space of the model.

    Args:
        experiment: what all streams share.
        data: the real data of the benchmark.
        test: its test images.
        seed: the seed of the order.
    """

    def __init__(
        self, experiment: Experiment, data: dd_plugins.RealData, test: Images, seed: int
    ) -> None:
        self.experiment, self.data, self.test, self.seed = experiment, data, test, seed
        classes, parts = data.num_classes, experiment.experiences
        # NumPy's legacy generator: the orders that FRePo and DM publish for CIFAR-100.
        order = np.random.RandomState(seed).permutation(classes).tolist()
        size = classes // parts
        self.order = [order[part * size : (part + 1) * size] for part in range(parts)]
        # Of the first experience alone: nothing is fitted to images that come later.
        first = self.members(data.train.labels, self.order[0])
        kind: Literal["zca", "standardize"] = (
            "zca" if experiment.whitening == "first" else "standardize"
        )
        self.transform = Transform.fit(data.train.images[first], kind)
        channels = data.image_shape[0]
        self._unchanged = Transform.identity(channels)
        self.device = resolve_device(experiment.device)
        self.precision = resolve_precision("auto", self.device)

    @staticmethod
    def members(labels: Tensor, classes: Sequence[int]) -> Tensor:
        """Return the indices of the images of these classes."""
        return torch.isin(labels, torch.tensor(classes)).nonzero().flatten()

    def train(self, part: int) -> tuple[Tensor, Tensor]:
        """Return the training images of an experience, and their classes."""
        indices = self.members(self.data.train.labels, self.order[part])
        images = self.transform(self.data.train.images[indices])
        return images, self.data.train.labels[indices]

    @cached_property
    def tests(self) -> list[Images]:
        """The test images of each experience, in the space of the model."""
        indices = [self.members(self.test.labels, classes) for classes in self.order]
        return [
            Images(self.transform(self.test.images[part]), self.test.labels[part])
            for part in indices
        ]

    def score(self, network: Callable[[Tensor], Tensor], parts: int) -> list[float]:
        """Return the accuracy on each of the first experiences."""
        return [
            accuracy(
                network,
                test,
                self._unchanged,
                device=self.device,
                precision=self.precision,
            )
            for test in self.tests[:parts]
        ]

    def fresh_network(self, purpose: str, step: int) -> Any:
        """Build a network with fresh weights."""
        network: AbstractNetwork = dd_plugins.get_network(self.experiment.network)
        return network.for_evaluation().build(
            self.data.image_shape,
            self.data.num_classes,
            generator=generator_for(self.seed, purpose, step),
            device=self.device,
        )

    @cached_property
    def joint(self) -> list[float]:
        """The accuracy on each experience of a network trained on all real images."""
        train = self.data.train
        network = train_network(
            self.fresh_network("network", -1),
            TrainingSet(
                Whitened(train.images, self.transform, self.device),
                centred_targets(train.labels, self.data.num_classes).to(self.device),
                "regression",
                self.data.mirror,
            ),
            real_data_recipe(self.experiment.training_steps or _JOINT_STEPS),
            generator=generator_for(self.seed, "training", -1),
            precision=self.precision,
        )
        return self.score(network, self.experiment.experiences)
