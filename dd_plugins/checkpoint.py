"""Checkpoints: atomic, verified, exact."""

import hashlib
import io
from pathlib import Path
from typing import Any

import torch

from dd_plugins.errors import FileError
from dd_plugins.files import write_atomically

__all__ = ["CHECKPOINT_NAME", "load_checkpoint", "save_checkpoint"]

CHECKPOINT_NAME = "checkpoint.pt"
"""The name of the checkpoint in the folder of a run."""

_DIGEST_SIZE = 64
# torch writes a zip archive, and that ends with the length of its comment: none. The
# digest of the file becomes the comment, so that torch.load still reads the file.
_NO_COMMENT = bytes(2)
_COMMENT = _DIGEST_SIZE.to_bytes(2, "little")


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint; the previous one stays good until this one is whole.

    Args:
        path: the file.
        content: tensors, numbers, strings, and lists and dicts of them.

    Raises:
        FileError: it cannot be written, for example because the disk is full.
    """
    # Through memory: torch's own writer hides why a write to a full disk failed.
    buffer = io.BytesIO()
    torch.save(content, buffer)
    written = buffer.getvalue()
    digest = hashlib.sha256(written).hexdigest().encode()
    body = memoryview(written)[: -len(_NO_COMMENT)]
    write_atomically(path, lambda file: file.writelines([body, _COMMENT, digest]))


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint after checking all of it against its digest.

    Raises:
        FileError: it is missing, damaged, truncated or no checkpoint.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise FileError(f"cannot read checkpoint {path}: {error.strerror}") from error
    body, end = content[: -_DIGEST_SIZE - 2], content[-_DIGEST_SIZE - 2 :]
    digest = hashlib.sha256(body + _NO_COMMENT).hexdigest().encode()
    if end != _COMMENT + digest:
        raise FileError(
            f"checkpoint {path} is damaged, or not one of dd-plugins; start anew with "
            "--overwrite"
        )
    try:
        loaded: dict[str, Any] = torch.load(
            io.BytesIO(content), weights_only=True, map_location="cpu"
        )
    except Exception as error:  # torch's own text advises to run what the file holds
        raise FileError(
            f"checkpoint {path} holds more than plain values ({type(error).__name__}) "
            "and is not loaded; start anew with --overwrite"
        ) from error
    return loaded
