"""Scores that tests of statistics share."""

import numpy as np

from dd_privacy.audit.statistics import Scores


def scores(members: object, non_members: object) -> Scores:
    """Return scores in float64."""
    return Scores(np.asarray(members, float), np.asarray(non_members, float))


def drawn(
    members: int, non_members: int, gain: float = 0.0, seed: int = 0, step: float = 0.0
) -> Scores:
    """Return normal scores, higher by ``gain`` for members, rounded to a step."""
    generator = np.random.default_rng(seed)
    found = generator.normal(gain, 1, members), generator.normal(0, 1, non_members)
    if step:
        found = tuple(step * np.round(each / step) for each in found)
    return scores(*found)
