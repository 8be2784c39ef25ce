"""Plugins: every hook, guarded loading, and what a bad plugin cannot do."""

import dataclasses
import importlib
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import pytest
import torch
from conftest import ROOT
from seam_methods import Mixture
from torch import nn

import dd_plugins
from dd_plugins import AbstractNetwork, AbstractWrapper, hookimpl, hookspec, record
from dd_plugins import hookspecs as specifications
from dd_plugins.cli.entry import main
from dd_plugins.data.named import DataOptions
from dd_plugins.data.real import RealData
from dd_plugins.decoders.conv import ConvDecoder
from dd_plugins.distillers.frepo import FRePo
from dd_plugins.errors import DDWarning, OptionError, PluginError, UnknownNameError
from dd_plugins.hookspecs import LazySet
from dd_plugins.networks.base import FeatureNetwork
from dd_plugins.plugins.finding import BUILT_IN
from dd_plugins.plugins.manager import Plugins, loaded_plugins
from dd_plugins.plugins.registry import Plugin
from dd_plugins.run import Run
from dd_plugins.testing import PassThrough, toy_data
from dd_plugins.tracking.base import AbstractObserver

SMALL: dict[str, Any] = {"network": "mlp(width=16)", "device": "cpu"}
SPEC = "frepo(pool_size=1)"


def one_line(text: str) -> str:
    assert text.isprintable(), f"not one printable line: {text!r}"
    return text


def module(**hooks: Callable[..., Any]) -> ModuleType:
    """Return a plugin with these hook implementations."""
    plugin = ModuleType("plugin")
    for name, function in hooks.items():
        setattr(plugin, name, hookimpl(function))
    return plugin


def registering(kind: str, *offer: Any) -> ModuleType:
    """Return a plugin that registers one thing: ``kind`` is the end of the hook."""
    return module(**{f"dd_register_{kind}": lambda register: register(*offer)})


def fresh(**extra: object) -> Plugins:
    """Return the built-in plugins and these."""
    return Plugins(load=[], extra=extra)


@record
class Mine(FRePo):
    name = "mine"


@record
class Half(AbstractWrapper):
    name = "half"

    def adjust(self, state: Any, leaves: Any, real: Any, step: int) -> Any:
        leaves.pixels.grad *= 0.5
        return {"halved": leaves.pixels.grad.norm()}


@record
class Line(AbstractNetwork):
    name = "line"

    bias: bool = True

    def construct(
        self, image_shape: Any, num_classes: int, *, generator: torch.Generator
    ) -> FeatureNetwork:
        features = image_shape[0] * image_shape[1] * image_shape[2]
        return FeatureNetwork(
            nn.Flatten(), nn.Linear(features, num_classes, bias=self.bias)
        )


def load_toy(options: DataOptions) -> RealData:
    return toy_data()


@click.command()
@click.argument("name")
def greet(name: str) -> None:
    click.echo(f"Hello {name}")


OFFERS = [
    ("distillers", Mine),
    ("wrappers", Half),
    ("networks", Line),
    ("datasets", "toy", load_toy),
    ("commands", greet),
]
"""One offer for each kind: the end of the hook, and what is registered."""


def test_every_hook_has_a_test_of_its_name() -> None:
    hooks = {name for name in vars(specifications) if name.startswith("dd_")}
    assert len(hooks) >= 10
    tests = "\n".join(file.read_text() for file in (ROOT / "tests").rglob("*.py"))
    tested = re.findall(r"^ *def test_hook_(\w+)\(", tests, re.MULTILINE)
    assert hooks - set(tested) == set(), "write test_hook_<name>"


def test_hook_dd_register_distillers() -> None:
    plugins = fresh(mine=registering("distillers", Mine))
    distiller = plugins.distiller("mine(pool_size=3)")
    assert isinstance(distiller, Mine)
    assert repr(distiller) == "mine(pool_size=3)"
    assert repr(plugins.distiller("clip(mine)")) == "clip(mine)"
    assert plugins.plugins[-1].offers == {"distiller": ["mine"]}


def test_hook_dd_register_wrappers() -> None:
    plugins = fresh(mine=registering("wrappers", Half))
    distiller = plugins.distiller(f"half(half({SPEC}))")
    assert repr(distiller) == f"half(half({SPEC}))"
    norms: list[float] = []
    witness = module(dd_after_step=lambda metrics: norms.append(metrics["halved"]))
    plugins.manager.register(witness)
    dd_plugins.distill(toy_data(), distiller, steps=1, plugins=plugins, **SMALL)
    assert norms[0] > 0


def test_hook_dd_register_networks() -> None:
    plugins = fresh(mine=registering("networks", Line))
    network = plugins.network("line(bias=False)")
    built = network.build((1, 2, 3), 4, generator=torch.Generator())
    assert built(torch.zeros(5, 1, 2, 3)).shape == (5, 4)
    assert built.head.bias is None


def test_hook_dd_register_parametrizations() -> None:
    plugins = fresh(mine=registering("parametrizations", Mixture))
    found = plugins.parametrization("mixture(latents=3)")
    assert found == Mixture(latents=3)
    assert plugins.parametrization(found) is found
    with pytest.raises(UnknownNameError, match="nearest first: mixture"):
        plugins.parametrization("mixtur")
    made = dd_plugins.distill(
        toy_data(), "dm", steps=1, parametrization="mixture(latents=3)", plugins=plugins
    )
    assert made.header.parametrization == "mixture(latents=3)"
    assert made.header.stored_values == 2 * 3


def test_hook_dd_register_decoders() -> None:
    @record
    class Plain(ConvDecoder):
        name = "plain"

    plugins = fresh(mine=registering("decoders", Plain))
    found = plugins.decoder("plain(width=4)")
    assert found == Plain(width=4)
    assert plugins.decoder(found) is found
    with pytest.raises(UnknownNameError, match="nearest first: plain"):
        plugins.decoder("plane")
    spec = "generator(plain(width=4), layer=0, weights='random')"
    made = dd_plugins.distill(
        toy_data(), "dm", steps=1, parametrization=spec, plugins=plugins
    )
    assert made.header.parametrization == spec


def test_hook_dd_register_observers() -> None:
    @record
    class Counter(AbstractObserver):
        name = "counter"
        every: int = 1

        def observe(self, run: Run, first_step: int) -> Any:
            raise AssertionError("no run asks for it")

    plugins = fresh(mine=registering("observers", Counter))
    found = plugins.observer("counter(every=2)")
    assert found == Counter(every=2)
    assert plugins.observer(found) is found
    assert plugins.observers.names() == ["counter", "tensorboard", "wandb"]
    dd_plugins.distill(toy_data(), SPEC, steps=1, plugins=plugins, **SMALL)


def test_hook_dd_register_datasets(tmp_path: Path) -> None:
    asked = []

    def load(options: DataOptions) -> RealData:
        asked.append(options)
        return toy_data()

    plugins = fresh(mine=registering("datasets", "my-toys_2", load))
    assert asked == [], "loaded before it is asked for"
    options = DataOptions(root=tmp_path, download=True, image_size=8)
    assert plugins.dataset("my-toys_2:some:where", options).num_classes == 2
    assert asked == [DataOptions("some:where", tmp_path, True, 8)]
    said = r"loader of data set 'my-toys_2' \(plugin mine\) .* image_size=7, got 8x8"
    with pytest.raises(PluginError, match=said):
        plugins.dataset("my-toys_2", DataOptions(image_size=7))


def test_hook_dd_register_commands(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plugins = fresh(mine=registering("commands", greet))
    monkeypatch.setattr("dd_plugins.plugins.manager.loaded_plugins", lambda: plugins)
    monkeypatch.setattr("dd_plugins.cli.entry.installed_commands", lambda: plugins)
    main(["greet", "world"])
    assert capsys.readouterr().out == "Hello world\n"
    main(["--help"])
    assert "greet" in capsys.readouterr().out


class Attacks:
    """Hook specifications of a plugin's own."""

    @hookspec
    def dd_attack(self, strength: int, kind: str) -> str:
        """Attack."""


@pytest.mark.parametrize("order", [("specs", "attack"), ("attack", "specs")])
def test_hook_dd_register_hookspecs(order: tuple[str, str]) -> None:
    given = {
        "specs": registering("hookspecs", Attacks),
        "attack": module(dd_attack=lambda strength: f"attack of {strength}"),
    }
    plugins = fresh(**{name: given[name] for name in order})
    hook = plugins.manager.hook
    assert hook.dd_attack(strength=3, kind="any") == ["attack of 3"]
    attack = next(plugin for plugin in plugins.plugins if plugin.name == "attack")
    assert attack.hooks == ["dd_attack"]


class Things:
    @hookspec
    def dd_register_things(self, register: Callable[..., None]) -> None:
        """Offer things."""


class Thing(dd_plugins.Record):
    """What the hook of a plugin collects."""


@dd_plugins.record
class Rope(Thing):
    name = "rope"
    length: int = 3


def offering_things(*offered: type[Any]) -> object:
    def register(register: Callable[..., None]) -> None:
        for each in offered:
            register(each)

    return module(dd_register_things=register)


def test_records_of_a_hook_that_a_plugin_specifies() -> None:
    plugins = fresh(specs=registering("hookspecs", Things), mine=offering_things(Rope))
    things = plugins.records("dd_register_things", "thing", Thing)
    assert things.names() == ["rope"]
    assert plugins.record(things, "rope(length=5)") == Rope(length=5)
    assert plugins.plugins[-1].offers == {"thing": ["rope"]}
    assert plugins.records("dd_register_things", "thing", Thing) is things
    with pytest.raises(UnknownNameError, match=r"unknown thing 'rop'; .*: rope"):
        plugins.record(things, "rop")
    with pytest.raises(OptionError, match="rope: length"):
        plugins.record(things, "rope(length='long')")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"mine": offering_things(int)}, r"plugin mine is broken: .* a subclass of"),
        (
            {"one": offering_things(Rope), "two": offering_things(Rope)},
            "thing 'rope' is registered by two plugins, one and two",
        ),
    ],
)
def test_wrong_records_of_a_hook_name_the_plugin(
    given: dict[str, object], message: str
) -> None:
    plugins = fresh(specs=registering("hookspecs", Things), **given)
    with pytest.raises(PluginError, match=message):
        plugins.records("dd_register_things", "thing", Thing)


def test_records_of_a_hook_that_nobody_specifies() -> None:
    with pytest.raises(PluginError, match="no plugin that is loaded specifies"):
        fresh().records("dd_register_things", "thing", Thing)


@pytest.mark.parametrize("extra", ["somewhere[attacks]", None])
def test_hook_dd_missing_extra(extra: str | None) -> None:
    plugins = fresh(mine=module(dd_missing_extra=lambda: extra))
    assert plugins.plugins[-1].missing_extra == extra
    assert plugins.failures == []


def observed(out: Path | None = None, **hooks: Callable[..., Any]) -> dict[str, Any]:
    """Return the options of a run of three steps that these hooks observe."""
    return SMALL | {"steps": 3, "plugins": fresh(observer=module(**hooks)), "out": out}


def test_hook_dd_before_run(tmp_path: Path) -> None:
    told: list[tuple[Run, int]] = []
    options = observed(
        tmp_path, dd_before_run=lambda run, first_step: told.append((run, first_step))
    )
    dd_plugins.distill(toy_data(), SPEC, seed=7, **options)
    run, first_step = told[0]
    assert (run.steps, run.seed, run.out, first_step) == (3, 7, tmp_path, 0)
    assert run.distiller.startswith("frepo(pool_size=1")
    dd_plugins.distill(toy_data(), SPEC, seed=7, resume=True, **options)
    assert told[1][1] == 3


def test_hook_dd_after_step() -> None:
    told: list[tuple[int, Mapping[str, float], torch.Tensor]] = []

    def after_step(step: int, metrics: Mapping[str, float], distilled: LazySet) -> None:
        told.append((step, metrics, distilled().images))

    result = dd_plugins.distill(toy_data(), SPEC, **observed(dd_after_step=after_step))
    assert [step for step, _, _ in told] == [1, 2, 3]
    assert all(metrics.keys() >= {"loss", "seconds"} for _, metrics, _ in told)
    assert torch.equal(told[2][2], result.images)
    assert not torch.equal(told[0][2], told[1][2]), "the set as it was at each step"


def test_hook_dd_after_run() -> None:
    told: list[tuple[Run, Any]] = []

    def after_run(run: Run, distilled: Any) -> None:
        told.append((run, distilled))

    def fail(step: int) -> None:
        raise OSError("an observer that fails")

    result = dd_plugins.distill(toy_data(), SPEC, **observed(dd_after_run=after_run))
    assert told[0][1] is result
    failing = observed(dd_after_run=after_run, dd_after_step=fail)
    with pytest.warns(DDWarning, match="observer that fails"):
        dd_plugins.distill(toy_data(), SPEC, **failing)
    assert isinstance(told[1][1], dd_plugins.DistilledSet)

    def stop(step: int) -> None:
        raise KeyboardInterrupt

    stopping = observed(dd_after_run=after_run, dd_after_step=stop)
    with pytest.raises(KeyboardInterrupt):
        dd_plugins.distill(toy_data(), SPEC, **stopping)
    assert told[2][1] is None


def test_built_ins_are_plugins_like_any_other() -> None:
    plugins = fresh()
    assert [plugin.name for plugin in plugins.plugins] == list(BUILT_IN)
    assert all(plugin.built_in and plugin.hooks for plugin in plugins.plugins)
    assert set(plugins.distillers.names()) >= {"clip", "frepo"}


def test_managers_are_independent_of_each_other() -> None:
    fresh(mine=registering("networks", Line))
    assert "line" not in fresh().networks


@pytest.mark.parametrize("offer", OFFERS, ids=lambda offer: offer[0])
def test_a_name_registered_twice_is_an_error_that_names_both(offer: Any) -> None:
    first, second = registering(*offer), registering(*offer)
    with pytest.raises(PluginError, match=r"registered by two plugins") as refused:
        fresh(first=first, second=second)
    assert "first and second" in one_line(str(refused.value))


@pytest.mark.parametrize(
    ("kind", "known"),
    [("distillers", "frepo"), ("wrappers", "clip"), ("networks", "conv")],
)
def test_names_of_the_library_cannot_be_taken(kind: str, known: str) -> None:
    base: dict[str, type] = {"distillers": FRePo, "wrappers": Half, "networks": Line}
    taken = type("Taken", (base[kind],), {"name": known})
    with pytest.raises(PluginError, match=f"me is broken.*'{known}' is built in"):
        fresh(me=registering(kind, taken))


def test_wrappers_and_distillers_share_their_names() -> None:
    wrapper = type("Wrapper", (Half,), {"name": "mine"})
    with pytest.raises(PluginError, match=r"distiller 'mine' .*first and second"):
        fresh(
            first=registering("distillers", Mine),
            second=registering("wrappers", wrapper),
        )


@pytest.mark.parametrize(
    ("plugin", "told"),
    [
        (
            module(dd_register_network=lambda: None),
            "unknown hook 'dd_register_network'; known, .*: dd_register_networks,",
        ),
        (module(dd_after_steps=lambda: None), "unknown hook 'dd_after_steps'"),
        (module(dd_after_step=lambda stp: None), "dd_after_step.*'stp'"),
        (module(dd_register_networks=lambda register: 1 / 0), "ZeroDivisionError"),
        (registering("distillers", "frepo"), "expected a subclass of .*, got 'frepo'"),
        (registering("distillers", Line), "a subclass of AbstractDist.*, got .*Line"),
        (registering("distillers", FRePo), "distiller 'frepo' is built in; a plugin's"),
        (registering("distillers", FRePo()), "expected a subclass of .*, got frepo"),
        (registering("wrappers", Mine), "a subclass of AbstractWrapper, got .*Mine"),
        (registering("networks", Mine), "a subclass of AbstractNetwork, got .*Mine"),
        (registering("networks", AbstractNetwork), "name must be an identifier"),
        (registering("networks", type("No", (Line,), {})), "got None"),
        (registering("networks", type("No", (Line,), {"name": "a-b"})), "got 'a-b'"),
        (registering("networks", type("No", (Line,), {"name": 5})), "got 5"),
        (registering("networks"), "TypeError"),
        (registering("datasets", "Toy", load_toy), "data set name: .*, got 'Toy'"),
        (registering("datasets", "a:b", load_toy), "data set name: .*, got 'a:b'"),
        (registering("datasets", 5, load_toy), "TypeError"),
        (registering("commands", "greet"), "click command"),
        (registering("commands", main), "click command"),
        (registering("hookspecs", Line), "did not find any 'dd_plugins' hooks"),
        (registering("commands", click.Command(None)), "click command with a name"),
        (registering("datasets", "toy", 5), "call"),
        (registering("networks", type("No", (Line,), {"name": "lambda"})), "lambda"),
        (
            registering(
                "networks",
                type("No", (AbstractNetwork,), {"name": "no", "construct": print}),
            ),
            "record",
        ),
    ],
)
def test_a_plugin_in_hand_that_is_broken_is_an_error(
    plugin: ModuleType, told: str
) -> None:
    with pytest.raises(PluginError, match=f"plugin me is broken: .*{told}") as refused:
        fresh(me=plugin)
    one_line(str(refused.value))


def test_wrong_implementation_of_a_later_hook_is_blamed_itself() -> None:
    wrong = module(dd_attack=lambda strenght: None)
    with pytest.raises(PluginError, match="plugin wrong is broken"):
        fresh(wrong=wrong, specs=registering("hookspecs", Attacks))


GOOD = """
from dd_plugins import hookimpl

@hookimpl
def dd_missing_extra():
    return "{extra}"
"""

NETWORK = """
from dd_plugins import AbstractNetwork, hookimpl, record

@record
class Net(AbstractNetwork):
    name = "{name}"

    def construct(self, image_shape, num_classes, *, generator):
        raise NotImplementedError

@hookimpl
def dd_register_networks(register):
    register(Net)
    {afterwards}
"""

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Install distributions, each of one entry point and one module, in an own place.

    The module is ``<distribution>_module``; ``value`` replaces the entry point's.
    """
    monkeypatch.syspath_prepend(tmp_path)

    def write(
        distribution: str,
        entry_point: str,
        source: str = GOOD.format(extra="nothing"),
        *,
        value: str | None = None,
    ) -> None:
        name = f"{distribution}_module"
        (tmp_path / f"{name}.py").write_text(source)
        info = tmp_path / f"{distribution}-1.5.dist-info"
        info.mkdir()
        metadata = f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.5\n"
        (info / "METADATA").write_text(metadata)
        entry = f"[dd_plugins]\n{entry_point} = {name if value is None else value}\n"
        (info / "entry_points.txt").write_text(entry)
        importlib.invalidate_caches()

    yield write
    for file in tmp_path.glob("*.py"):
        sys.modules.pop(file.stem, None)


def found(plugins: Plugins, name: str) -> list[Plugin]:
    return [plugin for plugin in plugins.plugins if plugin.name == name]


def names(plugins: Plugins) -> set[str]:
    """Return the names of plugins that no distribution of ours brings."""
    own = (None, "dd-plugins")
    return {plugin.name for plugin in plugins.plugins if plugin.distribution not in own}


def test_an_installed_plugin_is_loaded_with_where_it_comes_from(
    install: Install,
) -> None:
    install("dist_one", "one", GOOD.format(extra="dist_one[all]"))
    (plugin,) = found(Plugins(), "one")
    assert (plugin.distribution, plugin.version) == ("dist_one", "1.5")
    assert (plugin.error, plugin.built_in) == (None, False)
    assert plugin.hooks == ["dd_missing_extra"]
    assert plugin.missing_extra == "dist_one[all]"
    assert str(plugin) == "one (dist_one)"


WIDE = """
from dd_plugins import AbstractNetwork, hookimpl, record
from dd_plugins.networks.mlp import MLP

@record
class Wide(MLP):
    name = "wide"

@hookimpl
def dd_register_networks(register):
    register(Wide)
"""


def test_run_goes_on_with_the_plugin_version_that_began_it(
    install: Install, tmp_path: Path
) -> None:
    install("dist_wide", "wide", WIDE)
    plugins = Plugins()
    options: dict[str, Any] = {
        "images_per_class": 1,
        "steps": 2,
        "network": "wide(width=8)",
    }
    options |= {"out": tmp_path / "run", "plugins": plugins}
    made = dd_plugins.distill("digits", "frepo(pool_size=1)", **options)
    assert made.header.versions["dist_wide"] == "1.5"
    nested = plugins.distiller("metadd(frepo, networks=(wide(width=8), mlp))")
    assert plugins.versions(nested) == {"dist_wide": "1.5"}
    assert plugins.versions(plugins.network("mlp")) == {}
    dd_plugins.distill("digits", "frepo(pool_size=1)", resume=True, **options)
    (upgraded,) = found(plugins, "wide")
    upgraded.version = "1.6"
    again = dd_plugins.distill("digits", "frepo(pool_size=1)", resume=True, **options)
    assert again.header.versions["dist_wide"] == "1.5", "nothing was left to be made"
    (tmp_path / "run" / "distilled.safetensors").unlink()
    for later, told in (("1.6", "is '1"), (None, "is None")):
        upgraded.version = later
        with pytest.raises(OptionError, match=f"dist_wide version was '1.5', {told}"):
            dd_plugins.distill("digits", "frepo(pool_size=1)", resume=True, **options)


@pytest.mark.parametrize(
    ("source", "value", "cause"),
    [
        ("import not_there", None, "ModuleNotFoundError.*not_there"),
        ("1 / 0", None, "ZeroDivisionError"),
        ("def (", None, "SyntaxError"),
        (GOOD, "dist_bad_module:absent", "AttributeError.*absent"),
        (GOOD, "not_there.at.all", "ModuleNotFoundError.*not_there"),
        (GOOD, "no module!", "Error"),
        (GOOD.replace("missing", "mising"), None, "unknown hook 'dd_mising_extra'"),
        (GOOD.replace("_extra()", "_extra(x)"), None, "PluginValidationError.*'x'"),
        (GOOD.replace("return", "return missing +"), None, "NameError"),
        (
            NETWORK.format(name="net", afterwards="register(5)"),
            None,
            "a subclass of AbstractNetwork, got 5",
        ),
        ("raise SystemExit(3)", None, "SystemExit"),
    ],
    ids=[
        "import",
        "error",
        "syntax",
        "no attribute",
        "no module",
        "no value",
        "misspelt hook",
        "wrong argument",
        "failing hook",
        "rubbish",
        "exit",
    ],
)
def test_a_broken_plugin_is_reported_and_stops_no_other(
    install: Install, source: str, value: str | None, cause: str
) -> None:
    install("dist_aaa", "before")
    install("dist_bad", "bad", source, value=value)
    install("dist_zzz", "zzz")
    plugins = Plugins()
    (failure,) = plugins.failures
    assert (failure.name, failure.distribution) == ("bad", "dist_bad")
    assert failure.error is not None
    assert re.search(cause, one_line(failure.error))
    # Nothing is left of it, and nothing is missing of the others.
    assert failure.offers == {}
    assert "net" not in plugins.networks
    assert not plugins.manager.has_plugin("bad (dist_bad)")
    assert names(plugins) >= {"before", "bad", "zzz"}
    assert repr(plugins.distiller("frepo")) == "frepo"


def damage_no_metadata(info: Path) -> None:
    (info / "METADATA").unlink()


def damage_no_name(info: Path) -> None:
    (info / "METADATA").write_text("Metadata-Version: 2.1\n")


def damage_entry_points(info: Path) -> None:
    (info / "entry_points.txt").write_text("[of_others]\nno equals sign\n")


@pytest.mark.parametrize(
    "damage",
    [
        damage_no_metadata,
        damage_no_name,
        damage_entry_points,
    ],
)
def test_a_damaged_installation_stops_no_other(
    install: Install, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    install("dist_aaa", "before")
    install("dist_bad", "bad", "import not_there")
    install("dist_zzz", "zzz")
    damage(tmp_path / "dist_bad-1.5.dist-info")
    importlib.invalidate_caches()
    assert names(Plugins()) >= {"before", "zzz"}


def test_two_distributions_may_share_the_name_of_an_entry_point(
    install: Install,
) -> None:
    install("dist_one", "same", GOOD.format(extra="of one"))
    install("dist_two", "same", GOOD.format(extra="of two"))
    plugins = Plugins()
    assert plugins.failures == []
    assert {
        (str(plugin), plugin.missing_extra) for plugin in found(plugins, "same")
    } == {("same (dist_one)", "of one"), ("same (dist_two)", "of two")}


def test_a_distribution_found_twice_is_loaded_once(
    install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("dist_one", "one")
    monkeypatch.setattr(sys, "path", [str(tmp_path), f"{tmp_path}/.", *sys.path])
    assert len(found(Plugins(), "one")) == 1


def test_one_name_of_two_distributions_is_an_error_that_names_both(
    install: Install,
) -> None:
    install("dist_one", "one", NETWORK.format(name="net", afterwards=""))
    install("dist_two", "two", NETWORK.format(name="net", afterwards=""))
    with pytest.raises(PluginError, match="network 'net' is registered by") as refused:
        Plugins()
    text = one_line(str(refused.value))
    assert "one (dist_one)" in text
    assert "two (dist_two)" in text
    assert "DD_PLUGINS_LOAD" in text
    # As the message says, naming one of them helps.
    assert "net" in Plugins(load=["one"]).networks


@pytest.fixture
def variable(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str | None], None]]:
    """Set or unset DD_PLUGINS_LOAD for a process that has loaded nothing yet."""

    def put(value: str | None) -> None:
        if value is None:
            monkeypatch.delenv("DD_PLUGINS_LOAD", raising=False)
        else:
            monkeypatch.setenv("DD_PLUGINS_LOAD", value)

    loaded_plugins.cache_clear()
    yield put
    loaded_plugins.cache_clear()


def test_what_is_installed_is_not_read_where_none_of_it_is_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("dd_plugins.plugins.finding.distributions", None)
    assert names(Plugins(load=[])) == set()


@pytest.mark.parametrize(
    ("value", "loaded"),
    [
        (None, {"one", "two", "three"}),
        ("", set()),
        (" , ", set()),
        ("one", {"one"}),
        ("one,three", {"one", "three"}),
        (" three , one,", {"one", "three"}),
        ("dist_two", {"two"}),
        ("dist_two,two", {"two"}),
    ],
)
def test_the_variable_names_what_is_loaded(
    install: Install,
    variable: Callable[[str | None], None],
    value: str | None,
    loaded: set[str],
) -> None:
    for name in ("one", "two", "three"):
        install(f"dist_{name}", name)
    variable(value)
    plugins = loaded_plugins()
    assert names(plugins) & {"one", "two", "three"} == loaded
    assert "frepo" in plugins.distillers, "what comes with the library is always there"
    if value is not None:
        assert names(plugins) == loaded
    assert loaded_plugins() is plugins, "loaded once in a process"


def test_what_the_variable_leaves_out_is_not_imported(
    install: Install, variable: Callable[[str | None], None]
) -> None:
    install("dist_one", "one")
    install("dist_two", "two")
    variable("one")
    loaded_plugins()
    assert "dist_one_module" in sys.modules
    assert "dist_two_module" not in sys.modules


def test_the_variable_refuses_unknown_names(
    install: Install, variable: Callable[[str | None], None]
) -> None:
    install("dist_one", "first_one")
    variable("first_oen")
    told = "DD_PLUGINS_LOAD: unknown plugin 'first_oen'; .*nearest first: first_one,"
    with pytest.raises(OptionError, match=told) as refused:
        loaded_plugins()
    one_line(str(refused.value))


@record
class Ideal(AbstractNetwork):
    """It does not say how it is constructed."""

    name = "ideal"


@pytest.mark.parametrize(
    ("plugin", "told"),
    [
        (
            registering("distillers", type("M", (Mine,), {"name": "m"})),
            "must be a record itself",
        ),
        (
            registering("wrappers", type("H", (Half,), {"name": "h"})),
            "must be a record itself",
        ),
        (
            registering("networks", type("L", (Line,), {"name": "l"})),
            "must be a record itself",
        ),
        (registering("networks", Ideal), "Ideal is abstract; .* construct"),
        (module(dd_missing_extra=lambda: 5), "dd_missing_extra must return text"),
    ],
)
def test_what_is_registered_is_a_whole_record(plugin: ModuleType, told: str) -> None:
    with pytest.raises(PluginError, match=told):
        fresh(me=plugin)


def unmarked(name: str) -> ModuleType:
    plugin = ModuleType("plugin")
    setattr(plugin, name, lambda register: None)
    return plugin


def test_a_function_named_like_a_hook_must_be_marked() -> None:
    for name in ("dd_register_networks", "dd_after_step"):
        with pytest.raises(PluginError, match=f"{name} is not marked.*hookimpl"):
            fresh(me=unmarked(name))
    with pytest.raises(PluginError, match="dd_attack is not marked"):
        fresh(me=unmarked("dd_attack"), specs=registering("hookspecs", Attacks))
    fresh(me=unmarked("dd_helper"), specs=module())  # no hook


@dataclasses.dataclass
class Board:
    seen: list[int] = dataclasses.field(default_factory=list)

    @hookimpl
    def dd_after_step(self, step: int) -> None:
        self.seen.append(step)


class Odd:  # noqa: PLW1641
    """It cannot be compared."""

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("not with me")

    @hookimpl
    def dd_register_networks(self, register: Any) -> None:
        register(Line)


def test_plugin_objects_need_neither_a_hash_nor_an_order() -> None:
    boards = [Board(), Board()]  # equal ones are two
    plugins = fresh(one=boards[0], two=boards[1], odd=Odd())
    assert "line" in plugins.networks
    dd_plugins.distill(toy_data(), SPEC, steps=2, plugins=plugins, **SMALL)
    assert [board.seen for board in boards] == [[1, 2], [1, 2]]


def test_an_installed_plugin_that_fails_in_a_later_hook_is_withdrawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "stranger-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: stranger\nVersion: 1"
    )
    (folder / "entry_points.txt").write_text("[dd_plugins]\nstranger = strangers\n")
    (tmp_path / "strangers.py").write_text(
        "from dd_plugins import hookimpl\n"
        "@hookimpl\ndef dd_register_things(register): raise SystemExit('older')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    plugins = Plugins(
        load=["stranger"],
        extra={
            "specs": registering("hookspecs", Things),
            "mine": offering_things(Rope),
        },
    )
    with pytest.warns(DDWarning, match=r"stranger \(stranger\) is withdrawn.* older"):
        things = plugins.records("dd_register_things", "thing", Thing)
    assert things.names() == ["rope"]
    assert [plugin.name for plugin in plugins.failures] == ["stranger"]


def test_an_object_whose_class_declares_options_must_be_a_record() -> None:
    class Silent(FRePo):
        rate: float = 2.0

    class Louder(FRePo):
        def default_steps(self, task: Any) -> int:
            return 3

    with pytest.raises(OptionError, match="Silent must be a record itself"):
        fresh().distiller(Silent())
    assert fresh().distiller(Louder()) == Louder()


def test_a_name_of_before_stands_for_the_name_of_now() -> None:
    plugins = Plugins(load=[])
    built = plugins.distiller("turned(dm, turns=2)")
    assert repr(built) == repr(plugins.distiller("rotated(dm, turns=2)"))
    assert repr(built).startswith("rotated(")
    assert "turned" not in plugins.distillers.names()

    @record
    class Taken(PassThrough):
        name = "turned"

    with pytest.raises(PluginError, match=r"distiller 'turned' is built in; .* name"):
        fresh(taken=registering("wrappers", Taken))


IMAGES, LABELS = torch.rand(20, 1, 8, 8), torch.arange(20) % 2
PAIRS = list(zip(IMAGES, LABELS.tolist(), strict=True))


@pytest.mark.parametrize(
    "given",
    [
        (IMAGES, LABELS),
        (IMAGES.numpy(), LABELS.numpy()),
        (IMAGES, LABELS.tolist()),
        PAIRS,
        [{"image": image, "label": label} for image, label in PAIRS],
        {"train": PAIRS},
    ],
    ids=["tensors", "arrays", "list of labels", "pairs", "mappings", "splits"],
)
def test_every_form_of_own_data_gives_the_same_images(given: Any) -> None:
    found = Plugins(load=[]).real_data(given, DataOptions())
    expected = RealData.from_tensors(IMAGES, LABELS)
    assert found.fingerprint == expected.fingerprint


def test_own_data_is_resized_as_a_named_set_is() -> None:
    for given in ((IMAGES, LABELS), PAIRS, {"train": PAIRS}):
        found = Plugins(load=[]).real_data(given, DataOptions(image_size=4))
        assert found.image_shape == (1, 4, 4)


def test_data_that_is_read_already_is_not_resized() -> None:
    data = RealData.from_tensors(IMAGES, LABELS, image_size=4)
    assert Plugins(load=[]).real_data(data, DataOptions(image_size=4)) is data
    wide = RealData.from_tensors(torch.rand(4, 1, 8, 16), LABELS[:4])
    for given in (data, wide):
        with pytest.raises(OptionError, match="image_size=8 resizes data as it is"):
            Plugins(load=[]).real_data(given, DataOptions(image_size=8))


def test_an_unknown_name_within_a_spec_may_be_of_any_kind() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown name 'mpl'; .* mlp, "):
        Plugins(load=[]).distiller("metadd(frepo, networks=(conv, mpl))")


def test_the_loader_of_a_failing_data_set_is_named() -> None:
    def load(options: DataOptions) -> RealData:
        raise FileNotFoundError("/nowhere/blobs.npz")

    plugins = fresh(mine=registering("datasets", "blobs", load))
    with pytest.raises(FileNotFoundError) as raised:
        plugins.dataset("blobs", DataOptions())
    assert raised.value.__notes__ == ["loading data set 'blobs' (plugin mine)"]
