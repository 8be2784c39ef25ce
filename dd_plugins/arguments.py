"""What callers give, in the forms in which people hold it."""

import hashlib
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from dd_plugins.data import DataOptions, RealData
from dd_plugins.errors import DataError, FileError, OptionError
from dd_plugins.files import write_atomically
from dd_plugins.networks.base import AbstractNetwork
from dd_plugins.plugins import Plugins
from dd_plugins.preprocess import Preprocessing
from dd_plugins.trained import cache_folder

__all__ = [
    "as_networks",
    "as_real_data",
    "prepared",
    "was_asked_for",
]

_ASKED_FOR = "asked-for"  # a folder of the cache


def as_networks(
    given: "str | AbstractNetwork | Iterable[str | AbstractNetwork]", plugins: Plugins
) -> list[AbstractNetwork]:
    """Return the networks that specs stand for; one spec is a list of one.

    Raises:
        OptionError: a spec is malformed, or is no spec.
        UnknownNameError: no plugin registers a name.
    """
    single = isinstance(given, str | AbstractNetwork)
    if not single and not isinstance(given, Iterable):
        raise OptionError(
            "networks must be specs such as 'mlp(width=64)', or networks of "
            f"dd-plugins, got {type(given).__name__}"
        )
    specs: list[Any] = [given] if single else list(given)  # type: ignore[arg-type]
    for spec in specs:
        if not isinstance(spec, str | AbstractNetwork):
            raise OptionError(
                "a network must be a spec such as 'mlp(width=64)', or a network of "
                f"dd-plugins, got {type(spec).__name__}"
            )
    return [plugins.network(spec) for spec in specs]


def as_real_data(data: Any, options: DataOptions, plugins: Plugins) -> RealData:
    """Return the real data that a caller gives, in any form that is taken.

    Args:
        data: the name of a data set; or ``RealData``; or images and labels, tensors or
            numpy arrays; or a map-style Dataset of ``(image, label)``.
        options: how a named data set is to be found.
        plugins: where names are looked up.

    Raises:
        OptionError: it is none of these, or the name is malformed.
        UnknownNameError: no plugin registers the name.
        DataError: the data is not there or not usable.
    """
    match data:
        case str():
            found = plugins.dataset(data, options)
        case RealData():
            found = data
        case (Tensor() | np.ndarray() as images, Tensor() | np.ndarray() as labels):
            return RealData.from_tensors(_as_tensor(images), _as_tensor(labels))
        case Dataset():
            return RealData.from_dataset(data)
        case _:
            raise OptionError(
                "data must be the name of a data set, RealData, a pair of tensors or "
                "of numpy arrays, or a map-style torch Dataset, got "
                f"{type(data).__name__}"
            )
    _remember(found.name)
    return found


def _as_tensor(values: "Tensor | np.ndarray[Any, Any]") -> Tensor:
    if isinstance(values, Tensor):
        return values
    try:
        return torch.tensor(np.ascontiguousarray(values))
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(
            f"an array of {values.dtype} is taken for neither images nor labels; pass "
            "uint8 or floating images, and labels that are integers"
        ) from error


def prepared(
    data: RealData, preprocessing: Preprocessing | None, mirror: bool | None
) -> RealData:
    """Return the data, to be preprocessed and mirrored as a caller asks.

    Args:
        data: as it is by itself.
        preprocessing: ``"standardize"`` or ``"zca"``; None for the data's own.
        mirror: whether a mirror image is still of its class; None for the data's own.

    Raises:
        OptionError: there is no such preprocessing.
    """
    if preprocessing is not None:
        if preprocessing not in get_args(Preprocessing):
            raise OptionError(
                f"preprocessing must be one of {', '.join(get_args(Preprocessing))}, "
                f"got {preprocessing!r}"
            )
        data = data.with_preprocessing(preprocessing)
    return data if mirror is None else replace(data, mirror=bool(mirror))


def was_asked_for(name: str) -> bool:
    """Tell whether a data set may be read because an artifact names it.

    A name alone means a data set that is installed here. What follows a colon, such as
    a path, comes from whoever wrote the artifact: it is followed if somebody has given
    this name here before, for a distillation or an evaluation.
    """
    try:
        return ":" not in name or _note_of(name).exists()
    except OSError:
        return False


def _remember(name: str) -> None:
    """Note that a name with an argument was given here; without a cache, do nothing."""
    if was_asked_for(name):
        return
    with suppress(FileError):
        write_atomically(_note_of(name), lambda file: file.write(name.encode()))


def _note_of(name: str) -> Path:
    digest = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:32]
    return cache_folder() / _ASKED_FOR / digest
