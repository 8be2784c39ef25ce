"""The one loop: every distiller runs in it."""

import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from dd_plugins.engine.checkpoint import CHECKPOINT_NAME, CheckpointWriter
from dd_plugins.engine.estimating import Estimate
from dd_plugins.engine.finished import bytes_of_set, finished_set, stored_views
from dd_plugins.engine.learning import Learning, StopOrSave
from dd_plugins.engine.observers import Observers, warn
from dd_plugins.engine.restoring import (
    check_configuration,
    checkpoint_errors,
    saved_transform,
)
from dd_plugins.engine.settled import Settled
from dd_plugins.engine.validation import validation_accuracy
from dd_plugins.errors import (
    FileError,
    OptionError,
    PluginError,
    described,
    what_differs,
)
from dd_plugins.plugins.manager import Plugins
from dd_plugins.run import Run
from dd_plugins.runtime import processes
from dd_plugins.runtime.memory import bytes_of, peak_memory
from dd_plugins.runtime.signals import DeferredInterrupt
from dd_plugins.spec import Record
from dd_plugins.synthetic.artifact import ARTIFACT_NAME, DistilledSet
from dd_plugins.synthetic.header import library_versions
from dd_plugins.tracking.base import AbstractObserver
from dd_plugins.training.view_labels import check_room_for_labels

__all__ = ["Loop"]

_TOLD_AFTER = 1.0  # seconds
_SOON_PREPARED = 10_000_000  # values of images; to whiten more takes a while


@dataclass
class Loop:
    """One run of the loop: its steps, with checkpoints, observers and validation.

    Interruptions are handled here too. The step itself is in
    :class:`~dd_plugins.engine.learning.Learning`.

    Attributes:
        run: the run.
        settled: its choices.
        plugins: the source of the observers of every run.
        folder: the folder of the run, or None.
        context: the existing set to extend, or None.
        requested_observers: the observers of this run alone.
        prepared_seconds: the duration of :meth:`prepare`.
        begun_at: the first step of this process.
        learning: the parts of the run that change, and its step; made by
            :meth:`prepare`.
        observers: all observers, of this run alone and of every run; made by
            :meth:`run_to_end`, in process 0.
    """

    run: Run
    settled: Settled
    plugins: Plugins
    folder: Path | None
    context: DistilledSet | None = None
    requested_observers: tuple[AbstractObserver, ...] = ()
    prepared_seconds: float = field(default=0.0, init=False)
    begun_at: int = field(default=0, init=False)
    learning: Learning = field(init=False)
    observers: Observers = field(init=False)
    _later_seconds: float = field(default=0.0, init=False)  # of steps after the first
    _told: bool = field(default=False, init=False)

    def prepare(self, saved: dict[str, Any] | None = None) -> None:
        """Prepare a run, from its start or from a checkpoint.

        Raises:
            OptionError: the context does not fit, another run wrote the checkpoint, or
                memory has no room for the labels of views.
            FileError: a part of the checkpoint is missing or wrong.
            PluginError: a method of the distiller returned a wrong value.
        """
        started = time.monotonic()
        run = self.run
        data = self.settled.data
        long = data.train.images.numel() > _SOON_PREPARED
        if run.progress and run.rank == 0 and long:
            sys.stderr.write(
                f"preparing {len(data.train.labels):,} training images of {data.name}, "
                f"{data.value_space}\n"
            )
        self.learning = Learning(run, self.settled, self.folder, self.context)
        transform = None
        if saved is not None:
            finished = processes.broadcast_object(self._has_finished(saved))
            check_configuration(saved, self.configuration, run.steps, finished=finished)
            transform = saved_transform(saved, data.train.images[:1])
        self.learning.begin(transform)
        self._check_labels_of_views()
        if saved is not None:
            self.learning.load_state_dict(saved)
            self._check_place(saved)
        self.begun_at = self.learning.step
        self.prepared_seconds = time.monotonic() - started

    def _has_finished(self, saved: dict[str, Any]) -> bool:
        """Tell whether a run has made its last step, and its set can be read."""
        if self.folder is None or saved.get("step") != self.run.steps:
            return False
        try:
            DistilledSet.load(self.folder / ARTIFACT_NAME)
        except FileError:
            return False
        return True

    def _check_labels_of_views(self) -> None:
        """Refuse labels that are made after the last step and have no room."""
        learning = self.learning
        leaves = learning.synthetic.decode()
        views = stored_views(learning.distiller, learning.state, leaves)
        check_room_for_labels(views, *leaves.labels.shape)

    @cached_property
    def configuration(self) -> dict[str, Any]:
        """The configuration of the run; it must be the same at a resume."""
        real, context = self.settled.data, self.context
        asked = self.settled.options.arguments()
        return {
            "data set": real.fingerprint,
            "value space": real.value_space,
            "context": None if context is None else context.content_hash(),
            **{
                name.replace("_", " "): (
                    ", ".join(map(str, value)) if isinstance(value, tuple) else value
                )
                for name, value in asked.items()
            },
            "network": self.run.network.identity(
                self.run.task.image_shape, self.run.task.num_classes
            ),
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
        """The versions of all third-party distributions used by this run."""
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
        """Make the remaining steps, then save and return the result.

        Args:
            checkpoint_seconds: the time between checkpoints.
            has_checkpoint: called after each written checkpoint.
        """
        learning = self.learning
        first_step, distilled = learning.step, None
        synthetic = learning.synthetic
        constants = synthetic.constants().values()
        processes.broadcast([*synthetic.parameters(), *constants])
        if processes.rank() > 0:
            return self._run_silently(checkpoint_seconds)
        self.observers = Observers(self.plugins, self.requested_observers)
        try:
            self.observers.before_run(self.run, first_step)
            try:
                with (
                    DeferredInterrupt() as interrupt,
                    self._writer(has_checkpoint) as writer,
                ):
                    self._make_steps(checkpoint_seconds, interrupt, writer)
            finally:  # the set counts, even if its last checkpoint cannot be written
                if learning.step == self.run.steps:
                    distilled = self._saved(first_step)
            assert distilled is not None
            return distilled
        finally:
            learning.sampler.close()
            self.observers.after_run(self.run, distilled)

    def _saved(self, first_step: int) -> DistilledSet:
        """Return the finished set, saved if there is a folder.

        A set finished and saved before stays as it is, unless it is damaged.
        """
        if self.run.out is None:
            return self.distilled()
        path = self.run.out / ARTIFACT_NAME
        if first_step == self.run.steps and path.exists():
            try:
                return DistilledSet.load(path)
            except FileError as error:
                warn(f"{error}; it is written again from the last checkpoint")
        distilled = self.distilled()
        distilled.save(path)
        return distilled

    def _run_silently(self, checkpoint_seconds: float) -> DistilledSet:
        """Do the work of a process without reports or files."""
        try:
            with DeferredInterrupt() as interrupt:
                self._make_steps(checkpoint_seconds, interrupt, None)
        finally:
            self.learning.sampler.close()
        return self.distilled()

    def _make_steps(
        self,
        checkpoint_seconds: float,
        interrupt: DeferredInterrupt,
        writer: CheckpointWriter | None,
    ) -> None:
        learning = self.learning
        if writer is not None:
            writer.prepare({"state": learning.own_state()})  # under the saved keys
        started = saved = time.monotonic()
        before = learning.seconds

        def save() -> None:
            state = learning.whole_state()
            if writer is not None and state is not None:
                configuration = {"configuration": self.configuration}
                writer.save(configuration | learning.state_dict(state))

        if self.settled.distiller.private and writer is not None and not learning.step:
            # A step that is repeated with other noise spends its epsilon twice. So the
            # source of the noise is saved before the first step.
            save()
            writer.wait()

        def wishes_now() -> StopOrSave:
            due = time.monotonic() - saved >= checkpoint_seconds
            return StopOrSave(interrupt.requested, due and processes.rank() == 0)

        while learning.step < self.run.steps:
            began = time.monotonic()
            metrics, wishes = learning.one_step(wishes_now())
            now = time.monotonic()
            learning.seconds = before + now - started
            self._tell_estimate(now - began, now - started)
            at_end = learning.step == self.run.steps
            if wishes.stop or wishes.save or at_end:  # what is saved names them
                learning.share_architectures()
            if processes.rank() == 0:
                self._report(metrics, interrupt)
            if processes.world_size() == 1:  # nobody has to agree
                wishes = wishes_now()
            if writer is not None:
                writer.check()
            if wishes.stop or wishes.save or at_end:
                save()
                saved = time.monotonic()
            if wishes.stop and not at_end:
                raise KeyboardInterrupt

    def _tell_estimate(self, step_seconds: float, seconds: float) -> None:
        """Report the estimate once, after the first second of the run.

        Args:
            step_seconds: of this step alone, without validation and observers.
            seconds: since the first step of this process began.
        """
        made = self.learning.step - self.begun_at
        if made > 1:  # libraries set themselves up in the first
            self._later_seconds += step_seconds
        told = self._told or self.run.rank > 0 or not self.run.progress
        if told or made < 2 or seconds < _TOLD_AFTER:
            return
        self._told = True
        each = self._later_seconds / (made - 1)
        found = self.estimate(self.prepared_seconds, each, validate=False)
        sys.stderr.write(f"{found.line()}, validation apart\n")

    def make_step(self, step: int) -> None:
        """Make a step as if all earlier steps had been made, and wait for its end."""
        self.learning.step = step
        self.learning.one_step(StopOrSave(stop=False, save=False))
        if self.run.device.type == "cuda":
            torch.cuda.synchronize(self.run.device)

    def estimate(
        self, preparation_seconds: float, step_seconds: float, *, validate: bool = True
    ) -> Estimate:
        """Return the estimate from the steps of this process.

        Args:
            preparation_seconds: measured seconds before the first step.
            step_seconds: measured seconds of a step.
            validate: whether validation accuracy is measured, to time it.
        """
        learning, run = self.learning, self.run
        times = len(run.validation_steps) if validate else 0
        started = time.perf_counter()
        if times:
            self._validation()
        each = time.perf_counter() - started
        state = bytes_of(learning.own_state())
        transform = bytes_of(learning.transform.tensors())
        stored = bytes_of_set(learning.beginning, learning.synthetic, learning.state)
        changing = state + bytes_of(learning.state_dict({}))
        snapshot = changing if run.device.type == "cpu" else 0  # while it is written
        return Estimate(
            steps=run.steps - self.begun_at,
            preparation_seconds=preparation_seconds,
            step_seconds=step_seconds,
            validation_seconds=times * each,
            memory=peak_memory(run.device) + snapshot,
            disk=changing + stored + 2 * transform,  # in checkpoint and artifact
            device=run.device.type,
        )

    def _report(self, metrics: dict[str, float], interrupt: DeferredInterrupt) -> None:
        """Report a step to the observers, with the validation accuracy if it is due.

        A KeyboardInterrupt raised by an observer is a wish to stop after this step.
        """
        learning, stopping = self.learning, interrupt.requested
        try:
            if learning.step in self.run.validation_steps:
                metrics |= self._validation()
            metrics["seconds"] = learning.seconds
            self.observers.after_step(self.run, learning.step, metrics, self.distilled)
        except KeyboardInterrupt:
            if stopping or interrupt.requested:  # a second signal does not wait
                raise
            interrupt.requested = True

    def _validation(self) -> dict[str, float]:
        """Return the validation accuracy, or an empty dict if measuring it fails.

        A failed measurement only warns: it is not worth the run.
        """
        learning = self.learning
        try:
            found = validation_accuracy(
                self.run,
                self.settled,
                learning.step,
                learning.state,
                learning.synthetic.result().decode(),
                learning.transform,
                self.distilled,
            )
            return {"validation_accuracy": found}
        except PluginError:
            raise
        except Exception as error:
            warn(f"no validation accuracy at step {learning.step}: {described(error)}")
            return {}

    def distilled(self) -> DistilledSet:
        """Return the set as it is now."""
        if self.learning.step == self.run.steps:
            return self._finished
        return self._as_it_is()

    @cached_property
    def _finished(self) -> DistilledSet:
        """The set after the last step, made once: a teacher may label all its views."""
        return self._as_it_is()

    def _as_it_is(self) -> DistilledSet:
        learning = self.learning
        return finished_set(
            learning.beginning,
            learning.synthetic.result(),
            learning.state,
            learning.step,
            self.plugin_versions,
            learning.architectures,
        )

    def _writer(
        self, written: Callable[[], object]
    ) -> AbstractContextManager[CheckpointWriter | None]:
        if self.run.out is None:
            return nullcontext()
        transform = self.learning.transform
        tensors = {name: each.cpu() for name, each in transform.tensors().items()}
        return CheckpointWriter(
            self.run.out / CHECKPOINT_NAME,
            constant={
                "transform": {"tensors": tensors, "stride": transform.stride},
                "place": self._place,
            },
            written=written,
        )

    @cached_property
    def _place(self) -> dict[str, Any]:
        """The place of the run, as far as its last bits may depend on it."""
        device = self.run.device
        if device.type == "cuda":
            processor = torch.cuda.get_device_name(device)
        else:
            processor = torch.backends.cpu.get_cpu_capability()
        return {
            "processes": self.run.ranks,
            "threads": torch.get_num_threads(),
            "processor": processor,
            "images mapped by the batch": self.learning.sampler.maps_batches,
        }

    def _check_place(self, saved: dict[str, Any]) -> None:
        """Warn if the run goes on where its last bits may differ.

        Raises:
            OptionError: the run is private.
        """
        with checkpoint_errors():
            moved = what_differs(dict(saved.get("place", self._place)), self._place)
        if not moved or self.learning.step == self.run.steps:
            return
        if self.settled.distiller.private:
            raise OptionError(
                f"a private run cannot go on elsewhere ({moved}): the same noise would "
                "hide sums that differ in their last bits"
            )
        warn(
            f"this run goes on elsewhere ({moved}): its set will not be, bit for bit, "
            "that of a run without a break"
        )
