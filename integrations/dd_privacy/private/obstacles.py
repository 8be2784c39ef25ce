"""Obstacles to DP-SGD on a network, and its preparation for DP-SGD."""

import torch
from torch import nn

import dd_plugins
from dd_plugins.api import (
    ChannelsLast,
    ChannelsLastGroupNorm,
    MissingExtraError,
    OptionError,
)
from dd_privacy.extra import EXTRA

__all__ = [
    "module_obstacles",
    "prepare_for_opacus",
    "privacy_obstacles",
    "refuse_obstacles",
    "require_opacus",
    "trained_parameters",
]


def require_opacus() -> None:
    """Raise an error if Opacus is missing.

    Raises:
        MissingExtraError: Opacus is not installed.
    """
    try:
        import opacus.validators  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            f"dd_privacy needs opacus: pip install '{EXTRA}'"
        ) from error


def privacy_obstacles(
    network: str | dd_plugins.AbstractNetwork,
    image_shape: tuple[int, int, int] = (3, 32, 32),
    num_classes: int = 10,
) -> list[str]:
    """Return the obstacles to DP-SGD on a network; empty if there are none.

    BatchNorm is an obstacle: it mixes the examples of a batch, so no gradient belongs
    to a single example.

    Args:
        network: a spec, or a network.
        image_shape: channels, height and width.
        num_classes: the number of classes.

    Raises:
        MissingExtraError: opacus is not installed.
        UnknownNameError: no plugin registers the network.
    """
    require_opacus()
    if isinstance(network, str):
        network = dd_plugins.get_network(network)
    module = network.build(image_shape, num_classes, generator=torch.Generator())
    return module_obstacles(module)


def module_obstacles(module: nn.Module) -> list[str]:
    """Return the obstacles to DP-SGD on a module; empty if there are none."""
    from opacus.validators import ModuleValidator

    found = [str(error) for error in ModuleValidator.validate(module, strict=False)]
    # Opacus validates only trained layers, but a frozen one mixes examples too.
    found += [
        f"the BatchNorm layer {name!r} mixes the examples of a batch, and keeps their "
        "mean, although it is frozen; put GroupNorm in its place, or join it with the "
        "layer before it (torch.nn.utils.fuse_conv_bn_eval)"
        for name, layer in module.named_modules()
        if isinstance(layer, nn.modules.batchnorm._BatchNorm)
        and not any(each.requires_grad for each in layer.parameters(recurse=False))
    ]
    if not trained_parameters(module):
        found.append(
            "no parameter takes a gradient: all are frozen; thaw those to be trained "
            "(requires_grad_(True))"
        )
    return found


def refuse_obstacles(module: nn.Module, name: str) -> None:
    """Refuse a module that cannot be trained by DP-SGD.

    Args:
        module: the module.
        name: what the error calls it.

    Raises:
        OptionError: there is an obstacle.
    """
    obstacles = module_obstacles(module)
    if obstacles:
        reason = " ".join(obstacles[0].split())
        raise OptionError(
            f"{name} cannot be trained under differential privacy: {reason}"
        )


def trained_parameters(module: nn.Module) -> list[nn.Parameter]:
    """Return the parameters to train."""
    return [each for each in module.parameters() if each.requires_grad]


def prepare_for_opacus(module: nn.Module) -> nn.Module:
    """Prepare a module for gradients of single examples; its outputs stay the same.

    Opacus's hooks fail on in-place activations. For images in channels last, Opacus 1.6
    computes *wrong* gradients of convolutions without an error. So activations no
    longer work in place, weights are made contiguous, and this library's layers that
    change the layout are replaced.

    Args:
        module: changed in place.

    Returns:
        The module.
    """
    module.to(memory_format=torch.contiguous_format)
    for parent in list(module.modules()):
        if getattr(parent, "inplace", False):
            parent.inplace = False  # type: ignore[assignment]
        for name, layer in parent.named_children():
            if isinstance(layer, ChannelsLastGroupNorm):
                plain = nn.GroupNorm(layer.num_groups, layer.num_channels, layer.eps)
                plain.weight, plain.bias = layer.weight, layer.bias
                setattr(parent, name, plain)
            elif isinstance(layer, ChannelsLast):
                setattr(parent, name, nn.Identity())
    return module
