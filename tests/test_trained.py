"""Networks trained on real data are kept and found again."""

from pathlib import Path

import pytest
from conftest import Command

import dd_plugins
from dd_plugins import get_network
from dd_plugins.errors import OptionError
from dd_plugins.testing import toy_data
from dd_plugins.trained import cache_folder, train_networks

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


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("--network", "vgg12"),
            "unknown network 'vgg12'; known, nearest first: vgg11",
        ),
        (("--network", "alexnet", "--dataset", "nothing"), "unknown data set"),
        ((), "Missing option '--network'"),
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
        toy_data(), [get_network("mlp(width=16)")], stages=[60], folder=tmp_path
    )
    assert report.validation_accuracy is not None
    assert report.validation_accuracy > 0.9
    for stages in ([], [3, 0]):
        with pytest.raises(OptionError, match="stages must be one or more steps"):
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
    wrapped = f"metadd(random, {options})"
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
