"""Interruptions, deferred to the end of a step."""

import signal
import threading
from types import FrameType
from typing import Any, Self

__all__ = ["DeferredInterrupt"]

_DEFERRED = tuple(
    signal.Signals[name]
    for name in ("SIGINT", "SIGTERM", "SIGHUP")  # Windows has no SIGHUP
    if name in signal.Signals.__members__
)


class DeferredInterrupt:
    """Inside this block the first SIGINT, SIGTERM or SIGHUP only sets a flag.

    The step is finished first, and a checkpoint can be written. A second signal
    interrupts at once. An ignored SIGHUP, as under ``nohup``, stays ignored. Outside
    the main thread, where Python delivers no signals, nothing changes. At its end the
    block restores the previous handlers.

    Attributes:
        requested: whether a signal has come.
    """

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in _DEFERRED:
                if (
                    number.name == "SIGHUP"
                    and signal.getsignal(number) == signal.SIG_IGN
                ):
                    continue
                self._previous[number] = signal.signal(number, self._remember)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
