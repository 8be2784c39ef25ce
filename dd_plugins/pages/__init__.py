"""HTML pages of findings: one design, in files that need no network."""
