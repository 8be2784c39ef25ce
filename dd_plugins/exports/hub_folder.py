"""The folder of a set for the Hugging Face hub."""

import ast
import re
from dataclasses import replace
from pathlib import Path, PureWindowsPath

from dd_plugins.exports.card import ANY_REPOSITORY, card_of
from dd_plugins.exports.recipe import ExportedRecipe
from dd_plugins.exports.tensors import SCRIPT_NAME, SET_NAME, write_set
from dd_plugins.runtime.files import write_atomically
from dd_plugins.synthetic.artifact import ARTIFACT_NAME, DistilledSet
from dd_plugins.synthetic.header import Header
from dd_plugins.synthetic.pictures import save_grid

__all__ = ["HUB_FILES", "write_hub_folder"]

_CARD_NAME, _GRID_NAME = "README.md", "images.png"

HUB_FILES = (ARTIFACT_NAME, _GRID_NAME, SET_NAME, SCRIPT_NAME, _CARD_NAME)
"""The names of the files in the folder."""

_QUOTED_DATA = re.compile(r"""'\w+:[^']*'|"\w+:[^"]*\"""")
"""A data set named by a path, within a spec."""


def write_hub_folder(
    distilled: DistilledSet,
    how: ExportedRecipe,
    folder: Path,
    repo_id: str = ANY_REPOSITORY,
) -> Path:
    """Write the folder for ``push_to_hub`` to upload.

    It holds the artifact, a grid of its images, all tensors as arrays, the script for
    training on them, and a card. Where data is named by a path, the headers keep only
    its last part: the user's folders stay private.

    Args:
        distilled: the set.
        how: its recipe.
        folder: the folder to write; it is created if need be.
        repo_id: the repository named in the card.

    Raises:
        FileError: a file cannot be written.
    """
    published = replace(distilled, header=_without_folders(distilled.header))
    published.save(folder / ARTIFACT_NAME)
    save_grid(published, folder / _GRID_NAME)
    write_set(published, how, folder)
    card = card_of(published, how, repo_id)
    write_atomically(folder / _CARD_NAME, lambda file: file.write(card.encode()))
    return folder


def _without_folders(header: Header) -> Header:
    """Return a header, and those of its contexts, without the folders of data."""
    name = _without_folder(header.dataset.name)
    updates: dict[str, object] = {
        "dataset": header.dataset.model_copy(update={"name": name}),
        "distiller": _QUOTED_DATA.sub(_without_quoted_folder, header.distiller),
        "options": {
            key: _QUOTED_DATA.sub(_without_quoted_folder, value)
            for key, value in header.options.items()
        },
    }
    if header.context is not None:
        behind = {"header": _without_folders(header.context.header)}
        updates["context"] = header.context.model_copy(update=behind)
    return header.model_copy(update=updates)


def _without_folder(name: str) -> str:
    """Return the name of a data set, with a path cut to its last part."""
    kind, colon, place = name.partition(":")
    # A Windows path may have either slash, so it splits any path.
    return f"{kind}{colon}{PureWindowsPath(place).name or place}"


def _without_quoted_folder(found: re.Match[str]) -> str:
    return repr(_without_folder(str(ast.literal_eval(found[0]))))
