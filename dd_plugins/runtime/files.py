"""Files written whole or not at all, and folders locked for one process."""

import errno
import os
import stat
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from dd_plugins.errors import DDWarning, FileError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["check_writable", "folder_lock", "write_atomically"]

_ALONE = os.O_WRONLY
for _flag in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"):  # not every system has them
    _ALONE |= getattr(os, _flag, 0)
_PATIENCE = 10.0  # seconds; the workers of a killed process end a little later
_TOLD_AFTER = 1.0  # seconds


def check_writable(path: Path) -> None:
    """Refuse an unwritable file, before its content is computed.

    A hidden file is created in its folder, or in the nearest existing parent, and
    removed again: some systems report a folder as writable, and then refuse.

    Raises:
        FileError: it is a folder, or no file can have such a name, or its folder, or
            the nearest existing parent, is not writable.
    """
    try:
        with suppress(FileNotFoundError):
            path.stat()  # raises for names that no file can have
        is_folder = path.is_dir()
        parents = path.absolute().parents
        folder = next((each for each in parents if each.exists()), path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise FileError(f"cannot write {path}: {reason}") from error
    if is_folder:
        raise FileError(f"cannot write {path}: it is a folder")
    try:
        if not os.access(folder, os.W_OK):
            raise PermissionError
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise FileError(
            f"cannot write {path}: {folder} is not a writable folder"
        ) from error


def write_atomically(
    path: Path,
    write: Callable[[BinaryIO], object],
    *,
    verify: Callable[[Path], object] | None = None,
) -> Path:
    """Write a file atomically: its name holds the old content or the new, never a part.

    The content goes to a hidden file in the same folder, is flushed to the disk, and
    takes the name in one step. Missing parent folders are made. If two processes write
    the same file at once, one waits for the other (not on Windows).

    Args:
        path: the file to write.
        write: writes the content to a binary file object.
        verify: checks the hidden file before it takes the name; raises ValueError or
            OSError if its content is wrong.

    Raises:
        FileError: the folder or the file cannot be written (a full disk, permissions);
            a previous file of this name is kept.
    """
    try:
        part = path.with_name(f".{path.name}.part")
        path.parent.mkdir(parents=True, exist_ok=True)
        with _alone_with(part):
            try:
                with _opened(part) as file:
                    write(file)
                    file.flush()
                    os.fsync(file.fileno())
                if verify is not None:
                    verify(part)
                part.replace(path)
            except BaseException:
                part.unlink(missing_ok=True)
                raise
    except (OSError, ValueError) as error:
        kept = "; the previous one is kept" if _is_there(path) else ""
        reason = getattr(error, "strerror", None) or error
        raise FileError(f"cannot write {path}: {reason}{kept}") from error
    _flush_folder(path.parent)
    return path


@contextmanager
def folder_lock(folder: Path, patience: float | None = None) -> Iterator[None]:
    """Make a folder, and lock it against other processes (not on Windows).

    Args:
        folder: the folder.
        patience: the seconds to wait for another process; by default ten.

    Raises:
        FileError: another process keeps it locked, or it cannot be made.

    Warns:
        DDWarning: another process has it locked for more than a second.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = None if fcntl is None else os.open(folder, os.O_RDONLY)
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or error
        raise FileError(f"cannot write to {folder}: {reason}") from error
    if lock is None:
        yield
        return
    patience = _PATIENCE if patience is None else patience
    try:
        begun, told = time.monotonic(), False
        while not _takes(lock):
            waited = time.monotonic() - begun
            if waited > _TOLD_AFTER and not told:
                warnings.warn(
                    f"waiting for another process, which is at work in {folder}",
                    DDWarning,
                    stacklevel=3,
                )
                told = True
            if waited > patience:
                raise FileError(
                    f"another process is at work in {folder}; wait for its end, or "
                    "choose another folder"
                )
            time.sleep(0.1)
        yield
    finally:
        os.close(lock)


def _takes(lock: int) -> bool:
    """Try to lock an open folder; return False if another process has it."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        pass
    return True


@contextmanager
def _alone_with(part: Path) -> Iterator[None]:
    """Lock a hidden file against other processes; wait while one of them has it.

    A killed process holds no lock, so its file is taken over. The hidden file is its
    own lock: filelock would leave a lock file next to every written file.
    """
    held = fcntl is None
    if held:
        yield
    while not held:
        lock = _opened_alone(part)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            with suppress(FileNotFoundError):  # renamed while this one waited
                held = os.path.samestat(os.fstat(lock), part.lstat())
            if held:
                yield
        finally:
            os.close(lock)


def _opened_alone(part: Path) -> int:
    """Open a hidden file for writing; remove anything else under its name.

    In a folder open to others, the name may belong to a symbolic link, to a hard link
    to somebody's file, or to a pipe without a reader.
    """
    while True:
        with suppress(FileNotFoundError):
            there = part.lstat()
            if not stat.S_ISREG(there.st_mode) or there.st_nlink > 1:
                part.unlink()
        try:
            lock = os.open(part, _ALONE | os.O_CREAT, 0o666)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENXIO):  # put there just now
                continue
            raise
        opened = os.fstat(lock)
        if stat.S_ISREG(opened.st_mode) and opened.st_nlink <= 1:
            return lock
        os.close(lock)


def _opened(part: Path) -> BinaryIO:
    """Open the hidden file, new and empty, without following a link."""
    descriptor = os.open(part, _ALONE | os.O_CREAT | os.O_TRUNC, 0o666)
    return os.fdopen(descriptor, "wb")


def _is_there(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that no file can have
        return False


def _flush_folder(folder: Path) -> None:
    """Make the new name durable, where the system can open and flush folders."""
    if os.name == "nt":
        return
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
