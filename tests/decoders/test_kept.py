"""Decoders that are trained: kept, found, gone on with, and refused."""

import os
import pickle
import re
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Command, Started
from safetensors.torch import load_file, save_file

import dd_plugins
from dd_plugins.api import (
    OptionError,
    get_decoder,
    get_parametrization,
    train_generator,
)
from dd_plugins.decoders import kept
from dd_plugins.decoders.kept import DecoderRecipe
from dd_plugins.errors import FileError, RunError
from dd_plugins.testing import toy_data

SMALL = get_decoder("conv_decoder(width=4, channels=2)")
RECIPE = DecoderRecipe(steps=40, learning_rate=1e-2, batch_size=16)


def test_training_brings_images_back(tmp_path: Path) -> None:
    data = dd_plugins.get_dataset("digits").with_preprocessing("standardize")
    errors = []
    for steps in (1, 200):
        recipe = replace(RECIPE, steps=steps, batch_size=64)
        found = train_generator(data, SMALL, recipe=recipe, folder=tmp_path)
        assert found.error is not None
        errors.append(found.error)
    assert errors[0] > 0.9
    assert errors[1] < 0.4


def test_what_is_kept_is_found_and_depends_on_all_that_made_it(tmp_path: Path) -> None:
    first = train_generator(toy_data(), SMALL, recipe=RECIPE, folder=tmp_path)
    again = train_generator(toy_data(), SMALL, recipe=RECIPE, folder=str(tmp_path))
    assert (first.was_there, again.was_there) == (False, True)
    assert (first.file, first.error) == (again.file, again.error)
    whitened = toy_data().with_preprocessing("zca")  # pixels are the same
    assert train_generator(whitened, SMALL, recipe=RECIPE, folder=tmp_path).was_there
    images, labels = toy_data().train
    others = dd_plugins.RealData.from_tensors(images.flip(0), labels)
    for data, decoder, recipe in (
        (others, SMALL, RECIPE),
        (toy_data(), get_decoder("conv_decoder(width=5, channels=2)"), RECIPE),
        (toy_data(), SMALL, replace(RECIPE, steps=41)),
        (toy_data().prepared(None, mirror=True), SMALL, RECIPE),
    ):
        found = train_generator(data, decoder, recipe=recipe, folder=tmp_path)
        assert not found.was_there


def test_classes_without_images_take_part_in_the_key(tmp_path: Path) -> None:
    images, labels = torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 0, 1])
    for names in (["a", "b"], ["a", "b", "c"]):
        data = dd_plugins.RealData.from_values(images, labels, class_names=names)
        for was_there in (False, True):
            found = train_generator(data, SMALL, recipe=RECIPE, folder=tmp_path)
            assert found.was_there == was_there


def test_damaged_files_and_wrong_arguments_are_one_line(tmp_path: Path) -> None:
    found = train_generator(toy_data(), SMALL, recipe=RECIPE, folder=tmp_path)
    tensors = load_file(found.file)
    save_file(tensors, found.file, metadata={"description": "another"})
    with pytest.raises(FileError, match=r"a trained decoder of this version.*remove"):
        train_generator(toy_data(), SMALL, recipe=RECIPE, folder=tmp_path)
    with pytest.raises(OptionError, match=r"decoder must be.*'conv_decoder'"):
        train_generator(toy_data(), "conv_decoder")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="a spec must be text, got int"):
        train_generator(toy_data(), SMALL, recipe=7)  # type: ignore[arg-type]


KILLED = """
import sys, pathlib, time
import dd_plugins.decoders.kept as kept
from dd_plugins.api import get_decoder, train_generator
from dd_plugins.testing import toy_data
kept._SAVED_EVERY = 0.0
def told(what, done, total):
    print(done, flush=True)
    if done == 15:
        time.sleep(60)
recipe = sys.argv[2]
train_generator(toy_data(), get_decoder("conv_decoder(width=4, channels=2)"),
                recipe=recipe, folder=pathlib.Path(sys.argv[1]), on_progress=told)
"""


def test_a_killed_training_goes_on_bit_for_bit(tmp_path: Path) -> None:
    whole = train_generator(toy_data(), SMALL, recipe=RECIPE, folder=tmp_path / "whole")
    folder = tmp_path / "killed"
    running = Started(folder, repr(RECIPE), folder=tmp_path, code=KILLED)
    running.wait_for("15")
    running.kill()
    (part,) = (tmp_path / "killed").glob("*.part")
    assert not list((tmp_path / "killed").glob("*.safetensors"))
    steps: list[int] = []
    ended = train_generator(
        toy_data(),
        SMALL,
        recipe=RECIPE,
        folder=tmp_path / "killed",
        on_progress=lambda what, done, total: steps.append(done),
    )
    assert steps[0] == 15  # of step 14 there was a state
    assert not part.exists()
    one, other = load_file(whole.file), load_file(ended.file)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_an_interrupted_training_goes_on_from_its_last_step(tmp_path: Path) -> None:
    whole = train_generator(toy_data(), SMALL, recipe=RECIPE, folder=tmp_path / "whole")

    def interrupting(what: str, done: int, total: int) -> None:
        if done == 9:
            os.kill(os.getpid(), signal.SIGINT)

    options: dict[str, Any] = {"recipe": RECIPE, "folder": tmp_path / "cut"}
    with pytest.raises(KeyboardInterrupt):
        train_generator(toy_data(), SMALL, on_progress=interrupting, **options)
    steps: list[int] = []

    def told(what: str, done: int, total: int) -> None:
        steps.append(done)

    ended = train_generator(toy_data(), SMALL, on_progress=told, **options)
    assert steps[0] == 10
    one, other = load_file(whole.file), load_file(ended.file)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_training_that_diverges_keeps_nothing(tmp_path: Path) -> None:
    wild = replace(RECIPE, learning_rate=1e30)
    with pytest.raises(RunError, match="lower the learning rate of its recipe"):
        train_generator(toy_data(), SMALL, recipe=wild, folder=tmp_path)
    assert not list(tmp_path.glob("*.safetensors"))


@pytest.mark.parametrize("content", [b"damaged", b"", pickle.dumps([1, 2], protocol=2)])
def test_a_state_that_cannot_be_read_starts_anew(
    tmp_path: Path, monkeypatch, content: bytes
) -> None:
    whole = train_generator(toy_data(), SMALL, recipe=RECIPE, folder=tmp_path)
    expected = load_file(whole.file)
    whole.file.unlink()
    whole.file.with_suffix(".part").write_bytes(content)
    monkeypatch.setattr(kept, "_SAVED_EVERY", 1e9)
    steps: list[int] = []
    again = train_generator(
        toy_data(),
        SMALL,
        recipe=RECIPE,
        folder=tmp_path,
        on_progress=lambda what, done, total: steps.append(done),
    )
    assert steps[0] == 1
    found = load_file(again.file)
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_the_command_trains_once_and_says_what_is_lost(
    command_line: Command, tmp_path: Path
) -> None:
    words = ["--decoder", "conv_decoder(width=4)", "--cache", "kept"]
    words += ["--recipe", "decoder_recipe(steps=60, learning_rate=1e-2)"]
    done = command_line("train-generator", *words, COLUMNS="300")
    assert done.returncode == 0, done.stderr
    assert re.search(r"60 steps: trained, [\d.]+ % of the variance", done.stdout)
    spec = re.search(r'next: distill --parametrization "(.*)"', done.stdout)
    assert spec
    assert get_parametrization(spec[1]).recipe.steps == 60
    (file,) = (tmp_path / "kept").iterdir()
    assert file.name.startswith("decoder-")
    again = command_line("train-generator", *words, COLUMNS="300")
    assert "60 steps: kept before" in again.stdout
    wrong = command_line("train-generator", *words, "--steps", 3)
    assert wrong.returncode == 2
    assert "not both" in wrong.stderr
    unknown = command_line("train-generator", "--decoder", "conv_decode")
    assert "conv_decoder" in unknown.stderr
