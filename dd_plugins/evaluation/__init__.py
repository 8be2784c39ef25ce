"""Evaluation of a set: networks are trained on it, and tested on real data."""
