"""Matching of training trajectories: MTT, TESLA, DATM."""

from dd_plugins.distillers.mtt.mtt import MTT
from dd_plugins.distillers.mtt.settings import Window

__all__ = ["MTT", "Window"]
