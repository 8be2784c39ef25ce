"""Look-up in scripts: over all that is installed, or all that a variable names."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dd_plugins import hookimpl, hookspec
from dd_plugins.api import (
    OptionError,
    PluginError,
    Record,
    UnknownNameError,
    get_dataset,
    get_distiller,
    get_network,
    get_parametrization,
    get_record,
    record,
    record_names,
    record_versions,
)
from dd_plugins.networks.mlp import MLP
from dd_plugins.plugins import lookup
from dd_plugins.plugins.manager import Plugins, loaded_plugins
from dd_plugins.testing import toy_data

ATTACKS: dict[str, Any] = {
    "hook": "dd_register_attacks",
    "kind": "attack",
    "base": Record,
}


@pytest.fixture
def loading(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Set the variable for a process that has loaded nothing yet."""

    def put(value: str) -> None:
        monkeypatch.setenv("DD_PLUGINS_LOAD", value)
        loaded_plugins.cache_clear()

    yield put
    loaded_plugins.cache_clear()


def test_every_look_up_knows_what_the_variable_names(
    loading: Callable[[str], None],
) -> None:
    loading("privacy")
    assert "lira" in record_names(**ATTACKS)
    lira = get_record("lira", **ATTACKS)
    assert record_versions(lira) == {}, "which no run is a function of"
    loading("")
    with pytest.raises(PluginError, match="dd_register_attacks"):
        record_names(**ATTACKS)
    with pytest.raises(PluginError, match="dd_register_attacks"):
        get_record("lira", **ATTACKS)
    assert repr(get_distiller("clip(dm)")) == "clip(dm)"


def test_a_misspelt_variable_is_told_by_every_look_up(
    loading: Callable[[str], None],
) -> None:
    loading("privcy")
    for look_up in (get_distiller, get_network, get_parametrization, get_dataset):
        with pytest.raises(OptionError, match="DD_PLUGINS_LOAD"):
            look_up("digits")


class Tools:
    @hookspec
    def dd_register_tools(self, register: Callable[..., None]) -> None:
        """Offer tools."""


@record
class Saw(Record):
    name = "saw"
    teeth: int = 3


@record
class Mine(MLP):
    name = "mine"


class Plugin:
    """Offers one of each that is looked up, and remembers how data was asked for."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    @hookimpl
    def dd_register_hookspecs(self, register: Any) -> None:
        register(Tools)

    @hookimpl
    def dd_register_tools(self, register: Any) -> None:
        register(Saw)

    @hookimpl
    def dd_register_networks(self, register: Any) -> None:
        register(Mine)

    @hookimpl
    def dd_register_datasets(self, register: Any) -> None:
        register("toys", self.load)

    def load(self, options: Any) -> Any:
        self.asked.append(options)
        return toy_data()


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> Plugin:
    """The plugin, installed."""
    made = Plugin()
    plugins = Plugins(load=[], extra={"mine": made})
    monkeypatch.setattr("dd_plugins.plugins.lookup.loaded_plugins", lambda: plugins)
    return made


def test_records_of_a_plugin_s_hook_are_looked_up_by_spec(plugin: Plugin) -> None:
    tools: dict[str, Any] = {
        "hook": "dd_register_tools",
        "kind": "tool",
        "base": Record,
    }
    assert record_names(**tools) == ["saw"]
    assert get_record("saw(teeth=5)", **tools) == Saw(teeth=5)
    with pytest.raises(UnknownNameError, match=r"tool 'swa'.*saw"):
        get_record("swa", **tools)
    with pytest.raises(OptionError, match="teeth"):
        get_record("saw(teeth='sharp')", **tools)
    with pytest.raises(UnknownNameError):
        get_network("saw")


def test_versions_are_told_of_all_records_and_those_within_them(
    plugin: Plugin,
) -> None:
    assert record_versions(get_network("mine")) == {}, "of no distribution"
    origin = lookup.loaded_plugins().networks.origin(Mine)
    assert origin is not None
    origin.distribution, origin.version = "dist-mine", "4.2"
    own = {"dist-mine": "4.2"}
    inside = get_distiller("clip(metadd(dm, networks=(mlp, mine(width=3))))")
    assert record_versions(get_network("mine")) == own
    assert record_versions(inside) == own
    assert record_versions(get_network("mlp"), get_distiller("frepo")) == {}
    assert record_versions() == {}


@pytest.mark.parametrize(
    ("given", "variable", "root"),
    [
        (None, None, None),
        (None, "", None),
        (None, "env", Path("env")),
        ("given", "env", Path("given")),
        (Path("given"), None, Path("given")),
    ],
)
def test_data_is_looked_for_where_the_caller_or_the_variable_says(
    plugin: Plugin,
    given: Any,
    variable: str | None,
    root: Path | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("DD_DATA", raising=False)
    if variable is not None:
        monkeypatch.setenv("DD_DATA", variable)
    found = get_dataset("toys:2", data_root=given, download=True, image_size=8)
    (options,) = plugin.asked
    assert (options.argument, options.root) == ("2", root)
    assert (options.download, options.image_size) == (True, 8)
    assert found.name == "toys:2"
