"""The networks that an evaluation trains, and how long that takes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import torch

from dd_plugins.evaluation.network_files import NetworkFile, NetworkFiles
from dd_plugins.networks.base import AbstractNetwork, FeatureNetwork, ImageShape
from dd_plugins.runtime import processes
from dd_plugins.runtime.progress import OnProgress, part_of
from dd_plugins.runtime.randomness import generator_for
from dd_plugins.training.recipes import Recipe
from dd_plugins.training.sources import code_of
from dd_plugins.training.train import (
    TrainingSet,
    seconds_of_training,
    train_network,
)

__all__ = ["Job", "Jobs", "Kind"]

Draw = Callable[[int], tuple[TrainingSet, Recipe]]


class Kind(StrEnum):
    """A kind of training set.

    The order is that of training.
    """

    DISTILLED = "distilled"
    """The distilled set."""
    HARD = "hard"
    """The distilled set with hard labels."""
    TAUGHT_RANDOM = "taught random"
    """Random real images with a teacher's labels of their views."""
    RANDOM = "random"
    """Random real images with hard labels."""
    FULL = "full"
    """All real training images."""
    OTHER_VIEW = "other view"
    """The distilled set with augmentation switched: off if its recipe augments."""
    RANDOM_OTHER_VIEW = "random, other view"
    """Random real images by the same recipe as :attr:`OTHER_VIEW`."""


# What users read of a kind while its networks are trained.
_SHOWN = {
    Kind.DISTILLED: "distilled set",
    Kind.HARD: "distilled set, hard labels",
    Kind.TAUGHT_RANDOM: "random images, teacher's labels",
    Kind.RANDOM: "random images",
    Kind.FULL: "all images",
    Kind.OTHER_VIEW: "distilled set, other view",
    Kind.RANDOM_OTHER_VIEW: "random images, other view",
}


@dataclass(frozen=True)
class Job:
    """Networks to train: ``repeats`` of an architecture on one kind of training set.

    Attributes:
        kind: the kind of training set.
        network: the architecture.
        recipe: how the networks are trained; some kinds of training set change it.
        draw: returns the training set and the recipe of a repeat.
    """

    kind: Kind
    network: AbstractNetwork
    recipe: Recipe
    draw: Draw

    def __str__(self) -> str:
        return f"{_SHOWN[self.kind]}: {self.network!r}"


@dataclass
class Jobs:
    """The networks of one evaluation, dealt out to the processes.

    Attributes:
        image_shape: channels, height and width of the images.
        num_classes: the number of outputs of a network.
        repeats: the number of fresh networks of each job.
        seed: the seed of networks, batches and augmentation.
        device: the device for training.
        precision: the dtype of the networks' arithmetic.
        files: where trained networks are kept; None for nowhere.
        jobs: the jobs added so far.
        trained: the networks trained by this process, by number.
    """

    image_shape: ImageShape
    num_classes: int
    repeats: int
    seed: int
    device: torch.device
    precision: torch.dtype
    files: NetworkFiles | None = None
    jobs: list[Job] = field(default_factory=list)
    trained: dict[int, FeatureNetwork] = field(default_factory=dict)

    def add(
        self, kind: Kind, network: AbstractNetwork, recipe: Recipe, draw: Draw
    ) -> None:
        """Add networks to train."""
        self.jobs.append(Job(kind, network, recipe, draw))

    def seconds(self) -> list[float]:
        """Return the estimated seconds for training one network of each job.

        A few steps are timed, on networks discarded afterwards.
        """
        return [self._seconds_of(job) for job in self.jobs]

    def _seconds_of(self, job: Job) -> float:
        module = self._fresh(job.network, 0)
        return seconds_of_training(module, *job.draw(0), precision=self.precision)

    def train(self, on_progress: OnProgress | None, seconds: Sequence[float]) -> None:
        """Train ``repeats`` fresh networks of each job, dealt out to the processes.

        Networks in files are read first. So the files may then be removed, as by
        another process that ran the same command.

        Args:
            on_progress: called after each training step with the job, the work done
                and all work of this process.
            seconds: the estimated seconds of each job, from :meth:`seconds`; not used
                without ``on_progress``.
        """
        missing = [
            (number, repeat)
            for number in range(len(self.jobs))
            for repeat in range(self.repeats)
            if self.number(number, repeat) % processes.world_size() == processes.rank()
            and not self._read(number, repeat)
        ]
        total = sum(seconds[number] for number, _ in missing) if on_progress else 0.0
        done = 0.0
        for number, repeat in missing:
            job = self.jobs[number]
            training_set, recipe = job.draw(repeat)
            on_step = None
            if on_progress is not None:
                each = seconds[number] / recipe.steps_done
                what = f"{job}, network {repeat + 1} of {self.repeats}"
                on_step = part_of(on_progress, what, done, total, each)
                done += seconds[number]
            module = self._fresh(job.network, repeat)
            train_network(
                module,
                training_set,
                recipe,
                generator=generator_for(self.seed, f"evaluation of {job.kind}", repeat),
                precision=self.precision,
                on_step=on_step,
            )
            self.trained[self.number(number, repeat)] = module
            file = self._file(number, repeat)
            if file is not None:
                file.save(module)

    def _read(self, number: int, repeat: int) -> bool:
        """Read a network from its file, and tell whether there was one."""
        file = self._file(number, repeat)
        if file is None or not file.path.exists():
            return False
        module = self._fresh(self.jobs[number].network, repeat)
        file.load(module)
        self.trained[self.number(number, repeat)] = module
        return True

    def number(self, job: int, repeat: int) -> int:
        """Return the number of a network among the networks of all jobs."""
        return job * self.repeats + repeat

    def job_of(self, network: int) -> Job:
        """Return the job of a network, given by its number."""
        return self.jobs[network // self.repeats]

    def _file(self, number: int, repeat: int) -> NetworkFile | None:
        """Return the file of a network; None if it is not kept."""
        job = self.jobs[number]
        if self.files is None or not job.network.is_identified:
            return None
        return self.files.of(
            job.network.identity(self.image_shape, self.num_classes),
            code=code_of(job.network),
            kind=job.kind,
            recipe=job.recipe.options(),
            repeat=repeat,
            seed=self.seed,
            device=self.device.type,
            precision=str(self.precision),
        )

    def _fresh(self, network: AbstractNetwork, repeat: int) -> FeatureNetwork:
        return network.build(
            self.image_shape,
            self.num_classes,
            generator=generator_for(self.seed, "evaluation network", repeat),
            device=self.device,
        )
