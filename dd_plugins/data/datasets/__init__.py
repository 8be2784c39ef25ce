"""The library's own named data sets, a reader per file."""
