"""Random draws from the training images of a data set."""

import warnings

import torch
from torch import Tensor

from dd_plugins.data.kept_whitening import fitted_transform
from dd_plugins.data.preprocess import Transform
from dd_plugins.data.real import RealData
from dd_plugins.data.sampler import RealSampler
from dd_plugins.data.streamed import ImageSource
from dd_plugins.data.whitening import why_not_whitened
from dd_plugins.errors import DDWarning
from dd_plugins.runtime.memory import fits_in_memory

__all__ = ["sampler_of"]

_FLOAT_BYTES = 4


def sampler_of(
    data: RealData,
    *,
    seed: int,
    device: torch.device,
    precision: torch.dtype,
    rank: int = 0,
    ranks: int = 1,
    transform: Transform | None = None,
) -> tuple[Transform, RealSampler]:
    """Return the map to the value space, and a sampler of the training images.

    The map is fitted to these images, unless ``transform`` or the data gives one.

    If memory has room, all images are mapped once and kept in the precision of the
    networks. Otherwise each batch is mapped when it is drawn.

    Args:
        data: the data set.
        seed: the seed of the draws.
        device: the device of the batches.
        precision: the dtype of images that are kept mapped.
        rank: the number of this process.
        ranks: the number of processes, which share each batch.
        transform: the map to the value space; None for that of the data.

    Warns:
        DDWarning: a map is fitted to images of a size not whitened by default.
    """
    images: ImageSource = data.train.images
    if data.unfit_to_whiten and transform is None:
        warnings.warn(
            f"images of {'x'.join(map(str, data.image_shape))} are standardised by "
            f"channel, not whitened, since {why_not_whitened(data.image_shape)}; "
            "choose by preprocessing ('standardize' or 'zca')",
            DDWarning,
            stacklevel=2,
        )
    whole = transform or data.transform or fitted_transform(data)
    later: Transform | None = whole
    if isinstance(images, Tensor) and fits_in_memory(_FLOAT_BYTES * images.numel()):
        images, later = whole.to(device)(images, dtype=precision), None
    sampler = RealSampler(
        images,
        data.train.labels,
        seed=seed,
        device=device,
        transform=later,
        source=data.train.images,
        content=f"{data.fingerprint} {data.value_space}",
        class_names=data.class_names,
        rank=rank,
        ranks=ranks,
    )
    return whole, sampler
