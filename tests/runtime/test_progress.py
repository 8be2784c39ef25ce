"""The time left is that of the mean speed, in every form of the display."""

import io

import pytest
from rich.progress import Progress

from dd_plugins.runtime import progress
from dd_plugins.runtime.progress import ProgressShown, part_of, shown_progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Let a list hold the time."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_lines_come_every_ten_seconds_and_at_the_end(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with shown_progress("begun") as shown:
        for step in range(1, 41):
            clock[0] += 1
            shown.update(f"step {step}", step, 40)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "step 10: 25 %, 30 s left",
        "step 20: 50 %, 20 s left",
        "step 30: 75 %, 10 s left",
        "step 40: 100 %",
    ]


def test_what_was_done_before_costs_no_time(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    shown = ProgressShown(None)
    shown.update("resumed", 60, 100)
    clock[0] += 20
    shown.update("resumed", 70, 100)
    assert "60 s left" in capsys.readouterr().err


def test_a_narrow_terminal_keeps_share_and_time_left(clock: list[float]) -> None:
    screen = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "rich.console.Console.file", property(lambda self: screen), raising=False
        )
        patch.setenv("FORCE_COLOR", "1")
        patch.setenv("COLUMNS", "40")
        with shown_progress("begun") as shown:
            assert isinstance(shown._progress, Progress)
            shown.update("a long tale of what is trained, on what, and how", 0, 100)
            clock[0] += 30
            shown.update("a long tale of what is trained, on what, and how", 50, 100)
            shown._progress.refresh()
    assert "50%" in screen.getvalue()
    assert "30 s left" in screen.getvalue()


def test_steps_are_told_as_a_part_of_the_work() -> None:
    told: list[tuple[str, float, float]] = []
    on_step = part_of(lambda *given: told.append(given), "second", 10, 30, each=2)
    for done in (1, 2):
        on_step(done)
    assert told == [("second", 12, 30), ("second", 14, 30)]
    part_of(None, "nobody listens", 0, 1)(1)
