"""What all mechanisms share: descriptions, records, and what they leave alone."""

import json
from dataclasses import FrozenInstanceError, dataclass, replace

import pytest
from mechanism_runs import small_set
from privacy_data import MLP, distillation, noisy_data

import dd_plugins
from dd_plugins.api import RunOptions, get_parametrization
from dd_privacy.audit.mechanisms import (
    AbstractMechanism,
    AllMembers,
    Distillation,
    GivenSet,
    PrivateTraining,
    Release,
)
from dd_privacy.private.trainer import PrivateTrainer


@dataclass(frozen=True)
class Foreign(AllMembers):
    """A mechanism of another package."""


@pytest.mark.parametrize(
    ("mechanism", "name"),
    [
        (Distillation("a"), "dd_privacy.mechanisms.Distillation"),
        (AllMembers("a"), "dd_privacy.mechanisms.AllMembers"),
        (PrivateTraining("a"), "dd_privacy.mechanisms.PrivateTraining"),
        (Foreign("a"), f"{__name__}.Foreign"),
    ],
)
def test_a_description_has_the_name_that_is_in_keys_of_kept_runs(
    mechanism: AbstractMechanism, name: str
) -> None:
    found = mechanism.description()
    assert found["mechanism"] == name
    assert "name" not in found, "what a report calls it makes no other run"
    assert found == replace(mechanism, name="b").description()
    assert json.loads(json.dumps(found)) == found
    assert mechanism.for_shadows() is mechanism


def test_records_are_those_that_specs_name() -> None:
    mechanism = Distillation(
        "mine",
        options=RunOptions(
            distiller="frepo(pool_size=1)",
            network=MLP,
            initial_images="herding(training_steps=0)",
            parametrization="packed(factor=2)",
        ),
        evaluation_network="mlp(width=8)",
        refined=Distillation("first", options=RunOptions(distiller="dm")),
    )
    assert [repr(record).partition("(")[0] for record in mechanism.records()] == [
        *("frepo", "packed", "mlp", "mlp", "herding", "dm", "identity")
    ]
    assert Distillation("mine").records() == [
        dd_plugins.get_distiller("frepo"),
        get_parametrization("identity"),
    ]
    assert AllMembers("all", network=MLP).records() == [dd_plugins.get_network(MLP)]
    private = PrivateTraining("private", trainer=PrivateTrainer(network=MLP))
    assert private.records() == [dd_plugins.get_network(MLP)]


def test_a_mechanism_without_a_run_is_none() -> None:
    with pytest.raises(TypeError, match="run"):
        AbstractMechanism("a")  # type: ignore[abstract]


@pytest.mark.parametrize(
    "mechanism",
    [AllMembers("a"), Distillation("a"), GivenSet("a"), PrivateTraining("a")],
)
def test_a_mechanism_is_a_value(mechanism: AbstractMechanism) -> None:
    assert mechanism.device == "auto"
    assert replace(mechanism) == mechanism
    assert replace(mechanism, name="b") != mechanism
    with pytest.raises(FrozenInstanceError):
        mechanism.name = "b"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("mechanism", "changes"),
    [
        (AllMembers("a"), {"network": MLP, "training_steps": 5, "augment": False}),
        (Distillation("a"), {"training_steps": 5, "evaluation_network": MLP}),
        (Distillation("a"), {"options": RunOptions(steps=3)}),
        (Distillation("a"), {"refined": Distillation("b")}),
        (PrivateTraining("a"), {"trainer": PrivateTrainer(epsilon=2.0)}),
        (GivenSet("a", distilled=small_set()), {"training_steps": 5}),
        (GivenSet("a", distilled=small_set()), {"distilled": small_set(seed=1)}),
    ],
)
def test_each_option_makes_another_description(
    mechanism: AbstractMechanism, changes: dict[str, object]
) -> None:
    about = mechanism.description()
    for name, value in ({"device": "cpu"} | changes).items():
        assert replace(mechanism, **{name: value}).description() != about  # type: ignore[arg-type]
    assert replace(mechanism, name="b").description() == about


def test_a_release_is_itself_alone() -> None:
    """Tensors have no single truth value: comparing them would be an error."""
    mechanism = distillation("mine", training_steps=1)
    first, second = (mechanism.run(noisy_data(40), 0) for _ in range(2))
    assert first == first  # noqa: PLR0124
    assert first != second
    assert first.epsilon is None
    assert isinstance(first, Release)
