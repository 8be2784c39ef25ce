"""Exports: a set in forms that need no dd-plugins, with a script that trains on it."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dd_plugins.checks import path_of
from dd_plugins.errors import FileError, OptionError
from dd_plugins.exports.forms import FORMS
from dd_plugins.exports.hub_folder import write_hub_folder
from dd_plugins.exports.pictures import write_pictures
from dd_plugins.exports.recipe import recipe_of
from dd_plugins.exports.tensors import SCRIPT_NAME, SET_NAME, write_tensors
from dd_plugins.plugins.lookup import get_network
from dd_plugins.runtime.files import check_writable
from dd_plugins.synthetic.artifact import DistilledSet, as_set

__all__ = ["export", "script_of_export"]


def export(
    distilled: DistilledSet | str | Path,
    form: str,
    out: str | Path,
    *,
    overwrite: bool = False,
) -> Path:
    """Write a set in a form that needs no dd-plugins to read.

    Every form holds the recipe for training networks on the set, and comes with a
    script in plain torch to do so: ``NAME-train.py`` beside the file ``NAME.npz`` or
    ``NAME.pt``, ``train.py`` in a folder.

    Args:
        distilled: the set, or the path of an artifact or of a run's folder.
        form: ``"npz"`` for a NumPy archive; ``"pt"`` for a torch file that loads with
            ``weights_only=True``; ``"folder"`` for PNG files in a folder for each
            class, with ``labels.json`` and ``set.npz``; ``"hub"`` for a folder for the
            Hugging Face hub, with the artifact, ``set.npz`` and a card.
        out: the file, or the folder, to write.
        overwrite: whether a file, or the folder of an earlier export, is replaced. A
            folder without its script and ``set.npz`` is never replaced.

    Returns:
        The path written.

    Raises:
        OptionError: the form is unknown, or the file or its script exists already, or
            the folder is not empty, or PNG files cannot hold the channels.
        FileError: the artifact cannot be read, or a file cannot be written.

    Warns:
        DDWarning: a whitened set with learned labels is written as a folder; its PNG
            files alone may train far worse.
    """
    distilled, path = as_set(distilled), path_of("out", out)
    script, how = script_of_export(path, form), recipe_of(distilled, get_network)
    match form:
        case "folder" | "hub":
            write = write_hub_folder if form == "hub" else write_pictures
            with _fresh_folder(path, overwrite) as folder:
                write(distilled, how, folder)
            return path
        case "npz" | "pt":
            for file in (path, script):
                if os.path.lexists(file) and not (overwrite and file.is_file()):
                    raise OptionError(
                        f"out must be a new file, but {file} exists; choose another "
                        "name, or replace a file with --overwrite (overwrite=True)"
                    )
                check_writable(file)
            write_tensors(distilled, how, path, script, form)
            return path
    raise OptionError(f"form {form!r}: expected {', '.join(map(repr, FORMS))}")


@contextmanager
def _fresh_folder(path: Path, overwrite: bool) -> Iterator[Path]:
    """Yield a folder to fill; afterwards move it to the path.

    If an error is raised, the path keeps its old content.

    Raises:
        OptionError: something else is there already.
        FileError: the folder cannot be written.
    """
    if path.is_dir() and not any(path.iterdir()):
        try:
            yield path
        except BaseException:
            _empty(path)
            raise
        return
    if path.exists():
        _check_replaceable(path, overwrite)
    place = path.resolve()  # the folder itself, not a link to it
    check_writable(place.with_name(f".{place.name}-new"))
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        dir=place.parent, prefix=f".{place.name}-"
    ) as beside:
        fresh, old = Path(beside) / "new", Path(beside) / "old"
        fresh.mkdir()
        yield fresh
        try:
            if place.exists():
                place.rename(old)
            fresh.rename(place)
        except BaseException as error:
            if old.exists() and not place.exists():
                old.rename(place)
            if isinstance(error, OSError):
                raise FileError(f"cannot write {path}: {error.strerror}") from error
            raise


def _empty(folder: Path) -> None:
    """Remove all that is in a folder."""
    for each in folder.iterdir():
        if each.is_dir():
            shutil.rmtree(each)
        else:
            each.unlink()


def _check_replaceable(path: Path, overwrite: bool) -> None:
    """Refuse to replace an export without ``overwrite``, and anything else always."""
    if not all((path / name).is_file() for name in (SCRIPT_NAME, SET_NAME)):
        raise OptionError(
            f"out must be a new or an empty folder, and {path} is neither; choose "
            "another"
        )
    if not overwrite:
        raise OptionError(
            f"{path} holds an export already; choose another folder, or replace it "
            "with --overwrite (overwrite=True)"
        )


def script_of_export(path: Path, form: str) -> Path:
    """Return the path of the script of an export."""
    if form in ("npz", "pt"):
        return path.with_name(f"{path.stem}-{SCRIPT_NAME}")
    return path / SCRIPT_NAME
