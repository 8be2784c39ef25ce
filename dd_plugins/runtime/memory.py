"""How much memory this process may use, and how much tensors and a graph take."""

import math
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

__all__ = [
    "bytes_of",
    "fits_in_memory",
    "fits_on",
    "graph_bytes",
    "memory_limit",
    "peak_memory",
    "room_on",
]


def bytes_of(found: Any) -> int:
    """Return the bytes of all tensors in nested mappings and sequences."""
    if isinstance(found, Tensor):
        return found.nbytes
    if isinstance(found, Mapping):
        return sum(map(bytes_of, found.values()))
    if isinstance(found, list | tuple):
        return sum(map(bytes_of, found))
    return 0


def fits_in_memory(size: float) -> bool:
    """Return whether a number of bytes is less than half of this process's memory.

    This is the memory of the machine, or the limit of a container or a batch system if
    it is lower.
    """
    return size < memory_limit() / 2


def fits_on(device: torch.device, size: float) -> bool:
    """Return whether half of a device's memory holds a number of bytes.

    On a GPU it is half of what is free; elsewhere see :func:`fits_in_memory`.
    """
    if device.type == "cuda":
        return size <= torch.cuda.mem_get_info(device)[0] / 2
    return fits_in_memory(size)


def room_on(device: torch.device) -> float:
    """Return how many bytes a computation on a device may take.

    On a GPU it is nine tenths of the free memory, elsewhere half of this process's
    memory.
    """
    if device.type == "cuda":
        return 0.9 * float(torch.cuda.mem_get_info(device)[0])
    return memory_limit() / 2


def peak_memory(device: torch.device) -> int:
    """Return the peak memory of this process so far, in bytes; 0 if unknown.

    On a GPU it is the memory reserved by torch.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    with suppress(ImportError):
        import resource  # not on Windows

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else 1024 * peak
    return 0


def graph_bytes(
    function: Callable[[], Tensor], *, without: Iterable[Tensor] = ()
) -> int:
    """Return the bytes in the graph of a result.

    They are the bytes of the tensors saved for its gradient, each counted once.

    Args:
        function: returns the result.
        without: tensors left out, such as the weights.
    """
    left_out = {each.untyped_storage().data_ptr() for each in without}
    held: dict[int, int] = {}

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        held[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # the tensor itself would hold the graph for ever

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        result = function()  # alive, so that no storage is used twice
    del result
    return sum(size for place, size in held.items() if place not in left_out)


def memory_limit() -> float:
    """Return how many bytes this process may use; infinite if it is not known."""
    found = [math.inf]
    with suppress(AttributeError, ValueError, OSError):  # not available on this system
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
