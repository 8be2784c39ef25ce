"""Which code made something: beside what test_kept_networks.py shows of packages."""

import sys
import types
from typing import Any

import pytest

from dd_plugins import get_network, record
from dd_plugins.spec import Record
from dd_plugins.training.sources import code_of

TYPED = """
from dd_plugins import AbstractNetwork, record
from dd_plugins.networks.mlp import MLP

@record
class Own(AbstractNetwork):
    name = "own"
    hidden = {hidden}
    def construct(self, image_shape, num_classes, *, generator):
        width = {width}
        return MLP(width=width).construct(image_shape, num_classes, generator=generator)
"""


def typed(monkeypatch: pytest.MonkeyPatch, width: int, hidden: str = "2") -> Record:
    """Return a network whose class no file holds, as in a console."""
    module: Any = types.ModuleType("typed_in_a_console")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(TYPED.format(width=width, hidden=hidden), module.__dict__)
    made: Record = module.Own()
    return made


def test_code_that_no_file_holds_is_known_by_its_methods(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    digests = [code_of(typed(monkeypatch, width)) for width in (4, 5, 4)]
    assert None not in digests
    assert digests[0] == digests[2] != digests[1]


def test_code_that_no_file_holds_is_known_by_its_constants(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    two, three = (typed(monkeypatch, 4, hidden=hidden) for hidden in ("2", "3"))
    assert code_of(two) != code_of(three)


@record
class Holder(Record):
    """A record of this test file that may hold others."""

    name = "holder"
    held: Any = None


def test_records_within_records_count(monkeypatch: pytest.MonkeyPatch) -> None:
    own = typed(monkeypatch, 4)
    mine = "source of test_sources"
    assert list(code_of(Holder())) == [mine]
    assert list(code_of(Holder(held=get_network("mlp")))) == [mine]
    both = [mine, "source of typed_in_a_console.Own"]
    for held in (own, (get_network("mlp"), own), Holder(held=(Holder(held=own),))):
        assert sorted(code_of(Holder(held=held))) == both
    assert code_of(Holder(held=own)) != code_of(Holder())
    assert code_of(own, Holder()) == code_of(Holder(), own)


def test_every_class_of_a_notebook_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A base class in a cell of its own does not stand for the class."""
    both = (
        TYPED
        + """
@record
class Child(Own):
    name = "child"
    depth = {depth}
"""
    )

    def child(width: int, depth: int) -> dict[str, str]:
        module: Any = types.ModuleType("typed_in_a_console")
        monkeypatch.setitem(sys.modules, module.__name__, module)
        exec(both.format(width=width, hidden=2, depth=depth), module.__dict__)
        return code_of(module.Child())

    assert child(4, 1) == child(4, 1)
    assert child(5, 1) != child(4, 1) != child(4, 2)


def test_defaults_count_and_names_of_files_do_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A kernel that is started again names the cells of a notebook anew."""
    text = """
from dd_plugins import record
from dd_plugins.spec import Record

@record
class Own(Record):
    name = "own"
    def widths(self, *, factor={factor}, act=lambda x: x * 1j):
        return [factor if each in {{"a", "b", "c"}} else 1 for each in "abc"]
"""

    def own(factor: int, file: str) -> dict[str, str]:
        module: Any = types.ModuleType("typed_in_a_console")
        monkeypatch.setitem(sys.modules, module.__name__, module)
        exec(compile(text.format(factor=factor), file, "exec"), module.__dict__)
        return code_of(module.Own())

    assert own(2, "<cell 1>") == own(2, "<cell 2>") != own(3, "<cell 1>")


def test_functions_of_one_name_all_count(monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = types.ModuleType("typed_in_a_console")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec("made = [lambda n: n, lambda n: n + 1j, lambda n: n + 2j]", module.__dict__)
    plain, one, two = module.made
    keys = [
        code_of(Holder(held=held))
        for held in ((plain, one), (one, plain), (plain, two), (one, two), (one,))
    ]
    assert keys[0] == keys[1]
    assert len({str(sorted(key.items())) for key in keys}) == 4


def test_classes_that_a_function_of_a_notebook_names_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A class is defined anew in a cell of its own, below the same function."""
    monkeypatch.setitem(sys.modules, "__main__", types.ModuleType("__main__"))
    text = """
class Net:
    def forward(self, images):
        return images {sign} 1
make = lambda num_classes: Net(num_classes)
"""

    def made(sign: str) -> dict[str, str]:
        names: dict[str, Any] = {"__name__": "__main__"}
        exec(text.format(sign=sign), names)
        return code_of(Holder(held=names["make"]))

    assert made("+") == made("+") != made("-")
