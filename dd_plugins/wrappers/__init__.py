"""Wrappers: distillers around another distiller."""
