"""The options of a memory are checked when it is made."""

from typing import Any

import pytest
from memory_samples import memory

from dd_plugins.errors import OptionError


def test_context_may_be_told_by_true_and_false() -> None:
    assert memory(context=True).context == "fixed"
    assert memory(context=False).context == "none"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "size must be a whole number from 1"),
        ({"images_per_class": 0}, "images_per_class must be"),
        ({"num_classes": 0}, "num_classes must be"),
        ({"context": "both"}, "context must be one of none, fixed, refined"),
        ({"store": "int4"}, "store must be one of"),
        ({"shrink": "merge"}, "shrink must be one of"),
        ({"whitening": "later"}, "whitening must be"),
    ],
)
def test_option_out_of_its_range_is_named(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(OptionError, match=message):
        memory(**options)
