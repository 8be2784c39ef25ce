"""HTML pages of findings: one design, in files readable offline."""
