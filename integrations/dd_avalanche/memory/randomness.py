"""Protection of the global random generators."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

__all__ = ["untouched_randomness"]


@contextmanager
def untouched_randomness(device: torch.device | None = None) -> Iterator[None]:
    """Restore the global generators of torch, NumPy and Python afterwards.

    The library's distillers do not draw from them; those of other authors may.

    Args:
        device: the device of the computation. The generator of a CUDA device is
            restored too; those of other GPUs are not looked at.
    """
    devices = [device] if device is not None and device.type == "cuda" else []
    numpy_state, python_state = np.random.get_state(), random.getstate()
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        np.random.set_state(numpy_state)
        random.setstate(python_state)
