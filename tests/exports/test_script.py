"""The scripts of exports: they run without dd-plugins, and reach its figures."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from made_sets import made_set, with_header
from PIL import Image

import dd_plugins
from dd_plugins import DistilledSet, RealData, export
from dd_plugins.exports.plain.real_images import read_images
from dd_plugins.synthetic.header import ViewsRecord

VIEWS = ViewsRecord(views="views(count=3)", temperature=4.0)
NETWORK = "conv(width=8, depth=2)"


def run_script(script: Path, test: str) -> float:
    """Run a script where dd-plugins cannot be imported; return its accuracy."""
    forbid = (
        "import runpy, sys; sys.modules['dd_plugins'] = None; "
        f"sys.argv = [{str(script)!r}, '--test', {test!r}]; "
        f"runpy.run_path({str(script)!r}, run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", forbid],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("test accuracy: ")
    return float(done.stdout.split()[2])


def source_of(made: DistilledSet, folder: Path) -> str:
    export(made, "npz", folder / "set.npz")
    source = (folder / "set-train.py").read_text()
    compile(source, "set-train.py", "exec")
    return source


def recipe_in(file: Path) -> dict[str, object]:
    with np.load(file, allow_pickle=False) as archive:
        found: dict[str, object] = json.loads(str(archive["recipe"]))
        return found


def test_script_reaches_the_library_s_figure_on_digits(tmp_path: Path) -> None:
    """Both figures are of the same networks; each differs by about 0.02 by chance."""
    made = dd_plugins.distill(
        "digits", "random", images_per_class=5, network=NETWORK, device="cpu"
    )
    made = with_header(made, recipe="recipe(steps=150, learning_rate=0.005)")
    library = dd_plugins.evaluate(made, repeats=2, device="cpu").networks[0]
    export(made, "npz", tmp_path / "digits.npz")
    test = dd_plugins.get_dataset("digits").read_test()
    assert isinstance(test.images, torch.Tensor)
    np.savez(
        tmp_path / "test.npz", images=test.images.numpy(), labels=test.labels.numpy()
    )
    found = run_script(tmp_path / "digits-train.py", str(tmp_path / "test.npz"))
    assert library.mean > 0.7
    assert found == pytest.approx(library.mean, abs=0.08)


def test_script_tests_on_a_folder_from_a_whitened_torch_file(tmp_path: Path) -> None:
    """Dark images are one class, bright ones the other."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(40, 3, 8, 8, generator=generator) / 4
    labels = torch.arange(40) % 2
    images[labels == 1] += 0.7
    data = RealData.from_tensors(
        images, labels, class_names=["bright", "dark"][::-1], preprocessing="zca"
    )
    made = dd_plugins.distill(
        data, "random", images_per_class=8, network="mlp(width=32)", device="cpu"
    )
    options = "learning_rate=0.03, augmentation='crop', optimizer='sgd', average=0.5"
    made = with_header(made, recipe=f"recipe(steps=100, {options})")
    export(made, "pt", tmp_path / "set.pt")
    for index, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
        folder = tmp_path / "test" / made.class_names[label]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = (image * 255).byte().permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(folder / f"{index}.png")
    assert run_script(tmp_path / "set-train.py", str(tmp_path / "test")) >= 0.9


def test_recipe_is_in_the_file_with_nothing_open(tmp_path: Path) -> None:
    made = made_set(recipe="recipe(steps=90, warm_up=500)", evaluation_network="conv")
    source_of(made, tmp_path)
    found = recipe_in(tmp_path / "set.npz")
    assert found["steps"] == 90
    assert found["warm_up"] == 45  # at most half of all steps
    assert found["weight_decay"] == 0.0
    assert found["loss"] == "half the squared error, summed over classes"
    assert found["network"] == {
        "spec": "conv",
        "name": "conv",
        "options": {"width": 128, "depth": 2, "normalization": "none", "padding": 0},
    }
    assert found["left_out"] == []


def test_script_holds_only_what_its_recipe_needs(tmp_path: Path) -> None:
    plain = "recipe(steps=9, augmentation='none', decay='none')"
    source = source_of(made_set(recipe=plain), tmp_path)
    assert "def conv(" in source
    for name in ("def mlp(", "def frepo(", "def dsa(", "def cosine(", "torchvision.m"):
        assert name not in source
    assert "swa_utils" not in source


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        (
            {"evaluation_network": "vit(depth=1)"},
            "network of the set has no plain form",
        ),
        ({"evaluation_network": "of_a_plugin"}, "has no plain form"),
        ({"recipe": "recipe(steps=9, mix='mixup')"}, "by mixup"),
        ({"recipe": "recipe(steps=9, newer=1)"}, "not known"),
        (
            {"views": ViewsRecord(views="views(count=3)", temperature=4.0)},
            "labels of random views",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_script_says_what_it_leaves_out(
    fields: dict[str, object], told: str, tmp_path: Path
) -> None:
    source = source_of(made_set(**fields), tmp_path)
    (sentence,) = recipe_in(tmp_path / "set.npz")["left_out"]  # type: ignore[misc]
    assert told in sentence
    assert told in " ".join(source.split())


def test_no_text_of_an_artifact_becomes_code(tmp_path: Path) -> None:
    hostile = '"""\nimport os  # hostile'
    fields = {"distiller": hostile, "evaluation_network": hostile, "recipe": hostile}
    names = [hostile, "bee", "cow"]
    made = made_set(**fields, class_names=names)
    assert "hostile" not in source_of(made, tmp_path)
    export(made, "npz", tmp_path / '""" hostile.npz')
    compile((tmp_path / '""" hostile-train.py').read_text(), "script", "exec")


def test_a_script_that_is_there_is_not_replaced(tmp_path: Path) -> None:
    export(made_set(), "npz", tmp_path / "set.npz")
    with pytest.raises(dd_plugins.DDError, match=r"set-train\.py exists"):
        export(made_set(), "pt", tmp_path / "set.pt")
    assert not (tmp_path / "set.pt").exists()


@pytest.mark.parametrize("form", ["npz", "pt"])
def test_script_imports_every_name_that_it_uses(tmp_path: Path, form: str) -> None:
    export(made_set(), form, tmp_path / f"set.{form}")
    ruff = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F"]
    script = tmp_path / "set-train.py"
    done = subprocess.run([*ruff, script], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_arrays_of_a_data_set_are_test_images_too(tmp_path: Path) -> None:
    images, labels = torch.rand(4, 1, 8, 8), torch.arange(4)
    file, names = tmp_path / "data.npz", [str(label) for label in range(10)]
    shape = images.shape[1:]
    for names_there in (("images", "labels"), ("test_images", "test_labels")):
        np.savez(file, **dict(zip(names_there, (images, labels), strict=True)))
        found = read_images(str(file), shape, names)
        assert torch.equal(found[0], images)
        assert torch.equal(found[1], labels)
    np.savez(file, pictures=images)
    with pytest.raises(SystemExit, match="expected images and labels, got pictures"):
        read_images(str(file), shape, names)
    with pytest.raises(SystemExit, match="nowhere does not exist, and torchvision"):
        read_images("nowhere", shape, names)
    with pytest.raises(SystemExit, match=r"nowhere\.npz does not exist"):
        read_images("nowhere.npz", shape, names)
