"""Several kept networks, each read from its file on access."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dd_plugins.data.sampler import RealSampler
from dd_plugins.networks.base import FeatureNetwork
from dd_plugins.run import Run
from dd_plugins.runtime.memory import memory_limit
from dd_plugins.training.kept_networks import TrainedNetwork

__all__ = ["KeptNetworks"]


class KeptNetworks(Sequence[FeatureNetwork]):
    """Networks, each read from its file and checked on first access.

    One is on the device of the run at a time, the last one accessed. All stay in the
    main memory, if they take no more than an eighth of it; others are read again.

    Args:
        wanted: the networks; all are in files.
        run: for the shape of images, the classes, the device and the precision.
        real: all training images.
        folder: the folder of kept networks.
    """

    def __init__(
        self,
        wanted: Sequence[TrainedNetwork],
        run: Run,
        real: RealSampler,
        folder: Path,
    ) -> None:
        self._wanted, self._run, self._real, self._folder = wanted, run, real, folder
        self._last: tuple[int, FeatureNetwork] | None = None
        self._held: dict[int, FeatureNetwork] = {}  # on the CPU

    def __len__(self) -> int:
        return len(self._wanted)

    def __getitem__(self, number: Any) -> Any:
        """Return a network, frozen and in evaluation mode, on the device of the run."""
        if not 0 <= number < len(self._wanted):
            raise IndexError(number)
        if self._last is None or self._last[0] != number:
            self._last = None  # its memory is free before the next takes its place
            module = self._held.get(number)
            if module is None:
                module = self._wanted[number].read(self._run, self._real, self._folder)
                if _bytes(*self._held.values(), module) < memory_limit() / 8:
                    self._held[number] = self._on(module, "cpu")
            else:
                module = self._on(module, self._run.device)
            self._last = number, module
        return self._last[1]

    def _on(self, module: FeatureNetwork, device: torch.device | str) -> FeatureNetwork:
        """Return a copy of a network on a device; itself if the run is on the CPU."""
        if self._run.device.type == "cpu":
            return module
        return copy.deepcopy(module).to(device)


def _bytes(*modules: nn.Module) -> int:
    """Return the bytes of all weights and statistics of networks."""
    return sum(each.nbytes for one in modules for each in one.state_dict().values())
