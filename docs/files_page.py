"""The page of files: each with the sentence that it begins with."""

import ast
import configparser
import re
from collections.abc import Iterable
from pathlib import Path

__all__ = ["files_page"]

_INTEGRATIONS = {
    "dd_avalanche": ("memory", "replay", "comparison"),
    "dd_privacy": ("audit", "private"),
}
_BEGINNING = """\
# The files

Each file begins with a sentence that says what it holds. Rooms stand from the top floor
down, as in [the architecture](architecture.md).
"""


def files_page(root: Path) -> str:
    """Return a Markdown page with a table for each room, from the top floor down.

    Args:
        root: the root of the repository.
    """
    library = root / "dd_plugins"
    rooms = [library / name for name in _names_of_rooms(root)]
    alone = [each.with_suffix(".py") for each in rooms if not each.is_dir()]
    parts = [_BEGINNING, _section("Files of their own", alone, library)]
    parts += [
        _section(room.name, _modules(room), room) for room in rooms if room.is_dir()
    ]
    for package, names in _INTEGRATIONS.items():
        folder = root / "integrations" / package
        parts.append(_section(package, sorted(folder.glob("[a-z]*.py")), folder))
        for name in names:
            room = folder / name
            parts.append(_section(f"{package}/{name}", _modules(room), room))
    return "\n".join(parts)


def _names_of_rooms(root: Path) -> list[str]:
    """Return the names of all rooms of the library, from the top floor down."""
    settings = configparser.ConfigParser()
    settings.read(root / "setup.cfg")
    return re.findall(r"\w+", settings["importlinter:contract:floors"]["layers"])


def _modules(room: Path) -> list[Path]:
    """Return the modules of a room, those of rooms within it last."""
    found = [each for each in room.rglob("*.py") if each.name != "__init__.py"]
    return sorted(found, key=lambda path: (path.parent != room, path))


def _section(title: str, modules: Iterable[Path], folder: Path) -> str:
    """Return a heading and a table: each file with its first sentence."""
    rows = [f"| `{each.relative_to(folder)}` | {_sentence(each)} |" for each in modules]
    head = ["| file | what it holds |", "|---|---|"]
    return "\n".join([f"## {title}", "", *head, *rows, ""])


def _sentence(module: Path) -> str:
    """Return the first sentence of a module, as Markdown."""
    text = ast.get_docstring(ast.parse(module.read_text())) or ""
    return text.partition("\n\n")[0].replace("\n", " ").replace("``", "`")
