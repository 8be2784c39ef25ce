"""The guarantee of differential privacy in the header of a set."""

from typing import Annotated, Literal

import pydantic

from dd_plugins.synthetic.view_records import StrictRecord

__all__ = ["PrivacyRecord"]

_Positive = Annotated[float, pydantic.Field(gt=0)]
_LARGEST_DELTA = 1 - 2**-53


class PrivacyRecord(StrictRecord):
    """The guarantee of a differentially private set, and its limits.

    Attributes:
        epsilon: the epsilon of the whole run at ``delta``, and of a private context.
            Two data sets are neighbours if one has exactly one image more than the
            other, with its label.
        delta: the probability that epsilon does not hold.
        accountant: the accountant used to compute epsilon, such as ``"prv"``.
        mechanism: the output released at each step, in a few words.
        sampling: how batches were drawn; ``"poisson"``: each image independently of
            all others.
        sample_rate: the probability that an image is in the batch of a step.
        steps: the number of noisy steps in the run.
        noise_multiplier: the noise's standard deviation in units of the clipping norm.
        clipping_norm: the largest norm of one image's contribution to a step.
        secure_noise: whether the noise withstands attacks on floating-point arithmetic.
        not_covered: the limits of epsilon's protection, one sentence each.
    """

    epsilon: _Positive
    delta: Annotated[float, pydantic.Field(gt=0, lt=1)]
    accountant: str
    mechanism: str
    sampling: Literal["poisson"]
    sample_rate: Annotated[float, pydantic.Field(gt=0, le=1)]
    steps: Annotated[int, pydantic.Field(ge=1)]
    noise_multiplier: _Positive
    clipping_norm: _Positive
    secure_noise: bool
    not_covered: list[str]

    def together_with(self, other: "PrivacyRecord") -> "PrivacyRecord":
        """Return the guarantee of this set and of one released before, by their sums.

        Basic composition holds whatever images the two share. Fields of the mechanism
        remain those of this set.
        """
        others = [each for each in other.not_covered if each not in self.not_covered]
        added = {
            "epsilon": self.epsilon + other.epsilon,
            "delta": min(self.delta + other.delta, _LARGEST_DELTA),
            "accountant": f"{self.accountant}, added to the epsilon of its context",
            "not_covered": [*self.not_covered, *others],
        }
        return self.model_copy(update=added)

    def line(self) -> str:
        """Return the guarantee as one line."""
        return (
            f"epsilon {self.epsilon:.3g} at delta {self.delta:.2g} for an image more "
            f"or less, by {self.accountant}: {self.steps:,} steps with noise "
            f"{self.noise_multiplier:.3g} and rate {self.sample_rate:.3g}"
        )
