"""Members of shadow runs: each example is a member of equally many."""

import itertools

import torch
from torch import Tensor

from dd_plugins.api import OptionError, generator_for

__all__ = ["shadow_members"]

_LARGEST_RATIO = 1.25  # of a shadow run's members to those of an audited run


def shadow_members(shadows: int, count: int, fraction: float, seed: int) -> Tensor:
    """Draw the members of shadow runs.

    Attacks compare runs with an example to runs without it, so each example must be a
    member of equally many runs.

    Args:
        shadows: the number of shadow runs, 0 or more than 1.
        count: the number of possible members.
        fraction: the fraction of members among them in an audited run.
        seed: the seed of the draw.

    Returns:
        bool ``(shadows, count)``.

    Raises:
        OptionError: if each example is in equally many of these shadow runs, a shadow
            run cannot have about as many members as an audited run.
    """
    if shadows == 0:
        return torch.zeros(0, count, dtype=torch.bool)
    if not _fits(shadows, fraction):
        fewer = next((n for n in range(shadows - 1, 1, -1) if _fits(n, fraction)), None)
        more = next(n for n in itertools.count(shadows + 1) if _fits(n, fraction))
        raise OptionError(
            "each shadow run must have about as many members as an audited run, and "
            f"each example must be in equally many, got {shadows} shadow runs, with "
            "which that is impossible; ask for "
            f"{more if fewer is None else f'{fewer} or for {more}'} shadow runs, or "
            "for none"
        )
    ranks = torch.rand(
        shadows, count, generator=generator_for(seed, "shadow membership")
    )
    return ranks.argsort(dim=0).argsort(dim=0) < _runs_with_each(shadows, fraction)


def _runs_with_each(shadows: int, fraction: float) -> int:
    """Return how many shadow runs have a given example as a member."""
    return min(shadows - 1, max(1, round(fraction * shadows)))


def _fits(shadows: int, fraction: float) -> bool:
    """Return whether a shadow run has about as many members as an audited run."""
    ratio = _runs_with_each(shadows, fraction) / (fraction * shadows)
    return 1 / _LARGEST_RATIO <= ratio <= _LARGEST_RATIO
