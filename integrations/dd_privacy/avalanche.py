"""Private training in avalanche-lib: importing this module needs avalanche-lib."""

from dd_privacy.private.avalanche import PrivateTrainingPlugin

__all__ = ["PrivateTrainingPlugin"]
