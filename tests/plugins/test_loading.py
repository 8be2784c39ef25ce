"""Plugins are loaded under a guard: one that is broken leaves nothing behind."""

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import dd_plugins
from dd_plugins import hookimpl, hookspec
from dd_plugins.errors import DDWarning, PluginError
from dd_plugins.plugins.finding import by_identity
from dd_plugins.plugins.manager import Plugins
from dd_plugins.plugins.registry import Plugin
from dd_plugins.testing import toy_data

WHOLE = """
import click
from dd_plugins import hookimpl, record
from dd_plugins.distillers.dm import DM
from dd_plugins.networks.mlp import MLP
from dd_plugins.synthetic.parametrizations.packed import Packed
from dd_plugins.testing import PassThrough

STEPS = []

def made(base, kind):
    return record(type(kind, (base,), {"name": f"broken_{kind}", "aliases": ()}))

@hookimpl
def dd_register_distillers(register):
    register(made(DM, "method"))

@hookimpl
def dd_register_wrappers(register):
    register(made(PassThrough, "wrapper"))

@hookimpl
def dd_register_networks(register):
    register(made(MLP, "network"))

@hookimpl
def dd_register_parametrizations(register):
    register(made(Packed, "packing"))

@hookimpl
def dd_register_datasets(register):
    register("broken_data", lambda options: None)

@hookimpl
def dd_register_commands(register):
    register(click.Command("broken_command"))

@hookimpl
def dd_after_step(step):
    STEPS.append(step)

@hookimpl
def dd_missing_extra():
    return None if {works} else 1 / 0
"""

NAMES = {
    "distillers": ["broken_method", "broken_wrapper"],
    "networks": ["broken_network"],
    "parametrizations": ["broken_packing"],
    "datasets": ["broken_data"],
    "commands": ["broken_command"],
}

Install = Callable[[str, str], ModuleType]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Install a distribution of one module, which is its entry point as well."""
    monkeypatch.syspath_prepend(tmp_path)
    names: list[str] = []

    def write(name: str, source: str) -> ModuleType:
        names.append(name)
        (tmp_path / f"{name}.py").write_text(source)
        info = tmp_path / f"{name}-1.5.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.5\n"
        )
        (info / "entry_points.txt").write_text(f"[dd_plugins]\n{name} = {name}\n")
        importlib.invalidate_caches()
        return importlib.import_module(name)

    yield write
    for name in names:
        sys.modules.pop(name, None)


def offered(plugins: Plugins) -> dict[str, list[str]]:
    return {
        kind: [name for name in getattr(plugins, kind).names() if "broken" in name]
        for kind in NAMES
    }


@pytest.mark.parametrize("works", [True, False])
def test_a_plugin_that_fails_at_last_is_withdrawn_whole(
    works: bool, install: Install
) -> None:
    module = install("strange", WHOLE.replace("{works}", str(works)))
    plugins = Plugins(load=["strange"])
    (plugin,) = [each for each in plugins.plugins if each.name == "strange"]
    nothing: dict[str, list[str]] = {kind: [] for kind in NAMES}
    assert offered(plugins) == (NAMES if works else nothing)
    assert (plugin.error is None) is works
    assert plugins.manager.has_plugin("strange (strange)") is works
    assert set(plugin.offers) == (
        {"distiller", "network", "parametrization", "data set", "command"}
        if works
        else set()
    )
    options: dict[str, Any] = {"steps": 2, "network": "mlp(width=2)"}
    dd_plugins.distill(toy_data(), "dm(real_batch_size=4)", plugins=plugins, **options)
    seen = [1, 2] if works else []
    assert list(module.STEPS) == seen, "its observer is gone as well"


class Tools:
    @hookspec
    def dd_register_tools(self, register: Callable[..., None]) -> None:
        """Offer tools."""


class Tool(dd_plugins.Record):
    """What the hook of a plugin collects."""


@dd_plugins.record
class Saw(Tool):
    name = "saw"


class Specifying:
    @hookimpl
    def dd_register_hookspecs(self, register: Any) -> None:
        register(Tools)


class Offering:
    """Offers tools, one after the other."""

    def __init__(self, *tools: Any) -> None:
        self.tools = tools

    @hookimpl
    def dd_register_tools(self, register: Callable[..., None]) -> None:
        for each in self.tools:
            register(each)


LATE = """
from dd_plugins import hookimpl, record
from dd_plugins.networks.mlp import MLP

@record
class Late(MLP):
    name = "late"

@hookimpl
def dd_register_networks(register):
    register(Late)

@hookimpl
def dd_register_tools(register):
    raise ValueError("of\\nanother time")
"""


def test_a_plugin_that_fails_later_takes_back_what_it_had_offered(
    install: Install,
) -> None:
    install("latecomer", LATE)
    extra: dict[str, object] = {"specs": Specifying(), "mine": Offering(Saw)}
    plugins = Plugins(load=["latecomer"], extra=extra)
    assert "late" in plugins.networks
    with pytest.warns(DDWarning, match=r"latecomer.*of another time"):
        tools = plugins.records("dd_register_tools", "tool", Tool)
    assert tools.names() == ["saw"]
    assert "late" not in plugins.networks
    (plugin,) = plugins.failures
    assert (plugin.name, plugin.offers) == ("latecomer", {})


def plugin_of(plugins: Plugins, name: str) -> Plugin:
    return next(each for each in plugins.plugins if each.name == name)


def test_records_are_collected_for_a_list_whatever_is_broken() -> None:
    plugins = Plugins(load=[], extra={"specs": Specifying(), "mine": Offering(Saw)})
    assert plugin_of(plugins, "mine").offers == {}, "nobody has asked yet"
    plugins.collect_all()
    plugins.collect_all()
    assert plugin_of(plugins, "mine").offers == {"tool": ["saw"]}
    broken = Plugins(load=[], extra={"specs": Specifying(), "bad": Offering(int)})
    broken.collect_all()
    with pytest.raises(PluginError, match="bad"):
        broken.records("dd_register_tools", "tool", Tool)


def test_asking_again_for_records_of_a_broken_plugin_notes_no_offer_twice() -> None:
    extra = {"specs": Specifying(), "good": Offering(Saw), "bad": Offering(int)}
    plugins = Plugins(load=[], extra=extra)
    for _ in range(2):
        with pytest.raises(PluginError, match="bad"):
            plugins.records("dd_register_tools", "tool", Tool)
    assert plugin_of(plugins, "good").offers in ({"tool": ["saw"]}, {})


def test_each_plugin_of_a_hook_is_called_alone_in_pluggy_s_order() -> None:
    told: list[str] = []

    def observer(name: str, **order: bool) -> ModuleType:
        plugin = ModuleType(name)

        def dd_after_step(step: int) -> None:
            told.append(f"{name} {step}")

        plugin.dd_after_step = hookimpl(**order)(dd_after_step)  # type: ignore
        return plugin

    extra = {"one": observer("one"), "two": observer("two", tryfirst=True)}
    plugins = Plugins(load=[], extra=extra)
    callers = dict(plugins.each("dd_after_step"))
    whole = [name for name in callers if name in extra]
    callers["one"](run=None, step=1, metrics={}, distilled=None)
    assert told == ["one 1"]
    for name in whole:
        callers[name](run=None, step=2, metrics={}, distilled=None)
    assert told[1:] == [f"{name} 2" for name in whole] == ["two 2", "one 2"]


class Shy:
    """Its properties may not be computed, and it equals everything."""

    def __init__(self) -> None:
        self.value = 5

    @property
    def dd_after_step(self) -> Any:
        raise AssertionError("computed")

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = None  # type: ignore[assignment]

    @hookimpl
    def dd_missing_extra(self) -> str:
        return f"shy[{self.value}]"

    @staticmethod
    @hookimpl
    def dd_before_run(run: Any) -> None:
        """Be there."""


def test_a_plugin_object_without_a_hash_stands_in_a_shell_with_its_functions() -> None:
    shy = Shy()
    shell = by_identity(shy)
    assert shell is not shy
    assert hash(shell) != hash(by_identity(shy))
    assert not hasattr(shell, "dd_after_step")
    plugins = Plugins(load=[], extra={"shy": shy, "other": Shy()})
    for name in ("shy", "other"):
        found = plugin_of(plugins, name)
        assert found.missing_extra == "shy[5]"
        assert found.hooks == ["dd_before_run", "dd_missing_extra"]
    module = ModuleType("plain")
    assert by_identity(module) is module
