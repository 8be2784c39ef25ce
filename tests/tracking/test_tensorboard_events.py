"""What TensorBoard reads of a run, by its own reader."""

import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dd_plugins import distill
from dd_plugins.errors import MissingExtraError, OptionError
from dd_plugins.plugins.manager import Plugins
from dd_plugins.testing import OBSERVER_CHECKS, name_of, toy_data
from dd_plugins.testing.toys import Interruption
from dd_plugins.tracking.tensorboard_events import TensorBoard

QUICK: dict[str, Any] = {"network": "mlp(width=4)", "steps": 6, "device": "cpu"}


def read(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder)).Reload()


def steps_of(events: EventAccumulator, name: str) -> list[int]:
    return [each.step for each in events.Scalars(name)]


@pytest.mark.parametrize("check", OBSERVER_CHECKS, ids=name_of)
def test_it_conforms(check: Any, tmp_path: Path) -> None:
    check(TensorBoard(folder=str(tmp_path)))


def test_curves_settings_and_the_last_picture_are_there(tmp_path: Path) -> None:
    distill(toy_data(), "dm", out=tmp_path, observers="tensorboard", **QUICK)
    events = read(tmp_path / "tensorboard")
    assert steps_of(events, "loss") == list(range(1, 7))
    assert steps_of(events, "validation_accuracy")[-1] == 6
    (picture,) = events.Images("images")
    assert picture.step == 6
    assert picture.width > 8
    (written,) = events.Tensors("settings/text_summary")
    settings = written.tensor_proto.string_val[0].decode()
    for row in ("dataset | `toy`", "steps | `6`", "distiller.real_batch_size | `256`"):
        assert f"| {row} |" in settings
    assert events.Scalars("final/loss")[0].value == events.Scalars("loss")[-1].value
    assert len(list((tmp_path / "tensorboard").iterdir())) == 1, "no order of files"
    kinds = ("experiment", "session_start_info", "session_end_info")
    found = events.PluginTagToContent("hparams")
    assert set(found) == {f"_hparams_/{kind}" for kind in kinds}


def test_events_after_the_checkpoint_are_made_anew(tmp_path: Path) -> None:
    """A run that goes on, and then a new run in its folder, leave no double points."""
    stop = Plugins(load=[], extra={"stop": Interruption(3)})
    options = {"out": tmp_path, "observers": ["tensorboard"], **QUICK}
    with pytest.raises(KeyboardInterrupt):
        distill(toy_data(), "dm", plugins=stop, **options)
    time.sleep(1)  # TensorBoard reads files in the order of the seconds in their names
    distill(toy_data(), "dm", resume=True, **options)
    assert steps_of(read(tmp_path / "tensorboard"), "loss") == list(range(1, 7))
    time.sleep(1)
    distill(toy_data(), "dm", overwrite=True, **options | {"steps": 2})
    assert steps_of(read(tmp_path / "tensorboard"), "loss") == [1, 2]


def test_a_run_without_a_folder_needs_one_for_the_events() -> None:
    with pytest.raises(OptionError, match=r"out=.*tensorboard\(folder="):
        distill(toy_data(), "dm", observers="tensorboard", **QUICK)


def test_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingExtraError, match=r"'dd-plugins\[tensorboard\]'"):
        distill(
            toy_data(), "dm", out=tmp_path / "run", observers="tensorboard", **QUICK
        )
    assert list(tmp_path.iterdir()) == []
