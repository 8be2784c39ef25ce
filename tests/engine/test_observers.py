"""What observers write."""

import json
import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import dd_plugins
from dd_plugins import hookimpl
from dd_plugins.engine.observers import MetricsLog, ProgressDisplay
from dd_plugins.errors import DDWarning
from dd_plugins.networks.mlp import MLP
from dd_plugins.plugins.manager import Plugins
from dd_plugins.run import Run, Task
from dd_plugins.runtime.signals import DeferredInterrupt
from dd_plugins.testing import toy_data

SMALL: dict[str, Any] = {"network": "conv(width=4, depth=2)", "steps": 4}


def test_metric_of_some_steps_stands_in_the_next_line(tmp_path: Path) -> None:
    task = Task("toy", (1, 8, 8), 2, 1)
    cpu = torch.device("cpu")
    run = Run(task, "metadd(frepo)", MLP(), 1000, 0, cpu, out=tmp_path)
    log = MetricsLog()
    log.dd_before_run(run, 0)
    for step in range(1, 101):
        metrics = {"loss": 1.0 / step}
        if step % 8 == 1:  # never one of the steps that are logged
            metrics["meta_ratio"] = step / 100
        log.dd_after_step(run, step, metrics)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    rows = {row["step"]: row for row in map(json.loads, lines)}
    assert list(rows) == list(range(2, 101, 2))
    assert all(row["loss"] == 1.0 / step for step, row in rows.items())
    ratios = {s: row["meta_ratio"] for s, row in rows.items() if "meta_ratio" in row}
    assert ratios == {step + 1: step / 100 for step in range(1, 101, 8)}


@pytest.mark.parametrize("first_step", [0, 20])
def test_time_left_includes_the_measurements_to_come(
    first_step: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr("dd_plugins.runtime.progress._LINE_SECONDS", 0.0)
    run = Run(
        *(Task("toy", (1, 8, 8), 2, 1), "dm", MLP(), 200, 0, torch.device("cpu")),
        progress=True,
        validation_steps=(10, 50, 100, 150, 200),
    )
    seconds = {step: 0.2 + 4.0 * (step in run.validation_steps) for step in range(201)}
    display = ProgressDisplay()
    display.dd_before_run(run, first_step)
    now[0] += 30.0  # libraries are set up in the first step
    for step in range(first_step + 1, run.steps):
        now[0] += seconds[step]
        display.dd_after_step(run, step, {"loss": 1.0})
    display.dd_after_run(run)
    shown = re.findall(r"step (\d+) of 200, .*, (\d+) s left", capsys.readouterr().err)
    knows = 50 if first_step else 10  # from the first measurement on
    late = [(int(step), float(left)) for step, left in shown if int(step) > knows]
    assert len(late) > 100  # those under a minute are given in seconds
    for step, left in late:
        assert left == pytest.approx(sum(list(seconds.values())[step + 1 :]), abs=0.6)


class Failing:
    """An observer that fails in one hook, and counts what it is told."""

    def __init__(self, hook: str, error: BaseException) -> None:
        self.hook, self.error = hook, error
        self.told: list[str] = []

    def _note(self, hook: str) -> None:
        self.told.append(hook)
        if hook == self.hook:
            raise self.error

    @hookimpl
    def dd_before_run(self) -> None:
        self._note("before")

    @hookimpl
    def dd_after_step(self, metrics: dict[str, float]) -> None:
        metrics.clear()
        self._note("step")

    @hookimpl
    def dd_after_run(self) -> None:
        self._note("after")


@pytest.mark.parametrize(
    ("hook", "error", "told"),
    [
        ("before", ValueError("two\nlines"), ["before", "after"]),
        ("step", OSError(28, "No space left on device"), ["before", "step", "after"]),
        ("step", SystemExit(3), ["before", "step", "after"]),
        ("after", MemoryError(), ["before", *["step"] * 4, "after"]),
    ],
)
def test_a_run_outlives_an_observer_and_names_it(
    tmp_path: Path, hook: str, error: BaseException, told: list[str]
) -> None:
    failing, other = Failing(hook, error), Failing("none", error)
    plugins = Plugins(load=[], extra={"stranger": failing, "other": other})
    plain = dd_plugins.distill(toy_data(validation=0), "dm", **SMALL)
    with pytest.warns(DDWarning) as warned:
        made = dd_plugins.distill(
            toy_data(validation=0), "dm", out=tmp_path, plugins=plugins, **SMALL
        )
    assert made.content_hash() == plain.content_hash()
    assert failing.told == told
    assert len(other.told) == 6
    assert (tmp_path / "checkpoint.pt").exists()
    messages = [str(each.message) for each in warned]
    assert len(messages) == 2
    assert all("stranger" in each and each.isprintable() for each in messages)
    steps = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert len(steps) == 4


def test_a_log_that_cannot_be_written_does_not_end_the_run(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.warns(DDWarning, match="metrics_log"):
        dd_plugins.distill(toy_data(validation=0), "dm", out=tmp_path, **SMALL)
    assert (tmp_path / "distilled.safetensors").exists()
    assert list((tmp_path / "metrics.jsonl").iterdir()) == []


def test_a_picture_that_cannot_be_drawn_does_not_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*given: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("dd_plugins.synthetic.pictures.save_grid", full)
    with pytest.warns(DDWarning, match="image_snapshots"):
        dd_plugins.distill(toy_data(validation=0), "dm", out=tmp_path, **SMALL)
    assert (tmp_path / "distilled.safetensors").exists()


def test_a_validation_that_fails_does_not_end_the_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*given: object, **options: object) -> None:
        raise IndexError("no such figure")

    monkeypatch.setattr("dd_plugins.engine.validation.accuracy", fail)
    with pytest.warns(DDWarning, match="no validation accuracy .* no such figure"):
        dd_plugins.distill(toy_data(), "dm", **SMALL)


@pytest.mark.parametrize(
    "spoilt",
    [b"\xff\xfe\x80", b"\0" * 40, b'{"step": 3', b"[" * 10_000, b'{"step":NaN}'],
)
def test_a_spoilt_log_is_gone_on_with(tmp_path: Path, spoilt: bytes) -> None:
    log = tmp_path / "metrics.jsonl"
    dd_plugins.distill(toy_data(validation=0), "dm", out=tmp_path, **SMALL)
    before = log.read_bytes()
    log.write_bytes(before + spoilt)
    dd_plugins.distill(toy_data(validation=0), "dm", out=tmp_path, resume=True, **SMALL)
    assert log.read_bytes() == before


def test_a_hang_up_waits_as_an_interruption_does() -> None:
    with DeferredInterrupt() as interrupt:
        os.kill(os.getpid(), signal.SIGHUP)
        assert interrupt.requested
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with DeferredInterrupt() as interrupt:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not interrupt.requested
    finally:
        signal.signal(signal.SIGHUP, before)
