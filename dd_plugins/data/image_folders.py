"""Find image files: the classes and the splits in a folder."""

import re
import stat
import unicodedata
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from PIL import Image

from dd_plugins.errors import DataError, DDWarning

__all__ = ["ImageFolder", "Splits", "find_images", "find_splits"]

_SYSTEM = {
    "$recycle.bin",
    "@eadir",
    "__macosx",
    "__pycache__",
    "desktop.ini",
    "lost+found",
    "system volume information",
    "thumbs.db",
}
_TRAIN = {"train", "training"}
_TEST = {"test", "testing"}
_VALIDATION = {"val", "valid", "validation"}
_SUFFIX = re.compile(r"[\W_]*(set|data|split|images)?[\W_\d]*$")
# Formats that Pillow recognises, but whose pixels it cannot read by itself.
_NOT_READ = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
_NAMED = 5  # names listed in a message, at most


@dataclass(frozen=True)
class ImageFolder:
    """The image files of a folder with a subfolder for each class.

    Attributes:
        path: the folder.
        classes: the names of the subfolders in NFC, sorted.
        samples: each file with the index of its class.
    """

    path: Path
    classes: list[str]
    samples: list[tuple[Path, int]]

    @property
    def labels(self) -> list[int]:
        """Return the class of each image."""
        return [label for _, label in self.samples]


@dataclass(frozen=True)
class Splits:
    """The folders of a data set's splits.

    Attributes:
        train: the folder of the training images.
        test: the folder of the test images; None if they are cut from ``train``.
        validation: the folder of the validation images; None if they are held out of
            ``train``.
    """

    train: Path
    test: Path | None
    validation: Path | None = None


def find_splits(path: Path) -> Splits:
    """Find the splits of a folder, or take a folder of classes as the training split.

    ``train``, ``val`` and ``test`` are recognised in any case, and by their common
    variants (``Training``, ``test_set``). Without a test split of the same classes as
    the training images, ``val`` is the test set.

    Raises:
        DataError: the folder cannot be read; it holds a training split alone; a split
            occurs twice, holds no class folders, or holds other classes; or subfolders
            with other names look like splits.
    """
    folders = _subfolders(path)
    roles: dict[str, list[Path]] = {}
    for folder in folders:
        roles.setdefault(_role(folder.name), []).append(folder)
    if "class" in roles:
        holding = [set(map(_name_of, _subfolders(folder))) for folder in folders]
        alike = len(folders) > 1 and len(holding[0]) > 1
        alike = alike and all(names == holding[0] for names in holding)
        if alike and not any(map(_holds_images, folders)):
            raise DataError(
                f"{path}: expected a subfolder for each class, got "
                f"{_listed(f.name for f in folders)}, which all hold the same folders "
                "and look like splits; call them 'train' and 'test', or name one of "
                "them as the data set"
            )
    if "train" not in roles:
        return Splits(path, None)
    if not _subfolders(roles["train"][0]):
        if "class" not in roles and len(roles) > 1:
            raise DataError(
                f"{path} holds {_listed(f.name for f in folders)}, which look like "
                "splits; expected class folders in them, found none; sort the images "
                "into folders named by their class"
            )
        return Splits(path, None)  # a class may be called 'train'
    for role, (first, *others) in roles.items():
        if role != "class" and others:
            raise DataError(
                f"{path}: expected at most one {role} split, got {first.name!r} and "
                f"{others[0].name!r}; remove one"
            )
    train = roles["train"][0]
    found = [roles[role][0] for role in ("test", "validation") if role in roles]
    if not found:
        raise DataError(
            f"{path}: expected a folder 'test' beside {train.name!r}, found none; add "
            "it, or name the training folder itself to have a test split cut from it"
        )
    classes = set(map(_name_of, _subfolders(train)))
    fitting = [
        folder for folder in found if set(map(_name_of, _subfolders(folder))) == classes
    ]
    if not fitting:
        raise _other_classes(train, found[0], classes)
    _tell_of_unused(path, folders, [train, *fitting])
    return Splits(train, *fitting)


def _other_classes(train: Path, test: Path, classes: set[str]) -> DataError:
    held = set(map(_name_of, _subfolders(test)))
    if not held:
        return DataError(
            f"{test} holds no class folders, expected those of {train}; sort its "
            "images into folders named by their class"
        )
    parts = [
        f"only {where} has {_listed(sorted(more))}"
        for where, more in ((train.name, classes - held), (test.name, held - classes))
        if more
    ]
    return DataError(
        f"{train.parent}: {train.name} and {test.name} must hold the same class "
        f"folders, but {' and '.join(parts)}"
    )


def _tell_of_unused(path: Path, folders: list[Path], used: list[Path]) -> None:
    unused = [folder.name for folder in folders if folder not in used]
    if unused:
        held_out = (
            f"{used[2].name!r} gives the validation images"
            if len(used) > 2
            else "validation images are held out of the training images"
        )
        warnings.warn(
            f"{path}: {_listed(unused)} not read; {used[1].name!r} is the test set, "
            f"and {held_out}",
            DDWarning,
            stacklevel=2,
        )


def find_images(path: Path) -> ImageFolder:
    """List the images of a folder with a subfolder for each class.

    Subfolders of class folders are searched too. A file or folder reached by several
    links is taken once, and links to parent folders are not followed. Hidden files and
    those of operating systems are left out; one warning counts all other skipped files.

    Raises:
        DataError: the folder cannot be read, has no subfolders, or one of them holds
            no image.
    """
    skipped = Counter[str]()
    folders: dict[str, list[Path]] = {}
    for entry in _entries(path):
        if _is_folder(entry):
            folders.setdefault(_name_of(entry), []).append(entry)
        elif _why_passed_over(entry) is None:
            skipped["images in no class folder"] += 1
    if not folders:
        raise DataError(
            f"cannot read images under {path}: expected a subfolder for each class, "
            "found none"
        )
    names = sorted(folders)
    samples: list[tuple[Path, int]] = []
    taken = set[tuple[int, int]]()
    for label, files in enumerate(_files_by_class(path, folders, names)):
        images = [file for file in files if _passes(file, taken, skipped)]
        images.sort(key=lambda file: (str(file.parent), file.name))
        samples += [(file, label) for file in images]
    empty = sorted(set(range(len(names))) - {label for _, label in samples})
    if empty:
        raise DataError(
            f"cannot read images under {path}: expected an image in each class "
            f"folder, found none in {_listed(names[label] for label in empty)}"
            f"{_told(skipped, '; ')}"
        )
    if skipped:
        warnings.warn(f"{path}{_told(skipped, ': ')}", DDWarning, stacklevel=2)
    return ImageFolder(path, names, samples)


def _files_by_class(
    path: Path, folders: dict[str, list[Path]], names: list[str]
) -> list[list[Path]]:
    """Return the files under the folders of each class, visiting each folder once."""
    files: list[list[Path]] = [[] for _ in names]
    roots = [
        (label, each) for label, name in enumerate(names) for each in folders[name]
    ]
    links = [(label, folder) for label, folder in roots if folder.is_symlink()]
    own = [(label, folder) for label, folder in roots if not folder.is_symlink()]
    # A link to a parent folder would bring in everything else in it.
    above = {_identity(folder) for folder in (path, *path.resolve().parents)}
    visited = {_identity(folder) for _, folder in own} | above
    for label, folder in own:
        files[label] += _walk(label, folder, visited, links)
    # Links come last: one may lead to a folder of another class, which keeps its files.
    for label, link in links:  # grows during the loop
        if (identity := _identity(link)) not in visited:
            visited.add(identity)
            files[label] += _walk(label, link, visited, links)
    return files


def _passes(file: Path, taken: set[tuple[int, int]], skipped: Counter[str]) -> bool:
    """Return whether a file is a new image; if not, count the reason."""
    why = _why_passed_over(file)
    if why is None and (identity := _identity(file)) in taken:
        why = "links to images that are there"
    if why is not None:
        skipped[why] += 1
        return False
    taken.add(identity)
    return True


def _told(skipped: Counter[str], before: str) -> str:
    if not skipped:
        return ""
    reasons = ", ".join(
        f"{count} {reason}" for reason, count in skipped.most_common(_NAMED)
    )
    return f"{before}{skipped.total()} files passed over ({reasons})"


def _walk(
    label: int,
    folder: Path,
    visited: set[tuple[int, int]],
    links: list[tuple[int, Path]],
) -> Iterator[Path]:
    """Yield the files under a folder; leave linked folders for later."""
    for entry in _entries(folder):
        if not _is_folder(entry):
            yield entry
        elif entry.is_symlink():
            links.append((label, entry))
        elif (identity := _identity(entry)) not in visited:
            visited.add(identity)
            yield from _walk(label, entry, visited, links)


def _entries(folder: Path) -> list[Path]:
    """Return the entries of a folder, sorted, without hidden and system files."""
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise DataError(
            f"cannot read images under {folder}: {error.strerror}"
        ) from error
    return [
        entry
        for entry in entries
        if not entry.name.startswith(".") and entry.name.lower() not in _SYSTEM
    ]


def _subfolders(folder: Path) -> list[Path]:
    return [entry for entry in _entries(folder) if _is_folder(entry)]


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, RuntimeError):  # a loop of links
        return False


def _holds_images(folder: Path) -> bool:
    return any(_why_passed_over(entry) is None for entry in _entries(folder))


def _why_passed_over(file: Path) -> str | None:
    """Return the reason for skipping a file; None if it is read as an image."""
    try:
        mode = file.stat().st_mode
    except (OSError, RuntimeError):
        return "a broken link"
    if stat.S_ISDIR(mode):
        return "a folder"
    if not stat.S_ISREG(mode):
        return "no regular file"
    ending = file.suffix.lower()
    if ending not in _endings():
        return f"ending in {ending!r}" if ending else "without an ending"
    return None


@cache
def _endings() -> frozenset[str]:
    """Return the endings of the formats whose pixels Pillow reads."""
    Image.init()
    return frozenset(
        ending
        for ending, form in Image.registered_extensions().items()
        if form in Image.OPEN and form not in _NOT_READ
    )


def _identity(path: Path) -> tuple[int, int]:
    """Return device and inode, the same for every link to a file or folder."""
    found = path.stat()
    return found.st_dev, found.st_ino


def _name_of(folder: Path) -> str:
    return unicodedata.normalize("NFC", folder.name)


def _role(name: str) -> str:
    word = _SUFFIX.sub("", name.casefold())
    for role, words in (
        ("train", _TRAIN),
        ("test", _TEST),
        ("validation", _VALIDATION),
    ):
        if word in words:
            return role
    return "class"


def _listed(names: Iterable[str]) -> str:
    listed = list(names)
    more = f" and {len(listed) - _NAMED} more" if len(listed) > _NAMED else ""
    return ", ".join(map(repr, listed[:_NAMED])) + more
