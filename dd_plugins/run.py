"""The options and the task of a run, as distillers and observers see them."""

from contextlib import AbstractContextManager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from dd_plugins.checks import whole_number
from dd_plugins.data.image_counts import asked_counts
from dd_plugins.data.preprocess import Preprocessing
from dd_plugins.networks.base import AbstractNetwork, FeatureNetwork, ImageShape
from dd_plugins.runtime.device import Precision, autocast
from dd_plugins.runtime.randomness import generator_for

__all__ = ["DEFAULT_NETWORK", "Run", "RunOptions", "Task"]

DEFAULT_NETWORK = "conv"
"""The network to distil on if neither the user nor the distiller names one."""


@dataclass(frozen=True)
class RunOptions:
    """The options of a run: all but data, context, device and folder.

    :func:`dd_plugins.distill` builds it from its arguments. A checkpoint is compared
    with a complete one (see :func:`~dd_plugins.engine.settling.settle`); ``header.run``
    is the record of a finished set. To repeat a run with other data or another seed,
    write ``distill(data, **replace(header.run, seed=1).arguments())``.

    Attributes:
        distiller: the spec of the distiller.
        images_per_class: stored images for each class, at least 1; or a number for each
            class, if they are not equal.
        steps: steps of the run, at least 1; None for the distiller's choice.
        seed: the seed of every random draw.
        network: the spec of the network to distil on; None for the distiller's choice.
        initial_images: ``"real"``, ``"noise"``, ``"public"`` or the spec of a coreset;
            None for the distiller's choice.
        parametrization: the spec of the parametrization of the images.
        preprocessing: the value space; None for the distiller's or the data's own.
        mirror: whether a mirror image is still of its class; None for the data's own.
        precision: of features.
        refine_context: whether a context is learned further.

    Raises:
        OptionError: a number is not whole, or too small.
    """

    distiller: str = "frepo"
    images_per_class: int | tuple[int, ...] = 1
    steps: int | None = None
    seed: int = 0
    network: str | None = None
    initial_images: str | None = None
    parametrization: str = "identity"
    preprocessing: Preprocessing | None = None
    mirror: bool | None = None
    precision: Precision = "auto"
    refine_context: bool = False

    def __post_init__(self) -> None:
        """Take the whole numbers of other libraries as Python's."""

        def settle(name: str, least: int | None) -> None:
            number = whole_number(name, getattr(self, name), least=least)
            object.__setattr__(self, name, number)

        if isinstance(self.images_per_class, list | tuple):
            counts = asked_counts(self.images_per_class)
            object.__setattr__(self, "images_per_class", counts)
        else:
            settle("images_per_class", 1)
        settle("seed", None)
        if self.steps is not None:
            settle("steps", 1)

    def arguments(self) -> dict[str, Any]:
        """Return the keyword arguments of ``distill`` for these options."""
        return {each.name: getattr(self, each.name) for each in fields(self)}


@dataclass(frozen=True)
class Task:
    """The data to distil, as known before the options of the run are settled.

    Attributes:
        dataset: the name of the data set.
        image_shape: channels, height and width.
        num_classes: number of classes.
        images_per_class: synthetic images for each class, as the distiller sees them;
            their mean, rounded, if they are not equal.
        steps: steps asked for, or None.
        mirror: whether the mirror image of a real image is still of its class.
        context_images: images of a context; they are part of the set.
        context_classes: classes with images in the context; they get no new ones.
        unequal_counts: synthetic images of each class, if they are not equal; 0 for
            classes of the context.
    """

    dataset: str
    image_shape: ImageShape
    num_classes: int
    images_per_class: int
    steps: int | None = None
    mirror: bool = False
    context_images: int = 0
    context_classes: int = 0
    unequal_counts: tuple[int, ...] | None = None

    @property
    def class_counts(self) -> tuple[int, ...]:
        """How many images a distiller chooses of each class for the set to start from.

        Where they are equal, those of classes of a context are left out afterwards.
        """
        return self.unequal_counts or (self.images_per_class,) * self.num_classes

    @property
    def synthetic_images(self) -> int:
        """Images of the set, those of a context included."""
        if self.unequal_counts is not None:
            return self.context_images + sum(self.unequal_counts)
        new = self.images_per_class * (self.num_classes - self.context_classes)
        return self.context_images + new


@dataclass(frozen=True, eq=False)
class Run:
    """One run, as distillers and observers see it.

    Attributes:
        task: the data to distil, and the size of the set.
        distiller: the spec of the distiller, complete.
        network: the network architecture for distillation.
        steps: steps of the whole run.
        seed: the seed of every draw.
        device: the device of all tensors.
        precision: the dtype of features.
        out: the folder of the run, or None.
        progress: whether to show progress on standard error.
        rank: the number of this process; process 0 reports and writes.
        ranks: the number of processes in the run.
    """

    task: Task
    distiller: str
    network: AbstractNetwork
    steps: int
    seed: int
    device: torch.device
    precision: torch.dtype = torch.float32
    out: Path | None = None
    progress: bool = False
    rank: int = 0
    ranks: int = 1

    def generator(self, purpose: str, step: int = 0) -> torch.Generator:
        """Return the CPU generator for one purpose at one step (see ``randomness``).

        It is the same in every process of the run.
        """
        return generator_for(self.seed, purpose, step)

    def own_generator(self, purpose: str, step: int = 0) -> torch.Generator:
        """Return a CPU generator whose draws differ from those of other processes."""
        return generator_for(self.seed, purpose, step, self.rank)

    def fresh_network(
        self, generator: torch.Generator, network: AbstractNetwork | None = None
    ) -> FeatureNetwork:
        """Build a network with fresh weights, on the device, channels last.

        Args:
            generator: of the weights.
            network: the architecture; by default the run's.
        """
        task = self.task
        return (network or self.network).build(
            task.image_shape,
            task.num_classes,
            generator=generator,
            device=self.device,
        )

    def autocast(self) -> AbstractContextManager[object]:
        """Return the autocast context for features in the run's precision."""
        return autocast(self.device, self.precision)
