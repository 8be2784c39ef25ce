"""Small memories and experiences for the tests."""

from typing import Any

import torch
from torch import Tensor

from dd_avalanche.memory import DistilledMemory

FREPO = "frepo(pool_size=2, real_batch_size=32, learning_rate=0.01)"


OPTIONS: dict[str, Any] = {"network": "conv(width=4, depth=2)", "steps": 4}


def memory(size: int = 20, distiller: str = FREPO, **options: Any) -> DistilledMemory:
    if distiller in ("random", "herding"):
        options = {"steps": None, **options}
    return DistilledMemory(size, distiller, **(OPTIONS | options))


def experience(*classes: int, count: int = 20, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Images in a space of any range: here from -3 to 5, a stripe for each class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.tensor(classes).repeat_interleave(count)
    images = torch.randn(len(labels), 1, 8, 8, generator=generator)
    for index, label in enumerate(labels.tolist()):
        images[index, :, label % 8] += 3
    return images, labels
