"""Published archives: checked, and unpacked once beside them."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from dd_plugins.data.named import DataOptions, data_root_of
from dd_plugins.errors import DataError, one_line

__all__ = ["Archive", "check_md5", "download_file", "unpacked", "unpacked_by"]


@dataclass(frozen=True)
class Archive:
    """An archive as its authors publish it.

    Attributes:
        file: the name of the archive.
        folder: the name of the folder in it.
        md5: the published checksum of the archive; None if none is published.
        url: the address of the archive; None if its authors ask for a login.
    """

    file: str
    folder: str
    md5: str | None = None
    url: str | None = None


def unpacked(name: str, options: DataOptions, *archives: Archive) -> Path:
    """Return the folder of a data set, unpacked from its archive if necessary.

    The folder appears complete or not at all: an interrupted unpacking leaves no folder
    of this name. Several processes may unpack it at once.

    Args:
        name: the name of the data set, for messages.
        options: the folder of data sets; with ``download`` the first archive is fetched
            if none is there.
        archives: versions of the data set, the preferred one first.

    Raises:
        OptionError: there is no folder of data sets.
        DataError: neither a folder nor an archive is there; or an archive is damaged,
            is not the published one, or cannot be fetched.
    """
    root = data_root_of(name, options)
    for archive in archives:
        if (root / archive.folder).is_dir():
            return root / archive.folder
    there = [each for each in archives if (root / each.file).is_file()]
    if not there and options.download:
        there = [archives[0]]
        _fetch(name, root, archives[0])
    if not there:
        expected = " or ".join(f"{each.folder}/ or {each.file}" for each in archives)
        fetched = archives[0].url is not None
        todo = "pass --download to fetch it" if fetched else "put it there"
        raise DataError(
            f"cannot read data set {name!r} under {root}: expected {expected}; {todo}"
        )
    archive = there[0]
    check_md5(root / archive.file, archive.md5, f"or unpack it to {archive.folder}/")

    def unpack(folder: Path) -> None:
        if archive.file.endswith(".zip"):  # which stays inside the folder by itself
            shutil.unpack_archive(root / archive.file, folder)
        else:
            shutil.unpack_archive(root / archive.file, folder, filter="data")
        found = folder / archive.folder
        if not found.is_dir():
            raise DataError(f"expected a folder {archive.folder!r} in it")

    return unpacked_by(root / archive.folder, unpack, root / archive.file)


def unpacked_by(folder: Path, unpack: Callable[[Path], None], source: Path) -> Path:
    """Fill a temporary folder, move it to its place, and return this place.

    Args:
        folder: the folder to make.
        unpack: fills the folder given to it. A subfolder of it named like
            ``folder``, or else the given folder itself, becomes the result.
        source: the unpacked file, for messages.

    Raises:
        DataError: the source is damaged, or there is no room to write.
    """
    place: Path | None = None
    try:
        place = Path(tempfile.mkdtemp(prefix=".unpacking-", dir=folder.parent))
        unpack(place)
        inner = place / folder.name
        made = inner if inner.is_dir() else place
        made.chmod(0o755)  # a temporary folder is open to its user alone
        try:
            made.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was faster
                raise
    except Exception as error:  # archives can be damaged in many ways
        raise DataError(f"cannot unpack {source}: {one_line(error)}") from error
    finally:
        if place is not None:
            shutil.rmtree(place, ignore_errors=True)
    return folder


def check_md5(file: Path, md5: str | None, otherwise: str) -> None:
    """Refuse a file different from the published one.

    Args:
        file: the file.
        md5: the published sum, in hexadecimal; None to take any file.
        otherwise: an alternative to fetching it again, for the message.

    Raises:
        DataError: the file cannot be read, or has another sum.
    """
    if md5 is None:
        return
    make = partial(hashlib.md5, usedforsecurity=False)
    try:
        with file.open("rb") as opened:
            found = hashlib.file_digest(opened, make).hexdigest()
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror}") from error
    if found != md5:
        raise DataError(
            f"{file} must be the published file, with MD5 {md5}, got {found}: it is "
            f"damaged, or another version; remove it and fetch it again, {otherwise}"
        )


def _fetch(name: str, root: Path, archive: Archive) -> None:
    """Download an archive.

    Raises:
        DataError: it cannot be fetched.
    """
    if archive.url is None:
        raise DataError(
            f"data set {name!r} cannot be downloaded without a login: fetch "
            f"{archive.file} by hand and put it under {root}"
        )
    download_file(name, archive.url, root / archive.file, archive.md5)


def download_file(name: str, url: str, file: Path, md5: str | None) -> None:
    """Download a file of a data set; it appears complete or not at all.

    Raises:
        DataError: it cannot be fetched, or is not the published one.
    """
    from torchvision.datasets.utils import download_url

    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        part.unlink(missing_ok=True)  # it would be taken for the whole file
        download_url(url, str(part.parent), part.name, md5)
        part.replace(file)
    except Exception as error:  # the network fails in many ways
        part.unlink(missing_ok=True)
        raise DataError(
            f"cannot download data set {name!r} from {url}: {one_line(error)}"
        ) from error
