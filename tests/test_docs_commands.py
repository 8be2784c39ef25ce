"""The commands of the docs, and the tables that benchmarks print."""

import json
import re
import shlex
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import click
from conftest import ROOT, run_code

from dd_plugins.cli.entry import command_line

DOCS = ROOT / "docs"
PAGES = [page for page in sorted(DOCS.rglob("*.md")) if "_build" not in page.parts]
PAGES += [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
BENCHMARKS = ROOT / "benchmarks"

BENCHMARK = """
import runpy, sys
from pathlib import Path

sys.argv = sys.argv[1:]
sys.path.insert(0, str(Path(sys.argv[0]).parent))
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def printed_by_benchmark(name: str, *words: object, folder: Path) -> str:
    """Return what a script of the benchmarks prints."""
    done = run_code(BENCHMARK, BENCHMARKS / name, *words, folder=folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    return done.stdout


def test_tables_of_methods_are_those_of_the_figures(tmp_path: Path) -> None:
    figures = DOCS / "benchmarks" / "methods.json"
    told = printed_by_benchmark("methods.py", "--table", figures, folder=tmp_path)
    page = (DOCS / "benchmarks" / "methods.md").read_text()
    for table in told.strip().split("\n\n"):
        assert table in page


def test_table_of_defaults_is_that_of_the_figures(tmp_path: Path) -> None:
    figures = DOCS / "benchmarks" / "defaults.json"
    told = printed_by_benchmark("table.py", figures, folder=tmp_path)
    assert told in (DOCS / "benchmarks" / "defaults.md").read_text()


def test_table_of_private_methods_is_that_of_the_figures(tmp_path: Path) -> None:
    figures = DOCS / "benchmarks" / "private.json"
    told = printed_by_benchmark("private.py", "--table", figures, folder=tmp_path)
    page = (DOCS / "benchmarks" / "privacy.md").read_text()
    assert set(told.splitlines()) <= set(page.splitlines())


def test_tables_of_audits_are_those_of_the_figures(tmp_path: Path) -> None:
    files = sorted((DOCS / "benchmarks" / "audits").glob("*.json"))
    assert len(files) > 2
    told = printed_by_benchmark("audits.py", *files, folder=tmp_path)
    rows = {line for line in told.splitlines() if line.startswith("|")}
    page = (DOCS / "benchmarks" / "privacy.md").read_text()
    assert rows <= set(page.splitlines())


def test_table_of_shadow_runs_is_that_of_the_figures(tmp_path: Path) -> None:
    folder = DOCS / "benchmarks" / "shadow-runs"
    files = [folder / "mnist.json", folder / "fashion-mnist.json"]
    told = printed_by_benchmark("audits.py", "--rates", *files, folder=tmp_path)
    assert told.strip() in (DOCS / "benchmarks" / "privacy.md").read_text()


def documented_commands(start: str) -> list[list[str]]:
    """Return the words of each command of the docs, behind a start.

    Args:
        start: a regular expression of what the lines of commands start with.
    """
    found = []
    for page in PAGES:
        lines = iter(page.read_text().splitlines())
        for line in lines:
            started = re.fullmatch(rf"    (?:\w+=\S+ )*{start}(\w.*)", line)
            if started is None:
                continue
            command = started[1]
            while command.endswith("\\") or command.count('"') % 2:
                command = command.removesuffix("\\") + next(lines)
            words = shlex.split(command.partition(" > ")[0], comments=True)
            found.append(
                [
                    word
                    for before, word in pairwise(["", *words])
                    if word != "..." or before.startswith("--")
                ]
            )
    return found


def test_tables_of_transfer_are_those_of_the_figures(tmp_path: Path) -> None:
    commands = [
        words
        for words in documented_commands("python benchmarks/")
        if words[0] == "transfer.py" and "test" in words
    ]
    small = ["--image-size" in words for words in commands]
    assert True in small
    assert False in small
    page = abbreviated((DOCS / "benchmarks" / "transfer.md").read_text())
    for words, is_small in zip(commands, small, strict=True):
        figures = "transfer.json" if is_small else "transfer-full-size.json"
        own = {"FILE.json": str(DOCS / "benchmarks" / figures), "...": "frepo"}
        named = [own.get(word, word) for word in words]
        told = printed_by_benchmark(*named, "--table", folder=tmp_path)
        assert abbreviated(told) in page


def abbreviated(text: str) -> str:
    """Return a text with the letters that the tables use for two networks."""
    return text.replace("vgg11(width=16)", "V").replace("dc_convnet(width=32)", "D")


def test_documented_commands_are_taken() -> None:
    commands = documented_commands("dd-plugins ")
    assert len(commands) > 60
    for words in commands:
        if "--config" in words:  # it would be read
            continue
        if words[0] == "labels":  # of the template, which is not installed
            continue
        with command_line.make_context("dd-plugins", words) as context:
            name, command, rest = command_line.resolve_command(
                context, [*context._protected_args, *context.args]
            )
            assert command is not None, words
            with suppress(click.exceptions.Exit):  # of ``--help``
                command.make_context(name, rest, parent=context)


PARSED = """
import argparse, json, runpy, sys

class Parsed(Exception):
    pass

known = argparse.ArgumentParser.parse_args

def parse(*given):
    known(*given)
    raise Parsed

argparse.ArgumentParser.parse_args = parse
folder, commands = sys.argv[1], json.loads(sys.argv[2])
sys.path.insert(0, folder)
for script, *words in commands:
    sys.argv[:] = [script, *words]
    try:
        runpy.run_path(f"{folder}/{script}", run_name="__main__")
    except Parsed:
        print("parsed", flush=True)
    except SystemExit:
        raise SystemExit(f"refused: {sys.argv}")
"""


def test_documented_benchmarks_are_taken(tmp_path: Path) -> None:
    commands = [
        command
        for command in documented_commands("python benchmarks/")
        if "argparse" in (BENCHMARKS / command[0]).read_text()
    ]
    assert len(commands) > 40
    done = run_code(PARSED, BENCHMARKS, json.dumps(commands), folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["parsed"] * len(commands)
