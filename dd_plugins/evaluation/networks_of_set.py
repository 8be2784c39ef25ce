"""The network named by an artifact: built only if it is of a usual size."""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from dd_plugins.errors import OptionError
from dd_plugins.networks.base import AbstractNetwork, ImageShape
from dd_plugins.runtime.randomness import generator_for, seeded_globally
from dd_plugins.synthetic.artifact import DistilledSet

__all__ = ["own_network", "refuse_huge"]

# Limits of the network that an artifact names; the user must name a larger one.
_MOST_PARAMETERS = 250_000_000  # 1 GB of weights
_MOST_TENSORS = 10_000
_LARGEST_OPTION = 20_000


def own_network(
    distilled: DistilledSet, find: Callable[[str], AbstractNetwork]
) -> AbstractNetwork:
    """Return a set's own network for evaluation.

    An artifact may come from anywhere: a network too large for the memory is not built
    just because the artifact names it.

    Args:
        distilled: the set.
        find: returns the network of a spec.

    Raises:
        OptionError: the network is larger than an artifact may ask for, or too deep for
            the images, or its spec is malformed.
        UnknownNameError: no plugin registers its name.
    """
    network = find(distilled.header.evaluation_network)
    refuse_huge(network, distilled)
    return network


def refuse_huge(network: AbstractNetwork, distilled: DistilledSet) -> None:
    """Refuse a network, named by an artifact, that would fill the memory.

    Raises:
        OptionError: the network is larger than an artifact may ask for, or too deep for
            the images.
    """
    channels, height, width = distilled.images.shape[1:]
    classes = len(distilled.header.class_names)
    if _is_huge(network, (channels, height, width), classes):
        raise OptionError(
            f"the artifact names the network {network!r}, expected one of at most "
            f"{_MOST_PARAMETERS:,} parameters, as an artifact may ask for; name a "
            "network by --network, or this one if it is wanted"
        )


def _is_huge(network: AbstractNetwork, shape: ImageShape, classes: int) -> bool:
    """Return whether a network is larger than an artifact may ask for.

    It is built from tensors without memory, and only until its size is known.
    """
    options = network.options().values()
    if any(isinstance(each, int) and each > _LARGEST_OPTION for each in options):
        return True
    tensors = parameters = 0

    def count(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal tensors, parameters
        del module, name
        if parameter is not None:
            tensors, parameters = tensors + 1, parameters + parameter.numel()
        if parameters > _MOST_PARAMETERS or tensors > _MOST_TENSORS:
            raise _HugeNetworkError

    generator = generator_for(0, "size of a network")
    hook = register_module_parameter_registration_hook(count)
    try:
        with seeded_globally(generator), torch.device("meta"):
            built = network.construct(shape, classes, generator=generator)
            sizes = [
                parameter.numel() for parameter in built.parameters()
            ]  # with deep copies
    except _HugeNetworkError:
        return True
    except OptionError:
        raise
    except Exception:  # a plugin's network may need values: let it pass
        return False
    finally:
        hook.remove()
    return sum(sizes) > _MOST_PARAMETERS or len(sizes) > _MOST_TENSORS


class _HugeNetworkError(Exception):
    """Ends the construction of a network once it is known to be too large."""
