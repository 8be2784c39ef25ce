"""What both commands share."""

import io

import click
from click.testing import CliRunner
from rich.console import Console

from dd_plugins import options as shared
from dd_privacy.console import dataset_option, say


def test_a_line_is_plain_text() -> None:
    terminal = Console(width=20, file=io.StringIO(), force_terminal=True)
    say(terminal, "[red]a[/red] \x1b[2J " + "long " * 20)
    (line,) = terminal.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert line.startswith("[red]a[/red] \\x1b[2J long")


def test_options_have_one_name_in_both_commands() -> None:
    @click.command()
    @dataset_option
    @shared.overwrite
    def command(dataset: str, overwrite: bool) -> None:
        click.echo(f"{dataset} {overwrite}")

    def run(*words: str) -> str:
        return CliRunner().invoke(command, words).output.strip()

    assert run("--dataset", "digits") == "digits False"
    assert run("--dataset", "digits", "--overwrite") == "digits True"
    assert "Missing option '--dataset'" in run()
