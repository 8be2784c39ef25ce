"""Training under differential privacy, with Opacus."""

import json
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import safetensors
import safetensors.torch
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

import dd_plugins
from dd_plugins.api import (
    FeatureNetwork,
    FileError,
    OptionError,
    RunError,
    Transform,
    derive,
    resolve_device,
    whole_number,
    write_atomically,
)
from dd_privacy.accounting import Budget, noise_multiplier_for
from dd_privacy.validation import (
    check_example_gradients,
    module_obstacles,
    number,
    prepare_for_opacus,
    require_opacus,
    trained_parameters,
)

__all__ = [
    "NOT_COVERED",
    "Clipping",
    "PrivateModel",
    "PrivateTrainer",
    "check_finite",
    "make_private",
    "public_transform",
    "what_is_not_covered",
]

Clipping = Literal["hooks", "ghost"]
"""How gradients of single examples are clipped: by keeping each, or by two passes that
keep only their lengths ("ghost clipping"), which takes less memory."""

NOT_COVERED = (
    "The choice of hyper-parameters on the same data: each further run spends again.",
    "Accuracies measured on private validation images, if they are published.",
    "The data set's name, the number of its images, its classes and their number.",
    "Attacks on floating-point noise: Opacus's secure mode was off.",
    "Attackers who can search the 32 bits that torch seeds its generators with.",
)
"""What the epsilon of a model does not cover."""

_SEEDED = "Anybody who knows the seed: noise and batches were drawn from it."

_METADATA_KEY = "dd_privacy"
_FORMAT_VERSION = 1


def what_is_not_covered(seeded: bool) -> list[str]:
    """Return what an epsilon says nothing of; more of a run that can be repeated."""
    return [*NOT_COVERED, *([_SEEDED] if seeded else [])]


def public_transform(channels: int) -> Transform:
    """Return a map of [0, 1] to [-1, 1]: no statistic of private images is in it."""
    half = torch.full((channels,), 0.5)
    return Transform(half, half.clone())


@dataclass(frozen=True, eq=False)
class PrivateModel:
    """A network that was trained under differential privacy.

    Attributes:
        network: in evaluation mode.
        transform: maps images to its value space; a function of no private image.
        budget: what was spent.
        about: the network's spec, the classes, and how it was trained.
    """

    network: FeatureNetwork
    transform: Transform
    budget: Budget
    about: dict[str, Any]

    @property
    def not_covered(self) -> list[str]:
        """What epsilon says nothing of."""
        return what_is_not_covered(self.about["seeded"])

    def save(self, path: str | Path) -> Path:
        """Write weights, what was spent and what that does not cover.

        Raises:
            FileError: the file cannot be written.
        """
        described = {
            "format_version": _FORMAT_VERSION,
            "budget": asdict(self.budget),
            "not_covered": self.not_covered,
            "about": self.about,
        }
        tensors = {
            name: value.detach().cpu().contiguous()
            for name, value in self.network.state_dict().items()
        }
        content = safetensors.torch.save(
            tensors, {_METADATA_KEY: json.dumps(described)}
        )
        return write_atomically(Path(path), lambda file: file.write(content))

    @classmethod
    def load(cls, path: str | Path) -> "PrivateModel":
        """Read what :meth:`save` wrote.

        Raises:
            FileError: the file is missing, damaged or of something else.
        """
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                described = json.loads((file.metadata() or {})[_METADATA_KEY])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            about, budget = described["about"], Budget(**described["budget"])
            channels, height, width = about["image_shape"]
            network = (
                dd_plugins.get_network(about["network"])
                .for_evaluation()
                .build(
                    (channels, height, width),
                    len(about["class_names"]),
                    generator=torch.Generator(),
                )
            )
            network.load_state_dict(tensors)
        except (
            safetensors.SafetensorError,
            OSError,
            ValueError,
            KeyError,
            TypeError,
            RuntimeError,
        ) as error:
            raise FileError(
                f"{path} cannot be read as a private model: "
                f"{str(error).splitlines()[0]}"
            ) from error
        network.eval()
        return cls(network, public_transform(channels), budget, about)


@dataclass(frozen=True)
class PrivateTrainer:
    """Trains a network so that each example's influence is bounded: DP-SGD.

    Poisson-sampled batches, gradients of single examples clipped to a norm, Gaussian
    noise on their sum. Images are mapped to [-1, 1], which needs no private statistic.

    Attributes:
        network: a spec; without BatchNorm, which mixes examples.
        epsilon: the most that may be spent.
        delta: below one over the number of images; by default a tenth of that.
        epochs: expected passes over the images.
        batch_size: expected; each image is in a batch by a coin.
        learning_rate: of SGD with momentum 0.9.
        clipping_norm: to which the gradient of an example is clipped.
        clipping: ``"hooks"`` or ``"ghost"``.
        seed: of weights, batches and noise, for a run that can be repeated. Whoever
            knows it can take the noise away, so by default there is none, and they
            come from the system's entropy.
        device: ``"auto"``, ``"cpu"``, ``"cuda"``, ...

    Reference: Abadi et al., "Deep Learning with Differential Privacy" (2016),
    algorithm 1.
    """

    network: str = "conv(width=32, normalization='group')"
    epsilon: float = 4.0
    delta: float | None = None
    epochs: int = 15
    batch_size: int = 512
    learning_rate: float = 0.3
    clipping_norm: float = 1.0
    clipping: Clipping = "hooks"
    seed: int | None = None
    device: str = "auto"

    def __post_init__(self) -> None:
        """Refuse what is out of its range; keep numbers as Python's own.

        Raises:
            OptionError: it is.
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
        """Return what training on so many images will spend.

        Args:
            images: how many.
            batch_size: in place of the trainer's.
            epochs: likewise.

        Raises:
            OptionError: there are fewer images than a batch has, or delta is so large
                that one of them could be published as it is.
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
                f"{images} images are fewer than a batch of {size}: every step would "
                "see all of them; lower batch_size"
            )
        if self.delta is not None and self.delta >= 1 / images:
            raise OptionError(
                f"delta {self.delta:g} is too large for {images} images: to publish "
                f"one of them as it is has a delta of 1/{images}; choose a smaller "
                f"one, such as {0.1 / images:.2g}, the default"
            )
        batches = math.ceil(images / size)  # as Opacus counts them
        return noise_multiplier_for(
            self.epsilon,
            sample_rate=1 / batches,
            steps=passes * batches,
            delta=0.1 / images if self.delta is None else self.delta,
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
            mirror: whether each image is mirrored at random before its gradient.
            on_step: called with the steps that are done, and of how many.

        Raises:
            OptionError: an option is out of its range, or the network cannot be trained
                so.
            DataError: images or labels are not as they should be.
            RunError: training diverged; what it spent is spent all the same.
            MissingExtraError: opacus is not installed.
        """
        require_opacus()
        data = dd_plugins.RealData.from_tensors(  # checks them
            images, labels, class_names=class_names, validation=0
        )
        names = data.class_names
        # The working dtypes: what was given may be of others.
        images, labels = data.train.images[:], data.train.labels
        device = resolve_device(self.device)
        module = self._module(images, len(names)).to(device)
        budget = self.budget(len(labels))
        transform = public_transform(images.shape[1])
        loader = DataLoader(
            TensorDataset(torch.arange(len(labels))), batch_size=self.batch_size
        )
        optimizer = torch.optim.SGD(
            trained_parameters(module), lr=self.learning_rate, momentum=0.9
        )
        private, optimizer, criterion, batches = make_private(
            module,
            optimizer,
            torch.nn.CrossEntropyLoss(),
            loader,
            budget,
            clipping_norm=self.clipping_norm,
            clipping=self.clipping,
            generator=self.generator,
        )
        private.train()
        drawn = self.generator("mirror")
        done = 0
        while done < budget.steps:
            for (places,) in batches:
                pixels = transform(images[places]).to(device)
                if mirror:
                    flipped = torch.rand(len(pixels), generator=drawn) < 0.5
                    pixels = torch.where(
                        flipped.to(device)[:, None, None, None], pixels.flip(3), pixels
                    )
                optimizer.zero_grad()
                loss = criterion(private(pixels), labels[places].to(device))
                with warnings.catch_warnings():
                    # The hooks of the first layer fire without gradients of images.
                    warnings.simplefilter("ignore", UserWarning)
                    loss.backward()
                optimizer.step()
                done += 1
                on_step(done, budget.steps)
                if done >= budget.steps:
                    break
            check_finite(private, budget)
        trained: FeatureNetwork = private.to_standard_module()
        _check_outputs(trained.eval(), transform, data.image_shape, budget)
        return PrivateModel(
            trained,
            transform,
            budget,
            {
                "network": self.network,
                "image_shape": list(images.shape[1:]),
                "class_names": list(names),
                "images": len(labels),
                "trainer": {  # a seed that is told takes the noise away
                    name: value
                    for name, value in asdict(self).items()
                    if name != "seed"
                },
                "seeded": self.seed is not None,
            },
        )

    def check(self, image_shape: tuple[int, int, int], classes: int) -> None:
        """Refuse a network or a device that does not serve, as :meth:`fit` does.

        Args:
            image_shape: channels, height and width.
            classes: how many.

        Raises:
            OptionError: the network cannot be trained under differential privacy, or
                there is no such device.
            UnknownNameError: no plugin registers the network.
            MissingExtraError: opacus is not installed.
        """
        require_opacus()
        resolve_device(self.device)
        self._module(torch.empty(1, *image_shape), classes)

    def _module(self, images: Tensor, classes: int) -> FeatureNetwork:
        channels, height, width = images.shape[1:]
        shape = (channels, height, width)
        module = (
            dd_plugins.get_network(self.network)
            .for_evaluation()
            .build(shape, classes, generator=self.generator("network"))
        )
        obstacles = module_obstacles(module)
        if obstacles:
            reason = " ".join(obstacles[0].split())
            raise OptionError(
                f"{self.network} cannot be trained under differential privacy: {reason}"
            )
        prepare_for_opacus(module)
        check_example_gradients(module, shape, classes, ghost=self.clipping == "ghost")
        return module

    def generator(self, purpose: str, training: int = 0) -> torch.Generator:
        """Return a generator of the seed, or of the system's entropy.

        Args:
            purpose: what is drawn.
            training: the number of the training, where one model has several: noise
                that is drawn twice protects nothing.
        """
        if self.seed is not None:
            return derive(self.seed, f"private {purpose}", training)
        generator = torch.Generator()
        generator.seed()
        return generator


def check_finite(module: torch.nn.Module, budget: Budget) -> None:
    """Refuse a model that diverged; its weights alone are looked at, no image.

    Args:
        module: while it is trained, or afterwards.
        budget: of its training.

    Raises:
        RunError: it holds values that are not finite; names the epsilon that is spent.
    """
    if all(bool(value.isfinite().all()) for value in module.state_dict().values()):
        return
    raise _diverged("weights are no longer finite", budget)


def _check_outputs(
    network: FeatureNetwork,
    transform: Transform,
    image_shape: tuple[int, int, int],
    budget: Budget,
) -> None:
    """Refuse a model whose outputs are not finite, on images that are nobody's."""
    device = next(network.parameters()).device
    public = torch.rand(2, *image_shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        outputs = network(transform(public).to(device))
    if not bool(outputs.isfinite().all()):
        raise _diverged("outputs are not finite", budget)


def _diverged(what: str, budget: Budget) -> RunError:
    return RunError(
        f"private training diverged: {what}; no model is kept, but epsilon "
        f"{budget.epsilon:.3f} at delta {budget.delta:.2g} is spent on these images; "
        "lower the learning rate"
    )


def make_private(
    module: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    criterion: torch.nn.Module,
    loader: "DataLoader[Any]",
    budget: Budget,
    *,
    clipping_norm: float,
    generator: Callable[[str], torch.Generator],
    clipping: Clipping = "hooks",
) -> tuple[Any, Any, Any, Any]:
    """Wrap what a training loop needs so that its steps spend a budget.

    Args:
        module: prepared by :func:`~dd_privacy.validation.prepare_for_opacus`.
        optimizer: of its parameters.
        criterion: the mean loss of a batch.
        loader: of all private examples, without a sampler of its own.
        budget: whose sample rate is that of the loader.
        clipping_norm: to which the gradient of an example is clipped.
        generator: of a purpose: noise and batches.
        clipping: how.

    Returns:
        Opacus's module, optimizer, criterion and loader; the loader draws by Poisson
        sampling.

    Raises:
        OptionError: the loader samples in a way that was not accounted for.
    """
    from opacus import PrivacyEngine
    from torch.utils.data import RandomSampler, SequentialSampler

    # Opacus takes one over the number of batches for the rate, whatever the sampler.
    if type(loader.sampler) not in (RandomSampler, SequentialSampler):
        raise OptionError(
            f"a loader with a {type(loader.sampler).__name__} draws examples at rates "
            "that are not accounted for; give one without a sampler"
        )
    if not math.isclose(1 / len(loader), budget.sample_rate):
        raise OptionError(
            f"the loader has {len(loader)} batches, the budget is for a sample rate of "
            f"{budget.sample_rate:g}"
        )
    # A generator of their own: the global one starts alike in every process.
    noise = torch.Generator(device=next(module.parameters()).device)
    noise.manual_seed(generator("noise").initial_seed())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the secure mode is off: NOT_COVERED
        parts = PrivacyEngine(accountant="rdp").make_private(
            module=module,
            optimizer=optimizer,
            criterion=criterion,
            data_loader=loader,
            noise_multiplier=budget.noise_multiplier,
            max_grad_norm=clipping_norm,
            noise_generator=noise,
            grad_sample_mode=clipping,
        )
    if clipping == "ghost":
        private, optimizer, criterion, batches = parts
    else:
        private, optimizer, batches = parts
    batches.batch_sampler.generator = generator("batches")
    return private, optimizer, criterion, batches
