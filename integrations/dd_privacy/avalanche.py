"""Private training in Avalanche; importing this module needs avalanche-lib."""

from dd_privacy.private.avalanche import PrivateTrainingPlugin

__all__ = ["PrivateTrainingPlugin"]
