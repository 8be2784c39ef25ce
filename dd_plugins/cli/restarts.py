"""Short runs from several seeds, of which validation images choose one."""

from pathlib import Path
from statistics import mean
from typing import Any

from dd_plugins.cli.printing import say
from dd_plugins.errors import OptionError

__all__ = ["best_seed"]

_NETWORKS = 3  # trained on the result of each short run


def best_seed(out: Path, restarts: int, restart_steps: int, **options: Any) -> int:
    """Return the seed whose short run serves networks best on validation images.

    The short runs are in a folder beside that of the run. Finished ones are found again
    when a command that was stopped is repeated with ``resume``.

    Args:
        out: the folder of the run.
        restarts: how many; their seeds follow that of the options.
        restart_steps: steps of each.
        **options: of ``distill``, but for its folder and its progress.

    Raises:
        OptionError: ``out`` holds a run already, no image is held out for validation,
            or the method is private.
    """
    from dd_plugins.data.named import DataOptions
    from dd_plugins.engine.distillation import distill
    from dd_plugins.engine.run_folder import check_folder
    from dd_plugins.evaluation.validating import validation_accuracies
    from dd_plugins.plugins.manager import loaded_plugins
    from dd_plugins.runtime import processes

    first, data = options.pop("seed"), options.pop("data")
    for name in ("steps", "observers", "checkpoint_seconds"):
        del options[name]
    writes = processes.rank() == 0
    if writes:
        check_folder(out, options["resume"], options["overwrite"])
    plugins = loaded_plugins()
    if plugins.distiller(options["distiller"]).private:
        raise OptionError(
            "--restarts chooses by real images, which the epsilon of a private method "
            "does not cover; leave it out"
        )
    names = ("data_root", "download", "image_size")
    root, download, size = (options[name] for name in names)
    where = DataOptions(root=root, download=download, image_size=size)
    if not len(plugins.real_data(data, where).validation.labels):
        raise OptionError(f"--restarts needs validation images: {data} has none")
    found: dict[int, float] = {}
    for seed in range(first, first + restarts):
        made = distill(
            data,
            out=out.with_name(f"{out.name}-restarts") / str(seed),
            seed=seed,
            steps=restart_steps,
            progress=True,
            **options,
        )
        scores = validation_accuracies(
            made,
            repeats=_NETWORKS,
            data=data,
            data_root=root,
            device=options["device"],
            precision=options["precision"],
        )
        found[seed] = processes.broadcast_object(mean(scores))
        if writes:
            each = ", ".join(f"{score:.4f}" for score in scores)
            say(f"seed {seed}: validation accuracy {found[seed]:.4f} ({each})")
    chosen = max(found, key=lambda seed: found[seed])
    if writes:
        say(f"seed {chosen} goes on")
    return chosen
