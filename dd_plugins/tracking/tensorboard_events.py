"""A run in TensorBoard: curves, pictures and settings."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dd_plugins.errors import MissingExtraError, OptionError
from dd_plugins.run import Run
from dd_plugins.spec import record
from dd_plugins.synthetic.artifact import DistilledSet
from dd_plugins.tracking.base import AbstractObserver
from dd_plugins.tracking.pacing import PacedObservation, Setting

__all__ = ["TensorBoard"]

_FOLDER = "tensorboard"


@record
class TensorBoard(AbstractObserver):
    """Writes figures, pictures and settings as events for TensorBoard.

    A run resumed from a checkpoint replaces the events after it, and a new run replaces
    an old one in the same folder.

    Args:
        folder: the folder of the events; by default ``tensorboard`` in the folder of
            the run.
    """

    name = "tensorboard"

    folder: str | None = None

    def check(self, run: Run) -> None:
        """Refuse a run without a folder for the events, or without TensorBoard.

        Raises:
            OptionError: neither the run nor the observer has a folder.
            MissingExtraError: tensorboard is not installed.
        """
        _writer_class()
        self._place(run)

    def observe(self, run: Run, first_step: int) -> "_Events":
        """Open the events."""
        begins = first_step + 1 if first_step else 0
        writer = _writer_class()(str(self._place(run)), purge_step=begins)
        return _Events(run, first_step, writer)

    def _place(self, run: Run) -> Path:
        if self.folder is not None:
            return Path(self.folder)
        if run.out is None:
            raise OptionError(
                "tensorboard: expected a folder for its events, got none; give the run "
                "one (out=...), or name one: tensorboard(folder='runs/events')"
            )
        return run.out / _FOLDER


class _Events(PacedObservation):
    """The events of one run."""

    def __init__(self, run: Run, first_step: int, writer: Any) -> None:
        super().__init__(run, first_step)
        self._writer = writer
        self._settings: dict[str, Setting] = {}
        self._last: dict[str, float] = {}

    def write_settings(self, settings: dict[str, Setting]) -> None:
        self._settings = settings
        rows = [f"| {name} | `{value}` |" for name, value in settings.items()]
        table = "\n".join(["| setting | value |", "|---|---|", *rows])
        self._writer.add_text("settings", table)

    def write_figures(self, step: int, figures: Mapping[str, float]) -> None:
        self._last |= figures
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)

    def write_picture(self, step: int, png: bytes) -> None:
        pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
        self._writer.add_image("images", pixels, step, dataformats="HWC")

    def after_run(self, distilled: DistilledSet | None) -> None:
        """Write the result beside its settings, for comparison with other runs."""
        try:
            super().after_run(distilled)
            if distilled is not None and self._last:
                self._write_result()
        finally:
            self._writer.close()

    def _write_result(self) -> None:
        """Write what ``add_hparams`` does, without a file of its own.

        Two files of the same second may be read in the wrong order.
        """
        from torch.utils.tensorboard.summary import hparams

        last = {f"final/{name}": value for name, value in self._last.items()}
        summaries = hparams(self._settings, last)  # type: ignore[no-untyped-call]
        for summary in summaries:
            self._writer.file_writer.add_summary(summary)
        for name, value in last.items():
            self._writer.add_scalar(name, value, self._step)


def _writer_class() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MissingExtraError(
            "observer 'tensorboard' needs the package tensorboard: pip install "
            "'dd-plugins[tensorboard]'"
        ) from error
    return SummaryWriter
