"""The plugin that dd-plugins loads: light, with or without Opacus."""

from importlib.util import find_spec

from dd_plugins import hookimpl
from dd_privacy.validation import EXTRA


@hookimpl
def dd_missing_extra() -> str | None:
    """Name the extra, if Opacus is not installed."""
    return EXTRA if find_spec("opacus") is None else None
