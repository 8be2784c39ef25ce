"""Outputs: nothing of the user's is replaced unless asked for."""

from pathlib import Path

import pytest

from dd_plugins.cli.outputs import OutputKind, check_outputs
from dd_plugins.errors import DDError, FileError, OptionError


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("JSON", b' \n{"a": 1}'),
        ("HTML", b"<!DOCTYPE html>"),
        ("PNG", b"\x89PNG\r\n\x1a\n"),
    ],
)
def test_an_older_output_of_its_kind_is_replaced(
    tmp_path: Path, kind: OutputKind, content: bytes
) -> None:
    path = tmp_path / "out"
    path.write_bytes(content)
    check_outputs((path, kind))
    path.write_bytes(b"mine")
    with pytest.raises(OptionError, match="--overwrite"):
        check_outputs((path, kind))
    check_outputs((path, kind), overwrite=True)


@pytest.mark.parametrize("name", ["out.svg", "out.jpg", "out.xyz"])
def test_a_picture_has_the_ending_of_its_format(tmp_path: Path, name: str) -> None:
    with pytest.raises(OptionError, match=rf"must end in \.png, got .*{name}"):
        check_outputs((tmp_path / name, "PNG"))
    check_outputs((tmp_path / "out.PNG", "PNG"))
    assert not list(tmp_path.iterdir())


def test_tensors_are_never_replaced_unasked(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"weights")
    with pytest.raises(OptionError, match="--overwrite"):
        check_outputs((path, "tensors"))
    check_outputs((path, "tensors"), overwrite=True)


def test_an_output_is_neither_an_input_nor_another_output(tmp_path: Path) -> None:
    read = tmp_path / "set.safetensors"
    read.write_bytes(b"x")
    link = tmp_path / "link"
    link.symlink_to(read)
    around = tmp_path / "folder" / ".." / "set.safetensors"
    (tmp_path / "folder").mkdir()
    for output in (read, link, around):
        with pytest.raises(OptionError, match="is read by this command"):
            check_outputs((output, "JSON"), inputs=[read], overwrite=True)
    new = tmp_path / "new"
    with pytest.raises(OptionError, match="two outputs"):
        check_outputs((new, "JSON"), (tmp_path / "folder" / ".." / "new", "HTML"))


def test_outputs_that_cannot_be_written_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("{}")
    for path in (
        file / "x.json",
        tmp_path,
        Path("/proc/x.json"),
        tmp_path / ("x" * 300),
    ):
        with pytest.raises(FileError, match="cannot write"):
            check_outputs((path, "JSON"))
    run = tmp_path / "summary.json"
    run.write_text("{}")
    with pytest.raises(DDError, match="belongs to a run"):
        check_outputs((run, "JSON"))
