"""The command for listing the options of methods, networks and parametrizations."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dd_plugins.cli.printing import as_text, print_tables
from dd_plugins.runtime.text import with_article

if TYPE_CHECKING:
    from dd_plugins.plugins.option_table import Documented

__all__ = ["options_command"]


@click.command("options")
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def options_command(name: str | None, as_json: bool) -> None:
    """List the options of the method, network, attack or other record NAME.

    Without NAME, list every name a spec may use. Options go in the brackets of a spec:
    --distiller "frepo(pool_size=20, learning_rate=0.003)".
    """
    from dd_plugins.plugins.manager import loaded_plugins
    from dd_plugins.plugins.option_table import documented

    found = documented(loaded_plugins(), name)
    if as_json:
        click.echo(json.dumps([asdict(each) for each in found], indent=1))
    elif name:
        if len(found) > 1:
            kinds = " and ".join(with_article(each.kind) for each in found)
            click.echo(f"{found[0].name} names {kinds}; the options of each follow")
        print_tables(Console(), _tables(found))
    else:
        print_tables(Console(), [_summary(found)])


def _summary(found: "list[Documented]") -> Table:
    """Return a table of all names, with their kinds and summaries."""
    table = Table(title="options NAME tells the options of one of these")
    for column in ("what", "name", "in a sentence"):
        table.add_column(column, overflow="fold")
    for each in found:
        table.add_row(each.kind, as_text(each.name), as_text(each.summary))
    return table


def _tables(found: "list[Documented]") -> Iterator[Table | Text]:
    """Yield a title and a table for each record."""
    for each in found:
        yield as_text(f"{each.name}, {with_article(each.kind)}: {each.summary}")
        if not each.options:
            yield as_text("It has no options.")
            continue
        table = Table(show_lines=True)
        for column in ("option", "type", "default", "what it does"):
            table.add_column(column, overflow="fold")
        for option in each.options:
            default = "must be given" if option.default is None else option.default
            table.add_row(
                *map(as_text, (option.name, option.kind, default, option.sentence))
            )
        yield table
