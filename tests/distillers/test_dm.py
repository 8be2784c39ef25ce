"""DM does what its paper and released code do (dm.py names the differences)."""

from typing import cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dd_plugins.data.sampler import RealSampler
from dd_plugins.distillers.dm import DM
from dd_plugins.functional.augment import siamese_augmentation, siamese_parameters
from dd_plugins.networks.dc_convnet import DCConvNet
from dd_plugins.run import Run, Task
from dd_plugins.synthetic.leaves import Leaves

CPU = torch.device("cpu")
TASK = Task("toy", (1, 8, 8), 3, 2, mirror=True)


def _run(normalization: str = "instance") -> Run:
    network = DCConvNet(width=4, depth=2, normalization=normalization)  # type: ignore[arg-type]
    return Run(TASK, "dm", network, 10, 0, CPU)


def _images(count: int, seed: int) -> Tensor:
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


def _leaves() -> Leaves:
    labels = F.one_hot(torch.tensor([0, 0, 1, 1, 2, 2]), 3).float()
    return Leaves(_images(6, 0).requires_grad_(), labels, labels.argmax(dim=1))


@pytest.mark.parametrize("augment", [False, True])
@pytest.mark.parametrize("normalization", ["instance", "batch"])
def test_gradient_is_that_of_the_paper_s_loss(
    augment: bool, normalization: str
) -> None:
    run, leaves, step = _run(normalization), _leaves(), 3
    real = RealSampler(_images(30, 1), torch.arange(30) % 3, seed=0, device=CPU)
    distiller = DM(augment=augment, real_batch_size=7)
    metrics = distiller.accumulate(distiller.setup(run, real), leaves, real, step)

    # The same in float64, written out from the paper's equation.
    network = run.fresh_network(run.generator("matching network", step)).double()
    pixels = leaves.pixels.detach().double().requires_grad_()
    views: dict[str, list[Tensor]] = {"real": [], "synthetic": []}
    for label in range(3):
        batch = real.class_batch(step, label, 7).images.double()
        for kind, images in (("real", batch), ("synthetic", pixels[2 * label :][:2])):
            if augment:
                purpose = f"augmentation of class {label}"
                drawn = siamese_parameters(run.generator(purpose, step))
                images = siamese_augmentation(images, drawn)  # noqa: PLW2901
            views[kind].append(images)
    if normalization == "batch":  # all classes together
        features = {
            kind: network.features(torch.cat(images)).split([len(i) for i in images])
            for kind, images in views.items()
        }
    else:
        features = {
            kind: tuple(network.features(view) for view in images)
            for kind, images in views.items()
        }
    loss = cast(
        Tensor,
        sum(
            ((one.mean(0) - other.mean(0)) ** 2).sum()
            for one, other in zip(features["real"], features["synthetic"], strict=True)
        ),
    )
    loss.backward()

    assert metrics["loss"].item() == pytest.approx(loss.item(), rel=1e-3)
    torch.testing.assert_close(
        leaves.pixels.grad, pixels.grad, check_dtype=False, rtol=1e-3, atol=1e-5
    )


def test_every_step_has_a_network_of_its_own() -> None:
    run, distiller = _run(), DM(augment=False)
    real = RealSampler(_images(9, 1), torch.arange(9) % 3, seed=0, device=CPU)
    state = distiller.setup(run, real)
    losses = [
        distiller.accumulate(state, _leaves(), real, step)["loss"].item()
        for step in range(3)
    ]
    assert len(set(losses)) == 3  # the real batch is all there is, the same each time
