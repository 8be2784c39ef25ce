"""What the built-in commands print and write, in this process."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, Said
from PIL import Image

import dd_plugins
from dd_plugins import DistilledSet, hookimpl
from dd_plugins.api import Evaluation, NetworkResult
from dd_plugins.evaluation.cross_architecture import Difference, SetTransfer, Transfer
from dd_plugins.plugins.manager import Plugins
from dd_plugins.synthetic.header import ContextRecord

Run = Callable[..., Said]


@pytest.fixture
def run(in_process: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run ``dd-plugins`` in this process, without a folder of data sets."""
    monkeypatch.delenv("DD_DATA", raising=False)
    return in_process


@pytest.fixture(scope="module")
def digits() -> DistilledSet:
    return dd_plugins.distill("digits", "random", steps=1, network="mlp(width=2)")


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.replace("┃", "│").split("│")[1:-1]]


def rows(printed: str) -> list[list[str]]:
    return [cells(line) for line in printed.splitlines() if "│" in line]


SMALL = ["--distiller", "random", "--network", "mlp(width=2)"]


def test_a_run_without_a_folder_gets_one_by_its_data(run: Run, tmp_path: Path) -> None:
    for label, grey in (("dark", 40), ("light", 200)):
        folder = tmp_path / "some" / "pets" / label
        folder.mkdir(parents=True)
        for number in range(4):
            Image.new("L", (8, 8), grey + number).save(folder / f"{number}.png")
    said = run("distill", "--dataset", "folder:some/pets", "--ipc", 2, *SMALL)
    assert said.status == 0, said.stderr
    out = Path("runs") / "pets-ipc2"
    assert len(DistilledSet.load(out)) == 4
    assert f"4 images in {out}" in said.stdout


def test_a_run_is_passed_on_to_those_who_are_named(run: Run) -> None:
    words = ("distill", "--out", "run", "--steps", 1, *SMALL)
    said = run(*words, "--observe", "tensorboard", "--observe", "nobody")
    assert said.status == 2
    assert "unknown observer 'nobody'" in said.stderr
    assert not Path("run").exists()
    said = run(*words, "--observe", "tensorboard(folder='events')")
    assert said.status == 0, said.stderr
    assert list(Path("events").glob("events.out.tfevents.*"))


def test_a_network_of_timm_is_named_by_its_spec(run: Run) -> None:
    words = ("distill", "--distiller", "dm", "--steps", 1, "--out", "run")
    said = run(*words, "--network", "timm('test_resnet')")
    assert said.status == 0, said.stderr
    assert DistilledSet.read_header("run").network == "timm('test_resnet')"


def test_the_summary_holds_header_and_last_figures(run: Run) -> None:
    words = ["distill", "--out", "run", "--seed", 3, *SMALL]
    assert run(*words).status == 0
    made = DistilledSet.load("run")
    summary = json.loads(Path("run/summary.json").read_text())
    lines = Path("run/metrics.jsonl").read_text().splitlines()
    last = json.loads(lines[-1])
    assert summary["content_hash"] == made.content_hash()
    assert (summary["images"], summary["seed"], summary["steps"]) == (10, 3, 1)
    assert summary["dataset"]["fingerprint"] == made.header.dataset.fingerprint
    for name in ("seconds", "validation_accuracy"):
        assert summary[name] == last[name]
    Path("run/metrics.jsonl").write_text("no JSON")
    said = run(*words, "--resume")
    assert said.status == 0, said.stderr
    assert "validation_accuracy" not in json.loads(Path("run/summary.json").read_text())


def result(spec: str, *accuracies: float, **scores: tuple[float, ...]) -> NetworkResult:
    return NetworkResult(spec, accuracies, scores)


SCORES = {
    "precision_at_1": (0.125, 0.125),
    "r_precision": (0.25, 0.25),
    "mean_average_precision_at_r": (0.375, 0.375),
}


def test_a_table_has_a_row_for_each_training_set(
    run: Run, digits: DistilledSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = {"stored_values": 128, "stored_images": 2}
    few = replace(digits, header=digits.header.model_copy(update=packed))
    found = Evaluation(
        (result("mlp", 0.5, 0.5), result("conv", 0.625)),
        (result("mlp", 0.25, 0.25), result("conv", 0.1)),
        (result("mlp", 0.75, 0.75), result("conv", 0.9)),
        1360,
        data="others",
        random_images=2,
    )
    monkeypatch.setattr(
        "dd_plugins.evaluation.evaluate.evaluate", lambda *_, **__: found
    )
    monkeypatch.setattr(DistilledSet, "load", lambda path: few)
    digits.save("set")
    said = run("evaluate", "set", "--json", "f.json")
    assert said.status == 0, said.stderr
    assert [row for row in rows(said.stdout) if row[0] != "trained on"] == [
        ["random real images", "2", "0.2500", "0.0000", "0.2500 to 0.2500"],
        ["distilled set", "10", "0.5000", "0.0000", "0.5000 to 0.5000"],
        ["all training images", "1,298", "0.7500", "0.0000", "0.7500 to 0.7500"],
        ["random real images", "2", "0.1000", "", ""],
        ["distilled set", "10", "0.6250", "", ""],
        ["all training images", "1,298", "0.9000", "", ""],
    ]
    assert "1,360 test images of others: 2 x mlp" in said.stdout
    assert "1 x conv" in said.stdout
    assert json.loads(Path("f.json").read_text()) == found.as_dict()


def test_retrieval_has_a_table_of_its_own(
    run: Run, digits: DistilledSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    same = (result("mlp", 0.5, 0.5, **SCORES),)
    found = Evaluation(same, same, same, 360, "retrieval")
    monkeypatch.setattr(
        "dd_plugins.evaluation.evaluate.evaluate", lambda *_, **__: found
    )
    digits.save("set")
    said = run("evaluate", "set", "--protocol", "retrieval")
    named = [row[0] for row in rows(said.stdout)[-9:]]
    assert named == ["precision at 1", "", "", "R-precision", "", "", "MAP@R", "", ""]
    means = [row[2] for row in rows(said.stdout)[-9:]]
    assert means == ["0.1250"] * 3 + ["0.2500"] * 3 + ["0.3750"] * 3


@pytest.mark.parametrize("images", [(10, 10), (10, 20)])
def test_differences_of_two_sets_have_a_sign_and_an_interval(
    run: Run,
    digits: DistilledSet,
    images: tuple[int, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    results = (result("mlp", 0.5, 0.5), result("conv", 0.25, 0.25))
    roles: Any = ("distilled with", "held out")
    sets = tuple(
        SetTransfer(f"set{count}", "dm", "dm", roles, results, count)
        for count in images
    )
    found = Transfer(
        sets,
        (Difference("mlp", -0.125, (-0.25, 0.0)), Difference("held out", 0.5, None)),
    )
    monkeypatch.setattr(
        "dd_plugins.evaluation.cross_architecture.transfer", lambda *_, **__: found
    )
    digits.save("set")
    said = run("transfer", "set", "--networks", "mlp,conv", "--html", "page.html")
    assert said.status == 0, said.stderr
    assert rows(said.stdout)[-2:] == [
        ["mlp", "-0.1250", "-0.2500 to +0.0000"],
        ["held out", "+0.5000", "one pair"],
    ]
    of_set = ["mlp", "distilled with", "0.5000", "0.0000", "0.5000 to 0.5000"]
    assert rows(said.stdout)[0] == of_set
    mean = ["mean, held out", "", "0.2500", "0.0000", "0.2500 to 0.2500"]
    assert rows(said.stdout)[2] == mean
    assert ("20 images less 10" in said.stdout) is (images == (10, 20))
    finding = said.stdout.splitlines()[0]
    assert " is 50.0 points better than set10 on the architectures" in finding
    page = Path("page.html").read_text()
    assert "-25.0 to +0.0" in page
    assert page.startswith("<!doctype html>")


def info_of(run: Run, path: Path | str) -> dict[str, str]:
    said = run("info", path)
    assert said.status == 0, said.stderr
    found = {}
    names = [name.replace("_", " ") for name in dd_plugins.api.Header.model_fields]
    for line in said.stdout.splitlines():
        for name in names:
            if line.strip().startswith(f"{name}  "):
                found[name] = line.strip().removeprefix(name).strip()
    return found


def test_info_says_what_old_files_do_not_record(run: Run) -> None:
    shutil.copy(ROOT / "tests" / "artifacts" / "format-1.safetensors", "old")
    told = info_of(run, "old")
    assert told["context"] == told["initial images"] == "not recorded in version 1"
    assert "stored values" not in told
    count = len(DistilledSet.read_header("old").initial_classes)
    assert told["stored images"] == str(count)


def test_info_tells_each_set_that_stands_behind_another(
    run: Run, digits: DistilledSet
) -> None:
    told = []
    made = digits
    for seed, refined in ((5, True), (6, False)):
        header = made.header.model_copy(update={"seed": seed})
        context = ContextRecord(refined=refined, header=header)
        made = replace(
            digits, header=digits.header.model_copy(update={"context": context})
        )
        made.save("set")
        told.append(info_of(run, "set")["context"])
    assert "seed 5" in told[0]
    assert "learned further" in told[0]
    assert told[1].index("seed 6") < told[1].index("seed 5")
    assert told[1].index("kept as they were") < told[1].index("learned further")
    assert "beside 10 images by random" in told[1]
    digits.save("set")
    plain = info_of(run, "set")
    assert plain["context"] == "none"


def test_info_tells_what_else_was_learned(run: Run, digits: DistilledSet) -> None:
    for learned, told in (({}, "nothing else"), ({"rate": [0.5]}, r"rate.*0\.5")):
        header = digits.header.model_copy(update={"learned": learned})
        replace(digits, header=header).save("set")
        assert re.search(f"also learned +.*{told}", run("info", "set").stdout)


def test_info_claims_nothing_about_a_set_of_other_code(run: Run) -> None:
    data = dd_plugins.get_dataset("digits")
    images, labels = data.train.images[:20], data.train.labels[:20]
    DistilledSet.from_tensors(images, labels, data, space="pixels").save("set")
    told = info_of(run, "set")
    for name in ("seed", "precision", "initial classes", "initial images"):
        assert told[name] == "unknown", name


def test_info_shows_the_first_of_many_and_all_as_json(
    run: Run, digits: DistilledSet
) -> None:
    many = list(range(10)) * 2
    images, labels = digits.images.repeat(2, 1, 1, 1), digits.labels.repeat(2, 1)
    changed = {"initial_classes": many, "initial_indices": None}
    header = digits.header.model_copy(
        update=changed | {"stored_images": 20, "stored_values": 20 * 64}
    )
    made = replace(digits, images=images, labels=labels, header=header)
    made.save("set")
    shown = info_of(run, "set")["initial classes"]
    assert shown == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, ... (20)"
    fields = json.loads(run("info", "set", "--json").stdout)
    assert fields["initial_classes"] == many
    assert fields["content_hash"] == made.content_hash()


def test_a_picture_lies_beside_its_set_if_nobody_says(
    run: Run, digits: DistilledSet
) -> None:
    Path("deep/run").mkdir(parents=True)
    digits.save("deep/run/distilled.safetensors")
    for path in ("deep/run", "deep/run/distilled.safetensors"):
        said = run("show", path)
        assert said.status == 0, said.stderr
        assert str(Path("deep/run/grid.png")) in said.stdout
        Path("deep/run/grid.png").unlink()


def test_networks_are_trained_once_for_each_stage(run: Run) -> None:
    words = ["train-networks", "--network", "mlp(width=2)", "--cache", "kept"]
    words += ["--steps", "1", "--steps", "2"]
    first = run(*words)
    assert first.status == 0, first.stderr
    lines = first.stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "mlp(width=2), 1 steps",
        "mlp(width=2), 2 steps",
    ]
    assert all("trained" in line and "validation 0." in line for line in lines)
    files = {file: file.stat().st_mtime_ns for file in Path("kept").iterdir()}
    second = run(*words)
    assert second.stdout == first.stdout.replace(": trained,", ": kept before,")
    assert {file: file.stat().st_mtime_ns for file in Path("kept").iterdir()} == files


@pytest.mark.parametrize(
    "words",
    [
        ("estimate",),
        ("relabel", "run", "--teacher", "mlp", "--out", "taught.safetensors"),
        ("train-networks", "--network", "mlp"),
        ("train-experts", "--network", "mlp"),
        ("train-generator",),
        ("show", "run"),
        ("export", "run", "--out", "set.npz", "--to", "npz"),
        ("audit", "herding"),
        ("train-private", "--dataset", "digits", "--epsilon", "1", "--out", "a"),
        ("continual",),
    ],
    ids=lambda words: words[0],
)
def test_work_of_one_process_is_refused_under_torchrun(
    run: Run, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    ended = run(*words)
    assert ended.status == 2
    told = f"{words[0]} works in one process, got 2: start it without torchrun"
    assert told in ended.stderr


def test_the_list_of_plugins_tells_offers_needs_and_failures(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Needy:
        @hookimpl
        def dd_missing_extra(self) -> str:
            return "needy[all]"

        @hookimpl
        def dd_register_datasets(self, register: Any) -> None:
            register("needs", lambda options: None)

    plugins = Plugins(load=[], extra={"needy": Needy(), "bad": Needy.__new__(object)})
    bad = plugins.plugins[-1]
    bad.error, bad.distribution, bad.version = "ImportError: \x1b gone", "dist", "1.5"
    monkeypatch.setattr("dd_plugins.plugins.manager.loaded_plugins", lambda: plugins)
    assert run("plugins").stdout.splitlines() == [
        "needy: needs needy[all]",
        "    data set: needs",
        "    hooks: dd_missing_extra, dd_register_datasets",
        r"bad (dist) 1.5: failed: ImportError: \x1b gone",
    ]
    everything = run("plugins", "--all").stdout
    assert "built_in (built in): loaded" in everything
    assert "network: " in everything
    listed = json.loads(run("plugins", "--json").stdout)
    assert [each["name"] for each in listed] == ["needy", "bad"]
