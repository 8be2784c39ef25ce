"""The base class of networks: records of options for building a module."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, ClassVar, Literal, Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dd_plugins.errors import OptionError, PluginError
from dd_plugins.runtime.device import channels_last
from dd_plugins.runtime.randomness import seeded_globally
from dd_plugins.spec import Record

__all__ = [
    "BATCH_NORM_MOMENTUM",
    "AbstractNetwork",
    "FeatureNetwork",
    "HalvingAvgPool2d",
    "ImageShape",
    "Normalization",
    "architectures_built",
    "batch_statistics",
    "chunk_size",
    "chunks_of",
    "default_depth",
    "features_in_chunks",
    "halved",
    "has_batch_norm",
    "norm",
    "set_norm_momentum",
    "with_normalization",
]

ImageShape = tuple[int, int, int]
"""Channels, height and width of one image."""

Normalization = Literal["batch", "instance", "group", "none"]

BATCH_NORM_MOMENTUM = 0.9
"""The share of the newest batch in running statistics, as torch states it.

FRePo's flax code states the share that is kept, 0.1.
"""

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
_PIXELS_IN_CHUNK = 64 * 32 * 32
_architectures_seen: ContextVar[set[str] | None] = ContextVar(
    "architectures seen", default=None
)


class ChannelsLast(nn.Module):
    """Gives images of one channel the strides of channels last.

    With one channel torch cannot tell the layout. It assumes channels first, and picks
    kernels of convolution and pooling for this layout: on a CPU the first convolution
    of ``conv`` and its gradient take several times as long. The memory stays the same,
    and images of several channels are returned as they are.
    """

    def forward(self, images: Tensor) -> Tensor:
        count, channels, height, width = images.shape
        if channels != 1:
            return images
        return images.reshape(count, height, width, 1).permute(0, 3, 1, 2)


class _MeanOfFour(torch.autograd.Function):
    """Average pooling of 2x2 pixels, channels last, with a gradient that is a copy."""

    generate_vmap_rule = True

    @staticmethod
    def forward(images: Tensor) -> Tensor:
        if not images.is_cuda:
            return F.avg_pool2d(images, 2)
        # torch's kernel for channels last takes three times as long on a GPU.
        n, c, h, w = images.shape
        squares = images.permute(0, 2, 3, 1).reshape(n, h // 2, 2, w // 2, 2, c)
        return squares.mean(dim=(2, 4)).permute(0, 3, 1, 2)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        """Keep nothing: the gradient does not depend on the images."""

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        # Channels last, spelt out: vmap has no memory formats.
        quarter = (gradient / 4).permute(0, 2, 3, 1).contiguous()
        if not gradient.is_cuda:
            quarter = quarter.permute(0, 3, 1, 2)
            return F.interpolate(quarter, scale_factor=2, mode="nearest")
        n, h, w, c = quarter.shape
        squares = quarter[:, :, None, :, None].expand(n, h, 2, w, 2, c)
        return squares.reshape(n, 2 * h, 2 * w, c).permute(0, 3, 1, 2)

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:
        return F.avg_pool2d(tangent, 2)


class HalvingAvgPool2d(nn.AvgPool2d):
    """Average pooling of squares of 2x2 pixels, equal to torch's to the last bit.

    torch adds its own gradient to zeros in the layout of the arriving gradient; after
    the last block it differs from the layout of earlier layers. With the gradient here,
    a training step of ``conv`` in bfloat16 takes a tenth less time on a CPU. It is for
    channels last; other images, and compilers, get torch's pooling.
    """

    def __init__(self) -> None:
        super().__init__(2)

    def forward(self, images: Tensor) -> Tensor:
        """Return images of half the height and width, of shape ``(n, c, h, w)``."""
        if (
            images.ndim != 4
            or images.stride(1) != 1
            or images.shape[-2] % 2  # torch's pooling drops the last row or column
            or images.shape[-1] % 2
            or torch.compiler.is_compiling()
        ):
            return super().forward(images)
        return cast(Tensor, _MeanOfFour.apply(images))


class FeatureNetwork(nn.Module):
    """A body for flat features, and a linear head on them.

    Args:
        body: maps ``(n, channels, height, width)`` to ``(n, features)``.
        head: maps ``(n, features)`` to ``(n, classes)``.

    Attributes:
        origin: the name of its network record, for messages.
        architecture: the name of its architecture.
    """

    origin = "network"
    architecture = "network"

    def __init__(self, body: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.layout = ChannelsLast()
        self.body = body
        self.head = head

    def features(self, images: Tensor) -> Tensor:
        """Return the input of the head, of shape ``(n, features)``.

        Raises:
            PluginError: the body gives something else.
        """
        features: Tensor = self.body(self.layout(images))
        if not isinstance(features, Tensor) or features.ndim != 2:
            shape = tuple(getattr(features, "shape", ()))
            raise PluginError(
                f"{self.origin}: the body of a network must give features of shape "
                f"(n, features), got {type(features).__name__} of shape {shape}; end "
                "it with nn.Flatten()"
            )
        return features

    def forward(self, images: Tensor) -> Tensor:
        """Return logits of shape ``(n, classes)``."""
        logits: Tensor = self.head(self.features(images))
        return logits


class AbstractNetwork(Record, ABC):
    """An architecture with its options; :meth:`build` makes a module of it.

    A class is registered by the hook ``dd_register_networks`` under ``name``.
    """

    few_images_recipe: ClassVar[str] = ""
    """The recipe for training its networks on a few images, with steps for 100 of them.

    A spec; protocol ``"family"`` takes it. Empty for the recipe of each set.
    """

    @property
    def architecture(self) -> str:
        """Return the name of the architecture, whatever its width and depth."""
        return self.name

    @abstractmethod
    def construct(
        self, image_shape: ImageShape, num_classes: int, *, generator: torch.Generator
    ) -> FeatureNetwork:
        """Make a freshly initialised module on the CPU.

        Called for every fresh network of a run, with the global CPU random state seeded
        from ``generator``: torch's own initialisers may be used.

        Args:
            image_shape: channels, height and width.
            num_classes: outputs of the head.
            generator: draws the initial weights.

        Raises:
            OptionError: the images are too small for this architecture.
        """

    def for_distillation(self) -> Self:
        """Return the network for distillation, with its choice of unset options."""
        return self

    def for_evaluation(self) -> Self:
        """Return the network for evaluation, with its choice of unset options."""
        return self

    def uses_batch_norm(self, image_shape: ImageShape) -> bool:
        """Return whether BatchNorm makes images of a training batch affect each other.

        A module is built to see.

        Args:
            image_shape: channels, height and width.
        """
        with architectures_built(set()):  # this one takes no part in a run
            return has_batch_norm(
                self.build(image_shape, 2, generator=torch.Generator().manual_seed(0))
            )

    def identity(self, image_shape: ImageShape, num_classes: int) -> str:
        """Return text to recognise this network when interrupted work is resumed.

        It is the spec, with additions where networks of one spec may differ.

        Args:
            image_shape: channels, height and width.
            num_classes: the number of logits.
        """
        del image_shape, num_classes
        return repr(self)

    @property
    def is_identified(self) -> bool:
        """Tell whether :meth:`identity` tells all; otherwise no file keeps it."""
        return True

    def build(
        self,
        image_shape: ImageShape,
        num_classes: int,
        *,
        generator: torch.Generator,
        device: torch.device | None = None,
    ) -> FeatureNetwork:
        """Make a fresh module; the global random state stays as it was.

        Args:
            image_shape: channels, height and width.
            num_classes: the number of logits.
            generator: a CPU generator for the weights.
            device: the device to move the module to, channels last; None to leave it on
                the CPU as it is.

        Raises:
            OptionError: the images are too small for this architecture.
            PluginError: :meth:`construct` did not return a :class:`FeatureNetwork`.
        """
        with seeded_globally(generator):
            module = self.construct(image_shape, num_classes, generator=generator)
        if not isinstance(module, FeatureNetwork):
            raise PluginError(
                f"{self.name}.construct must return a FeatureNetwork(body, head), got "
                f"{type(module).__name__}"
            )
        module.origin, module.architecture = self.name, self.architecture
        seen = _architectures_seen.get()
        if seen is not None:
            seen.add(self.architecture)
        return module if device is None else channels_last(module, device)


@contextmanager
def architectures_built(into: set[str]) -> Iterator[None]:
    """Collect the names of all architectures built inside this block.

    Networks built by plugins count too, so a set records every architecture with a part
    in it. Modules made without :meth:`AbstractNetwork.build` are not seen.

    Args:
        into: the set to add the names to.
    """
    outer = _architectures_seen.get()
    token = _architectures_seen.set(into)
    try:
        yield
    finally:
        _architectures_seen.reset(token)
        if outer is not None:  # a run within a run
            outer |= into


def default_depth(image_shape: ImageShape) -> int:
    """Return the default number of halving blocks: 3 for images of 32 pixels.

    It is one more with each doubling of the side, one less with each halving, and at
    least 2: the last block sees maps of 8x8, or of half the image. On smaller maps
    instance normalisation leaves next to nothing.
    """
    return max(2, round(math.log2(min(image_shape[1:]))) - 2)


def halved(name: str, depth: int, image_shape: ImageShape, extra: int) -> int:
    """Return the pixels of a map after some halvings of a padded image.

    Args:
        name: the name of the network, for the message.
        depth: the number of halvings.
        image_shape: channels, height and width of the image.
        extra: the pixels added to each side.

    Raises:
        OptionError: a side is shorter than ``2**depth`` pixels.
    """
    height, width = (side + 2 * extra for side in image_shape[1:])
    unit: int = 2**depth
    if min(height, width) < unit:
        raise OptionError(
            f"{name}: depth {depth} halves the image {depth} times and needs sides of "
            f"at least 2**{depth} pixels, got {height}x{width}; use a smaller depth, "
            "or the network 'mlp'"
        )
    return (height // unit) * (width // unit)


def chunk_size(shape: torch.Size) -> int:
    """Return how many images of this shape a CPU should compute at a time."""
    return max(1, _PIXELS_IN_CHUNK // (shape[-2] * shape[-1]))


def chunks_of(images: Tensor) -> Sequence[Tensor]:
    """Split images into the chunks for their device to compute at a time.

    On a GPU they are one chunk.
    """
    if images.device.type != "cpu":
        return [images]
    return torch.split(images, chunk_size(images.shape))


def features_in_chunks(network: FeatureNetwork, images: Tensor) -> Tensor:
    """Return the features of many images, computed on a CPU a few images at a time.

    The layers of a small chunk stay in the processor's caches, and its memory is reused
    for the next chunk instead of requested from the system: FRePo's networks run 1.7 to
    6 times as fast (docs/benchmarks/frepo.md). Where the features of an image do not
    depend on its neighbours, this changes results by rounding alone.

    Args:
        network: in evaluation mode, or without BatchNorm.
        images: shape ``(n, channels, height, width)``.

    Returns:
        Features of shape ``(n, features)``, differentiable in the images.
    """
    found = [network.features(chunk) for chunk in chunks_of(images)]
    return found[0] if len(found) == 1 else torch.cat(found)


def has_batch_norm(network: nn.Module) -> bool:
    """Return whether BatchNorm makes images of a training batch affect each other."""
    return any(isinstance(layer, _BATCH_NORMS) for layer in network.modules())


def set_norm_momentum(network: nn.Module, momentum: float) -> None:
    """Set the share of a new batch in the running statistics of every BatchNorm."""
    for layer in network.modules():
        if isinstance(layer, _BATCH_NORMS):
            layer.momentum = momentum


@contextmanager
def batch_statistics(network: nn.Module) -> Iterator[None]:
    """Let every BatchNorm take the statistics of its batch.

    Its running statistics stay as they are, and so does the mode of all other layers.
    """
    layers = [each for each in network.modules() if isinstance(each, _BATCH_NORMS)]
    before = [(layer.training, layer.momentum) for layer in layers]
    counts = [layer.num_batches_tracked for layer in layers]
    kept = [None if count is None else count.clone() for count in counts]
    for layer in layers:
        layer.train()
        layer.momentum = 0.0
    try:
        yield
    finally:
        for layer, (training, momentum) in zip(layers, before, strict=True):
            layer.train(training)
            layer.momentum = momentum
        for count, was in zip(counts, kept, strict=True):
            if count is not None and was is not None:
                count.copy_(was)


class ChannelsLastGroupNorm(nn.GroupNorm):
    """Group normalisation, as fast for channels last as for channels first.

    On a CPU a training step by torch's kernel for channels last takes up to seven times
    as long as one through contiguous memory and back.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        output = super().forward(input.contiguous())
        return output.contiguous(memory_format=torch.channels_last)


def norm(kind: Normalization, channels: int) -> nn.Module:
    """Return a normalisation layer for ``channels``.

    BatchNorm keeps running statistics with ``BATCH_NORM_MOMENTUM``. Group normalisation
    has as many groups of equal size as possible, at most 32. Instance normalisation is
    affine.
    """
    match kind:
        case "batch":
            return nn.BatchNorm2d(channels, momentum=BATCH_NORM_MOMENTUM)
        case "instance":
            return ChannelsLastGroupNorm(channels, channels)
        case "group":
            divisors = [each for each in range(1, 33) if channels % each == 0]
            return ChannelsLastGroupNorm(max(divisors), channels)
        case "none":
            return nn.Identity()


def with_normalization(module: nn.Module, kind: Normalization) -> nn.Module:
    """Replace every BatchNorm layer for maps in a module by another normalisation.

    It is for modules of torchvision: some offer BatchNorm alone.

    Args:
        module: the module, changed in place.
        kind: the kind of normalisation; see :func:`norm`.

    Returns:
        The module.
    """
    for name, child in list(module.named_children()):
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, norm(kind, child.num_features))
        else:
            with_normalization(child, kind)
    return module
