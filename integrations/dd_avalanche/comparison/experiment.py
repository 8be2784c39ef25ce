"""The common options of all streams of a comparison, and their checks."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import dd_plugins
from dd_avalanche.comparison.choices import BENCHMARKS, MemoryUse, Scenario, Whitening
from dd_avalanche.memory import INITIAL_IMAGES, NETWORK, STEPS
from dd_avalanche.replay.conversion import require_avalanche
from dd_plugins.api import DDWarning, OptionError, one_of

__all__ = ["Experiment", "check_experiment"]


@dataclass(frozen=True)
class Experiment:
    """The common options of all streams of a comparison.

    Attributes:
        benchmark: a name of :data:`~dd_avalanche.comparison.choices.BENCHMARKS`.
        experiences: the number of experiences. The classes are divided among them, or
            the images where pixels are permuted or rotated.
        memory: images at the end of the stream; each class has an equal share from the
            start, as in the protocols of FRePo and DM.
        steps: the steps of a distillation.
        initial_images: the starting point of learned images: see
            :func:`dd_plugins.distill`.
        network: the spec of the network for distillation; tests train it without
            normalisation.
        training_steps: training steps of a network on a memory, from scratch, and on
            all images at once; None for FRePo's number.
        epochs: epochs over each experience, with replay.
        augmented_copies: augmented copies of each stored image, with replay; None for
            the default of :class:`~dd_avalanche.DistilledBuffer`.
        batch_size: current images in an iteration of replay, and the largest number of
            images of the memory in it.
        whitening: ``"none"`` to standardise images, ``"first"`` for ZCA. Both are
            fitted to the first experience, and never to later classes.
        device: ``"auto"``, ``"cpu"``, ``"cuda"``, ...
        validation: whether networks are scored on validation images, cut from the
            training images, in place of test images: for choosing between memories.
    """

    benchmark: str = "split-fashion-mnist"
    experiences: int = 5
    memory: int = 100
    steps: int = STEPS
    initial_images: str = INITIAL_IMAGES
    network: str = NETWORK
    training_steps: int | None = None
    epochs: int = 1
    augmented_copies: int | None = None
    batch_size: int = 64
    whitening: Whitening = "none"
    device: str = "auto"
    validation: bool = False

    @property
    def scored_on(self) -> str:
        """The images for scoring: ``"test images"`` or ``"validation images"``."""
        return "validation images" if self.validation else "test images"

    @property
    def scenario(self) -> Scenario:
        """The kind of change from experience to experience."""
        return BENCHMARKS[self.benchmark][0]

    @property
    def brings_classes(self) -> bool:
        """Whether an experience brings classes of its own."""
        return self.scenario in ("split", "task-split")


def check_experiment(
    experiment: Experiment,
    protocols: Sequence[MemoryUse],
    data: dd_plugins.RealData,
) -> None:
    """Refuse an impossible experiment, before the first stream.

    Raises:
        OptionError: the classes do not divide into the experiences, the memory has no
            room for one image of each class, or an option is unknown.
        MissingExtraError: replay is asked for, and Avalanche is not installed.
    """
    classes, parts = data.num_classes, experiment.experiences
    if not experiment.brings_classes and parts < 2:
        raise OptionError(f"experiences must be at least 2, got {parts}")
    unfit = parts < 2 or classes % parts or classes // parts < 2
    if experiment.brings_classes and unfit:
        raise OptionError(
            "experiences must divide the classes into equal parts of at least two, got "
            f"{parts} experiences for {classes} classes"
        )
    if experiment.memory < classes:
        raise OptionError(
            f"memory must be at least {classes}, an image of each class, got "
            f"{experiment.memory}"
        )
    fitting = experiment.memory // classes * classes
    if fitting < experiment.memory:
        warnings.warn(
            f"memory holds {fitting} of the {experiment.memory} images asked for: "
            f"equally many of each of the {classes} classes",
            DDWarning,
            stacklevel=2,
        )
    for protocol in protocols:
        one_of("protocol", protocol, get_args(MemoryUse))
    one_of("whitening", experiment.whitening, get_args(Whitening))
    if "replay" in protocols:
        require_avalanche()
