"""Functions in plain torch; their source is copied into the scripts of exports.

Each repeats a computation of another package in a few lines; tests compare the two.
"""
