"""The door to private training in avalanche-lib, which importing this module needs."""

from dd_privacy.private.avalanche import PrivateTrainingPlugin

__all__ = ["PrivateTrainingPlugin"]
