"""The tangent kernel of a finite network, as features: gradients of one output.

A network trained from its weights by small steps has a kernel of two terms: the kernel
of its features, for the head; and, for the body, the inner products of the gradients of
an output with respect to the weights. The gradient for the weights of a layer is a sum
over places: the backward signal there, times the patch of the layer's input. So the
gradients for all images of a batch take about as long as the gradient for their sum.

References: Jacot, Gabriel, Hongler, "Neural Tangent Kernel", NeurIPS 2018, arXiv
1806.07572; Loo, Hasani, Lechner, Rus, "Dataset Distillation with Convexified Implicit
Gradients" (RCIG), ICML 2023, arXiv 2302.06755, whose inner problem has the minimiser of
kernel regression with this kernel.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import cast

import torch
import torch.nn.functional as F
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn

from dd_plugins.errors import OptionError, one_line
from dd_plugins.networks.base import (
    ChannelsLast,
    FeatureNetwork,
    HalvingAvgPool2d,
    ImageShape,
)
from dd_plugins.runtime.memory import room_on
from dd_plugins.runtime.text import size_text
from dd_plugins.spec import Record, record

__all__ = ["TangentKernel"]

# Copies of each block at once, measured: parts before they are joined, centred blocks,
# float32 copies of bfloat16, products of the backward pass.
_COPIES = 6
_Layer = nn.Conv2d | nn.Linear

# Modules, containers too, whose outputs are linear in the input between kinks, in
# evaluation mode. There the backward signal is constant between kinks.
_PIECEWISE_LINEAR = (
    *(nn.Sequential, nn.Identity, nn.Flatten, nn.Dropout, nn.ZeroPad2d, ChannelsLast),
    *(nn.Conv2d, nn.Linear, nn.BatchNorm1d, nn.BatchNorm2d, nn.ReLU, nn.LeakyReLU),
    *(nn.AvgPool2d, nn.MaxPool2d, nn.AdaptiveAvgPool2d, HalvingAvgPool2d),
)


@record
class TangentKernel(Record):
    r"""The kernel of the features plus the empirical tangent kernel of the body.

    .. math:: K(x, x') = \phi(x)^\top \phi(x') + w \sum_l
        \left\langle \frac{\partial f(x)}{\partial\theta_l},
        \frac{\partial f(x')}{\partial\theta_l} \right\rangle,
        \qquad f = \tfrac{1}{\sqrt C}\, r^\top (\text{logits}), \quad r \sim N(0, I)

    Layers are the convolutions and linear layers of the body, with weights and biases.
    The output :math:`f` is a random mixture of the C logits: averaged over mixtures,
    the kernel is the mean of the tangent kernels of the logits.

    Args:
        weight: factor w of the tangent kernel, greater than zero; 1 gives the kernel of
            a network trained at one learning rate.
        layers: number of layers in the kernel, counted from the last in the order of
            the network's modules; by default all.
        projection: number of channels of each backward signal after a random
            projection; signals with fewer channels stay as they are. Averaged over
            projections the kernel is the same, and it has fewer features. By default
            none is projected.

    Reference: arXiv 2302.06755, section 4.2. There each logit has its own gradient, and
    the head's weights couple the classes; here all classes share the kernel of one
    mixture, so regression solves one system of the size of the set.
    """

    name = "tangent"

    weight: PositiveFloat = 1.0
    layers: PositiveInt | None = None
    projection: PositiveInt | None = None

    def layers_of(self, network: FeatureNetwork) -> list[_Layer]:
        """Return a network's layers in the kernel, in the order of its modules.

        Raises:
            OptionError: the network has fewer layers than asked for, or none; a
                convolution has groups, a dilation, or padding given by name or other
                than zeros; or a normalisation tracks no running statistics.
        """
        found = [each for each in network.body.modules() if isinstance(each, _Layer)]
        if not found:
            raise OptionError(
                f"tangent: expected convolutions or linear layers in the body of "
                f"{network.origin}, got none; use the kernel of its features"
            )
        for module in network.modules():
            in_batch = isinstance(module, nn.modules.batchnorm._BatchNorm)
            if in_batch and not module.track_running_stats:
                raise OptionError(
                    f"tangent: expected images that do not depend on each other, got "
                    f"{module} in {network.origin}, which takes the statistics of a "
                    "batch; use another network"
                )
        if self.layers is not None:
            if self.layers > len(found):
                raise OptionError(
                    f"tangent: layers must be at most {len(found)}, the convolutions "
                    f"and linear layers of {network.origin}, got {self.layers}"
                )
            found = found[-self.layers :]
        for layer in found:
            if isinstance(layer, nn.Conv2d) and not _is_plain(layer):
                raise OptionError(
                    f"tangent: expected convolutions without groups or dilation, and "
                    f"padded with zeros by a number, got {layer} in {network.origin}; "
                    "use another network, or layers=... for the last ones alone"
                )
        return found

    def size(self, network: FeatureNetwork) -> int:
        """Return the number of features of an image, besides the network's own."""
        return sum(
            self._channels(layer) * (layer.weight[0].numel() + (layer.bias is not None))
            for layer in self.layers_of(network)
        )

    def check(
        self,
        asker: str,
        network: FeatureNetwork,
        image_shape: ImageShape,
        classes: int,
        images: int,
        device: torch.device,
    ) -> None:
        """Refuse a network without this kernel, or features too large for memory.

        Args:
            asker: the name of the caller, for messages.
            network: the network, on the device. Two black images go through it.
            image_shape: channels, height and width.
            classes: the number of logits.
            images: the number of images with features in memory at once.
            device: the device of the features.

        Raises:
            OptionError: the kernel cannot be computed, or its features do not fit, or
                as for :meth:`features`; the message gives a remedy.
        """
        needed = _COPIES * 4 * images * self.size(network)
        if needed > room_on(device):
            raise OptionError(
                f"{asker}: kernel={self} has {self.size(network):,} features of each "
                f"of {images:,} images, which need {size_text(needed)}, more than "
                f"{device} has room for; use tangent(projection=...) with fewer "
                "channels, a narrower network or a smaller real_batch_size"
            )
        drawn = self.draw(network, classes, torch.Generator()).to(device)
        black = torch.zeros(2, *image_shape, device=device, requires_grad=True)
        try:
            self.features(network.eval(), black, drawn, differentiable=True)
        except RuntimeError as error:
            raise OptionError(
                f"{asker}: kernel={self} cannot be computed for {network.origin}: "
                f"{one_line(error)}; use another network, or layers=... for "
                "the last ones alone"
            ) from error

    def draw(
        self, network: FeatureNetwork, classes: int, generator: torch.Generator
    ) -> Tensor:
        """Draw the mixture of logits and the projections of layers.

        Args:
            network: the network of the kernel.
            classes: the number of logits.
            generator: a CPU generator.

        Returns:
            float32 on the CPU, 1-d, standard normal: ``classes`` numbers for the
            mixture, then ``projection * channels`` for each projected layer.
        """
        numbers = classes + sum(self._projections(self.layers_of(network)))
        return torch.randn(numbers, generator=generator)

    def features(
        self,
        network: FeatureNetwork,
        images: Tensor,
        drawn: Tensor,
        *,
        differentiable: bool,
    ) -> tuple[Tensor, ...]:
        """Return blocks of features whose kernels add up to this kernel.

        Args:
            network: in evaluation mode; its body calls each layer once.
            images: ``(n, channels, height, width)``.
            drawn: the result of :meth:`draw`, on the same device.
            differentiable: whether the blocks can be differentiated by the images. In a
                plain sequence of convolutions, ReLU, pooling and fixed BatchNorm the
                backward signal is constant between kinks, so the derivative passes
                through the inputs of the layers alone. In all other networks, such as
                those with custom modules, the backward signal is differentiated too,
                which takes twice as long.

        Returns:
            The network's features ``(n, features)``; then, for each layer of the
            kernel, the gradients for its weights, ``(n, channels * weights of one)``,
            and for its bias, ``(n, channels)``, both times the root of the weight w. A
            block independent of the images has no graph.

        Raises:
            OptionError: as for :meth:`layers_of`; or a layer was not called exactly
                once, with an input for each image.
        """
        layers = self.layers_of(network)
        sizes = self._projections(layers)
        mixture, *projections = torch.split(drawn, [len(drawn) - sum(sizes), *sizes])
        mixture = mixture / math.sqrt(len(mixture))
        with torch.enable_grad():
            with _recorded(layers, differentiable) as seen:
                features = network.features(images)
            _check_calls(network, layers, seen, len(images))
            logits = network.head(features)
            through_signal = differentiable and not _is_piecewise_linear(network)
            signals = torch.autograd.grad(
                (logits @ mixture.to(logits)).sum(),
                [seen[layer][1] for layer in layers],
                retain_graph=differentiable,
                create_graph=through_signal,
            )
        found = [features]
        with torch.set_grad_enabled(differentiable):
            for layer, whole in zip(layers, signals, strict=True):
                signal = math.sqrt(self.weight) * _by_place(layer, whole)
                if self._is_projected(layer):
                    kept = self._channels(layer)
                    projection = projections.pop(0).reshape(-1, kept) / math.sqrt(kept)
                    signal = signal @ projection.to(signal)
                patches = _patches(layer, seen[layer][0].to(signal))
                found.append((signal.mT @ patches).flatten(1))
                if layer.bias is not None:
                    found.append(signal.sum(dim=1))
        if not differentiable:
            found = [each.detach() for each in found]
        return tuple(found)

    def _projections(self, layers: Sequence[_Layer]) -> list[int]:
        """Return the size of the projection of each projected layer."""
        return [
            self._channels(layer) * len(layer.weight)
            for layer in layers
            if self._is_projected(layer)
        ]

    def _is_projected(self, layer: _Layer) -> bool:
        return self.projection is not None and self.projection < len(layer.weight)

    def _channels(self, layer: _Layer) -> int:
        """Return the channels of a layer's backward signal, after any projection."""
        channels = len(layer.weight)
        return channels if self.projection is None else min(self.projection, channels)


def _is_plain(layer: nn.Conv2d) -> bool:
    return (
        layer.groups == 1
        and layer.dilation == (1, 1)
        and layer.padding_mode == "zeros"
        and not isinstance(layer.padding, str)
    )


def _is_piecewise_linear(network: FeatureNetwork) -> bool:
    """Return whether the backward signal is constant between kinks, as far as known."""
    layers = [*network.body.modules(), *network.head.modules()]
    return all(type(layer) in _PIECEWISE_LINEAR for layer in layers)


@contextmanager
def _recorded(
    layers: Sequence[_Layer], differentiable: bool
) -> Iterator[dict[_Layer, tuple[Tensor, Tensor]]]:
    """Record the input and output of each layer in a dictionary, as the network runs.

    The next layer gets a copy of the output, for it may change it in place.
    """
    seen: dict[_Layer, tuple[Tensor, Tensor]] = {}

    def note(layer: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        if layer in seen:
            raise OptionError(
                f"tangent: expected that a network calls each layer once, got another "
                f"call of {layer}; use another network"
            )
        given = inputs[0]
        if not differentiable:
            given = given.detach()
            if not seen:  # the graph begins here: nothing before it is needed
                output = output.detach()
        if not output.requires_grad:
            output.requires_grad_()
        seen[cast(_Layer, layer)] = given, output
        return output.clone()

    handles = [layer.register_forward_hook(note) for layer in layers]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _check_calls(
    network: FeatureNetwork,
    layers: Sequence[_Layer],
    seen: dict[_Layer, tuple[Tensor, Tensor]],
    images: int,
) -> None:
    """Refuse layers without a call, or without an input for each image."""
    for layer in layers:
        if layer not in seen or len(seen[layer][0]) != images:
            got = "no call" if layer not in seen else f"{len(seen[layer][0])} inputs"
            raise OptionError(
                f"tangent: expected that {network.origin} calls {layer} once, with an "
                f"input for each of {images} images, got {got}; use layers=... for the "
                "last ones alone, or another network"
            )


def _by_place(layer: _Layer, signal: Tensor) -> Tensor:
    """Return a signal of shape ``(n, places, channels)``."""
    if isinstance(layer, nn.Conv2d):
        return signal.permute(0, 2, 3, 1).flatten(1, 2)
    return signal.reshape(len(signal), -1, signal.shape[-1])


def _patches(layer: _Layer, inputs: Tensor) -> Tensor:
    """Return the inputs of each place, ``(n, places, weights of one channel)``."""
    if isinstance(layer, nn.Linear):
        return inputs.reshape(len(inputs), -1, inputs.shape[-1])
    vertical, horizontal = cast(tuple[int, int], layer.padding)
    images = F.pad(
        inputs.permute(0, 2, 3, 1), (0, 0, horizontal, horizontal, vertical, vertical)
    )
    (height, width), (down, right) = layer.kernel_size, layer.stride
    windows = images.unfold(1, height, down).unfold(2, width, right)
    # The channels stay last, as they lie in memory: copies of long runs are quicker.
    return windows.permute(0, 1, 2, 4, 5, 3).flatten(3).flatten(1, 2)
