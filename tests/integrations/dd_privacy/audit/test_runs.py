"""Kept runs are found again, and damaged ones refused."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import COMMAND_LINE, run_code
from privacy_data import MLP, audited, distillation, membership_by_hand, noisy_data

import dd_plugins
from dd_plugins.data.real import RealData
from dd_plugins.errors import FileError, RunError
from dd_privacy.audit.audit import audit_runs
from dd_privacy.audit.drawing import membership_for_artifact, membership_for_mechanism
from dd_privacy.audit.mechanisms import AllMembers, GivenSet, Release
from dd_privacy.audit.runs import Runs


def test_damaged_and_foreign_runs_are_refused(tmp_path: Path) -> None:
    membership = membership_for_mechanism(noisy_data(200), members=80)
    runs, model = Runs(membership, tmp_path), AllMembers("all", "cpu", MLP, 2)
    audit_runs(runs, [model], ["loss"])
    file = runs.path(model, 0) / "seen.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-9])
    with pytest.raises(FileError, match=r"remove .* and it is made anew"):
        audit_runs(runs, [model], ["loss"])
    other = AllMembers("all", "cpu", MLP, 3)
    runs.path(other, 0).mkdir()
    (runs.path(other, 0) / "seen.safetensors").write_bytes(whole)
    with pytest.raises(FileError, match="a run that matches its key, got another"):
        audit_runs(runs, [other], ["loss"])
    set_of = distillation("mine")
    audit_runs(runs, [set_of], ["loss"])
    (runs.path(set_of, 0) / "distilled.safetensors").write_bytes(b"damaged")
    with pytest.raises(FileError, match=r"remove .* and it is made anew"):
        audit_runs(runs, [set_of], ["loss"])


def test_one_flipped_bit_of_a_kept_run_is_found(tmp_path: Path) -> None:
    audited(tmp_path, ["loss"])
    (file,) = tmp_path.rglob("seen.safetensors")
    whole = file.read_bytes()
    start = 8 + int.from_bytes(whole[:8], "little")
    for at in (start, (start + len(whole)) // 2, len(whole) - 1):
        damaged = bytearray(whole)
        damaged[at] ^= 1
        file.write_bytes(damaged)
        with pytest.raises(FileError, match=r"remove .* and it is made anew"):
            audited(tmp_path, ["loss"])
    file.write_bytes(whole.replace(b'"seconds":"', b'"seconds":"9', 1))
    with pytest.raises(FileError):
        audited(tmp_path, ["loss"])
    file.write_bytes(whole)
    # The released images of another run are whole as well, but not those.
    other = dd_plugins.distill(noisy_data(300), "random", images_per_class=2, seed=8)
    other.save(file.parent / "distilled.safetensors")
    with pytest.raises(FileError, match="other images"):
        audited(tmp_path, ["loss"])


PLUGIN = """
from dd_plugins import hookimpl, record
from dd_plugins.distillers.core_set import {base}
{more}
@record
class Mine({base}):
    name = "mine"

@hookimpl
def dd_register_distillers(register):
    register(Mine)
"""


def test_kept_runs_know_the_code_that_made_them(tmp_path: Path) -> None:
    info = tmp_path / "mine_plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: mine-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[dd_plugins]\nmine = mine_plugin\n")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r})" + COMMAND_LINE
    words = ["audit", "mine", "--dataset", "digits", "--members", "200"]
    words += ["--shadows", "0", "--training-steps", "2", "--network", MLP]
    words += ["--attacks", "loss"]
    kept = []
    texts = ["", "FACTOR = 2", ""]
    for more in texts:
        text = PLUGIN.format(base="RandomImages", more=more)
        (tmp_path / "mine_plugin.py").write_text(text)
        cache = str(tmp_path / "cache")
        done = run_code(code, *words, folder=tmp_path, DD_CACHE=cache)
        assert done.returncode == 0, done.stderr
        kept.append("1 of them kept from before" in done.stderr)
    assert kept == [False, False, True], "the first code finds its run again"


@dataclass(frozen=True)
class Counted(AllMembers):
    """Counts how often it is run."""

    def run(self, data: RealData, seed: int, folder: Path | None = None) -> Release:
        MADE.append(seed)
        return super().run(data, seed, folder)


MADE: list[int] = []


def test_a_run_is_made_once_and_has_a_seed_of_its_own(tmp_path: Path) -> None:
    MADE.clear()
    membership = membership_for_mechanism(noisy_data(200), members=80, targets=2)
    runs, model = Runs(membership, tmp_path), Counted("all", "cpu", MLP, 2)
    counts: list[int] = []
    for _ in range(2):
        runs.make_all([(model, 0), (model, 1)], on_done=counts.append)
    assert counts == [0, 1, 2, 2]
    assert len(set(MADE)) == len(MADE) == 2
    assert runs.make(model, 0) == runs.path(model, 0)
    assert len(MADE) == 2
    again = replace(model, name="renamed")
    assert runs.is_done(again, 0), "a name is no part of a key"
    assert not runs.is_done(replace(model, training_steps=3), 0)


def test_a_key_is_of_all_that_a_run_depends_on(tmp_path: Path) -> None:
    data = noisy_data(200)
    first = membership_for_mechanism(data, members=80, shadows=2)
    model = AllMembers("all", "cpu", MLP, 2)
    runs = Runs(first, tmp_path)
    about = runs.description(model, 0)
    assert set(about) == {
        *("format", "mechanism", "device", "network", "training_steps", "augment"),
        *("data", "seed", "hardware", "versions", "code"),
    }
    assert about["code"] == [None, {}], "this library's code is keyed by its format"
    other = membership_for_mechanism(data, members=80, seed=1)
    paths = {
        runs.path(model, 0),
        runs.path(model, 1),
        runs.path(replace(model, network="mlp(width=8)"), 0),
        runs.path(Counted("all", "cpu", MLP, 2), 0),
        Runs(other, tmp_path).path(model, 0),
    }
    assert len(paths) == 5
    foreign = runs.description(Counted("all", "cpu", MLP, 2), 0)
    assert foreign["mechanism"] == f"{__name__}.Counted"
    code = foreign["code"]
    assert isinstance(code, list)
    assert "class Counted(AllMembers)" in code[0]


def test_one_member_more_or_fewer_makes_another_key(tmp_path: Path) -> None:
    membership = membership_by_hand()
    model = AllMembers("all", "cpu", MLP, 2)
    own = Runs(membership, tmp_path).path(model, 0)
    for example in range(6):
        targets = membership.targets.clone()
        targets[0, example] ^= True
        other = Runs(replace(membership, targets=targets), tmp_path)
        assert other.path(model, 0) != own
        assert other.path(model, 1) == Runs(membership, tmp_path).path(model, 1)
    scored = replace(membership, scored=torch.ones_like(membership.scored))
    assert Runs(scored, tmp_path).path(model, 0) == own, "who is scored makes no run"


def test_what_a_run_shows_is_loaded_as_it_was(tmp_path: Path) -> None:
    membership = membership_for_mechanism(noisy_data(200), members=80)
    set_of = distillation("mine")
    runs = Runs(membership, tmp_path)
    runs.make(set_of, 0)
    found, again = runs.load(set_of, 0), runs.load(set_of, 0)
    assert torch.equal(found.observations.outputs, again.observations.outputs)
    assert found.observations.outputs.shape == (len(membership), 4)
    assert found.distilled is not None
    assert int(found.initial.sum()) == len(found.distilled) == 8
    assert (membership.members(0) | ~found.initial).all(), "it started from members"
    distances = found.observations.pixel_distance
    assert distances is not None
    assert float(distances[found.initial].max()) < 1e-3
    assert found.accuracy is not None
    assert 0 <= found.accuracy <= 1
    assert found.seconds > 0
    assert not (runs.path(set_of, 0) / "run").exists()


def test_without_a_population_no_accuracy_is_told(tmp_path: Path) -> None:
    membership = membership_by_hand()
    membership = replace(
        membership, population=torch.zeros(len(membership), dtype=torch.bool)
    )
    runs, model = Runs(membership, tmp_path), AllMembers("all", "cpu", MLP, 1)
    runs.make(model, 0)
    found = runs.load(model, 0)
    assert found.accuracy is None
    assert found.distilled is None
    assert found.observations.pixel_distance is None
    assert not found.initial.any()


def test_a_given_set_started_from_what_the_game_says(tmp_path: Path) -> None:
    data = noisy_data(200)
    data = replace(data, read_test=lambda: noisy_data(60, seed=9).train)
    made = dd_plugins.distill(data, "random", network=MLP, device="cpu")
    initial = torch.tensor(made.header.initial_indices)
    membership = membership_for_artifact(data, initial, members=40)
    runs, given = Runs(membership, tmp_path), GivenSet("given", "cpu", made, 1)
    runs.make(given, 0)
    assert torch.equal(runs.load(given, 0).initial, membership.initial)
    assert int(membership.initial.sum()) == 4


def test_code_that_changes_while_runs_are_made_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def elsewhere(make: Any, jobs: Any, processes: int) -> Any:
        for job in jobs:
            yield job, tmp_path / "made by other code"

    monkeypatch.setattr("dd_privacy.audit.runs.run_in_parallel", elsewhere)
    membership = membership_for_mechanism(noisy_data(200), members=80, targets=2)
    runs, model = Runs(membership, tmp_path), AllMembers("all", "cpu", MLP, 1)
    with pytest.raises(RunError, match="got changed code"):
        runs.make_all([(model, 0), (model, 1)], processes=2)


def test_a_run_that_cannot_be_written_or_is_not_there_is_an_error_of_one_line(
    tmp_path: Path,
) -> None:
    membership = membership_for_mechanism(noisy_data(200), members=80)
    model = AllMembers("all", "cpu", MLP, 1)
    with pytest.raises(FileError, match=r"remove .* and it is made anew"):
        Runs(membership, tmp_path).load(model, 0)
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="cannot write"):
        Runs(membership, tmp_path / "file").make(model, 0)
