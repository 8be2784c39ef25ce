"""The command line ends with one line and a status, whatever a command does."""

import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import click
import pytest

from dd_plugins import hookimpl
from dd_plugins.api import (
    DataError,
    DDWarning,
    DistributedCommand,
    FileError,
    MissingExtraError,
    OptionError,
    PluginError,
    RunError,
    UnknownNameError,
)
from dd_plugins.cli.entry import command_line, main
from dd_plugins.plugins.commands import Commands
from dd_plugins.plugins.manager import Plugins


class Ended(NamedTuple):
    status: int | None
    out: str
    err: str


Try = Callable[..., Ended]


def use_plugins(monkeypatch: pytest.MonkeyPatch, extra: dict[str, object]) -> Plugins:
    """Let the command line find these plugins alone, and return them."""
    plugins, commands = Plugins([], extra), Commands([], extra)
    home = "dd_plugins.plugins.manager.loaded_plugins"
    monkeypatch.setattr(home, lambda: plugins)
    monkeypatch.setattr("dd_plugins.cli.entry.installed_commands", lambda: commands)
    return plugins


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Try:
    """Run a command that does what it is given."""
    monkeypatch.delenv("RANK", raising=False)

    def run(action: Callable[[], Any], *words: str) -> Ended:
        @click.command("try")
        @click.option("--number", type=int)
        def command(number: int | None) -> Any:
            return action()

        class Plugin:
            @hookimpl
            def dd_register_commands(self, register: Any) -> None:
                register(command)

        use_plugins(monkeypatch, {"mine": Plugin()})
        status = None
        try:
            main(["try", *words])
        except SystemExit as ended:
            status = int(str(ended.code))
        return Ended(status, *capsys.readouterr())

    return run


def raising(error: BaseException) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (OptionError("a\x1b[2J b"), 2),
        (UnknownNameError("b"), 2),
        (DataError("c"), 1),
        (FileError("d\ne"), 1),
        (RunError("e"), 1),
        (PluginError("f"), 1),
        (MissingExtraError("g"), 1),
        (click.BadParameter("h\n\ni"), 2),
        (click.ClickException("i"), 1),
        (KeyError("j"), 1),
        (ZeroDivisionError("division\nby zero"), 1),
        (KeyboardInterrupt(), 130),
        (click.Abort(), 130),
    ],
    ids=repr,
)
def test_an_error_is_one_line_and_its_status(
    tried: Try, error: BaseException, status: int
) -> None:
    ended = tried(raising(error))
    assert (ended.status, ended.out) == (status, "")
    (line,) = ended.err.strip().splitlines()
    assert line.startswith("Error: ")
    assert line.isprintable()
    foreseen = not isinstance(error, KeyError | ZeroDivisionError)
    assert (type(error).__name__ in line) is not foreseen, "strangers are named"
    assert ("--debug" in line) is not foreseen


def test_a_command_without_resume_is_run_again_after_an_interruption(
    tried: Try,
) -> None:
    assert tried(raising(KeyboardInterrupt())).err.endswith("to go on, run it again\n")


@pytest.mark.parametrize("words", [["--help"], ["distil", "--ipc", "1"], []])
def test_an_interruption_before_any_command_is_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command_line, "main", interrupted)
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 130
    assert capsys.readouterr().err.endswith("to go on, run it again\n")


@pytest.mark.parametrize("place", [0, 1])
def test_the_traceback_is_shown_if_it_is_asked_for_anywhere(
    tried: Try, place: int
) -> None:
    words = ["--number", "3"]
    words.insert(2 * place, "--debug")
    for error in (RunError("boom"), IndexError("boom")):
        ended = tried(raising(error), *words)
        assert "Traceback" in ended.err
        assert ended.err.splitlines()[-1].startswith("Error: ")
    assert "Traceback" not in tried(raising(RunError("boom"))).err


def test_wrong_words_name_the_help_of_their_command(tried: Try) -> None:
    ended = tried(lambda: None, "--number", "three")
    assert ended.status == 2
    (line,) = ended.err.splitlines()
    assert "three" in line
    assert "dd-plugins try --help" in line


@pytest.mark.parametrize(("rank", "speaker"), [("0", "Error:"), ("3", "process 3")])
def test_each_process_of_several_says_which_it_is(
    tried: Try, rank: str, speaker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", rank)
    assert speaker in tried(raising(RunError("boom"))).err


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Show warnings as Python does, which pytest collects else."""

    def show(message: Any, category: Any, filename: Any, lineno: Any, *_: Any) -> None:
        text = warnings.formatwarning(message, category, filename, lineno)
        sys.stderr.write(text)

    monkeypatch.setattr(warnings, "showwarning", show)


def warning(category: type[Warning], text: str) -> Callable[[], None]:
    def warn() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn(text, category, stacklevel=1)

    return warn


@pytest.mark.usefixtures("shown")
def test_our_warnings_are_a_line_and_others_stay_as_python_shows_them(
    tried: Try,
) -> None:
    before = warnings.formatwarning
    ended = tried(warning(DDWarning, "take care"))
    assert (ended.status, ended.err) == (None, "Warning: take care\n")
    assert __file__ in tried(warning(UserWarning, "something else")).err
    tried(raising(RunError("boom")))
    assert warnings.formatwarning is before


@pytest.mark.usefixtures("shown")
def test_a_warning_moves_no_cursor(tried: Try) -> None:
    ended = tried(warning(DDWarning, "run\x1b[2J/set is lost"))
    assert "is lost" in ended.err
    assert "\x1b" not in ended.err


class Fine:
    @hookimpl
    def dd_register_commands(self, register: Any) -> None:
        register(click.Command("go", callback=lambda: click.echo("done")))


def test_a_plugin_that_failed_is_told_and_stops_no_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plugins = use_plugins(monkeypatch, {"fine": Fine()})
    last = plugins.plugins[0]
    last.error = "ImportError: no such thing"
    main(["go"])
    out, err = capsys.readouterr()
    assert out == "done\n"
    (line,) = err.splitlines()
    assert str(last) in line
    assert last.error in line


class Together:
    @hookimpl
    def dd_register_commands(self, register: Any) -> None:
        register(DistributedCommand("together", callback=lambda: click.echo("done")))


def test_distributed_commands_of_strangers_alone_run_under_torchrun(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_plugins(monkeypatch, {"fine": Fine(), "together": Together()})
    monkeypatch.setenv("WORLD_SIZE", "2")
    main(["together"])
    assert capsys.readouterr().out == "done\n"
    with pytest.raises(SystemExit):
        main(["go"])
    out, err = capsys.readouterr()
    assert out == ""
    assert "go works in one process, got 2: start it without torchrun" in err


def test_a_command_goes_with_the_plugin_that_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plugins = use_plugins(monkeypatch, {"fine": Fine()})
    plugins.commands.discard(plugins.plugins[-1])
    with pytest.raises(SystemExit):
        main(["go"])
    assert "unknown command 'go'" in capsys.readouterr().err


def test_help_groups_commands_and_a_stranger_s_come_last(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_plugins(monkeypatch, {"fine": Fine()})
    main(["--help"])
    text = capsys.readouterr().out
    places = [text.index(heading) for heading in ("Distil:", "Look up:", "Commands of")]
    assert places == sorted(places)
    assert text.index("  go") > places[-1]


LIGHT = (
    *("transfer", "relabel", "import"),
    *("train-experts", "train-networks", "train-generator"),
    *("show", "info", "export", "push-to-hub"),
    *("audit", "train-private", "continual"),
)


IN_TURN = """
import json
import sys
from dd_plugins.cli.entry import main
for words, status in json.load(sys.stdin):
    try:
        main(words)
    except SystemExit as ended:
        assert ended.code == status, words
    assert 'torch' not in sys.modules, words
"""


def test_help_and_typos_import_no_torch() -> None:
    commands = [
        (["--help"], 0),
        (["--version"], 0),
        (["distill", "--help"], 0),
        (["evaluate", "--help"], 0),
        *(([name, "--help"], 0) for name in LIGHT),
        (["distil"], 2),
        (["distill", "--stps", "3"], 2),
    ]
    done = subprocess.run(
        [sys.executable, "-c", IN_TURN],
        input=json.dumps(commands),
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr


def test_names_are_completed_after_a_command_has_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DD_CACHE", str(tmp_path))
    use_plugins(monkeypatch, {"fine": Fine()})
    distill = command_line.get_command(click.Context(command_line), "distill")
    assert distill is not None
    option = next(each for each in distill.params if each.name == "distiller")

    def completions(begun: str) -> list[str]:
        found = option.shell_complete(click.Context(distill), begun)
        return [each.value for each in found]

    assert completions("fre") == []
    main(["go"])
    capsys.readouterr()
    assert completions("fre") == ["frepo"]
    assert completions("metadd(fre") == ["metadd(frepo"]
    assert completions("metadd(frepo, weight=0.5") == []


def test_notes_of_an_error_are_shown(tried: Try) -> None:
    error = KeyError("blobs")
    error.add_note("at step 3\n of mine")
    ended = tried(raising(error))
    assert ended.err == (
        "Error: KeyError: 'blobs', at step 3 of mine; --debug shows the traceback\n"
    )
