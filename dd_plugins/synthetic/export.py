"""Exports: a set in forms that need no dd-plugins to read."""

import json
import os
import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from dd_plugins.errors import OptionError
from dd_plugins.runtime.files import check_writable, write_atomically
from dd_plugins.synthetic.artifact import DistilledSet

__all__ = ["export"]


def export(distilled: DistilledSet, form: str, out: str | Path) -> Path:
    """Write a set in a form that needs no dd-plugins to read.

    Args:
        distilled: the set.
        form: ``"folder"`` for PNG files in a folder for each class, with
            ``labels.json``; ``"npz"`` for a NumPy archive; ``"pt"`` for a torch file
            that loads with ``weights_only=True``.
        out: the file, or the folder, to write.

    Returns:
        The path written.

    Raises:
        OptionError: the form is unknown, or the file exists already, or the folder is
            not empty, or PNG files cannot hold the channels.
        FileError: the file cannot be written.
    """
    path = Path(out)
    if form in ("npz", "pt"):
        if os.path.lexists(path):
            raise OptionError(
                f"out must be a new file, but {path} exists; choose another name"
            )
        check_writable(path)
    match form:
        case "folder":
            return _export_folder(distilled, path)
        case "npz":
            arrays = {
                name: np.asarray(value) for name, value in _exported(distilled).items()
            }
            return write_atomically(path, partial(_save_arrays, arrays=arrays))
        case "pt":
            return write_atomically(
                path, lambda file: torch.save(_exported(distilled), file)
            )
    raise OptionError(f"form {form!r}: expected 'folder', 'npz' or 'pt'")


def _save_arrays(file: BinaryIO, arrays: dict[str, np.ndarray[Any, Any]]) -> None:
    np.savez(file, allow_pickle=False, **arrays)


def _exported(distilled: DistilledSet) -> dict[str, Any]:
    """Return the content of an ``npz`` or ``pt`` file."""
    header = distilled.header
    transform = replace(distilled.transform, compact=None)  # the matrix itself
    return {
        "pixels": distilled.pixels(),
        "images": distilled.images,
        "labels": distilled.labels,
        "classes": torch.tensor(header.initial_classes),
        "class_names": list(header.class_names),
        "header": header.text(),
        **{f"transform_{name}": tensor for name, tensor in transform.tensors().items()},
    }


def _export_folder(distilled: DistilledSet, folder: Path) -> Path:
    from torchvision.transforms.v2.functional import to_pil_image

    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OptionError(
            f"out must be a new or an empty folder, and {folder} is neither; choose "
            "another"
        )
    channels = distilled.images.shape[1]
    if channels not in (1, 3):
        raise OptionError(
            f"PNG files need images of 1 or 3 channels, got {channels}; use 'npz'"
        )
    header = distilled.header
    rows = []
    for index, pixels in enumerate(distilled.pixels()):
        name = header.class_names[header.initial_classes[index]]
        safe = re.sub(r"[^\w.-]+", "_", name)[:60]
        relative = (
            Path(f"{header.initial_classes[index]:03d}-{safe}") / f"{index:05d}.png"
        )
        image = to_pil_image(pixels)
        write_atomically(folder / relative, partial(image.save, format="PNG"))
        rows.append({"file": str(relative), "label": distilled.labels[index].tolist()})
    described = {
        "label_kind": header.label_kind,
        "class_names": header.class_names,
        "images": rows,
    }
    text = json.dumps(described, indent=1)
    write_atomically(folder / "labels.json", lambda file: file.write(text.encode()))
    return folder
