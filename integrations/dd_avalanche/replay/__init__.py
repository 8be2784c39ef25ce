"""Distilled replay in Avalanche: what its strategies take."""
