"""The named data sets that come with the library, a reader per file."""
