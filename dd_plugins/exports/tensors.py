"""The file of all tensors of a set, and the script for training on it."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import torch

from dd_plugins.exports.recipe import ExportedRecipe
from dd_plugins.exports.script import script_of
from dd_plugins.runtime.files import write_atomically
from dd_plugins.synthetic.artifact import DistilledSet

__all__ = ["SCRIPT_NAME", "SET_NAME", "write_set", "write_tensors"]

SET_NAME = "set.npz"
"""The name of the file of all tensors in a folder."""
SCRIPT_NAME = "train.py"
"""The name of the script in a folder."""


def write_set(distilled: DistilledSet, how: ExportedRecipe, folder: Path) -> None:
    """Write the tensors of a set and the script into a folder."""
    path, script = folder / SET_NAME, folder / SCRIPT_NAME
    write_tensors(distilled, how, path, script, "npz")


def write_tensors(
    distilled: DistilledSet,
    how: ExportedRecipe,
    path: Path,
    script: Path,
    form: Literal["npz", "pt"],
) -> None:
    """Write a file of all tensors, and the script for training on it."""
    held = _held(distilled) | {"recipe": json.dumps(how.fields, indent=1)}
    if form == "pt":
        write_atomically(path, lambda file: torch.save(held, file))
    else:
        arrays = {name: np.asarray(value) for name, value in held.items()}
        write_atomically(path, partial(_save_arrays, arrays=arrays))
    source = script_of(distilled, how, form, path.name, script.name)
    write_atomically(script, lambda file: file.write(source.encode()))


def _save_arrays(file: BinaryIO, arrays: dict[str, np.ndarray[Any, Any]]) -> None:
    np.savez(file, allow_pickle=False, **arrays)


def _held(distilled: DistilledSet) -> dict[str, Any]:
    """Return the content of the file, except for the recipe."""
    header, hashed = distilled.header, distilled.content_hash()
    transform = replace(distilled.transform, compact=None)  # the matrix itself
    return {
        "pixels": distilled.pixels(),
        "images": distilled.images,
        "labels": distilled.labels,
        "classes": torch.tensor(header.initial_classes),
        "class_names": list(header.class_names),
        "header": header.model_copy(update={"content_hash": hashed}).text(),
        **{f"transform_{name}": tensor for name, tensor in transform.tensors().items()},
    }
