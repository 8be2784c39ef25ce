"""Which networks DP-SGD cannot train."""

import sys

import pytest
import torch
from torch import nn

import dd_plugins
from dd_plugins.api import ChannelsLast, ChannelsLastGroupNorm
from dd_plugins.errors import MissingExtraError, UnknownNameError
from dd_privacy.private.obstacles import (
    EXTRA,
    module_obstacles,
    prepare_for_opacus,
    privacy_obstacles,
    require_opacus,
    trained_parameters,
)

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


def test_obstacles_of_a_network_of_its_own() -> None:
    network = dd_plugins.get_network("mlp(width=4)")
    assert privacy_obstacles(network, (1, 8, 8), 3) == []
    with pytest.raises(UnknownNameError, match="unknown network 'nonsense'"):
        privacy_obstacles("nonsense")


def test_without_opacus_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    require_opacus()
    monkeypatch.setitem(sys.modules, "opacus.validators", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'dd-plugins\[privacy\]'"):
        require_opacus()
    assert EXTRA == "dd-plugins[privacy]"


def test_parameters_that_are_frozen_are_not_trained() -> None:
    module = layers()
    assert len(trained_parameters(module)) == len(list(module.parameters()))
    module[0].requires_grad_(False)
    names = {id(each) for each in trained_parameters(module)}
    assert names == {
        id(each) for each in [*module[1].parameters(), *module[4].parameters()]
    }


def test_a_prepared_module_overwrites_nothing_and_is_contiguous() -> None:
    module = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(inplace=True), nn.Dropout(0.1, True)
    )
    module.to(memory_format=torch.channels_last)
    assert prepare_for_opacus(module) is module
    assert not module[1].inplace
    assert not module[2].inplace
    assert module[0].weight.is_contiguous()


def test_layers_that_change_the_layout_are_replaced_with_their_parameters() -> None:
    network = dd_plugins.get_network("conv(width=4, depth=2, normalization='instance')")
    module = network.for_evaluation().build(
        (1, 16, 16), 3, generator=torch.Generator().manual_seed(0)
    )
    kinds = (ChannelsLast, ChannelsLastGroupNorm)
    norms = [each for each in module.modules() if isinstance(each, kinds[1])]
    assert norms
    before = {id(each) for each in module.parameters()}
    prepare_for_opacus(module)
    assert not [each for each in module.modules() if isinstance(each, kinds)]
    assert {id(each) for each in module.parameters()} == before, "an optimizer has them"
    assert module_obstacles(module) == []
