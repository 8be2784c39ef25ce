"""Names of data sets, beside what test_real.py shows of malformed ones."""

import pytest

import dd_plugins
from dd_plugins.data.named import split_name, usual_name
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


@pytest.mark.parametrize("name", ["Digits", "DIGITS", "dig-its", "digits"])
def test_names_may_be_written_otherwise(name: str) -> None:
    assert dd_plugins.get_dataset(name).name == "digits"


def test_a_name_like_two_others_is_left_alone() -> None:
    assert usual_name("ab", ["a-b", "a_b"]) == "ab"
    assert usual_name("a-b", ["a-b", "a_b"]) == "a-b"
    assert usual_name("CIFAR-10.1", ["cifar10", "cifar10.1"]) == "cifar10.1"
    assert usual_name("other", ["cifar10"]) == "other"
