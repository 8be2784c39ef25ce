"""Each conformance check finds the fault that it is there for."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import pytest
import torch
from torch import Tensor

from dd_plugins import (
    AbstractDistiller,
    AbstractState,
    AbstractWrapper,
    record,
    testing,
)
from dd_plugins.data.sampler import RealSampler
from dd_plugins.distillers.base import add_gradient
from dd_plugins.distillers.state import Metrics
from dd_plugins.networks.base import AbstractNetwork, FeatureNetwork, ImageShape
from dd_plugins.plugins.lookup import get_record
from dd_plugins.run import Run, Task
from dd_plugins.synthetic.leaves import Leaves
from dd_privacy.audit.attacks import AbstractAttack, Evidence

HOOK = "dd_register_attacks"


@dataclass
class Steps(AbstractState):
    """How often the method was advanced: it weights the gradient."""

    count: int = 1

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.count = state["count"]


class Forgetful(Steps):
    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        pass


@record
class Faulty(AbstractDistiller[Steps]):
    """Draws images to a random real image; with a fault, if one is named."""

    name = "faulty"

    fault: str = "none"

    late: ClassVar[list[int]] = []

    def for_task(self, task: Task) -> Self:
        return self

    def default_steps(self, task: Task) -> int:
        return 10

    def setup(self, run: Run, real: RealSampler) -> Steps:
        self.late.clear()
        return Forgetful(run) if self.fault == "forgets" else Steps(run)

    def accumulate(
        self, state: Steps, leaves: Leaves, real: RealSampler, step: int
    ) -> Metrics:
        if self.fault == "numpy":
            np.random.seed(step)
        generator = None if self.fault == "global" else state.run.generator("x", step)
        batch = real.batch(0 if self.fault == "none" else step, 64)
        noise = 0.01 * torch.rand(leaves.pixels.shape, generator=generator)
        target = batch.images.mean(dim=0) + noise
        if self.fault == "alone":
            target = target.expand(2, -1, -1, -1)
        gradient = state.count * (leaves.pixels.detach() - target)
        if self.fault == "forgets late":
            self.late.append(step)
            gradient *= 1 + (len(self.late) > 4)
        loss = gradient.square().mean()
        if self.fault == "writes":
            leaves.pixels.data.mul_(0.5)
        if self.fault == "replaces":
            leaves.pixels.grad = gradient
        else:
            add_gradient(leaves.pixels, gradient)
        return {"loss": torch.tensor(float(step)) if self.fault == "rises" else loss}

    def advance(self, state: Steps, leaves: Leaves, step: int) -> None:
        state.count = 1 + state.count % 3
        if self.fault == "advances":
            leaves.pixels.data.mul_(0.5)

    def optimizer(self, parameters: list[Tensor]) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=0.1)

    def __repr__(self) -> str:
        return "faulty" if self.fault == "hides" else super().__repr__()


@pytest.mark.parametrize("check", testing.DISTILLER_CHECKS, ids=testing.name_of)
def test_a_distiller_without_fault_passes(check: Any) -> None:
    check(Faulty())


@pytest.mark.parametrize(
    ("fault", "check", "told"),
    [
        ("global", testing.check_same_seed_gives_same_result, "generator"),
        ("global", testing.check_global_random_state_is_untouched, "global"),
        ("numpy", testing.check_global_random_state_is_untouched, "global"),
        ("writes", testing.check_inputs_are_unmodified, "pixels"),
        ("advances", testing.check_inputs_are_unmodified, "advance must not change"),
        ("alone", testing.check_takes_two_images_a_class, "at two images per class"),
        ("replaces", testing.check_gradients_are_added, "not replace"),
        ("rises", testing.check_loss_falls, "must fall"),
        ("forgets", testing.check_state_survives_save_and_restore, "state_dict"),
        ("forgets late", testing.check_state_survives_save_and_restore, "state_dict"),
        ("hides", testing.check_spec_round_trip, "equal object"),
    ],
)
def test_a_fault_is_found(fault: str, check: Any, told: str) -> None:
    with pytest.raises(AssertionError, match=told):
        check(Faulty(fault=fault))


def test_a_wrapper_around_a_base_of_its_own_package_is_read_back() -> None:
    @record
    class Faultless(AbstractWrapper):
        name = "faultless"

        networks: tuple[AbstractNetwork, ...] = ()

        def adjust(self, *given: Any) -> Metrics:
            return {}

    made = Faultless(base=Faulty(), networks=(FaultyNetwork(),))
    testing.check_spec_round_trip(made)


@record
class FaultyNetwork(AbstractNetwork):
    name = "faulty_network"

    fault: str = "none"

    def construct(
        self, image_shape: ImageShape, num_classes: int, *, generator: torch.Generator
    ) -> FeatureNetwork:
        classes = 2 if self.fault == "shape" else num_classes
        inputs = 64 if self.fault == "grey" else math.prod(image_shape)
        network = FeatureNetwork(torch.nn.Flatten(), torch.nn.Linear(inputs, classes))
        if self.fault == "numpy":
            np.random.rand()
        if self.fault == "constant":
            torch.nn.init.ones_(network.head.weight)  # type: ignore[arg-type]
            torch.nn.init.zeros_(network.head.bias)  # type: ignore[arg-type]
        return network

    def __repr__(self) -> str:
        return "another" if self.fault == "spec" else super().__repr__()


@pytest.mark.parametrize(
    ("fault", "check"),
    [
        ("constant", testing.check_network_is_reproducible),
        ("numpy", testing.check_network_is_reproducible),
        ("shape", testing.check_network_shapes),
        ("grey", testing.check_network_shapes),
        ("spec", testing.check_network_spec_round_trip),
    ],
)
def test_a_faulty_network_is_found(fault: str, check: Any) -> None:
    check(FaultyNetwork())
    with pytest.raises(AssertionError):
        check(FaultyNetwork(fault=fault))


@pytest.mark.parametrize("check", testing.ATTACK_CHECKS, ids=testing.name_of)
def test_checks_of_attacks(check: Any) -> None:
    for spec in ("loss", "pixel_distance", "lira"):
        check(get_record(spec, hook=HOOK, kind="attack", base=AbstractAttack))


@record
class FaultyAttack(AbstractAttack):
    name = "faulty_attack"

    fault: str

    @property
    def threat_model(self) -> Any:
        return "nothing" if self.fault == "threat" else "model"

    def scores(self, evidence: Evidence) -> Tensor:
        if self.fault == "writes":
            evidence.target.outputs.zero_()
        if self.fault == "draws":
            return torch.rand(len(evidence.labels), dtype=torch.float64)
        if self.fault == "raises":
            raise KeyError("outputs")
        found = evidence.target.outputs.sum(dim=1)
        return found if self.fault == "float32" else found.double()


@pytest.mark.parametrize(
    ("fault", "check", "told"),
    [
        ("threat", testing.check_attack_is_a_record, "threat_model must be one of"),
        ("writes", testing.check_attack_changes_no_evidence, "was changed"),
        ("draws", testing.check_attack_scores, "same scores"),
        ("raises", testing.check_attack_scores, "must not raise KeyError"),
        ("float32", testing.check_attack_scores, "float64 scores"),
    ],
)
def test_a_fault_of_an_attack_is_found(fault: str, check: Any, told: str) -> None:
    with pytest.raises(AssertionError, match=told):
        check(FaultyAttack(fault=fault))


@pytest.mark.parametrize(
    ("check", "given"),
    [
        (testing.NETWORK_CHECKS[0], FaultyNetwork),
        (testing.ATTACK_CHECKS[0], FaultyAttack),
        (testing.DISTILLER_CHECKS[0], Faulty),
    ],
)
def test_a_class_is_not_an_object(check: Any, given: type) -> None:
    told = f"expected an object, as {given.__name__}() makes, got {given.__name__}"
    with pytest.raises(AssertionError, match=re.escape(told)):
        check(given)
