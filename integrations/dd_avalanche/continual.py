"""Class-incremental streams with a memory: distilled images against real ones."""

import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cache, cached_property
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

import dd_plugins
from dd_avalanche.memory import (
    INITIAL_IMAGES,
    STEPS,
    Context,
    DistilledMemory,
    Group,
    Stored,
)
from dd_plugins.api import (
    AbstractNetwork,
    Images,
    OptionError,
    TrainingSet,
    Transform,
    Whitened,
    accuracy,
    centred_targets,
    derive,
    frepo_recipe,
    mean_interval,
    real_data_recipe,
    resolve_device,
    resolve_precision,
    train_network,
)

__all__ = [
    "BENCHMARKS",
    "Experiment",
    "Protocol",
    "Row",
    "Store",
    "StreamResult",
    "Whitening",
    "continual",
    "stream_key",
]

BENCHMARKS = {
    "split-digits": "digits",
    "split-mnist": "mnist",
    "split-fashion-mnist": "fashion-mnist",
    "split-cifar10": "cifar10",
    "split-cifar100": "cifar100",
}
"""The benchmarks, and the data sets that they split."""

Protocol = Literal["replay", "scratch"]
"""How the memory is used: in batches mixed with current data, or alone."""

Whitening = Literal["none", "first"]
"""The space of the model: standardised, or ZCA on top, fitted to the first
experience."""

Store = Literal["float32", "uint8"]
"""How learned images are stored: as they are, or rounded to 256 levels an image."""

NAIVE, JOINT = "naive", "joint"
_REPLAY_RATE = 0.05  # of plain SGD
_JOINT_STEPS = 500


@dataclass(frozen=True)
class Experiment:
    """What all streams of a comparison share.

    Attributes:
        benchmark: a name of :data:`BENCHMARKS`.
        experiences: into which the classes are divided.
        memory: images at the end of the stream; each class has an equal share from the
            start, as in the protocols of FRePo and DM.
        steps: of a distillation.
        initial_images: what learned images begin as: see :func:`dd_plugins.distill`.
        network: the architecture on which images are distilled, and that is tested
            without normalisation: a spec.
        training_steps: of a network on a memory, from scratch; None for FRePo's number.
        epochs: over each experience, with replay.
        batch_size: current images of an iteration, and as many of the memory at most,
            with replay.
        whitening: what the images are mapped to, beyond standardisation by the first
            experience's mean and deviation: later classes are never looked at.
        device: ``"auto"``, ``"cpu"``, ``"cuda"``, ...
    """

    benchmark: str = "split-fashion-mnist"
    experiences: int = 5
    memory: int = 100
    steps: int = STEPS
    initial_images: str = INITIAL_IMAGES
    network: str = "conv(width=32)"
    training_steps: int | None = None
    epochs: int = 1
    batch_size: int = 64
    whitening: Whitening = "none"
    device: str = "auto"


@dataclass(frozen=True)
class StreamResult:
    """One stream, of one order of classes.

    Attributes:
        policy: what fills the memory: a spec, ``"naive"`` or ``"joint"``.
        protocol: how the memory is used.
        context: what stored images are while others are distilled.
        store: how images are stored; ``"real"`` for those of the data set.
        seed: of the order, the distillations and the networks.
        images_per_class: that the memory was to hold.
        memory_images: stored at the end.
        memory_bytes: of these, and from scratch of labels that were learned.
        accuracies: after each experience, the accuracy on the test images of each
            experience so far; empty lists where it was not measured.
        distill_seconds: spent on distilling.
        seconds: of the stream, without filling a memory that another one has filled.
    """

    policy: str
    protocol: Protocol
    context: Context
    store: str
    seed: int
    images_per_class: int
    memory_images: int
    memory_bytes: int
    accuracies: list[list[float]]
    distill_seconds: float
    seconds: float

    @property
    def curve(self) -> list[float | None]:
        """The accuracy over all classes seen, after each experience."""
        return [statistics.mean(row) if row else None for row in self.accuracies]

    @property
    def forgetting(self) -> float | None:
        """How much an experience but the last falls from its best to the end, mean.

        The best of the stages before the last: negative where the last one is better
        (Chaudhry et al. 2018, arXiv 1801.10112, section 3.3). None for a stream that
        was measured at its end alone, or of one experience.
        """
        *before, last = self.accuracies
        if not before or not all(before):
            return None
        return statistics.mean(
            max(row[index] for row in before[index:]) - last[index]
            for index in range(len(before))
        )


@dataclass(frozen=True)
class Row:
    """The streams of one policy, put together.

    Attributes:
        streams: one for each order of classes; all equal but for the seed.
        equal_bytes: whether the memory holds as many bytes as that of the first
            distilled policy, not as many images.
    """

    streams: tuple[StreamResult, ...]
    equal_bytes: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Return the row as it stands in a JSON file."""
        first = self.streams[0]
        final = [stream.curve[-1] for stream in self.streams]
        finals = [value for value in final if value is not None]
        forgotten = [stream.forgetting for stream in self.streams]
        curves = list(zip(*(stream.curve for stream in self.streams), strict=True))
        return {
            "policy": first.policy,
            "protocol": first.protocol,
            "context": first.context,
            "store": first.store,
            "equal_bytes": self.equal_bytes,
            "seeds": [stream.seed for stream in self.streams],
            "memory_images": first.memory_images,
            "memory_bytes": first.memory_bytes,
            "final_accuracy_mean": statistics.mean(finals),
            "final_accuracy_ci95": mean_interval(finals),
            "final_accuracies": finals,
            "average_incremental_accuracy_mean": _mean(
                _mean(stream.curve) for stream in self.streams
            ),
            "forgetting_mean": _mean(forgotten),
            "accuracy_per_experience": [_mean(stage) for stage in curves],
            "distill_seconds": statistics.mean(
                stream.distill_seconds for stream in self.streams
            ),
        }


def _mean(values: Any) -> float | None:
    found = list(values)
    return None if None in found or not found else statistics.mean(found)


class _Stream:
    """The data of one order of classes, in the space of the model."""

    def __init__(
        self, experiment: Experiment, data: dd_plugins.RealData, test: Images, seed: int
    ) -> None:
        self.experiment, self.data, self.test, self.seed = experiment, data, test, seed
        classes, parts = data.num_classes, experiment.experiences
        # NumPy's legacy generator: the orders that FRePo and DM publish for CIFAR-100.
        order = np.random.RandomState(seed).permutation(classes).tolist()
        size = classes // parts
        self.order = [order[part * size : (part + 1) * size] for part in range(parts)]
        first = self.members(data.train.labels, self.order[0])
        kind: Literal["zca", "standardize"] = (
            "zca" if experiment.whitening == "first" else "standardize"
        )
        self.transform = Transform.fit(data.train.images[first], kind)
        channels = data.image_shape[0]
        self.unchanged = Transform(torch.zeros(channels), torch.ones(channels))
        self.device = resolve_device(experiment.device)
        self.precision = resolve_precision("auto", self.device)

    @staticmethod
    def members(labels: Tensor, classes: Sequence[int]) -> Tensor:
        return torch.isin(labels, torch.tensor(classes)).nonzero().flatten()

    def train(self, part: int) -> tuple[Tensor, Tensor]:
        """Return the training images of an experience, and their classes."""
        places = self.members(self.data.train.labels, self.order[part])
        images = self.transform(self.data.train.images[places])
        return images, self.data.train.labels[places]

    @cached_property
    def tests(self) -> list[Images]:
        """The test images of each experience, in the space of the model."""
        places = [self.members(self.test.labels, classes) for classes in self.order]
        return [
            Images(self.transform(self.test.images[part]), self.test.labels[part])
            for part in places
        ]

    def score(self, network: Callable[[Tensor], Tensor], parts: int) -> list[float]:
        """Return the accuracy on each of the first experiences."""
        return [
            accuracy(
                network,
                test,
                self.unchanged,
                device=self.device,
                precision=self.precision,
            )
            for test in self.tests[:parts]
        ]

    def fresh_network(self, purpose: str, step: int) -> Any:
        """Build a network with fresh weights."""
        network: AbstractNetwork = dd_plugins.get_network(self.experiment.network)
        module = network.for_evaluation().build(
            self.data.image_shape,
            self.data.num_classes,
            generator=derive(self.seed, purpose, step),
        )
        # mypy does not know the overload of Module.to with a memory format.
        return module.to(device=self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def from_scratch(self, memory: DistilledMemory, parts: int) -> Any:
        """Train a fresh network on a memory alone, by FRePo's protocol."""
        images, labels = memory.images(), memory.labels(self.data.num_classes)
        if memory.label_kind != "regression":  # one loss for all policies
            labels = centred_targets(memory.hard_labels(), self.data.num_classes)
        recipe = frepo_recipe(len(images))
        if self.experiment.training_steps is not None:
            recipe = replace(recipe, steps=self.experiment.training_steps)
        return train_network(
            self.fresh_network("network", parts),
            TrainingSet(
                images.to(self.device),
                labels.to(self.device),
                "regression",
                self.data.mirror,
            ),
            recipe,
            generator=derive(self.seed, "training", parts),
            precision=self.precision,
        )

    @cached_property
    def joint(self) -> list[float]:
        """The accuracy on each experience of a network trained on all real images."""
        train = self.data.train
        network = train_network(
            self.fresh_network("network", -1),
            TrainingSet(
                Whitened(train.images, self.transform, self.device),
                centred_targets(train.labels, self.data.num_classes).to(self.device),
                "regression",
                self.data.mirror,
            ),
            real_data_recipe(self.experiment.training_steps or _JOINT_STEPS),
            generator=derive(self.seed, "training", -1),
            precision=self.precision,
        )
        return self.score(network, self.experiment.experiences)


def continual(
    experiment: Experiment,
    policies: Sequence[str],
    *,
    protocols: Sequence[Protocol] = ("scratch",),
    contexts: Sequence[Context] = ("none",),
    stores: Sequence[Store] = ("float32", "uint8"),
    seeds: Sequence[int] = (0,),
    data: dd_plugins.RealData,
    known: Sequence[StreamResult] = (),
    on_stream: Callable[[StreamResult], None] = lambda stream: None,
) -> list[Row]:
    """Compare what fills a memory, over streams of several orders of classes.

    Beside the policies stand bounds: training on the current data alone (``"naive"``,
    with replay), and on all real images at once (``"joint"``). Real images are stored
    as bytes, learned ones as float32 and with 256 levels an image, a row for each; of
    the real ones a row is added with as many bytes as the first row of learned ones.

    Test images are read once, and choose nothing.

    Args:
        experiment: what all streams share.
        policies: specs of distillers, core sets among them.
        protocols: ``"scratch"`` and ``"replay"``.
        contexts: what stored images are while others are distilled, for distillers.
        stores: how learned images are stored.
        seeds: a stream for each.
        data: the real data of the benchmark.
        known: streams that need not be run again.
        on_stream: called with each stream when it is done.

    Raises:
        OptionError: the classes do not divide into the experiences, the memory has no
            room for one image of each, or an option is unknown.
        MissingExtraError: replay is asked for, and Avalanche is not installed.
    """
    _check(experiment, protocols, data)
    test = data.read_test()
    done = {stream_key(asdict(stream)): stream for stream in known}
    memories = _Memories()
    rows = []

    @cache
    def stream_of(seed: int) -> _Stream:
        return _Stream(experiment, data, test, seed)

    def run(equal_bytes: bool, images_per_class: int, **about: Any) -> Row:
        streams = []
        for seed in seeds:
            wanted = {**about, "seed": seed, "images_per_class": images_per_class}
            key = stream_key(wanted)
            if key not in done:
                done[key] = _run(stream_of(seed), memories, **wanted)
                on_stream(done[key])
            streams.append(done[key])
        return Row(tuple(streams), equal_bytes)

    share = experiment.memory // data.num_classes
    for protocol in protocols:
        distilled: Row | None = None
        chosen = []
        for policy in policies:
            learns = dd_plugins.get_distiller(policy).moves_images
            if not learns:
                chosen.append(policy)
            for context in contexts if learns else ("none",):
                for store in stores if learns else ("real",):
                    row = run(
                        False,
                        share,
                        policy=policy,
                        protocol=protocol,
                        context=context,
                        store=store,
                    )
                    rows.append(row)
                    if learns and distilled is None:
                        distilled = row
        if distilled is not None:
            most = distilled.streams[0].memory_bytes
            images_per_class = most // (data.num_classes * _image_bytes(data))
            about: dict[str, Any] = {"context": "none", "store": "real"}
            rows += [
                run(True, images_per_class, policy=policy, protocol=protocol, **about)
                for policy in chosen
            ]
        bounds = (JOINT,) if protocol == "scratch" else (NAIVE, JOINT)
        for policy in bounds:
            about = {"context": "none", "store": "none"}
            rows.append(run(False, 0, policy=policy, protocol=protocol, **about))
    return rows


def stream_key(stream: dict[str, Any]) -> tuple[Any, ...]:
    """Return what tells a stream from others of an experiment."""
    names = ("policy", "protocol", "context", "store", "seed", "images_per_class")
    return tuple(stream[name] for name in names)


def _image_bytes(data: dd_plugins.RealData) -> int:
    channels, height, width = data.image_shape
    return channels * height * width


def _check(
    experiment: Experiment,
    protocols: Sequence[Protocol],
    data: dd_plugins.RealData,
) -> None:
    classes, parts = data.num_classes, experiment.experiences
    if parts < 2 or classes % parts or classes // parts < 2:
        raise OptionError(
            f"{classes} classes cannot be divided into {parts} experiences of equally "
            "many classes, two or more"
        )
    if experiment.memory < classes:
        raise OptionError(
            f"a memory of {experiment.memory} images has no room for {classes} "
            f"classes; make it {classes} or larger"
        )
    for name, values, known in (
        ("protocol", protocols, get_args(Protocol)),
        ("whitening", [experiment.whitening], get_args(Whitening)),
    ):
        unknown = [value for value in values if value not in known]
        if unknown:
            raise OptionError(f"{name} must be one of {', '.join(known)}: {unknown[0]}")
    if "replay" in protocols:
        from dd_avalanche.conversion import require_avalanche

        require_avalanche()


@dataclass
class _Filled:
    """What a memory held after each experience of a stream; and what it took."""

    memory: DistilledMemory
    groups: list[dict[Group, Stored]]

    def at(self, part: int, store: str) -> DistilledMemory:
        """Return the memory as it was after an experience, rounded if need be."""
        held = replace(self.memory)
        held.groups = dict(self.groups[part])
        return held.rounded() if store == "uint8" else held


class _Memories:
    """Memories filled along a stream: once, for all protocols and stores."""

    def __init__(self) -> None:
        self._filled: dict[tuple[Any, ...], _Filled] = {}

    def __call__(
        self, stream: _Stream, images_per_class: int, policy: str, context: Context
    ) -> _Filled:
        key = (stream.seed, images_per_class, policy, context)
        if key not in self._filled:
            self._filled[key] = self._fill(stream, images_per_class, policy, context)
        return self._filled[key]

    @staticmethod
    def _fill(
        stream: _Stream, images_per_class: int, policy: str, context: Context
    ) -> _Filled:
        experiment, classes = stream.experiment, stream.data.num_classes
        memory = DistilledMemory(
            images_per_class * classes,
            policy,
            images_per_class=images_per_class,
            num_classes=classes,
            steps=experiment.steps,
            network=experiment.network,
            initial_images=experiment.initial_images,
            context=context,
            mirror=stream.data.mirror,
            seed=stream.seed,
            device=experiment.device,
        )
        filled = _Filled(memory, [])
        for part in range(experiment.experiences):
            memory.add(*stream.train(part))
            filled.groups.append(dict(memory.groups))
        return filled


def _run(
    stream: _Stream,
    memories: _Memories,
    *,
    images_per_class: int,
    policy: str,
    protocol: Protocol,
    context: Context,
    store: str,
    seed: int,
) -> StreamResult:
    """Run one stream."""
    started = time.perf_counter()
    parts = stream.experiment.experiences
    filled = last = None
    if policy not in (NAIVE, JOINT):
        filled = memories(stream, images_per_class, policy, context)
        last = filled.at(parts - 1, store)
    if policy == JOINT:
        accuracies: list[list[float]] = [[] for _ in range(parts - 1)]
        accuracies.append(stream.joint)
    elif protocol == "replay":
        accuracies = _replay(stream, filled, store)
    else:
        assert filled is not None
        accuracies = [
            stream.score(
                stream.from_scratch(filled.at(part, store), part + 1), part + 1
            )
            for part in range(parts)
        ]
    images = 0 if last is None else len(last)
    size = images * _image_bytes(stream.data)
    if last is not None and store != "real":  # replay takes hard labels
        size = last.num_bytes if protocol == "scratch" else last.image_bytes
    return StreamResult(
        policy=policy,
        protocol=protocol,
        context=context,
        store=store,
        seed=seed,
        images_per_class=images_per_class,
        memory_images=images,
        memory_bytes=size,
        accuracies=accuracies,
        distill_seconds=0.0 if filled is None else filled.memory.seconds,
        seconds=time.perf_counter() - started,
    )


class _Experience(Dataset[tuple[Tensor, int]]):
    """Images in the space of the model, for Avalanche."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.targets = images, labels.tolist()

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], self.targets[index]


def _replay(stream: _Stream, filled: _Filled | None, store: str) -> list[list[float]]:
    """Train one network along a stream in Avalanche, with replay of a memory.

    Current data and memory are mixed in each batch by the stock ``ReplayPlugin``, with
    hard labels and cross-entropy. The memory is that which ``DistilledBuffer`` would
    fill; what was filled before is not filled again.
    """
    with _quiet():
        from avalanche.benchmarks import benchmark_from_datasets
        from avalanche.benchmarks.utils import as_classification_dataset
        from avalanche.training.plugins import EvaluationPlugin, ReplayPlugin
        from avalanche.training.supervised import Naive

        from dd_avalanche.buffer import DistilledBuffer

    class Refilled(DistilledBuffer):
        """A buffer that takes what was distilled before."""

        def post_adapt(self, agent_state: Any, exp: Any) -> None:
            assert filled is not None
            part = agent_state.clock.train_exp_counter
            self.take(filled.at(part, store))

        def update(self, strategy: Any, **kwargs: Any) -> None:
            """Do so without the warning that Avalanche 0.6 turns on for itself."""
            self.post_adapt(strategy, strategy.experience)

    experiment = stream.experiment
    benchmark = benchmark_from_datasets(
        train=[
            as_classification_dataset(_Experience(*stream.train(part)))
            for part in range(experiment.experiences)
        ]
    )
    network = stream.fresh_network("network", 0)
    plugins = []
    if filled is not None:
        most = filled.memory.size
        size = min(experiment.batch_size, most)
        buffer = Refilled(most)
        plugins = [ReplayPlugin(most, batch_size_mem=size, storage_policy=buffer)]
    accuracies = []
    with _quiet(), torch.random.fork_rng():
        torch.manual_seed(stream.seed)  # Avalanche draws batches from this generator
        strategy = Naive(
            model=network,
            optimizer=torch.optim.SGD(network.parameters(), lr=_REPLAY_RATE),
            criterion=torch.nn.CrossEntropyLoss(),
            train_mb_size=experiment.batch_size,
            train_epochs=experiment.epochs,
            device=stream.device,
            plugins=plugins,
            evaluator=EvaluationPlugin(),
        )
        for part, experience in enumerate(benchmark.train_stream):
            strategy.train(experience)
            accuracies.append(stream.score(network.eval(), part + 1))
    return accuracies


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Avalanche's own warnings from the screen: none of them is the user's."""
    with warnings.catch_warnings():
        for category in (DeprecationWarning, FutureWarning, UserWarning):
            warnings.simplefilter("ignore", category)
        yield
