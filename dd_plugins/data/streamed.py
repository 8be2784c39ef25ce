"""Images in a map-style dataset, read on access."""

import os
import signal
import threading
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dd_plugins.errors import DataError
from dd_plugins.runtime.randomness import generator_for

__all__ = [
    "ImageSource",
    "Pairs",
    "StreamedImages",
    "chunks",
    "length_of_chunks",
    "read_items",
]

_PART = 64  # images read at a time
_VALUES = 2_048 * 3 * 64 * 64  # of the images read or mapped at a time
_WORTH_WORKERS = 4_096  # images: for fewer, starting workers takes longer than reading


Pairs = Dataset[tuple[Tensor, int]]
"""Items of a dataset: an image ``(channels, height, width)``, and its class."""


ReadBatch = tuple[Tensor | list[Tensor], list[int]]
"""Images and their classes; a list of images only if shapes or dtypes differ."""


class _Reported(Dataset[tuple[Tensor, int] | DataError]):
    """Items whose errors are values, so a worker can hand them over in one line."""

    def __init__(self, items: Pairs) -> None:
        self._items = items

    def __getitem__(self, index: int) -> tuple[Tensor, int] | DataError:
        try:
            return self._items[index]
        except DataError as error:
            return error


def read_items(
    items: Pairs, batches: Iterable[list[int]], workers: int
) -> Iterator[ReadBatch]:
    """Read batches of items, ahead of their use if there are workers.

    A dataset with random draws from torch draws the same numbers at every reading by
    workers. Nothing is drawn from the global generator of this process.

    Raises:
        DataError: an item cannot be read.
    """
    loader: Iterable[ReadBatch | DataError] = DataLoader(
        _Reported(items),
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=_collated,
        worker_init_fn=_outlive_signals,
        generator=generator_for(0, "reading"),
    )
    for batch in loader:
        if isinstance(batch, DataError):
            raise batch
        yield batch


def _collated(read: list[tuple[Tensor, int] | DataError]) -> ReadBatch | DataError:
    """Return a batch with its images in one tensor, or its first error.

    Each tensor that a worker hands over takes a file descriptor, and a process may have
    only 1,024 of them.
    """
    images, labels = [], []
    for item in read:
        if isinstance(item, DataError):
            return item
        images.append(item[0])
        labels.append(item[1])
    alike = len({(image.shape, image.dtype) for image in images}) == 1
    return (torch.stack(images) if alike else images), labels


def _outlive_signals(worker: int) -> None:
    """Keep a worker alive when all processes of a run get a signal at once.

    The run needs the worker until its checkpoint is written, and then ends it. Where
    the system names the sender of a signal (not on macOS), only the SIGTERM of its own
    run ends a worker.
    """
    del worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if not hasattr(signal, "sigwaitinfo"):
        return
    run = os.getppid()

    def end_with_the_run() -> None:
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != run:
            pass
        os._exit(0)

    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=end_with_the_run, daemon=True).start()


class StreamedImages:
    """Images in a dataset, indexed like a tensor.

    It has the length and the shape of a tensor of all images; indexing by a slice or by
    a tensor of indices reads those images.

    Args:
        items: the dataset of the images, all of one shape and dtype.
        image_shape: channels, height and width.
        numbers: int64, the index of each image in ``items``, in order.
        workers: processes for reading batches ahead; 0 for none.
    """

    def __init__(
        self,
        items: Pairs,
        image_shape: tuple[int, ...],
        numbers: Tensor,
        *,
        workers: int,
    ) -> None:
        self._items = items
        self._numbers = numbers
        self._workers = workers
        self.shape = torch.Size((len(numbers), *image_shape))

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, chosen: slice | Tensor) -> Tensor:
        numbers = self._numbers[chosen]
        workers = self._workers if len(numbers) > _WORTH_WORKERS else 0
        parts = [part.tolist() for part in torch.split(numbers, _PART)]
        read = [
            self._whole(images) for images, _ in read_items(self._items, parts, workers)
        ]
        return torch.cat(read) if read else torch.empty((0, *self.shape[1:]))

    def numel(self) -> int:
        """Return the number of values in all images."""
        return self.shape.numel()

    def select(self, chosen: Tensor) -> "StreamedImages":
        """Select images by index, without reading them."""
        return StreamedImages(
            self._items,
            tuple(self.shape[1:]),
            self._numbers[chosen],
            workers=self._workers,
        )

    def joined(self, others: "StreamedImages") -> "StreamedImages":
        """Append other images of the same dataset, without reading them."""
        numbers = torch.cat([self._numbers, others._numbers])
        shape = tuple(self.shape[1:])
        return StreamedImages(self._items, shape, numbers, workers=self._workers)

    def batches(self, draws: Iterable[Tensor]) -> Iterator[Tensor]:
        """Read batch after batch, ahead of their use if there are workers.

        Args:
            draws: the indices of each batch's images, int64.
        """
        numbers = (self._numbers[draw].tolist() for draw in draws)
        for images, _ in read_items(self._items, numbers, self._workers):
            yield self._whole(images)

    def _whole(self, images: Tensor | list[Tensor]) -> Tensor:
        """Return images of a batch, all of one shape and dtype."""
        if isinstance(images, Tensor):
            return images
        found = {f"{image.dtype} of {tuple(image.shape)}" for image in images}
        raise DataError(
            f"images must be the same at every reading, of {tuple(self.shape[1:])}, "
            f"got {', '.join(sorted(found))}; leave random transforms out"
        )


ImageSource = Tensor | StreamedImages
"""Images in memory, or images read on access."""


def length_of_chunks(shape: torch.Size, most: int) -> int:
    """Return how many images are read or mapped at a time: fewer if they are large.

    Args:
        shape: the shape of all images.
        most: the largest number, for images of up to 3x64x64.
    """
    return max(1, min(most, _VALUES // shape[1:].numel()))


def chunks(images: ImageSource, most: int) -> Iterable[Tensor]:
    """Return the images in order, ``most`` at a time, or fewer if they are large."""
    size = length_of_chunks(images.shape, most)
    if isinstance(images, Tensor):
        return torch.split(images, size)
    return images.batches(torch.split(torch.arange(len(images)), size))
