"""Distil the members, and train a network on the result."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import dd_plugins
from dd_plugins.api import (
    RunOptions,
    Settled,
    get_initial_images,
    get_parametrization,
    settle,
)
from dd_privacy.audit.mechanisms.base import AbstractMechanism, Release
from dd_privacy.audit.mechanisms.relabelling import Relabelling, labelled
from dd_privacy.audit.mechanisms.training import (
    PROBE_STEPS,
    seconds_of_a_step,
    timed,
    trained_on,
    training_seconds,
)

__all__ = ["Distillation"]


@dataclass(frozen=True)
class Distillation(AbstractMechanism):
    """Distil the members, and train a network on the result.

    Attributes:
        options: of the distillation; a run's own seed replaces the one in them.
        training_steps: training steps on the set; None for the protocol's number.
        evaluation_network: the network trained on the set; None for the set's own.
        refined: the distillation whose result this one refines; None to start from
            scratch.
        relabelling: how a teacher, trained on the members, labels the views of the set;
            None for the method's own labels.
    """

    options: RunOptions = field(default_factory=RunOptions)
    training_steps: int | None = None
    evaluation_network: str | None = None
    refined: "Distillation | None" = None
    relabelling: Relabelling | None = None

    def run(
        self, data: dd_plugins.RealData, seed: int, folder: Path | None = None
    ) -> Release:
        """Distil and train; a killed distillation resumes."""
        distilled = self._distilled(data, seed, folder)
        distilled = labelled(distilled, data, self.relabelling, self.device)
        return trained_on(
            distilled, seed, self.device, self.training_steps, self.evaluation_network
        )

    def description(self) -> dict[str, object]:
        """Return everything a run depends on, without the name of its refined set.

        The seed is the run's own, and ``refined`` says whether a context is refined.
        """
        found = super().description()
        del found["refined"]
        del found["options"]
        found |= self.options.arguments()
        del found["seed"], found["refine_context"]
        if self.refined is not None:
            found["refined"] = self.refined.description()
        if self.relabelling is None:  # as kept runs were described before
            del found["relabelling"]
        return found

    def _distilled(
        self, data: dd_plugins.RealData, seed: int, folder: Path | None
    ) -> dd_plugins.DistilledSet:
        first = None
        if self.refined is not None:
            before = None if folder is None else folder / "refined"
            first = self.refined._distilled(data, seed, before)
        return self._distilled_from(first, data, seed, self.options.steps, folder)

    def _distilled_from(
        self,
        first: dd_plugins.DistilledSet | None,
        data: dd_plugins.RealData,
        seed: int,
        steps: int | None,
        folder: Path | None = None,
    ) -> dd_plugins.DistilledSet:
        options = replace(
            self.options, seed=seed, steps=steps, refine_context=first is not None
        )
        return dd_plugins.distill(
            data,
            **options.arguments(),
            context=first,
            device=self.device,
            out=folder,
            resume=folder is not None,
        )

    def records(self) -> list[dd_plugins.Record]:
        """Return the records of distiller, parametrization, networks and images."""
        options = self.options
        networks = [options.network, self.evaluation_network]
        if self.relabelling is not None:
            networks += self.relabelling.teachers
        first_images = get_initial_images(options.initial_images or "real")
        return [
            dd_plugins.get_distiller(options.distiller),
            get_parametrization(options.parametrization),
            *(dd_plugins.get_network(each) for each in networks if each is not None),
            *([first_images] if isinstance(first_images, dd_plugins.Record) else []),
            *(self.refined.records() if self.refined is not None else []),
        ]

    def expected_seconds(self, data: dd_plugins.RealData) -> float:
        """Return the time of a few steps, extrapolated to all steps."""
        probe, seconds = self._probed(data)
        probe, labelling = timed(
            lambda: labelled(probe, data, self.relabelling, self.device)
        )
        seconds += labelling
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
        if probe.header.views is not None:  # the first probe has trained a teacher
            _, short = timed(lambda: self._distilled_from(first, data, 0, few))
        _, longer = timed(lambda: self._distilled_from(first, data, 0, more))
        step = seconds_of_a_step(short, longer)
        steps = self._settled(data).options.steps or few
        return probe, before + short + step * max(0, steps - few)

    def resolved_network(self, data: dd_plugins.RealData) -> str:
        """Return the spec of the network for distillation."""
        return repr(self._settled(data).network)

    def _settled(self, data: dd_plugins.RealData) -> Settled:
        return settle(self.options, data, device=self.device)
