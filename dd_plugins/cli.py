"""The entry of the command line: finds commands by their hook, and reports errors."""

import os
import sys
import traceback

import click

from dd_plugins.errors import DDError
from dd_plugins.plugins import loaded_plugins
from dd_plugins.text import plain

__all__ = ["main"]


class _PluginGroup(click.Group):
    """A group whose commands are those that plugins register."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return loaded_plugins().commands.names()

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command:
        del ctx
        return loaded_plugins().commands.get(cmd_name)


@click.group(cls=_PluginGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.version_option(package_name="dd-plugins")
def command_line(debug: bool) -> None:
    """Dataset distillation: learn a tiny synthetic set that trains almost as well."""
    del debug  # read before click starts, so that it also serves errors while loading
    for plugin in loaded_plugins().failures:
        click.echo(f"Warning: plugin {plugin} was not loaded: {plugin.error}", err=True)


def main(arguments: list[str] | None = None) -> None:
    """Run ``dd-plugins``; end the process with 0, 1 for a failure, 2 for wrong use."""
    words = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    try:
        command_line.main(words, prog_name="dd-plugins", standalone_mode=False)
    except click.exceptions.Exit as exit_request:
        sys.exit(exit_request.exit_code)
    except (click.Abort, KeyboardInterrupt):
        _end("stopped; give the same words again, with --resume if it has that", 130)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        sys.exit(error.exit_code)
    except click.ClickException as error:
        _show_traceback(debug)
        context = getattr(error, "ctx", None)  # of usage errors only
        usage = f" (see '{context.command_path} --help')" if context else ""
        message = " ".join(error.format_message().split())  # click's may have lines
        _end(f"{message}{usage}", error.exit_code)
    except DDError as error:
        _show_traceback(debug)
        _end(str(error), error.exit_status)
    except Exception as error:
        _show_traceback(debug)
        reason = " ".join(str(error).split())
        _end(f"{type(error).__name__}: {reason}; --debug shows the traceback", 1)


def _show_traceback(wanted: bool) -> None:
    if wanted:
        traceback.print_exc()


def _end(message: str, status: int) -> None:
    # Under torchrun several processes speak; only torchrun sets this variable.
    rank = os.environ.get("RANK", "0")
    speaker = "Error" if rank == "0" else f"Error in process {rank}"
    click.echo(f"{speaker}: {plain(message)}", err=True)
    sys.exit(status)


if __name__ == "__main__":
    main()
