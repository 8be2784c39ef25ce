"""How often to do something costly during a run."""

import time

__all__ = ["Pace"]

_PAUSE = 10  # times as long as the last turn took


class Pace:
    """Times the turns of a costly task, so they take a tenth of all time at most.

    Args:
        seconds: the shortest time from one turn to the next.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._due = time.monotonic() + seconds
        self._started = 0.0

    def begins(self) -> bool:
        """Tell whether a turn is due; it begins now, and ends with :meth:`ended`."""
        self._started = time.monotonic()
        return self._started >= self._due

    def ended(self) -> None:
        """Set the time of the next turn."""
        now = time.monotonic()
        self._due = now + max(self._seconds, _PAUSE * (now - self._started))
