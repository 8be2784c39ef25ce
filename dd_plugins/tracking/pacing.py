"""How often a run is reported: enough to follow it, without slowing it down."""

import ast
import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

from dd_plugins.run import Run
from dd_plugins.runtime.pacing import Pace
from dd_plugins.synthetic.artifact import DistilledSet
from dd_plugins.synthetic.pictures import grid_png
from dd_plugins.tracking.base import Observation

__all__ = ["PacedObservation"]

_POINTS = 1_000  # of a curve, approximately
_PICTURE_SECONDS = 60.0

Setting = str | int | float | bool


class PacedObservation(Observation):
    """Reports settings once, figures about 1,000 times, a picture once a minute.

    A report has the latest value of each figure since the last report. Pictures take a
    tenth of a run's time at most; the last one shows the result.

    Args:
        run: the run.
        first_step: the step at which it begins.
    """

    def __init__(self, run: Run, first_step: int) -> None:
        self._run = run
        self._step = first_step
        self._every = math.ceil(run.steps / _POINTS)
        self._waiting: dict[str, float] = {}
        self._told = False
        self._pace = Pace(_PICTURE_SECONDS)

    @abstractmethod
    def write_settings(self, settings: dict[str, Setting]) -> None:
        """Report the settings of the run, from the header of its set."""

    @abstractmethod
    def write_figures(self, step: int, figures: Mapping[str, float]) -> None:
        """Report the figures measured up to a step."""

    @abstractmethod
    def write_picture(self, step: int, png: bytes) -> None:
        """Report the images of the set, as the content of a PNG file."""

    def after_step(
        self,
        step: int,
        metrics: Mapping[str, float],
        distilled: Callable[[], DistilledSet],
    ) -> None:
        """Report everything due after this step."""
        self._step = step
        if not self._told:
            self._told = True
            self.write_settings(_settings(self._run, distilled()))
        self._waiting |= metrics
        at_end = step == self._run.steps
        if step % self._every == 0 or at_end or "validation_accuracy" in metrics:
            self.write_figures(step, self._waiting)
            self._waiting = {}
        if not at_end and self._pace.begins():
            self.write_picture(step, grid_png(distilled()))
            self._pace.ended()

    def after_run(self, distilled: DistilledSet | None) -> None:
        """Report what waits, also of a run that stopped, and the result's picture."""
        if self._waiting:
            self.write_figures(self._step, self._waiting)
            self._waiting = {}
        if distilled is not None:
            self.write_picture(self._step, grid_png(distilled))


def _settings(run: Run, distilled: DistilledSet) -> dict[str, Setting]:
    """Return the settings of a run: the options of the run, and of its distiller."""
    header = distilled.header
    found: dict[str, Any] = {
        "dataset": header.dataset.name,
        "train_images": header.dataset.train_images,
        "device": run.device.type,
        **header.run.arguments(),
        "steps": run.steps,  # an unfinished set's header has the steps done
        **{f"distiller.{name}": _read(text) for name, text in header.options.items()},
    }
    return {
        name: value if isinstance(value, Setting) else str(value)
        for name, value in found.items()
    }


def _read(text: str) -> object:
    """Return the value of an option held as text in a header; specs stay text."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
