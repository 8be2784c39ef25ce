"""The forms of an export, by name."""

__all__ = ["FORMS"]

FORMS = ("folder", "npz", "pt", "hub")
