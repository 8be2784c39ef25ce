"""Experiment tracking: observers requested for a run by a spec."""
