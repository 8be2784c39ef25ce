"""What to install to use this integration."""

__all__ = ["EXTRA"]

EXTRA = "dd-plugins[avalanche]"
"""What ``pip`` installs."""
