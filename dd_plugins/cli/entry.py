"""The entry point of the command line: it finds commands and reports errors."""

import errno
import os
import re
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from typing import Any

import click

from dd_plugins.errors import DDError, DDWarning, UnknownNameError, described
from dd_plugins.plugins.commands import installed_commands
from dd_plugins.plugins.distributed_command import DistributedCommand
from dd_plugins.plugins.lazy_command import PLUGINS_SECTION, LazyCommand
from dd_plugins.plugins.registry import Plugin
from dd_plugins.runtime.completion import keep_names
from dd_plugins.runtime.text import plain

__all__ = ["command_line", "main"]


SECTIONS = ("Distil", "Compare", "Prepare", "Privacy", "Look up")
"""The headings of the list of commands, in order; others follow."""

_EXAMPLES = """\b
Examples:
  dd-plugins distill --dataset digits --ipc 1 --out runs/digits
  dd-plugins evaluate runs/digits --baselines
  dd-plugins show runs/digits
"""


class _PluginGroup(click.Group):
    """A group of the commands registered by plugins.

    Listing the commands imports neither torch nor their modules. Running a command
    loads all plugins first.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return installed_commands().commands.names()

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command:
        del ctx
        listed = installed_commands()
        try:
            command = listed.commands.get(cmd_name)
        except UnknownNameError:
            _tell_failures(listed.failures)
            raise
        if isinstance(command, LazyCommand):
            command = command.resolve()
        return _with_all_plugins(command)

    def format_commands(
        self, ctx: click.Context, formatter: click.HelpFormatter
    ) -> None:
        listed = installed_commands()
        _tell_failures(listed.failures)
        commands = [listed.commands.get(name) for name in listed.commands.names()]
        found: dict[str, list[click.Command]] = {section: [] for section in SECTIONS}
        for command in commands:
            section = getattr(command, "section", PLUGINS_SECTION)
            found.setdefault(section, []).append(command)
        for section, members in found.items():
            if members:
                with formatter.section(section):
                    formatter.write_dl(
                        [
                            (str(each.name), each.get_short_help_str(limit=60))
                            for each in members
                        ]
                    )


def _with_all_plugins(command: click.Command) -> click.Command:
    """Copy a command, and let the copy load all plugins before it runs.

    Its help and its errors about options need no plugin. Several processes of torchrun
    run distributed commands alone.
    """
    loading = copy(command)

    def callback(*arguments: Any, **options: Any) -> Any:
        from dd_plugins.plugins.manager import loaded_plugins
        from dd_plugins.runtime.processes import check_alone

        if not isinstance(command, DistributedCommand):
            check_alone(str(command.name))
        plugins = loaded_plugins()
        _tell_failures(plugins.failures)
        keep_names(plugins.names())
        plugins.commands.get(str(command.name))  # raises if its plugin has failed
        given = command.callback
        return None if given is None else given(*arguments, **options)

    loading.callback = callback
    return loading


def _tell_failures(failures: list[Plugin]) -> None:
    """Warn about plugins that could not be loaded."""
    for plugin in failures:
        line = f"Warning: plugin {plugin} was not loaded: {plugin.error}"
        click.echo(plain(line), err=True)


@click.group(
    cls=_PluginGroup,
    epilog=_EXAMPLES,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "max_content_width": 100,
    },
)
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.version_option(package_name="dd-plugins")
def command_line(debug: bool) -> None:
    """Dataset distillation: learn a tiny synthetic set in place of a large real one."""
    del debug  # main reads it first, so it also covers errors while loading


def main(arguments: list[str] | None = None) -> None:
    """Run ``dd-plugins``; on an error, end the process.

    The exit status is 0, 1 for a failure, 2 for incorrect use, or 130 for an
    interruption.
    """
    words = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    try:
        with _warnings_in_a_line():
            command_line.main(words, prog_name="dd-plugins", standalone_mode=False)
    except click.exceptions.Exit as exit_request:
        sys.exit(exit_request.exit_code)
    except (click.Abort, KeyboardInterrupt):
        again = "the same command with --resume" if _resumes(words) else "it again"
        _end(f"interrupted; to go on, run {again}", 130)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        sys.exit(error.exit_code)
    except click.ClickException as error:
        _show_traceback(debug)
        context = getattr(error, "ctx", None)  # only usage errors have it
        usage = f" (see '{context.command_path} --help')" if context else ""
        message = " ".join(error.format_message().split())  # click's may span lines
        _end(f"{message}{usage}", error.exit_code)
    except DDError as error:
        _show_traceback(debug)
        _end(str(error), error.exit_status)
    except Exception as error:
        _show_traceback(debug)
        if _is_out_of_memory(error):
            _end(_memory_advice(error), 1)
        notes = [" ".join(note.split()) for note in getattr(error, "__notes__", [])]
        told = ", ".join([described(error), *notes])
        _end(f"{told}; --debug shows the traceback", 1)


def _resumes(words: list[str]) -> bool:
    """Tell whether the command of a command line has ``--resume``."""
    name = next((word for word in words if not word.startswith("-")), "")
    try:
        command = command_line.get_command(click.Context(command_line), name)
    except DDError:  # an unknown command, or none
        return False
    return command is not None and any(
        "--resume" in option.opts for option in command.params
    )


@contextmanager
def _warnings_in_a_line() -> Iterator[None]:
    """Show the library's own warnings without file name and line number."""
    before = warnings.formatwarning

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        line: str | None = None,
    ) -> str:
        if issubclass(category, DDWarning):
            return f"Warning: {plain(str(message))}\n"
        return before(message, category, filename, lineno, line)

    warnings.formatwarning = show
    try:
        yield
    finally:
        warnings.formatwarning = before


_NO_MEMORY = re.compile(
    r"can't allocate memory|cannot allocate memory|not enough memory|out of memory"
    r"|std::bad_alloc|CUBLAS_STATUS_ALLOC_FAILED",
    re.IGNORECASE,
)
_ASKED = re.compile(
    r"(?:tried|unable) to allocate (?P<amount>[\d.]+) ?(?P<unit>bytes|[KMGT]?i?B)",
    re.IGNORECASE,
)


def _is_out_of_memory(error: Exception) -> bool:
    """Tell whether Python, NumPy, torch or the system ran out of memory."""
    torch = sys.modules.get("torch")  # not imported here: it takes seconds
    if isinstance(error, MemoryError):
        return True
    if torch is not None and isinstance(error, torch.OutOfMemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and bool(_NO_MEMORY.search(str(error)))


def _memory_advice(error: Exception) -> str:
    """Return advice on memory, with the amount requested if it is known."""
    found = _ASKED.search(str(error))
    asked = ""
    if found:
        amount, unit = found["amount"], found["unit"]
        if unit.lower() == "bytes":
            amount, unit = f"{float(amount) / 1e9:.3g}", "GB"
        asked = f" ({amount} {unit} more asked for)"
    return (
        f"out of memory{asked}; take less of it by a narrower network, smaller images, "
        "or a smaller real_batch_size or pool_size; or free some, and go on from a "
        "run's last checkpoint by the same command with --resume"
    )


def _show_traceback(wanted: bool) -> None:
    if wanted:
        traceback.print_exc()


def _end(message: str, status: int) -> None:
    # Under torchrun several processes report; only torchrun sets this variable.
    rank = os.environ.get("RANK", "0")
    speaker = "Error" if rank == "0" else f"Error in process {rank}"
    click.echo(f"{speaker}: {plain(message)}", err=True)
    sys.exit(status)


if __name__ == "__main__":
    main()
