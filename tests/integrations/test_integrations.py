"""The integrations load without their extras, and say what is missing."""

import subprocess
import sys

import pytest

import dd_avalanche
import dd_plugins
import dd_privacy
from dd_plugins.errors import MissingExtraError
from dd_plugins.plugins.manager import Plugins


@pytest.mark.parametrize(
    ("name", "extra"),
    [
        ("avalanche", "dd-plugins[avalanche]"),
        ("privacy", "dd-plugins[privacy]"),
    ],
)
def test_plugin_names_its_extra_only_while_it_is_missing(
    name: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"dd_{name}.plugin.find_spec", lambda library: None)
    (plugin,) = [each for each in Plugins().plugins if each.name == name]
    assert plugin.missing_extra == extra
    monkeypatch.setattr(f"dd_{name}.plugin.find_spec", lambda library: object())
    (plugin,) = [each for each in Plugins().plugins if each.name == name]
    assert plugin.missing_extra is None


def test_use_without_avalanche_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "avalanche", None)
    monkeypatch.setitem(sys.modules, "avalanche.benchmarks.utils", None)
    distilled = dd_plugins.distill("digits", "frepo(pool_size=1)", steps=1)
    with pytest.raises(
        MissingExtraError, match=r"pip install 'dd-plugins\[avalanche\]'"
    ):
        dd_avalanche.to_avalanche(distilled)


def test_use_without_opacus_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opacus", None)
    monkeypatch.setitem(sys.modules, "opacus.validators", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'dd-plugins\[privacy\]'"):
        dd_privacy.privacy_obstacles("conv")


def test_distilled_set_becomes_a_data_set_of_avalanche() -> None:
    pytest.importorskip("avalanche", reason="avalanche-lib is not installed")
    distilled = dd_plugins.distill("digits", "frepo(pool_size=1)", steps=1)
    converted = dd_avalanche.to_avalanche(distilled)
    assert len(converted) == 10
    assert list(converted.targets) == list(range(10))


def test_importing_the_library_loads_nothing_heavy() -> None:
    heavy = "{'torchvision', 'sklearn', 'matplotlib', 'avalanche', 'opacus', 'scipy'}"
    code = f"import sys, dd_plugins; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
