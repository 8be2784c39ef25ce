"""The engine: ``distill``, the one loop, and what surrounds it."""

from dd_plugins.engine.distillation import distill
from dd_plugins.engine.run_folder import RUN_FILES, SUMMARY_NAME

__all__ = ["RUN_FILES", "SUMMARY_NAME", "distill"]
