"""Which networks DP-SGD cannot train."""

import pytest
from torch import nn

from dd_privacy.private.obstacles import module_obstacles, privacy_obstacles

pytest.importorskip("opacus", reason="opacus is not installed: extra 'privacy'")


def layers() -> nn.Sequential:
    return nn.Sequential(
        *(nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten()),
        nn.Linear(4 * 36, 3),
    )


def test_frozen_batchnorm_and_networks_without_gradients_are_obstacles() -> None:
    for layer in (
        nn.BatchNorm2d(4).requires_grad_(False),
        nn.BatchNorm2d(4, affine=False),
        nn.SyncBatchNorm(4).requires_grad_(False),
    ):
        module = layers()
        module[1] = layer
        (obstacle,) = module_obstacles(module)
        assert "BatchNorm layer '1' mixes the examples" in obstacle
    (obstacle,) = module_obstacles(layers().requires_grad_(False))
    assert "no parameter takes a gradient" in obstacle


def test_batch_norm_is_an_obstacle_to_private_training() -> None:
    assert privacy_obstacles("conv(normalization='batch')")
    assert privacy_obstacles("conv(normalization='group')") == []
