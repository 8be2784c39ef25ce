"""The attack by the loss."""

from torch import Tensor

import dd_plugins
from dd_privacy.audit.attacks.base import AbstractModelAttack, Evidence
from dd_privacy.audit.attacks.signals import confidence

__all__ = ["Loss"]


@dd_plugins.record
class Loss(AbstractModelAttack):
    """The cross-entropy of an example: members have lower ones (Yeom et al. 2018)."""

    name = "loss"

    def scores(self, evidence: Evidence) -> Tensor:
        """Return the negative loss, on the scale of :func:`confidence`."""
        return confidence(evidence.target.outputs, evidence.labels)
