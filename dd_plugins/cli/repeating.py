"""Whether the options of a run make its set again, and the file of these options."""

import json
from typing import TYPE_CHECKING

from dd_plugins.errors import OptionError

if TYPE_CHECKING:
    from dd_plugins.synthetic.header import Header

__all__ = ["check_run_repeats", "config_text"]


def config_text(header: "Header") -> str:
    """Return the TOML file for repeating a run by ``distill --config``.

    Args:
        header: the header of the set made by the run.

    Raises:
        OptionError: the set was imported or relabelled; or the run had a context, and
            the header describes it without its images.
    """
    check_run_repeats(header)
    run = header.run
    counts = run.images_per_class
    values = {
        "dataset": header.dataset.name,
        "image-size": header.dataset.image_size,
        "distiller": run.distiller,
        "ipc": list(counts) if isinstance(counts, tuple) else counts,
        "steps": run.steps,
        "seed": run.seed,
        "network": run.network,
        "initial-images": run.initial_images,
        "parametrization": run.parametrization,
        "preprocessing": run.preprocessing,
        "mirror": run.mirror,
        "precision": run.precision,
    }
    # TOML writes texts, numbers, lists of numbers and booleans as JSON does.
    lines = [
        f"{name} = {json.dumps(value, ensure_ascii=False)}\n"
        for name, value in values.items()
        if value is not None
    ]
    return "".join(lines)


def check_run_repeats(header: "Header") -> None:
    """Refuse a set that the options of its run do not make again.

    Raises:
        OptionError: the set was imported or relabelled, or has a context.
        UnknownNameError: the set has views, and no plugin registers its distiller.
    """
    if header.is_imported:
        raise OptionError("an imported set has no run to repeat")
    if header.context is not None:
        raise OptionError(
            "a set with a context needs the images of that context; no options alone "
            "repeat its run"
        )
    if header.views is not None and not _has_own_views(header):
        raise OptionError(
            "this set was relabelled, which the options of its run do not repeat; "
            "repeat the runs, relabel each set, and evaluate them one by one"
        )


def _has_own_views(header: "Header") -> bool:
    """Tell whether the views of a set and their teachers are named by its run."""
    from dd_plugins.distillers.base import AbstractDistiller
    from dd_plugins.plugins.lookup import get_distiller
    from dd_plugins.wrappers.base import base_of

    assert header.views is not None
    method = base_of(get_distiller(header.distiller))
    if type(method).teacher is AbstractDistiller.teacher:
        return False
    named = " ".join([header.network, *header.options.values()])
    teachers = [each.network for each in header.views.teachers]
    return all(each in named for each in (header.views.views, *teachers))
