"""The folder of trained networks, kept between runs."""

import os
from pathlib import Path

__all__ = ["cache_folder"]


def cache_folder() -> Path:
    """Return the folder of kept networks: ``DD_CACHE``, or one in the user's cache."""
    chosen = os.environ.get("DD_CACHE")
    if chosen:
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "dd-plugins"
