"""MetaDD: images that serve architectures they were not distilled with."""

from dd_plugins.wrappers.metadd.metadd import MetaDD, MetaDDState

__all__ = ["MetaDD", "MetaDDState"]
