"""Whether a network can be trained under differential privacy."""

import torch

import dd_plugins
from dd_plugins.errors import MissingExtraError

__all__ = ["EXTRA", "privacy_obstacles"]

EXTRA = "dd-plugins[privacy]"
"""What to install for this integration to be of use."""


def privacy_obstacles(
    network: str | dd_plugins.AbstractNetwork,
    image_shape: tuple[int, int, int] = (3, 32, 32),
    num_classes: int = 10,
) -> list[str]:
    """Return what keeps a network from DP-SGD; empty if nothing does.

    BatchNorm, for one: it mixes the examples of a batch, so that no gradient belongs to
    a single one.

    Args:
        network: a spec, or a network.
        image_shape: channels, height and width.
        num_classes: the number of classes.

    Raises:
        MissingExtraError: opacus is not installed.
        UnknownNameError: no plugin registers the network.
    """
    try:
        from opacus.validators import ModuleValidator
    except ImportError as error:
        raise MissingExtraError(
            f"dd_privacy needs opacus: pip install '{EXTRA}'"
        ) from error
    if isinstance(network, str):
        network = dd_plugins.get_network(network)
    module = network.build(image_shape, num_classes, generator=torch.Generator())
    return [str(error) for error in ModuleValidator.validate(module, strict=False)]
