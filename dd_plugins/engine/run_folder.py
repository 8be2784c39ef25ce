"""The folder of a run: its own files, and the replacement of an older run."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from dd_plugins.engine.checkpoint import CHECKPOINT_NAME
from dd_plugins.engine.observers import IMAGES_NAME, METRICS_NAME
from dd_plugins.errors import FileError, OptionError
from dd_plugins.runtime.files import folder_lock
from dd_plugins.synthetic.artifact import ARTIFACT_NAME

__all__ = [
    "RUN_FILES",
    "SUMMARY_NAME",
    "check_folder",
    "locked_folder",
    "replacing_old_run",
]

SUMMARY_NAME = "summary.json"
RUN_FILES = (
    ARTIFACT_NAME,
    CHECKPOINT_NAME,
    METRICS_NAME,
    IMAGES_NAME,
    SUMMARY_NAME,
)
"""The files of a run in its folder."""

_BEGINNINGS = {
    ARTIFACT_NAME: re.compile(rb'.{8}\{"__metadata__":\{"dd_plugins":', re.DOTALL),
    METRICS_NAME: re.compile(rb'\{"step": '),
    IMAGES_NAME: re.compile(rb"\x89PNG\r\n"),
    SUMMARY_NAME: re.compile(rb'\s*\{\s*"format_version":'),
}
_END_OF_CHECKPOINT = re.compile(rb"\x40\x00[0-9a-f]{64}")  # its digest
_READ = 66  # bytes
# Any of these shows that a run was here; other programs use the other names too.
_TELLING = (ARTIFACT_NAME, CHECKPOINT_NAME, METRICS_NAME)

_ASIDE = ".replaced-run"
_WHOLE = "whole"


def check_folder(out: Path, resume: bool, overwrite: bool) -> None:
    """Refuse a folder with a run, unless the run is resumed or replaced.

    Raises:
        OptionError: the folder holds a run, or files named like a run's but not
            made by one; or the path is no folder and cannot become one.
    """
    try:
        if out.exists() and not out.is_dir():
            raise OptionError(f"{out} must be a folder, got a file; choose a folder")
        held = _held_files(out)
        for name in (ARTIFACT_NAME, CHECKPOINT_NAME):
            if (out / name).is_dir():
                raise OptionError(
                    f"{out / name} must be a file, got a folder; choose another folder"
                )
        foreign = _foreign_files(out, held)
    except OSError as error:
        raise OptionError(
            f"{_shortened(out)} cannot be the folder of a run: {error.strerror}; "
            "choose another folder"
        ) from error
    if foreign:
        raise OptionError(
            f"{out} holds {', '.join(foreign)}, which no run has made; move it away, "
            "or choose another folder"
        )
    if held and not resume and not overwrite:
        raise OptionError(
            f"{out} already holds a run ({', '.join(held)}); go on with --resume, "
            "replace it with --overwrite, or choose another folder"
        )
    if resume and ARTIFACT_NAME in held and CHECKPOINT_NAME not in held:
        raise OptionError(
            f"--resume needs a checkpoint, but {out} holds only a finished set "
            f"({ARTIFACT_NAME}); replace it with --overwrite, or choose another folder"
        )


def _shortened(path: Path) -> str:
    text = str(path)
    return text if len(text) <= 100 else f"{text[:97]}..."


def _held_files(out: Path) -> list[str]:
    return [
        name
        for name in RUN_FILES
        if (out / name).is_file() or (out / name).is_symlink()
    ]


def _foreign_files(out: Path, held: list[str]) -> list[str]:
    """Return files with the names of a run's files, but of another origin.

    One file of a run proves its presence; the others may be damaged.
    """
    known = {name for name in held if _may_belong_to_a_run(out / name)}
    if not known.intersection(_TELLING):
        return held
    return [name for name in held if name not in known and name not in _TELLING]


def _may_belong_to_a_run(path: Path) -> bool:
    """Return whether a file's content fits its name; an empty file may."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        size = file.seek(0, 2)
        if path.name == CHECKPOINT_NAME:
            file.seek(max(0, size - _READ))
            return bool(_END_OF_CHECKPOINT.fullmatch(file.read(_READ)))
        file.seek(0)
        return size == 0 or bool(_BEGINNINGS[path.name].match(file.read(_READ)))


@contextmanager
def locked_folder(out: Path | None, resume: bool, overwrite: bool) -> Iterator[None]:
    """Make the folder, keep others out, and complete a killed replacement.

    Raises:
        OptionError: the folder is refused, see :func:`check_folder`.
        FileError: another process holds the folder, or it cannot be written to.
    """
    if out is None:
        yield
        return
    with folder_lock(out):
        _end_replacement(out)
        check_folder(out, resume, overwrite)  # another run may have come meanwhile
        yield


@contextmanager
def replacing_old_run(out: Path | None) -> Iterator[Callable[[], None]]:
    """Move the run of a folder aside, to a hidden folder within it.

    The old run is removed once the new run has a checkpoint, and put back if there is
    none at the end of the block. After a kill, the next run in this folder removes it
    or puts it back.

    Yields:
        A function to call when the first checkpoint is written.

    Raises:
        FileError: a file cannot be moved.
    """
    if out is None or not _held_files(out):
        yield lambda: None
        return
    aside = out / _ASIDE
    try:
        with _telling(out):
            aside.mkdir(exist_ok=True)
            for name in _held_files(out):
                (out / name).rename(aside / name)
            (aside / _WHOLE).touch()
        yield partial(_end_replacement, out)
    finally:
        _end_replacement(out)


def _end_replacement(out: Path) -> None:
    """Remove the old run if the new one has something to keep, else put it back.

    It may be killed at any point, and completes its work when called again: while
    ``whole`` exists, the files in the folder are the new run's; without it they are the
    old run's.
    """
    aside = out / _ASIDE
    if not aside.is_dir():
        return
    with _telling(out):
        new = [out / name for name in (CHECKPOINT_NAME, ARTIFACT_NAME)]
        if (aside / _WHOLE).exists():
            if any(path.exists() for path in new):
                for name in RUN_FILES:
                    (aside / name).unlink(missing_ok=True)
            else:
                for name in _held_files(out):
                    (out / name).unlink()
            (aside / _WHOLE).unlink()
        for name in _held_files(aside):
            (aside / name).rename(out / name)
        with suppress(OSError):  # somebody has put something there
            aside.rmdir()


@contextmanager
def _telling(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise FileError(
            f"cannot write to {out}: {error.strerror}; files of the replaced run may "
            f"lie in {out / _ASIDE}"
        ) from error
