"""Scores of how much of an accuracy is due to images, not to labels or recipe."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dd_plugins.functional.statistics import mean_interval

__all__ = [
    "RobustnessScore",
    "augmentation_robust_score",
    "label_robust_score",
    "score_of_runs",
]


def label_robust_score(hard_label_recovery: float, over_random: float) -> float:
    """Return DD-Ranking's label robust score, in [0, 1].

    It is ``(e**a - e**-1) / (e - e**-1)`` with
    ``a = (over_random - hard_label_recovery) / 2``: large for a set with a large lead
    over random images and, under hard labels, a small deficit to all real images.

    Args:
        hard_label_recovery: HLR: the accuracy from all real images minus the accuracy
            from the set with hard labels, in [-1, 1].
        over_random: IOR: the accuracy from the set with its own labels minus the
            accuracy from as many random real images, in [-1, 1].

    Reference: Li et al., "DD-Ranking: Rethinking the Evaluation of Dataset
    Distillation", arXiv 2505.13300, section 3, and its released code.

    Example:
        >>> round(label_robust_score(0.153, 0.249), 3)
        0.29
    """
    return _normalised((over_random - hard_label_recovery) / 2)


def augmentation_robust_score(augmented: float, plain: float) -> float:
    """Return DD-Ranking's augmentation robust score, in [0, 1].

    Args:
        augmented: the accuracy from the set minus the accuracy from as many random real
            images, both under augmentation, in [-1, 1].
        plain: the same difference without augmentation.

    Reference: as for :func:`label_robust_score`.

    Example:
        >>> round(augmentation_robust_score(0.2, 0.1), 3)
        0.338
    """
    return _normalised((augmented + plain) / 2)


def _normalised(value: float) -> float:
    return (math.exp(value) - math.exp(-1)) / (math.e - math.exp(-1))


@dataclass(frozen=True)
class RobustnessScore:
    """A score of one network, and the two differences behind it.

    Attributes:
        name: ``"lrs"`` or ``"ars"``.
        spec: the spec of the network.
        value: the score of the mean accuracies, in [0, 1].
        interval: the 95 % interval of the mean over networks (Student's t), each scored
            from the accuracies of one repeat; None for one network.
        parts: the two differences by name: HLR and IOR, or ``augmented`` and
            ``plain``.
    """

    name: str
    spec: str
    value: float
    interval: tuple[float, float] | None
    parts: dict[str, float]

    def __str__(self) -> str:
        """Return the score, with its interval if there is one."""
        if self.interval is None:
            return f"{self.value:.4f}"
        low, high = self.interval
        return f"{self.value:.4f} ({low:.4f} to {high:.4f})"

    def as_dict(self) -> dict[str, Any]:
        """Return the form written by ``--json``."""
        interval = None if self.interval is None else list(self.interval)
        return {"spec": self.spec, "value": self.value, "ci95": interval} | self.parts


_SCORES = {
    "lrs": (("HLR", "IOR"), label_robust_score),
    "ars": (("augmented", "plain"), augmentation_robust_score),
}


def score_of_runs(
    name: str,
    spec: str,
    first: tuple[Sequence[float], Sequence[float]],
    second: tuple[Sequence[float], Sequence[float]],
) -> RobustnessScore:
    """Return a score from the accuracies of several networks.

    Args:
        name: ``"lrs"`` or ``"ars"``.
        spec: the spec of the networks.
        first: the accuracies behind the score's first part, minuend and subtrahend,
            with a value for each network.
        second: the accuracies behind its second part.
    """
    names, score = _SCORES[name]
    differences = [
        [high - low for high, low in zip(*pair, strict=True)]
        for pair in (first, second)
    ]
    means = [sum(each) / len(each) for each in differences]
    runs = [score(*pair) for pair in zip(*differences, strict=True)]
    return RobustnessScore(
        name,
        spec,
        score(*means),
        mean_interval(runs),
        dict(zip(names, means, strict=True)),
    )
