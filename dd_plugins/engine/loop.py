"""The one loop: every distiller runs in it."""

import math
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dd_plugins.data.draws import sampler_of
from dd_plugins.data.preprocess import Transform
from dd_plugins.distillers.returned import (
    check_metrics,
    check_optimizer,
    check_saved_state,
    check_schedule,
    check_state,
)
from dd_plugins.distillers.state import check_saved
from dd_plugins.engine.beginning import Beginning
from dd_plugins.engine.checkpoint import CHECKPOINT_NAME, CheckpointWriter
from dd_plugins.engine.finished import finished_set
from dd_plugins.engine.observers import Observers
from dd_plugins.engine.restoring import (
    LARGEST,
    foreign_is_told,
    largest,
    rehearse,
    saved_transform,
)
from dd_plugins.engine.settled import Settled
from dd_plugins.engine.validation import validation_accuracy, validation_is_due
from dd_plugins.errors import (
    DDError,
    DDWarning,
    FileError,
    PluginError,
    RunError,
    what_differs,
)
from dd_plugins.plugins.manager import Plugins
from dd_plugins.run import Run
from dd_plugins.runtime import processes
from dd_plugins.runtime.signals import DeferredInterrupt
from dd_plugins.spec import Record
from dd_plugins.synthetic.artifact import ARTIFACT_NAME, DistilledSet
from dd_plugins.synthetic.header import library_versions
from dd_plugins.synthetic.leaves import Leaves, Parameters

__all__ = ["Loop"]

_ADVICE = "lower the learning rate, or use --precision float32"


def _all_finite(tensors: Iterable[Tensor]) -> Tensor:
    return torch.stack([torch.isfinite(tensor).all() for tensor in tensors]).all()


def _warn(message: str) -> None:
    warnings.warn(message, DDWarning, stacklevel=3)


class _StopOrSave(NamedTuple):
    """What is to happen after a step, if any process wishes it."""

    stop: bool
    save: bool


@dataclass
class Loop:
    """One run of the loop: what it reads, and what it changes."""

    run: Run
    settled: Settled
    plugins: Plugins
    folder: Path | None
    context: DistilledSet | None = None

    def __post_init__(self) -> None:
        """Name what is used most."""
        self.distiller, self.real = self.settled.distiller, self.settled.data

    def prepare(self, saved: dict[str, Any] | None = None) -> None:
        """Make all that a run begins with, or goes on with from a checkpoint.

        Raises:
            OptionError: the context does not fit, or the run is not the one that wrote
                the checkpoint.
            FileError: the checkpoint does not hold what it must.
            PluginError: a method of the distiller returned something else.
        """
        self.step = 0
        transform = None
        if saved is not None:
            image = self.real.train.images[:1]
            transform = saved_transform(
                saved, self.configuration, self.run.steps, image
            )
        with self._told_failures():
            self._begin(transform)
        if saved is not None:
            self._restore(saved)

    def _begin(self, transform: Transform | None) -> None:
        run = self.run
        self.transform, self.sampler = sampler_of(
            self.real,
            transform=transform,
            seed=run.seed,
            device=run.device,
            precision=run.precision,
            rank=run.rank,
            ranks=run.ranks,
        )
        self.beginning = Beginning.of(
            run, self.settled, self.transform, self.sampler, self.context
        )
        self.synthetic = self.beginning.synthetic()
        state = self.distiller.setup(run, self.sampler)
        self.state = check_state(self.distiller, state)
        self.optimizer, self.schedule = self._moving(self.synthetic.parameters())
        self.seconds = 0.0

    def _moving(
        self, parameters: Parameters
    ) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
        """Return what moves these tensors."""
        optimizer = self.distiller.optimizer(parameters)
        optimizer = check_optimizer(self.distiller, optimizer, parameters)
        schedule = self.distiller.schedule(optimizer, self.run.steps)
        return optimizer, check_schedule(self.distiller, schedule, optimizer)

    @cached_property
    def configuration(self) -> dict[str, Any]:
        """Everything that must be the same when a run goes on."""
        real, context = self.real, self.context
        asked = self.settled.options.arguments()
        return {
            "data set": real.fingerprint,
            "value space": real.value_space,
            "context": None if context is None else context.content_hash(),
            **{name.replace("_", " "): value for name, value in asked.items()},
            "device": self.run.device.type,
            "torch version": library_versions()["torch"],
            "dd-plugins version": library_versions()["dd-plugins"],
            **{
                f"{distribution} version": version
                for distribution, version in self.plugin_versions.items()
            },
        }

    @cached_property
    def plugin_versions(self) -> dict[str, str]:
        """The versions of others' distributions that this run is a function of."""
        settled = self.settled
        used = [
            settled.distiller,
            settled.network,
            settled.initial_images,
            settled.parametrization,
        ]
        return self.plugins.versions(
            *(each for each in used if isinstance(each, Record))
        )

    def run_to_end(
        self, checkpoint_seconds: float, has_checkpoint: Callable[[], object]
    ) -> DistilledSet:
        """Make every step that is left, and save and return the result.

        Args:
            checkpoint_seconds: the time between checkpoints.
            has_checkpoint: called when there is one.
        """
        first_step, distilled = self.step, None
        processes.broadcast(list(self.synthetic.parameters()))
        if processes.rank() > 0:
            return self._run_silently(checkpoint_seconds)
        self.observers = Observers(self.plugins)
        try:
            self.observers.before_run(self.run, first_step)
            try:
                with (
                    DeferredInterrupt() as interrupt,
                    self._writer(has_checkpoint) as writer,
                ):
                    self._make_steps(checkpoint_seconds, interrupt, writer)
            finally:  # the set counts, even if its last checkpoint cannot be written
                if self.step == self.run.steps:
                    distilled = self._saved(first_step)
            assert distilled is not None
            return distilled
        finally:
            self.sampler.close()
            self.observers.after_run(self.run, distilled)

    def _saved(self, first_step: int) -> DistilledSet:
        """Return the finished set, saved if there is a folder.

        One that was finished and saved before stays as it is, unless it is damaged.
        """
        if self.run.out is None:
            return self.distilled()
        path = self.run.out / ARTIFACT_NAME
        if first_step == self.run.steps and path.exists():
            try:
                return DistilledSet.load(path)
            except FileError as error:
                _warn(f"{error}; it is written again from the last checkpoint")
        distilled = self.distilled()
        distilled.save(path)
        return distilled

    def _run_silently(self, checkpoint_seconds: float) -> DistilledSet:
        """Do the work of a process that neither reports nor writes."""
        try:
            with DeferredInterrupt() as interrupt:
                self._make_steps(checkpoint_seconds, interrupt, None)
        finally:
            self.sampler.close()
        return self.distilled()

    def _make_steps(
        self,
        checkpoint_seconds: float,
        interrupt: DeferredInterrupt,
        writer: CheckpointWriter | None,
    ) -> None:
        if writer is not None:
            writer.prepare({"state": self._own_state()})  # placed as it is saved
        started = saved = time.monotonic()
        before = self.seconds

        def wishes_now() -> _StopOrSave:
            due = time.monotonic() - saved >= checkpoint_seconds
            return _StopOrSave(interrupt.requested, due and processes.rank() == 0)

        while self.step < self.run.steps:
            with self._told_failures():
                metrics, wishes = self._one_step(wishes_now())
            self.seconds = before + time.monotonic() - started
            if processes.rank() == 0:
                self._report(metrics, interrupt)
            if processes.world_size() == 1:  # nobody has to agree
                wishes = wishes_now()
            if writer is not None:
                writer.check()
            at_end = self.step == self.run.steps
            if wishes.stop or wishes.save or at_end:
                state = self._whole_state()
                if writer is not None and state is not None:
                    writer.save(self._checkpoint(state))
                saved = time.monotonic()
            if wishes.stop and not at_end:
                raise KeyboardInterrupt

    def _report(self, metrics: dict[str, float], interrupt: DeferredInterrupt) -> None:
        """Tell the observers of a step, with the validation accuracy if it is due.

        A KeyboardInterrupt of theirs is a wish to stop after this step.
        """
        stopping = interrupt.requested
        try:
            if validation_is_due(self.settled, self.step, self.run.steps):
                metrics |= self._validation()
            metrics["seconds"] = self.seconds
            self.observers.after_step(self.run, self.step, metrics, self.distilled)
        except KeyboardInterrupt:
            if stopping or interrupt.requested:  # a second signal does not wait
                raise
            interrupt.requested = True

    def _validation(self) -> dict[str, float]:
        """Return the validation accuracy: a figure on the way is not worth the run."""
        try:
            found = validation_accuracy(
                self.run,
                self.settled,
                self.step,
                self.state,
                self.synthetic.decode(),
                self.transform,
                self.distilled,
            )
            return {"validation_accuracy": found}
        except PluginError:
            raise
        except Exception as error:
            reason = " ".join(str(error).split())
            what = "" if isinstance(error, DDError) else f"{type(error).__name__}: "
            _warn(f"no validation accuracy at step {self.step}: {what}{reason}")
            return {}

    @contextmanager
    def _told_failures(self) -> Iterator[None]:
        """Say of what failed at which step it was, what is kept, and what to do."""
        try:
            yield
        except (RuntimeError, OverflowError) as error:
            text = str(error).strip()
            if "overflow" in text:  # a rate that no float32 holds
                raise self._failure(f"{text.splitlines()[0]}; {_ADVICE}") from error
            if text.startswith("DataLoader worker"):
                raise self._failure(
                    "a process that reads images was ended from outside, as a system "
                    "does that runs out of memory; read with fewer workers"
                ) from error
            raise

    def _one_step(self, wishes: _StopOrSave) -> tuple[dict[str, float], _StopOrSave]:
        """Make a step; return its metrics, and what any process wishes after it."""
        leaves = self.synthetic.decode()
        try:
            metrics = self.distiller.accumulate(
                self.state, leaves, self.sampler, self.step
            )
        except RunError as error:
            raise self._failure(f"{error}; {_ADVICE}") from error
        check_metrics(self.distiller, metrics, leaves.pixels.device)
        if leaves.pixels.grad is None or "loss" not in metrics:
            raise self._failure("accumulate added no gradient, or reported no loss")
        wishes = self._average(leaves, metrics, wishes)
        gradients = [leaf.grad for leaf in leaves.learned() if leaf.grad is not None]
        finite = _all_finite([metrics["loss"], *gradients])
        self.synthetic.pull_back(leaves)
        self.optimizer.step()
        self.synthetic.project()
        size = largest(self.synthetic.parameters())
        # One transfer from the device for all figures of the step. The state is not yet
        # advanced, and no checkpoint holds what was just updated.
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
            raise self._failure(f"{wrong} (loss {reported['loss']:g}); {_ADVICE}")
        self.schedule.step()
        self.distiller.advance(self.state, self.synthetic.decode(), self.step)
        self.step += 1
        return reported, wishes

    def _average(
        self, leaves: Leaves, metrics: dict[str, Tensor], wishes: _StopOrSave
    ) -> _StopOrSave:
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
            raise self._failure(str(error)) from error
        for leaf, gradient in zip(learned, gradients, strict=True):
            leaf.grad = gradient
        metrics |= dict(zip(metrics, figures, strict=True))
        return _StopOrSave(*(bool(wish) for wish in asked))

    def _failure(self, what: str) -> RunError:
        """Return the error with which a run stops, and what is still good."""
        good = None if self.folder is None else self.folder / CHECKPOINT_NAME
        kept = (
            f"; the last good checkpoint is {good}: --resume goes on with it"
            if good and good.exists()
            else ""
        )
        return RunError(f"{what}, at step {self.step} of {self.run.distiller}{kept}")

    def distilled(self) -> DistilledSet:
        """Return the set as it is now."""
        if self.step == self.run.steps:
            return self._finished
        return self._as_it_is()

    @cached_property
    def _finished(self) -> DistilledSet:
        """The set after the last step, of which a teacher may label every view."""
        return self._as_it_is()

    def _as_it_is(self) -> DistilledSet:
        return finished_set(
            self.beginning, self.synthetic, self.state, self.step, self.plugin_versions
        )

    def _writer(
        self, written: Callable[[], object]
    ) -> AbstractContextManager[CheckpointWriter | None]:
        if self.run.out is None:
            return nullcontext()
        transform = {
            "tensors": {
                name: tensor.cpu() for name, tensor in self.transform.tensors().items()
            },
            "stride": self.transform.stride,
        }
        return CheckpointWriter(
            self.run.out / CHECKPOINT_NAME,
            constant={"transform": transform, "place": self._place},
            written=written,
        )

    def _checkpoint(self, state: dict[str, Any]) -> dict[str, Any]:
        return {
            "configuration": self.configuration,
            "step": self.step,
            "seconds": self.seconds,
            "synthetic": self.synthetic.state_dict(),
            "state": state,
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
        }

    @cached_property
    def _place(self) -> dict[str, Any]:
        """Where the run is, as far as its last bits may depend on it."""
        device = self.run.device
        if device.type == "cuda":
            processor = torch.cuda.get_device_name(device)
        else:
            processor = torch.backends.cpu.get_cpu_capability()
        return {
            "processes": self.run.ranks,
            "threads": torch.get_num_threads(),
            "processor": processor,
        }

    def _own_state(self) -> dict[str, Any]:
        return check_saved_state(self.distiller, self.state.state_dict())

    def _whole_state(self) -> dict[str, Any] | None:
        """Return the state of the distiller, put together from all processes.

        Only process 0, which writes it, gets it; and none if nothing is written.
        """
        if self.folder is None:
            return None
        try:
            parts = processes.gather_to_first(self._own_state())
        except RunError as error:
            raise self._failure(str(error)) from error
        if parts is None:
            return None
        return check_saved_state(self.distiller, self.state.merge(parts), "merge")

    def _restore(self, saved: dict[str, Any]) -> None:
        """Continue from a checkpoint, whose configuration is that of the run.

        Raises:
            FileError: the checkpoint does not hold what it must.
        """
        with foreign_is_told():
            step, seconds = saved["step"], saved["seconds"]
            if type(step) is not int or not 0 <= step <= self.run.steps:
                raise ValueError(f"step {step!r} of {self.run.steps}")
            check_saved(seconds, self.seconds, "seconds")
            if seconds < 0:
                raise ValueError(f"{seconds} seconds")
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
            moved = what_differs(dict(saved.get("place", self._place)), self._place)
        if moved and step < self.run.steps:
            _warn(
                f"this run goes on elsewhere ({moved}): its set will not be, bit for "
                "bit, that of a run without a break"
            )
