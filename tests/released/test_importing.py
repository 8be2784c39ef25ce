"""Sets of other codes come in by the layouts that their authors publish."""

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
import torch
from conftest import BRIEFLY, Command
from PIL import Image
from torch import Tensor

import dd_plugins
from dd_plugins import DistilledSet, RealData, import_set
from dd_plugins.errors import DataError, DDWarning, FileError, OptionError
from dd_plugins.released.importing import PUBLISHED_SCALES
from dd_plugins.runtime import memory
from dd_plugins.training.recipes import get_recipe

MEAN, DEVIATION = ([0.3], [0.37])


@pytest.fixture(scope="module")
def data() -> RealData:
    return dd_plugins.get_dataset("digits")


@pytest.fixture(scope="module")
def chosen(data: RealData) -> tuple[Tensor, Tensor]:
    """Two real digits of each class, as pixels in [0, 1]."""
    labels = data.train.labels
    indices = torch.cat([(labels == label).nonzero()[:2, 0] for label in range(10)])
    images = torch.as_tensor(data.train.images[indices])
    return images.float() / (255 if images.dtype == torch.uint8 else 1), labels[indices]


def pixels_are(found: DistilledSet, expected: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(found.pixels(), expected, atol=tolerance, rtol=0)


def kept(found: DistilledSet, folder: Path) -> DistilledSet:
    """Return a set after a round trip through a file, which checks it."""
    return DistilledSet.load(found.save(folder / "set.safetensors"))


def test_file_of_dc_holds_experiments_and_accuracies_of_numpy(
    tmp_path: Path, data: RealData, chosen: tuple[Tensor, Tensor]
) -> None:
    images, labels = chosen
    values = (images - MEAN[0]) / DEVIATION[0]
    file = tmp_path / "res_DM_digits_ConvNet_2ipc.pt"
    torch.save(
        {
            "data": [[values.flip(0), labels.flip(0)], [values, labels]],
            "accs_all_exps": {"ConvNet": [np.float64(0.5), np.mean([0.1, 0.4])]},
        },
        file,
    )
    space = (MEAN, DEVIATION)
    found = kept(import_set(file, data, space=space, experiment=1), tmp_path)
    pixels_are(found, images)
    assert found.header.initial_classes == labels.tolist()
    assert found.header.label_kind == "classes"
    assert found.header.evaluation_network == "dc_convnet"
    first = import_set(file, data, space=space)
    pixels_are(first, images.flip(0))
    with pytest.raises(OptionError, match="experiment must be from 0 to 1, got 2"):
        import_set(file, data, space=space, experiment=2)
    with pytest.warns(DDWarning, match="by which papers standardise 'digits'"):
        import_set(file, data)


def test_named_data_are_standardised_by_the_numbers_of_the_papers() -> None:
    images, labels = torch.rand(20, 1, 28, 28), torch.arange(20) % 10
    data = RealData.from_tensors(
        images.repeat(3, 1, 1, 1), labels.repeat(3), name="mnist"
    )
    mean, deviation = PUBLISHED_SCALES["mnist"]
    held = (images - mean[0]) / deviation[0]
    found = DistilledSet.from_tensors(held, labels, data, space=(mean, deviation))
    pixels_are(found, images)
    assert found.header.value_space == "standardize"


def test_pairs_of_idc_are_pixels_and_unpacked(
    tmp_path: Path, data: RealData, chosen: tuple[Tensor, Tensor]
) -> None:
    images, labels = chosen
    file = tmp_path / "data_best.pt"
    torch.save([images, labels], file)
    with pytest.warns(DDWarning, match="state their number along a side by factor"):
        pixels_are(import_set(file, data), images)
    with pytest.raises(OptionError, match="must be 0, as there is one set, got 3"):
        import_set(file, data, experiment=3)
    for wrong_factor in (0, "2"):
        with pytest.raises(OptionError, match="factor must be a whole number from 1"):
            import_set(file, data, factor=wrong_factor)
    with pytest.raises(OptionError, match="files must be a path, got 5"):
        import_set(5, data)  # type: ignore[arg-type]
    packed = kept(import_set(file, data, factor=2), tmp_path)
    assert len(packed) == 4 * len(images)
    assert packed.budget == len(images)
    assert packed.header.initial_classes == labels.repeat_interleave(4).tolist()
    # The first image of a grid is its upper left quarter, twice as large.
    quarter = torch.nn.functional.interpolate(
        images[:1, :, :4, :4], size=(8, 8), mode="bilinear"
    )
    pixels_are(
        DistilledSet.from_tensors(quarter, labels[:1], data), packed.pixels()[:1]
    )


def test_files_of_mtt_bring_logits_and_a_learning_rate(
    tmp_path: Path, data: RealData, chosen: tuple[Tensor, Tensor]
) -> None:
    images, labels = chosen
    folder = tmp_path / "run"
    folder.mkdir()
    logits = 5 * torch.eye(10)[labels]
    torch.save((images - MEAN[0]) / DEVIATION[0], folder / "images_best.pt")
    torch.save(logits, folder / "labels_best.pt")
    torch.save(torch.tensor(0.02), folder / "lr_best.pt")
    torch.save(torch.zeros(1), folder / "images_0.pt")
    found = kept(import_set(folder, data, space=(MEAN, DEVIATION)), tmp_path)
    pixels_are(found, images)
    torch.testing.assert_close(found.labels, logits.softmax(dim=1))
    assert found.header.label_kind == "probabilities"
    recipe = get_recipe(found.header.recipe or "")
    assert recipe.learning_rate == pytest.approx(0.02)
    assert recipe.optimizer == "sgd"
    with pytest.warns(DDWarning) as said:
        by_files = import_set(sorted(folder.glob("*_best.pt")), data)
    assert "taken for standardised pixels" in str(said[0].message)
    assert len(by_files) == len(found)
    with pytest.raises(FileError, match="one called labels"):
        import_set([folder / "images_best.pt", folder / "lr_best.pt"], data)


@pytest.mark.parametrize("kind", [None, "probabilities"])
@pytest.mark.parametrize(
    "rounded", [torch.Tensor.half, lambda of: of.round(decimals=3)]
)
def test_rounded_probabilities_stay_probabilities(
    data: RealData,
    chosen: tuple[Tensor, Tensor],
    tmp_path: Path,
    kind: Any,
    rounded: Any,
) -> None:
    images, labels = chosen
    shares = (2.5 * torch.eye(10)[labels]).softmax(dim=1)
    torch.save([images, rounded(shares)], tmp_path / "data.pt")
    found = import_set(tmp_path / "data.pt", data, label_kind=kind, factor=1)
    torch.testing.assert_close(found.labels, shares, atol=2e-3, rtol=0)
    torch.testing.assert_close(found.labels.sum(dim=1), torch.ones(len(labels)))


def test_what_is_called_probabilities_is_no_logits(
    data: RealData, chosen: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    images, labels = chosen
    path = tmp_path / "data.pt"
    coarse = 0.9 * torch.eye(10)[labels]  # of many classes, the small ones became 0
    torch.save([images, coarse], path)
    found = import_set(path, data, label_kind="probabilities", factor=1)
    torch.testing.assert_close(found.labels, torch.eye(10)[labels])
    for scores in (coarse - 0.1, coarse * 0):
        torch.save([images, scores], path)
        with pytest.raises(OptionError, match="needs scores of at least 0"):
            import_set(path, data, label_kind="probabilities", factor=1)


def test_whitened_files_of_mtt_are_read_in_their_space(
    tmp_path: Path, data: RealData, chosen: tuple[Tensor, Tensor]
) -> None:
    images, labels = chosen
    transform = dd_plugins.distill(
        data, "random", preprocessing="pixel-zca", network="mlp(width=4)"
    ).transform
    for name, tensor in (("images", transform(images)), ("labels", labels)):
        torch.save(tensor, tmp_path / f"{name}_best.pt")
    found = import_set(tmp_path, data, space="pixel-zca")
    pixels_are(found, images, 1e-3)
    assert found.header.value_space == "pixel-zca"


@pytest.mark.parametrize("averaged", [True, False])
def test_sets_of_frepo_and_rcig_are_whitened_regression_targets(
    tmp_path: Path, data: RealData, chosen: tuple[Tensor, Tensor], averaged: bool
) -> None:
    images, labels = chosen
    transform = dd_plugins.distill(
        data, "random", preprocessing="zca", network="mlp(width=4)"
    ).transform
    arrays = {
        "x_proto": transform(images).permute(0, 2, 3, 1).numpy(),
        "y_proto": (torch.eye(10)[labels] - 0.1).numpy(),
    }
    np.savez(tmp_path / "best.npz", image=arrays["x_proto"], label=arrays["y_proto"])
    found = kept(import_set(tmp_path / "best.npz", data), tmp_path)
    pixels_are(found, images, 1e-3)
    assert found.header.label_kind == "regression"
    assert found.header.evaluation_network == "conv(normalization='none')"
    state = {"step": 3, "params": {name: 0 * each for name, each in arrays.items()}}
    if averaged:
        state["ema_average"] = arrays
    else:
        state["params"] = arrays
    file = tmp_path / "checkpoint_10000"
    file.write_bytes(msgpack.packb(state, default=as_flax))
    checkpoint = import_set(file, data)
    assert torch.equal(checkpoint.images, found.images)
    assert torch.equal(checkpoint.labels, found.labels)


def as_flax(value: Any) -> msgpack.ExtType:
    """Return an array as flax writes it."""
    content = (value.shape, value.dtype.name, value.tobytes())
    return msgpack.ExtType(1, msgpack.packb(content))


@pytest.mark.parametrize("names", ["{:05d}", "new{:03d}", "n{:08d}"])
def test_folders_of_images_are_told_by_the_numbers_of_classes(
    tmp_path: Path, data: RealData, chosen: tuple[Tensor, Tensor], names: str
) -> None:
    images, labels = chosen
    scale = 7_919 if names.startswith("n{") else 1  # as WordNet's: far from 0 to 9
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        folder = tmp_path / "sets" / names.format(scale * int(label))
        folder.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray((255 * image[0]).byte().numpy())
        picture.save(folder / f"class{int(label):03d}_id{number:03d}.png")
    found = import_set(tmp_path / "sets", data)
    pixels_are(found, images, 1 / 255)
    assert found.header.initial_classes == labels.tolist()


class Trap:
    """A pickle that would run code."""

    def __reduce__(self) -> Any:
        return (Path.touch, (Path("ran-code"),))


def wrong(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    trap = tmp_path / "trap.pt"
    torch.save({"data": Trap()}, trap)
    yield trap, r"got one with code \(.*pathlib.Path.*\), which is not unpickled"
    old = tmp_path / "old.pt"
    old.write_bytes(pickle.dumps(Trap()))
    yield old, "another or a damaged file, which is not unpickled"
    other = tmp_path / "other.pt"
    torch.save({"model": torch.zeros(2)}, other)
    yield other, "expected the layout of DC"
    objects = tmp_path / "objects.npz"
    np.savez(objects, images=np.array([Trap()], dtype=object), labels=np.arange(1))
    yield objects, "expected a NumPy archive of numbers, got one of objects"
    notes = tmp_path / "notes.npz"
    notes.write_text("no set")
    yield notes, "expected a NumPy archive of numbers, got another file"
    text = tmp_path / "notes"
    text.write_text("no set")
    yield text, "expected a torch file"
    yield tmp_path / "missing", "does not exist"


def test_other_files_are_refused_and_no_code_is_run(
    tmp_path: Path, data: RealData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for file, message in wrong(tmp_path):
        with pytest.raises(FileError, match=message):
            import_set(file, data)
    assert not (tmp_path / "ran-code").exists()


def test_wrong_space_and_wrong_tensors_are_told(
    data: RealData, chosen: tuple[Tensor, Tensor]
) -> None:
    images, labels = chosen
    make = DistilledSet.from_tensors
    with pytest.raises(DataError, match=r"pixels must be in \[0, 1\], got values from"):
        make(3 * images - 1, labels, data)
    with pytest.warns(DDWarning, match="is the space right"):
        make(images / 20 - 0.1, labels, data, space="standardize")
    for space in ("standardize", "zca", "pixel-zca", (MEAN, DEVIATION)):
        with pytest.warns(DDWarning, match=r"as pixels have.* is the space 'pixels'\?"):
            make(images, labels, data, space=space)
    with pytest.raises(DataError, match="images must have shape"):
        make(images[:, :, :7], labels, data)
    with pytest.raises(DataError, match="a label for each image"):
        make(images, labels[:3], data)
    with pytest.raises(DataError, match="classes must be from 0 to 9, got 10"):
        make(images, labels + 1, data)
    with pytest.raises(OptionError, match="label_kind must be 'regression' for"):
        make(images, torch.randn(20, 10), data)
    with pytest.raises(OptionError, match="space must be pixels"):
        make(images, labels, data, space="rgb")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="finite"):
        make(images / 0, labels, data)


def test_imported_set_is_evaluated_compared_and_shown(
    command_line: Command, tmp_path: Path, chosen: tuple[Tensor, Tensor]
) -> None:
    images, labels = chosen
    file, out = tmp_path / "data_best.pt", tmp_path / "set.safetensors"
    torch.save([images, labels], file)
    imported = command_line("import", file, "--dataset", "digits", "--out", out)
    assert "layout: IDC; 20 images; space: pixels" in imported.stdout
    assert f"next: dd-plugins evaluate {out} --dataset digits" in imported.stdout
    again = command_line("import", file, "--dataset", "digits", "--out", out)
    assert again.returncode == 2
    assert "--overwrite" in again.stderr
    scored = command_line(
        *("evaluate", out, "--network", "mlp(width=32)", "--repeats", "1"),
        *("--dataset", "digits", "--protocol", "recipe(steps=20)", "--baselines"),
        code=BRIEFLY,
    )
    assert "mlp(width=32)" in scored.stdout
    told = command_line(
        *("transfer", out, "--networks", "mlp(width=8)", "--repeats", "1"),
        *("--dataset", "digits", "--protocol", "recipe(steps=2)"),
    )
    assert "imported" in told.stdout
    shadows = command_line("audit", out, "--dataset", "digits", "--shadows", "2")
    assert shadows.returncode == 2
    assert "audit it with --shadows 0" in shadows.stderr
    command_line("show", out)
    assert (tmp_path / "grid.png").stat().st_size > 1_000
    assert "imported(method='IDC')" in command_line("info", out).stdout


def test_images_of_bytes_are_pixels_in_any_layout(
    tmp_path: Path, data: RealData, chosen: tuple[Tensor, Tensor]
) -> None:
    images, labels = chosen
    levels = (255 * images).round().byte()
    np.savez(tmp_path / "u8.npz", images=levels.numpy(), labels=labels.numpy())
    torch.save({"data": [[levels, labels]]}, tmp_path / "u8.pt")
    for name in ("u8.npz", "u8.pt"):
        pixels_are(import_set(tmp_path / name, data), images, 1 / 255)
        with pytest.raises(OptionError, match="images of uint8 are pixels"):
            import_set(tmp_path / name, data, space="zca")


@pytest.mark.parametrize("first", [0, 1])
def test_numbers_without_zeros_before_them_keep_their_order(
    tmp_path: Path, data: RealData, first: int
) -> None:
    for label in range(10):
        folder = tmp_path / f"n{label + first}"
        folder.mkdir()
        grey = np.full((8, 8), 20 * label, dtype=np.uint8)
        Image.fromarray(grey).save(folder / "one.png")
    found = import_set(tmp_path, data)
    greys = (255 * found.pixels().mean(dim=(1, 2, 3))).round().int() // 20
    assert greys.tolist() == found.header.initial_classes == list(range(10))


def test_an_archive_beyond_the_memory_is_not_unpacked(
    tmp_path: Path, data: RealData, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = np.zeros((4_000, 1, 8, 8), np.float32)
    np.savez_compressed(tmp_path / "zeros.npz", images=images, labels=np.arange(4_000))
    assert (tmp_path / "zeros.npz").stat().st_size < 20_000
    monkeypatch.setattr(memory, "memory_limit", lambda: 4_000_000)
    with pytest.raises(FileError, match=r"half of the memory, got 1\.06 MB"):
        import_set(tmp_path / "zeros.npz", data)


def test_damaged_archives_and_odd_tensors_are_one_line(
    tmp_path: Path, data: RealData, chosen: tuple[Tensor, Tensor]
) -> None:
    images, labels = chosen
    (tmp_path / "empty.npz").write_bytes(b"")
    np.savez(tmp_path / "text.npz", images=np.array(["a"]), labels=np.arange(1))
    for name in ("empty.npz", "text.npz"):
        with pytest.raises(FileError):
            import_set(tmp_path / name, data)
    make = DistilledSet.from_tensors
    with pytest.raises(DataError, match="a tensor that repeats them"):
        make(torch.zeros(1).expand(10**9, 1, 8, 8), labels, data)
    with pytest.raises(DataError, match="dense tensor"):
        make(images.to_sparse(), labels, data)
    with pytest.raises(DataError, match="labels must be a tensor"):
        make(images, ["a"] * len(images), data)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="finite mean"):
        make(images, labels, data, space=([float("nan")], [1.0]))
    with pytest.raises(OptionError, match="finite mean"):
        make(images, labels, data, space=np.ones((2, 3)))  # type: ignore[arg-type]
    for name in ("network", "recipe"):
        with pytest.raises(OptionError, match="was never closed"):
            make(images, labels, data, **{name: "other(("})
    with pytest.raises(OptionError, match="label_kind must be one of"):
        make(images, labels, data, label_kind="scores")  # type: ignore[arg-type]
    by_tensors = make(images, labels, data, space=(torch.zeros(1), torch.ones(1)))
    assert by_tensors.preprocess(images[:0]).shape == (0, 1, 8, 8)
    with pytest.raises(OptionError, match="got other scores"):
        make(images, torch.randn(20, 10), data, label_kind="probabilities")
    torch.save([images[:0], labels[:0]], tmp_path / "none.pt")
    with pytest.raises(DataError, match="images must have shape"):
        import_set(tmp_path / "none.pt", data, factor=1)
    torch.save(images, tmp_path / "images_best.pt")
    (tmp_path / "none.pt").unlink()
    with pytest.raises(FileError, match="one called labels"):
        import_set(tmp_path, data)


def test_kernel_regression_scores_imported_sets(
    data: RealData, chosen: tuple[Tensor, Tensor]
) -> None:
    found = DistilledSet.from_tensors(*chosen, data)
    evaluation = dd_plugins.evaluate(
        found,
        "mlp(width=8)",
        repeats=1,
        protocol="recipe(steps=2)",
        scores="kernel",
        data=data,
    )
    assert evaluation.kernel is not None
    assert evaluation.kernel.mean > 0.5


@pytest.mark.parametrize("form", ["npz", "pt"])
def test_exports_of_this_library_are_no_released_sets(
    data: RealData, form: str, tmp_path: Path
) -> None:
    made = dd_plugins.distill(data, "random", steps=1, network="mlp(width=2)")
    file = dd_plugins.export(made, form, tmp_path / f"set.{form}")
    with pytest.raises(FileError, match=r"set\.\w+ is an export of dd-plugins"):
        import_set(file, data)
