"""A check of an image's features: they must depend on no other image."""

import torch

from dd_plugins.api import FeatureNetwork, OptionError, Run

__all__ = ["check_features_apart"]

_IMAGES = 4
_TOLERANCE = 1e-3


def check_features_apart(name: str, run: Run, network: FeatureNetwork) -> None:
    """Refuse a network that mixes the images of a batch in evaluation mode.

    The features of one image would then depend on others, so clipping an image's part
    would not bound its influence.

    Args:
        name: the name of the distiller, for the message.
        run: the run.
        network: a network, with any weights; it is put in evaluation mode.

    Raises:
        OptionError: the network mixes them.
    """
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(_IMAGES, *run.task.image_shape, generator=generator)
    images = images.to(run.device)
    network.eval()
    with torch.no_grad():
        together = network.features(images)
        apart = torch.cat([network.features(each[None]) for each in images])
    if (together - apart).norm() > _TOLERANCE * apart.norm():
        raise OptionError(
            f"{name} needs features of an image that depend on no other image, got "
            f"{run.network}, which mixes a batch; choose another normalisation"
        )
