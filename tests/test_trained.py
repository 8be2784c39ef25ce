"""Networks trained on real data are kept and found again."""

from pathlib import Path

import pytest
from conftest import Command

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
    assert first.stdout.startswith("vgg11(width=4): trained, validation 0.")
    second = command_line(
        *WORDS, "--network", "vgg11(width=4)", "--network", "mlp(width=8)"
    )
    kept, trained = second.stdout.splitlines()
    assert kept == first.stdout.strip().replace(": trained,", ": kept before,")
    assert trained.startswith("mlp(width=8): trained, validation 0.")
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
        toy_data(), [get_network("mlp(width=16)")], steps=60, folder=tmp_path
    )
    assert report.validation_accuracy is not None
    assert report.validation_accuracy > 0.9
    with pytest.raises(OptionError, match="steps must be at least 1"):
        next(train_networks(toy_data(), [], steps=0))


def test_cache_is_the_user_s_unless_another_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DD_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"
    monkeypatch.delenv("DD_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "dd-plugins"
