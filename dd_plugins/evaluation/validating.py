"""Networks trained on a set, scored on validation images: to choose among sets."""

from pathlib import Path
from typing import Any

from dd_plugins.errors import OptionError
from dd_plugins.evaluation.data_of_set import real_data_of
from dd_plugins.evaluation.networks_of_set import own_network
from dd_plugins.plugins.manager import Plugins, loaded_plugins
from dd_plugins.runtime.device import (
    Precision,
    plain_torch,
    resolve_device,
    resolve_precision,
)
from dd_plugins.runtime.randomness import generator_for
from dd_plugins.synthetic.artifact import DistilledSet
from dd_plugins.training.protocols import recipe_for, training_set_of
from dd_plugins.training.train import accuracy, train_network

__all__ = ["validation_accuracies"]


@plain_torch()
def validation_accuracies(
    distilled: DistilledSet,
    *,
    repeats: int = 3,
    data: Any = None,
    data_root: str | Path | None = None,
    seed: int = 0,
    device: str = "auto",
    precision: Precision = "auto",
    plugins: Plugins | None = None,
) -> tuple[float, ...]:
    """Train fresh networks on a set; return their accuracies on validation images.

    They are of the set's own architecture, and trained by its own recipe. The test
    images stay unread.

    Args:
        distilled: the set.
        repeats: networks, at least 1. Those of one seed begin alike for every set.
        data: the real data, in any form accepted by :func:`~dd_plugins.distill`; by
            default found by the name in the artifact.
        data_root: the folder of named data sets.
        seed: of weights, batches and augmentation.
        device: ``"auto"``, ``"cpu"``, ``"cuda"``, ...
        precision: dtype in which the networks compute.
        plugins: where names are looked up; by default all that is installed.

    Raises:
        OptionError: no image is held out for validation, or the set is private: what is
            measured on real images would tell of them.
        DataError: the data cannot be read, or does not fit the set.
    """
    if distilled.header.privacy is not None:
        raise OptionError(
            "a private set must not be chosen by real images: its epsilon does not "
            "cover the choice"
        )
    found = plugins or loaded_plugins()
    real = real_data_of(distilled, data, data_root, found.real_data)
    if not len(real.validation.labels):
        raise OptionError(
            f"{real.name} holds out no images for validation, by which to choose"
        )
    target = resolve_device(device)
    computed = resolve_precision(precision, target)
    network = own_network(distilled, found.network)
    scores = []
    for repeat in range(repeats):
        module = network.build(
            real.image_shape,
            real.num_classes,
            generator=generator_for(seed, "validating network", repeat),
            device=target,
        )
        trained = train_network(
            module,
            training_set_of(distilled, device=target),
            recipe_for(distilled),
            generator=generator_for(seed, "validating training", repeat),
            precision=computed,
        )
        scores.append(
            accuracy(
                trained,
                real.validation,
                distilled.transform,
                device=target,
                precision=computed,
            )
        )
    return tuple(scores)
