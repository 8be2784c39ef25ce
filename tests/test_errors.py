"""The messages of errors."""

import pytest

from dd_plugins.errors import DataError, described


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ValueError(" of\n two  lines\n"), "ValueError: of two lines"),
        (KeyError("seed"), "KeyError: 'seed'"),
        (AssertionError(), "AssertionError"),
        (RuntimeError("\n"), "RuntimeError"),
        (SystemExit(2), "SystemExit: 2"),
        (DataError("expected images, got none"), "expected images, got none"),
        (DataError(), "DataError"),
    ],
    ids=repr,
)
def test_an_error_is_described_in_a_line(error: BaseException, told: str) -> None:
    assert described(error) == told
