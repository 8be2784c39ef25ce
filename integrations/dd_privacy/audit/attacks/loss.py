"""The attack by the loss."""

from torch import Tensor

import dd_plugins
from dd_privacy.audit.attacks.base import AbstractModelAttack, Evidence
from dd_privacy.audit.attacks.signals import confidence

__all__ = ["Loss"]


@dd_plugins.record
class Loss(AbstractModelAttack):
    """The cross-entropy of an example, lower for members (Yeom et al. 2018)."""

    name = "loss"

    def scores(self, evidence: Evidence) -> Tensor:
        """Return the :func:`confidence`, in the same order as the negative loss."""
        return confidence(evidence.target.outputs, evidence.labels)
