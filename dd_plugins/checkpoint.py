"""Checkpoints: atomic, verified, exact."""

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from dd_plugins.errors import FileError
from dd_plugins.files import write_atomically

__all__ = ["CHECKPOINT_NAME", "load_checkpoint", "save_checkpoint"]

CHECKPOINT_NAME = "checkpoint.pt"
"""The name of the checkpoint in the folder of a run."""


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint; the previous one stays good until this one is whole.

    Args:
        path: the file.
        content: tensors, numbers, strings, and lists and dicts of them.

    Raises:
        FileError: it cannot be written, for example because the disk is full.
    """
    # Through memory: torch's own zip writer hides why a write to a full disk failed.
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_atomically(path, lambda file: file.write(buffer.getbuffer()))


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint after checking every record in it against its checksum.

    Raises:
        FileError: it is damaged, truncated or no checkpoint.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise zipfile.BadZipFile(f"record {damaged} has a wrong checksum")
        content: dict[str, Any] = torch.load(
            path, weights_only=True, map_location="cpu"
        )
    except (
        zipfile.BadZipFile,
        pickle.UnpicklingError,
        RuntimeError,
        EOFError,
    ) as error:
        reason = " ".join(str(error).split())[:200]
        raise FileError(
            f"checkpoint {path} is damaged: {reason}; start anew with --overwrite"
        ) from error
    return content
