"""Interruptions wait for somebody to look; hang-ups stand in test_observers.py."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest

from dd_plugins.runtime.signals import DeferredInterrupt

NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def handlers() -> list[object]:
    return [signal.getsignal(number) for number in NUMBERS]


@pytest.fixture(autouse=True)
def unchanged() -> Iterator[None]:
    """Hold each test to leaving the handlers as they were."""
    before = handlers()
    yield
    after = handlers()
    for number, handler in zip(NUMBERS, before, strict=True):
        signal.signal(number, handler)  # type: ignore[arg-type]
    assert after == before


@pytest.mark.parametrize("first", NUMBERS)
@pytest.mark.parametrize("second", NUMBERS)
def test_the_first_signal_waits_and_the_second_interrupts(
    first: signal.Signals, second: signal.Signals
) -> None:
    with DeferredInterrupt() as interrupt:
        assert not interrupt.requested
        os.kill(os.getpid(), first)
        assert interrupt.requested
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), second)
    assert interrupt.requested


def test_handlers_are_put_back_whatever_ends_the_block() -> None:
    def own(number: int, frame: object) -> None:
        seen.append(number)

    seen: list[int] = []
    before = signal.signal(signal.SIGTERM, own)
    try:
        with suppress(ZeroDivisionError), DeferredInterrupt():
            os.kill(os.getpid(), signal.SIGTERM)
            raise ZeroDivisionError
        assert seen == []
        os.kill(os.getpid(), signal.SIGTERM)
        assert seen == [signal.SIGTERM]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGTERM, before)


def test_blocks_within_each_other_each_hear_their_own() -> None:
    with DeferredInterrupt() as outer:
        with DeferredInterrupt() as inner:
            signal.raise_signal(signal.SIGINT)
        assert (outer.requested, inner.requested) == (False, True)
        signal.raise_signal(signal.SIGINT)
        assert outer.requested


def test_nothing_changes_outside_of_the_main_thread() -> None:
    found: list[object] = []

    def elsewhere() -> None:
        with DeferredInterrupt() as interrupt:
            found.append(handlers())
            found.append(interrupt.requested)

    thread = threading.Thread(target=elsewhere)
    before = handlers()
    thread.start()
    thread.join()
    assert found == [before, False]
