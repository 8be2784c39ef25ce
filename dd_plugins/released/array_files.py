"""Released sets as arrays: FRePo's and RCIG's, in NumPy archives and in checkpoints."""

import io
import math
import zipfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dd_plugins.errors import FileError, MissingExtraError
from dd_plugins.released.contents import Released, refuse_export
from dd_plugins.runtime.memory import fits_in_memory
from dd_plugins.runtime.text import plain, size_text

__all__ = ["read_archive", "read_checkpoint"]

_IMAGES = ("x_proto", "images", "image", "x", "data")
_LABELS = ("y_proto", "labels", "label", "y", "targets")
_COPIES = 3  # of an array: as read, in this machine's byte order, and in float32
_AVERAGED = "ema_average"
_ARRAY, _SCALAR = 1, 3  # flax's types beyond those of msgpack
_DTYPES = {"float32", "float64", "float16", "int32", "int64", "uint8"}


def read_archive(file: Path) -> Released:
    """Return the set in a NumPy archive, with arrays for images and labels.

    Raises:
        FileError: it cannot be read, has no such arrays, or is an export of dd-plugins.
    """
    try:
        with np.load(io.BytesIO(file.read_bytes()), allow_pickle=False) as archive:
            refuse_export(file, archive.files)
            wanted = [each for each in archive.files if each in _IMAGES + _LABELS]
            _check_room(file, archive.zip.infolist(), wanted)
            arrays = {name: archive[name] for name in wanted}
    except FileError:
        raise
    except Exception as error:  # a damaged archive raises errors of any kind
        objects = zipfile.is_zipfile(file)
        raise FileError(
            f"{file}: expected a NumPy archive of numbers, got "
            + ("one of objects, or a damaged one" if objects else "another file")
        ) from error
    return _pair(file, arrays, "FRePo")


def _check_room(
    file: Path, entries: Iterable[zipfile.ZipInfo], wanted: Collection[str]
) -> None:
    """Refuse arrays that do not fit into memory once they are unpacked.

    Raises:
        FileError: they take more than half of the memory.
    """
    needed = sum(
        each.file_size
        for each in entries
        if each.filename.removesuffix(".npy") in wanted
    )
    if not fits_in_memory(_COPIES * needed):
        raise FileError(
            f"{file}: expected arrays that fit in half of the memory, got "
            f"{size_text(needed)}, to be held {_COPIES} times"
        )


def read_checkpoint(file: Path) -> Released:
    """Return the set in a checkpoint of flax, as released by RCIG.

    Averaged images and labels are taken if there are any, as in its code.

    Raises:
        MissingExtraError: msgpack is not installed.
        FileError: it cannot be read, or has no such arrays.
    """
    try:
        import msgpack
    except ImportError as error:
        raise MissingExtraError(
            "a checkpoint of flax needs msgpack; install it: "
            "pip install 'dd-plugins[import]'"
        ) from error
    try:
        held = msgpack.unpackb(
            file.read_bytes(), ext_hook=_array, strict_map_key=False, raw=False
        )
    except Exception as error:  # msgpack has errors of many kinds
        raise FileError(
            f"{file}: expected a torch file, a NumPy archive, a folder of images or a "
            "checkpoint of flax, got another file"
        ) from error
    if not isinstance(held, Mapping):
        raise FileError(f"{file}: expected named arrays, got a {type(held).__name__}")
    try:
        places = dict(_mappings(held))
    except RecursionError as error:
        raise FileError(f"{file}: expected mappings nested less deep") from error
    order = sorted(places, key=lambda place: _AVERAGED not in place)
    for place in order:
        names = places[place].keys()
        if any(name in names for name in _IMAGES) and any(n in names for n in _LABELS):
            return _pair(file, places[place], "RCIG")
    raise FileError(f"{file}: expected arrays x_proto and y_proto, found none")


def _array(code: int, content: bytes) -> Any:
    """Return an array or number of flax; raise ``ValueError`` for anything else."""
    import msgpack

    if code not in (_ARRAY, _SCALAR):
        raise ValueError(f"unknown type {code}")
    shape, dtype, buffer = msgpack.unpackb(content, raw=False)
    if dtype not in _DTYPES:
        raise ValueError(f"unknown dtype {dtype}")
    flat = np.frombuffer(buffer, dtype)
    if len(flat) != math.prod(shape):
        raise ValueError(f"expected {shape} values, got {len(flat)}")
    return flat.reshape(shape).copy()


def _mappings(
    held: Mapping[str, Any], place: str = ""
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield a mapping and all mappings inside it, each with its path."""
    yield place, held
    for name, inner in held.items():
        if isinstance(inner, Mapping):
            yield from _mappings(inner, f"{place}/{name}")


def _pair(file: Path, arrays: Mapping[str, Any], layout: str) -> Released:
    """Return the images and labels among some arrays.

    Raises:
        FileError: one of them is missing, or does not hold numbers.
    """
    found = []
    for names in (_IMAGES, _LABELS):
        name = next((each for each in names if each in arrays), None)
        if name is None or not isinstance(arrays[name], np.ndarray):
            raise FileError(
                f"{file}: expected an array called {', '.join(names[:3])}, got "
                f"{plain(', '.join(map(str, list(arrays)[:8]))) or 'none'}"
            )
        try:
            native = arrays[name].astype(arrays[name].dtype.newbyteorder("="))
            found.append(torch.from_numpy(native))
        except (TypeError, ValueError) as error:
            raise FileError(
                f"{file}: expected numbers in {name}, got {arrays[name].dtype}"
            ) from error
    images, labels = found
    return Released(layout, images, labels, "zca", "regression")
