"""Trajectories: the weights of a network during training, kept in a file."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dd_plugins.data.sampler import RealSampler
from dd_plugins.errors import FileError, OptionError
from dd_plugins.run import Run
from dd_plugins.runtime.device import exact_kernels, plain_torch
from dd_plugins.runtime.files import check_writable
from dd_plugins.runtime.kept_tensors import load_tensors, save_tensors
from dd_plugins.training.kept_networks import TrainedNetwork, real_training_set
from dd_plugins.training.train import training_steps_of

__all__ = ["Trajectory"]

_KIND = "a kept trajectory"
_ADVICE = "remove it, and it is trained again"


@dataclass(frozen=True)
class Trajectory:
    """Snapshots of a network's weights while it is trained on real data.

    Methods that match trajectories (MTT, DATM) call the network an expert.

    Attributes:
        trained: the network, its recipe and its seed.
        every: steps between snapshots, at least 1; the first is of step 0.

    Raises:
        OptionError: ``every`` is below 1.

    Reference: Cazenavette et al., "Dataset Distillation by Matching Training
    Trajectories", CVPR 2022, arXiv 2203.11932, section 3.1 ("expert trajectories").
    """

    trained: TrainedNetwork
    every: int

    def __post_init__(self) -> None:
        """Refuse snapshots that are less than a step apart."""
        if self.every < 1:
            raise OptionError(f"every: expected at least 1 step, got {self.every}")

    @property
    def steps(self) -> list[int]:
        """The steps of which there are snapshots."""
        return list(range(0, self.trained.recipe.steps + 1, self.every))

    def path(self, run: Run, real: RealSampler, folder: Path) -> Path:
        """Return the file that holds the snapshots, or will hold them."""
        network = self.trained.path(run, real, folder)
        return network.with_name(f"{network.stem}-every-{self.every}.safetensors")

    @plain_torch()
    def obtain(self, run: Run, real: RealSampler, folder: Path) -> Tensor:
        """Return the snapshots: from their file, or trained now and kept there.

        Snapshots of a network that is trained on images without a name are not kept.

        Args:
            run: for the shape of images, the classes, the device and the precision.
            real: all training images.
            folder: where trained networks are kept.

        Returns:
            float32 ``(snapshots, parameters)`` on the CPU: all parameters of the
            network, flattened in their order, at each of :attr:`steps`.

        Raises:
            FileError: the file is damaged or is not what its name says, or cannot be
                written.
            OptionError: the images are too small for the architecture.
        """
        path = self.path(run, real, folder)
        about = self.trained.description(run, real) | {"every": self.every}
        described = json.dumps(about, sort_keys=True)
        if real.content is not None and path.exists():
            tensors, found = load_tensors(path, what=_KIND, advice=_ADVICE)
            if found.get("description") != described or "weights" not in tensors:
                raise FileError(
                    f"{path} does not match its key: it holds "
                    f"{found.get('description')}, expected {described}; {_ADVICE}"
                )
            return tensors["weights"]
        if real.content is not None:
            check_writable(path)
        weights = torch.stack(list(self._snapshots(run, real)))
        if real.content is not None:
            save_tensors(path, {"weights": weights}, {"description": described})
        return weights

    def _snapshots(self, run: Run, real: RealSampler) -> Iterator[Tensor]:
        """Train, and yield the weights at each step of which there is a snapshot."""
        module, generator = self.trained.fresh(run)

        def weights() -> Tensor:
            flat = [parameter.detach().flatten() for parameter in module.parameters()]
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
                if done % self.every == 0:
                    yield weights()
