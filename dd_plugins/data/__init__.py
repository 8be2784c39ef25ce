"""Real data: reading, checking, splitting and drawing from it."""

from typing import TYPE_CHECKING

from dd_plugins.runtime.lazy import lazy_names

if TYPE_CHECKING:
    from dd_plugins.data.draws import sampler_of
    from dd_plugins.data.images import Images
    from dd_plugins.data.named import DataOptions, DatasetLoader
    from dd_plugins.data.real import RealData
    from dd_plugins.data.sampler import Batch, RealSampler
else:
    __getattr__ = lazy_names(__name__)

__all__ = [
    "Batch",
    "DataOptions",
    "DatasetLoader",
    "Images",
    "RealData",
    "RealSampler",
    "sampler_of",
]
