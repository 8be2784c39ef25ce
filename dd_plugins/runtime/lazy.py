"""Names of a package, imported at their first use."""

import ast
import sys
from collections.abc import Callable
from importlib import import_module

__all__ = ["lazy_names"]


def lazy_names(module: str) -> Callable[[str], object]:
    """Return the ``__getattr__`` of a module whose imports wait for their first use.

    The module writes its imports under ``if TYPE_CHECKING:``. Type checkers and the
    import contract read them there, and so does this function. So listing the commands
    of the command line does not import torch.

    Args:
        module: ``__name__`` of the module.

    Example:
        A package begins with::

            if TYPE_CHECKING:
                from package.heavy import Network
            else:
                __getattr__ = lazy_names(__name__)
    """
    spec = sys.modules[module].__spec__
    source = spec.loader.get_source(module)  # type: ignore[union-attr]
    homes = {
        alias.asname or alias.name: (statement.module, alias.name)
        for block in ast.parse(source).body
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for statement in block.body
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    }

    held = vars(sys.modules[module])
    # For completion in a console: names are there before their first use.
    held["__dir__"] = lambda: sorted({*held, *homes})

    def look_up(name: str) -> object:
        if name not in homes:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        home, original = homes[name]
        found = getattr(import_module(str(home)), original)
        setattr(sys.modules[module], name, found)
        return found

    return look_up
