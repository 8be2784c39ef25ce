"""Training what a run needs, and the command for it; runs show the rest."""

import shlex

import pytest

from dd_plugins.training.obtaining import training_command


@pytest.mark.parametrize(
    ("mirror", "last"),
    [(None, []), (True, ["--mirror"]), (False, ["--no-mirror"])],
)
def test_a_command_is_read_back_by_a_shell(
    mirror: bool | None, last: list[str]
) -> None:
    options = [("dataset", 'folder:my "pictures"'), ("network", "a"), ("network", "b")]
    command = training_command(
        "train-networks", [*options, ("every", 5)], mirror=mirror
    )
    assert shlex.split(command) == [
        *("dd-plugins", "train-networks", "--dataset", 'folder:my "pictures"'),
        *("--network", "a", "--network", "b", "--every", "5"),
        *last,
    ]
