"""How much architectures disagree about images: the losses of MetaDD.

Each takes the outputs of M architectures for the same n images, stacked along the first
dimension, and returns a 0-d tensor, smaller for better agreement.

Reference: Zhao et al., "MetaDD", arXiv 2410.05103. No code was released. Where the
reviews of the paper leave a detail open, our reading is marked.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from dd_plugins.functional.class_sums import class_sums

__all__ = [
    "agreement_with_labels",
    "class_mean_distance",
    "distillation_loss",
    "map_overlap_loss",
    "map_presence_loss",
    "variance",
]

_SHARPNESS = 10.0
_EPSILON = 1e-8


def variance(outputs: Tensor) -> Tensor:
    """Return the variance over the architectures, averaged over all else.

    Args:
        outputs: shape ``(M, ...)``: maps in [0, 1] (the paper's variance term, equation
            7), logits or features.
    """
    return outputs.var(dim=0, correction=0).mean()


def map_overlap_loss(maps: Tensor, threshold: float = 0.5) -> Tensor:
    r"""Return one minus a soft overlap of the maps: the paper's overlap, smoothed.

    .. math:: 1 - \frac{\sum_p \prod_m g_m(p)}{\sum_p \max_m g_m(p)}, \qquad
        g = \sigma(10\,(c - \tau))

    Args:
        maps: in [0, 1], ``(M, n, height, width)``.
        threshold: the threshold :math:`\tau`.
    """
    gates = torch.sigmoid(_SHARPNESS * (maps - threshold))
    everywhere = gates.prod(dim=0).flatten(1).sum(dim=1)
    anywhere = gates.amax(dim=0).flatten(1).sum(dim=1)
    return (1 - everywhere / (anywhere + _EPSILON)).mean()


def map_presence_loss(maps: Tensor) -> Tensor:
    """Return one minus the mean map: our reading of the paper's ``L_pos``.

    It keeps maps from agreeing by being empty. The paper's formula is not known.
    """
    return 1 - maps.mean()


def agreement_with_labels(logits: Tensor, classes: Tensor) -> Tensor:
    """Return the mean cross-entropy of all architectures.

    Args:
        logits: ``(M, n, classes)``.
        classes: int64, ``(n,)``.
    """
    return F.cross_entropy(logits.flatten(0, 1), classes.repeat(len(logits)))


def distillation_loss(
    logits: Tensor, teacher: Tensor, temperature: float = 1.0
) -> Tensor:
    r"""Return the divergence of all architectures from a teacher.

    :math:`T^2\,\mathrm{KL}(\mathrm{softmax}(t/T) \,\|\, \mathrm{softmax}(z_m/T))`, the
    mean over architectures and images. Direction and temperature are our reading.

    Args:
        logits: ``(M, n, classes)``.
        teacher: logits of the teacher, ``(n, classes)``, constant.
        temperature: the temperature T.
    """
    wanted = F.log_softmax(teacher.detach() / temperature, dim=-1)
    found = F.log_softmax(logits / temperature, dim=-1)
    divergence = (wanted.exp() * (wanted - found)).sum(dim=-1)
    return temperature**2 * divergence.mean()


def class_mean_distance(features: Tensor, classes: Tensor, means: Tensor) -> Tensor:
    """Return the squared distance of each class's mean features from given means.

    It is averaged over the dimensions and over the classes present.

    Args:
        features: features of the images, ``(n, d)``.
        classes: int64, ``(n,)``.
        means: the given means of all classes, ``(classes, d)``, constant.
    """
    present, inverse = torch.unique(classes, return_inverse=True)
    totals = class_sums(features, inverse, len(present))
    found = totals / inverse.bincount()[:, None]
    distance: Tensor = (found - means[present]).square().mean()
    return distance
