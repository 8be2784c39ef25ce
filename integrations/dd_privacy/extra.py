"""The extra to install for private training."""

__all__ = ["EXTRA"]

EXTRA = "dd-plugins[privacy]"
"""What ``pip`` installs."""
