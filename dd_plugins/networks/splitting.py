"""Any torch module, split into a body for features and a linear head on them."""

from typing import Any

import torch
from torch import Tensor, nn

from dd_plugins.errors import OptionError, described
from dd_plugins.networks.base import FeatureNetwork, ImageShape

__all__ = ["split_behind_features"]

_ADVICE = (
    "let it return the logits of an nn.Linear, or let it be a "
    "dd_plugins.api.FeatureNetwork(body, head)"
)


def split_behind_features(
    module: nn.Module, image_shape: ImageShape, num_classes: int, *, origin: str
) -> FeatureNetwork:
    """Split a module into a body and a head, in place.

    The head is the ``nn.Linear`` whose output the module returns, and the body is the
    module without it. A pass of two black images finds it.

    Args:
        module: maps images to logits; a :class:`FeatureNetwork` stays as it is.
        image_shape: channels, height and width.
        num_classes: the number of logits.
        origin: the name of the network, for messages.

    Raises:
        OptionError: the module takes no such images, or returns something other than
            the output of a linear layer with so many classes.
    """
    if isinstance(module, FeatureNetwork):
        return module
    name = _name_of_head(module, image_shape, num_classes, origin)
    head = module.get_submodule(name)
    module.set_submodule(name, nn.Identity())
    return FeatureNetwork(module, head)


def _name_of_head(
    module: nn.Module, image_shape: ImageShape, num_classes: int, origin: str
) -> str:
    """Return the name of the linear layer whose output a module returns."""
    outputs: dict[str, list[Tensor]] = {}
    handles = []
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Linear) and name:
            kept = outputs.setdefault(name, [])
            handles.append(
                layer.register_forward_hook(
                    lambda layer, given, output, kept=kept: kept.append(output)
                )
            )
    try:
        logits = _logits(module, image_shape, origin)
    finally:
        for handle in handles:
            handle.remove()
    if not isinstance(logits, Tensor) or logits.shape != (2, num_classes):
        got = type(logits).__name__
        if isinstance(logits, Tensor):
            got = f"a tensor of shape {tuple(logits.shape)}"
        raise OptionError(
            f"{origin} must return logits of shape (n, {num_classes}), one for each "
            f"class, got {got} for 2 images"
        )
    for name, kept in outputs.items():
        if len(kept) == 1 and kept[0] is logits and kept[0].ndim == 2:
            return name
    raise OptionError(
        f"{origin} must end with a linear layer, whose input is the features; got a "
        f"{type(module).__name__} whose output is not that of its last one; {_ADVICE}"
    )


def _logits(module: nn.Module, image_shape: ImageShape, origin: str) -> Any:
    """Return the output of a module for two black images, in evaluation mode."""
    modes = [(each, each.training) for each in module.modules()]
    device = next((each.device for each in module.parameters()), torch.device("cpu"))
    try:
        with torch.no_grad():
            return module.eval()(torch.zeros(2, *image_shape, device=device))
    except Exception as error:  # a foreign module may raise anything
        if device.type == "meta":  # where only sizes count
            raise
        raise OptionError(
            f"{origin} cannot take images of shape {image_shape} (channels, height, "
            f"width): {described(error)}"
        ) from error
    finally:
        for each, training in modes:
            each.training = training
