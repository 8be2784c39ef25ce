"""The scores of networks on test images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from dd_plugins.data.images import Images
from dd_plugins.data.preprocess import Transform
from dd_plugins.evaluation.retrieval import retrieval_scores
from dd_plugins.networks.base import FeatureNetwork
from dd_plugins.runtime.device import autocast
from dd_plugins.training.outputs import (
    fraction_correct,
    mapped_batches,
    predicted_classes,
    real_outputs,
)

__all__ = ["NetworkScores", "score_networks"]


@dataclass(frozen=True)
class NetworkScores:
    """The scores of one network.

    Attributes:
        accuracy: the fraction of images classified correctly, in [0, 1].
        has_diverged: whether outputs are not finite; such an image counts as wrong.
        retrieval: the scores of the features, by name; empty if not asked for.
    """

    accuracy: float
    has_diverged: bool
    retrieval: Mapping[str, float] = field(default_factory=dict)


@torch.no_grad()
def score_networks(
    networks: Sequence[FeatureNetwork],
    test: Images,
    transform: Transform,
    *,
    device: torch.device,
    precision: torch.dtype,
    retrieval: bool = False,
) -> list[NetworkScores]:
    """Return the scores of each network.

    Each image is read and mapped once for all networks. The scores of features take
    another pass for each network, so that the features of one are held at a time.

    Args:
        networks: in evaluation mode.
        test: real images in [0, 1] or uint8, and their labels; at least one.
        transform: maps the images to the value space.
        device: the device of the networks.
        precision: the dtype of the networks' arithmetic.
        retrieval: whether features are scored too.
    """
    predicted: list[list[torch.Tensor]] = [[] for _ in networks]
    for images in mapped_batches(test, transform, device) if networks else ():
        for own, network in zip(predicted, networks, strict=True):
            with autocast(device, precision):
                logits = network(images)
            own.append(predicted_classes(logits.float()).cpu())
    found = []
    for own, network in zip(predicted, networks, strict=True):
        classes = torch.cat(own)
        scores = {}
        if retrieval:
            features = real_outputs(
                network.features, test, transform, device=device, precision=precision
            )
            scores = retrieval_scores(features, test.labels)
        accuracy = fraction_correct(classes, test.labels)
        found.append(NetworkScores(accuracy, bool((classes < 0).any()), scores))
    return found
