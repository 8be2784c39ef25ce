"""Folders for the Hugging Face hub, and their upload; nothing leaves this machine."""

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import DatasetCard, HfApi
from huggingface_hub.utils import filter_repo_objects
from made_sets import made_set

import dd_plugins
from dd_plugins import DistilledSet, push_to_hub
from dd_plugins.errors import MissingExtraError, OptionError, RunError
from dd_plugins.synthetic.header import ContextRecord, DataRecord
from dd_plugins.synthetic.privacy_record import PrivacyRecord

FILES = ["README.md", "distilled.safetensors", "images.png", "set.npz", "train.py"]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder in which repositories arrive that are uploaded."""

    def create_repo(self: HfApi, repo_id: str, **options: Any) -> str:
        assert options == {"repo_type": "dataset", "private": True, "exist_ok": True}
        return f"https://hub/{repo_id}"

    def upload_folder(
        self: HfApi, *, repo_id: str, folder_path: Path, allow_patterns: Any, **_: Any
    ) -> None:
        uploaded = tmp_path / "hub" / repo_id
        uploaded.mkdir(parents=True)
        names = [str(path.relative_to(folder_path)) for path in folder_path.rglob("*")]
        for name in filter_repo_objects(names, allow_patterns=allow_patterns):
            shutil.copy(folder_path / name, uploaded / name)

    monkeypatch.setattr(HfApi, "create_repo", create_repo)
    monkeypatch.setattr(HfApi, "upload_folder", upload_folder)
    return tmp_path / "hub"


def test_what_is_pushed_is_loaded_again(hub: Path) -> None:
    made = made_set()
    assert push_to_hub(made, "me/toys", private=True) == "https://hub/me/toys"
    arrived = hub / "me" / "toys"
    assert sorted(path.name for path in arrived.iterdir()) == FILES
    assert torch.equal(DistilledSet.load(arrived).images, made.images)
    card = DatasetCard.load(arrived / "README.md")
    assert card.data.license is None
    assert "dataset-distillation" in card.data.tags
    assert 'snapshot_download("me/toys"' in card.text
    assert "dd_plugins.evaluate(distilled, data=REAL_DATA)" in card.text


def test_a_changed_card_is_uploaded_as_it_is(hub: Path, tmp_path: Path) -> None:
    folder = dd_plugins.export(made_set(), "hub", tmp_path / "written")
    card = folder / "README.md"
    card.write_text(card.read_text().replace("# license: choose one", "license: mit #"))
    assert push_to_hub(folder, "me/toys", private=True)
    assert DatasetCard.load(hub / "me" / "toys" / "README.md").data.license == "mit"


@pytest.mark.parametrize("exported", [False, True])
def test_files_beside_a_set_are_not_uploaded(
    hub: Path, tmp_path: Path, exported: bool
) -> None:
    data = DataRecord(name="folder:/home/me/pets", fingerprint="", train_images=9)
    folder, made = tmp_path / "run", made_set(dataset=data)
    if exported:
        dd_plugins.export(made, "hub", folder)
    else:
        made.save(folder / "distilled.safetensors")
    for name in ("checkpoint.pt", "notes/README.md", "README.md"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("of this machine alone")
    push_to_hub(folder, "me/toys", private=True)
    arrived = hub / "me" / "toys"
    assert sorted(path.name for path in arrived.iterdir()) == FILES
    assert ((arrived / "README.md").stat().st_size == 21) == exported
    assert DistilledSet.load(arrived).header.dataset.name == "folder:pets"


def test_a_card_holds_hostile_names_as_text(tmp_path: Path) -> None:
    hostile = "a|b`c\n---\n<script>[x](y)"
    made = made_set(distiller=hostile, class_names=[hostile, "bee", "cow"])
    folder = dd_plugins.export(made, "hub", tmp_path / "written")
    card = DatasetCard.load(folder / "README.md")
    assert card.data.pretty_name == "toy, distilled by a|b`c\\n---\\n<script>[x]"
    table = card.text.partition("| field | value |")[2]
    rows = [line for line in table.splitlines() if line.startswith("| ")]
    assert all(len(line.replace(r"\|", "").split("|")) == 4 for line in rows)
    outside = "".join(card.text.replace(r"\`", "").split("`")[::2])
    assert "<script>" not in outside.replace(r"\<script\>", "")


def test_no_file_tells_where_data_lay(tmp_path: Path) -> None:
    data = DataRecord(name="folder:/home/me/pets", fingerprint="", train_images=9)
    first = made_set(dataset=data)
    made = made_set(
        dataset=data,
        context=ContextRecord(refined=False, header=first.header),
        distiller="dp_dm(epsilon=1.0, public='folder:C:\\\\home\\\\me\\\\cats')",
        options={"public": "'npz:/home/me/cats.npz'", "epsilon": "1.0"},
    )
    folder = dd_plugins.export(made, "hub", tmp_path / "written")
    card = (folder / "README.md").read_text()
    assert "# pets, distilled by dp" in card
    assert 'evaluate(distilled, data="folder:PLACE OF THE REAL IMAGES")' in card
    loaded = DistilledSet.load(folder)
    assert loaded.header.dataset.name == "folder:pets"
    assert loaded.header.distiller == "dp_dm(epsilon=1.0, public='folder:cats')"
    assert loaded.header.options == {"public": "'npz:cats.npz'", "epsilon": "1.0"}
    assert loaded.header.context is not None
    assert loaded.header.context.header.dataset.name == "folder:pets"
    for path in folder.rglob("*"):
        written = path.read_bytes()
        assert b"home" not in written
        assert "home".encode("utf-32-le") not in written  # text in NumPy's files


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("digits", "evaluate(distilled)"),
        ("tensors", "evaluate(distilled, data=REAL_DATA)"),
    ],
)
def test_the_card_asks_for_data_that_has_no_registered_name(
    tmp_path: Path, name: str, call: str
) -> None:
    made = made_set(dataset=DataRecord(name=name, fingerprint="", train_images=9))
    folder = dd_plugins.export(made, "hub", tmp_path / "written")
    assert call in (folder / "README.md").read_text()


def test_names_that_no_repository_can_have_are_refused(hub: Path) -> None:
    for name in ("toys", "a/b/c", "me/to ys"):
        with pytest.raises(OptionError, match="repo_id"):
            push_to_hub(made_set(), name, private=True)
    assert not hub.exists()


def test_a_hub_that_refuses_is_told_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("401\nUnauthorized")

    monkeypatch.setattr(HfApi, "create_repo", refuse)
    with pytest.raises(RunError, match="me/toys: 401 Unauthorized; log in"):
        push_to_hub(made_set(), "me/toys")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingExtraError, match=r"dd-plugins\[hub\]"):
        push_to_hub(made_set(), "me/toys")


def test_the_command_uploads(hub: Path, in_process: Any, tmp_path: Path) -> None:
    made_set().save(tmp_path / "set.safetensors")
    said = in_process("push-to-hub", "set.safetensors", "me/toys", "--private")
    assert said.stdout == "uploaded to https://hub/me/toys\n"
    assert (hub / "me" / "toys" / "README.md").exists()


def test_the_card_says_what_epsilon_does_not_cover(tmp_path: Path) -> None:
    record = PrivacyRecord(
        epsilon=1.0,
        delta=1e-5,
        accountant="prv",
        mechanism="sums",
        sampling="poisson",
        sample_rate=0.1,
        steps=5,
        noise_multiplier=2.0,
        clipping_norm=1.0,
        secure_noise=False,
        not_covered=["The choice of options.", "Accuracies on private images."],
    )
    folder = dd_plugins.export(made_set(privacy=record), "hub", tmp_path / "written")
    card = (folder / "README.md").read_text()
    for sentence in record.not_covered:
        assert f"| not covered by epsilon | `{sentence}` |" in card
