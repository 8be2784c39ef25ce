"""Attacks: from an attacker's observations to a score for each example.

An attack sees the part of the audited run granted by its threat model, and everything
about the reference runs (shadow runs: the same mechanism on other members). The higher
the score of an example, the more it looks like a member.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

import dd_plugins

__all__ = [
    "AbstractAttack",
    "AbstractModelAttack",
    "Evidence",
    "Observations",
    "Reference",
    "ThreatModel",
]

ThreatModel = Literal["images", "model", "both"]
"""The attacker's access: the released images, a model trained on them, or both."""


@dataclass(frozen=True)
class Observations:
    """An attacker's observations of ``n`` examples in one run.

    Attributes:
        outputs: float32 ``(n, classes)``: logits of the released model, or of a model
            trained on the released images.
        pixel_distance: float32 ``(n,)``: the Euclidean distance to the nearest released
            image, in the value space; None where no images are released.
        feature_distance: the same distance between the model's features, scaled to unit
            length.
    """

    outputs: Tensor
    pixel_distance: Tensor | None = None
    feature_distance: Tensor | None = None


# The older name, kept for attacks written for it and for the checks of
# ``dd_plugins.testing``.
Seen = Observations


@dataclass(frozen=True)
class Reference:
    """A shadow run, fully known to the attacker.

    Attributes:
        seen: observations of all examples.
        members: bool ``(n,)``: the members of this run.
    """

    seen: Observations
    members: Tensor


@dataclass(frozen=True)
class Evidence:
    """All of an attacker's knowledge.

    Attributes:
        target: observations of the audited run.
        labels: int64 ``(n,)``: the label of each example; wrong for canaries.
        known: bool ``(n,)``: examples of known membership.
        members: bool ``(n,)``: the known membership; False for the others.
        population: bool ``(n,)``: the examples used by no run.
        references: the shadow runs.
        seed: the seed for the draws of an attack.
        scored: bool ``(n,)``: examples whose scores count; None for all. Other scores
            may have any finite value.
    """

    target: Observations
    labels: Tensor
    known: Tensor
    members: Tensor
    population: Tensor
    references: Sequence[Reference] = ()
    seed: int = 0
    scored: Tensor | None = None


class AbstractAttack(dd_plugins.Record, ABC):
    """A membership-inference attack.

    A subclass is a frozen record of its options (see :func:`dd_plugins.record`),
    registered by the hook ``dd_register_attacks`` under ``name``.
    """

    @property
    @abstractmethod
    def threat_model(self) -> ThreatModel:
        """The attacker's access to the audited run."""

    @property
    def references_needed(self) -> int:
        """The least number of shadow runs needed; 0 by default."""
        return 0

    @property
    def learns_from_known(self) -> bool:
        """Whether the attack trains on known examples; False by default.

        If so, areas under the ROC curve leave known examples out: their scores can only
        be cross-validated, and the folds depend on each other.
        """
        return False

    @abstractmethod
    def scores(self, evidence: Evidence) -> Tensor:
        """Return a score for each example, higher for likelier members.

        Args:
            evidence: the attacker's knowledge. It names members of the audited run only
                among known examples.

        Returns:
            float64 of shape ``(n,)``, finite.
        """


class AbstractModelAttack(AbstractAttack):
    """An attack on a model: the released one, or one trained on released images."""

    @property
    def threat_model(self) -> ThreatModel:
        """The model alone."""
        return "model"
