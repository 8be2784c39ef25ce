"""Experts: networks whose trajectories later runs match, trained beforehand."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dd_plugins.checks import whole_number
from dd_plugins.data.preprocess import Preprocessing
from dd_plugins.data.real import RealData
from dd_plugins.data.whitening import why_not_whitened
from dd_plugins.errors import OptionError
from dd_plugins.networks.base import (
    AbstractNetwork,
    ImageShape,
    batch_statistics,
    has_batch_norm,
)
from dd_plugins.runtime.cache import cache_folder
from dd_plugins.runtime.device import Precision
from dd_plugins.runtime.progress import OnProgress, part_of
from dd_plugins.training.kept_networks import RealSetting, TrainedNetwork
from dd_plugins.training.recipes import Recipe
from dd_plugins.training.trajectories import Trajectory, set_weights

__all__ = ["ExpertReport", "expert_preprocessing", "experts_of", "train_experts"]


def expert_preprocessing(image_shape: ImageShape) -> Preprocessing | None:
    """Return the value space of MTT's experts, or None for the data's own.

    Colour images are whitened as in MTT, unless their size is against it.
    """
    is_colour = image_shape[0] == 3
    return "pixel-zca" if is_colour and why_not_whitened(image_shape) is None else None


def experts_of(
    network: AbstractNetwork,
    recipe: Recipe,
    count: int,
    *,
    every: int,
    way_points: int | None = None,
) -> list[Trajectory]:
    """Return the trajectories of several networks, whose seeds are 0, 1, 2, ..."""
    return [
        Trajectory(TrainedNetwork(network, recipe, seed), every, way_points)
        for seed in range(count)
    ]


@dataclass(frozen=True)
class ExpertReport:
    """The report of :func:`train_experts` on one expert.

    Attributes:
        network: the spec of the network.
        seed: the seed of its weights and its training.
        snapshots: the number of snapshots.
        file: the path of their file.
        was_there: whether the file existed before.
        validation_accuracy: the accuracy of the last snapshot on images held out of the
            training data, in [0, 1]; None if there are none, or only one for a network
            with BatchNorm.
    """

    network: str
    seed: int
    snapshots: int
    file: Path
    was_there: bool
    validation_accuracy: float | None


def train_experts(
    data: RealData,
    network: AbstractNetwork,
    recipe: Recipe,
    *,
    experts: int,
    every: int,
    way_points: int | None = None,
    device: str = "auto",
    precision: Precision = "auto",
    folder: str | Path | None = None,
    on_progress: OnProgress | None = None,
) -> Iterator[ExpertReport]:
    """Train experts for later runs, except those already kept.

    After an interruption, call the function again: it continues with the first missing
    expert. On the same processor, with the same number of threads, experts are equal
    bit for bit.

    Args:
        data: real data; experts are trained on its training images.
        network: the architecture, trained in its form for distillation.
        recipe: how each expert is trained.
        experts: the number of experts, at least 1; their seeds are 0, 1, 2, ...
        every: steps between snapshots, at least 1.
        way_points: the number of kept snapshots; None for all (see
            :class:`Trajectory`).
        device: ``"auto"``, ``"cpu"``, ``"cuda"``, ...
        precision: the precision of the networks' arithmetic.
        folder: the folder of kept trajectories; by default :func:`cache_folder`.
        on_progress: called with the number of the expert, the training steps done, and
            the steps of all experts to train.

    Yields:
        A report of each expert as soon as it is kept.

    Raises:
        FileError: a file is damaged, contradicts its name, or cannot be written.
        OptionError: an argument has the wrong type or is out of its range, or the
            images are too small for the architecture.
        RunError: the weights of an expert became infinite or NaN.
    """
    for name, value, kind, example in (
        ("network", network, AbstractNetwork, "get_network('mlp')"),
        ("recipe", recipe, Recipe, "get_recipe('recipe(steps=200)')"),
    ):
        if not isinstance(value, kind):
            raise OptionError(
                f"{name} must be a {name} of dd-plugins, such as {example} returns, "
                f"got {value!r}"
            )
    count = whole_number("experts", experts, least=1)
    every = whole_number("every", every, least=1)
    if way_points is not None:
        way_points = whole_number("way_points", way_points, least=2)
    setting = RealSetting.of(data, device, precision)
    network = network.for_distillation()
    run = setting.run(network, recipe.steps)
    place = Path(folder or cache_folder())
    trajectories = experts_of(
        network, recipe, count, every=every, way_points=way_points
    )
    for trajectory in trajectories:  # errors are found before the first is trained
        trajectory.check(run, setting.real, place)
    kept = [each.is_kept(run, setting.real, place) for each in trajectories]
    before, total = 0, recipe.steps_done * kept.count(False)
    for trajectory in trajectories:
        seed = trajectory.trained.seed
        was_there = trajectory.is_kept(run, setting.real, place)

        on_step = part_of(on_progress, f"expert {seed + 1} of {count}", before, total)
        snapshots = trajectory.obtain(run, setting.real, place, on_step)
        before += 0 if was_there else recipe.steps_done
        score = None
        module, _ = trajectory.trained.fresh(run)
        if len(data.validation.labels) > has_batch_norm(module):
            set_weights(module, snapshots[len(snapshots) - 1])
            with batch_statistics(module.eval()):  # a snapshot has no running ones
                score = setting.accuracy(module, data.validation)
        yield ExpertReport(
            repr(network),
            seed,
            len(snapshots),
            trajectory.path(run, setting.real, place),
            was_there,
            score,
        )
