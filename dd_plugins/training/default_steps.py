"""The default training steps of networks and generators; it imports nothing."""

__all__ = ["DECODER_STEPS", "SQUEEZE_STEPS", "STAGES"]

STAGES = (300,)
"""Training steps of kept networks, by default: a network for each number."""

SQUEEZE_STEPS = 1_000
"""Training steps of a teacher, by default."""

DECODER_STEPS = 1_000
"""Training steps of a generator, by default."""
