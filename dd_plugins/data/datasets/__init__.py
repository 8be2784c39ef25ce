"""Readers of the library's own named data sets, a file for each."""
