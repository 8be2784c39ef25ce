"""LiRA: the likelihood ratio of a signal with and without membership."""

import torch
from torch import Tensor

import dd_plugins
from dd_plugins.api import OptionError
from dd_privacy.audit.attacks.base import AbstractAttack, Evidence, ThreatModel
from dd_privacy.audit.attacks.signals import TINY, Signal, signal_of

__all__ = ["LiRA"]

_SHARED_DEVIATION_BELOW = 64  # reference runs, as LiRA's authors advise


_FEWEST_RUNS = 2  # with an example, to have a standard deviation


@dd_plugins.record
class LiRA(AbstractAttack):
    """The likelihood ratio of a signal with and without membership.

    Each example has two Gaussians: one fitted to the shadow runs with it as a member,
    one to the other shadow runs. With fewer than 64 shadow runs all examples share the
    standard deviations.

    Args:
        online: whether to use shadow runs with the example. If not, the score is the
            signed distance of the signal from its mean over runs without the example.
        signal: the confidence in the example's class, or a distance to the released
            images.

    Reference: Carlini et al., "Membership Inference Attacks From First Principles"
    (2022), algorithm 1.

    Differences from the paper: one query per example. Differences from its released
    code: the offline score is one-sided as in the paper, in standard deviations, not a
    two-sided density; Gaussians are centred at means, not medians; shared deviations
    are from each example's own mean, not from the mean over all examples.
    """

    name = "lira"

    online: bool = True
    signal: Signal = "confidence"

    @property
    def threat_model(self) -> ThreatModel:
        """The model, or the images if the signal is a distance."""
        return "model" if self.signal == "confidence" else "images"

    @property
    def references_needed(self) -> int:
        """Two with each example and two without; offline, two in all."""
        return 4 if self.online else 2

    def scores(self, evidence: Evidence) -> Tensor:
        """Return the log-likelihood ratio; offline, the signed distance."""
        own = signal_of(evidence.target, evidence.labels, self.signal)
        found = torch.stack(
            [
                signal_of(reference.seen, evidence.labels, self.signal)
                for reference in evidence.references
            ]
        )
        members = torch.stack([each.members for each in evidence.references])
        counts = members[:, ~evidence.population].sum(dim=0)
        least = min(int(counts.min()), len(members) - int(counts.max()))
        if self.online and least < _FEWEST_RUNS:
            raise OptionError(
                f"lira needs {_FEWEST_RUNS} shadow runs with each example and as many "
                f"without, got {least}"
            )
        outside, spread_outside = _gaussian(found, ~members)
        if not self.online:
            score = (own - outside) / spread_outside
            return -score if self.signal != "confidence" else score
        inside, spread_inside = _gaussian(found, members)
        return _log_density(own, inside, spread_inside) - _log_density(
            own, outside, spread_outside
        )


def _gaussian(values: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Return each example's mean and standard deviation over its chosen runs.

    An example without a chosen run gets the mean over all examples.
    """
    kept = values.masked_fill(~chosen, torch.nan)
    mean = kept.nanmean(dim=0)
    centred = kept - mean
    counts = chosen.sum(dim=0)
    squares = centred.square().nan_to_num(0.0).sum(dim=0)
    if len(values) < _SHARED_DEVIATION_BELOW:
        freedom = (counts - 1).clamp_min(0).sum().clamp_min(1)
        deviation = (squares.sum() / freedom).sqrt().expand_as(mean)
    else:
        deviation = (squares / (counts - 1).clamp_min(1)).sqrt()
    return mean.nan_to_num(float(mean.nanmean())), deviation.clamp_min(TINY)


def _log_density(values: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    return -0.5 * ((values - mean) / deviation).square() - deviation.log()
