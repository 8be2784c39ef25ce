"""Audits find planted leaks, find nothing where there is nothing, and go on."""

import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Command, Started
from rich.console import Console

import dd_plugins
from dd_plugins.data import RealData
from dd_plugins.errors import DataError, FileError, OptionError, RunError
from dd_privacy.attacks import AbstractAttack, Evidence
from dd_privacy.audit import Audit, Row, audit_runs, get_attack
from dd_privacy.command import tables
from dd_privacy.game import Game, game_for_artifact, game_for_mechanism
from dd_privacy.mechanisms import AllMembers, Distillation, GivenSet, Released
from dd_privacy.report import write_report
from dd_privacy.runs import Runs
from dd_privacy.statistics import Figure

MLP = "mlp(width=32)"


def noisy_data(count: int, hard: float = 0.0, seed: int = 0) -> RealData:
    """Return 8x8 images of four classes; a part of them has labels by chance."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 4
    prototypes = torch.rand(4, 1, 8, 8, generator=generator)
    noise = torch.rand(count, 1, 8, 8, generator=generator)
    images = 0.5 * prototypes[labels] + 0.5 * noise
    by_chance = torch.randint(4, (count,), generator=generator)
    given = torch.where(
        torch.rand(count, generator=generator) < hard, by_chance, labels
    )
    return RealData.from_tensors(
        images, given, preprocessing="standardize", validation=0.05, name="noisy"
    )


def figures(audit: Audit) -> dict[tuple[str, str, str], Row]:
    return {(row.mechanism, row.attack, row.group): row for row in audit.rows}


def test_released_members_are_found_by_their_distance(tmp_path: Path) -> None:
    game = game_for_mechanism(noisy_data(5000), members=2200)
    copies = Distillation(
        "copies",
        "cpu",
        "random",
        images_per_class=25,
        network=MLP,
        training_steps=5,
    )
    found = figures(
        audit_runs(Runs(game, tmp_path), [copies], ["pixel_distance", "loss"])
    )
    row = found["copies", "pixel_distance", "initial_members"]
    assert row.members == 100
    rate = row.tpr_at_fpr[0.01]
    assert rate.estimate is not None
    assert rate.ci95 is not None
    assert rate.estimate >= 0.95
    assert rate.ci95[0] > 0.9
    assert row.auc.estimate == 1.0
    others = found["copies", "pixel_distance", "other_members"]
    assert others.auc.ci95 is not None
    assert others.auc.ci95[0] < 0.5 < others.auc.ci95[1]


def test_a_model_that_learns_its_members_by_heart_is_found_out(tmp_path: Path) -> None:
    data = noisy_data(2400, hard=0.4)
    game = game_for_mechanism(data, members=1100, canaries=100, shadows=8)
    model = AllMembers("all", "cpu", "mlp(width=128)", 600)
    audit = audit_runs(
        Runs(game, tmp_path), [model], ["loss", "lira", "rmia", "pixel_distance"]
    )
    found = figures(audit)
    loss, lira, rmia = (
        found["all", attack, "other_members"] for attack in ("loss", "lira", "rmia")
    )
    for row in (lira, rmia):
        assert row.auc.ci95 is not None
        assert row.auc.ci95[0] > 0.5, "the interval is above chance"
        rates = row.tpr_at_fpr[0.01], loss.tpr_at_fpr[0.01]
        assert rates[0].ci95 is not None
        assert rates[0].ci95[0] > 0.01
        assert rates[0].estimate > 2 * rates[1].estimate  # type: ignore[operator]
    canaries = found["all", "lira", "canaries"]
    assert canaries.auc.ci95 is not None
    assert canaries.auc.ci95[0] > 0.9
    (bound,) = audit.one_run  # by the attack that did best on the other half
    assert bound.attack in ("loss", "lira", "rmia")
    assert bound.epsilon > 1, "this model has no guarantee of epsilon 1"
    assert audit.skipped == (("all", "pixel_distance", "no images are released"),)
    assert audit.mechanisms[0].accuracy is not None


def test_nothing_is_found_where_membership_is_a_coin(tmp_path: Path) -> None:
    data = noisy_data(600)
    released = dd_plugins.distill(data, "random", images_per_class=2, network=MLP)
    given = GivenSet("given", "cpu", released, 10)
    attacks = ["loss", "pixel_distance", "logistic_regression", "nearest_neighbours"]
    audits = 40
    held: Counter[tuple[str, str]] = Counter()
    refuted = 0
    for seed in range(audits):
        game = game_for_mechanism(data, members=280, seed=seed)
        found = audit_runs(Runs(game, tmp_path), [given], attacks)
        # The images are those of the first members in the data, not in this game.
        for row in found.rows:
            for name, figure, chance in (
                ("auc", row.auc, 0.5),
                ("advantage", row.advantage, 0.0),
                ("rate 0", row.tpr_at_fpr[0.0], 1 / 120),
            ):
                assert figure.ci95 is not None
                held[row.attack, name] += figure.ci95[0] <= chance <= figure.ci95[1]
        (bound,) = found.one_run
        refuted += bound.epsilon > 0
    assert len(held) == 3 * len(attacks)
    # 33 of 40 or fewer would happen once in 200 times.
    assert min(held.values()) > 33, held
    assert refuted <= 6, "a bound above 0 is wrong in one of twenty audits"


@dataclass(frozen=True)
class Blind(AllMembers):
    """Trains on images that are nobody's, in place of its members."""

    def run(self, data: RealData, seed: int, folder: Path | None = None) -> Released:
        return super().run(noisy_data(40, seed=1), seed, folder)

    def expected_seconds(self, data: RealData) -> float:
        return 10.0 * torch.get_num_threads()


def test_shadow_runs_and_classifiers_find_nothing_in_blind_runs(tmp_path: Path) -> None:
    data = noisy_data(600)
    blind = Blind("blind", "cpu", MLP, 1)
    attacks = [
        *("lira", "lira(online=False)", "rmia", "entropy", "modified_entropy"),
        *("random_forest(trees=10)", "multilayer_perceptron"),
    ]
    held: Counter[tuple[str, str]] = Counter()
    refuted, widest = 0, 0.0
    for seed in range(40):
        game = game_for_mechanism(data, members=280, shadows=4, seed=seed)
        found = audit_runs(Runs(game, tmp_path), [blind], attacks, rates=[0.1])
        for row in found.rows:
            for name, figure, chance in (
                ("auc", row.auc, 0.5),
                ("advantage", row.advantage, 0.0),
                ("rate 0.1", row.tpr_at_fpr[0.1], 0.1),
            ):
                assert figure.ci95 is not None
                held[row.attack, name] += figure.ci95[0] <= chance <= figure.ci95[1]
                widest = max(widest, figure.ci95[1] - figure.ci95[0])
        (bound,) = found.one_run
        refuted += bound.epsilon > 0
    assert len(held) == 3 * len(attacks)
    assert min(held.values()) > 33, held
    assert widest < 0.6, "an interval that says nothing holds always"
    assert refuted <= 6


def test_estimate_is_of_processes_side_by_side(tmp_path: Path) -> None:
    game = game_for_mechanism(noisy_data(300), members=120, targets=4)
    blind = Blind("blind", "cpu", MLP, 1)
    plans = []
    threads = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        for processes in (1, 2, 8):
            runs = Runs(game, tmp_path / str(processes))
            with contextlib.suppress(InterruptedError):
                audit_runs(
                    runs,
                    [blind],
                    ["loss"],
                    processes=processes,
                    on_plan=lambda *plan: plans.append(plan),
                    on_progress=_stop,
                )
            assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(threads)
    # Four runs: of four threads each, of two by two, all at once of one.
    assert plans == [(4, 4, 160.0), (4, 4, 40.0), (4, 4, 10.0)]


def _stop(done: int, total: int) -> None:
    raise InterruptedError


def test_memberships_of_the_game() -> None:
    data = noisy_data(1000)
    game = game_for_mechanism(data, members=400, canaries=40, targets=2, shadows=6)
    assert game.targets.shape == (2, len(game))
    assert 340 < int(game.targets[0].sum()) < 460
    assert not torch.equal(*game.targets)
    candidates = ~game.population
    assert (game.shadows.sum(dim=0)[candidates] == 3).all(), "each in half of them"
    assert not (game.shadows | game.targets.any(dim=0))[:, game.population].any()
    again = game_for_mechanism(data, members=400, canaries=40, targets=2, shadows=6)
    assert again.content(0) == game.content(0) != game.content(1)
    plain = game_for_mechanism(data, members=400)
    assert (plain.labels != game.labels).sum() == game.canaries.sum() == 40
    members = game.data(0)
    assert len(members.train.labels) == int(game.targets[0].sum())
    assert len(members.validation.labels) == 0


def test_audited_distillation_is_that_which_ships(tmp_path: Path) -> None:
    data = dd_plugins.get_dataset("digits")
    game = game_for_mechanism(data, members=300)
    runs = Runs(game, tmp_path)
    mechanism = Distillation("mine", "cpu", "frepo(pool_size=1)", training_steps=2)
    short = replace(mechanism, steps=2)
    runs.make(short, 0)
    audited, plain = (
        runs.load(short, 0).distilled,
        dd_plugins.distill(data, "frepo(pool_size=1)", steps=2, device="cpu"),
    )
    assert audited is not None
    for name in ("distiller", "options", "network", "value_space", "mirror"):
        assert getattr(audited.header, name) == getattr(plain.header, name)
    assert mechanism.resolved_network(data) == "conv(width=32, depth=2)"


def test_killed_distillation_goes_on(tmp_path: Path) -> None:
    game = game_for_mechanism(noisy_data(200), members=80)
    runs = Runs(game, tmp_path)
    mechanism = Distillation(
        "mine", "cpu", "frepo(pool_size=1)", steps=9, network=MLP, training_steps=2
    )
    folder = runs.path(mechanism, 0) / "run"
    data, seed = game.data(0), runs._seed(0)
    dd_plugins.distill(
        data, "frepo(pool_size=1)", steps=9, network=MLP, seed=seed, out=folder
    )
    steps = (folder / "metrics.jsonl").read_text()
    resumed = mechanism.run(data, seed, folder)
    assert resumed.distilled is not None
    assert (folder / "metrics.jsonl").read_text() == steps, "no step is made again"
    runs.make(mechanism, 0)
    assert not folder.exists(), "what lets a run go on is removed with its end"
    found = runs.load(mechanism, 0).distilled
    assert found is not None
    assert torch.equal(found.images, resumed.distilled.images)


def test_frepo_protocol_takes_chunks_and_the_test_set() -> None:
    data = dd_plugins.get_dataset("digits")
    game = game_for_mechanism(
        data, members=200, targets=3, shadows=4, non_members="test"
    )
    assert game.targets.sum(dim=1).tolist() == [200, 200, 200]
    assert int(game.targets.sum(dim=0).max()) == 1, "chunks do not overlap"
    test = data.read_test()
    outside = game.scored[0] & ~game.targets[0]
    assert int(outside.sum()) == len(test.labels)
    assert torch.equal(game.images[outside], test.images[:])
    assert not game.by_coin


def test_artifact_is_audited_against_its_own_members(tmp_path: Path) -> None:
    data = dd_plugins.get_dataset("digits")
    made = dd_plugins.distill(
        data, "frepo(pool_size=1)", images_per_class=2, steps=2, network=MLP
    )
    initial = torch.tensor(made.header.initial_indices)
    game = game_for_artifact(data, initial, members=300, shadows=2)
    places = data.train_indices[: len(data.train.labels)]
    assert len(places) == len(data.train.labels)
    given = GivenSet("given", "cpu", made, 5)
    audit = audit_runs(Runs(game, tmp_path), [given], ["pixel_distance"])
    found = figures(audit)
    row = found["given", "pixel_distance", "initial_members"]
    assert row.members == 20
    assert row.auc.estimate is not None
    assert row.auc.estimate > 0.95, "after two steps the images are still theirs"
    assert audit.one_run == (), "membership was not by coin"


def test_shadow_runs_of_an_artifact_distil_anew(tmp_path: Path) -> None:
    data = dd_plugins.get_dataset("digits")
    spec, network = "frepo(pool_size=1)", "conv(width=4, depth=2)"
    made = dd_plugins.distill(data, spec, images_per_class=2, steps=3, network=network)
    game = game_for_artifact(data, None, members=300, shadows=4)
    runs, given = Runs(game, tmp_path), GivenSet("given", "cpu", made, 5)
    audit = audit_runs(runs, [given], ["lira"])
    assert audit.about["shadows"] == 4
    assert given.for_shadows().evaluation_network == (
        "conv(width=4, depth=2, normalization='none')"
    )
    target, *shadows = (runs.load(given, run).distilled for run in range(5))
    assert target is not None
    assert torch.equal(target.images, made.images)
    for each in shadows:
        assert each is not None
        assert not torch.equal(each.images, made.images)
        assert each.header.distiller == made.header.distiller
        assert each.header.steps == 3
        assert len(each) == 20


def test_shadow_runs_repeat_what_a_set_refined(tmp_path: Path) -> None:
    data = dd_plugins.get_dataset("digits")
    spec, options = "frepo(pool_size=1)", {"images_per_class": 2, "network": MLP}
    first = dd_plugins.distill(
        data, spec, steps=2, initial_images="herding(training_steps=0)", **options
    )
    made = dd_plugins.distill(
        data, spec, steps=3, context=first, refine_context=True, **options
    )
    began = torch.tensor(made.header.initial_indices)
    game = game_for_artifact(data, began, members=300, shadows=2)
    runs, given = Runs(game, tmp_path), GivenSet("given", "cpu", made, 5)
    audit = audit_runs(runs, [given], ["lira(online=False)", "pixel_distance"])
    row = figures(audit)["given", "pixel_distance", "initial_members"]
    assert row.auc.estimate is not None
    assert row.auc.estimate > 0.95, "after five steps the images are still theirs"
    for shadow in (runs.load(given, run).distilled for run in (1, 2)):
        assert shadow is not None
        assert shadow.header.steps == 3
        assert shadow.header.context is not None
        before = shadow.header.context.header
        assert (before.steps, before.initial_images) == (2, "herding(training_steps=0)")
        assert before.seed == shadow.header.seed
    again, renamed = given.for_shadows(), replace(given, name="other").for_shadows()
    assert again.description() == renamed.description()
    assert dd_plugins.get_distiller("herding(training_steps=0)") in again.records()
    assert again.expected_seconds(game.data(1)) > 0
    kept = made.header.context
    assert kept is not None
    beside = kept.model_copy(update={"refined": False})
    header = made.header.model_copy(update={"context": beside})
    with pytest.raises(OptionError, match="that shadow runs cannot make again"):
        GivenSet("given", "cpu", replace(made, header=header)).for_shadows()
    older = {name: made.header.options[name] for name in ("pool_size", "ridge")}
    header = made.header.model_copy(update={"options": older})
    with pytest.raises(
        OptionError, match=r"given does not tell augment, .*, loss, .*--shadows 0"
    ):
        GivenSet("given", "cpu", replace(made, header=header)).for_shadows()


def test_shadow_runs_of_a_wrapper_ask_for_the_options_of_its_base() -> None:
    options = {"images_per_class": 2, "network": MLP, "steps": 2}
    made = dd_plugins.distill("digits", "clip(frepo(pool_size=1))", **options)
    assert GivenSet("given", "cpu", made).for_shadows().steps == 2
    older = {"distiller": "clip(frepo(pool_size=1, flip=False), max_norm=1.0)"}
    header = made.header.model_copy(update=older)
    with pytest.raises(OptionError, match=r"not tell base of clip .*--shadows 0"):
        GivenSet("given", "cpu", replace(made, header=header)).for_shadows()


def test_options_out_of_range_are_refused(tmp_path: Path) -> None:
    data = noisy_data(400)
    for options, message in (
        ({"members": 300}, "ask for 600 training images, 'noisy' has 380"),
        ({"members": 0}, "must be at least 1"),
        ({"members": 100, "canaries": 101}, "canaries must be between 0 and"),
        ({"members": 100, "shadows": 1}, "shadows must be 0, or 2 or more"),
        ({"members": 100, "canaries": 5, "non_members": "test"}, "canaries are"),
    ):
        with pytest.raises(OptionError, match=message):
            game_for_mechanism(data, **options)  # type: ignore[arg-type]
    game = game_for_mechanism(data, members=100, shadows=2)
    model = AllMembers("all", "cpu", MLP, 2)
    runs = Runs(game, tmp_path)
    with pytest.raises(OptionError, match="lira needs 4 shadow runs or more"):
        audit_runs(runs, [model], ["lira"])
    with pytest.raises(OptionError, match="delta must be in"):
        audit_runs(runs, [model], ["loss"], delta=1.0)
    assert list(tmp_path.iterdir()) == [], "refused before any run"


def test_non_members_that_are_members_are_refused(tmp_path: Path) -> None:
    data = dd_plugins.get_dataset("digits")
    leaking = replace(data, read_test=lambda: data.train)
    game = game_for_mechanism(leaking, members=300, non_members="test")
    model = AllMembers("all", "cpu", MLP, 2)
    with pytest.raises(DataError, match="300 of 1298 non-members are members too"):
        audit_runs(Runs(game, tmp_path), [model], ["loss"])
    with pytest.raises(OptionError, match="members and the population overlap"):
        replace(game, targets=game.targets | game.population)
    with pytest.raises(OptionError, match="scored must be of 1737 examples"):
        replace(game, scored=game.scored[:, 1:])


def test_damaged_and_foreign_runs_are_refused(tmp_path: Path) -> None:
    game = game_for_mechanism(noisy_data(200), members=80)
    runs, model = Runs(game, tmp_path), AllMembers("all", "cpu", MLP, 2)
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


def test_report_is_one_file_that_needs_nothing(tmp_path: Path) -> None:
    game = game_for_mechanism(noisy_data(300), members=120, canaries=20)
    set_of = Distillation(
        "<b>mine</b>", "cpu", "random", 2, network=MLP, training_steps=2
    )
    audit = audit_runs(Runs(game, tmp_path), [set_of], ["loss", "pixel_distance"])
    page = write_report(audit, tmp_path / "report.html").read_text()
    assert "<b>mine" not in page, "names are escaped"
    assert page.count("data:image/png;base64,") == 2
    assert "http" not in page
    assert "It does not prove that nothing can be found" in " ".join(page.split())
    assert "needs 1000 non-members" in page, "what is withheld says why"
    assert "<th>balanced accuracy</th>" in page


def test_attacks_keep_their_names_on_a_narrow_terminal(tmp_path: Path) -> None:
    game = game_for_mechanism(noisy_data(300), members=120)
    set_of = Distillation("mine", "cpu", "random", 2, network=MLP, training_steps=2)
    attacks = ["loss", "multilayer_perceptron", "pixel_distance"]
    audit = audit_runs(Runs(game, tmp_path), [set_of], attacks)
    figure = Figure(0.123456, (0.012345, 0.234567))
    rows = [
        replace(row, auc=figure, tpr_at_fpr=dict.fromkeys(row.tpr_at_fpr, figure))
        for row in audit.rows
    ]
    terminal = Console(width=80, file=io.StringIO())
    terminal.print(*tables(replace(audit, rows=rows)))
    printed = terminal.file.getvalue()  # type: ignore[attr-defined]
    for row in rows:
        assert row.attack in printed
        assert row.group.removesuffix("_members") in printed
    assert printed.count("found at") == 3
    assert printed.count("0.123") == len(rows)
    assert printed.count("12.3") == 3 * len(rows)


COMMAND = [
    *("audit", "frepo(pool_size=1)", "--dataset", "digits", "--members", "300"),
    *("--shadows", "4", "--steps", "8", "--training-steps", "5", "--network", MLP),
]


def test_command_writes_a_row_for_each_attack_and_group(
    command_line: Command, tmp_path: Path
) -> None:
    done = command_line(
        *COMMAND,
        *("--canaries", "60", "--compare", "all,random,noise", "--processes", "2"),
        *("--json", "a.json", "--html", "a.html", "--all-steps", "12", "--all-plain"),
    )
    assert done.returncode == 0, done.stderr
    assert "20 runs, 0 of them kept from before; about" in done.stdout
    content = json.loads((tmp_path / "a.json").read_text())
    rows = content["results"]
    audited = [row for row in rows if row["mechanism"].startswith("frepo(pool_size=1)")]
    attacks = {row["attack"] for row in audited}
    assert {"loss", "lira", "lira(online=False)", "rmia", "pixel_distance"} <= attacks
    assert {row["group"] for row in audited} == {
        "initial_members",
        "other_members",
        "canaries",
    }
    assert {row["threat_model"] for row in audited} == {"model", "images", "both"}
    for row in rows:
        assert set(row["tpr_at_fpr"]) == {"0.01", "0.001", "0"}
        for figure in (row["auc"], row["advantage"], *row["tpr_at_fpr"].values()):
            assert set(figure) == {"estimate", "ci95", "withheld"}
            assert (figure["estimate"] is None) == (figure["withheld"] is not None)
    assert [each["name"] for each in content["mechanisms"]] == [
        "frepo(pool_size=1)",
        "all members, plain",
        "random real images",
        "frepo(pool_size=1) from noise",
    ]
    of_all = content["mechanisms"][1]["about"]
    assert (of_all["training_steps"], of_all["augment"]) == (12, False)
    of_noise = content["mechanisms"][-1]["about"]
    assert (of_noise["initial_images"], of_noise["steps"]) == ("noise", 8)
    assert "report: a.html" in done.stdout


def test_killed_audit_goes_on(tmp_path: Path) -> None:
    def start(name: str) -> Started:
        words = [*COMMAND, "--steps", "60", "--json", f"{name}.json"]
        return Started(*words, folder=tmp_path, DD_CACHE=str(tmp_path / name))

    audit = start("killed")
    cache = tmp_path / "killed"
    while len(list(cache.rglob("seen.safetensors"))) < 2 and not audit.ended(0.02):
        pass
    audit.kill()
    kept = len(list(cache.rglob("seen.safetensors")))
    assert 2 <= kept < 5
    # Two at once: what one is making the other waits for.
    for each in [start("killed"), start("killed")]:
        done = each.finish()
        assert done.returncode == 0, done.stderr
        assert "5 runs, " in done.stdout
    assert len(list(cache.rglob("seen.safetensors"))) == 5
    assert start("whole").finish().returncode == 0
    resumed, whole = (
        json.loads((tmp_path / f"{name}.json").read_text())["results"]
        for name in ("killed", "whole")
    )
    assert resumed == whole


def test_killed_audit_leaves_no_process_behind(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    words = ["--steps", "2000", "--processes", "2"]
    process = subprocess.Popen(
        [sys.executable, "-m", "dd_plugins", *COMMAND, *words],
        env={**os.environ, "DD_CACHE": str(cache)},
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    while process.poll() is None and len(list(cache.rglob("run"))) < 2:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            break
        time.sleep(0.1)
    else:
        os.killpg(process.pid, signal.SIGKILL)
        pytest.fail("its processes went on")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--members", "700"], "ask for 1400 training images, 'digits' has 1298"),
        (["--shadows", "2", "--attacks", "lira"], "lira needs 4 shadow runs or more"),
        (["--attacks", "lyra"], "unknown attack 'lyra'; known, nearest first: lira"),
        (["--rates", "0.001"], "needs 10000 non-members, there are"),
        (["--rates", "often"], "--rates must be numbers separated by commas"),
        (["--rates", "1"], "must be in [0, 1), got 1.0"),
        (["--compare", "magic"], "--compare must be of all, random, noise, private"),
        (["--json", "nowhere/a.json"], "nowhere is not a folder"),
        (["--html", "/"], "cannot write /: it is a folder"),
        (["--all-plain"], "--all-plain goes with --compare all"),
        (["--compare", "all", "--epsilon", "1"], "--epsilon goes with --compare priv"),
        (["--shadows", "1"], "shadows must be 0, or 2 or more, got 1"),
    ],
)
def test_wrong_input_is_one_clear_line(
    words: list[str], message: str, command_line: Command
) -> None:
    done = command_line(*COMMAND, *words)
    assert done.returncode in (1, 2)
    (line,) = done.stderr.strip().splitlines()
    assert message in line


def test_artifact_of_another_data_set_is_refused(
    command_line: Command, tmp_path: Path
) -> None:
    made = dd_plugins.distill(noisy_data(200), "random", network=MLP)
    made.save(tmp_path / "set.safetensors")
    words = ["audit", "set.safetensors", "--dataset", "digits", "--shadows", "0"]
    done = command_line(*words)
    assert done.returncode == 2
    assert "'noisy', whose training images are not those of 'digits'" in done.stderr
    own = dd_plugins.distill("digits", "random", network=MLP)
    own.save(tmp_path / "own.safetensors")
    words[1] = "own.safetensors"
    for given in (["--canaries", "5"], ["--ipc", "1"], ["--compare", "all"]):
        refused = command_line(*words, *given)
        assert f"{given[0]} goes with a distiller's spec" in refused.stderr
    done = command_line(*words, "--members", "300", "--training-steps", "3")
    assert done.returncode == 0, done.stderr
    missing = command_line("audit", "runs/none.safetensors", "--dataset", "digits")
    assert "does not exist, and is no spec" in missing.stderr


def test_a_game_is_what_a_process_is_sent() -> None:
    import pickle

    game = game_for_mechanism(noisy_data(200), members=80, shadows=2)
    sent: Game = pickle.loads(pickle.dumps(game))
    assert sent.content(1) == game.content(1)


def audited(tmp_path: Path, attacks: list[str], **options: Any) -> Audit:
    """Return a small audit of random images, with a member of every class."""
    game = game_for_mechanism(noisy_data(300), members=120, seed=3)
    set_of = Distillation("mine", "cpu", "random", 2, network=MLP, training_steps=2)
    return audit_runs(Runs(game, tmp_path), [set_of], attacks, **options)


class OfModel(AbstractAttack):
    @property
    def threat_model(self) -> Any:
        return "model"

    def scores(self, evidence: Evidence) -> Any:
        return evidence.labels.double()


@dd_plugins.record
class Overwrites(OfModel):
    """Works in place on all that it is given."""

    name = "overwrites"

    def scores(self, evidence: Evidence) -> Any:
        own = evidence.target
        for each in (own, *(reference.seen for reference in evidence.references)):
            each.outputs.zero_()
            assert each.pixel_distance is not None
            each.pixel_distance.fill_(1)
        for reference in evidence.references:
            reference.members.logical_not_()
        for mask in (evidence.known, evidence.members, evidence.population):
            mask.fill_(True)
        evidence.labels.zero_()
        assert evidence.scored is not None
        evidence.scored.fill_(False)
        return own.outputs[:, 0]


@dd_plugins.record
class Raises(OfModel):
    name = "raises"
    where: str = "scores"

    @property
    def threat_model(self) -> Any:
        if self.where == "threat_model":
            raise KeyError("threat")
        return "everything" if self.where == "nowhere" else "model"

    @property
    def references_needed(self) -> int:
        if self.where == "references_needed":
            raise ZeroDivisionError
        return 0

    @property
    def learns_from_known(self) -> bool:
        if self.where == "learns_from_known":
            raise AttributeError("known\nof two lines")
        return False

    def scores(self, evidence: Evidence) -> Any:
        if self.where == "exit":
            raise SystemExit(3)
        if self.where == "scores":
            raise ValueError("singular [red]matrix")
        if self.where == "none":
            return None
        if self.where == "few":
            return [0.0]
        if self.where == "columns":
            return evidence.labels.double()[:, None]
        if self.where == "list":
            return [float(each) for each in evidence.labels]
        return evidence.labels.numpy()


@pytest.fixture
def strange_attacks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let attacks of this file be found, as if a plugin registered them."""

    def find(spec: str) -> AbstractAttack:
        name, _, where = spec.partition(":")
        if name == "raises":
            return Raises(where=where)
        return Overwrites() if name == "overwrites" else get_attack(spec)

    monkeypatch.setattr("dd_privacy.audit.get_attack", find)


@pytest.mark.usefixtures("strange_attacks")
def test_no_attack_changes_the_evidence_of_another(tmp_path: Path) -> None:
    game = game_for_mechanism(noisy_data(300), members=120, shadows=4, canaries=20)
    set_of = Distillation("mine", "cpu", "random", 2, network=MLP, training_steps=2)
    names = ["loss", "lira", "rmia", "pixel_distance"]
    runs = Runs(game, tmp_path)
    alone = audit_runs(runs, [set_of, replace(set_of, name="again")], names)
    after = audit_runs(
        runs,
        [set_of, replace(set_of, name="again")],
        ["overwrites", names[0], "overwrites", *names[1:]],
    )
    rows = [row.as_dict() for row in after.rows if row.attack != "overwrites"]
    assert len(rows) < len(after.rows)
    assert rows == [row.as_dict() for row in alone.rows]
    assert after.skipped == ()


@pytest.mark.usefixtures("strange_attacks")
@pytest.mark.parametrize(
    ("where", "reason"),
    [
        ("scores", "ValueError: singular [red]matrix"),
        ("exit", "SystemExit: 3"),
        ("none", "RuntimeError: "),
        ("few", "must give each of "),
        ("columns", "must give each of "),
        ("threat_model", "KeyError: 'threat'"),
        ("references_needed", "ZeroDivisionError: "),
        ("learns_from_known", "AttributeError: known of two lines"),
        ("nowhere", "threat model 'everything' must be one of images, model, both"),
    ],
)
def test_an_attack_that_fails_is_named_and_the_others_stay(
    where: str, reason: str, tmp_path: Path
) -> None:
    found = audited(tmp_path, ["loss", f"raises:{where}", "pixel_distance"])
    assert {row.attack for row in found.rows} == {"loss", "pixel_distance"}
    ((mechanism, attack, why),) = found.skipped
    assert (mechanism, attack) == ("mine", repr(Raises(where=where)))
    assert reason in why
    assert found.as_dict()["skipped"][0]["reason"] == why
    page = write_report(found, tmp_path / "report.html").read_text()
    assert "Not made" in page


@pytest.mark.usefixtures("strange_attacks")
def test_scores_may_be_a_list_or_an_array(tmp_path: Path) -> None:
    found = audited(tmp_path, ["raises:list", "raises:array"])
    assert found.skipped == ()
    first, second = (
        [row.auc for row in found.rows if f"'{kind}'" in row.attack]
        for kind in ("list", "array")
    )
    assert first == second != []


def test_attacks_are_named_at_least_once_and_made_once(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="name one attack or more"):
        audited(tmp_path, [])
    once = audited(tmp_path, ["loss"])
    for attacks in (["loss", "loss"], "loss"):
        again = audited(tmp_path, attacks)  # type: ignore[arg-type]
        assert [row.as_dict() for row in again.rows] == [
            row.as_dict() for row in once.rows
        ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"members": 100.5}, "members must be a whole number"),
        ({"members": True}, "members must be a whole number"),
        ({"members": 100, "seed": 1.0}, "seed must be a whole number"),
        ({"members": 100, "targets": "2"}, "targets must be a whole number"),
        ({"members": 100, "non_members": "val"}, "non_members must be one of train"),
        ({"members": 100, "shadows": 10**6}, "there can be 1000 audited runs"),
        ({"members": 100, "targets": 10**6}, "there can be 1000 audited runs"),
        ({"members": 100, "shadows": 3}, "ask for 2 or for 4 shadow runs, or for none"),
    ],
)
def test_games_of_other_numbers_are_refused(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(OptionError, match=message):
        game_for_mechanism(noisy_data(400), **options)


@pytest.mark.parametrize("shadows", [2, 3, 5, 7])
def test_shadow_runs_that_a_refusal_asks_for_are_taken(shadows: int) -> None:
    data = noisy_data(400)

    def made(count: int) -> Game:
        return game_for_mechanism(
            data, members=60, shadows=count, non_members="test", targets=2
        )

    data = replace(data, read_test=lambda: noisy_data(300, seed=9).train)
    try:
        made(shadows)
    except OptionError as error:
        asked = [int(word) for word in re.findall(r"\d+", str(error).split("ask")[1])]
        assert asked
        assert shadows not in asked
        for count in asked:
            assert made(count).shadows.shape[0] == count


def rare_data() -> RealData:
    """Return data whose last class has four images."""
    generator = torch.Generator().manual_seed(0)
    return RealData.from_tensors(
        torch.rand(300, 1, 8, 8, generator=generator),
        torch.cat([torch.arange(296) % 3, torch.full((4,), 3)]),
        validation=0.05,
        preprocessing="standardize",
        class_names=["a", "b", "c", "[red]rare"],
    )


def test_members_of_all_runs_are_checked_before_the_first(tmp_path: Path) -> None:
    model = AllMembers("all", "cpu", MLP, 2)
    data = rare_data()
    game = next(
        game
        for game in (
            game_for_mechanism(data, members=60, shadows=6, seed=seed)
            for seed in range(300)
        )
        if _lacks_late(game)
    )
    runs = Runs(game, tmp_path)
    with pytest.raises(DataError, match=r"class '\[red\]rare' .*--members"):
        audit_runs(runs, [model], ["loss", "lira"])
    assert list(tmp_path.iterdir()) == [], "no run is made"
    # Without shadow runs only the audited one is made, and it has all classes.
    assert audit_runs(runs, [model], ["loss"]).rows


def _lacks_late(game: Game) -> bool:
    """Tell whether a shadow run lacks the rare class, and no audited one does."""
    rare = game.labels == 3
    audited_has = bool(game.targets[:, rare].any())
    return audited_has and not bool(game.shadows[:, rare].any(dim=1).all())


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


def test_names_are_plain_text_wherever_an_audit_shows_them(tmp_path: Path) -> None:
    game = game_for_mechanism(noisy_data(300), members=120)
    name = "[red]x[/y] [link=javascript:alert(1)]z \x1b[2J:cat: $5_$10 <b>\udcff"
    set_of = Distillation(name, "cpu", "random", 2, network=MLP, training_steps=2)
    found = audit_runs(Runs(game, tmp_path), [set_of], ["loss"])
    odd = replace(found.rows[0], attack=f"mine(text={name!r})")
    found = replace(
        found,
        about={**found.about, "data": name},
        rows=(odd, *found.rows[1:]),
        skipped=((name, "mine", name),),
    )
    terminal = Console(width=400, file=io.StringIO(), force_terminal=True)
    terminal.print(*tables(found))
    printed = terminal.file.getvalue()  # type: ignore[attr-defined]
    assert "[red]x[/y] [link=javascript:alert(1)]z \\x1b[2J:cat: $5_$10" in printed
    assert "\x1b[2J" not in printed
    assert "\x1b]8" not in printed, "no link"
    page = write_report(found, tmp_path / "report.html").read_text()
    assert "\x1b" not in page
    assert "<b>" not in page
    assert "[red]x[/y]" in page


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--json", "run/distilled.safetensors"], "is read by this command"),
        (["--json", "set.safetensors"], "is read by this command"),
        (["--html", "link.html"], "is read by this command"),
        (["--json", "a", "--html", "./a"], "is named for two outputs"),
        (["--json", "notes.txt"], "notes.txt exists, and holds no JSON"),
        (["--html", "old.json"], "old.json exists, and holds no HTML"),
        (["--html", "run/summary.json", "--overwrite"], "belongs to a run"),
    ],
)
def test_outputs_replace_nothing_else(
    words: list[str], message: str, command_line: Command, tmp_path: Path
) -> None:
    made = dd_plugins.distill("digits", "random", network=MLP, out=tmp_path / "run")
    if words[1] != "run/distilled.safetensors":
        made.save(tmp_path / "set.safetensors")
    (tmp_path / "link.html").symlink_to("set.safetensors")
    for name in ("notes.txt", "old.json", "run/summary.json"):
        (tmp_path / name).write_text("{}" if name == "old.json" else "mine")
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    audited_set = "run" if "run" in words[1] else "set.safetensors"
    done = command_line(
        *("audit", audited_set, "--dataset", "digits", "--shadows", "0"), *words
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    for file, content in before.items():
        assert file.read_bytes() == content


def test_a_killed_process_of_an_audit_is_told_of(tmp_path: Path) -> None:
    game = game_for_mechanism(noisy_data(300), members=120, targets=3)
    with pytest.raises(RunError, match=r"was killed, .* give the same words again"):
        audit_runs(
            Runs(game, tmp_path),
            [Killed("killed", "cpu", MLP, 2)],
            ["loss"],
            processes=2,
        )


@dataclass(frozen=True)
class Killed(AllMembers):
    """Is killed at work, as by a kernel that has no memory left."""

    def run(self, data: RealData, seed: int, folder: Path | None = None) -> Released:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


def test_a_stopped_audit_keeps_what_its_processes_have_done(tmp_path: Path) -> None:
    """The signal goes to the audit alone, as from a scheduler, not from a terminal."""
    cache = tmp_path / "cache"
    words = [*COMMAND, "--steps", "100000", "--processes", "2"]
    process = subprocess.Popen(
        [sys.executable, "-m", "dd_plugins", *words],
        env={**os.environ, "DD_CACHE": str(cache)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while process.poll() is None and len(list(cache.rglob("metrics.jsonl"))) < 2:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert len(list(cache.rglob("checkpoint.pt"))) == 2
