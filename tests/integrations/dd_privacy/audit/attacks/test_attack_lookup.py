"""Attacks by their spec."""

import json

import pytest
from conftest import Command

from dd_plugins.errors import DDError, OptionError, UnknownNameError
from dd_privacy.audit.attacks import (
    BUILT_IN,
    HOOK,
    LiRA,
    NearestNeighbours,
    RandomForest,
    attack_names,
    get_attack,
)


def test_specs_of_attacks() -> None:
    assert get_attack("lira(online=False)") == LiRA(online=False)
    with pytest.raises(UnknownNameError, match="lyra"):
        get_attack("lyra")
    with pytest.raises(OptionError, match="lira: signal"):
        get_attack("lira(signal='smell')")


def test_attacks_are_listed_with_the_plugin_that_offers_them(
    command_line: Command,
) -> None:
    found = json.loads(command_line("plugins", "--json").stdout)
    (own,) = [plugin for plugin in found if plugin["name"] == "privacy"]
    assert sorted(own["offers"]["attack"]) == attack_names()
    assert "attack: loss, " in command_line("plugins").stdout


def test_attacks_of_this_integration_are_found_by_their_names() -> None:
    assert {attack.name for attack in BUILT_IN} <= set(attack_names())
    assert len({attack.name for attack in BUILT_IN}) == len(BUILT_IN)
    for kind in BUILT_IN:
        assert get_attack(repr(kind())) == kind()


def test_names_are_sorted_and_each_stands_once() -> None:
    names = attack_names()
    assert names == sorted(set(names))
    assert HOOK == "dd_register_attacks"


@pytest.mark.parametrize(
    "attack",
    [
        LiRA(online=False, signal="feature_distance"),
        RandomForest(threat="both", trees=7),
        NearestNeighbours(neighbours=3),
    ],
)
def test_the_text_of_an_attack_with_options_is_its_spec(attack: LiRA) -> None:
    assert get_attack(repr(attack)) == attack
    assert get_attack(repr(attack)) != type(attack)()


@pytest.mark.parametrize(
    ("spec", "named"),
    [
        ("loss(strength=2)", "strength"),
        ("lira(online='perhaps')", "online"),
        ("rmia(gamma=0.0)", "gamma"),
        ("rmia(gamma=-1.0)", "gamma"),
        ("rmia(scale=1.5)", "scale"),
        ("rmia(scale=-0.1)", "scale"),
        ("random_forest(trees=0)", "trees"),
        ("multilayer_perceptron(width=0)", "width"),
        ("nearest_neighbours(neighbours=0)", "neighbours"),
        ("nearest_neighbours(neighbours=21)", "neighbours"),
        ("logistic_regression(threat='images')", "threat"),
    ],
)
def test_an_option_out_of_its_range_is_refused_by_its_name(
    spec: str, named: str
) -> None:
    with pytest.raises(OptionError, match=named) as raised:
        get_attack(spec)
    assert spec.partition("(")[0] in str(raised.value)


@pytest.mark.parametrize("spec", ["", "loss(", "loss)", "lira(online)", "loss; rmia"])
def test_a_spec_that_cannot_be_read_is_refused(spec: str) -> None:
    with pytest.raises(DDError):
        get_attack(spec)


def test_a_record_of_another_kind_is_no_attack() -> None:
    with pytest.raises(UnknownNameError, match="frepo"):
        get_attack("frepo")
