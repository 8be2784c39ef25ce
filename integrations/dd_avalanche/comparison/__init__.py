"""Distilled and real images compared as the memory of a stream."""
