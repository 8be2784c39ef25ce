"""Class activation maps (Grad-CAM): where a network looks for a class.

Reference: Selvaraju et al., "Grad-CAM", ICCV 2017, arXiv 1610.02391.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dd_plugins.errors import OptionError
from dd_plugins.networks.base import FeatureNetwork, ImageShape

__all__ = ["Outputs", "map_layer", "meta_ratio", "observe"]

_SMALLEST_MAP = 4
_EPSILON = 1e-12  # maps of a fresh network can be as small as 1e-7
_POOLING = (nn.AvgPool2d, nn.MaxPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)


class Outputs(NamedTuple):
    """The outputs of a network for images, differentiable if the images are.

    Attributes:
        maps: where the network looks for their classes, in [0, 1] and of the size of
            the images: float32, ``(n, height, width)``.
        features: the input of its head, float32, ``(n, d)``.
        logits: float32, ``(n, classes)``.
    """

    maps: Tensor
    features: Tensor
    logits: Tensor


def map_layer(network: FeatureNetwork, image_shape: ImageShape) -> nn.Module:
    """Return the layer whose output gives the class activation maps.

    It is the last layer with a map of side 4 or more. Pooling layers are skipped, as
    the map before them is finer.

    Args:
        network: the network, on any device.
        image_shape: channels, height and width of an image.

    Raises:
        OptionError: there is no such layer. A multi-layer perceptron has no maps.
    """
    found: list[nn.Module] = []

    def note(layer: nn.Module, given: object, output: object) -> None:
        del given
        usable = not isinstance(layer, (*_POOLING, nn.ZeroPad2d, nn.Upsample))
        if usable and _is_map(output):
            found.append(layer)

    handles = [layer.register_forward_hook(note) for layer in network.body.modules()]
    training = network.training
    try:
        with torch.no_grad():
            device = next((each.device for each in network.parameters()), None)
            network.eval().features(torch.zeros(1, *image_shape, device=device))
    finally:
        network.train(training)
        for handle in handles:
            handle.remove()
    if not found:
        raise OptionError(
            f"no layer gives a map of {_SMALLEST_MAP}x{_SMALLEST_MAP} or more for "
            f"images of shape {image_shape}: class activation maps need a network of "
            "convolutions or a vision transformer, and images that are large enough"
        )
    return found[-1]


def _is_map(output: object) -> bool:
    """Tell whether the output of a layer is a map that is large enough."""
    return (
        isinstance(output, Tensor)
        and output.ndim == 4
        and min(output.shape[-2:]) >= _SMALLEST_MAP
    )


def observe(
    network: FeatureNetwork,
    layer: nn.Module,
    images: Tensor,
    classes: Tensor,
    *,
    second_order: bool = False,
) -> Outputs:
    r"""Return a network's maps, features and logits for images.

    .. math:: c = \mathrm{ReLU}\Bigl(\sum_k \alpha_k A_k\Bigr), \qquad
        \alpha_k = \frac{1}{hw} \sum_{uv} \frac{\partial z_y}{\partial A_{kuv}}

    The map is then resized bilinearly to the size of the images. Image by image it is
    mapped to [0, 1] by its least and largest value, taken as constants.

    Args:
        network: the network, in evaluation mode.
        layer: the layer of the maps, from :func:`map_layer`.
        images: float32, ``(n, channels, height, width)``.
        classes: int64 of shape ``(n,)``: the class of each map.
        second_order: whether gradients pass through :math:`\alpha` too. If only linear
            layers follow the map (such as a head after an average), they are zero
            anyway.
    """
    kept: list[Tensor] = []
    handle = layer.register_forward_hook(lambda *passed: kept.append(passed[2]))
    try:
        with torch.enable_grad():
            # Weights are frozen: without this no graph leads from a map to the logits.
            given = images if images.requires_grad else images.detach().requires_grad_()
            features = network.features(given)
            logits = network.head(features).float()
            scores = logits.gather(1, classes[:, None]).sum()
            # A layer may be used several times: its last map that is large enough.
            activation = [output for output in kept if _is_map(output)][-1]
            (gradient,) = torch.autograd.grad(
                scores, [activation], retain_graph=True, create_graph=second_order
            )
            weights = gradient.float().mean(dim=(2, 3), keepdim=True)
            maps = F.relu((weights * activation.float()).sum(dim=1, keepdim=True))
            maps = F.interpolate(
                maps, size=images.shape[-2:], mode="bilinear", align_corners=False
            )[:, 0]
    finally:
        handle.remove()
    low, high = (end.detach() for end in (maps.amin((1, 2)), maps.amax((1, 2))))
    spread = (high - low + _EPSILON)[:, None, None]
    outputs = Outputs((maps - low[:, None, None]) / spread, features.float(), logits)
    if images.requires_grad:
        return outputs
    return Outputs(*(output.detach() for output in outputs))


def meta_ratio(maps: Tensor, threshold: float = 0.5) -> Tensor:
    """Return the share of pixels seen by all architectures among those seen by any.

    A pixel belongs to the *meta features* of an image if the maps of all architectures
    reach the threshold there, and to the *heterogeneous features* of one architecture
    if its own map does, but not all.

    Args:
        maps: in [0, 1], ``(architectures, n, height, width)``.
        threshold: the smallest value of a pixel counted as seen.

    Returns:
        Shape ``(n,)``, in [0, 1]; 1 where no map reaches the threshold.

    Reference: arXiv 2410.05103, equation 1, as its reviews quote it.
    """
    seen = maps >= threshold
    everywhere = seen.all(dim=0).flatten(1).sum(dim=1)
    anywhere = seen.any(dim=0).flatten(1).sum(dim=1)
    return torch.where(anywhere > 0, everywhere / anywhere.clamp(min=1), 1.0)
