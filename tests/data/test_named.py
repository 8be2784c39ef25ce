"""Names of data sets, beside what test_real.py shows of malformed ones."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import dd_plugins
from dd_plugins import RealData, hookimpl
from dd_plugins.api import DataOptions, Plugins
from dd_plugins.data.named import split_name, usual_name
from dd_plugins.errors import DataError, OptionError, UnknownNameError
from dd_plugins.testing import toy_data


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("cifar10", ("cifar10", None)),
        ("9_a-b", ("9_a-b", None)),
        ("folder:/a b/C:d", ("folder", "/a b/C:d")),
        ("folder::", ("folder", ":")),
    ],
)
def test_a_name_ends_at_its_first_colon(
    name: str, parts: tuple[str, str | None]
) -> None:
    assert split_name(name) == parts


@pytest.mark.parametrize("name", ["-a", "_a", "a:", ".a", "ä", "a\n:b", "A:b"])
def test_a_name_of_another_form_is_shown_as_it_is(name: str) -> None:
    with pytest.raises(OptionError) as refused:
        split_name(name)
    assert repr(name) in str(refused.value)


@pytest.mark.parametrize("name", ["Digits", "DIGITS", "dig-its", "digits"])
def test_names_may_be_written_otherwise(name: str) -> None:
    assert dd_plugins.get_dataset(name).name == "digits"


def test_a_name_like_two_others_is_left_alone() -> None:
    assert usual_name("ab", ["a-b", "a_b"]) == "ab"
    assert usual_name("a-b", ["a-b", "a_b"]) == "a-b"
    assert usual_name("CIFAR-10.1", ["cifar10", "cifar10.1"]) == "cifar10.1"
    assert usual_name("other", ["cifar10"]) == "other"


def test_the_environment_names_the_folder_in_python_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[DataOptions] = []

    class Plugin:
        @hookimpl
        def dd_register_datasets(self, register: Any) -> None:
            def load(options: DataOptions) -> RealData:
                told.append(options)
                return toy_data()

            register("mine", load)

    monkeypatch.setenv("DD_DATA", str(tmp_path))
    plugins = Plugins(load=[], extra={"mine": Plugin()})
    dd_plugins.distill("mine", "random", plugins=plugins, network="mlp(width=2)")
    other = tmp_path / "other"
    options = {"plugins": plugins, "network": "mlp(width=2)", "data_root": other}
    dd_plugins.distill("mine", "random", **options)
    assert [each.root for each in told] == [tmp_path, other]


def test_a_folder_or_file_in_place_of_a_name_is_recognised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("shapes").mkdir()
    Path("blood.npz").touch()
    for name, told in (("shapes", "folder:shapes"), ("blood.npz", "npz:blood.npz")):
        with pytest.raises(UnknownNameError, match=f"of this name: '{told}'"):
            dd_plugins.get_dataset(name)
    with pytest.raises(UnknownNameError, match="unknown data set 'absent'") as raised:
        dd_plugins.get_dataset("absent")
    assert "of this name" not in str(raised.value)


@pytest.mark.parametrize("name", ["npz:none", "folder:none"])
def test_a_missing_path_is_told_with_every_place_searched(
    name: str, tmp_path: Path
) -> None:
    told = f"^none or {tmp_path / 'none'} does not exist: give a path from "
    with pytest.raises(DataError, match=told):
        dd_plugins.get_dataset(name, data_root=tmp_path)
    there = str(tmp_path / "none")
    with pytest.raises(DataError, match=f"^{there} does not exist"):
        dd_plugins.get_dataset(name.replace("none", there), data_root=tmp_path)


def test_one_process_fetches_a_data_set_and_the_others_wait(tmp_path: Path) -> None:
    class Slow:
        @hookimpl
        def dd_register_datasets(self, register: Any) -> None:
            register("slow", self.load)

        def load(self, options: DataOptions) -> RealData:
            assert options.root is not None
            with (options.root / "archive").open("x"):  # fails for a second process
                time.sleep(0.1)
            (options.root / "archive").unlink()
            return toy_data()

    plugins = Plugins(load=[], extra={"slow": Slow()})
    options = DataOptions(root=tmp_path, download=True)
    # A thread with a file of its own is locked out like a process.
    with ThreadPoolExecutor() as threads:
        found = list(threads.map(plugins.dataset, ["slow"] * 3, [options] * 3))
    assert [data.name for data in found] == ["slow"] * 3
