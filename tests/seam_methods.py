"""Methods that show each seam, by the public door alone."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dd_plugins.api import (
    AbstractDistiller,
    AbstractParametrization,
    Codec,
    ImageShape,
    Leaves,
    Metrics,
    NoState,
    Parameters,
    Preprocessing,
    RealSampler,
    Recipe,
    Run,
    Task,
    Teacher,
    TrainedNetwork,
    Transform,
    Views,
    add_gradient,
    cache_folder,
    get_network,
    record,
)


@record
class LearnedStep(AbstractDistiller[NoState]):
    """A set from which one step, of a learned size, leads to the real mean images."""

    name = "learned_step"

    def learnables(self, run: Run) -> dict[str, Tensor]:
        """Return the size of the step."""
        return {"step_size": torch.tensor(0.5)}

    def accumulate(
        self, state: NoState, leaves: Leaves, real: RealSampler, step: int
    ) -> Metrics:
        """Compare a step from the set's mean image with the real one's."""
        target = real.batch(step, 64).images.mean(dim=0)
        size = leaves.others["step_size"]
        loss = (size * leaves.pixels.mean(dim=0) - target).square().sum()
        of_pixels, of_size = torch.autograd.grad(loss, [leaves.pixels, size])
        add_gradient(leaves.pixels, of_pixels)
        add_gradient(size, of_size)
        return {"loss": loss.detach()}

    def optimizer(self, parameters: Parameters) -> torch.optim.Optimizer:
        """Move images and the step size at rates of their own."""
        return torch.optim.Adam(
            [
                {"params": [*parameters.images, *parameters.labels], "lr": 0.05},
                {"params": [parameters.others["step_size"]], "lr": 0.01},
            ]
        )


@record
class LabelledAtTheEnd(AbstractDistiller[NoState]):
    """Images are learned first; a teacher gives them probabilities afterwards."""

    name = "labelled_at_the_end"

    @property
    def label_kind(self) -> Any:
        """A teacher's probabilities."""
        return "probabilities"

    def accumulate(
        self, state: NoState, leaves: Leaves, real: RealSampler, step: int
    ) -> Metrics:
        """Draw the images to the mean image of their class."""
        loss = torch.zeros(())
        for label in range(state.run.task.num_classes):
            target = real.class_batch(step, label, 16).images.mean(dim=0)
            chosen = leaves.pixels[leaves.classes == label]
            loss = loss + (chosen - target).square().mean()
        add_gradient(leaves.pixels, torch.autograd.grad(loss, leaves.pixels)[0])
        return {"loss": loss.detach()}

    def labels(self, state: NoState, leaves: Leaves) -> Tensor:
        """Let an untrained teacher label what the images have become."""
        teacher = state.run.fresh_network(state.run.generator("teacher")).eval()
        with torch.no_grad():
            return teacher(leaves.pixels.detach()).float().softmax(dim=1)

    def preprocessing(self, task: Task) -> Preprocessing:
        """Whiten, whatever the data do."""
        return "zca"

    def recipe(self, task: Task, images: int, learned: Mapping[str, Tensor]) -> Recipe:
        """Train as this method's paper would."""
        return Recipe(steps=7, learning_rate=0.02, optimizer="adamw", temperature=4.0)

    def optimizer(self, parameters: Parameters) -> torch.optim.Optimizer:
        """Move the images."""
        return torch.optim.Adam(parameters, lr=0.05)


@record
class Mixture(AbstractParametrization):
    """Images are mixtures of fixed random ones: latents behind a generator."""

    name = "mixture"

    latents: int = 12

    def values_per_stored(self, image_shape: ImageShape, num_classes: int) -> int:
        """Return the number of latents."""
        return self.latents

    def codec(self, run: Run, real: RealSampler, transform: Transform) -> Codec:
        """Return a linear generator, decoded three images at a time."""
        shape = run.task.image_shape
        size = shape[0] * shape[1] * shape[2]
        generator = run.generator("mixture")
        basis = torch.randn(self.latents, size, generator=generator) / size**0.5

        def encode(images: Tensor, classes: Tensor) -> dict[str, Tensor]:
            return {"latents": images.flatten(1) @ basis.mT}

        def decode(stored: Any) -> Tensor:
            return nn.functional.tanh(stored["latents"] @ basis).view(-1, *shape)

        def project(stored: Any) -> None:
            stored["latents"].clamp_(-1, 1)

        return Codec(encode, decode, project, chunk=3)


@record
class TaughtByViews(LabelledAtTheEnd):
    """A set whose crops are labelled by a network that was trained on the real data."""

    name = "taught_by_views"

    stored: bool = True

    def teacher(self, state: NoState, leaves: Leaves) -> Teacher:
        """Return a small network at temperature 2."""
        run, recipe = state.run, Recipe(steps=20)
        network = get_network("mlp(width=8)")
        real = TEACHERS_DATA[-1]
        wanted = TrainedNetwork(network, recipe)
        module = wanted.obtain(run, real, cache_folder())
        views = Views(count=3, seed=1, smallest=0.3)
        if self.stored:
            return Teacher([module], views, 2.0)
        return Teacher([module], views, 2.0, kept=(wanted.record(),))

    def setup(self, run: Run, real: RealSampler) -> NoState:
        """Note what the teacher is trained on."""
        TEACHERS_DATA.append(real)
        return NoState(run)


TEACHERS_DATA: list[RealSampler] = []
