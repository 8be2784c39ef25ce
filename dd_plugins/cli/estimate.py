"""The command for estimating the cost of a distillation."""

from pathlib import Path
from typing import Any

import click

from dd_plugins import options as shared
from dd_plugins.cli.outputs import check_outputs
from dd_plugins.cli.printing import say, write_json
from dd_plugins.cli.run_options import context_of, run_options, size_of
from dd_plugins.runtime.text import duration_text, size_text

__all__ = ["estimate_command"]


@click.command("estimate")
@run_options
@shared.json_file
@shared.overwrite
def estimate_command(
    images_per_class: int | str,
    budget: int | None,
    images_worth: int | None,
    context: Path | None,
    json_file: Path | None,
    overwrite: bool,
    **options: Any,
) -> None:
    """Estimate the time, memory and disk space of a distillation.

    It takes the options of distill, prepares everything as for the run, and makes some
    of its steps.
    """
    from dd_plugins.engine.distillation import estimate

    check_outputs((json_file, "JSON"), inputs=(), overwrite=overwrite)
    found = estimate(
        options.pop("dataset"),
        context=context_of(context),
        **size_of(images_per_class, budget, images_worth),
        **options,
    )
    say(found.line())
    say(f"before the first step: {duration_text(found.preparation_seconds)}")
    say(f"each step: {duration_text(found.step_seconds)}")
    say(f"validation on the way: {duration_text(found.validation_seconds)}")
    say(
        f"memory at its peak, that of Python and torch included: {found.memory:,} bytes"
    )
    say(f"files: {size_text(found.disk)}")
    write_json(json_file, found.as_dict())
