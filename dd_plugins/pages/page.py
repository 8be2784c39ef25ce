"""HTML pages, each a filled template in a file of its own."""

from pathlib import Path

from dd_plugins.runtime.files import write_atomically
from dd_plugins.runtime.text import plain

__all__ = ["write_page"]


def write_page(path: Path, package: str, template: str, **values: object) -> Path:
    """Fill a template, and write it as a page independent of other files.

    The template extends ``base.html`` and fills its blocks ``title``, ``finding`` and
    ``content``. It may import ``scrolled`` from ``parts.html``, a scrolling box for
    wide tables.

    All values are escaped, and unprintable characters in them are written as escapes.

    Args:
        path: the HTML file to write.
        package: the package that holds the template.
        template: the name of the template's file.
        **values: the values of the template's variables.

    Returns:
        The path.

    Raises:
        FileError: the file cannot be written.
    """
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=ChoiceLoader(
            [PackageLoader(each, "") for each in (package, __package__)]
        ),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
        finalize=_plain,
    )
    content = environment.get_template(template).render(values).encode()
    return write_atomically(path, lambda file: file.write(content))


def _plain(value: object) -> object:
    """Return text with unprintable characters escaped, and anything else unchanged."""
    return plain(value) if type(value) is str else value  # not Markup
