"""The base of private distillers: options, budget, noisy sums, and guarantee."""

import warnings
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, TypeVar

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor

from dd_plugins.api import (
    AbstractDistiller,
    AbstractNetwork,
    AbstractState,
    DDWarning,
    FeatureNetwork,
    InitialImages,
    Parameters,
    Preprocessing,
    PrivacyRecord,
    RealSampler,
    Run,
    Task,
    check_saved,
    features_in_chunks,
    get_network,
    record,
)
from dd_privacy.private.accounting import Budget, check_delta, noise_multiplier_for
from dd_privacy.private.example_features import check_features_apart
from dd_privacy.private.noise import SecretNoise

__all__ = [
    "AbstractPrivateDistiller",
    "ClippingNorm",
    "PrivateState",
    "clipping_factors",
    "features_of",
    "real_features",
]

_LARGEST = 1e15  # larger features of real images are zeroed
_CHUNK = 500  # real images processed at once

_NOT_COVERED = (
    "The choice of hyper-parameters on the same images: each further run spends again.",
    "Accuracies measured on private images, if they are published.",
    "The data set's name, the number of its images, its classes and their number.",
    "A test set that was cut from the images by their order, as that of a plain folder "
    "is: one image more or fewer moves others in and out of the training images.",
    "The checkpoint and the run's memory, which hold the noise's secret.",
    "How long steps take, which tells how large batches were.",
)
_FLOATING_POINT = "Attacks on floating-point noise: secure_noise was off."
_PUBLIC = "The public images: they are taken for public."

ClippingNorm = Annotated[float, Field(ge=1e-6, le=1e6)]
"""A norm within the range of float32 and of optimizers."""

StateType = TypeVar("StateType", bound="PrivateState")

Parts = Callable[[Tensor, Tensor], Tensor]
"""Returns the sum of the clipped parts of some images, given with their labels."""


@dataclass
class PrivateState(AbstractState):
    """The budget of a run, and the secret behind its noise.

    Attributes:
        budget: the budget of all steps of the run; not saved.
        noise: draws noise and batches from the secret.
    """

    budget: Budget
    noise: SecretNoise

    def state_dict(self) -> dict[str, Any]:
        """Return the secret."""
        return {"noise_key": f"{self.noise.key:x}"}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the secret.

        Raises:
            ValueError: the saved secret is not a hexadecimal number.
        """
        check_saved(state["noise_key"], "", "noise_key")
        self.noise = SecretNoise(int(state["noise_key"], 16), self.noise.secure)


@record
class AbstractPrivateDistiller(AbstractDistiller[StateType]):
    """A distiller whose sets have differential privacy for the real images.

    At every step an independent coin decides for each real image whether it is in the
    batch (Poisson sampling). The image's part in the step is clipped to a norm, clipped
    parts are summed, and Gaussian noise is added: a subsampled Gaussian mechanism. All
    steps are accounted for together. Everything else is a function of the noisy sums
    and of public constants. Two sets of training images are neighbours if adding one
    image and its label to one set gives the other.

    The noise and the coins come from a secret, drawn from the system's entropy. So two
    runs with the same seed differ, while a resumed run makes the same draws.

    Args:
        public: the name of a public data set; its images initialise the set, and a
            parametrization is fitted to them.
        secure_noise: whether the noise withstands floating-point attacks, by the method
            of Opacus's secure mode.
        noise_seed: a seed of the noise, for tests only: the set then states no
            guarantee.
    """

    positional: ClassVar[tuple[str, ...]] = ("epsilon",)
    mechanism: ClassVar[str]
    """The output released at each step, in a few words."""
    short_run: ClassVar[int]
    """The default number of steps: few, because each step spends privacy."""

    epsilon: PositiveFloat
    delta: Annotated[float, Field(gt=0, lt=1)] = 1e-5
    batch_size: PositiveInt = 2_000
    clipping_norm: ClippingNorm = 1.0
    learning_rate: PositiveFloat = 0.03
    start_noise: PositiveFloat = 0.1
    public: str | None = None
    secure_noise: bool = False
    noise_seed: Annotated[int, Field(ge=0, lt=2**128)] | None = None

    @property
    def private(self) -> bool:
        """Always True: the set is differentially private."""
        return True

    @property
    def public_data(self) -> str | None:
        """The name of the public data."""
        return self.public

    @property
    def initial_images(self) -> InitialImages:
        """Noise, or public images if there are any."""
        return "noise" if self.public is None else "public"

    @property
    def noise_deviation(self) -> float:
        """The standard deviation of the initial noise.

        It is small, so images start nearly grey: pixels with small gradients keep their
        initial noise.
        """
        return self.start_noise

    def preprocessing(self, task: Task) -> Preprocessing | None:
        """Return the value space made of constants, fitted to no image."""
        del task
        return "constant"

    def default_steps(self, task: Task) -> int:
        """Return the number of steps of a short run."""
        del task
        return self.short_run

    def default_network(
        self, task: Task, device: torch.device
    ) -> AbstractNetwork | None:
        """Return a ConvNet, on the CPU with few features: each feature gets noise."""
        del task
        narrow = device.type == "cpu"
        return get_network("dc_convnet(width=32)" if narrow else "dc_convnet")

    def images_in_graph(self, task: Task) -> int:
        """Return the number of synthetic images: each step updates all of them."""
        return task.synthetic_images

    @abstractmethod
    def private_state(self, run: Run, budget: Budget, noise: SecretNoise) -> StateType:
        """Return the state at the start of a run.

        Args:
            run: the run.
            budget: the budget of its steps.
            noise: the source of its noise and batches.
        """

    def setup(self, run: Run, real: RealSampler) -> StateType:
        """Return the initial state, with the least noise for epsilon over all steps.

        Raises:
            OptionError: no noise is sufficient; delta is too large for the number of
                images; or the network mixes the images of a batch.
            MissingExtraError: opacus is not installed.
        """
        network = run.fresh_network(run.generator("network to check"))
        check_features_apart(self.name, run, network)
        count = len(real.labels)
        check_delta(self.delta, count)
        budget = noise_multiplier_for(
            self.epsilon,
            sample_rate=min(1.0, self.batch_size / count),
            steps=run.steps,
            delta=self.delta,
        )
        if self.noise_seed is None:
            noise = SecretNoise.fresh(secure=self.secure_noise)
        else:
            noise = SecretNoise(self.noise_seed, self.secure_noise)
            warnings.warn(
                f"{self.name}: noise_seed is for tests: whoever knows it can subtract "
                "the noise, so the set states no guarantee",
                DDWarning,
                stacklevel=2,
            )
        return self.private_state(run, budget, noise)

    def noisy_sum(
        self,
        state: PrivateState,
        real: RealSampler,
        step: int,
        parts: Parts,
        shape: tuple[int, ...],
    ) -> Tensor:
        """Return the noisy sum over a Poisson batch, divided by its expected size.

        Args:
            state: the state of the run.
            real: the real images.
            step: the number of the step.
            parts: returns the sum of the parts of a chunk of the batch. The part of an
                image must depend on no other image, and have a norm of at most
                ``clipping_norm``.
            shape: the shape of the sum.

        Returns:
            float64 of the given shape, on the CPU.
        """
        budget = state.budget
        count = len(real.labels)
        indices = state.noise.batch(step, count, budget.sample_rate)
        total = torch.zeros(shape, dtype=torch.float64)
        for chunk in torch.split(indices, _CHUNK) if len(indices) else ():
            batch = real.read(chunk)
            total += parts(batch.images, batch.labels).cpu().double()
        deviation = budget.noise_multiplier * self.clipping_norm
        total += deviation * state.noise.gaussian(step, shape)
        return total / (budget.sample_rate * count)

    def privacy(self, state: StateType) -> PrivacyRecord | None:
        """Return the guarantee; None if the noise can be reproduced."""
        if self.noise_seed is not None:
            return None
        budget = state.budget
        not_covered = list(_NOT_COVERED)
        not_covered += [] if self.secure_noise else [_FLOATING_POINT]
        not_covered += [] if self.public is None else [_PUBLIC]
        return PrivacyRecord(
            epsilon=budget.epsilon,
            delta=budget.delta,
            accountant=budget.accountant,
            mechanism=self.mechanism,
            sampling="poisson",
            sample_rate=budget.sample_rate,
            steps=budget.steps,
            noise_multiplier=budget.noise_multiplier,
            clipping_norm=self.clipping_norm,
            secure_noise=self.secure_noise,
            not_covered=not_covered,
        )

    def optimizer(self, parameters: Parameters) -> torch.optim.Optimizer:
        """Return Adam; its processing of noisy gradients needs no further noise."""
        return torch.optim.Adam(parameters, lr=self.learning_rate, betas=(0.9, 0.95))

    def schedule(
        self, optimizer: torch.optim.Optimizer, steps: int
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """Return a cosine schedule from the learning rate to 0."""
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)


def features_of(run: Run, network: FeatureNetwork, images: Tensor) -> Tensor:
    """Return float32 ``(n, features)``, computed in the run's precision."""
    with run.autocast():
        return features_in_chunks(network, images).float()


def real_features(run: Run, network: FeatureNetwork, images: Tensor) -> Tensor:
    """Return the features of real images, zeros where not finite or too large.

    A non-finite value would spread to the sum of the batch and make the run fail, and
    the failure would reveal the image's presence.

    Args:
        run: the run.
        network: a network in evaluation mode.
        images: ``(b, channels, height, width)``, in the value space.

    Returns:
        float32 ``(b, features)``, finite, without a graph.
    """
    with torch.no_grad():
        found = features_of(run, network, images)
    # The squares, and so the norms, of the remaining features fit into float32.
    fits = found.isfinite().all(dim=1) & (found.abs().amax(dim=1) < _LARGEST)
    return torch.where(fits[:, None], found, 0)


def clipping_factors(norms: Tensor, clipping_norm: float) -> Tensor:
    """Return the factors for parts of these norms: 1, or less for longer parts."""
    tiny = torch.finfo(norms.dtype).tiny
    return (clipping_norm / norms.clamp_min(tiny)).clamp(max=1)
