"""The data sets requested by users of this machine."""

import hashlib
from contextlib import suppress
from pathlib import Path

from dd_plugins.errors import FileError
from dd_plugins.runtime.cache import cache_folder
from dd_plugins.runtime.files import write_atomically

__all__ = ["remember", "was_requested"]

_ASKED_FOR = "asked-for"  # a folder of the cache


def was_requested(name: str) -> bool:
    """Return whether a data set named by an artifact may be read.

    A name alone means an installed data set. An argument after a colon, such as a path,
    comes from the author of the artifact. It is used only if somebody has given this
    name here before, for a distillation or an evaluation.
    """
    try:
        return ":" not in name or _note_of(name).exists()
    except OSError:
        return False


def remember(name: str) -> None:
    """Record a name with an argument as given here; without a cache, do nothing."""
    if was_requested(name):
        return
    content = name.encode(errors="surrogatepass")  # a path need not be valid text
    with suppress(FileError):
        write_atomically(_note_of(name), lambda file: file.write(content))


def _note_of(name: str) -> Path:
    digest = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:32]
    return cache_folder() / _ASKED_FOR / digest
