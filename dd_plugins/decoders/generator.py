"""GLaD: learning a set in the latents of a generator."""

import copy
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal, Self

import torch
from pydantic import NonNegativeInt, PositiveInt, model_validator
from torch import Tensor

from dd_plugins.data.preprocess import Transform
from dd_plugins.data.sampler import RealSampler
from dd_plugins.decoders.base import AbstractDecoder, LatentDecoder
from dd_plugins.decoders.conv import ConvDecoder
from dd_plugins.decoders.kept import DecoderRecipe, TrainedDecoder
from dd_plugins.errors import OptionError
from dd_plugins.networks.base import ImageShape
from dd_plugins.run import Run
from dd_plugins.runtime.randomness import generator_for
from dd_plugins.spec import record, refuse_without_effect
from dd_plugins.synthetic.leaves import Codec
from dd_plugins.synthetic.parametrizations.base import (
    AbstractParametrization,
    evenly_spaced,
)
from dd_plugins.training.obtaining import Missing, obtained, training_command

__all__ = ["Generator"]

_MEASURED = 500  # real images whose latents are measured


@record
class Generator(AbstractParametrization):
    """Latents inside a decoder, and styles, are learned in place of pixels.

    The images of a set are then outputs of a generator. Latents start as encoded real
    images. They are divided by their root mean square in real images, so a learning
    rate has about the same effect as on pixels.

    Args:
        decoder: the architecture of the generator.
        layer: the layer where latents enter, from 0: the number of skipped stages.
        weights: ``"trained"`` on the real data as an autoencoder (``dd-plugins
            train-generator``), or ``"random"``, drawn for each seed and never trained:
            the prior of the architecture alone.
        recipe: how the generator is trained, such as ``decoder_recipe(steps=500)``.
        missing_generator: whether to ``"train"`` a missing generator, or to
            ``"refuse"`` the run.
        chunk: the number of images decoded and differentiated at a time, to limit the
            memory of the generator.

    The file of a set holds decoded pixels: it needs no generator.

    Reference: Cazenavette et al., "Generalizing Dataset Distillation via Deep
    Generative Prior" (GLaD), CVPR 2023, arXiv 2305.01649, section 3, and its released
    code.

    Differences: the generator is a small autoencoder of the same data in place of
    StyleGAN-XL, and a style is initialised with its class's; initial latents are
    encoded images, not random draws; the optimizer is the distiller's, with one
    learning rate.
    """

    name = "generator"
    positional = ("decoder",)
    parts: ClassVar = {"recipe": (DecoderRecipe,)}

    decoder: AbstractDecoder = ConvDecoder()
    layer: NonNegativeInt = 1
    weights: Literal["trained", "random"] = "trained"
    recipe: DecoderRecipe = DecoderRecipe()
    missing_generator: Missing = "train"
    chunk: PositiveInt = 10

    @model_validator(mode="after")
    def _options_agree(self) -> Self:
        """Refuse options of the training where nothing is trained."""
        if self.weights == "random":
            options = ("recipe", "missing_generator")
            refuse_without_effect(self, options, "weights='random' are never trained")
        return self

    def values_per_stored(self, image_shape: ImageShape, num_classes: int) -> int:
        """Return the number of values of an image's latents and style.

        Raises:
            OptionError: the decoder has no such layer, or the images are too small.
        """
        module = self.decoder.build(
            image_shape, num_classes, generator=generator_for(0, "shape")
        )
        self._check(module)
        module.eval()
        with torch.no_grad():
            codes = module.encode(torch.zeros(1, *image_shape), torch.zeros(1).long())
            latents = module.advance(*codes, self.layer)
        return latents.numel() + codes[1].numel()

    def codec(self, run: Run, real: RealSampler, transform: Transform) -> Codec:
        """Return the codec of latents; train the generator if it is missing.

        Raises:
            OptionError: the decoder has no such layer; or its file is missing and
                ``missing_generator`` is ``"refuse"``; or public images are of more
                classes than the run.
            FileError: its file is damaged or contradicts its name.
            RunError: the loss of its training became infinite or NaN.
        """
        largest, num_classes = int(real.labels.max()), run.task.num_classes
        if largest >= num_classes:
            raise OptionError(
                f"{self.name}: public images must be of the classes 0 to "
                f"{num_classes - 1}, as the private ones are, got class {largest}; "
                "name other public images, or choose another parametrization"
            )
        module = self._module(run, real, transform)
        scales = self._scales(module, run, real, transform)

        def encode(images: Tensor, classes: Tensor) -> dict[str, Tensor]:
            pixels = transform.to_standardised(images)
            return self._codes(module, pixels, classes, scales)

        def decode(stored: Mapping[str, Tensor]) -> Tensor:
            latents, styles = (stored[name] * scales[name] for name in scales)
            return transform.from_standardised(
                module.decode(latents, styles, self.layer)
            )

        return Codec(
            encode=encode,
            decode=decode,
            chunk=self.chunk,
            decoder_values=self._values_to_decode(module, run.task.image_shape),
        )

    def _values_to_decode(self, module: LatentDecoder, shape: ImageShape) -> int:
        """Return the number of values of a generator that decoding reads.

        The encoder, and the stages before the layer, are not needed. Parameters are
        counted if an image depends on them, and all buffers.
        """
        probe = copy.deepcopy(module).cpu().requires_grad_(True)
        with torch.no_grad():
            latents, styles = probe.encode(
                torch.zeros(1, *shape), torch.zeros(1).long()
            )
            latents = probe.advance(latents, styles, self.layer)
        image = probe.decode(latents, styles, self.layer)
        parameters = list(probe.parameters())
        gradients = torch.autograd.grad(image.sum(), parameters, allow_unused=True)
        read = [each.numel() for each in gradients if each is not None]
        return sum(read) + sum(each.numel() for each in probe.buffers())

    def _module(
        self, run: Run, real: RealSampler, transform: Transform
    ) -> LatentDecoder:
        """Return the generator, frozen."""
        if self.weights == "random":
            module = self.decoder.build(
                run.task.image_shape,
                run.task.num_classes,
                generator=run.generator("random decoder"),
                device=run.device,
            )
            self._check(module)
            frozen: LatentDecoder = module.eval().requires_grad_(False)
            return frozen
        self.values_per_stored(run.task.image_shape, run.task.num_classes)
        wanted = [TrainedDecoder(self.decoder, self.recipe, transform)]
        refusal = partial(_refusal, self, run, transform)
        (module,) = obtained(
            wanted,
            run,
            real,
            self.missing_generator,
            what="generator",
            refusal=refusal,
        )
        return module

    @torch.no_grad()
    def _scales(
        self, module: LatentDecoder, run: Run, real: RealSampler, transform: Transform
    ) -> dict[str, Tensor]:
        """Return the root mean square of latents, and of styles, in real images."""
        indices = evenly_spaced(real, _MEASURED)
        pixels = transform.standardize(real.pixels(indices))
        classes = real.labels[indices].to(run.device)
        codes = self._codes(module, pixels, classes, {})
        roots = {name: each.square().mean().sqrt() for name, each in codes.items()}
        return {name: torch.where(root > 0, root, 1) for name, root in roots.items()}

    @torch.no_grad()
    def _codes(
        self,
        module: LatentDecoder,
        pixels: Tensor,
        classes: Tensor,
        scales: Mapping[str, Tensor],
    ) -> dict[str, Tensor]:
        """Return the latents at the layer, and the styles, in units of their scales."""
        found: dict[str, list[Tensor]] = {"latents": [], "styles": []}
        classes = classes.to(pixels.device)
        for start in range(0, len(pixels), self.chunk):
            some = slice(start, start + self.chunk)
            latents, styles = module.encode(pixels[some], classes[some])
            found["latents"].append(module.advance(latents, styles, self.layer))
            found["styles"].append(styles)
        return {
            name: torch.cat(each) / scales.get(name, 1) for name, each in found.items()
        }

    def _check(self, module: LatentDecoder) -> None:
        """Refuse a layer outside the decoder."""
        if self.layer >= module.layers:
            raise OptionError(
                f"{self.name}: {self.decoder!r} has the layers 0 to "
                f"{module.layers - 1}, got layer {self.layer}"
            )


def _refusal(
    generator: Generator, run: Run, transform: Transform, count: int, folder: Path
) -> OptionError:
    """Return the error with the command for training the generator."""
    del count
    options = {
        "dataset": run.task.dataset,
        "decoder": repr(generator.decoder),
        "recipe": repr(generator.recipe),
    }
    if transform.kind == "pixel-zca":
        options["preprocessing"] = "pixel-zca"
    command = training_command("train-generator", options.items())
    return OptionError(
        f"generator: {generator.decoder!r} for {run.task.dataset} is missing in "
        f"{folder}; train it: {command}, with the data options of this run"
    )
