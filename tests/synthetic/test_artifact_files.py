"""The artifact behind a path."""

from pathlib import Path

import pytest
from made_sets import made_set

from dd_plugins.errors import FileError
from dd_plugins.synthetic.artifact import ARTIFACT_NAME
from dd_plugins.synthetic.artifact_files import artifact_file


def test_a_folder_of_runs_is_no_folder_of_images(tmp_path: Path) -> None:
    """Its runs hold pictures, too."""
    for name in ("b", "a"):
        made_set().save(tmp_path / name / ARTIFACT_NAME)
        (tmp_path / name / "grid.png").write_bytes(b"")
    assert artifact_file(tmp_path / "a") == tmp_path / "a" / ARTIFACT_NAME
    with pytest.raises(FileError, match=r"a folder of 2 runs; .* such as .*/a$"):
        artifact_file(tmp_path)
