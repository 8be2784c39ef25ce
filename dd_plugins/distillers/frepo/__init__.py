"""FRePo: neural feature regression with a pool of online models."""

from dd_plugins.distillers.frepo.frepo import FRePo

__all__ = ["FRePo"]
