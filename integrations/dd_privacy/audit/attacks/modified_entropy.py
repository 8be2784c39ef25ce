"""The attack by modified entropy."""

from torch import Tensor

import dd_plugins
from dd_privacy.audit.attacks.base import AbstractModelAttack, Evidence
from dd_privacy.audit.attacks.signals import negative_modified_entropy

__all__ = ["ModifiedEntropy"]


@dd_plugins.record
class ModifiedEntropy(AbstractModelAttack):
    """Entropy, modified by the true class: equation (8) of Song and Mittal (2021)."""

    name = "modified_entropy"

    def scores(self, evidence: Evidence) -> Tensor:
        """Return the negative modified entropy, in nats."""
        return negative_modified_entropy(evidence.target.outputs, evidence.labels)
