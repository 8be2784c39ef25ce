"""A memory is saved, restored, and refused if its file is damaged."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from memory_samples import experience, memory
from safetensors.torch import save_file

from dd_avalanche.memory import MEMORY_NAME
from dd_avalanche.memory.saved import read_state
from dd_plugins import DistilledSet
from dd_plugins.errors import FileError, OptionError
from dd_plugins.runtime.kept_tensors import load_tensors, save_tensors


def test_header_does_not_grow_with_the_experiences(tmp_path: Path) -> None:
    held = memory(12, context="fixed")
    for first in (0, 2, 4):
        held.add(*experience(first, first + 1))
    assert held.distilled_set().header.context is None, "it has no single history"
    held.save(tmp_path / "memory")
    written = b"".join(file.read_bytes() for file in tmp_path.rglob("*.safetensors"))
    assert written.count(b"refined") == 1, "the last experience's context alone"


@pytest.mark.parametrize(
    ("store", "context"),
    [("float32", "fixed"), ("uint8", "fixed"), ("packed-uint8", "none")],
)
def test_memory_that_is_restored_goes_on_bit_for_bit(
    tmp_path: Path, store: Any, context: Any
) -> None:
    options: dict[str, Any] = {"context": context, "store": store, "num_classes": 4}
    whole = memory(8, **options)
    whole.add(*experience(0, 1, count=40))
    whole.save(tmp_path)
    whole.add(*experience(2, 3, count=40))
    again = memory(8, **options)
    again.restore(tmp_path)
    assert again.groups.keys() == {(0, 0), (0, 1)}
    again.add(*experience(2, 3, count=40))
    assert torch.equal(again.images(), whole.images())
    assert torch.equal(again.labels(4), whole.labels(4))
    assert again.num_bytes == whole.num_bytes


def test_saved_memory_is_an_artifact_as_well(tmp_path: Path) -> None:
    held = memory(8)
    held.add(*experience(0, 1))
    held.add(*experience(0, 3), task=2)
    held.save(tmp_path)
    loaded = DistilledSet.load(tmp_path / "task-2.safetensors")
    assert loaded.header.class_names == ["class 0", "class 3"]
    assert loaded.header.initial_classes == [0, 0, 1, 1]
    assert loaded.header.distiller.startswith("frepo(")
    torch.testing.assert_close(loaded.images, held.images()[4:])
    pixels = loaded.pixels()
    assert (float(pixels.min()), float(pixels.max())) == (0, 1)
    with pytest.raises(OptionError, match="got task 1; known tasks: 0"):
        held.distilled_set(1)


def test_artifacts_of_tasks_that_are_gone_are_removed(tmp_path: Path) -> None:
    both, one = memory(8), memory(8)
    for held in (both, one):
        held.add(*experience(0, 1))
    both.add(*experience(0, 3), task=12)
    (tmp_path / "task-notes.safetensors").write_text("somebody's")
    both.save(tmp_path)
    assert (tmp_path / "task-12.safetensors").exists()
    one.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        MEMORY_NAME,
        "task-0.safetensors",
        "task-notes.safetensors",
    ]


def test_flipped_bit_of_a_saved_memory_is_refused(tmp_path: Path) -> None:
    held = memory(8, "random", store="uint8")
    held.add(*experience(0, 1))
    file = held.save(tmp_path)
    content = bytearray(file.read_bytes())
    fresh = memory(8, "random", store="uint8")
    for place in range(0, len(content), len(content) // 100):
        content[place] ^= 0x40
        file.write_bytes(content)
        with pytest.raises(FileError, match="remove"):
            fresh.restore(tmp_path)
        content[place] ^= 0x40
    assert len(fresh) == 0
    file.write_bytes(content)
    fresh.restore(tmp_path)
    assert torch.equal(fresh.images(), held.images())


@pytest.mark.parametrize("size", [6, 20])
def test_memory_that_was_resized_is_restored(size: int, tmp_path: Path) -> None:
    held = memory(12, "random")
    held.add(*experience(0, 1))
    held.resize(size)
    held.save(tmp_path)
    made_alike, of_that_size = memory(12, "random"), memory(size, "random")
    for again in (made_alike, of_that_size):
        again.restore(tmp_path)
        assert (again.size, len(again)) == (size, len(held))
        again.save(tmp_path / "again")
        memory(12, "random").restore(tmp_path / "again")
    with pytest.raises(OptionError, match="size was 12, is 13"):
        memory(13, "random").restore(tmp_path)


def test_damaged_or_foreign_memory_is_refused(tmp_path: Path) -> None:
    held = memory(8)
    held.add(*experience(0, 1))
    file = held.save(tmp_path)
    content = file.read_bytes()
    fresh = memory(8)
    tensors, described = load_tensors(file, what="a memory", advice="")
    with pytest.raises(FileError, match="does not exist"):
        fresh.restore(tmp_path / "nowhere")
    with pytest.raises(OptionError, match="steps was 4, is 5"):
        memory(8, steps=5).restore(tmp_path)
    with pytest.raises(OptionError, match="size was 8, is 9"):
        memory(9).restore(tmp_path)
    with pytest.raises(OptionError, match="num_classes was None, is 3"):
        memory(8, num_classes=3).restore(tmp_path)
    for damaged in (content[:100], b"", content.replace(b"columns", b"colunms")):
        file.write_bytes(damaged)
        with pytest.raises(FileError, match=r"(damaged|cannot be read).*remove .*anew"):
            fresh.restore(tmp_path)
    for version, advice in ((9, "upgrade dd-plugins"), (1, "remove")):
        state = json.loads(described["dd_avalanche"]) | {"format_version": version}
        save_tensors(file, tensors, {"dd_avalanche": json.dumps(state)})
        with pytest.raises(FileError, match=f"version 2, got {version}.*{advice}"):
            fresh.restore(tmp_path)
    save_file(tensors, file, described)  # as versions before hashes wrote it
    with pytest.raises(FileError, match="no hash; remove"):
        fresh.restore(tmp_path)
    artifact = DistilledSet.load(tmp_path / "task-0.safetensors")
    artifact.save(tmp_path / MEMORY_NAME)
    with pytest.raises(FileError, match="a memory of dd_avalanche"):
        fresh.restore(tmp_path)
    assert len(fresh) == 0


@pytest.mark.parametrize("store", ["float32", "uint8"])
def test_state_is_read_as_it_was_written(store: Any, tmp_path: Path) -> None:
    held = memory(8, "random", store=store)
    held.add(*experience(0, 1))
    held.add(*experience(2), task=3)
    held.save(tmp_path)
    state = read_state(tmp_path / MEMORY_NAME)
    assert (state.size, state.made_size, state.experiences) == (8, 8, 2)
    assert state.seconds == held.seconds
    assert list(state.groups) == list(held.groups)
    for key, stored in held.groups.items():
        found = state.groups[key]
        assert (found.seen, found.label_classes) == (stored.seen, stored.label_classes)
        for name, tensor in stored.tensors().items():
            other = found.tensors()[name]
            assert (other is None) is (tensor is None)
            assert tensor is None or torch.equal(tensor, other)  # type: ignore[arg-type]


def test_keys_of_the_file_are_those_of_older_versions(tmp_path: Path) -> None:
    held = memory(4, "random")
    held.add(*experience(0, 1))
    _, described = load_tensors(held.save(tmp_path), what="a memory", advice="")
    content = json.loads(described["dd_avalanche"])
    assert sorted(content) == [
        *("configuration", "experiences", "format_version", "groups", "header"),
        *("seconds", "size"),
    ]
    keys = ["columns", "label", "label_kind", "seen", "task"]
    assert [sorted(group) for group in content["groups"]] == [keys, keys]


def test_numbers_of_other_libraries_are_saved_as_pythons(tmp_path: Path) -> None:
    one = np.int64(1)
    given = {"images_per_class": one, "num_classes": 2 * one, "seed": one}
    held = memory(4 * one, "random", mirror=np.True_, **given)
    held.resize(5 * one)
    held.add(*experience(0, 1), task=one)
    held.save(tmp_path)
    again = memory(5, "random", images_per_class=1, num_classes=2, seed=1, mirror=True)
    again.restore(tmp_path)
    assert torch.equal(again.images(), held.images())


def test_empty_memory_is_saved_and_restored(tmp_path: Path) -> None:
    memory(8).save(tmp_path)
    again = memory(8)
    again.restore(tmp_path)
    assert len(again) == 0
    again.add(*experience(0, 1))
    assert len(again) == 8


@pytest.mark.parametrize("change", [{"size": 0}, {"size": "8"}, {"groups": [{}]}])
def test_state_that_no_memory_has_is_refused(
    change: dict[str, Any], tmp_path: Path
) -> None:
    held = memory(8, "random")
    held.add(*experience(0, 1))
    file = held.save(tmp_path)
    tensors, described = load_tensors(file, what="a memory", advice="")
    content = json.loads(described["dd_avalanche"]) | change
    save_tensors(file, tensors, {"dd_avalanche": json.dumps(content)})
    fresh = memory(8, "random")
    with pytest.raises((FileError, OptionError), match=r"size must be|a damaged one"):
        fresh.restore(tmp_path)
    assert (len(fresh), fresh.experiences) == (0, 0)
