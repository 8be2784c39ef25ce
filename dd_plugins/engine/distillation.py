"""``distill``: turns a user's arguments into a run of the loop."""

import time
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from numbers import Real
from os import PathLike
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset

from dd_plugins.data.image_counts import (
    ImagesPerClass,
    Proportional,
    counts_of_classes,
    parsed_counts,
)
from dd_plugins.data.named import DataOptions
from dd_plugins.data.preprocess import Preprocessing
from dd_plugins.data.real import RealData
from dd_plugins.distillers.base import AbstractDistiller
from dd_plugins.engine.checkpoint import CHECKPOINT_NAME, load_checkpoint
from dd_plugins.engine.estimating import Estimate, check_memory, probed
from dd_plugins.engine.loop import Loop
from dd_plugins.engine.private import check_private
from dd_plugins.engine.restoring import threads_of
from dd_plugins.engine.run_folder import (
    check_folder,
    locked_folder,
    replacing_old_run,
)
from dd_plugins.engine.settled import Settled
from dd_plugins.engine.settling import images_within, settle
from dd_plugins.engine.validation import validation_steps
from dd_plugins.errors import OptionError
from dd_plugins.networks.base import AbstractNetwork
from dd_plugins.networks.factory import NetworkLike
from dd_plugins.plugins.manager import Plugins, loaded_plugins
from dd_plugins.run import Run, RunOptions
from dd_plugins.runtime import processes
from dd_plugins.runtime.device import (
    Precision,
    exact_kernels,
    plain_torch,
    resolve_device,
)
from dd_plugins.synthetic.artifact import DistilledSet
from dd_plugins.synthetic.header import check_nesting
from dd_plugins.tracking.base import AbstractObserver

__all__ = ["distill", "estimate"]


@plain_torch()
def distill(
    data: "str | RealData | tuple[Tensor, Tensor] | Dataset[Any]" = "digits",
    distiller: "str | AbstractDistiller[Any]" = "frepo",
    *,
    images_per_class: ImagesPerClass | None = None,
    budget: int | None = None,
    images_worth: int | None = None,
    steps: int | None = None,
    seed: int = 0,
    network: NetworkLike | None = None,
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
    observers: "str | AbstractObserver | Iterable[str | AbstractObserver]" = (),
    plugins: Plugins | None = None,
) -> DistilledSet:
    """Distil a data set.

    Several processes of torchrun share a run in a block of
    :func:`~dd_plugins.api.process_group`.

    Args:
        data: the name of a data set; or ``RealData``; or images and labels, tensors or
            numpy arrays; or a map-style Dataset of ``(image, label)``.
        distiller: a spec, or a distiller.
        images_per_class: number of stored images for each class, at least 1, which is
            the default; or a number for each class, as a sequence or ``"1, 2, 5"``; or
            ``"proportional(total=100)"``, in proportion to the real images.
        budget: bytes of the stored images, in float32, in place of a number of images:
            the set gets as many images as fit. Labels, and further tensors for
            decoding, are not counted.
        images_worth: a budget, as the number of plain images for each class with the
            same bytes.
        steps: steps of the run; by default the distiller's choice for the data set.
        seed: the seed of every random draw.
        network: the architecture for distillation: a spec, a network, or a function
            that returns a fresh torch module for ``num_classes`` (see
            :class:`~dd_plugins.networks.factory.FactoryNetwork`); by default the
            distiller's choice.
        out: the folder of the run: checkpoints, metrics, pictures and the artifact.
        data_root: the folder of named data sets; by default the environment variable
            ``DD_DATA`` names it.
        download: whether a missing data set may be downloaded to that folder.
        image_size: side in pixels of the resized and cropped images.
        preprocessing: ``"standardize"``, ``"zca"``, ``"pixel-zca"`` or ``"constant"``;
            by default the distiller's choice, or the data's own.
        mirror: whether a mirror image is still of its class; by default the data's own.
        initial_images: the first images of the set: ``"real"`` images, ``"noise"``, the
            choice of a coreset, by its spec, such as ``"herding"``, or the ``"public"``
            images of a private distiller. By default the distiller's choice. Not
            allowed if the context holds images of every class.
        parametrization: the form of the learned images, pixels by default: a spec such
            as ``"packed(factor=2)"``. A stored image may hold several images.
        context: an existing set to extend. The distiller sees both together, and both
            are returned, the context first. A class with images in the context gets no
            new ones. ``data`` must hold all classes of the set, these included.
        refine_context: whether the context is learned further as well. Its labels are
            converted first if this distiller uses another kind.
        device: ``"auto"``, ``"cpu"``, ``"cuda"``, ...
        precision: precision of features; ``"auto"`` is bfloat16 where the hardware has
            it.
        resume: go on with the run in ``out`` exactly where it stopped; without a
            checkpoint, or without its folder, a run starts at step 0.
        overwrite: remove the run in ``out``, and start again.
        checkpoint_seconds: seconds between two checkpoints; 0 for one at every step.
        progress: whether to show progress on standard error.
        observers: further observers of this run: specs such as ``"tensorboard"`` or
            ``"wandb(project='mine')"``, or objects.
        plugins: the plugins for looking up names and finding observers; by default all
            installed plugins.

    Returns:
        The distilled set; with ``out`` also saved there.

    Raises:
        OptionError: an option is out of its range, ``out`` holds a run already, or the
            context has other classes, images, labels or another value space; or several
            processes of torchrun have not joined.
        UnknownNameError: no plugin registers a name.
        DataError: the data cannot be read or used.
        FileError: a checkpoint is damaged or cannot be written.
        PluginError: a method of a plugin returned a wrong value.
        RunError: a gradient was not finite, or the kernel singular.

    Example:
        >>> import dd_plugins
        >>> distilled = dd_plugins.distill("digits", "frepo(pool_size=2)", steps=3)
        >>> len(distilled), distilled.header.label_kind
        (10, 'regression')
    """
    processes.check_joined("distill")
    _check_options(checkpoint_seconds, resume, overwrite, out)
    folder = None if out is None else Path(out)
    writes = folder is not None and processes.rank() == 0
    if folder is not None and writes:
        check_folder(folder, resume, overwrite)
    request = _Request(
        data=data,
        distiller=distiller,
        images_per_class=images_per_class,
        budget=budget,
        images_worth=images_worth,
        steps=steps,
        seed=seed,
        network=network,
        data_root=data_root,
        download=download,
        image_size=image_size,
        preprocessing=preprocessing,
        mirror=mirror,
        initial_images=initial_images,
        parametrization=parametrization,
        context=context,
        refine_context=refine_context,
        device=device,
        precision=precision,
        plugins=plugins,
        folder=folder,
        progress=progress,
        observers=observers,
    )
    loop = _planned(request)
    own_folder = folder if writes else None
    if not resume:  # errors are found before the folder is made
        with exact_kernels():  # a teacher may choose the first images
            loop.prepare()
    with locked_folder(own_folder, resume, overwrite):
        saved = None
        if resume and folder is not None:
            checkpoint = folder / CHECKPOINT_NAME
            if writes and checkpoint.exists():
                saved = load_checkpoint(checkpoint)
            saved = processes.broadcast_object(saved)
        replaced = replacing_old_run(own_folder if overwrite else None)
        with threads_of(saved), exact_kernels(), replaced as has_checkpoint:
            if resume:
                loop.prepare(saved)
            return loop.run_to_end(checkpoint_seconds, has_checkpoint)


@plain_torch()
def estimate(
    data: "str | RealData | tuple[Tensor, Tensor] | Dataset[Any]" = "digits",
    distiller: "str | AbstractDistiller[Any]" = "frepo",
    **options: Any,
) -> Estimate:
    """Estimate the time and memory of a distillation from some of its steps.

    Everything is prepared as for the run; then steps are made for about a second, at
    several stages of the run. No run folder is written; auxiliary networks and unpacked
    archives are kept for later runs, as in a run.

    Args:
        data: as for :func:`distill`.
        distiller: as for :func:`distill`.
        **options: further options of :func:`distill`, but none of its folder, its
            checkpoints, its progress and its observers.

    Returns:
        Seconds, peak memory and disk. The memory is the peak of this process, including
        everything allocated before; ``dd-plugins estimate`` runs in a process of its
        own.

    Raises:
        OptionError: the run cannot fit in the memory; or several processes of torchrun
            call it; or as by :func:`distill`.
        DataError: as by :func:`distill`.

    Example:
        >>> import dd_plugins
        >>> found = dd_plugins.estimate("digits", "dm", steps=100, network="mlp")
        >>> found.steps, found.seconds > 0
        (100, True)
    """
    processes.check_alone("estimate")
    own = {"data", "distiller", "folder", "progress", "observers"}
    known = {field.name for field in fields(_Request)} - own
    for name in options.keys() - known:
        raise TypeError(f"estimate() got an unexpected keyword argument {name!r}")
    started = time.perf_counter()
    loop = _planned(_Request(data=data, distiller=distiller, **options))
    with exact_kernels():
        loop.prepare()
        preparation_seconds = time.perf_counter() - started
        try:
            step_seconds = probed(loop.make_step, loop.run.steps)
            return loop.estimate(preparation_seconds, step_seconds)
        finally:
            loop.learning.sampler.close()


@dataclass(frozen=True, kw_only=True, eq=False)
class _Request:
    """The arguments of :func:`distill` for one run, apart from its checkpoints."""

    data: Any
    distiller: "str | AbstractDistiller[Any]"
    images_per_class: ImagesPerClass | None = None
    budget: int | None = None
    images_worth: int | None = None
    steps: int | None = None
    seed: int = 0
    network: NetworkLike | None = None
    data_root: str | Path | None = None
    download: bool = False
    image_size: int | None = None
    preprocessing: Preprocessing | None = None
    mirror: bool | None = None
    initial_images: str | None = None
    parametrization: str = "identity"
    context: DistilledSet | None = None
    refine_context: bool = False
    device: str = "auto"
    precision: Precision = "auto"
    plugins: Plugins | None = None
    folder: Path | None = None
    progress: bool = False
    observers: "str | AbstractObserver | Iterable[str | AbstractObserver]" = ()

    @property
    def has_budget(self) -> bool:
        """Whether a budget gives the number of images."""
        return self.budget is not None or self.images_worth is not None

    @property
    def context_labels(self) -> list[int]:
        """The class of each image of the context."""
        return [] if self.context is None else self.context.header.initial_classes


def _planned(request: _Request) -> Loop:
    """Return the loop of a run, with every choice settled and nothing made yet."""
    _check_context(request.context, request.refine_context)
    plugins = request.plugins or loaded_plugins()
    method = plugins.distiller(request.distiller)
    network = None if request.network is None else plugins.network(request.network)
    observers = _observers(request, plugins)
    each = request.images_per_class
    counts = parsed_counts(1 if each is None else each)
    options = _options(request, method, network)
    plugins.initial_images(request.initial_images or method.initial_images)
    stored = plugins.parametrization(request.parametrization)
    _check_budget(request)
    resolve_device(request.device)  # a wrong device is refused before data is read
    where = DataOptions(
        root=None if request.data_root is None else Path(request.data_root),
        download=request.download,
        image_size=request.image_size,
    )
    real = plugins.real_data(request.data, where)
    if request.has_budget:
        budget, worth = request.budget, request.images_worth
        counts = images_within(stored, real, budget=budget, images_worth=worth)
    _check_private_counts(method, counts)
    counts = counts_of_classes(counts, real.train.labels, real.num_classes)
    _check_initial_images(request, real)
    public = None
    if method.public_data is not None:
        public = plugins.dataset(method.public_data, where).undivided()
    settled = settle(
        replace(options, images_per_class=counts),
        real,
        plugins,
        device=request.device,
        context_labels=request.context_labels,
        distiller=method,
        network=network,
        public=public,
    )
    run = _run(settled, request)
    for observer in observers if run.rank == 0 else ():
        observer.check(run)
    check_private(settled, run, request.context)
    check_memory(settled, run)
    return Loop(run, settled, plugins, request.folder, request.context, observers)


def _observers(request: _Request, plugins: Plugins) -> tuple[AbstractObserver, ...]:
    """Return the requested observers."""
    observers = request.observers
    if isinstance(observers, str | AbstractObserver):
        observers = [observers]
    return tuple(map(plugins.observer, observers))


def _options(
    request: _Request, method: AbstractDistiller[Any], network: AbstractNetwork | None
) -> RunOptions:
    """Return the options of a run, except for the counts of images."""
    return RunOptions(
        distiller=repr(method),
        steps=request.steps,
        seed=request.seed,
        network=None if network is None else repr(network),
        initial_images=request.initial_images,
        parametrization=request.parametrization,
        preprocessing=request.preprocessing,
        mirror=request.mirror,
        precision=request.precision,
        refine_context=request.refine_context,
    )


def _run(settled: Settled, request: _Request) -> Run:
    """Return the part of this process in a settled run."""
    steps = settled.options.steps or 1
    return Run(
        task=settled.task,
        distiller=settled.options.distiller,
        network=settled.network.for_distillation(),
        steps=steps,
        seed=settled.options.seed,
        device=settled.device,
        precision=settled.precision,
        out=request.folder if processes.rank() == 0 else None,
        progress=request.progress,
        rank=processes.rank(),
        ranks=processes.world_size(),
        validation_steps=validation_steps(settled, steps),
    )


def _check_options(
    checkpoint_seconds: float,
    resume: bool,
    overwrite: bool,
    out: str | Path | None,
) -> None:
    if not isinstance(checkpoint_seconds, Real) or not checkpoint_seconds >= 0:
        raise OptionError(
            "checkpoint_seconds must be a number that is not negative, got "
            f"{checkpoint_seconds!r}"
        )
    if out is not None and not isinstance(out, str | PathLike):
        raise OptionError(f"out must be a path, got {type(out).__name__}")
    if resume and overwrite:
        raise OptionError("expected either resume or overwrite, got both")
    if resume and out is None:
        raise OptionError("resume needs the folder of the run, got none; pass out")


def _check_context(context: DistilledSet | None, refine_context: bool) -> None:
    if context is not None and not isinstance(context, DistilledSet):
        raise OptionError(
            f"context must be a DistilledSet, got {type(context).__name__}; load a "
            "path with DistilledSet.load"
        )
    if context is not None:
        check_nesting(context.header, more=1)
    if refine_context and context is None:
        raise OptionError("refine_context needs a context, got none")


def _check_budget(request: _Request) -> None:
    if request.has_budget and request.context is not None:
        raise OptionError("a budget is that of a whole set: expected no context")
    if request.has_budget and request.images_per_class is not None:
        raise OptionError("expected either images_per_class or a budget, got both")


def _check_private_counts(method: AbstractDistiller[Any], counts: object) -> None:
    if method.private and isinstance(counts, Proportional):
        raise OptionError(
            f"{method.name} is private, and must not count the images of a class for "
            f"{counts!r}; give a number for each class"
        )


def _check_initial_images(request: _Request, real: RealData) -> None:
    first, held = request.initial_images, request.context_labels
    if first is not None and len(set(held)) == real.num_classes:
        raise OptionError(
            "initial_images needs a class of which the context holds no images, got "
            f"{first!r} and a context of all {real.num_classes} classes; leave out "
            "initial_images"
        )
