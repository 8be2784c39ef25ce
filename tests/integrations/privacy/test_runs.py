"""Kept runs are found again, and damaged ones refused."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from privacy_data import MLP, audited, noisy_data

import dd_plugins
from dd_plugins.errors import FileError
from dd_privacy.audit.audit import audit_runs
from dd_privacy.audit.drawing import membership_for_mechanism
from dd_privacy.audit.mechanisms import AllMembers, Distillation
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
    with pytest.raises(FileError, match="does not match its key"):
        audit_runs(runs, [other], ["loss"])
    set_of = Distillation("mine", "cpu", "random", 2, network=MLP, training_steps=2)
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
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    words = ["audit", "mine", "--dataset", "digits", "--members", "200"]
    words += ["--shadows", "0", "--training-steps", "2", "--network", MLP]
    words += ["--attacks", "loss"]
    kept = []
    texts = ["", "FACTOR = 2", ""]
    for more in texts:
        text = PLUGIN.format(base="RandomImages", more=more)
        (tmp_path / "mine_plugin.py").write_text(text)
        done = subprocess.run(
            [sys.executable, "-m", "dd_plugins", *words],
            env={**os.environ, "PYTHONPATH": path, "DD_CACHE": str(tmp_path / "cache")},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        )
        kept.append("1 of them kept from before" in done.stdout)
    assert kept == [False, False, True], "the first code finds its run again"
