"""Real data: how it is read, checked, split and drawn from."""

from dd_plugins.data.draws import sampler_of
from dd_plugins.data.images import Images
from dd_plugins.data.named import DataOptions, DatasetLoader
from dd_plugins.data.real import RealData
from dd_plugins.data.sampler import Batch, RealSampler

__all__ = [
    "Batch",
    "DataOptions",
    "DatasetLoader",
    "Images",
    "RealData",
    "RealSampler",
    "sampler_of",
]
