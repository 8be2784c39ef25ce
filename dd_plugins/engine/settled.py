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
        task: what is distilled.
        data: the real data, with the value space and the mirror that were settled.
        distiller: settled for the task.
        network: the architecture on which the set is distilled.
        initial_images: what the set starts from.
        parametrization: what is learned in place of pixels.
        device: where tensors are.
        precision: dtype of features.
        public: images that a private distiller may read freely, or None.
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
