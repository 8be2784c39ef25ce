"""RMIA: pairwise likelihood ratios with a population."""

from dataclasses import replace
from typing import Annotated

import numpy as np
import torch
from pydantic import Field, PositiveFloat
from torch import Tensor

import dd_plugins
from dd_plugins.api import OptionError
from dd_privacy.audit.attacks.base import AbstractModelAttack, Evidence, Observations
from dd_privacy.audit.attacks.signals import TINY, probabilities

__all__ = ["RMIA"]


@dd_plugins.record
class RMIA(AbstractModelAttack):
    """The fraction of the population dominated by an example's likelihood ratio.

    Args:
        gamma: the factor by which a ratio must exceed another to dominate it.
        scale: ``a`` of the paper, in [0, 1]. It estimates the mean confidence over all
            models from the mean over models without the example. By default it is
            chosen by an attack on one shadow run with the others.

    Reference: Zarifzadeh, Liu and Shokri, "Low-Cost High-Power Membership Inference
    Attacks" (2024), offline; equations (2), (5) and (10).
    """

    name = "rmia"

    gamma: PositiveFloat = 1.0
    scale: Annotated[float, Field(ge=0, le=1)] | None = None

    @property
    def references_needed(self) -> int:
        """One, or two if the scale is chosen."""
        return 1 if self.scale is not None else 2

    def scores(self, evidence: Evidence) -> Tensor:
        """Return the fraction of the population dominated by each example."""
        if not bool(evidence.population.any()):
            raise OptionError(
                "rmia needs a population of examples that are never members, got none"
            )
        scale = self.scale
        if scale is None:
            scale = self._chosen_scale(evidence)
        return self._dominated(evidence, scale)

    def _dominated(self, evidence: Evidence, scale: float) -> Tensor:
        own = self._of_class(evidence.target, evidence)
        found = torch.stack(
            [self._of_class(each.seen, evidence) for each in evidence.references]
        )
        members = torch.stack([each.members for each in evidence.references])
        without = found.masked_fill(members, torch.nan).nanmean(dim=0)
        without = without.nan_to_num(float(without.nanmean()))
        expected = (1 + scale) / 2 * without + (1 - scale) / 2
        ratios = (own / expected.clamp_min(TINY)).log()
        others = ratios[evidence.population].sort().values - np.log(1 / self.gamma)
        below = torch.searchsorted(others, ratios.contiguous())
        # The ratio itself orders examples that dominate equally many.
        return (below + torch.sigmoid(ratios)) / (len(others) + 1)

    @staticmethod
    def _of_class(seen: Observations, evidence: Evidence) -> Tensor:
        return probabilities(seen.outputs).gather(1, evidence.labels[:, None])[:, 0]

    def _chosen_scale(self, evidence: Evidence) -> float:
        from sklearn.metrics import roc_auc_score

        first, *others = evidence.references
        trial = replace(evidence, target=first.seen, references=others)
        truth = first.members[~evidence.population].numpy()
        if truth.all() or not truth.any():
            return 0.5

        def area(scale: float) -> float:
            found = self._dominated(trial, scale)[~evidence.population]
            return float(roc_auc_score(truth, found.numpy()))

        return max((step / 10 for step in range(11)), key=area)
