"""The attack by the entropy of a prediction."""

from torch import Tensor

import dd_plugins
from dd_privacy.audit.attacks.base import AbstractModelAttack, Evidence
from dd_privacy.audit.attacks.signals import TINY, probabilities

__all__ = ["Entropy"]


@dd_plugins.record
class Entropy(AbstractModelAttack):
    """The entropy of the prediction, lower for members (Salem et al. 2019)."""

    name = "entropy"

    def scores(self, evidence: Evidence) -> Tensor:
        """Return the negative entropy, in nats."""
        found = probabilities(evidence.target.outputs)
        return (found * found.clamp_min(TINY).log()).sum(dim=1)
