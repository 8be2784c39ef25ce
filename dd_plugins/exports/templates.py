"""The templates of this room, filled in by jinja2."""

from importlib.resources import files
from typing import Any

__all__ = ["filled"]


def filled(template: str, **given: Any) -> str:
    """Return a template of this room with what it is given.

    Args:
        template: the name of its file.
        **given: what it names; nothing may be missing, and nothing is escaped.
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
