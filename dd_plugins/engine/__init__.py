"""The engine: ``distill``, the one loop, checkpoints and validation."""

from typing import TYPE_CHECKING

from dd_plugins.runtime.lazy import lazy_names

if TYPE_CHECKING:
    from dd_plugins.engine.distillation import distill
    from dd_plugins.engine.run_folder import RUN_FILES, SUMMARY_NAME
else:
    __getattr__ = lazy_names(__name__)

__all__ = ["RUN_FILES", "SUMMARY_NAME", "distill"]
