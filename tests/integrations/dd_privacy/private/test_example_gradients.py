"""Wrong gradients of single examples are found."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import dd_plugins
from dd_plugins.errors import OptionError
from dd_privacy.private.example_gradients import check_example_gradients
from dd_privacy.private.obstacles import (
    module_obstacles,
    prepare_for_opacus,
)

pytest.importorskip("opacus", reason="opacus is not installed: extra 'privacy'")


def layers() -> nn.Sequential:
    return nn.Sequential(
        *(nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten()),
        nn.Linear(4 * 36, 3),
    )


class ChannelsLast(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.contiguous(memory_format=torch.channels_last)


def test_wrong_gradients_of_single_examples_are_found_out() -> None:
    """Opacus 1.6 takes them of a convolution in channels last, and takes them wrong."""
    module = nn.Sequential(
        nn.Conv2d(1, 4, 3), ChannelsLast(), nn.Conv2d(4, 4, 3), nn.Flatten()
    )
    module.append(nn.Linear(4 * 12 * 12, 3))
    with pytest.raises(OptionError, match="of this network are wrong"):
        check_example_gradients(module, (1, 16, 16), 3)
    del module[1]
    check_example_gradients(module, (1, 16, 16), 3)


@pytest.mark.parametrize("ghost", [False, True])
@pytest.mark.parametrize(
    "spec",
    [
        "conv(width=32, depth=2, normalization='group')",
        "conv(width=8, depth=2, normalization='instance')",
        "dc_convnet(width=8, depth=2)",
        "vgg11(width=8, normalization='group')",
        "alexnet(width=8)",
        "mlp(width=8)",
    ],
)
def test_prepared_networks_compute_the_same_with_right_gradients(
    spec: str, ghost: bool
) -> None:
    shape = (1, 16, 16)
    network = dd_plugins.get_network(spec).for_evaluation()
    module = network.build(shape, 3, generator=torch.Generator().manual_seed(0))
    before = copy.deepcopy(module).eval()
    prepare_for_opacus(module)
    images = torch.rand(2, *shape)
    torch.testing.assert_close(copy.deepcopy(module).eval()(images), before(images))
    check_example_gradients(module, shape, 3, ghost=ghost)


@pytest.mark.parametrize("ghost", [False, True])
@pytest.mark.parametrize(
    "frozen",
    [
        ["0.weight", "0.bias", "1.weight", "1.bias"],
        ["4.weight"],
        ["4.bias"],
        ["0.bias", "1.weight"],
    ],
)
def test_frozen_parameters_take_no_gradient(frozen: list[str], ghost: bool) -> None:
    module = layers()
    for name in frozen:
        module.get_parameter(name).requires_grad_(False)
    assert module_obstacles(module) == []
    check_example_gradients(module, (1, 8, 8), 3, ghost=ghost)


class Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.spare = layers(), nn.Linear(3, 3)

    def forward(self, images: Tensor) -> Any:
        return self.used(images)


class TwoHeads(Unused):
    def forward(self, images: Tensor) -> Any:
        found = self.used(images)
        return {0: found, 1: self.spare(found)}


class ByTask(Unused):
    def forward(self, images: Tensor, task_labels: Tensor) -> Any:
        return self.used(images) + task_labels


class InPlace(Unused):
    def forward(self, images: Tensor) -> Any:
        found = self.used(images)
        found += self.spare(images.flatten(1)[:, :3])
        return found


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Unused(), r"no effect of spare.weight, spare.bias; freeze"),
        (TwoHeads(), r"got a dict; if it has several heads"),
        (ByTask(), r"images alone, .*task_labels.*; if it has several"),
        (InPlace(), r"changes the output of a layer in place"),
        (nn.Sequential(layers(), nn.Linear(3, 2)), "at least 3 outputs, .* got 2"),
        (nn.Sequential(nn.Conv2d(1, 3, 3)), r"for 3 images, got \(3, 3, 6, 6\)"),
        (
            nn.Sequential(nn.InstanceNorm2d(1, track_running_stats=True), layers()),
            "got '0.running_mean', which changes with them",
        ),
    ],
)
def test_networks_that_cannot_be_trained_so_say_why(
    module: nn.Module, message: str
) -> None:
    with pytest.raises(OptionError, match=message):
        check_example_gradients(module, (1, 8, 8), 3)
