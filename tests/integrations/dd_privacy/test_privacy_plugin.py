"""What the plugin offers, its hook, and the older paths of its names."""

import inspect
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import click
import pytest

import dd_privacy
from dd_plugins.api import LazyCommand
from dd_privacy import game, hookspecs, plugin
from dd_privacy.audit.attacks import BUILT_IN, HOOK, AbstractAttack
from dd_privacy.private.obstacles import EXTRA


def test_the_plugin_offers_each_attack_once_and_in_order() -> None:
    offered: list[type[AbstractAttack]] = []
    plugin.dd_register_attacks(offered.append)
    assert tuple(offered) == tuple(BUILT_IN)


def test_the_plugin_offers_two_commands() -> None:
    offered: list[click.Command] = []
    plugin.dd_register_commands(offered.append)
    assert [command.name for command in offered] == ["audit", "train-private"]
    for lazy in offered:
        assert isinstance(lazy, LazyCommand)
        assert lazy.short_help
        command = lazy.resolve()
        assert command.name == lazy.name
        assert command.help
        assert {"dataset", "overwrite"} <= {each.name for each in command.params}


def test_the_hook_of_attacks_is_the_one_that_lookups_call() -> None:
    offered: list[ModuleType] = []
    plugin.dd_register_hookspecs(offered.append)
    assert offered == [hookspecs]
    hook, implementation = getattr(hookspecs, HOOK), getattr(plugin, HOOK)
    assert list(inspect.signature(hook).parameters) == ["register"]
    assert inspect.signature(implementation).parameters.keys() == {"register"}


@pytest.mark.parametrize("there", [True, False])
def test_the_extra_is_named_where_opacus_is_missing(
    there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def find(name: str) -> Any:
        asked.append(name)
        return ModuleSpec(name, None) if there else None

    monkeypatch.setattr(plugin, "find_spec", find)
    assert plugin.dd_missing_extra() == (None if there else EXTRA)
    assert asked == ["opacus"]


def test_the_older_path_has_the_same_objects() -> None:
    assert sorted(game.__all__) == ["Game", "game_for_artifact", "game_for_mechanism"]
    for name in game.__all__:
        assert getattr(game, name) is getattr(dd_privacy, name)
