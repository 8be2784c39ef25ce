"""Short runs from several seeds; validation accuracy selects the best of them."""

import json
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dd_plugins.cli.printing import say
from dd_plugins.errors import OptionError

if TYPE_CHECKING:
    from dd_plugins.synthetic.artifact import DistilledSet

__all__ = ["best_seed"]

_NETWORKS = 3  # trained on the result of each short run
_KEPT = "validation.json"


def best_seed(out: Path, restarts: int, restart_steps: int, **options: Any) -> int:
    """Return the seed whose short run trains networks best, by validation accuracy.

    The short runs are kept in a folder beside the folder of the run. If a stopped
    command is repeated with ``resume``, finished short runs and their accuracies are
    used again.

    Args:
        out: the folder of the run.
        restarts: the number of short runs; their seeds count up from the given seed.
        restart_steps: the number of steps of each short run.
        **options: the arguments of ``distill``, except its folder and its progress.

    Raises:
        OptionError: ``out`` holds a run already, no image is held out for validation,
            or the method is private.
    """
    from dd_plugins.data.named import DataOptions
    from dd_plugins.engine.distillation import distill
    from dd_plugins.engine.run_folder import check_folder
    from dd_plugins.evaluation.evaluate import EvaluationOptions, prepare_evaluation
    from dd_plugins.plugins.manager import loaded_plugins
    from dd_plugins.runtime import processes

    first = options.pop("seed")
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
    where = {name: options.pop(name) for name in ("download", "image_size")}
    root = options["data_root"]
    data = plugins.real_data(options.pop("data"), DataOptions(root=root, **where))
    if not len(data.validation.labels):
        raise OptionError(f"--restarts needs validation images: {data.name} has none")
    out = out.resolve()  # "." has no name, and ".." not its own
    found: dict[int, float] = {}
    for seed in range(first, first + restarts):
        folder = out.with_name(f"{out.name}-restarts") / str(seed)
        made = distill(
            data,
            out=folder,
            seed=seed,
            steps=restart_steps,
            progress=True,
            **options,
        )
        kept = writes and options["resume"]
        accuracies = _kept_accuracies(folder, made) if kept else None
        accuracies = processes.broadcast_object(accuracies)
        if accuracies is None:
            evaluation = prepare_evaluation(
                made,
                (),
                EvaluationOptions(
                    repeats=_NETWORKS,
                    data=data,
                    data_root=root,
                    validation=True,
                    device=options["device"],
                    precision=options["precision"],
                    plugins=plugins,
                    compare_labels=False,
                ),
            )()
            (scores,) = evaluation.networks
            accuracies = list(scores.accuracies)
            if writes:
                _keep_accuracies(folder, made, accuracies)
        found[seed] = statistics.mean(accuracies)
        if writes:
            each = ", ".join(f"{score:.4f}" for score in accuracies)
            say(f"seed {seed}: validation accuracy {found[seed]:.4f} ({each})")
    chosen = max(found, key=lambda seed: found[seed])
    if writes:
        say(f"seed {chosen} goes on")
    return chosen


def _kept_accuracies(folder: Path, made: "DistilledSet") -> list[float] | None:
    """Return the accuracies kept for exactly this set, or None."""
    try:
        kept = json.loads((folder / _KEPT).read_text())
        accuracies: list[float] = kept["accuracies"]
        sound = len(accuracies) == _NETWORKS and all(
            0 <= each <= 1 for each in accuracies
        )
        if sound and kept["content_hash"] == made.content_hash():
            return accuracies
    except (OSError, ValueError, KeyError, TypeError):
        pass  # missing or damaged: networks are trained again
    return None


def _keep_accuracies(
    folder: Path, made: "DistilledSet", accuracies: list[float]
) -> None:
    """Write the accuracies beside the set."""
    from dd_plugins.runtime.files import write_atomically

    kept = {"content_hash": made.content_hash(), "accuracies": accuracies}
    text = json.dumps(kept) + "\n"
    write_atomically(folder / _KEPT, lambda file: file.write(text.encode()))
