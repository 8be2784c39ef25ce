"""How often a run is passed on."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch

from dd_plugins import DistilledSet, distill
from dd_plugins.networks.mlp import MLP
from dd_plugins.run import Run, Task
from dd_plugins.testing import toy_data
from dd_plugins.tracking.pacing import PacedObservation


class Noted(PacedObservation):
    """An observation that notes what it passes on."""

    def __init__(self, steps: int) -> None:
        task = Task("toy", (1, 8, 8), 2, 1)
        super().__init__(Run(task, "dm", MLP(), steps, 0, torch.device("cpu")), 0)
        self.settings: list[dict[str, Any]] = []
        self.figures: dict[int, dict[str, float]] = {}
        self.pictures: list[int] = []

    def write_settings(self, settings: dict[str, Any]) -> None:
        self.settings.append(settings)

    def write_figures(self, step: int, figures: Mapping[str, float]) -> None:
        self.figures[step] = dict(figures)

    def write_picture(self, step: int, png: bytes) -> None:
        assert png.startswith(b"\x89PNG")
        self.pictures.append(step)


@pytest.fixture(scope="module")
def made() -> DistilledSet:
    return distill(toy_data(), "dm", network="mlp(width=4)", steps=1, device="cpu")


def test_a_long_run_has_a_thousand_points_and_loses_no_figure(
    made: DistilledSet,
) -> None:
    noted = Noted(steps=10_000)
    for step in range(1, 10_001):
        metrics = {"loss": 1 / step}
        if step % 1_000 == 1:  # never one of the steps that are due
            metrics["seen"] = float(step)
        noted.after_step(step, metrics, lambda: made)
    assert list(noted.figures) == list(range(10, 10_001, 10))
    assert noted.figures[10] == {"loss": 1 / 10, "seen": 1.0}
    assert noted.figures[20] == {"loss": 1 / 20}
    assert len(noted.settings) == 1
    assert noted.settings[0]["distiller"] == made.header.distiller
    assert all(
        isinstance(value, str | int | float) for value in noted.settings[0].values()
    )


def test_a_validation_accuracy_is_passed_on_at_its_step(made: DistilledSet) -> None:
    noted = Noted(steps=10_000)
    for step in range(1, 8):
        metrics = {"loss": 1.0} | ({"validation_accuracy": 0.5} if step == 7 else {})
        noted.after_step(step, metrics, lambda: made)
    assert noted.figures == {7: {"loss": 1.0, "validation_accuracy": 0.5}}


def test_a_run_that_stops_loses_no_figure(made: DistilledSet) -> None:
    noted = Noted(steps=10_000)
    for step in range(1, 18):
        noted.after_step(step, {"loss": float(step)}, lambda: made)
    noted.after_run(None)
    assert noted.figures == {10: {"loss": 10.0}, 17: {"loss": 17.0}}


def test_a_picture_comes_once_a_minute_and_at_the_end(
    made: DistilledSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr("dd_plugins.runtime.pacing.time.monotonic", lambda: now)
    noted = Noted(steps=200)
    for step in range(1, 200):
        now = float(step)
        noted.after_step(step, {"loss": 1.0}, lambda: made)
    noted.after_run(made)
    assert noted.pictures == [60, 120, 180, 199]
    noted.after_run(None)
    assert len(noted.pictures) == 4
