"""Where trained networks are kept, beside what test_kept_networks.py shows."""

from pathlib import Path

import pytest

from dd_plugins.runtime.cache import cache_folder


@pytest.mark.parametrize(
    ("own", "base", "expected"),
    [
        (None, None, "home/.cache/dd-plugins"),
        ("", "", "home/.cache/dd-plugins"),
        ("", "base", "base/dd-plugins"),
        ("own", "base", "own"),
    ],
)
def test_an_empty_variable_is_none(
    own: str | None, base: str | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "home")
    for name, value in (("DD_CACHE", own), ("XDG_CACHE_HOME", base)):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    assert cache_folder() == Path(expected)
