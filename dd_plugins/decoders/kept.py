"""Decoders trained on real data, kept in files under a hash of their origin."""

import pickle
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from dd_plugins.checks import whole_number
from dd_plugins.data.preprocess import Transform, to_unit_range
from dd_plugins.data.real import RealData
from dd_plugins.data.sampler import RealSampler
from dd_plugins.decoders.base import AbstractDecoder, LatentDecoder
from dd_plugins.errors import OptionError, RunError
from dd_plugins.networks.mlp import MLP
from dd_plugins.run import Run
from dd_plugins.runtime.cache import cache_folder
from dd_plugins.runtime.device import (
    Precision,
    autocast,
    exact_kernels,
    plain_torch,
)
from dd_plugins.runtime.files import check_writable, write_atomically
from dd_plugins.runtime.kept_tensors import save_tensors
from dd_plugins.runtime.progress import OnProgress, part_of
from dd_plugins.runtime.randomness import generator_for
from dd_plugins.runtime.signals import DeferredInterrupt
from dd_plugins.spec import Record, read, record
from dd_plugins.training.default_steps import DECODER_STEPS
from dd_plugins.training.kept_files import (
    AbstractKept,
    OnStep,
    classes_without_images,
    load_weights,
)
from dd_plugins.training.kept_networks import RealSetting
from dd_plugins.training.recipes import Recipe
from dd_plugins.training.sources import code_of

__all__ = [
    "DecoderRecipe",
    "GeneratorReport",
    "TrainedDecoder",
    "train_generator",
]

_FORMAT = 1
_KIND = "a trained decoder"
_UNREADABLE = (
    *(OSError, EOFError, RuntimeError, LookupError, TypeError, ValueError),
    *(AttributeError, pickle.UnpicklingError, OptionError),
)
"""The errors of reading a damaged state."""

_WARM_UP = 50  # steps
_SAVED_EVERY = 20.0  # seconds
_TEST_BATCH = 500


@record
class DecoderRecipe(Record):
    """How a decoder is trained: Adam, with warm-up and cosine decay to a hundredth.

    Args:
        steps: the number of training steps.
        learning_rate: the peak learning rate.
        batch_size: the number of images in a training step.
    """

    name = "decoder_recipe"

    steps: PositiveInt = DECODER_STEPS
    learning_rate: PositiveFloat = 2e-3
    batch_size: PositiveInt = 128

    def schedule(self) -> Recipe:
        """Return the optimizer and its learning-rate schedule, as a recipe."""
        return Recipe(
            steps=self.steps,
            learning_rate=self.learning_rate,
            warm_up=min(_WARM_UP, self.steps // 4),
        )


@dataclass(frozen=True, eq=False)
class _Pixels:
    """Real images as standardised pixels, read on access."""

    real: RealSampler
    transform: Transform

    def __call__(self, indices: Tensor) -> Tensor:
        return self.transform.standardize(self.real.pixels(indices))


@dataclass(frozen=True)
class TrainedDecoder(AbstractKept):
    """A decoder of an architecture, trained as an autoencoder of real images.

    Its loss is the mean squared error of standardised pixels.

    Attributes:
        decoder: the architecture.
        recipe: how it is trained.
        transform: the map with the standardisation of the pixels.
        seed: the seed of its weights and its training, apart from the seed of a run, so
            runs of all seeds share it.
    """

    prefix: ClassVar[str] = "decoder-"

    decoder: AbstractDecoder
    recipe: DecoderRecipe
    transform: Transform
    seed: int = 0

    @property
    def training_steps(self) -> int:
        """The number of its training steps."""
        return self.recipe.steps

    def description(self, run: Run, real: RealSampler) -> dict[str, object]:
        """Return everything the weights depend on."""
        assert real.content is not None
        scale = [self.transform.mean.tolist(), self.transform.deviation.tolist()]
        return {
            "format": _FORMAT,
            "data": real.content.split()[0],
            **classes_without_images(run, real),
            "scale": scale,
            "decoder": repr(self.decoder),
            "code": code_of(self.decoder),
            "mirror": run.task.mirror,
            "recipe": self.recipe.options(),
            "seed": self.seed,
            "precision": str(run.precision),
        }

    @plain_torch()
    def obtain(
        self,
        run: Run,
        real: RealSampler,
        folder: Path,
        on_step: OnStep = lambda done: None,
    ) -> LatentDecoder:
        """Return the decoder from its file, or train it and keep it there.

        An interrupted training resumes from its last saved state. A decoder trained on
        images without a known origin is not kept.

        Args:
            run: for the shape of images, the classes, the device and the precision.
            real: all training images.
            folder: the folder of kept decoders.
            on_step: called after each training step.

        Returns:
            The decoder, frozen, on the device of the run.

        Raises:
            FileError: the file is damaged, contradicts its name, or cannot be written.
            OptionError: the images are too small for the architecture.
            RunError: the loss became infinite or NaN.
        """
        module = self.decoder.build(
            run.task.image_shape,
            run.task.num_classes,
            generator=generator_for(self.seed, f"decoder {self.decoder!r}"),
            device=run.device,
        )
        if real.content is None:
            self._train(module, run, real, None, on_step)
        else:
            self._load_or_train(module, run, real, folder, on_step)
        frozen: LatentDecoder = module.eval().requires_grad_(False)
        return frozen

    def _load_or_train(
        self,
        module: LatentDecoder,
        run: Run,
        real: RealSampler,
        folder: Path,
        on_step: OnStep,
    ) -> None:
        """Load the weights of a module from its file, or train it and keep them."""
        path = self.path(run, real, folder)
        described, spec = self.described(run, real), repr(self.decoder)
        if not path.exists():
            check_writable(path)
            part = path.with_suffix(".part")
            self._train(module, run, real, part, on_step)
            save_tensors(path, module.state_dict(), {"description": described})
            part.unlink(missing_ok=True)
            return
        load_weights(module, path, described, what=_KIND, of=spec)

    @exact_kernels()
    def _train(
        self,
        module: LatentDecoder,
        run: Run,
        real: RealSampler,
        part: Path | None,
        on_step: OnStep,
    ) -> None:
        """Train a module, and save its state in ``part`` from time to time."""
        pixels, labels = _Pixels(real, self.transform), real.labels
        recipe = self.recipe.schedule()
        optimizer = recipe.make_optimizer(module.parameters())
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, recipe.scale)
        parts: dict[str, Any] = {
            "module": module,
            "optimizer": optimizer,
            "schedule": schedule,
        }
        done = _restored(part, parts)
        saved = time.monotonic()
        module.train()
        with DeferredInterrupt() as interrupt:
            while done < self.recipe.steps:
                self._step(module, pixels, labels, run, optimizer, done)
                schedule.step()
                done += 1
                on_step(done)
                due = time.monotonic() - saved > _SAVED_EVERY
                if part is not None and (due or interrupt.requested):
                    _save(part, parts, done)
                    saved = time.monotonic()
                if interrupt.requested:
                    raise KeyboardInterrupt

    def _step(
        self,
        module: LatentDecoder,
        pixels: _Pixels,
        labels: Tensor,
        run: Run,
        optimizer: torch.optim.Optimizer,
        number: int,
    ) -> None:
        """Take a training step; its draws depend on the seed and its number alone."""
        generator = generator_for(self.seed, "batch of a decoder", number)
        size = min(len(labels), self.recipe.batch_size)
        chosen = torch.randint(len(labels), (size,), generator=generator)
        images = pixels(chosen)
        if run.task.mirror:
            flipped = torch.rand(size, generator=generator) < 0.5
            mask = flipped.to(images.device)[:, None, None, None]
            images = torch.where(mask, images.flip(-1), images)
        images = images.contiguous(memory_format=torch.channels_last)
        layers = generator_for(self.seed, "layers of a decoder", number)
        with autocast(run.device, run.precision), run.layers_drawing_from(layers):
            codes = module.encode(images, labels[chosen].to(run.device))
            made = module.decode(*codes, 0)
        loss = F.mse_loss(made.float(), images)
        if not torch.isfinite(loss):
            raise RunError(
                f"the loss of {self.decoder!r} must be finite, got "
                f"{float(loss.detach())} at step {number + 1}; lower the learning rate "
                "of its recipe"
            )
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        optimizer.step()


def _save(part: Path, parts: dict[str, Any], done: int) -> None:
    """Save the state of a training."""
    state = {name: each.state_dict() for name, each in parts.items()} | {"done": done}
    write_atomically(part, lambda file: torch.save(state, file))


def _restored(part: Path | None, parts: dict[str, Any]) -> int:
    """Restore the saved state of a training, and return its number of steps.

    An unreadable file is ignored: the training starts again, and replaces it later.
    """
    if part is None or not part.exists():
        return 0
    fresh = {name: each.state_dict() for name, each in parts.items()}
    fresh = pickle.loads(pickle.dumps(fresh))
    try:
        state = torch.load(part, weights_only=True)
        for name, each in parts.items():
            each.load_state_dict(state[name])
        return whole_number("done", state["done"], least=0)
    except _UNREADABLE:
        for name, each in parts.items():
            each.load_state_dict(fresh[name])
        return 0


@dataclass(frozen=True)
class GeneratorReport:
    """The report of :func:`train_generator`.

    Attributes:
        decoder: the spec of the decoder.
        steps: the number of its training steps.
        file: the path of its file.
        was_there: whether the file existed before.
        error: mean squared error of standardised pixels on images held out of the
            training data: the lost fraction of their variance; None if there are none.
    """

    decoder: str
    steps: int
    file: Path
    was_there: bool
    error: float | None


def train_generator(
    data: RealData,
    decoder: AbstractDecoder,
    *,
    recipe: DecoderRecipe | str | None = None,
    device: str = "auto",
    precision: Precision = "auto",
    folder: str | Path | None = None,
    on_progress: OnProgress | None = None,
) -> GeneratorReport:
    """Train a decoder on real data for later runs, unless it is kept already.

    After an interruption, call the function again: it resumes the training.

    Args:
        data: real data; the decoder is trained on its training images.
        decoder: the architecture.
        recipe: how it is trained: a recipe or its spec, such as
            ``"decoder_recipe(steps=500)"``; by default 1,000 steps.
        device: ``"auto"``, ``"cpu"``, ``"cuda"``, ...
        precision: the precision of its arithmetic.
        folder: the folder of kept decoders; by default :func:`cache_folder`.
        on_progress: called with a description of the decoder, the number of steps done,
            and the number of all steps.

    Raises:
        FileError: a file is damaged, contradicts its name, or cannot be written.
        OptionError: an argument has the wrong type, or the images are too small.
        RunError: the loss became infinite or NaN.
    """
    if not isinstance(decoder, AbstractDecoder):
        raise OptionError(
            "decoder must be a decoder of dd-plugins, such as get_decoder("
            f"'conv_decoder') returns, got {decoder!r}"
        )
    if not isinstance(recipe, DecoderRecipe | None):
        recipe = read(DecoderRecipe, recipe, "decoder_recipe(steps=500)")
    setting = RealSetting.of(data, device, precision)
    transform = setting.transform.to(setting.device)
    wanted = TrainedDecoder(decoder, recipe or DecoderRecipe(), transform)
    run = setting.run(MLP(), wanted.training_steps)
    place = Path(folder or cache_folder())
    file = wanted.path(run, setting.real, place)
    was_there = file.exists()

    on_step = part_of(on_progress, repr(decoder), 0, wanted.training_steps)
    module = wanted.obtain(run, setting.real, place, on_step)
    error = (
        _error(module, data, transform, run) if len(data.validation.labels) else None
    )
    return GeneratorReport(repr(decoder), wanted.training_steps, file, was_there, error)


@torch.no_grad()
def _error(
    module: LatentDecoder, data: RealData, transform: Transform, run: Run
) -> float:
    """Return the mean squared error on validation images."""
    images, labels = data.validation
    total, count = 0.0, 0
    for start in range(0, len(labels), _TEST_BATCH):
        some = slice(start, start + _TEST_BATCH)
        pixels = to_unit_range(images[some].to(run.device))
        wanted = transform.standardize(pixels)
        codes = module.encode(wanted, labels[some].to(run.device))
        total += float((module.decode(*codes, 0) - wanted).square().sum())
        count += wanted.numel()
    return total / count
