"""Finding the file of an artifact, and recognising files of other kinds."""

import stat
import warnings
import zipfile
from itertools import islice
from pathlib import Path

from dd_plugins.errors import DDWarning, FileError
from dd_plugins.runtime.text import plain

__all__ = [
    "ARTIFACT_NAME",
    "WHAT_TO_GIVE",
    "artifact_file",
    "foreign_kind",
    "warn_of_suffix",
]

ARTIFACT_NAME = "distilled.safetensors"
"""The name of the artifact in the folder of a run."""

WHAT_TO_GIVE = f"give the {ARTIFACT_NAME} that distill writes, or the run's folder"
_BEGINNINGS = {
    b"\x89HDF\r\n": "an HDF5 file",
    b"\x93NUMPY": "a NumPy array",
    b"\x89PNG\r\n": "a picture",
    b"\xff\xd8\xff": "a picture",
    b"GIF8": "a picture",
    b"\x80\x02": "a torch file of the old form, or another pickle",
    b"\x80\x03": "a pickle",
    b"\x80\x04": "a pickle",
    b"\x80\x05": "a pickle",
    b"\x1f\x8b": "a gzip archive",
    b"{": "a JSON file",
}
"""The kind of a file, by its first bytes."""

_PICTURES = {".png", ".jpg", ".jpeg", ".gif", ".bmp", ".tif", ".tiff", ".webp"}
_OTHER_FORMS = _PICTURES | {".pt", ".pth", ".pkl", ".npy", ".npz", ".h5", ".json"}
_LISTED = 1_000  # entries of a folder, read to recognise it


def artifact_file(path: str | Path) -> Path:
    """Return the path of a file itself, or of the artifact in a run's folder.

    Raises:
        FileError: there is no such file, or it cannot be read.
    """
    file = Path(path)
    try:
        # Path.is_dir alone would hide a missing permission and an impossible name.
        there = file.stat()
        held = (file / ARTIFACT_NAME).is_file() if file.is_dir() else None
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileError(
            f"{file} does not exist; expected an artifact or a run's folder"
        ) from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise FileError(f"cannot read {plain(str(file))}: {reason}") from error
    if held:
        return file / ARTIFACT_NAME
    if held is not None:
        runs = sorted(each.parent for each in file.glob(f"*/{ARTIFACT_NAME}"))
        if runs:
            raise FileError(
                f"{file}: expected a run's folder, got a folder of {len(runs)} runs; "
                f"name one of them, such as {runs[0]}"
            )
        if _holds_pictures(file):
            raise FileError(
                f"{file}: expected a run's folder, got a folder of images; distil it "
                "first: "
                f"dd-plugins distill --dataset 'folder:{file}'"
            )
        raise FileError(
            f"{file}: expected a run's folder with its {ARTIFACT_NAME}, found none; "
            "distil first, or finish the run with --resume"
        )
    if not stat.S_ISREG(there.st_mode):
        raise FileError(f"{file} is no file; expected an artifact or a run's folder")
    return file


def foreign_kind(file: Path) -> str | None:
    """Return the kind of a file other than safetensors; None if unknown."""
    try:
        with file.open("rb") as opened:
            beginning = opened.read(16)
        if beginning.startswith(b"PK"):
            with zipfile.ZipFile(file) as archive:
                names = archive.namelist()
            if any(name.endswith("data.pkl") for name in names):
                return "a torch file (.pt)"
            if any(name.endswith(".npy") for name in names):
                return "a NumPy archive (.npz)"
            return "a zip archive"
    except (OSError, ValueError, zipfile.BadZipFile):
        return None
    return next(
        (what for start, what in _BEGINNINGS.items() if beginning.startswith(start)),
        None,
    )


def warn_of_suffix(file: Path) -> None:
    """Warn that the name of an artifact has the suffix of another kind of file.

    Warns:
        DDWarning: the suffix is that of a torch file, an array or a picture, or alike.
    """
    if file.suffix.lower() in _OTHER_FORMS:
        warnings.warn(
            f"{file} is written as a safetensors file, which programs for "
            f"{file.suffix} files cannot read; name it "
            f"{file.with_suffix('.safetensors').name}",
            DDWarning,
            stacklevel=3,
        )


def _holds_pictures(folder: Path) -> bool:
    """Return whether a folder or a subfolder holds pictures, and no files of a run."""
    if any((folder / name).exists() for name in ("checkpoint.pt", "metrics.jsonl")):
        return False
    try:
        entries = list(islice(folder.iterdir(), _LISTED))
        for inner in entries[:10]:
            if inner.is_dir():
                entries += islice(inner.iterdir(), 10)
    except OSError:
        return False
    return any(entry.suffix.lower() in _PICTURES for entry in entries)
