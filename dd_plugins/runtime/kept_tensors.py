"""Tensors kept in safetensors files, with a hash over the whole content."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor

from dd_plugins.errors import FileError, one_line
from dd_plugins.runtime.files import write_atomically
from dd_plugins.runtime.text import plain

__all__ = ["load_tensors", "save_tensors"]

_HASH_KEY = "content_hash"


def save_tensors(
    path: Path, tensors: Mapping[str, Tensor], described: Mapping[str, str]
) -> Path:
    """Write tensors and their description to one file, atomically.

    Args:
        path: the safetensors file to write.
        tensors: by name; of any device.
        described: strings describing them; ``content_hash`` is added.

    Returns:
        The path.

    Raises:
        FileError: the file cannot be written.
    """
    kept = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    metadata = {**described, _HASH_KEY: _content_hash(kept, described)}
    content = safetensors.torch.save(kept, metadata)
    return write_atomically(path, lambda file: file.write(content))


def load_tensors(
    path: Path, *, what: str, advice: str, description: str | None = None
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a file of :func:`save_tensors`, and check it against its hash.

    Args:
        path: the file.
        what: its expected content, for messages: ``"a trained network"``.
        advice: the remedy for a damaged file, for messages.
        description: the expected ``description`` in the file; None for any.

    Returns:
        The tensors by name, and their description.

    Raises:
        FileError: the file is missing, damaged, of another description, or was not
            written by :func:`save_tensors`.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as opened:
            described = dict(opened.metadata() or {})
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        reason = one_line(error)
        raise FileError(f"{path} cannot be read as {what} ({reason}); {advice}") from (
            error
        )
    saved = described.pop(_HASH_KEY, None)
    if saved is None:
        raise FileError(
            f"{path}: expected {what} of this version, found no hash; {advice}"
        )
    found = _content_hash(tensors, described)
    if saved != found:
        raise FileError(
            f"{path} is damaged: expected content with the hash "
            f"{plain(saved[:12])}..., got {found[:12]}...; {advice}"
        )
    held = described.get("description")
    if description is not None and held != description:
        raise FileError(
            f"{path} does not match its key: it holds {plain(str(held))}, expected "
            f"{description}; {advice}"
        )
    return tensors, described


def _content_hash(tensors: Mapping[str, Tensor], described: Mapping[str, str]) -> str:
    """Return a SHA-256 over the tensors and their description, in hexadecimal."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name!r} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(safetensors.torch.save({"": tensor}))
    for name, text in sorted(described.items()):
        digest.update(f"{name!r} {text!r}".encode())
    return digest.hexdigest()
