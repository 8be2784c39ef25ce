"""Train a network on all members under differential privacy.

This module alone connects audits to private training.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path

import dd_plugins
from dd_privacy.audit.mechanisms.base import AbstractMechanism, Release
from dd_privacy.audit.mechanisms.training import timed
from dd_privacy.private.trainer import PrivateTrainer

__all__ = ["PrivateTraining"]


@dataclass(frozen=True)
class PrivateTraining(AbstractMechanism):
    """Train a network on all members under differential privacy.

    Attributes:
        trainer: the trainer; its seed is replaced by the run's, and its device by the
            mechanism's.
    """

    trainer: PrivateTrainer = field(default_factory=PrivateTrainer)

    @classmethod
    def at(
        cls, epsilon: float, delta: float, *, members: int, device: str
    ) -> "PrivateTraining":
        """Return private training at an epsilon, for about this many members.

        A batch holds an eighth of the members at most: the default size may exceed the
        number of members.
        """
        trainer = PrivateTrainer(
            epsilon=epsilon,
            delta=delta,
            batch_size=min(PrivateTrainer.batch_size, max(1, members // 8)),
        )
        return cls(f"DP-SGD, epsilon {epsilon:g}", device, trainer)

    def run(
        self, data: dd_plugins.RealData, seed: int, folder: Path | None = None
    ) -> Release:
        """Train with the seed of the run: an audit must be able to repeat it."""
        del folder
        trainer = replace(self.trainer, seed=seed, device=self.device)
        model = trainer.fit(
            data.train.images[:],
            data.train.labels,
            class_names=data.class_names,
            mirror=data.mirror,
        )
        return Release(None, model.network, model.transform, model.budget.epsilon)

    def records(self) -> list[dd_plugins.Record]:
        """Return the network."""
        return [dd_plugins.get_network(self.trainer.network)]

    def expected_seconds(self, data: dd_plugins.RealData) -> float:
        """Estimate the time of the noise search and of all epochs, from one epoch."""
        images = len(data.train.labels)
        once = replace(self, trainer=replace(self.trainer, epochs=1))
        # The search for the noise takes seconds, and all runs share its cached result.
        _, searching = timed(lambda: self.trainer.budget(images))
        once.trainer.budget(images)
        _, seconds = timed(lambda: once.run(data, 0))
        return searching + seconds * self.trainer.epochs
