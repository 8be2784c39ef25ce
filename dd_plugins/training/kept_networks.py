"""Networks trained on real data, kept in files under a hash of their origin."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dd_plugins.checks import whole_number
from dd_plugins.data.draws import sampler_of
from dd_plugins.data.images import Images
from dd_plugins.data.preprocess import Transform
from dd_plugins.data.real import RealData
from dd_plugins.data.sampler import RealSampler
from dd_plugins.errors import FileError, OptionError, RunError
from dd_plugins.networks.base import AbstractNetwork, FeatureNetwork
from dd_plugins.run import Run, Task
from dd_plugins.runtime.cache import cache_folder
from dd_plugins.runtime.device import (
    Precision,
    exact_kernels,
    plain_torch,
    resolve_device,
    resolve_precision,
)
from dd_plugins.runtime.files import check_writable
from dd_plugins.runtime.kept_tensors import save_tensors
from dd_plugins.runtime.progress import OnProgress, part_of
from dd_plugins.runtime.randomness import generator_for
from dd_plugins.synthetic.view_records import TeacherRecord
from dd_plugins.training.default_steps import STAGES
from dd_plugins.training.kept_files import (
    ADVICE,
    AbstractKept,
    OnStep,
    classes_without_images,
    load_weights,
)
from dd_plugins.training.outputs import accuracy
from dd_plugins.training.recipes import Recipe, get_recipe, real_data_recipe
from dd_plugins.training.sources import code_of
from dd_plugins.training.train import (
    RealLabels,
    TrainingSet,
    seconds_of_training,
    training_steps_of,
)

__all__ = [
    "RealImages",
    "RealSetting",
    "TrainedNetwork",
    "TrainingReport",
    "real_training_set",
    "run_of_training",
    "train_networks",
]

_FORMAT = 3
_KIND = "a trained network"


@dataclass(frozen=True)
class RealImages:
    """All real images, read when drawn for training."""

    real: RealSampler

    def __len__(self) -> int:
        return len(self._everything)

    def __getitem__(self, chosen: Tensor | slice) -> Tensor:
        return self.real.read(self._everything[chosen]).images

    @cached_property
    def _everything(self) -> Tensor:
        """The indices of all images, made once."""
        return torch.arange(len(self.real.labels))


def real_training_set(run: Run, real: RealSampler) -> TrainingSet:
    """Return the training set of all real images with their classes."""
    labels = RealLabels(real.labels, run.task.num_classes, "classes", run.device)
    return TrainingSet(RealImages(real), labels, "classes", run.task.mirror)


def run_of_training(
    data: RealData,
    network: AbstractNetwork,
    *,
    steps: int = 1,
    device: torch.device,
    precision: torch.dtype,
) -> Run:
    """Return the run for training a network on real data, outside a distillation."""
    task = Task(
        dataset=data.name,
        image_shape=data.image_shape,
        num_classes=data.num_classes,
        images_per_class=1,
        steps=None,
        mirror=data.mirror,
    )
    return Run(task, "", network, steps, seed=0, device=device, precision=precision)


@dataclass(frozen=True)
class RealSetting:
    """All real images in their value space, for networks trained outside a run.

    Attributes:
        data: the real data.
        device: the device of the networks' training.
        precision: the precision of their arithmetic.
        transform: maps images to the value space.
        real: all training images.
    """

    data: RealData
    device: torch.device
    precision: torch.dtype
    transform: Transform
    real: RealSampler

    @classmethod
    def of(cls, data: RealData, device: str, precision: Precision) -> "RealSetting":
        """Return the setting of real data.

        Raises:
            OptionError: the data is not RealData, or there is no such device.
        """
        if not isinstance(data, RealData):
            raise OptionError(
                f"data must be RealData, such as get_dataset returns, got "
                f"{type(data).__name__}"
            )
        target = resolve_device(device)
        dtype = resolve_precision(precision, target)
        transform, real = sampler_of(data, seed=0, device=target, precision=dtype)
        return cls(data, target, dtype, transform, real)

    def run(self, network: AbstractNetwork, steps: int) -> Run:
        """Return the run for training a network for a number of steps."""
        return run_of_training(
            self.data,
            network,
            steps=steps,
            device=self.device,
            precision=self.precision,
        )

    def accuracy(self, network: nn.Module, images: Images) -> float:
        """Return the accuracy of a network, in evaluation mode, on at least one image.

        Args:
            network: maps images in the value space to logits.
            images: real images and their labels.
        """
        return accuracy(
            network,
            images,
            self.transform,
            device=self.device,
            precision=self.precision,
        )


@dataclass(frozen=True)
class TrainedNetwork(AbstractKept):
    """A network of an architecture, trained on real data by a recipe with a seed.

    Attributes:
        network: the architecture.
        recipe: how it is trained.
        seed: the seed of its weights and its training, apart from the seed of a run, so
            runs of all seeds share it.
    """

    network: AbstractNetwork
    recipe: Recipe
    seed: int = 0

    def description(self, run: Run, real: RealSampler) -> dict[str, object]:
        """Return everything the weights depend on."""
        return {
            "format": _FORMAT,
            "data": real.content,
            **classes_without_images(run, real),
            "network": self.network.identity(
                run.task.image_shape, run.task.num_classes
            ),
            "code": code_of(self.network),
            "mirror": run.task.mirror,
            "recipe": self.recipe.options(),
            "seed": self.seed,
            "precision": str(run.precision),
        }

    def is_keepable(self, real: RealSampler) -> bool:
        """Return whether the origin of the images and of the network is known."""
        return super().is_keepable(real) and self.network.is_identified

    @property
    def training_steps(self) -> int:
        """The number of its training steps."""
        return self.recipe.steps_done

    @plain_torch()
    def seconds(self, run: Run, real: RealSampler, folder: Path) -> float:
        """Estimate the seconds of training in :meth:`obtain`: 0 if it is kept."""
        if self.is_kept(run, real, folder):
            return 0.0
        module, _ = self.fresh(run)
        training_set = real_training_set(run, real)
        return seconds_of_training(
            module, training_set, self.recipe, precision=run.precision
        )

    @plain_torch()
    def obtain(
        self,
        run: Run,
        real: RealSampler,
        folder: Path,
        on_step: OnStep = lambda done: None,
    ) -> FeatureNetwork:
        """Return the network from its file, or train it and keep it there.

        A network of unknown origin, or trained on images of unknown origin, is not
        kept.

        Args:
            run: for the shape of images, the classes, the device and the precision.
            real: all training images.
            folder: the folder of kept networks.
            on_step: called after each training step.

        Returns:
            The network, frozen and in evaluation mode, on the device of the run.

        Raises:
            FileError: the file is damaged, contradicts its name, or cannot be written.
            OptionError: the images are too small for the architecture.
            RunError: the weights became infinite or NaN.
        """
        if self.is_kept(run, real, folder):
            return self.read(run, real, folder)
        self.check(run, real, folder)
        path, described = self.path(run, real, folder), self.described(run, real)
        module = self._trained(run, real, on_step)
        if self.is_keepable(real):
            save_tensors(path, module.state_dict(), {"description": described})
        return _frozen(module)

    @plain_torch()
    def check(self, run: Run, real: RealSampler, folder: Path) -> None:
        """Check the kept network, or that one can be made and written.

        Raises:
            FileError: its file is damaged, contradicts its name, holds weights that are
                not finite, or could not be written.
            OptionError: the images are too small for the architecture.
        """
        if self.is_kept(run, real, folder):
            self.read(run, real, folder)
            return
        self.fresh(run)
        if self.is_keepable(real):
            check_writable(self.path(run, real, folder))

    @plain_torch()
    def read(self, run: Run, real: RealSampler, folder: Path) -> FeatureNetwork:
        """Return the kept network, frozen and in evaluation mode.

        Raises:
            FileError: its file is missing or damaged, contradicts its name, or holds
                weights that are not finite.
        """
        path = self.path(run, real, folder)
        if not path.exists():
            raise FileError(f"{path}: expected {_KIND}, found none; train it again")
        module, _ = self.fresh(run)
        described, spec = self.described(run, real), repr(self.network)
        load_weights(module, path, described, what=_KIND, of=spec)
        if not _is_finite(module):
            raise FileError(f"{path}: the weights of {spec} are not finite; {ADVICE}")
        return _frozen(module)

    def _trained(self, run: Run, real: RealSampler, on_step: OnStep) -> FeatureNetwork:
        """Return a fresh network after its training."""
        module, generator = self.fresh(run)
        steps = training_steps_of(
            module,
            real_training_set(run, real),
            self.recipe,
            generator=generator,
            precision=run.precision,
        )
        with exact_kernels():
            for done in steps:
                on_step(done)
        if not _is_finite(module):
            raise RunError(
                f"the weights of {self.network!r} are not finite after its training; "
                f"lower the learning rate of its recipe, {self.recipe!r}"
            )
        return module

    def record(self) -> TeacherRecord:
        """Return the record of this network as a teacher, for a header."""
        return TeacherRecord(
            network=repr(self.network), recipe=repr(self.recipe), seed=self.seed
        )

    def fresh(self, run: Run) -> tuple[FeatureNetwork, torch.Generator]:
        """Return the untrained network, and the random generator of its training."""
        generator = generator_for(self.seed, f"trained network {self.network!r}")
        return run.fresh_network(generator, self.network), generator


def _frozen(module: FeatureNetwork) -> FeatureNetwork:
    frozen: FeatureNetwork = module.eval().requires_grad_(False)
    return frozen


def _is_finite(module: nn.Module) -> bool:
    """Tell whether all weights and statistics of a network are finite."""
    return all(bool(each.isfinite().all()) for each in module.state_dict().values())


@dataclass(frozen=True)
class TrainingReport:
    """The report of :func:`train_networks` on one network.

    Attributes:
        network: the spec of the network.
        steps: the number of its training steps.
        module: the network, frozen and in evaluation mode.
        file: the path of its file.
        was_there: whether the file existed before.
        validation_accuracy: the accuracy on images held out of the training data, in
            [0, 1]; None if there are none.
        seed: the seed of its weights and its training.
    """

    network: str
    steps: int
    module: FeatureNetwork
    file: Path
    was_there: bool
    validation_accuracy: float | None
    seed: int = 0


def train_networks(
    data: RealData,
    networks: Sequence[AbstractNetwork] | AbstractNetwork,
    *,
    stages: Sequence[int] | None = None,
    recipe: Recipe | str | None = None,
    seeds: Sequence[int] = (0,),
    device: str = "auto",
    precision: Precision = "auto",
    folder: str | Path | None = None,
    on_progress: OnProgress | None = None,
) -> Iterator[TrainingReport]:
    """Train networks on real data for later runs, except those already kept.

    After an interruption, call the function again: it continues with the first missing
    network. All files are checked before the first network is trained.

    Args:
        data: real data; networks are trained on its training images.
        networks: the architectures, or one.
        stages: numbers of training steps, at least 1; a separate network is trained for
            each. By default :data:`STAGES`.
        recipe: how each is trained, in place of ``stages``: a recipe or its spec.
        seeds: seeds of the weights and the training; a separate network is trained for
            each. At least one.
        device: ``"auto"``, ``"cpu"``, ``"cuda"``, ...
        precision: the precision of the networks' arithmetic.
        folder: the folder of kept networks; by default :func:`cache_folder`.
        on_progress: called after each training step with the spec of the network, the
            work done and all work, in seconds, estimated from a few steps of each.

    Yields:
        A report of each network as soon as it is kept.

    Raises:
        FileError: a file is damaged, contradicts its name, or cannot be written.
        OptionError: an argument has the wrong type, or the images are too small for an
            architecture.
    """
    architectures = (
        [networks]
        if isinstance(networks, AbstractNetwork)
        else _listed("networks", networks)
    )
    for network in architectures:
        if not isinstance(network, AbstractNetwork):
            raise OptionError(
                "networks must be networks of dd-plugins, such as get_network('mlp') "
                f"returns, got {network!r}"
            )
    recipes = _recipes_of(stages, recipe)
    numbers = [whole_number("a seed", each) for each in _listed("seeds", seeds)]
    if not numbers:
        raise OptionError("seeds: expected one or more numbers, got none")
    setting = RealSetting.of(data, device, precision)
    real, place = setting.real, Path(folder or cache_folder())
    jobs = [
        (
            setting.run(network, each.steps_done),
            TrainedNetwork(network, each, seed),
        )
        for network, each, seed in itertools.product(architectures, recipes, numbers)
    ]
    for run, wanted in jobs:  # errors are found before the first network is trained
        wanted.check(run, real, place)
    seconds = [
        wanted.seconds(run, real, place) if on_progress is not None else 0.0
        for run, wanted in jobs
    ]
    done, total = 0.0, sum(seconds)
    for (run, wanted), each in zip(jobs, seconds, strict=True):
        file = wanted.path(run, real, place)
        was_there = file.exists()
        step = each / run.steps
        on_step = part_of(on_progress, repr(run.network), done, total, step)
        module = wanted.obtain(run, real, place, on_step)
        done += each
        score = None
        if len(data.validation.labels):
            score = setting.accuracy(module, data.validation)
        yield TrainingReport(
            repr(run.network), run.steps, module, file, was_there, score, wanted.seed
        )


def _listed(name: str, given: Iterable[Any]) -> list[Any]:
    """Return the elements of an argument.

    Raises:
        OptionError: it is no sequence.
    """
    if not isinstance(given, Iterable):
        raise OptionError(f"{name} must be a list, got {given!r}; pass [{given!r}]")
    return list(given)


def _recipes_of(
    stages: Sequence[int] | None, recipe: Recipe | str | None
) -> list[Recipe]:
    """Return the recipes of the networks.

    Raises:
        OptionError: there are no stages, or one is below 1, or a recipe is given too.
    """
    if recipe is not None:
        if stages is not None:
            raise OptionError("expected stages or a recipe, got both")
        return [recipe if isinstance(recipe, Recipe) else get_recipe(recipe)]
    chosen = STAGES if stages is None else _listed("stages", stages)
    steps = [whole_number("a stage", each) for each in chosen]
    if min(steps, default=0) < 1:
        raise OptionError(
            "stages: expected one or more numbers of steps, each at least 1, got "
            f"{tuple(steps)}"
        )
    return [real_data_recipe(each) for each in steps]
