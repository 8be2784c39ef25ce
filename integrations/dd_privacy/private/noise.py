"""Noise and coins drawn from a secret; no output of a run reveals it."""

import secrets
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

__all__ = ["SecretNoise"]

_KEY_BITS = 128
_GAUSSIAN, _COINS = 1, 2
_SUMMED = 4  # draws summed for one value of secure noise


@dataclass(frozen=True)
class SecretNoise:
    """Gaussian noise and Poisson batches, functions of a secret key and the step.

    A resumed run draws the same values as an uninterrupted one. The generator is Philox
    with a key of 128 bits. Torch's generator on the CPU uses only 32 bits of its seed:
    an attacker could try all of them.

    Attributes:
        key: the secret, below ``2**128``.
        secure: whether each value is half the sum of four draws, and the first draw of
            a step is discarded, as in Opacus's secure mode. A single draw can give only
            some floating-point numbers, and these can reveal the signal under the
            noise.

    Reference: Holohan, Braghin, "Secure Random Sampling in Differential Privacy",
    ESORICS 2021, arXiv 2107.10138, section 4.
    """

    key: int
    secure: bool = False

    @classmethod
    def fresh(cls, *, secure: bool = False) -> "SecretNoise":
        """Draw a key from the system's entropy."""
        return cls(secrets.randbits(_KEY_BITS), secure)

    def gaussian(self, step: int, shape: tuple[int, ...]) -> Tensor:
        """Return float64 standard normal draws, the same at each call for a step."""
        generator = self._generator(_GAUSSIAN, step)
        if not self.secure:
            return torch.from_numpy(generator.standard_normal(shape))
        generator.standard_normal()
        draws = [generator.standard_normal(shape) for _ in range(_SUMMED)]
        return torch.from_numpy(np.sum(draws, axis=0) / np.sqrt(_SUMMED))

    def batch(self, step: int, count: int, rate: float) -> Tensor:
        """Draw a Poisson batch: an independent coin for each example.

        Returns:
            int64 indices below ``count``, in ascending order; there may be none.
        """
        coins = self._generator(_COINS, step).random(count) < rate
        return torch.from_numpy(np.flatnonzero(coins))

    def _generator(self, purpose: int, step: int) -> np.random.Generator:
        # The counter's upper words tell the streams apart; draws count up the lower.
        counter = (purpose << 192) + (step << 128)
        return np.random.Generator(np.random.Philox(key=self.key, counter=counter))
