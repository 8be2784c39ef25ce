"""Checkpoints: atomic, verified, exact, and written while the run goes on."""

import hashlib
import io
import os
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from dd_plugins.errors import FileError, PluginError
from dd_plugins.runtime.files import write_atomically

__all__ = [
    "CHECKPOINT_NAME",
    "CheckpointWriter",
    "load_checkpoint",
    "save_checkpoint",
]

CHECKPOINT_NAME = "checkpoint.pt"
"""The name of the checkpoint in the folder of a run."""

_DIGEST_SIZE = 64
# torch writes a zip archive. It ends with the length of its comment, and that is empty.
# The digest of the file becomes the comment, so torch.load still reads the file.
_NO_COMMENT = bytes(2)
_COMMENT = _DIGEST_SIZE.to_bytes(2, "little")
_BLOCK = 1 << 20  # bytes


class _DigestingFile:
    """Passes writes on to a file, and takes the digest of all but the last two bytes.

    torch's own writer hides why a write failed; here the reason is kept.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self._held_back = b""
        self.error: OSError | None = None

    def write(self, content: bytes) -> int:
        view = memoryview(content)
        try:
            if len(view) >= len(_NO_COMMENT):
                self._pass_on(self._held_back)
                self._pass_on(view[: -len(_NO_COMMENT)])
                self._held_back = bytes(view[-len(_NO_COMMENT) :])
            else:
                together = self._held_back + bytes(view)
                self._pass_on(together[: -len(_NO_COMMENT)])
                self._held_back = together[-len(_NO_COMMENT) :]
        except OSError as error:
            self.error = error
            raise
        return len(view)

    def _pass_on(self, content: bytes | memoryview) -> None:
        self._digest.update(content)
        self._file.write(content)

    def flush(self) -> None:
        """Do nothing: whoever opened the file flushes it."""

    def finish(self) -> None:
        """Write the digest in place of the empty comment."""
        assert self._held_back == _NO_COMMENT
        self._digest.update(_NO_COMMENT)
        self._file.writelines([_COMMENT, self._digest.hexdigest().encode()])


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint; the previous one stays good until this one is verified.

    Args:
        path: the file.
        content: tensors, numbers, strings, and lists and dicts of them.

    Raises:
        FileError: the checkpoint cannot be written, for example because the disk is
            full, or it is not read back as it was written.
    """

    def write(file: BinaryIO) -> None:
        digesting = _DigestingFile(file)
        try:
            torch.save(content, digesting)  # type: ignore[arg-type]
        except RuntimeError as error:
            raise digesting.error or error from error
        digesting.finish()

    write_atomically(path, write, verify=_verify)


def _verify(path: Path) -> None:
    """Read a checkpoint back from its file and compare it with its digest.

    Raises:
        ValueError: they differ.
    """
    with path.open("rb") as file:
        _check(file)


def _check(file: BinaryIO) -> None:
    """Compare an open checkpoint with its digest; its path may change meanwhile.

    Raises:
        ValueError: they differ.
    """
    digest = hashlib.sha256()
    left = os.fstat(file.fileno()).st_size - len(_COMMENT) - _DIGEST_SIZE
    while left > 0:
        block = file.read(min(_BLOCK, left))
        if not block:
            break
        digest.update(block)
        left -= len(block)
    digest.update(_NO_COMMENT)
    if file.read() != _COMMENT + digest.hexdigest().encode():
        raise ValueError("what was read back is not what was written")


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint after checking all of it against its digest.

    Raises:
        FileError: the file is missing, damaged, truncated or not a checkpoint.
    """
    try:
        with path.open("rb") as file:
            _check(file)
            file.seek(0)
            content = file.read()
    except OSError as error:
        raise FileError(f"cannot read checkpoint {path}: {error.strerror}") from error
    except ValueError as error:
        raise FileError(
            f"checkpoint {path} is damaged, or not one of dd-plugins; start anew with "
            "--overwrite"
        ) from error
    try:
        loaded: Any = torch.load(
            io.BytesIO(content), weights_only=True, map_location="cpu"
        )
    except Exception as error:  # torch's own text advises running the file's code
        raise FileError(
            f"checkpoint {path} must hold only plain values, got others "
            f"({type(error).__name__}), and is not loaded; start anew with --overwrite"
        ) from error
    if not isinstance(loaded, dict):
        raise FileError(
            f"checkpoint {path} is foreign or damaged: it must hold a dict, got "
            f"{type(loaded).__name__}; start anew with --overwrite"
        )
    return loaded


class CheckpointWriter:
    """Writes checkpoints in a thread of its own, while the run goes on.

    The run stops only to copy its tensors into buffers, kept from one checkpoint to the
    next. Use it as a context manager: at the end it waits for the last checkpoint.

    Args:
        path: the file.
        constant: the constant part of every checkpoint; it is not copied.
        written: called after each checkpoint, in the writing thread.
    """

    def __init__(
        self,
        path: Path,
        *,
        constant: Mapping[str, Any] | None = None,
        written: Callable[[], object] = lambda: None,
    ) -> None:
        self._path = path
        self._constant = dict(constant or {})
        self._written = written
        self._buffers: dict[Hashable, Tensor] = {}
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._pending: Future[None] | None = None

    def __enter__(self) -> "CheckpointWriter":
        return self

    def __exit__(self, kind: object, *rest: object) -> None:
        try:
            self.wait()
        except FileError:
            if kind is None:  # else the error on its way is the one that counts
                raise
        finally:
            self._thread.shutdown()

    def prepare(self, content: dict[str, Any]) -> None:
        """Make the buffers for content of this form, so that the first copy is fast.

        Args:
            content: a part of the content to save, under the same keys.

        Raises:
            PluginError: the content holds a value that cannot be loaded again.
        """
        self._copy(content, ())

    def save(self, content: dict[str, Any]) -> None:
        """Wait for the last checkpoint, copy the content, and start to write it.

        Raises:
            FileError: the last checkpoint could not be written.
            PluginError: the content holds a value that cannot be loaded again.
        """
        self.wait()
        copied = self._constant | self._copy(content, ())
        self._pending = self._thread.submit(self._write, copied)

    def _write(self, content: dict[str, Any]) -> None:
        save_checkpoint(self._path, content)
        self._written()

    def check(self) -> None:
        """Raise the error of a failed write, if there is one; never waits."""
        if self._pending is not None and self._pending.done():
            self.wait()

    def wait(self) -> None:
        """Wait until the last checkpoint is written.

        Raises:
            FileError: the checkpoint could not be written.
        """
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def _copy(self, value: Any, place: tuple[Hashable, ...]) -> Any:
        """Copy nested content; each tensor goes to the buffer at its path."""
        match value:
            case Tensor():
                buffer = self._buffers.get(place)
                if (
                    buffer is None
                    or buffer.shape != value.shape
                    or buffer.dtype != value.dtype
                ):
                    buffer = torch.empty_like(
                        value, device="cpu", memory_format=torch.preserve_format
                    )
                    self._buffers[place] = buffer
                return buffer.copy_(value.detach())
            case dict():
                for key in value:
                    _check_plain(key, place, "the key ")
                return {
                    key: self._copy(item, (*place, key)) for key, item in value.items()
                }
            case list() | tuple() if type(value) in (list, tuple, torch.Size):
                return type(value)(
                    [
                        self._copy(item, (*place, number))
                        for number, item in enumerate(value)
                    ]
                )
        _check_plain(value, place)
        return value


_PLAIN = (type(None), bool, int, float, complex, str, bytes)
_OF_TORCH = (torch.dtype, torch.device)


def _check_plain(value: Any, place: tuple[Hashable, ...], what: str = "") -> None:
    """Refuse a value that a checkpoint cannot restore.

    Raises:
        PluginError: the value is not plain; the message names its path.
    """
    if type(value) in _PLAIN or isinstance(value, _OF_TORCH):
        return
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    raise PluginError(
        f"a checkpoint cannot hold {what}{'.'.join(map(str, place))}: it is a "
        f"{kind.removeprefix('builtins.')}; state_dict must return tensors, numbers, "
        "strings, and lists, tuples and dicts of them"
    )
