"""Train a network on all members."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch.nn.functional as F

import dd_plugins
from dd_plugins.api import (
    TrainingSet,
    Transform,
    Whitened,
    generator_for,
    real_data_recipe,
    resolve_device,
    resolve_precision,
    train_network,
)
from dd_privacy.audit.choices import ALL_STEPS
from dd_privacy.audit.mechanisms.base import AbstractMechanism, Release
from dd_privacy.audit.mechanisms.training import PROBE_STEPS, fresh_network, timed

__all__ = ["AllMembers"]


@dataclass(frozen=True)
class AllMembers(AbstractMechanism):
    """Train a network on all members; release no images.

    Attributes:
        network: the spec of the network.
        training_steps: the number of training steps.
        augment: whether to augment images; without augmentation, the network memorises
            them sooner.
    """

    network: str = "conv"
    training_steps: int = ALL_STEPS
    augment: bool = True

    def run(
        self, data: dd_plugins.RealData, seed: int, folder: Path | None = None
    ) -> Release:
        """Train on the members."""
        del folder
        return self._trained(data, seed, self.training_steps)

    def _trained(self, data: dd_plugins.RealData, seed: int, steps: int) -> Release:
        device = resolve_device(self.device)
        transform = Transform.fit(data.train.images, data.preprocessing)
        network = fresh_network(
            self.network, data.image_shape, data.num_classes, seed, device
        )
        training_set = TrainingSet(
            Whitened(data.train.images, transform, device),
            F.one_hot(data.train.labels, data.num_classes).float().to(device),
            "classes",
            data.mirror,
        )
        recipe = real_data_recipe(steps)
        train_network(
            network,
            training_set,
            recipe if self.augment else replace(recipe, augmentation="none"),
            generator=generator_for(seed, "audited training"),
            precision=resolve_precision("auto", device),
        )
        return Release(None, network, transform)

    def records(self) -> list[dd_plugins.Record]:
        """Return the network."""
        return [dd_plugins.get_network(self.network)]

    def expected_seconds(self, data: dd_plugins.RealData) -> float:
        """Return the time of a few steps, extrapolated to all steps."""
        few = min(PROBE_STEPS[1], self.training_steps)
        _, seconds = timed(lambda: self._trained(data, 0, few))
        return seconds / few * self.training_steps
