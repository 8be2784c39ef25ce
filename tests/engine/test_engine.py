"""The loop: what it takes, what it refuses, whom it tells."""

import json
import multiprocessing
import os
import signal
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import data_root
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

import dd_plugins
from dd_plugins import DistilledSet, hookimpl
from dd_plugins.cli.entry import main
from dd_plugins.data.preprocess import Transform
from dd_plugins.distillers.dm import DM
from dd_plugins.distillers.state import AbstractState, Metrics
from dd_plugins.errors import (
    DataError,
    FileError,
    LostProcessError,
    OptionError,
    PluginError,
    RunError,
)
from dd_plugins.plugins.lookup import get_initial_images
from dd_plugins.plugins.manager import Plugins
from dd_plugins.run import Run
from dd_plugins.spec import record
from dd_plugins.synthetic.leaves import Leaves
from dd_plugins.testing import toy_data
from dd_plugins.wrappers.base import AbstractWrapper

SMALL: dict[str, Any] = {"network": "conv(width=4, depth=2)", "steps": 4}
SPEC = "frepo(pool_size=2)"


def test_tensors_and_datasets_are_distilled_alike() -> None:
    images = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(40) % 4
    first = dd_plugins.distill((images, labels), SPEC, **SMALL)
    second = dd_plugins.distill(TensorDataset(images, labels), SPEC, **SMALL)
    assert torch.equal(first.images, second.images)
    assert first.header.class_names == ["0", "1", "2", "3"]
    with pytest.raises(DataError, match="no test set"):
        dd_plugins.evaluate(first, ["mlp"], data=toy_data_of(images, labels))


def toy_data_of(images: Tensor, labels: Tensor) -> dd_plugins.RealData:
    return dd_plugins.RealData.from_tensors(images, labels)


def test_artifact_remembers_where_its_images_began() -> None:
    data = toy_data()
    distilled = dd_plugins.distill(data, SPEC, images_per_class=3, **SMALL)
    header = distilled.header
    assert header.initial_classes == [0, 0, 0, 1, 1, 1]
    assert header.initial_indices is not None
    # Class 0 has the even numbers, and what is held out never begins an image.
    assert [index % 2 for index in header.initial_indices] == header.initial_classes
    assert set(header.initial_indices) <= set(data.train_indices.tolist())


def test_set_may_begin_as_noise() -> None:
    first, second = (
        dd_plugins.distill(toy_data(), SPEC, initial_images="noise", seed=seed, **SMALL)
        for seed in (0, 1)
    )
    assert first.header.initial_indices is None
    assert not torch.equal(first.images, second.images)
    # Steps this small leave noise what it was: of mean 0 and variance 1.
    assert abs(float(first.images.mean())) < 0.3
    assert 0.7 < float(first.images.std()) < 1.3
    with pytest.raises(OptionError, match="initial_images must be one of real, noise"):
        dd_plugins.distill(toy_data(), SPEC, initial_images="zeros", **SMALL)  # type: ignore[arg-type]


def test_run_without_enough_real_images_is_refused() -> None:
    with pytest.raises(OptionError, match="choose at most"):
        dd_plugins.distill(toy_data(), SPEC, images_per_class=100, **SMALL)


@pytest.mark.parametrize("first", ["real", "herding(training_steps=0)"])
def test_packed_images_are_counted_as_they_were_asked_for(first: str) -> None:
    labels = torch.tensor([0] * 20 + [1] * 6)
    data = dd_plugins.RealData.from_values(torch.rand(26, 1, 8, 8), labels)
    for asked, told in ((2, "2 images per class"), ((1, 2), "2 images of class '1'")):
        with pytest.raises(
            OptionError,
            match=f"^{told}.* of 4 real ones each, .*only 6 .*; choose at most 1$",
        ):
            dd_plugins.distill(
                data,
                SPEC,
                images_per_class=asked,
                parametrization="packed",
                initial_images=first,
                **SMALL,
            )


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"steps": 0}, "steps"),
        ({"images_per_class": 0}, "images_per_class"),
        ({"checkpoint_seconds": -1.0}, "checkpoint_seconds"),
        ({"checkpoint_seconds": float("nan")}, "checkpoint_seconds"),
        ({"resume": True}, "out"),
        ({"device": "abacus"}, "device"),
    ],
)
def test_wrong_option_is_refused(options: dict[str, Any], told: str) -> None:
    with pytest.raises(OptionError, match=told):
        dd_plugins.distill(toy_data(), SPEC, **(SMALL | options))


def test_data_of_an_unknown_type_is_refused() -> None:
    with pytest.raises(OptionError, match="got set"):
        dd_plugins.distill({1, 2}, SPEC, **SMALL)  # type: ignore[arg-type]


@record
class Poison(AbstractWrapper):
    """Makes the gradient infinite at one step."""

    name = "poison"

    at: int = 2

    def adjust(
        self, state: AbstractState, leaves: Leaves, real: Any, step: int
    ) -> Metrics:
        if step == self.at and leaves.pixels.grad is not None:
            leaves.pixels.grad[0] = float("inf")
        return {}


def test_gradient_that_is_not_finite_stops_the_run_with_the_good_checkpoint(
    tmp_path: Path,
) -> None:
    poisoned = Poison(base=dd_plugins.get_distiller(SPEC))
    with pytest.raises(
        RunError, match=r"step 2 .*last good checkpoint is .*checkpoint"
    ):
        dd_plugins.distill(
            toy_data(), poisoned, out=tmp_path, checkpoint_seconds=0, **SMALL
        )
    saved = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert saved["step"] == 2
    assert torch.isfinite(saved["synthetic"]["images"]["images"]).all()


@record
class Dumb(AbstractWrapper):
    """Says that the loss is not a number, and leaves the gradient as it is."""

    name = "dumb"

    def adjust(
        self, state: AbstractState, leaves: Leaves, real: Any, step: int
    ) -> Metrics:
        return {"loss": torch.tensor(float("nan"))}


def test_loss_that_is_not_finite_stops_the_run() -> None:
    dumb = Dumb(base=dd_plugins.get_distiller(SPEC))
    with pytest.raises(RunError, match=r"loss or its gradient .* \(loss nan\)"):
        dd_plugins.distill(toy_data(), dumb, **SMALL)


class Witness:
    """An observer that remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    @hookimpl
    def dd_before_run(self, run: Run, first_step: int) -> None:
        self.told.append(("before", run.steps, first_step))

    @hookimpl
    def dd_after_step(
        self, step: int, metrics: Mapping[str, float], distilled: Any
    ) -> None:
        self.told.append(("step", step, sorted(metrics), distilled().header.steps))

    @hookimpl
    def dd_after_run(self, distilled: DistilledSet | None) -> None:
        self.told.append(("after", distilled is not None))


def test_observers_are_told_start_every_step_and_end() -> None:
    witness = Witness()
    plugins = Plugins(load=[], extra={"witness": witness})
    dd_plugins.distill(toy_data(), SPEC, plugins=plugins, **SMALL)
    assert witness.told[0] == ("before", 4, 0)
    assert [told[1] for told in witness.told[1:-1]] == [1, 2, 3, 4]
    assert [told[3] for told in witness.told[1:-1]] == [1, 2, 3, 4]
    assert {"loss", "seconds", "validation_accuracy"} <= set(witness.told[-2][2])
    assert witness.told[-1] == ("after", True)


def test_observers_are_told_of_a_failure() -> None:
    witness = Witness()
    plugins = Plugins(load=[], extra={"witness": witness})
    poisoned = Poison(base=plugins.distiller(SPEC))
    with pytest.raises(RunError):
        dd_plugins.distill(toy_data(), poisoned, plugins=plugins, **SMALL)
    assert witness.told[-1] == ("after", False)


def test_metrics_hold_losses_and_validation_accuracy(tmp_path: Path) -> None:
    dd_plugins.distill(toy_data(), SPEC, out=tmp_path, **(SMALL | {"steps": 20}))
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["step"] for row in rows] == list(range(1, 21))
    validated = [row["step"] for row in rows if "validation_accuracy" in row]
    assert validated == list(range(2, 21, 2))
    assert all(0 <= row["batch_accuracy"] <= 1 for row in rows)
    assert rows[-1]["validation_accuracy"] > 0.9


def test_method_without_predictor_is_validated_by_a_fresh_network() -> None:
    class Silent(type(dd_plugins.get_distiller("frepo"))):  # type: ignore[misc]
        def predictor(self, *given: Any) -> None:
            return None

    witness = Witness()
    plugins = Plugins(load=[], extra={"witness": witness})
    options = SMALL | {"steps": 1, "network": "mlp(width=8)"}
    dd_plugins.distill(toy_data(), Silent(), plugins=plugins, **options)
    assert "validation_accuracy" in witness.told[-2][2]


def test_a_predict_of_the_last_release_is_refused_by_its_name() -> None:
    class Old(type(dd_plugins.get_distiller("frepo"))):  # type: ignore[misc]
        def predict(self, state: Any, leaves: Any, images: Tensor) -> Tensor:
            return images

    with pytest.raises(PluginError, match=r"frepo.predict must be predictor\(state"):
        dd_plugins.distill(toy_data(), Old(), **SMALL)


def test_run_goes_on_where_its_validation_fails() -> None:
    class Sick(type(dd_plugins.get_distiller("frepo"))):  # type: ignore[misc]
        def predictor(self, *given: Any) -> Tensor:
            raise RunError("the kernel is singular")

    witness = Witness()
    plugins = Plugins(load=[], extra={"witness": witness})
    with pytest.warns(UserWarning, match=r"no validation accuracy at step \d: the k"):
        dd_plugins.distill(toy_data(), Sick(), plugins=plugins, **SMALL)
    assert witness.told[-1] == ("after", True)
    assert not any("validation_accuracy" in told[2] for told in witness.told[1:-1])


def test_finished_set_is_saved_though_its_checkpoint_cannot_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: object) -> None:
        raise FileError(f"cannot write {path}: no space left")

    monkeypatch.setattr("dd_plugins.engine.checkpoint.save_checkpoint", full)
    with pytest.raises(FileError, match="no space left"):
        dd_plugins.distill(toy_data(), SPEC, out=tmp_path, **SMALL)
    saved = DistilledSet.load(tmp_path)
    monkeypatch.undo()
    again = dd_plugins.distill(toy_data(), SPEC, **SMALL)
    assert saved.content_hash() == again.content_hash()
    assert saved.header.steps == SMALL["steps"]


def test_finished_set_without_a_checkpoint_is_not_replaced_by_resume(
    tmp_path: Path,
) -> None:
    dd_plugins.distill(toy_data(), SPEC, out=tmp_path, **SMALL)
    (tmp_path / "checkpoint.pt").unlink()
    before = (tmp_path / "distilled.safetensors").read_bytes()
    with pytest.raises(
        OptionError, match=r"needs a checkpoint, but .* holds only a finished set"
    ):
        dd_plugins.distill(
            toy_data(), SPEC, out=tmp_path, resume=True, **(SMALL | {"seed": 7})
        )
    assert (tmp_path / "distilled.safetensors").read_bytes() == before


def test_run_with_another_mirror_is_not_resumed(tmp_path: Path) -> None:
    data = replace(toy_data(), mirror=True)
    dd_plugins.distill(data, SPEC, out=tmp_path, **SMALL)
    with pytest.raises(OptionError, match="mirror was True, is False"):
        dd_plugins.distill(toy_data(), SPEC, out=tmp_path, resume=True, **SMALL)


def test_folder_of_a_run_that_goes_on_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dd_plugins.runtime.files._PATIENCE", 0.2)

    class Second:
        """An observer that starts the run a second time."""

        @hookimpl
        def dd_after_step(self, step: int) -> None:
            if step == 2:
                with pytest.raises(FileError, match="another process is at work in"):
                    dd_plugins.distill(
                        toy_data(), SPEC, out=tmp_path, overwrite=True, **SMALL
                    )

    plugins = Plugins(load=[], extra={"second": Second()})
    dd_plugins.distill(toy_data(), SPEC, out=tmp_path, plugins=plugins, **SMALL)
    assert (tmp_path / "distilled.safetensors").exists()
    dd_plugins.distill(toy_data(), SPEC, out=tmp_path, overwrite=True, **SMALL)


def test_noise_needs_no_real_image_for_each_of_its_own() -> None:
    images = torch.rand(12, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    data = toy_data_of(images, torch.arange(12) % 3)
    options = SMALL | {"images_per_class": 6, "initial_images": "noise"}
    distilled = dd_plugins.distill(data, SPEC, **options)
    assert distilled.header.initial_classes == [0] * 6 + [1] * 6 + [2] * 6
    assert distilled.header.initial_indices is None


def test_images_of_two_channels_are_pictured(tmp_path: Path) -> None:
    images = torch.rand(12, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    data = toy_data_of(images, torch.arange(12) % 3)
    dd_plugins.distill(data, SPEC, out=tmp_path, **SMALL)
    assert (tmp_path / "images.png").stat().st_size > 0


def test_distilling_neither_reads_the_test_set_nor_changes_the_data() -> None:
    data = toy_data()

    def read_test() -> Any:
        raise AssertionError("the test set was read")

    object.__setattr__(data, "read_test", read_test)
    before = data.train.images.clone()
    dd_plugins.distill(data, SPEC, **SMALL)
    assert torch.equal(before, data.train.images)


def test_any_number_of_images_per_class() -> None:
    for count in (2, 3, 7):
        distilled = dd_plugins.distill(
            toy_data(), SPEC, images_per_class=count, **(SMALL | {"steps": 1})
        )
        assert distilled.images.shape == (2 * count, 1, 8, 8)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_loss_falls_in_either_precision(precision: Any) -> None:
    losses: list[float] = []

    class Recorder:
        @hookimpl
        def dd_after_step(self, metrics: Mapping[str, float]) -> None:
            losses.append(metrics["loss"])

    plugins = Plugins(load=[], extra={"recorder": Recorder()})
    options = SMALL | {"steps": 40, "precision": precision}
    spec = "frepo(pool_size=2, real_batch_size=200)"
    dd_plugins.distill("digits", spec, plugins=plugins, **options)
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


@pytest.mark.parametrize(
    ("dataset", "side", "kind"),
    [
        ("fashion-mnist", 28, "standardize"),
        ("cifar10", 16, "zca"),  # at 32 pixels, whitening takes a minute
    ],
)
def test_real_data_set_is_distilled(dataset: str, side: int, kind: str) -> None:
    root = data_root(dataset)
    options = SMALL | {"network": "conv(width=2)", "steps": 2, "image_size": side}
    distilled = dd_plugins.distill(
        dataset, "frepo(pool_size=2, real_batch_size=64)", data_root=root, **options
    )
    assert distilled.header.value_space == kind
    # The first images are still close to the real ones they began as.
    data = dd_plugins.get_dataset(dataset, data_root=root, image_size=side)
    indices = torch.tensor(distilled.header.initial_indices)
    places = torch.searchsorted(data.train_indices, indices)
    began = data.train.images[places].float() / 255
    assert float((distilled.pixels() - began).abs().mean()) < 0.02


CONTEXT_OPTIONS: dict[str, Any] = {**SMALL, "steps": 6, "images_per_class": 2}


def _three_classes() -> dd_plugins.RealData:
    generator = torch.Generator().manual_seed(3)
    images = torch.rand(90, 1, 8, 8, generator=generator)
    return dd_plugins.RealData.from_tensors(
        images, torch.arange(90) % 3, preprocessing="standardize"
    )


def _context(data: dd_plugins.RealData, classes: list[int]) -> DistilledSet:
    """A set of some of the classes, in the value space of all."""
    whole = dd_plugins.distill(data, SPEC, **CONTEXT_OPTIONS)
    kept = [
        place
        for place, label in enumerate(whole.header.initial_classes)
        if label in classes
    ]
    header = whole.header
    assert header.initial_indices is not None
    header = header.model_copy(
        update={
            "initial_classes": [header.initial_classes[place] for place in kept],
            "initial_indices": [header.initial_indices[place] for place in kept],
        }
    )
    return replace(
        whole, images=whole.images[kept], labels=whole.labels[kept], header=header
    )


def test_images_of_a_context_count_when_options_are_settled() -> None:
    options = {"network": "conv(width=4, depth=2)", "plugins": Plugins(load=[])}
    first = dd_plugins.distill(
        "digits", "frepo", images_per_class=6, steps=1, **options
    )
    further = dd_plugins.distill(
        "digits", "frepo", steps=1, context=first, refine_context=True, **options
    )
    alone = dd_plugins.distill("digits", "frepo", steps=1, **options)
    copies = [
        made.header.options["augmented_copies"] for made in (first, further, alone)
    ]
    assert copies == ["3", "3", "7"]


def test_context_of_all_classes_is_refined_alone() -> None:
    """Sizes may differ: new images are asked for of no class."""
    options = {"images_per_class": (1, 2), "steps": 1, "network": "mlp(width=4)"}
    data = toy_data(validation=0)
    first = dd_plugins.distill(data, "dm", **options)
    again = dd_plugins.distill(
        data, "dm", context=first, refine_context=True, **options
    )
    assert again.header.initial_classes == [0, 1, 1]
    assert not torch.equal(again.images, first.images)


@pytest.mark.parametrize(
    "distiller",
    [
        *("dm", "dsa", "frepo(pool_size=2)", "rotated(dsa)"),
        "kmeans(training_steps=2)",
        "metadd(dm, networks=(vgg11(width=4), alexnet(width=8)), stages=(2,))",
    ],
)
def test_classes_without_images_get_none(distiller: str) -> None:
    """In the middle, and at the end."""
    toy = toy_data(validation=0)
    data = dd_plugins.RealData.from_values(
        toy.train.images[:], 2 * toy.train.labels, class_names=list("abcd")
    )
    made = dd_plugins.distill(
        data,
        distiller,
        images_per_class=[2, 1, 1, 1],
        steps=None if distiller.startswith("kmeans") else 1,
        network="conv(width=4, depth=2, normalization='batch')",
    )
    assert made.header.initial_classes == [0, 0, 2]
    assert made.labels.shape == (3, 4)


@pytest.mark.parametrize("refined", [False, True])
def test_set_is_made_beside_another(refined: bool) -> None:
    data = _three_classes()
    context = _context(data, [0, 2])
    made = dd_plugins.distill(
        data, SPEC, context=context, refine_context=refined, **CONTEXT_OPTIONS
    )
    assert made.header.initial_classes == [0, 0, 2, 2, 1, 1]
    began = made.header.initial_indices
    assert began is not None
    assert began[:4] == context.header.initial_indices
    labels = data.train.labels[
        torch.searchsorted(data.train_indices, torch.tensor(began))
    ]
    assert labels.tolist() == made.header.initial_classes
    told = made.header.context
    assert told is not None
    assert told.refined is refined
    assert told.header.content_hash == context.content_hash()
    assert told.header.seed == context.header.seed
    assert torch.equal(made.images[:4], context.images) is not refined
    assert torch.equal(made.labels[:4], context.labels) is not refined
    # The new images depend on the context: the distiller sees both together.
    other = replace(context, images=context.images.flip(-1))
    beside = dd_plugins.distill(
        data, SPEC, context=other, refine_context=refined, **CONTEXT_OPTIONS
    )
    assert not torch.equal(beside.images[4:], made.images[4:])


def test_run_beside_a_context_goes_on_exactly(tmp_path: Path) -> None:
    data = _three_classes()
    options: dict[str, Any] = {**CONTEXT_OPTIONS, "checkpoint_seconds": 0}
    for refined in (False, True):
        options |= {"context": _context(data, [1]), "refine_context": refined}
        whole = dd_plugins.distill(data, SPEC, **options)
        stop = Plugins(load=[], extra={"stop": Stop(3)})
        out = tmp_path / str(refined)
        with pytest.raises(KeyboardInterrupt):
            dd_plugins.distill(data, SPEC, out=out, plugins=stop, **options)
        resumed = dd_plugins.distill(data, SPEC, out=out, resume=True, **options)
        assert torch.equal(resumed.images, whole.images)
        assert torch.equal(resumed.labels, whole.labels)
        options["context"] = _context(data, [2])
        with pytest.raises(OptionError, match="context was"):
            dd_plugins.distill(data, SPEC, out=out, resume=True, **options)


class Stop:
    """An observer that stops the run after some steps."""

    def __init__(self, after: int) -> None:
        self.after = after

    @hookimpl
    def dd_after_step(self, step: int) -> None:
        if step == self.after:
            raise KeyboardInterrupt


def test_context_that_does_not_fit_is_refused() -> None:
    data = _three_classes()
    context = _context(data, [0])

    def made(context: DistilledSet | None, spec: str = SPEC, **options: Any) -> None:
        dd_plugins.distill(data, spec, context=context, **CONTEXT_OPTIONS, **options)

    with pytest.raises(OptionError, match="must be a DistilledSet, got str; load"):
        made("runs/first")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="refine_context needs a context"):
        made(None, refine_context=True)
    with pytest.raises(OptionError, match="labels of kind classes, got regression"):
        made(context, "dm(real_batch_size=8)")
    moved = replace(context.transform, mean=context.transform.mean + 1)
    with pytest.raises(OptionError, match="expected value space"):
        made(replace(context, transform=moved))
    with pytest.raises(OptionError, match="expected image shape"):
        made(replace(context, images=context.images[..., :4]))
    named = context.header.model_copy(update={"class_names": ["a", "b", "c"]})
    with pytest.raises(OptionError, match="expected classes"):
        made(replace(context, header=named))
    full = _context(data, [0, 1, 2])
    with pytest.raises(
        OptionError, match="must leave out at least one class, got images of all"
    ):
        made(full)
    with pytest.raises(
        OptionError, match="of which the context holds no images, got 'noise'"
    ):
        made(full, refine_context=True, initial_images="noise")


@pytest.mark.parametrize(
    ("first", "second"),
    [(SPEC, "dm(real_batch_size=8)"), ("dm(real_batch_size=8)", SPEC)],
)
def test_a_method_refines_the_set_of_another(first: str, second: str) -> None:
    data = _three_classes()
    held = dd_plugins.distill(data, first, **CONTEXT_OPTIONS)
    options: dict[str, Any] = CONTEXT_OPTIONS | {"context": held}
    refined = dd_plugins.distill(data, second, refine_context=True, **options)
    alone = dd_plugins.distill(data, second, **CONTEXT_OPTIONS)
    assert refined.header.label_kind == alone.header.label_kind
    assert refined.header.label_kind != held.header.label_kind
    assert refined.header.initial_classes == held.header.initial_classes
    assert not torch.equal(refined.images, alone.images), "it starts from the other set"
    told = refined.header.context
    assert told is not None
    assert told.header.label_kind == held.header.label_kind
    classes = torch.tensor(held.header.initial_classes)
    assert torch.equal(refined.labels.argmax(1), classes)


def test_converted_labels_are_as_large_as_the_method_s_own() -> None:
    data = _three_classes()
    whole = dd_plugins.distill(data, "dm(real_batch_size=8)", **CONTEXT_OPTIONS)
    kept = [n for n, label in enumerate(whole.header.initial_classes) if label != 1]
    classes = [whole.header.initial_classes[n] for n in kept]
    header = whole.header.model_copy(update={"initial_classes": classes})
    held = replace(
        whole, images=whole.images[kept], labels=whole.labels[kept], header=header
    )
    made = dd_plugins.distill(
        data, SPEC, context=held, refine_context=True, **CONTEXT_OPTIONS
    )
    spread = made.labels.amax(dim=1) - made.labels.amin(dim=1)
    assert len(spread) == 6
    # FRePo multiplies the labels of three classes by 1.8.
    torch.testing.assert_close(spread, torch.full((6,), 1.826), atol=0.3, rtol=0)


@pytest.mark.parametrize("initial_images", ["real", "noise", "random"])
def test_refined_set_tells_what_it_was(initial_images: str, tmp_path: Path) -> None:
    data = _three_classes()
    first = dd_plugins.distill(
        data, SPEC, initial_images=initial_images, **CONTEXT_OPTIONS
    )
    options = CONTEXT_OPTIONS | {"out": tmp_path}
    dd_plugins.distill(data, SPEC, context=first, refine_context=True, **options)
    header = DistilledSet.load(tmp_path).header
    assert header.context is not None
    told = header.context.header
    assert (told.initial_images, told.steps) == (
        str(get_initial_images(initial_images)),
        6,
    )
    assert header.initial_images is None, "the context brought all"
    assert header.initial_indices == told.initial_indices
    assert (told.initial_indices is None) is (initial_images == "noise")
    other = replace(
        first,
        header=first.header.model_copy(
            update={
                "dataset": told.dataset.model_copy(update={"fingerprint": "another"})
            }
        ),
    )
    moved = dd_plugins.distill(
        data, SPEC, context=other, refine_context=True, **CONTEXT_OPTIONS
    )
    assert moved.header.initial_indices is None


def test_data_may_bring_their_own_map_to_the_value_space() -> None:
    data = _three_classes()
    given = Transform(torch.tensor([0.25]), torch.tensor([0.5]))
    distilled = dd_plugins.distill(data.with_transform(given), SPEC, **SMALL)
    assert distilled.transform is given
    fitted = dd_plugins.distill(data, SPEC, **SMALL)
    assert not torch.equal(fitted.images, distilled.images)
    again = data.with_transform(given).with_preprocessing("standardize")
    assert torch.equal(dd_plugins.distill(again, SPEC, **SMALL).images, fitted.images)


def test_nothing_may_be_held_out_for_validation() -> None:
    images, labels = torch.rand(20, 1, 8, 8), torch.arange(20) % 2
    data = dd_plugins.RealData.from_tensors(images, labels, validation=0.0)
    assert (len(data.train.labels), len(data.validation.labels)) == (20, 0)
    half = dd_plugins.RealData.from_tensors(images, labels, validation=0.5)
    assert len(half.validation.labels) == 10
    with pytest.raises(OptionError, match="validation must be in"):
        dd_plugins.RealData.from_tensors(images, labels, validation=1.0)


def test_set_may_begin_as_a_core_set() -> None:
    data = _three_classes()
    spec = "herding(training_steps=0)"
    chosen = dd_plugins.distill(data, spec, images_per_class=2, network="mlp(width=4)")
    begun = dd_plugins.distill(data, SPEC, initial_images=spec, **CONTEXT_OPTIONS)
    assert begun.header.initial_indices == chosen.header.initial_indices
    assert begun.header.distiller.startswith("frepo(")
    plain = dd_plugins.distill(data, SPEC, **CONTEXT_OPTIONS)
    assert plain.header.initial_indices != begun.header.initial_indices
    for wrong in ("dm", "nois", "frepo(pool_size=2)"):
        with pytest.raises(OptionError, match="or a core set such as herding"):
            dd_plugins.distill(data, SPEC, initial_images=wrong, **CONTEXT_OPTIONS)


def test_kernels_are_exact_in_a_run_and_the_switches_are_put_back(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    seen = []

    def switches():
        cudnn = torch.backends.cudnn
        return cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32

    class Look:
        @dd_plugins.hookimpl
        def dd_after_step(self):
            seen.append(switches())

    before = switches()
    plugins = Plugins(load=[], extra={"look": Look()})
    dd_plugins.distill(toy_data(), SPEC, plugins=plugins, **SMALL)

    assert before == (False, True, True)
    assert seen == [(True, False, False)] * 4
    assert switches() == before


def test_precision_by_the_newer_switches_of_torch_is_kept():
    conv = torch.backends.cudnn.conv
    before = conv.fp32_precision
    conv.fp32_precision = "ieee"
    try:
        dd_plugins.distill(toy_data(), SPEC, **SMALL)
        assert conv.fp32_precision == "ieee"
    finally:
        conv.fp32_precision = before


@pytest.mark.parametrize(
    ("error", "asked"),
    [
        (MemoryError(), "out of memory;"),
        (
            RuntimeError(
                "[enforce fail at alloc_cpu.cpp:127] data. DefaultCPUAllocator: can't "
                "allocate memory: you tried to allocate 14400000000 bytes. Error code"
            ),
            "(14.4 GB more asked for)",
        ),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
            "(20.00 MiB more asked for)",
        ),
        (
            MemoryError("Unable to allocate 8.94 GiB for an array with shape (9,)"),
            "(8.94 GiB more asked for)",
        ),
        (OSError(12, "Cannot allocate memory"), "out of memory;"),
    ],
)
def test_the_command_line_says_what_to_do_without_memory(
    error: Exception,
    asked: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*given: Any, **options: Any) -> None:
        raise error

    monkeypatch.setattr("dd_plugins.engine.distillation.distill", fail)
    with pytest.raises(SystemExit) as ended:
        main(["distill", "--steps", "1"])
    assert ended.value.code == 1
    told = capsys.readouterr().err
    assert len(told.splitlines()) == 1
    assert asked in told
    assert "smaller" in told
    assert "--resume" in told


@pytest.mark.parametrize("spec", ["dm", "dsa", "rotated(dm)"])
def test_a_set_that_leaves_every_range_is_no_result(spec: str) -> None:
    wild = spec.replace("dm", "dm(learning_rate=1e30)")
    wild = wild.replace("dsa", "dsa(learning_rate=1e30)")
    with pytest.raises(RunError, match=r"has grown to .*lower the learning rate"):
        dd_plugins.distill(toy_data(), wild, **SMALL)


def test_a_rate_beyond_float32_is_told_at_its_step() -> None:
    for spec in (
        "dm(learning_rate=1e300)",
        "dsa(learning_rate=1e300)",
        "clip(dm(learning_rate=1e300))",
    ):
        with pytest.raises(RunError, match=r"overflow; lower the learning rate"):
            dd_plugins.distill(toy_data(), spec, **SMALL)


def test_a_lost_process_is_no_matter_of_the_learning_rate(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def lost(*given: Any) -> None:
        raise LostProcessError("another process of this run died")

    monkeypatch.setattr(DM, "accumulate", lost)
    with pytest.raises(RunError, match="another process of this run died") as failed:
        dd_plugins.distill(toy_data(), "dm", **SMALL)
    assert "learning rate" not in str(failed.value)


class Pairs(Dataset[tuple[Tensor, int]]):
    """Images that are read by workers, one of which may be killed."""

    def __init__(self, kill: bool) -> None:
        self.kill, self.main = kill, os.getpid()

    def __len__(self) -> int:
        return 100

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if self.kill and os.getpid() != self.main and index % 10 == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        generator = torch.Generator().manual_seed(index)
        return torch.rand(1, 8, 8, generator=generator), index % 2


def _streamed(pairs: Pairs) -> dd_plugins.RealData:
    return dd_plugins.RealData.from_dataset(
        pairs, stream=True, workers=1, preprocessing="standardize"
    )


STREAMED: dict[str, Any] = {
    "distiller": "frepo(pool_size=1, real_batch_size=50)",
    "network": "conv(width=2)",
    "steps": 2,
}


def test_workers_end_with_their_run() -> None:
    before = multiprocessing.active_children()  # of other tests, not yet collected
    dd_plugins.distill(_streamed(Pairs(kill=False)), **STREAMED)
    assert set(multiprocessing.active_children()) <= set(before)


def test_a_killed_worker_is_told_with_advice() -> None:
    pairs = Pairs(kill=False)
    data = _streamed(pairs)
    pairs.kill = True
    with pytest.raises(RunError, match=r"ended from outside.*fewer workers, at step"):
        dd_plugins.distill(data, **STREAMED)
