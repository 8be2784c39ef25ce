"""The data of a stream, and networks for it."""

from abc import ABC, abstractmethod
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
    DataError,
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

__all__ = [
    "AbstractStream",
    "ClassStream",
    "DomainStream",
    "check_scored",
    "stream_for",
]

_JOINT_STEPS = 500


class AbstractStream(ABC):
    """The data of one stream, in the space of the model.

    Args:
        experiment: the common options of all streams.
        data: the real data of the benchmark.
        scored: the images for scoring networks: test or validation images.
        seed: the seed of the stream.
    """

    def __init__(
        self,
        experiment: Experiment,
        data: dd_plugins.RealData,
        scored: Images,
        seed: int,
    ) -> None:
        self.experiment, self.data, self.scored, self.seed = (
            experiment,
            data,
            scored,
            seed,
        )
        self.device = resolve_device(experiment.device)
        self.precision = resolve_precision("auto", self.device)
        kind: Literal["zca", "standardize"] = (
            "zca" if experiment.whitening == "first" else "standardize"
        )
        # Only the first experience is used: nothing may be fitted to later images.
        self.transform = Transform.fit(self.pixels(0).images[:], kind)

    @abstractmethod
    def pixels(self, part: int) -> Images:
        """Return the training images of an experience, and their classes."""

    @abstractmethod
    def scored_pixels(self, part: int) -> Images:
        """Return the scored images of an experience, and their classes."""

    def classes_told(self, part: int) -> Sequence[int] | None:
        """Return the classes of an experience if tests know them; None here."""
        del part
        return None

    def everything(self) -> Images:
        """Return the training images of all experiences."""
        parts = [self.pixels(each) for each in range(self.experiment.experiences)]
        images = torch.cat([each.images[:] for each in parts])
        return Images(images, torch.cat([each.labels for each in parts]))

    def train(self, part: int) -> tuple[Tensor, Tensor]:
        """Return the training images of an experience, and their classes."""
        images, labels = self.pixels(part)
        return self.transform(images[:]), labels

    def score(self, network: Callable[[Tensor], Tensor], parts: int) -> list[float]:
        """Return the accuracy on each of the first experiences."""
        return [
            accuracy(
                self._told(network, part),
                self.scored_pixels(part),
                self.transform,
                device=self.device,
                precision=self.precision,
            )
            for part in range(parts)
        ]

    def _told(
        self, network: Callable[[Tensor], Tensor], part: int
    ) -> Callable[[Tensor], Tensor]:
        """Return the network, restricted to the known classes of a part."""
        classes = self.classes_told(part)
        if classes is None:
            return network

        def among(images: Tensor) -> Tensor:
            outputs = network(images)
            others = torch.ones(outputs.shape[1], dtype=torch.bool)
            others[list(classes)] = False
            return outputs.masked_fill(others.to(outputs.device), -torch.inf)

        return among

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
        images, labels = self.everything()
        network = train_network(
            self.fresh_network("network", -1),
            TrainingSet(
                Whitened(images, self.transform, self.device),
                centred_targets(labels, self.data.num_classes).to(self.device),
                "regression",
                self.data.mirror,
            ),
            real_data_recipe(self.experiment.training_steps or _JOINT_STEPS),
            generator=generator_for(self.seed, "training", -1),
            precision=self.precision,
        )
        return self.score(network, self.experiment.experiences)


class ClassStream(AbstractStream):
    """A stream whose experiences bring new classes, in an order set by the seed.

    With ``task-split`` a test knows the experience, and chooses among its classes.
    """

    def __init__(
        self,
        experiment: Experiment,
        data: dd_plugins.RealData,
        scored: Images,
        seed: int,
    ) -> None:
        self.order = _class_order(experiment, data.num_classes, seed)
        super().__init__(experiment, data, scored, seed)

    def everything(self) -> Images:
        """Return all training images, in the order of the data set."""
        return self.data.train

    def pixels(self, part: int) -> Images:
        """Return the training images of the classes of an experience."""
        return _of_classes(self.data.train, self.order[part])

    def scored_pixels(self, part: int) -> Images:
        """Return the scored images of the classes of an experience."""
        return _of_classes(self.scored, self.order[part])

    def classes_told(self, part: int) -> Sequence[int] | None:
        """Return the classes of an experience if its task is known."""
        return self.order[part] if self.experiment.scenario == "task-split" else None


class DomainStream(AbstractStream):
    """A stream of the same classes, with pixels transformed in each experience.

    Each experience has a part of the training images, drawn at random, and all scored
    images. Either each experience permutes the pixels in its own way (``permuted``,
    Goodfellow et al., arXiv 1312.6211) and the first leaves them in place, or images
    are rotated (``rotated``, Lopez-Paz and Ranzato, arXiv 1706.08840), by
    ``180 k / experiences`` degrees with k in a random order.
    """

    def __init__(
        self,
        experiment: Experiment,
        data: dd_plugins.RealData,
        scored: Images,
        seed: int,
    ) -> None:
        parts, count = experiment.experiences, len(data.train.labels)
        drawn = torch.randperm(count, generator=generator_for(seed, "domain parts"))
        self._parts = [each.sort().values for each in drawn.tensor_split(parts)]
        turns = torch.randperm(parts, generator=generator_for(seed, "domain order"))
        self._angles = [180 * int(turn) / parts for turn in turns]
        super().__init__(experiment, data, scored, seed)

    def pixels(self, part: int) -> Images:
        """Return a part of the training images, with the pixels of an experience."""
        chosen, train = self._parts[part], self.data.train
        return Images(self._changed(train.images[chosen], part), train.labels[chosen])

    def scored_pixels(self, part: int) -> Images:
        """Return all scored images, with the pixels of an experience."""
        return Images(self._changed(self.scored.images[:], part), self.scored.labels)

    def _changed(self, images: Tensor, part: int) -> Tensor:
        if self.experiment.scenario == "rotated":
            # Not at the top: every command would take a second longer to start.
            from torchvision.transforms import InterpolationMode
            from torchvision.transforms.functional import rotate

            turned: Tensor = rotate(
                images, self._angles[part], InterpolationMode.BILINEAR
            )
            return turned
        if part == 0:
            return images
        height, width = images.shape[2:]
        order = torch.randperm(
            height * width, generator=generator_for(self.seed, "pixel order", part)
        )
        return images.flatten(2)[:, :, order].view(images.shape)


def stream_for(
    experiment: Experiment, data: dd_plugins.RealData, scored: Images, seed: int
) -> AbstractStream:
    """Return a stream of the experiment's scenario."""
    kind = ClassStream if experiment.brings_classes else DomainStream
    return kind(experiment, data, scored, seed)


def check_scored(
    experiment: Experiment, num_classes: int, labels: Tensor, seeds: Sequence[int]
) -> None:
    """Refuse streams with an experience whose networks could not be scored.

    Args:
        experiment: the common options of the streams.
        num_classes: the number of classes of the data.
        labels: int64, the classes of the scored images.
        seeds: the seeds of the streams.

    Raises:
        DataError: no image of an experience is scored.
    """
    scored = set(labels.tolist())
    for seed in seeds:
        order = [list(range(num_classes))]
        if experiment.brings_classes:
            order = _class_order(experiment, num_classes, seed)
        for classes in order:
            if scored.isdisjoint(classes):
                raise DataError(
                    f"each experience needs {experiment.scored_on}, got none of the "
                    f"classes {', '.join(map(str, classes))} of an experience of order "
                    f"{seed}; take fewer experiences, or other data"
                )


def _class_order(
    experiment: Experiment, num_classes: int, seed: int
) -> list[list[int]]:
    """Return the classes of each experience."""
    # NumPy's legacy generator: the orders that FRePo and DM publish for CIFAR-100.
    order = np.random.RandomState(seed).permutation(num_classes).tolist()
    size = num_classes // experiment.experiences
    return [order[start : start + size] for start in range(0, num_classes, size)]


def _of_classes(data: Images, classes: Sequence[int]) -> Images:
    """Return the images of these classes."""
    chosen = torch.isin(data.labels, torch.tensor(classes)).nonzero().flatten()
    return Images(data.images[chosen], data.labels[chosen])
