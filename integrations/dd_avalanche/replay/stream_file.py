"""The file of a saved stream: it ends with a digest, and loads without running code."""

import hashlib
import io
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dd_plugins.api import FileError, write_atomically

__all__ = [
    "STREAM_NAME",
    "random_state",
    "read_stream",
    "set_random_state",
    "write_stream",
]

STREAM_NAME = "stream.pt"
"""The file of a stream's progress."""

_FORMAT_VERSION = 2  # from 2 on the file ends with a digest of itself
_DIGEST_SIZE = 64
# torch writes a zip archive, which ends with the length of its comment: zero. The
# digest of the file becomes the comment, so that torch.load still reads the file.
_NO_COMMENT = bytes(2)
_COMMENT = _DIGEST_SIZE.to_bytes(2, "little")


def write_stream(file: Path, content: dict[str, Any]) -> None:
    """Write plain values and tensors to a file, with its digest at the end.

    Raises:
        FileError: the file cannot be written; its old content is kept.
    """
    written = io.BytesIO()
    torch.save({"format_version": _FORMAT_VERSION, **content}, written)
    plain = written.getvalue()
    assert plain.endswith(_NO_COMMENT)
    digest = hashlib.sha256(plain).hexdigest().encode()
    sealed = plain.removesuffix(_NO_COMMENT) + _COMMENT + digest
    write_atomically(file, lambda opened: opened.write(sealed))


def read_stream(file: Path) -> dict[str, Any]:
    """Return the content of a file written by :func:`write_stream`.

    Raises:
        FileError: the file cannot be read, is damaged, or has no digest.
    """
    advice = f"remove {file.parent} to begin the stream anew"
    try:
        sealed = file.read_bytes()
    except OSError as error:
        raise FileError(f"cannot read {file}: {error.strerror}") from error
    plain, digest = sealed[:-_DIGEST_SIZE], sealed[-_DIGEST_SIZE:]
    plain = plain.removesuffix(_COMMENT) + _NO_COMMENT
    if hashlib.sha256(plain).hexdigest().encode() != digest:
        raise FileError(
            f"{file}: expected a saved stream that ends with its digest, got one that "
            f"is damaged, or of an older version without a digest; {advice}"
        )
    try:
        content: dict[str, Any] = torch.load(
            io.BytesIO(plain), map_location="cpu", weights_only=True
        )
        version = content["format_version"]
    except Exception as error:  # torch's own message advises running code from the file
        raise FileError(
            f"{file}: expected a saved stream, got other content "
            f"({type(error).__name__}); {advice}"
        ) from error
    if version != _FORMAT_VERSION:
        raise FileError(
            f"{file}: expected format version {_FORMAT_VERSION}, got {version}; "
            f"upgrade dd-plugins, or {advice}"
        )
    return content


def random_state() -> dict[str, Any]:
    """Return the state of the global generators, in plain containers."""
    name, keys, *rest = np.random.get_state()
    version, numbers, gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [name, torch.from_numpy(np.asarray(keys, np.int64)), *rest],
        "python": [version, list(numbers), gauss],
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Set the global generators to a state from :func:`random_state`."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.device_count() == len(state["cuda"]):
        torch.cuda.set_rng_state_all(state["cuda"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
