"""Names of data sets, beside what test_real.py shows of malformed ones."""

import pytest

from dd_plugins.data.named import split_name
from dd_plugins.errors import OptionError


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("cifar10", ("cifar10", None)),
        ("9_a-b", ("9_a-b", None)),
        ("folder:/a b/C:d", ("folder", "/a b/C:d")),
        ("folder::", ("folder", ":")),
    ],
)
def test_a_name_ends_at_its_first_colon(
    name: str, parts: tuple[str, str | None]
) -> None:
    assert split_name(name) == parts


@pytest.mark.parametrize("name", ["-a", "_a", "a:", ".a", "ä", "a\n:b", "A:b"])
def test_a_name_of_another_form_is_shown_as_it_is(name: str) -> None:
    with pytest.raises(OptionError) as refused:
        split_name(name)
    assert repr(name) in str(refused.value)
