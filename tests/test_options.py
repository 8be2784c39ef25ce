"""Options that commands share: each gives the parameter that its page names."""

from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from dd_plugins import options

PARAMETERS = {
    "real_data": "data",
    **{
        name: name
        for name in options.__all__
        if name not in ("given_on_command_line", "networks", "path_type", "real_data")
    },
}


def taken(name: str, *words: str, **environment: str) -> Any:
    """Return what a command with this option gets."""
    found: dict[str, Any] = {}

    @click.command()
    @getattr(options, name)
    def command(**given: Any) -> None:
        found.update(given)

    done = CliRunner().invoke(command, words, env=environment, standalone_mode=False)
    if done.exception:
        raise done.exception
    ((parameter, value),) = found.items()
    assert parameter == PARAMETERS[name]
    return value


@pytest.mark.parametrize(
    ("name", "default", "words", "value"),
    [
        ("data_root", None, ["--data-root", "a"], Path("a")),
        ("dataset", "digits", ["--dataset", "folder:x"], "folder:x"),
        ("device", "auto", ["--device", "cpu"], "cpu"),
        ("download", False, ["--download"], True),
        ("image_size", None, ["--image-size", "8"], 8),
        ("images_per_class", 1, ["--ipc", "3"], 3),
        ("initial_images", None, ["--initial-images", "noise"], "noise"),
        ("json_file", None, ["--json", "f"], Path("f")),
        ("mirror", None, ["--no-mirror"], False),
        ("mirror", None, ["--mirror"], True),
        ("overwrite", False, ["--overwrite"], True),
        ("parametrization", "identity", ["--parametrization", "packed"], "packed"),
        ("precision", "auto", ["--precision", "bfloat16"], "bfloat16"),
        ("preprocessing", None, ["--preprocessing", "zca"], "zca"),
        ("protocol", "auto", ["--protocol", "frepo"], "frepo"),
        ("real_data", None, ["--dataset", "digits"], "digits"),
        ("seed", 0, ["--seed", "-4"], -4),
        ("steps", None, ["--steps", "7"], 7),
    ],
)
def test_an_option_gives_a_value_of_its_kind(
    name: str, default: Any, words: list[str], value: Any
) -> None:
    assert taken(name, DD_DATA="") == default
    assert taken(name, *words) == value
    assert type(taken(name, *words)) is type(value)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("image_size", ["--image-size", "0"]),
        ("images_per_class", ["--ipc", "0"]),
        ("steps", ["--steps", "0"]),
        ("steps", ["--steps", "2.5"]),
        ("precision", ["--precision", "float16"]),
        ("preprocessing", ["--preprocessing", "whiten"]),
    ],
)
def test_a_value_out_of_its_range_is_refused(name: str, words: list[str]) -> None:
    with pytest.raises(click.BadParameter) as refused:
        taken(name, *words)
    assert words[0] in refused.value.format_message()


def test_the_folder_of_data_may_stand_in_the_environment() -> None:
    assert taken("data_root", DD_DATA="there") == Path("there")
    assert taken("data_root", "--data-root", "here", DD_DATA="there") == Path("here")


def test_what_the_command_line_gives_is_told_from_defaults_and_the_environment() -> (
    None
):
    found: list[str] = []

    @click.command()
    @options.data_root
    @options.real_data
    @options.device
    @options.mirror
    def command(**given: Any) -> None:
        found[:] = options.given_on_command_line(*given)

    def told(*words: str) -> list[str]:
        CliRunner().invoke(command, words, env={"DD_DATA": "x"}, catch_exceptions=False)
        return found.copy()

    assert told() == []
    assert told("--device", "auto") == ["--device"], "even if it is the default"
    everything = ["--data-root", "y", "--dataset", "z", "--no-mirror"]
    assert told(*everything) == ["--data-root", "--dataset", "--mirror"]


@pytest.mark.parametrize(
    "words",
    [
        ["--network", "mlp", "--network", "conv(width=8, depth=2)"],
        ["--networks", "mlp,conv(width=8, depth=2)"],
        ["--networks", "mlp", "--network", "conv(width=8, depth=2)"],
    ],
)
def test_architectures_are_repeated_or_listed(words: list[str]) -> None:
    found: tuple[str, ...] = ()

    @click.command()
    @options.networks("Architectures.")
    def command(networks: tuple[str, ...]) -> None:
        nonlocal found
        found = networks

    CliRunner().invoke(command, words, standalone_mode=False)
    assert found == ("mlp", "conv(width=8, depth=2)")
