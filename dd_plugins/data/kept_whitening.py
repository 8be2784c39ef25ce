"""Whitening fitted once for a data set, and kept for later runs."""

import hashlib
import math
import warnings
from importlib.metadata import version

import torch
from torch import Tensor

from dd_plugins.data.preprocess import Transform
from dd_plugins.data.real import RealData
from dd_plugins.errors import DDWarning, FileError
from dd_plugins.runtime.cache import cache_folder
from dd_plugins.runtime.kept_tensors import load_tensors, save_tensors

__all__ = ["fitted_transform"]

_LONG = 10**11  # multiplications for a covariance; more take seconds
_STRIDE = "stride"
_WHITENED = ("zca", "pixel-zca")


def fitted_transform(data: RealData) -> Transform:
    """Return the map from images to the value space, fitted to the training images.

    A whitening whose fit takes seconds is kept in the cache folder. Its key covers the
    images, and everything its last bits depend on: versions, processor and threads. So
    a run gives the same bits with and without the cache. If the file cannot be read or
    written, the whitening is fitted again.
    """
    images, kind = data.train.images, data.preprocessing
    size = math.prod(images.shape[1:])
    long = len(images) * size**2 > _LONG
    if kind not in _WHITENED or not long or not isinstance(images, Tensor):
        return Transform.fit(images, kind)
    settings = (
        data.fingerprint,
        kind,
        version("dd-plugins"),
        torch.__version__,
        torch.backends.cpu.get_cpu_capability(),
        torch.get_num_threads(),
    )
    key = hashlib.sha256(repr(settings).encode()).hexdigest()[:32]
    path = cache_folder() / "whitening" / f"{key}.safetensors"
    if path.exists():
        try:
            tensors, described = load_tensors(
                path, what="a kept whitening", advice="remove it"
            )
            return Transform.from_tensors(tensors, int(described[_STRIDE]))
        except (FileError, KeyError, ValueError) as error:
            warnings.warn(f"{error}; it is fitted again", DDWarning, stacklevel=2)
    fitted = Transform.fit(images, kind)
    try:
        save_tensors(path, fitted.tensors(), {_STRIDE: str(fitted.stride)})
    except FileError as error:
        warnings.warn(
            f"the whitening is not kept for later runs: {error}",
            DDWarning,
            stacklevel=2,
        )
    return fitted
