"""The options of a memory, checked when it is made."""

import hashlib
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args

from torch import Tensor

import dd_plugins
from dd_avalanche.memory.choices import (
    BY_DISTILLER,
    DISTILLER,
    INITIAL_IMAGES,
    NETWORK,
    PROPORTIONAL,
    STEPS,
    Context,
    Shrink,
    Store,
)
from dd_avalanche.memory.stored import packing_of
from dd_plugins.api import (
    LabelKind,
    NetworkLike,
    OptionError,
    RunOptions,
    get_initial_images,
    get_network,
    in_proportion,
    one_of,
    resolve_device,
    whole_number,
)

__all__ = ["MemoryOptions", "check_seconds"]

ClassKey = TypeVar("ClassKey", bound=Hashable)


@dataclass
class MemoryOptions:
    """The options of a memory, chosen before its first experience.

    :class:`~dd_avalanche.DistilledMemory` describes each option.
    """

    size: int
    distiller: str | dd_plugins.AbstractDistiller[Any] = DISTILLER
    images_per_class: int | Literal["proportional"] | None = None
    num_classes: int | None = None
    steps: int | None = STEPS
    most_seconds: float | None = None
    network: NetworkLike | None = NETWORK
    initial_images: str | None = BY_DISTILLER
    context: Context | bool = "none"
    whitening: Literal["none", "experience"] | Tensor = "none"
    store: Store = "float32"
    shrink: Shrink = "truncate"
    mirror: bool = False
    seed: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        """Refuse options out of their range; convert numbers to Python's."""
        for name in ("size", "images_per_class", "steps", "num_classes"):
            given = getattr(self, name)
            shared = name == "images_per_class" and given == PROPORTIONAL
            if given is not None and not shared:
                setattr(self, name, whole_number(name, given, least=1))
        self.seed = whole_number("seed", self.seed)
        if self.mirror not in (True, False):
            raise OptionError(f"mirror must be True or False, got {self.mirror!r}")
        self.mirror = bool(self.mirror)
        if self.most_seconds is not None:
            check_seconds("most_seconds", self.most_seconds)
        if isinstance(self.context, bool):
            self.context = "fixed" if self.context else "none"
        choices = {"context": Context, "store": Store, "shrink": Shrink}
        for name, kind in choices.items():
            one_of(name, getattr(self, name), get_args(kind))
        self._check_whitening()
        if isinstance(self.distiller, str):
            self.distiller = dd_plugins.get_distiller(self.distiller)
        self._settle_initial_images()
        if self.network is not None:
            found = get_network(self.network)  # raises for an unknown name
            if getattr(found, "only_named", False):
                raise OptionError(
                    f"network {self.network!r} only names a function; pass the "
                    "function itself"
                )
        if self.packing > 1 and self.context != "none":
            raise OptionError(
                f"store {self.store!r} allows no context, got {self.context!r}"
            )
        resolve_device(self.device)  # raises if there is no such device

    def _check_whitening(self) -> None:
        """Refuse a whitening with an unknown name, or by images of the wrong dtype.

        Raises:
            OptionError: it is neither a known name nor a floating tensor.
        """
        if isinstance(self.whitening, Tensor):
            if not self.whitening.is_floating_point():
                raise OptionError(
                    "whitening must be by floating images in the space of the model, "
                    f"got {self.whitening.dtype}; apply the evaluation transform to "
                    "them"
                )
        elif self.whitening not in ("none", "experience"):
            raise OptionError(
                "whitening must be 'none', 'experience' or a tensor of public images, "
                f"got {self.whitening!r}"
            )

    def _settle_initial_images(self) -> None:
        """Fill in the default initial images, and refuse unsuitable ones.

        Raises:
            OptionError: there are no such initial images, or they are real images and
                the distiller is private.
        """
        private = self.method.private
        if self.initial_images == BY_DISTILLER:
            self.initial_images = None if private else INITIAL_IMAGES
        if self.initial_images is None:
            return
        first = get_initial_images(self.initial_images)
        if private and first not in ("noise", "public"):
            raise OptionError(
                f"initial_images must be None, 'noise' or 'public', because "
                f"{self.method.name} is private, got {self.initial_images!r}"
            )
        if first == "public" and self.method.public_data is None:
            raise OptionError(
                "initial_images 'public' needs a private distiller that names public "
                f"data, got {self.method.name}"
            )

    @property
    def method(self) -> dd_plugins.AbstractDistiller[Any]:
        """The distiller, built from its spec."""
        assert not isinstance(self.distiller, str)
        return self.distiller

    @property
    def network_spec(self) -> str | None:
        """The spec of the network; for a function, it only gives its name."""
        if self.network is None or isinstance(self.network, str):
            return self.network
        return repr(get_network(self.network))

    @property
    def label_kind(self) -> LabelKind:
        """The kind of the learned labels."""
        return self.method.label_kind

    @property
    def packing(self) -> int:
        """Smaller images along each side of a stored one."""
        return packing_of(self.store)

    def run_options(
        self,
        images_per_class: int | tuple[int, ...],
        seed: int,
        *,
        refine_context: bool,
    ) -> RunOptions:
        """Return the options of a distillation for this memory.

        Args:
            images_per_class: the number of new images of every class, or one for each.
            seed: the seed of the distillation.
            refine_context: whether there is a context, to be learned further if the
                memory refines its contexts.
        """
        chooses = not self.method.moves_images  # a coreset: nothing is learned
        return RunOptions(
            distiller=repr(self.method),
            images_per_class=images_per_class,
            steps=None if chooses else self.steps,
            seed=seed,
            network=self.network_spec,
            initial_images=None if chooses else self.initial_images,
            parametrization=(
                "identity" if self.packing == 1 else f"packed(factor={self.packing})"
            ),
            refine_context=refine_context and self.context == "refined",
        )

    def room(self, seen: Mapping[ClassKey, int]) -> dict[ClassKey, int]:
        """Return the room of each class: its largest number of stored images.

        Args:
            seen: the number of real images of each class so far.

        Raises:
            OptionError: the memory is too small.
        """
        classes = len(seen)
        if self.images_per_class == PROPORTIONAL and self.size >= classes:
            shares = in_proportion(self.size, list(seen.values()))
            return dict(zip(seen, shares, strict=True))
        fixed = self.images_per_class if self.images_per_class != PROPORTIONAL else None
        wanted = fixed or self.size // classes
        if wanted * classes > self.size or wanted < 1:
            raise OptionError(
                f"a memory needs a size of at least {classes * (fixed or 1)} for "
                f"{classes} classes"
                + (f" of {wanted} images each" if fixed else "")
                + f", got {self.size}; make it larger"
            )
        return dict.fromkeys(seen, wanted)

    def label_classes(self, present: list[int]) -> list[int]:
        """Return the classes scored by labels: present ones first, then others.

        Regression targets score all classes of the stream, if their number is known. A
        private distiller learns images of every class that it is told of, even of one
        without real images: it is told of those present.
        """
        if (
            self.num_classes is None
            or self.label_kind != "regression"
            or self.method.private
        ):
            return present
        return [*present, *(c for c in range(self.num_classes) if c not in present)]

    def configuration(self, size: int) -> dict[str, Any]:
        """Return the options for comparison with a restored memory.

        Args:
            size: the original size of the memory.
        """
        return {
            "distiller": repr(self.distiller),
            "size": size,
            "num_classes": self.num_classes,
            "images_per_class": self.images_per_class,
            "steps": self.steps,
            "network": self.network_spec,
            "initial_images": self.initial_images,
            "context": self.context,
            "whitening": (
                self.whitening
                if isinstance(self.whitening, str)
                else f"public images {_digest(self.whitening)}"
            ),
            "store": self.store,
            "shrink": self.shrink,
            "mirror": self.mirror,
            "seed": self.seed,
            # Left out without a limit, as in memories saved before there was one:
            **(
                {} if self.most_seconds is None else {"most_seconds": self.most_seconds}
            ),
        }


def check_seconds(name: str, value: Any) -> None:
    """Refuse anything but a positive, finite number.

    Raises:
        OptionError: the value is something else.
    """
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (is_number and 0 < value < float("inf")):
        raise OptionError(f"{name} must be a positive number, got {value!r}")


def _digest(tensor: Tensor) -> str:
    content = tensor.cpu().contiguous().float().numpy().tobytes()
    return hashlib.sha256(content).hexdigest()
