"""The attack by the entropy of a prediction."""

from torch import Tensor

import dd_plugins
from dd_privacy.audit.attacks.base import AbstractModelAttack, Evidence
from dd_privacy.audit.attacks.signals import negative_entropy

__all__ = ["Entropy"]


@dd_plugins.record
class Entropy(AbstractModelAttack):
    """The entropy of the prediction, lower for members (Salem et al. 2019)."""

    name = "entropy"

    def scores(self, evidence: Evidence) -> Tensor:
        """Return the negative entropy, in nats."""
        return negative_entropy(evidence.target.outputs)
