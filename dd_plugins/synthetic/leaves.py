"""The learnable set: the optimizer's parameters and the distiller's leaves."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import torch
from torch import Tensor

__all__ = ["Codec", "Leaves", "Parameters", "Synthetic"]


@dataclass(frozen=True, eq=False)
class Leaves:
    """The synthetic set as a distiller sees it: leaves of the autograd graph.

    Attributes:
        pixels: float32 of shape ``(n, channels, height, width)``, in the value space of
            the model; requires a gradient.
        labels: float32 of shape ``(n, classes)``; requires a gradient if learnable.
        classes: int64 of shape ``(n,)``: the class of each image, even if its label is
            learned.
        others: further learned tensors, by name; each requires a gradient.
        fixed: bool of shape ``(n,)``: True for an image that the optimizer does not
            move, such as one of a context; None if it moves all.
    """

    pixels: Tensor
    labels: Tensor
    classes: Tensor
    others: Mapping[str, Tensor] = field(default_factory=dict)
    fixed: Tensor | None = None

    def learned(self) -> list[Tensor]:
        """Return the leaves requiring a gradient."""
        return [each for each in self._tensors() if each.requires_grad]

    def detached(self) -> Self:
        """Return the same values, detached from the graph."""
        return self.map(torch.Tensor.detach)

    def map(self, function: Callable[[Tensor], Tensor]) -> Self:
        """Apply a function to pixels, labels and others; all else stays."""
        return replace(
            self,
            pixels=function(self.pixels),
            labels=function(self.labels),
            others={name: function(each) for name, each in self.others.items()},
        )

    def clear_fixed(self, gradient: Tensor) -> None:
        """Set the gradient of fixed images to 0, in place.

        The optimizer makes no use of it, so no length of a gradient should count it.

        Args:
            gradient: of pixels or labels, with a row for each image.
        """
        if self.fixed is not None:
            gradient[self.fixed] = 0

    def _tensors(self) -> list[Tensor]:
        return [self.pixels, self.labels, *self.others.values()]


@dataclass(frozen=True, eq=False)
class Parameters(Sequence[Tensor]):
    """The tensors moved by the optimizer: a sequence, accepted by any optimizer.

    Attributes:
        images: the pixels themselves, or the parameters of a parametrization.
        labels: the labels, if they are learned; else empty.
        others: further learned tensors, by name.
    """

    images: tuple[Tensor, ...]
    labels: tuple[Tensor, ...] = ()
    others: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._all())

    def __getitem__(self, index: Any) -> Any:
        return self._all()[index]

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self._all())

    def map(self, function: Callable[[Tensor], Tensor]) -> "Parameters":
        """Apply a function to each tensor."""
        return Parameters(
            tuple(map(function, self.images)),
            tuple(map(function, self.labels)),
            {name: function(each) for name, each in self.others.items()},
        )

    def _all(self) -> list[Tensor]:
        return [*self.images, *self.labels, *self.others.values()]


@dataclass(frozen=True)
class Codec:
    """How a parametrization encodes and decodes images in one run.

    Attributes:
        encode: maps images in the value space, and the class of each, to parameters by
            name; their first dimension counts stored images.
        decode: maps the parameters of some stored images back to images,
            differentiably; each gives ``images_per_stored`` consecutive images.
        project: changes parameters in place to the nearest allowed ones; None if all
            are allowed.
        images_per_stored: the number of images in one stored image.
        chunk: the number of stored images decoded and differentiated at a time, to
            limit the size of the graph; None for all.
        clamp: changes parameters in place to decode to pixels within [0, 1], for
            ``bounded`` methods; None if this is impossible.
        constants: further tensors for decoding, by name; not learned.
        decoder_values: the number of values of a generator, besides the constants.
    """

    encode: Callable[[Tensor, Tensor], dict[str, Tensor]]
    decode: Callable[[Mapping[str, Tensor]], Tensor]
    project: Callable[[Mapping[str, Tensor]], None] | None = None
    images_per_stored: int = 1
    chunk: int | None = None
    clamp: Callable[[Mapping[str, Tensor]], None] | None = None
    constants: Mapping[str, Tensor] = field(default_factory=dict)
    decoder_values: int = 0


class Synthetic:
    """The learned tensors: parameters behind the pixels, labels, and others.

    Only this class knows the parameters behind the pixels. The engine decodes the
    parameters into leaves, the distiller adds to the gradients of the leaves, and
    :meth:`pull_back` turns these into gradients of the parameters.

    Args:
        images: float32 of shape ``(n, channels, height, width)``.
        labels: float32 of shape ``(n, classes)``.
        classes: int64 of shape ``(n,)``.
        learn_labels: whether the labels are parameters too.
        others: further learned tensors, by name.
        codec: how images are encoded; None if the pixels are the parameters.
        fixed: images and labels placed before all others in the set; a distiller sees
            them, but the optimizer does not move them.
        clamp: maps images to the nearest allowed ones; None if all are allowed. A codec
            clamps its parameters itself.
        averaging: the decay of the average of the parameters over the steps; 0 for
            none.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        classes: Tensor,
        *,
        learn_labels: bool,
        others: Mapping[str, Tensor] | None = None,
        codec: Codec | None = None,
        fixed: Leaves | None = None,
        clamp: Callable[[Tensor], Tensor] | None = None,
        averaging: float = 0.0,
    ) -> None:
        self._codec = codec
        self._clamp = clamp
        images = images.detach()
        self._classes = classes.to(labels.device)
        kept = (
            {"images": images} if codec is None else codec.encode(images, self._classes)
        )
        self._images = {name: _own(tensor) for name, tensor in kept.items()}
        self._labels = labels.detach().clone()
        self._others = {
            name: each.detach().clone() for name, each in (others or {}).items()
        }
        self._learn_labels = learn_labels
        self._fixed = fixed
        self._averaging, self._followed = averaging, 0
        self._average = self.parameters().map(_own) if averaging else None

    def parameters(self) -> Parameters:
        """Return the tensors moved by the optimizer."""
        return Parameters(
            tuple(self._images.values()),
            (self._labels,) if self._learn_labels else (),
            self._others,
        )

    def decode(self) -> Leaves:
        """Return fresh leaves for one step, with no gradient yet."""
        pixels, labels = self._pixels(), self._labels.detach()
        classes, fixed = self._classes, None
        if self._fixed is not None:
            pixels = torch.cat([self._fixed.pixels, pixels])
            labels = torch.cat([self._fixed.labels, labels])
            classes = torch.cat([self._fixed.classes, classes])
            order = torch.arange(len(classes), device=classes.device)
            fixed = order < len(self._fixed.classes)
        return Leaves(
            pixels.requires_grad_(),
            labels.requires_grad_(self._learn_labels),
            classes,
            {
                name: each.detach().requires_grad_()
                for name, each in self._others.items()
            },
            fixed,
        )

    def pull_back(self, leaves: Leaves) -> None:
        """Set the gradients of the parameters from those of the leaves."""
        count = 0 if self._fixed is None else len(self._fixed.pixels)
        self._labels.grad = _after(leaves.labels.grad, count)
        for name, parameter in self._others.items():
            parameter.grad = leaves.others[name].grad
        gradient = _after(leaves.pixels.grad, count)
        if self._codec is None:
            self._images["images"].grad = gradient
            return
        assert gradient is not None  # the engine has checked
        parts = [
            self._vector_jacobian_product(stored, self._of_chunk(gradient, stored))
            for stored in self._chunks()
        ]
        for name, parameter in self._images.items():
            parameter.grad = torch.cat([part[name] for part in parts])

    def project(self) -> None:
        """Move the parameters to the nearest allowed ones."""
        if self._codec is None:
            if self._clamp is not None:
                images = self._images["images"]
                images.copy_(self._clamp(images))
            return
        if self._codec.project is not None:
            self._codec.project(self._images)
        if self._clamp is not None and self._codec.clamp is not None:
            self._codec.clamp(self._images)

    def follow(self) -> None:
        """Add the parameters after a step to their average.

        The average is exponential and without bias: after t steps, the weight of step s
        is proportional to ``averaging ** (t - s)``, and the weights sum to one.
        """
        if self._average is None:
            return
        self._followed += 1
        weight = (1 - self._averaging) / (1 - self._averaging**self._followed)
        with torch.no_grad():
            for average, parameter in zip(
                self._average, self.parameters(), strict=True
            ):
                average.lerp_(parameter, weight)

    def result(self) -> "Synthetic":
        """Return the averaged set, or this set if there is no average."""
        if self._average is None:
            return self
        found = copy.copy(self)
        found._average = None
        images = map(_own, self._average.images)
        found._images = dict(zip(self._images, images, strict=True))
        if self._learn_labels:
            (found._labels,) = self._average.labels
        found._others = dict(self._average.others)
        found.project()  # a mean of allowed parameters need not be allowed
        return found

    def stored(self) -> dict[str, Tensor]:
        """Return the stored tensors by name: the pixels, if there is no codec."""
        return dict(self._images)

    @property
    def decoder_values(self) -> int:
        """The number of values needed for decoding, besides the stored images."""
        if self._codec is None:
            return 0
        constants = sum(each.numel() for each in self._codec.constants.values())
        return constants + self._codec.decoder_values

    def constants(self) -> dict[str, Tensor]:
        """Return further tensors for decoding, by name; they are not learned."""
        return {} if self._codec is None else dict(self._codec.constants)

    def state_dict(self) -> dict[str, Any]:
        """Return the tensors for a checkpoint of the run."""
        state = {
            "images": dict(self._images),
            "labels": self._labels,
            "others": dict(self._others),
            "constants": self.constants(),
        }
        if self._average is not None:
            state["average"] = list(self._average)
            state["followed"] = self._followed
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a result of :meth:`state_dict`, in place."""
        self._labels.copy_(state["labels"])
        for own, saved in (
            (self._images, state["images"]),
            (self._others, state["others"]),
            (self.constants(), state["constants"]),
        ):
            for name, tensor in own.items():
                tensor.copy_(saved[name])
        if self._average is not None:
            for average, each in zip(self._average, state["average"], strict=True):
                average.copy_(each)
            self._followed = state["followed"]

    def _pixels(self) -> Tensor:
        if self._codec is None:
            return self._images["images"].detach()
        with torch.no_grad():
            parts = [
                self._codec.decode({n: each[part] for n, each in self._images.items()})
                for part in self._chunks()
            ]
        return torch.cat(parts).contiguous(memory_format=torch.channels_last)

    def _chunks(self) -> list[slice]:
        """Return the slices of stored images, to decode one after another."""
        assert self._codec is not None
        count = len(next(iter(self._images.values())))
        size = self._codec.chunk or max(1, count)
        return [slice(start, start + size) for start in range(0, count, size)]

    def _of_chunk(self, gradient: Tensor, stored: slice) -> Tensor:
        """Return the gradient of the images decoded from some stored ones."""
        assert self._codec is not None
        each = self._codec.images_per_stored
        return gradient[stored.start * each : stored.stop * each]

    def _vector_jacobian_product(
        self, stored: slice, gradient: Tensor
    ) -> dict[str, Tensor]:
        """Return the gradient of some stored images from that of their pixels."""
        assert self._codec is not None
        inputs = {
            name: each[stored].detach().requires_grad_()
            for name, each in self._images.items()
        }
        with torch.enable_grad():
            pixels = self._codec.decode(inputs)
        # A parameter unused by the decoder has a gradient of 0.
        found = torch.autograd.grad(
            pixels,
            list(inputs.values()),
            gradient,
            allow_unused=True,
            materialize_grads=True,
        )
        return dict(zip(inputs, found, strict=True))


def _own(tensor: Tensor) -> Tensor:
    """Return a copy, channels last for images, as networks expect."""
    if tensor.ndim == 4:
        return tensor.detach().clone(memory_format=torch.channels_last)
    return tensor.detach().clone()


def _after(gradient: Tensor | None, count: int) -> Tensor | None:
    return None if gradient is None else gradient[count:]
