"""The options and the task of a run, as distillers and observers see them."""

from contextlib import AbstractContextManager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from dd_plugins.checks import whole_number
from dd_plugins.data.image_counts import parsed_counts
from dd_plugins.data.preprocess import Preprocessing
from dd_plugins.networks.base import AbstractNetwork, FeatureNetwork, ImageShape
from dd_plugins.runtime.device import Precision, autocast
from dd_plugins.runtime.randomness import generator_for, seeded_globally

__all__ = ["DEFAULT_NETWORK", "Run", "RunOptions", "Task"]

DEFAULT_NETWORK = "conv"
"""The network to distil on if neither the user nor the distiller names one."""


@dataclass(frozen=True)
class RunOptions:
    """The options of a run: all but data, context, device and folder.

    :func:`dd_plugins.distill` builds it from its arguments. A resumed run must have
    the options of its checkpoint, with every choice filled in (see
    :func:`~dd_plugins.engine.settling.settle`). ``header.run`` holds the options of a
    finished set. To repeat a run with other data or another seed, write
    ``distill(data, **replace(header.run, seed=1).arguments())``.

    Attributes:
        distiller: the spec of the distiller.
        images_per_class: stored images for each class, at least 1; or a number for each
            class, if the numbers differ.
        steps: the number of steps, at least 1; None for the distiller's choice.
        seed: the seed of every random draw.
        network: the spec of the network to distil on; None for the distiller's choice.
        initial_images: ``"real"``, ``"noise"``, ``"public"`` or the spec of a coreset;
            None for the distiller's choice.
        parametrization: the spec of the parametrization of the images.
        preprocessing: the value space; None for the distiller's or the data's choice.
        mirror: whether mirrored images keep their class; None for the data's choice.
        precision: the numeric precision of features.
        refine_context: whether the images of a context are learned further.

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
        """Convert whole numbers of other libraries to Python's."""

        def settle(name: str, least: int | None) -> None:
            number = whole_number(name, getattr(self, name), least=least)
            object.__setattr__(self, name, number)

        if isinstance(self.images_per_class, list | tuple):
            counts = parsed_counts(self.images_per_class)
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
            the rounded mean, if the numbers differ.
        steps: the requested number of steps, or None.
        mirror: whether mirrored real images keep their class.
        context_images: the number of images in a context; they are part of the set.
        context_classes: the number of classes with images in the context; they get no
            new images.
        unequal_counts: the number of synthetic images of each class, if the numbers
            differ; 0 for classes of the context, and for those without real images.
        batch_norm: whether the run's network has BatchNorm. Only
            :meth:`~dd_plugins.AbstractDistiller.images_in_graph` is told.
        images_per_stored: the number of images in a stored one.
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
    batch_norm: bool = False
    images_per_stored: int = 1

    @property
    def class_counts(self) -> tuple[int, ...]:
        """The number of initial images a distiller chooses of each class.

        If the numbers are equal, images of classes in a context are dropped afterwards.
        """
        return self.unequal_counts or (self.images_per_class,) * self.num_classes

    @property
    def synthetic_images(self) -> int:
        """The number of images in the set, including those of a context."""
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
        steps: the number of steps of the whole run.
        seed: the seed of every random draw.
        device: the device of all tensors.
        precision: the dtype of features.
        out: the folder of the run, or None.
        progress: whether to show progress on standard error.
        rank: the number of this process; process 0 reports and writes.
        ranks: the number of processes in the run.
        validation_steps: the steps after which validation accuracy is measured.
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
    validation_steps: tuple[int, ...] = ()

    def generator(self, purpose: str, step: int = 0) -> torch.Generator:
        """Return the CPU generator for one purpose at one step (see ``randomness``).

        It draws the same numbers in every process of the run.
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
            generator: the source of the random weights.
            network: the architecture; by default the run's own.
        """
        task = self.task
        return (network or self.network).build(
            task.image_shape,
            task.num_classes,
            generator=generator,
            device=self.device,
        )

    def layers_drawing_from(
        self, generator: torch.Generator
    ) -> AbstractContextManager[object]:
        """Return the context in which layers, such as dropout, draw from a generator.

        Layers take no generator: in training mode they draw from the global one of
        torch, on the device of the images. In this block it is seeded, and afterwards
        it is as it was.

        Args:
            generator: of an address; see :meth:`generator`.

        Example::

            generator = run.generator("layers of the student", step)
            with run.autocast(), run.layers_drawing_from(generator):
                logits = network.train()(images)
        """
        return seeded_globally(generator, self.device)

    def autocast(self) -> AbstractContextManager[object]:
        """Return the autocast context for features in the run's precision."""
        return autocast(self.device, self.precision)
