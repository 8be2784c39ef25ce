"""The data of a stream: its orders of classes and its space."""

import pytest
import torch
from torch import Tensor

import dd_plugins
from dd_avalanche.comparison.continual import continual
from dd_avalanche.comparison.experiment import Experiment
from dd_avalanche.comparison.streams import ClassStream, DomainStream, stream_for


def test_orders_are_those_that_the_papers_publish() -> None:
    data = dd_plugins.get_dataset("digits")
    experiment = Experiment(benchmark="split-digits")
    stream = ClassStream(experiment, data, data.read_test(), seed=1)
    # numpy.random.RandomState(1).permutation(10)
    assert stream.order == [[2, 9], [6, 4], [0, 3], [1, 7], [8, 5]]
    images, labels = stream.train(0)
    assert set(labels.tolist()) == {2, 9}
    # The space is that of the first experience: later classes were not looked at.
    assert float(images.mean()) == pytest.approx(0, abs=1e-4)
    later, _ = stream.train(1)
    assert abs(float(later.mean())) > 1e-3


def test_images_may_be_whitened_by_the_first_experience() -> None:
    data = dd_plugins.get_dataset("digits")
    curves = []
    for whitening in ("none", "first"):
        experiment = Experiment(
            "split-digits",
            memory=50,
            training_steps=60,
            network="mlp(width=64)",
            whitening=whitening,  # type: ignore[arg-type]
        )
        rows = continual(experiment, ["random"], data=data)
        curves.append(rows[0].streams[0].curve)
    assert curves[0] != curves[1]
    assert all(curve[-1] is not None and curve[-1] > 0.2 for curve in curves)


def class_stream(seed: int = 0) -> ClassStream:
    data = dd_plugins.get_dataset("digits")
    experiment = Experiment(
        "split-digits", training_steps=2, network="conv(width=4, depth=2)"
    )
    return ClassStream(experiment, data, data.read_test(), seed=seed)


def test_experiences_part_the_data() -> None:
    stream = class_stream()
    labels = [stream.train(part)[1] for part in range(5)]
    for found, classes in zip(labels, stream.order, strict=True):
        assert set(found.tolist()) == set(classes)
    assert sum(map(len, labels)) == len(stream.data.train.labels)
    tests = [stream.scored_pixels(part) for part in range(5)]
    for test, classes in zip(tests, stream.order, strict=True):
        assert set(test.labels.tolist()) == set(classes)
    assert sum(len(test.labels) for test in tests) == len(stream.scored.labels)


def test_networks_are_a_function_of_seed_purpose_and_step() -> None:
    def weights(stream: ClassStream, purpose: str, step: int) -> list[float]:
        network = stream.fresh_network(purpose, step)
        return [float(each.detach().norm()) for each in network.parameters()]

    stream, other = class_stream(), class_stream(seed=1)
    first = weights(stream, "network", 0)
    assert weights(class_stream(), "network", 0) == first
    assert weights(stream, "network", 1) != first
    assert weights(stream, "another", 0) != first
    assert weights(other, "network", 0) != first


def test_scores_are_the_accuracy_on_each_experience() -> None:
    stream = class_stream()
    chosen = stream.order[1][0]

    def always(images: Tensor) -> Tensor:
        logits = torch.zeros(len(images), 10)
        logits[:, chosen] = 1
        return logits

    scores = stream.score(always, 3)
    share = (stream.scored_pixels(1).labels == chosen).float().mean()
    assert scores == pytest.approx([0, float(share), 0])
    assert len(stream.joint) == 5
    assert stream.joint is stream.joint, "trained once"


def test_scored_images_are_kept_as_pixels_and_mapped_when_scored() -> None:
    pixels = torch.arange(40 * 64).remainder(251).to(torch.uint8).view(40, 1, 8, 8)
    labels = torch.arange(40) % 10
    data = dd_plugins.RealData.from_tensors(
        pixels, labels, test=(pixels.flip(0), labels.flip(0))
    )
    stream = ClassStream(Experiment("split-digits"), data, data.read_test(), seed=0)
    assert stream.scored_pixels(0).images.dtype == torch.uint8
    seen: list[Tensor] = []

    def watched(images: Tensor) -> Tensor:
        seen.append(images)
        return torch.zeros(len(images), 10)

    stream.score(watched, 1)
    whole = stream.transform(stream.scored_pixels(0).images[:])
    assert torch.equal(torch.cat(seen), whole)


def domain_stream(benchmark: str, seed: int = 0, experiences: int = 3) -> DomainStream:
    data = dd_plugins.get_dataset("digits")
    experiment = Experiment(benchmark, experiences=experiences, training_steps=2)
    made = stream_for(experiment, data, data.read_test(), seed)
    assert isinstance(made, DomainStream)
    return made


@pytest.mark.parametrize("benchmark", ["permuted-digits", "rotated-digits"])
def test_domains_part_the_images_and_share_the_classes(benchmark: str) -> None:
    stream = domain_stream(benchmark)
    labels = [stream.train(part)[1] for part in range(3)]
    assert sum(map(len, labels)) == len(stream.data.train.labels)
    assert all(set(found.tolist()) == set(range(10)) for found in labels)
    tests = [stream.scored_pixels(part) for part in range(3)]
    assert {len(test.labels) for test in tests} == {len(stream.scored.labels)}
    first, second = (stream.scored_pixels(part).images for part in (1, 2))
    assert not torch.equal(first, second)
    again = domain_stream(benchmark)
    assert torch.equal(again.scored_pixels(2).images, second)
    other = domain_stream(benchmark, seed=1)
    assert not torch.equal(other.scored_pixels(2).images, second)
    held = set(vars(stream))
    stream.score(lambda images: torch.zeros(len(images), 10), 3)
    assert set(vars(stream)) == held, "no copy of all scored images for each part"
    assert len(stream.everything().labels) == len(stream.data.train.labels)


def test_permuted_pixels_are_the_same_pixels_elsewhere() -> None:
    stream = domain_stream("permuted-digits")
    original, permuted = stream.scored.images[:], stream.scored_pixels(1).images
    assert torch.equal(stream.scored_pixels(0).images, original)
    same = [each.flatten(1).sort().values for each in (original, permuted)]
    assert torch.equal(*same)
    # One order for the experience: a pixel has one place in all images.
    moved = original.flatten(1)[:5].float() - permuted.flatten(1)[:5].float()
    assert moved.abs().sum() > 0
    train = stream.pixels(1).images
    assert torch.equal(
        train.flatten(1).float().var(dim=0).sort().values > 0,
        stream.data.train.images[stream._parts[1]]
        .flatten(1)
        .float()
        .var(dim=0)
        .sort()
        .values
        > 0,
    )


def test_rotated_images_are_turned_by_equal_steps() -> None:
    stream = domain_stream("rotated-digits", experiences=2)
    part = stream._angles.index(90.0)
    turned = stream.scored_pixels(part).images
    assert torch.equal(turned, stream.scored.images[:].rot90(1, (2, 3)))
    assert torch.equal(stream.scored_pixels(1 - part).images, stream.scored.images[:])


def test_a_known_task_leaves_its_classes_alone_to_choose_from() -> None:
    data = dd_plugins.get_dataset("digits")
    stream = stream_for(Experiment("task-split-digits"), data, data.read_test(), seed=0)
    assert isinstance(stream, ClassStream)
    chosen, wrong = stream.order[1][0], stream.order[0][0]

    def mostly_wrong(images: Tensor) -> Tensor:
        logits = torch.zeros(len(images), 10)
        logits[:, wrong], logits[:, chosen] = 2, 1
        return logits

    share = (stream.scored_pixels(1).labels == chosen).float().mean()
    assert stream.score(mostly_wrong, 2)[1] == pytest.approx(float(share))
    plain = stream_for(Experiment("split-digits"), data, data.read_test(), seed=0)
    assert plain.score(mostly_wrong, 2)[1] == 0


@pytest.mark.parametrize(
    "benchmark", ["permuted-digits", "rotated-digits", "task-split-digits"]
)
def test_memories_are_compared_on_every_scenario(benchmark: str) -> None:
    data = dd_plugins.get_dataset("digits")
    experiment = Experiment(
        benchmark,
        experiences=2,
        memory=20,
        steps=2,
        training_steps=30,
        network="conv(width=4, depth=2)",
    )
    rows = continual(
        experiment,
        ["dm(real_batch_size=8)", "random"],
        protocols=["scratch", "replay"],
        stores=["uint8"],
        data=data,
    )
    policies = {row.streams[0].policy for row in rows}
    assert policies == {"dm(real_batch_size=8)", "random", "naive", "joint"}
    for row in rows:
        assert row.streams[0].curve[-1] is not None
        if row.streams[0].policy == "random" and not row.equal_bytes:
            assert row.streams[0].memory_images == 20
