"""The learning of a run: the set, the distiller's state, the optimizer."""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dd_plugins.data.draws import sampler_of
from dd_plugins.data.preprocess import Transform
from dd_plugins.data.sampler import RealSampler
from dd_plugins.distillers.base import AbstractDistiller
from dd_plugins.distillers.returned import (
    check_metrics,
    check_optimizer,
    check_saved_state,
    check_schedule,
    check_state,
)
from dd_plugins.distillers.state import AbstractState, check_saved
from dd_plugins.engine.beginning import Beginning
from dd_plugins.engine.checkpoint import CHECKPOINT_NAME
from dd_plugins.engine.private import readable_sampler
from dd_plugins.engine.restoring import LARGEST, checkpoint_errors, largest, rehearse
from dd_plugins.engine.settled import Settled
from dd_plugins.errors import DDError, LostProcessError, RunError
from dd_plugins.networks.base import architectures_built
from dd_plugins.run import Run
from dd_plugins.runtime import processes
from dd_plugins.synthetic.artifact import DistilledSet
from dd_plugins.synthetic.leaves import Leaves, Parameters, Synthetic

__all__ = ["Learning", "StopOrSave"]

_ADVICE = "lower the learning rate, or use --precision float32"


class StopOrSave(NamedTuple):
    """Whether to stop, and whether to save, after a step."""

    stop: bool
    save: bool


@dataclass
class Learning:
    """The changing parts of a run, and the step that changes them.

    Attributes:
        run: the run.
        settled: its choices.
        folder: the folder of the run, with its checkpoint; or None.
        context: the existing set to extend, or None.
        step: the next step.
        seconds: the duration of all earlier steps.
        architectures: the names of architectures with networks built in this process
            or, after :meth:`share_architectures`, in any.
        distiller: the distiller of the choices.

    :meth:`begin` makes these:

    Attributes:
        transform: the map to the value space.
        sampler: the draws of real images.
        beginning: the images from which the set starts.
        synthetic: the set.
        state: the distiller's state.
        optimizer: the optimizer of the set.
        schedule: the schedule of its learning rate.
    """

    run: Run
    settled: Settled
    folder: Path | None
    context: DistilledSet | None = None
    step: int = 0
    seconds: float = 0.0
    architectures: set[str] = field(default_factory=set)
    distiller: AbstractDistiller[Any] = field(init=False)
    transform: Transform = field(init=False)
    sampler: RealSampler = field(init=False)
    beginning: Beginning = field(init=False)
    synthetic: Synthetic = field(init=False)
    state: AbstractState = field(init=False)
    optimizer: torch.optim.Optimizer = field(init=False)
    schedule: torch.optim.lr_scheduler.LRScheduler = field(init=False)

    def __post_init__(self) -> None:
        """Give a short name to the most used part."""
        self.distiller = self.settled.distiller

    def begin(self, transform: Transform | None) -> None:
        """Make the set, the state and the optimizer as they are before the first step.

        Args:
            transform: the map to the value space; None to fit it to the data.

        Raises:
            OptionError: the context does not fit.
            PluginError: a method of the distiller returned a wrong value.
        """
        with self.annotated_errors(), architectures_built(self.architectures):
            self._begin(transform)

    def _begin(self, transform: Transform | None) -> None:
        run = self.run
        self.transform, self.sampler = sampler_of(
            self.settled.data,
            transform=transform,
            seed=run.seed,
            device=run.device,
            precision=run.precision,
            rank=run.rank,
            ranks=run.ranks,
        )
        readable = readable_sampler(self.settled, run, self.transform, self.sampler)
        self.beginning = Beginning.of(
            run, self.settled, self.transform, self.sampler, readable, self.context
        )
        self.synthetic = self.beginning.synthetic()
        state = self.distiller.setup(run, self.sampler)
        self.state = check_state(self.distiller, state)
        self.optimizer, self.schedule = self._moving(self.synthetic.parameters())

    def _moving(
        self, parameters: Parameters
    ) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
        """Return the optimizer of these tensors and its schedule."""
        optimizer = self.distiller.optimizer(parameters)
        optimizer = check_optimizer(self.distiller, optimizer, parameters)
        schedule = self.distiller.schedule(optimizer, self.run.steps)
        return optimizer, check_schedule(self.distiller, schedule, optimizer)

    def one_step(self, wishes: StopOrSave) -> tuple[dict[str, float], StopOrSave]:
        """Make a step.

        Args:
            wishes: the wishes of this process.

        Returns:
            The metrics of the step, and whether any process wishes to stop or save
            after it.

        Raises:
            RunError: the loss, a gradient or the set is not finite, or the set has
                grown beyond any image.
        """
        with self.annotated_errors(), architectures_built(self.architectures):
            return self._one_step(wishes)

    def _one_step(self, wishes: StopOrSave) -> tuple[dict[str, float], StopOrSave]:
        leaves = self.synthetic.decode()
        try:
            metrics = self.distiller.accumulate(
                self.state, leaves, self.sampler, self.step
            )
        except LostProcessError as error:
            raise self.failure(str(error)) from error
        except RunError as error:
            raise self.failure(f"{error}; {_ADVICE}") from error
        check_metrics(self.distiller, metrics, leaves.pixels.device)
        if leaves.pixels.grad is None or "loss" not in metrics:
            raise self.failure(
                "accumulate must add a gradient to the pixels and report a loss, got "
                + ("no gradient" if leaves.pixels.grad is None else "no loss")
            )
        wishes = self._average(leaves, metrics, wishes)
        gradients = [leaf.grad for leaf in leaves.learned() if leaf.grad is not None]
        finite = _all_finite([metrics["loss"], *gradients])
        self.synthetic.pull_back(leaves)
        self.optimizer.step()
        self.synthetic.project()
        self.synthetic.follow()
        size = largest(self.synthetic.parameters())
        # One transfer from the device for all figures of the step. The state has not
        # advanced yet, and no checkpoint holds the updated set: a step that fails here
        # leaves the last checkpoint good.
        checks = [check.to(metrics["loss"]) for check in (finite, size)]
        figures = torch.stack([*metrics.values(), *checks]).tolist()
        reported = dict(zip(metrics, figures, strict=False))
        is_finite, reached = figures[-2:]
        wrong = None
        if not is_finite:
            wrong = "the loss or its gradient is not finite"
        elif not math.isfinite(reached):
            wrong = "the set is not finite after an update"
        elif reached > LARGEST:
            wrong = (
                f"the set has grown to {reached:.2g}, which is no image, in an update"
            )
        if wrong:
            raise self.failure(f"{wrong} (loss {reported['loss']:g}); {_ADVICE}")
        self.schedule.step()
        self.distiller.advance(self.state, self.synthetic.decode(), self.step)
        self.step += 1
        return reported, wishes

    def _average(
        self, leaves: Leaves, metrics: dict[str, Tensor], wishes: StopOrSave
    ) -> StopOrSave:
        """Average gradients and metrics over the processes; return all their wishes."""
        if processes.world_size() == 1:
            return wishes
        learned = [leaf for leaf in leaves.learned() if leaf.grad is not None]
        gradients = [leaf.grad for leaf in learned if leaf.grad is not None]
        figures = torch.stack([value.float() for value in metrics.values()])
        asked = torch.tensor(wishes, dtype=torch.float32, device=figures.device)
        try:
            *gradients, figures, asked = processes.average([*gradients, figures, asked])
        except RunError as error:
            raise self.failure(str(error)) from error
        for leaf, gradient in zip(learned, gradients, strict=True):
            leaf.grad = gradient
        metrics |= dict(zip(metrics, figures, strict=True))
        return StopOrSave(*(bool(wish) for wish in asked))

    def own_state(self) -> dict[str, Any]:
        """Return this process's part of the distiller's state, for a checkpoint."""
        return check_saved_state(self.distiller, self.state.state_dict())

    def share_architectures(self) -> None:
        """Tell every process the architectures of all; all processes must call it."""
        try:
            gathered = processes.gather_objects(sorted(self.architectures))
        except RunError as error:
            raise self.failure(str(error)) from error
        self.architectures.update(name for names in gathered for name in names)

    def whole_state(self) -> dict[str, Any] | None:
        """Return the state of the distiller, merged from all processes.

        Process 0 gets it, to write the checkpoint; the others get None. All get None if
        nothing is written.
        """
        if self.folder is None:
            return None
        try:
            parts = processes.gather_to_first(self.own_state())
        except RunError as error:
            raise self.failure(str(error)) from error
        if parts is None:
            return None
        return check_saved_state(self.distiller, self.state.merge(parts), "merge")

    def state_dict(self, state: dict[str, Any]) -> dict[str, Any]:
        """Return the state for a checkpoint.

        Args:
            state: the state of the distiller, from :meth:`whole_state`.
        """
        return {
            "step": self.step,
            "seconds": self.seconds,
            "architectures": sorted(self.architectures),
            "synthetic": self.synthetic.state_dict(),
            "state": state,
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Restore a state from :meth:`state_dict`.

        Raises:
            FileError: a part of the state is missing or wrong.
        """
        with checkpoint_errors():
            step, seconds = saved["step"], saved["seconds"]
            if type(step) is not int or not 0 <= step <= self.run.steps:
                raise ValueError(f"step must be 0 to {self.run.steps}, got {step!r}")
            check_saved(seconds, self.seconds, "seconds")
            if seconds < 0:
                raise ValueError(f"seconds must be at least 0, got {seconds}")
            architectures = saved["architectures"]
            if not all(isinstance(name, str) for name in architectures):
                raise ValueError(f"architectures must be names, got {architectures!r}")
            check_saved(saved["synthetic"], self.synthetic.state_dict(), "synthetic")
            if step < self.run.steps:
                generator = self.run.generator("rehearsal")
                parameters = self.synthetic.parameters()
                rehearse(saved, parameters, self._moving, generator)
            self.synthetic.load_state_dict(saved["synthetic"])
            self.state.load_state_dict(saved["state"])
            self.optimizer.load_state_dict(saved["optimizer"])
            self.schedule.load_state_dict(saved["schedule"])
            self.step, self.seconds = step, seconds
            self.architectures.update(architectures)

    @contextmanager
    def annotated_errors(self) -> Iterator[None]:
        """Add the step, the last checkpoint and a remedy to an error of torch.

        Any other error keeps its type, and gets a note of the step and the method.
        """
        try:
            yield
        except DDError:
            raise
        except Exception as error:
            error.add_note(f"at step {self.step} of {self.run.distiller}")
            if not isinstance(error, RuntimeError | OverflowError):
                raise
            text = str(error).strip()
            if "overflow" in text:  # a rate that no float32 holds
                raise self.failure(f"{text.splitlines()[0]}; {_ADVICE}") from error
            if text.startswith("DataLoader worker"):
                raise self.failure(
                    "a process that reads images was ended from outside, as a system "
                    "does that runs out of memory; read with fewer workers"
                ) from error
            raise

    def failure(self, what: str) -> RunError:
        """Return the error to stop the run; it names the last good checkpoint."""
        good = None if self.folder is None else self.folder / CHECKPOINT_NAME
        kept = (
            f"; the last good checkpoint is {good}: --resume goes on with it"
            if good and good.exists()
            else ""
        )
        return RunError(f"{what}, at step {self.step} of {self.run.distiller}{kept}")


def _all_finite(tensors: Iterable[Tensor]) -> Tensor:
    return torch.stack([torch.isfinite(tensor).all() for tensor in tensors]).all()
