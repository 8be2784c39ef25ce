"""The attack by the distance in a network's features."""

from torch import Tensor

import dd_plugins
from dd_privacy.audit.attacks.base import AbstractAttack, Evidence, ThreatModel
from dd_privacy.audit.attacks.signals import signal_of

__all__ = ["FeatureDistance"]


@dd_plugins.record
class FeatureDistance(AbstractAttack):
    """The distance to the nearest released image in feature space.

    The features come from a network trained on the released images alone.
    """

    name = "feature_distance"

    @property
    def threat_model(self) -> ThreatModel:
        """The released images."""
        return "images"

    def scores(self, evidence: Evidence) -> Tensor:
        """Return the negative distance."""
        return -signal_of(evidence.target, evidence.labels, "feature_distance")
