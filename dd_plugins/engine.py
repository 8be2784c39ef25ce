"""The one loop: every distiller runs in it."""

import copy
import math
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from numbers import Real
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from dd_plugins import parallel
from dd_plugins.arguments import as_real_data
from dd_plugins.artifact import (
    ARTIFACT_NAME,
    ContextRecord,
    DataRecord,
    DistilledSet,
    check_nesting,
    library_versions,
    make_header,
)
from dd_plugins.checkpoint import CHECKPOINT_NAME, CheckpointWriter, load_checkpoint
from dd_plugins.data import DataOptions, Images, RealData, sampler_of
from dd_plugins.distillers.base import AbstractDistiller, check_saved
from dd_plugins.errors import (
    DDError,
    DDWarning,
    FileError,
    OptionError,
    PluginError,
    RunError,
    what_differs,
)
from dd_plugins.evaluate import recipe_for, training_set_of
from dd_plugins.networks.base import AbstractNetwork
from dd_plugins.observers import Observers
from dd_plugins.parametrizations import Identity, decodes_alone
from dd_plugins.plugins import Plugins, loaded_plugins
from dd_plugins.preprocess import Preprocessing, Transform
from dd_plugins.randomness import isolated
from dd_plugins.returned import (
    check_codec,
    check_labels,
    check_learnables,
    check_logits,
    check_metrics,
    check_optimizer,
    check_places,
    check_recipe,
    check_saved_state,
    check_schedule,
    check_state,
)
from dd_plugins.run import (
    Precision,
    Run,
    RunOptions,
    exact_kernels,
    plain_torch,
    resolve_device,
    threads,
)
from dd_plugins.run_folder import (
    RUN_FILES,
    SUMMARY_NAME,
    check_folder,
    folder_of_its_own,
    in_place_of_the_old,
)
from dd_plugins.settling import Settled, settle
from dd_plugins.signals import DeferredInterrupt
from dd_plugins.spec import Record
from dd_plugins.synthetic import Codec, Leaves, Parameters, Synthetic
from dd_plugins.training import accuracy, train_network

__all__ = ["RUN_FILES", "SUMMARY_NAME", "distill"]

_ADVICE = "lower the learning rate, or use --precision float32"
_LONGEST_REASON = 200  # characters
_MOST_THREADS = 4096
_LARGEST = 1e6  # in the value space, where images are of variance 1 by channel
_VALIDATIONS = 10  # times in a run that validation accuracy is measured
_VALIDATION_IMAGES = 1_000  # of them at most, at a time
_PROBE_STEPS = 200  # that a network is trained for such a figure


@plain_torch()
def distill(
    data: "str | RealData | tuple[Tensor, Tensor] | Dataset[Any]" = "digits",
    distiller: "str | AbstractDistiller[Any]" = "frepo",
    *,
    images_per_class: int = 1,
    steps: int | None = None,
    seed: int = 0,
    network: str | AbstractNetwork | None = None,
    out: str | Path | None = None,
    data_root: str | Path | None = None,
    download: bool = False,
    image_size: int | None = None,
    preprocessing: Preprocessing | None = None,
    mirror: bool | None = None,
    initial_images: str | None = None,
    parametrization: str = "identity",
    context: DistilledSet | None = None,
    refine_context: bool = False,
    device: str = "auto",
    precision: Precision = "auto",
    resume: bool = False,
    overwrite: bool = False,
    checkpoint_seconds: float = 30.0,
    progress: bool = False,
    plugins: Plugins | None = None,
) -> DistilledSet:
    """Distil a data set.

    Args:
        data: the name of a data set; or ``RealData``; or images and labels, tensors or
            numpy arrays; or a map-style Dataset of ``(image, label)``.
        distiller: a spec, or a distiller.
        images_per_class: synthetic images for each class, at least 1.
        steps: steps of the run; by default the distiller's choice for the data set.
        seed: from which every random draw is derived.
        network: the architecture on which the set is distilled: a spec, or a network;
            by default the distiller's choice.
        out: the folder of the run: checkpoints, metrics, pictures and the artifact.
        data_root: the folder that holds named data sets.
        download: whether a missing named data set may be downloaded there.
        image_size: side in pixels to which the images of a folder are resized.
        preprocessing: ``"standardize"`` or ``"zca"``; by default the distiller's
            choice, or the data's own.
        mirror: whether a mirror image is still of its class; by default the data's own.
        initial_images: what the set begins as: ``"real"`` images, ``"noise"``, or the
            spec of a core set, such as ``"herding"``: the real images that it chooses.
            By default the distiller's choice. Not beside a context of all classes.
        parametrization: what is learned in place of pixels: a spec such as
            ``"packed(factor=2)"``. ``images_per_class`` counts stored images, of which
            each may hold several.
        context: a set beside which this one is made. The distiller sees both together,
            and both are returned, the context first. A class of which the context
            holds images gets no new ones; ``data`` says, for these classes too, what
            the whole is to be good for.
        refine_context: whether the context is learned further as well.
        device: ``"auto"``, ``"cpu"``, ``"cuda"``, ...
        precision: of features: ``"auto"`` is bfloat16 where the hardware has it.
        resume: go on with the run in ``out`` where it stopped, exactly; one that did
            not reach its first checkpoint, or its folder, starts at step 0.
        overwrite: remove the run that ``out`` holds, and start anew.
        checkpoint_seconds: a checkpoint is written when this much time has passed since
            the last one; 0 for one at every step.
        progress: whether to show progress on standard error.
        plugins: where names are looked up and observers found; by default all that is
            installed.

    Returns:
        The distilled set; with ``out`` also saved there.

    Raises:
        OptionError: an option is out of its range, ``out`` holds a run already, or the
            context is of other classes, images, labels or another value space.
        UnknownNameError: no plugin registers a name.
        DataError: the data cannot be read or used.
        FileError: a checkpoint is damaged or cannot be written.
        RunError: a gradient was not finite, or the kernel singular.

    Example:
        >>> import dd_plugins
        >>> distilled = dd_plugins.distill("digits", "frepo(pool_size=2)", steps=3)
        >>> len(distilled), distilled.header.label_kind
        (10, 'regression')
    """
    found = plugins or loaded_plugins()
    method = found.distiller(distiller)
    chosen_network = None if network is None else found.network(network)
    asked = RunOptions(
        distiller=repr(method),
        images_per_class=images_per_class,
        steps=steps,
        seed=seed,
        network=None if chosen_network is None else repr(chosen_network),
        initial_images=initial_images,
        parametrization=parametrization,
        preprocessing=preprocessing,
        mirror=mirror,
        precision=precision,
        refine_context=refine_context,
    )
    _check_options(checkpoint_seconds, resume, overwrite, out, context, refine_context)
    found.initial_images(initial_images or method.initial_images)
    folder = None if out is None else Path(out)
    writes = folder is not None and parallel.rank() == 0
    if folder is not None and writes:
        check_folder(folder, resume, overwrite)
    resolve_device(device)  # what is wrong is said before data is read
    where = DataOptions(
        root=None if data_root is None else Path(data_root),
        download=download,
        image_size=image_size,
    )
    real = as_real_data(data, where, found)
    held = [] if context is None else context.header.initial_classes
    if initial_images is not None and len(set(held)) == real.num_classes:
        raise OptionError(
            "the context holds images of every class, so that none begins as "
            f"{initial_images}; leave out initial_images"
        )
    settled = settle(
        asked,
        real,
        found,
        device=device,
        held=len(held),
        held_classes=len(set(held)),
        distiller=method,
        network=chosen_network,
    )
    run = Run(
        settled.task,
        settled.options.distiller,
        settled.network.for_distillation(),
        settled.options.steps or 1,
        settled.options.seed,
        settled.device,
        settled.precision,
        folder if writes else None,
        progress,
        parallel.rank(),
        parallel.world_size(),
    )
    loop = _Loop(run, settled, found, folder, context)
    own_folder = folder if writes else None
    if not resume:  # what is wrong is found before there is a folder
        loop.prepare()
    with folder_of_its_own(own_folder, resume, overwrite):
        saved = []
        if resume and folder is not None:
            checkpoint = folder / CHECKPOINT_NAME
            there = writes and checkpoint.exists()
            saved = [load_checkpoint(checkpoint)] if there else []
            saved = parallel.broadcast_object(saved)
        replaced = in_place_of_the_old(own_folder if overwrite else None)
        with _threads_of(*saved), exact_kernels(), replaced as has_checkpoint:
            if resume:
                loop.prepare(*saved)
            return loop.run_to_end(checkpoint_seconds, has_checkpoint)


def _threads_of(saved: dict[str, Any] | None = None) -> AbstractContextManager[None]:
    """Return the block in which a run has the threads that it began with.

    Raises:
        FileError: the checkpoint does not hold what it must.
    """
    own = torch.get_num_threads()
    with _foreign_is_told():
        place = {} if saved is None else dict(saved.get("place", {}))
        count = place.get("threads", own)
        if type(count) is not int or not 1 <= count <= _MOST_THREADS:
            raise ValueError(f"{count!r} threads")
    if count != own:
        _warn(
            f"this run goes on with the number of threads that it began with, {count} "
            f"and not {own}: so it ends with the same bits"
        )
    return threads(count)


def _check_options(
    checkpoint_seconds: float,
    resume: bool,
    overwrite: bool,
    out: str | Path | None,
    context: DistilledSet | None,
    refine_context: bool,
) -> None:
    if not isinstance(checkpoint_seconds, Real) or not checkpoint_seconds >= 0:
        raise OptionError(
            "checkpoint_seconds must be a number that is not negative, got "
            f"{checkpoint_seconds!r}"
        )
    if out is not None and not isinstance(out, str | PathLike):
        raise OptionError(f"out must be a path, got {type(out).__name__}")
    if resume and overwrite:
        raise OptionError("resume and overwrite exclude each other; choose one")
    if context is not None and not isinstance(context, DistilledSet):
        raise OptionError(
            f"context must be a DistilledSet, got {type(context).__name__}; load a "
            "path with DistilledSet.load"
        )
    if context is not None:
        check_nesting(context.header, more=1)
    if refine_context and context is None:
        raise OptionError("refine_context needs a context")
    if resume and out is None:
        raise OptionError("resume needs the folder of the run: pass out")


def _check_context(
    context: DistilledSet,
    real: RealData,
    transform: Transform,
    distiller: AbstractDistiller[Any],
) -> None:
    """Refuse a context that cannot stand beside the set that is to be made."""
    header = context.header
    compared = {
        "classes": (header.class_names, list(real.class_names)),
        "image shape": (tuple(context.images.shape[1:]), real.image_shape),
        "kind of labels": (header.label_kind, distiller.label_kind),
        "value space": (context.transform.fingerprint, transform.fingerprint),
    }
    for what, (held, wanted) in compared.items():
        if held != wanted:
            raise OptionError(
                f"the context has another {what} than the set that is to be made: "
                f"{held} and {wanted}"
            )


def _all_finite(tensors: Iterable[Tensor]) -> Tensor:
    return torch.stack([torch.isfinite(tensor).all() for tensor in tensors]).all()


def _largest(tensors: Iterable[Tensor]) -> Tensor:
    """Return the largest absolute value; NaN if there is one."""
    ends = [end for tensor in tensors for end in tensor.aminmax()]
    return torch.stack(ends).abs().amax()


def _warn(message: str) -> None:
    warnings.warn(message, DDWarning, stacklevel=3)


class _Wishes(NamedTuple):
    """What is to happen after a step, if any process wishes it."""

    stop: bool
    save: bool


@dataclass
class _Loop:
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
        transform = None if saved is None else self._transform_of(saved)
        with self._told_failures():
            self._begin(transform)
        if saved is not None:
            self._restore(saved)

    def _begin(self, transform: Transform | None) -> None:
        run, train = self.run, self.real.train
        self.transform, self.sampler = sampler_of(
            self.real,
            transform=transform,
            seed=run.seed,
            device=run.device,
            precision=run.precision,
            rank=run.rank,
            ranks=run.ranks,
        )
        self.classes, self.indices = self._beginning()
        if self.indices is None:
            shape = (len(self.classes), *run.task.image_shape)
            generator = run.generator("initial noise")
            chosen = torch.randn(shape, generator=generator)
        else:
            chosen = self.transform(train.images[self.indices])
        classes, count = run.task.num_classes, len(self.classes)
        labels = self.distiller.initial_labels(self.classes, classes)
        labels = check_labels(self.distiller, labels, count, classes)
        image_classes, fixed = self.classes, None
        if self.context is not None:
            held = torch.tensor(self.context.header.initial_classes)
            beside = Leaves(self.context.images, self.context.labels, held)
            if self.settled.options.refine_context:
                chosen = torch.cat([beside.pixels, chosen])
                labels = torch.cat([beside.labels, labels])
                image_classes = torch.cat([held, image_classes])
            else:
                fixed = Leaves(
                    beside.pixels.to(run.device),
                    beside.labels.to(run.device),
                    held.to(run.device),
                )
        others = check_learnables(self.distiller, self.distiller.learnables(run))
        self.synthetic = Synthetic(
            chosen.to(run.device),
            labels.to(run.device),
            image_classes,
            learn_labels=self.distiller.learns_labels,
            others={name: each.to(run.device) for name, each in others.items()},
            codec=self._codec(),
            fixed=fixed,
        )
        state = self.distiller.setup(run, self.sampler)
        self.state = check_state(self.distiller, state)
        self.optimizer, self.schedule = self._moving(self.synthetic.parameters())
        self.seconds = 0.0

    def _codec(self) -> Codec | None:
        """Return how images are stored; None if pixels are stored as they are."""
        settled = self.settled
        if isinstance(settled.parametrization, Identity):
            return None
        if settled.options.refine_context:
            raise OptionError(
                "a context is refined pixel by pixel: expected the parametrization "
                f"identity, got {settled.options.parametrization}"
            )
        transform = self.transform.to(self.run.device)
        codec = settled.parametrization.codec(self.run, self.sampler, transform)
        return check_codec(settled.parametrization, codec)

    def _moving(
        self, parameters: Parameters
    ) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
        """Return what moves these tensors."""
        optimizer = self.distiller.optimizer(parameters)
        optimizer = check_optimizer(self.distiller, optimizer, parameters)
        schedule = self.distiller.schedule(optimizer, self.run.steps)
        return optimizer, check_schedule(self.distiller, schedule, optimizer)

    def _beginning(self) -> tuple[Tensor, Tensor | None]:
        """Return the classes of the new part of the set, and what it begins as.

        That are the places of real images; None if it begins as noise.

        Raises:
            OptionError: the context does not fit, or leaves nothing to distil.
        """
        task, places = self.run.task, None
        if self.settled.initial_images == "noise":
            classes = torch.arange(task.num_classes)
            classes = classes.repeat_interleave(task.images_per_class)
        else:
            chooser = self.distiller
            if self.settled.initial_images != "real":
                chooser = self.settled.initial_images
            labels = self.real.train.labels
            places = check_places(
                chooser,
                chooser.choose(self.run, self.sampler),
                labels,
                task.images_per_class,
            )
            classes = labels[places]
        if self.context is None:
            return classes, places
        _check_context(self.context, self.real, self.transform, self.distiller)
        held = torch.tensor(self.context.header.initial_classes)
        new = ~torch.isin(classes, held)
        if not new.any() and not self.settled.options.refine_context:
            raise OptionError(
                "the context holds images of every class; leave out those that are to "
                "be made anew, or refine it"
            )
        return classes[new], None if places is None else places[new]

    @cached_property
    def configuration(self) -> dict[str, Any]:
        """Everything that must be the same when a run goes on."""
        real, context = self.real, self._context_record
        asked = self.settled.options.arguments()
        return {
            "data set": real.fingerprint,
            "value space": real.value_space,
            "context": None if context is None else context.header.content_hash,
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
        parallel.broadcast(list(self.synthetic.parameters()))
        if parallel.rank() > 0:
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

        def wishes_now() -> _Wishes:
            due = time.monotonic() - saved >= checkpoint_seconds
            return _Wishes(interrupt.requested, due and parallel.rank() == 0)

        while self.step < self.run.steps:
            with self._told_failures():
                metrics, wishes = self._one_step(wishes_now())
            self.seconds = before + time.monotonic() - started
            if parallel.rank() == 0:
                self._report(metrics, interrupt)
            if parallel.world_size() == 1:  # nobody has to agree
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
            if self._validation_is_due():
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
            return {"validation_accuracy": self._validation_accuracy()}
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

    def _one_step(self, wishes: _Wishes) -> tuple[dict[str, float], _Wishes]:
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
        largest = _largest(self.synthetic.parameters())
        # One transfer from the device for all figures of the step. The state is not yet
        # advanced, and no checkpoint holds what was just updated.
        checks = [check.to(metrics["loss"]) for check in (finite, largest)]
        figures = torch.stack([*metrics.values(), *checks]).tolist()
        reported = dict(zip(metrics, figures, strict=False))
        is_finite, size = figures[-2:]
        wrong = None
        if not is_finite:
            wrong = "the loss or its gradient is not finite"
        elif not math.isfinite(size):
            wrong = "the set is not finite after an update"
        elif size > _LARGEST:
            wrong = f"the set has grown to {size:.2g}, which is no image, in an update"
        if wrong:
            raise self._failure(f"{wrong} (loss {reported['loss']:g}); {_ADVICE}")
        self.schedule.step()
        self.distiller.advance(self.state, self.synthetic.decode(), self.step)
        self.step += 1
        return reported, wishes

    def _average(
        self, leaves: Leaves, metrics: dict[str, Tensor], wishes: _Wishes
    ) -> _Wishes:
        """Average gradients and metrics over the processes; return all their wishes."""
        if parallel.world_size() == 1:
            return wishes
        learned = [leaf for leaf in leaves.learned() if leaf.grad is not None]
        gradients = [leaf.grad for leaf in learned if leaf.grad is not None]
        figures = torch.stack([value.float() for value in metrics.values()])
        asked = torch.tensor(wishes, dtype=torch.float32, device=figures.device)
        try:
            *gradients, figures, asked = parallel.average([*gradients, figures, asked])
        except RunError as error:
            raise self._failure(str(error)) from error
        for leaf, gradient in zip(learned, gradients, strict=True):
            leaf.grad = gradient
        metrics |= dict(zip(metrics, figures, strict=True))
        return _Wishes(*(bool(wish) for wish in asked))

    def _failure(self, what: str) -> RunError:
        """Return the error with which a run stops, and what is still good."""
        good = None if self.folder is None else self.folder / CHECKPOINT_NAME
        kept = (
            f"; the last good checkpoint is {good}: --resume goes on with it"
            if good and good.exists()
            else ""
        )
        return RunError(f"{what}, at step {self.step} of {self.run.distiller}{kept}")

    def _validation_is_due(self) -> bool:
        every = max(1, self.run.steps // _VALIDATIONS)
        has_images = len(self.real.validation.labels) > 0
        return has_images and (self.step % every == 0 or self.step == self.run.steps)

    def _validation_accuracy(self) -> float:
        """Return the accuracy on held-out images, by the method's own predictor.

        A method that has none is judged by a fresh network trained on the set, for 200
        steps at most: lower than what an evaluation finds.
        """
        generator = self.run.generator("validation", self.step)
        order = torch.randperm(len(self.real.validation.labels), generator=generator)
        chosen = order[:_VALIDATION_IMAGES]
        images = Images(*(tensor[chosen] for tensor in self.real.validation))
        leaves = self.synthetic.decode()
        probe = self.transform(images.images[:1]).to(self.run.device)
        task = self.run.task

        def predict(images: Tensor) -> Tensor | None:
            logits = self.distiller.predict(self.state, leaves, images)
            return check_logits(self.distiller, logits, len(images), task.num_classes)

        if predict(probe) is None:
            module = self.settled.network.for_evaluation().build(
                task.image_shape, task.num_classes, generator=generator
            )
            distilled = self.distilled()
            recipe = recipe_for(distilled)
            classify: Callable[[Tensor], Tensor | None] = train_network(
                module.to(self.run.device),
                training_set_of(distilled, device=self.run.device),
                replace(recipe, steps=min(recipe.steps, _PROBE_STEPS)),
                generator=generator,
                precision=self.run.precision,
            )
        else:
            classify = predict
        return accuracy(
            classify,  # type: ignore[arg-type]
            images,
            self.transform,
            device=self.run.device,
            batch_size=len(images.labels),  # a prediction computes all that supports it
        )

    def distilled(self) -> DistilledSet:
        """Return the set as it is now."""
        run, real = self.run, self.real
        leaves = self.synthetic.decode()
        images = leaves.pixels.detach().cpu().contiguous().clone()
        count, classes = len(images), run.task.num_classes
        labels = self.distiller.labels(self.state, leaves)
        labels = check_labels(self.distiller, labels, count, classes, "labels")
        initial_classes, initial_indices = self._began_as()
        recipe = check_recipe(self.distiller, self.distiller.recipe(run.task, count))
        options = replace(self.settled.options, steps=self.step)
        header = make_header(
            self.plugin_versions,
            self.transform,
            options,
            label_kind=self.distiller.label_kind,
            class_names=list(real.class_names),
            initial_classes=initial_classes,
            initial_indices=initial_indices,
            initial_images=options.initial_images if len(self.classes) else None,
            options={
                name: repr(value) for name, value in self.distiller.options().items()
            },
            evaluation_network=repr(self.settled.network.for_evaluation()),
            recipe=repr(recipe),
            learned={
                name: each.detach().flatten().tolist()
                for name, each in leaves.others.items()
            },
            dataset=DataRecord(
                name=real.name,
                fingerprint=real.fingerprint,
                train_images=len(real.train.labels),
                image_size=real.image_size,
            ),
            context=self._context_record,
            **self._budget(),
        )
        distilled = DistilledSet(
            images, labels.detach().cpu().clone(), self.transform, header
        )
        if self.context is not None or not decodes_alone(self.settled.parametrization):
            return distilled
        stored = self.synthetic.stored()
        return replace(
            distilled,
            stored={name: each.cpu().contiguous() for name, each in stored.items()},
        )

    def _budget(self) -> dict[str, int]:
        """Return how many images are stored, and of how many values."""
        stored = list(self.synthetic.stored().values())
        images = len(stored[0])
        values = sum(each.numel() for each in stored)
        if self.context is not None and not self.settled.options.refine_context:
            held = self.context.header
            images += held.stored_images or len(self.context)
            values += held.stored_values or self.context.images.numel()
        return {"stored_images": images, "stored_values": values}

    def _began_as(self) -> tuple[list[int], list[int] | None]:
        """Return the class and, where all are known, the real image of each image."""
        classes = self.classes.tolist()
        places = []
        known = self.indices is not None or not classes
        if self.indices is not None:
            places = self.real.train_indices[self.indices].tolist()
        if self.context is not None:
            held = self.context.header
            known &= held.dataset.fingerprint == self.real.fingerprint
            known &= held.initial_indices is not None
            classes = [*held.initial_classes, *classes]
            places = [*(held.initial_indices or ()), *places]
        return classes, places if known else None

    @cached_property
    def _context_record(self) -> ContextRecord | None:
        if self.context is None:
            return None
        hashed = {"content_hash": self.context.content_hash()}
        header = self.context.header.model_copy(update=hashed)
        return ContextRecord(refined=self.settled.options.refine_context, header=header)

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
            parts = parallel.gather_to_first(self._own_state())
        except RunError as error:
            raise self._failure(str(error)) from error
        if parts is None:
            return None
        return check_saved_state(self.distiller, self.state.merge(parts), "merge")

    def _transform_of(self, saved: dict[str, Any]) -> Transform | None:
        """Return the map to the value space that a checkpoint holds, if it holds one.

        Fitted again, by another number of threads, it would differ in its last bits.

        Raises:
            OptionError: the run is not the one that wrote the checkpoint.
            FileError: the checkpoint does not hold what it must.
        """
        with _foreign_is_told():
            before = dict(saved["configuration"])
            for name, value in before.items():
                if not isinstance(value, str | int | float | None):
                    raise ValueError(f"{name} is a {type(value).__name__}")
            differing = what_differs(before, self.configuration)
            if differing:
                advice = "repeat the command of the first run with --resume"
                if before | {"steps": self.run.steps} == self.configuration:
                    advice += (
                        "; to learn its set further, pass the run as --context with "
                        "--refine-context, and another --out"
                    )
                raise OptionError(
                    f"cannot resume with other options: {differing}; {advice}"
                )
            if "transform" not in saved:
                return None
            check_saved(saved["transform"]["stride"], 1, "transform.stride")
            transform = Transform.from_tensors(**saved["transform"])
            for name, tensor in transform.tensors().items():
                check_saved(tensor, torch.empty(tensor.shape), f"transform.{name}")
            image = self.real.train.images[:1]
            if transform(image).shape != image.shape:
                raise ValueError("the transform is for other images")
            return transform

    def _restore(self, saved: dict[str, Any]) -> None:
        """Continue from a checkpoint, whose configuration is that of the run.

        Raises:
            FileError: the checkpoint does not hold what it must.
        """
        with _foreign_is_told():
            step, seconds = saved["step"], saved["seconds"]
            if type(step) is not int or not 0 <= step <= self.run.steps:
                raise ValueError(f"step {step!r} of {self.run.steps}")
            check_saved(seconds, self.seconds, "seconds")
            if seconds < 0:
                raise ValueError(f"{seconds} seconds")
            check_saved(saved["synthetic"], self.synthetic.state_dict(), "synthetic")
            if step < self.run.steps:
                self._rehearse(saved)
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

    def _rehearse(self, saved: dict[str, Any]) -> None:
        """Make a step of the optimizer and the schedule that were saved, with copies.

        What they hold is known to torch alone; it fails here, or moves nothing to
        where no image is.
        """
        parameters = self.synthetic.parameters().map(torch.clone)
        with isolated(self.run.generator("rehearsal")):  # the global state stays
            optimizer, schedule = self._moving(parameters)
            base_rates = getattr(schedule, "base_lrs", None)
            optimizer.load_state_dict(copy.deepcopy(saved["optimizer"]))
            schedule.load_state_dict(copy.deepcopy(saved["schedule"]))
            check_saved(getattr(schedule, "base_lrs", None), base_rates, "base_lrs")
            for parameter in parameters:
                parameter.grad = torch.zeros_like(parameter)
            optimizer.step()
            schedule.step()
        rates = [float(group["lr"]) for group in optimizer.param_groups]
        if not all(map(math.isfinite, rates)):
            raise ValueError("a learning rate is not finite")
        if not _largest(parameters) <= _LARGEST:
            raise ValueError("the optimizer holds values that are not finite")


@contextmanager
def _foreign_is_told() -> Iterator[None]:
    """Say in a line that a checkpoint is not what it must be.

    Raises:
        FileError: anything but an OptionError came.
    """
    try:
        yield
    except (OptionError, MemoryError):
        raise
    except Exception as error:  # what is restored may be anything
        reason = " ".join(str(error).split())
        if len(reason) > _LONGEST_REASON:
            reason = f"{reason[:_LONGEST_REASON]}..."
        raise FileError(
            f"the checkpoint is foreign or damaged ({type(error).__name__}: {reason}); "
            "start anew with --overwrite"
        ) from error
