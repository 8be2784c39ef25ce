"""The extra to install for this integration."""

__all__ = ["EXTRA"]

EXTRA = "dd-plugins[avalanche]"
"""What ``pip`` installs."""
