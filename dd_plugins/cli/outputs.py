"""Checks of a command's output files before its work, so nothing is lost."""

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from dd_plugins.checks import picture_path
from dd_plugins.errors import FileError, OptionError
from dd_plugins.runtime.files import check_writable

__all__ = ["OutputKind", "check_outputs"]

OutputKind = Literal["JSON", "HTML", "PNG", "tensors"]
"""What an output holds."""

_BEGINNINGS: dict[OutputKind, tuple[bytes, ...]] = {
    "JSON": (b"{", b"["),
    "HTML": (b"<!doctype html", b"<html"),
    "PNG": (b"\x89PNG\r\n\x1a\n",),
    "tensors": (),  # they took training: they are replaced only on request
}
_READ = 512  # bytes at the beginning of a file


def check_outputs(
    *outputs: tuple[Path | None, OutputKind],
    inputs: Iterable[Path] = (),
    overwrite: bool = False,
) -> None:
    """Refuse outputs that are unwritable or would replace other files.

    An older output of the same kind (figures, a page, a picture) is replaced. Tensors,
    and files of another kind, are replaced only on request.

    Args:
        *outputs: each file with its kind; None for a file not requested.
        inputs: the files read by the command.
        overwrite: whether a file of another kind, or tensors, may be replaced.

    Raises:
        OptionError: an output is an input, another output, a file of a run, a picture
            with another ending than ``.png``, or would replace tensors or a file of
            another kind.
        FileError: an output cannot be written.
    """
    from dd_plugins.engine.run_folder import RUN_FILES

    wanted = [(path, kind) for path, kind in outputs if path is not None]
    sources = {_identity(path) for path in inputs}
    seen: set[Path] = set()
    for path, kind in wanted:
        if kind == "PNG":
            picture_path("the name of a picture", path)
        check_writable(path)
        identity = _identity(path)
        if identity in sources:
            raise OptionError(
                f"{path} is read by this command; its output needs another name"
            )
        if identity in seen:
            raise OptionError(
                f"{path} is named for two outputs; each needs a file of its own"
            )
        seen.add(identity)
        if path.name in RUN_FILES and path.exists():
            raise OptionError(f"{path} belongs to a run; an output needs another name")
        if path.exists() and not path.is_file():
            raise FileError(f"cannot write {path}: it must be a plain file, no device")
        if path.exists() and not overwrite and not _begins_like(path, kind):
            raise OptionError(
                f"{path} exists, and holds "
                + ("what may not be made again" if kind == "tensors" else f"no {kind}")
                + "; the output needs another name, or --overwrite to replace the file"
            )


def _identity(path: Path) -> Path:
    """Return the path of the file itself, with all links resolved."""
    return path.resolve()


def _begins_like(path: Path, kind: OutputKind) -> bool:
    """Tell whether a file starts like an output of this kind; an empty one counts."""
    try:
        with path.open("rb") as file:
            beginning = file.read(_READ)
    except OSError as error:
        raise FileError(
            f"cannot read {path}, which the output would replace: {error.strerror}"
        ) from error
    beginning = beginning.lstrip() if kind != "PNG" else beginning
    if kind == "HTML":
        beginning = beginning.lower()
    return not beginning or beginning.startswith(_BEGINNINGS[kind])
