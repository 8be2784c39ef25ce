"""The attack by the distance to the nearest released image."""

from torch import Tensor

import dd_plugins
from dd_privacy.audit.attacks.base import AbstractAttack, Evidence, ThreatModel
from dd_privacy.audit.attacks.signals import signal_of

__all__ = ["PixelDistance"]


@dd_plugins.record
class PixelDistance(AbstractAttack):
    """The distance to the nearest released image, pixel by pixel."""

    name = "pixel_distance"

    @property
    def threat_model(self) -> ThreatModel:
        """The released images."""
        return "images"

    def scores(self, evidence: Evidence) -> Tensor:
        """Return the negative distance."""
        return -signal_of(evidence.target, evidence.labels, "pixel_distance")
