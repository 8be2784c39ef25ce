"""A run whose options are all known."""

from dataclasses import dataclass
from typing import Any

import torch

from dd_plugins.data.real import RealData
from dd_plugins.distillers.base import AbstractDistiller, InitialImages
from dd_plugins.networks.base import AbstractNetwork
from dd_plugins.run import RunOptions, Task
from dd_plugins.synthetic.parametrizations.base import AbstractParametrization

__all__ = ["Settled"]


@dataclass(frozen=True, eq=False)
class Settled:
    """A run whose options are all known.

    Attributes:
        options: complete: no field is None.
        task: the data to distil, and the size of the set.
        data: the real data, with the settled value space and mirror.
        distiller: settled for the task.
        network: the network architecture for distillation.
        initial_images: the kind of first images, or the coreset choosing them.
        parametrization: the parametrization of the learned images.
        device: the device of all tensors.
        precision: the dtype of features.
        public: public images for a private distiller, or None.
    """

    options: RunOptions
    task: Task
    data: RealData
    distiller: AbstractDistiller[Any]
    network: AbstractNetwork
    initial_images: "InitialImages | AbstractDistiller[Any]"
    parametrization: AbstractParametrization
    device: torch.device
    precision: torch.dtype
    public: RealData | None = None
