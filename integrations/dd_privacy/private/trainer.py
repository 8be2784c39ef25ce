"""Training under differential privacy, with Opacus."""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

import dd_plugins
from dd_plugins.api import (
    FeatureNetwork,
    OptionError,
    Transform,
    generator_for,
    number,
    resolve_device,
    seeded_globally,
    whole_number,
)
from dd_privacy.private.accounting import Budget, check_delta, noise_multiplier_for
from dd_privacy.private.choices import (
    BATCH_SIZE,
    CLIPPING,
    CLIPPING_NORM,
    EPOCHS,
    LEARNING_RATE,
    NETWORK,
    Clipping,
)
from dd_privacy.private.dp_sgd import (
    check_finite,
    check_model_outputs,
    make_private,
)
from dd_privacy.private.example_gradients import check_example_gradients
from dd_privacy.private.model import PrivateModel, public_transform
from dd_privacy.private.obstacles import (
    prepare_for_opacus,
    refuse_obstacles,
    require_opacus,
    trained_parameters,
)

__all__ = ["PrivateTrainer"]


@dataclass(frozen=True)
class PrivateTrainer:
    """Trains a network by DP-SGD, so the influence of each example is bounded.

    Batches are Poisson-sampled, gradients of single examples are clipped to a norm, and
    Gaussian noise is added to their sum. Images are mapped to [-1, 1], without any
    private statistic.

    Attributes:
        network: the spec of a network without BatchNorm (BatchNorm mixes examples).
        epsilon: the greatest epsilon that training may spend.
        delta: the delta of the guarantee, less than one over the number of images; by
            default a tenth of that.
        epochs: expected passes over the images.
        batch_size: the greatest expected size of a batch: it is lowered until an epoch
            has a whole number of equal batches. Coins decide the members of a batch.
        learning_rate: the learning rate of SGD with momentum 0.9.
        clipping_norm: the largest norm of a clipped gradient of a single example.
        clipping: ``"hooks"`` keeps each gradient; ``"ghost"`` keeps only their norms,
            for less memory.
        seed: the seed of the weights, batches, dropout and noise of a repeatable run.
            Whoever knows it can subtract the noise. By default the system's entropy
            seeds them.
        device: ``"auto"``, ``"cpu"``, ``"cuda"``, ...

    Reference: Abadi et al., "Deep Learning with Differential Privacy" (2016),
    algorithm 1.
    """

    network: str = NETWORK
    epsilon: float = 4.0
    delta: float | None = None
    epochs: int = EPOCHS
    batch_size: int = BATCH_SIZE
    learning_rate: float = LEARNING_RATE
    clipping_norm: float = CLIPPING_NORM
    clipping: Clipping = CLIPPING
    seed: int | None = None
    device: str = "auto"

    def __post_init__(self) -> None:
        """Refuse options out of their range; store numbers as Python numbers.

        Raises:
            OptionError: an option is out of its range.
        """
        kinds: dict[str, Callable[[str, object], float]] = {
            **dict.fromkeys(("epsilon", "learning_rate", "clipping_norm"), number),
            **dict.fromkeys(("epochs", "batch_size"), whole_number),
        }
        for name, of_kind in kinds.items():
            value = of_kind(name, getattr(self, name))
            if not (value > 0 and math.isfinite(value)):
                raise OptionError(f"{name} must be positive and finite, got {value}")
            object.__setattr__(self, name, value)
        if self.delta is not None:
            object.__setattr__(self, "delta", number("delta", self.delta))
            if not 0 < self.delta < 1:
                raise OptionError(f"delta must be in (0, 1), got {self.delta}")
        if self.seed is not None:
            object.__setattr__(self, "seed", whole_number("seed", self.seed))
        if self.clipping not in ("hooks", "ghost"):
            raise OptionError(
                f"clipping must be 'hooks' or 'ghost', got {self.clipping!r}"
            )

    def budget(
        self, images: int, *, batch_size: int | None = None, epochs: int | None = None
    ) -> Budget:
        """Return the budget of training on this many images.

        Args:
            images: the number of images.
            batch_size: replaces the trainer's.
            epochs: replaces the trainer's.

        Raises:
            OptionError: a batch is larger than the data, or delta is not less than one
                over the number of images.
            MissingExtraError: opacus is not installed.
        """
        given = self
        if batch_size is not None:
            given = replace(given, batch_size=batch_size)
        if epochs is not None:
            given = replace(given, epochs=epochs)
        images = whole_number("images", images)
        size, passes = given.batch_size, given.epochs
        if images < size:
            raise OptionError(
                f"a batch must hold at most the {images} images, got a size of {size}: "
                "every step would see all of them; lower the size of batches"
            )
        delta = 0.1 / images if self.delta is None else self.delta
        check_delta(delta, images)
        batches = math.ceil(images / size)  # as Opacus counts them
        return noise_multiplier_for(
            self.epsilon,
            sample_rate=1 / batches,
            steps=passes * batches,
            delta=delta,
        )

    def fit(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        class_names: Sequence[str] | None = None,
        mirror: bool = False,
        on_step: Callable[[int, int], None] = lambda done, total: None,
    ) -> PrivateModel:
        """Train on private images.

        Args:
            images: uint8, or float in [0, 1], ``(n, channels, height, width)``.
            labels: int64 ``(n,)``, from 0.
            class_names: one for each class; by default the numbers.
            mirror: whether to flip each image horizontally at random, in each step.
            on_step: called with the number of finished steps, and of all steps.

        Raises:
            OptionError: an option is out of its range, or the network cannot be trained
                by DP-SGD.
            UnknownNameError: no plugin registers the network.
            DataError: images or labels are malformed.
            RunError: training diverged; its epsilon is spent all the same.
            MissingExtraError: opacus is not installed.
        """
        require_opacus()
        data = dd_plugins.RealData.from_tensors(  # checks them
            images, labels, class_names=class_names, validation=0
        )
        device = resolve_device(self.device)
        images = data.train.images[:]  # in the working dtype
        # Checked before training: a refused network has spent no epsilon.
        module = self._module(images, data.num_classes).to(device)
        budget = self.budget(len(images))
        transform = public_transform(images.shape[1])
        network = self._train(
            module,
            transform,
            images,
            data.train.labels,
            budget,
            mirror=mirror,
            on_step=on_step,
        )
        # On random images: outputs for private images would reveal something.
        check_model_outputs(network, transform, data.image_shape, budget)
        return PrivateModel(network, transform, budget, self._about(data))

    def check(self, image_shape: tuple[int, int, int], classes: int) -> None:
        """Refuse a network or a device as :meth:`fit` does.

        Args:
            image_shape: channels, height and width.
            classes: the number of classes.

        Raises:
            OptionError: the network cannot be trained under differential privacy, or
                there is no such device.
            UnknownNameError: no plugin registers the network.
            MissingExtraError: opacus is not installed.
        """
        require_opacus()
        resolve_device(self.device)
        self._module(torch.empty(1, *image_shape), classes)

    def _train(
        self,
        module: FeatureNetwork,
        transform: Transform,
        images: Tensor,
        labels: Tensor,
        budget: Budget,
        *,
        mirror: bool,
        on_step: Callable[[int, int], None],
    ) -> FeatureNetwork:
        """Take exactly the steps of the budget; return the plain network.

        Raises:
            RunError: weights are no longer finite.
        """
        device = next(module.parameters()).device
        private, optimizer, criterion, batches = make_private(
            module,
            torch.optim.SGD(
                trained_parameters(module), lr=self.learning_rate, momentum=0.9
            ),
            torch.nn.CrossEntropyLoss(),
            DataLoader(
                TensorDataset(torch.arange(len(labels))), batch_size=self.batch_size
            ),
            budget,
            clipping_norm=self.clipping_norm,
            clipping=self.clipping,
            generator=self.generator,
        )
        private.train()
        coins, layers = self.generator("mirror"), self.generator("layers")
        done = 0
        while done < budget.steps:
            for (indices,) in batches:
                batch = transform(images[indices]).to(device)
                if mirror:
                    batch = _flipped_at_random(batch, coins)
                optimizer.zero_grad()
                with seeded_globally(layers, device):  # dropout draws from it
                    outputs = private(batch)
                loss = criterion(outputs, labels[indices].to(device))
                with warnings.catch_warnings():
                    # Opacus's hooks on the first layer warn that images take no
                    # gradient.
                    warnings.simplefilter("ignore", UserWarning)
                    loss.backward()
                optimizer.step()
                done += 1
                on_step(done, budget.steps)
                # An epoch may have more batches than are accounted for.
                if done >= budget.steps:
                    break
            check_finite(private, budget)
        network: FeatureNetwork = private.to_standard_module()
        return network.eval()

    def _about(self, data: dd_plugins.RealData) -> dict[str, Any]:
        """Return the record for a model's file, without the budget."""
        return {
            "network": self.network,
            "image_shape": list(data.image_shape),
            "class_names": list(data.class_names),
            "images": len(data.train.labels),
            # Whoever reads the seed could subtract the noise: it is left out.
            "trainer": {
                name: value for name, value in asdict(self).items() if name != "seed"
            },
            "seeded": self.seed is not None,
        }

    def _module(self, images: Tensor, classes: int) -> FeatureNetwork:
        """Build the network, checked and prepared for DP-SGD."""
        channels, height, width = images.shape[1:]
        shape = (channels, height, width)
        module = (
            dd_plugins.get_network(self.network)
            .for_evaluation()
            .build(shape, classes, generator=self.generator("network"))
        )
        refuse_obstacles(module, self.network)
        prepare_for_opacus(module)
        check_example_gradients(module, shape, classes, ghost=self.clipping == "ghost")
        return module

    def generator(self, purpose: str, training: int = 0) -> torch.Generator:
        """Return a generator seeded by the trainer's seed or by the system's entropy.

        Args:
            purpose: the purpose of the draws, such as noise.
            training: the number of earlier trainings of the model. Each training draws
                its own noise: the same noise twice protects nothing.
        """
        if self.seed is not None:
            return generator_for(self.seed, f"private {purpose}", training)
        generator = torch.Generator()
        generator.seed()
        return generator


def _flipped_at_random(batch: Tensor, coins: torch.Generator) -> Tensor:
    """Return the images, each flipped horizontally or not by a fair coin."""
    flipped = torch.rand(len(batch), generator=coins) < 0.5
    return torch.where(
        flipped.to(batch.device)[:, None, None, None], batch.flip(3), batch
    )
