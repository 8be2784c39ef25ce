"""Figures of a finished set: it is trained on, and tested on real data."""
