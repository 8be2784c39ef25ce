"""MetaDD: images that serve architectures they were not distilled with."""

from dd_plugins.wrappers.metadd.auxiliaries import FrozenState, LearningState
from dd_plugins.wrappers.metadd.members import MembersState
from dd_plugins.wrappers.metadd.metadd import MetaDD

__all__ = ["FrozenState", "LearningState", "MembersState", "MetaDD"]
