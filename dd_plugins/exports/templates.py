"""The templates of this package, filled in by jinja2."""

from importlib.resources import files
from typing import Any

__all__ = ["filled"]


def filled(template: str, **given: Any) -> str:
    """Return a template of this package, filled in with the given values.

    Args:
        template: the name of the template's file.
        **given: the values of its variables; none may be missing, and none is escaped.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
    )
    source = (files("dd_plugins.exports") / template).read_text(encoding="utf-8")
    return environment.from_string(source).render(given)
