"""The images of a distillation, some of them repeated."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor
from torch.utils.data import Dataset

from dd_plugins.api import Items, StreamedImages

__all__ = ["ImagePool", "PoolImages"]

_READ = 256  # images that are gathered at a time


class ImagePool(Dataset[tuple[Tensor, int]]):
    """The images of an experience, with copies of them and of stored images.

    Images are gathered on access: a copy is an index, and takes no room.

    Args:
        images: the images of the experience, in the value space of the model.
        labels: their classes.

    Attributes:
        parts: the images of the experience, and the added ones.
        indices: int64, the index of each image of the distillation among the sources,
            the images of all parts.
        labels: int64, the class of each image of the distillation.
    """

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.parts = [images]
        self.indices = torch.arange(len(images))
        self.labels = labels

    def add(self, images: Tensor, label: int, count: int) -> None:
        """Add ``count`` copies of the images of a class, taken in turn."""
        copies = torch.arange(count) % len(images) + self.num_sources
        self.parts.append(images)
        self.indices = torch.cat([self.indices, copies])
        self.labels = torch.cat([self.labels, torch.full((count,), label)])

    @property
    def num_sources(self) -> int:
        """The number of images in all parts: each counts once."""
        return sum(map(len, self.parts))

    def gathered(self, chosen: Tensor) -> Tensor:
        """Return some images of the distillation, float32."""
        sources = self.indices[chosen]
        result = torch.empty(len(sources), *self.parts[0].shape[1:])
        for start in range(0, len(sources), _READ):
            wanted = sources[start : start + _READ]
            found = result[start : start + _READ]
            first = 0
            for part in self.parts:
                here = (wanted >= first) & (wanted < first + len(part))
                found[here] = part[wanted[here] - first]
                first += len(part)
        return result

    def images(self) -> "PoolImages":
        """Return the images of the distillation, not yet gathered."""
        return PoolImages(self, torch.arange(len(self)))

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.gathered(torch.tensor([index]))[0], int(self.labels[index])


class PoolImages(StreamedImages):
    """Images of a pool, indexed like a tensor and gathered on demand."""

    def __init__(self, pool: ImagePool, numbers: Tensor) -> None:
        super().__init__(Items(pool), pool.parts[0].shape[1:], numbers, workers=0)
        self._pool, self._chosen = pool, numbers

    def __getitem__(self, chosen: slice | Tensor) -> Tensor:
        return self._pool.gathered(self._chosen[chosen])

    def select(self, chosen: Tensor) -> "PoolImages":
        """Return some of the images, without gathering them."""
        return PoolImages(self._pool, self._chosen[chosen])

    def batches(self, draws: Iterable[Tensor]) -> Iterator[Tensor]:
        """Yield the images of each draw."""
        for draw in draws:
            yield self[draw]
