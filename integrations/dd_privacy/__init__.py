"""Private training and audits beside dataset distillation, with Opacus.

Importing this package needs no Opacus; using it does, and says so.
"""

from dd_privacy.validation import privacy_obstacles

__all__ = ["privacy_obstacles"]
