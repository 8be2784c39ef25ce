"""Network architectures: a validated record for each family, one family per file."""
