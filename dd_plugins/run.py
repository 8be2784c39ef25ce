"""What a distiller is told of the run it serves."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from dd_plugins.checks import whole_number
from dd_plugins.errors import OptionError
from dd_plugins.networks.base import AbstractNetwork, FeatureNetwork, ImageShape
from dd_plugins.preprocess import Preprocessing
from dd_plugins.randomness import derive

__all__ = [
    "DEFAULT_NETWORK",
    "Precision",
    "Run",
    "RunOptions",
    "Task",
    "autocast",
    "exact_kernels",
    "plain_torch",
    "resolve_device",
    "resolve_precision",
    "threads",
]

Precision = Literal["auto", "float32", "bfloat16"]

DEFAULT_NETWORK = "conv"
"""On which a set is distilled, where neither the user nor the distiller says."""


@dataclass(frozen=True)
class RunOptions:
    """What a run is asked for: all but data, context and place.

    :func:`dd_plugins.distill` builds it from its arguments. A checkpoint is compared
    with a complete one (see :func:`~dd_plugins.settling.settle`); ``header.run`` is
    that of a finished set. To repeat a run with other data or another seed, write
    ``distill(data, **replace(header.run, seed=1).arguments())``.

    Attributes:
        distiller: the spec of the distiller.
        images_per_class: stored images for each class, at least 1.
        steps: steps of the run, at least 1; None for the distiller's choice.
        seed: from which every random draw is derived.
        network: the spec of the network on which is distilled; None for the distiller's
            choice.
        initial_images: ``"real"``, ``"noise"`` or the spec of a core set; None for the
            distiller's choice.
        parametrization: the spec of what is learned in place of pixels.
        preprocessing: the value space; None for the distiller's or the data's own.
        mirror: whether a mirror image is still of its class; None for the data's own.
        precision: of features.
        refine_context: whether a context is learned further.

    Raises:
        OptionError: a number is none, or too small.
    """

    distiller: str = "frepo"
    images_per_class: int = 1
    steps: int | None = None
    seed: int = 0
    network: str | None = None
    initial_images: str | None = None
    parametrization: str = "identity"
    preprocessing: Preprocessing | None = None
    mirror: bool | None = None
    precision: Precision = "auto"
    refine_context: bool = False

    def __post_init__(self) -> None:
        """Take the whole numbers of other libraries as Python's."""

        def settle(name: str, least: int | None) -> None:
            number = whole_number(name, getattr(self, name), least=least)
            object.__setattr__(self, name, number)

        settle("images_per_class", 1)
        settle("seed", None)
        if self.steps is not None:
            settle("steps", 1)

    def arguments(self) -> dict[str, Any]:
        """Return the keyword arguments of ``distill`` that ask for this."""
        return {each.name: getattr(self, each.name) for each in fields(self)}


@dataclass(frozen=True)
class Task:
    """What is to be distilled, before the options of the run are settled.

    Attributes:
        dataset: the name of the data set.
        image_shape: channels, height and width.
        num_classes: number of classes.
        images_per_class: synthetic images for each class, as the distiller sees them.
        steps: steps that were asked for, or None.
        mirror: whether the mirror image of a real image is still of its class.
        held: images of a context, which are part of the set.
        held_classes: classes that begin with none beside the context's.
    """

    dataset: str
    image_shape: ImageShape
    num_classes: int
    images_per_class: int
    steps: int | None = None
    mirror: bool = False
    held: int = 0
    held_classes: int = 0

    @property
    def synthetic_images(self) -> int:
        """Images of the set, those of a context included."""
        begun = self.images_per_class * (self.num_classes - self.held_classes)
        return self.held + begun


@dataclass(frozen=True, eq=False)
class Run:
    """One run, as distillers and observers see it.

    Attributes:
        task: what is distilled.
        distiller: the spec of the distiller, complete.
        network: the architecture on which the set is distilled.
        steps: steps of the whole run.
        seed: the seed from which every draw is derived.
        device: where tensors live.
        precision: dtype in which features are computed.
        out: the folder of the run, or None.
        progress: whether to show progress on standard error.
        rank: the number of this process; process 0 reports and writes.
        ranks: the number of processes that share the run.
    """

    task: Task
    distiller: str
    network: AbstractNetwork
    steps: int
    seed: int
    device: torch.device
    precision: torch.dtype = torch.float32
    out: Path | None = None
    progress: bool = False
    rank: int = 0
    ranks: int = 1

    def generator(self, purpose: str, step: int = 0) -> torch.Generator:
        """Return the CPU generator for one purpose at one step (see ``randomness``).

        It is the same in every process that shares the run.
        """
        return derive(self.seed, purpose, step)

    def own_generator(self, purpose: str, step: int = 0) -> torch.Generator:
        """Return a CPU generator of this process alone: each draws something else."""
        return derive(self.seed, purpose, step, self.rank)

    def fresh_network(
        self, generator: torch.Generator, network: AbstractNetwork | None = None
    ) -> FeatureNetwork:
        """Build a network with fresh weights, on the device, channels last.

        Args:
            generator: of the weights.
            network: the architecture; by default the run's.
        """
        task = self.task
        module = (network or self.network).build(
            task.image_shape, task.num_classes, generator=generator
        )
        # mypy does not know the overload of Module.to with a memory format.
        moved: FeatureNetwork = module.to(
            device=self.device, memory_format=torch.channels_last
        )  # type: ignore[call-overload]
        return moved

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context in which features are computed in the run's precision."""
        return autocast(self.device, self.precision)


def autocast(
    device: torch.device, precision: torch.dtype
) -> AbstractContextManager[object]:
    """Return the context in which networks compute in ``precision``."""
    return torch.autocast(
        device.type, dtype=precision, enabled=precision != torch.float32
    )


@contextmanager
def exact_kernels() -> Iterator[None]:
    """Let cuDNN take only kernels that give the same bits at every run, in float32.

    By default torch lets it round what convolutions multiply to the 10 bits of TF32.
    torch's own switches are for the whole process; afterwards they are as they were.
    Whoever has set the precision by torch's newer ones (``fp32_precision``) keeps it.
    Nothing changes on other devices.
    """
    cudnn = torch.backends.cudnn
    wanted = {"deterministic": True, "benchmark": False}
    with suppress(RuntimeError):  # the newer switches were set: this one says nothing
        wanted |= {"allow_tf32": False} if cudnn.allow_tf32 else {}
    before = {name: getattr(cudnn, name) for name in wanted}
    try:
        for name, value in wanted.items():
            setattr(cudnn, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(cudnn, name, value)


@contextmanager
def plain_torch() -> Iterator[None]:
    """Compute as in a fresh process, whatever the caller has told torch.

    Gradients are taken, new tensors are float32 and on the CPU where nobody says, and
    operations are not autocast. Afterwards all is as it was.
    """
    dtype = torch.get_default_dtype()
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        if torch.get_default_device() != torch.device("cpu"):
            stack.enter_context(torch.device("cpu"))  # it takes time at every call
        for kind in ("cpu", "cuda", "mps"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        stack.callback(torch.set_default_dtype, dtype)
        torch.set_default_dtype(torch.float32)
        yield


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Compute in so many threads, on which the last bits of large sums depend."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def resolve_device(device: str) -> torch.device:
    """Return the device; ``"auto"`` is CUDA, MPS or the CPU: the first there is.

    Raises:
        OptionError: there is no such device here, or its tensors hold no values.
    """
    if device == "auto":
        device = "cpu"
        if torch.backends.mps.is_available():
            device = "mps"
        if torch.cuda.is_available():
            device = "cuda"
    try:
        resolved = torch.device(device)
        torch.zeros((), device=resolved).item()  # "meta" has tensors without values
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise OptionError(
            f"device {device!r} cannot be used: {reason}; try 'auto' or 'cpu'"
        ) from error
    return resolved


def resolve_precision(precision: Precision, device: torch.device) -> torch.dtype:
    """Return the dtype of features; ``"auto"`` is bfloat16 if the hardware has it.

    Raises:
        OptionError: there is no such precision.
    """
    if precision not in get_args(Precision):
        raise OptionError(
            f"precision must be one of {', '.join(get_args(Precision))}, "
            f"got {precision!r}"
        )
    if precision != "auto":
        return torch.bfloat16 if precision == "bfloat16" else torch.float32
    if device.type == "cuda":
        has_bfloat16 = torch.cuda.is_bf16_supported(including_emulation=False)
    elif device.type == "mps":
        has_bfloat16 = False  # not measured on any
    else:
        capabilities = torch.cpu.get_capabilities()
        has_bfloat16 = bool(
            capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")
        )
    return torch.bfloat16 if has_bfloat16 else torch.float32
