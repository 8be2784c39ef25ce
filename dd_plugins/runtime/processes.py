"""Communication between the processes of a run or an evaluation under torchrun.

A process started without ``torchrun`` is a group of one: every function here returns at
once.
"""

import gc
import importlib
import io
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from dd_plugins.errors import LostProcessError, OptionError

__all__ = [
    "average",
    "broadcast",
    "broadcast_object",
    "check_alone",
    "check_joined",
    "gather_objects",
    "gather_to_first",
    "local_rank",
    "local_world_size",
    "lost_processes_reported",
    "process_group",
    "rank",
    "waiting_for_all",
    "world_size",
]

_PATIENCE = timedelta(days=30)

Value = TypeVar("Value")


@contextmanager
def process_group() -> Iterator[None]:
    """Join the processes of ``torchrun``, and leave them at the end.

    Tensors on a GPU are sent by NCCL, all others by gloo. Each process takes the GPU of
    its local rank. Without torchrun, or inside an existing group, nothing happens. A
    script for torchrun needs one such block around all its calls: the processes cannot
    join a second time.

    Example::

        with process_group():
            distilled = dd_plugins.distill("cifar10", out="runs/cifar10")
            found = dd_plugins.evaluate(distilled, "conv")

    When a process dies, torchrun sends SIGTERM to the others at once. The signal is
    ignored in this block, and after an error, so they can report the error; the loop of
    a run has a handler of its own.
    """
    if not _has_not_joined():
        yield
        return
    # Imported before the group exists: its functions keep the group of that moment as
    # their default, and torch would import it at the first step of an optimizer.
    importlib.import_module("torch.distributed.nn.functional")
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(local_rank())
    dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo")
    previous = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        yield
    except BaseException:
        if not on_gpu:  # NCCL would wait for the processes that are gone
            _leave()
        raise
    _leave()
    signal.signal(signal.SIGTERM, previous)


def _has_not_joined() -> bool:
    """Tell whether torchrun started this process and others, and it has not joined."""
    return _processes_started() > 1 and not dist.is_initialized()


def _processes_started() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def check_joined(function: str) -> None:
    """Refuse a function that each process of torchrun would do as a whole.

    Args:
        function: the name of the function, and of its command.

    Raises:
        OptionError: torchrun started several processes, and this one has not joined
            them by :func:`process_group`.
    """
    if _has_not_joined():
        raise OptionError(
            f"{function}: each of the {_processes_started()} processes of torchrun "
            "would do all the work; call it in a block of "
            "dd_plugins.api.process_group(), or run "
            f"`torchrun ... -m dd_plugins {function}`"
        )


def check_alone(function: str) -> None:
    """Refuse a function that several processes cannot share.

    Args:
        function: the name of the function, or of its command.

    Raises:
        OptionError: torchrun started several processes.
    """
    if _processes_started() > 1:
        raise OptionError(
            f"{function} works in one process, got {_processes_started()}: start it "
            "without torchrun"
        )


def _leave() -> None:
    dist.destroy_process_group()
    # What still refers to the group in a cycle would be freed while the interpreter is
    # torn down, where the threads of gloo abort the process.
    gc.collect()


def rank() -> int:
    """Return the number of this process, from 0; process 0 reports and writes."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def local_rank() -> int:
    """Return the number of this process on its machine, from 0."""
    return int(os.environ.get("LOCAL_RANK", rank()))


def local_world_size() -> int:
    """Return the number of processes on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", world_size()))


@contextmanager
def lost_processes_reported() -> Iterator[None]:
    """Turn the errors of torch about a lost process into one clear error.

    Raises:
        LostProcessError: another process died, or stopped with an error.
    """
    try:
        yield
    except dist.DistError as error:
        raise _lost(error) from error
    except RuntimeError as error:
        if world_size() > 1:  # gloo raises plain RuntimeError
            raise _lost(error) from error
        raise


def _lost(error: Exception) -> LostProcessError:
    first_line = str(error).strip().splitlines()[0]
    return LostProcessError(
        "another process of this run died or stopped with an error of its own "
        f"({first_line})"
    )


@contextmanager
def waiting_for_all() -> Iterator[None]:
    """Wait at the end of this block until every process has come to it.

    Other collective calls give up after half an hour. This one does not: processes may
    train networks in the block, each its own.

    Raises:
        LostProcessError: another process is gone.
    """
    if world_size() == 1:
        yield
        return
    group = cast(dist.ProcessGroup, dist.new_group(backend="gloo", timeout=_PATIENCE))
    yield
    with lost_processes_reported():
        dist.barrier(group)
    dist.destroy_process_group(group)


def average(tensors: list[Tensor]) -> list[Tensor]:
    """Return the means over all processes, the same in each of them.

    Args:
        tensors: floating tensors on one device, of the same shapes in every process.

    Raises:
        LostProcessError: another process is gone.
    """
    if world_size() == 1:
        return tensors
    flat = torch.cat([tensor.detach().float().flatten() for tensor in tensors])
    with lost_processes_reported():
        dist.all_reduce(flat)
    flat /= world_size()
    parts = torch.split(flat, [tensor.numel() for tensor in tensors])
    return [
        part.view(tensor.shape).to(tensor.dtype)
        for part, tensor in zip(parts, tensors, strict=True)
    ]


def broadcast(tensors: list[Tensor]) -> None:
    """Overwrite tensors with those of process 0."""
    if world_size() == 1:
        return
    with lost_processes_reported():
        for tensor in tensors:
            sent = tensor.contiguous()
            dist.broadcast(sent, src=0)
            tensor.copy_(sent)


def broadcast_object(value: Value) -> Value:
    """Return the value of process 0; it is pickled between our own processes only."""
    if world_size() == 1:
        return value
    box = [value]
    with lost_processes_reported():
        dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
    return box[0]


def gather_objects(value: Any) -> list[Any]:
    """Return the values of all processes, by rank, to each of them.

    They are pickled between our own processes only.
    """
    if world_size() == 1:
        return [value]
    found: list[Any] = [None] * world_size()
    with lost_processes_reported():
        dist.all_gather_object(found, value)
    return found


def gather_to_first(value: Any) -> list[Any] | None:
    """Return the values of all processes, by rank, to process 0; None to the others.

    With several processes tensors arrive on the CPU: none takes memory on another
    process's GPU.

    Args:
        value: tensors, numbers, strings, and lists, tuples and dicts of them.
    """
    if world_size() == 1:
        return [value]
    packed = io.BytesIO()
    torch.save(value, packed)
    parts: list[bytes] | None = [b""] * world_size() if rank() == 0 else None
    with lost_processes_reported():
        dist.gather_object(packed.getvalue(), parts)
    return parts and [torch.load(io.BytesIO(part), "cpu") for part in parts]
