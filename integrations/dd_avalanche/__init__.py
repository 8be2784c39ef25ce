"""Distilled sets in continual learning with avalanche-lib.

Importing this package needs no Avalanche; using it does, and says so.
"""

from dd_avalanche.conversion import to_avalanche

__all__ = ["to_avalanche"]
