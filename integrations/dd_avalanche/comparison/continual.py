"""A comparison of memories over streams."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cache
from typing import Any

import dd_plugins
from dd_avalanche.comparison.choices import MemoryUse
from dd_avalanche.comparison.experiment import Experiment, check_experiment
from dd_avalanche.comparison.memories import MemoryHistories
from dd_avalanche.comparison.memory_use import scores_from_scratch, scores_with_replay
from dd_avalanche.comparison.results import PolicyResult, StreamResult, stream_key
from dd_avalanche.comparison.streams import AbstractStream, check_scored, stream_for
from dd_avalanche.memory import Context, Store
from dd_avalanche.memory.stored import packing_of
from dd_plugins.api import OnProgress, OptionError

__all__ = ["continual"]

NAIVE, JOINT = "naive", "joint"


def continual(
    experiment: Experiment,
    policies: Sequence[str],
    *,
    protocols: Sequence[MemoryUse] = ("scratch",),
    contexts: Sequence[Context] = ("none",),
    stores: Sequence[Store] = ("float32", "uint8"),
    seeds: Sequence[int] = (0,),
    data: dd_plugins.RealData,
    known: Sequence[StreamResult] = (),
    on_stream: Callable[[StreamResult], None] = lambda stream: None,
    on_progress: OnProgress | None = None,
) -> list[PolicyResult]:
    """Compare policies for filling a memory, over several streams.

    Two bounds are measured beside the policies: training on the current data alone
    (``"naive"``, in replay only), and on all real images at once (``"joint"``). Real
    images are stored as bytes. Learned images are stored as float32 or with 256 levels
    an image; each store has a row of its own. Each policy of real images has a further
    row, with as many bytes as the first row of learned images.

    Test images are read once, and no choice depends on them. An experiment for choosing
    between memories is scored on validation images, and reads no test images.

    Args:
        experiment: the options of all streams.
        policies: specs of distillers, including coresets.
        protocols: ``"scratch"`` and ``"replay"``.
        contexts: how stored images take part while a distiller learns others.
        stores: how learned images are stored.
        seeds: the seeds of the streams.
        data: the real data of the benchmark.
        known: finished streams; they are not run again.
        on_stream: called with each finished stream.
        on_progress: called before each stream, with its row and order, the number of
            streams done and the number in all; and at the end.

    Raises:
        OptionError: the classes do not divide into the experiences, the memory has no
            room for one image of each class, or an option is unknown.
        DataError: no image of an experience is scored.
        MissingExtraError: replay is asked for, and Avalanche is not installed.
    """
    check_experiment(experiment, protocols, data)
    scored = data.validation if experiment.validation else data.read_test()
    check_scored(experiment, data.num_classes, scored.labels, seeds)
    done = {stream_key(asdict(stream)): stream for stream in known}
    memories = MemoryHistories()
    rows: list[PolicyResult] = []

    variants = _variants(policies, contexts, stores)
    real = sum(variant["store"] == "real" for variant in variants)
    rows_each = len(variants) + (real if real < len(variants) else 0)
    total = len(seeds) * sum(
        rows_each + len(_bounds(protocol)) for protocol in protocols
    )
    told = 0

    def tell(what: str) -> None:
        nonlocal told
        if on_progress is not None:
            on_progress(what, told, total)
        told += 1

    @cache
    def stream_of(seed: int) -> AbstractStream:
        return stream_for(experiment, data, scored, seed)

    def run(
        images_per_class: int, *, equal_bytes: bool = False, **about: Any
    ) -> PolicyResult:
        streams = []
        for seed in seeds:
            wanted = {**about, "seed": seed, "images_per_class": images_per_class}
            key = stream_key(wanted)
            tell(f"{about['policy']}, {about['protocol']}, order {seed}")
            if key not in done:
                done[key] = _run(stream_of(seed), memories, **wanted)
                on_stream(done[key])
            streams.append(done[key])
        return PolicyResult(tuple(streams), equal_bytes)

    share = experiment.memory // data.num_classes
    for protocol in protocols:
        made = [run(share, protocol=protocol, **variant) for variant in variants]
        rows += made
        not_real = [row for row in made if row.streams[0].store != "real"]
        if not_real:
            # As many real images as fit into the bytes of the first of these rows.
            most = not_real[0].streams[0].memory_bytes
            more = most // (data.num_classes * _image_bytes(data))
            rows += [
                run(more, equal_bytes=True, protocol=protocol, **variant)
                for variant in variants
                if variant["store"] == "real"
            ]
        # Training from scratch has no lower bound: without a memory nothing is trained.
        for policy in _bounds(protocol):
            bound = run(
                0, protocol=protocol, policy=policy, context="none", store="none"
            )
            rows.append(bound)
    tell("streams")
    return rows


def _bounds(protocol: MemoryUse) -> tuple[str, ...]:
    """Return the policies measured as bounds of a protocol."""
    return (JOINT,) if protocol == "scratch" else (NAIVE, JOINT)


def _variants(
    policies: Sequence[str], contexts: Sequence[Context], stores: Sequence[Store]
) -> list[dict[str, Any]]:
    """Return the policy, context and store of each row of a memory.

    Coresets move no images, so they see no context; they store real images as they are,
    or packed. Packed memories have no context either.
    """
    variants: list[dict[str, Any]] = []
    small = [store for store in stores if packing_of(store) > 1]
    for policy in policies:
        learns = dd_plugins.get_distiller(policy).moves_images
        packed = len(small) == len(stores)
        if learns and packed and "none" not in contexts:
            raise OptionError(
                "packed memories have no context: expected the context none, or "
                "another store"
            )
        for context in contexts if learns else ("none",):
            for store in stores if learns else [*small, "real"]:
                if store in small and context != "none":
                    continue
                variants.append({"policy": policy, "context": context, "store": store})
    return variants


def _run(
    stream: AbstractStream,
    memories: MemoryHistories,
    *,
    images_per_class: int,
    policy: str,
    protocol: MemoryUse,
    context: Context,
    store: str,
    seed: int,
) -> StreamResult:
    """Train and test along one stream, with the memory of a policy."""
    started = time.perf_counter()
    parts = stream.experiment.experiences
    history = last = None
    if policy not in (NAIVE, JOINT):
        history = memories(stream, images_per_class, policy, context, store)
        last = history.at(parts - 1, store)
    if policy == JOINT:
        # All classes are learned at once: nothing is measured before the end.
        accuracies: list[list[float]] = [*([] for _ in range(parts - 1)), stream.joint]
    elif protocol == "replay":
        accuracies = scores_with_replay(stream, history, store)
    else:
        assert history is not None
        accuracies = scores_from_scratch(stream, history, store)
    images = 0 if last is None else len(last)
    size = images * _image_bytes(stream.data)
    if last is not None and store != "real":
        # Replay takes hard labels, so learned ones need not be stored.
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
        distill_seconds=0.0 if history is None else history.memory.seconds,
        seconds=time.perf_counter() - started,
    )


def _image_bytes(data: dd_plugins.RealData) -> int:
    channels, height, width = data.image_shape
    return channels * height * width
