"""Images that stay in a map-style dataset, and are read when they are needed."""

import math
import operator
import os
import signal
import threading
from collections.abc import Iterable, Iterator, Mapping, Sized
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from dd_plugins.errors import DataError
from dd_plugins.pixels import Axes, channels_first
from dd_plugins.randomness import derive

__all__ = ["ImageSource", "Items", "StreamedImages", "chunks", "fits_in_memory"]

_PART = 64  # images that are read at a time
_WORTH_WORKERS = 4_096  # images: for fewer, starting workers takes longer than reading
_IMAGE_KEYS = ("image", "img", "pixel_values")
_LABEL_KEYS = ("label", "labels", "target", "class")


class Items(Dataset[tuple[Tensor, int]]):
    """The ``(image, label)`` pairs of a map-style dataset, checked one by one.

    Args:
        dataset: images are tensors, PIL images or arrays; labels are whole numbers, or
            arrays of one. An item may be a mapping with an image under ``image``,
            ``img`` or ``pixel_values`` and a label under ``label``, ``labels``,
            ``target`` or ``class``.
        channels: where the channels of arrays and tensors stand; by default told by
            their sizes (see :func:`~dd_plugins.pixels.channels_first`).

    Raises:
        DataError: the dataset has no length, is empty, or an item is not such a pair.
    """

    def __init__(self, dataset: Dataset[Any], channels: Axes | None = None) -> None:
        if isinstance(dataset, IterableDataset) or not isinstance(dataset, Sized):
            raise DataError(
                "expected a map-style dataset with a length; collect a stream first"
            )
        if len(dataset) == 0:
            raise DataError("the dataset is empty")
        self._dataset = dataset
        self._channels = channels

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        try:
            item = self._dataset[index]
        except DataError:
            raise
        except Exception as error:  # a stranger's dataset may do anything
            raise DataError(
                f"item {index} cannot be read: {type(error).__name__}: "
                f"{' '.join(str(error).split())}"
            ) from error
        not_a_pair = f"item {index} is not an (image, label) pair with an integer label"
        try:
            image, label = _pair(item)
            number = _number(label)
        except DataError as error:
            raise DataError(f"{not_a_pair}: {error}") from error
        try:
            return channels_first(image, self._channels), number
        except DataError as error:
            raise DataError(f"image {index} {error}") from error
        except Exception as error:
            raise DataError(
                f"{not_a_pair}: its image is a {type(image).__name__}, expected a "
                f"tensor, an array or a PIL image ({' '.join(str(error).split())})"
            ) from error


def _pair(item: Any) -> tuple[Any, Any]:
    """Return image and label of an item."""
    if isinstance(item, Mapping):
        found = [
            next((item[key] for key in keys if key in item), None)
            for keys in (_IMAGE_KEYS, _LABEL_KEYS)
        ]
        if any(each is None for each in found):
            raise DataError(
                f"it is a dict with keys {', '.join(map(str, item))}; expected an "
                f"image under {', '.join(_IMAGE_KEYS)} and a label under "
                f"{', '.join(_LABEL_KEYS)}"
            )
        return found[0], found[1]
    if not isinstance(item, tuple | list):
        raise DataError(f"it is a {type(item).__name__}")
    if len(item) != 2:
        raise DataError(f"it is a {type(item).__name__} of {len(item)}")
    return item[0], item[1]


def _number(label: Any) -> int:
    """Return a label as a number, also one in an array of one element."""
    shape = tuple(getattr(label, "shape", ()))
    if math.prod(shape) != 1:
        raise DataError(
            f"its label has shape {shape}; one label an image is expected, and "
            "multi-label data are not supported"
        )
    try:
        number = operator.index(label.item() if shape else label)
    except TypeError as error:
        raise DataError(f"its label is a {type(label).__name__}") from error
    if abs(number) >= 2**63:
        raise DataError(f"its label {number} is too large")
    return number


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
        workers = self._workers if len(numbers) > _WORTH_WORKERS else 0
        parts = [part.tolist() for part in torch.split(numbers, _PART)]
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
    """Tell whether so many bytes are less than half of the memory of this process.

    That of the machine, or what a container or a batch system allows, if it is less.
    """
    return size < _memory() / 2


def _memory() -> float:
    """Return how many bytes this process may have; infinite if nothing tells."""
    found = [math.inf]
    with suppress(AttributeError, ValueError, OSError):  # not asked on this system
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    with suppress(ImportError, OSError, ValueError):
        import resource  # not on Windows

        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        if limit != resource.RLIM_INFINITY:
            found.append(limit)
    groups = ["memory/memory.limit_in_bytes", "memory.max"]  # version 1, and a root
    with suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            number, kinds, own = line.split(":", 2)
            if number == "0":
                parts = Path(own.lstrip("/"))
                groups += [f"{part}/memory.max" for part in (parts, *parts.parents)]
            elif "memory" in kinds.split(","):
                groups.append(f"memory/{own.lstrip('/')}/memory.limit_in_bytes")
    for group in groups:
        with suppress(OSError, ValueError):  # "max" is no limit
            found.append(int((Path("/sys/fs/cgroup") / group).read_text()))
    return min(found)
