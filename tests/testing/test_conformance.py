"""Our own distillers and networks pass the checks that any plugin author can run."""

from collections.abc import Callable
from typing import Any

import pytest

from dd_plugins import AbstractDistiller, AbstractNetwork, get_distiller, get_network
from dd_plugins.distillers.dm import DM
from dd_plugins.networks.factory import FactoryNetwork
from dd_plugins.networks.mlp import MLP
from dd_plugins.plugins.manager import Plugins
from dd_plugins.spec import record
from dd_plugins.testing import (
    DISTILLER_CHECKS,
    NETWORK_CHECKS,
    check_loss_falls,
    check_same_seed_gives_same_result,
    check_spec_round_trip,
    name_of,
)

AUXILIARY = "networks=(conv(width=4, depth=2), vgg11(width=4)), stages=(5,)"
TEACHER = (
    "teachers=(resnet18(width=4, normalization='batch'),), "
    "teacher_recipe=recipe(steps=5, learning_rate=0.05, optimizer='sgd'), "
    "temperature=1.0"
)
STILL = "crop=False, flip=False, jitter=0"
DISTILLERS = [
    "frepo(pool_size=2, learning_rate=0.01)",
    "frepo(pool_size=2, learning_rate=0.01, flip=True, max_online_updates=1)",
    "frepo(learning_rate=0.01, learn_labels=False, real_batch_size=16, augment=False, "
    "loss='squared-error')",
    "kip(real_batch_size=16)",
    "kip(kernel=conv(depth=1, pooling=True), real_batch_size=4, learn_labels=True, "
    "memory=1e-4)",
    "mtt(experts=2, snapshot_steps=4, student_steps=3, learning_rate=10.0, "
    "augment=False, step_size_learning_rate=1e-4)",
    "mtt(experts=2, snapshot_steps=4, student_steps=3, learning_rate=10.0, "
    "memory='unrolled', learn_labels=True, batch_size=2, way_points=2)",
    f"sre2l({TEACHER}, {STILL}, learning_rate=0.05, student=recipe(steps=5))",
    f"sre2l({TEACHER}, {STILL}, preset='paper', learning_rate=0.05, store_labels=True, "
    "views=views(count=2, mix='cutmix'), student=recipe(steps=5))",
    "dm(real_batch_size=16)",
    "dsa(real_batch_size=16, updates_per_network=2)",
    "dsa(augment=False)",
    f"metadd(frepo(pool_size=2, learning_rate=0.01), {AUXILIARY}, every=2)",
    f"metadd(dsa(real_batch_size=16, updates_per_network=2), {AUXILIARY}, drawn=1, "
    "variant='real_features')",
    f"metadd(dm(real_batch_size=16), {AUXILIARY}, every=1, start=0, "
    "variant='variance')",
    "clip(frepo(pool_size=2, learning_rate=0.01), max_norm=0.05)",
    "rotated(frepo(pool_size=2, learning_rate=0.01))",
    "rotated(dm(real_batch_size=16), turns=2)",
]
# No loss falls where nothing moves, and herding draws nothing by the seed.
CORE_SETS = [
    "random()",
    "herding(training_steps=0)",
    "kmeans(training_steps=5)",
    f"rded({TEACHER}, factor=2, student=recipe(steps=5))",
]
CORE_SET_CHECKS = [
    check
    for check in DISTILLER_CHECKS
    if check not in (check_loss_falls, check_same_seed_gives_same_result)
]
NETWORKS = [
    "conv(width=4)",
    "conv(width=4, normalization='batch')",
    "conv(width=32, normalization='group')",
    "dc_convnet(width=4, depth=2)",
    "mlp(width=8)",
    "alexnet(width=8)",
    "alexnet(width=8, normalization='batch')",
    "vgg11(width=4)",
    "vgg11(width=4, normalization='none')",
    "resnet18(width=4)",
    "resnet18(width=8, normalization='batch')",
    "mobilenet_v2(width=8)",
    "mobilenet_v2(width=8, normalization='instance')",
    "shufflenet_v2(width=8)",
    "shufflenet_v2(width=8, normalization='instance')",
    "vit(width=12, depth=2)",
    "timm('test_resnet')",
]


@pytest.mark.parametrize("check", DISTILLER_CHECKS, ids=name_of)
@pytest.mark.parametrize("spec", DISTILLERS)
def test_distiller_conforms(
    spec: str, check: Callable[[AbstractDistiller[Any]], None]
) -> None:
    check(get_distiller(spec))


@pytest.mark.parametrize("check", CORE_SET_CHECKS, ids=name_of)
@pytest.mark.parametrize("spec", CORE_SETS)
def test_core_set_conforms(
    spec: str, check: Callable[[AbstractDistiller[Any]], None]
) -> None:
    check(get_distiller(spec))


@pytest.mark.parametrize("check", NETWORK_CHECKS, ids=name_of)
@pytest.mark.parametrize("spec", NETWORKS)
def test_network_conforms(spec: str, check: Callable[[AbstractNetwork], None]) -> None:
    check(get_network(spec))


def test_every_built_in_is_in_a_table() -> None:
    built_in = Plugins(load=[])
    mentioned = " ".join(DISTILLERS + NETWORKS + CORE_SETS)
    names = built_in.distillers.names() + built_in.networks.names()
    names.remove(FactoryNetwork.name)  # no spec builds it: test_factory.py
    assert [name for name in names if f"{name}(" not in mentioned] == []


class UndecoratedDM(DM):
    """Has the options of its base, and forgets its own."""

    name = "undecorated"


class UndecoratedMLP(MLP):
    """Likewise, a network."""

    name = "undecorated"


@pytest.mark.parametrize("check", DISTILLER_CHECKS, ids=name_of)
def test_a_distiller_without_a_record_conforms_to_nothing(
    check: Callable[[AbstractDistiller[Any]], None],
) -> None:
    with pytest.raises(AssertionError, match="UndecoratedDM must be a record"):
        check(UndecoratedDM())


@pytest.mark.parametrize("check", NETWORK_CHECKS, ids=name_of)
def test_a_network_without_a_record_conforms_to_nothing(
    check: Callable[[AbstractNetwork], None],
) -> None:
    with pytest.raises(AssertionError, match="UndecoratedMLP must be a record"):
        check(UndecoratedMLP())


@record
class TakenName(DM):
    """Has the name of another distiller."""

    name = "mtt"


def test_a_taken_name_is_told_and_not_the_other_distiller_checked() -> None:
    with pytest.raises(AssertionError, match="distiller 'mtt' is built in"):
        check_spec_round_trip(TakenName())
