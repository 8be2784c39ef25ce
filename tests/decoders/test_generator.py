"""Sets that are learned in the latents of a generator."""

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT, Command

import dd_plugins
from dd_plugins import DistilledSet, testing
from dd_plugins.api import OptionError, Transform, get_parametrization
from dd_plugins.data.draws import sampler_of
from dd_plugins.errors import UnknownNameError
from dd_plugins.networks.mlp import MLP
from dd_plugins.plugins.manager import Plugins
from dd_plugins.run import Run, Task
from dd_plugins.synthetic.leaves import Codec
from dd_plugins.testing import toy_data

SMALL = "conv_decoder(width=4, channels=2)"
TRAINED = f"generator({SMALL}, recipe=decoder_recipe(steps=30, learning_rate=1e-2))"
RANDOM = f"generator({SMALL}, weights='random')"
OPTIONS: dict[str, Any] = {"network": "mlp(width=4)", "steps": 2, "device": "cpu"}


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DD_CACHE", str(tmp_path / "cache"))


def made(spec: str, seed: int = 0) -> tuple[Codec, Transform, torch.Tensor]:
    data = toy_data()
    transform, real = sampler_of(
        data, seed=0, device=torch.device("cpu"), precision=torch.float32
    )
    task = Task(data.name, data.image_shape, data.num_classes, 2)
    run = Run(task, "dm", MLP(), 1, seed, torch.device("cpu"))
    codec = get_parametrization(spec).codec(run, real, transform)
    assert codec is not None
    return codec, transform, transform(data.train.images[:4])


@pytest.mark.parametrize("check", testing.PARAMETRIZATION_CHECKS, ids=testing.name_of)
def test_a_trained_generator_conforms(check: Any) -> None:
    check(get_parametrization(TRAINED))


def test_the_last_layer_needs_no_style() -> None:
    spec = f"generator({SMALL}, layer=2, weights='random')"
    made = dd_plugins.distill("digits", "dm", parametrization=spec, **OPTIONS)
    assert made.header.stored_values == 10 * (4 * 8 * 8 + 16)


def test_a_generator_for_pixel_zca_is_trained_by_the_command_of_its_refusal(
    command_line: Command,
) -> None:
    recipe = "decoder_recipe(steps=3)"
    spec = f"generator({SMALL}, recipe={recipe}, missing_generator='refuse')"
    options = OPTIONS | {"preprocessing": "pixel-zca", "parametrization": spec}
    with pytest.raises(OptionError, match="--preprocessing pixel-zca"):
        dd_plugins.distill("digits", "dm", **options)
    words = ["--decoder", SMALL, "--recipe", recipe]
    done = command_line("train-generator", *words, "--preprocessing", "pixel-zca")
    assert done.returncode == 0, done.stderr
    dd_plugins.distill("digits", "dm", **options)


def test_latents_start_as_encoded_images_in_units_of_the_data() -> None:
    spec = f"generator({SMALL}, recipe=decoder_recipe(steps=150, learning_rate=1e-2))"
    codec, _, images = made(spec)
    stored = codec.encode(images, toy_data().train.labels[:4])
    assert 0.3 < float(stored["latents"].square().mean()) < 3
    lost = (codec.decode(stored) - images).square().mean() / images.square().mean()
    assert lost < 0.7


def test_random_weights_are_drawn_for_each_seed_and_keep_nothing(
    tmp_path: Path,
) -> None:
    labels = toy_data().train.labels[:4]
    found = []
    for seed in (0, 0, 1):
        codec, _, images = made(RANDOM, seed)
        found.append(codec.decode(codec.encode(images, labels)))
    assert torch.equal(found[0], found[1])
    assert not torch.allclose(found[0], found[2], atol=1e-2)
    assert not (tmp_path / "cache").exists()


def test_the_header_tells_latents_and_decoder_apart() -> None:
    made = dd_plugins.distill("digits", "dm", parametrization=TRAINED, **OPTIONS)
    header = made.header
    assert header.stored_images == len(made) == 10
    # Layer 1 of 8x8 images: 8 channels of 4x4 pixels, and a style of 16.
    assert header.stored_values == 10 * (8 * 4 * 4 + 16)
    # The last stage has a convolution and a style, the pixels a convolution. Neither
    # the encoder nor the first stage is needed.
    last = (8 * 4 * 9 + 4) + (16 * 8 + 8) + (4 * 9 + 1)
    assert header.decoder_values == last
    whole = TRAINED.replace("generator(", "generator(layer=0, decoder=")
    made_below = dd_plugins.distill("digits", "dm", parametrization=whole, **OPTIONS)
    first = (2 * 8 * 9 + 8) + (16 * 16 + 16)
    assert made_below.header.decoder_values == first + last
    assert not made.stored  # it is saved as pixels
    with pytest.raises(OptionError, match="at least"):
        dd_plugins.distill("digits", "dm", parametrization=TRAINED, budget=5_000)


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        (f"generator({SMALL}, layer=3)", r"has the layers 0 to 2, got layer 3"),
        ("generator(conv_decoder(depth=5))", "at least 32 pixels"),
        ("generator(frepo)", "decoder"),
        ("generator(conv_decoder, weights='pretrained')", "weights"),
        ("generator(conv_decoder, missing_generator='refuse')", "train-generator"),
    ],
)
def test_what_no_generator_is_is_refused(spec: str, told: str) -> None:
    with pytest.raises((OptionError, UnknownNameError), match=told):
        dd_plugins.distill("digits", "dm", parametrization=spec, **OPTIONS)


def test_a_generator_of_other_data_is_not_taken(command_line: Command) -> None:
    words = ["--decoder", SMALL, "--steps", 3]
    assert command_line("train-generator", *words).returncode == 0
    wanted = "decoder_recipe(steps=3)"
    spec = f"generator({SMALL}, recipe={wanted}, missing_generator='refuse')"
    images, labels = dd_plugins.get_dataset("digits").train
    others = dd_plugins.RealData.from_tensors(images.flip(0), labels)
    dd_plugins.distill("digits", "dm", parametrization=spec, **OPTIONS)
    with pytest.raises(OptionError, match="is missing in"):
        dd_plugins.distill(others, "dm", parametrization=spec, **OPTIONS)


def test_the_decoder_of_the_docs_conforms() -> None:
    page = (ROOT / "docs" / "writing-a-plugin.md").read_text()
    (example,) = [
        block.split("```")[0]
        for block in page.split("```python\n")[1:]
        if "class LinearDecoder" in block
    ]
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(example, "writing-a-plugin.md", "exec"), names)
    plugins = Plugins(load=[], extra={"mine": names["MyPlugin"]()})
    made = dd_plugins.distill(
        "digits",
        "dm",
        parametrization="generator(linear_decoder, layer=0, "
        "recipe=decoder_recipe(steps=20))",
        plugins=plugins,
        **OPTIONS,
    )
    assert made.header.stored_values == 10 * (16 + 1)
    assert isinstance(made, DistilledSet)
