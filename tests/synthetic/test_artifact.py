"""The artifact: kept bit for bit, readable by others, and never taken if damaged."""

import hashlib
import json
import os
import random
import re
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

import dd_plugins
from dd_plugins import DistilledSet, RealData, export, get_dataset
from dd_plugins.errors import DataError, DDWarning, FileError, OptionError
from dd_plugins.synthetic.artifact import ARTIFACT_NAME
from dd_plugins.synthetic.header import DEEPEST_CONTEXT, ContextRecord
from dd_plugins.synthetic.parametrizations.packed import Packed

SPEC = "frepo(pool_size=1, real_batch_size=64)"
NETWORK = "conv(width=4, depth=1)"


def one_line(error: BaseException) -> str:
    text = str(error)
    assert text.isprintable(), f"not one printable line: {text!r}"
    return text


@pytest.fixture(scope="module", params=["standardize", "zca"])
def distilled(request: pytest.FixtureRequest) -> DistilledSet:
    """A small set, in either value space."""
    data = get_dataset("digits").with_preprocessing(request.param)
    options: dict[str, Any] = {"network": NETWORK, "device": "cpu", "seed": 3}
    return dd_plugins.distill(data, SPEC, steps=1, images_per_class=2, **options)


@pytest.fixture(scope="module")
def content(distilled: DistilledSet, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of its file."""
    return distilled.save(tmp_path_factory.mktemp("set") / "set").read_bytes()


@pytest.fixture
def file(content: bytes, tmp_path: Path) -> Path:
    """Its file, to be damaged."""
    path = tmp_path / "set.safetensors"
    path.write_bytes(content)
    return path


def tensors_of(distilled: DistilledSet) -> dict[str, Tensor]:
    return {
        "images": distilled.images,
        "labels": distilled.labels,
        **distilled.transform.tensors(),
    }


def test_saving_and_loading_keep_every_bit(
    distilled: DistilledSet, file: Path, content: bytes, tmp_path: Path
) -> None:
    loaded = DistilledSet.load(file)
    before, after = tensors_of(distilled), tensors_of(loaded)
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert tensor.dtype == after[name].dtype == torch.float32
        assert torch.equal(tensor, after[name]), name
    assert loaded.transform.kind == distilled.transform.kind
    assert loaded.header.content_hash == distilled.content_hash()
    nameless = loaded.header.model_copy(update={"content_hash": ""})
    assert nameless == distilled.header.model_copy(update={"content_hash": ""})
    assert loaded.save(tmp_path / "again").read_bytes() == content


def test_a_suffix_of_another_kind_of_file_is_warned_of(
    distilled: DistilledSet, tmp_path: Path
) -> None:
    told = r"set\.PT is written as a safetensors file.*; name it set\.safetensors$"
    with pytest.warns(DDWarning, match=told):
        saved = distilled.save(tmp_path / "set.PT")
    assert torch.equal(DistilledSet.load(saved).images, distilled.images)
    for name in ("set.safetensors", "set-0.5", "set"):
        distilled.save(tmp_path / name)


def test_a_path_is_the_file_or_the_folder_that_holds_it(
    distilled: DistilledSet, tmp_path: Path
) -> None:
    saved = distilled.save(tmp_path / "run" / ARTIFACT_NAME)
    assert saved == tmp_path / "run" / ARTIFACT_NAME
    for path in (saved, str(saved), saved.parent, str(saved.parent)):
        assert torch.equal(DistilledSet.load(path).images, distilled.images)
        assert DistilledSet.read_header(path).steps == 1


def test_the_header_tells_where_the_set_comes_from(file: Path) -> None:
    data = get_dataset("digits")
    header = DistilledSet.read_header(file)
    assert (header.format_version, header.label_kind) == (7, "regression")
    assert header.distiller.startswith("frepo(pool_size=1, max_online_updates=100, ")
    assert header.options["pool_size"] == "1"
    assert header.options["max_online_updates"] == "100", "also what is at its default"
    assert header.network == "conv(width=4, depth=1, normalization='batch')"
    assert header.evaluation_network == "conv(width=4, depth=1, normalization='none')"
    assert (header.steps, header.seed, header.mirror) == (1, 3, False)
    assert header.class_names == list("0123456789")
    assert header.initial_classes == [digit for digit in range(10) for _ in range(2)]
    assert header.dataset.name == "digits"
    assert header.dataset.fingerprint == data.fingerprint
    assert header.dataset.train_images == len(data.train.labels)
    assert header.versions.keys() >= {"python", "torch", "numpy", "dd-plugins"}


def test_the_header_is_read_without_the_tensors(file: Path, content: bytes) -> None:
    ruined = content[: len(content) // 2].ljust(len(content), b"\xff")
    assert len(content) // 2 > header_end(content)
    file.write_bytes(ruined)
    assert DistilledSet.read_header(file).steps == 1
    with pytest.raises(FileError, match="damaged"):
        DistilledSet.load(file)


def test_pixels_are_pictures_in_the_unit_range(distilled: DistilledSet) -> None:
    pixels = distilled.pixels()
    assert pixels.shape == (20, 1, 8, 8)
    assert pixels.dtype == torch.float32
    assert 0 <= pixels.min() < pixels.max() <= 1
    far = replace(distilled, images=distilled.images * 100).pixels()
    assert (far.min(), far.max()) == (0, 1)


def test_preprocessing_is_undone_by_pixels(distilled: DistilledSet) -> None:
    images = get_dataset("digits").read_test().images[:50]
    values = distilled.preprocess(images)
    assert torch.equal(values, distilled.transform(images))
    assert not torch.allclose(values, images, atol=0.1)
    back = replace(distilled, images=values).pixels()
    torch.testing.assert_close(back, images, atol=1e-4, rtol=0)


def test_preprocessing_divides_bytes_by_255(distilled: DistilledSet) -> None:
    pixels = torch.arange(128, dtype=torch.uint8).view(2, 1, 8, 8)
    assert torch.equal(distilled.preprocess(pixels), distilled.preprocess(pixels / 255))


@pytest.mark.parametrize(
    "shape", [(1, 8, 8), (2, 1, 8, 7), (2, 3, 8, 8), (2, 64), (1, 2, 1, 8, 8), ()]
)
def test_preprocessing_refuses_other_shapes(
    distilled: DistilledSet, shape: tuple[int, ...]
) -> None:
    told = rf"\(n, 1, 8, 8\), got {re.escape(str(shape))}"
    with pytest.raises(OptionError, match=told) as refused:
        distilled.preprocess(torch.zeros(shape))
    one_line(refused.value)


def test_the_set_is_a_torch_dataset_in_either_space(distilled: DistilledSet) -> None:
    model, pixels = distilled.as_dataset(), distilled.as_dataset("pixels")
    assert len(distilled) == len(model) == len(pixels) == 20
    image, label = model[7]
    assert torch.equal(image, distilled.images[7])
    assert torch.equal(label, distilled.labels[7])
    assert torch.equal(pixels[7][0], distilled.pixels()[7])
    assert torch.equal(pixels[7][1], distilled.labels[7])


def test_an_unknown_space_is_refused(distilled: DistilledSet) -> None:
    with pytest.raises(OptionError, match="space"):
        distilled.as_dataset("modle")  # type: ignore[arg-type]


def header_end(content: bytes) -> int:
    """Return where the tensors begin in a safetensors file."""
    return 8 + int.from_bytes(content[:8], "little")


def refused(file: Path) -> str:
    """Return the one line with which a file is refused."""
    with pytest.raises(FileError) as error:
        DistilledSet.load(file)
    assert str(file) in str(error.value)
    return one_line(error.value)


def test_a_file_cut_off_anywhere_is_refused(file: Path, content: bytes) -> None:
    end = header_end(content)
    lengths = {0, 1, 7, 8, 9, end - 1, end, end + 1, len(content) - 1}
    lengths |= set(random.Random(0).sample(range(len(content)), 100))
    for length in lengths:
        file.write_bytes(content[:length])
        refused(file)


@pytest.mark.parametrize("part", ["length", "header", "tensors"])
def test_a_bit_flipped_anywhere_is_found(part: str, file: Path, content: bytes) -> None:
    end = header_end(content)
    start, stop = {"length": (0, 8), "header": (8, end), "tensors": (end, None)}[part]
    places = range(start, stop or len(content))
    draw = random.Random(part)
    bits = [(place, bit) for place in places for bit in range(8)]
    for place, bit in draw.sample(bits, min(200, len(bits))):
        damaged = bytearray(content)
        damaged[place] ^= 1 << bit
        file.write_bytes(damaged)
        assert refused(file), (place, bit)


def test_bytes_behind_the_end_are_refused(file: Path, content: bytes) -> None:
    file.write_bytes(content + b"\0")
    refused(file)


def test_files_of_version_1_stay_as_they_are(
    distilled: DistilledSet, tmp_path: Path
) -> None:
    fields: dict[str, Any] = {"format_version": 1, "initial_images": None}
    older = replace(distilled, header=distilled.header.model_copy(update=fields))
    file = older.save(tmp_path / "older.safetensors")
    with safe_open(file, framework="pt") as opened:
        header = json.loads(opened.metadata()["dd_plugins"])
    newer = {"initial_images", "context", "recipe", "parametrization", "learned"}
    assert header.keys().isdisjoint(newer)
    loaded = DistilledSet.load(file)
    assert loaded.save(tmp_path / "again").read_bytes() == file.read_bytes()
    del header["content_hash"]
    digest = hashlib.sha256()
    for name, tensor in sorted(load_file(file).items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.numpy().tobytes())
    digest.update(json.dumps(header, sort_keys=True).encode())
    assert loaded.header.content_hash == digest.hexdigest()


def forge(file: Path, **fields: Any) -> None:
    """Rewrite a file with other header fields."""
    header = DistilledSet.read_header(file).model_dump() | fields
    save_file(load_file(file), file, metadata={"dd_plugins": json.dumps(header)})


@pytest.mark.parametrize("version", [8, 99, "8"])
def test_a_newer_format_is_refused_with_what_to_do(file: Path, version: Any) -> None:
    forge(file, format_version=version)
    told = rf"format version {version}, this dd-plugins reads at most 7; upgrade"
    assert re.search(told, refused(file))
    with pytest.raises(FileError, match=told):
        DistilledSet.read_header(file)


@pytest.mark.parametrize(
    "fields",
    [
        {"seed": 4},
        {"distiller": "mtt"},
        {"class_names": list("9876543210")},
        {"steps": "1"},
        {"steps": None},
        {"label_kind": "votes"},
        {"value_space": "rgb"},
        {"surprise": 1},
        {"dataset": {"name": "mnist"}},
        {"format_version": 0},
        {"format_version": 1, "context": None},
        {"format_version": 1.5},
        {"format_version": None},
        {"format_version": [1]},
        {"content_hash": "0" * 64},
        {"content_hash": ""},
        {"format_version": float("inf")},
    ],
    ids=str,
)
def test_a_changed_header_is_refused(file: Path, fields: dict[str, Any]) -> None:
    forge(file, **fields)
    assert "damaged" in refused(file)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no JSON",
        "null",
        "5",
        "[]",
        "{}",
        "[" * 100_000,
    ],
    ids=lambda text: text[:8],
)
def test_a_header_that_is_no_header_is_refused(file: Path, text: str) -> None:
    save_file(load_file(file), file, metadata={"dd_plugins": text})
    assert "damaged" in refused(file)


@pytest.mark.parametrize("name", ["images", "labels", "transform.mean"])
@pytest.mark.parametrize("change", ["missing", "renamed", "other type", "other shape"])
def test_changed_tensors_are_refused(file: Path, name: str, change: str) -> None:
    tensors = load_file(file)
    tensor = tensors.pop(name)
    if change == "renamed":
        tensors[f"{name}s"] = tensor
    elif change == "other type":
        tensors[name] = tensor.double()
    elif change == "other shape":
        tensors[name] = tensor.flatten()[None]
    header = DistilledSet.read_header(file).model_dump_json()
    save_file(tensors, file, metadata={"dd_plugins": header})
    assert "damaged" in refused(file)


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_a_safetensors_file_of_others_is_told_apart(
    tmp_path: Path, metadata: dict[str, str] | None
) -> None:
    file = tmp_path / "weights.safetensors"
    save_file({"weight": torch.zeros(3)}, file, metadata=metadata)
    assert "got another safetensors file; give the" in refused(file)


@pytest.mark.parametrize("kind", ["text", "empty", "zeros", "torch", "image"])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "file"
    if kind == "torch":
        torch.save({"images": torch.zeros(3)}, file)
    elif kind == "image":
        Image.new("L", (4, 4)).save(file, format="PNG")
    else:
        bytes_of = {"text": b"not an artifact", "empty": b"", "zeros": bytes(1000)}
        file.write_bytes(bytes_of[kind])
    assert "expected an artifact of dd-plugins" in refused(file)


def test_a_missing_file_and_an_empty_folder_are_told(tmp_path: Path) -> None:
    assert "does not exist" in refused(tmp_path / "nothing")
    assert f"with its {ARTIFACT_NAME}, found none; distil first" in refused(tmp_path)
    (tmp_path / ARTIFACT_NAME).mkdir()
    assert f"with its {ARTIFACT_NAME}, found none" in refused(tmp_path)


@pytest.mark.filterwarnings("ignore:PNG files alone")
def test_exported_folder_holds_the_pixels_and_labels(
    distilled: DistilledSet, tmp_path: Path
) -> None:
    folder = tmp_path / "new" / "pictures"
    assert export(distilled, "folder", folder) == folder
    described = json.loads((folder / "labels.json").read_text())
    assert described["label_kind"] == "regression"
    assert described["class_names"] == list("0123456789")
    rows = described["images"]
    assert len(rows) == len(list(folder.rglob("*.png"))) == 20
    labels = torch.tensor([row["label"] for row in rows])
    assert torch.equal(labels, distilled.labels)
    files = [folder / row["file"] for row in rows]
    pixels = np.stack([np.asarray(Image.open(file)) for file in files]) / 255
    assert np.abs(pixels - distilled.pixels().numpy()[:, 0]).max() <= 1 / 255
    classes = [file.parent.name for file in files]
    expected = distilled.header.initial_classes
    assert classes == [f"{number:03d}-{number}" for number in expected]


@pytest.mark.filterwarnings("ignore:PNG files alone")
def test_exported_folder_is_a_data_set_again(
    distilled: DistilledSet, tmp_path: Path
) -> None:
    data = get_dataset(f"folder:{export(distilled, 'folder', tmp_path / 'pictures')}")
    assert torch.bincount(data.train.labels).tolist() == [1] * 10
    assert torch.bincount(data.read_test().labels).tolist() == [1] * 10


def read_npz(path: Path) -> dict[str, Any]:
    with np.load(path, allow_pickle=False) as archive:
        return dict(archive)


def read_pt(path: Path) -> dict[str, Any]:
    read: dict[str, Any] = torch.load(path, weights_only=True)
    return read


@pytest.mark.parametrize(("form", "read"), [("npz", read_npz), ("pt", read_pt)])
def test_exported_file_holds_all_and_needs_no_pickle(
    distilled: DistilledSet,
    form: str,
    read: Callable[[Path], dict[str, Any]],
    tmp_path: Path,
) -> None:
    path = tmp_path / f"set.{form}"
    assert export(distilled, form, path) == path
    found = read(path)
    expected: dict[str, Any] = {
        "pixels": distilled.pixels(),
        "images": distilled.images,
        "labels": distilled.labels,
        "classes": torch.tensor(distilled.header.initial_classes),
    }
    for name, tensor in distilled.transform.tensors().items():
        expected[f"transform_{name}"] = tensor
    for name, tensor in expected.items():
        assert torch.equal(torch.as_tensor(found.pop(name)), tensor), name
    assert list(found.pop("class_names")) == list("0123456789")
    assert json.loads(str(found.pop("header")))["seed"] == 3
    assert json.loads(str(found.pop("recipe")))["label_kind"] == "regression"
    assert found == {}


@pytest.mark.filterwarnings("ignore:PNG files alone")
def test_exporting_leaves_what_is_there_alone(
    distilled: DistilledSet, tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    export(distilled, "folder", folder)  # an empty one is taken
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "mine").write_text("mine")
    for occupied in (kept, kept / "mine"):
        with pytest.raises(OptionError, match=r"choose another") as error:
            export(distilled, "folder", occupied, overwrite=True)
        assert str(occupied) in one_line(error.value)
    assert [(path.name, path.read_text()) for path in kept.iterdir()] == [
        ("mine", "mine")
    ]


@pytest.mark.filterwarnings("ignore:PNG files alone")
@pytest.mark.parametrize("form", ["folder", "hub", "npz", "pt"])
def test_an_export_is_replaced_on_request(
    distilled: DistilledSet, form: str, tmp_path: Path
) -> None:
    path = tmp_path / "out"
    export(distilled, form, path)
    held, stale = path / "set.npz" if path.is_dir() else path, path / "stale.png"
    held.write_bytes(b"old")
    if path.is_dir():
        stale.touch()
    with pytest.raises(OptionError, match=r"with --overwrite \(overwrite=True\)"):
        export(distilled, form, path)
    before = {each.name for each in tmp_path.iterdir()}
    assert export(distilled, form, path, overwrite=True) == path
    assert {each.name for each in tmp_path.iterdir()} == before
    assert held.read_bytes() != b"old"
    assert not stale.exists()


@pytest.mark.parametrize("form", ["zip", "", "Folder"])
def test_an_unknown_form_is_refused(
    distilled: DistilledSet, form: str, tmp_path: Path
) -> None:
    with pytest.raises(OptionError, match="expected 'folder', 'npz', 'pt', 'hub'"):
        export(distilled, form, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("form", ["npz", "pt"])
def test_exporting_replaces_nothing(
    distilled: DistilledSet, form: str, tmp_path: Path
) -> None:
    with pytest.raises(OptionError, match="exists; choose another name"):
        export(distilled, form, tmp_path)


def of_classes(distilled: DistilledSet, first: str) -> DistilledSet:
    """Return the set with another name for the first class."""
    names = [first, *distilled.header.class_names[1:]]
    header = distilled.header.model_copy(update={"class_names": names})
    return replace(distilled, header=header)


@pytest.mark.filterwarnings("ignore:PNG files alone")
@pytest.mark.parametrize(
    "name",
    [
        "../../outside",
        "/absolute",
        "..",
        "back\\slash",
        "",
        "ünï 🎈",
        "long " * 100,
        "nul\0",
    ],
    ids=lambda name: repr(name)[:16],
)
def test_no_class_name_leads_out_of_the_folder(
    distilled: DistilledSet, name: str, tmp_path: Path
) -> None:
    folder = tmp_path / "deep" / "down"
    export(of_classes(distilled, name), "folder", folder)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    beside = [folder / name for name in ("labels.json", "set.npz", "train.py")]
    assert sorted(files) == sorted([*folder.glob("*/*.png"), *beside])
    assert len(files) == 23


def test_a_class_name_that_is_no_text_does_not_lose_the_run(tmp_path: Path) -> None:
    # What Python makes of a folder whose name is not in UTF-8.
    names = ["caf\udce9", "tea"]
    images, labels = torch.rand(20, 1, 8, 8), torch.arange(20) % 2
    options: dict[str, Any] = {"network": NETWORK, "device": "cpu", "steps": 1}
    with suppress(DataError):
        data = RealData.from_tensors(images, labels, class_names=names)
        dd_plugins.distill(data, SPEC, out=tmp_path / "run", **options)
        assert DistilledSet.load(tmp_path / "run").header.class_names[1] == "tea"


def test_pictures_of_five_channels_are_refused_for_a_folder(tmp_path: Path) -> None:
    images = torch.rand(20, 5, 8, 8, generator=torch.Generator().manual_seed(0))
    options: dict[str, Any] = {"network": NETWORK, "device": "cpu", "steps": 1}
    five = dd_plugins.distill((images, torch.arange(20) % 2), SPEC, **options)
    with pytest.raises(OptionError, match="channels"):
        export(five, "folder", tmp_path / "out")


def test_whitening_by_directions_is_saved_in_little_room(tmp_path: Path) -> None:
    """Fewer images than pixels need no matrix of all pixels."""
    images = torch.rand(12, 3, 16, 16)
    data = RealData.from_tensors(images, torch.arange(12) % 2, preprocessing="zca")
    made = dd_plugins.distill(data, "random", steps=1, network="conv(width=2, depth=1)")
    assert (made.header.format_version, made.header.value_space) == (7, "zca")
    path = made.save(tmp_path / "set.safetensors")
    assert path.stat().st_size < 100_000  # the matrix alone is of 2.4 MB
    loaded = DistilledSet.load(path)
    assert torch.equal(loaded.preprocess(images), made.preprocess(images))
    torch.testing.assert_close(
        loaded.pixels(), images[made.header.initial_indices], atol=1e-4, rtol=0
    )


def rewrite(file: Path, tensors: dict[str, Tensor], **fields: Any) -> None:
    """Rewrite a file with other tensors and header fields, and with a right hash."""
    header = {**DistilledSet.read_header(file).model_dump(), **fields}
    del header["content_hash"]
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    digest.update(json.dumps(header, sort_keys=True).encode())
    header["content_hash"] = digest.hexdigest()
    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(whole, file, metadata={"dd_plugins": json.dumps(header)})


def filled(tensor: Tensor, value: float) -> Tensor:
    changed = tensor.clone()
    changed.view(-1)[0] = value
    return changed


WRONG_TENSORS: dict[str, tuple[str, Callable[[Tensor], Tensor], str]] = {
    "NaN pixel": ("images", lambda t: filled(t, torch.nan), "not finite"),
    "infinite label": ("labels", lambda t: filled(t, torch.inf), "not finite"),
    "labels of width 1": ("labels", lambda t: t[:, :1], "labels must have shape"),
    "labels for 11": (
        "labels",
        lambda t: torch.cat([t, t[:, :1]], dim=1),
        "labels must have shape",
    ),
    "flat labels": ("labels", lambda t: t[:, 0], "labels must have shape"),
    "no dimension": ("labels", lambda t: t[0, 0], "expected 20 images and labels"),
    "float64": ("images", Tensor.double, "must be float32, is float64"),
    "bfloat16": ("images", Tensor.bfloat16, "must be float32, is bfloat16"),
    "bytes": ("labels", lambda t: t.to(torch.uint8), "must be float32, is uint8"),
    "complex": ("images", lambda t: t.to(torch.complex64), "is complex64"),
    "float8": ("labels", lambda t: t.to(torch.float8_e4m3fn), "is float8_e4m3fn"),
    "3 axes": ("images", lambda t: t[:, 0], "images must have shape"),
    "5 axes": ("images", lambda t: t[None], "images must have shape"),
    "no axis": ("images", lambda t: t[0, 0, 0, 0], "images must have shape"),
    "no images": ("images", lambda t: t[:0], "images must have shape"),
    "other height": ("images", lambda t: t[:, :, :0], "images must have shape"),
    "mean of 3": ("transform.mean", lambda t: t.expand(3), "mean must have shape"),
    "mean of no axis": ("transform.mean", lambda t: t[0], "mean must have shape"),
    "deviation 0": ("transform.deviation", lambda t: 0 * t, "deviation must be above"),
    "deviation below 0": ("transform.deviation", lambda t: -t, "must be above 0"),
    "half a mean": ("transform.mean", Tensor.half, "must be float32, is float16"),
    "another tensor": ("extra", lambda t: t, "tensors of the format, got extra"),
    "another of the transform": ("transform.x", lambda t: t, "got transform.x"),
}


@pytest.mark.parametrize("change", WRONG_TENSORS)
def test_tensors_that_the_format_excludes_are_refused_with_a_right_hash(
    file: Path, change: str
) -> None:
    name, wrong, told = WRONG_TENSORS[change]
    tensors = load_file(file)
    rewrite(file, tensors)
    DistilledSet.load(file)  # the hash of the rewritten file is right
    tensors[name] = wrong(tensors.get(name, torch.ones(1)))
    rewrite(file, tensors)
    assert told in refused(file)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"initial_classes": [*range(10), *range(9), -1]}, "from 0 to 9, got -1"),
        ({"initial_classes": [*range(10), *range(9), 10]}, "from 0 to 9, got 10"),
        ({"initial_classes": [10**30] * 20}, "initial_classes must be from 0 to 9"),
        ({"initial_classes": [1e30] * 20}, "header field initial_classes"),
        ({"initial_indices": [1, 2]}, "an index for each image"),
        ({"initial_indices": [-1] * 20}, "an index for each image"),
        ({"class_names": []}, "labels must have shape"),
        ({"transform_stride": 0}, "8x8 of the images, got 0"),
        ({"transform_stride": 3}, "8x8 of the images, got 3"),
        ({"surprise\x1b[2J\n": 1}, "header field surprise\\x1b[2J"),
    ],
    ids=str,
)
def test_header_fields_that_do_not_fit_are_refused_with_a_right_hash(
    file: Path, fields: dict[str, Any], told: str
) -> None:
    rewrite(file, load_file(file), **fields)
    assert told in refused(file)


def test_a_value_space_without_its_tensors_is_refused(file: Path) -> None:
    tensors = load_file(file)
    other = {"zca": "standardize", "standardize": "zca"}
    space = DistilledSet.read_header(file).value_space
    rewrite(file, tensors, value_space=other[space])
    assert "value space is" in refused(file)
    if space == "zca":
        rewrite(file, tensors, value_space=space)
        for name, wrong, told in (
            ("whitening", tensors["transform.whitening"].triu(), "symmetric"),
            ("whitening", torch.eye(63), "whitening must have shape (64, 64)"),
            ("whitening", torch.eye(64)[None], "whitening must have shape (64, 64)"),
            ("centre", torch.zeros(1), "centre must have shape (64,)"),
        ):
            rewrite(file, tensors | {f"transform.{name}": wrong}, value_space=space)
            assert told in refused(file)
        del tensors["transform.centre"]
        rewrite(file, tensors, value_space=space)
        assert "expected standardize by its tensors" in refused(file)
        rewrite(file, tensors, value_space="standardize")
        assert "a whitening need transform.centre" in refused(file)


def test_whitening_by_directions_is_checked(tmp_path: Path) -> None:
    images = torch.rand(12, 1, 8, 8)
    data = RealData.from_tensors(images, torch.arange(12) % 2, preprocessing="zca")
    made = dd_plugins.distill(data, "random", steps=1, network="conv(width=2, depth=1)")
    path = made.save(tmp_path / "set.safetensors")
    tensors = load_file(path)
    scales = tensors["transform.scales"]
    for changed, told in (
        ({"scales": -scales}, "transform.scales must be above 0"),
        ({"scales": scales[1:]}, "transform.directions must have shape"),
        ({"whitening": torch.eye(64)}, "needs transform.whitening, or"),
    ):
        named = {f"transform.{name}": value for name, value in changed.items()}
        rewrite(path, tensors | named)
        assert told in refused(path)
    rewrite(path, tensors, format_version=2)
    assert "architectures needs format version 7, got 2" in refused(path)
    older = made.header.model_copy(update={"format_version": 2})
    text = {"dd_plugins": older.text()}
    save_file(tensors, path, metadata=text)
    assert "transform.directions needs format version 3, got 2" in refused(path)
    del tensors["transform.scales"]
    made.save(path)
    rewrite(path, tensors)
    assert "needs transform.whitening, or" in refused(path)


def test_a_whitening_that_cannot_be_undone_is_one_line(file: Path) -> None:
    tensors = load_file(file)
    if "transform.whitening" in tensors:
        tensors["transform.whitening"].zero_()
        rewrite(file, tensors)
        with pytest.raises(FileError, match="singular"):
            DistilledSet.load(file).pixels()


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("pt", "got a torch file (.pt); give the"),
        ("npz", "got a NumPy archive (.npz); give the"),
        ("old pt", "got a torch file of the old form"),
        ("npy", "got a NumPy array; give"),
        ("h5", "got an HDF5 file; give"),
        ("zip", "got a zip archive; give"),
        ("cut zip", "expected an artifact of dd-plugins"),
        ("png", "got a picture; give"),
    ],
)
def test_a_file_of_others_is_called_by_its_kind(
    distilled: DistilledSet, tmp_path: Path, kind: str, told: str
) -> None:
    file = tmp_path / "foreign"
    content = {
        "h5": b"\x89HDF\r\n\x1a\n" + bytes(100),
        "cut zip": b"PK\x03\x04" + bytes(100),
    }
    match kind:
        case "pt" | "npz":
            export(distilled, kind, file)
        case "old pt":
            saved = {"images": distilled.images}
            torch.save(saved, file, _use_new_zipfile_serialization=False)
        case "npy":
            with file.open("wb") as opened:
                np.save(opened, distilled.images.numpy())
        case "zip":
            with zipfile.ZipFile(file, "w") as archive:
                archive.writestr("readme", "text")
        case "png":
            Image.new("L", (4, 4)).save(file, format="PNG")
        case _:
            file.write_bytes(content[kind])
    assert told in refused(file)


def test_a_folder_of_images_is_no_run(distilled: DistilledSet, tmp_path: Path) -> None:
    for path in (tmp_path / "nested" / "class", tmp_path / "flat"):
        path.mkdir(parents=True)
        Image.new("L", (4, 4)).save(path / "a.png")
    for folder in ("nested", "flat"):
        assert "distil it first" in refused(tmp_path / folder)
    run = tmp_path / "run"  # stopped before its end
    run.mkdir()
    Image.new("L", (4, 4)).save(run / "images.png")
    (run / "checkpoint.pt").touch()
    assert "finish the run with --resume" in refused(run)


def test_a_path_that_no_file_can_have_is_one_line(tmp_path: Path) -> None:
    for name in ("a\0b", "x" * 300):
        with pytest.raises(FileError, match="cannot read"):
            DistilledSet.load(tmp_path / name)
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    with pytest.raises(FileError, match="cannot read"):
        DistilledSet.load(loop)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileError, match="is no file"):
        DistilledSet.load(tmp_path / "pipe")


def nested(distilled: DistilledSet, depth: int) -> DistilledSet:
    """Return a set with so many contexts, each within the other."""
    header = distilled.header
    for _ in range(depth):
        record = ContextRecord(refined=True, header=header)
        header = distilled.header.model_copy(update={"context": record})
    return replace(distilled, header=header)


def test_contexts_end_where_they_can_still_be_written(
    distilled: DistilledSet, tmp_path: Path
) -> None:
    deepest = nested(distilled, DEEPEST_CONTEXT)
    loaded = DistilledSet.load(deepest.save(tmp_path / "deepest"))
    assert loaded.header.nesting == DEEPEST_CONTEXT
    assert loaded.content_hash() == deepest.content_hash()
    deeper = nested(distilled, DEEPEST_CONTEXT + 1)
    with pytest.raises(OptionError, match="forget those of the context") as error:
        deeper.save(tmp_path / "deeper")
    one_line(error.value)
    with pytest.raises(OptionError, match="forget those of the context"):
        dd_plugins.distill("digits", SPEC, context=deepest, refine_context=True)
    forgetful = replace(
        deepest, header=deepest.header.model_copy(update={"context": None})
    )
    forgetful.save(tmp_path / "forgetful")


@pytest.mark.parametrize("depth", [201, 254, 300, 5000])
def test_contexts_too_deep_are_refused_in_reading(file: Path, depth: int) -> None:
    text = DistilledSet.read_header(file).text()
    start = text.index('"context": null')
    before, after = text[:start], text[start + len('"context": null') :]
    opening = f'{before}"context": {{"refined": true, "header": '
    whole = opening * depth + text + f"}}{after}" * depth
    save_file(load_file(file), file, metadata={"dd_plugins": whole})
    assert "damaged" in refused(file)


@pytest.fixture(scope="module")
def large() -> RealData:
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(6_000, 1, 26, 26, generator=generator)
    images = torch.nn.functional.avg_pool2d(noise, 3, 1)
    labels = torch.arange(6_000) % 2
    return RealData.from_tensors(images, labels, preprocessing="zca")


def test_a_large_whitening_is_small_in_the_file_and_whole_in_memory(
    large: RealData, tmp_path: Path
) -> None:
    made = dd_plugins.distill(large, "random", network="conv(width=2, depth=1)")
    assert made.transform.whitening is not None
    assert made.transform.whitening.shape == (576, 576)
    path = made.save(tmp_path / "set.safetensors")
    assert path.stat().st_size < 0.15 * 576 * 576 * 4
    loaded = DistilledSet.load(path)
    real = large.train.images[:5]
    assert torch.equal(loaded.preprocess(real), made.preprocess(real))
    torch.testing.assert_close(
        loaded.pixels(), made.transform.invert(made.images).clamp(0, 1)
    )
    exported = dd_plugins.export(made, "npz", tmp_path / "set.npz")
    with np.load(exported) as arrays:
        matrix = arrays["transform_whitening"]
    np.testing.assert_array_equal(matrix, made.transform.whitening)


def test_a_compact_whitening_is_checked(large: RealData, tmp_path: Path) -> None:
    made = dd_plugins.distill(large, "random", network="conv(width=2, depth=1)")
    path = made.save(tmp_path / "set.safetensors")
    tensors = load_file(path)
    places, diagonal = tensors["transform.places"], tensors["transform.diagonal"]
    for changed, told in (
        ({"places": places.flip(0)}, "ascending places"),
        ({"diagonal": diagonal[:, :12].contiguous()}, "places above the diagonal"),
        ({"diagonal": diagonal.reshape(1, 12, 48)}, "diagonal must have shape"),
        ({"entries": tensors["transform.entries"] * torch.inf}, "not finite"),
    ):
        rewrite(path, tensors | {f"transform.{n}": each for n, each in changed.items()})
        assert told in refused(path)
    older = made.header.model_copy(update={"format_version": 4})
    save_file(tensors, path, metadata={"dd_plugins": older.text()})
    assert "a compact whitening needs format version 5, got 4" in refused(path)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"parametrization": "mixture"}, "expected packed or spectral, got mixture"),
        ({"parametrization": "packed(factor=99)"}, "99"),
        ({"parametrization": "packed(factor=3)"}, "decode to 90, expected 40"),
        ({"parametrization": "spectral"}, "decoder.colours and decoder.scales"),
        ({"decoder_values": 1}, "decoder_values must be 0, are 1"),
        ({"decoder_values": None}, "decoder_values: must be a number"),
    ],
)
def test_parameters_that_are_not_those_of_the_header_are_refused(
    fields: dict[str, Any], told: str, tmp_path: Path
) -> None:
    made = dd_plugins.distill("digits", "random", parametrization="packed")
    path = made.save(tmp_path / "set.safetensors")
    rewrite(path, load_file(path), **fields)
    assert told in refused(path)


def test_images_are_counted_and_fit_into_memory_before_they_are_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decode(*_: Any) -> NoReturn:
        raise AssertionError("nothing must be decoded")

    made = dd_plugins.distill("digits", "random", parametrization="packed")
    path = made.save(tmp_path / "set.safetensors")
    monkeypatch.setattr(Packed, "decode", decode)
    asked: list[float] = []
    monkeypatch.setattr(
        "dd_plugins.synthetic.parametrizations.base.fits_in_memory", asked.append
    )
    assert "expected images that can be decoded in half of the memory" in refused(path)
    assert asked == [16 * 40 * 64]
    rewrite(path, load_file(path), parametrization="packed(factor=3)")
    assert "decode to 90, expected 40" in refused(path)
