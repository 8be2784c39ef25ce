"""Signals for attacks: one number per example, a confidence or a distance."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from dd_plugins.api import OptionError
from dd_privacy.audit.attacks.base import Observations

__all__ = [
    "TINY",
    "Signal",
    "confidence",
    "negative_entropy",
    "negative_modified_entropy",
    "probabilities",
    "signal_of",
]

TINY = 1e-12
"""The smallest probability and standard deviation, so logarithms are finite."""


def confidence(outputs: Tensor, labels: Tensor) -> Tensor:
    """Return the log-odds of each example's class.

    ``log p_y - log(sum of the others' p)``, equation (1) and appendix B of Carlini et
    al. (2022). Logits keep their precision where probabilities near 0 and 1 lose it.

    Args:
        outputs: shape ``(n, classes)``.
        labels: int64 of shape ``(n,)``.

    Returns:
        float64 of shape ``(n,)``.
    """
    found = outputs.double()
    own = found.gather(1, labels[:, None])
    others = found.scatter(1, labels[:, None], -torch.inf)
    return (own[:, 0] - others.logsumexp(dim=1)).clamp(-1e6, 1e6)


def probabilities(outputs: Tensor) -> Tensor:
    """Return the softmax of outputs, float64 of shape ``(n, classes)``."""
    return outputs.double().softmax(dim=1)


def negative_entropy(outputs: Tensor) -> Tensor:
    """Return the negative entropy of each prediction in nats, float64 ``(n,)``."""
    found = probabilities(outputs)
    return (found * found.clamp_min(TINY).log()).sum(dim=1)


def negative_modified_entropy(outputs: Tensor, labels: Tensor) -> Tensor:
    """Return the negative entropy, modified by the true class.

    It is equation (8) of Song and Mittal (2021), in nats, float64 ``(n,)``.
    """
    found = probabilities(outputs)
    own = F.one_hot(labels, found.shape[1]).bool()
    right = torch.where(own, found, 1 - found).clamp_min(TINY)
    wrong = torch.where(own, 1 - found, found)
    return (wrong * right.log()).sum(dim=1)


Signal = Literal["confidence", "pixel_distance", "feature_distance"]
"""A number compared between runs by an attack."""


def signal_of(seen: Observations, labels: Tensor, signal: Signal) -> Tensor:
    """Return the signal of each example, float64 of shape ``(n,)``.

    Raises:
        OptionError: the signal is a distance, and the run releases no images.
    """
    if signal == "confidence":
        return confidence(seen.outputs, labels)
    found: Tensor | None = getattr(seen, signal)
    if found is None:
        raise OptionError(f"{signal} needs released images, got none")
    return found.double()
