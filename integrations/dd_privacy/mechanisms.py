"""What is audited: from members to released images and a model."""

import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.nn.functional as F

import dd_plugins
from dd_plugins.api import (
    DEFAULT_NETWORK,
    FeatureNetwork,
    Header,
    ImageShape,
    OptionError,
    Preprocessing,
    Task,
    TrainingSet,
    Transform,
    Whitened,
    derive,
    get_initial_images,
    real_data_recipe,
    recipe_for,
    resolve_device,
    resolve_precision,
    train_network,
    training_set_of,
)
from dd_privacy.private import PrivateTrainer

__all__ = [
    "AbstractMechanism",
    "AllMembers",
    "Distillation",
    "GivenSet",
    "PrivateTraining",
    "Released",
]

_PROBE = (2, 6)  # steps that are timed to tell how long all of them will take

Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class Released:
    """What a mechanism makes of its members.

    Attributes:
        distilled: the released images; None if only a model is.
        network: a model, in evaluation mode.
        transform: maps images to the model's value space.
        epsilon: spent under differential privacy; None without.
    """

    distilled: dd_plugins.DistilledSet | None
    network: FeatureNetwork
    transform: Transform
    epsilon: float | None = None


@dataclass(frozen=True)
class AbstractMechanism(ABC):
    """A randomised map from members to what is released.

    Attributes:
        name: how the report calls it.
        device: ``"auto"``, ``"cpu"``, ``"cuda"``, ...
    """

    name: str
    device: str = "auto"

    @abstractmethod
    def run(
        self, data: dd_plugins.RealData, seed: int, folder: Path | None = None
    ) -> Released:
        """Run on members.

        Args:
            data: the members; all of them are training images.
            seed: of the run.
            folder: for what lets a killed run go on; None for a run that starts anew.
        """

    def description(self) -> dict[str, object]:
        """Return everything but members and seed that a run is a function of."""
        found = asdict(self)
        del found["name"]
        kind = type(self)
        return {"mechanism": f"{kind.__module__}.{kind.__qualname__}", **found}

    @abstractmethod
    def records(self) -> list[dd_plugins.Record]:
        """Return the distillers and networks by which a run is told to be made.

        A default network is its distiller's.
        """

    def for_shadows(self) -> "AbstractMechanism":
        """Return what shadow runs run: this, unless its result is given."""
        return self

    @abstractmethod
    def expected_seconds(self, data: dd_plugins.RealData) -> float:
        """Return about how long a run takes, from a few steps of one."""


@dataclass(frozen=True)
class Distillation(AbstractMechanism):
    """Distil the members, and train a network on the result.

    Attributes:
        distiller: a spec.
        images_per_class: synthetic images for each class.
        steps: of the distillation; None for the distiller's choice.
        network: the architecture on which is distilled; None for the default.
        initial_images: what the set begins as; None for the distiller's choice.
        training_steps: of the network; None for the protocol's number.
        evaluation_network: what is trained on the set; None for what fits it.
        preprocessing: in place of the data's.
        refined: the distillation whose result this one learns further; None if it
            begins anew.
    """

    distiller: str = "frepo"
    images_per_class: int = 1
    steps: int | None = None
    network: str | None = None
    initial_images: str | None = None
    training_steps: int | None = None
    evaluation_network: str | None = None
    preprocessing: Preprocessing | None = None
    refined: "Distillation | None" = None

    def run(
        self, data: dd_plugins.RealData, seed: int, folder: Path | None = None
    ) -> Released:
        """Distil and train; a distillation that was killed goes on."""
        distilled = self._distilled(data, seed, folder)
        return trained_on(
            distilled, seed, self.device, self.training_steps, self.evaluation_network
        )

    def description(self) -> dict[str, object]:
        """Return the same; of what it refines as well, without its name."""
        found = super().description()
        del found["refined"]
        if self.refined is not None:
            found["refined"] = self.refined.description()
        return found

    def _distilled(
        self, data: dd_plugins.RealData, seed: int, folder: Path | None
    ) -> dd_plugins.DistilledSet:
        first = None
        if self.refined is not None:
            before = None if folder is None else folder / "refined"
            first = self.refined._distilled(data, seed, before)
        return self._distilled_from(first, data, seed, self.steps, folder)

    def _distilled_from(
        self,
        first: dd_plugins.DistilledSet | None,
        data: dd_plugins.RealData,
        seed: int,
        steps: int | None,
        folder: Path | None = None,
    ) -> dd_plugins.DistilledSet:
        if self.preprocessing is not None:
            data = data.with_preprocessing(self.preprocessing)
        return dd_plugins.distill(
            data,
            self.distiller,
            images_per_class=self.images_per_class,
            steps=steps,
            network=self.network,
            initial_images=self.initial_images,
            context=first,
            refine_context=first is not None,
            device=self.device,
            seed=seed,
            out=folder,
            resume=folder is not None,
        )

    def records(self) -> list[dd_plugins.Record]:
        """Return the distiller, the networks, and the core set that it begins as."""
        networks = [self.network, self.evaluation_network]
        first_images = get_initial_images(self.initial_images or "real")
        return [
            dd_plugins.get_distiller(self.distiller),
            *(dd_plugins.get_network(each) for each in networks if each is not None),
            *([first_images] if isinstance(first_images, dd_plugins.Record) else []),
            *(self.refined.records() if self.refined is not None else []),
        ]

    def expected_seconds(self, data: dd_plugins.RealData) -> float:
        """Return the time of a few steps, continued to all of them."""
        probe, seconds = self._probed(data)
        return seconds + _training_seconds(probe, self.device, self.training_steps)

    def _probed(
        self, data: dd_plugins.RealData
    ) -> tuple[dd_plugins.DistilledSet, float]:
        """Return a set of a few steps, and about how long all of them take."""
        first, before = None, 0.0
        if self.refined is not None:
            first, before = self.refined._probed(data)
        few, more = _PROBE
        probe, short = _timed(lambda: self._distilled_from(first, data, 0, few))
        _, longer = _timed(lambda: self._distilled_from(first, data, 0, more))
        step = max(0.0, longer - short) / (more - few)
        steps = self.steps or self._default_steps(data)
        return probe, before + short + step * max(0, steps - few)

    def resolved_network(self, data: dd_plugins.RealData) -> str:
        """Return the spec of the network on which this distils."""
        if self.network is not None:
            return self.network
        distiller, task = self._settled(data)
        device = resolve_device(self.device)
        return repr(
            distiller.default_network(task, device)
            or dd_plugins.get_network(DEFAULT_NETWORK)
        )

    def _default_steps(self, data: dd_plugins.RealData) -> int:
        distiller, task = self._settled(data)
        return distiller.default_steps(task)

    def _settled(
        self, data: dd_plugins.RealData
    ) -> tuple[dd_plugins.AbstractDistiller[Any], Task]:
        task = Task(
            data.name,
            data.image_shape,
            data.num_classes,
            self.images_per_class,
            self.steps,
            data.mirror,
        )
        return dd_plugins.get_distiller(self.distiller).for_task(task), task


@dataclass(frozen=True)
class GivenSet(AbstractMechanism):
    """A set that was distilled before: only the network is trained here.

    Shadow runs distil anew, as its header says.

    Attributes:
        distilled: the set.
        training_steps: of the network; None for the protocol's number.
    """

    distilled: dd_plugins.DistilledSet | None = None
    training_steps: int | None = None

    def run(
        self, data: dd_plugins.RealData, seed: int, folder: Path | None = None
    ) -> Released:
        """Train on the set."""
        del data, folder
        assert self.distilled is not None
        return trained_on(self.distilled, seed, self.device, self.training_steps)

    def description(self) -> dict[str, object]:
        """Return the set by its content."""
        assert self.distilled is not None
        return {
            "mechanism": type(self).__name__,
            "content": self.distilled.content_hash(),
            "training_steps": self.training_steps,
            "device": self.device,
        }

    def records(self) -> list[dd_plugins.Record]:
        """Return the network that is trained on the set."""
        assert self.distilled is not None
        return [dd_plugins.get_network(self.distilled.header.evaluation_network)]

    def for_shadows(self) -> AbstractMechanism:
        """Return the distillation of the header, and of what it refined.

        A file of format version 1 does not tell which core set it began as, nor beside
        which set it was made: it begins as the distiller chooses, or as noise if its
        initial images are not known.

        Raises:
            OptionError: it was made beside a set that shadow runs cannot make again, or
                by a distiller that has got further options since.
        """
        assert self.distilled is not None
        _, channels, height, width = self.distilled.images.shape
        again = _distillation(
            self.distilled.header, (channels, height, width), self.name, self.device
        )
        return replace(again, training_steps=self.training_steps)

    def expected_seconds(self, data: dd_plugins.RealData) -> float:
        """Return about how long training takes."""
        del data
        assert self.distilled is not None
        return _training_seconds(self.distilled, self.device, self.training_steps)


def _distillation(
    header: Header, image_shape: ImageShape, name: str, device: str
) -> Distillation:
    """Return the distillation that a header tells of, of other members."""
    distiller = dd_plugins.get_distiller(header.distiller)
    images_per_class = max(Counter(header.initial_classes).values())
    # A spec that tells every option stays as it is when it is settled.
    task = Task(
        header.dataset.name,
        image_shape,
        len(header.class_names),
        images_per_class,
        header.steps or None,
        header.mirror,
    )
    settled = distiller.for_task(task).options()
    unknown = sorted(
        option
        for option, value in distiller.options().items()
        if option not in header.options or settled[option] != value
    )
    if unknown:
        raise OptionError(
            f"{name} does not tell {', '.join(unknown)} of {distiller.name} in full, "
            "which has got options since: shadow runs may not repeat it; audit it with "
            "--shadows 0"
        )
    begun_as = header.initial_images
    if header.format_version < 2 and header.initial_indices is None:
        begun_as = "noise"
    refined = None
    if header.context is not None:
        first = header.context.header
        if (
            not header.context.refined
            or first.initial_classes != header.initial_classes
            or first.dataset.fingerprint != header.dataset.fingerprint
        ):
            raise OptionError(
                f"{name} was made beside a set that shadow runs cannot make again (of "
                "other classes or data, or kept as it was); audit it with --shadows 0"
            )
        refined = _distillation(first, image_shape, name, device)
    return Distillation(
        name,
        device,
        header.distiller,
        images_per_class,
        header.steps or None,
        header.network,
        begun_as,
        evaluation_network=header.evaluation_network,
        preprocessing=header.value_space,
        refined=refined,
    )


@dataclass(frozen=True)
class AllMembers(AbstractMechanism):
    """Train a network on all members: no images are released.

    Attributes:
        network: a spec.
        training_steps: of the network.
        augment: whether images are augmented; if not, they are sooner learned by heart.
    """

    network: str = "conv"
    training_steps: int = 1_000
    augment: bool = True

    def run(
        self, data: dd_plugins.RealData, seed: int, folder: Path | None = None
    ) -> Released:
        """Train."""
        del folder
        return self._trained(data, seed, self.training_steps)

    def _trained(self, data: dd_plugins.RealData, seed: int, steps: int) -> Released:
        device = resolve_device(self.device)
        transform = Transform.fit(data.train.images, data.preprocessing)
        network = _fresh_network(
            self.network, data.image_shape, data.num_classes, seed, device
        )
        training_set = TrainingSet(
            Whitened(data.train.images, transform, device),
            F.one_hot(data.train.labels, data.num_classes).float().to(device),
            "classes",
            data.mirror,
        )
        recipe = real_data_recipe(steps)
        train_network(
            network,
            training_set,
            recipe if self.augment else replace(recipe, augmentation="none"),
            generator=derive(seed, "audited training"),
            precision=resolve_precision("auto", device),
        )
        return Released(None, network, transform)

    def records(self) -> list[dd_plugins.Record]:
        """Return the network."""
        return [dd_plugins.get_network(self.network)]

    def expected_seconds(self, data: dd_plugins.RealData) -> float:
        """Return the time of a few steps, continued to all of them."""
        few = min(_PROBE[1], self.training_steps)
        _, seconds = _timed(lambda: self._trained(data, 0, few))
        return seconds / few * self.training_steps


@dataclass(frozen=True)
class PrivateTraining(AbstractMechanism):
    """Train a network on all members under differential privacy.

    Attributes:
        trainer: how; its seed and its device are those of the run.
    """

    trainer: PrivateTrainer = field(default_factory=PrivateTrainer)

    def run(
        self, data: dd_plugins.RealData, seed: int, folder: Path | None = None
    ) -> Released:
        """Train. The seed is the run's, so that it can be repeated: an audit's need."""
        del folder
        trainer = replace(self.trainer, seed=seed, device=self.device)
        model = trainer.fit(
            data.train.images[:],
            data.train.labels,
            class_names=data.class_names,
            mirror=data.mirror,
        )
        return Released(None, model.network, model.transform, model.budget.epsilon)

    def records(self) -> list[dd_plugins.Record]:
        """Return the network."""
        return [dd_plugins.get_network(self.trainer.network)]

    def expected_seconds(self, data: dd_plugins.RealData) -> float:
        """Return the time of a pass over the members, as often as there will be one."""
        images = len(data.train.labels)
        once = replace(self, trainer=replace(self.trainer, epochs=1))
        # Looking for the noise takes seconds, and is done once for all runs.
        _, searching = _timed(lambda: self.trainer.budget(images))
        once.trainer.budget(images)
        _, seconds = _timed(lambda: once.run(data, 0))
        return searching + seconds * self.trainer.epochs


def _fresh_network(
    network: str,
    image_shape: tuple[int, int, int],
    classes: int,
    seed: int,
    device: torch.device,
) -> FeatureNetwork:
    """Return a network with fresh weights, on the device, channels last."""
    module = (
        dd_plugins.get_network(network)
        .for_evaluation()
        .build(image_shape, classes, generator=derive(seed, "audited network"))
    )
    # mypy does not know the overload of Module.to with a memory format.
    moved: FeatureNetwork = module.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return moved


def trained_on(
    distilled: dd_plugins.DistilledSet,
    seed: int,
    device: str,
    training_steps: int | None,
    network: str | None = None,
) -> Released:
    """Train a fresh network on a distilled set, by the protocol of its label kind."""
    target = resolve_device(device)
    channels, height, width = distilled.images.shape[1:]
    module = _fresh_network(
        network or distilled.header.evaluation_network,
        (channels, height, width),
        len(distilled.header.class_names),
        seed,
        target,
    )
    recipe = recipe_for(distilled)
    if training_steps is not None:
        recipe = replace(recipe, steps=training_steps)
    train_network(
        module,
        training_set_of(distilled, device=target),
        recipe,
        generator=derive(seed, "audited training"),
        precision=resolve_precision("auto", target),
    )
    return Released(distilled, module, distilled.transform)


def _training_seconds(
    distilled: dd_plugins.DistilledSet, device: str, training_steps: int | None
) -> float:
    """Return about how long a network is trained on a set."""
    total = training_steps or recipe_for(distilled).steps
    few = min(_PROBE[1], total)
    _, seconds = _timed(lambda: trained_on(distilled, 0, device, few))
    return seconds / few * total


def _timed(work: Callable[[], Result]) -> tuple[Result, float]:
    started = time.perf_counter()
    return work(), time.perf_counter() - started
