"""Distil the members, and train a network on the result."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dd_plugins
from dd_plugins.api import (
    DEFAULT_NETWORK,
    Preprocessing,
    Task,
    get_initial_images,
    resolve_device,
)
from dd_privacy.audit.mechanisms.base import AbstractMechanism, Release
from dd_privacy.audit.mechanisms.training import (
    PROBE_STEPS,
    timed,
    trained_on,
    training_seconds,
)

__all__ = ["Distillation"]


@dataclass(frozen=True)
class Distillation(AbstractMechanism):
    """Distil the members, and train a network on the result.

    Attributes:
        distiller: the spec of the distiller.
        images_per_class: synthetic images per class.
        steps: steps of the distillation; None for the distiller's default.
        network: the architecture that it distils on; None for the default.
        initial_images: what the set starts from; None for the distiller's default.
        training_steps: training steps on the set; None for the protocol's number.
        evaluation_network: the network trained on the set; None for the set's own.
        preprocessing: replaces the preprocessing of the data.
        refined: the distillation whose result this one refines; None to start anew.
    """

    distiller: str = "frepo"
    images_per_class: int = 1
    steps: int | None = None
    network: str | None = None
    initial_images: str | None = None
    training_steps: int | None = None
    evaluation_network: str | None = None
    preprocessing: Preprocessing | None = None
    refined: "Distillation | None" = None

    def run(
        self, data: dd_plugins.RealData, seed: int, folder: Path | None = None
    ) -> Release:
        """Distil and train; a killed distillation resumes."""
        distilled = self._distilled(data, seed, folder)
        return trained_on(
            distilled, seed, self.device, self.training_steps, self.evaluation_network
        )

    def description(self) -> dict[str, object]:
        """Return all that a run depends on, without the name of what it refines."""
        found = super().description()
        del found["refined"]
        if self.refined is not None:
            found["refined"] = self.refined.description()
        return found

    def _distilled(
        self, data: dd_plugins.RealData, seed: int, folder: Path | None
    ) -> dd_plugins.DistilledSet:
        first = None
        if self.refined is not None:
            before = None if folder is None else folder / "refined"
            first = self.refined._distilled(data, seed, before)
        return self._distilled_from(first, data, seed, self.steps, folder)

    def _distilled_from(
        self,
        first: dd_plugins.DistilledSet | None,
        data: dd_plugins.RealData,
        seed: int,
        steps: int | None,
        folder: Path | None = None,
    ) -> dd_plugins.DistilledSet:
        if self.preprocessing is not None:
            data = data.with_preprocessing(self.preprocessing)
        return dd_plugins.distill(
            data,
            self.distiller,
            images_per_class=self.images_per_class,
            steps=steps,
            network=self.network,
            initial_images=self.initial_images,
            context=first,
            refine_context=first is not None,
            device=self.device,
            seed=seed,
            out=folder,
            resume=folder is not None,
        )

    def records(self) -> list[dd_plugins.Record]:
        """Return the distiller, the networks, and the core set that it starts from."""
        networks = [self.network, self.evaluation_network]
        first_images = get_initial_images(self.initial_images or "real")
        return [
            dd_plugins.get_distiller(self.distiller),
            *(dd_plugins.get_network(each) for each in networks if each is not None),
            *([first_images] if isinstance(first_images, dd_plugins.Record) else []),
            *(self.refined.records() if self.refined is not None else []),
        ]

    def expected_seconds(self, data: dd_plugins.RealData) -> float:
        """Return the time of a few steps, extrapolated to all steps."""
        probe, seconds = self._probed(data)
        return seconds + training_seconds(probe, self.device, self.training_steps)

    def _probed(
        self, data: dd_plugins.RealData
    ) -> tuple[dd_plugins.DistilledSet, float]:
        """Return a set after a few steps, and an estimate for all steps."""
        first, before = None, 0.0
        if self.refined is not None:
            first, before = self.refined._probed(data)
        few, more = PROBE_STEPS
        probe, short = timed(lambda: self._distilled_from(first, data, 0, few))
        _, longer = timed(lambda: self._distilled_from(first, data, 0, more))
        # The difference leaves out what a run spends once: setting up, compiling.
        step = max(0.0, longer - short) / (more - few)
        steps = self.steps or self._default_steps(data)
        return probe, before + short + step * max(0, steps - few)

    def resolved_network(self, data: dd_plugins.RealData) -> str:
        """Return the spec of the network that this distils on."""
        if self.network is not None:
            return self.network
        distiller, task = self._settled(data)
        device = resolve_device(self.device)
        return repr(
            distiller.default_network(task, device)
            or dd_plugins.get_network(DEFAULT_NETWORK)
        )

    def _default_steps(self, data: dd_plugins.RealData) -> int:
        distiller, task = self._settled(data)
        return distiller.default_steps(task)

    def _settled(
        self, data: dd_plugins.RealData
    ) -> tuple[dd_plugins.AbstractDistiller[Any], Task]:
        task = Task(
            data.name,
            data.image_shape,
            data.num_classes,
            self.images_per_class,
            self.steps,
            data.mirror,
        )
        return dd_plugins.get_distiller(self.distiller).for_task(task), task
