"""Trajectories: the weights of a network during training, kept in a file."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor, nn

from dd_plugins.data.sampler import RealSampler
from dd_plugins.errors import FileError, OptionError, RunError, one_line
from dd_plugins.run import Run
from dd_plugins.runtime.device import exact_kernels, plain_torch
from dd_plugins.runtime.files import check_writable
from dd_plugins.runtime.kept_tensors import load_tensors, save_tensors
from dd_plugins.training.kept_files import ADVICE, AbstractKept, OnStep
from dd_plugins.training.kept_networks import (
    TrainedNetwork,
    real_training_set,
)
from dd_plugins.training.train import training_steps_of

__all__ = ["Snapshots", "Trajectory", "set_weights"]

_KIND = "a kept trajectory"


@dataclass(frozen=True, eq=False)
class Snapshots:
    """The weights of a network at several steps of its training.

    The weights of a kept trajectory are read from its file on access.

    Attributes:
        weights: float32 ``(snapshots, parameters)`` on the CPU, all parameters of the
            network, flattened in their order; or the way points alone. None for a kept
            trajectory.
        fractions: float32 ``(snapshots, tensors)``: the position of each tensor on the
            straight line from one way point to the next, as a fraction; None if all
            snapshots are kept.
        sizes: the number of values of each tensor.
        count: the number of snapshots.
        path: the file of the weights; None if they are in ``weights``.
    """

    weights: Tensor | None
    fractions: Tensor | None
    sizes: tuple[int, ...]
    count: int
    path: Path | None = None

    def __len__(self) -> int:
        """Return the number of snapshots."""
        return self.count

    def __getitem__(self, number: int) -> Tensor:
        """Return a snapshot, float32 ``(parameters,)`` on the CPU."""
        if not 0 <= number < self.count:
            raise IndexError(number)
        if self.fractions is None:
            return self._row(number)
        way_points = way_points_of(self.count, self._way_points)
        segment = sum(point <= number for point in way_points[1:-1])
        first, last = self._row(segment), self._row(segment + 1)
        fractions = self.fractions[number].repeat_interleave(torch.tensor(self.sizes))
        return torch.lerp(first, last, fractions)

    @cached_property
    def _way_points(self) -> int:
        if self.weights is not None:
            return len(self.weights)
        with self._opened() as weights:
            return int(weights.get_shape()[0])

    def _row(self, number: int) -> Tensor:
        """Return one row of the kept weights."""
        if self.weights is not None:
            return self.weights[number]
        with self._opened() as weights:
            row: Tensor = weights[number]
        return row

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        """Open the file of the weights, for reading them on access."""
        try:
            with safetensors.safe_open(self.path, framework="pt") as opened:
                yield opened.get_slice("weights")
        except (safetensors.SafetensorError, OSError) as error:
            reason = one_line(error)
            raise FileError(f"{self.path} cannot be read ({reason}); {ADVICE}") from (
                error
            )


def way_points_of(snapshots: int, way_points: int) -> list[int]:
    """Return the numbers of the way points among snapshots, first and last included.

    They are spaced as evenly as possible.
    """
    last = snapshots - 1
    return [round(part * last / (way_points - 1)) for part in range(way_points)]


@dataclass(frozen=True)
class Trajectory(AbstractKept):
    """Snapshots of a network's weights while it is trained on real data.

    Trajectory matching (MTT, DATM) calls the network an expert.

    Attributes:
        trained: the network, its recipe and its seed.
        every: steps between snapshots, at least 1; the first is of step 0.
        way_points: the number of kept snapshots, at least 2, or None for all. Between
            two of them each tensor moves on a straight line, in proportion to its path
            length in training. A file of 51 snapshots shrinks to a few.

    Raises:
        OptionError: ``every`` is below 1 or above the number of training steps, or
            there are fewer than two way points, or more way points than snapshots.

    References: Cazenavette et al., "Dataset Distillation by Matching Training
    Trajectories", CVPR 2022, arXiv 2203.11932, section 3.1 ("expert trajectories");
    Zhong et al., "Towards Stable and Storage-efficient Dataset Distillation: Matching
    Convexified Trajectory", CVPR 2025, arXiv 2406.19827 (way points).
    """

    trained: TrainedNetwork
    every: int
    way_points: int | None = None

    def __post_init__(self) -> None:
        """Refuse snapshots too near or too far, and too few or many way points."""
        if self.every < 1:
            raise OptionError(f"every: expected at least 1 step, got {self.every}")
        if self.every > self.training_steps:
            raise OptionError(
                f"every: expected at most {self.training_steps}, the number of "
                f"training steps, got {self.every}"
            )
        most = len(self.steps)
        if self.way_points is not None and not 2 <= self.way_points <= most:
            raise OptionError(
                f"way_points: expected 2 to {most}, the number of snapshots, got "
                f"{self.way_points}"
            )

    @property
    def steps(self) -> list[int]:
        """The steps with snapshots."""
        return list(range(0, self.training_steps + 1, self.every))

    def is_keepable(self, real: RealSampler) -> bool:
        """Return whether the origin of the images and of the network is known."""
        return self.trained.is_keepable(real)

    @property
    def training_steps(self) -> int:
        """The number of training steps of the network."""
        return self.trained.training_steps

    def path(self, run: Run, real: RealSampler, folder: Path) -> Path:
        """Return the path of the snapshots' file, present or not."""
        network = self.trained.path(run, real, folder)
        points = "" if self.way_points is None else f"-points-{self.way_points}"
        return network.with_name(
            f"{network.stem}-every-{self.every}{points}.safetensors"
        )

    @plain_torch()
    def obtain(
        self,
        run: Run,
        real: RealSampler,
        folder: Path,
        on_step: OnStep = lambda done: None,
    ) -> Snapshots:
        """Return the snapshots from their file, or train the network and keep them.

        Snapshots of a network of unknown origin, or trained on images of unknown
        origin, are not kept.

        Args:
            run: for the shape of images, the classes, the device and the precision.
            real: all training images.
            folder: the folder of kept networks.
            on_step: called after each training step.

        Returns:
            The snapshots at each of :attr:`steps`.

        Raises:
            FileError: the file is damaged, contradicts its name, or cannot be written.
            OptionError: the images are too small for the architecture.
            RunError: the weights became infinite or NaN.
        """
        path = self.path(run, real, folder)
        if self.is_kept(run, real, folder):
            return self._read(path, run, real)
        self.check(run, real, folder)
        tensors = self._train(run, real, on_step)
        if not self.is_keepable(real):
            return Snapshots(
                tensors["weights"],
                tensors.get("fractions"),
                self._sizes(run),
                len(self.steps),
            )
        save_tensors(path, tensors, {"description": self.described(run, real)})
        return self._read(path, run, real)

    def check(self, run: Run, real: RealSampler, folder: Path) -> None:
        """Check the file, or that it can be written.

        Raises:
            FileError: it is damaged, contradicts its name, or could not be written.
        """
        path = self.path(run, real, folder)
        if self.is_kept(run, real, folder):
            self._read(path, run, real)
        elif self.is_keepable(real):
            check_writable(path)

    def description(self, run: Run, real: RealSampler) -> dict[str, object]:
        """Return everything the snapshots depend on."""
        about = self.trained.description(run, real) | {"every": self.every}
        if self.way_points is not None:
            about["way_points"] = self.way_points
        return about

    def _read(self, path: Path, run: Run, real: RealSampler) -> Snapshots:
        """Check a file, and return its snapshots."""
        described = self.described(run, real)
        tensors, _ = load_tensors(
            path, what=_KIND, advice=ADVICE, description=described
        )
        sizes, count = self._sizes(run), len(self.steps)
        wanted = {"weights": (self.way_points or count, sum(sizes))}
        if self.way_points is not None:
            wanted["fractions"] = (count, len(sizes))
        shapes = {name: tuple(each.shape) for name, each in tensors.items()}
        if shapes != wanted:
            raise FileError(
                f"{path}: expected snapshots of {self.trained.network!r}, of shapes "
                f"{wanted}, got {shapes}; {ADVICE}"
            )
        return Snapshots(None, tensors.get("fractions"), sizes, count, path)

    def _sizes(self, run: Run) -> tuple[int, ...]:
        module, _ = self.trained.fresh(run)
        return tuple(parameter.numel() for parameter in module.parameters())

    def _train(self, run: Run, real: RealSampler, on_step: OnStep) -> dict[str, Tensor]:
        """Train the network, and return the tensors to keep."""
        if self.way_points is None:
            return {"weights": torch.stack(list(self._snapshots(run, real, on_step)))}
        sizes = self._sizes(run)
        points = way_points_of(len(self.steps), self.way_points)
        kept, lengths, before = [], [torch.zeros(len(sizes))], None
        for number, weights in enumerate(self._snapshots(run, real, on_step)):
            if number in points:
                kept.append(weights)
            if before is not None:
                moved = torch.split(weights - before, list(sizes))
                norms = torch.stack([each.norm() for each in moved])
                lengths.append(lengths[-1] + norms)
            before = weights
        return {
            "weights": torch.stack(kept),
            "fractions": _fractions_along(torch.stack(lengths), points),
        }

    def _snapshots(
        self, run: Run, real: RealSampler, on_step: OnStep
    ) -> Iterator[Tensor]:
        """Train the network, and yield its weights at each step with a snapshot."""
        module, generator = self.trained.fresh(run)

        def weights() -> Tensor:
            # torch.cat copies: a later step must not change a snapshot.
            flat = [each.detach().flatten() for each in module.parameters()]
            return torch.cat(flat).float().cpu()

        yield weights()
        steps = training_steps_of(
            module,
            real_training_set(run, real),
            self.trained.recipe,
            generator=generator,
            precision=run.precision,
        )
        with exact_kernels():
            for done in steps:
                on_step(done)
                if done % self.every == 0:
                    found = weights()
                    if not torch.isfinite(found).all():
                        raise RunError(
                            f"the weights of an expert are not finite after {done} "
                            f"training steps of {self.trained.network!r}; lower the "
                            f"learning rate of its recipe, {self.trained.recipe!r}"
                        )
                    yield found


def _fractions_along(lengths: Tensor, points: list[int]) -> Tensor:
    """Return the position of each tensor between way points, as a fraction.

    Args:
        lengths: the path length of each tensor up to each snapshot, ``(snapshots,
            tensors)``.
        points: the numbers of the way points.
    """
    fractions = torch.zeros_like(lengths)
    for first, last in itertools.pairwise(points):
        whole = lengths[last] - lengths[first]
        for number in range(first, last + 1):
            so_far = lengths[number] - lengths[first]
            evenly = (number - first) / (last - first)  # a tensor that never moves
            fractions[number] = torch.where(whole > 0, so_far / whole, evenly)
        if last != points[-1]:
            fractions[last] = 0  # the next line starts here
    return fractions


@torch.no_grad()
def set_weights(module: nn.Module, weights: Tensor) -> None:
    """Load the weights of a snapshot into a network."""
    start = 0
    for parameter in module.parameters():
        part = weights[start : start + parameter.numel()]
        parameter.copy_(part.view_as(parameter))
        start += parameter.numel()
