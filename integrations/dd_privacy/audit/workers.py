"""Processes for making runs in parallel."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

import torch

from dd_plugins.api import RunError
from dd_privacy.audit.mechanisms.base import AbstractMechanism

__all__ = ["Job", "Make", "run_in_parallel", "threads_of_a_worker"]

Job = tuple[AbstractMechanism, int]
"""A mechanism, and the number of its run."""

Make = Callable[[AbstractMechanism, int], Path]
"""Makes a run, and returns its folder."""

_PATIENCE = 15.0  # seconds for a stopped run to write its checkpoint
_IMPORTED_LATER = ("torch._dynamo",)  # by the first optimizer, which takes seconds


def run_in_parallel(
    make: Make, jobs: Sequence[Job], processes: int
) -> Iterator[tuple[Job, Path]]:
    """Make runs in several processes; yield each run when it is finished.

    Args:
        make: makes one run. Each process receives it once, with everything it refers
            to.
        jobs: the runs.
        processes: the number of processes; they share the cores.

    Raises:
        RunError: a process was killed.
    """
    context = _context()
    alive, held = context.Pipe(duplex=False)
    executor = ProcessPoolExecutor(
        processes,
        mp_context=context,
        initializer=_prepare,
        initargs=(make, _threads(processes), alive, dict(os.environ)),
    )
    try:
        futures = {executor.submit(_make, *job): job for job in jobs}
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BaseException as error:
        held.close()  # stops the runs in progress
        if not isinstance(error, BrokenProcessPool):
            raise
        raise RunError(
            "a process that made runs was killed, perhaps for lack of memory; "
            "finished runs are kept: repeat the command, with fewer processes if "
            "memory was short"
        ) from error
    finally:
        executor.shutdown(cancel_futures=True)
        held.close()
        alive.close()


@contextmanager
def threads_of_a_worker(processes: int) -> Iterator[None]:
    """Use as many threads as each of several processes would get."""
    before = torch.get_num_threads()
    torch.set_num_threads(_threads(processes))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _threads(processes: int) -> int:
    return max(1, torch.get_num_threads() // processes)


def _context() -> BaseContext:
    """Return how processes start: forked, where it can be, from one with torch.

    A process forked from this one could hang: the threads of torch are not forked.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, *_IMPORTED_LATER])
    return context


_worker: dict[str, Any] = {}


def _prepare(
    make: Make, threads: int, alive: Connection, environment: Mapping[str, str]
) -> None:
    """Set up a process; the examples are sent to it once, not with each run."""
    os.environ.clear()  # its variables may be those of an earlier audit
    os.environ.update(environment)
    _worker["ending"] = False
    threading.Thread(target=_end_with_parent, args=(alive,), daemon=True).start()
    torch.set_num_threads(threads)
    _worker["make"] = make


def _end_with_parent(alive: Connection) -> None:
    """End this process when its audit stops or is killed.

    On the signal a distillation writes a checkpoint; longer work is abandoned.

    Args:
        alive: one end of a pipe; the audit alone holds the other end.
    """
    with suppress(EOFError, OSError):
        alive.recv()  # nothing is ever sent: it returns when the pipe closes
    _worker["ending"] = True
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_PATIENCE)
    os._exit(1)


def _make(mechanism: AbstractMechanism, run: int) -> Path:
    """Make a run in this process; return its folder, by the key of the code here."""
    make: Make = _worker["make"]
    try:
        return make(mechanism, run)
    finally:
        if _worker["ending"]:  # no other run starts
            os._exit(1)
