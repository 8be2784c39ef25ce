"""Protection of the global random generators."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

__all__ = ["untouched_randomness"]


@contextmanager
def untouched_randomness() -> Iterator[None]:
    """Restore the global generators of torch, NumPy and Python afterwards.

    The library's distillers do not draw from them; those of other authors may.
    """
    numpy_state, python_state = np.random.get_state(), random.getstate()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        np.random.set_state(numpy_state)
        random.setstate(python_state)
