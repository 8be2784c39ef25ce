"""A registry knows each thing by its name, its old names, and who offers it."""

import pytest

from dd_plugins.errors import PluginError, UnknownNameError
from dd_plugins.plugins.registry import (
    LOAD_VARIABLE,
    NameConflictError,
    Plugin,
    Registry,
)

ONE, TWO = Plugin("one", "dist_one"), Plugin("two")


@pytest.fixture
def registry() -> Registry[str]:
    for plugin in (ONE, TWO):
        plugin.offers.clear()
    made = Registry[str]("tool")
    made.add("saw", "a saw", ONE, aliases=("blade", "cutter"))
    made.add("axe", "an axe", TWO)
    return made


def test_a_thing_is_found_by_every_name_it_has_had(registry: Registry[str]) -> None:
    assert [registry.get(name) for name in ("saw", "blade", "cutter")] == ["a saw"] * 3
    assert registry.names() == ["axe", "saw"], "old names are not listed"
    assert all(name in registry for name in ("saw", "blade", "axe"))
    assert "hammer" not in registry
    assert 3 not in registry
    assert (ONE.offers, TWO.offers) == ({"tool": ["saw"]}, {"tool": ["axe"]})


@pytest.mark.parametrize("name", ["swa", "", "Saw"])
def test_an_unknown_name_lists_the_nearest_first(
    registry: Registry[str], name: str
) -> None:
    with pytest.raises(UnknownNameError, match=f"tool '{name}'") as refused:
        registry.get(name)
    text = str(refused.value)
    assert "axe" in text
    assert "blade" not in text
    if name == "swa":
        assert text.index(" saw") < text.index(" axe")


@pytest.mark.parametrize("name", ["saw", "blade"])
@pytest.mark.parametrize("as_alias", [False, True])
def test_a_taken_name_is_taken_however_it_is_asked_for(
    registry: Registry[str], name: str, as_alias: bool
) -> None:
    given = ("new", (name,)) if as_alias else (name, ())
    with pytest.raises(NameConflictError) as refused:
        registry.add(given[0], "another", TWO, given[1])
    text = str(refused.value)
    assert isinstance(refused.value, PluginError)
    for told in (repr(name), "one (dist_one)", "two", LOAD_VARIABLE):
        assert told in text
    with pytest.raises(ValueError, match=name):
        registry.add(given[0] + "2" if as_alias else given[0], "it", ONE, given[1])
    assert registry.get(name) == "a saw"


def test_what_a_plugin_offered_is_forgotten_with_its_old_names(
    registry: Registry[str],
) -> None:
    registry.discard(ONE)
    assert registry.names() == ["axe"]
    for name in ("saw", "blade", "cutter"):
        assert name not in registry
        with pytest.raises(UnknownNameError):
            registry.get(name)
    registry.add("blade", "a razor", TWO, aliases=("saw",))
    assert registry.get("saw") == "a razor", "the names are free again"
    registry.discard(ONE)
    assert registry.names() == ["axe", "blade"]


def test_equal_plugins_are_two() -> None:
    registry = Registry[str]("tool")
    first, second = Plugin("same"), Plugin("same")
    registry.add("saw", "a saw", first)
    registry.add("axe", "an axe", second)
    first.offers.clear()
    second.offers.clear()
    assert first == second
    registry.discard(first)
    assert registry.names() == ["axe"]
    assert registry.origin("an axe") is second


def test_the_origin_is_that_of_the_very_thing() -> None:
    registry = Registry[list[int]]("list")
    mine, same = [1], [1]
    registry.add("mine", mine, ONE)
    assert registry.origin(mine) is ONE
    assert registry.origin(same) is None
