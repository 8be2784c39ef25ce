"""The common parts of methods whose images and labels come from teachers."""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self
from weakref import WeakKeyDictionary

import torch
from pydantic import NonNegativeInt, PositiveFloat, model_validator
from torch import Tensor, nn

from dd_plugins.data.preprocess import Preprocessing
from dd_plugins.data.sampler import RealSampler
from dd_plugins.distillers.base import AbstractDistiller
from dd_plugins.distillers.state import AbstractState
from dd_plugins.errors import OptionError
from dd_plugins.networks.base import (
    AbstractNetwork,
    FeatureNetwork,
    ImageShape,
)
from dd_plugins.networks.resnet import ResNet18
from dd_plugins.run import Run, Task
from dd_plugins.runtime.cache import cache_folder
from dd_plugins.runtime.randomness import generator_for
from dd_plugins.spec import record
from dd_plugins.synthetic.labels import LabelKind
from dd_plugins.synthetic.leaves import Leaves
from dd_plugins.synthetic.views import Views
from dd_plugins.training.default_steps import SQUEEZE_STEPS
from dd_plugins.training.kept_networks import TrainedNetwork
from dd_plugins.training.kept_sequence import KeptNetworks
from dd_plugins.training.obtaining import Missing, obtained, training_command
from dd_plugins.training.patches import PatchChoice, Patches
from dd_plugins.training.recipes import Recipe, squeeze_recipe
from dd_plugins.training.teacher import Teacher

__all__ = ["AbstractTaught", "TaughtState"]

_NARROW = 16  # channels of the first stage of ResNet-18 on a CPU


@dataclass
class TaughtState(AbstractState):
    """The teachers of a run; they do not change.

    Attributes:
        run: the run.
        teachers: networks trained on the real data, in evaluation mode; if they are
            kept in files, one is on the device at a time.
        kept: keys of the teachers; empty if they are not kept.
    """

    teachers: Sequence[FeatureNetwork]
    kept: tuple[TrainedNetwork, ...]

    def state_dict(self) -> dict[str, Any]:
        """Return nothing."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore nothing."""


@record
class AbstractTaught(AbstractDistiller[TaughtState]):
    """A method whose images and labels come from teachers.

    Teachers are networks trained on the real data. Missing ones are trained before the
    first step; ``dd-plugins train-networks --recipe squeeze`` trains them beforehand.
    When a network is trained on the set, the teachers label each view of each image.

    Args:
        teachers: architectures of the teachers; by default the run's network alone.
        teacher_recipe: recipe for training the teachers on the real data; by default
            1,000 steps of SGD (:func:`~dd_plugins.training.recipes.squeeze_recipe`).
        missing_teachers: ``"train"`` or ``"refuse"``, if a teacher is missing.
        views: views of the images for training networks on the set.
        temperature: temperature of the teachers' softmax for the labels of views.
        group: number of views in a group. In labelling, BatchNorm takes the statistics
            of a group (see :class:`~dd_plugins.training.teacher.Teacher`); with 0,
            those of the real data.
        store_labels: whether the file holds the labels of all views. If not, it names
            the teachers, and training networks on the set needs their files.
        student: recipe for training networks on the set.
    """

    parts: ClassVar = {
        "teacher_recipe": (Recipe,),
        "views": (Views,),
        "student": (Recipe,),
    }

    teachers: tuple[AbstractNetwork, ...] = ()
    teacher_recipe: Recipe | None = None
    missing_teachers: Missing = "train"
    views: Views | None = None
    temperature: PositiveFloat | None = None
    group: NonNegativeInt | None = None
    store_labels: bool = False
    student: Recipe | None = None

    needs_batch_norm: ClassVar[bool] = False
    """Whether each teacher must have BatchNorm of images."""

    @model_validator(mode="after")
    def _has_groups_of_more_than_one(self) -> Self:
        """Refuse a group of one, too small for statistics."""
        if self.group == 1:
            raise ValueError("group must be 0, or at least 2 images, got 1")
        return self

    def default_network(
        self, task: Task, device: torch.device
    ) -> AbstractNetwork | None:
        """Return ResNet-18 with BatchNorm; on a CPU a narrow one."""
        del task
        if device.type == "cpu":
            return ResNet18(width=_NARROW, normalization="batch")
        return ResNet18(normalization="batch")

    def preprocessing(self, task: Task) -> Preprocessing | None:
        """Return standardisation: whitened images have no range of values."""
        del task
        return "standardize"

    @property
    def architectures(self) -> tuple[AbstractNetwork, ...]:
        """The teachers, if they are not the run's network."""
        return self.teachers

    @property
    def uses_network(self) -> bool:
        """The run's network is the teacher, unless others are named."""
        return not self.teachers

    @property
    def label_kind(self) -> LabelKind:
        """Labels are probabilities: one-hot for an image, a teacher's for a view."""
        return "probabilities"

    @abstractmethod
    def patch_choice(self, run: Run) -> PatchChoice:
        """Return the choice of real crops for the first images."""

    def choose(self, run: Run, real: RealSampler) -> Tensor:
        """Return the index of the real image of each image's first crop."""
        return self._patches(run, real).first_indices

    def first_images(
        self,
        run: Run,
        real: RealSampler,
        indices: Tensor,
        read: Callable[[Tensor], Tensor],
    ) -> Tensor:
        """Return the crops, put together into images."""
        del indices
        return self._patches(run, real).images(read)

    def setup(self, run: Run, real: RealSampler) -> TaughtState:
        """Return the teachers; train the missing ones.

        Raises:
            OptionError: a teacher does not suit the method, or is missing and
                ``missing_teachers`` is ``"refuse"``.
            FileError: the file of a teacher is damaged or is not what its name says.
        """
        wanted = self._wanted(run)
        for each in wanted:
            self._check_batch_norm(each.network, run.task.image_shape)
        refusal = partial(_refusal, self.name, wanted, run, real.content or "")
        found = obtained(
            wanted, run, real, self.missing_teachers, what="teacher", refusal=refusal
        )
        if not all(each.is_keepable(real) for each in wanted):
            trained = _TRAINED.setdefault(real, {})
            key = repr(wanted)
            if key not in trained:
                trained[key] = list(found)
            return TaughtState(run, trained[key], ())
        for _ in found:  # each is on the device alone
            pass
        kept = KeptNetworks(wanted, run, real, cache_folder())
        return TaughtState(run, kept, tuple(wanted))

    def recipe(self, task: Task, images: int, learned: Mapping[str, Tensor]) -> Recipe:
        """Return the student's recipe, for training networks on the set."""
        return self.student or super().recipe(task, images, learned)

    def check_student(self) -> None:
        """Refuse a student of another temperature than that of the labels.

        Raises:
            OptionError: the temperatures differ.
        """
        if self.student is None or self.student.temperature == self.temperature:
            return
        raise OptionError(
            f"{self.name}: the student must learn at the temperature of the labels, "
            f"{self.temperature}, got {self.student.temperature}"
        )

    def teacher(self, state: TaughtState, leaves: Leaves) -> Teacher | None:
        """Return the teachers, for labelling the views of the set."""
        del leaves
        assert self.views is not None
        assert self.temperature is not None
        return Teacher(
            state.teachers,
            self.views,
            self.temperature,
            self.group or None,
            tuple(each.record() for each in state.kept),
            self.store_labels,
        )

    def _patches(self, run: Run, real: RealSampler) -> Patches:
        """Return the crops chosen by the teachers; they are chosen once for a run."""
        choice, chosen = self.patch_choice(run), _CHOSEN.setdefault(real, {})
        key = (repr(self), repr(run.network), run.task.class_counts, choice)
        if key not in chosen:
            teachers = self.setup(run, real).teachers
            task = run.task
            chosen[key] = choice.choose(
                teachers, real, task.class_counts, each=task.images_per_stored
            )
        return chosen[key]

    def _wanted(self, run: Run) -> list[TrainedNetwork]:
        """Return the keys of the teachers."""
        recipe = self.teacher_recipe or squeeze_recipe(SQUEEZE_STEPS)
        networks = self.teachers or (run.network,)
        return [TrainedNetwork(network, recipe) for network in networks]

    def _check_batch_norm(
        self, network: AbstractNetwork, image_shape: ImageShape
    ) -> None:
        """Refuse a teacher without BatchNorm if the method or its labels need it.

        A method that needs it needs its running statistics.
        """
        if not self.needs_batch_norm and not self.group:
            return
        module = network.build(image_shape, 2, generator=generator_for(0, "shape"))
        layers = [
            layer for layer in module.modules() if isinstance(layer, nn.BatchNorm2d)
        ]
        if self.needs_batch_norm and any(
            layer.running_mean is None for layer in layers
        ):
            raise OptionError(
                f"{self.name}: {network!r} has a BatchNorm without running statistics, "
                "and images are to match them; make it with track_running_stats=True"
            )
        if not layers:
            raise OptionError(
                f"{self.name}: {network!r} has no BatchNorm, whose statistics are "
                "needed; name another teacher, such as "
                "\"resnet18(normalization='batch')\""
            )


# A run asks twice, for indices and for images; a sampler belongs to one run.
_CHOSEN: WeakKeyDictionary[RealSampler, dict[Any, Patches]] = WeakKeyDictionary()
# The choice of images needs teachers first, and the run afterwards.
_TRAINED: WeakKeyDictionary[RealSampler, dict[str, list[FeatureNetwork]]] = (
    WeakKeyDictionary()
)


def _refusal(
    name: str,
    wanted: list[TrainedNetwork],
    run: Run,
    content: str,
    count: int,
    folder: Path,
) -> OptionError:
    """Return the error with the command for training missing teachers.

    Args:
        name: name of the method.
        wanted: all teachers.
        run: the run.
        content: fingerprint and value space of the real images, or empty.
        count: number of missing teachers.
        folder: the folder of kept teachers.
    """
    space = content.split()[1] if content else "standardize"
    options = [
        ("dataset", run.task.dataset),
        *(("network", repr(each.network)) for each in wanted),
        ("recipe", repr(wanted[0].recipe)),
        ("preprocessing", space),
        ("precision", str(run.precision).removeprefix("torch.")),
    ]
    command = training_command("train-networks", options, mirror=run.task.mirror)
    return OptionError(
        f"{name}: {count} of {len(wanted)} teachers for {run.task.dataset} are missing "
        f"in {folder}; train them: {command}, with the data options of this run"
    )
