"""Exports, beside what test_artifact.py shows of them."""

import errno
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_sets import made_set
from PIL import Image

from dd_plugins import DistilledSet, export
from dd_plugins.data.preprocess import Transform
from dd_plugins.errors import DDWarning, FileError, OptionError
from dd_plugins.exports import pictures


def in_colour(**fields: object) -> DistilledSet:
    images = torch.rand(6, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    made = made_set(stored_values=6 * 60, **fields)
    return replace(made, images=2 * images - 0.5, transform=Transform.identity(3))


def test_pictures_have_the_set_s_colours_clipped(tmp_path: Path) -> None:
    made = in_colour(label_kind="probabilities")
    folder = export(made, "folder", tmp_path / "pictures")
    told = json.loads((folder / "labels.json").read_text())
    assert told["label_kind"] == "probabilities"
    assert [row["label"] for row in told["images"]] == made.labels.tolist()
    for row, image in zip(told["images"], made.images, strict=True):
        found = np.asarray(Image.open(folder / row["file"])) / 255
        expected = image.clamp(0, 1).movedim(0, -1)
        np.testing.assert_allclose(found, expected, atol=0.5 / 255 + 1e-6)


def test_classes_of_like_names_have_folders_of_their_own(tmp_path: Path) -> None:
    names = ["a/b", "a b", "a:b"]
    folder = export(in_colour(class_names=names), "folder", str(tmp_path / "out"))
    folders = sorted(each.name for each in folder.iterdir() if each.is_dir())
    assert [name[:3] for name in folders] == ["000", "001", "002"]
    assert [len(list((folder / name).iterdir())) for name in folders] == [2, 2, 2]
    told = json.loads((folder / "labels.json").read_text())
    assert told["class_names"] == names


@pytest.mark.parametrize("form", ["npz", "pt"])
def test_a_file_that_cannot_be_written_leaves_nothing(
    form: str, tmp_path: Path
) -> None:
    taken = tmp_path / "file"
    taken.write_text("mine")
    with pytest.raises(FileError, match="file"):
        export(made_set(), form, taken / "below")
    nowhere = tmp_path / "link"
    nowhere.symlink_to(tmp_path / "absent")
    with pytest.raises(OptionError, match="link"):
        export(made_set(), form, nowhere)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["file", "link"]
    assert taken.read_text() == "mine"


@pytest.mark.parametrize("empty", [False, True])
def test_a_stopped_export_can_be_repeated(
    empty: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "below" / "out"
    if empty:
        out.mkdir(parents=True)
    write_set = pictures.write_set

    def stopped(*given: Any) -> None:
        write_set(*given)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pictures, "write_set", stopped)
        with pytest.raises(KeyboardInterrupt):
            export(in_colour(), "folder", out)
    assert (out.exists(), list(out.parent.rglob("*"))) == (empty, [out] * empty)
    assert (export(in_colour(), "folder", out) / "train.py").exists()


def test_an_earlier_export_is_kept_if_it_cannot_be_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = export(in_colour(), "folder", tmp_path / "out")
    (folder / "mine").touch()
    rename = Path.rename

    def failing(self: Path, target: Path) -> Path:
        if self.name == "new":
            raise OSError(errno.ENOSPC, "no space left")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(FileError, match="out: no space left"):
        export(in_colour(), "folder", folder, overwrite=True)
    assert (folder / "mine").exists()
    assert [each.name for each in tmp_path.iterdir()] == ["out"]


def whitened_set(*, learned: bool) -> DistilledSet:
    images = torch.rand(6, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    made = replace(in_colour(), transform=Transform.fit(images, "zca"))
    return replace(made, labels=made.labels + 0.1 * learned)


def test_pictures_alone_of_a_whitened_set_are_warned_of(tmp_path: Path) -> None:
    with pytest.warns(DDWarning, match="PNG files alone may train far worse"):
        folder = export(whitened_set(learned=True), "folder", tmp_path / "learned")
    told = json.loads((folder / "labels.json").read_text())
    assert "PNG files alone may train far worse" in told["note"]
    folder = export(whitened_set(learned=False), "folder", tmp_path / "plain")
    assert "note" not in json.loads((folder / "labels.json").read_text())


def test_a_folder_holds_all_tensors_and_the_recipe_too(tmp_path: Path) -> None:
    made = whitened_set(learned=False)
    folder = export(made, "folder", tmp_path / "out")
    with np.load(folder / "set.npz", allow_pickle=False) as file:
        np.testing.assert_array_equal(file["images"], made.images)
        recipe = json.loads(str(file["recipe"]))
    assert json.loads((folder / "labels.json").read_text())["recipe"] == recipe
    assert (folder / "train.py").exists()


def test_a_path_is_exported_with_the_hash_of_its_content(tmp_path: Path) -> None:
    made = made_set()
    file = made.save(tmp_path / "set.safetensors")
    for given, out in ((file, "a.npz"), (made, "b.npz")):
        with np.load(export(given, "npz", tmp_path / out)) as exported:
            header = json.loads(str(exported["header"]))
        assert header["content_hash"] == made.content_hash()
    with pytest.raises(OptionError, match="out must be a path, got 5"):
        export(made, "npz", 5)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("form", "out", "script"),
    [
        ("npz", "pets.npz", "pets-train.py"),
        ("pt", "a b.pt", "'a b-train.py'"),
        ("folder", "pets", "pets/train.py"),
        ("hub", "pets", "pets/train.py"),
    ],
)
def test_export_says_what_to_type_next(
    form: str, out: str, script: str, in_process: Any, tmp_path: Path
) -> None:
    in_colour().save(tmp_path / "set.safetensors")
    said = in_process("export", "set.safetensors", "--to", form, "--out", out)
    assert said.stdout == (
        f"exported to {out}\nnext: python {script} --test TEST, "
        "a folder with a subfolder for each class, an .npz file of images and labels, "
        "or a data set of torchvision such as MNIST\n"
    )
    assert (tmp_path / script.strip("'")).exists()
