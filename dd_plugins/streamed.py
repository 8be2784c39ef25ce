"""Images that stay in a map-style dataset, and are read when they are needed."""

import operator
import os
import signal
import threading
from collections.abc import Iterable, Iterator, Sized
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from dd_plugins.errors import DataError
from dd_plugins.randomness import derive

__all__ = ["ImageSource", "Items", "StreamedImages", "chunks", "fits_in_memory"]

_FEW = 64  # images that are read without starting workers


class Items(Dataset[tuple[Tensor, int]]):
    """The ``(image, label)`` pairs of a map-style dataset, checked one by one.

    Args:
        dataset: images are tensors, PIL images or arrays; labels integers.

    Raises:
        DataError: the dataset has no length, is empty, or an item is not such a pair.
    """

    def __init__(self, dataset: Dataset[Any]) -> None:
        if isinstance(dataset, IterableDataset) or not isinstance(dataset, Sized):
            raise DataError(
                "expected a map-style dataset with a length; collect a stream first"
            )
        if len(dataset) == 0:
            raise DataError("the dataset is empty")
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        try:
            image, label = self._dataset[index]
            number = torch.tensor(operator.index(label), dtype=torch.int64)
            return _as_image(image, index), int(number)
        except DataError:
            raise
        except (TypeError, ValueError, KeyError, RuntimeError) as error:
            raise DataError(
                f"item {index} is not an (image, label) pair with an integer label: "
                f"{' '.join(str(error).split())}"
            ) from error


class _Reported(Dataset[tuple[Tensor, int] | DataError]):
    """Items whose errors are values: they cross from a worker in one line."""

    def __init__(self, items: Items) -> None:
        self._items = items

    def __getitem__(self, index: int) -> tuple[Tensor, int] | DataError:
        try:
            return self._items[index]
        except DataError as error:
            return error


def read_items(
    items: Items, batches: Iterable[list[int]], workers: int
) -> Iterator[list[tuple[Tensor, int]]]:
    """Read batches of items, ahead of their use if there are workers.

    A data set that draws random numbers from torch draws the same ones in every reading
    by workers; nothing is drawn from the global generator of this process.

    Raises:
        DataError: an item cannot be read.
    """
    loader: Iterable[list[tuple[Tensor, int] | DataError]] = DataLoader(
        _Reported(items),
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=list,
        worker_init_fn=_outlive_signals,
        generator=derive(0, "reading"),
    )
    for batch in loader:
        read = []
        for item in batch:
            if isinstance(item, DataError):
                raise item
            read.append(item)
        yield read


def _outlive_signals(worker: int) -> None:
    """Let a worker go on when all processes of a run are told to stop at once.

    The run needs it until its checkpoint is written, and then ends it: only the SIGTERM
    of its own run ends a worker, where the system tells who sent it (not on macOS).
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
    """Images that are read by their numbers: what a tensor of them would give.

    It has the length and the shape of that tensor, and indexing by a slice or by
    numbers reads those images.

    Args:
        items: where they are read; all images are of one shape and dtype.
        image_shape: channels, height and width.
        numbers: int64, the items that belong to it, in order.
        workers: processes that read batches ahead; 0 for none.
    """

    def __init__(
        self,
        items: Items,
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
        workers = self._workers if len(numbers) > _FEW else 0
        parts = [part.tolist() for part in torch.split(numbers, _FEW)]
        read = [
            image
            for batch in read_items(self._items, parts, workers)
            for image, _ in batch
        ]
        return torch.stack(read) if read else torch.empty((0, *self.shape[1:]))

    def numel(self) -> int:
        """Return the number of values of all images."""
        return self.shape.numel()

    def select(self, chosen: Tensor) -> "StreamedImages":
        """Return some of the images, without reading them."""
        return StreamedImages(
            self._items,
            tuple(self.shape[1:]),
            self._numbers[chosen],
            workers=self._workers,
        )

    def batches(self, draws: Iterable[Tensor]) -> Iterator[Tensor]:
        """Read batch after batch, ahead of their use if there are workers.

        Args:
            draws: the places of each batch's images, int64.
        """
        numbers = (self._numbers[draw].tolist() for draw in draws)
        for batch in read_items(self._items, numbers, self._workers):
            yield torch.stack([image for image, _ in batch])


ImageSource = Tensor | StreamedImages
"""Images in memory, or images that are read when they are needed."""


def chunks(images: ImageSource, size: int) -> Iterable[Tensor]:
    """Return the images in their order, so many at a time."""
    if isinstance(images, Tensor):
        return torch.split(images, size)
    return images.batches(torch.split(torch.arange(len(images)), size))


def fits_in_memory(size: float) -> bool:
    """Tell whether so many bytes are less than half of this machine's memory."""
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # no such question on this system
        return True
    return size < total / 2


def _as_image(image: Any, index: int) -> Tensor:
    """Return ``(channels, height, width)`` from a tensor, a PIL image or an array."""
    if isinstance(image, Tensor):
        tensor = image
    else:
        # PIL images and arrays put channels last.
        mode = getattr(image, "mode", None)
        if mode in ("1", "P"):  # a bitmap, or numbers of colours
            image = image.convert("L" if mode == "1" else "RGB")
        array = torch.from_numpy(np.array(image))
        tensor = array[None] if array.ndim == 2 else array.movedim(-1, 0)
    if tensor.is_floating_point():
        tensor = tensor.float()  # as they are kept in memory
    if tensor.ndim == 2:
        tensor = tensor[None]
    if tensor.ndim != 3:
        shape = tuple(tensor.shape)
        raise ValueError(f"image {index} has shape {shape}, expected 3 axes")
    return tensor
