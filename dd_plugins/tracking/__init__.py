"""Experiment tracking: observers that a run asks for by a spec."""
