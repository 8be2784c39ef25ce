"""Each seam of the house, shown by a method that knows the public door alone."""

import json
import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import BRIEFLY, ROOT, Command, run_code, run_in_two_processes
from seam_methods import LabelledAtTheEnd, LearnedStep, Mixture, TaughtByViews

import dd_plugins
from dd_plugins import DistilledSet, hookimpl, testing
from dd_plugins.api import (
    AbstractWrapper,
    Codec,
    Leaves,
    OptionError,
    Teacher,
    Views,
    get_recipe,
)
from dd_plugins.data.preprocess import to_unit_range
from dd_plugins.engine.checkpoint import load_checkpoint
from dd_plugins.evaluation import jobs
from dd_plugins.plugins.manager import Plugins
from dd_plugins.synthetic.leaves import Synthetic

SMALL: dict[str, Any] = {"network": "conv(width=4, depth=2)", "precision": "float32"}


@pytest.mark.parametrize(
    "method", [LearnedStep(), LabelledAtTheEnd(), TaughtByViews()], ids=repr
)
@pytest.mark.parametrize("check", testing.DISTILLER_CHECKS, ids=testing.name_of)
def test_methods_of_the_seams_pass_the_checks(check: Any, method: Any) -> None:
    check(method)


def test_a_step_size_is_learned_recorded_and_forwarded() -> None:
    made = dd_plugins.distill("digits", LearnedStep(), steps=30, **SMALL)
    (size,) = made.header.learned["step_size"]
    assert 0 < abs(size - 0.5) < 0.5
    wrapped = testing.PassThrough(base=LearnedStep())
    assert wrapped.learnables(None)["step_size"] == 0.5  # type: ignore[arg-type]


def test_a_step_size_that_is_not_finite_stops_the_run() -> None:
    class Wild(LearnedStep):
        def accumulate(self, *arguments: Any) -> Any:
            metrics = super().accumulate(*arguments)
            arguments[1].others["step_size"].grad.fill_(float("nan"))
            return metrics

    with pytest.raises(dd_plugins.DDError, match="not finite"):
        dd_plugins.distill("digits", Wild(), steps=2, **SMALL)


KILLED = f"""
import json, os, signal, sys
sys.path.insert(0, {str(ROOT / "tests")!r})
import dd_plugins
from dd_plugins import hookimpl
from dd_plugins.plugins.manager import Plugins
from dd_plugins.testing import toy_data
from seam_methods import LearnedStep, Mixture

class Killer:
    def __init__(self, moment):
        self.moment = moment

    @hookimpl
    def dd_after_step(self, step):
        if step == self.moment:
            os.kill(os.getpid(), signal.SIGKILL)

    @hookimpl
    def dd_register_parametrizations(self, register):
        register(Mixture)

def distil(out, moment, spec, parametrization):
    dd_plugins.distill(
        toy_data(validation=0.0), LearnedStep() if spec == "learned_step" else spec,
        steps=6, out=out,
        resume=True, checkpoint_seconds=0, network="dc_convnet(width=4, depth=2)",
        parametrization=parametrization, precision="float32",
        plugins=Plugins(load=[], extra={{"killer": Killer(moment)}}),
    )

# Nothing was computed before the forks: threads are made in the children alone.
for number, case in enumerate(json.loads(sys.argv[2])):
    for name, moment in (("whole", 0), ("killed", 3), ("killed", 0)):
        child = os.fork()
        if child == 0:
            distil(f"{{sys.argv[1]}}/{{number}}-{{name}}", moment, *case)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)
"""
SEVERAL = "networks=(conv(width=4, depth=2), vgg11(width=4)), start=1"
METADD = f"{SEVERAL}, stages=(5,)"
MTT = (
    "mtt(experts=2, snapshot_steps=2, student_steps=3, target_distance=2, "
    "difficulty=window(0, 1, grows_to=2, steps=4), step_size_learning_rate=1e-3)"
)
SRE2L = (
    "sre2l(teachers=(resnet18(width=4, normalization='batch'), "
    "vgg11(width=4, normalization='batch')), "
    "teacher_recipe=recipe(steps=5, learning_rate=0.05, optimizer='sgd'), "
    "curriculum=True)"
)
GENERATOR = (
    "generator(conv_decoder(width=4, channels=2), "
    "recipe=decoder_recipe(steps=5, learning_rate=1e-2))"
)
CASES = [
    ("learned_step", "identity"),
    ("frepo(pool_size=2)", "packed(factor=2)"),
    ("dsa(real_batch_size=16)", GENERATOR),
    (f"metadd(frepo(pool_size=2), {METADD})", "packed(factor=2)"),
    (f"metadd(frepo(pool_size=2), {SEVERAL}, variant='gradients')", "identity"),
    (f"metadd(frepo(pool_size=2), {SEVERAL}, auxiliaries='learning')", "identity"),
    ("frepo(pool_size=2, kernel=tangent(projection=2))", "identity"),
    ("frepo(pool_size=2, average=0.6)", "packed(factor=2)"),
    ("dm(real_batch_size=16)", "mixture"),
    ("kip(real_batch_size=16, learn_labels=True)", "spectral"),
    (f"metadd(kip(real_batch_size=16), {METADD})", "identity"),
    (MTT, "identity"),
    (f"metadd({SRE2L}, {METADD})", "spectral"),
    (f"metadd({MTT[:-1]}, learn_labels=True), {METADD})", "packed(factor=2)"),
]


def test_killed_runs_end_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DD_CACHE", str(tmp_path / "cache"))
    done = run_code(KILLED, tmp_path, json.dumps(CASES), folder=tmp_path)
    assert done.stdout.split() == ["0", "-9", "0"] * len(CASES), done.stderr
    for number, (spec, parametrization) in enumerate(CASES):
        whole, killed = (
            DistilledSet.load(tmp_path / f"{number}-{name}")
            for name in ("whole", "killed")
        )
        assert whole.content_hash() == killed.content_hash(), (spec, parametrization)
        packed = parametrization.startswith(("packed", "spectral"))
        assert (
            whole.header.parametrization.split("(")[0] == parametrization.split("(")[0]
        )
        assert len(whole) == (8 if packed else 2)
        assert whole.header.stored_images == 2


MATCHED = f"""
import sys
sys.path.insert(0, {str(ROOT / "tests")!r})
import torch
import dd_plugins
from dd_plugins.runtime import processes
from dd_plugins.testing import toy_data
from dd_plugins.training.trajectories import Trajectory
from seam_methods import LearnedStep

train, trained = Trajectory._train, []
def counted(self, *arguments):
    trained.append(self.trained.seed)
    return train(self, *arguments)
Trajectory._train = counted

with processes.process_group():
    for number, spec in enumerate(sys.argv[2:]):
        made = dd_plugins.distill(
            toy_data(validation=0.0),
            LearnedStep() if spec == "learned_step" else spec,
            steps=4, precision="float32", network="dc_convnet(width=4, depth=2)",
            images_per_class=2 if spec.startswith("sre2l") else 1,
            parametrization={GENERATOR!r} if spec == "learned_step" else "identity",
            out=f"{{sys.argv[1]}}/{{number}}",
        )
        mine = [made.images, made.labels, made.header.learned]
        (one, labels, learned), (other, same, too) = processes.gather_objects(mine)
        assert torch.equal(one, other) and torch.equal(labels, same), spec
        assert learned == too, (learned, too)
        assert learned.get("step_size") != [0.5]
    assert processes.gather_objects(trained) == [[0], [1]]
"""


def test_two_processes_learn_and_match_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setenv("DD_CACHE", str(cache))
    specs = [MTT, f"{MTT[:-1]}, learn_labels=True)", "kip(real_batch_size=16)"]
    specs += ["learned_step", SRE2L, "frepo(pool_size=2, kernel=tangent())"]
    run_in_two_processes(MATCHED, tmp_path, *specs, folder=tmp_path)
    assert len(list(cache.iterdir())) == 2 + 2 + 1, "experts, teachers, a generator"
    monkeypatch.setenv("DD_CACHE", str(tmp_path / "other"))
    alone, recovered = (
        dd_plugins.distill(
            testing.toy_data(validation=0.0), spec, steps=4, precision="float32",
            network="dc_convnet(width=4, depth=2)", images_per_class=count,
        )
        for spec, count in (("kip(real_batch_size=16)", 1), (SRE2L, 2))
    )  # fmt: skip
    saved = load_checkpoint(tmp_path / "3" / "checkpoint.pt")
    assert saved["synthetic"]["others"]["step_size"].shape == ()
    both = DistilledSet.load(tmp_path / "2")
    # The loss is a mean over the batch, and its gradient that of both halves.
    torch.testing.assert_close(both.images, alone.images, rtol=0, atol=1e-4)
    both = DistilledSet.load(tmp_path / "4")
    # Each process recovers a group of its own.
    torch.testing.assert_close(both.images, recovered.images, rtol=0, atol=1e-4)


def test_packed_set_is_stored_packed_and_tells_its_budget(
    command_line: Command, tmp_path: Path
) -> None:
    words = ["--parametrization", "packed(factor=2)", "--steps", 2, "--out", "run"]
    words += ["--distiller", "frepo(pool_size=2)", "--network", "mlp(width=4)"]
    done = command_line("distill", *words)
    assert done.returncode == 0, done.stderr
    assert "40 images, of 10 stored ones," in done.stdout + done.stderr
    made = DistilledSet.load(tmp_path / "run")
    header = made.header
    assert (len(made), header.stored_images, header.stored_values) == (40, 10, 640)
    assert made.budget == 10
    assert made.stored["grids"].shape == (10, 1, 8, 8)
    assert header.run.images_per_class == 1
    told = command_line("info", "run", COLUMNS="200").stdout
    assert "stored images" in told
    assert "640" in told
    assert "2,560 of stored images, 1,600 of labels, 0 of a decoder" in told
    shown = []
    for option in ([], ["--stored"]):
        done = command_line("show", "run", *option, "--out", f"{len(option)}.png")
        assert done.returncode == 0, done.stderr
        shown.append((tmp_path / f"{len(option)}.png").read_bytes())
    assert shown[0] != shown[1]
    words = ["--repeats", 1, "--baselines", "--protocol", "recipe(steps=5)"]
    words += ["--network", "mlp(width=4)"]
    done = command_line("evaluate", "run", *words, COLUMNS="200", code=BRIEFLY)
    row = next(line for line in done.stdout.splitlines() if "random real" in line)
    assert row.split("│")[2].strip() == "10"


def test_spectral_set_holds_what_decodes_it(
    command_line: Command, tmp_path: Path
) -> None:
    words = ["--parametrization", "spectral(keep=0.25)", "--images-worth", 2]
    words += ["--distiller", "frepo(pool_size=2)", "--network", "mlp(width=4)"]
    done = command_line("distill", *words, "--steps", 2, "--preprocessing", "zca")
    assert done.returncode == 0, done.stderr
    run = tmp_path / "runs" / "digits-worth2"
    made = DistilledSet.load(run)
    header = made.header
    assert (len(made), header.stored_images, header.stored_values) == (80, 20, 1280)
    assert made.stored["coefficients"].shape == (20, 4, 16)
    assert sorted(made.decoder) == ["colours", "scales"]
    done = command_line("show", run, "--stored")
    assert done.returncode == 2
    assert "show the decoded images" in done.stderr
    assert command_line("show", run).returncode == 0
    done = command_line("export", run, "--to", "npz", "--out", "set.npz")
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "set.npz") as arrays:
        np.testing.assert_array_equal(arrays["images"], made.images)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ["--budget", 2559],
            "at least 2,560 bytes, for one stored image of each of 10",
        ),
        (["--budget", 5120, "--ipc", 1], "either images_per_class or a budget"),
        (["--budget", 5120, "--images-worth", 1], "either budget or images_worth"),
    ],
)
def test_a_budget_that_cannot_be_kept_is_one_line(
    command_line: Command, words: list[object], told: str
) -> None:
    done = command_line("distill", "--distiller", "random", *words)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert told in line


@pytest.mark.parametrize(
    ("parametrization", "budget", "images"),
    [
        ("identity", 2_560, 10),
        ("identity", 5_119, 10),
        ("identity", 5_120, 20),
        ("packed", 5_120, 80),
        ("spectral(keep=0.3)", 2 * 2_280, 60),
    ],
)
def test_as_many_images_are_made_as_fit_in_a_budget(
    parametrization: str, budget: int, images: int
) -> None:
    made = dd_plugins.distill(
        "digits", "random", budget=budget, parametrization=parametrization, **SMALL
    )
    assert len(made) == images
    assert 4 * (made.header.stored_values or 0) <= budget


def test_a_budget_and_a_context_are_refused_together() -> None:
    context = dd_plugins.distill("digits", "random", **SMALL)
    with pytest.raises(OptionError, match="expected no context"):
        dd_plugins.distill("digits", "dm", budget=5_120, context=context, **SMALL)


def test_random_baseline_has_as_many_values_as_are_stored(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = dd_plugins.distill(
        "digits", "random", images_per_class=2, parametrization="packed", **SMALL
    )
    sizes: list[int] = []
    train = jobs.train_network

    def counting(network: Any, training_set: Any, *rest: Any, **options: Any) -> Any:
        sizes.append(len(training_set.images))
        return train(network, training_set, *rest, **options)

    monkeypatch.setattr(jobs, "train_network", counting)
    options = {"protocol": "recipe(steps=1)", "baselines": True, "full_steps": 1}
    dd_plugins.evaluate(made, "mlp(width=2)", repeats=1, **options)
    assert sizes[:2] == [80, 20]


def test_packed_begins_as_real_images_at_half_the_size() -> None:
    made = dd_plugins.distill("digits", "random", parametrization="packed", **SMALL)
    data = dd_plugins.get_dataset("digits")
    indices = torch.tensor(made.header.initial_indices)
    places = torch.searchsorted(data.train_indices, indices)
    real = data.train.images[places]
    small = torch.nn.functional.avg_pool2d(to_unit_range(real), 2)
    large = torch.nn.functional.interpolate(
        small, size=(8, 8), mode="bilinear", align_corners=False
    )
    torch.testing.assert_close(made.pixels(), large, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("factor", "message"),
    [
        (5, "hold 5 smaller ones along each side, got 8x8"),
        (1, "at least 2"),
    ],
)
def test_packed_that_does_not_fit_is_refused(factor: int, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        dd_plugins.distill(
            "digits", "dm", parametrization=f"packed(factor={factor})", steps=1, **SMALL
        )


def test_gradient_through_chunks_is_that_of_the_whole() -> None:
    """Against autograd over all images at once, in float64."""
    generator = torch.Generator().manual_seed(0)
    basis = torch.randn(5, 12, generator=generator, dtype=torch.float64)
    codec = Codec(
        encode=lambda images, classes: {"latents": images.flatten(1)[:, :5]},
        decode=lambda stored: torch.sin(stored["latents"] @ basis).view(-1, 1, 3, 4),
        chunk=3,
    )
    images = torch.randn(7, 1, 3, 4, generator=generator, dtype=torch.float64)
    labels, classes = torch.eye(7), torch.arange(7)
    synthetic = Synthetic(images, labels, classes, learn_labels=False, codec=codec)
    leaves = synthetic.decode()
    weights = torch.randn(7, 1, 3, 4, generator=generator, dtype=torch.float64)
    leaves.pixels.grad = weights
    synthetic.pull_back(leaves)
    whole = images.flatten(1)[:, :5].clone().requires_grad_()
    (torch.sin(whole @ basis).view(-1, 1, 3, 4) * weights).sum().backward()
    (found,) = synthetic.parameters().images
    torch.testing.assert_close(found.grad, whole.grad)


def test_a_stranger_s_parametrization_is_decoded_in_the_file(tmp_path: Path) -> None:
    class Plugin:
        @hookimpl
        def dd_register_parametrizations(self, register: Any) -> None:
            register(Mixture)

    plugins = Plugins(load=[], extra={"mine": Plugin()})
    made = dd_plugins.distill(
        "digits", "dm", steps=3, parametrization="mixture", plugins=plugins, **SMALL
    )
    made.save(tmp_path / "set.safetensors")
    loaded = DistilledSet.load(tmp_path / "set.safetensors")  # without the plugin
    assert torch.equal(loaded.images, made.images)
    assert loaded.header.stored_values == 10 * 12
    assert loaded.budget == 2  # 120 values, of 64 an image
    assert float(loaded.images.abs().max()) <= 1  # tanh


def test_labels_are_made_when_the_images_are_done() -> None:
    made = dd_plugins.distill("digits", LabelledAtTheEnd(), steps=5, **SMALL)
    assert made.header.label_kind == "probabilities"
    torch.testing.assert_close(made.labels.sum(dim=1), torch.ones(10))
    one_hot = made.labels.max(dim=1).values > 0.99
    assert not one_hot.any()
    wrapped = dd_plugins.distill(
        "digits", testing.PassThrough(base=LabelledAtTheEnd()), steps=5, **SMALL
    )
    assert torch.equal(wrapped.labels, made.labels)


def test_method_s_recipe_and_value_space_are_honoured() -> None:
    made = dd_plugins.distill("digits", LabelledAtTheEnd(), steps=2, **SMALL)
    assert made.header.value_space == "zca"
    recipe = get_recipe(made.header.recipe or "")
    assert (recipe.steps, recipe.optimizer, recipe.temperature) == (7, "adamw", 4.0)
    found = dd_plugins.evaluate(made, "mlp(width=4)", repeats=1)
    assert found.recipe == recipe
    other = dd_plugins.evaluate(made, "mlp(width=4)", repeats=1, protocol="frepo")
    assert other.recipe is not None
    assert other.recipe.steps == 1_000
    chosen = dd_plugins.distill(
        "digits", LabelledAtTheEnd(), steps=1, preprocessing="standardize", **SMALL
    )
    assert chosen.header.value_space == "standardize"


def test_an_artifact_cannot_ask_for_endless_training() -> None:
    made = dd_plugins.distill("digits", "random", **SMALL)
    header = made.header.model_copy(update={"recipe": "recipe(steps=1000000000)"})
    endless = replace(made, header=header)
    with pytest.raises(OptionError, match=r"1,000,000,000 training steps, expected"):
        dd_plugins.evaluate(endless, "mlp(width=2)")


def test_class_of_an_image_is_data_not_its_label() -> None:
    """A method whose labels turn round still matches the classes it began with."""
    seen: list[torch.Tensor] = []

    class Watching(LabelledAtTheEnd):
        def initial_labels(self, labels: Any, num_classes: int) -> Any:
            return super().initial_labels(labels.flip(0), num_classes)

        def accumulate(self, state: Any, leaves: Leaves, *rest: Any) -> Any:
            seen.append(leaves.classes)
            return super().accumulate(state, leaves, *rest)

    made = dd_plugins.distill("digits", Watching(), steps=1, **SMALL)
    assert seen[0].tolist() == made.header.initial_classes == list(range(10))


def test_header_repeats_its_run(tmp_path: Path) -> None:
    made = dd_plugins.distill(
        "digits", "frepo(pool_size=2)", images_per_class=2, steps=3, seed=5, **SMALL
    )
    again = dd_plugins.distill("digits", **made.header.run.arguments())
    assert torch.equal(again.images, made.images)
    assert again.header.run == made.header.run
    other = replace(made.header.run, seed=6)
    assert not torch.equal(
        dd_plugins.distill("digits", **other.arguments()).images, made.images
    )


def test_wrappers_forward_everything() -> None:
    """A member that a wrapper forgets would be silently that of a plain distiller."""
    from dd_plugins.distillers.base import AbstractDistiller

    public = {name for name in vars(AbstractDistiller) if not name.startswith("_")}
    own = {name for name in vars(AbstractWrapper) if not name.startswith("_")}
    assert public - own == set()


def test_foreign_stored_tensors_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    made = dd_plugins.distill("digits", "random", parametrization="packed", **SMALL)
    file = made.save(tmp_path / "set.safetensors")
    tensors = made.tensors()
    for header, changed in (
        ({}, {"stored.grids": made.stored["grids"][:5]}),
        ({}, {"stored.grids": made.stored["grids"][:, 0]}),
        ({"parametrization": "packed(factor=4)"}, {}),
        ({"parametrization": "identity"}, {}),
        ({"parametrization": "mixture"}, {}),
        ({"format_version": 2}, {}),
    ):
        fields = made.header.model_dump() | header
        text = {"dd_plugins": json.dumps(fields)}
        save_file({**tensors, **changed}, file, metadata=text)
        with pytest.raises(dd_plugins.DDError, match="damaged"):
            DistilledSet.load(file)


def _taught(stored: bool) -> DistilledSet:
    return dd_plugins.distill(
        "digits", TaughtByViews(stored=stored), steps=2, device="cpu", **SMALL
    )


def test_views_train_alike_from_stored_labels_and_from_a_kept_teacher(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DD_CACHE", str(tmp_path / "cache"))
    found, files = [], []
    for stored in (True, False):
        made = _taught(stored)
        file = made.save(tmp_path / f"{stored}.safetensors")
        loaded = DistilledSet.load(file)
        assert loaded.header.views is not None
        assert (loaded.view_labels is not None) == stored
        assert (loaded.header.views.teacher is None) == stored
        kept = len(list((tmp_path / "cache").glob("*.safetensors")))
        recipe = "recipe(steps=40, temperature=2.0, learning_rate=0.01, batch_size=4)"
        found.append(
            dd_plugins.evaluate(
                loaded, "mlp(width=8)", repeats=2, protocol=recipe, precision="float32"
            ).networks[0]
        )
        assert kept == 1 == len(list((tmp_path / "cache").glob("*.safetensors")))
        files.append(file.stat().st_size)
    assert found[0] == found[1]
    assert files[0] > files[1]
    loaded = DistilledSet.load(tmp_path / "True.safetensors")
    assert loaded.view_labels is not None
    assert loaded.view_labels.shape == (3, 10, 10)
    assert loaded.view_labels.dtype == torch.float16
    plain = replace(loaded, view_labels=None)
    other = dd_plugins.evaluate(
        plain, "mlp(width=8)", repeats=2, protocol=recipe, precision="float32"
    )
    assert other.networks[0] != found[0], "views must be trained on"


def test_view_is_a_function_of_seed_number_and_image() -> None:
    images = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    views, indices = Views(count=2, seed=5, smallest=0.2), torch.arange(4)
    whole = views.look(images, indices, 1, mirror=True)
    for index in (3, 0):  # alone, and in another order
        alone = views.look(images, torch.tensor([index]), 1, mirror=True)
        assert torch.equal(alone[0], whole[index])
    assert not torch.equal(views.look(images, indices, 0, mirror=True), whole)
    assert not torch.equal(
        replace(views, seed=6).look(images, indices, 1, mirror=True), whole
    )
    low, high = images.amin(dim=(2, 3)), images.amax(dim=(2, 3))
    assert (whole.amin(dim=(2, 3)) >= low).all()
    assert (whole.amax(dim=(2, 3)) <= high).all()
    full = Views(count=1, smallest=1.0).look(images, indices, 0, mirror=False)
    assert full.shape == images.shape


def test_teacher_of_other_labels_than_probabilities_is_refused() -> None:
    class Classes(TaughtByViews):
        label_kind = "classes"

    with pytest.raises(dd_plugins.DDError, match="teacher must return None, or"):
        dd_plugins.distill("digits", Classes(), steps=1, **SMALL)


def test_foreign_labels_of_views_are_refused(tmp_path: Path) -> None:
    made = _taught(stored=True)
    assert made.view_labels is not None
    for changed, told in (
        (made.view_labels[:2], "must have shape"),
        (made.view_labels.float(), "must be float16"),
        (made.view_labels * float("nan"), "not finite"),
        (None, "must have shape"),
    ):
        file = replace(made, view_labels=changed).save(tmp_path / "set.safetensors")
        with pytest.raises(dd_plugins.DDError, match=told):
            DistilledSet.load(file)


@cache
def _random_set(parametrization: str) -> DistilledSet:
    return dd_plugins.distill(
        "digits", "random", parametrization=parametrization, **SMALL
    )


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"stored_values": 10**400}, "stored_values"),
        ({"stored_values": -5}, "stored_values"),
        ({"stored_values": 641}, "must be (10, 640), are (10, 641)"),
        ({"stored_images": 0}, "stored_images"),
        ({"stored_images": None}, "must be numbers from 1"),
        ({"learned": {"step_size": [float("nan")]}}, "learned"),
        ({"views": {"views": "views(count=1)", "temperature": 0.0}}, "temperature"),
        (
            {
                "views": {"views": "crops", "temperature": 1.0},
                "label_kind": "probabilities",
            },
            "expected views, such as",
        ),
    ],
)
def test_forged_budget_and_learned_values_are_refused(
    tmp_path: Path, changed: dict[str, Any], told: str
) -> None:
    from safetensors.torch import save_file

    for made in map(_random_set, ("identity", "packed")):
        fields = made.header.model_dump() | changed
        text = {"dd_plugins": json.dumps(fields)}
        save_file(made.tensors(), tmp_path / "forged.safetensors", metadata=text)
        with pytest.raises(dd_plugins.DDError, match=re.escape(told)):
            DistilledSet.load(tmp_path / "forged.safetensors")


def test_a_teacher_labels_the_views_of_a_run_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Validation, snapshots and the file show one finished set."""
    monkeypatch.setenv("DD_CACHE", str(tmp_path))
    labelled: list[int] = []
    all_labels = Teacher.all_labels

    def counting(self: Teacher, images: Any, **options: Any) -> Any:
        labelled.append(len(images))
        return all_labels(self, images, **options)

    monkeypatch.setattr(Teacher, "all_labels", counting)
    dd_plugins.distill(
        "digits", TaughtByViews(stored=True), steps=2, out=tmp_path / "run", **SMALL
    )
    assert labelled == [10]


def test_wrong_parametrization_is_said_before_data_is_read() -> None:
    with pytest.raises(LookupError, match="nearest first: packed"):
        dd_plugins.distill("folder:/nowhere", "dm", parametrization="pack")


def test_a_stored_set_is_shown_with_a_budget_of_its_own() -> None:
    made = dd_plugins.distill("digits", "random", parametrization="packed", **SMALL)
    shown = made.as_stored()
    assert (len(shown), shown.budget, shown.header.stored_values) == (10, 10, 640)
    assert shown.header.parametrization == "identity"


class _Keeper:
    """Keeps the set after every step."""

    def __init__(self) -> None:
        self.sets: list[DistilledSet] = []

    @dd_plugins.hookimpl
    def dd_after_step(self, distilled: Any) -> None:
        self.sets.append(distilled())


@pytest.mark.parametrize("parametrization", ["identity", "packed(factor=2)"])
def test_average_of_a_run_is_that_of_the_sets_after_its_steps(
    parametrization: str,
) -> None:
    runs = {}
    for decay in (0.0, 0.5):
        keeper = _Keeper()
        runs[decay] = keeper.sets
        dd_plugins.distill(
            testing.toy_data(validation=0.0),
            f"frepo(pool_size=2, average={decay})", steps=3,
            network="mlp(width=4)", precision="float32",
            parametrization=parametrization,
            plugins=Plugins(load=[], extra={"keeper": keeper}),
        )  # fmt: skip
    plain, averaged = runs[0.0], runs[0.5]
    names = list(plain[0].stored) or ["images"]
    for name in [*names, "labels"]:
        first, second, third = (
            each.stored[name] if name in each.stored else getattr(each, name)
            for each in plain
        )
        assert not torch.equal(first, third), "a kept set is not changed by a step"
        wanted = (first + 2 * second + 4 * third) / 7
        last = averaged[-1]
        found = last.stored[name] if name in last.stored else getattr(last, name)
        torch.testing.assert_close(found, wanted)
