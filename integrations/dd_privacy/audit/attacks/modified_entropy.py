"""The attack by modified entropy."""

import torch
from torch import Tensor

import dd_plugins
from dd_privacy.audit.attacks.base import AbstractModelAttack, Evidence
from dd_privacy.audit.attacks.signals import TINY, probabilities

__all__ = ["ModifiedEntropy"]


@dd_plugins.record
class ModifiedEntropy(AbstractModelAttack):
    """Entropy, modified by the true class: equation (8) of Song and Mittal (2021)."""

    name = "modified_entropy"

    def scores(self, evidence: Evidence) -> Tensor:
        """Return the negative modified entropy, in nats."""
        found = probabilities(evidence.target.outputs)
        own = torch.nn.functional.one_hot(evidence.labels, found.shape[1]).bool()
        right = torch.where(own, found, 1 - found).clamp_min(TINY)
        wrong = torch.where(own, 1 - found, found)
        return (wrong * right.log()).sum(dim=1)
