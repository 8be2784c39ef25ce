"""Training under differential privacy: training needs Opacus, importing does not."""

from typing import TYPE_CHECKING

from dd_plugins.api import lazy_names

if TYPE_CHECKING:
    from dd_privacy.private.accounting import Budget, noise_multiplier_for, spent
    from dd_privacy.private.model import PrivateModel
    from dd_privacy.private.obstacles import privacy_obstacles
    from dd_privacy.private.trainer import PrivateTrainer
else:
    __getattr__ = lazy_names(__name__)

__all__ = [
    "Budget",
    "PrivateModel",
    "PrivateTrainer",
    "noise_multiplier_for",
    "privacy_obstacles",
    "spent",
]
