"""Modules that have moved are found by their old paths, with a warning."""

import subprocess
import sys
from importlib import import_module

import pytest

from dd_plugins import api
from dd_plugins.runtime.old_paths import MOVED, RENAMED


@pytest.mark.parametrize("path", MOVED)
def test_an_old_path_has_every_name_of_its_new_modules(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, f"dd_plugins.{path}", raising=False)
    with pytest.warns(DeprecationWarning, match=f"dd_plugins.{MOVED[path][0]}"):
        old = import_module(f"dd_plugins.{path}")
    for home in MOVED[path]:
        new = import_module(f"dd_plugins.{home}")
        for name in getattr(new, "__all__", ()):
            assert getattr(old, name) is getattr(new, name)
    with pytest.raises(AttributeError, match="has no 'nothing'"):
        old.nothing  # noqa: B018


def test_a_plugin_of_the_last_release_is_still_imported() -> None:
    script = (
        "from dd_plugins.data import Batch, RealSampler\n"
        "from dd_plugins.distillers.base import AbstractDistiller, NoState\n"
        "from dd_plugins.networks.base import AbstractNetwork, FeatureNetwork\n"
        "from dd_plugins.randomness import derive, isolated\n"
        "from dd_plugins.run import Run, Task\n"
        "from dd_plugins.synthetic import Leaves\n"
        "from dd_plugins.trained import train_networks\n"
        "from dd_plugins.wrappers.turned import Turned\n"
    )
    command = [sys.executable, "-W", "error::ImportWarning", "-c", script]
    subprocess.run(command, check=True)


OLD_MODULES = [
    "api",
    "arguments",
    "artifact",
    "built_in",
    "captured",
    "checkpoint",
    "checks",
    "cli",
    "commands",
    "data",
    "datasets",
    "distillers.base",
    "distillers.core_set",
    "distillers.dm",
    "distillers.dsa",
    "distillers.frepo",
    "engine",
    "errors",
    "evaluate",
    "files",
    "functional.alignment",
    "functional.augment",
    "functional.cam",
    "functional.kernel_regression",
    "functional.matching",
    "functional.resample",
    "hookspecs",
    "image_folders",
    "kept",
    "lookup",
    "meta_features",
    "metric",
    "networks.base",
    "observers",
    "optimizers",
    "options",
    "outputs",
    "parallel",
    "pictures",
    "pixels",
    "plugins",
    "preprocess",
    "randomness",
    "returned",
    "run",
    "run_folder",
    "signals",
    "sources",
    "spec",
    "streamed",
    "synthetic",
    "testing",
    "text",
    "trained",
    "training",
    "transfer",
    "wrappers.base",
    "wrappers.clip",
    "wrappers.metadd",
    "wrappers.turned",
]


@pytest.mark.filterwarnings("ignore:dd_plugins:DeprecationWarning")
def test_every_module_of_the_last_release_is_found_but_two() -> None:
    gone = []
    for name in OLD_MODULES:
        try:
            import_module(f"dd_plugins.{name}")
        except ModuleNotFoundError:
            gone.append(name)
    assert gone == ["arguments", "evaluate"]


def test_the_public_door_knows_its_old_names() -> None:
    for old, new in (("derive", "generator_for"), ("Protocol", "ProtocolName")):
        with pytest.warns(DeprecationWarning, match=new):
            assert getattr(api, old) is getattr(api, new)
    with pytest.raises(AttributeError, match="alone_in"):
        api.alone_in  # noqa: B018


def test_names_that_have_changed_are_found_by_their_old_ones() -> None:
    found = set()
    for path, homes in MOVED.items():
        for home in homes:
            names = vars(import_module(f"dd_plugins.{home}"))
            found |= {old for old, new in RENAMED.items() if new in names}
        del path
    assert found == set(RENAMED) - {"Protocol"}, "which is a name of the api alone"
