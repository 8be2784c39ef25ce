"""Sets released by others, read from the files of their code."""
