"""How a run is observed, and its built-in observers.

Progress display, metrics log and image snapshots are plugins like any other: objects
with hook implementations, loaded with the built-ins.
"""

import json
import math
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from dd_plugins.errors import DDWarning, FileError, PluginError, described
from dd_plugins.hookspecs import LazySet, hookimpl
from dd_plugins.run import Run
from dd_plugins.runtime.files import write_atomically
from dd_plugins.runtime.pacing import Pace
from dd_plugins.runtime.progress import ProgressShown, shown_progress
from dd_plugins.runtime.text import counted
from dd_plugins.spec import names_of
from dd_plugins.tracking.base import AbstractObserver, Observation

if TYPE_CHECKING:
    from dd_plugins.plugins.loading import LoadedPlugins
    from dd_plugins.synthetic.artifact import DistilledSet

__all__ = [
    "IMAGES_NAME",
    "METRICS_NAME",
    "Observers",
    "image_snapshots",
    "metrics_log",
    "progress_display",
    "warn",
]

METRICS_NAME = "metrics.jsonl"
IMAGES_NAME = "images.png"
_LINES = 500  # of a metrics log, approximately
_SNAPSHOT_SECONDS = 60.0


class Observers:
    """The observers of one run, called one by one; a failure does not end the run.

    An observer that fails is named in a warning and sees no further steps. It is still
    called at the end, to close its files, and is named once more.

    Args:
        plugins: the source of the observers of every run.
        asked: the observers that this run asks for.
    """

    def __init__(
        self, plugins: "LoadedPlugins", asked: Iterable[AbstractObserver] = ()
    ) -> None:
        named = [(repr(each), _Asked(each)) for each in asked]
        self._hooks: dict[str, list[tuple[str, Callable[..., object]]]] = {
            hook: [
                *plugins.each(hook),
                *((name, getattr(each, hook)) for name, each in named),
            ]
            for hook in ("dd_before_run", "dd_after_step", "dd_after_run")
        }
        self._failed: dict[str, str] = {}

    def before_run(self, run: Run, first_step: int) -> None:
        """Tell the observers of the start."""
        self._tell("dd_before_run", run=run, first_step=first_step)

    def after_step(
        self, run: Run, step: int, metrics: Mapping[str, float], distilled: LazySet
    ) -> None:
        """Tell the observers of a step."""
        for name, call in self._hooks["dd_after_step"]:
            if name not in self._failed:
                own = dict(metrics)  # no observer sees the changes of another
                given = {"step": step, "metrics": own, "distilled": distilled}
                self._guarded(name, "dd_after_step", call, run=run, **given)

    def after_run(self, run: Run, distilled: "DistilledSet | None") -> None:
        """Tell the observers of the end, and warn of those that failed."""
        self._tell("dd_after_run", run=run, distilled=distilled)
        if self._failed:
            failures = "; ".join(f"{who}: {why}" for who, why in self._failed.items())
            warn(f"observers failed and did not see the whole run: {failures}")

    def _tell(self, hook: str, **given: Any) -> None:
        for name, call in self._hooks[hook]:
            self._guarded(name, hook, call, **given)

    def _guarded(
        self, name: str, hook: str, call: Callable[..., object], **given: Any
    ) -> None:
        try:
            call(**given)
        except (Exception, SystemExit) as error:
            if name in self._failed:
                return
            self._failed[name] = f"{hook}: {described(error)}"
            where = f" at step {given['step']}" if "step" in given else ""
            warn(
                f"observer {name} failed{where} and sees no further steps; the run "
                f"goes on ({self._failed[name]})"
            )


class _Asked:
    """An observer that a run asks for, called like those of every run."""

    def __init__(self, observer: AbstractObserver) -> None:
        self._observer = observer
        self._observation: Observation | None = None

    def dd_before_run(self, run: Run, first_step: int) -> None:
        observed = self._observer.observe(run, first_step)
        if not isinstance(observed, Observation):
            got = "None" if observed is None else type(observed).__name__
            raise PluginError(
                f"{self._observer.name}.observe must return an Observation, got {got}"
            )
        self._observation = observed

    def dd_after_step(
        self, run: Run, step: int, metrics: Mapping[str, float], distilled: LazySet
    ) -> None:
        del run
        if self._observation is not None:
            self._observation.after_step(step, metrics, distilled)

    def dd_after_run(self, run: Run, distilled: "DistilledSet | None") -> None:
        del run
        if self._observation is not None:
            self._observation.after_run(distilled)


def warn(message: str) -> None:
    """Warn the user, from the place that called the calling function."""
    warnings.warn(message, DDWarning, stacklevel=3)


class MetricsLog:
    """Appends a line of JSON to ``metrics.jsonl`` about 500 times in a run.

    A metric reported between two lines is in the next one. A resumed run first drops
    the lines after its checkpoint.
    """

    def __init__(self) -> None:
        self._waiting = WeakKeyDictionary[Run, dict[str, float]]()

    @hookimpl
    def dd_before_run(self, run: Run, first_step: int) -> None:
        """Drop the lines logged after the checkpoint."""
        self._waiting[run] = {}
        if run.out is None:
            return
        path = run.out / METRICS_NAME
        kept = [line for line in _lines(path) if _step_of(line) <= first_step]
        write_atomically(path, lambda file: file.write(b"".join(kept)))

    @hookimpl
    def dd_after_step(self, run: Run, step: int, metrics: Mapping[str, float]) -> None:
        """Append a line for this step, if it is due or was validated."""
        waiting = self._waiting[run]
        waiting |= metrics
        due = step % math.ceil(run.steps / _LINES) == 0 or step == run.steps
        if run.out is None or not (due or "validation_accuracy" in metrics):
            return
        finite = {
            name: value if math.isfinite(value) else None  # JSON has no NaN
            for name, value in waiting.items()
        }
        line = json.dumps({"step": step, **finite}, allow_nan=False)
        waiting.clear()
        try:
            with (run.out / METRICS_NAME).open("a") as file:
                file.write(line + "\n")
        except OSError as error:
            raise FileError(
                f"cannot write {run.out / METRICS_NAME}: {error.strerror}"
            ) from error


def _lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True) if path.exists() else []


def _step_of(line: bytes) -> float:
    """Return the step of a line; infinite for a line damaged by a kill."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return math.inf


class ImageSnapshots:
    """Keeps ``images.png`` current: about once a minute, and at the end.

    Drawing takes at most a tenth of a run's time.
    """

    def __init__(self) -> None:
        self._paces = WeakKeyDictionary[Run, Pace]()

    @hookimpl
    def dd_before_run(self, run: Run) -> None:
        """Start the clock."""
        self._paces[run] = Pace(_SNAPSHOT_SECONDS)

    @hookimpl
    def dd_after_step(self, run: Run, distilled: LazySet) -> None:
        """Draw the set as it is now, if it is time."""
        pace = self._paces[run]
        if run.out is not None and pace.begins():
            _draw(distilled(), run.out)
            pace.ended()

    @hookimpl
    def dd_after_run(self, run: Run, distilled: "DistilledSet | None") -> None:
        """Draw the result."""
        if run.out is not None and distilled is not None:
            _draw(distilled, run.out)


def _draw(distilled: "DistilledSet", out: Path) -> None:
    from dd_plugins.synthetic.pictures import save_grid

    save_grid(distilled, out / IMAGES_NAME)


@dataclass
class _Mean:
    """The mean of the numbers added so far; 0 if there are none."""

    value: float = 0.0
    count: int = 0

    def add(self, number: float) -> None:
        self.count += 1
        self.value += (number - self.value) / self.count


class _Work:
    """The work of a run: its steps, and measurements at what they cost in steps.

    Args:
        steps: the number of steps of the whole run.
        validation_steps: the steps after which accuracy is still to be measured.
    """

    def __init__(self, steps: int, validation_steps: Iterable[int]) -> None:
        self._steps = steps
        self._validation_steps = tuple(validation_steps)
        self._alone, self._measured = _Mean(), _Mean()  # seconds of both kinds of step
        self._before: float | None = None

    def done(self, step: int, now: float) -> tuple[float, float]:
        """Return the work that is done after a step, and all work.

        Args:
            step: number of steps done.
            now: the seconds of a monotonic clock.
        """
        if self._before is not None:  # the first step also sets libraries up
            measured = step in self._validation_steps
            (self._measured if measured else self._alone).add(now - self._before)
        self._before = now
        cost = 0.0  # of a measurement in steps, once both kinds have been timed
        if self._alone.value and self._measured.value:
            cost = max(0.0, self._measured.value / self._alone.value - 1)
        measured_so_far = sum(each <= step for each in self._validation_steps)
        return (
            step + cost * measured_so_far,
            self._steps + cost * len(self._validation_steps),
        )


@dataclass
class _Display:
    """The display of one run."""

    shown: ProgressShown
    stack: ExitStack
    work: _Work
    validation: str = ""


class ProgressDisplay:
    """Shows the task of a run, steps, time left, loss and validation accuracy."""

    def __init__(self) -> None:
        self._displays = WeakKeyDictionary[Run, _Display]()

    @hookimpl
    def dd_before_run(self, run: Run, first_step: int) -> None:
        """Open the display, with a line about the run."""
        if not run.progress:
            return
        stack = ExitStack()
        shown = stack.enter_context(shown_progress(""))
        to_come = [each for each in run.validation_steps if each > first_step]
        self._displays[run] = _Display(shown, stack, _Work(run.steps, to_come))
        task = run.task
        shape = "x".join(map(str, task.image_shape))
        begun = f", going on at step {first_step:,}" if first_step else ""
        method = names_of(run.distiller)
        images = counted(task.synthetic_images, "image")
        shown.line(
            f"distilling {task.dataset}, {task.num_classes} classes of {shape}, into "
            f"{images} by {method} on {run.network!r}, "
            f"{counted(run.steps, 'step')} on {run.device}{begun}"
        )

    @hookimpl
    def dd_after_step(self, run: Run, step: int, metrics: Mapping[str, float]) -> None:
        """Show where the run stands."""
        display = self._displays.get(run)
        if display is None:
            return
        if "validation_accuracy" in metrics:
            display.validation = f", validation {metrics['validation_accuracy']:.3f}"
        what = f"step {step:,} of {run.steps:,}, loss {metrics['loss']:.3f}"
        done, total = display.work.done(step, time.monotonic())
        display.shown.update(f"{what}{display.validation}", done, total)

    @hookimpl
    def dd_after_run(self, run: Run) -> None:
        """Close the display."""
        display = self._displays.pop(run, None)
        if display is not None:
            display.stack.close()


progress_display = ProgressDisplay()
metrics_log = MetricsLog()
image_snapshots = ImageSnapshots()
