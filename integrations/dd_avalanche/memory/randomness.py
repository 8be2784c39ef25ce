"""Global random generators, left alone by a memory."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

__all__ = ["untouched_randomness"]


@contextmanager
def untouched_randomness() -> Iterator[None]:
    """Leave the global generators of torch, NumPy and Python as they are.

    No distiller of the library draws from them; another author's may.
    """
    numpy_state, python_state = np.random.get_state(), random.getstate()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        np.random.set_state(numpy_state)
        random.setstate(python_state)
