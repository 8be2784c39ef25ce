"""Options of a run in a file, and the file that repeats a run."""

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Said

import dd_plugins
from dd_plugins.cli.repeating import config_text
from dd_plugins.cli.seeds import check_repeatable
from dd_plugins.errors import OptionError

Command = Callable[..., Said]


def test_a_set_s_own_file_repeats_its_run(in_process: Command, tmp_path: Path) -> None:
    first, again, file = tmp_path / "first", tmp_path / "again", tmp_path / "run.toml"
    options = ("--distiller", "dm(real_batch_size=8)", "--steps", "2", "--seed", "7")
    options += ("--network", "conv(width=4, depth=2)")
    in_process("distill", "--ipc", "1,2,1,1,1,1,1,1,1,3", *options, "--out", first)
    file.write_text(in_process("info", first, "--config").stdout)
    given = tomllib.loads(file.read_text())
    assert given["ipc"] == [1, 2, 1, 1, 1, 1, 1, 1, 1, 3]
    assert given["distiller"] == "dm(real_batch_size=8)"
    in_process("distill", "--config", file, "--out", again)
    hashes = [
        dd_plugins.DistilledSet.load(each).content_hash() for each in (first, again)
    ]
    assert hashes[0] == hashes[1]


def test_a_repeated_run_chooses_its_networks_again(
    in_process: Command, tmp_path: Path
) -> None:
    """FRePo's own network has another normalisation in an evaluation."""
    first, again, file = tmp_path / "first", tmp_path / "again", tmp_path / "run.toml"
    words = ("--distiller", "frepo(pool_size=2)", "--steps", "1")
    in_process("distill", *words, "--out", first)
    file.write_text(in_process("info", first, "--config").stdout)
    assert in_process("distill", "--config", file, "--out", again).status == 0
    made, repeated = map(dd_plugins.DistilledSet.load, (first, again))
    assert made.header.network != made.header.evaluation_network
    assert repeated.content_hash() == made.content_hash()


def test_the_command_line_comes_before_the_file(
    in_process: Command, tmp_path: Path
) -> None:
    file = tmp_path / "run.toml"
    text = 'distiller = "random"\nseed = 3\nbudget = 2560\nnetwork = "mlp(width=2)"\n'
    file.write_text(text)
    out = tmp_path / "run"
    in_process("distill", "--config", file, "--seed", "4", "--out", out)
    header = dd_plugins.DistilledSet.read_header(out)
    assert (header.distiller, header.seed) == ("random", 4)
    for size, images in ((["--ipc", "3"], 30), (["--images-worth", "2"], 20)):
        words = ["--config", file, *size, "--out", out, "--overwrite"]
        assert in_process("distill", *words).status == 0
        assert len(dd_plugins.DistilledSet.load(out)) == images, "not the budget's ten"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stps = 3", "run.toml: unknown option 'stps'; known, nearest first: steps"),
        ("steps 3", "run.toml must be a TOML file"),
        ('steps = "x"', "--steps"),
        ("steps = 100.7", "'100.7' is not a valid integer"),
        ("seed = true", "'True' is not a valid integer"),
        ("budget = 2560\nipc = 2", "budget"),
    ],
)
def test_a_wrong_file_is_refused(
    in_process: Command, tmp_path: Path, text: str, message: str
) -> None:
    file = tmp_path / "run.toml"
    file.write_text(text)
    ended = in_process("distill", "--config", file, "--out", tmp_path / "run")
    assert ended.status == 2
    assert message in ended.stderr


def test_a_set_with_a_context_has_no_file() -> None:
    small: dict[str, Any] = {"steps": 1, "network": "conv(width=4, depth=2)"}
    first = dd_plugins.distill("digits", "random", **small)
    both = dd_plugins.distill(
        "digits", "dm", context=first, refine_context=True, **small
    )
    with pytest.raises(OptionError, match="context"):
        config_text(both.header)


@pytest.mark.parametrize("observers", ['"tensorboard"', '["tensorboard"]'])
def test_repeated_options_are_a_list_in_a_file(
    in_process: Command, tmp_path: Path, observers: str
) -> None:
    file = tmp_path / "run.toml"
    network = "network = 'mlp(width=2)'"
    file.write_text(f"observe = {observers}\ndistiller = 'random'\n{network}\n")
    ended = in_process("distill", "--config", file, "--out", tmp_path / "run")
    assert "Value must be an iterable" not in ended.stderr
    assert ended.status == 0, ended.stderr


def test_an_imported_set_has_no_run_to_repeat() -> None:
    made = dd_plugins.DistilledSet.from_tensors(
        torch.rand(10, 1, 8, 8), torch.arange(10), dd_plugins.get_dataset("digits")
    )
    for refuse in (check_repeatable, lambda each: config_text(each.header)):
        with pytest.raises(OptionError, match="imported"):
            refuse(made)
