"""Networks trained on real data are kept and found again."""

import importlib
import random
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from conftest import Command

import dd_plugins
from dd_plugins import get_distiller, get_network
from dd_plugins.api import get_recipe
from dd_plugins.errors import FileError, OptionError, RunError
from dd_plugins.runtime.cache import cache_folder
from dd_plugins.runtime.kept_tensors import load_tensors, save_tensors
from dd_plugins.testing import toy_data
from dd_plugins.training import sources
from dd_plugins.training.kept_networks import TrainingReport, train_networks
from dd_plugins.training.sources import code_of

WORDS = ("train-networks", "--dataset", "digits", "--steps", 20, "--cache", "kept")


def test_command_goes_on_where_it_stopped(
    command_line: Command, tmp_path: Path
) -> None:
    first = command_line(*WORDS, "--network", "vgg11(width=4)")
    assert first.returncode == 0, first.stderr
    assert first.stdout.startswith("vgg11(width=4), 20 steps: trained, validation 0.")
    second = command_line(
        *WORDS, "--network", "vgg11(width=4)", "--network", "mlp(width=8)"
    )
    kept, trained = second.stdout.splitlines()
    assert kept == first.stdout.strip().replace(": trained,", ": kept before,")
    assert trained.startswith("mlp(width=8), 20 steps: trained, validation 0.")
    assert len(list((tmp_path / "kept").iterdir())) == 2


def test_teachers_are_trained_by_the_recipe_that_the_command_prints(
    command_line: Command,
) -> None:
    words = ("train-networks", "--dataset", "digits", "--network", "mlp(width=4)")
    words = (*words, "--recipe", "squeeze", "--steps", 20, "--stop-after", 5)
    words = (*words, "--network-seed", 0, "--network-seed", 3, "--cache", "kept")
    done = command_line(*words)
    assert done.returncode == 0, done.stderr
    recipe, *networks = done.stdout.splitlines()
    assert [line.split(": ")[0] for line in networks] == [
        f"mlp(width=4), 5 steps, seed {seed}" for seed in (0, 3)
    ]
    assert "mlp(width=4): 100 %" in done.stderr
    words = ("train-networks", "--dataset", "digits", "--network", "mlp(width=4)")
    words = (*words, "--recipe", recipe.removeprefix("recipe: "), "--cache", "kept")
    again = command_line(*words, "--preprocessing", "standardize")
    assert ": kept before" in again.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("--network", "vgg12"),
            "unknown network 'vgg12'; known, nearest first: vgg11",
        ),
        (("--network", "alexnet", "--dataset", "nothing"), "unknown data set"),
        ((), "Missing option '--network'"),
        (("--network", "mlp", "--recipe", "squeze"), "expected squeeze, or a recipe"),
        (("--network", "mlp", "--stop-after", "3"), "needs --recipe squeeze"),
        (
            ("--network", "mlp", "--recipe", "recipe(steps=3)", "--steps", "4"),
            "give --steps or the steps of a recipe",
        ),
    ],
)
def test_wrong_words_are_one_line(
    command_line: Command, words: tuple[str, ...], message: str
) -> None:
    result = command_line("train-networks", *words)
    assert result.returncode != 0
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_networks_learn(tmp_path: Path) -> None:
    (report,) = train_networks(
        toy_data(), [get_network("mlp(width=16)")], stages=[60], folder=str(tmp_path)
    )
    assert report.validation_accuracy is not None
    assert report.validation_accuracy > 0.9
    for stages in ([], [3, 0]):
        with pytest.raises(
            OptionError, match="stages: expected one or more numbers of steps"
        ):
            next(train_networks(toy_data(), [], stages=stages))


def test_wrapper_finds_the_networks_that_were_trained_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DD_CACHE", str(tmp_path))
    specs = ["vgg11(width=4)", "conv(width=4, depth=2)"]
    networks = [get_network(spec) for spec in specs]
    reports = list(train_networks(toy_data(), networks, stages=[1, 2]))
    kept = {report.file for report in reports}
    assert kept == set(tmp_path.iterdir())
    assert [report.steps for report in reports] == [1, 2, 1, 2]
    options = f"networks=({', '.join(specs)}), stages=(1, 2), variant='variance'"
    wrapped = f"metadd(dm, {options})"
    dd_plugins.distill(toy_data(), wrapped, steps=2, network="mlp(width=4)")
    assert set(tmp_path.iterdir()) == kept


def test_cache_is_the_user_s_unless_another_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DD_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"
    monkeypatch.delenv("DD_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "dd-plugins"


def quickly(folder: Path, *specs: str, **options: Any) -> list[TrainingReport]:
    networks = [get_network(spec) for spec in specs]
    data = options.pop("data", toy_data())
    return list(train_networks(data, networks, stages=[1], folder=folder, **options))


def test_a_kept_network_of_which_a_bit_was_flipped_is_refused(tmp_path: Path) -> None:
    (kept,) = quickly(tmp_path, "mlp(width=4)")
    content = kept.file.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    for place in random.Random(0).sample(range(8 * start, 8 * len(content)), 30):
        damaged = bytearray(content)
        damaged[place // 8] ^= 1 << place % 8
        kept.file.write_bytes(damaged)
        with pytest.raises(FileError, match="remove the file, and it is trained anew"):
            quickly(tmp_path, "mlp(width=4)")
    kept.file.write_bytes(content)
    (again,) = quickly(tmp_path, "mlp(width=4)")
    assert again.was_there


def test_files_of_other_networks_and_versions_are_refused(tmp_path: Path) -> None:
    one, other = quickly(tmp_path, "mlp(width=4)", "mlp(width=5)")
    other.file.write_bytes(one.file.read_bytes())
    with pytest.raises(FileError, match="does not match its key"):
        quickly(tmp_path, "mlp(width=5)")
    state = {name: value.clone() for name, value in one.module.state_dict().items()}
    safetensors.torch.save_file(state, one.file)  # as an earlier version wrote them
    with pytest.raises(FileError, match="no hash; remove the file"):
        quickly(tmp_path, "mlp(width=4)")


def test_all_files_are_tried_before_a_network_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (kept,) = quickly(tmp_path, "mlp(width=4)")
    kept.file.write_bytes(b"damaged")
    monkeypatch.setattr("dd_plugins.training.kept_networks.training_steps_of", None)
    with pytest.raises(FileError, match="cannot be read as a trained network"):
        quickly(tmp_path, "mlp(width=5)", "mlp(width=4)")
    with pytest.raises(OptionError, match="smaller depth"):
        quickly(tmp_path, "mlp(width=5)", "conv(depth=9)")
    for folder in (kept.file / "below", Path("/proc/cache")):
        with pytest.raises(FileError, match="cannot write"):
            quickly(folder, "mlp(width=5)")
    monkeypatch.setenv("DD_CACHE", str(kept.file))
    with pytest.raises(FileError, match="cannot write"):
        dd_plugins.distill(
            toy_data(),
            "metadd(dm, networks=(conv(width=4), vgg11(width=4)), stages=(1,))",
            steps=1,
        )


def test_mirrored_images_make_another_network(tmp_path: Path) -> None:
    files = {
        quickly(tmp_path, "mlp(width=4)", data=replace(toy_data(), mirror=mirror))[
            0
        ].file
        for mirror in (False, True, False)
    }
    assert len(files) == 2


def test_a_class_without_images_makes_another_network(tmp_path: Path) -> None:
    images, labels = torch.rand(12, 1, 8, 8), torch.arange(12) % 2
    files = set()
    for names in ("ab", "abc"):
        data = dd_plugins.RealData.from_values(images, labels, class_names=list(names))
        for _ in range(2):  # the second time it is found
            (report,) = train_networks(
                data, [get_network("mlp(width=2)")], stages=[1], folder=tmp_path
            )
            files.add(report.file)
    assert len(files) == 2


def test_what_is_no_network_or_data_is_one_line(tmp_path: Path) -> None:
    (kept,) = train_networks(
        toy_data(), get_network("mlp(width=4)"), stages=[np.int64(1)], folder=tmp_path
    )
    assert kept.steps == 1
    wrong: Any
    for wrong in ("mlp", ["mlp"]):
        with pytest.raises(OptionError, match="get_network"):
            next(train_networks(toy_data(), wrong))
    with pytest.raises(OptionError, match="RealData"):
        next(train_networks("digits", []))  # type: ignore[arg-type]
    for wrong in ([True], [1.5], ["3"]):
        with pytest.raises(OptionError, match="a stage must be a whole number"):
            next(train_networks(toy_data(), [], stages=wrong))
    for wrong in ({"stages": 3}, {"seeds": 3}, {"networks": 3}):
        ((name, _),) = wrong.items()
        told = rf"^{name} must be a list, got 3; pass \[3\]$"
        with pytest.raises(OptionError, match=told):
            next(train_networks(**({"data": toy_data(), "networks": []} | wrong)))
    with pytest.raises(OptionError, match="seeds: expected one or more numbers"):
        next(train_networks(toy_data(), [], seeds=()))


NETWORK = """
from dd_plugins import AbstractNetwork, record
from dd_plugins.networks.mlp import MLP
from {package}.parts import width

@record
class Own(AbstractNetwork):
    name = "own"
    def construct(self, image_shape, num_classes, *, generator):
        return MLP(width=width).construct(image_shape, num_classes, generator=generator)
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package under development, with a network that uses another of its files."""
    folder = tmp_path / "source" / "dd_under_development"
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder / "parts.py").write_text("width = 4\n")
    (folder / "network.py").write_text(NETWORK.format(package=folder.name))
    monkeypatch.syspath_prepend(str(folder.parent))
    yield folder
    for name in [each for each in sys.modules if each.startswith(folder.name)]:
        del sys.modules[name]


@pytest.mark.parametrize("changed", ["network.py", "parts.py", "new.py"])
def test_a_changed_plugin_s_networks_are_trained_anew(
    package: Path, tmp_path: Path, changed: str
) -> None:
    own = importlib.import_module(f"{package.name}.network").Own()
    cache = tmp_path / "cache"

    def obtained() -> TrainingReport:
        (kept,) = train_networks(toy_data(), own, stages=[1], folder=cache)
        return kept

    assert not obtained().was_there
    assert obtained().was_there
    before = code_of(own)
    with (package / changed).open("a") as file:
        file.write("# another line\n")
    assert code_of(own) not in ({}, before)
    wrapped = get_distiller("metadd(dm, networks=(mlp, vgg11))")
    assert code_of(replace(wrapped, networks=(own, get_network("mlp")))) == code_of(own)
    assert not obtained().was_there


def test_the_library_s_own_code_and_what_is_installed_have_no_source(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert code_of(get_network("conv"), get_distiller("metadd(frepo)")) == {}
    assert code_of(get_network("conv"), get_distiller("clip(dm)")) == {}
    own = importlib.import_module(f"{package.name}.network").Own()
    installed = package.parent.rename(package.parent.parent / "site-packages")
    monkeypatch.syspath_prepend(str(installed))
    for name in [each for each in sys.modules if each.startswith(package.name)]:
        del sys.modules[name]
    own = importlib.import_module(f"{package.name}.network").Own()
    assert code_of(own) != {}, "no distribution knows its version"
    described = installed / "under_development-2.5.dist-info"
    described.mkdir()
    (described / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: under-development\nVersion: 2.5\n"
    )
    (described / "top_level.txt").write_text(f"{package.name}\n")
    sources._installed.cache_clear()
    assert code_of(own) == {"under-development": "2.5"}
    sources._installed.cache_clear()


def test_a_network_that_is_not_finite_is_refused_and_not_kept(tmp_path: Path) -> None:
    recipe = get_recipe("recipe(steps=10, learning_rate=1e30, optimizer='sgd')")
    networks = train_networks(
        toy_data(), [get_network("mlp(width=4)")], recipe=recipe, folder=tmp_path
    )
    with pytest.raises(RunError, match=r"weights of mlp.* are not finite"):
        next(networks)
    assert not list(tmp_path.glob("*.safetensors"))


def test_a_kept_network_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    def trained() -> TrainingReport:
        networks = [get_network("mlp(width=4)")]
        return next(train_networks(toy_data(), networks, stages=[2], folder=tmp_path))

    trained()
    (file,) = tmp_path.glob("*.safetensors")
    tensors, described = load_tensors(file, what="a network", advice="")
    broken = {name: each + float("nan") for name, each in tensors.items()}
    save_tensors(file, broken, described)
    with pytest.raises(FileError, match="not finite; remove the file"):
        trained()
