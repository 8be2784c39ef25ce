"""Sets that others have released, read from the files of their code."""
