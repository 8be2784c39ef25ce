"""A run in Weights & Biases: curves, pictures and settings."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from dd_plugins.errors import MissingExtraError
from dd_plugins.run import Run
from dd_plugins.runtime.files import write_atomically
from dd_plugins.spec import record
from dd_plugins.synthetic.artifact import DistilledSet
from dd_plugins.tracking.base import AbstractObserver
from dd_plugins.tracking.pacing import PacedObservation, Setting

__all__ = ["WandB"]

_ID_NAME = "wandb-run.txt"  # in the folder of the run


@record
class WandB(AbstractObserver):
    """Sends figures, pictures and settings to Weights & Biases, at once or later.

    A run resumed from a checkpoint continues its run there. The log of wandb itself is
    in ``wandb`` in the folder of the run, or else in the current folder. The login
    works as usual; without a connection the run goes on, with a warning.

    Args:
        project: the project on Weights & Biases.
        entity: the user or the team; by default the one logged in.
        title: the name of the run on Weights & Biases; by default wandb's choice.
        mode: ``"online"``, or ``"offline"`` to write to the disk only, for
            ``wandb sync``.
    """

    name = "wandb"

    project: str = "dd-plugins"
    entity: str | None = None
    title: str | None = None
    mode: Literal["online", "offline"] = "online"

    def check(self, run: Run) -> None:
        """Refuse to begin without wandb.

        Raises:
            MissingExtraError: wandb is not installed.
        """
        del run
        _wandb()

    def observe(self, run: Run, first_step: int) -> "_Sent":
        """Begin a run of wandb, or continue one."""
        wandb = _wandb()
        noted = None if run.out is None else run.out / _ID_NAME
        goes_on = first_step > 0 and noted is not None and noted.exists()
        theirs = wandb.init(
            project=self.project,
            entity=self.entity,
            name=self.title,
            mode=self.mode,
            dir=run.out or Path.cwd(),
            id=noted.read_text().strip() if noted is not None and goes_on else None,
            resume="allow" if goes_on else None,
            reinit="create_new",  # a run of the caller's own stays as it is
            settings=wandb.Settings(console="off", silent=not run.progress),
        )
        if noted is not None:
            content = theirs.id.encode()
            write_atomically(noted, lambda file: file.write(content))
        return _Sent(run, first_step, wandb, theirs)


class _Sent(PacedObservation):
    """The data sent by one run."""

    def __init__(self, run: Run, first_step: int, wandb: Any, theirs: Any) -> None:
        super().__init__(run, first_step)
        self._wandb, self._theirs = wandb, theirs

    def write_settings(self, settings: dict[str, Setting]) -> None:
        self._theirs.config.update(settings, allow_val_change=True)

    def write_figures(self, step: int, figures: Mapping[str, float]) -> None:
        self._theirs.log(dict(figures), step=step)

    def write_picture(self, step: int, png: bytes) -> None:
        picture = self._wandb.Image(Image.open(io.BytesIO(png)))
        self._theirs.log({"images": picture}, step=step)

    def after_run(self, distilled: DistilledSet | None) -> None:
        """Send the result, and say how the run ended."""
        try:
            super().after_run(distilled)
        finally:
            self._theirs.finish(exit_code=1 if distilled is None else 0)


def _wandb() -> Any:
    try:
        import wandb
    except ImportError as error:
        raise MissingExtraError(
            "observer 'wandb' needs the package wandb: pip install 'dd-plugins[wandb]'"
        ) from error
    return wandb
