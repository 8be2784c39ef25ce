"""A run of which every option is known."""

from dataclasses import dataclass
from typing import Any

import torch

from dd_plugins.data.real import RealData
from dd_plugins.distillers.base import AbstractDistiller, InitialImages
from dd_plugins.networks.base import AbstractNetwork
from dd_plugins.run import RunOptions, Task
from dd_plugins.synthetic.parametrizations import AbstractParametrization

__all__ = ["Settled"]


@dataclass(frozen=True, eq=False)
class Settled:
    """A run of which every option is known.

    Attributes:
        options: complete: no field is None.
        task: what is distilled.
        data: the real data, in the value space and with the mirror that were settled.
        distiller: settled for the task.
        network: the architecture on which is distilled.
        initial_images: what the set begins as.
        parametrization: what is learned in place of pixels.
        device: where tensors live.
        precision: dtype of features.
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
