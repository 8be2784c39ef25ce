"""The old import path of membership games; 0.3 removes it."""

from dd_privacy.audit.drawing import (
    membership_for_artifact as game_for_artifact,
)
from dd_privacy.audit.drawing import (
    membership_for_mechanism as game_for_mechanism,
)
from dd_privacy.audit.membership import Membership as Game

__all__ = ["Game", "game_for_artifact", "game_for_mechanism"]
