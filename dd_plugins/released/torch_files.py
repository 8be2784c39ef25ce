"""Released sets in torch files: those of DC, DSA, DM, IDC, MTT, TESLA and DATM.

Files are read as tensors, numbers and containers of them; code in them is never run.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dd_plugins.errors import FileError
from dd_plugins.released.contents import Released, refuse_export
from dd_plugins.runtime.text import shortened

__all__ = ["read_experiments", "read_tensors", "read_torch"]

_SCALARS = [
    np.dtype,
    np.dtypes.Float64DType,
    np.dtypes.Float32DType,
    (np.float64(0).__reduce__()[0], "numpy.core.multiarray.scalar"),
    (np.float64(0).__reduce__()[0], "numpy._core.multiarray.scalar"),
]
"""The types behind a number of NumPy, such as an accuracy in files of DC."""

_LONGEST_NAMES = 200  # characters


def read_torch(file: Path) -> Any:
    """Return the content of a torch file, on the CPU.

    Raises:
        FileError: it cannot be read, or holds more than tensors, numbers and
            containers.
    """
    try:
        with torch.serialization.safe_globals(_SCALARS):  # type: ignore[arg-type]
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle raises errors of any kind
        raise FileError(
            f"{file}: expected a file of tensors, numbers, and lists or dicts of them, "
            f"got {_what_else(file)}"
        ) from error


def _what_else(file: Path) -> str:
    """Say what a file holds that is not read."""
    try:
        held = torch.serialization.get_unsafe_globals_in_checkpoint(str(file))
    except Exception:  # no archive of torch, or a damaged one
        held = []
    if not held:
        return "another or a damaged file, which is not unpickled"
    named = shortened(", ".join(sorted(held)), _LONGEST_NAMES)
    return f"one with code ({named}), which is not unpickled; save tensors alone"


def read_experiments(file: Path, held: Any) -> list[Released]:
    """Return the sets in a file of DC, DSA or DM, or the one set in a file of IDC.

    ``{"data": [[images, labels], ...], "accs_all_exps": ...}`` is the layout of DC,
    with a pair for each experiment; ``[images, labels]`` is the layout of IDC, with
    pixels as images.

    Args:
        file: the file, for messages.
        held: its content.

    Raises:
        FileError: the file has another layout, or is an export of dd-plugins.
    """
    if isinstance(held, Mapping):
        refuse_export(file, held.keys())
    if isinstance(held, Mapping) and "data" in held:
        pairs = held["data"]
        usable = isinstance(pairs, Sequence) and len(pairs) > 0
        if not usable or not all(map(_is_pair, pairs)):
            raise _other(file, "'data' that is no list of pairs of tensors")
        return [
            Released("DC, DSA and DM", images, labels, "published")
            for images, labels in pairs
        ]
    if _is_pair(held):
        images, labels = held
        return [Released("IDC", images, labels, "pixels")]
    raise _other(file, f"a {type(held).__name__}")


def read_tensors(images: Path, labels: Path, rate: Path | None) -> Released:
    """Return the set in files of one tensor each, as MTT, TESLA and DATM save it.

    DD-Ranking reads sets in the same files.

    Args:
        images: the file of the images.
        labels: the file of the labels: classes, or logits.
        rate: the file of the learned step size; None if there is none.

    Raises:
        FileError: a file holds something else.
    """
    pixels, targets = (_tensor(file) for file in (images, labels))
    learned = None if rate is None else read_torch(rate)
    if learned is not None:
        try:
            learned = float(torch.as_tensor(learned).flatten()[0])
        except (TypeError, ValueError, RuntimeError, IndexError) as error:
            raise _other(rate, "no number") from error
        if not 0 < learned < float("inf"):
            raise _other(rate, f"the learning rate {learned}")
    return Released(
        "MTT, TESLA and DATM", pixels, targets, "unknown", learning_rate=learned
    )


def _tensor(file: Path) -> Tensor:
    """Return the tensor in a file.

    Raises:
        FileError: it holds something else.
    """
    found = read_torch(file)
    if not isinstance(found, Tensor):
        raise _other(file, f"a {type(found).__name__} in place of a tensor")
    return found


def _is_pair(held: Any) -> bool:
    return (
        isinstance(held, list | tuple)
        and len(held) == 2
        and all(isinstance(each, Tensor) for each in held)
    )


def _other(file: Path | None, got: str) -> FileError:
    return FileError(
        f"{file}: expected the layout of DC ('data': [[images, labels]]), of IDC "
        f"([images, labels]) or a tensor in a file each, got {got}"
    )
